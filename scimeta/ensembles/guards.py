"""Is a stack honest? Targets of which nothing can be known, subjects and copies of rows on both sides of a fold."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy import ndarray
from sklearn.base import clone, is_classifier
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, KFold, check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_array, column_or_1d, has_fit_parameter, indexable

from scimeta.ensembles.canary import memory, noise, permuted
from scimeta.ensembles.copies import beyond_chance, columns_of, row_numbers
from scimeta.ensembles.cross_fit import check_nestable, split
from scimeta.ensembles.diagnosis import HONEST, StackDiagnosis
from scimeta.ensembles.level_one import numbered

_ROSY = 0.25  # weights are learned on the claimed risk, so it may fall short of the real one by this part of it


def diagnose_stack(
    stack: Any,
    X: Any,
    y: Any,
    groups: Any = None,
    *,
    folds: int = 5,
    repeats: int = 3,
    rng: np.random.Generator | None = None,
) -> StackDiagnosis:
    """Return whether a stack's inner cross-validation lets rows, or subjects, leak into the weights.

    *Noise canary*: a candidate that memorises (the nearest row, with its target) and a constant join the library, and
    the target is pure noise, one value a subject. An honest stack sees that nothing can be known and costs as much as a
    constant on new rows; one that judges candidates by rows, or subjects, they were trained on trusts the memory and
    costs twice that. *Permuted target*: the stack's own candidates and a constant, with the targets dealt out anew
    among subjects. *Own target*: the risk that the stack claims by its own out-of-fold predictions, against the one on
    new subjects. *Straddling*: subjects on both sides of an inner fold. *Copies*: rows there of the same X and target,
    but for rounding, if they are more than chance makes in such a table; the outer folds and the noise then take all
    copies of a row as one subject. Risks on noise are held against 0.97 and 1.04, all give or take two standard errors.
    Costs (repeats + 2) * folds fits of the stack. Columns made with y, order in time and what candidates fitted before
    have seen cannot be told from these data: no finding is no proof.

    Args:
        stack: an unfitted estimator with parameters ``estimators`` and ``cv``, such as
            :class:`~scimeta.ensembles.super_learner.SuperLearnerRegressor` or scikit-learn's ``StackingRegressor``;
            cloned, never changed. A classifier has ``predict_proba``.
        X: n rows, of any kind that the candidates read.
        y: (n,) target or labels.
        groups: (n,) whose row it is; passed to the stack if its ``fit`` takes them.
        folds: outer folds.
        repeats: draws of noise.
        rng: of noise, permutations and outer folds; one of its own if None.

    Raises:
        TypeError: a stack without such parameters, or with a list of splits for cv, which fits no part of the rows.
        ValueError: a constant y, fewer subjects than folds, and all that the stack's fit raises.

    Reference: Dwork and others, The reusable holdout, Science 349, 636 (2015), for what overfitted validation does.

    >>> from sklearn.linear_model import LinearRegression
    >>> from scimeta.ensembles.super_learner import SuperLearnerRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 2))
    >>> y = X[:, 0] + rng.standard_normal(200)
    >>> diagnose_stack(SuperLearnerRegressor([("line", LinearRegression())]), X, y).honest
    True
    """
    _check_stack(stack)
    X, y, groups = indexable(X, y, groups)
    classify = is_classifier(stack)
    y = column_or_1d(check_array(y, ensure_2d=False, dtype=None if classify else "numeric", input_name="y"))
    if (y == y[0]).all():
        raise ValueError(f"diagnose_stack: y is {y[0]} in all rows, so there is nothing that a stack could claim")
    columns, target = columns_of(X), columns_of(y[:, None])[:, 0]
    rows = row_numbers(np.column_stack([columns, target]))
    copied = beyond_chance(X, y, classify)
    one_each = rows if copied else np.arange(len(y))
    subject = one_each if groups is None else numbered(groups, "groups")[1]
    if folds < 2 or repeats < 1 or subject.max() + 1 < folds:
        what = f"folds={folds} and repeats={repeats} for {subject.max() + 1} subjects"
        raise ValueError(f"diagnose_stack: needs two folds, one repeat and a subject a fold, or more; got {what}")
    splits = _inner_folds(stack, X, y, groups)
    copies, repeated = _torn(rows, splits), _torn(row_numbers(columns), splits)
    rng = np.random.default_rng(0) if rng is None else rng
    constant = ("constant guess", DummyClassifier() if classify else DummyRegressor())
    watched = clone(stack).set_params(estimators=[*stack.estimators, constant])
    canary = clone(stack).set_params(estimators=[*stack.estimators, constant, ("leak canary", memory(classify))])
    runs = [("noise", canary, noise(y, subject, classify, rng)) for _ in range(repeats)]
    runs += [("permuted", watched, permuted(y, subject, rng)), ("own", stack, y)]
    outer = _outer_folds(subject, groups is not None or copied, folds, rng)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, model, target in runs:
        found.setdefault(name, []).append(_risk(model, X, target, groups, subject, outer))
    risks, errors, claimed = np.array([_mean(found[name]) for name in found]).T
    problems = _problems(tuple(found), risks, errors, claimed)
    twice, number = int(_torn(np.arange(len(y)), splits).sum()), len(y)
    if twice:
        problems += (f"{twice} rows are held out by an inner fold that trains on them",)
    straddling = int(repeated.sum())
    if groups is not None:
        straddling, number = len(np.unique(subject[_torn(subject, splits)])), int(subject.max()) + 1
        if straddling:
            problems += (
                f"{straddling} subjects are on both sides of an inner fold; give groups to fit, or cv=GroupKFold",
            )
    several = int(copies.sum())
    if several and copied:
        problems += (
            f"{several} of {len(y)} rows have a copy, target and all, on the other side of an inner fold, more than "
            "chance makes; leave copies out, or give all copies of a row one number in groups",
        )
    notes = _notes(stack, several if not copied else 0, int((repeated & ~copies).sum()), len(y))
    judged = tuple(found), risks, errors, claimed
    return StackDiagnosis(*judged, straddling, number, groups is not None, problems, several, notes)


def _notes(stack: Any, by_chance: int, repeated: int, n: int) -> tuple[str, ...]:
    """Return what is no problem in itself, in words."""
    notes = []
    if by_chance:
        notes.append(f"{by_chance} of {n} rows have a copy on the other side of an inner fold; chance may make as many")
    if repeated:
        notes.append(
            f"{repeated} of {n} rows have the X of one on the other side, with another target; if new rows will be of "
            "new subjects or settings, give these as groups"
        )
    for name, candidate in stack.estimators:
        parts = candidate.get_params().values() if hasattr(candidate, "get_params") else ()
        if any(isinstance(part, FrozenEstimator) for part in (candidate, *parts)):
            notes.append(f"candidate {name!r} was fitted before; whether on these rows cannot be seen from here")
    return tuple(notes)


def _check_stack(stack: Any) -> None:
    params = stack.get_params(deep=False) if hasattr(stack, "get_params") else {}
    if not {"estimators", "cv"} <= set(params):
        raise TypeError(
            "diagnose_stack: stack must be an estimator with parameters estimators and cv, such as "
            f"SuperLearnerRegressor; got {type(stack).__name__}. Of a pipeline pass the last step, and what it sees"
        )
    check_nestable(params["cv"], "diagnose_stack: cv of the stack")


def _problems(names: tuple[str, ...], risks: ndarray, errors: ndarray, claimed: ndarray) -> tuple[str, ...]:
    """Return what is wrong, in words."""
    found = []
    for name, risk, error, claim in zip(names, risks, errors, claimed, strict=True):
        if name != "own" and risk - 2 * error > HONEST[1]:
            found.append(f"{name}: costs {risk:.2f} of a constant's risk; it trusts candidates that know nothing")
        if name != "own" and risk + 2 * error < HONEST[0]:
            found.append(f"{name}: costs only {risk:.2f} of a constant's risk; the target is told by something in X")
        if name == "own" and claim < (1 - _ROSY) * risk - 2 * error:
            found.append(
                f"{name}: claims {claim:.2f} of a constant's risk and costs {risk:.2f} on new rows or subjects"
            )
    return tuple(found)


def _risk(
    stack: Any, X: Any, y: ndarray, groups: Any, subject: ndarray, outer: list[tuple[ndarray, ndarray]]
) -> tuple[float, float, float]:
    """Return risk on held-out rows over a constant's, its standard error, and the risk that the stack claims."""
    losses, base, claims, claims_base = np.zeros(len(y)), np.zeros(len(y)), [], []
    for train, test in outer:
        given = {"groups": _safe_indexing(groups, train)} if _takes_groups(stack, groups) else {}
        with warnings.catch_warnings():
            # Groups that a splitter ignores are a problem found elsewhere; theories rightly make nothing of noise.
            warnings.simplefilter("ignore", UserWarning)
            model = clone(stack).fit(_safe_indexing(X, train), y[train], **given)
        classes = getattr(model, "classes_", None)
        if classes is not None and not hasattr(model, "predict_proba"):
            raise TypeError(
                "diagnose_stack: a classifier is judged by its probabilities, but this one has no predict_proba"
            )
        held = _safe_indexing(X, test)
        said = model.predict(held) if classes is None else model.predict_proba(held)
        truth, seen = _as_values(y[test], classes), _as_values(y[train], classes)
        losses[test], base[test] = _squares(said - truth), _squares(truth - seen.mean(0))
        if hasattr(model, "blend_"):
            rows = model.cross_fit_.held
            claims.append(_squares(model.blend_(model.cross_fit_.predictions[rows]) - seen[rows]).mean())
            claims_base.append(_squares(seen - seen.mean(0)).mean())
    risk = losses.sum() / base.sum()
    parts = np.bincount(subject, losses - risk * base)
    parts = parts[np.bincount(subject) > 0]
    error = np.sqrt(parts @ parts * len(parts) / (len(parts) - 1)) / base.sum()
    return risk, error, np.sum(claims) / np.sum(claims_base) if claims else np.nan


def _mean(runs: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return means over draws of noise, the standard error that of the mean."""
    risk, error, claimed = np.array(runs).T
    return risk.mean(), np.sqrt((error**2).mean() / len(runs)), claimed.mean()


def _as_values(y: ndarray, classes: ndarray | None) -> ndarray:
    """Return (n,) numbers, or (n, classes) ones and zeros."""
    return y if classes is None else (y[:, None] == classes).astype(float)


def _squares(missed: ndarray) -> ndarray:
    """Return (n,) squared errors, summed over classes."""
    return missed**2 if missed.ndim == 1 else (missed**2).sum(1)


def _outer_folds(
    subject: ndarray, grouped: bool, folds: int, rng: np.random.Generator
) -> list[tuple[ndarray, ndarray]]:
    if grouped:
        return list(GroupKFold(folds).split(subject, groups=subject))
    return list(KFold(folds, shuffle=True, random_state=int(rng.integers(2**31))).split(subject))


def _takes_groups(stack: Any, groups: Any) -> bool:
    return groups is not None and has_fit_parameter(stack, "groups")


def _inner_folds(stack: Any, X: Any, y: ndarray, groups: Any) -> list[tuple[ndarray, ndarray]]:
    """Return the (train, test) rows of the folds that the stack would make of all rows."""
    passed = groups if _takes_groups(stack, groups) else None
    if passed is not None and (stack.cv is None or isinstance(stack.cv, (int, np.integer))):
        return list(split(X, y, cv=stack.cv, groups=passed, classify=is_classifier(stack))[0])
    splitter = check_cv(5 if stack.cv is None else stack.cv, y, classifier=is_classifier(stack))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The groups parameter is ignored")
        return list(splitter.split(X, y, passed))


def _torn(whose: ndarray, splits: list[tuple[ndarray, ndarray]]) -> ndarray:
    """Return (n,) whether there are rows of the same number on both sides of a fold."""
    torn = np.zeros(whose.max() + 1, dtype=bool)
    for train, test in splits:
        torn[np.intersect1d(whose[train], whose[test])] = True
    return torn[whose]
