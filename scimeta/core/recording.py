"""Recording: a function of tensors, written down once as a list of tensor operations and replayed from then on."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

from scimeta.core.simplify import simplify

Execution = Literal["eager", "recorded", "compiled"]

chosen_execution: ContextVar[Execution] = ContextVar("execution", default="recorded")
_set_aside: ContextVar[dict[int, dict] | None] = ContextVar("set_aside", default=None)
_SMALL = 1000  # operations up to which calls from Python weigh enough to compile the calls, too
_MOST = 16  # recordings of one function; a function that meets more shapes runs eagerly from then on


@contextmanager
def execution(how: Execution) -> Iterator[None]:
    """Choose, inside a ``with`` block, how recorded functions run.

    Args:
        how: "eager": operation by operation through torch.func, the reference. "recorded" (the default): the
            operations are recorded at the first call with given shapes, simplified, and replayed without automatic
            differentiation; the same numbers up to rounding, several times faster on small tasks. "compiled": the
            recording goes through the Inductor compiler, which needs a C++ compiler and 10 to 200 s.

    Raises:
        ValueError: another word.

    >>> with execution("eager"):
    ...     record(torch.square)(torch.tensor(3.0))
    tensor(9.)
    """
    if how not in get_args(Execution):
        raise ValueError(f"execution is one of {', '.join(get_args(Execution))}; got {how!r}")
    token = chosen_execution.set(how)
    try:
        yield
    finally:
        chosen_execution.reset(token)


@contextmanager
def recorded_anew() -> Iterator[None]:
    """Set the recordings that there are aside, inside a ``with`` block, so that functions are recorded again.

    >>> weight = [1.0]
    >>> scaled = record(lambda x: weight[0] * x)
    >>> _, weight[0] = scaled(torch.ones(1)), 2.0
    >>> with recorded_anew():
    ...     scaled(torch.ones(1))
    tensor([2.])
    >>> scaled(torch.ones(1))
    tensor([1.])
    """
    token = _set_aside.set({})
    try:
        yield
    finally:
        _set_aside.reset(token)


def recordings_of(kept: dict[Any, Any]) -> dict[Any, Any]:
    """Return where a function finds its recordings: what it has kept, or those made since they were set aside."""
    aside = _set_aside.get()
    return kept if aside is None else aside.setdefault(id(kept), {})


def record(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pure function of nests of tensors that runs as :func:`execution` says.

    One recording is kept for each combination of shapes, types, layouts and devices. What the function closes over is
    recorded as it was at the first call. Inside another transform (torch.func, autograd, another recording) the
    function runs as it is. A function that cannot be recorded or compiled runs eagerly, with one warning that says why.

    Args:
        function: nests of tensors (and constants) -> nest of tensors; no in-place writes to its arguments, no branch on
            a tensor's value. Its results carry no autograd graph when replayed.

    >>> double = record(lambda nest: {"twice": 2 * nest["x"]})
    >>> double({"x": torch.ones(2)})
    {'twice': tensor([2., 2.])}
    """
    kept: dict[Any, Callable[..., Any]] = {}

    @functools.wraps(function, updated=())
    def run(*args: Any) -> Any:
        how = chosen_execution.get()
        if how == "eager" or inside_a_transform():
            return function(*args)
        leaves, spec = pytree.tree_flatten(args)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in leaves):
            return function(*args)
        key, replays = (how, spec, autocast_state(), *map(signature, leaves)), recordings_of(kept)
        try:
            replay = replays.get(key)
        except TypeError:  # a constant that cannot be a key
            return function(*args)
        if replay is None and len(replays) == _MOST:
            name = getattr(function, "__name__", "function")
            warnings.warn(f"{name} met more than {_MOST} shapes; new ones run eagerly, and slower", stacklevel=2)
        if replay is None:
            replay = replays[key] = function if len(replays) >= _MOST else _replay(function, args, how)
        if replay is function:
            return function(*args)
        with torch.no_grad(), without_autocast():  # the casts are in the recording
            return replay([x for x in leaves if isinstance(x, Tensor)])

    return run


def inside_a_transform() -> bool:
    """Whether torch.func, another recording or a dispatch mode is watching."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
        or _get_current_dispatch_mode() is not None
        or torch.compiler.is_compiling()
    )


def signature(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.is_conj(), leaf.is_neg()
    return type(leaf), repr(leaf) if isinstance(leaf, float) else leaf  # 0.0 == -0.0


def autocast_state() -> tuple:
    return tuple(
        (device, torch.get_autocast_dtype(device)) for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)
    )


@contextmanager
def _autocast_off() -> Iterator[None]:
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


@contextmanager
def mixed_precision(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute on the device in half precision where torch.autocast does; None for the tensors' own type."""
    # The cache of cast weights would outlive the update of the weights that it was made from.
    with torch.autocast(device.type, dtype, enabled=dtype is not None, cache_enabled=False):
        yield


def without_autocast() -> AbstractContextManager[None]:
    return _autocast_off() if autocast_state() else nullcontext()


def _replay(function: Callable[..., Any], args: tuple, how: Execution) -> Callable[..., Any]:
    """Return a function of the tensors among the flat arguments, or ``function`` itself if it cannot be recorded."""
    from torch.fx.experimental.proxy_tensor import make_fx  # slow to import, and many scripts never record

    leaves, spec = pytree.tree_flatten(args)
    tensors = [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]
    result_spec: list[pytree.TreeSpec] = []

    def flat(*tensors: Tensor) -> list[Any]:
        given = iter(tensors)
        nest = pytree.tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in leaves], spec)
        results, out = pytree.tree_flatten(function(*nest))
        result_spec[:] = [out]
        return results

    name = getattr(function, "__name__", "function")
    for tracing in ("fake", "real"):  # fake: shapes and types without numbers, in no memory and half the time
        try:
            graph = simplify(make_fx(flat, tracing_mode=tracing, _allow_non_fake_inputs=True)(*tensors))
            break
        except Exception as error:  # torch raises all kinds here; the eager run gives the true error, or none
            failure = first_line(error)
    else:
        warnings.warn(f"{name} runs eagerly, since recording it failed: {failure}", stacklevel=3)
        return function
    run = graph.forward
    if how == "compiled":
        run = compiled_or_none(graph, tensors, name) or run
    return lambda tensors: pytree.tree_unflatten(list(run(*tensors)), result_spec[0])


def compiled_or_none(graph: torch.fx.GraphModule, tensors: list[Tensor], name: str) -> Callable[..., Any] | None:
    """Return the graph compiled by Inductor, or None after a warning that says why not."""
    try:
        with torch.no_grad():
            small = len(graph.graph.nodes) < _SMALL and all(tensor.device.type == "cpu" for tensor in tensors)
            run = torch._inductor.compile(graph, tensors, options={"cpp_wrapper": small})
            run(*tensors)  # a missing C++ compiler or a kernel that does not build shows here
        return run
    except Exception as error:  # whatever the compiler meets, the recording still runs
        warnings.warn(f"{name} runs without being compiled: {first_line(error)}", stacklevel=4)
        return None


def first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
