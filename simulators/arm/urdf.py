"""Robot descriptions (URDF): the serial chain that one of them holds, and texts changed for the physics engine."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy import ndarray

from simulators.arm.payload import Payload, about_com, parameters

_SHIPPED = ("iiwa", "panda")
_RATED = {"lbr_iiwa": 14.0, "panda": 3.0}  # kg; the iiwa's link lengths are those of the LBR iiwa 14 R820
GRAVITY = np.array([0.0, 0.0, -9.81])
"""(3,) m/s^2 in the base's frame of an upright arm."""
_MOVABLE = ("revolute", "continuous", "prismatic")


@dataclass(frozen=True, eq=False)
class Chain:
    """The n movable joints from a robot's base to its tip; all other joints are frozen at zero, their links lumped.

    Attributes:
        names: (n,) of the joints.
        tip: name of the last moving link, which holds the payload.
        rotation: (n, 3, 3) axes of joint i's frame at q = 0, in the frame of moving link i - 1 (first: of the base).
        translation: (n, 3) origin of joint i's frame at q = 0, in the same frame, m.
        axis: (n, 3) unit axes in the joints' own frames.
        prismatic: (n,) whether q is a length.
        lower: (n,) rad (m where prismatic); -pi for a continuous joint.
        upper: (n,) likewise.
        speed: (n,) rad/s; inf where the file gives none.
        effort: (n,) Nm (N where prismatic); inf where the file gives none.
        inertial: (n, 10) parameters of the moving links about their frames' origins, as ``payload.parameters``.
        rated_payload: kg; None where it is not known.
        gravity: (3,) acceleration of free fall in the base's frame, m/s^2; upright by default.
    """

    names: tuple[str, ...]
    tip: str
    rotation: ndarray
    translation: ndarray
    axis: ndarray
    prismatic: ndarray
    lower: ndarray
    upper: ndarray
    speed: ndarray
    effort: ndarray
    inertial: ndarray
    rated_payload: float | None
    gravity: ndarray = field(default_factory=GRAVITY.copy)


def urdf(name: str | Path) -> Path:
    """Return the path of a robot description: of a shipped one by name ("iiwa", "panda"), or the user's own.

    Raises:
        FileNotFoundError: neither a shipped name nor a file.

    >>> urdf("iiwa").name
    'iiwa.urdf'
    """
    if str(name) in _SHIPPED:
        return Path(__file__).with_name(f"{name}.urdf")
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"No robot description at {path}; give a URDF file or one of {', '.join(_SHIPPED)}")
    return path


def read_chain(source: str | Path, tip: str | None = None) -> Chain:
    """Return the serial chain of a URDF from its base to the tip.

    Joints that mimic others, and all joints off the way to the tip, are frozen at zero. Links without <inertial> have
    no mass.

    Args:
        source: path, name of a shipped robot, or the URDF's text.
        tip: name of the link that holds the payload, or of one fixed to it (payloads are given in the frame of the
            moving link); if None, the last one, where at each fork the branch with most movable joints is followed
            and the chain ends where several have the most (the fingers of a gripper).

    Raises:
        FileNotFoundError: a file that is missing.
        ValueError: no URDF, no such tip, no movable joint, a joint whose axis is zero or whose limits are none.

    >>> chain = read_chain("iiwa")
    >>> chain.tip, len(chain.names), chain.inertial[:, 0].tolist()
    ('lbr_iiwa_link_7', 7, [4.0, 4.0, 3.0, 2.7, 1.7, 1.8, 0.3])
    """
    tree = _Tree(_parse(source))
    way = tree.way_to(tip) if tip is not None else tree.longest_way()
    joints = [joint for joint in way if tree.moves(joint)]
    if not joints:
        fixed = ", ".join(repr(j.get("name")) for j in tree.joints) or "none"
        end = f"Every joint up to {tip!r}" if tip is not None else "Every joint"
        raise ValueError(f"{end} is fixed, so nothing could move; the URDF's joints are {fixed}")
    frames = tree.frames(joints)  # link -> (index of the moving link that carries it, rotation, translation)
    limits = np.array([_limits(joint) for joint in joints])
    origins = [_origin(joint) for joint in joints]
    parents = [frames[joint.find("parent").get("link")] for joint in joints]
    return Chain(
        names=tuple(joint.get("name") for joint in joints),
        tip=joints[-1].find("child").get("link"),
        rotation=np.stack([p[1] @ rotation for p, (rotation, _) in zip(parents, origins, strict=True)]),
        translation=np.stack([p[2] + p[1] @ at for p, (_, at) in zip(parents, origins, strict=True)]),
        axis=np.stack([_axis(joint) for joint in joints]),
        prismatic=np.array([joint.get("type") == "prismatic" for joint in joints]),
        lower=limits[:, 0],
        upper=limits[:, 1],
        speed=limits[:, 2],
        effort=limits[:, 3],
        inertial=tree.lumped(frames, len(joints)),
        rated_payload=_RATED.get(tree.robot.get("name")),
    )


def with_payload(text: str, payload: Payload, tip: str) -> str:
    """Return the URDF's text with a further link ``payload`` fixed to the tip link, in the tip's frame.

    Raises:
        ValueError: no URDF, no such tip, a link or joint of that name already there.

    >>> from simulators.arm.payload import box
    >>> held = with_payload(urdf("iiwa").read_text(), box(2, (0, 0, 0.1), (0.1, 0.1, 0.1)), "lbr_iiwa_link_7")
    >>> read_chain(held).inertial[:, 0].tolist()
    [4.0, 4.0, 3.0, 2.7, 1.7, 1.8, 2.3]
    """
    robot = _parse(text)
    tree = _Tree(robot)
    tree.require(tip)
    if "payload" in tree.links or any(joint.get("name") == "payload_joint" for joint in tree.joints):
        raise ValueError("with_payload: the URDF already has a link 'payload' or a joint 'payload_joint'")
    _write_inertial(ET.SubElement(robot, "link", name="payload"), payload.mass, payload.com, payload.inertia)
    joint = ET.SubElement(robot, "joint", name="payload_joint", type="fixed")
    ET.SubElement(joint, "parent", link=tip)
    ET.SubElement(joint, "child", link="payload")
    return ET.tostring(robot, encoding="unicode")


def with_inertials(text: str, chain: Chain) -> str:
    """Return the URDF's text with the chain's inertial parameters on its moving links.

    What the chain lumps into a moving link (fixed and frozen links) loses its own mass, the frozen joints become fixed,
    and joints lose their <dynamics>, so that a physics engine loads the rigid bodies that the chain describes.

    Raises:
        ValueError: no URDF, or one without the chain's joints.
    """
    robot = _parse(text)
    tree = _Tree(robot)
    joints = {joint.get("name"): joint for joint in tree.joints}
    missing = [name for name in chain.names if name not in joints]
    if missing:
        raise ValueError(f"with_inertials: the URDF has no joint {missing[0]!r}; it has {', '.join(joints)}")
    moving = {joints[name].find("child").get("link"): row for row, name in enumerate(chain.names)}
    for name, joint in joints.items():
        if name not in chain.names:
            joint.set("type", "fixed")
        for further in [*joint.findall("mimic"), *joint.findall("dynamics")]:
            joint.remove(further)
    for name, link in tree.links.items():
        if name in moving:
            _write_inertial(link, *about_com(chain.inertial[moving[name]]))
        else:
            _write_inertial(link, 0.0, np.zeros(3), np.zeros((3, 3)))
    return ET.tostring(robot, encoding="unicode")


class _Tree:
    """Links and joints of a parsed URDF, by name."""

    def __init__(self, robot: ET.Element) -> None:
        self.robot = robot
        self.links = {link.get("name"): link for link in robot.findall("link")}
        self.joints = robot.findall("joint")
        self.below: dict[str, list[ET.Element]] = {name: [] for name in self.links}
        self.above: dict[str, ET.Element] = {}
        for joint in self.joints:
            parent, child = joint.find("parent"), joint.find("child")
            ends = [None if end is None else end.get("link") for end in (parent, child)]
            if any(end not in self.links for end in ends):
                raise ValueError(f"joint {joint.get('name')!r} joins {ends[0]!r} to {ends[1]!r}, not both links of it")
            if ends[1] in self.above:
                raise ValueError(f"link {ends[1]!r} hangs on two joints; a URDF must be a tree")
            self.below[ends[0]].append(joint)
            self.above[ends[1]] = joint
        roots = [name for name in self.links if name not in self.above]
        if len(roots) != 1:
            raise ValueError(f"a URDF must have one base link; found {len(roots)}: {', '.join(roots) or 'a loop'}")
        self.base = roots[0]

    def moves(self, joint: ET.Element) -> bool:
        """Return whether a joint moves by itself; say so where its kind is not known here."""
        kind = joint.get("type")
        if kind not in (*_MOVABLE, "fixed"):
            raise ValueError(f"joint {joint.get('name')!r} is of type {kind!r}; only {', '.join(_MOVABLE)} and fixed")
        return kind in _MOVABLE and joint.find("mimic") is None

    def require(self, link: str) -> None:
        if link not in self.links:
            raise ValueError(f"the URDF has no link {link!r}; its links are {', '.join(self.links)}")

    def way_to(self, link: str) -> list[ET.Element]:
        """Return the joints from the base to a link."""
        self.require(link)
        way = []
        while link in self.above:
            way.append(self.above[link])
            link = way[-1].find("parent").get("link")
        return way[::-1]

    def longest_way(self) -> list[ET.Element]:
        """Return the joints along the branch that holds most movable ones, to the first fork that is a draw."""
        way, link = [], self.base
        while True:
            counts = [self._count(joint) for joint in self.below[link]]
            most = max(counts, default=0)
            if most == 0:
                return way
            if counts.count(most) > 1:
                if any(self.moves(joint) for joint in way):
                    return way
                names = ", ".join(repr(joint.get("name")) for joint in self.below[link])
                raise ValueError(f"the URDF forks at {link!r} into equal branches ({names}); name one link as the tip")
            way.append(self.below[link][counts.index(most)])
            link = way[-1].find("child").get("link")

    def _count(self, joint: ET.Element) -> int:
        """Return the largest number of movable joints on a way that begins with this one; mimicking ones count."""
        further = [self._count(below) for below in self.below[joint.find("child").get("link")]]
        return int(joint.get("type") in _MOVABLE) + max(further, default=0)

    def frames(self, moving: list[ET.Element]) -> dict[str, tuple[int, ndarray, ndarray]]:
        """Return, for each link, the moving link that carries it (-1: the base) and its frame in that link's."""
        rows = {joint.get("name"): row for row, joint in enumerate(moving)}
        found = {self.base: (-1, np.eye(3), np.zeros(3))}
        waiting = [self.base]
        while waiting:
            link = waiting.pop()
            row, rotation, translation = found[link]
            for joint in self.below[link]:
                child = joint.find("child").get("link")
                if joint.get("name") in rows:
                    found[child] = (rows[joint.get("name")], np.eye(3), np.zeros(3))
                else:
                    turn, at = _origin(joint)
                    found[child] = (row, rotation @ turn, translation + rotation @ at)
                waiting.append(child)
        return found

    def lumped(self, frames: dict[str, tuple[int, ndarray, ndarray]], n: int) -> ndarray:
        """Return (n, 10), the moving links' parameters with all that is fixed to them."""
        total = np.zeros((n, 10))
        for name, (row, rotation, translation) in frames.items():
            mass, com, inertia = _inertial(self.links[name])
            if row >= 0:
                total[row] += parameters(mass, translation + rotation @ com, rotation @ inertia @ rotation.T)
        return total


def _parse(source: str | Path) -> ET.Element:
    text = source if isinstance(source, str) and source.lstrip().startswith("<") else urdf(source).read_text("utf-8")
    shown = "the text" if text is source else str(source)
    try:
        root = ET.fromstring(text.lstrip())
    except ET.ParseError as error:
        raise ValueError(f"{shown} is not a URDF: {error}") from None
    if root.tag != "robot":
        raise ValueError(f"{shown} is not a URDF: its root is <{root.tag}>, a URDF's is <robot>")
    if any("xacro" in element.tag for element in root.iter() if isinstance(element.tag, str)):
        raise ValueError(f"{shown} holds xacro macros; expand it first: xacro in.xacro > out.urdf")
    if root.find("link") is None:
        raise ValueError(f"{shown} is not a URDF: <robot> has no <link>")
    return root


def _numbers(element: ET.Element | None, key: str, default: str, count: int, where: str) -> ndarray:
    """Return the numbers of an attribute, or say where they are not so many finite ones."""
    text = default if element is None else element.get(key, default)
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        numbers = np.array([np.nan])
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: {key} must be {count} finite number{'s' * (count > 1)}; got {text!r}")
    return numbers


def _origin(element: ET.Element, where: str | None = None) -> tuple[ndarray, ndarray]:
    """Return rotation (3, 3) and translation (3,) of an element's <origin>."""
    where = where or f"joint {element.get('name')!r}"
    origin = element.find("origin")
    roll, pitch, yaw = _numbers(origin, "rpy", "0 0 0", 3, where)
    return _rotation(roll, pitch, yaw), _numbers(origin, "xyz", "0 0 0", 3, where)


def _rotation(roll: float, pitch: float, yaw: float) -> ndarray:
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    return np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ about_y @ about_x


def _axis(joint: ET.Element) -> ndarray:
    axis = _numbers(joint.find("axis"), "xyz", "1 0 0", 3, f"the axis of joint {joint.get('name')!r}")
    length = np.linalg.norm(axis)
    if length < 1e-9:
        raise ValueError(f"the axis of joint {joint.get('name')!r} is zero; give a direction, such as 0 0 1")
    return axis / length


def _limits(joint: ET.Element) -> tuple[float, float, float, float]:
    """Return lower, upper, speed and effort; 0 stands for 'not given' in speed and effort."""
    where, limit = f"the limits of joint {joint.get('name')!r}", joint.find("limit")
    speed, effort = (float(_numbers(limit, key, "0", 1, where)[0]) or math.inf for key in ("velocity", "effort"))
    if speed < 0.0 or effort < 0.0:
        raise ValueError(f"{where}: velocity and effort must not be negative; got {speed} and {effort}")
    if joint.get("type") == "continuous":
        return -math.pi, math.pi, speed, effort
    lower, upper = (float(_numbers(limit, key, "0", 1, where)[0]) for key in ("lower", "upper"))
    if lower >= upper:
        raise ValueError(f"{where}: lower must be below upper; got {lower} and {upper} (continuous joints need none)")
    return lower, upper, speed, effort


def _inertial(link: ET.Element) -> tuple[float, ndarray, ndarray]:
    """Return mass, centre of mass and inertia about it in the link's axes; zero where <inertial> is missing."""
    inertial, where = link.find("inertial"), f"the inertial of link {link.get('name')!r}"
    if inertial is None:
        return 0.0, np.zeros(3), np.zeros((3, 3))
    rotation, com = _origin(inertial, where)
    (mass,) = _numbers(inertial.find("mass"), "value", "0", 1, where)
    if mass < 0.0:
        raise ValueError(f"{where}: mass must be 0 kg or more; got {mass}")
    keys, element = ("ixx", "ixy", "ixz", "iyy", "iyz", "izz"), inertial.find("inertia")
    xx, xy, xz, yy, yz, zz = (_numbers(element, key, "0", 1, where)[0] for key in keys)
    inertia = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return float(mass), com, rotation @ inertia @ rotation.T


def _write_inertial(link: ET.Element, mass: float, com: ndarray, inertia: ndarray) -> None:
    """Write an <inertial>; along principal axes, because PyBullet finds those itself only roughly."""
    for old in link.findall("inertial"):
        link.remove(old)
    moments, rpy = inertia.diagonal(), np.zeros(3)
    if np.abs(inertia - np.diag(moments)).max() > 0.0:
        moments, axes = np.linalg.eigh(inertia)
        axes = axes * np.sign(np.linalg.det(axes))
        rpy = _angles(axes)
    words: Callable[[ndarray], str] = lambda numbers: " ".join(repr(float(x)) for x in numbers)  # noqa: E731
    inertial = ET.SubElement(link, "inertial")
    ET.SubElement(inertial, "origin", xyz=words(com), rpy=words(rpy))
    ET.SubElement(inertial, "mass", value=repr(float(mass)))
    diagonal = dict(zip(("ixx", "iyy", "izz"), (repr(float(max(x, 0.0))) for x in moments), strict=True))
    ET.SubElement(inertial, "inertia", **diagonal, ixy="0", ixz="0", iyz="0")


def _angles(rotation: ndarray) -> ndarray:
    """Return roll, pitch and yaw of a rotation; yaw is 0 where pitch is a right angle."""
    level = math.hypot(rotation[0, 0], rotation[1, 0])
    pitch = math.atan2(-rotation[2, 0], level)
    if level < 1e-9:
        return np.array([math.atan2(-rotation[1, 2], rotation[1, 1]), pitch, 0.0])
    return np.array([math.atan2(rotation[2, 1], rotation[2, 2]), pitch, math.atan2(rotation[1, 0], rotation[0, 0])])
