"""A family as a linear mixed model around its law: what it consists of.

    y_ij = f(x_ij; theta_i, shared) + Phi_ij c_i + noise_ij            specimen i, reading j
    theta_i = B' z_i + b_group(i) + own_i                              b ~ N(0, G), own ~ N(0, C)
    c_i = common + own c_i,   common ~ N(0, s0^2 K),   own c ~ N(0, A K A),   A = diag(sizes at the knots)

The law is linearised at every specimen's posterior mode, and again there. Given that, all but a handful of numbers (the
vector eta: noise, C, G, and the kernels' lengths and sizes) are integrated over in closed form; those few maximise what
is left. Specimens are the first axis; curves are padded to one length.

Reference: Lindstrom, Bates, Biometrics 46, 673 (1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import KNOTS, Coordinate, Discrepancy
from scimeta.calibration.family.error_model import LEAST, ErrorModel, Kind
from scimeta.calibration.laws.law import Law

UNIT = torch.float64
_JITTER = 1e-6  # of a kernel's mean variance, added to its diagonal: at large lengths it is singular in float64


class Form(NamedTuple):
    """The structure of a family: what the held-out likelihood chooses between.

    Attributes:
        noise: the error model.
        common: coordinate of the curve that all specimens have in common; "" for none.
        own: coordinate of each specimen's own curve; "" for none.
        start: True for a clock that begins late, by a common time and each specimen's own.
        groups: True for a covariance between groups.

    >>> str(Form("power", own="x", groups=True))
    'power, own over x, groups'
    """

    noise: Kind = "constant"
    common: Literal["", "prediction", "x"] = ""
    own: Literal["", "prediction", "x"] = ""
    start: bool = False
    groups: bool = False

    @property
    def smooth(self) -> bool:
        """True if the law misses a smooth curve, common or own."""
        return bool(self.common or self.own)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        """The coordinates of the smooth curves, each once, in alphabetical order."""
        return tuple(c for c in ("prediction", "x") if c in (self.common, self.own))

    @property
    def parts(self) -> int:
        """How much the discrepancy claims, 0 to 4: a common curve, carried whole to new specimens, counts twice."""
        return self.start + 2 * bool(self.common) + bool(self.own)

    @property
    def complexity(self) -> tuple[int, int]:
        """How much the form claims, parts before coordinates: of two that predict alike the lesser one is taken."""
        return self.parts, len(self.coordinates)

    def __str__(self) -> str:
        """Return the error model and the parts that are there, with commas between."""
        over = [f"{n} over {c}" for n, c in (("common", self.common), ("own", self.own)) if c]
        late, groups = ["late start"] * self.start, ["groups"] * self.groups
        return ", ".join([self.noise, *over, *late, *groups])


class MixedPast(NamedTuple):
    """The past that a mixed model is learned from.

    Attributes:
        data: the measurements, (specimens, points) each.
        design: (specimens, regressors), the first of them 1.
        group: (specimens,) whole numbers from 0, the group of each; None if there are no groups.
    """

    data: Measured
    design: Tensor
    group: Tensor | None

    @property
    def groups(self) -> int:
        """The number of groups; 0 if none are known."""
        return 0 if self.group is None else int(self.group.max()) + 1

    def some(self, rows: Tensor) -> MixedPast:
        """Return the past of some specimens; the groups keep their numbers."""
        group = None if self.group is None else self.group[rows]
        return MixedPast(Measured(*(part[rows] for part in self.data)), self.design[rows], group)


@dataclass(frozen=True)
class Layout:
    """Where each number stands in the vector eta over which the likelihood is maximised.

    Attributes:
        form: the structure of the family.
        fast: number of parameters that each specimen has of its own.
    """

    form: Form
    fast: int

    @cached_property
    def at(self) -> dict[str, slice]:
        """Name -> where its numbers stand: logarithms, but for a power, a logit, and what is below a diagonal."""
        form, triangle = self.form, self.fast * (self.fast + 1) // 2
        sizes = {
            "noise": 1 + (form.noise in ("combined", "power")),
            "own_covariance": triangle,
            "group_covariance": triangle * form.groups,
            "length": int(form.smooth),
            "common": int(bool(form.common)),
            "own": KNOTS * bool(form.own),
            "clock": int(form.start),
        }
        found, count = {}, 0
        for name, size in sizes.items():
            if size:
                found[name] = slice(count, count + size)
            count += size
        return found

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return max(part.stop for part in self.at.values())

    @cached_property
    def below(self) -> tuple[Tensor, Tensor]:
        """Rows and columns of what is below the diagonal of a factor."""
        rows, columns = torch.tril_indices(self.fast, self.fast, -1)
        return rows, columns

    def factor(self, eta: Tensor, name: str) -> Tensor:
        """Return a lower triangular factor (fast, fast): logarithms of the diagonal, then the rest relative to it."""
        part = eta[self.at[name]]
        unit = torch.eye(self.fast, dtype=UNIT)
        if self.fast > 1:
            unit = unit.index_put(self.below, part[self.fast :])
        return part[: self.fast].exp()[:, None] * unit

    def covariance(self, eta: Tensor, name: str) -> Tensor:
        """Return the covariance (fast, fast) of that name."""
        factor = self.factor(eta, name)
        return factor @ factor.T


class Basis(NamedTuple):
    """A smooth curve's frame, and the directions in it that no common change of the parameters imitates.

    Without the restriction curve and parameters would share what either can explain, and the parameters would lose
    their meaning.

    Attributes:
        frame: knots and envelope.
        free: U (knots, directions) with orthonormal columns; the coefficients at the knots are U times the free ones.

    Reference: Plumlee, J. Am. Stat. Assoc. 112, 1274 (2017).
    """

    frame: Discrepancy
    free: Tensor

    def kernel_root(self, log_length: Tensor, log_size: Tensor) -> Tensor:
        """Return the root (directions, directions) of U' A K A U, A = diag(size).

        K is squared exponential over the order of the knots, these being from 0 to 1.

        Args:
            log_length: () of the kernel.
            log_size: () or (knots,), the standard deviations over the discrepancy's ``size``.
        """
        at = torch.linspace(0, 1, KNOTS, dtype=UNIT)
        kernel = torch.exp(-0.5 * ((at[:, None] - at) / log_length.exp()) ** 2)
        left = self.free * log_size.exp().expand(KNOTS)[:, None]
        inner = left.T @ kernel @ left
        return torch.linalg.cholesky(inner + _JITTER * torch.diag(inner.diagonal().mean().expand(len(inner))))


class Problem(NamedTuple):
    """A past and the structure that is fitted to it.

    Attributes:
        law: the law.
        past: what is learned from.
        layout: structure and places of its numbers.
        basis: coordinate -> the smooth curve's frame.
        typical: root mean square of y, in its unit: where noise and error model are quoted.
        step: unit of a late start, in the unit of x; 0 if the form has none.
    """

    law: Law
    past: MixedPast
    layout: Layout
    basis: dict[str, Basis]
    typical: float
    step: float

    @property
    def form(self) -> Form:
        """The structure."""
        return self.layout.form


class Blocks(NamedTuple):
    """The family linearised at the specimens' parameters; all 0 at padding.

    Attributes:
        r: (specimens, points) y - f + J (theta - mean).
        f: (specimens, points) the law's prediction.
        J: (specimens, points, fast) derivatives by the specimens' parameters, of law and common curve.
        slow: (specimens, points, shared) derivatives by the shared parameters.
        phi: coordinate -> (specimens, points, directions) columns of the smooth curve.
        late: (specimens, points) by how much a clock that begins later by ``Problem.step`` changes f; None without.
    """

    r: Tensor
    f: Tensor
    J: Tensor
    slow: Tensor
    phi: dict[str, Tensor]
    late: Tensor | None


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixed model as it was learned.

    Attributes:
        problem: past and structure.
        eta: the numbers by restricted likelihood, in the order of the layout.
        beta: (regressors, fast) coefficients of the parameters' mean.
        beta_covariance: (regressors, fast, regressors, fast) of the same.
        shared: (shared,) unconstrained values of the shared parameters.
        shared_errors: (shared,) their standard errors.
        noise: standard deviation of a typical reading, in the unit of y.
        error_model: how it follows the mean.
        discrepancy: what the law misses; None if nothing.
        own_covariance: (fast, fast) C, between the specimens of a group.
        group_covariance: (fast, fast) G, between groups; None without.
        theta: (specimens, fast) posterior modes.
        nll: minus the restricted log likelihood, constants left out.
        blocks: the family linearised, at which eta was found.
        fixed_tail: coefficients of late start and common curve, as they multiply the blocks' columns.
        converged: True if numbers and modes had come to rest.
    """

    problem: Problem
    eta: Tensor
    beta: Tensor
    beta_covariance: Tensor
    shared: Tensor
    shared_errors: Tensor
    noise: float
    error_model: ErrorModel
    discrepancy: Discrepancy | None
    own_covariance: Tensor
    group_covariance: Tensor | None
    theta: Tensor
    nll: float
    blocks: Blocks
    fixed_tail: Tensor
    converged: bool

    @property
    def law(self) -> Law:
        """The law."""
        return self.problem.law

    @property
    def form(self) -> Form:
        """The structure."""
        return self.problem.form

    @property
    def layout(self) -> Layout:
        """Where the numbers stand in eta."""
        return self.problem.layout


def relative_variance(kind: Kind, numbers: Tensor, f: Tensor, typical: float) -> Tensor:
    """Return the variance at predictions f, of their shape.

        base [share + (1 - share) m^(2 power)],   m = max(|f|, least) / typical,   base = exp(2 numbers[0])

    numbers[1] is the logit of the share ("combined") or the power ("power").
    """
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


def variance_of(problem: Problem, eta: Tensor, f: Tensor) -> Tensor:
    """Return (specimens, points) the variance of every reading; that of its own sigma where it brought one."""
    data = problem.past.data
    found = relative_variance(problem.form.noise, eta[problem.layout.at["noise"]], f, problem.typical)
    return torch.where(data.given, data.sigma.nan_to_num(1.0) ** 2, found)


def own_root(problem: Problem, eta: Tensor) -> Tensor | None:
    """Return the root of the covariance of a specimen's own coefficients, curve before clock; None without."""
    form, at, parts = problem.form, problem.layout.at, []
    if form.own:
        parts.append(problem.basis[form.own].kernel_root(eta[at["length"]][0], eta[at["own"]]))
    if form.start:
        parts.append(eta[at["clock"]].exp()[:, None])
    return torch.block_diag(*parts) if parts else None


def own_columns(form: Form, blocks: Blocks) -> list[Tensor]:
    """Return the columns (specimens, points, some) of a specimen's own coefficients: curve, clock."""
    found = [blocks.phi[form.own]] if form.own else []
    return found if blocks.late is None else [*found, blocks.late[..., None]]


def fixed_columns(form: Form, blocks: Blocks) -> list[Tensor]:
    """Return the columns (specimens, points, some) of shared parameters, late start and common curve."""
    found = [blocks.slow] if blocks.slow.shape[-1] else []
    found += [] if blocks.late is None else [blocks.late[..., None]]
    return [*found, blocks.phi[form.common]] if form.common else found
