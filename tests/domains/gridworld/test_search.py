from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from scimeta.domains.gridworld.belief import cell_belief, update_belief
from scimeta.domains.gridworld.latency import arrivals, search_order, shorten
from scimeta.domains.gridworld.scores import distances
from scimeta.domains.gridworld.search import expected_steps, search_route
from scimeta.domains.gridworld.transitions import Transitions, expect, one_hot, policy_matrix, transitions
from simulators.gridworld.city import City, read_city
from simulators.gridworld.layouts import four_rooms, maze, open_grid, street_city, town
from simulators.gridworld.walkers import Walkers


def world(city: City) -> Transitions:
    return transitions(city.next, city.probability)


def entered_first(walk: np.ndarray, states: int) -> np.ndarray:
    """Return (states,) the step at which a walk first enters each state; inf where it never does."""
    times = np.full(states, np.inf)
    for step, state in reversed(list(enumerate(walk))[1:]):
        times[state] = step
    return times


@pytest.mark.parametrize(("city", "limit"), [(four_rooms(), 75), (street_city(), 145)], ids=["rooms", "streets"])
def test_half_of_the_cells_of_a_city_are_seen_with_hardly_a_step_twice(city: City, limit: int) -> None:
    steps, times = expected_steps(world(city)), []
    for start in np.random.default_rng(0).integers(len(city), size=3):
        route = search_route(world(city), start, distances=steps)
        times.append(entered_first(route.walk, len(city)))  # of every cell as the goal
    assert np.median(times) <= limit
    assert np.mean(times) <= 1.2 * limit


def test_a_route_is_a_walk_on_the_map_and_its_times_are_true() -> None:
    city = maze(9, 11, np.random.default_rng(0), loops=0.2)
    route = search_route(world(city), 5)
    for before, after in zip(route.walk[:-1], route.walk[1:], strict=True):
        assert after in city.next[before, :, 0]
    times = entered_first(route.walk, len(city))
    np.testing.assert_array_equal(times[route.order], route.times)
    assert sorted(route.order) == list(range(len(city)))
    assert (np.diff(route.times) > 0).all() and route.missed == 0
    assert route.mean == pytest.approx(times.mean())
    assert (times <= route.median).mean() >= 0.5 > (times < route.median).mean()


@pytest.mark.parametrize("one_way", [False, True])
def test_small_searches_are_near_the_best_there_are(one_way: bool) -> None:
    rng, lost = np.random.default_rng(0), []
    for _ in range(20):
        points = rng.normal(size=(7, 2))
        between = np.linalg.norm(points[:, None] - points, axis=-1)
        between += one_way * rng.random(between.shape) * (1 - np.eye(7))  # ways back differ
        first, rest = between[0, 1:], between[1:, 1:]

        def mean(order: tuple[int, ...], first: np.ndarray, rest: np.ndarray) -> float:
            return first[order[0]] + arrivals(rest, np.array(order)).mean()

        best = min(mean(order, first, rest) for order in permutations(range(6)))
        lost.append(mean(tuple(search_order(first, rest, np.full(6, 1 / 6))), first, rest) / best - 1)
    assert min(lost) > -1e-9
    assert np.mean(lost) < 0.02 and max(lost) < 0.1


def test_improving_an_order_lowers_its_mean_to_where_no_exchange_of_two_stretches_helps() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 2))
    between = np.linalg.norm(points[:, None] - points, axis=-1) + 0.3 * rng.random((9, 9)) * (1 - np.eye(9))
    weights = rng.dirichlet(np.ones(9))
    start = rng.permutation(9)
    order = shorten(between, start, weights)

    def mean(order: np.ndarray) -> float:
        return weights[order] @ arrivals(between, order)

    assert order[0] == start[0] and sorted(order) == list(range(9))
    assert mean(order) < mean(start)
    for begin in range(1, 9):
        for end in range(begin + 1, 10):
            stretch = order[begin:end]
            changes = [stretch[::-1], *(np.roll(stretch, k) for k in range(1, len(stretch)))]
            for change in changes:
                assert mean(np.concatenate([order[:begin], change, order[end:]])) >= mean(order) - 1e-9


def test_ties_broken_by_chance_spread_the_wait_over_the_cells_at_no_cost() -> None:
    city, rng = four_rooms(), np.random.default_rng(0)
    steps = expected_steps(world(city))
    times = {}
    for name, chance in (("same", None), ("spread", rng)):
        routes = [search_route(world(city), s, distances=steps, rng=chance) for s in (3, 40, 75, 100, 120, 140)]
        times[name] = np.array([entered_first(route.walk, len(city)) for route in routes])
    assert times["spread"].mean(0).std() < times["same"].mean(0).std()  # over the cells, of the wait for each
    assert times["spread"].mean() < 1.02 * times["same"].mean()
    assert np.median(times["spread"]) <= np.median(times["same"]) + 1


def test_a_wider_beam_finds_the_reward_sooner_than_the_nearest_cell_each_time() -> None:
    steps = expected_steps(world(four_rooms()))
    wide, greedy = (search_route(world(four_rooms()), 60, beam=beam, distances=steps) for beam in (100, 1))
    assert wide.mean < 0.95 * greedy.mean and wide.median < greedy.median


def test_a_prior_that_knows_the_parks_looks_there_first() -> None:
    city = open_grid(9, 9)
    kinds = np.zeros(len(city), dtype=int)
    kinds[[city.state(row, col) for row in (6, 7, 8) for col in (6, 7, 8)]] = 1
    belief = cell_belief(np.flatnonzero(kinds)[:6], kinds)
    informed, even = search_route(world(city), 0, belief), search_route(world(city), 0)
    expected = entered_first(even.walk, len(city)) @ belief
    assert informed.mean < 0.6 * expected
    assert informed.median <= 12 + 9  # twelve steps to the park, nine cells of it


def test_only_cells_that_may_hold_the_reward_are_looked_at() -> None:
    city = open_grid(1, 9)
    belief = np.zeros(9)
    belief[[0, 8]] = 1.0, 3.0
    route = search_route(world(city), 4, belief)
    np.testing.assert_array_equal(route.order, [8, 0])
    np.testing.assert_array_equal(route.times, [4, 12])
    np.testing.assert_allclose(route.belief, [0.75, 0.25])


def test_the_cell_it_stands_on_must_be_entered_too() -> None:
    city = open_grid(1, 3)
    alone = search_route(world(city), 1, np.array([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(alone.walk, [1, 1])
    assert alone.times[0] == 1


def test_a_one_way_street_is_left_for_the_end_and_what_is_out_of_reach_is_said() -> None:
    city = read_city("...>..")
    route = search_route(world(city), 1)
    assert set(route.order[:3]) == {0, 1, 2} and route.missed == 0
    beyond = search_route(world(city), 5)
    assert set(beyond.order) == {4, 5} and beyond.missed == pytest.approx(4 / 6)
    assert "misses it with probability 0.67" in str(beyond) and beyond.median == np.inf
    lost = search_route(world(city), 5, np.array([1.0, 0, 0, 0, 0, 0]))
    assert lost.missed == 1 and not len(lost.order) and "can be reached" in str(lost)
    assert lost.action(5, np.zeros(6, dtype=bool)) is None


def test_on_slippery_ground_the_search_replans_and_finds_the_reward_about_when_expected() -> None:
    city, rng = town(), np.random.default_rng(0)
    route = search_route(world(city), 0)
    assert route.walk is None
    goals, agents = np.arange(len(city)), len(city)
    walkers = Walkers(city, agents)
    states = walkers.reset(rng, starts=np.zeros(agents, dtype=int))
    seen, found = np.zeros((agents, len(city)), dtype=bool), np.zeros(agents)
    for step in range(1, 400):
        actions = [route.action(state, one) for state, one in zip(states, seen, strict=True)]
        states = walkers.step(np.array([4 if action is None else action for action in actions]))
        seen[range(agents), states] = True
        found[(found == 0) & (states == goals)] = step
    assert (found > 0).all()
    assert found.mean() == pytest.approx(route.mean, rel=0.1)


def test_expected_steps_are_breadth_first_distances_where_actions_are_certain() -> None:
    city = four_rooms()
    steps = expected_steps(world(city))
    assert (np.diag(steps) == 0).all() and (steps == steps.T).all()
    after = steps[city.next[..., 0]].min(1)
    np.testing.assert_array_equal(steps, np.where(np.eye(len(city)), 0, 1 + after))


def test_expected_steps_on_ice_are_those_of_the_geometric_distribution() -> None:
    chance = np.array([[[0.25, 0.75]], [[1.0, 0.0]]])  # one action: leaves state 0 with probability 1/4
    steps = expected_steps(transitions(np.array([[[1, 0]], [[1, 1]]]), chance))
    np.testing.assert_allclose(steps, [[0, 4], [np.inf, 0]], rtol=1e-5)


def test_expected_steps_are_infinite_where_a_slip_may_end_in_a_trap() -> None:
    city = read_city("##.##\n##^##\nS.~.G\n##v##\n##.##")
    row = expected_steps(world(city))[city.state(2, 0)]
    assert row[city.state(2, 4)] == np.inf and row[city.state(2, 2)] == 2
    assert distances(world(city), city.state(2, 4))[city.state(2, 0)] == 4  # with luck


@pytest.mark.parametrize("slip", [1e-2, 1e-4, 1e-7])
def test_expected_steps_hold_their_digits_where_only_a_rare_slip_leads_on(slip: float) -> None:
    city = read_city("S~G\n#v#\n#.#", slip=slip)  # aims at the wall until it slips: half of the slips lead to the goal
    steps = expected_steps(world(city))[:, city.state(0, 2)]
    np.testing.assert_allclose(steps, [2 + 2 / slip, 1 + 2 / slip, 0, np.inf, np.inf], rtol=1e-7)


def test_expected_steps_obey_the_bellman_equation_and_are_those_of_a_policy() -> None:
    made = world(town())
    steps = expected_steps(made)
    after = expect(made, steps)
    np.testing.assert_allclose(steps, np.where(np.eye(made.states), 0, 1 + after.min(1)), rtol=0, atol=1e-6)
    rng = np.random.default_rng(0)
    for goal in rng.integers(made.states, size=3):
        matrix = policy_matrix(made, one_hot(after[..., goal].argmin(1), made.actions)).toarray()
        matrix[goal] = 0.0  # the walk ends there
        found = np.linalg.solve(np.eye(made.states) - matrix, np.arange(made.states) != goal)
        np.testing.assert_allclose(found, steps[:, goal], rtol=0, atol=1e-6)


def test_a_search_on_ice_beside_a_trap_leaves_out_what_it_may_never_reach() -> None:
    city = read_city("##.##\n##^##\nS.~.G\n##v##\n##.##")
    route = search_route(world(city), city.state(2, 0))
    assert city.state(2, 4) not in route.order and np.isfinite(route.times).all() and 0 < route.missed < 1


def test_a_zero_rules_out_a_cell_and_a_one_ends_the_search() -> None:
    belief = np.full(5, 0.2)
    np.testing.assert_allclose(update_belief(belief, [0, 3], np.zeros(2)), [0, 1 / 3, 1 / 3, 0, 1 / 3])
    np.testing.assert_array_equal(update_belief(belief, [0, 2, 0], np.array([0.0, 1.0, 0.0])), [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(update_belief(belief, [], np.zeros(0)), belief)


def test_noisy_rewards_move_the_belief_by_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    belief, entered = rng.dirichlet(np.ones(6)), rng.integers(6, size=10)
    rewards = 2.0 * (entered == 4) + 0.7 * rng.normal(size=10)
    likelihood = [np.exp(-0.5 * (((rewards - 2.0 * (entered == g)) / 0.7) ** 2).sum()) for g in range(6)]
    expected = belief * likelihood
    found = update_belief(belief, entered, rewards, sigma=0.7, value=2.0)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_past_goals_in_parks_make_parks_likelier_and_rule_out_nothing() -> None:
    kinds = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    belief = cell_belief([6, 7, 7], kinds)
    assert belief.sum() == pytest.approx(1) and (belief > 0).all()
    assert belief[6] == belief[7] > 5 * belief[0]
    np.testing.assert_allclose(cell_belief([], kinds), 1 / 8)


def test_what_is_wrong_with_a_search_is_said() -> None:
    corridor = world(open_grid(1, 4))
    with pytest.raises(ValueError, match=r"start must be a state in 0\.\.3; got 4"):
        search_route(corridor, 4)
    for belief in (np.ones(3), np.zeros(4), np.array([1.0, np.nan, 0, 0]), np.array([1.0, -1.0, 1, 1])):
        with pytest.raises(ValueError, match=r"belief must be \(4,\) finite weights"):
            search_route(corridor, 0, belief)
    with pytest.raises(ValueError, match="beam must be"):
        search_route(corridor, 0, beam=0)
    with pytest.raises(ValueError, match="distances must be"):
        search_route(corridor, 0, distances=np.zeros((3, 3)))
    for number in (np.nan, -1.0):
        with pytest.raises(ValueError, match="distances must be 0 or more"):
            search_route(corridor, 0, distances=np.full((4, 4), number))
    with pytest.raises(ValueError, match="would take 1 GB"):
        expected_steps(Transitions(np.zeros((10_001, 1, 1), dtype=int), np.ones((10_001, 1, 1))))
    with pytest.raises(ValueError, match=r"rewards\[1\] is nan"):
        update_belief(np.ones(4), [0, 1], np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="a reward is 0 or 1; got"):
        update_belief(np.ones(4), [0], np.array([0.4]))
    with pytest.raises(ValueError, match="rule out every cell"):
        update_belief(np.ones(2), [0, 1], np.zeros(2))
    with pytest.raises(ValueError, match="rule out every cell"):
        update_belief(np.ones(3), [0, 1], np.ones(2))
    with pytest.raises(ValueError, match="entered must lie in"):
        update_belief(np.ones(2), [2], np.zeros(1))
    with pytest.raises(ValueError, match="past goals must be states"):
        cell_belief([2], np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="past goals must be states, whole numbers"):
        cell_belief([0.9], np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="strength must be positive"):
        cell_belief([1], np.zeros(2, dtype=int), strength=0.0)


def test_a_search_prints_and_draws_itself() -> None:
    route = search_route(world(open_grid(3, 3)), 4)
    assert str(route).startswith("search from state 4: 9 cells; found after ")
    assert len(route.plot().get_lines()) == 2
