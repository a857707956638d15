"""Does a candidate mean the same everywhere? Its slope against the truth, environment by environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from scipy.special import log_softmax
from scipy.stats import chi2

from scimeta.ensembles.level_one import check_groups, check_matrix, check_target
from scimeta.ensembles.weights import log_probabilities, softmax

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WIDTH = 10.0  # of the prior on a standardised slope: so weak that it only speaks where the classes are separable
_LEAST_ROWS = 10  # in an environment


@dataclass(frozen=True, eq=False)
class SlopeStability:
    """Slopes of the truth against each candidate in each environment; prints as a table.

    Attributes:
        names: of the candidates.
        environments: their names, sorted.
        slopes: (candidates, environments), 1 where the candidate is calibrated, NaN where it never varies.
        errors: (candidates, environments) standard errors.
        p: (candidates,) chance of slopes that differ as much, were they equal in truth (Cochran's Q).
        cv: (candidates,) standard deviation of the slopes over the size of their mean.
        flagged: (candidates,) whether p and cv both pass their limits.
        limits: of p and of cv.
    """

    names: tuple[str, ...]
    environments: tuple[str, ...]
    slopes: ndarray
    errors: ndarray
    p: ndarray
    cv: ndarray
    flagged: ndarray
    limits: tuple[float, float]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a candidate: p, cv, flagged, and the slope in every environment with its standard error."""
        import pandas as pd

        columns = {"p": self.p, "cv": self.cv, "flagged": self.flagged}
        for e, name in enumerate(self.environments):
            columns[f"slope {name}"], columns[f"slope {name} se"] = self.slopes[:, e], self.errors[:, e]
        return pd.DataFrame(columns, index=pd.Index(self.names, name="candidate"))

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "candidate")))
        heads = [f"{name[:16]:>16}" for name in self.environments]
        lines = [f"{'candidate':<{width}} {' '.join(heads)} {'p':>8} {'cv':>6}"]
        for j, name in enumerate(self.names):
            cells = [f"{b:7.2f} +- {s:<5.2f}" for b, s in zip(self.slopes[j], self.errors[j], strict=True)]
            end = "  unstable" if self.flagged[j] else ""
            lines.append(f"{name:<{width}} {' '.join(cells)} {self.p[j]:8.1e} {self.cv[j]:6.2f}{end}")
        return "\n".join([*lines, f"unstable: p < {self.limits[0]:g} and cv > {self.limits[1]:g}"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with every slope and its 95 % interval, a colour for each environment."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
        places = np.arange(len(self.names))[::-1]
        for e, name in enumerate(self.environments):
            shift = 0.5 * (e / (len(self.environments) - 1) - 0.5)
            margin = 1.96 * self.errors[:, e]
            ax.errorbar(self.slopes[:, e], places - shift, xerr=margin, fmt="o", ms=4, capsize=2, label=name)
        labels = [f"{n} (unstable)" if flag else n for n, flag in zip(self.names, self.flagged, strict=True)]
        ax.set_yticks(places, labels)
        ax.axvline(1, color="0.6", lw=0.8, ls="--")
        ax.set(xlabel="slope of the truth against what the candidate says", title="one meaning everywhere?")
        ax.legend(frameon=False, fontsize="small")
        return ax


def slope_stability(
    Z: ndarray,
    y: ndarray,
    environments: Sequence,
    names: Sequence[str] | None = None,
    *,
    level: float = 0.01,
    spread: float = 0.35,
) -> SlopeStability:
    """Return whether each candidate's predictions mean the same in every environment.

    In each environment e the truth is regressed on what the candidate said: y = a + b_e z for values; for probabilities
    the logistic regression softmax(a + b_e log p). A cause keeps its slope; a cue that only goes along with the truth
    does so as closely as each environment happens to have it. The slopes are compared by Cochran's

        Q = sum_e (b_e - b)^2 / s_e^2,   b their mean with weights 1 / s_e^2,   chi-squared with E - 1 degrees,

    and since with many rows every difference is significant, by their size as well: cv = sd(b_e) / |mean(b_e)|. A
    candidate is flagged where p < level and cv > spread. A cue that is equally strong everywhere passes: nothing in
    these data tells it from a cause.

    Args:
        Z: (n, candidates) out-of-fold values, or (n, candidates, classes) probabilities.
        y: (n,) target; for probabilities labels, or numbers of classes.
        environments: (n,) where each row comes from: a laboratory, a batch, a source. Ten rows or more in each.
        names: of the candidates.
        level: of p.
        spread: of cv.

    Raises:
        ValueError: shapes that do not agree, one environment only, or one with too few rows.

    Reference: Cochran, Biometrics 10, 101 (1954); the idea that causes are stable: Peters, Bühlmann, Meinshausen, J. R.
    Stat. Soc. B 78, 947 (2016).

    >>> rng = np.random.default_rng(0)
    >>> place, cause = np.repeat(["A", "B", "C"], 200), rng.standard_normal(600)
    >>> truth = cause + 0.1 * rng.standard_normal(600)
    >>> cue = truth / np.repeat([1.0, 2.0, 4.0], 200)
    >>> slope_stability(np.stack([cause, cue], axis=1), truth, place, ["cause", "cue"]).flagged
    array([False,  True])
    """
    Z, names = check_matrix(Z, names)
    y = check_target(y, Z)
    places, where = check_groups(environments, len(Z), "environments", _LEAST_ROWS)
    fit = _line if Z.ndim == 2 else _logistic
    Z = Z if Z.ndim == 2 else log_probabilities(Z)
    shape = (Z.shape[1], len(places))
    slopes, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for j, e in np.ndindex(shape):
        rows = where == e
        if np.ptp(Z[rows, j], axis=0).max() > 0:
            slopes[j, e], errors[j, e] = fit(Z[rows, j], y[rows])
    p, cv = np.array([_compare(b, s) for b, s in zip(slopes, errors, strict=True)]).T
    return SlopeStability(names, places, slopes, errors, p, cv, (p < level) & (cv > spread), (level, spread))


def _compare(slopes: ndarray, errors: ndarray) -> tuple[float, float]:
    """Return Cochran's p and the coefficient of variation of (environments,) slopes."""
    known = np.isfinite(slopes)
    slopes, weights = slopes[known], 1 / errors[known] ** 2
    if len(slopes) < 2:
        return 1.0, 0.0
    q = weights @ (slopes - weights @ slopes / weights.sum()) ** 2
    mean = abs(slopes.mean())
    return float(chi2.sf(q, len(slopes) - 1)), float(slopes.std(ddof=1) / mean) if mean > 0 else np.inf


def _line(z: ndarray, y: ndarray) -> tuple[float, float]:
    """Return slope and standard error of y = a + b z by least squares; the noise may vary with z."""
    z, y = z - z.mean(), y - y.mean()
    slope = z @ y / (z @ z)
    meat = (z * (y - slope * z)) @ (z * (y - slope * z)) * len(z) / (len(z) - 2)
    # An exact line has no standard error; one of rounding's size keeps the weights finite.
    return slope, max(np.sqrt(meat) / (z @ z), 1e-12 * (abs(slope) + np.finfo(float).tiny))


def _logistic(L: ndarray, y: ndarray) -> tuple[float, float]:
    """Return slope and standard error of softmax(a + b log p), L = log p (n, classes), by Newton's method."""
    L = L - L.mean(axis=1, keepdims=True)
    size = L.std(axis=0).max()
    n, classes = L.shape
    free = np.broadcast_to(np.eye(classes)[1:], (n, classes - 1, classes))  # intercepts of all classes but the first
    x = np.concatenate([L[:, None] / size, free], axis=1)  # (n, parameters, classes)
    hot, u = np.eye(classes)[y], np.eye(classes)[0] * size

    def loss(u: ndarray) -> float:
        return u @ u / (2 * _WIDTH**2) - log_softmax(np.einsum("ijc,j->ic", x, u), axis=1)[np.arange(n), y].sum()

    for _ in range(100):
        q = softmax(np.einsum("ijc,j->ic", x, u))
        gradient = np.einsum("ijc,ic->j", x, q - hot) + u / _WIDTH**2
        spread = x - np.einsum("ijc,ic->ij", x, q)[..., None]
        hessian = np.einsum("ijc,ic,ikc->jk", spread, q, spread, optimize=True) + np.eye(len(u)) / _WIDTH**2
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-10:
            break
        scale = 1.0
        while loss(u - scale * step) > loss(u) and scale > 1e-6:
            scale /= 2
        u = u - scale * step
    return u[0] / size, np.sqrt(np.linalg.inv(hessian)[0, 0]) / size
