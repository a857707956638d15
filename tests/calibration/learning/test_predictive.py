"""The predictive objective: its score in closed form, its gradient against finite differences, its acceptance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scimeta import Curve, Law, Parameter, learn_prior
from scimeta.calibration.data.points import Measured, pad
from scimeta.calibration.family.family import Family
from scimeta.calibration.learning.predictive import (
    _means,
    crps,
    judged,
    move_means,
    predicted,
    predictive,
    scores,
    solved,
    split_points,
)

LINE = Law("line", lambda x, a, b: a + b * x, {"a": Parameter(), "b": Parameter()})
DECAY = Law("decay", lambda t, rate: torch.exp(-rate * t), {"rate": Parameter("1/s", "positive")})
TIMES = np.array([0.1, 0.5, 1.0, 1.5, 2.0, 3.0])


def believed(law: Law, mean: list[float]) -> Family:
    return Family.gaussian(law, [mean], 0.3 * np.eye(len(mean)), 0.1)


def past(rng: np.random.Generator, count: int = 12) -> tuple[Measured, torch.Tensor]:
    y = np.exp(-np.exp(0.5 * rng.standard_normal((count, 1))) * TIMES) + 0.1 * rng.standard_normal((count, 6))
    curves = [Curve(f"A{i}", TIMES[: 6 - i % 2], row[: 6 - i % 2]) for i, row in enumerate(y)]
    return Measured(*pad(curves)), torch.ones(count, 1, dtype=torch.float64)


def test_the_score_is_the_integral_that_defines_it():
    for mean, sd, y in ((0.0, 1.0, 0.3), (2.0, 0.5, -1.0)):
        law = stats.norm(mean, sd)
        below = integrate.quad(lambda v, law=law: law.cdf(v) ** 2, -20.0, y)[0]
        above = integrate.quad(lambda v, law=law: law.sf(v) ** 2, y, 20.0)[0]
        found = float(crps(*(torch.tensor(v, dtype=torch.float64) for v in (mean, sd, y))))
        assert found == pytest.approx(below + above, abs=1e-7)


def test_points_are_seen_or_judge_and_padding_does_neither():
    data, design = past(np.random.default_rng(0))
    rows = torch.arange(12).repeat(20)
    seen = split_points(believed(DECAY, [0.0]), data, design, rows, torch.Generator().manual_seed(0))
    mask = data.mask[rows]
    assert torch.equal((seen.inverse_sd > 0) ^ (seen.judges > 0), mask)
    assert ((seen.inverse_sd > 0).sum(-1) >= 1).all()
    torch.testing.assert_close(seen.judges.sum(-1), torch.ones(240, dtype=torch.float64))
    first = (seen.inverse_sd > 0).double().diff(dim=-1).le(0).all(-1)  # a run of first points
    assert 0.45 < first.double().mean() < 0.75  # every other task, and some by chance


@pytest.mark.parametrize(("law", "mean"), [(LINE, [0.9, -0.3]), (DECAY, [0.1])])
def test_the_meta_gradient_is_the_finite_difference(law, mean):
    # The decay stays at one linearisation, as the gradient takes it; for the line the whole solve is done anew.
    data, design = past(np.random.default_rng(1))
    start = believed(law, mean)
    learner = predictive(start)
    seen = split_points(start, data, design, torch.arange(12), torch.Generator().manual_seed(2))
    task = solved(start, seen)
    _, gradient = learner.meta_gradient(learner.meta, task, 0)

    def loss(moved: dict[str, torch.Tensor]) -> float:
        if law is DECAY:
            return float(judged(start, moved, *task.query).mean())
        anew = replace(start, coefficients=_means(start, moved)[None])
        return float(judged(anew, predictive(anew).meta.init, *solved(anew, seen).query).mean())

    value = learner.meta.init["coefficients"]
    for i in range(value.numel()):
        step = torch.zeros(value.numel(), dtype=torch.float64)
        step[i] = 1e-5
        steps = (sign * step.reshape(value.shape) for sign in (1.0, -1.0))
        ends = [{**learner.meta.init, "coefficients": value + one} for one in steps]
        slope = (loss(ends[0]) - loss(ends[1])) / 2e-5
        assert float(gradient.init["coefficients"].reshape(-1)[i]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_a_linear_law_is_predicted_in_closed_form():
    start = believed(LINE, [0.9, -0.3])
    data, design = past(np.random.default_rng(1))
    task = solved(start, split_points(start, data, design, torch.arange(12), torch.Generator().manual_seed(2)))
    seen, line = task.query
    mean, sd = predicted(start, predictive(start).meta.init, seen, line)
    for i in range(12):
        rows = seen.inverse_sd[i] > 0
        terms = torch.cat([torch.ones(6, 1), seen.x[i, :, None]], -1)
        spread = terms @ start.covariances[0] @ terms.mT
        middle = terms @ start.coefficients[0, 0]
        own = spread[rows][:, rows] + 0.01 * torch.eye(int(rows.sum()))
        gain = torch.linalg.solve(own, spread[rows]).mT
        torch.testing.assert_close(mean[i], middle + gain @ (seen.y[i] - middle)[rows])
        torch.testing.assert_close(sd[i] ** 2, (spread - gain @ spread[rows]).diagonal() + seen.sd[i] ** 2)


def test_moved_means_predict_better_where_they_started_wrong():
    data, design = past(np.random.default_rng(3), 40)
    wrong = believed(DECAY, [1.0])
    coefficients = move_means(wrong, data, design)
    right = replace(wrong, coefficients=coefficients[None])
    new, ones = past(np.random.default_rng(4), 60)
    assert scores(right, new, ones).mean() < 0.97 * scores(wrong, new, ones).mean()
    assert abs(float(coefficients[0, 0])) < 0.6  # on the way from 1 to the truth, 0


def test_without_misfit_the_predictive_objective_is_no_worse_than_the_likelihood():
    def curves(rng: np.random.Generator, count: int) -> list[Curve]:
        y = np.exp(-np.exp(0.4 * rng.standard_normal((count, 1))) * TIMES) + 0.02 * rng.standard_normal((count, 6))
        return [Curve(f"A{i}", TIMES, row) for i, row in enumerate(y)]

    given = curves(np.random.default_rng(5), 20)
    plain, chosen = (learn_prior(DECAY, given, objective=name) for name in ("likelihood", "predictive"))
    assert np.abs(chosen.coefficients - plain.coefficients).max() < 0.1 * plain.covariance[0, 0] ** 0.5
    assert plain.learned.objective == "likelihood"


def test_another_objective_is_refused():
    with pytest.raises(ValueError, match='"likelihood" or "predictive"'):
        learn_prior(LINE, [Curve("A", [1.0], [1.0])], objective="fast")
