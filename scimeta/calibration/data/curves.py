"""Measured curves, one a specimen: checked once, then handed on as plain float64 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.categories import condition_given, require_alike
from scimeta.calibration.data.units import Conversion, conversion, same_unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LEGEND_UP_TO = 8  # curves; more names than this hide what they explain


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """The measurements of one specimen, sorted by x.

    Two readings at one x are more often a slip (two specimens under one name, rows pasted twice) than a plan, and a
    slip of that kind narrows every interval unnoticed. They are therefore refused unless ``replicates=True`` says that
    they are independent readings; then each counts as a measurement of its own.

    Args:
        name: what reports call the specimen.
        x: (points,) abscissa; any array-like, copied to float64.
        y: (points,) measured ordinate. No points at all are a specimen of which only conditions are known.
        sigma: (points,) standard deviation of each y, in the unit of y; one number for all points, NaN for a point
            where it is not known, or None.
        conditions: name -> what holds for the whole specimen: a number (a temperature) or text (a grade).
        replicates: True if repeated x are independent readings.
        x_unit, y_unit: units of x and y, as text; "" where they are not stated or there is none. Curves have them from
            their table, and a list of some of them keeps them.

    Raises:
        ValueError: shapes differ, a number is not finite, sigma is not positive, x repeats, or a condition is missing;
            names the specimen and the index.

    >>> curve = Curve("A7", [30.0, 10.0], [0.31, 0.04], sigma=0.02)
    >>> curve, curve.x, curve.sigma
    (Curve('A7', 2 points, x from 10 to 30), array([10., 30.]), array([0.02, 0.02]))
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    sigma: np.ndarray | None = None
    conditions: Mapping[str, float | str] = field(default_factory=dict)
    replicates: bool = False
    x_unit: str = ""
    y_unit: str = ""

    if TYPE_CHECKING:  # what it takes is wider than what it keeps

        def __init__(
            self,
            name: str,
            x: ArrayLike,
            y: ArrayLike,
            sigma: ArrayLike | None = None,
            conditions: Mapping[str, float | str] = ...,
            replicates: bool = False,
            x_unit: str = "",
            y_unit: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        if not str(self.name).strip():
            raise ValueError("a specimen's name is blank; give every specimen a name")
        object.__setattr__(self, "name", str(self.name))
        x, y = self._floats("x"), self._floats("y")
        self._check_points(x, y)
        sigma = self._checked_sigma(x.shape)
        if (x[1:] <= x[:-1]).any():
            order = np.argsort(x, kind="stable")
            self._refuse_repeated(x, order)
            x, y, sigma = x[order], y[order], None if sigma is None else sigma[order]
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "sigma", sigma)
        object.__setattr__(self, "conditions", self._checked_conditions())

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        unit = f" {self.x_unit}" if self.x_unit else ""
        where = f", x from {self.x[0]:g} to {self.x[-1]:g}{unit}" if len(self) else ""
        return f"Curve({self.name!r}, {_count(len(self), 'point')}{where})"

    def head(self, points: int) -> Curve:
        """Return the curve cut to its first points.

        >>> Curve("A7", [10.0, 20.0, 30.0], [0.04, 0.15, 0.31]).head(2).y
        array([0.04, 0.15])
        """
        if not 1 <= points <= len(self):
            raise self._error(f"head({points}) of {_count(len(self), 'point')}; ask for 1 to {len(self)}")
        sigma = None if self.sigma is None else self.sigma[:points]
        return replace(self, x=self.x[:points], y=self.y[:points], sigma=sigma)

    def convert(self, *, x: str | None = None, y: str | None = None) -> Curve:
        """Return the curve in other units; sigma follows y. Arguments as for :meth:`Curves.convert`.

        Raises:
            ValueError: the curve has no unit, a unit is unknown, or one does not convert into the other.

        >>> Curve("A7", [1.0, 2.0], [4.0, 15.0], x_unit="min", y_unit="%").convert(x="s", y="")
        Curve('A7', 2 points, x from 60 to 120 s)
        """
        axes = Axis("x", self.x_unit), Axis("y", self.y_unit)
        try:
            by_x, by_y = (_axis_conversion(axis, unit) for axis, unit in zip(axes, (x, y), strict=True))
        except ValueError as error:
            raise self._error(str(error)) from None
        return replace(
            self,
            x=by_x(self.x),
            y=by_y(self.y),
            sigma=None if self.sigma is None else abs(by_y.slope) * self.sigma,
            x_unit=self.x_unit if x is None else x,
            y_unit=self.y_unit if y is None else y,
        )

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"specimen {self.name!r}: {problem}")

    def _check_points(self, x: np.ndarray, y: np.ndarray) -> None:
        """Raise unless x and y are (points,), at least one, and finite."""
        if x.ndim != 1:
            remedy = "x.ravel()" if x.ndim else "lists"
            raise self._error(f"x has shape {x.shape}, expected (points,); pass {remedy}")
        if y.shape != x.shape:
            remedy = "y.ravel()" if y.size == x.size else "one y for each x"
            raise self._error(f"y has shape {y.shape}, x has shape {x.shape}; pass {remedy}")
        if not len(x) and not self.conditions:
            raise self._error("there are no points; at least one is needed, or conditions that say what to expect")
        for name, values in (("x", x), ("y", y)):
            finite = np.isfinite(values)
            if not finite.all():
                i = int(finite.argmin())
                raise self._error(f"{name}[{i}] is {values[i]}; drop the point or correct it")

    def _floats(self, name: str) -> np.ndarray:
        try:
            values = np.asarray(getattr(self, name))
            if np.iscomplexobj(values):
                raise TypeError("complex ones have no order")
            return np.array(values, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError) as error:  # the last from a tensor that needs its gradient
            raise self._error(f"{name} must be numbers, one a point; {error}") from None

    def _checked_sigma(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Return (points,) standard deviations, or None if no point has one."""
        if self.sigma is None:
            return None
        sigma = self._floats("sigma")
        if sigma.ndim == 0:
            sigma = np.full(shape, sigma)
        if sigma.shape != shape:
            raise self._error(f"sigma has shape {sigma.shape}, x has shape {shape}; pass one number or one a point")
        unknown = np.isnan(sigma)
        good = unknown | ((sigma > 0) & (sigma < np.inf))
        if not good.all():
            i = int(good.argmin())
            raise self._error(f"sigma[{i}] is {sigma[i]:g}; give a positive number, or NaN where it is not known")
        return None if unknown.all() else sigma

    def _refuse_repeated(self, x: np.ndarray, order: np.ndarray) -> None:
        same = np.flatnonzero(np.diff(x[order]) == 0)
        if len(same) and not self.replicates:
            i, j = sorted(order[same[0] : same[0] + 2])
            raise self._error(f"x[{i}] and x[{j}] are both {x[i]:g}; {REPEATED}")

    def _checked_conditions(self) -> dict[str, float | str]:
        if not isinstance(self.conditions, Mapping):
            raise self._error(f"conditions must be a dict of name and number, or text; got {self.conditions!r}")
        checked = {}
        for name, value in self.conditions.items():
            try:
                checked[name] = condition_given(value)
            except ValueError as error:
                raise self._error(f"condition {name!r} {error}") from None
        return checked


REPEATED = "average them, give each run its own specimen name, or pass replicates=True if they are independent readings"


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Sequence[Curve]):
    """Curves of a family of specimens, with what stands on their axes.

    Args:
        curves: the curves; names differ, and all have the same conditions. Those in another unit than the axis are
            converted, those that state none are taken to be in the axis's.
        x: name and unit of the abscissa; the unit of the curves where it states none.
        y: name and unit of the ordinate, likewise.

    Raises:
        ValueError: two curves have one name, a condition is given for some specimens only or is text for some and a
            number for others, or a curve's unit does not convert into the axis's.

    >>> curves = Curves([Curve("A", [1, 2], [0.1, 0.4]), Curve("B", [1], [0.2])], Axis("time", "min"), Axis("fraction"))
    >>> curves
    Curves(2 specimens, 3 points: fraction against time [min])
    >>> curves.convert(x="s")["A"].x
    array([ 60., 120.])
    """

    curves: Sequence[Curve]
    x: Axis
    y: Axis

    def __post_init__(self) -> None:
        object.__setattr__(self, "curves", tuple(self.curves))
        object.__setattr__(self, "x", Axis(*self.x))
        object.__setattr__(self, "y", Axis(*self.y))
        seen: set[str] = set()
        for curve in self.curves:
            if not isinstance(curve, Curve):
                raise TypeError(f"Curves are made of Curve(name, x, y); got {type(curve).__name__}")
            if curve.name in seen:
                raise ValueError(f"two specimens are named {curve.name!r}; give each its own name")
            seen.add(curve.name)
            odd = curve.conditions.keys() ^ self.curves[0].conditions.keys()
            if odd:
                raise ValueError(
                    f"condition {min(odd)!r} is given for one of the specimens {self.curves[0].name!r} and "
                    f"{curve.name!r} but not for the other; give it for all or for none"
                )
            if curve.conditions:
                require_alike(self.curves[0].name, self.curves[0].conditions, curve.name, curve.conditions)
        for side in ("x", "y"):
            self._settle_unit(side)

    def _settle_unit(self, side: str) -> None:
        """Give every curve and the axis of one side, "x" or "y", the same unit."""
        axis, of_curve = getattr(self, side), f"{side}_unit"
        unit = axis.unit or next(filter(None, (getattr(curve, of_curve) for curve in self.curves)), "")
        object.__setattr__(self, side, Axis(axis.name, unit))
        settled = []
        for curve in self.curves:
            own = getattr(curve, of_curve)
            if own and own != unit and not same_unit(own, unit):
                curve = curve.convert(**{side: unit})
            settled.append(curve if own == unit else replace(curve, **{of_curve: unit}))
        object.__setattr__(self, "curves", tuple(settled))

    def __len__(self) -> int:
        return len(self.curves)

    def __iter__(self) -> Iterator[Curve]:
        return iter(self.curves)

    @overload
    def __getitem__(self, key: int | str) -> Curve: ...
    @overload
    def __getitem__(self, key: slice) -> Curves: ...
    def __getitem__(self, key: int | str | slice) -> Curve | Curves:
        """Return the curve at a position or with a name, or the Curves of a slice."""
        if isinstance(key, slice):
            return replace(self, curves=self.curves[key])
        if isinstance(key, str):
            if key not in self._position:
                raise ValueError(f"Unknown specimen {key!r}; there are {shortened(self.names)}")
            return self.curves[self._position[key]]
        return self.curves[key]

    def __repr__(self) -> str:
        size = f"{_count(len(self), 'specimen')}, {_count(sum(map(len, self.curves)), 'point')}"
        given = f"; conditions {', '.join(self.conditions)}" if self.conditions else ""
        return f"Curves({size}: {self.y} against {self.x}{given})"

    @property
    def names(self) -> tuple[str, ...]:
        """The specimens' names, in order."""
        return tuple(curve.name for curve in self.curves)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, the same for all specimens."""
        return tuple(self.curves[0].conditions) if self.curves else ()

    @cached_property
    def _position(self) -> dict[str, int]:
        return {curve.name: i for i, curve in enumerate(self.curves)}

    def head(self, points: int) -> Curves:
        """Return every curve cut to its first points."""
        return replace(self, curves=[curve.head(points) for curve in self.curves])

    def convert(self, *, x: str | None = None, y: str | None = None) -> Curves:
        """Return the curves in other units; sigma follows y.

        Args:
            x: unit wanted on the abscissa, as pint reads it: "s", "min", "degC"; None leaves it.
            y: unit wanted on the ordinate; "" turns percent into fractions.

        Raises:
            ValueError: an axis has no unit, a unit is unknown, or one does not convert into the other.
        """
        for axis, unit in ((self.x, x), (self.y, y)):
            _axis_conversion(axis, unit)  # raises by the axis's name
        converted = [curve.convert(x=x, y=y) for curve in self.curves]
        axes = (axis if unit is None else Axis(axis.name, unit) for axis, unit in ((self.x, x), (self.y, y)))
        return Curves(converted, *axes)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row a measurement, which :func:`read_curves` reads back.

        Columns: specimen, x and y under their names with units, sigma if any point has one, and the conditions, those
        that are text as categories.
        """
        import pandas as pd

        sizes = [len(curve) for curve in self.curves]
        columns: dict[str, Any] = {"specimen": np.repeat(np.array(self.names, dtype=object), sizes)}
        x, y, sigma = joined(self.curves)
        columns |= {str(self.x): x, str(self.y): y}
        if any(curve.sigma is not None for curve in self.curves):
            columns["sigma"] = sigma
        for name in self.conditions:
            values = np.repeat([curve.conditions[name] for curve in self.curves], sizes)
            columns[name] = pd.Categorical(values) if values.dtype.kind == "U" else values
        return pd.DataFrame(columns)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw every curve as a thin line with its points; name them if they are few."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        few = len(self) <= _LEGEND_UP_TO
        for curve in self.curves:
            style: dict[str, Any] = (
                {"label": curve.name} if few else {"color": "C0", "alpha": max(0.1, 2 / len(self) ** 0.5)}
            )
            ax.plot(curve.x, curve.y, "-o", linewidth=0.8, markersize=3, **style)
            if few and curve.sigma is not None:
                colour = ax.lines[-1].get_color()
                ax.errorbar(curve.x, curve.y, curve.sigma, fmt="none", ecolor=colour, elinewidth=0.8)
        ax.set(xlabel=str(self.x), ylabel=str(self.y))
        ax.spines[["top", "right"]].set_visible(False)
        if few and self.curves:
            ax.legend(frameon=False)
        return ax


def joined(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, y and sigma of all curves end to end, (sum of points,) each; sigma NaN where it is not known."""
    sigma = [np.full(len(curve), np.nan) if curve.sigma is None else curve.sigma for curve in curves]
    empty = [np.empty(0)]
    x, y, sigma = (np.concatenate(v or empty) for v in ([c.x for c in curves], [c.y for c in curves], sigma))
    return x, y, sigma


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Return names joined by commas, the middle left out where they are many."""
    if len(names) <= most:
        return ", ".join(map(str, names))
    return f"{', '.join(map(str, names[: most - 2]))}, ... {names[-1]} ({len(names)} in all)"


def _axis_conversion(axis: Axis, unit: str | None) -> Conversion:
    if unit is None:
        return Conversion(1.0, 0.0)
    if not axis.unit:
        raise ValueError(
            f"{axis.name} has no unit to convert from; state it where the curves are read, as '{axis.name} [unit]'"
        )
    return conversion(axis.unit, unit)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
