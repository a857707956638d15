"""A stream hands every inner step its own slice, on every way through the core; a wrong one is named at the door."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scimeta.core.check import check_meta_gradient
from scimeta.core.door import check_batch
from scimeta.core.inner_loop import Adaptation, adapt
from scimeta.core.learners import fomaml, imaml, maml, maml_plus_plus, reptile
from scimeta.core.meta_gradient import displacement, through_adaptation
from scimeta.core.recording import execution
from scimeta.core.rules import Meta, momentum, sgd
from scimeta.core.tasks import Stream, Task, at_step, over_tasks, select_tasks
from scimeta.core.train import meta_train
from scimeta.core.trained import evaluate
from tests.core.problems import F64, close, normal, seeded

STEPS = 3


def pull(params: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    """A cubic around `held`, with a gradient that is off by `each`."""
    held, each = data
    offset = params["x"] - held
    return (offset**2 + 0.1 * offset**3).sum() + (each * params["x"]).sum()


def batch(tasks: int = 4, slices: int = STEPS, seed: int = 0) -> Task:
    held, noise = normal(tasks, 2, seed=seed), normal(tasks, slices, 2, seed=seed + 1)
    return Task(Stream(held, noise), (normal(tasks, 2, seed=seed + 2), torch.zeros(tasks, 2, dtype=F64)))


START = {"x": torch.tensor([0.3, -0.2], dtype=F64)}


def by_hand(support: Stream, steps: int, lr: float = 0.1) -> Tensor:
    x = START["x"]
    for count in range(steps):
        offset = x - support.held
        x = x - lr * (2 * offset + 0.3 * offset**2 + support.each[count % len(support.each)])
    return x


def test_every_step_sees_its_own_slice():
    one = select_tasks(batch(), 1).support
    close(adapt(pull, sgd(0.1), Meta(START, {}), one, steps=STEPS)["x"], by_hand(one, STEPS))


def test_more_steps_than_slices_start_over():
    one = select_tasks(batch(slices=2), 0).support
    close(adapt(pull, sgd(0.1), Meta(START, {}), one, steps=5)["x"], by_hand(one, 5))


def test_the_order_of_the_slices_matters():
    one = select_tasks(batch(), 0).support
    turned = one._replace(each=one.each.flip(0))
    assert (by_hand(one, STEPS) - adapt(pull, sgd(0.1), Meta(START, {}), turned, steps=STEPS)["x"]).norm() > 1e-3


def test_a_batch_of_streams_is_each_of_them_alone():
    support = batch().support
    learner = Adaptation(pull, momentum(0.1), STEPS)
    together = over_tasks(learner, (None, 0))(Meta(START, {}), support)["x"]
    close(together, torch.stack([learner(Meta(START, {}), select_tasks(support, i))["x"] for i in range(4)]))


def test_other_support_is_seen_whole_at_every_step():
    data = (normal(3), {"y": normal(3)})
    assert at_step(data, 7) is data


@pytest.mark.parametrize("how", ["eager", "recorded"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: maml(pull, START, lr=0.1, steps=STEPS, adjoint=False),
        lambda: maml(pull, START, lr=0.1, steps=5, adjoint=True),
        lambda: maml(pull, START, rule=momentum(0.1), steps=12),
        lambda: maml(pull, START, lr=0.1, steps=STEPS, chunk_size=3),
        lambda: fomaml(pull, START, lr=0.1, steps=STEPS),
        lambda: maml_plus_plus(pull, START, lr=0.1, steps=STEPS, multi_step_until=5),
        lambda: reptile(pull, START, lr=0.1, steps=STEPS),
    ],
    ids=["unrolled", "adjoint", "long", "chunks", "first order", "MAML++", "Reptile"],
)
def test_every_meta_gradient_is_that_of_a_plain_loop(make, how):
    result = check_meta_gradient(pull, make(), batch(), how=how)
    assert result.ok, str(result)


def test_a_meta_gradient_that_sees_the_first_slice_alone_is_caught():
    learner = maml(pull, START, lr=0.1, steps=STEPS)

    def wrong(meta: Meta, task: Task, step: int = 0) -> tuple[Tensor, Meta]:
        return learner.meta_gradient(meta, Task(at_step(task.support, 0, batched=True), task.query), step)

    assert not check_meta_gradient(pull, learner._replace(meta_gradient=wrong), batch()).ok


def test_the_adjoint_records_one_step_for_all_slices(recordings):
    adaptation = Adaptation(pull, sgd(0.1), 6)
    through_adaptation(adaptation, pull, adjoint=True)(Meta(START, {}), batch(slices=6), 0)
    assert len(recordings) == len(set(recordings))


def test_displacement_goes_through_the_slices():
    support = batch()
    _, found = displacement(Adaptation(pull, sgd(0.1), STEPS), pull)(Meta(START, {}), support, 0)
    ends = torch.stack([by_hand(select_tasks(support.support, i), STEPS) for i in range(4)])
    close(found.init["x"], START["x"] - ends.mean(0))


def test_training_and_evaluation_take_streams():
    def draw(number: int, generator: torch.Generator) -> Task:
        centre = 1.5 + 0.1 * torch.randn(number, 2, generator=generator, dtype=F64)
        noise = 0.1 * torch.randn(number, STEPS, 2, generator=generator, dtype=F64)
        return Task(Stream(centre, noise), (centre, torch.zeros_like(centre)))

    learner = maml(pull, START, lr=0.1, steps=STEPS)
    trained = meta_train(learner, draw, steps=150, lr=0.05, generator=seeded())
    close(trained.meta.init["x"], torch.full((2,), 1.5, dtype=F64), 0.15)
    losses = evaluate(trained, draw, n=20, steps=2 * STEPS).losses
    assert losses.shape == (2 * STEPS + 1, 20) and losses[-1].mean() < losses[0].mean()


def test_an_inner_step_beyond_the_trained_ones_is_guarded_on_its_own_slice():
    """The guard lets through what lowers the loss that the step itself saw; an unguarded loop takes it whole."""
    learner = maml(pull, START, rule=sgd(0.1)._replace(params={"unused": torch.ones(1)}), steps=1)
    one = select_tasks(batch(slices=2), 0).support
    one = one._replace(each=one.each.new_tensor([[0.0, 0.0], [30.0, -30.0]]))
    free = Adaptation(pull, learner.adapt.rule, 1, guarded=False)
    close(free(Meta(START, {}), one, 2)["x"], by_hand(one, 2))
    close(learner.adapt(Meta(START, {}), one, 2)["x"], by_hand(one, 2))  # its own slice falls all the way
    wild = Adaptation(pull, sgd(5.0)._replace(params={"unused": torch.ones(1)}), 1)
    _, after, guarded = wild.path(Meta(START, {}), one._replace(each=0 * one.each), 2)
    seen = (one.held, 0 * one.each[0])
    assert pull(guarded, seen) <= pull(after, seen)


class TestDoor:
    LEARNER = maml(pull, START, lr=0.1, steps=STEPS)

    def test_a_stream_comes_in_and_the_loss_sees_one_slice(self):
        assert check_batch(self.LEARNER, batch()) is not None

    def test_a_query_that_is_a_stream_is_refused(self):
        support = batch().support
        with pytest.raises(TypeError, match="the query is a Stream"):
            check_batch(self.LEARNER, Task(support, support))

    def test_a_stream_is_no_task(self):
        with pytest.raises(TypeError, match=r"returns Task\(support, query\).*Stream"):
            check_batch(self.LEARNER, batch().support)

    def test_slices_without_a_step_axis_are_refused(self):
        with pytest.raises(ValueError, match=r"slices are \(tasks, steps, ...\).*support.each is \(4,\)"):
            check_batch(self.LEARNER, Task(Stream(normal(4, 2), normal(4)), batch().query))

    def test_slices_of_unequal_number_are_refused(self):
        each = (normal(4, 3, 2), normal(4, 5, 2))
        with pytest.raises(ValueError, match=r"as many steps in every tensor.*\(4, 5, 2\)"):
            check_batch(self.LEARNER, Task(Stream(normal(4, 2), each), batch().query))

    @pytest.mark.parametrize(("each", "words"), [((), "without slices"), (normal(4, 0, 2), "is empty")])
    def test_no_slices_are_refused(self, each, words):
        with pytest.raises(ValueError, match=words):
            check_batch(self.LEARNER, Task(Stream(normal(4, 2), each), batch().query))

    def test_noise_that_is_not_finite_is_named(self):
        support = batch().support
        support.each[1, 2, 0] = torch.nan
        with pytest.raises(ValueError, match=r"support\.each has values that are not finite"):
            check_batch(self.LEARNER, Task(support, batch().query))

    def test_an_implicit_meta_gradient_refuses_a_stream(self):
        with pytest.raises(ValueError, match="implicit: the support is a Stream"), execution("eager"):
            check_batch(imaml(pull, START, lr=0.1, steps=3), batch())
