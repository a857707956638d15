"""Laws compared by what they predict: the true one wins, equals tie, and what cannot be compared is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from scimeta.calibration.comparison import Comparison, compare, crps
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.laws.law import Law, Parameter

TIMES = np.linspace(0.2, 3.0, 9)
RATE = {"rate": Parameter("1/s", "positive")}
DECAY = Law("decay", lambda t, rate: torch.exp(-rate * t), RATE)
STRETCH = Law("stretch", lambda t, size: size * torch.exp(-t), {"size": Parameter("", "positive")})
SUM = Law("sum", lambda t, rate, offset: torch.exp(-rate * t) + offset, {**RATE, "offset": Parameter()})


def decays(count: int = 16, seed: int = 0, noise: float = 0.02) -> list[Curve]:
    rng = np.random.default_rng(seed)
    rates = np.exp(0.4 * rng.standard_normal(count))
    return [Curve(f"A{i}", TIMES, np.exp(-r * TIMES) + noise * rng.standard_normal(9)) for i, r in enumerate(rates)]


@pytest.fixture(scope="module")
def found() -> Comparison:
    same = replace(DECAY, name="the same", parameters={"tau": Parameter("s", "positive")},
                   fn=lambda t, tau: torch.exp(-t / tau))  # fmt: skip
    return compare([STRETCH, DECAY, same], decays(32), folds=4)  # what a wrong law misses is learned, too


class TestScore:
    def test_of_a_gaussian_forecast_is_the_closed_form(self):
        levels = (np.arange(2000) + 0.5) / 2000
        for y in (-1.3, 0.0, 2.4):
            exact = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - np.pi**-0.5
            assert float(crps(stats.norm.ppf(levels), np.array(y))) == pytest.approx(exact, rel=1e-3)

    def test_with_the_twenty_quantiles_in_use_it_is_within_three_per_cent_on_average(self):
        quantiles = stats.norm.ppf((np.arange(20) + 0.5) / 20)
        y = np.linspace(-8.0, 8.0, 4001)
        mean = integrate.trapezoid(crps(quantiles[:, None], y) * stats.norm.pdf(y), y)
        assert mean == pytest.approx(np.pi**-0.5, rel=0.03)

    def test_is_lowest_in_the_mean_for_the_distribution_that_the_data_have(self):
        y = np.random.default_rng(0).standard_normal(4000)
        levels = (np.arange(20) + 0.5) / 20
        score = {sd: crps(sd * stats.norm.ppf(levels)[:, None], y).mean() for sd in (0.5, 0.8, 1.0, 1.25, 2.0)}
        assert min(score, key=score.get) == 1.0


class TestComparison:
    def test_the_law_that_is_true_wins(self, found):
        assert set(found.ties) == {"decay", "the same"}
        assert found.to_frame().index[-1] == "stretch"

    def test_two_spellings_of_one_law_tie(self, found):
        frame = found.to_frame()
        verdicts = sorted(frame.loc[["decay", "the same"], "verdict"])
        assert verdicts == ["best", "tied with the best"]
        assert "a tie: " in str(found) and "stretch" in str(found)

    def test_its_scores_are_those_of_the_noise_where_the_law_is_true(self, found):
        frame = found.to_frame()
        assert 0.02 < frame.loc["decay", "rmse"] < 0.026  # noise .02 and what three points leave open
        assert frame.loc["decay", "crps"] < 0.56 * 0.026 + 0.001  # a Gaussian's CRPS is .56 of its sd
        assert 0.83 <= frame.loc["decay", "coverage"] <= 0.97
        assert (frame["interval score"] > 3.0 * frame["crps"]).all()

    def test_standard_errors_are_those_of_paired_differences(self, found):
        paired = found.crps[0] - found.crps[found.laws.index(found.best)]
        row = found.to_frame().loc["stretch"]
        assert row["behind"] == pytest.approx(paired.mean())
        assert row["se"] == pytest.approx(stats.sem(paired))

    def test_a_needless_parameter_gains_nothing(self):
        frame = compare([DECAY, SUM], decays(12, seed=3), folds=3).to_frame()
        assert frame.loc["decay", "crps"] <= frame.loc["sum", "crps"]

    @pytest.mark.parametrize("factor, verdict", [(0.95, "tied with the best"), (1.05, "worse")])
    def test_a_law_is_worse_only_beyond_what_chance_makes_of_so_many_specimens(self, factor, verdict):
        apart = np.array([1.0, -1.0, 0.5, -0.5, 0.0, 0.0])
        apart += factor * stats.t.ppf(0.975, 5) * stats.sem(apart)
        other = np.zeros((2, 6))
        scores = [np.stack([np.ones(6), 1.0 + apart]), other, other, other, other > 0, other == 0]
        found = Comparison(("a", "b"), tuple("uvwxyz"), *scores, seen=3, level=0.9, unit="mm")
        assert found.to_frame().loc["b", "verdict"] == verdict
        assert ("a predicts best" in str(found)) == (verdict == "worse")

    def test_it_is_the_same_whatever_the_order_of_the_laws(self, found):
        again = compare([DECAY, STRETCH], decays(32), folds=4)
        np.testing.assert_allclose(again.crps[0], found.crps[1])
        np.testing.assert_allclose(again.crps[1], found.crps[0])

    def test_specimens_of_unequal_grids_are_scored_where_they_were_measured(self):
        whole = decays()
        ragged = [replace(c, x=c.x[: 9 - i % 3], y=c.y[: 9 - i % 3]) for i, c in enumerate(whole)]
        found = compare([DECAY, STRETCH], ragged, folds=4)
        assert np.isfinite(found.crps).all()
        assert found.best == "decay"

    def test_it_draws_itself(self, found):
        ax = found.plot()
        assert [tick.get_text() for tick in ax.get_yticklabels()] == list(found.to_frame().index[::-1])


class TestDoors:
    def test_laws_that_are_none(self):
        with pytest.raises(TypeError, match="takes a list of Law"):
            compare([DECAY, "decay"], decays())

    @pytest.mark.parametrize("chosen", [[], [DECAY], [DECAY, DECAY]])
    def test_too_few_laws_or_one_name_twice(self, chosen):
        with pytest.raises(ValueError, match="two laws or more, each with its own name"):
            compare(chosen, decays())

    def test_specimens_without_later_points(self):
        with pytest.raises(ValueError, match="nothing is left to predict of A0, A1"):
            compare([DECAY, STRETCH], [curve.head(3) for curve in decays(2)])

    @pytest.mark.parametrize("settings", [{"seen": 0}, {"folds": 1}])
    def test_settings_that_leave_nothing(self, settings):
        with pytest.raises(ValueError, match="1 seen point, 2 folds"):
            compare([DECAY, STRETCH], decays(), **settings)

    def test_a_law_that_cannot_be_learned_is_named(self):
        with pytest.raises(ValueError, match="compare, law sum: learn_prior needs at least 3 specimens"):
            compare([DECAY, SUM], decays(3))

    def test_a_law_of_the_wrong_shape_is_named(self):
        wrong = Law("wrong", lambda t, rate: rate * t.sum(), RATE)
        with pytest.raises(ValueError, match=r"compare, law wrong: .*fn returned shape \(\) for x of shape \(9,\)"):
            compare([DECAY, wrong], decays())

    def test_a_condition_that_is_missing_is_named(self):
        with pytest.raises(ValueError, match="has no condition 'T'"):
            compare([DECAY, STRETCH], decays(), conditions=["T"])
