"""What the demo family was made to reach, what it reaches on the test pictures, and how sure that is."""

import numpy as np

from .measure import average, wilson

RESAMPLES, SEED = 2000, 17
Claim = tuple[str, str, str, bool]


def shares(measured: dict, names: list[str]) -> dict[str, tuple[float, float]]:
    """Average accuracy over the source tasks and the part of the gain it recovers, a row."""
    averages = {row: average(right, names) for row, right in measured["rows"].items()}
    gain = averages["own task"] - averages["base"]
    return {
        row: (value, 100 * (value - averages["base"]) / gain) for row, value in averages.items()
    }


def resampled(measured: dict, names: list[str]) -> dict[str, np.ndarray]:
    """Every row's average in percent on `RESAMPLES` redrawn test sets, the same ones for every row."""
    rng = np.random.default_rng(SEED)
    drawn = {row: np.zeros(RESAMPLES) for row in measured["rows"]}
    for name in names:
        total = len(measured["rows"]["base"][name])
        counts = rng.multinomial(total, np.full(total, 1 / total), RESAMPLES)
        for row, right in measured["rows"].items():
            drawn[row] += 100 * (counts @ right[name]) / total / len(names)
    return drawn


def middle(values: np.ndarray, unit: str) -> str:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return f"[{low:.1f}, {high:.1f}] {unit}"


def claims(measured: dict, names: list[str]) -> list[Claim]:
    """Every line of the table: wanted, reached, its 95 % interval, and whether it holds."""
    rows = measured["rows"]
    estimates, drawn = shares(measured, names), resampled(measured, names)
    gain = drawn["own task"] - drawn["base"]
    part = {row: 100 * (values - drawn["base"]) / gain for row, values in drawn.items()}
    share = {row: value for row, (_, value) in estimates.items()}
    norm = max(measured["norm ratios"].values())
    lines = [
        _average("base, average: 40 to 60 %", estimates["base"][0], drawn["base"], 40, 60),
        _task("base, lowest task: at least 25 %", rows["base"], names, min, 25, 100),
        _task("base, highest task: at most 75 %", rows["base"], names, max, 0, 75),
        _average(
            "own source, average: at least 88 %", estimates["own task"][0], drawn["own task"], 88, 100
        ),
        _task("own source, lowest task: at least 75 %", rows["own task"], names, min, 75, 100),
        _average(
            "share, simple average: 35 to 60 %",
            share["simple average"], part["simple average"], 35, 60,
        ),
        _average(
            "share, TIES minus simple average: at least 3 points",
            share["TIES"] - share["simple average"], part["TIES"] - part["simple average"], 3, 100, "points",
        ),
        _average(
            "share, ensemble minus simple average: at least 5 points",
            share["ensemble"] - share["simple average"], part["ensemble"] - part["simple average"], 5, 100, "points",
        ),
    ]  # fmt: skip
    return [
        *lines,
        _exact("largest norm of a task vector over the base's: below 0.08", norm, norm < 0.08),
        _spread(
            "norms of task vectors, lowest block over highest: at least 1 : 3",
            measured["profile"].norms,
            3,
        ),
        _spread(
            "mean M-Loss, lowest block over highest, along the merge: at least 1 : 10",
            measured["profile"].losses,
            10,
        ),
    ]


def _exact(wanted: str, value: float, holds: bool) -> Claim:
    return wanted, f"{value:.4f}", "exact", holds


def _spread(wanted: str, blocks: list[float], most: float) -> Claim:
    """How far apart blocks may be."""
    ratio = max(blocks) / min(blocks)
    return wanted, f"1 : {ratio:.1f}", f"highest in block {int(np.argmax(blocks))}", ratio <= most


def _average(
    wanted: str, value: float, drawn: np.ndarray, low: float, high: float, unit: str = "%"
) -> Claim:
    return wanted, f"{value:.1f} {unit}", middle(drawn, unit), low <= value <= high


def _task(wanted: str, right: dict, names: list[str], pick, low: float, high: float) -> Claim:
    """The lowest or highest task, with Wilson's interval."""
    name = pick(names, key=lambda name: right[name].mean())
    value = 100 * float(right[name].mean())
    first, last = wilson(int(right[name].sum()), len(right[name]))
    interval = f"[{first:.1f}, {last:.1f}] %"
    return wanted, f"{value:.1f} % ({name})", interval, low <= value <= high
