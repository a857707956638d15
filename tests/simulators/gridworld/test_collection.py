"""The object collection: its rules one by one, and tables, batches and the environment alike."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium.utils.env_checker import check_env

import simulators.gridworld.vector_env  # noqa: F401  (registers the names)
from simulators.gridworld.collection import (
    COLLECTION,
    Collectors,
    collection_tasks,
    four_room_collection,
    read_collection,
)
from simulators.gridworld.collection_env import CollectionEnv

ROWS = COLLECTION.splitlines()
STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def play(position, taken, action):
    """Return position, objects taken, feature (None without) and whether the episode ends, by the published rules."""
    row, col = position[0] + STEPS[action][0], position[1] + STEPS[action][1]
    if not (0 <= row < 13 and 0 <= col < 13) or ROWS[row][col] == "#":
        return position, taken, None, False
    if ROWS[row][col] == "G":
        return (row, col), taken, 3, True
    if ROWS[row][col].isdigit() and (row, col) not in taken:
        return (row, col), taken | {(row, col)}, int(ROWS[row][col]) - 1, False
    return (row, col), taken, None, False


def decode(rooms, state):
    cell, taken = divmod(int(state), 1 << len(rooms.objects))
    bits = [rooms.objects[i] for i in range(len(rooms.objects)) if taken >> i & 1]
    return tuple(rooms.city.cells[cell].tolist()), {tuple(rooms.city.cells[c].tolist()) for c in bits}


def test_the_rooms_are_those_published():
    rooms = four_room_collection()
    assert len(rooms.city) == 152 and len(rooms.objects) == 12 and rooms.dim == 4
    assert np.bincount(rooms.classes).tolist() == [4, 4, 4]
    assert rooms.city.cells[rooms.goal].tolist() == [0, 12]
    assert decode(rooms, rooms.starts[0]) == ((12, 0), set())
    assert len(rooms) == 152 * 2**12


def test_tables_batch_and_environment_follow_the_rules_one_by_one():
    rooms = four_room_collection()
    after, feature, terminal = rooms.tables()
    weights = collection_tasks(1, np.random.default_rng(0))[0]
    env, batch, rng = CollectionEnv(weights, rooms), Collectors(rooms, 1), np.random.default_rng(1)
    seen, ends = set(), 0
    for _ in range(12):
        state, _ = env.reset(seed=0)
        assert batch.reset(rng).tolist() == [state]
        position, taken = decode(rooms, state)
        for _ in range(1500):
            action = int(rng.integers(4))
            position, taken, kind, end = play(position, taken, action)
            phi = np.zeros(4)
            if kind is not None:
                phi[kind] = 1
            assert feature[state, action] == (-1 if kind is None else kind)
            table_state = after[state, action]
            state, reward, terminated, truncated, info = env.step(action)
            batch_state, batch_phi, ended = batch.step(np.array([action]))
            assert decode(rooms, state) == (position, taken)
            assert state == table_state == batch_state[0]
            assert reward == pytest.approx(phi @ weights, abs=1e-15)
            np.testing.assert_array_equal(info["features"], phi)
            np.testing.assert_array_equal(batch_phi[0], phi)
            assert terminated is end and truncated is False and ended[0] == end == terminal[state]
            seen.add(kind)
            if end:
                ends += 1
                break
    assert seen == {None, 0, 1, 2, 3} and ends > 3


def test_the_goal_leads_to_itself_and_earns_once():
    rooms = read_collection("S1G")
    after, feature, terminal = rooms.tables()
    goal = int(after[after[rooms.starts[0], 3], 3])
    assert terminal[goal] and after[goal].tolist() == [goal] * 4 and feature[goal].tolist() == [-1] * 4
    batch = Collectors(rooms, 2)
    batch.reset(np.random.default_rng(0))
    earned = sum(batch.step(np.full(2, 3))[1] for _ in range(5))
    np.testing.assert_array_equal(earned, [[1, 1], [1, 1]])


def test_a_restart_puts_back_the_objects_of_the_agents_asked_for():
    rooms = read_collection("S1.G")
    batch = Collectors(rooms, 2)
    start = batch.reset(np.random.default_rng(0))
    states, _, _ = batch.step(np.array([3, 3]))
    assert batch.restart(np.array([True, False])).tolist() == [start[0], states[1]]
    _, features, _ = batch.step(np.array([3, 2]))
    np.testing.assert_array_equal(features, [[1, 0], [0, 0]])


def test_tasks_are_uniform_for_objects_and_one_for_the_goal():
    tasks = collection_tasks(4000, np.random.default_rng(0))
    assert tasks.shape == (4000, 4) and (tasks[:, 3] == 1).all()
    assert tasks[:, :3].min() > -1 and tasks[:, :3].max() < 1
    np.testing.assert_allclose(tasks[:, :3].mean(0), 0, atol=4 / np.sqrt(3 * 4000))
    np.testing.assert_allclose(tasks[:, :3].var(0), 1 / 3, atol=0.03)


def test_gymnasium_finds_no_fault_and_ends_episodes_after_200_steps():
    import matplotlib

    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    check_env(gymnasium.make("scimeta/Collection-v0").unwrapped)
    matplotlib.use(before)
    env = gymnasium.make("scimeta/Collection-v0")
    env.reset(seed=0)
    cut = [env.step(2)[3] for _ in range(200)]
    assert cut == [False] * 199 + [True]


def test_objects_taken_leave_the_picture_and_the_text():
    rooms = read_collection("S1.G")
    full, less = rooms.picture(int(rooms.starts[0]), size=20), rooms.picture(int(rooms.starts[0]) + 1, size=20)
    changed = (full != less).any((0, 2)).reshape(4, 20).any(1)
    assert changed.tolist() == [False, True, False, False]
    assert rooms.text(int(rooms.starts[0])).splitlines()[0] == "@1.G"
    assert rooms.text(int(rooms.starts[0]) + 1).splitlines()[0] == "@..G"


def test_bad_input_is_refused():
    for text, message in (
        ("1.G", "must have S"),
        ("S1GG", "must have S"),
        ("S1GX", "must have S"),
        ("S.G", "without gaps; got none"),
        ("S13G", "without gaps"),
        ("S~1G", "slippery"),
        ("S" + "1" * 17 + "G", "at most 16"),
    ):
        with pytest.raises(ValueError, match=message):
            read_collection(text)
    with pytest.raises(ValueError, match="finite"):
        CollectionEnv([1.0, float("nan"), 0.0, 1.0])
    env = CollectionEnv()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    for action in (4, 1.0):
        with pytest.raises(ValueError, match="0 to 3"):
            env.step(action)
    with pytest.raises(ValueError, match=r"mask, \(2,\) booleans"):
        batch = Collectors(env.collection, 2)
        batch.reset(np.random.default_rng(0))
        batch.restart(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"actions must be \(2,\)"):
        batch = Collectors(env.collection, 2)
        batch.reset(np.random.default_rng(0))
        batch.step(np.array([0, 4]))
