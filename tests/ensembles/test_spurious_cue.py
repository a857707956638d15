"""The tale of the punctuation model, on real sentences, with two readers that are quick to train."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy import ndarray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from scimeta import datasets
from scimeta.ensembles.alarm import agreement_alarm
from scimeta.ensembles.blend import Blend, learn_blend
from scimeta.ensembles.candidates import fit_candidates, predict_candidates
from scimeta.ensembles.cross_fit import cross_fit
from scimeta.ensembles.robust import RobustBlend, environment_dro, group_dro
from scimeta.ensembles.stability import slope_stability

SENTENCES = pd.read_csv(datasets.path("sentences"))
LABEL, SOURCE = SENTENCES["label"].to_numpy(), SENTENCES["source"].to_numpy()
RHO = {"S1": (0.95, 0.95, 0.95), "S2": (0.99, 0.95, 0.70)}
NAMES = ["words", "Bayes", "punctuation"]


class Run(NamedTuple):
    level_one: ndarray  # (2100, 3, 2)
    by_source: ndarray  # (2100, 3, 2), out of source
    label: ndarray
    source: ndarray
    cue: ndarray
    tests: dict[str, ndarray]  # (900, 3, 2)
    truth: ndarray

    def accuracy(self, blend: Blend | RobustBlend, name: str, which: ndarray | slice = slice(None)) -> float:
        return (blend(self.tests[name][:, which]).argmax(1) == self.truth).mean()


def inject(rho: ndarray | float, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    cue = np.where(rng.random(len(LABEL)) < rho, LABEL, 1 - LABEL)
    bare = [re.sub(r"[!.\s]+$", "", sentence.replace("!", "")) for sentence in SENTENCES["text"]]
    return np.array([words + (" !!" if mark else " .") for words, mark in zip(bare, cue, strict=True)], object), cue


def punctuation_counts(texts: ndarray) -> ndarray:
    return np.array([[sentence.count(mark) for mark in "!.?,"] for sentence in texts], float)


@pytest.fixture(scope="module", params=["S1", "S2"])
def told(request: pytest.FixtureRequest) -> tuple[str, Run]:
    rho = pd.Series(SOURCE).map(dict(zip(("amazon", "imdb", "yelp"), RHO[request.param], strict=True))).to_numpy()
    texts, cue = inject(rho, np.random.default_rng(0))
    strata = np.char.add(SOURCE.astype(str), LABEL.astype(str))
    rows, held = train_test_split(np.arange(len(LABEL)), test_size=0.3, random_state=0, stratify=strata)
    candidates = [
        ("words", make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10))),
        ("Bayes", make_pipeline(TfidfVectorizer(), MultinomialNB(alpha=0.3))),
        ("punctuation", make_pipeline(FunctionTransformer(punctuation_counts), LogisticRegression())),
    ]
    data = candidates, texts[rows], LABEL[rows]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    crossed = cross_fit(*data, cv=folds, method="predict_proba")
    by_source = cross_fit(*data, cv=LeaveOneGroupOut(), groups=SOURCE[rows], method="predict_proba")
    fitted, _ = fit_candidates(*data)
    classes, deployed = np.array([0, 1]), inject(0.05, np.random.default_rng(1))[0]
    tests = {
        name: predict_candidates(fitted, new[held], method="predict_proba", classes=classes)
        for name, new in (("as trained", texts), ("shifted", deployed))
    }
    return request.param, Run(
        crossed.predictions, by_source.predictions, LABEL[rows], SOURCE[rows], cue[rows], tests, LABEL[held]
    )


def test_a_naive_stack_is_fooled(told):
    setting, run = told
    naive = learn_blend(run.level_one, run.label, "nnloglik")
    assert run.accuracy(naive, "as trained") > (0.94 if setting == "S1" else 0.9)
    assert run.accuracy(naive, "shifted") < (0.45 if setting == "S1" else 0.65)


def test_a_declared_attribute_saves_it(told):
    _, run = told
    robust = group_dro(run.level_one, run.label, run.cue, NAMES)
    assert robust.blend.weights[2] < 0.1 * robust.blend.weights.sum()
    assert min(run.accuracy(robust, name) for name in run.tests) > 0.81


def test_an_uneven_cue_is_flagged_and_an_even_one_cannot_be(told):
    setting, run = told
    found = slope_stability(run.level_one, run.label, run.source, NAMES)
    np.testing.assert_array_equal(found.flagged, [False, False, setting == "S2"])
    stable = ~found.flagged
    accuracy = run.accuracy(learn_blend(run.level_one[:, stable], run.label, "nnloglik"), "shifted", stable)
    assert accuracy > 0.81 if setting == "S2" else accuracy < 0.45


def test_the_worst_source_helps_part_of_the_way_where_sources_differ(told):
    setting, run = told
    naive = run.accuracy(learn_blend(run.level_one, run.label, "nnloglik"), "shifted")
    robust = run.accuracy(environment_dro(run.level_one, run.label, run.source), "shifted")
    assert naive + 0.1 < robust < 0.8 if setting == "S2" else robust < 0.45


@pytest.mark.parametrize("told", ["S1"], indirect=True)
def test_leaving_a_source_out_alone_makes_an_even_cue_worse(told):
    _, run = told
    rows, sources = (learn_blend(Z, run.label, "nnloglik") for Z in (run.level_one, run.by_source))
    assert run.accuracy(sources, "shifted") < run.accuracy(rows, "shifted") - 0.03


def test_the_alarm_rings_under_shift_and_only_there(told):
    _, run = told
    calm, rung = (agreement_alarm(run.level_one, run.tests[name], NAMES) for name in ("as trained", "shifted"))
    assert abs(calm.z) < 2 and not calm.rings
    assert rung.z < -20 and rung.suspect == "punctuation"
