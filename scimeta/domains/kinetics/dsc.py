"""From a raw isothermal heat-flow trace (DSC) to the relative crystallinity that a law describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy import ndarray
from scipy.integrate import cumulative_trapezoid
from scipy.signal import find_peaks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TAIL = 0.1  # share of the trace that the constant baseline is read from
_AVERAGED = 5  # samples behind each end of the linear baseline


@dataclass(frozen=True, eq=False)
class Crystallinity:
    """What :func:`crystallinity` makes of a trace.

    Attributes:
        time: (points,) since ``start``, in the unit of the trace.
        fraction: (points,) relative crystallinity, 0 at the first point and 1 at the last.
        enthalpy: area between trace and baseline from start to stop, in the unit of the heat flow times that of time
            (W/g and s: J/g).
        start: time of the first sample that is integrated, on the trace's own clock.
        stop: time of the last.
        baseline: (points,) that was taken off.
        heat_flow: (points,) of the trace, baseline included.
    """

    time: ndarray
    fraction: ndarray
    enthalpy: float
    start: float
    stop: float
    baseline: ndarray
    heat_flow: ndarray

    def __str__(self) -> str:
        return (
            f"relative crystallinity, {len(self.time)} points from {self.start:g} to {self.stop:g}, "
            f"enthalpy {self.enthalpy:.4g}, half-time {np.interp(0.5, self.fraction, self.time):.4g}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the integrated trace, its baseline and the fraction (right axis); returns the left axes."""
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1] if ax is None else ax
        clock = self.start + self.time
        ax.plot(clock, self.heat_flow, color="C0", label="heat flow")
        ax.plot(clock, self.baseline, color="C7", linestyle="--", label="baseline")
        ax.fill_between(clock, self.baseline, self.heat_flow, color="C0", alpha=0.15)
        ax.set(xlabel="time", ylabel="heat flow")
        right = ax.twinx()
        right.plot(clock, self.fraction, color="C1", label="fraction")
        right.set_ylabel("relative crystallinity")
        ax.legend(handles=[*ax.lines, *right.lines], loc="center right")
        return ax


def crystallinity(
    time: ndarray,
    heat_flow: ndarray,
    start: float | None = None,
    stop: float | None = None,
    baseline: Literal["constant", "linear"] | float | ndarray = "constant",
) -> Crystallinity:
    """Return the relative crystallinity X(t) = area of the peak up to t / its whole area, between start and stop.

    The three choices change X, most of all where the instrument's first transient overlaps the peak: look at
    ``plot()``, and calibrate again with another choice to see what hangs on it.

    Args:
        time: (samples,) increasing.
        heat_flow: (samples,) exothermic positive.
        start: where the integral begins and X = 0, on the trace's clock. If None: the last local minimum before the
            peak, that is the lowest sample since the trace was last higher than the peak (or since its beginning).
        stop: where the integral ends and X = 1; the end of the trace if None.
        baseline: "constant": the median of the last tenth of the whole trace; "linear": a straight line between the
            trace at start and at stop, the mean of five samples at each; or a number; or (samples,), a baseline
            measured or drawn.
    Returns: a :class:`Crystallinity`, its time counted from start.

    Raises:
        ValueError: shapes differ, values that are not finite, times that do not increase, no exothermic peak, a range
            outside the trace or of fewer than three samples, an area that is not positive, an unknown baseline.

    Reference: Lorenzo et al., Polymer Testing 26, 222 (2007).

    >>> time = np.linspace(0.0, 100.0, 201)
    >>> result = crystallinity(time, 2.0 + np.exp(-((time - 40.0) ** 2) / 50.0), start=10.0, stop=80.0, baseline=2.0)
    >>> round(result.enthalpy, 2), round(float(np.interp(30.0, result.time, result.fraction)), 3)
    (12.53, 0.5)
    """
    time, flow = _trace(time, heat_flow)
    stop = float(time[-1] if stop is None else stop)
    start = _last_minimum(time, flow, stop) if start is None else float(start)
    if not time[0] <= start < stop <= time[-1]:
        raise ValueError(f"the range from {start:g} to {stop:g} must rise and lie in the trace's, {time[0]:g} to "
                         f"{time[-1]:g}")  # fmt: skip
    inside = np.flatnonzero((time >= start) & (time <= stop))
    if len(inside) < 3:
        raise ValueError(f"only {len(inside)} samples lie between {start:g} and {stop:g}; three are needed at least")
    base = _baseline(time, flow, inside, baseline)[inside]
    area = cumulative_trapezoid(flow[inside] - base, time[inside], initial=0.0)
    if not area[-1] > 0.0:
        raise ValueError(
            f"the area between trace and baseline is {area[-1]:g}, not positive: negate heat_flow if exothermic points "
            "down, or choose another baseline or range"
        )
    first, last = time[inside[0]], time[inside[-1]]
    fraction, enthalpy = area / area[-1], float(area[-1])
    return Crystallinity(time[inside] - first, fraction, enthalpy, float(first), float(last), base, flow[inside])


def _trace(time: ndarray, flow: ndarray) -> tuple[ndarray, ndarray]:
    """Return the trace as float arrays, or say what is wrong with it."""
    time, flow = np.asarray(time, dtype=float), np.asarray(flow, dtype=float)
    if time.ndim != 1 or time.shape != flow.shape or len(time) < 3:
        raise ValueError(
            f"a trace needs two equal (samples,) of three samples or more; time has shape {time.shape}, heat_flow "
            f"{flow.shape}"
        )
    for row in np.flatnonzero(~(np.isfinite(time) & np.isfinite(flow)))[:1]:
        raise ValueError(f"sample {row} (the first is 0) of the trace is not finite; remove it")
    for row in np.flatnonzero(np.diff(time) <= 0.0)[:1]:
        raise ValueError(
            f"time does not increase at sample {row + 1} (the first is 0): {time[row + 1]:g}; sort the trace"
        )
    return time, flow


def _last_minimum(time: ndarray, flow: ndarray, stop: float) -> float:
    """Return the time of the lowest sample between the most prominent peak and the last higher sample before it.

    Prominence, not height, tells the peak from ripples on the instrument's transient, which may be higher.
    """
    seen = flow[time <= stop]
    peaks, found = find_peaks(seen, prominence=0.0)
    if not len(peaks):
        raise ValueError("no peak in the trace: negate heat_flow if exothermic points down, or pass start")
    return float(time[found["left_bases"][found["prominences"].argmax()]])


def _baseline(time: ndarray, flow: ndarray, inside: ndarray, baseline: str | float | ndarray) -> ndarray:
    """Return the baseline at every sample of the trace."""
    if isinstance(baseline, str):
        if baseline == "constant":
            tail = flow[time >= time[-1] - _TAIL * (time[-1] - time[0])]
            return np.full(len(time), np.median(tail))
        if baseline == "linear":
            ends = [time[inside[0]], time[inside[-1]]]
            levels = [flow[max(i - _AVERAGED // 2, 0) : i + _AVERAGED // 2 + 1].mean() for i in inside[[0, -1]]]
            return np.interp(time, ends, levels)
        raise ValueError(f'baseline must be "constant", "linear", a number or (samples,); got {baseline!r}')
    level = np.asarray(baseline, dtype=float)
    if level.shape not in ((), time.shape) or not np.isfinite(level).all():
        raise ValueError(f"a baseline array must be finite and (samples,) = {time.shape}; its shape is {level.shape}")
    return np.broadcast_to(level, time.shape).copy()
