"""Families and settings as people really write them: orders of sources, text files, caches."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shlex
import shutil
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import scan_cache_dir, try_to_load_from_cache
from PIL import Image
from safetensors.torch import load_file, save_file

from dialect_files import state
from mloss_core import (
    METHODS,
    Family,
    Finished,
    InputError,
    MergeRecipe,
    TaskEvaluated,
    __version__,
    families,
    load,
    run,
)
from mloss_core.__main__ import main
from mloss_core.checkpoints.preprocessing import MEAN, STD
from mloss_core.data.images import picture_files
from mloss_core.errors import Incomplete
from mloss_core.evaluation.evaluator import Evaluator
from mloss_core.families.layouts import described
from mloss_core.places import snapshot
from mloss_core.plain_text import decoded, read_text
from mloss_core.recipe import provenance
from mloss_core.run import launch, live, references
from mloss_core.runs.cells import Cell, Lab
from mloss_core.runs.layout import root
from tiny import CONFIG, TASKS, open_clip_model

CPU = torch.device("cpu")


def merged(family: Family, method: str, sources: tuple[str, ...], **settings) -> dict:
    """The merged weights of a recipe, in any order of sources."""
    settings = {"keep": 0.4, "samples": 6} | settings
    recipe = MergeRecipe(family=family.name, method=method, sources=sources, **settings)
    *_, last = run(recipe, family, device="cpu")
    assert isinstance(last, Finished) and last.weights is not None
    return last.weights


def gap(first: dict, second: dict) -> float:
    """The largest difference of two merges, relative to the largest number in them."""
    apart = max(float((first[name] - second[name]).abs().max()) for name in first)
    return apart / max(float(tensor.abs().max()) for tensor in first.values())


@pytest.mark.parametrize(
    "method, settings",
    [
        ("dare", {}),
        ("dare", {"after": "svc"}),
        ("dare", {"norms": "equal"}),
        ("m-dare", {"variation": 0.2, "ranks": "equal"}),
        ("m-dare", {"variation": 0.2, "ranks": "random"}),
        ("m-dare", {"variation": 0.2, "ranks": "m-loss"}),
    ],
)
def test_the_order_of_sources_does_not_matter_to_random_masks(family, method, settings):
    first, *others = itertools.permutations(TASKS)
    merge = merged(family, method, first, **settings)
    for order in others:
        # SVC divides by singular values, which raises what rounding leaves.
        limit = 1e-5 if "after" in settings else 1e-6
        assert gap(merge, merged(family, method, order, **settings)) < limit


def test_weights_go_with_their_sources_in_any_order(family):
    shares = dict(zip(TASKS, (0.5, 0.3, 0.2), strict=True))
    merges = [
        merged(family, "dare", order, weights=tuple(map(shares.get, order)))
        for order in (TASKS, TASKS[::-1])
    ]
    assert gap(*merges) < 1e-6
    assert gap(merges[0], merged(family, "dare", TASKS, weights=(0.2, 0.3, 0.5))) > 1e-3


def test_a_source_keeps_its_mask_whoever_is_beside_it(family):
    alone = {
        pair: merged(family, "dare", pair, weights=(1.0, 0.0))
        for pair in (TASKS[:2], (TASKS[0], TASKS[2]))
    }
    assert gap(*alone.values()) == 0


def test_what_was_measured_with_other_masks_is_measured_anew(family, monkeypatch):
    recipe = MergeRecipe(family=family.name, method="dare", sources=TASKS)
    cell, lab = Cell(label="", recipe=recipe, tasks=TASKS), Lab(family, CPU)
    assert provenance(recipe, family, None)["version"] == f"{__version__}+1"
    now = lab.id(cell)
    former = dataclasses.replace(METHODS["dare"], revision=0)
    monkeypatch.setitem(METHODS, "dare", former)
    assert lab.id(cell) != now and provenance(recipe, family, None)["version"] == __version__


@pytest.mark.parametrize(
    "weights, said",
    [
        ("0.3333,0.3333,0.3333", "sum to 0.9999, not 1"),
        ("0.333,0.333,0.333", "sum to 0.999, not 1"),
        ("0.5003,0.2502,0.2503", "sum to 1.0008, not 1"),
        ("0.33333333,0.33333333,0.33333333", ""),
        ("0.2,0.3,0.5", ""),
    ],
)
def test_weights_of_few_digits_are_scaled_and_that_is_said(cli, family, out, weights, said):
    chosen = ("--family", "tiny", "--method", "ties", "--weights", weights, "--device", "cpu")
    outcome = cli("merge", *chosen, "--out", out, "--json")
    assert outcome.status == 0
    used = outcome.events[-1]["recipe"]["weights"]
    given = [float(part) for part in weights.split(",")]
    assert used == ([part / sum(given) for part in given] if said else given)
    words = f"warning: --weights {weights}: {said}; they were divided by it\n" if said else ""
    assert outcome.err == words


@pytest.mark.parametrize("weights", ["0.33,0.33,0.33", "0.5,0.6,0", "0,0,0", "1,1,1"])
def test_weights_that_mean_something_else_are_refused_as_a_sum(cli, family, out, refused, weights):
    chosen = ("--family", "tiny", "--method", "ties", "--weights", weights, "--device", "cpu")
    refused(cli("merge", *chosen, "--out", out), f"--weights {weights}: sums to", "sum to 1")


def test_scaled_weights_merge_as_equal_ones(cli, family, out, tmp_path):
    chosen = ("--family", "tiny", "--method", "dare", "--device", "cpu")
    merges = []
    for path, weights in ((out, "0.3333,0.3333,0.3333"), (tmp_path / "n", "0.25,0.25,0.5")):
        assert cli("merge", *chosen, "--weights", weights, "--out", path).status == 0
        merges.append(path)
    equal = merged(family, "dare", TASKS, keep=0.2)
    written = load_file(merges[0])
    assert all(torch.allclose(written[name], equal[name], atol=1e-6) for name in equal)
    assert gap(equal, load_file(merges[1])) > 1e-3


TOML = """# für Äpfel
title = "Äpfel"
base = "base.safetensors"
activation = "quick_gelu"
num_attention_heads = 2

[sources]
"birnen" = "sources/apples.safetensors"
"zwei Wörter" = "sources/bridges.safetensors"
"""
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1")


def as_toml(family: Path, content: bytes) -> Path:
    """The family with these bytes as its family.toml, in place of family.json."""
    (family / "family.json").unlink(missing_ok=True)
    (family / "family.toml").write_bytes(content)
    return family / "family.toml"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "mac"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_family_toml_is_read_in_the_encodings_that_editors_leave(own_family, encoding, end):
    as_toml(own_family, TOML.replace("\n", end).encode(encoding))
    family = load("tiny")
    assert family.about["title"] == "Äpfel" and family.sources == ("birnen", "zwei Wörter")
    assert family.source("zwei Wörter").shapes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "cp1250"])
def test_a_family_json_is_read_in_them_too(own_family, encoding):
    about = json.loads((own_family / "family.json").read_text()) | {"title": "Käse für Zoë"}
    text = json.dumps(about, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (own_family / "family.json").write_bytes(text.encode(encoding))
    assert load("tiny").about["title"] == "Käse für Zoë" and load("tiny").source(TASKS[0]).shapes


STRANGE = {  # what other encodings leave, and the line and column of the first byte that is strange
    "Cyrillic": ('a = 1\ntitle = "яблоки"', "cp1251", "line 2, column 10"),
    "Greek": ('title = "μήλα"', "iso8859-7", "line 1, column 10"),
    "Polish": ('title = "Jabłko"', "cp1250", "line 1, column 13"),
    "Japanese": ('title = "りんご"', "shift-jis", "line 1, column 10"),
    "DOS": ('title = "é"', "cp437", "line 1, column 10"),
    "a letter that others read otherwise": ('title = "señor"', "latin-1", "line 1, column 12"),
    "a letter alone": ('title = "É 1"', "latin-1", "line 1, column 10"),
    "curly": ("title = “x”", "cp1252", "line 1, column 9"),
}


@pytest.mark.parametrize("text, encoding, place", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("name", ["family.toml", "family.json"])
def test_bytes_of_several_meanings_are_refused_at_their_place(
    own_family, cli, out, refused, name, text, encoding, place
):
    (own_family / "family.json").unlink()
    (own_family / name).write_bytes(text.encode(encoding))
    outcome = cli("merge", "--family", "tiny", "--out", out)
    said = (f"error: {name} {own_family / name}: is no UTF-8 text at {place}", "encoding UTF-8")
    refused(outcome, *said)
    assert "\\x" not in outcome.err and "b'" not in outcome.err


@pytest.mark.parametrize(
    "content, said",
    [
        ("é".encode("utf-16")[:-1], "is no UTF-16 text at line 1, column 1"),
        (b"\xef\xbb\xbfa = 1\nb = \xff", "is no UTF-8 text at line 2, column 5"),
        ("x = 'ä'\ny = '".encode() + b"\xe4'", "is no UTF-8 text at line 2, column 6"),
        (b"\xff\xfe\0\xd8", "is no UTF-16 text at line 1, column 1"),
    ],
)
def test_text_that_breaks_off_is_refused_at_its_place(own_family, content, said):
    path = as_toml(own_family, content)
    with pytest.raises(InputError) as error:
        described(own_family)
    assert str(error.value) == f"family.toml {path}: {said}; save it with the encoding UTF-8"


MEANT = {
    "a drive": (r'x = "C:\Users\me\new"', r"C:\Users\me\new"),
    "lower case": (r'x = "c:\users\name"', r"c:\users\name"),
    "a share": (r'x = "\server\share"', r"\server\share"),
    "in an array": (r'x = ["a", "b\c d"]', ["a", r"b\c d"]),
    "in a key": ('[a]\n"b\\c" = 1\n', {"b\\c": 1}),
    "curly": ("x = “a b”", "a b"),
    "German": ("x = „a b“", "a b"),
    "single": ("x = ‘a\\b’", "a\\b"),
    "many": ("x = [“a”, “b”, 'c']", ["a", "b", "c"]),
    "curly key": ("“x” = 1", 1),
    "curly drive": (r"x = “C:\Users\me”", r"C:\Users\me"),
    "points": ("x = [.5, -.5, 5., 1.]", [0.5, -0.5, 5.0, 1.0]),
    "a point": ("x = .25", 0.25),
    "another": ("[a]\nx = 3.\ny = 1", {"x": 3.0, "y": 1}),
    "inside": ('x = "say “a”"', "say “a”"),
}


@pytest.mark.parametrize("text, value", MEANT.values(), ids=MEANT.keys())
def test_what_can_be_meant_in_one_way_is_read_so(tmp_path, text, value):
    path = tmp_path / "family.toml"
    path.write_text(text, encoding="utf-8")
    (held,) = read_text(path, tomllib.loads).values()
    assert held == value


def test_json_is_mended_alike(tmp_path):
    path = tmp_path / "family.json"
    path.write_text(
        '{“a”: "C:\\Users\\m", "b": [“x”, .5, 1.], "c": "\\u00e4\\n"}', encoding="utf-8"
    )
    value = {"a": r"C:\Users\m", "b": ["x", 0.5, 1.0], "c": "ä\n"}
    assert read_text(path, json.loads) == value


REFUSED = {
    "mixed escapes": (r'x = "C:\Users\"a\""', "line 1, column 10", "write / instead of"),
    "escaped end": ('y = 1\nx = "C:\\a\\"\nz = 1', "line 2, column 10", "write / instead of"),
    "half curly": ('x = "a”\ny = 1', "line 1, column 8", "write straight quotes"),
    "other half": ('x = “a"', "line 1, column 5", "write straight quotes"),
    "curly alone": ("x = a”", "line 1, column 5", "write straight quotes"),
    "a space that does not break": ("x\u00a0= 1", "line 1, column 2", "no-break space"),
    "unclosed": ("x = [1,\n2", "line 2, column 2", "mend it there"),
    "no value": ("a = 1\n\nx =", "line 3, column 4", "mend it there"),
    "an address": ("x = 127.0.0.1", "line 1, column 10", "mend it there"),
    "no quotes": ("a = 1\nx = base.pt\n", "line 2, column 5", "mend it there"),
    "zero byte": ("x = '\0'", "line 1, column 6", "mend it there"),
    "deep": ("x = " + "[" * 5000, "nested too deeply", "mend it there"),
    "long number": ("x = " + "9" * 5000, "4300 digits", "mend it there"),
    "many mends": ("x = [" + "“a”, " * 300 + "]", "too many", "plain"),
}


@pytest.mark.parametrize("text, place, cure", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_is_refused_at_its_place(own_family, cli, out, refused, text, place, cure):
    path = as_toml(own_family, text.encode())
    outcome = cli("merge", "--family", "tiny", "--out", out)
    refused(outcome, f"error: family.toml {path}: ", place, cure)
    assert "\\x" not in outcome.err and "Error(" not in outcome.err


def test_halves_of_characters_are_refused(own_family, cli, out, refused):
    path = own_family / "family.json"
    path.write_text(path.read_text().replace('"mean"', '"license": "\\ud800", "mean"'))
    refused(cli("merge", "--family", "tiny", "--out", out), "half of a character")


@pytest.mark.parametrize(
    "written", [r"sources\apples.safetensors", r".\sources\apples.safetensors"]
)
@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_path_with_backslashes_is_found(own_family, written, quote):
    shutil.copytree(own_family / "sources", own_family / "new" / "tuned")
    moved = written.replace("sources", r"new\tuned")
    text = TOML.replace('"sources/apples.safetensors"', quote + moved + quote)
    as_toml(own_family, text.encode())
    assert load("tiny").source("birnen").shapes
    assert load("tiny").parts.sources["birnen"].parent.name == "tuned"


def test_names_of_classes_in_bytes_are_decoded_alike(own_family):
    path = own_family / "tasks" / f"{TASKS[0]}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    names = ["Äpfel", "Birne", "Käse", "Brot"]
    for encoding in ("utf-8", "latin-1"):
        coded = np.array([name.encode(encoding) for name in names])
        np.savez(path, **(arrays | {"classes": coded}))
        assert load("tiny").task(TASKS[0]).classes == tuple(names)
    np.savez(path, **(arrays | {"classes": np.array(["яблоко".encode("cp1251")] * 4)}))
    with pytest.raises(InputError, match=r"class name of bytes that is no UTF-8 text at line 1, c"):
        load("tiny").task(TASKS[0])


def test_every_one_byte_text_is_decoded_or_refused():
    for byte in range(1, 256):
        for text in (b"a%cb" % byte, b"%c%c" % (byte, byte), b"%c" % byte):
            try:
                assert decoded(text) == text.decode("latin-1").replace("\r", "\n")
            except ValueError as error:
                assert byte > 127 and "at line 1, column " in str(error)


def test_configs_of_other_tools_are_read_alike(own_family, cli):
    """A family of Hugging Face folders whose config.json an editor has saved anew."""
    hub = own_family.parent / "hub"
    for name in ("clip", "clip-fruit"):
        shutil.copytree(own_family, hub / name, ignore=lambda _, names: names)
        vision = {"hidden_act": "quick_gelu", "num_attention_heads": 2}
        (hub / name / "config.json").write_text(
            json.dumps({"vision_config": vision}), encoding="utf-16"
        )
        shutil.copy(own_family / "base.safetensors", hub / name / "model.safetensors")
    assert load("hub").model.activation == "quick_gelu"
    (hub / "clip" / "config.json").write_bytes('{\n "a": "яблоки"}'.encode("cp1251"))
    with pytest.raises(InputError, match=r"a config\.json that is no UTF-8 text at line 2, colum"):
        load("hub")


REPOSITORIES = {
    "openai/tiny-clip": "base.safetensors",
    **{f"someone/tiny-clip_{task}": f"sources/{task}.safetensors" for task in TASKS},
}
OLD, NEW = "0" * 40, "1" * 40  # commits


def downloaded(cache: Path, name: str, weights: Path, commit: str = NEW) -> Path:
    """A repository in the cache as huggingface_hub leaves it: blobs, and snapshots that link there.

    Returns its folder.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    config = {"vision_config": {"hidden_act": "quick_gelu", "num_attention_heads": 2}}
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for called, content in (
        ("model.safetensors", weights.read_bytes()),
        ("config.json", json.dumps(config).encode()),
    ):
        blob = hashlib.sha256(content).hexdigest()
        (repository / "blobs" / blob).write_bytes(content)
        (snapshot / called).symlink_to(Path("..", "..", "blobs", blob))
    (repository / "refs" / "main").write_text(commit)
    return repository


@pytest.fixture
def cache(own_family, tmp_path, monkeypatch) -> Path:
    """A user's cache with the tiny family's models, at home and out of the folder of families."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLOSS_ROOTS", raising=False)
    hub = tmp_path / "home" / ".cache" / "huggingface" / "hub"
    for name, file in REPOSITORIES.items():
        downloaded(hub, name, own_family / file)
    told = scan_cache_dir(hub)
    assert {repository.repo_id for repository in told.repos} == {*REPOSITORIES}
    assert not told.warnings
    (hub / "version.txt").write_text("1")
    return hub


def mine(cache: Path, toml: str) -> Path:
    """A family of no more than this family.toml."""
    folder = Path(os.environ["MLOSS_MODELS"]) / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "family.toml").write_text(toml)
    return folder


def linked(cache: Path, below: str = "") -> Path:
    """A family of links to the repositories of the cache, or to something below each."""
    folder = Path(os.environ["MLOSS_MODELS"]) / "mine"
    folder.mkdir()
    for name in REPOSITORIES:
        (folder / name.split("/")[1]).symlink_to(
            cache / f"models--{name.replace('/', '--')}" / below
        )
    return folder


AT_HOME = "~/.cache/huggingface/hub/models--"
NAMED = f"""
base = "{AT_HOME}openai--tiny-clip"
[sources]
apples = "{AT_HOME}someone--tiny-clip_apples"
bridges = "{AT_HOME}someone--tiny-clip_bridges/snapshots/{NEW}"
"""


def test_a_family_toml_that_points_into_the_cache_needs_the_users_word(
    cache, cli, out, refused, monkeypatch
):
    mine(cache, NAMED)
    chosen = ("merge", "--family", "mine", "--method", "ties", "--device", "cpu")
    line = f"export MLOSS_ROOTS={shlex.quote(str(cache))}"
    outcome = cli(*chosen, "--out", out)
    refused(outcome, "leads out of the folder of families, to ", f"allow its folder: {line}\n")
    _, _, allowed = shlex.split(line)[1].partition("=")
    monkeypatch.setenv("MLOSS_ROOTS", allowed)  # exactly what it says
    assert load("mine").sources == TASKS[:2]
    assert load("mine").parts.base == cache / "models--openai--tiny-clip" / "snapshots" / NEW
    outcome = cli(*chosen, "--out", out)
    assert outcome.status == 0, outcome.err
    plain = merged(load("tiny"), "ties", TASKS[:2], keep=0.2)
    assert gap(plain, load_file(out)) == 0


@pytest.mark.parametrize("below", ["", f"snapshots/{NEW}"], ids=["to repositories", "to snapshots"])
def test_links_into_the_cache_need_it_too(cache, monkeypatch, below):
    folder = linked(cache, below)
    with pytest.raises(InputError, match="leads out of the folder of families"):
        load("mine")
    for allowed in (cache, cache.parent, "~/.cache", "~"):
        monkeypatch.setenv("MLOSS_ROOTS", f"/nowhere{os.pathsep}{allowed}{os.pathsep}")
        family = load("mine")
        assert family.sources == TASKS and family.source("clouds").shapes
    monkeypatch.setenv("MLOSS_ROOTS", str(cache / "models--openai--tiny-clip"))
    with pytest.raises(InputError) as error:
        load("mine")
    more = os.pathsep.join([os.environ["MLOSS_ROOTS"], str(cache)])
    assert str(error.value).endswith(f"allow its folder: export MLOSS_ROOTS={more}")
    assert folder.is_dir()


def test_links_to_single_blobs_need_it_too(cache, monkeypatch):
    folder = Path(os.environ["MLOSS_MODELS"]) / "mine"
    for name in REPOSITORIES:
        file = try_to_load_from_cache(name, "model.safetensors", cache_dir=cache)
        place = folder / name.split("/")[1]
        place.mkdir(parents=True)
        (place / "model.safetensors").symlink_to(file)
        shutil.copy(Path(file).parent / "config.json", place)
    with pytest.raises(InputError, match="leads out of the folder of families"):
        load("mine")
    monkeypatch.setenv("MLOSS_ROOTS", str(cache))
    assert load("mine").source("apples").shapes


def test_the_cache_itself_is_a_family_wherever_it_was_unpacked(cache, monkeypatch, tmp_path):
    with tarfile.open(tmp_path / "hub.tar", "w") as archive:
        archive.add(cache, "hub")
    with tarfile.open(tmp_path / "hub.tar") as archive:
        archive.extractall(os.environ["MLOSS_MODELS"], filter="tar")
    for models in (os.environ["MLOSS_MODELS"], str(cache.parent), "~/.cache/huggingface"):
        monkeypatch.setenv("MLOSS_MODELS", models)
        assert "hub" in families()
        family = load("hub")
        assert family.sources == TASKS and family.model.activation == "quick_gelu"
        assert family.source("bridges").sha256 == load("hub").source("bridges").sha256


def test_the_newest_snapshot_is_that_of_main_or_the_one_that_came_last(cache, own_family):
    repository = cache / "models--openai--tiny-clip"
    other = own_family / "sources" / "apples.safetensors"
    downloaded(cache, "openai/tiny-clip", other, OLD)  # main goes back to it
    assert snapshot(repository).name == OLD
    for named in (f"{NEW}\n", NEW):
        (repository / "refs" / "main").write_text(named)
        assert snapshot(repository).name == NEW
    os.utime(repository / "snapshots" / NEW, (1, 1))
    for lost in ("2" * 40, "../../..", "", "\xff"):
        (repository / "refs" / "main").write_text(lost, encoding="latin-1")
        assert snapshot(repository).name == OLD
    shutil.rmtree(repository / "refs")
    assert snapshot(repository).name == OLD
    shutil.rmtree(repository / "snapshots")
    assert snapshot(repository) == repository


def test_an_argument_may_be_a_repository_or_begin_at_home(cache, own_family, cli, tmp_path):
    arguments = (
        f"{AT_HOME}someone--tiny-clip_apples",
        str(cache / "models--someone--tiny-clip_apples"),
        try_to_load_from_cache("someone/tiny-clip_apples", "config.json", cache_dir=cache)[:-12],
        try_to_load_from_cache("someone/tiny-clip_apples", "model.safetensors", cache_dir=cache),
    )
    plain = cli(
        "evaluate", "--family", "tiny", "--model", own_family / "sources/apples.safetensors"
    )
    for number, model in enumerate(arguments):
        outcome = cli("evaluate", "--family", "tiny", "--model", model)
        assert outcome.out == plain.out and outcome.status == 0, outcome.err
        assert cli("convert", model, f"~/{number}.safetensors").status == 0
        assert (tmp_path / "home" / f"{number}.safetensors").is_file()


def test_places_in_the_environment_may_begin_at_home(own_family, tmp_path, monkeypatch, cli):
    monkeypatch.setenv("HOME", str(own_family.parent.parent))
    monkeypatch.setenv("MLOSS_MODELS", "~/models")
    monkeypatch.setenv("MLOSS_RUNS", "~/my runs")
    assert "tiny" in families() and root() == own_family.parent.parent / "my runs"


def lose_blob(cache: Path, name: str) -> Path:
    """Takes away what a repository's weights link to; returns the link."""
    repository = cache / f"models--{name.replace('/', '--')}"
    link = repository / "snapshots" / NEW / "model.safetensors"
    link.resolve().unlink()
    return link


def test_a_link_that_leads_to_nothing_is_named(cache, own_family, cli, out, refused, monkeypatch):
    monkeypatch.setenv("MLOSS_ROOTS", str(cache))
    folder = linked(cache)
    lost = lose_blob(cache, "someone/tiny-clip_clouds")
    gone = f"is a link to {os.path.realpath(lost)}, which is not there"
    refused(cli("merge", "--family", "mine", "--out", out), "model.safetensors", gone)
    (folder / "tiny-clip_clouds").unlink()
    (folder / "tiny-clip_clouds").symlink_to(cache / "nowhere")
    refused(cli("merge", "--family", "mine", "--out", out), "tiny-clip_clouds", "is a link to ")
    outcome = cli("convert", cache / "models--someone--tiny-clip_clouds", out)
    refused(outcome, "error: IN ", "model.safetensors", gone)
    refused(cli("convert", lost, out), "model.safetensors", gone)
    assert "mine" in families() and cli("families").status == 0


LOST = {
    "a source": ("sources/apples.safetensors", "model {0}: is a link to"),
    "the base": ("base.safetensors", "model {0}: is a link to"),
    "heads": ("heads.safetensors", "{0}: is a link to"),
    "the pool": ("calibration.npz", "calibration pool {0}: is a link to"),
    "a task": ("tasks/apples.npz", "task apples {0}: is a link to"),
    "a description": ("family.json", "family.json {0}: is a link to"),
}


@pytest.mark.parametrize("file, said", LOST.values(), ids=LOST.keys())
@pytest.mark.parametrize("toml", [False, True])
def test_whatever_is_lost_is_named(own_family, tmp_path, cli, out, file, said, toml):
    if toml:
        as_toml(own_family, (TOML_OF_TINY + "".join(map(TASK.format, TASKS))).encode())
        file = file.replace("family.json", "family.toml")
        said = said.replace("family.json", "family.toml")
    lost = own_family / file
    lost.unlink()
    lost.symlink_to(own_family / "gone" / lost.name)
    with pytest.raises(InputError) as error:
        family = load("tiny")
        family.heads(CPU)
        family.task("apples")
        merged(family, "m-ties", TASKS)
    assert said.format(lost) in str(error.value) and "which is not there" in str(error.value)


TOML_OF_TINY = 'activation = "quick_gelu"\nnum_attention_heads = 2\n'
TASK = '[[tasks]]\nname = "{}"\n'


def test_pictures_that_are_lost_are_named(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "notes").symlink_to(tmp_path / "gone")
    with pytest.raises(
        InputError, match=r"picture .*b\.png: is a link to .*gone\.png, which is not"
    ):
        picture_files(tmp_path)
    assert len(picture_files(tmp_path, ["b.png"])) == 1


OUTSIDE = {
    "a base": 'base = "{}/base.safetensors"',
    "a source": '[sources]\na = "{}/a.safetensors"',
    "a text tower": 'text = "{}/base.safetensors"',
    "a pool": 'calibration = "{}"',
}


@pytest.mark.parametrize("toml", OUTSIDE.values(), ids=OUTSIDE.keys())
@pytest.mark.parametrize("place", ["{outside}", "../../outside", "~/outside"])
def test_without_permission_nothing_leaves_the_folder(
    own_family, tmp_path, monkeypatch, toml, place
):
    monkeypatch.setenv("HOME", str(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("base", "a"):
        shutil.copy(own_family / "base.safetensors", outside / f"{name}.safetensors")
    text = toml.format(place.format(outside=outside))
    as_toml(own_family, text.encode())
    with pytest.raises(InputError, match="leads out of the folder of families") as error:
        load("tiny")
    assert f"export MLOSS_ROOTS={outside}" in str(error.value)


@pytest.mark.parametrize(
    "part", ["base.safetensors", "sources", "sources/apples.safetensors", "heads.safetensors",
             "calibration.npz", "tasks", "tasks/apples.npz", "family.json", "datasets"],
)  # fmt: skip
def test_links_of_a_foreign_family_do_not_leave_it(own_family, tmp_path, part):
    outside = tmp_path / "outside" / part
    outside.parent.mkdir(parents=True)
    if part == "datasets":
        about = (own_family / "family.json").read_text()
        with_dataset = '"name": "apples", "dataset": "EuroSAT"'
        (own_family / "family.json").write_text(about.replace('"name": "apples"', with_dataset))
        (own_family / "tasks" / "apples.npz").unlink()
        outside.mkdir()
    else:
        (own_family / part).rename(outside)
    (own_family / part).symlink_to(outside)
    with pytest.raises(InputError, match="leads out of the folder of families"):
        family = load("tiny")
        family.heads(CPU)
        family.task("apples")
    os.environ["MLOSS_ROOTS"] = str(tmp_path / "outside")
    try:
        family = load("tiny")
        family.heads(CPU)
        if part != "datasets":
            family.task("apples")
    finally:
        del os.environ["MLOSS_ROOTS"]


@pytest.mark.parametrize("path", ["a\\u0000b", "a" * 5000, "a/" * 3000])
def test_paths_that_no_file_can_have_are_refused(own_family, cli, out, refused, path):
    as_toml(own_family, f'base = "{path}"\n'.encode())
    refused(cli("merge", "--family", "tiny", "--out", out), "error: ")
    assert cli("families").status == 0


def with_pictures(family: Path, task: str, count: int = 5) -> Path:
    """A task as folders of pictures; returns the last picture of its first class."""
    (family / "tasks" / f"{task}.npz").unlink()
    place = family / "tasks" / task / "test"
    for name in ("one", "two", "three", "four"):
        (place / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 20), (40 * number, 99, 7)).save(place / name / f"{number}.png")
    return place / "one" / f"{count - 1}.png"


def rates(rows: list[str]) -> dict[str, str]:
    return {row.split()[0]: row for row in rows}


@pytest.mark.parametrize("chosen", [("--model", "base"), ("--method", "emr")])
@pytest.mark.parametrize("bad", TASKS)
def test_a_bad_picture_loses_no_other_tasks_result(own_family, cli, chosen, bad):
    arguments = ("evaluate", "--family", "tiny", *chosen, "--device", "cpu")
    picture = with_pictures(own_family, bad)
    whole = rates(cli(*arguments).out.splitlines())
    picture.write_bytes(b"no picture")
    outcome = cli(*arguments)
    others = [task for task in TASKS if task != bad]
    assert outcome.status == 1 and [*rates(outcome.out.splitlines())] == ["task", *others]
    assert all(whole[task] in outcome.out for task in others), "as without it"
    said = f"error: 1 of 3 tasks were not evaluated. Task {bad}: picture {picture}: cannot be deco"
    assert outcome.err.startswith(said) and outcome.err.count("\n") == 1
    *events, last = cli(*arguments, "--json").events
    assert [event["task"] for event in (*events, last)] == others, "and no average of fewer"


def test_all_that_is_bad_is_named_and_nothing_but_bad_is_refused(own_family, cli, refused, out):
    arguments = ("evaluate", "--family", "tiny", "--model", "base", "--device", "cpu")
    for task in TASKS[:2]:
        with_pictures(own_family, task).write_bytes(b"")
    outcome = cli(*arguments)
    assert outcome.status == 1 and [*rates(outcome.out.splitlines())] == ["task", "clouds"]
    assert "2 of 3 tasks" in outcome.err and "Task apples: " in outcome.err
    assert "Task bridges: picture" in outcome.err and outcome.err.count("\n") == 1
    refused(cli(*arguments, "--tasks", "apples"), "picture", "cannot be decoded")


def test_results_are_printed_as_they_come(own_family, capsys, monkeypatch):
    told = []
    judged = Evaluator.judged

    def listening(*arguments, **options):
        told.append(capsys.readouterr().out)
        return judged(*arguments, **options)

    monkeypatch.setattr(Evaluator, "judged", listening)
    main(["evaluate", "--family", "tiny", "--model", "base", "--device", "cpu"])
    assert [[*rates(lines.splitlines())] for lines in told] == [["task"], ["apples"], ["bridges"]]


@pytest.mark.parametrize("stages", [launch(), live(), references()], ids=["launch", "live", "refs"])
def test_a_run_evaluates_the_other_tasks_of_a_stage_before_it_fails(own_family, stages):
    with_pictures(own_family, "bridges").write_bytes(b"no picture")
    recipe = MergeRecipe(family="tiny", method="ties", sources=TASKS)
    events = []
    with pytest.raises(Incomplete, match=r"1 of 3 tasks .* Task bridges: picture "):
        events.extend(run(recipe, load("tiny"), device="cpu", stages=stages, tasks=TASKS))
    # extend() keeps what came before the error
    assert {e.task for e in events if isinstance(e, TaskEvaluated)} == {"apples", "clouds"}


def loose_models(family: Path, *names: str) -> Path:
    """A folder of the tiny family's base, widened so that heads can be told, and copies of it."""
    folder = family.parent / "loose"
    folder.mkdir()
    wide = CONFIG | {"vision_cfg": {**CONFIG["vision_cfg"], "width": 64, "head_width": 64}}
    for seed, name in enumerate(("base", *names)):
        save_file(state(open_clip_model(wide, seed)), folder / f"{name}.safetensors")
    return folder


def test_init_says_what_is_assumed_of_pixels_and_writes_it_down(own_family, cli):
    folder = loose_models(own_family, *TASKS)
    outcome = cli("families", "--init", folder)
    assert (
        "# Of pixels, assumed to be CLIP's, for nothing beside the base tells them:\n"
        in outcome.out
    )
    written = folder / "family.toml"
    held = tomllib.loads(written.read_text())
    assert (held["mean"], held["std"]) == (list(MEAN), list(STD))
    written.write_text('activation = "quick_gelu"\n')
    rows = {row["family"]: row for row in cli("families", "--json").events}
    assert rows["loose"]["assumed"] == ["mean", "std"] and rows["tiny"]["assumed"] == []
    assert rows["loose"]["mean"] == list(MEAN) and rows["tiny"]["std"] == CONFIG["std"]
    written.write_text('activation = "quick_gelu"\nmean = [0, 0, 0]\n')
    assert load("loose").assumed == ("std",)


def test_init_writes_down_what_the_files_beside_the_base_say(cache, own_family, cli):
    hub = own_family.parent / "hub"
    shutil.copytree(cache, hub, symlinks=True)
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    beside = snapshot(hub / "models--openai--tiny-clip") / "preprocessor_config.json"
    beside.write_text(json.dumps(processor))
    outcome = cli("families", "--init", hub)
    assert "# Of pixels, as the files beside the base say:\n" in outcome.out, outcome.err
    assert "mean = [0.1, 0.2, 0.3]\nstd = [0.4, 0.5, 0.6]\n" in outcome.out
    assert load("hub").assumed == () and load("hub").model.mean == (0.1, 0.2, 0.3)
    assert load("hub").sources == TASKS


def pool_of(folder: Path, *owners: str) -> None:
    images = np.zeros((2 * len(owners), 16, 16, 3), np.uint8)
    np.savez(folder / "calibration.npz", images=images, tasks=np.repeat(owners, 2))


def test_init_says_which_sources_a_pool_misses(own_family, cli):
    folder = loose_models(own_family, *TASKS)
    pool_of(folder, "apples", "kites")
    outcome = cli("families", "--init", folder)
    assert "# It holds no image of bridges, clouds: name the tasks below that these" in outcome.out
    (folder / "family.toml").unlink()
    pool_of(folder, *TASKS)
    assert "holds no image" not in cli("families", "--init", folder).out


def test_a_pool_that_misses_sources_names_all_of_them(own_family, cli, out, refused):
    pool_of(own_family, "apples", "kites")
    chosen = ("merge", "--family", "tiny", "--samples", 2, "--device", "cpu", "--out", out)
    said = "holds no image of bridges, clouds, only of apples, kites; merge without them, or move"
    refused(cli(*chosen), f"calibration pool {own_family / 'calibration.npz'}: is stale: it {said}")


def test_accuracies_tell_models_apart_that_differ_by_one_image_in_thousands(own_family, cli):
    with np.load(own_family / "tasks" / "apples.npz") as file:
        arrays = dict(file)
    many = {name: np.repeat(arrays[name], 300, axis=0) for name in ("images", "labels")}
    np.savez(own_family / "tasks" / "apples.npz", **arrays | many)
    outcome = cli("evaluate", "--family", "tiny", "--model", "base", "--tasks", "apples")
    row = rates(outcome.out.splitlines())["apples"].split()
    right, total = map(int, row[-1].split("/"))
    assert total == 3600 and row[1] == f"{right / total:.2%}"
    assert f"{right / total:.2%}" != f"{(right + 1) / total:.2%}"
