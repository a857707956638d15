"""What is known of a payload beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains.arm.payloads import given_mass, payload_prior
from simulators import arm as simulator


def test_a_prior_from_boxes_is_the_mean_and_covariance_of_their_parameters():
    rng = np.random.default_rng(0)
    mass, com, edges = rng.uniform(0, 5, 50), rng.uniform(-0.1, 0.1, (50, 3)), rng.uniform(0.04, 0.16, (50, 3))
    phi = np.stack([simulator.box(*one).parameters for one in zip(mass, com, edges, strict=True)])
    mean, covariance = payload_prior(*(torch.as_tensor(x) for x in (mass, com, edges)))
    np.testing.assert_allclose(mean, phi.mean(0), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(phi.T), atol=1e-12)


def test_what_is_known_once_the_mass_is_is_the_gaussian_given_it(prior):
    mass = torch.tensor([2.0, 4.0, torch.nan, 0.0], dtype=torch.float64)
    mean, covariance = given_mass(prior, mass)
    # A measurement of the mass with next to no error says the same.
    first = prior.covariance[0]
    gain = first / (first[0] + 1e-12)
    for row in range(2):
        torch.testing.assert_close(mean[row], prior.mean + gain * (mass[row] - prior.mean[0]), atol=1e-9, rtol=0)
        expected = prior.covariance - gain[:, None] * first
        torch.testing.assert_close(covariance[row], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(mean[2], prior.mean)
    torch.testing.assert_close(covariance[2], prior.covariance)
    assert (mean[3] == 0).all() and (covariance[3] == 0).all()


def test_a_prior_needs_two_payloads_without_blanks():
    com = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="two or more"):
        payload_prior(torch.ones(1), com[:1])
    with pytest.raises(ValueError, match="leave out payloads with blanks"):
        payload_prior(torch.tensor([1.0, torch.nan]), com)
