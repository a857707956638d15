"""The discrepancy over x: exact in closed forms, absent where the law is right, apart from the parameters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta import Axis, Calibrator, Curve, Law, Parameter, Prior, learn_prior
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.discrepancy import Discrepancy, first_discrepancy
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian
from scimeta.calibration.family.provenance import Learned
from scimeta.calibration.posterior.posterior import posterior

LINE = Law("line", lambda x, a, b: a + b * x, {"a": Parameter(), "b": Parameter()})
DECAY = Law("decay", lambda t, rate: torch.exp(-rate * t), {"rate": Parameter("1/s", "positive")}, Axis("time", "s"))
KNOTS = np.array([0.0, 1.0, 3.0])
TIMES = np.array([0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0])


def family(noise: float, covariance: np.ndarray | None = None, discrepancy: Discrepancy | None = None) -> Family:
    one = Family.gaussian(LINE, [[0.1, 0.6]], np.eye(2) if covariance is None else covariance, noise)
    return replace(one, discrepancy=discrepancy)


def points() -> Points:
    x = torch.tensor([[0.0, 0.5, 2.0, 3.5], [0.2, 1.0, 2.9, 2.9]], dtype=torch.float64)
    y = torch.tensor([[0.1, 0.4, 1.3, 2.9], [0.3, 0.8, 2.2, 0.0]], dtype=torch.float64)
    return Points(x, y, torch.tensor([[5.0, 4.0, 5.0, 5.0], [5.0, 5.0, 2.0, 0.0]], dtype=torch.float64))


def misfitting(count: int, rng: np.random.Generator) -> tuple[list[Curve], np.ndarray]:
    """Return decays that are off, up to a knot at 1.25 s, by each one's own amount, of mean zero, and their log rates.

    (A common amount the rate would imitate, and by definition take up.)
    """
    log_rate = 0.3 * rng.standard_normal(count)
    bump = 0.15 * rng.standard_normal((count, 1)) * np.clip(1.25 - TIMES, 0.0, None)
    y = np.exp(-np.exp(log_rate)[:, None] * TIMES) + bump + 0.01 * rng.standard_normal((count, len(TIMES)))
    return [Curve(f"A{i}", TIMES, row) for i, row in enumerate(y)], log_rate


def test_a_discrepancy_of_zero_leaves_the_posterior_as_it_is():
    none = Discrepancy(KNOTS, np.zeros(3), np.zeros(3))
    prior = Gaussian(torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    plain, absorbed = (posterior(family(1.0), prior, given) for given in (points(), none.absorbed(points())))
    for one, other in zip(plain, absorbed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_whitening_inverts_the_covariance_and_leaves_padding_at_zero():
    some = Discrepancy(KNOTS, np.zeros(3), np.array([0.3, 0.1, 0.2]))
    white = some.absorbed(points()).inverse_sd
    basis, sd = some.basis(points().x), 1.0 / points().inverse_sd
    for i, count in ((0, 4), (1, 3)):
        covariance = basis[i] @ torch.diag(some.variance_) @ basis[i].mT + torch.diag(sd[i] ** 2).nan_to_num(posinf=0.0)
        w, covariance = white[i, :count, :count], covariance[:count, :count]
        torch.testing.assert_close(w @ covariance @ w.mT, torch.eye(count, dtype=torch.float64))
    assert not white[1, 3].any() and not white[1, :, 3].any()


def test_a_linear_law_with_a_discrepancy_is_the_gaussian_process_posterior():
    found = Discrepancy(KNOTS, np.array([0.2, -0.1, 0.3]), np.array([0.3, 0.1, 0.2]))
    covariance, noise = np.array([[0.5, 0.1], [0.1, 0.3]]), 0.2
    prior = Prior(family(noise, covariance, found))
    x, y, new = np.array([0.0, 0.5, 2.0]), np.array([0.3, 0.2, 1.9]), np.array([0.25, 1.2, 2.6])
    fit = Calibrator(LINE, prior).fit(x, y)

    both = np.concatenate([x, new])
    design = np.column_stack([np.ones(6), both, found.basis(torch.from_numpy(both)).numpy()])
    mean = design @ np.concatenate([[0.1, 0.6], found.mean])
    spread = design @ np.block([[covariance, np.zeros((2, 3))], [np.zeros((3, 2)), np.diag(found.variance)]]) @ design.T
    gain = np.linalg.solve(spread[:3, :3] + noise**2 * np.eye(3), spread[:3, 3:]).T
    expected = mean[3:] + gain @ (y - mean[:3])
    sd = np.sqrt(np.diag(spread[3:, 3:] - gain @ spread[:3, 3:]))

    np.testing.assert_allclose(fit.predict(new), expected, atol=2e-3)
    band = fit.band(new, 0.9)
    np.testing.assert_allclose(band.lower, expected - stats.norm.ppf(0.95) * sd, atol=0.06 * sd.max())
    np.testing.assert_allclose(band.upper, expected + stats.norm.ppf(0.95) * sd, atol=0.06 * sd.max())
    # log density of the points, in closed form
    density = stats.multivariate_normal(mean[:3], spread[:3, :3] + noise**2 * np.eye(3)).logpdf(y)
    data = Points(*(torch.from_numpy(v)[None] for v in (x, y, np.full(3, 1.0 / noise))))
    population = Gaussian(torch.tensor([[0.1, 0.6]], dtype=torch.float64), torch.from_numpy(covariance))
    assert float(posterior(prior.family, population, found.absorbed(data)).log_evidence) == pytest.approx(
        density, abs=1e-3
    )


def test_a_misfit_of_the_early_points_is_found_and_the_parameters_keep_their_meaning():
    past, log_rate = misfitting(30, np.random.default_rng(0))
    prior = learn_prior(DECAY, past, objective="likelihood")
    assert prior.family.discrepancy is not None
    assert prior.noise == pytest.approx(0.01, rel=0.25)
    assert float(prior.coefficients[0, 0]) == pytest.approx(log_rate.mean(), abs=0.05)
    assert float(prior.covariance[0, 0]) ** 0.5 == pytest.approx(log_rate.std(), rel=0.2)
    new, truth = misfitting(200, np.random.default_rng(1))
    fits = Calibrator(DECAY, prior).fit_many([Curve(c.name, c.x[:6], c.y[:6]) for c in new])
    rate = fits.estimates()["rate"]
    covered = ((rate["lower"] < np.exp(truth)) & (np.exp(truth) < rate["upper"])).mean()
    assert 0.83 < covered < 0.96  # 90 %, within three standard errors and what a past of 30 leaves open
    late = np.array([2.5, 3.0])
    band = fits.band(late, 0.9, noise=True)
    inside = (band.lower < [c.y[6:] for c in new]) & ([c.y[6:] for c in new] < band.upper)
    assert 0.83 < inside.mean() < 0.96


def test_a_law_that_is_right_has_no_discrepancy():
    rng = np.random.default_rng(2)
    y = np.exp(-np.exp(0.3 * rng.standard_normal((30, 1))) * TIMES) + 0.01 * rng.standard_normal((30, len(TIMES)))
    assert learn_prior(DECAY, [Curve(f"A{i}", TIMES, row) for i, row in enumerate(y)]).family.discrepancy is None


def test_draws_have_the_exact_conditional_mean():
    found = Discrepancy(KNOTS, np.array([0.2, -0.1, 0.3]), np.array([0.3, 0.0, 0.2]))
    data, curves = points(), torch.zeros(2, 51, 4, dtype=torch.float64)
    drawn = found.draw(data, lambda rows: curves[rows], fast=1)
    gain, covariance = found.conditional(data)
    residual = (data.y - found.basis(data.x) @ found.mean_) * (data.inverse_sd > 0)
    torch.testing.assert_close(drawn.mean((1, 2)), found.mean_ + (gain @ residual[..., None])[..., 0])
    torch.testing.assert_close(torch.cov(drawn[0].flatten(0, 1).T, correction=0), covariance[0])
    assert drawn[..., 1].std() < 1e-9  # no variance, no spread


def test_a_prior_with_a_discrepancy_comes_back_from_its_file_and_old_files_still_load(tmp_path):
    found = Discrepancy(KNOTS, np.array([0.2, -0.1, 0.3]), np.array([0.3, 0.0, 0.2]))
    past = {"A": np.array([0.0, 0.5]), "B": np.array([0.2, 0.7])}
    learned = Learned(past, (0.0, 3.0), objective="predictive")
    prior = Prior(family(0.2, discrepancy=found), learned=learned)
    path = prior.save(tmp_path / "prior.json")
    again = Prior.load(path, LINE)
    for name in ("knots", "mean", "variance"):
        np.testing.assert_array_equal(getattr(again.family.discrepancy, name), getattr(found, name))
    assert again.learned.objective == "predictive" and "misses along x" in str(again)
    content = {
        "format": "scimeta prior, version 1",
        "law": json.loads(path.read_text())["law"],
        "coefficients": [[0.1, 0.6]],
        "covariance": [[1.0, 0.0], [0.0, 1.0]],
        "noise": 0.2,
        "wander": 0.0,
        "conditions": {},
        "shared": {},
        "x range": [0.0, 3.0],
        "converged": True,
        "misfit": None,
        "past": {name: row.tolist() for name, row in past.items()},
    }
    path.write_text(json.dumps(content))
    old = Prior.load(path, LINE)
    assert old.family.discrepancy is None and old.learned.objective == "likelihood"
    np.testing.assert_array_equal(old.coefficients, [[0.1, 0.6]])


def test_the_report_says_how_much_of_the_band_is_discrepancy():
    found = Discrepancy(KNOTS, np.zeros(3), np.full(3, 100.0))
    prior = Prior(family(0.2, 1e-6 * np.eye(2), found))
    fit = Calibrator(LINE, prior).fit([0.5], [0.4])
    assert "model discrepancy along x: 100% of the variance" in str(fit)
    assert float(fit.batch.draws.discrepancy_share(torch.tensor([1.0, 2.0], dtype=torch.float64))[0]) > 0.99


def test_there_are_half_as_many_knots_as_points_and_none_for_fewer_than_four():
    x = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0]], dtype=torch.float64)
    every = torch.ones(2, 4, dtype=torch.bool)
    np.testing.assert_array_equal(first_discrepancy(x, every, 0.1).knots, [1.0, 3.0, 8.0])
    every[:, 3] = False
    assert first_discrepancy(x, every, 0.1) is None


@pytest.mark.parametrize(
    ("knots", "mean", "variance", "message"),
    [
        ([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], "rising"),
        ([0.0, 1.0], [0.0], [1.0, 1.0], "mean has shape"),
        ([0.0, 1.0], [0.0, 0.0], [1.0, -1.0], "negative"),
        ([0.0, 1.0], [0.0, np.nan], [1.0, 1.0], "finite"),
    ],
)
def test_impossible_discrepancies_are_refused(knots, mean, variance, message):
    with pytest.raises(ValueError, match=message):
        Discrepancy(knots, mean, variance)
