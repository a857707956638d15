"""The classical estimates of a payload against their closed forms, and what they say where the trials say little."""

from __future__ import annotations

import re
import warnings

import pytest
import torch

from scimeta.domains.arm.classical import (
    UNOBSERVABLE,
    cramer_rao,
    payload_rows,
    recursive_least_squares,
    tare,
    weigh_least_squares,
    weigh_map,
)
from scimeta.domains.arm.log import Log
from scimeta.domains.arm.model import ArmModel, Noise, calibrate, predict, torque_covariance
from scimeta.domains.arm.payloads import box
from scimeta.domains.arm.weighing import PayloadPrior
from simulators import arm as simulator


def test_without_errors_ten_unknowns_come_out_exactly(simulated, true_model, s1):
    log, payload = simulated(30, robot=s1)
    found = weigh_least_squares(true_model, log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.com, payload[:, 1:4] / payload[:, :1], atol=1e-6, rtol=0)
    assert (found.mass_sd < 1e-8).all() and (found.condition < UNOBSERVABLE).all()


def test_four_and_one_unknowns_are_exact_where_their_assumptions_hold(simulated, model):
    log, _ = simulated(8)
    four = torch.zeros(8, 10, dtype=torch.float64)
    four[:, :4] = torch.tensor([2.0, 0.1, -0.05, 0.3])
    found = weigh_least_squares(model, log._replace(tau=predict(model, log, four)), 4)
    torch.testing.assert_close(found.parameters, four, atol=1e-9, rtol=0)
    com = torch.tensor([0.02, 0.0, 0.1], dtype=torch.float64)
    point = box(torch.tensor(3.0), com, torch.zeros(3)).expand(8, 10)
    found = weigh_least_squares(model, log._replace(tau=predict(model, log, point)), 1, com)
    torch.testing.assert_close(found.parameters, point, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.com, com.expand(8, 3))


def test_the_map_estimate_is_the_posterior_of_the_textbook(simulated, iiwa, model, prior):
    log, _ = simulated(3, 6, simulator.Noise())
    noise, (mean, covariance) = Noise(0.2, 0.1), prior
    found = weigh_map(model, log, prior, noise)
    regressor, residual = payload_rows(model, log)
    for trial in range(3):
        precision = torch.linalg.inv(covariance)
        right = precision @ mean
        for sample in range(6):
            inverse = torch.linalg.inv(torque_covariance(iiwa.chain, log.q[trial, sample], noise, mean))
            rows = regressor[trial, sample]
            precision = precision + rows.mT @ inverse @ rows
            right = right + rows.mT @ inverse @ residual[trial, sample, :, 0]
        expected = torch.linalg.inv(precision)
        torch.testing.assert_close(found.covariance[trial], expected, atol=1e-9, rtol=1e-5)
        torch.testing.assert_close(found.parameters[trial], expected @ right, atol=1e-6, rtol=0)


def test_the_recursion_ends_at_the_batch_and_learns_from_every_sample(simulated, model, prior):
    log, _ = simulated(4, 12, simulator.Noise())
    batch, steps = weigh_map(model, log, prior), recursive_least_squares(model, log, prior)
    assert steps.parameters.shape == (4, 12, 10)
    torch.testing.assert_close(steps.parameters[:, -1], batch.parameters, atol=1e-9, rtol=0)
    torch.testing.assert_close(steps.covariance[:, -1], batch.covariance, atol=1e-12, rtol=0)
    part = Log(*(x[:, :7] for x in log))
    torch.testing.assert_close(steps.mass[:, 6], weigh_map(model, part, prior).mass, atol=1e-9, rtol=0)
    assert (steps.mass_sd.diff(dim=-1) < 0).all()


def test_trials_with_leading_axes_are_weighed_as_alone(simulated, model, prior):
    log, _ = simulated(6, 8, simulator.Noise())
    grid = Log(*(x.unflatten(0, (2, 3)) for x in log))
    for weigh in (weigh_least_squares, lambda *x: weigh_map(*x, prior)):
        whole, one = weigh(model, grid), weigh(model, Log(*(x[4] for x in log)))
        assert whole.mass.shape == whole.condition.shape == (2, 3)
        torch.testing.assert_close(whole.parameters[1, 1], one.parameters, atol=1e-8, rtol=0)
        torch.testing.assert_close(whole.mass_sd[1, 1], one.mass_sd, atol=1e-9, rtol=0)


def test_intervals_cover_where_model_and_prior_are_right(simulated, model, prior):
    generator, trials = torch.Generator().manual_seed(0), 600
    root = torch.linalg.cholesky(prior.covariance)
    payload = prior.mean + torch.randn(trials, 10, generator=generator, dtype=torch.float64) @ root.mT
    log, _ = simulated(trials, 6)
    noise = 0.1 * torch.randn(log.tau.shape, generator=generator, dtype=torch.float64)
    log = log._replace(tau=predict(model, log, payload) + noise)
    by_prior = weigh_map(model, log, prior, Noise(0.1, 0.0))
    # Student's t with 32 degrees of freedom is near enough to a Gaussian: 89 % instead of 90.
    for found, level in ((by_prior, 0.90), (weigh_least_squares(model, log), 0.89)):
        inside = ((found.mass - payload[:, 0]).abs() < 1.645 * found.mass_sd).double().mean()
        assert abs(inside - level) < 3 * (0.09 / trials) ** 0.5


def test_the_centre_of_mass_varies_as_its_standard_deviation_says(simulated, model):
    generator = torch.Generator().manual_seed(0)
    log, _ = simulated(1, 20)
    payload = box(torch.tensor(2.0).double(), torch.tensor([0.02, -0.03, 0.15]).double(), torch.tensor(0.1).double())
    many = Log(*(x.expand(2000, *x.shape[1:]) for x in log))
    noise = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    found = weigh_least_squares(model, many._replace(tau=predict(model, many, payload) + noise))
    seen, said = found.com.std(0), found.com_sd.square().mean(0).sqrt()
    torch.testing.assert_close(seen, said, atol=0, rtol=0.08)


def test_a_prior_that_knows_the_mass_may_be_singular(simulated, model, prior):
    log, _ = simulated(4)
    mean, covariance = prior
    log = log._replace(tau=predict(model, log, mean))
    root = torch.linalg.cholesky(covariance)
    root[0] = 0.0
    found = weigh_map(model, log, PayloadPrior(mean, root @ root.mT))
    torch.testing.assert_close(found.mass, mean[:1].expand(4))
    assert (found.mass_sd < 1e-6).all() and (found.com_sd > 0).all()


def test_calibrated_and_with_a_prior_a_payload_is_weighed_to_twenty_grams(simulated, iiwa, model, prior, s1):
    runs, _ = simulated(10, 200, simulator.Noise(), seed=3, empty=True, robot=s1)
    log, payload = simulated(200, 20, simulator.Noise(), seed=5, robot=s1)
    calibrated = calibrate(iiwa, runs)
    error = (weigh_map(calibrated, log, prior).mass - payload[:, 0]).square().mean().sqrt()
    with pytest.warns(UserWarning, match=r"trials .* \(200 of 200\): the torques left over"):
        plain = (weigh_least_squares(model, log).mass - payload[:, 0]).square().mean().sqrt()
    with pytest.warns(UserWarning, match="the torques left over"):  # of accelerations without noise
        white = weigh_map(calibrated, log, prior, Noise(0.1, 0.0)).mass
    white = (white - payload[:, 0]).square().mean().sqrt()
    assert error < 0.9 * white < 0.02 < 0.05 < plain


@pytest.mark.parametrize("unknowns", [0, 3, 11])
def test_another_number_of_unknowns_is_refused(simulated, model, unknowns):
    log, _ = simulated(1)
    for weigh in (
        lambda: weigh_least_squares(model, log, unknowns),
        lambda: cramer_rao(model, log, unknowns=unknowns),
    ):
        with pytest.raises(ValueError, match="unknowns is 1, 4 or 10"):
            weigh()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, c: (m[:4], c), r"mean must be \(10,\)"),
        (lambda m, c: (m, c * torch.nan), "finite"),
        (lambda m, c: (m, c + torch.ones(10, 10).triu(1)), "symmetric"),
        (lambda m, c: (m, -c), "no negative eigenvalue"),
    ],
)
def test_a_prior_that_is_no_gaussians_is_refused(simulated, model, prior, change, message):
    log, _ = simulated(1)
    with pytest.raises(ValueError, match=message):
        weigh_map(model, log, PayloadPrior(*change(*prior)))


def test_a_log_that_is_not_finite_is_not_weighed(simulated, model):
    log, _ = simulated(2)
    log.tau[1, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        weigh_least_squares(model, log)


# Trials that show too little


@pytest.fixture
def still(simulated) -> Log:
    """Three trials, of which the second stands still, but for the noise."""
    log, _ = simulated(3, 20, simulator.Noise())
    q, qd, qdd = (x.clone() for x in log[1:4])
    generator = torch.Generator().manual_seed(0)
    for values, sd, at in ((q, 2e-5, q[1, :1].clone()), (qd, 2e-3, 0.0), (qdd, 0.05, 0.0)):
        values[1] = at + sd * torch.randn(values[1].shape, generator=generator, dtype=torch.float64)
    return log._replace(q=q, qd=qd, qdd=qdd)


def test_a_trial_that_never_moved_is_named_with_its_condition_number(model, prior, still):
    for weigh in (
        lambda: weigh_least_squares(model, still),
        lambda: weigh_least_squares(model, still, 4),
        lambda: weigh_map(model, still, prior),
        lambda: recursive_least_squares(model, still, prior),
    ):
        with pytest.warns(UserWarning) as said:  # nor do the torques, of the trial that moved, fit
            found = weigh()
        never = re.compile(r"trial 1 never moved: .* unobservable \(condition number [\d.e+]+\)")
        assert any(never.match(str(warning.message)) for warning in said)
        assert found.parameters.isfinite().all()
    with pytest.warns(UserWarning):
        condition = weigh_map(model, still, prior).condition
    assert condition[1] > 3000 > 3 * condition[[0, 2]].max()


def test_the_mass_of_a_known_point_needs_no_movement(model, still):
    payload = box(torch.tensor(2.0).double(), torch.tensor([0.0, 0.0, 0.12]).double(), torch.tensor(0.0).double())
    found = weigh_least_squares(model, still._replace(tau=predict(model, still, payload)), 1)
    torch.testing.assert_close(found.mass, torch.full((3,), 2.0, dtype=torch.float64))


def test_what_an_exactly_still_arm_does_not_show_has_no_small_standard_deviation(simulated, model):
    log, _ = simulated(1)
    none = torch.zeros_like(log.q)
    log = log._replace(q=log.q[:, :1].expand_as(log.q), qd=none, qdd=none)
    with pytest.warns(UserWarning, match="never moved"):
        found = weigh_least_squares(model, log)
    assert found.covariance.diagonal(dim1=-2, dim2=-1).sqrt()[0, 4:].max() > 1.0


def test_a_planar_arm_cannot_tell_ten_parameters_apart(simulated, iiwa, model, prior):
    parallel = {
        "axis": torch.tensor([0.0, 0.0, 1.0]).double().expand(7, 3),
        "rotation": torch.eye(3).double().expand(7, 3, 3),
    }
    planar = model._replace(chain=iiwa.chain._replace(**parallel))
    log, _ = simulated(2)
    with pytest.warns(UserWarning, match=r"trials 0, 1 \(2 of 2\) moved too little, or in too few joints"):
        weigh_map(planar, log._replace(tau=predict(planar, log)), prior)


def test_a_turntable_does_not_show_the_mass_at_all(simulated, iiwa, model):
    chain = iiwa.chain._make([*(x[:1] for x in iiwa.chain[:5]), iiwa.chain.gravity])
    turntable = ArmModel(chain, *(x[:1] for x in model[1:4]))
    log, _ = simulated(3)
    assert cramer_rao(turntable, Log(log.t, *(x[..., :1] for x in log[1:]))).isinf().all()


# The tare


def test_after_a_tare_neither_links_nor_friction_matter(simulated, model, true_model, s1):
    loaded, payload = simulated(10, robot=s1)
    unloaded = loaded._replace(tau=predict(true_model, loaded))
    tared = tare(model, loaded, unloaded, Noise(0.1, 0.05))
    found = weigh_least_squares(tared.model, tared.log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    assert tared.noise.torque == pytest.approx(0.1 * 2**0.5)


def test_a_tare_of_motions_that_differ_takes_the_model(simulated, model, true_model, s1):
    loaded, payload = simulated(10, robot=s1)
    sagged = loaded._replace(q=loaded.q + 0.02, qd=loaded.qd * 1.01)
    sagged = sagged._replace(tau=predict(true_model, sagged))
    with pytest.raises(ValueError, match=r"0\.02 rad apart"):
        tare(model, loaded, sagged)
    tared = tare(true_model, loaded, sagged, same_motion=False)
    found = weigh_least_squares(tared.model, tared.log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    # An offset nobody knows cancels; so do links, as far as the motions agree.
    tared = tare(model, loaded, sagged, same_motion=False)
    with pytest.warns(UserWarning, match="the torques left over"):
        rough = (weigh_least_squares(tared.model, tared.log).mass - payload[:, 0]).square().mean().sqrt()
    with pytest.warns(UserWarning, match="the torques left over"):
        bare = (weigh_least_squares(model, loaded).mass - payload[:, 0]).square().mean().sqrt()
    assert rough < bare


def test_a_tare_needs_the_same_samples(simulated, model):
    log, _ = simulated(2)
    with pytest.raises(ValueError, match="the same samples"):
        tare(model, log, Log(*(x[:, 1:] for x in log)))


# The bound


@pytest.mark.parametrize("unknowns", [4, 10])
def test_least_squares_reaches_the_cramer_rao_bound_under_white_noise(simulated, model, unknowns):
    generator, repeats = torch.Generator().manual_seed(0), 4000
    log, _ = simulated(1, 10)
    many = Log(*(x.expand(repeats, *x.shape[1:]) for x in log))
    noise = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    found = weigh_least_squares(model, many._replace(tau=predict(model, many) + noise), unknowns)
    bound = cramer_rao(model, log, Noise(0.1, 0.0), unknowns)
    assert (found.mass.std() / bound - 1).abs().item() < 4 / (2 * repeats) ** 0.5


def test_the_bound_rises_with_the_unknowns_and_with_the_payload_and_falls_with_the_samples(simulated, model):
    log, payload = simulated(20, 40)
    one, four, ten = (cramer_rao(model, log, unknowns=k) for k in (1, 4, 10))
    assert (one < four).all() and (four < ten).all()
    assert (cramer_rao(model, log, payload=payload) > ten).all()
    assert (cramer_rao(model, Log(*(x[:, ::2] for x in log))) > ten).all()
    torch.testing.assert_close(cramer_rao(model, log, Noise(0.2, 0.1)), 2 * ten)


def test_no_warning_where_there_is_nothing_to_warn_of(simulated, model, prior):
    log, _ = simulated(40, 5, simulator.Noise())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weigh_map(model, log, prior)
        weigh_least_squares(model, log)
