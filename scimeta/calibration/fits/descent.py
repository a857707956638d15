"""Weighted residuals of a law, and the descent from one start to their least squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import pad
from scimeta.calibration.laws.law import Law

HUGE = 1e100  # stands for a residual that is not finite; its square still is
ROUNDING = 1e-14  # of the data's norm: residuals and offsets below are rounding
_OFFSET = 1e-8  # relative offset of a minimum; beside a pole that pins one point, rounding stalls it above
_POLISHED = 1e-10  # relative offset at which the digits that matter no longer move


class Trial(NamedTuple):
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


class Problem:
    """Weighted residuals and their Jacobian, for a batch of unconstrained parameter vectors.

    Args:
        names: of the unknowns, for messages.
        supports: of the unknowns, as :class:`Parameter` has them.
        linearized: (batch, unknowns) -> curve (batch, points) and its derivatives (batch, points, unknowns).
        x, y, weights: (points,).
    """

    def __init__(
        self,
        names: Sequence[str],
        supports: Sequence[str],
        linearized: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
    ) -> None:
        self.names, self.supports, self.linearized = names, supports, linearized
        self.x, self.y, self.weights = x, y, weights
        self.norm = float(np.linalg.norm(y * weights))
        self.order = np.argsort(x, kind="stable")
        self._last: tuple[bytes, tuple[np.ndarray, np.ndarray]] | None = None

    def held(self, at: Mapping[int, float]) -> Problem:
        """Return the problem of the other unknowns, with some held: index -> unconstrained value."""
        count = len(self.names)
        free = [i for i in range(count) if i not in at]

        def linearized(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            whole = np.empty((len(u), count))
            whole[:, free], whole[:, list(at)] = u, list(at.values())
            curve, slopes = self.linearized(whole)
            return curve, slopes[..., free]

        names, supports = [self.names[i] for i in free], [self.supports[i] for i in free]
        return Problem(names, supports, linearized, self.x, self.y, self.weights)

    def at(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (batch, points) and (batch, points, parameters) at u: (batch, parameters); huge where not finite."""
        if self._last is not None and self._last[0] == u.tobytes():
            return self._last[1]
        curve, slopes = self.linearized(u)
        residual, jacobian = (curve - self.y) * self.weights, slopes * self.weights[:, None]
        good = np.abs(residual).max(-1) < HUGE
        good &= np.abs(jacobian).max((-1, -2), initial=0.0) < HUGE  # nan is not
        values = np.where(good[:, None], residual, HUGE), np.where(good[:, None, None], jacobian, 0.0)
        self._last = u.tobytes(), values
        return values

    def projected(self, u: np.ndarray, linear: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return u with its linear parameters at their optimum, and the residual there: (batch, points)."""
        residual, jacobian = self.at(u)
        if linear:
            columns, scale = unit_columns(jacobian[:, :, linear])
            step = -(np.linalg.pinv(columns, rcond=1e-13) @ residual[:, :, None])  # (batch, linear, 1)
            residual = np.nan_to_num(residual + (columns @ step)[..., 0], nan=HUGE)
            u = u.copy()
            u[:, linear] += step[..., 0] / scale
        return u, residual

    def tolerance(self, cost: float) -> float:
        """Return how far apart the costs of one minimum can come out."""
        return 1e-7 * cost + (10 * ROUNDING * self.norm) ** 2

    def judge(self, u: np.ndarray) -> Trial:
        """Return the state at u: (parameters,), with its relative offset."""
        residual, jacobian = (values[0] for values in self.at(u[None]))
        points, count = jacobian.shape
        if not count:
            return Trial(u, float(residual @ residual), 0.0, False, u, np.empty((0, 0)), u)
        columns, scale = unit_columns(jacobian)
        q, upper = np.linalg.qr(columns)
        tangential, cost = q.T @ residual, float(residual @ residual)
        inside = np.linalg.norm(tangential)
        outside = np.sqrt(max(cost - inside**2, 0.0) / max(points - count, 1))
        offset = inside / np.sqrt(count) / max(outside, ROUNDING / _OFFSET * self.norm, 1e-300)
        spectrum = np.linalg.svd(upper, compute_uv=False)
        singular = points < count or not spectrum[-1] > 1e-13 * np.sqrt(points) * spectrum[0]
        step = -np.linalg.lstsq(upper, tangential, rcond=1e-15)[0] / scale
        return Trial(u, cost, offset, singular, step, upper, scale)


def alone(law: Law, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> Problem:
    """Return the problem of one specimen."""
    at = torch.from_numpy(x)
    supports = [parameter.support for parameter in law.parameters.values()]
    return Problem(law.names, supports, lambda u: _linearized(law, u, at.expand(len(u), -1)), x, y, weights)


def together(law: Law, curves: Sequence[Curve], place: np.ndarray, absolute: bool) -> Problem:
    """Return the problem of several specimens at once; place: (specimens, parameters) among the unknowns."""
    x, y, sigma, mask = (part.numpy() for part in pad(curves))
    specimen = mask.nonzero()[0]  # (points,)
    names, supports = [""] * (place.max() + 1), [""] * (place.max() + 1)
    for curve, row in zip(curves, place, strict=True):
        for name, at in zip(law.names, row, strict=True):
            names[at] = name if law.parameters[name].shared else f"{name} of {curve.name}"
            supports[at] = law.parameters[name].support

    def linearized(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        every = u[:, place].reshape(-1, place.shape[1])  # (batch * specimens, parameters)
        curve, slopes = _linearized(law, every, torch.from_numpy(np.tile(x, (len(u), 1))))
        jacobian = np.zeros((len(u), len(specimen), u.shape[1]))
        own = slopes.reshape(len(u), *x.shape, -1)[:, mask]  # (batch, points, parameters)
        np.put_along_axis(jacobian, np.broadcast_to(place[specimen], own.shape), own, -1)
        return curve.reshape(len(u), *x.shape)[:, mask], jacobian

    weights = 1.0 / sigma[mask] if absolute else np.ones(mask.sum())
    return Problem(names, supports, linearized, x[mask], y[mask], weights)


def _linearized(law: Law, u: np.ndarray, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the law at u: (batch, parameters), as (batch, points), and its derivatives (batch, points, parameters)."""
    curve, by = law.linearized({name: torch.tensor(u[:, i]) for i, name in enumerate(law.names)}, x)
    return curve.numpy(), torch.stack([by[name] for name in law.names], -1).numpy()


def descend(problem: Problem, start: np.ndarray, linear: list[int]) -> np.ndarray:
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
            q = np.linalg.qr(unit_columns(by[:, linear])[0])[0]
            free_by = free_by - q @ (q.T @ free_by)  # Kaufman's approximation: the gradient stays exact
        return free_by if not padding else np.pad(free_by, ((0, padding), (0, 0)))

    if not free:
        return full(start[free])[0][0]
    v = optimize.leastsq(
        residual,
        start[free],
        Dfun=jacobian,
        full_output=True,
        factor=1,
        xtol=1e-10,
        ftol=1e-10,
        maxfev=100 * (len(start) + 1),
    )[0]
    return full(v)[0][0]


def polished(problem: Problem, u: np.ndarray) -> Trial:
    """Return the state after steps from u, as long as they bring the offset down.

    Gauss-Newton's, and where these fail, of a curve that bends within its errors, Newton's.
    """
    best = problem.judge(u)
    for _ in range(30):
        if best.offset < _POLISHED:
            break
        new = problem.judge(best.u + best.step)
        if not _is_nearer(problem, new, best):
            step = None if best.minimum else _newton_step(problem, best.u)
            new = best if step is None else problem.judge(best.u + step)
            if not _is_nearer(problem, new, best):
                break
        best = new
    return best


def _is_nearer(problem: Problem, new: Trial, best: Trial) -> bool:
    """Return True if a state is clearly nearer to a minimum than another."""
    return new.offset < 0.7 * best.offset and new.cost <= best.cost + problem.tolerance(best.cost)


def _newton_step(problem: Problem, u: np.ndarray) -> np.ndarray | None:
    """Return (unknowns,) Newton's step on the cost; None where that has no minimum.

    The Hessian comes from central differences of the gradient J^T r.
    """
    width = 1e-5 * np.maximum(np.abs(u), 1.0)
    residual, jacobian = problem.at(np.vstack([u, u + np.diag(width), u - np.diag(width)]))
    gradient = np.einsum("bpi,bp->bi", jacobian, residual)
    above, below = gradient[1 : 1 + len(u)], gradient[1 + len(u) :]
    hessian = (above - below) / (2.0 * width[:, None])
    hessian = 0.5 * (hessian + hessian.T)
    scale = np.sqrt(np.abs(np.diag(hessian)).clip(min=1e-300))
    if not np.isfinite(hessian).all():
        return None
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    if values[0] <= 1e-10 * values[-1]:
        return None
    return -vectors @ ((vectors.T @ (gradient[0] / scale)) / values) / scale


def unit_columns(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (..., rows, columns) with columns of unit length, and those lengths: (..., columns); 1 where zero."""
    length = np.sqrt((matrix * matrix).sum(-2))
    length = np.where(length > 0, length, 1.0)
    return matrix / length[..., None, :], length
