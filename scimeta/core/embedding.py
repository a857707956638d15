"""Rows of a table looked up by number, with a padding row that no derivative moves, also under a task axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

_BY_FREQUENCY = (
    "an embedding with scale_grad_by_freq=True has a gradient that is no derivative of the loss; leave that argument "
    "out, and weight the loss where rare rows should count more"
)
_RENORMALISED = (
    "an embedding with max_norm rescales rows of its table in place, which has no place in a pure function; leave it "
    "out, and divide by the norm in the forward function"
)


def refusal(max_norm: float | None, scale_grad_by_freq: bool) -> str | None:
    """Return why an embedding with these arguments cannot be made right, and what to do instead, or None."""
    if max_norm is not None:
        return _RENORMALISED
    return _BY_FREQUENCY if scale_grad_by_freq else None


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return the rows of ``weight`` at ``input``; derivatives of every order by the padding row are zero.

    Torch 2.13's own forgets ``padding_idx`` where a gradient is taken around a batch of tasks, and in forward mode.

    Args:
        input: (...) integers.
        weight: (rows, features).
        padding_idx: the row that is held; negative ones count from the end.
        max_norm: None.
        norm_type: of ``max_norm``.
        scale_grad_by_freq: False.
        sparse: changes nothing; gradients are dense, of the same numbers.
    Returns: (..., features).

    Raises:
        ValueError: ``padding_idx`` names no row; ``max_norm`` or ``scale_grad_by_freq``.

    >>> table = torch.ones(3, 2)
    >>> torch.func.grad(lambda w: embedding(torch.tensor([0, 0, 2]), w, padding_idx=0).sum())(table)[:, 0]
    tensor([0., 0., 1.])
    """
    if has_torch_function((input, weight)):  # for those that watch which rows are held
        return handle_torch_function(
            embedding, (input, weight), input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    if reason := refusal(max_norm, scale_grad_by_freq):
        raise ValueError(reason)
    rows = F.embedding(input, weight)
    if padding_idx is None:
        return rows
    count = weight.shape[0]
    if not -count <= padding_idx < count:
        raise ValueError(
            f"embedding: padding_idx is one of the {count} rows, or counts from the end; got {padding_idx}"
        )
    return torch.where((input == padding_idx % count)[..., None], rows.detach(), rows)


def _native(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """Return the same by the signature of ``torch.embedding``, where a negative padding row means none."""
    held = padding_idx if padding_idx >= 0 else None
    return embedding(indices, weight, held, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)


SWAPS: dict[Callable, Callable] = {F.embedding: embedding, torch.embedding: _native}
"""Torch's function -> the one that is right."""


class FoundPadding(TorchFunctionMode):
    """While it is on, notes which rows of which tensors embeddings hold.

    Attributes:
        rows: id of a tensor -> the rows held, counted from the start.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, set[int]] = {}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func in (F.embedding, torch.embedding, embedding):
            names = ("weight", "indices") if func is torch.embedding else ("input", "weight")
            given = {**dict(zip((*names, "padding_idx"), args, strict=False)), **(kwargs or {})}
            row, table = given.get("padding_idx"), given["weight"]
            if row is not None and not (func is torch.embedding and row < 0):
                self.rows.setdefault(id(table), set()).add(row % table.shape[0])
        return func(*args, **(kwargs or {}))
