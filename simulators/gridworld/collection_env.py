"""The object collection as a Gymnasium environment."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy import ndarray

from simulators.gridworld.collection import Collection, four_room_collection
from simulators.gridworld.drawing import MODES, Window


class CollectionEnv(gymnasium.Env):
    """One agent that collects; the reward is the step's features @ weights, and the goal ends the episode.

    Action: 0 to 3, north, south, west, east. Observation: the state. ``info`` of a step: "features" (d,).
    ``gymnasium.make("scimeta/Collection-v0")`` ends episodes after 200 steps, as published; ``make_vec``
    has it one by one (``vectorization_mode="sync"``), and Collectors steps thousands at once without Gymnasium.

    Args:
        weights: (d,) worth of each class of objects and of the goal; all 1 if None. See :func:`collection_tasks`.
        collection: the rooms; :func:`four_room_collection` if None.
        render_mode: None, "rgb_array", "human" or "ansi".

    Raises:
        ValueError: weights of another shape or not finite, an unknown render mode.

    >>> env = CollectionEnv(weights=[1.0, -1.0, 0.5, 1.0])
    >>> state, _ = env.reset(seed=0)
    >>> int(env.observation_space.n), env.step(0)[1]
    (622592, 0.0)
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(MODES), "render_fps": 8}

    def __init__(
        self, weights: ndarray | None = None, collection: Collection | None = None, *, render_mode: str | None = None
    ) -> None:
        if render_mode not in (None, *MODES):
            raise ValueError(f"CollectionEnv: render_mode is None or one of {', '.join(MODES)}; got {render_mode!r}")
        self.collection = four_room_collection() if collection is None else collection
        number = self.collection.dim
        self.weights = np.ones(number) if weights is None else np.asarray(weights, dtype=float)
        if self.weights.shape != (number,) or not np.isfinite(self.weights).all():
            raise ValueError(f"CollectionEnv: weights must be ({number},) and finite; got {self.weights.tolist()}")
        self.render_mode = render_mode
        self.action_space, self.observation_space = Discrete(4), Discrete(len(self.collection))
        self.reward_space, self.reward_dim = Box(0, 1, (number,), np.float64), number
        # Lists, since one look-up in an array costs what five in a list do.
        self._next = self.collection.cell_next.tolist()
        self._bits, self._kinds = (x.tolist() for x in self.collection.marks())
        self._worth = [*self.weights.tolist(), 0.0]
        self._shift = len(self.collection.objects)
        self._cell, self._taken = -1, 0
        self._window: Window | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Start an episode, all objects in place, and return the state and an empty ``info``."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"CollectionEnv: unknown option {next(iter(options))!r}; there are none")
        starts = self.collection.starts
        self._cell, self._taken = divmod(int(starts[self.np_random.integers(len(starts))]), 1 << self._shift)
        if self.render_mode == "human":
            self.render()
        return (self._cell << self._shift) + self._taken, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, ndarray]]:
        """Move and return state, reward, whether the goal is reached, False and ``info``."""
        if self._cell < 0:
            raise gymnasium.error.ResetNeeded("CollectionEnv: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"CollectionEnv: the action must be a whole number, 0 to 3; got {action!r}")
        ended, kind = self._cell == self.collection.goal, -1
        if not ended:
            cell = self._cell = self._next[self._cell][action]
            fresh = self._bits[cell] & ~self._taken
            self._taken |= fresh
            ended = cell == self.collection.goal
            if fresh or ended:
                kind = self._kinds[cell]
        if self.render_mode == "human":
            self.render()
        features = np.zeros(self.reward_dim)
        if kind >= 0:
            features[kind] = 1
        return (self._cell << self._shift) + self._taken, self._worth[kind], ended, False, {"features": features}

    def render(self) -> ndarray | str | None:
        """Return (height, width, 3) uint8 pixels or text, or show the rooms in the window."""
        if self.render_mode is None or self._cell < 0:
            return None
        state = (self._cell << self._shift) + self._taken
        if self.render_mode == "ansi":
            return self.collection.text(state)
        picture = self.collection.picture(state)
        if self.render_mode == "rgb_array":
            return picture
        if self._window is None:
            self._window = Window("collection", self.metadata["render_fps"])
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None
