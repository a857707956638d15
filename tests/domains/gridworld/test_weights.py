from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from scimeta.calibration.data.curves import Curve
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.core.inner_loop import gauss_newton
from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.goals import goal_prior, reward_law
from scimeta.domains.gridworld.planning import evaluate_policy, policy_iteration
from scimeta.domains.gridworld.transitions import transitions, uniform_policy
from scimeta.domains.gridworld.weights import learn_weights, next_place
from simulators.gridworld.layouts import four_rooms

PLACES = 8


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def goals(rng: np.random.Generator, number: int, size: int = PLACES) -> np.ndarray:
    """Return goals of one population, the same for each call."""
    shape = np.random.default_rng(99)
    mean, root = shape.normal(size=size), shape.normal(size=(size, size))
    return mean + rng.normal(size=(number, size)) @ root.T


@pytest.mark.parametrize("with_prior", [False, True])
def test_as_many_rewards_without_noise_as_weights_give_them_exactly(with_prior: bool, rng: np.random.Generator) -> None:
    prior = goal_prior(goals(rng, 40)) if with_prior else None
    for true in goals(rng, 20):
        features = rng.normal(size=(PLACES, PLACES))
        found = learn_weights(features, features @ true, prior, sigma=0.0)
        np.testing.assert_allclose(found.mean, true, rtol=0, atol=1e-9)
        assert found.std.max() < 1e-3


def test_weights_from_rewards_without_noise_lead_to_the_route_of_told_ones(rng: np.random.Generator) -> None:
    city = four_rooms()
    world = transitions(city.next, city.probability)
    phi = np.zeros((len(city), PLACES))
    places = rng.choice(len(city), PLACES, replace=False)
    phi[places, range(PLACES)] = 1.0
    true = rng.normal(size=PLACES)
    found = learn_weights(phi[places], phi[places] @ true, sigma=0.0)
    told, learned = (policy_iteration(world, phi @ w, 0.95) for w in (true, found.mean))
    value = evaluate_policy(world, learned.actions, phi @ true, 0.95)
    np.testing.assert_allclose(value, told.values, rtol=0, atol=1e-6)


def test_the_posterior_is_one_gauss_newton_step_of_the_core(rng: np.random.Generator) -> None:
    prior, true = goal_prior(goals(rng, 50), noise=0.3), goals(rng, 1)[0]
    features = rng.normal(size=(5, PLACES))
    rewards = features @ true + 0.3 * rng.normal(size=5)
    population = prior.gaussian(prior.design([{}]))
    whiten = torch.linalg.inv(torch.linalg.cholesky(population.covariance))

    def residuals(params: dict[str, torch.Tensor], data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        phi, r = data
        return torch.cat([(phi @ params["w"] - r) / 0.3, whiten @ (params["w"] - population.mean[0])])

    start = {"w": torch.zeros(1, PLACES, dtype=torch.float64)}
    solution = gauss_newton(residuals, start, (torch.tensor(features)[None], torch.tensor(rewards)[None]), steps=1)
    found = learn_weights(features, rewards, prior, 0.3)
    np.testing.assert_allclose(found.mean, solution.params["w"][0], rtol=1e-8)
    curvature = (solution.jacobian.mT @ solution.jacobian)[0]
    np.testing.assert_allclose(found.covariance, torch.linalg.inv(curvature), rtol=1e-7, atol=1e-9)


def test_the_calibrator_says_the_same_of_the_reward_law(rng: np.random.Generator) -> None:
    features = rng.normal(size=(10, 3))
    prior, true = goal_prior(goals(rng, 200, 3), noise=0.3, features=features), goals(rng, 1, 3)[0]
    rewards = features @ true + 0.3 * rng.normal(size=10)
    fit = Calibrator(reward_law(features), prior).fit(np.arange(10.0), rewards, 0.3)
    found = learn_weights(features, rewards, prior, 0.3)
    for name, estimate in found.estimates.items():
        assert fit[name].value == pytest.approx(estimate.value, abs=0.1 * estimate.std)
        assert fit[name].std == pytest.approx(estimate.std, rel=0.1)


def test_a_prior_over_goals_is_learned_from_rewards_alone(rng: np.random.Generator) -> None:
    features = rng.normal(size=(12, 2))
    past = np.array([1.0, -2.0]) + rng.normal(size=(60, 2)) * [0.3, 1.0]
    curves = [Curve(f"goal {i}", np.arange(12.0), features @ w + 0.1 * rng.normal(size=12)) for i, w in enumerate(past)]
    prior = learn_prior(reward_law(features), curves)
    np.testing.assert_allclose(prior.coefficients[0], past.mean(0), atol=0.05)
    np.testing.assert_allclose(np.sqrt(np.diag(prior.covariance)), past.std(0), rtol=0.1)
    assert learn_weights(features[:1], features[:1] @ past[0], prior, 0.1).rewards == 1


def test_a_prior_over_goals_beats_none_where_rewards_are_few(rng: np.random.Generator) -> None:
    prior, errors = goal_prior(goals(rng, 100), noise=0.3), []
    for true in goals(rng, 50):
        features = rng.normal(size=(PLACES, PLACES))
        rewards = features @ true + 0.3 * rng.normal(size=PLACES)
        errors.append([np.abs(learn_weights(features, rewards, p, 0.3).mean - true).mean() for p in (prior, None)])
    assert np.median(errors, 0)[0] < 0.8 * np.median(errors, 0)[1]


@pytest.mark.parametrize("known", [True, False])
def test_intervals_cover_what_they_say(known: bool, rng: np.random.Generator) -> None:
    hits = []
    for true in goals(rng, 150):
        features = rng.normal(size=(20, PLACES))
        rewards = features @ true + 0.3 * rng.normal(size=20)
        found = learn_weights(features, rewards, goal_prior(goals(rng, 60)), 0.3 if known else None)
        hits.append([e.lower < w < e.upper for e, w in zip(found.estimates.values(), true, strict=True)])
    assert 0.87 < np.mean(hits) < 0.94  # of 1200 intervals at 90 %, correlated within a goal


def test_an_unknown_noise_is_estimated(rng: np.random.Generator) -> None:
    features, true = rng.normal(size=(200, PLACES)), rng.normal(size=PLACES)
    for sigma in (0.02, 0.5):
        found = learn_weights(features, features @ true + sigma * rng.normal(size=200))
        assert found.sigma == pytest.approx(sigma, rel=0.15)


def test_draws_have_the_posterior_s_moments(rng: np.random.Generator) -> None:
    features = rng.normal(size=(3, PLACES))
    found = learn_weights(features, rng.normal(size=3), goal_prior(goals(rng, 40)), 0.1)
    draws = found.sample(200_000, rng)
    np.testing.assert_allclose(draws.mean(0), found.mean, atol=0.02 * found.std.max())
    np.testing.assert_allclose(np.cov(draws.T), found.covariance, atol=0.02 * found.covariance.max())


def test_the_next_place_is_where_the_variance_falls_most(rng: np.random.Generator) -> None:
    prior, true = goal_prior(goals(rng, 40), noise=0.2), goals(rng, 1)[0]
    phi = rng.normal(size=(30, PLACES))
    seen = phi[:3]
    found = learn_weights(seen, seen @ true, prior, 0.2)
    place = next_place(found, phi)
    after = [learn_weights(phi[[0, 1, 2, s]], phi[[0, 1, 2, s]] @ true, prior, 0.2) for s in range(30)]
    entropy = [np.linalg.slogdet(one.covariance)[1] for one in after]
    assert place.state == np.argmin(entropy)
    fall = 0.5 * (np.linalg.slogdet(found.covariance)[1] - np.array(entropy))
    np.testing.assert_allclose(place.gains, fall, rtol=1e-8)


def test_the_next_place_for_a_value_lowers_that_value_s_variance_most(rng: np.random.Generator) -> None:
    prior = goal_prior(goals(rng, 40), noise=0.2)
    city = four_rooms()
    phi = np.eye(len(city))[:, :PLACES] + 0.1 * rng.normal(size=(len(city), PLACES))
    world = transitions(city.next, city.probability)
    value = factorize(world, uniform_policy(world), 0.95).solve(phi)[0]
    found = learn_weights(phi[:2], np.ones(2), prior, 0.2)
    place = next_place(found, phi, value=value)
    for state in range(0, len(city), 7):
        rows = [0, 1, state]
        after = learn_weights(phi[rows], np.ones(3), prior, 0.2)
        gain = 0.5 * np.log((value @ found.covariance @ value) / (value @ after.covariance @ value))
        assert place.gains[state] == pytest.approx(gain, rel=1e-6, abs=1e-9)


def test_a_far_place_must_teach_more(rng: np.random.Generator) -> None:
    found = learn_weights(np.eye(3)[[0, 0]], np.ones(2), goal_prior(np.diag([1.0, 2.0, 4.0]), noise=0.1), 0.1)
    assert next_place(found, np.eye(3)).state == 2
    assert next_place(found, np.eye(3), steps=np.array([1.0, 2.0, 50.0])).state == 1
    assert next_place(found, np.eye(3), steps=np.array([1.0, np.inf, np.inf])).state == 0


def test_places_worth_the_most_information_are_better_than_any(rng: np.random.Generator) -> None:
    prior, lost = goal_prior(goals(rng, 60), noise=0.2), []
    phi = rng.normal(size=(60, PLACES)) * rng.uniform(0.2, 2.0, (60, 1))
    for true in goals(rng, 20):
        chosen = list(rng.integers(60, size=1))
        for _ in range(5):
            chosen.append(next_place(learn_weights(phi[chosen], phi[chosen] @ true, prior, 0.2), phi).state)
        drawn = rng.integers(60, size=6)
        noise = 0.2 * rng.normal(size=6)
        lost.append(
            [
                np.abs(learn_weights(phi[s], phi[s] @ true + noise, prior, 0.2).mean - true).mean()
                for s in (chosen, drawn)
            ]
        )
    assert np.mean(lost, 0)[0] < 0.7 * np.mean(lost, 0)[1]


def test_no_reward_leaves_the_prior(rng: np.random.Generator) -> None:
    prior = goal_prior(goals(rng, 40))
    found = learn_weights(np.zeros((0, PLACES)), np.zeros(0), prior, 0.1)
    np.testing.assert_allclose(found.mean, prior.coefficients[0])
    np.testing.assert_allclose(found.covariance, prior.gaussian(np.ones((1, 1))).covariance)
    assert found["w0"].from_data == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.0, None])
def test_without_a_prior_a_weight_is_from_data_only_where_the_rewards_determine_it(sigma: float | None) -> None:
    for features, rewards, told in (
        (np.eye(3)[:1], [1.0], [1, 0, 0]),  # two never met
        (np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), [1.0, 1.0, 2.0], [0, 0, 1]),  # twins
        (np.array([[1.0, -1.0], [2.0, -2.0]]), [1.0, 2.0], [0, 0]),  # of which the difference alone is known
        (np.array([[1.0, 1.0], [1.0, 1.0 + 1e-9]]), [1.0, 1.0], [sigma == 0.0] * 2),  # alike but without noise
        (np.array([[1.0, 1.0], [1.0, 0.5]]), [1.0, 0.5], [1, 1]),
        (np.array([[1e-6, 0.0], [0.0, 1e6]]), [1.0, 1.0], [1, 1]),  # whatever their units
        (np.zeros((1, 2)), [0.0], [0, 0]),
    ):
        found = learn_weights(features, np.array(rewards), sigma=sigma)
        np.testing.assert_array_equal(found.from_data, told)
        np.testing.assert_array_equal([e.from_data for e in found.estimates.values()], told)
        for ends in (-found.lower, found.upper, found.std):
            np.testing.assert_array_equal(np.isfinite(ends), np.array(told) == 1)
        assert np.isfinite(found.mean).all() and np.isfinite(found.covariance).all()
        drawn = found.plot().containers[0].lines[0].get_xdata()
        np.testing.assert_array_equal(drawn, np.flatnonzero(told))
        plt.close("all")


def test_with_a_prior_from_data_is_the_share_of_the_variance_that_the_rewards_took() -> None:
    prior = goal_prior(np.random.default_rng(0).normal(size=(400, 3)) * [1.0, 1.0, 2.0])
    before = prior.gaussian(prior.design([{}])).covariance.numpy()
    for features in (np.eye(3)[:1], np.array([[1.0, 1.0, 0.0]] * 50), np.zeros((0, 3))):
        found = learn_weights(features, np.ones(len(features)), prior, 0.1)
        after = np.linalg.inv(np.linalg.inv(before) + features.T @ features / 0.01)
        np.testing.assert_allclose(found.from_data, 1 - np.diag(after) / np.diag(before), atol=1e-9)
    unseen = learn_weights(np.eye(3)[:1], np.ones(1), prior, 0.1).from_data
    twins = learn_weights(np.array([[1.0, 1.0, 0.0]] * 50), np.ones(50), prior, 0.1).from_data
    assert unseen[0] > 0.98 and unseen[1:].max() < 0.02
    assert twins[:2] == pytest.approx(0.5, abs=0.05) and twins[2] < 0.02  # their sum is known, not the difference


def test_without_a_prior_large_noise_is_not_mistaken_for_a_bound_on_the_weights() -> None:
    found = learn_weights(np.eye(2), np.ones(2), sigma=1e5)
    np.testing.assert_allclose(found.std, 1e5, rtol=1e-5)
    np.testing.assert_array_equal(found.from_data, 1)


def test_more_weights_than_past_goals_make_a_sound_prior(rng: np.random.Generator) -> None:
    prior = goal_prior(np.eye(100)[rng.integers(100, size=20)])
    found = learn_weights(np.eye(100)[:5], np.zeros(5), prior, 0.0)
    assert np.isfinite(found.mean).all() and (np.linalg.eigvalsh(found.covariance) > -1e-9).all()


def test_intervals_with_an_unknown_noise_are_the_quantiles_of_the_posterior(rng: np.random.Generator) -> None:
    found = learn_weights(np.eye(2), np.array([1.0, -1.0]))
    # The rewards are the weights plus noise; each noise counts by how likely it makes them.
    noises = 0.1 * np.exp(np.log(10) * np.linspace(-3, 3, 2001))
    spread = np.sqrt(1e6 * 1.0 + noises**2)  # the flat prior is 1000 times as wide as the weights
    share = np.exp(-0.5 * np.linspace(-3, 3, 2001) ** 2 - (1 / spread**2) - 2 * np.log(spread))
    noise = rng.choice(noises, size=400_000, p=share / share.sum())
    shrunk = 1e6 / (1e6 + noise**2)
    draws = shrunk + np.sqrt(shrunk) * noise * rng.normal(size=400_000)
    lower, upper = np.quantile(draws, [0.05, 0.95])
    assert found["w0"].lower == pytest.approx(lower, abs=0.03) and found["w0"].upper == pytest.approx(upper, abs=0.03)
    assert found["w0"].upper < 0.5 * (1 + 1.645 * found["w0"].std)  # far tails widen the standard deviation alone


def test_rewards_that_contradict_the_features_are_said() -> None:
    features, rewards = np.ones((2, 1)), np.array([1.0, 2.0])
    with pytest.raises(ValueError, match="no weights give these rewards"):
        learn_weights(features, rewards, sigma=0.0)
    with pytest.warns(RuntimeWarning, match="rewards contradict the features"):
        found = learn_weights(features, rewards, sigma=0.01)
    assert found.chance < 1e-4 and "the rewards contradict the features" in str(found)
    for sigma in (1.0, None):
        assert "contradict" not in str(learn_weights(features, rewards, sigma=sigma))


def test_the_chance_of_a_fit_is_even_where_the_noise_is_as_said(rng: np.random.Generator) -> None:
    features = rng.normal(size=(12, 3))
    chances = [
        learn_weights(features, features @ np.ones(3) + 0.3 * rng.normal(size=12), sigma=0.3).chance for _ in range(300)
    ]
    np.testing.assert_allclose(np.quantile(chances, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.08)


def test_the_reward_of_no_state_is_not_a_number() -> None:
    law = reward_law(np.eye(2), ["park", "toll"])
    found = law(torch.tensor([-1.0, 0.0, 1.0, 2.0, torch.nan]), park=3.0, toll=-1.0)
    torch.testing.assert_close(found, torch.tensor([torch.nan, 3.0, -1.0, torch.nan, torch.nan]), equal_nan=True)


def test_what_is_wrong_with_rewards_is_said(rng: np.random.Generator) -> None:
    features = np.eye(3)
    with pytest.raises(ValueError, match=r"rewards\[1\] is nan"):
        learn_weights(features, np.array([1.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match=r"features\[0, 2\] is inf"):
        learn_weights(np.array([[0.0, 1.0, np.inf]]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"features must be \(n, d\)"):
        learn_weights(features, np.ones(2))
    with pytest.raises(ValueError, match="at least one reward"):
        learn_weights(np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match="sigma must be 0 or more"):
        learn_weights(features, np.ones(3), sigma=-1.0)
    with pytest.raises(ValueError, match="the features have 3 columns"):
        learn_weights(features, np.ones(3), goal_prior(goals(rng, 10)))
    with pytest.raises(TypeError, match="prior must be a Prior"):
        learn_weights(features, np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="two or more"):
        goal_prior(np.ones((1, 3)))
    with pytest.raises(ValueError, match="all past goals are the same"):
        goal_prior(np.ones((4, 3)))
    with pytest.raises(ValueError, match="3 different names"):
        learn_weights(features, np.ones(3), names=["park", "park", "toll"])
    with pytest.raises(KeyError, match="there are park, toll, bank"):
        learn_weights(features, np.ones(3), names=["park", "toll", "bank"])["lake"]
    found = learn_weights(features, np.ones(3))
    with pytest.raises(ValueError, match="steps must be"):
        next_place(found, features, steps=np.full(3, np.inf))
    with pytest.raises(ValueError, match=r"features must be \(states, 3\)"):
        next_place(found, np.eye(2))


def test_weights_print_and_draw_themselves(rng: np.random.Generator) -> None:
    found = learn_weights(np.eye(3), np.array([1.0, -2.0, 0.5]), sigma=0.1, names=["park", "toll", "bank"])
    text = str(found)
    assert "from 3 rewards, noise sd 0.1, 90% intervals" in text and "toll" in text
    ax = found.plot(truth=np.ones(3))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["park", "toll", "bank"]
    assert "280 smaller" in str(learn_weights(np.eye(300), np.arange(300.0), sigma=0.1))
    assert "toll" in str(goal_prior(goals(rng, 10, 3), names=["park", "toll", "bank"]))
