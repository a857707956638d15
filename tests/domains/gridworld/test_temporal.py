from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.planning import policy_iteration
from scimeta.domains.gridworld.temporal import learn_successors
from scimeta.domains.gridworld.transitions import Transitions, one_hot, transitions, uniform_policy
from simulators.gridworld.city import City
from simulators.gridworld.layouts import four_rooms, town
from simulators.gridworld.walkers import Walkers

GAMMA = 0.9


def world(city: City) -> Transitions:
    return transitions(city.next, city.probability)


def truth(city: City, policy: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    successors = factorize(world(city), policy, GAMMA)
    return successors.solve(features), successors.features(features)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_where_actions_are_certain_the_successor_representation_is_exact(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    walk, cells = uniform_policy(world(city)), np.eye(len(city))
    learned = learn_successors(Walkers(city, 1000), walk, cells, GAMMA, steps=500, rng=rng, step_size=1.0)
    u, psi = truth(city, walk, cells)
    np.testing.assert_allclose(learned.u, u, rtol=0, atol=1e-10)
    np.testing.assert_allclose(learned.psi, psi, rtol=0, atol=1e-10)
    assert learned.visits.sum() == 1000 * 500


@pytest.mark.parametrize("trace", [0.0, 0.9])
def test_on_slippery_ground_chance_averages_out(trace: float, rng: np.random.Generator) -> None:
    city = town()
    walk, places = uniform_policy(world(city)), city.features()
    learned = learn_successors(Walkers(city, 2000), walk, places, GAMMA, steps=1000, rng=rng, trace=trace)
    u, psi = truth(city, walk, places)
    assert np.abs(learned.u - u).max() < 0.005 * u.max()
    assert np.abs(learned.psi - psi).max() < 0.01 * psi.max()


def test_errors_fall_as_one_over_the_root_of_the_steps(rng: np.random.Generator) -> None:
    city = town()
    walk, places = uniform_policy(world(city)), city.features()
    u, _ = truth(city, walk, places)
    errors = []
    for steps in (100, 1600):
        learned = learn_successors(Walkers(city, 1000), walk, places, GAMMA, steps=steps, rng=rng)
        errors.append(np.sqrt(((learned.u - u) ** 2).mean()))
    assert errors[1] < errors[0] / 3  # expected: a fourth


def test_a_random_walk_teaches_the_successor_features_of_all_policies_at_once(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    cells = np.eye(len(city))
    goals = [0, 10, len(city) - 1]
    policies = np.array([one_hot(policy_iteration(world(city), cells[g], GAMMA).actions, 5) for g in goals])
    policies = np.concatenate([policies, rng.dirichlet(np.ones(5), (2, len(city)))])
    learned = learn_successors(Walkers(city, 500), policies, cells, GAMMA, steps=600, rng=rng, step_size=1.0)
    assert learned.psi.shape == (5, len(city), 5, len(city))
    for policy, u, psi in zip(policies, learned.u, learned.psi, strict=True):
        expected = truth(city, policy, cells)
        np.testing.assert_allclose(u, expected[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(psi, expected[1], rtol=0, atol=1e-10)


def test_traces_cut_for_policies_that_would_act_otherwise_leave_the_fixed_point(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    cells = np.eye(len(city))
    policy = one_hot(policy_iteration(world(city), cells[0], GAMMA).actions, 5)
    settings = {"steps": 6000, "rng": rng, "step_size": 1.0, "trace": 0.9}
    learned = learn_successors(Walkers(city, 200), policy, cells, GAMMA, **settings)
    np.testing.assert_allclose(learned.u, truth(city, policy, cells)[0], rtol=0, atol=1e-6)


def test_several_policies_are_learned_as_each_alone(rng: np.random.Generator) -> None:
    city = town()
    policies, places = rng.dirichlet(np.ones(5), (2, len(city))), city.features()
    for trace in (0.0, 0.8):
        together, *alone = (
            learn_successors(
                Walkers(city, 50), p, places, GAMMA, steps=70, rng=np.random.default_rng(1), trace=trace, episode=40
            )
            for p in (policies, *policies)
        )
        np.testing.assert_allclose(together.psi, [one.psi for one in alone], rtol=1e-12, atol=1e-14)


def test_traces_reach_further_where_agents_are_few(rng: np.random.Generator) -> None:
    city = four_rooms()
    walk, cells = uniform_policy(world(city)), np.eye(len(city))
    u, _ = truth(city, walk, cells)
    errors = []
    for trace in (0.0, 0.9):
        learned = learn_successors(Walkers(city, 20), walk, cells, GAMMA, steps=1000, rng=rng, trace=trace)
        errors.append(np.sqrt(((learned.u - u) ** 2).mean()))
    assert errors[1] < 0.7 * errors[0]


def test_a_step_of_many_agents_counts_every_visit(rng: np.random.Generator) -> None:
    class Still:  # two agents, in states 0 and 1 of two; each action leads to state 1
        def reset(self, rng: np.random.Generator) -> np.ndarray:
            return np.array([0, 0, 1])

        def step(self, actions: np.ndarray) -> np.ndarray:
            return np.array([1, 1, 1])

    settings = {"steps": 1, "rng": rng, "step_size": 0.5}
    learned = learn_successors(Still(), np.ones((2, 1)), np.array([[0.0], [1.0]]), 0.0, **settings)
    np.testing.assert_array_equal(learned.visits, [[2], [1]])
    np.testing.assert_allclose(learned.psi[:, 0, 0], [0.75, 0.5])  # half of the way twice, and once


def test_what_is_never_tried_is_said(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    north = one_hot(np.zeros(len(city), dtype=int), 5)
    settings = {"steps": 5, "rng": rng, "behaviour": north}
    learned = learn_successors(Walkers(city, 10), uniform_policy(world(city)), np.eye(len(city)), GAMMA, **settings)
    assert (learned.visits[:, 1:] == 0).all()
    assert "state-actions were never tried" in str(learned)
    assert len(learned.plot().get_lines()) == 1


def test_what_is_wrong_with_the_learning_is_said(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    walk, cells = uniform_policy(world(city)), np.eye(len(city))
    walkers, settings = Walkers(city, 10), {"steps": 5, "rng": rng}
    with pytest.raises(ValueError, match="gamma must be at least 0 and below 1"):
        learn_successors(walkers, walk, cells, 1.0, **settings)
    with pytest.raises(ValueError, match="pass one_hot"):
        learn_successors(walkers, np.zeros(len(city), dtype=int), cells, GAMMA, **settings)
    with pytest.raises(ValueError, match="non-negative and sum to 1"):
        learn_successors(walkers, 2 * walk, cells, GAMMA, **settings)
    with pytest.raises(ValueError, match=r"features must be \(states, d\)"):
        learn_successors(walkers, walk, np.full_like(cells, np.nan), GAMMA, **settings)
    with pytest.raises(ValueError, match="behaviour must be"):
        learn_successors(walkers, walk, cells, GAMMA, **settings, behaviour=walk[:3])
    with pytest.raises(ValueError, match="step_size must lie in"):
        learn_successors(walkers, walk, cells, GAMMA, **settings, step_size=0.0)
    with pytest.raises(ValueError, match="trace must lie in"):
        learn_successors(walkers, walk, cells, GAMMA, **settings, trace=1.5)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        learn_successors(walkers, walk, cells, GAMMA, steps=0, rng=rng)


def test_agents_on_another_map_than_the_policies_are_refused(rng: np.random.Generator) -> None:
    city = four_rooms(7)
    walk, cells, settings = uniform_policy(world(city)), np.eye(len(city)), {"steps": 5, "rng": rng}
    with pytest.raises(ValueError, match=r"the agents walk on a map of \(states, actions\)"):
        learn_successors(Walkers(four_rooms(), 10), walk, cells, GAMMA, **settings)
    with pytest.raises(ValueError, match="give those of the agents' map"):
        learn_successors(Walkers(city, 10), np.full((len(city), 4), 0.25), cells, GAMMA, **settings)
    with pytest.raises(ValueError, match="policies must be"):
        learn_successors(Walkers(city, 10), np.zeros((0, *walk.shape)), cells, GAMMA, **settings)

    class Lost:
        def reset(self, rng: np.random.Generator) -> np.ndarray:
            return np.zeros(3, dtype=int)

        def step(self, actions: np.ndarray) -> np.ndarray:
            return np.full(3, len(city))

    with pytest.raises(ValueError, match="the agents must stand on"):
        learn_successors(Lost(), walk, cells, GAMMA, **settings)
