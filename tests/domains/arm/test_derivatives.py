"""Velocities and accelerations from recorded positions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from scimeta.domains.arm.derivatives import Filter, differentiated
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.recordings import read_trials, write_trials
from simulators.arm import nominal, urdf
from tests.domains.arm.recorded import MOVEMENT, describe, in_every_log


@pytest.mark.parametrize("rate", [100, 1000])
def test_derivatives_of_a_noisy_movement_are_close_to_the_true_ones(rate):
    rng = np.random.default_rng(0)
    t = np.arange(0, 4, 1 / rate)
    q = MOVEMENT.at(t)[0] + 2e-5 * rng.standard_normal((len(t), 7))
    kept, *motion, tau = differentiated(t, q, q, None, Filter())
    for found, true, most in zip(motion, MOVEMENT.at(kept), (2e-5, 5e-4, 0.02), strict=True):
        assert np.sqrt(((found - true) ** 2).mean()) < most
    assert len(kept) == len(t) - 2 * round(0.1 * rate)
    np.testing.assert_array_equal(tau, q[round(0.1 * rate) : -round(0.1 * rate)])


def test_accelerations_from_recorded_velocities_are_closer_still():
    rng = np.random.default_rng(0)
    t = np.arange(0, 4, 0.01)
    q, qd, _ = MOVEMENT.at(t)
    qd = qd + 1e-4 * rng.standard_normal(qd.shape)
    kept, _, same_qd, qdd, _ = differentiated(t, q, q, qd, Filter())
    np.testing.assert_array_equal(same_qd, qd[10:-10])
    assert np.sqrt(((qdd - MOVEMENT.at(kept)[2]) ** 2).mean()) < 0.01


def test_times_that_jitter_are_made_even_first():
    t = np.arange(0, 4, 0.002)
    t = t + np.random.default_rng(0).uniform(-6e-4, 6e-4, len(t))
    q = MOVEMENT.at(t)[0]
    kept, *motion, tau = differentiated(t, q, q, None, Filter())
    np.testing.assert_allclose(np.diff(kept), np.diff(kept)[0], rtol=1e-9)
    for found, true, most in zip(motion, MOVEMENT.at(kept), (1e-5, 2e-4, 5e-3), strict=True):
        assert np.abs(found - true).max() < 5 * most
    np.testing.assert_allclose(tau, MOVEMENT.at(kept)[0], atol=1e-5)


def test_a_polynomial_of_the_filters_degree_is_differentiated_exactly():
    t = np.arange(0, 1, 0.01)
    q = np.stack((t**4, 1 - t**3), 1)
    kept, smooth, qd, qdd, _ = differentiated(t, q, q, None, Filter(window=0.1, degree=4))
    np.testing.assert_allclose(smooth, np.stack((kept**4, 1 - kept**3), 1), atol=1e-9)
    np.testing.assert_allclose(qd, np.stack((4 * kept**3, -3 * kept**2), 1), atol=1e-7)
    np.testing.assert_allclose(qdd, np.stack((12 * kept**2, -6 * kept), 1), atol=1e-5)


def test_a_recording_of_positions_and_torques_alone_is_read(tmp_path):
    t = torch.arange(0, 4, 0.005).double()
    q, qd, qdd = map(torch.as_tensor, MOVEMENT.at(t.numpy()))
    tau = torch.as_tensor(nominal("iiwa").torque(q.numpy(), qd.numpy(), qdd.numpy()))
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), [Log(t, q, qd, qdd, tau)], derivatives=False)
    assert list(pd.read_csv(folder / "trial_1.csv").columns) == [
        "t",
        *(f"{x}{i}" for x in ("q", "tau") for i in range(1, 8)),
    ]
    describe(folder, filter={"window": 0.1, "degree": 4}, sample_rate=200)
    log = read_trials(folder).logs[0]
    assert len(log.t) == 800 - 20
    torch.testing.assert_close(log.qdd, qdd[10:-10], rtol=0, atol=2e-3)
    torch.testing.assert_close(log.tau, tau[10:-10])


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"window": 0.0}, "robot.yaml: filter: window is a time in s"),
        ({"degree": 1}, "robot.yaml: filter: degree is a whole number, 2 or more"),
        ({"windows": 0.1}, "robot.yaml: there is no key of filter 'windows'; did you mean 'window'"),
        ({"window": "wide"}, "robot.yaml: filter is {window: seconds, degree: number}"),
        ({"window": 0.1}, r"trial_1.csv: the filter's window of 0.1 s holds 3 rows, too few .* filter: {window: 0.28}"),
        ({"window": 3.0}, r"trial_1.csv: there are 100 rows, two windows of the filter"),
    ],
)
def test_a_filter_that_cannot_work_is_refused(folder, filters, said):
    in_every_log(folder, lambda table: table[[c for c in table if not c.startswith("qd")]])
    describe(folder, filter=filters)
    with pytest.raises(ValueError, match=said):
        read_trials(folder)
