"""Shared fixtures. The shapes and types that mloss_core annotates are checked in every test but
those of pages (`visit`)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the oracle's: they spin against each other
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as mloss_core does, before torch comes in

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tiny import write_family

install_import_hook("mloss_core", "beartype.beartype")  # before anything imports mloss_core

from mloss_core import Family  # noqa: E402
from mloss_core.__main__ import main  # noqa: E402
from mloss_core.families import family as zoo  # noqa: E402

# Shared machines make deadlines lie; function-scoped fixtures here are read only.
QUIET = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=QUIET)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

torch.set_num_threads(1)  # tiny tensors: a second thread only waits


# Files that share a costly session fixture with another, which one worker should make.
ALIKE = {"tests/test_app_experiments.py": "tests/test_experiments.py"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker at a time for the tests of a file, and for all in a browser: they share fixtures.

    Files come in order, the browser first: its tests take longest.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "browser" if file.startswith("tests/browser/") else ALIKE.get(file, file)

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its JSON lines, read strictly: NaN is no JSON."""
        return [json.loads(line, parse_constant=_no_json) for line in self.out.splitlines()]


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs: never the user's own."""
    monkeypatch.setenv("MLOSS_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the family "tiny"."""
    folder = tmp_path_factory.mktemp("models")
    write_family(folder / "tiny")
    return folder


@pytest.fixture
def family(models: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """The tiny family, shared by all tests: read it, never change it."""
    monkeypatch.setenv("MLOSS_MODELS", str(models))
    return zoo.load("tiny")


@pytest.fixture
def own_family(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the tiny family that the test may damage."""
    monkeypatch.setenv("MLOSS_MODELS", str(tmp_path / "models"))
    return Path(shutil.copytree(models / "tiny", tmp_path / "models" / "tiny"))


@dataclass(frozen=True)
class Measured:
    """An experiment's cells, and the folder of their runs."""

    cells: list[Any]
    runs: Path

    def copied_to(self, runs: Path) -> None:
        """Puts the runs where the test's own are."""
        shutil.copytree(self.runs, runs)


@pytest.fixture(scope="session")
def measured_methods(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The experiment `methods` of the tiny family on 6 images, with the settings of `short`."""
    from test_experiments import done, shorten

    from mloss_core.experiments import start_recipe

    runs = tmp_path_factory.mktemp("methods") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOSS_MODELS", str(models))
        patch.setenv("MLOSS_RUNS", str(runs))
        shorten(patch)
        tiny = zoo.load("tiny")
        return Measured(done("methods", tiny, start_recipe(tiny, samples=6)), runs)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output path in an empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.safetensors"


@pytest.fixture
def refused(out: Path) -> Callable[..., None]:
    """Checks that a command said one line with these words and a remedy, and wrote nothing."""

    def check(outcome: Outcome, *words: object, status: int = 2) -> None:
        assert outcome.err.startswith("error: ") and outcome.err.endswith("\n"), outcome.err
        assert outcome.err.count("\n") == 1 and "\r" not in outcome.err, outcome.err
        assert [word for word in map(str, words) if word not in outcome.err] == [], outcome.err
        assert outcome.status == status
        assert outcome.err.rpartition(";")[2].strip(), f"no remedy: {outcome.err}"
        assert list(out.parent.iterdir()) == []

    return check


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process."""

    def command(*arguments: object) -> Outcome:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return command
