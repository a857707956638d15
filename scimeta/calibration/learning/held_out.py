"""How well a mixed model predicts specimens and groups that were left out, from some of their readings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.learning.mixed_model import (
    UNIT,
    Blocks,
    Mixed,
    MixedPast,
    fixed_columns,
    own_columns,
    own_root,
    variance_of,
)
from scimeta.calibration.learning.mixed_modes import Centre, common_part, modes, placed, slopes
from scimeta.calibration.learning.restricted_likelihood import by_group, columns_of, solved, summarised

FOLDS = 10  # of specimens, where there are no groups to leave out
_DOF = 4.0  # of the Student t by which predictions are judged
_PEAK = float(stats.t.logpdf(0.0, _DOF))
_STEPS = 8  # of the search for the mode by the readings seen


class Others(NamedTuple):
    """What the other folds say of each specimen's fixed numbers.

    Attributes:
        mean: (specimens, fast) of the parameters.
        coefficients: (specimens, some) of late start and common curve.
        covariance: (specimens, fixed, fixed) of all fixed numbers.
        lift: (specimens, fast and more, fixed) the family's fixed numbers -> those of one specimen.
    """

    mean: Tensor
    coefficients: Tensor
    covariance: Tensor
    lift: Tensor


class Predicted(NamedTuple):
    """Later readings by those seen: residuals and variances (specimens, points), and which are later."""

    off: Tensor
    variance: Tensor
    later: Tensor


def held_out(mixed: Mixed) -> Tensor:
    """Return (specimens, 4) mean log density of later readings, each alone, given those seen at four cuts.

    Every group (or fold of specimens) is left out in turn: the mean's coefficients and the common curve are those of
    the others; the few variances, and shared parameters, are those of all. The mode of a specimen is that of the
    readings seen, and the law is linearised there. The density is Student's t, scaled by the predicted standard
    deviation: where few readings are seen a straight law may be far off, and no specimen is to decide alone.
    """
    scores = []
    for found in predictions(mixed):
        square = found.off**2 / found.variance
        each = _PEAK - 0.5 * (_DOF + 1.0) * torch.log1p(square / _DOF) - 0.5 * found.variance.log()
        count = found.later.sum(-1).clamp(min=1)
        scores.append(torch.where(found.later, each, 0.0).sum(-1) / count)
    return torch.stack(scores, -1)


def coverage(mixed: Mixed, level: float = 0.9) -> Tensor:
    """Return (groups,) the share of later readings inside their predictive interval, each group left out in turn.

    Args:
        mixed: as it was learned.
        level: of the interval, which is pointwise and Gaussian.
    Returns: the share over the four cuts of :func:`held_out` together, at the place of the group's number (or of the
        fold's, without groups, as :func:`fold_labels`); NaN where it has no later reading.
    """
    labels, half = fold_labels(mixed.problem.past), float(stats.norm.isf(0.5 * (1.0 - level)))
    inside, of = torch.zeros(2, int(labels.max()) + 1, dtype=UNIT)
    for found in predictions(mixed):
        held = found.later & (found.off.abs() <= half * found.variance.sqrt())
        inside, of = (sums.index_add(0, labels, n.sum(-1).to(UNIT)) for sums, n in ((inside, held), (of, found.later)))
    return inside / of


def fold_labels(past: MixedPast) -> Tensor:
    """Return (specimens,) the groups if there are two or more, else folds of specimens."""
    if past.group is not None and past.groups >= 2:
        return past.group
    return torch.arange(len(past.design)) % min(FOLDS, len(past.design))


def predictions(mixed: Mixed) -> Iterator[Predicted]:
    """Yield what is predicted of the readings that are not seen, for each set of readings that is."""
    past = mixed.problem.past
    with torch.no_grad():
        others = left_out(mixed)
        for seen in seen_sets(past.data, mixed.layout.fast):
            covariance, e = readings(mixed, others, seen)
            off, variance = given_seen(covariance, e, seen)
            yield Predicted(off, variance, past.data.mask & ~seen)


def left_out(mixed: Mixed) -> Others:
    """Return what the other folds say of each specimen, in closed form."""
    problem, past, eta = mixed.problem, mixed.problem.past, mixed.eta
    labels, (p, fast) = fold_labels(past), mixed.beta.shape
    columns = columns_of(problem, mixed.blocks)
    units, _, _ = by_group(problem, eta, summarised(problem, eta, mixed.blocks, columns)[0], columns.lift)
    if not mixed.form.groups:
        units = torch.zeros(int(labels.max()) + 1, *units.shape[1:], dtype=UNIT).index_add(0, labels, units)
    total = units.sum(0)
    every = solved(problem, eta, total).fixed
    some = [solved(problem, eta, total - unit) for unit in units]
    fixed = torch.stack([one.fixed for one in some])[labels]  # (specimens, fixed)
    covariance = torch.stack([one.covariance for one in some])[labels]
    beta = mixed.beta + (fixed - every)[:, : p * fast].reshape(-1, fast, p).mT
    mean = (past.design[:, None] @ beta)[:, 0]
    return Others(mean, fixed[:, p * fast + len(mixed.shared) :], covariance, columns.lift[..., :-1, :-1])


def readings(mixed: Mixed, others: Others, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the covariance (specimens, points, points) of all readings, and these less their mean.

    The law is linearised at the mode by the readings seen.
    """
    problem, eta, data = mixed.problem, mixed.eta, mixed.problem.past.data
    spread = mixed.own_covariance
    spread = spread if mixed.group_covariance is None else spread + mixed.group_covariance
    blind = problem._replace(past=problem.past._replace(data=data._replace(mask=seen)))
    centre = Centre(others.mean, spread, others.coefficients)
    theta = modes(blind, eta, mixed.theta, mixed.shared, centre, _STEPS)
    place = placed(problem, theta, mixed.shared)
    J = slopes(problem, place, lambda moved: placed(problem, moved, mixed.shared), theta, others.coefficients)
    expected = place.f + common_part(mixed.form, place, others.coefficients)
    e = data.y - expected + (J @ (theta - others.mean)[..., None])[..., 0]
    blocks = Blocks(e, place.f, J, place.slow, place.phi, place.late)
    X = torch.cat([J, *fixed_columns(mixed.form, blocks)], -1) @ others.lift
    covariance, own = J @ spread @ J.mT + X @ others.covariance @ X.mT, own_root(problem, eta)
    if own is not None:
        root = torch.cat(own_columns(mixed.form, blocks), -1) @ own
        covariance = covariance + root @ root.mT
    variance = torch.where(data.mask, variance_of(problem, eta, place.f), 1.0)
    return covariance + torch.diag_embed(variance), torch.where(data.mask, e, 0.0)


def seen_sets(data: Measured, fast: int) -> list[Tensor]:
    """Return masks (specimens, points) of readings taken for seen: a few spread out, the first few, quarter, half."""
    order = torch.where(data.mask, data.x, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    points = data.mask.sum(-1, keepdim=True)
    spread = torch.zeros_like(data.mask)
    for k in range(fast + 1):
        spread |= order == ((k + 0.5) * points / (fast + 1)).floor().long()
    few = points.clamp(max=fast + 2) - 1
    cuts = [few, ((points + 3) // 4).clamp(min=fast), (points + 1) // 2]
    return [spread & data.mask, *[(order < cut) & data.mask for cut in cuts]]


def given_seen(covariance: Tensor, e: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return (specimens, points) residuals and variances given the readings seen, of Gaussian ones with mean 0."""
    both = seen[:, :, None] & seen[:, None]
    inner = torch.where(both, covariance, 0.0) + torch.diag_embed(torch.where(seen, 0.0, 1.0).to(UNIT))
    root = torch.linalg.cholesky_ex(inner)[0]
    white = torch.linalg.solve_triangular(root, torch.where(seen, e, 0.0)[..., None], upper=False)
    across = torch.linalg.solve_triangular(root, torch.where(seen[:, :, None], covariance, 0.0), upper=False)
    mean = (across.mT @ white)[..., 0]
    return e - mean, covariance.diagonal(dim1=-2, dim2=-1) - (across**2).sum(-2)
