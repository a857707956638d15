# %% [markdown]
# # Two bowls and a ring of treasures
#
# Meta-learning has a zoo of methods. On most problems one can only watch them; on a bowl,
#
#     L(t) = (t - c)' A (t - c) / 2,
#
# one can say beforehand where each must end. A gradient step multiplies the distance to the centre c by S = 1 - lr A,
# k steps by P = S^k. So whatever a method does with a bowl, it sees another bowl with the same centre and another
# curvature H, and what it learns is the point (sum H)^-1 sum H c. `scimeta.analytic` holds these closed forms.
#
# Here the methods of scimeta are trained, as they would be on any problem, and then laid over the closed forms. Two
# pictures come out of it. The first shows *where* methods go and why. The second shows when it does not matter where
# one starts, and what then the use of meta-learning is.

# %%
from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from scimeta import MetaLearner, Task, Trained, analytic, evaluate, fomaml, imaml, maml, meta_train, reptile

SMOKE = "SCIMETA_SMOKE" in os.environ
TASKS = 400 if SMOKE else 4000  # new treasures that judge the starts

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-04-"))
print(f"figures: {folder}")
torch.set_default_dtype(torch.float64)  # closed forms deserve all their digits

# %% [markdown]
# ## Two bowls
#
# One is flat and lies on the left, one is steep and lies on the right. A task is one of them. The data of a task are
# its curvature and centre, and support and query are the same: nothing here is noisy.

# %%
bowls = analytic.Bowls(
    curvature=torch.stack([torch.diag(torch.tensor([0.5, 0.8])), torch.tensor([[4.0, 1.0], [1.0, 2.5]])]),
    centre=torch.tensor([[-1.0, 0.0], [1.0, 0.6]]),
)
both = Task(support=tuple(bowls), query=tuple(bowls))
start = {"theta": torch.tensor([0.2, -1.2])}
LR = 0.15


def train(learner: MetaLearner, seen: analytic.Bowls, batch: Task) -> Trained:
    """Return the learner after so many steps on the whole batch that even the flattest direction has settled."""
    bends = torch.linalg.eigvalsh(seen.curvature.mean(0))
    return meta_train(
        learner,
        lambda number, generator: batch,
        steps=math.ceil(20 * float(bends.max() / bends.min())),  # leaves exp(-20) of the way
        tasks_per_step=len(seen.centre),
        lr=1 / float(bends.max()),
        optimizer=torch.optim.SGD,
        generator=torch.Generator().manual_seed(0),
    )


# %% [markdown]
# ## Where each method lands
#
# *Joint training* minimises the mean loss: the steep bowl shouts louder, so its point lies close to the steep bowl.
#
# *MAML* minimises the loss after k steps. The steep bowl needs no help, for its own gradient will carry the point
# there in a few steps; the flat one does. So the start moves over to the flat bowl, more so with every inner step.
#
# *FOMAML* leaves the derivative of the inner loop out and so discounts the steep bowl only half as much: A P in place
# of A P^2. On bowls its 2 k steps are exactly MAML's k.
#
# *Reptile* moves towards where the inner loops ended. With one step that is joint training; with many, all inner loops
# end at their centres whatever their curvature, and Reptile averages the centres.
#
# *Implicit MAML* lets the inner loop converge and ties it to the start by a spring. The spring plays the part of
# stopping early.
#
# Joint training needs no code of its own: Reptile with one step takes the same way.

# %%
LEARNERS = {
    "joint": (reptile(analytic.loss, start, lr=LR, steps=1), analytic.reptile(bowls, lr=LR)),
    "MAML, 1 step": (maml(analytic.loss, start, lr=LR), analytic.maml(bowls, lr=LR)),
    "MAML, 3 steps": (maml(analytic.loss, start, lr=LR, steps=3), analytic.maml(bowls, lr=LR, steps=3)),
    "FOMAML, 3 steps": (fomaml(analytic.loss, start, lr=LR, steps=3), analytic.fomaml(bowls, lr=LR, steps=3)),
    "Reptile, 3 steps": (reptile(analytic.loss, start, lr=LR, steps=3), analytic.reptile(bowls, lr=LR, steps=3)),
    "Reptile, 30 steps": (reptile(analytic.loss, start, lr=LR, steps=30), analytic.reptile(bowls, lr=LR, steps=30)),
    "implicit MAML": (
        imaml(analytic.loss, start, lr=LR, steps=60, strength=3.0),
        analytic.imaml(bowls, strength=3.0),
    ),
}
trained = {name: train(learner, seen, both) for name, (learner, seen) in LEARNERS.items()}
landed = {name: run.meta.init["theta"] for name, run in trained.items()}
truth = {name: analytic.optimum(seen) for name, (_, seen) in LEARNERS.items()}


def after(theta: Tensor, steps: int) -> float:
    """Return the mean loss of the two bowls after inner steps from a start."""
    return float(analytic.meta_loss(analytic.maml(bowls, lr=LR, steps=steps), theta))


rows = {
    name: {
        "x": float(landed[name][0]),
        "y": float(landed[name][1]),
        "off the closed form": float((landed[name] - truth[name]).norm()),
        "loss at the start": after(landed[name], 0),
        "after 1 step": after(landed[name], 1),
        "after 3 steps": after(landed[name], 3),
    }
    for name in LEARNERS
}
where = pd.DataFrame(rows).T
print(where.to_string(float_format=lambda value: f"{value:.3g}"))

# %% [markdown]
# Every method is best at what it minimises and at nothing else: joint training before adaptation, MAML with k steps
# after k steps. The picture shows the same. Thin ellipses are contours of the two bowls. The small marks are the closed
# forms for no inner step, one, two and so on: FOMAML (open circles) goes MAML's way (dots) at half the pace. The large
# marks are what training found.


# %%
def contours(ax: plt.Axes, which: analytic.Bowls, levels: list[float], colors: list[str]) -> None:
    """Draw each bowl's contours at these losses, over the axes' limits."""
    x, y = (torch.linspace(*limits, 200) for limits in (ax.get_xlim(), ax.get_ylim()))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    for curvature, centre, color in zip(*which, colors, strict=True):
        height = analytic.loss({"theta": grid}, (curvature, centre))
        ax.contour(x, y, height, levels=levels, colors=color, linewidths=0.8, alpha=0.45)
        ax.plot(*centre, "+", color=color, ms=9, mew=1.5)


MARKS = {
    "joint": ("k", "s"),
    "MAML, 1 step": ("C3", "o"),
    "MAML, 3 steps": ("C3", "D"),
    "FOMAML, 3 steps": ("C4", "D"),
    "Reptile, 3 steps": ("C2", "D"),
    "Reptile, 30 steps": ("C2", "P"),
    "implicit MAML": ("C5", "^"),
}
figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.8), layout="constrained", width_ratios=[1.55, 1])
ax = axes[0]
ax.set(xlim=(-1.75, 1.65), ylim=(-0.75, 1.05), xlabel="t, first coordinate", ylabel="t, second coordinate")
ax.set_aspect("equal")
contours(ax, bowls, [0.02, 0.1, 0.25, 0.5, 1.0], ["C0", "C1"])
for color, marker, size, method in (
    ("C4", "o-", 6, analytic.fomaml),
    ("C3", ".-", 4, analytic.maml),
    ("C2", ".-", 4, analytic.reptile),
):
    steps = range(method is analytic.reptile, 31)  # no step: joint training; Reptile needs one
    way = torch.stack([analytic.optimum(method(bowls, lr=LR, steps=k)) for k in steps])
    ax.plot(*way.T, marker, color=color, ms=size, mfc="w" if size > 5 else color, lw=0.8)
for name, (color, marker) in MARKS.items():
    ax.plot(*landed[name], marker, color=color, ms=8, mec="w", mew=0.8, label=name, ls="none", zorder=3)
ax.text(-1.0, -0.22, "flat", color="C0", ha="center", va="top")
ax.text(1.1, 0.72, "steep", color="C1", ha="left", va="bottom")
ax.set_title("where the methods land")
ax.legend(fontsize="small", loc="lower right", ncols=2, framealpha=1.0, edgecolor="w")

counts = range(7)
for name, style in (("joint", "-"), ("MAML, 1 step", "-"), ("MAML, 3 steps", "--"), ("Reptile, 3 steps", "--")):
    color, marker = MARKS[name]
    axes[1].plot(counts, [after(landed[name], k) for k in counts], marker + style, color=color, ms=5, lw=1, label=name)
axes[1].set(
    xlabel="inner steps", ylabel="mean loss of the two bowls", yscale="log", title="what each start is good for"
)
axes[1].legend(frameon=False)
figure.savefig(folder / "1_two_bowls.png", dpi=150)

# %% [markdown]
# ## A ring of treasures
#
# Now many tasks. On a circle lie treasures, each in a valley of its own, steep across and flat along. The valleys are
# turned as their places are, at 45 degrees to the radius. Start somewhere, then learn where *this* treasure lies by
# walking downhill.
#
# By symmetry no place is better than the middle. Joint training ends there, and so does every method here: the closed
# form says that bowls that turn with their centre have all their optima at the centroid. Meta-learning finds no better
# start, because there is none.

# %%
NUMBER = 12
places = torch.arange(NUMBER) * 2 * torch.pi / NUMBER
valley = torch.diag(torch.tensor([2.0, 0.25]))  # across and along
ring = analytic.treasures(valley, places + torch.pi / 4, torch.stack([places.cos(), places.sin()], -1))
everything = Task(tuple(ring), tuple(ring))
METHODS = {
    "joint": (reptile(analytic.loss, start, lr=0.3, steps=1), analytic.reptile(ring, lr=0.3)),
    "MAML, 1 step": (maml(analytic.loss, start, lr=0.3), analytic.maml(ring, lr=0.3)),
    "MAML, 5 steps": (maml(analytic.loss, start, lr=0.3, steps=5), analytic.maml(ring, lr=0.3, steps=5)),
    "FOMAML, 5 steps": (fomaml(analytic.loss, start, lr=0.3, steps=5), analytic.fomaml(ring, lr=0.3, steps=5)),
    "Reptile, 5 steps": (reptile(analytic.loss, start, lr=0.3, steps=5), analytic.reptile(ring, lr=0.3, steps=5)),
}
found = {name: train(learner, seen, everything) for name, (learner, seen) in METHODS.items()}
distance = {name: float(run.meta.init["theta"].norm()) for name, run in found.items()}
print("distance from the middle:", {name: f"{value:.1e}" for name, value in distance.items()})

# %% [markdown]
# The start is the same. What differs is how firmly a method insists on it. Below is the meta-loss along a line through
# the middle: joint training looks into a bowl, MAML with five steps onto a plateau: from anywhere on it, five steps
# lead nearly as low. That is what a multi-task average cannot see. Judged before adaptation, the middle is a poor
# place, on no treasure at all; judged after it, the whole plateau is good.
#
# New treasures, anywhere on the circle and with their valleys in any direction, tell how much adaptation is worth.
# Their mean loss falls at every step (first quickly, across the valleys, then slowly, along them), and the multi-task
# average without adaptation stays where it was.

# %%
place = torch.linspace(-1.5, 1.5, 121)
plateau = {
    k: torch.stack([analytic.meta_loss(analytic.maml(ring, lr=0.3, steps=k), torch.stack([x, 0 * x])) for x in place])
    for k in (0, 1, 5, 20)
}
bend = {k: float(torch.linalg.eigvalsh(analytic.maml(ring, lr=0.3, steps=k).curvature.mean(0)).max()) for k in plateau}
print("curvature of the meta-loss:", {k: round(value, 3) for k, value in bend.items()})

generator = torch.Generator().manual_seed(1)
turn, angle = 2 * torch.pi * torch.rand(2, TASKS, generator=generator)
anywhere = analytic.treasures(valley, turn, torch.stack([angle.cos(), angle.sin()], -1))
unseen = Task(tuple(anywhere), tuple(anywhere))
judged = evaluate(found["MAML, 5 steps"], unseen, steps=20)
expected = [float(analytic.meta_loss(analytic.maml(ring, lr=0.3, steps=k), torch.zeros(2))) for k in range(21)]
print(judged.to_frame().iloc[[0, 1, 5, 20]].round(5).to_string(index=False))

# %%
figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.4), layout="constrained")
ax = axes[0]
ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), title="twelve treasures, five inner steps to each")
ax.set_aspect("equal")
hues = [hsv_to_rgb((i / NUMBER, 0.9, 0.8)) for i in range(NUMBER)]
contours(ax, ring, [0.03], hues)
learner = found["MAML, 5 steps"].learner
for curvature, centre, hue in zip(*ring, hues, strict=True):
    way = torch.stack([params["theta"] for params in learner.adapt.path(learner.meta, (curvature, centre))])
    ax.plot(*way.T, ".-", color=hue, ms=4, lw=1)
ax.plot(0, 0, "k*", ms=11, label="learned start")
ax.legend(frameon=False, loc="upper left")
for (k, values), color in zip(plateau.items(), ("k", "C1", "C3", "C4"), strict=True):
    axes[1].plot(place, values, color=color, label="joint: no step" if k == 0 else f"MAML, {k} step{'s' * (k > 1)}")
axes[1].set(
    xlabel="start, along a line through the middle", ylabel="meta-loss", ylim=(0, None), title="from bowl to plateau"
)
axes[1].legend(frameon=False)
table = judged.to_frame()
axes[2].axhline(expected[0], color="k", lw=1, label="multi-task average")
axes[2].errorbar(
    table["step"], table["mean"], table["margin"], fmt="o", color="C3", ms=4, capsize=2, label=f"{TASKS} new treasures"
)
axes[2].plot(range(21), expected, color="C3", lw=1, label="closed form")
axes[2].set(
    xlabel="inner steps", ylabel="mean loss", yscale="log", xticks=range(0, 21, 5), title="the use of adaptation"
)
axes[2].legend(frameon=False)
figure.savefig(folder / "2_treasures.png", dpi=150)

# %% [markdown]
# What the toys teach for real work:
#
# - Ask after how many steps you will judge, and train for that. A start that is best unadapted is not best adapted.
# - Steep tasks look after themselves. Methods differ in how much they know of that; Reptile with many steps forgets
#   curvature altogether.
# - Where tasks are spread evenly in all directions, a learned start gives nothing over an average. Then what helps is a
#   learned *step* (`meta_sgd`), more steps, or more data of each task. Tutorial 03 has a problem of the other kind.
#
# ## What was claimed

# %%
assert (where["off the closed form"] < 1e-4).all()
for criterion, best in (
    ("loss at the start", "joint"),
    ("after 1 step", "MAML, 1 step"),
    ("after 3 steps", "MAML, 3 steps"),
):
    assert where[criterion].idxmin() == best, criterion
toward_flat = [float((landed[name] - bowls.centre[0]).norm()) for name in ("joint", "MAML, 1 step", "MAML, 3 steps")]
assert toward_flat[0] > toward_flat[1] > toward_flat[2]  # every inner step moves MAML's start to the flat bowl
double = analytic.optimum(analytic.fomaml(bowls, lr=LR, steps=6)) - truth["MAML, 3 steps"]
assert double.norm() < 1e-12  # FOMAML with 2 k steps is MAML with k
assert (truth["joint"] - analytic.optimum(bowls)).norm() < 1e-12  # Reptile with one step is joint training
assert (landed["Reptile, 30 steps"] - bowls.centre.mean(0)).norm() < 0.1  # the average of the centres
assert max(distance.values()) < 1e-4  # no place beats the middle
assert bend[0] > 2 * bend[1] > 4 * bend[5]  # the bowl becomes a plateau
assert (
    (table["mean"] - expected).abs() < 2 * table["margin"]
).all()  # unseen ones are as those of the ring, on average
assert expected[1] < 0.25 * expected[0] and expected[20] < 0.1 * expected[1]
print(f"all claims hold; figures in {folder}")
