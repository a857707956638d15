"""What past specimens say of the next one: a family, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scimeta.calibration.family import prior_report
from scimeta.calibration.family.conditions import activation_energy
from scimeta.calibration.family.family import Component, Family, check_family
from scimeta.calibration.family.mixture import Gaussian, Mixture, degrees_of_freedom, is_covariance, tails
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior_file import prior_content, prior_parts, read_prior_file
from scimeta.calibration.family.probabilistic import numpyro_text, pymc_text
from scimeta.calibration.family.provenance import NO_COVARIATES, Covariates, Learned, level_effects
from scimeta.calibration.family.ranges import Reach
from scimeta.calibration.intervals import Estimate
from scimeta.calibration.laws.law import Law
from scimeta.files import PRIOR, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MANY = 5  # specimens for each regressor and parameter: from fewer, what is known of a spread is told

__all__ = ["Component", "Prior", "read_prior_file"]


@dataclass(frozen=True, eq=False)
class Prior:
    """A family of specimens with its provenance: what is expected of the next one.

    Made by :func:`learn_prior`, read by :meth:`load`, or by hand from published values by :meth:`by_hand`.

    Attributes:
        family: the population of parameters, and what lies between curves and measurements.
        covariates: the conditions that move its means.
        learned: the past that it was learned from; None of a prior set by hand.

    Raises:
        ValueError: shapes that do not fit the law, a covariance that is not positive definite, a noise that is not
            positive.
    """

    family: Family
    covariates: Covariates = NO_COVARIATES
    learned: Learned | None = None

    def __post_init__(self) -> None:
        where, covariates = f"prior of law {self.law.name}", self.covariates
        centre, scale = (np.asarray(part, dtype=float) for part in (covariates.centre, covariates.scale))
        object.__setattr__(self, "covariates", covariates._replace(centre=centre, scale=scale))
        lacking = covariates.indicators.keys() - set(covariates.names)
        if lacking:
            raise ValueError(
                f"{where}: no column for {min(lacking)!r}; there are {', '.join(covariates.names) or 'none'}"
            )
        for name, value in (("centre", centre), ("scale", scale)):
            if value.shape != (len(covariates.names),):
                raise ValueError(f"{where}: {name} has shape {value.shape}; expected {(len(covariates.names),)}")
            if not np.isfinite(value).all():
                raise ValueError(f"{where}: {name} is not finite")
        check_family(self.family, len(covariates.names))
        if (scale <= 0).any() or not self.x_range[0] <= self.x_range[1]:
            raise ValueError(f"{where}: a scale is not positive, or the x range runs backwards")
        for name, ends in covariates.ranges.items():
            if len(ends) != 2 or not np.isfinite(ends).all() or not ends[0] <= ends[1]:
                raise ValueError(f"{where}: the range of {name!r} is {ends}; give (least, most)")
        if self.learned is not None:
            self._check_learned(where, self.learned)

    def _check_learned(self, where: str, learned: Learned) -> None:
        """Raise ValueError unless past specimens and the coefficients' covariances have the family's shapes."""
        count, fast = len(self.family.weights), len(self.law.fast)
        for name, row in learned.specimens.items():
            if np.shape(row) != (fast,) or not np.isfinite(row).all():
                raise ValueError(f"{where}: past specimen {name!r} needs {fast} finite values")
        if learned.coefficient_covariances is not None:
            own = np.asarray(learned.coefficient_covariances, dtype=float)
            object.__setattr__(self, "learned", learned._replace(coefficient_covariances=own))
            size = fast * (1 + len(self.covariates.names))
            expected = (count, *2 * tuple(self.family.coefficients.shape[1:]))
            if own.shape != expected or not all(is_covariance(one.reshape(size, size)) for one in own):
                raise ValueError(f"{where}: coefficient_covariances must be covariances of shape {expected}")

    @staticmethod
    def by_hand(
        law: Law,
        coefficients: np.ndarray,
        covariance: np.ndarray,
        noise: float,
        covariates: Covariates | None = None,
        *,
        shared: Mapping[str, tuple[float, float]] | None = None,
    ) -> Prior:
        """Return the prior of one Gaussian, theta ~ N(B' z, C), with values set by hand.

        Args:
            law: the law whose parameters these are.
            coefficients: (1 + conditions, fast): the mean at the centre, then its change per scale of each condition.
            covariance: (fast, fast), of specimens around their mean; unconstrained.
            noise: standard deviation of one measurement, in the unit of y.
            covariates: the conditions that move the mean; none if None.
            shared: name -> (value, standard error), unconstrained, of parameters that are one value for the family.

        >>> from scimeta.calibration.laws.law import Parameter
        >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
        >>> Prior.by_hand(decay, [[0.0]], [[0.25]], noise=0.05).sample(2, np.random.default_rng(0)).round(2)
            tau
        0  1.06
        1  0.94
        """
        family, shared = Family.gaussian(law, coefficients, covariance, noise), shared or {}
        values = {name: torch.tensor(value, dtype=torch.float64) for name, (value, _) in shared.items()}
        family = replace(family, shared=values, shared_errors={name: error for name, (_, error) in shared.items()})
        return Prior(family, covariates or NO_COVARIATES)

    @property
    def law(self) -> Law:
        """The law whose parameters these are."""
        return self.family.law

    @property
    def coefficients(self) -> np.ndarray:
        """(1 + conditions, fast): the mean of all specimens at the centre, then its change per scale."""
        return self.family.pooled.coefficients

    @property
    def covariance(self) -> np.ndarray:
        """(fast, fast): of all specimens around their mean, at the conditions' centre; unconstrained."""
        return self.family.pooled.covariance

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of the mixture, one or more."""
        return self.family.components

    @property
    def noise(self) -> float:
        """Standard deviation of one measurement around the law, in the unit of y."""
        return self.family.noise

    @property
    def outliers(self) -> Outliers | None:
        """Which part of the measurements is wrong and how far off; None if none is."""
        return self.family.outliers

    @property
    def shared(self) -> dict[str, tuple[float, float]]:
        """name -> (value, standard error), unconstrained: parameters that are one value for the family."""
        return {name: (float(v), self.family.shared_errors[name]) for name, v in self.family.shared.items()}

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that move the mean, or forms of them."""
        return self.covariates.conditions

    @property
    def past(self) -> Mapping[str, np.ndarray]:
        """name -> (fast,) posterior mean of each specimen that it was learned from, moved to the conditions' centre."""
        return {} if self.learned is None else self.learned.specimens

    @property
    def x_range(self) -> tuple[float, float]:
        """Smallest and largest x among the past specimens."""
        return (0.0, 1.0) if self.learned is None else self.learned.x_range

    @property
    def converged(self) -> bool:
        """True if the learning reached its fixed point."""
        return self.learned is None or self.learned.converged

    @property
    def coefficient_errors(self) -> np.ndarray | None:
        """(1 + conditions, fast) standard errors of the coefficients; None where they are not known.

        Those of several components hold, beside each one's own, that so many specimens tell their weights.
        """
        if self.learned is None or self.learned.coefficient_covariances is None:
            return None
        weights, apart = self.family.weights.numpy(), self.family.coefficients.numpy() - self.coefficients
        square = np.einsum("k,krfrf->rf", weights**2, self.learned.coefficient_covariances)
        square = square + np.einsum("k,krf->rf", weights, apart**2) / max(len(self.past), 1)
        return np.sqrt(square.clip(min=0.0))

    @property
    def reach(self) -> Reach:
        """How far the past reaches in x and conditions."""
        return Reach(self.law.x, self.covariates, self.learned)

    @property
    def dof(self) -> float:
        """Degrees of freedom with which the spread is known, of the least known component; inf if set by hand."""
        least = float(self.family.weights.min()) * len(self.past)
        return degrees_of_freedom(least, *self.family.coefficients.shape[1:]) if self.past else np.inf

    @property
    def short_past(self) -> list[str]:
        """A sentence on how few specimens tell the spread, and what fits make of it; nothing where there are many."""
        if not self.past:
            return []
        total, (_, regressors, fast) = len(self.past), self.family.coefficients.shape
        count = float(self.family.weights.min()) * total
        many = count >= _MANY * (regressors + fast)
        return [] if many else [prior_report.short_past(count, regressors, fast, total)]

    @property
    def origin(self) -> str:
        """Where the prior comes from, for reports."""
        source = f"from {len(self.past)} specimens" if self.past else "set by hand"
        return source if self.converged else f"{source}, whose learning did NOT CONVERGE"

    def design(self, conditions: Sequence[Mapping[str, float | str]], names: Sequence[str] | None = None) -> np.ndarray:
        """Return (specimens, 1 + columns): a one and the scaled conditions of every specimen.

        Raises:
            ValueError: a specimen lacks a condition, or has a level of it that the past never saw.
        """
        return self.covariates.design(conditions, names)

    def slopes(self) -> pd.DataFrame:
        """Return the change of each unconstrained parameter per unit of each condition, one row a condition.

        Of a condition that is text there is a row for each level but the first, from which it is the difference.
        """
        import pandas as pd

        slopes = self.coefficients[1:] / self.covariates.scale[:, None]
        return pd.DataFrame(slopes, list(self.covariates.names), list(self.law.fast))

    def level_effects(self, level: float = 0.9) -> pd.DataFrame:
        """Return what the levels of conditions that are text do to each parameter, see :func:`level_effects`."""
        known = self.coefficients, self.covariates, self.coefficient_errors, self._regression_dof
        return level_effects(self.law, *known, level)

    def activation_energy(self, parameter: str, level: float = 0.9) -> Estimate:
        """Return the activation energy of a rate, kJ/mol, of a prior learned with ``conditions=["1/T"]``.

        See :func:`activation_energy`.
        """
        slopes, errors = self.slopes(), self.coefficient_errors
        errors = None if errors is None else errors[1:] / self.covariates.scale[:, None]
        return activation_energy(self.law, parameter, slopes, errors, self._regression_dof, level)

    @property
    def _regression_dof(self) -> int:
        """Degrees of freedom of the coefficients' errors."""
        return max(len(self.past) - len(self.coefficients), 1)

    def gaussian(self, design: np.ndarray) -> Gaussian:
        """Return :meth:`population` as the one Gaussian with mean and covariance of all components together.

        Args:
            design: (specimens, 1 + columns), of :meth:`design`.
        """
        return self.population(design).gaussian()

    def population(self, design: np.ndarray) -> Mixture:
        """Return what is expected of new specimens, component by component.

        Wider than the family, because means and covariances were learned from so many specimens only: the covariance
        at the design d is (C + d' V d) dof / (dof - 2), V being that of the estimated coefficients, so that a specimen
        far from the past is known less, as in every regression; see :func:`tails` for the factor. Nothing is added to
        a prior set by hand. The covariances are one for all specimens where the prior has no conditions.

        Args:
            design: (specimens, 1 + columns), of :meth:`design`.
        """
        rows, (spread, errors) = torch.from_numpy(np.asarray(design)), map(torch.from_numpy, self.spread())
        found = self.family.population(rows)
        own = spread + torch.einsum("sr,krfqg,sq->skfg", rows, errors, rows)
        return found._replace(covariances=own if self.conditions else own[0])

    def spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Return C and V of each component, times dof / (dof - 2): C + d' V d is expected of specimens of design d.

        Where V, (components, 1 + conditions, fast, 1 + conditions, fast), is not known it is that of ordinary
        regression on unrelated conditions, C / specimens for each coefficient; of a prior set by hand it is zero.
        """
        spreads, errors = [], []
        known = None if self.learned is None else self.learned.coefficient_covariances
        for k, (weight, coefficients, covariance) in enumerate(self.components):
            count = weight * len(self.past)
            of_each = (1.0 / count if count else 0.0) * np.eye(len(coefficients))
            own = np.einsum("rq,fg->rfqg", of_each, covariance) if known is None else known[k]
            factor = tails(count, *coefficients.shape) if count else 1.0
            errors.append(factor * own)
            between = 0.0 if self.family.between is None else self.family.between.numpy()
            groups = len(set(self.learned.groups.values())) if self.learned is not None else 0
            apart = tails(groups, 1, covariance.shape[0]) if groups else factor
            spreads.append(factor * (covariance - between) + max(apart, factor) * between)
        return np.stack(spreads), np.stack(errors)

    def sample(
        self, n: int, rng: np.random.Generator, conditions: Mapping[str, float | str] | None = None
    ) -> pd.DataFrame:
        """Return n new specimens of the population in natural units, one column a parameter.

        Args:
            n: number of specimens.
            rng: source of the draws.
            conditions: their conditions; the centre if None.
        """
        import pandas as pd

        design = self.design([self.covariates.middle if conditions is None else conditions])
        weights = self.family.weights.numpy()
        each = rng.multinomial(n, weights / weights.sum()) if len(weights) > 1 else [n]
        parts = [((design @ c.coefficients)[0], c.covariance, k) for c, k in zip(self.components, each, strict=True)]
        drawn = np.concatenate([rng.multivariate_normal(*part) for part in parts])
        if len(weights) > 1:
            rng.shuffle(drawn)
        natural = self.law.constrain(self.family.parameters(torch.from_numpy(drawn)))
        return pd.DataFrame({name: value.numpy() for name, value in natural.items()})

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """Return one row a parameter: median, lower, upper (holding ``level`` of the specimens at the centre), unit."""
        return prior_report.frame(self.family, level)

    def __str__(self) -> str:
        energies = []
        for name in self.law.fast:
            try:
                energies.append(str(self.activation_energy(name)))
            except ValueError:  # no logarithm, or no 1/T
                continue
        known = self.family, self.covariates, self.learned, self.origin, self.slopes(), self.level_effects()
        return prior_report.text(*known, [*energies, *self.short_past])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the population: the median curve, where 50 and 90 % of the specimens lie, and the past specimens."""
        draws = self.sample(2000, np.random.default_rng(0))
        return prior_report.draw(self.family, self.covariates, self.past, self.x_range, self.origin, draws, ax)

    def to_pymc(self) -> str:
        """Return the prior as Python text for a PyMC model, see :func:`pymc_text`."""
        return pymc_text(self.family, self.covariates, self.spread(), self.origin)

    def to_numpyro(self) -> str:
        """Return the prior as Python text for a NumPyro model, see :func:`numpyro_text`."""
        return numpyro_text(self.family, self.covariates, self.spread(), self.origin)

    def save(self, path: str | Path) -> Path:
        """Write the prior as a readable JSON file, whole or not at all; returns the path.

        Raises:
            ValueError: the path has the suffix of another format.
            OSError: it cannot be written.
        """
        text = json.dumps(prior_content(self.family, self.covariates, self.learned), indent=1, allow_nan=False)
        return write_atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"), PRIOR)

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
        parts = prior_parts(path, law)
        try:
            return Prior(*parts)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error
