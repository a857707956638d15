"""The same on many maps at once, in torch: successor features, values, improvement and value iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.domains.gridworld.exact import Per, check_per
from scimeta.domains.gridworld.transitions import Transitions, check_gamma


class Maps(NamedTuple):
    """Maps of unequal size along a leading axis; a padded cell leads to itself, and no cell leads there.

    Attributes:
        next: (maps, states, actions, outcomes) int64 state that follows.
        probability: (maps, states, actions, outcomes) of each outcome; a padded cell has one, certain.
        mask: (maps, states) True where the cell is there.
    """

    next: Tensor
    probability: Tensor
    mask: Tensor


def pad_maps(
    maps: Sequence[Transitions], *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Maps:
    """Return maps padded to the largest number of states, and of outcomes.

    Raises:
        ValueError: no maps, or maps with different numbers of actions.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> pad_maps([transitions([[1], [0]]), transitions([[0]])]).mask
    tensor([[ True,  True],
            [ True, False]])
    """
    if not maps:
        raise ValueError("pad_maps: there are no maps; give at least one")
    actions = sorted({each.actions for each in maps})
    if len(actions) > 1:
        raise ValueError(f"pad_maps: the maps must have equally many actions; they have {actions}")
    states, outcomes = max(each.states for each in maps), max(each.next.shape[2] for each in maps)
    shape = (len(maps), states, actions[0], outcomes)
    after = torch.arange(states)[:, None, None].expand(shape).clone()
    chance, mask = torch.zeros(shape, dtype=dtype), torch.zeros(shape[:2], dtype=torch.bool)
    chance[..., 0] = 1
    for row, each in enumerate(maps):
        size, width = each.states, each.next.shape[2]
        after[row, :size, :, :width] = torch.as_tensor(each.next)
        chance[row, :size, :, :width] = torch.as_tensor(each.probability, dtype=dtype)
        mask[row, :size] = True
    return Maps(after.to(device), chance.to(device), mask.to(device))


def expect_maps(maps: Maps, values: Tensor) -> Tensor:
    """Return the mean of values over the next state: (maps, states, ...) -> (maps, states, actions, ...)."""
    rows = torch.arange(len(maps.next), device=maps.next.device)[:, None, None, None]
    if maps.next.shape[3] == 1:
        return values[rows, maps.next].squeeze(3)
    chance = maps.probability.reshape(*maps.probability.shape, *[1] * (values.ndim - 2))
    return (chance * values[rows, maps.next]).sum(3)


def policy_matrices(maps: Maps, policies: Tensor) -> Tensor:
    """Return P_pi, (maps, states, states) dense, of policies (maps, states, actions); also one for several policies of
    each map, (maps, policies, states, actions) -> (maps, policies, states, states)."""
    several = policies if policies.ndim == 4 else policies[:, None]
    chance = several[..., None] * maps.probability[:, None]  # (maps, policies, states, actions, outcomes)
    after = maps.next[:, None].expand(chance.shape).flatten(3)
    matrices = chance.new_zeros((*chance.shape[:3], chance.shape[2])).scatter_add_(3, after, chance.flatten(3))
    return matrices if policies.ndim == 4 else matrices[:, 0]


def solve_maps(maps: Maps, policies: Tensor, features: Tensor, gamma: float) -> Tensor:
    """Return u = (I - gamma P_pi)^-1 phi of every map in one batched solve.

    Args:
        maps: of any sizes.
        policies: (maps, states, actions), or (maps, policies, states, actions); padded cells may hold anything finite.
        features: phi, (maps, states, features); what padded cells hold does not reach the others.
        gamma: the discount, at least 0 and below 1.

    Returns: (maps, states, features), or (maps, policies, states, features); 0 in padded cells. Gradients flow.

    Raises:
        ValueError: gamma outside [0, 1), shapes that do not fit the maps, or probabilities that are none.
    """
    gamma = check_gamma(gamma, "solve_maps")
    _check_shapes(maps, policies, features)
    policies = torch.where(_cells(maps, policies), policies, 0)
    system = policy_matrices(maps, policies).mul_(-gamma)  # in place: at 128 maps a copy takes as long as the solve
    system.diagonal(dim1=-2, dim2=-1).add_(1)
    wanted = torch.where(maps.mask[..., None], features, 0)
    if policies.ndim == 4:
        wanted = wanted[:, None].expand(-1, policies.shape[1], -1, -1)
    return torch.linalg.solve(system, wanted)


def features_of_maps(maps: Maps, policies: Tensor, features: Tensor, gamma: float) -> Tensor:
    """Return the successor features psi(s, a) = E u(s'), arguments and errors as :func:`solve_maps`.

    Returns: (maps, states, actions, features), or (maps, policies, states, actions, features).
    """
    solution = solve_maps(maps, policies, features, gamma)
    if policies.ndim == 3:
        return expect_maps(maps, solution)
    return expect_maps(maps, solution.transpose(1, 2)).movedim(3, 1)


def values_of_maps(maps: Maps, policies: Tensor, rewards: Tensor, gamma: float, *, per: Per | None = None) -> Tensor:
    """Return the (maps, states) values of policies (maps, states, actions); rewards and per as :func:`plan_maps`."""
    rewards = _check_rewards(maps, rewards, per, "values_of_maps")
    if per == "action":
        if policies.ndim != 3:
            raise ValueError(f"values_of_maps: policies must be (maps, states, actions); got {tuple(policies.shape)}")
        _check_shapes(maps, policies, rewards)
        here = (torch.where(_cells(maps, policies), policies, 0) * rewards).sum(-1, keepdim=True)
        return solve_maps(maps, policies, here, gamma)[..., 0]
    action_values = features_of_maps(maps, policies, rewards[..., None], gamma)[..., 0]
    return (torch.where(_cells(maps, policies), policies, 0) * action_values).sum(-1)


def improve_maps(psi: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the (maps, states) actions of generalised policy improvement, the policy that each state follows, and the
    values that are certain, as :func:`improve`.

    Args:
        psi: (maps, policies, states, actions, features).
        weights: (maps, features).

    Raises:
        ValueError: no policies, weights that do not fit, or numbers that are not finite.
    """
    if psi.ndim != 5 or not psi.numel():
        raise ValueError(
            "improve_maps: psi must be (maps, policies, states, actions, features), with one policy or more; got "
            f"{tuple(psi.shape)}"
        )
    if weights.shape != (len(psi), psi.shape[4]):
        raise ValueError(f"improve_maps: weights must be {(len(psi), psi.shape[4])}; got {tuple(weights.shape)}")
    for name, each in (("psi", psi), ("weights", weights)):
        if not torch.isfinite(each).all():
            raise ValueError(f"improve_maps: {name} must be finite; some are not")
    action_values = torch.einsum("bpsaf,bf->bpsa", psi, weights)
    best, follows = action_values.amax(3).max(1)
    return action_values.amax(1).argmax(2), follows, best


def plan_maps(
    maps: Maps,
    rewards: Tensor,
    gamma: float,
    *,
    per: Per | None = None,
    tolerance: float = 1e-12,
    steps: int = 100_000,
) -> tuple[Tensor, Tensor]:
    """Return the (maps, states) optimal values and actions of every map, by value iteration on all at once.

    Args:
        maps: of any sizes.
        rewards: (maps, states) for the state entered; or R(s, a), (maps, states, actions), with per "action".
        gamma: the discount, at least 0 and below 1.
        per: what the rewards are for; None is "state".
        tolerance: the sweeps end when on no map a value can be further from the best than this times the largest one;
            the number type's own rounding where that is coarser.
        steps: most sweeps.

    Raises:
        ValueError: gamma outside [0, 1), or rewards of another shape or not finite.
        RuntimeError: it did not converge.
    """
    gamma = check_gamma(gamma, "plan_maps")
    if not tolerance >= 0:
        raise ValueError(f"plan_maps: tolerance must be 0 or more; got {tolerance}")
    rewards = _check_rewards(maps, rewards, per, "plan_maps").to(maps.probability.dtype)
    gain = rewards if per == "action" else expect_maps(maps, rewards)  # (maps, states, actions)
    tolerance = max(tolerance, 2 * torch.finfo(gain.dtype).eps / (1 - gamma))
    values = torch.zeros_like(gain[..., 0])
    for step in range(steps):
        new = (gain + expect_maps(maps, gamma * values)).amax(2)
        change, scale = (new - values).abs().amax(1), new.abs().amax(1)
        values = new
        # Asking the device each time would halt it; a few sweeps too many cost less.
        if step % 16 == 15 and bool((gamma * change <= (1 - gamma) * tolerance * scale).all()):
            return values, (gain + expect_maps(maps, gamma * values)).argmax(2)
    raise RuntimeError(f"plan_maps did not converge in {steps} sweeps; allow more steps or a larger tolerance")


def _check_rewards(maps: Maps, rewards: Tensor, per: Per | None, where: str) -> Tensor:
    """Return rewards, 0 in padded cells; ValueError, with the caller's name, where they do not fit the maps."""
    check_per(per, where)
    states, actions = tuple(maps.mask.shape), tuple(maps.next.shape[:3])
    wanted = actions if per == "action" else states
    if rewards.shape != wanted or not torch.isfinite(rewards[maps.mask]).all():
        hint = '; for rewards R(s, a) say per="action"' * (per != "action" and tuple(rewards.shape) == actions)
        raise ValueError(f"{where}: rewards must be {wanted} and finite; got {tuple(rewards.shape)}{hint}")
    return torch.where(maps.mask.reshape(states + (1,) * (rewards.ndim - 2)), rewards, 0)


def _cells(maps: Maps, policies: Tensor) -> Tensor:
    """Return the mask, shaped to broadcast with policies."""
    return maps.mask[:, :, None] if policies.ndim == 3 else maps.mask[:, None, :, None]


def _check_shapes(maps: Maps, policies: Tensor, features: Tensor) -> None:
    count, states, actions = maps.next.shape[:3]
    ends = (states, actions)
    if policies.ndim not in (3, 4) or len(policies) != count or policies.shape[-2:] != ends or not policies.numel():
        raise ValueError(
            f"policies must be ({count}, {states}, {actions}), or ({count}, policies, {states}, {actions}) with one or "
            f"more; got {tuple(policies.shape)}"
        )
    given = torch.where(_cells(maps, policies), policies.detach(), 1 / actions)
    if not ((given >= 0).all() and ((given.sum(-1) - 1).abs() < 1e-4).all()):
        raise ValueError("policies must be probabilities, non-negative and of sum 1, in every cell that is there")
    if features.ndim != 3 or features.shape[:2] != (count, states):
        raise ValueError(f"features must be ({count}, {states}, features); got {tuple(features.shape)}")
    if not (torch.isfinite(features) | ~maps.mask[..., None]).all():
        raise ValueError("features must be finite in every cell that is there")
