"""The gate: weights on the simplex, regions found, fixed weights kept, and invariances of what it reads."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.ensembles.blend import Blend, learn_blend
from scimeta.ensembles.gate import PENALTIES, Gate, Level, Settings, fixed_gate, gate_path, losses, mixed
from scimeta.ensembles.gate_choice import choose_gate
from scimeta.ensembles.weights import simplex_weights, softmax


def halves(n: int = 200, noise: float = 0.1, seed: int = 0) -> Level:
    """Return rows whose truth |x0| the first expert knows on the right, the second on the left."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, (n, 3))
    x = features[:, 0]
    return Level(features, np.stack([x, -x], 1), np.abs(x) + noise * rng.normal(size=n), np.ones(n), np.arange(n))


def alike(n: int = 200, seed: int = 0) -> Level:
    """Return rows on which no expert is better in one place than in another."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n)
    return Level(rng.normal(size=(n, 4)), y[:, None] + rng.normal(size=(n, 3)), y, np.ones(n), np.arange(n))


def labelled(n: int = 300, seed: int = 0) -> Level:
    """Return rows of three classes of which the first expert tells the truth on the right, the second on the left."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 1, n), rng.integers(0, 3, n)
    told, guess = np.eye(3)[y] * 0.7 + 0.1, np.full((n, 3), 1 / 3)
    Z = np.stack([np.where(x[:, None] > 0, told, guess), np.where(x[:, None] > 0, guess, told)], axis=1)
    return Level(x[:, None], Z, y, np.ones(n), np.arange(n))


def last(level: Level, kind: str = "linear", settings: Settings = Settings(), seed: int = 0) -> Gate:  # noqa: B008
    *_, gate = gate_path(level, kind, settings, seed)
    return gate


@pytest.mark.parametrize("kind", ["linear", "network"])
@pytest.mark.parametrize("level", [halves(), labelled()], ids=["values", "probabilities"])
def test_weights_lie_on_the_simplex(kind, level):
    for gate in gate_path(level, kind, Settings(), 0):
        weights = gate(3 * level.features)
        assert (weights >= 0).all() and weights.sum(axis=1) == pytest.approx(1, abs=1e-12)


def test_fixed_gate_has_the_simplex_weights_everywhere():
    level = alike()
    gate = fixed_gate(level)
    assert (gate(level.features) == simplex_weights(level.Z, level.y)).all()
    assert mixed(level.Z, gate(level.features)) == pytest.approx(learn_blend(level.Z, level.y, "simplex")(level.Z))


def test_probabilities_are_mixed_as_a_blend_does_with_fixed_weights():
    level, weights = labelled(), np.array([0.3, 0.7])
    blend = Blend("own", weights, scale="logit")
    assert mixed(level.Z, np.tile(weights, (len(level.y), 1))) == pytest.approx(blend(level.Z), abs=1e-12)


def test_weaker_penalty_leaves_the_fixed_weights_further_behind_and_fits_better():
    level = halves()
    path = list(gate_path(level, "linear", Settings(), 0))
    risks = [losses(level, gate).mean() for gate in path]
    away = [np.abs(gate(level.features) - gate.fixed).mean() for gate in path]
    assert tuple(gate.penalty for gate in path) == PENALTIES
    assert (np.diff(risks) < 0).all() and (np.diff(away) > 0).all()


def test_gate_is_a_stationary_point_of_the_penalised_risk():
    level = halves()
    gate = next(gate_path(level, "linear", Settings(), 0))
    risk = ((level.Z @ gate.fixed - level.y) ** 2).mean()

    def objective(name: str, step: float) -> float:
        moved = {key: value.clone() for key, value in gate.parameters.items()}
        moved[name].view(-1)[1] += step
        square = sum((0.01 if key == "bias" else 1.0) * float(value.square().sum()) for key, value in moved.items())
        other = Gate(gate.kind, gate.penalty, gate.fixed, None, gate.ranks, moved)
        return losses(level, other).mean() / (2 * risk) + gate.penalty * square / len(level.y)

    for name in gate.parameters:
        assert (objective(name, 1e-4) - objective(name, -1e-4)) / 2e-4 == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("level", [halves(noise=0.0), labelled()], ids=["values", "probabilities"])
def test_every_expert_is_trusted_where_it_knows(level):
    gate = choose_gate(level, np.arange(len(level.y)) % 5, "linear").gate
    weights, right = gate(level.features), level.features[:, 0]
    assert weights[right > 0.2, 0].min() > 0.9
    assert weights[right < -0.2, 1].min() > 0.9


def test_network_finds_a_region_in_the_middle_which_no_linear_gate_can():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, 200), rng.normal(size=200)
    middle = np.abs(x) < 0.5
    Z = np.stack([np.where(middle, y, 0.0), np.where(middle, 0.0, y)], axis=1)
    level = Level(x[:, None], Z, y + 0.3 * rng.normal(size=200), np.ones(200), np.arange(200))
    choice = choose_gate(level, np.arange(200) % 4, settings=Settings(hidden=4))
    least = choice.to_frame().groupby("kind").risk.min()
    assert choice.gate.kind == "network"
    assert least["network"] < 0.5 * least["linear"]


@pytest.mark.parametrize("seed", range(5))
def test_fixed_weights_stay_where_no_expert_has_a_region(seed):
    level = alike(seed=seed)
    choice = choose_gate(level, np.arange(200) % 5, "linear")
    assert choice.gate.kind == "fixed"
    assert choice.tried[0][:2] == ("fixed", np.inf) and choice.tried[0].gain == 0


def test_margin_says_how_clearly_a_gate_must_win():
    level, folds = halves(n=60, noise=1.0, seed=1), np.arange(60) % 5
    won = min(choose_gate(level, folds, "linear").tried, key=lambda one: one.risk)
    needed = won.gain / won.gain_se
    assert won.kind == "linear" and needed > 0
    assert choose_gate(level, folds, "linear", margin=0.9 * needed).gate.penalty == won.penalty
    assert choose_gate(level, folds, "linear", margin=1.1 * needed).gate.kind == "fixed"


def test_rows_of_one_group_count_as_one_in_the_standard_error():
    level, rows = halves(), np.repeat(np.arange(200), 4)
    folds = np.arange(200) % 5
    once = choose_gate(level, folds, "linear").tried
    grouped = choose_gate(level.at(rows), folds[rows], "linear").tried
    apart = choose_gate(level.at(rows)._replace(groups=np.arange(800)), folds[rows], "linear").tried
    assert apart[1].gain_se == pytest.approx(grouped[1].gain_se / 2)
    assert grouped[0].risk == pytest.approx(once[0].risk)


def test_weight_of_two_is_two_rows_and_weight_of_zero_none():
    level, w = halves(), np.random.default_rng(1).integers(0, 3, 200)
    repeated = level.at(np.repeat(np.arange(200), w))
    weighted = last(level._replace(weights=w.astype(float)))
    assert last(repeated)(level.features) == pytest.approx(weighted(level.features), abs=1e-6)


def test_units_do_not_matter():
    level = halves()
    other = level._replace(features=level.features * [1e6, 1e-6, 1.0] - [0.0, 273.15, 4.0])
    assert last(other)(other.features) == pytest.approx(last(level)(level.features), abs=1e-4)


def test_skew_does_not_keep_a_region_from_being_found():
    level = halves(noise=0.0)
    skewed = level._replace(features=np.exp(10 * level.features))
    weights, right = last(skewed)(skewed.features), level.features[:, 0]
    assert weights[right > 0.2, 0].min() > 0.9 and weights[right < -0.2, 1].min() > 0.9


def test_beyond_the_rows_seen_weights_stay_and_the_unknown_is_the_middle():
    level = halves()
    gate = last(level)
    edge, beyond = np.zeros((2, 1, 3))
    edge[0, 0], beyond[0, 0] = level.features[:, 0].max(), 1e6
    assert (gate(beyond) == gate(edge)).all()
    middle = np.median(level.features, axis=0)
    assert gate(np.full((1, 3), np.nan)) == pytest.approx(gate(middle[None]), abs=1e-2)


def test_top_k_leaves_as_many_experts_a_row():
    level = alike()
    for settings in (Settings(top_k=1), Settings(top_k=2)):
        assert (np.count_nonzero(last(level, settings=settings)(level.features), axis=1) == settings.top_k).all()
        assert np.count_nonzero(fixed_gate(level, settings.top_k).fixed) <= settings.top_k


def test_balance_evens_out_the_experts_shares():
    rng = np.random.default_rng(0)
    x, sign = rng.uniform(-1, 1, 300), rng.choice([-1.0, 1.0], 300)
    Z = np.stack([np.where(x < 0.6, sign, 0.0), np.where(x < 0.6, 0.0, sign)], axis=1)
    level = Level(x[:, None], Z, sign, np.ones(300), np.arange(300))
    free, even = (last(level, settings=Settings(balance=b))(level.features).mean(axis=0) for b in (0.0, 100.0))
    assert free[0] == pytest.approx((x < 0.6).mean(), abs=0.03)
    assert even[0] == pytest.approx(0.5, abs=0.03)


def test_same_seed_gives_the_same_network():
    level = halves()
    one, same, other = (last(level, "network", seed=seed)(level.features) for seed in (1, 1, 2))
    assert (one == same).all() and not np.allclose(one, other)


def test_expert_without_any_error_is_trusted_alone():
    y = np.random.default_rng(0).normal(size=50)
    level = Level(y[:, None], np.stack([y, -y], 1), y, np.ones(50), np.arange(50))
    gate = choose_gate(level, np.arange(50) % 5).gate
    assert gate.kind == "fixed" and (gate.fixed == [1, 0]).all()


def test_more_than_ten_folds_are_joined():
    level = halves(60)
    every, ten = (choose_gate(level, folds, "linear").tried for folds in (np.arange(60), np.arange(60) % 10))
    assert every == ten


def test_choice_prints_what_was_tried():
    choice = choose_gate(halves(), np.arange(200) % 5, "linear")
    frame = choice.to_frame()
    assert list(frame.columns) == ["kind", "penalty", "risk", "gain", "gain_se", "chosen"]
    assert frame.chosen.sum() == 1 and frame.risk[frame.chosen].item() == frame.risk.min()
    assert "linear" in str(choice)


def test_a_sure_expert_alone_is_sure_and_with_another_is_not():
    sure = softmax(np.array([[[800.0, 0.0], [0.0, 0.0]]]))
    np.testing.assert_array_equal(mixed(sure, np.array([[1.0, 0.0]])), [[1.0, 0.0]])
    both = mixed(sure, np.array([[0.5, 0.5]]), np.array([1e-4, 1e-4]))
    assert both[0, 1] / both[0, 0] == pytest.approx(1e-2)


def test_constant_target_and_constant_features_are_no_trouble():
    level = Level(np.ones((30, 2)), np.ones((30, 2)), np.ones(30), np.ones(30), np.arange(30))
    weights = choose_gate(level, np.arange(30) % 5).gate(level.features)
    assert mixed(level.Z, weights) == pytest.approx(1)
