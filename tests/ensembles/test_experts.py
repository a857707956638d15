"""Mixtures of experts: scikit-learn's contract, regions found, fixed weights kept, frozen experts, bad input."""

from __future__ import annotations

import pickle

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, TimeSeriesSplit
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from scimeta.ensembles import gated
from scimeta.ensembles.experts import MixtureOfExpertsClassifier, MixtureOfExpertsRegressor
from scimeta.ensembles.gate_choice import choose_gate
from scimeta.ensembles.report import cv_report
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor
from scimeta.ensembles.weights import simplex_weights

SHUFFLED = KFold(5, shuffle=True, random_state=0)


def second(X: np.ndarray) -> np.ndarray:
    return X[:, 1:2]


def two_pieces(X: np.ndarray) -> np.ndarray:
    return np.where(X[:, 0] < 0, X @ np.linspace(2, 0.5, 12), 3 * np.sin(6 * X[:, 1]))


def regional(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list]:
    """Return rows of two regions, and an expert for each that is fitted on other rows of it."""
    rng = np.random.default_rng(seed)
    X, other = rng.uniform(-1, 1, (n, 12)), rng.uniform(-1, 1, (600, 12))
    y, known = (two_pieces(rows) + 0.3 * rng.standard_normal(len(rows)) for rows in (X, other))
    left = other[:, 0] < 0
    ridge = Ridge().fit(other[left], known[left])
    neighbours = make_pipeline(FunctionTransformer(second), KNeighborsRegressor(8)).fit(other[~left], known[~left])
    return X, y, [("ridge", ridge), ("neighbours", neighbours)]


X, Y, EXPERTS = regional()
NEW = np.random.default_rng(1).uniform(-1, 1, (2000, 12))
LABELS = np.array(["low", "high"])[(Y > 0).astype(int)]


class Theory(RegressorMixin, BaseEstimator):
    """A power law of the friction factor, log10 of it as a function of log10 Re; remembers what it was asked."""

    def __init__(self, factor: float = 64.0, power: float = -1.0) -> None:
        self.factor = factor
        self.power = power

    def fit(self, X: np.ndarray, y: np.ndarray) -> Theory:
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        self.asked_ = X
        return np.log10(self.factor) + self.power * X[:, 0]


THEORIES = [("laminar", Theory()), ("turbulent", Theory(0.316, -0.25))]


def friction(log_re: np.ndarray) -> np.ndarray:
    re = 10 ** log_re[:, 0]
    turbulent = 1 / (1 + np.exp(-(re - 3000) / 250))
    return np.log10((1 - turbulent) * 64 / re + turbulent * 0.316 * re**-0.25)


def pipe(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(2.5, 5.5, (200, 1))
    return X, friction(X) + 0.02 * rng.standard_normal(200)


def frozen(gate: str = "linear", **options) -> MixtureOfExpertsRegressor:
    return MixtureOfExpertsRegressor(EXPERTS, gate, cv="prefit", random_state=0, **options)


def regressor(**options) -> MixtureOfExpertsRegressor:
    tree = DecisionTreeRegressor(max_depth=3, random_state=0)
    options = {"gate": "linear", "cv": 3, "random_state": 0, **options}
    return MixtureOfExpertsRegressor([("ridge", Ridge()), ("tree", tree)], **options)


def classifier(**options) -> MixtureOfExpertsClassifier:
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    options = {"gate": "linear", "cv": 3, "random_state": 0, **options}
    return MixtureOfExpertsClassifier([("logistic", LogisticRegression()), ("tree", tree)], **options)


def over_fixed(model: MixtureOfExpertsRegressor, new: np.ndarray, truth: np.ndarray) -> float:
    """Return the error over that of the convex weights that are best on the new rows."""
    Z = model.level_one(new)
    best = ((Z @ simplex_weights(Z, truth) - truth) ** 2).mean()
    return ((model.predict(new) - truth) ** 2).mean() / best


@pytest.mark.filterwarnings("ignore::UserWarning")  # some checks make experts fail on purpose
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # array API input, if SciPy's is off
@parametrize_with_checks([regressor(cv=2), classifier(cv=2)])
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("seed", range(3))
def test_regional_experts_lose_two_thirds_of_the_error_of_fixed_weights(seed):
    rows, y, experts = regional(300, seed)
    model = MixtureOfExpertsRegressor(experts, "linear", cv="prefit", random_state=seed).fit(rows, y)
    assert over_fixed(model, NEW, two_pieces(NEW)) <= 0.33


def test_a_thousand_rows_teach_the_regions_better():
    rows, y, experts = regional(1000)
    model = MixtureOfExpertsRegressor(experts, "linear", cv="prefit", random_state=0).fit(rows, y)
    assert over_fixed(model, NEW, two_pieces(NEW)) <= 0.15


def test_experts_trained_on_all_rows_gain_too():
    model = MixtureOfExpertsRegressor(clone_all(EXPERTS), "linear", cv=SHUFFLED).fit(X, Y)
    assert over_fixed(model, NEW, two_pieces(NEW)) <= 0.82


def test_friction_theories_are_trusted_in_their_regimes():
    model = MixtureOfExpertsRegressor(THEORIES, cv=SHUFFLED, random_state=0).fit(*pipe())
    new = np.random.default_rng(1).uniform(2.5, 5.5, (2000, 1))
    assert over_fixed(model, new, friction(new)) <= 0.002
    assert model.weights([[3.0], [4.0]]) == pytest.approx(np.eye(2), abs=0.05)


def test_where_experts_have_no_regions_it_is_the_super_learner():
    table, y = load_diabetes(return_X_y=True)
    experts = [("ridge", Ridge(1e-3)), ("neighbours", KNeighborsRegressor(15)), ("mean", DummyRegressor())]
    gated = MixtureOfExpertsRegressor(experts, "linear", cv=SHUFFLED).fit(table, y)
    assert gated.gate_.kind == "fixed"
    assert gated.predict(table) == pytest.approx(
        SuperLearnerRegressor(experts, "simplex", cv=SHUFFLED).fit(table, y).predict(table)
    )


def test_classifier_without_gate_is_the_super_learner():
    ours = classifier(gate="fixed", cv=SHUFFLED).fit(X, LABELS)
    theirs = SuperLearnerClassifier(ours.estimators, cv=SHUFFLED).fit(X, LABELS)
    assert theirs.blend_.method == "cc_nloglik"
    assert ours.predict_proba(NEW) == pytest.approx(theirs.predict_proba(NEW))


def test_classifier_trusts_every_expert_where_it_knows():
    rng = np.random.default_rng(0)
    rows, other = rng.uniform(-1, 1, (300, 2)), rng.uniform(-1, 1, (600, 2))

    def labels(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, 0] < 0, x[:, 1] > 0, x[:, 1] < 0)

    left = other[:, 0] < 0
    experts = [("left", LogisticRegression().fit(other[left], labels(other[left])))]
    experts += [("right", LogisticRegression().fit(other[~left], labels(other[~left])))]
    model = MixtureOfExpertsClassifier(experts, "linear", cv="prefit", random_state=0).fit(rows, labels(rows))
    assert model.score(other, labels(other)) > 0.95
    fixed = MixtureOfExpertsClassifier(experts, "fixed", cv="prefit", random_state=0).fit(rows, labels(rows))
    assert fixed.score(other, labels(other)) < 0.8
    assert model.predict_proba(other).sum(axis=1) == pytest.approx(1)


def test_frozen_experts_stay_as_they_are_and_are_asked_as_they_are():
    before = [expert.predict(NEW) for _, expert in EXPERTS]
    model = frozen().fit(X, Y)
    assert all(ours is given for ours, (_, given) in zip(model.estimators_, EXPERTS, strict=True))
    assert (model.level_one(NEW) == np.stack(before, axis=1)).all()
    wrapped = [(name, FrozenEstimator(expert)) for name, expert in EXPERTS]
    same = MixtureOfExpertsRegressor(wrapped, "linear", cv=SHUFFLED).fit(X, Y)
    assert (same.cross_fit_.predictions == model.cross_fit_.predictions).all()


def test_under_top_k_an_expert_is_asked_about_its_own_rows_only():
    model = MixtureOfExpertsRegressor(THEORIES, "linear", top_k=1, cv="prefit", random_state=0).fit(*pipe())
    new = np.linspace(2.5, 5.5, 100)[:, None]
    weights = model.weights(new)
    assert set(np.unique(weights)) == {0.0, 1.0}
    said = model.predict(new)
    for j, theory in enumerate(model.estimators_):
        assert (theory.asked_ == new[weights[:, j] == 1]).all()
        assert (said[weights[:, j] == 1] == theory.predict(theory.asked_)).all()


def test_gate_reads_texts_through_a_transformer():
    texts = ["cold metal creeps", "hot metal flows", "cold glass breaks", "hot glass runs"] * 10
    labels = np.array(["solid", "liquid", "solid", "liquid"] * 10)
    experts = [("bayes", make_pipeline(CountVectorizer(), MultinomialNB()))]
    model = MixtureOfExpertsClassifier(experts, "linear", features=CountVectorizer(), cv=2)
    assert model.fit(texts, labels).predict(["hot steel"]) == ["liquid"]
    assert not hasattr(model.features, "vocabulary_")
    frame = pd.DataFrame({"words": texts})
    with pytest.raises(ValueError, match="give features= a transformer"):
        clone(model).set_params(features=None).fit(frame, labels)


def test_columns_of_a_frame_keep_their_names():
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(12)])
    model = regressor(cv=SHUFFLED).fit(frame, Y)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert model.predict(frame) == pytest.approx(regressor(cv=SHUFFLED).fit(X, Y).predict(X))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])


def test_it_works_inside_a_pipeline_and_a_grid_search():
    wrapped = [(name, FrozenEstimator(expert)) for name, expert in EXPERTS]
    model = make_pipeline(FunctionTransformer(), MixtureOfExpertsRegressor(wrapped, cv=SHUFFLED, random_state=0))
    name = "mixtureofexpertsregressor"
    search = GridSearchCV(model, {f"{name}__gate": ["fixed", "linear"]}, cv=2).fit(X, Y)
    assert search.best_params_ == {f"{name}__gate": "linear"}
    assert regressor().set_params(ridge__alpha=7.0, features=StandardScaler()).get_params()["ridge__alpha"] == 7.0


def test_clone_keeps_all_parameters_and_pickle_all_predictions():
    model = frozen(top_k=2, balance=0.1, margin=1.0, hidden=4)
    given, cloned = (one.get_params(deep=False) for one in (model, clone(model)))
    assert [name for name in given if given[name] != cloned[name]] == ["estimators"]
    model.fit(X, Y)
    assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()


def test_random_state_decides_all_that_is_random_and_workers_nothing():
    one, same = (frozen("network", hidden=2).fit(X[:60], Y[:60]).weights(X) for _ in range(2))
    other = frozen("network", hidden=2).set_params(random_state=3).fit(X[:60], Y[:60]).weights(X)
    assert (one == same).all() and not np.allclose(one, other)
    with joblib.parallel_config("threading"):
        parallel = regressor(n_jobs=2).fit(X, Y)
    assert (parallel.predict(X) == regressor().fit(X, Y).predict(X)).all()


def test_sample_weight_moves_the_gate_to_the_rows_that_count():
    left = X[:, 0] < 0
    model = frozen("fixed").fit(X, Y, sample_weight=np.where(left, 1.0, 0.0))
    assert model.weights_ == pytest.approx([1, 0], abs=0.05)
    with pytest.raises(ValueError, match="Negative values"):
        frozen().fit(X, Y, sample_weight=-np.ones(len(Y)))


def test_groups_stay_together_in_the_folds_that_judge_the_gate():
    groups = np.arange(300) // 3
    for model in (frozen(), regressor(cv=GroupKFold(5))):
        folds = model.fit(X, Y, groups=groups).cross_fit_.folds
        assert all(len(np.unique(folds[groups == g])) == 1 for g in range(100))


def test_groups_stay_together_where_one_fold_leaves_the_gate_to_be_judged():
    groups, asked = np.arange(300) // 3, []
    cv = [(np.arange(60), np.arange(60, 300))]
    wrapped = [(name, FrozenEstimator(expert)) for name, expert in EXPERTS]
    model = MixtureOfExpertsRegressor(wrapped, "linear", cv=cv, random_state=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gated, "choose_gate", lambda *given, **options: asked.append(given) or choose_gate(*given))
        model.fit(X, Y, groups=groups)
    ((level, folds, *_),) = asked
    assert len(np.unique(folds)) == 5 and (level.groups == groups[60:]).all()
    assert all(len(np.unique(folds[level.groups == g])) == 1 for g in range(20, 100))


def test_frozen_experts_are_routed_like_others():
    with sklearn.config_context(enable_metadata_routing=True):
        model = make_pipeline(StandardScaler(), frozen("fixed").set_fit_request(groups=True))
        folds = model.fit(X, Y, groups=np.arange(300) // 3)[-1].cross_fit_.folds
    assert all(len(np.unique(folds[np.arange(300) // 3 == g])) == 1 for g in range(100))


@pytest.mark.parametrize("cv", [TimeSeriesSplit(4), [(np.arange(60), np.arange(60, 300))]], ids=["time", "one fold"])
def test_rows_that_no_fold_holds_out_teach_nothing(cv):
    wrapped = [(name, FrozenEstimator(expert)) for name, expert in EXPERTS]
    changed = np.where(np.arange(300) < 60, 100.0, Y)
    one, same = (MixtureOfExpertsRegressor(wrapped, "linear", cv=cv, random_state=0).fit(X, y) for y in (Y, changed))
    assert (one.cross_fit_.folds[:60] == -1).all() and (one.cross_fit_.folds[60:] >= 0).all()
    assert one.gate_.kind == "linear"
    assert (one.weights(X) == same.weights(X)).all()


def test_expert_that_fails_is_dropped_by_name():
    experts = [*EXPERTS, ("unfit", LinearRegression().fit(X[:, :3], Y))]
    with pytest.warns(UserWarning, match="'unfit' is dropped"):
        model = MixtureOfExpertsRegressor(experts, "linear", cv="prefit").fit(X, Y)
    assert model.names_ == ("ridge", "neighbours") and list(model.dropped_) == ["unfit"]


def test_frozen_experts_must_be_fitted():
    with pytest.raises(NotFittedError):
        MixtureOfExpertsRegressor([("ridge", Ridge())], cv="prefit").fit(X, Y)
    with pytest.raises(ValueError, match="every candidate failed"):
        MixtureOfExpertsRegressor([("ridge", Ridge().fit(X[:, :2], Y))], cv="prefit").fit(X, Y)
    with pytest.raises(ValueError, match=r"ridge: has no predict_proba"):
        MixtureOfExpertsClassifier([("ridge", Ridge().fit(X, Y))], cv="prefit").fit(X, LABELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "soft"}, "gate should be one of auto, linear, network, fixed; got 'soft'"),
        ({"top_k": 0}, "top_k should be a whole number, 1 or more"),
        ({"top_k": 1.5}, "top_k should be a whole number, 1 or more"),
        ({"hidden": 0}, "hidden should be a whole number"),
        ({"balance": -1.0}, "balance should be a number, 0 or more"),
        ({"margin": np.nan}, "margin should be a number"),
        ({"margin": None}, "margin should be a number"),
        ({"gate": ["linear"]}, "gate should be one of"),
        ({"top_k": True}, "top_k should be a whole number"),
        ({"balance": "a"}, "balance should be a number"),
        ({"cv": "frozen"}, "cv should be a number"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        regressor(**options).fit(X, Y)


def test_nan_in_the_target_and_one_class_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        frozen().fit(X, np.where(np.arange(300) == 3, np.nan, Y))
    with pytest.raises(ValueError, match="one class only"):
        classifier().fit(X, np.ones(300))


def test_weights_along_a_feature_cross_where_the_regions_meet():
    model = frozen().fit(X, Y)
    grid, weights = model.weights_along(X, 0, points=41)
    mean = weights.mean(axis=1)  # (points, experts)
    assert weights.shape == (41, 200, 2) and weights.sum(axis=2) == pytest.approx(1)
    assert abs(np.interp(0.5, mean[:, 1], grid)) < 0.1
    assert mean[0, 0] > 0.95 and mean[-1, 1] > 0.95


def test_plot_draws_a_line_an_expert():
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(12)])
    model = frozen("fixed", features=FunctionTransformer()).fit(X, Y)
    axes = model.plot(X, 0)
    assert [line.get_label() for line in axes.get_lines()] == ["ridge", "neighbours"]
    assert axes.get_xlabel() == "feature 0"
    assert model.weights_along(csr_matrix(X), 0)[1] == pytest.approx(model.weights_along(X, 0)[1])
    named = regressor().fit(frame, Y)
    assert named.plot(frame, "x3", ax=axes) is axes and axes.get_xlabel() == "x3"
    plt.close(axes.figure)
    with pytest.raises(ValueError, match="feature should be one of x0, x1"):
        named.weights_along(frame, "x99")
    with pytest.raises(ValueError, match="feature 'x3' holds no numbers"):
        named.weights_along(frame.assign(x3="a"), "x3")


def test_frame_and_nested_report_name_experts_and_risks():
    model = regressor().fit(X, Y)
    frame = model.to_frame()
    assert list(frame.columns) == ["fixed_weight", "mean_weight", "risk"] and list(frame.index) == ["ridge", "tree"]
    assert frame[["fixed_weight", "mean_weight"]].sum().to_numpy() == pytest.approx(1)
    report = cv_report(regressor(), X, Y, cv=2).to_frame()
    assert list(report.index) == ["MixtureOfExpertsRegressor", "discrete", "ridge", "tree"]


def clone_all(experts: list) -> list:
    return [(name, clone(expert)) for name, expert in experts]
