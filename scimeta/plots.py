"""Axes with names and units: what every picture begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes(ax: Axes | None, x: object, y: object) -> Axes:
    """Return the axes given, or new ones, with these labels."""
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    ax.set_xlabel(str(x))
    ax.set_ylabel(str(y))
    return ax
