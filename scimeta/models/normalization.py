"""Normalisation in elementary operations, with the signatures of ``torch.nn.functional``.

The native batch, instance and layer normalisation have hand-written derivatives that are silently wrong in torch 2.13:
the second order where a gradient is taken around a batch of tasks, the third anywhere. These are right at every order
because each operation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return x normalised per channel, (x - mean) / sqrt(var + eps) * weight + bias.

    Args:
        x: (examples, channels, ...).
        running_mean: (channels,) the statistics where ``training`` is False; never updated.
        running_var: (channels,).
        weight: (channels,) or None.
        bias: (channels,) or None.
        training: True for the mean and the biased variance of x itself.
        momentum: unused, as nothing is updated.
        eps: added to the variance.

    Raises:
        ValueError: batch statistics of a single value a channel.

    Reference: Ioffe, Szegedy, Batch normalization, ICML 2015.

    >>> batch_norm(torch.tensor([[1.0], [3.0]]), training=True, eps=0.0)
    tensor([[-1.],
            [ 1.]])
    """
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    if training:
        axes = [0, *range(2, x.dim())]
        if _count(x, axes) == 1:
            raise ValueError(
                f"batch statistics need more than one value a channel; x has shape {tuple(x.shape)}: "
                'pass more examples, or take functional(module, norm="running")'
            )
        centred, scale = _centred(x, axes, eps)
    else:
        centred = x - running_mean.view(shape)
        scale = torch.rsqrt(running_var + eps).view(shape)
    if weight is not None:
        scale = scale * weight.view(shape)
    return centred * scale if bias is None else centred * scale + bias.view(shape)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return x normalised per example and channel; arguments as those of :func:`batch_norm`.

    Raises:
        ValueError: statistics of a single value.

    Reference: Ulyanov, Vedaldi, Lempitsky, Instance normalization, arXiv:1607.08022 (2016).

    >>> instance_norm(torch.tensor([[[1.0, 3.0]]]), eps=0.0)
    tensor([[[-1.,  1.]]])
    """
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    axes = range(2, x.dim())
    if _count(x, axes) == 1:
        raise ValueError(f"instance statistics need more than one value a channel; x has shape {tuple(x.shape)}")
    centred, scale = _centred(x, axes, eps)
    return _affine(centred * scale, weight, bias, (-1, *(1 for _ in axes)))


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return x normalised over its last axes, those of ``normalized_shape``.

    Args:
        x: (..., *normalized_shape).
        normalized_shape: lengths of the axes.
        weight: of that shape, or None.
        bias: of that shape, or None.
        eps: added to the variance.

    Raises:
        ValueError: x does not end in ``normalized_shape``.

    Reference: Ba, Kiros, Hinton, Layer normalization, arXiv:1607.06450 (2016).

    >>> layer_norm(torch.tensor([1.0, 3.0]), (2,), eps=0.0)
    tensor([-1.,  1.])
    """
    shape = tuple(normalized_shape)
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"layer_norm expects x to end in the axes {shape}; x has shape {tuple(x.shape)}")
    centred, scale = _centred(x, range(-len(shape), 0), eps)
    return _affine(centred * scale, weight, bias, shape)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return x normalised per example over groups of channels.

    The native one is right, but refuses channels-last images under a task axis.

    Args:
        x: (examples, channels, ...).
        num_groups: number of groups; divides the channels.
        weight: (channels,) or None.
        bias: (channels,) or None.
        eps: added to the variance.

    Raises:
        ValueError: the groups do not divide the channels.

    Reference: Wu, He, Group normalization, ECCV 2018.

    >>> group_norm(torch.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0)
    tensor([[-1.,  1., -1.,  1.]])
    """
    if x.shape[1] % num_groups:
        raise ValueError(f"group_norm: {num_groups} groups do not divide the {x.shape[1]} channels of {tuple(x.shape)}")
    centred, scale = _centred(x.reshape(x.shape[0], num_groups, -1), [-1], eps)
    return _affine((centred * scale).reshape(x.shape), weight, bias, (-1, *(1 for _ in x.shape[2:])))


def weight_norm(v: Tensor, g: Tensor, dim: int | None = 0) -> Tensor:
    """Return v rescaled to the norms g over all axes but ``dim`` (-1 or None: over all axes).

    The native one's second derivative is wrong in torch 2.13, also without a task axis.

    Reference: Salimans, Kingma, Weight normalization, NeurIPS 2016.

    >>> weight_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]]))
    tensor([[6., 8.]])
    """
    whole = dim is None or dim == -1
    axes = [axis for axis in range(v.dim()) if whole or axis != dim % v.dim()]
    return v * (g / (v * v).sum(axes, keepdim=not whole).sqrt())


def _count(x: Tensor, axes: Sequence[int]) -> int:
    """Return the number of values along the axes."""
    return prod([x.shape[axis] for axis in axes])


def _centred(x: Tensor, axes: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    """Return x less its mean over the axes, and 1 / sqrt(biased variance + eps) with those axes of length one."""
    axes = list(axes)
    count = _count(x, axes)
    # Sums divided afterwards: the derivative of a mean would divide a tensor of the size of x.
    centred = x - x.sum(axes, keepdim=True) / count
    variance = (centred * centred).sum(axes, keepdim=True) / count
    return centred, torch.rsqrt(variance + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Return x * weight + bias, with what there is of them, as tensors of that shape."""
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)
