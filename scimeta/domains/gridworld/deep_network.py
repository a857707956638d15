"""A network that reads the picture of a map and works out successor features by a recurrence over its cells.

Convolutions turn the surroundings of each cell into what is felt there and, for each action, a distribution over the
nine cells around: where the action seems to lead. The recurrence then sweeps psi(s, a) <- E[phi(s') + gamma u(s')] many
times, in the manner of value iteration networks. That steps lead no further than to a neighbour is built in;
what is a wall, what an action does, where feet slip, is not: it must be learned from pictures and walks.

Reference: Tamar et al., Value iteration networks, NeurIPS 29 (2016); Nardelli et al., Value propagation networks, ICLR
(2019).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_AROUND = 9  # cells that a step may lead to


class LocalModel(NamedTuple):
    """What a network makes of pictures.

    Attributes:
        steps: (maps, actions, 9, height, width) probabilities of moving to each of the nine cells around, row by row.
        features: (maps, features, height, width) felt on entering a cell.
        logits: the features before the sigmoid, in units of their range.
    """

    steps: Tensor
    features: Tensor
    logits: Tensor


class SuccessorNetwork(nn.Module):
    """Pictures -> :class:`LocalModel`.

    Args:
        channels: of the pictures.
        actions, features: their numbers.
        cell: pixels along each side of a cell.
        hidden: units for each cell and its neighbours; half as many see a cell alone.
        generator: source of the start; None for torch's global one.

    >>> network = SuccessorNetwork(3, actions=5, features=2)
    >>> network(torch.zeros(1, 3, 7, 8)).steps.shape
    torch.Size([1, 5, 9, 7, 8])
    """

    def __init__(
        self,
        channels: int,
        actions: int,
        features: int,
        *,
        cell: int = 1,
        hidden: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.actions, self.cell, self.hidden, half = actions, cell, hidden, max(hidden // 2, 1)
        # Two trunks: what is felt is learned first, and a shared one would then no longer see faint arrows.
        self.felt = nn.Sequential(*_look(channels, cell, half), nn.Conv2d(half, features, 1))
        self.around = nn.Sequential(
            *_look(channels, cell, half),
            nn.Conv2d(half, hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, actions * _AROUND, 1),
        )
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))
        self.register_buffer("low", torch.zeros(features, 1, 1))
        self.register_buffer("high", torch.ones(features, 1, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
                nn.init.zeros_(layer.bias)
        # At the start every neighbour is as likely: a saturated softmax would learn nothing more.
        nn.init.zeros_(self.around[-1].weight)

    def forward(self, pictures: Tensor) -> LocalModel:
        """Return what (maps, channels, height x cell, width x cell) pictures show, by cells."""
        pixels = (pictures - self.mean) / self.scale
        logits = self.felt(pixels)
        steps = self.around(pixels).unflatten(1, (self.actions, _AROUND)).softmax(2)
        return LocalModel(steps, self.low + (self.high - self.low) * logits.sigmoid(), logits)


def _look(channels: int, cell: int, units: int) -> list[nn.Module]:
    """Return layers that see one cell alone: one layer over nine cells could not sort what all of them show."""
    return [nn.Conv2d(channels, units, cell, stride=cell), nn.SiLU(), nn.Conv2d(units, units, 1), nn.SiLU()]


def backup(steps: Tensor, planes: Tensor) -> Tensor:
    """Return the mean over the next cell: (maps, planes, height, width) -> (maps, planes, actions, height, width)."""
    return torch.einsum("makhw,mpkhw->mpahw", steps, around(planes))


def around(planes: Tensor) -> Tensor:
    """Return the values of the nine cells around each, 0 outside: (..., height, width) -> (..., 9, height, width)."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes, (1, 1, 1, 1))
    return torch.stack([padded[..., r : r + height, c : c + width] for r in range(3) for c in range(3)], -3)


def best_values(steps: Tensor, rewards: Tensor, gamma: float, sweeps: int) -> Tensor:
    """Return the values of the best policy by so many sweeps.

    Args:
        steps: (maps, actions, 9, height, width) of a local model.
        rewards: (maps, 1, height, width) for entering a cell.
        gamma: the discount.
        sweeps: their number; nothing is seen from further away.

    >>> best_values(torch.eye(9)[None, [3, 5], :, None, None].expand(1, 2, 9, 1, 3), torch.ones(1, 1, 1, 3), 0.5, 1)
    tensor([[[[1., 1., 1.]]]])
    """
    values = torch.zeros_like(rewards)
    for _ in range(sweeps):
        values = (steps * around(rewards + gamma * values)).sum(2).amax(1, keepdim=True)
    return values


def follow(
    steps: Tensor, policy: Tensor, features: Tensor, gamma: float, sweeps: int, *, tolerance: float = 0.0
) -> Tensor:
    """Return u, the successor features of a policy, u = E[phi(s') + gamma u(s')].

    Args:
        steps: (maps, actions, 9, height, width) of a local model.
        policy: (maps, actions, height, width) probabilities.
        features: phi, (maps, features, height, width).
        gamma, sweeps: as for :func:`best_values`.
    """
    chosen = (steps * policy[:, :, None]).sum(1, keepdim=True)  # (maps, 1, 9, height, width)
    found = torch.zeros_like(features)
    for _ in range(sweeps):
        found = (chosen * around(features + gamma * found)).sum(2)
    return found


def greedy_policy(steps: Tensor, rewards: Tensor, values: Tensor, gamma: float) -> Tensor:
    """Return (maps, actions, height, width) one-hot best actions for rewards and values (maps, 1, height, width)."""
    best = backup(steps, rewards + gamma * values)[:, 0].argmax(1)
    return F.one_hot(best, steps.shape[1]).movedim(-1, 1).to(steps.dtype)
