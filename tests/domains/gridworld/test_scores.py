"""Regret, path lengths and routes, against cases done by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scimeta.domains.gridworld.planning import value_iteration
from scimeta.domains.gridworld.scores import (
    describe_route,
    distances,
    normalized_regret,
    path_lengths,
    regret,
    route,
    success_weighted_path_length,
)
from scimeta.domains.gridworld.transitions import Transitions, transitions, uniform_policy
from simulators.gridworld.city import read_city
from simulators.gridworld.layouts import four_rooms, town


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def test_distances_in_an_empty_room_are_counted_in_blocks():
    city = read_city("....\n....\n....")
    want = np.abs(city.cells - city.cells[5]).sum(1)
    np.testing.assert_array_equal(distances(of(city), 5), want)


def test_a_one_way_street_is_far_in_one_direction_and_cut_off_by_a_wall():
    city = read_city(">>>.#.")
    np.testing.assert_array_equal(distances(of(city), city.state(0, 3)), [3, 2, 1, 0, np.inf])
    assert np.isinf(distances(of(city), city.state(0, 0))[1:]).all()


def test_path_lengths_of_the_best_policy_are_the_distances():
    made = of(four_rooms())
    plan = value_iteration(made, np.eye(148)[7], 0.95)
    np.testing.assert_array_equal(path_lengths(made, plan.actions, 7), distances(made, 7))
    for start in (0, 60, 147):
        assert len(route(made, plan.actions, start, 7)) - 1 == distances(made, 7)[start]


def test_a_policy_that_goes_round_in_circles_never_arrives():
    made = of(read_city("..."))
    shuttle = np.array([3, 2, 2])
    np.testing.assert_array_equal(path_lengths(made, shuttle, 2), [np.inf, np.inf, 0])
    assert route(made, shuttle, 0, 2) is None


def test_drawn_walks_have_the_mean_length_of_the_chain():
    # Each step crosses with probability 1 / 4: geometric lengths, 4 on average.
    made = transitions([[0, 1], [1, 1]])
    rng = np.random.default_rng(0)
    policy = np.array([[0.75, 0.25], [1, 0]])
    lengths = np.array([path_lengths(made, policy, 1, rng=rng, limit=1000)[0] for _ in range(2000)])
    assert abs(lengths.mean() - 4) < 4 * lengths.std() / np.sqrt(2000)


def test_a_drawn_walk_is_cut_at_its_limit():
    made = of(read_city("....."))
    steps = path_lengths(made, uniform_policy(made), 4, rng=np.random.default_rng(1), limit=2)
    assert np.isinf(steps[:2]).all() and steps[4] == 0


def test_slippery_walks_need_a_generator_and_routes_follow_the_likeliest_steps():
    city = town()
    made, goal = of(city), int(city.place("station")[0])
    actions = value_iteration(made, np.eye(len(city))[goal], 0.95).actions
    with pytest.raises(ValueError, match="uncertain; pass rng"):
        path_lengths(made, actions, goal)
    start = int(city.place("market")[0])
    likely = route(made, actions, start, goal)
    drawn = route(made, actions, start, goal, rng=np.random.default_rng(3))
    for states in (likely, drawn):
        assert states[0] == start and states[-1] == goal
        assert all(after in made.next[before] for before, after in pairwise(states))
    assert np.isfinite(path_lengths(made, actions, goal, rng=np.random.default_rng(4))).all()


def test_an_outcome_of_no_chance_is_never_drawn():
    made = transitions([[[1, 0]], [[0, 1]]], [[[0.0, 1.0]], [[0.0, 1.0]]])
    assert np.isinf(path_lengths(made, np.array([0, 0]), 1, rng=np.random.default_rng(0), limit=200)[0])


def test_a_route_that_does_not_exist_is_none_and_says_why():
    made = of(read_city(".#.\n.#."))
    stay = np.full(4, 4)
    assert route(made, stay, 0, 1) is None
    said = describe_route(made, route(made, stay, 0, 1), 0, 1)
    assert said == "No route: state 1 cannot be reached from state 0."
    policy = np.array([1, 4, 4, 4])
    assert describe_route(made, route(made, policy, 0, 2), 0, 2) == "1 steps from state 0 to state 2: 0 2"
    assert "does not lead from state 0 to state 2, 1 steps away" in describe_route(made, route(made, stay, 0, 2), 0, 2)
    assert route(made, stay, 0, 0) == [0]


def test_regrets_are_shares_of_what_could_be_gained():
    best = np.array([2.0, 4.0, 0.0])
    np.testing.assert_allclose(regret(np.array([2.0, 1.0, 0.0]), best), [0, 0.75, 0])
    reference = np.array([-2.0, 0.0, 0.0])
    np.testing.assert_allclose(normalized_regret(np.array([0.0, 5.0, 0.0]), best, reference), [0.5, -0.25, 0])
    np.testing.assert_allclose(normalized_regret(best[None], best, reference), np.zeros((1, 3)))


def test_differences_by_rounding_are_no_regret():
    assert normalized_regret(np.array([1.0]), np.array([1.0 + 4e-16]), np.array([1.0])) == 0


def test_path_scores_are_those_of_anderson():
    steps, shortest = np.array([10.0, 20.0, np.inf, 0.0, 3.0]), np.array([10.0, 10.0, 5.0, 0.0, 0.0])
    np.testing.assert_allclose(success_weighted_path_length(steps, shortest), [1, 0.5, 0, 1, 0])


def test_bad_input_is_refused():
    made = of(four_rooms())
    with pytest.raises(ValueError, match="use normalized_regret"):
        regret(np.zeros(2), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="values must be finite; got 1"):
        regret(np.array([np.nan, 0]), np.ones(2))
    with pytest.raises(ValueError, match="1 starts cannot reach the goal at all"):
        success_weighted_path_length(np.array([np.inf, 1]), np.array([np.inf, 1]))
    with pytest.raises(ValueError, match="must not be negative"):
        success_weighted_path_length(np.array([-1.0]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"the goal must be a state, 0\.\.147; got 148"):
        distances(made, 148)
    with pytest.raises(ValueError, match="route: the start must be a state"):
        route(made, np.zeros(148, dtype=int), -1, 0)
    with pytest.raises(ValueError, match="route: the policy must be"):
        route(made, np.zeros(147, dtype=int), 0, 1)


def test_a_route_to_the_nearest_of_several_goals_is_described_by_where_it_ends():
    street = transitions([[0, 1], [0, 2], [1, 2]])
    assert describe_route(street, [0, 1], 0, [1, 2]) == "1 steps from state 0 to state 1: 0 1"
    assert "from state 0 to state 1 or 2, 1 steps away" in describe_route(street, None, 0, [1, 2])
