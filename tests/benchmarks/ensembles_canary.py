"""The noise canary: a target of which nothing can be known, and candidates that know their rows by heart.

n = 200, p = 10, y ~ N(0, 1) independent of X; candidates mean, ridge, one neighbour, extra trees. The risk on new rows
is 1 + the mean square of what is predicted at 4,000 of them, over the variance 1; the nested one is that of 5 outer
folds, over the variance of the 200 values. A dishonest stack learns its weights from predictions of the very rows that
its candidates were fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ensembles_problems import SKLEARN, SMOKE, Asked, mean_error, plus_minus
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import ExtraTreesRegressor, StackingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from tqdm import tqdm

from scimeta.ensembles.blend import learn_blend
from scimeta.ensembles.guards import HONEST, diagnose_stack
from scimeta.ensembles.super_learner import SuperLearnerRegressor

METHODS = ("auto", "discrete", "nnls", "simplex", "affine")
OURS, DISHONEST, PREFIT = "ours: auto", "dishonest: simplex", "dishonest: scikit-learn's, prefit"
ROWS, FEATURES, NEW = (60, 10, 400) if SMOKE else (200, 10, 4000)
TREES, OUTER = (10, 2) if SMOKE else (100, 5)
DIAGNOSED = 1 if SMOKE else 5  # seeds on which the guard is asked too


def main(seeds: range) -> list[Asked]:
    """Print risks over variance, and what the guard says; return what was asked."""
    new_rows: dict[str, list[float]] = {}
    nested: dict[str, list[float]] = {}
    for seed in tqdm(seeds, desc="canary", delay=2, disable=None, leave=False):
        rng = np.random.default_rng(seed)
        X, y, new = (
            rng.standard_normal((ROWS, FEATURES)),
            rng.standard_normal(ROWS),
            rng.standard_normal((NEW, FEATURES)),
        )
        for name, said in predictions(X, y, new, seed).items():
            new_rows.setdefault(name, []).append(1 + (said**2).mean())
        errors: dict[str, float] = {}
        for train, test in KFold(OUTER, shuffle=True, random_state=seed).split(X):
            for name, said in predictions(X[train], y[train], X[test], seed).items():
                errors[name] = errors.get(name, 0.0) + ((said - y[test]) ** 2).sum()
        for name, total in errors.items():
            nested.setdefault(name, []).append(total / (ROWS * y.var()))
    print_risks(new_rows, nested, seeds)
    guard(seeds[:DIAGNOSED])
    return asked_risks(new_rows[OURS], nested[OURS])


def candidates() -> list[tuple[str, RegressorMixin]]:
    return [
        ("mean", DummyRegressor()),
        ("ridge", RidgeCV(np.logspace(-3, 3, 13))),
        ("neighbour", KNeighborsRegressor(1)),
        ("extra trees", ExtraTreesRegressor(TREES, random_state=0)),
    ]


def predictions(X: ndarray, y: ndarray, new: ndarray, seed: int) -> dict[str, ndarray]:
    """Return (new rows,) of every stack; ours share one fit of the candidates, scikit-learn's has its own."""
    inner = KFold(5, shuffle=True, random_state=seed)
    model = SuperLearnerRegressor(candidates(), cv=inner).fit(X, y)
    Z, folds = model.cross_fit_.predictions, model.cross_fit_.folds
    Z_new, seen = model.level_one(new), model.level_one(X)
    said = {f"ours: {method}": learn_blend(Z, y, method, folds=folds)(Z_new) for method in METHODS}
    said[SKLEARN] = StackingRegressor(candidates(), cv=inner).fit(X, y).predict(new)
    said[DISHONEST] = learn_blend(seen, y, "simplex")(Z_new)
    fitted = list(zip(model.names_, model.estimators_, strict=True))
    return said | {PREFIT: StackingRegressor(fitted, cv="prefit").fit(X, y).predict(new)}


def print_risks(new_rows: dict[str, list[float]], nested: dict[str, list[float]], seeds: range) -> None:
    """Print every stack's risks, mean and range over the seeds."""
    low, high = HONEST
    print(f"\ncanary: pure noise, n = {ROWS}, {len(seeds)} seed(s) from {seeds.start}; risk over the variance")
    heads = " ".join(f"{what:>17} {'range':>14} {'in band':>8}" for what in ("on new rows", "nested"))
    print(f"  {'':<34} {heads}   asked of the mean: the band")
    for name, risks in new_rows.items():
        cells = []
        for values in (risks, nested[name]):
            within = f"{sum(low <= value <= high for value in values)} of {len(values)}"
            span = f"{min(values):.3f} {max(values):.3f}"
            cells.append(f"{plus_minus(mean_error(values)):>17} {span:>14} {within:>8}")
        asked = f"{low} to {high}" if name == OURS else ""
        print(f"  {name:<34} {' '.join(cells)}   {asked}", flush=True)


def asked_risks(new_rows: list[float], nested: list[float]) -> list[Asked]:
    low, high = HONEST
    lines = []
    for what, values in (("on new rows", new_rows), ("nested", nested)):
        mean = mean_error(values)
        span = f"{plus_minus(mean)} ({min(values):.2f}-{max(values):.2f})"
        what = f"canary: honest stack's risk over variance, {what}"
        lines.append(Asked(what, span, f"{low} to {high}", low <= mean[0] <= high))
    return lines


class InSample(BaseEstimator):
    """Folds that are none: the rows trained on are those held out."""

    def split(self, X: ndarray, y: object = None, groups: object = None) -> Iterator[tuple[ndarray, ndarray]]:
        yield np.arange(len(X)), np.arange(len(X))

    def get_n_splits(self, X: object = None, y: object = None, groups: object = None) -> int:
        return 1


def guard(seeds: range) -> None:
    """Print how often ``diagnose_stack`` finds a leak, and its own canary's risk."""
    stacks = {
        OURS: SuperLearnerRegressor(candidates(), cv=5),
        SKLEARN: StackingRegressor(candidates(), cv=5),
        "dishonest: scikit-learn's": StackingRegressor(candidates(), cv=InSample()),
    }
    print(f"  diagnose_stack, {len(seeds)} seed(s): a leak is found, and its canary's risk over a constant's")
    for name, stack in stacks.items():
        found = []
        for seed in seeds:
            rng = np.random.default_rng((seed, 1))
            X = rng.standard_normal((ROWS, FEATURES))
            y = X[:, 0] + rng.standard_normal(ROWS)
            found.append(diagnose_stack(stack, X, y, folds=OUTER, repeats=1, rng=rng))
        caught = sum(not one.honest for one in found)
        risks = plus_minus(mean_error([one.risks[0] for one in found]))
        print(f"  {name:<34} {caught} of {len(seeds)}   {risks}", flush=True)
