"""What to measure next: how much one more measurement at each candidate is expected to teach."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.fits.draws import Draws
from scimeta.calibration.laws.law import Law
from scimeta.calibration.nodes import normal_nodes
from scimeta.calibration.posterior.importance import Weighted, thinned
from scimeta.plots import axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


Target = str | float | Callable[[Mapping[str, Tensor]], Tensor]
"""A parameter's name, the x of a predicted curve, or a function of the natural parameters, each (nodes,)."""

_NODES = 256  # of the posterior; more change a score by less than its own error
_READINGS = 64  # imagined at every candidate, each with its error and with the error turned round
_CHUNK = 1 << 19  # densities at once: what fits into the cache of a core
_NEGLIGIBLE = 1e-9  # weight of a node that may lie where the law breaks down


@dataclass(frozen=True, eq=False)
class NextMeasurement:
    """What one more measurement is expected to bring at each candidate; it prints itself, the best first.

    Attributes:
        law: the fitted law.
        specimen: its name.
        candidates: (candidates,), in the unit of the law's x.
        score: (candidates,) expected information about the parameters in nats, to be large; with a target the standard
            deviation that it is expected to have after the measurement, in its unit, to be small. nan where the
            specimen was measured already.
        target: what is to become certain; "" if it is all of the parameters.
        unit: of the target, "nats" without one.
        now: standard deviation of the target as it stands; 0 without a target.
    """

    law: Law
    specimen: str
    candidates: np.ndarray
    score: np.ndarray
    target: str
    unit: str
    now: float

    @property
    def best(self) -> float:
        """The candidate to measure at, in the unit of the law's x."""
        return float(self.candidates[self.ranking[0]])

    @property
    def ranking(self) -> np.ndarray:
        """(candidates,) indices, the best first; those measured already last."""
        return np.argsort(self.score if self.target else -self.score, kind="stable")

    @property
    def measure(self) -> str:
        """What the score is, with its unit."""
        what = f"expected std of {self.target}" if self.target else "expected information"
        return f"{what} [{self.unit}]" if self.unit else what

    def to_frame(self) -> pd.DataFrame:
        """Return one row a candidate, in the order given: x and score."""
        import pandas as pd

        return pd.DataFrame({str(self.law.x): self.candidates, self.measure: self.score})

    def __str__(self) -> str:
        x, unit = self.law.x, f" {self.law.x.unit}" if self.law.x.unit else ""
        ends = f"{self.candidates.min():.4g} to {self.candidates.max():.4g}{unit}"
        count = f"{len(self.candidates)} candidate{'s' * (len(self.candidates) > 1)}"
        lines = [f"{self.law.name} | {self.specimen} | what to measure next, of {count} from {ends}", ""]
        lines.append(f"measure at {x.name} = {self.best:.4g}{unit}: {self._gain()}")
        good = self.candidates[self._good()]
        if len(good) > 1:
            lines.append(f"nearly as good: {len(good)} candidates between {good.min():.4g} and {good.max():.4g}{unit}")
        measured = int(np.isnan(self.score).sum())
        if measured:
            lines.append(f"not scored: {measured} at which {self.specimen} was measured already")
        return "\n".join(lines)

    def _gain(self) -> str:
        """Return what the best candidate is expected to bring."""
        best = self.score[self.ranking[0]]
        if not self.target:
            return f"expected to tell {best:.2g} nats about {', '.join(self.law.fast)}"
        unit = f" {self.unit}" if self.unit else ""
        return f"the std of {self.target} is expected to go from {self.now:.3g} to {best:.3g}{unit}"

    def _good(self) -> np.ndarray:
        """Return (candidates,) bool: at least nine tenths of what the best one brings."""
        gain = (self.now - self.score) if self.target else self.score
        return np.nan_to_num(gain, nan=-np.inf) >= 0.9 * gain[self.ranking[0]]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the score over the candidates, the best marked; returns the axes."""
        ax, order, best = axes(ax, self.law.x, self.law.y), np.argsort(self.candidates), self.ranking[0]
        ax.plot(self.candidates[order], self.score[order], color="C0")
        ax.plot(self.candidates[best], self.score[best], "o", color="C3", label=f"best: {self.best:.4g}")
        ax.set_ylabel(self.measure)
        ax.set_title(f"{self.specimen}: what to measure next", fontsize="medium")
        ax.legend(frameon=False)
        return ax


def next_measurement(
    law: Law,
    curve: Curve,
    draws: Draws,
    candidates: ArrayLike,
    target: Target | None = None,
    *,
    sigma: ArrayLike | None = None,
    reason: str = "",
) -> NextMeasurement:
    """Return the score of every candidate; :meth:`Calibration.next_measurement` is the way to call it.

    A reading y at x is imagined from the fit's own draws and noise. The information is I(y; theta) = E[log p(y | theta)
    - log p(y)]; with a target g it is sqrt(E[var(g | y)]). Both are means over the same readings, spread evenly, so
    that candidates differ by what they are worth and not by luck.

    Reference: Lindley, Ann. Math. Stat. 27, 986 (1956); Chaloner, Verdinelli, Stat. Sci. 10, 273 (1995).
    """
    x = _candidates(candidates)
    if reason:
        raise ValueError(f"no next measurement of {curve.name}: {reason}")
    curves = _curves(law, draws, x)
    label, unit, values = _target(law, draws, target)
    weights = draws.weights[0]
    mean = weights @ values
    now = float((weights @ (values - mean) ** 2).sqrt())
    if target is not None and not now > 0.0:
        raise ValueError(f"the fit of {curve.name} leaves nothing open about {label}; no measurement can improve it")
    noise = torch.from_numpy(_noise(draws.reading_sd(torch.from_numpy(x))[0], x, sigma))
    chosen = _chosen(torch.cat([curves, (values - mean)[:, None] / (now or 1.0)], -1), weights)
    gain, left = expected_gain(chosen[0][:, :-1].T, chosen[1], noise, draws.outliers, chosen[0][:, -1])
    score = (gain if target is None else now * left.sqrt()).numpy()
    if not curve.replicates:
        score = np.where(np.isin(x, curve.x), np.nan, score)
    if np.isnan(score).all():
        raise ValueError(f"{curve.name} was measured at every candidate already; give others, or pass replicates=True")
    return NextMeasurement(law, curve.name, x, score, label, unit, now if target is not None else 0.0)


def best_candidates(plans: Sequence[NextMeasurement]) -> pd.DataFrame:
    """Return one row a specimen: where to measure next and the score there. The plans are of one law and target."""
    import pandas as pd

    x, score = f"measure at {plans[0].law.x}", plans[0].measure
    rows = [{"specimen": p.specimen, x: p.best, score: p.score[p.ranking[0]]} for p in plans]
    return pd.DataFrame(rows)


def candidate_scores(plans: Sequence[NextMeasurement]) -> pd.DataFrame:
    """Return one row a specimen and candidate: specimen, x and score. The plans are of one law and target."""
    import pandas as pd

    return pd.concat([plan.to_frame().assign(specimen=plan.specimen) for plan in plans]).iloc[:, [2, 0, 1]]


def expected_gain(
    curves: Tensor, weights: Tensor, noise: Tensor, outliers: Outliers | None, values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the expected information and the share of the variance of ``values`` expected to be left.

    Args:
        curves: (candidates, nodes) y without error at each node.
        weights: (nodes,), sums to 1.
        noise: (candidates,) standard deviation of an ordinary reading.
        outliers: what a reading may be beside that; None if nothing.
        values: (nodes,) of the target, mean 0.
    Returns: (candidates,) nats, and (candidates,) between 0 and 1.

    >>> two = torch.tensor([[0.0, 10.0], [0.0, 0.0]])  # two nodes that the first candidate tells apart
    >>> half = torch.tensor([0.5, 0.5])
    >>> gain, left = expected_gain(two, half, torch.ones(2), None, torch.tensor([-1.0, 1.0]))
    >>> [round(float(g), 2) for g in gain], [round(float(v), 2) for v in left]
    ([0.69, 0.0], [0.0, 1.0])
    """
    moments = (weights * torch.stack([torch.ones_like(values), values, values**2])).T.float()
    parts = []
    for at in torch.arange(len(curves)).split(max(1, _CHUNK // (2 * _READINGS * len(weights)))):
        f, sd = curves[at], noise[at]
        error = normal_nodes(_READINGS) * sd[:, None] if outliers is None else outliers.errors(_READINGS, sd)
        error = torch.cat([error, -error], -1)
        y = _evenly(f, weights).repeat(1, 2) + error  # (candidates, readings)
        density = _density(y[..., None] - f[:, None], sd[:, None, None], outliers)  # (candidates, readings, nodes)
        evidence, *about = (density @ moments).double().unbind(-1)
        mean, square = (part / evidence for part in about)
        within = (square - mean**2).clamp(min=0.0).mean(-1)
        left = within / (within + mean.var(-1, correction=0)).clamp(min=1e-300)
        parts.append(((_density(error, sd[:, None], outliers) / evidence).log().mean(-1), left))
    gain, left = map(torch.cat, zip(*parts, strict=True))
    return gain.clamp(min=0.0), left


def _evenly(curves: Tensor, weights: Tensor) -> Tensor:
    """Return (candidates, _READINGS) values of the curves (candidates, nodes), evenly over their distribution."""
    ordered, order = curves.sort(-1)
    even = (torch.arange(_READINGS, dtype=weights.dtype) + 0.5) / _READINGS
    at = torch.searchsorted(weights[order].cumsum(-1), even.expand(len(curves), -1).contiguous())
    return ordered.gather(-1, at.clamp(max=len(weights) - 1))


def _density(residual: Tensor, sd: Tensor, outliers: Outliers | None) -> Tensor:
    """Return the density times sd of readings this far from the law, of the residual's shape, in single precision."""
    scaled = (residual / sd).float()  # whatever the unit of y
    if outliers is None:
        return scaled.square_().mul_(-0.5).exp_()
    ordinary, wrong = outliers.parts(scaled * sd.float(), 1.0 / sd.float())
    return ordinary.add_(wrong).mul_(sd.float())


def _chosen(columns: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return at most ``_NODES`` of the nodes (nodes, columns), and their weights."""
    if len(weights) <= _NODES:
        return columns, weights
    some = thinned(Weighted(columns[None], weights[None], weights.new_ones(1), weights.new_ones(1)), _NODES)
    return some.nodes[0], some.weights[0]


def _candidates(candidates: ArrayLike) -> np.ndarray:
    """Return (candidates,) float64; raises ValueError where there is none, or one is not finite."""
    x = np.array(candidates, dtype=float)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"candidates have shape {x.shape}; pass a flat array of one x or more")
    if not np.isfinite(x).all():
        raise ValueError(f"candidates[{int((~np.isfinite(x)).argmax())}] is not finite")
    return x


def _curves(law: Law, draws: Draws, x: np.ndarray) -> Tensor:
    """Return (nodes, candidates): y at each node; raises ValueError for a candidate outside the law's domain."""
    weights = draws.weights[0]
    y = torch.cat([curves[0] for curves, _, _ in draws.curves(torch.from_numpy(x))])
    bad = (~torch.isfinite(y) & (weights > _NEGLIGIBLE)[:, None]).any(0).numpy()
    y = y.nan_to_num(0.0, 0.0, 0.0)
    expected = (weights @ y).numpy()
    for i in range(len(x)):
        try:
            if bad[i]:
                raise ValueError(f"law {law.name} has no finite value there")
            if law.check is not None:
                law.check(x[i : i + 1], expected[i : i + 1])
        except ValueError as error:
            raise ValueError(f"candidates[{i}] = {x[i]:g} is outside the law's domain: {error}") from None
    return y


def _target(law: Law, draws: Draws, target: Target | None) -> tuple[str, str, Tensor]:
    """Return the target's name and unit, and its values at the nodes: (nodes,), zeros without a target."""
    nodes = draws.nodes[0]
    unconstrained = dict(zip(law.names, nodes.unbind(-1), strict=True))
    if target is None:
        return "", "nats", torch.zeros_like(nodes[:, 0])
    if isinstance(target, str):
        if target not in law.parameters:
            raise ValueError(f"Unknown target {target!r} of law {law.name}; it has {law.describe()}")
        if law.parameters[target].shared:
            raise ValueError(f"{target} is one value for the whole family; no measurement of one specimen improves it")
        return target, law.parameters[target].unit, law.constrain({target: unconstrained[target]})[target]
    if callable(target):
        name = getattr(target, "__name__", "")
        label, unit, values = name if name.isidentifier() else "target", "", target(law.constrain(unconstrained))
    else:
        at = f"{target:.4g} {law.x.unit}".strip()
        label, unit = f"{law.y.name} at {law.x.name} = {at}", law.y.unit
        values = _curves(law, draws, _candidates([target]))[:, 0]
    if not isinstance(values, Tensor) or values.shape != nodes.shape[:1] or not torch.isfinite(values).all():
        raise ValueError(f"target {label}: expected {len(nodes)} finite values, one a node, in torch; got {values!r}")
    return label, unit, values


def _noise(own: np.ndarray, x: np.ndarray, sigma: ArrayLike | None) -> np.ndarray:
    """Return (candidates,) standard deviation of an ordinary reading: ``own`` where no sigma is given."""
    given = own if sigma is None else sigma
    try:
        noise = np.broadcast_to(np.asarray(given, dtype=float), x.shape).copy()
    except ValueError:
        raise ValueError(f"sigma has shape {np.shape(given)}; pass one number, or one for each of {len(x)}") from None
    if not (np.isfinite(noise).all() and (noise > 0).all()):
        raise ValueError(f"the noise of the next measurement must be positive and finite; got {given}; pass sigma")
    return noise
