"""What a batch of fits has found, as draws that carry intervals and bands: two kinds, one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from scipy import special
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.fits.bounds import Profile
from scimeta.calibration.intervals import weighted_quantiles
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import normal_nodes

_CHUNK = 1 << 20  # values of the law at once


class Interval(NamedTuple):
    """One parameter of every specimen, (specimens,) each, in natural units; at_bound: held at its support's end."""

    lower: Tensor
    value: Tensor
    upper: Tensor
    std: Tensor
    at_bound: np.ndarray | bool = False


class Errors(NamedTuple):
    """Standard errors of parameters whose intervals do not come from the nodes.

    Attributes:
        of: name -> (specimens,) standard error of the unconstrained parameter.
        dof: (specimens,) degrees of freedom behind them; inf where their scale is known.
    """

    of: Mapping[str, np.ndarray]
    dof: np.ndarray

    def rows(self, rows: Sequence[int]) -> Errors:
        """Return the errors of some specimens."""
        return Errors({name: error[rows] for name, error in self.of.items()}, self.dof[rows])

    def interval(self, law: Law, name: str, best: Tensor, tail: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return lower, value, upper and standard error in natural units, (specimens,) each, from Student's t."""
        error = torch.from_numpy(self.of[name])
        reach = error * torch.from_numpy(special.stdtrit(np.minimum(self.dof, 1e10), 1.0 - tail))
        u = best.clone().requires_grad_()
        value = law.constrain({name: u})[name]
        (slope,) = torch.autograd.grad(value.sum(), u)
        lower, upper = (law.constrain({name: end})[name] for end in (best - reach, best + reach))
        return lower, value.detach(), upper, slope.abs() * error


class Draws(Protocol):
    """What a fit offers to its estimates, bands and reports, whatever it rests on.

    Attributes:
        nodes: (specimens, nodes, parameters) unconstrained draws.
        weights: (specimens, nodes), sums to 1.
        from_data: (specimens, parameters) share of the knowledge that came from the data.
        noise: (specimens,) standard deviation of one measurement, in the unit of y.
        outliers: what measurements may be beside ordinary; None if nothing.
    """

    @property
    def nodes(self) -> Tensor: ...

    @property
    def weights(self) -> Tensor: ...

    @property
    def from_data(self) -> np.ndarray: ...

    @property
    def noise(self) -> np.ndarray: ...

    @property
    def outliers(self) -> Outliers | None: ...

    def rows(self, rows: Sequence[int]) -> Self:
        """Return the draws of some specimens."""
        ...

    def intervals(self, tail: float) -> dict[str, Interval]:
        """Return name -> interval that leaves out ``tail`` on either side."""
        ...

    def mean(self, x: Tensor) -> np.ndarray:
        """Return the expected curves: (specimens, points) at x (points,)."""
        ...

    def curves(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Yield (specimens, nodes, points) curves at the nodes with their weights, a chunk of specimens at a time."""
        ...

    def quantiles(self, x: Tensor, levels: Sequence[float], *, noise: bool) -> np.ndarray:
        """Return (levels, specimens, points) of the curves, or of a new measurement with ``noise``."""
        ...

    def reading_sd(self, x: Tensor) -> np.ndarray:
        """Return (specimens, points) standard deviation of an ordinary reading around the curve, at x (points,)."""
        ...

    def law_alone(self, x: Tensor) -> np.ndarray | None:
        """Return (specimens, points) the law with the estimates; None where :meth:`mean` is nothing but the law."""
        ...


class PosteriorDraws(NamedTuple):
    """Draws of the posterior under a learned prior; predictions average them.

    Attributes:
        family: that the specimens are taken to belong to, as is expected of new ones.
        nodes, weights, from_data: as in :class:`Draws`.
        mode: (specimens, parameters) unconstrained, of the posterior.
        departures: (specimens, nodes, columns) coefficients of the discrepancy at each node; None where the family has
            none.
    """

    family: Family
    nodes: Tensor
    weights: Tensor
    from_data: np.ndarray
    mode: Tensor
    departures: Tensor | None = None

    @property
    def noise(self) -> np.ndarray:
        """(specimens,) standard deviation of one measurement, in the unit of y."""
        return np.full(len(self.mode), self.family.noise)

    @property
    def outliers(self) -> Outliers | None:
        """What measurements may be beside ordinary; None if nothing."""
        return self.family.outliers

    def rows(self, rows: Sequence[int]) -> PosteriorDraws:
        """Return the draws of some specimens."""
        departures = None if self.departures is None else self.departures[rows]
        own = self.nodes[rows], self.weights[rows], self.from_data[rows], self.mode[rows]
        return PosteriorDraws(self.family, *own, departures)

    def intervals(self, tail: float) -> dict[str, Interval]:
        """Return name -> interval; posterior medians as values. Of shared parameters those of the family."""
        law, result = self.family.law, {}
        dof = np.full(len(self.mode), np.inf)
        for i, name in enumerate(law.names):
            if name in self.family.shared:
                errors = Errors({name: np.full(len(dof), self.family.shared_errors[name])}, dof)
                result[name] = Interval(*errors.interval(law, name, self.mode[:, i], tail))
                continue
            ends = weighted_quantiles(self.nodes[..., i], self.weights, (tail, 0.5, 1 - tail))
            nodes = law.constrain({name: self.nodes[..., i]})[name]
            mean = (self.weights * nodes).sum(-1, keepdim=True)
            std = (self.weights * (nodes - mean) ** 2).sum(-1).sqrt()
            lower, value, upper = (law.constrain({name: end})[name] for end in ends)
            result[name] = Interval(lower, value, upper, std)
        return result

    def mean(self, x: Tensor) -> np.ndarray:
        """Return the expected curves: (specimens, points), averaged over the posterior."""
        return np.concatenate([(y * w[..., None]).sum(1).numpy() for y, w, _ in self.curves(x)])

    def curves(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Yield curves at the nodes, with what the law misses there, and their weights."""
        for rows in _slices(self.nodes, x):
            law, missed = self._parts(x, rows)
            yield (law if missed is None else law + missed), self.weights[rows], rows

    def _parts(self, x: Tensor, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return (specimens, nodes, points): the law at the nodes, and what it misses there."""
        params = dict(zip(self.family.law.names, self.nodes[rows].unbind(-1), strict=True))
        discrepancy = self.family.discrepancy
        if self.departures is None or discrepancy is None:
            return self.family.law.curve(params, x), None
        half = self.nodes.shape[1] // 2  # every node comes twice
        place = discrepancy.place(self.family.law, {n: u[:, :half] for n, u in params.items()}, x)
        columns, own = discrepancy.columns(place).nan_to_num(), self.departures[rows]
        missed = torch.cat([(columns @ side[..., None])[..., 0] for side in (own[:, :half], own[:, half:])], 1)
        return place.f.repeat(1, 2, 1), missed

    def quantiles(self, x: Tensor, levels: Sequence[float], *, noise: bool) -> np.ndarray:
        """Return (levels, specimens, points)."""
        ends = []
        for rows in _slices(self.nodes, x):
            law, missed = self._parts(x, rows)
            y, w = (law if missed is None else law + missed), self.weights[rows]
            if noise:
                y = y + self._errors(law)
            ends.append(torch.stack(weighted_quantiles(y.mT, w[:, None], levels)))
        return torch.cat(ends, 1).numpy()

    def law_alone(self, x: Tensor) -> np.ndarray | None:
        """Return (specimens, points) the law at the posterior medians; None where the family has no discrepancy."""
        if self.departures is None:
            return None
        values = {name: interval.value for name, interval in self.intervals(0.05).items()}
        return self.family.law.curve(self.family.law.unconstrain(values), x).numpy()

    def reading_sd(self, x: Tensor) -> np.ndarray:
        """Return (specimens, points): the noise, of the law's expected mean where it follows that."""
        if self.family.error_model.constant:
            return np.full((len(self.mode), len(x)), self.family.noise)
        parts = (self._parts(x, rows)[0] * self.weights[rows][..., None] for rows in _slices(self.nodes, x))
        expected = torch.cat([part.sum(1) for part in parts])
        return (self.family.noise * self.family.error_model.relative_sd(expected)).numpy()

    def _errors(self, law: Tensor) -> Tensor:
        """Return errors of a reading at every node, spread evenly over their distribution; broadcasts with the law."""
        family, nodes = self.family, law.shape[1]
        if family.outliers is not None:
            sd = torch.full((len(law),), family.noise, dtype=law.dtype)
            return family.outliers.errors(nodes, sd)[..., None]
        return family.noise * normal_nodes(nodes)[:, None] * family.error_model.relative_sd(law)

    def discrepancy_share(self, x: Tensor) -> np.ndarray:
        """Return (specimens,) the share of the curve's variance that is the law's discrepancy, mean over x."""
        shares = []
        for rows in _slices(self.nodes, x):
            law, missed = self._parts(x, rows)
            if missed is None:
                shares.append(torch.zeros(len(law), dtype=law.dtype))
                continue
            own, other = (_variance(part, self.weights[rows]).sum(-1) for part in (missed, law))
            shares.append(own / (own + other).clamp(min=1e-300))
        return torch.cat(shares).numpy()


class LeastSquaresDraws(NamedTuple):
    """Draws around least-squares solutions; predictions are the curve at the solution.

    Attributes:
        law: the fitted law.
        nodes, weights, from_data, noise: as in :class:`Draws`; multivariate t around each solution.
        best: (specimens, parameters) unconstrained, the solutions.
        errors: standard errors of all parameters.
        joint: True if the specimens were fitted together, with one value of every shared parameter.
        profiles: of each specimen, parameter -> interval where Student's t does not describe it.
        held: (specimens,) number of parameters that are held, at a bound or of no consequence.
    """

    law: Law
    nodes: Tensor
    weights: Tensor
    from_data: np.ndarray
    noise: np.ndarray
    best: Tensor
    errors: Errors
    joint: bool = False
    profiles: tuple[Mapping[int, Profile], ...] = ()
    held: np.ndarray = np.zeros(0, dtype=int)

    @property
    def outliers(self) -> Outliers | None:
        """None: least squares knows of no outliers."""
        return None

    def rows(self, rows: Sequence[int]) -> LeastSquaresDraws:
        """Return the draws of some specimens."""
        own = self.nodes[rows], self.weights[rows], self.from_data[rows], self.noise[rows], self.best[rows]
        profiles = tuple(self.profiles[i] for i in rows)
        return LeastSquaresDraws(self.law, *own, self.errors.rows(rows), self.joint, profiles, self.held[rows])

    def intervals(self, tail: float) -> dict[str, Interval]:
        """Return name -> interval of Student's t around the solution; those by profiles are of the fit's own level."""
        result = {}
        for i, name in enumerate(self.law.names):
            student = Interval(*self.errors.interval(self.law, name, self.best[:, i], tail))
            result[name] = self._profiled(student, name, [profiles.get(i) for profiles in self.profiles])
        return result

    def _profiled(self, student: Interval, name: str, profiles: Sequence[Profile | None]) -> Interval:
        """Return the intervals of one parameter with those by profiles in their places."""
        which = [row for row, profile in enumerate(profiles) if profile is not None]
        if not which:
            return student
        found = [profile for profile in profiles if profile is not None]
        ends = torch.tensor([[p.lower, p.upper, np.inf * p.bound if p.bound else 0.0] for p in found]).double()
        bound = np.zeros(len(profiles), dtype=bool)
        bound[which] = [p.bound != 0 for p in found]
        at = torch.from_numpy(bound[which])
        lower, upper, end = self.law.constrain({name: ends})[name].T
        value, std = student.value[which], student.std[which]
        no_error = at | lower.isnan()
        new = lower, torch.where(at, end, value), upper, torch.where(no_error, torch.nan, std)
        rows = torch.tensor(which)
        lower, value, upper, std = (old.index_put((rows,), part) for old, part in zip(student[:4], new, strict=True))
        return Interval(lower, value, upper, std, bound)

    def mean(self, x: Tensor) -> np.ndarray:
        """Return the curves at the solutions: (specimens, points)."""
        return self.law.curve(dict(zip(self.law.names, self.best.T, strict=True)), x).numpy()

    def curves(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Yield curves at the nodes with their weights."""
        for rows in _slices(self.nodes, x):
            params: Mapping[str, Tensor] = dict(zip(self.law.names, self.nodes[rows].unbind(-1), strict=True))
            yield self.law.curve(params, x), self.weights[rows], rows

    def law_alone(self, x: Tensor) -> None:
        """Return None: least squares predicts the law."""
        return

    def reading_sd(self, x: Tensor) -> np.ndarray:
        """Return (specimens, points): the noise, the same at all x."""
        return np.repeat(self.noise[:, None], len(x), 1)

    def quantiles(self, x: Tensor, levels: Sequence[float], *, noise: bool) -> np.ndarray:
        """Return (levels, specimens, points)."""
        ends = []
        for y, w, rows in self.curves(x):
            if noise:
                y = y + normal_nodes(y.shape[1])[:, None] * torch.from_numpy(self.noise[rows])[:, None, None]
            ends.append(torch.stack(weighted_quantiles(y.mT, w[:, None], levels)))
        return torch.cat(ends, 1).numpy()


def outlier_probability(draws: Draws, curve: Curve) -> np.ndarray:
    """Return (points,): the probability that each measurement of the first specimen is an outlier, over the draws."""
    if not isinstance(draws, PosteriorDraws) or draws.outliers is None or not len(curve):
        return np.zeros(len(curve))
    sigma = np.full(len(curve), np.nan) if curve.sigma is None else curve.sigma
    y, weights, _ = next(draws.curves(torch.tensor(curve.x)))
    own = draws.noise[0] * draws.family.error_model.relative_sd(y)
    inverse_sd = 1.0 / torch.where(torch.isfinite(torch.tensor(sigma)), torch.tensor(sigma), own)
    chance = draws.outliers.probability(y - torch.tensor(curve.y), inverse_sd)
    return (weights[..., None] * chance).sum(1)[0].numpy()


def _slices(nodes: Tensor, x: Tensor) -> Iterator[slice]:
    """Yield specimens whose curves at the nodes fit into memory together."""
    step = max(1, _CHUNK // (nodes.shape[1] * len(x)))
    return (slice(begin, begin + step) for begin in range(0, len(nodes), step))


def _variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return (specimens, points) the weighted variance over the nodes of values (specimens, nodes, points)."""
    w = weights[..., None]
    return (w * (values - (w * values).sum(1, keepdim=True)) ** 2).sum(1)
