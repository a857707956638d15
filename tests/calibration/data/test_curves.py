from __future__ import annotations

import dataclasses
import io
import time

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from scimeta.calibration.comparison import compare
from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.points import pad
from scimeta.calibration.data.tables import read_curves
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.checks import check_law, check_units
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

LINE = Law("line", lambda t, a: a * t, {"a": Parameter("1/s", "positive")}, x=Axis("time", "s"), y=Axis("fraction"))


def family(count: int = 3, unit: str = "min") -> Curves:
    curves = [
        Curve(f"A{i}", np.arange(1.0, 3 + i), np.arange(2 + i) / 10, conditions={"T": 400.0 + i}) for i in range(count)
    ]
    return Curves(curves, Axis("time", unit), Axis("fraction"))


def test_a_curve_is_sorted_by_x_with_everything_that_belongs_to_its_points():
    curve = Curve("A", [30, 10, 20], [0.3, 0.1, 0.2], sigma=[0.03, 0.01, np.nan])
    assert curve.x.tolist() == [10, 20, 30]
    assert curve.y.tolist() == [0.1, 0.2, 0.3]
    np.testing.assert_array_equal(curve.sigma, [0.01, np.nan, 0.03])
    assert curve.x.dtype == curve.y.dtype == curve.sigma.dtype == np.float64


def test_a_curve_does_not_change_when_the_arrays_it_was_made_from_do():
    x = np.array([1.0, 2.0])
    curve = Curve("A", x, x)
    x[0] = 9.0
    assert curve.x.tolist() == curve.y.tolist() == [1.0, 2.0]


def test_tensors_lists_and_series_make_the_same_curve():
    for kind in (list, np.array, torch.DoubleTensor, pd.Series):
        curve = Curve("A", kind([1.0, 2.0]), kind([0.1, 0.2]), kind([0.5, 0.5]))
        assert (curve.x.tolist(), curve.y.tolist(), curve.sigma.tolist()) == ([1, 2], [0.1, 0.2], [0.5, 0.5])


def test_sigma_that_no_point_has_is_none():
    assert Curve("A", [1, 2], [0, 1], [np.nan, np.nan]).sigma is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1, 2, 3, 4], np.zeros((4, 1))), r"'A7': y has shape \(4, 1\), x has shape \(4,\); pass y.ravel\(\)"),
        ((np.zeros((4, 1)), [1, 2, 3, 4]), r"x has shape \(4, 1\), expected \(points,\); pass x.ravel\(\)"),
        (([1, 2], [1, 2, 3]), r"y has shape \(3,\), x has shape \(2,\); pass one y for each x"),
        ((1.0, 2.0), r"x has shape \(\), expected \(points,\); pass lists"),
        (([], []), "no points; at least one"),
        (([1, 2, 3], [0, np.nan, 1]), r"'A7': y\[1\] is nan; drop the point or correct it"),
        (([1, 2, np.inf], [0, 0, 1]), r"x\[2\] is inf"),
        (([1, 2], ["a", "b"]), "y must be numbers"),
        (([1, 2], [0, 1], [0.1, 0.0]), r"sigma\[1\] is 0; give a positive number, or NaN"),
        (([1, 2], [0, 1], -0.1), r"sigma\[0\] is -0.1"),
        (([1, 2], [0, 1], [0.1, np.inf]), r"sigma\[1\] is inf"),
        (([1, 2], [0, 1], [0.1]), r"sigma has shape \(1,\), x has shape \(2,\); pass one number or one a point"),
        (([1, 2], [0, 1], None, {"T": np.nan}), "condition 'T' is nan; it must be finite"),
        (([1, 2], [0, 1], None, {"T": [1]}), r"condition 'T' must be a number or text; got \[1\]"),
        (([1, 2], [0, 1], None, {"grade": None}), "condition 'grade' must be a number or text; got None"),
        (([1, 2], [0, 1], None, {"grade": "  "}), "condition 'grade' is '  ', which stands for a missing value"),
        (([1, 2], [0, 1], None, {"grade": "nan"}), "condition 'grade' is 'nan', which stands for a missing value"),
        (([1, 2], [0, 1], None, ["hot"]), "conditions must be a dict"),
        (([1, 2], [0, 1j]), "y must be numbers, one a point; complex"),
        (([5, 1, 5], [0, 1, 2]), r"x\[0\] and x\[2\] are both 5; average them, .* replicates=True"),
    ],
)
def test_a_curve_refuses_what_cannot_be_and_names_specimen_and_index(arguments, said):
    with pytest.raises(ValueError, match=said) as error:
        Curve("A7", *arguments)
    assert str(error.value).startswith("specimen 'A7': ")


def test_a_blank_name_is_refused():
    with pytest.raises(ValueError, match="blank"):
        Curve(" ", [1], [1])


def test_replicates_are_kept_when_they_are_declared():
    curve = Curve("A", [2, 1, 2], [0.3, 0.1, 0.2], replicates=True)
    assert (curve.x.tolist(), curve.y.tolist()) == ([1, 2, 2], [0.1, 0.3, 0.2])
    assert curve.head(2).y.tolist() == [0.1, 0.3]


def test_head_keeps_the_first_points_and_their_sigma():
    head = Curve("A", [1, 2, 3], [0.1, 0.2, 0.3], sigma=[1, 2, 3]).head(2)
    assert (head.x.tolist(), head.y.tolist(), head.sigma.tolist()) == ([1, 2], [0.1, 0.2], [1, 2])
    assert len(Curve("A", [1, 2], [0, 1]).head(1)) == 1
    assert [len(curve) for curve in family().head(2)] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"specimen 'A0': head\(3\) of 2 points; ask for 1 to 2"):
        family().head(3)


def test_curves_are_a_sequence_with_names():
    curves = family()
    assert len(curves) == 3
    assert [curve.name for curve in curves] == ["A0", "A1", "A2"] == list(curves.names)
    assert curves[1] is curves["A1"] is curves[np.int64(1)] is curves[-2]
    assert curves[1:].names == ("A1", "A2")
    assert curves[1:].x == curves.x
    assert curves.conditions == ("T",)
    assert len(curves[:0]) == 0


def test_an_unknown_name_is_answered_with_the_names_in_short():
    with pytest.raises(ValueError, match=r"Unknown specimen 'B'; there are A0, A1, A2$"):
        family()["B"]
    with pytest.raises(ValueError, match=r"A0, A1, .* A7, \.\.\. A39 \(40 in all\)$"):
        family(40)["B"]
    with pytest.raises(IndexError):
        family()[7]


def test_the_representation_stays_short_however_many_curves():
    assert repr(family(3)) == "Curves(3 specimens, 9 points: fraction against time [min]; conditions T)"
    assert len(repr(family(2000))) < 100


def test_two_specimens_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two specimens are named 'A'"):
        Curves([Curve("A", [1], [1]), Curve("A", [2], [2])], Axis("x"), Axis("y"))


def test_text_is_a_condition_with_single_spaces():
    assert Curve("A", [1], [1], conditions={"grade": " 316  L"}).conditions == {"grade": "316 L"}


def test_a_condition_that_is_text_for_one_and_a_number_for_another_is_named():
    curves = [Curve("A", [1], [1], conditions={"T": 420.0}), Curve("B", [1], [1], conditions={"T": "420"})]
    said = "condition 'T' is the number 420 for specimen 'A' and the text '420' for 'B'; give numbers to all specimens"
    with pytest.raises(ValueError, match=said):
        Curves(curves, Axis("time"), Axis("fraction"))


def test_a_condition_that_one_specimen_lacks_is_named():
    curves = [Curve("A", [1], [1], conditions={"T": 1.0}), Curve("B", [1], [1])]
    with pytest.raises(ValueError, match="'T' is given for one of the specimens 'A' and 'B'"):
        Curves(curves, Axis("x"), Axis("y"))


def test_things_that_are_not_curves_are_refused():
    with pytest.raises(TypeError, match="got tuple"):
        Curves([([1], [2])], Axis("x"), Axis("y"))


def test_convert_scales_x_y_and_sigma():
    curves = Curves([Curve("A", [1, 2], [50, 100], sigma=[2, 4])], Axis("time", "min"), Axis("fraction", "%"))
    converted = curves.convert(x="s", y="")
    assert (converted.x, converted.y) == (Axis("time", "s"), Axis("fraction", ""))
    np.testing.assert_allclose(converted[0].x, [60, 120], rtol=1e-14)
    np.testing.assert_allclose(converted[0].y, [0.5, 1.0], rtol=1e-14)
    np.testing.assert_allclose(converted[0].sigma, [0.02, 0.04], rtol=1e-14)
    assert curves[0].x.tolist() == [1, 2]


def test_an_offset_unit_shifts_values_but_not_their_deviations():
    curves = Curves([Curve("A", [0, 1], [20, 100], sigma=[0.5, 1])], Axis("time", "s"), Axis("temperature", "degC"))
    in_kelvin, in_fahrenheit = curves.convert(y="K")[0], curves.convert(y="degF")[0]
    np.testing.assert_allclose(in_kelvin.y, [293.15, 373.15], rtol=1e-14)
    np.testing.assert_allclose(in_kelvin.sigma, [0.5, 1.0], rtol=1e-12)
    np.testing.assert_allclose(in_fahrenheit.y, [68.0, 212.0], rtol=1e-12)
    np.testing.assert_allclose(in_fahrenheit.sigma, [0.9, 1.8], rtol=1e-12)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"x": "K"}, "cannot convert from 'min' to 'K'"),
        ({"x": "fortnite"}, "unit 'fortnite' is not known to pint"),
        ({"y": "%"}, "fraction has no unit to convert from"),
    ],
)
def test_a_conversion_without_meaning_is_refused(wanted, said):
    with pytest.raises(ValueError, match=said):
        family().convert(**wanted)


def test_a_scale_that_is_not_straight_is_refused():
    with pytest.raises(ValueError, match="not straight"):
        Curves([Curve("A", [1], [1])], Axis("time", "s"), Axis("power", "dBm")).convert(y="mW")


def test_the_units_of_curves_and_law_must_agree():
    with pytest.raises(ValueError) as error:
        check_units(family(), LINE)
    assert str(error.value) == 'time: curves are in min, law line expects s; call curves.convert(x="s")'
    check_units(family().convert(x="s"), LINE)


@pytest.mark.parametrize("unit", ["s", "sec", "second", ""])
def test_spellings_of_one_unit_and_blank_units_agree(unit):
    check_units(family(unit=unit), LINE)


def test_a_unit_of_another_kind_asks_for_the_right_column():
    with pytest.raises(ValueError, match=r"curves are in degC, law line expects s; is time \[degC\] the right column"):
        check_units(family(unit="degC"), LINE)


def test_units_that_pint_does_not_know_are_compared_as_text():
    law = Law("share", LINE.fn, LINE.parameters, x=Axis("content", "wt%"), y=Axis("y"))
    check_units(family(unit="wt%"), law)
    with pytest.raises(ValueError, match="curves are in vol%, law share expects wt%"):
        check_units(family(unit="vol%"), law)


def test_percent_is_no_plain_number():
    percent = Curves([Curve("A", [1, 2], [0.5, 1.2])], Axis("time", "s"), Axis("fraction", "%"))
    with pytest.raises(
        ValueError, match=r'fraction: curves are in %, law line names no unit; call curves.convert\(y=""'
    ):
        check_units(percent, LINE)
    check_units(percent.convert(y=""), LINE)
    assert percent.convert(y="")["A"].y == pytest.approx([0.005, 0.012])


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda t, b: b * t, r"fn\(x, a\) failed: TypeError: .*unexpected keyword argument 'a'; write it in torch"),
        (
            lambda t, a: torch.from_numpy(np.exp(a.numpy())) * t,
            r"fn\(x, a\) failed: RuntimeError: .*; write it in torch",
        ),
        (lambda t, a: a, r"fn returned shape \(\) for x of shape \(2,\)"),
    ],
    ids=["another name", "numpy", "a scalar"],
)
def test_a_slip_in_a_users_law_reads_as_one(fn, said):
    with pytest.raises(ValueError, match=said):
        check_law(Law("mine", fn, {"a": Parameter()}), [Curve("A", [1, 2], [0, 1])])


@pytest.mark.parametrize("curves", ["past.csv", Curve("A", [1], [0.2]), [([1], [0.2])]])
def test_what_is_not_curves_is_said_to_be_so(curves):
    with pytest.raises(TypeError, match=r"expected Curves, or a list of Curve; got .*: read_curves makes them"):
        check_law(LINE, curves)


def test_what_a_law_rules_out_is_said_with_the_specimen():
    def check(x: np.ndarray, y: np.ndarray) -> None:
        if y.max() > 0.25:
            raise ValueError("fractions above 0.25")

    law = Law("line", LINE.fn, LINE.parameters, x=LINE.x, y=LINE.y, check=check)
    with pytest.raises(ValueError, match=r"^specimen 'A2': fractions above 0\.25$"):
        check_law(law, list(family(unit="s")))
    with pytest.raises(ValueError, match="curves are in min"):
        check_law(law, family())
    check_law(LINE, family(unit="s"))


def test_padding_repeats_the_last_point_under_a_false_mask():
    curves = [Curve("A", [1, 2, 3], [0.1, 0.2, 0.3], sigma=[1, np.nan, 3]), Curve("B", [5, 6], [0.5, 0.6])]
    x, y, sigma, mask = pad(curves)
    assert x.tolist() == [[1, 2, 3], [5, 6, 6]]
    assert y.tolist() == [[0.1, 0.2, 0.3], [0.5, 0.6, 0.6]]
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    np.testing.assert_array_equal(sigma.numpy(), [[1, np.nan, 3], [np.nan] * 3])
    assert x.dtype == y.dtype == sigma.dtype == torch.float64
    with pytest.raises(ValueError, match="no curves"):
        pad([])


def test_padding_ten_thousand_curves_is_quick():
    grid = np.arange(30.0)
    curves = [Curve(str(i), grid[: 3 + i % 27], grid[: 3 + i % 27]) for i in range(10_000)]
    best = min(_seconds(lambda: pad(curves)) for _ in range(3))
    assert best < 0.1


def _seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize("sigma", [None, [0.01, np.nan, 0.02]])
def test_a_frame_reads_back_to_the_same_curves(sigma):
    curves = Curves(
        [
            Curve("A", [1, 2, 3], [0.1, 1 / 3, 0.5], sigma, {"T [K]": 300.0}),
            Curve("B", [1], [0.2], None, {"T [K]": 310.5}),
        ],
        Axis("time", "s"),
        Axis("fraction"),
    )
    frame = curves.to_frame()
    again = read_curves(frame, sigma="sigma" if sigma else None, conditions=curves.conditions)
    assert (again.x, again.y, again.names) == (curves.x, curves.y, curves.names)
    for ours, theirs in zip(curves, again, strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)
        np.testing.assert_array_equal(ours.y, theirs.y)
        np.testing.assert_equal(ours.sigma, theirs.sigma)
        assert ours.conditions == theirs.conditions


@pytest.mark.parametrize(("count", "named"), [(3, True), (40, False)])
def test_a_plot_labels_its_axes_and_names_few_curves(count, named):
    ax = family(count).plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [min]", "fraction")
    assert len(ax.lines) == count
    assert (ax.get_legend() is not None) == named
    assert Curves([Curve("A", [1, 2], [1, 2], 0.1)], Axis("x"), Axis("y")).plot(ax) is ax
    plt.close(ax.figure)


class TestUnits:
    """A list of curves knows their unit as well as Curves do."""

    LAW = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")}, x=Axis("time", "s"))

    def past(self, unit: str = "min", count: int = 8) -> Curves:
        rng, times = np.random.default_rng(0), np.array([1.0, 2.0, 4.0, 8.0])
        rates = 0.2 * np.exp(0.2 * rng.standard_normal(count))
        curves = [
            Curve(f"S{i}", times, np.exp(-k * times) + 0.01 * rng.standard_normal(4)) for i, k in enumerate(rates)
        ]
        return Curves(curves, Axis("time", unit), Axis("signal"))

    @pytest.mark.parametrize("door", [
        learn_prior,
        lambda law, curves: LeastSquares(law).fit_many(curves),
        lambda law, curves: Calibrator(law, Prior.by_hand(law, [[-1.5]], [[0.1]], 0.01)).fit_many(curves),
        lambda law, curves: compare([law, dataclasses.replace(law, name="other")], curves),
    ])  # fmt: skip
    @pytest.mark.parametrize("some", [
        lambda curves: [curve for curve in curves if curve.name != "S7"],
        lambda curves: [curve.head(4) for curve in curves],
        lambda curves: [dataclasses.replace(curve, name=f"again {curve.name}") for curve in curves],
        lambda curves: tuple(curves)[2:],
    ])  # fmt: skip
    def test_a_list_made_from_minutes_is_refused_by_a_law_in_seconds(self, door, some):
        with pytest.raises(ValueError, match=r"S\d is in min, law decay expects s; pass \[curve.convert\(x=\"s\"\)"):
            door(self.LAW, some(self.past()))

    def test_what_the_refusal_advises_gives_what_curves_give(self):
        curves = self.past()
        listed = learn_prior(self.LAW, [curve.convert(x="s") for curve in curves])
        assert str(listed) == str(learn_prior(self.LAW, curves.convert(x="s")))

    def test_units_that_are_mixed_are_refused_by_name_where_the_law_names_none(self):
        law = dataclasses.replace(self.LAW, x=Axis("time"))
        mixed = [*self.past()[:4], *self.past("s")[4:]]
        with pytest.raises(ValueError, match="S0 is in min, S4 in s; have all in one unit"):
            learn_prior(law, mixed)

    def test_curves_convert_those_in_another_unit(self):
        curves = Curves([*self.past()[:2], *self.past("s")[2:4]], Axis("time", "s"), Axis("signal"))
        np.testing.assert_allclose(curves["S1"].x, [60.0, 120.0, 240.0, 480.0])
        np.testing.assert_allclose(curves["S2"].x, [1.0, 2.0, 4.0, 8.0])
        assert {curve.x_unit for curve in curves} == {"s"}
        assert Curves(list(self.past()), Axis("time"), Axis("signal")).x.unit == "min"
        with pytest.raises(ValueError, match="specimen 'S0': cannot convert from 'min' to 'K'"):
            Curves(list(self.past()), Axis("time", "K"), Axis("signal"))

    def test_percent_is_not_forgotten_either(self):
        listed = [Curve(f"S{i}", [1, 2, 3], [90, 80, 70], sigma=2.0, y_unit="%") for i in range(6)]
        with pytest.raises(ValueError, match="S0 is in %, law decay names no unit"):
            LeastSquares(self.LAW).fit_many(listed)
        plain = listed[0].convert(y="")
        np.testing.assert_allclose((*plain.y, plain.sigma[0]), [0.9, 0.8, 0.7, 0.02])
        assert (plain.y_unit, plain.x_unit) == ("", "")

    def test_a_curve_without_a_unit_has_none_to_convert_from(self):
        with pytest.raises(ValueError, match="specimen 'A': x has no unit to convert from"):
            Curve("A", [1], [2]).convert(x="s")

    def test_a_table_gives_every_curve_its_units(self):
        file = io.StringIO("specimen,time [min],length [mm]\nA,1,2\nB,1,3")
        assert [(c.x_unit, c.y_unit) for c in list(read_curves(file, y="length"))] == [("min", "mm")] * 2
