"""Ready laws of pharmacology, growth, enzymes and materials, as plain functions and as :class:`Law` constants.

A law whose axes may be anything names its units by those of its axes ("1/x" is one over the unit of x);
:func:`in_units` writes yours in. Values and derivatives of every law are finite wherever its parameters may be, at
x = 0 and where two rates are equal.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.units import GAS_CONSTANT, split_unit
from scimeta.calibration.laws import first_guesses as guess
from scimeta.calibration.laws.law import Law, Parameter

__all__ = [
    "ARRHENIUS",
    "ASYMPTOTIC",
    "CHAPMAN_RICHARDS",
    "FOUR_PARAMETER_LOGISTIC",
    "GOMPERTZ",
    "LOGISTIC",
    "MICHAELIS_MENTEN",
    "ONE_COMPARTMENT",
    "POWER_LAW",
    "arrhenius",
    "arrhenius_law",
    "asymptotic",
    "chapman_richards",
    "four_parameter_logistic",
    "gompertz",
    "in_units",
    "logistic",
    "michaelis_menten",
    "one_compartment",
    "one_compartment_law",
    "power_law",
]

_LOG_OF_NOTHING = -1e9  # stands for log 0: exp of a multiple is exactly 0, and products with it stay finite
_LARGEST = 300.0  # exponents beyond leave no room for the products in a derivative
_STEEPEST = 6.6  # exp(-exp(6.6)) is 1e-319: beyond, 0 * inf would make the gradient NaN


def one_compartment(time: Tensor, ke: Tensor, ka: Tensor, Cl: Tensor, dose: float = 1.0) -> Tensor:
    """Return the concentration after a dose that is absorbed at first order into one compartment.

    c = dose ke ka / (Cl (ka - ke)) (exp(-ke t) - exp(-ka t)), and its limit dose k^2 t exp(-k t) / Cl at ka = ke = k.
    The two rates may change places without changing the curve; by custom ka is the larger.

    Args:
        time: (points,) time since the dose; 0 is returned before it.
        ke: elimination rate constant, 1/(unit of time).
        ka: absorption rate constant, 1/(unit of time).
        Cl: clearance, (dose / concentration) / time.
        dose: amount given; 1 for concentrations that have been divided by the dose.
    Returns: (points,) concentration. The parameters broadcast with ``time``, here and in the other laws.

    Reference: Teorell, Arch. Int. Pharmacodyn. 57, 205 (1937); Pinheiro and Bates, Mixed-Effects Models (2000), 8.2.

    >>> half, two = torch.tensor(0.5), torch.tensor(2.0)
    >>> one_compartment(torch.tensor([0.0, 2.0]), half, half, two)
    tensor([0.0000, 0.0920])
    """
    time = time.clamp(min=0.0)
    slower = torch.minimum(ke, ka)
    return dose / Cl * ke * (ka * time * _mean_decay((ka - ke).abs() * time)) * torch.exp(-slower * time)


def logistic(x: Tensor, asymptote: Tensor, midpoint: Tensor, scale: Tensor) -> Tensor:
    """Return logistic growth, y = asymptote / (1 + exp((midpoint - x) / scale)).

    Args:
        x: (points,) age or time; log concentration in an assay.
        asymptote: y after long times, in the unit of y.
        midpoint: where y is half of it, in the unit of x.
        scale: from the midpoint to 73 % of the asymptote, in the unit of x.
    Returns: (points,) in the unit of y.

    Reference: Verhulst, Corresp. Math. Phys. 10, 113 (1838).

    >>> logistic(torch.tensor([3.0]), torch.tensor(8.0), torch.tensor(3.0), torch.tensor(1.0))
    tensor([4.])
    """
    return asymptote * torch.sigmoid((x - midpoint) / scale)


def gompertz(x: Tensor, asymptote: Tensor, rate: Tensor, inflection: Tensor) -> Tensor:
    """Return Gompertz growth, y = asymptote exp(-exp(-rate (x - inflection))).

    Args:
        x: (points,) age or time.
        asymptote: y after long times, in the unit of y.
        rate: at which growth dies out, 1/(unit of x).
        inflection: where growth is fastest and y is 1/e of the asymptote, in the unit of x.
    Returns: (points,) in the unit of y.

    Reference: Gompertz, Phil. Trans. R. Soc. 115, 513 (1825); as growth: Winsor, PNAS 18, 1 (1932).

    >>> gompertz(torch.tensor([2.0]), torch.tensor(10.0), torch.tensor(1.0), torch.tensor(2.0))
    tensor([3.6788])
    """
    return asymptote * torch.exp(-torch.exp((-rate * (x - inflection)).clamp(max=_STEEPEST)))


def chapman_richards(x: Tensor, asymptote: Tensor, rate: Tensor, shape: Tensor) -> Tensor:
    """Return Chapman-Richards growth, y = asymptote (1 - exp(-rate x))^shape.

    Args:
        x: (points,) age; 0 is returned where it is not positive.
        asymptote: y at great age, in the unit of y.
        rate: 1/(unit of x).
        shape: exponent; above 1 growth first speeds up.
    Returns: (points,) in the unit of y.

    Reference: Richards, J. Exp. Bot. 10, 290 (1959); Chapman, in Le Cren and Holdgate (1961).

    >>> chapman_richards(torch.tensor([0.0, 1.0]), torch.tensor(10.0), torch.tensor(1.0), torch.tensor(2.0))
    tensor([0.0000, 3.9958])
    """
    return asymptote * torch.exp(shape * _log(-torch.expm1(-rate * x)))


def michaelis_menten(x: Tensor, v_max: Tensor, K_m: Tensor) -> Tensor:
    """Return the rate of an enzyme's reaction, v = v_max x / (K_m + x).

    Args:
        x: (points,) concentration of the substrate.
        v_max: rate at saturation, in the unit of y.
        K_m: concentration at which the rate is half of it, in the unit of x.
    Returns: (points,) in the unit of y.

    Reference: Michaelis and Menten, Biochem. Z. 49, 333 (1913).

    >>> michaelis_menten(torch.tensor([0.0, 2.0]), torch.tensor(10.0), torch.tensor(2.0))
    tensor([0., 5.])
    """
    return v_max * (x / (K_m + x))


def four_parameter_logistic(x: Tensor, bottom: Tensor, top: Tensor, ec50: Tensor, hill: Tensor) -> Tensor:
    """Return a dose-response curve, y = bottom + (top - bottom) / (1 + (ec50 / x)^hill).

    Args:
        x: (points,) dose or concentration; ``bottom`` is returned where it is not positive.
        bottom: response to no dose, in the unit of y.
        top: response to a large dose, in the unit of y; below ``bottom`` for an inhibitor.
        ec50: dose of half the effect, in the unit of x.
        hill: steepness.
    Returns: (points,) in the unit of y.

    Reference: Hill, J. Physiol. 40, iv (1910); DeLean, Munson, Rodbard, Am. J. Physiol. 235, E97 (1978).

    >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
    >>> four_parameter_logistic(torch.tensor([0.0, 3.0]), zero, one, torch.tensor(3.0), torch.tensor(2.0))
    tensor([0.0000, 0.5000])
    """
    return bottom + (top - bottom) * torch.sigmoid(hill * (_log(x) - torch.log(ec50)))


def asymptotic(x: Tensor, start: Tensor, asymptote: Tensor, rate: Tensor) -> Tensor:
    """Return the approach to an asymptote, y = asymptote + (start - asymptote) exp(-rate x).

    Args:
        x: (points,).
        start: y at x = 0, in the unit of y.
        asymptote: y at large x, in the unit of y.
        rate: 1/(unit of x).
    Returns: (points,) in the unit of y.

    Reference: Mitscherlich, Landw. Jahrb. 38, 537 (1909); Stevens, Biometrics 7, 247 (1951).

    >>> asymptotic(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(3.0), torch.tensor(1.0))
    tensor([1.0000, 2.2642])
    """
    return asymptote + (start - asymptote) * torch.exp((-rate * x).clamp(max=_LARGEST))


def arrhenius(temperature: Tensor, k_ref: Tensor, energy: Tensor, t_ref: float = 298.15) -> Tensor:
    """Return a rate that is activated by heat, k = k_ref exp(-(energy / R) (1 / T - 1 / t_ref)).

    Args:
        temperature: (points,) K.
        k_ref: rate at ``t_ref``, in the unit of y. Anchored there and not at infinite temperature, where it would be
            all but determined by the energy.
        energy: activation energy, J/mol.
        t_ref: reference temperature, K, best amid the data.
    Returns: (points,) in the unit of y.

    Reference: Arrhenius, Z. Phys. Chem. 4, 226 (1889).

    >>> arrhenius(torch.tensor([298.15, 308.15]), torch.tensor(1.0), torch.tensor(5e4))
    tensor([1.0000, 1.9243])
    """
    return k_ref * torch.exp((-energy / GAS_CONSTANT * (1.0 / temperature - 1.0 / t_ref)).clamp(max=_LARGEST))


def power_law(x: Tensor, coefficient: Tensor, exponent: Tensor) -> Tensor:
    """Return y = coefficient x^exponent.

    Args:
        x: (points,) positive.
        coefficient: y at x = 1; its unit depends on the exponent.
        exponent: slope in a double-logarithmic plot.
    Returns: (points,) in the unit of y.

    Reference: as allometry Huxley, Problems of Relative Growth (1932); as creep Norton (1929).

    >>> power_law(torch.tensor([1.0, 4.0]), torch.tensor(3.0), torch.tensor(0.5))
    tensor([3., 6.])
    """
    return coefficient * torch.exp((exponent * _log(x)).clamp(max=_LARGEST))


def one_compartment_law(dose: float) -> Law:
    """Return :data:`ONE_COMPARTMENT` for concentrations after this dose.

    A family whose members got different doses needs one law for all of them: divide each one's concentrations by its
    dose and use :data:`ONE_COMPARTMENT`. A sigma is then divided too; a noise that is learned is the noise of the
    concentration over the dose.

    Raises:
        ValueError: a dose that is not positive.

    >>> law = one_compartment_law(4.0)
    >>> law([2.0], ke=0.1, ka=1.0, Cl=0.04)
    tensor([7.5933], dtype=torch.float64)
    """
    if not 0.0 < dose < float("inf"):
        raise ValueError(f"dose must be a positive number; got {dose}")
    first = partial(guess.one_compartment, dose=dose)
    return replace(ONE_COMPARTMENT, fn=partial(one_compartment, dose=dose), first_guess=first, y=Axis("concentration"))


def arrhenius_law(t_ref: float) -> Law:
    """Return :data:`ARRHENIUS` with its rate stated at another temperature, K.

    Raises:
        ValueError: a temperature that is not positive.

    >>> arrhenius_law(900.0)([900.0], k_ref=0.1, energy=2e5)
    tensor([0.1000], dtype=torch.float64)
    """
    if not 0.0 < t_ref < float("inf"):
        raise ValueError(f"t_ref must be an absolute temperature, K; got {t_ref}")
    fn, first = partial(arrhenius, t_ref=t_ref), partial(guess.arrhenius, t_ref=t_ref)
    return replace(ARRHENIUS, name=f"Arrhenius at {t_ref:g} K", fn=fn, first_guess=first)


def in_units(law: Law, x: str | None = None, y: str | None = None) -> Law:
    """Return one of the laws of this module with your axes, the parameters' units written in accordingly.

    Args:
        law: a law whose axes have no units yet.
        x: name and unit of the abscissa, "age [d]"; None leaves it.
        y: name and unit of the ordinate.

    Raises:
        ValueError: an axis that has its unit already.

    >>> in_units(LOGISTIC, "age [d]", "circumference [mm]").describe()
    'asymptote [mm], midpoint [d], scale [d]'
    """
    axes = {side: Axis(*split_unit(text)) for side, text in (("x", x), ("y", y)) if text is not None}
    for side in axes:
        if getattr(law, side).unit:
            raise ValueError(
                f"law {law.name} has {getattr(law, side)} on its {side} axis already; start from the plain law"
            )
    units = {side: axis.unit for side, axis in axes.items()}
    parameters = {name: replace(p, unit=_written(p.unit, units)) for name, p in law.parameters.items()}
    return replace(law, parameters=parameters, **axes)


def _written(template: str, units: dict[str, str]) -> str:
    """Return a unit such as "1/(x y)" with the units of the axes in it."""
    above, below = [], []
    for product, over, under in zip(template.partition("/")[::2], (above, below), (below, above), strict=True):
        for word in product.strip("()").split():
            base, power, exponent = word.partition("^")
            unit = units.get(base, base)
            plain = unit.count("/") < 2 and not power
            if plain:
                top, _, bottom = unit.partition("/")
                over += [factor for factor in top.split() if factor != "1"]
                under += bottom.strip("() ").split()
            elif unit:
                over.append((f"({unit})" if "/" in unit or " " in unit else unit) + power + exponent)
    if not below:
        return " ".join(above)
    return f"{' '.join(above) or '1'}/{below[0] if len(below) == 1 else '(' + ' '.join(below) + ')'}"


def _mean_decay(z: Tensor) -> Tensor:
    """Return (1 - exp(-z)) / z for z >= 0, the mean of exp(-z s) over s in [0, 1], with derivatives at 0."""
    small = z < 1e-2  # where the quotient's derivative would lose its digits
    series = 1.0 - z / 2 * (1.0 - z / 3 * (1.0 - z / 4 * (1.0 - z / 5 * (1.0 - z / 6))))
    safe = torch.where(small, 1.0, z)
    return torch.where(small, series, -torch.expm1(-safe) / safe)


def _log(x: Tensor) -> Tensor:
    """Return log(x), and a very negative number with derivative 0 where x is not positive."""
    nothing = x <= torch.finfo(x.dtype).tiny  # 1 / x must not overflow either
    return torch.where(nothing, _LOG_OF_NOTHING, torch.log(torch.where(nothing, 1.0, x)))


_X, _Y = Axis("x"), Axis("y")
_RATE = Parameter("1/x", "positive")
_X_SIZE, _X_PLACE = Parameter("x", "positive"), Parameter("x")
_Y_SIZE, _Y_PLACE = Parameter("y", "positive"), Parameter("y")

ONE_COMPARTMENT = Law(
    "one compartment", one_compartment, {"ke": _RATE, "ka": _RATE, "Cl": Parameter("1/(x y)", "positive")},
    Axis("time"), Axis("concentration / dose"), guess.one_compartment, guess.check_not_negative,
)  # fmt: skip
"""c / dose = ke ka / (Cl (ka - ke)) (exp(-ke t) - exp(-ka t))."""

LOGISTIC = Law(
    "logistic growth", logistic, {"asymptote": _Y_SIZE, "midpoint": _X_PLACE, "scale": _X_SIZE},
    _X, _Y, guess.logistic,
)  # fmt: skip
"""y = asymptote / (1 + exp((midpoint - x) / scale))."""

GOMPERTZ = Law(
    "Gompertz growth", gompertz, {"asymptote": _Y_SIZE, "rate": _RATE, "inflection": _X_PLACE},
    _X, _Y, guess.gompertz,
)  # fmt: skip
"""y = asymptote exp(-exp(-rate (x - inflection)))."""

CHAPMAN_RICHARDS = Law(
    "Chapman-Richards growth", chapman_richards,
    {"asymptote": _Y_SIZE, "rate": _RATE, "shape": Parameter("", "softplus")},
    _X, _Y, guess.chapman_richards, guess.check_not_negative,
)  # fmt: skip
"""y = asymptote (1 - exp(-rate x))^shape."""

MICHAELIS_MENTEN = Law(
    "Michaelis-Menten", michaelis_menten, {"v_max": _Y_SIZE, "K_m": _X_SIZE},
    Axis("concentration"), Axis("rate"), guess.michaelis_menten, guess.check_not_negative,
)  # fmt: skip
"""v = v_max x / (K_m + x)."""

FOUR_PARAMETER_LOGISTIC = Law(
    "four-parameter logistic", four_parameter_logistic,
    {"bottom": _Y_PLACE, "top": _Y_PLACE, "ec50": _X_SIZE, "hill": Parameter("", "softplus")},
    Axis("dose"), Axis("response"), guess.four_parameter_logistic, guess.check_not_negative,
)  # fmt: skip
"""y = bottom + (top - bottom) / (1 + (ec50 / x)^hill)."""

ASYMPTOTIC = Law(
    "asymptotic", asymptotic, {"start": _Y_PLACE, "asymptote": _Y_PLACE, "rate": _RATE}, _X, _Y, guess.asymptotic,
)  # fmt: skip
"""y = asymptote + (start - asymptote) exp(-rate x)."""

ARRHENIUS = Law(
    "Arrhenius", arrhenius, {"k_ref": _Y_SIZE, "energy": Parameter("J/mol", "positive")},
    Axis("temperature", "K"), Axis("rate"), guess.arrhenius, guess.check_absolute,
)  # fmt: skip
"""k = k_ref exp(-(energy / R) (1 / T - 1 / 298.15 K))."""

POWER_LAW = Law(
    "power law", power_law, {"coefficient": Parameter("y x^-exponent", "positive"), "exponent": Parameter()},
    _X, _Y, guess.power_law, guess.check_positive,
)  # fmt: skip
"""y = coefficient x^exponent."""
