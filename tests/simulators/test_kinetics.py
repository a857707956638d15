"""Simulated alloys: what is drawn is what was asked for, and again with the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from simulators import kinetics


def draw(specimens: int = 5, seed: int = 0, **options: object) -> kinetics.Family:
    return kinetics.alloy_family(specimens, rng=np.random.default_rng(seed), **options)


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, again, other = draw(), draw(), draw(seed=1)
    np.testing.assert_array_equal(np.stack(first.fractions), np.stack(again.fractions))
    assert not np.array_equal(first.k, other.k)


def test_the_population_is_the_one_that_the_benchmarks_define() -> None:
    family = draw(40_000, times=np.array([1.0]))
    theta = np.stack([np.log(family.k), family.n])
    assert theta.mean(1) == pytest.approx([0.0, 2.5], abs=0.01)
    assert np.cov(theta) == pytest.approx(np.array([[0.16, 0.10], [0.10, 0.25]]), abs=0.006)
    assert family.times[0].tolist() == [1.0]
    assert draw().times[0] == pytest.approx(np.linspace(0.1, 3.0, 30))


def test_exponents_too_small_are_drawn_again() -> None:
    family = draw(2000, mean=(0.0, 0.5), covariance=((0.16, 0.1), (0.1, 0.25)))
    assert len(family) == 2000
    assert family.n.min() > 0.3


def test_measured_minus_truth_is_the_noise() -> None:
    family = draw(1000)
    errors = np.stack(family.fractions) - family.truth(np.linspace(0.1, 3.0, 30))
    assert errors.std() == pytest.approx(0.02, rel=0.02)
    assert errors.mean() == pytest.approx(0.0, abs=0.0005)


def test_without_noise_the_curve_is_the_law() -> None:
    family = draw(3, noise=0.0)
    for time, fraction, k, n in zip(family.times, family.fractions, family.k, family.n, strict=True):
        assert fraction == pytest.approx(1.0 - np.exp(-((k * time) ** n)), abs=1e-15)


def test_outliers_stray_with_their_noise_and_leave_the_rest_alone() -> None:
    clean, dirty = draw(1000), draw(1000, outliers=0.05)
    np.testing.assert_array_equal(clean.k, dirty.k)
    shift = np.stack(dirty.fractions) - np.stack(clean.fractions)
    noise = np.stack(clean.fractions) - clean.truth(clean.times[0])
    moved = shift != 0.0
    assert moved.mean() == pytest.approx(0.05, abs=0.005)
    assert shift[moved] == pytest.approx(0.15 * np.sign(noise[moved]), abs=1e-12)


def test_incubation_and_final_fraction_are_drawn_only_where_asked() -> None:
    plain, full = draw(500), draw(500, noise=0.0, incubation=(0.2, 0.4), final=(0.6, 0.9))
    assert (plain.t0 == 0.0).all()
    assert (plain.x_inf == 1.0).all()
    assert 0.2 <= full.t0.min() < full.t0.max() <= 0.4
    assert 0.6 <= full.x_inf.min() < full.x_inf.max() <= 0.9
    assert (full.truth(np.array([0.0, 0.2])) == 0.0).all()
    assert full.truth(np.array([1e6]))[:, 0] == pytest.approx(full.x_inf)


def test_alloys_may_be_measured_at_times_of_their_own() -> None:
    grids = [np.array([0.5]), np.linspace(0.1, 1.0, 7), np.array([])]
    family = draw(3, times=grids)
    assert [len(fraction) for fraction in family.fractions] == [1, 7, 0]
    frame = family.to_frame()
    assert frame["alloy"].tolist() == ["A000"] + ["A001"] * 7
    assert frame["time_s"].tolist() == [0.5, *grids[1]]
    assert frame["fraction"].to_numpy() == pytest.approx(np.concatenate(family.fractions))


def test_the_truth_comes_as_a_table_too() -> None:
    family = kinetics.two_kinds(4, rng=np.random.default_rng(0))
    table = family.truth_frame()
    assert list(table.columns) == ["alloy", "k", "n", "t0", "x_inf", "kind"]
    assert table["kind"].tolist() == [0, 1, 0, 1]
    assert table["k"].to_numpy() == pytest.approx(family.k)


def test_two_kinds_are_half_each_and_far_apart() -> None:
    family = kinetics.two_kinds(20_000, rng=np.random.default_rng(0), times=np.array([1.0]))
    for kind, mean, spread in ((0, (-0.25, 1.4), (0.25, 0.15)), (1, (0.25, 3.4), (0.25, 0.2))):
        theta = np.stack([np.log(family.k), family.n])[:, family.kind == kind]
        assert theta.shape[1] == 10_000
        assert theta.mean(1) == pytest.approx(mean, abs=0.012)
        assert theta.std(1) == pytest.approx(spread, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"specimens": 0}, "1 or more"),
        ({"specimens": 2.5}, "whole number"),
        ({"times": []}, "one such array an alloy"),
        ({"times": 5.0}, "one such array an alloy"),
        ({"noise": float("nan")}, "noise must be 0 or more"),
        ({"incubation": 0.2}, "incubation must be"),
        ({"incubation": (0.0, float("inf"))}, "incubation must be"),
        ({"mean": (float("nan"), 2.0)}, "two finite numbers"),
        ({"covariance": ((1.0, 2.0), (2.0, 1.0))}, "positive definite"),
        ({"times": [np.array([1.0])]}, "1 arrays for 5 specimens"),
        ({"times": np.array([-1.0, 1.0])}, "alloy 0"),
        ({"noise": -0.1}, "noise must be 0 or more"),
        ({"outliers": 5.0}, "between 0 and 1"),
        ({"incubation": (0.4, 0.2)}, "incubation must be"),
        ({"final": (0.5, 1.2)}, "final must be"),
        ({"mean": (0.0, -9.0)}, "hardly any n"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**options)
