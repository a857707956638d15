"""Each algorithm is the row of the table that its paper says, down to closed forms; what makes no sense is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scimeta import analytic
from scimeta.core.learners import MetaLearner, anil, fomaml, imaml, maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.recording import execution
from scimeta.core.rules import Meta, adam, clipped, learned_rates, momentum, sgd
from scimeta.core.tasks import Task, over_tasks, select_tasks
from tests.core.problems import F64, PARAMS, bowls, close, loss, normal, tasks


def other(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    return loss(p, d) + sum((value**2).sum() for value in p.values())


def gradient(learner: MetaLearner, step: int = 0, batch: Task | None = None) -> tuple[Tensor, Meta]:
    with execution("eager"):
        return learner.meta_gradient(learner.meta, tasks() if batch is None else batch, step)


LEARNERS: dict[str, Callable[..., MetaLearner]] = {
    "MAML": maml,
    "FOMAML": fomaml,
    "Meta-SGD": meta_sgd,
    "ANIL": lambda loss, params, **more: anil(loss, params, fast=("head",), **more),
    "MAML++": maml_plus_plus,
    "Reptile": reptile,
    "implicit MAML": imaml,
}
every_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)

LR, STEPS, STRENGTH = 0.15, 3, 1.2
BOWLS = bowls(dim=2)
CLOSED = {
    "MAML": (maml, {"lr": LR, "steps": STEPS}, analytic.maml(BOWLS, lr=LR, steps=STEPS)),
    "FOMAML": (fomaml, {"lr": LR, "steps": STEPS}, analytic.fomaml(BOWLS, lr=LR, steps=STEPS)),
    "Meta-SGD": (meta_sgd, {"lr": LR, "steps": STEPS}, analytic.maml(BOWLS, lr=LR, steps=STEPS)),
    "ANIL": (anil, {"lr": LR, "steps": STEPS, "fast": ("theta",)}, analytic.maml(BOWLS, lr=LR, steps=STEPS)),
    "Reptile": (reptile, {"lr": LR, "steps": STEPS}, analytic.reptile(BOWLS, lr=LR, steps=STEPS)),
    "MAML++": (maml_plus_plus, {"lr": LR, "steps": STEPS}, analytic.maml(BOWLS, lr=LR, steps=STEPS)),
    "MAML++, multi-step": (
        maml_plus_plus,
        {"lr": LR, "steps": STEPS, "multi_step_until": 10},
        analytic.multi_step_maml(BOWLS, lr=LR, weights=[1 / 3] * 3),
    ),
    "MAML++, first order": (
        maml_plus_plus,
        {"lr": LR, "steps": STEPS, "first_order_until": 10},
        analytic.fomaml(BOWLS, lr=LR, steps=STEPS),
    ),
    "implicit MAML": (
        imaml,
        {"lr": LR, "steps": 300, "strength": STRENGTH},
        analytic.imaml(BOWLS, strength=STRENGTH),
    ),
}


@pytest.mark.parametrize(("make", "options", "seen"), CLOSED.values(), ids=CLOSED)
def test_on_bowls_every_meta_gradient_is_its_closed_form(make, options, seen):
    """The mean of H (theta - c), with the curvatures H that the method sees."""
    theta = normal(2, seed=5)
    learner = make(analytic.loss, {"theta": theta}, **options)
    _, found = learner.meta_gradient(learner.meta, Task(BOWLS, BOWLS), 0)
    expected = (seen.curvature @ (theta - seen.centre)[..., None]).mean(0)[:, 0]
    torch.testing.assert_close(found.init["theta"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "options", "seen"), CLOSED.values(), ids=CLOSED)
def test_the_meta_gradient_vanishes_at_the_closed_optimum_and_there_alone(make, options, seen):
    learner = make(analytic.loss, {"theta": analytic.optimum(seen)}, **options)
    _, found = gradient(learner, batch=Task(BOWLS, BOWLS))
    assert float(found.init["theta"].abs().max()) < 1e-9
    moved = learner._replace(meta=learner.meta._replace(init={"theta": analytic.optimum(seen) + 0.1}))
    assert float(gradient(moved, batch=Task(BOWLS, BOWLS))[1].init["theta"].abs().max()) > 1e-3


class TestRows:
    @every_learner
    def test_a_learner_says_what_it_is(self, make):
        learner = make(loss, PARAMS)
        assert LEARNERS[learner.name] is make
        estimates = {"FOMAML": "first_order", "Reptile": "displacement", "implicit MAML": "implicit"}
        assert learner.estimate == estimates.get(learner.name, "exact")
        assert learner.query_loss is loss and list(learner.meta.init) == list(PARAMS)

    @every_learner
    def test_its_parameters_are_copies_without_a_graph(self, make):
        given = {name: value.clone().requires_grad_() for name, value in PARAMS.items()}
        learner = make(loss, given)
        for name, value in given.items():
            value.data.zero_()
            assert learner.meta.init[name].equal(PARAMS[name]) and not learner.meta.init[name].requires_grad

    @every_learner
    def test_losses_and_gradient_have_the_shapes_of_tasks_and_meta(self, make):
        learner = make(loss, PARAMS, steps=2)
        losses, found = gradient(learner)
        assert losses.shape == (5,)
        for part in Meta._fields:
            ours, expected = getattr(found, part), getattr(learner.meta, part)
            assert {n: (g.shape, g.dtype) for n, g in ours.items()} == {
                n: (p.shape, p.dtype) for n, p in expected.items()
            }

    @every_learner
    def test_the_losses_are_the_query_losses_after_the_learners_own_adaptation(self, make):
        learner = make(loss, PARAMS, steps=2, query_loss=other)
        batch = tasks()
        ends = over_tasks(lambda support: learner.adapt(learner.meta, support))(batch.support)
        close(gradient(learner)[0], over_tasks(other)(ends, batch.query))

    @every_learner
    def test_chunks_do_not_change_the_result(self, make):
        close(gradient(make(loss, PARAMS, steps=2, chunk_size=2)), gradient(make(loss, PARAMS, steps=2)))

    def test_anil_with_all_fast_is_maml(self):
        close(gradient(anil(loss, PARAMS, fast=("*",), lr=0.1, steps=3)), gradient(maml(loss, PARAMS, lr=0.1, steps=3)))

    def test_anil_moves_the_head_alone_and_learns_all(self):
        learner = anil(loss, PARAMS, fast=("head",), lr=0.1, steps=2)
        adapted = learner.adapt(learner.meta, select_tasks(tasks().support, 0))
        moved = [name for name, value in adapted.items() if not value.equal(PARAMS[name])]
        assert moved == ["head"] and all((g != 0).any() for g in gradient(learner)[1].init.values())

    def test_meta_sgd_is_maml_at_the_start_and_learns_its_rates(self):
        one, two = gradient(meta_sgd(loss, PARAMS, lr=0.1, steps=2)), gradient(maml(loss, PARAMS, lr=0.1, steps=2))
        close((one[0], one[1].init), (two[0], two[1].init))
        assert {name: rate.shape for name, rate in one[1].rule.items()} == {n: p.shape for n, p in PARAMS.items()}
        assert all((rate != 0).any() for rate in one[1].rule.values())

    def test_meta_sgd_has_rates_for_the_fast_alone(self):
        assert list(meta_sgd(loss, PARAMS, fast=("head", "b")).meta.rule) == ["b", "head"]

    def test_reptile_of_one_step_is_the_gradient_times_the_rate(self):
        _, found = gradient(reptile(loss, PARAMS, lr=0.2, steps=1))
        slopes = over_tasks(torch.func.grad(loss), (None, 0))(PARAMS, tasks().support)
        close(found.init, {name: 0.2 * slope.mean(0) for name, slope in slopes.items()})

    def test_fomaml_is_the_query_gradient_at_the_adapted_point(self):
        learner = fomaml(loss, PARAMS, lr=0.1, steps=3)
        ends = over_tasks(lambda support: learner.adapt(learner.meta, support))(tasks().support)
        slopes = over_tasks(torch.func.grad(loss))(ends, tasks().query)
        close(gradient(learner)[1].init, {name: slope.mean(0) for name, slope in slopes.items()})

    def test_the_first_order_part_differs_from_the_whole(self):
        one, two = gradient(fomaml(loss, PARAMS, lr=0.1))[1], gradient(maml(loss, PARAMS, lr=0.1))[1]
        assert float((one.init["head"] - two.init["head"]).norm()) > 1e-3

    @pytest.mark.parametrize("make", [maml, fomaml, reptile])
    def test_any_rule_takes_the_place_of_sgd_and_its_rates_are_learned_where_there_is_a_derivative(self, make):
        plain = gradient(make(loss, PARAMS, rule=sgd(0.1), steps=2))
        close(gradient(make(loss, PARAMS, lr=0.1, steps=2)), plain)
        for rule in (momentum(0.1), adam(0.1), clipped(sgd(0.1), 0.1)):
            found = gradient(make(loss, PARAMS, rule=rule, steps=2))
            assert float((found[1].init["head"] - plain[1].init["head"]).norm()) > 1e-4
        found = gradient(make(loss, PARAMS, rule=learned_rates(PARAMS, 0.1), steps=2))
        close(found[1].init, plain[1].init)
        assert all(bool((rate != 0).any()) is (make is not reptile) for rate in found[1].rule.values())


class TestSchedules:
    def weights(self, step: int) -> list[float]:
        learner = maml_plus_plus(loss, PARAMS, steps=4, multi_step_until=10)
        return learner.step_weights(step).tolist()

    def test_the_steps_count_alike_at_first_and_the_last_alone_in_the_end(self):
        assert self.weights(0) == pytest.approx([0.25] * 4)
        assert self.weights(5) == pytest.approx([0.125, 0.125, 0.125, 0.625])
        assert self.weights(10) == [0.0, 0.0, 0.0, 1.0] == self.weights(10**9)

    @pytest.mark.parametrize("step", range(12))
    def test_the_weights_are_those_of_a_mean(self, step):
        assert sum(self.weights(step)) == pytest.approx(1.0) and min(self.weights(step)) >= 0.0

    def test_without_a_multi_step_loss_there_are_no_weights(self):
        assert maml_plus_plus(loss, PARAMS).step_weights is None

    def test_after_its_schedules_it_is_maml_with_learned_rates_per_tensor_and_step(self):
        learner = maml_plus_plus(loss, PARAMS, lr=0.1, steps=3, multi_step_until=5, first_order_until=8)
        rule = learned_rates(PARAMS, 0.1, steps=3, per="tensor")
        close(gradient(learner, 8), gradient(maml(loss, PARAMS, steps=3, rule=rule)))
        close(gradient(learner, 7), gradient(fomaml(loss, PARAMS, steps=3, rule=rule)))
        assert {tuple(rate.shape) for rate in learner.meta.rule.values()} == {(3,)}

    def test_while_the_steps_are_weighed_the_reported_losses_are_those_of_the_last(self):
        learner = maml_plus_plus(loss, PARAMS, lr=0.1, steps=3, multi_step_until=5)
        close(gradient(learner, 0)[0], gradient(learner, 99)[0])
        assert float((gradient(learner, 0)[1].init["head"] - gradient(learner, 99)[1].init["head"]).norm()) > 1e-4

    @pytest.mark.parametrize("adjoint", [False, True])
    def test_schedules_need_no_new_recording(self, adjoint, recordings):
        learner = maml_plus_plus(loss, PARAMS, steps=2, multi_step_until=5, adjoint=adjoint)
        learner.meta_gradient(learner.meta, tasks(), 0)
        few = len(recordings)
        for step in (1, 2, 50):
            learner.meta_gradient(learner.meta, tasks(), step)
        assert len(recordings) == few > 0


class TestGuard:
    """Steps beyond those that learned rates were trained for never raise the support loss and never lead to nan."""

    @pytest.mark.parametrize("lr", [0.05, 1.0, 30.0, 1e6, 1e200, -0.5])
    @pytest.mark.parametrize("trained", [1, 2])
    def test_further_steps_never_raise_the_support_loss(self, lr, trained):
        # Good rates for the trained steps, any for those that follow.
        rule = learned_rates(PARAMS, lr, steps=trained + 1)
        rates = {name: rate.clone() for name, rate in rule.params.items()}
        for rate in rates.values():
            rate[:trained] = 0.1
        adaptation = maml(loss, PARAMS, rule=rule, steps=trained).adapt
        for index in range(3):
            support = select_tasks(tasks().support, index)
            path = [loss(p, support) for p in adaptation.path(Meta(PARAMS, rates), support, trained + 8)]
            assert all(torch.isfinite(value) for value in path)
            assert all(after <= before for before, after in zip(path[trained:], path[trained + 1 :], strict=False))
            assert len(path) == trained + 9
            if 0 < lr < 1:
                assert path[-1] < path[trained]

    def test_a_step_that_lowers_the_loss_is_taken_as_it_is(self):
        learner = meta_sgd(loss, PARAMS, lr=0.01)
        support = select_tasks(tasks().support, 0)
        expected = maml(loss, PARAMS, lr=0.01, steps=6).adapt(Meta(PARAMS, {}), support)
        close(learner.adapt(learner.meta, support, 6), expected)

    def test_a_step_that_overshoots_is_halved_until_it_does_not(self):
        """On p^2 / 2 the step to p (1 - rate) lowers the loss below rate 2: 7 is halved twice."""
        bowl = lambda p, x: 0.5 * (p["p"] - x) ** 2  # noqa: E731
        rule = learned_rates({"p": torch.tensor(1.0, dtype=F64)}, 7.0, steps=2)
        rates = {"p": torch.tensor([0.0, 7.0], dtype=F64)}
        adaptation = maml(bowl, {"p": torch.tensor(1.0, dtype=F64)}, rule=rule, steps=1).adapt
        found = adaptation(Meta({"p": torch.tensor(1.0, dtype=F64)}, rates), torch.tensor(0.0, dtype=F64), 2)
        assert float(found["p"]) == pytest.approx(1.0 - 7.0 / 4, rel=1e-14)

    def test_a_batch_is_guarded_task_by_task(self):
        learner = meta_sgd(loss, PARAMS, lr=0.8)
        batch = tasks(6)
        together = over_tasks(lambda support: learner.adapt(learner.meta, support, 12))(batch.support)
        for index in range(6):
            alone = learner.adapt(learner.meta, select_tasks(batch.support, index), 12)
            torch.testing.assert_close({n: v[index] for n, v in together.items()}, alone, rtol=1e-9, atol=1e-9)
            assert all(torch.isfinite(value).all() for value in alone.values())

    def test_a_loss_that_is_not_a_number_out_there_stops_the_walk_inside(self):
        """The root is not defined below zero, and the first further step would lead there."""
        root = lambda p, x: p["p"].sqrt() * x  # noqa: E731
        start = {"p": torch.tensor(1.0, dtype=F64)}
        rule = learned_rates(start, 0.5, steps=2)
        rates = {"p": torch.tensor([0.5, 1e3], dtype=F64)}
        found = maml(root, start, rule=rule, steps=1).adapt(Meta(start, rates), torch.tensor(1.0, dtype=F64), 5)
        assert 0.0 <= float(found["p"]) <= 0.75

    def test_a_rule_without_learned_parameters_walks_on_as_it_is(self):
        learner = maml(loss, PARAMS, lr=0.1)
        support = select_tasks(tasks().support, 0)
        close(learner.adapt(learner.meta, support, 5), maml(loss, PARAMS, lr=0.1, steps=5).adapt(learner.meta, support))

    def test_fewer_steps_than_trained_are_the_first_of_them(self):
        learner = maml_plus_plus(loss, PARAMS, steps=5)
        support = select_tasks(tasks().support, 0)
        path = list(learner.adapt.path(learner.meta, support))
        for steps in range(6):
            close(learner.adapt(learner.meta, support, steps), path[steps])


WHOLE = {"p": torch.tensor([1, 2])}
REFUSED: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "a module": (
        TypeError,
        r"params is a dictionary name -> tensor; got Linear\. For a module: params, apply = functional\(module\)",
        lambda: maml(loss, torch.nn.Linear(1, 1)),
    ),
    "a list": (TypeError, "name -> tensor; got list", lambda: fomaml(loss, [torch.ones(1)])),
    "no parameters": (ValueError, "params is empty", lambda: meta_sgd(loss, {})),
    "whole numbers": (
        TypeError,
        r"params\['p'\] is a tensor of torch.int64; only floating",
        lambda: reptile(loss, WHOLE),
    ),
    "a number": (TypeError, r"params\['p'\] is float; only floating-point tensors", lambda: imaml(loss, {"p": 1.0})),
    "a nest": (TypeError, r"params\['p'\] is dict", lambda: maml(loss, {"p": {"q": torch.ones(1)}})),
    "nan": (
        ValueError,
        r"params\['p'\] has values that are not finite",
        lambda: maml_plus_plus(loss, {"p": torch.tensor(torch.nan)}),
    ),
    "infinity": (ValueError, r"params\['p'\] has values", lambda: maml(loss, {"p": torch.tensor([1.0, torch.inf])})),
    "two devices": (
        ValueError,
        "params lie on cpu, meta; move them to one device",
        lambda: maml(loss, {"p": torch.ones(1), "q": torch.ones(1, device="meta")}),
    ),
    "a rule of its own for a minimum": (
        ValueError,
        "give a rule without parameters",
        lambda: imaml(loss, PARAMS, rule=learned_rates(PARAMS, 0.1)),
    ),
    "no solver steps": (ValueError, "cg_steps is at least 1; got 0", lambda: imaml(loss, PARAMS, cg_steps=0)),
    "no strength": (ValueError, "strength is a positive number; got 0.0", lambda: imaml(loss, PARAMS, strength=0.0)),
}


@pytest.mark.parametrize(("error", "message", "make"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_in_words(error, message, make):
    with pytest.raises(error, match=message):
        make()


@every_learner
@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_a_number_of_steps_that_is_none_is_refused(make, steps):
    with pytest.raises(ValueError, match=f"steps is a positive integer; got {steps}"):
        make(loss, PARAMS, steps=steps)


@pytest.mark.parametrize("make", [m for m in LEARNERS.values() if m is not LEARNERS["ANIL"]] + [anil])
@pytest.mark.parametrize("fast", [("tail",), ("head", "tail*")])
def test_a_fast_pattern_without_a_parameter_is_refused_with_the_names_there_are(make, fast):
    with pytest.raises(ValueError, match=r"'tail\*?' matches no parameter; there are w, b, head"):
        make(loss, PARAMS, fast=fast)


@pytest.mark.parametrize("make", [anil, maml_plus_plus, reptile, imaml])
def test_nothing_fast_is_refused(make):
    with pytest.raises(ValueError, match="fast"):
        make(loss, PARAMS, fast=())


@pytest.mark.parametrize("make", [maml, maml_plus_plus, reptile, imaml])
@pytest.mark.parametrize("chunk_size", [0, -2])
def test_a_chunk_of_no_tasks_is_refused(make, chunk_size):
    with pytest.raises(ValueError, match="chunk_size"):
        make(loss, PARAMS, chunk_size=chunk_size)
