"""Trials of the arm in PyBullet: a controller tracks a movement, a log and a tracking error come back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy import ndarray

from simulators.arm.movement import Movement
from simulators.arm.payload import Payload
from simulators.arm.rigid import forward_kinematics, inverse_dynamics, mass_matrix
from simulators.arm.robot import Robot
from simulators.arm.urdf import Chain, read_chain
from simulators.arm.world import TIMESTEP, World

if TYPE_CHECKING:
    from simulators.arm.trials import Noise

Controller = Callable[[float, ndarray, ndarray], ndarray]
"""(time s, q (n,), qd (n,)) -> joint torques (n,), Nm."""

_EVERY = 10  # time steps for which one damping matrix holds


class Log(NamedTuple):
    """What one trial measured.

    Attributes:
        t: (samples,) s.
        q: (samples, n) rad (m where prismatic).
        qd: (samples, n) rad/s.
        qdd: (samples, n) rad/s^2.
        tau: (samples, n) Nm.
    """

    t: ndarray
    q: ndarray
    qd: ndarray
    qdd: ndarray
    tau: ndarray


@dataclass(frozen=True, eq=False)
class Track:
    """How well a controller tracked a movement.

    Attributes:
        log: without noise, at every time step.
        tip: (steps, 3) where the tip was, m.
        reference: (steps, 3) where it should have been, m.
    """

    log: Log
    tip: ndarray
    reference: ndarray

    @property
    def rmse(self) -> float:
        """Root mean square distance of the tip from where it should have been, m."""
        return float(np.sqrt(((self.tip - self.reference) ** 2).sum(-1).mean()))

    def __str__(self) -> str:
        return f"tip off by {1e3 * self.rmse:.1f} mm (root mean square of {len(self.tip)} steps)"


def run(
    robot: Robot,
    payload: Payload | None,
    movement: Movement,
    times: ndarray,
    noise: Noise,
    rng: np.random.Generator,
    *,
    controller: Controller | None = None,
    timestep: float = TIMESTEP,
) -> Log:
    """Return one trial's log at the time steps nearest to ``times``.

    qdd is (qd of the next step - qd) / timestep: without noise, friction and sensor errors the log satisfies the
    equations of motion at q, qd to rounding.

    Args:
        robot: the unit that moves.
        payload: what it holds; nothing if None.
        movement: to be tracked, from t = 0 on.
        times: (samples,) s, rising, not negative.
        noise: of the log; the controller knows the true motion.
        rng: source of the noise.
        controller: (t, q, qd) -> torques; if None a stiff ``pd`` of the nominal robot, which knows neither payload nor
            errors.
        timestep: s.

    Raises:
        ValueError: times that fall or are negative, a controller whose torques are not (n,) finite numbers.
    """
    from simulators.arm.trials import noisy

    times = np.asarray(times, dtype=float)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or (np.diff(times, prepend=0.0) < 0.0).any():
        raise ValueError("run: times must be (samples,), s, rising from 0 or later")
    if controller is None:
        controller = pd(read_chain(robot.urdf, robot.tip), movement, stiffness=10.0, timestep=timestep)
    steps = np.rint(times / timestep).astype(int)
    log = _simulate(robot, payload, movement, controller, int(steps[-1]) + 1, timestep)
    q, qd, qdd, tau = (x[steps] for x in log[1:])
    return Log(log.t[steps], *noisy(q, qd, qdd, robot.gain * tau + robot.offset, noise, rng))


def track(
    robot: Robot,
    payload: Payload | None,
    movement: Movement,
    controller: Controller | None = None,
    *,
    seconds: float | None = None,
    timestep: float = TIMESTEP,
) -> Track:
    """Return how well a controller tracks a movement with this payload.

    Args:
        robot, payload, movement, timestep: as :func:`run`.
        controller: (t, q, qd) -> torques; ``pd`` of the nominal robot if None.
        seconds: for how long; one period of the movement if None.

    Raises:
        ValueError: as :func:`run`.
    """
    if controller is None:
        controller = pd(read_chain(robot.urdf, robot.tip), movement, timestep=timestep)
    steps = int(np.rint((movement.seconds if seconds is None else seconds) / timestep))
    log = _simulate(robot, payload, movement, controller, steps, timestep)
    tips = (forward_kinematics(robot.chain, q) for q in (log.q, movement.at(log.t)[0]))
    return Track(log, *tips)


def render(robot: Robot, payload: Payload | None, q: ndarray, width: int = 320, height: int = 320) -> ndarray:
    """Return (frames, height, width, 3), uint8, pictures of the arm and its payload at positions q (frames, n).

    The shapes are those of the robot's URDF; for the iiwa and the Panda those that come with PyBullet; else balls
    and rods. The payload is a red box of its moments of inertia.
    """
    q = np.atleast_2d(np.asarray(q, dtype=float))
    frames = np.empty((len(q), height, width, 3), dtype=np.uint8)
    with World() as world:
        world.load(robot, payload, q[0], visible=True)
        for frame, at in zip(frames, q, strict=True):
            world.place(at)
            frame[:] = world.picture(width, height)
    return frames


def pd(
    chain: Chain,
    movement: Movement,
    payload: Payload | ndarray | None = None,
    *,
    stiffness: float = 1.0,
    feed_forward: Literal["dynamics", "gravity"] = "dynamics",
    timestep: float = TIMESTEP,
) -> Controller:
    """Return a controller: a model's torques along the movement, a spring and a damper towards it.

    tau = model(q_r, qd_r, qdd_r) + K (q_r - q) + D (qd_r - qd)

    K is diagonal: 500 N/m times the square of the length beyond the joint and .1 m, and 25 Nm/rad (5000 N/m where
    prismatic). D = 2 A sqrt(S) A' damps all modes of the empty arm critically, with M(q_r) = A A', K = A S A'. A
    diagonal D of that size would chatter where the arm is stretched and little inertia is left about its axis.

    Args:
        chain: the model; of the nominal robot, unless one knows better.
        movement: the reference.
        payload: what the model holds; nothing if None.
        stiffness: factor of K. At 1 an unknown payload of 1, 3 and 5 kg puts the iiwa's tip off by about 18, 54 and
            90 mm; an arm in position mode is some ten times as stiff.
        feed_forward: "dynamics", or "gravity" for the model at rest at q_r.
        timestep: at which the model is tabulated, s.

    Raises:
        ValueError: a stiffness that is not positive, an unknown kind of feed-forward.
    Reference: Albu-Schäffer, Ott, Frese, Hirzinger, IEEE ICRA 2003, 3704 (the damping matrix).
    """
    if not 0.0 < stiffness < np.inf:
        raise ValueError(f"pd: stiffness must be positive; got {stiffness}")
    if feed_forward not in ("dynamics", "gravity"):
        raise ValueError(f'pd: feed_forward is "dynamics" or "gravity"; got {feed_forward!r}')
    count = max(round(movement.seconds / timestep), 1)
    q, qd, qdd = movement.at(np.arange(count) * timestep)
    still = float(feed_forward == "dynamics")
    model = inverse_dynamics(chain, q, still * qd, still * qdd, payload)  # (count, n)
    inertia = mass_matrix(chain, q[::_EVERY]) + 1e-6 * np.eye(len(chain.names))  # (count / _EVERY, n, n)
    spring, armature = _spring(chain, inertia, stiffness, timestep)
    damper = _damper(inertia + np.diag(armature), spring)

    def controller(t: float, at: ndarray, speed: ndarray) -> ndarray:
        row = round(t / timestep) % count
        return model[row] + spring * (q[row] - at) + damper[row // _EVERY] @ (qd[row] - speed)

    return controller


def _spring(chain: Chain, inertia: ndarray, stiffness: float, timestep: float) -> tuple[ndarray, ndarray]:
    """Return K and the inertia to be added for the damper's sake, each (n,); inertia is (instants, n, n).

    A payload makes a wrist many times heavier, so the empty wrist is damped as if it were heavier than it is. Both
    are kept so low that the least inertia about a joint, the others being free, stays stable at the time step.
    """
    lengths = np.linalg.norm(chain.translation, axis=1)
    beyond = 0.1 + np.append(np.cumsum(lengths[:0:-1])[::-1], 0.0)  # (n,) m
    least = 1.0 / np.linalg.inv(inertia).diagonal(axis1=1, axis2=2).max(0)
    spring = stiffness * np.where(chain.prismatic, 5000.0, 500.0 * beyond**2 + 25.0)
    spring = np.minimum(spring, 0.2 * least / timestep**2)
    return spring, np.minimum(0.01, (least / (2.0 * timestep)) ** 2 / spring)


def _damper(mass: ndarray, spring: ndarray) -> ndarray:
    """Return the critical damping (..., n, n) of inertias (..., n, n) on springs (n,)."""
    root = np.linalg.cholesky(mass)
    inverse = np.linalg.inv(root)
    squares, modes = np.linalg.eigh(inverse * spring @ inverse.swapaxes(-1, -2))
    shape = root @ modes
    return 2.0 * (shape * np.sqrt(squares)[..., None, :]) @ shape.swapaxes(-1, -2)


def _simulate(
    robot: Robot,
    payload: Payload | None,
    movement: Movement,
    controller: Controller,
    steps: int,
    timestep: float,
) -> Log:
    """Return the log of every time step, without noise or sensor errors."""
    n = len(robot.chain.names)
    if len(movement.offset) != n:
        raise ValueError(f"the movement is of {len(movement.offset)} joints, the robot has {n}")
    q, qd = np.empty((2, steps + 1, n))
    tau = np.empty((steps, n))
    q[0], qd[0], _ = movement.at(0.0)
    with World(timestep) as world:
        world.load(robot, payload, q[0], qd[0])
        for k in range(steps):
            wanted = np.asarray(controller(k * timestep, q[k], qd[k]), dtype=float)
            if wanted.shape != (n,) or not np.isfinite(wanted).all():
                raise ValueError(f"the controller must give {n} finite torques; at t = {k * timestep:g} s got {wanted}")
            tau[k] = np.clip(wanted, -robot.chain.effort, robot.chain.effort)
            q[k + 1], qd[k + 1] = world.step(tau[k])
    _check(robot.chain, q)
    return Log(np.arange(steps) * timestep, q[:-1], qd[:-1], np.diff(qd, axis=0) / timestep, tau)


def _check(chain: Chain, q: ndarray) -> None:
    """Warn where a joint ran into its limit: there its stop, which no model knows, holds part of the load."""
    beyond = (q < chain.lower) | (q > chain.upper)
    if beyond.any():
        names = ", ".join(name for name, out in zip(chain.names, np.any(beyond, axis=0), strict=True) if out)
        warnings.warn(f"joints ran into their limits ({names}), whose stops take part of the torque", stacklevel=4)
