from __future__ import annotations

import math

import pytest
import torch

from scimeta import Task, adapt, evaluate, maml, over_tasks, sgd
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.core.rules import Meta
from scimeta.core.tasks import Stream
from scimeta.domains import landscapes
from scimeta.domains.kinetics import JMAK
from scimeta.domains.landscapes import (
    CurvedRavine,
    Network,
    Quadratic,
    curved_ravines,
    law_fits,
    law_loss,
    log_reduction,
    loss,
    networks,
    origin,
    quadratics,
)

DOUBLE = torch.float64
DECAY = Law("decay", lambda t, tau: torch.exp(-t / tau), {"tau": Parameter("s", "positive")})
FAMILIES = {
    "quadratics": lambda **options: quadratics(4, **options),
    "curved_ravines": lambda **options: curved_ravines(2, **options),
    "networks": lambda **options: networks(3, 8, **options),
    "law_fits": lambda **options: law_fits(
        JMAK, torch.tensor([0.0, 2.5]), torch.eye(2) * 0.1, torch.tensor([0.6, 1.2]), sigma=0.02, **options
    ),
}
LOSSES = {**dict.fromkeys(FAMILIES, loss), "law_fits": law_loss(JMAK)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slopes(one_loss, task: Task, x: torch.Tensor) -> torch.Tensor:
    """Return (problems, dimension) gradients of the noise-free loss at displacements x."""
    return over_tasks(torch.func.grad(one_loss))({"x": x}, task.query)["x"]


def test_quadratic_value_is_half_the_form_and_its_gradient_the_hessian_times_the_offset():
    task = quadratics(5, steps=1, dtype=DOUBLE)(7, seeded())
    problem, _ = task.query
    x = torch.randn(7, 5, generator=seeded(1), dtype=DOUBLE)
    offset = x - problem.centre
    by_hand = torch.einsum("ni,nij,nj->n", offset, problem.hessian, offset) / 2
    assert torch.allclose(over_tasks(loss)({"x": x}, task.query), by_hand, rtol=1e-12)
    assert torch.allclose(slopes(loss, task, x), torch.einsum("nij,nj->ni", problem.hessian, offset), rtol=1e-12)


def test_eigenvalues_span_the_conditioning_with_both_ends_present():
    for rotated in (True, False):
        sampler = quadratics(6, steps=1, conditioning=(100.0, 100.0), scale=(3.0, 3.0), rotated=rotated, dtype=DOUBLE)
        eigenvalues = torch.linalg.eigvalsh(sampler(50, seeded()).query[0].hessian)
        assert torch.allclose(eigenvalues[:, 0], torch.tensor(0.03, dtype=DOUBLE), rtol=1e-10)
        assert torch.allclose(eigenvalues[:, -1], torch.tensor(3.0, dtype=DOUBLE), rtol=1e-10)


def test_conditioning_and_scale_are_log_uniform_and_optima_standard_normal():
    problem, _ = quadratics(steps=1, dtype=DOUBLE)(4000, seeded()).query
    eigenvalues = torch.linalg.eigvalsh(problem.hessian)
    kappa, scale = (eigenvalues[:, -1] / eigenvalues[:, 0]).log10(), eigenvalues[:, -1].log2()
    for values, low, high in ((kappa, 1.0, 3.0), (scale, -1.0, 1.0)):
        assert low - 1e-9 <= values.min() <= values.max() <= high + 1e-9
        error = (high - low) / 12**0.5 / 4000**0.5
        assert abs(values.mean() - (low + high) / 2) < 4 * error
        assert values.std() == pytest.approx((high - low) / 12**0.5, rel=0.05)
    inner = -torch.log(eigenvalues[:, 1:-1] / eigenvalues[:, -1:]) / (kappa[:, None] * math.log(10))
    assert inner.mean() == pytest.approx(0.5, abs=4 / (12 * inner.numel()) ** 0.5)
    assert problem.centre.std() == pytest.approx(1.0, abs=0.02)
    assert problem.start.abs().max() == 0


def test_axis_aligned_hessians_are_diagonal_and_rotated_ones_are_not():
    aligned = quadratics(4, steps=1, rotated=False)(3, seeded()).query[0].hessian
    assert torch.equal(aligned, torch.diag_embed(aligned.diagonal(dim1=1, dim2=2)))
    rotated = quadratics(4, steps=1)(3, seeded()).query[0].hessian
    assert rotated[:, 0, 1].abs().min() > 0


def test_rotations_have_no_preferred_direction():
    hessian = quadratics(3, steps=1, conditioning=(1000.0, 1000.0), scale=(1.0, 1.0))(3000, seeded()).query[0].hessian
    mean = hessian.mean(0)
    trace = mean.diagonal().mean()
    assert torch.allclose(mean, trace * torch.eye(3), atol=4 * 0.3 / 3000**0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_is_off_by_the_noise_of_its_step(family: str):
    task = FAMILIES[family](steps=3, noise=0.5)(4, seeded())
    held, each = task.support
    x = torch.zeros_like(each[:, 0])
    noisy = over_tasks(torch.func.grad(LOSSES[family]))({"x": x}, (held, each[:, 1]))["x"]
    assert torch.allclose(noisy - slopes(LOSSES[family], task, x), each[:, 1], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_has_the_deviation_asked_for_and_the_query_none(family: str):
    task = FAMILIES[family](steps=50, noise=0.3)(200, seeded())
    assert task.support.each.std() == pytest.approx(0.3, rel=0.02)
    assert task.query[1].abs().max() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_level_does_not_change_the_problems(family: str):
    quiet, loud = (FAMILIES[family](steps=2, noise=level)(3, seeded()) for level in (0.0, 1.0))
    for a, b in zip(quiet.query[0], loud.query[0], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_gives_the_same_problems_and_another_seed_others(family: str):
    one, same, other = (FAMILIES[family](steps=2)(3, seeded(seed)).query[0].start for seed in (0, 0, 1))
    assert torch.equal(one, same)
    if family != "quadratics":
        assert not torch.equal(one, other)
    else:
        assert not torch.equal(*(quadratics(4, steps=2)(3, seeded(seed)).query[0].centre for seed in (0, 1)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tensor_has_the_type_asked_for_and_a_task_axis(family: str, dtype: torch.dtype):
    task = FAMILIES[family](steps=2, dtype=dtype)(3, seeded())
    tensors = [*task.support.held, task.support.each, *task.query[0], task.query[1]]
    assert {tensor.dtype for tensor in tensors} == {dtype}
    assert {len(tensor) for tensor in tensors} == {3}
    assert isinstance(task.support, Stream)


def test_several_noise_levels_are_shared_out_among_the_problems():
    each = quadratics(10, steps=200, noise=(0.0, 0.1, 1.0))(300, seeded()).support.each
    levels = each.std((1, 2))
    found = torch.stack([(levels - level).abs() <= 0.1 * level for level in (0.0, 0.1, 1.0)]).float().mean(1)
    assert found.sum() == 1
    assert found.min() > 0.25


def test_steepness_scales_value_and_noise_alike():
    plain, steep = (quadratics(4, steps=2, steepness=(s, s), dtype=DOUBLE)(3, seeded()) for s in (1.0, 20.0))
    assert torch.allclose(steep.support.each, 20 * plain.support.each)
    assert torch.allclose(steep.query[0].hessian, 20 * plain.query[0].hessian)
    assert torch.equal(steep.query[0].centre, plain.query[0].centre)


def test_optima_lie_around_the_centre_within_the_spread():
    centre = torch.tensor([3.0, -1.0])
    found = quadratics(2, steps=1, centre=centre, spread=0.1)(2000, seeded()).query[0].centre
    assert torch.allclose(found.mean(0), centre, atol=4 * 0.1 / 2000**0.5)
    assert found.std(0).mean() == pytest.approx(0.1, rel=0.05)


def test_curved_ravine_is_the_sum_of_the_formula_with_a_zero_at_its_optimum():
    task = curved_ravines(3, steps=1, dtype=DOUBLE)(5, seeded())
    problem, _ = task.query
    u, v = problem.start[:, :3], problem.start[:, 3:]
    terms = 0.1 * (u - problem.centre) ** 2 + problem.steepness * (v - u**2) ** 2
    zero = torch.zeros(5, 6, dtype=DOUBLE)
    assert torch.allclose(over_tasks(loss)({"x": zero}, task.query), terms.sum(1), rtol=1e-12)
    optimum = torch.cat([problem.centre, problem.centre**2], 1)
    assert problem.value(optimum).abs().max() == 0
    assert slopes(loss, task, optimum - problem.start).abs().max() < 1e-12


def test_curved_ravines_start_beyond_the_bend_as_defined():
    problem, _ = curved_ravines(steps=1, dtype=DOUBLE)(1000, seeded()).query
    u, v = problem.start[:, :5], problem.start[:, 5:]
    assert (u.sign() == -problem.centre.sign()).all()
    assert u.abs().min() >= 0.5 and u.abs().max() <= 1.0
    assert problem.centre.abs().min() >= 0.6 and problem.centre.abs().max() <= 1.2
    assert (v - u**2).std() == pytest.approx(0.3, rel=0.05)
    steepness = problem.steepness.log10()
    assert steepness.min() >= 0 and steepness.max() <= 1 and steepness.mean() == pytest.approx(0.5, abs=0.02)
    assert problem.centre.sign().mean() == pytest.approx(0.0, abs=4 / 5000**0.5)


def test_networks_output_is_that_of_a_module_with_the_same_weights():
    problem, _ = networks(4, 6, steps=1, dtype=DOUBLE)(2, seeded()).query
    weights = problem.start[0]
    into, out = torch.nn.Linear(1, 4, dtype=DOUBLE), torch.nn.Linear(4, 1, dtype=DOUBLE)
    with torch.no_grad():
        into.weight[:, 0], into.bias[:] = weights[:4], weights[4:8]
        out.weight[0], out.bias[0] = weights[8:12], weights[12]
        predicted = out(torch.tanh(into(problem.inputs[0, :, None])))[:, 0]
    by_hand = ((predicted - problem.targets[0]) ** 2).mean() / 2
    assert torch.allclose(Network(*(part[0] for part in problem)).value(weights), by_hand, rtol=1e-12)


def test_values_take_leading_axes_of_points():
    for family in ("quadratics", "curved_ravines", "networks"):
        problem, _ = FAMILIES[family](steps=1, dtype=DOUBLE)(3, seeded()).query
        points = problem.start + torch.randn(2, *problem.start.shape, generator=seeded(1), dtype=DOUBLE)
        together = problem.value(points)
        assert together.shape == (2, 3)
        for row in range(3):
            alone = type(problem)(*(part[row] for part in problem))
            assert torch.allclose(alone.value(points[1, row]), together[1, row], rtol=1e-12)


def test_log_reduction_is_bounded_and_has_a_slope_only_in_between():
    problem = Quadratic(torch.ones(1, dtype=DOUBLE), torch.zeros(1, dtype=DOUBLE), torch.eye(1, dtype=DOUBLE))
    noise = torch.ones(1, dtype=DOUBLE)

    def at(x: float, problem: Quadratic = problem) -> tuple[float, float]:
        slope, value = torch.func.grad_and_value(log_reduction)(
            {"x": torch.tensor([x], dtype=DOUBLE)}, (problem, noise)
        )
        return float(value), float(slope["x"])

    assert at(-0.9) == pytest.approx((-2.0, 2 / 0.1 / math.log(10)), rel=1e-9)
    assert at(-1.0) == pytest.approx((-13.0, 0.0))
    for lost in (100.0, math.inf, math.nan):
        assert at(lost) == pytest.approx((2.0, 0.0))
    at_its_optimum = problem._replace(start=problem.centre)
    assert at(0.0, at_its_optimum) == pytest.approx((2.0, 0.0)) and at(0.1, at_its_optimum)[1] == 0.0


def test_law_fit_is_half_the_mean_square_of_the_residuals_in_deviations():
    x = torch.tensor([0.6, 1.2, 1.8])
    task = law_fits(JMAK, torch.tensor([0.0, 2.5]), 0.1 * torch.eye(2), x, sigma=0.05, steps=1)(4, seeded())
    problem, _ = task.query
    values = over_tasks(law_loss(JMAK))({"x": torch.zeros(4, 2, dtype=DOUBLE)}, task.query)
    for row in range(4):
        natural = JMAK.constrain(dict(zip(JMAK.names, problem.start[row], strict=True)))
        residuals = (JMAK(x.double(), **natural) - problem.y[row]) / 0.05
        assert values[row] == pytest.approx(float((residuals**2).mean() / 2), rel=1e-9)


def test_law_fits_measure_specimens_of_the_population_with_the_stated_noise():
    mean, covariance, x = torch.tensor([0.3]), torch.tensor([[1e-12]]), torch.tensor([0.5, 1.0])
    problem, _ = law_fits(DECAY, mean, covariance, x, sigma=0.1, steps=1)(3000, seeded()).query
    truth = torch.exp(-x.double() / math.exp(0.3))
    assert torch.allclose(problem.y.mean(0), truth, atol=4 * 0.1 / 3000**0.5)
    assert problem.y.std(0).mean() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_steps_of_the_core_go_down_on_every_family(family: str):
    task = FAMILIES[family](steps=1, noise=0.0, dtype=DOUBLE)(20, seeded())
    start = origin(task.query[1].shape[1], DOUBLE)
    rate = 1e-4 if family == "law_fits" else 0.02
    after = over_tasks(lambda support: adapt(LOSSES[family], sgd(rate), Meta(start, {}), support, 20))(task.support)
    before, now = (over_tasks(LOSSES[family])(params, task.query) for params in ({"x": after["x"] * 0}, after))
    assert (now < before).all()


def test_noisy_descent_of_the_core_is_that_of_a_plain_loop():
    task = quadratics(3, steps=4, dtype=DOUBLE)(1, seeded())
    problem, each = Quadratic(*(part[0] for part in task.support.held)), task.support.each[0]
    x = torch.zeros(3, dtype=DOUBLE)
    for noise in each:
        x = x - 0.3 * (problem.hessian @ (x - problem.centre) + noise)
    found = adapt(loss, sgd(0.3), Meta(origin(3, DOUBLE), {}), Stream(problem, each), 4)["x"]
    assert torch.allclose(found, x, rtol=1e-12)


def test_families_pass_the_door_of_the_core():
    learner = maml(loss, origin(4), lr=0.1, steps=3)
    means = evaluate(learner, quadratics(4, steps=3, noise=0.0), n=8).mean
    assert means[3] < means[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratics(0, steps=1), "dimension must be a whole number"),
        (lambda: quadratics(2, steps=0), "steps must be a whole number"),
        (lambda: quadratics(2, steps=1, noise=-0.1), "noise must be a number of 0 or more"),
        (lambda: quadratics(2, steps=1, noise=()), "noise must be a number of 0 or more"),
        (lambda: quadratics(2, steps=1, noise=math.nan), "noise must be a number of 0 or more"),
        (lambda: quadratics(2, steps=1, conditioning=(0.5, 10.0)), "conditioning must be"),
        (lambda: quadratics(2, steps=1, scale=(2.0, 1.0)), "scale must be"),
        (lambda: quadratics(2, steps=1, steepness=(0.0, 1.0)), "steepness must be"),
        (lambda: quadratics(2, steps=1, centre=torch.zeros(3)), r"centre has shape \(3,\); expected \(2,\)"),
        (lambda: quadratics(2, steps=1, centre=torch.tensor([0.0, math.nan])), "centre must be finite"),
        (lambda: quadratics(2, steps=1, spread=-1.0), "spread must be 0 or more"),
        (lambda: curved_ravines(0, steps=1), "pairs must be a whole number"),
        (lambda: curved_ravines(2, steps=1, steepness=(1.0, math.inf)), "steepness must be"),
        (lambda: networks(0, steps=1), "width must be a whole number"),
        (lambda: networks(2, 0, steps=1), "points must be a whole number"),
        (lambda: law_fits(DECAY, torch.zeros(2), torch.eye(1), torch.ones(2), sigma=0.1, steps=1), "1 parameters"),
        (
            lambda: law_fits(DECAY, torch.zeros(1), -torch.eye(1), torch.ones(2), sigma=0.1, steps=1),
            "positive definite",
        ),
        (lambda: law_fits(DECAY, torch.zeros(1), torch.eye(1), torch.ones(2), sigma=0.0, steps=1), "sigma"),
        (lambda: origin(0), "dimension must be a whole number"),
    ],
)
def test_what_makes_no_problem_is_refused_with_its_name(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_problem_of_one_dimension_has_one_eigenvalue():
    problem, _ = quadratics(1, steps=1, scale=(2.0, 2.0), steepness=(3.0, 3.0), dtype=DOUBLE)(5, seeded()).query
    assert torch.allclose(problem.hessian, torch.tensor(6.0, dtype=DOUBLE))


def test_curved_ravine_keeps_the_pairs_in_order():
    ravine = CurvedRavine(torch.zeros(4), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 10.0]))
    assert ravine.value(torch.tensor([1.0, 2.0, 1.0, 5.0])) == pytest.approx(10.0)
    assert landscapes.loss({"x": torch.tensor([1.0, 2.0, 1.0, 4.0])}, (ravine, torch.zeros(4))) == 0
