"""Where the learning of a prior begins: every specimen alone, under a wide prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian
from scimeta.calibration.laws.checks import check_numbers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.past import Past, regressed
from scimeta.calibration.learning.several_starts import best_of_several
from scimeta.calibration.posterior.posterior import posterior


def first_family(law: Law, past: Past, curves: Sequence[Curve]) -> tuple[Tensor, Family]:
    """Return posterior modes under a wide prior, and the family that they suggest.

    Every specimen is first given all parameters as its own; the shared ones start from the medians.
    """
    data, design = past.data, past.design
    fast = law.fast
    free = replace(law, parameters={n: replace(p, shared=False) for n, p in law.parameters.items()})
    alone = Family.gaussian(free, np.zeros((1, len(law.names))), np.eye(len(law.names)), 1.0)
    spread = max(float(data.y[data.mask].std(correction=0)), 1e-300)
    points = data.points(0.1 * spread)
    start = best_of_several(alone, points) if law.first_guess is None else _guessed(free, law.first_guess, curves)
    finite = torch.isfinite(alone.curve(start, data.x)).all(-1)
    if not finite.all():
        name = curves[int(finite.byte().argmin())].name
        raise ValueError(f"law {law.name} is not finite at specimen {name!r} for any values tried; check fn")
    check_numbers(free, dict(zip(law.names, start.T, strict=True)), {}, data.x)
    real = torch.tensor([parameter.support == "real" for parameter in law.parameters.values()])
    sd = torch.where(real, 1e4 * (1.0 + start.abs().max(0).values), 2.0)  # a real parameter may have any magnitude
    every = start
    if law.first_guess is not None:
        found = posterior(alone, Gaussian(start, torch.diag(sd**2)), points, start=start, nodes=1)
        every = _alike(alone, torch.where(found.converged[:, None], found.mode, start), points)
    shared = {n: every[:, i].median() for i, n in enumerate(law.names) if n not in fast}
    mode = every[:, [i for i, name in enumerate(law.names) if name in fast]]
    coefficients = regressed(design, mode)
    coefficients[0] += (mode - design @ coefficients).median(0).values
    deviation = (mode - design @ coefficients).abs().median(0).values / 0.6745
    floor = torch.where(real[[n in fast for n in law.names]], 1e-3 * mode.abs().max(0).values, 0.05)
    covariance = torch.diag((2.0 * deviation).maximum(floor).clamp(min=1e-12) ** 2)
    own = {name: (mode[:, i], deviation[i]) for i, name in enumerate(fast)}
    check_numbers(
        free, {**shared, **{n: m for n, (m, _) in own.items()}}, {n: sd for n, (_, sd) in own.items()}, data.x
    )
    begin = Family.gaussian(law, coefficients.numpy(), covariance.numpy(), 1.0)
    begin = replace(begin, shared=shared, shared_errors=dict.fromkeys(shared, np.inf))
    r = (begin.curve(mode, data.x) - data.y) * data.mask
    noise = float((r * r).sum(-1).median() / data.mask.sum(-1).double().median()) ** 0.5
    return mode, replace(begin, noise=max(noise, 1e-4 * spread))


def _alike(family: Family, modes: Tensor, points: Points) -> Tensor:
    """Return modes among which two rates that can change places have not done so in some specimens and not in others.

    Every specimen is fitted again from that one which is nearest to the median; where this fits as well, it counts.
    """
    away = (modes - modes.median(0).values).abs()
    nearest = (away / away.median(0).values.clamp(min=1e-12)).sum(-1).argmin()
    start = modes[nearest].expand_as(modes)
    spread = (5.0 * away.median(0).values).clamp(min=2.0)
    again = posterior(family, Gaussian(start, torch.diag(spread**2)), points, start=start, nodes=1)

    def left(u: Tensor) -> Tensor:
        return points.whitened(family.curve(u, points.x) - points.y).square().sum(-1).nan_to_num(nan=torch.inf)

    good = again.converged & (left(again.mode) <= 1.02 * left(modes))
    return torch.where(good[:, None], again.mode, modes)


def _guessed(law: Law, first_guess: Callable[..., Mapping[str, float]], curves: Sequence[Curve]) -> Tensor:
    """Return (specimens, parameters): the law's first guess at every specimen."""
    guesses = [first_guess(curve.x, curve.y) for curve in curves]
    free = law.unconstrain({n: torch.tensor([g[n] for g in guesses], dtype=torch.float64) for n in law.names})
    return torch.stack(list(free.values()), -1)
