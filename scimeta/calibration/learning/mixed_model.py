"""A family as a linear mixed model around its law: noise, discrepancy and groups by restricted likelihood.

    y_ij = f(x_ij; theta_i, shared) + Phi_ij c_i + noise_ij            specimen i, reading j
    theta_i = B' z_i + b_group(i) + own_i                              b ~ N(0, G), own ~ N(0, C)
    c_i = common + own c_i,   common ~ N(0, s0^2 K),   own ~ N(0, s^2 K)

The law is linearised at every specimen's posterior mode, and again there (Lindstrom and Bates, Biometrics 46, 673,
1990). Given that, all but a handful of numbers are integrated over in closed form; those few maximise what is left.
Specimens are the first axis; curves are padded to one length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import KNOTS, Discrepancy, broadcast_linearized
from scimeta.calibration.family.error_model import LEAST, ErrorModel, Kind
from scimeta.calibration.laws.law import Law

_UNIT = torch.float64
SMALL = 0.1  # of the largest |y|: a discrepancy is not expected to be larger


class Form(NamedTuple):
    """The structure of a family: what the held-out likelihood chooses between.

    Attributes:
        noise: the error model.
        common: coordinate of the curve that all specimens have in common; "" for none.
        own: coordinate of each specimen's own curve; "" for none.
        start: True for a clock that begins late, by a common time and each specimen's own.
        groups: True for a covariance between groups.
    """

    noise: Kind = "constant"
    common: Literal["", "prediction", "x"] = ""
    own: Literal["", "prediction", "x"] = ""
    start: bool = False
    groups: bool = False

    @property
    def smooth(self) -> bool:
        return bool(self.common or self.own)

    def __str__(self) -> str:
        over = [f"{n} over {getattr(self, n)}" for n in ("common", "own") if getattr(self, n)]
        return ", ".join([self.noise, *over, *(["late start"] if self.start else []), *(["groups"] if self.groups else [])])


class MixedPast(NamedTuple):
    """The past: measurements, design (specimens, regressors), group of each specimen (specimens,) or None."""

    data: Measured
    design: Tensor
    group: Tensor | None

    def some(self, rows: Tensor) -> MixedPast:
        return MixedPast(Measured(*(p[rows] for p in self.data)), self.design[rows], None if self.group is None else self.group[rows])


@dataclass
class Layout:
    """Where each number stands in the vector over which the likelihood is maximised."""

    form: Form
    fast: int
    at: dict[str, slice] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        triangle = self.fast * (self.fast + 1) // 2
        wanted = {"noise": 1 + (self.form.noise in ("combined", "power")), "own_covariance": triangle}
        wanted |= {"group_covariance": triangle} if self.form.groups else {}
        wanted |= {"length": 1} if self.form.smooth else {}
        wanted |= {"common": 1} if self.form.common else {}
        wanted |= {"own": KNOTS} if self.form.own else {}
        wanted |= {"clock": 1} if self.form.start else {}
        for name, size in wanted.items():
            self.at[name] = slice(self.count, self.count + size)
            self.count += size

    def factor(self, eta: Tensor, name: str) -> Tensor:
        """Return a lower triangular factor (fast, fast): logarithms of the diagonal, then the rest relative to it."""
        part = eta[self.at[name]]
        scale = part[: self.fast].exp()
        unit = torch.eye(self.fast, dtype=_UNIT)
        if self.fast > 1:
            i, j = np.tril_indices(self.fast, -1)
            unit = unit.index_put((torch.as_tensor(i), torch.as_tensor(j)), part[self.fast :])
        return scale[:, None] * unit


class Basis(NamedTuple):
    """The frame of the smooth discrepancy: knots and envelope, and the directions that no parameter imitates."""

    frame: Discrepancy
    free: Tensor  # (knots, directions)

    def kernel_root(self, log_length: Tensor, log_size: Tensor) -> Tensor:
        """Return the root of U' A K A U, K squared exponential over the order of the knots, A = diag(size)."""
        at = torch.linspace(0, 1, KNOTS, dtype=_UNIT)
        K = torch.exp(-0.5 * ((at[:, None] - at) / log_length.exp()) ** 2)
        size = log_size.exp().expand(KNOTS)
        K = size[:, None] * K * size
        size = self.free.shape[1]
        inner = self.free.T @ K @ self.free
        return torch.linalg.cholesky(inner + 1e-6 * inner.diagonal().mean() * torch.eye(size, dtype=_UNIT))


class Blocks(NamedTuple):
    """The family linearised: r (S, P) = y - f + J (theta - mean); the derivatives; 0 at padding."""

    r: Tensor
    f: Tensor
    J: Tensor  # (S, P, fast)
    slow: Tensor  # (S, P, shared)
    phi: dict[str, Tensor]  # coordinate -> (S, P, directions)
    late: Tensor | None  # (S, P)


class Reduced(NamedTuple):
    """The restricted likelihood at some numbers, and what was integrated over."""

    nll: Tensor
    fixed: Tensor  # (m,)
    covariance: Tensor  # (m, m)
    group: Tensor | None  # (groups, fast)


@dataclass
class Mixed:
    """What was learned."""

    law: Law
    form: Form
    layout: Layout
    eta: Tensor
    beta: Tensor  # (regressors, fast)
    beta_covariance: Tensor  # (regressors, fast, regressors, fast)
    shared: Tensor  # (shared,)
    shared_errors: Tensor
    noise: float
    error_model: ErrorModel
    discrepancy: Discrepancy | None
    own_covariance: Tensor
    group_covariance: Tensor | None
    theta: Tensor  # (S, fast) modes
    nll: float
    basis: dict[str, Basis]
    typical: float
    blocks: Blocks
    step: float
    fixed_tail: Tensor


def relative_variance(kind: Kind, numbers: Tensor, f: Tensor, typical: float) -> Tensor:
    """Return the variance at f by the logarithms of noise and share or by the power."""
    base = (2.0 * numbers[0]).exp()
    if kind == "constant":
        return base.expand(f.shape)
    mean = f.abs().clamp(min=LEAST * typical) / typical
    if kind == "proportional":
        return base * mean**2
    if kind == "combined":
        share = torch.sigmoid(numbers[1])
        return base * (share + (1.0 - share) * mean**2)
    return base * mean ** (2.0 * numbers[1])


def variance_of(layout: Layout, eta: Tensor, f: Tensor, typical: float, data: Measured) -> Tensor:
    """Return (S, P) the variance of every reading; that of its own sigma where it brought one."""
    found = relative_variance(layout.form.noise, eta[layout.at["noise"]], f, typical)
    return torch.where(data.given, data.sigma.nan_to_num(1.0) ** 2, found)


def own_root(layout: Layout, eta: Tensor, basis: dict[str, Basis]) -> Tensor | None:
    """Return the root of the covariance of a specimen's own coefficients: curve, then clock."""
    parts = []
    if layout.form.own:
        parts.append(basis[layout.form.own].kernel_root(eta[layout.at["length"]][0], eta[layout.at["own"]]))
    if layout.form.start:
        parts.append(eta[layout.at["clock"]].exp()[:, None])
    return torch.block_diag(*parts) if parts else None


def own_columns(form: Form, blocks: Blocks) -> list[Tensor]:
    found = [blocks.phi[form.own]] if form.own else []
    return [*found, *([blocks.late[..., None]] if blocks.late is not None else [])]


def fixed_columns(form: Form, blocks: Blocks) -> list[Tensor]:
    """Return the columns of the shared parameters, the start and the common curve."""
    found = [blocks.slow] if blocks.slow.shape[-1] else []
    found += [blocks.late[..., None]] if blocks.late is not None else []
    return found + ([blocks.phi[form.common]] if form.common else [])


def summarised(layout: Layout, eta: Tensor, blocks: Blocks, basis: dict[str, Basis], typical: float, past: MixedPast):
    """Return (S, k, k) X' V^-1 X of every specimen, X = (J, fixed columns, r), own effects integrated out, and its nll."""
    form, data = layout.form, past.data
    variance = variance_of(layout, eta, blocks.f, typical, data)
    weight = torch.where(data.mask, 1.0 / variance, 0.0)
    nll = torch.where(data.mask, variance.log(), 0.0).sum(-1)
    LC, own = layout.factor(eta, "own_covariance"), own_root(layout, eta, basis)
    L = LC if own is None else torch.block_diag(LC, own)
    Z = torch.cat([blocks.J, *own_columns(form, blocks)], -1) @ L
    X = torch.cat([blocks.J, *fixed_columns(form, blocks), blocks.r[..., None]], -1)
    WX = weight[..., None] * X
    N = torch.eye(Z.shape[-1], dtype=_UNIT) + Z.mT @ (weight[..., None] * Z)
    factor = torch.linalg.cholesky(N)
    H = torch.linalg.solve_triangular(factor, Z.mT @ WX, upper=False)
    return X.mT @ WX - H.mT @ H, nll + 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def lifted(past: MixedPast, fast: int, extra: int) -> Tensor:
    """Return (S, fast + extra + 1, m + 1): the family's fixed numbers (and r) -> those of one specimen."""
    S, p = past.design.shape
    m = fast * p + extra
    lift = torch.zeros(S, fast + extra + 1, m + 1, dtype=_UNIT)
    for i in range(fast):
        lift[:, i, i * p : (i + 1) * p] = past.design
    lift[:, fast:, fast * p :] = torch.eye(extra + 1, dtype=_UNIT)
    return lift


def by_group(layout: Layout, eta: Tensor, M: Tensor, past: MixedPast) -> tuple[Tensor, Tensor, tuple | None]:
    """Return what each group (or specimen) says of the fixed numbers, (units, m + 1, m + 1), and its nll.

    The groups' own effects on the parameters are integrated out.
    """
    fast, extra = layout.fast, M.shape[-1] - layout.fast - 1
    lift = lifted(past, fast, extra)
    if not layout.form.groups:
        return lift.mT @ M @ lift, torch.zeros((), dtype=_UNIT), None
    assert past.group is not None
    LG = layout.factor(eta, "group_covariance")
    bring = torch.zeros(fast + extra + 1, fast, dtype=_UNIT)
    bring[:fast] = torch.eye(fast, dtype=_UNIT)
    lift = torch.cat([bring.expand(len(lift), -1, -1), lift], -1)
    count = int(past.group.max()) + 1
    each = lift.mT @ M @ lift
    big = torch.zeros(count, *each.shape[1:], dtype=_UNIT).index_add(0, past.group, each)
    factor = torch.linalg.cholesky(torch.eye(fast, dtype=_UNIT) + LG.T @ big[:, :fast, :fast] @ LG)
    H = torch.linalg.solve_triangular(factor, LG.T @ big[:, :fast, fast:], upper=False)
    nll = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum()
    return big[:, fast:, fast:] - H.mT @ H, nll, (LG, factor, H)


def reduced(layout: Layout, eta: Tensor, blocks: Blocks, basis: dict[str, Basis], typical: float, past: MixedPast) -> Reduced:
    """Return the restricted likelihood: all effects integrated out, the fixed ones under a flat prior."""
    form = layout.form
    M, own_nll = summarised(layout, eta, blocks, basis, typical, past)
    units, group_nll, kept = by_group(layout, eta, M, past)
    total = units.sum(0)
    fixed, covariance, nll = solved(layout, eta, basis, total)
    nll = nll + own_nll.sum() + group_nll
    group = None
    if kept is not None:
        LG, factor, H = kept
        to = torch.linalg.solve_triangular(factor.mT, H[..., -1:] - H[..., :-1] @ fixed[:, None], upper=True)
        group = (LG @ to)[..., 0]
        # keeps the covariance between few groups off zero (Chung et al., Psychometrika 78, 685, 2013)
        ratio = torch.linalg.solve_triangular(layout.factor(eta, "own_covariance"), LG, upper=False)
        nll = nll - 2.0 * ratio.diagonal().log().sum() + 0.125 * (ratio**2).sum()
    if form.smooth:
        nll = nll + ((eta[layout.at["length"]][0] - np.log(0.3)) / 0.5) ** 2
    if form.own:  # sizes of neighbours are alike
        nll = nll + (eta[layout.at["own"]].diff() ** 2).sum() + ((eta[layout.at["own"]].exp() / SMALL) ** 2).sum()
    if form.common:
        nll = nll + (eta[layout.at["common"]].exp() / SMALL).square().sum()
    if form.noise == "power":
        nll = nll + ((eta[layout.at["noise"]][1] - 0.5) / 0.5) ** 2
    return Reduced(0.5 * nll, fixed, covariance, group)


def ridge_of(layout: Layout, eta: Tensor, basis: dict[str, Basis], m: int) -> tuple[Tensor, Tensor]:
    """Return the prior precision of the fixed numbers, 0 but for the common curve, and its log determinant's part."""
    ridge, nll = torch.zeros(m, m, dtype=_UNIT), torch.zeros((), dtype=_UNIT)
    if layout.form.common:
        root = basis[layout.form.common].kernel_root(eta[layout.at["length"]][0], eta[layout.at["common"]])
        k = root.shape[-1]
        ridge = torch.block_diag(torch.zeros(m - k, m - k, dtype=_UNIT), torch.cholesky_inverse(root))
        nll = 2.0 * root.diagonal().log().sum()
    return ridge, nll


def solved(layout: Layout, eta: Tensor, basis: dict[str, Basis], total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fixed numbers by generalised least squares, their covariance and their part of the likelihood."""
    m = len(total) - 1
    ridge, nll = ridge_of(layout, eta, basis, m)
    A = total[:m, :m] + ridge
    d = A.detach().diagonal().clamp(min=1e-300).rsqrt()
    factor = torch.linalg.cholesky(d[:, None] * A * d + 1e-12 * torch.eye(m, dtype=_UNIT))
    half = torch.linalg.solve_triangular(factor, (d * total[:m, m])[:, None], upper=False)
    nll = nll + total[m, m] - (half**2).sum() + 2.0 * factor.diagonal().log().sum() - 2.0 * d.log().sum()
    covariance = d[:, None] * torch.cholesky_inverse(factor) * d
    return covariance @ total[:m, m], covariance, nll
