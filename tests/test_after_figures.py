"""Figures of what is left, of alignment and of routing: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest

from views.explain import alignment_figures, left_figures, routing_figures
from views.shared import figures
from views.shared.theme import HUES

NAN = np.nan


@pytest.mark.parametrize("colours", ["log", "linear", "rank"])
def test_equal_colours_are_equal_values_in_both_maps(colours):
    rng = np.random.default_rng(0)
    low, high = ({b: rng.gamma(0.5, size, 20) for b in range(3)} for size in (1e-3, 1e-1))
    high[0][:5] = low[2][5:10]  # the same group of nodes in both
    first = figures.heatmap(low, 3, 5, colours, "gap", high).data[0]
    second = figures.heatmap(high, 3, 5, colours, "gap", low).data[0]
    assert (first.zmin, first.zmax) == (second.zmin, second.zmax)
    assert list(first.colorbar.ticktext) == list(second.colorbar.ticktext)
    assert first.z[2][1] == pytest.approx(second.z[0][0])
    groups = figures.node_groups(np.stack(list(low.values())), 5)
    assert first.customdata[..., 0].astype(float) == pytest.approx(groups)
    assert np.shape(first.z) == (3, 4) and np.nanmax(second.z) <= second.zmax
    assert figures.heatmap(low, 3, 5, colours).data[0].zmin is None, "alone it fills its scale"


def test_sums_mark_both_and_join_them():
    figure = left_figures.sums(np.array([1.0, NAN]), np.array([0.5, NAN]), "TIES")
    lines = [t for t in figure.data if t.mode == "lines"]
    before, after = (t for t in figure.data if t.mode == "markers")
    assert list(lines[0].x) == [1.0, 0.5] and (before.name, after.name) == (
        "simple average",
        "TIES",
    )
    assert before.x[0] == 1.0 and after.x[0] == 0.5 and np.isnan(after.x[1])
    plain = figures.block_means({0: (1.0, 0.9, 1.1)}, 2)
    inner = [f.layout.height - f.layout.margin.t - f.layout.margin.b for f in (figure, plain)]
    assert inner[0] == inner[1], "rows stay in line with the maps'"


def test_overlaps_hold_their_chances():
    shares, chances = np.array([[0.2, NAN], [0.4, 0.1]]), np.full((2, 2), 0.05)
    heat = alignment_figures.overlaps(shares, chances, ("c_fc", "c_proj")).data[0]
    np.testing.assert_array_equal(heat.z, shares)
    assert heat.zmax == 0.4 and (np.asarray(heat.customdata) == 0.05).all()
    nothing = alignment_figures.overlaps(np.full((2, 2), NAN), chances, ("a", "b"))
    assert nothing.data[0].zmax == 1.0


@pytest.mark.parametrize(
    ("shares", "ends"),
    [([[0.1, 0.5]], (0, 1)), ([[-0.3, 1.6]], (-0.3, 1.6)), ([[NAN, NAN]], (0, 1))],
)
def test_what_is_kept_runs_from_nothing_to_all(shares, ends):
    heat = alignment_figures.kept(np.array(shares), ("a", "b")).data[0]
    assert (heat.zmin, heat.zmax) == ends and list(heat.x) == ["a", "b"]


def test_conflict_is_a_bar_a_block_with_chance():
    figure = alignment_figures.conflict(np.array([0.1, NAN, 0.4]))
    assert list(figure.data[0].y) == [0, 1, 2] and figure.data[0].x[2] == 0.4
    assert figure.layout.shapes[0].x0 == 0.5


def test_the_spectrum_has_lines_at_one_and_at_all():
    in_sum, in_merge = np.array([2.5, 1.0]), np.array([1.0, 0.4])
    figure = alignment_figures.counted(in_sum, in_merge, 3)
    assert [list(t.y) for t in figure.data] == [[2.5, 1.0], [1.0, 0.4]]
    assert [list(t.x) for t in figure.data] == [[1, 2]] * 2, "counted from 1"
    assert [shape.y0 for shape in figure.layout.shapes] == [1, 3]
    assert len(alignment_figures.counted(in_sum, None, 3).data) == 1


def test_routes_are_shares_by_task_and_source():
    table = np.array([[0.75, 0.25], [0.0, 1.0]])
    heat = routing_figures.shares(table, ("A", "B"), ("a", "b")).data[0]
    np.testing.assert_array_equal(heat.z, table)
    assert (heat.zmin, heat.zmax, list(heat.y), list(heat.x)) == (0, 1, ["A", "B"], ["a", "b"])
    figure = routing_figures.own(np.array([0.5, NAN]), 0.25)
    assert figure.data[0].x[0] == 0.5 and figure.layout.shapes[0].x0 == 0.25


@pytest.mark.parametrize("count", [1, 4])
def test_patches_have_the_colours_of_their_sources(count):
    grids = {f"layer {i}": np.array([[0, 2], [1, 2]]) for i in range(count)}
    figure = routing_figures.patches(grids, ("a", "b", "c"), (5, 0, 3))
    heats = [t for t in figure.data if t.type == "heatmap"]
    assert len(heats) == count
    assert heats[0].customdata.tolist() == [["a", "c"], ["b", "c"]]
    scale = heats[0].colorscale
    assert [hue for _, hue in scale[::2]] == [HUES[5], HUES[0], HUES[3]]
    for source in range(3):  # the middle of a source's colour is its own
        at = (source + 0.5) / 3
        assert scale[2 * source][0] < at < scale[2 * source + 1][0]
    named = {t.name: t.marker.color for t in figure.data if t.type == "scatter"}
    assert named == {"a": HUES[5], "b": HUES[0], "c": HUES[3]}
