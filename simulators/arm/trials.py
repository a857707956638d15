"""Trials: a robot moves with a payload it does not know, and logs what it measures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy import ndarray

from simulators.arm.movement import Movement
from simulators.arm.payload import Payload, nothing
from simulators.arm.robot import Robot


@dataclass(frozen=True)
class Noise:
    """Standard deviations of independent Gaussian errors of a log's numbers.

    Attributes:
        torque: Nm.
        q: rad (m where prismatic).
        qd: rad/s.
        qdd: rad/s^2.
    """

    torque: float = 0.10
    q: float = 2e-5
    qd: float = 2e-3
    qdd: float = 0.05

    def __post_init__(self) -> None:
        for name in ("torque", "q", "qd", "qdd"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ValueError(f"Noise: {name} is a standard deviation, 0 or more; got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Trials:
    """Logs of many trials of one robot, and the truth about what it held.

    Attributes:
        t: (trials, samples) s.
        q: (trials, samples, n) measured positions, rad (m where prismatic).
        qd: (trials, samples, n) measured velocities, rad/s.
        qdd: (trials, samples, n) measured accelerations, rad/s^2.
        tau: (trials, samples, n) measured torques, Nm.
        payload: (trials, 10) true parameters, as ``Payload.parameters``.
        movements: one a trial.
    """

    t: ndarray
    q: ndarray
    qd: ndarray
    qdd: ndarray
    tau: ndarray
    payload: ndarray
    movements: tuple[Movement, ...]

    def __len__(self) -> int:
        return len(self.t)

    @property
    def mass(self) -> ndarray:
        """(trials,) true masses, kg."""
        return self.payload[:, 0]

    @property
    def com(self) -> ndarray:
        """(trials, 3) true centres of mass in the tip's frame, m; nan where nothing is held."""
        held = self.mass[:, None] > 0.0
        return np.divide(self.payload[:, 1:4], self.mass[:, None], out=np.full((len(self), 3), np.nan), where=held)

    def __getitem__(self, rows: slice | ndarray) -> Trials:
        """Return some of the trials: a slice, or an array of numbers or of booleans."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim != 1:
            raise TypeError(f"Trials: take several trials, such as [3:4] or [[1, 5]]; got [{rows}]")
        arrays = (x[chosen] for x in (self.t, self.q, self.qd, self.qdd, self.tau, self.payload))
        return Trials(*arrays, tuple(self.movements[i] for i in chosen))


def simulate(
    robot: Robot,
    payloads: Sequence[Payload | None],
    movements: Movement | Sequence[Movement],
    samples: int = 20,
    noise: Noise | None = None,
    seed: int = 0,
    backend: Literal["rigid", "bullet"] = "rigid",
    workers: int = 1,
) -> Trials:
    """Return the logs of one trial for each payload.

    The samples stand evenly over the movement's period, (k + u) / samples of it, with u uniform over [0, 1) and drawn
    anew for each trial; once for all where the movement is one and the same. A trial's noise comes from a generator
    of its own, so that the numbers depend neither on the number of trials nor on that of workers.

    Args:
        robot: the unit that moves.
        payloads: one a trial; None for an empty hand.
        movements: one a trial; or a single one, the fixed test movement of all trials.
        samples: in each log.
        noise: of the log; ``Noise()`` if None.
        seed: of all randomness.
        backend: "rigid" follows the movement exactly, by rigid-body dynamics in NumPy; "bullet" has a controller
            track it in PyBullet (the extra ``sim``).
        workers: processes, for "bullet".

    Raises:
        ValueError: numbers of payloads and movements that differ, a movement of another number of joints, no samples.

    >>> from simulators.arm import draw_movement, draw_payloads, nominal
    >>> rng, robot = np.random.default_rng(0), nominal("iiwa")
    >>> simulate(robot, draw_payloads(3, rng), draw_movement(robot.chain, rng)).tau.shape
    (3, 20, 7)
    """
    if samples < 1 or samples != int(samples):
        raise ValueError(f"simulate: samples must be a whole number, 1 or more; got {samples}")
    if backend not in ("rigid", "bullet"):
        raise ValueError(f'simulate: backend is "rigid" or "bullet"; got {backend!r}')
    if workers < 1 or workers != int(workers):
        raise ValueError(f"simulate: workers must be a whole number, 1 or more; got {workers}")
    payloads = [nothing() if payload is None else payload for payload in payloads]
    fixed = isinstance(movements, Movement)
    movements = [movements] * len(payloads) if fixed else list(movements)
    _check(robot, payloads, movements)
    noise = Noise() if noise is None else noise
    phases = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,))).random(len(payloads))
    phases = np.full_like(phases, 0.5) if fixed else phases
    seconds = np.array([movement.seconds for movement in movements])
    times = (np.arange(samples) + phases[:, None]) * (seconds / samples)[:, None]  # (trials, samples)
    if backend == "bullet":
        from simulators.arm.workers import run_trials

        logs = run_trials(robot, payloads, movements, times, noise, seed, workers)
    else:
        logs = _rigid(robot, payloads, movements, times, noise, seed)
    return Trials(*logs, np.stack([payload.parameters for payload in payloads]), tuple(movements))


def noise_rng(seed: int, trial: int) -> np.random.Generator:
    """Return the generator of one trial's noise; it depends on nothing but the seed and the trial's number."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(trial, 1)))


def noisy(
    q: ndarray, qd: ndarray, qdd: ndarray, tau: ndarray, noise: Noise, rng: np.random.Generator
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Return one trial's q, qd, qdd and tau, each (samples, n), as measured."""
    errors = rng.standard_normal((4, *np.shape(q)))
    sizes = (noise.q, noise.qd, noise.qdd, noise.torque)
    return tuple(x + size * error for x, size, error in zip((q, qd, qdd, tau), sizes, errors, strict=True))


def _check(robot: Robot, payloads: list[Payload], movements: list[Movement]) -> None:
    """Raise where payloads, movements and robot do not fit; warn of payloads above the rated load."""
    if not payloads:
        raise ValueError("simulate: give at least one payload (None for an empty hand)")
    if len(movements) != len(payloads):
        raise ValueError(f"simulate: {len(payloads)} payloads, {len(movements)} movements; give one each, or one alone")
    n = len(robot.chain.names)
    for i, (payload, movement) in enumerate(zip(payloads, movements, strict=True)):
        if not isinstance(payload, Payload) or not isinstance(movement, Movement):
            came = f"{type(payload).__name__} and a {type(movement).__name__}"
            raise TypeError(f"simulate: trial {i} has a {came}; expected Payload (or None) and Movement")
        if len(movement.offset) != n:
            raise ValueError(f"simulate: movement {i} is of {len(movement.offset)} joints, the robot has {n}")
    rated = robot.chain.rated_payload
    heavy = [i for i, payload in enumerate(payloads) if rated is not None and payload.mass > rated]
    if heavy:
        first = f"trial {heavy[0]}, {payloads[heavy[0]].mass:.3g} kg" + ", ..." * (len(heavy) > 1)
        verb = "is" if len(heavy) == 1 else "are"
        warnings.warn(
            f"{len(heavy)} of {len(payloads)} payloads {verb} above the rated load of {rated:g} kg: {first}; "
            "a real arm would stop or break",
            stacklevel=3,
        )


def _rigid(
    robot: Robot, payloads: list[Payload], movements: list[Movement], times: ndarray, noise: Noise, seed: int
) -> tuple[ndarray, ...]:
    """Return t, q, qd, qdd and tau of all trials at once, the movement followed exactly."""
    if all(movement is movements[0] for movement in movements):
        q, qd, qdd = movements[0].at(times)
    else:
        q, qd, qdd = (np.stack(x) for x in zip(*(m.at(t) for m, t in zip(movements, times, strict=True)), strict=True))
    held = np.stack([payload.parameters for payload in payloads])[:, None]  # (trials, 1, 10)
    tau = robot.torque(q, qd, qdd, held)
    logs = [noisy(*log, noise, noise_rng(seed, i)) for i, log in enumerate(zip(q, qd, qdd, tau, strict=True))]
    return (times, *(np.stack(x) for x in zip(*logs, strict=True)))
