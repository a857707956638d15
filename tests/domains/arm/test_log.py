"""A log of a robot's trials: what it must be, and how what is wrong with it is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm.classical import weigh_map
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import calibrate


def test_a_log_of_arrays_comes_back_as_float64_tensors(simulated, iiwa):
    log, _ = simulated(2)
    found = check_log(iiwa, Log(*(x.numpy().astype(np.float32) for x in log)))
    assert all(x.dtype == torch.float64 for x in found)
    torch.testing.assert_close(found.q, log.q, atol=1e-6, rtol=0)


def with_nan(values: Tensor) -> Tensor:
    values[1, 3, 4] = torch.nan
    return values


def silent(values: Tensor) -> Tensor:
    values[1, :, 2] = 0.0
    return values


def backwards(values: Tensor) -> Tensor:
    values[:, 5] = values[:, 3]
    return values


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qdd", with_nan, "qdd of joint 'lbr_iiwa_joint_5' is not finite"),
        ("t", lambda t: t * torch.inf, "t is not finite"),
        ("t", backwards, "t does not run forward after sample 4"),
        ("t", lambda t: t[:, :-1], r"t must be \(..., samples\)"),
        ("tau", silent, "tau of joint 'lbr_iiwa_joint_3' is zero throughout"),
        ("tau", lambda tau: tau[..., :6], "q, qd, qdd and tau must be .*7.* alike"),
        ("q", lambda q: q * 180 / torch.pi, "these look like degrees"),
        ("q", lambda q: q * 1000.0, "order of the joints and the units"),
    ],
)
def test_what_is_wrong_with_a_log_is_named(simulated, iiwa, name, change, message):
    log, _ = simulated(2)
    with pytest.raises(ValueError, match=message):
        check_log(iiwa, log._replace(**{name: change(getattr(log, name))}))


def test_a_log_of_another_number_of_joints_is_refused_everywhere(simulated, iiwa, model, prior):
    log, _ = simulated(2)
    six = Log(log.t, *(x[..., :6] for x in log[1:]))
    for door in (
        lambda: check_log(iiwa, six),
        lambda: calibrate(iiwa, six),
        lambda: weigh_map(model, six, prior),
    ):
        with pytest.raises(ValueError, match="the arm has 7 joints, the log 6"):
            door()
