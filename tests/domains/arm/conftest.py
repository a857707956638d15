"""Simulated robots, what is known of them, and trials of theirs, as tensors and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scimeta.domains import arm
from simulators import arm as simulator
from tests.domains.arm.recorded import COM, LOG, MASS, as_log

EXACT = simulator.Noise(0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="session")
def iiwa() -> arm.Arm:
    return arm.read_urdf(simulator.urdf("iiwa"))


@pytest.fixture(scope="session")
def model(iiwa: arm.Arm) -> arm.ArmModel:
    """The iiwa as its URDF describes it."""
    return arm.nominal(iiwa)


@pytest.fixture(scope="session")
def s1() -> simulator.Robot:
    """An iiwa whose links are not quite those of its URDF, with friction."""
    return simulator.scenario("S1", np.random.default_rng(1))


@pytest.fixture(scope="session")
def true_model(iiwa: arm.Arm, s1: simulator.Robot) -> arm.ArmModel:
    """What perfect calibration would find for ``s1``."""
    chain = iiwa.chain._replace(inertial=torch.as_tensor(s1.chain.inertial))
    return arm.ArmModel(chain, *(torch.as_tensor(x) for x in (s1.coulomb, s1.viscous, s1.offset)))


@pytest.fixture(scope="session")
def prior() -> arm.PayloadPrior:
    draws = simulator.draw_payloads(4000, np.random.default_rng(0))
    parameters = torch.tensor(np.array([payload.parameters for payload in draws]))
    return arm.PayloadPrior(parameters.mean(0), parameters.T.cov())


@pytest.fixture(scope="session")
def simulated():
    """A function: (trials, samples, noise, seed, robot, empty) -> log, payload (trials, 10).

    Movements and payloads are each trial's own; the same seed gives the same motion, empty-handed or not.
    """
    as_described = simulator.nominal("iiwa")

    def simulated(number, samples=20, noise=EXACT, seed=0, robot=as_described, empty=False):
        rng = np.random.default_rng(seed)
        movements = [simulator.draw_movement(robot.chain, rng) for _ in range(number)]
        payloads = [None] * number if empty else simulator.draw_payloads(number, rng)
        trials = simulator.simulate(robot, payloads, movements, samples, noise, seed + empty)
        return as_log(trials), torch.as_tensor(trials.payload)

    return simulated


@pytest.fixture(scope="session")
def past():
    """A function: (robot, trials, seed, movement or None, samples, mass) -> log, mass (trials,), com (trials, 3)."""

    def trials(robot, number, seed, movement=None, samples=20, mass=(0.0, 5.0)):
        rng = np.random.default_rng(seed)
        payloads = simulator.draw_payloads(number, rng, mass=mass)
        movements = movement or [simulator.draw_movement(robot.chain, rng) for _ in range(number)]
        found = simulator.simulate(robot, payloads, movements, samples=samples, seed=seed)
        return as_log(found), torch.tensor(found.mass), torch.tensor(found.com)

    return trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three trials as files, of an iiwa with errors and friction."""
    return arm.write_trials(tmp_path / "arm", simulator.urdf("iiwa"), LOG, mass=MASS, com=COM)
