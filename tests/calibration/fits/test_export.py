"""Ways out: ArviZ has the draws, and the texts for PyMC and NumPyro say what the prior says."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scimeta.calibration.fits.export import arviz_draws

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.mixture import Mode
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibration import Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter

EVERY_SUPPORT = {
    "level": Parameter("mm"),
    "k": Parameter("1/s", "positive"),
    "n": Parameter("", "softplus"),
    "share": Parameter("", "unit"),
    "drift": Parameter("mm/s", "positive", shared=True),
}


def law_of_all() -> Law:
    def fn(t, level, k, n, share, drift):
        return level + share * torch.exp(-k * t) * n + drift * t

    return Law("all", fn, EVERY_SUPPORT, Axis("time", "s"), Axis("length", "mm"))


def prior_of_all(**extra: object) -> Prior:
    rng = np.random.default_rng(0)
    root = 0.3 * rng.standard_normal((4, 4))
    covariance = root @ root.T + 0.05 * np.eye(4)
    coefficients = [[1.0, -0.5, 2.0, 0.3], [0.2, 0.1, 0.0, -0.4]]
    return Prior(
        law_of_all(), coefficients, covariance, 0.02, ("1/T [K]",), [0.003], [1e-4], {"drift": (-2.0, 0.1)}, **extra
    )


def two_kinds() -> Prior:
    law = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")})
    modes = (Mode(0.3, [[-1.0]], [[0.04]]), Mode(0.7, [[1.0]], [[0.09]]))
    return Prior(law, [[0.4]], [[0.9]], 0.02, modes=modes)


def run(text: str, name: str = "prior") -> dict:
    namespace: dict = {}
    exec(compile(text, name, "exec"), namespace)
    return namespace


class TestArviz:
    @pytest.fixture
    def fits(self) -> Calibrations:
        law = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")}, x=Axis("time", "s"))
        curves = [Curve("A", [0.5, 1.0], [0.62, 0.35]), Curve("B", [1.0, 2.0, 3.0], [0.5, 0.26, 0.13])]
        return Calibrator(law, Prior(law, [[0.0]], [[0.25]], noise=0.05)).fit_many(curves)

    @pytest.fixture(params=["InferenceData", "DataTree"])
    def arviz(self, request, monkeypatch) -> types.ModuleType:
        """Stands for either generation of ArviZ: keeps what it is given, in xarray's shape."""

        class Array:
            def __init__(self, values, dims, coords):
                self.values, self.dims, self.coords, self.attrs = np.asarray(values), dims, coords, {}

        def kept(groups, coords, dims):
            first = {"posterior": ("chain", "draw")}
            return {
                group: {n: Array(v, (*first.get(group, ()), *dims[n]), coords) for n, v in arrays.items()}
                for group, arrays in groups.items()
            }

        module = types.ModuleType("arviz")
        if request.param == "InferenceData":
            module.InferenceData = dict
            module.from_dict = lambda *, coords, dims, **groups: kept(groups, coords, dims)
        else:
            module.from_dict = lambda groups, *, coords, dims: kept(groups, coords, dims)
        monkeypatch.setitem(sys.modules, "arviz", module)
        return module

    def test_has_draws_of_every_specimen_in_natural_units(self, fits, arviz):
        data = arviz_draws(fits, 4000, torch.Generator().manual_seed(0))
        k = data["posterior"]["k"]
        assert k.values.shape == (1, 4000, 2) and k.dims == ("chain", "draw", "specimen")
        assert k.coords["specimen"] == ["A", "B"] and k.attrs["units"] == "1/s"
        estimates = fits.estimates()["k"]
        np.testing.assert_allclose(np.median(k.values[0], 0), estimates["value"], rtol=0.02)
        np.testing.assert_allclose(k.values[0].std(0), estimates["std"], rtol=0.06)

    def test_has_the_measurements_end_to_end(self, fits, arviz):
        data = fits.to_arviz(10)
        np.testing.assert_array_equal(data["constant_data"]["specimen_index"].values, [0, 0, 1, 1, 1])
        np.testing.assert_array_equal(data["constant_data"]["x"].values, [0.5, 1.0, 1.0, 2.0, 3.0])
        assert data["constant_data"]["x"].attrs == {"long_name": "time", "units": "s"}
        assert data["observed_data"]["y"].values[-1] == 0.13

    def test_one_fit_is_a_batch_of_one(self, fits, arviz):
        assert fits["B"].to_arviz(7)["posterior"]["k"].values.shape == (1, 7, 1)

    def test_a_fit_without_intervals_has_no_draws(self, fits, arviz):
        far = Calibrator(fits.law, Prior(fits.law, [[0.0]], [[0.25]], noise=0.05)).fit([1.0, 2.0], [9.0, -9.0])
        with pytest.raises(ValueError, match="no draws of specimen: the points lie"):
            far.to_arviz()

    def test_without_arviz_it_says_how_to_have_it(self, fits, monkeypatch):
        for name in ("arviz", "arviz_base"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=r"pip install arviz, or take draws by fit\.sample"):
            fits.to_arviz()

    def test_the_real_one_takes_it(self, fits):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of at its import is not ours
            pytest.importorskip("xarray")
            if not any(_importable(name) for name in ("arviz", "arviz_base")):
                pytest.skip("no ArviZ")
            data = fits.to_arviz(50)
        k = data["posterior"]["k"]
        assert k.dims == ("chain", "draw", "specimen") and k.shape == (1, 50, 2)
        assert list(k.coords["specimen"].values) == ["A", "B"]
        assert k.attrs["units"] == "1/s" and data["constant_data"]["x"].attrs["units"] == "s"
        assert data["observed_data"]["y"].dims == ("point",)


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


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
        exp=np.exp, log1pexp=lambda u: np.logaddexp(0.0, u), sigmoid=lambda u: 1 / (1 + np.exp(-u))
    )
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
        module = pymc(prior_of_all(past=past).to_pymc())
        module["parameters"]([0.003])
        chol = module["seen"]["unconstrained"]["chol"]
        assert (np.diag(chol @ chol.T) > 1.2 * np.diag(prior_of_all().covariance)).all()

    def test_of_two_kinds_is_a_mixture(self, pymc):
        module = pymc(two_kinds().to_pymc())
        module["parameters"]()
        u = module["seen"]["unconstrained"]
        np.testing.assert_allclose(u["w"], [0.3, 0.7])
        np.testing.assert_allclose([part["mu"][0] for part in u["comp_dists"]], [-1.0, 1.0])
        np.testing.assert_allclose([part["chol"][0, 0] for part in u["comp_dists"]], [0.2, 0.3])

    def test_tells_of_outliers(self, pymc):
        text = prior_of_all(outliers=Outliers(0.05, 0.15, 0.02)).to_pymc()
        assert pymc(text)["OUTLIERS"] == (0.05, 0.15, 0.02)


class TestNumpyro:
    @pytest.mark.parametrize("kinds", [1, 2])
    def test_draws_what_the_prior_draws(self, kinds):
        """20,000 draws of either: the medians agree within five standard errors."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of at its import is not ours
            numpyro = pytest.importorskip("numpyro")
            import jax
            from numpyro.infer import Predictive

            prior = prior_of_all() if kinds == 1 else two_kinds()
            conditions = [0.0031] if kinds == 1 else []
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
