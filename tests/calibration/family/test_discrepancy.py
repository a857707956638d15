"""The discrepancy: cardinal splines under an envelope that vanishes where the law is at rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.calibration.family.discrepancy import Discrepancy, psd_root
from scimeta.calibration.laws.law import Law

KNOTS = np.array([0.0, 0.2, 0.5, 1.0])
PARAMETERS = {"k": torch.tensor(0.1, dtype=torch.float64), "n": torch.tensor(2.2, dtype=torch.float64)}


def discrepancy(coordinate: str = "prediction", taper: float = 0.0, start: float = 0.0) -> Discrepancy:
    """Return one of size 2 over these knots, with a start if there is one."""
    columns = len(KNOTS) + bool(start)
    eye = np.eye(columns)
    population = np.array([[0.16, 0.1], [0.1, 0.25]])
    return Discrepancy(
        (coordinate,), (KNOTS,), np.zeros(columns), eye, 0.1 * eye, population, 2.0, taper=taper, start=start
    )


def columns(one: Discrepancy, law: Law, x: list[float] | Tensor) -> Tensor:
    at = torch.as_tensor(x, dtype=torch.float64)
    return one.columns(one.place(law, PARAMETERS, at))


def test_each_column_is_the_size_at_its_knot_and_0_at_the_others(jmak: Law):
    assert columns(discrepancy("x"), jmak, list(KNOTS)).numpy() == pytest.approx(2.0 * np.eye(4), abs=1e-12)


def test_over_the_prediction_a_column_is_the_size_where_the_law_takes_the_value_of_its_knot(jmak: Law):
    k, n = np.exp(0.1), 2.2
    times = (-np.log1p(-KNOTS[1:3])) ** (1 / n) / k
    assert columns(discrepancy(), jmak, list(times)).numpy() == pytest.approx(2.0 * np.eye(4)[1:3], abs=1e-9)


def test_the_columns_sum_to_the_envelope_everywhere(jmak: Law):
    x = torch.linspace(0.0, 3.0, 50, dtype=torch.float64)
    assert columns(discrepancy("x"), jmak, x).sum(-1).numpy() == pytest.approx(np.full(50, 2.0))


def test_beyond_the_outermost_knots_the_columns_are_constant(jmak: Law):
    found = columns(discrepancy("x"), jmak, [1.0, 1.5, 4.0])
    assert found[1:].numpy() == pytest.approx(found[:1].expand(2, -1).numpy(), abs=1e-12)


def test_the_columns_and_their_slopes_do_not_jump_at_the_knots(jmak: Law):
    one, step = discrepancy("x"), 1e-5
    for knot in KNOTS[1:]:
        left, at, right = columns(one, jmak, [knot - step, knot, knot + step])
        assert ((at - left) / step).numpy() == pytest.approx(((right - at) / step).numpy(), abs=2e-3)
        assert left.numpy() == pytest.approx(right.numpy(), abs=1e-3)


def test_with_a_taper_the_discrepancy_of_a_law_at_rest_is_0(jmak: Law):
    """JMAK begins at 0 and ends at 1 whatever the parameters are."""
    found = columns(discrepancy(taper=3e-4), jmak, [1e-4, 0.8, 30.0])
    assert found[0].abs().max() < 1e-3 and found[2].abs().max() < 1e-3
    assert found[1].sum() == pytest.approx(2.0, rel=0.01)


def test_the_envelope_follows_the_standard_deviation_of_the_prediction_over_the_population(jmak: Law):
    one = discrepancy("x", taper=0.05)
    x = torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    draws = torch.from_numpy(np.random.default_rng(0).multivariate_normal([0, 0], 1e-6 * one.population, 20000))
    moved = jmak.curve({"k": 0.1 + draws[:, 0], "n": 2.2 + draws[:, 1]}, x)
    sd = 1e3 * moved.std(0)
    expected = 2.0 * sd / (sd + 0.05 * 2.0)
    assert columns(one, jmak, x).sum(-1).numpy() == pytest.approx(expected.numpy(), rel=0.03)


def test_the_last_column_of_a_start_is_what_a_later_clock_changes(jmak: Law):
    found = columns(discrepancy(start=0.25), jmak, [0.1, 0.25, 0.9])
    law = jmak.curve(PARAMETERS, torch.tensor([0.1, 0.25, 0.9, 0.65], dtype=torch.float64))
    assert found.shape == (3, 5)
    assert found[:, -1].numpy() == pytest.approx(np.array([-law[0], -law[1], law[3] - law[2]]))


def test_a_batch_of_parameters_gives_what_each_gives_alone(jmak: Law):
    one, x = discrepancy(taper=3e-4, start=0.1), torch.tensor([0.2, 0.7, 1.4], dtype=torch.float64)
    k, n = torch.tensor([[0.0, 0.3]] * 2).T.double(), torch.tensor([[2.0, 3.0]] * 2).double()
    batch = one.columns(one.place(jmak, {"k": k, "n": n}, x))
    alone = one.columns(one.place(jmak, {"k": k[1, 0], "n": n[1, 0]}, x))
    assert batch.shape == (2, 2, 3, 5)
    assert batch[1, 0].numpy() == pytest.approx(alone.numpy())


def test_two_parts_stand_side_by_side(jmak: Law):
    one, other = discrepancy("prediction"), discrepancy("x")
    eye = np.eye(8)
    both = Discrepancy(("prediction", "x"), (KNOTS, KNOTS), np.zeros(8), eye, eye, one.population, 2.0, taper=0.0)
    x = [0.1, 0.4, 0.9]
    expected = torch.cat([columns(one, jmak, x), columns(other, jmak, x)], -1)
    assert columns(both, jmak, x).numpy() == pytest.approx(expected.numpy())


def test_the_root_is_of_what_is_expected_of_a_new_specimen():
    one = discrepancy()
    assert (one.root @ one.root.T).numpy() == pytest.approx(1.1 * np.eye(4))


def test_the_root_of_a_singular_covariance_has_its_rank():
    column = torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64)
    root = psd_root(column @ column.T)
    assert root.shape == (3, 1)
    assert (root @ root.T).numpy() == pytest.approx((column @ column.T).numpy())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"coordinates": ("time",)}, '"prediction" or "x"'),
        ({"coordinates": ()}, "0 coordinates, but 1 sets of knots"),
        ({"knots": (KNOTS[::-1],)}, "that rise"),
        ({"knots": (KNOTS[:1],)}, "two or more"),
        ({"knots": (np.array([0.0, 0.2, np.inf, np.inf]),)}, "finite"),
        ({"mean": np.zeros(3)}, "4 finite numbers"),
        ({"mean": np.full(4, np.nan)}, "4 finite numbers"),
        ({"covariance": np.eye(3)}, r"covariance must be \(4, 4\)"),
        ({"covariance": np.triu(np.ones((4, 4)))}, "symmetric"),
        ({"mean_covariance": -np.eye(4)}, "negative variance"),
        ({"population": np.full((2, 2), np.nan)}, "population must be finite"),
        ({"size": 0.0}, "size must be"),
        ({"taper": -1.0}, "taper must be"),
        ({"x_scale": np.nan}, "x_scale must be"),
        ({"start": -0.1}, "start must be"),
        ({"start": 0.1}, "5 finite numbers"),
    ],
)
def test_numbers_that_no_discrepancy_has_are_refused(changed: dict, message: str):
    with pytest.raises(ValueError, match=message):
        replace(discrepancy(), **changed)
