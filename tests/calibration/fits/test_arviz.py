"""ArviZ has the draws of a batch of fits."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from scimeta.calibration.data.axis import Axis
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.fits.calibration import Calibrations
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.laws.law import Law, Parameter


class TestArviz:
    @pytest.fixture
    def fits(self) -> Calibrations:
        law = Law("decay", lambda t, k: torch.exp(-k * t), {"k": Parameter("1/s", "positive")}, x=Axis("time", "s"))
        curves = [Curve("A", [0.5, 1.0], [0.62, 0.35]), Curve("B", [1.0, 2.0, 3.0], [0.5, 0.26, 0.13])]
        return Calibrator(law, Prior.by_hand(law, [[0.0]], [[0.25]], noise=0.05)).fit_many(curves)

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
        data = fits.to_arviz(4000, torch.Generator().manual_seed(0))
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
        far = Calibrator(fits.law, Prior.by_hand(fits.law, [[0.0]], [[0.25]], noise=0.05)).fit([1.0, 2.0], [9.0, -9.0])
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
