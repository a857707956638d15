"""Successor features of maps never seen, from their pictures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.core.checkpoint import has_parts, read_state, write_state
from scimeta.domains.gridworld.deep_network import SuccessorNetwork, backup, best_values, follow, greedy_policy
from scimeta.files import STATE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RESOLUTION = 1e-6  # share of a goal's value below which its distant cells see nothing


@dataclass(frozen=True, eq=False, repr=False)
class DeepSuccessors:
    """A network that turns the picture of a map into successor features; prints as a table.

    Attributes:
        network: what was learned.
        gamma: the discount.
        history: one row a training step: step, loss (of the successor features), feature_loss, seconds since the start.
    """

    network: SuccessorNetwork
    gamma: float
    history: pd.DataFrame

    @torch.no_grad()
    def features(
        self, picture: ndarray, cells: ndarray, goals: Sequence[int] | ndarray = (), *, policies: ndarray | None = None
    ) -> ndarray:
        """Return psi, (policies, states, actions, features + goals), as :func:`improve` takes it.

        Nothing but the picture says where steps lead and what is felt where. The map may have any size; what lies
        further than ln 1e-6 / ln gamma steps from a goal (270 for gamma 0.95) does not see it.

        Args:
            picture: (height, width, channels) pixels, as those learned from.
            cells: (states, 2) row and column of each state, which fix their order.
            goals: states, each of which adds its indicator to the features.
            policies: (policies, features + goals) reward weights, each of which stands for the best policy for it;
                None for the unit vectors, and as the last one all -1: a policy that stays out of everything's way.

        Raises:
            ValueError: a picture, cells, goals or weights that do not fit.
        """
        picture, where, goals = self._check(picture, cells, goals)
        local = self.network(picture)
        marks = torch.zeros(1, len(goals), *local.features.shape[2:], device=picture.device)
        marks[0, torch.arange(len(goals)), where[0][goals], where[1][goals]] = 1
        planes = torch.cat((local.features, marks), 1)  # (1, features + goals, height, width)
        weights = self._weights(policies, planes.shape[1]).to(picture.device)
        settings = (self.gamma, _sweeps(self.gamma))
        psi = []
        for chosen in weights:
            rewards = (planes * chosen[:, None, None]).sum(1, keepdim=True)
            values = best_values(local.steps, rewards, *settings)
            policy = greedy_policy(local.steps, rewards, values, self.gamma)
            after = follow(local.steps, policy, planes, *settings)
            psi.append(backup(local.steps, planes + self.gamma * after)[0, ..., where[0], where[1]].permute(2, 1, 0))
        return torch.stack(psi).double().cpu().numpy()

    @torch.no_grad()
    def seen(self, picture: ndarray, cells: ndarray) -> ndarray:
        """Return phi, (states, features): what the network expects to be felt on entering each cell.

        Arguments and errors as :meth:`features`.
        """
        picture, where, _ = self._check(picture, cells, ())
        return self.network(picture).features[0][:, where[0], where[1]].T.double().cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """Return ``path`` after the network has been written to it; :func:`load_deep_successors` reads it."""
        history = torch.tensor(self.history.to_numpy(), dtype=torch.float64)
        return write_state(
            path,
            {
                "deep successors": {"gamma": self.gamma, **describe(self.network)},
                "network": dict(self.network.state_dict()),
                "history": history,
            },
            STATE,
        )

    def _check(
        self, picture: ndarray, cells: ndarray, goals: Sequence[int] | ndarray
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """Return (1, channels, ...) pixels, the rows and columns of the states, and the goals; all checked."""
        cell, channels = self.network.cell, len(self.network.mean)
        picture = check_picture(picture, "features")
        if picture.shape[2] != channels or picture.shape[0] % cell or picture.shape[1] % cell:
            raise ValueError(
                f"features: the picture must have {channels} channels and sides that are multiples of {cell} pixels, "
                f"the size of a cell; got {picture.shape}"
            )
        shape = (picture.shape[0] // cell, picture.shape[1] // cell)
        cells = check_cells(cells, shape, "features")
        goals = np.asarray(goals, dtype=np.int64) if len(goals) == 0 else np.asarray(goals)
        if goals.ndim != 1 or goals.dtype.kind not in "iu" or ((goals < 0) | (goals >= len(cells))).any():
            raise ValueError(f"features: goals must be states in 0..{len(cells) - 1}; got {goals.tolist()}")
        device = self.network.mean.device
        pixels = torch.tensor(picture, device=device).movedim(2, 0)[None]
        rows, columns = torch.tensor(cells, device=device).T
        return pixels, (rows, columns), torch.tensor(goals, device=device)

    def _weights(self, policies: ndarray | None, columns: int) -> Tensor:
        if policies is None:
            return torch.cat((torch.eye(columns), -torch.ones(1, columns)))
        weights = np.asarray(policies, dtype=np.float32)
        if weights.ndim != 2 or not len(weights) or weights.shape[1] != columns or not np.isfinite(weights).all():
            raise ValueError(
                f"features: policies must be (policies, {columns}) finite weights, one column for each of the "
                f"{columns} features and goals; got {weights.shape}"
            )
        return torch.tensor(weights)

    def __str__(self) -> str:
        about = describe(self.network)
        size = sum(p.numel() for p in self.network.parameters())
        title = (
            f"Deep successor features: {about['features']} features, {about['actions']} actions, gamma {self.gamma:g}, "
            f"{size} parameters"
        )
        if self.history.empty:
            return title
        late = self.history.tail(max(1, len(self.history) // 20))
        return "\n".join(
            (
                f"{title}, after {len(self.history)} steps ({self.history['seconds'].iloc[-1]:.0f} s)",
                f"  relative squared error of psi, first step      {self.history['loss'].iloc[0]:.4g}",
                f"  relative squared error of psi, mean of last {len(late):<3} {late['loss'].mean():.4g}",
                f"  cross-entropy of phi, mean of last {len(late):<3}         {late['feature_loss'].mean():.4g}",
            )
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the losses over the training steps."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 3.6), layout="constrained")[1]
        for name, label in (("loss", "successor features"), ("feature_loss", "features")):
            ax.plot(self.history["step"], self.history[name], lw=1, label=label)
        ax.set(xlabel="training step", ylabel="loss", yscale="log", title="Deep successor features")
        ax.legend(frameon=False)
        return ax


def load_deep_successors(path: str | Path) -> DeepSuccessors:
    """Return what ``DeepSuccessors.save`` wrote, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else.
    """
    state = read_state(path)
    if not has_parts(state, "deep successors", "network"):
        raise ValueError(f"{path} holds no deep successor features; DeepSuccessors.save writes them")
    about = dict(state["deep successors"])
    gamma = about.pop("gamma")
    network = SuccessorNetwork(**about, generator=torch.Generator())
    network.load_state_dict(state["network"])
    return DeepSuccessors(network.requires_grad_(False), gamma, as_history(state["history"]))


def describe(network: SuccessorNetwork) -> dict[str, int]:
    """Return the arguments that make a network of the same shape."""
    return {
        "channels": len(network.mean),
        "actions": network.actions,
        "features": len(network.low),
        "cell": network.cell,
        "hidden": network.hidden,
    }


def as_history(rows: Any) -> pd.DataFrame:
    """Return (steps, 4) numbers as the table that :class:`DeepSuccessors` holds."""
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 4)
    return pd.DataFrame(table, columns=["step", "loss", "feature_loss", "seconds"]).astype({"step": int})


def check_picture(picture: ndarray, where: str) -> ndarray:
    """Return a (height, width, channels) picture as float32; ValueError, with the caller's name, where it is none."""
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or 0 in pixels.shape or pixels.dtype.kind not in "uifb":
        raise ValueError(
            f"{where}: a picture must be (height, width, channels) numbers; got {pixels.shape} of {pixels.dtype}"
        )
    pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{where}: a picture must be finite; got {pixels[~np.isfinite(pixels)][0]}")
    return pixels


def check_cells(cells: ndarray, shape: tuple[int, int], where: str) -> ndarray:
    """Return (states, 2) rows and columns inside a map; ValueError, with the caller's name, where they are not."""
    cells = np.asarray(cells)
    if cells.ndim != 2 or cells.shape[1] != 2 or not len(cells) or cells.dtype.kind not in "iu":
        raise ValueError(f"{where}: cells must be (states, 2) whole numbers; got {cells.shape} of {cells.dtype}")
    if (cells < 0).any() or (cells >= shape).any():
        raise ValueError(f"{where}: the picture shows {shape[0]} x {shape[1]} cells, but cells reach {cells.max(0)}")
    return cells.astype(np.int64)


def _sweeps(gamma: float) -> int:
    """Return the sweeps after which what is left out is below the resolution: 270 for gamma 0.95."""
    return 1 if gamma == 0 else max(1, math.ceil(math.log(_RESOLUTION) / math.log(gamma)))
