"""What a loss reads beside its arguments and has changed since the recording is said, and rounding is not."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta import check_meta_gradient, evaluate
from scimeta.core.fresh import check_recording
from scimeta.core.learners import MetaLearner, fomaml, imaml, maml, maml_plus_plus, reptile
from scimeta.core.recording import chosen_execution, execution, record, recorded_anew
from scimeta.core.rule_learners import evolved_optimizer, learned_optimizer
from scimeta.core.rules import Rule, learned_rates
from scimeta.core.tasks import Data, Params, Task
from scimeta.core.train import meta_train
from tests.core.problems import F64, differences, normal, seeded

START = {"w": normal(3, 1, dtype=torch.float32)}


def waves(number: int, generator: torch.Generator) -> Task:
    x, y = torch.randn(number, 6, 3, generator=generator), torch.randn(number, 6, 1, generator=generator)
    return Task((x, y), (x, y))


def squares(params: Params, data: Data) -> Tensor:
    return ((data[0] @ params["w"] - data[1]) ** 2).mean()


class Outside:
    """What losses read from outside; the sampler moves it on."""

    def __init__(self) -> None:
        self.weight, self.centre, self.settings = 0.0, torch.zeros(3, 1), {"weight": 0.0}

    def draw(self, number: int, generator: torch.Generator) -> Task:
        self.weight += 0.01
        self.centre = self.centre + 0.01
        self.settings["weight"] += 0.01
        return waves(number, generator)

    def number(self, params: Params, data: Data) -> Tensor:
        return squares(params, data) + self.weight * (params["w"] ** 2).sum()

    def tensor(self, params: Params, data: Data) -> Tensor:
        return squares({"w": params["w"] + self.centre}, data)

    def dictionary(self, params: Params, data: Data) -> Tensor:
        return squares(params, data) * (1 + self.settings["weight"])

    def branch(self, params: Params, data: Data) -> Tensor:
        return squares(params, data) if self.weight < 0.025 else 2 * squares(params, data)


KINDS = ("number", "tensor", "dictionary", "branch")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"steps": 4}, 4),
        ({"steps": 60}, 50),
        ({"steps": 9, "validation": waves, "validate_every": 6}, 6),
        ({"steps": 9, "validation": waves}, 9),
    ],
    ids=["at the end", "at the fiftieth", "at a validation", "at the last validation"],
)
def test_what_has_changed_since_the_recording_is_an_error(kind: str, options: dict, at: int) -> None:
    outside = Outside()
    learner = maml(getattr(outside, kind), START)
    words = (
        rf"meta_train: at step {at} the query loss of task \d+ is .* recorded .* afresh: it reads something that has"
    )
    with pytest.raises(ValueError, match=words) as caught:
        meta_train(learner, outside.draw, tasks_per_step=4, generator=seeded(), **options)
    assert "part of the tasks' data" in str(caught.value)
    assert len(caught.value.trained.history) == at


def reading(outside: Outside) -> dict[str, MetaLearner]:
    loss, rates = outside.number, learned_rates(START, 0.01)
    slowing = Rule(
        {},
        lambda params: (),
        lambda _, grads, state, params: ({n: p - outside.weight * grads[n] for n, p in params.items()}, state),
    )
    return {
        "FOMAML": fomaml(loss, START),
        "MAML, step by step": maml(loss, START, steps=3, adjoint=True),
        "MAML++": maml_plus_plus(loss, START, steps=2, multi_step_until=3),
        "Reptile": reptile(loss, START, steps=2),
        "implicit MAML": imaml(loss, START, steps=30),
        "learned optimiser": learned_optimizer(loss, START, rule=rates, steps=3, burn_in=2, rescale=3.0),
        "evolution": evolved_optimizer(loss, START, rule=rates, steps=4, window=2),
        "in the rule": maml(squares, START, rule=slowing),
        "in the query loss": maml(squares, START, query_loss=loss),
    }


@pytest.mark.parametrize("name", reading(Outside()))
def test_every_learner_says_it(name: str) -> None:
    outside = Outside()
    with pytest.raises(ValueError, match="afresh: it reads something that has changed since"):
        meta_train(reading(outside)[name], outside.draw, steps=5, tasks_per_step=4, generator=seeded())


def test_mixed_precision_and_float64_say_it_too() -> None:
    outside = Outside()
    loss = lambda params, data: (1 + 3 * outside.weight) * squares(params, data)  # noqa: E731
    with pytest.raises(ValueError, match="afresh: it reads"):
        meta_train(
            maml(loss, START),
            outside.draw,
            steps=5,
            tasks_per_step=4,
            precision=torch.bfloat16,
            generator=seeded(),
        )
    tiny = Outside()
    learner = maml(
        lambda p, d: squares(p, (d[0].double(), d[1].double())) * (1 + 1e-10 * tiny.weight), {"w": START["w"].double()}
    )
    with pytest.raises(ValueError, match="afresh: it reads"):
        meta_train(learner, tiny.draw, steps=5, tasks_per_step=4, generator=seeded())


# Randomness and counters, at the door.

numbers = np.random.default_rng(0)


def noisy(params: Params, data: Data) -> Tensor:
    return squares(params, (data[0] + torch.as_tensor(numbers.normal(size=(6, 3)), dtype=data[0].dtype), data[1]))


def jittered(params: Params, data: Data) -> Tensor:
    return squares(params, data) * (1 + 1e-3 * random.random())


def counted(params: Params, data: Data, calls: list[int] = [0]) -> Tensor:  # noqa: B006
    calls[0] += 1
    return squares(params, data) * (1 + calls[0] / 100)


@pytest.mark.parametrize("loss", [noisy, jittered, counted], ids=lambda loss: loss.__name__)
def test_a_loss_that_draws_or_counts_is_refused_before_anything_is_trained(loss: Callable) -> None:
    for call in (
        lambda: meta_train(maml(loss, START), waves, steps=1, tasks_per_step=4, generator=seeded()),
        lambda: evaluate(maml(loss, START), waves, n=3),
        lambda: check_meta_gradient(loss, maml(loss, START), waves(2, seeded())),
    ):
        with pytest.raises(
            ValueError, match=r"called again with the same parameters and data, .* draws random numbers"
        ):
            call()


def test_randomness_that_the_door_did_not_see_is_named_as_such() -> None:
    started = [False]

    def late(params: Params, data: Data) -> Tensor:
        return jittered(params, data) if started[0] else squares(params, data)

    def draw(number: int, generator: torch.Generator) -> Task:
        started[0] = generator.initial_seed() == 0 and draw.calls > 0
        draw.calls += 1
        return waves(number, generator)

    draw.calls = 0
    with pytest.raises(ValueError, match=r"afresh: it draws random numbers of its own .* draw them in the sampler"):
        meta_train(maml(late, START), draw, steps=3, tasks_per_step=4, generator=seeded())


# Nothing else is an error, and nothing is changed by looking.


def test_a_number_that_changes_and_comes_as_data_is_read_anew() -> None:
    weight = [0.0]

    def draw(number: int, generator: torch.Generator) -> Task:
        weight[0] += 0.1
        data = (*waves(number, generator).query, torch.full((number,), weight[0]))
        return Task(data, data)

    loss = lambda params, data: squares(params, data[:2]) + data[2] * (params["w"] ** 2).sum()  # noqa: E731
    meta_train(maml(loss, START), draw, steps=6, tasks_per_step=4, generator=seeded())


def test_a_tensor_that_is_written_to_in_place_is_read_anew_and_no_error() -> None:
    centre = torch.zeros(3, 1)

    def draw(number: int, generator: torch.Generator) -> Task:
        centre.add_(0.1)
        return waves(number, generator)

    meta_train(maml(lambda p, d: squares({"w": p["w"] - centre}, d), START), draw, steps=6, generator=seeded())


def test_a_path_so_long_that_rounding_grows_out_of_bounds_is_no_error() -> None:
    def logistic(params: Params, x: Tensor) -> Tensor:  # gradient steps of this loss are the logistic map: chaos
        p = params["p"]
        return (p**2 / 2 - 3.9 * (p**2 / 2 - p**3 / 3) + 0 * x.sum()).sum()

    learner = maml(logistic, {"p": torch.tensor([0.3, 0.4])}, lr=1.0, steps=200, adjoint=True)
    task = Task(normal(4, 2, dtype=torch.float32), normal(4, 2, dtype=torch.float32))
    recorded = learner.meta_gradient(learner.meta, task, 0)[0]
    with execution("eager"):
        eager = learner.meta_gradient(learner.meta, task, 0)[0]
    assert torch.isfinite(recorded).all() and torch.isfinite(eager).all()
    check_recording(learner, learner.meta, task)


def test_looking_advances_no_generator_and_changes_no_bit_of_the_training() -> None:
    torch.manual_seed(3)
    before, generator = torch.get_rng_state(), seeded()
    looked = meta_train(maml(squares, START), waves, steps=60, validation=waves, validate_every=7, generator=generator)
    assert torch.equal(torch.get_rng_state(), before)
    other = seeded()
    plain = meta_train(maml(squares, START), waves, steps=60, generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
    assert looked.history["loss"].equals(plain.history["loss"])


def test_a_run_that_stops_leaves_the_checkpoint_before_and_goes_on_from_it(tmp_path) -> None:
    outside, file = Outside(), tmp_path / "run.safetensors"
    options = {"steps": 8, "tasks_per_step": 4, "checkpoint": file, "checkpoint_every": 3}
    with pytest.raises(ValueError, match="at step 8"):
        meta_train(maml(outside.number, START), outside.draw, generator=seeded(), **options)
    went_on = meta_train(maml(squares, START), waves, generator=seeded(), **options)
    assert len(went_on.history) == 8


def test_too_little_memory_for_a_look_is_a_warning() -> None:
    learner = maml(squares, START)

    def greedy(meta, task, step):
        if chosen_execution.get() == "eager":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return learner.meta_gradient(meta, task, step)

    with pytest.warns(UserWarning, match="no memory to run a batch afresh"):
        check_recording(learner._replace(meta_gradient=greedy), learner.meta, waves(3, seeded()))


def test_recorded_anew_a_function_gives_the_same_bits_and_the_old_recordings_come_back(recordings: list[str]) -> None:
    weight = [2.0]
    scaled = record(lambda x: weight[0] * x.sin())
    x = normal(5)
    first = scaled(x)
    with recorded_anew():
        assert torch.equal(scaled(x), first) and torch.equal(scaled(x), first)
        weight[0] = 3.0
    assert torch.equal(scaled(x), first) and len(recordings) == 2
    with recorded_anew():
        assert not torch.equal(scaled(x), first)


def test_a_meta_gradient_recorded_twice_is_the_same_to_the_bit() -> None:
    for learner in reading(Outside()).values():
        task = waves(4, seeded())
        one = learner.meta_gradient(learner.meta, task, 2)
        with recorded_anew():
            assert not differences(one, learner.meta_gradient(learner.meta, task, 2))


def test_a_loop_of_ones_own_can_ask() -> None:
    outside, task = Outside(), Task(normal(3, 2), normal(3, 2))
    learner = maml(lambda p, x: ((1 + outside.weight) * p["a"] - x).square().mean(), {"a": torch.zeros((), dtype=F64)})
    learner.meta_gradient(learner.meta, task, 0)
    check_recording(learner, learner.meta, task)
    outside.weight = 0.1
    with pytest.raises(ValueError, match="my loop: at step 8 the query loss of task 0"):
        check_recording(learner, learner.meta, task, 7, "my loop")
