"""Trials: what is logged, with which noise, and that nothing but the seed decides the numbers."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from simulators.arm.movement import draw_movement
from simulators.arm.payload import box, draw_payloads, nothing
from simulators.arm.rigid import inverse_dynamics, payload_regressor
from simulators.arm.robot import nominal, scenario
from simulators.arm.trials import Noise, simulate

EXACT = Noise(0.0, 0.0, 0.0, 0.0)


def setting(trials: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    robot = scenario("S1", rng)
    return robot, draw_payloads(trials, rng), [draw_movement(robot.chain, rng) for _ in range(trials)]


def test_without_noise_a_log_is_the_movement_and_its_torques():
    robot, payloads, movements = setting(3)
    trials = simulate(robot, payloads, movements, samples=15, noise=EXACT)
    assert len(trials) == 3 and trials.t.shape == (3, 15) and trials.tau.shape == (3, 15, 7)
    for i in range(3):
        q, qd, qdd = movements[i].at(trials.t[i])
        np.testing.assert_allclose(trials.q[i], q, atol=1e-14)
        np.testing.assert_allclose(trials.qdd[i], qdd, atol=1e-13)
        np.testing.assert_allclose(trials.tau[i], robot.torque(q, qd, qdd, payloads[i]), atol=1e-11)


def test_least_squares_on_exact_logs_of_a_known_robot_gives_the_payload_back():
    robot = nominal("iiwa")
    rng = np.random.default_rng(1)
    payloads = draw_payloads(5, rng)
    trials = simulate(robot, payloads, [draw_movement(robot.chain, rng) for _ in payloads], noise=EXACT)
    for i in range(5):
        log = trials.q[i], trials.qd[i], trials.qdd[i]
        rows = payload_regressor(robot.chain, *log).reshape(-1, 10)
        added = (trials.tau[i] - inverse_dynamics(robot.chain, *log)).reshape(-1)
        np.testing.assert_allclose(np.linalg.lstsq(rows, added, rcond=None)[0], payloads[i].parameters, atol=1e-10)


def test_truth_is_kept_beside_the_logs():
    robot, payloads, movements = setting(4)
    payloads[2] = None
    trials = simulate(robot, payloads, movements)
    assert trials.mass.tolist() == [payloads[0].mass, payloads[1].mass, 0.0, payloads[3].mass]
    np.testing.assert_allclose(trials.com[3], payloads[3].com)
    assert np.isnan(trials.com[2]).all()
    assert trials.movements == tuple(movements)
    some = trials[np.array([3, 0])]
    assert some.mass.tolist() == [payloads[3].mass, payloads[0].mass] and some.movements[0] is movements[3]
    np.testing.assert_array_equal(trials[1:].tau, trials.tau[1:])
    with pytest.raises(TypeError, match="take several trials"):
        trials[0]


def test_noise_has_the_sizes_asked_for():
    robot, _, movements = setting(1)
    exact = simulate(robot, [None], movements, samples=3000, noise=EXACT)
    noisy = simulate(robot, [None], movements, samples=3000, noise=Noise(torque=0.2))
    for name, size in (("tau", 0.2), ("q", 2e-5), ("qd", 2e-3), ("qdd", 0.05)):
        assert (getattr(noisy, name) - getattr(exact, name)).std() == pytest.approx(size, rel=0.02)
    np.testing.assert_array_equal(exact.t, noisy.t)


def test_each_trial_and_each_channel_has_noise_of_its_own():
    robot, _, movements = setting(1)
    still = type(movements[0])(np.zeros(7), np.zeros((1, 7)), np.zeros((1, 7)), 4.0)
    trials = simulate(robot, [None] * 3, still, samples=500)
    errors = np.concatenate([trials.tau - trials.tau.mean(1, keepdims=True), trials.qdd], axis=-1)  # (3, 500, 14)
    correlation = np.corrcoef(errors.transpose(0, 2, 1).reshape(42, 500))
    assert np.abs(correlation - np.eye(42)).max() < 0.25


def test_samples_are_evenly_spread_over_the_period_with_a_phase_of_each_trials_own():
    robot, payloads, movements = setting(200)
    t = simulate(robot, payloads, movements, samples=8).t
    np.testing.assert_allclose(np.diff(t, axis=1), 0.5)
    assert (t[:, 0] >= 0.0).all() and (t[:, -1] < 4.0).all()
    assert t[:, 0].std() == pytest.approx(0.5 / 12**0.5, rel=0.1)


def test_the_fixed_test_movement_has_one_phase_for_all_trials():
    robot, payloads, movements = setting(5)
    trials = simulate(robot, payloads, movements[0], noise=EXACT)
    assert (trials.t == trials.t[0]).all() and (trials.q == trials.q[0]).all()
    assert trials.tau[:, 0].std(0).max() > 0.1


def test_a_trials_numbers_depend_on_the_seed_alone_and_not_on_its_fellows():
    robot, payloads, movements = setting(6)
    whole = simulate(robot, payloads, movements, seed=3)
    for name in ("t", "q", "qd", "qdd", "tau"):
        np.testing.assert_array_equal(
            getattr(simulate(robot, payloads[:4], movements[:4], seed=3), name), getattr(whole, name)[:4]
        )
        assert not np.array_equal(getattr(simulate(robot, payloads, movements, seed=4), name), getattr(whole, name))


def test_a_payload_above_the_rated_load_is_warned_of():
    robot, _, movements = setting(2)
    heavy = box(15.0, (0, 0, 0.1), (0.1, 0.1, 0.1))
    with pytest.warns(UserWarning, match="1 of 2 payloads is above the rated load of 14 kg: trial 1, 15 kg"):
        simulate(robot, [nothing(), heavy], movements)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(robot, [nothing(), box(13.0, (0, 0, 0.1), (0.1, 0.1, 0.1))], movements)


def test_payloads_are_drawn_from_the_benchmarks_distribution():
    payloads = draw_payloads(2000, np.random.default_rng(2), mass=(0.0, 5.0))
    masses, coms = np.array([p.mass for p in payloads]), np.stack([p.com for p in payloads])
    assert masses.min() >= 0.0 and masses.max() < 5.0 and masses.mean() == pytest.approx(2.5, abs=0.1)
    assert (np.abs(coms[:, :2]) <= 0.05).all() and (coms[:, 2] >= 0.075).all() and (coms[:, 2] <= 0.165).all()
    assert coms.std(0) == pytest.approx([0.1 / 12**0.5, 0.1 / 12**0.5, 0.09 / 12**0.5], rel=0.05)
    with pytest.raises(ValueError, match="lowest, highest"):
        draw_payloads(1, np.random.default_rng(0), mass=(5.0, 0.0))


def test_wrong_settings_are_refused():
    robot, payloads, movements = setting(2)
    with pytest.raises(ValueError, match="2 payloads, 1 movements"):
        simulate(robot, payloads, movements[:1])
    with pytest.raises(ValueError, match="at least one payload"):
        simulate(robot, [], [])
    with pytest.raises(ValueError, match="samples must be a whole number"):
        simulate(robot, payloads, movements, samples=0)
    with pytest.raises(ValueError, match='"rigid" or "bullet"; got \'mujoco\''):
        simulate(robot, payloads, movements, backend="mujoco")
    with pytest.raises(ValueError, match="workers must be a whole number"):
        simulate(robot, payloads, movements, workers=0)
    with pytest.raises(TypeError, match="trial 0 has a float and a Movement"):
        simulate(robot, [1.5, 2.0], movements)
    with pytest.raises(ValueError, match="torque is a standard deviation"):
        Noise(torque=-0.1)
    cut = robot.chain.names
    one = draw_movement(robot.chain, np.random.default_rng(0))
    fewer = type(one)(one.offset[:6], one.sine[:, :6], one.cosine[:, :6], one.seconds)
    with pytest.raises(ValueError, match=f"movement 0 is of 6 joints, the robot has {len(cut)}"):
        simulate(robot, payloads, fewer)


def test_the_rigid_backend_needs_neither_pybullet_nor_torch():
    code = (
        "import sys; missing = ['pybullet', 'gymnasium', 'torch', 'scimeta', 'joblib', 'tqdm']\n"
        "sys.modules.update(dict.fromkeys(missing))\n"
        "import numpy as np; from simulators.arm import draw_movement, nominal, simulate\n"
        "robot = nominal('panda')\n"
        "print(simulate(robot, [None], draw_movement(robot.chain, np.random.default_rng(0))).tau.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 20, 7)", done.stderr
