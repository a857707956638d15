"""What a law gets wrong in the same way in every specimen of a family: a curve over the law's own prediction."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scimeta.calibration.laws.law import Law

KNOTS = 10


class Basis(NamedTuple):
    """Uniform Catmull-Rom interpolation between knots; constant beyond the ends.

    Attributes:
        lower: the law's prediction at the first knot.
        upper: the law's prediction at the last one.
    """

    lower: float
    upper: float

    def place(self, prediction: Tensor, knots: int) -> tuple[Tensor, Tensor]:
        """Return the interval of each prediction and the position in it, 0 to 1."""
        position = ((prediction - self.lower) / (self.upper - self.lower)).clamp(0.0, 1.0) * (knots - 1)
        interval = position.detach().floor().clamp(max=knots - 2)
        return interval.long(), position - interval

    def cubics(self, values: Tensor) -> Tensor:
        """Return (knots - 1, 4): coefficients of 1, t, t^2, t^3 in each interval, from the values at the knots."""
        slope = torch.gradient(values)[0]
        left, rise, begin, end = values[:-1], values[1:] - values[:-1], slope[:-1], slope[1:]
        return torch.stack([left, begin, 3 * rise - 2 * begin - end, begin + end - 2 * rise], -1)

    def evaluate(self, cubics: Tensor, prediction: Tensor) -> Tensor:
        """Return the interpolated value at each prediction, of the same shape."""
        interval, t = self.place(prediction, len(cubics) + 1)
        a, b, c, d = (cubics[:, i][interval] for i in range(4))
        return a + t * (b + t * (c + t * d))


@dataclass(frozen=True, eq=False)
class Misfit:
    """A family's systematic discrepancy, y = f + d(f), for the law's prediction f.

    Attributes:
        lower, upper: range of f over which d was learned; d is constant beyond.
        values: (knots,) d at evenly spaced f, in the unit of y.
    """

    lower: float
    upper: float
    values: np.ndarray = field(default_factory=lambda: np.zeros(KNOTS))

    def __post_init__(self) -> None:
        if not (self.lower < self.upper and np.ndim(self.values) == 1 and len(self.values) >= 2):
            raise ValueError(f"misfit: needs values at two knots or more between {self.lower} and {self.upper}")
        if not np.isfinite([self.lower, self.upper, *self.values]).all():
            raise ValueError("misfit: lower, upper or a value is not finite")

    def corrected(self, law: Law) -> Law:
        """Return the law with the discrepancy added to what it predicts; its parameters are the same."""
        basis = Basis(self.lower, self.upper)
        cubics = basis.cubics(torch.from_numpy(np.asarray(self.values, dtype=float)))

        def fn(x: Tensor, **parameters: Tensor) -> Tensor:
            prediction = law.fn(x, **parameters)
            return prediction + basis.evaluate(cubics, prediction)

        return replace(law, fn=fn)


class Residuals(NamedTuple):
    """Residuals of many specimens end to end.

    Attributes:
        prediction: (points,) the law at each specimen's own parameters.
        sensitivity: (points, parameters) its derivatives by the unconstrained parameters.
        residual: (points,) measured minus prediction.
        inverse_sd: (points,) 1 / noise standard deviation.
        specimen: (points,) index of the specimen.
    """

    prediction: Tensor
    sensitivity: Tensor
    residual: Tensor
    inverse_sd: Tensor
    specimen: Tensor


def fit_misfit(data: Residuals, basis: Basis) -> np.ndarray:
    """Return (knots,) the discrepancy that the residuals have in common.

    Ridge regression of the residuals on the basis, in the space of discrepancies that no common change of the
    parameters could imitate (orthogonal to the summed sensitivities), so that the parameters keep their meaning. The
    ridge's strength maximises the evidence.

    Reference: Kennedy, O'Hagan, J. R. Stat. Soc. B 63, 425 (2001); orthogonality: Plumlee, J. Am. Stat. Assoc. 112,
    1274 (2017).
    """
    unit = torch.eye(KNOTS, dtype=data.prediction.dtype)
    design = torch.stack([basis.evaluate(basis.cubics(row), data.prediction) for row in unit], -1)  # (points, knots)
    whitened = design * data.inverse_sd[:, None]
    blocked = (data.sensitivity * data.inverse_sd[:, None]).T @ whitened  # (parameters, knots)
    free = torch.linalg.svd(blocked, full_matrices=True)[2][len(blocked) :].T  # (knots, knots - parameters)
    normal, score = whitened @ free, data.residual * data.inverse_sd
    eigenvalues, vectors = torch.linalg.eigh(normal.T @ normal)
    rotated = vectors.T @ (normal.T @ score)
    strengths = torch.logspace(-8, 4, 49, dtype=unit.dtype) * eigenvalues.max().clamp(min=1e-300)
    # log evidence of N(0, 1 / strength) coefficients, up to what does not depend on the strength
    shrunk = eigenvalues + strengths[:, None]
    evidence = 0.5 * ((rotated**2 / shrunk).sum(-1) + (strengths[:, None] / shrunk).log().sum(-1))
    coefficients = vectors @ (rotated / (eigenvalues + strengths[int(evidence.argmax())]))
    return (free @ coefficients).numpy()


def held_out_gain(data: Residuals, basis: Basis, folds: int = 10) -> Tensor:
    """Return (specimens,) the log likelihood gained on each specimen by a discrepancy learned from the others.

    Only what specimens have in common can help those that were left out.
    """
    count = int(data.specimen.max()) + 1
    gain = torch.zeros(count, dtype=data.residual.dtype)
    for fold in range(min(folds, count)):
        out = data.specimen % min(folds, count) == fold
        values = torch.from_numpy(fit_misfit(Residuals(*(part[~out] for part in data)), basis))
        correction = basis.evaluate(basis.cubics(values), data.prediction[out])
        before, after = data.residual[out] * data.inverse_sd[out], correction * data.inverse_sd[out]
        gain.index_add_(0, data.specimen[out], 0.5 * (before**2 - (before - after) ** 2))
    return gain
