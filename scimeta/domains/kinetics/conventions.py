"""The two conventions of the Avrami rate constant, values and units, and published tables that mix them up.

X = 1 - exp(-(k t)^n) has k in 1/time, whatever n. X = 1 - exp(-K t^n) has K = k^n in time^-n: a number that means
nothing without its n.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

_SECONDS = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
Convention = Literal["(k t)^n", "K t^n"]


def rate_to_K(k: ArrayLike, n: ArrayLike, *, unit: str = "1/s", to: str | None = None) -> tuple[ndarray | float, str]:
    """Return K of 1 - exp(-K t^n) and its unit, from k of 1 - exp(-(k t)^n): K = k^n.

    Args:
        k: rate constant, in ``unit``.
        n: Avrami exponent.
        unit: of k: "1/ms", "1/s", "1/min", "1/h" or "1/d".
        to: unit of time in K: "ms", "s", "min", "h" or "d"; that of k if None.
    Returns: K, and its unit: "min^-2.5" for one n, "min^-n" for several.

    Raises:
        ValueError: an unknown unit; k or n not positive.

    >>> K, unit = rate_to_K(0.01, 2.0, unit="1/s", to="min")
    >>> round(K, 6), unit
    (0.36, 'min^-2')
    """
    time = _time_of_rate(unit)
    to = time if to is None else _known(to)
    k, n = _pair("k", k, n)
    return _plain((k * (_SECONDS[to] / _SECONDS[time])) ** n), _unit_of_K(to, n)


def K_to_rate(
    K: ArrayLike,
    n: ArrayLike,
    *,
    unit: str = "s^-n",
    to: str | None = None,
) -> tuple[ndarray | float, str]:
    """Return k of 1 - exp(-(k t)^n) and its unit, from K of 1 - exp(-K t^n): k = K^(1/n).

    Args:
        K: rate constant, in ``unit``.
        n: Avrami exponent.
        unit: of K: "min^-n", or "min^-2.5", whose exponent must then be n; likewise ms, s, h, d.
        to: unit of time in k: "ms", "s", "min", "h" or "d"; that of K if None.
    Returns: k, and its unit, such as "1/s".

    Raises:
        ValueError: an unknown unit, or one whose exponent is not n; K or n not positive.

    >>> k, unit = K_to_rate(0.36, 2.0, unit="min^-2", to="s")
    >>> round(k, 6), unit
    (0.01, '1/s')
    """
    K, n = _pair("K", K, n)
    time = _time_of_K(unit, n)
    to = time if to is None else _known(to)
    return _plain(K ** (1.0 / n) * (_SECONDS[to] / _SECONDS[time])), f"1/{to}"


def half_time(k: ArrayLike, n: ArrayLike) -> ndarray | float:
    """Return the time at which half is transformed, (ln 2)^(1/n) / k, for k of 1 - exp(-(k t)^n).

    For K of 1 - exp(-K t^n) convert first: ``half_time(K_to_rate(K, n)[0], n)``. A K taken for a k, or the reverse,
    gives a half-time that is wrong by orders of magnitude and looks like any other number.

    Args:
        k: rate constant, 1/time.
        n: Avrami exponent.
    Returns: half-time, in the unit of time of k.

    Raises:
        ValueError: k or n not positive.

    >>> round(half_time(0.01, 2.0), 2)
    83.26
    """
    k, n = _pair("k", k, n)
    return _plain(np.log(2.0) ** (1.0 / n) / k)


def check_table(
    frame: pd.DataFrame,
    *,
    convention: Convention,
    unit: str,
    half_time_unit: str,
    rate: str = "k",
    exponent: str = "n",
    half: str = "t_half",
    tolerance: float = 0.01,
) -> pd.DataFrame:
    """Return a published table with its half-times derived anew, and the rows that contradict themselves marked.

    A row contradicts itself if the printed half-time differs from the one that follows from its rate constant and
    exponent by more than the rounding of the three printed numbers and ``tolerance`` explain. A number is good to
    half a unit of its last digit: 0.0006 to 8 %. Read the columns as text (``dtype=str``) to count trailing zeros
    too; without them 0.30 looks like 0.3 and is judged more mildly.

    Args:
        frame: one row a specimen.
        convention: which rate constant is printed: "(k t)^n" or "K t^n".
        unit: its unit: "1/min" in the first case, "min^-n" in the second.
        half_time_unit: "ms", "s", "min", "h" or "d".
        rate: column of the rate constant.
        exponent: column of n.
        half: column of the half-time.
        tolerance: relative difference that is forgiven beyond rounding.
    Returns: a copy with the columns half_time_derived (in half_time_unit), relative_difference (derived / printed -
        1), rounding (what rounding explains of it) and contradicts (bool; False where a value is missing).

    Raises:
        ValueError: an unknown convention or unit, a missing column, a value that is no positive number, a negative
            tolerance.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"k": [0.36, 0.36], "n": [2.0, 2.0], "t_half": [1.39, 1.05]})
    >>> checked = check_table(table, convention="K t^n", unit="min^-n", half_time_unit="min")
    >>> checked["contradicts"].tolist()
    [False, True]
    """
    if convention not in ("(k t)^n", "K t^n"):
        raise ValueError(f'convention must be "(k t)^n" or "K t^n"; got {convention!r}')
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance must be 0 or more; got {tolerance}")
    _known(half_time_unit)
    (k, dk), (n, dn), (printed, d_printed) = (_printed(frame, column) for column in (rate, exponent, half))
    time = _time_of_K(unit, n) if convention == "K t^n" else _time_of_rate(unit)

    def log_half_time(k: ndarray, n: ndarray) -> ndarray:
        log_k = np.log(k) / n if convention == "K t^n" else np.log(k)
        return np.log(np.log(2.0)) / n - log_k + np.log(_SECONDS[time] / _SECONDS[half_time_unit])

    value = log_half_time(k, n)  # NaN where k, n or the half-time is missing, and so below
    corners = [log_half_time(k + a * dk, n + b * dn) - value for a in (-1, 1) for b in (-1, 1)]
    difference = value - np.log(printed)
    towards = np.log(printed + np.copysign(d_printed, difference)) - np.log(printed)
    rounding = np.max(np.abs(corners), axis=0) + np.abs(towards)
    return frame.assign(
        half_time_derived=np.exp(value),
        relative_difference=np.expm1(difference),
        rounding=np.expm1(rounding),
        contradicts=np.abs(difference) > rounding + np.log1p(tolerance),
    )


def _printed(frame: pd.DataFrame, column: str) -> tuple[ndarray, ndarray]:
    """Return a column's numbers and half a unit of the last printed digit of each; NaN where nothing is printed."""
    if list(frame.columns).count(column) != 1:
        some = "several columns" if column in frame.columns else "no column"
        raise ValueError(f"the table has {some} {column!r}; it has {', '.join(map(str, frame.columns))}")
    values, halves = np.full(len(frame), np.nan), np.full(len(frame), np.nan)
    texts = [str(entry).strip() for entry in frame[column]]
    if frame[column].dtype.kind == "f" and all(text.endswith((".0", "nan")) for text in texts):
        texts = [text.removesuffix(".0") for text in texts]  # integers that a missing value made floats
    for row, text in enumerate(texts):
        if text.lower() in ("", "nan", "none", "<na>"):
            continue
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("NaN")
        if not (number.is_finite() and number > 0):
            raise ValueError(f"column {column!r}, row {row} (the first is 0): {text!r} is no positive number")
        values[row], halves[row] = float(number), 0.5 * 10.0 ** int(number.as_tuple().exponent)
    return values, halves


def _pair(name: str, k: ArrayLike, n: ArrayLike) -> tuple[ndarray, ndarray]:
    """Return a rate constant and its exponent as float arrays that broadcast."""
    k, n = _positive(name, k), _positive("n", n)
    try:
        np.broadcast_shapes(k.shape, n.shape)
    except ValueError:
        raise ValueError(f"{name} has shape {k.shape}, n has {n.shape}; give one n for all, or one for each") from None
    return k, n


def _positive(name: str, value: ArrayLike) -> ndarray:
    """Return a float array, or say that the values are not positive."""
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be positive and finite; got {value!r}") from None
    for wrong in array[~(array > 0.0) | np.isinf(array)].flat[:1]:
        raise ValueError(f"{name} must be positive and finite; got {wrong:g}")
    return array


def _plain(value: ndarray) -> ndarray | float:
    """Return a float where the arguments were numbers."""
    return float(value) if np.ndim(value) == 0 else value


def _known(time: str) -> str:
    if time not in _SECONDS:
        raise ValueError(f"unknown unit of time {time!r}; use one of {', '.join(_SECONDS)}")
    return time


def _time_of_rate(unit: str) -> str:
    match = re.fullmatch(r"1/(\w+)|(\w+)\^-1", unit)
    if not match:
        raise ValueError(f'k of (k t)^n has a unit such as "1/min", whatever n; got {unit!r}')
    return _known(match[1] or match[2])


def _time_of_K(unit: str, n: ndarray) -> str:
    match = re.fullmatch(r"(?:1/)?(\w+)\^-?(n|\d+(?:\.\d+)?)", unit)
    if not match or unit.startswith("1/") == ("^-" in unit):
        raise ValueError(f'K of K t^n has a unit such as "min^-n" or "min^-2.5"; got {unit!r}')
    if match[2] != "n" and not np.allclose(float(match[2]), n, rtol=1e-3, atol=0.0):
        raise ValueError(f"unit {unit!r} belongs to n = {match[2]}, but n is {np.array2string(n, precision=4)}")
    return _known(match[1])


def _unit_of_K(time: str, n: ndarray) -> str:
    return f"{time}^-{float(n):.4g}" if n.ndim == 0 else f"{time}^-n"
