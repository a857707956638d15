from __future__ import annotations

import numpy as np
import pytest

from scimeta.ensembles.level_one import check_groups, check_matrix, check_target

P = np.full((4, 2, 3), 1 / 3)


def test_labels_of_any_kind_are_numbered_in_sorted_order():
    np.testing.assert_array_equal(check_target(np.array(["b", "a", "c", "b"]), P), [1, 0, 2, 1])
    np.testing.assert_array_equal(check_target(np.array([False, True, True, False]), P[..., :2]), [0, 1, 1, 0])
    np.testing.assert_array_equal(check_target(np.array([5, 7, 9, 5]), P), [0, 1, 2, 0])


def test_numbers_of_classes_stay_as_they_are_though_one_is_missing():
    np.testing.assert_array_equal(check_target(np.array([0, 2, 2, 0]), P), [0, 2, 2, 0])


def test_groups_are_sorted_and_numbered():
    names, numbers = check_groups(["b", "a", "b", "a"], 4, "groups")
    assert names == ("a", "b")
    np.testing.assert_array_equal(numbers, [1, 0, 1, 0])


@pytest.mark.parametrize(
    ("Z", "names", "message"),
    [
        (np.zeros(3), None, r"Z must be \(n, candidates\) values or .* got shape \(3,\)"),
        (np.zeros((3, 2, 1)), None, "got shape"),
        (np.array([[1.0, np.nan]]), None, "leave out the rows that no fold holds out"),
        (np.full((3, 2, 2), 0.3), None, "must add up to 1"),
        (np.zeros((3, 2)), ["a"], "names must be 2 different ones"),
        (np.zeros((3, 2)), ["a", "a"], "names must be 2 different ones"),
    ],
)
def test_a_matrix_that_is_none_is_refused(Z, names, message):
    with pytest.raises(ValueError, match=message):
        check_matrix(Z, names)


def test_a_target_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"y must be \(4,\), one a row of Z; got shape \(3,\)"):
        check_target(np.zeros(3), P)
    with pytest.raises(ValueError, match="y has 2 different labels, Z has 3 classes"):
        check_target(np.array(["a", "b", "a", "b"]), P)
    with pytest.raises(ValueError, match="y must be finite"):
        check_target(np.array([0.0, np.inf]), np.zeros((2, 1)))


def test_groups_that_are_one_or_too_small_are_refused():
    with pytest.raises(ValueError, match=r"groups must be \(4,\), one a row"):
        check_groups(["a"], 4, "groups")
    with pytest.raises(ValueError, match="groups must be two or more different ones; got only"):
        check_groups(["a"] * 4, 4, "groups")
    with pytest.raises(ValueError, match=r"too few in b \(1\); merge or leave out"):
        check_groups(["a", "a", "a", "b"], 4, "groups")
