from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from numpy import ndarray
from scipy.stats import binom, norm

from scimeta.ensembles.alarm import agreement_alarm


def votes(rows: int, right: tuple[float, ...], rng: np.random.Generator) -> ndarray:
    """Return (rows, candidates, 2) probabilities of candidates that are right in so many rows of ten."""
    y = rng.integers(0, 2, rows)
    says = np.where(rng.random((rows, len(right))) < right, y[:, None], 1 - y[:, None])
    return np.eye(2)[says] * 0.8 + 0.1


def test_without_a_change_two_standard_errors_are_rare():
    rng, repeats, hits, each = np.random.default_rng(0), 400, 0, []
    for _ in range(repeats):
        before, now = (votes(rows, (0.8, 0.85, 0.7, 0.95), rng) for rows in (600, 300))
        alarm = agreement_alarm(before, now)
        hits += abs(alarm.z) > 2
        each.append(alarm.z_each)
        assert not alarm.rings
    assert hits <= binom.ppf(0.999, repeats, 0.05)
    np.testing.assert_allclose(np.std(each, axis=0), 1, atol=4 / np.sqrt(2 * repeats))
    np.testing.assert_allclose(np.mean(each, axis=0), 0, atol=4 / np.sqrt(repeats))


def test_a_candidate_that_turns_is_named():
    rng = np.random.default_rng(1)
    alarm = agreement_alarm(
        votes(2000, (0.85, 0.85, 0.85, 0.95), rng), votes(900, (0.85, 0.85, 0.85, 0.05), rng), ["a", "b", "c", "cue"]
    )
    assert alarm.rings
    assert alarm.suspect == "cue"
    assert alarm.z < -20
    assert "ALARM: cue fell out with the others" in str(alarm)


def test_z_is_the_difference_of_shares_over_its_standard_error():
    a = np.array([0, 0, 1, 1, 1, 0, 1, 0])
    before = np.stack([np.eye(2)[a], np.eye(2)[np.where(np.arange(8) < 6, a, 1 - a)]], axis=1)
    now = np.stack([np.eye(2)[a], np.eye(2)[np.where(np.arange(8) < 3, a, 1 - a)]], axis=1)
    alarm = agreement_alarm(before, now)
    np.testing.assert_allclose([alarm.before, alarm.now], [[6 / 8] * 2, [3 / 8] * 2])
    p, q = 7 / 10, 4 / 10  # with one more of each
    expected = (3 / 8 - 6 / 8) / np.sqrt(p * (1 - p) / 8 + q * (1 - q) / 8)
    np.testing.assert_allclose(alarm.z_each, expected)
    np.testing.assert_allclose(2 * norm.sf(-alarm.z), 2 * 2 * norm.sf(-expected), rtol=1e-8)  # twice looked at


def test_values_are_compared_by_their_distance():
    rng = np.random.default_rng(2)
    truth = rng.standard_normal(500)
    before = truth[:, None] + 0.1 * rng.standard_normal((500, 3))
    now = before + np.array([0.0, 0.0, 1.0])
    alarm = agreement_alarm(before, now, ["a", "b", "c"])
    assert alarm.rings
    assert alarm.suspect == "c"
    np.testing.assert_allclose(alarm.now[2], -np.abs(now[:, 2] - now[:, :2].mean(1)).mean())
    assert not agreement_alarm(before[:250], before[250:]).rings


def test_the_same_rows_again_do_not_ring():
    Z = votes(50, (0.7, 0.8), np.random.default_rng(3))
    assert agreement_alarm(Z, Z).z == 0.0
    sure = np.tile(np.eye(2)[[0, 0]], (20, 1, 1))
    assert agreement_alarm(sure, sure[:5]).z == 0.0


def test_a_change_common_to_all_goes_unseen():
    Z = votes(200, (0.9, 0.9, 0.9), np.random.default_rng(4))
    assert agreement_alarm(Z, Z[..., ::-1]).z == 0.0


def test_a_change_beyond_all_numbers_is_still_a_number():
    Z = np.tile(np.eye(2)[[0, 0, 0]], (100_000, 1, 1))
    turned = Z.copy()
    turned[:, 2] = [0, 1]
    alarm = agreement_alarm(Z, turned)
    assert np.isfinite(alarm.z)
    assert alarm.z < -1000


def test_it_tabulates_and_plots():
    Z = votes(50, (0.7, 0.8), np.random.default_rng(5))
    alarm = agreement_alarm(Z, Z[:20], ["a", "b"])
    assert list(alarm.to_frame().columns) == ["before", "now", "z"]
    assert "50 rows before, 20 now" in str(alarm)
    ax = alarm.plot()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    matplotlib.pyplot.close(ax.figure)


def test_matrices_that_do_not_fit_together_are_refused():
    Z = votes(20, (0.7, 0.8), np.random.default_rng(6))
    for other in (Z[:, :1], Z[..., 0], Z[:1]):
        with pytest.raises(ValueError, match=r"the same candidates|names must be"):
            agreement_alarm(Z, other)
    with pytest.raises(ValueError, match="two candidates or more"):
        agreement_alarm(Z[:, :1], Z[:, :1])
