"""The Super Learner: scikit-learn's contract, honest weights, bad input, and engines."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, PredefinedSplit, TimeSeriesSplit, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
Y = X[:, 0] - 2 * X[:, 1] + np.sin(3 * X[:, 2]) + 0.3 * RNG.normal(size=120)
LABELS = np.array(["low", "mid", "high"])[np.digitize(Y, [-1, 1])]
TABLE = pd.DataFrame(X, columns=["a", "b", "c", "d"])


def first(x: np.ndarray) -> np.ndarray:
    return x[:, :1]


def second(x: np.ndarray) -> np.ndarray:
    return x[:, 1:2]


def regressor(**options) -> SuperLearnerRegressor:
    tree = DecisionTreeRegressor(max_depth=3, random_state=0)
    return SuperLearnerRegressor([("ridge", Ridge()), ("tree", tree)], **{"cv": 3, **options})


def classifier(**options) -> SuperLearnerClassifier:
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    return SuperLearnerClassifier([("logistic", LogisticRegression()), ("tree", tree)], **{"cv": 3, **options})


@pytest.mark.filterwarnings("ignore::UserWarning")  # some checks make candidates fail on purpose
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # array API input, if SciPy's is off
@parametrize_with_checks([regressor(), classifier()])
def test_every_check_of_scikit_learn_passes(estimator, check):
    check(estimator)


class TestContract:
    def test_predictions_are_the_weighted_sum_of_the_candidates(self):
        model = regressor(weights="simplex").fit(X, Y)
        parts = np.stack([Ridge().fit(X, Y).predict(X), model.named_estimators_["tree"].predict(X)], axis=1)
        np.testing.assert_allclose(model.predict(X), parts @ model.weights_, rtol=1e-12)

    def test_the_committee_beats_its_members_where_they_err_apart(self):
        """Of y = a + b, one candidate knows a, the other b: the mean of both misses by half, their sum by nothing."""
        a, b = (make_pipeline(FunctionTransformer(column), LinearRegression()) for column in (first, second))
        y = X[:, 0] + X[:, 1]
        convex = SuperLearnerRegressor([("a", a), ("b", b)], "simplex").fit(X, y)
        errors = ((convex.level_one(X) - y[:, None]) ** 2).mean(0)
        assert ((convex.predict(X) - y) ** 2).mean() < 0.7 * errors.min()
        free = SuperLearnerRegressor([("a", a), ("b", b)]).fit(X, y)
        assert free.blend_.method == "affine"
        assert ((free.predict(X) - y) ** 2).mean() < 0.01 * errors.min()

    def test_a_candidate_that_memorises_gets_no_weight(self):
        noise = np.random.default_rng(2).normal(size=120)
        memory = KNeighborsRegressor(1)
        model = SuperLearnerRegressor([("mean", DummyRegressor()), ("memory", memory)], "simplex").fit(X, noise)
        assert dict(zip(model.names_, model.weights_, strict=True))["memory"] < 0.15

    def test_probabilities_follow_the_sorted_labels(self):
        model = classifier().fit(X, LABELS)
        assert list(model.classes_) == ["high", "low", "mid"]
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)
        assert (model.predict(X) == model.classes_[model.predict_proba(X).argmax(1)]).all()
        assert model.score(X, LABELS) > 0.8

    def test_clone_pickle_and_a_second_fit_change_nothing(self):
        model = regressor().fit(X, Y)
        again = clone(model)
        assert not hasattr(again, "weights_")
        for same in (again.fit(X, Y), pickle.loads(pickle.dumps(model)), model.fit(X, Y)):
            np.testing.assert_array_equal(same.predict(X), model.predict(X))

    def test_parameters_of_candidates_are_searched_by_nested_names(self):
        search = GridSearchCV(
            Pipeline([("scale", StandardScaler()), ("committee", regressor())]),
            {"committee__ridge__alpha": [0.1, 1e4], "committee__weights": ["simplex"], "committee__tree": ["drop"]},
            cv=3,
        ).fit(X, Y)
        assert search.best_params_["committee__ridge__alpha"] == 0.1
        assert search.best_estimator_["committee"].names_ == ("ridge",)

    def test_set_params_drops_and_replaces_candidates(self):
        model = regressor().set_params(tree="drop", ridge=LinearRegression(), weights="discrete")
        assert isinstance(model.named_estimators["ridge"], LinearRegression)
        assert model.fit(X, Y).names_ == ("ridge",)
        assert list(model.named_estimators_) == ["ridge"]

    def test_tables_go_in_and_come_out(self):
        model = regressor().set_output(transform="pandas").fit(TABLE, pd.Series(Y))
        out = model.transform(TABLE)
        assert list(out.columns) == ["superlearnerregressor_ridge", "superlearnerregressor_tree"]
        np.testing.assert_allclose(out.iloc[:, 0], Ridge().fit(X, Y).predict(X))
        assert list(model.feature_names_in_) == list("abcd")
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(TABLE[["b", "a", "c", "d"]])

    def test_columns_of_rows_that_were_trained_on_come_with_a_warning(self):
        memory = SuperLearnerRegressor([("memory", KNeighborsRegressor(1))], cv=3)
        with pytest.warns(UserWarning, match=r"do not learn from it. cross_fit_.predictions is honest"):
            learned_by_heart = memory.fit_transform(X, Y)
        np.testing.assert_array_equal(learned_by_heart[:, 0], Y)
        assert np.abs(memory.cross_fit_.predictions[:, 0] - Y).min() > 0
        with pytest.warns(UserWarning, match="do not learn from it"):
            make_pipeline(regressor(), Ridge()).fit(X, Y)

    def test_the_level_one_matrix_of_a_classifier_is_of_probabilities(self):
        three = classifier().fit(X, LABELS)
        assert three.transform(X).shape == (120, 6)
        assert three.get_feature_names_out()[4] == "superlearnerclassifier_tree1"
        two = classifier().fit(X, Y > 0)
        np.testing.assert_array_equal(two.transform(X)[:, 0], LogisticRegression().fit(X, Y > 0).predict_proba(X)[:, 1])

    def test_a_table_with_text_columns_needs_only_a_pipeline(self):
        table = TABLE.assign(alloy=np.where(Y > 0, "A", "B"))
        encode = make_column_transformer((OneHotEncoder(), ["alloy"]), remainder="passthrough")
        model = SuperLearnerRegressor([("ridge", make_pipeline(encode, Ridge())), ("mean", DummyRegressor())])
        assert model.fit(table, Y).score(table, Y) > 0.7

    def test_texts_are_rows(self):
        texts = np.where(Y > 0, "good fine", "bad poor").tolist()
        bag = make_pipeline(CountVectorizer(), LogisticRegression())
        model = SuperLearnerClassifier([("bag", bag), ("prior", DummyClassifier())], cv=3).fit(texts, Y > 0)
        assert list(model.predict(["good", "bad"])) == [True, False]

    def test_it_scores_by_cross_validation_and_nests(self):
        outer = SuperLearnerRegressor([("inner", regressor()), ("mean", DummyRegressor())], cv=3)
        assert cross_val_score(outer, X, Y, cv=3).mean() > 0.7

    def test_the_frame_shows_weights_and_risks(self):
        frame = regressor().fit(X, Y).to_frame()
        assert list(frame.index) == ["ridge", "tree"] and list(frame.columns) == ["weight", "risk"]
        assert frame.weight.sum() == pytest.approx(1)

    def test_time_ordered_folds_learn_weights_on_later_rows_only(self):
        model = regressor(cv=TimeSeriesSplit(5)).fit(X, Y)
        held = model.cross_fit_.held
        assert 0 < (~held).sum() == (model.cross_fit_.folds < 0).sum()
        Z = model.cross_fit_.predictions[held]
        np.testing.assert_allclose(model.risks_, ((Z - Y[held, None]) ** 2).mean(0))

    def test_a_function_of_ones_own_learns_the_weights(self):
        model = classifier(weights=lambda Z, y, w: [3, 1]).fit(X, LABELS)
        np.testing.assert_array_equal(model.weights_, [0.75, 0.25])
        Z = model.level_one(X)
        np.testing.assert_allclose(model.predict_proba(X), 0.75 * Z[:, 0] + 0.25 * Z[:, 1])

    @pytest.mark.parametrize("weights", ["discrete", "nnls", "simplex", "nnloglik", "cc_nloglik", "affine"])
    def test_every_method_predicts_better_than_chance(self, weights):
        assert classifier(weights=weights).fit(X, LABELS).score(X, LABELS) > 0.7


class TestWeightsAndGroups:
    @pytest.mark.parametrize("weights", ["simplex", "affine"])
    def test_a_row_of_weight_two_is_two_rows(self, weights):
        w = RNG.integers(0, 3, 120)
        rows = np.repeat(np.arange(120), w)
        once, often = (
            regressor(weights=weights, cv=PredefinedSplit(numbers % 3)).fit(X[numbers], Y[numbers], sample_weight=given)
            for numbers, given in ((np.arange(120), w), (rows, None))
        )
        np.testing.assert_allclose(once.weights_, often.weights_, atol=1e-9)
        np.testing.assert_allclose(once.predict(X), often.predict(X), rtol=1e-6)

    def test_a_candidate_that_takes_no_weights_is_named_once(self):
        model = SuperLearnerRegressor([("near", KNeighborsRegressor()), ("ridge", Ridge())], cv=3)
        with pytest.warns(UserWarning, match="fit of 'near' takes no sample_weight") as caught:
            model.fit(X, Y, sample_weight=np.ones(120))
        assert len(caught) == 1

    def test_groups_keep_memories_of_a_subject_out(self):
        """A subject's level is noise to others: rows of it must not vouch for a candidate that remembers subjects."""
        rng = np.random.default_rng(3)
        subject = np.repeat(np.arange(30), 10)
        x = np.column_stack([100 * rng.normal(size=30)[subject], rng.normal(size=300)])
        y = 3 * rng.normal(size=30)[subject] + x[:, 1] + 0.1 * rng.normal(size=300)
        candidates = [("line", LinearRegression()), ("memory", KNeighborsRegressor(3))]
        apart = SuperLearnerRegressor(candidates, "simplex", cv=5).fit(x, y, groups=subject)
        straddling = SuperLearnerRegressor(candidates, "simplex", cv=KFold(5, shuffle=True, random_state=0)).fit(x, y)
        assert straddling.weights_[1] > 0.9 and apart.weights_[1] < 0.3
        assert straddling.risks_[1] < 0.2 * apart.risks_[1]

    def test_groups_and_weights_are_routed(self):
        groups, w = np.arange(120) % 6, np.linspace(0.5, 2, 120)
        with sklearn.config_context(enable_metadata_routing=True):
            ridge = Ridge().set_fit_request(sample_weight=True)
            tree = DecisionTreeRegressor(max_depth=2, random_state=0).set_fit_request(sample_weight=False)
            model = SuperLearnerRegressor([("ridge", ridge), ("tree", tree)], cv=GroupKFold(3))
            routed = clone(model).fit(X, Y, sample_weight=w, groups=groups)
            np.testing.assert_allclose(routed.named_estimators_["ridge"].coef_, Ridge().fit(X, Y, w).coef_)
            unweighted = DecisionTreeRegressor(max_depth=2, random_state=0).fit(X, Y)
            np.testing.assert_array_equal(routed.named_estimators_["tree"].predict(X), unweighted.predict(X))
            asks = model.set_fit_request(groups=True, sample_weight=True).set_score_request(sample_weight=True)
            search = GridSearchCV(asks, {"weights": ["simplex"]}, cv=GroupKFold(2))
            search.fit(X, Y, groups=groups, sample_weight=w)
            folds = search.best_estimator_.cross_fit_.folds
            assert all(len(np.unique(folds[groups == group])) == 1 for group in range(6))
            with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
                regressor().fit(X, Y, sample_weight=w)

    def test_a_candidate_may_have_any_name(self):
        with sklearn.config_context(enable_metadata_routing=True):
            model = SuperLearnerRegressor([("splitter", Ridge())], cv=GroupKFold(3))
            folds = model.fit(X, Y, groups=np.arange(120) % 6).cross_fit_.folds
        assert all(len(np.unique(folds[np.arange(120) % 6 == group])) == 1 for group in range(6))

    def test_auto_goes_by_groups(self):
        rng = np.random.default_rng(3)
        y = rng.normal(size=30)
        x = (0.75 * y[:, None] + rng.normal(size=(30, 2))).repeat(40, axis=0)
        candidates = [(f"x{j}", FrozenEstimator(OneColumn(j).fit(x, None))) for j in range(2)]
        rows, whose = PredefinedSplit(np.arange(30).repeat(40) % 5), np.arange(30).repeat(40)
        model = SuperLearnerRegressor(candidates, cv=rows)
        with pytest.warns(UserWarning, match="groups parameter is ignored"):
            apart = clone(model).fit(x, y.repeat(40), groups=whose)
        assert apart.blend_.method == "simplex"
        assert model.fit(x, y.repeat(40)).blend_.method == "affine"

    def test_a_nested_committee_is_passed_the_groups(self):
        groups = np.arange(120) % 6
        with sklearn.config_context(enable_metadata_routing=True):
            inner = regressor(cv=GroupKFold(2)).set_fit_request(groups=True)
            outer = SuperLearnerRegressor([("inner", inner), ("mean", DummyRegressor())], cv=GroupKFold(3))
            folds = outer.fit(X, Y, groups=groups).named_estimators_["inner"].cross_fit_.folds
        assert all(len(np.unique(folds[groups == group])) == 1 for group in range(6))


class OneColumn(RegressorMixin, BaseEstimator):
    """Says what one column says."""

    def __init__(self, column=0):
        self.column = column

    def fit(self, X, y):
        self.fitted_ = True
        return self

    def predict(self, X):
        return X[:, self.column]


class Failing(RegressorMixin, BaseEstimator):
    """Raises where it is given all rows ("late") or fewer ("early")."""

    def __init__(self, when="early"):
        self.when = when

    def fit(self, X, y):
        if (len(X) == len(Y)) == (self.when == "late"):
            raise RuntimeError("out of luck")
        return self

    def predict(self, X):
        return np.zeros(len(X))


class TestBadInput:
    @pytest.mark.parametrize("when", ["early", "late"])
    def test_a_failing_candidate_is_dropped_never_the_whole_fit(self, when):
        model = SuperLearnerRegressor([("ridge", Ridge()), ("bad", Failing(when)), ("mean", DummyRegressor())], cv=3)
        with pytest.warns(UserWarning, match="candidate 'bad' is dropped: RuntimeError: out of luck"):
            model.fit(X, Y)
        without = SuperLearnerRegressor([("ridge", Ridge()), ("mean", DummyRegressor())], cv=3).fit(X, Y)
        assert model.names_ == ("ridge", "mean") and list(model.dropped_) == ["bad"]
        np.testing.assert_array_equal(model.predict(X), without.predict(X))
        np.testing.assert_array_equal(model.cross_fit_.predictions, without.cross_fit_.predictions)

    def test_if_all_candidates_fail_the_error_says_why(self):
        with pytest.raises(ValueError, match=r"(?s)every candidate failed.*bad: RuntimeError: out of luck"):
            SuperLearnerRegressor([("bad", Failing())], cv=3).fit(X, Y)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_target_that_is_not_finite_is_refused(self, bad):
        with pytest.raises(ValueError, match="Input y contains"):
            regressor().fit(X, np.where(np.arange(120) == 3, bad, Y))

    def test_labels_that_are_missing_are_refused(self):
        with pytest.raises(ValueError, match="Input y contains NaN"):
            classifier().fit(X, np.where(np.arange(120) == 3, np.nan, Y > 0))

    def test_one_class_is_refused(self):
        with pytest.raises(ValueError, match=r"one class only, \['a'\]"):
            classifier().fit(X, ["a"] * 120)

    def test_a_continuous_target_is_no_label(self):
        with pytest.raises(ValueError, match="Unknown label type"):
            classifier().fit(X, Y)

    @pytest.mark.parametrize(
        ("options", "given", "message"),
        [
            ({"cv": 200}, {}, "greater than the number of samples"),
            ({"cv": 5}, {"groups": np.arange(120) % 3}, "greater than the number of groups"),
            ({}, {"sample_weight": -np.ones(120)}, "Negative values"),
            ({}, {"sample_weight": np.ones(7)}, "sample_weight"),
            ({"cv": "prefit"}, {}, "FrozenEstimator"),
            ({"weights": "best"}, {}, "auto, discrete, nnls, simplex, affine"),
            ({"weights": lambda Z, y, w: [-1, 2]}, {}, "non-negative"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options, given, message):
        with pytest.raises(ValueError, match=message):
            regressor(**options).fit(X, Y, **given)

    def test_labels_of_two_kinds_are_refused(self):
        with pytest.raises(ValueError, match="y mixes NoneType, str; make all of one kind"):
            classifier().fit(X, np.array([None, "a", "b"] * 40, dtype=object))

    def test_weight_on_rows_that_no_fold_holds_out_is_not_enough(self):
        with pytest.raises(ValueError, match="zero in all rows that a fold holds out"):
            regressor(cv=TimeSeriesSplit(3)).fit(X, Y, sample_weight=(np.arange(120) < 30).astype(float))

    @pytest.mark.parametrize("estimators", [[Ridge()], [("a", Ridge(), 1)], {"a": Ridge()}, None])
    @pytest.mark.parametrize("kind", [SuperLearnerRegressor, SuperLearnerClassifier])
    def test_what_is_no_list_of_pairs_is_refused(self, kind, estimators):
        with pytest.raises(ValueError, match="non-empty list of"):
            kind(estimators).fit(X, Y > 0)

    def test_names_that_hide_parameters_are_refused(self):
        for name in ("cv", "a__b"):
            with pytest.raises(ValueError, match=r"conflict with constructor|must not contain __"):
                SuperLearnerRegressor([(name, Ridge())]).fit(X, Y)

    def test_a_committee_that_was_not_fitted_says_so(self):
        for ask in (regressor().predict, regressor().transform, classifier().predict, classifier().predict_proba):
            with pytest.raises(NotFittedError):
                ask(X)

    def test_fewer_rows_of_a_class_than_folds_are_told(self):
        with pytest.warns(UserWarning, match="least populated class"):
            model = classifier().fit(X, np.where(np.arange(120) < 2, "rare", LABELS))
        assert "rare" in model.classes_


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": None, "processes": False}
    with distributed.LocalCluster(1, **options) as local, distributed.Client(local):
        yield


class TestEngines:
    @pytest.mark.parametrize("engine", ["loky", "threading"])
    def test_every_engine_predicts_the_same_and_reports_failures(self, engine):
        learner = regressor().set_params(estimators=[*regressor().estimators, ("bad", Failing())])
        with joblib.parallel_config(engine, n_jobs=2), pytest.warns(UserWarning, match="'bad' is dropped"):
            learner.fit(X, Y)
        np.testing.assert_array_equal(learner.predict(X), regressor().fit(X, Y).predict(X))

    def test_a_dask_cluster_predicts_the_same(self, cluster):
        with joblib.parallel_config("dask"):
            numbers, labels = regressor().fit(X, Y), classifier().fit(X, LABELS)
        np.testing.assert_array_equal(numbers.predict(X), regressor().fit(X, Y).predict(X))
        np.testing.assert_array_equal(labels.predict_proba(X), classifier().fit(X, LABELS).predict_proba(X))
