"""Successor features by sparse factorisation, against dense inverses, closed forms and walks."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.scores import distances
from scimeta.domains.gridworld.transitions import Transitions, expect, policy_matrix, transitions, uniform_policy
from simulators.gridworld.layouts import maze, open_grid, town


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def random_map(rng: np.random.Generator, states: int = 30, actions: int = 3, outcomes: int = 4) -> Transitions:
    after = rng.integers(0, states, (states, actions, outcomes))
    return transitions(after, rng.dirichlet(np.ones(outcomes), (states, actions)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.95, 0.999])
def test_successor_features_are_the_inverse_times_the_features(gamma):
    rng = np.random.default_rng(0)
    for made in (of(town()), random_map(rng)):
        policy = rng.dirichlet(np.ones(made.actions), made.states)
        features = rng.standard_normal((made.states, 4))
        walk = policy_matrix(made, policy).toarray()
        want = np.linalg.solve(np.eye(made.states) - gamma * walk, features)
        found = factorize(made, policy, gamma)
        np.testing.assert_allclose(found.solve(features), want, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.features(features), expect(made, want), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(found.values(features), walk @ want, rtol=1e-9, atol=1e-10)
        assert found.residual(features, found.solve(features)) < 1e-12


def test_action_features_obey_the_bellman_equation():
    made, gamma = of(town()), 0.9
    policy = np.random.default_rng(1).dirichlet(np.ones(5), made.states)
    features = np.random.default_rng(2).standard_normal((made.states, 3))
    psi = factorize(made, policy, gamma).features(features)
    ahead = (policy[..., None] * psi).sum(1)
    np.testing.assert_allclose(psi, expect(made, features + gamma * ahead), atol=1e-12)


def test_rows_and_columns_are_those_of_the_successor_representation():
    made = of(town())
    found = factorize(made, uniform_policy(made), 0.95)
    everywhere = found.solve(np.eye(made.states))
    for state in (0, 17, made.states - 1):
        np.testing.assert_allclose(found.column(state), everywhere[:, state], rtol=1e-12)
        np.testing.assert_allclose(found.row(state), everywhere[state], rtol=1e-11)
        assert found.row(state).sum() == pytest.approx(1 / (1 - 0.95), rel=1e-12)


def test_visits_of_drawn_walks_agree_with_the_row_within_their_error():
    made, gamma, start, walks = of(town()), 0.8, 20, 20_000
    rng = np.random.default_rng(3)
    place, visits = np.full(walks, start), np.zeros((walks, 3))
    watched = [start, made.next[start, 3, 0], made.next[start, 0, 0]]
    for step in range(80):
        visits += gamma**step * (place[:, None] == watched)
        pick = rng.integers(0, made.actions, walks)
        total = made.probability[place, pick].cumsum(1)
        place = made.next[place, pick, (total <= rng.random((walks, 1)) * total[:, -1:]).sum(1)]
    error = visits.std(0) / np.sqrt(walks)
    want = factorize(made, uniform_policy(made), gamma).row(start)[watched]
    assert (np.abs(visits.mean(0) - want) < 4 * error).all()


def test_cells_a_thousand_steps_away_keep_their_digits():
    # In a street the visits from s < goal follow a three-term recurrence, grown from its far end.
    length, gamma = 1100, 0.95
    found = factorize(of(open_grid(1, length)), np.full((length, 5), 0.2), gamma)
    growth = np.ones(length)
    growth[1] = (1 - 0.8 * gamma) / (0.2 * gamma)
    for cell in range(2, length):
        growth[cell] = (1 - 0.6 * gamma) / (0.2 * gamma) * growth[cell - 1] - growth[cell - 2]
    column = found.column(length - 1)
    assert column[0] < 1e-200
    np.testing.assert_allclose(column / column[-1], growth / growth[-1], rtol=1e-10)


@pytest.mark.parametrize("city", [open_grid(316, 317), maze(447)], ids=["open grid", "maze"])
def test_a_hundred_thousand_states_are_solved_without_a_dense_matrix(city):
    made = of(city)
    found = factorize(made, uniform_policy(made), 0.95)
    assert made.states > 100_000
    assert found.factor.L.nnz + found.factor.U.nnz < 7e6  # dense: 1e10
    goal = made.states // 3
    indicator = np.zeros(made.states)
    indicator[goal] = 1
    assert found.residual(indicator, found.column(goal)) < 1e-10
    assert np.abs(found.row(goal).sum() - 20) < 1e-10


def test_a_map_that_ends_in_a_trap_and_a_map_of_one_state_are_solved():
    trap = transitions([[1], [1]])
    np.testing.assert_allclose(factorize(trap, np.array([0, 0]), 0.5).solve(np.eye(2)), [[1, 1], [0, 2]])
    np.testing.assert_allclose(factorize(transitions([[0]]), np.array([0]), 0.9).solve(np.ones(1)), 10)


@pytest.mark.parametrize("gamma", [1.0, -0.1, float("nan")])
def test_a_discount_outside_its_range_is_refused(gamma):
    made = of(open_grid(2))
    with pytest.raises(ValueError, match="factorize: gamma must be at least 0 and below 1"):
        factorize(made, uniform_policy(made), gamma)


def test_wrong_features_rewards_states_and_policies_are_refused():
    made = of(open_grid(2))
    found = factorize(made, uniform_policy(made), 0.9)
    with pytest.raises(ValueError, match=r"one row a state; got \(3,\)"):
        found.solve(np.ones(3))
    with pytest.raises(ValueError, match="rewards must be finite; state 2 has nan"):
        found.values(np.array([0.0, 0, np.nan, 0]))
    with pytest.raises(ValueError, match=r"must be a state, 0\.\.3; got 4"):
        found.column(4)
    with pytest.raises(ValueError, match="factorize: the policy must be"):
        factorize(made, np.ones((4, 3)) / 3, 0.9)
    assert "4 states, gamma 0.9" in repr(found)


@pytest.mark.parametrize("state", [float("nan"), float("inf"), "park", None, 0.5, -1, [1]])
def test_what_is_no_state_is_refused_with_its_name(state):
    with pytest.raises(ValueError, match=r"the goal must be a state, 0\.\.3; got"):
        distances(of(open_grid(2)), state)
