"""The posterior of each specimen's parameters: the mode by Gauss-Newton, then importance sampling around it.

The posterior is carried by weighted nodes, which hold bands where a Gaussian at the mode (Laplace) is too narrow: at
three points it covers some 80 % where 90 % is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import gcd
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.utils import _pytree as pytree
from tqdm import tqdm

from scimeta.calibration.curves import Curve, check_law, pad
from scimeta.calibration.law import Law
from scimeta.core.inner_loop import Solution, gauss_newton

NODES = (101, 151, 401, 1021, 2039)  # for one, two, ... fast parameters; primes, for the lattice's sake
_PROPOSAL_DOF = 5.0  # tails heavier than the posterior's, so that weights stay bounded
_WIDER = 1.5  # pilot over Laplace, in standard deviations: a tail that no node sees is missed unnoticed
_MIN_EFFECTIVE = 0.35  # share of the nodes; below it the proposal is moved to the nodes' own mean and covariance
_CHUNK = 1 << 17  # values of the law at once: what fits into the cache of a core


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
        return _covariance(self.nodes, self.weights)


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
    parts = [_importance(law, Gaussian(m, prior.covariance), shared, Points(*p), z, s, nodes) for m, z, s, *p in bar]
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


def _importance(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, centre: Tensor, scale: Tensor, count: int
) -> _Weighted:
    """Return nodes, weights, effective sample size and log evidence.

    A pilot with few nodes around the mode finds the posterior's mean and covariance, which the mode's curvature may
    miss by half; the nodes that count are placed by these, and once more where they still fit badly.
    """
    pilot = _weighted(law, prior, shared, points, centre, _WIDER * scale, count // 4 | 1)
    centre, scale = _moved(pilot, scale)
    best = _weighted(law, prior, shared, points, centre, scale, count)
    poor = (best.effective < _MIN_EFFECTIVE * count).nonzero()[:, 0]
    if len(poor):
        weighted = _Weighted(*(part[poor] for part in best))
        centre, scale = _moved(weighted, scale[poor])
        some = Gaussian(prior.mean[poor], prior.covariance), shared, Points(*(part[poor] for part in points))
        again = _weighted(law, *some, centre, scale, count)
        better = again.effective > weighted.effective
        for target, value in zip(best, again, strict=True):
            target[poor[better]] = value[better]
    return best


class _Weighted(NamedTuple):
    """Nodes of a proposal; attributes as in Posterior."""

    nodes: Tensor
    weights: Tensor
    effective: Tensor
    log_evidence: Tensor


def _weighted(
    law: Law, prior: Gaussian, shared: Mapping[str, Tensor], points: Points, centre: Tensor, scale: Tensor, count: int
) -> _Weighted:
    """Return the nodes of a proposal around the centre with their normalised weights."""
    nodes, log_weights = _weighted_nodes(law, prior, shared, points, centre, scale, count)
    weights = torch.softmax(log_weights, -1).nan_to_num(1.0 / count)
    effective = 1.0 / (weights * weights).sum(-1)
    return _Weighted(nodes, weights, effective, torch.logsumexp(log_weights, -1) - np.log(count))


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


def _moved(found: _Weighted, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return centre and scale of a proposal that follows the weighted nodes, a little wider than they are."""
    covariance = 1.7 * _covariance(found.nodes, found.weights) + 0.05 * scale @ scale.mT
    factor, info = torch.linalg.cholesky_ex(covariance)
    bad = (info != 0) | ~torch.isfinite(factor).all(-1).all(-1)
    return (found.weights[..., None] * found.nodes).sum(1), torch.where(bad[:, None, None], scale, factor)


def _covariance(nodes: Tensor, weights: Tensor) -> Tensor:
    """Return (specimens, fast, fast)."""
    centred = nodes - (weights[..., None] * nodes).sum(1, keepdim=True)
    return (weights[..., None] * centred).mT @ centred
