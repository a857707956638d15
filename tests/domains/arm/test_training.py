"""Weighers that learn: better than the classical rows where the robot is not as its maker says."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from scimeta.domains import arm
from scimeta.domains.arm import training as module
from simulators import arm as simulated
from tests.domains.arm.recorded import as_log

QUICK = arm.Training(steps=60, tasks_per_step=30)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def robot():
    return simulated.scenario("S3", np.random.default_rng(1))


@pytest.fixture(scope="module")
def movement(robot):
    return simulated.excitation(robot.chain, np.random.default_rng(2), candidates=20)


@pytest.fixture(scope="module")
def any_movement(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 150, 3)
    training = arm.Training(steps=250, tasks_per_step=30)
    return arm.learn_to_weigh(iiwa, log, mass, prior=prior, training=training, generator=generator())


@pytest.fixture(scope="module")
def fixed(iiwa, prior, past, robot, movement):
    log, mass, _ = past(robot, 150, 4, movement)
    training = arm.Training(steps=250, tasks_per_step=30)
    return arm.learn_to_weigh(iiwa, log, mass, prior=prior, movement="fixed", training=training, generator=generator())


def test_one_step_beats_every_classical_row_on_a_robot_with_gain_and_load_errors(any_movement, past, robot):
    log, mass, _ = past(robot, 300, 5)
    table = any_movement.compare(log, mass)["RMSE [kg]"]
    ours = table["one gradient step, meta-learned"]
    assert ours < 0.03
    assert ours < 0.5 * table["MAP, calibrated on the same trials"]
    assert ours < 0.2 * table["least squares, 10 unknowns, as built"]
    assert table["Cramer-Rao bound, 10 unknowns"] < ours


def test_intervals_hold_the_true_mass_as_often_as_they_say(any_movement, fixed, past, robot, movement):
    for weigher, trials in ((any_movement, past(robot, 300, 6)), (fixed, past(robot, 300, 7, movement))):
        log, mass, _ = trials
        lower, upper = weigher.weigh(log).interval(0.9)
        held = ((lower <= mass) & (mass <= upper)).double().mean().item()
        # Of 30 trials kept back and 300 weighed: three standard errors of both.
        assert abs(held - 0.9) < 3 * math.sqrt(0.09 / 30 + 0.09 / 300)


def test_a_plain_step_on_a_fixed_movement_is_as_good(fixed, past, robot, movement):
    log, mass, com = past(robot, 300, 8, movement)
    found = fixed.weigh(log)
    assert (found.mass - mass).square().mean().sqrt() < 0.02
    heavy = mass > 1
    assert (found.com - com)[heavy].square().mean().sqrt() < 0.02


def test_payloads_heavier_than_any_seen_are_weighed_nearly_as_well(any_movement, past, robot):
    within = past(robot, 300, 9)
    beyond = past(robot, 300, 10, mass=(5.0, 8.0))
    errors = [(any_movement.weigh(log).mass - mass).square().mean().sqrt() for log, mass, _ in (within, beyond)]
    assert errors[1] < 2 * errors[0]


def test_a_trial_is_weighed_alone_as_in_a_batch(any_movement, past, robot):
    log, *_ = past(robot, 5, 11)
    batch = any_movement.weigh(log)
    alone = any_movement.weigh(arm.Log(*(values[3] for values in log)))
    torch.testing.assert_close(alone.parameters, batch.parameters[3], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(alone.covariance, batch.covariance[3], rtol=1e-7, atol=1e-12)
    assert alone.mass.shape == () and alone.com.shape == (3,)


@pytest.mark.parametrize("kind", ["any_movement", "fixed"])
def test_a_saved_weigher_weighs_alike(kind, request, tmp_path, past, robot, movement):
    weigher = request.getfixturevalue(kind)
    log, *_ = past(robot, 4, 12, movement if kind == "fixed" else None)
    loaded = arm.Weigher.load(weigher.save(tmp_path / "weigher.safetensors"))
    torch.testing.assert_close(loaded.weigh(log).parameters, weigher.weigh(log).parameters, rtol=1e-9, atol=1e-10)
    assert loaded.weigh(log).interval()[0].tolist() == pytest.approx(weigher.weigh(log).interval()[0].tolist())
    assert str(loaded) == str(weigher)


def test_the_same_seed_learns_the_same(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 30, 13)
    one, two = (
        arm.learn_to_weigh(iiwa, log, mass, prior=prior, training=QUICK, generator=generator()) for _ in range(2)
    )
    assert all(torch.equal(one.meta.init[name], two.meta.init[name]) for name in one.meta.init)


@pytest.mark.parametrize(
    "stop", [55, pytest.param(115, marks=pytest.mark.slow)]
)  # in the first and in the second half, each past a checkpoint
def test_a_killed_training_goes_on_to_the_same_weigher(iiwa, prior, past, robot, movement, tmp_path, monkeypatch, stop):
    log, mass, _ = past(robot, 30, 14, movement)

    def learn(checkpoint=None):
        return arm.learn_to_weigh(
            iiwa,
            log,
            mass,
            prior=prior,
            movement="fixed",
            training=QUICK,
            checkpoint=checkpoint,
            generator=generator(),
        )

    whole = learn()
    drawn = 0
    select = module.select_tasks

    def interrupted(nest, index):
        nonlocal drawn
        drawn += torch.is_tensor(index) and len(index) == 30
        if drawn == stop:
            raise KeyboardInterrupt
        return select(nest, index)

    monkeypatch.setattr(module, "select_tasks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "run.safetensors")
    assert (tmp_path / "run.safetensors").exists()
    monkeypatch.setattr(module, "select_tasks", select)
    resumed = learn(tmp_path / "run.safetensors")
    for part in ("init", "rule"):
        ours, theirs = getattr(whole.meta, part), getattr(resumed.meta, part)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_trials_without_a_mass_help(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 60, 15)
    some = mass.clone()
    some[12:] = math.nan
    training = arm.Training(steps=150, tasks_per_step=12)
    weigher = arm.learn_to_weigh(iiwa, log, some, prior=prior, training=training, generator=generator())
    log = arm.Log(*(values[:12] for values in log))
    few = arm.learn_to_weigh(iiwa, log, mass[:12], prior=prior, training=training, generator=generator())
    test, true, _ = past(robot, 200, 16)
    errors = [(one.weigh(test).mass - true).square().mean().sqrt() for one in (weigher, few)]
    assert errors[0] < errors[1]
    assert len(weigher.misses) == 0 and "not checked" in str(weigher)


def test_known_centres_of_mass_are_learned_from_too(iiwa, prior, past, robot):
    log, mass, com = past(robot, 40, 17)
    blank = com.clone()
    blank[::2] = math.nan
    weigher = arm.learn_to_weigh(iiwa, log, mass, blank, prior=prior, training=QUICK, generator=generator())
    without = arm.learn_to_weigh(iiwa, log, mass, prior=prior, training=QUICK, generator=generator())
    assert not torch.equal(weigher.meta.init["links"], without.meta.init["links"])


def test_a_trial_that_never_moved_is_named(any_movement, past, robot):
    log, *_ = past(robot, 3, 18)
    still = log._replace(q=log.q.clone(), qd=log.qd.clone(), qdd=log.qdd.clone())
    still.q[1], still.qd[1], still.qdd[1] = log.q[1, :1], 0.0, 0.0
    with pytest.warns(UserWarning) as said:  # nor do its torques, of a trial that moved, fit
        found = any_movement.weigh(still)
    assert any(re.match(r"trial 1 never moved.*condition number", str(warning.message)) for warning in said)
    assert found.condition[1] > 1e4


def test_another_movement_than_the_fixed_one_is_refused(fixed, past, robot):
    log, *_ = past(robot, 3, 19)
    with pytest.raises(ValueError, match="rad away from the fixed test movement"):
        fixed.weigh(log)
    with pytest.raises(ValueError, match=r"the fixed movement has \(samples, n\) = \(20, 7\); got \(10, 7\)"):
        fixed.weigh(arm.Log(*(values[:, ::2] for values in log)))


def test_bad_trials_are_refused_before_any_training(iiwa, prior, past, robot):
    log, mass, _ = past(robot, 12, 20)

    def learn(log=log, mass=mass, com=None, **options):
        return arm.learn_to_weigh(iiwa, log, mass, com, prior=prior, training=QUICK, generator=generator(), **options)

    with pytest.raises(ValueError, match=r"log is \(trials, samples, n\), mass \(trials,\)"):
        learn(mass=mass[:-1])
    with pytest.raises(ValueError, match="a mass is 0 kg or more"):
        learn(mass=-mass)
    with pytest.raises(ValueError, match="9 trials have a mass"):
        learn(mass=torch.where(torch.arange(12) < 9, mass, math.nan))
    with pytest.raises(ValueError, match="rad away from the fixed test movement"):
        learn(movement="fixed")
    with pytest.raises(ValueError, match='movement is "any" or "fixed"'):
        learn(movement="swing")
    with pytest.raises(ValueError, match="not finite"):
        learn(log=log._replace(tau=log.tau / 0))
    with pytest.raises(ValueError, match="degrees"):
        learn(log=log._replace(q=log.q * 180 / math.pi))


def test_a_weigher_is_not_saved_under_a_suffix_of_another_format(any_movement, tmp_path):
    with pytest.raises(ValueError, match=r"name it weigher\.safetensors"):
        any_movement.save(tmp_path / "weigher.pkl")
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_no_weigher_is_refused(any_movement, tmp_path):
    file = any_movement.save(tmp_path / "weigher.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        arm.Weigher.load(damaged)
    with pytest.raises(FileNotFoundError):
        arm.Weigher.load(tmp_path / "nowhere")
    from scimeta.core.checkpoint import write_state

    with pytest.raises(ValueError, match="holds no weigher"):
        arm.Weigher.load(write_state(tmp_path / "other", {"weigher": {"prior": None}}))


def test_the_comparison_without_truth_gives_means_and_spreads(any_movement, past, robot):
    log, *_ = past(robot, 4, 21)
    table = any_movement.compare(arm.Log(*(values[0] for values in log)))
    assert list(table.columns) == ["mass [kg]", "sd [kg]"]
    found = any_movement.weigh(log)
    assert table.iloc[0].tolist() == pytest.approx([found.mass[0].item(), found.mass_sd[0].item()])


def test_an_unchecked_copy_keeps_gaussian_intervals(any_movement, past, robot):
    log, *_ = past(robot, 2, 22)
    unchecked = replace(any_movement, misses=any_movement.misses[:0])
    lower, upper = unchecked.weigh(log).interval(0.9)
    torch.testing.assert_close((upper - lower) / 2, 1.6448536269514722 * unchecked.weigh(log).mass_sd)


def test_trials_kept_back_that_are_missed_by_far_are_said_in_words(any_movement, iiwa, prior, past, robot):
    assert any_movement.kept.shape == (30, 4) and "missed " not in str(any_movement)
    torch.testing.assert_close(any_movement.kept[:, 1], past(robot, 150, 3)[1][::5])
    log, mass, _ = past(robot, 50, 23)
    mass[5] += 1.0  # a label that is wrong, of a trial that is kept back
    weigher = arm.learn_to_weigh(iiwa, log, mass, prior=prior, training=QUICK, generator=generator())
    assert re.search(rf"of 10 trials kept back\n\s+.*trial 5 \({mass[5]:.3g} kg, weighed 1\.1\d? ", str(weigher))
    named = weigher.report([f"monday_{number}" for number in range(50)])
    assert f"monday_5 ({mass[5]:.3g} kg" in named


@pytest.mark.parametrize("masses", [[2.805] * 14, [2.6] * 4 + [2.805] * 10], ids=["one weight", "two alike"])
def test_few_test_weights_and_empty_hands_weigh_anything_between(iiwa, masses):
    rng = np.random.default_rng(0)
    robot = simulated.scenario("S1", rng)
    every = [0.0] * 50 + masses + [0.0] * 20 + [1.0] * 20 + [2.805] * 20
    held = [simulated.box(m, (0.02, -0.03, 0.13), (0.1, 0.1, 0.1)) if m else None for m in every]
    movements = [simulated.draw_movement(robot.chain, rng) for _ in held]
    made = simulated.simulate(robot, held, movements, noise=simulated.Noise(torque=0.7), seed=1)
    log, mass = as_log(made), torch.tensor(made.mass)
    seen, new = (arm.Log(*(values[rows] for values in log)) for rows in (slice(0, 64), slice(64, None)))
    weigher = arm.learn_to_weigh(
        iiwa, seen, mass[:64], prior=arm.prior_of_labels(mass[:64]), training=arm.Training(200), generator=generator()
    )
    found = weigher.weigh(new)
    error = (found.mass - mass[64:]).view(3, 20)
    bound = arm.cramer_rao(weigher.classical, new, weigher.noise).square().mean().sqrt()
    assert (error.square().mean(1).sqrt() < 1.6 * bound).all() and (error.mean(1).abs() < 0.05).all()
    lower, upper = found.interval(0.9)
    assert ((lower <= mass[64:]) & (mass[64:] <= upper)).double().mean() > 0.8
