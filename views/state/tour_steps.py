"""Guided tour's steps as data, and validation of its link field. No streamlit, no torch.

A step opens a page with settings of its own. What it says holds for every family: what depends on
measurements is read from them (tour_facts.py) or left to the eye.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEFT = "left-"  # before the number of the step at which the tour was left


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stop of the tour.

    Args:
        page: where it is, as nav.TITLES names it.
        words: what to see and to do there.
        question: for the class; its answer is folded away.
        settings: fields of the link that differ from a first visit's.
        few_blocks: whether only the first and a few of the last blocks are chosen.
        fact: which measured sentence (tour_facts.FACTS) belongs to the answer.
        target: the part of the Explore view that it speaks of, a class of browser/explore.html.
    """

    title: str
    page: str
    words: str
    question: str
    answer: str
    settings: Mapping[str, str] = field(default_factory=dict)
    few_blocks: bool = False
    fact: str = ""
    target: str = ""


STEPS = (
    Step(
        title="What is merging?",
        page="sources",
        words="A **model** here is a network that looks at a picture and names what it shows. "
        "What it has learned is a long list of numbers, its **weights**. All models below began "
        "as one, the **base**, and each was trained further on a task of its own: it was "
        "**fine-tuned**. We call them **sources**. **Merging** makes one model of them, by "
        "averaging their weights number by number. The table says how often each is right on its "
        "own task, and how often the base is. The range in brackets is the **95 % interval**: "
        "with other pictures of the same kind, nineteen of twenty such ranges would hold the "
        "true share.",
        question="Why not keep all the sources and ask each of them?",
        answer="That works, and is called an **ensemble**: it is usually more accurate. But it "
        "needs the memory and the time of all sources together, and a merged model only those of "
        "one. And averaging does not always work: in the [contrast "
        "family](compatibility?family=contrast) there is a source that cannot be merged with the "
        "others.",
    ),
    Step(
        title="What is a node?",
        page="theory",
        words="A network is made of **blocks**, one after the other, and a block has many "
        "**nodes**. A node adds up its inputs, each times a weight: its **pre-activation**. Then "
        "it bends that sum with a fixed curve, the **activation**. Merging averages the sums and "
        "bends once; the ensemble bends each source's sum and averages after. The gap between "
        "the two is **M-Loss**. Move *Shift s*, which says how far the sources' sums lie apart, "
        "and look at the number *Exact*: it is the M-Loss to expect.",
        question="Which activation would give no M-Loss at all?",
        answer="A straight line: then averaging before it and after it is the same. Choose "
        "*leaky ReLU* and set its slope to 1 to see that. M-Loss needs both: a curve that bends, "
        "and sources that differ there.",
        settings={"theory_q": "2", "theory_s": "0.5"},
    ),
    Step(
        title="Hover here",
        page="explore",
        words="Each row of the map is a block, the input below and the output above; each cell "
        "is a group of neighbouring nodes. The brighter it is, the larger their M-Loss, measured "
        "on **calibration images**: a few pictures of which nobody needs to know what they show. "
        "Point at a cell, or tap it: block, nodes and number appear. Beside the map stand each "
        "row's mean, what a merge keeps of it, and the accuracy once the block is merged.",
        question="Which row has the highest mean? And does one bright cell make a bright row?",
        answer="Scale *log* shows small differences between rows, *linear* only the largest "
        "cells: switch between them. The rows' means tell what the whole block loses.",
        fact="brightest",
        target="left",
    ),
    Step(
        title="Why do these rows glow?",
        page="explain",
        words="One node is taken apart here: the map's highest, or the cell that you clicked. "
        "**Curvature** says how strongly the activation bends where the node works, **variance** "
        "how far the sources' sums lie apart there. Half of their product is nearly the M-Loss. "
        "The first sentence says which of the two is large.",
        question="Do the brightest rows glow because the curve bends there, or because the "
        "sources disagree there?",
        answer="Two maps of all nodes stand further down: look which of them has the same bright "
        "rows as M-Loss. Fine-tuning moves some blocks more than others; where it moved them "
        "little, the sources still agree.",
        fact="reasons",
    ),
    Step(
        title="Move k",
        page="explore",
        words="What fine-tuning changed, source minus base, is a **task vector**. Most of its "
        "entries are small. **TIES** keeps only the largest ones: the share **k**, the **keep "
        "rate**. Where the kept entries of two sources have opposite signs it takes the side "
        "that weighs more. Move k: the readouts below it follow while you drag (≈), and are "
        "measured when you let go. The ring (○) is the setting before.",
        question="What happens at k = 1, and what if k is very small?",
        answer="At k = 1 nothing is dropped: all small changes stay, and get in each other's "
        "way. With a very small k little is left of what was learned, and the merged model comes "
        "near the base. The best k lies between, and it must be chosen on other pictures than "
        "those that judge it.",
        settings={"method": "ties"},
        target="right",
    ),
    Step(
        title="Move e",
        page="explore",
        words="**M-TIES** is TIES that looks at M-Loss: in each block the node of the lowest "
        "M-Loss keeps the share k, the one of the highest only k - e. **e** is the "
        "**variation**. The map now shows the share that each node keeps. Move e and watch the "
        "bright nodes of before lose more.",
        question="What is M-TIES at e = 0?",
        answer="TIES: every node keeps the same share. So TIES at the same k is the fair thing "
        "to compare M-TIES with, and the app puts it beside every merge.",
        settings={"by": "keep"},
        target="right",
    ),
    Step(
        title="Choose blocks",
        page="explore",
        words="M-Loss need not be used everywhere. Only the blocks ticked at the left of the map "
        "are trimmed node by node; the others are trimmed as TIES does it. Click a block's "
        "number to take it in or out. The paper uses few of them, which saves time: the other "
        "blocks need no measuring.",
        question="Which blocks would you choose, with the map in mind?",
        answer="Those where M-Loss differs much from node to node are where e can do something. "
        "Whether that helps is a question for measurement: the line under the average says it.",
        few_blocks=True,
        fact="brightest",
        target="left",
    ),
    Step(
        title="Does it help?",
        page="experiments",
        words="A higher number is not yet a gain. Two things decide. The **controls**: the same "
        "keep rates, dealt to the nodes at random; and rows trimmed alike. If those are as good, "
        "M-Loss was not the reason. And the **interval**: a difference whose 95 % interval holds "
        "zero is *not distinguishable*, whatever its sign. Press *Measure, or go on*: it merges "
        "with M-Loss, alike, at random and reversed. That takes some minutes; what is measured "
        "stays, so do it before the lesson.",
        question="M-TIES is ahead by a little. What must you know before you call that a gain?",
        answer="Whether the interval of the difference holds zero, and where random ranks and "
        "rows trimmed alike lie. *What follows* says it in words. If it says *not "
        "distinguishable*, that is the result, and an honest one.",
        settings={"experiment": "controls"},
    ),
    Step(
        title="Train your own expert",
        page="lab",
        words="Now a model of your own. Draw ten pictures of each of two things on the pad, or "
        "bring them as files; or choose one of the tasks. Press *Train*: in about a minute it "
        "learns to tell them apart. While it does, the model as it is so far is merged with "
        "others, and a map shows which blocks light up.",
        question="Does more training always make a better ingredient for a merge?",
        answer="The more it is trained, the further it moves from the base, and the more it can "
        "disturb the others: own accuracy rises or stays while M-Loss rises. Whether the merge "
        "suffers is measured, and the sentence below the picture says so, or that it cannot be "
        "told.",
        settings={"lab_task": "own pictures", "lab_steps": "100", "lab_rate": "0.0005"},
    ),
)  # fmt: skip


def target(value: str) -> str:
    """The part of the Explore view that the shown step speaks of; none where no step is shown."""
    number = place(value)
    return STEPS[number - 1].target if number is not None else ""


def check(value: str) -> None:
    """Raises ValueError unless a link's value is empty, a step's number, or "left-" and one."""
    number = value.removeprefix(LEFT)
    if number and not (number.isdecimal() and 1 <= int(number) <= len(STEPS)):
        raise ValueError(f"steps run from 1 to {len(STEPS)}")
    if value == LEFT:
        raise ValueError("it names no step")


def place(value: str) -> int | None:
    """The number, from 1, of the step that is shown; None where the tour is not on."""
    return None if not value or value.startswith(LEFT) else int(value)


def settings(value: str, blocks: int) -> dict[str, str]:
    """What the step of a link sets, whether it is shown or was left there.

    Args:
        blocks: how many the family has.
    """
    if not value:
        return {}
    step = STEPS[int(value.removeprefix(LEFT)) - 1]
    if not step.few_blocks:
        return dict(step.settings)
    few = sorted({0, *range(blocks)[-4:-1]})
    return {**step.settings, "blocks": ",".join(map(str, few))}
