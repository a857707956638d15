"""Generalised policy improvement: its theorem, its bounds, and how near it comes to planning."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.basis import basis_library, basis_weights, lazy_walk, soften
from scimeta.domains.gridworld.library import Library, improve, library, optimality_gap, transfer_bound
from scimeta.domains.gridworld.planning import evaluate_policy, policy_iteration, value_iteration
from scimeta.domains.gridworld.scores import (
    distances,
    normalized_regret,
    path_lengths,
    regret,
    success_weighted_path_length,
)
from scimeta.domains.gridworld.transitions import Transitions, transitions, uniform_policy
from simulators.gridworld.layouts import four_rooms, open_grid, street_city, town

GAMMA = 0.95
CITIES = {"four rooms": four_rooms, "street city": street_city}


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def drawn(seed: int) -> tuple[Transitions, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Map, features, policies of every kind and mixed-sign weights, all random; every third map is a slippery town."""
    rng = np.random.default_rng(seed)
    states, actions, outcomes = (int(rng.integers(low, high)) for low, high in ((2, 40), (1, 6), (1, 5)))
    made = transitions(
        rng.integers(0, states, (states, actions, outcomes)), rng.dirichlet(np.ones(outcomes), (states, actions))
    )
    if seed % 3 == 0:
        made = of(town())
        states, actions = made.states, made.actions
    policies = {"certain": rng.integers(0, actions, states), "walk": uniform_policy(made)}
    policies |= {f"drawn {i}": rng.dirichlet(np.ones(actions), states) for i in range(int(rng.integers(0, 4)))}
    features = rng.standard_normal((states, int(rng.integers(1, 5))))
    return made, features, policies, rng.standard_normal(features.shape[1])


def goal_scores(made: Transitions, known: Library, goals: np.ndarray) -> tuple[float, float]:
    """Mean regret, and mean success weighted by path length from the cells other than the goal."""
    missed, paths = [], []
    for goal, plan in zip(goals, improve(known, np.eye(made.states)[goals]).actions, strict=True):
        reward, far = np.eye(made.states)[goal], distances(made, goal)
        best = GAMMA ** np.maximum(far - 1, 0) / (1 - GAMMA)
        missed.append(regret(evaluate_policy(made, plan, reward, GAMMA), best))
        paths.append(success_weighted_path_length(path_lengths(made, plan, goal), far)[far > 0])
    return float(np.mean(missed)), float(np.mean(paths))


@pytest.mark.parametrize("seed", range(40))
def test_improvement_is_nowhere_below_any_policy_of_the_library(seed):
    made, features, policies, weights = drawn(seed)
    for gamma in (0.5, 0.95):
        known = library(made, policies, features, gamma)
        better = improve(known, weights)
        reached = evaluate_policy(made, better.actions, features @ weights, gamma)
        slack = 1e-10 * np.abs(features @ weights).max() / (1 - gamma)
        assert (reached >= better.values - slack).all()
        assert (better.values >= known.values(weights).max(0) - slack).all()


@pytest.mark.parametrize("seed", range(40))
def test_the_gap_is_never_underestimated(seed):
    made, features, policies, weights = drawn(seed)
    reward = features @ weights
    better = improve(library(made, policies, features, 0.9), weights)
    reached = evaluate_policy(made, better.actions, reward, 0.9)
    lacking = policy_iteration(made, reward, 0.9).values - reached
    bound, tighter = (optimality_gap(made, each, reward, 0.9) for each in (better.values, reached))
    assert (lacking <= bound + 1e-10).all() and (lacking <= tighter + 1e-10).all()
    assert (optimality_gap(made, policy_iteration(made, reward, 0.9).values, reward, 0.9) < 1e-10).all()


@pytest.mark.parametrize("seed", range(20))
def test_the_transfer_bound_of_optimal_policies_holds(seed):
    made, features, _, _ = drawn(seed)
    rng = np.random.default_rng(100 + seed)
    past = rng.standard_normal((3, features.shape[1]))
    policies = {str(i): policy_iteration(made, features @ w, 0.8).actions for i, w in enumerate(past)}
    known = library(made, policies, features, 0.8)
    for weights in (past[1], past[1] + 0.01 * rng.standard_normal(past[1].shape), rng.standard_normal(past[1].shape)):
        reward = features @ weights
        best = policy_iteration(made, reward, 0.8).values
        lacking = best - evaluate_policy(made, improve(known, weights).actions, reward, 0.8)
        assert lacking.max() <= transfer_bound(features, weights, past, 0.8) + 1e-10
    assert transfer_bound(features, past[0], past, 0.8) == 0
    assert transfer_bound(features, past[0], past, 0.8, error=0.5) == pytest.approx(5.0)


@pytest.mark.parametrize("city", CITIES)
def test_goals_never_seen_are_reached_on_shortest_paths_by_one_lazy_walk(city):
    made = of(CITIES[city]())
    goals = np.random.default_rng(0).choice(made.states, 40, replace=False)
    known = library(made, {"lazy walk": lazy_walk(made)}, np.eye(made.states), GAMMA)
    missed, paths = goal_scores(made, known, goals)
    assert missed < 1e-12 and paths == 1.0


@pytest.mark.parametrize("city", CITIES)
def test_the_random_walk_alone_and_beside_goal_policies_reaches_goals_never_seen(city):
    made = of(CITIES[city]())
    held, past = np.split(np.random.default_rng(0).permutation(made.states), [40])
    walk = {"walk": uniform_policy(made)}
    missed, paths = goal_scores(made, library(made, walk, np.eye(made.states), GAMMA), held)
    assert missed <= 1e-3 and paths >= 0.999
    best = value_iteration(made, np.eye(made.states)[:, past[:8]], GAMMA).actions.T
    certain = {f"goal {i}": actions for i, actions in enumerate(best)}
    missed, _ = goal_scores(made, library(made, certain, np.eye(made.states), GAMMA), held)
    assert missed > 0.3  # their features are zero off the routes
    missed, _ = goal_scores(made, library(made, certain | walk, np.eye(made.states), GAMMA), held)
    assert missed < 0.005


@pytest.mark.parametrize("city", CITIES)
def test_mixed_preferences_are_met_by_a_basis_and_two_improvements_more(city):
    made, rng = of(CITIES[city]()), np.random.default_rng(1)
    features = np.eye(made.states)[:, rng.choice(made.states, 8, replace=False)]
    draws = rng.standard_normal((60, 8))
    known = basis_library(made, features, GAMMA)
    walk = library(made, {"walk": uniform_policy(made)}, features, GAMMA)
    better = improve(known, draws)
    best = value_iteration(made, features @ draws.T, GAMMA).values.T
    first, after = [], []
    for weights, actions, top in zip(draws, better.actions, best, strict=True):
        reward, reference = features @ weights, walk.values(weights)[0]
        first.append(normalized_regret(evaluate_policy(made, actions, reward, GAMMA), top, reference))
        plan = policy_iteration(made, reward, GAMMA, start=actions, steps=2)
        after.append(normalized_regret(plan.values, top, reference))
    assert len(known) == 8
    assert np.mean(first) <= 0.005 and np.mean(after) <= 0.0005
    assert np.min(after) > -1e-9


def test_many_rewards_at_once_are_each_by_itself():
    made, features, policies, _ = drawn(3)
    known = library(made, policies, features, GAMMA)
    draws = np.random.default_rng(5).standard_normal((2, 3, features.shape[1]))
    together = improve(known, draws)
    for index in np.ndindex(2, 3):
        alone = improve(known, draws[index])
        np.testing.assert_array_equal(together.actions[index], alone.actions)
        np.testing.assert_array_equal(together.follows[index], alone.follows)
        np.testing.assert_allclose(together.values[index], alone.values, atol=1e-12)


def test_values_of_the_library_are_those_of_its_policies():
    made, features, policies, weights = drawn(6)
    known = library(made, policies, features, GAMMA)
    for row, policy in enumerate(policies.values()):
        want = evaluate_policy(made, policy, features @ weights, GAMMA)
        np.testing.assert_allclose(known.values(weights)[row], want, atol=1e-11)


def test_each_state_follows_the_policy_that_is_best_there():
    street = of(open_grid(1, 7))
    west, east = np.full(7, 2), np.full(7, 3)
    known = library(street, {"west": west, "east": east}, np.eye(7), GAMMA)
    found = improve(known, np.eye(7)[0] + np.eye(7)[6])
    np.testing.assert_array_equal(found.actions[1:-1], [2, 2, 2, 3, 3])  # at both ends bumping ties with staying
    np.testing.assert_array_equal(found.follows, [0, 0, 0, 0, 1, 1, 1])
    assert "following 2 of the library's policies" in str(found) and "see no reward" not in str(found)
    assert str(known) == "Library(2 policies of 7 states, 7 features), gamma 0.95, 0.00392 MB: west, east"


def test_states_that_see_no_reward_are_counted():
    street = of(open_grid(1, 4))
    known = library(street, {"stay": np.full(4, 4)}, np.eye(4), GAMMA)
    found = improve(known, np.eye(4)[3])
    assert str(found).endswith("; 2 states see no reward from there (0)")  # one step is looked ahead


def test_basis_policies_seek_their_own_place_and_no_other():
    np.testing.assert_array_equal(basis_weights(3, avoid=0), np.eye(3))
    made = of(open_grid(1, 5))
    features = np.eye(5)[:, [0, 4]]
    known = basis_library(made, features, GAMMA, epsilon=0)
    np.testing.assert_array_equal(known.policies[0, 1:].argmax(1), 2)
    np.testing.assert_array_equal(known.policies[1, :4].argmax(1), 3)


def test_lazy_walks_stay_and_maps_without_waiting_refuse_them():
    policy = lazy_walk(of(town()), activity=0.5)
    np.testing.assert_allclose(policy, np.broadcast_to([0.1, 0.1, 0.1, 0.1, 0.6], policy.shape))
    with pytest.raises(ValueError, match="no action stays in every state"):
        lazy_walk(transitions([[1, 0], [0, 0]]))
    with pytest.raises(ValueError, match="activity must be above 0"):
        lazy_walk(of(town()), activity=0.0)


def test_an_empty_library_and_wrong_numbers_are_refused():
    made = of(open_grid(2))
    walk = {"walk": uniform_policy(made)}
    with pytest.raises(ValueError, match="there are no policies; give at least one"):
        library(made, {}, np.eye(4), GAMMA)
    with pytest.raises(ValueError, match="the library is empty"):
        improve(np.zeros((0, 4, 5, 4)), np.zeros(4))
    with pytest.raises(ValueError, match="library, bad: the policy must be"):
        library(made, {"bad": np.ones((4, 2)) / 2}, np.eye(4), GAMMA)
    for gamma in (1.0, -0.5):
        with pytest.raises(ValueError, match="gamma must be at least 0 and below 1"):
            library(made, walk, np.eye(4), gamma)
    with pytest.raises(ValueError, match="features must be finite; state 0"):
        library(made, walk, np.full((4, 1), np.nan), GAMMA)
    known = library(made, walk, np.eye(4), GAMMA)
    with pytest.raises(ValueError, match=r"weights must be \(\.\.\., 4\), one a feature; got \(3,\)"):
        improve(known, np.zeros(3))
    with pytest.raises(ValueError, match="weights must be finite; got nan"):
        improve(known, np.array([0, 0, np.nan, 0]))
    with pytest.raises(ValueError, match="do not agree"):
        Library(GAMMA, known.policies, known.features, ("one", "two"))
    with pytest.raises(ValueError, match="with one policy or more"):
        transfer_bound(np.eye(4), np.zeros(4), np.zeros((0, 4)), GAMMA)
    with pytest.raises(ValueError, match="epsilon must be from 0 to 1"):
        soften(walk["walk"], 1.5)
    with pytest.raises(ValueError, match="needs actions, their number"):
        soften(np.array([0, 1]), 0.5)


def test_numbers_that_are_none_and_negative_errors_are_refused():
    psi, one = np.ones((1, 2, 1, 2)), np.ones(2)
    with pytest.raises(ValueError, match="psi must be finite; got nan"):
        improve(np.where(np.arange(2) == 1, np.nan, psi), one)
    hole = np.array([1.0, np.nan])
    for name, arguments in (
        ("features", (hole[None], one, one[None])),
        ("weights", (one[None], hole, one[None])),
        ("known_weights", (one[None], one, hole[None])),
    ):
        with pytest.raises(ValueError, match=f"transfer_bound: {name} must be finite; got nan"):
            transfer_bound(*arguments, GAMMA)
    for error in (-100.0, np.nan):
        with pytest.raises(ValueError, match="error must be 0 or more"):
            transfer_bound(one[None], one, one[None], GAMMA, error=error)


def test_only_a_policy_is_softened():
    for actions in ([0, 7], [0, -1], [0.0, 1.0]):
        with pytest.raises(ValueError, match=r"the actions must be whole numbers in 0\.\.4"):
            soften(np.array(actions), 0.1, actions=5)
    for policy in ([[2.0, -1.0]], [[0.5, 0.2]], [[np.nan, 1.0]]):
        with pytest.raises(ValueError, match="soften: the policy must be"):
            soften(np.array(policy), 0.1)


def test_a_basis_of_places_carries_their_names():
    street = transitions([[0, 0, 1], [0, 1, 2], [1, 2, 2]])
    assert basis_library(street, np.eye(3)[:, :2], 0.9, names=["park", "market"]).names == ("seek park", "seek market")
    for names in (["park"], ["park", "park"]):
        with pytest.raises(ValueError, match="2 features need as many different names"):
            basis_library(street, np.eye(3)[:, :2], 0.9, names=names)
