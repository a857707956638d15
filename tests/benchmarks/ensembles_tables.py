"""Committees on real tables: their loss over that of the best candidate in hindsight.

    python tests/benchmarks/ensembles_tables.py --data FOLDER [--sets diabetes steel_strength energy concrete airfoil]
                                                [--seed 0] [--jobs 1] [--parkinsons]

FOLDER holds steel_strength.csv, energy.csv, concrete.csv and airfoil.csv (features first, target last; of
steel_strength the columns 2 to 14 and yield_strength) and parkinsons_updrs.csv; diabetes comes with scikit-learn.
Outer folds 10, inner 5, both shuffled with the seed. The candidates are fitted once and every way to learn weights is
read off the same level-one matrices. A line shows loss over the best candidate's, with the paired standard error.
SCIMETA_SMOKE=1 takes three outer folds and small forests.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray
from sklearn.base import RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.model_selection import GroupKFold, KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import SVR

from scimeta.ensembles.blend import learn_blend
from scimeta.ensembles.report import cv_report
from scimeta.ensembles.super_learner import SuperLearnerRegressor

SMOKE = "SCIMETA_SMOKE" in os.environ
SETS = ("diabetes", "steel_strength", "energy", "concrete", "airfoil")
METHODS = ("auto", "discrete", "nnls", "simplex", "affine")
RIVAL = "scikit-learn's stack"  # StackingRegressor's default: RidgeCV on the same level-one matrix
OUTER = 3 if SMOKE else 10
TREES = 20 if SMOKE else 200


def table(name: str, folder: Path) -> tuple[ndarray, ndarray]:
    if name == "diabetes":
        return load_diabetes(return_X_y=True)
    frame = pd.read_csv(folder / f"{name}.csv")
    if name == "steel_strength":
        return frame.iloc[:, 1:14].to_numpy(float), frame["yield_strength"].to_numpy(float)
    return frame.iloc[:, :-1].to_numpy(float), frame.iloc[:, -1].to_numpy(float)


def candidates() -> list[tuple[str, RegressorMixin]]:
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


def losses(X: ndarray, y: ndarray, seed: int, jobs: int) -> dict[str, ndarray]:
    """Return (n,) squared errors of every candidate and of every way to learn weights."""
    result: dict[str, ndarray] = {}
    for train, test in KFold(OUTER, shuffle=True, random_state=seed).split(X):
        inner = KFold(5, shuffle=True, random_state=seed)
        model = SuperLearnerRegressor(candidates(), "simplex", cv=inner, n_jobs=jobs).fit(X[train], y[train])
        Z, new = model.cross_fit_.predictions, model.level_one(X[test])
        said = dict(zip(model.names_, new.T, strict=True))
        said |= {m: learn_blend(Z, y[train], m, folds=model.cross_fit_.folds)(new) for m in METHODS}
        said[RIVAL] = RidgeCV().fit(Z, y[train]).predict(new)
        for name, values in said.items():
            result.setdefault(name, np.full(len(y), np.nan))[test] = (values - y[test]) ** 2
    return result


def tables(folder: Path, sets: list[str], seed: int, jobs: int) -> None:
    ratios: dict[str, list[float]] = {}
    for name in sets:
        loss = losses(*table(name, folder), seed, jobs)
        best = min((candidate for candidate, _ in candidates()), key=lambda candidate: loss[candidate].mean())
        print(f"{name}: best candidate {best}, mean squared error {loss[best].mean():.4g}")
        for method in (*METHODS, RIVAL):
            gain = (loss[method] - loss[best]) / loss[best].mean()
            ratios.setdefault(method, []).append(1 + gain.mean())
            print(f"  {method:20s} {1 + gain.mean():.3f} +- {gain.std(ddof=1) / len(gain) ** 0.5:.3f}", flush=True)
    print("\nover the sets: geometric mean, worst   (asked of auto: at most 0.945, 1.033)")
    for method, values in ratios.items():
        print(f"  {method:20s} {np.exp(np.mean(np.log(values))):.4f}  {max(values):.4f}")


def parkinsons(folder: Path, jobs: int) -> None:
    """Inner risks by subject and by row, beside the risk on subjects that nothing was fitted on."""
    frame = pd.read_csv(folder / "parkinsons_updrs.csv")
    subject, y = frame["subject"].to_numpy(), frame["motor_UPDRS"].to_numpy(float)
    X = frame.drop(columns=["subject", "motor_UPDRS", "total_UPDRS"]).to_numpy(float)
    library = [("mean", DummyRegressor())]
    library += [("ridge", make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13))))]
    library += [("neighbours", make_pipeline(StandardScaler(), KNeighborsRegressor(5)))]
    library += [pair for pair in candidates() if pair[0] in ("extra trees", "boosting")]
    learner = SuperLearnerRegressor(library, cv=5)
    real = cv_report(learner, X, y, cv=GroupKFold(7), groups=subject, n_jobs=jobs)
    print(f"\nParkinson's, new subjects\n{real}")
    whole = clone(learner).fit(X, y, groups=subject)
    rows = clone(learner).set_params(cv=KFold(5, shuffle=True, random_state=0)).fit(X, y)
    for way, model in (("by subject", whole), ("by row", rows)):
        Z, folds = model.cross_fit_.predictions, model.cross_fit_.folds
        risk = np.mean([_held_out_risk(Z, y, folds, k) for k in range(5)])
        print(f"inner folds {way}: the committee's own risk {risk:.4g}")


def _held_out_risk(Z: ndarray, y: ndarray, folds: ndarray, k: int) -> float:
    """Return the risk of weights learned on the level-one rows of the other folds."""
    blend = learn_blend(Z[folds != k], y[folds != k], folds=folds[folds != k])
    return float(((blend(Z[folds == k]) - y[folds == k]) ** 2).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--sets", nargs="*", default=SETS, choices=SETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--parkinsons", action="store_true")
    chosen = parser.parse_args()
    tables(chosen.data, chosen.sets, chosen.seed, chosen.jobs)
    if chosen.parkinsons:
        parkinsons(chosen.data, chosen.jobs)
