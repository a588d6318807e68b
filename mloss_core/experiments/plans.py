"""Plans of the experiments: steps of cells, as data; that of experts is in `experts`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data.calibration import pool_size
from ..families.family import Family
from ..fields import FIELDS
from ..methods import METHODS
from ..recipe import published
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe
from .experts import experts
from .search import candidates, of_paper, replaced, searched
from .steps import Plan, Step, cell_of

RANDOM_DRAWS = 20  # at the recipe's own k
FEWER_DRAWS = 5  # at each other k of the grid
SEEDS = (42, 1, 2)
SIZES = (16, 32, 64, 128, 256, 512)
GRID_KEEP = (0.1, 0.2, 0.4, 0.6, 0.8)
GRID_VARIATION = (0.0, 0.05, 0.1, 0.15, 0.2)
RIVALS = ("m-ties", "ties", "dare", "task-arithmetic", "simple-average")  # of the paper's Table 1
REFERENCES = ("base", "own")
ALIKE = "rows trimmed alike"  # the control that trims rows at one rate, without M-Loss
# Of a method, at the settings that were chosen for it.
VARIANTS = {
    "ties": {"one threshold": {"scope": "global"}},
    "m-ties": {
        ALIKE: {"ranks": "equal"},
        "as released": {"inputs_from": "pretrained", "scores": "squared"},
    },
}
# Settings of M-TIES that are tested beside the best, since validation hardly tells them apart.
RUNNERS_UP = 5


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment: its title, question and plan.

    Args:
        question: what it answers, in a line.
        paper: the paper's table, as docs/findings.md heads it.
        published: files under assets/paper with the paper's own numbers.
        plan: of a family and a recipe that gives sources, k, e, lambda, samples and seed.
    """

    title: str
    question: str
    paper: str
    published: tuple[str, ...]
    plan: Callable[[Family, MergeRecipe], Plan]


def own_tasks(family: Family, recipe: MergeRecipe) -> tuple[str, ...]:
    """The tasks that the recipe's sources were fine-tuned on."""
    return family.own_tasks(recipe.sources)


def _references(recipe: MergeRecipe, tasks: tuple[str, ...]) -> Cell:
    """The reference cell: the ensemble, with the base and the sources beside it."""
    ensemble = cell_of(recipe, tasks, method="ensembling")
    return dataclasses.replace(ensemble, beside=REFERENCES)


def methods(family: Family, start: MergeRecipe) -> Plan:
    """Plan of every method at the settings that are best on validation images (Table 1)."""
    tasks = own_tasks(family, start)
    steps = [Step(cells=(_references(start, tasks),))]
    for method in METHODS:
        if method == "ensembling":
            continue
        usual = published(method, family, start.sources)
        several = min(RUNNERS_UP, len(list(candidates(method, start, usual))) - 1)
        others = several if method == "m-ties" else 0

        def test(best: Sequence[MergeRecipe], method=method, others=others) -> list[Cell]:
            return _tested(best[0], tasks) + _runners_up(best, tasks, others)

        following = 1 + len(VARIANTS.get(method, {})) + others
        steps.append(searched(method, start, tasks, test, following, usual))
    return tuple(steps)


def _tested(recipe: MergeRecipe, tasks: tuple[str, ...]) -> list[Cell]:
    """A method at its best settings, and its variants there."""
    title, variants = METHODS[recipe.method].title, VARIANTS.get(recipe.method, {})
    cells = [cell_of(recipe, tasks)]
    return cells + [cell_of(recipe, tasks, f"{title}, {v}", **c) for v, c in variants.items()]


def _runners_up(best: Sequence[MergeRecipe], tasks: tuple[str, ...], count: int) -> list[Cell]:
    """The next best settings, with the paper's own among them."""
    others = list(best[1 : 1 + count])
    behind = [recipe for recipe in best[1 + count :] if of_paper(recipe)]
    if others and behind:
        others[-1] = behind[0]
    title = METHODS[best[0].method].title
    return [cell_of(r, tasks, f"{title}, place {best.index(r) + 1}") for r in others]


def keep_and_variation(family: Family, start: MergeRecipe) -> Plan:
    """Plan of M-TIES on a grid of k and e, beside rows trimmed alike and, at e = 0, TIES."""
    tasks, cells = own_tasks(family, start), []
    start = dataclasses.replace(start, method="m-ties", blocks=None)
    for keep in GRID_KEEP:
        for variation in (e for e in GRID_VARIATION if e <= keep):
            label, values = f"k = {keep:g}, e = {variation:g}", {"keep": keep}
            if not variation:
                cells.append(cell_of(start, tasks, label, method="ties", variation=0.0, **values))
                continue
            values["variation"] = variation
            cells.append(cell_of(start, tasks, label, **values))
            cells.append(cell_of(start, tasks, f"{label}, {ALIKE}", ranks="equal", **values))
    return (Step(cells=tuple(cells)),)


def sample_size(family: Family, start: MergeRecipe) -> Plan:
    """Plan of M-TIES on calibration draws of several sizes and seeds (Tables 2 and 3)."""
    tasks, cells = own_tasks(family, start), []
    most = pool_size(family.calibration_pool, family.pool_tasks(start.sources))
    for seed in SEEDS:
        for samples in (n for n in SIZES if n <= most):
            label, draw = f"{samples} images, seed {seed}", {"samples": samples, "seed": seed}
            cells.append(cell_of(start, tasks, label, method="m-ties", **draw))
    return (Step(cells=tuple(cells)),)


def out_of_domain(family: Family, start: MergeRecipe) -> Plan:
    """Plan of tasks that no source was fine-tuned on, at the settings of `methods` (Table 4)."""
    own = family.own_tasks(family.sources)
    tasks = tuple(task for task in family.tasks if task not in own)
    if not tasks:
        return ()
    steps = [Step(cells=(dataclasses.replace(_references(start, tasks), beside=("base",)),))]

    def test(best: Sequence[MergeRecipe]) -> list[Cell]:
        cells = [cell_of(best[0], tasks)]
        if best[0].method == "m-ties":
            cells.append(cell_of(best[0], tasks, f"M-TIES, {ALIKE}", ranks="equal"))
        return cells

    for method in RIVALS:
        following = 2 if method == "m-ties" else 1
        steps.append(searched(method, start, own_tasks(family, start), test, following))
    return tuple(steps)


def few_blocks(family: Family, start: MergeRecipe) -> Plan:
    """Plan of M-TIES on some blocks only, accuracy against cost (Tables 5 and 6)."""
    tasks, count = own_tasks(family, start), family.model.blocks
    start = dataclasses.replace(start, method="m-ties", blocks=None)
    fixed = {f"block {b}": (b,) for b in range(count)}
    fixed |= {f"first {n}": tuple(range(n)) for n in range(2, count)}
    fixed |= {f"last {n}": tuple(range(count - n, count)) for n in range(2, count)}
    paper = {f"as the paper: {','.join(map(str, few))}": few for few in papers_blocks(count)}

    def others(records: Sequence[RunRecord]) -> list[Cell]:
        means = {block: float(nodes.mean()) for block, nodes in records[0].scores().items()}
        by_loss = sorted(means, key=lambda block: -means[block])
        best = {f"best {n} by M-Loss": tuple(sorted(by_loss[:n])) for n in range(2, count)}
        chosen = (fixed | best | paper).items()
        cells = [
            cell_of(start, tasks, "no block (TIES)", blocks=()),
            cell_of(start, tasks, ALIKE, ranks="equal"),
        ]
        return cells + [cell_of(start, tasks, label, blocks=blocks) for label, blocks in chosen]

    following = 2 + len(fixed) + max(0, count - 2) + len(paper)
    whole = cell_of(start, tasks, "all blocks")
    return (Step(cells=(whole,), then=others, following=following),)


def papers_blocks(count: int) -> tuple[tuple[int, ...], ...]:
    """The paper's choices of blocks, "0,8,9,10" and "8,9,10" of 12, for that many blocks.

    They are the first and the three before the last, and those three alone.
    """
    last = tuple(b for b in range(count - 4, count - 1) if b > 0)
    return ((0, *last), last) if last else ()


def controls(family: Family, start: MergeRecipe) -> Plan:
    """Plan of controls at each k of the grid, the start's first.

    M-TIES beside TIES, rows trimmed alike, reversed ranks, and ranks drawn at random.
    """
    tasks = own_tasks(family, start)
    keeps = dict.fromkeys((start.keep, *GRID_KEEP))
    draws = {keep: RANDOM_DRAWS if keep == start.keep else FEWER_DRAWS for keep in keeps}
    cells = [cell for keep in keeps for cell in _controls_at(keep, start, tasks, draws[keep])]
    return (Step(cells=tuple(cells)),)


def _controls_at(keep: float, start: MergeRecipe, tasks: tuple[str, ...], draws: int) -> list[Cell]:
    """M-TIES at a keep rate, and its controls, random ranks so many times."""
    variation, at = min(start.variation, keep), f"k = {keep:g}"
    mties = dataclasses.replace(start, method="m-ties", keep=keep, variation=variation, blocks=None)
    drawn = [(f"{at}: random ranks, draw {seed}", seed) for seed in range(draws)]
    return [
        cell_of(mties, tasks, f"{at}: M-TIES"),
        cell_of(mties, tasks, f"{at}: TIES", method="ties", variation=0.0),
        cell_of(mties, tasks, f"{at}: {ALIKE}", ranks="equal"),
        cell_of(mties, tasks, f"{at}: reversed ranks", ranks="reversed"),
        *(cell_of(mties, tasks, label, ranks="random", seed=seed) for label, seed in drawn),
    ]


PER_TASK = (4, 8, 16, 32, 64)  # images of each source's task that a fit sees
RIDGES = (1.0, 3.0, 30.0, 100.0)


def fit(family: Family, start: MergeRecipe) -> Plan:
    """Plan of our fit: its starts, ridges, numbers of images, and controls that see others."""
    tasks, usual = own_tasks(family, start), published("fit", family, start.sources)
    ours = replaced(start, "fit", usual)
    starts = FIELDS["start"].choices
    cells = [_references(start, tasks), cell_of(ours, tasks, "Fit")]
    for name, title in starts.items():
        alone = replaced(start, name, published(name, family, start.sources))
        cells.append(cell_of(alone, tasks, f"start alone: {title}"))
        if name != ours.start:
            cells.append(cell_of(ours, tasks, f"Fit from {title}", start=name))
    for ridge in RIDGES:
        cells.append(cell_of(ours, tasks, f"Fit, μ = {ridge:g}", ridge=ridge))
    for images in (n for n in PER_TASK if n * len(start.sources) < ours.samples):
        samples = images * len(start.sources)
        cells.append(cell_of(ours, tasks, f"Fit, {images} images per task", samples=samples))
    cells.append(cell_of(ours, tasks, "control: images of the next source's task", images="others"))
    cells.append(cell_of(ours, tasks, "control: noise for images", images="noise"))
    return (Step(cells=tuple(cells)),)


EXPERIMENTS: dict[str, Experiment] = {
    "methods": Experiment(
        title="Methods",
        question="Which method merges best, each at the settings that are best on validation?",
        paper="Table 1",
        published=("paper_table1_methods.csv",),
        plan=methods,
    ),
    "keep-and-variation": Experiment(
        title="Keep rate and variation",
        question="How do k and e change the accuracy, beside TIES and rows trimmed alike?",
        paper="k and e",
        published=("released_logs_m_ties_vitb32_keep_variation.csv",),
        plan=keep_and_variation,
    ),
    "samples": Experiment(
        title="Sample size and seed",
        question="How many calibration images does M-TIES need, and does their draw matter?",
        paper="Table 2 and Table 3",
        published=("paper_table2_sample_size.csv", "paper_table3_seeds.csv"),
        plan=sample_size,
    ),
    "out-of-domain": Experiment(
        title="Out of domain",
        question="How do merges do on tasks that no source was fine-tuned on?",
        paper="Table 4",
        published=("paper_table4_ood_vitb32.csv",),
        plan=out_of_domain,
    ),
    "few-blocks": Experiment(
        title="Few blocks",
        question="Which blocks need M-Loss, and what does it cost?",
        paper="Table 5 and Table 6",
        published=("paper_table5_fewlayer_vitb32.csv", "paper_table6_fewlayer_vitl14.csv"),
        plan=few_blocks,
    ),
    "controls": Experiment(
        title="Controls",
        question="Is it M-Loss that helps, or trimming by rows, or any ranks?",
        paper="of M-Loss",
        published=("released_logs_six_task_controls_vitb32.csv",),
        plan=controls,
    ),
    "fit": Experiment(
        title="Fit",
        question="What does merging by fitting activations need: which start, ridge and images?",
        paper="of our own method",
        published=(),
        plan=fit,
    ),
    "experts": Experiment(
        title="Heterogeneous experts",
        question="How do the rate and the steps of a fine-tune decide whether it merges?",
        paper="the Lab",
        published=(),
        plan=experts,
    ),
}
