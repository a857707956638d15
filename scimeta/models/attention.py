"""Attention as matrix products and a softmax: the fused kernels have no second derivative."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(query key' scale + mask) value.

    Args:
        query: (..., queries, width).
        key: (..., keys, width).
        value: (..., keys, features).
        attn_mask: broadcasts to (..., queries, keys); bool (True takes part) or added.
        dropout_p: must be 0.
        is_causal: True to let a query see only the keys up to its own place.
        scale: 1 / sqrt(width) unless told.
        enable_gqa: True to share each head of key and value (axis -3) between several heads of the query.

    Raises:
        ValueError: dropout, whose draws have no place in a pure function.

    Reference: Vaswani et al., Attention is all you need, NeurIPS 2017.

    >>> one = torch.ones(1, 2)
    >>> scaled_dot_product_attention(one, one, 3 * one)
    tensor([[3., 3.]])
    """
    if dropout_p > 0.0:
        raise ValueError(f"attention with dropout draws at random; got dropout_p={dropout_p}: set it to 0")
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = query @ key.mT * (1.0 / sqrt(query.shape[-1]) if scale is None else scale)  # (..., queries, keys)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if attn_mask is not None:
        hides = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if hides else scores + attn_mask
    return scores.softmax(-1) @ value


def multi_head_attention_forward(*args: object, need_weights: bool = True, **kwargs: object) -> tuple:
    """Return what ``torch.nn.functional.multi_head_attention_forward`` does, by way of the weights, never fused."""
    output, weights = F.multi_head_attention_forward(*args, need_weights=True, **kwargs)
    return output, weights if need_weights else None
