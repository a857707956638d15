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
    PAIRED,
    SMOKE,
    Asked,
    Measured,
    Scores,
    at_most,
    behind_curve_fit,
    between,
    cells,
    measured_families,
    paired_text,
    scores,
    theophylline,
)
from calibration_rivals import CURVE_FIT, LAW_ALONE, MEAN_CURVE, fitted_alone, law_alone, mean_curve
from kinetics_rivals import Predict, Prediction
from numpy import ndarray

from scimeta import Calibrator, Curve, Law, learn_prior
from scimeta.calibration.laws.ready import ONE_COMPARTMENT
from scimeta.domains.kinetics import JMAK

OURS = "ours"
LEFT_OUT = 1 if SMOKE else None  # curves left out in turn; all of them if None
PAST = 7 if SMOKE else None  # the most curves of a past; all the others if None
MOST = 1 if SMOKE else 16  # curves left out of one further family, spread evenly over it
SETS = 2 if SMOKE else None  # further families; all of them if None
REPEATS = 2 if SMOKE else 20  # of the noise on the DSC curves
SUBJECTS = {"0.5, 2, 7 h": (1, 3, 6), "0.25, 0.5, 1 h": (0, 1, 2)}  # times -> the points that are seen
ASKED = {"0.5, 2, 7 h": (0.92, 4.6, (0.86, 0.94)), "0.25, 0.5, 1 h": (1.07, 4.38, (0.86, 1.0))}
COVERED = {"loblolly_pines": 0.84}  # at least, of the further families; of the others .8


def dsc(data: Path) -> list[Asked]:
    """Print the row of the polymer's 27 DSC curves, three points seen, as measured and with more noise."""
    folder = data / "polymer_dsc_isothermal"
    if not folder.is_dir():
        print(f"real DSC: left out, there is no {folder}")
        return []
    family = kinetics_real.polymer(folder)
    curves = family.curves[:: 3 if SMOKE else 1]
    left_out = range(len(curves))[:LEFT_OUT]
    print(
        f"\nreal DSC, {len(curves)} curves, 3 points up to X = .25 seen; noise .02 is added to them in {REPEATS} ways"
    )
    print(f"  {'method':46s} {'noise':>6s} {HEADER}  {PAIRED}")
    methods: dict[str, dict[int, Predict]] = {}
    for i in left_out:
        calibrator = learned(JMAK, without(curves, i))
        named = {
            OURS: calibrator,
            LAW_ALONE: Calibrator(JMAK, law_alone(calibrator.prior)),
            f"{OURS}, conditions {', '.join(family.conditions)}": learned(JMAK, without(curves, i), family.conditions),
        }
        for name, one in named.items():
            methods.setdefault(name, {})[i] = kinetics_real.calibrated(one, curves[i])
    methods[CURVE_FIT] = {i: kinetics_real.scaled_curve_fit for i in left_out}
    methods[MEAN_CURVE] = {i: mean_alone(without(curves, i)) for i in left_out}
    return [line for noise, times in ((0.0, 1), (0.02, REPEATS)) for line in dsc_rows(curves, methods, noise, times)]


def mean_alone(past: Sequence[Curve]) -> Predict:
    """Return the predictor that answers with the mean of the past, whatever is seen."""
    return lambda _, fractions, x: Prediction(np.tile(mean_curve(past, x), (len(fractions), 1)))


def dsc_rows(curves: Sequence[Curve], methods: dict[str, dict[int, Predict]], noise: float, times: int) -> list[Asked]:
    """Print every method's line of one noise; the verdicts are of ours without conditions."""
    found: dict[str, Scores] = {}
    errors: dict[str, ndarray] = {}
    for name, predictors in methods.items():
        parts, truth = [], []
        for i, predict in predictors.items():
            curve, seen = curves[i], kinetics_real.seen_points(curves[i].y, 3)
            rest, rng = np.setdiff1d(np.arange(len(curve)), seen), np.random.default_rng([i, 3])
            given = curve.y[seen] + noise * rng.standard_normal((times, 3))
            one = predict(curve.x[seen], given, curve.x[rest])
            parts.append(Prediction(*(None if part is None else part.ravel() for part in one)))
            truth.append(np.tile(curve.y[rest], times))
        found[name] = scores(joined(parts), np.concatenate(truth))
        errors[name] = squared(parts, truth)
    for name, values in found.items():
        print(f"  {name:46s} {noise:6g} {cells(values):46s} {paired_text(errors[name], errors[CURVE_FIT])}", flush=True)
    what = f"real DSC, {'noise .02' if noise else 'precise'}"
    return [
        at_most(f"{what}: RMSE", found[OURS].rmse, 0.031 if noise else 0.0125),
        between(f"{what}: coverage", found[OURS].coverage, 0.85, 0.95),
        behind_curve_fit(what, errors[OURS], errors[CURVE_FIT]),
    ]


def squared(parts: Sequence[Prediction], truth: Sequence[ndarray]) -> ndarray:
    """Return (specimens,): the mean squared error of each."""
    return np.array([np.mean((one.mean - y) ** 2) for one, y in zip(parts, truth, strict=True)])


def subjects(data: Path) -> list[Asked]:
    """Print the rows of theophylline, in mg/L; the law and the past are of concentration over dose."""
    found = theophylline(data)
    if found is None:
        return []
    curves, doses = found
    print("\ntheophylline, 12 subjects, leave one out, mg/L "
          "(measured of others: NUTS .923 and 1.659, Meta-SGD without interval 1.067 in the second)")  # fmt: skip
    print(f"  {'method':46s} {'seen':>17s} {HEADER}  {PAIRED}")
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
            gap = paired_text(squared(some, truth), squared(parts[CURVE_FIT], truth))
            print(f"  {name:46s} {times:>17s} {cells(values):46s} {gap}", flush=True)
            if name == OURS:
                what, (rmse, interval, coverage) = f"theophylline, {times}", ASKED[times]
                lines += [
                    at_most(f"{what}: RMSE", values.rmse, rmse),
                    at_most(f"{what}: interval score", values.interval, interval),
                    between(f"{what}: coverage", values.coverage, *coverage),
                    behind_curve_fit(what, squared(some, truth), squared(parts[CURVE_FIT], truth)),
                ]
    return lines


def sets(data: Path) -> list[Asked]:
    """Print a table of each further family, its first three points seen, in its own unit."""
    return [line for family in list(measured_families(data))[:SETS] for line in one_set(family)]


def one_set(family: Measured) -> list[Asked]:
    """Print one family's table."""
    curves = family.curves
    print(f"\n{family.name}: {len(curves)} curves, {family.law.name}, leave one out, the first three points seen")
    print(f"  {'method':46s} {HEADER}  {PAIRED}")
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
    errors = {name: squared(some, truth) for name, some in parts.items()}
    for name, values in found.items():
        print(f"  {name:46s} {cells(values):46s} {paired_text(errors[name], errors[CURVE_FIT])}", flush=True)
    best = min(found[CURVE_FIT].rmse, found[MEAN_CURVE].rmse)
    return [
        Asked(f"{family.name}: RMSE", f"{found[OURS].rmse:.4g}", f"<= {best:.4g} (rivals)",
              bool(found[OURS].rmse <= best)),
        between(f"{family.name}: coverage", found[OURS].coverage, COVERED.get(family.name, 0.8), 1.0),
        behind_curve_fit(family.name, errors[OURS], errors[CURVE_FIT]),
    ]  # fmt: skip


def predictions(
    law: Law, calibrator: Calibrator, past: Sequence[Curve], given: Curve, x: ndarray
) -> dict[str, Prediction]:
    """Return name -> what each method predicts of one curve at x."""

    def by(one: Calibrator) -> Prediction:
        fit = one.fit_many([given])[0]
        band = fit.band(x, 0.9, noise=True)
        return Prediction(fit.predict(x), band.lower, band.upper)

    return {
        OURS: by(calibrator),
        LAW_ALONE: by(Calibrator(law, law_alone(calibrator.prior))),
        CURVE_FIT: fitted_alone(law, given.x, given.y, x),
        MEAN_CURVE: Prediction(mean_curve(past, x)),
    }


def learned(law: Law, past: Sequence[Curve], conditions: Sequence[str] = ()) -> Calibrator:
    """Return ours, with nothing set; what it has to say of a past is not printed for each curve left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return Calibrator(law, learn_prior(law, past, conditions=conditions))


def without(curves: Sequence[Curve], i: int) -> list[Curve]:
    return [curve for j, curve in enumerate(curves) if j != i][:PAST]


def split(curve: Curve, seen: Sequence[int]) -> tuple[Curve, ndarray, ndarray]:
    """Return what is seen of a curve, and x and y of the rest."""
    seen = np.array(seen)
    rest = np.setdiff1d(np.arange(len(curve)), seen)
    return Curve(curve.name, curve.x[seen], curve.y[seen], None, curve.conditions), curve.x[rest], curve.y[rest]


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Return the predictions of all curves end to end."""
    return Prediction(*(None if p[0] is None else np.concatenate(p) for p in zip(*parts, strict=True)))
