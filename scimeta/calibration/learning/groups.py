"""The groups that past specimens come in: batches, laboratories, litters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve


def group_names(curves: Sequence[Curve], groups: str | Sequence[str] | Mapping[str, str] | None) -> list[str] | None:
    """Return the group of each curve; None where none are given.

    Args:
        curves: the specimens.
        groups: the name of a condition, one label for each curve, or specimen -> label.

    Raises:
        ValueError: a specimen without a group, another number of labels than of curves.

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
        return [str(curve.conditions[groups]) for curve in curves]
    if isinstance(groups, Mapping):
        missing = [curve.name for curve in curves if curve.name not in groups]
        if missing:
            raise ValueError(f"groups names no group of specimen {missing[0]!r}")
        return [str(groups[curve.name]) for curve in curves]
    labels = [str(label) for label in groups]
    if len(labels) != len(curves):
        raise ValueError(f"groups has {len(labels)} labels for {len(curves)} curves; give one for each")
    return labels


def group_indices(names: Sequence[str] | None) -> Tensor | None:
    """Return (specimens,) the number of each specimen's group; None where there are no groups, or only one."""
    if names is None or len(set(names)) < 2:
        return None
    order = sorted(set(names))
    return torch.tensor([order.index(name) for name in names])
