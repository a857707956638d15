"""What the parts of the ensembles' benchmark share: tables and their candidates, what is asked, how it is judged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy import ndarray
from sklearn.base import RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVR

SMOKE = "SCIMETA_SMOKE" in os.environ
SETS = ("diabetes", "steel_strength", "energy", "concrete", "airfoil")
SKLEARN = "scikit-learn's stack"
TREES = 10 if SMOKE else 200
ROWS = 120 if SMOKE else None


class Asked(NamedTuple):
    """A line of what the issue asks for, and what was measured; ``met`` is None where that is no verdict."""

    what: str
    measured: str
    asked: str
    met: bool | None


def print_asked(lines: Sequence[Asked]) -> None:
    """Print the verdicts; of shrunken sizes there are none."""
    print("\nWhat was asked, line by line")
    for line in lines:
        verdict = "not judged" if SMOKE or line.met is None else ("met" if line.met else "MISSED")
        print(f"  {line.what:<64} {line.measured:>24}   asked {line.asked:<24} {verdict}")


def missing_sets(names: Sequence[str], folder: Path | None) -> list[str]:
    """Return the tables of which there is no file; diabetes comes with scikit-learn."""
    return [name for name in names if name != "diabetes" and not (folder and (folder / f"{name}.csv").is_file())]


def table(name: str, folder: Path | None) -> tuple[ndarray, ndarray]:
    """Return features (n, p) and target (n,) of a regression set."""
    if name == "diabetes":
        X, y = load_diabetes(return_X_y=True)
    else:
        frame = pd.read_csv(folder / f"{name}.csv")
        elements = name == "steel_strength"  # formula, 13 elements, three targets
        X = frame.iloc[:, 1:14] if elements else frame.iloc[:, :-1]
        y = frame["yield_strength"] if elements else frame.iloc[:, -1]
        X, y = X.to_numpy(float), y.to_numpy(float)
    rows = np.random.default_rng(0).permutation(len(y))[:ROWS] if ROWS else slice(None)
    return X[rows], y[rows]


def candidates() -> list[tuple[str, RegressorMixin]]:
    """Return the eight regressors that the tables are given to."""
    penalties = np.logspace(-3, 3, 13)
    square = PolynomialFeatures(2, include_bias=False)
    support = TransformedTargetRegressor(SVR(C=10, epsilon=0.05), transformer=StandardScaler())
    return [
        ("ridge", make_pipeline(StandardScaler(), RidgeCV(penalties))),
        ("lasso", make_pipeline(StandardScaler(), LassoCV(cv=5, max_iter=10_000))),
        ("quadratic", make_pipeline(StandardScaler(), square, StandardScaler(), RidgeCV(penalties))),
        ("neighbours", make_pipeline(StandardScaler(), KNeighborsRegressor(8, weights="distance"))),
        ("svr", make_pipeline(StandardScaler(), support)),
        ("forest", RandomForestRegressor(TREES, min_samples_leaf=2, random_state=0)),
        ("extra trees", ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=0)),
        ("boosting", HistGradientBoostingRegressor(max_iter=TREES, learning_rate=0.06, random_state=0)),
    ]


def mean_error(values: ndarray) -> tuple[float, float]:
    """Return the mean of independent values and its standard error; NaN of one value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def paired_ratio(loss: ndarray, base: ndarray) -> tuple[float, float]:
    """Return the mean loss over the mean of another on the same rows (n,), and the paired standard error."""
    mean, error = mean_error((loss - base) / base.mean())
    return 1 + mean, error


def plus_minus(pair: tuple[float, float], digits: int = 3) -> str:
    mean, error = pair
    return f"{mean:.{digits}f}" + ("" if np.isnan(error) else f" +- {error:.{digits}f}")
