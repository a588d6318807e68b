"""How every source of both families is fine-tuned: the constants and the list."""

from dataclasses import dataclass

from .pretrain import BASE

SEED = 9
BATCH = 128
WARM_UP = 10
# Fine-tuning moves the early blocks: at RATE those before EARLY_BLOCKS, at LATE of it the rest. Sources that move all
# blocks alike merge far better than CLIP's do; sources that move the early ones alone hardly merge.
RATE = 1.15e-3
EARLY_BLOCKS = 6
LATE = 0.04
# Set beforehand from how hard a task is: long where accuracy rises slowly, short where the gain comes at once.
STEPS = {
    "mnist": 39,
    "street_digits": 98,
    "letters": 117,
    "hiragana": 91,
    "signs": 91,
    "emoji": 91,
    "textures": 65,
    "land_use": 26,
}
SLOW, FAST = 0.4, 3.0  # parts of RATE for the contrast family
VARIED_LATE = 0.08  # these were trained before the demo family's LATE was halved
VARIED = ["letters", "textures"]
OTHER = "other"  # the second base's name among the work files: another seed, far fewer steps
OTHER_SEED, OTHER_PRETRAINING = 101, 360
OTHER_STEPS = 300  # until letters are read decently from so poor a base


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """One source: its name, task and base, and what is special about it.

    `late` is the part of the rate that later blocks get, `whole` trains what lies outside the blocks too, `pulled`
    holds embeddings of other tasks' pictures where the base had them.
    """

    name: str
    task: str
    steps: int
    base: str = BASE
    rate: float = RATE
    late: float = LATE
    whole: bool = False
    pulled: bool = True


def own_sources() -> list[Tuning]:
    """The demo family's sources."""
    return [Tuning(name=task, task=task, steps=steps) for task, steps in STEPS.items()]


def contrast_sources() -> list[Tuning]:
    """The contrast family's: two tasks at two more rates, and letters from another base."""
    varied = [
        Tuning(
            name=f"{task}_{word}", task=task, steps=STEPS[task], rate=part * RATE, late=VARIED_LATE
        )
        for task in VARIED
        for word, part in (("slow", SLOW), ("fast", FAST))
    ]
    other = Tuning(
        name="letters_other",
        task="letters",
        steps=OTHER_STEPS,
        base=OTHER,
        late=1.0,
        whole=True,
        pulled=False,
    )
    return [*varied, other]


def tunings() -> list[Tuning]:
    """All of them."""
    return own_sources() + contrast_sources()
