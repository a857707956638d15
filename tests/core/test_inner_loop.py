"""Adaptation against closed forms and finite differences; Gauss-Newton on problems with known minima."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scimeta.core.inner_loop import adapt, gauss_newton, split_fast
from scimeta.core.rules import Meta, learned_rates, sgd
from scimeta.core.tasks import over_tasks

F64 = torch.float64
MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
TARGET = torch.tensor([1.0, -3.0], dtype=F64)
START = torch.tensor([4.0, 2.0], dtype=F64)


def quadratic(params: dict[str, Tensor], target: Tensor) -> Tensor:
    offset = params["p"] - target
    return 0.5 * offset @ MATRIX @ offset


def curved(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return ((params["scale"] * torch.sin(params["rate"] * x) + params["shift"] - y) ** 2).mean()


CURVED = {n: torch.tensor(v, dtype=F64) for n, v in {"scale": 1.2, "rate": 0.8, "shift": -0.1}.items()}
X = torch.linspace(-2.0, 2.0, 9, dtype=F64)
SUPPORT, QUERY = (X[::2], torch.cos(X[::2])), (X[1::2], torch.cos(X[1::2]))


class TestAdapt:
    @pytest.mark.parametrize("steps", [0, 1, 2, 7])
    def test_sgd_on_a_quadratic_is_the_closed_form(self, steps):
        adapted = adapt(quadratic, sgd(0.3), Meta({"p": START}, {}), TARGET, steps)
        contraction = torch.linalg.matrix_power(torch.eye(2, dtype=F64) - 0.3 * MATRIX, steps)
        torch.testing.assert_close(adapted["p"], TARGET + contraction @ (START - TARGET), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("steps", [1, 3])
    def test_the_meta_gradient_is_the_finite_difference(self, steps):
        rule = learned_rates(CURVED, 0.2)
        names = [("init", n) for n in CURVED] + [("rule", n) for n in CURVED]

        def outer(flat: Tensor) -> Tensor:
            values = flat.unbind()
            meta = Meta(dict(zip(CURVED, values[:3], strict=True)), dict(zip(CURVED, values[3:], strict=True)))
            return curved(adapt(curved, rule, meta, SUPPORT, steps), QUERY)

        at = torch.stack([*CURVED.values(), *rule.params.values()])
        exact, h = torch.func.grad(outer)(at), 1e-6
        for i, name in enumerate(names):
            step = torch.zeros_like(at)
            step[i] = h
            difference = (outer(at + step) - outer(at - step)) / (2 * h)
            assert float(exact[i]) == pytest.approx(float(difference), rel=1e-6, abs=1e-9), name

    @pytest.mark.parametrize("steps", [1, 3])
    def test_the_first_order_meta_gradient_is_the_gradient_at_the_adapted_point(self, steps):
        def outer(init: dict[str, Tensor]) -> Tensor:
            return curved(adapt(curved, sgd(0.2), Meta(init, {}), SUPPORT, steps, first_order=True), QUERY)

        adapted = adapt(curved, sgd(0.2), Meta(CURVED, {}), SUPPORT, steps)
        expected = torch.func.grad(curved)(adapted, QUERY)
        torch.testing.assert_close(torch.func.grad(outer)(CURVED), expected, rtol=1e-14, atol=1e-16)

    def test_first_order_changes_the_meta_gradient_but_not_the_adapted_point(self):
        meta = Meta(CURVED, {})
        full = adapt(curved, sgd(0.2), meta, SUPPORT, 3)
        torch.testing.assert_close(adapt(curved, sgd(0.2), meta, SUPPORT, 3, first_order=True), full)

        def outer(init: dict[str, Tensor], first_order: bool) -> Tensor:
            return curved(adapt(curved, sgd(0.2), Meta(init, {}), SUPPORT, 3, first_order=first_order), QUERY)

        difference = [torch.func.grad(outer)(CURVED, flag)["rate"] for flag in (False, True)]
        assert abs(float(difference[0] - difference[1])) > 1e-2

    def test_slow_parameters_do_not_move_and_still_get_a_meta_gradient(self):
        meta = Meta(CURVED, {})
        adapted = adapt(curved, sgd(0.2), meta, SUPPORT, 4, fast=("sc*", "shift"))
        assert adapted["rate"] is CURVED["rate"]
        assert adapted["scale"] != CURVED["scale"] and adapted["shift"] != CURVED["shift"]

        def outer(rate: Tensor) -> Tensor:
            init = {**CURVED, "rate": rate}
            return curved(adapt(curved, sgd(0.2), Meta(init, {}), SUPPORT, 4, fast=("sc*", "shift")), QUERY)

        h = 1e-6
        difference = (outer(CURVED["rate"] + h) - outer(CURVED["rate"] - h)) / (2 * h)
        assert float(torch.func.grad(outer)(CURVED["rate"])) == pytest.approx(float(difference), rel=1e-6)

    def test_a_batch_of_adaptations_is_the_loop_of_them(self):
        targets = torch.stack([TARGET, -TARGET, 2 * TARGET])
        one = lambda target: adapt(quadratic, sgd(0.3), Meta({"p": START}, {}), target, 3)["p"]  # noqa: E731
        loop = torch.stack([one(target) for target in targets])
        torch.testing.assert_close(over_tasks(one)(targets), loop, rtol=1e-14, atol=1e-14)

    def test_an_unknown_fast_pattern_is_refused_with_the_names_there_are(self):
        with pytest.raises(ValueError, match=r"'head\.\*' matches no parameter; there are scale, rate, shift"):
            adapt(curved, sgd(0.1), Meta(CURVED, {}), SUPPORT, fast=("scale", "head.*"))

    def test_fast_and_slow_together_are_all_parameters(self):
        fast, slow = split_fast(CURVED, ("s*",))
        assert set(fast) == {"scale", "shift"} and set(slow) == {"rate"}


def straight(params: dict[str, Tensor], data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, y, weight = data
    return (params["level"] + params["slope"] * x - y) * weight


def decay(params: dict[str, Tensor], data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    x, y, weight = data
    return (params["height"] * torch.exp(-params["rate"] * x) - y) * weight


def rosenbrock(params: dict[str, Tensor], data: Tensor) -> Tensor:
    a, b = params["p"]
    return torch.stack([10.0 * (b - a**2), 1.0 - a]) * data


def powell(params: dict[str, Tensor], data: Tensor) -> Tensor:
    a, b, c, d = params["p"]
    return torch.stack([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]) * data


def decays(tasks: int, points: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y and weight of noisy decays, each (tasks, points)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(0.0, 3.0, points, dtype=F64).expand(tasks, points)
    height, rate = 1.0 + torch.rand(2, tasks, 1, generator=generator, dtype=F64)
    y = height * torch.exp(-rate * x) + 0.05 * torch.randn(tasks, points, generator=generator, dtype=F64)
    return x, y, torch.full_like(x, 20.0)


def from_one(tasks: int) -> dict[str, Tensor]:
    return {"height": torch.ones(tasks, dtype=F64), "rate": torch.ones(tasks, dtype=F64)}


class TestGaussNewton:
    def test_a_linear_problem_is_solved_in_one_step(self):
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(2, 4, 6, generator=generator, dtype=F64)
        start = {"level": torch.full((4,), 50.0, dtype=F64), "slope": torch.full((4,), -80.0, dtype=F64)}
        solution = gauss_newton(straight, start, (x, y, torch.ones_like(x)), steps=1)
        for i in range(4):
            design = torch.stack([torch.ones(6, dtype=F64), x[i]], -1)
            expected = torch.linalg.lstsq(design, y[i]).solution
            found = torch.stack([solution.params["level"][i], solution.params["slope"][i]])
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            assert float(solution.cost[i]) == pytest.approx(
                float(0.5 * ((design @ expected - y[i]) ** 2).sum()), rel=1e-9
            )
        assert solution.converged.all() and (solution.steps == 1).all()

    @pytest.mark.parametrize("start", [(-1.2, 1.0), (10.0, -20.0), (-50.0, 30.0), (0.0, 0.0)])
    def test_rosenbrocks_valley_is_followed_from_far_starts(self, start):
        p = {"p": torch.tensor([start], dtype=F64)}
        solution = gauss_newton(rosenbrock, p, torch.ones(1, 1, dtype=F64), steps=1000, tolerance=1e-16)
        torch.testing.assert_close(solution.params["p"], torch.ones(1, 2, dtype=F64), rtol=0.0, atol=1e-7)
        assert solution.converged.all()

    @pytest.mark.parametrize("start", [(3.0, -1.0, 0.0, 1.0), (30.0, -10.0, 5.0, 10.0)])
    def test_powells_singular_minimum_is_found(self, start):
        p = {"p": torch.tensor([start], dtype=F64)}
        solution = gauss_newton(powell, p, torch.ones(1, 1, dtype=F64), steps=200)
        assert float(solution.cost) < 1e-8 and solution.converged.all()
        assert solution.params["p"].abs().max() < 0.1

    def test_tasks_with_starts_of_unequal_difficulty_do_not_disturb_each_other(self):
        starts = torch.tensor([[1.0, 1.0], [-1.2, 1.0], [-50.0, 30.0]], dtype=F64)
        data = torch.ones(3, 1, dtype=F64)
        batch = gauss_newton(rosenbrock, {"p": starts}, data, steps=200)
        for i in range(3):
            alone = gauss_newton(rosenbrock, {"p": starts[i : i + 1]}, data[:1], steps=200)
            torch.testing.assert_close(batch.params["p"][i], alone.params["p"][0], rtol=1e-12, atol=1e-12)
            assert batch.steps[i] == alone.steps[0]
        assert batch.steps[0] == 0

    def test_a_batch_equals_one_by_one(self):
        data = decays(40, 8, seed=2)
        batch = gauss_newton(decay, from_one(40), data)
        assert batch.converged.all()
        for i in range(40):
            alone = gauss_newton(decay, from_one(1), tuple(t[i : i + 1] for t in data))
            for name in ("height", "rate"):
                torch.testing.assert_close(batch.params[name][i], alone.params[name][0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(batch.jacobian[i], alone.jacobian[0], rtol=1e-11, atol=1e-11)

    def test_the_solution_is_stationary_and_its_jacobian_is_the_finite_difference(self):
        x, y, weight = decays(5, 8, seed=3)
        solution = gauss_newton(decay, from_one(5), (x, y, weight), tolerance=1e-14)
        r = over_tasks(decay)(solution.params, (x, y, weight))
        torch.testing.assert_close(0.5 * (r * r).sum(-1), solution.cost, rtol=1e-13, atol=0.0)
        gradient = (solution.jacobian.mT @ r[..., None])[..., 0]
        size = solution.jacobian.norm(dim=1) * r.norm(dim=-1)[:, None]
        assert (gradient.abs() < 1e-6 * size).all()
        h = 1e-6
        for i, name in enumerate(("height", "rate")):
            up, down = ({**solution.params, name: solution.params[name] + s * h} for s in (1, -1))
            data = (x, y, weight)
            difference = (over_tasks(decay)(up, data) - over_tasks(decay)(down, data)) / (2 * h)
            torch.testing.assert_close(solution.jacobian[..., i], difference, rtol=1e-6, atol=1e-7)

    def test_the_units_of_a_parameter_do_not_matter(self):
        data = decays(10, 8, seed=4)
        factor = 1e6

        def scaled(params: dict[str, Tensor], task: tuple[Tensor, ...]) -> Tensor:
            return decay({"height": params["height"] / factor, "rate": params["rate"] * factor}, task)

        start = from_one(10)
        plain = gauss_newton(decay, start, data)
        other = gauss_newton(scaled, {"height": start["height"] * factor, "rate": start["rate"] / factor}, data)
        torch.testing.assert_close(other.params["height"] / factor, plain.params["height"], rtol=1e-9, atol=0.0)
        torch.testing.assert_close(other.params["rate"] * factor, plain.params["rate"], rtol=1e-9, atol=0.0)
        assert other.steps.equal(plain.steps)

    def test_padding_with_zero_weight_changes_nothing(self):
        x, y, weight = decays(6, 8, seed=5)
        filled = (torch.cat([x, 99.0 + x[:, :3]], 1), torch.cat([y, y[:, :3]], 1),
                  torch.cat([weight, torch.zeros(6, 3, dtype=F64)], 1))  # fmt: skip
        plain, padded = gauss_newton(decay, from_one(6), (x, y, weight)), gauss_newton(decay, from_one(6), filled)
        for name in ("height", "rate"):
            torch.testing.assert_close(padded.params[name], plain.params[name], rtol=1e-12, atol=1e-12)

    def test_slow_parameters_are_held_and_come_back(self):
        x, y, weight = decays(3, 8, seed=6)
        held = torch.tensor([1.1, 1.5, 1.9], dtype=F64)
        solution = gauss_newton(decay, {"height": torch.ones(3, dtype=F64), "rate": held}, (x, y, weight),
                                fast=("height",))  # fmt: skip
        shape = torch.exp(-held[:, None] * x)
        assert solution.params["rate"].equal(held) and solution.jacobian.shape == (3, 8, 1)
        torch.testing.assert_close(solution.params["height"], (shape * y).sum(-1) / (shape * shape).sum(-1))

    def test_vector_parameters_keep_their_shape(self):
        generator = torch.Generator().manual_seed(7)
        target = torch.randn(4, 2, 3, generator=generator, dtype=F64)
        start = {"m": torch.zeros(4, 2, 3, dtype=F64), "c": torch.zeros(4, dtype=F64)}
        residuals = lambda p, t: torch.cat([(p["m"] - t).flatten(), p["c"][None] - 2.0])  # noqa: E731
        solution = gauss_newton(residuals, start, target)
        torch.testing.assert_close(solution.params["m"], target)
        torch.testing.assert_close(solution.params["c"], torch.full((4,), 2.0, dtype=F64))

    def test_a_solve_that_runs_out_of_steps_says_so(self):
        p = {"p": torch.tensor([[-50.0, 30.0], [1.0, 1.0]], dtype=F64)}
        solution = gauss_newton(rosenbrock, p, torch.ones(2, 1, dtype=F64), steps=2)
        assert solution.converged.tolist() == [False, True]
        before = over_tasks(rosenbrock)(p, torch.ones(2, 1, dtype=F64))
        assert (solution.cost <= 0.5 * (before * before).sum(-1)).all()

    def test_no_steps_evaluate_the_start(self):
        start = {"p": torch.tensor([[-1.2, 1.0]], dtype=F64)}
        solution = gauss_newton(rosenbrock, start, torch.ones(1, 1, dtype=F64), steps=0)
        assert solution.params["p"].equal(start["p"]) and float(solution.cost) == pytest.approx(12.1)
        assert not solution.converged.any()

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    def test_a_task_that_is_not_finite_does_not_converge_and_spoils_no_other(self, bad):
        x, y, weight = decays(3, 8, seed=8)
        clean = gauss_newton(decay, from_one(3), (x, y, weight))
        broken = y.clone()
        broken[1, 4] = bad
        solution = gauss_newton(decay, from_one(3), (x, broken, weight))
        assert solution.converged.tolist() == [True, False, True]
        assert solution.params["rate"][[0, 2]].equal(clean.params["rate"][[0, 2]])

    def test_a_step_into_the_undefined_is_taken_back(self):
        """The first Gauss-Newton step for log(p) = 0 from p = 5 lands at a negative p, where the logarithm is NaN."""
        solution = gauss_newton(lambda p, data: torch.log(p["p"])[None] - data, {"p": torch.full((1,), 5.0, dtype=F64)},
                                torch.zeros(1, 1, dtype=F64))  # fmt: skip
        within = (2 * 1e-8) ** 0.5  # the tolerance on the cost, p^2 / 2 near the minimum
        assert solution.converged.all() and float(solution.params["p"]) == pytest.approx(1.0, abs=within)

    def test_a_parameter_without_influence_stays_where_it_is(self):
        solution = gauss_newton(lambda p, data: p["a"][None] - data + 0.0 * p["b"],
                                {"a": torch.zeros(1, dtype=F64), "b": torch.full((1,), 7.0, dtype=F64)},
                                torch.ones(1, 2, dtype=F64))  # fmt: skip
        assert float(solution.params["a"]) == pytest.approx(1.0, abs=1e-3) and float(solution.params["b"]) == 7.0
        assert solution.jacobian[0, :, 1].tolist() == [0.0, 0.0]

    def test_large_residuals_at_the_minimum_do_not_stop_convergence(self):
        """The residuals' own curvature makes every plain step overshoot 1.8-fold, however near the minimum at 0."""
        residuals = lambda p, data: torch.stack([p["p"] + 1, -1.8 * p["p"] ** 2 + p["p"] - 1]) * data  # noqa: E731
        solution = gauss_newton(residuals, {"p": torch.ones(1, dtype=F64)}, torch.ones(1, 1, dtype=F64), steps=50)
        assert solution.converged.all()

    def test_residuals_of_one_task_and_of_the_batch_are_not_both_taken(self):
        with pytest.raises(TypeError, match="either residuals"):
            gauss_newton(None, {"p": torch.ones(1)}, torch.ones(1, 1))

    def test_the_batch_linearisation_of_the_caller_gives_the_same_solution(self):
        data = decays(5, 8, seed=9)

        def linearized(fast: dict[str, Tensor], slow: dict[str, Tensor], data: tuple) -> tuple[Tensor, Tensor]:
            x, y, weight = data
            shape = torch.exp(-fast["rate"][:, None] * x)
            height = fast["height"][:, None]
            return (height * shape - y) * weight, torch.stack([shape * weight, -height * x * shape * weight], -1)

        own, auto = gauss_newton(None, from_one(5), data, linearized=linearized), gauss_newton(decay, from_one(5), data)
        torch.testing.assert_close(own.params["rate"], auto.params["rate"], rtol=1e-12, atol=1e-12)

    def test_the_solution_carries_no_gradient(self):
        start = {name: value.requires_grad_() for name, value in from_one(2).items()}
        solution = gauss_newton(decay, start, decays(2, 8, seed=10))
        assert not any(value.requires_grad for value in solution.params.values())
