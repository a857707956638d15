"""Parameters at the end of their support, and intervals by profiles, against laws without them and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law, Parameter

POSITIVE, UNIT = Parameter(support="positive"), Parameter(support="unit")
TIMES = np.linspace(0.0, 10.0, 15)
NOISE = 0.02 * np.random.default_rng(1).standard_normal(15)
DECAY = Law("decay", lambda t, a, k: a * torch.exp(-k * t), dict.fromkeys("ak", POSITIVE))
OFFSET = Law("decay, offset", lambda t, a, k, b: a * torch.exp(-k * t) + b, dict.fromkeys("akb", POSITIVE))
SATURATION = Law("saturation", lambda t, a, k: a * (1 - torch.exp(-k * t)), dict.fromkeys("ak", POSITIVE))
LINE = Law("line", lambda t, a, b: a + b * t, dict.fromkeys("ab", POSITIVE))
BELOW = 2.0 * np.exp(-0.5 * TIMES) - 0.03 + NOISE  # best with a negative offset


def delayed(t, k, n, t0):
    return 1 - torch.exp(-((k * (t - t0).clamp(min=0.0)) ** n))


DELAYED = Law(
    "JMAK, delayed",
    delayed,
    dict.fromkeys(["k", "n", "t0"], POSITIVE),
    first_guess=lambda t, y: dict(k=0.02, n=2, t0=1),
)
JMAK = Law(
    "JMAK",
    lambda t, k, n: delayed(t, k, n, 0.0),
    dict.fromkeys("kn", POSITIVE),
    first_guess=lambda t, y: dict(k=0.02, n=2),
)


def transformed(t0: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return times and transformed fractions with noise 0.02."""
    t = 4.0 * np.arange(1, 31)
    y = 1 - np.exp(-((0.02 * np.maximum(t - t0, 0.0)) ** 1.5))
    return t, y + 0.02 * np.random.default_rng(seed).standard_normal(30)


def threshold(cost: float, dof: int, level: float = 0.9) -> float:
    return cost * (1 + stats.f.ppf(level, 1, dof) / dof)


def least_cost(law: Law, x: np.ndarray, y: np.ndarray, name: str, value: float, first: dict[str, float]) -> float:
    """Return the least sum of squares with one parameter at a value and the others not negative."""
    others = [other for other in law.names if other != name]

    def residual(v: np.ndarray) -> np.ndarray:
        values = {name: torch.tensor(value)} | {n: torch.tensor(one) for n, one in zip(others, v, strict=True)}
        return law.fn(torch.from_numpy(x), **values).numpy() - y

    costs = []
    for away in (1e-9, 0.003, 0.5):
        start = [first[other] + away for other in others]
        options = dict(bounds=(0.0, np.inf), x_scale=[max(one, 0.01) for one in start], xtol=1e-13, ftol=1e-13)
        costs.append(2.0 * optimize.least_squares(residual, start, **options).cost)
    return min(costs)


@pytest.mark.parametrize("sigma", [None, 0.02])
@pytest.mark.parametrize("law", [OFFSET, DELAYED])
def test_at_a_bound_of_zero_the_others_have_the_values_without_it_and_intervals_in_which_it_may_leave(law, sigma):
    x, y = (TIMES, BELOW) if law is OFFSET else transformed(0.0, 0)
    plain, name = (DECAY, "b") if law is OFFSET else (JMAK, "t0")
    fit, without = LeastSquares(law).fit(x, y, sigma), LeastSquares(plain).fit(x, y, sigma)
    assert fit.converged and fit[name].at_bound
    assert fit[name].value == fit[name].lower == 0.0 < fit[name].upper < np.inf
    assert np.isnan(fit[name].std)
    values = {one: fit[one].value for one in law.names}
    least = np.square(fit.residuals()).sum()
    end = threshold(least, len(x) - 3) if sigma is None else least + (stats.norm.ppf(0.95) * sigma) ** 2
    for other in plain.names:
        assert not fit[other].at_bound
        for part in ("value", "std"):
            assert getattr(fit[other], part) == pytest.approx(getattr(without[other], part), rel=1e-5)
        for bound in (fit[other].lower, fit[other].upper):
            assert least_cost(law, x, y, other, bound, values) == pytest.approx(end, rel=1e-5)
    np.testing.assert_allclose(fit.predict(x), without.predict(x), rtol=1e-5, atol=1e-8)
    assert fit.batch.draws.noise[0] == pytest.approx(without.batch.draws.noise[0], rel=1e-6)


def test_the_upper_end_is_where_the_cost_of_a_fit_with_the_parameter_fixed_crosses_the_threshold():
    fit = LeastSquares(OFFSET).fit(TIMES, BELOW)
    fixed = Law("fixed", lambda t, a, k: a * torch.exp(-k * t) + fit["b"].upper, dict.fromkeys("ak", POSITIVE))
    least, at_end = (np.square(one.residuals()).sum() for one in (fit, LeastSquares(fixed).fit(TIMES, BELOW)))
    assert at_end == pytest.approx(threshold(least, 12), rel=1e-5)


def test_a_profile_of_a_linear_law_is_the_closed_form():
    """A positive slope of 0.8 standard errors: the parabola ends at the t interval, and begins at zero."""
    y = 1.0 + NOISE + 0.0004 * TIMES
    (slope, _), covariance = np.polyfit(TIMES, y, 1, cov=True)
    error = np.sqrt(covariance[0, 0])
    y = y + (0.8 * error - slope) * TIMES  # the residuals stay
    fit = LeastSquares(LINE).fit(TIMES, y)
    assert fit["b"].value == pytest.approx(0.8 * error, rel=1e-6) and not fit["b"].at_bound
    assert fit["b"].lower == 0.0
    assert fit["b"].upper == pytest.approx((0.8 + stats.t.ppf(0.95, 13)) * error, rel=1e-4)


def test_a_rate_too_fast_for_the_times_is_infinite_with_a_lower_end():
    y = np.where(TIMES > 0, 2.0, 0.0) + NOISE
    y[1] = 2.05  # above all others: the faster, the better
    fit = LeastSquares(SATURATION).fit(TIMES, y)
    assert fit.converged and fit["a"].value == pytest.approx(2.0, abs=0.02)
    assert fit["a"].upper - fit["a"].lower < 0.04
    assert fit["k"].lower > 1.0 and fit["k"].upper == np.inf
    assert "> " in fit["k"].interval and "> " in str(fit)


def test_where_only_the_ratio_of_two_parameters_shows_both_have_lower_ends_alone():
    law = Law("Michaelis-Menten", lambda x, v, K: v * x / (K + x), dict.fromkeys("vK", POSITIVE))
    fit = LeastSquares(law).fit(TIMES, 0.3 * TIMES + 0.003 * TIMES**2 + NOISE)
    for name in "vK":
        assert fit[name].at_bound and fit[name].value == fit[name].upper == np.inf > fit[name].lower > 10.0
    low, high = fit.band([5.0])[1:3]
    assert low[0] < fit.predict([5.0])[0] < high[0]


def test_a_fraction_of_one_is_at_its_bound():
    law = Law("saturation", lambda t, a, k: a * (1 - torch.exp(-k * t)), {"a": UNIT, "k": POSITIVE})
    whole = Law("whole", lambda t, k: 1 - torch.exp(-k * t), {"k": POSITIVE})
    y = 1.03 * (1 - np.exp(-0.6 * TIMES)) + NOISE
    fit, without = LeastSquares(law).fit(TIMES, y), LeastSquares(whole).fit(TIMES, y)
    assert fit["a"].at_bound and fit["a"].value == fit["a"].upper == 1.0
    assert 0.9 < fit["a"].lower < 1.0
    assert fit["k"].value == pytest.approx(without["k"].value, rel=1e-6)
    at_ends = [min(np.square(y - a * (1 - np.exp(-k * TIMES))).sum() for a in np.linspace(0.9, 1.0, 10001))
               for k in (fit["k"].lower, fit["k"].upper)]  # fmt: skip
    assert at_ends == pytest.approx([threshold(np.square(fit.residuals()).sum(), 13)] * 2, rel=1e-5)


def test_an_amplitude_of_zero_leaves_its_rate_open():
    """Two parameters of which the one has no meaning without the other: the rate can be anything."""
    fit = LeastSquares(DECAY).fit(TIMES, 0.02 * np.random.default_rng(4).standard_normal(15) - 0.01)
    assert fit.converged
    assert fit["a"].lower == 0.0 < fit["a"].upper < 0.1
    assert np.isnan(fit["k"].lower) or (fit["k"].lower == 0.0 and fit["k"].upper == np.inf)


def test_report_and_frames_say_at_its_bound():
    fit = LeastSquares(OFFSET).fit(TIMES, BELOW, name="S1")
    assert "at its bound: b = 0; intervals by profiles of the likelihood, in which it may leave it" in str(fit)
    assert "solve: converged" in str(fit) and "no intervals" not in str(fit)
    assert str(fit["b"]).startswith("b = 0 (at its bound; 90% interval 0 to 0.0")
    assert fit.to_frame()["at_bound"].to_dict() == {"a": False, "k": False, "b": True}
    many = LeastSquares(OFFSET).fit_many([fit.curve, Curve("S2", TIMES, BELOW + 0.5, None)])
    assert many.to_frame()["note"].tolist() == ["at its bound: b", ""]
    assert fit.next_measurement([1.0, 5.0], "k").best in (1.0, 5.0)
    drawn = fit.sample(1000)["b"]
    assert 0.4 < (drawn < 1e-12).mean() < 0.6 and 0.02 < (drawn > fit["b"].upper).mean() < 0.09


def test_specimens_fitted_together_keep_their_intervals_where_one_is_at_its_bound():
    law = Law(OFFSET.name, OFFSET.fn, {**OFFSET.parameters, "k": Parameter(support="positive", shared=True)})
    rng = np.random.default_rng(2)
    curves = [
        Curve(f"S{i}", TIMES, 2 * np.exp(-0.5 * TIMES) + b + 0.02 * rng.standard_normal(15))
        for i, b in enumerate([-0.05, 0.4, 0.2])
    ]
    fits = LeastSquares(law).fit_many(curves)
    assert fits.converged.all()
    assert [fit["b"].at_bound for fit in fits] == [True, False, False]

    def curve(_, *p):
        return np.concatenate([a * np.exp(-p[5] * TIMES) + b for a, b in zip(p[:3], (0.0, *p[3:5]), strict=True)])

    values, covariance = optimize.curve_fit(
        curve, None, np.concatenate([c.y for c in curves]), [2, 2, 2, 0.4, 0.2, 0.5], xtol=1e-12
    )
    assert fits[0]["k"].value == pytest.approx(values[5], rel=1e-6)
    assert fits[0]["k"].std == pytest.approx(covariance[5, 5] ** 0.5, rel=1e-3)
    assert fits[1]["b"].std == pytest.approx(covariance[3, 3] ** 0.5, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("t0", [0.0, 2.0])
def test_intervals_and_bands_hold_their_level_at_the_bound_and_near_it(t0):
    """Of 200 draws at 90 %: 20 outside are expected; above 33 would be one chance in a thousand."""
    fits = [LeastSquares(DELAYED).fit(*transformed(t0, seed)) for seed in range(200)]
    assert all(fit.converged for fit in fits)
    for name, truth in {"k": 0.02, "n": 1.5, "t0": t0}.items():
        assert sum(not fit[name].lower <= truth <= fit[name].upper for fit in fits) <= 33, name
    x = np.array([20.0, 40.0])  # where the curve has begun to rise: before, a band at a bound is too narrow
    truth = 1 - np.exp(-((0.02 * (x - t0)) ** 1.5))
    bands = [fit.band(x) for fit in fits]
    assert (sum((band.lower > truth) | (truth > band.upper) for band in bands) <= 33).all()


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="of least squares at a bound the band before the curve rises is too narrow")
def test_at_a_bound_the_band_holds_its_level_before_the_curve_rises():
    """As above, at x = 6 with t0 = 0."""
    bands = [LeastSquares(DELAYED).fit(*transformed(0.0, seed)).band(np.array([6.0])) for seed in range(200)]
    truth = 1 - np.exp(-((0.02 * 6.0) ** 1.5))
    assert sum(bool(band.lower[0] > truth or truth > band.upper[0]) for band in bands) <= 33
