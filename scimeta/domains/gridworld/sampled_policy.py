"""Policies that adapt from walks in the city: meta-learned REINFORCE, on the core's meta-gradient.

The data depend on the policy here. Of each task, the start policy walks (support), the core's inner loop takes its
step, and the adapted policy walks (query); the core then differentiates the query's loss through the step. Whose walks
they are matters twice:

- The query's gradient by the adapted policy is right, since it walked itself.
- The inner step's derivative by the start needs the Hessian of the return. "plain" differentiates the REINFORCE loss
  once more with its walks held, as Finn et al. did: the Hessian lacks what the policy does to the distribution of
  walks. "dice" carries that along: loss, gradient and Hessian are all right in the mean.
- A discounted return counts late steps little. "dice" keeps to that. "plain" leaves the factor gamma^t out, as nearly
  everybody does: the gradient of no objective, but late steps teach as much as early ones, and it learns faster.

Neither credits the start for walks that made the adaptation informative (the third term of E-MAML), and the product of
two estimates from the same walks has a bias of order 1 / walks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta
from scimeta.core.tasks import Loss, Params, Task, over_tasks
from scimeta.core.trained import Trained
from scimeta.domains.gridworld.learning import Learning, check_goals, check_whole
from scimeta.domains.gridworld.policy_gradient import Logits, judge, tabular
from scimeta.domains.gridworld.transitions import Transitions, check_gamma


class Walks(NamedTuple):
    """Walks of one policy after one goal; with a leading task axis, of many.

    Attributes:
        states: (walks, steps) where each step began.
        actions: (walks, steps) int64.
        rewards: (walks, steps) of the state entered.
        baseline: (walks, steps) what the rest of a walk brings from such a state, as the other walks tell.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    baseline: Tensor


def walk_loss(gamma: float = 0.95, estimator: Literal["plain", "dice"] = "plain", logits: Logits = tabular) -> Loss:
    """Return the loss of one task's :class:`Walks`, whose gradient is a policy gradient of -(1 - gamma) J.

    plain: -(1 - gamma) mean over walks of sum_t log pi(a_t | s_t) (R_t - b_t), R_t the discounted rest.
    dice: -(1 - gamma) mean of sum_t gamma^t (m_t r_t + (1 - n_t) b_t) with n_t = exp(l_t - [l_t]), m_t the product of n
    up to t, l_t = log pi(a_t | s_t) and [.] held constant: its value is the return, whatever the baseline.

    Args:
        gamma: the discount, at least 0 and below 1.
        estimator: what a second derivative means, see the module.
        logits: parameters -> (states, actions).

    Raises:
        ValueError: gamma outside [0, 1) or another estimator.

    Reference: Williams, Machine Learning 8, 229 (1992); Finn, Abbeel, Levine, ICML 2017; Foerster et al., DiCE, ICML
    2018; Farquhar, Whiteson, Foerster, Loaded DiCE, NeurIPS 2019.
    """
    gamma = check_gamma(gamma, "walk_loss")
    if estimator not in ("plain", "dice"):
        raise ValueError(f'walk_loss: estimator is "plain" or "dice"; got {estimator!r}')

    def loss(params: Params, walks: Walks) -> Tensor:
        chosen = logits(params).log_softmax(-1)[walks.states, walks.actions]  # (walks, steps)
        if estimator == "plain":
            each = chosen * (rest(walks.rewards, gamma) - walks.baseline)
        else:
            discount = gamma ** torch.arange(chosen.shape[1], dtype=chosen.dtype, device=chosen.device)
            each = discount * (_one(chosen.cumsum(1)) * walks.rewards + (1 - _one(chosen)) * walks.baseline)
        return -(1 - gamma) * each.sum(1).mean()

    return loss


@dataclass(frozen=True, eq=False)
class Sampler:
    """Lets policies walk in a city, all tasks at once, from starts drawn evenly.

    Attributes:
        transitions: of the city.
        gamma: the discount of the baseline.
        walks: of each task; 2 or more, since each one's baseline is made of the others.
        steps: of each walk.

    Raises:
        ValueError: gamma outside [0, 1), fewer walks, no steps, or numbers of them that are not whole.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> sampler = Sampler(transitions([[0, 1], [0, 1]]), walks=3, steps=4)
    >>> sampler(torch.zeros(1, 2, 2), torch.tensor([1]), torch.Generator().manual_seed(0)).states.shape
    torch.Size([1, 3, 4])
    """

    transitions: Transitions
    gamma: float = 0.95
    walks: int = 20
    steps: int = 100

    def __post_init__(self) -> None:
        check_gamma(self.gamma, "Sampler")
        check_whole(self.walks, "walks", "Sampler", least=2)
        check_whole(self.steps, "steps", "Sampler")

    def __call__(self, logits: Tensor, goals: Tensor, generator: torch.Generator) -> Walks:
        """Return walks, with a leading task axis, of policies (tasks, states, actions) after goals (tasks,)."""
        tasks, states, actions = logits.shape
        after = torch.from_numpy(self.transitions.next)
        outcomes = torch.from_numpy(self.transitions.probability).cumsum(-1)[..., :-1]
        bounds = logits.softmax(-1).cumsum(-1)[..., :-1].reshape(-1, actions - 1)
        row = torch.arange(tasks)[:, None] * states
        place = torch.randint(states, (tasks, self.walks), generator=generator)
        chance = torch.rand(2, self.steps, tasks, self.walks, 1, generator=generator).to(bounds)
        seen, done = [place], []
        for of_action, of_outcome in zip(*chance, strict=True):
            action = (of_action >= bounds[row + place]).sum(-1)
            place = after[place, action, (of_outcome >= outcomes[place, action]).sum(-1)]
            done.append(action)
            seen.append(place)
        visited = torch.stack(seen, -1)  # (tasks, walks, steps + 1)
        rewards = (visited[..., 1:] == goals[:, None, None]).to(logits.dtype)
        begun = visited[..., :-1].contiguous()
        return Walks(begun, torch.stack(done, -1), rewards, _others(begun, rest(rewards, self.gamma), states))


def train_sampled(
    learner: MetaLearner,
    sampler: Sampler,
    goals: ndarray,
    *,
    steps: int,
    tasks_per_step: int = 16,
    lr: float = 2e-3,
    logits: Logits = tabular,
    generator: torch.Generator,
) -> Trained:
    """Return the learner after ``steps`` outer steps on walks that its own policies make.

    ``meta_train`` draws tasks before it knows the policy; here each step's walks come from the present one.

    Args:
        learner: on :func:`walk_loss`, with one inner step.
        sampler: makes the walks; the history's loss is -(1 - gamma) J of the query's walks, by its gamma.
        goals: (goals,) states, the tasks.
        steps: outer steps.
        tasks_per_step: goals of each step.
        lr: Adam's step size for all that the learner learns.
        logits: as in the loss.
        generator: of goals and walks.

    Raises:
        ValueError: more than one inner step, whose later walks nobody has made; goals outside the map or out of
            reach; or numbers that are not whole, or below 1.
    """
    check_whole(steps, "steps", "train_sampled")
    check_whole(tasks_per_step, "tasks_per_step", "train_sampled")
    if learner.adapt.steps != 1:
        raise ValueError(
            f"train_sampled: the learner must take one inner step, from its own walks; got {learner.adapt.steps}"
        )
    places = torch.from_numpy(check_goals(sampler.transitions, goals, "train_sampled"))
    meta = Meta(*({name: value.detach().clone() for name, value in part.items()} for part in learner.meta))
    leaves = [value for part in meta for value in part.values()]
    optimizer, losses = torch.optim.Adam(leaves, lr=lr), []
    for step in tqdm(range(steps), desc=f"{learner.name}, walks", delay=2, disable=None):
        chosen = places[torch.randint(len(places), (tasks_per_step,), generator=generator)]
        task = _both(learner, meta, sampler, chosen, logits, generator)
        _, gradient = learner.meta_gradient(meta, task, step)
        for leaf, grad in zip(leaves, [value for part in gradient for value in part.values()], strict=True):
            leaf.grad = grad.detach().clone()
        optimizer.step()
        # A REINFORCE loss is right in its derivatives alone; what the query's walks brought is its value.
        losses.append(-(1 - sampler.gamma) * float(rest(task.query.rewards, sampler.gamma)[..., 0].mean()))
    history = pd.DataFrame({"step": range(1, steps + 1), "loss": losses, "validation": float("nan")})
    return Trained(learner._replace(meta=meta), history, steps)


def adapt_by_walking(
    learner: MetaLearner | Trained,
    sampler: Sampler,
    goals: ndarray,
    *,
    steps: int = 10,
    logits: Logits = tabular,
    enough: float = 0.95,
    generator: torch.Generator,
) -> Learning:
    """Return the scores of the policy's likeliest actions as it walks, takes an inner step, walks again, and so on.

    Args:
        learner: on :func:`walk_loss`; untrained, it is the policy gradient from scratch.
        sampler: makes the walks.
        goals: (goals,) states, each a task by itself.
        steps: inner steps, each from new walks; 0 judges the start alone.
        logits: as in the loss.
        enough: score that counts as competent.
        generator: of the walks.

    Returns: ``samples`` are steps made in the city, the first 0.

    Raises:
        ValueError: goals outside the map or out of reach, or steps that are not whole, or below 0.
    """
    check_whole(steps, "steps", "adapt_by_walking", least=0)
    learner = learner.learner if isinstance(learner, Trained) else learner
    goals = check_goals(sampler.transitions, goals, "adapt_by_walking")
    params = {name: value.expand(len(goals), *value.shape) for name, value in learner.meta.init.items()}
    table = over_tasks(logits)

    def move(params: Params, walks: Walks) -> Params:
        return learner.adapt(Meta(params, learner.meta.rule), walks, 1)

    with torch.no_grad():
        path, samples, episodes = [table(params)], [0], [torch.zeros(len(goals), 0)]
        for _ in range(steps):
            walks = sampler(path[-1], torch.from_numpy(goals), generator)
            params = over_tasks(move)(params, walks)
            path.append(table(params))
            samples.append(samples[-1] + walks.states[0].numel())
            episodes.append(walks.rewards.sum(-1))
    return Learning(
        f"{learner.name}, walks",
        np.array(samples),
        judge(sampler.transitions, torch.stack(path), goals),
        enough,
        path[-1].numpy(),
        torch.cat(episodes, 1).numpy(),
    )


def rest(rewards: Tensor, gamma: float) -> Tensor:
    """Return R_t = r_t + gamma r_{t+1} + ... of rewards (..., steps).

    >>> rest(torch.tensor([0.0, 1.0, 1.0]), 0.5)
    tensor([0.7500, 1.5000, 1.0000])
    """
    steps = rewards.shape[-1]
    ahead = torch.arange(steps, device=rewards.device)[:, None] - torch.arange(steps, device=rewards.device)
    return rewards @ torch.where(ahead >= 0, gamma ** ahead.clamp(min=0).to(rewards.dtype), 0.0)


def _one(x: Tensor) -> Tensor:
    """Return 1 with the derivatives of exp(x) at 0: x's own, of every order."""
    return (x - x.detach()).exp()


def _others(states: Tensor, returns: Tensor, number: int) -> Tensor:
    """Return (tasks, walks, steps) the mean rest that a task's OTHER walks had from the same state, 0 where none came.

    A walk's own returns must not be in its baseline, or the gradient is biased.
    """
    tasks, walks, _ = states.shape
    total, count = (torch.zeros(tasks, walks, number, dtype=returns.dtype) for _ in range(2))
    total.scatter_add_(2, states, returns)
    count.scatter_add_(2, states, torch.ones_like(returns))
    total, count = total.sum(1, keepdim=True) - total, count.sum(1, keepdim=True) - count
    return (total / count.clamp(min=1)).gather(2, states)


def _both(
    learner: MetaLearner, meta: Meta, sampler: Sampler, goals: Tensor, logits: Logits, generator: torch.Generator
) -> Task:
    """Return the tasks' walks: of the start policy as support, of each adapted policy as query."""
    with torch.no_grad():
        before = logits(meta.init).expand(len(goals), -1, -1)
        support = sampler(before, goals, generator)
        adapted = over_tasks(lambda walks: logits(learner.adapt(meta, walks)))(support)
        return Task(support, sampler(adapted, goals, generator))
