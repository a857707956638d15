"""The structure of a family: found where it is there, left out where it is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from scimeta.calibration.data.points import Measured
from scimeta.calibration.laws.law import Law, Parameter
from scimeta.calibration.learning import structure
from scimeta.calibration.learning.held_out import coverage, held_out
from scimeta.calibration.learning.mixed_learning import learn_mixed
from scimeta.calibration.learning.mixed_model import Form, Mixed, MixedPast
from scimeta.calibration.learning.structure import choose, thinned
from simulators.kinetics import ONE_KIND, fraction

TIMES = np.linspace(0.1, 3.0, 15)
NONE = torch.zeros(0, dtype=torch.float64)
LINE = Law("line", lambda x, level, slope: level + slope * x, {"level": Parameter(), "slope": Parameter()})


def drawn(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 2) of (ln k, n) from the simulator's population."""
    return rng.multivariate_normal(*ONE_KIND, size=count).clip([-np.inf, 0.5])


def curves(parameters: np.ndarray, t0: np.ndarray | float = 0.0) -> np.ndarray:
    """Return (specimens, points) fractions without noise."""
    log_k, n = parameters.T[..., None]
    return fraction(TIMES, np.exp(log_k), n, np.reshape(t0, (-1, 1)))


def past_of(
    y: np.ndarray, group: np.ndarray | None = None, sigma: np.ndarray | None = None, x: np.ndarray = TIMES
) -> MixedPast:
    nan = np.full_like(y, np.nan) if sigma is None else sigma
    data = Measured(*map(torch.from_numpy, (np.tile(x, (len(y), 1)), y, nan, np.ones_like(y, dtype=bool))))
    design = torch.ones(len(y), 1, dtype=torch.float64)
    return MixedPast(data, design, None if group is None else torch.from_numpy(group))


def begin(count: int) -> tuple[Tensor, Tensor, float, Tensor]:
    """Return what the search begins with, far from the truth: all alike, twice the noise, a wide population."""
    theta = torch.tensor([[0.2, 2.0]], dtype=torch.float64).expand(count, -1)
    return theta, NONE, 0.04, torch.diag(torch.tensor([0.3, 0.5], dtype=torch.float64))


def chosen(law: Law, past: MixedPast, **options) -> Mixed:
    return choose(law, past, *begin(len(past.design)), **options)


def sd_at(mixed: Mixed, mean: np.ndarray) -> np.ndarray:
    return mixed.noise * mixed.error_model.relative_sd(torch.from_numpy(mean)).numpy()


def test_a_family_without_misfit_keeps_the_law_alone(jmak: Law):
    """Of six families one may be taken for another by chance."""
    alone = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = drawn(40, rng)
        mixed = chosen(jmak, past_of(curves(truth) + 0.02 * rng.standard_normal((40, 15)), np.arange(40) % 8))
        alone.append(mixed.form == Form())
        if alone[-1]:
            assert mixed.discrepancy is None and mixed.error_model.constant and mixed.group_covariance is None
            assert mixed.noise == pytest.approx(0.02, rel=0.15)
            error = mixed.beta_covariance[0, :, 0].diagonal().sqrt().numpy()
            assert (np.abs(mixed.beta[0].numpy() - truth.mean(0)) < 3 * error).all()
    assert sum(alone) >= 5, alone


def test_noise_that_grows_with_the_fraction_is_found(jmak: Law):
    at = np.array([0.2, 0.5, 0.9])
    for seed in range(2):
        rng = np.random.default_rng(seed)
        clean = curves(drawn(40, rng))
        noisy = clean + 0.1 * np.maximum(clean, 0.02) * rng.standard_normal(clean.shape)
        mixed = chosen(jmak, past_of(noisy), discrepancy=False)
        assert mixed.form.noise != "constant"
        assert sd_at(mixed, at) == pytest.approx(0.1 * at, rel=0.2)


def test_noise_with_a_constant_and_a_growing_part_is_found(jmak: Law):
    at = np.array([0.02, 0.3, 0.9])
    for seed in range(2):
        rng = np.random.default_rng(seed)
        clean = curves(drawn(60, rng))
        sd = np.hypot(0.01, 0.1 * clean)
        mixed = chosen(jmak, past_of(clean + sd * rng.standard_normal(clean.shape)), discrepancy=False)
        assert mixed.form.noise in ("combined", "power")
        insisted = chosen(jmak, mixed.problem.past, kinds=["combined"], discrepancy=False)
        assert insisted.form == Form("combined")
        assert sd_at(insisted, at) == pytest.approx(np.hypot(0.01, 0.1 * at), rel=0.25)


def test_a_clock_that_begins_late_is_found_with_its_time(jmak: Law):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        y = curves(drawn(40, rng), 0.12) + 0.01 * rng.standard_normal((40, 15))
        mixed = chosen(jmak, past_of(y))
        assert mixed.form == Form(start=True)
        start = mixed.discrepancy
        assert start is not None and start.mean.shape == (1,)
        error = start.start * np.sqrt(start.mean_covariance[0, 0])
        assert abs(start.start * start.mean[0] - 0.12) < max(3 * error, 0.015)


def test_a_curve_of_each_specimens_own_is_found(jmak: Law):
    rng = np.random.default_rng(0)
    clean = curves(drawn(40, rng))
    own = 0.12 * rng.standard_normal((40, 1)) * clean * (1 - clean) * np.sin(2 * np.pi * clean)
    mixed = chosen(jmak, past_of(clean + own + 0.005 * rng.standard_normal(clean.shape)))
    assert mixed.form.own
    assert mixed.discrepancy is not None and mixed.noise == pytest.approx(0.005, rel=0.25)


def test_groups_are_found_with_their_covariance(jmak: Law):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(30), 4)
        G, C = np.array([[0.06, 0.03], [0.03, 0.1]]), np.array([[0.01, 0.0], [0.0, 0.03]])
        effects = rng.multivariate_normal([0, 0], G, 30)
        parameters = np.array([0.0, 2.5]) + effects[group] + rng.multivariate_normal([0, 0], C, 120)
        y = curves(parameters) + 0.02 * rng.standard_normal((120, 15))
        mixed = chosen(jmak, past_of(y, group), discrepancy=False)
        assert mixed.form == Form(groups=True) and mixed.group_covariance is not None
        spread = np.sqrt(2 / 29)  # of a variance that 30 groups show
        assert np.abs(np.log(np.diag(mixed.group_covariance) / np.diag(G))).max() < 3 * spread
        assert np.abs(np.log(np.diag(mixed.own_covariance) / np.diag(C))).max() < 0.6


def test_readings_with_their_own_sigma_keep_it(jmak: Law):
    rng = np.random.default_rng(0)
    sigma = np.full((40, 15), np.nan)
    sigma[:, ::2] = 0.1
    y = curves(drawn(40, rng)) + np.where(np.isnan(sigma), 0.01, sigma) * rng.standard_normal((40, 15))
    mixed = chosen(jmak, past_of(y, sigma=sigma), form=Form())
    assert mixed.noise == pytest.approx(0.01, rel=0.15)


def test_few_specimens_or_abscissae_leave_the_law_alone(jmak: Law):
    """However wrong it is: a straight line for a curve."""
    rng = np.random.default_rng(0)

    def bent(count: int, x: np.ndarray) -> MixedPast:
        level = rng.standard_normal((count, 1))
        return past_of(level + 3 * np.sin(4 * x) + 0.01 * rng.standard_normal((count, len(x))), x=x)

    four = np.array([0.5, 1.0, 1.5, 2.0])
    for past, parts in ((bent(7, TIMES), False), (bent(12, four), False), (bent(12, TIMES), True)):
        theta = torch.zeros(len(past.design), 2, dtype=torch.float64)
        mixed = choose(LINE, past, theta, NONE, 1.0, torch.eye(2, dtype=torch.float64), kinds=["constant"])
        assert (mixed.form.common or mixed.form.own or False) if parts else not (mixed.form.common or mixed.form.own)


def test_one_error_model_is_insisted_on_and_none_is_refused(jmak: Law):
    rng = np.random.default_rng(0)
    past = past_of(curves(drawn(12, rng)) + 0.02 * rng.standard_normal((12, 15)))
    for kind in ("constant", "power"):
        assert chosen(jmak, past, kinds=[kind], discrepancy=False).form == Form(kind)
    for kinds in ([], ["student"]):
        with pytest.raises(ValueError, match="kinds must be some of constant, proportional"):
            chosen(jmak, past, kinds=kinds)


def test_a_candidate_that_cannot_be_learned_is_left_out(jmak: Law, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    past = past_of(curves(drawn(12, rng)) + 0.02 * rng.standard_normal((12, 15)))

    def failing(law, past, form, *rest):
        if form.noise == "power" or form.parts:
            raise torch.linalg.LinAlgError("not positive definite")
        return learn_mixed(law, past, form, *rest)

    monkeypatch.setattr(structure, "learn_mixed", failing)
    form = chosen(jmak, past).form
    assert form.noise != "power" and not form.parts


def held_out_densely(mixed: Mixed, past: MixedPast, fold: int, seen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances of a line's later readings in a fold, by generalised least squares on the others."""
    labels, C = structure.fold_labels(past).numpy(), mixed.own_covariance.numpy()
    G = np.zeros((2, 2)) if mixed.group_covariance is None else mixed.group_covariance.numpy()
    J = np.column_stack([np.ones(len(TIMES)), TIMES])
    y, noise = past.data.y.numpy(), mixed.noise**2 * np.eye(len(TIMES))
    A, right = np.zeros((2, 2)), np.zeros(2)
    for other in set(labels.tolist()) - {fold}:
        rows = np.flatnonzero(labels == other)
        X = np.tile(J, (len(rows), 1))
        V = np.kron(np.eye(len(rows)), J @ C @ J.T + noise) + X @ G @ X.T
        A, right = A + X.T @ np.linalg.solve(V, X), right + X.T @ np.linalg.solve(V, y[rows].ravel())
    V = J @ (C + G + np.linalg.inv(A)) @ J.T + noise
    later = [i for i in range(len(TIMES)) if i not in seen]
    gain = np.linalg.solve(V[np.ix_(seen, seen)], V[np.ix_(seen, later)]).T
    mean, rows = J @ np.linalg.solve(A, right), np.flatnonzero(labels == fold)
    means = mean[later] + (y[rows][:, seen] - mean[seen]) @ gain.T
    return means, np.diag(V[np.ix_(later, later)] - gain @ V[np.ix_(seen, later)])


@pytest.mark.parametrize("grouped", [False, True])
def test_held_out_densities_and_coverage_of_lines_are_the_dense_ones(grouped: bool):
    rng, group = np.random.default_rng(0), np.arange(24) % 6
    level = (0.5 * rng.standard_normal(6))[group] + 0.3 * rng.standard_normal(24)
    y = level[:, None] + (1 + 0.2 * rng.standard_normal((24, 1))) * TIMES + 0.1 * rng.standard_normal((24, 15))
    past = past_of(y, group)
    theta = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(24, -1)
    mixed = learn_mixed(LINE, past, Form(groups=grouped), theta, NONE, 0.1, 0.1 * torch.eye(2, dtype=torch.float64))
    cuts = [[2, 7, 12], [0, 1, 2], [0, 1, 2, 3], list(range(8))]
    density, shares = np.zeros((24, 4)), np.zeros(6)
    for fold in range(6):
        inside = []
        for c, seen in enumerate(cuts):
            means, variances = held_out_densely(mixed, past, fold, seen)
            later = y[group == fold][:, [i for i in range(15) if i not in seen]]
            density[group == fold, c] = stats.t.logpdf(later, 4, means, np.sqrt(variances)).mean(1)
            inside += list((np.abs(later - means) < 1.6448536 * np.sqrt(variances)).ravel())
        shares[fold] = np.mean(inside)
    assert held_out(mixed).numpy() == pytest.approx(density, rel=1e-5, abs=1e-6)
    assert coverage(mixed).numpy() == pytest.approx(shares, abs=1e-9)


def test_without_misfit_ninety_per_cent_intervals_hold_ninety_per_cent(jmak: Law):
    shares = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        past = past_of(curves(drawn(60, rng)) + 0.02 * rng.standard_normal((60, 15)), np.arange(60) % 6)
        found = coverage(chosen(jmak, past, form=Form()))
        assert found.shape == (6,)
        shares.append(float(found.mean()))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.03)


def test_a_group_without_readings_has_no_coverage():
    past = past_of(np.outer([1.0, 1.1, 0.9, 1.2], TIMES) + 0.1 * np.random.default_rng(0).standard_normal((4, 15)))
    past.data.mask[1] = False
    mixed = learn_mixed(
        LINE, past, Form(), torch.tensor([[0.0, 1.0]] * 4).double(), NONE, 0.1, torch.eye(2, dtype=torch.float64)
    )
    found = coverage(mixed)
    assert torch.isnan(found[1]) and torch.isfinite(found[[0, 2, 3]]).all()
    assert torch.isfinite(held_out(mixed)).all()


def test_long_specimens_are_thinned_evenly_and_short_ones_left_as_they_are():
    y = np.tile(np.arange(15.0), (2, 1))
    past = past_of(y)
    past.data.mask[1, 4:] = False
    data = thinned(past, 5).data
    assert data.y[0].tolist() == [0.0, 4.0, 7.0, 10.0, 14.0] and data.mask[0].all()
    assert data.y[1, data.mask[1]].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert thinned(past, 15) is past


def test_the_number_of_threads_is_what_it_was_before():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), structure.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_gain_is_one_in_most_folds():
    labels = torch.arange(6) % 3
    old, new = torch.zeros(6, 2), torch.tensor([0.9, -0.1, -0.1] * 2)[:, None].expand(-1, 2)
    total, error, most = structure.gain(new, old, labels)
    assert total == pytest.approx(0.7 / 3) and not most
    assert error == pytest.approx(float(np.std([0.9, -0.1, -0.1] * 2, ddof=1)) / 6**0.5)
    assert structure.gain(new + 0.2, old, labels)[2]
    assert structure.gain(new / 0.0, old, labels)[0] == -np.inf
