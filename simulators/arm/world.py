"""A PyBullet world with one arm in it: torques in, motion and pictures out."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, TracebackType

import numpy as np
from numpy import ndarray

from simulators.arm.drawing import make_visible
from simulators.arm.payload import Payload, nothing
from simulators.arm.rigid import mass_matrix
from simulators.arm.robot import Robot
from simulators.arm.urdf import Chain, about_com, with_inertials, with_payload

TIMESTEP = 1.0 / 1000.0
"""Of the simulation, s."""


class World:
    """A PyBullet server of its own with one arm in it, without a window; closed at the end of a ``with`` block.

    Without friction, q and qd at a step's start, (qd at its end - qd) / timestep and the torque applied satisfy the
    equations of motion of :mod:`simulators.arm.rigid` to rounding. Dry friction is a motor that wants to stand still,
    of limited strength: it sticks at rest, and opposes motion elsewhere with all its strength. Viscous friction is the
    joints' damping. Payload and link errors are written into the URDF. Every load starts from an empty world.

    Args:
        timestep: s.
    """

    def __init__(self, timestep: float = TIMESTEP) -> None:
        if not 0.0 < timestep <= 0.01:
            raise ValueError(f"World: timestep must be above 0 and at most .01 s; got {timestep}")
        self.timestep = timestep
        self._bullet = _pybullet()
        self._client = self._bullet.connect(self._bullet.DIRECT)

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server; closing twice is allowed."""
        if self._client >= 0:
            self._bullet.disconnect(physicsClientId=self._client)
        self._client = -1

    def load(
        self, robot: Robot, payload: Payload | None, q: ndarray, qd: ndarray | None = None, *, visible: bool = False
    ) -> None:
        """Empty the world and set the robot in it, holding the payload.

        Args:
            robot: the unit, with its true parameters and friction.
            payload: what it holds; nothing if None or of mass 0.
            q: (n,) at the start.
            qd: (n,) at the start; at rest if None.
            visible: whether it is to be drawn, which takes longer to load.

        Raises:
            ValueError: links whose inertia no body can have (PyBullet would replace it in silence), or none at all.
        """
        payload = nothing() if payload is None else payload
        _check_bodies(robot.chain, payload, q)
        qd = np.zeros(len(q)) if qd is None else np.asarray(qd, dtype=float)
        self._empty(robot.chain.gravity)
        bullet, to = self._bullet, {"physicsClientId": self._client}
        with tempfile.TemporaryDirectory() as folder, _silence():
            path = Path(folder) / "arm.urdf"
            path.write_text(_model(robot, payload, visible), "utf-8")
            flags = bullet.URDF_USE_INERTIA_FROM_FILE
            self._body = bullet.loadURDF(str(path), useFixedBase=True, flags=flags, **to)
        infos = [bullet.getJointInfo(self._body, row, **to) for row in range(bullet.getNumJoints(self._body, **to))]
        rows = {info[1].decode(): info[0] for info in infos}
        self._joints = [rows[name] for name in robot.chain.names]
        for link in range(-1, len(infos)):
            bullet.changeDynamics(self._body, link, linearDamping=0.0, angularDamping=0.0, **to)
        for row, at, speed in zip(self._joints, q, qd, strict=True):
            bullet.resetJointState(self._body, row, at, speed, **to)
        self._robot, self._speed = robot, qd
        self._rub(robot.coulomb)
        if visible:
            self._floor(robot.chain)

    def step(self, tau: ndarray) -> tuple[ndarray, ndarray]:
        """Apply joint torques (n,), Nm, for one time step and return q and qd, each (n,), after it."""
        bullet, robot = self._bullet, self._robot
        if robot.load_friction:
            self._rub(_dry_friction(robot, tau, self._speed))
        to = {"physicsClientId": self._client}
        bullet.setJointMotorControlArray(self._body, self._joints, bullet.TORQUE_CONTROL, forces=tau, **to)
        bullet.stepSimulation(**to)
        q, self._speed = self.state()
        return q, self._speed

    def state(self) -> tuple[ndarray, ndarray]:
        """Return q and qd, each (n,)."""
        states = self._bullet.getJointStates(self._body, self._joints, physicsClientId=self._client)
        return np.array([state[0] for state in states]), np.array([state[1] for state in states])

    def place(self, q: ndarray) -> None:
        """Set the joints at q (n,), at rest."""
        for row, at in zip(self._joints, q, strict=True):
            self._bullet.resetJointState(self._body, row, at, 0.0, physicsClientId=self._client)

    def picture(self, width: int = 320, height: int = 320) -> ndarray:
        """Return (height, width, 3), uint8, the arm as seen from beside and above."""
        bullet, to = self._bullet, {"physicsClientId": self._client}
        chain = self._robot.chain
        reach = float(np.linalg.norm(chain.translation, axis=1).sum())
        view = bullet.computeViewMatrixFromYawPitchRoll([0, 0, 0.5 * reach], 1.8 * reach, 50.0, -18.0, 0.0, 2)
        lens = bullet.computeProjectionMatrixFOV(50.0, width / height, 0.05 * reach, 10.0 * reach)
        light = {"lightDirection": [1.0, -1.0, 2.0], "shadow": 1}
        image = bullet.getCameraImage(width, height, view, lens, renderer=bullet.ER_TINY_RENDERER, **light, **to)
        return np.reshape(np.asarray(image[2], dtype=np.uint8), (height, width, 4))[..., :3].copy()

    def _empty(self, gravity: ndarray) -> None:
        """Remove all that is in the world (removing bodies one by one leaks memory)."""
        bullet, to = self._bullet, {"physicsClientId": self._client}
        bullet.resetSimulation(**to)
        # Without the first PyBullet reads a file of that name once and for all; with its own numbers for the others,
        # made for games, joints held by friction creep by half a milliradian a second.
        settings = {"enableFileCaching": 0, "numSolverIterations": 200, "solverResidualThreshold": 1e-12}
        bullet.setPhysicsEngineParameter(**settings, **to)
        bullet.setGravity(*gravity.tolist(), **to)
        bullet.setTimeStep(self.timestep, **to)

    def _floor(self, chain: Chain) -> None:
        """Draw a floor, of nothing that could be touched."""
        bullet, to = self._bullet, {"physicsClientId": self._client}
        half = 0.6 * float(np.linalg.norm(chain.translation, axis=1).sum())
        size = {"halfExtents": [half, half, 0.01], "rgbaColor": [0.86, 0.88, 0.9, 1.0]}
        shape = bullet.createVisualShape(bullet.GEOM_BOX, **size, **to)
        bullet.createMultiBody(0.0, baseVisualShapeIndex=shape, basePosition=[0, 0, -0.01], **to)

    def _rub(self, force: ndarray) -> None:
        """Set the joints' dry friction, (n,) Nm: motors that want to stand still, of so little strength."""
        self._bullet.setJointMotorControlArray(
            self._body,
            self._joints,
            self._bullet.VELOCITY_CONTROL,
            targetVelocities=np.zeros(len(force)),
            forces=force,
            physicsClientId=self._client,
        )


def _pybullet() -> ModuleType:
    """Return PyBullet, imported without the line that it prints."""
    try:
        with _silence():
            import pybullet
    except ImportError as error:
        raise ImportError(
            "the PyBullet backend needs the extra 'sim': pip install 'scimeta[sim]' (PyBullet's wheels end at "
            'CPython 3.11); backend="rigid" needs no PyBullet'
        ) from error
    return pybullet


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep from the terminal what C code prints to the process's own standard output and error."""
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if flush:
            flush(None)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        if flush:
            flush(None)
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)


def _check_bodies(chain: Chain, payload: Payload, q: ndarray) -> None:
    for name, phi in zip(chain.names, chain.inertial, strict=True):
        mass, _, inertia = about_com(phi)
        least, middle, most = np.linalg.eigvalsh(inertia)
        if mass < 0.0 or least < -1e-9 * most or least + middle < (1.0 - 1e-6) * most:
            raise ValueError(
                f"no body has the inertia of the link that joint {name!r} moves: principal moments "
                f"{least:.4g}, {middle:.4g}, {most:.4g} kg m^2, mass {mass:.4g} kg (each moment must be 0 or more and "
                "at most the sum of the other two); correct the robot's description"
            )
    if np.linalg.eigvalsh(mass_matrix(chain, q, payload))[0] < 1e-9:
        raise ValueError(
            "the links beyond some joint have neither mass nor inertia, so torques move them without limit"
        )


def _dry_friction(robot: Robot, tau: ndarray, qd: ndarray) -> ndarray:
    """Return the strengths (n,), Nm, of dry friction: coulomb + load_friction |r|, r being what moves the rigid bodies.

    r solves r = u - (coulomb + load_friction |r|) sign(qd) with u the torque applied less viscous friction.
    """
    moving = np.sign(qd)
    left = tau - robot.viscous * qd - robot.coulomb * moving
    load = left / (1.0 + robot.load_friction * moving * np.sign(left))
    return robot.coulomb + robot.load_friction * np.abs(load)


def _model(robot: Robot, payload: Payload, visible: bool) -> str:
    """Return the URDF of the true robot with its payload and viscous friction, without what could collide."""
    text = with_inertials(robot.urdf, robot.chain)
    if payload.mass > 0.0:
        text = with_payload(text, payload, robot.tip)
    root = ET.fromstring(text)
    viscous = dict(zip(robot.chain.names, robot.viscous, strict=True))
    for joint in root.findall("joint"):
        for old in [*joint.findall("dynamics"), *joint.findall("safety_controller")]:
            joint.remove(old)
        name = joint.get("name")
        if name in viscous:
            ET.SubElement(joint, "dynamics", damping=repr(float(viscous[name])), friction="0")
    for link in root.findall("link"):
        for shape in [*link.findall("collision"), *([] if visible else link.findall("visual"))]:
            link.remove(shape)
    if visible:
        make_visible(root, robot.chain)
    return ET.tostring(root, encoding="unicode")
