"""The measured bias and variance of the quick start against closed forms, enumeration and a plain loop."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
import torch
from torch import Tensor

from scimeta import analytic
from scimeta.analytic import Bowls
from scimeta.core.learners import MetaLearner, maml, meta_sgd
from scimeta.core.rules import momentum
from scimeta.core.tasks import Params, Task, select_tasks
from scimeta.core.trained import Trained
from scimeta.diagnostics.quick_start import QuickStartErrors, SupportSampler, quick_start

F64 = torch.float64
THETA = torch.tensor([0.4, -1.1, 0.7], dtype=F64)
NOISE = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 2.0]], dtype=F64)  # of one example's gradient
LR, SHOTS, STEPS = 0.13, (1, 3, 8), (0, 1, 2, 7)


def bowls(tasks: int, dim: int = 3, seed: int = 0) -> Bowls:
    g = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(tasks, dim, dim, generator=g, dtype=F64))[0]
    values = 0.25 + 4.5 * torch.rand(tasks, 1, dim, generator=g, dtype=F64)
    return Bowls((axes * values) @ axes.mT, torch.randn(tasks, dim, generator=g, dtype=F64))


def tilted(params: Params, support: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A bowl whose gradient is off by the mean of its examples' errors (shots, dim)."""
    curvature, centre, errors = support
    return analytic.loss(params, (curvature, centre)) + errors.mean(0) @ params["theta"]


def tilts(many: Bowls, noise: Tensor) -> SupportSampler:
    root = torch.linalg.cholesky(noise)

    def draw(shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tasks, dim = many.centre.shape
        return *many, torch.randn(tasks, shots, dim, generator=generator, dtype=F64) @ root.mT

    return draw


def seeded(seed: int = 77) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_bowls(many: Bowls, **settings: object) -> QuickStartErrors:
    learner = maml(tilted, {"theta": THETA}, lr=LR, query_loss=analytic.loss)
    draw = tilts(many, NOISE)
    settings = {"shots": SHOTS, "steps": STEPS, "repeats": 10} | settings
    return quick_start(learner, Task(draw(1, seeded(9)), many), draw=draw, generator=seeded(), **settings)


def assert_within_errors(measured: Tensor, truth: Tensor) -> None:
    """Four standard errors, over the tasks, of the mean difference; and these must be below 3 % of the truth."""
    difference = measured - truth
    std_error = difference.std() / len(difference) ** 0.5
    assert std_error <= 0.03 * truth.mean()
    assert difference.mean().abs() <= 4 * std_error + 1e-12


def test_bias_and_variance_on_bowls_are_those_of_the_closed_form() -> None:
    many = bowls(1500)
    found = on_bowls(many)
    for (i, shots), (j, steps) in itertools.product(enumerate(SHOTS), enumerate(STEPS[1:], 1)):
        truth = analytic.quick_start(many, THETA, NOISE, lr=LR, steps=steps, shots=shots)
        assert_within_errors(found.bias[i, j], truth.bias)
        assert_within_errors(found.variance[i, j], truth.variance)


def test_before_the_first_step_all_is_bias() -> None:
    many = bowls(5)
    found = on_bowls(many, steps=(0, 1))
    start = analytic.loss({"theta": THETA}, many)
    torch.testing.assert_close(found.bias[:, 0], start.expand(3, 5), rtol=1e-12, atol=0.0)
    assert found.variance[:, 0].abs().max() < 1e-12 and found.variance[:, 1].min() > 1e-4


def test_the_best_number_of_steps_is_that_of_the_closed_form() -> None:
    many, counts = bowls(300, seed=3), tuple(range(25))
    best = on_bowls(many, steps=counts, repeats=20).best
    for row in best.itertuples():
        truth = analytic.best_steps(many, THETA, NOISE, lr=LR, shots=row.shots, max_steps=24)
        assert row.lowest <= truth <= row.highest
        assert row.highest - row.lowest <= 8
    assert best["steps"].is_monotonic_increasing and best["steps"].iloc[0] < best["steps"].iloc[-1]


def regression(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return 0.5 * (x @ params["theta"] - y).square().mean()


def miss(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return x @ params["theta"] - y


def regressions(many: Bowls, sd: float) -> SupportSampler:
    root = torch.linalg.cholesky(many.curvature)

    def draw(shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tasks, dim = many.centre.shape
        x = torch.randn(tasks, shots, dim, generator=generator, dtype=F64) @ root.mT
        noise = sd * torch.randn(tasks, shots, generator=generator, dtype=F64)
        return x, (x @ many.centre[..., None])[..., 0] + noise

    return draw


def test_few_shot_regression_has_the_closed_forms_error_when_inputs_are_drawn_too() -> None:
    """The step's bias is that of the mean gradient; what the inputs add to the meta-loss is variance."""
    many, sd, lr = bowls(1500), 0.5, 0.1
    learner = maml(regression, {"theta": THETA}, lr=lr, query_loss=analytic.loss)
    draw = regressions(many, sd)
    found = quick_start(learner, Task(draw(3, seeded(1)), many), draw=draw, shots=(1, 4), steps=(1,), repeats=30)
    for i, shots in enumerate((1, 4)):
        silent = torch.zeros(3, 3, dtype=F64)
        bias = analytic.quick_start(many, THETA, silent, lr=lr, shots=shots).bias
        seen = analytic.loss({"theta": THETA}, analytic.few_shot_maml(many, lr=lr, shots=shots))
        floor = 0.5 * lr**2 * sd**2 * (many.curvature**2).sum((-2, -1)) / shots
        assert_within_errors(found.bias[i, 0], bias)
        assert_within_errors(found.error[i, 0], seen + floor)


def test_a_linear_prediction_splits_alike_by_residuals_and_by_the_loss() -> None:
    many = bowls(6)
    draw = regressions(many, 0.5)
    learner = maml(regression, {"theta": THETA}, lr=0.05)
    tasks = Task(draw(3, seeded(1)), draw(7, seeded(2)))
    options = {"draw": draw, "shots": (2, 5), "steps": (0, 1, 4), "repeats": 6}
    by_loss = quick_start(learner, tasks, generator=seeded(), **options)
    by_residuals = quick_start(learner, tasks, residuals=miss, generator=seeded(), **options)
    torch.testing.assert_close(by_residuals.bias, 2 * by_loss.bias, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by_residuals.variance, 2 * by_loss.variance, rtol=1e-10, atol=1e-12)
    assert (by_loss.quantity, by_residuals.quantity) == ("query loss", "squared error")


def test_noise_in_the_querys_targets_adds_its_variance_to_the_bias_alone() -> None:
    many = bowls(40)
    draw = regressions(many, 0.5)
    learner = maml(regression, {"theta": THETA}, lr=0.05)
    x, y = regressions(many, 0.0)(500, seeded(2))
    noise = 0.7 * torch.randn(y.shape, generator=seeded(3), dtype=F64)
    clean, noisy = (
        quick_start(learner, Task(draw(3, seeded(1)), (x, target)), draw=draw, residuals=miss, shots=(20,), steps=(20,))
        for target in (y, y + noise)
    )
    torch.testing.assert_close(noisy.variance, clean.variance, rtol=1e-10, atol=1e-12)
    added = noisy.bias - clean.bias
    assert_within_errors(added.mean((0, 1)), torch.full((40,), 0.49, dtype=F64))


def mean_square(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return (predicted(params, x) - y).square().mean()


def predicted(params: Params, x: Tensor) -> Tensor:
    return torch.tanh(x @ params["in"]) @ params["out"]


def network(tasks: int = 4) -> tuple[MetaLearner, Task, SupportSampler]:
    def draw(shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(tasks, shots, 2, generator=generator, dtype=F64)
        return x, x.sum(-1).sin()

    g = seeded(5)
    params = {
        "in": torch.randn(2, 6, generator=g, dtype=F64),
        "out": torch.randn(6, generator=g, dtype=F64),
    }
    return maml(mean_square, params, rule=momentum(0.05), steps=3), Task(draw(9, g), draw(5, g)), draw


def residuals(params: Params, data: tuple[Tensor, Tensor]) -> Tensor:
    return predicted(params, data[0]) - data[1]


def test_one_batch_gives_the_numbers_of_a_plain_loop() -> None:
    learner, tasks, draw = network()
    sets = []

    def kept(shots: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sets.append(draw(shots, generator))
        return sets[-1]

    found = quick_start(learner, tasks, draw=kept, shots=(3,), steps=(0, 1, 4), repeats=5, residuals=residuals)
    for task, (index, count) in itertools.product(range(4), enumerate((0, 1, 4))):
        query = select_tasks(tasks.query, task)
        ends = [learner.adapt(learner.meta, select_tasks(support, task), count) for support in sets]
        errors = torch.stack([residuals(end, query) for end in ends])  # (repeats, points)
        variance = ((errors - errors.mean(0)) ** 2).sum(0).mean() / 4
        torch.testing.assert_close(found.variance[0, index, task], variance, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found.error[0, index, task], (errors**2).mean(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [1, 7, 12])
@pytest.mark.parametrize("judge", [None, residuals], ids=["loss", "residuals"])
def test_chunks_change_nothing(chunk_size: int, judge: object) -> None:
    learner, tasks, _ = network()
    options = {"shots": (2, 5), "steps": (0, 2), "repeats": 5, "residuals": judge}
    whole = quick_start(learner, tasks, **options)
    parts = quick_start(learner, tasks, chunk_size=chunk_size, **options)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(parts.variance, whole.variance, rtol=1e-10, atol=1e-13)


def test_sets_drawn_from_a_pool_have_the_mean_and_variance_of_all_subsets() -> None:
    """Ten subsets of two out of five examples, one step: the exact average over them, in 400 copies of one task."""
    pool = torch.tensor([-1.0, 0.5, 2.0, 2.5, 7.0], dtype=F64)

    def loss(params: Params, x: Tensor) -> Tensor:
        return 0.5 * (params["a"] - x).square().mean()

    learner = maml(loss, {"a": torch.tensor(1.0, dtype=F64)}, lr=0.4)
    tasks = Task(pool.expand(400, 5), torch.zeros(400, 1, dtype=F64))
    found = quick_start(learner, tasks, shots=(2,), steps=(1,), repeats=20)
    ends = torch.stack([1.0 - 0.4 * (1.0 - pool[list(pair)].mean()) for pair in itertools.combinations(range(5), 2)])
    assert_within_errors(found.bias[0, 0], 0.5 * ends.mean().square().expand(400))
    assert_within_errors(found.variance[0, 0], 0.5 * ends.var(correction=0).expand(400))


def test_a_drawn_set_holds_no_example_twice_and_grows_with_the_shots() -> None:
    seen: list[Tensor] = []

    def loss(params: Params, x: Tensor) -> Tensor:
        return 0.5 * (params["a"] - x.exp().sum(-1)).square()  # 2^i summed: the sum tells which examples are in

    learner = maml(loss, {"a": torch.tensor(0.0, dtype=F64)}, lr=1.0)
    pool = (torch.arange(6, dtype=F64) * torch.tensor(2.0, dtype=F64).log()).expand(3, 6)

    def watch(params: Params, _: Tensor) -> Tensor:
        return params["a"]

    for shots in ((1,), (4,)):
        found = quick_start(learner, Task(pool, pool), shots=shots, steps=(1,), repeats=2, residuals=watch)
        # Of two repeats, the mean and the difference of the two sums follow from error and variance.
        mean = (found.error - found.variance / 2).sqrt()[0, 0]
        half = (found.variance / 2).sqrt()[0, 0]
        seen.append(torch.stack([mean - half, mean + half]).round().long())  # (2, tasks), unordered
    ones, fours = seen
    assert all(bin(int(one)).count("1") == 1 for one in ones.flatten())
    assert all(bin(int(four)).count("1") == 4 for four in fours.flatten())
    for one, four in zip(ones.T.tolist(), fours.T.tolist(), strict=True):
        straight = all(a & b for a, b in zip(one, four, strict=True))
        crossed = all(a & b for a, b in zip(one, reversed(four), strict=True))
        assert straight or crossed


def test_tasks_drawn_with_seed_0_do_not_share_their_chance_with_the_support_sets() -> None:
    """Were the default generator seeded with 0 as well, every support set would be its task's own random numbers."""
    centre = torch.randn(4000, 1, generator=seeded(0), dtype=F64)
    many = Bowls(torch.ones(4000, 1, 1, dtype=F64), centre)
    draw = tilts(many, torch.ones(1, 1, dtype=F64))
    learner = maml(tilted, {"theta": torch.zeros(1, dtype=F64)}, lr=0.5, query_loss=analytic.loss)
    found = quick_start(learner, Task(draw(1, seeded(1)), many), draw=draw, shots=(1,), steps=(1,), repeats=2)
    assert_within_errors(found.error[0, 0], 0.125 * (centre[:, 0] ** 2 + 1))


def test_the_same_generator_gives_the_same_numbers_and_another_one_others() -> None:
    learner, tasks, _ = network()
    first, again, other = (
        quick_start(learner, tasks, shots=(2,), steps=(2,), repeats=4, generator=seeded(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first.variance, again.variance) and not torch.equal(first.variance, other.variance)


def test_what_meta_train_returns_is_measured_like_its_learner() -> None:
    learner, tasks, _ = network()
    trained = Trained(learner, pd.DataFrame({"step": [1], "loss": [1.0], "validation": [float("nan")]}), 1)
    options = {"shots": (2,), "steps": (2,), "repeats": 4}
    assert torch.equal(quick_start(trained, tasks, **options).error, quick_start(learner, tasks, **options).error)


def test_steps_beyond_those_of_a_learned_rule_are_guarded_here_too() -> None:
    learner, tasks, _ = network()
    wild = meta_sgd(mean_square, learner.meta.init, lr=5.0)
    found = quick_start(wild, tasks, shots=(5,), steps=(1, 30), repeats=4)
    fixed = quick_start(maml(mean_square, learner.meta.init, lr=5.0), tasks, shots=(5,), steps=(1, 30), repeats=4)
    assert torch.equal(found.error[:, 0], fixed.error[:, 0])
    assert found.error[:, 1].mean() < 0.1 * fixed.error[:, 1].mean()


def test_an_adaptation_that_overflows_is_infinite_and_never_best() -> None:
    def loss(params: Params, x: Tensor) -> Tensor:
        return (params["a"] - x).pow(4).mean()

    learner = maml(loss, {"a": torch.tensor(0.0)}, lr=1.0)
    found = quick_start(learner, Task(torch.randn(3, 9, generator=seeded()), torch.zeros(3, 1)), repeats=4, shots=(2,))
    assert found.error[0, -1].isinf().all() and found.error[0, 0].isfinite().all()
    assert found.best["steps"].tolist() == [0] and "inf" in str(found)


def simple_result() -> QuickStartErrors:
    """Two shots, three steps, four tasks: known means and standard errors."""
    swing = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=F64)
    bias = torch.tensor([[4.0, 1.0, 0.5], [4.0, 1.0, 0.25]], dtype=F64)[..., None] + 0.1 * swing
    variance = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, 0.75]], dtype=F64)[..., None].repeat(1, 1, 4)
    variance[1, 1] += 0.5 * swing  # alone in swinging so, against its neighbours
    return QuickStartErrors("MAML", "query loss", (1, 5), (0, 1, 4), 10, bias, variance)


def test_the_best_row_lists_the_steps_that_cannot_be_told_from_it() -> None:
    best = simple_result().best.set_index("shots")
    assert best.loc[1, ["steps", "lowest", "highest"]].tolist() == [1, 1, 1]  # 2.0 against 2.5 on the same tasks
    assert best.loc[5, ["steps", "lowest", "highest"]].tolist() == [4, 1, 4]  # 1.0 against 1.5 +- 0.3
    assert best.loc[1, "error"] == pytest.approx(2.0)
    assert best.loc[1, "error_se"] == pytest.approx(0.1 * (4 / 3) ** 0.5 / 2)


def test_the_table_has_a_row_for_every_shot_and_step_and_its_parts_add_up() -> None:
    frame = simple_result().to_frame()
    assert list(zip(frame["shots"], frame["steps"], strict=True)) == list(itertools.product((1, 5), (0, 1, 4)))
    assert (frame["bias"] + frame["variance"]).tolist() == pytest.approx(frame["error"].tolist())
    assert frame["bias_se"].tolist() == pytest.approx([0.1 * (4 / 3) ** 0.5 / 2] * 6)


def test_the_text_names_what_was_measured_and_marks_the_least() -> None:
    text = str(simple_result())
    lines = text.splitlines()
    assert lines[0] == "MAML: query loss, 4 tasks, 10 support sets of each"
    assert len(lines) == 9 and sum("least" in line for line in lines) == 2
    assert lines[-1].startswith("best of all: 5 shots")


def test_the_plot_goes_onto_the_axes_given() -> None:
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots()
    assert simple_result().plot(ax) is ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("inner steps", "query loss")
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["1 shot", "5 shots", "error", "bias", "variance"]
    plt.close(figure)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": (9,)}, "9 shots of 9 examples leave no choice"),
        ({"shots": (0, 1)}, r"shots are different integers from 1 up; got \(0, 1\)"),
        ({"shots": ()}, "shots are different integers"),
        ({"steps": (1, 1)}, "steps are different integers from 0 up"),
        ({"steps": (1.5,)}, "steps are different integers from 0 up"),
        ({"repeats": 1}, "repeats is 2 or more, a variance needs two support sets; got 1"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(settings: dict[str, object], message: str) -> None:
    learner, tasks, _ = network()
    with pytest.raises(ValueError, match=message):
        quick_start(learner, tasks, **({"shots": (2,)} | settings))


def test_one_task_alone_is_refused() -> None:
    learner, tasks, _ = network(1)
    with pytest.raises(ValueError, match="got one task, of which there is no standard error"):
        quick_start(learner, tasks)


def test_a_support_without_an_axis_of_examples_asks_for_draw() -> None:
    many = bowls(4)
    learner = maml(analytic.loss, {"theta": THETA}, lr=0.1)
    ragged = Task(Bowls(many.curvature, many.centre[:, :3]), many)
    pooled = maml(lambda p, d: (p["a"] - d).square(), {"a": torch.tensor(0.0)}, lr=0.1)
    with pytest.raises(ValueError, match=r"leave no choice"):
        quick_start(learner, ragged, shots=(3,))
    with pytest.raises(ValueError, match=r"the first axes are \(4,\)\. Pass draw="):
        quick_start(pooled, Task(torch.ones(4), torch.ones(4)))


def test_a_sampler_for_other_tasks_is_refused() -> None:
    learner, tasks, _ = network(4)
    with pytest.raises(ValueError, match="2 shots: the first axis is the tasks' and differs"):
        quick_start(learner, tasks, draw=network(3)[2], shots=(2,))
