"""What a prior knows beside the family itself: its conditions, and the past that it was learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.conditions import condition_value, underlying


class Covariates(NamedTuple):
    """The conditions that move a family's means, z = (1, (condition - centre) / scale).

    Attributes:
        names: of the conditions, or forms of them ("1/T").
        centre, scale: (conditions,).
        ranges: name -> (smallest, largest) among the past specimens, of what the forms were made from; empty where not
            known.
    """

    names: tuple[str, ...] = ()
    centre: np.ndarray = np.zeros(0)
    scale: np.ndarray = np.ones(0)
    ranges: Mapping[str, tuple[float, float]] = {}

    @property
    def middle(self) -> dict[str, float]:
        """name -> centre."""
        return dict(zip(self.names, self.centre.tolist(), strict=True))

    def design(self, conditions: Sequence[Mapping[str, float]], specimens: Sequence[str] | None = None) -> np.ndarray:
        """Return (specimens, 1 + conditions): a one and the scaled conditions of every specimen.

        Args:
            conditions: of each specimen, name -> value.
            specimens: their names, for the error.

        Raises:
            ValueError: a specimen lacks a condition.
        """
        values = np.empty((len(conditions), len(self.names)))
        for i, given in enumerate(conditions):
            for j, name in enumerate(self.names):
                who = specimens[i] if specimens else f"specimen {i}"
                try:
                    value = condition_value(name, given)
                except ValueError as error:
                    raise ValueError(f"{who}: {error}") from None
                if value is None or not np.isfinite(value):
                    raise ValueError(
                        f"{who} has no condition {name!r}; the prior needs "
                        f"{', '.join(self.names)}; given are {', '.join(given) or 'none'}"
                    )
                values[i, j] = value
        return np.column_stack([np.ones(len(conditions)), (values - self.centre) / self.scale])


NO_COVARIATES = Covariates()


class Learned(NamedTuple):
    """The past that a prior was learned from, and how the learning ended.

    Attributes:
        specimens: name -> (fast,) posterior mean of each past specimen, moved to the conditions' centre.
        x_range: smallest and largest x among them.
        coefficient_covariances: (components, 1 + conditions, fast, 1 + conditions, fast) of the estimated coefficients;
            None where they are not known.
        converged: True if the learning reached its fixed point.
        objective: what the means were learned for, "likelihood" or "predictive".
    """

    specimens: Mapping[str, np.ndarray]
    x_range: tuple[float, float]
    coefficient_covariances: np.ndarray | None = None
    converged: bool = True
    objective: str = "likelihood"


def covariates_of(curves: Sequence[Curve], conditions: Sequence[str], fast: int) -> tuple[Covariates, np.ndarray]:
    """Return the conditions of past specimens, centred and scaled, and the design matrix (specimens, 1 + conditions).

    Raises:
        ValueError: two specimens of one name, too few specimens, a condition that is missing, constant or determined by
            the others.
    """
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"two specimens are named {double!r}; give each its own name")
    least = len(conditions) + 1 + fast
    if len(curves) < least:
        raise ValueError(
            f"learn_prior needs at least {least} specimens for {fast} parameters and {len(conditions)} "
            f"conditions; got {len(curves)}"
        )
    values = np.array([[_value(curve, name) for name in conditions] for curve in curves]).reshape(len(curves), -1)
    centre, scale = values.mean(0), values.std(0)
    for name, size, middle in zip(conditions, scale, centre, strict=True):
        if size <= 1e-12 * max(abs(middle), 1e-300):
            raise ValueError(f"condition {name!r} is {middle:.6g} for every specimen; a constant cannot move the prior")
    design = np.column_stack([np.ones(len(curves)), (values - centre) / scale])
    if np.linalg.matrix_rank(design, tol=1e-8) < design.shape[1]:
        raise ValueError(f"the conditions {', '.join(conditions)} determine each other; leave one out")
    return Covariates(tuple(conditions), centre, scale, past_ranges(conditions, curves)), design


def past_ranges(conditions: Sequence[str], curves: Sequence[Curve]) -> dict[str, tuple[float, float]]:
    """Return name -> (smallest, largest) of what the conditions, or forms of conditions, were made from.

    >>> past_ranges(["1/T"], [Curve("A", [1], [2], conditions={"T [K]": t}) for t in (300, 350)])
    {'T [K]': (300.0, 350.0)}
    """
    ranges = {}
    for condition in conditions:
        names = [_given_as(condition, curve.conditions) for curve in curves]
        values = [curve.conditions[name] for curve, name in zip(curves, names, strict=True)]
        ranges[names[0]] = (min(values), max(values))
    return ranges


def _given_as(condition: str, given: Mapping[str, float]) -> str:
    """Return the name of the condition that one, or a form of one, was made from."""
    name = underlying(condition, given)
    assert name is not None  # its value was read before
    return name


def _value(curve: Curve, name: str) -> float:
    """Return the value of a condition that a past specimen must have."""
    try:
        value = condition_value(name, curve.conditions)
    except ValueError as error:
        raise ValueError(f"specimen {curve.name}: {error}") from None
    if value is None:
        raise ValueError(
            f"specimen {curve.name} has no condition {name!r}; it has {', '.join(curve.conditions) or 'none'}"
        )
    return value
