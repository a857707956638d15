"""The serial chain read from URDF texts, and the texts written for the physics engine."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.arm.payload import Payload, about_com, box, parameters
from simulators.arm.rigid import forward_kinematics, inverse_dynamics
from simulators.arm.robot import draw_robot, nominal
from simulators.arm.urdf import read_chain, urdf, with_inertials, with_payload

LIMIT = '<limit lower="-1" upper="1" velocity="2" effort="30"/>'
ARM = f"""<robot name="arm">
  <link name="base"/>
  <link name="upper">
    <inertial>
      <origin xyz="0.1 0 0.2" rpy="0.3 -0.4 0.5"/>
      <mass value="2"/>
      <inertia ixx="0.03" iyy="0.02" izz="0.04" ixy="0.001" ixz="0.002" iyz="-0.003"/>
    </inertial>
  </link>
  <link name="flange"><inertial><origin xyz="0 0 0.1"/><mass value="0.5"/></inertial></link>
  <link name="tool"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/>
    <origin xyz="0 0 0.5" rpy="0.1 0.2 0.3"/><axis xyz="0 3 4"/>{LIMIT}
  </joint>
  <joint name="mount" type="fixed">
    <parent link="upper"/><child link="flange"/><origin xyz="0.2 0 0" rpy="0 1.5707963267948966 0"/>
  </joint>
  <joint name="lift" type="prismatic">
    <parent link="flange"/><child link="tool"/><origin xyz="0 0 0.3"/><axis xyz="0 0 2"/>{LIMIT}
  </joint>
</robot>"""
GRIPPER = """
  <link name="left"><inertial><mass value="0.25"/></inertial></link>
  <link name="right"><inertial><mass value="0.25"/></inertial></link>
  <joint name="finger" type="prismatic">
    <parent link="tool"/><child link="left"/><origin xyz="0 0.1 0"/><axis xyz="0 1 0"/><limit lower="0" upper="0.04"/>
  </joint>
  <joint name="other_finger" type="prismatic">
    <parent link="tool"/><child link="right"/><axis xyz="0 -1 0"/><mimic joint="finger"/>
  </joint>
</robot>"""
HELD = Payload(3.0, (0.02, -0.03, 0.1), np.array([[0.03, 0.004, 0.002], [0.004, 0.02, -0.003], [0.002, -0.003, 0.03]]))


def with_gripper() -> str:
    return ARM.replace("</robot>", GRIPPER)


def test_shipped_robots_have_the_masses_limits_and_geometry_of_their_sources():
    pybullet_data = pytest.importorskip("pybullet_data")
    for name, file in (("iiwa", "kuka_iiwa/model.urdf"), ("panda", "franka_panda/panda.urdf")):
        ours, theirs = read_chain(name), read_chain(f"{pybullet_data.getDataPath()}/{file}")
        assert ours.names == theirs.names and ours.tip == theirs.tip
        assert ours.rated_payload == {"iiwa": 14.0, "panda": 3.0}[name]
        for field in ("rotation", "translation", "axis", "lower", "upper", "speed", "effort", "inertial"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=f"{name} {field}")


def test_panda_has_seven_joints_and_carries_its_hand_and_frozen_fingers():
    chain = read_chain("panda")
    assert chain.names == tuple(f"panda_joint{i}" for i in range(1, 8))
    assert chain.tip == "panda_link7"
    assert chain.inertial[-1, 0] == pytest.approx(0.2 + 0.81 + 2 * 0.1)
    np.testing.assert_array_equal(read_chain("panda", tip="panda_grasptarget").inertial, chain.inertial)


def test_axes_are_normalized_and_joint_and_inertial_angles_are_read():
    from scipy.spatial.transform import Rotation

    chain = read_chain(ARM)
    np.testing.assert_allclose(chain.axis, [[0, 0.6, 0.8], [0, 0, 1]], atol=1e-15)
    np.testing.assert_allclose(chain.rotation[0], Rotation.from_euler("xyz", [0.1, 0.2, 0.3]).as_matrix(), atol=1e-15)
    turn = Rotation.from_euler("xyz", [0.3, -0.4, 0.5]).as_matrix()
    own = np.array([[0.03, 0.001, 0.002], [0.001, 0.02, -0.003], [0.002, -0.003, 0.04]])
    # The flange lies 0.2 m along x, its z axis along the link's x: its point mass sits at x = 0.3.
    expected = parameters(2.0, np.array([0.1, 0.0, 0.2]), turn @ own @ turn.T)
    expected = expected + parameters(0.5, np.array([0.3, 0.0, 0.0]), np.zeros((3, 3)))
    np.testing.assert_allclose(chain.inertial[0], expected, atol=1e-15)
    np.testing.assert_allclose(chain.translation[1], [0.5, 0.0, 0.0], atol=1e-15)
    assert chain.prismatic.tolist() == [False, True]


def test_links_without_inertial_have_no_mass():
    assert not read_chain(ARM).inertial[1].any()


def test_continuous_joints_turn_half_round_each_way_and_missing_limits_are_infinite():
    chain = read_chain(ARM.replace('"revolute"', '"continuous"').replace(LIMIT, "", 1))
    assert (chain.lower[0], chain.upper[0]) == (-np.pi, np.pi)
    assert (chain.speed[0], chain.effort[0]) == (np.inf, np.inf)
    assert (chain.lower[1], chain.upper[1], chain.speed[1], chain.effort[1]) == (-1.0, 1.0, 2.0, 30.0)


def test_mimicking_joints_and_fingers_are_frozen_and_their_masses_lumped():
    chain = read_chain(with_gripper())
    assert chain.names == ("shoulder", "lift") and chain.tip == "tool"
    point = np.zeros((3, 3))
    expected = parameters(0.25, np.array([0, 0.1, 0]), point) + parameters(0.25, np.zeros(3), point)
    np.testing.assert_allclose(chain.inertial[1], expected, atol=1e-15)
    assert read_chain(with_gripper(), tip="left").names == ("shoulder", "lift", "finger")
    assert read_chain(with_gripper(), tip="right").names == ("shoulder", "lift")


def test_a_side_branch_with_fewer_joints_does_not_end_the_chain():
    camera = f"""<link name="camera"/><joint name="pan" type="revolute"><parent link="upper"/><child link="camera"/>
      <axis xyz="0 0 1"/>{LIMIT}</joint><link name="hand"/><joint name="wrist" type="revolute"><parent link="tool"/>
      <child link="hand"/><axis xyz="0 0 1"/>{LIMIT}</joint></robot>"""
    assert read_chain(ARM.replace("</robot>", camera)).names == ("shoulder", "lift", "wrist")


def test_two_equal_arms_on_a_fixed_base_ask_for_a_tip():
    second = f"""<link name="b"/><joint name="second" type="revolute"><parent link="base"/><child link="b"/>
      <axis xyz="1 0 0"/>{LIMIT}</joint><link name="c"/><joint name="third" type="revolute"><parent link="b"/>
      <child link="c"/><axis xyz="1 0 0"/>{LIMIT}</joint></robot>"""
    text = ARM.replace("</robot>", second)
    with pytest.raises(ValueError, match=r"forks at 'base' into equal branches \('shoulder', 'second'\)"):
        read_chain(text)
    assert read_chain(text, tip="c").names == ("second", "third")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('xyz="0 3 4"', 'xyz="0 0 0"'), "axis of joint 'shoulder' is zero"),
        (('xyz="0 3 4"', 'xyz="0 3"'), "must be 3 finite numbers"),
        (('type="revolute"', 'type="floating"'), "'shoulder' is of type 'floating'"),
        ((LIMIT, '<limit lower="1" upper="1"/>'), "lower must be below upper"),
        (('value="2"', 'value="-2"'), "mass must be 0 kg or more"),
        (('<child link="tool"/>', '<child link="nowhere"/>'), "'lift' joins 'flange' to 'nowhere'"),
        (('<child link="tool"/>', '<child link="upper"/>'), "hangs on two joints"),
        (('<link name="base"/>', '<link name="base"/><link name="loose"/>'), "one base link; found 2: base, loose"),
    ],
)
def test_a_broken_description_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        read_chain(ARM.replace(*change, 1))


def test_an_unknown_tip_lists_the_links():
    with pytest.raises(ValueError, match="no link 'hand'; its links are base, upper, flange, tool"):
        read_chain(ARM, tip="hand")


def test_a_robot_of_fixed_joints_only_names_them():
    text = ARM.replace('"revolute"', '"fixed"').replace('"prismatic"', '"fixed"')
    with pytest.raises(ValueError, match=r"Every joint is fixed.*'shoulder', 'mount', 'lift'"):
        read_chain(text)
    with pytest.raises(ValueError, match="Every joint up to 'flange' is fixed"):
        read_chain(ARM.replace('"revolute"', '"fixed"'), tip="flange")


def test_a_missing_file_and_a_file_that_is_no_urdf_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="iiwa, panda"):
        urdf("ur5")
    for text, message in (
        ("mass: 3", "is not a URDF"),
        ("<sdf/>", "root is <sdf>"),
        ("<robot/>", "no <link>"),
        (
            '<robot xmlns:xacro="http://www.ros.org/wiki/xacro"><link name="a"/><xacro:arm/></robot>',
            "xacro macros; expand it",
        ),
    ):
        path = tmp_path / "own.urdf"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_chain(path)
    path.write_text(ARM)
    assert read_chain(path).names == read_chain(str(path)).names == ("shoulder", "lift")


def test_a_payload_written_into_the_text_is_a_payload_on_the_tip():
    q, qd, qdd = np.random.default_rng(0).standard_normal((3, 9, 2))
    text = with_payload(ARM, HELD, "tool")
    expected = inverse_dynamics(read_chain(ARM), q, qd, qdd, HELD)
    np.testing.assert_allclose(inverse_dynamics(read_chain(text), q, qd, qdd), expected, atol=1e-12)
    with pytest.raises(ValueError, match="already has a link 'payload'"):
        with_payload(text, HELD, "tool")
    with pytest.raises(ValueError, match="no link 'hand'"):
        with_payload(ARM, HELD, "hand")


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_written_link_errors_read_back_as_the_true_robot(name):
    robot = draw_robot(name, np.random.default_rng(3))
    read = read_chain(with_inertials(robot.urdf, robot.chain))
    assert read.names == robot.chain.names
    np.testing.assert_allclose(read.inertial, robot.chain.inertial, atol=1e-12)
    with pytest.raises(ValueError, match="no joint 'shoulder'"):
        with_inertials(robot.urdf, read_chain(ARM))


def test_written_text_freezes_fingers_and_drops_joint_damping():
    damped = with_gripper().replace(LIMIT, LIMIT + '<dynamics damping="5"/>')
    text = with_inertials(damped, read_chain(damped))
    assert "dynamics" not in text and "mimic" not in text
    assert read_chain(text, tip="left").names == ("shoulder", "lift")


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_pybullet_loads_the_true_masses_and_inertias_with_the_payload(name, tmp_path):
    pybullet = pytest.importorskip("pybullet")
    robot = draw_robot(name, np.random.default_rng(1))
    path = tmp_path / "true.urdf"
    path.write_text(with_payload(with_inertials(robot.urdf, robot.chain), HELD, robot.tip))
    client = pybullet.connect(pybullet.DIRECT)
    try:
        flags = pybullet.URDF_USE_INERTIA_FROM_FILE
        body = pybullet.loadURDF(str(path), useFixedBase=True, flags=flags, physicsClientId=client)
        loaded = {}
        for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
            link = pybullet.getJointInfo(body, joint, physicsClientId=client)[12].decode()
            mass, _, moments, com, turn = pybullet.getDynamicsInfo(body, joint, physicsClientId=client)[:5]
            axes = np.reshape(pybullet.getMatrixFromQuaternion(turn), (3, 3))
            loaded[link] = parameters(mass, np.array(com), axes @ np.diag(moments) @ axes.T)
    finally:
        pybullet.disconnect(client)
    prefix = {"iiwa": "lbr_iiwa_link_", "panda": "panda_link"}[name]
    for i, phi in enumerate(robot.chain.inertial, start=1):
        np.testing.assert_allclose(loaded[f"{prefix}{i}"], phi, atol=1e-9)
    np.testing.assert_allclose(loaded["payload"], HELD.parameters, atol=1e-9)
    assert sum(phi[0] for phi in loaded.values()) == pytest.approx(robot.chain.inertial[:, 0].sum() + 3.0)


def test_mass_centre_and_inertia_come_back_from_the_ten_parameters():
    mass, com, inertia = about_com(HELD.parameters)
    assert mass == pytest.approx(3.0)
    np.testing.assert_allclose(com, HELD.com, atol=1e-15)
    np.testing.assert_allclose(inertia, HELD.inertia, atol=1e-15)


def test_meshes_of_a_users_file_are_found_beside_it_or_left_out(tmp_path):
    (tmp_path / "there.stl").write_text("solid")
    shape = '<visual><geometry><mesh filename="{}"/></geometry></visual>'
    shapes = "".join(shape.format(file) for file in ("package://there.stl", "gone.stl"))
    path = tmp_path / "own.urdf"
    path.write_text(ARM.replace('<link name="base"/>', f'<link name="base">{shapes}</link>'))
    text = nominal(path).urdf
    assert str(tmp_path.resolve() / "there.stl") in text and "gone" not in text


def test_impossible_payloads_are_refused():
    with pytest.raises(ValueError, match="mass must be finite"):
        box(-1.0, (0, 0, 0), (0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="no body has these principal moments"):
        Payload(1.0, np.zeros(3), np.diag([0.1, 0.1, 0.3]))
    with pytest.raises(ValueError, match="com must be three"):
        Payload(1.0, np.zeros(2), np.eye(3))
    with pytest.raises(ValueError, match="symmetric"):
        Payload(1.0, np.zeros(3), np.triu(np.ones((3, 3))))
    with pytest.raises(ValueError, match="edges must be three"):
        box(1.0, (0, 0, 0), (0.1, 0.1))


def test_the_iiwa_stretched_up_is_as_tall_as_its_links_together():
    tall = 0.1575 + 0.2025 + 0.2045 + 0.2155 + 0.1845 + 0.2155 + 0.081
    np.testing.assert_allclose(forward_kinematics(read_chain("iiwa"), np.zeros(7)), [0, 0, tall], atol=1e-9)
