"""Parameters that the data push to the end of their support, and intervals by the profile of the likelihood.

A positive parameter is solved for by its logarithm, which runs to minus infinity where zero fits best. There the curve
has a limit, and the cost its least value: the parameter is held at its bound, and the others are judged as those of the
law without it. How far it may be from there says its profile, the least cost at each of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from scimeta.calibration.fits.descent import HUGE, Problem, Trial, descend, polished

_NEAR = 0.4  # of the way to the end of the support that an interval by Student's t may reach
_FAR = np.log(1e6)  # beyond the end of its interval: at its bound
_LIMIT = 32.0  # e-folds over which a limit is taken as reached
_MOVED = 0.01  # of the others on the last half of that way: they have no limit
_RESTARTS = 4  # from better solutions that profiles come across
_REACH = {"real": (-np.inf, np.inf), "positive": (-600.0, 600.0), "softplus": (-600.0, 1e8), "unit": (-600.0, 36.0)}


class Profile(NamedTuple):
    """Where the profile of one parameter crosses the threshold; nan where its value is of no consequence.

    Attributes:
        lower, upper: unconstrained; infinite where the support ends first.
        bound: -1 or 1 for a solution at the lower or upper end of the support; else 0.
    """

    lower: float
    upper: float
    bound: int


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
    t = special.stdtrit(min(dof, 1e10), 0.5 * (1.0 + level))
    low, high = np.transpose([_REACH[support] for support in problem.supports])
    inside = problem.judge(best.u.clip(low, high))
    best = inside if inside.cost <= best.cost + problem.tolerance(best.cost) else best
    paths: dict[int, _Path] = {}
    for _ in range(_RESTARTS):
        wide = _wide(problem, best, t, dof)
        threshold = best.cost + t**2 * (1.0 if absolute else best.cost / dof)
        paths, better = {}, None
        for i in wide:
            paths[i] = _Path(problem, i, best, start, [j for j in wide if j != i], linear, threshold)
            better = paths[i].better
            if better is not None:
                break
        if better is None:
            break
        best = polished(problem, descend(problem, better, list(linear)))
    return _held(problem, best, paths, t, dof)


class _Path:
    """The least cost at given values of one unknown, and where it crosses the threshold.

    Args:
        problem: the problem.
        index: of the unknown.
        best: the solution.
        start: (unknowns,) second opinion on where the unknowns of ``others`` are sought.
        others: unknowns that may have run away.
        linear: unknowns in which the curve is affine.
        threshold: cost at the ends of the interval.
    """

    def __init__(
        self,
        problem: Problem,
        index: int,
        best: Trial,
        start: np.ndarray,
        others: list[int],
        linear: Sequence[int],
        threshold: float,
    ) -> None:
        self.problem, self.index, self.start, self.others = problem, index, start, others
        self.free = [i for i in range(len(start)) if i != index]
        self.linear = [self.free.index(i) for i in linear if i != index]
        self.reach = _REACH[problem.supports[index]]
        self.begin, self.threshold = float(best.u[index].clip(*self.reach)), threshold
        self.least = best.cost - problem.tolerance(best.cost)
        self.better: np.ndarray | None = None  # a solution that costs less
        self.known: dict[float, tuple[float, np.ndarray]] = {self.begin: (best.cost, best.u)}
        self.lower, self.upper = self._end(-1), self._end(1)

    def cost(self, value: float) -> float:
        """Return the least cost with the unknown at a value."""
        if value not in self.known:
            reduced = self.problem.held({self.index: value})
            found = []
            for begin in self._starts(value):
                v = descend(reduced, begin[self.free], self.linear)
                residual = reduced.at(v[None])[0][0]
                found.append((float(residual @ residual), np.insert(v, self.index, value)))
            self.known[value] = min(found, key=lambda one: one[0])
            if self.known[value][0] < self.least:
                self.least, self.better = self.known[value]
        return self.known[value][0]

    def _starts(self, value: float) -> list[np.ndarray]:
        """Return where the other unknowns are sought: near those of known values, or on the line through two."""
        near = sorted(self.known, key=lambda known: abs(known - value))[:2]
        guesses = [self.known[near[0]][1]]
        if len(near) > 1:
            one, two = (self.known[known][1] for known in near)
            guesses.append(one + (value - near[0]) / (near[1] - near[0]) * (two - one))
        tried = np.array(guesses)
        tried[:, self.index] = value
        residual = self.problem.at(tried)[0]
        starts = [tried[int((residual * residual).sum(-1).argmin())]]
        if self.others:
            again = starts[0].copy()
            again[self.others] = self.start[self.others]
            starts.append(again)
        return starts

    def _end(self, sign: int) -> float:
        """Return the value beyond which the least cost exceeds the threshold; infinite if it does not."""
        inside, step, reach = self.begin, 1.0, self.reach[(sign + 1) // 2]
        while self.better is None and (far := sign * (reach - inside)) > 0.5:
            value = inside + min(step, far) * sign
            cost = self.cost(value)
            if cost >= HUGE:  # more than the law can be computed for
                reach, step = value, 0.5 * min(step, far)
            elif cost > self.threshold:
                return float(np.asarray(optimize.brentq(self._excess, inside, value, xtol=1e-5)))
            else:
                inside, step = value, 2.0 * step
        return sign * np.inf

    def _excess(self, value: float) -> float:
        return np.sqrt(self.cost(value)) - np.sqrt(self.threshold)

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


def _wide(problem: Problem, trial: Trial, t: float, dof: float) -> list[int]:
    """Return unknowns whose interval by Student's t goes far towards the end of the support; the widest first."""
    if not len(trial.u):
        return []
    _, size, axes = np.linalg.svd(trial.upper)
    spread = (axes / size.clip(min=1e-14 * max(size[0], 1e-300))[:, None]) / trial.scale
    variance = 1.0 if np.isinf(dof) else trial.cost / dof
    reach = t * np.sqrt(variance * (spread**2).sum(0))
    beyond = reach * [_slope(*one) for one in zip(problem.supports, trial.u, strict=True)]
    order = np.argsort(beyond, kind="stable")[::-1]
    return [int(i) for i in order if beyond[i] > _NEAR]


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
        wide = [free[i] for i in _wide(reduced, trial, t, dof)]
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
        result[i] = Profile(path.lower, path.upper, bound)
    return {**result, **{i: Profile(np.nan, np.nan, 0) for i in nowhere}}
