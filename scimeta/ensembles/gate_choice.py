"""The choice of a gate: fixed weights, unless a gate does better on rows that it had not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.ensembles.blend import few_folds, mean_gain
from scimeta.ensembles.gate import PENALTIES, Gate, Level, Settings, fixed_gate, gate_path, losses

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"auto": ("linear", "network"), "linear": ("linear",), "network": ("network",), "fixed": ()}
_PATIENCE = 2  # weaker penalties in a row that may fail to lower the risk


class Tried(NamedTuple):
    """The risk of one gate on held-out rows.

    Attributes:
        kind, penalty: as of :class:`~scimeta.ensembles.gate.Gate`.
        risk: mean loss (squared error, or log-loss).
        gain: by how much the risk is below that of fixed weights.
        gain_se: standard error of this paired difference; rows of one group are dependent.
    """

    kind: str
    penalty: float
    risk: float
    gain: float
    gain_se: float


@dataclass(frozen=True, eq=False)
class GateChoice:
    """A gate and what it was chosen from; it prints itself as a table.

    Attributes:
        gate: learned on all rows.
        tried: the first is "fixed".
    """

    gate: Gate
    tried: tuple[Tried, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a gate tried, with the columns of :class:`Tried` and whether it was chosen."""
        import pandas as pd

        frame = pd.DataFrame(self.tried)
        return frame.assign(chosen=(frame.kind == self.gate.kind) & (frame.penalty == self.gate.penalty))

    def __str__(self) -> str:
        return self.to_frame().to_string(index=False, float_format=lambda value: f"{value:.4g}")


def choose_gate(
    level: Level,
    folds: ndarray,
    gate: str = "auto",
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    *,
    margin: float = 2.0,
    seed: int = 0,
) -> GateChoice:
    """Return the gate of least risk on held-out rows, or the fixed one, if that gains no more than the margin.

    Every penalty, from strong to weak, is tried on all folds but one and judged on that one in turn, against fixed
    weights that were learned on the same rows. A kind is given up when two weaker penalties in a row lower nothing.

    Args:
        level: rows to learn from.
        folds: (n,) numbers of at least two folds; more than ten are joined to ten.
        gate: "auto" for the better of "linear" and "network", one of these, or "fixed".
        settings: of the gate.
        margin: by how many standard errors a gate's gain must exceed 0.
        seed: of the network's start.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, 200)
    >>> level = Level(x[:, None], np.stack([x, -x], 1), np.abs(x), np.ones(200), np.arange(200))
    >>> chosen = choose_gate(level, np.arange(200) % 5, "linear").gate
    >>> chosen(np.array([[-0.9], [0.9]])).round(2)
    array([[0., 1.],
           [1., 0.]])
    """
    w, folds = level.weights, few_folds(folds)
    held = [folds == k for k in np.unique(folds) if w[folds == k].any() and w[folds != k].any()]
    trained = [level.at(~rows) for rows in held]
    reference = _held_out(level, held, [fixed_gate(part, settings.top_k) for part in trained])
    tried = [_tried("fixed", np.inf, reference, reference, level)]
    for kind in KINDS[gate] if len(held) > 1 else ():
        best, idle = np.inf, 0
        paths = [gate_path(part, kind, settings, seed) for part in trained]
        for penalty, *gates in zip(PENALTIES, *paths, strict=True):
            tried.append(_tried(kind, penalty, _held_out(level, held, gates), reference, level))
            idle = 0 if tried[-1].risk < best else idle + 1
            best = min(best, tried[-1].risk)
            if idle == _PATIENCE:
                break
    won = min(tried, key=lambda one: one.risk)
    if won.kind == "fixed" or not won.gain > margin * won.gain_se:
        return GateChoice(fixed_gate(level, settings.top_k), tuple(tried))
    path = gate_path(level, won.kind, settings, seed)
    return GateChoice(next(one for one in path if one.penalty == won.penalty), tuple(tried))


def _held_out(level: Level, held: list[ndarray], gates: list[Gate]) -> ndarray:
    """Return (n,) the loss of each row under the gate that had not learned from it; 0 where no row of a fold counts."""
    found = np.zeros(len(level.y))
    for rows, gate in zip(held, gates, strict=True):
        found[rows] = losses(level.at(rows), gate)
    return found


def _tried(kind: str, penalty: float, found: ndarray, reference: ndarray, level: Level) -> Tried:
    w = level.weights
    return Tried(kind, penalty, float(w @ found / w.sum()), *mean_gain(reference - found, w, level.groups))
