"""Inverse dynamics with an arm's numbers written in: the same torques as for any arm."""

from __future__ import annotations

import pytest
import torch

from scimeta.domains.arm import Chain, inverse_dynamics, read_urdf, specialize
from simulators import arm as simulated


def random_chain(seed: int, slides: list[float]) -> Chain:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = len(slides)
    rotation = torch.linalg.qr(draw(n, 3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    axis = torch.nn.functional.normalize(draw(n, 3), dim=-1)
    return Chain(rotation, draw(n, 3), axis, torch.tensor(slides, dtype=torch.float64), draw(n, 10))


def motion(*shape: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_the_torques_are_those_of_any_arm(name):
    chain = read_urdf(simulated.urdf(name)).chain
    payload = torch.randn(4, 1, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    q, qd, qdd = motion(4, 25, 7)
    torques = specialize(chain)
    # The angles of a URDF are rounded to about 1e-12, which is what stands for zero here.
    torch.testing.assert_close(torques(q, qd, qdd), inverse_dynamics(chain, q, qd, qdd), rtol=0, atol=1e-9)
    exact = inverse_dynamics(chain, q, qd, qdd, payload)
    torch.testing.assert_close(torques(q, qd, qdd, payload), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("slides", [[0.0], [1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0], [0.0] * 6])
def test_arms_of_any_geometry_agree_prismatic_joints_too(slides):
    chain = random_chain(3, slides)
    q, qd, qdd = motion(30, len(slides))
    exact = inverse_dynamics(chain, q, qd, qdd)
    torch.testing.assert_close(specialize(chain)(q, qd, qdd), exact, rtol=1e-11, atol=1e-10)


def test_gradients_agree():
    chain = random_chain(4, [0.0, 1.0, 0.0])
    found = []
    for law in (specialize(chain), lambda *motion: inverse_dynamics(chain, *motion)):
        inputs = [x.clone().requires_grad_() for x in motion(5, 3)]
        payload = torch.ones(10, dtype=torch.float64, requires_grad=True)
        found.append(torch.autograd.grad(law(*inputs, payload).square().sum(), [*inputs, payload]))
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-9)


def test_later_changes_of_the_chain_are_not_read():
    chain = random_chain(5, [0.0, 0.0])
    q, qd, qdd = motion(3, 2)
    torques = specialize(chain)
    before = torques(q, qd, qdd)
    chain.inertial.zero_()
    assert torch.equal(torques(q, qd, qdd), before)
