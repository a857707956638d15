"""The arm as a Gymnasium environment: track a movement by joint torques, with a payload that is not told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy import ndarray

from simulators.arm.movement import Movement, draw_movement
from simulators.arm.payload import Payload, draw_payloads
from simulators.arm.rigid import forward_kinematics
from simulators.arm.robot import Robot, nominal
from simulators.arm.world import TIMESTEP, World

_FLANGE = {"lbr_iiwa_link_7": 0.045, "panda_link7": 0.107}  # m along z from the tip's frame
_MARGIN = 0.5  # rad beyond the joint limits that can be observed: the stops give a little


class ArmEnv(gymnasium.Env):
    """Track a movement with an unknown payload; one episode is one period of the movement.

    Action: (n,) joint torques divided by ``torque``, each in [-1, 1], held for one step.
    Observation: (4 n,) float32: q, qd, and the reference's q and qd at the next step; rad, rad/s.
    Reward: -|tip - reference|^2, m^2. A joint faster than its speed limit ends the episode, as a real arm's safety
    stop would, and every step left is charged with the square of the arm's reach.
    ``info``: mass (kg) of the payload and error (m) of the tip.

    Args:
        robot: a Robot, or the name or path of one without errors.
        mass: lowest and highest payload, kg, drawn at every reset.
        movement: the reference; drawn at every reset if None.
        torque: (n,) of the action 1, Nm; the effort limits of the robot's description if None.
        rate: steps a second.
        render_mode: None or "rgb_array".
        size: width and height of pictures.

    ``reset(options={"payload": ..., "movement": ...})`` sets either instead of drawing it.

    Raises:
        ValueError: a rate that the time step of 1 ms cannot follow, limits that are not positive and finite, an
            unknown render mode or option.

    >>> import pytest
    >>> _ = pytest.importorskip("pybullet")
    >>> env = ArmEnv("iiwa")
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, round(info["mass"], 2)
    ((28,), 3.18)
    >>> env.close()
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 100}

    def __init__(
        self,
        robot: Robot | str | Path = "iiwa",
        mass: tuple[float, float] = (0.0, 5.0),
        movement: Movement | None = None,
        *,
        torque: ndarray | None = None,
        rate: int = 100,
        render_mode: str | None = None,
        size: tuple[int, int] = (320, 320),
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'ArmEnv: render_mode is None or "rgb_array"; got {render_mode!r}')
        if not 1 <= rate <= 1000 or round(1.0 / TIMESTEP) % rate:
            raise ValueError(f"ArmEnv: rate must divide {round(1.0 / TIMESTEP)}, the time steps a second; got {rate}")
        self.robot = robot if isinstance(robot, Robot) else nominal(robot)
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": rate}
        chain = self.robot.chain
        self._torque = (
            chain.effort if torque is None else np.broadcast_to(np.asarray(torque, float), chain.effort.shape)
        )
        if not (np.isfinite(self._torque) & (self._torque > 0.0)).all():
            raise ValueError(f"ArmEnv: torque must be (n,), positive and finite, Nm; got {self._torque.tolist()}")
        self._fastest = np.where(np.isfinite(chain.speed), chain.speed, 10.0)
        self._reach = float(np.linalg.norm(chain.translation, axis=1).sum())
        self._mass, self._fixed, self._rate, self._size = mass, movement, rate, size
        low = np.concatenate([chain.lower - _MARGIN, -self._fastest])
        high = np.concatenate([chain.upper + _MARGIN, self._fastest])
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, chain.effort.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(
            np.tile(low, 2).astype(np.float32), np.tile(high, 2).astype(np.float32)
        )
        self._world = World()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ndarray, dict[str, float]]:
        """Start an episode on the reference and return the observation and ``info``."""
        super().reset(seed=seed)
        options = {} if options is None else options
        unknown = set(options) - {"payload", "movement"}
        if unknown:
            raise ValueError(f"ArmEnv: unknown option {sorted(unknown)[0]!r}; options are 'payload' and 'movement'")
        payload, movement = options.get("payload"), options.get("movement", self._fixed)
        if payload is None:
            flange = _FLANGE.get(self.robot.tip, 0.0)
            payload = draw_payloads(1, self.np_random, self._mass, flange)[0]
        if movement is None:
            movement = draw_movement(self.robot.chain, self.np_random)
        self._start(payload, movement)
        return self._observe(), self._info()

    def step(self, action: ndarray) -> tuple[ndarray, float, bool, bool, dict[str, float]]:
        """Hold torques for one step and return observation, reward, terminated, truncated and ``info``."""
        tau = self._torque * np.clip(np.asarray(action, dtype=float), -1.0, 1.0)
        for _ in range(round(1.0 / TIMESTEP) // self._rate):
            self._q, self._qd = self._world.step(tau)
        self._step += 1
        left = len(self._tips) - 2 - self._step
        stopped = bool((np.abs(self._qd) > self._fastest).any())
        info = self._info()
        reward = -(info["error"] ** 2) - stopped * left * self._reach**2
        return self._observe(), reward, stopped, left <= 0, info

    def render(self) -> ndarray | None:
        """Return (height, width, 3), uint8, or None without a render mode."""
        return self._world.picture(*self._size) if self.render_mode else None

    def close(self) -> None:
        """End the PyBullet server."""
        self._world.close()

    def _start(self, payload: Payload, movement: Movement) -> None:
        """Set the arm on the movement's start, with the payload."""
        steps = max(round(movement.seconds * self._rate), 1)
        self._reference = movement.at(np.arange(steps + 2) / self._rate)[:2]
        self._tips = forward_kinematics(self.robot.chain, self._reference[0])
        self._payload, self._step = payload, 0
        self._q, self._qd = (x[0] for x in self._reference)
        self._world.load(self.robot, payload, self._q, self._qd, visible=self.render_mode is not None)

    def _observe(self) -> ndarray:
        ahead = (x[self._step + 1] for x in self._reference)
        values = np.concatenate([self._q, self._qd, *ahead]).astype(np.float32)
        return np.clip(values, self.observation_space.low, self.observation_space.high)

    def _info(self) -> dict[str, float]:
        error = np.linalg.norm(forward_kinematics(self.robot.chain, self._q) - self._tips[self._step])
        return {"mass": self._payload.mass, "error": float(error)}
