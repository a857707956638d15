"""Where the learning of a prior begins: every specimen alone, under a wide prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import torch
from scipy import stats
from scipy.stats import qmc
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian
from scimeta.calibration.laws.checks import check_numbers
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.past import Past, regressed
from scimeta.calibration.posterior.posterior import posterior
from scimeta.core.inner_loop import gauss_newton

_NODES, _FEW_NODES = 4001, 1021  # tried for each specimen, few of a law that is dear or for many specimens
_KEPT, _AGAIN = 40, 25  # the best of them, and how often each of these is varied
_STARTS, _FEW_STARTS = 12, 4  # descents for each specimen
_REFERENCES = 8  # specimens whose solutions are tried on the others
_MANY = 50  # specimens
_WIDE = 5.0  # standard deviation of a positive parameter around its start, in e-folds
_MOST_PERMUTED = 6  # parameters among which symmetries are sought


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


def best_of_several(family: Family, points: Points) -> Tensor:
    """Return (specimens, parameters): where each specimen's points are fitted best, alike in all.

    Args:
        family: with all parameters the specimens' own.
        points: of the specimens, independent.
    """
    few = not family.law.pointwise or len(points.x) > _MANY
    starts = _scattered(family, points, _FEW_NODES if few else _NODES, _FEW_STARTS if few else _STARTS)
    modes, cost = _descended(family, points, starts)
    own, least = _pick(modes, cost)
    rows = torch.linspace(0, len(own) - 1, min(_REFERENCES, len(own))).round().long().unique()
    tried = torch.cat([own[:, None], own[rows].expand(len(own), -1, -1)], 1)
    modes, cost = _descended(family, points, tried)
    own, least = _pick(modes, cost)
    count = (points.inverse_sd > 0).sum(-1)
    together = (count[:, None] * cost[:, 1:].clamp(min=1e-300).log()).sum(0)  # -2 log likelihood, noises unknown
    nearest = 1 + int(together.nan_to_num(nan=torch.inf).argmin())
    alike = cost[:, nearest] <= 1.02 * least
    return _named_alike(family, points, torch.where(alike[:, None], modes[:, nearest], own))


def _pick(modes: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best mode of each specimen, (specimens, parameters), and its cost, (specimens,)."""
    least, which = cost.min(1)
    return modes[torch.arange(len(modes)), which], least


def _scattered(family: Family, points: Points, count: int, starts: int) -> Tensor:
    """Return (specimens, starts, parameters): the best of values scattered over all likely magnitudes."""
    own = len(family.law.names)
    cube = qmc.Halton(2 * own, scramble=False).random(count + 1)[1:]  # the first is a corner
    base, choice = torch.from_numpy(stats.t.ppf(cube[:, :own], 5.0)), torch.from_numpy(cube[:, own:])
    around = 0.7 * base[:_AGAIN]
    best = []
    for x, y, weight in zip(*points[:3], strict=True):

        def misfit(u: Tensor, x: Tensor = x, y: Tensor = y, weight: Tensor = weight) -> Tensor:
            return (((family.curve(u, x) - y) * weight) ** 2).sum(-1).nan_to_num(nan=torch.inf)

        nodes = _at_magnitudes(family, base, choice, x[weight > 0], y[weight > 0])
        good = nodes[misfit(nodes).topk(_KEPT, largest=False).indices]
        real = _real(family)
        size = torch.where(real, good.abs(), 1.0)
        varied = (good[:, None] + size[:, None] * around).flatten(0, 1)
        every = torch.cat([good, varied])
        every = every[: len(every) // starts * starts].reshape(-1, starts, own)  # each start the best of a batch
        which = misfit(every.flatten(0, 1)).reshape(-1, starts).argmin(0)
        best.append(every[which, torch.arange(starts)])
    return torch.stack(best)


def _at_magnitudes(family: Family, base: Tensor, choice: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return (nodes, parameters): Student's t around one, or around what the ranges of x and y suggest.

    Args:
        family: whose parameters.
        base: (nodes, parameters) standard nodes.
        choice: (nodes, parameters) of the unit cube: which magnitude each takes.
        x, y: (points,) of one specimen.
    """
    far, high = (float((v - v.min()).max().maximum(1e-3 * v.abs().max())) or 1.0 for v in (x, y))
    sizes = torch.tensor([1.0, high, far, 1.0 / far, high / far], dtype=torch.float64)
    size = sizes[(choice * len(sizes)).long()]
    supports = [parameter.support for parameter in family.law.parameters.values()]
    scaled = {"real": 1.5 * size * base, "positive": size.log() + 1.5 * base}
    return torch.stack([scaled.get(support, 2.0 * base)[:, i] for i, support in enumerate(supports)], 1)


def _real(family: Family) -> Tensor:
    """Return (parameters,) bool: those of either sign, in any unit."""
    return torch.tensor([parameter.support == "real" for parameter in family.law.parameters.values()])


def _descended(family: Family, points: Points, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Return where Levenberg-Marquardt descents end, (specimens, starts, parameters), and the costs there.

    The noise is that of the best start; a wide prior around its start keeps each finite.
    """
    names, (count, each, own) = family.law.names, starts.shape
    x, y, weight = (part.repeat_interleave(each, 0) for part in points[:3])
    centre = starts.reshape(-1, own)

    def cost(u: Tensor) -> Tensor:
        return (((family.curve(u, x) - y) * weight) ** 2).sum(-1).nan_to_num(nan=torch.inf).reshape(count, each)

    free = ((points.inverse_sd > 0).sum(-1) - own).clamp(min=1)
    noise = (cost(centre).min(1).values / free).clamp(min=1e-12).sqrt().repeat_interleave(each)
    sd = torch.where(_real(family), 1e4 * (1.0 + centre.abs()), _WIDE)

    def linearized(fast: dict[str, Tensor], slow: dict[str, Tensor], data: tuple) -> tuple[Tensor, Tensor]:
        x, y, weight, centre, sd = data
        u = torch.stack([fast[name] for name in names], -1)
        curve, by = family.linearized(u, x)
        jac = torch.stack([by[name] for name in names], -1) * weight[..., None]
        return torch.cat([(curve - y) * weight, (u - centre) / sd], -1), torch.cat([jac, torch.diag_embed(1.0 / sd)], 1)

    unknown = {name: centre[:, i] for i, name in enumerate(names)}
    data = (x, y, weight / noise[:, None], centre, sd)
    found = gauss_newton(None, unknown, data, linearized=linearized, tolerance=1e-3)
    modes = torch.stack([found.params[name] for name in names], -1)
    return modes.reshape(starts.shape), cost(modes)


def _named_alike(family: Family, points: Points, modes: Tensor) -> Tensor:
    """Return modes with parameters that can change places named alike, those most apart in descending order."""
    orders = _symmetries(family, points.x[0], modes[0])
    if len(orders) == 1:
        return modes
    moved = (orders != orders[0]).any(0)
    middle = modes.median(0).values
    for _ in range(3):
        every = modes[:, orders]  # (specimens, orders, parameters)
        away = (every - middle).abs()[..., moved].sum(-1)
        modes = every[torch.arange(len(modes)), away.argmin(1)]
        middle = modes.median(0).values
    groups = {tuple(sorted(set(column))): middle[sorted(set(column))] for column in orders.T.tolist()}
    apart = list(max(groups, key=lambda group: float(groups[group].max() - groups[group].min())))
    weight = torch.arange(len(apart), 0, -1, dtype=torch.float64)
    best = (middle[orders][:, apart] * weight).sum(-1).argmax()
    return modes[:, orders[best]]


def _symmetries(family: Family, x: Tensor, u: Tensor) -> Tensor:
    """Return (orders, parameters): the permutations of the parameters that leave the curve as it is, none first."""
    supports = [parameter.support for parameter in family.law.parameters.values()]
    if len(u) > _MOST_PERMUTED:
        return torch.arange(len(u))[None]
    same = [
        order for order in permutations(range(len(u))) if all(supports[i] == supports[j] for i, j in enumerate(order))
    ]
    orders = torch.tensor(same)
    shifted = torch.stack([u, u + 0.3 * torch.cos(torch.arange(len(u)) + 1.0)])  # by chance two may agree at one place
    curves = family.curve(shifted[:, orders], x)  # (2, orders, points)
    near = (curves - curves[:, :1]).abs().amax(-1) <= 1e-9 * curves[:, :1].abs().amax(-1)
    near[:, 0] = True  # whatever the law says there
    return orders[near.all(0)]
