"""Is this specimen one of the family: even on the family, whatever it is made of, and small on strangers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.fits.membership import Membership, memberships
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning.learn_prior import learn_prior
from simulators.kinetics import TWO_KINDS, alloy_family, two_kinds

EARLY = {m: 0.6 * np.arange(1, m + 1) / m for m in (3, 8)}
WHOLE = 3.0 * np.arange(1, 9) / 8


def shares(prior: Prior, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.array([found.p for found in memberships(prior, [Curve("new", x, y) for y in rows])])


def test_of_a_line_p_is_the_textbooks(line: Law) -> None:
    """Everything Gaussian: both densities are chi-squared, up to constants; p is that of the smaller of their two."""
    prior = Prior.by_hand(line, [[1.0, 0.5]], [[0.5, -0.2], [-0.2, 0.4]], 0.3)
    x, rng = np.array([0.5, 1.0, 2.0]), np.random.default_rng(0)
    rows = np.column_stack([np.ones(3), x])
    covariance = rows @ prior.covariance @ rows.T + 0.09 * np.eye(3)
    gain = prior.covariance @ rows.T @ np.linalg.inv(covariance)  # of the likeliest parameters, as the data move
    spread = gain @ covariance @ gain.T

    def least(off: np.ndarray) -> np.ndarray:
        points = np.einsum("si,ij,sj->s", off, np.linalg.inv(covariance), off)
        found = np.einsum("si,ij,sj->s", off @ gain.T, np.linalg.inv(prior.covariance), off @ gain.T)
        return np.minimum(stats.chi2.sf(points, 3), np.mean(found[:, None] <= likely, axis=1))

    draws = rng.multivariate_normal(np.zeros(2), spread, 20_000)
    likely = np.einsum("si,ij,sj->s", draws, np.linalg.inv(prior.covariance), draws)
    members = least(rng.multivariate_normal(np.zeros(3), covariance, 4000))
    off = rng.multivariate_normal(np.zeros(3), 2.0 * covariance, 40)
    expected = np.mean(members <= least(off)[:, None], axis=1)
    assert shares(prior, x, rows @ [1.0, 0.5] + off) == pytest.approx(expected, abs=0.06)  # draws of a thousand


@pytest.mark.parametrize("points", [3, 8])
def test_p_is_even_on_the_family_of_a_known_prior(truth: Prior, points: int) -> None:
    x = EARLY[points]
    family = alloy_family(300, rng=np.random.default_rng(points), times=x)
    assert stats.kstest(shares(truth, x, np.stack(family.fractions)), "uniform").pvalue > 0.05


def test_p_is_even_on_the_family_of_a_past_of_twenty(jmak: Law) -> None:
    """Over many pasts: one past of twenty alone may be a little too narrow or too wide."""
    found: dict[int, list[np.ndarray]] = {3: [], 8: []}
    for seed in range(20):
        past = alloy_family(20, rng=np.random.default_rng([11, 1, seed]), times=np.linspace(0.1, 3.0, 12))
        rows = enumerate(zip(past.times, past.fractions, strict=True))
        prior = learn_prior(jmak, [Curve(f"{i}", *measured) for i, measured in rows])
        for points, parts in found.items():
            family = alloy_family(6, rng=np.random.default_rng([11, 2, seed]), times=EARLY[points])
            parts.append(shares(prior, EARLY[points], np.stack(family.fractions)))
    for parts in found.values():
        p = np.concatenate(parts)
        assert stats.kstest(p, "uniform").pvalue > 0.05
        assert np.mean(p < 0.05) < 0.1  # of 120, two and a half standard errors above .05


def test_components_and_outliers_belong_to_the_family(jmak: Law) -> None:
    means, covariances = (torch.tensor(part, dtype=torch.float64) for part in zip(*TWO_KINDS, strict=True))
    plain = Family(jmak, torch.tensor([0.5, 0.5], dtype=torch.float64), means[:, None], covariances, 0.02)
    prior = Prior(replace(plain, outliers=Outliers(0.05, 0.15, 0.02)))
    family = two_kinds(300, rng=np.random.default_rng(4), times=EARLY[8], outliers=0.05)
    p = shares(prior, EARLY[8], np.stack(family.fractions))
    assert stats.kstest(p, "uniform").pvalue > 0.05
    clean = shares(Prior(plain), EARLY[8], np.stack(family.fractions))
    assert np.mean(clean < 0.01) > 0.25  # a third of the specimens have an outlier, which this prior knows nothing of


def test_strangers_are_found(truth: Prior) -> None:
    rng, count = np.random.default_rng(5), 200
    own = np.stack(alloy_family(count, rng=rng, times=WHOLE).fractions)
    slow = alloy_family(count, rng=rng, times=WHOLE, mean=(-0.8, 1.0), covariance=((0.04, 0.0), (0.0, 0.04)))
    family = alloy_family(count, rng=rng, times=WHOLE)
    ratio = (family.k[:, None] * WHOLE) ** family.n[:, None]
    other_law = ratio / (1.0 + ratio) + 0.02 * rng.standard_normal(ratio.shape)
    assert np.mean(shares(truth, WHOLE, own) < 0.05) < 0.1
    assert np.mean(shares(truth, WHOLE, rng.permuted(own, axis=1)) < 0.05) > 0.95
    assert np.mean(shares(truth, WHOLE, np.stack(slow.fractions)) < 0.05) > 0.85
    assert np.mean(shares(truth, WHOLE, other_law) < 0.05) > 0.75
    assert np.mean(shares(truth, EARLY[3], rng.permuted(own[:, [0, 1, 7]], axis=1)) < 0.05) > 0.5


def test_a_precise_reading_is_judged_by_its_own_sigma(line: Law) -> None:
    prior = Prior.by_hand(line, [[1.0, 0.5]], [[0.5, 0.0], [0.0, 0.1]], 0.3)
    x, y = [0.0, 1.0, 2.0], [1.0, 2.0, 2.0]  # half a millimetre off a line
    usual, precise = memberships(prior, [Curve("rod", x, y), Curve("rod", x, y, sigma=0.02)])
    assert usual.p > 0.2 and precise.p < 0.01


def test_conditions_say_where_the_family_lies(line: Law) -> None:
    load = Covariates(("load",), [10.0], [5.0])
    prior = Prior.by_hand(line, [[1.0, 0.5], [2.0, 0.0]], [[0.1, 0.0], [0.0, 0.1]], 0.1, load)
    curves = [Curve("rod", [0.0, 1.0], [3.0, 3.5], conditions={"load": newton}) for newton in (15.0, 10.0)]
    heavy, light = memberships(prior, curves)
    assert heavy.p > 0.9 and light.p < 0.01


def test_a_fit_says_it_and_a_batch_says_the_same(truth: Prior, jmak: Law) -> None:
    family = alloy_family(4, rng=np.random.default_rng(6), times=EARLY[3])
    curves = [Curve(f"A{i}", EARLY[3], y) for i, y in enumerate(family.fractions)]
    curves.append(Curve("strange", EARLY[8], EARLY[8][::-1]))
    fits = Calibrator(jmak, truth).fit_many(curves)
    assert [fit.family for fit in fits] == fits.families
    assert fits["strange"].family.sentence.startswith("the specimen is hardly one of the family: about ")
    one = fits[0]
    assert one.family.sentence in str(one)


def test_a_report_tells_the_closed_form_until_the_family_was_asked_for(line: Law) -> None:
    """Of a line the points are Gaussian around what the prior expects: their distance is chi-squared."""
    prior = Prior.by_hand(line, [[1.0, 0.5]], [[0.5, -0.2], [-0.2, 0.4]], 0.3)
    x, rows = np.array([0.5, 1.0, 2.0]), np.array([[1.0, 0.5], [1.0, 1.0], [1.0, 2.0]])
    off = np.array([[0.4, -0.3, 0.2], [0.9, -0.9, 0.9]])
    fits = Calibrator(line, prior).fit_many([Curve(f"S{i}", x, rows @ [1.0, 0.5] + o) for i, o in enumerate(off)])
    covariance = rows @ prior.covariance @ rows.T + 0.09 * np.eye(3)
    p = stats.chi2.sf(np.einsum("si,ij,sj->s", off, np.linalg.inv(covariance), off), 3)
    np.testing.assert_allclose(fits.surprise, p, rtol=1e-5)
    usual, strange = fits
    assert f"the points are such as the prior expects (p = {p[0]:.2g}, chi-squared)" in str(usual)
    assert f"the points are improbable under the prior (p = {p[1]:.1g}, chi-squared): check specimen" in str(strange)
    assert strange.family.sentence in str(strange) and "chi-squared" not in str(strange)


def test_shared_parameters_are_part_of_the_family() -> None:
    law = Law("lever", lambda x, a, b: a * x + b, {"a": Parameter(), "b": Parameter(shared=True)})
    prior = Prior.by_hand(law, [[1.0]], [[0.01]], 0.1, shared={"b": (5.0, 0.01)})
    near, far = memberships(prior, [Curve("near", [1, 2], [6.0, 7.0]), Curve("far", [1, 2], [1.0, 2.0])])
    assert near.p > 0.5 and far.p < 0.01


def test_the_sentence_follows_p() -> None:
    assert str(Membership(0.4)) == "the specimen looks like one of the family (p = 0.4)"
    assert str(Membership(0.03)).startswith(
        "the specimen is unusual for the family: about 30 in 1000 of its members give points as"
    )
    assert str(Membership(0.002)).endswith("(p = 0.002); check that it is the right specimen, its units and its points")


def test_a_fit_without_a_prior_knows_no_family(line: Law) -> None:
    fit = LeastSquares(line).fit([0.0, 1.0, 2.0], [1.0, 1.5, 2.1])
    with pytest.raises(ValueError, match="know no family"):
        _ = fit.family
