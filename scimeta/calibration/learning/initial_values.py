"""Where the learning of a prior begins: every specimen alone, under a wide prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.mixture import Gaussian
from scimeta.calibration.laws.checks import check_numbers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.population import Modes, Past, Population, curves_at, regressed
from scimeta.calibration.nodes import student_nodes
from scimeta.calibration.posterior.posterior import posterior


def first_population(past: Past, curves: Sequence[Curve]) -> tuple[Tensor, Population]:
    """Return modes under a wide prior, and the population that they suggest.

    Every specimen is first given all parameters as its own; the shared ones start from the medians.
    """
    data, design = past.data, past.design
    law = replace(past.law, parameters={n: replace(p, shared=False) for n, p in past.law.parameters.items()})
    spread = max(float(data.y[data.mask].std(correction=0)), 1e-300)
    points = data.points(0.1 * spread)
    start = _search(law, points) if law.first_guess is None else _guessed(law, curves)
    finite = torch.isfinite(curves_at(law, start, {}, data.x)).all(-1)
    if not finite.all():
        name = curves[int(finite.byte().argmin())].name
        raise ValueError(f"law {law.name} is not finite at specimen {name!r} for any values tried; check fn")
    check_numbers(law, dict(zip(law.names, start.T, strict=True)), {}, data.x)
    real = torch.tensor([parameter.support == "real" for parameter in law.parameters.values()])
    sd = torch.where(real, 1e4 * (1.0 + start.abs().max(0).values), 2.0)  # a real parameter may have any magnitude
    found = posterior(law, Gaussian(start, torch.diag(sd**2)), {}, points, start=start, nodes=1)
    every = _alike(law, torch.where(found.converged[:, None], found.mode, start), points)
    shared = {n: every[:, i].median() for i, n in enumerate(law.names) if n not in past.law.fast}
    mode = every[:, [i for i, name in enumerate(law.names) if name in past.law.fast]]
    coefficients = regressed(design, mode)
    coefficients[0] += (mode - design @ coefficients).median(0).values
    deviation = (mode - design @ coefficients).abs().median(0).values / 0.6745
    floor = torch.where(real[[n in past.law.fast for n in law.names]], 1e-3 * mode.abs().max(0).values, 0.05)
    covariance = torch.diag((2.0 * deviation).maximum(floor).clamp(min=1e-12) ** 2)
    own = {name: (mode[:, i], deviation[i]) for i, name in enumerate(past.law.fast)}
    check_numbers(law, {**shared, **{n: m for n, (m, _) in own.items()}}, {n: sd for n, (_, sd) in own.items()}, data.x)
    r = (curves_at(past.law, mode, shared, data.x) - data.y) * data.mask
    noise = float((r * r).sum(-1).median() / data.mask.sum(-1).double().median()) ** 0.5
    errors = dict.fromkeys(shared, np.inf)
    modes = Modes(torch.ones(1, dtype=mode.dtype), coefficients[None], covariance[None])
    return mode, Population(modes, max(noise, 1e-4 * spread), shared, errors)


def _alike(law: Law, modes: Tensor, points: Points) -> Tensor:
    """Return modes among which two rates that can change places have not done so in some specimens and not in others.

    Every specimen is fitted again from that one which is nearest to the median; where this fits as well, it counts.
    """
    away = (modes - modes.median(0).values).abs()
    nearest = (away / away.median(0).values.clamp(min=1e-12)).sum(-1).argmin()
    start = modes[nearest].expand_as(modes)
    spread = (5.0 * away.median(0).values).clamp(min=2.0)
    again = posterior(law, Gaussian(start, torch.diag(spread**2)), {}, points, start=start, nodes=1)

    def left(u: Tensor) -> Tensor:
        return points.whitened(curves_at(law, u, {}, points.x) - points.y).square().sum(-1).nan_to_num(nan=torch.inf)

    good = again.converged & (left(again.mode) <= 1.02 * left(modes))
    return torch.where(good[:, None], again.mode, modes)


def _guessed(law: Law, curves: Sequence[Curve]) -> Tensor:
    """Return (specimens, parameters): the law's first guess at every specimen."""
    guesses = [law.first_guess(curve.x, curve.y) for curve in curves]
    free = law.unconstrain({n: torch.tensor([g[n] for g in guesses], dtype=torch.float64) for n in law.names})
    return torch.stack(list(free.values()), -1)


def _search(law: Law, points: Points) -> Tensor:
    """Return (specimens, parameters): the best of widely scattered values, for a law without a first guess."""
    nodes = 2.0 * student_nodes(1021, len(law.names))[0]
    best = []
    for x, y, weight in zip(*points, strict=True):
        misfit = (((curves_at(law, nodes, {}, x) - y) * weight) ** 2).sum(-1)
        best.append(nodes[misfit.nan_to_num(nan=torch.inf).argmin()])
    return torch.stack(best)
