"""The city as Gymnasium environments: no fault found, alike one by one and together, and fast together."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simulators.gridworld.env import GridEnv, VectorReward
from simulators.gridworld.layouts import four_rooms, open_grid, scatter_places, town
from simulators.gridworld.vector_env import GridVectorEnv


@pytest.fixture(autouse=True)
def no_screen():
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    yield
    matplotlib.use(before)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"observation": "image"}, {"city": "four_rooms", "goal": (0, 0)}, {"start": "library", "goal": "park"}],
)
def test_gymnasium_finds_no_fault_in_any_render_mode(arguments):
    check_env(gymnasium.make("scimeta/City-v0", **arguments).unwrapped)


def test_rewards_are_features_times_weights_along_a_walk_on_the_map():
    city, rng = town(), np.random.default_rng(0)
    weights = rng.standard_normal(5)
    env = GridEnv(city, weights=weights)
    state, _ = env.reset(seed=1)
    features, matrices = city.features(), [matrix.toarray() for matrix in city.matrices()]
    for _ in range(2000):
        action = int(rng.integers(5))
        after, reward, terminated, truncated, info = env.step(action)
        assert matrices[action][state, after] > 0
        assert reward == pytest.approx(features[after] @ weights, abs=1e-15)
        np.testing.assert_array_equal(info["features"], features[after])
        assert terminated is False and truncated is False
        assert info["features"] in env.reward_space
        state = after


def test_slippery_cells_slip_as_often_as_they_should():
    city = town()
    start = city.state(8, 5)
    env = GridEnv(city, start=start)
    env.reset(seed=0)
    ends = np.zeros(len(city))
    for _ in range(4000):
        env.reset()
        ends[env.step(0)[0]] += 1
    truth = city.matrices()[0].toarray()[start]
    assert np.abs(ends / 4000 - truth).max() < 5 * np.sqrt(0.25 / 4000)


def test_a_goal_is_a_place_or_a_cell():
    city = town()
    park = GridEnv(city, goal="park", start=(4, 8))
    park.reset(seed=0)
    assert park.step(3)[1] == 1.0
    cell = GridEnv("four_rooms", goal=(0, 1), start=(0, 0))
    cell.reset(seed=0)
    assert [cell.step(a)[1] for a in (3, 4, 3)] == [1.0, 1.0, 0.0]
    assert cell.reward_dim == 1


def test_the_first_place_is_the_goal_if_nothing_is_said():
    np.testing.assert_array_equal(GridEnv("town").weights, [1, 0, 0, 0, 0])


def test_episodes_start_where_asked():
    env = GridEnv("town", start="park")
    park = set(town().place("park").tolist())
    assert {env.reset(seed=seed)[0] for seed in range(60)} == park
    assert env.reset(options={"start": "library"})[0] == 0
    assert env.reset(options={"start": (0, 1)})[0] == 1
    assert len({GridEnv("town").reset(seed=seed)[0] for seed in range(60)}) > 20


def test_a_picture_as_observation_differs_only_where_the_agent_stands():
    env = GridEnv("four_rooms", goal=(0, 0), observation="image", start=0)
    first, _ = env.reset(seed=0)
    second, *_ = env.step(3)
    assert first.shape == (13, 13, 3)
    assert np.argwhere((first != second).any(-1)).tolist() == [[0, 0], [0, 1]]


def test_rendering_gives_pixels_text_or_a_window():
    for mode in ("rgb_array", "ansi", "human"):
        env = gymnasium.make("scimeta/City-v0", render_mode=mode, start="library")
        env.reset(seed=0)
        shown = env.render()
        if mode == "rgb_array":
            assert shown.dtype == np.uint8 and shown.ndim == 3
        elif mode == "ansi":
            assert shown.startswith("@....#")
        else:
            assert shown is None
        env.close()


def test_a_vector_reward_is_the_features():
    env = gymnasium.make("scimeta/MOCity-v0", start=(4, 8))
    assert env.unwrapped.reward_space.shape == (5,)
    env.reset(seed=0)
    _, reward, *_, info = env.step(3)
    np.testing.assert_array_equal(reward, [0, 0, 1, 0, 0])
    reward[:] = 7
    np.testing.assert_array_equal(info["features"], [0, 0, 1, 0, 0])
    again = VectorReward(GridEnv("town", start=(4, 8)))
    again.reset(seed=0)
    np.testing.assert_array_equal(again.step(3)[1], [0, 0, 1, 0, 0])
    with pytest.raises(TypeError, match="reward_space"):
        VectorReward(gymnasium.make("FrozenLake-v1"))


def test_the_unwrapped_city_of_vector_rewards_rewards_with_vectors_too():
    env = gymnasium.make("scimeta/MOCity-v0", start=(4, 8), max_episode_steps=1).unwrapped
    env.reset(seed=0)
    _, reward, *_ = env.step(3)
    assert reward.shape == (env.reward_dim,) and reward in env.reward_space


def test_many_agents_have_vector_rewards_that_are_their_features():
    envs = gymnasium.make_vec("scimeta/MOCity-v0", 3, start=(4, 8), max_episode_steps=2)
    envs.reset(seed=0)
    actions, park, street = np.array([3, 0, 3]), [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]
    _, rewards, _, _, info = envs.step(actions)
    np.testing.assert_array_equal(rewards, [park, street, park])
    np.testing.assert_array_equal(info["features"], rewards)
    assert all(reward in envs.reward_space for reward in rewards)
    assert envs.step(actions)[3].all()
    np.testing.assert_array_equal(envs.step(actions)[1], np.zeros((3, 5)))  # this step only starts the next episode


@pytest.mark.parametrize("name", ["four rooms", "four_rooms"])
def test_a_layout_is_found_by_its_name_with_spaces_or_without(name):
    assert len(gymnasium.make("scimeta/City-v0", city=name, goal=(0, 0)).unwrapped.city) == 148


def test_agents_together_say_what_they_cannot_do():
    with pytest.raises(ValueError, match=r'observation is "state"; got .image.; make_vec.*"sync"'):
        gymnasium.make_vec("scimeta/City-v0", 2, observation="image")
    envs = gymnasium.make_vec("scimeta/City-v0", 2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        envs.step(np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match=r"share one seed.*got \[1, 2\]"):
        envs.reset(seed=[1, 2])


def walk(envs, actions):
    """Return all that a vector environment says along a walk."""
    said = [envs.reset(seed=0)]
    said += [envs.step(row) for row in actions]
    return said


@pytest.mark.parametrize("arguments", [{"city": "four_rooms", "goal": (0, 2)}, {"city": "street_city", "goal": (0, 3)}])
def test_agents_together_are_told_what_gymnasium_tells_them_one_by_one(arguments):
    arguments = {**arguments, "start": (0, 0), "max_episode_steps": 7}
    own = gymnasium.make_vec("scimeta/City-v0", num_envs=6, **arguments)
    usual = gymnasium.make_vec("scimeta/City-v0", num_envs=6, vectorization_mode="sync", **arguments)
    assert isinstance(own, GridVectorEnv) and isinstance(usual, SyncVectorEnv)
    assert own.observation_space == usual.observation_space and own.action_space == usual.action_space
    assert own.metadata["autoreset_mode"] == usual.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    actions = np.random.default_rng(0).integers(5, size=(40, 6))
    for mine, theirs in zip(walk(own, actions), walk(usual, actions), strict=True):
        for a, b in zip(mine[:-1], theirs[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
        for key, value in theirs[-1].items():
            np.testing.assert_array_equal(mine[-1][key], value)
    usual.close()


def test_unequal_times_of_the_agents_do_not_mix():
    envs = GridVectorEnv(3, "four_rooms", goal=(0, 0), start=(0, 0), max_episode_steps=2)
    envs.reset(seed=0)
    stay = np.full(3, 4)
    rewards, cuts = zip(*(envs.step(stay)[1:4:2] for _ in range(6)), strict=True)
    np.testing.assert_array_equal(rewards, np.outer([1, 1, 0, 1, 1, 0], np.ones(3)))
    np.testing.assert_array_equal(cuts, np.outer([0, 1, 0, 0, 1, 0], np.ones(3)).astype(bool))


def test_every_agent_may_have_its_own_weights():
    city = scatter_places(four_rooms(), ["a", "b", "c"], np.random.default_rng(0))
    weights = np.random.default_rng(1).standard_normal((500, 3))
    envs = GridVectorEnv(500, city, weights=weights)
    envs.reset(seed=0)
    earned = 0
    for _ in range(20):
        states, rewards, *_ = envs.step(envs.action_space.sample())
        np.testing.assert_allclose(rewards, (city.features()[states] * weights).sum(1), rtol=0, atol=1e-15)
        earned += (rewards != 0).sum()
    assert earned > 10


def test_seeds_give_the_same_walk_on_slippery_ground():
    actions = np.random.default_rng(0).integers(5, size=(30, 64))
    one, two = (walk(GridVectorEnv(64, "town", max_episode_steps=9), actions) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_agents_together_step_twenty_times_as_fast_as_one_by_one():
    def rate(envs, steps):
        actions = np.random.default_rng(0).integers(5, size=(steps, envs.num_envs))
        envs.reset(seed=0)
        envs.step(actions[0])
        start = time.process_time()
        for row in actions:
            envs.step(row)
        return actions.size / (time.process_time() - start)

    arguments = {"city": "street_city", "goal": (0, 0), "max_episode_steps": 200}
    usual = gymnasium.make_vec("scimeta/City-v0", num_envs=128, vectorization_mode="sync", **arguments)
    own = gymnasium.make_vec("scimeta/City-v0", num_envs=4096, **arguments)
    assert rate(own, 200) > 20 * rate(usual, 40)


def test_a_large_city_has_a_goal_but_not_a_feature_for_every_cell():
    env = GridEnv(open_grid(320), goal=(10, 10))
    env.reset(seed=0)
    assert env.step(0)[4]["features"].shape == (1,)
    with pytest.raises(ValueError, match="too many for a feature each"):
        GridEnv(open_grid(320), weights=np.zeros(320 * 320))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goal": "zoo"}, "Unknown place 'zoo' .* library, station, park, market, cafe"),
        ({"goal": (1, 1)}, "is a wall"),
        ({"goal": "park", "weights": np.ones(5)}, "either a goal or weights"),
        ({"weights": [1.0, float("nan"), 0, 0, 0]}, "finite"),
        ({"weights": np.ones(3)}, r"weights must be \(5,\)"),
        ({"features": np.ones((3, 2))}, "features must be"),
        ({"city": "four_rooms"}, "no places"),
        ({"city": "fourrooms"}, "layouts are town, four_rooms"),
        ({"city": "five rooms"}, "layouts are town, four_rooms"),
        ({"city": "streets.text"}, "layouts are town, four_rooms"),
        ({"goal": 3}, r"goal must be a place or \(row, col\); got 3"),
        ({"goal": (0, 1, 2)}, r"goal must be a place or \(row, col\)"),
        ({"start": 1.5}, r"start must be a place, a state or \(row, col\); got 1.5"),
        ({"start": 1000}, r"state in 0\.\."),
        ({"observation": "sound"}, "observation"),
        ({"render_mode": "oil"}, "render_mode"),
    ],
)
def test_bad_input_says_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        GridEnv(**arguments)


def test_bad_use_is_refused():
    env = GridEnv("town")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for action in (-1, 5, 1.0, "north"):
        with pytest.raises(ValueError, match="0 to 4"):
            env.step(action)
    for made in (env, GridVectorEnv(2, "town")):
        with pytest.raises(ValueError, match="unknown option 'begin'"):
            made.reset(options={"begin": 0})
    with pytest.raises(ValueError, match="weights are for 3 agents"):
        GridVectorEnv(2, "town", weights=np.ones((3, 5)))
    with pytest.raises(ValueError, match="weights must be"):
        GridEnv("town", weights=np.ones((3, 5)))
    with pytest.raises(ValueError, match="max_episode_steps"):
        GridVectorEnv(2, "town", max_episode_steps=0)
