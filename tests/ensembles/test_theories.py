"""Laws of transformation kinetics beside a regressor, on one simulated alloy that follows JMAK."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.calibration.regressor import LawRegressor
from scimeta.domains.kinetics import AUSTIN_RICKETT, JMAK
from scimeta.ensembles.super_learner import SuperLearnerRegressor
from simulators.kinetics import alloy_family


@pytest.fixture(scope="module")
def alloy() -> tuple:
    past = alloy_family(30, rng=np.random.default_rng(0))
    return past, alloy_family(1, rng=np.random.default_rng(5))


def test_a_committee_of_theories_trusts_the_true_one(alloy):
    past, new = alloy
    measured = zip(past.times, past.fractions, strict=True)
    curves = [Curve(f"A{i}", t, fraction) for i, (t, fraction) in enumerate(measured)]
    library = [(law.name, LawRegressor(law, learn_prior(law, curves))) for law in (JMAK, AUSTIN_RICKETT)]
    names = [name.replace("-", "") for name, _ in library]
    library = [*zip(names, [law for _, law in library], strict=True), ("neighbours", KNeighborsRegressor(3))]
    t, fraction = new.times[0][:, None], np.clip(new.fractions[0], 0, 1)
    model = SuperLearnerRegressor(library, "simplex", cv=KFold(5, shuffle=True, random_state=0)).fit(t, fraction)
    trust = model.to_frame().weight
    assert trust.idxmax() == names[0] and trust[names[0]] > 0.6
    grid = np.linspace(0.2, 2.9, 50)
    assert np.abs(model.predict(grid[:, None]) - new.truth(grid)[0]).max() < 0.03
