"""Update rules are pure, keep every name and type, follow their formulas, and can be differentiated twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.inner_loop import adapt
from scimeta.core.rules import Meta, Rule, adam, clipped, learned_rates, momentum, preconditioned, proximal, sgd
from scimeta.core.tasks import over_tasks

F64 = torch.float64
PARAMS = {"a": torch.tensor([1.0, -2.0], dtype=F64), "b": torch.tensor(3.0, dtype=F64)}
GRADS = {"a": torch.tensor([0.5, 4.0], dtype=F64), "b": torch.tensor(-1.0, dtype=F64)}
NORM = (0.5**2 + 4.0**2 + 1.0) ** 0.5  # of GRADS, all together


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


RULES: dict[str, Callable[[dict[str, Tensor]], Rule]] = {
    "sgd": lambda p: sgd(0.1),
    "momentum": lambda p: momentum(0.1, 0.8),
    "nesterov": lambda p: momentum(0.1, 0.8, nesterov=True),
    "adam": lambda p: adam(0.1, eps=1e-3),
    "rates": lambda p: learned_rates(p, 0.1),
    "rates per tensor": lambda p: learned_rates(p, 0.1, per="tensor"),
    "rates per step": lambda p: learned_rates(p, 0.1, steps=2),
    "rates per tensor and step": lambda p: learned_rates(p, 0.1, steps=3, per="tensor"),
    "diagonal": lambda p: preconditioned(p, 0.1, "diagonal"),
    "low rank": lambda p: preconditioned(p, 0.1, "low_rank", rank=2, generator=seeded(0)),
    "full": lambda p: preconditioned(p, 0.1, "full"),
    "clipped": lambda p: clipped(sgd(0.1), 0.5),
    "not yet clipped": lambda p: clipped(sgd(0.1), 100.0),
    "clipped rates": lambda p: clipped(learned_rates(p, 0.1), 0.5),
    "clipped adam": lambda p: clipped(adam(0.1, eps=1e-3), 0.5),
    "proximal": lambda p: proximal(sgd(0.1), 2.0),
    "proximal momentum": lambda p: proximal(momentum(0.1), 2.0),
    "proximal, clipped": lambda p: proximal(clipped(sgd(0.1), 0.5), 2.0),
    "clipped, proximal": lambda p: clipped(proximal(sgd(0.1), 2.0), 0.5),
}
every_rule = pytest.mark.parametrize("make", RULES.values(), ids=RULES)

# (first new a, first new b) after GRADS at PARAMS: each rule's formula, worked out with numbers.
FIRST = {
    "sgd": ([1 - 0.05, -2 - 0.4], 3.1),
    "momentum": ([1 - 0.05, -2 - 0.4], 3.1),
    "nesterov": ([1 - 0.05 * 1.8, -2 - 0.4 * 1.8], 3 + 0.1 * 1.8),
    "adam": ([1 - 0.1 * 0.5 / (0.25 + 1e-3) ** 0.5, -2 - 0.1 * 4 / 16.001**0.5], 3 + 0.1 / 1.001**0.5),
    "rates": ([1 - 0.05, -2 - 0.4], 3.1),
    "rates per tensor": ([1 - 0.05, -2 - 0.4], 3.1),
    "rates per step": ([1 - 0.05, -2 - 0.4], 3.1),
    "rates per tensor and step": ([1 - 0.05, -2 - 0.4], 3.1),
    "diagonal": ([1 - 0.05, -2 - 0.4], 3.1),
    "low rank": ([1 - 0.05, -2 - 0.4], 3.1),
    "full": ([1 - 0.05, -2 - 0.4], 3.1),
    "clipped": ([1 - 0.05 * 0.5 / NORM, -2 - 0.4 * 0.5 / NORM], 3 + 0.1 * 0.5 / NORM),
    "not yet clipped": ([1 - 0.05, -2 - 0.4], 3.1),
    "clipped rates": ([1 - 0.05 * 0.5 / NORM, -2 - 0.4 * 0.5 / NORM], 3 + 0.1 * 0.5 / NORM),
    "clipped adam": (
        [1 - 0.1 * 0.25 / NORM / (0.0625 / NORM**2 + 1e-3) ** 0.5, -2 - 0.1 * 2 / NORM / (4 / NORM**2 + 1e-3) ** 0.5],
        3 + 0.1 * 0.5 / NORM / (0.25 / NORM**2 + 1e-3) ** 0.5,
    ),
    "proximal": ([1 - 0.05, -2 - 0.4], 3.1),
    "proximal momentum": ([1 - 0.05, -2 - 0.4], 3.1),
    "proximal, clipped": ([1 - 0.05 * 0.5 / NORM, -2 - 0.4 * 0.5 / NORM], 3 + 0.1 * 0.5 / NORM),
    "clipped, proximal": ([1 - 0.05 * 0.5 / NORM, -2 - 0.4 * 0.5 / NORM], 3 + 0.1 * 0.5 / NORM),
}


def curved(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return (torch.sin(params["a"] * x).sum() - params["b"] * x.mean()) ** 2 + 0.1 * params["b"] ** 4


X, QUERY = torch.tensor([0.3, -1.1], dtype=F64), torch.tensor([0.7, 0.2], dtype=F64)
START = {"a": torch.tensor([0.4, -0.8], dtype=F64), "b": torch.tensor(0.9, dtype=F64)}


@pytest.mark.parametrize("name", RULES)
def test_the_first_step_is_the_formula(name):
    rule = RULES[name](PARAMS)
    new, _ = rule.update(rule.params, GRADS, rule.init(PARAMS), PARAMS)
    a, b = FIRST[name]
    torch.testing.assert_close(new["a"], torch.tensor(a, dtype=F64), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(new["b"], torch.tensor(b, dtype=F64), rtol=1e-14, atol=1e-14)


@every_rule
def test_a_rule_leaves_what_it_is_given_unchanged_and_keeps_names_shapes_and_types(make):
    for dtype in (torch.float32, F64):
        params, grads = ({n: t.to(dtype) for n, t in nest.items()} for nest in (PARAMS, GRADS))
        rule = make(params)
        state = rule.init(params)
        before = pytree.tree_map(torch.clone, (rule.params, grads, state, params))
        new, after = rule.update(rule.params, grads, state, params)
        torch.testing.assert_close((rule.params, grads, state, params), before, rtol=0.0, atol=0.0)
        assert list(new) == list(params) and all(rate.dtype == dtype for rate in rule.params.values())
        assert all(new[n].dtype == dtype and new[n].shape == value.shape for n, value in params.items())
        leaves, spec = pytree.tree_flatten(state)
        later, later_spec = pytree.tree_flatten(after)
        assert spec == later_spec
        assert [(x.dtype, x.shape) for x in leaves] == [(x.dtype, x.shape) for x in later]


@every_rule
def test_parameters_of_several_types_keep_their_own(make):
    params = {"a": START["a"].float(), "b": START["b"], "c": torch.tensor(1.0)}
    rule = make(params)
    state = rule.init(params)
    for _ in range(2):
        grads = {name: 0.5 * value for name, value in params.items()}
        params, state = rule.update(rule.params, grads, state, params)
    assert [value.dtype for value in params.values()] == [torch.float32, F64, torch.float32]


@every_rule
def test_a_step_in_bfloat16_is_that_in_float64_up_to_its_rounding(make):
    params, grads = ({n: t.to(torch.bfloat16) for n, t in nest.items()} for nest in (PARAMS, GRADS))
    rule, exact = make(params), make(PARAMS)
    found, _ = rule.update(rule.params, grads, rule.init(params), params)
    expected, _ = exact.update(exact.params, GRADS, exact.init(PARAMS), PARAMS)
    for name in PARAMS:
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name].double(), expected[name], rtol=2**-8, atol=2**-8)


@every_rule
def test_the_derivative_through_three_steps_is_the_finite_difference(make):
    """By the start, along a random direction, and by the rule's own parameters, along another."""
    rule = make(START)
    generator = seeded(1)
    # A learned rule is checked away from its symmetric start, too.
    learned = {n: r + 0.02 * torch.randn(r.shape, generator=generator, dtype=F64) for n, r in rule.params.items()}
    meta = Meta(START, learned)
    towards = pytree.tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=F64), meta)

    def outer(meta: Meta) -> Tensor:
        return curved(adapt(curved, rule, meta, X, 3), QUERY)

    gradient = torch.func.grad(outer)(meta)
    for part in Meta._fields if rule.params else ("init",):
        only = pytree.tree_map(torch.zeros_like, towards)._replace(**{part: getattr(towards, part)})
        exact = sum((g * d).sum() for g, d in zip(pytree.tree_leaves(gradient), pytree.tree_leaves(only), strict=True))
        h = 1e-5
        up, down = (outer(pytree.tree_map(lambda m, d, s=s, h=h: m + s * h * d, meta, only)) for s in (1, -1))
        assert abs(float(exact)) > 1e-3
        assert float(exact) == pytest.approx(float((up - down) / (2 * h)), rel=1e-6)


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_derivative_is_finite_where_a_gradient_is_zero(make, dtype):
    """All of it at a minimum; and one element's, the other elements' not."""
    zeros = {"a": torch.zeros(2, dtype=dtype), "b": torch.zeros((), dtype=dtype)}
    rule = make(zeros)
    for scale in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])):
        for shift in (0.0, 1.0):

            def bowl(p: dict[str, Tensor], x: Tensor, scale: Tensor = scale, shift: float = shift) -> Tensor:
                return (scale.to(x) * (p["a"] - shift) ** 2).sum() + p["b"] ** 2 * x

            def outer(meta: Meta, loss: Callable = bowl) -> Tensor:
                return loss(adapt(loss, rule, meta, torch.ones((), dtype=dtype), 3), torch.ones((), dtype=dtype))

            gradient, value = torch.func.grad_and_value(outer)(Meta(zeros, rule.params))
            assert torch.isfinite(value) and all(torch.isfinite(g).all() for g in pytree.tree_leaves(gradient))


@every_rule
def test_a_batch_of_tasks_is_the_loop_of_them(make):
    rule = make(START)
    batch = torch.stack([X, 2 * X, -0.5 * X])
    one = lambda x: torch.func.grad(lambda m: curved(adapt(curved, rule, m, x, 4), QUERY))(Meta(START, rule.params))  # noqa: E731
    found = over_tasks(one)(batch)
    for task, x in enumerate(batch):
        torch.testing.assert_close(pytree.tree_map(lambda g, t=task: g[t], found), one(x), rtol=1e-12, atol=1e-12)


def run(rule: Rule, loss: Callable, steps: int, start: dict[str, Tensor] = START) -> dict[str, Tensor]:
    return adapt(loss, rule, Meta(start, rule.params), X, steps)


def run_torch(make: Callable, loss: Callable, steps: int, clip: float | None = None) -> dict[str, Tensor]:
    params = {name: value.clone().requires_grad_() for name, value in START.items()}
    optimizer = make(params.values())
    for _ in range(steps):
        optimizer.zero_grad()
        loss(params, X).backward()
        if clip:
            norm = torch.stack([p.grad.norm() for p in params.values()]).norm()
            for p in params.values():
                p.grad *= min(1.0, clip / float(norm))
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


def pulled(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return curved(params, x) + 0.5 * 2.0 * sum(((params[n] - START[n]) ** 2).sum() for n in params)


TORCH = {
    "sgd": (sgd(0.1), lambda p: torch.optim.SGD(p, 0.1), curved, None),
    "momentum": (momentum(0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8), curved, None),
    "nesterov": (
        momentum(0.1, 0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True),
        curved,
        None,
    ),
    "adam": (
        adam(0.1, (0.8, 0.95), eps=0.0),
        lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=0.0),
        curved,
        None,
    ),
    "adam as it comes": (adam(0.1), lambda p: torch.optim.Adam(p, 0.1, eps=0.0), curved, None),
    "clipped": (clipped(sgd(0.1), 0.3), lambda p: torch.optim.SGD(p, 0.1), curved, 0.3),
    "clipped momentum": (clipped(momentum(0.1), 0.3), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), curved, 0.3),
    "proximal": (proximal(sgd(0.1), 2.0), lambda p: torch.optim.SGD(p, 0.1), pulled, None),
    "proximal adam": (proximal(adam(0.1, eps=0.0), 2.0), lambda p: torch.optim.Adam(p, 0.1, eps=0.0), pulled, None),
}


@pytest.mark.parametrize(("rule", "make", "loss", "clip"), TORCH.values(), ids=TORCH)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_a_rule_goes_where_torchs_optimizer_goes(rule, make, loss, clip, steps):
    # eps = 1e-8 stands inside our root and outside of torch's: relative to g^2 near 1 it is 1e-8 at most.
    tolerance = 1e-5 if rule is TORCH["adam as it comes"][0] else 1e-12
    torch.testing.assert_close(
        run(rule, curved, steps), run_torch(make, loss, steps, clip), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("form", ["low_rank", "full"])
def test_a_learned_matrix_multiplies_all_gradients_joined(form):
    rule = preconditioned(START, 0.1, form, rank=2)
    learned = {
        n: torch.randn(m.shape, generator=seeded(i), dtype=F64) / 9 for i, (n, m) in enumerate(rule.params.items())
    }
    matrix = learned.get("matrix")
    if form == "low_rank":
        matrix = torch.diag(learned["diagonal"]) + learned["left"] @ learned["right"].T
    params = START
    for _ in range(3):
        slope = torch.func.grad(curved)(params, X)
        moved = torch.cat([params["a"], params["b"][None]]) - matrix @ torch.cat([slope["a"], slope["b"][None]])
        params = {"a": moved[:2], "b": moved[2]}
    found = adapt(curved, rule, Meta(START, learned), X, 3)
    torch.testing.assert_close(found, params, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("form", ["diagonal", "low_rank", "full"])
def test_every_preconditioner_starts_as_sgd(form):
    rule = preconditioned(START, 0.1, form, generator=seeded(3))
    torch.testing.assert_close(run(rule, curved, 5), run(sgd(0.1), curved, 5), rtol=1e-13, atol=1e-13)


def test_the_same_generator_gives_the_same_low_rank_start():
    one, two, other = (preconditioned(START, 0.1, "low_rank", generator=seeded(s)).params["right"] for s in (4, 4, 5))
    assert one.equal(two) and not one.equal(other)


def test_learned_rates_start_as_sgd():
    plain, learned = sgd(0.1), learned_rates(PARAMS, 0.1)
    expected, _ = plain.update(plain.params, GRADS, None, PARAMS)
    found, _ = learned.update(learned.params, GRADS, learned.init(PARAMS), PARAMS)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_every_element_has_its_own_learned_rate():
    rule = learned_rates(PARAMS, 0.1)
    assert {n: r.shape for n, r in rule.params.items()} == {n: p.shape for n, p in PARAMS.items()}
    rates = {"a": torch.tensor([0.0, 1.0], dtype=F64), "b": torch.tensor(0.5, dtype=F64)}
    new, _ = rule.update(rates, GRADS, (), PARAMS)
    torch.testing.assert_close(new["a"], torch.tensor([1.0, -6.0], dtype=F64))
    torch.testing.assert_close(new["b"], torch.tensor(3.5, dtype=F64))


@pytest.mark.parametrize("per", ["element", "tensor"])
def test_each_step_has_its_own_rates_and_further_steps_the_last(per):
    rule = learned_rates(START, 0.1, steps=3, per=per)
    shapes = {"element": {"a": (3, 2), "b": (3,)}, "tensor": {"a": (3,), "b": (3,)}}[per]
    assert {name: tuple(rate.shape) for name, rate in rule.params.items()} == shapes
    generator = seeded(6)
    rates = {n: 0.1 * torch.rand(r.shape, generator=generator, dtype=F64) for n, r in rule.params.items()}
    params, state, expected = START, rule.init(START), START
    for step in range(5):
        slope = torch.func.grad(curved)(params, X)
        params, state = rule.update(rates, slope, state, params)
        expected = {n: value - rates[n][min(step, 2)] * slope[n] for n, value in expected.items()}
        torch.testing.assert_close(params, expected, rtol=1e-14, atol=1e-14)


def test_the_gradient_by_a_step_that_was_not_taken_is_zero():
    rule = learned_rates(START, 0.1, steps=4, per="tensor")
    slope = torch.func.grad(lambda rates: curved(adapt(curved, rule, Meta(START, rates), X, 2), QUERY))(rule.params)
    for rate in slope.values():
        assert (rate[:2] != 0).all() and (rate[2:] == 0).all()


def test_the_gradient_by_a_learned_rate_is_minus_the_product_of_the_gradients():
    """For one step on (p - x)^2 / 2, d loss / d rate = -grad(before) grad(after)."""
    start, target, rate = 3.0, 1.0, 0.25

    def after(rates: dict[str, Tensor]) -> Tensor:
        init = {"p": torch.tensor(start, dtype=F64)}
        loss = lambda p, x: 0.5 * (p["p"] - x) ** 2  # noqa: E731
        return loss(adapt(loss, learned_rates(init, rate), Meta(init, rates), torch.tensor(target)), target)

    found = torch.func.grad(after)({"p": torch.tensor(rate, dtype=F64)})["p"]
    before = start - target
    assert float(found) == pytest.approx(-before * (1.0 - rate) * before, rel=1e-14)


@pytest.mark.parametrize("factor", [0.1, 1.0, 30.0, 1e6])
def test_a_clipped_gradient_has_at_most_the_norm_and_the_same_direction(factor):
    rule = clipped(sgd(1.0), 2.0)
    grads = {name: factor * value for name, value in GRADS.items()}
    new, _ = rule.update({}, grads, rule.init(PARAMS), PARAMS)
    step = torch.cat([PARAMS["a"] - new["a"], (PARAMS["b"] - new["b"])[None]])
    whole = torch.cat([grads["a"], grads["b"][None]])
    assert float(step.norm()) == pytest.approx(min(2.0, factor * NORM), rel=1e-9)
    assert float(step @ whole) == pytest.approx(float(step.norm() * whole.norm()), rel=1e-9)


def test_a_pull_brings_the_parameters_to_the_proximal_point():
    """Of the bowl a/2 |p - c|^2 with the pull s: (a c + s start) / (a + s)."""
    start, centre, bowl, strength = 4.0, -1.0, 3.0, 2.0
    loss = lambda p, c: 0.5 * bowl * (p["p"] - c) ** 2  # noqa: E731
    init = {"p": torch.tensor(start, dtype=F64)}
    found = adapt(loss, proximal(sgd(0.1), strength), Meta(init, {}), torch.tensor(centre, dtype=F64), 100)["p"]
    assert float(found) == pytest.approx((bowl * centre + strength * start) / (bowl + strength), rel=1e-14)


REFUSED = {
    'per is "element" or "tensor"; got \'layer\'': lambda: learned_rates(PARAMS, 0.1, per="layer"),
    "steps is at least 1, or None for the same rates at every step; got 0": lambda: learned_rates(PARAMS, 0.1, steps=0),
    'form is "diagonal", "low_rank" or "full"; got \'half\'': lambda: preconditioned(PARAMS, 0.1, "half"),
    "rank is at least 1; got 0": lambda: preconditioned(PARAMS, 0.1, "low_rank", rank=0),
    "clipped: norm is a positive number; got 0.0": lambda: clipped(sgd(0.1), 0.0),
    "clipped: norm is a positive number; got nan": lambda: clipped(sgd(0.1), float("nan")),
    "proximal: strength is a positive number; got -1.0": lambda: proximal(sgd(0.1), -1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_rule_that_makes_no_sense_is_refused_in_words(message):
    with pytest.raises(ValueError) as caught:
        REFUSED[message]()
    assert message in str(caught.value)
