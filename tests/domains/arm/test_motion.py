"""Motion that is a Fourier series, found from noisy samples of it."""

from __future__ import annotations

import pytest
import torch

from scimeta.domains.arm.log import Log
from scimeta.domains.arm.motion import fourier_motion
from simulators import arm as simulator


def test_a_fourier_motion_without_noise_is_found_exactly_and_with_noise_much_better(simulated):
    exact, _ = simulated(10, 20)
    found = fourier_motion(exact, 4.0)
    for name in ("q", "qd", "qdd"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), atol=1e-7, rtol=0)
    noisy, _ = simulated(10, 20, simulator.Noise())
    found = fourier_motion(noisy, 4.0)
    assert (found.qdd - exact.qdd).square().mean().sqrt() < 0.005
    assert (found.qd - exact.qd).square().mean().sqrt() < 2e-4
    assert found.tau is noisy.tau


def test_a_movement_that_is_no_such_series_is_said(simulated):
    log, _ = simulated(3, 40)
    with pytest.warns(UserWarning, match="off 2 harmonics of 4 s"):
        fourier_motion(log, 4.0, harmonics=2)
    with pytest.raises(ValueError, match="2 samples cannot settle 4 harmonics; it takes 3"):
        fourier_motion(Log(*(x[:, :2] for x in log)), 4.0)
    with pytest.raises(ValueError, match="seconds is a positive number"):
        fourier_motion(log, 0.0)
