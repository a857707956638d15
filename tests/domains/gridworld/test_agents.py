"""Learners from scratch, against the optimal action values and each other; how they are judged."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.agents import dyna_q, q_learning
from scimeta.domains.gridworld.learning import Learning, score
from scimeta.domains.gridworld.planning import evaluate_policy, value_iteration
from scimeta.domains.gridworld.reuse import policy_reuse
from scimeta.domains.gridworld.scores import distances, path_lengths, success_weighted_path_length
from scimeta.domains.gridworld.transitions import Transitions, expect, transitions
from simulators.gridworld.city import read_city
from simulators.gridworld.layouts import four_rooms, open_grid

GAMMA = 0.95


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def best_action_values(made: Transitions, goal: int, gamma: float) -> np.ndarray:
    reward = np.eye(made.states)[goal]
    return expect(made, reward + gamma * value_iteration(made, reward, gamma).values)


def test_the_score_is_that_of_the_walks_from_every_start():
    made, rng = of(four_rooms()), np.random.default_rng(0)
    goals = np.array([0, 70, 147])
    shortest = np.stack([distances(made, goal) for goal in goals])
    planned = value_iteration(made, np.eye(made.states)[:, goals], GAMMA).actions.T
    actions = np.where(rng.random(planned.shape) < 0.05, rng.integers(5, size=planned.shape), planned)
    walked = np.stack([path_lengths(made, each, goal) for each, goal in zip(actions, goals, strict=True)])
    want = success_weighted_path_length(walked, shortest).mean(1)
    assert 0.01 < want.min() < want.max() < 0.99
    np.testing.assert_allclose(score(made, actions, goals, shortest, rng), want, rtol=1e-12)
    np.testing.assert_array_equal(score(made, planned, goals, shortest, rng), 1)


def test_starts_that_cannot_reach_the_goal_are_left_out_of_the_score():
    made = transitions([[0, 1], [1, 2], [2, 2]])  # no way back
    shortest = distances(made, 1)[None]
    score_of = score(made, np.ones((1, 3), dtype=int), np.array([1]), shortest, np.random.default_rng(0))
    np.testing.assert_array_equal(score_of, 1)


def test_where_the_feet_slip_the_score_is_the_mean_of_drawn_walks():
    half = Transitions(np.array([[[0, 1]], [[1, 1]]]), np.full((2, 1, 2), 0.5))
    goals, many = np.ones(4000, dtype=int), np.zeros((4000, 2), dtype=int)
    shortest = np.tile([1.0, 0.0], (4000, 1))
    scores = score(half, many, goals, shortest, np.random.default_rng(0))
    mean = np.mean(2 * scores - 1)  # of 1 / steps, steps geometric: ln 2
    assert abs(mean - np.log(2)) < 4 * np.std(2 * scores - 1) / np.sqrt(4000)


@pytest.mark.parametrize("agent", [q_learning, dyna_q])
def test_action_values_become_the_optimal_ones_of_each_goal(agent):
    made, goals = of(open_grid(3)), np.array([0, 4, 8])
    learned = agent(made, goals, 0.8, steps=8000, enough=2.0, every=8000, rng=np.random.default_rng(0))
    for values, goal in zip(learned.action_values, goals, strict=True):
        np.testing.assert_allclose(values, best_action_values(made, goal, 0.8), rtol=1e-6)
    np.testing.assert_array_equal(learned.scores[:, -1], 1)
    assert np.isinf(learned.needed).all()


@pytest.mark.parametrize("agent", [q_learning, dyna_q])
def test_on_slippery_streets_a_small_step_finds_a_good_policy(agent):
    made = of(read_city("....\n.~~.\n.~~.\n....", slip=0.3))
    learned = agent(made, [15] * 3, rate=0.1, steps=8000, enough=2.0, every=8000, rng=np.random.default_rng(0))
    reward = np.eye(made.states)[15]
    best = value_iteration(made, reward, GAMMA).values
    for values in learned.action_values:
        assert (1 - evaluate_policy(made, values.argmax(1), reward, GAMMA) / best).max() < 0.05


def test_dyna_q_without_planning_is_q_learning():
    made = of(read_city("..~.\n.#..\n...."))
    q = q_learning(made, [0, 9], steps=2000, rng=np.random.default_rng(3))
    dyna = dyna_q(made, [0, 9], planning=0, steps=2000, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(q.action_values, dyna.action_values)
    np.testing.assert_array_equal(q.scores, dyna.scores)


def test_baselines_in_the_four_rooms_are_as_good_as_the_ones_that_were_measured():
    made, goals = of(four_rooms()), np.random.default_rng(0).choice(148, 20, replace=False)
    assert np.median(q_learning(made, goals, rng=np.random.default_rng(1)).needed) <= 11_600
    assert np.median(dyna_q(made, goals, planning=50, rng=np.random.default_rng(1)).needed) <= 2_200


def test_policy_reuse_comes_to_follow_the_policy_that_pays():
    made = of(four_rooms())
    past = value_iteration(made, np.eye(made.states)[:, [0, 140, 30]], GAMMA).actions.T
    reused = policy_reuse(
        made, [140] * 20, past, fade=1.0, sharpen=5.0, steps=8000, enough=2.0, every=8000, rng=np.random.default_rng(0)
    )
    rewards = reused.episodes.mean(0)  # of an episode of 200 steps, most spent at the goal
    assert rewards[-5:].mean() > 150
    assert rewards[:5].mean() < 0.7 * rewards[-5:].mean()


def test_policy_reuse_with_unrelated_policies_still_learns_the_goal():
    made = of(open_grid(5))
    past = value_iteration(made, np.eye(25)[:, [4, 20]], GAMMA).actions.T
    learned = policy_reuse(made, [0, 24], past, rng=np.random.default_rng(0))
    assert np.isfinite(learned.needed).all()


def test_the_steps_needed_are_those_of_the_first_time_that_the_score_was_enough():
    scores = np.array([[0.1, 0.96, 0.9, 1.0], [0.0, 0.1, 0.2, 0.3]])
    learned = Learning("x", np.array([10, 20, 30, 40]), scores, 0.95, np.zeros((2, 1, 1)), np.zeros((2, 0)))
    np.testing.assert_array_equal(learned.needed, [20, np.inf])
    assert "1 of 2 learners" in str(learned)
    assert len(learned.plot().lines) == 2


def test_learning_ends_when_all_are_competent():
    made = of(open_grid(3))
    learned = q_learning(made, [0, 8], every=10, rng=np.random.default_rng(0))
    assert learned.samples[-1] < 5000
    assert (learned.scores.max(1) >= 0.95).all()
    assert learned.needed.max() == learned.samples[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goals": [9]}, "goals must be states, 0..8; got 9..9"),
        ({"goals": [0.5]}, "whole numbers"),
        ({"gamma": 1.0}, "gamma"),
        ({"rate": 0.0}, "rate"),
        ({"epsilon": 1.5}, "epsilon"),
        ({"steps": 0}, "steps must be a whole number"),
        ({"every": 2.5}, "every must be a whole number"),
        ({"episode": float("nan")}, "episode must be a whole number"),
        ({"start": float("nan")}, "start, the first value of every action, must be finite"),
    ],
)
def test_what_makes_no_sense_is_said(change, message):
    made = of(open_grid(3))
    arguments = {"goals": [0], "rng": np.random.default_rng(0), **change}
    with pytest.raises(ValueError, match=message):
        q_learning(made, **arguments)
    with pytest.raises(ValueError, match=message):
        dyna_q(made, **arguments)


def test_a_goal_that_nobody_can_reach_is_refused_not_learned():
    walled, rng = of(read_city("...#.\n...##")), np.random.default_rng(0)
    unlikely = Transitions(np.array([[[0, 1]], [[1, 0]]]), np.array([[[1.0, 0.0]], [[0.5, 0.5]]]))
    for made, goal in ((walled, 3), (unlikely, 1)):
        for agent in (q_learning, dyna_q):
            with pytest.raises(ValueError, match=f"goal {goal} cannot be reached from any other state"):
                agent(made, [0, goal], rng=rng)
        with pytest.raises(ValueError, match=f"goal {goal} cannot be reached"):
            policy_reuse(made, [goal], np.zeros((1, made.states), dtype=int), rng=rng)


def test_a_goal_within_reach_of_some_starts_is_judged_on_those():
    made = of(read_city("..#..\n..#.."))  # two halves
    learned = q_learning(made, [0], rng=np.random.default_rng(0))
    shortest = distances(made, 0)
    walked = path_lengths(made, learned.action_values[0].argmax(1), 0)
    within = np.isfinite(shortest)
    assert within.sum() == 4
    want = success_weighted_path_length(walked[within], shortest[within]).mean()
    assert learned.scores[0, -1] == want >= 0.95


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (np.zeros((0, 9), dtype=int), "at least one policy"),
        (np.zeros((1, 8), dtype=int), "must be 9 whole numbers"),
        (np.zeros((1, 9)), "whole numbers"),
        (np.full((1, 9), 5), "actions must lie in 0..4"),
    ],
)
def test_a_library_that_is_none_is_refused(library, message):
    with pytest.raises(ValueError, match=message):
        policy_reuse(of(open_grid(3)), [0], library, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate, the step size"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"start": float("inf")}, "start"),
        ({"fade": 1.5}, "fade must be between 0 and 1"),
        ({"sharpen": float("nan")}, "sharpen must be 0 or more and finite"),
        ({"sharpen": -100.0}, "sharpen must be 0 or more and finite"),
    ],
)
def test_policy_reuse_refuses_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        policy_reuse(of(open_grid(3)), [0], np.zeros((1, 9), dtype=int), **change, rng=np.random.default_rng(0))


def test_dyna_q_refuses_to_plan_less_than_nothing():
    with pytest.raises(ValueError, match="planning"):
        dyna_q(of(open_grid(3)), [0], planning=-1, rng=np.random.default_rng(0))
