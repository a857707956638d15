"""The posterior of each specimen's parameters: the mode by Gauss-Newton, then importance sampling from there.

The posterior is carried by weighted nodes, which hold bands where a Gaussian at the mode (Laplace) is too narrow: at
three points it covers some 80 % where 90 % is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from tqdm import tqdm

from scimeta.calibration.checks import check_law
from scimeta.calibration.curves import Curve, pad
from scimeta.calibration.importance import NODES, Gaussian, Points, importance, student_nodes, weighted_covariance
from scimeta.calibration.law import Law
from scimeta.core.inner_loop import Solution, gauss_newton

_CHUNK = 1 << 17  # values of the law at once: what fits into the cache of a core


class Measured(NamedTuple):
    """The measurements of a batch of specimens as they came, padded to one length.

    Attributes:
        x, y: (specimens, points).
        sigma: (specimens, points) standard deviation of each measurement; nan where none was given.
        mask: (specimens, points) bool, False at padding.
    """

    x: Tensor
    y: Tensor
    sigma: Tensor
    mask: Tensor

    @property
    def given(self) -> Tensor:
        """(specimens, points) bool: measurements that brought their own sigma."""
        return torch.isfinite(self.sigma) & self.mask

    def points(self, noise: float) -> Points:
        """Return the measurements, those without a sigma with this standard deviation."""
        sd = torch.where(self.given, self.sigma, noise)
        return Points(self.x, self.y, torch.where(self.mask, 1.0 / sd, 0.0))


def measured(law: Law, curves: Sequence[Curve]) -> Measured:
    """Return the padded measurements, after every check that the public doors owe.

    Raises:
        ValueError: no curves, units that differ from the law's, numbers that the law cannot describe, a law that
            returns another shape than x's.
    """
    check_law(law, curves)
    return Measured(*pad(curves))


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
    prior: Gaussian,
    shared: Mapping[str, Tensor],
    points: Points,
    *,
    start: Tensor | None = None,
    nodes: int | None = None,
) -> Posterior:
    """Return the posterior of every specimen, in batches.

    Args:
        law: the law; its shared parameters are held at ``shared``.
        prior: Gaussian over the fast parameters.
        shared: name -> scalar, unconstrained.
        points: measurements.
        start: (specimens, fast) where the search for the mode begins; the best of some of the prior's values if None.
        nodes: nodes a specimen; as many as the number of parameters asks for if None.
    """
    nodes = nodes or NODES[min(len(law.fast), len(NODES)) - 1]
    mode, laplace, converged, distance = _mode(law, prior, shared, points, start)
    scale = torch.linalg.cholesky_ex(laplace)[0]
    chunk = max(1, _CHUNK // (nodes * points.x.shape[1]))
    batches = zip(*(t.split(chunk) for t in (prior.mean, mode, scale, *points)), strict=True)
    bar = tqdm(batches, "posterior", -(-len(mode) // chunk), leave=False, disable=None, delay=2)
    parts = [importance(law, Gaussian(m, prior.covariance), shared, Points(*p), z, s, nodes) for m, z, s, *p in bar]
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    return Posterior(joined[0], joined[1], mode, laplace, converged, distance, joined[2], joined[3])


def _mode(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, start: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mode, Laplace covariance, convergence and distance of every specimen; see :class:`Posterior`."""
    names = law.fast
    whiten = torch.linalg.inv(torch.linalg.cholesky(prior.covariance))  # (fast, fast)
    begin = _scattered(law, prior, shared, points, 0.7, 31) if start is None else start
    count = len(begin)

    def linearized(fast: dict[str, Tensor], slow: dict[str, Tensor], data: tuple) -> tuple[Tensor, Tensor]:
        (x, y, inverse_sd), mean = data
        curve, by = law.linearized({**{n: v.expand(len(x)) for n, v in shared.items()}, **fast}, x)
        u = torch.stack([fast[name] for name in names], -1)
        r = torch.cat([(curve - y) * inverse_sd, (u - mean) @ whiten.mT], -1)
        jac = torch.stack([by[name] * inverse_sd for name in names], -1)
        return r, torch.cat([jac, whiten.expand(len(x), -1, -1)], 1)

    def solve(rows: Tensor, begin: Tensor) -> Solution:
        data = (Points(*(part[rows] for part in points)), prior.mean[rows])
        unknown = {name: begin[:, i] for i, name in enumerate(names)}
        return gauss_newton(None, unknown, data, linearized=linearized, tolerance=1e-3)

    solution = solve(torch.arange(count), begin)
    # A distance that chance does not explain may be a side valley: the prior is searched, widely, for a better one.
    measured = (points.inverse_sd > 0).sum(-1)
    distance = torch.nan_to_num(2.0 * solution.cost, nan=torch.inf, posinf=torch.inf)
    odd = (torch.special.gammaincc(0.5 * measured, 0.5 * distance) < 1e-3).nonzero()[:, 0]  # chi-squared
    if len(odd):
        some = Gaussian(prior.mean[odd], prior.covariance), shared, Points(*(part[odd] for part in points))
        again = solve(odd, _scattered(law, *some, 2.5, 401))
        better = again.cost < solution.cost[odd]
        for target, value in zip(pytree.tree_leaves(solution), pytree.tree_leaves(again), strict=True):
            target[odd[better]] = value[better]
    return _at_mode(solution, prior.covariance, names)


def _at_mode(solution: Solution, population: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mode, Laplace covariance (the population's where the Hessian is singular), convergence and distance."""
    laplace = torch.linalg.inv_ex(solution.jacobian.mT @ solution.jacobian)[0]
    bad = ~torch.isfinite(laplace).all(-1).all(-1)
    laplace = torch.where(bad[:, None, None], population.expand_as(laplace), laplace)
    mode = torch.stack([solution.params[name] for name in names], -1)
    return mode, 0.5 * (laplace + laplace.mT), solution.converged, 2.0 * solution.cost


def _scattered(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, spread: float, count: int
) -> Tensor:
    """Return (specimens, fast): the most probable of values scattered around the prior's mean.

    Args:
        law, prior, shared, points: as for :func:`posterior`.
        spread: how far they scatter, in the prior's standard deviations.
        count: how many are tried; odd, so that the mean is among them.
    """
    base = spread * student_nodes(count, len(law.fast))[0]
    moved = base @ torch.linalg.cholesky(prior.covariance).mT
    best = []
    for rows in torch.arange(len(prior.mean)).split(max(1, _CHUNK // (count * points.x.shape[1]))):
        nodes = prior.mean[rows, None] + moved
        params = {name: nodes[..., i] for i, name in enumerate(law.fast)}
        params |= {name: value.expand(nodes.shape[:2]) for name, value in shared.items()}
        misfit = (law.curve(params, points.x[rows, None]) - points.y[rows, None]) * points.inverse_sd[rows, None]
        cost = (misfit**2).sum(-1) + (base**2).sum(-1)
        best.append(nodes[torch.arange(len(rows)), cost.nan_to_num(nan=torch.inf).argmin(-1)])
    return torch.cat(best)
