"""The METHODS table: one row a merging method, with its paper and what it reads of a recipe.

A row's rule turns the task vectors of one tensor into the merged one. How a rule is carried over a
whole model stands in `mloss_guided.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..trim import Vectors
from ..types import MergeRecipe
from . import data_free

Rates = Float[np.ndarray, " rows"]
Rule = Callable[[Vectors, Tensor, MergeRecipe, str, Rates | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of METHODS.

    Args:
        paper: who published it, and where.
        reads: fields of MergeRecipe that change its result, besides family and sources.
        explanation: one line, shown in the app.
        formula: what it computes of task vectors t_i, in LaTeX.
        rule: see the module; None where no single model comes out.
        node_wise: whether chosen blocks are trimmed row by row, by M-Loss.
    """

    title: str
    paper: str
    reads: tuple[str, ...]
    explanation: str
    formula: str
    rule: Rule | None
    node_wise: bool = False


METHODS: dict[str, Method] = {
    "simple-average": Method(
        title="Simple average",
        paper="Wortsman et al., Model soups, ICML 2022",
        reads=("weights",),
        explanation="Averages all parameters; conflicts between sources simply cancel out.",
        formula=r"\theta + \sum_i \alpha_i t_i",
        rule=data_free.simple_average,
    ),
    "task-arithmetic": Method(
        title="Task arithmetic",
        paper="Ilharco et al., Editing models with task arithmetic, ICLR 2023",
        reads=("weights", "scaling"),
        explanation="Adds the mean task vector times λ (the per-task λ of its paper is λ / q).",
        formula=r"\theta + \lambda \sum_i \alpha_i t_i",
        rule=data_free.task_arithmetic,
    ),
    "ties": Method(
        title="TIES",
        paper="Yadav et al., TIES-Merging, NeurIPS 2023",
        reads=("weights", "keep", "scaling"),
        explanation="Keeps the share k of largest changes of each tensor, elects a sign an entry, "
        "and averages the sources that agree.",
        formula=r"\theta + \lambda \, \mathrm{elect}(\mathrm{trim}_k(t_1), \dots)",
        rule=data_free.ties,
    ),
    "dare": Method(
        title="DARE",
        paper="Yu et al., Language models are Super Mario, ICML 2024",
        reads=("weights", "keep", "scaling", "seed"),
        explanation="Keeps each change with probability k, drawn from the seed, rescales by 1/k, "
        "then elects and averages as TIES.",
        formula=r"\theta + \lambda \, \mathrm{elect}(m_1 \odot t_1 / k, \dots)",
        rule=data_free.dare,
    ),
    "m-ties": Method(
        title="M-TIES",
        paper="Wang et al., M-Loss, AAAI 2026, Algorithm 1",
        reads=(
            *("weights", "keep", "variation", "scaling"),
            *("blocks", "samples", "seed", "tokens", "precision"),
        ),
        explanation="TIES that keeps less of a node, down to k - e, the higher its M-Loss ranks "
        "in its block.",
        formula=r"\theta + \lambda \, \mathrm{elect}(\mathrm{trim}_{k_j}(t_1), \dots),"
        r"\quad k_j = k - e \cdot \mathrm{rank}_j",
        rule=data_free.ties,
        node_wise=True,
    ),
    "ensembling": Method(
        title="Ensembling",
        paper="Dash and Cooper, Model averaging, JMLR 2004",
        reads=("weights",),
        explanation="Averages the sources' image embeddings: all models run, none is merged. "
        "What merging tries to reach at the cost of one model.",
        formula=r"\sum_i \alpha_i f_{\theta_i}(x)",
        rule=None,
    ),
}
