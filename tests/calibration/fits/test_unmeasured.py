"""A specimen of which only conditions are known: what the prior expects of it, through the same doors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.fits.calibration import Calibration
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

DECAY = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")})
TIMES = np.array([0.5, 1.0, 2.0])


def prior() -> Prior:
    """ln k is 0.2 + 0.1 (dose - 3), give or take 0.3."""
    return Prior.by_hand(DECAY, [[0.2], [0.1]], [[0.09]], 0.05, Covariates(("dose",), [3.0], [1.0]))


@pytest.fixture
def planned() -> Calibration:
    return Calibrator(DECAY, prior()).fit([], [], conditions={"dose": 5.0}, name="planned")


class TestWhatIsExpected:
    def test_is_the_population_at_its_conditions(self, planned):
        ends = np.exp(0.4 + 0.3 * stats.norm.ppf([0.05, 0.5, 0.95]))
        k = planned["k"]
        assert (k.lower, k.value, k.upper) == pytest.approx(tuple(ends), rel=5e-3)
        assert k.from_data == pytest.approx(0.0, abs=0.02)
        assert planned.converged and k.reason == ""

    def test_is_widened_by_what_a_short_past_leaves_open(self):
        short = replace(prior(), learned=Learned({f"A{i}": np.zeros(1) for i in range(8)}, (0.0, 1.0)))
        fit = Calibrator(DECAY, short).fit([], [], conditions={"dose": 3.0})
        wide = fit["k"].upper / fit["k"].lower
        assert wide > 1.05 * np.exp(2 * 0.3 * stats.norm.ppf(0.95))

    def test_its_curve_and_bands_are_those_of_draws(self, planned):
        k = np.exp(0.4 + 0.3 * np.random.default_rng(0).standard_normal(200_000))
        curves = np.exp(-k[:, None] * TIMES)
        np.testing.assert_allclose(planned.predict(TIMES), curves.mean(0), rtol=5e-3)
        band = planned.band(TIMES)
        np.testing.assert_allclose([band.lower, band.upper], np.quantile(curves, [0.05, 0.95], axis=0), atol=5e-3)
        measured = planned.band(TIMES, noise=True)
        assert (measured.lower < band.lower).all() and (measured.upper > band.upper).all()

    @pytest.mark.parametrize("outliers", [None, Outliers(0.05, 0.3, 0.1)])
    def test_changes_nothing_for_measured_specimens_beside_it(self, outliers):
        calibrator = Calibrator(DECAY, replace(prior(), family=replace(prior().family, outliers=outliers)))
        conditions = {"dose": 5.0}
        bare = [Curve(name, [], [], None, conditions) for name in "az"]
        measured = Curve("m", TIMES, [0.5, 0.3, 0.06], None, conditions)
        fits = calibrator.fit_many([bare[0], measured, bare[1]])
        alone = calibrator.fit_many([measured])[0]
        assert fits["m"]["k"].value == pytest.approx(alone["k"].value, rel=1e-6)
        assert fits["a"]["k"].value == pytest.approx(fits["z"]["k"].value, rel=1e-6)
        assert fits["a"]["k"].upper == pytest.approx(np.exp(0.4 + 0.3 * stats.norm.ppf(0.95)), rel=5e-3)

    def test_covers_new_specimens_of_a_learned_family(self):
        rng = np.random.default_rng(3)

        def family(count: int, prefix: str) -> list[Curve]:
            doses = rng.uniform(1.0, 5.0, count)
            k = np.exp(0.2 + 0.2 * (doses - 3) + 0.3 * rng.standard_normal(count))
            rows = np.exp(-k[:, None] * TIMES) + 0.02 * rng.standard_normal((count, 3))
            return [
                Curve(f"{prefix}{i}", TIMES, y, None, {"dose": d})
                for i, (y, d) in enumerate(zip(rows, doses, strict=True))
            ]

        learned = learn_prior(DECAY, family(40, "A"), conditions=["dose"])
        new = family(300, "N")
        band = (
            Calibrator(DECAY, learned)
            .fit_many([Curve(c.name, [], [], None, c.conditions) for c in new])
            .band(TIMES, noise=True)
        )
        y = np.stack([c.y for c in new])
        held = ((band.lower <= y) & (y <= band.upper)).mean()
        assert abs(held - 0.9) < 3 * (0.9 * 0.1 / 300) ** 0.5


class TestReport:
    def test_says_that_nothing_was_measured(self, planned):
        assert "planned | 0 points" in str(planned)
        assert "not measured: this is what the prior expects under its conditions" in str(planned)
        assert repr(planned.curve) == "Curve('planned', 0 points)"

    def test_draws_what_is_expected(self, planned):
        ax = planned.plot()
        assert "decay, expected" in ax.get_legend_handles_labels()[1]
        assert not any("measured" in label for label in ax.get_legend_handles_labels()[1])
        planned.batch.plot()

    def test_has_no_residuals_and_no_outliers(self, planned):
        assert planned.residuals().shape == (0,)
        assert planned.outlier_probability().shape == (0,)

    def test_is_one_of_the_family_for_all_that_is_known(self, planned):
        assert planned.family.p == 1.0


class TestDoors:
    def test_nothing_known_at_all_is_refused(self):
        with pytest.raises(ValueError, match="no points; at least one is needed, or conditions"):
            Curve("A", [], [])

    def test_nothing_is_learned_of_it(self):
        curves = [Curve(f"A{i}", TIMES, np.exp(-TIMES), None, {"dose": float(i)}) for i in range(6)]
        with pytest.raises(ValueError, match="specimen bare has no points, so that nothing is learned of it"):
            learn_prior(DECAY, [*curves, Curve("bare", [], [], None, {"dose": 2.0})], conditions=["dose"])

    def test_least_squares_has_nothing_to_fit(self):
        with pytest.raises(ValueError, match="bare has no points; without a prior"):
            LeastSquares(DECAY).fit_many([Curve("bare", [], [], None, {"dose": 2.0})])
