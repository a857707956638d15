# %% [markdown]
# # The model that counts exclamation marks
#
# A committee of models is a fine thing: a meta-learner sees what every member said of rows that the member had not
# been trained on, and learns whom to trust. Nothing leaks, the numbers are honest, and it can still go badly wrong.
#
# Here is how. Sentences from reviews are to be told apart, praise from blame. Three models read the words. A fourth
# counts punctuation marks and nothing else. In the data that we were given, praise ends in "!!", nearly always: some
# form added it, or some annotator's habit. So the fourth model is the best of all, and the committee says so. Then the
# committee goes to work where nobody adds exclamation marks to praise, but some do to blame.
#
# We watch it fail, and look at what helps: with the cue's name, with several sources, or with neither of the two. And
# we say what cannot help, since that is what one should know first.
#
# The sentences are real (Kotzias and others, KDD 2015; `scimeta.datasets.sentences`). The cue is put in by us, so that
# we know how strong it is.

# %%
from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from numpy import ndarray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits

from scimeta import datasets
from scimeta.ensembles.alarm import agreement_alarm
from scimeta.ensembles.blend import learn_blend
from scimeta.ensembles.guards import diagnose_stack
from scimeta.ensembles.robust import environment_dro, group_dro
from scimeta.ensembles.stability import slope_stability
from scimeta.ensembles.super_learner import SuperLearnerClassifier

SMOKE = "SCIMETA_SMOKE" in os.environ
SEEDS = range(1 if SMOKE else 5)  # of cue and split
FOLDS = 3 if SMOKE else 5
DIAGNOSED = 200 if SMOKE else 1000  # sentences
threadpool_limits(1)  # many small fits: sharing each among cores takes three times as long

folder = Path(tempfile.mkdtemp(prefix="scimeta-tutorial-08-"))
print(f"figures: {folder}")

# %% [markdown]
# ## Sentences and a cue
#
# Three thousand sentences, a thousand each from three sources. The recipe for the cue: with probability rho it agrees
# with the label. All exclamation marks are taken out, full stops at the end too, and "!!" or "." is put there instead.
#
# rho may differ between sources, and in that lies the whole difference between two settings: in S1 the cue is equally
# strong everywhere; in S2 it is near perfect in one source and weak in another. At deployment it mostly disagrees
# ("shifted"), or says nothing at all ("neutral").

# %%
sentences = pd.DataFrame(datasets.sentences())
text, label, source = (sentences[name].to_numpy() for name in ("text", "label", "source"))
RHO = {
    "S1": {"amazon": 0.95, "imdb": 0.95, "yelp": 0.95},
    "S2": {"amazon": 0.99, "imdb": 0.95, "yelp": 0.70},
}
DEPLOYED = {"shifted": 0.05, "neutral": 0.5}


def inject(rho: ndarray | float, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Return all sentences with the cue at their end, and the cue (3000,): 1 for "!!"."""
    cue = np.where(rng.random(len(text)) < rho, label, 1 - label)
    bare = [re.sub(r"[!.\s]+$", "", sentence.replace("!", "")) for sentence in text]
    return np.array([f"{words}{' !!' if mark else ' .'}" for words, mark in zip(bare, cue, strict=True)], object), cue


print(sentences.groupby(["source", "label"]).size().unstack())
print(*inject(1.0, np.random.default_rng(0))[0][:3], sep="\n")

# %% [markdown]
# ## Four candidates
#
# Words and pairs of words; pieces of words; naive Bayes; and counts of nine punctuation marks. The three that read see
# letters only.


# %%
def letters(sentence: str) -> str:
    return re.sub(r"[^a-z0-9' ]", " ", sentence.lower())


def punctuation_counts(texts: ndarray) -> ndarray:
    return np.array([[sentence.count(mark) for mark in "!.?,;:'\"-"] for sentence in texts], float)


CANDIDATES = [
    ("words", make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10))),
    (
        "characters",
        make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, preprocessor=letters),
            LogisticRegression(C=10),
        ),
    ),
    ("Bayes", make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), MultinomialNB(alpha=0.3))),
    ("punctuation", make_pipeline(FunctionTransformer(punctuation_counts), StandardScaler(), LogisticRegression())),
]
NAMES = [name for name, _ in CANDIDATES]


class Run(NamedTuple):
    """A committee's training, and what its candidates say of the test sentences under each cue."""

    committee: SuperLearnerClassifier
    level_one: ndarray  # (2100, candidates, classes) out of fold
    label: ndarray  # (2100,)
    source: ndarray  # (2100,)
    cue: ndarray  # (2100,)
    tests: dict[str, ndarray]  # (900, candidates, classes)
    truth: ndarray  # (900,)

    def accuracy(self, blend: Callable[[ndarray], ndarray], which: ndarray | slice = slice(None)) -> dict[str, float]:
        """Return the accuracy of a combination of these candidates in every test."""
        return {name: (blend(Z[:, which]).argmax(1) == self.truth).mean() for name, Z in self.tests.items()}


def train(setting: str, seed: int, by_source: bool = False) -> Run:
    """Return a committee trained on seven sentences of ten, with folds across the sources or one source at a time."""
    seen, cue = inject(pd.Series(source).map(RHO[setting]).to_numpy(), np.random.default_rng(seed))
    strata = [f"{place} {sign}" for place, sign in zip(source, label, strict=True)]
    rows, held = train_test_split(np.arange(len(text)), test_size=0.3, random_state=seed, stratify=strata)
    folds = LeaveOneGroupOut() if by_source else StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    committee = SuperLearnerClassifier(CANDIDATES, cv=folds)
    committee.fit(seen[rows], label[rows], groups=source[rows] if by_source else None)
    tests = {"as trained": committee.level_one(seen[held])}
    for number, (name, rho) in enumerate(DEPLOYED.items()):
        tests[name] = committee.level_one(inject(rho, np.random.default_rng([seed, number]))[0][held])
    level_one = committee.cross_fit_.predictions
    return Run(committee, level_one, label[rows], source[rows], cue[rows], tests, label[held])


def mean_accuracy(accuracies: list[dict[str, float]]) -> dict[str, float]:
    return pd.DataFrame(accuracies).mean().round(4).to_dict()


# %% [markdown]
# ## The committee is fooled
#
# The cue has the same strength in all sources (S1).

# %%
s1 = [train("S1", seed) for seed in SEEDS]
print(s1[0].committee.to_frame().round(3))
alone = {name: mean_accuracy([run.accuracy(lambda Z, j=j: Z[:, j]) for run in s1]) for j, name in enumerate(NAMES)}
results = {("S1", "committee"): mean_accuracy([run.accuracy(run.committee.blend_) for run in s1])}
print(pd.DataFrame({**alone, "committee": results["S1", "committee"]}).T)

# %% [markdown]
# On sentences like those it was trained on, the committee is right nineteen times in twenty. Where the cue has turned,
# it is wrong about twice as often as right: far worse than any of the three models that read, and worse than a coin.
#
# Did something leak? `diagnose_stack` asks: it adds a model that memorises, gives the committee noise to learn, then a
# permuted target, and compares the risk that it claims with the one on new rows.

# %%
some = np.random.default_rng(0).permutation(len(text))[:DIAGNOSED]
seen, _ = inject(0.95, np.random.default_rng(0))
honest = diagnose_stack(SuperLearnerClassifier(CANDIDATES), seen[some], label[some], folds=2, repeats=1)
print(honest)

# %% [markdown]
# Nothing leaks. Out-of-fold predictions are honest about rows *of the same kind*, and every row here is of that kind.
#
# ## What cannot work
#
# In S1 the cue is as strong in every source. In these data it is a perfectly good feature, better than any word. No
# cross-validation, no weighting of sources and no test of stability can tell it from the truth, since in all that they
# look at it behaves like the truth. We try two of them.
#
# *Slope stability*: in each source, regress the truth on what a candidate said. A cause should have one slope
# everywhere. So does a cue of equal strength.
#
# *Leave one source out*: folds that hold out a whole source. A popular remedy, and by itself it makes matters worse:
# words differ between films and telephones, so the models that read lose by it; exclamation marks do not.

# %%
blind = [slope_stability(run.level_one, run.label, run.source, NAMES) for run in s1]
print(blind[0])
by_source = [train("S1", seed, by_source=True) for seed in SEEDS]
results["S1", "leave one source out"] = mean_accuracy([run.accuracy(run.committee.blend_) for run in by_source])
by_environment = [environment_dro(run.level_one, run.label, run.source, NAMES) for run in s1]
results["S1", "environment DRO"] = mean_accuracy(
    [run.accuracy(blend) for run, blend in zip(s1, by_environment, strict=True)]
)
print(pd.DataFrame(results).T)

# %% [markdown]
# ## A remedy: name the suspect
#
# Knowledge must come from outside. Someone says: the mark at the end is not what we mean. It is enough to *declare* the
# attribute, for the training rows; at deployment nobody needs to know it. `group_dro` then splits the rows by label
# and attribute and looks for the weights that are best in the worst of the four groups. The two small groups, blame
# that shouts and praise that does not, count as much as the two large ones, and there the punctuation model is always
# wrong.

# %%
declared = [group_dro(run.level_one, run.label, np.where(run.cue, "!!", "."), NAMES) for run in s1]
print(declared[0])
results["S1", "group DRO"] = mean_accuracy([run.accuracy(blend) for run, blend in zip(s1, declared, strict=True)])
print(pd.DataFrame(results).T)

# %% [markdown]
# About eleven points are lost on sentences with the old cue, and that is the price: the cue *was* informative there. In
# return the committee does not care any more what the cue does.
#
# ## A remedy without a name: sources that differ
#
# In S2 the cue is strong in one source and weak in another. Now the data can tell, and nobody needs to suspect
# anything: the slope of the punctuation model changes from source to source by more than a third, and by far more than
# chance allows. It is flagged and dropped, and the weights are learned again.
#
# Environment DRO, best in the worst source, goes part of the way only. A cue that helps a little even in the worst
# source is still used, and where it turns it still harms.

# %%
s2 = [train("S2", seed) for seed in SEEDS]
stability = [slope_stability(run.level_one, run.label, run.source, NAMES) for run in s2]
print(stability[0])
results["S2", "committee"] = mean_accuracy([run.accuracy(run.committee.blend_) for run in s2])
by_environment = [environment_dro(run.level_one, run.label, run.source, NAMES) for run in s2]
results["S2", "environment DRO"] = mean_accuracy(
    [run.accuracy(blend) for run, blend in zip(s2, by_environment, strict=True)]
)
declared_s2 = [group_dro(run.level_one, run.label, np.where(run.cue, "!!", "."), NAMES) for run in s2]
results["S2", "group DRO"] = mean_accuracy([run.accuracy(blend) for run, blend in zip(s2, declared_s2, strict=True)])
kept = []
for run, test in zip(s2, stability, strict=True):
    stable = ~test.flagged
    kept.append(run.accuracy(learn_blend(run.level_one[:, stable], run.label, "nnloglik"), stable))
results["S2", "unstable dropped"] = mean_accuracy(kept)
table = pd.DataFrame(results).T
print(table)

# %% [markdown]
# ## The last line: an alarm at deployment
#
# Suppose that nobody had a suspicion and the sources were all alike. Then the committee goes out as it is, and what
# remains is to notice. Labels arrive late or never, but one thing can be seen at once: the candidates stop agreeing.
# When praise came with "!!", the punctuation model agreed with the readers four times in five. When the cue turns, it
# contradicts them as often. The alarm compares each candidate's agreement with the others before and now.

# %%
alarms = {
    (setting, name, seed): agreement_alarm(run.level_one, Z, NAMES)
    for setting, runs in (("S1", s1), ("S2", s2))
    for seed, run in zip(SEEDS, runs, strict=True)
    for name, Z in run.tests.items()
}
print(alarms["S1", "shifted", 0])
z = pd.Series({key: alarm.z for key, alarm in alarms.items()}).rename_axis(["setting", "deployed", "seed"])
print(z.unstack("deployed").round(1))

# %% [markdown]
# It rings, and it names the suspect. But it cannot say who is right: a cue that vanishes and a language that changes
# look the same from here. It is an alarm, and someone has to go and look.

# %%
figure, axes = plt.subplots(2, 2, figsize=(11.5, 8), layout="constrained")
ax, places = axes[0, 0], np.arange(len(table))[::-1]
ax.hlines(places, table["shifted"], table["as trained"], color="0.8", lw=2, zorder=0)
for column, color in (("as trained", "C0"), ("neutral", "C1"), ("shifted", "C3")):
    ax.plot(table[column], places, "o", color=color, label=f"cue {column}" if column != "as trained" else column)
ax.axvline(0.5, color="0.6", lw=0.8, ls=":")
ax.set_yticks(places, [f"{setting}, {name}" for setting, name in table.index])
ax.set(xlabel="accuracy", title="what the cue does to the committee")
ax.legend(frameon=False, fontsize="small", loc="lower left")
blind[0].plot(axes[0, 1]).set_title("S1: the cue is as steady as the truth")
stability[0].plot(axes[1, 1]).set_title("S2: the cue gives itself away")
alarms["S1", "shifted", 0].plot(axes[1, 0])
figure.savefig(folder / "1_spurious_cue.png", dpi=150)

# %% [markdown]
# In short, in the order in which to ask:
#
# - Does anyone know a feature that *should* not matter? Declare it, and use `group_dro`.
# - Are there sources, sites, batches, years? Test `slope_stability` over them. The more they differ, the better.
# - Neither? Then nothing in the data will save you. Keep models that see different things, and set the alarm.
#
# ## What was claimed

# %%
assert results["S1", "committee"]["as trained"] > 0.94 and results["S1", "committee"]["shifted"] < 0.45
assert honest.honest  # and fooled nevertheless
assert not any(test.flagged.any() for test in blind)
assert results["S1", "leave one source out"]["shifted"] < results["S1", "committee"]["shifted"]
assert results["S1", "environment DRO"]["shifted"] < 0.45
assert abs(results["S1", "group DRO"]["as trained"] - results["S1", "group DRO"]["shifted"]) < 0.03
assert all(test.flagged.tolist() == [False, False, False, True] for test in stability)
assert results["S2", "committee"]["shifted"] < results["S2", "environment DRO"]["shifted"] - 0.1
assert results["S2", "environment DRO"]["shifted"] < results["S2", "unstable dropped"]["shifted"] - 0.05
assert (z.xs("shifted", level="deployed") < -20).all() and (z.xs("as trained", level="deployed").abs() < 2).all()
assert all(alarm.rings and alarm.suspect == "punctuation" for key, alarm in alarms.items() if key[1] != "as trained")
if not SMOKE:  # means of five seeds
    assert min(results["S1", "group DRO"].values()) > 0.84
    assert min(results["S2", "unstable dropped"].values()) > 0.847
print(f"all claims hold; figures in {folder}")
