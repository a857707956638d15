"""The same predictions under every engine of joblib: in turn, by processes, by threads, on a local dask cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import joblib
import numpy as np
from ensembles_problems import SMOKE, Asked, candidates, table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from scimeta.ensembles.experts import MixtureOfExpertsRegressor
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

ENGINES = ("loky", "threading", "dask")
WORKERS = 2  # of one alone, joblib would start none
ROUNDING = 1e-12  # of arrays that came from another process, sums may be taken in another order


def main(seed: int) -> list[Asked]:
    """Print the largest relative difference from a fit without workers; return what was asked."""
    print(f"\nbackends, {WORKERS} workers: difference from a fit in turn, over the largest value, and wall s of fits")
    alone, seconds = predictions(seed)
    print(f"  {'in turn':<12} {'':>12} {'':>8} {seconds:>8.1f} s")
    lines = []
    for engine in ENGINES:
        if engine == "dask" and not find_spec("distributed"):
            print("  dask         left out, for it is not installed: pip install distributed")
            continue
        with cluster() if engine == "dask" else joblib.parallel_config(engine, n_jobs=WORKERS):
            said, seconds = predictions(seed)
        apart = max(float(np.abs(said[name] - values).max() / np.abs(values).max()) for name, values in alone.items())
        print(f"  {engine:<12} {apart:>12.1e} {'asked 0':>8} {seconds:>8.1f} s", flush=True)
        what = f"backends: {engine}, largest difference over largest value"
        lines.append(Asked(what, f"{apart:.1e}", "0, to rounding (1e-12)", apart <= ROUNDING))
    return lines


@contextmanager
def cluster() -> Iterator[None]:
    """Have joblib use a local dask cluster of processes; in a smoke run of one thread, which starts sooner."""
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": None, "silence_logs": logging.ERROR}
    local = LocalCluster(1 if SMOKE else WORKERS, processes=not SMOKE, **options)
    with local, Client(local), joblib.parallel_config("dask"):
        yield


def predictions(seed: int) -> tuple[dict[str, np.ndarray], float]:
    """Return what committees say of diabetes, and their candidates out of fold, and the wall seconds of their fits."""
    X, y = table("diabetes", None)
    folds = KFold(2 if SMOKE else 5, shuffle=True, random_state=seed)
    fast = [pair for pair in candidates() if pair[0] in ("ridge", "neighbours", "svr", "forest")]
    readers = [("logistic", LogisticRegression()), ("Bayes", GaussianNB()), ("neighbours", KNeighborsClassifier())]
    began = time.perf_counter()
    values = SuperLearnerRegressor(fast, cv=folds).fit(X, y)
    experts = MixtureOfExpertsRegressor(fast, "linear", cv=folds, random_state=seed).fit(X, y)
    labels = SuperLearnerClassifier(readers, cv=folds).fit(X, y > np.median(y))
    said = {
        "regressor": np.column_stack([values.predict(X), values.cross_fit_.predictions]),
        "experts": np.column_stack([experts.predict(X), experts.weights(X)]),
        "classifier": np.column_stack([labels.predict_proba(X), labels.cross_fit_.predictions[..., 1]]),
    }
    return said, time.perf_counter() - began
