"""Plans of the six experiments: generators that yield cells and are sent their records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass

from ..data.calibration import pool_size
from ..families.family import Family
from ..methods import METHODS
from ..runs.cells import Cell
from ..runs.store import RunRecord
from ..types import MergeRecipe
from . import search

Plan = Generator[Cell, RunRecord, None]

RANDOM_DRAWS = 20
SEEDS = (42, 1, 2)
SIZES = (16, 32, 64, 128, 256, 512)
GRID_KEEP = (0.1, 0.2, 0.4, 0.6, 0.8)
GRID_VARIATION = (0.0, 0.05, 0.1, 0.15, 0.2)
RIVALS = ("m-ties", "ties", "dare", "task-arithmetic", "simple-average")  # of the paper's Table 1
REFERENCES = ("base", "own")
# Of a method, at the settings that were chosen for it.
VARIANTS = {
    "ties": {"one threshold": {"scope": "global"}},
    "m-ties": {"as released": {"inputs_from": "pretrained", "scores": "squared"}},
}


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


def _cell(recipe: MergeRecipe, tasks: tuple[str, ...], label: str = "", **changes) -> Cell:
    changed = dataclasses.replace(recipe, **changes)
    return Cell(label=label or METHODS[changed.method].title, recipe=changed, tasks=tasks)


def _references(recipe: MergeRecipe, tasks: tuple[str, ...]) -> Cell:
    """The reference cell: the ensemble, with the base and the sources beside it."""
    ensemble = _cell(recipe, tasks, method="ensembling")
    return dataclasses.replace(ensemble, beside=REFERENCES)


def methods(family: Family, start: MergeRecipe) -> Plan:
    """Plan of every method at the settings that are best on validation images (Table 1)."""
    tasks = own_tasks(family, start)
    yield _references(start, tasks)
    for method, row in METHODS.items():
        if method != "ensembling":
            recipe = yield from search.best(method, start, tasks)
            yield _cell(recipe, tasks)
            for label, changes in VARIANTS.get(method, {}).items():
                yield _cell(recipe, tasks, f"{row.title}, {label}", **changes)


def keep_and_variation(family: Family, start: MergeRecipe) -> Plan:
    """Plan of M-TIES on a grid of k and e, with TIES at the same k where e is 0."""
    tasks = own_tasks(family, start)
    for keep in GRID_KEEP:
        for variation in GRID_VARIATION:
            method = "m-ties" if variation else "ties"
            if variation <= keep:
                label = f"k = {keep:g}, e = {variation:g}"
                yield _cell(start, tasks, label, method=method, keep=keep, variation=variation)


def sample_size(family: Family, start: MergeRecipe) -> Plan:
    """Plan of M-TIES on calibration draws of several sizes and seeds (Tables 2 and 3)."""
    tasks = own_tasks(family, start)
    most = pool_size(family.calibration_pool, family.pool_tasks(start.sources))
    for seed in SEEDS:
        for samples in (n for n in SIZES if n <= most):
            label = f"{samples} images, seed {seed}"
            yield _cell(start, tasks, label, method="m-ties", samples=samples, seed=seed)


def out_of_domain(family: Family, start: MergeRecipe) -> Plan:
    """Plan of tasks that no source was fine-tuned on, at the settings of `methods` (Table 4)."""
    own = family.own_tasks(family.sources)
    tasks = tuple(task for task in family.tasks if task not in own)
    if not tasks:
        return
    yield dataclasses.replace(_references(start, tasks), beside=("base",))
    for method in RIVALS:
        recipe = yield from search.best(method, start, own_tasks(family, start))
        yield _cell(recipe, tasks)


def few_blocks(family: Family, start: MergeRecipe) -> Plan:
    """Plan of node-wise treatment of some blocks only, accuracy against cost (Tables 5 and 6)."""
    tasks, count = own_tasks(family, start), family.model.blocks
    whole = yield _cell(start, tasks, "all blocks", method="m-ties", blocks=None)
    means = {block: float(nodes.mean()) for block, nodes in whole.scores().items()}
    by_loss = sorted(means, key=lambda block: -means[block])
    yield _cell(start, tasks, "no block (TIES)", method="m-ties", blocks=())
    chosen = {f"block {b}": (b,) for b in range(count)}
    chosen |= {f"first {n}": tuple(range(n)) for n in range(2, count)}
    chosen |= {f"last {n}": tuple(range(count - n, count)) for n in range(2, count)}
    chosen |= {f"best {n} by M-Loss": tuple(sorted(by_loss[:n])) for n in range(2, count)}
    chosen |= {f"as the paper: {','.join(map(str, few))}": few for few in papers_blocks(count)}
    for label, blocks in chosen.items():
        yield _cell(start, tasks, label, method="m-ties", blocks=blocks)


def papers_blocks(count: int) -> tuple[tuple[int, ...], ...]:
    """The paper's choices of blocks, "0,8,9,10" and "8,9,10" of 12, for that many blocks.

    They are the first and the three before the last, and those three alone.
    """
    last = tuple(b for b in range(count - 4, count - 1) if b > 0)
    return ((0, *last), last) if last else ()


def controls(family: Family, start: MergeRecipe) -> Plan:
    """Plan of controls: M-TIES with random or reversed ranks, and with equal rates of all rows."""
    tasks, k, e = own_tasks(family, start), start.keep, start.variation
    yield _cell(start, tasks, method="m-ties", blocks=None)
    yield _cell(start, tasks, method="ties")
    mties = dataclasses.replace(start, method="m-ties", blocks=None)
    yield _cell(mties, tasks, "reversed ranks", ranks="reversed")
    yield _cell(mties, tasks, f"rows at k = {k:g}", variation=0.0)
    yield _cell(mties, tasks, f"rows at the mean rate {k - e / 2:g}", keep=k - e / 2, variation=0.0)
    for draw in range(RANDOM_DRAWS):
        yield _cell(mties, tasks, f"random ranks, draw {draw}", ranks="random", seed=draw)


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
        question="How do k and e change the accuracy, with TIES as the column e = 0?",
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
        question="Which blocks need node-wise treatment, and what does it cost?",
        paper="Table 5 and Table 6",
        published=("paper_table5_fewlayer_vitb32.csv", "paper_table6_fewlayer_vitl14.csv"),
        plan=few_blocks,
    ),
    "controls": Experiment(
        title="Controls",
        question="Is it M-Loss that helps, or would any ranks do?",
        paper="of M-Loss",
        published=("released_logs_six_task_controls_vitb32.csv",),
        plan=controls,
    ),
}
