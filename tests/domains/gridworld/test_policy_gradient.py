"""The exact return of a policy and its gradients, and what one exact step does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta import check_meta_gradient, maml, meta_train
from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.planning import evaluate_policy, value_iteration
from scimeta.domains.gridworld.policy_gradient import adapt_exactly, goal_tasks, return_loss, tabular_policy
from scimeta.domains.gridworld.transitions import Transitions, expect, transitions
from simulators.gridworld.city import read_city
from simulators.gridworld.layouts import four_rooms, open_grid

GAMMA = 0.9


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def slippery() -> Transitions:
    return of(read_city("..~.\n.#..\n...."))


def some_logits(made: Transitions, seed: int = 0) -> torch.Tensor:
    return torch.randn(made.states, made.actions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_mean_of_the_exactly_evaluated_policy():
    made, rewards = slippery(), np.random.default_rng(0).standard_normal(11)
    logits = some_logits(made)
    loss = return_loss(made, GAMMA)({"logits": logits}, torch.from_numpy(rewards))
    want = evaluate_policy(made, logits.softmax(-1).numpy(), rewards, GAMMA).mean()
    assert abs(float(loss) + (1 - GAMMA) * want) < 1e-13


def test_the_loss_of_rewards_for_actions_is_their_mean_value_and_refuses_what_is_not_said():
    made, logits = slippery(), some_logits(slippery())
    table = np.random.default_rng(0).standard_normal((11, 5))
    want = evaluate_policy(made, logits.softmax(-1).numpy(), table, GAMMA, per="action").mean()
    loss = return_loss(made, GAMMA, per="action")({"logits": logits}, torch.from_numpy(table))
    assert abs(float(loss) + (1 - GAMMA) * want) < 1e-13
    with pytest.raises(ValueError, match=r'must be \(11,\); got \(11, 5\); for rewards R\(s, a\) say per="action"'):
        return_loss(made, GAMMA)({"logits": logits}, torch.from_numpy(table))
    with pytest.raises(ValueError, match=r"must be \(11, 5\); got \(11,\)"):
        return_loss(made, GAMMA, per="action")({"logits": logits}, torch.from_numpy(table[:, 0]))


def test_the_gradient_is_that_of_the_policy_gradient_theorem():
    made, rewards, logits = slippery(), np.random.default_rng(1).standard_normal(11), some_logits(slippery())
    loss = return_loss(made, GAMMA)
    gradient = torch.func.grad(lambda x: loss({"logits": x}, torch.from_numpy(rewards)))(logits).numpy()
    policy = logits.softmax(-1).numpy()
    solved = factorize(made, policy, GAMMA)
    visits = solved.solve(np.eye(11)).mean(0)
    values = solved.values(rewards)
    advantage = expect(made, rewards + GAMMA * values) - values[:, None]
    np.testing.assert_allclose(gradient, -(1 - GAMMA) * visits[:, None] * policy * advantage, atol=1e-14)


def test_the_meta_gradient_through_a_step_is_right():
    made = slippery()
    loss = return_loss(made, GAMMA)
    learner = maml(loss, {"logits": some_logits(made)}, lr=3.0)
    tasks = goal_tasks(made, [0, 4, 9])(3, torch.Generator().manual_seed(0))
    assert check_meta_gradient(loss, learner, tasks).ok


def test_policies_may_be_of_any_form():
    made = slippery()
    look = torch.randn(11, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = return_loss(made, GAMMA, logits=lambda params: look @ params["weight"])
    weight = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rewards = torch.eye(11, dtype=torch.float64)[3]
    want = return_loss(made, GAMMA)({"logits": look @ weight}, rewards)
    torch.testing.assert_close(loss({"weight": weight}, rewards), want)


def test_one_exact_step_from_the_random_walk_finds_nearly_every_way():
    made, goals = of(four_rooms()), np.random.default_rng(0).choice(148, 10, replace=False)
    learned, returns = adapt_exactly(maml(return_loss(made), tabular_policy(made), lr=1e8), made, goals)
    best = 0.05 * value_iteration(made, np.eye(148)[:, goals], 0.95).values.mean(0)
    assert learned.scores[:, 1].min() > 0.99
    assert (1 - returns[:, 1] / best).max() < 0.01
    assert (returns <= best[:, None] + 1e-12).all()
    assert learned.scores[:, 0].max() < 0.1
    np.testing.assert_array_equal(learned.samples, [0, 1])


def test_meta_training_lowers_the_loss_after_a_step():
    made = of(open_grid(4))
    learner = maml(return_loss(made), tabular_policy(made), lr=100.0)
    corner = np.array([0, 1, 4])
    trained = meta_train(
        learner, goal_tasks(made, corner), steps=40, lr=0.1, generator=torch.Generator().manual_seed(0)
    )
    before, after = (adapt_exactly(each, made, corner)[1][:, 1].mean() for each in (learner, trained))
    assert after > 1.2 * before


def test_goals_may_be_whole_numbers_of_any_width():
    made = slippery()
    learner = maml(return_loss(made), tabular_policy(made), lr=1e3)
    want = adapt_exactly(learner, made, [3, 9])[1]
    frozen = np.array([3, 9])
    frozen.flags.writeable = False
    for goals in (np.array([3, 9], dtype=np.int32), np.array([3, 9], dtype=np.uint8), frozen):
        np.testing.assert_array_equal(adapt_exactly(learner, made, goals)[1], want)


def test_a_goal_that_nobody_can_reach_is_refused():
    made = of(read_city("...#.\n...##"))
    with pytest.raises(ValueError, match="adapt_exactly: goal 3 cannot be reached"):
        adapt_exactly(maml(return_loss(made), tabular_policy(made)), made, [0, 3])
    with pytest.raises(ValueError, match="goal_tasks: goal 3 cannot be reached"):
        goal_tasks(made, [3])


def test_bad_input_is_refused():
    made = slippery()
    with pytest.raises(ValueError, match="gamma"):
        return_loss(made, 1.0)
    with pytest.raises(ValueError, match="at most 2000 states"):
        return_loss(of(open_grid(50)))
    with pytest.raises(ValueError, match="goals must be states"):
        goal_tasks(made, [11])
