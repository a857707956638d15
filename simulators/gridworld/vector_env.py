"""The city as a Gymnasium vector environment, and the registered names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy import ndarray

from simulators.gridworld.city import City
from simulators.gridworld.drawing import draw
from simulators.gridworld.env import as_city, reward_parts, reward_space, start_states
from simulators.gridworld.walkers import Walkers


class GridVectorEnv(VectorEnv):
    """Many agents in one city, stepped together; spaces, rewards and ``info`` are those of as many :class:`GridEnv`.

    All agents share one seed and its stream of random numbers, so that drawn starts and slips are others than those of
    as many GridEnv; from one start, without slippery cells, the walks are the same. Observations are states only.

    An episode's end (the time limit; nothing else ends one) is followed by a step that only starts the next: its
    action is ignored and its reward 0 (``AutoresetMode.NEXT_STEP``, Gymnasium's own habit).

    Args:
        num_envs: how many agents.
        city, goal, features, start: as GridEnv.
        observation: "state"; for pictures, ``make_vec(..., vectorization_mode="sync")`` steps GridEnv one by one.
        weights: as GridEnv, or (num_envs, d) for a task of its own to each agent.
        max_episode_steps: the time limit; none if None.
        render_mode: None or "rgb_array".

    Raises:
        ValueError: as GridEnv; weights for another number of agents.

    >>> envs = GridVectorEnv(4096, "four_rooms", goal=(0, 0))
    >>> states, _ = envs.reset(seed=0)
    >>> states, rewards, *_ = envs.step(np.zeros(4096, dtype=int))
    >>> states.shape, rewards.shape
    ((4096,), (4096,))
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        city: City | str | Path = "town",
        *,
        goal: str | tuple[int, int] | None = None,
        weights: ndarray | None = None,
        features: ndarray | None = None,
        start: str | int | tuple[int, int] | None = None,
        observation: str = "state",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'GridVectorEnv: render_mode is None or "rgb_array"; got {render_mode!r}')
        if observation != "state":
            raise ValueError(
                f'GridVectorEnv: observation is "state"; got {observation!r}; make_vec(..., vectorization_mode="sync") '
                "has pictures"
            )
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"GridVectorEnv: max_episode_steps must be at least 1, or None; got {max_episode_steps}")
        self.city = as_city(city)
        self.features, self.weights = reward_parts(self.city, goal, weights, features)
        if self.weights.ndim == 2 and len(self.weights) != num_envs:
            raise ValueError(f"GridVectorEnv: weights are for {len(self.weights)} agents, num_envs is {num_envs}")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.reward_space = reward_space(self.features)
        self.reward_dim = self.features.shape[1]
        self.single_observation_space = Discrete(len(self.city))
        self.single_action_space = Discrete(self.city.next.shape[1])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._starts = start_states(self.city, start)
        self._walkers = Walkers(self.city, num_envs)
        self._rewards = self.features @ self.weights if self.weights.ndim == 1 else None
        self._limit = np.inf if max_episode_steps is None else max_episode_steps
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)
        self._started = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[ndarray, dict]:
        """Start all episodes and return the states (agents,) and an empty ``info``; options as GridEnv."""
        if isinstance(seed, list | tuple | np.ndarray):
            raise ValueError(f"GridVectorEnv: all agents share one seed, a whole number or None; got {seed!r}")
        super().reset(seed=seed)
        unknown = set(options or {}) - {"start"}
        if unknown:
            raise ValueError(f"GridVectorEnv: unknown option {sorted(unknown)[0]!r}; the only one is 'start'")
        starts = start_states(self.city, options["start"]) if options else self._starts
        self._steps[:], self._ended[:], self._started = 0, False, True
        return self._walkers.reset(self.np_random, self._draw(starts, self.num_envs)), {}

    def step(self, actions: ndarray) -> tuple[ndarray, ndarray, ndarray, ndarray, dict[str, ndarray]]:
        """Move all agents and return states, rewards, terminations (none), truncations and ``info``, each (agents,)."""
        if not self._started:
            raise gymnasium.error.ResetNeeded("GridVectorEnv: call reset() before step()")
        ended = self._ended
        states = self._walkers.step(actions)
        features = self.features.take(states, axis=0)
        rewards = self._rewards.take(states) if self._rewards is not None else (features * self.weights).sum(1)
        if np.isfinite(self._limit):
            self._steps += 1
            if ended.any():
                states = self._walkers.restart(ended, self._draw(self._starts, int(ended.sum())))
                rewards[ended], features[ended], self._steps[ended] = 0, 0, 0
            self._ended = self._steps >= self._limit
        info = {"features": features, "_features": ~ended}
        return states, rewards, np.zeros(self.num_envs, dtype=bool), self._ended.copy(), info

    def render(self) -> tuple[ndarray, ...] | None:
        """Return a picture (height, width, 3) of each agent, or None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(draw(self.city, agent=state) for state in self._walkers.states)

    def _draw(self, starts: ndarray, number: int) -> ndarray:
        return starts[self.np_random.integers(len(starts), size=number)]


def _register() -> None:
    """Make the environments known to ``gymnasium.make``, once."""
    if "scimeta/City-v0" in gymnasium.registry:
        return
    here = "simulators.gridworld"
    gymnasium.register(
        "scimeta/City-v0", entry_point=f"{here}.env:GridEnv", vector_entry_point=f"{here}.vector_env:GridVectorEnv"
    )
    gymnasium.register(
        "scimeta/Collection-v0", entry_point=f"{here}.collection_env:CollectionEnv", max_episode_steps=200
    )
    # Gymnasium's checker asks for one number a reward, as MO-Gymnasium knows.
    gymnasium.register(
        "scimeta/MOCity-v0",
        entry_point=f"{here}.multi_objective:MOGridEnv",
        vector_entry_point=f"{here}.multi_objective:MOGridVectorEnv",
        disable_env_checker=True,
    )


_register()
