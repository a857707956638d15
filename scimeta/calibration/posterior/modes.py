"""The few simple explanations of a specimen's points: which component it is, and which of its points are wrong.

Under a mixture prior and contaminated noise a posterior has several modes. Under one component and one choice of wrong
points it has one, whose mode Gauss-Newton finds. The modes together say where the nodes go; the weights of the nodes
are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.nodes import student_nodes
from scimeta.core.inner_loop import Solution, gauss_newton

CHUNK = 1 << 17  # values of the law at once: what fits into the cache of a core
MOST = 6  # modes a specimen
_NEGLIGIBLE = 5.0  # nats of evidence below the best: such a mode holds less than a hundredth
_UNSURE = 4.0  # nats of odds up to which a point is tried both ways
_UNLIKELY = 1e-3  # probability of a distance that calls for a wider search
_FLIPS = 12  # wrong points that are sought in one specimen
_RIVAL_FLIPS = 2  # the same, under another component than the one that explains it best
_REWEIGHTED = 2  # searches more, in which noise and discrepancy follow the mode
_FAR = 40.0  # nats by which another component may be worse and yet be tried with other wrong points


class Modes(NamedTuple):
    """Candidates for where posteriors lie, those of a specimen side by side in order of evidence.

    Attributes:
        specimen: (modes,) row of the specimen.
        component: (modes,) mode of the mixture.
        wrong: (modes, points) bool, points taken for outliers.
        mode: (modes, fast).
        laplace: (modes, fast, fast), inverse Gauss-Newton Hessian at the mode.
        converged: (modes,) bool.
        distance: (modes,) squared distance of the points from the prior at the mode, in standard deviations.
        log_evidence: (modes,) by Laplace's approximation.
    """

    specimen: Tensor
    component: Tensor
    wrong: Tensor
    mode: Tensor
    laplace: Tensor
    converged: Tensor
    distance: Tensor
    log_evidence: Tensor

    def rows(self, rows: Tensor) -> Modes:
        """Return some of the modes."""
        return Modes(*(part[rows] for part in self))


def with_outliers(points: Points, outliers: Outliers | None, wrong: Tensor) -> Points:
    """Return the points, those taken for wrong with the standard deviation of an outlier."""
    if outliers is None:
        return points
    clamped = points.inverse_sd.clamp(max=1.0 / outliers.sd)
    return points._replace(inverse_sd=torch.where(wrong, clamped, points.inverse_sd), own=points.own & ~wrong)


def first(specimen: Tensor) -> Tensor:
    """Return (specimens,): where each specimen's modes begin, of rows in order."""
    begins = torch.ones_like(specimen, dtype=torch.bool)
    begins[1:] = specimen[1:] != specimen[:-1]
    return begins.nonzero()[:, 0]


class _Search(NamedTuple):
    """What every search rests on: the family, what it expects of each specimen, and the measurements."""

    family: Family
    prior: Mixture
    points: Points

    def believed(self, specimen: Tensor, wrong: Tensor, u: Tensor | None = None) -> Points:
        """Return points of specimens, as seen from u; see :func:`with_outliers`."""
        some = self.points.rows(specimen)
        some = some if u is None else self.family.seen(some, u)
        return with_outliers(some, self.family.outliers, wrong)


def posterior_modes(family: Family, prior: Mixture, points: Points, start: Tensor | None) -> Modes:
    """Return the explanations of every specimen that are not negligible, at most ``MOST`` each."""
    search, every, by_component = _Search(family, prior, points), torch.arange(len(points.x)), []
    for component in range(len(prior.log_shares)):
        begin = scattered(family, prior.component(component), points, 0.7, 31) if start is None else start
        by_component.append(_solved(search, every, component, torch.zeros_like(points.x, dtype=torch.bool), begin))
    if family.outliers is None:
        found = by_component[0] if len(by_component) == 1 else _worth_it(_joined(by_component), len(points.x))
    else:
        found = _with_wrong_points(search, by_component)
    return _searched(search, found) if start is None else found


def _joined(parts: Sequence[Modes]) -> Modes:
    """Return the modes of several searches in one batch."""
    return Modes(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _with_wrong_points(search: _Search, by_component: Sequence[Modes]) -> Modes:
    """Return the modes with points taken for wrong beside those without.

    The component that explains a specimen best as it stands is searched in full. The others begin with the points that
    are wrong by that one, so that no effort goes into explaining a specimen of another component by wrong points alone.
    """
    specimens = len(search.points.x)
    lead = torch.stack([modes.log_evidence.nan_to_num(nan=-torch.inf) for modes in by_component]).argmax(0)
    parts = []
    for component, modes in enumerate(by_component):
        rows = (lead == component).nonzero()[:, 0]
        parts += _wrong_points(search, modes.rows(rows), _FLIPS, afar=True) if len(rows) else []
    found = _worth_it(_joined(parts), specimens)
    if len(by_component) == 1:
        return found
    leading = found.rows(first(found.specimen))
    for component, modes in enumerate(by_component):
        rows = (lead != component).nonzero()[:, 0]
        begin, known = modes.rows(rows), leading.rows(rows)
        again = known.wrong.any(-1).nonzero()[:, 0]
        if len(again):
            some = rows[again]
            begin = _put(begin, again, _solved(search, some, component, known.wrong[again], begin.mode[again]))
        near = (begin.log_evidence > known.log_evidence - _FAR).nonzero()[:, 0]
        parts += _wrong_points(search, begin.rows(near), _RIVAL_FLIPS, afar=False) if len(near) else []
    return _worth_it(_joined(parts), specimens)


def _solved(search: _Search, specimen: Tensor, component: int, wrong: Tensor, begin: Tensor) -> Modes:
    """Return the modes of specimens under one component and these wrong points, searched from (tasks, fast).

    A noise that follows the mean, and what the law misses, are those at the last mode, and the search goes on from
    there: iteratively reweighted least squares.
    """
    family, prior = search.family, search.prior.rows(specimen).component(component)
    factor = torch.linalg.cholesky(prior.covariance)  # (..., fast, fast)
    whitening = torch.linalg.inv(factor).expand(len(specimen), -1, -1)
    points = search.believed(specimen, wrong, begin)
    solution = _descended(family, points, prior.mean, whitening, begin)
    mode, laplace = _at_mode(solution, prior.covariance, family.law.fast)
    for _ in range(0 if family.plain else _REWEIGHTED):
        begin = torch.where(torch.isfinite(mode), mode, begin)
        points = search.believed(specimen, wrong, begin)
        solution = _descended(family, points, prior.mean, whitening, begin)
        mode, laplace = _at_mode(solution, prior.covariance, family.law.fast)
    size = torch.linalg.cholesky_ex(laplace)[0].diagonal(dim1=-2, dim2=-1).log()
    size = size - factor.diagonal(dim1=-2, dim2=-1).log()
    log_evidence = search.prior.log_shares[component] - solution.cost + size.sum(-1)
    log_evidence = log_evidence + torch.where(points.scale > 0, points.scale, 1.0).log().sum(-1)
    if search.family.outliers is not None:
        share = search.family.outliers.share
        log_evidence = log_evidence + wrong.sum(-1) * np.log(share / (1.0 - share))
    by_component = torch.full_like(specimen, component)
    return Modes(specimen, by_component, wrong, mode, laplace, solution.converged, 2.0 * solution.cost, log_evidence)


def _descended(family: Family, points: Points, mean: Tensor, whitening: Tensor, begin: Tensor) -> Solution:
    """Return the Gauss-Newton solution of whitened residuals and prior, from begin (tasks, fast)."""
    names = family.law.fast

    def linearized(fast: dict[str, Tensor], slow: dict[str, Tensor], data: tuple) -> tuple[Tensor, Tensor]:
        points, mean, whiten = Points(*data[0]), data[1], data[2]
        u = torch.stack([fast[name] for name in names], -1)
        curve, by = family.linearized(u, points.x)
        slopes = torch.stack([by[name] for name in names], 1)  # (tasks, fast, points)
        if points.tilt.shape[1]:
            curve, slopes = points.tilted(curve[:, None], u[:, None])[:, 0], slopes + points.tilt.mT
        r = torch.cat([points.whitened(curve - points.y), (whiten @ (u - mean)[..., None])[..., 0]], -1)
        return r, torch.cat([points.whitened(slopes).mT, whiten], 1)

    unknown = {name: begin[:, i] for i, name in enumerate(names)}
    return gauss_newton(None, unknown, (points, mean, whitening), linearized=linearized, tolerance=1e-3)


def _at_mode(solution: Solution, population: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return mode and Laplace covariance; the population's where the Hessian is singular."""
    laplace = torch.linalg.inv_ex(solution.jacobian.mT @ solution.jacobian)[0]
    bad = ~torch.isfinite(laplace).all(-1).all(-1)
    laplace = torch.where(bad[:, None, None], population.expand_as(laplace), laplace)
    mode = torch.stack([solution.params[name] for name in names], -1)
    return mode, 0.5 * (laplace + laplace.mT)


def _wrong_points(search: _Search, plain: Modes, flips: int, *, afar: bool) -> list[Modes]:
    """Return modes with points taken for wrong beside those without, all of one component.

    Greedy: the point that is most surely wrong is taken so, until none is left. Where two were, or a quarter of the
    points, or where chance does not explain the distance, several may have drawn the law to themselves: the search
    begins anew from afar, and of few points the others are tried as the wrong ones. Then every point that could be
    either is turned over once.
    """
    component, last, odds, found = int(plain.component[0]), plain, _odds(search, plain), [plain]
    for _ in range(min(flips, search.points.x.shape[1] - 1)):
        best, which = odds.masked_fill(last.wrong, -torch.inf).max(-1)
        rows = (best > 0.0).nonzero()[:, 0]
        if not len(rows):
            break
        some = last.rows(rows)
        wrong = some.wrong.scatter(1, which[rows, None], True)
        moved = _solved(search, some.specimen, component, wrong, some.mode)
        found.append(moved)
        last, odds = _put(last, rows, moved), odds.index_put((rows,), _odds(search, moved))
    count = last.wrong.sum(-1)
    many = (count > 1) | (4 * count > (search.points.inverse_sd > 0).sum(-1)[last.specimen])
    hard = (many | _improbable(search, last)).nonzero()[:, 0]
    if afar and len(hard):
        others = ~last.wrong[hard] & (search.points.inverse_sd[last.specimen[hard]] > 0)
        for again in (
            _from_afar(search, last.specimen[hard], component),
            _solved(search, last.specimen[hard], component, others, last.mode[hard]),
        ):
            found.append(again)
            better = again.log_evidence > last.log_evidence[hard]
            rows, again = hard[better], again.rows(better)
            last, odds = _put(last, rows, again), odds.index_put((rows,), _odds(search, again))
    unsure = odds.abs().topk(min(MOST - 2, odds.shape[1]), largest=False)
    row, place = (unsure.values < _UNSURE).nonzero(as_tuple=True)
    if len(row):
        some, which = last.rows(row), unsure.indices[row, place]
        wrong = some.wrong ^ torch.nn.functional.one_hot(which, odds.shape[1]).bool()
        found.append(_solved(search, some.specimen, component, wrong, some.mode))
    return found


def _put(modes: Modes, rows: Tensor, new: Modes) -> Modes:
    """Return the modes with some of them exchanged."""
    return Modes(*(old.index_put((rows,), part) for old, part in zip(modes, new, strict=True)))


def _from_afar(search: _Search, specimen: Tensor, component: int) -> Modes:
    """Return modes that are sought from where the prior and most of the points agree, whatever the others say."""
    prior, points = search.prior.rows(specimen).component(component), search.points.rows(specimen)
    begin = scattered(search.family, prior, points, 1.5, 401, robust=True)
    residual = search.family.curve(begin, points.x) - points.y
    size = residual.abs().masked_fill(points.inverse_sd == 0, torch.nan)
    near = (2.0 * size.nanmedian(-1, keepdim=True).values) ** 2  # the start is off by about as much
    outliers = search.family.outliers
    assert outliers is not None  # else no point is wrong
    inverse_sd = search.family.seen(points, begin).inverse_sd
    ordinary, wrong = outliers.parts(residual, inverse_sd, near)
    found = _solved(search, specimen, component, (wrong > ordinary) & (points.inverse_sd > 0), begin)
    for _ in range(3):
        wrong = _odds(search, found) > 0.0
        rows = (wrong != found.wrong).any(-1).nonzero()[:, 0]
        if not len(rows):
            break
        found = _put(found, rows, _solved(search, specimen[rows], component, wrong[rows], found.mode[rows]))
    return found


def _odds(search: _Search, at: Modes) -> Tensor:
    """Return (modes, points): log odds that a point is wrong, given what the others are taken for.

    Each point is left out in turn, by the closed form of linear least squares.
    """
    family, outliers = search.family, search.family.outliers
    assert outliers is not None  # else no point is wrong
    x, y, inverse_sd, *_ = search.believed(at.specimen, at.wrong, at.mode)
    curve, by = family.linearized(at.mode, x)
    jac = torch.stack([by[name] for name in family.law.fast], -1)  # (modes, points, fast)
    spread = ((jac @ at.laplace) * jac).sum(-1)  # of the curve
    left = (1.0 - spread * inverse_sd**2).clamp(min=1e-6)
    usual = family.seen(search.points.rows(at.specimen), at.mode).inverse_sd
    ordinary, wrong = outliers.parts((curve - y) / left, usual, spread / left)
    odds = (wrong.clamp(min=1e-300) / ordinary.clamp(min=1e-300)).log()
    return torch.where(inverse_sd > 0, odds, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _worth_it(found: Modes, specimens: int) -> Modes:
    """Return the modes in order of specimen and evidence, without doubles and without those that hold little."""
    evidence = found.log_evidence.nan_to_num(nan=-torch.inf)
    order = (-evidence).argsort(stable=True)
    order = order[found.specimen[order].argsort(stable=True)]
    found, evidence = found.rows(order), evidence[order]
    first = torch.searchsorted(found.specimen, torch.arange(specimens))
    rank = torch.arange(len(order)) - first[found.specimen]
    best = evidence[first][found.specimen]
    double = torch.zeros_like(rank, dtype=torch.bool)  # the same mode, found twice, stands next to itself
    double[1:] = (found.specimen[1:] == found.specimen[:-1]) & (found.component[1:] == found.component[:-1])
    double[1:] &= (found.wrong[1:] == found.wrong[:-1]).all(-1)
    return found.rows(((rank == 0) | ((evidence > best - _NEGLIGIBLE) & (rank < MOST) & ~double)).nonzero()[:, 0])


def _searched(search: _Search, found: Modes) -> Modes:
    """Return the modes, the best of a specimen exchanged where a wide search finds a better one of the same component.

    A distance that chance does not explain may be a side valley.
    """
    best = torch.ones_like(found.converged)
    best[1:] = found.specimen[1:] != found.specimen[:-1]
    odd = best & _improbable(search, found)
    for component in found.component[odd].unique().tolist():
        rows = (odd & (found.component == component)).nonzero()[:, 0]
        at, wrong = found.specimen[rows], found.wrong[rows]
        prior = search.prior.rows(at).component(component)
        begin = scattered(search.family, prior, search.believed(at, wrong), 2.5, 401)
        again = _solved(search, at, component, wrong, begin)
        better = again.distance < found.distance[rows]
        for target, value in zip(found, again, strict=True):
            target[rows[better]] = value[better]
    return found


def _improbable(search: _Search, found: Modes) -> Tensor:
    """Return (modes,) bool: the points are farther from the prior than chance explains."""
    counted = (search.points.scale > 0).sum(-1)[found.specimen]
    distance = torch.nan_to_num(found.distance, nan=torch.inf, posinf=torch.inf)
    return torch.special.gammaincc(0.5 * counted, 0.5 * distance) < _UNLIKELY  # chi-squared


def scattered(
    family: Family, prior: Gaussian, points: Points, spread: float, count: int, *, robust: bool = False
) -> Tensor:
    """Return (specimens, fast): the most probable of values scattered around the prior's mean.

    Args:
        family, prior, points: as for :func:`posterior`.
        spread: how far they scatter, in the prior's standard deviations.
        count: how many are tried; odd, so that the mean is among them.
        robust: True to let no point count for much more than the others.
    """
    base = spread * student_nodes(count, len(family.law.fast))[0]
    factors = torch.linalg.cholesky(prior.covariance).mT.expand(len(prior.mean), -1, -1)
    best = []
    for rows in torch.arange(len(prior.mean)).split(max(1, CHUNK // (count * points.x.shape[1]))):
        nodes = prior.mean[rows, None] + base @ factors[rows]
        some = points.rows(rows)
        curves = family.curve(nodes, some.x[:, None])
        off = (curves - some.y[:, None]) * family.inverse_sd(some, curves)
        cost = (torch.log1p(off**2) if robust else off**2).sum(-1) + (base**2).sum(-1)
        best.append(nodes[torch.arange(len(rows)), cost.nan_to_num(nan=torch.inf).argmin(-1)])
    return torch.cat(best)
