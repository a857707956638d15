"""Groups reach every fold inside a committee, or the fit says where they do not."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sklearn
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor, StackingRegressor
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.feature_selection import RFECV
from sklearn.linear_model import LassoCV, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, LeaveOneGroupOut
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scimeta.ensembles import (
    MixtureOfExpertsClassifier,
    MixtureOfExpertsRegressor,
    SuperLearnerClassifier,
    SuperLearnerRegressor,
    cross_fit,
    cv_report,
    diagnose_stack,
)

RNG = np.random.default_rng(0)
WHO = RNG.permutation(np.repeat(np.arange(24), 5))
X = RNG.standard_normal((24, 3))[WHO] + 0.1 * RNG.standard_normal((120, 3))
Y = RNG.standard_normal(24)[WHO] + 0.3 * RNG.standard_normal(120)
NAMES = np.array([f"subject {who}" for who in WHO])
LIBRARY = [("mean", DummyRegressor()), ("ridge", Ridge())]
CLASSIFIERS = [("prior", DummyClassifier()), ("logistic", LogisticRegression())]


class Recorder(RegressorMixin, BaseEstimator):
    """Keeps the rows and the groups that it was given."""

    def fit(self, X: ndarray, y: ndarray, groups: Any = None) -> Recorder:
        self.given_ = X, groups
        return self

    def predict(self, X: ndarray) -> ndarray:
        return np.zeros(len(X))


class Strict(Recorder):
    """Fails where groups are missing or not those of the rows."""

    def fit(self, X: ndarray, y: ndarray, groups: Any = None) -> Strict:
        if groups is None or len(groups) != len(X) or not all(groups == NAMES[(X[:, None] == OWN).all(2).argmax(1)]):
            raise ValueError("groups are missing, or of other rows")
        return self


OWN = X


def torn(committee: Any, who: ndarray = WHO) -> int:
    """Return how many subjects have rows in several inner folds."""
    return sum(len(set(committee.cross_fit_.folds[who == k])) > 1 for k in np.unique(who))


def inner(kind: type = SuperLearnerRegressor, **options: Any) -> Any:
    return kind(LIBRARY if "Regressor" in kind.__name__ else CLASSIFIERS, **{"cv": 3, **options})


WRAPPED = {
    "committee": (lambda one: one, lambda fitted: fitted),
    "pipeline": (lambda one: make_pipeline(StandardScaler(), one), lambda fitted: fitted[-1]),
    "target": (
        lambda one: TransformedTargetRegressor(one, transformer=StandardScaler()),
        lambda fitted: fitted.regressor_,
    ),
    "target of a pipeline": (
        lambda one: TransformedTargetRegressor(make_pipeline(one), transformer=StandardScaler()),
        lambda fitted: fitted.regressor_[-1],
    ),
    "search over a pipeline": (
        lambda one: GridSearchCV(make_pipeline(one), {}, cv=GroupKFold(2)),
        lambda fitted: fitted.best_estimator_[-1],
    ),
    "third-party": (lambda one: HandsOn(one), lambda fitted: fitted.estimator_),
}


class HandsOn(RegressorMixin, BaseEstimator):
    """A wrapper of one's own that hands all arguments on."""

    def __init__(self, estimator: Any = None) -> None:
        self.estimator = estimator

    def fit(self, X: ndarray, y: ndarray, **given: Any) -> HandsOn:
        self.estimator_ = sklearn.clone(self.estimator).fit(X, y, **given)
        return self

    def predict(self, X: ndarray) -> ndarray:
        return self.estimator_.predict(X)


@pytest.mark.parametrize("outer", [SuperLearnerRegressor, MixtureOfExpertsRegressor])
@pytest.mark.parametrize("within", [SuperLearnerRegressor, MixtureOfExpertsRegressor])
@pytest.mark.parametrize("name", WRAPPED)
def test_groups_reach_a_committee_inside(outer, within, name):
    wrap, find = WRAPPED[name]
    model = outer([("inner", wrap(inner(within))), ("mean", DummyRegressor())], cv=4).fit(X, Y, groups=NAMES)
    assert torn(find(model.named_estimators_["inner"])) == 0
    assert torn(model) == 0


@pytest.mark.parametrize("within", [SuperLearnerClassifier, MixtureOfExpertsClassifier])
def test_groups_reach_a_committee_of_classifiers_inside(within):
    outer = SuperLearnerClassifier([("inner", inner(within)), ("prior", DummyClassifier())], cv=3)
    assert torn(outer.fit(X, Y > 0, groups=WHO).named_estimators_["inner"]) == 0


def test_groups_reach_three_levels_down():
    middle = SuperLearnerRegressor([("low", inner(cv=2)), ("mean", DummyRegressor())], cv=2)
    top = SuperLearnerRegressor([("middle", middle), ("mean", DummyRegressor())], cv=3).fit(X, Y, groups=WHO)
    assert torn(top.estimators_[0]) == torn(top.estimators_[0].estimators_[0]) == 0


@pytest.mark.parametrize("form", [np.asarray, list], ids=["array", "list"])
def test_every_fold_is_given_the_groups_of_its_own_rows(form):
    crossed = cross_fit([("strict", Strict())], X, Y, cv=3, groups=form(NAMES))
    assert crossed.names == ("strict",)
    model = SuperLearnerRegressor([("strict", Strict()), ("all", Recorder())]).fit(X, Y, groups=NAMES)
    assert (model.named_estimators_["all"].given_[1] == NAMES).all()


def test_a_candidate_that_needs_groups_for_its_folds_is_given_them():
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1e6]}, cv=GroupKFold(3))
    pruned = make_pipeline(RFECV(LinearRegression(), cv=LeaveOneGroupOut()), Ridge())
    model = SuperLearnerRegressor([("search", search), ("pruned", pruned)], cv=3).fit(X, Y, groups=WHO)
    assert model.names_ == ("search", "pruned")
    alone = GridSearchCV(Ridge(), {"alpha": [0.1, 1e6]}, cv=GroupKFold(3)).fit(X, Y, groups=WHO)
    np.testing.assert_array_equal(
        model.named_estimators_["search"].cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


def test_a_committee_inside_trusts_no_memory_of_subjects():
    forest = [("mean", DummyRegressor()), ("forest", RandomForestRegressor(20, random_state=0))]
    pair = [("inner", SuperLearnerRegressor(forest, cv=3)), ("mean", DummyRegressor())]
    given = SuperLearnerRegressor(pair, cv=3).fit(X, Y, groups=WHO).named_estimators_["inner"].weights_
    without = SuperLearnerRegressor(pair, cv=3).fit(X, Y).named_estimators_["inner"].weights_
    assert given[1] < 0.3 < 0.7 < without[1]


LOST = {
    "search of a committee": (GridSearchCV(inner(), {}, cv=GroupKFold(2)), "SuperLearnerRegressor"),
    "search by rows": (GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2), "GridSearchCV"),
    "lasso": (make_pipeline(StandardScaler(), LassoCV(cv=3)), "LassoCV"),
    "bagging": (BaggingRegressor(inner(), 2, random_state=0), "SuperLearnerRegressor"),
    "stack": (StackingRegressor([("inner", inner())], cv=2), "StackingRegressor, SuperLearnerRegressor"),
    "pruned by rows": (RFECV(LinearRegression(), cv=2), "RFECV"),
}


@pytest.mark.parametrize("name", LOST)
def test_folds_that_groups_do_not_reach_are_named(name):
    candidate, lost = LOST[name]
    model = SuperLearnerRegressor([("inside", candidate), ("mean", DummyRegressor())], cv=3)
    with pytest.warns(UserWarning, match=f"groups do not reach the folds of {lost} in candidate 'inside'") as caught:
        model.fit(X, Y, groups=WHO)
    assert len(caught) == 1
    assert model.names_ == ("inside", "mean")
    if "GroupKFold" not in str(candidate):
        with warnings.catch_warnings(action="error"):
            model.fit(X, Y)


def test_a_calibrated_committee_is_given_groups_and_its_calibration_is_named():
    calibrated = CalibratedClassifierCV(inner(SuperLearnerClassifier), cv=2)
    model = SuperLearnerClassifier([("inside", calibrated), ("prior", DummyClassifier())], cv=3)
    with pytest.warns(UserWarning, match="the folds of CalibratedClassifierCV in candidate 'inside'"):
        fitted = model.fit(X, Y > 0, groups=WHO).named_estimators_["inside"]
    assert len(fitted.calibrated_classifiers_[0].estimator.cross_fit_.folds) < 120
    assert model.names_ == ("inside", "prior")


def test_a_wrapper_that_hands_nothing_on_is_kept_without_weights():
    ovr = OneVsRestClassifier(LogisticRegression())
    model = SuperLearnerClassifier([("ovr", ovr), ("prior", DummyClassifier())], cv=3)
    with pytest.warns(UserWarning, match="fit of 'ovr' takes no sample_weight"):
        model.fit(X, Y > 0, sample_weight=np.ones(120))
    assert model.names_ == ("ovr", "prior")


def test_fewer_groups_than_five_mean_fewer_folds():
    four = WHO % 4
    model = SuperLearnerRegressor([("inner", SuperLearnerRegressor(LIBRARY)), ("mean", DummyRegressor())])
    model.fit(X, Y, groups=four)
    assert model.names_ == ("inner", "mean")
    assert model.cross_fit_.folds.max() == 3
    with pytest.raises(ValueError, match="number of groups: 1"):
        SuperLearnerRegressor(LIBRARY).fit(X, Y, groups=np.zeros(120))


def test_with_routing_on_a_committee_inside_asks_for_groups():
    with sklearn.config_context(enable_metadata_routing=True):
        for kind in (SuperLearnerRegressor, MixtureOfExpertsRegressor):
            asks = inner(kind).set_fit_request(groups=True)
            piped = SuperLearnerRegressor([("inner", make_pipeline(asks)), ("mean", DummyRegressor())], cv=3)
            assert torn(piped.fit(X, Y, groups=WHO).named_estimators_["inner"][-1]) == 0
            search = GridSearchCV(asks, {"cv": [2]}, cv=GroupKFold(2))
            model = SuperLearnerRegressor([("inner", search), ("mean", DummyRegressor())], cv=3)
            assert torn(model.fit(X, Y, groups=WHO).named_estimators_["inner"].best_estimator_) == 0
            silent = kind([("inner", inner(kind)), ("mean", DummyRegressor())], cv=3)
            with pytest.raises(UnsetMetadataPassedError, match="groups"):
                silent.fit(X, Y, groups=WHO)


@pytest.mark.parametrize("routing", [False, True])
def test_report_and_diagnosis_hand_groups_down(routing):
    with sklearn.config_context(enable_metadata_routing=routing):
        needs = Strict().set_fit_request(groups=True) if routing else Strict()
        nested = SuperLearnerRegressor([("needs", needs)], cv=2)
        nested = nested.set_fit_request(groups=True) if routing else nested
        outer = SuperLearnerRegressor([("inner", nested), ("mean", DummyRegressor())], cv=3)
        report = cv_report(outer, X, Y, groups=NAMES, cv=3)
        assert np.isfinite(report.losses).all()
        found = diagnose_stack(outer, X, Y, NAMES, repeats=1)
        assert found.honest, str(found)
