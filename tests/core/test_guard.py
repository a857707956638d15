"""The guard: nothing that a rule does makes the loss diverge, and a rule that does well is left alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scimeta.core.controller_rule import controller
from scimeta.core.guard import guarded
from scimeta.core.learned_rule import coordinate_mlp
from scimeta.core.recording import execution
from scimeta.core.rule_learners import learned_optimizer
from scimeta.core.rules import Params, Rule, adam, momentum, sgd
from scimeta.core.tasks import Task, over_tasks
from tests.core.problems import F64, close, normal, seeded

Loss = Callable[[Tensor], Tensor]


def stepping(step: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """A rule that takes any step (gradient, count of steps) -> step."""

    def update(_: Params, grads: Params, count: Tensor, params: Params) -> tuple[Params, Tensor]:
        return {name: value + step(grads[name], count) for name, value in params.items()}, count + 1

    return Rule({}, lambda params: torch.zeros((), dtype=F64), update)


def shove(g: Tensor, count: Tensor) -> Tensor:
    return torch.randn(g.shape, generator=seeded(int(count)), dtype=g.dtype) * 10.0 ** (int(count) % 7 - 2)


MISLED = {
    "huge steps": sgd(1e8),
    "a step size just above what is stable": sgd(2.2),
    "uphill": sgd(-0.1),
    "slowly uphill": sgd(-1e-4),
    "uphill by the same length always": stepping(lambda g, count: 0.05 * g / (g.norm() + 1e-30)),
    "growing steps": stepping(lambda g, count: -g * 1.05**count),
    "nan": stepping(lambda g, count: torch.nan * g),
    "nan now and then": stepping(lambda g, count: torch.where(count % 3 == 1, torch.nan, -0.1) * g),
    "infinite": stepping(lambda g, count: torch.inf * torch.ones_like(g)),
    "beyond what the type holds": stepping(lambda g, count: 1e200 * torch.ones_like(g)),
    "always the same way": stepping(lambda g, count: 0.3 * torch.ones_like(g)),
    "random": stepping(shove),
}
CURVATURES = torch.logspace(0, -2, 5, dtype=F64)
LOSSES: dict[str, Loss] = {
    "ravine": lambda x: 0.5 * (CURVATURES * x * x).sum(),
    "quartic": lambda x: (x**4).sum(),
    "exponential": lambda x: torch.cosh(3 * x).sum() - 5,
    "curved": lambda x: (0.1 * (x[:2] - 1) ** 2 + 5 * (x[2:4] - x[:2] ** 2) ** 2).sum() + x[4] ** 2,
}


def losses(rule: Rule, loss: Loss, start: Tensor, steps: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return (steps,) losses at the points that were accepted, and at all that were seen; gradients with noise."""
    params, generator, slope = {"x": start}, seeded(1), torch.func.grad(loss)
    state, accepted, seen = rule.init(params), [], []
    for _ in range(steps):
        g = slope(params["x"]) + noise * torch.randn(len(start), generator=generator, dtype=F64)
        params, state = rule.update(rule.params, {"x": g}, state, params)
        accepted.append(loss(state.point))
        seen.append(loss(params["x"]))
    return torch.stack(accepted), torch.stack(seen)


@pytest.mark.parametrize("misled", MISLED)
@pytest.mark.parametrize("terrain", LOSSES)
def test_no_step_of_a_misled_rule_makes_the_loss_diverge(misled: str, terrain: str) -> None:
    start = 0.5 + normal(5, seed=2).abs()
    accepted, _ = losses(guarded(MISLED[misled], sgd(0.01)), LOSSES[terrain], start, 120)
    assert accepted.max() < 10 * accepted[0]
    if terrain != "curved":  # where the trapezoid rule goes wrong, the way down can take longer
        assert accepted[-1] < accepted[0] or misled == "always the same way"


@pytest.mark.parametrize("misled", MISLED)
def test_noise_does_not_hide_divergence_from_the_guard(misled: str) -> None:
    start = 0.5 + normal(5, seed=2).abs()
    accepted, seen = losses(guarded(MISLED[misled], sgd(0.05)), LOSSES["ravine"], start, 200, noise=0.1)
    assert accepted.max() < 10 * accepted[0]
    assert seen[-50:].median() < 2 * accepted[0]


@pytest.mark.parametrize("misled", ["huge steps", "nan", "uphill", "infinite"])
def test_a_fallback_whose_own_steps_are_too_long_is_shortened(misled: str) -> None:
    start = torch.ones(5, dtype=F64)
    accepted, _ = losses(guarded(MISLED[misled], sgd(1000.0)), LOSSES["quartic"], start, 120)
    assert accepted[-1] < 0.5 * accepted[0]


@pytest.mark.parametrize("rule", [sgd(0.5), momentum(0.05), adam(0.02)], ids=["sgd", "momentum", "adam"])
def test_a_rule_that_descends_takes_the_same_steps_with_and_without_a_guard(rule: Rule) -> None:
    start = 0.5 + normal(5, seed=2).abs()
    slope = torch.func.grad(LOSSES["ravine"])
    alone, watched, guard = {"x": start}, {"x": start}, guarded(rule, sgd(0.01))
    state, watch = rule.init(alone), guard.init(watched)
    for _ in range(60):
        alone, state = rule.update({}, {"x": slope(alone["x"])}, state, alone)
        watched, watch = guard.update({}, {"x": slope(watched["x"])}, watch, watched)
        close(watched["x"], alone["x"], 1e-12)


@pytest.mark.parametrize(("elements", "percent"), [(2, 10), (10, 1), (50, 1)])
def test_the_guard_costs_next_to_nothing_where_the_gradients_are_noisy(elements: int, percent: int) -> None:
    curvatures = torch.logspace(0, -2, elements, dtype=F64)
    x = {"x": normal(100, elements, seed=1)}
    noise = 0.1 * normal(100, 100, elements, seed=2)
    reached = {}
    for name, rule in {"plain": momentum(0.1), "guarded": guarded(momentum(0.1), sgd(1e-6))}.items():
        params, state = x, over_tasks(rule.init)(x)
        for each in noise:
            g = {"x": curvatures * params["x"] + each}
            params, state = over_tasks(rule.update, (None, 0, 0, 0))({}, g, state, params)
        reached[name] = (curvatures * params["x"] ** 2).sum(1).log().mean()
    assert reached["guarded"] <= reached["plain"] + percent / 100


def test_a_gradient_that_is_not_finite_at_the_start_moves_nothing() -> None:
    rule, params = guarded(momentum(0.1), sgd(0.1)), {"x": torch.ones(3)}
    state = rule.init(params)
    for bad in (torch.nan, torch.inf):
        params, state = rule.update({}, {"x": torch.tensor([1.0, bad, 1.0])}, state, params)
        close(params["x"], torch.ones(3))
    params, state = rule.update({}, {"x": torch.ones(3)}, state, params)
    close(params["x"], torch.full((3,), 0.9))  # as if it had been the first


def test_where_the_gradient_is_not_finite_the_step_there_is_taken_back() -> None:
    rule, start = guarded(sgd(1.0), sgd(0.1)), {"x": torch.ones(3)}
    one, state = rule.update({}, {"x": torch.ones(3)}, rule.init(start), start)
    close(one["x"], torch.zeros(3))
    back, state = rule.update({}, {"x": torch.tensor([1.0, torch.nan, 1.0])}, state, one)
    close(back["x"], torch.full((3,), 0.9))  # the fallback's step from the point before
    again, _ = rule.update({}, {"x": torch.full((3,), torch.inf)}, state, back)
    close(again["x"], torch.full((3,), 0.975))  # a quarter of it


def test_a_problem_at_its_optimum_stays_there() -> None:
    rule, params = guarded(controller(hidden=4), momentum(0.1)), {"x": torch.ones(3)}
    state = rule.init(params)
    for _ in range(5):
        params, state = rule.update(rule.params, {"x": torch.zeros(3)}, state, params)
    close(params["x"], torch.ones(3))


def test_a_step_that_moves_nothing_is_never_taken_back() -> None:
    # A rise that noise excuses, then no step at all and less noise: the debt of the rise must not count against that.
    rule, x = guarded(stepping(lambda g, count: torch.where(count == 0, 0.5, 0.0) * g), sgd(0.0)), torch.ones(1)
    params, state = {"x": x}, rule.init({"x": x})
    for g in (1.0, *[0.5] * 15):
        params, state = rule.update({}, {"x": torch.full((1,), g)}, state, params)
        assert state.own == 1 and torch.isfinite(state.longest)
    close(params["x"], torch.full((1,), 1.5))


def test_where_both_slopes_are_zero_the_next_step_has_a_finite_length() -> None:
    # Up, excused by noise; then along where it is level, while nothing excuses any more.
    along = torch.tensor([0.0, 0.0, 1e-3])
    steps = (torch.tensor([0.5, 0.0, 0.0]), along, along, along, along)
    rule = guarded(stepping(lambda g, count: steps[int(count)]), sgd(0.0))
    params = {"x": torch.ones(3)}
    state, own = rule.init(params), []
    for g in ((1.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.0, 0.0)):
        params, state = rule.update({}, {"x": torch.tensor(g)}, state, params)
        assert torch.isfinite(state.longest) and torch.isfinite(params["x"]).all()
        own.append(state.own.item())
    assert 0.0 in own  # a step was taken back


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize("misled", ["huge steps", "uphill", "growing steps", "nan now and then"])
def test_gradients_whose_squares_float32_cannot_hold_are_judged_alike(misled: str, factor: float) -> None:
    def reached(scale: float) -> Tensor:
        def update(_: Params, g: Params, state: Tensor, x: Params) -> tuple[Params, Tensor]:
            # The steps are those of the loss without the factor.
            return MISLED[misled].update({}, {"x": g["x"].double() / scale}, state, x)

        rule, params = guarded(MISLED[misled]._replace(update=update), sgd(0.01 / scale)), {"x": torch.ones(5)}
        state = rule.init(params)
        for _ in range(40):
            params, state = rule.update({}, {"x": scale * CURVATURES.float() * params["x"]}, state, params)
        return state.point

    close(reached(factor), reached(1.0), 1e-3)
    assert reached(factor).norm() < 5**0.5


def test_a_state_of_another_size_and_a_learned_fallback_are_refused() -> None:
    rule, params = guarded(sgd(0.1), sgd(0.1)), {"x": torch.ones(3)}
    with pytest.raises(ValueError, match=r"guarded: the state was made for .* Expected point \(3,\); got point \(5,\)"):
        rule.update({}, params, rule.init({"x": torch.ones(5)}), params)
    with pytest.raises(ValueError, match=r"guarded: the state is another rule's \(Tensor\)"):
        rule.update({}, params, torch.zeros(()), params)
    with pytest.raises(ValueError, match=r"guarded: fallback is a classical rule, .* log_step"):
        guarded(sgd(0.1), coordinate_mlp(4))
    with pytest.raises(TypeError, match=r"guarded: rule and fallback are Rules, .* got Rule and float"):
        guarded(sgd(0.1), 0.1)


@pytest.mark.parametrize("clip", [None, 1e6])
def test_the_start_has_the_same_meta_gradient_with_and_without_a_guard_that_does_nothing(clip: float | None) -> None:
    def loss(params: Params, centre: Tensor) -> Tensor:
        return ((params["x"] - centre) ** 2).sum()

    centre, found = normal(3, 4, seed=6), []
    for rule in (controller(hidden=3, step=0.05), guarded(controller(hidden=3, step=0.05), sgd(0.1))):
        learner = learned_optimizer(loss, {"x": normal(4, seed=5)}, rule=rule, steps=5, clip=clip)
        with execution("eager"):
            found.append(learner.meta_gradient(learner.meta, Task(centre, centre), 0)[1])
    close(*found, 1e-9)
    assert (found[0].init["x"] != 0).all()


def test_the_meta_gradient_goes_through_the_guard_past_steps_that_were_taken_back() -> None:
    # The rule, an untrained controller with a first step that is far too long, is taken back in every task.
    rule = guarded(controller(hidden=3, step=20.0), sgd(0.1))
    rule = rule._replace(params={n: p.double() for n, p in rule.params.items()})

    def loss(params: Params, centre: Tensor) -> Tensor:
        return ((params["x"] - centre) ** 4).sum()

    centre, init = normal(3, 4, seed=6), {"x": normal(4, seed=5)}
    learner = learned_optimizer(loss, init, rule=rule, steps=8)

    def value(learned: Params) -> Tensor:
        params, state, total = init, rule.init(init), 0.0
        params, state = (
            {n: t.expand(3, *t.shape) for n, t in params.items()},
            over_tasks(rule.init)({"x": init["x"].expand(3, 4)}),
        )
        for _ in range(8):
            grads = over_tasks(torch.func.grad(loss))(params, centre)
            params, state = over_tasks(rule.update, (None, 0, 0, 0))(learned, grads, state, params)
            total = total + over_tasks(loss)(params, centre).mean() / 8
        assert (state.longest < 1e300).all()  # some steps were taken back
        return total

    with execution("eager"):
        _, gradient = learner.meta_gradient(learner.meta, Task(centre, centre), 0)
    h = 1e-6
    for name in ("log_step", "bias_out"):
        way = normal(rule.params[name].numel(), seed=7).reshape(rule.params[name].shape)
        ahead, behind = (value({**rule.params, name: rule.params[name] + s * h * way}) for s in (1, -1))
        assert float((gradient.rule[name] * way).sum()) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-5)
