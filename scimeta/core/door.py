"""The door: what is wrong with a loss or a batch is said here, on one unbatched task, before any batch runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from scimeta.core.batchable import SWAPS, batchable, unvalidated
from scimeta.core.inner_loop import split_fast
from scimeta.core.learners import MetaLearner
from scimeta.core.recording import execution
from scimeta.core.tasks import Data, Loss, Params, Stream, Task, at_step, count_tasks, select_tasks

# Operations whose second derivatives under vmap are silently wrong, or that have none, and what to use instead.
_OWN = "make it with scimeta.models.functional, which swaps it, or write it in elementary operations"
_REFUSED = {
    "native_layer_norm": f"LayerNorm: {_OWN}",
    "native_group_norm": f"GroupNorm: {_OWN}",
    "batch_norm": f"BatchNorm or InstanceNorm: {_OWN}",
    "_weight_norm": f"weight_norm: {_OWN}",
    "rms_norm": f"RMSNorm: {_OWN}",
    "scaled_dot_product": f"fused attention: {_OWN}",
}
_PADDED = "Tasks of unequal size are padded to one size and the padding is weighted with zero in the loss"
_RECURRENT = {"gru", "lstm", "rnn_tanh", "rnn_relu", "gru_cell", "lstm_cell", "rnn_tanh_cell", "rnn_relu_cell"}


def check_batch(learner: MetaLearner, batch: Any, where: str = "meta_train") -> Task:
    """Return the batch as a ``Task``, after one of its tasks has gone through the loss alone and then batched.

    Args:
        learner: whose loss and parameters are tried.
        batch: a task with a leading task axis on every tensor.
        where: the public function in whose name errors speak.

    Raises:
        TypeError: the batch is not a pair of nests of tensors, or a loss does not return a scalar tensor.
        ValueError: tasks of unequal size, an empty support, no fast parameter with a gradient, writes in place,
            branches on a tensor's value, operations with wrong second derivatives, a loss that cannot be batched.

    Warns of parameters on which no loss depends: they are held.
    """
    if not isinstance(batch, tuple) or len(batch) != 2 or isinstance(batch, Stream):
        raise TypeError(f"{where}: a sampler returns Task(support, query) with a leading task axis; got {_kind(batch)}")
    batch = Task(*batch)
    _check_shapes(batch, where)
    _check_streams(batch, where)
    one = select_tasks(batch, 0)
    params, fast = learner.meta.init, split_fast(learner.meta.init, learner.adapt.fast)[0]
    inner, outer = _depends_on(learner, one, where)
    if not any(name in inner for name in fast):
        raise ValueError(
            f"{where}: the support loss has no gradient by any of the fast parameters {_listed(list(fast))}; choose "
            "others as `fast`, or find where the loss detaches them"
        )
    if idle := [name for name in params if name not in inner | outer]:
        warnings.warn(
            f"{where}: neither loss depends on {_listed(idle)}, which stay as they are; if they should be learned, "
            "find where the loss detaches them",
            stacklevel=3,
        )
    if idle := [name for name in fast if name in outer - inner]:
        warnings.warn(
            f"{where}: the support loss does not depend on {_listed(idle)}, which no inner step moves", stacklevel=3
        )
    _check_rule(learner, where)
    try:
        with execution("eager"):
            learner.meta_gradient(learner.meta, select_tasks(batch, slice(0, 1)), 0)
    except RuntimeError as error:
        said = _first_line(error)
        if "random operation" in said:
            raise ValueError(
                f"{where}: the loss draws random numbers (dropout, randn_like, rsample), which a recorded meta-step "
                "would not draw anew; draw them in the sampler, as part of the tasks' data"
            ) from error
        if "boolean mask" in said or "dynamic shape" in said:
            raise ValueError(
                f"{where}: the loss picks values by a boolean mask, or by nonzero or unique, which picks another "
                "number of values in every task; weight them by the mask, or use torch.where"
            ) from error
        raise ValueError(
            f"{where}: the loss works on one task, but not under torch.func.vmap and grad: {said}"
        ) from error
    return batch


def counted(batch: Task, number: int) -> Task:
    """Return the batch, or raise ValueError if it has another number of tasks."""
    if count_tasks(batch) != number:
        raise ValueError(f"meta_train: the sampler was asked for {number} tasks and returned {count_tasks(batch)}")
    return batch


def idle_parameters(learner: MetaLearner, batch: Task, where: str = "meta_train") -> set[str]:
    """Return the names of the parameters on which neither loss depends, by one task of a batch that was checked."""
    inner, outer = _depends_on(learner, select_tasks(batch, 0), where)
    return set(learner.meta.init) - inner - outer


def _depends_on(learner: MetaLearner, one: Task, where: str) -> tuple[set[str], set[str]]:
    """Return the parameters by which the losses of one task's support and query have gradients; see `check_loss`."""
    params, seen = learner.meta.init, at_step(one.support, 0)
    inner = check_loss(learner.adapt.loss, params, seen, f"{where}: the loss of one task's support")
    return inner, check_loss(learner.query_loss, params, one.query, f"{where}: the loss of one task's query")


def _check_rule(learner: MetaLearner, where: str) -> None:
    """Raise unless the inner rule takes the fast parameters."""
    fast, rule = split_fast(learner.meta.init, learner.adapt.fast)[0], learner.adapt.rule
    try:
        rule.update(learner.meta.rule, {n: torch.zeros_like(p) for n, p in fast.items()}, rule.init(fast), fast)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{where}: the inner rule does not fit the fast parameters {_listed(list(fast))}; make it for these "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def check_loss(loss: Loss, params: Params, data: Data, where: str) -> set[str]:
    """Return the names of the parameters by which the loss of one task has a gradient.

    Raises:
        TypeError: the loss does not return a scalar floating-point tensor.
        ValueError: it writes into its arguments, reads a tensor's value, uses a refused operation, is compiled, is not
            finite, is another at a second call, or has no gradient at all.
    """
    if hasattr(loss, "_torchdynamo_orig_callable"):
        raise ValueError(f"{where} is already compiled, and would lose its second derivative; pass the plain function")
    copies = {name: value.detach().clone() for name, value in params.items()}
    inputs = {x.untyped_storage()._cdata for x in pytree.tree_leaves((copies, data)) if isinstance(x, Tensor)}
    with torch.no_grad(), unvalidated(), _NoFusedRecurrence(where), _Watch(inputs, where):
        try:
            value = loss(copies, data)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise ValueError(
                f"{where} calls torch.autograd.grad or backward(), which cannot be batched over tasks; "
                "take its derivatives by torch.func.grad, jvp or jacrev"
            ) from error
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} returns {_kind(value)}; a loss returns a scalar tensor")
    if value.shape != ():
        raise TypeError(
            f"{where} returns a tensor of shape {tuple(value.shape)}; a loss returns one number for one task: "
            "end it with .mean() or .sum()"
        )
    if not value.is_floating_point():
        raise TypeError(f"{where} returns {value.dtype}; a loss returns a floating-point number")
    if not torch.isfinite(value):
        raise ValueError(f"{where} is {value.item()} at the start")
    leaves = {name: value.requires_grad_() for name, value in copies.items()}
    with torch.enable_grad(), batchable():
        value = loss(leaves, data)
        again = loss(leaves, data)
    eps, first, second = torch.finfo(value.dtype).eps, value.detach(), again.detach()
    if not torch.allclose(first, second, rtol=1000 * eps, atol=eps):
        raise ValueError(
            f"{where} is {float(first):.6g} and, called again with the same parameters and data, {float(second):.6g}: "
            "it draws random numbers of its own (by NumPy, by `random`) or keeps something between calls; draw in the "
            "sampler, and make what changes part of the tasks' data"
        )
    if not value.requires_grad:
        raise ValueError(f"{where} has no gradient by any parameter; find where it detaches them")
    grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {name for name, grad in zip(leaves, grads, strict=True) if grad is not None}


def _check_shapes(batch: Task, where: str) -> None:
    """Raise unless every leaf is a tensor with the same number of tasks on its first axis and none is empty."""
    sizes = {}
    for part in Task._fields:
        paths, _ = pytree.tree_flatten_with_path(getattr(batch, part))
        if not paths:
            raise ValueError(f"{where}: the {part} holds no tensor")
        for path, leaf in paths:
            name = f"{part}{pytree.keystr(path)}"
            if not isinstance(leaf, Tensor):
                raise TypeError(
                    f"{where}: {name} is {_kind(leaf)}; everything in a batch is a tensor with a leading task axis "
                    "(torch.as_tensor makes one of an array)"
                )
            if leaf.is_nested:
                raise ValueError(f"{where}: {name} is a nested tensor; {_PADDED}")
            if leaf.dim() == 0:
                raise ValueError(f"{where}: {name} is a single number; it needs a leading task axis")
            if leaf.numel() == 0:
                raise ValueError(f"{where}: {name} is empty, of shape {tuple(leaf.shape)}; a task needs data")
            if leaf.is_floating_point() and not torch.isfinite(leaf).all():
                raise ValueError(f"{where}: {name} has values that are not finite")
            sizes[name] = leaf.shape[0]
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"{where}: the first axis is the tasks' and differs: {counts}. {_PADDED}")


def _check_streams(batch: Task, where: str) -> None:
    """Raise unless the slices of a streamed support are equally many in all its tensors, and the query is no stream."""
    if isinstance(batch.query, Stream):
        raise TypeError(f"{where}: the query is a Stream, but it is judged whole; only a support is seen step by step")
    if not isinstance(batch.support, Stream):
        return
    paths, _ = pytree.tree_flatten_with_path(batch.support.each)
    if not paths:
        raise ValueError(
            f"{where}: the support is a Stream without slices; without any, pass its `held` as the support"
        )
    slices = {f"support.each{pytree.keystr(path)}": leaf.shape[1:2] for path, leaf in paths}
    if any(len(size) == 0 for size in slices.values()) or len(set(slices.values())) > 1:
        shapes = ", ".join(f"support.each{pytree.keystr(path)} is {tuple(leaf.shape)}" for path, leaf in paths)
        raise ValueError(f"{where}: a Stream's slices are (tasks, steps, ...), as many steps in every tensor; {shapes}")


class _NoFusedRecurrence(TorchFunctionMode):
    """Raises at torch's recurrent layers, which take themselves apart before the watch below could name them.

    Embeddings are those that a batch of tasks will have.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") in _RECURRENT:
            raise ValueError(
                f"{self.where} uses torch's {func.__name__}, which cannot be batched over tasks; "
                "write the cell in elementary operations"
            )
        return SWAPS.get(func, func)(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Raises, by name, at the operations that a loss must not use."""

    def __init__(self, inputs: set[int], where: str) -> None:
        super().__init__()
        self.inputs, self.where = inputs, where

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.name().removeprefix("aten::")
        if "_local_scalar_dense" in name or "is_nonzero" in name:
            raise ValueError(
                f"{self.where} reads a tensor's value (an `if` on a tensor, .item() or float()); that cannot be "
                "batched over tasks: use torch.where, and leave validate_args=True out of distributions"
            )
        for part, instead in _REFUSED.items():
            if part in name:
                raise ValueError(
                    f"{self.where} uses aten::{name}, whose second derivative is not right here; {instead}"
                )
        if name == "embedding" and len(args) > 2 and args[2] >= 0:  # torch.nn.functional's has been swapped by now
            raise ValueError(f"{self.where} uses aten::embedding, whose padding row would move; use F.embedding")
        for index, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[index] if index < len(args) else (kwargs or {}).get(argument.name)
            values = [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]
            if any(x.untyped_storage()._cdata in self.inputs for x in values):
                raise ValueError(
                    f"{self.where} writes in place (aten::{name}) into its parameters or data; "
                    "make a new tensor in place of changing one"
                )
        return func(*args, **(kwargs or {}))


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
