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

from scimeta.calibration import report
from scimeta.calibration.importance import Gaussian
from scimeta.calibration.law import Law
from scimeta.calibration.misfit import Misfit
from scimeta.calibration.units import find_named
from scimeta.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FORMAT = "scimeta prior, version 1"


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
        if not np.allclose(self.covariance, self.covariance.T) or np.linalg.eigvalsh(self.covariance).min() <= 0:
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
        missing = set(self.law.names) - set(self.law.fast) - set(self.shared)
        if missing:
            raise ValueError(f"prior of law {self.law.name}: no value for the shared {', '.join(sorted(missing))}")

    @cached_property
    def corrected_law(self) -> Law:
        """The law with the family's misfit added to what it predicts; the law itself if there is none."""
        return self.law if self.misfit is None else self.misfit.corrected(self.law)

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
                key = find_named(name, given)
                if key is None or not np.isfinite(given[key]):
                    raise ValueError(
                        f"{names[i] if names else f'specimen {i}'} has no condition {name!r}; the prior needs "
                        f"{', '.join(self.conditions)}; given are {', '.join(given) or 'none'}"
                    )
                values[i, j] = given[key]
        return np.column_stack([np.ones(len(conditions)), (values - self.centre) / self.scale])

    def slopes(self) -> pd.DataFrame:
        """Return the change of each unconstrained parameter per unit of each condition, one row a condition."""
        import pandas as pd

        return pd.DataFrame(self.coefficients[1:] / self.scale[:, None], list(self.conditions), list(self.law.fast))

    def gaussian(self, design: np.ndarray) -> Gaussian:
        """Return what is expected of new specimens with this design matrix: (specimens, 1 + conditions).

        Wider than the population, because mean and covariance were learned from so many specimens only: the variance of
        the Student t that a new member of a Gaussian sample follows, (1 + regressors / specimens) dof / (dof - 2) with
        dof = specimens - regressors - parameters + 1. Nothing is added to a prior set by hand.
        """
        widening, count = 1.0, len(self.past)
        if count:
            regressors, fast = self.coefficients.shape
            dof = max(count - regressors - fast + 1, 3)
            widening = (1.0 + regressors / count) * dof / (dof - 2.0)
        return Gaussian(torch.from_numpy(design @ self.coefficients), torch.from_numpy(widening * self.covariance))

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
        drawn = rng.multivariate_normal((self.design([given]) @ self.coefficients)[0], self.covariance, n)
        columns = dict(zip(self.law.fast, torch.from_numpy(drawn).unbind(-1), strict=True))
        columns |= {name: value.expand(n) for name, value in self.shared_values().items()}
        natural = self.law.constrain({name: columns[name] for name in self.law.names})
        return pd.DataFrame({name: value.numpy() for name, value in natural.items()})

    def to_frame(self, level: float = 0.9) -> pd.DataFrame:
        """Return one row a parameter: median, lower, upper (holding ``level`` of the specimens at the centre), unit."""
        import pandas as pd
        from scipy import stats

        z = stats.norm.ppf(0.5 + 0.5 * level)
        spread = dict(
            zip(self.law.fast, zip(self.coefficients[0], np.sqrt(np.diag(self.covariance)), strict=True), strict=True)
        ) | dict(self.shared)
        rows = {}
        for name, parameter in self.law.parameters.items():
            mean, sd = spread[name]
            ends = self.law.constrain({name: torch.tensor([mean, mean - z * sd, mean + z * sd])})[name].tolist()
            rows[name] = (*ends, parameter.unit, parameter.shared)
        return pd.DataFrame.from_dict(rows, "index", columns=["median", "lower", "upper", "unit", "shared"])

    def __str__(self) -> str:
        frame = self.to_frame()
        lines = [f"prior of law {self.law.name}, {self.origin}", ""]
        lines += [frame.drop(columns="shared").to_string(float_format=lambda v: f"{v:.4g}"), ""]
        lines.append(f"lower to upper holds 90 % of the specimens{self._place()}")
        if frame.shared.any():
            lines.append(f"one value for all (with its 90 % interval): {', '.join(frame.index[frame.shared])}")
        sd = np.sqrt(np.diag(self.covariance))
        correlation = self.covariance / np.outer(sd, sd)
        pairs = [
            f"({a}, {b}) {correlation[i, j]:+.2f}"
            for i, a in enumerate(self.law.fast)
            for j, b in enumerate(self.law.fast)
            if i < j
        ]
        if pairs:
            lines.append(f"correlation: {', '.join(pairs)}")
        for name, row in self.slopes().iterrows():
            moves = ", ".join(f"{parameter} {slope:+.3g}" for parameter, slope in row.items())
            lines.append(f"one more of {name} moves (unconstrained) {moves}")
        unit = f" {self.law.y.unit}" if self.law.y.unit else ""
        lines.append(
            f"noise sd {self.noise:.3g}{unit}"
            + (
                f", of which {self.wander:.3g}{unit} is each specimen's own smooth departure from the law"
                if self.wander
                else ""
            )
        )
        if self.misfit is not None:
            size = float(np.abs(self.misfit.values).max())
            lines.append(
                f"the law misses by up to {size:.2g}{unit} in the same way in all specimens; predictions correct for it"
            )
        if not self.converged:
            lines.append("learning: NOT CONVERGED")
        return "\n".join(lines)

    def _place(self) -> str:
        """Return at which conditions the population is shown."""
        values = [f"{name} = {value:.4g}" for name, value in zip(self.conditions, self.centre, strict=True)]
        return f" at {', '.join(values)}" if values else ""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the population: the median curve, where 50 and 90 % of the specimens lie, and the past specimens."""
        ax = report.axes(ax, self.law)
        x = np.linspace(min(0.0, self.x_range[0]), self.x_range[1], 200)
        names, rng = self.law.names, np.random.default_rng(0)
        draws = self.sample(2000, rng)
        u = self.law.unconstrain({name: torch.tensor(draws[name].to_numpy()) for name in names})
        curves = self.corrected_law.curve(u, torch.from_numpy(x)).numpy()
        for level, alpha in ((0.9, 0.15), (0.5, 0.25)):
            lower, upper = np.quantile(curves, [0.5 - level / 2, 0.5 + level / 2], axis=0)
            ax.fill_between(x, lower, upper, color="C0", alpha=alpha, lw=0, label=f"{level:.0%} of specimens")
        shared = self.shared_values()
        for i, row in enumerate(list(self.past.values())[:60]):
            u = {**dict(zip(self.law.fast, torch.from_numpy(np.asarray(row)), strict=True)), **shared}
            label = "past specimens" if i == 0 else None
            ax.plot(x, self.corrected_law.curve(u, torch.from_numpy(x)), color="k", lw=0.5, alpha=0.4, label=label)
        ax.plot(x, np.median(curves, axis=0), color="C0", label="median")
        ax.set_title(f"{self.law.name}: population{self._place()}, {self.origin}", fontsize="medium")
        ax.legend(frameon=False)
        return ax

    def save(self, path: str | Path) -> Path:
        """Write the prior as a readable JSON file, whole or not at all; returns the path."""
        law = self.law
        content = {
            "format": _FORMAT,
            "law": _signature(law),
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.tolist(),
            "noise": self.noise,
            "wander": self.wander,
            "conditions": {
                n: {"centre": c, "scale": s}
                for n, c, s in zip(self.conditions, self.centre.tolist(), self.scale.tolist(), strict=True)
            },
            "shared": {name: {"value": v, "standard error": e} for name, (v, e) in self.shared.items()},
            "x range": list(self.x_range),
            "converged": self.converged,
            "misfit": None
            if self.misfit is None
            else {"lower": self.misfit.lower, "upper": self.misfit.upper, "values": self.misfit.values.tolist()},
            "past": {name: np.asarray(row).tolist() for name, row in self.past.items()},
        }
        text = json.dumps(content, indent=1, allow_nan=False)
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
        content = read_prior_file(path)
        if content["law"] != _signature(law):
            theirs, ours = content["law"], _signature(law)
            key = next(key for key in ours if theirs.get(key) != ours[key])
            raise ValueError(
                f"{path} was learned with another law: its {key} is {theirs.get(key)!r}, that of law {law.name} is "
                f"{ours[key]!r}"
            )
        try:
            conditions, misfit = content["conditions"], content["misfit"]
            return Prior(
                law,
                np.array(content["coefficients"], float),
                np.array(content["covariance"], float),
                float(content["noise"]),
                tuple(conditions),
                np.array([c["centre"] for c in conditions.values()], float),
                np.array([c["scale"] for c in conditions.values()], float),
                {n: (float(s["value"]), float(s["standard error"])) for n, s in content["shared"].items()},
                {name: np.array(row, float) for name, row in content["past"].items()},
                (float(content["x range"][0]), float(content["x range"][1])),
                content["converged"] is True,
                misfit and Misfit(float(misfit["lower"]), float(misfit["upper"]), np.array(misfit["values"], float)),
                float(content["wander"]),
            )
        except KeyError as error:
            raise ValueError(f"{path} is damaged: it has no {error}; learn the prior again") from error
        except (TypeError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); learn the prior again") from error


def read_prior_file(path: str | Path) -> dict:
    """Return the content of a prior file as a dict, its law's name under ["law"]["name"].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole prior file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a prior file")
    if not path.is_file():
        raise FileNotFoundError(f"no prior file {path}; make one with learn_prior(...).save({str(path)!r})")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    if text.strip() and not text.lstrip().startswith("{"):
        raise ValueError(f"{path} is not a prior file of this version (expected JSON with format {_FORMAT!r})")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a whole prior file ({error}); learn the prior again") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("law"), dict):
        raise ValueError(f"{path} is not a prior file of this version (expected format {_FORMAT!r})")
    return content


def _signature(law: Law) -> dict:
    """Return what makes two laws the same to a prior: name, parameters, axes."""
    return {
        "name": law.name,
        "parameters": {
            n: {"unit": p.unit, "support": p.support, "shared": p.shared} for n, p in law.parameters.items()
        },
        "x": list(law.x),
        "y": list(law.y),
    }
