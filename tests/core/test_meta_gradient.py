"""Every way to a meta-gradient gives that of a plain loop over tasks and steps; implicit ones, the closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta import analytic
from scimeta.core.inner_loop import Adaptation, split_fast
from scimeta.core.meta_gradient import displacement, implicit, through_adaptation
from scimeta.core.recording import execution
from scimeta.core.rules import Meta, Rule, adam, clipped, learned_rates, momentum, preconditioned, proximal, sgd
from scimeta.core.tasks import Task, select_tasks
from tests.core.problems import F64, PARAMS, bowls, close, loss, normal, seeded, tasks

TASKS, STEPS = 5, 3


def judge(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    return loss(p, d) + 0.1 * sum((value**4).sum() for value in p.values())


RULES: dict[str, Callable[[dict[str, Tensor]], Rule]] = {
    "sgd": lambda p: sgd(0.1),
    "momentum": lambda p: momentum(0.1),
    "nesterov": lambda p: momentum(0.1, nesterov=True),
    "adam": lambda p: adam(0.1, eps=1e-3),
    "rates": lambda p: learned_rates(p, 0.1),
    "rates per tensor and step": lambda p: learned_rates(p, 0.1, steps=2, per="tensor"),
    "low rank": lambda p: preconditioned(p, 0.1, "low_rank", generator=seeded(0)),
    "full": lambda p: preconditioned(p, 0.1),
    "clipped": lambda p: clipped(sgd(0.1), 0.5),
    "clipped rates": lambda p: clipped(learned_rates(p, 0.1), 0.5),
    "proximal": lambda p: proximal(sgd(0.1), 2.0),
    "proximal adam": lambda p: proximal(adam(0.1, eps=1e-3), 2.0),
}
WAYS: dict[str, dict[str, Any]] = {
    "unrolled": {"adjoint": False},
    "adjoint": {"adjoint": True},
    "unrolled in chunks": {"adjoint": False, "chunk_size": 2},
    "adjoint in chunks": {"adjoint": True, "chunk_size": 3},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
both = pytest.mark.parametrize("how", ["eager", "recorded"])


def plain(
    adaptation: Adaptation, meta: Meta, batch: Task, weights: Tensor | None = None, query: Callable = judge
) -> tuple:
    """Return what a loop over tasks and steps by torch.autograd alone gives: losses and gradient of their mean."""
    meta = pytree.tree_map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses, totals = [], []
    for index in range(len(batch.query[0])):
        support, asked = select_tasks(tuple(batch), index)
        moving, held = split_fast(meta.init, adaptation.fast)
        state, judged = adaptation.rule.init(moving), []
        for _ in range(adaptation.steps):
            value = adaptation.loss({**held, **moving}, support)
            slope = torch.autograd.grad(value, list(moving.values()), create_graph=True)
            if adaptation.first_order:
                slope = [one.detach() for one in slope]
            moving, state = adaptation.rule.update(meta.rule, dict(zip(moving, slope, strict=True)), state, moving)
            judged.append(query({**held, **moving}, asked))
        losses.append(judged[-1])
        totals.append(judged[-1] if weights is None else sum(w * one for w, one in zip(weights, judged, strict=True)))
    leaves, spec = pytree.tree_flatten(meta)
    slope = torch.autograd.grad(torch.stack(totals).mean(), leaves, allow_unused=True)
    slope = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, slope, strict=True)]
    return torch.stack(losses).detach(), pytree.tree_unflatten(slope, spec)


@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("how", "steps"), [("eager", 3), ("recorded", 2)])
def test_every_rule_has_the_meta_gradient_of_a_plain_loop_in_every_way(make, how, steps):
    rule = make(PARAMS)
    learned = {n: r + 0.01 * normal(*r.shape, seed=9) for n, r in rule.params.items()}
    meta, batch, adaptation = Meta(PARAMS, learned), tasks(), Adaptation(loss, rule, steps)
    expected = plain(adaptation, meta, batch)
    assert all((g != 0).any() for g in pytree.tree_leaves(expected[1]))
    with execution(how):
        for name, way in WAYS.items():
            if how == "eager" or "chunks" not in name:  # recordings of chunks are tested below, once for all rules
                close(through_adaptation(adaptation, judge, **way)(meta, batch, 0), expected)


@pytest.mark.parametrize("fast", [("head",), ("w", "b"), ("*",), ("[bh]*",)])
@pytest.mark.parametrize("first_order", [False, True])
def test_held_and_fast_parameters_both_have_their_gradient(fast, first_order):
    rule = learned_rates(split_fast(PARAMS, fast)[0], 0.1)
    meta, adaptation = Meta(PARAMS, rule.params), Adaptation(loss, rule, STEPS, fast, first_order)
    expected = plain(adaptation, meta, tasks())
    for way in WAYS.values():
        with execution("recorded" if fast == ("head",) and "chunk_size" not in way else "eager"):
            found = through_adaptation(adaptation, judge, **way)(meta, tasks(), 0)
        assert list(found[1].init) == list(PARAMS)
        close(found, expected)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_weights_of_the_inner_steps_weigh_their_query_losses(adjoint, first_order):
    fast = ("w", "head")
    rule = learned_rates(split_fast(PARAMS, fast)[0], 0.1, steps=STEPS, per="tensor")
    meta, adaptation = Meta(PARAMS, rule.params), Adaptation(loss, rule, STEPS, fast, first_order)
    meta_gradient = through_adaptation(
        adaptation, judge, step_weights=lambda step: torch.tensor([0.5, 0.2 * step, 0.3], dtype=F64), adjoint=adjoint
    )
    for step in (0, 1, 2):
        weights = torch.tensor([0.5, 0.2 * step, 0.3], dtype=F64)
        close(meta_gradient(meta, tasks(), step), plain(adaptation, meta, tasks(), weights))


@every_way
def test_weights_of_the_last_step_alone_are_no_weights(way):
    meta, adaptation = Meta(PARAMS, {}), Adaptation(loss, sgd(0.1), STEPS)
    last = torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    weighted = through_adaptation(adaptation, judge, step_weights=lambda step: last, **way)
    with execution("eager"):
        close(weighted(meta, tasks(), 0), through_adaptation(adaptation, judge, **way)(meta, tasks(), 0))


@every_way
@pytest.mark.parametrize("steps", [1, 4])
def test_first_order_is_the_query_gradient_at_the_adapted_point(way, steps):
    adaptation = Adaptation(loss, sgd(0.1), steps, first_order=True)
    meta, batch = Meta(PARAMS, {}), tasks()
    ends = [adaptation(meta, select_tasks(batch.support, i)) for i in range(TASKS)]
    slopes = [torch.func.grad(judge)(end, select_tasks(batch.query, i)) for i, end in enumerate(ends)]
    with execution("eager"):
        _, found = through_adaptation(adaptation, judge, **way)(meta, batch, 0)
    close(found.init, {name: torch.stack([slope[name] for slope in slopes]).mean(0) for name in PARAMS})


@pytest.mark.parametrize("adjoint", [False, True])
@both
def test_one_task_is_a_batch(adjoint, how):
    meta, adaptation = Meta(PARAMS, {}), Adaptation(loss, momentum(0.1), STEPS)
    with execution(how):
        found = through_adaptation(adaptation, judge, adjoint=adjoint)(meta, tasks(1), 0)
    assert found[0].shape == (1,)
    close(found, plain(adaptation, meta, tasks(1)))


@pytest.mark.parametrize(
    ("chunk_size", "how"), [(1, "eager"), (2, "recorded"), (4, "eager"), (5, "eager"), (99, "eager")]
)
@pytest.mark.parametrize("kind", ["through", "adjoint", "displacement", "implicit"])
def test_chunks_of_any_size_give_the_whole(kind, chunk_size, how):
    meta, adaptation = Meta(PARAMS, {}), Adaptation(loss, proximal(sgd(0.1), 2.0), STEPS, ("w", "head"))
    make = {
        "through": lambda **size: through_adaptation(adaptation, judge, **size),
        "adjoint": lambda **size: through_adaptation(adaptation, judge, adjoint=True, **size),
        "displacement": lambda **size: displacement(adaptation, judge, **size),
        "implicit": lambda **size: implicit(adaptation, judge, 2.0, **size),
    }[kind]
    with execution("eager"):
        whole = make()(meta, tasks(), 0)
    with execution(how):
        close(make(chunk_size=chunk_size)(meta, tasks(), 0), whole, 1e-11)


@pytest.mark.parametrize("kind", ["through", "adjoint", "displacement", "implicit"])
def test_recorded_is_eager(kind):
    meta, adaptation = Meta(PARAMS, {}), Adaptation(loss, proximal(sgd(0.1), 2.0), STEPS, ("w", "head"))
    meta_gradient = {
        "through": through_adaptation(adaptation, judge, adjoint=False),
        "adjoint": through_adaptation(adaptation, judge, adjoint=True),
        "displacement": displacement(adaptation, judge),
        "implicit": implicit(adaptation, judge, 2.0),
    }[kind]
    for seed in (0, 10):
        with execution("eager"):
            expected = meta_gradient(meta, tasks(seed=seed), 0)
        close(meta_gradient(meta, tasks(seed=seed), 0), expected, 1e-11)


def test_the_gradients_of_two_parameters_are_two_tensors():
    """Where the loss sees only a + b, both gradients are equal; whoever scales them in place scales each once."""
    start = {"a": normal(2), "b": normal(2, seed=1)}
    batch = Task(normal(3, 2), normal(3, 2, seed=2))
    for adjoint in (False, True):
        adaptation = Adaptation(lambda p, x: ((p["a"] + p["b"] - x) ** 2).sum(), sgd(0.1))
        _, gradient = through_adaptation(adaptation, adaptation.loss, adjoint=adjoint)(Meta(start, {}), batch, 0)
        before = gradient.init["b"].clone()
        gradient.init["a"].zero_()
        assert gradient.init["b"].equal(before) and (before != 0).all()


class TestAdjoint:
    def test_any_number_of_steps_is_one_and_the_same_set_of_recordings(self, recordings):
        counts = []
        for steps in (4, 20):
            meta_gradient = through_adaptation(Adaptation(loss, momentum(0.02), steps), judge, adjoint=True)
            meta_gradient(Meta(PARAMS, {}), tasks(), 0)
            meta_gradient(Meta(PARAMS, {}), tasks(seed=3), 1)
            counts.append(sorted(recordings))
            recordings.clear()
        assert counts[0] == counts[1]

    def test_the_number_of_recordings_does_not_depend_on_the_number_of_chunks(self, recordings):
        meta_gradient = through_adaptation(Adaptation(loss, sgd(0.1), 2), judge, adjoint=True, chunk_size=2)
        meta_gradient(Meta(PARAMS, {}), tasks(4), 0)
        few = len(recordings)
        meta_gradient(Meta(PARAMS, {}), tasks(8), 0)
        assert len(recordings) == few

    @pytest.mark.parametrize(("steps", "whole"), [(10, True), (11, False)])
    def test_more_than_ten_steps_are_taken_back_one_at_a_time(self, steps, whole, recordings):
        adaptation = Adaptation(loss, sgd(0.05), steps)
        found = through_adaptation(adaptation, judge)(Meta(PARAMS, {}), tasks(), 0)
        assert (recordings == ["meta_gradient"]) is whole
        close(found, plain(adaptation, Meta(PARAMS, {}), tasks()))

    def test_long_inner_loops_are_right(self):
        rule = learned_rates(PARAMS, 0.05, steps=25, per="tensor")
        meta, adaptation = Meta(PARAMS, rule.params), Adaptation(loss, rule, 25)
        close(through_adaptation(adaptation, judge)(meta, tasks(), 0), plain(adaptation, meta, tasks()))


class TestDisplacement:
    @both
    def test_one_step_is_the_gradient_times_the_rate(self, how):
        batch = tasks()
        with execution(how):
            losses, found = displacement(Adaptation(loss, sgd(0.1), 1), judge)(Meta(PARAMS, {}), batch, 0)
        slopes = [torch.func.grad(loss)(PARAMS, select_tasks(batch.support, i)) for i in range(TASKS)]
        close(found.init, {name: 0.1 * torch.stack([s[name] for s in slopes]).mean(0) for name in PARAMS})
        close(losses, plain(Adaptation(loss, sgd(0.1), 1), Meta(PARAMS, {}), batch)[0])

    def test_it_is_the_way_back_from_the_mean_of_the_ends(self):
        rule = learned_rates(split_fast(PARAMS, ("w", "head"))[0], 0.1)
        meta, adaptation, batch = Meta(PARAMS, rule.params), Adaptation(loss, rule, 7, ("w", "head")), tasks()
        _, found = displacement(adaptation, judge)(meta, batch, 0)
        ends = [adaptation(meta, select_tasks(batch.support, i)) for i in range(TASKS)]
        close(found.init, {n: p - torch.stack([end[n] for end in ends]).mean(0) for n, p in PARAMS.items()})
        assert (found.init["b"] == 0).all() and all((rate == 0).all() for rate in found.rule.values())
        assert list(found.init) == list(PARAMS)


def bowl(p: dict[str, Tensor], d: tuple[Tensor, Tensor]) -> Tensor:
    return analytic.loss({"theta": p["theta"] - p["slow"] @ MIX if "slow" in p else p["theta"]}, d)


MIX = normal(2, 3, seed=7)


class TestImplicit:
    STRENGTH = 1.5

    def converged(self, fast: tuple[str, ...] = ("*",)) -> Adaptation:
        return Adaptation(bowl, proximal(sgd(0.1), self.STRENGTH), 400, fast)

    @both
    def test_on_a_bowl_it_is_the_closed_form(self, how):
        support, theta = bowls(), normal(3, seed=5)
        seen = analytic.imaml(support, strength=self.STRENGTH)
        expected = (seen.curvature @ (theta - seen.centre)[..., None]).mean(0)[:, 0]
        with execution(how):
            losses, found = implicit(self.converged(), bowl, self.STRENGTH)(
                Meta({"theta": theta}, {}), Task(support, support), 0
            )
        close(found.init["theta"], expected, 1e-8)
        close(losses.mean(), analytic.meta_loss(seen, theta), 1e-8)

    @both
    def test_slow_parameters_have_the_closed_form_too(self, how):
        """With r = theta - c - M's, Q = strength (A + strength)^-1: phi = c + M's + Q r, d phi / d s = (1 - Q) M'."""
        support, query = bowls(), bowls(seed=20)
        theta, slow = normal(3, seed=5), normal(2, seed=6)
        eye = torch.eye(3, dtype=F64)
        q = self.STRENGTH * torch.linalg.inv(support.curvature + self.STRENGTH * eye)  # (tasks, 3, 3)
        shift = slow @ MIX
        phi = support.centre + shift + (q @ (theta - support.centre - shift)[..., None])[..., 0]
        slope = (query.curvature @ (phi - shift - query.centre)[..., None])[..., 0]  # (tasks, 3), by phi
        by_theta = (q @ slope[..., None])[..., 0].mean(0)
        by_slow = ((slope - (q @ slope[..., None])[..., 0]) @ MIX.T - slope @ MIX.T).mean(0)
        meta = Meta({"slow": slow, "theta": theta}, {})
        with execution(how):
            _, found = implicit(self.converged(("theta",)), bowl, self.STRENGTH)(meta, Task(support, query), 0)
        assert list(found.init) == ["slow", "theta"]
        close(found.init, {"slow": by_slow, "theta": by_theta}, 1e-8)

    def test_it_is_the_unrolled_derivative_where_the_inner_loop_has_converged(self):
        adaptation = Adaptation(loss, proximal(sgd(0.2), 3.0), 200, ("w", "head"))
        meta = Meta(PARAMS, {})
        _, through = through_adaptation(adaptation, judge)(meta, tasks(), 0)
        _, found = implicit(adaptation, judge, 3.0, cg_steps=12)(meta, tasks(), 0)
        close(found, through, 1e-8)

    def test_the_number_of_inner_steps_adds_no_recording(self, recordings):
        for steps in (5, 50):
            adaptation = Adaptation(bowl, proximal(sgd(0.1), 1.0), steps)
            implicit(adaptation, bowl, 1.0)(Meta({"theta": normal(3)}, {}), Task(bowls(), bowls()), 0)
        assert sorted(recordings[: len(recordings) // 2]) == sorted(recordings[len(recordings) // 2 :])

    def test_a_query_that_is_content_gives_zero(self):
        """The query's minimum lies where the support's adaptation ends: nothing to solve, and no 0 / 0."""
        centre, curvature = normal(2, 3), torch.eye(3, dtype=F64).expand(2, 3, 3)
        batch = Task((curvature, centre), (0 * curvature, centre))
        adaptation = Adaptation(bowl, proximal(sgd(0.1), 1.0), 5)
        _, found = implicit(adaptation, bowl, 1.0)(Meta({"theta": normal(3)}, {}), batch, 0)
        assert found.init["theta"].tolist() == [0.0, 0.0, 0.0]

    def test_a_task_of_negative_curvature_spoils_no_other(self):
        """Its solve ends where it began, at zero; the other's is as if it were alone."""
        good, theta = bowls(1), normal(3, seed=5)
        curvature = torch.cat([good.curvature, -9.0 * torch.eye(3, dtype=F64)[None]])
        batch = (curvature, good.centre.repeat(2, 1))
        # The second task's inner loop runs away: few steps.
        few = Adaptation(bowl, proximal(sgd(0.05), self.STRENGTH), 3)
        _, alone = implicit(few, bowl, self.STRENGTH)(Meta({"theta": theta}, {}), Task(good, good), 0)
        _, found = implicit(few, bowl, self.STRENGTH)(Meta({"theta": theta}, {}), Task(batch, batch), 0)
        close(found.init["theta"], alone.init["theta"] / 2)

    def test_few_solver_steps_are_an_approximation_and_as_many_as_parameters_are_exact(self):
        support, theta = bowls(), normal(3, seed=5)
        seen = analytic.imaml(support, strength=self.STRENGTH)
        expected = (seen.curvature @ (theta - seen.centre)[..., None]).mean(0)[:, 0]
        errors = []
        for cg_steps in (1, 2, 3):
            meta_gradient = implicit(self.converged(), bowl, self.STRENGTH, cg_steps=cg_steps)
            _, found = meta_gradient(Meta({"theta": theta}, {}), Task(support, support), 0)
            errors.append(float((found.init["theta"] - expected).norm()))
        assert min(errors[:2]) > 1e-4 and errors[2] < 1e-8
