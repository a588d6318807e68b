"""views/state/selection.py and views/heatmap/pointing.py: choices, history, pointing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloss_core.fields import parse_blocks
from views.heatmap import pointing
from views.shared import figures
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
    modules = "views.state.selection, views.heatmap.pointing"
    code = f"import sys, {modules}; print('streamlit' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "False", result.stderr


def a_map(blocks: int, nodes: int, size: int, chosen=(), focus=None):
    scores = dict(enumerate(np.random.default_rng(0).random((blocks, nodes)) + 0.1))
    return pointing.pointable(figures.heatmap(scores, blocks, size), chosen, focus)


def trace(figure, name: str):
    return next(t for t in figure.data if t.name == name)


def points(of) -> list[dict]:
    return [{"x": x, "y": y} for x, y in zip(of.x, of.y, strict=True)]


@given(st.integers(1, 12), st.integers(1, 70), st.integers(1, 40))
def test_every_target_stands_for_its_own_cell_and_every_mark_for_its_row(blocks, nodes, size):
    figure = a_map(blocks, nodes, size)
    heat, cells, marks = figure.data[0], trace(figure, "cells"), trace(figure, "marks")
    groups = len(heat.z[0])
    positions = [pointing.pointed([p]) for p in points(cells)]
    assert {f.cells[0] for f in positions} == {(b, g) for b in range(blocks) for g in range(groups)}
    for target, at in zip(cells.customdata, positions, strict=True):
        block, group = at.cells[0]
        assert at.marks == () and list(target) == list(heat.customdata[block][group])
    assert [pointing.pointed([p]).marks for p in points(marks)] == [(b,) for b in range(blocks)]
    # the nearest target of any place on a cell is one of its own: marks are no nearer
    least = min(x for x in cells.x)
    assert (marks.x[0] + least) / 2 <= -0.5 + 1e-9
    low, high = figure.layout.xaxis.range
    assert low < marks.x[0] < high


def test_chosen_rows_are_marked_by_shape_and_framed_in_unbroken_runs():
    figure = a_map(6, 40, 4, chosen=(0, 2, 3, 5), focus=(2, 7))
    symbols = trace(figure, "marks").marker.symbol
    assert [s == "square" for s in symbols] == [True, False, True, True, False, True]
    assert [(s.y0, s.y1) for s in figure.layout.shapes] == [(-0.5, 0.5), (1.5, 3.5), (4.5, 5.5)]
    focus = trace(figure, "focus")
    assert (list(focus.x), list(focus.y)) == ([7], [2])
    assert not a_map(6, 40, 4, chosen=range(6)).layout.shapes, "all of them need no frame"


def test_a_map_of_too_many_cells_keeps_its_own_hover_and_its_marks():
    figure = a_map(12, 1024, 1)
    assert [t.name for t in figure.data[1:]] == ["marks"]
    assert figure.data[0].hovertemplate and figure.data[0].hoverinfo != "skip"


def test_pointing_changes_the_choice_as_said():
    marks = pointing.Pointed(marks=(1, 2), cells=())
    cells = pointing.Pointed(marks=(), cells=((3, 0), (3, 5), (4, 1)))
    assert pointing.choice_after((0, 1), marks, add=False) == (0, 2)
    assert pointing.choice_after((0, 1), cells, add=False) == (3, 4)
    assert pointing.choice_after((0, 1), cells, add=True) == (0, 1, 3, 4)
    box = pointing.Pointed(marks=(3,), cells=((3, 0),))
    assert pointing.choice_after((0,), box, add=False) == (3,)


def test_the_highest_node_of_a_group():
    node = np.array([5.0, 1, 2, 9, 3, 7, 8])
    assert [pointing.highest(node, group, 3) for group in range(3)] == [0, 3, 6]
