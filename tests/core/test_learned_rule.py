"""Learned update rules: what they are before training, what they commute with, and what they must survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from scimeta.core.check import check_meta_gradient
from scimeta.core.controller_rule import controller
from scimeta.core.learned_rule import coordinate_lstm, coordinate_mlp
from scimeta.core.recording import execution
from scimeta.core.rule_learners import learned_optimizer
from scimeta.core.rules import Params, Rule, adam
from scimeta.core.tasks import Task, over_tasks
from scimeta.core.train import meta_train
from tests.core.problems import F64, close, normal, seeded

KINDS = {
    "lstm": lambda: coordinate_lstm(5),
    "mlp": lambda: coordinate_mlp(6),
    "controller": lambda: controller(hidden=5),
    "short controller": lambda: controller((), hidden=5),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def not_recorded() -> Iterator[None]:
    """These problems are so small that recording them would take longer than running them."""
    with execution("eager"):
        yield


def trained(kind: str, dtype: torch.dtype = F64) -> Rule:
    """The rule with random parameters that matter, as training would leave them."""
    rule = KINDS[kind]()
    moved = {
        n: p.to(dtype) + 0.1 * normal(p.numel(), seed=i, dtype=dtype).reshape(p.shape)
        for i, (n, p) in enumerate(rule.params.items())
    }
    return rule._replace(params=moved)


def ravine(elements: int) -> tuple[Tensor, Tensor]:
    """Curvatures 1 to 1/30 along random axes, and an optimum."""
    axes, _ = torch.linalg.qr(normal(elements, elements, seed=3))
    return (axes * torch.logspace(0, -1.5, elements, dtype=F64)) @ axes.mT, normal(elements, seed=4)


def path(rule: Rule, slope: Callable[[Tensor], Tensor], start: Tensor, steps: int = 12) -> Tensor:
    """Return (steps, elements) where the rule goes."""
    params, points = {"x": start}, []
    state = rule.init(params)
    for _ in range(steps):
        params, state = rule.update(rule.params, {"x": slope(params["x"])}, state, params)
        points.append(params["x"])
    return torch.stack(points)


def bowl(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    hessian, optimum = data
    away = params["x"] - optimum
    return 0.5 * away @ hessian @ away


def bowls(number: int, generator: torch.Generator, dtype: torch.dtype = F64) -> Task:
    root = torch.randn(number, 4, 4, generator=generator, dtype=F64)
    data = (root @ root.mT / 4).to(dtype), torch.randn(number, 4, generator=generator, dtype=F64).to(dtype)
    return Task(data, data)


@kinds
def test_a_multiple_of_the_loss_gives_the_same_steps(kind: str) -> None:
    hessian, optimum = ravine(6)
    rule, start = trained(kind), torch.zeros(6, dtype=F64)
    one = path(rule, lambda x: hessian @ (x - optimum), start)
    for factor in (1e-30, 7.0, 1e20):
        close(path(rule, lambda x, f=factor: f * hessian @ (x - optimum), start), one, 1e-7)


@kinds
def test_gradients_whose_squares_float32_cannot_hold_give_the_same_steps(kind: str) -> None:
    hessian, optimum = (part.float() for part in ravine(6))
    rule, start = trained(kind, torch.float32), torch.zeros(6)
    one = path(rule, lambda x: hessian @ (x - optimum), start, 4)
    for factor in (1e-25, 1e25):
        close(path(rule, lambda x, f=factor: f * (hessian @ (x - optimum)), start, 4), one, 1e-3)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes", [(1e-40, 1e-40, 1e-40), (0.0, 1e-42, 1.0, 1.0), (1e-20, 1.0, 0.5), (1e-30, 1e5, 1.0), (1.0, 1e25, 1e30)]
)
def test_a_first_gradient_next_to_nothing_does_not_make_the_later_ones_infinite(
    kind: str, dtype: torch.dtype, sizes: tuple[float, ...]
) -> None:
    rule, params = trained(kind, dtype), {"x": torch.ones(3, dtype=dtype)}
    state = rule.init(params)
    for size in sizes:
        params, state = rule.update(rule.params, {"x": torch.full((3,), size, dtype=dtype)}, state, params)
        assert all(torch.isfinite(leaf).all() for leaf in (params["x"], *state))
    assert (params["x"] < 1).all()


@kinds
def test_parameters_of_one_element_or_none_are_moved_like_all(kind: str) -> None:
    rule, params = trained(kind), {"a": torch.ones((), dtype=F64), "none": torch.ones(0, 2, dtype=F64)}
    alone, states = {"a": torch.ones(1, dtype=F64)}, [rule.init(params), rule.init({"a": torch.ones(1, dtype=F64)})]
    for _ in range(3):
        params, states[0] = rule.update(rule.params, params, states[0], params)
        alone, states[1] = rule.update(rule.params, alone, states[1], alone)
    assert params["a"].shape == () and params["none"].shape == (0, 2)
    close(params["a"], alone["a"][0])
    nothing = {"none": torch.ones(0)}
    assert rule.update(rule.params, nothing, rule.init(nothing), nothing)[0]["none"].shape == (0,)


@kinds
def test_reordered_elements_take_reordered_steps(kind: str) -> None:
    hessian, optimum = ravine(6)
    rule, start, order = trained(kind), normal(6, seed=8), torch.tensor([3, 1, 5, 0, 2, 4])
    one = path(rule, lambda x: hessian @ (x - optimum), start)
    back = order.argsort()
    other = path(rule, lambda x: (hessian @ (x[back] - optimum))[order], start[order])
    close(other, one[:, order], 1e-8)


@pytest.mark.parametrize("kind", ["controller", "short controller"])
def test_a_rotated_and_shifted_problem_takes_a_controller_along_the_rotated_and_shifted_way(kind: str) -> None:
    hessian, optimum = ravine(6)
    rule, start, shift = trained(kind), torch.zeros(6, dtype=F64), normal(6, seed=10)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=9))
    one = path(rule, lambda x: hessian @ (x - optimum), start)
    other = path(rule, lambda x: turn @ (hessian @ (turn.mT @ (x - shift) - optimum)), turn @ start + shift)
    close(other, one @ turn.mT + shift, 1e-8)


def test_a_rotation_changes_the_steps_of_a_coordinate_wise_rule() -> None:
    hessian, optimum = ravine(6)
    rule, start = trained("lstm"), torch.zeros(6, dtype=F64)
    turn, _ = torch.linalg.qr(normal(6, 6, seed=9))
    one = path(rule, lambda x: hessian @ (x - optimum), start)
    other = path(rule, lambda x: turn @ (hessian @ (turn.mT @ x - optimum)), start)
    assert (other - one @ turn.mT).abs().max() > 0.01


@kinds
def test_elements_in_several_tensors_move_as_in_one(kind: str) -> None:
    hessian, optimum = ravine(6)
    rule, start = trained(kind), normal(6, seed=8)
    one = path(rule, lambda x: hessian @ (x - optimum), start)
    params = {"a": start[:2], "b": start[2:].reshape(2, 2)}
    state = rule.init(params)
    for point in one:
        g = hessian @ (torch.cat([params["a"], params["b"].flatten()]) - optimum)
        params, state = rule.update(rule.params, {"b": g[2:].reshape(2, 2), "a": g[:2]}, state, params)
        close(torch.cat([params["a"], params["b"].flatten()]), point, 1e-10)


@pytest.mark.parametrize("make", [coordinate_lstm, coordinate_mlp])
def test_a_coordinate_wise_rule_that_has_learned_nothing_is_adam(make: Callable[..., Rule]) -> None:
    hessian, optimum = ravine(6)
    rule, start = make(4, step=0.05), torch.zeros(6, dtype=F64)
    rule.params["out"].zero_()
    ours = path(rule, lambda x: hessian @ (x - optimum), start)
    close(ours, path(adam(0.05, (0.9, 0.99), eps=0.0), lambda x: hessian @ (x - optimum), start), 1e-6)


def test_a_controller_that_has_learned_nothing_is_gradient_descent_with_momentum() -> None:
    hessian, optimum = ravine(6)
    rule, x = controller(step=0.01), torch.zeros(6, dtype=F64)
    rule.params["out"].zero_()
    ours = path(rule, lambda x: hessian @ (x - optimum), x, 8)
    first = hessian @ -optimum
    rate, step = 0.01 / first.square().mean().sqrt(), torch.zeros_like(x)
    for point in ours:
        g = hessian @ (x - optimum)
        raw = 0.8 * step - rate * g
        last = (step if step.any() else rate * g).square().sum()
        step = raw / (1 + raw.square().sum() / (4 * last)).sqrt()  # it grows to about twice the last one's length
        x = x + step
        close(point, x, 1e-6)


def test_a_controller_that_trusts_its_fit_alone_takes_the_secant_step() -> None:
    rule = controller((), hidden=2, step=0.1)
    rule.params["out"].zero_()
    # Weights of g, s, y, of the fit's way and of the gradient that it leaves; step size; ridge.
    rule.params["bias_out"].copy_(torch.tensor([0.0, 0.0, 0.0, 1.0, -1.0, 0.0, -4.0]))
    slope = lambda x: 3.0 * (x - 0.25)  # noqa: E731
    points = path(rule, slope, torch.zeros(1, dtype=F64), 3)
    assert points[0].item() == pytest.approx(0.1 / 1.25**0.5, rel=1e-6)  # a bounded step against the gradient
    # As far as 0.16 away, less than twice the first step; the bound takes some of it.
    raw = 0.25 - points[0].item()
    bounded = raw / (1 + raw**2 / (4 * points[0].item() ** 2)) ** 0.5
    assert points[1].item() == pytest.approx(points[0].item() + bounded, rel=1e-4)


@kinds
def test_a_problem_at_its_optimum_stays_there_and_has_a_meta_gradient(kind: str) -> None:
    rule = trained(kind)
    at_optimum = torch.eye(3, dtype=F64).expand(2, 3, 3), torch.zeros(2, 3, dtype=F64)
    learner = learned_optimizer(bowl, {"x": torch.zeros(3, dtype=F64)}, rule=rule, steps=6)
    losses, gradient = learner.meta_gradient(learner.meta, Task(at_optimum, at_optimum), 0)
    close(losses, torch.zeros(2, dtype=F64))
    for name, value in {**gradient.rule, **gradient.init}.items():
        assert torch.equal(value, torch.zeros_like(value)), name


@kinds
def test_a_gradient_that_becomes_zero_on_the_way_leaves_everything_finite(kind: str) -> None:
    def flat_beyond(params: Params, data: Tensor) -> Tensor:  # arrives where all derivatives vanish
        return (torch.relu(params["x"] - data) ** 3).sum()

    start = {"x": torch.tensor([0.5, 0.3, 0.2], dtype=F64)}
    learner = learned_optimizer(flat_beyond, start, rule=trained(kind), steps=15)
    data = torch.full((2, 3), 0.1, dtype=F64)
    losses, gradient = learner.meta_gradient(learner.meta, Task(data, data), 0)
    assert torch.isfinite(losses).all()
    assert all(torch.isfinite(value).all() for part in gradient for value in part.values())


@kinds
def test_the_meta_gradient_is_that_of_a_plain_loop_and_of_finite_differences(kind: str) -> None:
    learner = learned_optimizer(bowl, {"x": normal(4, seed=5)}, rule=trained(kind), steps=4)
    check = check_meta_gradient(bowl, learner, bowls(2, seeded(1)), how="eager")
    assert max(check.plain) < 1e-6, check
    assert max(check.finite) < 1e-6, check


@kinds
def test_a_batch_moves_as_its_tasks_one_by_one(kind: str) -> None:
    rule = trained(kind)
    x, g = {"x": normal(3, 4, seed=1)}, {"x": normal(3, 4, seed=2)}
    states = over_tasks(rule.init)(x)
    batched, _ = over_tasks(rule.update, (None, 0, 0, 0))(rule.params, g, states, x)
    for task in range(3):
        one = {"x": x["x"][task]}
        close(rule.update(rule.params, {"x": g["x"][task]}, rule.init(one), one)[0]["x"], batched["x"][task], 1e-10)


@kinds
def test_a_rule_of_one_precision_moves_parameters_of_another(kind: str) -> None:
    rule = KINDS[kind]()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = {"x": torch.ones(3, dtype=dtype)}
        moved, state = rule.update(rule.params, params, rule.init(params), params)
        moved, _ = rule.update(rule.params, params, state, moved)
        assert moved["x"].dtype == dtype
        assert (moved["x"] < 1).all()


@kinds
def test_short_training_lowers_the_loss_on_new_problems(kind: str) -> None:
    def judge(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
        return torch.log10(bowl(params, data) / bowl({"x": torch.zeros_like(params["x"])}, data) + 1e-6)

    init = {"x": torch.zeros(4)}
    learner = learned_optimizer(bowl, init, rule=KINDS[kind](), steps=8, query_loss=judge, clip=1.0)
    tasks = lambda number, generator: bowls(number, generator, torch.float32)  # noqa: E731
    result = meta_train(
        learner, tasks, steps=30, tasks_per_step=16, lr=0.01, learn=("rule.*",), validation=None, generator=seeded(2)
    )
    new = tasks(200, seeded(3))

    def final(meta: object) -> float:
        reached = over_tasks(learner.adapt, (None, 0))(meta, new.support)
        return over_tasks(judge)(reached, new.query).mean().item()

    assert final(result.meta) < final(learner.meta) - 0.1


@kinds
def test_parameters_of_another_rule_are_refused_by_name(kind: str) -> None:
    rule, params = KINDS[kind](), {"x": torch.ones(3)}
    with pytest.raises(ValueError, match=r"of another rule or size. Expected read .* got a \(2,\)"):
        rule.update({"a": torch.zeros(2)}, params, rule.init(params), params)


@kinds
def test_the_state_of_another_problem_is_refused_by_name(kind: str) -> None:
    rule, params = KINDS[kind](), {"x": torch.ones(3)}
    with pytest.raises(ValueError, match=r"state was made for other parameters.* Expected .*3\), .* got .*5\), "):
        rule.update(rule.params, params, rule.init({"x": torch.ones(5)}), params)
    with pytest.raises(ValueError, match=r"state is another rule's \(dict\); begin with init"):
        rule.update(rule.params, params, {"x": torch.ones(3)}, params)


@pytest.mark.parametrize("make", [coordinate_lstm, controller])
def test_the_state_of_a_rule_of_another_width_is_refused(make: Callable[..., Rule]) -> None:
    rule, params = make(hidden=4), {"x": torch.ones(3)}
    with pytest.raises(ValueError, match=r"by a rule of another size. Expected .*4\,?\); got .*5\,?\). Begin"):
        rule.update(rule.params, params, make(hidden=5).init(params), params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coordinate_lstm(0), "coordinate_lstm: hidden is a positive integer; got 0"),
        (lambda: coordinate_mlp(8, step=-1.0), "coordinate_mlp: step is a positive number; got -1.0"),
        (lambda: controller(hidden=2.5), "controller: hidden is a positive integer; got 2.5"),
        (lambda: controller(step=float("nan")), "controller: step is a positive number; got nan"),
        (lambda: controller((3.0, 1.0)), "controller: memory holds lengths of more than one step"),
    ],
)
def test_a_size_that_makes_no_rule_is_said(make: Callable[[], Rule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
