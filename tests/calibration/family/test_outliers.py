"""Contaminated noise: its density, posteriors against a grid, what a past teaches of it, and what is printed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.outliers import Outliers, Tally, first_outliers, tally
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.calibration.posterior.posterior import posterior
from simulators.kinetics import alloy_family

WRONG = Outliers(0.05, 0.164, 0.01)
TIMES = np.linspace(0.1, 3.0, 15)


def alloys(specimens: int, seed: int, times: np.ndarray, outliers: float = 0.05):
    family = alloy_family(specimens, rng=np.random.default_rng(seed), times=times, outliers=outliers)
    return family, [Curve(f"A{i}", times, y) for i, y in enumerate(family.fractions)]


def contaminated(prior: Prior, outliers: Outliers) -> Prior:
    return replace(prior, family=replace(prior.family, outliers=outliers))


def residuals(count: int, outliers: Outliers, noise: float, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    wrong = rng.choice([-1, 1], count) * outliers.shift + outliers.spread * rng.standard_t(4, count)
    return torch.from_numpy(np.where(rng.random(count) < outliers.share, wrong, noise * rng.normal(size=count)))


class TestDensity:
    @pytest.mark.parametrize("outliers", [WRONG, Outliers(0.3, 0.0, 0.2), Outliers(0.1, 0.05, 0.05)])
    @pytest.mark.parametrize("extra", [0.0, 0.01])
    def test_it_has_the_mass_that_its_parts_say(self, outliers, extra):
        r = torch.linspace(-60.0, 60.0, 1_200_001, dtype=torch.float64)
        ordinary, wrong = outliers.parts(r, torch.tensor(50.0), torch.tensor(extra))
        assert integrate.trapezoid(ordinary, r) == pytest.approx(1 - outliers.share, rel=1e-4)
        assert integrate.trapezoid(wrong, r) == pytest.approx(outliers.share, rel=1e-4)

    def test_the_errors_of_measurements_follow_it(self):
        drawn = WRONG.errors(100_000, torch.tensor([0.02]).double())[0].numpy()
        assert (np.abs(drawn) > 0.1).mean() == pytest.approx(0.05, abs=0.002)
        assert np.abs(drawn[np.abs(drawn) > 0.1]).mean() == pytest.approx(0.164, abs=0.002)
        assert drawn[np.abs(drawn) < 0.1].std() == pytest.approx(0.02, rel=0.02)
        assert (drawn > 0).mean() == pytest.approx(0.5, abs=0.005)


class TestLearning:
    @pytest.mark.parametrize("outliers", [WRONG, Outliers(0.15, 0.0, 0.1), Outliers(0.02, 0.5, 0.1)])
    def test_the_numbers_are_recovered_from_plain_residuals(self, outliers):
        noise, found, gain = first_outliers(residuals(20_000, outliers, 0.02, 0))
        assert noise == pytest.approx(0.02, rel=0.03) and gain > 100
        assert found.share == pytest.approx(outliers.share, rel=0.15)
        assert found.sd == pytest.approx(outliers.sd, rel=0.15)

    @pytest.mark.parametrize("seed", range(8))
    def test_gaussian_residuals_gain_nothing(self, seed):
        assert first_outliers(residuals(3000, Outliers(0.0, 1.0, 1.0), 0.02, seed))[2] < 5.0

    def test_every_step_makes_the_residuals_likelier(self):
        r, noise, outliers, before = residuals(2000, WRONG, 0.02, 1), 0.04, Outliers(0.2, 0.05, 0.1), -np.inf
        for _ in range(30):
            noise, outliers = tally(r, 1.0, noise, outliers).outliers(0.0)
            after = float(sum(outliers.parts(r, torch.tensor(1.0 / noise, dtype=r.dtype))).log().sum())
            assert after > before - 1e-9 or outliers.spread == 0.5 * noise
            before = after

    def test_sums_over_parts_are_the_whole(self):
        r = residuals(500, WRONG, 0.02, 2)
        parts = Tally().plus(tally(r[:200], 1.0, 0.02, WRONG)).plus(tally(r[200:], 1.0, 0.02, WRONG))
        np.testing.assert_allclose(parts, tally(r, 1.0, 0.02, WRONG), rtol=1e-12)

    def test_a_past_teaches_how_many_points_are_wrong_and_how_far_off(self, jmak):
        prior = learn_prior(jmak, alloys(60, 0, TIMES)[1])
        assert prior.noise == pytest.approx(0.02, rel=0.06) and prior.converged
        assert prior.outliers.share == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 900) ** 0.5)
        assert prior.outliers.shift == pytest.approx(0.15 + 0.02 * (2 / np.pi) ** 0.5, abs=0.01)
        assert "outliers: about" in str(prior) and "% of the points, shifted by 0.1" in str(prior)

    @pytest.mark.parametrize("seed", range(8))
    def test_a_clean_past_has_none(self, jmak, seed):
        assert learn_prior(jmak, alloys(20, seed, TIMES, 0.0)[1]).outliers is None

    def test_one_wrong_point_in_a_short_past_is_seen(self, jmak):
        curves = alloys(10, 1, TIMES, 0.0)[1]
        y = curves[3].y.copy()
        y[[4, 11]] += (0.4, -0.3)
        prior = learn_prior(jmak, [*curves[:3], replace(curves[3], y=y), *curves[4:]])
        assert prior.outliers is not None and prior.noise == pytest.approx(0.02, rel=0.2)

    def test_a_law_that_misses_a_stretch_is_not_called_outliers(self, line):
        """Three neighbours of twenty are off in each specimen: the law's misfit, not wrong readings."""
        rng, x = np.random.default_rng(2), np.linspace(0.0, 1.0, 20)
        curves = []
        for i in range(20):
            bump = 1.0 * (np.abs(np.arange(20) - rng.integers(3, 17)) <= 1)
            curves.append(Curve(f"S{i}", x, rng.normal() + rng.normal() * x + bump + 0.05 * rng.normal(size=20)))
        assert learn_prior(line, curves).outliers is None

    def test_points_with_their_sigma_teach_no_outliers(self, jmak):
        curves = [replace(c, sigma=np.full(len(c.x), 0.02)) for c in alloys(30, 3, TIMES)[1]]
        assert learn_prior(jmak, curves).outliers is None


def grid_posterior(prior: Prior, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and standard deviation of (ln k, n), and the log evidence, by brute force."""
    axes = np.linspace(-2.5, 2.5, 251), np.linspace(-0.5, 5.5, 201)
    u = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 2))
    curve = prior.law.curve({"k": u[0, :, 0], "n": u[0, :, 1]}, torch.from_numpy(x))
    parts = prior.outliers.parts(curve - torch.from_numpy(y), torch.tensor(1.0 / prior.noise, dtype=u.dtype))
    log_joint = sum(parts).log().sum(-1) + prior.population(prior.design([{}])).log_density(u)[0]
    weight = torch.softmax(log_joint, 0)[:, None]
    mean = (weight * u[0]).sum(0)
    cell = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    sd = (weight * (u[0] - mean) ** 2).sum(0).sqrt()
    return mean.numpy(), sd.numpy(), float(log_joint.logsumexp(0)) + np.log(cell)


class TestPosterior:
    @pytest.mark.parametrize("points", [3, 5, 8])
    def test_it_is_the_grids(self, jmak, truth, points):
        prior = contaminated(truth, WRONG)
        x = 0.6 * np.arange(1, points + 1) / points
        curves = alloys(60, 4, x, 0.15)[1]
        design = prior.design([{}] * 60)
        found = posterior(prior.family, prior.population(design), measured(jmak, curves).points(0.02))
        mean, sd, evidence = (
            np.array(part) for part in zip(*(grid_posterior(prior, x, c.y) for c in curves), strict=True)
        )
        error = np.abs(found.mean.numpy() - mean) / sd
        assert np.sqrt((error**2).mean()) < 0.15 and np.median(error) < 0.03
        assert np.median(np.abs(found.log_evidence.numpy() - evidence)) < 0.02
        assert (np.abs(found.log_evidence.numpy() - evidence) < 0.2).mean() > 0.95

    def test_without_outliers_in_the_points_little_is_lost(self, jmak, truth, simulate):
        curves = simulate(100, seed=6, points=8)[1]
        plain, robust = (
            Calibrator(jmak, p).fit_many(curves).estimates()["k"] for p in (truth, contaminated(truth, WRONG))
        )
        assert np.median(robust["std"] / plain["std"]) < 1.1
        assert np.median(np.abs(robust["value"] - plain["value"]) / plain["std"]) < 0.1

    @pytest.mark.parametrize("size", [0.15, 0.4, 2.0])
    def test_a_wrong_point_hardly_moves_the_fit_however_far_off(self, jmak, truth, size):
        prior = contaminated(truth, WRONG)
        x = np.linspace(0.2, 2.0, 10)
        y = -np.expm1(-(x**2.5))
        off = y + size * (np.arange(10) == 4)
        good, bad, naive = (Calibrator(jmak, p).fit(x, v) for p, v in ((prior, y), (prior, off), (truth, off)))
        assert abs(np.log(bad["k"].value / good["k"].value)) < good["k"].std / good["k"].value
        assert abs(np.log(naive["k"].value / good["k"].value)) > 2 * abs(np.log(bad["k"].value / good["k"].value))

    def test_intervals_cover_with_outliers_among_the_points(self, jmak, truth):
        family, curves = alloys(1000, 7, np.array([0.2, 0.4, 0.6]))
        found = Calibrator(jmak, contaminated(truth, WRONG)).fit_many(curves).estimates()
        for name in ("k", "n"):
            true = getattr(family, name)
            inside = (found[name]["lower"] <= true) & (true <= found[name]["upper"])
            assert abs(inside.mean() - 0.9) < 3 * (0.09 / 1000) ** 0.5

    def test_many_at_once_are_the_fits_one_by_one(self, jmak, truth):
        calibrator = Calibrator(jmak, contaminated(truth, WRONG))
        curves = alloys(25, 8, np.array([0.2, 0.4, 0.6, 0.9]), 0.2)[1]
        batch = calibrator.fit_many(curves)
        for curve, together in zip(curves, batch, strict=True):
            alone = calibrator.fit(curve.x, curve.y)
            assert together["k"].value == pytest.approx(alone["k"].value, rel=1e-6)
            assert together["n"].upper == pytest.approx(alone["n"].upper, rel=1e-6)

    def test_where_a_new_measurement_falls_counts_the_wrong_ones(self, jmak, truth):
        prior = contaminated(truth, WRONG._replace(share=0.3))
        fit = Calibrator(jmak, prior).fit([0.5, 1.0, 1.5, 2.0], [0.16, 0.63, 0.93, 0.99])
        band = fit.band(np.array([3.0]), noise=True)  # the curve is at 1 there: what remains is the noise
        assert band.upper[0] - band.lower[0] == pytest.approx(2 * 0.164, abs=0.03)


class TestPrior:
    def test_a_file_keeps_them_to_the_last_bit(self, jmak, truth, tmp_path):
        prior = contaminated(truth, Outliers(0.05, 1 / 3, 0.1))
        assert Prior.load(prior.save(tmp_path / "prior.json"), jmak).outliers == prior.outliers

    def test_the_print_says_what_they_are(self, truth):
        assert "outliers: about 5 % of the points, shifted by 0.16, give or take 0.01" in str(
            contaminated(truth, WRONG)
        )
        wide = contaminated(truth, Outliers(0.1, 0.0, 0.1))
        assert "outliers: about 10 % of the points, scattered by 0.14" in str(wide)

    @pytest.mark.parametrize(
        "outliers", [Outliers(0.0, 0.1, 0.1), Outliers(0.1, -0.1, 0.1), Outliers(0.1, 0.1, np.nan)]
    )
    def test_numbers_that_cannot_be_are_refused(self, truth, outliers):
        with pytest.raises(ValueError, match="outliers need a share between 0 and 1"):
            contaminated(truth, outliers)


class TestReport:
    @pytest.fixture
    def fit(self, jmak, truth):
        x = np.linspace(0.2, 2.0, 10)
        y = -np.expm1(-(x**2.5)) + 0.4 * (np.arange(10) == 4)
        return Calibrator(jmak, contaminated(truth, WRONG)).fit(x, y)

    def test_it_names_the_point_that_is_probably_wrong_and_no_other(self, fit):
        assert "the point at time = 1 s is probably an outlier (> 99 %)" in str(fit)
        assert str(fit).count("probably an outlier") == 1

    def test_the_probability_is_bayes_rule_at_the_nodes(self, fit):
        u = fit.batch.draws.nodes[0]
        r = fit.curve.y - (-np.expm1(-((np.exp(u[:, :1].numpy()) * fit.curve.x) ** u[:, 1:].numpy())))
        ordinary = 0.95 * stats.norm.pdf(r, 0.0, 0.02)
        wrong = 0.025 * sum(stats.t.pdf(r, 4, side * WRONG.shift, WRONG.spread) for side in (1, -1))
        expected = fit.batch.draws.weights[0].numpy() @ (wrong / (ordinary + wrong))
        np.testing.assert_allclose(fit.outlier_probability(), expected, rtol=1e-9)

    def test_without_outliers_in_the_prior_no_point_is_suspected(self, jmak, truth):
        fit = Calibrator(jmak, truth).fit([0.5, 1.0], [0.2, 0.9])
        assert not fit.outlier_probability().any() and "outlier" not in str(fit)

    def test_the_picture_marks_the_wrong_point(self, fit):
        ax = fit.plot()
        marked = next(line for line in ax.lines if line.get_label() == "probably outliers")
        assert marked.get_xdata().tolist() == [1.0]
