"""README and docs: the Python in them runs, commands and options exist, and commands run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mloss_core import MergeRecipe, load, recorded, run
from mloss_core.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Both spellings of the command line, in a code block or between backticks.
OURS = r"(?:python -m mloss_core|mloss) +(?P<rest>[^`\n]+?)"
BLOCK = re.compile(rf"^    (?:MLOSS_\w+=\S+ )?{OURS}(?: +#.*)?$", re.MULTILINE)
INLINE = re.compile(rf"`{OURS}`")
OTHERS = re.compile(r"^    ((?:pytest|scripts/|python scripts/|\.ci/).*?)(?: +#.*)?$", re.MULTILINE)
# What stands in the docs, and what the tiny family has instead.
STAND_INS = {
    "demo": "tiny", "vit-b-32": "tiny", "mnist,letters": "apples,bridges",
    "mnist,svhn": "apples,bridges", "20261122-081921-m-ties-0a1b2c": "a-run", "RUN": "a-run",
    "FOLDER": "folder", "IN": "ViT-B-32.pt", "FILE": "ViT-B-32.pt", "FAMILY": "tiny",
}  # fmt: skip
# Commands that are only looked up, not run, and why.
NOT_RUN = {
    "fetch": "downloads; tests/test_heads.py runs it on stand-ins",
    "heads": "needs a text tower, which the tiny family has not; tests/test_heads.py runs it",
    "families --init": "needs a folder of models; tests/test_layouts.py runs it",
    "experiment": "takes minutes; tests/test_experiments.py runs it on few settings",
    "finetune": "trains, and the tiny family has too few pictures; tests/test_finetune.py runs it",
    "app": "serves until it is stopped; tests/browser starts the same server",
    "convert FILE": "a command named inside a sentence, without a second file",
}


@dataclass(frozen=True)
class Shown:
    """A command as the docs show it.

    Args:
        page: the file it stands in.
        words: what follows the program's name.
        block: whether it stands in a code block, not in a sentence.
    """

    page: Path
    words: tuple[str, ...]
    block: bool

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"

    @property
    def options(self) -> list[str]:
        return [word for word in self.words if word.startswith("--")]

    def why_not_run(self) -> str | None:
        """The key of NOT_RUN that holds it back."""
        name, *_ = self.words
        keys = (name, *(f"{name} {word}" for word in self.words[1:]))
        return next((key for key in keys if key in NOT_RUN), None)


def shown() -> list[Shown]:
    """Every command of ours; what is optional, in brackets, counts as given."""
    commands = []
    for page in PAGES:
        for pattern in (BLOCK, INLINE):
            for match in pattern.finditer(page.read_text()):
                rest = match["rest"].replace("[", "").replace("]", "")
                if " | " not in rest and "COMMAND" not in rest:
                    words = tuple(shlex.split(rest))
                    commands.append(Shown(page, words, pattern is BLOCK))
    return commands


COMMANDS = shown()


def help_of(*command: str) -> str:
    """What `--help` says of a command, or of all."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        assert main([*command, "--help"]) == 0
    return printed.getvalue()


def listed() -> set[str]:
    """The commands that there are: whatever parses them, help begins a line with each."""
    return set(re.findall(r"^ +([a-z]+) {2,}\S", help_of(), re.MULTILINE))


def test_the_docs_show_every_command():
    assert {command.words[0] for command in COMMANDS} == listed() != set()


@pytest.mark.parametrize("command", sorted({c.words[0] for c in COMMANDS}))
def test_options_in_the_docs_exist(command):
    text = help_of(command)
    assert text, f"{command} is not known"
    options = set(re.findall(r"--[a-z][a-z-]*", text))
    for each in COMMANDS:
        if each.words[0] == command:
            assert set(each.options) <= options | {"--help"}, each


def test_reasons_for_not_running_are_needed():
    needed = {key for c in COMMANDS if (key := c.why_not_run())}
    assert needed == {key for key in NOT_RUN if key.split()[0] in listed()}


@pytest.fixture
def desk(own_family, tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with what the commands of the docs take as given."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    shutil.copy(own_family / "sources" / "apples.safetensors", "ViT-B-32.pt")
    draw_more(own_family / "calibration.npz")
    family = load("tiny")
    recipe = MergeRecipe(family="tiny", method="m-ties", sources=family.sources, samples=6)
    list(recorded(run(recipe, family, device="cpu"), recipe, kind="merge", id="a-run"))
    return tmp_path / "work"


def draw_more(pool: Path) -> None:
    """Each image many times: as many as the docs' commands draw."""
    with np.load(pool) as file:
        arrays = {key: np.repeat(file[key], 40, axis=0) for key in file.files}
    np.savez(pool, **arrays)


def arguments(command: Shown) -> list[str]:
    """Its words for the tiny family, on the CPU."""
    words = [STAND_INS.get(word, word) for word in command.words]
    if "--device" in words:
        words[words.index("--device") + 1] = "cpu"
    return words


@pytest.mark.parametrize("page", sorted({c.page for c in COMMANDS}), ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_another(page, desk, own_family, cli):
    written: set[str] = set()
    for command in COMMANDS:
        if command.page != page or command.why_not_run() is not None:
            continue
        pool, aside = own_family / "calibration.npz", desk.parent / "aside.npz"
        if command.words[0] == "pool":  # writes what is there already
            pool.rename(aside)
        for word in command.words:  # shown twice on a page: the second time beside the first
            if word in written and command.words[command.words.index(word) - 1] == "--out":
                (desk / word).unlink()
        outcome = cli(*arguments(command))
        assert outcome.status == 0, f"{command}\n{outcome.err}"
        if command.words[0] == "pool":  # so that the run of `desk` can be done again
            aside.replace(pool)
        written |= {path.name for path in desk.iterdir() if path.is_file()}


def test_other_commands_in_the_docs_name_files_and_marks_that_exist():
    marks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    names = {mark.partition(":")[0] for mark in marks["markers"]}
    lines = [line for page in PAGES for line in OTHERS.findall(page.read_text())]
    assert any(line.startswith("pytest") for line in lines)
    for line in lines:
        words = shlex.split(line)
        if "-m" in words:
            chosen = re.findall(r"\w+", words[words.index("-m") + 1])
            assert set(chosen) - {"and", "or", "not"} <= names, line
        files = [w for w in words if re.match(r"(scripts|tests|\.ci)/", w)]
        assert all((ROOT / name).exists() for name in files), line
        assert files or words[0] == "pytest", line


PYTHON = [
    (page, code)
    for page in PAGES
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page.name for page, _ in PYTHON])
def test_the_python_in_the_docs_runs(page, code, desk, capsys):
    (desk / "models").mkdir()
    main(["merge", "--family=tiny", "--samples=6", "--device=cpu", "--out=merged.safetensors"])
    capsys.readouterr()
    exec(compile(code.replace('"demo"', '"tiny"'), page.name, "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out or "write" in code


def test_the_family_that_the_docs_write_can_be_merged(desk, monkeypatch, cli):
    (code,) = (code for page, code in PYTHON if page.name == "format.md")
    exec(compile(code, "format.md", "exec"), {"__name__": "docs"})
    monkeypatch.setenv("MLOSS_MODELS", "models")
    outcome = cli("merge", "--family=noise", "--samples=6", "--device=cpu", "--out=m.safetensors")
    assert outcome.status == 0, outcome.err
