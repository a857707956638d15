"""What a fit returns: estimates with intervals, a curve with a band, a report, a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits import report
from scimeta.calibration.fits.arviz import arviz_draws
from scimeta.calibration.fits.draws import Draws, LeastSquaresDraws, PosteriorDraws, outlier_probability
from scimeta.calibration.fits.membership import Membership, memberships
from scimeta.calibration.fits.next_measurement import NextMeasurement, Target, next_measurement
from scimeta.calibration.intervals import Band, Estimate, abscissa, probability
from scimeta.calibration.laws.law import Law

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Calibrations(Sequence["Calibration"]):
    """The fits of a batch of specimens; ``fits["name"]`` or ``fits[3]`` is one :class:`Calibration`.

    Attributes:
        law: the fitted law.
        curves: the specimens as given.
        draws: what carries estimates and bands: of the posterior, or around least squares.
        level: of the intervals.
        source: what the fit rests on, for the report.
        converged: (specimens,) bool.
        reasons: (specimens,) why the intervals of a specimen are withheld; "" where they are not.
        surprise: (specimens,) probability, under the prior, of points as far from what it expects, in closed form for a
            law near linear; 1 of fits without a prior.
        prior: of the family that the specimens are taken to belong to; None of fits without one.
    """

    law: Law
    curves: Sequence[Curve]
    draws: Draws
    level: float
    source: str
    converged: np.ndarray
    reasons: tuple[str, ...]
    surprise: np.ndarray
    prior: Prior | None = None

    def __len__(self) -> int:
        return len(self.curves)

    def __iter__(self) -> Iterator[Calibration]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, which: int | str) -> Calibration: ...

    @overload
    def __getitem__(self, which: slice) -> Calibrations: ...

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
            self.draws.rows(rows),
            self.level,
            self.source,
            self.converged[rows],
            tuple(self.reasons[i] for i in rows),
            self.surprise[rows],
            self.prior,
        )

    @cached_property
    def _withheld(self) -> np.ndarray:
        return np.array([bool(reason) for reason in self.reasons])

    def estimates(self) -> dict[str, dict[str, np.ndarray]]:
        """Return parameter -> value, lower, upper, std, from_data, at_bound, each (specimens,), in natural units."""
        return self._estimates

    @cached_property
    def _estimates(self) -> dict[str, dict[str, np.ndarray]]:
        result = {}
        for i, (name, interval) in enumerate(self.draws.intervals(0.5 * (1 - self.level)).items()):
            ends = {part: getattr(interval, part).numpy() for part in ("lower", "upper", "std")}
            ends = {part: np.where(self._withheld, np.nan, end) for part, end in ends.items()}
            shown = {"value": interval.value.numpy(), "from_data": self.draws.from_data[:, i]}
            result[name] = {**shown, **ends, "at_bound": interval.at_bound & ~self._withheld}
        return result

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Return the expected curve of every specimen: (specimens, points), in the unit of y.

        Warns where x lies far outside that of the past.

        Args:
            x: (points,), in the unit of the law's x; non-finite values raise ValueError.
        """
        at = abscissa(x)
        if self.prior is not None:
            self.prior.reach.warn_beyond(at.numpy(), "prediction")
        return self.draws.mean(at)

    def band(self, x: ArrayLike, level: float | None = None, *, noise: bool = False) -> Band:
        """Return the pointwise interval of every specimen's curve.

        Args:
            x: (points,), in the unit of the law's x.
            level: probability between 0 and 1; the fit's own level if None.
            noise: True for where a new measurement falls (adds all of the noise), False for the curve itself (adds
                only the specimen's own smooth departure from the law).
        """
        at, level = abscissa(x), probability(self.level if level is None else level)
        if self.prior is not None:
            self.prior.reach.warn_beyond(at.numpy(), "band")
        return self._band(at, level, noise=noise)

    def _band(self, x: Tensor, level: float, *, noise: bool = False) -> Band:
        """Return the band, without a word on where x lies."""
        tail = 0.5 * (1 - level)
        lower, upper = self.draws.quantiles(x, (tail, 1 - tail), noise=noise)
        withheld = self._withheld[:, None]
        return Band(x.numpy(), np.where(withheld, np.nan, lower), np.where(withheld, np.nan, upper), level)

    @cached_property
    def component_probabilities(self) -> np.ndarray | None:
        """(specimens, components) probability of each mixture component of the prior; None if it has one."""
        if self.prior is None or len(self.prior.components) == 1:
            return None
        design = self.prior.design([curve.conditions for curve in self.curves])
        fast = [self.law.names.index(name) for name in self.law.fast]
        members = self.prior.population(design).memberships(self.draws.nodes[..., fast])
        return (members * self.draws.weights).sum(-1).T.numpy()

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
        return arviz_draws(self.law, self.curves, self.draws.nodes, self.draws.weights, self.reasons, draws, generator)

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
        return pd.DataFrame(
            {**columns, "converged": self.converged, "note": report.notes(self.reasons, self.estimates())}
        )

    def __str__(self) -> str:
        shown = self.to_frame() if len(self) <= 20 else self[:20].to_frame()
        more = "" if len(self) <= 20 else f"\n... and {len(self) - 20} more; to_frame() has all"
        table = shown.drop(columns="note").to_string(index=False, float_format=lambda v: f"{v:.4g}")
        lines = [f"{self.law.name}, {len(self)} specimens, {self.source}, {self.level:.0%} intervals", table + more]
        told = [] if self.prior is None else [*self.prior.short_past, *self.prior.reach.lines(self.curves)]
        return "\n".join([*lines, *told])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the points and the expected curve of every specimen; returns the axes."""
        every = np.concatenate([curve.x for curve in self.curves])
        stop = every.max() if len(every) or self.prior is None else self.prior.x_range[1]
        x = np.linspace(every.min(initial=0.0), stop, 200)
        return report.draw_many(self.law, self.curves, x, self.draws.mean(torch.from_numpy(x)), ax)


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
        found, parts = {}, ("value", "lower", "upper", "std", "from_data")
        for name, e in batch.estimates().items():
            value, lower, upper, std, share = (float(e[part][0]) for part in parts)
            own = units[name].unit, std, share, batch.reasons[0], bool(e["at_bound"][0])
            found[name] = Estimate(name, value, lower, upper, batch.level, *own)
        return found

    def predict(self, x: ArrayLike) -> np.ndarray:
        """Return the expected curve: (points,) in the unit of y, at x: (points,) in the unit of the law's x."""
        return self.batch.predict(x)[0]

    def band(self, x: ArrayLike, level: float | None = None, *, noise: bool = False) -> Band:
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

        draws = self.batch.draws
        if self.batch.reasons[0]:
            raise ValueError(f"no draws of {self.curve.name}: {self.batch.reasons[0]}")
        rows = torch.multinomial(draws.weights[0], n, replacement=True, generator=generator)
        drawn = dict(zip(self.law.names, draws.nodes[0, rows].T, strict=True))
        return pd.DataFrame({name: value.numpy() for name, value in self.law.constrain(drawn).items()})

    def to_arviz(self, draws: int = 1000, generator: torch.Generator | None = None) -> Any:
        """Return draws as ArviZ keeps them, see :func:`arviz_draws`."""
        return self.batch.to_arviz(draws, generator)

    @cached_property
    def family(self) -> Membership:
        """Whether the specimen is one of the prior's family: ``fit.family.p``, and a sentence as its text.

        Raises:
            ValueError: the fit rests on no prior.
        """
        return self.batch.families[0]

    def next_measurement(
        self, candidates: ArrayLike, target: Target | None = None, *, sigma: ArrayLike | None = None
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
        plan = next_measurement(
            self.law, self.curve, self.batch.draws, candidates, target, sigma=sigma, reason=self.batch.reasons[0]
        )
        if self.batch.prior is not None:
            self.batch.prior.reach.warn_beyond(np.array([plan.best]), "next measurement")
        return plan

    def correlation(self) -> np.ndarray:
        """Return (parameters, parameters): correlation of the unconstrained parameters."""
        nodes, weights = self.batch.draws.nodes[0], self.batch.draws.weights[0]
        covariance = np.atleast_2d(np.cov(nodes.T.numpy(), aweights=weights.numpy(), ddof=0))
        sd = np.sqrt(np.diag(covariance))
        with np.errstate(invalid="ignore", divide="ignore"):
            return covariance / np.outer(sd, sd)

    def residuals(self) -> np.ndarray:
        """Return (points,): measured minus expected, in the unit of y."""
        if not len(self.curve):
            return np.zeros(0)
        return self.curve.y - self.batch.draws.mean(torch.tensor(self.curve.x))[0]

    def outlier_probability(self) -> np.ndarray:
        """Return (points,): the probability that each measurement is an outlier; 0 where the prior knows of none."""
        return outlier_probability(self.batch.draws, self.curve)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a parameter: value, lower, upper, unit, std, from_data, reason."""
        import pandas as pd

        rows = [vars(estimate) for estimate in self.estimates.values()]
        return pd.DataFrame(rows).rename(columns={"name": "parameter"}).set_index("parameter")

    def __str__(self) -> str:
        batch = self.batch
        said = report.Report(
            f"{self.law.name} | {self.curve.name} | {report.points(self.curve)} | {batch.source}",
            tuple(self.estimates.values()),
            batch.prior is not None,
            self.correlation() if batch.draws.nodes.shape[1] > 1 else None,
            (*self._scatter(), *self._membership()),
            self.converged,
            batch.reasons[0],
        )
        return str(said)

    def _scatter(self) -> list[str]:
        """Return what the residuals are measured against, and what a classical report says of the whole fit."""
        draws, curve, prior = self.batch.draws, self.curve, self.batch.prior
        if not len(curve):
            return ["not measured: this is what the prior expects under its conditions"]
        residuals = self.residuals()
        lines = [report.scatter(self.law.y, residuals, curve, draws, learned=prior is not None)]
        if prior is not None and isinstance(draws, PosteriorDraws):
            return lines + report.discrepancy(draws, prior.x_range)
        joint = isinstance(draws, LeastSquaresDraws) and draws.joint
        lines += report.bounds(tuple(self.estimates.values()))
        held = int(draws.held[0]) if isinstance(draws, LeastSquaresDraws) else 0
        return lines + ([] if joint else report.goodness(residuals, curve, len(self.law.names) - held))

    def _membership(self) -> list[str]:
        """Return what the prior says of the specimen: component, outliers, whether it is of the family, its reach."""
        prior, curve = self.batch.prior, self.curve
        if prior is None:
            return []
        lines = report.components(self.batch.component_probabilities)
        lines += report.outliers(curve.x, self.outlier_probability(), self.law.x)
        if "family" in vars(self):  # worked out already: it takes a thousand fits
            lines.append(self.family.sentence)
        elif len(curve):
            lines.append(report.surprise(float(self.batch.surprise[0])))
        return [*lines, *prior.short_past, *map(str, prior.reach.outside(curve.conditions, curve.x))]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the points, the expected curve and its band; returns the axes."""
        mean, prior = self.batch.draws.mean, self.batch.prior
        stop = report.reach(self.curve.x, mean) if len(self.curve) or prior is None else prior.x_range[1]
        x = torch.linspace(float(self.curve.x.min(initial=0.0)), stop, 300, dtype=torch.float64)
        band = None if self.batch.reasons[0] else self.batch._band(x, self.batch.level)
        return report.draw(
            self.law,
            self.curve,
            tuple(self.estimates.values()),
            (x.numpy(), mean(x)[0]),
            None if (alone := self.batch.draws.law_alone(x)) is None else alone[0],
            band and band._replace(lower=band.lower[0], upper=band.upper[0]),
            self.outlier_probability() > 0.5,
            ax,
        )
