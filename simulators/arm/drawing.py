"""Shapes written into a URDF, so that a picture of the arm shows it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from numpy import ndarray

from simulators.arm.urdf import Chain

_MESHES = {"lbr_iiwa": "kuka_iiwa/model.urdf", "panda": "franka_panda/panda.urdf"}  # in pybullet_data


def make_visible(root: ET.Element, chain: Chain) -> None:
    """Give the links shapes: those of the URDF if they are meshes, PyBullet's own, the URDF's others, or sticks.

    A link ``payload`` is drawn as a red box of its moments of inertia.

    Args:
        root: a URDF's <robot>; changed in place.
        chain: of the robot.
    """
    if root.find(".//visual//mesh") is None:
        _borrow_meshes(root)
    if root.find("link/visual") is None:
        _draw_sticks(root, chain)
    for link in root.findall("link"):
        if link.get("name") == "payload":
            _draw_payload(link)


def _borrow_meshes(root: ET.Element) -> None:
    """Give the links the meshes of the robot of that name in pybullet_data, where there is one."""
    try:
        import pybullet_data
    except ImportError:
        return
    path = Path(pybullet_data.getDataPath()) / _MESHES.get(root.get("name"), "no such robot")
    if not path.is_file():
        return
    source = ET.parse(path).getroot()
    root.extend(source.findall("material"))
    shapes = {link.get("name"): link.findall("visual") for link in source.findall("link")}
    for link in root.findall("link"):
        if shapes.get(link.get("name")):
            for old in link.findall("visual"):
                link.remove(old)
        for shape in shapes.get(link.get("name"), []):
            for mesh in shape.iter("mesh"):
                mesh.set("filename", str(path.parent / mesh.get("filename").removeprefix("package://")))
            link.append(shape)


def _draw_sticks(root: ET.Element, chain: Chain) -> None:
    """Draw a ball at every joint and a rod from it to the next."""
    reach = float(np.linalg.norm(chain.translation, axis=1).sum())
    joints = {joint.get("name"): joint for joint in root.findall("joint")}
    links = {link.get("name"): link for link in root.findall("link")}
    for row, name in enumerate(chain.names):
        link = links[joints[name].find("child").get("link")]
        _shape(link, "0 0 0", "0 0 0", "0.95 0.5 0.1 1", "sphere", radius=repr(0.05 * reach))
        if row + 1 < len(chain.names):
            _rod(link, chain.translation[row + 1], 0.03 * reach)


def _draw_payload(link: ET.Element) -> None:
    """Draw a body as the box that has its moments of inertia, red, on a stalk from the tip's frame."""
    inertial = link.find("inertial")
    mass, origin = float(inertial.find("mass").get("value")), inertial.find("origin")
    moments = np.array([float(inertial.find("inertia").get(key)) for key in ("ixx", "iyy", "izz")])
    edges = np.sqrt(np.maximum(6.0 / mass * (moments.sum() - 2.0 * moments), 1e-4))
    _rod(link, np.array([float(x) for x in origin.get("xyz").split()]), 0.01)
    _shape(link, origin.get("xyz"), origin.get("rpy"), "0.85 0.1 0.1 1", "box", size=" ".join(map(str, edges)))


def _rod(link: ET.Element, to: ndarray, radius: float) -> None:
    """Draw a grey rod from the link's origin to a point (3,), m."""
    x, y, z = (float(v) for v in to)
    length = float(np.linalg.norm(to))
    if length > 0.0:
        lean = f"0 {np.arctan2(np.hypot(x, y), z)} {np.arctan2(y, x)}"
        size = {"radius": repr(radius), "length": repr(length)}
        _shape(link, f"{x / 2} {y / 2} {z / 2}", lean, "0.6 0.6 0.65 1", "cylinder", **size)


def _shape(link: ET.Element, xyz: str, rpy: str, rgba: str, kind: str, **size: str) -> None:
    visual = ET.SubElement(link, "visual")
    ET.SubElement(visual, "origin", xyz=xyz, rpy=rpy)
    ET.SubElement(ET.SubElement(visual, "geometry"), kind, size)
    ET.SubElement(ET.SubElement(visual, "material", name=rgba.replace(" ", "_")), "color", rgba=rgba)
