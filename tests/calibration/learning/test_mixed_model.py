"""The linear mixed model around a law: its closed forms against dense ones, its numbers against the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.family.discrepancy import KNOTS
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.mixed_learning import basis_for, first_x, learn_mixed
from scimeta.calibration.learning.mixed_model import (
    Blocks,
    Form,
    Layout,
    MixedPast,
    Problem,
    own_root,
    relative_variance,
    variance_of,
)
from scimeta.calibration.learning.mixed_modes import Centre, judged, modes, placed
from scimeta.calibration.learning.restricted_likelihood import (
    columns_of,
    first_numbers,
    maximised,
    penalty,
    reduced,
    restricted,
)

BOTH = Law("line", lambda x, level, slope: level + slope * x, {"level": Parameter(), "slope": Parameter()})
ONE = Law("line", lambda x, level, slope: level + slope * x, {"level": Parameter(), "slope": Parameter(shared=True)})
CURVED = Law(
    "approach",
    lambda x, top, rate: top * (1 - torch.exp(-rate * x)),
    {"top": Parameter(), "rate": Parameter("1/s", "positive")},
)
FORMS = [
    Form(),
    Form(groups=True),
    Form("combined"),
    Form("power", own="x"),
    Form("proportional", common="prediction", groups=True),
    Form("constant", "x", "prediction", True, True),
]


def past_of(
    x: np.ndarray, y: np.ndarray, group: np.ndarray | None = None, conditions: int = 0, seed: int = 0
) -> MixedPast:
    """Return a past of full curves; conditions are drawn."""
    z = np.random.default_rng(seed).standard_normal((len(y), conditions))
    design = torch.from_numpy(np.column_stack([np.ones(len(y)), z]))
    data = Measured(*map(torch.from_numpy, (x, y, np.full_like(y, np.nan), np.ones_like(y, dtype=bool))))
    return MixedPast(data, design, None if group is None else torch.from_numpy(group))


def lines(seed: int, sigma: bool = True) -> MixedPast:
    """Return 12 lines of 7 readings in 4 groups, two of them shorter, some readings with their own sigma."""
    rng = np.random.default_rng(seed)
    group = np.arange(12) % 4
    x = np.sort(rng.uniform(0.1, 3.0, (12, 7)), axis=1)
    level = 1.0 + (0.4 * rng.standard_normal(4))[group] + 0.3 * rng.standard_normal(12)
    y = level[:, None] + (0.5 + 0.1 * rng.standard_normal((12, 1))) * x + 0.05 * rng.standard_normal((12, 7))
    past = past_of(x, y, group, conditions=1, seed=seed)
    past.data.mask[[2, 5], 4:] = False
    if sigma:
        past.data.sigma[7:9, :5] = 0.1
    return past


def linearised(law: Law, past: MixedPast, form: Form, seed: int) -> tuple[Problem, Blocks, Tensor]:
    """Return the model of a line at drawn parameters and drawn numbers, the mean's coefficients taken for 0."""
    rng, fast = np.random.default_rng(seed), len(law.fast)
    theta = torch.from_numpy(np.array([1.0, 0.5])[:fast] + 0.2 * rng.standard_normal((len(past.design), fast)))
    shared = torch.full((len(law.names) - fast,), 0.5, dtype=torch.float64)
    step = first_x(past.data) if form.start else 0.0
    problem = Problem(law, past, Layout(form, fast), {}, 2.0, step)
    plain = placed(problem, theta, shared)
    population = 0.1 * torch.eye(fast, dtype=torch.float64)
    problem = problem._replace(basis={n: basis_for(n, past.data, plain, population) for n in form.coordinates})
    place = placed(problem, theta, shared)
    r = torch.where(past.data.mask, past.data.y - place.f, 0.0) + (place.J @ theta[..., None])[..., 0]
    eta = first_numbers(problem, 0.06, population, None)
    eta = eta + 0.2 * torch.from_numpy(rng.standard_normal(len(eta)))
    return problem, Blocks(r, *place[:5]), eta


def dense(problem: Problem, blocks: Blocks, eta: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return V (readings, readings), the fixed columns X, those of the common curve (times its root), and r."""
    past, form, layout, keep = problem.past, problem.form, problem.layout, problem.past.data.mask.numpy().ravel()
    count, points = past.data.x.shape
    J = blocks.J.numpy()
    blocked = np.zeros((count, points, count, points))
    C = layout.covariance(eta, "own_covariance").numpy()
    Z, root = [], own_root(problem, eta)
    if form.own:
        Z.append(blocks.phi[form.own].numpy())
    if form.start:
        assert blocks.late is not None
        Z.append(blocks.late.numpy()[..., None])
    for i in range(count):
        blocked[i, :, i] = J[i] @ C @ J[i].T + np.diag(variance_of(problem, eta, blocks.f)[i].numpy())
        if root is not None:
            own = np.concatenate([z[i] for z in Z], -1) @ root.numpy()
            blocked[i, :, i] += own @ own.T
        for j in range(count):
            if form.groups and past.group is not None and past.group[i] == past.group[j]:
                blocked[i, :, j] += J[i] @ layout.covariance(eta, "group_covariance").numpy() @ J[j].T
    V = blocked.reshape(count * points, -1)[np.ix_(keep, keep)]
    design = past.design.numpy()
    X = np.concatenate([J[..., [a]] * design[:, None] for a in range(J.shape[-1])], -1)
    X = np.concatenate([X, blocks.slow.numpy(), *([Z[-1]] if form.start else [])], -1)
    common = np.zeros((count, points, 0))
    if form.common:
        kernel = problem.basis[form.common].kernel_root(eta[layout.at["length"]][0], eta[layout.at["common"]])
        common = blocks.phi[form.common].numpy() @ kernel.numpy()
    return V, *(part.reshape(count * points, -1)[keep] for part in (X, common)), blocks.r.numpy().ravel()[keep]


@pytest.mark.parametrize("law", [BOTH, ONE], ids=["own slopes", "a shared slope"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_restricted_likelihood_of_a_line_is_the_dense_one(law: Law, form: Form):
    for seed in range(3):
        past = lines(seed)
        problem, blocks, eta = linearised(law, past, form, seed)
        V, X, common, r = dense(problem, blocks, eta)
        whole = V + common @ common.T
        inverse = np.linalg.inv(whole)
        A = X.T @ inverse @ X
        b = np.linalg.solve(A, X.T @ inverse @ r)
        left = r - X @ b
        expected = np.linalg.slogdet(whole)[1] + np.linalg.slogdet(A)[1] + left @ inverse @ left
        nll, solution, _ = restricted(problem, eta, blocks, columns_of(problem, blocks))
        found = 2.0 * float(nll) - float(penalty(problem.layout, eta))
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-6)
        fixed, size = solution.fixed.numpy(), len(b)
        assert fixed[:size] == pytest.approx(b, rel=1e-5, abs=1e-6)
        assert solution.covariance.numpy()[:size, :size] == pytest.approx(np.linalg.inv(A), rel=1e-4, abs=1e-7)


def test_the_fixed_numbers_and_the_groups_effects_are_those_of_henderson():
    """The mixed model equations, with the groups' effects as unknowns beside the fixed numbers."""
    past = lines(4)
    problem, blocks, eta = linearised(BOTH, past, Form(groups=True), 4)
    found = reduced(problem, eta, blocks, columns_of(problem, blocks))
    V, X, _, r = dense(problem._replace(layout=Layout(Form(), 2)), blocks, eta[: Layout(Form(), 2).count])
    keep, member = past.data.mask.numpy().ravel(), np.eye(4)[past.group.numpy()]
    Z = np.concatenate([blocks.J.numpy()[..., [a]] * member[:, None] for a in range(2)], -1).reshape(-1, 8)[keep]
    W, G = np.linalg.inv(V), np.kron(problem.layout.covariance(eta, "group_covariance").numpy(), np.eye(4))
    A = np.block([[X.T @ W @ X, X.T @ W @ Z], [Z.T @ W @ X, Z.T @ W @ Z + np.linalg.inv(G)]])
    both = np.linalg.solve(A, np.concatenate([X.T @ W @ r, Z.T @ W @ r]))
    assert found.fixed.numpy() == pytest.approx(both[:4], rel=1e-7)
    assert found.group is not None
    assert found.group.numpy() == pytest.approx(both[4:].reshape(2, 4).T, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_gradient_of_the_restricted_likelihood_is_that_of_differences(form: Form):
    problem, blocks, eta = linearised(BOTH, lines(1), form, 1)
    columns = columns_of(problem, blocks)
    point = eta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(restricted(problem, point, blocks, columns)[0], point)
    for i in range(len(eta)):
        ends = [eta + sign * 1e-5 * torch.eye(len(eta), dtype=torch.float64)[i] for sign in (1, -1)]
        high, low = (float(restricted(problem, end, blocks, columns)[0]) for end in ends)
        assert float(gradient[i]) == pytest.approx((high - low) / 2e-5, rel=1e-4, abs=1e-4)


def test_what_was_maximised_has_no_gradient_left():
    problem, blocks, eta = linearised(BOTH, lines(2), Form(groups=True), 2)
    columns = columns_of(problem, blocks)
    found, _ = maximised(problem, eta, blocks, columns, 300)
    point = found.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(restricted(problem, point, blocks, columns)[0], point)
    assert gradient.abs().max() < 0.01


def test_a_mixed_model_of_lines_has_the_means_of_generalised_least_squares():
    past = lines(3)
    theta = torch.tensor([[1.0, 0.5]], dtype=torch.float64).expand(12, -1)
    mixed = learn_mixed(BOTH, past, Form(), theta, torch.zeros(0), 0.1, 0.1 * torch.eye(2, dtype=torch.float64))
    data, C = past.data, mixed.own_covariance.numpy()
    A, right = np.zeros((4, 4)), np.zeros(4)
    for i in range(12):
        keep = data.mask[i].numpy()
        J = np.column_stack([np.ones(7), data.x[i].numpy()])[keep]
        sd = np.where(data.given[i].numpy(), 0.1, mixed.noise)[keep]
        W = np.linalg.inv(J @ C @ J.T + np.diag(sd**2))
        X = np.kron(past.design[i].numpy(), J.reshape(-1, 1)).reshape(len(J), 2, 2).reshape(len(J), 4)
        A, right = A + X.T @ W @ X, right + X.T @ W @ data.y[i].numpy()[keep]
    expected = np.linalg.solve(A, right).reshape(2, 2).T  # parameter by parameter -> regressors first
    assert mixed.beta.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    covariance = np.linalg.inv(A).reshape(2, 2, 2, 2).transpose(1, 0, 3, 2)
    assert mixed.beta_covariance.numpy() == pytest.approx(covariance, rel=1e-4, abs=1e-9)


def test_the_mode_of_a_line_is_the_posterior_mean_of_the_textbook():
    past = lines(5)
    problem, _, eta = linearised(BOTH, past, Form(), 5)
    C, mean = problem.layout.covariance(eta, "own_covariance"), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    found = modes(problem, eta, mean.expand(12, -1), torch.zeros(0), Centre(mean.expand(12, -1), C, None), 50)
    for i in range(12):
        keep = past.data.mask[i].numpy()
        J = np.column_stack([np.ones(7), past.data.x[i].numpy()])[keep]
        W = np.diag(1.0 / variance_of(problem, eta, past.data.x)[i].numpy()[keep])
        precision = np.linalg.inv(C.numpy())
        right = J.T @ W @ past.data.y[i].numpy()[keep] + precision @ mean[0].numpy()
        assert found[i].numpy() == pytest.approx(np.linalg.solve(J.T @ W @ J + precision, right), rel=1e-5)


def test_a_step_to_where_the_law_is_not_finite_is_not_taken():
    x = np.tile(np.linspace(0.1, 1.0, 6), (3, 1))
    past = past_of(x, np.full_like(x, -50.0))  # below what the root can be: steps lead to negative numbers
    law = Law("root", lambda t, a: torch.sqrt(a) * t, {"a": Parameter()})
    problem = Problem(law, past, Layout(Form(), 1), {}, 1.0, 0.0)
    eta = torch.tensor([-2.0, 5.0], dtype=torch.float64)
    centre = Centre(torch.full((3, 1), 0.2), torch.full((1, 1), 1e4, dtype=torch.float64), None)
    theta = torch.tensor([[0.2], [0.5], [3.0]], dtype=torch.float64)
    found = modes(problem, eta, theta, torch.zeros(0), centre, 20)
    assert torch.isfinite(law.curve({"a": found[:, 0]}, past.data.x)).all()
    bad = judged(problem, eta, -theta, torch.zeros(0), centre)
    assert torch.isinf(bad.value).all()


def test_a_parameter_of_which_the_past_says_nothing_does_not_end_the_learning():
    """Three parameters, readings only where the curve has long been at its top."""
    rng = np.random.default_rng(0)
    x = np.tile(np.array([50.0, 60.0, 70.0, 80.0]), (10, 1))
    y = 5.0 + 0.5 * rng.standard_normal((10, 1)) + 0.05 * rng.standard_normal((10, 4))
    law = Law(
        "growth",
        lambda t, top, foot, rate: top + (foot - top) * torch.exp(-torch.exp(rate) * t),
        {"top": Parameter(), "foot": Parameter(), "rate": Parameter()},
    )
    theta = torch.tensor([[5.0, 0.0, 0.0]], dtype=torch.float64).expand(10, -1)
    mixed = learn_mixed(law, past_of(x, y), Form(), theta, torch.zeros(0), 0.1, torch.eye(3, dtype=torch.float64))
    assert torch.isfinite(mixed.theta).all() and torch.isfinite(mixed.beta).all()
    assert float(mixed.beta[0, 0]) == pytest.approx(y.mean(), abs=1e-3)


def test_the_smooth_curve_has_no_part_that_a_common_change_of_the_parameters_imitates():
    _, blocks, _ = linearised(CURVED, lines(6, sigma=False), Form(common="x", own="prediction"), 6)
    for name, columns in blocks.phi.items():
        shared = (columns.mT @ blocks.J).sum(0)
        scale = columns.norm() * blocks.J.norm()
        assert columns.shape[-1] == KNOTS - 2, name
        assert shared.abs().max() < 1e-6 * scale


def test_the_variance_of_each_error_model_is_that_of_the_equation():
    f, numbers = torch.tensor([0.0, -1.0, 4.0]), torch.tensor([np.log(0.3), 0.7])
    share = 1 / (1 + np.exp(-0.7))
    expected = {
        "constant": np.full(3, 0.09),
        "proportional": 0.09 * np.array([1e-4, 0.25, 4.0]),
        "combined": 0.09 * (share + (1 - share) * np.array([1e-4, 0.25, 4.0])),
        "power": 0.09 * np.array([0.01, 0.5, 2.0]) ** 1.4,
    }
    for kind, variance in expected.items():
        assert relative_variance(kind, numbers, f, 2.0).numpy() == pytest.approx(variance, rel=1e-5), kind


def test_the_error_model_that_is_handed_on_has_the_variance_that_was_learned():
    x = np.tile(np.linspace(0.2, 3.0, 9), (12, 1))
    rng = np.random.default_rng(0)
    y = (2.0 + 0.3 * rng.standard_normal((12, 1))) * (1 - np.exp(-x)) * (1 + 0.05 * rng.standard_normal((12, 9)))
    theta = torch.tensor([[2.0, 0.0]], dtype=torch.float64).expand(12, -1)
    for kind in ("constant", "proportional", "combined", "power"):
        mixed = learn_mixed(
            CURVED, past_of(x, y), Form(kind), theta, torch.zeros(0), 0.1, 0.1 * torch.eye(2, dtype=torch.float64)
        )
        handed_on = mixed.noise**2 * mixed.error_model.relative_variance(mixed.blocks.f)
        learned = variance_of(mixed.problem, mixed.eta, mixed.blocks.f)
        assert handed_on.numpy() == pytest.approx(learned.numpy()), kind


def test_a_form_says_what_it_consists_of():
    assert str(Form()) == "constant"
    assert str(FORMS[-1]) == "constant, common over x, own over prediction, late start, groups"
    assert [form.parts for form in FORMS] == [0, 0, 0, 1, 2, 4]  # a common curve counts twice
    same, mixed = Form(common="prediction", own="prediction"), Form(common="prediction", own="x")
    assert Form(common="x").complexity < same.complexity < mixed.complexity


def test_a_covariance_between_groups_needs_groups():
    past = lines(0)._replace(group=None)
    problem, blocks, eta = linearised(BOTH, past, Form(groups=True), 0)
    with pytest.raises(ValueError, match="needs the group of every specimen"):
        restricted(problem, eta, blocks, columns_of(problem, blocks))


def test_the_unit_of_a_late_start_is_the_first_positive_x_of_the_median_specimen():
    x = np.array([[0.0, 0.5, 1.0], [0.2, 0.3, 1.0], [0.0, 0.7, 1.0]])
    assert first_x(past_of(x, x).data) == 0.5
    assert first_x(past_of(-x, x).data) == 0.0
