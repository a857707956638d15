"""What a prior knows beside the family itself: its conditions, and the past that it was learned from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from scimeta.calibration.data.categories import require_alike
from scimeta.calibration.data.curves import Curve, shortened
from scimeta.calibration.data.delimited import squeezed
from scimeta.calibration.data.units import find_named
from scimeta.calibration.family.conditions import condition_value, underlying
from scimeta.calibration.intervals import probability
from scimeta.calibration.laws.law import Law

if TYPE_CHECKING:
    import pandas as pd


class Covariates(NamedTuple):
    """What moves a family's means, z = (1, (column - centre) / scale), one column or several for each condition.

    A condition that is a number has one column. One that is text has a column for each level but the first, 1 for the
    specimens of that level and 0 for others, neither centred nor scaled: its coefficients are what the level differs
    by from the first.

    Attributes:
        names: of the columns: conditions, forms of them ("1/T"), levels of one that is text ("grade = 304L").
        centre, scale: (columns,).
        ranges: name -> (smallest, largest) among the past specimens, of what the forms were made from; empty where not
            known.
        levels: name of a condition that is text -> level -> number of past specimens; the first, of the most of them,
            is the one that the others are set against.
    """

    names: tuple[str, ...] = ()
    centre: np.ndarray = np.zeros(0)
    scale: np.ndarray = np.ones(0)
    ranges: Mapping[str, tuple[float, float]] = {}
    levels: Mapping[str, Mapping[str, int]] = {}

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions, and forms of conditions, in order: each once, however many columns it has."""
        indicators = self.indicators
        return tuple(dict.fromkeys(indicators[name][0] if name in indicators else name for name in self.names))

    @property
    def indicators(self) -> dict[str, tuple[str, str]]:
        """name of a column -> condition and level, of the columns that tell levels apart."""
        return {f"{c} = {level}": (c, level) for c, levels in self.levels.items() for level in list(levels)[1:]}

    @property
    def middle(self) -> dict[str, float | str]:
        """condition -> centre, or the first level."""
        centres = {name: float(centre) for name, centre in zip(self.names, self.centre, strict=True)}
        return {
            name: next(iter(self.levels[name])) if name in self.levels else centres[name] for name in self.conditions
        }

    @property
    def single(self) -> list[str]:
        """Levels, as "grade = 304L", that one past specimen alone is of."""
        return [f"{name} = {level}" for name, levels in self.levels.items() for level, n in levels.items() if n == 1]

    def design(
        self, conditions: Sequence[Mapping[str, float | str]], specimens: Sequence[str] | None = None
    ) -> np.ndarray:
        """Return (specimens, 1 + columns): a one and the scaled columns of every specimen.

        Args:
            conditions: of each specimen, name -> value.
            specimens: their names, for the error.

        Raises:
            ValueError: a specimen lacks a condition, has text for a number or a number for text, or a level that the
                past never saw.
        """
        values, indicators = np.empty((len(conditions), len(self.names))), self.indicators
        for i, given in enumerate(conditions):
            try:
                values[i] = [self._value(name, indicators.get(name), given) for name in self.names]
            except ValueError as error:
                raise ValueError(f"{specimens[i] if specimens else f'specimen {i}'}{error}") from None
        return np.column_stack([np.ones(len(conditions)), (values - self.centre) / self.scale])

    def _value(self, name: str, indicator: tuple[str, str] | None, given: Mapping[str, float | str]) -> float:
        """Return what a specimen has in a column; an error goes on after its name."""
        if indicator is None:
            try:
                value = condition_value(name, given)
            except ValueError as error:
                raise ValueError(f": {error}") from None
            if value is not None and np.isfinite(value):
                return value
            condition = name
        else:
            condition, key = indicator[0], find_named(indicator[0], given)
            if key is not None:
                return float(_known_level(condition, given[key], self.levels[condition]) == indicator[1])
        needed = ", ".join(self.conditions)
        raise ValueError(
            f" has no condition {condition!r}; the prior needs {needed}; given are {', '.join(given) or 'none'}"
        )


def _known_level(condition: str, value: float | str, levels: Mapping[str, int]) -> str:
    """Return the level; an error goes on after the specimen's name."""
    known = shortened(list(levels))
    if not isinstance(value, str):
        raise ValueError(f": condition {condition!r} is text, one of {known}; got the number {value:g}")
    level = squeezed(value)
    if level in levels:
        return level
    close = difflib.get_close_matches(level.lower(), {one.lower(): one for one in levels}, 1)
    near = [one for one in levels if close and one.lower() == close[0]]
    raise ValueError(
        f": {condition} = {level} was never seen by the past, which knows {known}, so that nothing is known of it"
        + (
            f"; did you mean {near[0]!r}?"
            if near
            else f"; learn the prior with specimens of it, or without {condition!r}"
        )
    )


NO_COVARIATES = Covariates()


class Learned(NamedTuple):
    """The past that a prior was learned from, and how the learning ended.

    Attributes:
        specimens: name -> (fast,) posterior mean of each past specimen, moved to the conditions' centre.
        x_range: smallest and largest x among them.
        coefficient_covariances: (components, 1 + columns, fast, 1 + columns, fast) of the estimated coefficients;
            None where they are not known.
        converged: True if the learning reached its fixed point.
        objective: what the means were learned for, "likelihood" or "predictive".
        groups: specimen -> the group (batch, laboratory) that it is of; empty where none were given.
        coverage: group -> share of its readings that the 90 % band held when the group was left out of the past, 0 to
            1; empty where it was not worked out.
    """

    specimens: Mapping[str, np.ndarray]
    x_range: tuple[float, float]
    coefficient_covariances: np.ndarray | None = None
    converged: bool = True
    objective: str = "likelihood"
    groups: Mapping[str, str] = {}
    coverage: Mapping[str, float] = {}


def covariates_of(curves: Sequence[Curve], conditions: Sequence[str], fast: int) -> tuple[Covariates, np.ndarray]:
    """Return the conditions of past specimens, numbers scaled, and the design matrix (specimens, 1 + columns).

    Raises:
        ValueError: two specimens of one name, too few specimens, a condition that is missing, constant, determined by
            the others, or text for some and a number for others.
    """
    _require_comparable(curves)
    levels = {name: found for name in conditions if (found := past_levels(name, curves))}
    columns = [
        f"{name} = {level}" if level else name for name in conditions for level in list(levels.get(name, ("", "")))[1:]
    ]
    least = len(columns) + 1 + fast
    if len(curves) < least:
        split = f", which have {len(columns)} columns," if levels else ""
        raise ValueError(
            f"learn_prior needs at least {least} specimens for {fast} parameters and {len(conditions)} "
            f"conditions{split}; got {len(curves)}"
        )
    found = Covariates(tuple(columns), np.zeros(len(columns)), np.ones(len(columns)), levels=levels)
    indicators = found.indicators
    values = np.array([[_past_value(c, n, indicators.get(n)) for n in columns] for c in curves]).reshape(
        len(curves), -1
    )
    free = np.array([name not in indicators for name in columns], dtype=bool)
    centre, scale = np.where(free, values.mean(0), 0.0), np.where(free, values.std(0), 1.0)
    for name, size, middle in zip(columns, scale, centre, strict=True):
        if size <= 1e-12 * max(abs(middle), 1e-300):
            raise ValueError(f"condition {name!r} is {middle:.6g} for every specimen; a constant cannot move the prior")
    design = np.column_stack([np.ones(len(curves)), (values - centre) / scale])
    if np.linalg.matrix_rank(design, tol=1e-8) < design.shape[1]:
        raise ValueError(f"the conditions {', '.join(conditions)} determine each other; leave one out")
    numbers = [name for name in conditions if name not in levels]
    return found._replace(centre=centre, scale=scale, ranges=past_ranges(numbers, curves)), design


def level_effects(
    law: Law, coefficients: np.ndarray, covariates: Covariates, errors: np.ndarray | None, dof: int, level: float = 0.9
) -> pd.DataFrame:
    """Return what each level of a condition that is text does to each fast parameter, against the first level.

    Columns: condition, level, against, parameter, as, value, lower, upper. A parameter that moves by its logarithm is
    multiplied by the value ("factor"), and so are the odds of one between 0 and 1 ("odds"); to others it is added
    ("difference"; of a softplus one at the mean of the first level). The interval is Student's t over the specimens;
    NaN where the errors are not known.

    Args:
        law: of the parameters.
        coefficients: (1 + columns, fast), of the population.
        covariates: with the levels.
        errors: (1 + columns, fast), standard errors of the coefficients; None where they are not known.
        dof: degrees of freedom of the errors.
        level: probability of the interval.
    """
    import pandas as pd

    rows, reach = [], special.stdtrit(dof, 0.5 + 0.5 * probability(level))
    for name, (condition, one) in covariates.indicators.items():
        i, first = covariates.names.index(name), next(iter(covariates.levels[condition]))
        for j, parameter in enumerate(law.fast):
            support = law.parameters[parameter].support
            away = np.nan if errors is None else reach * float(errors[1 + i, j])
            ends = coefficients[1 + i, j] + np.array([0.0, -away, away])  # its scale is 1
            if support == "softplus":
                with np.errstate(invalid="ignore"):  # NaN of unknown errors
                    ends = np.logaddexp(0.0, coefficients[0, j] + ends) - np.logaddexp(0.0, coefficients[0, j])
            how = {"positive": "factor", "unit": "odds"}.get(support, "difference")
            rows.append((condition, one, first, parameter, how, *(ends if how == "difference" else np.exp(ends))))
    return pd.DataFrame(rows, columns=["condition", "level", "against", "parameter", "as", "value", "lower", "upper"])


def past_levels(condition: str, curves: Sequence[Curve]) -> dict[str, int]:
    """Return level -> number of specimens of a condition that is text, the most frequent first; {} of a number.

    >>> past_levels("grade", [Curve(n, [1], [2], conditions={"grade": g}) for n, g in ("aX", "bY", "cY")])
    {'Y': 2, 'X': 1}
    """
    keys = [find_named(condition, curve.conditions) for curve in curves]
    given = [None if key is None else curve.conditions[key] for curve, key in zip(curves, keys, strict=True)]
    if not any(isinstance(value, str) for value in given):
        return {}
    counts: dict[str, int] = {}
    for curve, value in zip(curves, given, strict=True):
        if value is None:
            raise _lacking(curve, condition)
        if not isinstance(value, str):
            raise ValueError(f"specimen {curve.name}: {condition!r} is text for others; got the number {value:g}")
        counts[value] = counts.get(value, 0) + 1
    if len(counts) == 1:
        raise ValueError(
            f"condition {condition!r} is {next(iter(counts))!r} for every specimen; a constant cannot move the prior"
        )
    return dict(sorted(counts.items(), key=lambda one: -one[1]))


def past_ranges(conditions: Sequence[str], curves: Sequence[Curve]) -> dict[str, tuple[float, float]]:
    """Return name -> (smallest, largest) of what the conditions, or forms of conditions, were made from.

    >>> past_ranges(["1/T"], [Curve("A", [1], [2], conditions={"T [K]": t}) for t in (300, 350)])
    {'T [K]': (300.0, 350.0)}
    """
    ranges = {}
    for condition in conditions:
        names = [_given_as(condition, curve.conditions) for curve in curves]
        values = [float(curve.conditions[name]) for curve, name in zip(curves, names, strict=True)]
        ranges[names[0]] = (min(values), max(values))
    return ranges


def _past_value(curve: Curve, name: str, indicator: tuple[str, str] | None) -> float:
    """Return what a past specimen has in a column of the design."""
    if indicator is not None:  # its level was found before
        return float(curve.conditions[find_named(indicator[0], curve.conditions) or ""] == indicator[1])
    try:
        value = condition_value(name, curve.conditions)
    except ValueError as error:
        raise ValueError(f"specimen {curve.name}: {error}") from None
    if value is None:
        raise _lacking(curve, name)
    return value


def _lacking(curve: Curve, condition: str) -> ValueError:
    given = ", ".join(curve.conditions) or "none"
    return ValueError(f"specimen {curve.name} has no condition {condition!r}; it has {given}")


def _given_as(condition: str, given: Mapping[str, float | str]) -> str:
    """Return the name of the condition that one, or a form of one, was made from."""
    name = underlying(condition, given)
    assert name is not None  # its value was read before
    return name


def _require_comparable(curves: Sequence[Curve]) -> None:
    """Raise ValueError for two specimens of one name, or a condition that is text for some, a number for others."""
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"two specimens are named {double!r}; give each its own name")
    for curve in curves:
        if curve.conditions:
            require_alike(names[0], curves[0].conditions, curve.name, curve.conditions)
