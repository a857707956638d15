"""The posterior of each specimen's parameters: the mode by Gauss-Newton, then importance sampling from there.

The posterior is carried by weighted nodes, which hold bands where a Gaussian at the mode (Laplace) is too narrow: at
three points it covers some 80 % where 90 % is asked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.laws.law import Law
from scimeta.calibration.posterior.importance import NODES, Proposal, Weighted, importance, pilot, weighted_covariance
from scimeta.calibration.posterior.modes import CHUNK, Modes, first, posterior_modes, with_outliers

_LEAST_SHARE = 0.05  # of the nodes, for a mode that holds less


class Posterior(NamedTuple):
    """Weighted nodes of each specimen's fast parameters.

    Attributes:
        nodes: (specimens, nodes, fast), unconstrained.
        weights: (specimens, nodes), sums to 1.
        mode: (specimens, fast).
        laplace: (specimens, fast, fast), inverse Gauss-Newton Hessian at the mode.
        converged: (specimens,) bool, of the solve for the mode.
        distance: (specimens,) squared distance of the measurements from what the prior expects, in standard deviations
            at the mode; chi-squared with as many degrees of freedom as points, if the law is near linear.
        effective: (specimens,) effective sample size of the weights, between 1 and the number of nodes.
        log_evidence: (specimens,) log density of the data under the prior.
    """

    nodes: Tensor
    weights: Tensor
    mode: Tensor
    laplace: Tensor
    converged: Tensor
    distance: Tensor
    effective: Tensor
    log_evidence: Tensor

    @property
    def mean(self) -> Tensor:
        """(specimens, fast)."""
        return (self.weights[..., None] * self.nodes).sum(1)

    @property
    def covariance(self) -> Tensor:
        """(specimens, fast, fast)."""
        return weighted_covariance(self.nodes, self.weights)


def posterior(
    family: Family,
    prior: Gaussian | Mixture,
    points: Points,
    *,
    start: Tensor | None = None,
    nodes: int | None = None,
) -> Posterior:
    """Return the posterior of every specimen, in batches.

    Args:
        family: the law, its shared parameters, what a measurement may be beside ordinary.
        prior: over the fast parameters of each specimen.
        points: measurements, of :meth:`Family.points`.
        start: (specimens, fast) where the search for the mode begins; the best of some of the prior's values if None.
        nodes: nodes a specimen; as many as the number of parameters asks for if None.
    """
    prior, count = Mixture.of(prior), nodes or node_count(family.law)
    found = posterior_modes(family, prior, points, start)
    best, width = first(found.specimen), points.x.shape[1]
    around = points if family.discrepancy is None else family.seen(points, found.mode[best])
    proposals = _proposals(family, prior, around, found, count)
    if family.discrepancy is not None:
        width *= len(family.discrepancy.mean)
    chunk = max(1, CHUNK // (count * width))
    mode, empty = found.mode[best], points.x.new_empty
    fast = mode.shape[1]
    joined = Weighted(*(empty(len(mode), *s) for s in ((count, fast), (count,), (), ())))
    batches = [(rows[at], p.rows(at)) for rows, p in proposals for at in torch.arange(len(rows)).split(chunk)]
    for rows, proposal in tqdm(batches, "posterior", leave=False, disable=None, delay=2):
        some = prior.rows(rows), points.rows(rows)
        for target, value in zip(joined, importance(family, *some, proposal, count), strict=True):
            target[rows] = value
    return Posterior(
        joined.nodes,
        joined.weights,
        mode,
        found.laplace[best],
        found.converged[best],
        found.distance[best],
        joined.effective,
        joined.log_evidence,
    )


def node_count(law: Law) -> int:
    """Return how many nodes a specimen's posterior has, by the law's number of fast parameters."""
    return NODES[min(len(law.fast), len(NODES)) - 1]


def _proposals(
    family: Family, prior: Mixture, points: Points, found: Modes, count: int
) -> list[tuple[Tensor, Proposal]]:
    """Return rows of specimens that have equally many modes, with where their nodes go."""
    scale, outliers = torch.linalg.cholesky_ex(found.laplace)[0], family.outliers
    chunk = max(1, CHUNK // (count * points.x.shape[1]))
    centre, evidence = torch.empty_like(found.mode), torch.empty_like(found.distance)
    for component in found.component.unique().tolist():
        for rows in (found.component == component).nonzero()[:, 0].split(4 * chunk):
            at = found.specimen[rows]
            some = (
                Mixture.of(prior.rows(at).component(component)),
                with_outliers(points.rows(at), outliers, found.wrong[rows]),
            )
            centre[rows], scale[rows], evidence[rows] = pilot(family, *some, found.mode[rows], scale[rows], count)
            evidence[rows] += prior.log_shares[component]
    if outliers is not None:
        evidence = evidence + found.wrong.sum(-1) * np.log(outliers.share / (1.0 - outliers.share))
    begin = first(found.specimen)
    sizes = torch.diff(begin, append=torch.tensor([len(found.specimen)]))
    groups = []
    for size in sizes.unique().tolist():
        rows = (sizes == size).nonzero()[:, 0]
        at = begin[rows, None] + torch.arange(size)
        share = torch.softmax(evidence[at].nan_to_num(nan=-torch.inf), -1).nan_to_num(1.0 / size)
        share = share.clamp(min=_LEAST_SHARE)
        groups.append((rows, Proposal(share / share.sum(-1, keepdim=True), centre[at], scale[at])))
    return groups
