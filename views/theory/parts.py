"""Views of the Theory page: sliders, expected M-Loss, measured M-Loss beside predictions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import streamlit as st

from mloss_core import BlockTheory, Setting, expected, simulated
from mloss_core.analysis.curvature import SMOOTH
from mloss_core.analysis.expectation import close_limit, printed, relu_formula, wide_limit
from mloss_core.analysis.second_order import Agreement, agreement
from mloss_core.analysis.theory import explained
from mloss_core.intervals import half_width
from views.shared import figures, theme, widgets
from views.state import session
from views.state.theory_fields import ACTIVATIONS
from views.theory import figures as theory_figures

SHIFTS = np.geomspace(0.01, 30, 24)
COARSE = 1 << 12  # points of the rule for the curve: closer than the line is wide
DRAWS = 4000  # of the Monte Carlo at each shift of the curve


def controls() -> Setting:
    """What the sliders say."""
    left, right = st.columns(2)
    with left:
        activation = widgets.bound("theory_activation", st.selectbox)
        k = widgets.bound("theory_k", st.slider, min_value=1.0, max_value=50.0, step=1.0)
        slope = float(session.chosen("theory_slope"))
        if activation == "leaky_relu":
            slope = widgets.bound(
                "theory_slope", st.slider, min_value=0.0, max_value=1.0, step=0.01
            )
    with right:
        q = widgets.bound("theory_q", st.slider, min_value=2, max_value=16, step=1)
        s = widgets.bound("theory_s", st.slider, min_value=0.05, max_value=10.0, step=0.05)
    return Setting(activation=activation, k=k, s=s, q=q, slope=slope)


@st.cache_data(show_spinner=False, max_entries=256)
def _estimates(setting: Setting) -> tuple[float, float, float]:
    """Exact value, Monte Carlo mean and its standard error."""
    return expected(setting), *simulated(setting)


@st.cache_data(show_spinner=False, max_entries=64)
def _estimates_by_shift(setting: Setting) -> dict[str, np.ndarray]:
    """The same over SHIFTS, whatever the setting's own shift is, in multiples of ReLU's formula."""
    settings = [dataclasses.replace(setting, s=s) for s in SHIFTS.tolist()]
    drawn = np.array([simulated(each, DRAWS) for each in settings])
    estimates = {
        "exact": [expected(each, COARSE) for each in settings],
        "low": [mean - half_width(error) for mean, error in drawn],
        "high": [mean + half_width(error) for mean, error in drawn],
        "close": [close_limit(each) for each in settings],
        "wide": [wide_limit(each) for each in settings],
        "printed": [printed(each) or math.nan for each in settings],
    }
    unit = np.array([relu_formula(each) for each in settings])
    return {name: np.array(values) / unit for name, values in estimates.items()}


def numbers(setting: Setting) -> None:
    """The exact value, the simulation, the paper's estimate and their ratio at the sliders."""
    exact, mean, error = _estimates(setting)
    paper_value = printed(setting)
    a, b, c, d = st.columns(4)
    # the half width is a hundred times smaller, and would raise all of them to powers of ten
    shown, half = (
        theme.written_alike((exact, mean, paper_value or 0.0)),
        theme.written(half_width(error)),
    )
    a.metric("Exact", shown[0], help="Numerical integration; docs/theory.md.")
    b.metric(
        "Monte Carlo", shown[1], f"± {half} (95 %)", delta_color="off",
        delta_arrow="off", help="The mean loss of 20 000 random draws of the model.",
    )  # fmt: skip
    none = "The paper prints no estimate for this activation."
    c.metric(
        "Printed in the paper", shown[2] if paper_value is not None else "none",
        help="For two sources, whatever q is (Section 4)." if paper_value is not None else none,
    )  # fmt: skip
    ratio = f"{paper_value / exact:.2f}" if paper_value is not None and exact > 0 else "none"
    d.metric("Printed / exact", ratio, help="1 would be right.")
    st.caption(_limits(setting, exact))


def _limits(setting: Setting, exact: float) -> str:
    """The limits beside the exact value, and whether they apply."""
    wide, close = wide_limit(setting), close_limit(setting)
    if exact == 0:
        return "A straight line has no M-Loss: averaging before and after it is the same."
    if wide == close:
        words = f"For K much larger than s it is {theme.written(wide)}"
        return f"{words}, {wide / exact:.3f} of the exact value."
    return (
        f"For s much smaller than 1 it would be {theme.written(close)} ({close / exact:.3f} of "
        f"the exact value), for s much larger than 1, but smaller than K, {theme.written(wide)} "
        f"({wide / exact:.3f})."
    )


def curves(setting: Setting) -> None:
    """Expected M-Loss over s, the other sliders as they stand."""
    along = _estimates_by_shift(dataclasses.replace(setting, s=1.0))
    smooth = setting.activation in SMOOTH
    lines = {"limit for s ≪ 1" if smooth else "limit for s ≪ K": along["close"]}
    if smooth:
        lines["limit for s ≫ 1"] = along["wide"]
    if np.isfinite(along["printed"]).all():
        lines["printed in the paper"] = along["printed"]
    here = (setting.s, _estimates(setting)[0] / relu_formula(setting))
    name = ACTIVATIONS[setting.activation]
    st.plotly_chart(
        theory_figures.over_shift(
            SHIFTS, along["exact"], (along["low"], along["high"]), lines, here
        ),
        key="theory-curve",
        alt=f"Expected M-Loss of {name} over the shift s, in multiples of ReLU's formula, for "
        f"K = {setting.k:g} and q = {setting.q}: the exact curve, the Monte Carlo band, and "
        + ", ".join(lines),
    )


def blocks(theories: list[BlockTheory]) -> None:
    """Section 4's model fitted to each block, beside what was measured."""
    measured = np.array([b.scores.node.mean() for b in theories])
    model = np.array([b.predicted for b in theories])
    second = np.array([b.factors.product.mean() for b in theories])
    st.plotly_chart(
        theory_figures.blocks_beside(
            {"Section 4, from K and s": model, "second order": second}, measured
        ),
        key="theory-blocks",
        alt="Mean M-Loss of each block: measured, predicted from K and s, and to second order",
    )
    ratio = model / np.where(measured > 0, measured, math.nan)
    st.markdown(_verdict(ratio, agreement(model, measured), len(theories)))
    rows = {
        "block": [b.scores.block for b in theories],
        "K": [b.setting.k for b in theories],
        "s": [b.setting.s for b in theories],
        "mean pre-activation": [b.factors.centre.mean() for b in theories],
        "predicted": model,
        "measured": measured,
        "predicted / measured": ratio,
        "second order": second,
    }
    number = st.column_config.NumberColumn(format="%.3g")
    with st.expander("The blocks as a table"):
        config = {name: number for name in list(rows)[1:]}
        st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config)


def _verdict(ratio: np.ndarray, fit: Agreement, count: int) -> str:
    """In words, how well Section 4's model does."""
    if not np.isfinite(ratio).any():
        return "Nothing to compare: the measured M-Loss is zero."
    low, high = np.nanmin(ratio), np.nanmax(ratio)
    size = f"predicted over measured is {low:.2f} to {high:.2f} (1 would be right)"
    order = f"over the blocks R² is {fit.r2:.3f}" if count > 2 and not math.isnan(fit.r2) else ""
    fits = low >= 0.95 and high <= 1.05
    says = "fits within 5 %" if fits else "does not fit exactly"
    why = (
        ""
        if fits
        else " It spreads pre-activations evenly around zero, one K and one s per block; real "
        "ones are off centre (see the table), and every node has its own centre and range."
    )
    return f"**Section 4's model {says}**: {size}{'; ' * bool(order)}{order}.{why}"


def second_order(theories: list[BlockTheory], total: int) -> None:
    """Both factors as maps, and what their product explains node by node."""
    size, colours = int(session.chosen("group")), session.chosen("colours")
    left, right = st.columns(2)
    for column, name, what, letter in (
        (left, "curvature", "curvature", "how strongly the activation bends there"),
        (right, "variance", "variance", "how far the sources are apart"),
    ):
        column.markdown(f"**{what.capitalize()}**: {letter}")
        values = {b.scores.block: getattr(b.factors, name) for b in theories}
        column.plotly_chart(
            figures.heatmap(values, total, size, colours, what),
            key=f"theory-{name}",
            alt=f"Heatmap of the {what}, {letter}: blocks by groups of {size} nodes",
        )
    predicted = np.concatenate([b.factors.product for b in theories])
    measured = np.concatenate([b.scores.node for b in theories])
    fit = explained(theories)
    st.markdown(
        f"**The product comes to {fit.share:.1%} of the measured M-Loss.** Over {len(measured)} "
        f"nodes R² is {fit.r2:.4f} and the slope of measured over predicted {fit.slope:.3f}."
    )
    left, right = st.columns(2)
    left.plotly_chart(
        theory_figures.nodes_beside(predicted, measured),
        key="theory-nodes",
        alt="Measured over predicted M-Loss, a dot per node, with the line of equality",
    )
    each = [agreement(b.factors.product, b.scores.node) for b in theories]
    rows = {
        "block": [b.scores.block for b in theories],
        "R²": [a.r2 for a in each],
        "slope": [a.slope for a in each],
        "product / measured": [a.share for a in each],
    }
    number = st.column_config.NumberColumn(format="%.4f")
    config = {name: number for name in list(rows)[1:]}
    right.dataframe(pd.DataFrame(rows), hide_index=True, column_config=config)
