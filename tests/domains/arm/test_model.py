"""The classical model: what it predicts, and its calibration on past runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scimeta.domains.arm import model as model_file
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.model import Noise, calibrate, link_roots, predict, torque_covariance
from scimeta.domains.arm.payloads import given_mass
from simulators import arm as simulator


def test_the_prediction_of_the_true_model_is_what_the_robot_measures(simulated, true_model, s1):
    log, payload = simulated(5, robot=s1)
    torch.testing.assert_close(predict(true_model, log, payload), log.tau, atol=1e-9, rtol=0)


def test_an_error_in_the_accelerations_reaches_the_torques_as_the_covariance_says(simulated, iiwa, model):
    log, payload = simulated(1, samples=1)
    generator = torch.Generator().manual_seed(0)
    many = Log(*(x.expand(20000, *x.shape[1:]) for x in log))
    shaken = many._replace(qdd=many.qdd + 0.05 * torch.randn(many.qdd.shape, generator=generator, dtype=torch.float64))
    measured = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    errors = (predict(model, shaken, payload) + measured - predict(model, many, payload))[:, 0]
    expected = torque_covariance(iiwa.chain, log.q, Noise(0.1, 0.05), payload[:, None])[0, 0]
    root = torch.linalg.cholesky(expected)
    unit = torch.linalg.solve_triangular(root, errors.mT, upper=False)
    torch.testing.assert_close(unit @ unit.mT / 20000, torch.eye(7, dtype=torch.float64), atol=0.04, rtol=0)


def test_a_calibration_on_unloaded_runs_predicts_new_ones_to_a_tenth_of_the_noise(simulated, iiwa, model, s1):
    runs, _ = simulated(10, 200, simulator.Noise(), seed=3, empty=True, robot=s1)
    found = calibrate(iiwa, runs)
    fresh, _ = simulated(20, 50, seed=4, empty=True, robot=s1)
    error = (predict(found, fresh) - fresh.tau).square().mean().sqrt()
    before = (predict(model, fresh) - fresh.tau).square().mean().sqrt()
    assert error < 0.02 < 0.5 < before
    assert (found.coulomb - torch.as_tensor(s1.coulomb)).abs().max() < 0.05
    assert (found.viscous - torch.as_tensor(s1.viscous)).abs().max() < 0.05


def test_a_calibration_on_labelled_payloads_is_as_good(simulated, iiwa, s1):
    runs, payload = simulated(100, 20, simulator.Noise(), seed=3, robot=s1)
    fresh, carried = simulated(20, 50, seed=4, robot=s1)
    found = calibrate(iiwa, runs, payload)
    assert (predict(found, fresh, carried) - fresh.tau).square().mean().sqrt() < 0.02


def test_a_calibration_in_parts_is_that_in_one(simulated, iiwa, s1, monkeypatch):
    runs, payload = simulated(5, 20, simulator.Noise(), robot=s1)
    whole = calibrate(iiwa, runs, payload)
    monkeypatch.setattr(model_file, "_AT_ONCE", 7)
    parts = calibrate(iiwa, runs, payload)
    torch.testing.assert_close(parts.chain.inertial, whole.chain.inertial, atol=1e-9, rtol=0)
    torch.testing.assert_close(parts.coulomb, whole.coulomb, atol=1e-9, rtol=0)


def test_a_calibration_without_doubt_of_the_links_leaves_them_and_finds_the_offsets(simulated, iiwa):
    log, _ = simulated(5, 50, empty=True)
    off = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64)
    found = calibrate(iiwa, log._replace(tau=log.tau + off), link_error=1e-9, com_error=1e-9)
    torch.testing.assert_close(found.chain.inertial, iiwa.chain.inertial, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.offset, off, atol=2e-3, rtol=0)


def test_errors_of_links_have_the_spread_that_the_calibration_assumes(iiwa):
    generator = torch.Generator().manual_seed(0)

    def body(mass: Tensor, com: Tensor, own: Tensor) -> Tensor:
        steiner = (com @ com) * torch.eye(3, dtype=torch.float64) - torch.outer(com, com)
        about = own[torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])] + mass * steiner
        return torch.cat((mass[None], mass * com, about[torch.triu_indices(3, 3).unbind()]))

    mass, com = torch.tensor(3.0).double(), torch.tensor([0.1, -0.2, 0.05]).double()
    own = torch.tensor([0.04, 0.0, 0.0, 0.03, 0.0, 0.02]).double()
    slopes = torch.autograd.functional.jacobian(body, (mass, com, own))
    spread = 0.05 * torch.tensor([0.04, 0.0012**0.5, 0.0008**0.5, 0.03, 0.0006**0.5, 0.02]).double()
    expected = torch.cat((slopes[0][:, None] * 0.05 * mass, slopes[1] * 0.01, slopes[2] * spread), 1)
    (found,) = link_roots(iiwa.chain._replace(inertial=body(mass, com, own)[None]), 0.05, 0.01)
    z = torch.randn(10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found @ found.mT @ z, expected @ expected.mT @ z, atol=1e-12, rtol=1e-10)


def test_a_prior_of_the_calibration_is_positive(simulated, iiwa):
    log, _ = simulated(1, empty=True)
    with pytest.raises(ValueError, match="com_error is a standard deviation above zero; got 0"):
        calibrate(iiwa, log, com_error=0.0)


def test_a_calibration_whose_payloads_are_half_known_weighs_them_by_what_is_not_known(simulated, iiwa, prior, s1):
    runs, payload = simulated(60, 20, simulator.Noise(), seed=3, robot=s1)
    fresh, _ = simulated(20, 50, seed=4, empty=True, robot=s1)
    error = lambda found: (predict(found, fresh) - fresh.tau).square().mean().sqrt()  # noqa: E731
    mean, covariance = given_mass(prior, payload[:, 0])
    half, believed = calibrate(iiwa, runs, mean, covariance), calibrate(iiwa, runs, mean)
    assert error(calibrate(iiwa, runs, payload)) < error(half) < 0.5 * error(believed)
    # Payloads that are known without doubt are the plain case.
    sure = calibrate(iiwa, runs, payload, torch.zeros(10, 10, dtype=torch.float64))
    plain = calibrate(iiwa, runs, payload)
    torch.testing.assert_close(sure.chain.inertial, plain.chain.inertial, atol=1e-9, rtol=0)
