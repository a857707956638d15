"""Priors: their shapes are checked, they print, draw, sample, and survive a file to the last bit."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.prior import Prior, read_prior_file
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.files import write_atomically

LAW = Law("creep", lambda t, rate, n, e: rate * t**n + e, {
    "rate": Parameter("1/h", "positive"), "n": Parameter("", "unit"), "e": Parameter("mm", shared=True)},
    Axis("time", "h"), Axis("strain", "mm"))  # fmt: skip


LEVEL = Law("level", lambda x, a: a + 0.0 * x, {"a": Parameter()})
COEFFICIENTS = np.array([[0.1, -0.5], [0.3, 0.0]])
COVARIANCE = np.array([[0.2, 0.05], [0.05, 0.1]])


def prior(
    *,
    coefficients: np.ndarray = COEFFICIENTS,
    covariance: np.ndarray = COVARIANCE,
    noise: float = 0.03,
    shared: dict[str, tuple[float, float]] | None = None,
    x_range: tuple[float, float] = (0.5, 8.0),
    converged: bool = True,
) -> Prior:
    """Return a prior with everything that one can have."""
    covariates = Covariates(("stress",), np.array([100.0]), np.array([10.0]))
    shared = {"e": (1 / 3, 0.02)} if shared is None else shared
    plain = Prior.by_hand(LAW, coefficients, covariance, noise, covariates, shared=shared)
    past = {"S1": np.array([0.1, 0.2]), "S2": np.array([0.3, -1.0])}
    parts = {"discrepancy": missed(), "error_model": ErrorModel("combined", 0.2, 1.0, 1.7, 0.017)}
    family = replace(plain.family, **parts, between=torch.tensor([[0.04, 0.01], [0.01, 0.02]], dtype=torch.float64))
    groups, coverage = {"S1": "mill 1", "S2": "mill 2"}, {"mill 1": 0.875, "mill 2": 1 / 3}
    learned = Learned(past, x_range, converged=converged, groups=groups, coverage=coverage)
    return replace(plain, family=family, learned=learned)


def missed() -> Discrepancy:
    """Return a discrepancy with everything that one can have: over prediction and x, and a clock that begins late."""
    root = np.random.default_rng(4).standard_normal((8, 8))
    knots = np.array([0.0, 0.7, 2.0]), np.array([0.0, 0.5, 1.5, 2.0])
    mean, own, doubt = np.linspace(-0.01, 0.02, 8), 1e-4 * root @ root.T, np.diag(np.linspace(1e-6, 2e-6, 8))
    return Discrepancy(("prediction", "x"), knots, mean, own, doubt, COVARIANCE, 2.5, 4e-4, 0.3, 0.125)


class TestChecks:
    @pytest.mark.parametrize(("changes", "message"), [
        ({"coefficients": np.zeros((1, 2))}, r"coefficients has shape \(1, 2\); expected \(2, 2\)"),
        ({"covariance": np.eye(3)}, r"covariance has shape \(3, 3\); expected \(2, 2\)"),
        ({"coefficients": np.full((2, 2), np.nan)}, "coefficients is not finite"),
        ({"covariance": np.array([[1.0, 2.0], [2.0, 1.0]])}, "not positive definite"),
        ({"covariance": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not positive definite"),
        ({"noise": 0.0}, "noise must be positive; got 0.0"),
        ({"noise": np.nan}, "noise must be positive; got nan"),
        ({"shared": {}}, "no value for the shared e"),
    ])  # fmt: skip
    def test_what_cannot_be_a_prior_is_refused_by_name(self, changes, message):
        with pytest.raises(ValueError, match=f"prior of law creep: .*{message}"):
            prior(**changes)


class TestDesign:
    def test_it_is_a_one_and_the_scaled_conditions(self):
        design = prior().design([{"stress": 100.0}, {"stress": 125.0, "other": 1.0}])
        np.testing.assert_allclose(design, [[1.0, 0.0], [1.0, 2.5]])

    def test_without_conditions_it_is_a_one(self, truth):
        np.testing.assert_array_equal(truth.design([{}, {"stress": 3.0}]), [[1.0], [1.0]])

    @pytest.mark.parametrize("given", [{}, {"stress": np.nan}, {"Stress": 100.0}])
    def test_a_missing_condition_is_named_with_its_specimen(self, given):
        with pytest.raises(ValueError, match="B7 has no condition 'stress'; the prior needs stress"):
            prior().design([{"stress": 1.0}, given], ["A1", "B7"])

    def test_the_population_of_a_specimen_follows_its_conditions(self):
        one = prior()
        gaussian = one.gaussian(one.design([{"stress": 120.0}]))
        np.testing.assert_allclose(gaussian.mean, [[0.1 + 2 * 0.3, -0.5]])


class TestSample:
    def test_the_moments_are_the_populations(self, truth):
        drawn = truth.sample(40_000, np.random.default_rng(0))
        u = np.stack([np.log(drawn["k"]), drawn["n"]])
        sd = np.sqrt(np.diag(truth.covariance))
        np.testing.assert_allclose((u.mean(1) - truth.coefficients[0]) / sd, 0.0, atol=4 / 200)
        np.testing.assert_allclose(np.cov(u) / np.outer(sd, sd), truth.covariance / np.outer(sd, sd), atol=0.03)

    def test_shared_parameters_have_their_one_value(self):
        drawn = prior().sample(5, np.random.default_rng(0))
        assert list(drawn.columns) == ["rate", "n", "e"]
        assert (drawn["e"] == 1 / 3).all() and drawn["rate"].nunique() == 5
        assert drawn["n"].between(0, 1).all() and (drawn["rate"] > 0).all()

    def test_conditions_move_the_draws(self):
        near, far = (prior().sample(9, np.random.default_rng(1), {"stress": s}) for s in (100.0, 110.0))
        np.testing.assert_allclose(far["rate"] / near["rate"], np.exp(0.3))
        np.testing.assert_allclose(far["n"], near["n"])
        centre = prior().sample(9, np.random.default_rng(1))
        np.testing.assert_array_equal(centre["rate"], near["rate"])

    def test_the_same_seed_gives_the_same_draws(self, truth):
        a, b = (truth.sample(5, np.random.default_rng(2)) for _ in range(2))
        assert a.equals(b)


class TestReport:
    def test_the_table_holds_the_stated_share_of_the_specimens(self, truth):
        frame, drawn = truth.to_frame(level=0.8), truth.sample(20_000, np.random.default_rng(3))
        for name in ("k", "n"):
            row = frame.loc[name]
            assert drawn[name].between(row.lower, row.upper).mean() == pytest.approx(0.8, abs=0.012)
            assert (drawn[name] < row["median"]).mean() == pytest.approx(0.5, abs=0.015)
        assert list(frame["unit"]) == ["1/s", ""]

    def test_the_print_says_what_the_prior_holds(self):
        text = str(prior())
        for part in ("law creep", "2 specimens", "rate", "1/h", "stress = 100", "(rate, n) +0.35", "one value for all"):
            assert part in text, part
        for part in (
            "effect per unit of stress (unconstrained): ",
            "rate +0.03",
            "noise sd 0.03 mm at a typical reading of 1.7",
            "model discrepancy: common to all specimens up to ",
            "between 2 groups: ",
            "left out in turn: mill 1 88 %, mill 2 33 %",
        ):
            assert part in text, part
        assert "NOT CONVERGED" not in text and "NOT CONVERGED" in str(prior(converged=False))

    def test_the_plot_has_labelled_axes_and_the_past(self, learned):
        ax = learned[0].plot()
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("time [s]", "fraction")
        assert len(ax.lines) == 60 + 1 and {"median", "past specimens"} <= {line.get_label() for line in ax.lines}
        plt.close(ax.figure)

    def test_the_plot_draws_on_the_axes_that_it_is_given(self):
        figure, ax = plt.subplots()
        assert prior().plot(ax) is ax
        plt.close(figure)


class TestShortPastIsTold:
    """Of few specimens the reports say so, and by how much fits widen the spread: what they say is what fits do."""

    @staticmethod
    def levels(count: int, seed: int = 0) -> list[Curve]:
        """Specimens known exactly: what is left open is the population alone."""
        values = 1.0 + 0.3 * np.random.default_rng(seed).standard_normal(count)
        return [Curve(f"S{i}", [1, 2, 3], [a] * 3, sigma=1e-5, conditions={"z": i}) for i, a in enumerate(values)]

    @pytest.mark.parametrize("count, dof, left", [(4, 3, ""), (3, 3, ", the least that is taken where they leave 2")])
    def test_is_told_by_prior_and_fit_as_it_is_done(self, count, dof, left):
        told = (
            f"learned from {count} specimens: little is known of their spread, so that fits expect a Gaussian of "
            f"{dof / (dof - 2):.3g} times its variance, that of Student's t with {max(dof, 3)} degrees of freedom{left}"
        )
        found = learn_prior(LEVEL, self.levels(count), components=1)
        fit = Calibrator(LEVEL, found).fit([], [], conditions={"z": 1.0})
        assert told in str(found) and told in str(fit) and told in str(fit.batch)
        mean = 1.0 + 1.0 / count  # its own variance is open too
        assert fit["a"].std ** 2 == pytest.approx(dof / (dof - 2) * mean * found.covariance[0, 0], rel=0.01)
        assert found.dof == max(dof, 3)

    def test_grows_with_regressors_and_parameters(self):
        for count, conditions, told in ((9, (), True), (10, (), False), (14, ("z",), True), (15, ("z",), False)):
            found = learn_prior(LEVEL, self.levels(count), conditions=conditions, components=1)
            assert ("little is known of their spread" in str(found)) == told

    def test_of_several_components_is_that_of_the_rarest(self):
        weights = torch.tensor([0.9, 0.1], dtype=torch.float64)
        coefficients = torch.tensor([[[0.0]], [[5.0]]], dtype=torch.float64)
        family = Family(LEVEL, weights, coefficients, torch.ones(2, 1, 1, dtype=torch.float64), 0.1)
        found = Prior(family, learned=Learned({f"S{i}": np.zeros(1) for i in range(60)}, (0.0, 1.0)))
        assert "learned from 60 specimens, about 6 of one component: little is known" in str(found)
        assert f"of {found.dof / (found.dof - 2):.3g} times its variance" in str(found)

    def test_of_a_prior_set_by_hand_is_not_spoken_of(self):
        assert "little is known" not in str(Prior.by_hand(LEVEL, [[0.0]], [[1.0]], 0.1))


class TestFile:
    def test_a_loaded_prior_is_the_saved_one_to_the_last_bit(self, tmp_path):
        before = prior()
        after = Prior.load(before.save(tmp_path / "prior.json"), LAW)
        for name in ("coefficients", "covariance"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        for name in ("centre", "scale"):
            np.testing.assert_array_equal(getattr(after.covariates, name), getattr(before.covariates, name))
        for name in ("noise", "conditions", "shared", "x_range", "converged"):
            assert getattr(after, name) == getattr(before, name), name
        assert after.past.keys() == before.past.keys()
        np.testing.assert_array_equal(after.past["S2"], before.past["S2"])
        assert str(after) == str(before)

    def test_a_loaded_prior_gives_the_same_fits_to_the_last_bit(self, learned, jmak, simulate, tmp_path):
        loaded = Prior.load(learned[0].save(tmp_path / "prior.json"), jmak)
        curves = simulate(20, seed=1, points=4)[1]
        a, b = (Calibrator(jmak, p).fit_many(curves) for p in (learned[0], loaded))
        assert a.draws.nodes.equal(b.draws.nodes) and a.draws.weights.equal(b.draws.weights)

    def test_a_prior_of_another_law_is_refused_with_what_differs(self, tmp_path):
        path = prior().save(tmp_path / "prior.json")
        with pytest.raises(
            ValueError, match="learned with another law: its name is 'creep', that of law glide is 'glide'"
        ):
            Prior.load(path, replace(LAW, name="glide"))
        minutes = {**LAW.parameters, "rate": Parameter("1/min", "positive")}
        with pytest.raises(ValueError, match=r"another law: its parameters .*1/h.*1/min"):
            Prior.load(path, replace(LAW, parameters=minutes))
        with pytest.raises(ValueError, match=r"its x is \['time', 'h'\], that of law creep is \['time', 'min'\]"):
            Prior.load(path, replace(LAW, x=Axis("time", "min")))

    def test_a_truncated_file_is_refused_wherever_it_is_cut(self, tmp_path):
        path = prior().save(tmp_path / "prior.json")
        whole = path.read_text()
        for length in range(0, len(whole.rstrip()), 37):
            path.write_text(whole[:length])
            with pytest.raises(ValueError, match="not a whole prior file"):
                Prior.load(path, LAW)

    def test_a_file_with_a_part_missing_or_odd_is_refused(self, tmp_path):
        path = prior().save(tmp_path / "prior.json")
        content = json.loads(path.read_text())
        for key in content:
            path.write_text(json.dumps({k: v for k, v in content.items() if k != key}))
            with pytest.raises(ValueError, match=r"prior\.json (is damaged|is not a prior file)"):
                Prior.load(path, LAW)
        (component,), past = content["components"], content["past"]
        odd = [
            {"noise": "much"},
            {"noise": -1.0},
            {"shared": {"e": 3}},
            {"discrepancy": {"size": 1.0}},
            {"past": [1, 2]},
        ]
        odd += [{"components": [{**component, **part}]} for part in ({"covariance": [[1.0]]}, {"coefficients": None})]
        odd += [{"components": [{k: v for k, v in component.items() if k != key}]} for key in component]
        odd += [{"past": {**past, "x range": [1.0]}}]
        odd += [{"past": {k: v for k, v in past.items() if k != key}} for key in past]
        for part in odd:
            path.write_text(json.dumps({**content, **part}))
            with pytest.raises(ValueError, match=r"prior\.json is damaged"):
                Prior.load(path, LAW)

    @pytest.mark.parametrize("text", ["[]", "{}", '{"format": "scimeta prior, version 99", "law": {}}', "null", "3"])
    def test_a_file_that_is_no_prior_of_this_version_is_refused(self, tmp_path, text):
        path = tmp_path / "prior.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"not a prior file of this version .*version 4"):
            Prior.load(path, LAW)

    def test_a_binary_file_is_refused(self, tmp_path):
        path = tmp_path / "prior.json"
        path.write_bytes(b"\x89PNG\xff\xfe\x00")
        with pytest.raises(ValueError, match="not a prior file"):
            read_prior_file(path)

    def test_a_missing_file_is_said_with_how_to_make_one(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no prior file .*none\.json; make one with learn_prior"):
            Prior.load(tmp_path / "none.json", LAW)

    def test_a_missing_folder_is_said(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
            prior().save(tmp_path / "nowhere" / "prior.json")

    @pytest.mark.parametrize("name", ["prior.xlsx", "prior.pkl", "prior.csv"])
    def test_a_suffix_of_another_format_is_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"a prior is not written as .*; name it prior\.json"):
            prior().save(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_a_number_that_json_cannot_hold_is_refused_and_leaves_nothing_behind(self, tmp_path):
        with pytest.raises(ValueError):
            prior(x_range=(0.0, np.inf)).save(tmp_path / "prior.json")
        assert list(tmp_path.iterdir()) == []

    def test_saving_twice_gives_the_same_file(self, tmp_path):
        a, b = (prior().save(tmp_path / f"{i}.json").read_bytes() for i in range(2))
        assert a == b and a.endswith(b"}\n")


class TestAtomicWriting:
    def test_the_old_file_stays_whole_when_writing_fails(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text("old")

        def broken(temporary):
            temporary.write_text("ha")
            raise RuntimeError("disk full")

        with pytest.raises(RuntimeError, match="disk full"):
            write_atomically(path, broken)
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def test_the_new_file_replaces_the_old_one_and_nothing_else_is_left(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text("old")
        assert write_atomically(path, lambda temporary: temporary.write_text("new")) == path
        assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]

    def test_the_writer_gets_the_suffix_that_tells_the_format(self, tmp_path):
        seen = []
        write_atomically(tmp_path / "fit.png", lambda temporary: (seen.append(temporary.suffix), temporary.touch()))
        assert seen == [".png"]

    def test_others_may_read_what_the_umask_lets_them(self, tmp_path):
        plain = tmp_path / "plain"
        plain.touch()
        ours = write_atomically(tmp_path / "ours", lambda temporary: temporary.write_text("x"))
        assert ours.stat().st_mode == plain.stat().st_mode


def test_a_prior_from_published_values_fits_a_specimen(truth, jmak):
    """Nothing was learned: k = 1/s within a factor, n = 2.5 within a half."""
    fit = Calibrator(jmak, truth).fit([0.5, 1.0, 1.5], [0.16, 0.63, 0.94])
    assert fit["k"].lower < 1.0 < fit["k"].upper and fit["n"].lower < 2.5 < fit["n"].upper


class TestShortPast:
    def test_a_short_past_widens_what_is_expected_of_a_new_specimen(self, line):
        past = {f"A{i}": np.zeros(2) for i in range(8)}
        by_hand = Prior.by_hand(line, [[1.0, 0.0]], np.diag([4.0, 1.0]), 0.5)
        prior = replace(by_hand, learned=Learned(past, (0.0, 1.0)))
        # Nine-eighths for the mean; 8 - 1 - 2 + 1 = 6 degrees of freedom for the covariance, 6 / (6 - 2).
        np.testing.assert_allclose(prior.gaussian(prior.design([{}])).covariance, 9 / 8 * 6 / 4 * prior.covariance)
        np.testing.assert_array_equal(by_hand.gaussian(by_hand.design([{}])).covariance, by_hand.covariance)

    def test_what_a_short_past_expects_holds_new_specimens(self):
        """The 90 % interval of a further draw, from six past ones each time; a plain Gaussian holds 81 %."""
        level = Law("level", lambda x, a: a + 0.0 * x, {"a": Parameter()}, Axis("x"), Axis("y"))
        rng, inside = np.random.default_rng(8), []
        for _ in range(60):
            truth, x = rng.normal(size=7), np.array([0.0, 1.0, 2.0, 3.0])
            past = [Curve(f"A{i}", x, a + 0.05 * rng.normal(size=4)) for i, a in enumerate(truth[:6])]
            estimate = Calibrator(level, learn_prior(level, past)).fit([0.0], [0.0], sigma=1e3)["a"]
            inside.append(estimate.lower < truth[6] < estimate.upper)
        assert abs(np.mean(inside) - 0.9) < 2 * (0.09 / 60) ** 0.5


def test_a_covariance_of_parameters_in_very_different_units_is_positive_definite():
    law = Law("line", lambda x, a, b: a + b * x, {"a": Parameter(), "b": Parameter()})
    root = np.diag([1e9, 1e-3])
    correlation = np.array([[1.0, 0.9], [0.9, 1.0]])
    prior = Prior.by_hand(law, np.zeros((1, 2)), root @ correlation @ root, 1.0)
    assert prior.covariance[1, 1] == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="not positive definite"):
        Prior.by_hand(law, np.zeros((1, 2)), 1e-12 * np.array([[1.0, 0.5], [-0.5, 1.0]]), 1.0)
