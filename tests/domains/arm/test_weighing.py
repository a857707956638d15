"""What a weighing says: intervals, tables, plots."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch

from scimeta.domains.arm import Weighing, is_consistent


def weighing(misses: torch.Tensor | None = None) -> Weighing:
    """Of two trials, 2 and 4 kg, the centre of mass .1 m along z."""
    parameters = torch.zeros(2, 10, dtype=torch.float64)
    parameters[:, 0] = torch.tensor([2.0, 4.0])
    parameters[:, 3] = 0.1 * parameters[:, 0]
    root = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = (1e-4 * root @ root.mT).expand(2, 10, 10)
    return Weighing(parameters, covariance, torch.tensor([200.0, 300.0], dtype=torch.float64), misses)


def test_without_trials_kept_back_the_interval_is_gaussian():
    lower, upper = weighing().interval(0.9)
    torch.testing.assert_close((upper - lower) / 2, 1.6448536269514722 * weighing().mass_sd)


def test_intervals_are_as_wide_as_the_trials_kept_back_needed():
    misses = torch.arange(1.0, 20.0, dtype=torch.float64)  # 19 of them: the 18th at 90 %
    lower, upper = weighing(misses).interval(0.9)
    torch.testing.assert_close((upper - lower) / 2, 18 * weighing().mass_sd)


def test_a_level_beyond_what_the_trials_can_say_is_at_least_the_widest_of_them():
    few = weighing(torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    lower, upper = few.interval(0.99)
    torch.testing.assert_close((upper - lower) / 2, 2.5758293035489004 * few.mass_sd)


def test_split_conformal_intervals_hold_their_level_for_any_error():
    generator = torch.Generator().manual_seed(1)
    held = []
    for _ in range(400):
        misses = torch.rand(40, generator=generator, dtype=torch.float64).pow(-0.3).sort().values  # heavy-tailed
        error = torch.rand(1, generator=generator, dtype=torch.float64).pow(-0.3)
        one = weighing(misses)
        lower, upper = one.interval(0.9)
        half = (upper - lower)[0] / 2 / one.mass_sd[0]
        held.append((error <= half).double())
    share = torch.cat(held).mean().item()
    assert abs(share - 37 / 41) < 3 * (0.9 * 0.1 / 400) ** 0.5  # the 37th of 40: ceil(41 x .9)


def test_the_spread_of_the_centre_of_mass_is_that_of_draws():
    one = weighing()
    draws = torch.distributions.MultivariateNormal(one.parameters[1], 0.01 * one.covariance[1]).sample((200_000,))
    sampled = (draws[:, 1:4] / draws[:, :1]).std(0)
    torch.testing.assert_close(0.1 * one.com_sd[1], sampled, rtol=0.01, atol=0)


def test_the_table_holds_what_is_printed():
    table = weighing().to_frame()
    assert table["mass"].tolist() == [2.0, 4.0]
    assert (table["mass_lower"] < table["mass"]).all() and (table["mass"] < table["mass_upper"]).all()
    assert table["com_z"].tolist() == pytest.approx([0.1, 0.1])
    assert (table["com_z_lower"] < 0.1).all() and (table["com_z_upper"] > 0.1).all()
    text = str(weighing())
    assert "2.0000" in text and "100.0" in text and "300" in text


def test_a_weighing_of_one_trial_prints_and_draws_too():
    one = Weighing(*(values[0] for values in weighing()[:3]))
    assert len(one.to_frame()) == 1 and "2.0000" in str(one)
    ax = one.plot()
    assert ax.get_xlabel() == "mass [kg]"
    plt.close(ax.figure)


def test_the_plot_shows_errors_where_the_truth_is_known():
    ax = weighing().plot(torch.tensor([2.1, 4.0], dtype=torch.float64))
    (line,) = ax.containers[0].get_children()[:1]
    assert line.get_ydata() == pytest.approx([-100.0, 0.0])
    plt.close(ax.figure)


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match="level is between 0 and 1"):
        weighing().interval(level)


def test_a_weighing_can_be_made_physically_consistent():
    one = weighing()
    one.parameters[:, 4:] = torch.tensor([0.1, 0.0, 0.0, 0.1, 0.0, -0.05], dtype=torch.float64)
    found = one.made_consistent()
    assert not is_consistent(one.parameters).any() and is_consistent(found.parameters, 1e-6).all()
    assert torch.equal(found.covariance, one.covariance)
