"""What a test of a stack's honesty found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

HONEST = (0.97, 1.04)
"""Risk over variance of an honest stack on a target of which nothing can be known."""

CHECKS = (
    "nothing found by these checks: the stack on noise, on a permuted target and on its own; rows, copies of rows and "
    "subjects on both sides of an inner fold"
)
UNSEEN = (
    "not to be seen from here: columns made with y or chosen by it, order in time, altered copies, subjects that no "
    "groups name, what candidates fitted before have seen"
)


@dataclass(frozen=True, eq=False)
class StackDiagnosis:
    """What a stack makes of noise, of a permuted target and of its own; prints as a table.

    All risks (squared error; for classifiers Brier's score) are over that of a constant guess, on rows, or whole
    subjects, that the stack had not seen.

    Attributes:
        targets: "noise", "permuted", "own".
        risks: (3,).
        errors: (3,) their standard errors, over subjects where there are such.
        claimed: (3,) risk by the stack's own out-of-fold predictions; NaN for all stacks but Super Learners.
        straddling: subjects with rows on both sides of an inner fold; without groups, rows of the same X as one on the
            other side.
        subjects: their number; without groups, that of the rows.
        grouped: whether groups were given.
        problems: what is wrong, in words; empty if these checks found nothing, which is no proof: some leaks cannot be
            seen from here, and are named when it prints.
        copies: rows of the same X and target as one on the other side.
        notes: what may be wrong or right, in words.
    """

    targets: tuple[str, ...]
    risks: ndarray
    errors: ndarray
    claimed: ndarray
    straddling: int
    subjects: int
    grouped: bool
    problems: tuple[str, ...]
    copies: int = 0
    notes: tuple[str, ...] = ()

    @property
    def honest(self) -> bool:
        """Whether these checks found no problem."""
        return not self.problems

    def to_frame(self) -> pd.DataFrame:
        """Return one row a target: risk, its standard error, claimed."""
        import pandas as pd

        index = pd.Index(self.targets, name="target")
        return pd.DataFrame({"risk": self.risks, "se": self.errors, "claimed": self.claimed}, index=index)

    def __str__(self) -> str:
        lines = ["risk over that of a constant", f"{'target':<10} {'claimed':>8} {'on unseen':>10}"]
        rows = zip(self.targets, self.claimed, self.risks, self.errors, strict=True)
        for name, claimed, risk, error in rows:
            lines.append(f"{name:<10} {'-' if np.isnan(claimed) else f'{claimed:.3f}':>8} {risk:10.3f} +- {error:.3f}")
        kind = "subjects with rows" if self.grouped else "rows of the same X"
        lines.append(f"{kind} on both sides of a fold: {self.straddling} of {self.subjects}")
        lines.append(f"rows of the same X and target on both sides: {self.copies}")
        lines += [f"PROBLEM: {problem}" for problem in self.problems] + [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *([] if self.problems else [CHECKS]), UNSEEN])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the risks on unseen rows, those claimed, and the band of an honest stack."""
        import matplotlib.pyplot as plt

        ax = ax if ax is not None else plt.subplots(figsize=(5, 4), layout="constrained")[1]
        places = np.arange(len(self.targets))
        ax.axhspan(*HONEST, color="C2", alpha=0.25, lw=0, label="honest on noise")
        ax.errorbar(places, self.risks, 2 * self.errors, fmt="o", color="C0", capsize=3, label="on unseen rows")
        ax.plot(places, self.claimed, "x", color="C3", label="claimed")
        ax.set_xticks(places, self.targets)
        ax.set(ylabel="risk over that of a constant", ylim=(0, None), xlim=(-0.5, len(places) - 0.5))
        ax.legend(frameon=False, fontsize="small")
        return ax
