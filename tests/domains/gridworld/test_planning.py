"""Value and policy iteration, against shortest paths, every policy there is, and each other."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.library import optimality_gap
from scimeta.domains.gridworld.planning import evaluate_policy, greedy, policy_iteration, value_iteration
from scimeta.domains.gridworld.scores import distances, path_lengths
from scimeta.domains.gridworld.transitions import Transitions, expect, transitions, uniform_policy
from simulators.gridworld.layouts import maze, street_city, town

GAMMA = 0.95


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def random_map(rng: np.random.Generator, states: int, actions: int, outcomes: int) -> Transitions:
    after = rng.integers(0, states, (states, actions, outcomes))
    return transitions(after, rng.dirichlet(np.ones(outcomes), (states, actions)))


def test_goal_values_are_those_of_the_shortest_paths():
    made, goal = of(street_city()), 100
    far = distances(made, goal)
    want = GAMMA ** np.maximum(far - 1, 0) / (1 - GAMMA)
    reward = np.eye(made.states)[goal]
    swept, solved = value_iteration(made, reward, GAMMA), policy_iteration(made, reward, GAMMA)
    np.testing.assert_allclose(swept.values, want, rtol=1e-9)
    np.testing.assert_allclose(solved.values, want, rtol=1e-12)
    for plan in (swept, solved):
        assert plan.converged
        np.testing.assert_array_equal(path_lengths(made, plan.actions, goal), far)


@pytest.mark.parametrize("seed", range(5))
def test_no_policy_of_all_is_better_than_the_plan(seed):
    rng = np.random.default_rng(seed)
    made, reward = random_map(rng, states=5, actions=3, outcomes=2), rng.standard_normal(5)
    every = [evaluate_policy(made, np.array(actions), reward, 0.8) for actions in product(range(3), repeat=5)]
    best = np.max(every, axis=0)
    np.testing.assert_allclose(value_iteration(made, reward, 0.8).values, best, atol=1e-10)
    np.testing.assert_allclose(policy_iteration(made, reward, 0.8).values, best, atol=1e-12)


def test_several_rewards_at_once_are_each_by_itself():
    made, rewards = of(town()), np.random.default_rng(0).standard_normal((105, 4))
    together = value_iteration(made, rewards, GAMMA)
    for column in range(4):
        alone = value_iteration(made, rewards[:, column], GAMMA)
        np.testing.assert_allclose(together.values[:, column], alone.values, atol=1e-10)
        actions = together.actions[:, column]
        np.testing.assert_allclose(evaluate_policy(made, actions, rewards[:, column], GAMMA), alone.values, atol=1e-9)


def test_no_improvement_makes_any_state_worse_and_the_error_holds():
    rng = np.random.default_rng(1)
    made = random_map(rng, states=60, actions=4, outcomes=3)
    reward = rng.standard_normal(60)
    best = policy_iteration(made, reward, GAMMA).values
    before = evaluate_policy(made, uniform_policy(made), reward, GAMMA)
    for steps in range(1, 5):
        plan = policy_iteration(made, reward, GAMMA, steps=steps)
        assert (plan.values >= before - 1e-12).all()
        assert (best - plan.values <= plan.error + 1e-12).all()
        np.testing.assert_allclose(plan.values, evaluate_policy(made, plan.actions, reward, GAMMA), atol=1e-12)
        before = plan.values
    with pytest.warns(RuntimeWarning, match="did not converge in 20 steps"):
        swept = value_iteration(made, reward, GAMMA, steps=20)
    assert not swept.converged and "NOT converged" in str(swept)
    assert 0 < np.abs(best - swept.values).max() <= swept.error


@pytest.mark.parametrize("seed", range(4))
def test_policy_iteration_ends_where_gains_and_losses_cancel(seed):
    # Zero-sum rewards on a map full of ties: rounding alone must not keep the policy changing.
    rng = np.random.default_rng(seed)
    made = of(maze(21, loops=0.5))
    reward = np.where(rng.random(made.states) < 0.3, rng.choice([-0.1, 0.1, 0.3, -0.3], made.states), 0)
    plan = policy_iteration(made, reward, GAMMA)
    assert plan.converged and plan.steps < 40 and plan.error < 1e-10


def test_a_plan_from_a_start_near_the_best_takes_few_steps():
    made, reward = of(town()), np.eye(105)[40]
    plan = policy_iteration(made, reward, GAMMA)
    again = policy_iteration(made, reward, GAMMA, start=plan.actions)
    assert again.steps == 0 and again.converged
    np.testing.assert_array_equal(again.actions, plan.actions)


def test_greedy_keeps_what_ties_and_sees_tiny_differences_between_tiny_values():
    values = np.array([[1e-200, 2e-200], [1.0, 1 + 1e-15], [0.0, 0.0]])
    np.testing.assert_array_equal(greedy(values), [1, 0, 0])
    np.testing.assert_array_equal(greedy(values, held=np.array([0, 1, 1])), [1, 1, 1])


def test_without_discount_the_next_step_alone_counts():
    made, reward = of(town()), np.random.default_rng(2).standard_normal(105)
    want = expect(made, reward).max(1)
    np.testing.assert_allclose(value_iteration(made, reward, 0.0).values, want)
    np.testing.assert_allclose(policy_iteration(made, reward, 0.0).values, want)


@pytest.mark.parametrize("plan", [value_iteration, policy_iteration])
def test_bad_input_is_refused_by_name(plan):
    made = of(town())
    with pytest.raises(ValueError, match=f"{plan.__name__}: gamma must be"):
        plan(made, np.zeros(105), 1.0)
    with pytest.raises(ValueError, match=f"{plan.__name__}: rewards must be finite; state 3 has nan"):
        plan(made, np.where(np.arange(105) == 3, np.nan, 0.0), 0.9)
    with pytest.raises(ValueError, match=rf"{plan.__name__}: rewards must be \(105,\)"):
        plan(made, np.zeros(104), 0.9)


def test_policy_iteration_wants_one_reward_and_a_step():
    made = of(town())
    with pytest.raises(ValueError, match=r"rewards must be \(105,\); got \(105, 2\)"):
        policy_iteration(made, np.zeros((105, 2)), 0.9)
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        policy_iteration(made, np.zeros(105), 0.9, steps=0)


@pytest.mark.parametrize("tolerance", [float("nan"), -1.0])
def test_a_tolerance_below_nothing_is_refused(tolerance):
    with pytest.raises(ValueError, match="value_iteration: tolerance must be 0 or more"):
        value_iteration(of(town()), np.zeros(105), 0.9, tolerance=tolerance)


# pymdptoolbox's manual: P(s, a, s') and R(s, a); its own answer is V = (42.442, 36.047) at discount 0.9.
MANUAL = transitions(
    np.broadcast_to(np.arange(2), (2, 2, 2)), np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.8, 0.2], [0.1, 0.9]]])
)
TABLE = np.array([[5.0, 10.0], [-1.0, 2.0]])


def every_door(made: Transitions, rewards, gamma: float, **per: str):
    """Yield each function that takes rewards, called with these."""
    walk = uniform_policy(made)
    yield lambda: value_iteration(made, rewards, gamma, **per).values
    yield lambda: policy_iteration(made, rewards, gamma, **per).values
    yield lambda: evaluate_policy(made, value_iteration(made, rewards, gamma, **per).actions, rewards, gamma, **per)
    yield lambda: evaluate_policy(made, walk, rewards, gamma, **per)
    yield lambda: factorize(made, walk, gamma).values(rewards, **per)
    yield lambda: optimality_gap(made, np.zeros(made.states), rewards, gamma, **per)


def test_rewards_for_actions_give_the_values_of_the_manual():
    linear = np.linalg.solve(np.eye(2) - 0.9 * np.array([[0.0, 1.0], [0.8, 0.2]]), [10.0, -1.0])
    np.testing.assert_allclose(linear, [42.442, 36.047], atol=5e-4)  # of the manual's policy, (1, 0)
    swept, solved, valued, walk, same, _ = (door() for door in every_door(MANUAL, TABLE, 0.9, per="action"))
    for values in (swept, solved, valued):
        np.testing.assert_allclose(values, linear, rtol=1e-10)
    chance, here = MANUAL.probability.mean(1), TABLE.mean(1)
    np.testing.assert_allclose(walk, np.linalg.solve(np.eye(2) - 0.9 * chance, here), rtol=1e-12)
    np.testing.assert_array_equal(walk, same)


@pytest.mark.parametrize("states", [3, 60])
def test_rewards_for_the_state_entered_are_those_for_actions_that_lead_there(states):
    rng = np.random.default_rng(states)
    made, reward = random_map(rng, states, actions=3, outcomes=2), rng.standard_normal(states)
    entered = every_door(made, reward, GAMMA)
    acted = every_door(made, expect(made, reward), GAMMA, per="action")
    for one, two in zip(entered, acted, strict=True):
        np.testing.assert_allclose(one(), two(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("states", "actions"), [(2, 2), (5, 3), (7, 1)])
def test_a_table_that_could_be_for_actions_or_states_is_refused_until_it_is_said(states, actions):
    made = random_map(np.random.default_rng(0), states, actions, outcomes=2)
    for door in every_door(made, np.ones((states, actions)).tolist(), GAMMA):
        with pytest.raises(ValueError, match=r'could be R\(s, a\).*say which with per="action" or per="state"'):
            door()
    rewards = np.random.default_rng(1).standard_normal((states, actions))
    together = value_iteration(made, rewards, GAMMA, per="state").values
    for column in range(actions):
        alone = value_iteration(made, rewards[:, column], GAMMA).values
        np.testing.assert_allclose(together[:, column], alone, atol=1e-9)


def test_rewards_of_every_other_shape_are_refused_with_what_to_write():
    for shape in ((2, 2, 2), (2, 2, 1), (1, 2, 2)):  # R(s, a, s'), R(a, s, s') among them
        for per in ({}, {"per": "action"}, {"per": "state"}):
            for door in every_door(MANUAL, np.ones(shape), 0.9, **per):
                with pytest.raises(ValueError, match=r"give the mean over the next states, .* and per=\"action\""):
                    door()
    for shape in ((2,), (2, 3), (3, 2)):
        for door in every_door(MANUAL, np.ones(shape), 0.9, per="action"):
            with pytest.raises(ValueError, match=r'with per="action" rewards must be \(2, 2\)'):
                door()
    for door in every_door(MANUAL, np.where(np.eye(2) > 0, 1.0, -np.inf), 0.9, per="action"):
        with pytest.raises(ValueError, match="state 0 has -inf for action 1; to rule an action out give"):
            door()
    for door in every_door(MANUAL, np.ones(2), 0.9, per="actions"):
        with pytest.raises(ValueError, match=r'per must be "state" \(entered\), "action", or None'):
            door()


def test_the_mean_over_next_states_that_the_refusal_advises_is_right():
    rng = np.random.default_rng(3)
    chance, rewards = rng.dirichlet(np.ones(6), (6, 4)), rng.standard_normal((6, 4, 6))
    made = transitions(np.broadcast_to(np.arange(6), chance.shape), chance)
    values = np.zeros(6)
    for _ in range(2000):
        values = (chance * (rewards + 0.9 * values)).sum(-1).max(1)
    plan = value_iteration(made, (chance * rewards).sum(-1), 0.9, per="action")
    np.testing.assert_allclose(plan.values, values, rtol=1e-10)


def test_an_action_that_is_ruled_out_as_advised_is_not_chosen():
    # QuantEcon's first example (Puterman 1994, section 3.1): the second action is not there in the second state.
    chance = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.5, 0.5]]])
    made = transitions(np.broadcast_to(np.arange(2), chance.shape), chance)
    for plan in (value_iteration, policy_iteration):
        found = plan(made, np.array([[5.0, 10.0], [-1.0, -1e6]]), 0.95, per="action")
        np.testing.assert_allclose(found.values, [-60 / 7, -20], rtol=1e-9)
        np.testing.assert_array_equal(found.actions, [0, 0])
