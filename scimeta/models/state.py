"""What a module holds beside its parameters: seen to stay as it is when its forward function is called."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.utils import _pytree as pytree

_INNER = nn.Module().__dict__.keys() - {"training"}  # torch's own, which refer to what is looked at one by one
_BY_VALUE = (bool, int, float, complex, str, bytes, tuple)
_CONTAINERS = (dict, list, set, deque)


class HeldState:
    """The state of a module, which its forward function can read and not change.

    Attributes, buffers and parameters of the module and its children are looked at, and what stands in lists,
    dictionaries, sets and plain objects among them.

    Args:
        module: as it is to stay.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = type(module).__name__
        self._places = [place for name, child in module.named_modules() for place in _places(name, child)]
        tensors = {id(t): t for place in self._places for t in _values(place.then) if isinstance(t, Tensor)}
        self._tensors = [  # parameters would be a copy too many: writing to one is refused, not undone
            (t, t._version, None if isinstance(t, nn.Parameter) else t.detach().clone())
            for t in tensors.values()
            if not t.is_inference()
        ]

    def hold(self, forward: Callable[[], Any], given: dict[str, Tensor]) -> Any:
        """Return what ``forward`` returns, with the state as it was before, also after an error.

        Args:
            forward: calls the module.
            given: name -> tensor, what takes the place of the module's own meanwhile.

        Raises:
            ValueError: a tensor of the state has changed; or a number has, or there is a tensor where there was none,
                and a second call returns other values (which can be told where no transform of torch.func watches).
        """
        places = [*self._places, _place("", given)]
        versions = [(t, t._version) for t in given.values() if not t.is_inference()]
        versions += [(tensor, version) for tensor, version, _ in self._tensors]
        changed: Any = True  # as far as is known where an error comes out
        try:
            out = forward()
            changed = _changes(places, versions)
            if any(tensor for _, tensor in changed) or (changed and _concrete(out) and not _same(out, forward())):
                names = ", ".join(sorted({name for name, _ in changed}))
                raise ValueError(
                    f"functional cannot take this module: the forward function of {self._module} changes {names}, and "
                    "apply(params, x) is a function of params and x alone; compute it from x, make it a parameter that "
                    "is learned, or leave its update out"
                )
            return out
        finally:
            if changed:
                self._restore(places)

    def _restore(self, places: list[_Place]) -> None:
        for place in places:
            if place.untouched():
                continue
            then, now = _items(place.then), _items(place.now, place.skip)
            if place.skip is None:
                place.now.clear()
                getattr(place.now, "extend" if isinstance(place.now, list | deque) else "update")(place.then)
            else:
                for key in now.keys() - then.keys():
                    del place.now[key]
                place.now.update(then)
        for index, (tensor, version, value) in enumerate(self._tensors):
            if tensor._version != version:
                if value is not None:
                    with torch.no_grad():
                        tensor.copy_(value)
                self._tensors[index] = tensor, tensor._version, value


class _Place(NamedTuple):
    """Values of one child, and what they were."""

    name: str
    now: Any  # the dictionary or container itself
    then: Any  # a copy of it
    values: list[Any]  # all of them in order, with those of skipped keys
    skip: Collection[str] | None = None  # keys that may change; None: it is no dictionary of attributes

    def untouched(self) -> bool:
        """Whether the very same values are there; the quick answer where nothing has happened."""
        return len(self.now) == len(self.values) and all(map(is_, _values(self.now), self.values))

    def called(self, key: Any) -> str:
        """Return how a user would call one of the values."""
        return f"self.{self.name}.{key}".replace("..", ".") if isinstance(key, str) else f"self.{self.name}"


def _places(name: str, child: nn.Module) -> Iterator[_Place]:
    """Yield where a child keeps what."""
    hooks = (getattr(hook, "name", None) for hook in child._forward_pre_hooks.values())
    skip = _INNER | {name for name in hooks if name is not None}  # they write it before it is read
    yield _place(name, child.__dict__, skip)
    for values in (child._buffers, child._parameters):
        yield _place(name, values)
    for key, value in _items(child.__dict__, skip).items():
        inside = f"{name}.{key}".lstrip(".")
        if isinstance(value, _CONTAINERS):
            yield _place(inside, value)
        elif hasattr(value, "__dict__") and not callable(value) and not isinstance(value, Tensor):
            yield _place(inside, vars(value), ())


def _place(name: str, now: Any, skip: Collection[str] | None = None) -> _Place:
    return _Place(name, now, copy(now) if skip is None else dict(_items(now, skip)), list(_values(now)), skip)


def _values(values: Any) -> Iterable[Any]:
    return values.values() if isinstance(values, dict) else values


def _changes(places: list[_Place], versions: list[tuple[Tensor, int]]) -> list[tuple[str, bool]]:
    """Return (name, whether it was a tensor) of what is not as it was, or has been written to."""
    found, written = [], {id(tensor) for tensor, version in versions if tensor._version != version}
    for place in places:
        if not written and place.untouched():
            continue
        then, now = _items(place.then), _items(place.now, place.skip)
        for key in then.keys() | now.keys():
            old, new = then.get(key), now.get(key)
            by_value = isinstance(new, _BY_VALUE) and type(new) is type(old) and new == old
            if id(new) in written or not (new is old or by_value):
                found.append((place.called(key), isinstance(old, Tensor)))
    return found


def _items(values: Any, skip: Collection[str] | None = None) -> dict[Any, Any]:
    """Return key -> value of a dictionary but for some keys; number -> value of another container."""
    if isinstance(values, dict):
        return {key: value for key, value in values.items() if key not in skip} if skip else values
    return dict.fromkeys(values, True) if isinstance(values, set) else dict(enumerate(values))


def _concrete(out: Any) -> bool:
    """Whether the values can be looked at: no transform, no recording watches."""
    leaves = pytree.tree_leaves(out)
    return peek_interpreter_stack() is None and all(type(leaf) is Tensor for leaf in leaves)


def _same(one: Any, other: Any) -> bool:
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, equal_nan=True) for a, b in pairs)
