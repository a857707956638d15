"""What stands on one axis: a name and a unit."""

from __future__ import annotations

from typing import NamedTuple


class Axis(NamedTuple):
    """What stands on one axis of a law's graph."""

    name: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name
