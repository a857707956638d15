"""Recordings that can be read and do not fit the arm: signs, orders, units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from scimeta.domains.arm.recordings import read_trials, write_trials
from simulators.arm import draw_movement, draw_payloads, scenario, simulate, urdf
from tests.domains.arm.recorded import LOG, LOGS, as_log, change, describe, in_every_log, in_order


def test_positions_a_little_past_the_limits_are_a_warning(folder):
    change(folder / "trial_1.csv", lambda table: table.assign(q1=table["q1"] - table["q1"].max() + 3.3))
    with pytest.warns(UserWarning, match=r"'lbr_iiwa_joint_1' stands at 3.3, past its limits \[-2.97, 2.97\]"):
        read_trials(folder)


def test_joints_whose_torques_have_the_wrong_sign_are_named(folder):
    in_every_log(folder, lambda table: table.assign(tau2=-table["tau2"], tau4=-table["tau4"]))
    with pytest.raises(ValueError, match=r"torques of lbr_iiwa_joint_2, lbr_iiwa_joint_4 are opposite .*torque_sign"):
        read_trials(folder)


def test_a_sign_that_is_stated_is_believed_with_a_warning(folder):
    describe(folder, torque_sign=-1)
    with pytest.warns(UserWarning, match=r"opposite to what the URDF asks for .*robot.yaml states it, so it stands"):
        trials = read_trials(folder)
    torch.testing.assert_close(trials.logs[0].tau, -LOG.tau[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [[1, 3, 2, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]], ids=["two swapped", "from the tip"])
def test_joints_in_another_order_are_named(folder, order):
    in_every_log(folder, in_order(order, "q", "qd", "qdd", "tau"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*past its limits")
        with pytest.raises(ValueError, match=r"do not fit the URDF .* positions and torques .* write joints: \[lbr"):
            read_trials(folder)


def test_torques_in_another_order_than_positions_are_named(folder):
    in_every_log(folder, in_order([1, 3, 2, 4, 5, 6, 7], "tau"))
    with pytest.raises(ValueError, match=r"if the torques in columns 1 to 7 were those of \w*1, \w*3, \w*2, "):
        read_trials(folder)


def test_torques_of_another_arm_are_suspected(folder):
    rng = np.random.default_rng(0)
    in_every_log(folder, lambda t: t.assign(**{f"tau{i}": 20 * rng.standard_normal(len(t)) for i in range(1, 8)}))
    with pytest.warns(UserWarning, match="do not fit the URDF .* is it this arm's"):
        read_trials(folder)


def test_radians_where_robot_yaml_says_degrees_are_suspected(folder):
    describe(folder, angle="deg")
    with pytest.warns(UserWarning) as said:
        read_trials(folder)
    assert any("are these radians?" in str(warning.message) for warning in said)


@pytest.mark.parametrize("name", ["S1", "S3"])
def test_friction_link_errors_and_unknown_payloads_raise_no_suspicion(tmp_path, name):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        robot = scenario(name, rng)
        loads = draw_payloads(1, rng, mass=(0, 8))
        one = simulate(robot, loads, [draw_movement(robot.chain, rng)], 20, seed=seed)
        log = as_log(one)
        assert len(read_trials(write_trials(tmp_path / str(seed), urdf("iiwa"), log))) == 1


def test_a_tare_of_another_movement_is_suspected(tmp_path):
    folder = write_trials(tmp_path / "arm", urdf("iiwa"), LOGS[:1], tares=LOGS[1:2])
    with pytest.warns(UserWarning, match=r"trial_1.csv: its tare trial_1_tare.csv is of another movement"):
        read_trials(folder)
