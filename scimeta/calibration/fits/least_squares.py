"""Least squares without a prior: the baseline that a learned prior has to beat, with the same surface."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import special
from tqdm import tqdm

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.fits.bounds import Profile
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.fits.draws import Errors, LeastSquaresDraws
from scimeta.calibration.fits.solver import Fit, solve, solve_jointly
from scimeta.calibration.intervals import probability
from scimeta.calibration.laws.checks import check_law
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import multivariate_t

_CLOUD = 401  # nodes that carry a band


@dataclass(frozen=True)
class LeastSquares:
    """Fits a law to the points of one specimen alone, by weighted least squares.

    MINPACK's Levenberg-Marquardt with exact derivatives does the descent. Parameters that enter linearly are solved
    for at every step (variable projection). A solution counts as converged if its relative offset is small and the
    points determine every parameter, whatever the engine says; one that is not, or whose residuals are large or
    systematic, is checked against descents from scattered starts.

    A positive parameter or a fraction that the data push to the end of its support has converged there, «at its bound»:
    its interval is where the likelihood's profile says, and so are those of the others, in whose profiles it is free to
    leave the bound; values, standard errors and the band are as if the law had it there. The same profile gives the
    interval of a parameter that is not clearly away from its bound.

    Args:
        law: the law.
        level: probability of the intervals and bands.

    Raises:
        ValueError: the level is not between 0 and 1.

    References: Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973); Bates and Watts, Technometrics 23, 179 (1981).

    >>> from scimeta.calibration.laws.law import Parameter
    >>> decay = Law("decay", lambda t, a, tau: a * torch.exp(-t / tau), {"a": Parameter(), "tau": Parameter("s")})
    >>> fit = LeastSquares(decay).fit([0.0, 1.0, 2.0, 4.0], [2.0, 1.2, 0.7, 0.3], start={"a": 1.0, "tau": 1.0})
    >>> round(fit["tau"].value, 3)
    1.976
    """

    law: Law
    level: float = 0.9

    def __post_init__(self) -> None:
        probability(self.level)

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        sigma: ArrayLike | None = None,
        *,
        start: Mapping[str, float] | None = None,
        name: str = "specimen",
    ) -> Calibration:
        """Return the least-squares calibration of one specimen.

        Args:
            x: (points,), in the unit of the law's x.
            y: (points,); repeated x are independent readings.
            sigma: standard deviation of the measurements, one number or (points,), taken as absolute; None weights the
                points alike and measures the noise by the residuals.
            start: parameter -> value where the search begins, in natural units; the law's first guess if None.
            name: what the report calls it.

        Raises:
            ValueError: shapes that differ, values that are not finite or that the law cannot describe, no point,
                sigma not positive, a start that is incomplete or outside a support.
        """
        return self._fit([Curve(name, x, y, sigma, replicates=True)], start)[0]

    def fit_many(self, curves: Curves | Sequence[Curve]) -> Calibrations:
        """Return the least-squares calibrations of many specimens.

        One solve after the other, or one for all together where the law has shared parameters: these then have one
        value, and the specimens one noise if no sigma is given.

        Args:
            curves: the specimens, of any number of points each; conditions are not looked at.

        Raises:
            ValueError: as for :meth:`fit`; shared parameters and a sigma for some specimens only.
        """
        return self._fit(curves, None)

    def _fit(self, curves: Sequence[Curve], start: Mapping[str, float] | None) -> Calibrations:
        check_law(self.law, curves)
        for curve in curves:
            if not len(curve):
                raise ValueError(f"{curve.name} has no points; without a prior there is nothing to fit")
            if curve.sigma is not None and np.isnan(curve.sigma).any():
                where = f"{self.law.x.name} = {curve.x[np.isnan(curve.sigma)][0]:g}"
                raise ValueError(f"{curve.name}: no sigma at {where}; give it for all points or none")
        joint = len(curves) > 1 and _shares(self.law)
        found = []
        for curve in tqdm(curves, desc="least squares", disable=None, delay=2, leave=False):
            begin, known = _begin(self.law, curve, start)
            weights = None if curve.sigma is None else 1.0 / curve.sigma
            found.append(solve(self.law, curve.x, curve.y, weights, begin, known=known, level=self.level))
            if not found[-1].converged and not joint:
                warnings.warn(f"the fit of {curve.name} did not converge: {found[-1].message}", stacklevel=3)
        if joint:
            found = self._joint(curves, found)
        return _calibrations(self.law, self.level, curves, found, joint)

    def _joint(self, curves: Sequence[Curve], alone: Sequence[Fit]) -> list[Fit]:
        """Return the solutions with one value of every shared parameter, from where each specimen's own solve ended."""
        given = [curve.sigma is not None for curve in curves]
        if any(given) and not all(given):
            with_sigma, without = curves[given.index(True)].name, curves[given.index(False)].name
            raise ValueError(
                f"{with_sigma} has a sigma, {without} has none; specimens that share a parameter are weighed against "
                "each other: give it for all or none"
            )
        good = [fit.u for fit in alone if fit.converged]
        middle = np.median(good or [fit.u for fit in alone], 0)
        starts = np.array([fit.u if fit.converged else middle for fit in alone])
        found = solve_jointly(self.law, curves, starts, absolute=all(given), level=self.level)
        if not found[0].converged:
            warnings.warn(f"the fit of all specimens together did not converge: {found[0].message}", stacklevel=4)
        return found


def _begin(law: Law, curve: Curve, start: Mapping[str, float] | None) -> tuple[np.ndarray, bool]:
    """Return (parameters,) where the search begins, unconstrained, and whether it is more than a placeholder."""
    if start is None:
        if law.first_guess is None:
            return np.zeros(len(law.names)), False
        start = law.first_guess(curve.x, curve.y)
    law.require(start)
    unconstrained = law.unconstrain(start)
    return np.array([float(unconstrained[name]) for name in law.names]), True


def _shares(law: Law) -> bool:
    """Return True if a law has parameters that are one value for all specimens."""
    return len(law.fast) < len(law.names)


def _calibrations(
    law: Law, level: float, curves: Sequence[Curve], found: Sequence[Fit], joint: bool = False
) -> Calibrations:
    """Return the solutions as the result that all fits share; joint: of all specimens together, with one noise."""
    best = np.array([fit.u for fit in found])  # (specimens, parameters)
    known = np.array([fit.covariance is not None for fit in found])
    dof = np.array([len(curve.x) - best.shape[1] for curve in curves], dtype=float)
    if joint:
        shared = best.shape[1] - len(law.fast)
        dof[:] = sum(len(curve) for curve in curves) - len(curves) * len(law.fast) - shared
    dof += [fit.held for fit in found]
    given = np.array([curve.sigma is not None for curve in curves])
    scatter = np.sqrt([fit.cost for fit in found] / np.where(dof > 0, dof, np.nan))
    sigma = [np.sqrt(np.mean(curve.sigma**2)) if curve.sigma is not None else 0.0 for curve in curves]
    free = np.where(given, np.inf, np.maximum(dof, 1.0))  # a sigma that is given needs no estimate of its scale
    nodes = np.stack([_cloud(law, level, fit, degrees) for fit, degrees in zip(found, free, strict=True)])
    errors = np.array([np.full(len(f.u), np.nan) if f.covariance is None else np.sqrt(np.diag(f.covariance))
                       for f in found])  # fmt: skip
    draws = LeastSquaresDraws(
        law,
        torch.from_numpy(nodes),
        torch.full(nodes.shape[:2], 1.0 / _CLOUD, dtype=torch.float64),
        np.where(known[:, None], np.ones_like(best), np.nan),
        np.where(given, sigma, scatter),
        torch.from_numpy(best),
        Errors(dict(zip(law.names, errors.T, strict=True)), free),
        joint,
        tuple(fit.profiles for fit in found),
        np.array([fit.held for fit in found]),
    )
    source = f"least squares of {len(curves)} specimens together, no prior" if joint else "least squares, no prior"
    converged, reasons = np.array([fit.converged for fit in found]), tuple(fit.message for fit in found)
    return Calibrations(law, curves, draws, level, source, converged, reasons, np.ones(len(found)))


def _cloud(law: Law, level: float, fit: Fit, dof: float) -> np.ndarray:
    """Return (nodes, parameters) that carry the band: multivariate t around the solution, the solution if it has none.

    The covariance is factored by its eigenvectors in units of the standard errors, so that one that is nearly singular
    is no obstacle. A parameter with an interval by its profile runs to the ends of that as Student's t would to its,
    and the others move with it, by as much as it does in natural units. One at its bound stays there in half of the
    nodes, and the others run to the far end of its interval, as half of a Student's t.
    """
    if fit.covariance is None:
        return np.repeat(fit.u[None], _CLOUD, 0)
    error = np.sqrt(np.diag(fit.covariance))
    error = np.where(error > 0, error, 1.0)
    values, vectors = np.linalg.eigh(fit.covariance / np.outer(error, error))
    factor = error[:, None] * vectors * np.sqrt(values.clip(min=0.0))
    nodes = multivariate_t(_CLOUD, len(fit.u), dof)
    cloud = fit.u + nodes @ factor.T
    reach = special.stdtrit(min(dof, 1e10), 0.5 * (1.0 + level))
    done = [i for i, profile in fit.profiles.items() if profile.far is not None]
    for node, i in zip(nodes.T, done, strict=False):  # the first eigenvalues are those of what is held: 0
        share, rest = (node / reach).clip(min=0.0), [j for j in range(len(fit.u)) if j not in done]
        cloud[:, rest] += np.outer(share, (fit.profiles[i].far - fit.u)[rest])
        cloud[:, i] = _away(law, law.names[i], fit.u[i], fit.profiles[i], share)
    for i, profile in fit.profiles.items():
        if profile.bound == 0 and not profile.partner and fit.covariance[i, i] > 0.0 and profile.upper < np.inf:
            before = cloud[:, i] - fit.u[i]
            new, moved = _stretched(law, law.names[i], fit.u[i], profile, before / (reach * error[i]))
            rest = [j for j in range(len(fit.u)) if j not in done]
            cloud[:, rest] += np.outer(moved - before, fit.covariance[i, rest] / fit.covariance[i, i])
            cloud[:, i] = new
            done.append(i)
    return cloud


def _away(law: Law, name: str, best: float, profile: Profile, share: np.ndarray) -> np.ndarray:
    """Return (nodes,) unconstrained values of a parameter at its bound, some way to the far end of its interval.

    Args:
        law, name: which parameter.
        best: unconstrained, at the bound.
        profile: its interval.
        share: (nodes,) of the way in natural units, or in those of the inverse from infinity; 0 is at the bound.
    """
    end = profile.upper if profile.bound < 0 else profile.lower
    far = float(law.constrain({name: torch.tensor(end, dtype=torch.float64)})[name])
    some = np.where(share > 0.0, share, 1.0).clip(1e-12)
    if profile.bound < 0:
        value = far * some
    elif law.parameters[name].support == "unit":
        value = 1.0 - (1.0 - far) * some
    else:
        value = far / some
    most = 1.0 - 1e-12 if law.parameters[name].support == "unit" else np.inf
    u = law.unconstrain({name: torch.from_numpy(value.clip(1e-300, most))})[name].numpy()
    return np.where(share > 0.0, u, best)


def _stretched(law: Law, name: str, best: float, profile: Profile, away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (nodes,) unconstrained values that in natural units run evenly from the best value to the ends.

    Second: (nodes,) how far they are from the best value along the tangent there.

    Args:
        law, name: which parameter.
        best: unconstrained.
        profile: its interval.
        away: (nodes,) distance from the best value; 1 and -1 are the ends.
    """
    ends = torch.tensor([profile.lower, best, profile.upper], dtype=torch.float64, requires_grad=True)
    natural = law.constrain({name: ends})[name]
    low, middle, high = natural.tolist()
    slope = float(torch.autograd.grad(natural[1], ends)[0][1])
    value = middle + np.where(away > 0.0, high - middle, middle - low) * away
    most = 1.0 - 1e-12 if law.parameters[name].support == "unit" else np.inf
    inside = torch.from_numpy(value.clip(1e-12 * middle, most))
    return law.unconstrain({name: inside})[name].numpy(), (inside.numpy() - middle) / slope
