"""Training of deep successor features on pictures of maps and walks in them; killable and resumable at any step.

A step draws some maps, and in each a reward over its features and a few goal cells. The target network, a running mean
of the learning one, works out the successor features u of a policy for that reward; the policy is greedy for the
learning network (as in double Q-learning), partly random. Walks tell where each action led once, s', and what was felt
there, phi; the learning network's psi(s, a) is drawn to phi + gamma u(s').

Errors count relative to the size of psi around the cell: far from a goal psi is tiny, and yet its neighbours' order is
what a policy follows.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from scimeta.core.checkpoint import (
    check_checkpoint,
    compare,
    has_parts,
    random_state,
    read_state,
    restore_random_state,
    write_state,
)
from scimeta.core.distributed import find_device
from scimeta.domains.gridworld.deep import DeepSuccessors, as_history, describe
from scimeta.domains.gridworld.deep_maps import Grids, PicturedMap, lay_out
from scimeta.domains.gridworld.deep_network import SuccessorNetwork, around, backup, best_values, follow, greedy_policy
from scimeta.domains.gridworld.transitions import check_gamma

_WARM_UP = 30  # steps over which the step size grows
_LAST_RATE = 0.05  # share of the step size at the end
_NEAR_ZERO = 0.05  # psi below it counts as zero, in units of phi
_RANDOM_SHARES = (0.0, 0.2, 1.0)  # of the policies' actions; random ones are felt where a sure route never leads
_BETAS = (0.9, 0.99)  # gradients shrink fast in training; a longer memory would lag behind
_CLIP = 0.05  # largest norm of the gradient, a few times what it usually is


def learn_deep_successors(
    maps: Sequence[PicturedMap],
    *,
    gamma: float,
    cell: int = 1,
    steps: int = 800,
    maps_per_step: int = 8,
    goals_per_map: int = 8,
    hidden: int = 64,
    lr: float = 0.007,
    target_rate: float = 0.05,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device | None = None,
    generator: torch.Generator,
) -> DeepSuccessors:
    """Return a network that turns pictures of maps, also of maps never seen, into successor features.

    Killed at any moment and called again with the same arguments, it goes on from the checkpoint to the result of an
    uninterrupted run, bit by bit on the same machine. 400 maps of 13 x 13 take some 40 s on one core.

    Args:
        maps: some hundred, in which all that later maps may show occurs often.
        gamma: the discount, at least 0 and below 1.
        cell: pixels along each side of a cell.
        steps: training steps; the step size falls linearly over them.
        maps_per_step: maps of each step.
        goals_per_map: random cells whose indicators are learned along with the features.
        hidden: units of the network for each cell.
        lr: Adam's step size at its largest.
        target_rate: share by which the target network follows the learning one at each step; 1 for no target network.
        checkpoint: a file to write to and, if it is there, to resume from.
        checkpoint_every: steps between writings.
        device: "cpu", "cuda" ...; None for the CPU.
        generator: of all randomness, on the CPU.

    Raises:
        TypeError, ValueError: maps that do not agree with each other, steps that lead beyond the neighbouring cells, an
            argument out of its range, or a checkpoint of another run.
        FloatingPointError: the loss is no longer finite.

    Reference: Barreto et al., NeurIPS 30 (2017); Borsa et al., Universal successor features approximators, ICLR (2019).
    """
    gamma = check_gamma(gamma, "learn_deep_successors")
    counts = {
        "cell": cell,
        "steps": steps,
        "maps_per_step": maps_per_step,
        "goals_per_map": goals_per_map,
        "hidden": hidden,
        "checkpoint_every": checkpoint_every,
    }
    _check_numbers(counts, lr, target_rate, checkpoint, generator)
    grids = lay_out(maps, cell).to(find_device(device, torch.device("cpu")))
    run = _Run(grids, gamma, counts, lr, target_rate, generator)
    settings = run.settings() if checkpoint is not None else {}
    if checkpoint is not None and Path(checkpoint).exists():
        run.resume(checkpoint, settings)
    with tqdm(total=steps, initial=len(run.history), desc="deep successors", delay=2, disable=None) as bar:
        while len(run.history) < steps:
            run.step()
            done = len(run.history)
            if checkpoint is not None and (done % checkpoint_every == 0 or done == steps):
                run.write(checkpoint, settings)
            bar.set_postfix_str(f"loss {run.history[-1][1]:.4g}", refresh=False)
            bar.update()
    return DeepSuccessors(run.network.requires_grad_(False), gamma, as_history(run.history))


@dataclass
class _Run:
    """The state of a training run: all that a checkpoint holds."""

    grids: Grids
    gamma: float
    counts: dict[str, int]
    lr: float
    target_rate: float
    generator: torch.Generator
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        pictures, _, after, _, features = self.grids
        self.seed = self.generator.initial_seed()
        shape = {name: self.counts[name] for name in ("cell", "hidden")}
        network = SuccessorNetwork(
            pictures.shape[1], after.shape[1], features.shape[1], **shape, generator=self.generator
        )
        network.to(pictures.device)
        network.mean.copy_(pictures.mean((0, 2, 3))[:, None, None])
        network.scale.copy_(pictures.std((0, 2, 3)).clamp(min=1e-6)[:, None, None])
        felt = features.movedim(1, -1)[self.grids.free > 0]  # (states of all maps, features)
        network.low.copy_(felt.amin(0)[:, None, None])
        network.high.copy_(felt.amax(0)[:, None, None])
        self.network, self.target = network, copy.deepcopy(network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=self.lr, betas=_BETAS)
        self.sweeps = max(1, math.ceil(4 / (1 - self.gamma)))
        self.start = time.perf_counter()

    def step(self) -> None:
        """Take one training step."""
        done, steps = len(self.history), self.counts["steps"]
        rate = min(1, (done + 1) / _WARM_UP) * max(_LAST_RATE, 1 - done / steps)
        self.optimizer.param_groups[0]["lr"] = self.lr * rate
        loss, feature_loss = self.losses()
        self.optimizer.zero_grad()
        (loss + 10 * feature_loss).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, self.target_rate)
        row = [done + 1, float(loss.detach()), float(feature_loss.detach()), time.perf_counter() - self.start]
        if not all(map(math.isfinite, row)):
            raise FloatingPointError(
                f"learn_deep_successors: at step {done + 1} the losses are {row[1]:.3g} and {row[2]:.3g}; lower lr "
                f"({self.lr:g})"
            )
        self.history.append(row)

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the relative squared error of psi, and the cross-entropy of phi, on maps newly drawn."""
        maps = self.grids.pick(self._draw_maps())
        goals = self._draw_goals(maps.free)  # (maps, goals, height, width)
        local = self.network(maps.pictures)
        with torch.no_grad():
            slow = self.target(maps.pictures)
            slow_planes = torch.cat((slow.features, goals), 1)
            policy = self._draw_policy(local.steps, slow.steps, slow_planes)
            after = follow(slow.steps, policy, slow_planes, self.gamma, self.sweeps)
            returns = torch.cat((maps.features, goals), 1) + self.gamma * after
            wanted = self._outcomes(maps, returns)  # (maps, planes, actions, cells)
            size = around(returns.abs()).amax(2).flatten(2)[:, :, None] + _NEAR_ZERO
        planes = torch.cat((local.features.detach(), goals), 1)
        psi = backup(local.steps, planes + self.gamma * after)
        after = (psi * policy[:, None]).sum(2)  # a second sweep, so that errors are felt beyond the neighbours
        psi = backup(local.steps, planes + self.gamma * after).flatten(3)
        free = maps.free.flatten(1)[:, None, None]
        loss = (((psi - wanted) / size).square() * free).sum() / free.sum() / psi.shape[2]
        span = (self.network.high - self.network.low).clamp(min=1e-6)
        shares = (maps.features - self.network.low) / span
        unlike = F.binary_cross_entropy_with_logits(local.logits, shares, reduction="none")
        return loss, (unlike * maps.free[:, None]).sum() / maps.free.sum()

    def _draw_maps(self) -> Tensor:
        return self._whole(len(self.grids.free), self.counts["maps_per_step"])

    def _draw_goals(self, free: Tensor) -> Tensor:
        """Return (maps, goals, height, width) indicators of free cells."""
        chance = free.flatten(1).cpu()
        drawn = torch.multinomial(chance, self.counts["goals_per_map"], replacement=True, generator=self.generator)
        return F.one_hot(drawn, chance.shape[1]).to(free).unflatten(2, free.shape[1:])

    def _draw_policy(self, steps: Tensor, slow_steps: Tensor, planes: Tensor) -> Tensor:
        """Return policies (maps, actions, height, width) that are greedy for a reward, or partly random."""
        maps, columns = planes.shape[:2]
        mixed = torch.randn(maps, columns, generator=self.generator)
        single = F.one_hot(self._whole(columns, maps).cpu(), columns)
        weights = torch.where(self._whole(2, maps, 1).cpu() > 0, mixed, single).to(planes)
        rewards = (planes * weights[..., None, None]).sum(1, keepdim=True)
        values = best_values(slow_steps, rewards, self.gamma, self.sweeps)
        policy = greedy_policy(steps, rewards, values, self.gamma)
        random = planes.new_tensor(_RANDOM_SHARES)[self._whole(len(_RANDOM_SHARES), maps, 1, 1, 1)]
        return policy * (1 - random) + random / policy.shape[1]

    def _outcomes(self, maps: Grids, returns: Tensor) -> Tensor:
        """Return (maps, planes, actions, cells): returns (maps, planes, height, width) where each action led once."""
        chance = maps.chance.flatten(0, 2)
        drawn = torch.multinomial(chance.cpu(), 1, generator=self.generator).to(chance.device)
        after = maps.after.flatten(0, 2).gather(1, drawn).view(maps.after.shape[:3])  # (maps, actions, cells)
        planes = returns.shape[1]
        found = returns.flatten(2).gather(2, after.flatten(1)[:, None].expand(-1, planes, -1))
        return found.unflatten(2, after.shape[1:])

    def _whole(self, number: int, *shape: int) -> Tensor:
        """Return whole numbers below ``number``, drawn evenly."""
        return torch.randint(number, shape, generator=self.generator).to(self.grids.free.device)

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for a checkpoint to fit; the maps by a checksum."""
        digest = hashlib.sha256()
        for part in self.grids:
            digest.update(part.cpu().numpy().tobytes())
        counts = {name: value for name, value in self.counts.items() if name != "checkpoint_every"}
        rates = {"lr": self.lr, "target_rate": self.target_rate, "gamma": self.gamma, "seed": self.seed}
        return {
            **describe(self.network),
            **counts,
            **rates,
            "maps": f"{len(self.grids.free)}, {digest.hexdigest()[:12]}",
        }

    def write(self, path: str | Path, settings: dict[str, Any]) -> None:
        state = {
            "settings": settings,
            "network": dict(self.network.state_dict()),
            "target": dict(self.target.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "history": torch.tensor(self.history, dtype=torch.float64),
            "random": random_state(self.generator, self.grids.free.device),
        }
        write_state(path, state)

    def resume(self, path: str | Path, settings: dict[str, Any]) -> None:
        state = read_state(path)
        if not has_parts(state, "settings", "network", "target", "optimizer", "random"):
            raise ValueError(f"{path} holds no run of learn_deep_successors to go on from; name another file")
        compare(settings, state["settings"], path)
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"].tolist()
        self.start = time.perf_counter() - self.history[-1][3]
        restore_random_state(state["random"], self.generator, self.grids.free.device)


def _check_numbers(counts: dict[str, int], lr: float, target_rate: float, checkpoint: Any, generator: Any) -> None:
    for name, number in counts.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"learn_deep_successors: {name} is a positive integer; got {number!r}")
    if not 0 < target_rate <= 1 or not 0 < lr < math.inf:
        raise ValueError(
            f"learn_deep_successors: lr is positive and target_rate in (0, 1]; got {lr!r} and {target_rate!r}"
        )
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise TypeError(f"learn_deep_successors: generator is a torch.Generator on the CPU; got {generator!r}")
    if checkpoint is not None and Path(checkpoint).is_dir():
        raise IsADirectoryError(f"learn_deep_successors: the checkpoint {checkpoint} is a folder; name a file in it")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise FileNotFoundError(
            f"learn_deep_successors: cannot write {checkpoint}: there is no folder {Path(checkpoint).parent}"
        )
    if checkpoint is not None:
        check_checkpoint(checkpoint)
