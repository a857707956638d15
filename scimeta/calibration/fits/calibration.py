"""What a fit returns: estimates with intervals, a curve with a band, a report, a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.ranges import outside_lines, warn_beyond
from scimeta.calibration.fits import report
from scimeta.calibration.fits.export import arviz_draws
from scimeta.calibration.fits.membership import Membership, memberships
from scimeta.calibration.fits.next_measurement import NextMeasurement, Target, next_measurement
from scimeta.calibration.intervals import Band, Errors, Estimate, probability, weighted_quantiles
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import normal_nodes
from scimeta.plots import axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CHUNK = 1 << 20  # values of the law at once


@dataclass(frozen=True, eq=False)
class Calibrations(Sequence["Calibration"]):
    """The fits of a batch of specimens; ``fits["name"]`` or ``fits[3]`` is one :class:`Calibration`.

    Attributes:
        law: the fitted law.
        curves: the specimens as given.
        nodes: (specimens, nodes, parameters) unconstrained draws that carry the intervals and bands.
        weights: (specimens, nodes), sums to 1.
        best: (specimens, parameters) unconstrained: the mode of the posterior, or the least-squares solution.
        from_data: (specimens, parameters) share of the knowledge that came from the data.
        noise: (specimens,) standard deviation of one measurement around the law, in the unit of y.
        wander: (specimens,) the part of it that is a smooth departure of the specimen from the law.
        outliers: what measurements may be beside ordinary; None if nothing.
        converged: (specimens,) bool.
        errors: standard errors of the parameters whose intervals do not come from the nodes: the shared ones, or all
            of a fit without a prior.
        averaged: True if predictions average the nodes (with a prior), False if they are the curve at ``best``.
        level: of the intervals.
        source: what the fit rests on, for the report.
        reasons: (specimens,) why the intervals of a specimen are withheld; "" where they are not.
        prior: of the family that the specimens are taken to belong to; None of a fit without one.
        discrepancy: what the law misses along x; None if nothing is believed to be.
        bumps: (specimens, nodes, knots) how far at each node, in the unit of y.
        joint: True if the specimens were fitted together, with one value of every shared parameter.
    """

    law: Law
    curves: Sequence[Curve]
    nodes: Tensor
    weights: Tensor
    best: Tensor
    from_data: np.ndarray
    noise: np.ndarray
    wander: np.ndarray
    outliers: Outliers | None
    converged: np.ndarray
    errors: Errors
    averaged: bool
    level: float
    source: str
    reasons: tuple[str, ...]
    prior: Prior | None = None
    discrepancy: Discrepancy | None = None
    bumps: Tensor | None = None
    joint: bool = False

    def __len__(self) -> int:
        return len(self.curves)

    def __iter__(self) -> Iterator[Calibration]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, which: int | str | slice) -> Calibration | Calibrations:
        if isinstance(which, str):
            names = [curve.name for curve in self.curves]
            if which not in names:
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                raise KeyError(f"no specimen {which!r}; there are {shown}")
            which = names.index(which)
        if isinstance(which, slice):
            return self._subset(range(*which.indices(len(self))))
        if not -len(self) <= which < len(self):
            raise IndexError(f"specimen {which} of {len(self)}")
        return Calibration(self._subset([which % len(self)]))

    def _subset(self, rows: Sequence[int]) -> Calibrations:
        rows = list(rows)
        return Calibrations(
            self.law,
            [self.curves[i] for i in rows],
            self.nodes[rows],
            self.weights[rows],
            self.best[rows],
            self.from_data[rows],
            self.noise[rows],
            self.wander[rows],
            self.outliers,
            self.converged[rows],
            self.errors[rows],
            self.averaged,
            self.level,
            self.source,
            tuple(self.reasons[i] for i in rows),
            self.prior,
            self.discrepancy,
            None if self.bumps is None else self.bumps[rows],
            self.joint,
        )

    def estimates(self) -> dict[str, dict[str, np.ndarray]]:
        """Return parameter -> value, lower, upper, std, from_data, each (specimens,), in natural units."""
        tail = 0.5 * (1 - self.level)
        withheld = np.array([bool(reason) for reason in self.reasons])
        result = {}
        for i, name in enumerate(self.law.names):
            nodes = self.law.constrain({name: self.nodes[..., i]})[name]
            if name not in self.errors.of:
                ends = weighted_quantiles(self.nodes[..., i], self.weights, (tail, 0.5, 1 - tail))
                lower, value, upper = (self.law.constrain({name: end})[name] for end in ends)
                mean = (self.weights * nodes).sum(-1, keepdim=True)
                std = (self.weights * (nodes - mean) ** 2).sum(-1).sqrt()
            else:
                lower, value, upper, std = self.errors.interval(self.law, name, self.best[:, i], tail)
            result[name] = {"value": value.numpy(), "from_data": self.from_data[:, i]}
            ends = {"lower": lower, "upper": upper, "std": std}
            result[name] |= {part: np.where(withheld, np.nan, end.numpy()) for part, end in ends.items()}
        return result

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the expected curve of every specimen: (specimens, points), in the unit of y.

        Warns where x lies far outside that of the past.

        Args:
            x: (points,), in the unit of the law's x; non-finite values raise ValueError.
        """
        x = _abscissa(x)
        warn_beyond(self.prior, x.numpy(), "prediction")
        return self._mean(x)

    def _mean(self, x: Tensor) -> np.ndarray:
        """Return the expected curve of every specimen, without a word on where x lies."""
        if not self.averaged:
            return self.law.curve(dict(zip(self.law.names, self.best.T, strict=True)), x).numpy()
        return np.concatenate([(y * w[..., None]).sum(1).numpy() for y, w, _ in self._node_curves(x)])

    def band(self, x: np.ndarray, level: float | None = None, *, noise: bool = False) -> Band:
        """Return the pointwise interval of every specimen's curve.

        Args:
            x: (points,), in the unit of the law's x.
            level: probability between 0 and 1; the fit's own level if None.
            noise: True for where a new measurement falls (adds all of the noise), False for the curve itself (adds
                only the specimen's own smooth departure from the law).
        """
        x, level = _abscissa(x), probability(self.level if level is None else level)
        warn_beyond(self.prior, x.numpy(), "band")
        return self._band(x, level, noise=noise)

    def _band(self, x: Tensor, level: float, *, noise: bool = False) -> Band:
        """Return the band, without a word on where x lies."""
        tail = 0.5 * (1 - level)
        ends = []
        for y, w, rows in self._node_curves(x):
            sd = torch.from_numpy((self.noise if noise else self.wander)[rows])
            if noise and self.outliers is not None:
                y = y + self.outliers.errors(y.shape[1], sd)[..., None]
            elif sd.any():
                y = y + normal_nodes(y.shape[1])[:, None] * sd[:, None, None]
            ends.append(torch.stack(weighted_quantiles(y.mT, w[:, None], (tail, 1 - tail))))
        lower, upper = torch.cat(ends, 1).numpy()
        withheld = np.array([bool(reason) for reason in self.reasons])[:, None]
        return Band(x.numpy(), np.where(withheld, np.nan, lower), np.where(withheld, np.nan, upper), level)

    def _node_curves(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Yield (specimens, nodes, points) curves at the nodes with their weights, a chunk of specimens at a time."""
        step = max(1, _CHUNK // (self.nodes.shape[1] * len(x)))
        for begin in range(0, len(self), step):
            rows = slice(begin, begin + step)
            params = dict(zip(self.law.names, self.nodes[rows].unbind(-1), strict=True))
            curves = self.law.curve(params, x)
            if self.bumps is not None:
                curves = curves + self.bumps[rows] @ self.discrepancy.basis(x).mT
            yield curves, self.weights[rows], rows

    def misfit_share(self, x: np.ndarray) -> np.ndarray:
        """Return (specimens,) the share of the curve's variance that is the law's misfit along x, mean over x."""
        if self.bumps is None:
            return np.zeros(len(self))
        x, shares = _abscissa(x), []
        for whole, weights, rows in self._node_curves(x):
            misfit = self.bumps[rows] @ self.discrepancy.basis(x).mT
            law = whole - misfit
            own, other = (_variance(part, weights).sum(-1) for part in (misfit, law))
            shares.append(own / (own + other).clamp(min=1e-300))
        return torch.cat(shares).numpy()

    @cached_property
    def kinds(self) -> np.ndarray | None:
        """(specimens, modes) probability that a specimen is of each kind of the prior's; None if it has one."""
        if self.prior is None or not self.prior.modes:
            return None
        design = self.prior.design([curve.conditions for curve in self.curves])
        fast = [self.law.names.index(name) for name in self.law.fast]
        members = self.prior.population(design).memberships(self.nodes[..., fast])
        return (members * self.weights).sum(-1).T.numpy()

    @cached_property
    def families(self) -> list[Membership]:
        """Whether each specimen is one of the prior's family: p and a sentence, see :func:`memberships`.

        Worked out when asked for, in some tenth of a second for specimens measured alike.

        Raises:
            ValueError: the fits rest on no prior.
        """
        if self.prior is None:
            raise ValueError(f"fits by {self.source} know no family; Calibrator fits with a prior")
        return memberships(self.prior, self.curves)

    def to_arviz(self, draws: int = 1000, generator: torch.Generator | None = None) -> Any:
        """Return draws of all specimens as ArviZ keeps them, see :func:`arviz_draws`."""
        return arviz_draws(self, draws, generator)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a specimen: name, points, value / lower / upper / from_data of each parameter, converged."""
        import pandas as pd

        columns: dict[str, object] = {
            "specimen": [curve.name for curve in self.curves],
            "points": [len(curve.x) for curve in self.curves],
        }
        for name, estimate in self.estimates().items():
            unit = self.law.parameters[name].unit
            for part in ("value", "lower", "upper"):
                label = name if part == "value" else f"{name} {part}"
                columns[f"{label} [{unit}]" if unit else label] = estimate[part]
            columns[f"{name} from data"] = estimate["from_data"]
        return pd.DataFrame({**columns, "converged": self.converged, "note": self.reasons})

    def __str__(self) -> str:
        shown = self.to_frame() if len(self) <= 20 else self[:20].to_frame()
        more = "" if len(self) <= 20 else f"\n... and {len(self) - 20} more; to_frame() has all"
        table = shown.drop(columns="note").to_string(index=False, float_format=lambda v: f"{v:.4g}")
        lines = [f"{self.law.name}, {len(self)} specimens, {self.source}, {self.level:.0%} intervals", table + more]
        return "\n".join([*lines, *([] if self.prior is None else outside_lines(self.prior, self.curves))])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the points and the expected curve of every specimen; returns the axes."""
        ax = axes(ax, self.law.x, self.law.y)
        every = np.concatenate([curve.x for curve in self.curves])
        stop = every.max() if len(every) else self.prior.x_range[1]
        x = np.linspace(every.min(initial=0.0), stop, 200)
        for i, (curve, y) in enumerate(zip(self.curves, self._mean(torch.from_numpy(x)), strict=True)):
            label = curve.name if len(self) <= 10 else None
            ax.plot(x, y, color=f"C{i % 10}", lw=1.2, alpha=1.0 if len(self) <= 10 else 0.5, label=label)
            ax.plot(curve.x, curve.y, "o", color=f"C{i % 10}", ms=4)
        if len(self) <= 10:
            ax.legend(frameon=False)
        return ax


@dataclass(frozen=True, eq=False)
class Calibration:
    """The fit of one specimen: ``fit["k"]`` is an :class:`Estimate`; it prints itself as a report.

    Attributes:
        batch: the same fit as a batch of one.
    """

    batch: Calibrations

    @property
    def law(self) -> Law:
        """The fitted law."""
        return self.batch.law

    @property
    def curve(self) -> Curve:
        """The specimen as given."""
        return self.batch.curves[0]

    @property
    def converged(self) -> bool:
        """True if the solve reached its solution."""
        return bool(self.batch.converged[0])

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.law.parameters:
            raise KeyError(f"Unknown parameter {name!r} of law {self.law.name}; it has {self.law.describe()}")
        return self.estimates[name]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """name -> :class:`Estimate`, in the order of the law."""
        batch, units = self.batch, self.law.parameters
        return {
            name: Estimate(
                name,
                *(float(e[part][0]) for part in ("value", "lower", "upper")),
                batch.level,
                units[name].unit,
                float(e["std"][0]),
                float(e["from_data"][0]),
                batch.reasons[0],
            )
            for name, e in batch.estimates().items()
        }

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the expected curve: (points,) in the unit of y, at x: (points,) in the unit of the law's x."""
        return self.batch.predict(x)[0]

    def band(self, x: np.ndarray, level: float | None = None, *, noise: bool = False) -> Band:
        """Return the pointwise interval of the curve, or of a new measurement with ``noise=True``.

        Args:
            x: (points,), in the unit of the law's x.
            level: probability between 0 and 1; the fit's own level if None.
            noise: True to add the noise of one measurement.
        """
        band = self.batch.band(x, level, noise=noise)
        return band._replace(lower=band.lower[0], upper=band.upper[0])

    def sample(self, n: int, generator: torch.Generator | None = None) -> pd.DataFrame:
        """Return n draws of the parameters in natural units, one column a parameter.

        Raises:
            ValueError: the fit has no intervals, and therefore no draws.
        """
        import pandas as pd

        if self.batch.reasons[0]:
            raise ValueError(f"no draws of {self.curve.name}: {self.batch.reasons[0]}")
        rows = torch.multinomial(self.batch.weights[0], n, replacement=True, generator=generator)
        drawn = dict(zip(self.law.names, self.batch.nodes[0, rows].T, strict=True))
        return pd.DataFrame({name: value.numpy() for name, value in self.law.constrain(drawn).items()})

    def to_arviz(self, draws: int = 1000, generator: torch.Generator | None = None) -> Any:
        """Return draws as ArviZ keeps them, see :func:`arviz_draws`."""
        return arviz_draws(self.batch, draws, generator)

    @cached_property
    def family(self) -> Membership:
        """Whether the specimen is one of the prior's family: ``fit.family.p``, and a sentence as its text.

        Raises:
            ValueError: the fit rests on no prior.
        """
        return self.batch.families[0]

    def next_measurement(
        self, candidates: np.ndarray, target: Target | None = None, *, sigma: float | np.ndarray | None = None
    ) -> NextMeasurement:
        """Return how much one more measurement at each candidate is expected to teach; ``.best`` is where to measure.

        Args:
            candidates: (candidates,) where the next measurement could be, in the unit of the law's x.
            target: what is to become certain: a parameter's name, the x at which the curve is to be known, or a
                function of the natural parameters, name -> (nodes,), that returns (nodes,) in torch; all of the
                specimen's parameters together if None.
            sigma: standard deviation of the next measurement, one number or (candidates,); the fit's noise if None.

        Raises:
            ValueError: no candidate, one that is not finite or outside the law's domain, a fit without intervals, an
                unknown target or one of which nothing is open.
        """
        plan = next_measurement(self, candidates, target, sigma=sigma)
        warn_beyond(self.batch.prior, np.array([plan.best]), "next measurement")
        return plan

    def correlation(self) -> np.ndarray:
        """Return (parameters, parameters): correlation of the unconstrained parameters."""
        nodes, weights = self.batch.nodes[0], self.batch.weights[0]
        covariance = np.atleast_2d(np.cov(nodes.T.numpy(), aweights=weights.numpy(), ddof=0))
        sd = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            return covariance / np.outer(sd, sd)

    def residuals(self) -> np.ndarray:
        """Return (points,): measured minus expected, in the unit of y."""
        if not len(self.curve):
            return np.zeros(0)
        return self.curve.y - self.batch._mean(torch.tensor(self.curve.x))[0]

    def outlier_probability(self) -> np.ndarray:
        """Return (points,): the probability that each measurement is an outlier; 0 where the prior knows of none."""
        batch, curve = self.batch, self.curve
        if batch.outliers is None or not len(curve):
            return np.zeros(len(curve.x))
        sigma = np.full(len(curve.x), np.nan) if curve.sigma is None else curve.sigma
        inverse_sd = torch.from_numpy(1.0 / np.where(np.isfinite(sigma), sigma, batch.noise[0]))
        y, weights, _ = next(batch._node_curves(torch.tensor(curve.x)))
        chance = batch.outliers.probability(y - torch.tensor(curve.y), inverse_sd)
        return (weights[..., None] * chance).sum(1)[0].numpy()

    def to_frame(self) -> pd.DataFrame:
        """Return one row a parameter: value, lower, upper, unit, std, from_data, reason."""
        import pandas as pd

        rows = [vars(estimate) for estimate in self.estimates.values()]
        return pd.DataFrame(rows).rename(columns={"name": "parameter"}).set_index("parameter")

    def __str__(self) -> str:
        return report.text(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the points, the expected curve and its band; returns the axes."""
        return report.draw(self, ax)


def _variance(values: Tensor, weights: Tensor) -> Tensor:
    """Return (specimens, points) the weighted variance over the nodes of values (specimens, nodes, points)."""
    w = weights[..., None]
    return (w * (values - (w * values).sum(1, keepdim=True)) ** 2).sum(1)


def _abscissa(x: np.ndarray) -> Tensor:
    """Return x as a (points,) float64 tensor; raises ValueError where it is not finite or not flat."""
    x = np.array(x, dtype=float)  # a copy: torch warns of arrays that it must not write to
    if x.ndim != 1:
        raise ValueError(f"x has shape {x.shape}; pass a flat array, (points,)")
    if not np.isfinite(x).all():
        raise ValueError(f"x[{int((~np.isfinite(x)).argmax())}] is not finite")
    return torch.from_numpy(x)
