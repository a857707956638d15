"""Posteriors against a dense grid, exact Bayes for a linear law, and their own loops and orders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.data.points import Points
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.mixture import Gaussian
from scimeta.calibration.intervals import weighted_quantiles
from scimeta.calibration.laws.checks import measured
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.nodes import student_nodes
from scimeta.calibration.posterior.posterior import Posterior, posterior

SPECIMENS = 24


class Grid:
    """The posterior of one specimen by brute force over (ln k, n).

    Attributes:
        mean, sd: (2,).
        quantiles: (2, 2) 5 and 95 % of each parameter.
        log_evidence: number.
    """

    def __init__(self, law, prior, x, y, noise):
        begin, end = (prior.mean[0].numpy() + s * 6 * prior.covariance.diagonal().sqrt().numpy() for s in (-1, 1))
        for _ in range(3):  # zoom to where the density is
            axes = [np.linspace(a, b, 241) for a, b in zip(begin, end, strict=True)]
            u = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
            curve = law.curve({"k": torch.from_numpy(u[:, 0]), "n": torch.from_numpy(u[:, 1])}, x).numpy()
            log_joint = stats.norm.logpdf(y, curve, noise).sum(-1)
            log_joint += stats.multivariate_normal.logpdf(u, prior.mean[0], prior.covariance)
            inside = u[log_joint > log_joint.max() - 25.0]
            step = np.array([axis[1] - axis[0] for axis in axes])
            begin, end = inside.min(0) - step, inside.max(0) + step
        weight = np.exp(log_joint - log_joint.max())
        self.log_evidence = log_joint.max() + np.log(weight.sum() * step.prod())
        marginals = [weight.reshape(241, 241).sum(1 - i) / weight.sum() for i in range(2)]
        self.mean = np.array([m @ a for m, a in zip(marginals, axes, strict=True)])
        self.sd = np.sqrt([m @ (a - c) ** 2 for m, a, c in zip(marginals, axes, self.mean, strict=True)])
        self.quantiles = np.array(
            [np.interp((0.05, 0.95), m.cumsum() - 0.5 * m, a) for m, a in zip(marginals, axes, strict=True)]
        )


def population(truth, specimens):
    return truth.gaussian(np.ones((specimens, 1)))


def plain(law: Law) -> Family:
    """A family whose law and shared values count: the prior is given beside it."""
    fast = len(law.fast)
    return Family.gaussian(law, np.zeros((1, fast)), np.eye(fast), 1.0)


def solved(law, truth, curves, nodes: int | None = None) -> Posterior:
    points = measured(law, curves).points(truth.noise)
    return posterior(replace(truth.family, law=law), population(truth, len(curves)), points, nodes=nodes)


@pytest.fixture(scope="module")
def family(simulate):
    """Return points -> curves of the same new alloys; the points are the first ones of 30."""
    return {points: simulate(SPECIMENS, seed=5, points=points)[1] for points in (3, 5, 8)}


@pytest.fixture(scope="module")
def grids(jmak, truth, family):
    """Return points -> one grid an alloy."""
    prior = population(truth, 1)
    return {points: [Grid(jmak, prior, torch.from_numpy(c.x), c.y, truth.noise) for c in curves]
            for points, curves in family.items()}  # fmt: skip


def errors(found: Posterior, grids: list[Grid]) -> dict[str, np.ndarray]:
    """Return the differences to the grids in units of the grids' standard deviations."""
    mean, sd = (np.array([getattr(grid, part) for grid in grids]) for part in ("mean", "sd"))
    ends = weighted_quantiles(found.nodes.mT, found.weights[:, None], (0.05, 0.95))
    quantiles = np.stack([end.numpy() for end in ends], -1) - np.array([grid.quantiles for grid in grids])
    return {
        "mean": (found.mean.numpy() - mean) / sd,
        "sd": found.covariance.diagonal(dim1=1, dim2=2).sqrt().numpy() / sd - 1,
        "quantiles": quantiles / sd[..., None],
        "log evidence": found.log_evidence.numpy() - [grid.log_evidence for grid in grids],
    }


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@pytest.mark.parametrize("points", [3, 5, 8])
class TestAgainstAGrid:
    def test_the_moments_and_the_evidence_are_the_grids(self, jmak, truth, family, grids, points):
        error = errors(solved(jmak, truth, family[points]), grids[points])
        for name, typical, largest in (("mean", 0.04, 0.15), ("sd", 0.06, 0.2), ("log evidence", 0.02, 0.06)):
            assert rms(error[name]) < typical and np.abs(error[name]).max() < largest, name

    def test_the_ends_of_the_intervals_are_the_grids(self, jmak, truth, family, grids, points):
        error = errors(solved(jmak, truth, family[points]), grids[points])["quantiles"]
        assert rms(error) < 0.12 and np.abs(error).max() < 0.5

    def test_more_nodes_come_closer_to_the_grid(self, jmak, truth, family, grids, points):
        few, many = (errors(solved(jmak, truth, family[points], nodes), grids[points]) for nodes in (64, 4096))
        for name in few:
            assert rms(many[name]) < min(0.03, rms(few[name])), name

    def test_laplace_alone_is_further_from_the_grid_than_the_nodes(self, jmak, truth, family, grids, points):
        found = solved(jmak, truth, family[points])
        sd = np.array([grid.sd for grid in grids[points]])
        laplace = found.laplace.diagonal(dim1=1, dim2=2).sqrt().numpy() / sd - 1
        nodes = errors(found, grids[points])["sd"]
        assert rms(laplace) > 2 * rms(nodes)


class TestLinearLaw:
    """y = level + slope x with Gaussian noise and prior: mean, covariance and evidence are textbook formulas."""

    @pytest.fixture
    def exact(self, line):
        rng = np.random.default_rng(6)
        x = np.sort(rng.uniform(0.0, 4.0, (9, 4)))
        mean, covariance = np.array([1.0, -0.5]), np.array([[0.5, -0.2], [-0.2, 0.3]])
        theta = rng.multivariate_normal(mean, covariance, 9)
        sd = rng.uniform(0.1, 1.0, (9, 4))
        y = theta[:, :1] + theta[:, 1:] * x + sd * rng.normal(size=(9, 4))
        design = np.stack([np.ones_like(x), x], -1)  # (specimens, points, 2)
        precision = np.linalg.inv(covariance) + np.einsum("spi,sp,spj->sij", design, sd**-2, design)
        after = np.linalg.inv(precision)
        pull = np.linalg.inv(covariance) @ mean + np.einsum("spi,sp->si", design, y / sd**2)
        log_evidence = [
            stats.multivariate_normal.logpdf(
                y[i], design[i] @ mean, design[i] @ covariance @ design[i].T + np.diag(sd[i] ** 2)
            )
            for i in range(9)
        ]
        prior = Gaussian(torch.from_numpy(np.tile(mean, (9, 1))), torch.from_numpy(covariance))
        points = Points.plain(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(1 / sd))
        return prior, points, np.einsum("sij,sj->si", after, pull), after, np.array(log_evidence)

    def test_mode_and_laplace_are_exact_bayes(self, line, exact):
        prior, points, mean, covariance, _ = exact
        found = posterior(plain(line), prior, points)
        np.testing.assert_allclose(found.mode, mean, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found.laplace, covariance, rtol=1e-8, atol=1e-10)
        assert found.converged.all()

    def test_the_nodes_are_exact_bayes_within_their_number(self, line, exact):
        prior, points, mean, covariance, log_evidence = exact
        found = posterior(plain(line), prior, points)
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        np.testing.assert_allclose((found.mean.numpy() - mean) / sd, 0.0, atol=0.015)
        np.testing.assert_allclose(
            (found.covariance.numpy() - covariance) / (sd[:, :, None] * sd[:, None]), 0.0, atol=0.04
        )
        np.testing.assert_allclose(found.log_evidence, log_evidence, atol=0.01)

    def test_many_nodes_are_exact_bayes(self, line, exact):
        prior, points, mean, covariance, log_evidence = exact
        found = posterior(plain(line), prior, points, nodes=4096)
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        np.testing.assert_allclose((found.mean.numpy() - mean) / sd, 0.0, atol=5e-4)
        np.testing.assert_allclose(
            (found.covariance.numpy() - covariance) / (sd[:, :, None] * sd[:, None]), 0.0, atol=1e-3
        )
        np.testing.assert_allclose(found.log_evidence, log_evidence, atol=3e-4)

    def test_points_without_weight_leave_the_prior(self, line, exact):
        prior, points, *_ = exact
        found = posterior(plain(line), prior, points._replace(inverse_sd=torch.zeros_like(points.inverse_sd)))
        np.testing.assert_allclose(found.mode, prior.mean, atol=1e-12)
        np.testing.assert_allclose(found.laplace[0], prior.covariance, rtol=1e-10)
        np.testing.assert_allclose(found.log_evidence, 0.0, atol=0.01)


class TestBatches:
    def test_a_batch_is_the_loop_over_specimens(self, jmak, truth, family):
        whole = solved(jmak, truth, family[5])
        for i, curve in enumerate(family[5]):
            alone = solved(jmak, truth, [curve])
            for part, one in zip(whole, alone, strict=True):
                torch.testing.assert_close(part[i], one[0], rtol=1e-9, atol=1e-9)

    def test_padding_changes_nothing(self, jmak, truth, family, simulate):
        long = simulate(1, seed=7)[1]
        whole = solved(jmak, truth, [*family[3], *long])
        alone = solved(jmak, truth, family[3])
        for part, one in zip(whole, alone, strict=True):
            torch.testing.assert_close(part[:-1], one, rtol=1e-9, atol=1e-9)

    def test_a_law_along_x_has_the_posterior_of_its_pointwise_twin(self, jmak, truth, family):
        twin = replace(jmak, fn=lambda x, k, n: jmak.fn(x, k, n) + 1e-9 * x.sum())
        assert jmak.pointwise and not twin.pointwise
        ours, other = solved(jmak, truth, family[5]), solved(twin, truth, family[5])
        torch.testing.assert_close(other.mean, ours.mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other.log_evidence, ours.log_evidence, rtol=1e-6, atol=1e-5)

    def test_shared_parameters_are_held_at_their_values(self, line):
        law = replace(line, parameters={**line.parameters, "slope": Parameter("mm/s", shared=True)})
        x, y = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        prior = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
        held = replace(plain(law), shared={"slope": torch.tensor(0.5, dtype=torch.float64)})
        found = posterior(held, prior, Points.plain(x, y, torch.ones_like(x)))
        assert float(found.mode) == pytest.approx((2.5 + 3.0) / 3.0)  # two readings and the prior's zero

    def test_weights_are_a_distribution(self, jmak, truth, family):
        found = solved(jmak, truth, family[3])
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(SPECIMENS, dtype=torch.float64))
        assert (
            (found.weights >= 0).all()
            and (found.effective >= 1).all()
            and (found.effective <= found.weights.shape[1]).all()
        )
        assert found.effective.min() > 0.2 * found.weights.shape[1]

    def test_measurements_keep_their_own_sigma_and_lend_the_noise_to_the_others(self, jmak):
        batch = measured(jmak, [Curve("A", [1.0, 2.0], [0.1, 0.2], [0.5, np.nan]), Curve("B", [1.0], [0.1])])
        assert batch.given.tolist() == [[True, False], [False, False]]
        assert batch.points(0.1).inverse_sd.tolist() == [[2.0, 10.0], [10.0, 0.0]]


@pytest.mark.parametrize(("dimension", "error"), [(1, 0.002), (2, 0.005), (4, 0.015), (6, 0.05)])
def test_the_proposals_nodes_carry_its_own_density(dimension, error):
    """Weighted by normal / proposal the nodes must have the normal's mass, mean and covariance."""
    nodes, log_density = (t.numpy() for t in student_nodes(4096, dimension))
    normal = stats.multivariate_normal.logpdf(nodes, np.zeros(dimension)).reshape(-1)
    ratio = np.exp(normal - log_density)
    assert ratio.mean() == pytest.approx(1.0, abs=error)
    np.testing.assert_allclose((ratio[:, None] * nodes).mean(0), 0.0, atol=error)
    np.testing.assert_allclose((ratio[:, None] * nodes).T @ nodes / len(nodes), np.eye(dimension), atol=error)
