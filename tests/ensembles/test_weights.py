"""Weights of a committee: constraints, optimality against plain solvers, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from scimeta.ensembles.blend import Blend, few_folds, learn_blend, row_log_losses
from scimeta.ensembles.weights import (
    affine_log_weights,
    affine_weights,
    balancing_intercept,
    best_single,
    log_likelihood_weights,
    log_pool,
    log_probabilities,
    nnls_weights,
    simplex_weights,
    softmax,
    zero_means,
)

VALUES = (best_single, nnls_weights, simplex_weights)


def values(n: int = 200, candidates: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a level-one matrix of noisy copies of the target, the target and row weights."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    Z = y[:, None] * rng.uniform(0.3, 1.0, candidates) + rng.normal(size=(n, candidates)) + rng.normal(size=candidates)
    return Z, y, rng.integers(0, 4, n).astype(float)


def probabilities(classes: int, n: int = 300, candidates: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = softmax(rng.normal(size=(n, classes)) * 2)
    y = (truth.cumsum(1) < rng.random(n)[:, None]).sum(1)
    noise = rng.normal(size=(n, candidates, classes)) * np.linspace(0.5, 3, candidates)[:, None]
    return softmax(np.log(truth)[:, None] + noise), y, rng.integers(0, 4, n).astype(float)


@pytest.mark.parametrize("learn", VALUES)
@pytest.mark.parametrize("seed", range(5))
def test_weights_lie_on_the_simplex(learn, seed):
    weights = learn(*values(seed=seed))
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_simplex_weights_meet_the_conditions_of_the_optimum(seed):
    Z, y, w = values(seed=seed)
    weights = simplex_weights(Z, y, w)
    slopes = Z.T @ (w * (Z @ weights - y))  # equal where a weight is positive, no lower elsewhere
    scale = np.abs(Z.T @ (w * y)).max()
    used = weights > 0
    assert np.ptp(slopes[used]) < 1e-9 * scale
    assert (slopes[~used] >= slopes[used].min() - 1e-3 * scale).all()


def test_simplex_weights_of_fewer_rows_than_candidates_still_lie_on_the_simplex():
    Z, y, _ = values(n=3, candidates=6)
    weights = simplex_weights(Z, y)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-12)


def test_a_candidate_that_is_the_truth_gets_all_the_weight():
    Z, y, _ = values()
    Z[:, 2] = y
    for learn in VALUES:
        np.testing.assert_allclose(learn(Z, y), np.eye(5)[2], atol=1e-9)


def test_affine_weights_of_infinite_spread_are_ordinary_least_squares():
    Z, y, w = values()
    weights, intercept = affine_weights(Z, y, w, spread=np.inf)
    reference = LinearRegression().fit(Z, y, w)
    np.testing.assert_allclose(weights, reference.coef_, atol=1e-9)
    assert intercept == pytest.approx(reference.intercept_, abs=1e-9)


def test_affine_weights_are_the_mean_of_the_posterior():
    Z, y, w = values()
    near = simplex_weights(Z, y, w)
    free = affine_weights(Z, y, w, spread=np.inf)
    noise = w @ (y - Z @ free[0] - free[1]) ** 2 / (w.sum() - 6)
    shift = Ridge(alpha=noise / 0.3**2, tol=1e-12).fit(Z, y - Z @ near, w)
    weights, intercept = affine_weights(Z, y, w, spread=0.3)
    np.testing.assert_allclose(weights, near + shift.coef_, atol=1e-9)
    assert intercept == pytest.approx(shift.intercept_, abs=1e-9)


def test_affine_weights_go_from_the_simplex_to_least_squares_with_the_rows():
    gaps = []
    for n in (20, 200, 20_000):
        Z, y, _ = values(n)
        gaps.append(np.abs(affine_weights(Z, y)[0] - affine_weights(Z, y, spread=np.inf)[0]).max())
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-2
    Z, y, _ = values()
    np.testing.assert_allclose(affine_weights(Z, y, spread=1e-6)[0], simplex_weights(Z, y), atol=1e-6)


def test_equal_candidates_do_not_upset_affine_weights():
    Z, y, _ = values(candidates=1)
    weights, intercept = affine_weights(np.repeat(Z, 3, axis=1), y, spread=np.inf)
    single, same = affine_weights(Z, y, spread=np.inf)
    assert weights.sum() == pytest.approx(single[0], rel=1e-9) and np.abs(weights).max() < 2
    assert intercept == pytest.approx(same, abs=1e-9)


@pytest.mark.parametrize("spread", [0.0, -1.0, np.nan])
def test_a_spread_that_is_none_is_refused(spread):
    Z, y, _ = values()
    with pytest.raises(ValueError, match="spread must be positive"):
        affine_weights(Z, y, spread=spread)
    P, y, _ = probabilities(2)
    with pytest.raises(ValueError, match="spread must be positive"):
        affine_log_weights(log_probabilities(P), y, spread=spread)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("convex", [True, False])
def test_likelihood_weights_are_the_optimum_of_a_general_solver(classes, convex):
    P, y, w = probabilities(classes)
    L = log_probabilities(P)

    def loss(u):
        return -w @ np.log(softmax(np.einsum("ijc,j->ic", L, u))[np.arange(len(y)), y])

    equal = [{"type": "eq", "fun": lambda u: u.sum() - 1}] if convex else []
    found = minimize(loss, np.full(4, 0.25), method="SLSQP", bounds=[(0, None)] * 4, constraints=equal, tol=1e-12).x
    np.testing.assert_allclose(log_likelihood_weights(L, y, w, convex=convex), found / found.sum(), atol=2e-4)
    assert loss(log_likelihood_weights(L, y, w)) <= loss(np.eye(4)[0])


def test_affine_weights_on_the_logit_scale_are_logistic_regression():
    P, y, w = probabilities(2)
    logits = np.log(P[..., 1] / P[..., 0])
    weights, intercepts = affine_log_weights(log_probabilities(P), y, w, spread=1e3)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, y, w)
    np.testing.assert_allclose(weights, reference.coef_[0], atol=0.01)  # intercepts are held near 0
    assert intercepts[1] - intercepts[0] == pytest.approx(reference.intercept_[0], abs=0.01)


@pytest.mark.parametrize("classes", [2, 3])
def test_likelihood_weights_of_candidates_that_mislead_choose_the_least_wrong(classes):
    """Their best sum is 0, of which there are no shares."""
    y = np.arange(60) % classes
    wrong = np.eye(classes)[(y + 1) % classes]
    P = np.stack([share * wrong + (1 - share) / classes for share in (0.9, 0.5, 0.7)], axis=1)
    np.testing.assert_array_equal(log_likelihood_weights(log_probabilities(P), y, convex=False), [0, 1, 0])


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_likelihood_weights_are_the_optimum_where_a_candidate_is_wrongly_sure(classes, convex):
    """Naive Bayes says 1e-200 of what is true now and then."""
    P, y, w = probabilities(classes)
    L = np.log(P)
    L[:, 3] = 100 * L[:, 3]
    L[:, 3] -= np.log(np.exp(L[:, 3] - L[:, 3].max(1, keepdims=True)).sum(1, keepdims=True)) + L[:, 3].max(
        1, keepdims=True
    )
    assert L.min() < -500
    w = np.maximum(w, 0.1)
    u = log_likelihood_weights(L, y, w, convex=convex)

    def loss(u):
        scores = np.einsum("ijc,j->ic", L, u)
        return w @ (np.log(np.exp(scores - scores.max(1)[:, None]).sum(1)) + scores.max(1) - scores[np.arange(300), y])

    equal = [{"type": "eq", "fun": lambda u: u.sum() - 1}] if convex else []
    found = minimize(loss, np.full(4, 0.25), method="SLSQP", bounds=[(0, None)] * 4, constraints=equal, tol=1e-12).x
    np.testing.assert_allclose(u, found / found.sum(), atol=1e-3)


def test_a_zero_counts_as_half_a_row_or_as_less_where_the_candidate_says_less():
    P = np.array([[[0.0, 1.0], [1e-30, 1.0]], [[0.4, 0.6], [0.0, 1.0]]])
    np.testing.assert_array_equal(zero_means(P), [0.25, 1e-30])
    np.testing.assert_array_equal(zero_means(P, 1000), [0.0005, 1e-30])
    np.testing.assert_allclose(log_probabilities(P, zero_means(P))[:, :, 0], np.log([[0.25, 1e-30], [0.4, 1e-30]]))


def test_small_probabilities_are_combined_as_they_are():
    small = np.array([[1e-9, 1 - 1e-9], [1e-5, 1 - 1e-5]])
    both = log_pool(small[None], np.array([0.5, 0.5]), np.full(2, 1e-3))
    assert both[0, 0] == pytest.approx(1e-7, rel=1e-4)
    np.testing.assert_allclose(log_pool(small[:, None], np.ones(1), np.full(1, 1e-3)), small, rtol=1e-12)


def test_zeros_of_all_that_have_a_say_stay_zeros_and_those_of_some_do_not():
    P = np.array([[[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.3, 0.3, 0.4]]])
    zero = np.full(3, 1e-4)
    two = log_pool(P, np.array([0.5, 0.5, 0.0]), zero)[0]
    assert two[0] == 0 and two.sum() == pytest.approx(1)
    assert two[1] / two[2] == pytest.approx(np.sqrt(1e-4))
    np.testing.assert_allclose(log_pool(P, np.array([0.0, 1.0, 0.0]), zero), P[:, 1])
    assert (log_pool(P, np.full(3, 1 / 3), zero) > 0).all()
    np.testing.assert_allclose(log_pool(P, np.array([[0.0, 1.0, 0.0]]), zero), P[:, 1])
    np.testing.assert_allclose(log_pool(P, np.zeros(3), zero), 1 / 3)


def test_intercepts_make_as_many_expected_as_were_seen():
    P, y, w = probabilities(3, n=3000)
    scores = np.log(P[:, 3]) + np.array([2.0, 0.0, -3.0])
    expected = w @ softmax(scores + balancing_intercept(scores, y, w))
    np.testing.assert_allclose(expected, w @ np.eye(3)[y], rtol=0.01)


def test_separable_classes_give_finite_weights():
    P = np.stack([np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])] * 2, axis=1)
    y = np.array([0, 0, 1, 1])
    assert np.isfinite(affine_log_weights(log_probabilities(P), y)[0]).all()
    assert log_likelihood_weights(log_probabilities(P), y, convex=False).sum() == pytest.approx(1)


@pytest.mark.parametrize("learn", [*VALUES, lambda *a: affine_weights(*a)[0]])
def test_a_row_of_weight_three_is_three_rows(learn):
    Z, y, w = values()
    rows = np.repeat(np.arange(len(y)), w.astype(int))
    np.testing.assert_allclose(learn(Z, y, w), learn(Z[rows], y[rows]), atol=1e-9)


def test_auto_keeps_the_simplex_where_affine_gains_nothing():
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(300, 3))
    assert learn_blend(Z, Z @ [0.5, 0.3, 0.2] + rng.normal(size=300)).method == "simplex"


def test_auto_takes_affine_where_all_candidates_are_biased():
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    blend = learn_blend(2 * y[:, None] + 5 + 0.1 * rng.normal(size=(300, 3)), y)
    assert blend.method == "affine"
    assert blend.weights.sum() == pytest.approx(0.5, abs=0.01) and blend.intercept == pytest.approx(-2.5, abs=0.05)


def test_auto_counts_the_rows_of_a_group_as_one():
    """Four copies of each row say no more than one, so they must not make affine's gain certain."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=30)
    Z = 0.75 * y[:, None] + rng.normal(size=(30, 2))
    rows = np.repeat(np.arange(30), 40)
    options = {"folds": np.arange(30)[rows] % 5}
    assert learn_blend(Z[rows], y[rows], groups=rows, **options).method == "simplex"
    assert learn_blend(Z[rows], y[rows], **options).method == "affine"


def test_auto_joins_many_folds_to_ten():
    Z, y, _ = values(60)
    folds = np.arange(60)
    assert learn_blend(Z, y, folds=folds).method == learn_blend(Z, y, folds=folds % 10).method
    assert len(np.unique(few_folds(folds))) == 10
    np.testing.assert_array_equal(few_folds(folds // 20), folds // 20)


@pytest.mark.parametrize("classes", [2, 3])
def test_auto_of_probabilities_takes_affine_where_all_are_overconfident(classes):
    P, y, _ = probabilities(classes)
    assert learn_blend(P, y).method == "cc_nloglik"
    rng = np.random.default_rng(2)
    calm = softmax(rng.normal(size=(600, classes)))
    y = (calm.cumsum(1) < rng.random(600)[:, None]).sum(1)
    loud = np.stack([calm**4 / (calm**4).sum(1, keepdims=True)] * 2, axis=1)
    blend = learn_blend(loud, y)
    assert blend.method == "affine"
    assert row_log_losses(blend(loud), y).mean() < row_log_losses(loud, y).mean()


@pytest.mark.parametrize("method", ["auto", "discrete", "nnls", "simplex", "nnloglik", "cc_nloglik"])
@pytest.mark.parametrize("classes", [2, 3])
def test_blended_probabilities_add_up_to_one(method, classes):
    P, y, w = probabilities(classes)
    blended = learn_blend(P, y, method, sample_weight=w)(P)
    np.testing.assert_allclose(blended.sum(1), 1, atol=1e-12)
    assert (blended >= 0).all()


def test_a_function_of_ones_own_learns_the_weights():
    Z, y, _ = values()
    blend = learn_blend(Z, y, lambda Z, y, w: np.ones(Z.shape[1]))
    np.testing.assert_allclose(blend(Z), Z.mean(1))


def test_a_blend_on_the_logit_scale_adds_logits():
    P = np.array([[[0.5, 0.5], [0.2, 0.8]]])
    blended = Blend("cc_nloglik", np.array([0.5, 0.5]), scale="logit")(P)
    assert np.log(blended[0, 1] / blended[0, 0]) == pytest.approx(0.5 * np.log(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda Z, y, w: (Z, y, -w), "Negative values"),
        (lambda Z, y, w: (Z, y, 0 * w), "zero in all rows"),
        (lambda Z, y, w: (Z, y, w[1:]), "sample_weight.shape"),
        (lambda Z, y, w: (Z[1:], y, w), "Z must be"),
        (lambda Z, y, w: (Z * np.nan, y, w), "finite"),
        (lambda Z, y, w: (Z[:, :0], y, w), "neither empty"),
    ],
)
@pytest.mark.parametrize("learn", [*VALUES, affine_weights])
def test_a_level_one_matrix_that_is_none_is_refused(learn, change, message):
    with pytest.raises(ValueError, match=message):
        learn(*change(*values()))


def test_probabilities_with_labels_that_are_no_numbers_of_classes_are_refused():
    P, y, _ = probabilities(2)
    for wrong in (y + 1, y - 1, y.astype(float)):
        with pytest.raises(ValueError, match="whole numbers from 0 to 1"):
            log_likelihood_weights(log_probabilities(P), wrong)


def test_an_unknown_name_is_answered_with_the_known_ones():
    Z, y, _ = values()
    with pytest.raises(ValueError, match=r"auto, discrete, nnls, simplex, affine.*got 'ridge'"):
        learn_blend(Z, y, "ridge")
    with pytest.raises(ValueError, match="should be one of"):
        learn_blend(Z, y, "nnloglik")  # of probabilities only
    with pytest.raises(ValueError, match="or a function; got array"):
        learn_blend(Z, y, np.full(5, 0.2))


@pytest.mark.parametrize("weights", [[-1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [1, 1], [np.nan, 1, 1, 1, 1]])
def test_weights_of_ones_own_that_are_none_are_refused(weights):
    Z, y, _ = values()
    with pytest.raises(ValueError, match="non-negative numbers, not all zero"):
        learn_blend(Z, y, lambda Z, y, w: weights)
