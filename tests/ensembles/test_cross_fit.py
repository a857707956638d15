"""Out-of-fold predictions: honest, the same as scikit-learn's, and robust to candidates that fail."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_predict,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from scimeta.ensembles.candidates import fit_candidates, predict_candidates
from scimeta.ensembles.cross_fit import cross_fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = X @ [1.0, -2.0, 0.5] + RNG.normal(size=60)
LABELS = np.array(["low", "mid", "high"])[np.digitize(Y, [-1, 1])]


class Memory(RegressorMixin, BaseEstimator):
    """Says 1 of rows that it was trained on, 0 of others."""

    def fit(self, X, y):
        self.seen_ = {tuple(row) for row in X}
        return self

    def predict(self, X):
        return np.array([float(tuple(row) in self.seen_) for row in X])


class Broken(RegressorMixin, BaseEstimator):
    """Fails in the way that it is told to."""

    def __init__(self, how="raises"):
        self.how = how

    def fit(self, X, y):
        if self.how == "raises":
            raise RuntimeError("out of luck")
        return self

    def predict(self, X):
        if self.how == "NaN":
            return np.where(np.arange(len(X)) == 0, np.nan, 1.0)
        return {"shape": np.ones((len(X), 2)), "short": np.ones(len(X) - 1), "text": ["a"] * len(X)}[self.how]


class Plain:
    """No scikit-learn estimator, only fit and predict."""

    def fit(self, X, y):
        self.level = np.mean(y)

    def predict(self, X):
        return np.full(len(X), self.level)


SPLITS = [3, KFold(4, shuffle=True, random_state=0), TimeSeriesSplit(4), list(KFold(3).split(X)), None]


@pytest.mark.parametrize("cv", SPLITS, ids=str)
def test_no_row_is_predicted_by_a_model_that_was_trained_on_it(cv):
    crossed = cross_fit([("memory", Memory())], X, Y, cv=cv)
    assert (crossed.predictions[crossed.held] == 0).all()
    assert np.isnan(crossed.predictions[~crossed.held]).all()


def test_predictions_are_those_of_scikit_learn():
    cv = KFold(4, shuffle=True, random_state=0)
    crossed = cross_fit([("ridge", Ridge()), ("knn", KNeighborsRegressor())], X, Y, cv=cv)
    np.testing.assert_array_equal(crossed.predictions[:, 0], cross_val_predict(Ridge(), X, Y, cv=cv))
    np.testing.assert_array_equal(crossed.predictions[:, 1], cross_val_predict(KNeighborsRegressor(), X, Y, cv=cv))
    assert crossed.names == ("ridge", "knn") and not crossed.dropped


def test_probabilities_are_those_of_scikit_learn_with_classes_in_proportion():
    crossed = cross_fit([("logistic", LogisticRegression())], X, LABELS, cv=4, method="predict_proba")
    reference = cross_val_predict(LogisticRegression(), X, LABELS, cv=StratifiedKFold(4), method="predict_proba")
    np.testing.assert_array_equal(crossed.predictions[:, 0], reference)


def test_a_class_that_a_fold_never_saw_has_probability_zero_there():
    labels = np.repeat(["a", "b", "c"], 20)
    folds = np.where(labels == "c", 0, np.arange(60) % 2 + 1)
    cv = PredefinedSplit(folds)
    crossed = cross_fit([("logistic", LogisticRegression())], X, labels, cv=cv, method="predict_proba")
    np.testing.assert_array_equal(crossed.predictions[labels == "c", 0, 2], 0)
    np.testing.assert_allclose(crossed.predictions.sum(2), 1)


def test_time_ordered_folds_leave_the_first_rows_out():
    crossed = cross_fit([("mean", DummyRegressor())], X, Y, cv=TimeSeriesSplit(5))
    np.testing.assert_array_equal(crossed.held, np.arange(60) >= 10)
    for k in range(5):
        rows = np.flatnonzero(crossed.folds == k)
        np.testing.assert_allclose(crossed.predictions[rows, 0], Y[: rows[0]].mean())


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_number_of_folds_means_whole_groups_if_groups_are_given(method):
    groups = np.arange(60) % 7
    candidate, y = (Ridge(), Y) if method == "predict" else (LogisticRegression(), LABELS)
    crossed = cross_fit([("one", candidate)], X, y, cv=3, groups=groups, method=method)
    for group in range(7):
        assert len(np.unique(crossed.folds[groups == group])) == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "RuntimeError: out of luck"),
        ("NaN", "NaN or infinite"),
        ("shape", r"shape \(20, 2\) for 20 rows"),
        ("short", r"shape \(19,\) for 20 rows"),
        ("text", "could not convert string"),
    ],
)
def test_a_failing_candidate_is_dropped_with_a_warning_that_names_it(how, reason):
    with pytest.warns(UserWarning, match=f"candidate 'broken' is dropped: .*{reason}"):
        crossed = cross_fit([("broken", Broken(how)), ("ridge", Ridge())], X, Y, cv=3)
    assert crossed.names == ("ridge",) and list(crossed.dropped) == ["broken"]
    np.testing.assert_array_equal(crossed.predictions, cross_fit([("ridge", Ridge())], X, Y, cv=3).predictions)


def test_if_all_fail_the_error_gives_every_reason():
    with pytest.raises(ValueError, match=r"(?s)every candidate failed.*one: RuntimeError.*two: returned 1 values"):
        cross_fit([("one", Broken()), ("two", Broken("NaN"))], X, Y, cv=3)


def test_text_columns_without_a_pipeline_are_explained():
    table = pd.DataFrame({"x": X[:, 0], "alloy": ["A", "B", "C"] * 20})
    with pytest.raises(ValueError, match="put the candidates in pipelines that encode them"):
        cross_fit([("ridge", Ridge())], table, Y, cv=3)


def test_a_classifier_without_probabilities_is_told_what_to_do():
    with pytest.warns(UserWarning, match="'svc' is dropped: has no predict_proba; wrap it in sklearn.calibration"):
        cross_fit([("svc", LinearSVC()), ("lr", LogisticRegression())], X, LABELS, cv=3, method="predict_proba")


def test_a_candidate_that_fails_at_prediction_time_is_named():
    fitted, _ = fit_candidates([("ridge", Ridge()), ("broken", Broken("NaN"))], X, Y)
    with pytest.raises(ValueError, match=r"'broken' returned 1 values that are NaN.*set_params\(broken='drop'\)"):
        predict_candidates(fitted, X)


def test_anything_with_fit_and_predict_is_a_candidate_and_stays_as_it_was():
    plain = Plain()
    crossed = cross_fit([("plain", plain)], X, Y, cv=2)
    np.testing.assert_allclose(crossed.predictions[:30, 0], Y[30:].mean())
    assert not hasattr(plain, "level")


def test_a_frozen_candidate_is_not_fitted_again():
    model = Ridge().fit(X[:, :1], X[:, 1])
    crossed = cross_fit([("frozen", FrozenEstimator(model))], X[:, :1], Y, cv=3)
    np.testing.assert_array_equal(crossed.predictions[:, 0], model.predict(X[:, :1]))


WEIGHTED = {
    "plain": Ridge(),
    "pipeline": make_pipeline(StandardScaler(), Ridge()),
    "target": TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
    "search": GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [1.0]}, cv=2),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_reach_the_model_inside(name):
    w = np.where(Y > 0, 50.0, 1.0)
    with_weights = cross_fit([("one", WEIGHTED[name])], X, Y, cv=3, sample_weight=w).predictions
    assert with_weights.mean() > cross_fit([("one", WEIGHTED[name])], X, Y, cv=3).predictions.mean() + 0.1


def test_candidates_that_take_no_weights_are_named():
    with pytest.warns(UserWarning, match="fit of 'knn' takes no sample_weight"):
        crossed = cross_fit([("knn", KNeighborsRegressor()), ("ridge", Ridge())], X, Y, cv=3, sample_weight=np.ones(60))
    assert crossed.names == ("knn", "ridge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)}, "an earlier fold held out"),
        ({"cv": [(np.arange(60), np.arange(30))]}, "trains on rows that it holds out"),
        ({"cv": [(np.arange(30), np.arange(0))]}, "both need some"),
        ({"cv": []}, "hold no row out"),
        ({"cv": iter([])}, "an iterator is used up by one fit"),
        ({"cv": [(np.arange(60), [-1])]}, "row numbers from 0 to 59"),  # the last row, though it was trained on
        ({"cv": [(np.arange(30), [60])]}, "row numbers from 0 to 59"),
        ({"cv": [(np.arange(30), [40.5])]}, "row numbers from 0 to 59"),
        ({"cv": [(np.arange(60) < 30, np.arange(59) > 30)]}, r"masks of shape \(60,\)"),
        ({"cv": "prefit"}, "FrozenEstimator"),
        ({"cv": 61}, "greater than the number of samples"),
        ({"cv": 4, "groups": np.arange(60) % 3}, "greater than the number of groups"),
        ({"cv": GroupKFold(3)}, "groups"),
        ({"cv": 3, "groups": np.arange(59)}, "inconsistent numbers of samples"),
        ({"cv": 3, "groups": np.zeros((60, 2))}, "should be a 1d array"),
        ({"cv": 3, "groups": np.where(np.arange(60) % 6, np.arange(60) % 6, np.nan)}, "groups contains NaN"),
        ({"cv": 3, "groups": np.array([None, "a", "b"] * 20, dtype=object)}, "groups mixes NoneType, str"),
        ({"cv": 3, "sample_weight": -np.ones(60)}, "Negative values"),
    ],
)
def test_folds_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cross_fit([("ridge", Ridge())], X, Y, **options)


@pytest.mark.parametrize(
    ("estimators", "error", "message"),
    [
        ([], ValueError, "non-empty list"),
        (Ridge(), ValueError, "non-empty list"),
        ([Ridge()], ValueError, "non-empty list"),
        ([("a", Ridge()), ("a", Ridge())], ValueError, "not unique"),
        ([("a", Ridge)], TypeError, "should be an instance"),
        ([("a", 3)], TypeError, "should be an instance"),
        ([("a", "leave out")], ValueError, "or 'drop'"),
        ([("a", "drop")], ValueError, "All estimators are dropped"),
    ],
)
def test_what_is_no_list_of_candidates_is_refused(estimators, error, message):
    with pytest.raises(error, match=message):
        cross_fit(estimators, X, Y, cv=3)


def test_a_dropped_candidate_is_left_out_without_a_word():
    with warnings.catch_warnings(action="error"):
        assert cross_fit([("a", "drop"), ("b", LinearRegression())], X, Y, cv=3).names == ("b",)


def test_lists_of_texts_are_rows_too():
    texts = ["a b", "c"] * 30

    class Length(Plain):
        def predict(self, X):
            return np.array([len(text) for text in X])

    crossed = cross_fit([("length", Length())], texts, Y, cv=3)
    np.testing.assert_array_equal(crossed.predictions[:, 0], [3, 1] * 30)
