# %% [markdown]
# # Calibrate a new alloy from four points
#
# You hold a metal at a temperature, and it transforms: a fraction X of it after a time t. The law of Johnson, Mehl,
# Avrami and Kolmogorov (JMAK) describes the curve by two numbers, a rate constant k and an exponent n:
#
#     X(t) = 1 - exp(-(k t)^n)
#
# Sixty alloys have been measured in the past. Of a new one you have four points, all early. What are its k and n, how
# sure is that, and how will the curve go on?
#
# Four points alone leave much open. But the sixty say which k and n are usual, how far alloys differ, how k and n go
# together, and how noisy the measurement is. scimeta learns that (a *prior*) and weighs it against the four points.
# If you know pandas and `scipy.optimize.curve_fit`, you know all that is needed here.

# %%
from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scimeta import Calibrator, Curve, LeastSquares, datasets, learn_prior, read_curves
from scimeta.domains import kinetics
from simulators.kinetics import alloy_family, fraction

SMOKE = "SCIMETA_SMOKE" in os.environ
ALLOYS = 300  # simulated new alloys that judge the methods
RIVALS = 30 if SMOKE else 200  # of those, how many least squares is tried on as well
MANY = 500 if SMOKE else 10_000  # alloys calibrated in one call

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-01-"))
print(f"figures: {folder}")

# %% [markdown]
# ## The table
#
# One row is one measurement, and one column says which alloy it belongs to. The times may differ from alloy to alloy.
# Units stand in the header, in brackets. Fractions slightly below 0 or above 1 are noise and are welcome; percent,
# negative times and missing cells are refused with the row that holds them.
#
# These sixty alloys are simulated (`data/README.md` says how), so that the answers can be compared with the truth.

# %%
file = datasets.path("jmak_alloys")
print(pd.read_csv(file).head(3).to_string(index=False), "\n...")

past = read_curves(file, x="time [s]", y="fraction", by="alloy")
print(past)

# %% [markdown]
# ## What the past says
#
# `kinetics.JMAK` is the law; tutorial 02 shows how to write one of your own. `learn_prior` finds the population from
# which the sixty were drawn: the usual k and n, their spread and their correlation, and the noise. It does not fit
# sixty curves one by one and average the results: an alloy with few or unlucky points would then count like any other,
# and its noise would pass for a difference between alloys.

# %%
prior = learn_prior(kinetics.JMAK, past)
print(prior)

figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
prior.plot(ax)
figure.savefig(folder / "1_the_past.png", dpi=150)

# %% [markdown]
# Read it as: of ten new alloys of this kind, nine have a k between the two ends of its row. The alloys were drawn with
# a median k of 0.01 1/s, a mean n of 2.5 and a noise of 0.02.
#
# ## The new alloy
#
# Four points in the first forty seconds; the transformation has reached a quarter.

# %%
new = datasets.new_alloy()["A61"]
calibrator = Calibrator(kinetics.JMAK, prior)
fit = calibrator.fit(new.x, new.y, name=new.name)
print(fit)

# %% [markdown]
# The report gives each value with an interval that holds the truth nine times in ten, and says under `data : prior`
# what the knowledge rests on. The four points fix k almost alone. Of n they tell less, and the past fills in.
#
# Everything in the report is at hand as numbers:

# %%
print(fit["n"].value, fit["n"].lower, fit["n"].upper)
print(fit.to_frame().round(4).to_string())
print("fraction expected after 60 and 100 s:", fit.predict([60.0, 100.0]).round(3))

# %% [markdown]
# Two older ways, on the same four points. `LeastSquares` is what `curve_fit` does, with the same report. The *Avrami
# plot* is what most papers do: ln(-ln(1 - X)) over ln t is a straight line with the slope n, if there is no noise.

# %%
alone = LeastSquares(kinetics.JMAK).fit(new.x, new.y, name=new.name)
print(alone, "\n")
line_k, line_n = kinetics.avrami_line(new.x, new.y)
print(f"Avrami plot: k = {line_k:.4f} 1/s, n = {line_n:.2f}; no interval")

truth, rest = datasets.alloys_truth()["A61"], datasets.new_alloy_rest()["A61"]
table = pd.DataFrame(
    {
        "truth": truth,
        "scimeta": {name: fit[name].value for name in truth},
        "least squares": {name: alone[name].value for name in truth},
        "Avrami plot": {"k": line_k, "n": line_n},
    }
)
print(table.round(4).to_string())

# %%
t = np.linspace(0, 200, 300)
figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
for ax, result, title in zip(axes, (fit, alone), ("with the past", "least squares alone"), strict=True):
    band = result.band(t)
    ax.fill_between(t, band.lower, band.upper, color="C0", alpha=0.2, lw=0, label="90 % band of the curve")
    ax.plot(t, result.predict(t), color="C0", label="expected")
    ax.plot(
        t, fraction(t, **truth), color="C3", ls="--", lw=1, label=f"truth: k = {truth['k']:.4f}, n = {truth['n']:.2f}"
    )
    ax.plot(rest.x, rest.y, "o", color="k", mfc="w", ms=5, label="measured later")
    ax.plot(new.x, new.y, "o", color="k", ms=5, label="measured so far")
    ax.set_title(f"{title}: k = {result['k'].value:.4f} 1/s, n = {result['n'].value:.2f}", fontsize="medium")
    ax.set_xlabel(str(kinetics.JMAK.x))
axes[0].set_ylabel(str(kinetics.JMAK.y))
axes[1].legend(frameon=False, loc="lower right")
figure.savefig(folder / "2_four_points.png", dpi=150)

# %% [markdown]
# One alloy proves nothing. The next section tries three hundred.
#
# ## Why not the straight line?
#
# The double logarithm stretches noise without bound where X is small. A point at X = 0.003 that reads 0.02 by chance
# lands far above the line; one that reads -0.01 has no logarithm at all and drops out, so that only the errors upwards
# stay. Early points are lifted and the slope comes out too small. More points do not help: they are more *early*
# points.
#
# Below, 300 simulated alloys of the same kind, each measured 3, 5 or 8 times in its first minute.


# %%
def judge(points: int) -> dict[str, float]:
    """Return bias in n and later errors of the methods, over simulated alloys with so many points up to 60 s."""
    family = alloy_family(
        ALLOYS,
        rng=np.random.default_rng(points),
        times=60 * np.arange(1, points + 1) / points,
        mean=(np.log(0.01), 2.5),
    )
    curves = [Curve(f"S{i}", *xy) for i, xy in enumerate(zip(family.times, family.fractions, strict=True))]
    later = np.linspace(60, 300, 41)[1:]
    unseen = family.truth(later)

    lines = []
    for curve in curves:
        try:
            lines.append(kinetics.avrami_line(curve.x, curve.y))
        except ValueError:  # too few points have a double logarithm, or the line falls
            lines.append((np.nan, np.nan))
    k, n = np.array(lines).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # least squares fails to converge on a few, and says so
        squares = np.array([LeastSquares(kinetics.JMAK).fit(c.x, c.y).predict(later) for c in curves[:RIVALS]])
    fits = calibrator.fit_many(curves)
    band = fits.band(later)
    return {
        "line: bias of n": np.nanmean(n - family.n),
        "scimeta: bias of n": np.mean(fits.estimates()["n"]["value"] - family.n),
        "line: rms error later": np.sqrt(np.nanmean((fraction(later, k[:, None], n[:, None]) - unseen) ** 2)),
        "least squares: rms error later": np.sqrt(np.mean((squares - unseen[:RIVALS]) ** 2)),
        "scimeta: rms error later": np.sqrt(np.mean((fits.predict(later) - unseen) ** 2)),
        "scimeta: band holds": np.mean((band.lower <= unseen) & (unseen <= band.upper)),
    }


COUNTS = (3, 5, 8)
judged = pd.DataFrame({points: judge(points) for points in COUNTS})
print(judged.round(3).rename_axis(columns="points").to_string())

figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0), layout="constrained")
example = alloy_family(1, rng=np.random.default_rng(7), times=np.arange(2.0, 62, 4), mean=(np.log(0.01), 2.5))
x, y = example.times[0], example.fractions[0]
good = y > 0
k, n = kinetics.avrami_line(x, y)
axes[0].plot(
    np.log(x[good]), np.log(-np.log(1 - y[good])), "o", color="k", ms=5, label=f"measured ({good.sum()} of {len(x)})"
)
for color, style, label, (rate, slope) in (
    ("C3", "--", "truth", (example.k[0], example.n[0])),
    ("C1", "-", "straight line", (k, n)),
):
    axes[0].plot(np.log(x), slope * np.log(rate * x), style, color=color, label=f"{label}: n = {slope:.2f}")
axes[0].set(xlabel="ln(t / s)", ylabel="ln(-ln(1 - X))", xlim=(1.8, 4.3), ylim=(-7, -0.5), title="one Avrami plot")
axes[0].legend(frameon=False)
for name, color in (("line", "C1"), ("scimeta", "C0")):
    axes[1].plot(COUNTS, judged.loc[f"{name}: bias of n"], "o-", color=color, label=name)
axes[1].axhline(0, color="k", lw=0.8)
axes[1].set(xticks=COUNTS, xlabel="points in the first minute", ylabel="mean error of n", title=f"{ALLOYS} alloys")
axes[1].legend(frameon=False)
figure.savefig(folder / "3_why_not_the_straight_line.png", dpi=150)

# %% [markdown]
# ## Many at once
#
# `fit_many` takes curves of any lengths and solves them in one batch; the result is a table.

# %%
crowd = alloy_family(MANY, rng=np.random.default_rng(0), times=np.array([15.0, 30, 45, 60]), mean=(np.log(0.01), 2.5))
fits = calibrator.fit_many([Curve(f"S{i}", *xy) for i, xy in enumerate(zip(crowd.times, crowd.fractions, strict=True))])
frame = fits.to_frame()
print(frame.drop(columns="note").head(3).round(4).to_string(index=False))
inside = {
    name: np.mean((estimate["lower"] <= getattr(crowd, name)) & (getattr(crowd, name) <= estimate["upper"]))
    for name, estimate in fits.estimates().items()
}
print(f"of {MANY} alloys, the 90 % intervals hold the true k in {inside['k']:.1%}, the true n in {inside['n']:.1%}")

# %% [markdown]
# ## Two conventions of k
#
# Half of the literature writes X = 1 - exp(-(k t)^n), the other half X = 1 - exp(-K t^n). The two constants share a
# letter and nothing else: K = k^n, and its unit is s^-n, which changes with n. Take one for the other and the half-time
# is wrong by orders of magnitude, in a table that looks perfectly sound. Convert values and units together:

# %%
K, unit = kinetics.rate_to_K(fit["k"].value, fit["n"].value, unit="1/s")
half = kinetics.half_time(fit["k"].value, fit["n"].value)
wrong = kinetics.half_time(K, fit["n"].value)
print(f"k = {fit['k'].value:.4g} 1/s is K = {K:.3g} {unit}")
back, back_unit = kinetics.K_to_rate(K, fit["n"].value, unit=unit, to="min")
print(f"and back, in minutes: k = {back:.4g} {back_unit}")
print(f"half-time {half:.1f} s; with K taken for k it would be {wrong:.3g} s")

# %% [markdown]
# `kinetics.check_table` does this for a published table: it derives the half-times anew and marks the rows that
# contradict themselves by more than rounding.
#
# ## Real data: two bainite curves
#
# Measured by dilatometry at 400 degrees C on one steel with two grain sizes (dos Santos Avila, Offerman and Santofimia,
# Acta Materialia 266, 119656, 2024). The transformation stops before completion, so the law needs a third parameter:
# X = x_inf (1 - exp(-(k t)^n)).
#
# Two curves are no past. `learn_prior` says so, instead of calling the difference of two specimens a population:

# %%
bainite = datasets.bainite()
try:
    learn_prior(kinetics.JMAK_INCOMPLETE, bainite)
    refusal = ""
except ValueError as error:
    refusal = str(error)
print(f"refused: {refusal}")

# %%
LAWS = {"k, n, x_inf": kinetics.JMAK_INCOMPLETE, "k, n, t0, x_inf": kinetics.JMAK_FULL}
real = {(c.name, key): LeastSquares(law).fit(c.x, c.y, name=c.name) for c in bainite for key, law in LAWS.items()}
for result in real.values():
    print(result, "\n")

coarse = bainite["grain 15 um"]
early = coarse.head(int((coarse.x <= 80).sum()))
hasty = LeastSquares(kinetics.JMAK_INCOMPLETE).fit(early.x, early.y, name="grain 15 um, first 80 s")
print(hasty)

# %%
figure, axes = plt.subplots(1, 3, figsize=(12.0, 3.9), layout="constrained")
for color, curve in zip(("C0", "C1"), bainite, strict=True):
    axes[0].plot(curve.x, curve.y, ".", color=color, ms=4, label=curve.name)
    for style, key in (("--", "k, n, x_inf"), ("-", "k, n, t0, x_inf")):
        result, x = real[curve.name, key], np.linspace(0, curve.x[-1], 400)
        axes[0].plot(x, result.predict(x), style, color=color, lw=1, label=key if color == "C0" else None)
        axes[1].plot(curve.x, result.residuals(), style, color=color, lw=1)
axes[0].set(xlabel=str(bainite.x), ylabel="bainite fraction", title="whole curves, two laws")
axes[0].legend(frameon=False, fontsize="small")
axes[1].axhline(0, color="k", lw=0.8)
axes[1].set(xlabel=str(bainite.x), ylabel="measured - fitted", title="what the laws leave")
x = np.linspace(0, coarse.x[-1], 400)
band = hasty.band(x)
axes[2].fill_between(x, band.lower, band.upper, color="C1", alpha=0.25, lw=0, label="90 % band")
axes[2].plot(x, hasty.predict(x), color="C1", label="expected")
axes[2].plot(coarse.x, coarse.y, ".", color="k", ms=3, label="measured")
axes[2].axvspan(0, 80, color="k", alpha=0.08, lw=0, label="points used")
axes[2].set(xlabel=str(bainite.x), title="15 um, from the first 80 s alone")
axes[2].legend(frameon=False, fontsize="small")
figure.savefig(folder / "4_bainite.png", dpi=150)

# %% [markdown]
# What these two curves can and cannot do:
#
# - They can be described. Each ends near two thirds, and the coarser grain waits longer before it starts.
# - They cannot be trusted to name n. With an incubation time, n falls from 2.0 to 1.2 for the coarse grain, because
#   the law changed and not the steel. Which is right, these points do not decide: neither law fits them to within the
#   noise.
# - Their intervals are too narrow. The middle panel shows no scatter but long waves: a hundred points that err
#   together count as a hundred witnesses, and are few. A least-squares interval believes that the law is true and that
#   errors are independent; here neither holds.
# - They cannot be extrapolated alone. In the right panel, least squares is sure that the coarse grain ends near a
#   quarter; it ended at 0.70. Early points do not hold the final fraction, whatever the interval says.
# - They cannot say how the *next* specimen will behave. For that the past must hold a few dozen specimens. From such a
#   past scimeta would also learn how this law fails in all of them, and widen the bands accordingly.
#
# ## From a raw DSC trace
#
# Crystallising polymers are measured as heat flow. The relative crystallinity is the area under the peak so far,
# divided by the whole area. Three choices are hidden in that sentence: where the peak starts, where it ends, and what
# lies beneath it. They are yours, and `crystallinity` has an argument for each. A simulated trace: a peak of 50 J/g
# with k = 0.01 1/s and n = 3, on a level of 0.1 W/g, with the transient of an instrument that has just arrived from
# the melt.

# %%
clock = np.arange(0.0, 400.0, 0.5)  # s
k, n = 0.01, 3.0
rng = np.random.default_rng(0)
peak = 50 * n * k * (k * clock) ** (n - 1) * np.exp(-((k * clock) ** n))  # W/g: 50 J/g times dX/dt
heat_flow = 0.1 + peak + 1.5 * np.exp(-clock / 4) + 0.002 * rng.standard_normal(len(clock))

choices = {
    "start at 0": kinetics.crystallinity(clock, heat_flow, start=0.0),
    "start at the minimum": kinetics.crystallinity(clock, heat_flow),
    "start at 20 s, straight baseline": kinetics.crystallinity(clock, heat_flow, 20.0, 300.0, baseline="linear"),
}
rows = {}
for name, choice in choices.items():
    some = slice(None, None, 20)  # every 10 s: neighbours share nearly all of their area and are no new information
    result = LeastSquares(kinetics.JMAK).fit(choice.time[some] + choice.start, choice.fraction[some])
    rows[name] = {"enthalpy [J/g]": choice.enthalpy, "k [1/s]": result["k"].value, "n": result["n"].value}
raw = pd.DataFrame(rows).T
print(raw.round(4).to_string())

figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.9), layout="constrained")
choices["start at the minimum"].plot(axes[0])
before = clock <= choices["start at the minimum"].start
axes[0].plot(clock[before], heat_flow[before], color="C0", ls=":")
axes[0].set(xlabel="time [s]", ylabel="heat flow [W/g]", ylim=(0, 0.75), title="integrated from the minimum")
for choice, (name, row) in zip(choices.values(), rows.items(), strict=True):
    axes[1].plot(choice.start + choice.time, choice.fraction, label=f"{name}: n = {row['n']:.2f}")
axes[1].plot(clock, fraction(clock, k, n), color="k", ls="--", lw=1, label=f"truth: n = {n:.2f}")
axes[1].set(xlabel="time [s]", ylabel="relative crystallinity", title="the choice changes the answer")
axes[1].legend(frameon=False, fontsize="small")
figure.savefig(folder / "5_dsc.png", dpi=150)

# %% [markdown]
# The times are counted from the start of the transformation again (`choice.time + choice.start`), because JMAK's clock
# starts when the specimen reaches its temperature and not where the integral does.
#
# A table of such curves, one per cooling or one per temperature, is the `past` that this tutorial began with.
#
# ## What was claimed

# %%
median = prior.to_frame()
assert abs(np.log(median.loc["k", "median"] / 0.01)) < 0.2 and abs(median.loc["n", "median"] - 2.5) < 0.25
assert abs(prior.noise / 0.02 - 1) < 0.1
for name, value in truth.items():
    assert fit[name].lower < value < fit[name].upper
assert fit["n"].upper - fit["n"].lower < alone["n"].upper - alone["n"].lower  # the past narrows the interval
bias = judged.loc["line: bias of n"].to_numpy()
assert (bias < 0).all() and (np.diff(bias) < -0.1).all()  # it grows with the number of points
assert (judged.loc["scimeta: bias of n"].abs() < 0.1).all()
assert (judged.loc["scimeta: rms error later"] < 0.7 * judged.loc["least squares: rms error later"]).all()
assert (judged.loc["least squares: rms error later"] < judged.loc["line: rms error later"]).all()
assert judged.loc["scimeta: band holds"].between(0.85, 0.95).all()
for share in inside.values():
    assert abs(share - 0.9) < 0.02 + 3 * np.sqrt(0.09 / MANY)  # chance, and a prior from sixty alloys
assert frame["converged"].all()
assert np.isclose(back, 60 * fit["k"].value) and back_unit == "1/min" and wrong > 100 * half
assert "specimens" in refusal
assert all(0.6 < result["x_inf"].value < 0.75 for result in real.values())
assert hasty["x_inf"].upper < 0.5 < coarse.y[-1]  # sure, and wrong
assert abs(raw.loc["start at the minimum", "n"] - n) < 0.1 < abs(raw.loc["start at 0", "n"] - n)
print(f"all claims hold; figures in {folder}")
