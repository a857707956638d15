# %% [markdown]
# # Bias and variance of a quick start
#
# A meta-learned start lets a few gradient steps on a few examples do the work of many. How many steps should that be?
# Take none, and you have the start: wrong for every task but the average one, whatever its examples say. Take many, and
# you have what the examples say, including their noise. The first error is called *bias*, the second *variance*. Steps
# trade one for the other, and where the trade is best depends on how many examples there are.
#
# This tutorial first looks at a task so small that both can be written down, and then measures them on a network.

# %%
from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from scimeta import Task, analytic, functional, maml, meta_train
from scimeta.core.rules import clipped, sgd
from scimeta.core.tasks import over_tasks
from scimeta.diagnostics.quick_start import quick_start
from scimeta.models.networks import mlp

SMOKE = "SCIMETA_SMOKE" in os.environ
NUMBERS = 200 if SMOKE else 1000  # tasks of the first part
OUTER_STEPS = 200 if SMOKE else 2500
WAVES = 30 if SMOKE else 150  # tasks that the network is measured on
REPEATS = 10 if SMOKE else 30  # support sets of each

torch.set_num_threads(1)  # networks of this size are not worth sharing
folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-05-"))
print(f"figures: {folder}")

# %% [markdown]
# ## One number to learn
#
# Each task hides a number c, drawn from N(0, 1). Its examples are readings of c with noise of standard deviation 1.5.
# The start is 0, the best that can be said of c beforehand. The loss of K readings x is the mean of (theta - x)^2, and
# a gradient step of rate 0.1 goes a fifth of the way from theta to the mean of the readings. After k steps, with
# u = 0.8^k,
#
#     theta - c  =  u (0 - c)  +  (1 - u) (mean error of the readings)
#
# so that over many sets of K readings the mean squared error is u^2 c^2 (bias) + (1 - u)^2 1.5^2 / K (variance).
# `analytic.quick_start` has this formula for bowls of any shape, and `quick_start` measures it, for any learner: it
# draws many support sets for each task, adapts to every one of them, and looks at the mean and at the scatter of what
# comes out.

# %%
NOISE, RATE, SHOTS = 1.5, 0.1, (2, 5, 10)
COUNTS = tuple(range(21))  # inner steps
hidden = torch.randn(NUMBERS, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def distance(params: dict[str, Tensor], readings: Tensor) -> Tensor:
    return (params["theta"] - readings).square().mean()


def read(shots: int, generator: torch.Generator) -> Tensor:
    """Return fresh readings of every hidden number, (tasks, shots)."""
    return hidden + NOISE * torch.randn(NUMBERS, shots, generator=generator, dtype=torch.float64)


learner = maml(distance, {"theta": torch.zeros(1, dtype=torch.float64)}, lr=RATE)
some = Task(read(5, torch.Generator().manual_seed(2)), hidden)  # the query is the truth itself
measured = quick_start(learner, some, draw=read, shots=SHOTS, steps=COUNTS, repeats=20)
print(measured.best.round(4).to_string(index=False))

# %% [markdown]
# In the formula's words, the loss is a bowl of curvature 2, and the gradient of one reading has variance 4 x 1.5^2.

# %%
bowls = analytic.Bowls(torch.full((NUMBERS, 1, 1), 2.0, dtype=torch.float64), hidden)
zero, scatter = torch.zeros(1, dtype=torch.float64), torch.full((1, 1), 4 * NOISE**2, dtype=torch.float64)
exact = {
    shots: [analytic.quick_start(bowls, zero, scatter, lr=RATE, steps=k, shots=shots) for k in COUNTS]
    for shots in SHOTS
}
table = measured.to_frame()
table["exact bias"] = [float(exact[k][steps].bias.mean()) for k, steps in zip(table.shots, table.steps, strict=True)]
table["exact variance"] = [
    float(exact[k][steps].variance.mean()) for k, steps in zip(table.shots, table.steps, strict=True)
]
chosen = table[table["steps"].isin([0, 2, 5, 10, 20])]
columns = ["shots", "steps", "bias", "exact bias", "variance", "exact variance", "error"]
print(chosen[columns].round(3).to_string(index=False))

best_steps = {shots: analytic.best_steps(bowls, zero, scatter, lr=RATE, shots=shots) for shots in SHOTS}
spread = float(hidden.square().mean())
bayes = {shots: spread * NOISE**2 / (shots * spread + NOISE**2) for shots in SHOTS}
least = {shots: table.loc[table["shots"] == shots, "error"].min() for shots in SHOTS}
for shots in SHOTS:
    print(f"{shots:2d} readings: {best_steps[shots]} steps, error {least[shots]:.3f}; Bayes {bayes[shots]:.3f}")

figure, axes = plt.subplots(1, 3, figsize=(11.0, 3.7), sharey=True, layout="constrained")
for ax, shots in zip(axes, SHOTS, strict=True):
    rows = table[table["shots"] == shots]
    for part, color in (("bias", "C0"), ("variance", "C1"), ("error", "k")):
        curve = rows["exact bias"] + rows["exact variance"] if part == "error" else rows[f"exact {part}"]
        ax.plot(COUNTS, curve, color=color, lw=1.4, label=part)
        ax.plot(COUNTS, rows[part], "o", color=color, ms=3.5)
    ax.axhline(bayes[shots], color="0.5", ls=":", label="Bayes")
    ax.axvline(best_steps[shots], color="0.8", lw=5, zorder=0)
    ax.set(xlabel="inner steps", title=f"{shots} readings: best after {best_steps[shots]}")
axes[0].set_ylabel("squared error")
axes[-1].legend(frameon=False, title="line: formula, dots: measured")
figure.savefig(folder / "1_one_number.png", dpi=150)

# %% [markdown]
# The dots lie on the lines. Two readings are best believed for three steps; ten deserve more than twice as many.
# Stopping early is no makeshift here: at the best number of steps the error is that of Bayes' rule, which knows the
# spread of the hidden numbers and the noise, up to the fact that steps come whole. (The dotted line is Bayes' error
# for a prior with the spread of these very numbers.)
#
# ## A network that has learned to learn sinusoids
#
# Now a task is a wave y = A sin(x + phase), A from U(0.1, 5), phase from U(0, pi). Examples are points of it, x from
# U(-5, 5), read with noise of standard deviation 1. A network of two hidden layers of 40 starts from what MAML learned
# with ten examples and five steps. Inputs are divided by 3, so that they are of size one.
#
# The inner rule clips: it shortens gradients above a norm of 10. Two examples can make a much steeper loss than ten
# ever did, and a step size that was safe in training then overshoots; we shall see by how much.

# %%
STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 14, 20)
network, apply = functional(mlp([1, 40, 40, 1], generator=torch.Generator().manual_seed(0)))


def miss(params: dict[str, Tensor], points: tuple[Tensor, Tensor]) -> Tensor:
    x, y = points
    return apply(params, x / 3) - y


def loss(params: dict[str, Tensor], points: tuple[Tensor, Tensor]) -> Tensor:
    return miss(params, points).square().mean()


def draw_waves(number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return amplitudes and phases, both (tasks, 1, 1)."""
    uniform = torch.rand(2, number, 1, 1, generator=generator)
    return 0.1 + 4.9 * uniform[0], torch.pi * uniform[1]


def look(waves: tuple[Tensor, Tensor], shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return noisy points of the waves, x and y (tasks, shots, 1)."""
    amplitude, phase = waves
    x = 10 * torch.rand(len(phase), shots, 1, generator=generator) - 5
    return x, amplitude * torch.sin(x + phase) + torch.randn(x.shape, generator=generator)


def tasks(number: int, generator: torch.Generator) -> Task:
    waves = draw_waves(number, generator)
    return Task(look(waves, 10, generator), look(waves, 10, generator))


learner = maml(loss, network, rule=clipped(sgd(0.02), 10.0), steps=5)
trained = meta_train(learner, tasks, steps=OUTER_STEPS, tasks_per_step=25, generator=torch.Generator().manual_seed(3))
print(trained)

# %% [markdown]
# To measure, take new waves. The query is a grid without noise, so that no noise of the query's counts as bias.
# `residuals` is prediction minus truth at the grid's points: the split is then that of predictions, which means
# something for a network, while its averaged weights would not. `draw` makes as many support sets as are asked for.
# (Without `draw`, they are drawn from each task's own support examples: the way to go with recorded data.)

# %%
waves = draw_waves(WAVES, torch.Generator().manual_seed(4))
grid = torch.linspace(-5, 5, 60)[:, None].expand(WAVES, 60, 1)
truth = waves[0] * torch.sin(grid + waves[1])
new = Task(look(waves, 10, torch.Generator().manual_seed(5)), (grid, truth))


def points_of_new_waves(shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return look(waves, shots, generator)


options = {"draw": points_of_new_waves, "shots": SHOTS, "repeats": REPEATS, "residuals": miss}
errors = quick_start(trained, new, steps=STEPS, **options)
print(errors)
best = errors.best.set_index("shots")
print(best.round(3).to_string())

figure, axes = plt.subplots(1, 2, figsize=(10.4, 4.2), layout="constrained")
errors.plot(axes[0])
axes[0].set_title("a meta-trained network, by steps")
frame = errors.to_frame()
for index, shots in enumerate(SHOTS):
    rows, color = frame[frame["shots"] == shots], f"C{index}"
    axes[1].plot(rows["bias"], rows["variance"], ".-", color=color, label=f"{shots} shots")
    here = rows.set_index("steps").loc[best.loc[shots, "steps"]]
    axes[1].plot(here["bias"], here["variance"], "o", color=color, ms=9, mfc="none")
    note = f"{here.name:.0f} step{'s' if here.name > 1 else ''}"
    axes[1].annotate(note, (here["bias"], here["variance"]), (7, 5), textcoords="offset points")
axes[1].set(xlabel="bias", ylabel="variance", title="the trade: circles are the best numbers of steps")
axes[1].legend(frameon=False)
figure.savefig(folder / "2_network.png", dpi=150)

# %% [markdown]
# The same picture as before: with the steps, bias falls and variance grows, and the more examples there are, the more
# steps they are worth. `lowest` and `highest` say how sure that is: the numbers of steps that these tasks cannot tell
# from the best one. It is the *difference* on the same tasks and support sets that is judged. The standard error of the
# error itself is far larger, since waves differ in amplitude.
#
# What bias and variance look like: one wave, five examples, many support sets.

# %%
tall = int((waves[0][:, 0, 0] - 3.5).abs().argmin())  # a wave of middling height
generator = torch.Generator().manual_seed(6)
sets = [tuple(part[tall] for part in look(waves, 5, generator)) for _ in range(25)]
stacked = tuple(torch.stack(part) for part in zip(*sets, strict=True))
figure, axes = plt.subplots(1, 3, figsize=(11.4, 3.6), sharey=True, layout="constrained")
for ax, steps in zip(axes, (1, 5, 20), strict=True):
    adapted = over_tasks(lambda support, steps=steps: trained.adapt(support, steps))(stacked)
    curves = over_tasks(apply, (0, None))(adapted, grid[tall] / 3)[..., 0]  # (support sets, points)
    ax.plot(grid[tall], curves.T, color="C0", lw=0.7, alpha=0.35)
    ax.plot(grid[tall], curves.mean(0), color="C0", lw=2.2, label="their mean")
    ax.plot(grid[tall], truth[tall], color="k", ls="--", label="truth")
    bias, variance = (curves.mean(0) - truth[tall, :, 0]).square().mean(), curves.var(0).mean()
    ax.set(xlabel="x", title=f"{steps} step{'s' if steps > 1 else ''}: bias {bias:.2f}, variance {variance:.2f}")
axes[0].set_ylabel("prediction")
axes[0].plot([], [], color="C0", lw=0.7, alpha=0.6, label="one support set")
axes[0].legend(frameon=False, loc="upper right")
figure.savefig(folder / "3_one_wave.png", dpi=150)

# %% [markdown]
# ## What the clip was for
#
# The same start and the same step size, without the clip. With ten examples, as many as in training, it hardly matters;
# with two, some support sets make a loss so steep that every step overshoots, and these few rule the mean. The longer
# the training, the steeper: a mean error with a standard error of its own size is the sign of it. No plot of the
# training loss would have shown that.

# %%
plain = maml(loss, trained.meta.init, lr=0.02, steps=5)
wild = quick_start(plain, new, steps=(0, 5), **options)
print(wild)

# %% [markdown]
# ## What was claimed

# %%
for part in ("bias", "variance"):  # formula and measurement agree within four standard errors of the difference
    truths = torch.stack([torch.stack([getattr(one, part) for one in exact[shots]]) for shots in SHOTS])
    gap = getattr(measured, part) - truths  # (shots, steps, tasks)
    assert (gap.mean(-1).abs() <= 4 * gap.std(-1) / math.sqrt(NUMBERS) + 1e-12).all()
for row in measured.best.itertuples():
    assert row.lowest <= best_steps[row.shots] <= row.highest
    assert abs(row.error / bayes[row.shots] - 1) < 0.1  # early stopping comes as near to Bayes as whole steps can
assert np.all(np.diff(list(best_steps.values())) > 0)
for shots in SHOTS:
    rows = frame[frame["shots"] == shots].set_index("steps")
    assert (rows["bias"].loc[5] < rows["bias"].loc[1]) and (rows["variance"].diff().loc[1:5] > 0).all()
    assert best.loc[shots, "error"] < rows["error"].loc[0]  # a few steps help, however few the examples
assert best.loc[2, "steps"] < best.loc[10, "steps"] and best.loc[2, "steps"] < 5  # fewer than it was trained with
assert best["error"].is_monotonic_decreasing
clip = errors.error[:, STEPS.index(5)].mean(-1)  # (shots,) with the clip
assert wild.error[0, 1].mean() > clip[0] and abs(wild.error[2, 1].mean() / clip[2] - 1) < 0.1
print(f"all claims hold; figures in {folder}")
