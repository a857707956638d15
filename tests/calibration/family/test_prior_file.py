"""The file of a prior: a family comes back whole, files of older versions are read, damaged ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.family.discrepancy import Discrepancy, Place
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Learned
from scimeta.calibration.laws.law import Law, Parameter

LINE = Law("line", lambda x, a, b: a + b * x, {"a": Parameter(), "b": Parameter()}, Axis("x"), Axis("y"))
VERSION_3 = Path(__file__).with_name("prior_version_3.json")


def missed() -> Discrepancy:
    """Return a discrepancy with everything that one can have."""
    root = np.random.default_rng(1).standard_normal((6, 6))
    knots = np.array([0.0, 1 / 3, 2.0]), np.array([0.1, 1.0])
    mean, own, doubt = np.linspace(-1.0, 1.0, 6) / 3.0, root @ root.T, 0.1 * root.T @ root
    population = np.array([[2.0, 0.3], [0.3, 1.0]])
    return Discrepancy(("prediction", "x"), knots, mean, own, doubt, population, 7.0, 1e-3 / 3.0, 0.7, 0.01)


def whole() -> Prior:
    """Return a prior with what version 4 brought."""
    plain = Prior.by_hand(LINE, [[1.0, 0.5]], np.eye(2), 0.1)
    between = torch.tensor([[0.04, 0.01], [0.01, 1 / 3]], dtype=torch.float64)
    model = ErrorModel("power", 0.0, 1 / 3, 3.1, 0.031)
    family = replace(plain.family, discrepancy=missed(), error_model=model, between=between)
    past = {"S1": np.zeros(2), "S2": np.ones(2)}
    learned = Learned(past, (0.1, 2.0), groups={"S1": "D", "S2": "E"}, coverage={"D": 1 / 3, "E": 0.9})
    return Prior(family, learned=learned)


def saved(prior: Prior, path: Path) -> dict:
    return json.loads(prior.save(path).read_text())


def older(tmp_path: Path, version: int, **changes: object) -> Path:
    """Return a file of an older version of a prior set by hand, with changes."""
    plain = Prior.by_hand(LINE, [[1.0, 0.5]], np.eye(2), 0.1)
    content = saved(plain, tmp_path / "today.json") | {"wander": 0.02, "misfit": None}
    content = {key: value for key, value in content.items() if key not in ("error model", "between")}
    if version < 3:
        component = content.pop("components")[0]
        content |= {key: component[key] for key in ("coefficients", "covariance")}
        content |= {"past": {}, "x range": [0.0, 1.0], "converged": True, "modes": [], "coefficient errors": None}
        content["objective"] = "likelihood"
    path = tmp_path / f"version_{version}.json"
    path.write_text(json.dumps(content | {"format": f"scimeta prior, version {version}"} | changes))
    return path


class TestVersion4:
    def test_what_a_family_has_beside_its_population_comes_back_to_the_last_bit(self, tmp_path):
        before = whole()
        after = Prior.load(before.save(tmp_path / "prior.json"), LINE)
        one, other = before.family, after.family
        assert other.error_model == one.error_model and other.between.equal(one.between)
        assert other.discrepancy.coordinates == one.discrepancy.coordinates
        for ours, theirs in zip(one.discrepancy.knots, other.discrepancy.knots, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for name in ("mean", "covariance", "mean_covariance", "population", "size", "taper", "x_scale", "start"):
            np.testing.assert_array_equal(getattr(other.discrepancy, name), getattr(one.discrepancy, name), name)
        assert after.learned.groups == before.learned.groups and after.learned.coverage == before.learned.coverage
        assert str(after) == str(before)

    def test_it_speaks_of_one_discrepancy_alone(self, tmp_path):
        content = saved(whole(), tmp_path / "prior.json")
        assert content["format"] == "scimeta prior, version 4"
        assert not {"misfit", "wander"} & content.keys()
        assert set(content["discrepancy"]) == {
            "coordinates", "knots", "mean", "covariance", "mean covariance", "population", "size", "taper", "x scale",
            "start",
        }  # fmt: skip

    def test_what_was_not_found_is_null(self, tmp_path):
        plain = Prior.by_hand(LINE, [[1.0, 0.5]], np.eye(2), 0.1)
        content = saved(plain, tmp_path / "prior.json")
        assert content["discrepancy"] is None and content["between"] is None
        after = Prior.load(tmp_path / "prior.json", LINE).family
        assert after.discrepancy is None and after.between is None and after.error_model.constant

    def test_a_part_of_which_something_is_missing_is_refused(self, tmp_path):
        path = tmp_path / "prior.json"
        content = saved(whole(), path)
        for part in ("discrepancy", "error model", "past"):
            for key in content[part]:
                less = {name: value for name, value in content[part].items() if name != key}
                path.write_text(json.dumps({**content, part: less}))
                with pytest.raises(ValueError, match=f"is damaged: it has no '{key}'"):
                    Prior.load(path, LINE)

    @pytest.mark.parametrize(("part", "key", "value", "message"), [
        ("error model", "kind", "cubic", "the kind is 'cubic'; expected one of constant, proportional"),
        ("error model", "share", 1.5, "needs a share from 0 to 1"),
        ("error model", "typical", 0.0, "a positive typical reading"),
        ("error model", "power", float("nan"), "a power of 0 or more"),
        ("error model", "least", -1.0, "a least one"),
        ("discrepancy", "coordinates", ["prediction", "depth"], "one of prediction, x; got 2"),
        ("discrepancy", "coordinates", ["prediction"], "expected knots for each coordinate"),
        ("discrepancy", "knots", [[0.0, 0.3, 2.0], [1.0, 1.0]], "rising"),
        ("discrepancy", "knots", [[0.0, 0.3, 2.0], [1.0]], "two knots or more"),
        ("discrepancy", "mean", [0.0] * 5, r"mean has shape \(5,\); expected 6 finite values"),
        ("discrepancy", "mean", [float("nan")] * 6, "expected 6 finite values"),
        ("discrepancy", "start", 0.0, "expected 5 finite values"),
        ("discrepancy", "covariance", [[1.0]], r"covariance: expected a covariance of shape \(6, 6\)"),
        ("discrepancy", "mean covariance", (-np.eye(6)).tolist(), "mean covariance: expected a covariance"),
        ("discrepancy", "population", [[1.0]], r"population: expected a covariance of shape \(2, 2\)"),
        ("discrepancy", "size", 0.0, "needs a positive size"),
        ("discrepancy", "taper", -1.0, "of 0 or more"),
    ])  # fmt: skip
    def test_a_part_that_cannot_be_is_refused(self, tmp_path, part, key, value, message):
        path = tmp_path / "prior.json"
        content = saved(whole(), path)
        path.write_text(json.dumps({**content, part: {**content[part], key: value}}))
        with pytest.raises(ValueError, match=rf"prior\.json is damaged \(.*{message}"):
            Prior.load(path, LINE)

    @pytest.mark.parametrize("between", [[[1.0]], [[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], 3.0])
    def test_what_is_no_covariance_of_the_parameters_does_not_lie_between_groups(self, tmp_path, between):
        path = tmp_path / "prior.json"
        path.write_text(json.dumps({**saved(whole(), path), "between": between}))
        with pytest.raises(ValueError, match=r"between: expected a covariance of shape \(2, 2\)"):
            Prior.load(path, LINE)


class TestVersion3:
    """The file was written by the version before, of twenty simulated specimens with a misfit of either sort."""

    def test_misfit_and_discrepancy_become_the_parts_of_one(self, jmak):
        old, found = json.loads(VERSION_3.read_text()), Prior.load(VERSION_3, jmak).family.discrepancy
        misfit, along_x = old["misfit"], old["discrepancy"]
        assert found.coordinates == ("prediction", "x")
        np.testing.assert_allclose(found.knots[0][[0, 3, 9]], [
            misfit["lower"], misfit["lower"] + (misfit["upper"] - misfit["lower"]) / 3, misfit["upper"]])  # fmt: skip
        np.testing.assert_array_equal(found.knots[1], along_x["knots"])
        np.testing.assert_array_equal(found.mean, misfit["values"] + along_x["mean"])
        np.testing.assert_array_equal(np.diag(found.covariance), [0.0] * 10 + along_x["variance"])
        assert (found.size, found.taper, found.x_scale, found.start) == (1.0, 0.0, 0.0, 0.0)

    def test_a_new_specimen_is_expected_as_before(self, jmak):
        """Of twenty specimens: 1 + 1/20 for the mean and 19 / 17 for the variance."""
        old, found = json.loads(VERSION_3.read_text()), Prior.load(VERSION_3, jmak).family.discrepancy
        variance = np.array([0.0] * 10 + old["discrepancy"]["variance"])
        assert len(old["past"]["specimens"]) == 20
        np.testing.assert_allclose(found.root @ found.root.mT, np.diag(21 / 20 * 19 / 17 * variance), atol=1e-9)

    def test_at_the_knots_it_says_what_it_said(self, jmak):
        """Where the law predicts a knot of the one and x is a knot of the other, their sum; wherever the law rests."""
        old, found = json.loads(VERSION_3.read_text()), Prior.load(VERSION_3, jmak).family.discrepancy
        misfit, along_x = old["misfit"], old["discrepancy"]
        f = torch.linspace(misfit["lower"], misfit["upper"], 10, dtype=torch.float64)
        for x, mean in zip(along_x["knots"], along_x["mean"], strict=True):
            place = Place(torch.full_like(f, x), f, torch.zeros_like(f), None)
            np.testing.assert_allclose(
                found.columns(place) @ found.mean_, np.array(misfit["values"]) + mean, atol=1e-12
            )

    def test_the_rest_is_unchanged_and_what_is_new_is_empty(self, jmak):
        old, found = json.loads(VERSION_3.read_text()), Prior.load(VERSION_3, jmak)
        (component,) = old["components"]
        np.testing.assert_array_equal(found.coefficients, component["coefficients"])
        np.testing.assert_array_equal(found.covariance, component["covariance"])
        assert found.noise == old["noise"] and list(found.past) == list(old["past"]["specimens"])
        assert found.family.error_model.constant and found.family.between is None
        assert (found.learned.groups, found.learned.coverage) == ({}, {})

    def test_saved_again_it_is_the_same_in_version_4(self, jmak, tmp_path):
        before = Prior.load(VERSION_3, jmak)
        again = Prior.load(before.save(tmp_path / "prior.json"), jmak)
        assert str(again) == str(before)
        np.testing.assert_array_equal(again.family.discrepancy.covariance, before.family.discrepancy.covariance)

    @pytest.mark.parametrize("key", ["components", "misfit", "discrepancy", "wander", "past", "ranges"])
    def test_a_file_with_a_part_missing_is_refused(self, jmak, tmp_path, key):
        content = json.loads(VERSION_3.read_text())
        del content[key]
        path = tmp_path / "prior.json"
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"damaged: it has no '{key}'"):
            Prior.load(path, jmak)


class TestOlder:
    def test_without_either_there_is_no_discrepancy(self, tmp_path):
        for version in (2, 3):
            assert Prior.load(older(tmp_path, version), LINE).family.discrepancy is None

    def test_a_misfit_alone_is_in_all_specimens_the_same(self, tmp_path):
        path = older(tmp_path, 3, misfit={"lower": 0.0, "upper": 2.0, "values": [0.1, 0.0, -0.1]})
        found = Prior.load(path, LINE).family.discrepancy
        assert found.coordinates == ("prediction",) and found.knots[0].tolist() == [0.0, 1.0, 2.0]
        assert not found.covariance.any() and not found.mean_covariance.any() and found.root.shape == (3, 0)

    @pytest.mark.parametrize(("count", "wider"), [(0, 1.0), (1, 1.0), (2, 1.5 * 3.0), (10, 1.1 * 9 / 7)])
    def test_a_discrepancy_of_version_2_is_widened_by_its_past(self, tmp_path, count, wider):
        along_x = {"knots": [0.0, 1.0, 3.0], "mean": [0.1, 0.0, -0.1], "variance": [0.04, 0.01, 0.02]}
        past = {f"S{i}": [1.0, 0.5] for i in range(count)}
        found = Prior.load(older(tmp_path, 2, discrepancy=along_x, past=past), LINE).family.discrepancy
        assert found.coordinates == ("x",) and np.diag(found.covariance).tolist() == along_x["variance"]
        expected = wider * np.diag(along_x["variance"])
        np.testing.assert_allclose(found.covariance + found.mean_covariance, expected, atol=1e-15)
