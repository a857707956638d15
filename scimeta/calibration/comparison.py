"""Which of several laws describes a family best: judged by what each predicts of specimens it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray
from scipy import stats
from tqdm import tqdm

from scimeta.calibration.data.curves import Curve, Curves, shortened
from scimeta.calibration.fits.calibration import Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.intervals import probability
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.learn_prior import learn_prior

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_QUANTILES = 20  # that stand for a forecast
_CHANCE = 0.05  # with which two laws that are equally good are called different


class _Scores(NamedTuple):
    """How one law predicted every specimen's later points; means over a specimen's points."""

    crps: ndarray  # (specimens,)
    interval: ndarray  # (specimens,)
    square: ndarray  # (specimens,)
    inside: ndarray  # (specimens,)
    withheld: ndarray  # (specimens,) bool
    converged: ndarray  # (specimens,) bool


@dataclass(frozen=True, eq=False)
class Comparison:
    """Held-out scores of several laws on one family; it prints itself as a table.

    Attributes:
        laws: their names, as given.
        specimens: the specimens' names.
        crps: (laws, specimens) continuous ranked probability score of new measurements, mean over each specimen's later
            points, in the unit of y; 0 is perfect, and for a forecast without spread it is the absolute error.
        interval_score: (laws, specimens) width of the ``level`` interval, and for a point outside 2 / (1 - level) times
            its distance from it.
        squared_error: (laws, specimens) of the expected curve.
        inside: (laws, specimens) share of the points inside the interval.
        withheld: (laws, specimens) bool, True where the fit defended no interval; the expected curve was then scored as
            a forecast without spread.
        converged: (laws, specimens) bool, False where the prior that predicted the specimen had not reached its fixed
            point.
        seen: points of every specimen that were shown.
        level: of the intervals.
        unit: of y.
    """

    laws: tuple[str, ...]
    specimens: tuple[str, ...]
    crps: ndarray
    interval_score: ndarray
    squared_error: ndarray
    inside: ndarray
    withheld: ndarray
    converged: ndarray
    seen: int
    level: float
    unit: str

    @property
    def best(self) -> str:
        """The law of the lowest mean CRPS; see :attr:`ties` before believing in it."""
        return self.laws[int(self.crps.mean(1).argmin())]

    @property
    def ties(self) -> tuple[str, ...]:
        """The laws that these specimens cannot tell from the best, the best first."""
        frame = self.to_frame()
        return tuple(frame.index[(frame["verdict"] != "worse").to_numpy()])

    def to_frame(self) -> pd.DataFrame:
        """Return one row a law, the best first.

        Columns: crps, behind (by how much its CRPS is above that of the best), se (standard error of this paired
        difference over specimens), rmse, interval score, coverage, withheld and converged (shares of the specimens),
        verdict. A law ties with the best if the difference is not significant at 5 %, by Student's t over the
        specimens.
        """
        import pandas as pd

        behind = self.crps - self.crps[self.laws.index(self.best)]
        count = len(self.specimens)
        gap, se = behind.mean(1), behind.std(1, ddof=1) / count**0.5
        tied = gap <= stats.t.isf(0.5 * _CHANCE, count - 1) * se
        columns = {
            "crps": self.crps.mean(1),
            "behind": gap,
            "se": se,
            "rmse": np.sqrt(self.squared_error.mean(1)),
            "interval score": self.interval_score.mean(1),
            "coverage": self.inside.mean(1),
            "withheld": self.withheld.mean(1),
            "converged": self.converged.mean(1),
            "verdict": np.where(tied, "tied with the best", "worse"),
        }
        frame = pd.DataFrame(columns, pd.Index(self.laws, name="law"))
        frame.loc[self.best, "verdict"] = "best"
        return frame.sort_values("crps", kind="stable")

    def __str__(self) -> str:
        unit = f", in {self.unit}" if self.unit else ""
        table = self.to_frame().rename(columns={"coverage": f"coverage of {self.level:.0%}"})
        table = table if self.withheld.any() else table.drop(columns="withheld")
        table = table.drop(columns="converged") if self.converged.any(1).all() else table
        ties = self.ties
        said = f"{ties[0]} predicts best" if len(ties) == 1 else f"a tie: {', '.join(ties)}"
        return (
            f"{len(self.laws)} laws, {len(self.specimens)} specimens left out in turn, {self.seen} points of each seen"
            f"{unit}\n{table.to_string(float_format=lambda v: f'{v:.4g}')}\n{said}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how far each law is behind the best, with its 95 % interval; returns the axes."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 1.2 + 0.4 * len(self.laws)), layout="constrained")
        frame = self.to_frame()[::-1]
        reach = stats.t.isf(0.5 * _CHANCE, len(self.specimens) - 1) * frame["se"]
        colors = ["C3" if verdict == "worse" else "C0" for verdict in frame["verdict"]]
        ax.hlines(range(len(frame)), frame["behind"] - reach, frame["behind"] + reach, colors=colors)
        ax.scatter(frame["behind"], range(len(frame)), c=colors, zorder=3)
        ax.axvline(0.0, color="k", lw=0.8)
        ax.set_yticks(range(len(frame)), list(frame.index))
        ax.set_xlabel(f"CRPS above that of {self.best}" + (f" [{self.unit}]" if self.unit else ""))
        return ax


def compare(
    laws: Sequence[Law],
    curves: Curves | Sequence[Curve],
    *,
    seen: int = 3,
    folds: int = 10,
    conditions: Sequence[str] = (),
    level: float = 0.9,
) -> Comparison:
    """Return how well each law predicts the rest of specimens from their first points.

    The specimens are left out a fold at a time. Each law learns a prior from the others, is shown the first ``seen``
    points of those left out, and its forecast of their later measurements is scored. A law with needless parameters
    gains nothing by them here, and one that is wrong but close may well predict best. Laws are compared specimen by
    specimen, so that what makes a specimen hard for all of them cancels; that the pasts of the folds overlap is not
    counted, so that the standard errors are a little too small. What a law misses in the same way in all specimens the
    prior learns and corrects, so that this costs it little.

    Args:
        laws: two or more of different names, for the same axes.
        curves: the family. The noise of a later measurement is the prior's, also where it brought its sigma.
        seen: points of every specimen that are shown.
        folds: as many groups of specimens are left out in turn; each specimen alone if there are no more of them.
        conditions: as in :func:`learn_prior`.
        level: of the interval score and the coverage.

    Raises:
        TypeError: not laws.
        ValueError: fewer than two laws or two of one name, a specimen without later points, fewer than two folds, and
            what ``learn_prior`` raises, with the law's name.

    Reference: Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007); CRPS by quantiles: Laio and Tamea, Hydrol.
    Earth Syst. Sci. 11, 1267 (2007).

    >>> import torch
    >>> from scimeta.calibration.laws.law import Parameter
    >>> laws = [Law("line", lambda t, a: a - 0.4 * t, {"a": Parameter()}),
    ...         Law("decay", lambda t, a: torch.exp(-a * t), {"a": Parameter("1/s", "positive")})]
    >>> rng, times = np.random.default_rng(0), np.linspace(0.2, 2.0, 6)
    >>> family = [Curve(f"A{i}", times, np.exp(-a * times) + 0.02 * rng.standard_normal(6))
    ...           for i, a in enumerate(np.exp(0.3 * rng.standard_normal(12)))]
    >>> compare(laws, family, folds=3).best
    'decay'
    """
    laws, curves = list(laws), curves if isinstance(curves, Curves) else list(curves)
    _require(laws, curves, seen, folds)
    probability(level)
    found = []
    with tqdm(total=len(laws) * min(folds, len(curves)), desc="compare", disable=None, delay=2, leave=False) as bar:
        for law in laws:
            found.append(_scored(law, curves, seen, min(folds, len(curves)), conditions, level, bar))
    unit = laws[0].y.unit or next(filter(None, (curve.y_unit for curve in curves)), "")
    scores = _Scores(*(np.stack(part) for part in zip(*found, strict=True)))
    return Comparison(
        tuple(law.name for law in laws),
        tuple(curve.name for curve in curves),
        crps=scores.crps,
        interval_score=scores.interval,
        squared_error=scores.square,
        inside=scores.inside,
        withheld=scores.withheld,
        converged=scores.converged,
        seen=seen,
        level=level,
        unit=unit,
    )


def _require(laws: list[Law], curves: Sequence[Curve], seen: int, folds: int) -> None:
    """Raise unless laws and curves can be compared."""
    for law in laws:
        if not isinstance(law, Law):
            raise TypeError(f"compare takes a list of Law; it holds {law!r}")
    names = [law.name for law in laws]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"compare needs two laws or more, each with its own name; got {', '.join(names) or 'none'}. "
            "dataclasses.replace(law, name=...) renames one"
        )
    if seen < 1 or folds < 2 or len(curves) < 2:
        raise ValueError(
            f"compare needs 1 seen point, 2 folds and 2 specimens at least; got {seen}, {folds} and {len(curves)}"
        )
    short = [curve.name for curve in curves if len(curve) <= seen]
    if short:
        raise ValueError(
            f"with {seen} points seen nothing is left to predict of {shortened(short)}; lower seen or leave them out"
        )


def _scored(
    law: Law, curves: Sequence[Curve], seen: int, folds: int, conditions: Sequence[str], level: float, bar: tqdm
) -> _Scores:
    """Return the scores of one law, every specimen left out once."""
    scores = _Scores(*(np.full(len(curves), np.nan) for _ in range(4)), *np.zeros((2, len(curves)), dtype=bool))
    fold = np.arange(len(curves)) % folds  # neighbours in a table are often alike: they go to different folds
    for left_out in range(folds):
        past = [curve for curve, own in zip(curves, fold, strict=True) if own != left_out]
        alike: dict[bytes, list[int]] = {}  # specimens measured at the same x are predicted in one batch
        for row in np.flatnonzero(fold == left_out).tolist():
            alike.setdefault(curves[row].x[seen:].tobytes(), []).append(row)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the table tells what did not converge
                calibrator = Calibrator(law, learn_prior(law, past, conditions=conditions), level)
                for rows in alike.values():
                    own = _predicted(calibrator, [curves[row] for row in rows], seen)
                    for whole, part in zip(scores, own, strict=True):
                        whole[rows] = part
        except ValueError as error:
            raise ValueError(f"compare, law {law.name}: {error}") from error
        bar.update()
    return scores


def _predicted(calibrator: Calibrator, curves: Sequence[Curve], seen: int) -> _Scores:
    """Return the scores of specimens whose later points have the same x."""
    fits = calibrator.fit_many([curve.head(seen) for curve in curves])
    x, y = curves[0].x[seen:], np.stack([curve.y[seen:] for curve in curves])  # (specimens, points)
    mean, level = fits.predict(x), calibrator.level
    low, high = _interval(fits, x, mean, level)
    miss = np.maximum(low - y, 0.0) + np.maximum(y - high, 0.0)
    return _Scores(
        crps(_quantiles(fits, x, mean), y).mean(1),
        (high - low + 2.0 / (1.0 - level) * miss).mean(1),
        ((mean - y) ** 2).mean(1),
        (miss == 0.0).mean(1),
        np.array([bool(reason) for reason in fits.reasons]),
        np.full(len(curves), calibrator.prior.converged),
    )


def crps(quantiles: ndarray, y: ndarray) -> ndarray:
    """Return the continuous ranked probability score of forecasts that are given by evenly spaced quantiles.

    Twice the mean of the quantiles' pinball losses.

    Args:
        quantiles: (quantiles, ...) at levels (j + 1/2) / quantiles.
        y: (...), what was measured.

    >>> float(crps(np.array([1.0, 1.0]), np.array(3.0)))  # without spread: the absolute error
    2.0
    """
    levels = ((np.arange(len(quantiles)) + 0.5) / len(quantiles)).reshape(-1, *[1] * np.ndim(y))
    above = y - quantiles
    return 2.0 * np.maximum(levels * above, (levels - 1.0) * above).mean(0)


def _quantiles(fits: Calibrations, x: ndarray, mean: ndarray) -> ndarray:
    """Return (quantiles, specimens, points) of a new measurement."""
    levels = 1.0 - 2.0 * (np.arange(_QUANTILES // 2) + 0.5) / _QUANTILES
    ends = [_interval(fits, x, mean, level) for level in levels]
    return np.stack([low for low, _ in ends] + [high for _, high in ends[::-1]])


def _interval(fits: Calibrations, x: ndarray, mean: ndarray, level: float) -> tuple[ndarray, ndarray]:
    """Return the ends of the interval of a new measurement, the expected value where none is defended."""
    band = fits.band(x, level, noise=True)
    lower, upper = (np.where(np.isnan(end), mean, end) for end in (band.lower, band.upper))
    return lower, upper
