"""Conditions that are text: what each level does, and which levels the past knows."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.conditions import coefficient_covariance
from scimeta.calibration.family.mixture import tails
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior

LEVEL = Law("level", lambda x, a: a + 0.0 * x, {"a": Parameter()})
DECAY = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")})
TIMES = np.linspace(0.2, 3.0, 8)
GRADES = {"316L": 0.0, "304L": 0.5, "321": -0.3}  # grade -> what it adds to ln k


def exact(groups: dict[str, list[float]]) -> list[Curve]:
    """Specimens known exactly, so that all that is left is the regression."""
    return [
        Curve(f"{grade} {i}", [1, 2, 3], [a] * 3, sigma=1e-5, conditions={"grade": grade})
        for grade, values in groups.items()
        for i, a in enumerate(values)
    ]


def steels(grades: list[str], seed: int, celsius: tuple[float, float] = (400.0, 440.0)) -> list[Curve]:
    """Decays whose ln k is the grade's, plus .01 a degree, give or take .2."""
    rng, curves = np.random.default_rng(seed), []
    for i, (grade, T) in enumerate(zip(grades, rng.uniform(*celsius, len(grades)), strict=True)):
        k = np.exp(GRADES[grade] + 0.01 * (T - 420.0) + 0.2 * rng.standard_normal())
        y = np.exp(-k * TIMES) + 0.02 * rng.standard_normal(len(TIMES))
        curves.append(Curve(f"S{i}", TIMES, y, conditions={"grade": grade, "T [degC]": T}))
    return curves


@pytest.fixture(scope="module")
def prior() -> Prior:
    return learn_prior(DECAY, steels(["316L", "304L", "316L", "304L", "321"] * 6, 0), conditions=["grade", "1/T"])


class TestEffects:
    def test_of_exact_specimens_are_the_differences_of_group_means_with_the_textbooks_interval(self):
        rng = np.random.default_rng(0)
        first, second = rng.normal(1.0, 0.3, 9).tolist(), rng.normal(3.0, 0.3, 5).tolist()
        found = learn_prior(LEVEL, exact({"A": first, "B": second}), conditions=["grade"], components=1)
        effect = found.level_effects().iloc[0]
        assert (effect["condition"], effect["level"], effect["against"]) == ("grade", "B", "A")
        textbook = stats.ttest_ind(second, first).confidence_interval(0.9)
        assert effect["value"] == pytest.approx(np.mean(second) - np.mean(first), rel=1e-6)
        np.testing.assert_allclose(effect[["lower", "upper"]].astype(float), textbook, rtol=1e-4)

    def test_are_factors_of_a_positive_parameter_and_are_told_as_such(self, prior):
        effects = prior.level_effects().set_index("level")
        assert effects["against"].unique().tolist() == ["316L"]
        for grade in ("304L", "321"):
            assert effects.loc[grade, "lower"] < np.exp(GRADES[grade]) < effects.loc[grade, "upper"]
        value, lower, upper = effects.loc["304L", ["value", "lower", "upper"]]
        assert f"grade = 304L: k x {value:.3g} ({lower:.3g} to {upper:.3g}) against 316L" in str(prior)

    def test_of_a_softplus_parameter_are_differences_and_of_a_share_odds(self):
        law = Law("two", lambda x, n, s: n * x + s, {"n": Parameter("", "softplus"), "s": Parameter("", "unit")})
        levels = Covariates(("g = B",), [0.0], [1.0], levels={"g": {"A": 3, "B": 2}})
        found = Prior.by_hand(law, [[2.0, 0.0], [0.5, 1.0]], np.eye(2), 0.1, levels).level_effects()
        assert found["as"].tolist() == ["difference", "odds"]
        softplus = np.log1p(np.exp(2.5)) - np.log1p(np.exp(2.0))
        np.testing.assert_allclose(found["value"], [softplus, np.e])
        assert np.isnan(found["lower"]).all()  # set by hand: no errors are known

    def test_intervals_cover_as_often_as_they_say(self):
        """40 families of 12: 90 % of them, give or take three standard errors."""
        held = []
        for seed in range(40):
            one = learn_prior(DECAY, steels(["316L", "304L"] * 6, seed + 50), conditions=["grade", "T"], components=1)
            effect = one.level_effects().set_index("level").iloc[0]
            truth = np.exp(GRADES[effect.name] - GRADES[effect["against"]])
            held.append(effect["lower"] < truth < effect["upper"])
        assert abs(np.mean(held) - 0.9) < 3 * (0.9 * 0.1 / 40) ** 0.5


class TestPopulation:
    def test_lies_at_each_levels_own_mean_as_wide_as_so_many_specimens_leave_it(self):
        """C (1 + 1 / specimens of the level), with the variance of Student's t: the leverage of a group mean."""
        rng = np.random.default_rng(1)
        groups = {"A": rng.normal(1.0, 0.3, 8).tolist(), "B": rng.normal(3.0, 0.3, 3).tolist()}
        found = learn_prior(LEVEL, exact(groups), conditions=["grade"], components=1)
        at = found.gaussian(found.design([{"grade": "A"}, {"grade": "B"}]))
        np.testing.assert_allclose(at.mean[:, 0], [np.mean(g) for g in groups.values()], rtol=1e-6)
        expected = tails(11, 2, 1) * found.covariance[0, 0] * (1.0 + 1.0 / np.array([8, 3]))
        np.testing.assert_allclose(at.covariance[:, 0, 0], expected, rtol=1e-5)

    def test_is_the_same_whichever_level_the_others_are_set_against(self):
        curves = steels(["316L", "304L"] * 8, 3)
        one, other = (learn_prior(DECAY, some, conditions=["grade", "T"]) for some in (curves, curves[::-1]))
        assert next(iter(one.covariates.levels["grade"])) != next(iter(other.covariates.levels["grade"]))
        for grade in ("316L", "304L"):
            at = [{"grade": grade, "T": 430.0}]
            ours, theirs = (p.gaussian(p.design(at)) for p in (one, other))
            np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-3)

    def test_a_fit_uses_the_level(self, prior):
        slow, fast = (
            Calibrator(DECAY, prior).fit([0.01], [1.0], conditions={"grade": g, "T": 420.0})["k"].value
            for g in ("321", "304L")
        )
        assert fast / slow == pytest.approx(np.exp(0.8), rel=0.25)

    def test_of_no_condition_given_is_that_of_the_first_level(self, prior):
        assert prior.covariates.middle["grade"] == "316L"
        assert "at grade = 316L, T = " in str(prior)
        drawn = prior.sample(4000, np.random.default_rng(0))["k"].median()
        assert drawn == pytest.approx(prior.to_frame()["median"]["k"], rel=0.03)


class TestLevels:
    def test_are_counted_the_most_frequent_first(self, prior):
        assert prior.covariates.levels == {"grade": {"316L": 12, "304L": 12, "321": 6}}
        assert prior.conditions == ("grade", "1/T [degC]")
        assert "learned at grade 316L (12 specimens), 304L (12 specimens), 321 (6 specimens), T 4" in str(prior)

    @pytest.mark.parametrize(
        "grade, said",
        [
            ("347", r"B7: grade = 347 was never seen by the past, which knows 316L, 304L, 321, .* without 'grade'"),
            ("316l", "B7: grade = 316l was never seen .* did you mean '316L'?"),
            (316.0, "B7: condition 'grade' is text, one of 316L, 304L, 321; got the number 316"),
        ],
    )
    def test_that_the_past_never_saw_are_refused_with_those_that_it_knows(self, prior, grade, said):
        with pytest.raises(ValueError, match=said):
            Calibrator(DECAY, prior).fit([1.0], [0.5], conditions={"grade": grade, "T": 420.0}, name="B7")

    def test_text_for_a_number_is_refused(self, prior):
        with pytest.raises(ValueError, match=r"B7: 1/T \[degC\] needs a number; T is the text 'hot'"):
            Calibrator(DECAY, prior).fit([1.0], [0.5], conditions={"grade": "321", "T": "hot"}, name="B7")

    def test_spaces_around_and_within_do_not_make_another_level(self, prior):
        at = prior.design([{"grade": " 304L ", "T": 420.0}, {"grade": "304L", "T": 420.0}])
        np.testing.assert_array_equal(at[0], at[1])

    def test_of_one_specimen_are_allowed_and_told(self):
        with pytest.warns(UserWarning, match="grade = 321 rests on one specimen"):
            found = learn_prior(DECAY, steels(["316L", "304L"] * 6 + ["321"], 4), conditions=["grade"])
        assert "321 (1 specimen)" in str(found) and "grade = 321 rests on one specimen" in str(found)
        errors = found.coefficient_errors[:, 0]
        assert errors[2] > found.covariance[0, 0] ** 0.5 > errors[1]

    def test_of_which_a_component_has_no_specimen_are_not_taken_to_be_known(self):
        """Ten standard deviations of the population, not none."""
        design = torch.tensor([[1.0, 0.0]] * 5 + [[1.0, 1.0]], dtype=torch.float64)
        weight = torch.tensor([1.0] * 5 + [0.0], dtype=torch.float64)
        parts = design, torch.eye(1, dtype=torch.float64), torch.zeros(6, 1, 1, dtype=torch.float64), weight
        assert coefficient_covariance(*parts, levels=[1])[1, 0, 1, 0] == pytest.approx(100.0)
        known = coefficient_covariance(*parts[:3], torch.ones(6, dtype=torch.float64), levels=[1])
        np.testing.assert_allclose(known, coefficient_covariance(*parts[:3]), rtol=1e-12)


class TestDoors:
    def test_numbers_as_text_beside_numbers_are_named(self):
        curves = steels(["316L", "304L"] * 4, 5)
        curves[3] = replace(curves[3], conditions={**curves[3].conditions, "T [degC]": "420"})
        said = r"condition 'T \[degC\]' is the number .* for specimen 'S0' and the text '420' for 'S3'; give numbers to"
        with pytest.raises(ValueError, match=said):
            learn_prior(DECAY, curves, conditions=["T"])

    @pytest.mark.parametrize(
        "grades, conditions, said",
        [
            (["316L"] * 8, ["grade"], "condition 'grade' is '316L' for every specimen; a constant"),
            (["316L", "304L"] * 4, ["1/grade"], "S0: 1/grade needs a number; grade is the text '316L'"),
            (["316L", "304L"] * 4, ["grade", "grade"], "the conditions grade, grade determine each other"),
            (
                ["316L", "304L", "321"],
                ["grade"],
                "at least 4 specimens for 1 parameters and 1 conditions, which have 2",
            ),
        ],
    )
    def test_levels_that_cannot_be_used_are_refused(self, grades, conditions, said):
        with pytest.raises(ValueError, match=said):
            learn_prior(DECAY, steels(grades, 6), conditions=conditions)

    def test_a_specimen_without_the_condition_is_named(self, prior):
        curves = steels(["316L", "304L"] * 4, 7)
        curves[2] = replace(curves[2], conditions={})
        with pytest.raises(ValueError, match="specimen S2 has no condition 'grade'; it has none"):
            learn_prior(DECAY, curves, conditions=["grade"])
        alike = [replace(c, conditions={"grade": "316L"}) for c in curves[:-1]] + [replace(curves[-1], conditions={})]
        with pytest.raises(ValueError, match="specimen S7 has no condition 'grade'"):
            learn_prior(DECAY, alike, conditions=["grade"])
        mixed = [*alike[:-1], replace(curves[-1], conditions={"grade [AISI]": 316.0})]
        with pytest.raises(ValueError, match="specimen S7: 'grade' is text for others; got the number 316"):
            learn_prior(DECAY, mixed, conditions=["grade"])
        with pytest.raises(ValueError, match=r"no condition 'grade'; the prior needs grade, 1/T \[degC\]; given are T"):
            Calibrator(DECAY, prior).fit([1.0], [0.5], conditions={"T": 420.0})


class TestFile:
    def test_keeps_the_levels(self, prior, tmp_path):
        again = Prior.load(prior.save(tmp_path / "prior.json"), DECAY)
        ours, theirs = (list(p.covariates.levels["grade"].items()) for p in (prior, again))
        assert ours == theirs  # in order
        assert str(again) == str(prior)
        new = {"grade": "321", "T": 410.0}
        ours, theirs = (Calibrator(DECAY, p).fit([1.0], [0.5], conditions=new)["k"] for p in (prior, again))
        assert ours == theirs
        with pytest.raises(ValueError, match="which knows 316L, 304L, 321"):
            again.design([{"grade": "347", "T": 410.0}])

    def test_whose_levels_are_missing_or_odd_is_refused(self, prior, tmp_path):
        path = prior.save(tmp_path / "prior.json")
        content = json.loads(path.read_text())
        for levels in (None, {}, {"grade": 3}, {"grade": {"316L": 12, "347": 3}}):
            path.write_text(json.dumps({**content, "levels": levels}))
            with pytest.raises(ValueError, match="damaged"):
                Prior.load(path, DECAY)

    def test_of_numbers_alone_is_as_it_was_before_levels(self, tmp_path):
        numeric = learn_prior(DECAY, steels(["316L"] * 8, 8), conditions=["T"])
        content = json.loads(numeric.save(tmp_path / "prior.json").read_text())
        assert "levels" not in content and content["conditions"]["T [degC]"].keys() == {"centre", "scale"}
        assert content["format"] == "scimeta prior, version 4"
        assert Prior.load(tmp_path / "prior.json", DECAY).covariates.levels == {}

    def test_other_languages_are_told_the_columns(self, prior):
        text = prior.to_pymc()
        compile(text, "prior", "exec")
        assert "conditions in order (grade = 304L: 1 or 0, grade = 321: 1 or 0, 1/T [degC])" in text

    def test_nothing_warns_without_a_reason(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learn_prior(DECAY, steels(["316L", "304L"] * 5, 9), conditions=["grade"])
