"""Draws of fits for those who have ArviZ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve, shortened
from scimeta.calibration.laws.law import Law


def arviz_draws(
    law: Law,
    curves: Sequence[Curve],
    nodes: Tensor,
    weights: Tensor,
    reasons: Sequence[str],
    draws: int = 1000,
    generator: torch.Generator | None = None,
) -> Any:
    """Return posterior draws of many specimens as ArviZ keeps them: a DataTree, an InferenceData before ArviZ 1.

    The draws are independent, from one "chain", so that convergence diagnostics have nothing to find. Group posterior:
    each parameter in natural units, (chain, draw, specimen), its unit as attribute. Groups observed_data and
    constant_data: y and x of all measurements end to end, and which specimen each belongs to.

    Args:
        law: the fitted law.
        curves: the specimens.
        nodes: (specimens, nodes, parameters), unconstrained.
        weights: (specimens, nodes).
        reasons: (specimens,) why a specimen has no draws; "" where it has.
        draws: of each specimen.
        generator: source of the draws; torch's own if None.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: a fit has no intervals, and therefore no draws.
    """
    az = _arviz()
    withheld = [curve.name for curve, reason in zip(curves, reasons, strict=True) if reason]
    if withheld:
        raise ValueError(f"no draws of {shortened(withheld)}: {next(filter(None, reasons))}")
    rows = torch.multinomial(weights, draws, replacement=True, generator=generator)  # (specimens, draws)
    drawn = nodes.gather(1, rows[..., None].expand(-1, -1, nodes.shape[-1]))
    values = law.constrain(dict(zip(law.names, drawn.unbind(-1), strict=True)))
    specimen = np.repeat(np.arange(len(curves)), [len(curve) for curve in curves])
    groups = {
        "posterior": {name: value.T.numpy()[None] for name, value in values.items()},
        "observed_data": {"y": np.concatenate([curve.y for curve in curves])},
        "constant_data": {"x": np.concatenate([curve.x for curve in curves]), "specimen_index": specimen},
    }
    labels = {
        "coords": {"specimen": [curve.name for curve in curves]},
        "dims": {**{name: ["specimen"] for name in values}, **{n: ["point"] for n in ("x", "y", "specimen_index")}},
    }
    old = hasattr(az, "InferenceData")
    result = az.from_dict(**groups, **labels) if old else az.from_dict(groups, **labels)
    for name, parameter in law.parameters.items():
        result["posterior"][name].attrs["units"] = parameter.unit
    for group, name, axis in (("constant_data", "x", law.x), ("observed_data", "y", law.y)):
        result[group][name].attrs.update(long_name=axis.name, units=axis.unit)
    return result


def _arviz() -> Any:
    """Return ArviZ, or its data package alone, or say how to have it."""
    try:
        import arviz  # pyright: ignore[reportMissingImports]
    except ImportError:
        try:
            import arviz_base as arviz  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("ArviZ is not installed; pip install arviz, or take draws by fit.sample(n)") from None
    return arviz
