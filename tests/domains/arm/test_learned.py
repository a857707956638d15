"""The loss whose one step weighs: against the linear algebra that it stands for."""

from __future__ import annotations

import pytest
import torch

from scimeta.core.check import check_meta_gradient
from scimeta.core.tasks import Task, over_tasks, select_tasks
from scimeta.domains import arm
from scimeta.domains.arm.features import features, link_directions
from scimeta.domains.arm.learned import Labelled, in_prior, posterior, rigid_torque, start, weighing_learner
from scimeta.domains.arm.model import link_roots
from simulators import arm as simulated

ONE = torch.ones(7, dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def trials(iiwa, prior, past):
    """Of a robot without errors: labelled features, log and the learned model's start with the true noise."""
    log, mass, com = past(simulated.nominal("iiwa"), 6, 1)
    factor = torch.linalg.cholesky(prior.covariance)
    directions = link_directions(iiwa.chain, log, link_roots(iiwa.chain, 0.05, 0.01))
    data = features(iiwa.chain, log, prior.mean, factor, directions)
    known = torch.cat((mass[:, None], mass[:, None] * com), -1)
    params = start(directions.shape[1], ONE, None, generator())
    params |= {"torque noise": (0.1 * ONE).log()}
    return Labelled(data, known, torch.ones_like(known)), log, params


def adapted(learner, params, frame, data):
    def one(trial):
        return in_prior(posterior(params, ONE, trial), learner.adapt(learner.meta, trial)["payload"], frame)

    return over_tasks(one)(data)


def test_one_step_in_the_coordinates_of_the_trials_curvature_is_the_most_probable_payload(iiwa, prior, trials):
    data, log, params = trials
    factor = torch.linalg.cholesky(prior.covariance)
    learner = weighing_learner(params, ONE, factor, prior.mean, trials=6)
    payload = prior.mean + adapted(learner, params, None, data.features) @ factor.mT
    exact = arm.weigh_map(arm.nominal(iiwa), log, prior, arm.Noise(0.1, 0.05))
    torch.testing.assert_close(payload, exact.parameters, rtol=1e-9, atol=1e-10)


def test_a_plain_step_by_a_matrix_is_exact_where_the_matrix_is_that_trials_own(iiwa, prior, trials):
    data, log, params = trials
    factor = torch.linalg.cholesky(prior.covariance)
    exact = arm.weigh_map(arm.nominal(iiwa), log, prior, arm.Noise(0.1, 0.05)).parameters
    curvature = posterior(params, ONE, select_tasks(data.features, 2)).factor
    frame = torch.linalg.inv(curvature).mT
    learner = weighing_learner(params, ONE, factor, prior.mean, trials=6, frame=frame)
    payload = prior.mean + adapted(learner, params, frame, data.features) @ factor.mT
    torch.testing.assert_close(payload[2], exact[2], rtol=1e-9, atol=1e-10)
    # Another movement has another curvature: the same matrix misses by far more than the noise.
    others = torch.tensor([0, 1, 3, 4, 5])
    assert (payload - exact)[others, 0].square().mean().sqrt() > 0.5


@pytest.mark.parametrize("kind", ["any", "matrix", "element", "tensor"])
def test_the_meta_gradient_agrees_with_a_plain_loop_and_with_finite_differences(prior, trials, kind):
    data, _, params = trials
    factor = torch.linalg.cholesky(prior.covariance)
    few = select_tasks(data, torch.arange(2))
    frame = None
    if kind != "any":
        frame = torch.linalg.inv(posterior(params, ONE, select_tasks(data.features, 0)).factor).mT
    learner = weighing_learner(
        params, ONE, factor, prior.mean, trials=6, frame=frame, rule="matrix" if kind == "any" else kind
    )
    assert check_meta_gradient(learner.adapt.loss, learner, Task(few.features, few)).ok


def test_what_is_not_known_of_a_payload_is_not_read(prior, trials):
    data, _, params = trials
    factor = torch.linalg.cholesky(prior.covariance)
    learner = weighing_learner(params, ONE, factor, prior.mean, trials=6)
    mask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(6, 4)
    wrong = data.known.clone()
    wrong[:, 1:] += 7.0
    losses = [
        learner.meta_gradient(learner.meta, Task(data.features, data._replace(known=known, mask=mask)), 0)[0]
        for known in (data.known, wrong)
    ]
    assert torch.equal(*losses)
    seen = learner.meta_gradient(learner.meta, Task(data.features, data._replace(known=wrong)), 0)[0]
    assert (seen > losses[0] + 1).all()


def test_the_query_loss_is_the_joint_density_of_torques_and_mass(iiwa, prior, trials):
    data, _, params = trials
    factor = torch.linalg.cholesky(prior.covariance)
    learner = weighing_learner(params, ONE, factor, prior.mean, trials=10**12)
    mask = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(6, 4)
    few = data._replace(mask=mask)
    losses = learner.meta_gradient(learner.meta, Task(few.features, few), 0)[0]
    # Dense: torques and mass are jointly Gaussian with the payload drawn from the prior.
    regressor = data.features.payload.flatten(1, 2)  # (trials, rows, 10)
    inertia = data.features.inertia
    noise = 0.01 * torch.eye(7, dtype=torch.float64) + 0.05**2 * inertia @ inertia.mT
    rows = torch.cat((regressor, factor[0].expand(6, 1, 10)), 1)
    covariance = rows @ rows.mT
    for trial in range(6):
        covariance[trial, :-1, :-1] += torch.block_diag(*noise[trial])
    residual = (data.features.torque - data.features.expected).flatten(1)
    residual = torch.cat((residual, data.known[:, :1] - prior.mean[0]), 1)
    density = torch.distributions.MultivariateNormal(torch.zeros(141, dtype=torch.float64), covariance)
    constant = 141 / 2 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))
    torch.testing.assert_close(10 * losses, -density.log_prob(residual) - constant, rtol=1e-8, atol=1e-6)


def test_the_rigid_torque_undoes_gain_friction_and_load():
    params = start(0, ONE, None, generator())
    speed = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None].expand(40, 7)
    rigid = 30 * torch.randn(40, 7, generator=generator(1), dtype=torch.float64)
    sliding = torch.tanh(speed / 0.02)
    measured = 1.04 * (rigid + (0.7 + 0.05 * rigid.abs()) * sliding + 0.3 * speed)
    params |= {
        "gain": 20 * (1 / 1.04 - 1) * ONE,
        "coulomb": 0.7 * ONE,
        "viscous": 0.3 * ONE,
        "load": 0.5 * ONE,
    }
    found, _ = rigid_torque(params, ONE, speed, measured)
    # u - .05 s |u| stands for u / (1 + .05 s sign u): they differ by the square of the share of the load.
    torch.testing.assert_close(found, rigid, rtol=0.05**2 * 1.06, atol=1e-12)


def test_the_slope_is_the_derivative_by_the_measured_torque():
    params = start(0, ONE, None, generator())
    noisy = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator(2), dtype=torch.float64)
        for name, value in params.items()
    }
    speed, torque = torch.randn(2, 9, 7, generator=generator(3), dtype=torch.float64)
    torque.requires_grad_()
    rigid, slope = rigid_torque(noisy, 2 * ONE, speed, torque)
    torch.testing.assert_close(slope, torch.autograd.grad(rigid.sum(), torque)[0])


def test_link_directions_carry_the_torques_of_any_link_error(iiwa, past):
    log, *_ = past(simulated.nominal("iiwa"), 30, 4)
    roots = link_roots(iiwa.chain, 0.05, 0.01)
    directions = link_directions(iiwa.chain, log, roots)
    draw = torch.randn(7, 10, generator=generator(5), dtype=torch.float64)
    errors = (roots @ draw[..., None])[..., 0].flatten()
    regressor = arm.link_regressor(iiwa.chain, log.q, log.qd, log.qdd).flatten(-2)
    exact, columns = (regressor @ errors).flatten(), (regressor @ directions).flatten(0, -2)
    left = exact - columns @ torch.linalg.lstsq(columns, exact[:, None]).solution[:, 0]
    assert directions.shape[1] < 50 < errors.numel()
    assert left.square().mean().sqrt() < 0.005 < 0.01 * exact.square().mean().sqrt()
