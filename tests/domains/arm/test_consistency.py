"""Parameters that a body can have, and the nearest to those that none has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm.consistency import consistent, is_consistent, pseudo_inertia
from scimeta.domains.arm.payloads import box
from simulators import arm as simulator


def scattered(trials: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """True parameters, estimates that no body has, and the covariance of their errors."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    phi = torch.as_tensor(np.stack([p.parameters for p in simulator.draw_payloads(trials, rng)]))
    sd = torch.tensor([0.01, *3 * [0.003], *6 * [0.02]], dtype=torch.float64)
    mixing = torch.randn(trials, 10, 10, generator=generator, dtype=torch.float64)
    correlation = mixing @ mixing.mT / 10 + 0.05 * torch.eye(10, dtype=torch.float64)
    covariance = sd[:, None] * correlation * sd
    errors = torch.linalg.cholesky(covariance) @ torch.randn(trials, 10, 1, generator=generator, dtype=torch.float64)
    return phi, phi + errors[..., 0], covariance


def test_bodies_are_consistent_and_what_no_body_has_is_not():
    phi, bad, _ = scattered()
    assert is_consistent(phi).all() and not is_consistent(bad).any()
    wide = box(torch.tensor(1.0), torch.zeros(3), torch.tensor([0.1, 0.1, 0.1]))
    negative, triangle, far = wide.clone(), wide.clone(), wide.clone()
    negative[0], triangle[9], far[1] = -1.0, 3 * triangle[4], 0.5
    assert is_consistent(torch.stack((wide, negative, triangle, far))).tolist() == [True, False, False, False]


def test_the_pseudo_inertia_of_a_box_is_its_second_moments():
    generator = torch.Generator().manual_seed(0)
    edges, com = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([0.05, -0.1, 0.2]).double()
    points = com + edges * (torch.rand(400000, 3, generator=generator, dtype=torch.float64) - 0.5)
    homogeneous = torch.cat((points, torch.ones(len(points), 1)), 1)
    expected = 2.0 * homogeneous.mT @ homogeneous / len(points)
    torch.testing.assert_close(pseudo_inertia(box(torch.tensor(2.0).double(), com, edges)), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_nearest_consistent_parameters_are_the_projection(weighted):
    phi, bad, covariance = scattered()
    found = consistent(bad, covariance if weighted else None)
    assert is_consistent(found).all()
    # No body lies on the estimate's side of the plane through the projection: what makes it one.
    if weighted:
        metric = torch.linalg.inv(covariance)
    else:
        size = torch.tensor([0.1, 0.1, 0.1, 1.0], dtype=torch.float64)
        basis = pseudo_inertia(torch.eye(10, dtype=torch.float64)) / (size[:, None] * size)
        flat = basis.flatten(-2)
        metric = flat @ flat.mT
    away = ((bad - found)[:, None] @ metric)[:, 0]
    bodies = torch.cat((phi, 0.1 * phi, 100 * phi, torch.zeros(1, 10, dtype=torch.float64), found, 2 * found))
    assert ((away[:, None] * (bodies - found[:, None])).sum(-1) < 1e-6).all()


def test_consistent_parameters_stay_and_a_projection_is_its_own():
    phi, bad, covariance = scattered()
    for given in (None, covariance):
        torch.testing.assert_close(consistent(phi, given), phi, atol=0, rtol=0)
        once = consistent(bad, given)
        torch.testing.assert_close(consistent(once, given), once, atol=1e-6, rtol=0)


def test_a_mass_that_is_known_does_not_pay_for_moments_that_are_not():
    phi, bad, covariance = scattered()
    error = lambda found: (found[:, 0] - phi[:, 0]).square().mean().sqrt()  # noqa: E731
    assert error(consistent(bad, covariance)) < error(bad) < error(consistent(bad))
