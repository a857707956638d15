"""Populations of several components: closed forms, how many are found, what is printed, drawn and kept."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Learned
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.calibration.posterior.posterior import posterior
from simulators.kinetics import TWO_KINDS, two_kinds

TIMES = np.linspace(0.1, 3.0, 12)


def kinds_of_alloys(specimens: int, seed: int, times: np.ndarray = TIMES):
    family = two_kinds(specimens, rng=np.random.default_rng(seed), times=times)
    return family, [Curve(f"A{i}", times, y) for i, y in enumerate(family.fractions)]


def mixture(law: Law, weights: list[float], coefficients: np.ndarray, covariances: np.ndarray) -> Family:
    parts = (torch.from_numpy(np.array(part, dtype=float)) for part in (weights, coefficients, covariances))
    return Family(law, *parts, 0.02)


@pytest.fixture(scope="module")
def both(jmak) -> Prior:
    """The two kinds of alloys from which the simulator draws."""
    means, covariances = (np.array(part) for part in zip(*TWO_KINDS, strict=True))
    return Prior(mixture(jmak, [0.5, 0.5], means[:, None], covariances))


@pytest.fixture(scope="module")
def found(jmak) -> Prior:
    return learn_prior(jmak, kinds_of_alloys(60, 0, np.linspace(0.1, 3.0, 30))[1])


class TestDensity:
    def mixture(self) -> Mixture:
        rng = np.random.default_rng(0)
        covariances = [np.diag([0.5, 2.0]), np.array([[1.0, 0.6], [0.6, 0.5]])]
        means = torch.from_numpy(rng.normal(size=(3, 2, 2)))
        return Mixture(
            torch.tensor([0.3, 0.7], dtype=torch.float64).log(), means, torch.from_numpy(np.array(covariances))
        )

    def test_it_is_the_weighted_sum_of_the_components(self):
        mixture, nodes = self.mixture(), torch.from_numpy(np.random.default_rng(1).normal(size=(3, 5, 2)))
        for i in range(3):
            parts = [
                stats.multivariate_normal.pdf(nodes[i], mixture.means[i, k], mixture.covariances[k]) for k in (0, 1)
            ]
            np.testing.assert_allclose(mixture.log_density(nodes)[i].exp(), 0.3 * parts[0] + 0.7 * parts[1], rtol=1e-12)
            expected = 0.3 * parts[0] / (0.3 * parts[0] + 0.7 * parts[1])
            np.testing.assert_allclose(mixture.memberships(nodes)[0, i], expected, rtol=1e-12)

    def test_its_variance_is_that_of_its_draws(self):
        mixture, rng = self.mixture(), np.random.default_rng(2)
        first = rng.random(200_000) < 0.3
        draws = [
            rng.multivariate_normal(mixture.means[1, k].numpy(), mixture.covariances[k].numpy(), 200_000)
            for k in (0, 1)
        ]
        drawn = np.where(first[:, None], *draws)
        np.testing.assert_allclose(mixture.variance()[1].numpy(), drawn.var(0), rtol=0.02)


class TestPosterior:
    """y = level + slope x: posterior and evidence under each component are textbook formulas, as is its probability."""

    def linear(self, line, apart: float):
        rng = np.random.default_rng(3)
        x = np.tile([0.0, 1.0, 2.0], (12, 1))
        means = np.array([[0.0, 0.0], [apart, 0.5]])
        covariances = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.4]]])
        theta = np.stack([rng.multivariate_normal(means[i % 2], covariances[i % 2]) for i in range(12)])
        y = theta[:, :1] + theta[:, 1:] * x + 0.4 * rng.normal(size=x.shape)
        shares, design = np.array([0.25, 0.75]), np.column_stack([np.ones(3), x[0]])
        evidence, after = np.empty((12, 2)), np.empty((12, 2, 2))
        for k in (0, 1):
            spread = design @ covariances[k] @ design.T + 0.16 * np.eye(3)
            evidence[:, k] = shares[k] * stats.multivariate_normal.pdf(y, design @ means[k], spread)
            after[:, k] = means[k] + (y - design @ means[k]) @ np.linalg.solve(spread, design @ covariances[k])
        believed = evidence / evidence.sum(1, keepdims=True)
        log_shares = torch.from_numpy(np.log(shares))
        prior = Mixture(log_shares, torch.from_numpy(means).expand(12, 2, 2), torch.from_numpy(covariances))
        curves = [Curve(f"S{i}", x[i], row) for i, row in enumerate(y)]
        return (
            posterior(
                Family.gaussian(line, np.zeros((1, 2)), np.eye(2), 0.4), prior, measured(line, curves).points(0.4)
            ),
            prior,
            believed,
            after,
            evidence,
        )

    @pytest.mark.parametrize("apart", [0.5, 2.0, 6.0])
    def test_each_component_is_as_probable_as_its_closed_form_says(self, line, apart):
        found, prior, believed, after, evidence = self.linear(line, apart)
        members = (prior.memberships(found.nodes) * found.weights).sum(-1).T
        np.testing.assert_allclose(members, believed, atol=0.02)
        np.testing.assert_allclose(found.log_evidence, np.log(evidence.sum(1)), atol=0.03)
        np.testing.assert_allclose(found.mean, (believed[..., None] * after).sum(1), atol=0.03)

    def test_a_mixture_of_one_is_the_gaussian_to_rounding(self, line):
        rng = np.random.default_rng(4)
        curves = [Curve(f"S{i}", [0.0, 1.0, 2.0], rng.normal(size=3)) for i in range(5)]
        gaussian = Gaussian(torch.zeros(5, 2).double(), torch.eye(2).double())
        points = measured(line, curves).points(0.3)
        family = Family.gaussian(line, np.zeros((1, 2)), np.eye(2), 0.3)
        for one, other in zip(
            posterior(family, gaussian, points), posterior(family, Mixture.of(gaussian), points), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)

    def test_two_equal_components_are_one(self, jmak, truth, simulate):
        halves = Prior(mixture(jmak, [0.5, 0.5], 2 * [truth.coefficients], 2 * [truth.covariance]))
        curves = simulate(40, seed=5, points=4)[1]
        one, two = (Calibrator(jmak, p).fit_many(curves) for p in (truth, halves))
        for name in ("k", "n"):
            for part in ("value", "lower", "upper"):
                a, b = (fits.estimates()[name][part] for fits in (one, two))
                error = (a - b) / one.estimates()[name]["std"]
                assert np.sqrt((error**2).mean()) < 2**0.5 * 0.12  # both are that far from the grid

    def test_intervals_cover_where_the_posterior_has_two_hills(self, jmak, both):
        family, curves = kinds_of_alloys(1000, 6, np.array([0.2, 0.4, 0.6]))
        fits = Calibrator(jmak, both).fit_many(curves)
        for name in ("k", "n"):
            found, true = fits.estimates()[name], getattr(family, name)
            assert abs(((found["lower"] <= true) & (true <= found["upper"])).mean() - 0.9) < 3 * (0.09 / 1000) ** 0.5


class TestHowMany:
    @pytest.mark.parametrize("seed", range(20))
    def test_eight_alloys_of_one_kind_stay_one(self, jmak, simulate, seed):
        assert len(learn_prior(jmak, simulate(8, seed=seed, times=TIMES)[1]).components) == 1

    @pytest.mark.parametrize("seed", range(6))
    def test_twenty_alloys_of_one_kind_stay_one(self, jmak, simulate, seed):
        assert len(learn_prior(jmak, simulate(20, seed=seed, times=TIMES)[1]).components) == 1

    @pytest.mark.parametrize("seed", range(4))
    def test_two_kinds_are_found_among_twenty_alloys(self, jmak, seed):
        components = learn_prior(jmak, kinds_of_alloys(20, seed)[1]).components
        assert [round(one.weight, 1) for one in components] == [0.5, 0.5]

    def test_the_components_are_recovered_as_if_the_parameters_had_been_seen(self, found):
        family = kinds_of_alloys(60, 0, np.linspace(0.1, 3.0, 30))[0]
        assert len(found.components) == 2 and found.noise == pytest.approx(0.02, rel=0.1)
        for kind, component in enumerate(found.components):
            u = np.stack([np.log(family.k), family.n])[:, family.kind == kind]
            np.testing.assert_allclose((component.coefficients[0] - u.mean(1)) / u.std(1), 0.0, atol=0.1)
            np.testing.assert_allclose(np.sqrt(np.diag(component.covariance)) / u.std(1), 1.0, atol=0.15)

    def test_all_together_are_the_specimens_own_moments(self, found):
        past = np.array(list(found.past.values()))
        np.testing.assert_allclose(found.coefficients[0], past.mean(0), atol=0.03)
        np.testing.assert_allclose(found.covariance, np.cov(past.T), atol=0.06)
        np.testing.assert_allclose(found.coefficient_errors[0], past.std(0, ddof=1) / 60**0.5, rtol=0.05)

    def test_as_many_as_are_asked_for_are_given(self, jmak, simulate):
        curves = simulate(40, seed=1, times=TIMES)[1]
        assert len(learn_prior(jmak, curves, components=1).components) == 1
        components = learn_prior(jmak, curves, components=2).components
        assert len(components) == 2 and sum(one.weight for one in components) == pytest.approx(1.0)

    @pytest.mark.parametrize(("components", "message"), [
        (9, "9 components need 36 specimens, 4 each .* there are 8: ask for 2 at most"),
        (0, 'components must be "auto" or a whole number, 1 or more; got 0'),
        ("two", "components must be"),
        (True, "components must be"),
    ])  # fmt: skip
    def test_more_components_than_the_specimens_carry_are_refused(self, jmak, simulate, components, message):
        with pytest.raises(ValueError, match=message):
            learn_prior(jmak, simulate(8, seed=0, times=TIMES)[1], components=components)


def older(prior: Prior, law: dict) -> dict:
    """Return what the files of versions 1 and 2 hold alike of a prior set by hand, beside its means and spreads."""
    return {
        "law": law,
        "noise": prior.noise,
        "wander": 0.0,
        "conditions": {},
        "shared": {},
        "x range": [0.0, 1.0],
        "converged": True,
        "misfit": None,
        "past": {},
    }


class TestPrior:
    def test_the_print_has_a_line_on_each_component(self, both):
        text = str(both)
        assert "mixture of 2 components:" in text
        assert "component 1: 50% with k 0.7788 (0.5162 to 1.175), n 1.4 (1.153 to 1.647)" in text

    def test_a_report_says_of_which_component_the_specimen_is(self, jmak, both):
        """n = 3.4 is of the second component, and two hills are left where there is a single point."""
        sure = Calibrator(jmak, both).fit(TIMES, -np.expm1(-((1.28 * TIMES) ** 3.4)))
        assert "mixture component, as print(prior) counts them: 2 (> 99 %), 1 (< 1 %)" in str(sure)
        unsure = Calibrator(jmak, both).fit_many([Curve("A", [1.0], [0.5]), Curve("B", TIMES, sure.curve.y)])
        np.testing.assert_allclose(unsure.component_probabilities.sum(1), 1.0)
        one, other = (unsure[name].batch.component_probabilities[0] for name in "AB")
        assert 0.05 < one[0] < 0.95 and other[1] > 0.99

    def test_the_table_holds_the_stated_share_of_the_draws(self, both):
        frame, drawn = both.to_frame(level=0.8), both.sample(20_000, np.random.default_rng(7))
        for name in ("k", "n"):
            row = frame.loc[name]
            assert drawn[name].between(row.lower, row.upper).mean() == pytest.approx(0.8, abs=0.012)
            assert (drawn[name] < row["median"]).mean() == pytest.approx(0.5, abs=0.015)
        assert drawn["n"].between(2.0, 2.8).mean() < 0.01  # nothing between the components, where one Gaussian has most

    def test_a_file_keeps_the_components_to_the_last_bit(self, jmak, found, tmp_path):
        loaded = Prior.load(found.save(tmp_path / "prior.json"), jmak)
        assert str(loaded) == str(found)
        for one, other in zip(loaded.components, found.components, strict=True):
            assert one.weight == other.weight
            np.testing.assert_array_equal(one.coefficients, other.coefficients)
            np.testing.assert_array_equal(one.covariance, other.covariance)

    def test_a_file_of_version_1_is_read(self, jmak, truth, tmp_path):
        path = truth.save(tmp_path / "prior.json")
        content = {
            **older(truth, json.loads(path.read_text())["law"]),
            "format": "scimeta prior, version 1",
            "coefficients": truth.coefficients.tolist(),
            "covariance": truth.covariance.tolist(),
        }
        path.write_text(json.dumps(content))
        assert str(Prior.load(path, jmak)) == str(truth)

    def test_the_kinds_in_a_file_of_version_2_are_its_components(self, jmak, both, tmp_path):
        path = both.save(tmp_path / "prior.json")
        content = {
            **older(both, json.loads(path.read_text())["law"]),
            "format": "scimeta prior, version 2",
            "coefficients": both.coefficients.tolist(),
            "covariance": both.covariance.tolist(),
            "modes": [
                {"share": c.weight, "coefficients": c.coefficients.tolist(), "covariance": c.covariance.tolist()}
                for c in both.components
            ],
            "outliers": None,
            "coefficient errors": None,
            "discrepancy": None,
            "objective": "likelihood",
        }
        path.write_text(json.dumps(content))
        old = Prior.load(path, jmak)
        assert str(old) == str(both)
        for one, other in zip(old.components, both.components, strict=True):
            np.testing.assert_array_equal(one.covariance, other.covariance)

    def test_a_short_past_widens_each_component_by_its_own_specimens(self, both):
        """Five of ten each: 6/5 for the mean, 3 / (3 - 2) for the covariance, by the least degrees of freedom."""
        past = replace(both, learned=Learned({f"A{i}": np.zeros(2) for i in range(10)}, (0.0, 1.0)))
        widened, plain = (p.population(p.design([{}])).covariances for p in (past, both))
        np.testing.assert_allclose(widened, 6 / 5 * 3.0 * plain)

    @pytest.mark.parametrize(("weight", "coefficients", "covariance", "message"), [
        (0.4, np.zeros((1, 2)), np.eye(2), "weights do not add up to 1"),
        (1.5, np.zeros((1, 2)), np.eye(2), "component 1 needs a weight between 0 and 1; it is 1.5"),
        (0.5, np.zeros((2, 2)), np.eye(2), r"component 1: coefficients has shape \(2, 2\); expected \(1, 2\)"),
        (0.5, np.full((1, 2), np.nan), np.eye(2), "component 1: coefficients is not finite"),
        (0.5, np.zeros((1, 2)), -np.eye(2), "component 1: the covariance is not positive definite"),
    ])  # fmt: skip
    def test_components_that_cannot_be_are_refused(self, jmak, weight, coefficients, covariance, message):
        other = np.zeros_like(coefficients)
        with pytest.raises(ValueError, match=message):
            Prior(mixture(jmak, [weight, 0.5], [coefficients, other], [covariance, np.eye(2)]))
