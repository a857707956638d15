import dataclasses

import numpy as np
import pytest

pytest.importorskip("pybullet")

from simulators.arm import bullet
from simulators.arm.movement import draw_movement
from simulators.arm.payload import box, draw_payloads
from simulators.arm.rigid import inverse_dynamics, payload_regressor
from simulators.arm.robot import draw_robot, nominal
from simulators.arm.trials import Noise, simulate
from simulators.arm.world import World

QUIET = Noise(0.0, 0.0, 0.0, 0.0)


def trial(robot, seed=0, mass=2.0, controller=None, seconds=1.0):
    """Return a payload and the noise-free log of every time step with it."""
    rng = np.random.default_rng(seed)
    movement = draw_movement(robot.chain, rng)
    payload = box(mass, (0.03, -0.02, 0.13), (0.05, 0.1, 0.15))
    return payload, movement, bullet.track(robot, payload, movement, controller, seconds=seconds).log


def rub(robot, payload, log):
    """Return what the rigid bodies and viscous friction leave of the torques, and where the joints move one way."""
    load = inverse_dynamics(robot.chain, log.q, log.qd, log.qdd, payload)
    after = np.concatenate([log.qd[1:], log.qd[-1:]])
    return log.tau - load - robot.viscous * log.qd, load, (np.abs(log.qd) > 0.05) & (log.qd * after > 0.0)


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_log_without_friction_satisfies_the_equations_of_motion_to_rounding(name):
    robot = draw_robot(name, np.random.default_rng(3), friction=False)
    payload, _, log = trial(robot)
    residual = log.tau - inverse_dynamics(robot.chain, log.q, log.qd, log.qdd, payload)
    assert np.abs(log.tau).max() > 5.0
    assert np.abs(residual).max() < 1e-9


def test_a_strange_robot_satisfies_them_too(tmp_path):
    path = tmp_path / "odd.urdf"
    path.write_text(ODD)
    robot = nominal(path, tip="hand")
    assert robot.chain.names == ("turn", "slide", "swing")
    payload, _, log = trial(robot)
    residual = log.tau - inverse_dynamics(robot.chain, log.q, log.qd, log.qdd, payload)
    assert np.abs(residual).max() < 1e-9


def test_away_from_rest_friction_is_coulomb_and_viscous():
    robot = draw_robot("iiwa", np.random.default_rng(0))
    payload, _, log = trial(robot)
    friction, _, moving = rub(robot, payload, log)
    assert moving.mean() > 0.7
    assert np.abs((friction - robot.coulomb * np.sign(log.qd))[moving]).max() < 1e-9


def test_load_raises_friction():
    robot = draw_robot("iiwa", np.random.default_rng(0), load_friction=0.05)
    payload, _, log = trial(robot)
    friction, load, moving = rub(robot, payload, log)
    expected = (robot.coulomb + 0.05 * np.abs(load)) * np.sign(log.qd)
    assert np.abs((friction - expected)[moving]).max() < 1e-9


def test_friction_holds_a_joint_that_is_pushed_less():
    robot = draw_robot("iiwa", np.random.default_rng(0), link_error=0.0, com_error=0.0)
    q = np.zeros(7)
    still = inverse_dynamics(robot.chain, q, q, q)
    with World() as world:
        world.load(robot, None, q)
        for _ in range(100):
            held, _ = world.step(still + 0.9 * robot.coulomb)
        world.load(robot, None, q)
        for _ in range(100):
            slipped, _ = world.step(still + 1.5 * robot.coulomb)
    assert np.abs(held).max() < 1e-6
    assert (slipped > 1e-4).all()


def test_least_squares_weighs_a_quiet_log():
    robot, rng = nominal("iiwa"), np.random.default_rng(0)
    payloads = draw_payloads(3, rng, mass=(0.5, 5.0))
    trials = simulate(robot, payloads, [draw_movement(robot.chain, rng) for _ in payloads], 20, QUIET, backend="bullet")
    assert np.abs(weigh(robot.chain, trials) / trials.mass - 1.0).max() < 1e-6


def test_least_squares_weighs_a_noisy_log_within_half_a_percent():
    robot, rng = nominal("iiwa"), np.random.default_rng(0)
    payloads = draw_payloads(9, rng, mass=(0.5, 5.0))
    trials = simulate(robot, payloads, [draw_movement(robot.chain, rng) for _ in payloads], 50, backend="bullet")
    assert np.median(np.abs(weigh(robot.chain, trials) / trials.mass - 1.0)) < 0.005


def weigh(chain, trials):
    """Return masses by least squares with ten unknowns, (trials,)."""
    motion = (trials.q, trials.qd, trials.qdd)
    rows = payload_regressor(chain, *motion).reshape(len(trials), -1, 10)
    left = (trials.tau - inverse_dynamics(chain, *motion)).reshape(len(trials), -1)
    return np.array([np.linalg.lstsq(y, b, rcond=None)[0][0] for y, b in zip(rows, left, strict=True)])


def test_payload_spoils_tracking_and_knowing_it_mends_that():
    robot, rng = nominal("iiwa"), np.random.default_rng(0)
    errors = []
    for payload in draw_payloads(3, rng, mass=(3.0, 3.0)):
        movement = draw_movement(robot.chain, rng)
        controllers = [bullet.pd(robot.chain, movement, held) for held in (None, payload)]
        controllers.append(bullet.pd(robot.chain, movement, payload, feed_forward="gravity"))
        errors.append([1e3 * bullet.track(robot, payload, movement, c).rmse for c in controllers])
    ignorant, told, gravity = np.mean(errors, axis=0)
    assert 30.0 < ignorant < 80.0
    assert told < 0.5
    assert told < gravity < ignorant


def test_log_holds_sensor_errors_and_noise():
    robot, rng = draw_robot("iiwa", np.random.default_rng(0), gain=0.1, offset=1.0), np.random.default_rng(1)
    movement, times = draw_movement(robot.chain, rng), np.arange(0.0, 1.0, 0.01)
    right = dataclasses.replace(robot, gain=np.ones(7), offset=np.zeros(7))
    clean = bullet.run(right, None, movement, times, QUIET, rng)
    sensed = bullet.run(robot, None, movement, times, QUIET, rng)
    noisy = bullet.run(robot, None, movement, times, Noise(torque=0.1, q=0.2, qd=0.3, qdd=0.4), rng)
    np.testing.assert_allclose(sensed.tau, robot.gain * clean.tau + robot.offset)
    np.testing.assert_array_equal(sensed.t, noisy.t)
    spread = [np.std(a - b) for a, b in zip(noisy[1:], sensed[1:], strict=True)]
    np.testing.assert_allclose(spread, [0.2, 0.3, 0.4, 0.1], rtol=0.1)


def test_samples_lie_at_the_time_step_nearest_to_those_asked_for():
    robot = nominal("iiwa")
    movement = draw_movement(robot.chain, np.random.default_rng(0))
    log = bullet.run(robot, None, movement, np.array([0.0, 0.0126, 0.3]), QUIET, np.random.default_rng(0))
    np.testing.assert_allclose(log.t, [0.0, 0.013, 0.3])
    np.testing.assert_allclose(log.q, movement.at(log.t)[0], atol=1e-3)


def test_a_world_used_again_gives_the_same_numbers():
    robot = draw_robot("iiwa", np.random.default_rng(0))
    heavy, light = (box(mass, (0.0, 0.0, 0.1), (0.1, 0.1, 0.1)) for mass in (5.0, 1.0))
    q, tau = np.full(7, 0.3), np.full(7, 2.0)
    ends = []
    with World() as world:
        for payload in (light, heavy, light, None, light):
            world.load(robot, payload, q)
            ends.append([world.step(tau)[0] for _ in range(20)][-1])
    np.testing.assert_array_equal(ends[0], ends[2])
    np.testing.assert_array_equal(ends[0], ends[4])
    assert np.abs(ends[1] - ends[0]).max() > 1e-4
    assert np.abs(ends[3] - ends[0]).max() > 1e-4


def test_the_users_controller_moves_the_arm():
    robot = nominal("iiwa")
    payload, _, log = trial(robot, controller=lambda t, q, qd: np.zeros(7), seconds=0.1)
    assert np.abs(log.tau).max() == 0.0
    at_first = inverse_dynamics(robot.chain, log.q[0], log.qd[0], log.qdd[0], payload)
    np.testing.assert_allclose(at_first, 0.0, atol=1e-9)


def test_torques_stay_within_the_effort_limits():
    robot = nominal("panda")
    _, _, log = trial(robot, controller=lambda t, q, qd: np.full(7, 1e3), seconds=0.01)
    np.testing.assert_array_equal(log.tau[0], robot.chain.effort)


def test_stops_are_reported():
    robot = nominal("iiwa")
    movement = draw_movement(robot.chain, np.random.default_rng(0))
    push = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    with pytest.warns(UserWarning, match=r"ran into their limits .*lbr_iiwa_joint_7"):
        bullet.track(robot, None, movement, lambda t, q, qd: push - 0.05 * qd)


def test_bad_input_is_refused_by_name():
    robot, rng = nominal("iiwa"), np.random.default_rng(0)
    movement = draw_movement(robot.chain, rng)
    with pytest.raises(ValueError, match="rising"):
        bullet.run(robot, None, movement, np.array([0.2, 0.1]), QUIET, rng)
    with pytest.raises(ValueError, match="7 finite torques"):
        bullet.track(robot, None, movement, lambda t, q, qd: np.full(7, np.nan))
    with pytest.raises(ValueError, match="stiffness must be positive"):
        bullet.pd(robot.chain, movement, stiffness=0.0)
    with pytest.raises(ValueError, match="feed_forward is"):
        bullet.pd(robot.chain, movement, feed_forward="full")
    with pytest.raises(ValueError, match="timestep"):
        World(timestep=1.0)
    flat = robot.chain.inertial.copy()
    flat[3, 4:] = [0.1, 0.0, 0.0, 0.1, 0.0, 10.0]
    with World() as world, pytest.raises(ValueError, match="'lbr_iiwa_joint_4'"):
        world.load(dataclasses.replace(robot, chain=dataclasses.replace(robot.chain, inertial=flat)), None, np.zeros(7))


def test_nothing_is_printed_and_no_file_stays(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    robot = nominal("panda")
    bullet.render(robot, box(1.0, (0.0, 0.0, 0.15), (0.1, 0.1, 0.1)), np.zeros(7), 32, 32)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["iiwa", "panda", "odd"])
def test_pictures_show_the_arm_and_its_payload(name, tmp_path):
    if name == "odd":
        (tmp_path / "odd.urdf").write_text(ODD)
    robot = nominal(tmp_path / "odd.urdf" if name == "odd" else name)
    q = np.array([[0.3, 0.4, 0.2, -1.2, 0.1, 0.9, 0.0], [-0.6, 0.2, 0.2, -1.6, 0.1, 0.9, 0.5]])[
        :, : len(robot.chain.names)
    ]
    payload = box(2.0, (0.0, 0.0, 0.2), (0.15, 0.15, 0.15))
    held, empty = (bullet.render(robot, p, q, 160, 120) for p in (payload, None))
    assert held.shape == (2, 120, 160, 3) and held.dtype == np.uint8
    red = [(frames[..., 0].astype(int) - frames[..., 1:].max(-1) > 90).sum((1, 2)) for frames in (held, empty)]
    assert (red[0] > red[1] + 20).all()
    assert (empty[0] != empty[1]).any()
    arm = np.abs(empty.astype(int) - np.median(empty.reshape(-1, 3), axis=0)).max(-1) > 20
    assert (arm.sum((1, 2)) > 200).all()


ODD = """<robot name="odd">
<link name="base"/>
<link name="turret"><inertial><origin xyz="0.1 0 0.1" rpy="0.1 0.2 0.3"/><mass value="2"/>
  <inertia ixx="0.02" ixy="0.002" ixz="0.001" iyy="0.03" iyz="0.003" izz="0.025"/></inertial></link>
<link name="rail"/>
<link name="hand"><inertial><origin xyz="0 0 0.1"/><mass value="1"/>
  <inertia ixx="0.02" ixy="0" ixz="0" iyy="0.03" iyz="0" izz="0.025"/></inertial></link>
<link name="tool"><inertial><origin xyz="0.02 0 0"/><mass value="0.5"/>
  <inertia ixx="0.002" ixy="0.0001" ixz="0" iyy="0.003" iyz="0" izz="0.0025"/></inertial></link>
<joint name="turn" type="continuous"><parent link="base"/><child link="turret"/><origin xyz="0 0 0.2" rpy="0.1 0 0"/>
  <axis xyz="0 0.6 0.8"/></joint>
<joint name="slide" type="prismatic"><parent link="turret"/><child link="rail"/><origin xyz="0 0 0.2" rpy="0 0.3 0"/>
  <axis xyz="1 0 0"/><limit lower="-1" upper="1" velocity="3" effort="500"/></joint>
<joint name="swing" type="revolute"><parent link="rail"/><child link="hand"/><origin xyz="0 0.1 0.2" rpy="0 1.2 0.1"/>
  <axis xyz="0 1 0"/><limit lower="-1.5" upper="1.5" velocity="3" effort="200"/>
  <dynamics damping="3" friction="2"/></joint>
<joint name="flange" type="fixed"><parent link="hand"/><child link="tool"/><origin xyz="0 0 0.2" rpy="0 0 0.4"/></joint>
</robot>"""
