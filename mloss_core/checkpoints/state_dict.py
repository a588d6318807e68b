"""State dicts in unpickled data, by their place: mappings, whole modules, TorchScript objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .files import FormatError
from .lazy_tensor import Stored
from .pickle_reader import OpaqueObject, Strided

# Training scripts keep the weights under one of these, beside optimizer, epoch and so on.
HOLDERS = ("state_dict", "model_state_dict", "model", "module")
GROUPS = ("_parameters", "_buffers", "_modules")
ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
DEEPEST = 40
MOST_VISITS = 1_000_000  # an object may refer to another many times: the walk must end


@dataclass(frozen=True)
class StateDict:
    """A state dict, or what a whole module's would be.

    Args:
        tensors: by their names in torch's state_dict().
        module: whether the file holds the whole module.
        activation: that the module's classes tell; None where they name none or several.
    """

    tensors: Mapping[str, Stored]
    module: bool = False
    activation: str | None = None


def state_dicts(value: Any, stored: Callable[[Strided], Stored]) -> dict[str, StateDict]:
    """Every state dict in a value, by the keys that lead to it, joined by dots.

    Args:
        stored: gives the values of a tensor.

    Raises:
        FormatError: the value has no end, or two state dicts have one place.
    """
    found: dict[str, StateDict] = {}
    for place, holder in _walk(value, _dicts):
        if isinstance(holder, OpaqueObject):
            leaves = dict(_walk(holder, _children))
        else:
            leaves = dict(_children(holder))
        tensors = {str(k): stored(leaf) for k, leaf in leaves.items() if isinstance(leaf, Strided)}
        if not tensors:
            continue
        if place in found:
            remedy = "keep one of them in the file"
            raise FormatError(f"holds two models of the name {place[:80]}", remedy)
        module = isinstance(holder, OpaqueObject)
        found[place] = StateDict(tensors, module, _activation(leaves) if module else None)
    return found


def flat(dicts: Mapping[str, StateDict]) -> dict[str, Stored]:
    """The tensors of all state dicts, or of those that a training script keeps weights under."""
    for _ in range(3):
        inner = (
            key for key in HOLDERS if any(f"{place}.".startswith(f"{key}.") for place in dicts)
        )
        if (key := next(inner, None)) is None:
            break
        held = {place: d for place, d in dicts.items() if f"{place}.".startswith(f"{key}.")}
        dicts = {place.removeprefix(key).removeprefix("."): d for place, d in held.items()}
    return {
        dotted(place, name): tensor
        for place, held in dicts.items()
        for name, tensor in held.tensors.items()
    }


def dotted(place: str, name: object) -> str:
    """A name below a place."""
    return f"{place}.{name}" if place else str(name)


def _activation(leaves: Mapping[Any, Any]) -> str | None:
    objects = [leaf for leaf in leaves.values() if isinstance(leaf, OpaqueObject)]
    activations = {ACTIVATIONS.get(leaf.kind.rpartition(".")[2]) for leaf in objects} - {None}
    states = [leaf.state for leaf in objects if isinstance(leaf.state, dict)]
    if any(state.get("approximate", "none") != "none" for state in states):
        return None  # a GELU by tanh
    return activations.pop() if len(activations) == 1 else None


Children = Callable[[Any], Iterator[tuple[str | int, Any]]]


def _walk(root: Any, children: Children) -> Iterator[tuple[str, Any]]:
    """A value and all below it, with their dotted names."""
    open_ = [("", root, 0)]
    for _ in range(MOST_VISITS):
        if not open_:
            return
        name, value, depth = open_.pop()
        if depth > DEEPEST:
            break
        yield name, value
        below = [(dotted(name, key), child, depth + 1) for key, child in children(value)]
        open_.extend(reversed(below))
    raise FormatError("nests its objects too deep")


def _dicts(value: Any) -> Iterator[tuple[str | int, Any]]:
    """The dicts and objects among a mapping's entries."""
    for key, child in value.items() if isinstance(value, dict) else ():
        if isinstance(child, dict | OpaqueObject):
            yield key, child


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    """A mapping's entries, a module's parameters, kept buffers and modules."""
    if isinstance(value, dict):
        yield from value.items()
    if not isinstance(value, OpaqueObject) or not isinstance(value.state, dict):
        return
    if value.kind.startswith("__torch__"):
        yield from value.state.items()
        return
    passing = value.state.get("_non_persistent_buffers_set")
    for group in GROUPS:
        entries = value.state.get(group)
        for key, child in entries.items() if isinstance(entries, Mapping) else ():
            if not (group == "_buffers" and isinstance(passing, list) and key in passing):
                yield key, child
