"""The METHODS table: one row per merging method, with its paper and what it reads of a recipe.

A row's rule turns the task vectors of one tensor into the merged one. How a rule is carried over a
whole model stands in `sweep.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..trim import TaskVectors
from ..types import MergeRecipe
from . import rules

Rates = Float[np.ndarray, " rows"]
Rule = Callable[[TaskVectors, Tensor, MergeRecipe, str, Rates | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A merging method: its paper, settings and rule.

    Args:
        paper: who published it, and where.
        reads: fields of MergeRecipe that change its result, besides family and sources.
        explanation: one line, shown in the app.
        formula: what it computes of task vectors t_i, in LaTeX.
        rule: see the module; None where no single model comes out.
        node_wise: whether chosen blocks are trimmed row by row, by M-Loss.
        drops: whether entries are dropped at random, by the seed.
        per_task: whether each task has a model of its own, and only where its source is merged.
    """

    title: str
    paper: str
    reads: tuple[str, ...]
    explanation: str
    formula: str
    rule: Rule | None
    node_wise: bool = False
    drops: bool = False
    per_task: bool = False


NODE_WISE = (
    *("weights", "keep", "variation", "scaling", "blocks", "samples", "seed", "tokens"),
    *("precision", "inputs_from", "scores", "ranks"),
)

METHODS: dict[str, Method] = {
    "simple-average": Method(
        title="Simple average",
        paper="Wortsman et al., Model soups, ICML 2022",
        reads=("weights",),
        explanation="Averages all parameters; conflicts between sources simply cancel out.",
        formula=r"\theta + \sum_i \alpha_i t_i",
        rule=rules.simple_average,
    ),
    "task-arithmetic": Method(
        title="Task arithmetic",
        paper="Ilharco et al., Editing models with task arithmetic, ICLR 2023",
        reads=("weights", "scaling"),
        explanation="Adds the mean task vector times λ (the per-task λ of its paper is λ / q).",
        formula=r"\theta + \lambda \sum_i \alpha_i t_i = \theta + \frac{\lambda}{q} \sum_i t_i"
        r"\quad (\alpha_i = 1/q)",
        rule=rules.task_arithmetic,
    ),
    "ties": Method(
        title="TIES",
        paper="Yadav et al., TIES-Merging, NeurIPS 2023",
        reads=("weights", "keep", "scaling", "scope"),
        explanation="Keeps the share k of largest changes, of each tensor or of the whole task "
        "vector, elects a sign per entry, and averages the sources that agree.",
        formula=r"\theta + \lambda \, \mathrm{elect}(\mathrm{trim}_k(t_1), \dots)",
        rule=rules.ties,
    ),
    "elect": Method(
        title="Elect only",
        paper="Yadav et al., TIES-Merging, NeurIPS 2023, steps 2 and 3",
        reads=("weights", "scaling"),
        explanation="TIES with nothing trimmed (k = 1): elects a sign per entry, and averages the "
        "sources that agree.",
        formula=r"\theta + \lambda \, \mathrm{elect}(t_1, \dots, t_q)",
        rule=rules.elect,
    ),
    "dare": Method(
        title="DARE",
        paper="Yu et al., Language models are Super Mario, ICML 2024",
        reads=("weights", "keep", "scaling", "seed"),
        explanation="Keeps each change with probability k, drawn from the seed, rescales by 1/k, "
        "then elects and averages as TIES.",
        formula=r"\theta + \lambda \, \mathrm{elect}(m_1 \odot t_1 / k, \dots)",
        rule=rules.dare,
        drops=True,
    ),
    "m-ties": Method(
        title="M-TIES",
        paper="Wang et al., M-Loss, AAAI 2026, Algorithm 1",
        reads=NODE_WISE,
        explanation="TIES that keeps less of a node, down to k - e, the higher its M-Loss ranks "
        "in its block.",
        formula=r"\theta + \lambda \, \mathrm{elect}(\mathrm{trim}_{k_j}(t_1), \dots),"
        r"\quad k_j = k - e \cdot \mathrm{rank}_j",
        rule=rules.ties,
        node_wise=True,
    ),
    "m-dare": Method(
        title="M-DARE",
        paper="DARE (Yu et al., ICML 2024) with the keep rates of M-Loss (Wang et al., AAAI 2026)",
        reads=NODE_WISE,
        explanation="DARE that keeps each change of a node with probability k_j, down to k - e the "
        "higher its M-Loss ranks in its block, and rescales it by 1/k_j.",
        formula=r"\theta + \lambda \, \mathrm{elect}(m_1 \odot t_1 / k_j, \dots),"
        r"\quad k_j = k - e \cdot \mathrm{rank}_j",
        rule=rules.dare,
        node_wise=True,
        drops=True,
    ),
    "emr": Method(
        title="EMR-Merging",
        paper="Huang et al., EMR-Merging, NeurIPS 2024",
        reads=("weights",),
        explanation="One unified change, the elected sign with the largest magnitude that agrees; "
        "a task adds its source's mask and scale. A model per task, not one for all.",
        formula=r"\theta + \lambda_i \, (m_i \odot \tau), \quad m_i = [t_i \odot \tau > 0],"
        r"\quad \lambda_i = \frac{\sum |t_i|}{\sum |m_i \odot \tau|}",
        rule=None,
        per_task=True,
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
