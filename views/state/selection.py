"""Block selection logic: presets, choice by M-Loss, undo and redo, named choices. No streamlit.

A choice of blocks is M-TIES's: the blocks whose nodes are trimmed by M-Loss. As text, in a link,
it is "all", "none" or "0,8,9".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mloss_core.experiments.plans import papers_blocks

Blocks = tuple[int, ...]

STEPS = 50  # of undo
NAMED = 12  # choices with names: all of them travel in the link
NAME = re.compile(r"[\w -]{1,24}")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen blocks, what was chosen before (newest last), and what was undone (next last)."""

    blocks: Blocks
    past: tuple[Blocks, ...] = ()
    future: tuple[Blocks, ...] = ()


def choose(selection: Selection, blocks: Iterable[int]) -> Selection:
    """Chooses these blocks; what was undone is forgotten. The same blocks change nothing."""
    wanted = tuple(sorted(set(blocks)))
    if wanted == selection.blocks:
        return selection
    return Selection(blocks=wanted, past=(*selection.past, selection.blocks)[-STEPS:])


def undo(selection: Selection) -> Selection:
    """Back to the choice before; the first stays."""
    if not selection.past:
        return selection
    *past, blocks = selection.past
    future = (*selection.future, selection.blocks)
    return replace(selection, blocks=blocks, past=tuple(past), future=future)


def redo(selection: Selection) -> Selection:
    """Forward again to what was undone."""
    if not selection.future:
        return selection
    *future, blocks = selection.future
    past = (*selection.past, selection.blocks)
    return replace(selection, blocks=blocks, past=past, future=tuple(future))


def text(blocks: Iterable[int], count: int) -> str:
    """Chosen blocks of so many, as links hold them."""
    chosen = sorted(set(blocks))
    return "all" if len(chosen) == count else ",".join(map(str, chosen)) or "none"


def presets(count: int) -> dict[str, Blocks]:
    """Choices with a name of their own, the paper's scaled to so many blocks."""
    few = {f"Paper: {text(blocks, count)}": blocks for blocks in papers_blocks(count)}
    return {"All blocks": tuple(range(count)), "None": (), **few}


def top(losses: Mapping[int, float], most: int) -> Blocks:
    """The blocks of the highest M-Loss; of equals the first."""
    ordered = sorted(losses, key=lambda block: (-losses[block], block))
    return tuple(sorted(ordered[:most]))


def covered(losses: Mapping[int, float], blocks: Iterable[int]) -> float:
    """Share of all blocks' M-Loss that lies in the chosen ones; 1 where there is none at all."""
    total = sum(losses.values())
    return sum(losses.get(block, 0.0) for block in set(blocks)) / total if total else 1.0


def covering(losses: Mapping[int, float], share: float) -> Blocks:
    """The fewest blocks that hold at least this share of the M-Loss."""
    for most in range(len(losses)):
        if covered(losses, chosen := top(losses, most)) >= share - 1e-9:
            return chosen
    return tuple(sorted(losses))


def named(saved: str) -> dict[str, str]:
    """Choices with names from a link's field, "few:0,8;last:all".

    Raises:
        ValueError: a name or the whole is none.
    """
    choices: dict[str, str] = {}
    for part in filter(None, saved.split(";")):
        name, colon, blocks = part.partition(":")
        if not colon or not NAME.fullmatch(name) or name in choices:
            raise ValueError(f"write name:0,8,9 with ; between them, not {part[:40]!r}")
        choices[name] = blocks
    if len(choices) > NAMED:
        raise ValueError(f"it holds more than {NAMED} names")
    return choices


def with_name(saved: str, name: str, blocks: str) -> str:
    """The field with one more name, or with another choice under a name that it has.

    Raises:
        ValueError: the name has other signs than letters, digits, space, - and _, or there are
            too many.
    """
    name = " ".join(name.split())
    if not NAME.fullmatch(name):
        raise ValueError("a name has 1 to 24 letters, digits, spaces, - or _")
    choices = named(saved) | {name: blocks}
    if len(choices) > NAMED:
        raise ValueError(f"{NAMED} names are kept: forget one first")
    return written(choices)


def written(choices: Mapping[str, str]) -> str:
    """Choices with names as a link's field."""
    return ";".join(f"{name}:{blocks}" for name, blocks in choices.items())
