"""What a URDF says and how it misleads: frames, axes, lumped links, forks, and files that are no arm."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import inverse_dynamics, tip_position
from scimeta.domains.arm.urdf import read_urdf
from simulators.arm import box, nominal, urdf, with_payload

LIMIT = '<limit lower="-2" upper="2" effort="30" velocity="1"/>'
SOLID = '<mass value="2"/><inertia ixx=".02" iyy=".03" izz=".04" ixy="0" ixz="0" iyz="0"/>'


def link(name: str, inertial: str = SOLID, origin: str = "") -> str:
    return f'<link name="{name}">' + (f"<inertial>{origin}{inertial}</inertial>" if inertial else "") + "</link>"


def joint(name: str, parent: str, child: str, kind: str = "revolute", rest: str = LIMIT, origin: str = "") -> str:
    ends = f'<parent link="{parent}"/><child link="{child}"/>'
    return f'<joint name="{name}" type="{kind}">{ends}{origin}<axis xyz="0 1 0"/>{rest}</joint>'


def written(folder: Path, *parts: str) -> Path:
    path = folder / "robot.urdf"
    path.write_text(f'<?xml version="1.0"?><robot name="test">{"".join(parts)}</robot>', encoding="utf-8")
    return path


def motion(joints: int) -> Tensor:
    return torch.randn(3, 20, joints, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pinocchio_torques(path: Path, samples: Tensor) -> np.ndarray:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(str(path))
    model.gravity.linear = np.array([0.0, 0.0, -9.81])
    data = model.createData()
    return np.array([pin.rnea(model, data, *row) for row in samples.transpose(0, 1).numpy()])


def test_the_iiwa_has_seven_joints_their_limits_and_its_flange_link() -> None:
    arm = read_urdf(urdf("iiwa"))
    assert arm.joints == tuple(f"lbr_iiwa_joint_{number}" for number in range(1, 8))
    assert arm.tip == "lbr_iiwa_link_7"
    assert arm.chain.inertial.dtype == torch.float64
    torch.testing.assert_close(arm.upper[:2], torch.tensor([2.9668, 2.0942], dtype=torch.float64), atol=2e-3, rtol=0)
    torch.testing.assert_close(arm.lower, -arm.upper)
    assert (arm.effort > 0).all() and arm.effort.isfinite().all()


def test_the_panda_ends_where_its_fingers_fork_with_hand_and_fingers_lumped() -> None:
    arm = read_urdf(urdf("panda"))
    assert arm.tip == "panda_link7" and len(arm.joints) == 7
    bare = read_urdf(urdf("panda"), tip="panda_link6")
    assert bare.tip == "panda_link6" and len(bare.joints) == 6
    # Everything beyond the tip is held fast to it.
    torch.testing.assert_close(bare.chain.inertial[-1, 0], arm.chain.inertial[-2:, 0].sum())
    finger = read_urdf(urdf("panda"), tip="panda_leftfinger")
    assert len(finger.joints) == 8 and finger.chain.slides.tolist() == [0.0] * 7 + [1.0]
    torch.testing.assert_close(finger.chain.inertial[:, 0].sum(), arm.chain.inertial[:, 0].sum())


def test_a_payload_written_as_a_link_is_the_payload_given_as_an_argument(tmp_path: Path) -> None:
    arm = read_urdf(urdf("iiwa"))
    payload = box(2.3, (0.03, -0.02, 0.11), (0.05, 0.08, 0.12))
    path = tmp_path / "loaded.urdf"
    path.write_text(with_payload(urdf("iiwa").read_text(encoding="utf-8"), payload, arm.tip), encoding="utf-8")
    loaded = read_urdf(path)
    assert loaded.joints == arm.joints and loaded.tip == arm.tip
    q, qd, qdd = motion(7)
    given = torch.as_tensor(payload.parameters)
    torch.testing.assert_close(
        inverse_dynamics(loaded.chain, q, qd, qdd), inverse_dynamics(arm.chain, q, qd, qdd, given), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(torch.as_tensor(pinocchio_torques(path, torch.stack((q, qd, qdd)))),
                               inverse_dynamics(arm.chain, q, qd, qdd, given), atol=1e-10, rtol=0)  # fmt: skip


def test_turned_frames_axes_of_any_length_and_lumped_links_are_pinocchios(tmp_path: Path) -> None:
    slanted = '<origin xyz=".1 -.2 .3" rpy=".4 -.7 1.1"/>'
    odd = '<mass value="1.5"/><inertia ixx=".02" iyy=".03" izz=".04" ixy=".002" ixz="-.003" iyz=".001"/>'
    axis = joint("a", "base", "one", origin=slanted).replace("0 1 0", "1 2 -2")
    path = written(
        tmp_path, link("base"), link("one", odd, slanted), link("plate", odd, slanted), link("two", odd),
        axis, joint("glue", "one", "plate", "fixed", "", slanted), joint("b", "plate", "two", origin=slanted),
    )  # fmt: skip
    arm = read_urdf(path)
    assert arm.joints == ("a", "b")
    torch.testing.assert_close(arm.chain.axis[0], torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64) / 3)
    torch.testing.assert_close(arm.chain.inertial[:, 0], torch.tensor([3.0, 1.5], dtype=torch.float64))
    samples = motion(2)
    found = inverse_dynamics(arm.chain, *samples)
    np.testing.assert_allclose(found, pinocchio_torques(path, samples), atol=1e-10, rtol=0)


def test_roll_pitch_and_yaw_turn_about_fixed_axes_in_this_order(tmp_path: Path) -> None:
    quarter = math.pi / 2
    turned = f'<origin xyz="0 0 1" rpy="{quarter} 0 {quarter}"/>'
    path = written(tmp_path, link("base"), link("one"), link("two"), joint("a", "base", "one", origin=turned),
                   joint("b", "one", "two", origin='<origin xyz="0 .5 0"/>'))  # fmt: skip
    # Roll takes y to z; yaw then leaves z.
    tip = tip_position(read_urdf(path).chain, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(tip, torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_continuous_joint_has_no_limits_and_missing_limits_are_infinite(tmp_path: Path) -> None:
    path = written(tmp_path, link("base"), link("one"), link("two"), joint("a", "base", "one", "continuous"),
                   joint("b", "one", "two", rest=""))  # fmt: skip
    arm = read_urdf(path)
    assert arm.lower.tolist() == [-math.inf] * 2 and arm.upper.tolist() == [math.inf] * 2
    assert arm.effort.tolist() == [30.0, math.inf]


def test_a_link_without_inertial_weighs_nothing_and_a_joint_without_axis_turns_about_x(tmp_path: Path) -> None:
    path = written(tmp_path, link("base"), link("one", ""), link("two"), joint("a", "base", "one"),
                   joint("b", "one", "two").replace('<axis xyz="0 1 0"/>', ""))  # fmt: skip
    with pytest.warns(UserWarning, match=r"one of robot.urdf move and have no mass; give each"):
        arm = read_urdf(path)
    assert arm.chain.inertial[0].tolist() == [0.0] * 10
    assert arm.chain.axis[1].tolist() == [1.0, 0.0, 0.0]


TINY = '<mass value="1e-9"/><inertia ixx="1e-12" iyy="1e-12" izz="1e-12"/>'


@pytest.mark.parametrize(
    ("base", "inertial"),
    [
        ("", ""),
        (SOLID, ""),  # what stands still does not count
        (SOLID, SOLID.replace('<mass value="2"/>', '<mass value="0"/>')),
        (SOLID, '<origin xyz="0 0 .1"/>'),
        ("", TINY),
    ],
    ids=["no inertial", "base alone", "zero", "no mass", "tiny"],
)
def test_an_arm_without_masses_is_refused_by_both_readers(tmp_path: Path, base: str, inertial: str) -> None:
    path = written(tmp_path, link("base", base), link("one", inertial), link("two", inertial),
                   joint("a", "base", "one"), joint("b", "one", "two"))  # fmt: skip
    with pytest.raises(ValueError, match=r"moving links of robot.urdf \(one, two\) weigh .* kg together.*<inertial>"):
        read_urdf(path)
    with pytest.raises(ValueError, match=r"moving links of robot.urdf weigh .* kg together; give each an <inertial>"):
        nominal(path)


def test_links_behind_fixed_joints_need_no_mass_and_lend_theirs(tmp_path: Path) -> None:
    path = written(tmp_path, link("base", ""), link("one", ""), link("shell"), link("flange", ""),
                   joint("a", "base", "one"), joint("b", "one", "shell", "fixed"),
                   joint("c", "shell", "flange", "fixed"))  # fmt: skip
    assert read_urdf(path).chain.inertial[0, 0] > 0


def test_a_negative_mass_is_refused_with_its_link(tmp_path: Path) -> None:
    path = written(tmp_path, link("base"), link("one", TINY.replace("1e-9", "-1")), joint("a", "base", "one"))
    with pytest.raises(ValueError, match="the mass of link 'one' is -1 kg; it must be 0 or more"):
        read_urdf(path)


def test_a_prismatic_joint_slides(tmp_path: Path) -> None:
    arm = read_urdf(written(tmp_path, link("base"), link("one"), joint("a", "base", "one", "prismatic")))
    assert arm.chain.slides.tolist() == [1.0]
    tip = tip_position(arm.chain, torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(tip, torch.tensor([0.0, 0.4, 0.0], dtype=torch.float64))


def test_a_joint_that_mimics_is_held_at_zero_and_its_link_lumped(tmp_path: Path) -> None:
    copies = LIMIT + '<mimic joint="a"/>'
    path = written(tmp_path, link("base"), link("one"), link("two"), link("three"), joint("a", "base", "one"),
                   joint("b", "one", "two", rest=copies), joint("c", "two", "three"))  # fmt: skip
    arm = read_urdf(path)
    assert arm.joints == ("a", "c")
    assert arm.chain.inertial[:, 0].tolist() == [4.0, 2.0]


def test_the_arm_ends_at_the_fork_of_its_fingers_even_where_one_mimics_the_other(tmp_path: Path) -> None:
    path = written(
        tmp_path, link("base"), link("one"), link("palm"), link("left"), link("right"), joint("a", "base", "one"),
        joint("glue", "one", "palm", "fixed", "", '<origin xyz="0 0 .1"/>'), joint("l", "palm", "left", "prismatic"),
        joint("r", "palm", "right", "prismatic", LIMIT + '<mimic joint="l"/>'),
    )  # fmt: skip
    arm = read_urdf(path)
    assert arm.joints == ("a",) and arm.tip == "one"
    assert arm.chain.inertial[0, [0, 3]].tolist() == pytest.approx([8.0, 3 * 2.0 * 0.1])


def test_a_tip_behind_a_fixed_joint_stands_for_the_link_that_carries_it(tmp_path: Path) -> None:
    path = written(tmp_path, link("base"), link("one"), link("flange", ""), joint("a", "base", "one"),
                   joint("glue", "one", "flange", "fixed", ""))  # fmt: skip
    assert read_urdf(path, tip="flange").tip == "one"


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*arm\.urdf"):
        read_urdf(tmp_path / "arm.urdf")


def test_an_unknown_tip_is_answered_with_the_links_there_are(tmp_path: Path) -> None:
    path = written(tmp_path, link("base"), link("one"), joint("a", "base", "one"))
    with pytest.raises(ValueError, match="no link 'hand'; it has base, one"):
        read_urdf(path, tip="hand")


@pytest.mark.parametrize("tip", [None, "one"])
def test_an_arm_whose_joints_are_all_fixed_is_refused(tmp_path: Path, tip: str | None) -> None:
    path = written(tmp_path, link("base"), link("one"), joint("a", "base", "one", "fixed", ""))
    with pytest.raises(ValueError, match=r"every joint of robot\.urdf is fixed"):
        read_urdf(path, tip)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joint,mass\n1,2\n", "not XML"),
        ("", "not XML"),
        ("<sdf version='1.6'><model name='arm'/></sdf>", "holds <sdf>, expected <robot>"),
        ("<mujoco/>", "holds <mujoco>"),
        ("<robot name='none'/>", "nothing could move"),
    ],
)
def test_what_is_no_urdf_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "arm.urdf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_urdf(path)


def test_a_binary_file_is_not_xml(tmp_path: Path) -> None:
    path = tmp_path / "arm.stl"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="not XML"):
        read_urdf(path)


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ('xyz="0 1 0"', 'xyz="0 0 0"', "joint 'a' has the axis"),
        ('xyz="0 1 0"', 'xyz="0 1"', "expected three numbers"),
        ('mass value="2"', 'mass value="${m}"', "not a number; expand xacro"),
        ('mass value="2"', 'mass value="nan"', "not a number"),
        ('upper="2"', 'upper="2 rad"', "not a number"),
        ('<parent link="base"/>', "", "joint 'a' names no parent link"),
    ],
)
def test_a_number_that_is_none_is_named(tmp_path: Path, good: str, bad: str, message: str) -> None:
    path = written(tmp_path, link("base"), link("one"), joint("a", "base", "one"))
    path.write_text(path.read_text(encoding="utf-8").replace(good, bad), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_urdf(path)


@pytest.mark.parametrize("tip", [None, "two"])
def test_links_in_a_ring_are_refused(tmp_path: Path, tip: str | None) -> None:
    path = written(tmp_path, link("one"), link("two"), joint("a", "one", "two"), joint("b", "two", "one"))
    with pytest.raises(ValueError, match=r"read_urdf: the joints of robot\.urdf form a ring"):
        read_urdf(path, tip)


@pytest.mark.parametrize("tip", [None, "two"])
def test_a_ring_that_the_base_leads_to_is_a_link_on_two_joints_and_refused(tmp_path: Path, tip: str | None) -> None:
    path = written(
        tmp_path, link("base"), link("one"), link("two"),
        joint("in", "base", "one"), joint("a", "one", "two"), joint("b", "two", "one"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"read_urdf: link 'one' of robot\.urdf hangs on two joints"):
        read_urdf(path, tip)
