"""Calibrating new specimens with a learned prior."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scimeta.calibration.curves import Curve, Curves
from scimeta.calibration.law import Law
from scimeta.calibration.posterior import measured, posterior
from scimeta.calibration.prior import Prior
from scimeta.calibration.result import Calibration, Calibrations

_MIN_EFFECTIVE = 16.0  # fewer nodes than this in effect carry no 5 % quantile


@dataclass(frozen=True)
class Calibrator:
    """Fits a law to few points of a new specimen, with what past specimens say.

    Args:
        law: the law.
        prior: of the same law, from :func:`learn_prior` or :meth:`Prior.load`.
        level: probability of the intervals and bands.

    Raises:
        ValueError: the prior is of another law, or the level is not between 0 and 1.
    """

    law: Law
    prior: Prior
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.prior.law is not self.law:
            theirs, ours = self.prior.law, self.law
            if (theirs.name, dict(theirs.parameters)) != (ours.name, dict(ours.parameters)):
                raise ValueError(
                    f"the prior is of law {theirs.name} ({theirs.describe()}), not of {ours.name} ({ours.describe()})"
                )
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level must lie between 0 and 1; got {self.level} (0.9 for 90 %)")

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
            x: (points,), in the unit of the law's x.
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
        data = measured(self.law, curves)
        prior, law = self.prior, self.prior.corrected_law
        design = prior.design([curve.conditions for curve in curves], [curve.name for curve in curves])
        population, shared = prior.gaussian(design), prior.shared_values()
        found = posterior(law, population, shared, data.points(prior.noise))
        nodes = [
            found.nodes[..., law.fast.index(n)] if n in law.fast else shared[n].expand(found.weights.shape)
            for n in law.names
        ]
        best = [
            found.mode[:, law.fast.index(n)] if n in law.fast else shared[n].expand(len(found.mode)) for n in law.names
        ]
        shrunk = found.covariance.diagonal(dim1=-2, dim2=-1) / population.covariance.diagonal()
        informed = dict(zip(law.fast, (1.0 - shrunk).clamp(0.0, 1.0).T.numpy(), strict=True))
        converged = found.converged.numpy()
        if not converged.all():
            shown = [curve.name for curve, good in zip(curves, converged, strict=True) if not good][:5]
            warnings.warn(
                f"{(~converged).sum()} of {len(curves)} fits did not converge: {', '.join(shown)}", stacklevel=2
            )
        return Calibrations(
            law,
            curves,
            torch.stack(nodes, -1),
            found.weights,
            torch.stack(best, -1),
            np.stack([informed.get(n, np.zeros(len(converged))) for n in law.names], -1),
            np.full(len(converged), prior.noise),
            np.full(len(converged), prior.wander),
            converged,
            None,
            self.level,
            f"prior {prior.origin}",
            _reasons(found.effective.numpy(), converged),
        )


def _reasons(effective: np.ndarray, converged: np.ndarray) -> tuple[str, ...]:
    """Return why each specimen's intervals are withheld; "" where they hold."""
    thin = (
        "only {:.0f} importance nodes count, so the posterior's tails are not known; the points "
        "contradict the prior or each other, check their units and sigma"
    )
    return tuple(
        "the solve did not converge" if not good else thin.format(size) if size < _MIN_EFFECTIVE else ""
        for size, good in zip(effective, converged, strict=True)
    )
