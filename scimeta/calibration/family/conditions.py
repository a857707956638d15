"""Forms in which a condition moves a population, written as one writes them, and the activation energy of 1/T."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from scimeta.calibration.data.units import GAS_CONSTANT, conversion, find_named, split_unit
from scimeta.calibration.intervals import Estimate, probability
from scimeta.calibration.laws.law import Law

if TYPE_CHECKING:
    import pandas as pd


_LEAST = 0.01  # information of a level, in that of one specimen known exactly


class _Form(NamedTuple):
    """A way in which a condition enters."""

    pattern: str  # of the whole text, the condition's name as its group
    text: str
    apply: Callable[[float], float]
    positive: bool  # only positive values have the form


_FORMS = (
    _Form(r"1\s*/\s*(.+)", "1/{}", lambda value: 1.0 / value, True),
    _Form(r"log\s*\((.+)\)", "log({})", np.log, True),
    _Form(r"(.+)\^2", "{}^2", lambda value: value**2, False),
)


def column_of(name: str, present: Iterable[str]) -> str:
    """Return the column of a table that a condition is read from: of "1/T" it is "T", unless one is called "1/T".

    >>> column_of("1/T [degC]", ["T", "time"]), column_of("1000/T", ["1000/T"]), column_of("log(dose)", [])
    ('T [degC]', '1000/T', 'dose')
    """
    return name if find_named(name, present) is not None else _parsed(name)[1]


def resolved(name: str, given: Mapping[str, float | str]) -> str:
    """Return a condition, or a form of one, under the name that the specimens have it by.

    A name that they have is that condition, whatever it looks like. Else it may be a form of one: "1/T", "log(dose)",
    "T^2". In 1/T a temperature with a unit counts from absolute zero. Returned as it is if they have neither.

    >>> resolved("1/T", {"T [degC]": 50.0}), resolved("1000/T", {"1000/T": 3.1}), resolved("pH", {})
    ('1/T [degC]', '1000/T', 'pH')
    """
    found = find_named(name, given)
    if found is not None:
        return found
    form, base = _parsed(name)
    if form is None:
        return name
    key = find_named(base, given)
    return name if key is None else form.text.format(key)


def underlying(name: str, given: Mapping[str, float | str]) -> str | None:
    """Return the name of the given condition that a condition is, or that it is a form of; None if there is none.

    >>> underlying("1/T", {"T [degC]": 50.0}), underlying("pH", {"pH": 7.0}), underlying("pH", {})
    ('T [degC]', 'pH', None)
    """
    key = find_named(name, given)
    form, base = _parsed(name)
    return find_named(base, given) if key is None and form is not None else key


def condition_value(name: str, given: Mapping[str, float | str]) -> float | None:
    """Return the value of a condition or of a form of it; None if it is not given.

    Raises:
        ValueError: text, or a form that the value does not have, such as the logarithm of 0.

    >>> condition_value("1/T [degC]", {"T": 50.0}) == 1 / 323.15, condition_value("dose^2", {"dose": 3.0})
    (True, 9.0)
    """
    key = find_named(name, given)
    if key is not None:
        return _number(key, given[key], name)
    form, base = _parsed(name)
    key = None if form is None else find_named(base, given)
    if form is None or key is None:
        return None
    value = _number(key, given[key], name)
    if form is _FORMS[0]:
        unit = split_unit(base)[1] or split_unit(key)[1]
        value = conversion(unit, "K")(value) if _is_temperature(unit) else value
    if form.positive and not value > 0.0:
        raise ValueError(f"{form.text.format(base)} needs a positive value; {key} is {given[key]:g}")
    return float(form.apply(value))


def condition_text(name: str, value: float | str) -> str:
    """Return a condition and its value as one reads them: the temperature itself and not its inverse.

    >>> condition_text("1/T [degC]", 0.0025), condition_text("log(dose)", 0.0), condition_text("grade", "316L")
    ('T = 400 K', 'dose = 1', 'grade = 316L')
    """
    if isinstance(value, str):
        return f"{name} = {value}"
    form, base = _parsed(name)
    if form is _FORMS[0] and _is_temperature(split_unit(base)[1]):
        return f"{split_unit(base)[0]} = {1.0 / value:.4g} K"
    if form is _FORMS[0] and value:
        return f"{base} = {1.0 / value:.4g}"
    return f"{base} = {np.exp(value):.4g}" if form is _FORMS[1] else f"{name} = {value:.4g}"


def activation_energy(
    law: Law, parameter: str, slopes: pd.DataFrame, errors: np.ndarray | None, dof: int, level: float = 0.9
) -> Estimate:
    """Return the activation energy of a rate whose logarithm is linear in 1/T, E = -R d ln k / d(1/T).

    The interval is Student's t over the specimens: the population's mean at each temperature is known only as well as
    so many specimens tell. What the temperature does beside the straight line is not in it.

    Args:
        law: of the parameter.
        parameter: positive (its logarithm is what moves), not shared. Of a time or a viscosity, which fall as it gets
            hotter, the energy comes out negative.
        slopes: change of each unconstrained parameter (columns) per unit of each condition (rows).
        errors: (conditions, fast), their standard errors; None where they are not known.
        dof: degrees of freedom of the errors.
        level: probability of the interval.

    Raises:
        ValueError: a parameter without a logarithm or conditions without 1/T; the text says which.

    Reference: Laird, Ware, Biometrics 38, 963 (1982), for the standard error.
    """
    if parameter not in law.fast or law.parameters[parameter].support != "positive":
        able = [name for name in law.fast if law.parameters[name].support == "positive"]
        raise ValueError(
            f"an activation energy is of a positive parameter that specimens have of their own; law {law.name} has "
            f"{', '.join(able) or 'none'}, not {parameter!r}"
        )
    rows = [i for i, name in enumerate(slopes.index) if _is_temperature(_inverted_unit(name))]
    if not rows:
        raise ValueError(
            f"no activation energy without 1/T; the prior was learned with {', '.join(slopes.index) or 'nothing'}: "
            'call the condition "T [K]" or "T [degC]" and learn with conditions=["1/T"]'
        )
    place, factor = (rows[0], law.fast.index(parameter)), -1e-3 * GAS_CONSTANT  # to kJ/mol
    energy = factor * slopes.iloc[place]
    reason = "" if errors is not None else "the prior keeps no standard errors; learn it again"
    error = np.nan if errors is None else abs(factor) * errors[place]
    reach = special.stdtrit(dof, 0.5 + 0.5 * probability(level)) * error
    ends = float(energy), float(energy - reach), float(energy + reach)
    return Estimate(f"activation energy of {parameter}", *ends, level, "kJ/mol", float(error), 1.0, reason)


def coefficient_covariance(
    design: Tensor,
    covariance: Tensor,
    posterior: Tensor,
    weight: Tensor | None = None,
    levels: Sequence[int] = (),
) -> np.ndarray:
    """Return (1 + conditions, fast, 1 + conditions, fast): covariance of a population's estimated coefficients.

    That of generalised least squares, the population's covariance taken as known: inverse of sum_s d d' x (C + V_s)^-1
    (Kronecker product). A specimen with posterior covariance P under the population's C tells of its mean with
    information C^-1 - C^-1 P C^-1 = (C + V)^-1, V being the error that its own points alone would leave.

    Args:
        design: (specimens, 1 + conditions).
        covariance: (fast, fast), of the population.
        posterior: (specimens, fast, fast).
        weight: (specimens,) with which each counts, as its probability of being of the kind; 1 if None.
        levels: columns of the design that tell levels of a condition apart. Of a level that hardly a specimen is of, as
            in one component of several, nothing is known: its coefficient then has ten standard deviations of the
            population for its error, where a generalised inverse would make it none.

    Reference: Laird, Ware, Biometrics 38, 963 (1982).
    """
    weight = torch.ones_like(design[:, 0]) if weight is None else weight
    sd = covariance.diagonal().sqrt()  # in whose units no parameter is lost beside another
    inverse = torch.linalg.inv(covariance / sd.outer(sd))
    told = inverse - inverse @ (posterior / sd.outer(sd)) @ inverse  # (specimens, fast, fast)
    values, vectors = torch.linalg.eigh(0.5 * (told + told.mT))
    told = (vectors * values.clamp(min=0.0)[:, None]) @ vectors.mT
    regressors, fast = design.shape[1], len(covariance)
    information = torch.einsum("s,sr,sq,sfg->rfqg", weight, design, design, told)
    for column in levels:
        values, vectors = torch.linalg.eigh(information[column, :, column])
        information[column, :, column] += (vectors * (_LEAST - values).clamp(min=0.0)) @ vectors.mT
    left = torch.linalg.pinv(information.reshape(regressors * fast, regressors * fast), hermitian=True)
    return (left.reshape(information.shape) * sd[:, None, None] * sd).numpy()


def _number(key: str, value: float | str, name: str) -> float:
    """Return the value of the condition called ``key``, of which ``name`` is a form; raise ValueError if it is text."""
    if isinstance(value, str):
        raise ValueError(f"{name} needs a number; {key} is the text {value!r}")
    return value


def _parsed(name: str) -> tuple[_Form | None, str]:
    """Return the form that a text has, and of what; no form and the text itself if it has none."""
    for form in _FORMS:
        match = re.fullmatch(form.pattern, name.strip())
        if match:
            return form, match[1].strip()
    return None, name


def _inverted_unit(name: str) -> str:
    """Return the unit of what the text is one over; "" if it is not of that form or has none."""
    form, base = _parsed(name)
    return split_unit(base)[1] if form is _FORMS[0] else ""


def _is_temperature(unit: str) -> bool:
    """Return True for kelvin, degrees Celsius and the like."""
    try:
        return bool(unit) and conversion(unit, "K").slope > 0.0
    except ValueError:
        return False
