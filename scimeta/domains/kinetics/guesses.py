"""What the points of one specimen tell before any fit: whether they can be fractions, and where a search may start.

Every first guess is finite and inside the supports, whatever the points; how near it is depends on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray

_CLIP = 1e-3  # a fraction nearer to 0 or 1 tells a double logarithm nothing but its noise
_EXPONENTS = (0.3, 6.0)
_USUAL_EXPONENT = 2.0
_FARTHEST = 1e3  # how many times the longest time away a guessed characteristic time may lie


def check_fractions(time: ndarray, fraction: ndarray) -> None:
    """Raise ValueError where the numbers cannot be transformed fractions over time.

    Values slightly below 0 or above 1 are measurements and pass.

    Args:
        time: (points,) s.
        fraction: (points,).

    Raises:
        ValueError: no point, shapes that differ, a value that is not finite, a negative time, a fraction above 1.5
            (percent?) or below -0.5.

    >>> check_fractions(np.array([0.0, 10.0]), np.array([-0.01, 98.0]))
    Traceback (most recent call last):
    ...
    ValueError: fraction 98 at time 10 lies far above 1: divide by 100 if these are percent
    """
    time, fraction = _points("check_fractions", time, fraction)
    if time.min() >= 0.0 and fraction.min() >= -0.5 and fraction.max() <= 1.5:
        return  # thousands of specimens come this way
    for row in np.flatnonzero(time < 0.0)[:1]:
        raise ValueError(f"time {time[row]:g} is negative: count times from the start")
    for row in np.flatnonzero(fraction > 1.5)[:1]:
        raise ValueError(
            f"fraction {fraction[row]:g} at time {time[row]:g} lies far above 1: divide by 100 if these are percent"
        )
    for row in np.flatnonzero(fraction < -0.5)[:1]:
        raise ValueError(f"fraction {fraction[row]:g} at time {time[row]:g} lies far below 0: check baseline and sign")


def avrami_line(time: ndarray, fraction: ndarray) -> tuple[float, float]:
    """Return (k, n) of the classical Avrami plot, the straight line ln(-ln(1 - X)) = n ln t + n ln k.

    Ordinary least squares over the points with t > 0 and 0 < X < 1; the others have no double logarithm. Noise is
    stretched without bound near X = 0 and cut off below it, so that n comes out too small, and the more so the more
    early points there are. Use it to compare with older work, not to calibrate.

    Args:
        time: (points,) time since the start, any unit.
        fraction: (points,) transformed fraction.
    Returns: k in 1/(unit of time) of X = 1 - exp(-(k t)^n), and n.

    Raises:
        ValueError: shapes differ, a value is not finite, fewer than two usable times, or a line that does not rise.

    >>> time = np.array([1.0, 2.0, 3.0])
    >>> k, n = avrami_line(time, 1 - np.exp(-((0.5 * time) ** 3)))
    >>> round(k, 6), round(n, 6)
    (0.5, 3.0)
    """
    time, fraction = _points("avrami_line", time, fraction)
    usable = (time > 0.0) & (fraction > 0.0) & (fraction < 1.0)
    if len(np.unique(time[usable])) < 2:
        raise ValueError(
            f"avrami_line needs two different times with t > 0 and 0 < fraction < 1; {usable.sum()} of {len(time)} "
            "points are such"
        )
    n, crossing = _line(np.log(time[usable]), _double_log(fraction[usable]), np.ones(usable.sum()))
    if not n > 0.0:
        raise ValueError(f"avrami_line: the line does not rise (n = {n:.3g}); the fraction must grow with time")
    return float(np.exp(-crossing)), float(n)


def guess_jmak(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return k and n by the Avrami plot, each point weighted by the inverse variance of its double logarithm."""
    return _power_guess(time, fraction, _double_log, lambda x: (1.0 - x) * np.log1p(-x))


def guess_jmak_kt(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return K = k^n and n."""
    guess = guess_jmak(time, fraction)
    return {"K": float(np.exp(np.clip(guess["n"] * np.log(guess["k"]), -500.0, 500.0))), "n": guess["n"]}


def guess_jmak_incubation(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return k, n and t0: the best of a few incubation times."""
    guess = _best(time, fraction, _incubations(time, fraction), [1.0])
    return {name: guess[name] for name in ("k", "n", "t0")}


def guess_jmak_incomplete(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return k, n and x_inf: the best of a few final fractions."""
    guess = _best(time, fraction, [0.0], _finals(fraction))
    return {name: guess[name] for name in ("k", "n", "x_inf")}


def guess_jmak_full(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return k, n, t0 and x_inf: the best of a few incubation times and final fractions."""
    return _best(time, fraction, _incubations(time, fraction), _finals(fraction))


def guess_austin_rickett(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return k and n by the weighted line logit X = n ln t + n ln k."""
    return _power_guess(time, fraction, _logit, lambda x: x * (1.0 - x))


def guess_logistic(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return rate and t_half by the weighted line logit X = rate (t - t_half)."""
    rate, middle = _linear_guess(time, fraction, _logit, lambda x: x * (1.0 - x))
    return {"rate": rate, "t_half": middle}


def guess_gompertz(time: ndarray, fraction: ndarray) -> dict[str, float]:
    """Return rate and t_peak by the weighted line -ln(-ln X) = rate (t - t_peak)."""
    rate, middle = _linear_guess(time, fraction, lambda x: -np.log(-np.log(x)), lambda x: x * np.log(x))
    return {"rate": rate, "t_peak": middle}


Transform = Callable[[ndarray], ndarray]


def _points(door: str, time: ndarray, fraction: ndarray) -> tuple[ndarray, ndarray]:
    """Return both as equal (points,) of finite floats, at least one, or say what is wrong with them."""
    time, fraction = np.asarray(time, dtype=float), np.asarray(fraction, dtype=float)
    if time.ndim != 1 or time.shape != fraction.shape or not len(time):
        raise ValueError(
            f"{door}: time has shape {time.shape}, fraction {fraction.shape}; pass equal (points,), at least one"
        )
    for row in np.flatnonzero(~(np.isfinite(time) & np.isfinite(fraction)))[:1]:
        raise ValueError(
            f"{door}: point {row} (the first is 0) is ({time[row]}, {fraction[row]}); drop it or correct it"
        )
    return time, fraction


def _double_log(fraction: ndarray) -> ndarray:
    return np.log(-np.log1p(-fraction))


def _logit(fraction: ndarray) -> ndarray:
    return np.log(fraction) - np.log1p(-fraction)


def _line(u: ndarray, v: ndarray, weight: ndarray) -> tuple[float, float]:
    """Return slope of the weighted line v(u) and where it crosses 0; NaN where the points do not give a slope."""
    weight = weight / weight.sum()
    middle, level = weight @ u, weight @ v
    spread = weight @ (u - middle) ** 2
    slope = weight @ ((u - middle) * (v - level)) / spread if spread > 1e-24 * (1.0 + middle**2) else np.nan
    return float(slope), float(middle - level / slope) if slope != 0.0 else np.nan


def _power_guess(time: ndarray, fraction: ndarray, transform: Transform, steepness: Transform) -> dict[str, float]:
    """Return k and n of a law whose transformed fraction is n (ln t + ln k)."""
    time, fraction = np.asarray(time, dtype=float), np.clip(np.asarray(fraction, dtype=float), _CLIP, 1.0 - _CLIP)
    later = time > 0.0
    if not later.any():
        return {"k": 1.0, "n": _USUAL_EXPONENT}
    log_time, value, weight = np.log(time[later]), transform(fraction[later]), steepness(fraction[later]) ** 2
    slope, _ = _line(log_time, value, weight)
    n = float(np.clip(slope, *_EXPONENTS)) if np.isfinite(slope) else _USUAL_EXPONENT
    log_k = weight @ (value / n - log_time) / weight.sum()
    farthest = np.log(_FARTHEST)
    log_k = np.clip(log_k, max(-farthest - log_time.max(), -600.0), min(farthest - log_time.min(), 600.0))
    return {"k": float(np.exp(log_k)), "n": n}


def _linear_guess(time: ndarray, fraction: ndarray, transform: Transform, steepness: Transform) -> tuple[float, float]:
    """Return rate and middle of a law whose transformed fraction is rate (t - middle)."""
    time, fraction = np.asarray(time, dtype=float), np.clip(np.asarray(fraction, dtype=float), _CLIP, 1.0 - _CLIP)
    longest = time.max() if time.max() > 0.0 else 1.0
    value, weight = transform(fraction), steepness(fraction) ** 2
    rate, _ = _line(time, value, weight)
    rate = float(np.clip(rate, 0.1 / longest, _FARTHEST / longest)) if np.isfinite(rate) else 4.0 / longest
    middle = weight @ (time - value / rate) / weight.sum()
    return rate, float(np.clip(middle, longest / _FARTHEST, longest * _FARTHEST))


def _incubations(time: ndarray, fraction: ndarray) -> list[float]:
    """Return incubation times to try, all before the transformation is seen."""
    late = np.asarray(time)[np.asarray(fraction) > 0.05]
    onset = late.min() if late.size else np.max(time)
    return [max(float(share * onset), 1e-3 * float(np.max(time)), 1e-12) for share in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95)]


def _finals(fraction: ndarray) -> list[float]:
    """Return final fractions to try, all above what is seen as far as they can be."""
    highest = float(np.max(fraction))
    return [float(np.clip(factor * highest, 0.05, 0.98)) for factor in (1.0, 1.05, 1.2, 1.6, 2.5, 5.0)]


def _best(time: ndarray, fraction: ndarray, incubations: list[float], finals: list[float]) -> dict[str, float]:
    """Return k, n, t0, x_inf with the least squared misfit among the incubation times and final fractions."""
    best, least = {}, np.inf
    for t0 in incubations:
        since = np.maximum(np.asarray(time, dtype=float) - t0, 0.0)
        for x_inf in finals:
            guess = guess_jmak(since, np.asarray(fraction, dtype=float) / x_inf)
            curve = -x_inf * np.expm1(-(np.minimum(guess["k"] * since, 1e30) ** guess["n"]))
            misfit = float(np.sum((curve - fraction) ** 2))
            if misfit < least:
                best, least = {**guess, "t0": t0, "x_inf": x_inf}, misfit
    return best
