"""Units as text: compared and converted by pint, never in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import numpy as np

GAS_CONSTANT = 8.314462618
"""J/(mol K)."""

_SHARES = {"%", "percent", "permille", "‰", "ppm"}
_WITH_UNIT = re.compile(r"(.*?)\s*(?:\[([^][]*)\]|\(([^()]*)\))")

_Values = TypeVar("_Values", float, np.ndarray)


class Conversion(NamedTuple):
    """The straight line from one unit to another: slope times value plus offset."""

    slope: float
    offset: float

    def __call__(self, values: _Values) -> _Values:
        return self.slope * values + self.offset


def split_unit(header: str) -> tuple[str, str]:
    """Return name and unit of a column header; the unit is "" if it has none.

    Square brackets always hold a unit, round ones only if pint knows what they hold.

    >>> split_unit("time [s]"), split_unit("time (min)"), split_unit("fraction (corrected)")
    (('time', 's'), ('time', 'min'), ('fraction (corrected)', ''))
    """
    match = _WITH_UNIT.fullmatch(header)
    if match is None or not match[1]:
        return header, ""
    if match[2] is not None:
        return match[1], match[2].strip()
    unit = match[3].strip()
    return (match[1], unit) if _known(unit) else (header, "")


def find_named(name: str, present: Iterable[str]) -> str | None:
    """Return which of the names present is meant, where one of the two may leave the unit out; None if none is.

    >>> find_named("T", ["T [K]", "dose"]), find_named("T [degC]", ["T"]), find_named("T [degC]", ["T [K]"])
    ('T [K]', 'T', None)
    """
    present = list(present)
    if name in present:
        return name
    bare, unit = split_unit(name)
    for other in present:
        other_bare, other_unit = split_unit(other)
        if bare == other_bare and (not unit or not other_unit or same_unit(unit, other_unit)):
            return other
    return None


def same_unit(first: str, second: str) -> bool:
    """Return True if two texts mean one unit.

    >>> same_unit("sec", "s"), same_unit("s", "min"), same_unit("wt%", "wt%")
    (True, False, True)
    """
    if first.strip() == second.strip():
        return True
    try:
        slope, offset = conversion(first, second)
    except ValueError:  # texts that pint cannot read are one unit only if they are one text
        return False
    return abs(slope - 1.0) < 1e-12 and abs(offset) < 1e-12


def is_share(unit: str) -> bool:
    """Return True for a unit that is a plain number, but not one: percent and its like.

    >>> is_share("%"), is_share(""), is_share("mm")
    (True, False, False)
    """
    return unit.strip() in _SHARES


def conversion(start: str, goal: str) -> Conversion:
    """Return what turns values in one unit into values in another.

    Args:
        start: unit of the values, as pint reads it: "s", "1/min", "degC", "%"; "" is dimensionless.
        goal: unit wanted.

    Raises:
        ValueError: a unit that pint does not know, two that measure different things, or a scale that is not straight
            (decibels).

    >>> conversion("min", "s"), conversion("degC", "K")
    (Conversion(slope=60.0, offset=0.0), Conversion(slope=1.0, offset=273.15))
    """
    if start == goal:
        return Conversion(1.0, 0.0)
    for unit in (start, goal):
        if not _known(unit):
            raise ValueError(f"unit {unit!r} is not known to pint; write it like s, 1/min, degC, J/g or %")
    import pint

    quantity = pint.get_application_registry().Quantity
    try:
        zero, one, two = (float(quantity(value, start).to(goal).magnitude) for value in (0.0, 1.0, 2.0))
    except Exception as error:  # pint raises many kinds
        raise ValueError(f"cannot convert from {start!r} to {goal!r}: {error}") from None
    slope = one if zero == 0.0 else round(one - zero, 12)  # an offset costs the slope its last digits
    if not abs(two - one - slope) <= 1e-9 * abs(slope):
        raise ValueError(f"cannot convert from {start!r} to {goal!r}: the scale is not straight")
    return Conversion(slope, zero)


def _known(unit: str) -> bool:
    """Return True if pint reads the text as a unit."""
    import pint

    try:
        pint.get_application_registry().Unit(unit)
    except Exception:  # the parser lets errors of its tokenizer and of Python through
        return False
    return True
