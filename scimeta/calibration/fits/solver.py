"""The least-squares solver behind the classical baseline: several descents, one strict judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.bounds import Profile, settled
from scimeta.calibration.fits.descent import ROUNDING, Problem, Trial, alone, descend, polished, together
from scimeta.calibration.laws.law import Law

_SAMPLES, _DESCENTS = 256, 8  # starts that are looked at, and those of them that are followed
_IDLE, _STOPPED = 1e-7, 1e-5  # of the residual, what a column is that moves nothing; relative offset of the others
_DECADES = 3.0  # how far around the given start they are scattered


class Fit(NamedTuple):
    """A least-squares solution.

    Attributes:
        u: (parameters,) unconstrained, in the order of the law.
        covariance: (parameters, parameters) of u; None where the points do not give one.
        cost: weighted sum of squared residuals.
        converged: True at a minimum that determines every parameter.
        message: why there is no covariance; "" if there is one.
        profiles: parameter -> interval, of those that Student's t does not describe.
        held: how many parameters are held, at bounds or where their values are of no consequence; their covariance
            is 0.
    """

    u: np.ndarray
    covariance: np.ndarray | None
    cost: float
    converged: bool
    message: str
    profiles: Mapping[int, Profile]
    held: int = 0


def solve(
    law: Law,
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    start: np.ndarray,
    *,
    known: bool = True,
    level: float = 0.9,
) -> Fit:
    """Return the least-squares solution.

    Args:
        law: the law.
        x, y: (points,) float64, finite.
        weights: (points,) 1 / sigma; None for points of one unknown noise, which the residuals then scale.
        start: (parameters,) unconstrained.
        known: False if the start is no better than a guess at the parameters' scale: others are then always tried.
        level: probability of intervals by profiles.
    """
    with np.errstate(all="ignore"):
        problem = alone(law, x, y, np.ones(len(y)) if weights is None else weights)
        linear = _linear(problem, start)
        best, agree = None, 0
        # Many nonlinear parameters have many minima: then descents by other ways have to agree on the best of them.
        many = len(start) - len(linear) > 2
        enough = 2 if not known or (many and not linear) else int(many)
        for trial in _trials(problem, start, linear, known):
            if best is not None and abs(trial.cost - best.cost) <= problem.tolerance(best.cost):
                agree += trial.minimum or _ran_away(problem, trial)
                best = trial if trial.minimum and not best.minimum else best
            elif best is None or trial.cost < best.cost:
                best, agree = trial, 0
            if agree >= 2 and (best.minimum or _ran_away(problem, best)):
                break
            if best.minimum and agree >= enough and _plausible(problem, best):
                break
        best = _like_start(problem, best, start, linear)
        return _judged(problem, best, start, linear, level, absolute=weights is not None)


def solve_jointly(
    law: Law, curves: Sequence[Curve], starts: np.ndarray, *, absolute: bool, level: float = 0.9
) -> list[Fit]:
    """Return the least-squares solutions of specimens that share parameters, fitted to all of their points together.

    Minimises sum_s |(f(x_s; own_s, shared) - y_s) / sigma_s|^2 over every specimen's own parameters and one value of
    the shared ones for all. Each Fit holds its specimen's own and the shared parameters, with their joint covariance;
    ``cost`` is that of all specimens.

    Args:
        law: with shared parameters.
        curves: two specimens or more.
        starts: (specimens, parameters) unconstrained.
        absolute: True if every point has a sigma; False if one unknown noise is common to all.
        level: probability of intervals by profiles.

    Reference: Bates and Watts, Nonlinear Regression Analysis (1988), 4.1.
    """
    own, count = [law.names.index(name) for name in law.fast], len(curves)
    common = [i for i in range(len(law.names)) if i not in own]
    place = np.empty((count, len(law.names)), dtype=int)  # of each parameter of each specimen among the unknowns
    place[:, own] = np.arange(count * len(own)).reshape(count, -1)
    place[:, common] = count * len(own) + np.arange(len(common))
    start = np.empty(count * len(own) + len(common))
    start[place[:, own]] = starts[:, own]
    start[place[0, common]] = np.median(starts[:, common], 0)
    problem = together(law, curves, place, absolute)
    with np.errstate(all="ignore"):
        whole = _judged(problem, polished(problem, descend(problem, start, [])), start, [], level, absolute=absolute)
    return [_of_specimen(whole, at) for at in place]


def _of_specimen(whole: Fit, at: np.ndarray) -> Fit:
    """Return one specimen's part of a solution of all; at: (parameters,) among the unknowns."""
    covariance = None if whole.covariance is None else whole.covariance[np.ix_(at, at)]
    own = {i: whole.profiles[j] for i, j in enumerate(at.tolist()) if j in whole.profiles}
    profiles = {i: one._replace(far=None if one.far is None else one.far[at]) for i, one in own.items()}
    return whole._replace(u=whole.u[at], covariance=covariance, profiles=profiles)


def _trials(problem: Problem, start: np.ndarray, linear: list[int], known: bool) -> Iterator[Trial]:
    """Yield where descents end: from the start, projected and plain, then from the best of many scattered around it."""
    yield polished(problem, descend(problem, start, linear))
    if linear:  # without linear parameters the two are one descent, and no second opinion
        yield polished(problem, descend(problem, start, []))
    if len(problem.y) < len(start):
        return
    scattered, residual = problem.projected(_scattered(problem, start), linear)
    for i in np.argsort((residual * residual).sum(-1))[:_DESCENTS]:
        yield polished(problem, descend(problem, scattered[i], linear))


def _ran_away(problem: Problem, trial: Trial) -> bool:
    """Return True at a minimum of all but unknowns that have run to the end of their support and move nothing there."""
    idle = [i for i, support in enumerate(problem.supports)
            if support != "real" and trial.scale[i] < _IDLE * np.sqrt(trial.cost)]  # fmt: skip
    if not idle or len(idle) == len(trial.u):
        return False
    rest = [i for i in range(len(trial.u)) if i not in idle]
    return problem.held({i: float(trial.u[i]) for i in idle}).judge(trial.u[rest]).offset < _STOPPED


def _plausible(problem: Problem, trial: Trial) -> bool:
    """Return False where another minimum is likely: residuals that are large, or too long of one sign."""
    weighted = problem.y * problem.weights
    if trial.cost <= (100 * ROUNDING * problem.norm) ** 2:
        return True
    if trial.cost > 0.1 * ((weighted - weighted.mean()) ** 2).sum():
        return False
    above = problem.at(trial.u[None])[0][0][problem.order] > 0
    high, low = int(above.sum()), int((~above).sum())
    expected = 1 + 2 * high * low / len(above)
    variance = (expected - 1) * (expected - 2) / max(len(above) - 1, 1)
    return 1 + int((above[1:] != above[:-1]).sum()) >= expected - 3 * np.sqrt(max(variance, 0.0))


def _linear(problem: Problem, start: np.ndarray) -> list[int]:
    """Return parameters in which the curve is jointly affine: moving them leaves their own columns as they are."""
    if "real" not in problem.supports:
        return []
    base = start + 0.013 * np.abs(start) + 1e-4 * (start == 0)
    columns = problem.at(np.vstack([base, base + np.diag(0.1 * np.abs(base))]))[1]  # (1 + moved, points, parameters)
    size = np.abs(columns[0]).max(0)
    fixed = (np.abs(columns[1:] - columns[0]).max(1) <= 1e-9 * size) & (size > 0)  # (moved, parameters)
    chosen: list[int] = []
    for i, support in enumerate(problem.supports):
        if support == "real" and fixed[i, i] and all(fixed[i, j] and fixed[j, i] for j in chosen):
            chosen.append(i)
    return chosen


def _scattered(problem: Problem, start: np.ndarray) -> np.ndarray:
    """Return (samples, parameters): the start's values times random factors; of either sign where it is zero."""
    draw = np.random.default_rng(0).uniform(-1.0, 1.0, (_SAMPLES, len(start)))
    real = np.array([support == "real" for support in problem.supports])
    zero = np.sign(draw) * 10 ** (_DECADES * (2 * np.abs(draw) - 1))
    moved = np.where(start != 0, start * 10 ** (_DECADES * draw), zero)
    return np.where(real, moved, start + np.log(10.0) * _DECADES * draw)


def _like_start(problem: Problem, best: Trial, start: np.ndarray, linear: list[int]) -> Trial:
    """Return the same minimum with the start's signs and order, where the curve leaves them open.

    A width that enters squared can have either sign; two exponentials can change places.
    """
    free = [i for i in range(len(start)) if i not in linear]
    for i, j in ((i, j) for i in free for j in free if i <= j):
        other = best.u.copy()
        if i == j:
            other[i] = -other[i]
            differs = start[i] * best.u[i] < 0
        else:
            other[[i, j]] = other[[j, i]]
            differs = (start[i] - start[j]) * (best.u[i] - best.u[j]) < 0
        if differs:
            trial = polished(problem, problem.projected(other[None], linear)[0][0])
            if trial.minimum and abs(trial.cost - best.cost) <= problem.tolerance(best.cost):
                best = trial
    return best


def _judged(
    problem: Problem, best: Trial, start: np.ndarray, linear: list[int], level: float, *, absolute: bool
) -> Fit:
    """Return the solution with its covariance (R^T R)^-1 in the units of u, or with the reason why there is none.

    Parameters at their bounds are held there, and the others judged as those of the law without them.
    """
    points, count = len(problem.y), len(best.u)
    exact = best.cost <= (ROUNDING * problem.norm) ** 2
    if points < count or (points == count and not absolute) or exact:
        return _with_covariance(problem, best, absolute=absolute)
    found = settled(problem, best, start, linear, level, absolute=absolute)
    held = [i for i in range(count) if i not in found.free]
    fit = _with_covariance(problem.held({i: found.u[i] for i in held}), found.trial, absolute=absolute)
    if fit.covariance is None and held:
        return _with_covariance(problem, best, absolute=absolute)
    if fit.covariance is None:
        return fit
    covariance = np.zeros((count, count))
    covariance[np.ix_(found.free, found.free)] = fit.covariance
    return Fit(found.u, covariance, fit.cost, True, "", found.profiles, len(held))


def _with_covariance(problem: Problem, best: Trial, *, absolute: bool) -> Fit:
    """Return the solution with its covariance (R^T R)^-1 in the units of u, or with the reason why there is none."""
    points, count = len(problem.y), len(best.u)
    message = ""
    if points < count:
        message = f"{points} point{'s' * (points > 1)} cannot determine {count} parameters"
    elif best.singular:
        weakest = np.abs(np.linalg.svd(best.upper)[2][-1])
        names = [name for name, share in zip(problem.names, weakest, strict=True) if share > 0.1]
        message = f"the points do not determine {', '.join(names) or 'the parameters'}: the curve does not change with "
        message += "it" if len(names) == 1 else "some combination of them"
    elif not best.minimum:
        message = "the solve found no minimum; give a start nearer to the solution"
    elif points == count and not absolute:
        message = "as many parameters as points: nothing is left to judge the fit by"
    elif best.cost <= (ROUNDING * problem.norm) ** 2 and not (absolute and problem.norm):
        message = "the law passes through every point: no residual measures the noise"
    if message:
        return Fit(best.u, None, best.cost, best.minimum and problem.norm > 0, message, {})
    factor = np.linalg.inv(best.upper) / best.scale[:, None]
    variance = 1.0 if absolute else best.cost / (points - count)
    return Fit(best.u, variance * factor @ factor.T, best.cost, True, "", {})
