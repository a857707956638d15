"""Torch's functions that a batch of tasks cannot take as they are, and what stands for them inside losses.

Some read a tensor's value to check it, some have wrong derivatives under a task axis. What stands for them returns the
same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from scimeta.core import embedding


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return torch's Gaussian negative log likelihood, without its check that no variance is negative.

        0.5 (log(max(var, eps)) + (input - target)^2 / max(var, eps)),   and 0.5 log(2 pi) where ``full``

    Args:
        input: (...) means.
        target: (...) what was measured.
        var: variances: of the shape of ``input``, with one axis of length 1, or without the last axis; or one number.
        full: True for the constant.
        eps: least variance; the gradient goes through it as if it were not there.
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: a shape or a reduction that torch does not take, a negative number as the variance.

    >>> gaussian_nll_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(0.3267)
    """
    if not isinstance(var, Tensor):
        if var < 0:
            raise ValueError(f"a variance is not negative; var is {var}")
        var = torch.full_like(input, var)
    if var.shape != input.shape:
        if input.shape[:-1] == var.shape:
            var = var[..., None]
        elif var.ndim != input.ndim or sum(b for a, b in zip(input.shape, var.shape, strict=True) if a != b) != 1:
            raise ValueError(f"var of shape {tuple(var.shape)} does not fit means of shape {tuple(input.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'reduction is "mean", "sum" or "none"; got {reduction!r}')
    var = var + (var.clamp(min=eps) - var).detach()
    loss = 0.5 * (torch.log(var) + (input - target) ** 2 / var)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return loss if reduction == "none" else getattr(loss, reduction)()


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Return (..., classes) int64: 1 at each label, 0 elsewhere.

    That every label is a class is seen at the door, on one task; in a batch a label that is none has only zeros.

    Args:
        tensor: (...) labels, int64.
        num_classes: number of classes.

    Raises:
        ValueError: the number of classes is not given: torch would read it from the labels' values; a label is no
            class, where values can be looked at.

    >>> one_hot(torch.tensor([0, 2]), 3)
    tensor([[1, 0, 0],
            [0, 0, 1]])
    """
    if num_classes < 0:
        raise ValueError("one_hot reads the number of classes from the labels; pass it: one_hot(labels, classes)")
    watched = peek_interpreter_stack() is not None or _get_current_dispatch_mode() is not None
    if not watched and ((tensor < 0) | (tensor >= num_classes)).any():
        raise ValueError(f"one_hot: labels are 0 to {num_classes - 1}; got {int(tensor.min())} to {int(tensor.max())}")
    return (tensor[..., None] == torch.arange(num_classes, device=tensor.device)).long()


_set_item = Tensor.__setitem__


def set_item(tensor: Tensor, index: Any, value: Any) -> None:
    """Do ``tensor[index] = value``; one value at a boolean mask is filled in, whose number a batch need not know."""
    mask = isinstance(index, Tensor) and index.dtype == torch.bool
    if mask and (not isinstance(value, Tensor) or value.dim() == 0):
        tensor.masked_fill_(index.reshape(*index.shape, *[1] * (tensor.dim() - index.dim())), value)
    else:
        _set_item(tensor, index, value)


SWAPS: dict[Callable, Callable] = {
    **embedding.SWAPS,
    _set_item: set_item,
    F.gaussian_nll_loss: gaussian_nll_loss,
    F.one_hot: one_hot,
}
"""Torch's function -> the one that a batch of tasks takes."""


class _Swapped(TorchFunctionMode):
    """While it is on, the functions of ``SWAPS`` are those that a batch of tasks takes."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return SWAPS.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def unvalidated() -> Iterator[None]:
    """Make distributions without the checks of their arguments, which read tensors' values."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def batchable() -> Iterator[None]:
    """Run losses so that a batch of tasks takes them: swapped functions, distributions that check nothing."""
    with _Swapped(), unvalidated():
        yield
