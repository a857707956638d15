"""Policy gradients from walks, against the mean over every walk there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta import Task, check_meta_gradient, maml
from scimeta.domains.gridworld.policy_gradient import tabular_policy
from scimeta.domains.gridworld.sampled_policy import (
    Sampler,
    Walks,
    adapt_by_walking,
    rest,
    train_sampled,
    walk_loss,
)
from scimeta.domains.gridworld.transitions import Transitions, transitions
from simulators.gridworld.city import read_city
from simulators.gridworld.layouts import open_grid

GAMMA, STEPS = 0.8, 3
NEXT = torch.tensor([[0, 1], [2, 0], [1, 2]])
PAY = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)


def every_walk(logits: Tensor) -> list[tuple[Tensor, Walks]]:
    """Return the probability, differentiable by the logits, and the data of each walk of three states."""
    found = []
    for start, *actions in product(range(3), *[range(2)] * STEPS):
        states, rewards, chance, policy = [], [], 1 / 3, logits.softmax(-1)
        place = start
        for action in actions:
            states.append(place)
            chance = chance * policy[place, action]
            place = int(NEXT[place, action])
            rewards.append(float(PAY[place]))
        rewards = torch.tensor([rewards], dtype=torch.float64)
        # Any baseline that the action has no part in.
        baseline = torch.tensor([[0.7 * state - 0.2 * t for t, state in enumerate(states)]], dtype=torch.float64)
        found.append((chance, Walks(torch.tensor([states]), torch.tensor([actions]), rewards, baseline)))
    return found


def true_loss(logits: Tensor) -> Tensor:
    return -(1 - GAMMA) * sum(chance * rest(walk.rewards, GAMMA)[0, 0] for chance, walk in every_walk(logits))


def mean_over_walks(logits: Tensor, derivative) -> Tensor:
    return sum(chance * derivative(walk) for chance, walk in every_walk(logits)).detach()


def start() -> Tensor:
    return torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def of(city) -> Transitions:
    return transitions(city.next, city.probability)


def test_dice_is_right_in_value_gradient_and_hessian():
    logits, loss = start(), walk_loss(GAMMA, "dice")
    hessian = torch.func.jacrev(torch.func.grad(true_loss))(logits)
    value = mean_over_walks(logits, lambda walk: loss({"logits": logits}, walk))
    gradient = mean_over_walks(logits, lambda walk: torch.func.grad(lambda x: loss({"logits": x}, walk))(logits))
    bent = mean_over_walks(
        logits, lambda walk: torch.func.jacrev(torch.func.grad(lambda x: loss({"logits": x}, walk)))(logits)
    )
    torch.testing.assert_close(value, true_loss(logits), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.func.grad(true_loss)(logits), rtol=0, atol=1e-14)
    torch.testing.assert_close(bent, hessian, rtol=0, atol=1e-14)


def test_plain_weighs_the_policy_gradient_by_visits_without_discount():
    logits, loss = start(), walk_loss(GAMMA, "plain")
    gradient = mean_over_walks(logits, lambda walk: torch.func.grad(lambda x: loss({"logits": x}, walk))(logits))
    policy = logits.softmax(-1)
    ahead, values = [], torch.zeros(3, dtype=torch.float64)
    for _ in range(STEPS):  # backwards: action values with so many steps to go
        ahead.append(PAY[NEXT] + GAMMA * values[NEXT])
        values = (policy * ahead[-1]).sum(1)
    visits, want = torch.full((3,), 1 / 3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for values in reversed(ahead):
        want -= (1 - GAMMA) * visits[:, None] * policy * (values - (policy * values).sum(1, keepdim=True))
        flow = visits[:, None] * policy
        visits = torch.zeros(3, dtype=torch.float64).index_add(0, NEXT.ravel(), flow.ravel())
    torch.testing.assert_close(gradient, want, rtol=0, atol=1e-14)


def test_the_core_carries_dice_through_its_inner_step():
    made = of(read_city("..~.\n.#..\n...."))
    sampler, generator = Sampler(made, GAMMA, walks=4, steps=6), torch.Generator().manual_seed(0)
    logits = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    walks = [sampler(logits.expand(2, -1, -1), torch.tensor([3, 7]), generator) for _ in range(2)]
    loss = walk_loss(GAMMA, "dice")
    learner = maml(loss, {"logits": logits}, lr=2.0)
    _, gradient = learner.meta_gradient(learner.meta, Task(*walks), 0)
    leaf, total = logits.clone().requires_grad_(), 0.0
    for task in range(2):
        support, query = (Walks(*(part[task] for part in each)) for each in walks)
        (inner,) = torch.autograd.grad(loss({"logits": leaf}, support), leaf, create_graph=True)
        total = total + loss({"logits": leaf - 2.0 * inner}, query) / 2
    (want,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(gradient.init["logits"], want, rtol=0, atol=1e-13)
    assert want.abs().max() > 1e-4


def test_the_plain_meta_gradient_is_the_derivative_of_its_loss():
    made, generator = of(open_grid(3)), torch.Generator().manual_seed(0)
    sampler, logits = Sampler(made, GAMMA, walks=5, steps=8), torch.zeros(9, 5, dtype=torch.float64)
    walks = [sampler(logits.expand(2, -1, -1), torch.tensor([3, 7]), generator) for _ in range(2)]
    loss = walk_loss(GAMMA, "plain")
    assert check_meta_gradient(loss, maml(loss, {"logits": logits}, lr=2.0), Task(*walks)).ok


def test_walks_follow_the_policy_and_the_map():
    made = of(read_city("..~.\n.#..\n...."))
    logits = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    walks = Sampler(made, walks=20_000, steps=2)(logits[None], torch.tensor([4]), torch.Generator().manual_seed(2))
    policy, dense = logits.softmax(-1).numpy(), np.zeros((11, 5, 11))
    rows, actions = np.arange(11)[:, None, None], np.arange(5)[:, None]
    np.add.at(dense, (rows, actions, made.next), made.probability)
    want = np.einsum("sa,sat->sat", policy / 11, dense)
    seen = np.zeros((11, 5, 11))
    np.add.at(seen, (walks.states[0, :, 0], walks.actions[0, :, 0], walks.states[0, :, 1]), 1 / 20_000)
    assert (np.abs(seen - want) <= 5 * np.sqrt(want * (1 - want) / 20_000)).all()
    at_goal = walks.states[0, :, 1] == 4
    torch.testing.assert_close(walks.rewards[0, :, 0], at_goal.to(torch.float64))


def test_a_baseline_knows_nothing_of_its_own_walk():
    made, logits = of(open_grid(2)), torch.zeros(1, 4, 5)
    walks = Sampler(made, GAMMA, walks=3, steps=4)(logits, torch.tensor([2]), torch.Generator().manual_seed(0))
    returns = rest(walks.rewards, GAMMA)[0]
    for walk, step in product(range(3), range(4)):
        others = [
            float(returns[w, t])
            for w, t in product(range(3), range(4))
            if w != walk and walks.states[0, w, t] == walks.states[0, walk, step]
        ]
        want = np.mean(others) if others else 0.0
        assert abs(float(walks.baseline[0, walk, step]) - want) < 1e-6


def test_steps_on_new_walks_make_the_policy_better():
    made, goals = of(open_grid(4)), np.array([0, 6, 15])
    learner = maml(walk_loss(), tabular_policy(made, torch.float32), lr=5.0)
    sampler = Sampler(made, walks=20, steps=50)
    learned = adapt_by_walking(learner, sampler, goals, steps=20, generator=torch.Generator().manual_seed(0))
    assert learned.scores[:, 0].max() < 0.5
    assert learned.scores[:, -1].min() > 0.9
    assert learned.samples.tolist() == list(range(0, 20_001, 1000))
    assert learned.episodes.shape == (3, 400)
    assert learned.episodes[:, -20:].mean() > 5 * learned.episodes[:, :20].mean()


def test_meta_training_on_walks_lowers_the_loss_on_goals_like_those_seen():
    made, corner = of(open_grid(5)), np.array([0, 1, 5])
    learner = maml(walk_loss(estimator="dice"), tabular_policy(made, torch.float32), lr=50.0)
    sampler = Sampler(made, walks=10, steps=30)
    trained = train_sampled(learner, sampler, corner, steps=60, lr=0.05, generator=torch.Generator().manual_seed(0))
    loss = trained.history["loss"]
    assert loss.tail(10).mean() < 1.5 * loss.head(10).mean() < 0
    assert len(loss) == 60
    torch.testing.assert_close(learner.meta.init["logits"], torch.zeros(25, 5))


def test_without_a_step_the_start_alone_is_judged():
    made, goals = of(open_grid(3)), np.array([0, 8], dtype=np.int32)
    learner, sampler = maml(walk_loss(), tabular_policy(made, torch.float32)), Sampler(made, walks=2, steps=3)
    learned = adapt_by_walking(learner, sampler, goals, steps=0, generator=torch.Generator().manual_seed(0))
    further = adapt_by_walking(learner, sampler, goals, steps=1, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(learned.scores, further.scores[:, :1])
    assert learned.samples.tolist() == [0]
    assert learned.episodes.shape == (2, 0)


def test_a_goal_that_nobody_can_reach_is_refused():
    made = of(read_city("...#.\n...##"))
    learner = maml(walk_loss(), tabular_policy(made))
    for walk in (adapt_by_walking, train_sampled):
        with pytest.raises(ValueError, match="goal 3 cannot be reached"):
            walk(learner, Sampler(made), [3], steps=1, generator=torch.Generator())


def test_numbers_of_walks_steps_and_tasks_must_be_whole():
    made, rng = of(open_grid(2)), torch.Generator()
    learner, sampler = maml(walk_loss(), tabular_policy(made)), Sampler(made)
    for change in ({"walks": 2.5}, {"walks": 2.0}, {"steps": 0}, {"steps": float("nan")}):
        with pytest.raises(ValueError, match=r"Sampler: .* must be a whole number"):
            Sampler(made, **change)
    for change in ({"steps": -1}, {"steps": 0}, {"steps": 1, "tasks_per_step": 0}):
        with pytest.raises(ValueError, match=r"train_sampled: .* must be a whole number, 1 or more"):
            train_sampled(learner, sampler, [0], **change, generator=rng)
    for steps in (-1, 1.5):
        with pytest.raises(ValueError, match="adapt_by_walking: steps must be a whole number, 0 or more"):
            adapt_by_walking(learner, sampler, [0], steps=steps, generator=rng)


def test_bad_input_is_refused():
    made = of(open_grid(2))
    with pytest.raises(ValueError, match='"plain" or "dice"'):
        walk_loss(estimator="exact")
    with pytest.raises(ValueError, match="walks must be a whole number, 2 or more"):
        Sampler(made, walks=1)
    with pytest.raises(ValueError, match="gamma"):
        Sampler(made, 1.0)
    two = maml(walk_loss(), tabular_policy(made), steps=2)
    with pytest.raises(ValueError, match="one inner step"):
        train_sampled(two, Sampler(made), [0], steps=1, generator=torch.Generator())
    with pytest.raises(ValueError, match="goals must be states"):
        train_sampled(maml(walk_loss(), tabular_policy(made)), Sampler(made), [4], steps=1, generator=torch.Generator())
