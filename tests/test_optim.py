"""A rule as a torch optimiser on a user's own module, and rules as files that run no code."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scimeta import optim
from scimeta.core.controller_rule import controller
from scimeta.core.learned_rule import coordinate_lstm, coordinate_mlp
from scimeta.core.learners import maml
from scimeta.core.rules import Rule, adam, learned_rates, momentum, sgd
from scimeta.core.tasks import Task
from scimeta.core.train import meta_train
from scimeta.optim import LearnedOptimizer, load_rule, rule_of, save_rule

X = torch.linspace(-1, 1, 12)[:, None]
Y = torch.sin(3 * X)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def loss(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    return ((model(X.to(dtype)) - Y.to(dtype)) ** 2).mean()


def closure(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    def evaluate() -> Tensor:
        optimizer.zero_grad()
        value = loss(model)
        value.backward()
        return value

    return evaluate


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    return [optimizer.step(closure(model, optimizer)).item() for _ in range(steps)]


def cell(units: int = 3, scale: float = 0.1) -> Rule:
    """A rule with a memory for every element: a tanh cell of so many units, scaled by a learned rate."""
    generator = torch.Generator().manual_seed(1)
    learned = {"in": scale * torch.randn(units, generator=generator), "rate": torch.tensor(0.1)}

    def init(params: dict[str, Tensor]) -> tuple:
        count = next(iter(params.values())).new_zeros((), dtype=torch.float64)
        return {name: value.new_zeros(*value.shape, units) for name, value in params.items()}, count

    def update(learned: dict, grads: dict, state: tuple, params: dict) -> tuple:
        memory, count = state
        memory = {n: torch.tanh(0.9 * memory[n] + grads[n][..., None] * learned["in"]) for n in params}
        moved = {n: p - learned["rate"] * (grads[n] + memory[n].mean(-1)) for n, p in params.items()}
        return moved, (memory, count + 1)

    return Rule(learned, init, update)


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optim._KINDS, "cell", cell)


class TestSteps:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_adam_as_a_rule_is_adam(self, dtype):
        ours, theirs = network(dtype), network(dtype)
        train(ours, LearnedOptimizer(ours.parameters(), adam(0.02, eps=1e-16)), 30)
        train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.02, eps=1e-8), 30)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-6
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)

    def test_momentum_as_a_rule_is_momentum(self):
        ours, theirs = network(torch.float64), network(torch.float64)
        train(ours, LearnedOptimizer(ours.named_parameters(), momentum(0.05)), 20)
        train(theirs, torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9), 20)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_learned_rule_lowers_the_loss_of_a_users_module(self):
        model = network()
        losses = train(model, LearnedOptimizer(model.parameters(), cell()), 400)
        assert losses[-1] < 0.5 * losses[0]

    def test_what_meta_train_returned_is_a_rule(self):
        def bowl(params: dict[str, Tensor], x: Tensor) -> Tensor:
            return ((params["a"] - x) ** 2).sum()

        def draw(number: int, generator: torch.Generator) -> Task:
            x = torch.randn(number, generator=generator)
            return Task(x, x)

        learner = maml(bowl, {"a": torch.zeros(1)}, rule=learned_rates({"a": torch.zeros(1)}, 0.1))
        trained = meta_train(learner, draw, steps=40, lr=0.02, generator=torch.Generator().manual_seed(0))
        assert rule_of(trained).params["a"] > 0.2
        point = nn.Parameter(torch.tensor([3.0]))
        optimizer = LearnedOptimizer([("a", point)], trained)
        (point**2).sum().backward()
        optimizer.step()
        torch.testing.assert_close(point.detach(), 3 - 6 * trained.meta.rule["a"])

    def test_a_part_of_each_step_is_a_smaller_rate_and_schedulers_set_it(self):
        ours, theirs = network(torch.float64), network(torch.float64)
        pair = LearnedOptimizer(ours.parameters(), sgd(0.1), lr=0.5), torch.optim.SGD(theirs.parameters(), lr=0.05)
        schedulers = [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in pair]
        for _ in range(10):
            for model, optimizer in zip((ours, theirs), pair, strict=True):
                train(model, optimizer, 1)
            for scheduler in schedulers:
                scheduler.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other)

    def test_a_parameter_without_gradient_stays_and_is_no_error(self):
        model = network()
        frozen = model[2].weight.requires_grad_(False)
        unused = nn.Parameter(torch.ones(3))
        before = frozen.clone()
        optimizer = LearnedOptimizer([*model.parameters(), unused], momentum(0.1))
        train(model, optimizer, 5)
        assert frozen.equal(before) and unused.equal(torch.ones(3)) and not model[0].weight.equal(network()[0].weight)

    def test_one_that_had_a_gradient_and_has_none_any_more_rests(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), momentum(0.1))
        train(model, optimizer, 3)
        before = model[0].weight.detach().clone()
        loss(model).backward()
        model[0].weight.grad = None
        optimizer.step()
        assert model[0].weight.equal(before)

    def test_without_any_gradient_nothing_happens(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell())
        assert optimizer.step() is None and not optimizer.state
        assert all(one.equal(other) for one, other in zip(model.parameters(), network().parameters(), strict=True))

    def test_a_zero_gradient_moves_nothing(self):
        for rule in (cell(), adam(0.1), momentum(0.1)):
            point = nn.Parameter(torch.tensor([1.0, -2.0]))
            optimizer = LearnedOptimizer([point], rule, guard=sgd(0.1))

            def flat(point: nn.Parameter = point) -> Tensor:
                value = (0 * point).sum()
                value.backward()
                return value

            optimizer.step(flat)
            assert point.tolist() == [1.0, -2.0]

    def test_an_ordinary_loop_without_closure_is_the_same(self):
        one, other = network(), network()
        train(one, LearnedOptimizer(one.parameters(), cell()), 3)
        optimizer = LearnedOptimizer(other.parameters(), cell())
        for _ in range(3):
            optimizer.zero_grad()
            loss(other).backward()
            optimizer.step()
        assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class TestCopies:
    def test_a_deep_copy_goes_on_alike(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell(), guard=sgd(0.1))
        train(model, optimizer, 2)
        again, other = copy.deepcopy((model, optimizer))
        assert train(model, optimizer, 3) == train(again, other, 3)


class TestGroups:
    def test_each_group_is_a_problem_of_its_own(self):
        model = network()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
        optimizer = LearnedOptimizer(groups, cell())
        train(model, optimizer, 2)
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5] and len(optimizer.state) == 2

    def test_a_group_that_is_added_later_starts_at_its_first_step(self):
        model = network()
        optimizer = LearnedOptimizer(model[0].parameters(), cell())
        train(model, optimizer, 3)
        optimizer.add_param_group({"params": model[2].parameters()})
        train(model, optimizer, 1)
        counts = [optimizer.state[group["params"][0]]["rule"][-1].item() for group in optimizer.param_groups]
        assert counts == [4.0, 1.0]

    def test_types_may_differ_between_groups_and_not_within_one(self):
        points = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))
        optimizer = LearnedOptimizer([{"params": [point]} for point in points], cell())
        sum((point.double() ** 2).sum() for point in points).backward()
        optimizer.step()
        assert [point.dtype for point in points] == [torch.float32, torch.float64]
        with pytest.raises(ValueError, match=r"float32 on cpu \('0'\), float64 on cpu \('1'\).*group of its own"):
            LearnedOptimizer(points, cell())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
    def test_other_types_are_refused(self, dtype):
        with pytest.raises(ValueError, match="one type, float32 or float64"):
            LearnedOptimizer([nn.Parameter(torch.ones(2, dtype=dtype))], cell())

    def test_a_group_that_is_refused_is_not_added(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell())
        for wrong in ([nn.Parameter(torch.ones(2).half())], []):
            with pytest.raises(ValueError, match="LearnedOptimizer"):
                optimizer.add_param_group({"params": wrong})
        assert len(optimizer.param_groups) == 1
        train(model, optimizer, 1)

    def test_a_rule_made_for_other_shapes_is_named(self):
        with pytest.raises(ValueError, match=r"does not fit the parameters 0.weight \(8, 1\).*KeyError"):
            LearnedOptimizer(network().named_parameters(), learned_rates({"w": torch.ones(3)}, 0.1))
        with pytest.raises(ValueError, match=r"does not fit the parameters w \(2,\)"):
            LearnedOptimizer([("w", nn.Parameter(torch.ones(2)))], learned_rates({"w": torch.ones(3)}, 0.1))
        with pytest.raises(ValueError, match=r"does not fit.*other shapes"):
            LearnedOptimizer([("w", nn.Parameter(torch.ones(1)))], learned_rates({"w": torch.ones(3)}, 0.1))


class TestGuard:
    def test_a_rule_that_climbs_is_replaced_and_the_loss_never_rises(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), sgd(-0.1), guard=momentum(0.5))
        losses = train(model, optimizer, 40)
        assert all(b <= a for a, b in pairwise(losses)) and losses[-1] < 0.7 * losses[0]

    def test_a_rule_that_goes_to_infinity_never_gets_there(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), sgd(float("inf")), guard=sgd(0.1))
        losses = train(model, optimizer, 10)
        assert losses[-1] < losses[0] and all(torch.isfinite(p).all() for p in model.parameters())

    def test_a_good_rule_is_not_touched(self):
        guarded, free = network(), network()
        train(guarded, LearnedOptimizer(guarded.parameters(), cell(), guard=sgd(10.0)), 20)
        losses = train(free, LearnedOptimizer(free.parameters(), cell()), 20)
        assert all(b <= a for a, b in pairwise(losses))
        assert all(a.equal(b) for a, b in zip(guarded.parameters(), free.parameters(), strict=True))

    def test_where_nothing_helps_nothing_moves(self):
        model = network()
        before = copy.deepcopy(model.state_dict())
        train(model, LearnedOptimizer(model.parameters(), sgd(-0.1), guard=sgd(-0.1)), 2)
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())

    def test_after_a_step_is_taken_back_the_rule_starts_anew(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), momentum(-0.1), guard=momentum(0.1))
        train(model, optimizer, 1)
        assert set(optimizer.state[model[0].weight]) == {"guard"}

    @pytest.mark.parametrize(("call", "words"), [((), "call step"), ((lambda: None,), "returns the loss")])
    def test_it_needs_a_closure_that_returns_the_loss(self, call, words):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell(), guard=sgd(0.1))
        loss(model).backward()
        with pytest.raises(ValueError, match=words):
            optimizer.step(*call)

    def test_a_loss_that_is_not_finite_before_the_step_is_said(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell(), guard=sgd(0.1))
        loss(model).backward()
        with pytest.raises(FloatingPointError, match="the loss is nan before the step"):
            optimizer.step(lambda: torch.tensor(torch.nan))


class TestGradients:
    @pytest.mark.parametrize("bad", [torch.nan, torch.inf])
    @pytest.mark.parametrize("named", [False, True])
    def test_one_that_is_not_finite_is_named_and_nothing_moves(self, bad, named):
        model = network()
        optimizer = LearnedOptimizer(model.named_parameters() if named else model.parameters(), cell())
        train(model, optimizer, 2)
        before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])
        loss(model).backward()
        model[2].weight.grad[0, 3] = bad
        with pytest.raises(FloatingPointError, match=f"gradient of '{'2.weight' if named else 2}' has 1 of 8 values"):
            optimizer.step()
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
        assert str(optimizer.state_dict()["state"]) == str(state)

    def test_sparse_ones_are_refused(self):
        table = nn.Embedding(4, 2, sparse=True)
        optimizer = LearnedOptimizer(table.named_parameters(), cell())
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(ValueError, match="gradient of 'weight' is sparse"):
            optimizer.step()


KINDS = {
    "coordinate_lstm": (coordinate_lstm, {"hidden": 6, "step": 0.05}),
    "coordinate_mlp": (coordinate_mlp, {"hidden": 6, "step": 0.05}),
    "controller": (controller, {"memory": (3.0, 10.0), "hidden": 5}),
}


@pytest.mark.parametrize("kind", KINDS)
class TestOurKinds:
    """The rules that come with the package, as they are before any training."""

    def make(self, kind: str) -> Rule:
        return KINDS[kind][0](**KINDS[kind][1])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_they_move_a_users_module_and_go_on_from_a_saved_state(self, kind, dtype):
        model = network(dtype)
        optimizer = LearnedOptimizer(model.parameters(), self.make(kind), guard=sgd(0.1))
        losses = train(model, optimizer, 30)
        assert losses[-1] < 0.9 * losses[0] and next(model.parameters()).dtype == dtype
        again, stored = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
        other = LearnedOptimizer(again.parameters(), self.make(kind), guard=sgd(0.1))
        other.load_state_dict(stored)
        assert train(model, optimizer, 3) == train(again, other, 3)

    def test_they_move_nothing_at_an_optimum(self, kind):
        point = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = LearnedOptimizer([point], self.make(kind))
        for _ in range(3):
            point.grad = torch.zeros(2)
            optimizer.step()
        assert point.tolist() == [1.0, -2.0]

    def test_they_come_back_from_a_file_to_the_bit(self, kind, tmp_path):
        rule = self.make(kind)
        rule = rule._replace(params={name: value + 0.01 for name, value in rule.params.items()})
        again = load_rule(save_rule(rule, tmp_path / "rule.safetensors", kind=kind, sizes=KINDS[kind][1]))
        assert all(again.params[name].equal(value) for name, value in rule.params.items())
        one, other = network(), network()
        assert train(one, LearnedOptimizer(one.parameters(), rule), 3) == train(
            other, LearnedOptimizer(other.parameters(), again), 3
        )


class TestState:
    @pytest.mark.parametrize("guard", [None, momentum(0.1)])
    def test_saved_and_loaded_it_goes_on_bit_by_bit(self, guard):
        """With a count in float64 beside float32 parameters, through a file that is read without unpickling."""
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell(), guard=guard)
        train(model, optimizer, 3)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        train(model, optimizer, 4)
        file.seek(0)
        stored = torch.load(file, weights_only=True)
        again = network(seed=5)
        again.load_state_dict(stored["model"])
        other = LearnedOptimizer(again.parameters(), cell(), guard=guard)
        other.load_state_dict(stored["optimizer"])
        kept = other.state[again[0].weight]["rule"]
        assert kept[-1].dtype == torch.float64 and kept[-1] == 3
        train(again, other, 4)
        assert all(a.equal(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    def test_a_loaded_state_is_a_copy(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell())
        train(model, optimizer, 2)
        stored = optimizer.state_dict()
        count = stored["state"][0]["rule"][-1].clone()
        LearnedOptimizer(model.parameters(), cell()).load_state_dict(stored)
        train(model, optimizer, 1)
        assert count == 2 and optimizer.state_dict()["state"][0]["rule"][-1] == 3

    def test_the_state_of_another_rule_is_refused_and_nothing_is_loaded(self):
        model = network()
        optimizer, other = (LearnedOptimizer(model.parameters(), cell(units)) for units in (3, 4))
        train(model, optimizer, 1)
        with pytest.raises(ValueError, match=r"not one of this rule.*\(8, 1, 3\).*\(8, 1, 4\)"):
            other.load_state_dict(optimizer.state_dict())
        assert not other.state

    def test_the_state_of_another_optimiser_is_refused(self):
        model = network()
        theirs = torch.optim.Adam(model.parameters())
        train(model, theirs, 1)
        with pytest.raises(ValueError, match="another optimiser's; it holds step, exp_avg"):
            LearnedOptimizer(model.parameters(), cell()).load_state_dict(theirs.state_dict())

    def test_a_state_of_other_groups_is_refused(self):
        model = network()
        optimizer = LearnedOptimizer(model.parameters(), cell())
        fewer = LearnedOptimizer(model[0].parameters(), cell())
        with pytest.raises(ValueError, match="size of optimizer's group"):
            fewer.load_state_dict(optimizer.state_dict())


class TestArguments:
    @pytest.mark.parametrize("rule", [0.1, None, {"in": torch.ones(3)}])
    def test_a_rule_is_a_rule(self, rule):
        with pytest.raises(TypeError, match=r"the rule is a Rule.*got"):
            LearnedOptimizer(network().parameters(), rule)

    def test_a_guard_is_a_rule(self):
        with pytest.raises(TypeError, match="LearnedOptimizer, guard"):
            LearnedOptimizer(network().parameters(), cell(), guard=0.1)

    @pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
    def test_the_part_of_a_step_is_positive(self, lr):
        with pytest.raises(ValueError, match="lr is a positive number"):
            LearnedOptimizer(network().parameters(), cell(), lr=lr)
        with pytest.raises(ValueError, match="lr is a positive number"):
            LearnedOptimizer([{"params": network().parameters(), "lr": lr}], cell())


class TestFiles:
    def changed(self) -> Rule:
        rule = cell(5)
        return rule._replace(params={name: value + 1 for name, value in rule.params.items()})

    def test_a_suffix_of_another_format_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"not written as \.pkl; name it rule\.safetensors"):
            save_rule(self.changed(), tmp_path / "rule.pkl", kind="cell", sizes={"units": 5})
        assert list(tmp_path.iterdir()) == []

    def test_a_rule_comes_back_to_the_bit(self, tmp_path):
        path = save_rule(self.changed(), tmp_path / "rule.safetensors", kind="cell", sizes={"units": 5})
        rule = load_rule(path)
        assert list(rule.params) == ["in", "rate"]
        assert all(value.equal(self.changed().params[name]) for name, value in rule.params.items())
        one, other = network(), network()
        train(one, LearnedOptimizer(one.parameters(), rule), 3)
        train(other, LearnedOptimizer(other.parameters(), self.changed()), 3)
        assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    def test_an_unknown_kind_lists_those_there_are(self, tmp_path):
        with pytest.raises(ValueError, match=r"'sell' is no kind of rule; there are .*cell"):
            save_rule(self.changed(), tmp_path / "rule.safetensors", kind="sell")

    def test_a_kind_that_is_not_known_any_more_is_named_with_the_file(self, tmp_path, monkeypatch):
        path = save_rule(self.changed(), tmp_path / "rule.safetensors", kind="cell", sizes={"units": 5})
        monkeypatch.delitem(optim._KINDS, "cell")
        with pytest.raises(ValueError, match=r"rule.safetensors: 'cell' is no kind"):
            load_rule(path)

    def test_sizes_that_make_another_rule_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"cell\(units=4\) has parameters.*\(4,\).*\(5,\)"):
            save_rule(self.changed(), tmp_path / "rule.safetensors", kind="cell", sizes={"units": 4})
        with pytest.raises(ValueError, match=r"cell\(width=4\) makes no rule"):
            save_rule(self.changed(), tmp_path / "rule.safetensors", kind="cell", sizes={"width": 4})
        assert not list(tmp_path.iterdir())

    def test_a_file_that_is_damaged_or_none_is_refused(self, tmp_path):
        path = save_rule(self.changed(), tmp_path / "rule.safetensors", kind="cell", sizes={"units": 5})
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        with pytest.raises(ValueError, match="damaged"):
            load_rule(path)
        save_file({"in": torch.ones(3)}, path)
        with pytest.raises(ValueError, match="no scimeta checkpoint"):
            load_rule(path)
        with pytest.raises(FileNotFoundError):
            load_rule(tmp_path / "absent")

    def test_another_checkpoint_is_no_rule(self, tmp_path):
        def bowl(params: dict[str, Tensor], x: Tensor) -> Tensor:
            return (params["a"] - x) ** 2

        learner = maml(bowl, {"a": torch.tensor(0.0)})
        trained = meta_train(
            learner, lambda n, g: Task(torch.ones(n), torch.ones(n)), steps=1, generator=torch.Generator()
        )
        with pytest.raises(ValueError, match="holds no update rule"):
            load_rule(trained.save(tmp_path / "learner"))
