"""Laws of isothermal transformation: JMAK (Avrami) in both conventions, its extensions and its rivals.

Values and derivatives of every law are finite at time 0, before the incubation time and for any positive exponent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.domains.kinetics.guesses import (
    check_fractions,
    guess_austin_rickett,
    guess_gompertz,
    guess_jmak,
    guess_jmak_full,
    guess_jmak_incomplete,
    guess_jmak_incubation,
    guess_jmak_kt,
    guess_logistic,
)

_LOG_OF_NOTHING = -1e9  # stands for log 0: exp(n * this) is exactly 0, and products with it stay finite
_LARGEST = 6.6  # exp(-exp(6.6)) is 1e-319: beyond, 0 * inf would make the gradient NaN


def jmak(time: Tensor, k: Tensor, n: Tensor) -> Tensor:
    """Return the transformed fraction after isothermal holding, X = 1 - exp(-(k t)^n).

    Args:
        time: (points,) time since the start, s; 0 is returned where it is not positive.
        k: rate constant, 1/s.
        n: Avrami exponent.
    Returns: (points,) fraction in [0, 1]. The parameters broadcast with ``time``, here and in the other laws.

    Reference: Avrami, J. Chem. Phys. 7, 1103 (1939).

    >>> jmak(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0))
    tensor([0.0000, 0.6321])
    """
    return _extended(n * (torch.log(k) + _log(time)))


def jmak_kt(time: Tensor, K: Tensor, n: Tensor) -> Tensor:
    """Return the transformed fraction in the other convention, X = 1 - exp(-K t^n).

    The unit of K depends on n: 1/s^n. :func:`rate_to_K` and :func:`K_to_rate` convert.

    Args:
        time: (points,) time since the start, s.
        K: rate constant, s^-n; K = k^n.
        n: Avrami exponent.
    Returns: (points,) fraction in [0, 1].

    >>> jmak_kt(torch.tensor([0.0, 2.0]), torch.tensor(0.25), torch.tensor(2.0))
    tensor([0.0000, 0.6321])
    """
    return _extended(torch.log(K) + n * _log(time))


def jmak_incubation(time: Tensor, k: Tensor, n: Tensor, t0: Tensor) -> Tensor:
    """Return the transformed fraction after an incubation time, X = 1 - exp(-(k (t - t0))^n) for t > t0, else 0.

    Args:
        time: (points,) time since the start, s.
        k: rate constant, 1/s.
        n: Avrami exponent.
        t0: incubation time, s.
    Returns: (points,) fraction in [0, 1].

    >>> jmak_incubation(torch.tensor([1.0, 3.0]), torch.tensor(1.0), torch.tensor(1.0), torch.tensor(2.0))
    tensor([0.0000, 0.6321])
    """
    return jmak(time - t0, k, n)


def jmak_incomplete(time: Tensor, k: Tensor, n: Tensor, x_inf: Tensor) -> Tensor:
    """Return the fraction of a transformation that ends before completion, X = x_inf (1 - exp(-(k t)^n)).

    Args:
        time: (points,) time since the start, s.
        k: rate constant, 1/s.
        n: Avrami exponent.
        x_inf: fraction after long times, in (0, 1).
    Returns: (points,) fraction in [0, x_inf].

    >>> jmak_incomplete(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.5))
    tensor([0.0000, 0.3161])
    """
    return x_inf * jmak(time, k, n)


def jmak_full(time: Tensor, k: Tensor, n: Tensor, t0: Tensor, x_inf: Tensor) -> Tensor:
    """Return X = x_inf (1 - exp(-(k (t - t0))^n)) for t > t0, else 0: incubation and incomplete transformation.

    Args:
        time: (points,) time since the start, s.
        k: rate constant, 1/s.
        n: Avrami exponent.
        t0: incubation time, s.
        x_inf: fraction after long times, in (0, 1).
    Returns: (points,) fraction in [0, x_inf].

    >>> one = torch.tensor(1.0)
    >>> jmak_full(torch.tensor([1.0, 2.0]), one, one, one, torch.tensor(0.5))
    tensor([0.0000, 0.3161])
    """
    return x_inf * jmak(time - t0, k, n)


def austin_rickett(time: Tensor, k: Tensor, n: Tensor) -> Tensor:
    """Return the transformed fraction X = (k t)^n / (1 + (k t)^n), that is X / (1 - X) = (k t)^n.

    Args:
        time: (points,) time since the start, s.
        k: rate constant, 1/s; half is transformed at t = 1/k.
        n: exponent.
    Returns: (points,) fraction in [0, 1].

    Reference: Austin and Rickett, Trans. AIME 135, 396 (1939).

    >>> austin_rickett(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(3.0))
    tensor([0.0000, 0.5000])
    """
    return torch.sigmoid(n * (torch.log(k) + _log(time)))


def logistic(time: Tensor, rate: Tensor, t_half: Tensor) -> Tensor:
    """Return the transformed fraction X = 1 / (1 + exp(-rate (t - t_half))), which is above 0 at t = 0.

    Args:
        time: (points,) time, s.
        rate: 1/s.
        t_half: time at X = 1/2, s.
    Returns: (points,) fraction in (0, 1).

    Reference: Verhulst, Corresp. Math. Phys. 10, 113 (1838).

    >>> logistic(torch.tensor([2.0]), torch.tensor(1.0), torch.tensor(2.0))
    tensor([0.5000])
    """
    return torch.sigmoid(rate * (time - t_half))


def gompertz(time: Tensor, rate: Tensor, t_peak: Tensor) -> Tensor:
    """Return the transformed fraction X = exp(-exp(-rate (t - t_peak))), which is above 0 at t = 0.

    Args:
        time: (points,) time, s.
        rate: 1/s.
        t_peak: time of the fastest transformation, where X = 1/e, s.
    Returns: (points,) fraction in (0, 1).

    Reference: Gompertz, Phil. Trans. R. Soc. 115, 513 (1825).

    >>> gompertz(torch.tensor([2.0]), torch.tensor(1.0), torch.tensor(2.0))
    tensor([0.3679])
    """
    return torch.exp(-torch.exp((-rate * (time - t_peak)).clamp(max=_LARGEST)))


def _log(time: Tensor) -> Tensor:
    """Return log(time), and a very negative number with derivative 0 where time is not positive."""
    nothing = time <= torch.finfo(time.dtype).tiny  # 1 / time must not overflow either
    return torch.where(nothing, _LOG_OF_NOTHING, torch.log(torch.where(nothing, 1.0, time)))


def _extended(log_extended: Tensor) -> Tensor:
    """Return 1 - exp(-extended fraction) from the logarithm of the extended fraction."""
    return -torch.expm1(-torch.exp(log_extended.clamp(max=_LARGEST)))


_TIME, _FRACTION = Axis("time", "s"), Axis("fraction")
_RATE, _EXPONENT = Parameter("1/s", "positive"), Parameter("", "softplus")
_SECONDS, _SHARE = Parameter("s", "positive"), Parameter("", "unit")

JMAK = Law("JMAK", jmak, {"k": _RATE, "n": _EXPONENT}, _TIME, _FRACTION, guess_jmak, check_fractions)
"""X = 1 - exp(-(k t)^n)."""

JMAK_KT = Law(
    "JMAK, K t^n", jmak_kt, {"K": Parameter("s^-n", "positive"), "n": _EXPONENT},
    _TIME, _FRACTION, guess_jmak_kt, check_fractions,
)  # fmt: skip
"""X = 1 - exp(-K t^n)."""

JMAK_INCUBATION = Law(
    "JMAK with incubation", jmak_incubation, {"k": _RATE, "n": _EXPONENT, "t0": _SECONDS},
    _TIME, _FRACTION, guess_jmak_incubation, check_fractions,
)  # fmt: skip
"""X = 1 - exp(-(k (t - t0))^n) after t0."""

JMAK_INCOMPLETE = Law(
    "JMAK, incomplete", jmak_incomplete, {"k": _RATE, "n": _EXPONENT, "x_inf": _SHARE},
    _TIME, _FRACTION, guess_jmak_incomplete, check_fractions,
)  # fmt: skip
"""X = x_inf (1 - exp(-(k t)^n))."""

JMAK_FULL = Law(
    "JMAK with incubation, incomplete", jmak_full, {"k": _RATE, "n": _EXPONENT, "t0": _SECONDS, "x_inf": _SHARE},
    _TIME, _FRACTION, guess_jmak_full, check_fractions,
)  # fmt: skip
"""X = x_inf (1 - exp(-(k (t - t0))^n)) after t0."""

AUSTIN_RICKETT = Law(
    "Austin-Rickett", austin_rickett, {"k": _RATE, "n": _EXPONENT},
    _TIME, _FRACTION, guess_austin_rickett, check_fractions,
)  # fmt: skip
"""X / (1 - X) = (k t)^n."""

LOGISTIC = Law(
    "logistic", logistic, {"rate": _RATE, "t_half": _SECONDS}, _TIME, _FRACTION, guess_logistic, check_fractions,
)  # fmt: skip
"""X = 1 / (1 + exp(-rate (t - t_half)))."""

GOMPERTZ = Law(
    "Gompertz", gompertz, {"rate": _RATE, "t_peak": _SECONDS}, _TIME, _FRACTION, guess_gompertz, check_fractions,
)  # fmt: skip
"""X = exp(-exp(-rate (t - t_peak)))."""
