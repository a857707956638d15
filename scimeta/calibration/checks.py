"""Whether a law can describe the curves that it is given: asked at every public door, before any batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scimeta.calibration.curves import Curve, Curves
from scimeta.calibration.law import Law
from scimeta.calibration.units import conversion, is_share, same_unit


def check_law(law: Law, curves: Sequence[Curve]) -> None:
    """Raise ValueError if the curves cannot be what the law describes: another unit, or numbers that it rules out.

    A unit that either side leaves blank is taken as agreeing, except that percent is no plain number. Spellings of one
    unit ("sec", "s") agree.

    >>> from scimeta.calibration.law import Axis, Parameter
    >>> law = Law("line", lambda t, a: a * t, {"a": Parameter()}, x=Axis("time", "s"), y=Axis("fraction"))
    >>> check_law(law, Curves([Curve("A", [1], [0.2])], Axis("time", "min"), Axis("fraction")))
    Traceback (most recent call last):
    ValueError: time: curves are in min, law line expects s; call curves.convert(x="s")
    """
    if not isinstance(curves, Sequence) or not all(isinstance(curve, Curve) for curve in curves):
        raise TypeError(f"expected Curves, or a list of Curve; got {type(curves).__name__}: read_curves makes them")
    if isinstance(curves, Curves):
        check_units(curves, law)
    for curve in curves if law.check is not None else ():
        try:
            law.check(curve.x, curve.y)
        except ValueError as error:
            raise ValueError(f"specimen {curve.name!r}: {error}") from None
    for curve in curves[:1] if not law.pointwise else ():  # a pointwise law was run to find that out
        _try(law, torch.from_numpy(curve.x))


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


def check_units(curves: Curves, law: Law) -> None:
    """Raise ValueError if an axis of the curves has another unit than the law's; see :func:`check_law`."""
    for side in ("x", "y"):
        measured, expected = getattr(curves, side), getattr(law, side)
        where = f"{measured.name}: curves are in {measured.unit}, law {law.name}"
        if is_share(measured.unit) and not expected.unit:
            plain = f'call curves.convert({side}="") to have plain numbers'
            raise ValueError(f"{where} names no unit; {plain}, or name the unit in the law")
        if not measured.unit or not expected.unit or same_unit(measured.unit, expected.unit):
            continue
        try:
            conversion(measured.unit, expected.unit)
            remedy = f'call curves.convert({side}="{expected.unit}")'
        except ValueError:
            remedy = f"is {measured} the right column for the law's {expected}?"
        raise ValueError(f"{where} expects {expected.unit}; {remedy}")
