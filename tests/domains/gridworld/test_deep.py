"""Deep successor features: a recurrence that is exact where the model is, and a network that has learned one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains.gridworld.deep import DeepSuccessors, load_deep_successors
from scimeta.domains.gridworld.deep_maps import PicturedMap
from scimeta.domains.gridworld.deep_network import around, backup, best_values, follow, greedy_policy
from scimeta.domains.gridworld.deep_training import learn_deep_successors
from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.library import improve
from scimeta.domains.gridworld.planning import evaluate_policy, policy_iteration
from scimeta.domains.gridworld.scores import normalized_regret
from scimeta.domains.gridworld.transitions import transitions, uniform_policy
from simulators.gridworld import City, draw, grid_city, maze, scatter_places, town

GAMMA = 0.9
PLACES = ("library", "park", "station")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over several threads may differ in their last bits
    yield
    torch.set_num_threads(before)


def scattered(size: int, rng: np.random.Generator) -> City:
    """A maze with loops, or a field with blocks; three places."""
    if rng.random() < 0.5:
        return scatter_places(maze(size, rng=rng, loops=0.3), PLACES, rng)
    return scatter_places(grid_city(rng.random((size, size)) > 0.2, name="blocks"), PLACES, rng)


def pictured(city: City, size: int = 1) -> PicturedMap:
    return PicturedMap(draw(city, size=size), city.cells, transitions(city.next, city.probability), city.features())


def learn(maps: list[PicturedMap], **settings) -> DeepSuccessors:
    settings = {"gamma": GAMMA, "hidden": 32, "generator": torch.Generator().manual_seed(0)} | settings
    return learn_deep_successors(maps, **settings)


def true_steps(city: City) -> torch.Tensor:
    """(1, actions, 9, height, width) where the actions of a city really lead."""
    steps = torch.zeros(1, 5, 9, *city.index.shape, dtype=torch.float64)
    for state, (row, col) in enumerate(city.cells):
        for action in range(5):
            for after, chance in zip(city.next[state, action], city.probability[state, action], strict=True):
                down, right = city.cells[after] - (row, col)
                steps[0, action, 3 * (down + 1) + right + 1, row, col] += chance
    return steps


@pytest.fixture(scope="module")
def few() -> list[PicturedMap]:
    rng = np.random.default_rng(0)
    return [pictured(scattered(7, rng)) for _ in range(6)]


@pytest.fixture(scope="module")
def trained() -> DeepSuccessors:
    rng = np.random.default_rng(1)
    return learn([pictured(scattered(9, rng)) for _ in range(100)], steps=150, goals_per_map=4, lr=0.02)


def test_the_recurrence_on_true_steps_gives_the_exact_successor_features():
    city = town()
    moves, steps = transitions(city.next, city.probability), true_steps(town())
    rows, columns = city.cells.T
    weights = np.array([1.0, -0.5, 0.3, 0.0, -1.0])
    planes = torch.zeros(1, 5, *city.index.shape, dtype=torch.float64)
    planes[0, :, rows, columns] = torch.from_numpy(city.features().T)
    rewards = (planes * torch.tensor(weights)[:, None, None]).sum(1, keepdim=True)
    values = best_values(steps, rewards, GAMMA, 600)
    plan = policy_iteration(moves, city.features() @ weights, GAMMA)
    assert values[0, 0, rows, columns].numpy() == pytest.approx(plan.values, abs=1e-9)
    policy = greedy_policy(steps, rewards, values, GAMMA)
    own = policy[0][:, rows, columns].T.numpy()
    psi = backup(steps, planes + GAMMA * follow(steps, policy, planes, GAMMA, 600))[0][..., rows, columns]
    exact = factorize(moves, own, GAMMA).features(city.features())
    assert psi.permute(2, 1, 0).numpy() == pytest.approx(exact, abs=1e-9)


def test_the_nine_cells_around_come_row_by_row_and_are_zero_outside():
    planes = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert around(planes)[0, 0, :, 0, 1].tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_new_goals_and_preferences_on_maps_never_seen_reach_near_planning_also_on_larger_maps(trained):
    rng = np.random.default_rng(2)
    lacking = {"goal": [], "preference": []}
    for size in (9, 9, 9, 13):
        city = scattered(size, rng)
        picture, cells, moves, features = pictured(city)
        goals = rng.choice(len(cells), 3, replace=False)
        psi = trained.features(picture, cells, goals)
        for kind, weights in (("goal", np.eye(6)[3:]), ("preference", rng.normal(size=(3, 6)))):
            for one in weights:
                rewards = np.concatenate((features, np.eye(len(cells))[:, goals]), 1) @ one
                best = policy_iteration(moves, rewards, GAMMA).values
                walk = evaluate_policy(moves, uniform_policy(moves), rewards, GAMMA)
                got = evaluate_policy(moves, improve(psi, one).actions, rewards, GAMMA)
                lacking[kind].append(normalized_regret(got.mean(), best.mean(), walk.mean()))
    assert np.mean(lacking["goal"]) < 0.02
    assert np.mean(lacking["preference"]) < 0.02


def test_what_is_felt_is_seen_in_the_picture(trained):
    picture, cells, _, features = pictured(scattered(9, np.random.default_rng(3)))
    assert trained.seen(picture, cells) == pytest.approx(features, abs=0.05)


def test_only_the_picture_tells_where_walls_are(trained):
    street = scatter_places(grid_city(np.ones((9, 9), dtype=bool), name="field"), PLACES, np.random.default_rng(4))
    walled = draw(street, size=1)
    walled[4, :] = draw(grid_city(np.array([[True, False]]), name="wall"), size=1)[0, 1]
    above = np.array([[row, col] for row in range(4) for col in range(9)] + [[8, 4]])
    goal = [len(above) - 1]
    open_way = trained.features(draw(street, size=1), above, goal, policies=np.array([[0, 0, 0, 1.0]]))
    no_way = trained.features(walled, above, goal, policies=np.array([[0, 0, 0, 1.0]]))
    assert open_way[0, :-1, :, 3].max(1).min() > 2  # 10 at the goal
    assert no_way[0, :-1, :, 3].max() < 0.5 * open_way[0, :-1, :, 3].max(1).min()


def test_states_may_come_in_any_order(trained):
    picture, cells, *_ = pictured(scattered(9, np.random.default_rng(5)))
    order = np.random.default_rng(6).permutation(len(cells))
    whole = trained.features(picture, cells, [int(order[0])])
    assert np.array_equal(trained.features(picture, cells[order], [0]), whole[:, order])


def test_the_policies_are_those_asked_for(trained):
    picture, cells, *_ = pictured(scattered(9, np.random.default_rng(7)))
    usual = trained.features(picture, cells)
    asked = trained.features(picture, cells, policies=np.array([[0.0, 1, 0], [-1, -1, -1]]))
    assert usual.shape == (4, len(cells), 5, 3)
    assert np.array_equal(asked, usual[[1, 3]])


def test_a_saved_network_comes_back_with_every_bit(trained, tmp_path):
    picture, cells, *_ = pictured(scattered(9, np.random.default_rng(8)))
    back = load_deep_successors(trained.save(tmp_path / "deep.safetensors"))
    assert np.array_equal(back.features(picture, cells), trained.features(picture, cells))
    assert str(back) == str(trained)
    assert back.history.equals(trained.history)


def test_a_result_prints_its_size_and_cost_and_plots(trained):
    assert "3 features, 5 actions, gamma 0.9" in str(trained)
    assert "after 150 steps" in str(trained)
    assert len(trained.plot().lines) == 2


def test_a_suffix_of_another_format_is_refused(few, trained, tmp_path):
    with pytest.raises(ValueError, match=r"name it deep\.safetensors"):
        trained.save(tmp_path / "deep.pt")
    with pytest.raises(ValueError, match=r"name it run\.safetensors"):
        learn(few, steps=1, checkpoint=tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused(few, tmp_path):
    learn(few, steps=1, checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match="holds no deep successor features"):
        load_deep_successors(tmp_path / "run.safetensors")
    with pytest.raises(FileNotFoundError):
        load_deep_successors(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": np.zeros((9, 9))}, "height, width, channels"),
        ({"picture": np.zeros((9, 9, 4))}, "3 channels"),
        ({"picture": np.full((9, 9, 3), np.nan)}, "finite"),
        ({"cells": np.array([[0, 9]])}, "9 x 9 cells"),
        ({"cells": np.array([[0.0, 1.0]])}, "whole numbers"),
        ({"goals": [99]}, "goals must be states in 0..1"),
        ({"goals": [-1]}, "goals must be states"),
        ({"goals": [0.5]}, "goals must be states"),
        ({"policies": np.ones((1, 4))}, r"\(policies, 3\)"),
        ({"policies": np.full((1, 3), np.inf)}, "finite weights"),
    ],
)
def test_pictures_cells_goals_and_policies_that_do_not_fit_are_refused(trained, change, message):
    given = {"picture": np.zeros((9, 9, 3)), "cells": np.array([[0, 0], [0, 1]])} | change
    with pytest.raises(ValueError, match=message):
        trained.features(**given)


def test_a_picture_may_have_many_pixels_a_cell():
    city = scattered(7, np.random.default_rng(9))
    learned = learn([pictured(city, size=8)], cell=8, steps=1)
    picture, cells, *_ = pictured(scattered(9, np.random.default_rng(10)), size=8)
    assert picture.shape == (72, 72, 3)
    assert learned.features(picture, cells).shape == (4, len(cells), 5, 3)
    with pytest.raises(ValueError, match="multiples of 8 pixels"):
        learned.features(picture[:-1], cells)
    last = (cells == cells[-1]).all(1)
    before = learned.seen(picture, cells)
    picture[-1, -1] = 255 - picture[-1, -1]  # one pixel of the last cell
    changed = (learned.seen(picture, cells) != before).any(1)
    assert np.array_equal(changed, last & (cells[-1] == 8).all())
