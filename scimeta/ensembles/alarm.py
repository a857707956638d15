"""An alarm without labels: do the candidates still agree with one another as they did?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray
from scipy.special import log_ndtr, ndtri_exp

from scimeta.ensembles.level_one import check_matrix

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class AgreementAlarm:
    """How far each candidate agrees with the others, before and now; prints as a table.

    Attributes:
        names: of the candidates.
        before: (candidates,) share of the reference rows on which the candidate says what the others together say; for
            values minus the mean distance from the others' mean.
        now: (candidates,) the same at deployment.
        z_each: (candidates,) the change over its standard error.
        z: of the candidate that changed most, corrected for looking at all of them; negative where agreement fell.
        threshold: of |z|.
        rows: of the reference and of the deployment.
        measure: what ``before`` and ``now`` are.
    """

    names: tuple[str, ...]
    before: ndarray
    now: ndarray
    z_each: ndarray
    z: float
    threshold: float
    rows: tuple[int, int]
    measure: str

    @property
    def rings(self) -> bool:
        """Whether |z| is above the threshold."""
        return abs(self.z) > self.threshold

    @property
    def suspect(self) -> str:
        """The candidate whose agreement with the others changed most."""
        return self.names[int(np.argmax(np.abs(self.z_each)))]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a candidate: before, now, z."""
        import pandas as pd

        index = pd.Index(self.names, name="candidate")
        return pd.DataFrame({"before": self.before, "now": self.now, "z": self.z_each}, index=index)

    def __str__(self) -> str:
        width = max(map(len, (*self.names, "candidate")))
        lines = [f"{self.measure}: {self.rows[0]} rows before, {self.rows[1]} now"]
        lines.append(f"{'candidate':<{width}} {'before':>9} {'now':>9} {'z':>7}")
        rows = zip(self.names, self.before, self.now, self.z_each, strict=True)
        lines += [f"{name:<{width}} {before:9.3g} {now:9.3g} {z:7.1f}" for name, before, now, z in rows]
        verdict = f"ALARM: {self.suspect} fell out with the others" if self.z < 0 else f"ALARM: {self.suspect} changed"
        return "\n".join([*lines, f"z = {self.z:.1f}: {verdict if self.rings else 'no alarm'}"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the agreement of every candidate, before and now."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(6, 4), layout="constrained")[1]
        places = np.arange(len(self.names))[::-1]
        ax.hlines(places, self.before, self.now, color="0.7", lw=2, zorder=0)
        ax.plot(self.before, places, "o", color="C0", label="before")
        ax.plot(self.now, places, "o", color="C3", label="now")
        ax.set_yticks(places, self.names)
        ax.set(xlabel=self.measure, title=f"agreement alarm: z = {self.z:.1f}")
        ax.legend(frameon=False, fontsize="small")
        return ax


def agreement_alarm(
    reference: ndarray, deployed: ndarray, names: Sequence[str] | None = None, *, threshold: float = 4.0
) -> AgreementAlarm:
    """Return whether the candidates agree with one another at deployment as they did on the rows learned from.

    No labels are asked for. Of each candidate j, row i counts a_ij = 1 if its most probable class is that of the mean
    probability of all others, else 0 (for values: minus the distance from the others' mean). With means A_j, B_j and
    variances of a_ij over the n reference and m deployed rows,

        z_j = (B_j - A_j) / sqrt(var_A / n + var_B / m).

    The alarm's z is that of the largest |z_j|, with its p-value times the number of candidates (Bonferroni): without a
    change |z| > 2 comes up in at most 5 % of all cases. A change that moves all candidates alike goes unseen. Rows must
    be independent: of several rows a subject keep one. The reference holds out-of-fold predictions, made by models with
    fewer rows than those that are deployed: with very many rows that small difference shows too.

    Args:
        reference: (n, candidates) out-of-fold values or (n, candidates, classes) probabilities.
        deployed: (m, candidates) or (m, candidates, classes), what the fitted candidates say of new rows.
        names: of the candidates.
        threshold: of |z|, above which the alarm rings.

    Raises:
        ValueError: fewer than two candidates or rows, or shapes that do not agree.

    >>> sure = np.tile([[0.9, 0.1], [0.1, 0.9]], (50, 1))  # (100, classes)
    >>> before, now = np.stack([sure, sure, sure], axis=1), np.stack([sure, sure, sure[::-1]], axis=1)
    >>> alarm = agreement_alarm(before, now, ["a", "b", "c"])
    >>> alarm.rings, alarm.suspect
    (True, 'c')
    >>> agreement_alarm(before, before[:30]).rings
    False
    """
    reference, names = check_matrix(reference, names, "reference")
    deployed, _ = check_matrix(deployed, names, "deployed")
    if reference.shape[1:] != deployed.shape[1:] or min(len(reference), len(deployed)) < 2 or len(names) < 2:
        raise ValueError(
            "reference and deployed need two rows and two candidates or more, and the same candidates and classes; got "
            f"shapes {reference.shape} and {deployed.shape}"
        )
    before, now = _agreement(reference), _agreement(deployed)
    change = now.mean(0) - before.mean(0)
    error = np.sqrt(_variance(before) / len(before) + _variance(now) / len(now))
    z = np.divide(change, error, out=np.where(change == 0, 0.0, np.copysign(np.inf, change)), where=error > 0)
    worst = z[np.argmax(np.abs(z))]
    rows = len(before), len(now)
    measure = "agreement with the others" if reference.ndim == 3 else "minus the mean distance from the others"
    return AgreementAlarm(names, before.mean(0), now.mean(0), z, _corrected(worst, len(z)), threshold, rows, measure)


def _agreement(Z: ndarray) -> ndarray:
    """Return (n, candidates): whether each candidate agrees with the mean of the others, or minus its distance."""
    others = (Z.sum(axis=1, keepdims=True) - Z) / (Z.shape[1] - 1)
    if Z.ndim == 2:
        return -np.abs(Z - others)
    return (Z.argmax(axis=2) == others.argmax(axis=2)).astype(float)


def _variance(agreement: ndarray) -> ndarray:
    """Return (candidates,); of zeros and ones with one more of each, so that full agreement is not certainty."""
    if not np.isin(agreement, (0.0, 1.0)).all():
        return agreement.var(axis=0, ddof=1)
    share = (agreement.sum(axis=0) + 1) / (len(agreement) + 2)
    return share * (1 - share)


def _corrected(z: float, looks: int) -> float:
    """Return the z whose two-sided p-value is that of z times the number of looks; in logarithms, for z of any size."""
    log_half = log_ndtr(-abs(z)) + np.log(looks)
    return (
        float(np.copysign(-ndtri_exp(log_half), z))
        if log_half < np.log(0.5) and np.isfinite(z)
        else (float(z) if np.isinf(z) else 0.0)
    )
