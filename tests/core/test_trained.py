"""What training returns and what evaluation measures, against loops over tasks and steps."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor

from scimeta import analytic
from scimeta.core.checkpoint import load_meta
from scimeta.core.inner_loop import adapt
from scimeta.core.learners import maml, maml_plus_plus, meta_sgd, reptile
from scimeta.core.rules import Meta, sgd
from scimeta.core.tasks import Task, select_tasks
from scimeta.core.train import meta_train
from scimeta.core.trained import Evaluation, Trained, evaluate
from tests.core.problems import F64, LINE, draw, line, seeded


def worst(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return (torch.sin(params["a"][0] * x) + params["a"][1] * x + params["b"] - x**2 / 4).abs().max()


LEARNER = maml(line, LINE, lr=0.1, steps=3)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return meta_train(
        LEARNER,
        draw,
        steps=40,
        tasks_per_step=4,
        lr=0.05,
        validation=draw,
        validation_tasks=8,
        validate_every=10,
        generator=seeded(),
    )


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


# Evaluation.


@pytest.mark.parametrize("steps", [None, 0, 5])
@pytest.mark.parametrize("metric", [None, worst], ids=["query loss", "metric"])
def test_evaluation_is_a_loop_over_tasks_and_steps(steps, metric) -> None:
    batch = draw(6, seeded(4))
    found = evaluate(LEARNER, batch, steps=steps, metric=metric)
    count = 3 if steps is None else steps
    assert found.losses.shape == (count + 1, 6)
    for index in range(6):
        one = select_tasks(batch, index)
        for step in range(count + 1):
            params = adapt(line, sgd(0.1), Meta(LINE, {}), one.support, step)
            assert float(found.losses[step, index]) == pytest.approx(
                float((metric or line)(params, one.query)), rel=1e-12
            )


def test_the_first_row_is_before_adaptation() -> None:
    batch = draw(6, seeded(4))
    found = evaluate(LEARNER, batch)
    untouched = torch.stack([line(LINE, query) for query in batch.query])
    torch.testing.assert_close(found.losses[0], untouched, rtol=1e-13, atol=0)
    assert (found.losses[1] != untouched).all()


def test_evaluation_on_bowls_is_the_closed_form_at_every_step() -> None:
    curvature = torch.tensor([[[2.0, 0.6], [0.6, 1.0]], [[0.8, -0.3], [-0.3, 3.0]]], dtype=F64)
    bowls = analytic.Bowls(curvature, torch.tensor([[1.0, -1.0], [-2.0, 0.5]], dtype=F64))
    theta = torch.tensor([4.0, -3.0], dtype=F64)
    learner = maml(analytic.loss, {"theta": theta}, lr=0.2, steps=2)
    found = evaluate(learner, Task(tuple(bowls), tuple(bowls)), steps=8)
    for step, mean in enumerate(found.mean):
        truth = analytic.meta_loss(analytic.maml(bowls, lr=0.2, steps=step), theta)
        torch.testing.assert_close(mean, truth, rtol=1e-12, atol=0)


def test_a_judge_of_its_own_is_what_is_evaluated() -> None:
    batch = draw(5, seeded(4))
    judged = maml(line, LINE, lr=0.1, query_loss=worst)
    torch.testing.assert_close(
        evaluate(judged, batch).losses, evaluate(maml(line, LINE, lr=0.1), batch, metric=worst).losses
    )


def test_the_mean_the_margin_and_the_median_are_those_of_the_tasks() -> None:
    losses = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], dtype=F64)
    found = Evaluation("some", losses)
    assert found.mean.tolist() == [3.0, 1.0]
    spread = [math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2), math.sqrt((1 + 1 + 4) / 2)]
    assert found.margin.tolist() == pytest.approx([1.96 * s / math.sqrt(3) for s in spread])
    table = found.to_frame()
    assert list(table.columns) == ["step", "mean", "margin", "median"]
    assert table["step"].tolist() == [0, 1] and table["median"].tolist() == [2.0, 0.0]
    assert str(found).splitlines()[0] == "some: query loss of 3 tasks (mean +- 95 %)"
    assert [float(row.split()[1]) for row in str(found).splitlines()[2:]] == [3.0, 1.0]


def test_the_margin_holds_the_truth_nineteen_times_in_twenty() -> None:
    losses = 3 + torch.randn(2000, 100, generator=seeded(), dtype=F64)  # 2000 evaluations of one step on 100 tasks
    found = Evaluation("some", losses)
    inside = int(((found.mean - 3).abs() < found.margin).sum())
    assert 1857 <= inside <= 1937  # 1897 expected (1.96 in place of Student's 1.98), standard deviation 10


def test_one_task_has_no_margin() -> None:
    found = evaluate(LEARNER, draw(1, seeded()))
    assert torch.isnan(found.margin).all()
    assert found.to_frame()["mean"].notna().all()
    assert "of 1 tasks" in str(found) or "of 1 task " in str(found)


def test_more_tasks_than_one_chunk_are_all_evaluated_in_their_order() -> None:
    batch = draw(600, seeded(4))
    whole = evaluate(LEARNER, batch)
    assert whole.losses.shape == (4, 600)
    for first in (254, 510, 595):
        part = evaluate(LEARNER, Task(*(x[first : first + 5] for x in batch)))
        torch.testing.assert_close(whole.losses[:, first : first + 5], part.losses, rtol=1e-12, atol=0)


def test_evaluation_draws_the_tasks_that_it_is_told_to() -> None:
    unless_told = evaluate(LEARNER, draw, n=7).losses
    assert torch.equal(unless_told, evaluate(LEARNER, draw, n=7).losses)
    # Many runs train with seed 0: their first tasks must not come back as new ones.
    assert not torch.equal(unless_told, evaluate(LEARNER, draw(7, seeded(0))).losses)
    other = evaluate(LEARNER, draw, n=7, generator=seeded(5))
    assert torch.equal(other.losses, evaluate(LEARNER, draw(7, seeded(5))).losses)
    assert evaluate(LEARNER, draw).losses.shape == (4, 100)


def test_evaluation_carries_no_gradient_and_changes_nothing(trained: Trained) -> None:
    before = {name: value.clone() for name, value in trained.meta.init.items()}
    found = evaluate(trained, draw, n=5)
    assert not found.losses.requires_grad
    assert all(torch.equal(before[name], value) for name, value in trained.meta.init.items())


def test_evaluation_of_what_was_trained_is_that_of_its_learner(trained: Trained) -> None:
    assert torch.equal(evaluate(trained, draw, n=9).losses, evaluate(trained.learner, draw, n=9).losses)
    assert evaluate(trained, draw, n=200).mean[-1] < 0.5 * evaluate(LEARNER, draw, n=200).mean[-1]


def test_learned_rates_run_beyond_their_steps_without_diverging() -> None:
    learner = maml_plus_plus(line, LINE, lr=0.1, steps=2)
    learner = learner._replace(meta=Meta(learner.meta.init, {name: 40 * r for name, r in learner.meta.rule.items()}))
    support = draw(20, seeded()).support
    found = evaluate(learner, Task(support, support), steps=12)
    assert torch.isfinite(found.losses).all()
    # Guarded steps never raise the support loss. 4 times the machine's rounding allows for a sum in another order.
    assert (found.losses[3:] <= found.losses[2:-1] * (1 + 4 * torch.finfo(F64).eps)).all()


WRONG = [
    (lambda: (draw(4, seeded()).support, draw(5, seeded()).query), ValueError, "evaluate: the first axis"),
    (
        lambda: lambda number, generator: draw(number, generator).query,
        TypeError,
        r"evaluate: .* Task\(support, query\)",
    ),
    (lambda: [1, 2], TypeError, "evaluate"),
    (lambda: None, TypeError, "evaluate"),
    (lambda: Task(torch.zeros(3, 0, dtype=F64), torch.ones(3, 1, dtype=F64)), ValueError, "evaluate: support is empty"),
]


@pytest.mark.parametrize("which", range(len(WRONG)))
def test_wrong_tasks_are_named(which: int) -> None:
    make, kind, sentence = WRONG[which]
    with pytest.raises(kind, match=sentence):
        evaluate(LEARNER, make())


def test_evaluation_plots_its_means_with_their_margins(axes) -> None:
    found = evaluate(LEARNER, draw, n=20)
    assert found.plot(axes) is axes
    data = axes.containers[0].lines[0].get_xydata()
    assert data[:, 0].tolist() == [0, 1, 2, 3] and data[:, 1].tolist() == pytest.approx(found.mean.tolist())
    assert axes.get_xlabel() == "inner steps" and axes.get_legend_handles_labels()[1] == ["MAML"]
    own = found.plot()
    plt.close(own.figure)
    assert own is not axes


# Trained.


def test_adapt_is_the_inner_loop_without_gradient(trained: Trained) -> None:
    support = draw(1, seeded(4)).support[0]
    for steps in (None, 0, 1, 7):
        found = trained.adapt(support, steps)
        truth = adapt(line, sgd(0.1), trained.meta, support, 3 if steps is None else steps)
        for name, value in truth.items():
            assert torch.equal(found[name], value)
            assert not found[name].requires_grad and found[name].grad_fn is None
    with torch.enable_grad():
        loose = trained.learner._replace(
            meta=Meta({name: value.clone().requires_grad_() for name, value in trained.meta.init.items()}, {})
        )
        found = Trained(loose, trained.history, trained.best_step).adapt(support)
    assert not any(value.requires_grad for value in found.values())
    assert torch.equal(found["a"], trained.adapt(support)["a"])


def test_a_point_that_was_adapted_is_no_view_of_the_start(trained: Trained) -> None:
    before = trained.meta.init["a"].clone()
    trained.adapt(draw(1, seeded(4)).support[0], 0)["a"].add_(1.0)
    assert torch.equal(trained.meta.init["a"], before)


def test_what_was_saved_adapts_as_what_was_trained(trained: Trained, tmp_path) -> None:
    again = load_meta(maml(line, LINE, lr=0.1, steps=3), trained.save(tmp_path / "model"))
    batch = draw(5, seeded(4))
    assert torch.equal(evaluate(again, batch).losses, evaluate(trained, batch).losses)


def test_the_table_of_a_run_tells_its_losses(trained: Trained) -> None:
    lines = str(trained).splitlines()
    assert lines[0] == "MAML, 3 inner steps, after 40 outer steps"
    history = trained.history
    assert lines[1].split()[-1] == f"{history['loss'].iloc[0]:.4g}"
    assert "mean of last 2" in lines[2] and lines[2].split()[-1] == f"{history['loss'].tail(2).mean():.4g}"
    assert f"{history['validation'].min():.4g} (step {trained.best_step}, kept)" in lines[3]
    assert list(history.columns) == ["step", "loss", "validation"]


def test_the_table_of_a_run_without_validation_says_nothing_of_it() -> None:
    alone = meta_train(reptile(line, LINE, lr=0.1), draw, steps=3, tasks_per_step=2, generator=seeded())
    assert "validation" not in str(alone) and str(alone).startswith("Reptile, 5 inner steps, after 3 outer steps")


def test_a_run_plots_its_losses_and_what_was_kept(trained: Trained, axes) -> None:
    assert trained.plot(axes) is axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["each step", "median of 1", "validation", "kept"]
    assert axes.lines[0].get_ydata().tolist() == trained.history["loss"].tolist()
    assert axes.lines[2].get_xdata().tolist() == [10, 20, 30, 40]
    assert axes.get_yscale() == "log" and axes.get_title() == "MAML"


def test_losses_below_zero_are_plotted_on_a_linear_scale(axes) -> None:
    def below(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return line(params, x) - 9

    run = meta_train(maml(below, LINE, lr=0.1), draw, steps=3, tasks_per_step=2, generator=seeded())
    assert run.plot(axes).get_yscale() == "linear"


def test_rates_that_were_learned_come_back_with_the_start() -> None:
    run = meta_train(meta_sgd(line, LINE, lr=0.1), draw, steps=5, tasks_per_step=2, lr=0.01, generator=seeded())
    assert run.meta.rule.keys() == LINE.keys()
    assert not torch.equal(run.meta.rule["a"], torch.full((2,), 0.1, dtype=F64))
    support = draw(1, seeded(4)).support[0]
    grads = torch.func.grad(line)(run.meta.init, support)
    for name, value in run.adapt(support).items():
        torch.testing.assert_close(
            value, run.meta.init[name] - run.meta.rule[name] * grads[name], rtol=1e-13, atol=1e-15
        )


def test_a_metric_that_is_no_number_is_refused_and_a_truth_value_counts() -> None:
    with pytest.raises(TypeError, match="a metric returns one number for one task"):
        evaluate(LEARNER, draw, n=3, metric=lambda params, data: torch.ones(2))
    found = evaluate(LEARNER, draw, n=3, metric=lambda params, data: params["a"].sum() > -1e9)
    assert found.losses.unique().tolist() == [1.0]
    with pytest.raises(ValueError, match="steps is 0 or more"):
        evaluate(LEARNER, draw, n=3, steps=-1)


def test_training_goes_on_from_an_earlier_result(trained: Trained) -> None:
    again = meta_train(trained, draw, steps=2, generator=seeded(1))
    assert torch.equal(
        again.meta.init["a"], meta_train(trained.learner, draw, steps=2, generator=seeded(1)).meta.init["a"]
    )
    with pytest.raises(TypeError, match="learner is what maml and the like return"):
        meta_train(lambda: None, draw, steps=2, generator=seeded(1))
