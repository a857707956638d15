"""What the two mixtures of experts have in common: the gate's features, its fit, its weights and their plot."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Bunch, _safe_indexing, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, indexable, validate_data

from scimeta.ensembles.candidates import Method, check_candidates, predict_one, report_dropped
from scimeta.ensembles.committee import Committee
from scimeta.ensembles.cross_fit import CrossFit
from scimeta.ensembles.gate import Level, Settings
from scimeta.ensembles.gate_choice import KINDS, choose_gate
from scimeta.ensembles.level_one import numbered
from scimeta.ensembles.weights import check_sample_weight, zero_means

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_FOLDS = 5  # to judge a gate on where the experts' folds are none or one


class GatedCommittee(Committee):
    """Mixin for committees with the parameters of :class:`~scimeta.ensembles.experts.MixtureOfExpertsRegressor`."""

    def fit_gate(self, X: Any, y: ndarray, encoded: ndarray, sample_weight: Any, groups: Any, method: Method) -> Level:
        """Fit the experts and the gate; return the rows that the gate was learned from.

        Args:
            X, sample_weight, groups: as of ``fit``.
            y: (n,) for the experts.
            encoded: (n,) for the gate: numbers, or numbers of classes.
            method: of the experts.
        """
        self._check_settings()
        features = self._features(X, fit=True)  # before the experts, since they may take long
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        if isinstance(self.cv, str) and self.cv == "prefit":
            Z, weights, folds = self._ask_prefitted(X, y, sample_weight, groups, method, seed)
        else:
            Z, _, weights, folds = self.cross_fit_candidates(X, y, sample_weight, groups, method)
        held = self.cross_fit_.held
        if Z.ndim == 3:
            self.zero_ = zero_means(Z, np.count_nonzero(weights))
            Z = np.where(Z > 0, Z, self.zero_[:, None])
        level = Level(features[held], Z, encoded[held], weights, self.held_groups(groups))
        folds = _dealt(level.groups, seed) if len(np.unique(folds)) < 2 else folds
        settings = Settings(self.hidden, self.top_k, self.balance)
        self.choice_ = choose_gate(level, folds, self.gate, settings, margin=self.margin, seed=seed)
        self.gate_ = self.choice_.gate
        self.weights_ = self.gate_.fixed
        self.mean_weights_ = np.average(self.gate_(level.features), axis=0, weights=weights)
        return level

    def weights(self, X: Any) -> ndarray:
        """Return w(x), (n, experts) in the order of ``names_``: non-negative, every row's sum 1."""
        check_is_fitted(self)
        return self.gate_(self._features(X))

    def ask(self, X: Any, weights: ndarray) -> ndarray:
        """Return what the experts say of new rows, (n, experts[, classes]); 0 where an expert's weight is 0.

        Under ``top_k`` an expert is asked about the rows where it has a say, and no others.
        """
        asked = weights > 0  # (n, experts)
        if self.top_k is None or self.gate_.kind == "fixed":
            return self.level_one(X, asked.any(axis=0))
        classes = getattr(self, "classes_", None)
        Z = np.zeros(asked.shape if classes is None else (*asked.shape, len(classes)))
        for j in np.flatnonzero(asked.any(axis=0)):
            rows, one = np.flatnonzero(asked[:, j]), np.arange(asked.shape[1]) == j
            Z[rows, j] = self.level_one(_safe_indexing(X, rows), one)[:, j]
        return Z

    def to_frame(self) -> pd.DataFrame:
        """Return one row an expert: best fixed weight, the gate's mean weight, and cross-validated risk."""
        import pandas as pd

        check_is_fitted(self)
        columns = {"fixed_weight": self.weights_, "mean_weight": self.mean_weights_, "risk": self.risks_}
        return pd.DataFrame(columns, index=pd.Index(self.names_, name="expert"))

    def weights_along(
        self, X: Any, feature: int | str, *, points: int = 100, rows: int = 200
    ) -> tuple[ndarray, ndarray]:
        """Return values of one feature (points,), and w(x) there: (points, rows, experts).

        Args:
            X: (n, features) table of numbers, whose rows say what the other features may be.
            feature: number of a column, or name if X is a DataFrame.
            points: values, evenly from the least in X to the greatest.
            rows: of X that are used at most, evenly spread.

        Raises:
            ValueError: an X that is no table, or a feature that it does not have or that is no number.
        """
        check_is_fitted(self)
        X = X.toarray() if issparse(X) else X
        names = list(X.columns) if hasattr(X, "columns") else list(range(X.shape[1] if np.ndim(X) == 2 else 0))
        if feature not in names:
            raise ValueError(f"feature should be one of {', '.join(map(str, names[:20]))}; got {feature!r}")
        column = np.asarray(X[feature] if hasattr(X, "columns") else np.asarray(X)[:, feature])
        if column.dtype.kind not in "iuf" or not np.isfinite(column).any():
            raise ValueError(f"feature {feature!r} holds no numbers, so there is no line to follow")
        grid = np.linspace(np.nanmin(column), np.nanmax(column), points)
        some = _safe_indexing(X, np.unique(np.linspace(0, len(column) - 1, min(rows, len(column))).astype(int)))
        return grid, np.stack([self.weights(_replaced(some, feature, value)) for value in grid])

    def plot(self, X: Any, feature: int | str, ax: Axes | None = None) -> Axes:
        """Draw w(x) along one feature: the mean over the rows of X, and the middle 80 % of them as a band."""
        grid, weights = self.weights_along(X, feature)
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")[1]
        for j, name in enumerate(self.names_):
            (line,) = ax.plot(grid, weights[:, :, j].mean(axis=1), label=name)
            ax.fill_between(grid, *np.quantile(weights[:, :, j], (0.1, 0.9), axis=1), color=line.get_color(), alpha=0.2)
        ax.set(xlabel=f"feature {feature}" if isinstance(feature, int) else str(feature), ylabel="weight", ylim=(0, 1))
        ax.legend()
        return ax

    def _check_settings(self) -> None:
        if not isinstance(self.gate, str) or self.gate not in KINDS:
            raise ValueError(f"gate should be one of {', '.join(KINDS)}; got {self.gate!r}")
        if self.top_k is not None and not (_is_number(self.top_k, Integral) and self.top_k >= 1):
            raise ValueError(f"top_k should be a whole number, 1 or more, or None for all experts; got {self.top_k!r}")
        if not (_is_number(self.hidden, Integral) and self.hidden >= 1):
            raise ValueError(f"hidden should be a whole number of units, 1 or more; got {self.hidden!r}")
        if not (_is_number(self.balance, Real) and 0 <= self.balance < np.inf):
            raise ValueError(f"balance should be a number, 0 or more; got {self.balance!r}")
        if not _is_number(self.margin, Real) or np.isnan(self.margin):
            raise ValueError(f"margin should be a number of standard errors; got {self.margin!r}")

    def _features(self, X: Any, fit: bool = False) -> ndarray:
        """Return what the gate reads, (n, features)."""
        if not fit and not (getattr(X, "ndim", 2) == 1 and hasattr(self, "n_features_in_")):
            validate_data(self, X, reset=False, skip_check_array=True)
        if self.features is not None and fit:
            self.features_ = clone(self.features).fit(X)
        table = X if self.features is None else self.features_.transform(X)
        table = table.toarray() if issparse(table) else table
        try:
            return check_array(table, dtype=np.float64, ensure_all_finite="allow-nan", input_name="X", estimator=self)
        except ValueError as error:
            if self.features is not None or "convert" not in str(error):
                raise
            hint = "The gate reads numbers: give features= a transformer that makes a table of numbers of X"
            raise ValueError(f"{error}. {hint}") from error

    def _ask_prefitted(
        self, X: Any, y: ndarray, sample_weight: Any, groups: Any, method: Method, seed: int
    ) -> tuple[ndarray, ndarray, ndarray]:
        """Ask experts that are fitted already; return level-one matrix, sample weights and folds, of all rows."""
        pairs = check_candidates(self.estimators)
        self._validate_names([name for name, _ in pairs])
        weights = check_sample_weight(sample_weight, len(y))
        (X,) = indexable(X)
        classes = getattr(self, "classes_", None)
        said = {name: _said(expert, X, method, classes) for name, expert in pairs}
        self.dropped_ = {name: part for name, part in said.items() if isinstance(part, str)}
        report_dropped(self.dropped_, left=len(said) - len(self.dropped_))
        fitted = [(name, expert) for name, expert in pairs if name not in self.dropped_]
        self.names_ = tuple(name for name, _ in fitted)
        self.estimators_, self.named_estimators_ = [expert for _, expert in fitted], Bunch(**dict(fitted))
        folds = _dealt(np.arange(len(y)) if groups is None else numbered(groups, "groups")[1], seed)
        Z = np.stack([said[name] for name in self.names_], axis=1)
        self.cross_fit_ = CrossFit(Z, folds, self.names_, self.dropped_)
        return Z, weights, folds


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _dealt(groups: ndarray, seed: int) -> ndarray:
    """Return folds (n,) of whole groups (n,), dealt out at random."""
    return np.random.default_rng(seed).permutation(groups.max() + 1)[groups] % _FOLDS


def _said(expert: Any, X: Any, method: Method, classes: ndarray | None) -> ndarray | str:
    """Return what an expert that is fitted says, or what is wrong with it; that it is not fitted is no accident."""
    if not hasattr(expert, method):
        return f"has no {method}"
    try:
        return predict_one(expert, X, method, classes)
    except NotFittedError:
        raise
    except Exception as error:  # whatever it raises, a candidate is dropped by name, never the whole fit
        return f"{type(error).__name__}: {error}"


def _replaced(X: Any, feature: int | str, value: float) -> Any:
    """Return a copy of a table with one column set to a value."""
    if hasattr(X, "columns"):
        X = X.copy()
        X[feature] = value
        return X
    table = np.array(X, dtype=float)
    table[:, feature] = value
    return table
