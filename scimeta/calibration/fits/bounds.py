"""Parameters that the data push to the end of their support, and intervals by the profile of the likelihood.

A positive parameter is solved for by its logarithm, which runs to minus infinity where zero fits best. There the curve
has a limit, and the cost its least value: the parameter is held at its bound, and the others have the values of the law
without it. How far it may be from there says its profile, the least cost at each of its values; how far the others may
be say theirs, in which it is free to leave its bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from scimeta.calibration.fits.descent import HUGE, Problem, Trial, descend, polished

_NEAR = 0.4  # of the way to the end of the support that an interval by Student's t may reach
_FAR = np.log(1e6)  # beyond the end of its interval: at its bound
_AWAY = 60.0  # e-folds from the start that a value may be where farther ones are no better
_LIMIT = 32.0  # e-folds over which a limit is taken as reached
_MOVED = 0.01  # of the others on the last half of that way: they have no limit
_ALONG = 0.1  # of the way to the threshold: an e-fold that moves the curve by less calls for a second opinion
_FOLLOWED = 0.01  # of an interval: what moves less along the profile of one at its bound is not followed
_IDLE = 1e-9  # of the residual: a column below does not move the curve
_CLOSE, _REFITTED = 1e-6, 1e-5  # ends are found; relative offset at which the cost is known to ten digits
_RESTARTS = 4  # from better solutions that profiles come across
_REACH = {"real": (-np.inf, np.inf), "positive": (-600.0, 600.0), "softplus": (-600.0, 1e8), "unit": (-600.0, 36.0)}


class Profile(NamedTuple):
    """Where the profile of one parameter crosses the threshold; nan where its value is of no consequence.

    Attributes:
        lower, upper: unconstrained; infinite where the support ends first.
        bound: -1 or 1 for a solution at the lower or upper end of the support; else 0.
        partner: True of a parameter that is followed for another's being at its bound.
        far: (unknowns,) the best solution at the other end of the interval, of a parameter held at its bound.
    """

    lower: float
    upper: float
    bound: int
    partner: bool = False
    far: np.ndarray | None = None


_NONE = Profile(np.nan, np.nan, 0)


class Settled(NamedTuple):
    """A solution, the parameters at their bounds held there.

    Attributes:
        u: (unknowns,) the solution.
        free: the unknowns that are not held.
        trial: where the descent of the free ones ended.
        profiles: unknown -> interval, of those that Student's t does not describe.
    """

    u: np.ndarray
    free: list[int]
    trial: Trial
    profiles: Mapping[int, Profile]


def settled(
    problem: Problem, best: Trial, start: np.ndarray, linear: Sequence[int], level: float, *, absolute: bool
) -> Settled:
    """Return the solution with the parameters that have their best value at a bound held there.

    Profiles are followed of the positive parameters and fractions whose interval by Student's t would, in natural units
    or those of the reciprocal, go 0.4 of the way to the end of the support or beyond. With c = t^2 s^2 they end where
    the least cost exceeds that of the solution by c: t and s^2 by points - unknowns degrees of freedom, or 1.645 (at
    90 %) and 1 where the noise is known.

    Args:
        problem: more points than unknowns, or the noise is known.
        best: the best solution so far.
        start: (unknowns,) where the search began: the others are sought from there, too.
        linear: unknowns in which the curve is affine.
        level: probability of the intervals.
        absolute: True if the weights are known.

    References: Bates and Watts, Nonlinear Regression Analysis (1988), 6.1; Venzon and Moolgavkar, Appl. Stat. 37, 87
    (1988); at a bound: Self and Liang, J. Am. Stat. Assoc. 82, 605 (1987): the interval holds at least its level.
    """
    dof = np.inf if absolute else len(problem.y) - len(problem.names)
    t = float(special.stdtrit(min(dof, 1e10), 0.5 * (1.0 + level)))
    low, high = np.transpose([_REACH[support] for support in problem.supports])
    away = np.array([_AWAY if support == "positive" else np.inf for support in problem.supports])
    inside = problem.judge(best.u.clip(np.maximum(low, start - away), np.minimum(high, start + away)))
    best = inside if inside.cost <= best.cost + problem.tolerance(best.cost) else best
    found = Settled(best.u, list(range(len(best.u))), best, {})
    for _ in range(_RESTARTS):
        found, better = _Search(problem, best, start, linear, t, dof).settled()
        if better is None:
            return found
        best = polished(problem, descend(problem, better, list(linear)))
    return found


class _Search(NamedTuple):
    """Profiles around one solution.

    Attributes:
        problem, best, start, linear: as :func:`settled` has them.
        t: quantile of Student's t at the ends of the intervals.
        dof: degrees of freedom behind it; inf where the noise is known.
    """

    problem: Problem
    best: Trial
    start: np.ndarray
    linear: Sequence[int]
    t: float
    dof: float

    def settled(self) -> tuple[Settled, np.ndarray | None]:
        """Return what the profiles say, or (unknowns,) a better solution that one of them came across."""
        reach = _reach(self.problem, self.best, self.t, self.dof)
        wide = _wide(reach)
        paths: dict[int, _Path] = {}
        for i in wide:
            paths[i] = self.path(i, self.best.u, [j for j in wide if j != i], np.log1p(reach[i]))
            if paths[i].better is not None:
                return Settled(self.best.u, list(range(len(reach))), self.best, {}), paths[i].better
        found = _held(self.problem, self.best, paths, self.t, self.dof)
        partners = {}
        for i, path in self.partners(found, paths).items():
            if path.better is not None:
                return found, path.better
            partners[i] = Profile(path.lower, path.upper, 0, partner=True)
        return found._replace(profiles={**found.profiles, **partners}), None

    def partners(self, found: Settled, paths: Mapping[int, _Path]) -> dict[int, _Path]:
        """Return the profiles of the other unknowns, if they move along with those at their bounds, which are free."""
        ends = [profile.far for profile in found.profiles.values() if profile.far is not None]
        held = [i for i in range(len(found.u)) if i not in found.free]
        spread = self.t * _spread(found.trial, self.dof + len(held))
        result = {}
        for j, one in zip(found.free, spread, strict=True):
            moved = max((abs(end[j] - found.u[j]) for end in ends), default=0.0)
            if j not in paths and moved > _FOLLOWED * one:
                result[j] = self.path(j, found.u, held, float(one), found.trial.cost)
        return result

    def path(self, i: int, u: np.ndarray, others: list[int], step: float, cost: float | None = None) -> _Path:
        """Return the profile of one unknown from a solution u: (unknowns,), its cost that of the best if None."""
        cost = self.best.cost if cost is None else min(cost, self.best.cost)
        end = self.best.cost + self.t**2 * (1.0 if np.isinf(self.dof) else self.best.cost / self.dof)
        step = float(np.clip(step, 0.05, 200.0))
        return _Path(self.problem, i, u, self.start, others, self.linear, (cost, end), step)


class _Path:
    """The least cost at given values of one unknown, and where it crosses the threshold.

    Args:
        problem: the problem.
        index: of the unknown.
        best: (unknowns,) the solution.
        start: (unknowns,) second opinion on where the unknowns of ``others`` are sought.
        others: unknowns that may have run away.
        linear: unknowns in which the curve is affine.
        costs: of the solution, and at the ends of the interval.
        step: first distance that is tried; that of the linearized end is the best.
    """

    def __init__(
        self,
        problem: Problem,
        index: int,
        best: np.ndarray,
        start: np.ndarray,
        others: list[int],
        linear: Sequence[int],
        costs: tuple[float, float],
        step: float,
    ) -> None:
        self.problem, self.index, self.start, self.others = problem, index, start, others
        self.linear = linear
        self.reach = _REACH[problem.supports[index]]
        self.begin, self.costs = float(best[index].clip(*self.reach)), costs
        self.least = costs[0] - problem.tolerance(costs[0])
        self.better: np.ndarray | None = None  # a solution that costs less
        self.known: dict[float, tuple[float, np.ndarray]] = {self.begin: (costs[0], best)}
        self.lower, self.upper = self._end(-1, step), self._end(1, step)

    def cost(self, value: float) -> float:
        """Return the least cost with the unknown at a value."""
        if value not in self.known:
            near, idle, second = self._begin(value)
            found = self._refit(value, near, idle)
            if second and not (idle and self._stays(found[1], idle)):
                again = near.copy()
                again[self.others] = self.start[self.others]
                found = min(found, self._refit(value, again, []), key=lambda one: one[0])
            self.known[value] = found
            if found[0] < self.least:
                self.least, self.better = found
        return self.known[value][0]

    def _begin(self, value: float) -> tuple[np.ndarray, list[int], bool]:
        """Return (unknowns,) near those of known values or on the line through two, and which others are idle there.

        An unknown is idle if it has run so far that it does not move the curve. Third: whether one of the others has
        gone far enough on that way for a second opinion.
        """
        near = sorted(self.known, key=lambda known: abs(known - value))[:2]
        side = [known for known in self.known if (value - known) * (known - self.begin) >= 0.0]
        guesses = [self.known[near[0]][1], self.known[min(side, key=lambda known: abs(known - value))][1]]
        if len(near) > 1:
            one, two = (self.known[known][1] for known in near)
            guesses.append(one + (value - near[0]) / (near[1] - near[0]) * (two - one))
        tried = np.array(guesses)
        tried[:, self.index] = value
        residual, jacobian = self.problem.at(tried)
        which = int((residual * residual).sum(-1).argmin())
        size = np.linalg.norm(jacobian[which], axis=0)[self.others]
        idle = [i for i, one in zip(self.others, size, strict=True) if one < _IDLE * np.sqrt(self.costs[0])]
        return tried[which], idle, bool((size < _ALONG * np.sqrt(self.costs[1] - self.costs[0])).any())

    def near(self, value: float) -> np.ndarray:
        """Return (unknowns,) the best solution at the nearest known value."""
        return self.known[min(self.known, key=lambda known: abs(known - value))][1]

    def _refit(self, value: float, begin: np.ndarray, held: list[int]) -> tuple[float, np.ndarray]:
        """Return the least cost and (unknowns,) where it is, the unknown at a value and others held where they are."""
        free = [i for i in range(len(begin)) if i != self.index and i not in held]
        reduced = self.problem.held({self.index: value} | {i: float(begin[i]) for i in held})
        cost, v = _refitted(reduced, begin[free], [free.index(i) for i in self.linear if i in free])
        u = begin.copy()
        u[self.index], u[free] = value, v
        return cost, u

    def _stays(self, u: np.ndarray, idle: list[int]) -> bool:
        """Return True if the cost does not fall on the way back of those that have run away."""
        residual, jacobian = (values[0] for values in self.problem.at(u[None]))
        return bool((jacobian[:, idle].T @ residual * np.sign(self.start[idle] - u[idle]) > 0.0).all())

    def _end(self, sign: int, step: float) -> float:
        """Return the value beyond which the least cost exceeds the threshold; infinite if it does not."""
        inside, reach = self.begin, self.reach[(sign + 1) // 2]
        while self.better is None and (far := sign * (reach - inside)) > 0.5:
            value = inside + min(step, far) * sign
            cost = self.cost(value)
            if cost >= HUGE:  # more than the law can be computed for
                reach, step = value, 0.5 * min(step, far)
            elif cost > self.costs[1]:
                return self._crossing(inside, value)
            else:
                inside, step = value, 2.0 * step
        return sign * np.inf

    def _crossing(self, inside: float, outside: float) -> float:
        """Return where the least cost is that of the ends: its root is near a line, of a positive one's own value."""
        grows = self.problem.supports[self.index] == "positive" and abs(outside - inside) < 300.0
        width = float(np.expm1(outside - inside) if grows else outside - inside)
        ends = {0.0: self._excess(inside), width: self._excess(outside)}

        def excess(away: float) -> float:
            return ends[away] if away in ends else self._excess(at(away))

        def at(away: float) -> float:
            return inside + (float(np.log1p(away)) if grows else away)

        scale = min(1.0, 1.0 + width) if grows and width > -1.0 else 1.0
        return at(float(np.asarray(optimize.brentq(excess, *ends, xtol=1e-6 * scale, maxiter=1000))))

    def _excess(self, value: float) -> float:
        """Return the root of the cost above the solution's less that of the ends, as a share of it; 0 if it is near."""
        best, end = self.costs
        excess = float(np.sqrt(max(self.cost(value) - best, 0.0) / (end - best))) - 1.0
        return excess if abs(excess) > _CLOSE else 0.0

    def bound(self) -> tuple[float, np.ndarray, np.ndarray] | None:
        """Return the limit at the end of the support where the cost is least, if the profile is open there.

        Returns: cost, (unknowns,) at the limit and half-way to it; None if a value in between is better, or all are as
        good.
        """
        limits = [self._limit(sign) for sign, end in ((-1, self.lower), (1, self.upper)) if np.isinf(end)]
        limits.sort(key=lambda limit: limit[0])
        flat = 10.0 * self.problem.tolerance(self.least)
        if not limits or (len(limits) == 2 and limits[1][0] - limits[0][0] <= flat):
            return None
        return limits[0] if limits[0][0] <= self.least + flat else None

    def _limit(self, sign: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Return cost and unknowns towards one end of the support, and the unknowns half-way."""
        onward = sorted((sign * (value - self.begin), found) for value, found in self.known.items()
                        if sign * (value - self.begin) >= 0.0 and found[0] < HUGE)  # fmt: skip
        near = self.problem.supports[self.index] != "softplus" or sign < 0  # a softplus grows slowly
        last = next((i for i, (away, _) in enumerate(onward) if near and away >= _LIMIT), len(onward) - 1)
        cost, limit = onward[last][1]
        return cost, limit, onward[max(last - 1, 0)][1][1]


def _refitted(problem: Problem, start: np.ndarray, linear: list[int]) -> tuple[float, np.ndarray]:
    """Return the least cost and where it is, sought nearby: a few Gauss-Newton steps, or a descent if these fail."""
    trial = problem.judge(start)
    for _ in range(8):
        if trial.offset < _REFITTED:
            return trial.cost, trial.u
        new = problem.judge(trial.u + trial.step)
        if not (new.offset < 0.5 * trial.offset and new.cost <= trial.cost + problem.tolerance(trial.cost)):
            break
        trial = new
    v = descend(problem, trial.u, linear)
    return problem.judge(v).cost, v


def _spread(trial: Trial, dof: float) -> np.ndarray:
    """Return (unknowns,) standard errors."""
    _, size, axes = np.linalg.svd(trial.upper)
    spread = (axes / size.clip(min=1e-14 * max(size.max(initial=0.0), 1e-300))[:, None]) / trial.scale
    return np.sqrt((1.0 if np.isinf(dof) else trial.cost / dof) * (spread**2).sum(0))


def _reach(problem: Problem, trial: Trial, t: float, dof: float) -> np.ndarray:
    """Return (unknowns,) how far intervals by Student's t go towards the end of the support; 1 is there."""
    slopes = [_slope(*one) for one in zip(problem.supports, trial.u, strict=True)]
    return t * _spread(trial, dof) * np.array(slopes, dtype=float)


def _wide(reach: np.ndarray) -> list[int]:
    """Return unknowns whose interval by Student's t goes far towards the end of the support; the widest first."""
    return [int(i) for i in np.argsort(reach, kind="stable")[::-1] if reach[i] > _NEAR]


def _slope(support: str, u: float) -> float:
    """Return |d ln v / du| of a value v, or of 1 - v if that is larger: its inverse is how far u is from no value."""
    if support == "softplus":
        return float(special.expit(u) / max(np.logaddexp(u, 0.0), 1e-300))
    return {"real": 0.0, "positive": 1.0, "unit": float(max(special.expit(u), special.expit(-u)))}[support]


def _held(problem: Problem, best: Trial, paths: Mapping[int, _Path], t: float, dof: float) -> Settled:
    """Return the solution with unknowns held at their bounds, one after the other, as long as others stay wide."""
    held: dict[int, float] = {}
    drift: list[int] = []  # unknowns that follow a held one without a limit of their own
    refused: list[int] = []
    trial, free = best, list(range(len(best.u)))
    tolerance = 10.0 * problem.tolerance(best.cost)
    while True:
        reduced = problem.held(held) if held else problem
        wide = [free[i] for i in _wide(_reach(reduced, trial, t, dof))]
        options = [i for i in wide if i in paths and i not in refused]
        if not options:
            break
        i = options[0]
        refused.append(i)
        found = paths[i].bound()
        if found is None:
            continue
        _, limit, half = found
        rest = [j for j in free if j != i]
        smaller = problem.held({**held, i: limit[i]})
        new = polished(smaller, descend(smaller, limit[rest], []))
        if new.cost <= best.cost + tolerance:
            held, trial, free = {**held, i: limit[i]}, new, rest
            drift += [j for j in rest if abs(limit[j] - half[j]) > _MOVED * max(1.0, abs(half[j]))]
    nowhere = [i for i in wide if held and (i not in paths or _open(paths[i]))]
    if nowhere:
        held |= {i: float(trial.u[free.index(i)]) for i in nowhere}
        free = [i for i in free if i not in nowhere]
        reduced = problem.held(held)
        trial = polished(reduced, np.array([u for u, i in zip(trial.u, sorted({*free, *nowhere}), strict=True)
                                            if i not in nowhere]))  # fmt: skip
    u = np.empty(len(best.u))
    u[free], u[list(held)] = trial.u, list(held.values())
    profiles = _profiles(u, paths, held, nowhere + [j for j in drift if j not in paths])
    if not free and not any(np.isfinite(profile[:2]).any() for profile in profiles.values()):
        return Settled(best.u, list(range(len(best.u))), best, {})  # nothing is determined
    return Settled(u, free, trial, profiles)


def _open(path: _Path) -> bool:
    """Return True if the cost stays below the threshold whatever the value."""
    return bool(np.isinf(path.lower) and np.isinf(path.upper))


def _profiles(
    u: np.ndarray, paths: Mapping[int, _Path], held: Mapping[int, float], nowhere: Sequence[int]
) -> dict[int, Profile]:
    """Return the intervals of the unknowns that were followed; u: (unknowns,), the solution."""
    result = {}
    for i, path in paths.items():
        below = np.isinf(path.lower) and u[i] < path.upper - _FAR
        above = np.isinf(path.upper) and u[i] > path.lower + _FAR
        bound = int(above) - int(below)
        if below and above:  # anything is possible: at a bound if it is held there
            bound = (-1 if u[i] < path.begin else 1) if i in held else 0
        end = path.upper if bound < 0 else path.lower
        far = path.near(end) if bound and i in held and np.isfinite(end) else None
        result[i] = Profile(path.lower, path.upper, bound, far=far)
    return {**result, **{i: _NONE for i in nowhere}}
