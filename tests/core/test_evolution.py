"""Evolution strategies: unbiased where the derivative is known in closed form, biased where they are said to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scimeta.core.check import check_meta_gradient
from scimeta.core.evolution import evolution
from scimeta.core.inner_loop import Adaptation
from scimeta.core.recording import execution
from scimeta.core.rule_learners import evolved_optimizer, learned_optimizer
from scimeta.core.rules import Meta, Rule, learned_rates
from scimeta.core.tasks import Stream, Task
from scimeta.core.train import meta_train
from scimeta.core.trained import evaluate
from scimeta.core.window import Truncation
from tests.core.problems import F64, close, differences, seeded

STEPS, WINDOW = 12, 3
CENTRE, START, DRIFT = 3.0, 0.4, 0.2
COUNT = torch.arange(1, STEPS + 1, dtype=F64)


def drift() -> Rule:
    """x <- x + theta, whatever the gradient: after t steps the query loss (x + t theta - c)^2 / 2 has a closed form."""

    def update(learned: dict, grads: dict, state: tuple, params: dict) -> tuple[dict, tuple]:
        return {"x": params["x"] + learned["theta"] + 0 * grads["x"]}, state

    return Rule({"theta": torch.tensor(DRIFT, dtype=F64)}, lambda params: (), update)


def away(params: dict[str, Tensor], centre: Tensor) -> Tensor:
    return 0.5 * (params["x"] - centre) ** 2


RULE = drift()
META = Meta({"x": torch.tensor(START, dtype=F64)}, RULE.params)
ERROR = START + COUNT * DRIFT - CENTRE
TRUTH = float((COUNT * ERROR).mean())  # the derivative by theta of the mean query loss
IN_WINDOW = float((((COUNT - 1) % WINDOW + 1) * ERROR).mean())  # what a window that forgets its past sees of it


def estimates(draws: int = 100, tasks: int = 150, **options) -> tuple[Tensor, Tensor]:
    """Return the mean of many estimates, by (init, theta), and its standard error."""
    over = options.pop("over", ("rule.*",))
    centre = torch.full((tasks,), CENTRE, dtype=F64)
    adaptation = Adaptation(away, RULE, STEPS)
    estimate = evolution(adaptation, away, **{"window": WINDOW, "sigma": 0.3, "over": over, **options})
    found = []
    for step in range(draws):
        _, gradient = estimate(META, Task(centre, centre), step)
        found.append(torch.stack([gradient.init["x"], gradient.rule["theta"]]))
    found = torch.stack(found)
    return found.mean(0), found.std(0) / draws**0.5


def test_pes_is_unbiased_with_short_windows():
    mean, error = estimates()
    assert error[1] < 0.02 * abs(TRUTH) and abs(mean[1] - TRUTH) < 3 * error[1]


def test_truncated_es_is_biased_on_the_same_problem_and_pes_is_not():
    mean, error = estimates(accumulate=False)
    assert abs(mean[1] - IN_WINDOW) < 3 * error[1]
    assert abs(mean[1] - TRUTH) > 30 * error[1]


def test_one_window_for_all_is_ordinary_antithetic_es():
    mean, error = estimates(window=STEPS)
    assert abs(mean[1] - TRUTH) < 3 * error[1] and error[1] < 0.1 * abs(TRUTH)


def test_the_start_is_credited_with_all_windows():
    mean, error = estimates(over=("init.*", "rule.*"))
    truth = torch.tensor([ERROR.mean(), TRUTH], dtype=F64)
    assert ((mean - truth).abs() < 3 * error).all() and (error < 0.05 * truth.abs()).all()


def test_a_window_that_is_no_part_of_the_steps_is_unbiased_too():
    mean, error = estimates(window=5, pairs=2)
    assert abs(mean[1] - TRUTH) < 3 * error[1]


def test_more_pairs_are_less_noise():
    one, four = (estimates(pairs=pairs)[1][1] for pairs in (1, 4))
    assert 0.4 < four / one < 0.6


def bowl(params: dict[str, Tensor], data: tuple[tuple[Tensor, Tensor], Tensor]) -> Tensor:
    (curvature, centre), noise = data
    return 0.5 * (curvature * (params["x"] - centre) ** 2).sum() + (noise * params["x"]).sum()


def draw(number: int, generator: torch.Generator, steps: int = 8) -> Task:
    curvature = 0.5 + 2 * torch.rand(number, 2, generator=generator, dtype=F64)
    centre = torch.randn(number, 2, generator=generator, dtype=F64)
    noise = 0.1 * torch.randn(number, steps, 2, generator=generator, dtype=F64)
    return Task(Stream((curvature, centre), noise), ((curvature, centre), torch.zeros_like(centre)))


ORIGIN = {"x": torch.tensor([0.5, -0.5], dtype=F64)}


def evolved(**options):
    return evolved_optimizer(
        bowl, ORIGIN, **{"rule": learned_rates(ORIGIN, 0.1), "steps": 8, "window": 2, "sigma": 1e-3, **options}
    )


@pytest.mark.parametrize("rescale", [1.0, 2.0])
def test_its_mean_is_the_derivative_through_the_whole_loop(rescale):
    """On noisy bowls with slow steps, by every element of the rates, where sigma is small enough not to smooth."""
    learner, batch = evolved(rescale=rescale), draw(128, seeded())
    through = learned_optimizer(bowl, ORIGIN, rule=learned_rates(ORIGIN, 0.1), steps=8, rescale=rescale)
    found, truth = [], []
    for step in range(100):
        found.append(learner.meta_gradient(learner.meta, batch, step)[1].rule["x"])
        truth.append(through.meta_gradient(through.meta, batch, step)[1].rule["x"])
    difference = torch.stack(found) - torch.stack(truth)  # with the same factors at the same outer steps
    error = difference.std(0) / 100**0.5
    assert (difference.mean(0).abs() < 3 * error).all() and (error < 0.05 * torch.stack(truth).mean(0).abs()).all()


def test_its_losses_are_those_around_what_is_learned():
    learner, batch = evolved(), draw(5, seeded())
    losses, gradient = learner.meta_gradient(learner.meta, batch, 0)
    close(losses, evaluate(learner, batch).losses[-1], 1e-3)
    assert (gradient.init["x"] == 0).all()


def test_slow_parameters_are_perturbed_like_the_rule():
    def tied(params: dict[str, Tensor], centre: Tensor) -> Tensor:
        return away({"x": params["x"] + params["shift"]}, centre)

    meta = Meta({**META.init, "shift": torch.tensor(0.1, dtype=F64)}, META.rule)
    adaptation = Adaptation(tied, RULE, STEPS, ("x",))
    estimate = evolution(adaptation, tied, window=WINDOW, sigma=0.3, over=("init.shift",))
    centre = torch.full((150,), CENTRE, dtype=F64)
    found = [estimate(meta, Task(centre, centre), step)[1] for step in range(100)]
    mean = torch.stack([gradient.init["shift"] for gradient in found])
    assert abs(mean.mean() - (ERROR + 0.1).mean()) < 3 * mean.std() / 100**0.5
    assert all(gradient.rule["theta"] == 0 and gradient.init["x"] == 0 for gradient in found)


def test_recorded_is_eager():
    learner, batch = evolved(rescale=3.0, pairs=2), draw(3, seeded())
    with execution("eager"):
        expected = learner.meta_gradient(learner.meta, batch, 4)
    close(learner.meta_gradient(learner.meta, batch, 4), expected, 1e-8)


def test_a_step_draws_the_same_perturbations_whenever_it_comes():
    learner, batch = evolved(), draw(3, seeded())
    one, other, again = (learner.meta_gradient(learner.meta, batch, step)[1].rule["x"] for step in (4, 5, 4))
    assert one.equal(again) and not one.equal(other)
    assert not evolved(seed=1).meta_gradient(learner.meta, batch, 4)[1].rule["x"].equal(one)


def test_it_learns_and_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    settings = {"lr": 0.02, "tasks_per_step": 8, "learn": ("rule.*",)}
    whole = meta_train(evolved(sigma=0.02), draw, steps=60, generator=seeded(), **settings)
    for steps in (25, 60):
        again = meta_train(
            evolved(sigma=0.02), draw, steps=steps, checkpoint=tmp_path / "run", generator=seeded(), **settings
        )
    assert not differences(whole.meta._asdict(), again.meta._asdict())
    assert evaluate(whole, draw).mean[-1] < 0.6 * evaluate(evolved(), draw).mean[-1]


def test_the_check_of_derivatives_says_that_it_is_none():
    with pytest.raises(ValueError, match="evolution gives a random estimate"):
        check_meta_gradient(bowl, evolved(), draw(2, seeded()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window is 1 to 8"),
        ({"window": 9}, "window is 1 to 8"),
        ({"pairs": 0}, "pairs is a positive integer"),
        ({"sigma": 0.0}, "sigma is a positive number"),
        ({"sigma": float("nan")}, "sigma is a positive number"),
    ],
)
def test_numbers_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        evolved(**options)


def test_patterns_that_match_nothing_list_what_there_is():
    with pytest.raises(TypeError, match=r"over is a sequence of patterns, such as \('rule.\*',\)"):
        evolved(over="rule.*")
    learner = evolved(over=("rule.y",))
    with pytest.raises(ValueError, match=r"matches nothing; there are rule.x, init.x"):
        learner.meta_gradient(learner.meta, draw(2, seeded()), 0)


def test_a_truncation_is_optional():
    given = evolution(Adaptation(away, RULE, 4), away, window=2, truncation=Truncation(seed=0))
    default = evolution(Adaptation(away, RULE, 4), away, window=2)
    batch = Task(torch.ones(3, dtype=F64), torch.ones(3, dtype=F64))
    assert given(META, batch, 1)[1].rule["theta"].equal(default(META, batch, 1)[1].rule["theta"])
