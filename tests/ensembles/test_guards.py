from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from numpy import ndarray
from scipy.sparse import csr_matrix
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GroupKFold, KFold
from sklearn.naive_bayes import BernoulliNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from scimeta.ensembles.canary import fingerprints, memory, permuted
from scimeta.ensembles.guards import HONEST, diagnose_stack
from scimeta.ensembles.super_learner import SuperLearnerClassifier, SuperLearnerRegressor

CANDIDATES = [("mean", DummyRegressor()), ("ridge", Ridge()), ("neighbour", KNeighborsRegressor(1))]


class InSample:
    """Folds that train on what they hold out."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[ndarray, ndarray]]:
        for _, test in KFold(5).split(X):
            yield np.arange(len(test) * 5), test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        return 5


def unrelated(seed: int) -> tuple[ndarray, ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((200, 10)), rng.standard_normal(200)


def subjects(seed: int, number: int = 40) -> tuple[ndarray, ndarray, ndarray]:
    """Return rows that give their subject away, a target that is the subject's, and the subject."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(number), 10)
    X = rng.standard_normal((number, 5))[who] + 0.1 * rng.standard_normal((10 * number, 5))
    return X, rng.standard_normal(number)[who] + 0.1 * rng.standard_normal(10 * number), who


def test_an_honest_stack_costs_on_noise_what_a_constant_costs():
    risks = []
    for seed in range(3):
        X, y = unrelated(seed)
        found = diagnose_stack(SuperLearnerRegressor(CANDIDATES), X, y, repeats=2, rng=np.random.default_rng(seed))
        assert found.honest, str(found)
        risks.append(found.risks[:2])
    assert ((np.mean(risks, axis=0) > HONEST[0]) & (np.mean(risks, axis=0) < HONEST[1])).all()


def test_a_stack_that_judges_by_rows_it_was_trained_on_is_caught():
    X, y = unrelated(0)
    found = diagnose_stack(StackingRegressor(CANDIDATES[:2], cv=InSample()), X, y, repeats=1)
    assert found.risks[0] > 1.5
    assert "noise: costs" in found.problems[0]
    assert "200 rows are held out by an inner fold that trains on them" in found.problems
    labels = (y > 0).astype(int)
    stack = StackingClassifier([("logistic", LogisticRegression())], cv=InSample())
    assert "noise: costs" in diagnose_stack(stack, X, labels, repeats=1).problems[0]


def test_scikit_learns_own_stack_is_honest():
    X, y = unrelated(1)
    y = y + X[:, 0]
    found = diagnose_stack(StackingRegressor(CANDIDATES[:2], cv=5), X, y)
    assert found.honest, str(found)
    assert np.isnan(found.claimed).all()
    assert found.risks[2] < 0.7


def test_folds_through_subjects_are_caught_and_folds_around_them_are_not():
    X, y, who = subjects(0)
    rows = SuperLearnerRegressor(CANDIDATES, cv=KFold(5, shuffle=True, random_state=0))
    torn = diagnose_stack(rows, X, y, who, repeats=2)
    assert torn.straddling == torn.subjects == 40
    assert torn.risks[0] > 1.3 and torn.claimed[2] < 0.1 < 0.8 < torn.risks[2]
    assert "40 subjects are on both sides of an inner fold" in torn.problems[-1]
    assert any(problem.startswith("own: claims 0.0") for problem in torn.problems)
    for cv in (5, GroupKFold(5)):
        whole = diagnose_stack(SuperLearnerRegressor(CANDIDATES[:2], cv=cv), X, y, who, repeats=2)
        assert whole.straddling == 0
        assert whole.honest, str(whole)


def test_claimed_and_real_risk_agree_where_there_is_something_to_learn():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((300, 3))
    y = X @ [1.0, -1.0, 0.5] + 0.5 * rng.standard_normal(300)
    found = diagnose_stack(SuperLearnerRegressor([("line", LinearRegression())]), X, y)
    share = 0.25 / (2.25 + 0.25)  # of the variance, which is noise
    np.testing.assert_allclose([found.risks[2], found.claimed[2]], share, rtol=0.25)
    assert found.errors[2] < 0.02
    assert found.honest


def test_texts_and_their_copies_are_seen():
    rng = np.random.default_rng(3)
    words = np.array(["good", "bad", "film", "phone", "food", "place", "very", "not"])
    texts = [" ".join(rng.choice(words, 6)) + f" {i}" for i in range(99)]
    texts += texts[:1]
    y = np.array(["praise" if "good" in text else "blame" for text in texts])
    reader = make_pipeline(CountVectorizer(binary=True), BernoulliNB())
    found = diagnose_stack(SuperLearnerClassifier([("Bayes", reader)]), texts, y, repeats=1)
    assert (found.straddling, found.subjects) == (2, 100)
    assert "rows of the same X on both sides of a fold: 2 of 100" in str(found)
    assert found.notes == ("2 of 100 rows have a copy on the other side of an inner fold; chance may make as many",)
    assert found.risks[2] < 0.8
    assert found.honest, str(found)


@pytest.mark.parametrize(
    "form", [np.asarray, csr_matrix, pd.DataFrame, lambda X: pd.DataFrame(X, columns=[*"abc"]).assign(kind="a")]
)
def test_the_canary_knows_by_heart_any_rows_it_saw(form):
    X = np.random.default_rng(4).standard_normal((30, 3))
    y = np.arange(30.0)
    np.testing.assert_array_equal(memory(False).fit(form(X), y).predict(form(X)), y)
    assert len(set(fingerprints(form(np.vstack([X, X[:2]]))))) == 30


def test_the_canary_knows_texts_by_heart():
    texts, y = [f"sentence {i}" for i in range(20)], np.arange(20) % 3
    np.testing.assert_array_equal(memory(True).fit(texts, y).predict(texts), y)


def test_a_permuted_target_keeps_its_values_and_its_subjects_together():
    who = np.tile(np.arange(10), 5)
    y = who + 0.01 * np.repeat(np.arange(5), 10)
    dealt = permuted(y, who, np.random.default_rng(5))
    np.testing.assert_array_equal(np.sort(dealt), np.sort(y))
    assert all(len(set(dealt[who == k].astype(int))) == 1 for k in range(10))
    assert (dealt.astype(int) != who).any()


def test_it_tabulates_and_plots():
    X, y = unrelated(6)
    found = diagnose_stack(SuperLearnerRegressor(CANDIDATES[:1]), X, y, repeats=1)
    assert list(found.to_frame().index) == ["noise", "permuted", "own"]
    assert "nothing found by these checks: the stack on noise" in str(found)
    assert "not to be seen from here: columns made with y or chosen by it, order in time" in str(found)
    assert "no leak" not in str(found)
    ax = found.plot()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["noise", "permuted", "own"]
    matplotlib.pyplot.close(ax.figure)


def test_copies_across_folds_are_a_problem_and_the_risk_is_that_on_rows_without():
    """Half of the rows are copies of the other half, and nothing can be known of y."""
    rng = np.random.default_rng(1)
    X, y, mix = rng.standard_normal((150, 4)), rng.standard_normal(150), rng.permutation(300)
    stack = SuperLearnerRegressor(CANDIDATES, cv=KFold(5, shuffle=True, random_state=0))
    X2, y2 = np.vstack([X, X])[mix], np.append(y, y)[mix]
    found = diagnose_stack(stack, X2, y2, repeats=1)
    assert found.copies == found.straddling > 200 and found.subjects == 300
    assert f"{found.copies} of 300 rows have a copy, target and all" in found.problems[-1]
    assert found.claimed[2] < 0.5
    new = rng.standard_normal((2000, 4)), rng.standard_normal(2000)
    real = np.mean((stack.fit(X2, y2).predict(new[0]) - new[1]) ** 2)
    np.testing.assert_allclose(found.risks[2], real, rtol=0.15)
    together = np.tile(np.arange(150), 2)[mix]
    whole = diagnose_stack(SuperLearnerRegressor(CANDIDATES), X2, y2, together, repeats=2)
    assert whole.honest and whole.copies == 0, str(whole)


def test_copies_under_the_names_of_other_subjects_are_a_problem():
    X, y, who = subjects(0)
    X, y, who = np.vstack([X, X]), np.append(y, y), np.append(who, 1000 + who)
    mixed = np.random.default_rng(0).permutation(1079)[who]
    found = diagnose_stack(SuperLearnerRegressor(CANDIDATES[:2]), X, y, mixed, repeats=1)
    assert found.straddling == 0 < found.copies
    assert "rows have a copy, target and all" in found.problems[-1]


def test_a_coarse_table_repeats_itself_and_that_is_no_problem():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.choice(list("abc"), 300) for name in ("colour", "shape", "size")})
    y = (table.colour == "a").to_numpy() ^ (rng.random(300) < 0.2)
    encode = make_pipeline(OneHotEncoder(), LogisticRegression())
    found = diagnose_stack(SuperLearnerClassifier([("logistic", encode)]), table, y, repeats=2)
    assert found.copies > 250
    assert found.honest, str(found)
    assert "chance may make as many" in found.notes[0]


def test_the_same_rows_with_other_targets_are_noted():
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((50, 3)), 3, axis=0)
    cv = KFold(5, shuffle=True, random_state=0)
    found = diagnose_stack(SuperLearnerRegressor(CANDIDATES[:2], cv=cv), X, rng.standard_normal(150), repeats=1)
    assert found.copies == 0 < found.straddling
    assert f"{found.straddling} of 150 rows have the X of one on the other side, with another target" in found.notes[0]
    assert not any("copy" in problem for problem in found.problems)


def test_a_candidate_that_was_fitted_before_is_named():
    X, y = unrelated(0)
    frozen = make_pipeline(FrozenEstimator(Ridge().fit(X[:20], y[:20])))
    found = diagnose_stack(SuperLearnerRegressor([*CANDIDATES[:2], ("frozen", frozen)]), X, y, repeats=1)
    assert found.notes == ("candidate 'frozen' was fitted before; whether on these rows cannot be seen from here",)


def test_a_column_is_a_target_and_a_constant_is_none():
    X, y = unrelated(8)
    stack = SuperLearnerRegressor(CANDIDATES[:1])
    column, row = (diagnose_stack(stack, X, target, repeats=1).risks for target in (y[:, None], y))
    np.testing.assert_array_equal(column, row)
    with pytest.raises(ValueError, match=r"y is 1.0 in all rows"):
        diagnose_stack(stack, X, np.ones(200))


def test_what_is_no_stack_is_refused():
    X, y = unrelated(7)
    with pytest.raises(TypeError, match="parameters estimators and cv"):
        diagnose_stack(Ridge(), X, y)
    with pytest.raises(TypeError, match="Of fitted candidates nobody knows"):
        diagnose_stack(StackingRegressor(CANDIDATES, cv="prefit"), X, y)
    with pytest.raises(TypeError, match="no predict_proba"):
        stack = StackingClassifier([("ridge", RidgeClassifier())], final_estimator=RidgeClassifier())
        diagnose_stack(stack, X, y > 0)
    with pytest.raises(ValueError, match=r"folds=5 and repeats=3 for 2 subjects"):
        diagnose_stack(SuperLearnerRegressor(CANDIDATES), X, y, np.arange(200) % 2)
