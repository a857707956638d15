from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from numpy import ndarray
from scipy.stats import binom, chi2
from sklearn.linear_model import LogisticRegression

from scimeta.ensembles.stability import slope_stability

PLACE = np.repeat(["A", "B", "C"], 150)


def chances(logit: ndarray) -> ndarray:
    """Return (n, 1, 2) probabilities of one candidate."""
    p = 1 / (1 + np.exp(-logit))
    return np.stack([1 - p, p], axis=1)[:, None]


def draw(logit: ndarray, rng: np.random.Generator) -> ndarray:
    return (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(int)


def test_slopes_of_values_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    z = rng.standard_normal(450)
    y = np.repeat([1.0, 2.0, -1.0], 150) * z + 3.0 + 0.1 * rng.standard_normal(450)
    found = slope_stability(z[:, None], y, PLACE)
    lines = [np.polyfit(z[place == PLACE], y[place == PLACE], 1)[0] for place in "ABC"]
    np.testing.assert_allclose(found.slopes[0], lines, rtol=1e-10)
    np.testing.assert_allclose(found.cv[0], np.std(lines, ddof=1) / abs(np.mean(lines)), rtol=1e-10)


def test_slopes_of_probabilities_are_those_of_logistic_regression():
    rng = np.random.default_rng(1)
    logit = rng.standard_normal(450)
    y = draw(1.5 * logit - 0.5, rng)
    found = slope_stability(chances(logit), y, PLACE)
    for e, place in enumerate("ABC"):
        rows = place == PLACE
        free = LogisticRegression(C=1e8, tol=1e-10).fit(logit[rows, None], y[rows])
        p = free.predict_proba(logit[rows, None])[:, 1]
        design = np.stack([np.ones(150), logit[rows]], axis=1)
        error = np.sqrt(np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)[1, 1])
        np.testing.assert_allclose(found.slopes[0, e], free.coef_[0, 0], rtol=5e-3)  # the weak prior pulls this much
        np.testing.assert_allclose(found.errors[0, e], error, rtol=5e-3)


def test_cochrans_q_is_the_textbooks():
    rng = np.random.default_rng(2)
    z = rng.standard_normal(450)
    found = slope_stability(z[:, None], z + rng.standard_normal(450), PLACE)
    weights = found.errors[0] ** -2
    middle = np.average(found.slopes[0], weights=weights)
    np.testing.assert_allclose(found.p[0], chi2.sf(np.sum(weights * (found.slopes[0] - middle) ** 2), 2), rtol=1e-10)


@pytest.mark.parametrize("kind", ["values", "probabilities"])
def test_equal_slopes_are_called_different_as_often_as_the_level_says(kind):
    rng, repeats, hits = np.random.default_rng(3), 300, 0
    for _ in range(repeats):
        z = rng.standard_normal(450)
        if kind == "values":
            p = slope_stability(z[:, None], z + rng.standard_normal(450), PLACE).p[0]
        else:
            p = slope_stability(chances(z), draw(z, rng), PLACE).p[0]
        hits += p < 0.05
    assert binom.ppf(0.001, repeats, 0.05) <= hits <= binom.ppf(0.999, repeats, 0.05)


def test_a_cue_of_uneven_strength_is_flagged_and_one_of_even_strength_is_not():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 450)

    def cue(rho: ndarray) -> ndarray:
        agrees = np.where(rng.random(450) < rho, y, 1 - y)
        return chances(np.where(agrees == 1, 2.0, -2.0))

    uneven, even = cue(np.repeat([0.99, 0.9, 0.6], 150)), cue(np.full(450, 0.95))
    reader = chances(2 * (y - 0.5) + rng.standard_normal(450))
    found = slope_stability(np.concatenate([uneven, even, reader], axis=1), y, PLACE, ["uneven", "even", "reader"])
    np.testing.assert_array_equal(found.flagged, [True, False, False])


def test_a_small_difference_is_not_flagged_however_sure_it_is():
    rng = np.random.default_rng(5)
    z = rng.standard_normal(450)
    y = np.repeat([1.0, 1.1, 1.2], 150) * z + 0.01 * rng.standard_normal(450)
    found = slope_stability(z[:, None], y, PLACE)
    assert found.p[0] < 1e-10
    assert not found.flagged[0]
    assert slope_stability(z[:, None], y, PLACE, spread=0.05).flagged[0]


def test_separable_classes_give_a_finite_uncertain_slope():
    y = np.arange(60) % 2
    found = slope_stability(chances(np.where(y == 1, 2.0, -2.0)), y, np.repeat(["A", "B"], 30))
    assert np.isfinite(found.slopes).all()
    assert (found.slopes > 1).all()
    assert (found.errors > 0.3).all()
    assert not found.flagged[0]


def test_the_slope_of_many_classes_is_recovered():
    rng = np.random.default_rng(6)
    scores = rng.standard_normal((9000, 3))
    softmax = lambda s: np.exp(s) / np.exp(s).sum(1, keepdims=True)  # noqa: E731
    y = (softmax(0.5 * scores).cumsum(1) < rng.random((9000, 1))).sum(1)
    found = slope_stability(softmax(scores)[:, None], y, np.repeat(["A", "B"], 4500))
    assert (np.abs(found.slopes[0] - 0.5) < 4 * found.errors[0]).all()
    assert (found.errors < 0.03).all()


def test_a_candidate_that_never_varies_has_no_slope_and_no_flag():
    rng = np.random.default_rng(7)
    Z = np.stack([np.ones(450), rng.standard_normal(450)], axis=1)
    found = slope_stability(Z, rng.standard_normal(450), PLACE)
    assert np.isnan(found.slopes[0]).all()
    assert not found.flagged[0]


def test_it_prints_tabulates_and_plots():
    rng = np.random.default_rng(8)
    z = rng.standard_normal(450)
    found = slope_stability(z[:, None], np.repeat([1.0, 5.0, 9.0], 150) * z, PLACE, ["cue"])
    assert str(found).splitlines()[1].startswith("cue ")
    assert str(found).splitlines()[1].endswith("unstable")
    assert found.to_frame().loc["cue", "slope C"] == pytest.approx(9.0)
    ax = found.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cue (unstable)"]
    matplotlib.pyplot.close(ax.figure)


def test_too_few_environments_or_rows_are_refused():
    Z, y = np.random.default_rng(9).standard_normal((30, 2)), np.zeros(30)
    with pytest.raises(ValueError, match="environments must be two or more"):
        slope_stability(Z, y, ["A"] * 30)
    with pytest.raises(ValueError, match=r"environments need 10 rows or more each; too few in B \(5\)"):
        slope_stability(Z, y, ["A"] * 25 + ["B"] * 5)
