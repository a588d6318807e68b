"""The METHODS table: one row per merging method, with its paper and what it reads of a recipe.

A method is of one of three kinds: a rule of task vectors; a merge that sees what enters each linear
layer; or coefficients that are trained. `method` says what each looks like, `sweep` carries it over
a whole model. What each needs, where code and paper differ, and what is not here: docs/methods.md.
"""

from __future__ import annotations

import dataclasses

from ..fields import FIELDS
from ..types import MergeRecipe
from . import fit, layers, matrices, rules, smile, trained, whole
from .emr import TaskModels
from .matrices import of_matrices
from .method import Method, Models

__all__ = ["METHODS", "Method", "Models", "as_read"]

OF_MATRICES = ("weights", "scaling", "matrices", "qkv", "rest", "norms", "after")
# All singular values of these are equal: none to calibrate.
ISOTROPIC = OF_MATRICES[:-1]
DRAWN = ("samples", "seed", "images")
TRAINED = ("weights", "steps", "rate", "coefficients", "vectors", "keep", *DRAWN)
NODE_WISE = (
    *("weights", "keep", "variation", "scaling", "blocks", "samples", "seed", "tokens"),
    *("precision", "inputs_from", "scores", "ranks"),
)

METHODS: dict[str, Method] = {
    "simple-average": Method(
        title="Simple average",
        paper="Wortsman et al., Model soups, ICML 2022",
        reads=("weights", "after", "norms"),
        explanation="Averages all parameters; conflicts between sources simply cancel out.",
        formula=r"\theta + \sum_i \alpha_i t_i",
        rule=rules.simple_average,
    ),
    "task-arithmetic": Method(
        title="Task arithmetic",
        paper="Ilharco et al., Editing models with task arithmetic, ICLR 2023",
        reads=("weights", "scaling", "after", "norms"),
        explanation="Adds the mean task vector times λ (the per-task λ of its paper is λ / q).",
        formula=r"\theta + \lambda \sum_i \alpha_i t_i = \theta + \frac{\lambda}{q} \sum_i t_i"
        r"\quad (\alpha_i = 1/q)",
        rule=rules.task_arithmetic,
    ),
    "ties": Method(
        title="TIES",
        paper="Yadav et al., TIES-Merging, NeurIPS 2023",
        reads=("weights", "keep", "scaling", "scope", "after", "norms"),
        explanation="Keeps the share k of largest changes, of each tensor or of the whole task "
        "vector, elects a sign per entry, and averages the sources that agree.",
        formula=r"\theta + \lambda \, \mathrm{elect}(\mathrm{trim}_k(t_1), \dots)",
        rule=rules.ties,
        trims=True,
    ),
    "elect": Method(
        title="Elect only",
        paper="Yadav et al., TIES-Merging, NeurIPS 2023, steps 2 and 3",
        reads=("weights", "scaling", "after", "norms"),
        explanation="TIES with nothing trimmed (k = 1): elects a sign per entry, and averages the "
        "sources that agree.",
        formula=r"\theta + \lambda \, \mathrm{elect}(t_1, \dots, t_q)",
        rule=rules.elect,
    ),
    "dare": Method(
        title="DARE",
        paper="Yu et al., Language models are Super Mario, ICML 2024",
        reads=("weights", "keep", "scaling", "seed", "after", "norms"),
        explanation="Keeps each change with probability k, drawn from the seed, rescales by 1/k, "
        "then elects and averages as TIES.",
        formula=r"\theta + \lambda \, \mathrm{elect}(m_1 \odot t_1 / k, \dots)",
        rule=rules.dare,
        trims=True,
        drops=True,
        revision=1,  # masks by the sources' names, not by their places
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
        trims=True,
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
        trims=True,
        node_wise=True,
        drops=True,
        revision=1,  # as DARE's
    ),
    "tsv-m": Method(
        title="TSV-M",
        paper="Gargiulo et al., Task singular vectors, CVPR 2025",
        reads=OF_MATRICES,
        explanation="Keeps the 1/q largest singular triples of each source's matrix, makes their "
        "singular vectors orthogonal together, and adds them up.",
        formula=r"\theta + \lambda \, \mathrm{polar}([U_1 \dots U_q]) \,"
        r"\mathrm{diag}(S_1, \dots, S_q) \, \mathrm{polar}([V_1 \dots V_q]^T)",
        rule=of_matrices(matrices.tsv_m),
    ),
    "iso-c": Method(
        title="Iso-C",
        paper="Marczak et al., No task left behind, ICML 2025",
        reads=ISOTROPIC,
        explanation="Adds the task vectors up, and sets all singular values of each matrix to "
        "their mean: no direction outweighs another.",
        formula=r"\theta + \lambda \, \bar\sigma \, U V^T, \quad \sum_i t_i = U S V^T",
        rule=of_matrices(matrices.iso_c),
    ),
    "iso-cts": Method(
        title="Iso-CTS",
        paper="Marczak et al., No task left behind, ICML 2025",
        reads=ISOTROPIC,
        explanation="Iso-C on four fifths of the directions; the others are each source's own, "
        "across the common ones.",
        formula=r"\theta + \lambda \, \bar\sigma \, \mathrm{polar}([U_1 \dots U_q, U_c]) \,"
        r"\mathrm{polar}([V_1 \dots V_q, V_c]^T)",
        rule=of_matrices(matrices.iso_cts),
    ),
    "wudi": Method(
        title="WUDI",
        paper="Cheng et al., Whoever started the interference should end it, ICML 2025",
        reads=(*OF_MATRICES, "steps", "rate"),
        explanation="From the sum of the task vectors, some steps of Adam towards what interferes "
        "least with each. Linear layers of blocks alone; the rest stays the base's.",
        formula=r"\theta + \arg\min_X \sum_i \| (X - t_i) t_i^T \|^2 / \| t_i \|^2"
        r"\quad \text{(stopped early)}",
        rule=of_matrices(matrices.wudi, "layers", "base"),
    ),
    "wudi-closed": Method(
        title="WUDI, closed form",
        paper="ours, of the objective of Cheng et al., ICML 2025",
        reads=OF_MATRICES,
        explanation="The minimum itself of WUDI's objective, which its authors stop far from.",
        formula=r"\theta + \Bigl(\sum_i t_i G_i\Bigr) \Bigl(\sum_i G_i\Bigr)^{+},"
        r"\quad G_i = t_i^T t_i / \| t_i \|^2",
        rule=of_matrices(matrices.wudi_closed, "layers", "base"),
    ),
    "ace": Method(
        title="ACE-Merging",
        paper="ACE-Merging's released code, 2026: task vectors are centred, as its paper's are not",
        reads=OF_MATRICES,
        explanation="Weighs each source's matrix by the covariance of its own rows, in one linear "
        "solve; the mean row of every task vector is dropped, as in the released code.",
        formula=r"\theta + \lambda \Bigl(\sum_i C_i S_i\Bigr) \Bigl(\sum_i S_i + 1 c^T\Bigr)^{-1},"
        r"\quad S_i = C_i^T C_i + \epsilon I",
        rule=of_matrices(matrices.ace),
    ),
    "knots": Method(
        title="KnOTS-TIES",
        paper="Stoica et al., Model merging with SVD to tie the knots, ICLR 2025",
        reads=(*OF_MATRICES, "keep"),
        explanation="TIES in common coordinates: task vectors side by side share their left "
        "singular vectors, and TIES merges the right ones. Made for LoRA adapters.",
        formula=r"\theta + \lambda \, U S \, \mathrm{ties}_k(V_1, \dots, V_q)^T,"
        r"\quad [t_1 \dots t_q] = U S [V_1^T \dots V_q^T]",
        rule=of_matrices(matrices.knots),
    ),
    "consensus": Method(
        title="Consensus TA",
        paper="Wang et al., Localizing task information, ICML 2024",
        reads=("weights", "scaling", "after", "norms"),
        explanation="The sum of the task vectors, without the entries that matter to fewer than "
        "two sources (TALL masks at 0.4; its authors choose that on labels).",
        formula=r"\theta + \lambda \, m \odot T, \quad T = \sum_i t_i, \quad"
        r"m = [\#\{i : |t_i| > 0.4\,|T - t_i|\} \ge 2]",
        rule=rules.consensus,
        defaults={"scaling": 0.3},
    ),
    "pcb": Method(
        title="PCB-Merging",
        paper="Du et al., Parameter competition balancing, NeurIPS 2024",
        reads=("weights", "keep", "scaling", "after"),
        explanation="Weighs each entry by how it competes within its source and with the others, "
        "and drops all but the share k that competes most.",
        formula=r"\theta + \lambda \frac{\sum_i t_i \beta_i}{\sum_i \beta_i}, \quad"
        r"\beta_i = \mathrm{top}_k\, e^{q n_i^2}"
        r"\tanh(t_i {\textstyle\sum_j} \mathrm{sgn}(t_j) n_j)",
        prepare=whole.pcb,
        trims=True,
        defaults={"keep": 0.05, "variation": 0.0, "scaling": 1.2},
    ),
    "opcm": Method(
        title="OPCM",
        paper="Tang et al., Merging models on the fly, NeurIPS 2025",
        reads=("weights", "scaling", "matrices", "qkv"),
        explanation="One source after the other, in their order: of each, what lies across the "
        "merge so far. Memory does not grow, and one more can be added at any time.",
        formula=r"\tau_k \propto \tau_{k-1} + P_k(t_k), \quad"
        r"\| \tau_q \| = \tfrac{1}{q} \sum_i \| t_i \|",
        prepare=whole.opcm,
        whole=True,
    ),
    "inverse-norm": Method(
        title="Inverse-norm weights (after NAN)",
        paper="after Si et al., NAN, 2025, whose formula we could not read: a variant of ours",
        reads=("weights", "scaling", "after"),
        explanation="Task arithmetic that gives a source the less weight, the longer its task "
        "vector is.",
        formula=r"\theta + \lambda \sum_i c_i t_i, \quad c_i \propto \alpha_i / \| t_i \|,"
        r"\quad \sum_i c_i = 1",
        prepare=whole.inverse_norm,
    ),
    "regmean": Method(
        title="RegMean",
        paper="Jin et al., Dataless knowledge fusion, ICLR 2023",
        reads=("weights", "off_diagonal", *DRAWN),
        explanation="Linear regression layer by layer: outputs come near to each source's own, on "
        "the inputs that the source itself gives the layer.",
        formula=r"W = \Bigl(\sum_i W_i G_i\Bigr) \Bigl(\sum_i G_i\Bigr)^{-1},"
        r"\quad G_i = \overline{x_i x_i^T}",
        layers=layers.regmean,
        revision=1,  # Gram matrices in doubles
        own_images=True,
        defaults={"samples": 512},
    ),
    "regmean-plus-plus": Method(
        title="RegMean++",
        paper="Nguyen et al., RegMean++, 2025",
        reads=("weights", "off_diagonal", *DRAWN),
        explanation="RegMean along the merge: the inputs of a block come through the blocks merged "
        "so far.",
        formula=r"W = \Bigl(\sum_i W_i G_i\Bigr) \Bigl(\sum_i G_i\Bigr)^{-1},"
        r"\quad G_i = \overline{x_i x_i^T} \text{ along the merge}",
        layers=layers.regmean_plus_plus,
        revision=1,  # Gram matrices in doubles
        own_images=True,
        defaults={"samples": 512},
    ),
    "fisher": Method(
        title="Fisher merging",
        paper="Matena and Raffel, Merging models with Fisher-weighted averaging, NeurIPS 2022",
        reads=("weights", "scaling", *DRAWN),
        explanation="Averages each parameter by how much each source's predictions depend on it: "
        "the diagonal of its Fisher information, one image at a time.",
        formula=r"\frac{\sum_i w_i F_i \odot \theta_i}{\sum_i w_i F_i},"
        r"\quad F_i = \overline{(\partial \log p_y / \partial \theta_i)^2}",
        prepare=trained.fisher,
        heads=True,
        own_images=True,
        steps=lambda recipe: len(recipe.sources),
        defaults={"samples": 512},
    ),
    "esm": Method(
        title="ESM",
        paper="Essential subspace merging, 2026, as its released code computes it",
        reads=("weights", "scaling", *DRAWN),
        explanation="TSV-M's construction on the directions in which a source's own inputs move "
        "its layers' outputs, weighted towards large changes.",
        formula=r"\theta + 2 \lambda \, \bar\sigma_P \, \mathrm{polar}([P_1 \dots P_q]) \,"
        r"\bar\sigma_A \, \mathrm{polar}([A_1; \dots; A_q])",
        layers=layers.esm,
        revision=1,  # Gram matrices in doubles, and eigenvectors by the smaller side
        own_images=True,
        whole=True,
        defaults={"samples": 256},
    ),
    "fit": Method(
        title="Fit",
        paper="ours: docs/fit.md",
        reads=("weights", "keep", "scaling", "start", "ridge", *DRAWN),
        explanation="Layer by layer along the merge, the weights whose outputs come nearest to "
        "what each source computes on its own task's images, so that earlier errors are repaired.",
        formula=r"W = \arg\min_W \sum_i \| W x_i - y_i \|^2 + \mu \| W - W_0 -"
        r"{\textstyle\sum_i} c_i t_i \|^2",
        layers=fit.fit,
        own_images=True,
        defaults={"samples": 512},
    ),
    "adamerging": Method(
        title="AdaMerging",
        paper="Yang et al., AdaMerging, ICLR 2024",
        reads=TRAINED,
        explanation="Trains a coefficient for each source and tensor so that the merged model is "
        "sure of its answers on unlabeled images; ++ trims the task vectors first.",
        formula=r"\theta_p + \sum_i \Lambda_{ip} t_{ip}, \quad"
        r"\Lambda = \arg\min \sum_i \overline{H(p(x_i))}",
        prepare=trained.adamerging,
        heads=True,
        trims=True,
        own_images=True,
        trains=True,
        steps=trained.steps_of(trained.ADA_STEPS),
        defaults={"samples": 512},
    ),
    "samerging": Method(
        title="SAMerging",
        paper="after SAMerging, 2026; its SAM step is repaired, the released one does nothing",
        reads=(*TRAINED[1:], "rho"),
        explanation="Trains the same coefficients to give each source's own predictions on its "
        "task's unlabeled images, at the worst point nearby.",
        formula=r"\theta_p + \sum_i \Lambda_{ip} t_{ip}, \quad"
        r"\Lambda = \arg\min \sum_i \max_{\|\epsilon\| \le \rho} \mathrm{KL}(p_i \| p)",
        prepare=trained.samerging,
        heads=True,
        trims=True,
        own_images=True,
        trains=True,
        steps=trained.steps_of(trained.SAM_STEPS),
        defaults={"samples": 512},
    ),
    "emr": Method(
        title="EMR-Merging",
        paper="Huang et al., EMR-Merging, NeurIPS 2024",
        reads=("weights",),
        explanation="One unified change, the elected sign with the largest magnitude that agrees; "
        "a task adds its source's mask and scale. A model per task, not one for all.",
        formula=r"\theta + \lambda_i \, (m_i \odot \tau), \quad m_i = [t_i \odot \tau > 0],"
        r"\quad \lambda_i = \frac{\sum |t_i|}{\sum |m_i \odot \tau|}",
        several=lambda models, recipe: TaskModels(
            models.config, models.base, dict(zip(recipe.sources, models.sources, strict=True))
        ),
        per_task=True,
    ),
    "smile": Method(
        title="SMILE",
        paper="Tang et al., SMILE, 2024",
        reads=(),
        explanation="The base with a low-rank expert of each source in every linear layer; each "
        "token goes to the source whose leading direction it meets most. Not one model.",
        formula=r"W x + U_i S_i V_i^T x, \quad i = \arg\max_i \| v_{i1}^T x \|",
        several=smile.Smile,
    ),
    "ensembling": Method(
        title="Ensembling",
        paper="Dash and Cooper, Model averaging, JMLR 2004",
        reads=("weights",),
        explanation="Averages the sources' image embeddings: all models run, none is merged. "
        "What merging tries to reach at the cost of one model.",
        formula=r"\sum_i \alpha_i f_{\theta_i}(x)",
    ),
}


def as_read(recipe: MergeRecipe) -> MergeRecipe:
    """The recipe with every field that its method does not read as it usually is: what is not
    recorded of a merge cannot decide it."""
    reads = {"family", "method", "sources", *METHODS[recipe.method].reads}
    usual = {name: field.default for name, field in FIELDS.items()} | {"variation": 0.0}
    unread = {name: value for name, value in usual.items() if name not in reads}
    return dataclasses.replace(recipe, **unread)
