"""views/state/selection.py: choices of blocks, their history, names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloss_core.fields import parse_blocks
from views.state import selection
from views.state.selection import Selection

ROOT = Path(__file__).resolve().parents[1]
COUNT = 6
CHOICES = st.sets(st.integers(0, COUNT - 1))
STEPS = st.lists(st.one_of(st.sampled_from(["undo", "redo"]), CHOICES), max_size=40)
LOSSES = st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=1, max_size=24).map(
    lambda values: dict(enumerate(values))
)


@given(CHOICES, STEPS)
def test_any_sequence_of_choices_undo_and_redo_is_that_of_a_list_and_a_place_in_it(first, steps):
    chosen = Selection(blocks=tuple(sorted(first)))
    history, at = [chosen.blocks], 0
    for step in steps:
        if step == "undo":
            chosen, at = selection.undo(chosen), max(0, at - 1)
        elif step == "redo":
            chosen, at = selection.redo(chosen), min(len(history) - 1, at + 1)
        else:
            chosen = selection.choose(chosen, step)
            if history[at] != tuple(sorted(step)):
                history = [*history[: at + 1], tuple(sorted(step))]
                at += 1
        assert chosen.blocks == history[at]
        assert list(chosen.past) == history[:at]
        assert list(chosen.future) == history[:at:-1]


def test_only_so_many_steps_are_kept():
    chosen = Selection(blocks=())
    for step in range(3 * selection.STEPS):
        chosen = selection.choose(chosen, [step % 2])
    assert len(chosen.past) == selection.STEPS


@given(CHOICES, st.integers(COUNT, COUNT + 3))
def test_the_text_of_a_choice_is_read_back(blocks, count):
    parsed = parse_blocks(selection.text(blocks, count), count)
    assert (tuple(range(count)) if parsed is None else parsed) == tuple(sorted(blocks))


def test_presets_are_the_papers_scaled_to_the_depth():
    assert selection.presets(12) == {
        "All blocks": tuple(range(12)), "None": (),
        "Paper: 0,8,9,10": (0, 8, 9, 10), "Paper: 8,9,10": (8, 9, 10),
    }  # fmt: skip
    assert selection.presets(24)["Paper: 0,20,21,22"] == (0, 20, 21, 22)
    assert list(selection.presets(1)) == ["All blocks", "None"]


@given(LOSSES, st.floats(0, 1))
def test_a_cover_is_the_smallest_there_is(losses, share):
    chosen = selection.covering(losses, share)
    assert selection.covered(losses, chosen) >= share - 1e-6
    total = sum(losses.values())
    if chosen and total:
        fewer = sorted(losses.values(), reverse=True)[: len(chosen) - 1]
        assert sum(fewer) / total < share, "no choice of fewer blocks holds as much"


@given(LOSSES, st.integers(0, 30))
def test_the_top_blocks_are_those_that_no_other_exceeds(losses, most):
    chosen = selection.top(losses, most)
    assert len(chosen) == min(most, len(losses)) and list(chosen) == sorted(chosen)
    left = [losses[b] for b in losses if b not in chosen]
    assert not chosen or not left or min(losses[b] for b in chosen) >= max(left)


NAMES = st.text("abcXYZ äé09_-", min_size=1, max_size=24).filter(lambda n: n == " ".join(n.split()))


@given(st.dictionaries(NAMES, CHOICES.map(lambda b: selection.text(b, COUNT)), max_size=12))
def test_names_come_back_from_the_link(choices):
    saved = ""
    for name, blocks in choices.items():
        saved = selection.with_name(saved, name, blocks)
    assert selection.named(saved) == choices and selection.written(choices) == saved


@pytest.mark.parametrize("name", ["", " ", "a;b", "a:b", "x" * 25, "<b>"])
def test_names_that_a_link_cannot_hold_are_refused(name):
    with pytest.raises(ValueError, match="a name has"):
        selection.with_name("few:0", name, "1")
    full = selection.written({f"n{i}": "0" for i in range(selection.NAMED)})
    with pytest.raises(ValueError, match="forget one first"):
        selection.with_name(full, "one more", "1")
    assert selection.named(selection.with_name(full, "n0", "3"))["n0"] == "3"


def test_selection_loads_no_streamlit():
    modules = "views.state.selection"
    code = f"import sys, {modules}; print('streamlit' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "False", result.stderr
