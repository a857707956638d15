"""Learning a prior's means for the score that matters: that of points not yet seen, after the fit to those seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from scimeta.calibration.data.points import Measured, Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian, Mixture
from scimeta.calibration.posterior.modes import posterior_modes
from scimeta.core.inner_loop import Adaptation
from scimeta.core.learners import MetaLearner
from scimeta.core.rules import Meta, sgd
from scimeta.core.tasks import Params, Task, select_tasks
from scimeta.core.train import meta_train

_ROUNDS, _POOL = 2, 256  # linearisations anew, and tasks drawn for each
_STEPS, _TASKS, _LR = 40, 32, 0.06  # outer steps of a round; the last in standard deviations


class Seen(NamedTuple):
    """A specimen's points, of which some are seen and others judge.

    Attributes:
        x, y: (points,).
        inverse_sd: (points,) 1 / standard deviation of the points seen; 0 of all others.
        design: (regressors,).
        judges: (points,) weight of each point not seen in the score; sums to 1.
        sd: (points,) standard deviation of a measurement.
    """

    x: Tensor
    y: Tensor
    inverse_sd: Tensor
    design: Tensor
    judges: Tensor
    sd: Tensor


def move_means(family: Family, data: Measured, design: Tensor, seed: int = 0) -> Tensor:
    """Return the coefficients whose means give the best score of held-out points of the past.

    The score is the continuous ranked probability score of the points left out, after the fit to random points (and to
    first points) of the same specimen: MAML with a converged inner solve. Spreads and noise are held: moved along, they
    would shrink to what these few specimens happen to need.

    Args:
        family: of one component and of even noise around the law, as wide as a new specimen is expected to spread:
            where the learning starts.
        data: the past specimens.
        design: (specimens, regressors).
        seed: of the points drawn.

    Reference: Gneiting, Raftery, J. Am. Stat. Assoc. 102, 359 (2007); Finn, Abbeel, Levine, ICML 2017.
    """
    generator = torch.Generator().manual_seed(seed)
    for count in range(_ROUNDS):
        rows = torch.randint(len(data.x), (_POOL,), generator=generator)
        pool = solved(family, split_points(family, data, design, rows, generator))
        lr = _LR / (1 + count)
        trained = meta_train(
            predictive(family),
            lambda number, generator, pool=pool: select_tasks(
                pool, torch.randint(_POOL, (number,), generator=generator)
            ),
            steps=_STEPS,
            tasks_per_step=_TASKS,
            lr=lr,
            scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 1.0 - step / _STEPS),
            learn=("init.coefficients",),
            generator=generator,
        )
        family = replace(family, coefficients=_means(family, trained.meta.init)[None])
    return family.coefficients[0]


def predictive(family: Family) -> MetaLearner:
    """Return the meta-learner of the means.

    A specimen's own parameters ("point") are fast and solved for to convergence before the round; the score is
    differentiated through one more Gauss-Newton step from there, which is exact for the law linearised at the solution.
    """
    precision = torch.linalg.inv(family.covariances[0])
    start = {
        "coefficients": torch.zeros_like(family.coefficients[0]),
        "point": family.coefficients[0, 0].clone(),
    }

    def loss(params: Params, seen: Seen) -> Tensor:
        coefficients = _means(family, params)
        r = (seen.y - _curve(family, params["point"], seen.x)) * seen.inverse_sd
        away = params["point"] - seen.design @ coefficients
        return 0.5 * (r @ r + away @ precision @ away)

    def score(params: Params, query: tuple[Seen, Line]) -> Tensor:
        return judged(family, params, *query)

    def meta_gradient(meta: Meta, task: Task, step: int = 0) -> tuple[Tensor, Meta]:
        with torch.enable_grad():
            moving = meta.init["coefficients"].detach().clone().requires_grad_()
            losses = judged(family, {"coefficients": moving}, *task.query)
            (gradient,) = torch.autograd.grad(losses.mean(), moving)
        return losses.detach(), Meta({"coefficients": gradient, "point": torch.zeros_like(meta.init["point"])}, {})

    adaptation = Adaptation(loss, sgd(0.0), 1, ("point",))
    return MetaLearner(f"predictive prior of {family.law.name}", Meta(start, {}), adaptation, meta_gradient, score)


class Line(NamedTuple):
    """The law linearised at one place for each task.

    Attributes:
        point: (..., fast).
        curve: (..., points) the law there.
        slope: (..., points, fast) its derivatives.
    """

    point: Tensor
    curve: Tensor
    slope: Tensor


def solved(family: Family, seen: Seen) -> Task:
    """Return tasks whose queries carry the law linearised at their most probable parameters; all with a task axis."""
    points = Points.plain(seen.x, seen.y, seen.inverse_sd)
    prior = Mixture.of(Gaussian(seen.design @ family.coefficients[0], family.covariances[0]))
    point = posterior_modes(family, prior, points, None).mode
    curve, by = family.linearized(point, seen.x)
    return Task(seen, (seen, Line(point, curve, torch.stack([by[name] for name in family.law.fast], -1))))


def _means(family: Family, moved: Params) -> Tensor:
    """Return coefficients at these moves, which are in standard deviations."""
    return family.coefficients[0] + moved["coefficients"] * family.covariances[0].diagonal().sqrt()


def judged(family: Family, moved: Params, seen: Seen, line: Line) -> Tensor:
    """Return (...,) the score of the points not seen, in units of the noise; less is better."""
    mean, sd = predicted(family, moved, seen, line)
    return (crps(mean, sd, seen.y) * seen.judges).sum(-1) / family.noise


def predicted(family: Family, moved: Params, seen: Seen, line: Line) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of a measurement at every point, (..., points) each.

    The law linearised, theta is Gaussian, given the points seen.
    """
    coefficients = _means(family, moved)
    spread, sensitivity = family.covariances[0], line.slope
    step = (seen.design @ coefficients - line.point)[..., None]
    expected = line.curve + (line.slope @ step)[..., 0]
    white = sensitivity * seen.inverse_sd[..., None]
    own = torch.eye(seen.x.shape[-1], dtype=white.dtype) + white @ spread @ white.mT
    gain = torch.linalg.solve(own, white @ spread).mT  # (..., unknowns, points)
    found = gain @ ((seen.y - expected) * seen.inverse_sd)[..., None]
    left = spread - gain @ white @ spread
    variance = ((sensitivity @ left) * sensitivity).sum(-1).clamp(min=0.0)
    return expected + (sensitivity @ found)[..., 0], (variance + seen.sd**2).sqrt()


def crps(mean: Tensor, sd: Tensor, y: Tensor) -> Tensor:
    """Return the continuous ranked probability score of Gaussian predictions, in the unit of y; less is better.

    >>> round(float(crps(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0))), 4)
    0.2337
    """
    z = (y - mean) / sd
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return sd * (z * torch.erf(z / math.sqrt(2.0)) + 2.0 * density - 1.0 / math.sqrt(math.pi))


def split_points(family: Family, data: Measured, design: Tensor, rows: Tensor, generator: torch.Generator) -> Seen:
    """Return one task for each of these specimens: some of its points seen, its first ones in every other task.

    Specimens of a single point judge by it without seeing any.
    """
    mask = data.mask[rows]
    x = torch.where(mask, data.x[rows], torch.inf)
    rank = torch.rand(x.shape, generator=generator, dtype=x.dtype)
    first = torch.rand(len(rows), 1, generator=generator) < 0.5
    order = torch.where(mask, torch.where(first, x.argsort(-1).argsort(-1).to(x.dtype), rank), torch.inf)
    place = order.argsort(-1).argsort(-1)  # 0 for the point that is seen first
    count = mask.sum(-1, keepdim=True)
    share = torch.rand(len(rows), 1, generator=generator, dtype=x.dtype)
    seen = (place < 1 + (share * (count - 1).clamp(min=0)).floor().clamp(max=count - 2)) & mask
    judges = (mask & ~seen).to(x.dtype)
    points = data.points(family.noise)
    sd = torch.where(mask, 1.0 / points.inverse_sd[rows], 1.0).nan_to_num(posinf=1.0)
    inverse_sd = torch.where(seen, points.inverse_sd[rows], 0.0)
    judges = judges / judges.sum(-1, keepdim=True).clamp(min=1.0)
    return Seen(data.x[rows], data.y[rows], inverse_sd, design[rows], judges, sd)


def scores(family: Family, data: Measured, design: Tensor, repeats: int = 8, seed: int = 1) -> Tensor:
    """Return (specimens,) the score of each specimen's held-out points, mean over several draws of what is seen."""
    still = predictive(family).meta.init
    rows = torch.arange(len(data.x)).repeat_interleave(repeats)
    task = solved(family, split_points(family, data, design, rows, torch.Generator().manual_seed(seed)))
    losses = judged(family, still, *task.query)
    return losses.reshape(len(data.x), repeats).mean(1) * family.noise  # in the unit of y


def _curve(family: Family, point: Tensor, x: Tensor) -> Tensor:
    """Return what is predicted at one specimen's own parameters: (points,)."""
    return family.law.fn(x, **family.law.constrain(family.parameters(point)))
