from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pybullet")
pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env

from simulators.arm import bullet
from simulators.arm.env import ArmEnv
from simulators.arm.movement import draw_movement
from simulators.arm.payload import box
from simulators.arm.robot import nominal


@pytest.fixture
def env():
    env = ArmEnv("iiwa")
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")
@pytest.mark.parametrize(("name", "mode"), [("iiwa", "rgb_array"), ("panda", None)])
def test_gymnasium_finds_no_fault(name, mode):
    env = ArmEnv(name, render_mode=mode, size=(64, 48))
    check_env(env)
    env.close()


def test_seeds_give_the_same_episode(env):
    runs = []
    for _ in range(2):
        observation, info = env.reset(seed=5)
        steps = [env.step(np.full(7, 0.01)) for _ in range(3)]
        runs.append((observation, info, steps))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    for (a, *rest), (b, *others) in zip(runs[0][2], runs[1][2], strict=True):
        np.testing.assert_array_equal(a, b)
        assert rest == others


def test_resets_draw_payloads_and_movements(env):
    first, info = env.reset(seed=0)
    second, other = env.reset()
    assert info["mass"] != other["mass"]
    assert np.abs(first - second).max() > 0.1
    assert 0.0 < info["mass"] < 5.0


def test_a_controller_that_knows_the_payload_earns_more():
    robot = nominal("iiwa")
    movement = draw_movement(robot.chain, np.random.default_rng(0))
    payload = box(3.0, (0.02, 0.0, 0.13), (0.1, 0.1, 0.1))
    env = ArmEnv(robot, movement=movement, rate=500)
    rewards = []
    for held in (None, payload):
        controller = bullet.pd(robot.chain, movement, held)
        observation, info = env.reset(options={"payload": payload})
        assert info == {"mass": 3.0, "error": 0.0}
        total, end, step = 0.0, False, 0
        while not end:
            tau = controller(step / 500, observation[:7].astype(float), observation[7:14].astype(float))
            observation, reward, terminated, end, info = env.step(tau / robot.chain.effort)
            assert not terminated
            total, step = total + reward, step + 1
        assert step == 2000
        rewards.append(total / step)
    env.close()
    assert -(0.1**2) < rewards[0] < -(0.02**2)
    assert -(0.002**2) < rewards[1] < 0.0


def test_observation_holds_the_state_and_what_comes_next(env):
    movement = draw_movement(env.robot.chain, np.random.default_rng(0))
    observation, _ = env.reset(options={"movement": movement})
    here, ahead = movement.at(0.0), movement.at(0.01)
    np.testing.assert_allclose(observation, np.concatenate([*here[:2], *ahead[:2]]), rtol=1e-6)


def test_racing_joints_end_the_episode_and_cost_more_than_standing(env):
    env.reset(seed=0)
    observation, reward, terminated, truncated, _ = env.step(np.ones(7))
    assert terminated and not truncated
    assert observation in env.observation_space
    assert reward < -500.0


def test_pictures_come_in_the_size_asked_for():
    env = ArmEnv("iiwa", render_mode="rgb_array", size=(96, 64))
    env.reset(seed=0)
    picture = env.render()
    env.close()
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8
    assert np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_resets_take_no_memory(env):
    for seed in range(50):
        env.reset(seed=seed)
    before = resident()
    for seed in range(200):
        env.reset(seed=seed)
        env.step(np.zeros(7))
    assert resident() - before < 1.0


def resident():
    """Return the process's resident memory, MiB."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def test_bad_input_is_refused_by_name(env):
    with pytest.raises(ValueError, match="render_mode"):
        ArmEnv("iiwa", render_mode="human")
    with pytest.raises(ValueError, match="must divide 1000"):
        ArmEnv("iiwa", rate=300)
    with pytest.raises(ValueError, match="positive and finite"):
        ArmEnv("iiwa", torque=np.zeros(7))
    with pytest.raises(ValueError, match="unknown option 'mass'"):
        env.reset(options={"mass": 1.0})
