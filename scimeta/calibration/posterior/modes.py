"""The few simple explanations of a specimen's points: which kind it is, and which of its points are wrong.

Under a mixture prior and contaminated noise a posterior has several hills. Under one kind and one choice of wrong
points it has one, whose mode Gauss-Newton finds. The hills together say where the nodes go; the weights of the nodes
are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.points import Points
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import student_nodes
from scimeta.core.inner_loop import Solution, gauss_newton

CHUNK = 1 << 17  # values of the law at once: what fits into the cache of a core
MOST = 6  # hills a specimen
_NEGLIGIBLE = 5.0  # nats of evidence below the best: such a hill holds less than a hundredth
_UNSURE = 4.0  # nats of odds up to which a point is tried both ways
_UNLIKELY = 1e-3  # probability of a distance that calls for a wider search
_FLIPS = 12  # wrong points that are sought in one specimen
_RIVAL_FLIPS = 2  # the same, under another kind than the one that explains it best
_FAR = 40.0  # nats by which another kind may be worse and yet be tried with other wrong points


class Hills(NamedTuple):
    """Candidates for where posteriors lie, those of a specimen side by side in order of evidence.

    Attributes:
        specimen: (hills,) row of the specimen.
        kind: (hills,) mode of the mixture.
        wrong: (hills, points) bool, points taken for outliers.
        mode: (hills, fast).
        laplace: (hills, fast, fast), inverse Gauss-Newton Hessian at the mode.
        converged: (hills,) bool.
        distance: (hills,) squared distance of the points from the prior at the mode, in standard deviations.
        log_evidence: (hills,) by Laplace's approximation.
    """

    specimen: Tensor
    kind: Tensor
    wrong: Tensor
    mode: Tensor
    laplace: Tensor
    converged: Tensor
    distance: Tensor
    log_evidence: Tensor

    def rows(self, rows: Tensor) -> Hills:
        """Return some of the hills."""
        return Hills(*(part[rows] for part in self))


class _Problem(NamedTuple):
    """What every search rests on."""

    law: Law
    prior: Mixture
    shared: Mapping[str, Tensor]
    points: Points
    outliers: Outliers | None

    def believed(self, specimen: Tensor, wrong: Tensor) -> Points:
        """Return the points of specimens; see :func:`believed`."""
        return believed(self.points, self.outliers, specimen, wrong)


def believed(points: Points, outliers: Outliers | None, specimen: Tensor, wrong: Tensor) -> Points:
    """Return points of specimens, those taken for wrong with the standard deviation of an outlier."""
    some = Points(*(part[specimen] for part in points))
    if outliers is None:
        return some
    x, y, inverse_sd = some
    return Points(x, y, torch.where(wrong, inverse_sd.clamp(max=1.0 / outliers.sd), inverse_sd))


def first(specimen: Tensor) -> Tensor:
    """Return (specimens,): where each specimen's hills begin, of rows in order."""
    begins = torch.ones_like(specimen, dtype=torch.bool)
    begins[1:] = specimen[1:] != specimen[:-1]
    return begins.nonzero()[:, 0]


def hills(
    law: Law,
    prior: Mixture,
    shared: Mapping[str, Tensor],
    points: Points,
    outliers: Outliers | None,
    start: Tensor | None,
) -> Hills:
    """Return the explanations of every specimen that are not negligible, at most ``MOST`` each."""
    problem, every, kinds = _Problem(law, prior, shared, points, outliers), torch.arange(len(points.x)), []
    for kind in range(len(prior.log_shares)):
        begin = scattered(law, prior.mode(kind), shared, points, 0.7, 31) if start is None else start
        kinds.append(_solved(problem, every, kind, torch.zeros_like(points.x, dtype=torch.bool), begin))
    if outliers is None:
        found = kinds[0] if len(kinds) == 1 else _worth_it(_joined(kinds), len(points.x))
    else:
        found = _with_wrong_points(problem, kinds)
    return _searched(problem, found) if start is None else found


def _joined(parts: Sequence[Hills]) -> Hills:
    """Return the hills of several searches in one batch."""
    return Hills(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _with_wrong_points(problem: _Problem, kinds: Sequence[Hills]) -> Hills:
    """Return the hills with points taken for wrong beside those without.

    The kind that explains a specimen best as it stands is searched in full. The others begin with the points that are
    wrong by that one, so that no effort goes into explaining a specimen of another kind by wrong points alone.
    """
    specimens = len(problem.points.x)
    lead = torch.stack([hills.log_evidence.nan_to_num(nan=-torch.inf) for hills in kinds]).argmax(0)
    parts = []
    for kind, hills in enumerate(kinds):
        rows = (lead == kind).nonzero()[:, 0]
        parts += _wrong_points(problem, hills.rows(rows), _FLIPS, afar=True) if len(rows) else []
    found = _worth_it(_joined(parts), specimens)
    if len(kinds) == 1:
        return found
    leading = found.rows(first(found.specimen))
    for kind, hills in enumerate(kinds):
        rows = (lead != kind).nonzero()[:, 0]
        begin, known = hills.rows(rows), leading.rows(rows)
        again = known.wrong.any(-1).nonzero()[:, 0]
        if len(again):
            some = rows[again]
            begin = _put(begin, again, _solved(problem, some, kind, known.wrong[again], begin.mode[again]))
        near = (begin.log_evidence > known.log_evidence - _FAR).nonzero()[:, 0]
        parts += _wrong_points(problem, begin.rows(near), _RIVAL_FLIPS, afar=False) if len(near) else []
    return _worth_it(_joined(parts), specimens)


def _solved(problem: _Problem, specimen: Tensor, kind: int, wrong: Tensor, begin: Tensor) -> Hills:
    """Return the hills of specimens under one kind and these wrong points, searched from (tasks, fast)."""
    law, shared, points = problem.law, problem.shared, problem.believed(specimen, wrong)
    names, prior = law.fast, problem.prior.rows(specimen).mode(kind)
    factor = torch.linalg.cholesky(prior.covariance)  # (..., fast, fast)
    whitening = torch.linalg.inv(factor).expand(len(specimen), -1, -1)

    def linearized(fast: dict[str, Tensor], slow: dict[str, Tensor], data: tuple) -> tuple[Tensor, Tensor]:
        points, mean, whiten = Points(*data[0]), data[1], data[2]
        x = points.x
        curve, by = law.linearized({**{n: v.expand(len(x)) for n, v in shared.items()}, **fast}, x)
        u = torch.stack([fast[name] for name in names], -1)
        r = torch.cat([points.whitened(curve - points.y), (whiten @ (u - mean)[..., None])[..., 0]], -1)
        jac = points.whitened(torch.stack([by[name] for name in names], 1)).mT
        return r, torch.cat([jac, whiten], 1)

    unknown = {name: begin[:, i] for i, name in enumerate(names)}
    solution = gauss_newton(None, unknown, (points, prior.mean, whitening), linearized=linearized, tolerance=1e-3)
    mode, laplace = _at_mode(solution, prior.covariance, names)
    size = torch.linalg.cholesky_ex(laplace)[0].diagonal(dim1=-2, dim2=-1).log()
    size = size - factor.diagonal(dim1=-2, dim2=-1).log()
    log_evidence = problem.prior.log_shares[kind] - solution.cost + size.sum(-1)
    log_evidence = log_evidence + torch.where(points.scale > 0, points.scale, 1.0).log().sum(-1)
    if problem.outliers is not None:
        share = problem.outliers.share
        log_evidence = log_evidence + wrong.sum(-1) * np.log(share / (1.0 - share))
    kinds = torch.full_like(specimen, kind)
    return Hills(specimen, kinds, wrong, mode, laplace, solution.converged, 2.0 * solution.cost, log_evidence)


def _at_mode(solution: Solution, population: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return mode and Laplace covariance; the population's where the Hessian is singular."""
    laplace = torch.linalg.inv_ex(solution.jacobian.mT @ solution.jacobian)[0]
    bad = ~torch.isfinite(laplace).all(-1).all(-1)
    laplace = torch.where(bad[:, None, None], population.expand_as(laplace), laplace)
    mode = torch.stack([solution.params[name] for name in names], -1)
    return mode, 0.5 * (laplace + laplace.mT)


def _wrong_points(problem: _Problem, plain: Hills, flips: int, *, afar: bool) -> list[Hills]:
    """Return hills with points taken for wrong beside those without, all of one kind.

    Greedy: the point that is most surely wrong is taken so, until none is left. Where two were, or a quarter of the
    points, or where chance does not explain the distance, several may have drawn the law to themselves: the search
    begins anew from afar, and of few points the others are tried as the wrong ones. Then every point that could be
    either is turned over once.
    """
    kind, last, odds, found = int(plain.kind[0]), plain, _odds(problem, plain), [plain]
    for _ in range(min(flips, problem.points.x.shape[1] - 1)):
        best, which = odds.masked_fill(last.wrong, -torch.inf).max(-1)
        rows = (best > 0.0).nonzero()[:, 0]
        if not len(rows):
            break
        some = last.rows(rows)
        wrong = some.wrong.scatter(1, which[rows, None], True)
        moved = _solved(problem, some.specimen, kind, wrong, some.mode)
        found.append(moved)
        last, odds = _put(last, rows, moved), odds.index_put((rows,), _odds(problem, moved))
    count = last.wrong.sum(-1)
    many = (count > 1) | (4 * count > (problem.points.inverse_sd > 0).sum(-1)[last.specimen])
    hard = (many | _improbable(problem, last)).nonzero()[:, 0]
    if afar and len(hard):
        others = ~last.wrong[hard] & (problem.points.inverse_sd[last.specimen[hard]] > 0)
        for again in (
            _from_afar(problem, last.specimen[hard], kind),
            _solved(problem, last.specimen[hard], kind, others, last.mode[hard]),
        ):
            found.append(again)
            better = again.log_evidence > last.log_evidence[hard]
            rows, again = hard[better], again.rows(better)
            last, odds = _put(last, rows, again), odds.index_put((rows,), _odds(problem, again))
    unsure = odds.abs().topk(min(MOST - 2, odds.shape[1]), largest=False)
    row, place = (unsure.values < _UNSURE).nonzero(as_tuple=True)
    if len(row):
        some, which = last.rows(row), unsure.indices[row, place]
        wrong = some.wrong ^ torch.nn.functional.one_hot(which, odds.shape[1]).bool()
        found.append(_solved(problem, some.specimen, kind, wrong, some.mode))
    return found


def _put(hills: Hills, rows: Tensor, new: Hills) -> Hills:
    """Return the hills with some of them exchanged."""
    return Hills(*(old.index_put((rows,), part) for old, part in zip(hills, new, strict=True)))


def _from_afar(problem: _Problem, specimen: Tensor, kind: int) -> Hills:
    """Return hills that are sought from where the prior and most of the points agree, whatever the others say."""
    prior, points = problem.prior.rows(specimen).mode(kind), Points(*(part[specimen] for part in problem.points))
    begin = scattered(problem.law, prior, problem.shared, points, 1.5, 401, robust=True)
    params = {name: begin[:, i] for i, name in enumerate(problem.law.fast)}
    params |= {name: value.expand(len(begin)) for name, value in problem.shared.items()}
    residual = problem.law.curve(params, points.x) - points.y
    size = residual.abs().masked_fill(points.inverse_sd == 0, torch.nan)
    near = (2.0 * size.nanmedian(-1, keepdim=True).values) ** 2  # the start is off by about as much
    ordinary, wrong = problem.outliers.parts(residual, points.inverse_sd, near)
    found = _solved(problem, specimen, kind, (wrong > ordinary) & (points.inverse_sd > 0), begin)
    for _ in range(3):
        wrong = _odds(problem, found) > 0.0
        rows = (wrong != found.wrong).any(-1).nonzero()[:, 0]
        if not len(rows):
            break
        found = _put(found, rows, _solved(problem, specimen[rows], kind, wrong[rows], found.mode[rows]))
    return found


def _odds(problem: _Problem, at: Hills) -> Tensor:
    """Return (hills, points): log odds that a point is wrong, given what the others are taken for.

    Each point is left out in turn, by the closed form of linear least squares.
    """
    law, outliers = problem.law, problem.outliers
    x, y, inverse_sd = problem.believed(at.specimen, at.wrong)
    params = {name: at.mode[:, i] for i, name in enumerate(law.fast)}
    params |= {name: value.expand(len(x)) for name, value in problem.shared.items()}
    curve, by = law.linearized({name: params[name] for name in law.names}, x)
    jac = torch.stack([by[name] for name in law.fast], -1)  # (hills, points, fast)
    spread = ((jac @ at.laplace) * jac).sum(-1)  # of the curve
    left = (1.0 - spread * inverse_sd**2).clamp(min=1e-6)
    ordinary, wrong = outliers.parts((curve - y) / left, problem.points.inverse_sd[at.specimen], spread / left)
    odds = (wrong.clamp(min=1e-300) / ordinary.clamp(min=1e-300)).log()
    return torch.where(inverse_sd > 0, odds, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _worth_it(found: Hills, specimens: int) -> Hills:
    """Return the hills in order of specimen and evidence, without doubles and without those that hold little."""
    evidence = found.log_evidence.nan_to_num(nan=-torch.inf)
    order = (-evidence).argsort(stable=True)
    order = order[found.specimen[order].argsort(stable=True)]
    found, evidence = found.rows(order), evidence[order]
    first = torch.searchsorted(found.specimen, torch.arange(specimens))
    rank = torch.arange(len(order)) - first[found.specimen]
    best = evidence[first][found.specimen]
    double = torch.zeros_like(rank, dtype=torch.bool)  # the same hill, found twice, stands next to itself
    double[1:] = (found.specimen[1:] == found.specimen[:-1]) & (found.kind[1:] == found.kind[:-1])
    double[1:] &= (found.wrong[1:] == found.wrong[:-1]).all(-1)
    return found.rows(((rank == 0) | ((evidence > best - _NEGLIGIBLE) & (rank < MOST) & ~double)).nonzero()[:, 0])


def _searched(problem: _Problem, found: Hills) -> Hills:
    """Return the hills, the best of a specimen exchanged where a wide search finds a better one of the same kind.

    A distance that chance does not explain may be a side valley.
    """
    best = torch.ones_like(found.converged)
    best[1:] = found.specimen[1:] != found.specimen[:-1]
    odd = best & _improbable(problem, found)
    for kind in found.kind[odd].unique().tolist():
        rows = (odd & (found.kind == kind)).nonzero()[:, 0]
        at, wrong = found.specimen[rows], found.wrong[rows]
        prior = problem.prior.rows(at).mode(kind)
        begin = scattered(problem.law, prior, problem.shared, problem.believed(at, wrong), 2.5, 401)
        again = _solved(problem, at, kind, wrong, begin)
        better = again.distance < found.distance[rows]
        for target, value in zip(found, again, strict=True):
            target[rows[better]] = value[better]
    return found


def _improbable(problem: _Problem, found: Hills) -> Tensor:
    """Return (hills,) bool: the points are farther from the prior than chance explains."""
    counted = (problem.points.scale > 0).sum(-1)[found.specimen]
    distance = torch.nan_to_num(found.distance, nan=torch.inf, posinf=torch.inf)
    return torch.special.gammaincc(0.5 * counted, 0.5 * distance) < _UNLIKELY  # chi-squared


def scattered(
    law: Law,
    prior: Gaussian,
    shared: Mapping[str, Tensor],
    points: Points,
    spread: float,
    count: int,
    *,
    robust: bool = False,
) -> Tensor:
    """Return (specimens, fast): the most probable of values scattered around the prior's mean.

    Args:
        law, prior, shared, points: as for :func:`posterior`.
        spread: how far they scatter, in the prior's standard deviations.
        count: how many are tried; odd, so that the mean is among them.
        robust: True to let no point count for much more than the others.
    """
    base = spread * student_nodes(count, len(law.fast))[0]
    factors = torch.linalg.cholesky(prior.covariance).mT.expand(len(prior.mean), -1, -1)
    best = []
    for rows in torch.arange(len(prior.mean)).split(max(1, CHUNK // (count * points.x.shape[1]))):
        nodes = prior.mean[rows, None] + base @ factors[rows]
        params = {name: nodes[..., i] for i, name in enumerate(law.fast)}
        params |= {name: value.expand(nodes.shape[:2]) for name, value in shared.items()}
        some = Points(*(part[rows] for part in points))
        misfit = some.whitened(law.curve(params, some.x[:, None]) - some.y[:, None])
        cost = (torch.log1p(misfit**2) if robust else misfit**2).sum(-1) + (base**2).sum(-1)
        best.append(nodes[torch.arange(len(rows)), cost.nan_to_num(nan=torch.inf).argmin(-1)])
    return torch.cat(best)
