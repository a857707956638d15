"""Where a specimen lies outside what its prior was learned from: conditions and x beyond those of the past."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve, shortened
from scimeta.calibration.data.units import find_named, split_unit
from scimeta.calibration.family.provenance import Covariates, Learned

_ROUNDING = 1e-9  # of a range, by which a converted number may miss its end
_FAR = 0.05  # of the past's range of a condition: less, and a warning is more often chance than extrapolation
_FAR_IN_X = 0.25  # the same of x, where a law is made to reach a little beyond, as down to 0


class Outside(NamedTuple):
    """One number that lies outside the past.

    Attributes:
        name, unit: of the condition or of x.
        value: the number.
        lower, upper: range of the past.
        is_condition: True for a condition, False for an x.
    """

    name: str
    unit: str
    value: float
    lower: float
    upper: float
    is_condition: bool

    @property
    def away(self) -> float:
        """How far outside, in widths of the past's range; inf where that is a single number."""
        distance = max(self.lower - self.value, self.value - self.upper)
        return distance / (self.upper - self.lower) if self.upper > self.lower else np.inf

    @property
    def warned(self) -> bool:
        """True if a warning is due, not only a line in the report."""
        return self.away > (_FAR if self.is_condition else _FAR_IN_X)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        far = f" by {self.away:.2g} times that range" if np.isfinite(self.away) else ""
        return (
            f"{self.name} = {self.value:.4g}{unit} lies outside the past, {self.lower:.4g} to {self.upper:.4g}{unit},"
            f"{far}: the {'prior' if self.is_condition else 'law'} is extrapolated"
        )


class Reach(NamedTuple):
    """How far the past of a prior reaches.

    Attributes:
        x: name and unit of the law's x.
        covariates: with the ranges of the conditions.
        learned: with the range of x; None of a prior that was set by hand, outside which nothing lies.
    """

    x: Axis
    covariates: Covariates
    learned: Learned | None

    def outside(self, conditions: Mapping[str, float | str], x: np.ndarray) -> list[Outside]:
        """Return which of a specimen's conditions and x lie outside the past, of x only the farthest.

        Nothing is outside for a prior that was set by hand, and no condition for one whose file has no ranges.

        Args:
            conditions: of the specimen.
            x: (points,), in the unit of the law's x.
        """
        found = []
        for name, ends in self.covariates.ranges.items():
            key = find_named(name, conditions)
            value = None if key is None else conditions[key]
            if value is not None and not isinstance(value, str):
                found.append(Outside(*split_unit(name), value, *ends, True))
        if self.learned is not None and len(x):
            ends = [Outside(*self.x, float(end), *self.learned.x_range, False) for end in (np.min(x), np.max(x))]
            found.append(max(ends, key=lambda one: one.away))
        return [one for one in found if one.away > _ROUNDING]

    def lines(self, curves: Sequence[Curve], *, only_warned: bool = False) -> list[str]:
        """Return a sentence on each condition, and on x, that lies outside the past; the specimens are named.

        Args:
            curves: the specimens.
            only_warned: True to leave out what the report alone tells.
        """
        found: dict[tuple[str, bool], list[tuple[Outside, str]]] = {}
        for curve in curves:
            for one in self.outside(curve.conditions, curve.x):
                if one.warned or not only_warned:
                    found.setdefault((one.name, one.is_condition), []).append((one, curve.name))
        lines = []
        for these in found.values():
            farthest, name = max(these, key=lambda pair: pair[0].away)
            others = [other for _, other in these if other != name]
            lines.append(f"{name}: {farthest}" + (f"; also outside: {shortened(others)}" if others else ""))
        return lines

    def warn_beyond(self, x: np.ndarray, what: str, stacklevel: int = 3) -> None:
        """Warn where a prediction is asked for, or a measurement advised, far outside the past's x.

        Args:
            x: (points,).
            what: of which the sentence speaks.
            stacklevel: of the warning.
        """
        for one in self.outside({}, x):
            if one.warned:
                warnings.warn(f"{what}: {one}", stacklevel=stacklevel)
