"""What is no file where a file belongs: a pipe would be waited for, and zeros would never end."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from random import Random

import pytest

from mloss_core import Checkpoint, MergeRecipe, MlossError, load, load_batch, recorded, run
from mloss_core.data import images
from mloss_core.data.images import decoded, picture_files
from mloss_core.errors import LONGEST, BadValue
from mloss_core.runs import layout, store
from mloss_core.runs.bundle import zipped
from mloss_core.training.archives import unpacked
from scripts.torture.mutate import misplaced
from views.state import session

NO_FILE = "is a pipe, a device or a socket, and no file"


@pytest.fixture(params=["pipe", "zeros"])
def odd(request, tmp_path):
    """A pipe that nobody writes to, or a link to endless zeros."""
    path = tmp_path / "odd.npz"
    os.mkfifo(path) if request.param == "pipe" else path.symlink_to("/dev/zero")
    return path


def test_readers_refuse_it_in_one_line(odd, family):
    def from_archive():
        with unpacked(odd):
            pass

    for read in (
        lambda: Checkpoint.open(odd, "--model"),
        lambda: load_batch(odd, family.model),
        lambda: decoded([odd], 16),
        from_archive,
    ):
        with pytest.raises(MlossError) as refusal:
            read()
        assert "\n" not in str(refusal.value) and str(odd) in str(refusal.value)
    with pytest.raises(MlossError, match=NO_FILE):
        Checkpoint.open(odd, "--model")


def test_a_description_that_is_none_is_refused(own_family):
    (own_family / "family.json").unlink()
    os.mkfifo(own_family / "family.json")
    with pytest.raises(MlossError, match=NO_FILE):
        load("tiny")


@pytest.fixture
def finished(family):
    """The id of a finished run."""
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources)
    list(recorded(run(recipe, family, device="cpu"), recipe, kind="merge", id="whole"))
    return "whole"


@pytest.mark.parametrize("name", ["record.json", "recipe.json", "title.txt", "hits.npz"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_run_with_a_pipe_or_zeros_in_it_is_passed_over_or_refused(make, name, finished):
    path = store.root() / finished / name
    path.unlink(missing_ok=True)
    make(path)
    for record in store.list_runs():
        try:
            _ = record.hits, record.kept(), record.recipe()
        except MlossError as error:
            assert NO_FILE in str(error)


def test_a_text_larger_than_any_runs_is_not_read(finished):
    path = store.root() / finished / "record.json"
    with path.open("ab") as file:
        file.truncate(layout.MOST_BYTES + 1)
    with pytest.raises(MlossError, match="far too many for text"):
        store.load_run(finished)


def test_a_recipe_that_is_no_table_is_refused(finished):
    (store.root() / finished / "recipe.json").write_text('"text"')
    with pytest.raises(MlossError, match=r"recipe\.json is no JSON object"):
        store.load_run(finished).recipe()


def test_pictures_below_what_may_not_be_looked_at_are_passed_over(tmp_path):
    (tmp_path / "processes").symlink_to("/proc/1")
    with pytest.raises(MlossError, match="holds no pictures"):
        picture_files(tmp_path / "processes" / "map_files")


def test_numbers_beyond_all_numbers_are_no_architecture(own_family):
    about = json.loads((own_family / "family.json").read_text())
    for key in about["vision_cfg"]:
        wrong = about | {"vision_cfg": about["vision_cfg"] | {key: float("inf")}}
        (own_family / "family.json").write_text(json.dumps(wrong))
        with pytest.raises(MlossError, match="is not a model config"):
            load("tiny")


@pytest.mark.parametrize("key", ["keep", "blocks", "lab_others", "saved", "sources"])
def test_a_link_of_many_lines_and_no_end_is_told_of_in_one_short_line(key, family):
    _, wrong = session.of_link({"family": "tiny", key: "A\n" * 40_000})
    assert wrong and all("\n" not in words and len(words) < LONGEST + 200 for words in wrong)


def test_a_message_has_an_end():
    text = str(BadValue("keep", 1, "A" * 9000, "the remedy"))
    assert len(text) <= LONGEST + 5 and text.endswith("the remedy") and text.startswith("keep 1")


def test_the_mutator_puts_what_it_says(tmp_path):
    kinds = {misplaced(tmp_path / str(n), Random(n)) for n in range(40)}
    assert {"pipe", "zeros", "loop", "giant"} <= kinds
    modes = [os.lstat(path).st_mode for path in tmp_path.iterdir()]
    assert any(map(stat.S_ISFIFO, modes)) and any(map(stat.S_ISLNK, modes))


@pytest.mark.parametrize("value", [["a"], {"a": 1}, "\ud800"])
def test_a_card_of_a_strange_recipe_is_refused_before_anything_is_sent(value, finished):
    path = store.root() / finished / "record.json"
    record = json.loads(path.read_text())
    record["metadata"]["recipe"]["scope"] = value
    path.write_text(json.dumps(record))
    with pytest.raises(MlossError, match=f"run {finished}: cannot be read"):
        zipped(store.load_run(finished))


def test_a_picture_that_asks_for_gigabytes_is_refused(tmp_path, monkeypatch):
    def ask(*_, **__):
        raise MemoryError

    monkeypatch.setattr(images.Image, "open", ask)
    (tmp_path / "a.jp2").touch()
    with pytest.raises(MlossError, match=r"a\.jp2: cannot be decoded \(MemoryError\)"):
        decoded([tmp_path / "a.jp2"], 16)


def test_a_member_without_a_name_is_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"1")
    content = path.read_bytes()
    name = content.rindex(b"x", 0, len(content) - 22)  # the directory's, at its end
    entry = bytearray(content)
    entry[name] = 0  # what follows a null is cut off
    path.write_bytes(entry)
    with pytest.raises(MlossError, match=r"is no \.zip that can be read"), unpacked(path):
        pass
