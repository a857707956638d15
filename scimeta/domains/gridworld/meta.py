"""Features that are learned over many goals, so that a new goal is one inner step on its reward weights.

How a cell looks (an observation) says what it is worth through features that nobody has named: r = phi(look) . w. The
features are slow, the weights of a goal fast: ANIL with ``fast=("weights",)`` learns phi from the rewards of past goals
alone. Where cells look alike in two cities, phi serves in both; successor features of it follow by a linear solve.

A plain gradient step on w is at the mercy of which few cells were seen. The step taken here is whitened by their
features: a Gauss-Newton step with a Gaussian prior of unit covariance about a learned centre, whose width against the
noise is learned too. (A last layer without bounds makes the unit covariance no restriction.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.core.learners import MetaLearner, anil
from scimeta.core.rules import learned_rates, preconditioned
from scimeta.core.tasks import Data, Loss, Params, Task, TaskSampler

Apply = Callable[[Params, Tensor], Tensor]
"""(parameters, observations (points, ...)) -> features (points, d)."""

_HEAD = ("weights", "centre", "log noise")


class Rewards(NamedTuple):
    """Cells that were entered and the rewards found there, of one goal.

    Attributes:
        looks: (points, ...) observation of each cell.
        rewards: (points,).
    """

    looks: Tensor
    rewards: Tensor


def cell_features(apply: Apply, params: Params, looks: Tensor) -> Tensor:
    """Return phi, (cells, d), of cells that look like this: (cells, ...)."""
    return apply({name: value for name, value in params.items() if name not in _HEAD}, looks)


def reward_loss(apply: Apply) -> Loss:
    """Return the loss of one goal: the mean squared error of phi . weights on the rewards.

    >>> loss = reward_loss(lambda params, looks: looks)
    >>> loss({"weights": torch.tensor([1.0])}, Rewards(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 0.0])))
    tensor(2.)
    """

    def loss(params: Params, data: Data) -> Tensor:
        missed = cell_features(apply, params, data.looks) @ params["weights"] - data.rewards
        return (missed * missed).mean()

    return loss


def goal_learner(
    apply: Apply,
    params: Params,
    features: int,
    *,
    step: Literal["gauss_newton", "matrix", "rates", "gradient"] = "gauss_newton",
    lr: float = 0.1,
    steps: int = 1,
) -> MetaLearner:
    """Return ANIL whose inner step finds the reward weights of a goal from a few rewards.

    Its tasks are those of :func:`reward_tasks`; ``trained.adapt(support)["weights"]`` are the (d,) weights of a goal.

    Args:
        apply: (params, looks) -> (points, d) features, as ``functional`` gives it.
        params: of ``apply``.
        features: d, the number of features.
        step: of the inner loop: "gauss_newton", whitened by the features seen, with a learned prior and noise; a
            gradient step through a learned "matrix", with learned "rates", or plain ("gradient").
        lr: where the last three start.
        steps: inner steps; a Gauss-Newton step has no use for more than one.

    Raises:
        ValueError: an unknown step, features below 1, a name that is the head's own.

    Reference: Raghu et al., Rapid learning or feature reuse?, ICLR 2020; Bertinetto et al., Meta-learning with
    differentiable closed-form solvers, ICLR 2019.
    """
    if features < 1 or features != int(features):
        raise ValueError(f"goal_learner: features must be a whole number, 1 or more; got {features}")
    taken = [name for name in params if name in _HEAD]
    if taken:
        raise ValueError(f"goal_learner: the names {', '.join(_HEAD)} are the head's; rename {', '.join(taken)}")
    some = next(iter(params.values()))
    head = {"weights": some.new_zeros(features)}
    loss = reward_loss(apply)
    if step == "gauss_newton":
        head |= {"centre": some.new_zeros(features), "log noise": some.new_zeros(())}
        inner = _distance_from_posterior(apply)
        return anil(inner, {**params, **head}, fast=("weights",), lr=1.0, steps=steps, query_loss=loss)
    rules = {"matrix": preconditioned, "rates": learned_rates}
    if step not in (*rules, "gradient"):
        raise ValueError(f'goal_learner: step is "gauss_newton", "matrix", "rates" or "gradient"; got {step!r}')
    rule = rules[step](head, lr) if step in rules else None
    return anil(loss, {**params, **head}, fast=("weights",), lr=lr, steps=steps, rule=rule, query_loss=loss)


def _distance_from_posterior(apply: Apply) -> Loss:
    """Return half the squared distance of the weights from their posterior mean: its gradient is the Newton step.

    The mean is centre + phi' (phi phi' + noise^2)^-1 (rewards - phi centre), a system as small as the rewards are few.
    """

    def loss(params: Params, data: Data) -> Tensor:
        phi = cell_features(apply, params, data.looks)
        gram = phi @ phi.mT
        # Rewards without noise teach a noise of zero, and more rewards than features then leave the system singular.
        noise = (2 * params["log noise"]).exp() + 10 * torch.finfo(phi.dtype).eps * gram.diagonal().sum()
        gram = gram + noise * torch.eye(len(phi), dtype=phi.dtype, device=phi.device)
        missed = data.rewards - phi @ params["centre"]
        factor = torch.linalg.cholesky(gram)
        white = torch.linalg.solve_triangular(factor, torch.cat((phi, missed[:, None]), -1), upper=False)
        step = params["weights"] - params["centre"] - white[:, :-1].mT @ white[:, -1]
        return (step * step).sum() / 2

    return loss


def reward_tasks(
    looks: ndarray | Sequence[ndarray],
    rewards: ndarray | Sequence[ndarray],
    *,
    shots: int = 8,
    query: int = 32,
    noise: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> TaskSampler:
    """Return a sampler of goals: the rewards of a few cells to adapt to, of others to be judged by.

    A task is a city and a past goal in it, both drawn evenly; its cells are drawn without repetition.

    Args:
        looks: (cells, ...) observations of one city, or one such array a city; numbers of cells may differ.
        rewards: (goals, cells) of the past goals in that city, or one such array a city.
        shots: cells of the support.
        query: cells of the query.
        noise: standard deviation that is added to the rewards of the support.
        dtype: of the tensors.

    Raises:
        ValueError: no city, shapes that do not fit, numbers that are not finite, fewer cells than are asked for.

    >>> tasks = reward_tasks(np.eye(4), np.arange(8.0).reshape(2, 4), shots=1, query=2)
    >>> batch = tasks(5, torch.Generator().manual_seed(0))
    >>> batch.support.looks.shape, batch.query.rewards.shape
    (torch.Size([5, 1, 4]), torch.Size([5, 2]))
    """
    for name, number in (("shots", shots), ("query", query)):
        if number < 1 or number != int(number):
            raise ValueError(f"reward_tasks: {name} must be a whole number, 1 or more; got {number}")
    if not 0 <= noise < np.inf:
        raise ValueError(f"reward_tasks: noise must be 0 or more; got {noise}")
    cities = _checked(looks, rewards, shots + query)
    sizes = torch.tensor([len(city_looks) for city_looks, _ in cities])
    numbers = torch.tensor([len(city_rewards) for _, city_rewards in cities])
    first_look, first_goal = sizes.cumsum(0) - sizes, numbers.cumsum(0) - numbers
    every_look = torch.as_tensor(np.concatenate([one for one, _ in cities]), dtype=dtype)
    every_reward = torch.zeros(int(numbers.sum()), int(sizes.max()), dtype=dtype)
    for row, (_, city_rewards) in zip(first_goal.tolist(), cities, strict=True):
        every_reward[row : row + len(city_rewards), : city_rewards.shape[1]] = torch.as_tensor(city_rewards)

    def tasks(number: int, generator: torch.Generator) -> Task:
        city = torch.randint(len(cities), (number,), generator=generator)
        goal = first_goal[city] + (torch.rand(number, generator=generator) * numbers[city]).long()
        order = torch.rand(number, int(sizes.max()), generator=generator)
        order = order.masked_fill(torch.arange(order.shape[1]) >= sizes[city, None], 2.0)
        cells = order.topk(shots + query, largest=False).indices  # (tasks, points)
        seen, found = every_look[first_look[city, None] + cells], every_reward[goal[:, None], cells]
        noisy = found[:, :shots] + noise * torch.randn(number, shots, generator=generator, dtype=dtype)
        return Task(Rewards(seen[:, :shots], noisy), Rewards(seen[:, shots:], found[:, shots:]))

    return tasks


def _checked(
    looks: ndarray | Sequence[ndarray], rewards: ndarray | Sequence[ndarray], cells: int
) -> list[tuple[ndarray, ndarray]]:
    """Return (looks, rewards) of each city."""
    if isinstance(looks, (ndarray, Tensor)):
        looks, rewards = [looks], [rewards]
    if not len(looks) or len(looks) != len(rewards):
        raise ValueError(
            f"reward_tasks: one array of looks and one of rewards are needed for each city, and at least one city; got "
            f"{len(looks)} and {len(rewards)}"
        )
    cities = [
        (np.asarray(one, dtype=float), np.asarray(two, dtype=float)) for one, two in zip(looks, rewards, strict=True)
    ]
    for city, (one, two) in enumerate(cities):
        if one.ndim < 2 or one.shape[1:] != cities[0][0].shape[1:] or two.ndim != 2 or two.shape[1] != len(one):
            raise ValueError(
                f"reward_tasks: city {city}: looks must be (cells, ...), alike in all cities, and rewards (goals, "
                f"cells); got {one.shape} and {two.shape}"
            )
        if not len(two) or len(one) < cells:
            raise ValueError(
                f"reward_tasks: city {city} has {len(one)} cells and {len(two)} goals; shots and query take {cells} "
                "cells of at least one goal"
            )
        if not np.isfinite(one).all() or not np.isfinite(two).all():
            raise ValueError(
                f"reward_tasks: city {city} has looks or rewards that are not finite; leave those cells out"
            )
    return cities
