"""Sentences on the paper's claims: the right counts, shares and verdicts from given answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mloss_core import MergeRecipe
from mloss_core.experiments import Cell, CellDone, claims
from mloss_core.experiments.claims import _ahead_of_ties
from mloss_core.experiments.controlled import controlled
from mloss_core.experiments.plans import ALIKE
from mloss_core.experiments.search import candidates
from mloss_core.experiments.tables import Row
from mloss_core.experiments.validation import within_an_error
from mloss_core.runs.record import RunRecord

START = MergeRecipe(family="any", method="m-ties", sources=("a", "b"), keep=0.8, variation=0.1)
N = 1000


def answers(right: int, first: int = 0) -> dict[str, np.ndarray]:
    """So many of N images of one task, from the first on, are answered correctly."""
    image = np.arange(N)
    return {"a": (first <= image) & (image < first + right)}


def row(label: str, right: int, method: str = "m-ties", **changes) -> Row:
    fields = {**vars(START), "method": method} | changes
    recipe = MergeRecipe(**fields)
    return Row(
        label=label, recipe=recipe, answers=answers(right), cost=None, towers=1, seconds=None,
        peak=None,
    )  # fmt: skip


def setting(keep: float, ties: int, alike: int, ours: int, **more: int) -> list[Row]:
    """TIES, rows trimmed alike and M-TIES at a keep rate, with controls of other ranks."""
    rows = [
        row("TIES", ties, "ties", keep=keep, variation=0.0),
        row("alike", alike, keep=keep, ranks="equal"),
        row("M-TIES", ours, keep=keep),
    ]
    if "reversed" in more:
        rows.append(row("reversed", more.pop("reversed"), keep=keep, ranks="reversed"))
    drawn = [
        row("random", n, keep=keep, ranks="random", seed=i) for i, n in enumerate(more.values())
    ]
    return rows + drawn


class Given(RunRecord):
    """A finished run that is nowhere on disk."""

    def scores(self):
        return {0: np.arange(4.0)}


def done(
    label: str, recipe: MergeRecipe, right: int, split: str = "test", first: int = 0
) -> CellDone:
    """A cell that was measured, with so many right answers."""
    about = dict.fromkeys(("id", "kind", "state", "error", "created", "device"), "")
    none = dict.fromkeys(("title", "seconds", "peak", "counted"))
    about |= {"folder": Path(), "metadata": {}, "versions": {}, "facts": {}}
    record = Given(**about, **none)
    record.__dict__["hits"] = {"merged": answers(right, first)}
    cell = Cell(label=label, recipe=recipe, tasks=("a",), split=split)
    return CellDone(
        cell=cell, record=record, cached=True, done=1, total=1, left=None, seconds=0.0
    )  # fmt: skip


def said(name: str, rows: list[Row], cells=()) -> str:
    return "\n".join(claims(name, list(cells), rows))


def test_a_grid_says_what_trimming_by_rows_alone_brings():
    rows = [
        *setting(0.2, 600, 640, 650),  # ahead of both; rows alone bring 40 of 50
        *setting(0.4, 600, 620, 620),  # ahead of TIES alone; rows bring all 20
        *setting(0.6, 600, 600, 600),  # level
        *setting(0.8, 600, 580, 580),  # behind TIES
    ]
    text = said("keep-and-variation", rows)
    assert "That holds here at 2 of 4 settings**" in text and "; at 1 it is the other way" in text
    assert "**Of these 2, 1 remain ahead of rows trimmed alike**: k = 0.2, e = 0.1." in text
    assert "brings 86% of M-TIES' gain there (+3.00 of +3.50 points on average)" in text
    assert "M-TIES is ahead at 1 of 4 settings and behind at 0" in text
    assert "differences to TIES reach from -2.00 to +5.00 points" in text


def test_a_grid_without_gain_gives_no_share():
    text = said("keep-and-variation", setting(0.8, 600, 590, 595))
    assert "at 0 of 1 settings**" in text and "gain there" not in text


def test_controls_say_at_which_k_the_ranks_speak_for_m_loss():
    draws = {f"draw {i}": 630 + i for i in range(5)}
    rows = [
        *setting(0.8, 700, 690, 689, reversed=695, **{f"draw {i}": 690 + i for i in range(5)}),
        *setting(0.2, 600, 640, 650, reversed=630, **draws),
    ]
    assert [c.random_below for c in controlled(rows)] == [0, 5]
    assert [c.by_chance for c in controlled(rows)] == [1, pytest.approx(1 / 6)]
    text = said("controls", rows)
    assert "**k = 0.2, e = 0.1**: M-TIES against TIES +5.00" in text
    assert "rows trimmed alike against TIES +4.00" in text and "80% of it" in text
    assert "above 5 of 5 draws" in text and "with probability 0.17" in text
    assert "**At k = 0.2 the ranks speak in favour of M-Loss**" in text
    assert "every draw of random ranks (5 of 5; by chance 0.17)" in text
    assert "**At k = 0.8 the ranks speak against M-Loss**" in text
    alone = said("controls", rows[:9])
    assert "At no k is M-TIES both above" in alone


@pytest.mark.parametrize(
    ("rights", "outcome"),
    [
        ((700, 700, 700), "That holds here**: 2 of 2"),
        ((700, 697, 701), "That cannot be told here**: 1 of 2"),
        ((700, 700, 600), "That does not hold here**: 1 of 2"),
    ],
)
def test_that_the_draw_hardly_matters_is_tested_with_a_margin(rights, outcome):
    rows = [row(f"{i} images", right, seed=i) for i, right in enumerate(rights)]
    cells = [done(r.label, r.recipe, right) for r, right in zip(rows, rights, strict=True)]
    text = said("samples", rows, cells)
    assert outcome in text and "within 0.5 points" in text and "two one-sided tests" in text


@pytest.mark.parametrize(
    ("few", "none", "words"),
    [
        (700, 700, ("0,8,9,10 that holds here**", "TIES, does as well too")),
        (650, 700, ("0,8,9,10 that does not hold here**", "-5.00 points")),
        (695, 690, ("0,8,9,10 that cannot be told here**", "TIES, is not shown to do as well")),
    ],
)
def test_few_blocks_are_as_good_only_where_that_is_shown(few, none, words):
    rows = [
        row("all blocks", 700),
        row("no block (TIES)", none, blocks=()),
        row("rows trimmed alike", 690, ranks="equal"),
        row("as the paper: 0,8,9,10", few, blocks=(0, 8, 9, 10)),
    ]
    text = said("few-blocks", rows)
    assert [w for w in words if w not in text] == [], text
    assert ("by more than 0.5 points" in text) == (few == 650)
    assert "Of 2 other choices of blocks" in text


def test_settings_within_an_error_of_the_best_on_validation_are_named_and_judged():
    recipes = list(candidates("m-ties", START))[-6:]
    given = ((690, 0), (700, 0), (699, 5), (600, 0), (500, 0), (400, 0))
    cells = [
        done("", r, right, "val", first) for r, (right, first) in zip(recipes, given, strict=True)
    ]
    close, total = within_an_error(cells, "m-ties")
    assert close == [recipes[1], recipes[2]] and total == 6
    rows = [
        row("TIES", 650, "ties", variation=0.0),
        *(
            row(label, right, **{f: getattr(r, f) for f in ("keep", "variation", "scaling")})
            for label, right, r in (
                ("M-TIES", 640, recipes[1]),
                ("M-TIES, place 2", 651, recipes[2]),
            )
        ),
    ]
    text = said("methods", rows, cells)
    assert "2 of 6 settings of M-TIES are within a standard error of the best" in text
    assert "**The verdict depends on which of them is taken**" in text
    assert "behind TIES on test images (-1.00 points" in text
    assert "not distinguishable from TIES on test images (+0.10 points" in text


def test_models_that_answer_alike_get_a_verdict_and_no_share_of_a_gain():
    labels = ("M-TIES", "TIES", f"M-TIES, {ALIKE}")
    alike = {label: row(label, 500) for label in labels}
    first, second = _ahead_of_ties("M-TIES is ahead", alike)
    assert "cannot be told here" in first and "difference 0.00 points" in first
    assert second.endswith("the difference to TIES is +0.00 points.")
