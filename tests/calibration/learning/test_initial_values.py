"""Laws without a first guess: every specimen in its best valley, and its parameters under the same names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.family import Family
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.initial_values import best_of_several
from scimeta.calibration.learning.learn_prior import learn_prior

NAMES = ("A1", "k1", "A2", "k2")
TWO = Law(
    "two exponentials",
    lambda t, A1, k1, A2, k2: A1 * torch.exp(-k1 * t) + A2 * torch.exp(-k2 * t),
    dict.fromkeys(NAMES, Parameter(support="positive")),
)
UNITS = [(1.0, 1.0), (50.0, 0.02), (3.0, 0.3), (1e-3, 5.0), (2e4, 1.0), (10.0, 1e-4)]  # of amplitude and rate


def curve(t: np.ndarray, u: np.ndarray) -> np.ndarray:
    return np.exp(u[0] - np.exp(u[1]) * t) + np.exp(u[2] - np.exp(u[3]) * t)


def past(seed: int) -> tuple[list[Curve], np.ndarray, np.ndarray]:
    """Return 6 to 12 specimens of 10 to 15 points, their log parameters, and the logs' mean."""
    rng = np.random.default_rng(seed)
    specimens, points = rng.integers(6, 13), rng.integers(10, 16)
    size, rate = UNITS[seed]
    t = (np.geomspace(0.1, 9.0, points) if seed % 2 else np.linspace(0.0, 8.0, points)) / rate
    middle = np.log([2.0 * size, 2.0 * rate, 0.8 * size, 0.2 * rate])
    every = middle + 0.25 * rng.standard_normal((specimens, 4))
    noise = 0.03 * size * rng.standard_normal((specimens, points))  # 3 % of the slow amplitude's order
    return (
        [Curve(f"S{i}", t, curve(t, u) + e) for i, (u, e) in enumerate(zip(every, noise, strict=True))],
        every,
        middle,
    )


def least(own: Curve, *starts: np.ndarray) -> float:
    """Return the least sum of squares that MINPACK finds from near the truth."""
    return min(
        2 * optimize.least_squares(lambda u: curve(own.x, u) - own.y, start, method="lm", max_nfev=4000).cost
        for start in starts
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_specimen_reaches_the_best_fit_with_the_fast_term_first(seed):
    curves, truth, _ = past(seed)
    data = measured(TWO, curves)
    alone = Family.gaussian(TWO, np.zeros((1, 4)), np.eye(4), 1.0)
    modes = best_of_several(alone, data.points(0.1 * float(data.y.std()))).numpy()
    for own, mode, near in zip(curves, modes, truth, strict=True):
        assert np.square(curve(own.x, mode) - own.y).sum() <= 1.02 * least(own, near, near + 0.3)
    assert (modes[:, 1] > modes[:, 3]).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_sum_of_two_exponentials_is_learned_as_two(seed):
    curves, truth, middle = past(seed)
    prior = learn_prior(TWO, curves)
    mean = prior.family.coefficients[0, 0].numpy()
    # The mean of so many specimens, each known from its points to about as much again as they differ.
    np.testing.assert_allclose(mean, truth.mean(0), atol=4 * 0.35 / len(curves) ** 0.5)
    assert prior.learned.converged
    assert mean[1] - mean[3] == pytest.approx(middle[1] - middle[3], abs=1.0)


@pytest.mark.parametrize("seed", range(6))
def test_least_squares_without_a_start_finds_the_same_minima(seed):
    for own, near in zip(*past(seed)[:2], strict=True):
        found = LeastSquares(TWO).fit(own.x, own.y)
        assert np.square(found.residuals()).sum() <= 1.001 * least(own, near, near + 0.3)


def test_specimens_given_in_another_order_of_terms_come_out_alike():
    """What is fitted as slow + fast in one specimen and fast + slow in another is named alike."""
    from scimeta.calibration.learning.initial_values import _named_alike

    curves, truth, _ = past(0)
    data = measured(TWO, curves)
    alone = Family.gaussian(TWO, np.zeros((1, 4)), np.eye(4), 1.0)
    mixed = truth.copy()
    mixed[::2] = mixed[::2][:, [2, 3, 0, 1]]
    named = _named_alike(alone, data.points(1.0), torch.from_numpy(mixed))
    np.testing.assert_array_equal(named.numpy(), truth)
