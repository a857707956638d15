"""Training of deep successor features: reproducible, resumable, and clear about what it cannot take."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scimeta.domains.gridworld import deep_training
from scimeta.domains.gridworld.deep import DeepSuccessors
from scimeta.domains.gridworld.deep_maps import PicturedMap, lay_out
from scimeta.domains.gridworld.deep_training import learn_deep_successors
from scimeta.domains.gridworld.transitions import transitions
from simulators.gridworld import City, draw, maze, scatter_places, town

GAMMA = 0.9


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictured(city: City) -> PicturedMap:
    return PicturedMap(draw(city, size=1), city.cells, transitions(city.next, city.probability), city.features())


@pytest.fixture(scope="module")
def maps() -> list[PicturedMap]:
    rng = np.random.default_rng(0)
    return [pictured(scatter_places(maze(7, rng=rng), ("park", "cafe"), rng)) for _ in range(5)]


def learn(maps: list[PicturedMap], seed: int = 0, **settings) -> DeepSuccessors:
    settings = {"gamma": GAMMA, "steps": 6, "maps_per_step": 3, "goals_per_map": 2, "hidden": 8} | settings
    return learn_deep_successors(maps, **settings, generator=torch.Generator().manual_seed(seed))


def same(first: DeepSuccessors, second: DeepSuccessors) -> bool:
    """Whether two results agree in every bit but the clock."""
    weights, others = first.network.state_dict(), second.network.state_dict()
    losses = first.history.drop(columns="seconds").equals(second.history.drop(columns="seconds"))
    return losses and all(torch.equal(weights[name], others[name]) for name in weights)


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch):
    """Let a run die after so many steps."""
    step = deep_training._Run.step

    def dies(run: deep_training._Run) -> None:
        if len(run.history) == steps:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(deep_training._Run, "step", dies)


def test_a_seed_gives_the_same_numbers_and_another_seed_others(maps):
    assert same(learn(maps), learn(maps))
    assert not same(learn(maps), learn(maps, seed=1))


def test_torchs_own_random_numbers_do_not_matter(maps):
    torch.manual_seed(1)
    first = learn(maps)
    torch.manual_seed(2)
    assert same(first, learn(maps))


@pytest.mark.parametrize("steps", [3, 4])
def test_a_run_killed_and_resumed_ends_as_one_that_was_not(maps, steps, tmp_path, monkeypatch):
    settings = {"checkpoint": tmp_path / "run.safetensors", "checkpoint_every": 2}
    with monkeypatch.context() as patch:
        killed_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            learn(maps, **settings)
    assert same(learn(maps, **settings), learn(maps))


def test_a_finished_run_comes_back_from_its_checkpoint_as_it_is(maps, tmp_path, monkeypatch):
    first = learn(maps, checkpoint=tmp_path / "run.safetensors")
    killed_after(0, monkeypatch)  # not one more step
    assert same(learn(maps, checkpoint=tmp_path / "run.safetensors"), first)


def test_a_checkpoint_of_another_run_is_refused(maps, tmp_path):
    path = tmp_path / "run.safetensors"
    learned = learn(maps, checkpoint=path)
    with pytest.raises(ValueError, match=r"lr was 0.007, is 0.1"):
        learn(maps, checkpoint=path, lr=0.1)
    with pytest.raises(ValueError, match="maps was"):
        learn(maps[::-1], checkpoint=path)
    learned.save(path)
    with pytest.raises(ValueError, match="holds no run"):
        learn(maps, checkpoint=path)


def test_the_target_network_follows_slowly_or_at_once(maps):
    def run(rate: float) -> deep_training._Run:
        counts = {"cell": 1, "steps": 9, "maps_per_step": 2, "goals_per_map": 1, "hidden": 4}
        generator = torch.Generator().manual_seed(0)
        made = deep_training._Run(lay_out(maps, 1), GAMMA, counts, 0.01, rate, generator)
        made.step()
        return made

    start, slow, fast = run(1e-9), run(0.25), run(1.0)
    for old, mean, new, learning in zip(
        start.target.parameters(),
        slow.target.parameters(),
        fast.target.parameters(),
        slow.network.parameters(),
        strict=True,
    ):
        assert torch.equal(new, learning)
        assert mean.detach().numpy() == pytest.approx((0.75 * old + 0.25 * learning).detach().numpy(), abs=1e-6)


def test_walks_lead_where_the_transitions_say_as_often_as_they_say():
    city = town()
    grids = lay_out([pictured(city)], 1)
    generator = torch.Generator().manual_seed(0)
    counts = {"cell": 1, "steps": 9, "maps_per_step": 1, "goals_per_map": 1, "hidden": 4}
    run = deep_training._Run(grids, GAMMA, counts, 0.01, 0.1, generator)
    numbers = torch.arange(float(city.index.size)).reshape(1, 1, *city.index.shape)
    walks = torch.cat([run._outcomes(grids, numbers) for _ in range(2000)])[:, 0].long()  # (walks, actions, cells)
    place = city.cells @ (city.index.shape[1], 1)
    for state in (0, int(np.flatnonzero(city.probability.max(2).min(1) < 1)[0])):
        for action in range(5):
            went = np.bincount(walks[:, action, place[state]], minlength=city.index.size) / len(walks)
            true = np.zeros(city.index.size)
            np.add.at(true, place[city.next[state, action]], city.probability[state, action])
            assert went == pytest.approx(true, abs=0.03)  # five standard deviations of 0.1


def test_what_the_maps_are_decides_what_is_refused(maps):
    picture, cells, moves, features = maps[0]
    far = transitions(np.where(moves.next == 0, moves.states - 1, moves.next))
    for bad, message in (
        ([], "no maps"),
        (
            [maps[0], pictured(scatter_places(maze(9), ("park", "cafe"), np.random.default_rng(0)))],
            "map 1 has a picture",
        ),
        ([maps[0]._replace(features=features[:, :1]), maps[1]], "1 features; map 0|2 features; map 0"),
        ([maps[0]._replace(features=features[:-1])], "features must be"),
        ([maps[0]._replace(features=features * np.nan)], "finite"),
        ([maps[0]._replace(cells=cells[:-1])], "transitions of"),
        ([maps[0]._replace(transitions=far)], "cells away"),
        ([maps[0]._replace(picture=picture * np.nan)], "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            learn(bad)
    with pytest.raises(ValueError, match="whole cells"):
        learn(maps, cell=2)
    with pytest.raises(TypeError, match="PicturedMap"):
        learn([tuple(maps[0])])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.0}, "gamma"),
        ({"gamma": -0.1}, "gamma"),
        ({"steps": 0}, "steps is a positive integer"),
        ({"maps_per_step": 1.5}, "maps_per_step"),
        ({"lr": 0.0}, "lr is positive"),
        ({"target_rate": 1.5}, "target_rate"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_numbers_out_of_their_range_are_refused(maps, settings, message):
    with pytest.raises(ValueError, match=message):
        learn(maps, **settings)


def test_a_generator_and_a_folder_for_the_checkpoint_are_needed(maps, tmp_path):
    with pytest.raises(TypeError, match=r"torch\.Generator"):
        learn_deep_successors(maps, gamma=GAMMA, generator=0)
    with pytest.raises(FileNotFoundError, match="no folder"):
        learn(maps, checkpoint=tmp_path / "absent" / "run.safetensors")
    with pytest.raises(IsADirectoryError):
        learn(maps, checkpoint=tmp_path)


def test_a_loss_that_is_no_longer_finite_stops_the_run(maps):
    huge = [each._replace(features=each.features * 1e38) for each in maps]
    with pytest.raises(FloatingPointError, match="at step 1"):
        learn(huge)


def test_no_discount_and_one_action_are_maps_too(maps):
    still = [each._replace(transitions=transitions(each.transitions.next[:, :1])) for each in maps]
    learned = learn(still, gamma=0.0)
    assert learned.features(maps[0].picture, maps[0].cells).shape == (3, len(maps[0].cells), 1, 2)
