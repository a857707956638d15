"""Rigid-body torques against Pinocchio, closed forms, the balance of power, and their own other forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm.dynamics import (
    GRAVITY,
    Chain,
    inverse_dynamics,
    link_regressor,
    mass_matrix,
    payload_regressor,
    tip_position,
)
from scimeta.domains.arm.urdf import Arm, read_urdf
from simulators.arm import urdf

ROBOTS = ("iiwa", "panda")


def read(name: str) -> Arm:
    return read_urdf(urdf(name))


def motion(joints: int, *lead: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, qd, qdd = torch.randn(3, *lead, joints, generator=generator, dtype=torch.float64)
    return q, qd, qdd


def body(mass: float, com: tuple[float, float, float], own: Tensor) -> Tensor:
    """Parameters about the origin of a body with moments (3, 3) about its centre of mass."""
    c = torch.tensor(com, dtype=torch.float64)
    about = own + mass * (c @ c * torch.eye(3, dtype=torch.float64) - torch.outer(c, c))
    return torch.cat((torch.tensor([mass], dtype=torch.float64), mass * c, about[torch.triu_indices(3, 3).unbind()]))


def chain(poses: list[tuple], axes: list[tuple], slides: list[float], inertial: list[Tensor]) -> Chain:
    """Joints whose frames are all parallel at zero."""
    as_tensor = {"dtype": torch.float64}
    rotation = torch.eye(3, **as_tensor).expand(len(poses), 3, 3)
    return Chain(
        rotation,
        torch.tensor(poses, **as_tensor),
        torch.tensor(axes, **as_tensor),
        torch.tensor(slides, **as_tensor),
        torch.stack(inertial),
    )


def mixed() -> Chain:
    """A prismatic joint between two that turn."""
    bodies = [body(2.0, (0.1, 0.0, 0.2), 0.02 * torch.eye(3, dtype=torch.float64)) for _ in range(3)]
    return chain([(0, 0, 0.3), (0.2, 0, 0.1), (0, 0.1, 0)], [(0, 0, 1), (0, 1, 0), (1, 0, 0)], [0, 1, 0], bodies)


def pinocchio_torques(name: str, arm: Arm, q: Tensor, qd: Tensor, qdd: Tensor) -> tuple[np.ndarray, list, list]:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(str(urdf(name)))
    others = [i for i in range(1, model.njoints) if model.names[i] not in arm.joints]
    model = pin.buildReducedModel(model, others, pin.neutral(model)) if others else model
    model.gravity.linear = np.array([0.0, 0.0, -GRAVITY])
    data = model.createData()
    rows = list(zip(*(x.numpy() for x in (q, qd, qdd)), strict=True))
    torques = np.array([pin.rnea(model, data, *row) for row in rows])
    matrices = []
    for row in rows:
        upper = np.triu(pin.crba(model, data, row[0]))
        matrices.append(upper + np.triu(upper, 1).T)
    tips = []
    for row in rows:
        pin.forwardKinematics(model, data, row[0])
        tips.append(data.oMi[model.njoints - 1].translation.copy())
    return torques, matrices, tips


@pytest.mark.parametrize("name", ROBOTS)
def test_torques_inertia_and_tip_are_pinocchios(name: str) -> None:
    arm = read(name)
    q, qd, qdd = motion(len(arm.joints), 50)
    torques, matrices, tips = pinocchio_torques(name, arm, q, qd, qdd)
    np.testing.assert_allclose(inverse_dynamics(arm.chain, q, qd, qdd), torques, atol=1e-10, rtol=0)
    np.testing.assert_allclose(mass_matrix(arm.chain, q), matrices, atol=1e-10, rtol=0)
    np.testing.assert_allclose(tip_position(arm.chain, q), tips, atol=1e-10, rtol=0)


def test_a_pendulum_is_the_closed_form() -> None:
    mass, length, own = 2.0, 0.7, 0.03
    pendulum = chain([(0, 0, 1)], [(0, 1, 0)], [0], [body(mass, (0, 0, -length), own * torch.eye(3).double())])
    q, qd, qdd = motion(1, 20)
    expected = (own + mass * length**2) * qdd + mass * GRAVITY * length * q.sin()
    torch.testing.assert_close(inverse_dynamics(pendulum, q, qd, qdd), expected, atol=1e-12, rtol=0)


def test_a_planar_two_link_arm_is_the_closed_form() -> None:
    l1, c1, c2, m1, m2, i1, i2 = 0.5, 0.2, 0.3, 3.0, 2.0, 0.04, 0.02
    links = [body(m1, (c1, 0, 0), i1 * torch.eye(3).double()), body(m2, (c2, 0, 0), i2 * torch.eye(3).double())]
    # About -y, a positive angle lifts the arm from the horizontal x axis.
    arm = chain([(0, 0, 0), (l1, 0, 0)], [(0, -1, 0), (0, -1, 0)], [0, 0], links)
    q, qd, qdd = motion(2, 20)
    (a, b), (va, vb), (wa, wb) = q.unbind(-1), qd.unbind(-1), qdd.unbind(-1)
    inner, cross = i2 + m2 * c2**2, m2 * l1 * c2 * b.cos()
    drag = m2 * l1 * c2 * b.sin()
    m11 = i1 + m1 * c1**2 + m2 * l1**2 + inner + 2 * cross
    g2 = m2 * GRAVITY * c2 * (a + b).cos()
    first = (
        m11 * wa + (inner + cross) * wb - drag * (2 * va * vb + vb**2) + (m1 * c1 + m2 * l1) * GRAVITY * a.cos() + g2
    )
    second = (inner + cross) * wa + inner * wb + drag * va**2 + g2
    found = inverse_dynamics(arm, q, qd, qdd)
    torch.testing.assert_close(found, torch.stack((first, second), -1), atol=1e-12, rtol=0)


def test_a_lift_carries_weight_and_a_slide_on_a_turntable_feels_the_centrifugal_force() -> None:
    lift = chain([(0, 0, 0)], [(0, 0, 1)], [1], [body(3.0, (0.1, 0, 0), torch.eye(3).double())])
    q, qd, qdd = motion(1, 10)
    torch.testing.assert_close(inverse_dynamics(lift, q, qd, qdd), 3.0 * (qdd + GRAVITY), atol=1e-12, rtol=0)
    nothing, bead = torch.zeros(10, dtype=torch.float64), body(1.5, (0, 0, 0), torch.zeros(3, 3).double())
    slide = chain([(0, 0, 0), (0, 0, 0)], [(0, 0, 1), (1, 0, 0)], [0, 1], [nothing, bead])
    q, qd, qdd = motion(2, 10)
    radius, spin, speed = q[:, 1], qd[:, 0], qd[:, 1]
    force = 1.5 * (qdd[:, 1] - radius * spin**2)
    torque = 1.5 * (radius**2 * qdd[:, 0] + 2 * radius * speed * spin)
    found = inverse_dynamics(slide, q, qd, qdd)
    torch.testing.assert_close(found, torch.stack((torque, force), -1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ROBOTS)
def test_torque_at_rest_is_the_slope_of_the_potential_energy(name: str) -> None:
    arm = read(name)
    q = motion(len(arm.joints), 1)[0][0].requires_grad_()
    mass = arm.chain.inertial[:, 0]
    energy = 0.0
    for link in range(len(mass)):
        outer = Chain(*(part[: link + 1] for part in arm.chain))
        com = arm.chain.inertial[link, 1:4] / mass[link]
        energy = energy + mass[link] * GRAVITY * tip_position(outer, q[: link + 1], com)[2]
    (slope,) = torch.autograd.grad(energy, q)
    still = torch.zeros_like(slope)
    torch.testing.assert_close(inverse_dynamics(arm.chain, q.detach(), still, still), slope, atol=1e-10, rtol=0)


@pytest.mark.parametrize("arm", [*ROBOTS, "mixed"])
def test_the_power_of_the_joints_is_the_rate_of_the_kinetic_energy_and_of_the_lift(arm: str) -> None:
    given = mixed() if arm == "mixed" else read(arm).chain
    q, qd, qdd = motion(len(given.axis), 1)
    q, qd, qdd = q[0], qd[0], qdd[0]

    def kinetic(time: Tensor) -> Tensor:
        angle, speed = q + time * qd + time**2 / 2 * qdd, qd + time * qdd
        return speed @ mass_matrix(given, angle) @ speed / 2

    rate = torch.autograd.functional.jacobian(kinetic, torch.tensor(0.0, dtype=torch.float64))
    still = torch.zeros_like(q)
    lift = inverse_dynamics(given, q, still, still) @ qd
    torch.testing.assert_close(inverse_dynamics(given, q, qd, qdd) @ qd, rate + lift, atol=1e-10, rtol=0)


@pytest.mark.parametrize("arm", [*ROBOTS, "mixed"])
def test_the_regressors_times_the_parameters_are_the_torques(arm: str) -> None:
    given = mixed() if arm == "mixed" else read(arm).chain
    q, qd, qdd = motion(len(given.axis), 4, 5)
    links = link_regressor(given, q, qd, qdd)
    assert links.shape == (*q.shape, len(given.axis), 10)
    own = torch.einsum("...lp,lp->...", links, given.inertial)
    torch.testing.assert_close(own, inverse_dynamics(given, q, qd, qdd), atol=1e-10, rtol=0)
    payload = torch.randn(4, 1, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    added = (payload_regressor(given, q, qd, qdd) @ payload[..., None])[..., 0]
    torch.testing.assert_close(inverse_dynamics(given, q, qd, qdd, payload), own + added, atol=1e-10, rtol=0)
    torch.testing.assert_close(payload_regressor(given, q, qd, qdd), links[..., -1, :], atol=1e-12, rtol=0)


def test_a_link_does_not_load_the_joints_beyond_it() -> None:
    arm = read("iiwa").chain
    links = link_regressor(arm, *motion(7, 3))
    for joint in range(7):
        assert (links[:, joint, :joint] == 0).all()


@pytest.mark.parametrize("arm", [*ROBOTS, "mixed"])
def test_the_mass_matrix_is_symmetric_positive_definite_and_grows_with_a_payload(arm: str) -> None:
    given = mixed() if arm == "mixed" else read(arm).chain
    q = motion(len(given.axis), 30)[0]
    payload = body(3.0, (0.0, 0.02, 0.1), 0.01 * torch.eye(3, dtype=torch.float64))
    inertia, loaded = mass_matrix(given, q), mass_matrix(given, q, payload)
    torch.testing.assert_close(inertia, inertia.mT, atol=1e-10, rtol=0)
    assert (torch.linalg.eigvalsh(inertia) > 0).all()
    assert (torch.linalg.eigvalsh(loaded - inertia) > -1e-10).all()


def test_gradients_through_autograd_are_finite_differences() -> None:
    given = mixed()
    q, qd, qdd = (x.requires_grad_() for x in motion(3, 2))
    payload = body(1.0, (0.0, 0.1, 0.1), 0.01 * torch.eye(3, dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda *x: inverse_dynamics(given, *x), (q, qd, qdd, payload))
    torch.autograd.gradcheck(lambda *x: payload_regressor(given, *x), (q, qd, qdd))
    torch.autograd.gradcheck(lambda *x: link_regressor(given, *x), (q, qd, qdd))
    inertial = given.inertial.clone().requires_grad_()
    torch.autograd.gradcheck(lambda phi: inverse_dynamics(given._replace(inertial=phi), q, qd, qdd), (inertial,))


def test_any_leading_axes_and_vmap_give_the_same_numbers() -> None:
    given = read("iiwa").chain
    q, qd, qdd = motion(7, 2, 3, 4)
    payload = motion(10, 2, 1, 1)[0]
    whole = inverse_dynamics(given, q, qd, qdd, payload)
    assert whole.shape == (2, 3, 4, 7)
    for trial in range(2):
        one = inverse_dynamics(given, q[trial, 1, 2], qd[trial, 1, 2], qdd[trial, 1, 2], payload[trial, 0, 0])
        torch.testing.assert_close(whole[trial, 1, 2], one, atol=1e-12, rtol=0)
    mapped = torch.func.vmap(lambda *x: inverse_dynamics(given, *x))(q, qd, qdd, payload)
    torch.testing.assert_close(mapped, whole, atol=1e-12, rtol=0)
    mapped = torch.func.vmap(lambda *x: payload_regressor(given, *x))(q, qd, qdd)
    torch.testing.assert_close(mapped, payload_regressor(given, q, qd, qdd), atol=1e-12, rtol=0)
    mapped = torch.func.vmap(lambda x: mass_matrix(given, x))(q)
    torch.testing.assert_close(mapped, mass_matrix(given, q), atol=1e-12, rtol=0)


def test_a_joint_turned_by_a_whole_turn_is_where_it_was() -> None:
    given = read("panda").chain
    q, qd, qdd = motion(7, 5)
    turned = inverse_dynamics(given, q + 2 * math.pi, qd, qdd)
    torch.testing.assert_close(turned, inverse_dynamics(given, q, qd, qdd), atol=1e-9, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_dynamics_run_on_a_gpu():
    chain = read("iiwa").chain
    q, qd, qdd = motion(7, 50, seed=9)
    there = type(chain)(*(part.cuda() for part in chain))
    for function in (inverse_dynamics, link_regressor, payload_regressor):
        found = function(there, q.cuda(), qd.cuda(), qdd.cuda())
        torch.testing.assert_close(found.cpu(), function(chain, q, qd, qdd), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mass_matrix(there, q.cuda()).cpu(), mass_matrix(chain, q), rtol=1e-10, atol=1e-10)
