"""Closed forms against plain autograd loops, numerical optimisation and Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scimeta import analytic
from scimeta.analytic import Bowls
from scimeta.core.inner_loop import adapt
from scimeta.core.rules import Meta, sgd
from scimeta.core.tasks import over_tasks

F64 = torch.float64
LR = 0.13  # lr times an eigenvalue runs from about 0.03 to 0.6
START = torch.tensor([0.4, -1.1, 0.7], dtype=F64)


def random_bowls(tasks: int = 5, dim: int = 3, seed: int = 0) -> Bowls:
    g = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(tasks, dim, dim, generator=g, dtype=F64))[0]
    values = 0.25 + 4.5 * torch.rand(tasks, 1, dim, generator=g, dtype=F64)
    return Bowls((axes * values) @ axes.mT, torch.randn(tasks, dim, generator=g, dtype=F64))


BOWLS = random_bowls()


def covariance(dim: int = 3, seed: int = 1) -> Tensor:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return root @ root.T / dim + 0.1 * torch.eye(dim, dtype=F64)


def bowl(t: Tensor, curvature: Tensor, centre: Tensor) -> Tensor:
    """The loss of one bowl, written down once more."""
    return 0.5 * torch.dot(t - centre, torch.mv(curvature, t - centre))


def gradient(t: Tensor, curvature: Tensor, centre: Tensor, create_graph: bool = False) -> Tensor:
    if not t.requires_grad:
        t = t.clone().requires_grad_()
    return torch.autograd.grad(bowl(t, curvature, centre), t, create_graph=create_graph)[0]


def steps_from(t: Tensor, task: tuple[Tensor, Tensor], steps: int, lr: float = LR) -> list[Tensor]:
    """The points of a plain inner loop, start included, with its graph."""
    points = [t]
    for _ in range(steps):
        points.append(points[-1] - lr * gradient(points[-1], *task, create_graph=True))
    return points


def tasks_of(bowls: Bowls) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*bowls, strict=True))


def maml_loop(t: Tensor, steps: int) -> Tensor:
    return sum(bowl(steps_from(t, task, steps)[-1], *task) for task in tasks_of(BOWLS)) / 5


WEIGHTS = [0.5, 0.2, 0.3]


def multi_step_loop(t: Tensor) -> Tensor:
    losses = [
        v * bowl(point, *task)
        for task in tasks_of(BOWLS)
        for v, point in zip(WEIGHTS, steps_from(t, task, 3)[1:], strict=True)
    ]
    return sum(losses) / 5


def imaml_loop(t: Tensor, strength: float = 0.8) -> Tensor:
    """The proximal problem solved by so many gradient steps that they have converged, all of them differentiated."""
    losses = []
    for task in tasks_of(BOWLS):
        p = t
        for _ in range(150):
            p = p - 0.25 * (gradient(p, *task, create_graph=True) + strength * (p - t))
        losses.append(bowl(p, *task))
    return sum(losses) / 5


LOSSES = [
    pytest.param(lambda t: maml_loop(t, 0), BOWLS, id="joint"),
    *(
        pytest.param(lambda t, k=k: maml_loop(t, k), analytic.maml(BOWLS, lr=LR, steps=k), id=f"maml-{k}")
        for k in (1, 2, 5)
    ),
    pytest.param(imaml_loop, analytic.imaml(BOWLS, strength=0.8), id="imaml"),
    pytest.param(multi_step_loop, analytic.multi_step_maml(BOWLS, lr=LR, weights=WEIGHTS), id="multi-step"),
]


class TestMethodsWithAMetaLoss:
    @pytest.mark.parametrize(("loop", "seen"), LOSSES)
    def test_the_meta_loss_is_that_of_the_plain_loop(self, loop: Callable[[Tensor], Tensor], seen: Bowls):
        expected = loop(START.clone().requires_grad_())
        torch.testing.assert_close(analytic.meta_loss(seen, START), expected.detach(), rtol=1e-12, atol=0)

    @pytest.mark.parametrize(("loop", "seen"), LOSSES)
    def test_a_numerical_optimiser_of_the_plain_loop_ends_at_the_optimum(self, loop, seen: Bowls):
        t = START.clone().requires_grad_()
        # Without a line search, which would stop where the loss, not its gradient, is down to rounding.
        search = torch.optim.LBFGS([t], max_iter=60, tolerance_grad=1e-14, tolerance_change=0)

        def closure() -> Tensor:
            search.zero_grad()
            value = loop(t)
            value.backward()
            return value

        search.step(closure)
        torch.testing.assert_close(t.detach(), analytic.optimum(seen), rtol=0, atol=1e-12)


class TestMethodsWithoutAMetaLoss:
    @staticmethod
    def fomaml_update(t: Tensor, task: tuple[Tensor, Tensor], steps: int) -> Tensor:
        return gradient(steps_from(t, task, steps)[-1].detach(), *task)

    @staticmethod
    def reptile_update(t: Tensor, task: tuple[Tensor, Tensor], steps: int) -> Tensor:
        return t - steps_from(t, task, steps)[-1].detach()

    @pytest.mark.parametrize("steps", [1, 3, 4])
    @pytest.mark.parametrize("method", ["fomaml", "reptile"])
    def test_the_outer_loop_comes_to_rest_at_the_optimum(self, method: str, steps: int):
        update = getattr(self, f"{method}_update")
        seen = getattr(analytic, method)(BOWLS, lr=LR, steps=steps)
        t, rate = START, 1 / torch.linalg.matrix_norm(seen.curvature.mean(0), 2)
        for _ in range(150):
            t = t - rate * sum(update(t, task, steps) for task in tasks_of(BOWLS)) / 5
        torch.testing.assert_close(t, analytic.optimum(seen), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("method", ["fomaml", "reptile"])
    def test_the_meta_loss_has_the_expected_update_as_gradient(self, method: str):
        seen = getattr(analytic, method)(BOWLS, lr=LR, steps=3)
        t = START.clone().requires_grad_()
        (slope,) = torch.autograd.grad(analytic.meta_loss(seen, t), t)
        update = sum(getattr(self, f"{method}_update")(START, task, 3) for task in tasks_of(BOWLS)) / 5
        torch.testing.assert_close(slope, update, rtol=1e-12, atol=1e-14)

    def test_first_order_with_an_odd_number_of_overshooting_steps_has_a_zero_that_repels(self):
        steep = Bowls(BOWLS.curvature + 5 * torch.eye(3, dtype=F64), BOWLS.centre)
        seen = analytic.fomaml(steep, lr=0.3, steps=1)  # lr times an eigenvalue is above 1.5
        assert torch.linalg.eigvalsh(seen.curvature.mean(0)).max() < 0
        zero = sum(
            gradient(steps_from(analytic.optimum(seen), task, 1, 0.3)[-1].detach(), *task) for task in tasks_of(steep)
        )
        assert zero.abs().max() < 1e-12


class TestLimits:
    @pytest.mark.parametrize("method", [analytic.maml, analytic.fomaml])
    def test_no_steps_is_joint_training(self, method):
        torch.testing.assert_close(method(BOWLS, lr=LR, steps=0), BOWLS, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("method", [analytic.maml, analytic.fomaml, analytic.reptile])
    def test_small_rates_approach_joint_training_linearly(self, method):
        joint = analytic.optimum(BOWLS)
        far, near = ((analytic.optimum(method(BOWLS, lr=lr, steps=3)) - joint).norm().item() for lr in (1e-3, 1e-4))
        assert far > 1e-5
        assert far / near == pytest.approx(10, rel=0.01)

    def test_reptile_of_one_step_is_joint_training(self):
        one = analytic.optimum(analytic.reptile(BOWLS, lr=LR))
        torch.testing.assert_close(one, analytic.optimum(BOWLS), rtol=1e-12, atol=1e-13)

    def test_reptile_of_many_steps_is_the_mean_centre(self):
        many = analytic.optimum(analytic.reptile(BOWLS, lr=LR, steps=2000))
        torch.testing.assert_close(many, BOWLS.centre.mean(0), rtol=1e-12, atol=1e-13)

    def test_first_order_sees_in_twice_the_steps_what_maml_sees(self):
        first, second = analytic.fomaml(BOWLS, lr=LR, steps=6), analytic.maml(BOWLS, lr=LR, steps=3)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-14)

    def test_a_strong_pull_of_implicit_maml_is_joint_training(self):
        strong = analytic.optimum(analytic.imaml(BOWLS, strength=1e7))
        torch.testing.assert_close(strong, analytic.optimum(BOWLS), rtol=0, atol=1e-6)

    def test_the_multi_step_loss_with_the_last_weight_alone_is_maml(self):
        multi = analytic.multi_step_maml(BOWLS, lr=LR, weights=[0.0, 0.0, 1.0])
        torch.testing.assert_close(multi, analytic.maml(BOWLS, lr=LR, steps=3), rtol=1e-12, atol=1e-14)

    def test_many_shots_are_maml(self):
        few = analytic.few_shot_maml(BOWLS, lr=LR, shots=10**12)
        torch.testing.assert_close(few, analytic.maml(BOWLS, lr=LR), rtol=0, atol=1e-11)

    def test_bowls_of_one_curvature_have_the_mean_centre_whatever_the_method(self):
        alike = Bowls(BOWLS.curvature[:1].expand(5, 3, 3), BOWLS.centre)
        for seen in (alike, analytic.maml(alike, lr=LR, steps=2), analytic.reptile(alike, lr=LR, steps=2)):
            torch.testing.assert_close(analytic.optimum(seen), alike.centre.mean(0), rtol=1e-12, atol=1e-13)


def test_the_loss_fits_the_core():
    meta = Meta({"theta": START}, {})

    def query(data: Bowls) -> Tensor:
        return analytic.loss(adapt(analytic.loss, sgd(LR), meta, data, 3), data)

    expected = analytic.meta_loss(analytic.maml(BOWLS, lr=LR, steps=3), START)
    torch.testing.assert_close(over_tasks(query)(BOWLS).mean(), expected, rtol=1e-12, atol=0)


RAVINE = torch.tensor([[4.0, 0.3], [0.3, 0.8]], dtype=F64)


def methods(bowls: Bowls) -> list[Bowls]:
    return [
        bowls,
        analytic.maml(bowls, lr=LR, steps=2),
        analytic.reptile(bowls, lr=LR, steps=4),
        analytic.imaml(bowls, strength=0.5),
        analytic.few_shot_maml(bowls, lr=LR, shots=2),
    ]


def on_circle(count: int, turns: int, phase: float = 0.4) -> Bowls:
    angle = 2 * torch.pi * torch.arange(count, dtype=F64) / count
    return analytic.treasures(RAVINE, turns * angle + phase, torch.stack([angle.cos(), angle.sin()], -1))


class TestTreasures:
    def test_each_bowl_is_the_rotated_one(self):
        angle = torch.tensor([0.0, 0.7, 2.0], dtype=F64)
        bowls = analytic.treasures(RAVINE, angle)
        point = torch.tensor([1.5, -0.2], dtype=F64)
        for a, (curvature, centre) in zip(angle, tasks_of(bowls), strict=True):
            back = torch.tensor([[a.cos(), a.sin()], [-a.sin(), a.cos()]], dtype=F64)
            unrotated = bowl(back @ point, RAVINE, torch.tensor([1.0, 0.0], dtype=F64))
            torch.testing.assert_close(bowl(point, curvature, centre), unrotated, rtol=1e-13, atol=0)

    @pytest.mark.parametrize("turns", range(-4, 5))
    @pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
    def test_on_a_circle_the_centroid_is_the_optimum_unless_the_count_divides_twice_the_turns_less_one(
        self, count: int, turns: int
    ):
        for seen in methods(on_circle(count, turns)):
            away = analytic.optimum(seen).norm()
            assert away > 0.05 if (2 * turns - 1) % count == 0 else away < 1e-12

    def test_anywhere_the_optimum_misses_the_centroid_by_the_formula(self):
        g = torch.Generator().manual_seed(3)
        angle = 2 * torch.pi * torch.rand(6, generator=g, dtype=F64)
        centre = torch.randn(6, 2, generator=g, dtype=F64)
        flat = torch.diag(torch.tensor([4.0, 0.8], dtype=F64))
        for seen in methods(analytic.treasures(flat, angle, centre)):
            # The first eigenvector points along the bowl's angle: p belongs to it, q to the other.
            q_and_p = torch.linalg.eigvalsh(seen.curvature[0])
            along = torch.stack([angle[0].cos(), angle[0].sin()])
            p = along @ seen.curvature[0] @ along
            r = (2 * p - q_and_p.sum()) / q_and_p.sum()
            z = torch.complex(*centre.T)
            u = torch.exp(2j * angle).mean()
            v = (torch.exp(2j * angle) * (z - z.mean()).conj()).mean()
            expected = z.mean() + r * (v - r * u * v.conj()) / (1 - r**2 * u.abs() ** 2)
            torch.testing.assert_close(torch.complex(*analytic.optimum(seen)), expected, rtol=1e-12, atol=1e-13)

    def test_rotations_that_cancel_do_not_suffice(self):
        bowls = on_circle(3, turns=2)
        mean = bowls.curvature.mean(0)
        torch.testing.assert_close(mean, mean[0, 0] * torch.eye(2, dtype=F64), rtol=1e-12, atol=1e-13)
        assert analytic.optimum(bowls).norm() > 0.5

    def test_independent_rotations_leave_the_centroid_on_average(self):
        g = torch.Generator().manual_seed(5)
        centre = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.5], [0.0, 0.0]], dtype=F64)
        draws = torch.stack(
            [
                analytic.optimum(analytic.treasures(RAVINE, 2 * torch.pi * torch.rand(4, generator=g), centre))
                for _ in range(2000)
            ]
        )
        z = (draws.mean(0) - centre.mean(0)) / (draws.std(0) / math.sqrt(2000))
        assert draws.std(0).min() > 0.1
        assert z.abs().max() < 4


def z_scores(samples: Tensor, expected: Tensor) -> Tensor:
    """Mean minus expected, in standard errors; samples along the first axis."""
    return (samples.mean(0) - expected) / (samples.std(0) / math.sqrt(len(samples)))


def adapted(bowls: Bowls, start: Tensor, errors: Callable[[], Tensor], steps: int) -> Tensor:
    """End points (draws, tasks, dim) of plain descent with an error (draws, tasks, dim) in each gradient."""
    t = start
    for _ in range(steps):
        t = t - LR * (((t - bowls.centre)[..., None, :] @ bowls.curvature)[..., 0, :] + errors())
    return t


class TestNoise:
    @pytest.mark.parametrize("steps", [1, 2, 6])
    @pytest.mark.parametrize("start", [START, -3 * START], ids=["near", "far"])
    def test_fresh_noise_raises_the_meta_loss_by_the_floor_wherever_it_starts(self, start: Tensor, steps: int):
        noise = 4 * covariance()
        root, g = torch.linalg.cholesky(noise), torch.Generator().manual_seed(steps)
        end = adapted(BOWLS, start, lambda: torch.randn(100_000, 5, 3, generator=g, dtype=F64) @ root.T, steps)
        losses = analytic.loss({"theta": end}, BOWLS).mean(-1)
        quiet = analytic.meta_loss(analytic.maml(BOWLS, lr=LR, steps=steps), start)
        floor = analytic.noise_floor(BOWLS, noise, lr=LR, steps=steps)
        assert abs(z_scores(losses, quiet)) > 10
        assert abs(z_scores(losses, quiet + floor)) < 4

    def test_the_floor_settles_after_many_steps(self):
        noise = torch.stack([covariance(seed=s) for s in range(5)])
        settled = torch.linalg.inv(2 * torch.eye(3, dtype=F64) - LR * BOWLS.curvature)
        expected = 0.5 * LR * torch.einsum("tij,tji->t", noise, settled).mean()
        floor = analytic.noise_floor(BOWLS, noise, lr=LR, steps=2000)
        torch.testing.assert_close(floor, expected, rtol=1e-11, atol=0)


class TestFewShots:
    @pytest.mark.parametrize("shots", [1, 4])
    def test_the_curvature_is_the_mean_over_supports_and_no_other_trace_fits(self, shots: int):
        lr, cov = 0.2, covariance()
        bowls = Bowls(cov[None], torch.zeros(1, 3, dtype=F64))
        g = torch.Generator().manual_seed(shots)
        x = torch.randn(200_000, shots, 3, generator=g, dtype=F64) @ torch.linalg.cholesky(cov).T
        left = torch.eye(3, dtype=F64) - lr * x.mT @ x / shots
        seen = analytic.few_shot_maml(bowls, lr=lr, shots=shots).curvature[0]
        z = z_scores(left @ cov @ left, seen)
        assert z.abs().max() < 4
        wrong = seen + lr**2 * (cov.trace() ** 2 - (cov @ cov).trace()) * cov / shots
        assert z_scores(left @ cov @ left, wrong).diagonal().abs().min() > 10

    def test_the_optimum_moves_to_where_the_mean_meta_gradient_of_sampled_regressions_vanishes(self):
        lr, shots, draws = 0.15, 2, 100_000
        t = analytic.optimum(analytic.few_shot_maml(BOWLS, lr=lr, shots=shots)).requires_grad_()
        g = torch.Generator().manual_seed(8)
        root = torch.linalg.cholesky(BOWLS.curvature)
        x = torch.randn(draws, 5, shots, 3, generator=g, dtype=F64) @ root.mT  # (draws, tasks, shots, dim)
        y = (x @ BOWLS.centre[..., None])[..., 0] + 0.5 * torch.randn(draws, 5, shots, generator=g, dtype=F64)

        def sampled(start: Tensor) -> Tensor:
            """Meta-gradient of each draw, (draws, dim)."""
            start = start.detach().expand(draws, 3).clone().requires_grad_()
            support = 0.5 * (((x @ start[:, None, :, None])[..., 0] - y) ** 2).mean(-1)  # (draws, tasks)
            slopes = [torch.autograd.grad(support[:, i].sum(), start, create_graph=True)[0] for i in range(5)]
            end = start[:, None] - lr * torch.stack(slopes, 1)
            return torch.autograd.grad(analytic.loss({"theta": end}, BOWLS).mean(-1).sum(), start)[0]

        assert z_scores(sampled(t), torch.zeros(3, dtype=F64)).abs().max() < 4
        assert z_scores(sampled(analytic.optimum(analytic.maml(BOWLS, lr=lr))), torch.zeros(3)).abs().max() > 10

    def test_noisy_targets_raise_the_floor_by_their_gradients_covariance(self):
        shots, variance = 3, 2.0
        g = torch.Generator().manual_seed(9)
        x = torch.randn(100_000, 5, shots, 3, generator=g, dtype=F64) @ torch.linalg.cholesky(BOWLS.curvature).mT
        error = math.sqrt(variance) * torch.randn(100_000, 5, shots, 1, generator=g, dtype=F64)
        offset = (START - BOWLS.centre)[..., None]
        slope = (x.mT @ (x @ offset - error) / shots)[..., 0]
        losses = analytic.loss({"theta": START - LR * slope}, BOWLS).mean(-1)
        quiet = analytic.meta_loss(analytic.few_shot_maml(BOWLS, lr=LR, shots=shots), START)
        floor = analytic.noise_floor(BOWLS, variance * BOWLS.curvature / shots, lr=LR)
        assert abs(z_scores(losses, quiet)) > 10
        assert abs(z_scores(losses, quiet + floor)) < 4


def line(curvature: float, centre: float) -> Bowls:
    return Bowls(torch.full((1, 1, 1), curvature, dtype=F64), torch.full((1, 1), centre, dtype=F64))


ORIGIN = torch.zeros(1, dtype=F64)


class TestQuickStart:
    def test_one_step_in_one_dimension_is_the_textbook_formula(self):
        a, distance, variance, shots, lr = 1.7, 2.0, 3.0, 4, 0.3
        found = analytic.quick_start(
            line(a, distance), ORIGIN, torch.full((1, 1), variance, dtype=F64), lr=lr, shots=shots
        )
        assert 2 / a * found.bias.item() == pytest.approx((1 - lr * a) ** 2 * distance**2, rel=1e-12)
        assert 2 / a * found.variance.item() == pytest.approx(lr**2 * variance / shots, rel=1e-12)

    @pytest.mark.parametrize("steps", [1, 2, 8])
    def test_bias_and_variance_are_those_of_resampled_supports(self, steps: int):
        noise, shots, draws = 4 * covariance(), 3, 100_000
        g = torch.Generator().manual_seed(20 + steps)
        each = torch.randn(draws, 5, shots, 3, generator=g, dtype=F64) @ torch.linalg.cholesky(noise).T
        error = each.mean(2)
        end = adapted(BOWLS, START, lambda: error, steps)
        found = analytic.quick_start(BOWLS, START, noise, lr=LR, steps=steps, shots=shots)
        assert z_scores(analytic.loss({"theta": end}, BOWLS), found.bias + found.variance).abs().max() < 4
        # The deviation of each end from the mean end is the variance alone.
        quiet = adapted(BOWLS, START, lambda: torch.zeros(3, dtype=F64), steps)
        torch.testing.assert_close(analytic.loss({"theta": quiet}, BOWLS), found.bias, rtol=1e-11, atol=1e-15)
        spread = analytic.loss({"theta": end - quiet + BOWLS.centre}, BOWLS)
        assert z_scores(spread, found.variance).abs().max() < 4

    def test_the_bias_is_mamls_meta_loss_and_one_steps_variance_its_noise_floor(self):
        found = analytic.quick_start(BOWLS, START, covariance(), lr=LR, shots=4)
        torch.testing.assert_close(found.bias.mean(), analytic.meta_loss(analytic.maml(BOWLS, lr=LR), START))
        torch.testing.assert_close(found.variance.mean(), analytic.noise_floor(BOWLS, covariance() / 4, lr=LR))

    def test_a_direction_without_curvature_costs_nothing(self):
        flat = Bowls(torch.diag(torch.tensor([2.0, 0.0], dtype=F64))[None], torch.ones(1, 2, dtype=F64))
        found = analytic.quick_start(flat, torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64), lr=LR, steps=5)
        alone = analytic.quick_start(line(2.0, 1.0), ORIGIN, torch.eye(1, dtype=F64), lr=LR, steps=5)
        torch.testing.assert_close(found, alone)

    def test_the_best_rate_is_that_of_a_numerical_search(self):
        noise, shots = 5 * covariance(), 2

        def error(lr: float) -> Tensor:
            found = analytic.quick_start(BOWLS, START, noise, lr=lr, shots=shots)
            return (found.bias + found.variance).mean()

        best = analytic.best_lr(BOWLS, START, noise, shots=shots)
        low, high = 0.0, 2.0
        while high - low > 1e-6:  # ternary search: the error is convex in the rate
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, right) if error(left) < error(right) else (left, high)
        assert best == pytest.approx((low + high) / 2, abs=1e-6)

    @pytest.mark.parametrize("variance", [0.3, 4.0, 50.0])
    def test_the_best_rate_in_one_dimension_is_bayes(self, variance: float):
        a, distance, shots = 1.7, 2.0, 4
        noise = torch.full((1, 1), variance, dtype=F64)
        bowls, own = line(a, distance), variance / (shots * a**2)
        best = analytic.best_lr(bowls, ORIGIN, noise, shots=shots)
        assert best * a == pytest.approx(distance**2 / (distance**2 + own), rel=1e-12)
        left = sum(analytic.quick_start(bowls, ORIGIN, noise, lr=best, shots=shots)).item() * 2 / a
        assert left == pytest.approx(distance**2 * own / (distance**2 + own), rel=1e-12)

    @pytest.mark.parametrize("variance", [0.3, 4.0, 50.0])
    def test_the_best_number_of_steps_in_one_dimension_stands_beside_the_formula(self, variance: float):
        a, distance, shots, lr = 1.7, 2.0, 4, 0.02
        noise = torch.full((1, 1), variance, dtype=F64)
        bowls, own = line(a, distance), variance / (shots * a**2)
        exact = -math.log(1 + distance**2 / own) / math.log(1 - lr * a)
        best = analytic.best_steps(bowls, ORIGIN, noise, lr=lr, shots=shots)
        assert exact > 5
        assert best in (math.floor(exact), math.ceil(exact))
        left = sum(analytic.quick_start(bowls, ORIGIN, noise, lr=lr, steps=best, shots=shots)).item() * 2 / a
        least = distance**2 * own / (distance**2 + own)
        assert least <= left < 1.01 * least

    @pytest.mark.parametrize("shots", [1, 5, 40])
    def test_the_best_number_of_steps_is_that_of_a_plain_loop(self, shots: int):
        noise, eye = 5 * covariance(), torch.eye(3, dtype=F64)
        offset, gain = (START - BOWLS.centre)[..., None], torch.zeros(5, 3, 3, dtype=F64)
        errors = []
        for _ in range(200):
            bias = offset.mT @ BOWLS.curvature @ offset
            spread = torch.einsum("tij,tjk,kl,til->t", BOWLS.curvature, gain, noise, gain) / shots
            errors.append(0.5 * (bias[:, 0, 0] + spread).mean())
            offset = offset - LR * BOWLS.curvature @ offset
            gain = gain - LR * (BOWLS.curvature @ gain + eye)
        best = analytic.best_steps(BOWLS, START, noise, lr=LR, shots=shots)
        assert 0 < best < 199
        assert best == torch.stack(errors).argmin()

    def test_noise_that_is_fresh_at_every_step_knows_no_best_number_of_steps(self):
        bowls = line(1.7, 2.0)
        for variance, sign in ((1.0, -1), (500.0, 1)):  # worth stepping, and not
            noise = torch.full((1, 1), variance, dtype=F64)
            losses = [
                analytic.meta_loss(analytic.maml(bowls, lr=0.1, steps=k), ORIGIN)
                + analytic.noise_floor(bowls, noise, lr=0.1, steps=k)
                for k in range(30)
            ]
            assert (torch.stack(losses).diff() * sign > 0).all()


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: analytic.optimum(Bowls(torch.eye(2), torch.zeros(1, 2))), r"expected curvature.*got \(2, 2\)"),
            (lambda: analytic.optimum(Bowls(torch.zeros(0, 2, 2), torch.zeros(0, 2))), r"got \(0, 2, 2\)"),
            (lambda: analytic.optimum(Bowls(torch.ones(2, 3, 3), torch.zeros(2, 3)[:, :2])), "expected curvature"),
            (lambda: analytic.optimum(Bowls(torch.ones(1, 2, 2), torch.zeros(1, 2))), "singular"),
            (lambda: analytic.optimum(Bowls(torch.full((1, 1, 1), torch.nan), torch.zeros(1, 1))), "not finite"),
            (lambda: analytic.maml(Bowls(torch.ones(1, 2, 2).triu(), torch.zeros(1, 2)), lr=0.1), "not symmetric"),
            (lambda: analytic.maml(Bowls(-torch.eye(2)[None], torch.zeros(1, 2)), lr=0.1), "eigenvalue -1"),
            (lambda: analytic.maml(BOWLS, lr=-0.1), "lr must be"),
            (lambda: analytic.maml(BOWLS, lr=0.1, steps=1.5), "steps must be an integer from 0 up; got 1.5"),
            (lambda: analytic.few_shot_maml(BOWLS, lr=0.1, shots=0), "shots must be an integer from 1 up; got 0"),
            (lambda: analytic.imaml(BOWLS, strength=0.0), "strength must be positive"),
            (lambda: analytic.multi_step_maml(BOWLS, lr=0.1, weights=[]), "weights is empty"),
            (lambda: analytic.meta_loss(BOWLS, torch.zeros(2)), r"expected \(3,\), like one centre; got \(2,\)"),
            (lambda: analytic.noise_floor(BOWLS, torch.ones(3), lr=0.1), r"expected a finite covariance, \(3, 3\)"),
            (lambda: analytic.treasures(torch.eye(3), torch.zeros(2)), r"curvature \(2, 2\)"),
            (lambda: analytic.best_lr(line(1.0, 0.0), ORIGIN, torch.zeros(1, 1)), "every rate is as good"),
            (lambda: analytic.best_steps(BOWLS, START, covariance(), lr=1.0), "steps diverge"),
        ],
    )
    def test_bad_input_is_named(self, call: Callable[[], object], message: str):
        with pytest.raises(ValueError, match=message):
            call()

    def test_mixed_types_are_named(self):
        with pytest.raises(TypeError, match=r"float64, centre torch.float32"):
            analytic.optimum(Bowls(BOWLS.curvature, BOWLS.centre.float()))
