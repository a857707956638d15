"""The city as a Gymnasium environment, with its reward as one number or as a vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy import ndarray

from simulators.gridworld.city import City, read_city
from simulators.gridworld.drawing import MODES, Window, as_text, draw
from simulators.gridworld.layouts import LAYOUTS
from simulators.gridworld.map_text import is_name

_MOST_CELLS = 2048


class GridEnv(gymnasium.Env):
    """Walk through a city; the reward is features @ weights of the cell entered.

    Action: 0 to 4, north, south, west, east, stay. Observation: the state, or a picture of one pixel a cell. Nothing
    ends an episode but a time limit (``gymnasium.wrappers.TimeLimit``, or ``gymnasium.make``'s ``max_episode_steps``).
    ``info`` of a step: "features" (d,) of the cell entered. ``reward_space`` and ``reward_dim`` are those of the
    features as a vector reward, as MO-Gymnasium has them; :class:`VectorReward` makes it the reward.

    Args:
        city: a City, the name of a layout, the text of a map or its path.
        goal: a place or (row, col), whose cells are worth 1; not with weights. A (row, col) is the only feature then.
        weights: (d,) worth of each feature; 1 for the first place and 0 for all others if neither is given.
        features: (states, d); indicators of the places if None, or of every cell in a city without places.
        start: a place, state or (row, col) where episodes start (``reset``'s options may say another "start"); a place
            of several cells, or None for all cells, is drawn from evenly.
        observation: "state" or "image".
        render_mode: None, "rgb_array", "human" (a window of matplotlib; nothing is seen without a screen) or "ansi".

    Raises:
        ValueError: an unknown place (the names are listed), a cell that is a wall, weights or features of another shape
            or not finite, an unknown observation or render mode.

    >>> env = GridEnv("town", goal="park", start="library")
    >>> state, info = env.reset(seed=0)
    >>> state, reward, *_, info = env.step(3)
    >>> state, float(reward), info["features"]
    (1, 0.0, array([0., 0., 0., 0., 0.]))
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(MODES), "render_fps": 8}

    def __init__(
        self,
        city: City | str | Path = "town",
        *,
        goal: str | tuple[int, int] | None = None,
        weights: ndarray | None = None,
        features: ndarray | None = None,
        start: str | int | tuple[int, int] | None = None,
        observation: str = "state",
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, *MODES):
            raise ValueError(f"GridEnv: render_mode is None or one of {', '.join(MODES)}; got {render_mode!r}")
        if observation not in ("state", "image"):
            raise ValueError(f'GridEnv: observation is "state" or "image"; got {observation!r}')
        self.city = as_city(city)
        self.features, self.weights = reward_parts(self.city, goal, weights, features)
        if self.weights.ndim > 1:
            raise ValueError(f"GridEnv: weights must be ({self.features.shape[1]},); got {self.weights.shape}")
        self.render_mode = render_mode
        self.reward_space = reward_space(self.features)
        self.reward_dim = self.features.shape[1]
        self.action_space = Discrete(self.city.next.shape[1])
        self._picture = draw(self.city, size=1) if observation == "image" else None
        self.observation_space = (
            Discrete(len(self.city)) if self._picture is None else Box(0, 255, self._picture.shape, np.uint8)
        )
        self._starts = start_states(self.city, start)
        self._rewards = self.features @ self.weights
        self._bounds = self.city.probability.cumsum(-1)
        self._state: int | None = None
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int | ndarray, dict[str, Any]]:
        """Start an episode and return the observation and an empty ``info``."""
        super().reset(seed=seed)
        unknown = set(options or {}) - {"start"}
        if unknown:
            raise ValueError(f"GridEnv: unknown option {sorted(unknown)[0]!r}; the only one is 'start'")
        starts = start_states(self.city, options["start"]) if options else self._starts
        self._state = int(starts[self.np_random.integers(len(starts))])
        if self.render_mode == "human":
            self.render()
        return self._observe(), {}

    def step(self, action: int) -> tuple[int | ndarray, float, bool, bool, dict[str, ndarray]]:
        """Move and return observation, reward, False, False and ``info``."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("GridEnv: call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(
                f"GridEnv: the action must be a whole number, 0 to {self.action_space.n - 1}; got {action!r}"
            )
        bounds, outcome = self._bounds[self._state, action], 0
        if bounds[0] < 1:
            outcome = min(int(bounds.searchsorted(self.np_random.random(), side="right")), len(bounds) - 1)
        self._state = int(self.city.next[self._state, action, outcome])
        if self.render_mode == "human":
            self.render()
        info = {"features": self.features[self._state].copy()}
        return self._observe(), float(self._rewards[self._state]), False, False, info

    def render(self) -> ndarray | str | None:
        """Return (height, width, 3) uint8 pixels or text, or show the city in the window."""
        if self.render_mode is None or self._state is None:
            return None
        if self.render_mode == "ansi":
            return as_text(self.city, self._state)
        picture = draw(self.city, agent=self._state)
        if self.render_mode == "rgb_array":
            return picture
        if self._window is None:
            self._window = Window(self.city.name, self.metadata["render_fps"])
        self._window.show(picture)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _observe(self) -> int | ndarray:
        if self._picture is None:
            return self._state
        picture = self._picture.copy()
        picture[tuple(self.city.cells[self._state])] = (228, 26, 28)
        return picture


class VectorReward(gymnasium.Wrapper):
    """The environment with its features (d,) as reward; ``unwrapped`` is still the one of a single number.

    >>> env = VectorReward(GridEnv("town", start=(4, 8)))
    >>> _ = env.reset(seed=0)
    >>> env.step(3)[1], env.reward_space.shape
    (array([0., 0., 1., 0., 0.]), (5,))
    """

    def __init__(self, env: gymnasium.Env) -> None:
        if not hasattr(env.unwrapped, "reward_space"):
            raise TypeError(f"VectorReward: the environment must have a reward_space, as GridEnv has; got {env}")
        super().__init__(env)
        self.reward_space = env.unwrapped.reward_space
        self.reward_dim = self.reward_space.shape[0]

    def step(self, action: int) -> tuple[Any, ndarray, bool, bool, dict[str, Any]]:
        """Move and return observation, features, terminated, truncated and ``info``."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, info["features"].copy(), terminated, truncated, info


def as_city(city: City | str | Path) -> City:
    """Return a City as it is, or that of a layout's name (with _ or spaces), a map's text or its path.

    >>> as_city("four_rooms"), as_city(".#.")
    (City('four rooms', 13 x 13, 148 states), City('city', 1 x 3, 2 states))
    """
    if isinstance(city, City):
        return city
    if isinstance(city, str) and city.replace(" ", "_") in LAYOUTS:
        return LAYOUTS[city.replace(" ", "_")]()
    if isinstance(city, str) and is_name(city):
        raise ValueError(f"Unknown layout {city!r}; layouts are {', '.join(LAYOUTS)}; else give a map or its path")
    return read_city(city)


def reward_parts(
    city: City, goal: str | tuple[int, int] | None, weights: ndarray | None, features: ndarray | None
) -> tuple[ndarray, ndarray]:
    """Return features (states, d) and weights (d,), or (agents, d), that make the reward; as :class:`GridEnv` says."""
    if goal is not None and (weights is not None or features is not None):
        raise ValueError("Give either a goal or weights and features, not both")
    if isinstance(goal, str):
        city.place(goal)
        return city.features(), np.array([float(name == goal) for name in city.places])
    if goal is not None:
        features = np.zeros((len(city), 1))
        features[_state(city, goal, "The goal must be a place or (row, col)")] = 1
        return features, np.ones(1)
    if features is None:
        if not city.places and weights is None:
            raise ValueError(f"The city {city.name!r} has no places; give a goal (row, col), or weights")
        if not city.places and len(city) > _MOST_CELLS:
            raise ValueError(
                f"The city {city.name!r} has no places and {len(city)} cells, too many for a feature each (at most "
                f"{_MOST_CELLS}); give a goal (row, col), features, or places"
            )
        features = city.features()
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or len(features) != len(city) or not np.isfinite(features).all():
        raise ValueError(f"features must be ({len(city)}, d) and finite; got {features.shape}")
    number = features.shape[1]
    weights = np.eye(number)[0] if weights is None else np.asarray(weights, dtype=float)
    if weights.ndim not in (1, 2) or weights.shape[-1] != number:
        raise ValueError(f"weights must be ({number},), one for each feature; got {weights.shape}")
    if not np.isfinite(weights).all():
        raise ValueError(f"weights, and so rewards, must be finite; got {weights.tolist()}")
    return features, weights


def reward_space(features: ndarray) -> Box:
    """Return the space of the features as a vector reward."""
    return Box(features.min(0), features.max(0), dtype=np.float64)


def start_states(city: City, start: str | int | tuple[int, int] | None) -> ndarray:
    """Return the states where an episode may start."""
    if start is None:
        return np.arange(len(city))
    if isinstance(start, str):
        return city.place(start)
    if isinstance(start, int | np.integer):
        if not 0 <= start < len(city):
            raise ValueError(f"start must be a state in 0..{len(city) - 1}; got {start}")
        return np.array([start])
    return np.array([_state(city, start, "start must be a place, a state or (row, col)")])


def _state(city: City, cell: tuple[int, int], rule: str) -> int:
    """Return the state of a cell (row, col), or say the rule that ``cell`` breaks."""
    if not isinstance(cell, Sequence | ndarray) or len(cell) != 2:
        raise ValueError(f"{rule}; got {cell!r}")
    return city.state(*cell)
