"""Importance sampling of each specimen's posterior, from quasi-random nodes placed by a pilot."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Mixture
from scimeta.calibration.nodes import _PROPOSAL_DOF, chosen_nodes, student_nodes

NODES = (101, 151, 401, 1021, 2039)  # for one, two, ... fast parameters; primes, for the lattice's sake
_WIDER = 1.5  # pilot over Laplace, in standard deviations: a tail that no node sees is missed unnoticed
_DENSER = 8  # times as many nodes where a posterior of several hills is met badly
_MIN_EFFECTIVE = 0.35  # share of the nodes; below it the proposal is moved to the nodes' own mean and covariance


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


class Proposal(NamedTuple):
    """Where the nodes of each specimen are placed: around one centre or several.

    Attributes:
        share: (specimens, centres) of the nodes; sums to 1.
        centre: (specimens, centres, fast).
        scale: (specimens, centres, fast, fast), lower triangular.
    """

    share: Tensor
    centre: Tensor
    scale: Tensor

    @staticmethod
    def single(centre: Tensor, scale: Tensor) -> Proposal:
        """Return the proposal around one centre (specimens, fast) with scale (specimens, fast, fast)."""
        return Proposal(centre.new_ones(len(centre), 1), centre[:, None], scale[:, None])

    def rows(self, rows: Tensor | slice) -> Proposal:
        """Return the proposals of some specimens."""
        return Proposal(*(part[rows] for part in self))

    def nodes(self, count: int) -> tuple[Tensor, Tensor]:
        """Return (specimens, count, fast) nodes and the log density of the proposal at each."""
        dimension, centres = self.centre.shape[-1], self.share.shape[1]
        if centres == 1:
            base, log_base = student_nodes(count, dimension)
            log_size = self.scale[:, 0].diagonal(dim1=-2, dim2=-1).log().sum(-1)
            return self.centre + base @ self.scale[:, 0].mT, log_base - log_size[:, None]
        base, choice = chosen_nodes(count, dimension)
        edges = self.share.cumsum(-1)[:, :-1].contiguous()
        which = torch.searchsorted(edges, choice.expand(len(edges), -1).contiguous())  # (specimens, count)
        rows = torch.arange(len(edges))[:, None]
        nodes = self.centre[rows, which] + (self.scale[rows, which] @ base[..., None])[..., 0]
        return nodes, self._log_density(nodes)

    def _log_density(self, nodes: Tensor) -> Tensor:
        """Return (specimens, nodes): log of the sum over the centres."""
        constant = nodes.shape[-1] * float(stats.t.logpdf(0.0, _PROPOSAL_DOF))
        density = torch.zeros_like(nodes[..., 0])
        for h in range(self.share.shape[1]):
            scale = self.scale[:, h]
            offset = torch.linalg.solve_triangular(scale, (nodes - self.centre[:, h, None]).mT, upper=False)
            q = (1.0 + offset * offset / _PROPOSAL_DOF).prod(-2)
            size = scale.diagonal(dim1=-2, dim2=-1).prod(-1)
            density = density + (self.share[:, h] / size)[:, None] * q ** (-0.5 * (_PROPOSAL_DOF + 1.0))
        return density.log() + constant


def pilot(
    family: Family, prior: Mixture, points: Points, centre: Tensor, scale: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return centre, scale and log evidence that few nodes around the mode find.

    They follow the posterior's mean and covariance, which the mode's curvature may miss by half.
    """
    plain = replace(family, outliers=None)  # which points are wrong is in their standard deviations
    found = _weighted(plain, prior, points, Proposal.single(centre, _WIDER * scale), count // 4 | 1)
    return *_moved(found, scale), found.log_evidence


def importance(family: Family, prior: Mixture, points: Points, proposal: Proposal, count: int) -> Weighted:
    """Return nodes, weights, effective sample size and log evidence.

    Where the nodes of the proposal fit badly they are placed once more: around their own mean if there is one centre
    and no outliers; else many more are taken, of which as many are drawn as are asked for.
    """
    best = _weighted(family, prior, points, proposal, count)
    poor = (best.effective < _MIN_EFFECTIVE * count).nonzero()[:, 0]
    plain = family.outliers is None and proposal.share.shape[1] == 1
    for rows in poor.split(len(poor) if plain else max(1, len(best.nodes) // _DENSER)) if len(poor) else ():
        some = prior.rows(rows), points.rows(rows)
        if plain:
            weighted = Weighted(*(part[rows] for part in best))
            moved = Proposal.single(*_moved(weighted, proposal.scale[rows, 0]))
            again = _weighted(family, *some, moved, count)
        else:
            again = thinned(_weighted(family, *some, proposal.rows(rows), _DENSER * count), count)
        better = again.effective > best.effective[rows]
        for target, value in zip(best, again, strict=True):
            target[rows[better]] = value[better]
    return best


def thinned(found: Weighted, count: int) -> Weighted:
    """Return fewer nodes of equal weight, drawn evenly along the first parameter."""
    order = found.nodes[..., 0].argsort(-1)
    below = found.weights.gather(-1, order).cumsum(-1)
    even = ((torch.arange(count, dtype=below.dtype) + 0.5) / count).expand(len(below), -1).contiguous()
    drawn = order.gather(-1, torch.searchsorted(below, even).clamp(max=below.shape[-1] - 1))
    nodes = found.nodes.gather(1, drawn[..., None].expand(-1, -1, found.nodes.shape[-1]))
    return Weighted(nodes, torch.full_like(even, 1.0 / count), found.effective.clamp(max=count), found.log_evidence)


def _weighted(family: Family, prior: Mixture, points: Points, proposal: Proposal, count: int) -> Weighted:
    """Return the nodes of a proposal with their normalised weights."""
    nodes, log_proposal = proposal.nodes(count)
    log_weights = log_likelihood(family, nodes, points) + prior.log_density(nodes) - log_proposal
    log_weights = torch.where(torch.isfinite(log_weights), log_weights, -torch.inf)
    weights = torch.softmax(log_weights, -1).nan_to_num(1.0 / count)
    effective = 1.0 / (weights * weights).sum(-1)
    return Weighted(nodes, weights, effective, torch.logsumexp(log_weights, -1) - np.log(count))


def log_likelihood(family: Family, nodes: Tensor, points: Points) -> Tensor:
    """Return (specimens, nodes): log density of the measurements, the parameters being nodes (specimens, nodes, fast).

    The discrepancy is integrated over at every node; it is linear around one place if the measurements are as seen from
    there, see :meth:`Family.seen`.
    """
    seen = points.inverse_sd.dim() == 3
    if family.discrepancy is not None and not seen:
        return family.given(nodes, points).log_likelihood
    curves = points.tilted(family.curve(nodes, points.x[:, None]), nodes)  # (specimens, nodes, points)
    counted, residual = points.scale > 0, curves - points.y[:, None]
    if seen:
        constant = torch.where(counted, points.scale, 1.0).log().sum(-1) - 0.5 * np.log(2 * np.pi) * counted.sum(-1)
        return constant[:, None] - 0.5 * points.whitened(residual).square_().sum(-1)
    inverse_sd = family.inverse_sd(points, curves)
    if family.outliers is not None:
        ordinary, wrong = family.outliers.parts(residual, inverse_sd)
        return torch.where(counted[:, None], ordinary + wrong, 1.0).log().sum(-1)
    constant = torch.where(counted[:, None], inverse_sd, 1.0).log().sum(-1)
    constant = constant - 0.5 * np.log(2 * np.pi) * counted.sum(-1, keepdim=True)
    return constant - 0.5 * (residual * inverse_sd).square_().sum(-1)


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
