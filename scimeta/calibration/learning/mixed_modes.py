"""A mixed model at the specimens' parameters, and the posterior modes of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.learning.mixed_model import UNIT, Blocks, Form, Problem, own_columns, own_root, variance_of

_DIFFERENCE = 1e-4  # of an unconstrained parameter, by which the common part's derivatives are taken
_DAMPING = 1e-4  # of the Gauss-Newton step at first, relative to the diagonal
_SHORTER = 10  # steps more for specimens whose steps were too long
_STILL = 1e-4  # of -2 log posterior: less gained is nothing


class Place(NamedTuple):
    """The law, and the columns of what it misses, at the specimens' parameters; all 0 at padding.

    Attributes:
        f, J, slow, phi, late: as :class:`Blocks`, J of the law alone.
        finite: (specimens,) True where the law is finite at all readings.
    """

    f: Tensor
    J: Tensor
    slow: Tensor
    phi: dict[str, Tensor]
    late: Tensor | None
    finite: Tensor


class Centre(NamedTuple):
    """What the parameters of a specimen are drawn from, the rest given.

    Attributes:
        mean: (specimens, fast).
        covariance: (fast, fast), or one a specimen.
        coefficients: of late start and common curve, for all or (specimens, some); None before they are known.
    """

    mean: Tensor
    covariance: Tensor
    coefficients: Tensor | None


class Judged(NamedTuple):
    """-2 log posterior (specimens,), and half its Gauss-Newton Hessian and descent direction."""

    value: Tensor
    hessian: Tensor
    descent: Tensor


def placed(problem: Problem, theta: Tensor, shared: Tensor) -> Place:
    """Return the law at theta (specimens, fast) and shared (shared,); 0 where it is not finite."""
    law, data = problem.law, problem.past.data
    slow_names = [name for name in law.names if name not in law.fast]
    values = dict(zip(law.fast, theta.unbind(-1), strict=True))
    values |= {name: v.expand(len(theta)) for name, v in zip(slow_names, shared, strict=True)}
    named = {name: values[name] for name in law.names}
    f, by = law.linearized(named, data.x)
    finite = (torch.isfinite(f) | ~data.mask).all(-1)
    J = torch.stack([by[name] for name in law.fast], -1)
    slow = torch.stack([by[name] for name in slow_names], -1) if slow_names else f.new_zeros(*f.shape, 0)
    f, J, slow = (part.nan_to_num(0.0, 0.0, 0.0) for part in (f, J, slow))
    late, mask = None, data.mask[..., None]
    if problem.step:
        moved = law.curve(named, (data.x - problem.step).clamp(min=0.0)) - f
        late = torch.where(data.mask, moved.nan_to_num(0.0, 0.0, 0.0), 0.0)
    phi = {}
    for name, one in problem.basis.items():
        columns = one.frame.columns(one.frame.placed(data.x, f, J, None))
        phi[name] = torch.where(mask, columns @ one.free, 0.0)
    return Place(f, torch.where(mask, J, 0.0), torch.where(mask, slow, 0.0), phi, late, finite)


def common_part(form: Form, place: Place, coefficients: Tensor | None) -> Tensor:
    """Return (specimens, points) what all specimens have in common beside the law: late start and curve."""
    if coefficients is None or not coefficients.shape[-1]:
        return torch.zeros_like(place.f)
    columns = [] if place.late is None else [place.late[..., None]]
    columns += [place.phi[form.common]] if form.common else []
    each = coefficients.expand(len(place.f), -1)
    return (torch.cat(columns, -1) @ each[..., None])[..., 0]


def slopes(
    problem: Problem, place: Place, at: Callable[[Tensor], Place], theta: Tensor, coefficients: Tensor | None
) -> Tensor:
    """Return (specimens, points, fast) derivatives of law and common part, those of the latter by differences."""
    if coefficients is None or not coefficients.shape[-1]:
        return place.J
    still, parts = common_part(problem.form, place, coefficients), []
    for unit in torch.eye(theta.shape[-1], dtype=UNIT):
        moved = common_part(problem.form, at(theta + _DIFFERENCE * unit), coefficients)
        parts.append((moved - still) / _DIFFERENCE)
    tilt = torch.stack(parts, -1).nan_to_num(0.0, 0.0, 0.0)
    return place.J + torch.where(problem.past.data.mask[..., None], tilt, 0.0)


def judged(problem: Problem, eta: Tensor, theta: Tensor, shared: Tensor, centre: Centre) -> Judged:
    """Return how well theta (specimens, fast) explains each specimen, own effects integrated out.

    sum log v + log|N| + r' V^-1 r + (theta - mean)' covariance^-1 (theta - mean),   infinite where it is not finite
    """
    data, form, own = problem.past.data, problem.form, own_root(problem, eta)
    place = placed(problem, theta, shared)
    whole = place.f + common_part(form, place, centre.coefficients)
    J = slopes(problem, place, lambda moved: placed(problem, moved, shared), theta, centre.coefficients)
    variance = variance_of(problem, eta, place.f)
    weight = torch.where(data.mask, 1.0 / variance, 0.0)
    r = _masked(data, data.y - whole)
    X = torch.cat([J, r[..., None]], -1)
    WX = weight[..., None] * X
    M, value = X.mT @ WX, _masked(data, variance.log()).sum(-1)
    if own is not None:
        root = torch.cat(own_columns(form, Blocks(r, *place[:5])), -1) @ own
        N = torch.eye(root.shape[-1], dtype=UNIT) + root.mT @ (weight[..., None] * root)
        factor = torch.linalg.cholesky(N)
        H = torch.linalg.solve_triangular(factor, root.mT @ WX, upper=False)
        M, value = M - H.mT @ H, value + 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    precision = torch.linalg.inv(centre.covariance)
    off = theta - centre.mean
    pull = (precision @ off[..., None])[..., 0]
    value = value + M[:, -1, -1] + (off * pull).sum(-1)
    value = torch.where(place.finite & torch.isfinite(value), value, torch.inf)
    return Judged(value, M[:, :-1, :-1] + precision, M[:, :-1, -1] - pull)


def modes(problem: Problem, eta: Tensor, theta: Tensor, shared: Tensor, centre: Centre, steps: int) -> Tensor:
    """Return (specimens, fast) posterior modes after so many damped Gauss-Newton steps from theta.

    A step counts where it does not lower the posterior and leads to a finite law; else the parameters stay, and shorter
    steps are tried, beyond ``steps`` too: a specimen whose first steps are too long would else stay for ever.
    """
    damp = torch.full((len(theta),), _DAMPING, dtype=UNIT)
    now = judged(problem, eta, theta, shared, centre)
    for turn in range(steps + _SHORTER):
        scaled = now.hessian + torch.diag_embed(damp[:, None] * now.hessian.diagonal(dim1=-2, dim2=-1))
        step = torch.linalg.solve_ex(scaled, now.descent[..., None])[0][..., 0]
        tried = theta + step.nan_to_num(0.0, 0.0, 0.0)
        new = judged(problem, eta, tried, shared, centre)
        good = torch.isfinite(new.value) & (new.value <= now.value)
        barred = bool((~good & ~(new.value <= now.value + _STILL)).any())
        moved = bool((good & (now.value - new.value > _STILL)).any())
        theta = torch.where(good[:, None], tried, theta)
        pairs = zip(new, now, strict=True)
        now = Judged(*(torch.where(good.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs))
        damp = torch.where(good, damp * 0.2, damp * 10.0).clamp(1e-9, 1e9)
        if (turn + 1 >= steps and not barred) or (not moved and (good.all() or damp.max() > 1e3)):
            break
    return theta


def _masked(data: Measured, values: Tensor) -> Tensor:
    """Return the values, 0 at padding."""
    return torch.where(data.mask, values, 0.0)
