"""Calibrating new specimens: intervals that cover, batches that are loops, and no interval that cannot be defended."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter

NEW = 1000
HOT = Covariates(("temperature",), [500.0], [50.0])
T = np.linspace(0.1, 3.0, 25)


def covered(found: dict[str, np.ndarray], true: np.ndarray) -> float:
    return ((found["lower"] <= true) & (true <= found["upper"])).mean()


@pytest.mark.parametrize("points", [3, 5, 8])
class TestCoverage:
    """Three standard errors of 1000 independent specimens at 90 %: 2.8 %."""

    ERROR = 3 * (0.9 * 0.1 / NEW) ** 0.5

    def test_intervals_of_k_and_n_cover_within_the_binomial_error(self, jmak, truth, simulate, points):
        family, curves = simulate(NEW, seed=11, points=points)
        found = Calibrator(jmak, truth).fit_many(curves).estimates()
        for name in ("k", "n"):
            assert abs(covered(found[name], getattr(family, name)) - 0.9) < self.ERROR, name

    def test_they_cover_with_a_learned_prior_too(self, jmak, learned, simulate, points):
        family, curves = simulate(NEW, seed=12, points=points)
        found = Calibrator(jmak, learned[0]).fit_many(curves).estimates()
        for name in ("k", "n"):
            assert abs(covered(found[name], getattr(family, name)) - 0.9) < self.ERROR + 0.01, name

    def test_the_band_covers_the_unseen_curve(self, jmak, truth, simulate, points):
        family, curves = simulate(NEW, seed=13, points=points)
        band = Calibrator(jmak, truth).fit_many(curves).band(T)
        true = family.truth(T)
        inside = ((band.lower <= true) & (true <= band.upper)).mean(0)  # (points,)
        assert (np.abs(inside[1:15] - 0.9) < self.ERROR + 0.005).all()

    def test_another_level_covers_its_own_share(self, jmak, truth, simulate, points):
        family, curves = simulate(NEW, seed=14, points=points)
        found = Calibrator(jmak, truth, level=0.5).fit_many(curves).estimates()
        for name in ("k", "n"):
            assert abs(covered(found[name], getattr(family, name)) - 0.5) < 3 * 0.5 / NEW**0.5, name

    def test_every_ordinary_specimen_converges_and_gets_its_intervals(self, jmak, truth, simulate, points):
        for seed in (1, 15, 16):
            fits = Calibrator(jmak, truth).fit_many(simulate(NEW, seed=seed, points=points)[1])
            assert fits.converged.all() and not any(fits.reasons)


class TestBatch:
    def test_many_at_once_are_the_fits_one_by_one(self, jmak, truth, simulate):
        curves = [*simulate(10, seed=20, points=4)[1], *simulate(5, seed=21, points=9)[1]]
        calibrator = Calibrator(jmak, truth)
        batch = calibrator.fit_many(curves)
        for curve, together in zip(curves, batch, strict=True):
            alone = calibrator.fit(curve.x, curve.y)
            for name in ("k", "n"):
                for part in ("value", "lower", "upper", "std", "from_data"):
                    assert getattr(together[name], part) == pytest.approx(getattr(alone[name], part), rel=1e-8), part
            np.testing.assert_allclose(together.predict(T), alone.predict(T), rtol=1e-8)

    def test_the_order_of_the_points_does_not_matter(self, jmak, truth):
        calibrator = Calibrator(jmak, truth)
        a = calibrator.fit([0.5, 1.0, 1.5], [0.2, 0.6, 0.9], [0.01, 0.02, 0.03])
        b = calibrator.fit([1.5, 0.5, 1.0], [0.9, 0.2, 0.6], [0.03, 0.01, 0.02])
        assert a["k"] == b["k"] and a["n"] == b["n"]

    def test_the_same_data_give_the_same_numbers(self, jmak, truth, simulate):
        curves = simulate(5, seed=22, points=4)[1]
        a, b = (Calibrator(jmak, truth).fit_many(curves) for _ in range(2))
        assert a.draws.nodes.equal(b.draws.nodes) and a.draws.weights.equal(b.draws.weights)

    def test_torchs_random_state_is_left_alone(self, jmak, truth, simulate):
        curves = simulate(3, seed=22, points=4)[1]
        state = torch.random.get_rng_state()
        Calibrator(jmak, truth).fit_many(curves).band(T)
        assert torch.random.get_rng_state().equal(state)


class TestWhatTheDataSay:
    def test_a_given_sigma_is_used(self, jmak, truth):
        x, y = [0.4, 0.8, 1.2], [0.1, 0.45, 0.8]
        fits = [Calibrator(jmak, truth).fit(x, y, sigma) for sigma in (0.002, 0.02, None, 0.2)]
        widths = [fit["k"].upper - fit["k"].lower for fit in fits]
        assert widths[0] < widths[1] == widths[2] < widths[3]

    def test_a_sigma_for_every_point_weighs_the_points(self, jmak, truth):
        """The misread last point counts little once it says so itself."""
        x, y = [0.4, 0.8, 1.2], [0.15, 0.51, 0.4]
        blunt, sharp = (Calibrator(jmak, truth).fit(x, y, [0.02, 0.02, s]) for s in (1.0, 0.02))
        without = Calibrator(jmak, truth).fit(x[:2], y[:2], 0.02)
        assert blunt["k"].value == pytest.approx(without["k"].value, rel=0.01)
        assert abs(sharp["k"].value / without["k"].value - 1) > 0.05

    def test_more_points_tell_more(self, jmak, truth, simulate):
        shares, widths = [], []
        for points in (1, 3, 5, 8, 30):
            fits = Calibrator(jmak, truth).fit_many(simulate(100, seed=23, points=points)[1])
            found = fits.estimates()
            shares.append([np.median(found[name]["from_data"]) for name in ("k", "n")])
            widths.append([np.median(found[name]["upper"] - found[name]["lower"]) for name in ("k", "n")])
        assert (np.diff(shares, axis=0) > 0).all() and (np.diff(widths, axis=0) < 0).all()
        assert min(shares[-1]) > 0.95 and max(shares[0]) < 0.5

    @pytest.mark.parametrize(
        ("x", "y", "sigma"), [([1.0, 2.0], [0.5, 0.6], 1e6), ([1e-9], [0.0], None), ([500.0], [1.0], None)]
    )
    def test_points_that_tell_nothing_leave_the_prior(self, jmak, truth, x, y, sigma):
        fit = Calibrator(jmak, truth).fit(x, y, sigma)
        for i, (name, back) in enumerate((("k", np.exp), ("n", lambda u: u))):
            mean, sd = truth.coefficients[0, i], truth.covariance[i, i] ** 0.5
            estimate = fit[name]
            assert estimate.from_data < 0.05
            for part, z in (("lower", -1.645), ("value", 0.0), ("upper", 1.645)):
                u = np.log(getattr(estimate, part)) if back is np.exp else getattr(estimate, part)
                assert (u - mean) / sd == pytest.approx(z, abs=0.1), (name, part)

    def test_a_linear_law_gets_the_textbook_posterior(self, line):
        prior = Prior.by_hand(line, [[1.0, 0.0]], [[4.0, 0.0], [0.0, 1.0]], 0.5)
        x, y = np.array([0.0, 1.0, 2.0]), np.array([1.2, 1.9, 3.3])
        design = np.column_stack([np.ones(3), x])
        covariance = np.linalg.inv(design.T @ design / 0.25 + np.diag([0.25, 1.0]))
        mean = covariance @ (design.T @ y / 0.25 + [0.25, 0.0])
        fit = Calibrator(line, prior).fit(x, y)
        for i, name in enumerate(("level", "slope")):
            e, sd = fit[name], covariance[i, i] ** 0.5
            assert (e.value - mean[i]) / sd == pytest.approx(0.0, abs=0.03)
            assert (e.upper - e.lower) / sd == pytest.approx(2 * stats.norm.ppf(0.95), rel=0.03)
            assert e.from_data == pytest.approx(1 - covariance[i, i] / prior.covariance[i, i], abs=0.01)

    def test_conditions_move_the_prior_that_a_specimen_gets(self, jmak):
        prior = Prior.by_hand(jmak, [[0.0, 2.5], [0.5, 0.0]], np.diag([0.01, 0.01]), 0.02, HOT)
        calibrator = Calibrator(jmak, prior)
        cold, hot = (calibrator.fit([1e-9], [0.0], conditions={"temperature": t}) for t in (450.0, 550.0))
        assert np.log(hot["k"].value / cold["k"].value) == pytest.approx(1.0, abs=0.02)

    def test_shared_parameters_come_back_at_their_value(self, line):
        law = replace(line, parameters={**line.parameters, "slope": Parameter("mm/s", shared=True)})
        fit = Calibrator(law, Prior.by_hand(law, [[0.0]], [[1.0]], 0.1, shared={"slope": (2.0, 0.01)})).fit(
            [0.0, 1.0], [0.3, 2.3]
        )
        assert fit["slope"].value == 2.0 and fit["slope"].from_data == 0.0
        assert fit["level"].value == pytest.approx(0.3, abs=0.02)


def interval_on_a_grid(law: Law, prior: Prior, x: np.ndarray, y: np.ndarray, sd: float) -> np.ndarray:
    """Return (2, 2): 5 and 95 % quantile of ln k and of n by brute force."""
    begin, end = np.array([-5.0, -4.0]), np.array([5.0, 10.0])
    for _ in range(4):
        axes = [np.linspace(a, b, 301) for a, b in zip(begin, end, strict=True)]
        u = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        curve = law.curve(dict(zip(law.names, torch.from_numpy(u.T.copy()), strict=True)), torch.from_numpy(x)).numpy()
        log_joint = stats.norm.logpdf(y, curve, sd).sum(-1)
        log_joint += stats.multivariate_normal.logpdf(u, prior.coefficients[0], prior.covariance)
        inside = u[log_joint > log_joint.max() - 20.0]
        step = np.array([axis[1] - axis[0] for axis in axes])
        begin, end = inside.min(0) - step, inside.max(0) + step
    weight = np.exp(log_joint - log_joint.max()).reshape(301, 301)
    marginals = [weight.sum(1 - i) / weight.sum() for i in range(2)]
    return np.array([np.interp((0.05, 0.95), m.cumsum() - 0.5 * m, a) for m, a in zip(marginals, axes, strict=True)])


EXTREME = {
    "ten times slower than any before": ([1.0, 5.0, 10.0, 20.0], [0.00, 0.05, 0.25, 0.85]),
    "ten times faster": ([0.02, 0.05, 0.1, 0.2], [0.02, 0.12, 0.5, 0.97]),
    "nearly linear, n = 0.5": ([0.1, 0.3, 0.6, 1.0, 2.0], [0.27, 0.42, 0.54, 0.63, 0.76]),
    "falling": ([0.5, 1.0, 1.5, 2.0], [0.8, 0.6, 0.4, 0.2]),
    "a step, n = 8": ([0.6, 0.9, 1.0, 1.1, 1.4], [0.02, 0.35, 0.63, 0.88, 1.0]),
    "far above one": ([0.5, 1.0, 1.5], [1.5, 1.6, 1.4]),
    "percent": ([0.5, 1.0, 1.5], [14.0, 63.0, 95.0]),
    "minutes": ([8.3e-3, 1.7e-2, 2.5e-2], [0.14, 0.63, 0.95]),
    "one point far off": ([0.5, 1.0, 1.5, 2.0], [0.16, 0.63, -1.0, 1.0]),
    "nothing happens": ([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]),
    "two scatters of one point": ([0.9, 1.0, 1.1], [0.9, 0.1, 0.9]),
}


@pytest.mark.parametrize(("x", "y"), EXTREME.values(), ids=EXTREME.keys())
@pytest.mark.parametrize("sigma", [0.02, 0.002])
def test_extreme_points_get_right_intervals_or_none_with_a_reason(jmak, truth, x, y, sigma):
    x, y = np.array(x), np.array(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a solve that does not converge warns; it is then withheld
        fit = Calibrator(jmak, truth).fit(x, y, sigma)
    if fit["k"].reason:
        assert np.isnan([fit["k"].lower, fit["n"].upper]).all() and np.isnan(fit.band(T).lower).all()
        assert "no intervals: " + fit["k"].reason in str(fit)
        return
    expected = interval_on_a_grid(jmak, truth, x, y, sigma)
    found = np.array([[np.log(fit["k"].lower), np.log(fit["k"].upper)], [fit["n"].lower, fit["n"].upper]])
    width = np.diff(expected, axis=1)
    assert (np.abs(found - expected) < 0.2 * width).all(), (found, expected)


class TestNotConverged:
    def test_a_fit_that_does_not_converge_warns_and_has_no_interval(self, line):
        """A law that is infinite at the last point of B: no step can be taken."""
        law = Law(
            "broken",
            lambda x, a: a * x + torch.where(x > 2.5, torch.inf, 0.0),
            {"a": Parameter()},
            Axis("x"),
            Axis("y"),
        )
        calibrator = Calibrator(law, Prior.by_hand(law, [[0.0]], [[1.0]], 0.1))
        with pytest.warns(UserWarning, match="1 of 2 fits did not converge: B"):
            fits = calibrator.fit_many([Curve("A", [1.0, 2.0], [0.5, 1.0]), Curve("B", [1.0, 3.0], [0.5, 1.0])])
        good, bad = fits
        assert good.converged and not bad.converged and good["a"].value == pytest.approx(0.5, abs=0.02)
        assert np.isnan(bad["a"].lower) and bad["a"].reason == "the solve did not converge"
        assert "NOT CONVERGED" in str(bad) and "no intervals" in str(bad) and "did not converge" in str(bad["a"])
        assert not fits.to_frame().converged[1]


class TestDoor:
    def test_a_prior_of_another_law_is_refused(self, jmak, line, truth):
        with pytest.raises(
            ValueError, match=r"the prior is of law JMAK \(k \[1/s\], n; .*\), not of line \(level \[mm\]"
        ):
            Calibrator(line, truth)

    def test_a_law_of_the_same_name_in_other_units_is_refused(self, jmak, truth):
        minutes = replace(jmak, parameters={"k": Parameter("1/min", "positive"), "n": Parameter()})
        with pytest.raises(ValueError, match=r"not of JMAK \(k \[1/min\], n; time \[s\], fraction\)"):
            Calibrator(minutes, truth)

    def test_a_law_whose_axes_have_other_units_is_refused(self, jmak, truth):
        """k in 1/s from a prior over seconds does not hold where x counts minutes."""
        with pytest.raises(ValueError, match="min"):
            Calibrator(replace(jmak, x=Axis("time", "min")), truth)

    @pytest.mark.parametrize("level", [0.0, 1.0, 90, -0.1])
    def test_a_level_that_is_no_probability_is_refused(self, jmak, truth, level):
        with pytest.raises(ValueError, match=f"level must lie between 0 and 1; got {level}"):
            Calibrator(jmak, truth, level=level)

    @pytest.mark.parametrize(("x", "y", "sigma", "message"), [
        ([], [], None, "no points"),
        ([[1.0], [2.0]], [0.1, 0.2], None, r"x has shape \(2, 1\)"),
        ([1.0, 2.0], [0.1], None, r"y has shape \(1,\)"),
        ([1.0, np.nan], [0.1, 0.2], None, r"x\[1\] is nan"),
        ([1.0, 2.0], [0.1, np.inf], None, r"y\[1\] is inf"),
        ([1.0, 1.0], [0.1, 0.2], None, "both 1"),
        ([1.0, 2.0], [0.1, 0.2], 0.0, r"sigma\[0\] is 0"),
        ([1.0, 2.0], [0.1, 0.2], -1.0, r"sigma\[0\] is -1"),
        ([1.0, 2.0], [0.1, 0.2], [0.1], r"sigma has shape \(1,\)"),
        ([1.0, 2.0], ["a", "b"], None, "y must be numbers"),
    ])  # fmt: skip
    def test_points_that_are_none_are_refused_with_the_specimens_name(self, jmak, truth, x, y, sigma, message):
        with pytest.raises(ValueError, match=f"specimen 'alloy 9': .*{message}"):
            Calibrator(jmak, truth).fit(x, y, sigma, name="alloy 9")

    def test_numbers_that_the_law_rules_out_are_refused(self, jmak, truth):
        def check(x, y):
            if (x < 0).any():
                raise ValueError(f"time {x.min():g} is negative")

        law = replace(jmak, check=check)
        with pytest.raises(ValueError, match="specimen 'specimen': time -1 is negative"):
            Calibrator(law, replace(truth, family=replace(truth.family, law=law))).fit([-1.0, 1.0], [0.0, 0.5])

    def test_a_missing_condition_is_named_with_the_specimen(self, jmak):
        prior = Prior.by_hand(jmak, [[0.0, 2.5], [0.5, 0.0]], np.diag([0.01, 0.01]), 0.02, HOT)
        with pytest.raises(ValueError, match="alloy 9 has no condition 'temperature'; the prior needs temperature"):
            Calibrator(jmak, prior).fit([1.0], [0.5], name="alloy 9")

    def test_curves_in_other_units_than_the_laws_are_refused(self, jmak, truth):
        curves = Curves([Curve("A", [1.0, 2.0], [0.1, 0.2])], Axis("time", "min"), Axis("fraction"))
        with pytest.raises(ValueError, match=r"curves are in min, law JMAK expects s; call curves\.convert"):
            Calibrator(jmak, truth).fit_many(curves)

    def test_no_specimens_are_refused(self, jmak, truth):
        with pytest.raises(ValueError, match="no curves"):
            Calibrator(jmak, truth).fit_many([])

    def test_measured_fractions_slightly_outside_zero_and_one_are_data(self, jmak, truth):
        fit = Calibrator(jmak, truth).fit([0.1, 0.2, 1.0, 3.0], [-0.01, -0.02, 0.6, 1.03])
        assert fit.converged and not fit["k"].reason
