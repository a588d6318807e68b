"""How every source of both families is fine-tuned: the constants and the list."""

from dataclasses import dataclass

from .pretrain import BASE

SEED = 9
BATCH = 128
WARM_UP = 10
RATE = 5e-4
# Set beforehand from how hard a task is: long where accuracy rises slowly, short where the gain comes at once.
STEPS = {
    "mnist": 30,
    "street_digits": 90,
    "letters": 115,
    "hiragana": 90,
    "signs": 75,
    "emoji": 90,
    "textures": 75,
    "fashion": 65,
}
SLOW, FAST = 0.4, 3.0  # parts of RATE for the contrast family
VARIED = ["letters", "textures"]
OTHER = "other"  # the second base's name among the work files: another seed, far fewer steps
OTHER_SEED, OTHER_PRETRAINING = 101, 360
OTHER_STEPS = 150  # until letters are read decently from so poor a base


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One source: its name, task and base, and what is special about it.

    `pulled` holds embeddings of other tasks' pictures where the base had them.
    """

    name: str
    task: str
    steps: int
    base: str = BASE
    rate: float = RATE
    pulled: bool = True


def own_sources() -> list[Tuning]:
    """The demo family's sources."""
    return [Tuning(name=task, task=task, steps=steps) for task, steps in STEPS.items()]


def contrast_sources() -> list[Tuning]:
    """The contrast family's: two tasks at two more rates, and letters from another base."""
    varied = [
        Tuning(name=f"{task}_{word}", task=task, steps=STEPS[task], rate=part * RATE)
        for task in VARIED
        for word, part in (("slow", SLOW), ("fast", FAST))
    ]
    other = Tuning(
        name="letters_other",
        task="letters",
        steps=OTHER_STEPS,
        base=OTHER,
        pulled=False,
    )
    return [*varied, other]


def tunings() -> list[Tuning]:
    """All of them."""
    return own_sources() + contrast_sources()
