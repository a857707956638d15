"""A law as a scikit-learn regressor, so that a theory can stand beside other models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.laws.law import Law


class LawRegressor(RegressorMixin, BaseEstimator):
    """Calibrates a law by ``fit`` and returns its curve by ``predict``.

    Args:
        law: the law.
        prior: what past specimens say, from :func:`learn_prior`; None for least squares. Not
            learned from the specimen itself: then no fold could hide a point from it.
        replicates: True if repeated x are independent readings; with a prior they are refused otherwise.

    Attributes:
        calibration_: the :class:`Calibration`, with intervals and a report.

    >>> import torch
    >>> from scimeta.calibration.laws.law import Parameter
    >>> decay = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
    >>> prior = Prior.by_hand(decay, [[0.0]], [[0.25]], noise=0.05)
    >>> LawRegressor(decay, prior).fit([[0.5], [1.0]], [0.62, 0.35]).predict([[0.0], [2.0]]).round(1)
    array([1. , 0.1])
    """

    def __init__(self, law: Law, prior: Prior | None = None, *, replicates: bool = False) -> None:
        self.law = law
        self.prior = prior
        self.replicates = replicates

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LawRegressor:
        """Calibrate the law to the points of one specimen.

        Args:
            X: (points, 1), in the unit of the law's x, in any order.
            y: (points,), in the unit of the law's y.
            sample_weight: (points,) non-negative; a point of weight w counts like w readings, one of 0 is left out.

        Raises:
            TypeError: a law that is none.
            ValueError: more than one column, values that are not finite, and what the calibration raises.
        """
        if not isinstance(self.law, Law):
            raise TypeError(f"law should be a scimeta.calibration.laws.law.Law; got {self.law!r}")
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        if X.shape[1] != 1:
            raise ValueError(f"law {self.law.name} reads one column, {self.law.x}; X has {X.shape[1]}: select it first")
        w = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, dtype=float)
        if w.shape != y.shape or not np.isfinite(w).all() or (w < 0).any() or not w.any():
            raise ValueError(
                f"sample_weight must be ({len(y)},) finite, non-negative and not all zero; got {w.tolist()}"
            )
        rows = np.argsort(X[:, 0], kind="stable")
        rows = rows[w[rows] > 0]
        points = X[rows, 0], y[rows]
        if self.prior is None:
            sigma = None if sample_weight is None else 1 / np.sqrt(w[rows])
            self.calibration_ = LeastSquares(self.law).fit(*points, sigma)
        else:
            engine, sigma = Calibrator(self.law, self.prior), None
            if sample_weight is not None:  # a noise that follows the mean is that of the fit without weights
                plain = engine.fit(*points, replicates=self.replicates)
                sigma = plain.batch.draws.reading_sd(torch.from_numpy(points[0]))[0] / np.sqrt(w[rows])
            self.calibration_ = engine.fit(*points, sigma, replicates=self.replicates)
        return self

    def predict(self, X: Any) -> ndarray:
        """Return (points,) the expected curve, in the unit of the law's y."""
        check_is_fitted(self)
        points = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        return self.calibration_.predict(points[:, 0])
