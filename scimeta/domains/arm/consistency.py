"""Inertial parameters that some body could have: a positive mass spread over space.

Ten numbers belong to a body exactly if their pseudo-inertia is positive semidefinite,

    J = [[1 tr(I) / 2 - I, h], [h', m]],    the integral of (x, 1) (x, 1)' dm over the body,

which contains m >= 0, the triangle inequality of the principal moments, and a centre of mass inside what the moments
allow. Least squares knows nothing of it; with few samples its moments come out negative.

Reference: Wensing, Kim and Slotine, IEEE Robotics and Automation Letters 3(1), 60 (2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

# A length, m, that makes kg, kg m and kg m^2 comparable; a payload's extent.
_LENGTH = 0.1
# The barrier's last weight leaves 4 times itself of half the squared distance, which is in standard deviations.
_LAST = 1e-9
_STEPS = 6


def pseudo_inertia(parameters: Tensor) -> Tensor:
    """(..., 4, 4) pseudo-inertia of inertial parameters (..., 10): second moments kg m^2, first kg m, mass kg.

    >>> pseudo_inertia(torch.tensor([2.0, 0.0, 0.0, 0.2, 0.03, 0.0, 0.0, 0.03, 0.0, 0.02]))[2:]
    tensor([[0.0000, 0.0000, 0.0200, 0.2000],
            [0.0000, 0.0000, 0.2000, 2.0000]])
    """
    moments = parameters[..., [4, 5, 6, 5, 7, 8, 6, 8, 9]].unflatten(-1, (3, 3))
    half_trace = moments.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] / 2
    second = half_trace * torch.eye(3, dtype=parameters.dtype, device=parameters.device) - moments
    first = parameters[..., 1:4]
    upper = torch.cat((second, first[..., :, None]), -1)
    return torch.cat((upper, torch.cat((first, parameters[..., :1]), -1)[..., None, :]), -2)


def is_consistent(parameters: Tensor, tolerance: float = 1e-9) -> Tensor:
    """(...,) whether a body with these parameters (..., 10) can exist, to a tolerance in kg.

    >>> solid = torch.tensor([2.0, 0.0, 0.0, 0.2, 0.04, 0.0, 0.0, 0.04, 0.0, 0.02])
    >>> is_consistent(torch.stack((solid, -solid)))
    tensor([ True, False])
    """
    return torch.linalg.eigvalsh(_scaled(parameters))[..., 0] >= -tolerance


def consistent(parameters: Tensor, covariance: Tensor | None = None) -> Tensor:
    """The nearest inertial parameters that a body can have; those that a body can have come back as they are.

    Args:
        parameters: (..., 10).
        covariance: (..., 10, 10), positive definite: nearest is then measured in its standard deviations (to about
            1e-4 of one), so that a mass known to a gram does not pay for moments that are hardly known. By default
            the distance is that of the pseudo-inertias with lengths in units of .1 m (exact).
    Returns: (..., 10).
    Reference: Wensing, Kim and Slotine (2018); Boyd and Vandenberghe, Convex Optimization (2004), chapter 11.

    >>> consistent(torch.tensor([2.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.01, 0.0, 0.03]))[[4, 7, 9]]
    tensor([0.0150, 0.0150, 0.0300])
    """
    values, vectors = torch.linalg.eigh(_scaled(parameters))
    clipped = _parameters((vectors * values.clamp(min=0.0)[..., None, :]) @ vectors.mT)
    if covariance is not None:
        floor = 1e-3 * values.abs().amax(-1, keepdim=True)
        inside = (vectors * values.maximum(floor)[..., None, :]) @ vectors.mT
        clipped = _nearest(parameters, covariance, inside)
    return torch.where(values[..., :1] >= 0.0, parameters, clipped)


def _nearest(parameters: Tensor, covariance: Tensor, inside: Tensor) -> Tensor:
    """(..., 10) by a logarithmic barrier, from scaled pseudo-inertias (..., 4, 4) that are positive definite.

    Newton steps of length 1 / (1 + decrement) never leave the cone, because the barrier is self-concordant.
    """
    basis = _basis(parameters)  # (10, 4, 4), orthonormal
    unit = _parameters(basis).mT  # (10, 10): coordinates to parameters
    target = torch.linalg.solve(unit, parameters[..., None])[..., 0]
    root = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), unit, upper=False)
    precision = root.mT @ root
    x = torch.einsum("kij,...ij->...k", basis, inside)
    off = (x - target)[..., None]
    weight = (off.mT @ precision @ off)[..., 0].clamp(min=1.0)  # so heavy that the start is near its optimum
    while True:
        for _ in range(_STEPS):
            inverse = torch.linalg.inv(torch.einsum("kij,...k->...ij", basis, x))
            turned = torch.einsum("...ij,kjl->...kil", inverse, basis)
            pull = (precision @ (x - target)[..., None])[..., 0] / weight
            gradient = pull - turned.diagonal(dim1=-2, dim2=-1).sum(-1)
            hessian = precision / weight[..., None] + torch.einsum("...kij,...lji->...kl", turned, turned)
            step = torch.linalg.solve(hessian, gradient[..., None])[..., 0]
            decrement = (gradient * step).sum(-1, keepdim=True).clamp(min=0.0).sqrt()
            x = x - step / torch.where(decrement < 0.25, 1.0, 1.0 + decrement)
        if (weight <= _LAST).all():
            break
        weight = (weight / 2).clamp(min=_LAST)
    return (unit @ x[..., None])[..., 0]


def _basis(like: Tensor) -> Tensor:
    """(10, 4, 4) orthonormal symmetric matrices."""
    rows, columns = torch.triu_indices(4, 4)
    basis = torch.zeros(10, 4, 4, dtype=like.dtype, device=like.device)
    size = torch.where(rows == columns, 0.5, 0.5**0.5).to(like)
    index = torch.arange(10)
    basis[index, rows, columns] += size
    basis[index, columns, rows] += size
    return basis


def _scaled(parameters: Tensor) -> Tensor:
    """(..., 4, 4) pseudo-inertia in kg, lengths in units of .1 m."""
    return pseudo_inertia(parameters) / _units(parameters)


def _parameters(scaled: Tensor) -> Tensor:
    """(..., 10) inertial parameters of scaled pseudo-inertias (..., 4, 4)."""
    pseudo = scaled * _units(scaled)
    second = pseudo[..., :3, :3]
    trace = second.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    moments = trace * torch.eye(3, dtype=scaled.dtype, device=scaled.device) - second
    upper = moments.flatten(-2)[..., [0, 1, 2, 4, 5, 8]]
    return torch.cat((pseudo[..., 3, 3:], pseudo[..., :3, 3], upper), -1)


def _units(like: Tensor) -> Tensor:
    unit = torch.tensor([_LENGTH, _LENGTH, _LENGTH, 1.0], dtype=like.dtype, device=like.device)
    return unit[:, None] * unit
