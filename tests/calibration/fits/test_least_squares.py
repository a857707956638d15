"""Least squares against certified values, against curve_fit, and at its public door."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.least_squares import LeastSquares, solve
from scimeta.calibration.laws.law import Law, Parameter

NIST = Path(__file__).parents[1] / "nist_strd"
TAU = 2 * np.pi


def gauss(x, b1, b2, b3, b4, b5, b6, b7, b8):
    peaks = b3 * torch.exp(-(((x - b4) / b5) ** 2)) + b6 * torch.exp(-(((x - b7) / b8) ** 2))
    return b1 * torch.exp(-b2 * x) + peaks


def lanczos(x, b1, b2, b3, b4, b5, b6):
    return b1 * torch.exp(-b2 * x) + b3 * torch.exp(-b4 * x) + b5 * torch.exp(-b6 * x)


def chwirut(x, b1, b2, b3):
    return torch.exp(-b1 * x) / (b2 + b3 * x)


def enso(x, b1, b2, b3, b4, b5, b6, b7, b8, b9):
    year = b2 * torch.cos(TAU * x / 12) + b3 * torch.sin(TAU * x / 12)
    slow = b5 * torch.cos(TAU * x / b4) + b6 * torch.sin(TAU * x / b4)
    return b1 + year + slow + b8 * torch.cos(TAU * x / b7) + b9 * torch.sin(TAU * x / b7)


def hahn(x, b1, b2, b3, b4, b5, b6, b7):
    return (b1 + b2 * x + b3 * x**2 + b4 * x**3) / (1 + b5 * x + b6 * x**2 + b7 * x**3)


MODELS = {
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": lambda x, b1, b2: b1 * x**b2,
    "ENSO": enso,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": hahn,
    "Kirby2": lambda x, b1, b2, b3, b4, b5: (b1 + b2 * x + b3 * x**2) / (1 + b4 * x + b5 * x**2),
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH17": lambda x, b1, b2, b3, b4, b5: b1 + b2 * torch.exp(-x * b4) + b3 * torch.exp(-x * b5),
    "Misra1a": lambda x, b1, b2: b1 * (1 - torch.exp(-b2 * x)),
    "Misra1b": lambda x, b1, b2: b1 * (1 - (1 + b2 * x / 2) ** -2),
    "Misra1c": lambda x, b1, b2: b1 * (1 - (1 + 2 * b2 * x) ** -0.5),
    "Misra1d": lambda x, b1, b2: b1 * b2 * x / (1 + b2 * x),
    "Nelson": None,  # has two predictors: its law is made with its data
    "Roszman1": lambda x, b1, b2, b3, b4: b1 - b2 * x - torch.atan(b3 / (x - b4)) / np.pi,
}


class Certified(NamedTuple):
    law: Law
    x: np.ndarray
    y: np.ndarray
    starts: np.ndarray  # (2, parameters)
    values: np.ndarray
    errors: np.ndarray
    cost: float


def certified(name: str) -> Certified:
    lines = (NIST / f"{name}.dat").read_text().splitlines()
    table = np.array([line.split("=")[1].split() for line in lines[:60] if line.strip()[:1] == "b" and "=" in line])
    starts, values, errors = table[:, :2].T.astype(float), *table[:, 2:].T.astype(float)
    cost = next(float(line.split(":")[1]) for line in lines if line.startswith("Residual Sum of Squares"))
    y, x, *more = np.array([line.split() for line in lines[60:] if line.strip()], dtype=float).T
    fn = MODELS[name]
    if name == "Nelson":
        first, second = torch.tensor(x), torch.tensor(more[0])
        x, y = np.arange(len(y), dtype=float), np.log(y)

        def fn(row, b1, b2, b3):
            return b1 - b2 * first[row.long()] * torch.exp(-b3 * second[row.long()])

    law = Law(name, fn, {f"b{i + 1}": Parameter() for i in range(len(values))})
    return Certified(law, x, y, starts, values, errors, cost)


BOTH_STARTS = pytest.mark.parametrize("start", [0, 1])


@BOTH_STARTS
@pytest.mark.parametrize("name", [name for name in MODELS if name != "Lanczos1"])
def test_least_squares_reaches_nist_values_and_standard_errors(name, start):
    problem = certified(name)
    fit = LeastSquares(problem.law).fit(
        problem.x, problem.y, start=dict(zip(problem.law.names, problem.starts[start], strict=True))
    )
    assert fit.converged
    np.testing.assert_allclose([fit[n].value for n in problem.law.names], problem.values, rtol=1e-6)
    np.testing.assert_allclose([fit[n].std for n in problem.law.names], problem.errors, rtol=1e-6)


@BOTH_STARTS
def test_lanczos1_ends_with_a_residual_at_machine_level(start):
    problem = certified("Lanczos1")
    found = solve(problem.law, problem.x, problem.y, None, problem.starts[start])
    assert found.converged
    assert found.cost < 1.01 * problem.cost
    np.testing.assert_allclose(found.u, problem.values, rtol=1e-6)


PEAK = Law("peak", lambda x, a, w, c: a * torch.exp(-(((x - c) / w) ** 2)), dict.fromkeys("awc", Parameter()))
SATURATION = Law("saturation", lambda x, a, b: a * (1 - torch.exp(-b * x)), dict.fromkeys("ab", Parameter()))
RATIONAL = Law(
    "rational", lambda x, a, b, c, d: a * (x**2 + b * x) / (x**2 + c * x + d), dict.fromkeys("abcd", Parameter())
)


@pytest.mark.parametrize(
    ("law", "truth", "start", "x"),
    [
        (SATURATION, (40.0, 0.3), (1.0, 30.0), np.linspace(1, 12, 9)),
        (SATURATION, (40.0, 0.3), (1.0, 3e-4), np.linspace(1, 12, 9)),
        (PEAK, (2.0, 12.0, 210.0), (1.0, 1.0, 300.0), np.linspace(150, 260, 40)),
        (RATIONAL, (0.3, 0.4, 0.3, 0.2), (0.653, 0.0264, 23.8, 0.0584), np.geomspace(0.05, 5, 11)),
    ],
)
def test_a_start_on_a_plateau_or_beside_a_pole_still_leads_to_the_best_minimum(law, truth, start, x):
    values = dict(zip(law.names, truth, strict=True))
    exact = law(torch.from_numpy(x), **values).numpy()
    y = exact + 0.005 * np.ptp(exact) * np.random.default_rng(3).standard_normal(len(x))
    near = solve(law, x, y, None, np.array(truth))
    far = solve(law, x, y, None, np.array(start))
    assert near.converged and far.converged
    assert near.cost <= ((y - exact) ** 2).sum()
    np.testing.assert_allclose(far.u, near.u, rtol=1e-6)


def test_a_parameter_of_either_sign_keeps_the_sign_of_the_start():
    x = np.linspace(150, 260, 40)
    y = 2 * np.exp(-(((x - 210) / 12) ** 2)) + 0.02 * np.random.default_rng(1).standard_normal(40)
    found = [solve(PEAK, x, y, None, np.array([1.0, w, 300.0])) for w in (1.0, -1.0)]
    np.testing.assert_allclose(found[0].u, found[1].u * [1, -1, 1], rtol=1e-6)
    assert found[0].u[1] > 0


def test_terms_that_can_change_places_keep_the_order_of_the_start():
    law = Law(
        "two", lambda x, a, b, k, m: a * torch.exp(-k * x) + b * torch.exp(-m * x), dict.fromkeys("abkm", Parameter())
    )
    x = np.linspace(0, 10, 40)
    y = 3 * np.exp(-0.2 * x) + 5 * np.exp(-2 * x) + 0.02 * np.random.default_rng(0).standard_normal(40)
    slow_first = solve(law, x, y, None, np.array([1.0, 1.0, 0.5, 1.0]))
    fast_first = solve(law, x, y, None, np.array([1.0, 1.0, 1.0, 0.5]))
    np.testing.assert_allclose(slow_first.u, fast_first.u[[1, 0, 3, 2]], rtol=1e-6)
    assert slow_first.u[2] < slow_first.u[3]


JMAK = Law(
    "jmak",
    lambda t, k, n: 1 - torch.exp(-((k * t) ** n)),
    {"k": Parameter("1/s", "positive"), "n": Parameter("", "positive")},
)
LINE = Law("line", lambda x, a, b: a + b * x, {"a": Parameter(), "b": Parameter()})
PRODUCT = Law("product", lambda x, a, b: a * b * x, {"a": Parameter(), "b": Parameter()})
TIMES = np.linspace(5.0, 100.0, 12)
FRACTION = 1 - np.exp(-((0.02 * TIMES) ** 2.3)) + 0.02 * np.random.default_rng(0).standard_normal(12)
START = {"k": 0.05, "n": 1.0}


@pytest.mark.parametrize("sigma", [None, 0.03, np.linspace(0.01, 0.04, 12)])
def test_values_and_standard_errors_agree_with_curve_fit(sigma):
    fit = LeastSquares(JMAK).fit(TIMES, FRACTION, sigma, start=START)
    values, covariance = optimize.curve_fit(
        lambda t, k, n: 1 - np.exp(-((k * t) ** n)),
        TIMES, FRACTION, [0.03, 2.0], sigma=None if sigma is None else np.broadcast_to(sigma, 12),
        absolute_sigma=sigma is not None, ftol=1e-14, xtol=1e-14,
    )  # fmt: skip
    np.testing.assert_allclose([fit["k"].value, fit["n"].value], values, rtol=1e-6)
    np.testing.assert_allclose([fit["k"].std, fit["n"].std], np.sqrt(covariance.diagonal()), rtol=1e-5)


def test_intervals_are_student_t_in_the_unconstrained_space():
    fit = LeastSquares(JMAK, level=0.95).fit(TIMES, FRACTION, start=START)
    k = fit["k"]
    half = stats.t.ppf(0.975, len(TIMES) - 2) * k.std / k.value  # of ln k, by the delta method
    np.testing.assert_allclose([k.lower, k.upper], k.value * np.exp([-half, half]), rtol=1e-6)


def test_with_sigma_given_intervals_are_normal_and_need_no_spare_point():
    fit = LeastSquares(LINE, level=0.9).fit([0.0, 1.0], [1.0, 3.0], 0.1)
    half = stats.norm.ppf(0.95) * 0.1 * np.sqrt([1.0, 2.0])
    ends = [[getattr(fit[name], end) for name in "ab"] for end in ("lower", "upper")]
    np.testing.assert_allclose(ends, np.array([1.0, 2.0]) + np.array([[-1], [1]]) * half, rtol=1e-6)


def test_no_start_is_needed():
    given = LeastSquares(JMAK).fit(TIMES, FRACTION, start=START)
    free = LeastSquares(JMAK).fit(TIMES, FRACTION)
    guessed = LeastSquares(
        Law(JMAK.name, JMAK.fn, JMAK.parameters, first_guess=lambda x, y: {"k": 1 / np.median(x), "n": 2.0})
    ).fit(TIMES, FRACTION)
    for fit in (free, guessed):
        assert fit.converged
        np.testing.assert_allclose([fit["k"].value, fit["n"].value], [given["k"].value, given["n"].value], rtol=1e-6)


@pytest.mark.parametrize(
    ("law", "x", "y", "converged", "reason"),
    [
        (LINE, [1.0], [1.0], False, "1 point cannot determine 2 parameters"),
        (LINE, [1.0, 1.0, 1.0], [1.0, 2.0, 4.0], False, "the points do not determine a, b"),
        (LINE, [1.0, 2.0], [1.0, 2.5], True, "as many parameters as points"),
        (LINE, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], True, "passes through every point"),
        (PRODUCT, [1.0, 2.0, 3.0], [2.0, 4.0, 6.1], False, "the points do not determine a, b"),
        (JMAK, [1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 2.0, 4.0], False, "the points do not determine n"),
        (JMAK, [10.0, 20.0, 30.0], [0.0, 0.0, 0.0], False, "passes through every point"),
    ],
)
def test_intervals_that_cannot_be_defended_are_withheld_with_a_reason(law, x, y, converged, reason):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*did not converge")
        fit = LeastSquares(law).fit(np.array(x), np.array(y), start=dict.fromkeys(law.names, 1.0))
    assert fit.converged is converged
    for name in law.names:
        assert np.isfinite(fit[name].value)
        assert np.isnan(fit[name].lower) and np.isnan(fit[name].upper) and np.isnan(fit[name].std)
        assert reason in fit[name].reason


def test_a_fit_that_did_not_converge_warns_once_with_the_reason():
    with pytest.warns(UserWarning, match="A7 did not converge: the points do not determine a, b") as caught:
        LeastSquares(PRODUCT).fit([1.0, 2.0, 3.0], [2.0, 4.0, 6.1], start={"a": 1.0, "b": 1.0}, name="A7")
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("x", "y", "sigma", "start", "message"),
    [
        (TIMES, FRACTION[:, None], None, START, r"y has shape \(12, 1\), x has shape \(12,\); pass y.ravel\(\)"),
        ([1.0, 2.0, 3.0], [0.1, np.nan, 0.3], None, START, r"y\[1\] is nan"),
        ([1.0, 2.0, np.inf], [0.1, 0.2, 0.3], None, START, r"x\[2\] is inf"),
        ([], [], None, START, "there are no points"),
        ([1.0, 2.0], [0.1, 0.2], [0.1, 0.0], START, r"sigma\[1\] is 0"),
        ([1.0, 2.0], [0.1, 0.2], -0.1, START, r"sigma\[0\] is -0.1"),
        ([1.0, 2.0], [0.1, 0.2], [0.1, np.nan], START, "no sigma at x = 2"),
        (TIMES, FRACTION, None, {"K": 1.0}, r"Unknown parameter 'K' of law jmak; it has k \[1/s\], n"),
        (TIMES, FRACTION, None, {"k": 1.0}, "law jmak: no value for n"),
        (TIMES, FRACTION, None, {"k": -1.0, "n": 1.0}, "k = -1.0 lies outside its support"),
    ],
)
def test_bad_input_is_refused_with_its_place_named(x, y, sigma, start, message):
    with pytest.raises(ValueError, match=message):
        LeastSquares(JMAK).fit(x, y, sigma, start=start)


def test_the_law_checks_the_points_before_the_solve():
    def check(x: np.ndarray, y: np.ndarray) -> None:
        if (x < 0).any():
            raise ValueError("times must not be negative")

    law = Law(JMAK.name, JMAK.fn, JMAK.parameters, check=check)
    with pytest.raises(ValueError, match="times must not be negative"):
        LeastSquares(law).fit([-1.0, 1.0, 2.0], [0.1, 0.2, 0.3])


def test_a_level_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"got 90 \(0.9 for 90 %\)"):
        LeastSquares(JMAK, level=90)


def test_a_kinked_law_finds_the_best_of_its_minima():
    """An incubation time has a minimum between any two sampled times; descents from elsewhere find the best."""
    law = Law(
        "delayed rise",
        lambda t, a, k, n, t0: a * -torch.expm1(-((k * (t - t0).clamp(min=1e-9)) ** n)),
        {name: Parameter(support="positive") for name in ("a", "k", "n", "t0")},
        first_guess=lambda t, y: {"a": 6.0, "k": 0.05, "n": 1.0, "t0": 1.0},
    )
    t = np.array([0.0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40])
    noise = np.random.default_rng(3).normal(0.0, 0.12, len(t))
    y = 6.4 * -np.expm1(-((0.2 * np.maximum(t - 0.8, 0.0)) ** 0.9)) + noise
    starts = (None, {"a": 3.0, "k": 0.02, "n": 2.0, "t0": 0.1})
    cost = [np.square(LeastSquares(law).fit(t, y, start=start).residuals()).sum() for start in starts]
    truth = np.square(noise).sum()
    assert cost[0] <= truth and cost[1] == pytest.approx(cost[0], rel=1e-6)


class TestShared:
    """A parameter that is shared has one value, fitted to all specimens together."""

    LAW = Law(
        "shared rate",
        lambda t, a, k: a * torch.exp(-k * t),
        {"a": Parameter("mV", "positive"), "k": Parameter("1/s", "positive", shared=True)},
        first_guess=lambda t, y: {"a": 1.0, "k": 1.0},
    )

    def curves(self, sigma: float | None = None, count: int = 3) -> list[Curve]:
        rng, curves = np.random.default_rng(0), []
        for i in range(count):
            x, a = np.linspace(0, 8 - i % 3, 9 - 2 * (i % 3)), 2.0 ** (i % 4)
            curves.append(Curve(f"S{i}", x, a * np.exp(-0.3 * x) + 0.02 * rng.standard_normal(len(x)), sigma))
        return curves

    @staticmethod
    def reference(curves: list[Curve], sigma: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Return values and standard errors of the amplitudes and the rate, by SciPy's ``curve_fit``."""
        x, y = (np.concatenate([getattr(curve, side) for curve in curves]) for side in "xy")
        which = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
        weights = {} if sigma is None else {"sigma": np.full(len(x), sigma), "absolute_sigma": True}
        best, covariance = optimize.curve_fit(
            lambda x, *p: np.array(p)[which] * np.exp(-p[-1] * x),
            x,
            y,
            [1.0] * len(curves) + [0.3],
            xtol=1e-13,
            **weights,
        )
        return best, np.sqrt(np.diag(covariance))

    @pytest.mark.parametrize("sigma", [None, 0.03])
    @pytest.mark.parametrize("count", [2, 3, 12])
    def test_values_and_errors_are_those_of_one_fit_of_all_points(self, sigma, count):
        curves = self.curves(sigma, count)
        fits, (best, error) = LeastSquares(self.LAW).fit_many(curves), self.reference(curves, sigma)
        for i, fit in enumerate(fits):
            assert fit["k"].value == fits[0]["k"].value == pytest.approx(best[-1], rel=1e-6)
            assert fit["a"].value == pytest.approx(best[i], rel=1e-6)
            assert fit["k"].std == pytest.approx(error[-1], rel=1e-3)
            assert fit["a"].std == pytest.approx(error[i], rel=1e-3)
            assert fit.converged
        dof = np.inf if sigma else sum(map(len, curves)) - count - 1
        reach = stats.t.ppf(0.95, dof) * error[-1] / best[-1]
        assert np.log(fits[0]["k"].upper / fits[0]["k"].value) == pytest.approx(reach, rel=1e-3)

    def test_a_specimen_that_says_too_little_alone_is_fitted_with_the_others(self):
        curves = [*self.curves(), Curve("one point", [2.0], [3.0])]
        fits = LeastSquares(self.LAW).fit_many(curves)
        assert fits["one point"]["k"].value == fits[0]["k"].value
        assert fits["one point"]["a"].value == pytest.approx(3.0 * np.exp(2 * fits[0]["k"].value), rel=1e-9)
        assert np.isfinite(fits["one point"]["a"].std)

    def test_the_report_says_so_and_judges_no_specimen_by_its_own_degrees_of_freedom(self):
        fits = LeastSquares(self.LAW).fit_many(self.curves())
        for text in (str(fits), str(fits["S1"])):
            assert "least squares of 3 specimens together, no prior" in text
        assert "chi-square" not in str(fits["S1"])
        residuals = np.concatenate([fit.residuals() for fit in fits])
        np.testing.assert_allclose(fits.draws.noise, (residuals @ residuals / (21 - 4)) ** 0.5)

    def test_a_law_of_shared_parameters_alone_is_one_fit(self):
        law = Law("line", lambda t, a, b: a + b * t, {n: Parameter(shared=True) for n in "ab"})
        rng = np.random.default_rng(1)
        curves = [Curve(f"S{i}", np.arange(5.0), 1 + 2 * np.arange(5.0) + rng.standard_normal(5)) for i in range(3)]
        fit = LeastSquares(law).fit_many(curves)[2]
        x, y = (np.concatenate([getattr(curve, side) for curve in curves]) for side in "xy")
        (slope, level), covariance = np.polyfit(x, y, 1, cov="unscaled")
        scatter = ((y - level - slope * x) ** 2).sum() / 13
        assert (fit["a"].value, fit["b"].value) == pytest.approx((level, slope), rel=1e-8)
        assert fit["b"].std == pytest.approx((scatter * covariance[0, 0]) ** 0.5, rel=1e-6)

    def test_a_single_specimen_is_fitted_as_ever(self):
        curve = self.curves()[0]
        (many,), one = LeastSquares(self.LAW).fit_many([curve]), LeastSquares(self.LAW).fit(curve.x, curve.y)
        assert many["k"].value == pytest.approx(one["k"].value, rel=1e-12)
        assert "chi-square" in str(many)

    def test_a_parameter_that_no_point_determines_is_named_with_its_specimen(self):
        law = Law(
            "two",
            lambda t, a, b, k: (a + b) * torch.exp(-k * t),
            {**{n: Parameter() for n in "ab"}, "k": self.LAW.parameters["k"]},
        )
        with pytest.warns(
            UserWarning, match="all specimens together did not converge: the points do not determine a of S"
        ):
            fits = LeastSquares(law).fit_many(self.curves())
        assert not fits.converged.any()

    def test_a_sigma_for_some_specimens_only_is_refused(self):
        with pytest.raises(ValueError, match="S0 has a sigma, S1 has none; specimens that share a parameter"):
            LeastSquares(self.LAW).fit_many([self.curves(0.1)[0], self.curves()[1]])
