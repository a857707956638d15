"""Movements: exact derivatives, limits that hold at every instant, excitation that shows the payload."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.arm.movement import Movement, condition, draw_movement, excitation, mass_bound
from simulators.arm.urdf import read_chain

DENSE = np.linspace(0.0, 4.0, 20001)


def test_derivatives_are_those_of_the_positions():
    movement = draw_movement(read_chain("iiwa"), np.random.default_rng(0))
    t, step = np.linspace(0.1, 3.9, 40), 1e-5
    q, qd, qdd = movement.at(t)
    ahead, behind = movement.at(t + step), movement.at(t - step)
    np.testing.assert_allclose(qd, (ahead[0] - behind[0]) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(qdd, (ahead[1] - behind[1]) / (2 * step), atol=1e-8)
    assert q.shape == (40, 7)


def test_a_movement_repeats_after_its_period_and_follows_the_shape_of_time():
    movement = draw_movement(read_chain("panda"), np.random.default_rng(1), seconds=3.0)
    t = np.array([[0.0, 0.4], [1.1, 2.9]])
    assert movement.at(t)[0].shape == (2, 2, 7)
    for now, later in zip(movement.at(t), movement.at(t + 3.0), strict=True):
        np.testing.assert_allclose(now, later, atol=1e-11)


@pytest.mark.parametrize("name", ["iiwa", "panda"])
def test_drawn_movements_keep_every_limit_at_every_instant_and_meet_one(name):
    chain = read_chain(name)
    middle, room = (chain.upper + chain.lower) / 2, 0.9 * (chain.upper - chain.lower) / 2
    rng = np.random.default_rng(2)
    for _ in range(5):
        q, qd, qdd = draw_movement(chain, rng).at(DENSE)
        use = [np.abs(q - middle).max(0) / room, np.abs(qd).max(0) / 1.2, np.abs(qdd).max(0) / 4.0]
        spread = (q.max(0) - q.min(0)) / (2 * room)
        assert np.max(use) <= 1.0 + 1e-9
        assert np.max([spread, use[1], use[2]]) > 0.99


def test_a_narrow_range_is_kept_between_the_instants_looked_at_too():
    chain = read_chain("iiwa")
    middle, room = (chain.upper + chain.lower) / 2, 0.05 * (chain.upper - chain.lower) / 2
    q = draw_movement(chain, np.random.default_rng(7), fraction=0.05).at(np.linspace(0.0, 4.0, 200001))[0]
    use = np.abs(q - middle).max(0) / room
    assert 0.999 < use.max() <= 1.0


def test_the_chains_own_speed_limits_hold_where_they_are_lower():
    chain = read_chain("panda")
    _, qd, _ = draw_movement(chain, np.random.default_rng(3), seconds=2.0, speed=50.0, acceleration=1e6).at(DENSE / 2)
    assert (np.abs(qd).max(0) <= chain.speed).all()


def test_offsets_differ_and_reach_over_the_joints_ranges():
    chain, rng = read_chain("iiwa"), np.random.default_rng(4)
    offsets = np.stack([draw_movement(chain, rng).offset for _ in range(200)])
    assert (offsets.std(0) > 0.15 * (chain.upper - chain.lower)).all()


def test_excitation_is_the_best_of_its_candidates():
    chain = read_chain("iiwa")
    best = excitation(chain, np.random.default_rng(5), candidates=20)
    rng = np.random.default_rng(5)
    bounds = [mass_bound(chain, draw_movement(chain, rng)) for _ in range(20)]
    assert mass_bound(chain, best) == min(bounds)


def test_a_movement_that_stands_still_says_nothing_of_the_payload():
    still = Movement(np.full(7, 0.3), np.zeros((2, 7)), np.zeros((2, 7)), 4.0)
    assert condition(read_chain("iiwa"), still) == mass_bound(read_chain("iiwa"), still) == np.inf


def test_wrong_numbers_are_refused():
    chain, rng = read_chain("iiwa"), np.random.default_rng(6)
    for name, value in (("seconds", 0.0), ("speed", -1.0), ("acceleration", np.nan), ("fraction", 1.5)):
        with pytest.raises(ValueError, match=f"draw_movement: {name} must be"):
            draw_movement(chain, rng, **{name: value})
    with pytest.raises(ValueError, match="whole number"):
        draw_movement(chain, rng, harmonics=2.5)
    with pytest.raises(ValueError, match="candidates must be 1 or more"):
        excitation(chain, rng, candidates=0)
    with pytest.raises(ValueError, match=r"sine \(harmonics, n\); got \(7,\) and \(2, 6\)"):
        Movement(np.zeros(7), np.zeros((2, 6)), np.zeros((2, 6)), 4.0)
    with pytest.raises(ValueError, match="give them alike"):
        Movement(np.zeros(7), np.zeros((2, 7)), np.zeros((3, 7)), 4.0)
    with pytest.raises(ValueError, match="cosine must be finite"):
        Movement(np.zeros(1), np.zeros((1, 1)), np.full((1, 1), np.nan), 4.0)
    with pytest.raises(ValueError, match="seconds must be positive"):
        Movement(np.zeros(1), np.zeros((1, 1)), np.zeros((1, 1)), -4.0)
