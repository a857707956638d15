"""What ``scimeta arm`` says and draws: masses with intervals, rivals beside them, and what is suspicious."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import yaml
from torch import Tensor

from scimeta.core.tasks import select_tasks
from scimeta.domains import arm
from scimeta.domains.arm.weigher import score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 20  # trials that are printed


def masses(table: pd.DataFrame, level: float) -> str:
    """Return the masses with their intervals, and the centres of mass, by the trials' names."""
    known = bool(table["true_mass"].notna().any())
    width = max(5, *table["trial"].head(_MOST).str.len())
    lines = [
        f"{'trial':<{width}}  {'mass [kg]':>9}  {f'{level:.3g} interval':<18}" + "  true [kg]" * known
        + f"  {'centre of mass [mm]':<24}condition"
    ]  # fmt: skip
    for _, row in table.head(_MOST).iterrows():
        true = (f"  {row['true_mass']:9.4f}" if np.isfinite(row["true_mass"]) else " " * 11) * known
        com = "".join(f"{1e3 * row[f'com_{axis}']:8.1f}" for axis in "xyz")
        interval = f"[{row['mass_lower']:.4f}, {row['mass_upper']:.4f}]"
        if np.isnan(row["mass_lower"]):
            interval = f"withheld, {row['residual']:.3g}x"
        lines.append(f"{row['trial']:<{width}}  {row['mass']:9.4f}  {interval:<18}{true}{com}  {row['condition']:.0f}")
    withheld = int(table["mass_lower"].isna().to_numpy().sum())
    last = [f"... and {len(table) - _MOST} more; --csv writes all"] * (len(table) > _MOST)
    if withheld:
        last.append(f"withheld: {withheld} of {len(table)}, where the torques left over are so many times their noise")
    return "\n".join([*lines, *last])


def comparison(weigher: arm.Weigher, trials: arm.Trials, log: arm.Log) -> str:
    """Return the rows of other methods beside ours, on the trials whose mass is known, else on all."""
    known = trials.mass.isfinite()
    rows = known if known.any() else ~known
    log, mass = select_tasks(log, rows), trials.mass[rows] if known.any() else None
    title = f"against the true mass of {len(log.q)} trials" if known.any() else "mean of all trials; no mass is known"
    bare = [tare for tare, row in zip(trials.tares, rows, strict=True) if row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of trials that hardly moved: said already
        tables = [weigher.compare(log, mass)]
        if any(tare is not None for tare in bare):
            tables.append(_tared(weigher, log, bare, mass, tables[0].columns))
    return f"{title}\n{pd.concat(tables).to_string(float_format='%.4f', na_rep='')}"


def _tared(
    weigher: arm.Weigher, log: arm.Log, tares: Sequence[arm.Log | None], mass: Tensor | None, columns: pd.Index
) -> pd.DataFrame:
    """Return the row of the trials that were recorded without a load too, in the columns of `Weigher.compare`."""
    rows = torch.tensor([tare is not None for tare in tares])
    unloaded = arm.resample([tare for tare in tares if tare is not None], log.q.shape[1])
    loaded = select_tasks(log, rows)
    try:
        tared = arm.tare(weigher.classical, loaded, unloaded, weigher.noise)
    except ValueError:  # the payload pulled the arm off its movement
        tared = arm.tare(weigher.classical, loaded, unloaded, weigher.noise, same_motion=False)
    found = arm.weigh_map(tared.model, tared.log, weigher.prior, tared.noise)
    name = f"MAP, less the tare ({len(unloaded.q)} trials)"
    if mass is None:
        return pd.DataFrame([[found.mass.mean().item(), found.mass_sd.nanmean().item()]], [name], columns)
    return pd.DataFrame([score(found, mass[rows])], [name], columns)


def advise(trials: arm.Trials, found: arm.Weighing, folder: str, another: bool) -> None:
    """Warn of payloads above the rated load, where that is known, and of an arm that was not learned."""
    from simulators.arm import read_chain

    setup = yaml.safe_load((Path(folder) / "robot.yaml").read_text(encoding="utf-8"))
    with contextlib.suppress(ValueError):
        rated = read_chain(Path(folder) / setup["urdf"], trials.arm.tip).rated_payload
        heavy = [
            name for name, mass in zip(trials.names, found.mass, strict=True) if rated is not None and mass > rated
        ]
        if heavy:
            warnings.warn(f"{', '.join(heavy)}: heavier than the arm's rated load of {rated:g} kg", stacklevel=2)
    if another:
        warnings.warn(
            "the URDF is not that of the arm that was learned: trust no interval. Train on trials of this arm; "
            "or tare: record each movement without its load too, name that file "
            "in the column tare of trials.csv, and read the row of the tare",
            stacklevel=2,
        )


def draw_training(weigher: arm.Weigher) -> Axes:
    """Left the loss over the outer steps, right by how many standard deviations the trials kept back were missed."""
    import matplotlib.pyplot as plt

    left, right = plt.figure(figsize=(9, 3.6), layout="constrained").subplots(1, 2)
    left.plot(weigher.losses, linewidth=1)
    left.set(xlabel="outer step", ylabel="loss", yscale="symlog")
    grid = torch.linspace(0, 4, 200)
    right.plot(grid, torch.erf(grid / 2**0.5), color="0.6", label="Gaussian")
    count = len(weigher.misses)
    right.step([0, *weigher.misses], [0, *((rank + 1) / count for rank in range(count))], where="post", label="found")
    right.set(xlabel="standard deviations", ylabel=f"share of {count} trials kept back missed by less", xlim=(0, 4))
    right.legend(frameon=False)
    return left


def alike(one: arm.Chain, other: arm.Chain) -> bool:
    """Whether two descriptions are of the same joints and links, whatever the files are called."""
    return all(torch.allclose(a, b) for a, b in zip(one, other, strict=True))
