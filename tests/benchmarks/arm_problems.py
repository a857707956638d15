"""The arm's benchmark problems: robots, payloads, trials, what is known before, and how a weighing is scored.

The iiwa holds 0 to 5 kg, off-centre; movements of 4 s; torque noise .1 Nm. S1: links off by 5 % and 10 mm, friction.
S3: besides, 2 % in the torque sensors' gains and friction that grows by 5 % of the load. Only masses are labelled.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.domains.arm import (
    ArmModel,
    Log,
    Noise,
    PayloadPrior,
    Training,
    Weigher,
    Weighing,
    calibrate,
    cramer_rao,
    learn_to_weigh,
    read_urdf,
)
from simulators import arm as sim

SMOKE = "SCIMETA_SMOKE" in os.environ
SAMPLES = 20
LABELLED, NEW = (20, 20) if SMOKE else (400, 1000)
STEPS = 5 if SMOKE else 600
UNLOADED, UNLOADED_SAMPLES = (2, 50) if SMOKE else (10, 200)
MOVEMENTS: tuple[Kind, ...] = ("any", "fixed")
ARM = read_urdf(sim.urdf("iiwa"))

Kind = Literal["any", "fixed"]
"""Whether each trial makes a movement of its own, or all the same test movement."""


class Trials(NamedTuple):
    """Logs of trials, true masses, kg, all true parameters (trials, 10), and the logs with the motion asked for."""

    log: Log
    mass: Tensor
    payload: Tensor
    exact: Log


class Score(NamedTuple):
    """Root mean square and median error of the mass, kg; share of 90 % intervals that hold it (nan without any)."""

    rmse: float
    median: float
    coverage: float


class Unit:
    """One robot, drawn for a scenario, and its trials; the same numbers at every call, and longer pasts hold shorter.

    Args:
        scenario: "S1" or "S3".
        number: of the robot.
        seed: of all robots and trials.
    """

    def __init__(self, scenario: str, number: int, seed: int) -> None:
        self.key = (seed, number, int(scenario[1:]))
        rng = np.random.default_rng(self.key)
        self.robot = sim.scenario(scenario, rng)
        self.test_movement = sim.excitation(sim.read_chain("iiwa"), rng)
        self._learned: dict[tuple, tuple[Weigher, float]] = {}

    def past(self, kind: Kind, trials: int = LABELLED, samples: int = SAMPLES) -> Trials:
        return self._draw(1, kind, trials, samples)

    def new(
        self, kind: Kind, samples: int = SAMPLES, mass: tuple[float, float] = (0.0, 5.0), trials: int = NEW
    ) -> Trials:
        return self._draw(2 if mass[0] == 0 else 3, kind, trials, samples, mass)

    def _draw(self, what: int, kind: Kind, trials: int, samples: int, mass: tuple[float, float] = (0.0, 5.0)) -> Trials:
        payloads = sim.draw_payloads(trials, np.random.default_rng((*self.key, what, 0)), mass)
        rng = np.random.default_rng((*self.key, what, 1))
        fixed = kind == "fixed"
        movements = self.test_movement if fixed else [sim.draw_movement(self.robot.chain, rng) for _ in payloads]
        return trials_of(sim.simulate(self.robot, payloads, movements, samples, seed=1000 * self.key[1] + what))

    def unloaded(self) -> ArmModel:
        """The arm as calibrated on movements with nothing in its hand."""
        rng = np.random.default_rng((*self.key, 4))
        movements = [sim.draw_movement(self.robot.chain, rng) for _ in range(UNLOADED)]
        return calibrate(ARM, log_of(sim.simulate(self.robot, [None] * UNLOADED, movements, UNLOADED_SAMPLES, seed=4)))

    def weigher(self, kind: Kind, trials: int = LABELLED, samples: int = SAMPLES) -> tuple[Weigher, float]:
        """Ours, and the CPU seconds that it took to learn; learned once."""
        key = (kind, trials, samples)
        if key not in self._learned:
            past = self.past(*key)
            begin = time.process_time()
            weigher = learn(past, kind)
            self._learned[key] = weigher, time.process_time() - begin
        return self._learned[key]

    def bound(self, trials: Trials, noise: Noise) -> float:
        """Root mean square over trials of the Cramer-Rao bound of the mass, 10 unknowns, for who knows this robot."""
        none = torch.zeros(len(ARM.joints), dtype=torch.float64)
        links = torch.as_tensor(self.robot.chain.inertial)
        truth = ArmModel(ARM.chain._replace(inertial=links), none, none, none)
        return cramer_rao(truth, trials.exact, noise, payload=trials.payload).square().mean().sqrt().item()


@cache
def unit(scenario: str, number: int, seed: int) -> Unit:
    return Unit(scenario, number, seed)


@cache
def prior() -> PayloadPrior:
    """The mean and the covariance of the payloads drawn, told to all methods that take a prior."""
    drawn = sim.draw_payloads(500 if SMOKE else 20_000, np.random.default_rng(0))
    parameters = torch.as_tensor(np.stack([payload.parameters for payload in drawn]))
    return PayloadPrior(parameters.mean(0), parameters.mT.cov())


def learn(past: Trials, kind: Kind, steps: int = STEPS) -> Weigher:
    """Ours, from logs and masses alone."""
    options = {"training": Training(steps=steps), "generator": torch.Generator().manual_seed(0)}
    return learn_to_weigh(ARM, past.log, past.mass, prior=prior(), movement=kind, **options)


def trials_of(trials: sim.Trials) -> Trials:
    log = log_of(trials)
    motion = zip(*(movement.at(t) for movement, t in zip(trials.movements, trials.t, strict=True)), strict=True)
    exact = Log(log.t, *(torch.as_tensor(np.stack(part)) for part in motion), log.tau)
    return Trials(log, torch.as_tensor(trials.mass), torch.as_tensor(trials.payload), exact)


def log_of(trials: sim.Trials) -> Log:
    return Log(*(torch.as_tensor(getattr(trials, name)) for name in Log._fields))


def score(found: Weighing | Tensor, mass: Tensor) -> Score:
    """Of weighings, or of masses (trials,) that come without intervals."""
    if isinstance(found, Tensor):
        error, coverage = found - mass, float("nan")
    else:
        lower, upper = found.interval(0.9)
        error, coverage = found.mass - mass, ((lower <= mass) & (mass <= upper)).double().mean().item()
    return Score(error.square().mean().sqrt().item(), error.abs().median().item(), coverage)


def mean_score(scores: list[Score]) -> Score:
    return Score(*(float(np.mean(values)) for values in zip(*scores, strict=True)))


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin
