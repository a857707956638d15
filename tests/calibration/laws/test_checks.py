"""A law with a slip in it is named at every public door, with where the slip shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

TIMES = np.linspace(0.0, 3.0, 8)
SHAPES = {
    "a scalar": (lambda t, r: r, r"fn returned shape \(\)"),
    "a column": (lambda t, r: torch.exp(-r * t)[..., None], r"fn returned shape \(8, 1\)"),
    "the first three": (lambda t, r: torch.exp(-r * t)[..., :3], r"fn returned shape \(3,\)"),
    "an array": (lambda t, r: np.exp(-r.detach().numpy() * t.numpy()), "fn returned ndarray"),
    "NumPy's exponential": (lambda t, r: np.exp(-r * t), "failed: RuntimeError.*write it in torch"),
}
NUMBERS = {
    "always": (lambda t, r: torch.exp(-r * t) * np.nan, "not finite at specimen 'A0'|fn is nan at time = 0"),
    "at x = 0": (lambda t, r: torch.exp(-r * t) + 0.0 / t, "not finite at specimen 'A0'|fn is nan at time = 0"),
    "for some values": (
        lambda t, r: torch.where(r > 1.2, np.nan, torch.exp(-r * t)),
        r"fn is nan at time = 0, r = 1\.\d+, though the supports allow it",
    ),
    "in its derivative": (
        lambda t, r: torch.exp(-r * t) + 0.0 * torch.where(t * r > 0, torch.log(t * r), 0.0),
        "the derivative of fn by r is nan at time = 0, r = .*with torch.where or clamp",
    ),
}


def law(fn: Callable[..., torch.Tensor]) -> Law:
    return Law("slip", fn, {"r": Parameter("1/s", "positive")}, x=Axis("time", "s"))


def decays() -> list[Curve]:
    rng = np.random.default_rng(0)
    rates = np.exp(0.4 * rng.standard_normal(20))
    return [Curve(f"A{i}", TIMES, np.exp(-r * TIMES) + 0.02 * rng.standard_normal(8)) for i, r in enumerate(rates)]


def fit(law: Law) -> None:
    Calibrator(law, Prior.by_hand(law, [[0.0]], [[0.16]], noise=0.02)).fit_many(decays())


@pytest.mark.parametrize("door", [learn_prior, fit, LeastSquares], ids=["learn_prior", "fit", "least squares"])
@pytest.mark.parametrize("fn, message", SHAPES.values(), ids=SHAPES)
def test_a_result_of_the_wrong_kind_is_named(door, fn, message):
    with pytest.raises(ValueError, match=f"law slip: .*{message}"):
        if door is learn_prior:
            learn_prior(law(fn), decays())
        elif door is fit:
            fit(law(fn))
        else:
            LeastSquares(law(fn)).fit_many(decays())


@pytest.mark.parametrize("fn, message", NUMBERS.values(), ids=NUMBERS)
def test_a_value_that_is_not_a_number_is_named(fn, message):
    for door in (lambda law: learn_prior(law, decays()), fit):
        with pytest.raises(ValueError, match=f"law slip.*({message})"):
            door(law(fn))


def test_overflow_far_from_the_data_is_no_slip():
    steep = law(lambda t, r: torch.exp(-r * t) + torch.exp(300.0 * (r - 3.0)))  # infinite beyond r = 5.4
    prior = learn_prior(steep, decays())
    assert prior.converged
    assert abs(prior.coefficients[0, 0]) < 0.3
