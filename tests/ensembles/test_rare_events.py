"""Rare events keep their prevalence and their order in a committee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy import ndarray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from scimeta.ensembles import MixtureOfExpertsClassifier, SuperLearnerClassifier, cv_report

NEW = 40_000
LOGISTIC = [("weak penalty", LogisticRegression(C=10.0)), ("strong penalty", LogisticRegression(C=0.01))]
MIXED = [
    ("prior", DummyClassifier()),
    *LOGISTIC[:1],
    ("Bayes", GaussianNB()),
    ("tree", DecisionTreeClassifier(max_depth=4, random_state=0)),
]


def events(intercept: float, rows: int, seed: int, classes: int = 2) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Return rows to learn from and new ones, their labels by a logistic law; classes beyond 0 are rare."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows + NEW, 3))
    slopes = np.array([[0.0, 0.0, 0.0], [1.2, 0.8, 0.0], [0.0, -0.8, 1.2]])[:classes]
    scores = X @ slopes.T + np.append(0.0, np.full(classes - 1, intercept))
    p = np.exp(scores)
    y = (p.cumsum(1) < rng.random((rows + NEW, 1)) * p.sum(1, keepdims=True)).sum(1)
    return X[:rows], y[:rows], X[rows:], y[rows:]


COMMITTEES = {
    "super learner": SuperLearnerClassifier,
    "mixture of experts": lambda library: MixtureOfExpertsClassifier(library, "linear", random_state=0),
}


@pytest.mark.parametrize(("intercept", "rows"), [(-2.9, 2000), (-5.5, 8000), (-8.0, 20_000)])
@pytest.mark.parametrize("name", COMMITTEES)
def test_prevalence_and_order_are_kept(name, intercept, rows):
    """In the mean of three draws; the tree says 0 of most rows.

    Whom of unlike candidates to trust cannot be learned from 15 events: there the order is asked of like ones only (of
    twelve draws the mixed library loses 0.01 of the area in the mean, where naive Bayes has luck in two).
    """
    for library in (LOGISTIC, MIXED):
        ratios, alone, together = [], [], []
        for seed in range(3):
            X, y, new, truth = events(intercept, rows, seed)
            model = COMMITTEES[name](library).fit(X, y)
            said = model.predict_proba(new)[:, 1]
            alone.append([roc_auc_score(truth, column) for column in model.level_one(new)[..., 1].T])
            ratios.append(said.sum() / (y.mean() * NEW))
            together.append(roc_auc_score(truth, said))
            assert np.mean(said <= said.min() * (1 + 1e-9)) < 0.01
        assert np.mean(ratios) == pytest.approx(1, abs=0.1)
        assert (library is MIXED and intercept == -8.0) or np.mean(together) > np.mean(alone, axis=0).max() - 0.005


@pytest.mark.parametrize("name", COMMITTEES)
def test_rare_classes_of_three_keep_their_prevalence(name):
    X, y, new, truth = events(-6.0, 12_000, 0, classes=3)
    said = COMMITTEES[name](MIXED).fit(X, y).predict_proba(new)
    np.testing.assert_allclose(said.sum(0) / NEW, np.bincount(y) / len(y), rtol=0.1)
    assert said[:, 1:].min() < 1e-4
    assert roc_auc_score(truth == 1, said[:, 1]) > 0.8


@pytest.mark.parametrize("learner", [SuperLearnerClassifier, MixtureOfExpertsClassifier])
def test_a_candidate_alone_is_the_committee(learner: Callable[..., Any]):
    X, y, new, _ = events(-4.0, 2000, 0)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0)
    own = tree.fit(X, y).predict_proba(new)
    lone = SuperLearnerClassifier([("tree", tree)], "cc_nloglik").fit(X, y).predict_proba(new)
    np.testing.assert_allclose(lone, own, atol=1e-15)
    assert (own == 0).any() and ((lone == 0) == (own == 0)).all()
    said = learner([("tree", tree)]).fit(X, y).predict_proba(new)
    assert ((said == 0) == (own == 0)).all()


def test_the_report_does_not_trim():
    X, y, _, _ = events(-8.0, 20_000, 0)
    report = cv_report(SuperLearnerClassifier([("prior", DummyClassifier())], "discrete"), X, y, cv=4)
    quiet = report.losses[y == 0, 0]
    assert (quiet > 0).all() and (quiet < 9e-4).all()
