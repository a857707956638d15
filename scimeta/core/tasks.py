"""The contact between the core and a domain: one function of one task, and one batch axis over tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.batchable import batchable

Params = dict[str, Tensor]
"""Flat mapping from name to tensor, as ``dict(module.named_parameters())`` gives."""

Data = Any
"""A nest of tuples, dicts and NamedTuples of tensors."""

Loss = Callable[[Params, Data], Tensor]
"""Scalar loss of ONE task."""


class Task(NamedTuple):
    """One problem: what adapts and what judges.

    A batch of tasks is the same tuple with a leading task axis on every tensor.

    Attributes:
        support: data that the inner loop adapts to.
        query: data that judge the adapted parameters.
    """

    support: Data
    query: Data


class Stream(NamedTuple):
    """Support data of which each inner step sees a slice of its own: minibatches, or the noise of its gradient.

    Inner step t sees the pair ``(held, each[t])``, which is the ``data`` that the loss then gets. With more steps than
    slices, the slices start over.

    Attributes:
        held: what all steps see.
        each: nest of tensors with a leading axis of steps (after the task axis, in a batch).

    >>> two_halves = Stream(torch.tensor(1.0), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> at_step(two_halves, 1), at_step(two_halves, 2)
    ((tensor(1.), tensor([3., 4.])), (tensor(1.), tensor([1., 2.])))
    """

    held: Data
    each: Data


TaskSampler = Callable[[int, torch.Generator], Task]
"""Number of tasks, generator -> a batch of tasks."""


def over_tasks(function: Callable[..., Any], in_dims: Any = 0, *, chunk_size: int | None = None) -> Callable[..., Any]:
    """Return ``function`` of one task, batched over a leading task axis.

    The only place where the package calls ``torch.func.vmap``. Under it some of torch's
    functions are replaced by ones that a task axis leaves right, see :func:`batchable`.

    Args:
        function: pure function of tensors (or nests of tensors) of one task.
        in_dims: the task axis of each argument; None where all tasks share the argument.
        chunk_size: tasks computed at once; None for all. Bounds the memory, not the result.

    >>> double_sum = over_tasks(lambda x: 2 * x.sum())
    >>> double_sum(torch.ones(3, 4))
    tensor([8., 8., 8.])
    """

    def held(*args: Any) -> Any:
        with batchable():
            return function(*args)

    return torch.func.vmap(held, in_dims=in_dims, chunk_size=chunk_size)


def at_step(support: Data, step: int, *, batched: bool = False) -> Data:
    """Return what an inner step sees of the support: a :class:`Stream`'s slice of that step, or all of it.

    Args:
        support: of one task, or of a batch of them.
        step: number of inner steps before this one.
        batched: whether the support has a leading task axis.
    """
    if not isinstance(support, Stream):
        return support
    axis = int(batched)
    return support.held, pytree.tree_map(lambda leaf: leaf.select(axis, step % leaf.shape[axis]), support.each)


def count_tasks(batch: Data) -> int:
    """Return the length of the task axis, read from the first tensor of a batch."""
    return next(leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))


def select_tasks(batch: Data, which: int | slice | Tensor) -> Data:
    """Return these tasks of a batch; one task, without a task axis, for an integer.

    >>> select_tasks({"x": torch.arange(3), "y": torch.arange(6).reshape(3, 2)}, 1)
    {'x': tensor(1), 'y': tensor([2, 3])}
    """
    return pytree.tree_map(lambda leaf: leaf[which], batch)


def draw_from(batch: Task) -> TaskSampler:
    """Return a sampler that draws tasks from a fixed collection of them, none twice in a batch.

    Args:
        batch: all tasks, with a leading task axis on every tensor.

    >>> past = Task(torch.arange(5.0), torch.arange(5.0))
    >>> draw_from(past)(2, torch.Generator().manual_seed(0)).support.shape
    torch.Size([2])
    """
    total = count_tasks(batch)

    def draw(number: int, generator: torch.Generator) -> Task:
        if number > total:
            raise ValueError(f"draw_from: {number} tasks are asked for, of {total}")
        return Task(*select_tasks(tuple(batch), torch.randperm(total, generator=generator)[:number]))

    return draw
