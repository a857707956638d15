"""Rigid-body algorithms against closed forms, conservation laws and Pinocchio."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from simulators.arm.payload import Payload, parameters
from simulators.arm.rigid import (
    forward_dynamics,
    forward_kinematics,
    inverse_dynamics,
    mass_matrix,
    payload_regressor,
)
from simulators.arm.urdf import read_chain, urdf

G = 9.81
LIMIT = '<limit lower="-3" upper="3"/>'


def link(name: str, mass: float, com: str, moments: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> str:
    xx, yy, zz = moments
    return f"""<link name="{name}"><inertial><origin xyz="{com}"/><mass value="{mass}"/>
      <inertia ixx="{xx}" iyy="{yy}" izz="{zz}" ixy="0" ixz="0" iyz="0"/></inertial></link>"""


def joint(child: str, parent: str, axis: str, at: str = "0 0 0", kind: str = "revolute") -> str:
    return f"""<joint name="to_{child}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>
      <origin xyz="{at}"/><axis xyz="{axis}"/>{LIMIT}</joint>"""


def two_links() -> str:
    """A double pendulum in the x-z plane, hanging down at q = 0: masses 2 and 1.5 kg, upper link .5 m long."""
    return f"""<robot name="two"><link name="base"/>{link("a", 2.0, "0 0 -0.2", (0.01, 0.02, 0.015))}
      {link("b", 1.5, "0 0 -0.3", (0.01, 0.03, 0.025))}{joint("a", "base", "0 1 0")}
      {joint("b", "a", "0 1 0", "0 0 -0.5")}</robot>"""


def two_link_torque(q, qd, qdd):
    """Torques of the double pendulum from its Lagrangian (Spong, Hutchinson, Vidyasagar, sec. 7.4)."""
    (m1, m2, l1, c1, c2, i1, i2) = (2.0, 1.5, 0.5, 0.2, 0.3, 0.02, 0.03)
    cos, sin = np.cos(q[..., 1]), np.sin(q[..., 1])
    m11 = i1 + i2 + m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * cos)
    m12 = i2 + m2 * (c2**2 + l1 * c2 * cos)
    m22 = i2 + m2 * c2**2
    h = m2 * l1 * c2 * sin
    s1, s12 = np.sin(q[..., 0]), np.sin(q[..., 0] + q[..., 1])
    (v1, v2), (a1, a2) = np.moveaxis(qd, -1, 0), np.moveaxis(qdd, -1, 0)
    tau1 = m11 * a1 + m12 * a2 - h * (2 * v1 * v2 + v2**2) + G * ((m1 * c1 + m2 * l1) * s1 + m2 * c2 * s12)
    tau2 = m12 * a1 + m22 * a2 + h * v1**2 + G * m2 * c2 * s12
    return np.stack([tau1, tau2], axis=-1)


def random_arm(rng: np.random.Generator, n: int = 6) -> str:
    """An arm with turned frames, skew axes, sliding joints and full inertias."""
    words = lambda x: " ".join(repr(float(v)) for v in x)  # noqa: E731
    text = '<robot name="random"><link name="l0"/>'
    for i in range(1, n + 1):
        root = rng.standard_normal((3, 3))
        second = root @ root.T * 0.01
        inertia = np.trace(second) * np.eye(3) - second
        entries = zip(("ixx", "ixy", "ixz", "iyy", "iyz", "izz"), inertia[np.triu_indices(3)], strict=True)
        text += f"""<link name="l{i}"><inertial>
          <origin xyz="{words(rng.normal(0, 0.1, 3))}" rpy="{words(rng.uniform(-3, 3, 3))}"/>
          <mass value="{rng.uniform(0.5, 4)}"/><inertia {" ".join(f'{k}="{float(v)!r}"' for k, v in entries)}/>
          </inertial></link>
          <joint name="j{i}" type="{"prismatic" if i % 3 == 0 else "revolute"}">
          <parent link="l{i - 1}"/><child link="l{i}"/>
          <origin xyz="{words(rng.normal(0, 0.3, 3))}" rpy="{words(rng.uniform(-3, 3, 3))}"/>
          <axis xyz="{words(rng.standard_normal(3))}"/><limit lower="-3" upper="3" effort="9" velocity="9"/></joint>"""
    return text + "</robot>"


def pinocchio_model(text: str, frozen: str = "finger"):
    pinocchio = pytest.importorskip("pinocchio")
    model = pinocchio.buildModelFromXML(text)
    held = [model.getJointId(name) for name in model.names if frozen in name]
    model = pinocchio.buildReducedModel(model, held, pinocchio.neutral(model)) if held else model
    return pinocchio, model, model.createData()


def test_torque_of_a_pendulum_is_its_closed_form():
    chain = read_chain(
        f'<robot name="p"><link name="base"/>{link("rod", 3.0, "0 0 -0.4", (0.0, 0.05, 0.0))}'
        f"{joint('rod', 'base', '0 1 0')}</robot>"
    )
    q, qd, qdd = np.random.default_rng(0).standard_normal((3, 20, 1))
    expected = (0.05 + 3.0 * 0.4**2) * qdd + 3.0 * G * 0.4 * np.sin(q)
    np.testing.assert_allclose(inverse_dynamics(chain, q, qd, qdd), expected, atol=1e-12)


def test_torques_of_two_links_are_their_lagrangian_form():
    q, qd, qdd = 2.0 * np.random.default_rng(1).standard_normal((3, 50, 2))
    expected = two_link_torque(q, qd, qdd)
    np.testing.assert_allclose(inverse_dynamics(read_chain(two_links()), q, qd, qdd), expected, atol=1e-11)


def test_a_sliding_mass_on_a_turntable_feels_coriolis_and_centrifugal_force():
    chain = read_chain(
        f'<robot name="t"><link name="base"/>{link("table", 0.0, "0 0 0")}{link("mass", 2.0, "0 0 0")}'
        f"{joint('table', 'base', '0 0 1')}{joint('mass', 'table', '1 0 0', kind='prismatic')}</robot>"
    )
    q, qd, qdd = np.random.default_rng(2).standard_normal((3, 50, 2))
    r, (turn, out), (turn_rate, out_rate) = q[:, 1], qd.T, qdd.T
    expected = np.stack([2 * r**2 * turn_rate + 4 * r * out * turn, 2 * (out_rate - r * turn**2)], axis=-1)
    np.testing.assert_allclose(inverse_dynamics(chain, q, qd, qdd), expected, atol=1e-12)


def test_torque_at_rest_is_statics():
    chain = read_chain("iiwa")
    q = np.random.default_rng(3).uniform(chain.lower, chain.upper)
    still = np.zeros(7)
    held = parameters(2.0, np.zeros(3), np.zeros((3, 3)))
    added = inverse_dynamics(chain, q, still, still, held) - inverse_dynamics(chain, q, still, still)
    step = 1e-6
    lift = [forward_kinematics(chain, q + step * e)[2] - forward_kinematics(chain, q - step * e)[2] for e in np.eye(7)]
    np.testing.assert_allclose(added, 2.0 * G * np.array(lift) / (2 * step), atol=1e-7)


def test_energy_of_a_swinging_double_pendulum_is_kept():
    chain = read_chain(two_links())

    def slope(state):
        q, qd = state
        return np.stack([qd, forward_dynamics(chain, q, qd, np.zeros(2))])

    def energy(state):
        q, qd = state
        high = -2.0 * 0.2 * np.cos(q[0]) - 1.5 * (0.5 * np.cos(q[0]) + 0.3 * np.cos(q.sum()))
        return 0.5 * qd @ mass_matrix(chain, q) @ qd + G * high

    state, step = np.array([[1.5, -0.8], [0.5, 2.0]]), 1e-3
    before = energy(state)
    for _ in range(300):
        k1 = slope(state)
        k2 = slope(state + step / 2 * k1)
        k3 = slope(state + step / 2 * k2)
        k4 = slope(state + step * k3)
        state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    assert abs(state[0, 0] - 1.5) > 0.3
    assert energy(state) == pytest.approx(before, abs=1e-8)


def test_power_of_the_torques_is_the_rate_of_the_kinetic_and_potential_energy():
    chain = read_chain(random_arm(np.random.default_rng(4)))
    q, qd, qdd = np.random.default_rng(5).standard_normal((3, 6))
    gravity = inverse_dynamics(chain, q, np.zeros(6), np.zeros(6))

    def kinetic(t):
        v = qd + t * qdd
        return 0.5 * v @ mass_matrix(chain, q + t * qd + t**2 / 2 * qdd) @ v

    rate = (kinetic(1e-5) - kinetic(-1e-5)) / 2e-5 + gravity @ qd
    assert inverse_dynamics(chain, q, qd, qdd) @ qd == pytest.approx(rate, rel=1e-7)


def test_mass_matrix_is_symmetric_and_positive_and_forward_undoes_inverse():
    chain = read_chain(random_arm(np.random.default_rng(6)))
    q, qd, qdd = np.random.default_rng(7).standard_normal((3, 4, 5, 6))
    held = Payload(2.0, (0.1, 0.0, 0.2), 0.01 * np.eye(3))
    inertia = mass_matrix(chain, q, held)
    np.testing.assert_allclose(inertia, np.swapaxes(inertia, -1, -2), atol=1e-12)
    assert (np.linalg.eigvalsh(inertia) > 0.0).all()
    tau = inverse_dynamics(chain, q, qd, qdd, held)
    np.testing.assert_allclose(forward_dynamics(chain, q, qd, tau, held), qdd, atol=1e-9)


def test_torque_is_linear_in_the_payload_through_its_regressor():
    chain, rng = read_chain("iiwa"), np.random.default_rng(8)
    q, qd, qdd = rng.standard_normal((3, 4, 5, 7))
    phi = rng.standard_normal((4, 1, 10))
    added = inverse_dynamics(chain, q, qd, qdd, phi) - inverse_dynamics(chain, q, qd, qdd)
    regressor = payload_regressor(chain, q, qd, qdd)
    assert regressor.shape == (4, 5, 7, 10)
    np.testing.assert_allclose((regressor @ phi[..., None])[..., 0], added, atol=1e-11)


def test_leading_axes_broadcast_and_a_batch_is_its_rows():
    chain, rng = read_chain("iiwa"), np.random.default_rng(9)
    q, qd, qdd = rng.standard_normal((3, 7)), rng.standard_normal((2, 1, 7)), rng.standard_normal(7)
    phi = np.stack([parameters(m, np.array([0, 0, 0.1]), np.zeros((3, 3))) for m in (1.0, 2.0)])[:, None]  # (2, 1, 10)
    whole = inverse_dynamics(chain, q, qd, qdd, phi)
    assert whole.shape == (2, 3, 7)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(whole[i, j], inverse_dynamics(chain, q[j], qd[i, 0], qdd, phi[i, 0]), atol=1e-12)
    assert inverse_dynamics(chain, np.zeros(7), np.zeros(7), np.zeros(7), phi).shape == (2, 1, 7)
    assert mass_matrix(chain, q, phi).shape == (2, 3, 7, 7)
    assert forward_dynamics(chain, q, np.zeros(7), np.zeros(7), phi).shape == (2, 3, 7)


def test_forward_kinematics_turns_about_skew_axes():
    text = (
        f'<robot name="s"><link name="base"/>{link("a", 1.0, "0 0 0")}{link("b", 1.0, "0 0 0")}'
        f"{joint('a', 'base', '1 -2 2', '0.1 0 0.3')}{joint('b', 'a', '0 0 1', '0.5 0.2 0')}</robot>"
    )
    turned = Rotation.from_rotvec(0.7 * np.array([1, -2, 2]) / 3).apply([0.5, 0.2, 0.0])
    np.testing.assert_allclose(
        forward_kinematics(read_chain(text), [0.7, 0.3]), turned + np.array([0.1, 0, 0.3]), atol=1e-15
    )


@pytest.mark.parametrize("robot", ["iiwa", "panda", "random"])
def test_torques_inertia_and_tip_agree_with_pinocchio(robot):
    text = random_arm(np.random.default_rng(10)) if robot == "random" else urdf(robot).read_text()
    pinocchio, model, data = pinocchio_model(text)
    chain = read_chain(text)
    q, qd, qdd = np.random.default_rng(11).standard_normal((3, 20, len(chain.names)))
    tau, inertia, tip = inverse_dynamics(chain, q, qd, qdd), mass_matrix(chain, q), forward_kinematics(chain, q)
    for i in range(len(q)):
        np.testing.assert_allclose(tau[i], pinocchio.rnea(model, data, q[i], qd[i], qdd[i]), atol=1e-10)
        upper = np.triu(pinocchio.crba(model, data, q[i]))
        np.testing.assert_allclose(inertia[i], upper + np.triu(upper, 1).T, atol=1e-10)
        pinocchio.forwardKinematics(model, data, q[i])
        np.testing.assert_allclose(tip[i], data.oMi[model.njoints - 1].translation, atol=1e-10)


def test_the_batch_of_a_benchmark_takes_a_fraction_of_a_tenth_of_a_second():
    chain = read_chain("iiwa")
    q, qd, qdd = np.random.default_rng(12).standard_normal((3, 400, 20, 7))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        inverse_dynamics(chain, q, qd, qdd)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1


def test_wrong_shapes_are_refused():
    chain = read_chain("iiwa")
    still = np.zeros(7)
    with pytest.raises(ValueError, match=r"7 joints.*got \(6,\)"):
        inverse_dynamics(chain, still[:6], still, still)
    with pytest.raises(ValueError, match=r"parameters \(\.\.\., 10\); got shape \(4,\)"):
        inverse_dynamics(chain, still, still, still, np.zeros(4))
