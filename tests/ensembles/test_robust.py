from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from numpy import ndarray

from scimeta.ensembles.robust import environment_dro, group_dro
from scimeta.ensembles.weights import simplex_weights

PLACE = np.repeat(["A", "B", "C"], [200, 100, 60])


def values(rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Return three candidates, each good in another place, and the target."""
    y = rng.standard_normal(360)
    noise = np.array([[0.2, 1.0, 0.8], [1.0, 0.3, 0.9], [0.7, 0.8, 0.25]])[:, np.repeat([0, 1, 2], [200, 100, 60])]
    return y[:, None] + noise.T * rng.standard_normal((360, 3)), y


def tale(rng: np.random.Generator, rows: int = 3000, rho: float = 0.95) -> tuple[ndarray, ndarray, ndarray]:
    """Return two readers and one that follows a cue, (rows, 3, 2); label; cue."""
    y = rng.integers(0, 2, rows)
    cue = np.where(rng.random(rows) < rho, y, 1 - y)
    logits = 1.5 * (2 * y[:, None] - 1) + 1.5 * rng.standard_normal((rows, 2))
    p = np.column_stack([1 / (1 + np.exp(-logits)), np.where(cue == 1, 0.95, 0.05)])
    return np.stack([1 - p, p], axis=2), y, cue


def accuracy(blend, Z: ndarray, y: ndarray) -> float:
    return (blend(Z).argmax(1) == y).mean()


def test_no_weights_on_the_simplex_have_a_better_worst_place():
    Z, y = values(np.random.default_rng(0))
    found = environment_dro(Z, y, PLACE)
    assert found.converged
    a, b = np.meshgrid(np.linspace(0, 1, 201), np.linspace(0, 1, 201))
    grid = np.stack([a, b, 1 - a - b], axis=-1)[a + b <= 1]
    squares = (Z @ grid.T - y[:, None]) ** 2
    worst = np.max([squares[place == PLACE].mean(0) for place in "ABC"], axis=0)
    assert found.risks.max() <= worst.min() + 1e-9
    np.testing.assert_allclose(found.blend.weights, grid[worst.argmin()], atol=0.01)
    np.testing.assert_allclose(found.blend.weights.sum(), 1)


def test_the_ordinary_blend_of_values_is_that_of_least_squares():
    Z, y = values(np.random.default_rng(1))
    squares = (Z @ simplex_weights(Z, y) - y) ** 2
    expected = [squares[place == PLACE].mean() for place in "ABC"]
    np.testing.assert_allclose(environment_dro(Z, y, PLACE).ordinary, expected, rtol=1e-4)


def test_weights_do_not_depend_on_the_unit():
    Z, y = values(np.random.default_rng(2))
    one, other = environment_dro(Z, y, PLACE), environment_dro(1e6 * Z, 1e6 * y, PLACE)
    np.testing.assert_allclose(one.blend.weights, other.blend.weights, atol=1e-5)
    np.testing.assert_allclose(1e12 * one.risks, other.risks, rtol=1e-5)


def test_no_weights_near_by_have_a_better_worst_group_of_probabilities():
    rng = np.random.default_rng(3)
    Z, y, cue = tale(rng)
    found = group_dro(Z, y, cue)
    assert found.converged
    logit = np.log(Z)
    logit = logit[..., 1] - logit[..., 0]
    sign, cell = 2 * y - 1, 2 * y + cue

    def worst(weights: ndarray, intercept: float) -> float:
        losses = np.logaddexp(0, -sign * (logit @ weights + intercept))
        return max(losses[cell == k].mean() for k in range(4))

    own = found.blend.weights, float(found.blend.intercept[1] - found.blend.intercept[0])
    np.testing.assert_allclose(worst(*own), found.risks.max(), rtol=1e-10)
    for size in (0.3, 0.03, 0.003):
        for _ in range(100):
            near = np.maximum(own[0] + size * rng.standard_normal(3), 0), own[1] + size * rng.standard_normal()
            assert worst(*near) >= found.risks.max() - 1e-6


def test_a_declared_cue_is_not_followed():
    rng = np.random.default_rng(4)
    (Z, y, cue), (shifted, truth, _) = tale(rng), tale(rng, rho=0.05)
    robust, blind = group_dro(Z, y, cue, ["a", "b", "cue"]), environment_dro(Z, y, np.arange(3000) % 3)
    assert accuracy(blind, Z, y) > 0.95 and accuracy(blind, shifted, truth) < 0.7
    assert accuracy(robust, shifted, truth) > 0.88
    assert abs(accuracy(robust, shifted, truth) - accuracy(robust, Z, y)) < 0.03
    assert robust.risks.max() < 0.5 * robust.ordinary.max()


def test_labels_may_be_words():
    Z, y, cue = tale(np.random.default_rng(5))
    numbers = group_dro(Z, y, cue)
    words = group_dro(Z, np.array(["blame", "praise"])[y], np.array([".", "!!"])[cue])
    np.testing.assert_allclose(words.blend.weights, numbers.blend.weights, atol=1e-4)
    assert numbers.groups == ("label 0, 0", "label 0, 1", "label 1, 0", "label 1, 1")


def test_many_classes_are_combined_on_the_logit_scale():
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, 900)
    good, bad = np.eye(3)[y] * 0.6 + rng.random((900, 3)) * 0.6, rng.random((900, 3))
    Z = np.stack([good / good.sum(1, keepdims=True), bad / bad.sum(1, keepdims=True)], axis=1)
    found = environment_dro(Z, y, np.arange(900) % 2)
    assert found.blend.weights[1] < 0.1 * found.blend.weights[0]
    np.testing.assert_allclose(found(Z).sum(1), 1)
    losses = -np.log(found(Z)[np.arange(900), y])
    np.testing.assert_allclose([losses[::2].mean(), losses[1::2].mean()], found.risks, rtol=0.01)


def test_it_prints_tabulates_and_plots():
    Z, y = values(np.random.default_rng(7))
    found = environment_dro(Z, y, PLACE, ["one", "two", "three"])
    assert str(found).startswith("weights: one ")
    assert "NOT CONVERGED" not in str(found)
    assert found.to_frame().loc["A", "rows"] == 200
    ax = found.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["A", "B", "C"]
    matplotlib.pyplot.close(ax.figure)


def test_what_makes_no_groups_is_refused():
    Z, y, cue = tale(np.random.default_rng(8), rows=200)
    with pytest.raises(ValueError, match="for values pass the attribute to environment_dro"):
        group_dro(Z[..., 1], y, cue)
    with pytest.raises(ValueError, match="attribute must be two or more"):
        group_dro(Z, y, np.zeros(200))
    with pytest.raises(
        ValueError, match=r"groups label x attribute need 5 rows or more each; too few in label 0, rare"
    ):
        group_dro(Z, y, np.where(np.arange(200) == np.flatnonzero(y == 0)[0], "rare", "usual"))
