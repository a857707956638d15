"""The nested report: its numbers against plain loops, its standard errors, its pictures."""

from __future__ import annotations

import joblib
import matplotlib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor

from scimeta.ensembles.report import cv_report
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

matplotlib.use("Agg")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
Y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.3 * RNG.normal(size=90)
OUTER = KFold(4, shuffle=True, random_state=0)
LIBRARY = [("ridge", Ridge()), ("near", KNeighborsRegressor(4)), ("mean", DummyRegressor())]
REGRESSOR = SuperLearnerRegressor(LIBRARY, cv=3)
CLASSIFIER = SuperLearnerClassifier([("logistic", LogisticRegression()), ("bayes", GaussianNB())], cv=3)


def test_risks_are_those_of_a_plain_nested_loop():
    frame = cv_report(REGRESSOR, X, Y, cv=OUTER).to_frame()
    discrete = clone(REGRESSOR).set_params(weights="discrete")
    models = {"SuperLearnerRegressor": REGRESSOR, "discrete": discrete, "near": KNeighborsRegressor(4)}
    loop = {name: [] for name in models}
    for train, test in OUTER.split(X):
        for name, model in models.items():
            predicted = clone(model).fit(X[train], Y[train]).predict(X[test])
            loop[name].append(mean_squared_error(Y[test], predicted))
    for name, risks in loop.items():
        assert frame.risk[name] == pytest.approx(np.mean(risks), rel=1e-12)
        assert (frame["min"][name], frame["max"][name]) == pytest.approx((min(risks), max(risks)), rel=1e-12)
    assert list(frame.index) == ["SuperLearnerRegressor", "discrete", "ridge", "near", "mean"]


def test_the_loss_of_a_classifier_is_the_log_loss():
    labels = np.where(Y > 0, "up", "down")
    report = cv_report(CLASSIFIER, X, labels, cv=OUTER)
    risks = []
    for train, test in OUTER.split(X):
        model = LogisticRegression().fit(X[train], labels[train])
        risks.append(log_loss(labels[test], np.clip(model.predict_proba(X[test]), 1e-3, 1 - 1e-3)))
    assert report.to_frame().risk["logistic"] == pytest.approx(np.mean(risks), rel=1e-6)
    assert report.loss == "log-loss" and "log-loss" in str(report)


def test_the_standard_error_of_independent_rows_is_the_textbook_one():
    report = cv_report(REGRESSOR, X, Y, cv=OUTER)
    frame = report.to_frame()
    np.testing.assert_allclose(frame.se, report.losses.std(axis=0, ddof=1) / np.sqrt(90))
    paired = report.losses - report.losses[:, :1]
    np.testing.assert_allclose(frame.excess_se, paired.std(axis=0, ddof=1) / np.sqrt(90), atol=1e-15)
    np.testing.assert_allclose(frame.excess, frame.risk - frame.risk.iloc[0], atol=1e-12)


def test_the_standard_error_of_groups_of_one_size_is_that_of_their_means():
    groups = np.repeat(np.arange(15), 6)
    report = cv_report(REGRESSOR, X, Y, groups=groups)
    means = report.losses.reshape(15, 6, -1).mean(1)
    np.testing.assert_allclose(report.to_frame().se, means.std(axis=0, ddof=1) / np.sqrt(15))
    assert all(len(np.unique(report.folds[groups == group])) == 1 for group in range(15))


def test_outer_and_inner_folds_keep_subjects_whole():
    """Neighbours find their own subject's rows: judged by rows they seem exact, on new subjects they are no use."""
    rng = np.random.default_rng(1)
    subject = np.repeat(np.arange(20), 6)
    x = np.column_stack([100 * rng.normal(size=20)[subject], rng.normal(size=120)])
    y = 3 * rng.normal(size=20)[subject] + 0.1 * rng.normal(size=120)
    learner = SuperLearnerRegressor([("mean", DummyRegressor()), ("near", KNeighborsRegressor(3))])
    by_row = cv_report(learner, x, y, cv=KFold(5, shuffle=True, random_state=0)).to_frame().risk
    report = cv_report(learner, x, y, cv=GroupKFold(5), groups=subject)
    by_subject = report.to_frame().risk
    assert by_row["near"] < 0.2 * by_subject["near"] and by_subject["mean"] < by_subject["near"]
    assert by_row.idxmin() == "near" and report.chosen.count("mean") >= 3


def test_weights_of_rows_weigh_the_losses():
    w = np.where(Y > 0, 1.0, 0.0)
    learner = SuperLearnerRegressor([("line", LinearRegression())], cv=3)
    report = cv_report(learner, X, Y, cv=OUTER, sample_weight=w)
    only = [report.losses[(report.folds == k) & (w > 0), 2].mean() for k in range(4)]
    assert report.to_frame().risk["line"] == pytest.approx(np.mean(only))


def test_a_fold_whose_rows_all_have_weight_zero_counts_nothing():
    learner = SuperLearnerRegressor([("line", LinearRegression())], cv=3)
    folds = KFold(3)
    report = cv_report(learner, X, Y, cv=folds, sample_weight=(np.arange(90) >= 30).astype(float))
    means = [report.losses[report.folds == k, 2].mean() for k in (1, 2)]
    frame = report.to_frame()
    assert frame.risk["line"] == pytest.approx(np.mean(means)) and frame.folds["line"] == 2
    assert frame.se["line"] == pytest.approx(report.losses[30:, 2].std(ddof=1) / np.sqrt(60))


def test_time_ordered_folds_are_judged_on_later_rows():
    report = cv_report(REGRESSOR, X, Y, cv=TimeSeriesSplit(3))
    assert np.isnan(report.losses[report.folds < 0]).all() and (report.folds < 0).sum() == 24
    assert np.isfinite(report.to_frame().risk).all()


class Sometimes(RegressorMixin, BaseEstimator):
    """Fails where the first row of the table is among those to train on."""

    def fit(self, X, y):
        if (X[:, 0] == FIRST).any():
            raise RuntimeError("out of luck")
        return self

    def predict(self, X):
        return np.zeros(len(X))


FIRST = X[0, 0]


def test_a_candidate_that_is_dropped_in_some_folds_counts_in_the_others():
    learner = SuperLearnerRegressor([("ridge", Ridge()), ("sometimes", Sometimes())], cv=3)
    with pytest.warns(UserWarning, match="'sometimes' is dropped"):
        report = cv_report(learner, X, Y, cv=OUTER)
    frame = report.to_frame()
    assert frame.folds["sometimes"] == 1 and frame.folds["ridge"] == 4
    assert frame.risk["sometimes"] == pytest.approx((Y[report.folds == report.folds[0]] ** 2).mean())


def test_workers_report_the_same():
    one = cv_report(REGRESSOR, X, Y, cv=OUTER)
    with joblib.parallel_config("threading"):
        two = cv_report(REGRESSOR, X, Y, cv=OUTER, n_jobs=2)
    np.testing.assert_array_equal(one.losses, two.losses)


def test_the_plot_shows_every_algorithm_with_its_error():
    report = cv_report(REGRESSOR, X, Y, cv=OUTER)
    ax = report.plot()
    assert [label.get_text() for label in ax.get_yticklabels()][::-1] == list(report.algorithms)
    np.testing.assert_allclose(ax.containers[0].lines[0].get_xdata()[::-1], report.to_frame().risk)
    assert "squared error" in ax.get_xlabel()
    assert report.plot(ax) is ax
    matplotlib.pyplot.close("all")


def test_the_report_prints_a_table():
    text = str(cv_report(REGRESSOR, X, Y, cv=OUTER))
    assert text.startswith("cross-validated risk (squared error), 4 outer folds") and "near" in text


def test_only_committees_have_a_report():
    with pytest.raises(TypeError, match="got Ridge"):
        cv_report(Ridge(), X, Y)


@pytest.mark.parametrize("cv", [list(KFold(3).split(X)), "prefit"], ids=["list", "prefit"])
def test_folds_made_for_all_rows_cannot_be_nested(cv):
    with pytest.raises(TypeError, match="cv of the learner must be a number or a splitter"):
        cv_report(clone(REGRESSOR).set_params(cv=cv), X, Y)


def test_a_target_that_is_missing_is_refused():
    with pytest.raises(ValueError, match="Input y contains NaN"):
        cv_report(CLASSIFIER, X, np.where(np.arange(90) == 3, np.nan, Y > 0))


def test_a_class_in_one_fold_only_is_explained():
    labels = np.where(np.arange(90) < 2, "rare", np.where(Y > 0, "up", "down"))
    with pytest.raises(ValueError, match="class that is not among the other rows"):
        cv_report(CLASSIFIER, X, labels, cv=KFold(9))
