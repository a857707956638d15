"""Transformation while the temperature changes: Arrhenius rates added up over the time (Scheil, Cahn)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.domains.kinetics.guesses import check_fractions, guess_jmak
from scimeta.domains.kinetics.laws import jmak

GAS_CONSTANT = 8.314462618
"""J/(mol K)."""

_ENERGIES = (3e4, 1e5, 2e5, 4e5)  # J/mol, tried by the first guess


def arrhenius(temperature: Tensor, k_ref: Tensor, energy: Tensor, t_ref: float | Tensor) -> Tensor:
    """Return the rate constant k(T) = k_ref exp(-(energy / R) (1 / T - 1 / t_ref)).

    Args:
        temperature: (...,) K.
        k_ref: rate constant at t_ref, 1/s. Anchoring there, and not at infinite temperature, keeps it from being
            all but determined by the energy.
        energy: activation energy, J/mol.
        t_ref: reference temperature, K, best amid the data.
    Returns: (...,) 1/s.

    Reference: Arrhenius, Z. Phys. Chem. 4, 226 (1889).

    >>> arrhenius(torch.tensor([900.0, 1000.0]), torch.tensor(0.1), torch.tensor(2e5), 900.0)
    tensor([0.1000, 1.4479])
    """
    return k_ref * torch.exp(-(energy / GAS_CONSTANT) * (1.0 / temperature - 1.0 / t_ref))


def reduced_time(
    time: Tensor,
    temperature: Tensor,
    k_ref: Tensor,
    energy: Tensor,
    t_ref: float | Tensor,
    at: Tensor | None = None,
) -> Tensor:
    """Return the dimensionless time theta(t) = integral of k(T(t')) dt' from the start of a temperature programme.

    The whole of additivity: a law X = F(k t) at constant temperature becomes X = F(theta) when the temperature
    changes, as long as only the rate depends on it. ``austin_rickett(theta, 1, n)`` is the rival law of a programme
    as ``jmak(theta, 1, n)`` is the JMAK one. The rate is taken as linear between samples: sample so densely that it
    changes by less than a fifth from one to the next, which keeps theta right to some 0.3 %.

    Args:
        time: (samples,) s, increasing.
        temperature: (samples,) K, at these times.
        k_ref: rate constant at t_ref, 1/s.
        energy: activation energy, J/mol.
        t_ref: reference temperature, K.
        at: (points,) times at which theta is wanted; ``time`` if None. 0 before the first sample; after the last, the
            last rate goes on.
    Returns: (points,) or (samples,).

    Raises:
        ValueError: fewer than two samples, or as many times as temperatures are not given.

    References: Scheil, Arch. Eisenhüttenwes. 8, 565 (1935); Cahn, Acta Metall. 4, 572 (1956).

    >>> theta = reduced_time(torch.tensor([0.0, 5.0]), torch.tensor([900.0, 900.0]), torch.tensor(0.1), 1e5, 900.0)
    >>> theta
    tensor([0.0000, 0.5000])
    """
    if time.shape[-1:] != temperature.shape[-1:] or time.shape[-1] < 2:
        raise ValueError(
            f"reduced_time: time has shape {tuple(time.shape)}, temperature {tuple(temperature.shape)}; pass equal "
            "(samples,), at least two"
        )
    rate = arrhenius(temperature, k_ref, torch.as_tensor(energy), t_ref)  # (samples,)
    area = torch.cumulative_trapezoid(rate, time)
    theta = torch.cat([torch.zeros_like(rate[..., :1]), area], -1)
    if at is None:
        return theta
    contiguous = at.detach().clone(memory_format=torch.contiguous_format)  # bucketize warns of anything else
    left = (torch.bucketize(contiguous, time, right=True) - 1).clamp(0, time.shape[-1] - 2)
    width = time[left + 1] - time[left]
    since = (at - time[left]).clamp(min=0.0)
    inside = torch.minimum(since, width)
    # `...` keeps a batch of parameters from being read as samples: such a call fails on shapes, and is mapped instead
    first, last = rate[..., left], rate[..., left + 1]
    return theta[..., left] + inside * (first + 0.5 * (last - first) * inside / width) + last * (since - inside)


def additive_jmak(
    time: Tensor, temperature: Tensor, k_ref: Tensor, energy: Tensor, n: Tensor, t_ref: float | Tensor
) -> Tensor:
    """Return the transformed fraction along a temperature programme, X = 1 - exp(-(integral of k(T(t')) dt')^n).

    Args:
        time: (samples,) s, increasing; X is 0 at the first.
        temperature: (samples,) K.
        k_ref: rate constant at t_ref, 1/s.
        energy: activation energy, J/mol.
        n: Avrami exponent, the same at all temperatures: what additivity asks for.
        t_ref: reference temperature, K.
    Returns: (samples,) fraction in [0, 1].

    Reference: Cahn, Acta Metall. 4, 572 (1956).

    >>> time, temperature = torch.tensor([0.0, 10.0]), torch.tensor([900.0, 900.0])
    >>> additive_jmak(time, temperature, torch.tensor(0.1), torch.tensor(2e5), torch.tensor(3.0), 900.0)
    tensor([0.0000, 0.6321])
    """
    return jmak(reduced_time(time, temperature, k_ref, energy, t_ref), torch.ones_like(n), n)


def additive_law(
    time: ndarray,
    temperature: ndarray,
    t_ref: float,
    form: Callable[[Tensor, Tensor, Tensor], Tensor] = jmak,
) -> Law:
    """Return the law of transformation along one temperature programme: X = form(theta, 1, n).

    Its parameters are k_ref, energy and n; ``energy`` is shared, for one heating of one specimen hardly tells it
    from k_ref and n.

    Args:
        time: (samples,) of the programme, s, increasing, not negative.
        temperature: (samples,) K. The rate is linear between samples: see :func:`reduced_time` for how many to take.
        t_ref: temperature to which k_ref belongs, K.
        form: the isothermal law of (time, k, n), :func:`jmak` or :func:`austin_rickett`.
    Returns: the law; the specimen's own times need not be those of the programme, but must not pass its end.

    Raises:
        ValueError: shapes differ, fewer than two samples, times that do not increase, temperatures not above 0 K.

    >>> law = additive_law(np.linspace(0, 600, 301), np.linspace(700, 1000, 301), t_ref=900.0)
    >>> law.describe()
    'k_ref [1/s], energy [J/mol], n'
    """
    times, kelvin = _programme(time, temperature, t_ref)

    def fn(x: Tensor, k_ref: Tensor, energy: Tensor, n: Tensor) -> Tensor:
        theta = reduced_time(times.to(x), kelvin.to(x), k_ref, energy, t_ref, at=x)
        return form(theta, torch.ones_like(n), n)

    def first_guess(x: ndarray, y: ndarray) -> dict[str, float]:
        at = torch.as_tensor(np.asarray(x, dtype=float))
        best, least = {}, np.inf
        for energy in torch.tensor(_ENERGIES, dtype=torch.float64):
            theta = reduced_time(times, kelvin, torch.ones_like(energy), energy, t_ref, at=at)
            guess = guess_jmak(theta.numpy(), y)
            k_ref, n = torch.tensor([guess["k"], guess["n"]], dtype=torch.float64)
            misfit = float(np.sum((fn(at, k_ref, energy, n).numpy() - y) ** 2))
            if misfit < least:
                best, least = {"k_ref": guess["k"], "energy": float(energy), "n": guess["n"]}, misfit
        return best

    def check(x: ndarray, y: ndarray) -> None:
        check_fractions(x, y)
        for row in np.flatnonzero(np.asarray(x) > float(times[-1]))[:1]:
            raise ValueError(f"time {x[row]:g} lies after the end of the temperature programme, {float(times[-1]):g} s")

    parameters = {
        "k_ref": Parameter("1/s", "positive"),
        "energy": Parameter("J/mol", "positive", shared=True),
        "n": Parameter("", "positive"),
    }
    name = f"{form.__name__.replace('_', '-')} along a temperature programme"
    return Law(name, fn, parameters, Axis("time", "s"), Axis("fraction"), first_guess, check)


def _programme(time: ndarray, temperature: ndarray, t_ref: float) -> tuple[Tensor, Tensor]:
    """Return times and temperatures in float64, or say what is wrong with them."""
    time, temperature = np.array(time, dtype=float), np.array(temperature, dtype=float)
    if time.ndim != 1 or time.shape != temperature.shape or len(time) < 2:
        raise ValueError(
            f"a temperature programme needs two equal (samples,) of two samples or more; time has shape {time.shape}, "
            f"temperature {temperature.shape}"
        )
    if not (np.isfinite(time).all() and np.isfinite(temperature).all()):
        raise ValueError("the temperature programme has values that are not finite; remove those samples")
    if time[0] < 0.0 or (np.diff(time) <= 0.0).any():
        raise ValueError("the programme's times must be 0 or more and increase from sample to sample; sort them")
    if not np.isfinite(t_ref):
        raise ValueError(f"t_ref must be a temperature in K; got {t_ref}")
    coldest = min(float(temperature.min()), t_ref)
    if not coldest > 0.0:
        raise ValueError(f"temperatures must be in K, above 0; got {coldest:g}: add 273.15 to degrees Celsius")
    return torch.from_numpy(time), torch.from_numpy(temperature)
