"""The numbers of R's SuperLearner 2.0-40, candidate by candidate (see golden/README.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from scimeta.ensembles.blend import Blend, learn_blend
from scimeta.ensembles.report import cv_report
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

FOLDER = Path(__file__).parent / "golden"
INPUT, WEIGHTS, PREDICTIONS = (pd.read_csv(FOLDER / f"{name}.csv") for name in ("input", "weights", "sl_predict"))
X = INPUT[["X1", "X2", "X3", "X4"]].to_numpy()
TARGET = {"gaussian": INPUT.y_gauss.to_numpy(), "binomial": INPUT.y_bin.to_numpy()}
W = INPUT.weight.to_numpy()
METHODS = {
    "method.NNLS": "nnls",
    "method.CC_LS": "simplex",
    "method.NNloglik": "nnloglik",
    "method.CC_nloglik": "cc_nloglik",
}
R_TRIM = 1e-3  # control$trimLogit: R keeps probabilities this far from 0 and 1 before it takes their logits; we do not
CASES = [(f, w, m) for (f, w, m), _ in WEIGHTS.groupby(["family", "weighted", "method"]) if m in METHODS]


def first(x: np.ndarray) -> np.ndarray:
    return x[:, :1]


def with_squares(x: np.ndarray) -> np.ndarray:
    return np.hstack([x, x**2])


def on(columns, model: BaseEstimator) -> Pipeline:
    return make_pipeline(FunctionTransformer(columns), model)


def committee(family: str, weights: str, cv) -> SuperLearnerRegressor | SuperLearnerClassifier:
    if family == "gaussian":
        mean, linear, kind = DummyRegressor(), LinearRegression(), SuperLearnerRegressor
    else:
        mean, kind = DummyClassifier(), SuperLearnerClassifier
        linear = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10)
    library = [("mean", mean), ("one", on(first, linear)), ("glm", linear), ("quad", on(with_squares, linear))]
    return kind(library, weights, cv=cv)


@pytest.fixture(scope="module")
def fits() -> dict:
    """One fit a family, weights and method."""
    cv = PredefinedSplit(INPUT.fold - 1)
    return {
        (family, weighted, method): committee(family, METHODS[method], cv).fit(
            X, TARGET[family], sample_weight=W if weighted else None
        )
        for family, weighted, method in CASES
    }


def blend(fits: dict, case: tuple[str, bool, str]) -> Blend:
    """Return the fit's own combination; where R forgets the rows' weights, that of its level-one matrix without them.

    R's method.CC_nloglik passes the weights to the candidates and to cvRisk, but not to the solver of coef.
    """
    model = fits[case]
    if case != ("binomial", True, "method.CC_nloglik"):
        return model.blend_
    return learn_blend(trimmed(model.cross_fit_.predictions), TARGET["binomial"], "cc_nloglik")


def trimmed(P: np.ndarray) -> np.ndarray:
    return np.clip(P, R_TRIM, 1 - R_TRIM)


@pytest.mark.parametrize(("family", "kind"), [("gaussian", "method.NNLS"), ("binomial", "method.NNloglik")])
def test_the_out_of_fold_matrix_is_that_of_r(fits, family, kind):
    Z = fits[family, False, kind].cross_fit_.predictions
    Z = Z if family == "gaussian" else Z[..., 1]
    np.testing.assert_allclose(Z, pd.read_csv(FOLDER / f"Z_{family}.csv").to_numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_are_those_of_r(fits, case):
    family, weighted, method = case
    golden = WEIGHTS[(WEIGHTS.family == family) & (WEIGHTS.weighted == weighted) & (WEIGHTS.method == method)]
    tolerance = 1e-5 if "loglik" in method else 1e-6
    np.testing.assert_allclose(blend(fits, case).weights, golden.coef, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_risks_are_those_of_r(fits, case):
    family, weighted, method = case
    golden = WEIGHTS[(WEIGHTS.family == family) & (WEIGHTS.weighted == weighted) & (WEIGHTS.method == method)]
    w = W if weighted else np.ones(len(W))
    if family == "binomial" and "loglik" not in method:
        Z = fits[case].cross_fit_.predictions[..., 1]
        risks = w @ (Z - TARGET[family][:, None]) ** 2 / len(w)
    else:
        risks = fits[case].risks_ * (2 * w.sum() if method == "method.CC_nloglik" else w.mean())
    np.testing.assert_allclose(risks, golden.cvRisk, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_predictions_are_those_of_r(fits, case):
    family, weighted, method = case
    Z = fits[case].level_one(X)
    predicted = blend(fits, case)(trimmed(Z) if "loglik" in method else Z)
    predicted = predicted if family == "gaussian" else predicted[:, 1]
    golden = PREDICTIONS[f"{family}|{str(weighted).upper()}|{method}"]
    np.testing.assert_allclose(predicted, golden, rtol=0, atol=1e-5 if "loglik" in method else 1e-6)


class Inner:
    """The inner folds that R used, found by the first column of the rows that are left."""

    def split(self, X: np.ndarray, y: np.ndarray, groups: None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = INPUT.set_index("X1").index.get_indexer(X[:, 0])
        left_out = (set(range(1, 7)) - set(INPUT.fold.iloc[rows])).pop()
        yield from PredefinedSplit(INPUT[f"inner{left_out}"].iloc[rows].astype(int)).split()

    def get_n_splits(self, X: np.ndarray, y: np.ndarray, groups: None = None) -> int:
        return sum(1 for _ in self.split(X, y))


@pytest.mark.parametrize(("weights", "name"), [("nnls", "NNLS"), ("simplex", "CC_LS")])
def test_the_nested_table_is_that_of_r(weights, name):
    report = cv_report(
        committee("gaussian", weights, Inner()), X, TARGET["gaussian"], cv=PredefinedSplit(INPUT.fold - 1)
    )
    golden = pd.read_csv(FOLDER / f"cvsl_{name}.csv", index_col="Algorithm")
    ours = report.to_frame()[["risk", "se", "min", "max"]]
    np.testing.assert_allclose(ours.to_numpy(), golden.to_numpy(), rtol=0, atol=1e-6)
