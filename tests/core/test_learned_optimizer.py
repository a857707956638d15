"""The learner of update rules: its windows, its draws, what it learns, and what a learned rule must survive."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.check import check_meta_gradient
from scimeta.core.controller_rule import controller
from scimeta.core.guard import guarded
from scimeta.core.learned_rule import coordinate_lstm, coordinate_mlp
from scimeta.core.learners import maml
from scimeta.core.meta_gradient import through_adaptation
from scimeta.core.recording import execution
from scimeta.core.rule_learners import evolved_optimizer, learned_optimizer
from scimeta.core.rules import Meta, Rule, learned_rates, momentum, sgd
from scimeta.core.tasks import Stream, Task
from scimeta.core.train import meta_train
from scimeta.core.trained import evaluate
from scimeta.core.window import Truncation
from tests.core.problems import F64, close, differences, normal, seeded


def recurrent(seed: int = 0, dtype: torch.dtype = F64) -> Rule:
    """A coordinate-wise rule with a memory: a tanh cell of three units that sees the gradient and its size."""
    params = {
        "in": 0.5 * normal(2, 3, seed=seed, dtype=dtype),
        "again": 0.3 * normal(3, 3, seed=seed + 1, dtype=dtype),
        "out": 0.3 * normal(3, seed=seed + 2, dtype=dtype),
        "rate": torch.full((), 0.05, dtype=dtype),
    }

    def init(moving: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        return {name: value.new_zeros(*value.shape, 3) for name, value in moving.items()}, torch.zeros((), dtype=dtype)

    def update(learned: dict, grads: dict, state: tuple, moving: dict) -> tuple[dict, tuple]:
        (state, count), new = state, {}
        for name, grad in grads.items():
            size = (grad * grad + 1e-8).sqrt()
            seen = torch.stack([grad / size, 0.1 * size.log() + 1 / (count + 1)], -1)
            new[name] = torch.tanh(seen @ learned["in"] + state[name] @ learned["again"])
        moved = {n: p - learned["rate"] * grads[n] * (1 + new[n] @ learned["out"]) for n, p in moving.items()}
        return moved, (new, count + 1)

    return Rule(params, init, update)


def bowl(params: dict[str, Tensor], data: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
    """A bowl of given curvatures whose gradient is off by the noise of the step."""
    (curvature, centre), noise = data
    return 0.5 * (curvature * (params["x"] - centre) ** 2).sum() + (noise * params["x"]).sum()


def draw(number: int, generator: torch.Generator, steps: int = 12, noise: float = 0.1) -> Task:
    curvature = 0.5 + 2 * torch.rand(number, 3, generator=generator, dtype=F64)
    centre = torch.randn(number, 3, generator=generator, dtype=F64)
    each = noise * torch.randn(number, steps, 3, generator=generator, dtype=F64)
    return Task(Stream((curvature, centre), each), ((curvature, centre), torch.zeros_like(centre)))


START = {"x": torch.zeros(3, dtype=F64)}


def learner(**options):
    return learned_optimizer(bowl, START, **{"rule": recurrent(), "steps": 4, **options})


def at(step: int, **options):
    """Return the learner with a meta-gradient that is always that of one outer step."""
    one = learner(**options)
    with execution("eager"):
        return one, one.meta_gradient(one.meta, draw(4, seeded(1)), step)


def _from(support: Stream, step: int) -> Stream:
    """Return the stream whose first slice is that of a later step."""
    return support._replace(each=support.each.roll(-step, 1))


class TestWindow:
    @pytest.mark.parametrize("how", ["eager", "recorded"])
    @pytest.mark.parametrize(
        "options",
        [{}, {"burn_in": 6}, {"rescale": 5.0}, {"burn_in": 6, "growth": 30, "rescale": 3.0, "chunk_size": 3}],
        ids=["from the start", "burn-in", "rescaled", "all"],
    )
    def test_its_meta_gradient_is_that_of_a_plain_loop_and_of_differences(self, options, how):
        one = learner(seed=3, **options)
        assert "burn_in" not in options or one.truncation.length(2**40) > 0
        result = check_meta_gradient(bowl, one, draw(3, seeded()), how=how)
        assert result.ok and result.estimate == "truncated", str(result)

    def test_without_burn_in_it_is_the_mean_over_the_steps_of_the_unrolled_derivative(self):
        one, batch = learner(), draw(4, seeded())
        equal = torch.full((4,), 0.25, dtype=F64)
        truth = through_adaptation(one.adapt, bowl, step_weights=lambda step: equal)(one.meta, batch, 0)
        close(one.meta_gradient(one.meta, batch, 0), truth)

    def test_slow_parameters_and_another_query_loss_have_their_gradient(self):
        def tied(params: dict[str, Tensor], data: tuple) -> Tensor:
            return bowl({"x": params["x"] + params["shift"]}, data)

        def log(params: dict[str, Tensor], data: tuple) -> Tensor:
            return torch.log(tied(params, data) + 0.1)

        params = {"shift": 0.1 * normal(3), "x": START["x"]}
        one = learned_optimizer(tied, params, rule=recurrent(), steps=3, query_loss=log, fast=("x",), burn_in=5, seed=1)
        result = check_meta_gradient(tied, one, draw(3, seeded()))
        assert result.ok and result.norm[0] > 1e-3, str(result)

    def test_a_window_after_a_burn_in_says_nothing_of_the_start(self):
        step = next(step for step in range(50) if learner(burn_in=8).truncation.length(step) > 0)
        _, (_, gradient) = at(step, burn_in=8)
        assert (gradient.init["x"] == 0).all() and all((g != 0).any() for g in gradient.rule.values())

    def test_a_window_at_the_start_has_the_gradient_of_the_start(self):
        step = next(step for step in range(50) if learner(burn_in=8).truncation.length(step) == 0)
        _, (_, gradient) = at(step, burn_in=8)
        assert (gradient.init["x"] != 0).all()

    def test_windows_of_any_place_and_number_of_chunks_share_their_recordings(self, monkeypatch):
        from scimeta.core import linearize

        made, halves = [], linearize._halves
        monkeypatch.setattr(linearize, "_halves", lambda *a: (made.append(1), halves(*a))[1])
        one = learner(burn_in=10)
        for step in range(12):
            one.meta_gradient(one.meta, draw(4, seeded(step)), step)
        assert len(made) == 1

    def test_chunks_are_the_whole(self):
        close(at(7, burn_in=5, rescale=4.0, chunk_size=3)[1], at(7, burn_in=5, rescale=4.0)[1])

    def test_a_task_lost_in_the_burn_in_starts_anew(self):
        """Where the burn-in leaves the finite numbers, that task's window is one at the start; others are as alone."""
        batch = draw(2, seeded(), noise=0.0)
        steep = Task(Stream((batch.support.held[0].clone(), batch.support.held[1]), batch.support.each), batch.query)
        steep.support.held[0][1] = 200.0  # at a rate of .05: nine times farther away with each step
        one = learner(burn_in=2000, seed=1)
        step = next(step for step in range(50) if 400 < one.truncation.length(step) < 700)
        fresh = learner()
        with execution("eager"):
            losses, gradient = one.meta_gradient(one.meta, steep, step)
            alone, _ = one.meta_gradient(one.meta, batch, step)
            anew, _ = fresh.meta_gradient(
                fresh.meta, Task(_from(steep.support, one.truncation.length(step)), steep.query)
            )
        close(losses[0], alone[0])
        close(losses[1], anew[1])
        assert all(torch.isfinite(leaf).all() for leaf in pytree.tree_leaves(gradient))


@pytest.mark.parametrize("make", [coordinate_lstm, coordinate_mlp, controller, lambda **_: guarded_controller()])
def test_the_packages_own_rules_have_the_meta_gradient_of_a_plain_loop(make):
    one = learner(rule=make(hidden=4), steps=3, burn_in=5, seed=3)
    assert one.truncation.length(2**40) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # recorded, that is
        result = check_meta_gradient(bowl, one, draw(2, seeded()))
    assert result.ok, str(result)


def guarded_controller() -> Rule:
    return guarded(controller(hidden=4), momentum(0.05))


class TestWeightsAndClipping:
    def test_weights_are_those_of_the_steps(self):
        one, batch = learner(weights=(0.0, 0.1, 0.2, 0.9), burn_in=6, seed=3), draw(3, seeded())
        last = learner(weights=(0, 0, 0, 1))
        with execution("eager"):
            assert check_meta_gradient(bowl, one, batch, how="eager").ok
            truth = through_adaptation(last.adapt, bowl)(last.meta, batch, 0)
            close(last.meta_gradient(last.meta, batch, 0), truth)

    def test_a_clip_that_nothing_reaches_changes_nothing(self):
        close(at(3, burn_in=5, clip=1e6)[1], at(3, burn_in=5)[1])

    def test_a_clip_bounds_each_task_and_none_feels_another(self):
        """One task far steeper in the query: with the clip it has no more to say than the others."""

        def steep(params: dict[str, Tensor], data: tuple) -> Tensor:
            return data[0] * bowl(params, data[1])

        batch = draw(3, seeded())
        gradients = {}
        for factor in (1.0, 1e3, 1e6):
            query = (torch.tensor([factor, 1.0, 1.0], dtype=F64), batch.query)
            for clip in (None, 1e-3):
                rule = learned_rates(START, 0.1)  # no memory, whose derivatives would not be clipped
                one = learner(rule=rule, query_loss=steep, clip=clip, weights=(0, 0, 0, 1))
                with execution("eager"):
                    gradient = one.meta_gradient(one.meta, batch._replace(query=query), 0)[1]
                gradients[factor, clip] = torch.cat([g.flatten() for g in pytree.tree_leaves(gradient.init)])
        assert gradients[1e6, None].norm() > 1e5 * gradients[1.0, None].norm()
        close(gradients[1e6, 1e-3], gradients[1e3, 1e-3], 1e-9)
        assert all(gradients[factor, 1e-3].norm() <= 1e-3 for factor in (1.0, 1e3, 1e6))

    def test_a_task_whose_derivative_is_not_finite_is_left_out(self):
        def broken(params: dict[str, Tensor], data: tuple) -> Tensor:
            return bowl(params, data[1]) + data[0] * params["x"].sum()

        batch = draw(3, seeded())
        factors = torch.tensor([torch.inf, 0.0, 0.0], dtype=F64)
        for clip in (None, 1.0):
            one = learner(query_loss=broken, clip=clip, steps=2, weights=(0, 1))
            with execution("eager"):
                gradient = one.meta_gradient(one.meta, batch._replace(query=(factors, batch.query)), 0)[1]
            assert bool(torch.isfinite(gradient.init["x"]).all()) is (clip is not None)
        others, two = (pytree.tree_map(lambda leaf: leaf[1:], part) for part in (batch, (factors, batch.query)))
        with execution("eager"):
            alone = one.meta_gradient(one.meta, others._replace(query=two), 0)[1]
        close(gradient, pytree.tree_map(lambda leaf: leaf * 2 / 3, alone))

    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_a_task_that_overflows_within_its_window_is_left_out_of_what_the_rule_learns(self, chunk_size):
        def bounded(params: dict[str, Tensor], data: tuple) -> Tensor:
            return torch.log1p(bowl({"x": params["x"].nan_to_num(0.0, 0.0, 0.0)}, data))

        batch = draw(5, seeded())
        batch.support.held[0][3] = 1e150
        options = {"query_loss": bounded, "steps": 6, "clip": 1.0, "chunk_size": chunk_size}
        one, others = learner(**options), pytree.tree_map(lambda leaf: leaf[[0, 1, 2, 4]], batch)
        with execution("eager"):
            losses, gradient = one.meta_gradient(one.meta, batch, 0)
            alone = one.meta_gradient(one.meta, others, 0)[1]
        assert torch.isfinite(losses).all()
        close(gradient, pytree.tree_map(lambda leaf: leaf * 4 / 5, alone))
        lost = pytree.tree_map(lambda leaf: leaf[3:4], batch)
        with execution("eager"):
            nothing = one.meta_gradient(one.meta, lost, 0)[1]
        assert all((leaf == 0).all() for leaf in pytree.tree_leaves(nothing))

    def test_learners_with_a_clip_may_be_as_many_as_one_likes(self):
        for elements in range(1, 19):  # more than the shapes that one function is recorded for
            start = {"x": torch.zeros(elements, dtype=F64)}
            one = learned_optimizer(
                lambda params, data: ((params["x"] - data) ** 2).sum(),
                start,
                rule=learned_rates(start, 0.1),
                steps=1,
                clip=1.0,
            )
            data = torch.ones(2, 1, dtype=F64)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                one.meta_gradient(one.meta, Task(data, data), 0)

    def test_what_is_clipped_is_no_derivative_to_be_checked(self):
        one = learner(clip=1e-3)
        with pytest.raises(ValueError, match="check the learner without clip"):
            check_meta_gradient(bowl, one, draw(3, seeded()))

    @pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
    def test_a_clip_is_positive(self, clip):
        with pytest.raises(ValueError, match="clip is a positive number, or None"):
            learner(clip=clip)

    @pytest.mark.parametrize("weights", [(1.0,), (0.0,) * 4, (1.0, 1.0, 1.0, float("nan")), ((1.0,) * 4,)])
    def test_weights_are_as_many_as_steps(self, weights):
        with pytest.raises(ValueError, match="weights are 4 finite numbers"):
            learner(weights=weights)


class TestDraws:
    def test_lengths_go_evenly_from_none_to_the_most(self):
        lengths = torch.tensor([Truncation(burn_in=20).length(step) for step in range(4000)])
        share = torch.bincount(lengths, minlength=21) / 4000
        assert len(share) == 21 and (share - 1 / 21).abs().max() < 0.015

    def test_the_most_grows_with_the_outer_steps(self):
        growing = Truncation(burn_in=100, growth=1000)
        assert max(growing.length(step) for step in range(50)) <= 5
        assert max(growing.length(step) for step in range(1000, 1200)) > 50
        assert Truncation(burn_in=0).length(5) == 0

    def test_draws_depend_on_the_seed_and_the_outer_step_alone(self):
        one, same, other = (Truncation(30, 0, 8.0, seed) for seed in (4, 4, 5))
        assert [one.length(s) for s in range(30)] == [same.length(s) for s in range(30)]
        assert [one.length(s) for s in range(30)] != [other.length(s) for s in range(30)]
        assert one.factors(3, 5, START["x"]).equal(same.factors(3, 5, START["x"]))
        assert not one.factors(3, 5, START["x"]).equal(one.factors(4, 5, START["x"]))

    def test_factors_are_log_uniform(self):
        logs = Truncation(rescale=30.0).factors(0, 20000, START["x"]).log() / torch.tensor(30.0).log()
        assert logs.abs().max() <= 1 and abs(logs.mean()) < 0.02 and abs(logs.var() - 1 / 3) < 0.02

    def test_a_factor_scales_the_inner_loss_with_its_noise_and_not_the_query_loss(self):
        one, (losses, _) = at(5, rule=learned_rates(START, 0.1), rescale=4.0)
        factors, batch = one.truncation.factors(5, 4, START["x"]), draw(4, seeded(1))
        (curvature, centre), noise = batch.support
        scaled = Stream((factors[:, None] * curvature, centre), factors[:, None, None] * noise)
        plain = learner(rule=learned_rates(START, 0.1))
        close(losses, plain.meta_gradient(plain.meta, Task(scaled, batch.query), 0)[0])


class TestTraining:
    def test_learning_the_rule_alone_leaves_the_start(self):
        start = learner(steps=6)
        before = evaluate(start, draw, n=64).mean[-1]
        trained = meta_train(start, draw, steps=60, lr=0.02, learn=("rule.*",), generator=seeded())
        assert trained.meta.init["x"].equal(START["x"])
        assert evaluate(trained, draw, n=64).mean[-1] < 0.7 * before

    def test_start_and_rule_together_are_better_than_either(self):
        """Bowls around one centre: a start has somewhere to go, a rule has something to gain."""

        def around(number: int, generator: torch.Generator) -> Task:
            task = draw(number, generator)
            (curvature, centre), noise = task.support
            centre = 2 + 0.3 * centre
            return Task(Stream((curvature, centre), noise), ((curvature, centre), task.query[1]))

        found = {}
        for name, learn in {"rule": ("rule.*",), "init": ("init.*",), "both": ("init.*", "rule.*")}.items():
            one = learner(steps=3)
            trained = meta_train(one, around, steps=100, lr=0.03, learn=learn, generator=seeded())
            found[name] = float(evaluate(trained, around, n=256).mean[-1])
        assert found["both"] < 0.95 * min(found["rule"], found["init"])

    def test_a_killed_run_goes_on_to_the_same_bits(self, tmp_path):
        settings = {"lr": 0.01, "tasks_per_step": 4}
        whole = meta_train(learner(burn_in=6, growth=5, rescale=3.0), draw, steps=12, generator=seeded(), **settings)
        for steps in (5, 12):
            again = meta_train(
                learner(burn_in=6, growth=5, rescale=3.0),
                draw,
                steps=steps,
                checkpoint=tmp_path / "run",
                checkpoint_every=5,
                generator=seeded(),
                **settings,
            )
        assert not differences(whole.meta._asdict(), again.meta._asdict())

    def test_any_number_of_steps_is_taken_unguarded(self):
        one, batch = learner(steps=2), draw(8, seeded())
        long = learner(steps=9)
        close(evaluate(one, batch, steps=9).losses, evaluate(long, batch).losses)


class TestAtTheOptimum:
    def test_a_zero_gradient_moves_nothing_and_no_derivative_is_nan(self):
        batch = draw(3, seeded(), noise=0.0)
        centre = torch.zeros_like(batch.query[1])
        there = Task(Stream((batch.query[0][0], centre), batch.support.each), ((batch.query[0][0], centre), centre))
        one = learner(burn_in=5)
        for step in range(6):
            losses, gradient = one.meta_gradient(one.meta, there, step)
            assert (losses == 0).all()
            assert all(torch.isfinite(leaf).all() for leaf in pytree.tree_leaves(gradient))


@pytest.mark.parametrize("make", [learned_optimizer, evolved_optimizer])
class TestBadInput:
    @pytest.mark.parametrize("steps", [0, -1, 2.0])
    def test_steps_are_counted_from_one(self, make, steps):
        with pytest.raises(ValueError, match="steps is a positive integer"):
            make(bowl, START, rule=recurrent(), steps=steps)

    def test_a_rule_without_parameters_has_nothing_to_learn(self, make):
        with pytest.raises(ValueError, match="nothing to learn"):
            make(bowl, START, rule=sgd(0.1))

    def test_a_rule_is_a_rule(self, make):
        with pytest.raises(TypeError, match=r"rule is a Rule.*float"):
            make(bowl, START, rule=0.1)

    @pytest.mark.parametrize("rescale", [0.5, float("inf"), float("nan")])
    def test_factors_are_one_or_more(self, make, rescale):
        with pytest.raises(ValueError, match="rescale is 1 or more"):
            make(bowl, START, rule=recurrent(), rescale=rescale)

    def test_a_rule_for_other_shapes_is_named_at_the_door(self, make):
        one = make(bowl, START, rule=learned_rates({"x": torch.zeros(5)}, 0.1), steps=20)
        with pytest.raises(ValueError, match="rule does not fit the fast parameters x"):
            meta_train(one, draw, steps=1, generator=seeded())


@pytest.mark.parametrize("name", ["burn_in", "growth", "seed"])
def test_numbers_of_steps_are_no_less_than_zero(name):
    with pytest.raises(ValueError, match=f"{name} is an integer, 0 or more; got -1"):
        learner(**{name: -1})


def test_an_ordinary_learner_has_no_truncation():
    assert maml(bowl, START).truncation is None and Meta(START, {}).rule == {}


def test_the_controller_learns_in_mixed_precision():
    start = {"x": torch.zeros(3)}
    one = learned_optimizer(bowl, start, rule=controller(hidden=4), steps=3)

    def single(number: int, generator: torch.Generator) -> Task:
        return pytree.tree_map(Tensor.float, draw(number, generator))

    trained = meta_train(one, single, steps=2, tasks_per_step=2, precision=torch.bfloat16, generator=seeded())
    assert all(torch.isfinite(leaf).all() for leaf in pytree.tree_leaves(trained.meta))
