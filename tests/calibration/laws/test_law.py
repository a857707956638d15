"""Laws: supports, names, the two ways to a batch, and a law that a user writes in five lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

F64 = torch.float64
THREE = {"a": Parameter("m"), "b": Parameter("1/s", "positive"), "c": Parameter("", "unit")}


def make(fn, parameters=None, **kwargs):
    return Law("test", fn, parameters or THREE, **kwargs)


def smooth(x, a, b, c):
    return a + c * torch.exp(-b * x)


def integral(x, a, b, c):
    """The same curve up to quadrature, by summing its rate along x: needs all points."""
    rate = -b * c * torch.exp(-b * x)
    steps = 0.5 * (rate[1:] + rate[:-1]) * (x[1:] - x[:-1])
    return a + c + torch.cat([torch.zeros_like(x[:1]), steps.cumsum(0)])


class TestSupports:
    def test_the_transforms_invert(self):
        law = make(smooth)
        u = {name: torch.linspace(-6.0, 6.0, 25, dtype=F64) for name in law.names}
        back = law.unconstrain(law.constrain(u))
        for name in law.names:
            torch.testing.assert_close(back[name], u[name], rtol=1e-12, atol=1e-12)

    def test_constrained_values_lie_inside_their_supports(self):
        values = make(smooth).constrain({name: torch.linspace(-30.0, 30.0, 99, dtype=F64) for name in THREE})
        assert values["a"].min() < 0 < values["b"].min()
        assert values["c"].min() > 0 and values["c"].max() < 1

    def test_softplus_is_positive_and_nearly_the_value_itself_above_one(self):
        law = Law("power", lambda x, n: x**n, {"n": Parameter("", "softplus")})
        u = torch.tensor([-30.0, -1.0, 0.0, 2.0, 40.0], dtype=F64)
        value = law.constrain({"n": u})["n"]
        torch.testing.assert_close(value, torch.nn.functional.softplus(u, threshold=100.0), rtol=1e-12, atol=0.0)
        assert value.min() > 0 and float(value[-1]) == pytest.approx(40.0)
        torch.testing.assert_close(law.unconstrain({"n": value})["n"], u, rtol=1e-9, atol=1e-9)
        with pytest.raises(ValueError, match="outside its support"):
            law.unconstrain({"n": torch.tensor(0.0)})

    @pytest.mark.parametrize(("name", "value"), [("b", 0.0), ("b", -1.0), ("c", 1.0), ("c", 1.5), ("a", np.nan)])
    def test_a_value_outside_its_support_is_refused_by_name(self, name, value):
        with pytest.raises(ValueError, match=rf"^{name} = .* outside its support .* law test"):
            make(smooth).unconstrain({name: torch.tensor(value)})

    def test_an_unknown_support_is_refused_with_those_there_are(self):
        with pytest.raises(ValueError, match="real, positive, softplus, unit; got 'nonnegative'"):
            Parameter("s", "nonnegative")


class TestNames:
    def test_an_unknown_parameter_is_refused_with_the_names_there_are(self):
        with pytest.raises(ValueError, match=r"Unknown parameter 'B' of law test; it has a \[m\], b \[1/s\], c"):
            make(smooth)(torch.ones(2), a=1.0, B=1.0, c=0.5)

    def test_a_missing_value_is_named(self):
        with pytest.raises(ValueError, match="no value for b, c"):
            make(smooth)(torch.ones(2), a=1.0)

    def test_a_law_without_parameters_is_refused(self):
        with pytest.raises(ValueError, match="no parameters"):
            Law("empty", lambda x: x, {})

    def test_a_name_that_is_no_identifier_is_refused(self):
        with pytest.raises(ValueError, match="'x inf' is not a Python identifier"):
            make(smooth, {"x inf": Parameter()})

    def test_a_parameter_that_is_only_a_unit_is_refused(self):
        with pytest.raises(TypeError, match="k must be a Parameter; got '1/s'"):
            make(smooth, {"k": "1/s"})

    def test_shared_parameters_are_not_fast(self):
        law = make(smooth, {**THREE, "b": Parameter("1/s", "positive", shared=True)})
        assert law.names == ("a", "b", "c") and law.fast == ("a", "c")

    def test_axes_print_with_their_units(self):
        law = make(smooth, x=("time", "s"), y=Axis("signal"))
        assert (str(law.x), str(law.y)) == ("time [s]", "signal")


ELEMENTWISE = {
    "sum of exponentials": smooth,
    "power": lambda x, a, b, c: a * (b * x) ** c,
    "piecewise": lambda x, a, b, c: torch.where(x > c, a + b * (x - c), a),
    "constant": lambda x, a, b, c: a + b + c + 0 * x,
    "clamped": lambda x, a, b, c: (a + b * x * c).clamp(min=0.0),
}
ALONG_X = {
    "cumulative sum": lambda x, a, b, c: a + (b * c * x).cumsum(-1),
    "first point": lambda x, a, b, c: a + b * c * (x - x[0]),
    "first point of a batch": lambda x, a, b, c: a + b * c * (x - x[..., :1]),
    "largest x": lambda x, a, b, c: a + b * c * x / x.max(),
    "mean of x": lambda x, a, b, c: a + b * c * (x - x.mean(-1, keepdim=True)),
    "integral": integral,
    "number of points": lambda x, a, b, c: a + b * c * x / x.shape[-1] + x.flip(-1),
    "own loop": lambda x, a, b, c: torch.stack([a + b * c * x[i] for i in range(len(x))]),
    "matrix of powers": lambda x, a, b, c: torch.vander(x, 3) @ torch.stack([a, b, c]),
}


def counted(x, a, b, c):
    """A loss that adds up cycle by cycle, whatever x is."""
    return a * x - (b * c * torch.ones_like(x)).cumsum(-1)


def on_its_own_grid(x, a, b, c):
    """The integral again, on eight steps from 0 to 2, interpolated at x."""
    rate = -b * c * torch.exp(-b * torch.linspace(0.0, 2.0, 9, dtype=x.dtype))  # (..., 9)
    total = torch.cat([torch.zeros_like(rate[..., :1]), 0.125 * (rate[..., 1:] + rate[..., :-1]).cumsum(-1)], -1)
    left = (x / 0.25).floor().clamp(0, 7)
    low, high = total.gather(-1, left.long()), total.gather(-1, left.long() + 1)
    return a + c + low + (x / 0.25 - left) * (high - low)


class TestPointwise:
    @pytest.mark.parametrize("fn", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
    def test_elementwise_laws_are_found_out(self, fn):
        assert make(fn).pointwise

    @pytest.mark.parametrize("fn", ALONG_X.values(), ids=ALONG_X.keys())
    def test_laws_that_look_along_x_are_found_out(self, fn):
        assert not make(fn).pointwise

    @pytest.mark.parametrize("fn", [counted, on_its_own_grid])
    def test_laws_that_cannot_take_a_parameter_for_every_point_are_found_out(self, fn):
        """Their y at a point depends on x there alone, yet not on the parameters' copies there alone."""
        assert not make(fn).pointwise

    @pytest.mark.parametrize("fn", [smooth, integral])
    def test_the_batch_is_the_loop_over_specimens(self, fn):
        law = make(fn)
        rng = np.random.default_rng(0)
        u = {name: torch.from_numpy(rng.normal(size=7)) for name in law.names}
        x = torch.from_numpy(np.sort(rng.uniform(0.1, 2.0, (7, 6))))
        batch = law.curve(u, x)
        for i in range(7):
            values = {name: float(v[i]) for name, v in law.constrain(u).items()}
            torch.testing.assert_close(batch[i], law(x[i], **values), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("fn", [smooth, integral])
    def test_leading_axes_of_x_and_parameters_broadcast(self, fn):
        law = make(fn)
        rng = np.random.default_rng(1)
        u = {name: torch.from_numpy(rng.normal(size=(3, 5))) for name in law.names}
        x = torch.from_numpy(np.sort(rng.uniform(0.1, 2.0, (3, 1, 6))))
        whole = law.curve(u, x)
        assert whole.shape == (3, 5, 6)
        one = law.curve({name: v[2, 4] for name, v in u.items()}, x[2, 0])
        torch.testing.assert_close(whole[2, 4], one, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("fn", [smooth, integral, counted, on_its_own_grid])
    def test_linearized_is_the_finite_difference(self, fn):
        law = make(fn)
        rng = np.random.default_rng(2)
        u = {name: torch.from_numpy(rng.normal(size=4)) for name in law.names}
        x = torch.from_numpy(np.sort(rng.uniform(0.1, 2.0, (4, 6))))
        y, by = law.linearized(u, x)
        torch.testing.assert_close(y, law.curve(u, x), rtol=1e-13, atol=1e-13)
        assert list(by) == list(law.names)
        for name in law.names:
            up, down = (law.curve({**u, name: u[name] + s * 1e-6}, x) for s in (1, -1))
            torch.testing.assert_close(by[name], (up - down) / 2e-6, rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("fn", [lambda x, a, b: a * x, lambda x, a, b: a * x.cumsum(-1)])
    def test_a_parameter_without_influence_has_zero_derivative(self, fn):
        law = make(fn, {"a": Parameter(), "b": Parameter()})
        _, by = law.linearized({n: torch.ones(2, dtype=F64) for n in "ab"}, torch.ones(2, 3, dtype=F64))
        assert by["b"].shape == (2, 3) and (by["b"] == 0).all() and (by["a"] != 0).all()


class TestOwnLaw:
    def test_a_law_in_five_lines_works_from_past_to_band(self):
        """Michaelis-Menten, v = v_max s / (K_m + s), both parameters log-normal over 60 enzymes."""
        law = Law("Michaelis-Menten", lambda s, v_max, K_m: v_max * s / (K_m + s),
                  {"v_max": Parameter("umol/min", "positive"), "K_m": Parameter("mM", "positive")},
                  x=Axis("substrate", "mM"), y=Axis("rate", "umol/min"))  # fmt: skip
        rng = np.random.default_rng(3)
        v_max, k_m = np.exp(rng.normal([2.0, 0.5], [0.2, 0.4], (260, 2))).T
        s = np.geomspace(0.2, 20.0, 8)
        rates = v_max[:, None] * s / (k_m[:, None] + s) + rng.normal(0.0, 0.1, (260, 8))
        prior = learn_prior(law, [Curve(f"past {i}", s, rates[i]) for i in range(60)])
        assert prior.converged and prior.noise == pytest.approx(0.1, rel=0.1)
        fits = Calibrator(law, prior).fit_many([Curve(f"new {i}", s[:3], rates[i, :3]) for i in range(60, 260)])
        for name, true in (("v_max", v_max), ("K_m", k_m)):
            found = fits.estimates()[name]
            inside = ((found["lower"] <= true[60:]) & (true[60:] <= found["upper"])).mean()
            assert abs(inside - 0.9) < 3 * (0.09 / 200) ** 0.5 + 0.01, name  # binomial, and a prior from 60 enzymes
        report = str(fits[0])
        assert "v_max" in report and "umol/min" in report and "K_m" in report

    def test_a_law_that_returns_another_shape_is_refused(self):
        law = make(lambda x, a, b, c: (a + b + c * x).sum(), None)
        curves = [Curve(f"S{i}", [1.0, 2.0], [0.1, 0.2]) for i in range(9)]
        with pytest.raises(ValueError, match=r"law test: fn returned shape \(\) for x of shape \(2,\)"):
            learn_prior(law, curves)

    def test_numbers_that_the_law_cannot_describe_are_refused_with_the_specimens_name(self):
        def check(x, y):
            if (x < 0).any():
                raise ValueError("a time is negative")

        law = make(smooth, check=check)
        with pytest.raises(ValueError, match="specimen 'S3': a time is negative"):
            learn_prior(law, [Curve(f"S{i}", [1.0 - 2 * (i == 3), 2.0], [0.1, 0.2]) for i in range(9)])
