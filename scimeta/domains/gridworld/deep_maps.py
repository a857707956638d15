"""Maps with their pictures, as deep successor features learn from them: laid out on their grids, walls included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.domains.gridworld.deep import check_cells, check_picture
from scimeta.domains.gridworld.exact import check_state_values
from scimeta.domains.gridworld.transitions import Transitions


class PicturedMap(NamedTuple):
    """A map to learn from.

    Attributes:
        picture: (height x cell, width x cell, channels) pixels; the same shape for all maps.
        cells: (states, 2) row and column of each state.
        transitions: where steps lead, of which a network sees drawn outcomes only; to neighbouring cells.
        features: phi, (states, features), felt on entering a state.
    """

    picture: ndarray
    cells: ndarray
    transitions: Transitions
    features: ndarray


class Grids(NamedTuple):
    """All maps, cell by cell; cells are numbered row by row."""

    pictures: Tensor  # (maps, channels, height x cell, width x cell)
    free: Tensor  # (maps, height, width) 1 at states
    after: Tensor  # (maps, actions, cells, outcomes) number of the next cell
    chance: Tensor  # as after; walls lead to cell 0
    features: Tensor  # (maps, features, height, width)

    def to(self, device: torch.device) -> Grids:
        """Return them on a device."""
        return Grids(*(part.to(device) for part in self))

    def pick(self, which: Tensor) -> Grids:
        """Return some of the maps."""
        return Grids(*(part[which] for part in self))


def lay_out(maps: Sequence[PicturedMap], cell: int) -> Grids:
    """Return the maps on their grids.

    Args:
        maps: at least one.
        cell: pixels along each side of a cell.

    Raises:
        TypeError: something else than maps.
        ValueError: maps that do not agree with each other, or steps beyond the neighbouring cells.
    """
    maps = list(maps)
    if not maps:
        raise ValueError("learn_deep_successors: there are no maps; give some hundred")
    for each in maps:
        if not isinstance(each, PicturedMap):
            raise TypeError(f"learn_deep_successors: maps are PicturedMap; got {type(each).__name__}")
    first = _facts(maps[0])
    for number, each in enumerate(maps):
        if (found := _facts(each)) != first:
            raise ValueError(
                f"learn_deep_successors: map {number} has {_told(found)}; map 0 has {_told(first)}. Make them alike; "
                "surround smaller maps by walls"
            )
    height, width, _ = np.shape(maps[0].picture)
    if height % cell or width % cell:
        raise ValueError(
            f"learn_deep_successors: pictures of {height} x {width} pixels do not hold whole cells of {cell} x {cell}"
        )
    shape = (height // cell, width // cell)
    outcomes = max(each.transitions.next.shape[2] for each in maps)
    laid = [_one(each, shape, outcomes, number) for number, each in enumerate(maps)]
    return Grids(*(torch.from_numpy(np.stack(parts)) for parts in zip(*laid, strict=True)))


def _facts(each: PicturedMap) -> tuple[tuple[int, ...], int, int]:
    """Return what must be the same for all maps."""
    return np.shape(each.picture), each.transitions.actions, int(np.shape(each.features)[-1])


def _told(facts: tuple[tuple[int, ...], int, int]) -> str:
    return f"a picture {facts[0]}, {facts[1]} actions and {facts[2]} features"


def _one(each: PicturedMap, shape: tuple[int, int], outcomes: int, number: int) -> tuple[ndarray, ...]:
    """Return one map's part of each of the :class:`Grids`."""
    where = f"learn_deep_successors, map {number}"
    picture, cells = check_picture(each.picture, where), check_cells(each.cells, shape, where)
    states, actions, known = each.transitions.next.shape
    if len(cells) != states:
        raise ValueError(f"{where}: {len(cells)} cells, but transitions of {states} states")
    steps = np.abs(cells[each.transitions.next] - cells[:, None, None]).max(-1)
    if (steps[each.transitions.probability > 0] > 1).any():
        raise ValueError(
            f"{where}: a step leads {steps[each.transitions.probability > 0].max()} cells away; the network knows "
            "neighbouring cells only. Use the exact successor features"
        )
    felt = check_state_values(each.transitions, each.features, where, "features")
    place = cells @ (shape[1], 1)
    free = np.zeros(shape, dtype=np.float32)
    free.flat[place] = 1
    after = np.zeros((actions, shape[0] * shape[1], outcomes), dtype=np.int64)
    chance = np.zeros(after.shape, dtype=np.float32)
    chance[..., 0] = 1
    after[:, place, :known] = place[each.transitions.next].swapaxes(0, 1)
    chance[:, place, :known] = each.transitions.probability.swapaxes(0, 1)
    planes = np.zeros((felt.shape[1], free.size), dtype=np.float32)
    planes[:, place] = felt.T
    return np.ascontiguousarray(picture.transpose(2, 0, 1)), free, after, chance, planes.reshape(-1, *shape)
