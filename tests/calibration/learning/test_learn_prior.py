"""Learned priors against the population that was simulated and against closed forms of classical statistics."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning import model_selection, structure
from scimeta.calibration.learning.learn_prior import learn_prior

LEVEL = Law("level", lambda x, a: a + 0 * x, {"a": Parameter("mm")}, Axis("reading"), Axis("length", "mm"))


def balanced(groups: int, readings: int, between: float, within: float, seed: int) -> np.ndarray:
    """Return (groups, readings) of a random-intercept model about 5."""
    rng = np.random.default_rng(seed)
    return 5.0 + between * rng.normal(size=(groups, 1)) + within * rng.normal(size=(groups, readings))


def levels(y: np.ndarray, sigma: np.ndarray | None = None) -> list[Curve]:
    x = np.arange(float(y.shape[1]))
    return [Curve(f"S{i}", x, row, None if sigma is None else sigma[i]) for i, row in enumerate(y)]


class TestSimulatedPopulation:
    """400 alloys of twelve points; sampling errors of a mean and a variance of 400 Gaussian draws."""

    def test_the_mean_is_recovered_within_its_sampling_error(self, learned, truth):
        prior = learned[0]
        error = np.sqrt(np.diag(truth.covariance) / 400)
        assert prior.converged
        np.testing.assert_allclose((prior.coefficients[0] - truth.coefficients[0]) / error, 0.0, atol=3.0)

    def test_the_covariance_is_recovered_within_its_sampling_error(self, learned, truth):
        variance = np.diag(truth.covariance)
        error = np.sqrt((np.outer(variance, variance) + truth.covariance**2) / 400)
        np.testing.assert_allclose((learned[0].covariance - truth.covariance) / error, 0.0, atol=3.0)

    def test_it_is_as_good_as_if_the_parameters_had_been_seen(self, learned):
        """With twelve points the alloys' own sample moments are hardly blurred: a sharper test than the population."""
        prior, family, _ = learned
        u = np.stack([np.log(family.k), family.n])
        sd = u.std(1, ddof=1)
        np.testing.assert_allclose((prior.coefficients[0] - u.mean(1)) / sd, 0.0, atol=0.02)
        np.testing.assert_allclose((prior.covariance - np.cov(u)) / np.outer(sd, sd), 0.0, atol=0.05)

    def test_the_noise_is_recovered_within_its_sampling_error(self, learned):
        free = 400 * (12 - 2)
        assert learned[0].noise == pytest.approx(0.02, rel=3 / (2 * free) ** 0.5)

    def test_the_pasts_means_are_the_alloys_own(self, learned):
        prior, family, curves = learned
        assert list(prior.past) == [curve.name for curve in curves]
        found = np.array(list(prior.past.values()))
        assert np.corrcoef(found[:, 0], np.log(family.k))[0, 1] > 0.99
        assert prior.x_range == (0.1, 3.0)

    def test_few_points_an_alloy_do_not_bias_the_population(self, jmak, simulate, truth):
        """Four points leave n of an alloy uncertain by about the population's own spread; EM accounts for it."""
        prior = learn_prior(jmak, simulate(400, seed=1, times=np.array([0.3, 0.7, 1.1, 1.6]))[1])
        sd = np.sqrt(np.diag(truth.covariance))
        np.testing.assert_allclose((prior.coefficients[0] - truth.coefficients[0]) / sd, 0.0, atol=0.2)
        np.testing.assert_allclose(np.sqrt(np.diag(prior.covariance)) / sd, 1.0, atol=0.12)
        assert prior.noise == pytest.approx(0.02, rel=0.1)


class TestOneWayAnova:
    """A random intercept with balanced data: EM's fixed point must be the REML estimates, which have a closed form."""

    @pytest.mark.parametrize(
        ("groups", "readings", "between", "seed"), [(30, 5, 1.0, 0), (12, 3, 0.6, 1), (80, 2, 2.0, 2)]
    )
    def test_the_fixed_point_is_the_closed_form(self, groups, readings, between, seed):
        y = balanced(groups, readings, between, 0.5, seed)
        within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / (groups * (readings - 1))
        among = readings * y.mean(1).var(ddof=1)
        prior = learn_prior(LEVEL, levels(y), tolerance=1e-7, steps=3000)
        assert prior.coefficients[0, 0] == pytest.approx(y.mean(), abs=2e-3 * between)
        assert prior.noise**2 == pytest.approx(within, rel=1 / (groups * readings))  # the mean's own error is left out
        assert prior.covariance[0, 0] == pytest.approx((among - within) / readings, rel=1e-2)

    def test_without_any_spread_between_groups_the_population_shrinks_to_little(self):
        y = balanced(40, 5, 0.0, 0.5, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # EM is slow where a variance is zero
            prior = learn_prior(LEVEL, levels(y), steps=100)
        assert prior.covariance[0, 0] ** 0.5 < 0.5 * 0.5 / 5**0.5
        assert prior.noise == pytest.approx(0.5, rel=0.15)


class TestSigma:
    def test_points_with_a_sigma_keep_it_and_teach_no_noise(self):
        """Half of the points say 2.0 and scatter so; the noise is that of the other half, 0.1."""
        rng = np.random.default_rng(6)
        y = balanced(60, 8, 1.0, 0.0, 6)
        sigma = np.full(y.shape, np.nan)
        sigma[:, ::2] = 2.0
        y = y + np.where(np.isnan(sigma), 0.1, sigma) * rng.normal(size=y.shape)
        prior = learn_prior(LEVEL, levels(y, sigma))
        assert prior.noise == pytest.approx(0.1, rel=3 / (2 * 60 * 3) ** 0.5)
        assert prior.covariance[0, 0] ** 0.5 == pytest.approx(np.std(y[:, 1::2].mean(1), ddof=1), rel=0.03)

    def test_specimens_of_very_different_sigmas_are_weighed_by_them(self):
        """Exact marginal likelihood of known variances: mean by weights 1 / (C + sigma^2 / readings)."""
        rng = np.random.default_rng(7)
        sigma = np.where(np.arange(60) % 2, 0.1, 5.0)[:, None] * np.ones((60, 4))
        y = balanced(60, 4, 1.0, 0.0, 7) + sigma * rng.normal(size=sigma.shape)
        prior = learn_prior(LEVEL, levels(y, sigma), tolerance=1e-6, steps=2000)
        weight = 1 / (prior.covariance[0, 0] + sigma[:, 0] ** 2 / 4)
        assert prior.coefficients[0, 0] == pytest.approx((weight * y.mean(1)).sum() / weight.sum(), abs=0.02)
        assert prior.covariance[0, 0] == pytest.approx(y[1::2].mean(1).var(ddof=1), rel=0.2)

    def test_a_past_where_every_point_has_a_sigma_lends_their_size_to_new_points(self):
        y = balanced(30, 4, 1.0, 0.3, 8)
        assert learn_prior(LEVEL, levels(y, np.full(y.shape, 0.3))).noise == pytest.approx(0.3)

    def test_a_common_sigma_equal_to_the_learned_noise_changes_nothing(self):
        y = balanced(30, 4, 1.0, 0.3, 9)
        free = learn_prior(LEVEL, levels(y), tolerance=1e-6, steps=1000)
        given = learn_prior(LEVEL, levels(y, np.full(y.shape, free.noise)), tolerance=1e-6, steps=1000)
        assert given.covariance[0, 0] == pytest.approx(free.covariance[0, 0], rel=1e-3)


class TestShared:
    LAW = Law(
        "decay",
        lambda t, height, rate: height * torch.exp(-rate * t),
        {"height": Parameter("V"), "rate": Parameter("1/s", "positive", shared=True)},
        Axis("time", "s"),
        Axis("signal", "V"),
    )

    def past(self, seed: int, specimens: int = 40) -> list[Curve]:
        rng = np.random.default_rng(seed)
        t = np.linspace(0.0, 4.0, 6)
        height = rng.normal(3.0, 1.0, (specimens, 1))
        y = height * np.exp(-0.7 * t) + 0.1 * rng.normal(size=(specimens, 6))
        return [Curve(f"S{i}", t, row) for i, row in enumerate(y)]

    def test_it_is_recovered_within_its_standard_error(self):
        """Over 20 pasts the errors in units of the standard error must look standard normal."""
        z, first = [], None
        for seed in range(20):
            prior = learn_prior(self.LAW, self.past(seed))
            value, error = prior.shared["rate"]
            first = first or (value, error)
            z.append((value - np.log(0.7)) / error)
        assert abs(np.mean(z)) < 3 / 20**0.5 and 0.6 < np.std(z) < 1.5
        assert 0.0 < first[1] < 0.05

    def test_the_standard_error_is_that_of_all_specimens_solved_together(self):
        """Least squares of one rate and forty heights; the population's pull on the heights is negligible here."""
        curves = self.past(0)
        value, error = learn_prior(self.LAW, curves).shared["rate"]
        t, y = curves[0].x, np.array([curve.y for curve in curves])
        shape = np.exp(-np.exp(value) * t)
        height = y @ shape / (shape @ shape)
        by_rate = -height[:, None] * shape * np.exp(value) * t
        left = by_rate - np.outer(by_rate @ shape / (shape @ shape), shape)
        assert error == pytest.approx(0.1 / np.sqrt((left**2).sum()), rel=0.1)

    def test_its_name_stands_in_the_print_and_not_among_the_fast(self):
        prior = learn_prior(self.LAW, self.past(1))
        assert prior.covariance.shape == (1, 1) and "one value for all (with its 90 % interval): rate" in str(prior)


class TestConditions:
    def curves(self, seed: int, **extra: np.ndarray) -> list[Curve]:
        rng = np.random.default_rng(seed)
        x = np.arange(4.0)
        temperature = rng.uniform(400.0, 600.0, 80)
        a = 1.0 + 0.02 * (temperature - 500.0) + 0.5 * rng.normal(size=80)
        y = a[:, None] + 0.2 * rng.normal(size=(80, 4))
        given = {"temperature": temperature, **extra}
        return [Curve(f"S{i}", x, y[i], conditions={n: v[i] for n, v in given.items()}) for i in range(80)]

    def test_the_slope_is_recovered_and_the_spread_is_what_it_leaves(self):
        prior = learn_prior(LEVEL, self.curves(0), conditions=("temperature",))
        slope = prior.coefficients[1, 0] / prior.covariates.scale[0]
        assert slope == pytest.approx(0.02, abs=3 * 0.5 / (80**0.5 * prior.covariates.scale[0]))
        assert prior.covariance[0, 0] ** 0.5 == pytest.approx(0.5, rel=3 / 160**0.5)
        assert prior.gaussian(prior.design([{"temperature": 500.0}])).mean[0, 0] == pytest.approx(1.0, abs=0.2)

    def test_it_is_ordinary_least_squares_on_the_means(self):
        curves = self.curves(1)
        prior = learn_prior(LEVEL, curves, conditions=("temperature",), tolerance=1e-6, steps=1000)
        temperature = [curve.conditions["temperature"] for curve in curves]
        slope, _ = np.polyfit(temperature, [curve.y.mean() for curve in curves], 1)
        assert prior.coefficients[1, 0] / prior.covariates.scale[0] == pytest.approx(slope, rel=1e-3)

    def test_without_the_condition_the_spread_holds_it(self):
        curves = self.curves(0)
        with_it, without = learn_prior(LEVEL, curves, conditions=("temperature",)), learn_prior(LEVEL, curves)
        assert without.covariance[0, 0] > 3 * with_it.covariance[0, 0]

    @pytest.mark.parametrize(("extra", "conditions", "message"), [
        ({}, ("pressure",), "specimen S0 has no condition 'pressure'; it has temperature"),
        ({"batch": np.full(80, 7.0)}, ("temperature", "batch"), "condition 'batch' is 7 for every specimen"),
    ])  # fmt: skip
    def test_conditions_that_cannot_be_used_are_refused_by_name(self, extra, conditions, message):
        with pytest.raises(ValueError, match=message):
            learn_prior(LEVEL, self.curves(2, **extra), conditions=conditions)

    def test_conditions_that_determine_each_other_are_refused_by_name(self):
        celsius = np.array([curve.conditions["temperature"] for curve in self.curves(3)])
        with pytest.raises(ValueError, match="the conditions temperature, kelvin determine each other"):
            learn_prior(LEVEL, self.curves(3, kelvin=celsius + 273.15), conditions=("temperature", "kelvin"))


@pytest.fixture(scope="module")
def ragged(simulate):
    """Return forty alloys of three to eleven points each, at times of their own."""
    rng = np.random.default_rng(10)
    times = [np.sort(rng.uniform(0.1, 3.0, rng.integers(3, 12))) for _ in range(40)]
    return simulate(40, seed=10, times=times)[1]


class TestInvariances:
    def same(self, a, b, rtol=1e-12):
        np.testing.assert_allclose(a.coefficients, b.coefficients, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(a.covariance, b.covariance, rtol=rtol, atol=rtol)
        assert a.noise == pytest.approx(b.noise, rel=rtol)

    def test_the_same_data_give_the_same_numbers(self, jmak, ragged):
        self.same(learn_prior(jmak, ragged), learn_prior(jmak, ragged), rtol=0.0)

    def test_the_order_of_the_specimens_does_not_matter(self, jmak, ragged):
        self.same(learn_prior(jmak, ragged), learn_prior(jmak, ragged[::-1]), rtol=1e-6)

    def test_padding_does_not_matter(self, jmak, ragged):
        """A point without weight (sigma of 1e9) lengthens every curve's batch, and teaches nothing."""
        longest = max(ragged, key=lambda curve: len(curve.x))
        x = np.append(longest.x, np.linspace(3.1, 4.0, 5))
        sigma = np.append(np.full(len(longest.x), np.nan), np.full(5, 1e9))
        longer = Curve(longest.name, x, np.append(longest.y, np.ones(5)), sigma)
        self.same(
            learn_prior(jmak, ragged), learn_prior(jmak, [longer if c is longest else c for c in ragged]), rtol=1e-3
        )

    def test_the_unit_of_x_moves_the_rates_and_nothing_else(self, jmak, ragged):
        minutes = [replace(curve, x=curve.x / 60) for curve in ragged]
        a, b = learn_prior(jmak, ragged, tolerance=1e-5), learn_prior(jmak, minutes, tolerance=1e-5)
        assert b.coefficients[0, 0] - a.coefficients[0, 0] == pytest.approx(np.log(60), abs=0.01)
        np.testing.assert_allclose(b.covariance, a.covariance, rtol=0.02, atol=1e-3)
        assert b.noise == pytest.approx(a.noise, rel=0.01)

    def test_specimens_as_curves_or_as_a_list_are_the_same(self, jmak, ragged):
        self.same(
            learn_prior(jmak, ragged), learn_prior(jmak, Curves(ragged, Axis("time", "s"), Axis("fraction"))), rtol=0.0
        )

    def test_a_first_guess_does_not_change_where_it_ends(self, jmak, ragged):
        guessed = replace(jmak, first_guess=lambda x, y: {"k": 0.5 / np.median(x), "n": 1.5})
        a, b = learn_prior(jmak, ragged, tolerance=1e-5), learn_prior(guessed, ragged, tolerance=1e-5)
        self.same(a, b, rtol=0.01)


class TestDiscrepancy:
    def family(self, smooth: float, seed: int) -> list[Curve]:
        """Return lines with scatter 0.1 and, each its own, a sine of random phase."""
        rng = np.random.default_rng(seed)
        x = np.linspace(0.0, 1.0, 30)
        a, b, phase = rng.normal(size=(3, 50, 1))
        wave = smooth * 2**0.5 * np.sin(2 * np.pi * (1.5 * x + 3 * phase))
        y = a + b * x + wave + 0.1 * rng.normal(size=(50, 30))
        return [Curve(f"S{i}", x, row) for i, row in enumerate(y)]

    @pytest.mark.parametrize("seed", range(6))
    def test_pure_scatter_has_none(self, line, seed):
        assert learn_prior(line, self.family(0.0, seed)).family.discrepancy is None

    @pytest.mark.parametrize("seed", range(4))
    def test_few_points_a_specimen_are_not_taken_for_smooth(self, jmak, simulate, seed):
        """Two parameters bend to four points and take the scatter's differences with them: that is no discrepancy."""
        curves = simulate(200, seed=seed, times=np.array([0.3, 0.7, 1.1, 1.6]))[1]
        assert learn_prior(jmak, curves).family.discrepancy is None

    def test_of_each_specimen_it_is_told_from_scatter(self, line):
        """The line takes part of the sine; what is left is each specimen's own, and the noise is that of a reading."""
        prior = learn_prior(line, self.family(0.2, 7))
        found = prior.family.discrepancy
        assert prior.noise == pytest.approx(0.1, rel=0.1)
        assert found is not None and found.covariance.any() and not found.mean.any()
        assert "model discrepancy" in str(prior)

    def test_learning_that_does_not_come_to_rest_is_told(self, line, monkeypatch):
        monkeypatch.setattr(structure, "LAST_ROUNDS", 1)
        with pytest.warns(UserWarning, match="has not come to rest"):
            prior = learn_prior(line, self.family(0.2, 7))
        assert not prior.converged and "NOT CONVERGED" in str(prior)

    def test_a_past_of_which_no_mixed_model_can_be_computed_is_learned_all_the_same(self, line, monkeypatch):
        def impossible(*_: object, **__: object) -> None:
            raise torch.linalg.LinAlgError("not positive definite")

        monkeypatch.setattr(model_selection, "choose", impossible)
        assert learn_prior(line, self.family(0.0, 0)).converged
        with pytest.raises(ValueError, match="proportional noise cannot be learned from this past"):
            learn_prior(line, self.family(0.0, 0), noise="proportional")


class TestErrorModel:
    def curves(self, jmak, sd, seed: int, count: int = 60) -> list[Curve]:
        rng, times = np.random.default_rng(seed), np.linspace(0.1, 3.0, 30)
        k, n = np.exp(0.3 * rng.standard_normal(count)), 2.0 + 0.3 * rng.standard_normal(count)
        mean = 1.0 - np.exp(-((k[:, None] * times) ** n[:, None]))
        return [Curve(f"A{i}", times, m + sd(m) * rng.standard_normal(30)) for i, m in enumerate(mean)]

    @pytest.mark.parametrize("seed", range(3))
    def test_scatter_that_grows_with_the_mean_is_found_and_is_no_outlier(self, jmak, seed):
        prior = learn_prior(jmak, self.curves(jmak, lambda m: np.hypot(0.02, 0.15 * m), seed))
        family = prior.family
        assert family.error_model.kind != "constant" and family.outliers is None and family.discrepancy is None
        level = np.array([0.1, 0.5, 1.0])
        sd = family.noise * family.error_model.relative_sd(torch.from_numpy(level)).numpy()
        np.testing.assert_allclose(sd, np.hypot(0.02, 0.15 * level), rtol=0.2)

    @pytest.mark.parametrize("seed", range(3))
    def test_even_scatter_stays_constant(self, jmak, seed):
        assert learn_prior(jmak, self.curves(jmak, lambda m: 0.02 + 0.0 * m, seed)).family.error_model.constant

    def test_it_can_be_insisted_on(self, jmak):
        curves = self.curves(jmak, lambda m: 0.02 + 0.0 * m, 0, 12)
        assert learn_prior(jmak, curves, noise="proportional").family.error_model.kind == "proportional"
        growing = self.curves(jmak, lambda m: 0.15 * m, 0, 30)
        assert learn_prior(jmak, growing, noise="constant").family.error_model.constant
        with pytest.raises(ValueError, match='noise is "auto" or one of constant, proportional, combined, power'):
            learn_prior(jmak, curves, noise="gaussian")


class TestGroups:
    def test_are_named_in_three_ways_to_the_same_prior(self, jmak, simulate):
        batches = [f"b{i % 4}" for i in range(24)]
        curves = [replace(c, conditions={"batch": b}) for c, b in zip(simulate(24, seed=0)[1], batches, strict=True)]
        named = dict(zip((c.name for c in curves), batches, strict=True))
        found = [learn_prior(jmak, curves, groups=groups) for groups in ("batch", batches, named)]
        for other in found[1:]:
            np.testing.assert_array_equal(other.covariance, found[0].covariance)
        assert found[0].learned.groups == named and set(found[0].learned.coverage) == {"b0", "b1", "b2", "b3"}
        assert "each group left out in turn" in str(found[0])

    def test_of_batches_that_differ_the_fits_of_a_new_one_are_wider(self, jmak):
        rng, times = np.random.default_rng(0), np.linspace(0.2, 3.0, 15)
        batch = np.arange(30) // 6
        k = np.exp(0.5 * rng.standard_normal(5)[batch] + 0.1 * rng.standard_normal(30))
        y = 1.0 - np.exp(-((k[:, None] * times) ** 2.0)) + 0.02 * rng.standard_normal((30, 15))
        curves = [Curve(f"A{i}", times, row) for i, row in enumerate(y)]
        alone, grouped = (learn_prior(jmak, curves, groups=g) for g in (None, list(map(str, batch))))
        assert grouped.family.between is not None and alone.family.between is None
        widths = [float(p.population(np.ones((1, 1))).variance()[0, 0]) for p in (alone, grouped)]
        assert widths[1] > widths[0]

    def test_a_specimen_without_a_group_is_named(self, jmak, simulate):
        curves = simulate(6, seed=0)[1]
        with pytest.raises(ValueError, match="has no condition 'batch' to group it by"):
            learn_prior(jmak, curves, groups="batch")
        with pytest.raises(ValueError, match="groups has 2 labels for 6 curves"):
            learn_prior(jmak, curves, groups=["a", "b"])
        for missing in (None, float("nan"), " ", pd.NA):
            with pytest.raises(ValueError, match=r"has no group, its label is .*; name one, of its own if"):
                learn_prior(jmak, curves, groups=["a", "b", "a", "b", "a", missing])


class TestDoor:
    def test_too_few_specimens_are_refused_with_how_many_it_takes(self, jmak, simulate):
        with pytest.raises(ValueError, match="needs at least 3 specimens for 2 parameters and 0 conditions; got 2"):
            learn_prior(jmak, simulate(2, seed=0)[1])

    def test_no_specimens_are_refused(self, jmak):
        with pytest.raises(ValueError, match="there are no curves"):
            learn_prior(jmak, [])

    def test_curves_in_another_unit_are_refused(self, jmak, simulate):
        curves = Curves(simulate(9, seed=0)[1], Axis("time", "min"), Axis("fraction"))
        with pytest.raises(ValueError, match="curves are in min, law JMAK expects s"):
            learn_prior(jmak, curves)

    def test_running_out_of_steps_warns_and_is_remembered(self, jmak, simulate):
        with pytest.warns(UserWarning, match="no fixed point after 2 iterations"):
            prior = learn_prior(jmak, simulate(20, seed=0, points=4)[1], steps=2)
        assert not prior.converged and "NOT CONVERGED" in str(prior)

    def test_a_parameter_that_all_specimens_share_is_named_where_its_variance_keeps_the_iteration_going(self):
        def fn(t, a, k, b):
            return a * torch.exp(-k * t) + b

        positive = Parameter(support="positive")
        guess = {"a": 1.0, "k": 0.5, "b": 0.2}
        law = Law("decay, offset", fn, dict.fromkeys("akb", positive), first_guess=lambda t, y: guess)
        rng, t = np.random.default_rng(1), np.linspace(0.0, 10.0, 12)
        a, k = np.exp(np.log([[2.0], [0.5]]) + 0.3 * rng.standard_normal((2, 20)))
        y = a[:, None] * np.exp(-k[:, None] * t) + 0.3 + 0.002 * rng.standard_normal((20, 12))
        curves = [Curve(f"S{i}", t, row, 0.02) for i, row in enumerate(y)]  # agree better than their sigma says
        with pytest.warns(
            UserWarning, match=r"no fixed point after 100 iterations; the standard deviation of b between"
        ):
            learn_prior(law, curves, steps=100)
        shared = replace(law, parameters={**law.parameters, "b": replace(positive, shared=True)})
        prior = learn_prior(shared, curves, steps=100)  # as advised: a fixed point
        assert prior.converged
        assert float(prior.family.shared["b"].exp()) == pytest.approx(0.3, abs=0.01)

    def test_a_past_without_noise_is_learned(self, jmak, simulate):
        prior = learn_prior(jmak, simulate(40, seed=2, times=np.linspace(0.3, 2.0, 8), noise=0.0)[1])
        assert 0.0 < prior.noise < 1e-4 and np.isfinite(prior.covariance).all()

    def test_specimens_that_are_all_alike_are_learned(self, line):
        rng = np.random.default_rng(11)
        x = np.arange(5.0)
        curves = [Curve(f"S{i}", x, 1.0 + 2.0 * x + 0.1 * rng.normal(size=5)) for i in range(30)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # EM is slow where a variance is zero
            prior = learn_prior(line, curves)
        np.testing.assert_allclose(prior.coefficients[0], [1.0, 2.0], atol=0.05)
        assert np.sqrt(np.diag(prior.covariance)).max() < 0.1

    def test_one_specimen_far_off_is_no_crash(self, jmak, simulate):
        curves = simulate(30, seed=3, times=np.linspace(0.1, 3.0, 8))[1]
        odd = Curve("odd", curves[0].x, np.zeros(8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            prior = learn_prior(jmak, [*curves, odd])
        assert np.isfinite(prior.covariance).all() and prior.noise < 0.05

    def test_torchs_random_state_is_left_alone(self, jmak, simulate):
        state = torch.random.get_rng_state()
        learn_prior(jmak, simulate(10, seed=4, points=8)[1])
        assert torch.random.get_rng_state().equal(state)


class TestTooLittle:
    def test_one_point_a_specimen_is_refused_without_its_sigma(self, jmak):
        curves = [Curve(f"o{i}", [20.0 + i], [0.05]) for i in range(5)]
        with pytest.raises(ValueError, match="the noise cannot be told from the spread"):
            learn_prior(jmak, curves)

    def test_two_points_a_specimen_suffice_where_their_sigma_is_given(self, jmak, simulate, truth):
        curves = [Curve(c.name, c.x, c.y, 0.02) for c in simulate(200, seed=4, times=np.array([0.5, 1.0]))[1]]
        prior = learn_prior(jmak, curves)
        sd = np.sqrt(np.diag(truth.covariance))
        np.testing.assert_allclose((prior.coefficients[0] - truth.coefficients[0]) / sd, 0.0, atol=0.25)

    def test_a_law_that_is_nowhere_finite_is_named(self):
        law = Law("odd", lambda t, k: torch.log(-k * t), {"k": Parameter(support="positive")})
        with pytest.raises(ValueError, match="law odd is not finite at specimen 'a0'"):
            learn_prior(law, [Curve(f"a{i}", [1.0, 2.0, 3.0], [0.1, 0.2, 0.3]) for i in range(5)])

    def test_two_specimens_of_one_name_are_refused(self, line):
        curves = [Curve("A", [0.0, 1.0, 2.0], [0.0, 1.0, 2.0 + i]) for i in range(4)]
        with pytest.raises(ValueError, match="two specimens are named 'A'"):
            learn_prior(line, curves)

    def test_a_condition_keeps_its_unit(self, line):
        rng = np.random.default_rng(0)
        curves = [
            Curve(f"a{i}", [0.0, 1.0, 2.0], i + rng.normal(size=3), conditions={"T [degC]": 20.0 + i}) for i in range(8)
        ]
        prior = learn_prior(line, curves, conditions=["T"])
        assert prior.conditions == ("T [degC]",)
        x, y = [0.0, 1.0], [3.0, 3.1]
        bare = Calibrator(line, prior).fit(x, y, conditions={"T": 23.0})
        assert bare["level"].value == Calibrator(line, prior).fit(x, y, conditions={"T [degC]": 23.0})["level"].value
        with pytest.raises(ValueError, match=r"has no condition 'T \[degC\]'.*given are T \[K\]"):
            Calibrator(line, prior).fit(x, y, conditions={"T [K]": 296.0})


def relaxing(unit: float, *, shared: bool = False) -> tuple[Law, list[Curve]]:
    """Return a law whose offset is a real parameter in the unit of y, and a past measured in this unit."""
    tau, rest = Parameter("s", "positive", shared), Parameter("", shared=shared)
    parameters = {"size": Parameter("", "positive"), "tau": tau, "rest": rest}

    def guess(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return {"size": float(np.ptp(y)), "tau": float(x.mean()), "rest": float(y.min())}

    law = Law("relaxing", lambda x, size, tau, rest: size * torch.exp(-x / tau) + rest, parameters, first_guess=guess)
    rng, x = np.random.default_rng(0), np.array([0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    own = rng.standard_normal((24, 3)) * ([0.3, 0.0, 0.0] if shared else [0.3, 0.3, 0.1])
    y = [np.exp(a) * np.exp(-x / (1.5 * np.exp(b))) + 0.3 + c + 0.02 * rng.standard_normal(8) for a, b, c in own]
    return law, [Curve(f"S{i}", x, unit * row) for i, row in enumerate(y)]


class TestUnits:
    @pytest.mark.parametrize("unit", [1e-9, 1e9])
    def test_a_real_parameter_is_learned_alike_in_any_unit_of_y(self, unit):
        plain, scaled = (learn_prior(*relaxing(u)) for u in (1.0, unit))
        size = np.array([1.0, 1.0, unit])
        ours = scaled.covariance / np.outer(size, size)
        np.testing.assert_allclose(ours, plain.covariance, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(scaled.coefficient_errors / size, plain.coefficient_errors, rtol=1e-3)
        assert scaled.noise / unit == pytest.approx(plain.noise, rel=1e-3)

    @pytest.mark.parametrize("unit", [1e-9, 1e9])
    def test_shared_parameters_keep_their_standard_errors_in_any_unit_of_y(self, unit):
        plain, scaled = (learn_prior(*relaxing(u, shared=True)) for u in (1.0, unit))
        for name, size in (("tau", 1.0), ("rest", unit)):
            ours = np.array(scaled.shared[name]) / size
            np.testing.assert_allclose(ours, plain.shared[name], rtol=1e-3, err_msg=name)


class TestSpecimensExactlyAlike:
    @pytest.mark.parametrize("components", ["auto", 2])
    def test_they_are_one_component(self, components):
        x = np.array([0.2, 0.5, 1.0, 2.0, 4.0])
        law = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
        past = [Curve(f"S{i}", x, np.exp(-x / 1.5) + 0.01 * np.sin(17.0 * x)) for i in range(12)]
        prior = learn_prior(law, past, components=components)
        assert len(prior.components) == 1
        assert prior.to_frame().loc["tau", "median"] == pytest.approx(1.5, rel=0.02)


class TestWhatIsRefused:
    @pytest.mark.parametrize("steps", [0, 2.5, "many"])
    def test_steps_that_are_no_number_of_steps(self, steps):
        with pytest.raises(ValueError, match="steps must be a whole number, 1 or more"):
            learn_prior(LEVEL, levels(balanced(6, 4, 1.0, 0.1, 0)), steps=steps)

    def test_a_past_of_zeros(self):
        with pytest.raises(ValueError, match="y is 0 at every point"):
            learn_prior(LEVEL, levels(np.zeros((6, 4))))


def test_the_number_of_components_may_be_numpys_own_integer():
    prior = learn_prior(LEVEL, levels(balanced(12, 4, 1.0, 0.1, 0)), components=np.int64(1))
    assert len(prior.components) == 1
