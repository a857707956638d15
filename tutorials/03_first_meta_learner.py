# %% [markdown]
# # A first meta-learner
#
# Ten points of a sine wave, and a network with 1761 weights. From a random start, gradient descent comes closer to the
# ten points with every step, and learns little about what lies between them. But suppose that you have seen many waves,
# each with its own amplitude and phase. Is there a start from which ONE step, on ten points, gives the whole wave?
#
# MAML (model-agnostic meta-learning) looks for it: it takes the step on the ten points, judges the result on other
# points of the same wave, and improves the *start* by the derivative of that judgement, through the step. Nothing in it
# knows of sines. All that scimeta asks of a problem is one function, the loss of one task.

# %%
from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor

from scimeta import Task, Trained, check_meta_gradient, evaluate, functional, load_meta, maml, meta_train
from scimeta.models import networks

SMOKE = "SCIMETA_SMOKE" in os.environ
STEPS = 700 if SMOKE else 10_000  # outer steps
WAVES = 200 if SMOKE else 600  # new waves that judge
LONG = 3 if SMOKE else 30  # inner steps granted to the random start

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-03-"))
print(f"figures: {folder}")

# %% [markdown]
# ## Tasks
#
# A task is a wave, y = A sin(x - b), with A between 0.1 and 5 and b between 0 and pi. What adapts to it (the *support*)
# is ten points with x between -5 and 5; what judges (the *query*) is other points of it. A sampler returns as many
# tasks as it is asked for, in one tuple with a leading task axis on every tensor, and draws from the generator that it
# is given and from nothing else. That is what makes a run repeatable.

# %%
SHOTS = 10


def waves(number: int, generator: torch.Generator, query: int = SHOTS) -> Task:
    """Return sine waves: ten points of each to adapt to and ``query`` other points to judge by."""
    amplitude = 0.1 + 4.9 * torch.rand(number, 1, 1, generator=generator)
    phase = math.pi * torch.rand(number, 1, 1, generator=generator)
    x = 10 * torch.rand(number, SHOTS + query, 1, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    return Task(support=(x[:, :SHOTS], y[:, :SHOTS]), query=(x[:, SHOTS:], y[:, SHOTS:]))


def many_points(number: int, generator: torch.Generator) -> Task:
    """Return waves that are judged on a hundred points."""
    return waves(number, generator, query=100)


# %% [markdown]
# ## The model and its loss
#
# `functional` takes any `torch.nn.Module` apart into its parameters, a dictionary, and a function that applies it. The
# loss is that of ONE task: no task axis, no loop. scimeta does the batching.

# %%
params, apply = functional(networks.mlp([1, 40, 40, 1], generator=torch.Generator().manual_seed(0)))


def loss(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error on one wave."""
    x, y = data
    return ((apply(params, x) - y) ** 2).mean()


learner = maml(loss, params, lr=0.01, steps=1)
print(sum(value.numel() for value in params.values()), "weights")

# %% [markdown]
# ## Is the derivative right?
#
# A derivative through a derivative goes wrong easily and silently: a normalisation layer whose second derivative is not
# what one thinks, a branch, a detached tensor. The meta-learner then still learns *something*. So before any training,
# compare the meta-gradient, in double precision, with a plain loop and with finite differences. It takes a second.

# %%
check = check_meta_gradient(loss, learner, waves(3, torch.Generator().manual_seed(1)))
print(check)

# %% [markdown]
# ## Training
#
# One call. Every outer step draws 25 waves. Every thousand steps (in full size) the start is judged on waves of their
# own, and the best one is kept. The run writes a checkpoint now and then: kill it, by Ctrl-C, by a power cut, in the
# middle of writing, and call it again with the same arguments, and it goes on to the same result, bit by bit.


# %%
def train(steps: int, checkpoint: Path | None = None) -> Trained:
    """Return the trained learner."""
    return meta_train(
        learner,
        waves,
        steps=steps,
        tasks_per_step=25,
        lr=1e-3,
        validation=many_points,
        validation_tasks=200,
        validate_every=STEPS // 10,
        checkpoint=checkpoint,
        generator=torch.Generator().manual_seed(2),
    )


trained = train(STEPS, folder / "run.safetensors")
print(trained)

# %% [markdown]
# Believe the claim about resuming only when you have seen it. A run of a fifth of the length, at once and in two parts:

# %%
short, half = STEPS // 5, STEPS // 10
at_once = train(short)
train(half, folder / "short.safetensors")  # here the lights go out
in_parts = train(short, folder / "short.safetensors")
identical = all(torch.equal(value, in_parts.meta.init[name]) for name, value in at_once.meta.init.items())
identical = identical and at_once.history.equals(in_parts.history)
print(f"in two parts, the same bits: {identical}")

# %% [markdown]
# The result can be kept in a file of its own. It holds numbers and no code; reading it runs nothing.

# %%
trained.save(folder / "waves.safetensors")
again = load_meta(maml(loss, params, lr=0.01, steps=1), folder / "waves.safetensors")

# %% [markdown]
# ## One step from a learned start, many from a random one
#
# New waves, judged on a hundred points each. `evaluate` returns the loss before adaptation and after every step. The
# random start is the one that the learner itself began with. It gets many more steps, and the best of three step sizes;
# the learned start's 0.01 would throw it far off.

# %%
RATES = (0.0003, 0.001, 0.003)
new = many_points(WAVES, torch.Generator().manual_seed(3))
learned = evaluate(again, new, steps=min(10, LONG))
random = {rate: evaluate(maml(loss, params, lr=rate), new, steps=LONG) for rate in RATES}
print(learned)
best = {rate: float(found.mean.min()) for rate, found in random.items()}
table = pd.DataFrame(
    {
        "after 1 step": {rate: float(found.mean[1]) for rate, found in random.items()},
        f"best of {LONG} steps": best,
    }
)
print("from a random start:\n" + table.rename_axis("step size").round(3).to_string())

# %%
example = waves(3, torch.Generator().manual_seed(8), query=400)
rate = min(best, key=best.get)
figure, axes = plt.subplots(2, 3, figsize=(11.5, 6.0), sharex=True, sharey=True, layout="constrained")
grid = torch.linspace(-5, 5, 200)[:, None]
for column in range(3):
    support = tuple(part[column] for part in example.support)
    order = example.query[0][column, :, 0].argsort()
    wave = tuple(part[column][order] for part in example.query)
    for ax, start, ways, name in (
        (axes[0, column], again, ((0, ":"), (1, "-"), (min(10, LONG), "--")), "learned"),
        (axes[1, column], maml(loss, params, lr=rate), ((0, ":"), (1, "-"), (LONG, "--")), "random"),
    ):
        ax.plot(*wave, color="0.75", lw=4, label="the wave")
        for count, style in ways:
            with torch.no_grad():
                adapted = start.adapt(start.meta, support, count)
                y = apply(adapted, grid)
            color = "C0" if name == "learned" else "C1"
            ax.plot(grid, y, style, color=color, lw=1.6 if count else 1.0, label=f"{count} step{'s' * (count != 1)}")
        ax.plot(*support, "o", color="k", ms=4, label="seen")
        ax.set(ylim=(-6, 6))
    axes[1, column].set_xlabel("x")
for ax, name in zip(axes[:, 0], ("learned start", f"random start, steps of {rate:g}"), strict=True):
    ax.set_ylabel(name)
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="upper center")
figure.savefig(folder / "1_waves.png", dpi=150)

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
trained.plot(axes[0])
ax = axes[1]
for (rate, found), color in zip(random.items(), ("C1", "C3", "C4"), strict=True):
    ax.plot(range(LONG + 1), found.mean, color=color, label=f"random start, steps of {rate:g}")
ax.errorbar(
    range(len(learned.mean)),
    learned.mean,
    learned.margin,
    fmt="o-",
    ms=4,
    capsize=2,
    color="C0",
    label="learned start, steps of 0.01",
)
ax.set(yscale="log", xlabel="inner steps", ylabel="mean squared error", title=f"{WAVES} new waves")
ax.legend(frameon=False, fontsize="small")
figure.savefig(folder / "2_learning.png", dpi=150)

# %% [markdown]
# Where to go from here: `meta_sgd` learns a step size for every weight beside the start, `fomaml` and `reptile` do
# without second derivatives, `anil` moves a part of the weights. All take the same loss and the same sampler. Tutorial
# 04 shows, on problems small enough to be solved by hand, where each of them goes.
#
# ## What was claimed

# %%
assert check.ok
assert identical
assert torch.equal(evaluate(trained, new).losses, evaluate(again, new).losses)  # saved and loaded
assert trained.history["validation"].min() < 0.6 * trained.history["loss"].iloc[:10].mean()
assert learned.mean[1] < min(best.values())  # one step, better than any number from a random start
assert learned.mean[1] < learned.mean[0]
if not SMOKE:  # a start that has seen enough waves
    assert learned.mean[1] < 0.25 * min(best.values())
    assert learned.mean[1] < 0.4 * learned.mean[0]
    assert learned.mean[10] < 0.5 * learned.mean[1]
print(f"all claims hold; figures in {folder}")
