"""Transitions of finite maps: what they average to, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from scimeta.domains.gridworld.transitions import (
    check_gamma,
    check_policy,
    expect,
    one_hot,
    policy_matrix,
    transitions,
    uniform_policy,
)
from simulators.gridworld.layouts import four_rooms, town


def test_city_arrays_are_transitions():
    city = town()
    made = transitions(city.next, city.probability)
    assert (made.states, made.actions) == (len(city), 5)
    for action, matrix in enumerate(city.matrices()):
        always = policy_matrix(made, one_hot(np.full(made.states, action), 5))
        np.testing.assert_allclose(always.toarray(), matrix.toarray(), atol=1e-15)


def test_expectation_is_the_product_with_the_matrices():
    city = town()
    made = transitions(city.next, city.probability)
    values = np.random.default_rng(0).standard_normal((made.states, 3))
    want = np.stack([matrix @ values for matrix in city.matrices()], axis=1)
    np.testing.assert_allclose(expect(made, values), want, atol=1e-14)
    np.testing.assert_allclose(expect(made, values[:, 0]), want[..., 0], atol=1e-14)


def test_policy_matrix_mixes_the_actions_and_its_rows_sum_to_one():
    city = town()
    made = transitions(city.next, city.probability)
    policy = np.random.default_rng(1).dirichlet(np.ones(5), made.states)
    matrix = policy_matrix(made, policy)
    want = sum(policy[:, [a]] * m.toarray() for a, m in enumerate(city.matrices()))
    np.testing.assert_allclose(matrix.toarray(), want, atol=1e-15)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-14)


def test_certain_actions_need_no_outcomes():
    city = four_rooms()
    made = transitions(city.next[..., 0])
    np.testing.assert_array_equal(made.next, city.next)
    np.testing.assert_array_equal(made.probability, 1)


@pytest.mark.parametrize(
    ("after", "chance", "said"),
    [
        (np.zeros((0, 2), dtype=int), None, "each length at least 1"),
        (np.zeros((2, 2)), None, "whole numbers"),
        ([[0, 2], [0, 1]], None, r"0\.\.1; got 0\.\.2"),
        ([[0, -1], [0, 1]], None, r"got -1\.\.1"),
        ([[[0, 1]]] * 2, None, "probability is needed"),
        ([[0, 1], [0, 1]], [[1.0, 0.5], [1, 1]], "sum to 1"),
        ([[0, 1], [0, 1]], [[1.0, np.nan], [1, 1]], "sum to 1"),
        ([[0, 1], [0, 1]], [1.0, 1.0], "give them alike"),
    ],
)
def test_wrong_transitions_are_refused(after, chance, said):
    with pytest.raises(ValueError, match=said):
        transitions(after, chance)


def test_policies_are_checked_by_name_of_the_caller():
    made = transitions([[1, 0], [1, 0]])
    np.testing.assert_array_equal(check_policy(made, [1, 0], "here"), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(check_policy(made, uniform_policy(made), "here"), 0.5)
    for bad in ([2, 0], [[0.5, 0.6], [1, 0]], [[1.5, -0.5], [1, 0]], [[np.nan, 1], [1, 0]], np.ones((3, 2)) / 2):
        with pytest.raises(ValueError, match="here: the policy"):
            check_policy(made, np.array(bad), "here")


@pytest.mark.parametrize("gamma", [1.0, 1.5, -0.1, float("nan")])
def test_a_discount_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        check_gamma(gamma, "here")
