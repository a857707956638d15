"""The restricted likelihood of a linear mixed model, and the few numbers that maximise it.

With V_i the covariance of specimen i's readings, own effects integrated out, and X_i = (J_i z_i, shared, start, curve),

    -2 log L = sum log|V_i| + log|A| - log|P| + sum r_i' V_i^-1 r_i - b' A b
    A = sum X_i' V_i^-1 X_i + P,   A b = sum X_i' V_i^-1 r_i

where b are the fixed numbers by generalised least squares and P is the prior precision of the common curve. Groups are
integrated out on the way from specimens to the sum.

Reference: Lindstrom, Bates, Biometrics 46, 673 (1990); Patterson, Thompson, Biometrika 58, 545 (1971).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scimeta.calibration.learning.mixed_model import (
    UNIT,
    Blocks,
    Layout,
    Mixed,
    MixedPast,
    Problem,
    fixed_columns,
    own_columns,
    own_root,
    variance_of,
)

LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
_SMALL = 0.1  # of the largest |y|: a discrepancy is not expected to be larger
_MOST = 0.1  # of the largest |y|: nor may it be, one that is being a law that is wrong
_LENGTH, _LENGTH_SPREAD = 0.3, 0.5  # of the kernel over the knots' order, and how far its logarithm is from there
_POWER, _POWER_SPREAD = 0.5, 0.5  # of the error model, and how far it is from there
_GROUP_PULL = 0.125  # on the square of the groups' standard deviations over the specimens'
_RIDGE = 1e-12  # on a diagonal of ones: regressors that say the same are shared between them
_NOTHING = 1e-100  # of information on a fixed number: less is none, and rounding decides its sign
_FIRST = {"length": _LENGTH, "common": 0.05, "own": 0.03, "clock": 0.1}  # where the search begins
_RANGE = {"length": (0.1, 1.5), "common": (1e-4, _MOST), "own": (1e-4, _MOST), "clock": (1e-3, 2.0)}
_MEMORY = 12  # steps that L-BFGS remembers
_IMPOSSIBLE = 1e10  # what a likelihood that cannot be computed counts as


class Products(NamedTuple):
    """Weighted cross products of a specimen's columns: Z of its own effects, X of the fixed numbers and r."""

    zz: Tensor
    zx: Tensor
    xx: Tensor


class Columns(NamedTuple):
    """The columns of the linearised family, with what does not depend on the numbers sought.

    Attributes:
        Z: (specimens, points, effects) of J and own coefficients.
        X: (specimens, points, fixed + 1) of J, shared parameters, late start, common curve, and r.
        given: cross products of readings that have their own sigma.
        free: those of the others, unweighted.
        lift: (specimens, fast + extra + 1, fixed + 1) as :func:`lifted`.
    """

    Z: Tensor
    X: Tensor
    given: Products
    free: Products
    lift: Tensor


class Groups(NamedTuple):
    """How the groups' own effects follow: their factor, that of what is known of them, the projection."""

    factor: Tensor
    known: Tensor
    projected: Tensor


class Solution(NamedTuple):
    """The fixed numbers by generalised least squares, A b = a with A = (d d')^-1 * factor factor'.

    Attributes:
        factor: (m, m) lower triangular.
        d: (m,).
        half: (m, 1) inverse of the factor times d a.
        logs: their part of -2 log L.
    """

    factor: Tensor
    d: Tensor
    half: Tensor
    logs: Tensor

    @property
    def fixed(self) -> Tensor:
        """(m,) the fixed numbers b."""
        return self.d * torch.linalg.solve_triangular(self.factor.mT, self.half, upper=True)[:, 0]

    @property
    def covariance(self) -> Tensor:
        """(m, m) of the fixed numbers."""
        return self.d[:, None] * torch.cholesky_inverse(self.factor) * self.d


class Reduced(NamedTuple):
    """The restricted likelihood at some numbers, and what was integrated over.

    Attributes:
        nll: minus its logarithm, with the priors of the few numbers.
        fixed: (m,) fixed numbers: coefficients (parameter by parameter), shared, start, common curve.
        covariance: (m, m) of the same.
        group: (groups, fast) effects of the groups; None without.
    """

    nll: Tensor
    fixed: Tensor
    covariance: Tensor
    group: Tensor | None


def cross(Z: Tensor, X: Tensor, weight: Tensor) -> Products:
    """Return the cross products with weights (specimens, points)."""
    WX = weight[..., None] * X
    return Products(Z.mT @ (weight[..., None] * Z), Z.mT @ WX, X.mT @ WX)


def columns_of(problem: Problem, blocks: Blocks) -> Columns:
    """Return the columns of the linearised family."""
    form, data = problem.form, problem.past.data
    Z = torch.cat([blocks.J, *own_columns(form, blocks)], -1)
    X = torch.cat([blocks.J, *fixed_columns(form, blocks), blocks.r[..., None]], -1)
    given = torch.where(data.given, data.sigma.nan_to_num(1.0) ** -2, 0.0)
    free = (data.mask & ~data.given).to(UNIT)
    fast = problem.layout.fast
    lift = lifted(problem.past, fast, X.shape[-1] - fast - 1)
    return Columns(Z, X, cross(Z, X, given), cross(Z, X, free), lift)


def lifted(past: MixedPast, fast: int, extra: int) -> Tensor:
    """Return (specimens, fast + extra + 1, m + 1): the family's fixed numbers (and r) -> those of one specimen."""
    count, p = past.design.shape
    lift = torch.zeros(count, fast + extra + 1, fast * p + extra + 1, dtype=UNIT)
    for i in range(fast):
        lift[:, i, i * p : (i + 1) * p] = past.design
    lift[:, fast:, fast * p :] = torch.eye(extra + 1, dtype=UNIT)
    return lift


def summarised(problem: Problem, eta: Tensor, blocks: Blocks, columns: Columns) -> tuple[Tensor, Tensor]:
    """Return (specimens, k, k) X' V^-1 X, own effects integrated out, and (specimens,) log|V|.

    V = W^-1 + Z L L' Z', so that X' V^-1 X = X'WX - H'H with N H = L'Z'WX and N = 1 + L'Z'WZL, both by its root.
    """
    data, own = problem.past.data, own_root(problem, eta)
    variance = variance_of(problem, eta, blocks.f)
    if problem.form.noise == "constant":
        weight = (-2.0 * eta[problem.layout.at["noise"]][0]).exp()
        zz, zx, xx = (a + weight * b for a, b in zip(columns.given, columns.free, strict=True))
    else:
        zz, zx, xx = cross(columns.Z, columns.X, torch.where(data.mask, 1.0 / variance, 0.0))
    logs = torch.where(data.mask, variance.log(), 0.0).sum(-1)
    root = problem.layout.factor(eta, "own_covariance")
    root = root if own is None else torch.block_diag(root, own)
    N = torch.eye(root.shape[-1], dtype=UNIT) + root.T @ zz @ root
    factor = torch.linalg.cholesky(N)
    H = torch.linalg.solve_triangular(factor, root.T @ zx, upper=False)
    return xx - H.mT @ H, logs + 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def by_group(problem: Problem, eta: Tensor, M: Tensor, lift: Tensor) -> tuple[Tensor, Tensor, Groups | None]:
    """Return what each group (or specimen) says of the fixed numbers, (units, m + 1, m + 1), and its log determinant.

    The groups' own effects on the parameters are integrated out, as the specimens' own were.
    """
    fast, past = problem.layout.fast, problem.past
    if not problem.form.groups:
        alone = past.design.shape[1] == 1  # the regressor is 1 then, and the lift the identity
        return M if alone else lift.mT @ M @ lift, torch.zeros((), dtype=UNIT), None
    if past.group is None:
        raise ValueError("a covariance between groups needs the group of every specimen; got none")
    root = problem.layout.factor(eta, "group_covariance")
    bring = torch.eye(M.shape[-1], fast, dtype=UNIT).expand(len(lift), -1, -1)
    lift = torch.cat([bring, lift], -1)
    each = lift.mT @ M @ lift
    big = torch.zeros(past.groups, *each.shape[1:], dtype=UNIT).index_add(0, past.group, each)
    known = torch.linalg.cholesky(torch.eye(fast, dtype=UNIT) + root.T @ big[:, :fast, :fast] @ root)
    H = torch.linalg.solve_triangular(known, root.T @ big[:, :fast, fast:], upper=False)
    logs = 2.0 * known.diagonal(dim1=-2, dim2=-1).log().sum()
    return big[:, fast:, fast:] - H.mT @ H, logs, Groups(root, known, H)


def restricted(
    problem: Problem, eta: Tensor, blocks: Blocks, columns: Columns
) -> tuple[Tensor, Solution, Groups | None]:
    """Return minus the restricted log likelihood with the priors of eta, and what the effects follow from.

    All effects are integrated out, the fixed ones under a flat prior.
    """
    M, own_logs = summarised(problem, eta, blocks, columns)
    units, group_logs, groups = by_group(problem, eta, M, columns.lift)
    solution = solved(problem, eta, units.sum(0))
    return 0.5 * (solution.logs + own_logs.sum() + group_logs + penalty(problem.layout, eta)), solution, groups


def reduced(problem: Problem, eta: Tensor, blocks: Blocks, columns: Columns) -> Reduced:
    """Return the restricted likelihood and the effects, fixed ones and those of the groups."""
    nll, solution, groups = restricted(problem, eta, blocks, columns)
    effects, fixed = None, solution.fixed
    if groups is not None:
        left = groups.projected[..., -1:] - groups.projected[..., :-1] @ fixed[:, None]
        effects = (groups.factor @ torch.linalg.solve_triangular(groups.known.mT, left, upper=True))[..., 0]
    return Reduced(nll, fixed, solution.covariance, effects)


def penalty(layout: Layout, eta: Tensor) -> Tensor:
    """Return minus twice the log prior of the few numbers, constants left out.

    Weak ones keep what few specimens say little of away from the ends: the covariance between groups off zero, where
    its likelihood often is highest (a Wishart prior; Chung and others, Psychometrika 78, 685, 2013), a discrepancy
    small, its sizes at neighbouring knots alike.
    """
    at, form, total = layout.at, layout.form, torch.zeros((), dtype=UNIT)
    if form.groups:
        own, group = layout.factor(eta, "own_covariance"), layout.factor(eta, "group_covariance")
        ratio = torch.linalg.solve_triangular(own, group, upper=False)
        total = total - 2.0 * ratio.diagonal().log().sum() + _GROUP_PULL * (ratio**2).sum()
    if form.smooth:
        total = total + ((eta[at["length"]][0] - np.log(_LENGTH)) / _LENGTH_SPREAD) ** 2
    if form.own:
        own = eta[at["own"]]
        total = total + (own.diff() ** 2).sum() + ((own.exp() / _SMALL) ** 2).sum()
    if form.common:
        total = total + (eta[at["common"]].exp() / _SMALL).square().sum()
    if form.noise == "power":
        total = total + ((eta[at["noise"]][1] - _POWER) / _POWER_SPREAD) ** 2
    return total


def ridge_of(problem: Problem, eta: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return the prior precision (m, m) of the fixed numbers, 0 but for the common curve, and its log|covariance|."""
    form, at = problem.form, problem.layout.at
    ridge, logs = torch.zeros(m, m, dtype=UNIT), torch.zeros((), dtype=UNIT)
    if form.common:
        root = problem.basis[form.common].kernel_root(eta[at["length"]][0], eta[at["common"]])
        rest = m - root.shape[-1]
        ridge = torch.block_diag(torch.zeros(rest, rest, dtype=UNIT), torch.cholesky_inverse(root))
        logs = 2.0 * root.diagonal().log().sum()
    return ridge, logs


def solved(problem: Problem, eta: Tensor, total: Tensor) -> Solution:
    """Return the fixed numbers by generalised least squares.

    Args:
        problem: past and structure.
        eta: the few numbers.
        total: (m + 1, m + 1) sum of what the units say, r in the last row and column.
    """
    m = len(total) - 1
    ridge, logs = ridge_of(problem, eta, m)
    A = total[:m, :m] + ridge
    d = A.detach().diagonal().clamp(min=_NOTHING).rsqrt()
    factor = torch.linalg.cholesky(d[:, None] * A * d + _RIDGE * torch.eye(m, dtype=UNIT))
    half = torch.linalg.solve_triangular(factor, (d * total[:m, m])[:, None], upper=False)
    logs = logs + total[m, m] - (half**2).sum() + 2.0 * factor.diagonal().log().sum() - 2.0 * d.log().sum()
    return Solution(factor, d, half, logs)


def first_numbers(problem: Problem, noise: float, covariance: Tensor, warm: Mixed | None) -> Tensor:
    """Return the numbers at which the search begins: those of a model already learned, where it has them."""
    layout, form = problem.layout, problem.form
    eta, at = torch.zeros(layout.count, dtype=UNIT), problem.layout.at
    root = torch.linalg.cholesky(covariance)
    sd = root.diagonal()
    below = (root / sd[:, None])[layout.below]
    eta[at["noise"].start] = np.log(noise)
    if form.noise == "power":
        eta[at["noise"].start + 1] = _POWER
    eta[at["own_covariance"]] = torch.cat([sd.log(), below])
    if form.groups:
        eta[at["group_covariance"]] = torch.cat([sd.log() + np.log(0.5), below])
    for name, value in _FIRST.items():
        if name in at:
            eta[at[name]] = np.log(value)
    if warm is None:
        return eta
    for name, place in at.items():
        if name in warm.layout.at and (name != "noise" or warm.form.noise == form.noise):
            eta[place] = warm.eta[warm.layout.at[name]]
    eta[at["noise"].start] = warm.eta[warm.layout.at["noise"].start]
    return eta


def bounds(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest value of every number."""
    layout, data, q = problem.layout, problem.past.data, problem.layout.fast
    at, low, high = layout.at, np.full(layout.count, -25.0), np.full(layout.count, 25.0)
    noise = at["noise"].start
    low[noise] = np.log(1e-5 * float(data.y[data.mask].abs().max()))
    if problem.form.noise == "power":
        low[noise + 1], high[noise + 1] = 0.05, 1.5
    if problem.form.noise == "combined":
        low[noise + 1], high[noise + 1] = -7.0, 7.0
    for name in ("own_covariance", "group_covariance"):
        if name in at:
            start, stop = at[name].start, at[name].stop
            low[start : start + q], high[start : start + q] = -12.0, 12.0
            low[start + q : stop], high[start + q : stop] = -10.0, 10.0
    for name, (least, most) in _RANGE.items():
        if name in at:
            low[at[name]], high[at[name]] = np.log(least), np.log(most)
    return low, high


def maximised(problem: Problem, eta: Tensor, blocks: Blocks, columns: Columns, steps: int) -> tuple[Tensor, float]:
    """Return the numbers after so many steps of L-BFGS, and minus the restricted log likelihood there."""
    low, high = bounds(problem)

    def judged(values: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(values, requires_grad=True)
        try:
            nll, _, _ = restricted(problem, point, blocks, columns)
            gradient = torch.autograd.grad(nll, point)[0].numpy()
        except LinAlgError:
            return _IMPOSSIBLE, np.zeros_like(values)
        if not (torch.isfinite(nll) and np.isfinite(gradient).all()):
            return _IMPOSSIBLE, np.zeros_like(values)
        return nll.item(), gradient

    found = minimize(
        judged,
        np.clip(eta.numpy(), low, high),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(low, high, strict=True)),
        options={"maxiter": steps, "maxcor": _MEMORY},
    )
    if found.fun >= _IMPOSSIBLE:
        raise LinAlgError("the restricted likelihood cannot be computed where the search begins")
    return torch.from_numpy(found.x.copy()), float(found.fun)
