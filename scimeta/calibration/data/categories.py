"""Conditions as they are given: a number, or text such as a grade, a variety, a supplier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scimeta.calibration.data.delimited import squeezed

MISSING = frozenset({
    "", "-", "#N/A", "#NA", "<NA>", "N/A", "NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null",
})  # fmt: skip
"""What tables write for a missing cell; letter by letter, so that Na stays sodium."""


def condition_given(value: object) -> float | str:
    """Return a condition's value: a finite number as float, or text with single spaces between its words.

    Raises:
        ValueError: neither, or what stands for a missing value; the text goes on after the condition's name.

    >>> condition_given(420), condition_given(" 316L ")
    (420.0, '316L')
    """
    if isinstance(value, str):
        text = squeezed(value)
        if text in MISSING:
            raise ValueError(
                f"is {value!r}, which stands for a missing value; give its text, or leave the specimen out"
            )
        return text
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        raise ValueError(f"must be a number or text; got {value!r}") from None
    if not np.isfinite(number):
        raise ValueError(f"is {value}; it must be finite")
    return number


def require_alike(first: str, ours: Mapping[str, float | str], other: str, theirs: Mapping[str, float | str]) -> None:
    """Raise ValueError where a condition is text for one of two specimens and a number for the other.

    Args:
        first, other: the specimens' names.
        ours, theirs: their conditions.
    """
    for name in ours.keys() & theirs.keys():
        if isinstance(ours[name], str) != isinstance(theirs[name], str):
            raise ValueError(
                f"condition {name!r} is {_said(ours[name])} for specimen {first!r} and {_said(theirs[name])} for "
                f"{other!r}; give numbers to all specimens, or text to all"
            )


def _said(value: float | str) -> str:
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value:g}"
