"""Trials whose torques no payload explains: warned of, and their intervals withheld."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from scimeta.core.tasks import select_tasks
from scimeta.domains import arm
from scimeta.domains.arm.residuals import ResidualTest, against_itself, against_noise
from simulators import arm as simulator

ROTORS = torch.tensor([1.2, 1.2, 0.6, 0.6, 0.3, 0.2, 0.1], dtype=torch.float64)  # kg m^2, of an LBR-size gear


@pytest.fixture(scope="module")
def robot():
    return simulator.scenario("S3", np.random.default_rng(1))


@pytest.fixture(scope="module")
def weigher(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 100, 3)
    training = arm.Training(steps=200, tasks_per_step=30)
    generator = torch.Generator().manual_seed(0)
    return arm.learn_to_weigh(iiwa, log, mass, prior=prior, training=training, generator=generator)


@pytest.fixture(scope="module")
def healthy(past, robot):
    return past(robot, 1000, 5)[0]


def pushed(chain, log, newton):
    """A table that pushes the tip up for a quarter of the time."""
    q = log.q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(arm.tip_position(chain, q)[..., 2].sum(), q)
    return log._replace(tau=log.tau - newton * slope * (torch.arange(log.q.shape[-2]) < log.q.shape[-2] / 4)[:, None])


def said(weigh, log):
    """Of how many trials the intervals are withheld, and what is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = weigh(log)
    assert found.mass_sd.isnan().equal(found.withheld) and found.mass.isfinite().all()
    return found.withheld.double().mean().item(), [str(warning.message) for warning in caught]


def test_of_a_thousand_healthy_trials_none_is_warned_of(weigher, healthy):
    assert said(weigher.weigh, healthy) == (0.0, [])


def test_of_a_thousand_trials_with_the_right_model_none_is_warned_of(true_model, prior, past, s1):
    log, *_ = past(s1, 1000, 6)
    assert said(lambda log: arm.weigh_map(true_model, log, prior), log) == (0.0, [])
    assert said(lambda log: arm.weigh_least_squares(true_model, log), log) == (0.0, [])


@pytest.mark.parametrize("samples", [1, 2, 5, 10, 50])
def test_trials_of_any_length_are_judged_alike(true_model, prior, past, s1, samples):
    log, *_ = past(s1, 200, 7, samples=samples)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*unobservable")
        for found in (arm.weigh_map(true_model, log, prior), arm.weigh_least_squares(true_model, log)):
            assert not found.withheld.any()


def test_rotor_inertia_and_contact_are_warned_of(weigher, iiwa, healthy):
    some = select_tasks(healthy, slice(0, 100))
    share, warned = said(weigher.weigh, some._replace(tau=some.tau + ROTORS * some.qdd))
    assert share == 1.0 and len(warned) == 1 and "trials 0, 1, 2, 3, 4, ... (100 of 100): the torques left" in warned[0]
    share, _ = said(weigher.weigh, pushed(iiwa.chain, some, 40.0))
    assert share == 1.0
    share, _ = said(weigher.weigh, pushed(iiwa.chain, some, 10.0))
    assert share > 0.9


def test_another_unit_of_the_same_make_is_mostly_warned_of(weigher, past):
    log, *_ = past(simulator.scenario("S3", np.random.default_rng(5)), 100, 8)
    share, _ = said(weigher.weigh, log)
    assert share > 0.5


def test_an_arm_trained_with_rotors_that_its_model_lacks_is_warned_of(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 80, 9)
    log = log._replace(tau=log.tau + ROTORS * log.qdd)
    seen, new = select_tasks(log, slice(0, 50)), select_tasks(log, slice(50, 80))
    weigher = arm.learn_to_weigh(
        iiwa, seen, mass[:50], prior=prior, training=arm.Training(150, 30), generator=torch.Generator().manual_seed(0)
    )
    assert weigher.noise.torque > 0.3  # it took the rotors for noise
    assert said(weigher.weigh, new)[0] > 0.9


def test_classical_rows_of_an_arm_as_built_are_warned_of(model, prior, healthy):
    some = select_tasks(healthy, slice(0, 50))
    for weigh in (
        lambda log: arm.weigh_map(model, log, prior),
        lambda log: arm.weigh_least_squares(model, log),
        lambda log: arm.weigh_least_squares(model, log, 1),
    ):
        share, warned = said(weigh, some)
        assert share == 1.0 and "so intervals are withheld" in warned[0]


def test_one_trial_of_a_batch_is_named_and_alone_says_the_same(weigher, iiwa, healthy):
    some = select_tasks(healthy, slice(0, 4))
    bad = pushed(iiwa.chain, some, 60.0)
    mixed = some._replace(tau=torch.where((torch.arange(4) == 2)[:, None, None], bad.tau, some.tau))
    with pytest.warns(UserWarning, match=r"^trial 2: the torques left over are up to [\d.]+ times their noise"):
        found = weigher.weigh(mixed)
    assert found.withheld.tolist() == [False, False, True, False]
    table = found.to_frame()
    assert table["mass_lower"].isna().tolist() == table["com_x_upper"].isna().tolist() == [False, False, True, False]
    assert (table["residual"] > 1.5).tolist() == [False, False, True, False]
    assert "withheld: residual" in str(found).splitlines()[3]
    with pytest.warns(UserWarning, match=r"^trial 0: the torques left over"):
        alone = weigher.weigh(arm.Log(*(values[2] for values in mixed)))
    assert alone.withheld and alone.mass_sd.isnan() and "withheld: residual" in str(alone)
    torch.testing.assert_close(alone.residual.size, found.residual.size[2])
    table = weigher.compare(mixed, torch.ones(4))
    assert table["withheld"].iloc[0] == 0.25


def test_the_limits_are_those_of_chi_square_and_f():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 20, 7, generator=generator, dtype=torch.float64)
    test = ResidualTest(probability=0.05, slack=1.0)
    known = against_noise(noise.square().sum((1, 2)), torch.full((4000,), 140.0), test)
    assert abs(known.above.double().mean() - 0.05) < 3 * (0.05 * 0.95 / 4000) ** 0.5
    speed, rate, regressor = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((4000, 20, 7), (4000, 20, 7), (4000, 140, 10))
    )
    flat = noise.flatten(1)[..., None]
    left = (flat - regressor @ torch.linalg.solve(regressor.mT @ regressor, regressor.mT @ flat))[..., 0]
    own = against_itself(left.view_as(noise), regressor, speed, rate, test)
    assert abs(own.above.double().mean() - 0.05) < 3 * (0.05 * 0.95 / 4000) ** 0.5


def test_a_hand_that_the_urdf_lacks_is_learned_as_part_of_the_arm(iiwa, past, robot):
    hand = torch.tensor(simulator.box(0.9, (0.0, 0.0, 0.105), (0.06, 0.2, 0.1)).parameters)
    log, mass, com = past(robot, 160, 10)
    log = log._replace(tau=log.tau + arm.payload_regressor(iiwa.chain, *log[1:4]) @ hand)
    seen, new = select_tasks(log, slice(0, 60)), select_tasks(log, slice(60, 160))
    weigher = arm.learn_to_weigh(
        iiwa,
        seen,
        mass[:60],
        com[:60],
        prior=arm.prior_of_labels(mass[:60], com[:60]),
        training=arm.Training(steps=300),
        generator=torch.Generator().manual_seed(0),
    )
    error = weigher.weigh(new).mass - mass[60:]
    assert error.square().mean().sqrt() < 0.03  # .12 from where the maker's links are
