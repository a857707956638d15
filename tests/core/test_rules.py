"""Update rules are pure, keep every name and dtype, and follow their formulas."""

from __future__ import annotations

import pytest
import torch

from scimeta.core.inner_loop import adapt
from scimeta.core.rules import Meta, learned_rates, sgd

PARAMS = {"a": torch.tensor([1.0, -2.0], dtype=torch.float64), "b": torch.tensor(3.0, dtype=torch.float64)}
GRADS = {"a": torch.tensor([0.5, 4.0], dtype=torch.float64), "b": torch.tensor(-1.0, dtype=torch.float64)}


def test_sgd_moves_against_the_gradient_by_the_step_size():
    rule = sgd(0.1)
    new, state = rule.update(rule.params, GRADS, rule.init(PARAMS), PARAMS)
    assert rule.params == {} and state is None
    torch.testing.assert_close(new["a"], torch.tensor([0.95, -2.4], dtype=torch.float64))
    torch.testing.assert_close(new["b"], torch.tensor(3.1, dtype=torch.float64))


def test_learned_rates_start_as_sgd():
    plain, learned = sgd(0.1), learned_rates(PARAMS, 0.1)
    expected, _ = plain.update(plain.params, GRADS, None, PARAMS)
    found, _ = learned.update(learned.params, GRADS, learned.init(PARAMS), PARAMS)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


def test_every_element_has_its_own_learned_rate():
    rule = learned_rates(PARAMS, 0.1)
    assert {n: r.shape for n, r in rule.params.items()} == {n: p.shape for n, p in PARAMS.items()}
    rates = {"a": torch.tensor([0.0, 1.0], dtype=torch.float64), "b": torch.tensor(0.5, dtype=torch.float64)}
    new, _ = rule.update(rates, GRADS, None, PARAMS)
    torch.testing.assert_close(new["a"], torch.tensor([1.0, -6.0], dtype=torch.float64))
    torch.testing.assert_close(new["b"], torch.tensor(3.5, dtype=torch.float64))


def test_the_gradient_by_a_learned_rate_is_minus_the_product_of_the_gradients():
    """For one step on (p - x)^2 / 2, d loss / d rate = -grad(before) grad(after)."""
    start, target, rate = 3.0, 1.0, 0.25

    def after(rates: dict[str, torch.Tensor]) -> torch.Tensor:
        init = {"p": torch.tensor(start, dtype=torch.float64)}
        loss = lambda p, x: 0.5 * (p["p"] - x) ** 2  # noqa: E731
        return loss(adapt(loss, learned_rates(init, rate), Meta(init, rates), torch.tensor(target)), target)

    found = torch.func.grad(after)({"p": torch.tensor(rate, dtype=torch.float64)})["p"]
    before = start - target
    assert float(found) == pytest.approx(-before * (1.0 - rate) * before, rel=1e-14)


@pytest.mark.parametrize("make", [sgd, lambda lr: learned_rates(PARAMS, lr)])
def test_a_rule_leaves_what_it_is_given_unchanged(make):
    rule = make(0.1)
    before = {n: p.clone() for n, p in PARAMS.items()}
    new, _ = rule.update(rule.params, GRADS, rule.init(PARAMS), PARAMS)
    torch.testing.assert_close(PARAMS, before, rtol=0.0, atol=0.0)
    assert list(new) == list(PARAMS) and all(value.dtype == torch.float64 for value in new.values())
