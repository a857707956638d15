"""Rows of measured curves: real DSC, theophylline, and six families of growth, uptake, assay and reaction.

One curve is left out, all others complete are the past; three of its points are seen, the others are to be predicted
with the band of a new reading. The data have no licence to ship and are read from a folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import kinetics_real
import numpy as np
from calibration_problems import (
    HEADER,
    LEAST_POINTS,
    SMOKE,
    Asked,
    Measured,
    Scores,
    at_most,
    between,
    cells,
    measured_families,
    scores,
    theophylline,
)
from calibration_rivals import CURVE_FIT, MEAN_CURVE, fitted_alone, mean_curve
from kinetics_rivals import Prediction
from numpy import ndarray

from scimeta import Calibrator, Curve, Law, learn_prior
from scimeta.calibration.laws.ready import ONE_COMPARTMENT
from scimeta.domains.kinetics import JMAK

LEFT_OUT = 1 if SMOKE else None  # curves left out in turn; all of them if None
MOST = 1 if SMOKE else 16  # curves left out of one further family, spread evenly over it
SETS = 2 if SMOKE else None  # further families; all of them if None
REPEATS = 2 if SMOKE else 20  # of the noise on the DSC curves
SUBJECTS = {"0.5, 2, 7 h": (1, 3, 6), "0.25, 0.5, 1 h": (0, 1, 2)}  # times -> the points that are seen
ASKED = {"0.5, 2, 7 h": (0.92, 4.6), "0.25, 0.5, 1 h": (1.07, 5.2)}


def dsc(data: Path) -> list[Asked]:
    """Print the row of the polymer's 27 DSC curves, three points seen, as measured and with more noise."""
    folder = data / "polymer_dsc_isothermal"
    if not folder.is_dir():
        print(f"real DSC: left out, there is no {folder}")
        return []
    family = kinetics_real.polymer(folder)
    print(
        f"\nreal DSC, {len(family.curves)} curves, 3 points up to X = .25 seen; noise .02 is added to them in 20 ways"
    )
    print(f"  {'method':46s} {'noise':>6s} {HEADER}")
    lines = []
    for conditions in ((), family.conditions):
        name = f"ours, conditions {', '.join(conditions)}" if conditions else "ours"
        predictors = {i: kinetics_real.ours_without(JMAK, family.curves, i, conditions)
                      for i in range(len(family.curves))[:LEFT_OUT]}  # fmt: skip
        lines += dsc_rows(name, family.curves, predictors)
    dsc_rows(
        CURVE_FIT, family.curves, {i: kinetics_real.scaled_curve_fit for i in range(len(family.curves))[:LEFT_OUT]}
    )
    return lines


def dsc_rows(name: str, curves: Sequence[Curve], predictors: dict) -> list[Asked]:
    """Print one method's two lines; the verdicts are of ours without conditions."""
    lines = []
    for noise, times, bound in ((0.0, 1, 0.027), (0.02, REPEATS, 0.031)):
        found, truth = [], []
        for i, predict in predictors.items():
            curve, seen = curves[i], kinetics_real.seen_points(curves[i].y, 3)
            rest, rng = np.setdiff1d(np.arange(len(curve)), seen), np.random.default_rng([i, 3])
            given = curve.y[seen] + noise * rng.standard_normal((times, 3))
            found.append(Prediction(*(part.ravel() for part in predict(curve.x[seen], given, curve.x[rest]))))
            truth.append(np.tile(curve.y[rest], times))
        values = scores(joined(found), np.concatenate(truth))
        print(f"  {name:46s} {noise:6g} {cells(values)}", flush=True)
        if name == "ours":
            what = f"real DSC, {'noise .02' if noise else 'precise'}"
            lines += [
                at_most(f"{what}: RMSE", values.rmse, bound),
                between(f"{what}: coverage", values.coverage, 0.85, 0.95),
            ]
    return lines


def subjects(data: Path) -> list[Asked]:
    """Print the rows of theophylline, in mg/L; the law and the past are of concentration over dose."""
    found = theophylline(data)
    if found is None:
        return []
    curves, doses = found
    print("\ntheophylline, 12 subjects, leave one out, mg/L "
          "(measured of others: NUTS .923 and 1.659, Meta-SGD without interval 1.067 in the second)")  # fmt: skip
    print(f"  {'method':28s} {'seen':>17s} {HEADER}")
    lines = []
    left_out = list(range(len(curves)))[:LEFT_OUT]
    calibrators = {i: learned(ONE_COMPARTMENT, without(curves, i)) for i in left_out}
    for times, seen in SUBJECTS.items():
        parts: dict[str, list[Prediction]] = {}
        truth = []
        for i in left_out:
            given, x, y = split(curves[i], seen)
            truth.append(doses[i] * y)
            for name, one in predictions(ONE_COMPARTMENT, calibrators[i], without(curves, i), given, x).items():
                parts.setdefault(name, []).append(Prediction(*(None if p is None else doses[i] * p for p in one)))
        for name, some in parts.items():
            values = scores(joined(some), np.concatenate(truth), (0.0, 12.0))
            print(f"  {name:28s} {times:>17s} {cells(values)}", flush=True)
            if name == "ours":
                lines += judged(f"theophylline, {times}", values, *ASKED[times])
    return lines


def judged(what: str, values: Scores, rmse: float, interval: float) -> list[Asked]:
    return [
        at_most(f"{what}: RMSE", values.rmse, rmse),
        at_most(f"{what}: interval score", values.interval, interval),
        between(f"{what}: coverage", values.coverage, 0.86, 0.94),
    ]


def sets(data: Path) -> list[Asked]:
    """Print a table of each further family, its first three points seen, in its own unit."""
    return [line for family in list(measured_families(data))[:SETS] for line in one_set(family)]


def one_set(family: Measured) -> list[Asked]:
    """Print one family's table."""
    curves = family.curves
    print(f"\n{family.name}: {len(curves)} curves, {family.law.name}, leave one out, the first three points seen")
    print(f"  {'method':46s} {HEADER}")
    parts: dict[str, list[Prediction]] = {}
    truth = []
    long = [i for i, curve in enumerate(curves) if len(curve) >= LEAST_POINTS]
    for i in long[:: max(1, -(-len(long) // MOST))]:
        past = without(curves, i)
        given, x, y = split(curves[i], (0, 1, 2))
        truth.append(y)
        for name, one in predictions(family.law, learned(family.law, past), past, given, x).items():
            parts.setdefault(name, []).append(one)
    ends = min(c.y.min() for c in curves), max(c.y.max() for c in curves)
    found = {name: scores(joined(some), np.concatenate(truth), ends) for name, some in parts.items()}
    for name, values in found.items():
        print(f"  {name:46s} {cells(values)}", flush=True)
    best = min(found[CURVE_FIT].rmse, found[MEAN_CURVE].rmse)
    met = bool(found["ours"].rmse <= best)
    lines = [Asked(f"{family.name}: RMSE", f"{found['ours'].rmse:.4g}", f"<= {best:.4g} (rivals)", met)]
    return [*lines, between(f"{family.name}: coverage", found["ours"].coverage, 0.8, 1.0)]


def predictions(
    law: Law, calibrator: Calibrator, past: Sequence[Curve], given: Curve, x: ndarray
) -> dict[str, Prediction]:
    """Return name -> what each method predicts of one curve at x."""
    fit = calibrator.fit_many([given])[0]
    band = fit.band(x, 0.9, noise=True)
    return {
        "ours": Prediction(fit.predict(x), band.lower, band.upper),
        CURVE_FIT: fitted_alone(law, given.x, given.y, x),
        MEAN_CURVE: Prediction(mean_curve(past, x)),
    }


def learned(law: Law, past: Sequence[Curve]) -> Calibrator:
    """Return ours, with nothing set; what it has to say of a past is not printed for each curve left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Calibrator(law, learn_prior(law, past))


def without(curves: Sequence[Curve], i: int) -> list[Curve]:
    return [curve for j, curve in enumerate(curves) if j != i]


def split(curve: Curve, seen: Sequence[int]) -> tuple[Curve, ndarray, ndarray]:
    """Return what is seen of a curve, and x and y of the rest."""
    seen = np.array(seen)
    rest = np.setdiff1d(np.arange(len(curve)), seen)
    return Curve(curve.name, curve.x[seen], curve.y[seen], None, curve.conditions), curve.x[rest], curve.y[rest]


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Return the predictions of all curves end to end."""
    return Prediction(*(None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)))
