"""Whether and when a policy arrives, against shortest paths, the fewest expected steps, walks and dense solves."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.arrival import arrival, expected_steps
from scimeta.domains.gridworld.planning import policy_iteration
from scimeta.domains.gridworld.scores import path_lengths
from scimeta.domains.gridworld.transitions import Transitions, policy_matrix, transitions, uniform_policy
from simulators.gridworld import four_rooms, read_city, town


def test_where_steps_are_certain_it_is_the_length_of_the_path() -> None:
    city = four_rooms()
    made = transitions(city.next, city.probability)
    actions = np.random.default_rng(0).integers(5, size=made.states)
    for policy in (actions, policy_iteration(made, np.eye(made.states)[7], 0.95).actions):
        found = arrival(made, policy, 7)
        np.testing.assert_array_equal(found.steps, path_lengths(made, policy, 7))
        np.testing.assert_array_equal(found.chance, np.isfinite(found.steps))


@pytest.mark.parametrize("seed", range(5))
def test_chance_and_steps_are_those_of_the_recursion_with_traps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = 12
    after = rng.integers(0, states, (states, 3, 2))
    after[[3, 4]] = np.array([3, 4])[:, None, None]  # nobody leaves
    made = Transitions(after, rng.dirichlet(np.ones(2), (states, 3)))
    policy, goals = rng.dirichlet(np.ones(3), states), [0, 7]
    found = arrival(made, policy, goals)
    matrix, ends = policy_matrix(made, policy).toarray(), np.isin(np.arange(states), goals)
    chance, weighed = ends.astype(float), np.zeros(states)  # P(arrived by now), sum of t P(arrives at t)
    for step in range(1, 20_000):
        before, chance = chance, np.where(ends, 1.0, matrix @ chance)
        weighed += step * (chance - before)
    np.testing.assert_allclose(found.chance, chance, atol=1e-10)
    assert 0 < found.chance[~ends].max() < 1
    met = chance > 0
    np.testing.assert_allclose(found.steps[met], weighed[met] / chance[met], rtol=1e-8)
    assert np.isinf(found.steps[~met]).all() and not met[[3, 4]].any()


def test_no_policy_arrives_in_fewer_steps_than_the_fewest_expected_ones() -> None:
    city = read_city("S~~~\n~#~#\n~~~#\n#~~G", slip=2 / 3)
    made, goal = transitions(city.next, city.probability), 11
    fewest = expected_steps(made)[:, goal]
    best = arrival(made, policy_iteration(made, np.eye(12)[goal], 0.999).actions, goal)
    np.testing.assert_allclose(best.steps, fewest, rtol=1e-7)
    np.testing.assert_array_equal(best.chance, 1.0)  # exactly, so that it can be said to be sure
    walk = arrival(made, uniform_policy(made), goal)
    assert (walk.steps[:-1] > fewest[:-1]).all() and (walk.chance == 1).all()


def test_a_place_of_several_cells_is_reached_at_any_of_them() -> None:
    city = town()
    made, park = transitions(city.next, city.probability), city.place("park")
    found = arrival(made, uniform_policy(made), park)
    np.testing.assert_array_equal(found.steps[park], 0.0)
    for cell in park:
        assert (found.steps <= arrival(made, uniform_policy(made), cell).steps + 1e-9).all()


def test_what_is_no_goal_or_no_policy_is_refused() -> None:
    made = transitions([[0, 1], [1, 1]])
    with pytest.raises(ValueError, match=r"arrival: the goal must be a state, 0..1; got 2"):
        arrival(made, np.array([1, 1]), [1, 2])
    with pytest.raises(ValueError, match="arrival: the policy must be"):
        arrival(made, np.array([1, 2]), 1)
