"""Combinations of candidates that are good in the worst group, not on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from scimeta.ensembles.blend import Blend
from scimeta.ensembles.level_one import check_groups, check_matrix, check_target
from scimeta.ensembles.weights import log_probabilities, softmax, zero_means

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LEAST = 1e-4  # smaller weights are set to zero, as those of the Super Learner are
_LEAST_ROWS = 5  # in a group

Risks = Callable[[ndarray], tuple[ndarray, ndarray]]


@dataclass(frozen=True, eq=False)
class RobustBlend:
    """A combination of candidates whose worst group fares as well as possible; called like a ``Blend``.

    Attributes:
        blend: weights, intercept and scale.
        names: of the candidates.
        groups: their names, sorted.
        rows: (groups,).
        risks: (groups,) mean squared error, or log-loss, of this blend.
        ordinary: (groups,) the same of the blend that takes all rows together.
        converged: whether the solver did.
    """

    blend: Blend
    names: tuple[str, ...]
    groups: tuple[str, ...]
    rows: ndarray
    risks: ndarray
    ordinary: ndarray
    converged: bool

    def __call__(self, Z: ndarray) -> ndarray:
        """Return (n,) from values (n, candidates), or (n, classes) from probabilities (n, candidates, classes)."""
        return self.blend(Z)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a group: rows, risk, and risk of the ordinary blend."""
        import pandas as pd

        index = pd.Index(self.groups, name="group")
        return pd.DataFrame({"rows": self.rows, "risk": self.risks, "ordinary": self.ordinary}, index=index)

    def __str__(self) -> str:
        weights = zip(self.names, self.blend.weights, strict=True)
        width = max(map(len, (*self.groups, "group")))
        lines = ["weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in weights)]
        lines.append(f"{'group':<{width}} {'rows':>6} {'risk':>9} {'all rows together':>18}")
        rows = zip(self.groups, self.rows, self.risks, self.ordinary, strict=True)
        lines += [f"{name:<{width}} {n:6d} {risk:9.3g} {other:18.3g}" for name, n, risk, other in rows]
        return "\n".join(lines if self.converged else [*lines, "NOT CONVERGED"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with each group's risk, under this blend and under the ordinary one."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
        places = np.arange(len(self.groups))[::-1]
        ax.barh(places + 0.2, self.ordinary, 0.4, color="0.7", label="all rows together")
        ax.barh(places - 0.2, self.risks, 0.4, color="C0", label="worst group first")
        ax.set_yticks(places, self.groups)
        ax.set(xlabel="risk")
        ax.legend(frameon=False, fontsize="small")
        return ax


def group_dro(Z: ndarray, y: ndarray, attribute: Sequence, names: Sequence[str] | None = None) -> RobustBlend:
    """Return the blend of least risk in the worst of the groups label x attribute.

    The remedy for a cue that someone can name. In the groups where cue and label disagree, a candidate that follows the
    cue is wrong in every row; where these groups count as much as the large ones, nothing is gained by trusting it.

    Args:
        Z: (n, candidates, classes) out-of-fold probabilities.
        y: (n,) labels, or numbers of classes.
        attribute: (n,) what is declared suspect, of few values: the cue itself, a device, a site.
        names: of the candidates.

    Raises:
        ValueError: shapes that do not agree, a Z of values (see :func:`environment_dro`), or a group of fewer than five
            rows.

    Reference: Sagawa, Koh, Hashimoto, Liang, Distributionally robust neural networks for group shifts, ICLR 2020.

    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 2000)
    >>> cue = np.where(rng.random(2000) < 0.95, y, 1 - y)
    >>> honest = np.where(rng.random(2000) < 0.8, y, 1 - y)
    >>> Z = np.stack([np.eye(2)[honest] * 0.6 + 0.2, np.eye(2)[cue] * 0.9 + 0.05], axis=1)
    >>> honest_weight, cue_weight = group_dro(Z, y, cue, ["honest", "follows the cue"]).blend.weights
    >>> bool(cue_weight < 0.1 < honest_weight)
    True
    """
    Z, names = check_matrix(Z, names)
    if Z.ndim == 2:
        raise ValueError(
            "group_dro: Z must be (n, candidates, classes) probabilities, for its groups are label x attribute; for "
            "values pass the attribute to environment_dro"
        )
    y = check_target(y, Z)
    values, numbers = check_groups(attribute, len(Z), "attribute", least=1)
    cells = np.array([f"label {label}, {values[number]}" for label, number in zip(y, numbers, strict=True)])
    return _least_worst(Z, y, cells, names, "groups label x attribute")


def environment_dro(Z: ndarray, y: ndarray, environments: ArrayLike, names: Sequence[str] | None = None) -> RobustBlend:
    """Return the blend of least risk in the worst environment,

        min_w max_e R_e(w),    w >= 0,

    with R_e the mean squared error of sum_j w_j Z_j, weights that sum to one, or for probabilities the log-loss of
    softmax(intercept + sum_j w_j log p_j). It helps where a cue is weaker in some environment than in the others, and
    only so far: a cue that helps a little everywhere is still used.

    Args:
        Z: (n, candidates) out-of-fold values, or (n, candidates, classes) probabilities.
        y: (n,) target; for probabilities labels, or numbers of classes.
        environments: (n,) where each row comes from.
        names: of the candidates.

    Raises:
        ValueError: shapes that do not agree, one environment only, or one with fewer than five rows.

    Reference: Ben-Tal, El Ghaoui, Nemirovski, Robust Optimization, Princeton (2009); Meinshausen and Bühlmann, Ann.
    Stat. 43, 1801 (2015).

    >>> Z = np.tile([[0.0, 1.0]], (20, 1))
    >>> robust = environment_dro(Z, np.repeat([0.0, 1.0], [15, 5]), np.repeat(["A", "B"], [15, 5]))
    >>> robust.blend.weights.round(3), robust.risks.round(3)
    (array([0.5, 0.5]), array([0.25, 0.25]))
    """
    Z, names = check_matrix(Z, names)
    return _least_worst(Z, check_target(y, Z), environments, names, "environments")


def _least_worst(Z: ndarray, y: ndarray, groups: ArrayLike, names: tuple[str, ...], what: str) -> RobustBlend:
    """Return the blend that minimises the largest of the groups' risks: a smooth convex problem with one more unknown,
    t, the bound on all risks."""
    found, where = check_groups(groups, len(Z), what, _LEAST_ROWS)
    rows = np.bincount(where)
    share = (where == np.arange(len(rows))[:, None]) / rows[:, None]  # (groups, n)
    if Z.ndim == 2:
        risks, start, unit = _squared(Z, y, share)
    else:
        risks, start, unit = _log_loss(Z, y, share)
    pooled, _ = _minimise(risks, start, (rows / len(y))[None], unit, Z)
    robust, converged = _minimise(risks, pooled, np.eye(len(rows)), unit, Z)
    robust[: Z.shape[1]] = np.where(robust[: Z.shape[1]] < _LEAST, 0.0, robust[: Z.shape[1]])
    if Z.ndim == 2:
        blend = Blend("least worst risk", robust / robust.sum())
        robust = blend.weights
    else:
        intercept = np.append(0.0, robust[Z.shape[1] :])
        blend = Blend("least worst risk", robust[: Z.shape[1]], intercept, scale="logit", zero=zero_means(Z))
    return RobustBlend(blend, names, found, rows, risks(robust)[0], risks(pooled)[0], converged)


def _squared(Z: ndarray, y: ndarray, share: ndarray) -> tuple[Risks, ndarray, float]:
    """Return (weights -> mean squared errors (groups,) and their gradients), a start, and the errors' size."""

    def risks(u: ndarray) -> tuple[ndarray, ndarray]:
        missed = Z @ u - y
        return share @ missed**2, share @ (2 * missed[:, None] * Z)

    start = np.full(Z.shape[1], 1 / Z.shape[1])
    return risks, start, max(float(risks(start)[0].max()), np.finfo(float).tiny)


def _log_loss(Z: ndarray, y: ndarray, share: ndarray) -> tuple[Risks, ndarray, float]:
    """Return (weights, intercepts of all classes but the first -> log-losses (groups,) and gradients), start, size."""
    n, candidates, classes = Z.shape
    free = np.broadcast_to(np.eye(classes)[1:], (n, classes - 1, classes))
    x = np.concatenate([log_probabilities(Z), free], axis=1)  # (n, parameters, classes)
    hot = np.eye(classes)[y]

    def risks(u: ndarray) -> tuple[ndarray, ndarray]:
        p = softmax(np.einsum("ijc,j->ic", x, u))
        return share @ -np.log(p[np.arange(n), y] + 1e-300), share @ np.einsum("ijc,ic->ij", x, p - hot)

    return risks, np.append(np.full(candidates, 1 / candidates), np.zeros(classes - 1)), 1.0


def _minimise(risks: Risks, start: ndarray, mix: ndarray, unit: float, Z: ndarray) -> tuple[ndarray, bool]:
    """Return the parameters of least max(mix @ risks), and whether the solver converged."""
    k = Z.shape[1]
    last = np.eye(len(start) + 1)[-1]

    def slack(v: ndarray) -> ndarray:
        return v[-1] - mix @ risks(v[:-1])[0] / unit

    def slack_gradient(v: ndarray) -> ndarray:
        return last - np.pad(mix @ risks(v[:-1])[1] / unit, ((0, 0), (0, 1)))

    constraints = [{"type": "ineq", "fun": slack, "jac": slack_gradient}]
    if Z.ndim == 2:
        ones = np.append(np.ones(k), 0.0)
        constraints.append({"type": "eq", "fun": lambda v: v[:k].sum() - 1, "jac": lambda v: ones})
    bounds = [(0, None)] * k + [(None, None)] * (len(start) - k + 1)
    solved = minimize(
        lambda v: v[-1],
        np.append(start, (mix @ risks(start)[0]).max() / unit),
        jac=lambda v: last,
        bounds=bounds,
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return np.clip(solved.x[:-1], 0, None) if Z.ndim == 2 else solved.x[:-1], bool(solved.success)
