"""Velocities and accelerations of a recorded movement, where the robot did not record them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

_EVEN = 0.01  # of a step; times that close to even ones were rounded, not taken unevenly
GAP = 3.0
"""Steps between two rows, in median steps, from which on rows are missing."""


@dataclass(frozen=True)
class Filter:
    """Polynomials fitted to a sliding window: their values and slopes at its middle (Savitzky-Golay).

    The fit is symmetric about the instant it is for, so it shifts nothing in time. With 0.2 s and degree 4 a movement
    of 1 Hz keeps its accelerations to .03 %, one of 8 Hz loses nearly half; at 1 kHz noise of 1e-5 rad becomes 0.002
    rad/s^2. Half a window is lost at both ends.

    Args:
        window: s.
        degree: of the polynomials, 2 or more.

    Reference: Savitzky, Golay, Anal. Chem. 36, 1627 (1964).
    """

    window: float = 0.2
    degree: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.window < np.inf:
            raise ValueError(f"filter: window is a time in s, above 0; got {self.window}")
        if self.degree != int(self.degree) or self.degree < 2:
            raise ValueError(f"filter: degree is a whole number, 2 or more; got {self.degree}")


def differentiated(t: ndarray, tau: ndarray, q: ndarray, qd: ndarray | None, by: Filter) -> tuple[ndarray, ...]:
    """Return t, q, qd, qdd and tau of a movement whose accelerations were not recorded.

    Without qd, q is smoothed and both derivatives are those of its polynomials; with qd, qdd is the slope of the
    polynomials of qd, and q and qd stay as recorded. Uneven times are first made even, q and qd by cubic splines and
    tau by straight lines. tau is not smoothed.

    Args:
        t: (samples,) s, rising.
        tau, q: (samples, n).
        qd: (samples, n), or None.
        by: the filter.
    Returns: (kept,) and four (kept, n): the samples but half a window at both ends.
    Raises: ValueError: too few rows in a window, or in the log.

    >>> t = np.arange(0, 1, 0.01)
    >>> _, q, qd, qdd, _ = differentiated(t, t[:, None], t[:, None] ** 3, None, Filter())
    >>> t[10:-10].shape == qd[:, 0].shape, np.allclose(qd[:, 0], 3 * t[10:-10] ** 2)
    (True, True)
    """
    step = (t[-1] - t[0]) / (len(t) - 1)
    even = t[0] + step * np.arange(len(t))
    if np.abs(t - even).max() > _EVEN * step:
        q, qd = (None if x is None else CubicSpline(t, x)(even) for x in (q, qd))
        tau = np.stack([np.interp(even, t, column) for column in tau.T], 1)
    half = round(by.window / step / 2)
    if 2 * half + 1 < by.degree + 3:
        raise ValueError(
            f"the filter's window of {by.window:g} s holds {2 * half + 1} rows, too few for degree {by.degree}; "
            "record qd and qdd, record faster, or widen it in robot.yaml: filter: "
            f"{{window: {(by.degree + 3) * step:.2g}}}"
        )
    if len(t) < 4 * half + 2:
        raise ValueError(f"there are {len(t)} rows, two windows of the filter ({4 * half + 2} rows) are the least")

    def fitted(x: ndarray, derivative: int) -> ndarray:
        return savgol_filter(x, 2 * half + 1, by.degree, deriv=derivative, delta=step, axis=0)[half:-half]

    inner = slice(half, -half)
    if qd is None:
        return even[inner], fitted(q, 0), fitted(q, 1), fitted(q, 2), tau[inner]
    return even[inner], q[inner], qd[inner], fitted(qd, 1), tau[inner]
