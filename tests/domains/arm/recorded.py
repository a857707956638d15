"""Recordings as a user would have them, and edits that spoil them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from scimeta.domains.arm.log import Log
from simulators.arm import Trials, draw_movement, draw_payloads, nominal, scenario, simulate

JOINTS = [f"lbr_iiwa_joint_{i}" for i in range(1, 8)]
MOVEMENT = draw_movement(nominal("iiwa").chain, np.random.default_rng(5))


def as_log(trials: Trials) -> Log:
    return Log(*(torch.as_tensor(getattr(trials, name)) for name in Log._fields))


def recorded() -> tuple[Log, torch.Tensor, torch.Tensor]:
    """Three logs of an iiwa with errors and friction, the masses and the centres of mass of what it held."""
    rng = np.random.default_rng(0)
    robot = scenario("S1", rng)
    movements = [draw_movement(robot.chain, rng) for _ in range(3)]
    trials = simulate(robot, draw_payloads(3, rng), movements, 100, seed=0)
    return as_log(trials), torch.as_tensor(trials.mass), torch.as_tensor(trials.com)


LOG, MASS, COM = recorded()
LOGS = [Log(*parts) for parts in zip(*LOG, strict=True)]


def change(path: Path, edit: Callable[[pd.DataFrame], object]) -> None:
    """Rewrite a table after an edit in place, or one that returns another table."""
    table = pd.read_csv(path)
    edited = edit(table)
    (table if edited is None else edited).to_csv(path, index=False)


def describe(folder: Path, **keys: object) -> None:
    """Add keys to robot.yaml."""
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | keys))


def put(row: int, column: str, value: object) -> Callable[[pd.DataFrame], None]:
    def edit(table: pd.DataFrame) -> None:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value

    return edit


def scaled(factor: float, *kinds: str) -> Callable[[pd.DataFrame], None]:
    def edit(table: pd.DataFrame) -> None:
        columns = [column for column in table if column.rstrip("0123456789") in kinds]
        table[columns] *= factor

    return edit


def in_order(order: list[int], *kinds: str) -> Callable[[pd.DataFrame], None]:
    """Columns 1, 2, ... of these kinds become those of the joints named, counted from 1."""

    def edit(table: pd.DataFrame) -> None:
        for kind in kinds:
            table[[f"{kind}{i}" for i in range(1, 8)]] = table[[f"{kind}{i}" for i in order]].to_numpy()

    return edit


def in_every_log(folder: Path, edit: Callable[[pd.DataFrame], object]) -> None:
    for number in (1, 2, 3):
        change(folder / f"trial_{number}.csv", edit)


def same(a: Log, b: Log) -> None:
    for name, one, other in zip(Log._fields, a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=name)
