"""Trials of simulated robots, as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains import arm
from simulators import arm as simulated


@pytest.fixture(scope="session")
def iiwa() -> arm.Arm:
    return arm.read_urdf(simulated.urdf("iiwa"))


@pytest.fixture(scope="session")
def prior() -> arm.PayloadPrior:
    draws = simulated.draw_payloads(4000, np.random.default_rng(0))
    parameters = torch.tensor(np.array([payload.parameters for payload in draws]))
    return arm.PayloadPrior(parameters.mean(0), parameters.T.cov())


@pytest.fixture(scope="session")
def past():
    """A function: (robot, trials, seed, movement or None, samples) -> log, mass (trials,), centre of mass (trials, 3)."""

    def trials(robot, number, seed, movement=None, samples=20, mass=(0.0, 5.0)):
        rng = np.random.default_rng(seed)
        payloads = simulated.draw_payloads(number, rng, mass=mass)
        movements = movement or [simulated.draw_movement(robot.chain, rng) for _ in range(number)]
        found = simulated.simulate(robot, payloads, movements, samples=samples, seed=seed)
        log = arm.Log(*(torch.tensor(getattr(found, name)) for name in arm.Log._fields))
        return log, torch.tensor(found.mass), torch.tensor(found.com)

    return trials
