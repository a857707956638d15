"""Calibrating new specimens with a learned prior."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import special
from torch import Tensor

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.points import Measured, Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Mixture
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.fits.draws import PosteriorDraws
from scimeta.calibration.intervals import probability
from scimeta.calibration.laws.checks import check_numbers, measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import normal_nodes_beside
from scimeta.calibration.posterior.posterior import Posterior, posterior

_MIN_EFFECTIVE = 16.0  # fewer nodes than this in effect carry no 5 % quantile
_CHUNK = 1 << 20  # values of the discrepancy's columns at once
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
    >>> prior = Prior.by_hand(decay, [[0.0]], [[0.25]], noise=0.05)  # tau around 1 s, by a factor of 1.6 or so
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
        x: ArrayLike,
        y: ArrayLike,
        sigma: ArrayLike | None = None,
        *,
        conditions: Mapping[str, float | str] | None = None,
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
        prior, law = self.prior, self.law
        data = _measured(prior, curves)
        family = prior.family
        population = prior.population(prior.design([c.conditions for c in curves], [c.name for c in curves]))
        _check_numbers(family, population, data)
        for line in prior.reach.lines(curves, only_warned=True):
            warnings.warn(line, stacklevel=2)
        found = posterior(family, population, family.points(data))
        shrunk = found.covariance.diagonal(dim1=-2, dim2=-1) / population.variance()
        informed = dict(zip(law.fast, (1.0 - shrunk).clamp(0.0, 1.0).T.numpy(), strict=True))
        departures = None
        if family.discrepancy is not None:
            found, departures = _with_departures(family, family.points(data), found)
        count, converged = len(found.mode), found.converged.numpy()
        if not converged.all():
            shown = [curve.name for curve, good in zip(curves, converged, strict=True) if not good][:5]
            warnings.warn(f"{(~converged).sum()} of {count} fits did not converge: {', '.join(shown)}", stacklevel=2)
        draws = PosteriorDraws(
            family,
            torch.stack(list(family.parameters(found.nodes).values()), -1),
            found.weights,
            np.stack([informed.get(name, np.zeros(count)) for name in law.names], -1),
            torch.stack(list(family.parameters(found.mode).values()), -1),
            departures,
        )
        distance, points = found.distance.numpy(), data.mask.sum(-1).numpy().clip(min=1)
        surprise = special.fdtrc(points, min(prior.dof, 1e9), distance / points)
        reasons = _reasons(converged, found.effective.numpy(), (distance / points) ** 0.5, surprise)
        source = f"prior {prior.origin}"
        return Calibrations(law, curves, draws, self.level, source, converged, reasons, surprise, prior)


def _measured(prior: Prior, curves: Sequence[Curve]) -> Measured:
    """Return the measurements; where no specimen has a point, one each that counts for nothing."""
    data = measured(prior.law, curves)
    if data.x.shape[1]:
        return data
    blank = torch.full((len(curves), 1), prior.x_range[1], dtype=torch.float64)
    return Measured(blank, blank, torch.full_like(blank, torch.nan), torch.zeros_like(blank, dtype=torch.bool))


def _check_numbers(family: Family, population: Mixture, data: Measured) -> None:
    """Raise ValueError where the law is not finite for the values that the prior expects."""
    law, middle = family.law, population.means.mean(1)  # over components
    own = {name: (middle[:, i], population.variance()[0, i].sqrt()) for i, name in enumerate(law.fast)}
    centre = {**family.shared, **{name: m for name, (m, _) in own.items()}}
    check_numbers(law, centre, {name: sd for name, (_, sd) in own.items()}, data.x)


def _with_departures(family: Family, points: Points, found: Posterior) -> tuple[Posterior, Tensor]:
    """Return posteriors with every node twice, and (specimens, nodes, columns) what the law misses at each.

    Given the parameters the discrepancy's coefficients are Gaussian; of every node are two draws, on either side of
    their mean, which therefore is exact.
    """
    discrepancy, fast = family.discrepancy, found.mode.shape[1]
    assert discrepancy is not None  # or there is nothing to draw
    root = discrepancy.root
    one = normal_nodes_beside(found.nodes.shape[1], root.shape[1], fast)
    departures = found.nodes.new_empty(len(found.mode), 2, found.nodes.shape[1], len(root))
    chunk = max(1, _CHUNK // (found.nodes.shape[1] * points.x.shape[1] * len(root)))
    for rows in torch.arange(len(found.mode)).split(chunk):
        given = family.given(found.nodes[rows], points.rows(rows))
        around = torch.linalg.solve_triangular(given.factor.mT, one[..., None].expand(len(rows), -1, -1, 1), upper=True)
        for side, b in enumerate((given.centre + around[..., 0], given.centre - around[..., 0])):
            departures[rows, side] = discrepancy.mean_ + b @ root.T
    found = found._replace(nodes=found.nodes.repeat(1, 2, 1), weights=0.5 * found.weights.repeat(1, 2))
    return found, departures.flatten(1, 2)


def _reasons(converged: np.ndarray, effective: np.ndarray, away: np.ndarray, surprise: np.ndarray) -> tuple[str, ...]:
    """Return why each specimen's intervals are withheld; "" where they hold.

    Args:
        converged: (specimens,) bool.
        effective: (specimens,) importance nodes that count.
        away: (specimens,) root mean squared distance of the points from what the prior expects, in standard deviations.
        surprise: (specimens,) its probability: chi-squared where the prior is certain, F with its degrees of freedom
            where it is not.
    """
    reasons = [""] * len(converged)
    for i in np.flatnonzero(effective < _MIN_EFFECTIVE):
        reasons[i] = (
            f"only {effective[i]:.0f} importance nodes count, so the posterior's tails are not known; the points "
            "contradict the prior or each other, check their units and sigma"
        )
    for i in np.flatnonzero(surprise < _UNBELIEVABLE):
        reasons[i] = (
            f"the points lie {away[i]:.2g} times farther from what the prior expects than it "
            "allows; give their sigma, or check their units and that the specimen is one of the family"
        )
    for i in np.flatnonzero(~converged):
        reasons[i] = "the solve did not converge"
    return tuple(reasons)
