"""The least-squares solver behind the classical baseline: several descents, one strict judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import pad
from scimeta.calibration.laws.law import Law

_HUGE = 1e100  # stands for a residual that is not finite; its square still is
_OFFSET = 1e-8  # relative offset of a minimum; beside a pole that pins one point, rounding stalls it above
_POLISHED = 1e-10  # relative offset at which the digits that matter no longer move
_ROUNDING = 1e-14  # of the data's norm: residuals and offsets below are rounding
_SAMPLES, _DESCENTS = 256, 8  # starts that are looked at, and those of them that are followed
_DECADES = 3.0  # how far around the given start they are scattered


class Fit(NamedTuple):
    """A least-squares solution.

    Attributes:
        u: (parameters,) unconstrained, in the order of the law.
        covariance: (parameters, parameters) of u; None where the points do not give one.
        cost: weighted sum of squared residuals.
        converged: True at a minimum that determines every parameter.
        message: why there is no covariance; "" if there is one.
    """

    u: np.ndarray
    covariance: np.ndarray | None
    cost: float
    converged: bool
    message: str


def solve(
    law: Law, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, start: np.ndarray, *, known: bool = True
) -> Fit:
    """Return the least-squares solution.

    Args:
        law: the law.
        x, y: (points,) float64, finite.
        weights: (points,) 1 / sigma; None for points of one unknown noise, which the residuals then scale.
        start: (parameters,) unconstrained.
        known: False if the start is no better than a guess at the parameters' scale: others are then always tried.
    """
    with np.errstate(all="ignore"):
        problem = _alone(law, x, y, np.ones(len(y)) if weights is None else weights)
        linear = _linear(problem, start)
        best, agree = None, 0
        # Many nonlinear parameters have many minima: then descents by other ways have to agree on the best of them.
        many = len(start) - len(linear) > 2
        enough = 2 if not known or (many and not linear) else int(many)
        for trial in _trials(problem, start, linear, known):
            if best is not None and abs(trial.cost - best.cost) <= problem.tolerance(best.cost):
                agree += trial.minimum
                best = trial if trial.minimum and not best.minimum else best
            elif best is None or trial.cost < best.cost:
                best, agree = trial, 0
            if best.minimum and agree >= enough and (agree >= 2 or _plausible(problem, best)):
                break
        best = _like_start(problem, best, start, linear)
        return _with_covariance(problem, best, absolute=weights is not None)


def solve_jointly(law: Law, curves: Sequence[Curve], starts: np.ndarray, *, absolute: bool) -> list[Fit]:
    """Return the least-squares solutions of specimens that share parameters, fitted to all of their points together.

    Minimises sum_s |(f(x_s; own_s, shared) - y_s) / sigma_s|^2 over every specimen's own parameters and one value of
    the shared ones for all. Each Fit holds its specimen's own and the shared parameters, with their joint covariance;
    ``cost`` is that of all specimens.

    Args:
        law: with shared parameters.
        curves: two specimens or more.
        starts: (specimens, parameters) unconstrained.
        absolute: True if every point has a sigma; False if one unknown noise is common to all.

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
    problem = _together(law, curves, place, absolute)
    with np.errstate(all="ignore"):
        whole = _with_covariance(problem, _polished(problem, _descend(problem, start, [])), absolute=absolute)
    return [
        whole._replace(u=whole.u[at], covariance=None if whole.covariance is None else whole.covariance[np.ix_(at, at)])
        for at in place
    ]


class _Trial(NamedTuple):
    """Where a descent ended, with the orthogonal factors of the scaled Jacobian there."""

    u: np.ndarray  # (parameters,)
    cost: float
    offset: float  # tangential over orthogonal part of the residual, per degree of freedom
    singular: bool
    step: np.ndarray  # (parameters,) the Gauss-Newton step from here
    upper: np.ndarray  # (parameters, parameters) R of the QR of the Jacobian with columns of unit length
    scale: np.ndarray  # (parameters,) those columns' lengths

    @property
    def minimum(self) -> bool:
        return bool(self.offset < _OFFSET and not self.singular)


class _Problem:
    """Weighted residuals and their Jacobian, for a batch of unconstrained parameter vectors.

    Args:
        law: the law.
        names: of the unknowns, for messages.
        linearized: (batch, unknowns) -> curve (batch, points) and its derivatives (batch, points, unknowns).
        x, y, weights: (points,).
    """

    def __init__(
        self,
        law: Law,
        names: Sequence[str],
        linearized: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        self.law, self.names, self.linearized, self.y, self.weights = law, names, linearized, y, weights
        self.norm = float(np.linalg.norm(y * weights))
        self.order = np.argsort(x, kind="stable")
        self._last: tuple[bytes, tuple[np.ndarray, np.ndarray]] = b"", ()

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (batch, points) and (batch, points, parameters) at u: (batch, parameters); huge where not finite."""
        if self._last[0] == u.tobytes():
            return self._last[1]
        curve, slopes = self.linearized(u)
        residual, jacobian = (curve - self.y) * self.weights, slopes * self.weights[:, None]
        good = (np.abs(residual) < _HUGE).all(-1) & (np.abs(jacobian) < _HUGE).all((-1, -2))
        values = np.where(good[:, None], residual, _HUGE), np.where(good[:, None, None], jacobian, 0.0)
        self._last = u.tobytes(), values
        return values

    def projected(self, u: np.ndarray, linear: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return u with its linear parameters at their optimum, and the residual there: (batch, points)."""
        residual, jacobian = self.at(u)
        if linear:
            columns, scale = _unit_columns(jacobian[:, :, linear])
            step = -(np.linalg.pinv(columns, rcond=1e-13) @ residual[:, :, None])  # (batch, linear, 1)
            residual = np.nan_to_num(residual + (columns @ step)[..., 0], nan=_HUGE)
            u = u.copy()
            u[:, linear] += step[..., 0] / scale
        return u, residual

    def tolerance(self, cost: float) -> float:
        """Return how far apart the costs of one minimum can come out."""
        return 1e-7 * cost + (10 * _ROUNDING * self.norm) ** 2

    def judge(self, u: np.ndarray) -> _Trial:
        """Return the state at u: (parameters,), with its relative offset."""
        residual, jacobian = (values[0] for values in self.at(u[None]))
        points, count = jacobian.shape
        columns, scale = _unit_columns(jacobian)
        q, upper = np.linalg.qr(columns)
        tangential, cost = q.T @ residual, float(residual @ residual)
        inside = np.linalg.norm(tangential)
        outside = np.sqrt(max(cost - inside**2, 0.0) / max(points - count, 1))
        offset = inside / np.sqrt(count) / max(outside, _ROUNDING / _OFFSET * self.norm, 1e-300)
        spectrum = np.linalg.svd(upper, compute_uv=False)
        singular = points < count or not spectrum[-1] > 1e-13 * np.sqrt(points) * spectrum[0]
        step = -np.linalg.lstsq(upper, tangential, rcond=1e-15)[0] / scale
        return _Trial(u, cost, offset, singular, step, upper, scale)


def _alone(law: Law, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> _Problem:
    """Return the problem of one specimen."""
    at = torch.from_numpy(x)
    return _Problem(law, law.names, lambda u: _linearized(law, u, at.expand(len(u), -1)), x, y, weights)


def _together(law: Law, curves: Sequence[Curve], place: np.ndarray, absolute: bool) -> _Problem:
    """Return the problem of several specimens at once; place: (specimens, parameters) among the unknowns."""
    x, y, sigma, mask = (part.numpy() for part in pad(curves))
    specimen = mask.nonzero()[0]  # (points,)
    names = [""] * (place.max() + 1)
    for curve, row in zip(curves, place, strict=True):
        for name, at in zip(law.names, row, strict=True):
            names[at] = name if law.parameters[name].shared else f"{name} of {curve.name}"

    def linearized(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every = u[:, place].reshape(-1, place.shape[1])  # (batch * specimens, parameters)
        curve, slopes = _linearized(law, every, torch.from_numpy(np.tile(x, (len(u), 1))))
        jacobian = np.zeros((len(u), len(specimen), u.shape[1]))
        own = slopes.reshape(len(u), *x.shape, -1)[:, mask]  # (batch, points, parameters)
        np.put_along_axis(jacobian, np.broadcast_to(place[specimen], own.shape), own, -1)
        return curve.reshape(len(u), *x.shape)[:, mask], jacobian

    return _Problem(law, names, linearized, x[mask], y[mask], 1.0 / sigma[mask] if absolute else np.ones(mask.sum()))


def _linearized(law: Law, u: np.ndarray, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the law at u: (batch, parameters), as (batch, points), and its derivatives (batch, points, parameters)."""
    curve, by = law.linearized({name: torch.tensor(u[:, i]) for i, name in enumerate(law.names)}, x)
    return curve.numpy(), torch.stack([by[name] for name in law.names], -1).numpy()


def _trials(problem: _Problem, start: np.ndarray, linear: list[int], known: bool) -> Iterator[_Trial]:
    """Yield where descents end: from the start, projected and plain, then from the best of many scattered around it."""
    yield _polished(problem, _descend(problem, start, linear))
    if linear:  # without linear parameters the two are one descent, and no second opinion
        yield _polished(problem, _descend(problem, start, []))
    if len(problem.y) < len(start):
        return
    scattered, residual = problem.projected(_scattered(problem.law, start), linear)
    for i in np.argsort((residual * residual).sum(-1))[:_DESCENTS]:
        yield _polished(problem, _descend(problem, scattered[i], linear))


def _descend(problem: _Problem, start: np.ndarray, linear: list[int]) -> np.ndarray:
    """Return the end of a Levenberg-Marquardt descent: (parameters,), the linear ones solved for at every step."""
    free = [i for i in range(len(start)) if i not in linear]
    padding = max(len(free) - len(problem.y), 0)  # MINPACK wants a residual for every parameter

    def full(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = start.copy()
        u[free] = v
        return problem.projected(u[None], linear)

    def residual(v: np.ndarray) -> np.ndarray:
        values = full(v)[1][0]
        return values if not padding else np.pad(values, (0, padding))

    def jacobian(v: np.ndarray) -> np.ndarray:
        by = problem.at(full(v)[0])[1][0]
        free_by = by[:, free]
        if linear:
            q = np.linalg.qr(_unit_columns(by[:, linear])[0])[0]
            free_by = free_by - q @ (q.T @ free_by)  # Kaufman's approximation: the gradient stays exact
        return free_by if not padding else np.pad(free_by, ((0, padding), (0, 0)))

    if not free:
        return full(start[free])[0][0]
    v = optimize.leastsq(
        residual,
        start[free],
        Dfun=jacobian,
        full_output=True,
        factor=1.0,
        xtol=1e-10,
        ftol=1e-10,
        maxfev=100 * (len(start) + 1),
    )[0]
    return full(v)[0][0]


def _polished(problem: _Problem, u: np.ndarray) -> _Trial:
    """Return the state after Gauss-Newton steps from u, as long as they bring the offset down."""
    best = problem.judge(u)
    for _ in range(30):
        if best.offset < _POLISHED:
            break
        new = problem.judge(best.u + best.step)
        if not (new.offset < 0.7 * best.offset and new.cost <= best.cost + problem.tolerance(best.cost)):
            break
        best = new
    return best


def _plausible(problem: _Problem, trial: _Trial) -> bool:
    """Return False where another minimum is likely: residuals that are large, or too long of one sign."""
    weighted = problem.y * problem.weights
    if trial.cost <= (100 * _ROUNDING * problem.norm) ** 2:
        return True
    if trial.cost > 0.1 * ((weighted - weighted.mean()) ** 2).sum():
        return False
    above = problem.at(trial.u[None])[0][0][problem.order] > 0
    high, low = int(above.sum()), int((~above).sum())
    expected = 1 + 2 * high * low / len(above)
    variance = (expected - 1) * (expected - 2) / max(len(above) - 1, 1)
    return 1 + int((above[1:] != above[:-1]).sum()) >= expected - 3 * np.sqrt(max(variance, 0.0))


def _linear(problem: _Problem, start: np.ndarray) -> list[int]:
    """Return parameters in which the curve is jointly affine: moving them leaves their own columns as they are."""
    if all(parameter.support != "real" for parameter in problem.law.parameters.values()):
        return []
    base = start + 0.013 * np.abs(start) + 1e-4 * (start == 0)
    columns = problem.at(np.vstack([base, base + np.diag(0.1 * np.abs(base))]))[1]  # (1 + moved, points, parameters)
    size = np.abs(columns[0]).max(0)
    fixed = (np.abs(columns[1:] - columns[0]).max(1) <= 1e-9 * size) & (size > 0)  # (moved, parameters)
    chosen: list[int] = []
    for i, parameter in enumerate(problem.law.parameters.values()):
        if parameter.support == "real" and fixed[i, i] and all(fixed[i, j] and fixed[j, i] for j in chosen):
            chosen.append(i)
    return chosen


def _scattered(law: Law, start: np.ndarray) -> np.ndarray:
    """Return (samples, parameters): the start's values times random factors; of either sign where it is zero."""
    draw = np.random.default_rng(0).uniform(-1.0, 1.0, (_SAMPLES, len(start)))
    real = np.array([parameter.support == "real" for parameter in law.parameters.values()])
    zero = np.sign(draw) * 10 ** (_DECADES * (2 * np.abs(draw) - 1))
    moved = np.where(start != 0, start * 10 ** (_DECADES * draw), zero)
    return np.where(real, moved, start + np.log(10.0) * _DECADES * draw)


def _like_start(problem: _Problem, best: _Trial, start: np.ndarray, linear: list[int]) -> _Trial:
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
            trial = _polished(problem, problem.projected(other[None], linear)[0][0])
            if trial.minimum and abs(trial.cost - best.cost) <= problem.tolerance(best.cost):
                best = trial
    return best


def _with_covariance(problem: _Problem, best: _Trial, *, absolute: bool) -> Fit:
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
    elif best.cost <= (_ROUNDING * problem.norm) ** 2 and not (absolute and problem.norm):
        message = "the law passes through every point: no residual measures the noise"
    if message:
        return Fit(best.u, None, best.cost, best.minimum and problem.norm > 0, message)
    factor = np.linalg.inv(best.upper) / best.scale[:, None]
    variance = 1.0 if absolute else best.cost / (points - count)
    return Fit(best.u, variance * factor @ factor.T, best.cost, True, "")


def _unit_columns(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., rows, columns) with columns of unit length, and those lengths: (..., columns); 1 where zero."""
    length = np.sqrt((matrix * matrix).sum(-2))
    length = np.where(length > 0, length, 1.0)
    return matrix / length[..., None, :], length
