"""What a fit returns: quantiles, bands, draws, tables, a report and a picture that agree with each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.intervals import weighted_quantiles
from scimeta.calibration.laws.law import Law, Parameter

T = np.linspace(0.1, 3.0, 25)


@pytest.fixture(scope="module")
def fit(jmak, truth, simulate):
    return Calibrator(jmak, truth).fit_many(simulate(1, seed=3, points=4)[1])[0]


@pytest.fixture(scope="module")
def fits(jmak, truth, simulate):
    return Calibrator(jmak, truth).fit_many(simulate(25, seed=4, points=5)[1])


class TestQuantiles:
    @pytest.mark.parametrize("seed", range(5))
    def test_whole_weights_count_like_repeated_values(self, seed):
        """A value of weight 3 / total stands for three equal values; numpy's hazen takes the midpoints as we do."""
        rng = np.random.default_rng(seed)
        values, counts = rng.uniform(size=400), rng.integers(1, 6, 400)
        levels = (0.05, 0.25, 0.5, 0.9)
        ours = weighted_quantiles(torch.from_numpy(values), torch.from_numpy(counts / counts.sum()), levels)
        for level, found in zip(levels, ours, strict=True):
            ordered = np.sort(values)
            expected = np.quantile(np.repeat(values, counts), level, method="hazen")
            i = np.searchsorted(ordered, expected)
            assert ordered[max(i - 1, 0)] <= float(found) <= ordered[min(i + 1, 399)]  # within a neighbour

    @pytest.mark.parametrize("size", [2, 3, 10, 101])
    def test_equal_weights_are_numpys_hazen_quantiles(self, size):
        values = np.random.default_rng(size).normal(size=(4, size))
        weights = torch.full((4, size), 1 / size, dtype=torch.float64)
        levels = (0.01, 0.1, 0.5, 0.77, 0.99)
        for level, found in zip(levels, weighted_quantiles(torch.from_numpy(values), weights, levels), strict=True):
            np.testing.assert_allclose(
                found, np.quantile(values, level, axis=-1, method="hazen"), rtol=1e-12, atol=1e-12
            )

    def test_values_without_weight_do_not_count(self):
        values, weights = torch.tensor([5.0, 1.0, 2.0, -9.0, 3.0]), torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25])
        plain = weighted_quantiles(values[[1, 2, 4]], weights[[1, 2, 4]], (0.2, 0.5, 0.8))
        torch.testing.assert_close(
            torch.stack(weighted_quantiles(values, weights, (0.2, 0.5, 0.8))), torch.stack(plain)
        )

    def test_equal_values_are_their_own_quantiles(self):
        values = torch.full((3, 7), 2.5, dtype=torch.float64)
        weights = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for found in weighted_quantiles(values, weights / weights.sum(-1, keepdim=True), (0.0, 0.05, 0.5, 1.0)):
            assert found.tolist() == [2.5] * 3

    def test_the_order_of_the_values_does_not_matter(self):
        generator = torch.Generator().manual_seed(1)
        values, weights = torch.rand(2, 50, dtype=torch.float64, generator=generator)
        order = torch.randperm(50, generator=generator)
        a = weighted_quantiles(values, weights / weights.sum(), (0.05, 0.95))
        b = weighted_quantiles(values[order], weights[order] / weights.sum(), (0.05, 0.95))
        torch.testing.assert_close(torch.stack(a), torch.stack(b), rtol=1e-12, atol=1e-12)


class TestEstimates:
    def test_value_and_interval_are_in_order_and_inside_the_support(self, fits):
        for found in fits.estimates().values():
            assert (found["lower"] < found["value"]).all() and (found["value"] < found["upper"]).all()
            assert (found["std"] > 0).all() and found["from_data"].min() >= 0 and found["from_data"].max() <= 1
        assert (fits.estimates()["k"]["lower"] > 0).all()

    def test_they_are_the_weighted_quantiles_of_the_nodes(self, fit):
        log_k = fit.batch.draws.nodes[0, :, 0]
        lower, middle, upper = (
            q.exp() for q in weighted_quantiles(log_k, fit.batch.draws.weights[0], (0.05, 0.5, 0.95))
        )
        assert (fit["k"].lower, fit["k"].value, fit["k"].upper) == (float(lower), float(middle), float(upper))
        assert (fit["k"].level, fit["k"].unit, fit["n"].unit, fit["k"].reason) == (0.9, "1/s", "", "")

    def test_an_unknown_parameter_is_refused_with_the_names_there_are(self, fit):
        with pytest.raises(KeyError, match=r"Unknown parameter 'K' of law JMAK; it has k \[1/s\], n"):
            fit["K"]

    def test_an_estimate_prints_value_unit_and_interval(self, fit):
        e = fit["k"]
        assert str(e) == f"k = {e.value:.4g} 1/s (90% interval {e.lower:.4g} to {e.upper:.4g})"


class TestCurve:
    def test_the_prediction_is_the_weighted_mean_of_the_nodes_curves(self, fit, jmak):
        k, n = fit.batch.draws.nodes[0].T
        curves = jmak.curve({"k": k, "n": n}, torch.from_numpy(T)).numpy()
        np.testing.assert_allclose(fit.predict(T), fit.batch.draws.weights[0].numpy() @ curves, rtol=1e-12)

    def test_the_band_widens_with_its_level_and_holds_the_prediction(self, fit):
        bands = [fit.band(T, level) for level in (0.5, 0.8, 0.9, 0.99)]
        for inner, outer in pairwise(bands):
            assert (outer.lower <= inner.lower).all() and (outer.upper >= inner.upper).all()
            assert (outer.upper - outer.lower > inner.upper - inner.lower)[:15].all()
        outer = bands[-1]
        assert ((outer.lower <= fit.predict(T)) & (fit.predict(T) <= outer.upper)).all()
        assert fit.band(T).level == 0.9 and (fit.band(T).x == T).all()

    def test_the_band_at_a_level_holds_that_share_of_the_draws(self, fit, jmak):
        drawn = fit.sample(20_000, torch.Generator().manual_seed(0))
        u = {"k": torch.tensor(np.log(drawn["k"].to_numpy())), "n": torch.tensor(drawn["n"].to_numpy())}
        curves = jmak.curve(u, torch.from_numpy(T[:15])).numpy()
        band = fit.band(T[:15], 0.8)
        np.testing.assert_allclose(((band.lower <= curves) & (curves <= band.upper)).mean(0), 0.8, atol=0.025)

    def test_a_new_measurement_falls_wider_than_the_curve(self, fit):
        curve, reading = fit.band(T), fit.band(T, noise=True)
        assert (reading.upper - reading.lower > curve.upper - curve.lower).all()
        # At t = 3 the curve is known to be 1 within little: what remains is the noise of 0.02.
        assert reading.upper[-1] - reading.lower[-1] == pytest.approx(2 * 1.645 * 0.02, rel=0.15)

    def test_a_family_whose_law_misses_has_wider_bands_that_still_begin_at_zero(self, jmak, truth, simulate):
        curve = simulate(1, seed=3, points=4)[1][0]
        knots, none = np.linspace(0.0, 1.0, 6), np.zeros((6, 6))
        missed = Discrepancy(("prediction",), (knots,), np.zeros(6), 0.03**2 * np.eye(6), none, np.eye(2))
        wrong = replace(truth, family=replace(truth.family, discrepancy=missed))
        right, wide = (Calibrator(jmak, p).fit(curve.x, curve.y) for p in (truth, wrong))
        late = T[curve.x.max() < T]
        assert (np.ptp(wide.band(late)[1:3], axis=0) > np.ptp(right.band(late)[1:3], axis=0)).all()
        assert wide.band([0.0]).lower == wide.band([0.0]).upper == wide.predict([0.0]) == 0.0

    def test_what_is_drawn_as_the_law_is_the_law_with_the_printed_parameters(self, jmak, truth, simulate):
        curve = simulate(1, seed=3, points=4)[1][0]
        knots, none = np.linspace(0.0, 1.0, 6), np.zeros((6, 6))
        missed = Discrepancy(("prediction",), (knots,), np.full(6, 0.05), 0.01**2 * np.eye(6), none, np.eye(2))
        found = Calibrator(jmak, replace(truth, family=replace(truth.family, discrepancy=missed))).fit(curve.x, curve.y)
        ax = found.plot()
        lines = {line.get_label(): line for line in ax.lines}
        x, y = lines["JMAK"].get_data()
        np.testing.assert_allclose(y, found.law(x, k=found["k"].value, n=found["n"].value), atol=1e-9)
        x, y = lines["JMAK, corrected for what it misses, expected"].get_data()
        np.testing.assert_allclose(y, found.predict(x), atol=1e-12)
        plt.close(ax.figure)

    @pytest.mark.parametrize("level", [0.0, 1.0, 90, -0.5, np.nan])
    def test_a_level_that_is_no_probability_is_refused(self, fit, level):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            fit.band(T, level)

    @pytest.mark.parametrize(
        ("x", "message"), [([1.0, np.nan], r"x\[1\] is not finite"), ([[1.0]], "flat array"), (1.0, "flat")]
    )
    def test_abscissae_that_are_none_are_refused(self, fit, x, message):
        with pytest.raises(ValueError, match=message):
            fit.predict(x)

    def test_residuals_are_measured_minus_expected(self, fit):
        np.testing.assert_array_equal(fit.residuals(), fit.curve.y - fit.predict(fit.curve.x))

    def test_many_points_in_chunks_are_the_points_alone(self, fits):
        x = np.linspace(0.1, 3.0, 5001)
        few = fits[:6]
        np.testing.assert_allclose(few.predict(x)[:, ::1000], few.predict(x[::1000]), rtol=1e-12)
        np.testing.assert_allclose(few.band(x).lower[:, ::1000], few.band(x[::1000]).lower, rtol=1e-12)


class TestSample:
    def test_the_moments_of_the_draws_are_the_posteriors(self, fit):
        drawn = fit.sample(40_000, torch.Generator().manual_seed(1))
        assert list(drawn.columns) == ["k", "n"] and len(drawn) == 40_000
        for name in ("k", "n"):
            assert drawn[name].std() == pytest.approx(fit[name].std, rel=0.02)
            assert drawn[name].median() == pytest.approx(fit[name].value, abs=0.03 * fit[name].std)
        found = np.corrcoef(np.log(drawn["k"]), drawn["n"])[0, 1]
        assert found == pytest.approx(fit.correlation()[0, 1], abs=0.02)

    def test_the_same_seed_gives_the_same_draws(self, fit):
        a, b = (fit.sample(5, torch.Generator().manual_seed(2)) for _ in range(2))
        assert a.equals(b)


class TestBatch:
    def test_it_is_a_sequence_by_number_name_and_slice(self, fits):
        assert len(fits) == 25 and len(list(fits)) == 25 and len(fits[3:10:2]) == 4
        one = fits["A004"]
        assert one.curve.name == "A004" and one["k"] == fits[4]["k"] == fits[-21]["k"] == fits[3:10][1]["k"]

    def test_unknown_specimens_are_refused(self, fits):
        with pytest.raises(KeyError, match="no specimen 'B1'; there are A000, A001"):
            fits["B1"]
        with pytest.raises(IndexError, match="specimen 25 of 25"):
            fits[25]

    def test_its_bands_are_those_of_its_fits(self, fits):
        band = fits.band(T)
        assert band.lower.shape == (25, 25)
        np.testing.assert_allclose(fits[7].band(T).upper, band.upper[7], rtol=1e-12)

    def test_the_table_has_a_row_a_specimen_and_units_in_its_columns(self, fits):
        frame = fits.to_frame()
        assert list(frame.columns) == ["specimen", "points", "k [1/s]", "k lower [1/s]", "k upper [1/s]", "k from data",
                                       "n", "n lower", "n upper", "n from data", "converged", "note"]  # fmt: skip
        assert list(frame["specimen"]) == [curve.name for curve in fits.curves] and (frame["points"] == 5).all()
        assert frame["k lower [1/s]"][4] == fits["A004"]["k"].lower

    def test_it_prints_twenty_rows_and_says_how_many_more(self, fits):
        text = str(fits)
        assert "JMAK, 25 specimens" in text and "A019" in text and "A020" not in text and "5 more" in text

    def test_it_draws_every_specimen(self, fits):
        ax = fits.plot()
        assert (ax.get_xlabel(), ax.get_ylabel(), len(ax.lines)) == ("time [s]", "fraction", 50)
        plt.close(ax.figure)


class TestReport:
    def test_it_says_value_interval_unit_and_share_of_the_data(self, fit):
        text, k = str(fit), fit["k"]
        interval = f"{k.lower:.4g} to {k.upper:.4g}"
        for part in ("JMAK | A000 | 4 points", f"{k.value:.4g}", interval, "1/s", "90% interval",
                     f"{k.from_data:.0%}", "data : prior", "(k, n)", "noise sd 0.02", "solve: converged"):  # fmt: skip
            assert part in text, part

    def test_it_says_when_the_points_brought_their_sigma(self, jmak, truth):
        assert "sigma given" in str(Calibrator(jmak, truth).fit([0.5, 1.0], [0.2, 0.6], sigma=0.05))

    def test_the_frame_has_a_row_a_parameter(self, fit):
        frame = fit.to_frame()
        assert list(frame.index) == ["k", "n"]
        assert list(frame.columns) == [
            "value",
            "lower",
            "upper",
            "level",
            "unit",
            "std",
            "from_data",
            "reason",
            "at_bound",
        ]
        assert frame.loc["k", "upper"] == fit["k"].upper

    def test_the_plot_shows_points_curve_and_band_on_labelled_axes(self, fit):
        ax = fit.plot()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [s]", "fraction")
        labels = ax.get_legend_handles_labels()[1]
        assert set(labels) == {"90% band", "JMAK, expected", "A000, measured"}
        plt.close(ax.figure)

    def test_the_plot_draws_on_the_axes_that_it_is_given(self, fit):
        figure, ax = plt.subplots()
        assert fit.plot(ax) is ax
        plt.close(figure)

    def test_a_law_of_one_parameter_reports_without_correlations(self):
        law = Law("decay", lambda x, a: torch.exp(-a * x), {"a": Parameter("", "positive")})
        fit = Calibrator(law, Prior.by_hand(law, [[0.0]], [[1.0]], 0.1)).fit_many([Curve("S", [1.0], [0.4])])[0]
        assert "correlation" not in str(fit) and fit.correlation().tolist() == [[pytest.approx(1.0)]]


def test_an_abscissa_that_must_not_be_written_to_is_read_without_a_warning(fit, jmak):
    """Pandas hands out such columns, and warnings are errors here."""
    times = T.copy()
    times.flags.writeable = False
    np.testing.assert_array_equal(fit.predict(times), fit.predict(T))
    assert jmak(times, k=1.0, n=2.0).shape == T.shape
