"""Where a search for the parameters of a ready law may start, and whether numbers can be what it describes.

All guesses go one way: values of the parameters that bend the curve are tried on a grid as wide as the data suggest,
those that only stretch it follow by linear least squares, and the best fit is taken. A guess is finite and inside the
supports, whatever the points; how near it is depends on them.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from scimeta.calibration.data.units import GAS_CONSTANT

_RATES = np.geomspace(0.05, 100.0, 23)  # times 1 / (largest x)
_EXPONENTS = np.array([0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 6.0])
_ENERGIES = np.geomspace(5e3, 5e5, 41)  # J/mol
_PLACES = np.linspace(-0.5, 3.0, 29)  # times the range of x, from its beginning
_SCALES = np.geomspace(0.02, 2.0, 17)  # times the range of x
_HUGE = 100.0  # exponents beyond say no more


def one_compartment(time: ndarray, concentration: ndarray, dose: float = 1.0) -> dict[str, float]:
    """Return ke, ka and Cl, with ka > ke."""
    rates = _RATES / _reach(time)
    ke, ka = (grid.ravel() for grid in np.meshgrid(rates, rates, indexing="ij"))
    ke, ka = ke[ka > ke, None], ka[ka > ke, None]
    shape = ke * ka / (ka - ke) * (_exp(-ke * time) - _exp(-ka * time))
    best, (size,) = _best([shape], concentration)
    return {"ke": ke[best, 0], "ka": ka[best, 0], "Cl": dose / _above_zero(size, concentration)}


def logistic(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return asymptote, midpoint and scale."""
    midpoint, scale = _grid(x.min() + _PLACES * _range(x), _SCALES * _range(x))
    best, (size,) = _best([1.0 / (1.0 + _exp((midpoint - x) / scale))], y)
    return {"asymptote": _above_zero(size, y), "midpoint": midpoint[best, 0], "scale": scale[best, 0]}


def gompertz(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return asymptote, rate and inflection."""
    inflection, scale = _grid(x.min() + _PLACES * _range(x), _SCALES * _range(x))
    best, (size,) = _best([_exp(-_exp((inflection - x) / scale))], y)
    return {"asymptote": _above_zero(size, y), "rate": 1.0 / scale[best, 0], "inflection": inflection[best, 0]}


def chapman_richards(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return asymptote, rate and shape."""
    rate, shape = _grid(_RATES / _reach(x), _EXPONENTS)
    best, (size,) = _best([(-np.expm1(-rate * x)).clip(min=0.0) ** shape], y)
    return {"asymptote": _above_zero(size, y), "rate": rate[best, 0], "shape": shape[best, 0]}


def michaelis_menten(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return v_max and K_m."""
    (K_m,) = _grid(_reach(x) / _RATES)
    best, (size,) = _best([x / (K_m + x)], y)
    return {"v_max": _above_zero(size, y), "K_m": K_m[best, 0]}


def four_parameter_logistic(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return bottom, top, ec50 and hill."""
    positive = x[x > 0.0] if (x > 0.0).any() else np.ones(1)
    ec50, hill = _grid(np.geomspace(0.3 * positive.min(), 10.0 * positive.max(), 25), _EXPONENTS)
    with np.errstate(divide="ignore"):
        effect = 1.0 / (1.0 + _exp(hill * (np.log(ec50) - np.log(x.clip(min=0.0)))))
    best, (bottom, top) = _best([1.0 - effect, effect], y)
    return {"bottom": bottom, "top": top, "ec50": ec50[best, 0], "hill": hill[best, 0]}


def asymptotic(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return start, asymptote and rate."""
    (rate,) = _grid(_RATES / _range(x))
    left = _exp(-rate * (x - x.min()))  # of the way from where the data begin to the asymptote
    best, (begin, asymptote) = _best([left, 1.0 - left], y)
    start = asymptote + (begin - asymptote) * float(_exp(rate[best, 0] * x.min()))
    return {"start": start, "asymptote": asymptote, "rate": rate[best, 0]}


def arrhenius(temperature: ndarray, rate: ndarray, t_ref: float = 298.15) -> dict[str, float]:
    """Return k_ref and energy."""
    (energy,) = _grid(_ENERGIES)
    middle = np.median(temperature)  # anchored there first: far from the data the exponential leaves the range
    best, (size,) = _best([_exp(-energy / GAS_CONSTANT * (1.0 / temperature - 1.0 / middle))], rate)
    k_ref = _above_zero(size, rate) * float(_exp(-energy[best, 0] / GAS_CONSTANT * (1.0 / t_ref - 1.0 / middle)))
    return {"k_ref": max(k_ref, 1e-300), "energy": energy[best, 0]}


def power_law(x: ndarray, y: ndarray) -> dict[str, float]:
    """Return coefficient and exponent."""
    (exponent,) = _grid(np.linspace(-6.0, 6.0, 97))
    middle = np.exp(np.log(x).mean())
    best, (size,) = _best([_exp(exponent * np.log(x / middle))], y)
    coefficient = _above_zero(size, y) * float(_exp(-exponent[best, 0] * np.log(middle)))
    return {"coefficient": max(coefficient, 1e-300), "exponent": exponent[best, 0]}


def check_not_negative(x: ndarray, y: ndarray) -> None:
    """Raise ValueError where x is negative."""
    if x.min() < 0.0:
        raise ValueError(f"x = {x.min():g} is negative; the law begins at 0: count from there")


def check_positive(x: ndarray, y: ndarray) -> None:
    """Raise ValueError where x is not positive."""
    if x.min() <= 0.0:
        raise ValueError(f"x = {x.min():g} is not positive; a power of it need not exist: leave the point out")


def check_absolute(x: ndarray, y: ndarray) -> None:
    """Raise ValueError where x cannot be an absolute temperature."""
    if x.min() <= 0.0:
        raise ValueError(f"temperature {x.min():g} is not above absolute zero; give it in K")


def _best(columns: list[ndarray], y: ndarray) -> tuple[int, list[float]]:
    """Return which of the trials fits best, with the factors of its columns.

    Args:
        columns: one (trials, points) a factor. A lone factor should be positive; trials where it is not come last.
        y: (points,).
    """
    design = np.stack(columns, -1)  # (trials, points, factors)
    factors = np.linalg.pinv(design, rcond=1e-8) @ y  # (trials, factors)
    misfit = ((np.einsum("tpf,tf->tp", design, factors) - y) ** 2).sum(-1)
    if len(columns) == 1:
        misfit = np.where(factors[:, 0] > 0.0, misfit, np.inf)
    best = int(np.argmin(misfit))
    return best, [float(factor) for factor in factors[best]]


def _grid(*values: ndarray) -> list[ndarray]:
    """Return the parameters of every trial, (trials, 1) each."""
    return [grid.reshape(-1, 1) for grid in np.meshgrid(*values, indexing="ij")]


def _exp(z: ndarray) -> ndarray:
    return np.exp(np.clip(z, -_HUGE, _HUGE))


def _reach(x: ndarray) -> float:
    """Return the largest |x|; 1 if all are 0."""
    return float(np.abs(x).max()) or 1.0


def _range(x: ndarray) -> float:
    """Return the range of x; its size, or 1, where there is one x only."""
    return float(np.ptp(x)) or _reach(x)


def _above_zero(size: float, y: ndarray) -> float:
    """Return a factor as it is if positive, else a small one of y's order."""
    return size if size > 0.0 else 1e-3 * float(np.abs(y).max()) or 1.0
