"""Every interval that is shown: against textbook formulas, and its coverage in simulations.

The formulas here are written out from their sources and share nothing with the library. A halved
interval fails each of these tests.
"""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mloss_core import Accuracy, NodeScores, Setting, compare, mean_accuracy, simulated
from mloss_core.analysis.compatibility.ensemble_gap import GapMeasured, gap_difference
from mloss_core.analysis.compatibility.report import gap_rows
from mloss_core.analysis.compatibility.sets import Compatibility
from mloss_core.analysis.map_difference import paired
from mloss_core.analysis.node import Node
from mloss_core.errors import BadValue
from mloss_core.evaluation import paired_test, rank_correlation
from mloss_core.evaluation.evaluator import mean_of
from mloss_core.evaluation.rank_correlation import correlated, difference
from mloss_core.experiments.tables import Row, percent
from mloss_core.intervals import half_width, mean_of_means, of_draws, of_mean_share, with_interval
from mloss_core.mloss import SetLosses
from views.compatibility import parts as compatibility_parts
from views.experiments import figures as experiment_figures
from views.explore import picture
from views.shared.readouts import with_interval as text_of
from views.theory import parts as theory_parts

Z = statistics.NormalDist().inv_cdf(0.975)
T3, T4, T7 = 3.182446, 2.776445, 2.364624  # Student's t, 97.5 %, of so many degrees of freedom


def student(values, t):
    """Textbook: mean plus or minus t s / sqrt(n)."""
    mean, half = statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def wilson(correct, total):
    """The roots p of (share - p)^2 = z^2 p (1 - p) / n (Wilson 1927)."""
    a, b, c = 1 + Z**2 / total, -(2 * correct + Z**2) / total, (correct / total) ** 2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def answers(rng, rate, n):
    return rng.random(n) < rate


# --- shares ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_an_accuracys_interval_is_wilsons_published_one(correct, total, low, high):
    interval = Accuracy(correct=correct, total=total).interval()
    assert interval == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 20_000), st.data())
def test_an_accuracys_interval_solves_wilsons_equation(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = Accuracy(correct=correct, total=total).interval()
    assert (low, high) == pytest.approx(wilson(correct, total), abs=1e-9)
    assert 0 <= low <= correct / total <= high <= 1 and low < high


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 4), (0, -1)])
def test_impossible_counts_are_refused(correct, total):
    with pytest.raises(BadValue, match=f"{correct} of {total}"):
        Accuracy(correct=correct, total=total)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=8))
def test_a_mean_accuracy_combines_wilsons_intervals_and_stays_a_share(counts):
    pairs = [(min(c, n), n) for c, n in counts]
    mean, low, high = mean_of(
        {str(i): Accuracy(correct=c, total=n) for i, (c, n) in enumerate(pairs)}
    )
    rates, ends = [c / n for c, n in pairs], [wilson(c, n) for c, n in pairs]
    below = sum((p - a) ** 2 for p, (a, _) in zip(rates, ends, strict=True))
    above = sum((b - p) ** 2 for p, (_, b) in zip(rates, ends, strict=True))
    assert mean == pytest.approx(statistics.fmean(rates))
    assert low == pytest.approx(mean - math.sqrt(below) / len(pairs), abs=1e-9)
    assert high == pytest.approx(mean + math.sqrt(above) / len(pairs), abs=1e-9)
    assert 0 <= low <= mean <= high <= 1 and low < high


def test_a_mean_of_one_task_has_that_tasks_interval():
    one = Accuracy(correct=81, total=263)
    assert mean_of({"a": one})[1:] == pytest.approx(one.interval())


def test_means_at_the_ends_have_intervals_of_some_width():
    every = mean_accuracy({str(i): np.ones(20, bool) for i in range(4)})
    assert every == pytest.approx((1.0, 1 - 0.1611 / 2, 1.0), abs=5e-5)
    none = mean_accuracy({str(i): np.zeros(20, bool) for i in range(4)})
    assert none == pytest.approx((0.0, 0.0, 0.1611 / 2), abs=5e-5)
    few = mean_accuracy({"a": np.arange(6) < 1, "b": np.arange(6) < 1})
    assert few[1] >= 0, "a normal interval would begin at -4.4 %"
    assert text_of(*every) == "100.0%  (91.9% to 100.0%)"
    assert percent(*every) == "100.0 (91.9 to 100.0)"


def test_a_mean_of_no_tasks_is_refused():
    with pytest.raises(BadValue, match="tasks"):
        mean_accuracy({})


@pytest.mark.parametrize(
    ("rates", "images"),
    [
        ((0.5, 0.9, 0.99, 0.7), 50),
        ((0.98, 0.99, 0.995, 1.0), 40),
        ((0.02, 0.9), 20),
        ((0.6,) * 8, 200),
    ],
)
def test_the_mean_of_shares_covers_at_its_level(rates, images):
    rng, draws = np.random.default_rng(0), 3000
    counts = rng.binomial(images, rates, (draws, len(rates))).tolist()
    ends = [of_mean_share([(c, images) for c in row])[1:] for row in counts]
    covered = np.mean([low <= statistics.fmean(rates) <= high for low, high in ends])
    assert 0.93 <= covered <= 0.99


# --- means ----------------------------------------------------------------------------------------


def scores_of(per_image):
    nodes = np.ones(3)
    return NodeScores(
        block=0, node=nodes, node_normalised=nodes, layer=1.0, layer_normalised=1.0,
        per_image=np.array(per_image),
    )  # fmt: skip


def test_a_blocks_mean_has_students_interval_over_images():
    values = [0.11, 0.13, 0.08, 0.17]
    assert scores_of(values).mean_interval() == pytest.approx(student(values, T3), rel=1e-6)
    assert all(map(math.isnan, scores_of([0.1]).mean_interval()[1:]))


def test_set_losses_have_students_interval_over_images():
    rng = np.random.default_rng(1)
    per_image = rng.random((3, 7, 4)) + 1.0
    blocks = (SetLosses(block=0, per_image=per_image, seconds=0.0),)
    three = Compatibility(sources=("a", "b", "c"), blocks=blocks)
    values = per_image[1]  # of the layer: all, without each, and pairs
    assert three.whole("layer") == pytest.approx(student(values[0], T3), rel=1e-6)
    for bound in range(3):
        expected = student(values[-1], T3)[bound]
        assert three.pair_matrix("layer", bound=bound)[1, 2] == pytest.approx(expected, rel=1e-6)
    gains = three.gains("layer")
    for i in range(3):
        shares = (values[0] - values[1 + i]) / values[0].mean()
        assert gains[:, i] == pytest.approx(student(shares, T3), rel=1e-6)


def test_a_node_without_each_source_has_students_interval_over_images():
    h = np.random.default_rng(2).normal(size=(3, 5, 6))
    node = Node(block=0, node=0, h=h, alpha=(0.5, 0.3, 0.2), act="silu")
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731

    def losses(alpha):
        mixed = np.tensordot(alpha, h, 1)
        return np.abs(silu(mixed) - np.tensordot(alpha, silu(h), 1)).mean(1)

    whole = losses([0.5, 0.3, 0.2])
    for i, left in enumerate(([0, 0.6, 0.4], [5 / 7, 0, 2 / 7], [0.625, 0.375, 0])):
        shares = (whole - losses(left)) / whole.mean()
        assert node.without()[:, i] == pytest.approx(student(shares, T4), abs=1e-6)


def test_two_maps_differ_by_students_interval_over_images():
    a, b = np.array([0.3, 0.5, 0.2, 0.6]), np.array([0.1, 0.4, 0.2, 0.1])
    nodes = {0: np.arange(5.0)}
    (pair,) = paired(nodes, nodes, ({0: a}, {0: b}))
    assert pair.difference == pytest.approx(student(a - b, T3), rel=1e-6)


def test_the_ensemble_gap_has_students_interval_in_each_task_and_welchs_over_them():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.1, 0.02, 8), rng.normal(0.2, 0.05, 8)
    gaps = [
        GapMeasured(task=name, ties=values, m_ties=np.zeros(8), seconds=0.0)
        for name, values in (("a", first), ("b", second))
    ]
    for row, values in zip(gap_rows(gaps), (first, second), strict=True):
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(
            student(values, T7), rel=1e-6
        )
    v, w = (statistics.variance(values) / 8 for values in (first, second))
    from scipy.stats import t

    freedom = (v + w) ** 2 / (v**2 / 7 + w**2 / 7)
    mean, half = (first.mean() + second.mean()) / 2, t.ppf(0.975, freedom) * math.sqrt(v + w) / 2
    assert gap_difference(gaps) == pytest.approx((mean, mean - half, mean + half), rel=1e-9)
    assert mean_of_means([np.ones(4)]) == (1, 1, 1)
    assert all(map(math.isnan, mean_of_means([np.ones(1), first])[1:]))


@pytest.mark.parametrize("images", [2, 4, 16])
def test_means_of_few_images_cover_at_their_level(images):
    draws = np.random.default_rng(4).normal(1.0, 0.3, (20_000, images))
    _, low, high = with_interval(draws)
    assert np.mean((low <= 1) & (high >= 1)) == pytest.approx(0.95, abs=0.006)


@pytest.mark.parametrize("sizes", [(5, 40), (10, 10, 10)])
def test_means_over_tasks_cover_at_their_level(sizes):
    rng = np.random.default_rng(5)
    ends = [
        mean_of_means([rng.normal(i, 1 + i, n) for i, n in enumerate(sizes)])[1:]
        for _ in range(4000)
    ]
    truth = statistics.fmean(range(len(sizes)))
    assert np.mean([low <= truth <= high for low, high in ends]) == pytest.approx(0.95, abs=0.015)


# --- differences, correlations, simulations -------------------------------------------------------


def test_a_difference_has_the_interval_of_paired_answers():
    rng = np.random.default_rng(6)
    ours, other = answers(rng, 0.7, 3000), answers(rng, 0.6, 3000)
    gap = ours.astype(float) - other
    comparison = compare({"a": ours}, {"a": other})
    half = 100 * Z * statistics.pstdev(gap) / math.sqrt(3000)
    assert comparison.difference - comparison.low == pytest.approx(half, rel=0.05)
    assert comparison.high - comparison.difference == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize(("apart", "gain"), [(0.05, 0.0), (0.1, 0.04)])
def test_differences_cover_at_their_level(apart, gain, monkeypatch):
    monkeypatch.setattr(paired_test, "DRAWS", 1000)
    rng, covered = np.random.default_rng(7), []
    for _ in range(400):
        ours, other = {}, {}
        for task in "abc":
            kind = rng.choice(3, 120, p=[(apart + gain) / 2, (apart - gain) / 2, 1 - apart])
            ours[task], other[task] = kind != 1, kind != 0
        comparison = compare(ours, other)
        covered.append(comparison.low <= 100 * gain + 1e-9 and comparison.high >= 100 * gain - 1e-9)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_draws_have_their_quantiles_for_an_interval():
    assert of_draws(np.arange(1001.0)) == pytest.approx((25, 975))


def test_correlations_of_sets_without_shared_models_have_fishers_interval():
    rng, n = np.random.default_rng(8), 80
    x = rng.normal(size=n)
    y = 0.6 * x + 0.8 * rng.normal(size=n)
    sets = [(2 * i, 2 * i + 1) for i in range(n)]
    correlation = correlated(x, y, sets, 2 * n)
    middle, half = math.atanh(correlation.rho), Z * math.sqrt(1.06 / (n - 3))
    expected = math.tanh(middle - half), math.tanh(middle + half)  # Fieller and others (1957)
    assert correlation.by_sets == pytest.approx(expected, abs=0.06)
    assert correlation.by_sets[1] - correlation.by_sets[0] == pytest.approx(
        expected[1] - expected[0], rel=0.2
    )


def test_correlations_over_models_cover_at_their_level(monkeypatch):
    """Pairs of 14 models, each pair's values the sums of its models' and of its own."""
    monkeypatch.setattr(rank_correlation, "DRAWS", 500)
    rng, models = np.random.default_rng(9), 14
    sets = list(itertools.combinations(range(models), 2))
    rows = np.array(sets)

    def drawn(many, pairs):
        of_model = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], many)
        return of_model[pairs].sum(1) + 0.3 * rng.normal(size=(len(pairs), 2))

    large = drawn(40_000, np.arange(40_000).reshape(-1, 2))
    from scipy.stats import spearmanr

    truth = spearmanr(*large.T).statistic
    by_models, by_sets = [], []
    for seed in range(100):
        x, y = drawn(models, rows).T
        correlation = correlated(x, y, sets, models, seed)
        by_models.append(correlation.by_models[0] <= truth <= correlation.by_models[1])
        by_sets.append(correlation.by_sets[0] <= truth <= correlation.by_sets[1])
    assert 0.85 <= np.mean(by_models) <= 0.99
    assert np.mean(by_sets) < 0.75, "too narrow, as the page says"


def test_a_lead_over_a_rival_has_the_interval_of_repeated_studies(monkeypatch):
    """The interval's width is that of the estimates in studies that are drawn anew."""
    monkeypatch.setattr(rank_correlation, "DRAWS", 500)
    rng, models = np.random.default_rng(10), 16
    sets = list(itertools.combinations(range(models), 2))
    rows = np.array(sets)
    leads, widths = [], []
    for seed in range(40):
        truth, noise = rng.normal(size=models), rng.normal(size=(2, models))
        x, rival = (truth + 0.5 * noise[0])[rows].sum(1), (truth + 2 * noise[1])[rows].sum(1)
        lead, low, high = difference(x, rival, truth[rows].sum(1), sets, models, seed)
        leads.append(lead)
        widths.append(high - low)
    assert statistics.fmean(widths) == pytest.approx(2 * Z * statistics.stdev(leads), rel=0.35)


def test_the_monte_carlo_band_holds_what_repeated_draws_give():
    setting = Setting(activation="relu", k=5.0, s=1.0, q=3)
    means = [simulated(setting, draws=500, seed=seed)[0] for seed in range(300)]
    error = statistics.fmean(simulated(setting, draws=500, seed=seed)[1] for seed in range(20))
    assert half_width(error) == pytest.approx(Z * statistics.stdev(means), rel=0.12)
    band = theory_parts._estimates_by_shift.__wrapped__(setting)
    share = np.mean((band["low"] <= band["exact"]) & (band["exact"] <= band["high"]))
    assert share > 0.85
    drawn = [simulated(Setting(activation="relu", k=5.0, s=float(s), q=3), theory_parts.DRAWS)
             for s in theory_parts.SHIFTS]  # fmt: skip
    unit = [2 * s**2 / (4 * 3 * 5) for s in theory_parts.SHIFTS]
    expected = [2 * Z * error / one for (_, error), one in zip(drawn, unit, strict=True)]
    assert band["high"] - band["low"] == pytest.approx(np.array(expected), rel=1e-6)


# --- where they are drawn -------------------------------------------------------------------------


def test_bars_and_readouts_reach_to_the_ends_of_the_interval():
    counts = {"a": np.arange(263) < 81, "b": np.arange(148) < 15}
    (low_a, high_a), (low_b, high_b) = wilson(81, 263), wilson(15, 148)
    mean = (81 / 263 + 15 / 148) / 2
    below = math.hypot(81 / 263 - low_a, 15 / 148 - low_b) / 2
    above = math.hypot(high_a - 81 / 263, high_b - 15 / 148) / 2
    row = Row(label="x", recipe=None, answers=counts, cost=None, towers=1, seconds=None, peak=None)
    assert row.mean == pytest.approx((mean, mean - below, mean + above))
    bar = experiment_figures.means([row]).data[0].error_x
    assert (bar.array[0], bar.arrayminus[0]) == pytest.approx((above, below))
    shown = picture.readouts_of(counts, {}, {})
    assert shown["average"] == pytest.approx([mean, mean - below, mean + above])
    assert shown["tasks"]["a"] == pytest.approx([81 / 263, low_a, high_a, 263])
    assert shown["tasks"]["b"] == pytest.approx([15 / 148, low_b, high_b, 148])


def test_the_gaps_bars_have_students_intervals():
    values = np.array([0.3, 0.5, 0.2, 0.6])
    gaps = [GapMeasured(task="a", ties=values, m_ties=values / 2, seconds=0.0)]
    titles = SimpleNamespace(title=str.upper)
    m_ties, ties = compatibility_parts.gap_rows(titles, gaps)["A"]
    assert ties == pytest.approx(student(values, T3), rel=1e-6)
    assert m_ties == pytest.approx(student(values / 2, T3), rel=1e-6)


def test_importing_the_library_does_not_import_scipys_statistics():
    code = "import mloss_core, sys; print('scipy.stats' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
