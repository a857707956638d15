"""The classical weighing: what a log must be, the model's calibration, the estimates against their closed forms."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm import model as model_file
from scimeta.domains.arm.classical import (
    UNOBSERVABLE,
    cramer_rao,
    payload_rows,
    recursive_least_squares,
    tare,
    weigh_least_squares,
    weigh_map,
)
from scimeta.domains.arm.consistency import consistent, is_consistent, pseudo_inertia
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import ArmModel, Noise, calibrate, link_roots, nominal, predict, torque_covariance
from scimeta.domains.arm.motion import fourier_motion
from scimeta.domains.arm.payloads import box, given_mass, payload_prior
from scimeta.domains.arm.urdf import read_urdf
from scimeta.domains.arm.weighing import PayloadPrior
from simulators import arm as simulator

EXACT = simulator.Noise(0.0, 0.0, 0.0, 0.0)
ARM = read_urdf(simulator.urdf("iiwa"))


def logs(trials: simulator.Trials) -> Log:
    return Log(*(torch.as_tensor(getattr(trials, name)) for name in Log._fields))


def simulated(
    robot: simulator.Robot,
    trials: int,
    samples: int = 20,
    noise: simulator.Noise = EXACT,
    seed: int = 0,
    empty: bool = False,
) -> tuple[Log, Tensor]:
    """Trials with movements and payloads of their own; the same seed gives the same motion, empty-handed or not."""
    rng = np.random.default_rng(seed)
    movements = [simulator.draw_movement(robot.chain, rng) for _ in range(trials)]
    payloads = [None] * trials if empty else simulator.draw_payloads(trials, rng)
    run = simulator.simulate(robot, payloads, movements, samples, noise, seed + empty)
    return logs(run), torch.as_tensor(run.payload)


def truth(robot: simulator.Robot) -> ArmModel:
    chain = ARM.chain._replace(inertial=torch.as_tensor(robot.chain.inertial))
    return ArmModel(chain, *(torch.as_tensor(x) for x in (robot.coulomb, robot.viscous, robot.offset)))


def prior(seed: int = 9) -> PayloadPrior:
    phi = np.stack([p.parameters for p in simulator.draw_payloads(2000, np.random.default_rng(seed))])
    return PayloadPrior(torch.as_tensor(phi.mean(0)), torch.as_tensor(np.cov(phi.T)))


@pytest.fixture(scope="module")
def s1() -> simulator.Robot:
    return simulator.scenario("S1", np.random.default_rng(1))


# The log


def test_a_log_of_arrays_comes_back_as_float64_tensors() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 2)
    found = check_log(ARM, Log(*(x.numpy().astype(np.float32) for x in log)))
    assert all(x.dtype == torch.float64 for x in found)
    torch.testing.assert_close(found.q, log.q, atol=1e-6, rtol=0)


def spoiled(name: str, change: Callable[[Tensor], Tensor]) -> Log:
    log, _ = simulated(simulator.nominal("iiwa"), 2)
    return log._replace(**{name: change(getattr(log, name).clone())})


def with_nan(values: Tensor) -> Tensor:
    values[1, 3, 4] = torch.nan
    return values


def silent(values: Tensor) -> Tensor:
    values[1, :, 2] = 0.0
    return values


def backwards(values: Tensor) -> Tensor:
    values[:, 5] = values[:, 3]
    return values


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qdd", with_nan, "qdd of joint 'lbr_iiwa_joint_5' is not finite"),
        ("t", lambda t: t * torch.inf, "t is not finite"),
        ("t", backwards, "t does not run forward after sample 4"),
        ("t", lambda t: t[:, :-1], r"t must be \(..., samples\)"),
        ("tau", silent, "tau of joint 'lbr_iiwa_joint_3' is zero throughout"),
        ("tau", lambda tau: tau[..., :6], "q, qd, qdd and tau must be .*7.* alike"),
        ("q", lambda q: q * 180 / torch.pi, "these look like degrees"),
        ("q", lambda q: q * 1000.0, "order of the joints and the units"),
    ],
)
def test_what_is_wrong_with_a_log_is_named(name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_log(ARM, spoiled(name, change))


def test_a_log_of_another_number_of_joints_is_refused_everywhere() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 2)
    six = Log(log.t, *(x[..., :6] for x in log[1:]))
    for door in (
        lambda: check_log(ARM, six),
        lambda: calibrate(ARM, six),
        lambda: weigh_map(nominal(ARM), six, prior()),
    ):
        with pytest.raises(ValueError, match="the arm has 7 joints, the log 6"):
            door()


def test_a_log_that_is_not_finite_is_not_weighed() -> None:
    with pytest.raises(ValueError, match="not finite"):
        weigh_least_squares(nominal(ARM), spoiled("tau", with_nan))


# The model and its calibration


def test_the_prediction_of_the_true_model_is_what_the_robot_measures(s1: simulator.Robot) -> None:
    log, payload = simulated(s1, 5)
    torch.testing.assert_close(predict(truth(s1), log, payload), log.tau, atol=1e-9, rtol=0)


def test_an_error_in_the_accelerations_reaches_the_torques_as_the_covariance_says() -> None:
    log, payload = simulated(simulator.nominal("iiwa"), 1, samples=1)
    model, generator = nominal(ARM), torch.Generator().manual_seed(0)
    many = Log(*(x.expand(20000, *x.shape[1:]) for x in log))
    shaken = many._replace(qdd=many.qdd + 0.05 * torch.randn(many.qdd.shape, generator=generator, dtype=torch.float64))
    measured = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    errors = (predict(model, shaken, payload) + measured - predict(model, many, payload))[:, 0]
    expected = torque_covariance(ARM.chain, log.q, Noise(0.1, 0.05), payload[:, None])[0, 0]
    root = torch.linalg.cholesky(expected)
    unit = torch.linalg.solve_triangular(root, errors.mT, upper=False)
    torch.testing.assert_close(unit @ unit.mT / 20000, torch.eye(7, dtype=torch.float64), atol=0.04, rtol=0)


def test_a_calibration_on_unloaded_runs_predicts_new_ones_to_a_tenth_of_the_noise(s1: simulator.Robot) -> None:
    runs, _ = simulated(s1, 10, 200, simulator.Noise(), seed=3, empty=True)
    found = calibrate(ARM, runs)
    fresh, _ = simulated(s1, 20, 50, EXACT, seed=4, empty=True)
    error = (predict(found, fresh) - fresh.tau).square().mean().sqrt()
    before = (predict(nominal(ARM), fresh) - fresh.tau).square().mean().sqrt()
    assert error < 0.02 < 0.5 < before
    assert (found.coulomb - torch.as_tensor(s1.coulomb)).abs().max() < 0.05
    assert (found.viscous - torch.as_tensor(s1.viscous)).abs().max() < 0.05


def test_a_calibration_on_labelled_payloads_is_as_good(s1: simulator.Robot) -> None:
    runs, payload = simulated(s1, 100, 20, simulator.Noise(), seed=3)
    fresh, carried = simulated(s1, 20, 50, EXACT, seed=4)
    found = calibrate(ARM, runs, payload)
    assert (predict(found, fresh, carried) - fresh.tau).square().mean().sqrt() < 0.02


def test_a_calibration_in_parts_is_that_in_one(s1: simulator.Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, payload = simulated(s1, 5, 20, simulator.Noise())
    whole = calibrate(ARM, runs, payload)
    monkeypatch.setattr(model_file, "_AT_ONCE", 7)
    parts = calibrate(ARM, runs, payload)
    torch.testing.assert_close(parts.chain.inertial, whole.chain.inertial, atol=1e-9, rtol=0)
    torch.testing.assert_close(parts.coulomb, whole.coulomb, atol=1e-9, rtol=0)


def test_a_calibration_without_doubt_of_the_links_leaves_them_and_finds_the_offsets() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 5, 50, empty=True)
    off = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64)
    found = calibrate(ARM, log._replace(tau=log.tau + off), link_error=1e-9, com_error=1e-9)
    torch.testing.assert_close(found.chain.inertial, ARM.chain.inertial, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.offset, off, atol=2e-3, rtol=0)


def test_errors_of_links_have_the_spread_that_the_calibration_assumes() -> None:
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
    (found,) = link_roots(ARM.chain._replace(inertial=body(mass, com, own)[None]), 0.05, 0.01)
    z = torch.randn(10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found @ found.mT @ z, expected @ expected.mT @ z, atol=1e-12, rtol=1e-10)


def test_a_prior_of_the_calibration_is_positive() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 1, empty=True)
    with pytest.raises(ValueError, match="com_error is a standard deviation above zero; got 0"):
        calibrate(ARM, log, com_error=0.0)


# Weighing


def test_without_errors_ten_unknowns_come_out_exactly(s1: simulator.Robot) -> None:
    log, payload = simulated(s1, 30)
    found = weigh_least_squares(truth(s1), log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    torch.testing.assert_close(found.com, payload[:, 1:4] / payload[:, :1], atol=1e-6, rtol=0)
    assert (found.mass_sd < 1e-8).all() and (found.condition < UNOBSERVABLE).all()


def test_four_and_one_unknowns_are_exact_where_their_assumptions_hold() -> None:
    model = nominal(ARM)
    log, _ = simulated(simulator.nominal("iiwa"), 8)
    four = torch.zeros(8, 10, dtype=torch.float64)
    four[:, :4] = torch.tensor([2.0, 0.1, -0.05, 0.3])
    found = weigh_least_squares(model, log._replace(tau=predict(model, log, four)), 4)
    torch.testing.assert_close(found.parameters, four, atol=1e-9, rtol=0)
    com = torch.tensor([0.02, 0.0, 0.1], dtype=torch.float64)
    point = box(torch.tensor(3.0), com, torch.zeros(3)).expand(8, 10)
    found = weigh_least_squares(model, log._replace(tau=predict(model, log, point)), 1, com)
    torch.testing.assert_close(found.parameters, point, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.com, com.expand(8, 3))


def test_the_map_estimate_is_the_posterior_of_the_textbook() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 3, 6, simulator.Noise())
    model, noise, (mean, covariance) = nominal(ARM), Noise(0.2, 0.1), prior()
    found = weigh_map(model, log, PayloadPrior(mean, covariance), noise)
    regressor, residual = payload_rows(model, log)
    for trial in range(3):
        precision = torch.linalg.inv(covariance)
        right = precision @ mean
        for sample in range(6):
            inverse = torch.linalg.inv(torque_covariance(ARM.chain, log.q[trial, sample], noise, mean))
            rows = regressor[trial, sample]
            precision = precision + rows.mT @ inverse @ rows
            right = right + rows.mT @ inverse @ residual[trial, sample, :, 0]
        expected = torch.linalg.inv(precision)
        torch.testing.assert_close(found.covariance[trial], expected, atol=1e-9, rtol=1e-5)
        torch.testing.assert_close(found.parameters[trial], expected @ right, atol=1e-6, rtol=0)


def test_the_recursion_ends_at_the_batch_and_learns_from_every_sample() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 4, 12, simulator.Noise())
    model = nominal(ARM)
    batch, steps = weigh_map(model, log, prior()), recursive_least_squares(model, log, prior())
    assert steps.parameters.shape == (4, 12, 10)
    torch.testing.assert_close(steps.parameters[:, -1], batch.parameters, atol=1e-9, rtol=0)
    torch.testing.assert_close(steps.covariance[:, -1], batch.covariance, atol=1e-12, rtol=0)
    part = Log(*(x[:, :7] for x in log))
    torch.testing.assert_close(steps.mass[:, 6], weigh_map(model, part, prior()).mass, atol=1e-9, rtol=0)
    assert (steps.mass_sd.diff(dim=-1) < 0).all()


def test_trials_with_leading_axes_are_weighed_as_alone() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 6, 8, simulator.Noise())
    grid = Log(*(x.unflatten(0, (2, 3)) for x in log))
    model = nominal(ARM)
    for weigh in (weigh_least_squares, lambda *x: weigh_map(*x, prior())):
        whole, one = weigh(model, grid), weigh(model, Log(*(x[4] for x in log)))
        assert whole.mass.shape == whole.condition.shape == (2, 3)
        torch.testing.assert_close(whole.parameters[1, 1], one.parameters, atol=1e-8, rtol=0)
        torch.testing.assert_close(whole.mass_sd[1, 1], one.mass_sd, atol=1e-9, rtol=0)


def test_intervals_cover_where_model_and_prior_are_right() -> None:
    generator, trials = torch.Generator().manual_seed(0), 600
    believed = prior()
    root = torch.linalg.cholesky(believed.covariance)
    payload = believed.mean + torch.randn(trials, 10, generator=generator, dtype=torch.float64) @ root.mT
    log, _ = simulated(simulator.nominal("iiwa"), trials, 6)
    model = nominal(ARM)
    noise = 0.1 * torch.randn(log.tau.shape, generator=generator, dtype=torch.float64)
    log = log._replace(tau=predict(model, log, payload) + noise)
    by_prior = weigh_map(model, log, believed, Noise(0.1, 0.0))
    # Student's t with 32 degrees of freedom is near enough to a Gaussian: 89 % instead of 90.
    for found, level in ((by_prior, 0.90), (weigh_least_squares(model, log), 0.89)):
        inside = ((found.mass - payload[:, 0]).abs() < 1.645 * found.mass_sd).double().mean()
        assert abs(inside - level) < 3 * (0.09 / trials) ** 0.5


def test_the_centre_of_mass_varies_as_its_standard_deviation_says() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nominal(ARM)
    log, payload = simulated(simulator.nominal("iiwa"), 1, 20)
    payload = box(torch.tensor(2.0).double(), torch.tensor([0.02, -0.03, 0.15]).double(), torch.tensor(0.1).double())
    many = Log(*(x.expand(2000, *x.shape[1:]) for x in log))
    noise = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    found = weigh_least_squares(model, many._replace(tau=predict(model, many, payload) + noise))
    seen, said = found.com.std(0), found.com_sd.square().mean(0).sqrt()
    torch.testing.assert_close(seen, said, atol=0, rtol=0.08)


def test_a_prior_that_knows_the_mass_may_be_singular() -> None:
    model = nominal(ARM)
    log, _ = simulated(simulator.nominal("iiwa"), 4)
    mean, covariance = prior()
    root = torch.linalg.cholesky(covariance)
    root[0] = 0.0
    found = weigh_map(model, log, PayloadPrior(mean, root @ root.mT))
    torch.testing.assert_close(found.mass, mean[:1].expand(4))
    assert (found.mass_sd < 1e-6).all() and (found.com_sd > 0).all()


def test_calibrated_and_with_a_prior_a_payload_is_weighed_to_twenty_grams(s1: simulator.Robot) -> None:
    runs, _ = simulated(s1, 10, 200, simulator.Noise(), seed=3, empty=True)
    log, payload = simulated(s1, 200, 20, simulator.Noise(), seed=5)
    model = calibrate(ARM, runs)
    error = (weigh_map(model, log, prior()).mass - payload[:, 0]).square().mean().sqrt()
    plain = (weigh_least_squares(nominal(ARM), log).mass - payload[:, 0]).square().mean().sqrt()
    white = (weigh_map(model, log, prior(), Noise(0.1, 0.0)).mass - payload[:, 0]).square().mean().sqrt()
    assert error < 0.9 * white < 0.02 < 0.05 < plain


@pytest.mark.parametrize("unknowns", [0, 3, 11])
def test_another_number_of_unknowns_is_refused(unknowns: int) -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 1)
    for weigh in (
        lambda: weigh_least_squares(nominal(ARM), log, unknowns),
        lambda: cramer_rao(nominal(ARM), log, unknowns=unknowns),
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
def test_a_prior_that_is_no_gaussians_is_refused(change: Callable[..., tuple], message: str) -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 1)
    with pytest.raises(ValueError, match=message):
        weigh_map(nominal(ARM), log, PayloadPrior(*change(*prior())))


# Trials that show too little


def still(trials: int = 3) -> Log:
    """The second trial stands still, but for the noise."""
    log, _ = simulated(simulator.nominal("iiwa"), trials, 20, simulator.Noise())
    q, qd, qdd = (x.clone() for x in log[1:4])
    generator = torch.Generator().manual_seed(0)
    for values, sd, at in ((q, 2e-5, q[1, :1].clone()), (qd, 2e-3, 0.0), (qdd, 0.05, 0.0)):
        values[1] = at + sd * torch.randn(values[1].shape, generator=generator, dtype=torch.float64)
    return log._replace(q=q, qd=qd, qdd=qdd)


def test_a_trial_that_never_moved_is_named_with_its_condition_number() -> None:
    log, model = still(), nominal(ARM)
    for weigh in (
        lambda: weigh_least_squares(model, log),
        lambda: weigh_least_squares(model, log, 4),
        lambda: weigh_map(model, log, prior()),
        lambda: recursive_least_squares(model, log, prior()),
    ):
        with pytest.warns(UserWarning, match=r"trial 1 never moved: .* unobservable \(condition number [\d.e+]+\)"):
            found = weigh()
        assert found.parameters.isfinite().all()
    with pytest.warns(UserWarning, match="never moved"):
        condition = weigh_map(model, log, prior()).condition
    assert condition[1] > 3000 > 3 * condition[[0, 2]].max()


def test_the_mass_of_a_known_point_needs_no_movement() -> None:
    log = still()
    payload = box(torch.tensor(2.0).double(), torch.tensor([0.0, 0.0, 0.12]).double(), torch.tensor(0.0).double())
    found = weigh_least_squares(nominal(ARM), log._replace(tau=predict(nominal(ARM), log, payload)), 1)
    torch.testing.assert_close(found.mass, torch.full((3,), 2.0, dtype=torch.float64))


def test_what_an_exactly_still_arm_does_not_show_has_no_small_standard_deviation() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 1)
    none = torch.zeros_like(log.q)
    log = log._replace(q=log.q[:, :1].expand_as(log.q), qd=none, qdd=none)
    with pytest.warns(UserWarning, match="never moved"):
        found = weigh_least_squares(nominal(ARM), log)
    assert found.covariance.diagonal(dim1=-2, dim2=-1).sqrt()[0, 4:].max() > 1.0


def test_a_planar_arm_cannot_tell_ten_parameters_apart() -> None:
    arm = ARM.chain
    planar = arm._replace(
        axis=torch.tensor([[0.0, 0.0, 1.0]] * 7).double(), rotation=torch.eye(3).double().expand(7, 3, 3)
    )
    model = nominal(ARM)._replace(chain=planar)
    log, _ = simulated(simulator.nominal("iiwa"), 2)
    with pytest.warns(UserWarning, match=r"trials 0, 1 \(2 of 2\) moved too little, or in too few joints"):
        weigh_map(model, log._replace(tau=predict(model, log)), prior())


def test_a_turntable_does_not_show_the_mass_at_all() -> None:
    model = ArmModel(ARM.chain._make(x[:1] for x in ARM.chain), *(x[:1] for x in nominal(ARM)[1:4]))
    log, _ = simulated(simulator.nominal("iiwa"), 3)
    assert cramer_rao(model, Log(log.t, *(x[..., :1] for x in log[1:]))).isinf().all()


# The tare


def test_after_a_tare_neither_links_nor_friction_matter(s1: simulator.Robot) -> None:
    loaded, payload = simulated(s1, 10)
    unloaded, _ = simulated(s1, 10, empty=True)
    tared = tare(nominal(ARM), loaded._replace(t=unloaded.t), _moved(loaded, s1), Noise(0.1, 0.05))
    found = weigh_least_squares(tared.model, tared.log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    assert tared.noise.torque == pytest.approx(0.1 * 2**0.5)


def _moved(log: Log, robot: simulator.Robot) -> Log:
    """The same motion with an empty hand."""
    return log._replace(tau=predict(truth(robot), log))


def test_a_tare_of_motions_that_differ_takes_the_model(s1: simulator.Robot) -> None:
    loaded, payload = simulated(s1, 10)
    sagged = _moved(loaded._replace(q=loaded.q + 0.02, qd=loaded.qd * 1.01), s1)
    with pytest.raises(ValueError, match=r"0\.02 rad apart"):
        tare(nominal(ARM), loaded, sagged)
    tared = tare(truth(s1), loaded, sagged, same_motion=False)
    found = weigh_least_squares(tared.model, tared.log)
    torch.testing.assert_close(found.parameters, payload, atol=1e-8, rtol=0)
    # An offset nobody knows cancels; so do links, as far as the motions agree.
    tared = tare(nominal(ARM), loaded, sagged._replace(tau=sagged.tau), same_motion=False)
    rough = (weigh_least_squares(tared.model, tared.log).mass - payload[:, 0]).square().mean().sqrt()
    bare = (weigh_least_squares(nominal(ARM), loaded).mass - payload[:, 0]).square().mean().sqrt()
    assert rough < bare


def test_a_tare_needs_the_same_samples() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 2)
    with pytest.raises(ValueError, match="the same samples"):
        tare(nominal(ARM), log, Log(*(x[:, 1:] for x in log)))


# The bound


@pytest.mark.parametrize("unknowns", [4, 10])
def test_least_squares_reaches_the_cramer_rao_bound_under_white_noise(unknowns: int) -> None:
    generator, model, repeats = torch.Generator().manual_seed(0), nominal(ARM), 4000
    log, _ = simulated(simulator.nominal("iiwa"), 1, 10)
    many = Log(*(x.expand(repeats, *x.shape[1:]) for x in log))
    noise = 0.1 * torch.randn(many.tau.shape, generator=generator, dtype=torch.float64)
    found = weigh_least_squares(model, many._replace(tau=predict(model, many) + noise), unknowns)
    bound = cramer_rao(model, log, Noise(0.1, 0.0), unknowns)
    assert (found.mass.std() / bound - 1).abs().item() < 4 / (2 * repeats) ** 0.5


def test_the_bound_rises_with_the_unknowns_and_with_the_payload_and_falls_with_the_samples() -> None:
    model = nominal(ARM)
    log, payload = simulated(simulator.nominal("iiwa"), 20, 40)
    one, four, ten = (cramer_rao(model, log, unknowns=k) for k in (1, 4, 10))
    assert (one < four).all() and (four < ten).all()
    assert (cramer_rao(model, log, payload=payload) > ten).all()
    assert (cramer_rao(model, Log(*(x[:, ::2] for x in log))) > ten).all()
    torch.testing.assert_close(cramer_rao(model, log, Noise(0.2, 0.1)), 2 * ten)


# The motion


def test_a_fourier_motion_without_noise_is_found_exactly_and_with_noise_much_better() -> None:
    exact, _ = simulated(simulator.nominal("iiwa"), 10, 20)
    found = fourier_motion(exact, 4.0)
    for name in ("q", "qd", "qdd"):
        torch.testing.assert_close(getattr(found, name), getattr(exact, name), atol=1e-7, rtol=0)
    noisy, _ = simulated(simulator.nominal("iiwa"), 10, 20, simulator.Noise())
    found = fourier_motion(noisy, 4.0)
    assert (found.qdd - exact.qdd).square().mean().sqrt() < 0.005
    assert (found.qd - exact.qd).square().mean().sqrt() < 2e-4
    assert found.tau is noisy.tau


def test_a_movement_that_is_no_such_series_is_said() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 3, 40)
    with pytest.warns(UserWarning, match="off 2 harmonics of 4 s"):
        fourier_motion(log, 4.0, harmonics=2)
    with pytest.raises(ValueError, match="2 samples cannot settle 4 harmonics; it takes 3"):
        fourier_motion(Log(*(x[:, :2] for x in log)), 4.0)
    with pytest.raises(ValueError, match="seconds is a positive number"):
        fourier_motion(log, 0.0)


# Physical consistency


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


def test_bodies_are_consistent_and_what_no_body_has_is_not() -> None:
    phi, bad, _ = scattered()
    assert is_consistent(phi).all() and not is_consistent(bad).any()
    wide = box(torch.tensor(1.0), torch.zeros(3), torch.tensor([0.1, 0.1, 0.1]))
    negative, triangle, far = wide.clone(), wide.clone(), wide.clone()
    negative[0], triangle[9], far[1] = -1.0, 3 * triangle[4], 0.5
    assert is_consistent(torch.stack((wide, negative, triangle, far))).tolist() == [True, False, False, False]


def test_the_pseudo_inertia_of_a_box_is_its_second_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    edges, com = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([0.05, -0.1, 0.2]).double()
    points = com + edges * (torch.rand(400000, 3, generator=generator, dtype=torch.float64) - 0.5)
    homogeneous = torch.cat((points, torch.ones(len(points), 1)), 1)
    expected = 2.0 * homogeneous.mT @ homogeneous / len(points)
    torch.testing.assert_close(pseudo_inertia(box(torch.tensor(2.0).double(), com, edges)), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_nearest_consistent_parameters_are_the_projection(weighted: bool) -> None:
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


def test_consistent_parameters_stay_and_a_projection_is_its_own() -> None:
    phi, bad, covariance = scattered()
    for given in (None, covariance):
        torch.testing.assert_close(consistent(phi, given), phi, atol=0, rtol=0)
        once = consistent(bad, given)
        torch.testing.assert_close(consistent(once, given), once, atol=1e-6, rtol=0)


def test_a_mass_that_is_known_does_not_pay_for_moments_that_are_not() -> None:
    phi, bad, covariance = scattered()
    error = lambda found: (found[:, 0] - phi[:, 0]).square().mean().sqrt()  # noqa: E731
    assert error(consistent(bad, covariance)) < error(bad) < error(consistent(bad))


# The prior


def test_a_prior_from_boxes_is_the_mean_and_covariance_of_their_parameters() -> None:
    rng = np.random.default_rng(0)
    mass, com, edges = rng.uniform(0, 5, 50), rng.uniform(-0.1, 0.1, (50, 3)), rng.uniform(0.04, 0.16, (50, 3))
    phi = np.stack([simulator.box(*one).parameters for one in zip(mass, com, edges, strict=True)])
    mean, covariance = payload_prior(*(torch.as_tensor(x) for x in (mass, com, edges)))
    np.testing.assert_allclose(mean, phi.mean(0), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(phi.T), atol=1e-12)


def test_what_is_known_once_the_mass_is_is_the_gaussian_given_it() -> None:
    believed = prior()
    mass = torch.tensor([2.0, 4.0, torch.nan, 0.0], dtype=torch.float64)
    mean, covariance = given_mass(believed, mass)
    # A measurement of the mass with next to no error says the same.
    first = believed.covariance[0]
    gain = first / (first[0] + 1e-12)
    for row in range(2):
        torch.testing.assert_close(mean[row], believed.mean + gain * (mass[row] - believed.mean[0]), atol=1e-9, rtol=0)
        expected = believed.covariance - gain[:, None] * first
        torch.testing.assert_close(covariance[row], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(mean[2], believed.mean)
    torch.testing.assert_close(covariance[2], believed.covariance)
    assert (mean[3] == 0).all() and (covariance[3] == 0).all()


def test_a_calibration_whose_payloads_are_half_known_weighs_them_by_what_is_not_known(s1: simulator.Robot) -> None:
    runs, payload = simulated(s1, 60, 20, simulator.Noise(), seed=3)
    fresh, _ = simulated(s1, 20, 50, EXACT, seed=4, empty=True)
    error = lambda model: (predict(model, fresh) - fresh.tau).square().mean().sqrt()  # noqa: E731
    mean, covariance = given_mass(prior(), payload[:, 0])
    half, believed = calibrate(ARM, runs, mean, covariance), calibrate(ARM, runs, mean)
    assert error(calibrate(ARM, runs, payload)) < error(half) < 0.5 * error(believed)
    # Payloads that are known without doubt are the plain case.
    sure = calibrate(ARM, runs, payload, torch.zeros(10, 10, dtype=torch.float64))
    plain = calibrate(ARM, runs, payload)
    torch.testing.assert_close(sure.chain.inertial, plain.chain.inertial, atol=1e-9, rtol=0)


def test_a_prior_needs_two_payloads_without_blanks() -> None:
    com = torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="two or more"):
        payload_prior(torch.ones(1), com[:1])
    with pytest.raises(ValueError, match="leave out payloads with blanks"):
        payload_prior(torch.tensor([1.0, torch.nan]), com)


def test_no_warning_where_there_is_nothing_to_warn_of() -> None:
    log, _ = simulated(simulator.nominal("iiwa"), 40, 5, simulator.Noise())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weigh_map(nominal(ARM), log, prior())
        weigh_least_squares(nominal(ARM), log)
