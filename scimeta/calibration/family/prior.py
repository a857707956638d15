"""What past specimens say of the next one's parameters: a population, its noise, and how it depends on conditions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scimeta.calibration.family import prior_report
from scimeta.calibration.family.conditions import activation_energy, condition_value
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.misfit import Misfit
from scimeta.calibration.family.mixture import Gaussian, Mixture, Mode, is_covariance, positive_definite, tails
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior_file import prior_content, prior_fields, read_prior_file
from scimeta.calibration.fits.export import numpyro_text, pymc_text
from scimeta.calibration.intervals import Estimate
from scimeta.calibration.laws.law import Law
from scimeta.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


__all__ = ["Mode", "Prior", "read_prior_file"]


@dataclass(frozen=True, eq=False)
class Prior:
    """A Gaussian population of unconstrained parameters, theta ~ N(B' z, C), and the noise of a measurement.

    z = (1, (condition - centre) / scale). Made by :func:`learn_prior`, or by hand from published values.

    Attributes:
        law: the law whose parameters these are.
        coefficients: (1 + conditions, fast): the mean at the centre, then its change per scale of each condition.
        covariance: (fast, fast), of specimens around their mean; unconstrained.
        noise: standard deviation of one measurement around the law (and its misfit), in the unit of y.
        conditions: names of the conditions that move the mean.
        centre, scale: (conditions,).
        shared: name -> (value, standard error), unconstrained: parameters that are one value for the family.
        past: specimen -> (fast,) posterior means of the specimens that it was learned from, moved to the conditions'
            centre.
        x_range: smallest and largest x among them.
        converged: True if the learning reached its fixed point.
        misfit: what the law gets wrong in the same way in every specimen; None if nothing of the kind was found.
        wander: the part of the noise that is no scatter but a smooth departure of each specimen from the law, as a
            standard deviation; it widens the bands of a curve.
        modes: the kinds of specimens that the population consists of, if there are several; coefficients and
            covariance are then those of all specimens together.
        outliers: which part of the measurements is wrong and how far off; None if none is. The noise is that of the
            others.
        coefficient_errors: (1 + conditions, fast) standard errors of the coefficients; None where they are not known;
            taken from their covariance where that is given.
        discrepancy: what the law misses along x, in all specimens and in each; None if nothing of the kind was found.
            It and outliers exclude each other.
        objective: what the means were learned for: "likelihood" or "predictive".
        coefficient_covariance: (1 + conditions, fast, 1 + conditions, fast) of the estimated coefficients; None where
            it is not known.
        ranges: name -> (smallest, largest) of every condition among the past specimens; empty where not known.

    Raises:
        ValueError: shapes that do not fit the law, a covariance that is not positive definite, a noise that is not
            positive.
    """

    law: Law
    coefficients: np.ndarray
    covariance: np.ndarray
    noise: float
    conditions: tuple[str, ...] = ()
    centre: np.ndarray = field(default_factory=lambda: np.zeros(0))
    scale: np.ndarray = field(default_factory=lambda: np.ones(0))
    shared: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    past: Mapping[str, np.ndarray] = field(default_factory=dict)
    x_range: tuple[float, float] = (0.0, 1.0)
    converged: bool = True
    misfit: Misfit | None = None
    wander: float = 0.0
    modes: tuple[Mode, ...] = ()
    outliers: Outliers | None = None
    coefficient_errors: np.ndarray | None = None
    discrepancy: Discrepancy | None = None
    objective: str = "likelihood"
    coefficient_covariance: np.ndarray | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fast, known = len(self.law.fast), len(self.conditions)
        shapes = {"coefficients": (1 + known, fast), "covariance": (fast, fast), "centre": (known,), "scale": (known,)}
        for name, shape in shapes.items():
            value = np.asarray(getattr(self, name), dtype=float)
            object.__setattr__(self, name, value)
            if value.shape != shape:
                raise ValueError(f"prior of law {self.law.name}: {name} has shape {value.shape}; expected {shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"prior of law {self.law.name}: {name} is not finite")
        if not positive_definite(self.covariance):
            raise ValueError(f"prior of law {self.law.name}: the covariance is not positive definite")
        if not (np.isfinite(self.noise) and self.noise > 0):
            raise ValueError(f"prior of law {self.law.name}: noise must be positive; got {self.noise}")
        if (self.scale <= 0).any() or not self.x_range[0] <= self.x_range[1]:
            raise ValueError(f"prior of law {self.law.name}: a scale is not positive, or the x range runs backwards")
        for name, row in self.past.items():
            if np.shape(row) != (fast,) or not np.isfinite(row).all():
                raise ValueError(f"prior of law {self.law.name}: past specimen {name!r} needs {fast} finite values")
        if not 0.0 <= self.wander <= self.noise:
            raise ValueError(
                f"prior of law {self.law.name}: wander must lie between 0 and the noise; got {self.wander}"
            )
        errors = self.coefficient_errors
        if errors is not None and (np.shape(errors) != self.coefficients.shape or not (np.asarray(errors) >= 0).all()):
            raise ValueError(
                f"prior of law {self.law.name}: coefficient_errors must be {self.coefficients.shape}, not negative"
            )
        self._check_coefficients()
        self._check_modes()
        self._check_outliers()
        missing = set(self.law.names) - set(self.law.fast) - set(self.shared)
        if missing:
            raise ValueError(f"prior of law {self.law.name}: no value for the shared {', '.join(sorted(missing))}")

    def _check_coefficients(self) -> None:
        """Raise ValueError unless the coefficients' covariance and the ranges make sense; takes the errors from it."""
        own, size = self.coefficient_covariance, self.coefficients.size
        if own is not None:
            own = np.asarray(own, dtype=float)
            if own.shape != 2 * self.coefficients.shape or not is_covariance(own.reshape(size, size)):
                raise ValueError(
                    f"prior of law {self.law.name}: coefficient_covariance must be a covariance of shape "
                    f"{2 * self.coefficients.shape}"
                )
            object.__setattr__(self, "coefficient_covariance", own)
            errors = np.sqrt(np.diag(own.reshape(size, size)).clip(min=0.0)).reshape(self.coefficients.shape)
            object.__setattr__(self, "coefficient_errors", errors)
        for name, ends in self.ranges.items():
            if len(ends) != 2 or not np.isfinite(ends).all() or not ends[0] <= ends[1]:
                raise ValueError(f"prior of law {self.law.name}: the range of {name!r} is {ends}; give (least, most)")

    def _check_outliers(self) -> None:
        """Raise ValueError unless the outliers' numbers make sense and stand alone."""
        if self.outliers is None:
            return
        share, shift, spread = self.outliers
        if not (0.0 < share < 1.0 and 0.0 <= shift < np.inf and 0.0 < spread < np.inf):
            raise ValueError(
                f"prior of law {self.law.name}: outliers need a share between 0 and 1, a shift of 0 or more and a "
                f"positive spread; got {self.outliers}"
            )
        if self.discrepancy is not None:
            raise ValueError(f"prior of law {self.law.name}: outliers and a discrepancy exclude each other; drop one")

    def _check_modes(self) -> None:
        """Raise ValueError unless the modes have the population's shapes and share all of it."""
        modes = tuple(
            Mode(float(m[0]), *(None if part is None else np.asarray(part, dtype=float) for part in m[1:]))
            for m in self.modes
        )
        object.__setattr__(self, "modes", modes)
        for i, (share, coefficients, covariance, own) in enumerate(modes):
            name = f"prior of law {self.law.name}: mode {i + 1}"
            if coefficients.shape != self.coefficients.shape or covariance.shape != self.covariance.shape:
                raise ValueError(
                    f"{name} has coefficients {coefficients.shape} and covariance {covariance.shape}; expected "
                    f"{self.coefficients.shape} and {self.covariance.shape}"
                )
            if not (0.0 < share < 1.0 and np.isfinite(coefficients).all()):
                raise ValueError(f"{name} needs finite coefficients and a share between 0 and 1; its share is {share}")
            if not positive_definite(covariance):
                raise ValueError(f"{name}: the covariance is not positive definite")
            if own is not None and own.shape != 2 * self.coefficients.shape:
                raise ValueError(f"{name}: coefficient_covariance must have shape {2 * self.coefficients.shape}")
        if modes and abs(sum(mode.share for mode in modes) - 1.0) > 1e-6:
            raise ValueError(f"prior of law {self.law.name}: the modes' shares do not add up to 1")

    @cached_property
    def corrected_law(self) -> Law:
        """The law with the family's misfit added to what it predicts; the law itself if there is none."""
        return self.law if self.misfit is None else self.misfit.corrected(self.law)

    @cached_property
    def departure(self) -> Discrepancy | None:
        """The discrepancy that is expected of a new specimen: wider than that of the past, which was a sample."""
        return self.discrepancy and self.discrepancy.predictive(len(self.past))

    @property
    def dof(self) -> float:
        """Degrees of freedom with which the spread is known, of the least known kind; inf for a prior set by hand."""
        least = min((mode.share for mode in self.modes), default=1.0) * len(self.past)
        return max(least - sum(self.coefficients.shape) + 1, 3) if self.past else np.inf

    @property
    def whole(self) -> Mode:
        """All specimens together as one kind.

        Where only the errors of the coefficients are known, those of one condition are taken to correlate as the
        parameters do, and those of different conditions not at all.
        """
        own, errors = self.coefficient_covariance, self.coefficient_errors
        if own is None and errors is not None:
            share = errors / np.sqrt(np.diag(self.covariance))
            own = np.einsum("rq,rf,qg,fg->rfqg", np.eye(len(share)), share, share, self.covariance)
        return Mode(1.0, self.coefficients, self.covariance, own)

    @property
    def origin(self) -> str:
        """Where the prior comes from, for reports."""
        source = f"from {len(self.past)} specimens" if self.past else "set by hand"
        return source if self.converged else f"{source}, whose learning did NOT CONVERGE"

    def design(self, conditions: Sequence[Mapping[str, float]], names: Sequence[str] | None = None) -> np.ndarray:
        """Return (specimens, 1 + conditions): a one and the scaled conditions of every specimen.

        Raises:
            ValueError: a specimen lacks a condition.
        """
        values = np.empty((len(conditions), len(self.conditions)))
        for i, given in enumerate(conditions):
            for j, name in enumerate(self.conditions):
                who = names[i] if names else f"specimen {i}"
                try:
                    value = condition_value(name, given)
                except ValueError as error:
                    raise ValueError(f"{who}: {error}") from None
                if value is None or not np.isfinite(value):
                    raise ValueError(
                        f"{who} has no condition {name!r}; the prior needs "
                        f"{', '.join(self.conditions)}; given are {', '.join(given) or 'none'}"
                    )
                values[i, j] = value
        return np.column_stack([np.ones(len(conditions)), (values - self.centre) / self.scale])

    def slopes(self) -> pd.DataFrame:
        """Return the change of each unconstrained parameter per unit of each condition, one row a condition."""
        import pandas as pd

        return pd.DataFrame(self.coefficients[1:] / self.scale[:, None], list(self.conditions), list(self.law.fast))

    def activation_energy(self, parameter: str, level: float = 0.9) -> Estimate:
        """Return the activation energy of a rate, kJ/mol, of a prior learned with ``conditions=["1/T"]``.

        See :func:`activation_energy`.
        """
        return activation_energy(self, parameter, level)

    def gaussian(self, design: np.ndarray) -> Gaussian:
        """Return what is expected of new specimens with this design matrix: (specimens, 1 + conditions).

        Wider than the population, because mean and covariance were learned from so many specimens only: the covariance
        at the design d is (C + d' V d) dof / (dof - 2), V being that of the estimated coefficients, so that a specimen
        far from the past is known less, as in every regression; see :func:`tails` for the
        factor. Nothing is added to a prior set by hand. Of several kinds it is the one Gaussian with mean and
        covariance of all together. The covariance is one for all specimens where the prior has no conditions.
        """
        mean = torch.from_numpy(design @ self.coefficients)
        return Gaussian(mean, torch.from_numpy(self._expected(self.whole, design)))

    def population(self, design: np.ndarray) -> Mixture:
        """Return what is expected of new specimens, kind by kind, each widened by what its own specimens leave open.

        Args:
            design: (specimens, 1 + conditions), of :meth:`design`.
        """
        if not self.modes:
            return Mixture.of(self.gaussian(design))
        covariances = np.broadcast_arrays(*(self._expected(mode, design) for mode in self.modes))
        return Mixture(
            torch.tensor([mode.share for mode in self.modes], dtype=torch.float64).log(),
            torch.from_numpy(np.stack([design @ mode.coefficients for mode in self.modes], 1)),
            torch.from_numpy(np.stack(covariances, -3)),
        )

    def _expected(self, kind: Mode, design: np.ndarray) -> np.ndarray:
        """Return the covariance expected of new specimens of a kind: (fast, fast), or one for each row of design."""
        covariance, own = self.spread(kind)
        rows = design if self.conditions else design[:1]
        widened = covariance + np.einsum("sr,rfqg,sq->sfg", rows, own, rows)
        return widened if self.conditions else widened[0]

    def spread(self, kind: Mode) -> tuple[np.ndarray, np.ndarray]:
        """Return C and V of a kind, both times dof / (dof - 2): C + d' V d is expected of specimens with the design d.

        Where V, (1 + conditions, fast, 1 + conditions, fast), is not known it is that of ordinary regression on
        unrelated conditions, C / specimens for each coefficient; of a prior set by hand it is zero.
        """
        count, own = kind.share * len(self.past), kind.coefficient_covariance
        if own is None:
            of_each = (1.0 / count if count else 0.0) * np.eye(len(self.coefficients))
            own = np.einsum("rq,fg->rfqg", of_each, kind.covariance)
        factor = tails(count, *self.coefficients.shape) if count else 1.0
        return factor * kind.covariance, factor * own

    def shared_values(self) -> dict[str, torch.Tensor]:
        """Return name -> unconstrained scalar of the shared parameters."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, (value, _) in self.shared.items()}

    def sample(self, n: int, rng: np.random.Generator, conditions: Mapping[str, float] | None = None) -> pd.DataFrame:
        """Return n new specimens of the population in natural units, one column a parameter.

        Args:
            n: number of specimens.
            rng: source of the draws.
            conditions: their conditions; the centre if None.
        """
        import pandas as pd

        given = dict(zip(self.conditions, self.centre, strict=True)) if conditions is None else conditions
        design = self.design([given])
        modes = self.modes or (self.whole,)
        each = rng.multinomial(n, [mode.share for mode in modes]) if self.modes else [n]
        parts = [((design @ m.coefficients)[0], m.covariance, k) for m, k in zip(modes, each, strict=True)]
        drawn = np.concatenate([rng.multivariate_normal(*part) for part in parts])
        if self.modes:
            rng.shuffle(drawn)
        columns = dict(zip(self.law.fast, torch.from_numpy(drawn).unbind(-1), strict=True))
        columns |= {name: value.expand(n) for name, value in self.shared_values().items()}
        natural = self.law.constrain({name: columns[name] for name in self.law.names})
        return pd.DataFrame({name: value.numpy() for name, value in natural.items()})

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """Return one row a parameter: median, lower, upper (holding ``level`` of the specimens at the centre), unit."""
        import pandas as pd
        from scipy import stats

        z = stats.norm.ppf(0.5 + 0.5 * level)
        spread = dict(self.shared) | {
            name: (self.coefficients[0, i], self.covariance[i, i] ** 0.5) for i, name in enumerate(self.law.fast)
        }
        rows = {}
        for name, parameter in self.law.parameters.items():
            mean, sd = spread[name]
            ends = [mean, mean - z * sd, mean + z * sd]
            if self.modes and not parameter.shared:
                ends = self._quantiles(self.law.fast.index(name), (0.5, 0.5 - 0.5 * level, 0.5 + 0.5 * level))
            ends = self.law.constrain({name: torch.tensor(ends, dtype=torch.float64)})[name].tolist()
            rows[name] = (*ends, parameter.unit, parameter.shared)
        return pd.DataFrame.from_dict(rows, "index", columns=["median", "lower", "upper", "unit", "shared"])

    def _quantiles(self, parameter: int, levels: Sequence[float]) -> list[float]:
        """Return quantiles of one parameter, unconstrained, over all kinds at the conditions' centre."""
        from scipy import optimize, special

        kinds = [(m.share, m.coefficients[0, parameter], m.covariance[parameter, parameter] ** 0.5) for m in self.modes]
        lowest, highest = (f(mean + side * 9.0 * sd for _, mean, sd in kinds) for f, side in ((min, -1), (max, 1)))

        def below(u: float, level: float) -> float:
            return sum(share * special.ndtr((u - mean) / sd) for share, mean, sd in kinds) - level

        return [float(optimize.brentq(below, lowest, highest, (level,))) for level in levels]

    def __str__(self) -> str:
        return prior_report.text(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the population: the median curve, where 50 and 90 % of the specimens lie, and the past specimens."""
        return prior_report.draw(self, ax)

    def to_pymc(self) -> str:
        """Return the prior as Python text for a PyMC model, see :func:`pymc_text`."""
        return pymc_text(self)

    def to_numpyro(self) -> str:
        """Return the prior as Python text for a NumPyro model, see :func:`numpyro_text`."""
        return numpyro_text(self)

    def save(self, path: str | Path) -> Path:
        """Write the prior as a readable JSON file, whole or not at all; returns the path."""
        text = json.dumps(prior_content(self), indent=1, allow_nan=False)
        return write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))

    @staticmethod
    def load(path: str | Path, law: Law) -> Prior:
        """Return the prior of a file written by :meth:`save`.

        Args:
            path: the JSON file.
            law: the law that it must be of.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is truncated, not a prior, or of another law.
        """
        fields = prior_fields(path, law)
        try:
            return Prior(law, **fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error
