from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from scimeta import check_meta_gradient, functional, meta_train
from scimeta.core.trained import Trained, evaluate
from scimeta.domains.gridworld.goals import goal_prior
from scimeta.domains.gridworld.library import improve, library
from scimeta.domains.gridworld.meta import Rewards, cell_features, goal_learner, reward_loss, reward_tasks
from scimeta.domains.gridworld.planning import evaluate_policy, policy_iteration
from scimeta.domains.gridworld.scores import normalized_regret
from scimeta.domains.gridworld.transitions import transitions, uniform_policy
from scimeta.domains.gridworld.weights import learn_weights
from scimeta.models import networks
from simulators.gridworld.city import City
from simulators.gridworld.layouts import four_rooms, maze, street_city

KINDS, LOOKS, WIDTH, FEATURES = 6, 3, 16, 8  # kinds of cell, ways each looks, length of an observation
GAMMA, NOISE, SHOTS = 0.95, 0.1, 8
PROTOTYPES = np.random.default_rng(0).normal(size=(KINDS, LOOKS, WIDTH))


def dressed(city: City, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the (cells,) kinds and (cells, width) looks of a city."""
    kinds = rng.integers(KINDS, size=len(city))
    looks = PROTOTYPES[kinds, rng.integers(LOOKS, size=len(city))]
    return kinds, looks + 0.3 * rng.normal(size=looks.shape)


@cache
def past() -> list[tuple[City, np.ndarray, np.ndarray, np.ndarray]]:
    """Return cities with kinds, looks, and the rewards of 64 past goals in each."""
    rng = np.random.default_rng(1)
    cities = [four_rooms(), *(maze(13, 13, rng, loops=0.3) for _ in range(7))]
    return [(c, *(found := dressed(c, rng)), rng.normal(size=(64, KINDS))[:, found[0]]) for c in cities]


def network(dtype: torch.dtype = torch.float32) -> tuple:
    params, apply = functional(networks.mlp([WIDTH, 64, 64, FEATURES], generator=torch.Generator().manual_seed(0)))
    return {name: value.to(dtype) for name, value in params.items()}, apply


@cache
def trained(step: str) -> Trained:
    _, _, looks, rewards = zip(*past(), strict=True)
    params, apply = network()
    learner = goal_learner(apply, params, FEATURES, step=step)
    tasks = reward_tasks(looks, rewards, shots=SHOTS, noise=NOISE)
    generator = torch.Generator().manual_seed(2)
    return meta_train(learner, tasks, steps=600, tasks_per_step=32, lr=4e-3, generator=generator)


def regrets(city: City, kinds: np.ndarray, looks: np.ndarray, goals: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mean normalised regret of ANIL by policy improvement, and of ridge, its best of five, planned for."""
    world, apply = transitions(city.next, city.probability), network()[1]
    walk = uniform_policy(world)
    phi = cell_features(apply, trained("gauss_newton").meta.init, torch.tensor(looks, dtype=torch.float32))
    phi = phi.double().numpy()
    directions = np.linalg.inv(np.linalg.cholesky(np.cov(phi.T))) @ rng.normal(size=(FEATURES, 20))
    policies = {str(i): policy_iteration(world, phi @ w, GAMMA).actions for i, w in enumerate(directions.T)}
    known = library(world, {**policies, "walk": walk}, phi, GAMMA)
    lost = []
    for true in rng.normal(size=(goals, KINDS))[:, kinds]:
        cells = rng.choice(len(city), SHOTS, replace=False)
        seen = true[cells] + NOISE * rng.normal(size=SHOTS)
        support = Rewards(*(torch.tensor(part, dtype=torch.float32) for part in (looks[cells], seen)))
        routes = [improve(known, trained("gauss_newton").adapt(support)["weights"].numpy()).actions]
        gram, pull = looks[cells].T @ looks[cells], looks[cells].T @ seen
        for strength in (0.1, 1.0, 10.0, 30.0):
            weights = np.linalg.solve(gram + strength * np.eye(WIDTH), pull)
            routes.append(policy_iteration(world, looks @ weights, GAMMA).actions)
        best, reference = policy_iteration(world, true, GAMMA).values, evaluate_policy(world, walk, true, GAMMA)
        values = [evaluate_policy(world, route, true, GAMMA) for route in routes]
        lost.append([float(normalized_regret(v.mean(), best.mean(), reference.mean())) for v in values])
    mean = np.mean(lost, 0)
    return np.array([mean[0], mean[1:].min()])


def test_new_goals_in_a_known_city_cost_less_than_half_of_what_ridge_on_the_looks_loses() -> None:
    city, kinds, looks, _ = past()[0]
    learned, ridge = regrets(city, kinds, looks, 25, np.random.default_rng(3))
    assert learned < 0.25
    assert learned < 0.6 * ridge


def test_what_was_learned_serves_in_new_cities() -> None:
    rng = np.random.default_rng(4)
    city = street_city(17, rng)
    learned, ridge = regrets(city, *dressed(city, rng), 25, rng)
    assert learned < 0.25
    assert learned < 0.6 * ridge


def test_a_gauss_newton_step_is_better_than_a_step_of_learned_rates() -> None:
    rng = np.random.default_rng(5)
    kinds, looks = dressed(four_rooms(), rng)
    new = reward_tasks(looks, rng.normal(size=(50, KINDS))[:, kinds], shots=SHOTS, query=64, noise=NOISE)
    batch = new(200, torch.Generator().manual_seed(6))
    error = {step: float(evaluate(trained(step), batch).mean[1]) for step in ("gauss_newton", "rates")}
    assert error["gauss_newton"] < 0.8 * error["rates"]
    assert error["gauss_newton"] < 1.5 * (1 - 1 / KINDS) ** SHOTS  # what unseen kinds cost whoever is told the kinds


@pytest.mark.parametrize("step", ["gauss_newton", "matrix", "rates", "gradient"])
def test_the_meta_gradient_is_that_of_a_plain_loop(step: str) -> None:
    params, apply = functional(networks.mlp([4, 5, 3], activation=torch.nn.Tanh))
    rng = np.random.default_rng(0)
    tasks = reward_tasks(rng.normal(size=(20, 4)), rng.normal(size=(3, 20)), shots=5, query=6, dtype=torch.float64)
    params = {name: value.double() for name, value in params.items()}
    learner = goal_learner(apply, params, 3, step=step)
    check = check_meta_gradient(learner.adapt.loss, learner, tasks(3, torch.Generator().manual_seed(0)))
    assert check.ok, check


def test_one_inner_step_lands_on_the_posterior_mean_of_the_weights() -> None:
    params, apply = network(torch.float64)
    learner = goal_learner(apply, params, FEATURES)
    rng = np.random.default_rng(0)
    centre, looks, rewards = rng.normal(size=FEATURES), rng.normal(size=(5, WIDTH)), rng.normal(size=5)
    init = {**learner.meta.init, "centre": torch.tensor(centre), "log noise": torch.tensor(np.log(0.3))}
    support = Rewards(torch.tensor(looks), torch.tensor(rewards))
    adapted = learner.adapt(learner.meta._replace(init=init), support)["weights"]
    phi = cell_features(apply, init, support.looks).numpy()
    prior = goal_prior(np.stack([centre - 1, centre + 1]), noise=0.3)  # replaced: unit covariance, no specimens
    prior = prior.by_hand(prior.law, centre[None], np.eye(FEATURES), 0.3)
    np.testing.assert_allclose(adapted, learn_weights(phi, rewards, prior, 0.3).mean, rtol=1e-9)


def test_rewards_without_noise_and_more_of_them_than_features_can_be_learned_from() -> None:
    rng = np.random.default_rng(0)
    looks, weights = rng.normal(size=(40, 3)), rng.normal(size=(10, 3))
    params, apply = functional(networks.mlp([3, 2], generator=torch.Generator().manual_seed(0)))
    tasks = reward_tasks(looks, weights @ looks.T, shots=6, query=10)
    learner = goal_learner(apply, params, 2)
    result = meta_train(learner, tasks, steps=150, lr=0.03, generator=torch.Generator().manual_seed(0))
    assert np.isfinite(result.history["loss"]).all()
    assert result.history["loss"].iloc[-20:].mean() < result.history["loss"].iloc[:20].mean()


def test_tasks_hold_the_rewards_of_different_cells_of_one_goal_in_one_city() -> None:
    sizes, looks, rewards = (12, 30), [], []
    for city, size in enumerate(sizes):  # looks name the city and the cell, rewards the goal and both
        looks.append(np.stack([np.full(size, city), np.arange(size)], -1))
        rewards.append(1000 * np.arange(4)[:, None] + 100 * city + np.arange(size))
    batch = reward_tasks(looks, rewards, shots=5, query=7)(500, torch.Generator().manual_seed(0))
    both = torch.cat([batch.support.looks, batch.query.looks], 1)
    worth = torch.cat([batch.support.rewards, batch.query.rewards], 1)
    city, cell = both.unbind(-1)
    assert (city == city[:, :1]).all()
    assert all(len(row.unique()) == 12 for row in cell)
    goal = (worth - 100 * city - cell) / 1000
    assert (goal == goal[:, :1]).all() and set(goal.unique().tolist()) == {0, 1, 2, 3}
    assert 200 < (city[:, 0] == 0).sum() < 300
    assert cell[city == 1].max() == 29 and cell[city == 0].max() == 11


def test_tasks_come_from_their_generator_alone_and_noise_is_in_the_support_alone() -> None:
    rng = np.random.default_rng(0)
    looks, rewards = rng.normal(size=(50, 2)), np.zeros((3, 50))
    tasks = reward_tasks(looks, rewards, shots=20, query=20, noise=0.5)
    one, same = (tasks(100, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.support.rewards, same.support.rewards) and torch.equal(one.query.looks, same.query.looks)
    assert float(one.support.rewards.std()) == pytest.approx(0.5, rel=0.05)
    assert (one.query.rewards == 0).all()


def test_the_loss_is_the_mean_squared_error_of_the_rewards() -> None:
    params, apply = network()
    data = Rewards(torch.ones(3, WIDTH), torch.tensor([1.0, 2.0, 3.0]))
    loss = reward_loss(apply)({**params, "weights": torch.zeros(FEATURES)}, data)
    assert float(loss) == pytest.approx(14 / 3)


def test_what_is_wrong_with_goals_is_said() -> None:
    params, apply = network()
    with pytest.raises(ValueError, match='"matrix", "rates" or "gradient"; got \'newton\''):
        goal_learner(apply, params, 3, step="newton")
    with pytest.raises(ValueError, match="features must be a whole number"):
        goal_learner(apply, params, 0)
    with pytest.raises(ValueError, match="rename centre"):
        goal_learner(apply, {**params, "centre": torch.zeros(1)}, 3)
    looks, rewards = np.zeros((40, 2)), np.zeros((3, 40))
    with pytest.raises(ValueError, match="city 1: looks must be"):
        reward_tasks([looks, looks], [rewards, rewards[:, :4]])
    with pytest.raises(ValueError, match="city 0 has 40 cells and 3 goals; shots and query take 42"):
        reward_tasks(looks, rewards, shots=10)
    with pytest.raises(ValueError, match="at least one city; got 0 and 0"):
        reward_tasks([], [])
    with pytest.raises(ValueError, match="not finite"):
        reward_tasks(looks, np.full((3, 40), np.nan))
    with pytest.raises(ValueError, match="shots must be a whole number"):
        reward_tasks(looks, rewards, shots=0)
    with pytest.raises(ValueError, match="noise must be 0 or more"):
        reward_tasks(looks, rewards, noise=-1.0)
