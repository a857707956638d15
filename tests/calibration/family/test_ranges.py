"""Outside the past: what a prior expects there is wider, and the fit says that it is extrapolated."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import tails
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.cli import main
from scimeta.domains.kinetics import JMAK

RATE = Law(
    "rate",
    lambda t, k: torch.exp(-k * t),
    {"k": Parameter("1/s", "positive")},
    x=Axis("time", "s"),
    y=Axis("signal"),
)
LEVEL = Law("level", lambda x, a: a + 0.0 * x, {"a": Parameter()})
TIMES = np.linspace(1.0, 9.0, 5)
Z = Covariates(("z",), [0.0], [1.0])


def rates(count: int, seed: int, temperatures: tuple[float, float] = (40.0, 50.0)) -> list[Curve]:
    """Specimens whose ln k falls by 0.1 a degree, with a scatter of 0.1."""
    rng, curves = np.random.default_rng(seed), []
    for i, celsius in enumerate(np.linspace(*temperatures, count)):
        k = np.exp(-1.5 - 0.1 * (celsius - 45.0) + 0.1 * rng.standard_normal())
        y = np.exp(-k * TIMES) + 0.01 * rng.standard_normal(len(TIMES))
        curves.append(Curve(f"S{i}", TIMES, y, conditions={"T [degC]": celsius, "dose": 10.0 + i}))
    return curves


@pytest.fixture(scope="module")
def prior() -> Prior:
    return learn_prior(RATE, rates(20, 0), conditions=["T"], components=1)


def fitted(prior: Prior, celsius: float, x: np.ndarray | None = None, dose: float = 15.0):
    x = TIMES[:2] if x is None else np.asarray(x, dtype=float)
    y = np.exp(-0.2 * x)
    return Calibrator(RATE, prior).fit(x, y, conditions={"T [degC]": celsius, "dose": dose}, name="B7")


class TestSpread:
    def test_of_exact_specimens_is_that_of_a_regression(self):
        """Specimens known exactly: C (1 + d' (Z'Z)^-1 d), with the variance of Student's t."""
        rng, z = np.random.default_rng(0), np.linspace(0.0, 1.0, 12)
        a = 1.0 + 2.0 * z + 0.3 * rng.standard_normal(12)
        curves = [Curve(f"S{i}", [1, 2, 3], [a[i]] * 3, sigma=1e-5, conditions={"z": z[i]}) for i in range(12)]
        prior = learn_prior(LEVEL, curves, conditions=["z"], components=1)
        far = prior.design([{"z": 0.5}, {"z": 4.0}])
        columns = np.column_stack([np.ones(12), z])
        at = np.array([[1.0, 0.5], [1.0, 4.0]])
        leverage = np.einsum("sr,rq,sq->s", at, np.linalg.inv(columns.T @ columns), at)
        variance = tails(12, 2, 1) * prior.covariance[0, 0] * (1.0 + leverage)
        np.testing.assert_allclose(prior.gaussian(far).covariance[:, 0, 0], variance, rtol=1e-5)
        np.testing.assert_allclose(prior.population(far).covariances[:, 0, 0, 0], variance, rtol=1e-5)

    def test_far_from_the_past_its_interval_holds_as_often_as_it_says(self):
        """60 families of 14, asked five ranges away; 90 %, give or take three standard errors."""
        held = []
        for seed in range(60):
            rng, z = np.random.default_rng(seed), np.linspace(0.0, 1.0, 14)
            a = 1.0 + 2.0 * z + 0.3 * rng.standard_normal(14)
            curves = [Curve(f"S{i}", [1, 2, 3], a[i] + 0.1 * rng.standard_normal(3), conditions={"z": z[i]})
                      for i in range(14)]  # fmt: skip
            found = learn_prior(LEVEL, curves, conditions=["z"], components=1)
            with pytest.warns(UserWarning, match="z = 6 lies outside the past"):
                estimate = Calibrator(LEVEL, found).fit([], [], conditions={"z": 6.0})["a"]
            held.append(estimate.lower < 13.0 + 0.3 * rng.standard_normal() < estimate.upper)
        assert abs(np.mean(held) - 0.9) < 3 * (0.9 * 0.1 / 60) ** 0.5

    def test_it_reaches_the_posterior_of_a_measured_specimen(self, prior):
        with pytest.warns(UserWarning, match="T = 75 degC"):
            far = fitted(prior, 75.0)
        assert far["k"].from_data > fitted(prior, 45.0)["k"].from_data

    def test_a_batch_gives_each_specimen_its_own(self, prior):
        curves = [Curve(n, TIMES, np.exp(-0.2 * TIMES), conditions={"T [degC]": t, "dose": 15.0})
                  for n, t in (("near", 45.0), ("far", 60.0))]  # fmt: skip
        with pytest.warns(UserWarning, match="far: T = 60"):
            both = Calibrator(RATE, prior).fit_many(curves)
            alone = [Calibrator(RATE, prior).fit_many([curve])[0] for curve in curves]
        for one, same in zip(both, alone, strict=True):
            assert one["k"].value == pytest.approx(same["k"].value, rel=1e-9)
            assert one["k"].std == pytest.approx(same["k"].std, rel=1e-9)

    def test_each_component_is_widened_by_its_own_coefficients(self):
        weights, coefficients, covariances = (
            torch.tensor(part, dtype=torch.float64)
            for part in ([0.5, 0.5], [[[0.0], [0.1]], [[2.0], [0.1]]], [[[0.04]], [[0.09]]])
        )
        own = np.stack([np.diag(errors).reshape(2, 1, 2, 1) for errors in ([0.01, 0.02], [0.03, 0.05])])
        several = Prior(Family(RATE, weights, coefficients, covariances, 0.01), Z, Learned({}, (0.0, 1.0), own))
        found = several.population(several.design([{"z": 0.0}, {"z": 3.0}])).covariances[..., 0, 0]
        np.testing.assert_allclose(found, [[0.05, 0.12], [0.23, 0.57]])

    def test_without_what_is_known_of_the_coefficients_a_prior_set_by_hand_stays_as_it_is(self):
        by_hand = Prior.by_hand(RATE, [[0.0], [0.1]], [[0.04]], 0.01, Z)
        np.testing.assert_array_equal(by_hand.gaussian(by_hand.design([{"z": 50.0}])).covariance, [[[0.04]]])

    def test_the_errors_alone_widen_too(self):
        own = np.diag([0.1**2, 0.2**2]).reshape(1, 2, 1, 2, 1)
        family = Family.gaussian(RATE, [[0.0], [0.1]], [[0.04]], 0.01)
        by_hand = Prior(family, Z, Learned({}, (0.0, 1.0), own))
        found = by_hand.gaussian(by_hand.design([{"z": 3.0}])).covariance[0, 0, 0]
        assert found == pytest.approx(0.04 + 0.1**2 + 9 * 0.2**2)

    def test_a_covariance_that_is_none_is_refused(self, prior):
        shape = r"coefficient_covariances must be covariances of shape \(1, 2, 1, 2, 1\)"
        for own in (np.diag([1.0, -1.0]).reshape(1, 2, 1, 2, 1), np.eye(2)):
            with pytest.raises(ValueError, match=shape):
                replace(prior, learned=prior.learned._replace(coefficient_covariances=own))
        with pytest.raises(ValueError, match="the range of 'T' is"):
            replace(prior, covariates=prior.covariates._replace(ranges={"T": (2.0, 1.0)}))


class TestSaid:
    @pytest.mark.parametrize(("celsius", "far"), [(75.0, "2.5"), (35.0, "0.5")])
    def test_a_condition_outside_is_named_with_its_value_and_the_range(self, prior, celsius, far):
        sentence = f"T = {celsius:g} degC lies outside the past, 40 to 50 degC, by {far} times that range: the prior is"
        with pytest.warns(UserWarning, match=f"^B7: {re.escape(sentence)}"):
            fit = fitted(prior, celsius)
        assert sentence in str(fit)

    @pytest.mark.parametrize("celsius", [40.0, 45.0, 50.0])
    def test_nothing_is_said_within_the_past(self, prior, celsius):
        assert "outside the past" not in str(fitted(prior, celsius))

    @pytest.mark.parametrize(("form", "condition"), [("1/T", "T = 75 degC"), ("T^2", "T = 75 degC")])
    def test_a_form_is_judged_by_the_condition_that_it_is_made_of(self, form, condition):
        found = learn_prior(RATE, rates(20, 1), conditions=[form], components=1)
        assert found.covariates.ranges == {"T [degC]": (40.0, 50.0)}
        with pytest.warns(UserWarning, match=f"{condition} lies outside the past, 40 to 50 degC"):
            fitted(found, 75.0)

    def test_of_several_conditions_only_those_outside_are_named(self):
        curves = rates(20, 2)
        order = np.random.default_rng(0).permutation(20)
        curves = [replace(c, conditions={**c.conditions, "dose": 10.0 + i}) for c, i in zip(curves, order, strict=True)]
        found = learn_prior(RATE, curves, conditions=["T", "log(dose)"], components=1)
        assert found.covariates.ranges == {"T [degC]": (40.0, 50.0), "dose": (10.0, 29.0)}
        with pytest.warns(UserWarning) as said:
            fit = fitted(found, 45.0, dose=100.0)
        assert [str(one.message)[:40] for one in said] == ["B7: dose = 100 lies outside the past, 10"]
        assert "T = " not in str(fit)
        with pytest.warns(UserWarning) as said:
            fitted(found, 20.0, dose=100.0)
        assert len(said) == 2

    def test_a_batch_names_its_specimens_in_one_warning(self, prior):
        curves = [Curve(n, TIMES, np.exp(-0.2 * TIMES), conditions={"T [degC]": t})
                  for n, t in (("A", 45.0), ("B", 52.0), ("C", 60.0), ("D", 53.0))]  # fmt: skip
        with pytest.warns(UserWarning) as said:
            fits = Calibrator(RATE, prior).fit_many(curves)
        (line,) = {str(one.message) for one in said}
        assert line.startswith("C: T = 60 degC lies outside")
        assert line.endswith("also outside: B, D")
        assert line in str(fits)

    def test_a_little_outside_is_in_the_report_alone(self, prior):
        assert "T = 50.4 degC lies outside the past, 40 to 50 degC" in str(fitted(prior, 50.4))
        assert "time = 10 s lies outside the past, 1 to 9 s" in str(fitted(prior, 45.0, [1.0, 10.0]))

    def test_x_far_outside_is_also_a_warning(self, prior):
        with pytest.warns(
            UserWarning, match="B7: time = 40 s lies outside the past, 1 to 9 s, by 3.9 times that range"
        ):
            fit = fitted(prior, 45.0, [1.0, 40.0])
        assert "the law is extrapolated" in str(fit)

    def test_a_prediction_and_a_next_measurement_far_outside_are_named(self, prior):
        fit = fitted(prior, 45.0)
        for ask in (lambda: fit.predict([5.0, 40.0]), lambda: fit.band([5.0, 40.0])):
            with pytest.warns(UserWarning, match="time = 40 s lies outside the past, 1 to 9 s"):
                ask()
        with pytest.warns(UserWarning, match="next measurement: time = 30 s lies outside"):
            fit.next_measurement([30.0])
        fit.predict([0.0, 9.0])
        fit.plot()

    def test_a_prior_set_by_hand_knows_no_past(self, truth, jmak):
        Calibrator(jmak, truth).fit([50.0], [0.9]).predict([500.0])

    def test_the_command_says_it(self, prior, tmp_path, capsys):
        prior.save(tmp_path / "prior.json")
        (tmp_path / "laws.py").write_text(
            "import torch\nfrom scimeta import Axis, Law, Parameter\n"
            "RATE = Law('rate', lambda t, k: torch.exp(-k * t), {'k': Parameter('1/s', 'positive')},\n"
            "           x=Axis('time', 's'), y=Axis('signal'))\n"
        )
        (tmp_path / "new.csv").write_text("time [s],signal,T [degC]\n1,0.8,75\n2,0.6,75\n")
        law = f"{tmp_path / 'laws.py'}:RATE"
        assert main(["fit", str(tmp_path / "prior.json"), str(tmp_path / "new.csv"), "--law", law]) == 0
        out, err = capsys.readouterr()
        assert "T = 75 degC lies outside the past, 40 to 50 degC" in out
        assert "scimeta: warning: new: T = 75 degC lies outside the past, 40 to 50 degC" in err


class TestFile:
    def test_keeps_ranges_and_the_coefficients_covariance(self, prior, tmp_path):
        again = Prior.load(prior.save(tmp_path / "prior.json"), RATE)
        assert again.covariates.ranges == prior.covariates.ranges == {"T [degC]": (40.0, 50.0)}
        np.testing.assert_array_equal(again.learned.coefficient_covariances, prior.learned.coefficient_covariances)
        assert str(again) == str(prior)
        assert "learned at T 40 to 50 degC, time 1 to 9 s" in str(prior)

    def test_one_of_version_2_is_read_and_widens_by_the_errors_that_it_has(self):
        path = Path(__file__).with_name("prior_version_2.json")
        old = Prior.load(path, JMAK)
        assert old.covariates.ranges == {}
        np.testing.assert_allclose(old.coefficient_errors, json.loads(path.read_text())["coefficient errors"])
        near, far = old.design([{"T [degC]": 45.0}, {"T [degC]": 200.0}])
        variance = old.gaussian(np.array([near, far])).covariance.numpy().diagonal(axis1=1, axis2=2)
        error = (far**2) @ old.coefficient_errors**2
        np.testing.assert_allclose(variance[1], tails(12, 2, 2) * (old.covariance.diagonal() + error))
        assert (variance[1] > 50 * variance[0]).all()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = Calibrator(JMAK, old).fit([20.0, 40.0], [0.25, 0.6], conditions={"T [degC]": 45.0})
        assert fit["k"].lower < fit["k"].value < fit["k"].upper


def test_the_spread_of_a_few_is_that_of_students_t():
    assert tails(12, 2, 1) == pytest.approx(stats.t(10).var())
