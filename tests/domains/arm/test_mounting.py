"""Arms that hang from ceilings and walls: gravity is told from the torques, and tried before signs are doubted."""

from __future__ import annotations

import dataclasses
import re
import warnings

import numpy as np
import pytest
import torch

from scimeta.domains import arm
from scimeta.domains.arm.mounting import estimate_gravity
from scimeta.domains.arm.specialized import specialize
from simulators import arm as simulator
from tests.domains.arm.recorded import as_log, describe

DOWN, UP, WALL = (0.0, 0.0, -9.81), (0.0, 0.0, 9.81), (9.81, 0.0, 0.0)
TILTED = (0.0, 2.54, -9.476)  # by 15 degrees


def hung(gravity, *, name="iiwa", scenario="S1", seed=0, trials=4, still=False):
    """Logs of a robot that hangs so, and what it held."""
    rng = np.random.default_rng(seed)
    robot = simulator.scenario(scenario, rng, name)
    robot = dataclasses.replace(robot, chain=dataclasses.replace(robot.chain, gravity=np.array(gravity)))
    payloads = simulator.draw_payloads(trials, rng, mass=(0.0, 3.0))
    made = simulator.simulate(
        robot, payloads, [simulator.draw_movement(robot.chain, rng) for _ in payloads], 60, seed=seed
    )
    if still:
        held = np.stack([payload.parameters for payload in payloads])[:, None]
        tau = robot.torque(made.q, 0 * made.qd, 0 * made.qdd, held) + 0.1 * rng.standard_normal(made.q.shape)
        made = dataclasses.replace(made, qd=0 * made.qd, qdd=0 * made.qdd, tau=tau)
    return made


def written(folder, made, *, name="iiwa", sign=1, labels=True, **keys):
    log = as_log(made)
    mass, com = (made.mass, made.com) if labels else (None, None)
    arm.write_trials(folder, simulator.urdf(name), log._replace(tau=sign * log.tau), mass=mass, com=com)
    describe(folder, **keys)
    return folder


def read(folder):
    """What reading says, warnings and errors; velocities of an arm held still contradict its positions on purpose."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            arm.read_trials(folder)
            error = ""
        except ValueError as raised:
            error = str(raised)
    return error, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("gravity", [UP, WALL, (0.0, -9.81, 0.0), TILTED, (-4.905, 4.905, -6.937)])
@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_gravity_is_found_to_three_degrees_whatever_links_and_friction_are(name, gravity):
    for seed in range(3):
        made = hung(gravity, name=name, scenario="S3", seed=seed)
        log = arm.Log(*(values.flatten(0, 1) for values in as_log(made)))
        held = torch.tensor(made.payload).repeat_interleave(60, 0)
        found = estimate_gravity(arm.read_urdf(simulator.urdf(name)).chain, log, held).numpy()
        cosine = found @ gravity / np.linalg.norm(found) / np.linalg.norm(gravity)
        assert np.degrees(np.arccos(min(cosine, 1.0))) < 3.0
        assert 8.8 < np.linalg.norm(found) < 10.8


@pytest.mark.parametrize("name", ["iiwa", "panda"])
@pytest.mark.parametrize(("gravity", "said"), [(UP, "[0.0, 0.0, 9.81]"), (WALL, "[9.81, 0.0, 0.0]")])
@pytest.mark.parametrize("labels", [True, False])
def test_an_arm_on_a_ceiling_or_a_wall_is_told_to_state_its_gravity_and_no_sign(tmp_path, name, gravity, said, labels):
    made = hung(gravity, name=name)
    error, _ = read(written(tmp_path / "arm", made, name=name, labels=labels))
    assert "if the arm hangs so, write gravity: [" in error
    if labels:
        assert f"write gravity: {said} in robot.yaml" in error and "torque_sign" not in error
        describe(tmp_path / "arm", gravity=list(gravity))
        assert read(tmp_path / "arm") == ("", [])


def test_masses_are_right_once_gravity_is_stated(tmp_path):
    made = hung(UP, trials=8)
    trials = arm.read_trials(written(tmp_path / "arm", made, gravity=[0, 0, 9.81]))
    robot = simulator.scenario("S1", np.random.default_rng(0))
    true = arm.nominal(trials.arm)._replace(  # links and friction as they are: gravity alone could be wrong
        chain=trials.arm.chain._replace(inertial=torch.tensor(robot.chain.inertial)),
        coulomb=torch.tensor(robot.coulomb),
        viscous=torch.tensor(robot.viscous),
    )
    found = arm.weigh_map(true, as_log(made), arm.prior_of_labels(made.mass, made.com))
    assert (found.mass - trials.mass).abs().max() < 0.04
    assert not found.withheld.any()


def test_a_tilt_of_fifteen_degrees_is_found_where_payloads_are_known(tmp_path):
    error, _ = read(written(tmp_path / "arm", hung(TILTED)))
    stated = [float(number) for number in re.search(r"write gravity: \[(.*?)\]", error)[1].split(",")]
    assert np.abs(np.subtract(stated, TILTED)).max() < 0.3
    describe(tmp_path / "arm", gravity=stated)
    assert read(tmp_path / "arm") == ("", [])


def test_torques_of_the_wrong_sign_on_an_upright_arm_are_still_told_so(tmp_path):
    for labels in (True, False):
        error, _ = read(written(tmp_path / str(labels), hung(DOWN), sign=-1, labels=labels))
        assert "are opposite to what the URDF asks for" in error and "gravity" not in error


def test_a_sign_stated_to_make_a_hung_arm_fit_is_refused_with_both_remedies(tmp_path):
    error, _ = read(written(tmp_path / "arm", hung(UP), torque_sign=-1))
    assert "write gravity: [0.0, 0.0, 9.81] and torque_sign: 1 in robot.yaml" in error


def test_an_arm_that_is_hung_and_recorded_with_the_wrong_sign_gets_both_remedies(tmp_path):
    error, _ = read(written(tmp_path / "arm", hung(UP), sign=-1))
    assert "write gravity: [0.0, 0.0, 9.81] and torque_sign: -1 in robot.yaml" in error


def test_recordings_at_rest_cannot_tell_a_ceiling_from_a_sign_and_say_so(tmp_path):
    ceiling, _ = read(written(tmp_path / "ceiling", hung(UP, still=True)))
    flipped, _ = read(written(tmp_path / "flipped", hung(DOWN, still=True), sign=-1))
    for said in (ceiling, flipped):
        assert "write gravity: [0.0, 0.0, 9.81] in robot.yaml; if it does not hang so, the torques of" in said
    error, warned = read(written(tmp_path / "stated", hung(DOWN, still=True), sign=-1, torque_sign=-1))
    assert error == "" and any("torque_sign in robot.yaml cannot be told from gravity" in one for one in warned)
    describe(tmp_path / "stated", gravity=list(DOWN))
    error, warned = read(tmp_path / "stated")
    assert error == "" and not any("gravity" in one for one in warned)


def test_a_gravity_stated_wrong_is_warned_of(tmp_path):
    error, warned = read(written(tmp_path / "arm", hung(UP), gravity=list(WALL)))
    assert error == "" and any("write gravity: [0.0, 0.0, 9.81]" in one and "so it stands" in one for one in warned)


@pytest.mark.parametrize("scenario", ["S1", "S3"])
def test_an_upright_arm_raises_no_doubt_of_its_mounting(tmp_path, scenario):
    for seed in range(4):
        for labels in (True, False):
            folder = tmp_path / f"{seed}{labels}"
            assert read(written(folder, hung(DOWN, scenario=scenario, seed=seed), labels=labels)) == ("", [])


def test_torques_without_gravity_are_told_so(tmp_path):
    made = hung(DOWN)
    chain = arm.read_urdf(simulator.urdf("iiwa")).chain
    still = torch.zeros(made.q.shape, dtype=torch.float64)
    weight = arm.inverse_dynamics(chain, torch.tensor(made.q), still, still, torch.tensor(made.payload)[:, None])
    _, warned = read(written(tmp_path / "arm", dataclasses.replace(made, tau=made.tau - weight.numpy()), labels=False))
    assert any("was it subtracted? Record them whole" in one for one in warned)


def test_all_that_computes_torques_knows_of_gravity(tmp_path):
    text = simulator.urdf("iiwa").read_text()
    base = re.search(r'<link name="([^"]+)"', text)[1]
    mount = f'<link name="w"/><joint name="m" type="fixed"><parent link="w"/><child link="{base}"/>'
    mount += '<origin rpy="0 1.5707963267948966 0"/></joint></robot>'
    (tmp_path / "hung.urdf").write_text(text.replace("</robot>", mount))
    by_link = arm.read_urdf(tmp_path / "hung.urdf").chain
    by_vector = arm.read_urdf(simulator.urdf("iiwa"), gravity=WALL).chain
    q, qd, qdd = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    payload = torch.tensor(simulator.box(2.0, (0.0, 0.02, 0.1), (0.1, 0.1, 0.1)).parameters)
    expected = arm.inverse_dynamics(by_link, q, qd, qdd, payload)
    torch.testing.assert_close(arm.inverse_dynamics(by_vector, q, qd, qdd, payload), expected)
    torch.testing.assert_close(specialize(by_vector)(q, qd, qdd, payload), expected)
    linear = arm.payload_regressor(by_vector, q, qd, qdd) @ payload + arm.inverse_dynamics(by_vector, q, qd, qdd)
    torch.testing.assert_close(linear, expected)
    links = (arm.link_regressor(by_vector, q, qd, qdd) * by_vector.inertial).sum((-2, -1))
    torch.testing.assert_close(links, arm.inverse_dynamics(by_vector, q, qd, qdd))
    theirs = dataclasses.replace(simulator.read_chain("iiwa"), gravity=np.array(WALL))
    simulated = simulator.inverse_dynamics(theirs, q.numpy(), qd.numpy(), qdd.numpy(), payload.numpy())
    np.testing.assert_allclose(simulated, expected, atol=1e-9)
    hold = arm.gravity_compensated(by_vector, q, qd, (q, qd, qdd), payload)
    torch.testing.assert_close(hold, arm.inverse_dynamics(by_vector, q, 0 * q, 0 * q, payload))


def test_gravity_is_written_read_back_and_refused_where_it_is_none(tmp_path):
    made = hung(UP, trials=2)
    folder = arm.write_trials(tmp_path / "arm", simulator.urdf("iiwa"), as_log(made), mass=made.mass, gravity=UP)
    assert arm.read_trials(folder).arm.chain.gravity.tolist() == list(UP)
    for wrong, said in (
        ([0, 0, -1], "9.81 m/s.2 long, to 1 %; .* is 1 long"),
        ([0, 0, 0], "must not be zero"),
        ([0, 0, float("nan")], "three finite numbers"),
        ("down", "three finite numbers"),
        ([0, -9.81], "three finite numbers"),
        ([0, 0, -981], "is 981 long"),
    ):
        with pytest.raises(ValueError, match=said):
            arm.read_urdf(simulator.urdf("iiwa"), gravity=wrong)
        describe(folder, gravity=wrong)
        with pytest.raises(ValueError, match=rf"^robot.yaml: gravity .*{said}"):
            arm.read_trials(folder)
