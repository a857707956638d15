"""The city with its features as a vector reward, alone and together, as MO-Gymnasium's environments have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy import ndarray

from simulators.gridworld.city import City
from simulators.gridworld.env import GridEnv
from simulators.gridworld.vector_env import GridVectorEnv


class MOGridEnv(GridEnv):
    """``gymnasium.make("scimeta/MOCity-v0")``: a city whose reward is the features (d,) of the cell entered.

    ``reward_space`` and ``reward_dim`` are those of ``unwrapped``, as in MO-Gymnasium. Arguments and errors as GridEnv.

    >>> env = MOGridEnv("town", start=(4, 8))
    >>> _ = env.reset(seed=0)
    >>> env.step(3)[1], env.unwrapped.reward_space.shape
    (array([0., 0., 1., 0., 0.]), (5,))
    """

    def __init__(
        self,
        city: City | str | Path = "town",
        *,
        features: ndarray | None = None,
        start: str | int | tuple[int, int] | None = None,
        observation: str = "state",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(city, features=features, start=start, observation=observation, render_mode=render_mode)

    def step(self, action: int) -> tuple[int | ndarray, ndarray, bool, bool, dict[str, ndarray]]:
        """Move and return observation, features, False, False and ``info``."""
        observation, _, terminated, truncated, info = super().step(action)
        return observation, info["features"].copy(), terminated, truncated, info


class MOGridVectorEnv(GridVectorEnv):
    """``gymnasium.make_vec("scimeta/MOCity-v0")``: many agents, whose rewards are features (agents, d).

    ``reward_space`` is that of one agent. Gymnasium's own SyncVectorEnv has no room for vector rewards, so
    ``vectorization_mode="sync"`` does not work; MO-Gymnasium's MOSyncVectorEnv does. Arguments and errors as
    GridVectorEnv.

    >>> envs = MOGridVectorEnv(3, "town", start=(4, 8))
    >>> _ = envs.reset(seed=0)
    >>> envs.step([3, 3, 4])[1].shape
    (3, 5)
    """

    def __init__(
        self,
        num_envs: int = 1,
        city: City | str | Path = "town",
        *,
        features: ndarray | None = None,
        start: str | int | tuple[int, int] | None = None,
        observation: str = "state",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            num_envs,
            city,
            features=features,
            start=start,
            observation=observation,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
        )

    def step(self, actions: ndarray) -> tuple[ndarray, ndarray, ndarray, ndarray, dict[str, Any]]:
        """Move all agents and return states, features (agents, d), terminations, truncations and ``info``."""
        states, _, terminated, truncated, info = super().step(actions)
        return states, info["features"].copy(), terminated, truncated, info
