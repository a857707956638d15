"""The posterior of each specimen's parameters: the mode by Gauss-Newton, then importance sampling from there.

The posterior is carried by weighted nodes, which hold bands where a Gaussian at the mode (Laplace) is too narrow: at
three points it covers some 80 % where 90 % is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.posterior.importance import NODES, Proposal, Weighted, importance, pilot, weighted_covariance
from scimeta.calibration.posterior.modes import CHUNK, Hills, believed, first, hills

_LEAST_SHARE = 0.05  # of the nodes, for a hill that holds less


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
    law: Law,
    prior: Gaussian | Mixture,
    shared: Mapping[str, Tensor],
    points: Points,
    *,
    outliers: Outliers | None = None,
    start: Tensor | None = None,
    nodes: int | None = None,
) -> Posterior:
    """Return the posterior of every specimen, in batches.

    Args:
        law: the law; its shared parameters are held at ``shared``.
        prior: over the fast parameters, of one kind of specimens or several.
        shared: name -> scalar, unconstrained.
        points: measurements.
        outliers: what a measurement may be beside ordinary; None if all are ordinary.
        start: (specimens, fast) where the search for the mode begins; the best of some of the prior's values if None.
        nodes: nodes a specimen; as many as the number of parameters asks for if None.
    """
    prior, count = Mixture.of(prior), nodes or NODES[min(len(law.fast), len(NODES)) - 1]
    found = hills(law, prior, shared, points, outliers, start)
    proposals = _proposals(law, prior, shared, points, outliers, found, count)
    chunk = max(1, CHUNK // (count * points.x.shape[1]))
    best = first(found.specimen)
    mode, empty = found.mode[best], points.x.new_empty
    fast = mode.shape[1]
    joined = Weighted(*(empty(len(mode), *s) for s in ((count, fast), (count,), (), ())))
    batches = [(rows[at], p.rows(at)) for rows, p in proposals for at in torch.arange(len(rows)).split(chunk)]
    for rows, proposal in tqdm(batches, "posterior", leave=False, disable=None, delay=2):
        some = prior.rows(rows), shared, Points(*(part[rows] for part in points)), outliers
        for target, value in zip(joined, importance(law, *some, proposal, count), strict=True):
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


def _proposals(
    law: Law,
    prior: Mixture,
    shared: Mapping[str, Tensor],
    points: Points,
    outliers: Outliers | None,
    found: Hills,
    count: int,
) -> list[tuple[Tensor, Proposal]]:
    """Return rows of specimens that have equally many hills, with where their nodes go."""
    scale = torch.linalg.cholesky_ex(found.laplace)[0]
    chunk = max(1, CHUNK // (count * points.x.shape[1]))
    centre, evidence = torch.empty_like(found.mode), torch.empty_like(found.distance)
    for kind in found.kind.unique().tolist():
        for rows in (found.kind == kind).nonzero()[:, 0].split(4 * chunk):
            at = found.specimen[rows]
            some = Mixture.of(prior.rows(at).mode(kind)), shared, believed(points, outliers, at, found.wrong[rows])
            centre[rows], scale[rows], evidence[rows] = pilot(law, *some, found.mode[rows], scale[rows], count)
            evidence[rows] += prior.log_shares[kind]
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
