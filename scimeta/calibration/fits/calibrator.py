"""Calibrating new specimens with a learned prior."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.points import Measured, Points
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.mixture import Mixture
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.ranges import outside_lines
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.intervals import Errors, probability
from scimeta.calibration.laws.checks import check_numbers, measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.posterior.posterior import Posterior, posterior

_MIN_EFFECTIVE = 16.0  # fewer nodes than this in effect carry no 5 % quantile
_UNBELIEVABLE = 1e-6  # probability, under the prior, of points as far off; below it intervals are withheld


@dataclass(frozen=True)
class Calibrator:
    """Fits a law to few points of a new specimen, with what past specimens say.

    Args:
        law: the law.
        prior: of the same law, from :func:`learn_prior` or :meth:`Prior.load`.
        level: probability of the intervals and bands.

    Raises:
        TypeError: not a law and a prior.
        ValueError: the prior is of another law, or the level is not between 0 and 1.

    >>> from scimeta.calibration.laws.law import Parameter
    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> prior = Prior(decay, [[0.0]], [[0.25]], noise=0.05)  # tau around 1 s, by a factor of 1.6 or so
    >>> fit = Calibrator(decay, prior).fit([0.5, 1.0], [0.62, 0.35], name="A7")
    >>> round(fit["tau"].value, 1), fit["tau"].unit, fit["tau"].lower < 0.9 < fit["tau"].upper
    (1.0, 's', True)
    """

    law: Law
    prior: Prior
    level: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.law, Law) or not isinstance(self.prior, Prior):
            raise TypeError("Calibrator takes a Law and a Prior, in this order: Calibrator(law, prior)")
        if self.prior.law is not self.law:
            theirs, ours = self.prior.law, self.law
            if (theirs.name, theirs.parameters, theirs.x, theirs.y) != (ours.name, ours.parameters, ours.x, ours.y):
                raise ValueError(
                    f"the prior is of law {theirs.name} ({theirs.describe()}; {theirs.x}, {theirs.y}), not of "
                    f"{ours.name} ({ours.describe()}; {ours.x}, {ours.y})"
                )
        probability(self.level)

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        sigma: float | np.ndarray | None = None,
        *,
        conditions: Mapping[str, float] | None = None,
        name: str = "specimen",
        replicates: bool = False,
    ) -> Calibration:
        """Return the calibration of one specimen.

        Args:
            x: (points,), in the unit of the law's x; none, with conditions, for what they alone make of the specimen.
            y: (points,).
            sigma: standard deviation of the measurements: one number, or (points,); the prior's noise if None.
            conditions: the specimen's conditions, those that the prior was learned with.
            name: what the report calls it.
            replicates: True if repeated x are independent readings; they are refused otherwise.

        Raises:
            ValueError: shapes that differ, values that are not finite or that the law cannot describe, no point, a
                condition missing.
        """
        return self.fit_many([Curve(name, x, y, sigma, conditions or {}, replicates)])[0]

    def fit_many(self, curves: Curves | Sequence[Curve]) -> Calibrations:
        """Return the calibrations of many specimens, solved in one batch.

        Args:
            curves: the specimens, of any number of points each.
        """
        data = _measured(self.prior, curves)
        prior, law = self.prior, self.prior.corrected_law
        design = prior.design([curve.conditions for curve in curves], [curve.name for curve in curves])
        population, shared = prior.population(design), prior.shared_values()
        _check_numbers(law, population, shared, data)
        for line in outside_lines(prior, curves, only_warned=True):
            warnings.warn(line, stacklevel=2)
        points, departure, bumps = data.points(prior.noise), prior.departure, None
        absorbed = points if departure is None else departure.absorbed(points)
        found = posterior(law, population, shared, absorbed, outliers=prior.outliers)
        covariance = found.covariance
        if departure is not None:
            found, bumps = _with_bumps(departure, law, shared, points, found)
        count, converged = len(found.mode), found.converged.numpy()
        fast = {name: i for i, name in enumerate(law.fast)}
        nodes = [found.nodes[..., fast[n]] if n in fast else shared[n].expand(found.weights.shape) for n in law.names]
        best = [found.mode[:, fast[n]] if n in fast else shared[n].expand(count) for n in law.names]
        shrunk = covariance.diagonal(dim1=-2, dim2=-1) / population.variance()
        informed = dict(zip(law.fast, (1.0 - shrunk).clamp(0.0, 1.0).T.numpy(), strict=True))
        if not converged.all():
            shown = [curve.name for curve, good in zip(curves, converged, strict=True) if not good][:5]
            warnings.warn(f"{(~converged).sum()} of {count} fits did not converge: {', '.join(shown)}", stacklevel=2)
        return Calibrations(
            law=law,
            curves=curves,
            nodes=torch.stack(nodes, -1),
            weights=found.weights,
            best=torch.stack(best, -1),
            from_data=np.stack([informed.get(name, np.zeros(count)) for name in law.names], -1),
            noise=np.full(count, prior.noise),
            wander=np.full(count, prior.wander),
            outliers=prior.outliers,
            converged=converged,
            errors=Errors({n: np.full(count, error) for n, (_, error) in prior.shared.items()}, np.full(count, np.inf)),
            averaged=True,
            level=self.level,
            source=f"prior {prior.origin}",
            reasons=_reasons(
                converged, found.effective.numpy(), found.distance.numpy(), data.mask.sum(-1).numpy(), prior.dof
            ),
            discrepancy=departure,
            bumps=bumps,
            prior=prior,
        )


def _measured(prior: Prior, curves: Sequence[Curve]) -> Measured:
    """Return the measurements; where no specimen has a point, one each that counts for nothing."""
    data = measured(prior.law, curves)
    if data.x.shape[1]:
        return data
    blank = torch.full((len(curves), 1), prior.x_range[1], dtype=torch.float64)
    return Measured(blank, blank, torch.full_like(blank, torch.nan), torch.zeros_like(blank, dtype=torch.bool))


def _check_numbers(law: Law, population: Mixture, shared: Mapping[str, Tensor], data: Measured) -> None:
    """Raise ValueError where the law is not finite for the values that the prior expects."""
    middle = population.means.mean(1)  # over kinds
    own = {name: (middle[:, i], population.variance()[0, i].sqrt()) for i, name in enumerate(law.fast)}
    centre = {**shared, **{name: m for name, (m, _) in own.items()}}
    check_numbers(law, centre, {name: sd for name, (_, sd) in own.items()}, data.x)


def _with_bumps(
    departure: Discrepancy, law: Law, shared: Mapping[str, Tensor], points: Points, found: Posterior
) -> tuple[Posterior, Tensor]:
    """Return posteriors with every node several times, and (specimens, nodes, knots) how far the law is off at each."""

    def curves(rows: slice) -> Tensor:
        nodes = found.nodes[rows]
        params = {name: value.expand(nodes.shape[:2]) for name, value in shared.items()}
        return law.curve(params | dict(zip(law.fast, nodes.unbind(-1), strict=True)), points.x[rows, None])

    bumps = departure.draw(points, curves, len(law.fast))
    draws = bumps.shape[1]  # of every node
    weights = found.weights.repeat(1, draws) / draws
    return found._replace(nodes=found.nodes.repeat(1, draws, 1), weights=weights), bumps.flatten(1, 2)


def _reasons(
    converged: np.ndarray, effective: np.ndarray, distance: np.ndarray, points: np.ndarray, dof: float
) -> tuple[str, ...]:
    """Return why each specimen's intervals are withheld; "" where they hold.

    Distances are chi-squared where the prior is certain, and F with its degrees of freedom where it is not.
    """
    reasons, counted = [""] * len(converged), points.clip(min=1)
    for i in np.flatnonzero(effective < _MIN_EFFECTIVE):
        reasons[i] = (
            f"only {effective[i]:.0f} importance nodes count, so the posterior's tails are not known; the points "
            "contradict the prior or each other, check their units and sigma"
        )
    for i in np.flatnonzero(special.fdtrc(counted, min(dof, 1e9), distance / counted) < _UNBELIEVABLE):
        reasons[i] = (
            f"the points lie {(distance[i] / counted[i]) ** 0.5:.2g} times farther from what the prior expects than it "
            "allows; give their sigma, or check their units and that the specimen is one of the family"
        )
    for i in np.flatnonzero(~converged):
        reasons[i] = "the solve did not converge"
    return tuple(reasons)
