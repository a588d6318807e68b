"""What is written aside: renamed when it is whole, and swept once its writer must be dead."""

from __future__ import annotations

import os
import time

import pytest
import torch

from mloss_core import MergeRecipe, recorded, run
from mloss_core.atomic_files import DEAD, written
from mloss_core.checkpoints.image_tower import save
from mloss_core.runs import store

LEFT = ".m.0123456789abcdef0123456789abcdef.part"


def killed(folder, name, ago):
    """What a killed writer left in a folder so many seconds ago."""
    left = folder / name
    left.mkdir(parents=True)
    (left / "half").write_text("half of it")
    for path in (left / "half", left):
        os.utime(path, (time.time() - ago,) * 2)
    return left


@pytest.mark.parametrize("ago, stays", [(DEAD + 60, False), (DEAD - 60, True), (-DEAD, True)])
def test_what_a_killed_writer_left_goes_with_the_next_writer_there(ago, stays, tmp_path):
    left = killed(tmp_path, LEFT, ago)
    mine = killed(tmp_path, ".m.mine.part", DEAD + 60)
    name = "other.safetensors"
    save(tmp_path / name, {"a": torch.zeros(2)}, {})
    assert (left.exists(), mine.exists()) == (stays, True)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_all_that_is_written_aside_lies_in_one_hidden_folder(tmp_path):
    with written(tmp_path / "m.safetensors") as aside:
        aside.write_text("whole")
        (aside.parent / ".tmp123").write_text("a library's own")
        (hidden,) = tmp_path.iterdir()
        assert hidden.name.startswith(".m.") and hidden.name.endswith(".part")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_half_made_folders_of_runs_go_and_results_never_do(family, runs):
    for name in (".a.01234567.new", ".a.01234567.gone"):
        killed(runs, name, DEAD + 60)
    whole = killed(runs, ".b.01234567.gone", DEAD + 60)
    (whole / "record.json").write_text("{}")
    os.utime(whole / "record.json", (0, 0))
    os.utime(whole, (0, 0))
    recipe = MergeRecipe(family="tiny", method="ties", sources=family.sources)
    list(recorded(run(recipe, family, device="cpu"), recipe, kind="merge", id="c"))
    assert sorted(path.name for path in store.root().iterdir()) == [whole.name, "c"]
