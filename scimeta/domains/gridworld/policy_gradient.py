"""Policies that adapt by gradient: the exact return of a softmax policy as a loss for the core's meta-learners.

The start policy is learned over goals so that one step of policy gradient on a new goal goes far (MAML for
reinforcement learning). Here the gradient is exact, as if an agent had walked for ever: the upper bound of what
``sampled_policy`` does from walks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.core.learners import MetaLearner
from scimeta.core.tasks import Loss, Params, Task, TaskSampler, over_tasks
from scimeta.core.trained import Trained
from scimeta.domains.gridworld.exact import Per, check_per
from scimeta.domains.gridworld.learning import Learning, check_goals, score
from scimeta.domains.gridworld.scores import distances
from scimeta.domains.gridworld.transitions import Transitions, check_gamma

Logits = Callable[[Params], Tensor]
"""Parameters -> (states, actions) logits of the policy in every cell."""

_MOST = 2000  # states; the solve is dense


def tabular_policy(transitions: Transitions, dtype: torch.dtype = torch.float64) -> Params:
    """Return parameters of a policy with a logit of its own for every state and action, all 0: the random walk.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> tabular_policy(transitions([[0, 1], [0, 1]]))["logits"].shape
    torch.Size([2, 2])
    """
    return {"logits": torch.zeros(transitions.states, transitions.actions, dtype=dtype)}


def tabular(params: Params) -> Tensor:
    """Return the logits of :func:`tabular_policy`."""
    return params["logits"]


def return_loss(
    transitions: Transitions, gamma: float = 0.95, logits: Logits = tabular, *, per: Per | None = None
) -> Loss:
    """Return the loss -(1 - gamma) J, J the mean over all starts of the softmax policy's exact discounted return.

    J = mean (I - gamma P)^-1 E r by a dense solve, differentiable as often as one likes. The loss's data are rewards
    (states,) for the state entered, or R(s, a), (states, actions), with per "action"; it lies in [-1, 0] for a goal's
    reward.

    Args:
        transitions: of the city, at most 2,000 states.
        gamma: the discount, at least 0 and below 1.
        logits: parameters -> (states, actions), for policies other than :func:`tabular_policy`.
        per: what the rewards are for; None is "state".

    Raises:
        ValueError: gamma outside [0, 1), or more states; by the loss, rewards of another shape.

    Reference: Sutton, McAllester, Singh, Mansour, Policy gradient methods, NeurIPS 2000.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> made = transitions([[0, 1], [0, 1]])
    >>> return_loss(made, 0.5)(tabular_policy(made), torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor(-0.5000, dtype=torch.float64)
    """
    gamma = check_gamma(gamma, "return_loss")
    check_per(per, "return_loss")
    states = transitions.states
    wanted = (states, transitions.actions) if per == "action" else (states,)
    if states > _MOST:
        raise ValueError(f"return_loss: the dense solve is meant for at most {_MOST} states; got {states}")
    dense = np.zeros((states, transitions.actions, states))
    rows, actions = np.arange(states)[:, None, None], np.arange(transitions.actions)[:, None]
    np.add.at(dense, (rows, actions, transitions.next), transitions.probability)
    tensors = {dtype: torch.from_numpy(dense).to(dtype) for dtype in (torch.float32, torch.float64)}

    def loss(params: Params, rewards: Tensor) -> Tensor:
        if rewards.shape != wanted:
            hint = '; for rewards R(s, a) say per="action"' * (rewards.ndim == 2 and per != "action")
            raise ValueError(f"return_loss: a task's rewards must be {wanted}; got {tuple(rewards.shape)}{hint}")
        policy = logits(params).softmax(-1)
        matrix = torch.einsum("sa,sat->st", policy, tensors[policy.dtype].to(policy.device))
        system = torch.eye(states, dtype=policy.dtype, device=policy.device) - gamma * matrix
        here = (policy * rewards).sum(-1) if per == "action" else matrix @ rewards
        return -(1 - gamma) * torch.linalg.solve(system, here[:, None]).mean()

    return loss


def goal_tasks(transitions: Transitions, goals: ndarray, dtype: torch.dtype = torch.float64) -> TaskSampler:
    """Return a sampler of goals as tasks: support and query are the reward that is 1 at the goal, (states,).

    Args:
        transitions: of the city.
        goals: (goals,) states to draw from.
        dtype: of the rewards, that of the parameters.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> draw = goal_tasks(transitions([[0, 1], [0, 1]]), [1])
    >>> draw(2, torch.Generator().manual_seed(0)).support
    tensor([[0., 1.],
            [0., 1.]], dtype=torch.float64)
    """
    places = torch.from_numpy(check_goals(transitions, goals, "goal_tasks"))

    def draw(number: int, generator: torch.Generator) -> Task:
        chosen = places[torch.randint(len(places), (number,), generator=generator)]
        rewards = torch.nn.functional.one_hot(chosen, transitions.states).to(dtype)
        return Task(rewards, rewards)

    return draw


def adapt_exactly(
    learner: MetaLearner | Trained,
    transitions: Transitions,
    goals: ndarray,
    *,
    steps: int = 1,
    logits: Logits = tabular,
    enough: float = 0.95,
) -> tuple[Learning, ndarray]:
    """Return the scores of the policy's likeliest actions after each inner step on each goal, and its exact returns.

    Args:
        learner: on :func:`return_loss`.
        transitions: of the city.
        goals: (goals,) states.
        steps: inner steps.
        logits: as in the loss.
        enough: score that counts as competent.

    Returns:
        Learning: ``samples`` are inner steps, from 0; they took no walk in the city, only its map.
        returns: (goals, steps + 1), (1 - gamma) J.

    Raises:
        ValueError: goals outside the map or out of reach.
    """
    learner = learner.learner if isinstance(learner, Trained) else learner
    goals = check_goals(transitions, goals, "adapt_exactly")
    some = next(iter(learner.meta.init.values()))
    rewards = torch.nn.functional.one_hot(torch.from_numpy(goals), transitions.states).to(some)

    def one(rewards: Tensor) -> tuple[Tensor, Tensor]:
        path = list(learner.adapt.path(learner.meta, rewards, steps))
        return torch.stack([logits(p) for p in path]), torch.stack([-learner.query_loss(p, rewards) for p in path])

    with torch.no_grad():
        each, returns = over_tasks(one)(rewards)
    scores = judge(transitions, each.transpose(0, 1), goals)
    learned = Learning(
        learner.name, np.arange(steps + 1), scores, enough, each[:, -1].cpu().numpy(), np.zeros((len(goals), 0))
    )
    return learned, returns.cpu().numpy()


def judge(transitions: Transitions, logits: Tensor, goals: ndarray) -> ndarray:
    """Return (goals, points) success weighted by path length of the likeliest actions.

    Args:
        transitions: of the city.
        logits: (points, goals, states, actions).
        goals: (goals,) states.
    """
    shortest = np.stack([distances(transitions, goal) for goal in goals])
    rng = np.random.default_rng(0)  # draws walks where the feet slip
    actions = logits.argmax(-1).cpu().numpy()
    return np.stack([score(transitions, each, goals, shortest, rng) for each in actions], 1)
