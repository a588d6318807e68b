"""M-TIES against TIES, beside its controls: rows trimmed alike, random and reversed ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..evaluation.paired_test import Comparison, compare, points
from .tables import Row, settings


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """M-TIES at one k and e, with what it is compared with there.

    Args:
        alike: rows trimmed alike: the same trim by rows, at the mean rate, without M-Loss.
        reversed: M-TIES with reversed ranks, where measured.
        random: M-TIES with ranks drawn at random.
    """

    ours: Row
    ties: Row
    alike: Row
    reversed: Row | None = None
    random: tuple[Row, ...] = ()

    @property
    def name(self) -> str:
        """Text of k and e."""
        return settings(self.ours.recipe, ("keep", "variation"))

    @property
    def keep(self) -> float:
        """The base keep rate k."""
        assert self.ours.recipe is not None
        return self.ours.recipe.keep

    @property
    def over_ties(self) -> Comparison:
        """M-TIES against TIES at the same k."""
        return compare(self.ours.answers, self.ties.answers)

    @property
    def rows_over_ties(self) -> Comparison:
        """Rows trimmed alike against TIES at the same k."""
        return compare(self.alike.answers, self.ties.answers)

    @property
    def over_rows(self) -> Comparison:
        """M-TIES against rows trimmed alike: what is left for M-Loss."""
        return compare(self.ours.answers, self.alike.answers)

    @property
    def over_reversed(self) -> Comparison | None:
        """M-TIES against reversed ranks; None where not measured."""
        return compare(self.ours.answers, self.reversed.answers) if self.reversed else None

    @property
    def random_below(self) -> int:
        """Draws of random ranks of a lower mean accuracy than M-TIES."""
        return sum(row.mean[0] < self.ours.mean[0] for row in self.random)

    @property
    def by_chance(self) -> float:
        """Probability that ranks no better than random are above at least so many draws."""
        return (len(self.random) - self.random_below + 1) / (len(self.random) + 1)


def controlled(rows: Sequence[Row]) -> list[Controlled]:
    """The settings of M-TIES that have TIES and rows trimmed alike beside them, in their order."""
    of_ranks: dict[tuple, list[Row]] = {}
    ties = {}
    for row in rows:
        recipe = row.recipe
        if recipe is None or recipe.method not in ("ties", "m-ties"):
            continue
        if recipe.method == "ties":
            ties[recipe.keep, recipe.scaling] = row
        else:
            place = (recipe.keep, recipe.variation, recipe.scaling, recipe.ranks)
            of_ranks.setdefault(place, []).append(row)
    outcomes = []
    for (keep, variation, scaling, ranks), (ours, *_) in of_ranks.items():
        alike = of_ranks.get((keep, variation, scaling, "equal"))
        if ranks != "m-loss" or not alike or (keep, scaling) not in ties:
            continue
        turned = of_ranks.get((keep, variation, scaling, "reversed"), [None])
        outcomes.append(
            Controlled(
                ours=ours, ties=ties[keep, scaling], alike=alike[0], reversed=turned[0],
                random=tuple(of_ranks.get((keep, variation, scaling, "random"), ())),
            )
        )  # fmt: skip
    return outcomes


def on_grid(outcomes: Sequence[Controlled]) -> Iterator[str]:
    """Sentences on a grid of k and e: what M-TIES gains over TIES, and what M-Loss adds to rows."""
    gains = [c.over_ties for c in outcomes]
    ahead = [c for c, gain in zip(outcomes, gains, strict=True) if gain.low > 0]
    behind = sum(gain.high < 0 for gain in gains)
    yield (
        f"**The paper claims that M-TIES is ahead of TIES. That holds here at {len(ahead)} of "
        f"{len(outcomes)} settings**, against TIES at the same k; at {behind} it is the other way "
        "round, at the others it cannot be told (95 % intervals, not corrected: one in twenty "
        "leaves out zero by chance)."
    )
    if ahead:
        still = [c for c in ahead if c.over_rows.low > 0]
        where = f": {'; '.join(c.name for c in still)}" * bool(still)
        yield (
            f"**Of these {len(ahead)}, {len(still)} remain ahead of rows trimmed alike**{where}. "
            "That control trims every row at the schedule's mean rate, k - e/2, without M-Loss. "
            f"{_share(ahead)}"
        )
    beyond = [c.over_rows for c in outcomes]
    yield (
        f"Against rows trimmed alike M-TIES is ahead at {sum(c.low > 0 for c in beyond)} of "
        f"{len(beyond)} settings and behind at {sum(c.high < 0 for c in beyond)}; the differences "
        f"reach from {min(c.difference for c in beyond):+.2f} to "
        f"{max(c.difference for c in beyond):+.2f} points."
    )
    yield (
        f"The differences to TIES reach from {min(c.difference for c in gains):+.2f} to "
        f"{max(c.difference for c in gains):+.2f} points."
    )


def _share(outcomes: Sequence[Controlled]) -> str:
    """How much of the gain over TIES trimming by rows alone brings, over these settings."""
    rows = sum(c.rows_over_ties.difference for c in outcomes) / len(outcomes)
    whole = sum(c.over_ties.difference for c in outcomes) / len(outcomes)
    return (
        f"Trimming by rows alone brings {rows / whole:.0%} of M-TIES' gain there "
        f"({rows:+.2f} of {whole:+.2f} points on average)."
    )


def at_each_keep(outcomes: Sequence[Controlled]) -> Iterator[str]:
    """Sentences on the controls at each k, and at which k they speak for or against M-Loss."""
    for outcome in outcomes:
        yield _at(outcome)
    drawn = [c for c in outcomes if c.random]
    favour = [c for c in drawn if _in_favour(c)]
    against = [c for c in drawn if _against(c)]
    if favour:
        yield (
            f"**{_places(favour)} the ranks speak in favour of M-Loss**: M-TIES is above every "
            f"draw of random ranks ({_draws(favour)}) and ahead of reversed ranks."
        )
    if against:
        yield (
            f"**{_places(against)} the ranks speak against M-Loss**: M-TIES is below every draw of "
            f"random ranks ({_draws(against)}) and behind reversed ranks."
        )
    if drawn and not favour:
        yield "At no k is M-TIES both above every draw of random ranks and ahead of reversed ones."


def _places(outcomes: Sequence[Controlled]) -> str:
    """Where: the base keep rates, at the beginning of a sentence."""
    return f"At {', '.join(f'k = {c.keep:g}' for c in outcomes)}"


def _draws(outcomes: Sequence[Controlled]) -> str:
    """How many draws that were, and how often chance alone does as much."""
    counts = dict.fromkeys(len(c.random) for c in outcomes)
    return ", ".join(f"{n} of {n}; by chance {1 / (n + 1):.2f}" for n in counts)


def _in_favour(outcome: Controlled) -> bool:
    turned = outcome.over_reversed
    return turned is not None and turned.low > 0 and outcome.random_below == len(outcome.random)


def _against(outcome: Controlled) -> bool:
    turned = outcome.over_reversed
    below = all(row.mean[0] > outcome.ours.mean[0] for row in outcome.random)
    return turned is not None and turned.high < 0 and below


def _at(outcome: Controlled) -> str:
    """A line on one k: TIES, rows trimmed alike, reversed and random ranks."""
    gain = outcome.over_ties
    parts = [
        f"**{outcome.name}**: M-TIES against TIES {_points(gain)}, rows trimmed alike against "
        f"TIES {_points(outcome.rows_over_ties)}"
    ]
    if gain.low > 0:
        parts[0] += f", {outcome.rows_over_ties.difference / gain.difference:.0%} of it"
    parts.append(f"M-TIES against rows trimmed alike {_points(outcome.over_rows)}")
    if outcome.over_reversed:
        parts[-1] += f", against reversed ranks {_points(outcome.over_reversed)}"
    if outcome.random:
        means = [100 * row.mean[0] for row in outcome.random]
        parts.append(
            f"It is above {outcome.random_below} of {len(means)} draws of random ranks "
            f"({min(means):.2f} to {max(means):.2f} %, M-TIES {100 * outcome.ours.mean[0]:.2f} %): "
            "ranks no better than chance are above at least so many with probability "
            f"{outcome.by_chance:.2f}"
        )
    return ". ".join(parts) + "."


def _points(comparison: Comparison) -> str:
    """A difference with its 95 % interval."""
    low, high = comparison.low, comparison.high
    return f"{points(comparison.difference)} ({points(low)} to {points(high)})"
