"""Whether a law can describe the curves that it is given: asked at every public door, before any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve, Curves
from scimeta.calibration.data.points import Measured, pad
from scimeta.calibration.data.units import conversion, is_share, same_unit
from scimeta.calibration.laws.law import Law

_LOOKED_AT = 32  # specimens


def check_law(law: Law, curves: Sequence[Curve]) -> None:
    """Raise ValueError if the curves cannot be what the law describes: another unit, or numbers that it rules out.

    A unit that either side leaves blank is taken as agreeing, except that percent is no plain number. Spellings of one
    unit ("sec", "s") agree.

    >>> from scimeta.calibration.laws.law import Parameter
    >>> from scimeta.calibration.data.axis import Axis
    >>> law = Law("line", lambda t, a: a * t, {"a": Parameter()}, x=Axis("time", "s"), y=Axis("fraction"))
    >>> check_law(law, Curves([Curve("A", [1], [0.2])], Axis("time", "min"), Axis("fraction")))
    Traceback (most recent call last):
    ValueError: time: curves are in min, law line expects s; call curves.convert(x="s")
    """
    if not isinstance(curves, Sequence) or not all(isinstance(curve, Curve) for curve in curves):
        raise TypeError(f"expected Curves, or a list of Curve; got {type(curves).__name__}: read_curves makes them")
    check_units(curves, law)
    measured = [curve for curve in curves if len(curve)]
    for curve in measured:
        try:
            if law.check is not None:
                law.check(curve.x, curve.y)
        except ValueError as error:
            raise ValueError(f"specimen {curve.name!r}: {error}") from None
    for curve in measured[:1]:
        _try(law, torch.from_numpy(curve.x))


def check_numbers(law: Law, centre: Mapping[str, Tensor], sd: Mapping[str, Tensor], x: Tensor) -> None:
    """Raise ValueError if the law or a derivative is NaN where its parameters are expected, or a little beside.

    Infinity passes: an exponential that overflows is a poor value of its parameters, not a slip.

    Args:
        law: the law.
        centre: name -> (specimens,), or a scalar for all, unconstrained; at most a few dozen specimens are looked at.
        sd: name -> scalar; each parameter is also moved by it, up and down. Those that are not named stay.
        x: (specimens, points).

    >>> from scimeta.calibration.laws.law import Parameter
    >>> from scimeta.calibration.data.axis import Axis
    >>> law = Law("root", lambda t, r: torch.sqrt(1 - r * t), {"r": Parameter("1/s", "positive")}, x=Axis("time", "s"))
    >>> check_numbers(law, {"r": torch.zeros(1)}, {"r": torch.tensor(0.5)}, torch.tensor([[0.0, 0.9]]))
    Traceback (most recent call last):
    ValueError: law root: fn is nan at time = 0.9, r = 1.649, though the supports allow it; keep every argument in the \
domain of its function, with torch.where or clamp, or narrow a support
    """
    centre = {name: value.expand(len(x))[:_LOOKED_AT] for name, value in centre.items()}
    x = x[:_LOOKED_AT]
    trials = [centre] + [{**centre, n: centre[n] + side * sd[n]} for n in sd for side in (1.0, -1.0)]
    u = {name: torch.cat([trial[name] for trial in trials]) for name in law.names}
    rows = x.repeat(len(trials), 1)
    y, by = law.linearized(u, rows)
    for what, values in {"fn": y, **{f"the derivative of fn by {name}": slope for name, slope in by.items()}}.items():
        wrong = torch.isnan(values)
        if what != "fn":
            wrong &= torch.isfinite(y)
        if wrong.any():
            row, point = wrong.nonzero()[0].tolist()
            at = {law.x.name: rows, **{n: v[:, None].expand_as(y) for n, v in law.constrain(u).items()}}
            where = ", ".join(f"{name} = {float(v[row, point]):.4g}" for name, v in at.items())
            raise ValueError(
                f"law {law.name}: {what} is nan at {where}, though the supports allow it; keep every argument in the "
                "domain of its function, with torch.where or clamp, or narrow a support"
            )


def _try(law: Law, x: Tensor) -> None:
    """Run the law once, with parameters that ask for derivatives, so that a slip in it reads as one."""
    with torch.enable_grad():
        try:
            y = law.fn(x, **law.constrain({n: torch.zeros((), dtype=x.dtype, requires_grad=True) for n in law.names}))
        except Exception as error:  # whatever a user's code raises
            failed = f"law {law.name}: fn(x, {', '.join(law.names)}) failed: {type(error).__name__}: {error}"
            raise ValueError(f"{failed}; write it in torch, with the parameters' names as arguments") from error
    if not isinstance(y, Tensor) or y.shape != x.shape:
        came = f"shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        returned = f"law {law.name}: fn returned {came} for x of shape {tuple(x.shape)}"
        raise ValueError(f"{returned}; return one y for each x, in torch")


def check_units(curves: Sequence[Curve], law: Law) -> None:
    """Raise ValueError if curves have another unit than the law, or than each other; see :func:`check_law`."""
    for side in ("x", "y"):
        expected, first = getattr(law, side), None
        for curve in curves:
            unit = getattr(curve, f"{side}_unit")
            if not unit or (first is not None and unit == first[0]):
                continue
            _check_unit(curves, curve, side, unit, law)
            if first is not None and not expected.unit and not same_unit(unit, first[0]):
                raise ValueError(
                    f"{expected.name}: {first[1]} is in {first[0]}, {curve.name} in {unit}; have all in one unit, as "
                    f'by [curve.convert({side}="{first[0]}") for curve in curves]'
                )
            first = (unit, curve.name) if first is None else first


def _check_unit(curves: Sequence[Curve], curve: Curve, side: str, unit: str, law: Law) -> None:
    """Raise ValueError unless the unit of a curve's x or y is the law's."""
    expected, name = getattr(law, side), curve.name
    if isinstance(curves, Curves):
        where, convert = f"{getattr(curves, side).name}: curves are in {unit}", 'curves.convert({}="{}")'
    else:
        where, convert = f"{expected.name}: {name} is in {unit}", '[curve.convert({}="{}") for curve in curves]'
    where += f", law {law.name}"
    verb = "call" if isinstance(curves, Curves) else "pass"
    if is_share(unit) and not expected.unit:
        plain = f"{verb} {convert.format(side, '')} to have plain numbers"
        raise ValueError(f"{where} names no unit; {plain}, or name the unit in the law")
    if not expected.unit or same_unit(unit, expected.unit):
        return
    try:
        conversion(unit, expected.unit)
        remedy = f"{verb} {convert.format(side, expected.unit)}"
    except ValueError:
        measured = getattr(curves, side) if isinstance(curves, Curves) else f"{side} in {unit}"
        remedy = f"is {measured} the right column for the law's {expected}?"
    raise ValueError(f"{where} expects {expected.unit}; {remedy}")


def measured(law: Law, curves: Sequence[Curve]) -> Measured:
    """Return the padded measurements, after every check that the public doors owe.

    Raises:
        ValueError: no curves, units that differ from the law's, numbers that the law cannot describe, a law that
            returns another shape than x's.
    """
    check_law(law, curves)
    return Measured(*pad(curves))
