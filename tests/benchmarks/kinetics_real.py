"""The main job on measured curves: leave one curve out, see its first points, predict the rest.

The data have no stated licence and do not ship; they are read from ../shared/data beside the repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from kinetics_rivals import START, Predict, Prediction, avrami, each, one_curve_fit
from numpy import ndarray
from scipy.optimize import curve_fit

from scimeta import Axis, Calibrator, Curve, Law, LeastSquares, Parameter, learn_prior
from scimeta.domains.kinetics import JMAK_INCOMPLETE, check_table, crystallinity, jmak_incubation

SEEN_UP_TO = 0.25  # fraction transformed when the prediction is made
NOISE = 0.02  # added to the seen points in the noise rows
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


class Family(NamedTuple):
    """Measured curves of one material, what their conditions are called, and how many points are seen."""

    title: str
    curves: list[Curve]
    conditions: tuple[str, ...]
    seen: tuple[int, ...]


def families(data: Path = DATA) -> list[Family]:
    """Return the polymer, copper and steel curves, those that are there; says of the others that they are not."""
    found = []
    for folder, read in {"polymer_dsc_isothermal": polymer, "cu_recrystallisation": copper,
                         "steel_isothermal": steel}.items():  # fmt: skip
        if (data / folder).is_dir():
            found.append(read(data / folder))
        else:
            print(f"\n{folder}: not at {data / folder}, so its table is left out (no licence to ship it)")
    return found


def polymer(folder: Path) -> Family:
    """Return the 27 DSC curves, time in minutes since the start of the integration."""
    start = pd.read_csv(folder / "curves.csv").set_index("curve")["t_start_s"]
    table = pd.read_csv(folder / "relative_crystallinity_derived.csv")
    curves = []
    for number, rows in table.groupby("curve"):
        temperature, filler = rows["temperature"].iloc[0], rows["filler_wt_pct"].iloc[0]
        conditions = {"T": temperature, "T2": (temperature - 45.0) ** 2, "filler": filler}
        minutes = (rows["time"].to_numpy() - start[number]) / 60
        curves.append(positive(f"curve {number}", minutes, rows["fraction"].to_numpy(), conditions))
    return Family("polymer, isothermal DSC", curves, ("T", "T2", "filler"), (3, 5, 8))


def copper(folder: Path) -> Family:
    """Return the 6 isotherms of recrystallising copper, time in minutes by repute."""
    return Family("copper, recrystallisation", isotherms(folder / "cu_recrystallisation.csv"), ("1000/T",), (4,))


def steel(folder: Path) -> Family:
    """Return the 4 isotherms of a transforming steel, time in seconds."""
    return Family("steel, transformation", isotherms(folder / "steel_isothermal.csv"), ("1000/T",), (4,))


def isotherms(path: Path) -> list[Curve]:
    """Return one curve a temperature, with 1000 / T in 1/K as its condition."""
    return [
        positive(f"{temperature:g} deg C", rows["time"].to_numpy(), rows["fraction"].to_numpy(),
                 {"1000/T": 1000 / (temperature + 273.15)})
        for temperature, rows in pd.read_csv(path).sort_values("time").groupby("temperature")
    ]  # fmt: skip


def positive(name: str, time: ndarray, fraction: ndarray, conditions: dict[str, float]) -> Curve:
    """Return the curve without its points at t = 0, which say nothing, and without repeated times."""
    keep = np.flatnonzero(time > 0)
    keep = keep[np.unique(time[keep], return_index=True)[1]]
    return Curve(name, time[keep], fraction[keep], None, conditions)


def seen_points(fraction: ndarray, m: int) -> ndarray:
    """Return the indices of m points spread evenly by index up to the last X <= .25, but at least the first m."""
    last = max(np.flatnonzero(fraction <= SEEN_UP_TO).max(initial=0), m - 1)
    return np.round(np.linspace(0, last, m)).astype(int)


def print_family(law: Law, family: Family, repeats: int, limit: int | None) -> None:
    """Print RMSE and coverage of ours, with and without conditions, and of curve_fit, for precise and noisy points."""
    print(f"\n{family.title}: {len(family.curves)} curves, leave one out, points up to X = {SEEN_UP_TO}")
    print(f"  the law itself, fitted to whole curves: RMSE {whole_curves(family.curves):.4f}")
    print("  (less than that is possible only by a misfit that the law has in common in all the past curves)")
    print("  coverage: of the 90 % bands that were given; withheld: the share of specimens without one")
    bands = f"{'coverage':>8s} {'withheld':>8s}"
    print(f"  {'method':38s} {'m':>2s} {'RMSE':>6s} {bands} | {f'RMSE, noise {NOISE}':>16s} {bands}")
    left_out = range(len(family.curves))[:limit]
    for conditions in dict.fromkeys([(), family.conditions]):
        name = f"ours, conditions {', '.join(conditions)}" if conditions else "ours, no conditions"
        try:
            predictors = {i: ours_without(law, family.curves, i, conditions) for i in left_out}
        except ValueError as error:
            print(f"  {name}: {error}")
        else:
            print_rows(name, family, predictors, repeats)
    print_rows("curve_fit, bounded", family, {i: scaled_curve_fit for i in left_out}, repeats)


def print_rows(name: str, family: Family, predictors: dict[int, Predict], repeats: int) -> None:
    """Print one row for each number of seen points."""
    for m in family.seen:
        cells = []
        for noise, times in ((0.0, 1), (NOISE, repeats)):
            errors, inside, withheld = [], [], []
            for i, predict in predictors.items():
                curve = family.curves[i]
                seen = seen_points(curve.y, m)
                rest = np.setdiff1d(np.arange(len(curve.x)), seen)
                rng = np.random.default_rng([i, m])
                given = curve.y[seen] + noise * rng.standard_normal((times, m))
                mean, lower, upper = predict(curve.x[seen], given, curve.x[rest])
                errors.append(((mean - curve.y[rest]) ** 2).ravel())
                none = np.isnan(lower).any(1)
                inside.append(((lower <= curve.y[rest]) & (curve.y[rest] <= upper))[~none].ravel())
                withheld.append(none)
            covered = np.concatenate(inside)
            coverage = f"{covered.mean():8.3f}" if len(covered) else f"{'none':>8s}"
            bands = f"{coverage} {np.concatenate(withheld).mean():8.3f}"
            cells.append(f"{np.sqrt(np.concatenate(errors).mean()):{16 if noise else 6}.4f} {bands}")
        print(f"  {name:38s} {m:2d} {' | '.join(cells)}", flush=True)


def ours_without(law: Law, curves: Sequence[Curve], left_out: int, conditions: tuple[str, ...]) -> Predict:
    """Return the predictor of one curve, learned from all the others complete."""
    past = [curve for i, curve in enumerate(curves) if i != left_out]
    return calibrated(Calibrator(law, learn_prior(law, past, conditions=conditions)), curves[left_out])


def calibrated(calibrator: Calibrator, template: Curve) -> Predict:
    """Return the predictor of a curve with the conditions of this one."""

    def predict(seen: ndarray, fractions: ndarray, times: ndarray) -> Prediction:
        fits = calibrator.fit_many([replace(template, name=f"{template.name}, repeat {i}", x=seen, y=y)
                                    for i, y in enumerate(fractions)])  # fmt: skip
        # A left-out measurement, noise and misfit of the law included, is what the band has to hold here.
        band = fits.band(times, 0.9, noise=True)
        return Prediction(fits.predict(times), band.lower, band.upper)

    return predict


@each
def scaled_curve_fit(seen: ndarray, fraction: ndarray, times: ndarray) -> tuple[ndarray, ndarray]:
    """`curve_fit` in units of the last seen time, so that one start and one pair of bounds serve all materials."""
    mean, sd = one_curve_fit(seen / seen[-1], fraction, times / seen[-1])
    return mean, np.hypot(sd, NOISE)


def whole_curves(curves: Sequence[Curve]) -> float:
    """Return the RMSE that the law leaves when it is fitted to all the points of each curve."""
    misfits = []
    for curve in curves:
        time = curve.x / np.interp(0.5, curve.y, curve.x)
        (k, n), _ = curve_fit(avrami, time, curve.y, START, bounds=((1e-3, 0.1), (1e3, 20.0)))
        misfits.append(avrami(time, k, n) - curve.y)
    return rms(np.concatenate(misfits))


ENTHALPY = Law(
    "JMAK of an enthalpy",
    lambda time, a, k, n, t0: a * jmak_incubation(time, k, n, t0),
    {"a": Parameter("", "positive"), "k": Parameter("1/min", "positive"), "n": Parameter("", "softplus"),
     "t0": Parameter("min", "positive")},
    Axis("time", "min"), Axis("enthalpy"), first_guess=lambda time, y: {"a": 6.0, "k": 0.05, "n": 1.0, "t0": 1.0},
)  # fmt: skip
"""The model of the enthalpies' authors, with their start."""


def print_whole_curves(data: Path = DATA) -> None:
    """Print a line for each curve that plain JMAK does not describe: `LeastSquares` beside `curve_fit`, one start."""
    print("\nwhole curves of other laws: RMSE of LeastSquares / curve_fit from the same start, values (90 % intervals)")
    for folder, column, by, law in (("polymer_dsc_enthalpy", "enthalpy", "temperature", ENTHALPY),
                                    ("bainite_dilatometry", "fraction", "material", JMAK_INCOMPLETE)):  # fmt: skip
        path = next((data / folder).glob("*.csv"), None)
        if path is None:
            print(f"  {folder}: not at {data / folder}, left out")
            continue
        for name, rows in pd.read_csv(path).groupby(by):
            x, y = rows["time"].to_numpy(), rows[column].to_numpy()
            fit = LeastSquares(law).fit(x, y)
            theirs = fitted_by_curve_fit(law, x, y) - y
            estimates = ", ".join(map(str, fit.estimates.values())).replace("90% interval ", "")
            print(
                f"  {folder:20s} {str(name)[-5:]:>5s} {rms(fit.residuals()):7.4f} / {rms(theirs):6.4f}"
                f"{'' if fit.converged else ' not converged'}  {estimates}"
            )


def print_integration(data: Path = DATA) -> None:
    """Print how far `crystallinity` is from the derived curves, with their choices and with its own."""
    folder = data / "polymer_dsc_isothermal"
    if not folder.is_dir():
        print(f"\nraw DSC traces: not at {folder}, left out")
        return
    starts = pd.read_csv(folder / "curves.csv").set_index("curve")["t_start_s"]
    derived = dict(list(pd.read_csv(folder / "relative_crystallinity_derived.csv").groupby("curve")))
    given, default, moved = [], [], []
    for number, rows in pd.read_csv(folder / "dsc_heatflow.csv").groupby("curve"):
        time, flow = rows["time_s"].to_numpy(), rows["heatflow_W_per_g"].to_numpy()
        level = float(np.median(flow[(time >= 540) & (time <= 595)]))
        at, fraction = derived[number]["time"].to_numpy(), derived[number]["fraction"].to_numpy()
        same = crystallinity(time, flow, starts[number], 560.0, baseline=level)
        own = crystallinity(time, flow)
        for found, errors in ((same, given), (own, default)):
            errors.append(np.abs(np.interp(at - found.start, found.time, found.fraction) - fraction).max())
        moved.append(abs(own.start - starts[number]))
    print(
        f"\nraw DSC traces to relative crystallinity, {len(given)} traces, largest difference from the derived curves:"
    )
    print(f"  {max(given):.1e} with their start, stop and baseline")
    print(f"  {max(default):.3f} with its own, whose start is at most {max(moved):.0f} s off")


def print_published_table(data: Path = DATA) -> None:
    """Print how many rows of a published table contradict themselves."""
    path = data / "avrami_parameter_tables" / "pbabi_isothermal_avrami.csv"
    if not path.is_file():
        print(f"\npublished table: not at {path}, left out")
        return
    checked = check_table(pd.read_csv(path), convention="K t^n", unit="min^-n", half_time_unit="min")
    print(f"\npublished table of PBABI: k, n and half-time contradict each other in {checked['contradicts'].sum()} of "
          f"{len(checked)} rows")  # fmt: skip


def fitted_by_curve_fit(law: Law, x: ndarray, y: ndarray) -> ndarray:
    """Return the curve that `curve_fit` finds from the law's first guess, all parameters positive."""

    def fn(x: ndarray, *values: float) -> ndarray:
        return law.fn(torch.tensor(x), *torch.tensor(values, dtype=torch.float64)).numpy()

    guess = law.first_guess(x, y)
    values, _ = curve_fit(fn, x, y, [guess[name] for name in law.names], bounds=(0.0, np.inf))
    return fn(x, *values)


def rms(residuals: ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(residuals**2)))
