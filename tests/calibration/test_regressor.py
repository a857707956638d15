"""A law as a scikit-learn regressor: the calibrator's numbers behind fit and predict."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold, cross_val_score

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.regressor import LawRegressor

DECAY = Law(
    "decay",
    lambda t, tau: torch.exp(-t / tau),
    {"tau": Parameter("s", "positive")},
    Axis("time", "s"),
    Axis("signal"),
    first_guess=lambda t, y: {"tau": 1.0},
)
PRIOR = Prior.by_hand(DECAY, [[0.0]], [[0.25]], noise=0.05)
T = np.linspace(0.2, 4.0, 12)
Y = np.exp(-T / 1.3) + 0.03 * np.random.default_rng(0).normal(size=12)


def test_predictions_are_those_of_the_calibrator_in_any_order_of_the_points():
    mixed = np.random.default_rng(1).permutation(12)
    fitted = LawRegressor(DECAY, PRIOR).fit(T[mixed, None], Y[mixed])
    np.testing.assert_allclose(fitted.predict(T[:, None]), Calibrator(DECAY, PRIOR).fit(T, Y).predict(T), rtol=1e-10)
    assert fitted.calibration_["tau"].lower < 1.3 < fitted.calibration_["tau"].upper


def test_without_a_prior_it_is_least_squares():
    fitted = LawRegressor(DECAY).fit(T[:, None], Y)
    np.testing.assert_allclose(fitted.predict(T[:, None]), LeastSquares(DECAY).fit(T, Y).predict(T), rtol=1e-10)


def test_a_point_of_weight_four_is_measured_twice_as_well():
    w = np.where(np.arange(12) == 2, 4.0, 1.0)
    fitted = LawRegressor(DECAY, PRIOR).fit(T[:, None], Y, sample_weight=w)
    reference = Calibrator(DECAY, PRIOR).fit(T, Y, 0.05 / np.sqrt(w))
    np.testing.assert_allclose(fitted.predict(T[:, None]), reference.predict(T), rtol=1e-10)


def test_a_point_of_weight_zero_is_left_out():
    w = np.where(np.arange(12) == 2, 0.0, 1.0)
    wild = np.where(w == 0, 9.0, Y)
    fitted = LawRegressor(DECAY, PRIOR).fit(T[:, None], wild, sample_weight=w)
    reference = LawRegressor(DECAY, PRIOR).fit(T[w > 0, None], Y[w > 0])
    np.testing.assert_allclose(fitted.predict(T[:, None]), reference.predict(T[:, None]), rtol=1e-6)


def test_it_is_cloned_and_scored_like_any_regressor():
    regressor = LawRegressor(DECAY, PRIOR, replicates=True)
    assert clone(regressor).get_params()["replicates"] is True
    assert cross_val_score(regressor, T[:, None], Y, cv=KFold(3, shuffle=True, random_state=0)).min() > 0.8


def test_repeated_readings_are_refused_unless_declared():
    twice = np.repeat(T, 2)[:, None]
    with pytest.raises(ValueError, match="replicates"):
        LawRegressor(DECAY, PRIOR).fit(twice, np.repeat(Y, 2))
    assert LawRegressor(DECAY, PRIOR, replicates=True).fit(twice, np.repeat(Y, 2)).calibration_.converged


@pytest.mark.parametrize(
    ("x", "weights", "message"),
    [
        (np.column_stack([T, T]), None, "reads one column, time .s.; X has 2"),
        (np.where(T > 3, np.nan, T)[:, None], None, "contains NaN"),
        (T[:, None], -np.ones(12), "non-negative"),
        (T[:, None], np.ones(3), "non-negative"),
        (T, None, "Expected 2D array"),
    ],
)
def test_what_is_no_specimen_is_refused(x, weights, message):
    with pytest.raises(ValueError, match=message):
        LawRegressor(DECAY, PRIOR).fit(x, Y, sample_weight=weights)


def test_what_is_no_law_is_refused():
    with pytest.raises(TypeError, match="law should be a scimeta"):
        LawRegressor(None).fit(T[:, None], Y)


def test_a_law_that_was_not_calibrated_says_so():
    with pytest.raises(NotFittedError):
        LawRegressor(DECAY, PRIOR).predict(T[:, None])


def test_weights_of_one_are_no_weights_where_the_noise_follows_the_mean():
    """Readings that weigh four times as much have half the scatter that they would have at that mean."""
    growing = Prior(replace(PRIOR.family, error_model=ErrorModel("combined", 0.5, 1.0, 0.5)))
    plain, one, four = (
        LawRegressor(DECAY, growing).fit(T[:, None], Y, sample_weight=w) for w in (None, np.ones(12), np.full(12, 4.0))
    )
    assert one.calibration_["tau"].value == pytest.approx(plain.calibration_["tau"].value, rel=0.02)
    assert four.calibration_["tau"].std < 0.7 * one.calibration_["tau"].std
