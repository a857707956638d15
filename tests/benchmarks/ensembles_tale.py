"""The tale of the punctuation model: what a spurious cue does to a stack, and what helps.

Real sentences (``scimeta.datasets.sentences``), 70 % of them to learn from. A mark at the end, "!!" or ".", agrees with
the label with a probability rho of each source; the test sentences have it as trained ("in distribution"), against the
label ("shifted", rho .05) or at random ("neutral", .5). Candidates: words, characters and naive Bayes, which read
letters only, and a count of punctuation marks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ensembles_problems import SMOKE, Asked, mean_error, plus_minus
from numpy import ndarray
from sklearn.base import ClassifierMixin
from sklearn.ensemble import StackingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from tqdm import tqdm

from scimeta import datasets
from scimeta.ensembles.alarm import AgreementAlarm, agreement_alarm
from scimeta.ensembles.blend import learn_blend
from scimeta.ensembles.cross_fit import cross_fit
from scimeta.ensembles.robust import environment_dro, group_dro
from scimeta.ensembles.stability import SlopeStability, slope_stability
from scimeta.ensembles.super_learner import SuperLearnerClassifier

NAMES = ["words", "characters", "Bayes", "punctuation"]
TEXT = slice(0, 3)  # those that read
RHO = {  # setting -> share of sentences whose cue agrees with the label, of amazon, imdb, yelp
    "S1": (0.95, 0.95, 0.95),
    "S2": (0.99, 0.95, 0.70),
    "S3": (0.98, 0.90, 0.40),
}
DEPLOYED = {"shifted": 0.05, "neutral": 0.5}
WHERE = ("in distribution", *DEPLOYED)
FOLDS = 3 if SMOKE else 5
EVERY = 5 if SMOKE else 1  # of which one sentence is taken
NAIVE, SKLEARN = "naive stack: ours, auto", "naive stack: scikit-learn's"
DECLARED, DROPPED = "group DRO, cue declared", "unstable model dropped"
ASKED = {  # in distribution, shifted
    ("S1", NAIVE): ("was .963", "was .269"),
    ("S1", DECLARED): (">= .84", ">= .82"),
    ("S2", DROPPED): (">= .847", ">= .847"),
}

Blend = Callable[[ndarray], ndarray]


class Run(NamedTuple):
    """What one seed's candidates said out of fold, and of the test sentences under each cue."""

    Z: ndarray  # (rows, candidates, classes)
    folds: ndarray  # (rows,)
    by_source: ndarray  # (rows, candidates, classes), one source held out at a time
    label: ndarray  # (rows,)
    source: ndarray  # (rows,)
    cue: ndarray  # (rows,)
    tests: dict[str, ndarray]  # (test rows, candidates, classes)
    truth: ndarray  # (test rows,)
    stability: SlopeStability
    alarms: dict[str, AgreementAlarm]


def main(seeds: range) -> list[Asked]:
    """Print accuracies, detector and alarm in all three settings; return what was asked."""
    lines = []
    for setting in RHO:
        numbers = tqdm(seeds, desc=setting, delay=2, disable=None, leave=False)
        runs = [run(setting, seed, outright=(setting, seed) == ("S1", seeds.start)) for seed in numbers]
        found = accuracies(runs)
        print_accuracies(setting, found, len(runs))
        lines += asked_accuracies(setting, found) + detector(setting, runs) + alarm(setting, runs)
    return lines


def run(setting: str, seed: int, outright: bool) -> Run:
    """Return a committee's training and tests; ``outright`` fits scikit-learn's own stack beside it, to compare."""
    data = {name: np.array(column)[::EVERY] for name, column in datasets.sentences().items()}
    label, source = data["label"], data["source"]
    rho = np.array([dict(zip(("amazon", "imdb", "yelp"), RHO[setting], strict=True))[place] for place in source])
    seen, cue = inject(data["text"], label, rho, np.random.default_rng(seed))
    strata = np.char.add(source.astype(str), label.astype(str))
    rows, held = train_test_split(np.arange(len(label)), test_size=0.3, random_state=seed, stratify=strata)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = SuperLearnerClassifier(candidates(), cv=folds)
    began = time.process_time()
    model.fit(seen[rows], label[rows])
    spent = time.process_time() - began
    tests = {"in distribution": model.level_one(seen[held])}
    for number, (name, rate) in enumerate(DEPLOYED.items()):
        deployed, _ = inject(data["text"], label, rate, np.random.default_rng([seed, number]))
        tests[name] = model.level_one(deployed[held])
    Z, among = model.cross_fit_.predictions, source[rows]
    if outright:
        print_outright(StackingClassifier(candidates(), cv=folds), seen[rows], label[rows], seen[held], Z, tests, spent)
    options = {"cv": LeaveOneGroupOut(), "groups": among, "method": "predict_proba"}
    by_source = cross_fit(candidates(), seen[rows], label[rows], **options).predictions
    stability = slope_stability(Z, label[rows], among, NAMES)
    alarms = {name: agreement_alarm(Z, said, NAMES) for name, said in tests.items()}
    of = model.cross_fit_.folds, by_source, label[rows], among, cue[rows], tests, label[held]
    return Run(Z, *of, stability, alarms)


def inject(text: ndarray, label: ndarray, rho: ndarray | float, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Return the sentences with a mark at their end, and the cue (n,): 1 for "!!"."""
    cue = np.where(rng.random(len(label)) < rho, label, 1 - label)
    bare = [re.sub(r"[!.\s]+$", "", sentence.replace("!", "")) for sentence in text]
    return np.array([words + (" !!" if mark else " .") for words, mark in zip(bare, cue, strict=True)], object), cue


def letters(sentence: str) -> str:
    return re.sub(r"[^a-z0-9' ]", " ", sentence.lower())


def marks(texts: ndarray) -> ndarray:
    return np.array([[sentence.count(mark) for mark in "!.?,;:'\"-"] for sentence in texts], float)


def candidates() -> list[tuple[str, ClassifierMixin]]:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, preprocessor=letters)
    models = [
        make_pipeline(words, LogisticRegression(C=10)),
        make_pipeline(parts, LogisticRegression(C=10)),
        make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), MultinomialNB(alpha=0.3)),
        make_pipeline(FunctionTransformer(marks), StandardScaler(), LogisticRegression()),
    ]
    return list(zip(NAMES, models, strict=True))


def meta_logistic(Z: ndarray, label: ndarray) -> Blend:
    """Return what scikit-learn's StackingClassifier learns by default: a logistic regression on P(second class)."""
    learned = LogisticRegression().fit(Z[..., 1], label)
    return lambda new: learned.predict_proba(new[..., 1])


def print_outright(
    rival: StackingClassifier,
    seen: ndarray,
    label: ndarray,
    new: ndarray,
    Z: ndarray,
    tests: dict[str, ndarray],
    spent: float,
) -> None:
    """Fit scikit-learn's own estimator once; print its time, and how far it is from what is read off our matrix."""
    began = time.process_time()
    rival.fit(seen, label)
    theirs = time.process_time() - began
    apart = np.abs(rival.predict_proba(new) - meta_logistic(Z, label)(tests["in distribution"])).max()
    print(f"\ntale: one fit, CPU s: ours {spent:.1f}, StackingClassifier {theirs:.1f}, ratio {spent / theirs:.2f};")
    print(f"  fitted outright it differs from its rows below, read off our out-of-fold matrix, by at most {apart:.0e}")


def accuracies(runs: list[Run]) -> dict[str, ndarray]:
    """Return name -> (seeds, tests) accuracies of candidates, stacks and remedies."""
    found: dict[str, list[list[float]]] = {}
    for one in runs:
        for name, (blend, which) in blends(one).items():
            found.setdefault(name, []).append(
                [(blend(one.tests[test][:, which]).argmax(1) == one.truth).mean() for test in WHERE]
            )
    return {name: np.array(values) for name, values in found.items()}


def blends(one: Run) -> dict[str, tuple[Blend, slice | ndarray]]:
    """Return name -> a combination, and the candidates that it combines."""
    every, stable = slice(None), ~one.stability.flagged
    rows = {f"{name} alone": (lambda Z, j=j: Z[:, j], every) for j, name in enumerate(NAMES)}
    declared = np.where(one.cue, "!!", ".")
    options = {"folds": one.folds}
    rows |= {
        SKLEARN: (meta_logistic(one.Z, one.label), every),
        NAIVE: (learn_blend(one.Z, one.label, **options), every),
        "naive stack: ours, nnloglik": (learn_blend(one.Z, one.label, "nnloglik"), every),
        "leave one source out": (learn_blend(one.by_source, one.label, "nnloglik"), every),
        "environment DRO": (environment_dro(one.Z, one.label, one.source, NAMES), every),
        DROPPED: (learn_blend(one.Z[:, stable], one.label, "nnloglik"), stable),
        f"{DROPPED}, auto": (learn_blend(one.Z[:, stable], one.label, **options), stable),
        DECLARED: (group_dro(one.Z, one.label, declared, NAMES), every),
    }
    return rows


def print_accuracies(setting: str, found: dict[str, ndarray], seeds: int) -> None:
    rho = ", ".join(f"{rate:.2f}" for rate in RHO[setting])
    print(f"\ntale, {setting} (cue agrees with the label in {rho}): accuracy, mean of {seeds} seed(s)")
    print(f"  {'':<32} {'in distribution':>17} {'asked':>9} {'shifted':>17} {'asked':>9} {'neutral':>17}")
    for name, values in found.items():
        means = [plus_minus(mean_error(column)) for column in values.T]
        asked = ASKED.get((setting, name), ("", ""))
        print(f"  {name:<32} {means[0]:>17} {asked[0]:>9} {means[1]:>17} {asked[1]:>9} {means[2]:>17}", flush=True)


def asked_accuracies(setting: str, found: dict[str, ndarray]) -> list[Asked]:
    least = {("S1", DECLARED): (0.84, 0.82), ("S2", DROPPED): (0.847, 0.847)}
    lines = []
    for (where, name), (inside, shifted) in least.items():
        if where == setting:
            a, b = found[name].mean(0)[:2]
            asked = f">= {inside} / >= {shifted}"
            lines.append(Asked(f"tale, {setting}: {name}", f"{a:.4f} / {b:.4f}", asked, a >= inside and b >= shifted))
    if setting != "S1":
        return lines
    a, b = found[NAIVE].mean(0)[:2]
    return [Asked("tale, S1: naive stack, fooled", f"{a:.3f} / {b:.3f}", "was .963 / .269", None), *lines]


def detector(setting: str, runs: list[Run]) -> list[Asked]:
    """Print how often each kind of model is flagged as unstable."""
    flagged = np.array([one.stability.flagged for one in runs])  # (seeds, candidates)
    spread = np.array([one.stability.cv for one in runs]).mean(0)
    marks, texts = int(flagged[:, 3].sum()), int(flagged[:, TEXT].sum())
    count, readers = len(runs), 3 * len(runs)
    cvs = ", ".join(f"{name} {value:.2f}" for name, value in zip(NAMES, spread, strict=True))
    wanted = "" if setting == "S1" else f"   (asked: {count} of {count}, <= 1 of 15)"
    cannot = "; a cue as strong everywhere looks like the truth" if setting == "S1" else ""
    print(f"  detector: punctuation flagged {marks} of {count}, text models {texts} of {readers}{wanted}{cannot}")
    print(f"  coefficient of variation of the slopes, mean: {cvs}")
    if setting == "S1":
        return []
    what = f"tale, {setting}: punctuation flagged, text models flagged"
    measured = f"{marks} of {count}, {texts} of {readers}"
    return [Asked(what, measured, f"{count} of {count}, <= 1 of 15", marks == count and texts <= readers / 15)]


def alarm(setting: str, runs: list[Run]) -> list[Asked]:
    """Print the alarm's |z| with and without a shift."""
    z = {name: np.abs([one.alarms[name].z for one in runs]) for name in WHERE}
    cells = "; ".join(f"{name} {values.min():.1f} to {values.max():.1f}" for name, values in z.items())
    print(f"  alarm, |z|: {cells}   (asked: < 2 in distribution, > 20 shifted)")
    least, most = z["shifted"].min(), z["in distribution"].max()
    what = f"tale, {setting}: alarm's |z|, shifted and not, worst seed"
    return [Asked(what, f"{least:.1f}, {most:.2f}", "> 20, < 2", least > 20 and most < 2)]
