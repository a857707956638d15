"""Reads the serial arm of a URDF file: where its joints sit, what its links weigh, how far it reaches."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, fromstring

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scimeta.domains.arm.dynamics import GRAVITY, Chain

_NEAR = 0.01  # share by which a gravity may differ from 9.81 m/s^2; on Earth it is 9.76 to 9.83
_LIGHTEST = 0.01  # kg; the moving links of an arm weigh more, together
_MOVING = ("revolute", "continuous", "prismatic")
# xx, xy, xz, yy, yz, zz of a symmetric matrix.
_UPPER = np.triu_indices(3)


@dataclass(frozen=True)
class Arm:
    """The nominal arm, as its maker describes it.

    Attributes:
        chain: geometry and inertial parameters, for the functions of `dynamics`.
        joints: names of the n moving joints, from the base.
        tip: the link that carries the payload; its frame is the frame of the payload's centre of mass.
        lower, upper: (n,) limits of the joints, rad (m where prismatic); infinite where the file names none.
        effort: (n,) largest torques, Nm; infinite where the file names none.
    """

    chain: Chain
    joints: tuple[str, ...]
    tip: str
    lower: Tensor
    upper: Tensor
    effort: Tensor


def read_urdf(path: str | PathLike[str], tip: str | None = None, gravity: ArrayLike | None = None) -> Arm:
    """The arm of a URDF file, from its base to `tip`, in float64.

    Links behind fixed joints are lumped with the link that carries them. Joints off the way from base to tip (fingers)
    and joints that mimic others are held at zero.

    Args:
        path: the file, as URDF; xacro must be expanded first.
        tip: name of the last link; by default the arm goes on until it forks into several that move (fingers). A name
            behind fixed joints stands for the moving link that carries it.
        gravity: (3,) m/s^2, the acceleration of free fall in the axes of the URDF's base: [0, 0, -9.81] by default,
            [0, 0, 9.81] for an arm hung from a ceiling.
    Raises: FileNotFoundError; ValueError if the file is no URDF, `tip` is unknown, no joint on the way moves, the links
        that move have no masses, or gravity is not that of the Earth.
    Warns: UserWarning that names moving links without a mass where others have one.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"read_urdf: there is no file {str(path)!r}; pass the path of a URDF file")
    try:
        robot = fromstring(file.read_text(encoding="utf-8"))
    except (ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"read_urdf: {file.name} is not XML ({error}); pass a URDF file") from None
    if robot.tag != "robot":
        raise ValueError(
            f"read_urdf: {file.name} holds <{robot.tag}>, expected <robot>; pass a URDF, not an SDF or MJCF"
        )
    branch = _branch(robot, tip, file.name)
    moving = [joint for joint in branch if _moves(joint)]
    if not any(map(_moves, robot.findall("joint"))):
        raise ValueError(f"read_urdf: every joint of {file.name} is fixed, so nothing could move")
    if not moving:
        raise ValueError(f"read_urdf: no joint of {file.name} on the way to {tip or 'where it forks'} moves; pass tip=")
    arm = _arm(robot, branch, moving)
    _check_masses(arm.chain, [_link_of(joint, "child") for joint in moving], file.name)
    return arm if gravity is None else replace(arm, chain=arm.chain._replace(gravity=checked_gravity(gravity)))


def checked_gravity(gravity: ArrayLike) -> Tensor:
    """Return (3,) the acceleration of free fall in the base's axes, m/s^2.

    Raises: ValueError unless it is three finite numbers, together of the length 9.81 to 1 %.
    """
    try:
        values = np.asarray(gravity, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    down = f"write where free fall points in the base's axes, in m/s^2: [0, 0, -{GRAVITY}] for an upright arm"
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"gravity must be three finite numbers, got {gravity!r}; {down}")
    length = float(np.linalg.norm(values))
    if length == 0:
        raise ValueError(f"gravity must not be zero; if it was subtracted from the torques, record them whole; {down}")
    if abs(length / GRAVITY - 1) > _NEAR:
        raise ValueError(
            f"gravity must be {GRAVITY} m/s^2 long, to 1 %; {values.tolist()} is {length:.4g} long; {down}"
        )
    return _tensor(values)


def _check_masses(chain: Chain, links: list[str], name: str) -> None:
    """Raise where the moving links weigh nothing, warn where some do not."""
    mass = chain.inertial[:, 0]
    give = "give each link that moves an <inertial> with its mass, centre of mass and inertia, as the maker states them"
    if mass.sum() < _LIGHTEST:
        raise ValueError(
            f"read_urdf: the moving links of {name} ({', '.join(links)}) weigh {mass.sum().item():.3g} kg together, so "
            f"no torque can be told from them; {give}"
        )
    bare = [link for link, own in zip(links, mass.tolist(), strict=True) if own == 0]
    if bare:
        warnings.warn(f"read_urdf: {', '.join(bare)} of {name} move and have no mass; {give}", stacklevel=3)


def _arm(robot: Element, branch: list[Element], moving: list[Element]) -> Arm:
    poses, axes, inertial = [], [], []
    pose = np.eye(4)
    for joint in branch:
        pose = pose @ _pose(joint)
        if _moves(joint):
            poses.append(pose)
            axes.append(_axis(joint))
            inertial.append(_lumped(robot, _link_of(joint, "child"), np.eye(4), set(branch)))
            pose = np.eye(4)
    limits = [None if joint.get("type") == "continuous" else joint.find("limit") for joint in moving]
    efforts = [joint.find("limit") for joint in moving]
    return Arm(
        Chain(
            _tensor([pose[:3, :3] for pose in poses]),
            _tensor([pose[:3, 3] for pose in poses]),
            _tensor(axes),
            _tensor([float(joint.get("type") == "prismatic") for joint in moving]),
            _tensor(inertial),
        ),
        tuple(joint.get("name", "") for joint in moving),
        _link_of(moving[-1], "child"),
        _tensor([_limit(limit, "lower", -math.inf) for limit in limits]),
        _tensor([_limit(limit, "upper", math.inf) for limit in limits]),
        _tensor([_limit(limit, "effort", math.inf) for limit in efforts]),
    )


def _branch(robot: Element, tip: str | None, name: str) -> list[Element]:
    """Joints from the base to the tip, or to the link where the arm forks."""
    links = [link.get("name", "") for link in robot.findall("link")]
    above = _tree(robot, name)
    if tip is not None:
        if tip not in links:
            raise ValueError(f"read_urdf: {name} has no link {tip!r}; it has {', '.join(links)}")
        steps: list[Element] = []
        while tip in above:
            steps.append(above[tip])
            tip = _link_of(above[tip], "parent")
        return steps[::-1]

    def moves_beyond(joint: Element) -> bool:  # fingers that mimic others count here
        return joint.get("type") in _MOVING or any(map(moves_beyond, _joints_of(robot, _link_of(joint, "child"))))

    steps, onwards = [], [joint for link in links if link not in above for joint in _joints_of(robot, link)]
    while len(onwards := [joint for joint in onwards if moves_beyond(joint)]) == 1:
        steps += onwards
        onwards = _joints_of(robot, _link_of(onwards[0], "child"))
    return steps


def _tree(robot: Element, name: str) -> dict[str, Element]:
    """The joint that each link hangs on; refuses what is no tree."""
    above: dict[str, Element] = {}
    for joint in robot.findall("joint"):
        link = _link_of(joint, "child")
        if link in above:
            raise ValueError(f"read_urdf: link {link!r} of {name} hangs on two joints; a URDF is a tree")
        above[link] = joint
    for link in above:
        count = 0
        while link in above:
            link, count = _link_of(above[link], "parent"), count + 1
            if count > len(above):
                raise ValueError(f"read_urdf: the joints of {name} form a ring; a URDF is a tree")
    return above


def _lumped(robot: Element, link: str, pose: NDArray[np.float64], branch: set[Element]) -> NDArray[np.float64]:
    """(10,) inertial parameters of a link and all that is held fast to it, about the frame that `pose` leads from."""
    total = np.zeros(10)
    for element in robot.findall("link"):
        if element.get("name") == link and (inertial := element.find("inertial")) is not None:
            total += _parameters(inertial, pose, link)
    for joint in _joints_of(robot, link):
        if not (joint in branch and _moves(joint)):
            total += _lumped(robot, _link_of(joint, "child"), pose @ _pose(joint), branch)
    return total


def _parameters(inertial: Element, pose: NDArray[np.float64], link: str) -> NDArray[np.float64]:
    mass = _number(inertial.find("mass"), "value")
    if mass < 0:
        raise ValueError(f"read_urdf: the mass of link {link!r} is {mass:g} kg; it must be 0 or more")
    placed = pose @ _pose(inertial)
    rotation, com = placed[:3, :3], placed[:3, 3]
    moments = np.zeros((3, 3))
    if (element := inertial.find("inertia")) is not None:
        moments[_UPPER] = [_number(element, "i" + name) for name in ("xx", "xy", "xz", "yy", "yz", "zz")]
        moments = moments + np.triu(moments, 1).T
    # Steiner: about the frame's origin instead of the centre of mass.
    about = rotation @ moments @ rotation.T + mass * (com @ com * np.eye(3) - np.outer(com, com))
    return np.concatenate(([mass], mass * com, about[_UPPER]))


def _pose(element: Element) -> NDArray[np.float64]:
    pose = np.eye(4)
    if (origin := element.find("origin")) is not None:
        pose[:3, 3] = _numbers(origin.get("xyz", "0 0 0"))
        roll, pitch, yaw = _numbers(origin.get("rpy", "0 0 0"))
        cos, sin = np.cos, np.sin
        about_x = np.array([[1, 0, 0], [0, cos(roll), -sin(roll)], [0, sin(roll), cos(roll)]])
        about_y = np.array([[cos(pitch), 0, sin(pitch)], [0, 1, 0], [-sin(pitch), 0, cos(pitch)]])
        about_z = np.array([[cos(yaw), -sin(yaw), 0], [sin(yaw), cos(yaw), 0], [0, 0, 1]])
        pose[:3, :3] = about_z @ about_y @ about_x
    return pose


def _axis(joint: Element) -> NDArray[np.float64]:
    element = joint.find("axis")
    axis = _numbers("1 0 0" if element is None else element.get("xyz", "1 0 0"))
    length = np.linalg.norm(axis)
    if not length > 0:
        raise ValueError(f"read_urdf: joint {joint.get('name')!r} has the axis {axis.tolist()}; it needs a direction")
    return axis / length


def _moves(joint: Element) -> bool:
    return joint.get("type") in _MOVING and joint.find("mimic") is None


def _link_of(joint: Element, role: str) -> str:
    element = joint.find(role)
    if element is None or not element.get("link"):
        raise ValueError(f"read_urdf: joint {joint.get('name')!r} names no {role} link")
    return element.get("link", "")


def _joints_of(robot: Element, link: str) -> list[Element]:
    return [joint for joint in robot.findall("joint") if _link_of(joint, "parent") == link]


def _limit(limit: Element | None, name: str, default: float) -> float:
    return default if limit is None or limit.get(name) is None else _number(limit, name)


def _number(element: Element | None, name: str) -> float:
    text = None if element is None else element.get(name)
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"read_urdf: {name}={text!r} is not a number; expand xacro before reading")
    return value


def _numbers(text: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(part) for part in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"read_urdf: expected three numbers, got {text!r}; expand xacro before reading")
    return values


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float64))
