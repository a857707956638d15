"""One physical robot: a nominal description, and the errors and friction that nobody told the model."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from simulators.arm.payload import Payload, about_com, parameters
from simulators.arm.rigid import inverse_dynamics
from simulators.arm.urdf import Chain, read_chain, urdf

_COULOMB = (0.55, 0.87, 0.64, 1.28, 0.84, 0.30, 0.56)  # Nm
_VISCOUS = (0.6, 0.6, 0.4, 0.4, 0.2, 0.15, 0.1)  # Nm s/rad
_LIGHTEST = 0.01  # kg; the moving links of an arm weigh more, together
STICTION_SPEED = 0.02
"""rad/s over which Coulomb friction rises: it is proportional to tanh(qd / .02)."""


@dataclass(frozen=True, eq=False)
class Robot:
    """One physical unit. Measured torque = gain (rigid bodies + friction) + offset + noise, joint by joint.

    Friction = (coulomb + load_friction |rigid bodies|) tanh(qd / .02) + viscous qd.

    Attributes:
        urdf: text of the nominal description, which a user would have.
        tip: name of the link that holds the payload.
        chain: with the TRUE inertial parameters.
        coulomb: (n,) Nm.
        viscous: (n,) Nm s/rad.
        load_friction: share of the rigid-body torque's magnitude.
        gain: (n,) of the torque sensors, 1 when right.
        offset: (n,) of the torque sensors, Nm.
    """

    urdf: str
    tip: str
    chain: Chain
    coulomb: ndarray
    viscous: ndarray
    load_friction: float
    gain: ndarray
    offset: ndarray

    def friction(self, qd: ndarray, load: ndarray) -> ndarray:
        """Return friction torques (..., n), Nm, at velocities qd under rigid-body torques ``load``, both (..., n)."""
        dry = self.coulomb + self.load_friction * np.abs(load)
        return dry * np.tanh(qd / STICTION_SPEED) + self.viscous * qd

    def torque(self, q: ndarray, qd: ndarray, qdd: ndarray, payload: Payload | ndarray | None = None) -> ndarray:
        """Return (..., n), what the torque sensors read without noise, Nm; arguments as ``inverse_dynamics``."""
        load = inverse_dynamics(self.chain, q, qd, qdd, payload)
        return self.gain * (load + self.friction(np.asarray(qd, dtype=float), load)) + self.offset


def nominal(name: str | Path, tip: str | None = None) -> Robot:
    """Return the robot as described: no friction, no errors.

    Args:
        name: of a shipped robot ("iiwa", "panda"), or the path of a URDF. Its meshes are looked for beside it; those
            that are not there are left out.
        tip: as :func:`simulators.arm.urdf.read_chain`.

    Raises:
        FileNotFoundError, ValueError: as :func:`simulators.arm.urdf.read_chain`; moving links without masses.

    >>> nominal("panda").chain.rated_payload
    3.0
    """
    path = urdf(name)
    chain = read_chain(path, tip)
    if chain.inertial[:, 0].sum() < _LIGHTEST:
        raise ValueError(
            f"the moving links of {path.name} weigh {chain.inertial[:, 0].sum():.3g} kg together; give each an "
            "<inertial> with its mass, centre of mass and inertia, as the maker states them"
        )
    zeros = np.zeros(len(chain.names))
    return Robot(_with_meshes(path), chain.tip, chain, zeros, zeros, 0.0, zeros + 1.0, zeros)


def draw_robot(
    name: str | Path,
    rng: np.random.Generator,
    link_error: float = 0.05,
    com_error: float = 0.010,
    friction: bool = True,
    gain: float = 0.0,
    offset: float = 0.0,
    load_friction: float = 0.0,
    tip: str | None = None,
) -> Robot:
    """Return one unit of a robot, its link parameters, friction and sensors off the description.

    Each moving link's mass, and its inertia about the centre of mass, are multiplied by a factor of their own,
    1 + link_error N(0, 1), not below .1: a common factor for the whole inertia keeps it one that a body can have.

    Friction is that of the benchmark's iiwa: for robots with another number of joints the constants are interpolated
    along the chain, and nowhere is Coulomb friction above 5 % of the joint's effort limit (viscous in proportion).

    Args:
        name: as :func:`nominal`.
        rng: source of randomness; the same draws are made whatever the sizes of the errors.
        link_error: standard deviation of the relative errors of mass and inertia.
        com_error: standard deviation of each coordinate of the links' centres of mass, m.
        friction: whether there is Coulomb and viscous friction.
        gain: standard deviation of the torque sensors' gain about 1.
        offset: standard deviation of the torque sensors' offset, Nm.
        load_friction: Coulomb friction per rigid-body torque.
        tip: as :func:`nominal`.

    Raises:
        ValueError: a negative error; as :func:`nominal`.

    >>> robot = draw_robot("iiwa", np.random.default_rng(0))
    >>> robot.chain.inertial[:2, 0].round(2).tolist()
    [4.03, 4.07]
    """
    for key, size in (("link_error", link_error), ("com_error", com_error), ("gain", gain), ("offset", offset)):
        if not 0.0 <= size < np.inf:
            raise ValueError(f"draw_robot: {key} is a standard deviation, 0 or more; got {size}")
    if not 0.0 <= load_friction < np.inf:
        raise ValueError(f"draw_robot: load_friction must be 0 or more; got {load_friction}")
    base = nominal(name, tip)
    n = len(base.chain.names)
    links = np.stack([_off(phi, link_error, com_error, rng) for phi in base.chain.inertial])
    gains, offsets = rng.standard_normal((2, n))
    coulomb, viscous = _friction(base.chain) if friction else (np.zeros(n), np.zeros(n))
    return dataclasses.replace(
        base,
        chain=dataclasses.replace(base.chain, inertial=links),
        coulomb=coulomb,
        viscous=viscous,
        load_friction=float(load_friction),
        gain=1.0 + gain * gains,
        offset=offset * offsets,
    )


def scenario(name: str, rng: np.random.Generator, robot: str | Path = "iiwa") -> Robot:
    """Return one unit drawn for a scenario of the benchmark.

    Args:
        name: "S1": link errors of 5 % and 10 mm, and friction; "S3": besides, 2 % in the torque sensors' gain and 5 %
            of the load in friction.
        rng: source of randomness.
        robot: as :func:`nominal`.

    Raises:
        ValueError: an unknown scenario.
    """
    if name not in ("S1", "S3"):
        raise ValueError(f"Unknown scenario {name!r}; it is 'S1' or 'S3'")
    if name == "S1":
        return draw_robot(robot, rng)
    return draw_robot(robot, rng, gain=0.02, load_friction=0.05)


def _off(phi: ndarray, link_error: float, com_error: float, rng: np.random.Generator) -> ndarray:
    """Return a link's (10,) parameters with errors drawn."""
    mass, com, inertia = about_com(phi)
    heavier, stiffer = np.maximum(1.0 + link_error * rng.standard_normal(2), 0.1)
    return parameters(mass * heavier, com + com_error * rng.standard_normal(3), inertia * stiffer)


def _friction(chain: Chain) -> tuple[ndarray, ndarray]:
    """Return Coulomb and viscous constants, each (n,)."""
    along, given = np.linspace(0.0, 1.0, len(chain.names)), np.linspace(0.0, 1.0, len(_COULOMB))
    coulomb, viscous = np.interp(along, given, _COULOMB), np.interp(along, given, _VISCOUS)
    share = np.minimum(1.0, 0.05 * chain.effort / coulomb)
    return coulomb * share, viscous * share


def _with_meshes(path: Path) -> str:
    """Return the URDF's text with mesh files by their absolute paths, without shapes whose mesh is not there."""
    text = path.read_text("utf-8")
    if "<mesh" not in text:
        return text
    robot = ET.fromstring(text.lstrip())
    for link in robot.findall("link"):
        for shape in [*link.findall("visual"), *link.findall("collision")]:
            for mesh in shape.iter("mesh"):
                file = path.parent / mesh.get("filename", "").removeprefix("package://")
                mesh.set("filename", str(file.resolve()))
                if not file.is_file():
                    link.remove(shape)
                    break
    return ET.tostring(robot, encoding="unicode")
