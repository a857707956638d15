# %% [markdown]
# # Temperature in the prior
#
# The past was measured at four temperatures; the next specimen will be held at a fifth. How fast will it transform?
# Its own points do not exist yet, and no past specimen was ever held there. But rates follow temperature by a law, and
# the past can be asked for its constant:
#
#     ln k = ln k0 - E / (R T)
#
# which is a straight line in 1/T, with the activation energy E for its slope. In scimeta a specimen's *conditions*
# (temperature, composition, dose) move the mean of the prior. `learn_prior(..., conditions=["1/temperature"])` says
# in which form; curves, temperatures and scatter are learned in one go, and E comes with an interval.
#
# The alloys are simulated, with E = 110 kJ/mol, so that the answers can be held against the truth.

# %%
from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scimeta import Calibrator, Curve, LeastSquares, Prior, learn_prior
from scimeta.domains.kinetics import JMAK
from simulators.kinetics import fraction

SMOKE = "SCIMETA_SMOKE" in os.environ
PASTS = 6 if SMOKE else 40  # simulated drawers, for the intervals
ENERGY = 110.0  # kJ/mol
REFERENCE = 115.0  # degC, where the mean k is 0.01 1/s
MEASURED = (100.0, 110.0, 120.0, 130.0)  # degC
NEW = 160.0  # degC
R = 8.314462618e-3  # kJ/(mol K)

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-14-"))
print(f"figures: {folder}")


# %% [markdown]
# ## The drawer
#
# Thirty alloys, six noisy points each. From alloy to alloy ln k varies by 0.15 and n by 0.25, at any temperature. The
# unit in a condition's name matters: that is how 1/T knows that degrees Celsius do not count from absolute zero.


# %%
def usual_k(celsius: float | np.ndarray) -> np.ndarray:
    """Return the mean rate constant, 1/s."""
    return 0.01 * np.exp(-ENERGY / R * (1 / (np.asarray(celsius) + 273.15) - 1 / (REFERENCE + 273.15)))


def drawer(
    seed: int, specimens: int = 30, temperatures: tuple[float, ...] = MEASURED
) -> tuple[list[Curve], np.ndarray]:
    """Return curves of so many alloys, and their true (alloys, 2) k and n."""
    rng = np.random.default_rng(seed)
    curves, truth = [], []
    for i in range(specimens):
        celsius = rng.choice(temperatures)
        k, n = usual_k(celsius) * np.exp(0.15 * rng.standard_normal()), 2.4 + 0.25 * rng.standard_normal()
        times = np.sort(rng.uniform(0.15, 2.2, 6)) / k
        measured = fraction(times, k, n) + 0.02 * rng.standard_normal(6)
        curves.append(Curve(f"A{i:02d}", times, measured, conditions={"temperature [degC]": celsius}))
        truth.append((k, n))
    return curves, np.array(truth)


past, _ = drawer(0)
prior = learn_prior(JMAK, past, conditions=["1/temperature"])
print(prior)

# %% [markdown]
# ## The activation energy
#
# The usual way is in two stages: fit each curve by itself, then draw a line through ln k over 1/T. The line does not
# know which k are good and which are guesses. The prior does it in one stage, where a curve counts for as much as it
# tells.

# %%
energy = prior.activation_energy("k")
print(energy)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    alone = np.array([LeastSquares(JMAK).fit(c.x, c.y)["k"].value for c in past])
celsius = np.array([c.conditions["temperature [degC]"] for c in past])
slope, intercept = np.polyfit(1 / (celsius + 273.15), np.log(alone), 1)
print(f"two stages: E = {-R * slope:.1f} kJ/mol (truth {ENERGY:g})")


def band_of_k(prior: Prior, celsius: np.ndarray) -> np.ndarray:
    """Return (3, temperatures) median of k and where nine alloys of ten lie."""
    unmeasured = [Curve(f"at {t:g} degC", [], [], conditions={"temperature [degC]": t}) for t in celsius]
    k = Calibrator(JMAK, prior).fit_many(unmeasured).estimates()["k"]
    return np.stack([k[part] for part in ("value", "lower", "upper")])


warnings.filterwarnings("default", message=".* is extrapolated")  # shown here, also where warnings are errors
straight = learn_prior(JMAK, past, conditions=["temperature"])
grid = np.linspace(95.0, 170.0, 16)
figure, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
for name, one, color in (("linear in 1/T", prior, "C0"), ("linear in T", straight, "C1")):
    k, lower, upper = band_of_k(one, grid)
    ax.fill_between(grid, lower, upper, color=color, alpha=0.2, lw=0)
    ax.plot(grid, k, color=color, label=f"ln k {name}, with nine alloys of ten")
ax.plot(grid, usual_k(grid), "--", color="C3", label="truth")
ax.plot(celsius, alone, "o", color="k", mfc="none", ms=4, label="past alloys, fitted one by one")
ax.axvspan(min(MEASURED), max(MEASURED), color="k", alpha=0.06, lw=0)
ax.set(yscale="log", xlabel="temperature [degC]", ylabel="k [1/s]")
ax.legend(frameon=False)
figure.savefig(folder / "1_rate_and_temperature.png", dpi=150)

# %% [markdown]
# Within the grey range, where there are data, either line will do. Beyond it only the one that is right goes on being
# right. Its interval grows with the distance, by what the past leaves open of the line, and a warning says that this is
# extrapolation; of the choice of the line it knows nothing: that is yours. Forms that can be written: `"T"`, `"1/T"`,
# `"log(dose)"`, `"T^2"`, one beside the other if need be.
#
# ## An alloy that has not been measured
#
# A fit without points is what the past and the conditions say. One early point then does most of the rest: this far
# from the past the temperature adds little to it, since how n depends on the temperature is open, too.

# %%
calibrator = Calibrator(JMAK, prior)
conditions = {"temperature [degC]": NEW}
before = calibrator.fit([], [], name=f"at {NEW:g} degC", conditions=conditions)
print(before, "\n")

k, n = 1.2 * usual_k(NEW), 2.6  # a quick one
first = 0.6 / k
rng = np.random.default_rng(5)
reading = float(fraction(np.array([first]), k, n)[0] + 0.02 * rng.standard_normal())
after = calibrator.fit([first], [reading], name=f"at {NEW:g} degC", conditions=conditions)
blind = Calibrator(JMAK, learn_prior(JMAK, past)).fit([first], [reading], name="temperature not given")
print(after)

t = np.linspace(0, 3.0 / k, 200)
figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.8), sharey=True, layout="constrained")
titles = ("from its temperature alone", "and one point", "the point, without temperature")
for ax, fit, title in zip(axes, (before, after, blind), titles, strict=True):
    band = fit.band(t)
    ax.fill_between(t, band.lower, band.upper, color="C0", alpha=0.2, lw=0, label="90 % band")
    ax.plot(t, fit.predict(t), color="C0", label="expected")
    ax.plot(t, fraction(t, k, n), "--", color="C3", label="truth")
    ax.plot(fit.curve.x, fit.curve.y, "o", color="k", ms=5)
    ax.set(xlabel=str(JMAK.x), title=title)
axes[0].set_ylabel(str(JMAK.y))
axes[0].legend(frameon=False, loc="lower right")
figure.savefig(folder / "2_a_new_temperature.png", dpi=150)

# %% [markdown]
# ## Do the intervals keep their word?
#
# One drawer proves nothing. In many simulated ones the interval of E should hold 110 kJ/mol nine times in ten, and the
# interval of k of an alloy at a temperature where none was measured should hold its k as often.

# %%
held, k_held, widths = [], [], []
for seed in range(1, 1 + PASTS):
    curves, _ = drawer(seed)
    one = learn_prior(JMAK, curves, conditions=["1/temperature"])
    energy_of_one = one.activation_energy("k")
    held.append(energy_of_one.lower <= ENERGY <= energy_of_one.upper)
    widths.append(energy_of_one.upper - energy_of_one.lower)
    expected = Calibrator(JMAK, one).fit([], [], conditions=conditions)["k"]
    true = usual_k(NEW) * np.exp(0.15 * np.random.default_rng(1000 + seed).standard_normal(50))
    k_held.append(np.mean((expected.lower <= true) & (true <= expected.upper)))
shares = pd.Series({"E": np.mean(held), f"k at {NEW:g} degC, unmeasured": np.mean(k_held)})
print(f"share of the truths in the 90 % intervals, {PASTS} drawers:\n{shares.round(2).to_string()}")
print(f"width of the interval of E: {np.mean(widths):.1f} kJ/mol")

# %% [markdown]
# ## What was claimed

# %%
assert energy.lower < ENERGY < energy.upper
truth_there = usual_k(NEW)
assert before["k"].lower < truth_there < before["k"].upper
off = {
    name: abs(np.log(band_of_k(one, np.array([NEW]))[0, 0] / truth_there))
    for name, one in (("1/T", prior), ("T", straight))
}
assert off["1/T"] < off["T"]
width = [fit["k"].upper / fit["k"].lower for fit in (before, after, blind)]
assert width[1] < width[0]
assert SMOKE or (shares > 0.78).all()
print(f"all claims hold; figures in {folder}")
