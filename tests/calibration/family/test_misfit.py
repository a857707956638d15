"""The family's misfit: it interpolates, is found where the law is wrong and absent where the law is right."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.misfit import KNOTS, Basis, Misfit, Residuals, fit_misfit, held_out_gain
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

F64 = torch.float64


class TestBasis:
    def test_it_passes_through_its_knots(self):
        values = torch.from_numpy(np.random.default_rng(0).normal(size=KNOTS))
        basis = Basis(-1.0, 3.0)
        at = torch.linspace(-1.0, 3.0, KNOTS, dtype=F64)
        torch.testing.assert_close(basis.evaluate(basis.cubics(values), at), values, rtol=1e-12, atol=1e-12)

    def test_a_straight_line_is_itself(self):
        basis = Basis(0.0, 1.0)
        cubics = basis.cubics(torch.linspace(2.0, 5.0, KNOTS, dtype=F64))
        at = torch.linspace(0.0, 1.0, 50, dtype=F64)
        torch.testing.assert_close(basis.evaluate(cubics, at), 2.0 + 3.0 * at, rtol=1e-12, atol=1e-12)

    def test_value_and_slope_are_continuous_at_the_knots(self):
        values = torch.from_numpy(np.random.default_rng(1).normal(size=KNOTS))
        basis = Basis(0.0, 9.0)
        cubics, h = basis.cubics(values), 1e-6
        knots = torch.arange(1.0, KNOTS - 1, dtype=F64)
        f = lambda at: basis.evaluate(cubics, at)  # noqa: E731
        torch.testing.assert_close(f(knots - 1e-12), f(knots + 1e-12), rtol=0.0, atol=1e-10)
        left, right = (f(knots) - f(knots - h)) / h, (f(knots + h) - f(knots)) / h
        torch.testing.assert_close(left, right, rtol=0.0, atol=1e-4)

    def test_it_is_constant_beyond_the_ends(self):
        basis = Basis(0.0, 1.0)
        cubics = basis.cubics(torch.linspace(2.0, 5.0, KNOTS, dtype=F64))
        assert basis.evaluate(cubics, torch.tensor([-9.0, 0.0, 1.0, 9.0], dtype=F64)).tolist() == [2.0, 2.0, 5.0, 5.0]

    def test_it_has_finite_derivatives_everywhere(self):
        basis = Basis(0.0, 1.0)
        cubics = basis.cubics(torch.randn(KNOTS, dtype=F64, generator=torch.Generator().manual_seed(0)))
        at = torch.linspace(-0.5, 1.5, 91, dtype=F64, requires_grad=True)
        (gradient,) = torch.autograd.grad(basis.evaluate(cubics, at).sum(), at)
        assert torch.isfinite(gradient).all()


def residuals(size: float, seed: int = 2, sensitivity: torch.Tensor | None = None) -> Residuals:
    """Return 100 specimens of 20 points, y = f + size sin(2 pi f) + scatter of 0.02, with f spread over 0 to 1."""
    rng = np.random.default_rng(seed)
    f = torch.from_numpy(rng.uniform(0.0, 1.0, 2000))
    residual = size * torch.sin(2 * np.pi * f) + 0.02 * torch.from_numpy(rng.normal(size=2000))
    by = torch.ones(2000, 1, dtype=F64) if sensitivity is None else sensitivity
    return Residuals(f, by, residual, torch.full_like(f, 50.0), torch.arange(2000) // 20)


class TestFit:
    BASIS = Basis(0.0, 1.0)

    def test_a_true_discrepancy_is_recovered(self):
        values = fit_misfit(residuals(0.03), self.BASIS)
        np.testing.assert_allclose(values, 0.03 * np.sin(2 * np.pi * np.linspace(0, 1, KNOTS)), atol=0.006)

    def test_a_true_discrepancy_helps_the_specimens_left_out_by_what_it_explains(self):
        """Each point gains (d / sd)^2 / 2 on average, here (0.03 / 0.02)^2 / 4 = 0.56 nats, and has 20 points."""
        gain = held_out_gain(residuals(0.03), self.BASIS)
        assert gain.shape == (100,) and float(gain.mean()) == pytest.approx(20 * 0.5625, rel=0.1)

    @pytest.mark.parametrize("seed", range(10))
    def test_scatter_alone_helps_no_specimen_left_out(self, seed):
        data = residuals(0.0, seed)
        gain = held_out_gain(data, self.BASIS)
        assert gain.mean() < 3 * gain.std() / 10 and np.abs(fit_misfit(data, self.BASIS)).max() < 0.004

    def test_what_the_parameters_can_imitate_is_left_to_them(self):
        """A discrepancy has no share along the summed sensitivities."""
        f = residuals(0.03).prediction
        by = torch.stack([torch.ones_like(f), f, f**2], -1)
        values = fit_misfit(residuals(0.03, sensitivity=by), self.BASIS)
        d = self.BASIS.evaluate(self.BASIS.cubics(torch.from_numpy(values)), f)
        share = (by.T @ d).abs() / (by.norm(dim=0) * d.norm())
        assert d.norm() > 0.1 and share.max() < 1e-10

    def test_the_corrected_law_adds_the_discrepancy_and_keeps_names_and_units(self, jmak):
        misfit = Misfit(0.0, 1.0, 0.1 * np.ones(KNOTS))
        corrected = misfit.corrected(jmak)
        t = torch.linspace(0.1, 3.0, 9, dtype=F64)
        torch.testing.assert_close(corrected(t, k=1.0, n=2.0), jmak(t, k=1.0, n=2.0) + 0.1)
        assert (corrected.names, corrected.describe(), corrected.pointwise) == (jmak.names, jmak.describe(), True)


def powers(seed: int, alloys: int, points: int = 30):
    """Return curves of another law, X = (k t)^n / (1 + (k t)^n) (Austin and Rickett), and their true fractions."""
    rng = np.random.default_rng(seed)
    k, n = np.exp(rng.normal([0.2, 1.2], [0.3, 0.1], (alloys, 2))).T[..., None]
    t = np.linspace(0.1, 3.0, 30)
    true = (k * t) ** n / (1 + (k * t) ** n)
    y = true + 0.01 * rng.normal(size=true.shape)
    return [Curve(f"A{i}", t[:points], row[:points]) for i, row in enumerate(y)], true


@pytest.fixture(scope="module")
def wrong(jmak):
    """A JMAK prior learned from alloys that follow another law."""
    return learn_prior(jmak, powers(0, 100)[0])


class TestLearned:
    def test_a_misfit_is_found_where_the_law_is_wrong(self, wrong):
        assert wrong.family.misfit is not None and 0.01 < np.abs(wrong.family.misfit.values).max() < 0.1
        assert wrong.converged and "in the same way in all specimens" in str(wrong)

    def test_the_corrected_law_leaves_less_noise(self, jmak, wrong):
        """JMAK itself leaves more than twice the scatter of 0.01 on these curves."""
        assert 0.0095 < wrong.noise < 0.015

    def test_predictions_of_the_rest_gain_by_it_and_their_bands_hold(self, jmak, wrong):
        curves, true = powers(1, 300, points=6)
        t = np.linspace(0.1, 3.0, 30)
        plain = replace(wrong, family=replace(wrong.family, misfit=None))
        rmse = [
            np.sqrt(((Calibrator(jmak, p).fit_many(curves).predict(t) - true)[:, 6:] ** 2).mean())
            for p in (wrong, plain)
        ]
        assert rmse[0] < 0.95 * rmse[1]
        band = Calibrator(jmak, wrong).fit_many(curves).band(t)
        inside = ((band.lower <= true) & (true <= band.upper))[:, 6:].mean()
        assert 0.84 < inside < 0.96

    def test_parameters_keep_their_meaning(self, jmak, wrong):
        """k and n of long curves stay where least squares on the bare law puts them: the misfit cannot stand in."""
        curves, _ = powers(2, 60)
        with_it, without = (
            Calibrator(jmak, p).fit_many(curves).estimates()
            for p in (wrong, replace(wrong, family=replace(wrong.family, misfit=None, discrepancy=None)))
        )
        for name in ("k", "n"):
            shift = np.log(with_it[name]["value"] / without[name]["value"])
            spread = np.log(without[name]["value"]).std()
            assert abs(np.median(shift)) < 0.1 * spread, name

    @pytest.mark.parametrize("seed", range(5))
    def test_no_misfit_is_found_where_the_law_is_right(self, jmak, simulate, seed):
        prior = learn_prior(jmak, simulate(60, seed=seed, times=np.linspace(0.1, 3.0, 15))[1])
        assert prior.family.misfit is None and prior.family.wander == 0.0

    def test_a_law_that_is_off_by_what_its_parameters_can_do_has_no_misfit(self, line):
        """Every line has its own level: a common shift is the population's mean, not a misfit."""
        rng = np.random.default_rng(3)
        x = np.arange(6.0)
        curves = [
            Curve(f"S{i}", x, 7.0 + a + b * x + 0.1 * rng.normal(size=6))
            for i, (a, b) in enumerate(rng.normal(size=(50, 2)))
        ]
        prior = learn_prior(line, curves)
        assert prior.family.misfit is None and prior.coefficients[0, 0] == pytest.approx(7.0, abs=0.5)

    def test_specimens_that_are_all_alike_have_none(self):
        law = Law("level", lambda x, a: a + 0 * x, {"a": Parameter()}, Axis("x"), Axis("y"))
        rng = np.random.default_rng(4)
        curves = [Curve(f"S{i}", np.arange(4.0), 1.0 + 0.1 * rng.normal(size=4)) for i in range(20)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # EM is slow where a variance is zero
            prior = learn_prior(law, curves, steps=100)
        assert prior.family.misfit is None
