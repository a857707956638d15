"""Conditions in the forms in which one writes them, and the activation energy with its interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.conditions import coefficient_covariance, condition_value, resolved
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

GAS = 8.314462618
ENERGY = 60.0  # kJ/mol
TIMES = np.linspace(0.2, 3.0, 8)
DECAY = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")})


def heated(count: int = 30, seed: int = 0, name: str = "T [degC]", offset: float = 273.15) -> list[Curve]:
    """Decays whose ln k is -E/R (1/T - 1/350 K) give or take 0.2."""
    rng = np.random.default_rng(seed)
    curves = []
    for i, T in enumerate(np.linspace(335.0, 365.0, count)):
        k = np.exp(-1e3 * ENERGY / GAS * (1 / T - 1 / 350) + 0.2 * rng.standard_normal())
        noisy = np.exp(-k * TIMES) + 0.02 * rng.standard_normal(8)
        curves.append(Curve(f"A{i}", TIMES, noisy, None, {name: T - offset}))
    return curves


@pytest.fixture(scope="module")
def prior() -> Prior:
    return learn_prior(DECAY, heated(), conditions=["1/T"])


class TestForms:
    @pytest.mark.parametrize(
        "name, given, found, value",
        [
            ("dose", {"dose": 3.0}, "dose", 3.0),
            ("dose^2", {"dose [mg]": 3.0}, "dose [mg]^2", 9.0),
            ("log(dose)", {"dose": np.e}, "log(dose)", 1.0),
            ("1/width", {"width": 4.0}, "1/width", 0.25),
            ("1 / T", {"T [K]": 400.0}, "1/T [K]", 1 / 400),
            ("1/T", {"T [degC]": 26.85}, "1/T [degC]", 1 / 300),
            ("1/T", {"T [degF]": 80.33}, "1/T [degF]", 1 / 300),
            ("1/T [degC]", {"T": 26.85}, "1/T", 1 / 300),
            ("1000/T", {"1000/T": 3.1}, "1000/T", 3.1),
            ("1/T", {"1/T": 0.003, "T": 5.0}, "1/T", 0.003),
        ],
    )
    def test_are_read_as_written(self, name, given, found, value):
        assert resolved(name, given) == found
        assert condition_value(name, given) == pytest.approx(value, rel=1e-12)

    @pytest.mark.parametrize("name", ["dose", "1/dose", "log(dose)", "sin(T)", "1/T [degC]"])
    def test_of_a_condition_that_is_not_given_have_no_value(self, name):
        assert condition_value(name, {"T [K]": 300.0}) is None
        assert resolved(name, {"T [K]": 300.0}) == name

    @pytest.mark.parametrize(
        "name, given, message",
        [
            ("1/T", {"T": 0.0}, "1/T needs a positive value; T is 0"),
            ("1/T [degC]", {"T [degC]": -300.0}, r"1/T \[degC\] needs a positive value; T \[degC\] is -300"),
            ("log(dose)", {"dose": -1.0}, r"log\(dose\) needs a positive value; dose is -1"),
        ],
    )
    def test_that_a_value_does_not_have_are_named(self, name, given, message):
        with pytest.raises(ValueError, match=message):
            condition_value(name, given)


class TestPrior:
    def test_in_one_over_temperature_finds_the_slope_of_arrhenius(self, prior):
        assert prior.conditions == ("1/T [degC]",)
        slope = prior.slopes().loc["1/T [degC]", "k"]
        assert slope == pytest.approx(-1e3 * ENERGY / GAS, rel=0.1)

    def test_is_the_same_in_kelvin_and_in_celsius(self, prior):
        kelvin = learn_prior(DECAY, heated(name="T [K]", offset=0.0), conditions=["1/T"])
        np.testing.assert_allclose(kelvin.coefficients, prior.coefficients, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(kelvin.covariates.centre, prior.covariates.centre, rtol=1e-12)

    def test_predicts_at_a_temperature_given_with_or_without_its_unit(self, prior):
        x, y = TIMES[:2], np.exp(-TIMES[:2])
        for name in ("T", "T [degC]"):
            fit = Calibrator(DECAY, prior).fit(x, y, conditions={name: 76.85})
            assert fit["k"].value == pytest.approx(1.0, abs=0.15)

    def test_a_square_beside_its_root_is_a_parabola(self):
        rng = np.random.default_rng(1)
        curves = []
        for i, dose in enumerate(np.linspace(1.0, 5.0, 24)):
            k = np.exp(0.3 - 0.2 * (dose - 3.0) ** 2 + 0.05 * rng.standard_normal())
            curves.append(
                Curve(f"A{i}", TIMES, np.exp(-k * TIMES) + 0.01 * rng.standard_normal(8), None, {"dose": dose})
            )
        slopes = learn_prior(DECAY, curves, conditions=["dose", "dose^2"]).slopes()["k"]
        assert slopes["dose^2"] == pytest.approx(-0.2, abs=0.02)
        assert slopes["dose"] == pytest.approx(1.2, abs=0.12)

    def test_survives_its_file(self, prior, tmp_path):
        again = Prior.load(prior.save(tmp_path / "prior.json"), DECAY)
        np.testing.assert_array_equal(again.coefficient_errors, prior.coefficient_errors)
        assert again.conditions == prior.conditions
        assert again.activation_energy("k") == prior.activation_energy("k")

    def test_shows_its_place_as_a_temperature(self, prior):
        assert f"at T = {1 / prior.covariates.centre[0]:.4g} K" in str(prior)
        assert 349 < 1 / prior.covariates.centre[0] < 350


class TestActivationEnergy:
    def test_comes_with_an_interval_in_kilojoules_per_mole(self, prior):
        energy = prior.activation_energy("k")
        assert energy.unit == "kJ/mol" and energy.reason == ""
        assert energy.lower < ENERGY < energy.upper
        assert energy.upper - energy.lower < 0.3 * ENERGY
        assert str(energy) in str(prior)
        assert str(energy).startswith("activation energy of k = ")

    def test_its_error_is_that_of_a_straight_line_through_the_logarithms(self, prior):
        """Precise curves: each gives its own ln k, and the textbook's regression is all that is left."""
        T = np.array([c.conditions["T [degC]"] for c in heated()]) + 273.15
        z = 1e3 / GAS / T
        rows = np.stack(list(prior.past.values()))[:, 0] + prior.slopes().iloc[0, 0] * (
            1 / T - prior.covariates.centre[0]
        )
        slope, _ = np.polyfit(z, rows, 1)
        left = rows - np.polyval(np.polyfit(z, rows, 1), z)
        textbook = np.sqrt(left @ left / (len(z) - 2) / ((z - z.mean()) ** 2).sum())
        assert prior.activation_energy("k").value == pytest.approx(-slope, rel=1e-2)
        assert prior.activation_energy("k").std == pytest.approx(textbook, rel=0.05)

    def test_errors_of_a_linear_law_are_those_of_generalised_least_squares(self):
        generator = torch.Generator().manual_seed(0)
        design = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        population = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=torch.float64)
        own = torch.rand(12, 1, 1, generator=generator, dtype=torch.float64) * torch.eye(2, dtype=torch.float64)
        posterior = torch.linalg.inv(torch.linalg.inv(population) + torch.linalg.inv(own))
        stacked = torch.cat([torch.kron(row[None], torch.eye(2, dtype=torch.float64)) for row in design])
        weights = torch.block_diag(*torch.linalg.inv(population + own))
        exact = torch.linalg.inv(stacked.T @ weights @ stacked).reshape(3, 2, 3, 2)
        np.testing.assert_allclose(coefficient_covariance(design, population, posterior), exact, rtol=1e-9)

    def test_covers_as_often_as_it_says(self):
        """40 families of 12 specimens: 90 % of them, give or take three standard errors."""
        held = []
        for seed in range(40):
            energy = learn_prior(DECAY, heated(12, seed + 100), conditions=["1/T"], components=1).activation_energy("k")
            held.append(energy.lower < ENERGY < energy.upper)
        assert abs(np.mean(held) - 0.9) < 3 * (0.9 * 0.1 / 40) ** 0.5

    def test_of_a_prior_set_by_hand_has_no_interval(self):
        prior = Prior.by_hand(DECAY, [[0.0], [-1.0]], [[0.1]], 0.02, Covariates(("1/T [K]",), [0.003], [1e-4]))
        energy = prior.activation_energy("k")
        assert energy.value == pytest.approx(1e-3 * GAS / 1e-4)
        assert np.isnan(energy.lower) and "no standard errors" in str(energy)

    def test_needs_one_over_temperature_and_a_logarithm(self, prior):
        with pytest.raises(ValueError, match=r"of a positive parameter .* law decay has k, not 'n'"):
            prior.activation_energy("n")
        plain = learn_prior(DECAY, heated(), conditions=["T"])
        with pytest.raises(ValueError, match=r"learned with T \[degC\]: call the condition"):
            plain.activation_energy("k")
        assert "activation" not in str(plain)

    def test_needs_the_temperatures_unit(self):
        bare = learn_prior(DECAY, heated(name="T", offset=0.0), conditions=["1/T"])
        with pytest.raises(ValueError, match=r'call the condition "T \[K\]" or "T \[degC\]"'):
            bare.activation_energy("k")


class TestDoors:
    def test_a_condition_missing_for_some_is_named(self):
        curves = heated()
        curves[4] = replace(curves[4], conditions={})
        with pytest.raises(ValueError, match=r"specimen A4 has no condition '1/T \[degC\]'; it has none"):
            learn_prior(DECAY, curves, conditions=["1/T"])

    def test_a_constant_condition_is_named(self):
        curves = [replace(curve, conditions={"T [K]": 350.0}) for curve in heated()]
        with pytest.raises(ValueError, match=r"condition '1/T \[K\]' is 0.00285714 for every specimen; a constant"):
            learn_prior(DECAY, curves, conditions=["1/T"])

    def test_a_temperature_below_absolute_zero_is_named(self):
        curves = heated()
        curves[2] = replace(curves[2], conditions={"T [degC]": -400.0})
        with pytest.raises(ValueError, match=r"specimen A2: 1/T \[degC\] needs a positive value"):
            learn_prior(DECAY, curves, conditions=["1/T"])

    def test_a_new_specimen_without_it_is_named(self, prior):
        with pytest.raises(ValueError, match=r"specimen has no condition '1/T \[degC\]'; .* given are none"):
            Calibrator(DECAY, prior).fit([1.0], [0.5])
        with pytest.raises(ValueError, match=r"specimen: 1/T .* needs a positive value"):
            Calibrator(DECAY, prior).fit([1.0], [0.5], conditions={"T": -300.0})

    def test_errors_of_another_shape_are_refused(self, prior):
        with pytest.raises(ValueError, match=r"coefficient_covariances must be covariances of shape \(1, 2, 1, 2, 1\)"):
            replace(prior, learned=prior.learned._replace(coefficient_covariances=np.zeros(3)))
