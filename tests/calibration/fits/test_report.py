"""What a fit prints of noise and discrepancy."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.fits import report
from scimeta.calibration.fits.draws import PosteriorDraws
from scimeta.calibration.laws.law import Law, Parameter

RAMP = Law("ramp", lambda t, b: b * t, {"b": Parameter("mm/s")}, Axis("time", "s"), Axis("length", "mm"))
FAMILY = Family.gaussian(RAMP, [[1.0]], [[1.0]], 0.2)
CURVE = Curve("A", [1.0, 2.0, 4.0], [1.1, 1.9, 4.2])
RESIDUALS = CURVE.y - CURVE.x  # b = 1


def draws(family: Family) -> PosteriorDraws:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return PosteriorDraws(family, one, one[..., 0], np.ones((1, 1)), one[0])


def scatter(family: Family, curve: Curve = CURVE) -> str:
    return report.scatter(RAMP.y, RESIDUALS, curve, draws(family), learned=True)


def test_a_constant_noise_is_one_number():
    assert scatter(FAMILY) == "residual rms 0.141 mm, noise sd 0.2 mm (of the prior)"


@pytest.mark.parametrize(("model", "ends"), [
    (ErrorModel("proportional", 0.0, 1.0, 2.0), "0.1 to 0.4"),
    (ErrorModel("proportional", 0.0, 1.0, 2.0, 2.0), "0.2 to 0.4"),
    (ErrorModel("power", 0.0, 0.5, 2.0), "0.14 to 0.28"),
    (ErrorModel("proportional", 0.0, 1.0, 2.0, 4.0), "0.4"),
])  # fmt: skip
def test_a_noise_that_follows_the_mean_is_told_from_the_least_to_the_most_at_the_points(model, ends):
    """The means are 1, 2 and 4 mm; at the typical 2 mm the noise is 0.2 mm."""
    said = scatter(replace(FAMILY, error_model=model))
    assert said == f"residual rms 0.141 mm, noise sd {ends} mm (of the prior, grows with the mean)"


def test_a_sigma_of_the_points_own_is_told_instead():
    own = Curve("A", CURVE.x, CURVE.y, sigma=0.1)
    model = ErrorModel("proportional", 0.0, 1.0, 2.0)
    assert scatter(replace(FAMILY, error_model=model), own).endswith("sigma given with the points")


def test_the_share_of_the_discrepancy_is_that_of_the_draws_over_the_range_of_x():
    asked = []

    def share(x: torch.Tensor) -> np.ndarray:
        asked.append(x)
        return np.array([0.366])

    off = Discrepancy(("x",), (np.array([0.0, 2.0]),), np.zeros(2), np.eye(2), np.eye(2))
    known = SimpleNamespace(family=replace(FAMILY, discrepancy=off), discrepancy_share=share)
    said = report.discrepancy(known, (0.5, 8.0))
    assert said == ["model discrepancy: 37 % of the variance behind the band, over time 0.5 to 8 s"]
    assert (float(asked[0][0]), float(asked[0][-1]), len(asked[0])) == (0.5, 8.0, 60)


def test_without_a_discrepancy_none_is_spoken_of():
    assert report.discrepancy(draws(FAMILY), (0.5, 8.0)) == []
