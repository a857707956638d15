"""What a prior prints of noise, discrepancy and groups: the numbers are those of what is believed."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Learned
from scimeta.calibration.laws.law import Law, Parameter

PARAMETERS = {"k": Parameter("1/s", "positive"), "n": Parameter(), "w": Parameter("", "unit"),
              "s": Parameter("mm", "softplus")}  # fmt: skip
LAW = Law("all", lambda t, k, n, w, s: w * torch.exp(-k * t) + s + n * t, PARAMETERS,
          Axis("time", "s"), Axis("length", "mm"))  # fmt: skip
RAMP = Law("ramp", lambda t, b: b * t, {"b": Parameter("mm/s")}, Axis("time", "s"), Axis("length", "mm"))
SINE = Law("sine", lambda t, b: b + 0.0 * t, {"b": Parameter("mm")}, Axis("time", "s"), Axis("length", "mm"))


def believed(law: Law = RAMP, noise: float = 0.12, learned: Learned | None = None, **parts: object) -> Prior:
    """Return a prior set by hand with these parts of a family."""
    fast = len(law.fast)
    plain = Prior.by_hand(law, np.full((1, fast), 0.5), 0.04 * np.eye(fast), noise)
    return Prior(replace(plain.family, **parts), learned=learned)


def line_with(word: str, prior: Prior) -> str:
    (line,) = [line for line in str(prior).splitlines() if line.startswith(word)]
    return line


def smooth(mean: np.ndarray, own: np.ndarray, doubt: np.ndarray, **other: object) -> Discrepancy:
    """Return a discrepancy over time, with knots at 0, 1, 2, ..."""
    knots = np.arange(float(len(mean) - bool(other.get("start"))))
    return Discrepancy(("x",), (knots,), mean, own, doubt, **other)


class TestNoise:
    def test_that_is_constant_is_one_number(self):
        assert line_with("noise", believed()) == "noise sd 0.12 mm"

    @pytest.mark.parametrize("power", [1.0, 0.6])
    def test_of_a_mean_says_what_it_is_far_above_and_below_the_typical(self, power):
        kind = "proportional" if power == 1.0 else "power"
        model = ErrorModel(kind, 0.0, power, 3.1, 0.031)
        line = line_with("noise", believed(error_model=model))
        sd = 0.12 * model.relative_sd(torch.tensor([3.1, 310.0, 0.001, 0.031], dtype=torch.float64))
        assert line.startswith("noise sd 0.12 mm at a typical reading of 3.1, growing ")
        assert float(sd[0]) == pytest.approx(0.12) and sd[2] == sd[3]
        assert line.endswith(" (a mean below 0.031 counts as 0.031)")
        if power == 1.0:
            assert f"in proportion to the mean: {100 * float(sd[1] / 310.0):.2g} %" in line
        else:
            assert f"with the mean to the power {np.log(float(sd[1] / sd[0])) / np.log(100.0):.2g}" in line

    def test_of_two_parts_says_each(self):
        model = ErrorModel("combined", 0.3, 1.0, 3.1, 0.0)
        line = line_with("noise", believed(error_model=model))
        read = re.fullmatch(r"noise sd 0\.12 mm at a typical reading of 3\.1: (.*) plus (.*) % of the mean .*", line)
        constant, percent = map(float, read.groups())
        for mean in (0.0, 1.0, 3.1, 50.0):
            sd = 0.12 * float(model.relative_sd(torch.tensor(mean, dtype=torch.float64)))
            assert np.hypot(constant, 0.01 * percent * mean) == pytest.approx(sd, rel=0.03)


class TestDiscrepancy:
    def test_says_how_large_it_becomes_anywhere_and_where(self):
        """Against 4000 specimens drawn, each looked at in 500 places, the envelope being 1 where the law is moved."""
        rng = np.random.default_rng(2)
        root, mean = 0.02 * rng.standard_normal((5, 5)), 0.1 * rng.standard_normal(5)
        found = smooth(mean, root @ root.T, 1e-4 * np.eye(5), size=3.0, population=np.array([[4.0]]), taper=1e-9)
        line = line_with("model discrepancy", believed(SINE, discrepancy=found))
        x = torch.linspace(0.0, 4.0, 500, dtype=torch.float64)
        columns = found.columns(found.place(SINE, {"b": torch.tensor(0.5, dtype=torch.float64)}, x)).numpy()
        own = rng.multivariate_normal(np.zeros(5), found.covariance, 4000) @ columns.T
        common = columns @ mean
        doubt = rng.multivariate_normal(mean, found.mean_covariance, 4000) @ columns.T
        read = re.fullmatch(
            r"model discrepancy: common to all specimens up to (.*) mm \(known to (.*)\), each specimen's own sd up to "
            r"(.*) mm, largest near time = (.*) s", line)  # fmt: skip
        most, known, sd, where = map(float, read.groups())
        top = int(np.abs(common).argmax())
        assert most == pytest.approx(abs(common[top]), rel=0.06)
        assert known == pytest.approx(doubt.std(0)[top], rel=0.35)  # one digit
        assert sd == pytest.approx(own.std(0).max(), rel=0.1)
        whole = common**2 + own.std(0) ** 2 + doubt.std(0) ** 2
        assert where == pytest.approx(float(x[int(whole.argmax())]), abs=0.15)

    def test_between_knots_is_not_taken_for_what_it_is_at_them(self):
        """Knots of 0, 1, 1, 0: their spline is larger in the middle, 1.25 by hand."""
        prior = believed(SINE, discrepancy=smooth(np.array([0.0, 1.0, 1.0, 0.0]), np.zeros((4, 4)), np.zeros((4, 4))))
        assert line_with("model", prior) == (
            "model discrepancy: common to all specimens up to 1.2 mm, largest near time = 1.5 s"
        )

    def test_over_the_prediction_names_y(self):
        two = np.array([0.0, 0.5, 0.0])
        found = Discrepancy(("prediction",), (np.array([0.0, 0.4, 0.8]),), two, np.zeros((3, 3)), np.zeros((3, 3)))
        assert line_with("model", believed(discrepancy=found)).endswith("up to 0.5 mm, largest near length = 0.4 mm")

    def test_of_two_parts_says_each(self):
        knots = np.array([0.0, 1.0, 2.0]), np.log1p(np.array([0.0, 1.0, 4.0]) / 0.5)
        mean, own = np.array([0.0, 0.3, 0.0, 0.0, 0.0, 0.0]), np.diag([0.0] * 4 + [0.04, 0.0])
        found = Discrepancy(("prediction", "x"), knots, mean, own, np.zeros((6, 6)), x_scale=0.5)
        assert line_with("model", believed(discrepancy=found)) == (
            "model discrepancy: common to all specimens up to 0.3 mm, largest near length = 1 mm; "
            "each specimen's own sd up to 0.2 mm, largest near time = 1 s"
        )

    @pytest.mark.parametrize(("coefficient", "said"), [(3.1, "0.31 s late"), (-3.1, "0.31 s early")])
    def test_of_a_late_clock_is_its_delay(self, coefficient, said):
        """For a ramp the last column is exactly the ramp's own delay."""
        own, doubt = np.diag([0.0, 0.0, 1.0]), np.diag([0.0, 0.0, 0.04])
        found = smooth(np.array([0.0, 0.0, coefficient]), own, doubt, start=0.1)
        line = line_with("model", believed(discrepancy=found))
        assert line == f"model discrepancy: a clock that begins {said} (known to 0.02, sd 0.1 s in each)"
        x, b = torch.tensor([1.0, 4.0], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
        place = found.place(RAMP, {"b": b}, x)
        np.testing.assert_allclose(place.f + found.columns(place) @ found.mean_, 2.0 * (x - 0.1 * coefficient))

    def test_is_drawn_with_the_population_as_far_as_it_is_common(self):
        found = smooth(np.array([0.0, 0.5, 0.0, -0.5]), np.eye(4), np.zeros((4, 4)), taper=0.0)
        plain, off = (believed(SINE, discrepancy=d, learned=Learned({"S": np.array([0.5])}, (0.0, 3.0)))
                      for d in (None, found))  # fmt: skip
        for index in (0, -1):  # the past specimen, and the median
            one, other = (prior.plot(plt.subplots()[1]).lines[index] for prior in (plain, off))
            missed = np.interp([0.0, 1.0, 2.0, 3.0], other.get_xdata(), other.get_ydata() - one.get_ydata())
            np.testing.assert_allclose(missed, found.mean, atol=1e-3)
        plt.close("all")


class TestGroups:
    def test_say_how_far_they_lie_apart_in_the_scale_of_each_parameter(self):
        sd = np.array([0.3, 0.05, 0.2, 0.4])
        learned = Learned({f"S{i}": np.zeros(4) for i in range(6)}, (0.0, 1.0),
                          groups={f"S{i}": "DEF"[i % 3] for i in range(6)})  # fmt: skip
        prior = believed(LAW, between=torch.diag(torch.from_numpy(sd**2)), learned=learned)
        ends = LAW.constrain({name: torch.tensor([0.5, 0.5 + d]) for name, d in zip(LAW.fast, sd, strict=True)})
        k, w, s = ends["k"][1] / ends["k"][0], ends["w"], ends["s"]
        odds = (w[1] / (1 - w[1])) / (w[0] / (1 - w[0]))
        assert line_with("between", prior) == (
            f"between 3 groups: k x {k:.2g} (1 sd), n 0.05 (1 sd), odds of w x {odds:.2g} (1 sd), "
            f"s {s[1] - s[0]:.2g} mm (1 sd), beside the sd within one"
        )

    def test_left_out_say_what_the_bands_held(self):
        coverage = {"D": 0.906, "E": 0.84}
        learned = Learned({"S": np.array([0.5])}, (0.0, 1.0), groups={"S": "D"}, coverage=coverage)
        assert line_with("90 %", believed(learned=learned)) == (
            "90 % bands held, each group left out in turn: D 91 %, E 84 %"
        )


def test_of_what_is_not_there_nothing_is_said():
    text = str(believed(learned=Learned({"S": np.array([0.5])}, (0.0, 1.0))))
    assert not any(word in text for word in ("discrepancy", "groups", "left out", "typical"))
