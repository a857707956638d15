# %% [markdown]
# # Drug levels from three samples
#
# A patient swallows a tablet. How high does the level in the blood rise, how fast does it fall, and when is the next
# tablet due? Eleven samples over a day would tell, but nobody takes eleven. What can be said from three?
#
# The data are measured: theophylline, a drug against asthma, in twelve volunteers, eleven samples each (Upton; in
# Boeckmann, Sheiner and Beal 1994). Each of the twelve plays the new patient in turn, and the eleven others are the
# past. The law is the textbook's: one compartment, absorption and elimination of first order,
#
#     c(t) = dose ke ka / (Cl (ka - ke)) (exp(-ke t) - exp(-ka t))
#
# It is simple, and in the first hour it is wrong: a tablet dissolves before it is absorbed. That is the usual state of
# affairs, and the reason for this tutorial: three early samples are then worse than none for anybody who takes the law
# at its word.

# %%
from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from scimeta import Calibrator, Curve, LeastSquares, Prior, datasets, learn_prior
from scimeta.calibration.laws.ready import ONE_COMPARTMENT, in_units

SMOKE = "SCIMETA_SMOKE" in os.environ
SEED = int(os.environ.get("SCIMETA_SEED", "0"))  # of the draws
PATIENTS = 2 if SMOKE else 12  # who play the new patient
SAMPLES = {"0.5, 2 and 7 h": [1, 3, 6], "the first hour": [0, 1, 2]}  # which of the ten after the dose are seen

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-12-"))
print(f"figures: {folder}")

# %% [markdown]
# ## The twelve
#
# They got different doses. Concentrations are proportional to the dose in this law, so that dividing by it puts all on
# one scale: mg/L over mg/kg, which is kg/L. What is left at time 0, before the tablet can act, is no part of the law.

# %%
LAW = in_units(ONE_COMPARTMENT, "time [h]", "concentration / dose [kg/L]")
print(LAW.describe())

study = datasets.theophylline()
doses = {curve.name: curve.conditions["dose [mg/kg]"] for curve in study}
subjects = [Curve(c.name, c.x[c.x > 0], c.y[c.x > 0] / doses[c.name]) for c in study]

figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
for curve in subjects:
    ax.plot(curve.x, curve.y * doses[curve.name], "o-", ms=3, lw=0.8)
ax.set(xlabel="time since the dose [h]", ylabel="theophylline [mg/L]", title="twelve subjects, ten samples each")
figure.savefig(folder / "1_twelve_subjects.png", dpi=150)

# %% [markdown]
# ## What eleven say about the twelfth
#
# One prior for each patient, from the others. `learn_prior` looks for what the law gets wrong in all of them, apart
# from the noise of a measurement, and keeps it if subjects left out are predicted better with it.

# %%
patients = subjects[:PATIENTS]
priors: dict[str, Prior] = {}
for patient in patients:
    priors[patient.name] = learn_prior(LAW, [curve for curve in subjects if curve is not patient])
print(priors[patients[0].name])

# %% [markdown]
# ## From three samples
#
# Four ways of going on from them: nothing but the past (the mean of the other curves, whatever was measured), least
# squares on the three samples, and scimeta. Errors in mg/L, over all later and earlier samples that were not seen.


# %%
def mean_curve(patient: Curve, x: np.ndarray) -> np.ndarray:
    return np.mean([np.interp(x, c.x, c.y) for c in subjects if c is not patient], axis=0)


def judge(seen: list[int]) -> pd.DataFrame:
    """Return a row for each method: error, interval score and how often the band of 90 % holds the sample."""
    rows: dict[str, list[np.ndarray]] = {}
    for patient in patients:
        rest, dose = np.setdiff1d(np.arange(len(patient.x)), seen), doses[patient.name]
        x, y, later = patient.x[seen], patient.y[seen], patient.x[rest]
        fit = Calibrator(LAW, priors[patient.name]).fit(x, y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # three samples, three parameters: least squares complains
            alone = LeastSquares(LAW).fit(x, y).predict(later)
        band = fit.band(later, noise=True)
        nothing = np.full(len(rest), np.nan)
        for name, (mean, lower, upper) in {
            "mean of the others": (mean_curve(patient, later), nothing, nothing),
            "least squares": (alone, nothing, nothing),
            "scimeta": (fit.predict(later), band.lower, band.upper),
        }.items():
            rows.setdefault(name, []).append(dose * np.stack([mean, lower, upper, patient.y[rest]]))
    found = {}
    for name, parts in rows.items():
        mean, lower, upper, truth = np.concatenate(parts, axis=1)
        missed = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
        found[name] = {
            "rms error": np.sqrt(np.mean((mean - truth) ** 2)),
            "interval score": np.mean(upper - lower + 20 * missed),
            "band holds": np.mean(missed == 0) if np.isfinite(lower).all() else np.nan,
        }
    return pd.DataFrame(found).T


judged = pd.concat({name: judge(seen) for name, seen in SAMPLES.items()}, names=["samples at", "method"])
print(judged.round(3))

# %%
t = np.linspace(0.25, 25.0, 200)  # from the first sampling time on: before it nobody knows what the law misses
shown = patients[: min(4, PATIENTS)]
figure, axes = plt.subplots(
    2, len(shown), figsize=(3.0 * len(shown), 5.6), sharex=True, sharey=True, layout="constrained"
)
for row, (name, seen) in zip(axes, SAMPLES.items(), strict=True):
    for ax, patient in zip(row, shown, strict=True):
        dose = doses[patient.name]
        fit = Calibrator(LAW, priors[patient.name]).fit(patient.x[seen], patient.y[seen])
        band = fit.band(t, noise=True)
        ax.fill_between(t, dose * band.lower, dose * band.upper, color="C0", alpha=0.2, lw=0)
        ax.plot(t, dose * fit.predict(t), color="C0")
        ax.plot(patient.x, dose * patient.y, "o", color="k", mfc="w", ms=4)
        ax.plot(patient.x[seen], dose * patient.y[seen], "o", color="k", ms=4)
        ax.set_title(f"{patient.name}: {name}", fontsize="small")
for ax in axes[-1]:
    ax.set_xlabel("time [h]")
for ax in axes[:, 0]:
    ax.set_ylabel("theophylline [mg/L]")
figure.savefig(folder / "2_three_samples.png", dpi=150)

# %% [markdown]
# Filled points were seen, open ones not; the band is where nine of ten new samples should fall.
#
# ## When is the next tablet due?
#
# Say that the level should not fall below 3 mg/L. There are two ways to ask a fit. Its draws answer any question about
# the law's parameters, and take the law at its word. Its band answers for the samples themselves: the law, what it
# misses, and the error of a measurement. A level that only falls crosses 3 mg/L later than t exactly if it lies above
# 3 mg/L at t, so that the band's lower end crosses where the interval begins, and its upper end where it ends.
#
# Each patient was sampled on, for a day. The samples on either side of 3 mg/L say when the level was there, along the
# straight line that elimination of first order is on a logarithmic scale. A time beyond the day is called infinity.


# %%
def measured_crossing(patient: Curve, level: float) -> float:
    """Return the hour at which the measured level fell to the level asked for, infinity if it never did."""
    y = doses[patient.name] * patient.y
    last = np.flatnonzero(y > level)[-1]
    if last + 1 == len(y):
        return np.inf
    share = np.log(y[last] / level) / np.log(y[last] / y[last + 1])
    return patient.x[last] + share * (patient.x[last + 1] - patient.x[last])


LEVEL, generator = 3.0, torch.Generator().manual_seed(SEED)
late = np.linspace(2.0, 24.0, 441)  # the past was followed for a day, and says nothing of later hours


def first_below(levels: np.ndarray) -> np.ndarray:
    """Return the first hour of ``late`` at which levels, (..., hours), are below the level asked for, or infinity."""
    below = levels < LEVEL
    return np.where(below.any(axis=-1), late[np.argmax(below, axis=-1)], np.inf)


rows = {}
for patient in patients:
    fit = Calibrator(LAW, priors[patient.name]).fit(patient.x[[1, 3, 6]], patient.y[[1, 3, 6]], name=patient.name)
    if patient is patients[0]:
        print(fit)
    dose, band, draws = doses[patient.name], fit.band(late, noise=True), fit.sample(2000, generator)
    ke, ka, Cl = (draws[name].to_numpy()[:, None] for name in ("ke", "ka", "Cl"))
    drawn = first_below(dose * ke * ka / (Cl * (ka - ke)) * (np.exp(-ke * late) - np.exp(-ka * late)))
    rows[patient.name] = {
        "measured": measured_crossing(patient, LEVEL),
        "expected": first_below(dose * fit.predict(late)),
        "lower": first_below(dose * band.lower),
        "upper": first_below(dose * band.upper),
        "law alone, lower": np.quantile(drawn, 0.05),
        "law alone, upper": np.quantile(drawn, 0.95),
    }
due = pd.DataFrame(rows, dtype=float).T
held = pd.Series(
    {
        "band": due["measured"].between(due["lower"], due["upper"]).mean(),
        "draws of the law": due["measured"].between(due["law alone, lower"], due["law alone, upper"]).mean(),
    }
)
print(f"hours until the level is below {LEVEL:g} mg/L, intervals of 90 %")
print(due.round(1).to_string())
print("share of the patients whose interval holds what was measured", held.round(2), sep="\n")

figure, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
place, shown, fell = np.arange(len(due)), due.clip(upper=late[-1]), np.isfinite(due["measured"])
ax.hlines(place, shown["lower"], shown["upper"], color="C0", alpha=0.4, lw=6, label="interval of the band")
ax.hlines(
    place, shown["law alone, lower"], shown["law alone, upper"], color="C0", lw=2, label="interval of the law alone"
)
ax.plot(shown["measured"][fell], place[fell], "o", color="k", mfc="w", label="measured")
ax.plot(shown["measured"][~fell], place[~fell], ">", color="k", label="measured, still above after a day")
ax.set(yticks=place, yticklabels=due.index, xlabel=f"hours until the level is below {LEVEL:g} mg/L")
ax.invert_yaxis()
figure.legend(loc="outside lower center", ncols=2, fontsize="small")
figure.savefig(folder / "3_when_the_next_is_due.png", dpi=150)

# %% [markdown]
# An interval of 90 % is wrong for one in ten, and subject 01 is that one here: three samples up to the seventh hour
# look like everybody's, yet a day after the dose the level is still above 3 mg/L, because this patient eliminates the
# drug more slowly than any of the eleven others. The fit, printed above, could not know. The draws of the law alone
# give narrower intervals, which hold for fewer patients.

# %% [markdown]
# ## What was claimed

# %%
early = judged.loc["the first hour", "rms error"]
assert early["scimeta"] < min(early["least squares"], early["mean of the others"])
if not SMOKE:  # two patients decide nothing more
    late = judged.loc["0.5, 2 and 7 h", "rms error"]
    assert late["scimeta"] < min(late["least squares"], late["mean of the others"])
    assert judged["band holds"].dropna().between(0.83, 0.97).all()
    assert held["band"] >= 0.75  # of twelve intervals of 90 %, fewer than nine hold by chance once in forty times
    assert held["draws of the law"] <= held["band"]
    slowest = {curve.name: np.log(curve.y[-2] / curve.y[-1]) / (curve.x[-1] - curve.x[-2]) for curve in subjects}
    assert min(slowest, key=slowest.__getitem__) == "subject 01" and np.isinf(due["measured"]["subject 01"])
print(f"all claims hold; figures in {folder}")
