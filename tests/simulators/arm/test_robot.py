"""Robots with errors: sizes as asked for, bodies that can exist, friction and sensors as documented."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.arm.payload import Payload, about_com, box
from simulators.arm.rigid import inverse_dynamics
from simulators.arm.robot import draw_robot, nominal, scenario
from simulators.arm.urdf import read_chain


def test_a_nominal_robot_measures_the_torques_of_its_description():
    robot = nominal("iiwa")
    q, qd, qdd = np.random.default_rng(0).standard_normal((3, 5, 7))
    held = box(2.0, (0, 0, 0.1), (0.1, 0.1, 0.1))
    np.testing.assert_array_equal(
        robot.torque(q, qd, qdd, held), inverse_dynamics(read_chain("iiwa"), q, qd, qdd, held)
    )
    assert robot.tip == robot.chain.tip == "lbr_iiwa_link_7"


def test_torques_have_coulomb_viscous_and_load_friction_then_gain_and_offset():
    robot = draw_robot("iiwa", np.random.default_rng(1), gain=0.02, offset=0.5, load_friction=0.05)
    q, qd, qdd = np.random.default_rng(2).standard_normal((3, 5, 7))
    load = inverse_dynamics(robot.chain, q, qd, qdd)
    coulomb, viscous = [0.55, 0.87, 0.64, 1.28, 0.84, 0.30, 0.56], [0.6, 0.6, 0.4, 0.4, 0.2, 0.15, 0.1]
    friction = (coulomb + 0.05 * np.abs(load)) * np.tanh(qd / 0.02) + viscous * qd
    np.testing.assert_allclose(robot.torque(q, qd, qdd), robot.gain * (load + friction) + robot.offset, atol=1e-12)
    assert robot.gain.std() > 0.005 and np.abs(robot.gain - 1.0).max() < 0.1 and robot.offset.std() > 0.1


def test_friction_takes_energy_and_none_is_there_at_rest():
    robot = draw_robot("iiwa", np.random.default_rng(3), load_friction=0.05)
    qd = np.random.default_rng(4).standard_normal((50, 7))
    assert (robot.friction(qd, qd + 1.0) * qd > 0.0).all()
    assert not robot.friction(np.zeros(7), np.ones(7)).any()


def test_link_errors_have_the_sizes_asked_for():
    rng = np.random.default_rng(5)
    true = [about_com(phi) for phi in read_chain("iiwa").inertial]
    drawn = [[about_com(phi) for phi in draw_robot("iiwa", rng).chain.inertial] for _ in range(300)]
    mass = [[m / m0 - 1 for (m, _, _), (m0, _, _) in zip(links, true, strict=True)] for links in drawn]
    com = [[c - c0 for (_, c, _), (_, c0, _) in zip(links, true, strict=True)] for links in drawn]
    inertia = [[i[0, 0] / i0[0, 0] - 1 for (_, _, i), (_, _, i0) in zip(links, true, strict=True)] for links in drawn]
    for errors, size in ((mass, 0.05), (com, 0.010), (inertia, 0.05)):
        assert np.std(errors) == pytest.approx(size, rel=0.05)
        assert np.mean(errors) == pytest.approx(0.0, abs=0.005)
    assert abs(np.corrcoef(np.ravel(mass), np.ravel(inertia))[0, 1]) < 0.1


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_links_with_errors_are_bodies_that_can_exist(name):
    rng = np.random.default_rng(6)
    for _ in range(30):
        for phi in draw_robot(name, rng, link_error=0.5, com_error=0.05).chain.inertial:
            body = Payload(*about_com(phi))  # refuses an inertia that no body has
            assert body.mass > 0.0


def test_the_same_draws_are_made_whatever_the_sizes_of_the_errors():
    small, large = (draw_robot("iiwa", np.random.default_rng(7), link_error=e, gain=e) for e in (0.01, 0.02))
    ratio = (large.gain - 1.0) / (small.gain - 1.0)
    np.testing.assert_allclose(ratio, 2.0, rtol=1e-9)
    base = read_chain("iiwa").inertial[:, 0]
    np.testing.assert_allclose((large.chain.inertial[:, 0] - base) / (small.chain.inertial[:, 0] - base), 2.0)


def test_scenarios_are_those_of_the_benchmark():
    first, third = (scenario(name, np.random.default_rng(8)) for name in ("S1", "S3"))
    np.testing.assert_array_equal(first.chain.inertial, third.chain.inertial)
    assert (first.gain == 1.0).all() and first.load_friction == 0.0 and not first.offset.any()
    assert (third.gain != 1.0).all() and third.load_friction == 0.05
    assert first.coulomb.tolist() == [0.55, 0.87, 0.64, 1.28, 0.84, 0.30, 0.56]
    with pytest.raises(ValueError, match="Unknown scenario 'S2'; it is 'S1' or 'S3'"):
        scenario("S2", np.random.default_rng(0))


def test_friction_of_other_robots_stays_below_a_twentieth_of_their_effort(tmp_path):
    panda = draw_robot("panda", np.random.default_rng(9))
    assert (panda.coulomb <= 0.05 * panda.chain.effort).all() and panda.coulomb[0] == 0.55
    assert panda.viscous[4] == pytest.approx(0.2 * 0.6 / 0.84)  # joint 5: 12 Nm
    text = """<robot name="one"><link name="a"/><link name="b"><inertial><mass value="1"/></inertial></link>
      <joint name="j" type="continuous"><parent link="a"/><child link="b"/></joint></robot>"""
    path = tmp_path / "one.urdf"
    path.write_text(text)
    assert draw_robot(path, np.random.default_rng(10)).coulomb.tolist() == [0.55]
    assert not draw_robot(path, np.random.default_rng(10), friction=False).viscous.any()


def test_negative_errors_are_refused():
    for name in ("link_error", "com_error", "gain", "offset", "load_friction"):
        with pytest.raises(ValueError, match=f"{name}.*0 or more; got -1"):
            draw_robot("iiwa", np.random.default_rng(0), **{name: -1})
