"""Simulated families of alloys that transform by the JMAK law, with the truth known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    import pandas as pd

_LEAST_EXPONENT = 0.3

ONE_KIND = ((0.0, 2.5), ((0.16, 0.10), (0.10, 0.25)))
"""Mean and covariance of (ln k, n), k in 1/s."""

TWO_KINDS = (((-0.25, 1.4), ((0.0625, 0.0), (0.0, 0.0225))), ((0.25, 3.4), ((0.0625, 0.0), (0.0, 0.04))))
"""Mean and covariance of (ln k, n) of each kind."""


@dataclass(frozen=True, eq=False)
class Family:
    """Measured curves of simulated alloys and the truth behind them.

    Attributes:
        times: one (points,) an alloy, s.
        fractions: one (points,) an alloy, measured; noise takes some below 0 or above 1.
        k: (alloys,) true rate constant, 1/s.
        n: (alloys,) true Avrami exponent.
        t0: (alloys,) true incubation time, s; 0 unless asked for.
        x_inf: (alloys,) true final fraction; 1 unless asked for.
        kind: (alloys,) 0 or, in a family of two kinds, 0 and 1.
    """

    times: tuple[ndarray, ...]
    fractions: tuple[ndarray, ...]
    k: ndarray
    n: ndarray
    t0: ndarray
    x_inf: ndarray
    kind: ndarray

    def __len__(self) -> int:
        return len(self.k)

    def truth(self, times: ndarray) -> ndarray:
        """Return the noise-free (alloys, points) fractions of all alloys at times (points,) or (alloys, points)."""
        return fraction(np.asarray(times, dtype=float), *(v[:, None] for v in (self.k, self.n, self.t0, self.x_inf)))

    def to_frame(self) -> pd.DataFrame:
        """Return one row a measurement: alloy ("A000", ...), time_s, fraction."""
        import pandas as pd

        names = [f"A{i:03d}" for i in range(len(self))]
        return pd.DataFrame(
            {
                "alloy": np.repeat(names, [len(t) for t in self.times]),
                "time_s": np.concatenate(self.times),
                "fraction": np.concatenate(self.fractions),
            }
        )

    def truth_frame(self) -> pd.DataFrame:
        """Return one row an alloy: alloy, and the true k, n, t0, x_inf and kind."""
        import pandas as pd

        names = [f"A{i:03d}" for i in range(len(self))]
        return pd.DataFrame(
            {"alloy": names, "k": self.k, "n": self.n, "t0": self.t0, "x_inf": self.x_inf, "kind": self.kind}
        )


def fraction(time: ndarray, k: ndarray, n: ndarray, t0: ndarray | float = 0.0, x_inf: ndarray | float = 1.0) -> ndarray:
    """Return X = x_inf (1 - exp(-(k (t - t0))^n)) for t > t0, else 0; the arguments broadcast.

    >>> fraction(np.array([0.0, 1.0]), 1.0, 2.0).round(4)
    array([0.    , 0.6321])
    """
    with np.errstate(over="ignore"):
        return -x_inf * np.expm1(-((k * np.maximum(time - t0, 0.0)) ** n))


def alloy_family(
    specimens: int = 200,
    *,
    rng: np.random.Generator,
    times: ndarray | Sequence[ndarray] | None = None,
    mean: Sequence[float] = ONE_KIND[0],
    covariance: Sequence[Sequence[float]] = ONE_KIND[1],
    noise: float = 0.02,
    outliers: float = 0.0,
    outlier_shift: float = 0.15,
    incubation: tuple[float, float] | None = None,
    final: tuple[float, float] | None = None,
) -> Family:
    """Return a family of alloys whose (ln k, n) are Gaussian, n above 0.3.

    Args:
        specimens: number of alloys.
        rng: source of randomness; the same seed gives the same numbers.
        times: s, (points,) for all alloys, or one array an alloy; 30 from 0.1 to 3 if None.
        mean: of (ln k, n), k in 1/s.
        covariance: (2, 2) of (ln k, n).
        noise: standard deviation of the measured fraction.
        outliers: share of the points that are shifted by ``outlier_shift``, away from the truth.
        outlier_shift: in units of the fraction.
        incubation: (low, high) of a uniform incubation time, s; none if None.
        final: (low, high) of a uniform final fraction; 1 if None.

    Raises:
        ValueError: a number outside its range, times that are negative or not one array an alloy.

    >>> family = alloy_family(3, rng=np.random.default_rng(0))
    >>> len(family), family.fractions[0].shape, list(family.to_frame().columns)
    (3, (30,), ['alloy', 'time_s', 'fraction'])
    """
    grids = _grids(times, specimens)
    log_k, n = _population(specimens, mean, covariance, rng).T
    t0 = rng.uniform(*_range("incubation", incubation, np.inf), specimens) if incubation else np.zeros(specimens)
    x_inf = rng.uniform(*_range("final", final, 1.0), specimens) if final else np.ones(specimens)
    truth = (np.exp(log_k), n, t0, x_inf)
    fractions = _measured(grids, truth, noise, outliers, outlier_shift, rng)
    return Family(grids, fractions, *truth, np.zeros(specimens, dtype=int))


def two_kinds(
    specimens: int = 200,
    *,
    rng: np.random.Generator,
    times: ndarray | Sequence[ndarray] | None = None,
    noise: float = 0.02,
    outliers: float = 0.0,
    outlier_shift: float = 0.15,
) -> Family:
    """Return a family of two kinds of alloys, slow with small n and fast with large n, in turns.

    Args:
        specimens: number of alloys; half of them (the odd ones) are of the second kind.
        rng: source of randomness; the same seed gives the same numbers.
        times: s, (points,) for all alloys, or one array an alloy; 30 from 0.1 to 3 if None.
        noise: standard deviation of the measured fraction.
        outliers: share of the points that are shifted by ``outlier_shift``, away from the truth.
        outlier_shift: in units of the fraction.

    Raises:
        ValueError: as :func:`alloy_family`.

    >>> two_kinds(4, rng=np.random.default_rng(0)).kind
    array([0, 1, 0, 1])
    """
    grids = _grids(times, specimens)
    kind = np.arange(specimens) % 2
    both = np.stack([_population(specimens, mean, covariance, rng) for mean, covariance in TWO_KINDS])
    log_k, n = both[kind, np.arange(specimens)].T
    truth = (np.exp(log_k), n, np.zeros(specimens), np.ones(specimens))
    return Family(grids, _measured(grids, truth, noise, outliers, outlier_shift, rng), *truth, kind)


def _grids(times: ndarray | Sequence[ndarray] | None, specimens: int) -> tuple[ndarray, ...]:
    """Return one array of times an alloy."""
    if specimens < 1 or specimens != int(specimens):
        raise ValueError(f"specimens must be a whole number, 1 or more; got {specimens}")
    times = np.linspace(0.1, 3.0, 30) if times is None else times
    if not np.iterable(times) or not len(times):
        raise ValueError(f"times must be (points,), or one such array an alloy; got {times!r}")
    if np.ndim(times[0]) == 0:
        grids = tuple(np.array(times, dtype=float) for _ in range(specimens))
    else:
        grids = tuple(np.array(grid, dtype=float) for grid in times)
    if len(grids) != specimens:
        raise ValueError(f"times has {len(grids)} arrays for {specimens} specimens; give one each, or one for all")
    for row, grid in enumerate(grids):
        if grid.ndim != 1 or not (np.isfinite(grid) & (grid >= 0.0)).all():
            raise ValueError(f"times of alloy {row} (the first is 0) must be (points,), finite and not negative")
    return grids


def _population(
    specimens: int,
    mean: Sequence[float] | ndarray,
    covariance: Sequence[Sequence[float]] | ndarray,
    rng: np.random.Generator,
) -> ndarray:
    """Return (specimens, 2) draws of (ln k, n), drawn again where n is too small."""
    mean, covariance = np.asarray(mean, dtype=float), np.asarray(covariance, dtype=float)
    if mean.shape != (2,) or covariance.shape != (2, 2) or not np.isfinite(mean).all():
        raise ValueError(
            f"mean must be two finite numbers and covariance (2, 2); got {mean.tolist()} and {covariance.tolist()}"
        )
    if not (np.array_equal(covariance, covariance.T) and np.linalg.eigvalsh(covariance)[0] > 0.0):
        raise ValueError(f"covariance must be symmetric and positive definite; got {covariance.tolist()}")
    root = np.linalg.cholesky(covariance)
    theta = np.empty((0, 2))
    for _ in range(1000):
        draws = mean + rng.standard_normal((specimens, 2)) @ root.T
        theta = np.concatenate([theta, draws[draws[:, 1] > _LEAST_EXPONENT]])
        if len(theta) >= specimens:
            return theta[:specimens]
    raise ValueError(f"hardly any n drawn is above {_LEAST_EXPONENT}; mean is {tuple(mean.tolist())}")


def _measured(
    grids: tuple[ndarray, ...],
    truth: tuple[ndarray, ...],
    noise: float,
    outliers: float,
    shift: float,
    rng: np.random.Generator,
) -> tuple[ndarray, ...]:
    """Return noisy fractions; outliers are drawn last, so that asking for them changes nothing else."""
    if not 0.0 <= noise < np.inf or not 0.0 <= outliers <= 1.0:
        raise ValueError(f"noise must be 0 or more and outliers between 0 and 1; got {noise} and {outliers}")
    errors = [rng.standard_normal(len(grid)) for grid in grids]
    strays = [rng.random(len(grid)) < outliers for grid in grids]
    return tuple(
        fraction(grid, *values) + noise * error + shift * np.sign(error) * stray
        for grid, values, error, stray in zip(grids, zip(*truth, strict=True), errors, strays, strict=True)
    )


def _range(name: str, ends: tuple[float, float], highest: float) -> tuple[float, float]:
    """Return the ends of a range, or say that they are not one."""
    low, high = ends if np.shape(ends) == (2,) else (np.nan, np.nan)
    if not 0.0 <= low <= high <= highest or np.isinf(high):
        raise ValueError(f"{name} must be (low, high) with 0 <= low <= high <= {highest:g}; got {ends}")
    return low, high
