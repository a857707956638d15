"""Is this specimen one of the family? A prior-predictive check of every fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Mixture
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.posterior.posterior import node_count, posterior

MEMBERS = 999  # imagined; p is told to a thousandth
_UNUSUAL, _FOREIGN = 0.05, 0.01


class Membership(NamedTuple):
    """Whether the points of a specimen are such as the prior's family gives.

    Attributes:
        p: share of the family's members, measured at the same x with the same noise, whose points are as unlikely as
            the specimen's or more. Spread evenly between 0 and 1 over the members of the family; small for others.

    >>> print(Membership(0.42))
    the specimen looks like one of the family (p = 0.42)
    """

    p: float

    @property
    def sentence(self) -> str:
        """The same in words."""
        if self.p >= _UNUSUAL:
            return f"the specimen looks like one of the family (p = {self.p:.2g})"
        rare = f"about {1000 * self.p:.0f} in 1000 of its members give points as unlikely (p = {self.p:.2g})"
        if self.p >= _FOREIGN:
            return f"the specimen is unusual for the family: {rare}"
        remedy = "check that it is the right specimen, its units and its points"
        return f"the specimen is hardly one of the family: {rare}; {remedy}"

    def __str__(self) -> str:
        return self.sentence


def memberships(prior: Prior, curves: Sequence[Curve]) -> list[Membership]:
    """Return whether each specimen is one of the family that the prior describes.

    Judged are the density of the measured points under the prior, integrated over the parameters, and that of the
    likeliest parameters; what counts is the odder of the two. Members are drawn from the prior with all that it knows
    of (its components, its discrepancy, its outliers, what its past leaves open), are measured at the specimen's x and
    judged alike, so that p is even on them whatever the law, the number of points and the approximations inside.
    Specimens measured alike share the drawn members.

    Args:
        prior: of the family.
        curves: the specimens.

    Reference: Box, J. R. Stat. Soc. A 143, 383 (1980).

    >>> from scimeta.calibration.laws.law import Law, Parameter
    >>> law = Law("line", lambda x, a: a * x, {"a": Parameter()})
    >>> prior = Prior.by_hand(law, [[1.0]], [[0.01]], noise=0.1)
    >>> [m.p < 0.01 for m in memberships(prior, [Curve("one", [1, 2], [1.1, 1.9]), Curve("other", [1, 2], [2, 1])])]
    [False, True]
    """
    alike: dict[tuple, list[int]] = {}
    for i, curve in enumerate(curves):
        if not len(curve):  # nothing speaks against it
            continue
        sigma = b"" if curve.sigma is None else curve.sigma.tobytes()
        alike.setdefault((curve.x.tobytes(), sigma, *sorted(curve.conditions.items())), []).append(i)
    p = np.ones(len(curves))
    for rows in alike.values():
        p[rows] = _shares(prior, [curves[i] for i in rows])
    return [Membership(float(value)) for value in p]


def _shares(prior: Prior, curves: Sequence[Curve]) -> np.ndarray:
    """Return (specimens,) p of specimens that were measured alike."""
    rng, count = np.random.default_rng(0), len(curves)  # the same specimen has the same p in every batch
    family = prior.family
    data = measured(prior.law, curves)
    points = data.points(family.noise)
    population = prior.population(prior.design([curves[0].conditions], [curves[0].name]))
    drawn = _parameters(prior, population, rng)
    y = family.curve(drawn, points.x[0])
    sd = 1.0 / family.inverse_sd(points.rows(slice(0, 1)), y[None])[0].expand(len(y), -1).numpy()
    errors = torch.from_numpy(_errors(family, sd, rng))
    if family.discrepancy is not None:
        normal = torch.from_numpy(rng.standard_normal((len(y), family.discrepancy.root.shape[1])))
        own = family.discrepancy.mean_ + normal @ family.discrepancy.root.T
        y = y + (family.departed(drawn, points.x[0])[0] @ own[..., None])[..., 0]
    y = y + errors
    statistics = _statistics(family, population, points, torch.cat([points.y, y]))
    least = np.minimum(*(_ranks(row, count) for row in statistics))
    return _ranks(least, count)[:count]


def _ranks(statistic: np.ndarray, count: int) -> np.ndarray:
    """Return (rows,) share of the members, which stand behind ``count`` specimens, that lie as low; itself included."""
    below = np.searchsorted(np.sort(statistic[count:]), statistic, side="right")
    below[:count] += 1
    return below / (MEMBERS + 1.0)


def _statistics(family: Family, population: Mixture, points: Points, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return log density of every row of readings y (rows, points), and of its likeliest parameters, under the prior.

    Among many readings an odd one, or a law that does not hold, shows in the first; odd parameters in the second.
    """
    rows = len(y)
    everywhere = points.rows(torch.zeros(rows, dtype=torch.long))._replace(y=y)
    wide = Mixture(population.log_shares, population.means.expand(rows, -1, -1), _covariances(population))
    nodes = node_count(family.law) // 4 | 1  # the same for all, so that p is not biased
    found = posterior(family, wide, everywhere, nodes=nodes)
    readings, parameters = found.log_evidence.numpy(), wide.log_density(found.mode[:, None])[:, 0].numpy()
    return np.nan_to_num(readings, nan=-np.inf), np.nan_to_num(parameters, nan=-np.inf)


def _covariances(population: Mixture) -> Tensor:
    """Return (components, fast, fast) of specimens that are all expected to be alike."""
    return population.covariances.reshape(-1, *population.covariances.shape[-3:])[0]


def _parameters(prior: Prior, population: Mixture, rng: np.random.Generator) -> Tensor:
    """Return (MEMBERS, fast) unconstrained parameters of members."""
    shares = population.log_shares.exp().numpy()
    component = rng.choice(len(shares), MEMBERS, p=shares / shares.sum())
    factors = torch.linalg.cholesky(_covariances(population)).numpy()[component]
    offset = (factors @ rng.standard_normal((MEMBERS, len(prior.law.fast), 1)))[..., 0]
    if prior.past:
        offset *= _heavier(shares[component] / shares.sum() * len(prior.past), prior, rng)[:, None]
    return torch.from_numpy(population.means[0].numpy()[component] + offset)


def _heavier(count: np.ndarray, prior: Prior, rng: np.random.Generator) -> np.ndarray:
    """Return (MEMBERS,) factors that make Gaussian offsets those of a Student t of the same covariance.

    That is what a new member of a Gaussian sample follows; the tail of few degrees of freedom holds a good part of p.

    Args:
        count: (MEMBERS,) number of past specimens of each member's component.
    """
    dof = np.maximum(count - sum(prior.family.coefficients.shape[1:]) + 1.0, 3.0)
    return np.sqrt(count / dof * (dof - 2.0) / rng.chisquare(dof))


def _errors(family: Family, sd: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (MEMBERS, points) errors of readings with these standard deviations, wrong ones included."""
    errors = sd * rng.standard_normal(sd.shape)
    if family.outliers is None:
        return errors
    return np.where(rng.random(errors.shape) < family.outliers.share, family.outliers.draw(errors.shape, rng), errors)
