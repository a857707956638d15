"""Copies of rows are told from what a coarse table repeats by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy import ndarray
from numpy.random import Generator
from scipy.sparse import csr_matrix
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.preprocessing import OneHotEncoder

from scimeta.ensembles.copies import beyond_chance, columns_of, row_numbers

Draw = Callable[[Generator], tuple[ndarray, ndarray]]


def copied(X, y: ndarray) -> bool:
    return beyond_chance(X, np.asarray(y), np.asarray(y).dtype.kind != "f")


def numbers(rng: Generator) -> tuple[ndarray, ndarray]:
    return rng.standard_normal((200, 4)), rng.standard_normal(200)


def labelled(rng: Generator) -> tuple[ndarray, ndarray]:
    return rng.standard_normal((200, 4)), np.arange(200) % 10 == 0


def coarse(rng: Generator) -> tuple[ndarray, ndarray]:
    return rng.integers(0, 3, (200, 4)), rng.integers(0, 2, 200)


def a_function(rng: Generator) -> tuple[ndarray, ndarray]:
    X = rng.integers(0, 3, (200, 5))
    return X, (X.sum(1) > 5).astype(int)


def species(rng: Generator) -> tuple[ndarray, ndarray]:
    """Columns that depend on one another through a hidden class."""
    shares = np.random.default_rng(9).dirichlet(np.full(4, 0.3), (6, 8))
    hidden = rng.integers(0, 6, 200)
    return (shares[hidden].cumsum(2) < rng.random((200, 8, 1))).sum(2), hidden % 2


def one_hot(rng: Generator) -> tuple[ndarray, ndarray]:
    X, y = species(rng)
    return OneHotEncoder(sparse_output=False).fit_transform(X), y


def rounded(rng: Generator) -> tuple[ndarray, ndarray]:
    return np.column_stack([rng.standard_normal(200).round(1), rng.integers(0, 3, (200, 2))]), rng.integers(0, 2, 200)


def words(rng: Generator) -> tuple[ndarray, ndarray]:
    return np.array([f"word {k}" for k in rng.zipf(1.5, 200)]), rng.integers(0, 2, 200)


def design(rng: Generator) -> tuple[ndarray, ndarray]:
    x = np.repeat(np.linspace(0, 1, 10), 20)
    return np.column_stack([x, x**2]), x + rng.standard_normal(200)


@pytest.mark.parametrize("draw", [numbers, coarse, a_function, species, one_hot, rounded, words, design])
def test_independent_draws_are_no_copies(draw: Draw):
    """At most one in a thousand by each sign; of 40 tables two would be a chance of less than one in a hundred."""
    assert sum(copied(*draw(np.random.default_rng(seed))) for seed in range(40)) <= 1


@pytest.mark.parametrize("load", [load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine])
def test_known_tables_are_no_copies(load):
    assert not copied(*load(return_X_y=True))


@pytest.mark.parametrize("draw", [numbers, labelled, coarse, a_function, species, one_hot, rounded])
def test_every_row_twice_are_copies(draw: Draw):
    for seed in range(10):
        X, y = draw(np.random.default_rng(seed))
        assert copied(np.concatenate([X, X]), np.append(y, y))


@pytest.mark.parametrize("share", [0.005, 0.1])
@pytest.mark.parametrize("draw", [numbers, labelled])
def test_few_copies_of_rows_of_numbers_are_seen(draw: Draw, share):
    X, y = draw(np.random.default_rng(0))
    some = np.arange(round(share * 200))
    assert copied(np.concatenate([X, X[some]]), np.append(y, y[some]))


def test_a_class_that_was_oversampled_is_seen():
    rng = np.random.default_rng(0)
    X, y = labelled(rng)
    more = rng.choice(np.flatnonzero(y), 160)
    assert copied(np.concatenate([X, X[more]]), np.append(y, y[more]))


@pytest.mark.parametrize(
    "blur",
    [
        lambda X: X.astype(np.float32).astype(float),
        lambda X: X.round(6),
        lambda X: X * (1 + 1e-9 * np.random.default_rng(0).standard_normal(X.shape)),
        lambda X: (X + 1e3) - 1e3,
    ],
    ids=["float32", "six digits", "noise", "offset"],
)
@pytest.mark.parametrize("rows", [200, 5000])
def test_copies_that_were_rounded_are_the_same_rows(blur, rows):
    X = np.random.default_rng(1).standard_normal((rows, 6))
    found = row_numbers(columns_of(np.vstack([X, blur(X[:100])])))
    np.testing.assert_array_equal(found[:100], found[rows:])
    assert len(np.unique(found)) == rows


@pytest.mark.parametrize("kind", [list, np.array, csr_matrix, "frame", "images"])
def test_rows_of_any_kind_are_numbered(kind):
    X = np.random.default_rng(2).standard_normal((30, 4))
    X[3, 1] = X[4] = np.nan if kind != csr_matrix else 0.0
    if kind == "frame":
        rows = pd.DataFrame(X, columns=[*"abcd"]).assign(
            text=[f"t{i % 3}" for i in range(30)],
            kind=pd.Categorical(["u", None] * 15),
            day=pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(30), "D"),
        )
        twice = pd.concat([rows, rows.iloc[:5]])
    else:
        form = (lambda x: x.reshape(-1, 2, 2)) if kind == "images" else kind
        twice = form(np.vstack([X, X[:5]]))
    found = row_numbers(columns_of(twice))
    np.testing.assert_array_equal(found[:5], found[30:])
    assert len(np.unique(found)) == 30


def test_infinities_and_missing_values_are_values_of_their_own():
    assert len(np.unique(columns_of(np.array([[np.inf], [-np.inf], [np.nan], [0.0], [np.nan]])))) == 4
