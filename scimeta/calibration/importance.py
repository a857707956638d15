"""Importance sampling of each specimen's posterior, from quasi-random nodes placed by a pilot."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import gcd
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.law import Law

NODES = (101, 151, 401, 1021, 2039)  # for one, two, ... fast parameters; primes, for the lattice's sake
_PROPOSAL_DOF = 5.0  # tails heavier than the posterior's, so that weights stay bounded
_WIDER = 1.5  # pilot over Laplace, in standard deviations: a tail that no node sees is missed unnoticed
_MIN_EFFECTIVE = 0.35  # share of the nodes; below it the proposal is moved to the nodes' own mean and covariance


class Gaussian(NamedTuple):
    """A Gaussian over the fast parameters, one mean a specimen, one covariance for all.

    Attributes:
        mean: (specimens, fast), unconstrained.
        covariance: (fast, fast), positive definite.
    """

    mean: Tensor
    covariance: Tensor


class Points(NamedTuple):
    """Measurements of a batch of specimens, padded to one length.

    Attributes:
        x: (specimens, points); padding repeats a valid abscissa.
        y: (specimens, points).
        inverse_sd: (specimens, points), 1 / standard deviation of each measurement; 0 for padding.
    """

    x: Tensor
    y: Tensor
    inverse_sd: Tensor


class Weighted(NamedTuple):
    """Nodes of each specimen's posterior.

    Attributes:
        nodes: (specimens, nodes, fast), unconstrained.
        weights: (specimens, nodes), sums to 1.
        effective: (specimens,) effective sample size of the weights, between 1 and the number of nodes.
        log_evidence: (specimens,) log density of the data under the prior.
    """

    nodes: Tensor
    weights: Tensor
    effective: Tensor
    log_evidence: Tensor


def importance(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, centre: Tensor, scale: Tensor, count: int
) -> Weighted:
    """Return nodes, weights, effective sample size and log evidence.

    A pilot with few nodes around the mode finds the posterior's mean and covariance, which the mode's curvature may
    miss by half; the nodes that count are placed by these, and once more where they still fit badly.
    """
    pilot = _weighted(law, prior, shared, points, centre, _WIDER * scale, count // 4 | 1)
    centre, scale = _moved(pilot, scale)
    best = _weighted(law, prior, shared, points, centre, scale, count)
    poor = (best.effective < _MIN_EFFECTIVE * count).nonzero()[:, 0]
    if len(poor):
        weighted = Weighted(*(part[poor] for part in best))
        centre, scale = _moved(weighted, scale[poor])
        some = Gaussian(prior.mean[poor], prior.covariance), shared, Points(*(part[poor] for part in points))
        again = _weighted(law, *some, centre, scale, count)
        better = again.effective > weighted.effective
        for target, value in zip(best, again, strict=True):
            target[poor[better]] = value[better]
    return best


def _weighted(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, centre: Tensor, scale: Tensor, count: int
) -> Weighted:
    """Return the nodes of a proposal around the centre with their normalised weights."""
    nodes, log_weights = _weighted_nodes(law, prior, shared, points, centre, scale, count)
    weights = torch.softmax(log_weights, -1).nan_to_num(1.0 / count)
    effective = 1.0 / (weights * weights).sum(-1)
    return Weighted(nodes, weights, effective, torch.logsumexp(log_weights, -1) - np.log(count))


def _weighted_nodes(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, centre: Tensor, scale: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Return nodes of a Student-t proposal and log(likelihood x prior / proposal) at each."""
    base, log_base = student_nodes(count, centre.shape[-1])
    nodes = centre[:, None] + base @ scale.mT  # (specimens, nodes, fast)
    log_proposal = log_base - scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
    params = {name: nodes[..., i] for i, name in enumerate(law.fast)}
    params |= {name: value.expand(nodes.shape[:2]) for name, value in shared.items()}
    curve = law.curve(params, points.x[:, None])  # (specimens, nodes, points)
    misfit = (curve - points.y[:, None]).mul_(points.inverse_sd[:, None]).square_().sum(-1)
    factor = torch.linalg.cholesky(prior.covariance)
    offset = torch.linalg.solve_triangular(factor, (nodes - prior.mean[:, None]).mT, upper=False)
    log_joint = -0.5 * (misfit + (offset * offset).sum(-2)) - factor.diagonal().log().sum()
    measured = points.inverse_sd > 0
    constant = torch.where(measured, points.inverse_sd, 1.0).log().sum(-1) - 0.5 * np.log(2 * np.pi) * (
        measured.sum(-1) + nodes.shape[-1]
    )
    log_weights = log_joint + constant[:, None] - log_proposal
    return nodes, torch.where(torch.isfinite(log_weights), log_weights, -torch.inf)


@cache
def student_nodes(count: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return (count, dimension) nodes of independent Student t, from a lattice rule, and the log density at each.

    Posterior over proposal vanishes smoothly where the tails end, and such integrands a lattice integrates far better
    than random or Sobol points; every parameter takes as many values as there are nodes, as quantiles need.
    """
    nodes = stats.t.ppf(lattice(count, dimension), _PROPOSAL_DOF)
    return torch.from_numpy(nodes), torch.from_numpy(stats.t.logpdf(nodes, _PROPOSAL_DOF).sum(-1))


@cache
def lattice(count: int, dimension: int) -> np.ndarray:
    """Return (count, dimension) points of the open unit cube: the Korobov lattice whose points lie farthest apart.

    An odd count makes the lattice symmetric about the cube's middle, so that odd moments come out exact.

    Reference: Sloan, Joe, Lattice Methods for Multiple Integration, Oxford 1994.
    """
    best, distance = np.ones(dimension, dtype=np.int64), -1.0
    for multiplier in range(1, count // 2 + 1):
        if gcd(multiplier, count) > 1:
            continue  # a coordinate would take fewer values than there are points
        generator = np.array([pow(multiplier, j, count) for j in range(dimension)])
        steps = np.arange(1, count)[:, None] * generator % count
        nearest = (np.minimum(steps, count - steps) ** 2).sum(-1).min()
        if nearest > distance:
            best, distance = generator, nearest
    shift = 0.5 if count % 2 else 0.5 + 0.25 / count  # never on the cube's faces
    return (np.arange(count)[:, None] * best / count + shift) % 1.0


def _moved(found: Weighted, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and scale of a proposal that follows the weighted nodes, a little wider than they are."""
    covariance = 1.7 * weighted_covariance(found.nodes, found.weights) + 0.05 * scale @ scale.mT
    factor, info = torch.linalg.cholesky_ex(covariance)
    bad = (info != 0) | ~torch.isfinite(factor).all(-1).all(-1)
    return (found.weights[..., None] * found.nodes).sum(1), torch.where(bad[:, None, None], scale, factor)


def weighted_covariance(nodes: Tensor, weights: Tensor) -> Tensor:
    """Return (specimens, fast, fast)."""
    centred = nodes - (weights[..., None] * nodes).sum(1, keepdim=True)
    return (weights[..., None] * centred).mT @ centred
