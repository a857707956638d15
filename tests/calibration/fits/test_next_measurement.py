"""What to measure next: against the closed form of a line, and on simulated alloys where points are saved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibration import Calibration, Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.fits.next_measurement import NextMeasurement
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.domains import kinetics
from simulators.kinetics import alloy_family, fraction

PLACES = np.array([0.25, 1.0, 2.5, 4.0])
SEEN, NOISE = np.array([0.5, 1.5]), 0.3


@pytest.fixture
def line_prior(line: Law) -> Prior:
    return Prior.by_hand(line, [[1.0, 0.5]], [[0.5, -0.2], [-0.2, 0.4]], NOISE)


@pytest.fixture
def line_fit(line: Law, line_prior: Prior) -> Calibration:
    return Calibrator(line, line_prior).fit(SEEN, [1.4, 1.9], name="rod")


def posterior_covariance(prior: Prior, x: np.ndarray) -> np.ndarray:
    """The textbook's, of a line after readings at x."""
    rows = np.column_stack([np.ones(len(x)), x])
    return np.linalg.inv(np.linalg.inv(prior.covariance) + rows.T @ rows / NOISE**2)


def test_the_information_of_a_line_is_the_textbooks(line_prior: Prior, line_fit: Calibration) -> None:
    rows = np.column_stack([np.ones(4), PLACES])
    spread = np.einsum("ci,ij,cj->c", rows, posterior_covariance(line_prior, SEEN), rows)
    expected = 0.5 * np.log1p(spread / NOISE**2)
    assert line_fit.next_measurement(PLACES).score == pytest.approx(expected, rel=0.03, abs=0.01)


def test_the_expected_std_of_a_line_is_the_textbooks(line_prior: Prior, line_fit: Calibration) -> None:
    after = [posterior_covariance(line_prior, np.append(SEEN, x)) for x in PLACES]
    slope = [c[1, 1] ** 0.5 for c in after]
    far = np.array([1.0, 5.0])
    assert line_fit.next_measurement(PLACES, "slope").score == pytest.approx(slope, rel=0.02)
    assert line_fit.next_measurement(PLACES, 5.0).score == pytest.approx(
        [(far @ c @ far) ** 0.5 for c in after], rel=0.02
    )
    doubled = line_fit.next_measurement(PLACES, lambda values: 2.0 * values["slope"])
    assert doubled.score == pytest.approx(2.0 * np.array(slope), rel=0.02)


def test_a_precise_reading_tells_more_and_a_doubtful_one_less(line: Law, line_prior: Prior) -> None:
    fit = Calibrator(line, line_prior).fit(SEEN, [1.4, 1.9])
    usual = fit.next_measurement(PLACES).score
    assert (fit.next_measurement(PLACES, sigma=0.1).score > usual + 0.3).all()
    one_precise = fit.next_measurement(PLACES, sigma=np.array([0.3, 0.01, 0.3, 0.3]))
    assert one_precise.best == 1.0
    wrong = replace(line_prior, family=replace(line_prior.family, outliers=Outliers(0.2, 0.0, 3.0)))
    doubtful = Calibrator(line, wrong).fit(SEEN, [1.4, 1.9])
    assert (doubtful.next_measurement(PLACES).score < usual - 0.05).all()


def test_outliers_do_not_change_what_a_clear_choice_tells() -> None:
    """A step whose place is left or right of 1, seen through noise far smaller than the step: ln 2, no more."""
    step = Law("step", lambda x, side: torch.tanh(1e3 * side) * x, {"side": Parameter()})
    for outliers in (None, Outliers(0.05, 0.0, 0.02)):
        family = replace(Family.gaussian(step, [[0.0]], [[1.0]], 0.01), outliers=outliers)
        fit = Calibrator(step, Prior(family)).fit([0.0], [0.0])
        score = fit.next_measurement([0.0, 1.0, 2.0]).score
        assert np.isnan(score[0])
        assert score[1:] == pytest.approx(np.log(2.0), abs=0.02)


def test_designed_points_need_at_most_two_thirds_of_the_evenly_spaced() -> None:
    """Until the typical error is .02 of ln k and .15 of n."""
    rng, count = np.random.default_rng(1), 60
    past = alloy_family(20, rng=rng)
    rows = enumerate(zip(past.times, past.fractions, strict=True))
    prior = learn_prior(kinetics.JMAK, [Curve(f"past {i}", t, y) for i, (t, y) in rows])
    calibrator = Calibrator(kinetics.JMAK, prior)
    family, candidates = alloy_family(count, rng=rng), np.linspace(0.1, 3.0, 30)

    def measured(times: np.ndarray) -> np.ndarray:
        return fraction(times, family.k, family.n) + 0.02 * rng.standard_normal(times.shape)

    def fitted(times: np.ndarray, fractions: np.ndarray) -> Calibrations:
        rows = enumerate(zip(times.T, fractions.T, strict=True))
        return calibrator.fit_many([Curve(f"alloy {i}", t, y) for i, (t, y) in rows])

    def known(fits: Calibrations) -> bool:
        values = fits.estimates()
        off = np.log(values["k"]["value"] / family.k), values["n"]["value"] - family.n
        return bool((np.sqrt(np.mean(np.square(off), axis=1)) <= (0.02, 0.15)).all())

    def evenly(points: int) -> np.ndarray:
        return np.repeat(3.0 * np.arange(1, points + 1)[:, None] / points, count, 1)

    even = next(m for m in range(3, 31) if known(fitted(evenly(m), measured(evenly(m)))))
    times = np.full((1, count), 1.5)
    fractions = measured(times)
    while not known(fits := fitted(times, fractions)):
        assert 3 * len(times) < 2 * even
        chosen = np.array([[fit.next_measurement(candidates).best for fit in fits]])
        times, fractions = np.concatenate([times, chosen]), np.concatenate([fractions, measured(chosen)])
    assert 3 * len(times) <= 2 * even


def test_places_measured_already_are_not_chosen(line: Law, line_prior: Prior) -> None:
    calibrator = Calibrator(line, line_prior)
    free = calibrator.fit([4.0], [3.0], replicates=True).next_measurement([0.5, 4.0])
    taken = calibrator.fit([4.0], [3.0], name="rod").next_measurement([0.5, 4.0])
    assert np.isfinite(free.score).all()
    assert np.isnan(taken.score).tolist() == [False, True]
    assert taken.best == 0.5
    assert "not scored: 1 at which rod was measured already" in str(taken)
    with pytest.raises(ValueError, match="rod was measured at every candidate already"):
        calibrator.fit([4.0], [3.0], name="rod").next_measurement([4.0])


def test_a_fit_without_a_prior_can_be_asked_too(line: Law) -> None:
    rng = np.random.default_rng(2)
    x = np.linspace(0.0, 1.0, 12)
    fit = LeastSquares(line).fit(x, 1.0 + 0.5 * x + 0.1 * rng.standard_normal(12))
    assert fit.next_measurement([0.45, 0.95, 3.0], "slope").best == 3.0


def test_the_result_says_where_in_which_unit_and_what_for(line_fit: Calibration) -> None:
    plan = line_fit.next_measurement(PLACES, "slope")
    assert plan.best == 4.0
    text = str(plan)
    assert "line | rod | what to measure next, of 4 candidates from 0.25 to 4 s" in text
    assert "measure at time = 4 s: the std of slope is expected to go from" in text and text.count("mm/s") == 1
    frame = plan.to_frame()
    assert list(frame.columns) == ["time [s]", "expected std of slope [mm/s]"] and len(frame) == 4
    axes = plan.plot()
    assert axes.get_ylabel() == "expected std of slope [mm/s]" and axes.get_xlabel() == "time [s]"
    informed = line_fit.next_measurement(PLACES)
    assert "expected to tell" in str(informed) and "nats about level, slope" in str(informed)
    assert list(informed.to_frame().columns) == ["time [s]", "expected information [nats]"]


def test_the_same_question_has_the_same_answer(line_fit: Calibration) -> None:
    first, second = (line_fit.next_measurement(PLACES) for _ in range(2))
    assert isinstance(first, NextMeasurement) and (first.score == second.score).all()


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([], "candidates have shape \\(0,\\); pass a flat array of one x or more"),
        ([[1.0, 2.0]], "candidates have shape \\(1, 2\\)"),
        ([1.0, np.nan], "candidates\\[1\\] is not finite"),
        ([1.0, -2.0], "candidates\\[1\\] = -2 is outside the law's domain: time -2 is negative"),
    ],
)
def test_a_candidate_that_cannot_be_measured_is_refused(candidates: list, said: str) -> None:
    prior = Prior.by_hand(kinetics.JMAK, [[0.0, 2.4]], [[0.16, 0.10], [0.10, 0.25]], 0.02)
    fit = Calibrator(kinetics.JMAK, prior).fit([0.3, 0.6], [0.05, 0.25])
    with pytest.raises(ValueError, match=said):
        fit.next_measurement(candidates)


def test_a_candidate_where_the_law_has_no_value_is_refused() -> None:
    law = Law("root", lambda x, a: a * torch.sqrt(x), {"a": Parameter()}, Axis("load", "N"), Axis("strain"))
    fit = Calibrator(law, Prior.by_hand(law, [[1.0]], [[1.0]], 0.1)).fit([1.0], [1.2])
    with pytest.raises(ValueError, match=r"candidates\[0\] = -1 is outside the law's domain: law root has no finite"):
        fit.next_measurement([-1.0, 2.0])


def test_what_cannot_be_asked_is_refused_by_name(line: Law, line_fit: Calibration) -> None:
    with pytest.raises(ValueError, match=r"Unknown target 'tilt' of law line; it has level \[mm\], slope \[mm/s\]"):
        line_fit.next_measurement(PLACES, "tilt")
    with pytest.raises(ValueError, match=r"expected .* finite values, one a node"):
        line_fit.next_measurement(PLACES, lambda values: values["slope"].mean())
    with pytest.raises(ValueError, match="must be positive and finite; got -1"):
        line_fit.next_measurement(PLACES, sigma=-1.0)
    with pytest.raises(ValueError, match=r"sigma has shape \(2,\)"):
        line_fit.next_measurement(PLACES, sigma=np.ones(2))
    with pytest.raises(ValueError, match="leaves nothing open about target"):
        line_fit.next_measurement(PLACES, lambda values: torch.zeros_like(values["slope"]))


def test_a_shared_parameter_is_no_target() -> None:
    law = Law("decay", lambda t, a, tau: a * torch.exp(-t / tau),
              {"a": Parameter("V"), "tau": Parameter("s", "positive", shared=True)})  # fmt: skip
    prior = Prior.by_hand(law, [[1.0]], [[0.1]], 0.05, shared={"tau": (0.0, 0.01)})
    fit = Calibrator(law, prior).fit([0.5], [0.6])
    assert fit.next_measurement([0.1, 1.0], "a").best == 0.1
    with pytest.raises(ValueError, match="tau is one value for the whole family"):
        fit.next_measurement([0.1, 1.0], "tau")


def test_a_fit_without_intervals_has_no_next_measurement(line: Law) -> None:
    fit = LeastSquares(line).fit([0.0, 1.0], [1.0, 1.5], name="rod")
    with pytest.raises(ValueError, match="no next measurement of rod: "):
        fit.next_measurement([2.0])


def test_a_reading_whose_scatter_grows_tells_as_much_as_one_with_that_sigma(line: Law, line_prior: Prior) -> None:
    growing = replace(line_prior.family, error_model=ErrorModel("proportional", 0.0, 1.0, 1.0, 0.1))
    fit = Calibrator(line, Prior(growing)).fit(SEEN, [1.4, 1.9])
    own = fit.batch.draws.reading_sd(torch.from_numpy(PLACES))[0]
    np.testing.assert_allclose(own, NOISE * fit.predict(PLACES), rtol=1e-12)
    np.testing.assert_array_equal(fit.next_measurement(PLACES).score, fit.next_measurement(PLACES, sigma=own).score)
