"""Rows of measured runs whose batch, or isotherm, the past has never seen: hydrogen uptake and release, copper.

One batch is left out, the runs of all others are the past; the first readings of each of its runs are seen, the later
ones are to be predicted with the band of a new reading. Errors are pooled over the later readings of all runs; of one
batch alone the root is that of the mean over runs of their mean squares. Seen are the readings nearest to the named
times, and a run without so many of them is left out. The hydride runs ship; the copper isotherms have no licence to
ship and are read from a folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from calibration_problems import (
    HEADER,
    PAIRED,
    SMOKE,
    Asked,
    at_most,
    behind_curve_fit,
    between,
    cells,
    paired_text,
    scores,
)
from calibration_rivals import CURVE_FIT, LAW_ALONE, MEAN_CURVE, fitted_alone, law_alone, mean_curve
from kinetics_rivals import Prediction
from numpy import ndarray

from scimeta import Calibrator, Curve, Prior, datasets, learn_prior, read_curves
from scimeta.domains.kinetics import JMAK

OURS = "ours"
EVERY = 5 if SMOKE else 1  # of the hydride runs
THREE, EARLY, FIVE = (1, 2, 3), (1, 2, 3, 5), (1, 2, 3, 5, 7)  # s
INFORMATIVE, RELEASE = (2, 5, 10, 20), (5, 10, 20, 30)  # s

Seen = Callable[[Curve], ndarray]
"""A run -> the indices of its readings that are seen."""


class Row(NamedTuple):
    """What is seen of every run, and what was asked: RMSE at most, coverage between."""

    what: str
    seen: Seen
    rmse: float
    coverage: tuple[float, float]


def first(count: int) -> Seen:
    return lambda curve: np.arange(min(count, len(curve)))


def at(times: Sequence[float]) -> Seen:
    """The readings that lie nearest to these times; none where two times have the same one."""

    def seen(curve: Curve) -> ndarray:
        nearest = np.unique([int(np.abs(curve.x - t).argmin()) for t in times])
        return nearest if len(nearest) == len(times) else nearest[:0]

    return seen


def hydride(_: Path | None) -> list[Asked]:
    """Print the rows of hydrogen uptake and release."""
    uptake, release = list(datasets.hydride_absorption())[::EVERY], list(datasets.hydride_desorption())[::EVERY]
    each = ("1/temperature", "log(pressure [bar])")
    lines = left_out("uptake, 1/T and ln p", uptake, _letter, each, [
        Row("1, 2, 3 s", at(THREE), 0.033, (0.86, 0.93)),
        Row("1, 2, 3, 5 s", at(EARLY), 0.028, (0.86, 0.93)),
        Row("1, 2, 3, 5, 7 s", at(FIVE), 0.024, (0.86, 0.93)),
    ])  # fmt: skip
    lines += left_out("uptake, no condition", uptake, _letter, (), [
        Row("1, 2, 3, 5 s", at(EARLY), 0.0255, (0.85, 1.0)),
        Row("2, 5, 10, 20 s", at(INFORMATIVE), 0.0178, (0.85, 1.0)),
    ], {"H": [Row("1, 2, 3, 5 s", at(EARLY), 0.0200, (0.86, 0.97)),
              Row("2, 5, 10, 20 s", at(INFORMATIVE), 0.0165, (0.86, 0.97))]})  # fmt: skip
    return lines + left_out("release, 1/T", release, _letter, ("1/temperature",), [
        Row("1, 2, 3 s", at(THREE), 0.080, (0.80, 1.0)),
        Row("1, 2, 3, 5 s", at(EARLY), 0.072, (0.80, 1.0)),
        Row("1, 2, 3, 5, 7 s", at(FIVE), 0.064, (0.80, 1.0)),
        Row("5, 10, 20, 30 s", at(RELEASE), 0.036, (0.80, 1.0)),
    ])  # fmt: skip


def copper(data: Path | None) -> list[Asked]:
    """Print the rows of recrystallising copper, six isotherms, five of them the past."""
    table = None if data is None else data / "cu_recrystallisation" / "copper_isotherms.csv"
    if table is None or not table.is_file():
        print(f"\ncopper: left out, there is no {table or 'folder of data'}")
        return []
    curves = [replace(c, x_unit="") for c in read_curves(table, by="isotherm", conditions=["temperature [degC]"])]
    return left_out("copper, 1/T", curves, lambda curve: curve.name, ("1/temperature",), [
        Row("3 readings", first(3), 0.097, (0.84, 1.0)),
        Row("4 readings", first(4), 0.070, (0.84, 1.0)),
        Row("5 readings", first(5), 0.058, (0.84, 1.0)),
    ])  # fmt: skip


def _letter(curve: Curve) -> str:
    """Return the batch of a hydride run, the first letter of its name."""
    return curve.name[0]


def left_out(
    name: str,
    curves: Sequence[Curve],
    group: Callable[[Curve], str],
    conditions: Sequence[str],
    rows: Sequence[Row],
    alone: dict[str, list[Row]] | None = None,
) -> list[Asked]:
    """Print the rows of one set of runs, each group left out in turn; rows in ``alone`` are of one group."""
    groups = sorted({group(curve) for curve in curves})[-1 if SMOKE else 0 :]
    print(f"\n{name}: {len(curves)} runs, {', '.join(groups)} left out in turn")
    print(f"  {'seen':16s} {'method':46s} {HEADER}  {PAIRED}")
    parts: dict[tuple[str, str, str], list[tuple[Prediction, ndarray]]] = {}
    for left in groups:
        past = [curve for curve in curves if group(curve) != left]
        methods = calibrators(past, conditions, None if len(groups) == len(curves) else list(map(group, past)))
        for row in rows:
            for curve in (c for c in curves if group(c) == left):
                seen = row.seen(curve)
                if not len(seen) or seen.max() == len(curve) - 1:
                    continue
                rest = np.arange(len(curve)) > seen.max()
                given = Curve(curve.name, curve.x[seen], curve.y[seen], None, curve.conditions)
                for method, predict in methods.items():
                    found = predict(given, curve.x[rest])
                    parts.setdefault((row.what, left, method), []).append((found, curve.y[rest]))
    lines = [line for row in rows for line in printed(name, row, parts, groups)]
    for left, of_one in (alone or {}).items():
        if left in groups:
            lines += [line for row in of_one for line in printed(f"{name}, {left}", row, parts, [left])]
    return lines


def calibrators(
    past: Sequence[Curve], conditions: Sequence[str], batches: Sequence[str] | None
) -> dict[str, Callable[[Curve, ndarray], Prediction]]:
    """Return name -> what predicts a run from some of its readings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        prior = learn_prior(JMAK, past, conditions=conditions, groups=batches)

    def by(one: Prior) -> Callable[[Curve, ndarray], Prediction]:
        def predict(given: Curve, x: ndarray) -> Prediction:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                fit = Calibrator(JMAK, one).fit_many([given])[0]
                band = fit.band(x, 0.9, noise=True)
                return Prediction(fit.predict(x), band.lower, band.upper)

        return predict

    return {
        OURS: by(prior),
        LAW_ALONE: by(law_alone(prior)),
        CURVE_FIT: lambda given, x: fitted_alone(JMAK, given.x, given.y, x),
        MEAN_CURVE: lambda _, x: Prediction(mean_curve(past, x)),
    }


def printed(
    name: str, row: Row, parts: dict[tuple[str, str, str], list[tuple[Prediction, ndarray]]], groups: Sequence[str]
) -> list[Asked]:
    """Print a row of every method, pooled over groups, and return what was asked of ours."""
    found = {m: [one for g in groups for one in parts.get((row.what, g, m), [])]
             for m in (OURS, LAW_ALONE, CURVE_FIT, MEAN_CURVE)}  # fmt: skip
    errors = {m: np.array([np.mean((p.mean - y) ** 2) for p, y in some]) for m, some in found.items()}
    lines = []
    if not found[OURS]:  # no run has so many readings and one more
        return lines
    for method, some in found.items():
        joined = Prediction(*(None if part[0] is None else np.concatenate(part)
                              for part in zip(*(p for p, _ in some), strict=True)))  # fmt: skip
        values = scores(joined, np.concatenate([y for _, y in some]))
        if len(groups) == 1:
            values = values._replace(rmse=float(errors[method].mean() ** 0.5))
        gap = paired_text(errors[method], errors[CURVE_FIT])
        print(f"  {row.what:16s} {method:46s} {cells(values):46s} {gap}", flush=True)
        if method == OURS:
            lines = [
                at_most(f"{name}, {row.what}: RMSE", values.rmse, row.rmse),
                between(f"{name}, {row.what}: coverage", values.coverage, *row.coverage),
                behind_curve_fit(f"{name}, {row.what}", errors[OURS], errors[CURVE_FIT]),
            ]  # fmt: skip
    return lines
