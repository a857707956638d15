"""The texts for PyMC and NumPyro say what the prior says."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.error_model import ErrorModel
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates, Learned
from scimeta.calibration.laws.law import Law, Parameter

EVERY_SUPPORT = {
    "level": Parameter("mm"),
    "k": Parameter("1/s", "positive"),
    "n": Parameter("", "softplus"),
    "share": Parameter("", "unit"),
    "drift": Parameter("mm/s", "positive", shared=True),
}

GROWING = ErrorModel("combined", 0.3, 1.0, 2.0, 0.02)
MEANS = np.array([-3.0, -0.001, 0.0, 0.5, 2.0, 40.0])


def law_of_all() -> Law:
    def fn(t, level, k, n, share, drift):
        return level + share * torch.exp(-k * t) * n + drift * t

    return Law("all", fn, EVERY_SUPPORT, Axis("time", "s"), Axis("length", "mm"))


def prior_of_all() -> Prior:
    rng = np.random.default_rng(0)
    root = 0.3 * rng.standard_normal((4, 4))
    covariance = root @ root.T + 0.05 * np.eye(4)
    coefficients = [[1.0, -0.5, 2.0, 0.3], [0.2, 0.1, 0.0, -0.4]]
    hot = Covariates(("1/T [K]",), [0.003], [1e-4])
    return Prior.by_hand(law_of_all(), coefficients, covariance, 0.02, hot, shared={"drift": (-2.0, 0.1)})


def two_components() -> Prior:
    law = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")})
    parts = [0.3, 0.7], [[[-1.0]], [[1.0]]], [[[0.04]], [[0.09]]]
    return Prior(Family(law, *(torch.tensor(part, dtype=torch.float64) for part in parts), 0.02))


def run(text: str, name: str = "prior") -> dict:
    namespace: dict = {}
    exec(compile(text, name, "exec"), namespace)
    return namespace


@pytest.fixture
def pymc(monkeypatch) -> Callable[[str], dict]:
    """Stands for PyMC: every distribution takes its mean for its value; returns how to run a text."""
    module = types.ModuleType("pymc")
    module.seen = {}

    def keep(name, **arguments):
        module.seen[name] = arguments
        return np.asarray(arguments.get("mu", 0.0), dtype=float)

    def mixture(name, w, comp_dists):
        module.seen[name] = {"w": w, "comp_dists": comp_dists}
        return comp_dists[0]["mu"]

    module.MvNormal = lambda name, mu, chol: keep(name, mu=mu, chol=chol)
    module.MvNormal.dist = lambda mu, chol: {"mu": mu, "chol": chol}
    module.Normal = lambda name, mu, sigma: keep(name, mu=mu, sigma=sigma)
    module.Mixture = mixture
    module.Deterministic = lambda name, value: value
    module.math = types.SimpleNamespace(
        exp=np.exp, log1pexp=lambda u: np.logaddexp(0.0, u), sigmoid=lambda u: 1 / (1 + np.exp(-u)),
        abs=np.abs, maximum=np.maximum, sqrt=np.sqrt,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pymc", module)

    def started(text: str) -> dict:
        return run(text) | {"seen": module.seen}

    return started


class TestPymc:
    def test_says_what_the_prior_says(self, pymc):
        prior = prior_of_all()
        module = pymc(prior.to_pymc())
        values = module["parameters"]([0.0032])
        population = prior.population(prior.design([{"1/T [K]": 0.0032}]))
        u = module["seen"]["unconstrained"]
        np.testing.assert_allclose(u["mu"], population.means[0, 0], rtol=1e-12)
        np.testing.assert_allclose(u["chol"] @ u["chol"].T, population.covariances[0, 0], rtol=1e-12)
        names = prior.law.fast
        expected = prior.law.constrain(dict(zip(names, population.means[0, 0], strict=True)))
        for name in names:
            assert values[name] == pytest.approx(float(expected[name]), rel=1e-12)
        assert module["seen"]["drift_unconstrained"] == {"mu": -2.0, "sigma": 0.1}
        assert values["drift"] == pytest.approx(np.exp(-2.0))
        assert list(values) == list(prior.law.names)
        assert module["NOISE"] == 0.02

    def test_is_wider_by_what_a_short_past_leaves_open(self, pymc):
        past = {f"A{i}": np.zeros(4) for i in range(10)}
        short = replace(prior_of_all(), learned=Learned(past, (0.0, 1.0)))
        module = pymc(short.to_pymc())
        module["parameters"]([0.003])
        chol = module["seen"]["unconstrained"]["chol"]
        assert (np.diag(chol @ chol.T) > 1.2 * np.diag(prior_of_all().covariance)).all()

    def test_of_two_components_is_a_mixture(self, pymc):
        module = pymc(two_components().to_pymc())
        module["parameters"]()
        u = module["seen"]["unconstrained"]
        np.testing.assert_allclose(u["w"], [0.3, 0.7])
        np.testing.assert_allclose([part["mu"][0] for part in u["comp_dists"]], [-1.0, 1.0])
        np.testing.assert_allclose([part["chol"][0, 0] for part in u["comp_dists"]], [0.2, 0.3])

    def test_tells_of_outliers(self, pymc):
        plain = prior_of_all()
        text = replace(plain, family=replace(plain.family, outliers=Outliers(0.05, 0.15, 0.02))).to_pymc()
        assert pymc(text)["OUTLIERS"] == (0.05, 0.15, 0.02)

    @pytest.mark.parametrize("model", [GROWING, GROWING._replace(kind="power", share=0.0, power=0.6)])
    def test_a_noise_that_follows_the_mean_is_a_function_of_it(self, pymc, model):
        plain = prior_of_all()
        module = pymc(replace(plain, family=replace(plain.family, error_model=model)).to_pymc())
        sd = 0.02 * model.relative_sd(torch.from_numpy(MEANS))
        np.testing.assert_allclose(module["noise"](MEANS), sd, rtol=1e-12)
        assert "noise" not in pymc(plain.to_pymc())

    def test_says_that_a_discrepancy_is_not_in_it(self):
        plain = prior_of_all()
        off = Discrepancy(("x",), (np.array([0.0, 1.0]),), np.zeros(2), np.eye(2), np.eye(2), np.eye(4))
        assert "discrepancy" in replace(plain, family=replace(plain.family, discrepancy=off)).to_pymc()
        assert "discrepancy" not in plain.to_pymc()


class TestNumpyro:
    def test_a_noise_that_follows_the_mean_is_a_function_of_it(self):
        pytest.importorskip("numpyro")
        plain = prior_of_all()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of at its import is not ours
            module = run(replace(plain, family=replace(plain.family, error_model=GROWING)).to_numpyro())
        sd = 0.02 * GROWING.relative_sd(torch.from_numpy(MEANS))
        np.testing.assert_allclose(module["noise"](MEANS), sd, rtol=1e-5)  # in single precision

    @pytest.mark.parametrize("components", [1, 2])
    def test_draws_what_the_prior_draws(self, components):
        """20,000 draws of either: the medians agree within five standard errors."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of at its import is not ours
            numpyro = pytest.importorskip("numpyro")
            import jax
            from numpyro.infer import Predictive

            prior = prior_of_all() if components == 1 else two_components()
            conditions = [0.0031] if components == 1 else []
            module = run(prior.to_numpyro())
            assert numpyro is module["numpyro"]
            draws = Predictive(lambda: module["parameters"](conditions), num_samples=20_000)(jax.random.PRNGKey(0))
        given = dict(zip(prior.conditions, conditions, strict=True))
        ours = prior.sample(20_000, np.random.default_rng(0), given)
        for name in prior.law.fast:
            theirs, mine = np.asarray(draws[name], dtype=float), ours[name].to_numpy()
            for q in (0.1, 0.5, 0.9):
                below = np.mean(theirs <= np.quantile(mine, q))
                assert abs(below - q) < 5 * np.sqrt(2 * q * (1 - q) / 20_000), (name, q)
