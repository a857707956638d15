"""The laws and simulated families that the calibration tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from simulators.kinetics import ONE_KIND, Family, alloy_family

matplotlib.use("Agg")


def transformed(time: Tensor, k: Tensor, n: Tensor) -> Tensor:
    """X = 1 - exp(-(k t)^n) for t > 0."""
    return -torch.expm1(-torch.exp((n * (torch.log(k) + torch.log(time))).clamp(max=6.6)))


@pytest.fixture(scope="session")
def jmak() -> Law:
    """JMAK with the simulator's coordinates, (ln k, n), so that the simulated population is exactly Gaussian."""
    parameters = {"k": Parameter("1/s", "positive"), "n": Parameter()}
    return Law("JMAK", transformed, parameters, Axis("time", "s"), Axis("fraction"))


@pytest.fixture(scope="session")
def line() -> Law:
    """A law that is linear in its parameters: its posterior is a textbook formula."""
    parameters = {"level": Parameter("mm"), "slope": Parameter("mm/s")}
    return Law("line", lambda x, level, slope: level + slope * x, parameters, Axis("time", "s"), Axis("length", "mm"))


@pytest.fixture(scope="session")
def simulate() -> Callable[..., tuple[Family, list[Curve]]]:
    """Return (family with its truth, curves): ``simulate(specimens, seed, times=None, points=None, noise=0.02)``."""

    def simulated(
        specimens: int,
        seed: int,
        times: np.ndarray | Sequence[np.ndarray] | None = None,
        points: int | None = None,
        noise: float = 0.02,
    ) -> tuple[Family, list[Curve]]:
        family = alloy_family(specimens, rng=np.random.default_rng(seed), times=times, noise=noise)
        rows = enumerate(zip(family.times, family.fractions, strict=True))
        return family, [Curve(f"A{i:03d}", t[:points], y[:points]) for i, (t, y) in rows]

    return simulated


@pytest.fixture(scope="session")
def truth(jmak: Law) -> Prior:
    """The population from which the simulator draws, as a prior: what perfect learning would return."""
    return Prior.by_hand(jmak, np.array([ONE_KIND[0]]), np.array(ONE_KIND[1]), 0.02)


@pytest.fixture(scope="session")
def learned(jmak: Law, simulate: Callable[..., tuple[Family, list[Curve]]]) -> tuple[Prior, Family, list[Curve]]:
    """A prior learned from 400 alloys of twelve points, with the alloys."""
    family, curves = simulate(400, seed=0, times=np.linspace(0.1, 3.0, 12))
    return learn_prior(jmak, curves), family, curves
