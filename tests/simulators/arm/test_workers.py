import os
import signal

import numpy as np
import pytest

pytest.importorskip("pybullet")
pytest.importorskip("joblib")

from simulators.arm.movement import draw_movement
from simulators.arm.payload import draw_payloads
from simulators.arm.robot import scenario
from simulators.arm.trials import Noise, simulate
from simulators.arm.workers import run_trials


@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def problem(trials):
    rng = np.random.default_rng(0)
    robot = scenario("S3", rng)
    return robot, draw_payloads(trials, rng), [draw_movement(robot.chain, rng) for _ in range(trials)]


def test_numbers_do_not_depend_on_the_number_of_workers():
    robot, payloads, movements = problem(4)
    one, two = (simulate(robot, payloads, movements, 5, seed=3, backend="bullet", workers=w) for w in (1, 2))
    for name in ("t", "q", "qd", "qdd", "tau", "payload"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.tau.shape == (4, 5, 7)


def test_a_trial_keeps_its_numbers_among_fewer_trials():
    robot, payloads, movements = problem(2)
    times = np.tile(np.linspace(0.01, 0.1, 4), (2, 1))
    both = run_trials(robot, payloads, movements, times, Noise(), 3)
    first = run_trials(robot, payloads[:1], movements[:1], times[:1], Noise(), 3)
    for a, b in zip(both, first, strict=True):
        np.testing.assert_array_equal(a[:1], b)


def test_trials_differ_in_their_noise_and_seeds_do():
    robot, payloads, movements = problem(1)
    times = np.tile(np.linspace(0.01, 0.1, 4), (2, 1))
    twice = (robot, payloads * 2, movements * 2, times, Noise())
    tau, other = (run_trials(*twice, seed)[-1] for seed in (0, 1))
    assert 0.01 < np.std(tau[0] - tau[1]) < 1.0
    assert 0.01 < np.std(tau - other) < 1.0


def test_trials_of_a_killed_worker_are_named_and_run_again(tmp_path):
    robot, payloads, movements = problem(3)
    movement, flag = movements[1], str(tmp_path / "killed")

    class Deadly:
        """Kills the first process that looks at it."""

        offset, seconds = movement.offset, movement.seconds

        def at(self, t):
            if not os.path.exists(flag):
                os.close(os.open(flag, os.O_CREAT))
                os.kill(os.getpid(), signal.SIGKILL)
            return movement.at(t)

    times = np.tile(np.linspace(0.01, 0.1, 4), (3, 1))
    with pytest.warns(RuntimeWarning, match=r"worker process was killed; run again: trials .*1"):
        logs = run_trials(robot, payloads, [movements[0], Deadly(), movements[2]], times, Noise(), 0, 2)
    for a, b in zip(logs, run_trials(robot, payloads, movements, times, Noise(), 0, 1), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_trial_that_always_kills_its_worker_ends_the_run():
    robot, payloads, movements = problem(1)

    class Deadly:
        offset, seconds = movements[0].offset, movements[0].seconds

        def at(self, t):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.warns(RuntimeWarning, match="trials 0"), pytest.raises(RuntimeError, match="killed 3 times"):
        run_trials(robot, payloads, [Deadly()], np.array([[0.1]]), Noise(), 0, 2)


def test_an_error_in_a_worker_arrives():
    robot, payloads, movements = problem(2)
    with pytest.raises(ValueError, match="rising"):
        run_trials(robot, payloads, movements, np.array([[0.2, 0.1]] * 2), Noise(), 0, 2)
