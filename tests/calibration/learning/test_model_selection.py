"""What is chosen between components and a mixed model, on real hydrogen release: two batches, the law not exact."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scimeta import datasets
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.domains.kinetics import JMAK


@pytest.fixture(scope="module")
def release() -> list[Curve]:
    """Return the runs of batches E and F, with 1/T in 1/kK."""
    runs = [run for run in datasets.hydride_desorption() if run.name[0] in "EF"]
    return [replace(r, conditions={"1/T": 1000 / (float(r.conditions["temperature [degC]"]) + 273.15)}) for r in runs]


def test_components_do_not_take_the_place_of_a_likelier_discrepancy(release: list[Curve]):
    """Two components explain a little of what the law misses; the discrepancy and the batches explain it all."""
    prior = learn_prior(JMAK, release, conditions=["1/T"], groups=[run.name[0] for run in release])
    assert len(prior.components) == 1
    assert prior.family.discrepancy is not None and prior.family.between is not None
    assert set(prior.learned.coverage) == {"E", "F"}
    assert "nothing common to all specimens (known to" in str(prior)


def test_components_that_are_insisted_on_are_learned_and_claim_no_coverage_of_another_model(release: list[Curve]):
    prior = learn_prior(JMAK, release, conditions=["1/T"], groups=[run.name[0] for run in release], components=2)
    assert len(prior.components) == 2 and prior.family.discrepancy is None
    assert not prior.learned.coverage and "left out in turn" not in str(prior)
