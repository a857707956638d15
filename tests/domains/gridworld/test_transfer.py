"""Successor-feature Q-learning and Q-learning over tasks, against exact values and on the published problem."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.sfql import _How, _one_task, _Table, sfql
from scimeta.domains.gridworld.transfer import World, check_tasks, q_learning_each
from simulators.gridworld.collection import four_room_collection, read_collection

GAMMA = 0.9


def world_of(collection) -> World:
    after, feature, ends = collection.tables()
    return World(after, feature, np.eye(collection.dim), ends, collection.starts)


def exact(world: World, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the optimal action values and the successor features of the best policy, (states, actions[, d])."""
    rows = np.vstack([world.rows, np.zeros(world.rows.shape[1])])
    psi = np.zeros((*world.next.shape, world.rows.shape[1]))
    going = ~np.asarray(world.ends)[world.next]
    for _ in range(500):
        best = (psi @ weights).argmax(1)
        ahead = psi[np.arange(len(best)), best][world.next]
        psi = rows[world.feature] + GAMMA * going[..., None] * ahead
    return psi @ weights, psi


@pytest.mark.parametrize("told", [True, False])
def test_successor_features_become_the_exact_ones_of_the_best_policy(told):
    world, true = world_of(read_collection("S.1\n.#.\n2.G")), np.array([0.5, -0.7, 1.0])
    world, tasks = check_tasks("test", world, true[None], 1, 1)
    table = _Table((1, 4, 3), 1.0, GAMMA, np.random.default_rng(0))
    known = true.copy() if told else np.ones(3)
    how = _How(steps=20_000, episode=50, epsilon=1.0, weight_rate=0.0 if told else 1.0)
    _one_task(world, table, tasks[0], [known], how, np.random.default_rng(1))
    np.testing.assert_allclose(known, true, atol=1e-12)
    values, psi = exact(world, true)
    for state, slot in table.slots.items():
        if not world.ends[state]:
            np.testing.assert_allclose(table.psi[slot] @ true, values[state], atol=1e-9)
            np.testing.assert_allclose(table.psi[slot], psi[state], atol=1e-9)
    assert len(table.slots) > 10


def test_a_table_that_grows_keeps_what_it_knows():
    table = _Table((2, 3, 1), 0.5, GAMMA, np.random.default_rng(0))
    slots = [table.slot(state) for state in range(1024)]
    before = table.psi.copy()
    assert table.slot(5000) == 1024
    assert slots == list(range(1024))
    np.testing.assert_array_equal(table.psi[:1024], before)
    table.inherit(1)
    np.testing.assert_array_equal(table.psi[:1025, 3:], table.psi[:1025, :3])


def test_an_earlier_policy_serves_the_same_task_again():
    world = world_of(read_collection("S....\n.###.\n.###1\n....G"))
    weights = np.array([[1.0, 1.0], [1.0, 1.0]])
    first, second = sfql(world, weights, steps=3000, first_weight=1.0, rng=np.random.default_rng(0)).returns
    alone = q_learning_each(world, weights, steps=3000, rng=np.random.default_rng(0)).returns
    assert second > 1.1 * first
    assert second > 1.1 * alone[1]


def test_on_the_published_problem_transfer_pays():
    world = world_of(four_room_collection())
    weights = np.hstack([np.random.default_rng(0).uniform(-1, 1, (10, 3)), np.ones((10, 1))])
    ours = sfql(world, weights, steps=10_000, first_weight=1.0, weight_rate=1.0, rng=np.random.default_rng(0))
    alone = q_learning_each(world, weights, steps=10_000, rng=np.random.default_rng(0))
    assert ours.returns[4:].mean() > 2.3 * alone.returns[4:].mean()
    assert ours.reused[4:].mean() > 0.5
    assert ours.visited < 20_000


def test_q_learning_walks_a_corridor_back_and_forth_as_often_as_it_can():
    corridor = World([[0, 1], [0, 2], [2, 2]], [[-1, -1], [-1, 0], [-1, -1]], [[1.0]], [False, False, True], [0])
    found = q_learning_each(corridor, [[3.0]], steps=1000, epsilon=0.0, start=3.0, rng=np.random.default_rng(0))
    # Two steps an episode, 3 each, but for the few in which optimism tried the other way.
    assert 3 * 490 <= found.returns[0] <= 3 * 500
    assert found.visited == 3


def test_the_curve_ends_at_the_return_and_the_same_seed_gives_the_same_numbers():
    world = world_of(read_collection("S.1\n..G"))
    runs = [sfql(world, [[0.3, 1.0]] * 2, steps=250, rng=np.random.default_rng(7)) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].curve, runs[1].curve)
    assert runs[0].samples[-1] == 250
    assert runs[0].curve.shape == (2, 100)
    assert "2 tasks of 250 steps" in str(runs[0])
    assert len(runs[0].plot().lines) == 1


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("next", [[0, 7], [1, 1]], "next must be whole numbers in 0..1"),
        ("feature", [[1, 0], [0, 0]], "feature must be whole numbers in -1..0"),
        ("feature", [[0], [0]], "must be \\(states, actions\\)"),
        ("ends", [False], "ends \\(states,\\)"),
        ("starts", [], "starts must be whole numbers"),
        ("rows", [[np.nan]], "the world's rows must be finite"),
    ],
)
def test_a_world_whose_parts_do_not_fit_is_refused(part, value, message):
    world = World([[0, 1], [1, 1]], [[-1, 0], [-1, -1]], [[1.0]], [False, True], [0])
    for agent in (sfql, q_learning_each):
        with pytest.raises(ValueError, match=message):
            agent(world._replace(**{part: value}), [[1.0]], rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("weights", "change", "message"),
    [
        ([[1.0, 2.0]], {}, "weights must be"),
        ([[np.nan]], {}, "finite"),
        ([[1.0]], {"steps": 0}, "whole numbers, 1 or more"),
        ([[1.0]], {"rate": 0.0}, "rate, the step size"),
        ([[1.0]], {"epsilon": 5.0}, "epsilon must be a probability"),
        ([[1.0]], {"epsilon": np.nan}, "epsilon must be a probability"),
        ([[1.0]], {"epsilon": -1.0}, "epsilon must be a probability"),
        ([[1.0]], {"gamma": -0.1}, "gamma"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(weights, change, message):
    world = World([[0, 1], [1, 1]], [[-1, 0], [-1, -1]], [[1.0]], [False, True], [0])
    for agent in (sfql, q_learning_each):
        with pytest.raises(ValueError, match=message):
            agent(world, weights, **change, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("agent", "change", "message"),
    [
        (sfql, {"first_weight": np.nan}, "first_weight must be finite"),
        (sfql, {"weight_rate": np.nan}, "weight_rate must be above 0"),
        (q_learning_each, {"start": np.nan}, "start, the first value of every action, must be finite"),
    ],
)
def test_first_values_that_are_no_numbers_are_refused(agent, change, message):
    world = World([[0, 1], [1, 1]], [[-1, 0], [-1, -1]], [[1.0]], [False, True], [0])
    with pytest.raises(ValueError, match=message):
        agent(world, [[1.0]], **change, rng=np.random.default_rng(0))
