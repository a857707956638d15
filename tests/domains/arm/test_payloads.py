"""What is known of a payload beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains.arm.payloads import given_mass, payload_prior, prior_of_labels, prior_of_range
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


def test_labels_without_blanks_give_nearly_the_prior_of_their_boxes():
    payloads = simulator.draw_payloads(300, np.random.default_rng(0))
    mass, com = torch.tensor([p.mass for p in payloads]), torch.tensor(np.array([p.com for p in payloads]))
    stated, exact = prior_of_labels(mass, com), payload_prior(mass, com)
    torch.testing.assert_close(stated.mean[:4], exact.mean[:4], rtol=1e-9, atol=1e-9)
    spread, narrow = (torch.linalg.cholesky(prior.covariance).diagonal() for prior in (stated, exact))
    assert (spread[4:] > narrow[4:]).all()  # edges are open too
    spread, narrow = (prior.covariance.diagonal().sqrt()[:4] for prior in (stated, exact))
    torch.testing.assert_close(spread, narrow, rtol=0.1, atol=0)


def test_a_centre_of_mass_that_is_blank_is_ten_centimetres_about_the_origin():
    mean, covariance = prior_of_labels(torch.tensor([2.0, 2.0 + 1e-6]))
    np.testing.assert_allclose(mean[1:4], 0, atol=1e-12)
    squares = covariance[0, 0] + mean[0] ** 2
    np.testing.assert_allclose(covariance[1:4, 1:4] / squares, 0.01 * np.eye(3), rtol=0, atol=1e-3)


def test_weights_hung_at_one_point_leave_all_ten_parameters_open():
    com = torch.tensor([[0.0, 0.0, 0.1]]).expand(3, 3)
    prior = prior_of_labels(torch.tensor([1.0, 2.0, 3.0]), com)
    assert torch.linalg.matrix_rank(payload_prior(torch.tensor([1.0, 2.0, 3.0]), com).covariance) == 1
    scale = prior.covariance.diagonal().sqrt()
    assert torch.linalg.eigvalsh(prior.covariance / scale / scale[:, None])[0] > 1e-6


EVEN = torch.arange(1.0, 21.0, dtype=torch.float64) / 4  # kg, .25 to 5


def test_blanks_do_not_say_what_payloads_are_like_and_empty_hands_are_one_more_of_zero_kilograms():
    mass, com = torch.cat((EVEN, torch.tensor([torch.nan, torch.nan]))), torch.full((22, 3), torch.nan)
    com[0] = torch.tensor([0.0, 0.01, 0.1])
    for part, expected in zip(prior_of_labels(mass, com), prior_of_labels(EVEN, com[:20]), strict=True):
        torch.testing.assert_close(part, expected)
    empty = torch.cat((EVEN, torch.zeros(50)))
    assert prior_of_labels(empty).mean[0] == pytest.approx(EVEN.sum().item() / 21)
    torch.testing.assert_close(prior_of_labels(empty).covariance, prior_of_labels(empty[:21]).covariance)


@pytest.mark.parametrize(
    "mass",
    [
        [2.805],
        [0.0] * 20 + [2.805] * 20,
        [0.0] * 50 + [2.6] * 4 + [2.805] * 10,
        [2.6] * 4 + [2.805] * 10,
        [2.79 + 0.001 * trial for trial in range(15)] + [2.805],  # one weight on noisy scales
        [1.0, 2.805, torch.nan],
    ],
)
def test_few_test_weights_say_that_anything_to_twice_the_heaviest_may_come(mass):
    prior = prior_of_labels(torch.tensor(mass))
    high = torch.tensor(2 * 2.805, dtype=torch.float64)
    torch.testing.assert_close(prior.mean[0], high / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(prior.covariance[0, 0], high**2 / 12, rtol=0.01, atol=0)  # of 126 bodies or more
    spread = prior.covariance[0, 0].sqrt()
    assert (torch.tensor([0.0, 1.0, 2.805]) - prior.mean[0]).abs().max() < 2 * spread
    scale = prior.covariance.diagonal().sqrt()
    assert torch.linalg.eigvalsh(prior.covariance / scale / scale[:, None])[0] > 1e-6


def test_a_prior_of_a_range_is_that_of_masses_spread_evenly_over_it():
    rng = np.random.default_rng(0)
    com = torch.tensor([[0.02, -0.03, 0.13]], dtype=torch.float64)
    mass = torch.tensor(rng.uniform(1.0, 4.0, 200_000))
    where = com + torch.tensor(rng.normal(0, 0.01, (200_000, 3)))
    edges = torch.tensor(rng.normal(0.1, 0.035, (200_000, 3)))
    drawn, prior = payload_prior(mass, where, edges), prior_of_range(1.0, 4.0, com)
    torch.testing.assert_close(prior.mean, drawn.mean, rtol=0.03, atol=1e-4)
    spread, expected = (one.covariance.diagonal().sqrt() for one in (prior, drawn))
    torch.testing.assert_close(spread, expected, rtol=0.05, atol=1e-4)


def test_labels_and_ranges_that_say_nothing_are_refused():
    with pytest.raises(ValueError, match=r"of 3 trials 2 have a mass, none above zero.*prior_of_range"):
        prior_of_labels(torch.tensor([0.0, torch.nan, 0.0]))
    with pytest.raises(ValueError, match=r"mass must be .payloads,. and com .payloads, 3.; got .2,. and .3, 3."):
        prior_of_labels(torch.ones(2), torch.zeros(3, 3))
    for wrong in ([1.0, -2.0], [1.0, torch.inf]):
        with pytest.raises(ValueError, match="a mass is 0 kg or more"):
            prior_of_labels(torch.tensor(wrong))
    for low, high in ((5.0, 0.0), (2.0, 2.0), (-1.0, 2.0), (0.0, float("inf")), (0.0, float("nan"))):
        with pytest.raises(ValueError, match=r"0 <= low < high, in kg; got"):
            prior_of_range(low, high)
    with pytest.raises(ValueError, match=r"com must be \(payloads, 3\)"):
        prior_of_range(0.0, 1.0, torch.zeros(3))
