"""State dicts from unpickled data: mappings, whole modules and TorchScript objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .lazy_tensor import FormatError
from .pickle_reader import OpaqueObject, Strided

# Training scripts keep the weights under one of these, beside optimizer, epoch and so on.
HOLDERS = ("state_dict", "model_state_dict", "model", "module")
GROUPS = ("_parameters", "_buffers", "_modules")
ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
DEEPEST = 40
MOST_VISITS = 1_000_000  # an object may refer to another many times: the walk must end


def state_dict(value: Any) -> dict[str, Strided]:
    """Every tensor by its name in torch's state_dict(); raises FormatError."""
    return {name: leaf for name, leaf in _walk(_held(value)) if isinstance(leaf, Strided)}


def told_activation(value: Any) -> str | None:
    """The activation of a pickled module; None where its classes name none or several."""
    objects = [leaf for _, leaf in _walk(_held(value)) if isinstance(leaf, OpaqueObject)]
    activations = {ACTIVATIONS.get(leaf.kind.rpartition(".")[2]) for leaf in objects} - {None}
    states = [leaf.state for leaf in objects if isinstance(leaf.state, dict)]
    if any(state.get("approximate", "none") != "none" for state in states):
        return None  # a GELU by tanh
    return activations.pop() if len(activations) == 1 else None


def is_module(value: Any) -> bool:
    """Whether the pickle holds a whole module."""
    return isinstance(_held(value), OpaqueObject)


def _held(value: Any) -> Any:
    """The state dict or module inside a training script's wrapper dicts."""
    for _ in range(3):
        inner = [value[k] for k in HOLDERS if k in value] if isinstance(value, dict) else []
        if not inner or not isinstance(inner[0], dict | OpaqueObject):
            break
        value = inner[0]
    return value


def _walk(root: Any) -> Iterator[tuple[str, Strided | OpaqueObject]]:
    """Tensors and objects below a value, with their dotted names."""
    open_ = [("", root, 0)]
    for _ in range(MOST_VISITS):
        if not open_:
            return
        name, value, depth = open_.pop()
        if depth > DEEPEST:
            break
        if isinstance(value, Strided | OpaqueObject):
            yield name, value
        dot = name + "." if name else ""
        children = [(dot + str(key), child, depth + 1) for key, child in _children(value)]
        open_.extend(reversed(children))
    raise FormatError("nests its objects too deep")


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
