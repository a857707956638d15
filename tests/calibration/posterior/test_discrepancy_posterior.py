"""The posterior under a discrepancy is Bayes' at every value of the parameter, not a line through the mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.posterior.posterior import posterior

RISE = Law(
    "rise",
    lambda t, k: -torch.expm1(-k * t),
    {"k": Parameter("1/s", "positive")},
    Axis("time", "s"),
    Axis("fraction"),
)
SPREAD = 0.8  # of ln k: so wide that the columns of the discrepancy differ over the posterior
KNOTS = np.array([0.0, 0.3, 0.7, 1.0])
X, Y = np.array([0.5, 1.0]), np.array([0.42, 0.55])
LATER = np.array([2.0, 4.0])


def family(error_model: ErrorModel, *, start: float) -> Family:
    """Return one with a common and an own curve over the prediction, and a late start if asked for."""
    columns = len(KNOTS) + bool(start)
    rng = np.random.default_rng(3)
    root = 0.1 * rng.standard_normal((columns, columns))
    mean = 0.1 * rng.standard_normal(columns)
    missed = Discrepancy(
        ("prediction",), (KNOTS,), mean, root @ root.T, 0.001 * np.eye(columns), np.array([[SPREAD**2]]), start=start
    )
    plain = Family.gaussian(RISE, np.array([[0.2]]), np.array([[SPREAD**2]]), 0.03)
    return replace(plain, discrepancy=missed, error_model=error_model)


class Grid:
    """Bayes on a grid of ln k; the discrepancy's coefficients are integrated over with dense covariances."""

    def __init__(self, family: Family) -> None:
        self.u = np.linspace(0.2 - 6 * SPREAD, 0.2 + 6 * SPREAD, 1501)
        assert family.discrepancy is not None
        mean, cov = family.discrepancy.mean, family.discrepancy.covariance + family.discrepancy.mean_covariance
        log_joint, self.forecast = np.empty_like(self.u), np.empty((len(self.u), len(LATER)))
        for i, u in enumerate(self.u):
            named = {"k": torch.tensor(u, dtype=torch.float64)}
            place = family.discrepancy.place(RISE, named, torch.from_numpy(np.r_[X, LATER]))
            phi, f = family.discrepancy.columns(place).numpy(), place.f.numpy()
            seen, rest = phi[:2], phi[2:]
            sd = family.noise * family.error_model.relative_sd(place.f).expand(4).numpy()[:2]
            spread = seen @ cov @ seen.T + np.diag(sd**2)
            expected = f[:2] + seen @ mean
            log_joint[i] = stats.multivariate_normal.logpdf(Y, expected, spread) + stats.norm.logpdf(u, 0.2, SPREAD)
            c = mean + cov @ seen.T @ np.linalg.solve(spread, Y - expected)
            self.forecast[i] = f[2:] + rest @ c
        density = np.exp(log_joint - log_joint.max())
        self.weight = density / density.sum()
        self.log_evidence = log_joint.max() + np.log(density.sum() * (self.u[1] - self.u[0]))
        self.mean = self.weight @ self.u
        self.sd = (self.weight @ (self.u - self.mean) ** 2) ** 0.5


@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize("error_model", [ErrorModel(), ErrorModel("proportional", 0.0, 1.0, 0.5)])
def test_it_is_the_grids(error_model: ErrorModel, start: float):
    one = family(error_model, start=start)
    grid, prior = Grid(one), Prior.by_hand(RISE, [[0.2]], [[SPREAD**2]], noise=0.03)
    found = posterior(one, prior.population(np.ones((1, 1))), measured(RISE, [Curve("A", X, Y)]).points(one.noise))
    assert found.mean.item() == pytest.approx(grid.mean, abs=0.01 * grid.sd)
    assert found.covariance.item() ** 0.5 == pytest.approx(grid.sd, rel=0.02)
    assert found.log_evidence.item() == pytest.approx(grid.log_evidence, abs=0.01)
    fit = Calibrator(RISE, replace(prior, family=one)).fit(X, Y)
    assert fit.predict(LATER) == pytest.approx(grid.weight @ grid.forecast, abs=5e-4)


def test_the_density_of_the_data_is_the_dense_gaussian_at_every_node():
    one = family(ErrorModel(), start=0.1)
    grid = Grid(one)
    points = Points.plain(*(torch.from_numpy(part)[None] for part in (X, Y, np.full(2, 1 / 0.03))))
    found = one.given(torch.from_numpy(grid.u)[None, :, None], points).log_likelihood[0].numpy()
    found = found + stats.norm.logpdf(grid.u, 0.2, SPREAD)
    log_evidence = found.max() + np.log(np.exp(found - found.max()).sum() * (grid.u[1] - grid.u[0]))
    assert log_evidence == pytest.approx(grid.log_evidence, abs=1e-6)  # of the root only what counts is kept


def test_padding_and_a_batch_change_nothing():
    one = family(ErrorModel(), start=0.0)
    prior = replace(Prior.by_hand(RISE, [[0.2]], [[SPREAD**2]], noise=0.03), family=one)
    short, long = Curve("short", X, Y), Curve("long", np.r_[X, LATER], np.r_[Y, 0.8, 0.9])
    alone = Calibrator(RISE, prior).fit_many([short])[0]
    beside = Calibrator(RISE, prior).fit_many([long, short])[1]
    assert beside.predict(LATER) == pytest.approx(alone.predict(LATER), abs=1e-9)
    assert beside["k"].lower == pytest.approx(alone["k"].lower, rel=1e-9)
