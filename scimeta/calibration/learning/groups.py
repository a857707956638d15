"""The groups that past specimens come in: batches, laboratories, litters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve

_MISSING = {"", "None", "nan", "<NA>", "NaT"}  # as text: what Python, NumPy and pandas have where nothing is known


def group_names(curves: Sequence[Curve], groups: str | Sequence[str] | Mapping[str, str] | None) -> list[str] | None:
    """Return the group of each curve; None where none are given.

    Args:
        curves: the specimens.
        groups: the name of a condition, one label for each curve, or specimen -> label.

    Raises:
        ValueError: a specimen without a group (none named, NaN, blank), another number of labels than of curves.

    >>> group_names([Curve("A", [1], [2], conditions={"batch": "D"})], "batch")
    ['D']
    """
    if groups is None:
        return None
    if isinstance(groups, str):
        for curve in curves:
            if groups not in curve.conditions:
                known = ", ".join(curve.conditions) or "none"
                raise ValueError(f"specimen {curve.name} has no condition {groups!r} to group it by; it has {known}")
        return [_label(curve, curve.conditions[groups]) for curve in curves]
    if isinstance(groups, Mapping):
        missing = [curve.name for curve in curves if curve.name not in groups]
        if missing:
            raise ValueError(f"groups names no group of specimen {missing[0]!r}")
        return [_label(curve, groups[curve.name]) for curve in curves]
    labels = list(groups)
    if len(labels) != len(curves):
        raise ValueError(f"groups has {len(labels)} labels for {len(curves)} curves; give one for each")
    return [_label(curve, label) for curve, label in zip(curves, labels, strict=True)]


def _label(curve: Curve, label: object) -> str:
    """Return a label as text without spaces around it; raises ValueError where it is missing: None, NaN or blank."""
    text = str(label).strip()
    if text in _MISSING:
        raise ValueError(
            f"specimen {curve.name} has no group, its label is {label!r}; name one, of its own if it belongs to none"
        )
    return text


def group_indices(names: Sequence[str] | None) -> Tensor | None:
    """Return (specimens,) the number of each specimen's group; None where there are no groups, or only one."""
    if names is None or len(set(names)) < 2:
        return None
    order = sorted(set(names))
    return torch.tensor([order.index(name) for name in names])
