"""Many maps at once: equal to each by itself, whatever pads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.gridworld.batched import (
    Maps,
    expect_maps,
    features_of_maps,
    improve_maps,
    pad_maps,
    plan_maps,
    policy_matrices,
    solve_maps,
    values_of_maps,
)
from scimeta.domains.gridworld.exact import factorize
from scimeta.domains.gridworld.library import improve
from scimeta.domains.gridworld.planning import evaluate_policy, policy_iteration
from scimeta.domains.gridworld.transitions import Transitions, policy_matrix, transitions
from simulators.gridworld.layouts import four_rooms, maze, open_grid, street_city, town

GAMMA = 0.9


def several() -> list[Transitions]:
    """Maps of 1 to 148 cells; the town's steps are uncertain."""
    cities = (town(), open_grid(1), four_rooms(9), maze(9), street_city(13), four_rooms())
    return [transitions(city.next, city.probability) for city in cities]


def drawn(maps: list[Transitions], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Policies (maps, 2, states, actions), features (maps, states, 3), weights (maps, 3); padded cells hold junk."""
    policies = np.full((len(maps), 2, size, 5), 1e6)
    features = np.full((len(maps), size, 3), np.nan)
    for row, each in enumerate(maps):
        policies[row, :, : each.states] = rng.dirichlet(np.ones(5), (2, each.states))
        features[row, : each.states] = rng.standard_normal((each.states, 3))
    return torch.tensor(policies), torch.tensor(features), torch.tensor(rng.standard_normal((len(maps), 3)))


@pytest.fixture(scope="module")
def batch() -> tuple[list[Transitions], Maps, Tensor, Tensor, Tensor]:
    each = several()
    maps = pad_maps(each)
    return each, maps, *drawn(each, maps.mask.shape[1], np.random.default_rng(0))


def test_features_of_padded_maps_are_those_of_the_sparse_solve(batch):
    each, maps, policies, features, _ = batch
    together = features_of_maps(maps, policies, features, GAMMA)
    u = solve_maps(maps, policies, features, GAMMA)
    for row, made in enumerate(each):
        size = made.states
        for which in range(2):
            exact = factorize(made, policies[row, which, :size].numpy(), GAMMA)
            phi = features[row, :size].numpy()
            np.testing.assert_allclose(u[row, which, :size], exact.solve(phi), rtol=0, atol=1e-10)
            np.testing.assert_allclose(together[row, which, :size], exact.features(phi), rtol=0, atol=1e-10)
        assert (u[row, :, size:] == 0).all()


def test_one_policy_a_map_is_the_first_of_several(batch):
    _, maps, policies, features, _ = batch
    for compute in (solve_maps, features_of_maps):
        several = compute(maps, policies, features, GAMMA)
        alone = compute(maps, policies[:, 0], features, GAMMA)
        torch.testing.assert_close(alone, several[:, 0], rtol=0, atol=1e-12)


def test_matrices_and_expectations_are_those_of_each_map(batch):
    each, maps, policies, features, _ = batch
    matrices = policy_matrices(maps, policies)
    for row, made in enumerate(each):
        want = policy_matrix(made, policies[row, 1, : made.states].numpy()).toarray()
        np.testing.assert_allclose(matrices[row, 1, : made.states, : made.states], want, atol=1e-14)
        phi = features[row, : made.states].numpy()
        want = np.einsum("sak,sakd->sad", made.probability, phi[made.next])
        np.testing.assert_allclose(expect_maps(maps, features)[row, : made.states], want, atol=1e-14)


def test_improvement_and_its_values_are_those_of_each_map(batch):
    each, maps, policies, features, weights = batch
    psi = features_of_maps(maps, policies, features, GAMMA)
    actions, follows, certain = improve_maps(psi, weights)
    for row, made in enumerate(each):
        alone = improve(psi[row, :, : made.states].numpy(), weights[row].numpy())
        np.testing.assert_allclose(certain[row, : made.states], alone.values, atol=1e-12)
        np.testing.assert_array_equal(actions[row, : made.states], alone.actions)
        np.testing.assert_array_equal(follows[row, : made.states], alone.follows)


def test_values_and_plans_are_those_of_each_map(batch):
    each, maps, policies, features, weights = batch
    rewards = torch.einsum("bsd,bd->bs", features, weights)
    values = values_of_maps(maps, policies[:, 0], rewards, GAMMA)
    best, actions = plan_maps(maps, rewards, GAMMA)
    for row, made in enumerate(each):
        size, reward = made.states, rewards[row, : made.states].numpy()
        want = evaluate_policy(made, policies[row, 0, :size].numpy(), reward, GAMMA)
        np.testing.assert_allclose(values[row, :size], want, rtol=0, atol=1e-10)
        top = policy_iteration(made, reward, GAMMA).values
        np.testing.assert_allclose(best[row, :size], top, rtol=0, atol=1e-10)
        reached = evaluate_policy(made, actions[row, :size].numpy(), reward, GAMMA)
        np.testing.assert_allclose(reached, top, rtol=0, atol=1e-9)


def test_more_padding_changes_nothing(batch):
    each, maps, policies, features, weights = batch
    few = pad_maps(each[2:4])
    size = few.mask.shape[1]
    cut = slice(2, 4), slice(None), slice(size)
    psi = features_of_maps(few, policies[cut], features[2:4, :size], GAMMA)
    wide = features_of_maps(maps, policies, features, GAMMA)[cut]
    cells = few.mask[:, None, :, None, None].expand_as(psi)
    torch.testing.assert_close(psi[cells], wide[cells], rtol=0, atol=1e-12)
    rewards = torch.einsum("bsd,bd->bs", features, weights)
    narrow, _ = plan_maps(few, rewards[2:4, :size], GAMMA)
    torch.testing.assert_close(narrow[few.mask], plan_maps(maps, rewards, GAMMA)[0][2:4, :size][few.mask])


def test_single_precision_agrees_to_its_digits(batch):
    each, _, policies, features, weights = batch
    maps = pad_maps(each, dtype=torch.float32)
    coarse = features_of_maps(maps, policies.float(), features.float(), GAMMA)
    fine = features_of_maps(pad_maps(each), policies, features, GAMMA)
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse.double(), fine, rtol=0, atol=1e-4)
    rewards = torch.einsum("bsd,bd->bs", features, weights)
    best, _ = plan_maps(maps, rewards.float(), GAMMA)
    mask = maps.mask
    torch.testing.assert_close(
        best[mask].double(), plan_maps(pad_maps(each), rewards, GAMMA)[0][mask], rtol=0, atol=1e-4
    )


def test_gradients_flow_to_features_and_policies_and_stop_at_the_padding():
    made = [transitions([[1, 0], [0, 1]]), transitions([[1, 2], [2, 0], [0, 0]])]
    maps = pad_maps(made)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def solved(features: Tensor, logits: Tensor) -> Tensor:
        return solve_maps(maps, logits.softmax(-1), features, GAMMA)

    assert torch.autograd.gradcheck(solved, (features, logits))
    slopes = torch.autograd.grad(solved(features, logits).square().sum(), (features, logits))
    for slope in slopes:
        assert (slope[~maps.mask] == 0).all() and (slope[maps.mask] != 0).any()


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers(batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    each, maps, policies, features, weights = batch
    there = pad_maps(each, device="cuda")
    psi = features_of_maps(there, policies.cuda(), features.cuda(), GAMMA)
    torch.testing.assert_close(psi.cpu(), features_of_maps(maps, policies, features, GAMMA), rtol=0, atol=1e-10)
    rewards = torch.einsum("bsd,bd->bs", features, weights)
    best, _ = plan_maps(there, rewards.cuda(), GAMMA)
    torch.testing.assert_close(best.cpu(), plan_maps(maps, rewards, GAMMA)[0], rtol=0, atol=1e-10)


def test_bad_input_is_refused(batch):
    each, maps, policies, features, weights = batch
    with pytest.raises(ValueError, match="there are no maps"):
        pad_maps([])
    with pytest.raises(ValueError, match=r"equally many actions; they have \[2, 5\]"):
        pad_maps([each[0], transitions([[0, 0]])])
    for gamma in (1.0, -0.1):
        with pytest.raises(ValueError, match="gamma must be"):
            solve_maps(maps, policies, features, gamma)
    with pytest.raises(ValueError, match="policies must be"):
        solve_maps(maps, policies[:, :0], features, GAMMA)
    with pytest.raises(ValueError, match="features must be"):
        solve_maps(maps, policies, features[:, :-1], GAMMA)
    holed = features.clone()
    holed[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite in every cell that is there"):
        solve_maps(maps, policies, holed, GAMMA)
    with pytest.raises(ValueError, match="rewards must be"):
        plan_maps(maps, holed[..., 0], GAMMA)
    psi = features_of_maps(maps, policies, features, GAMMA)
    with pytest.raises(ValueError, match="with one policy or more"):
        improve_maps(psi[:, :0], weights)
    with pytest.raises(ValueError, match=r"weights must be \(6, 3\); got \(6, 2\)"):
        improve_maps(psi, weights[:, :2])
    with pytest.raises(RuntimeError, match="did not converge in 3 sweeps"):
        plan_maps(maps, features[..., 0], GAMMA, steps=3)


def test_rewards_for_actions_give_the_values_of_each_map(batch):
    each, maps, policies, _, _ = batch
    rewards = torch.randn(policies[:, 0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    values = values_of_maps(maps, policies[:, 0], rewards, GAMMA, per="action")
    best, actions = plan_maps(maps, rewards, GAMMA, per="action")
    for row, made in enumerate(each):
        size, reward = made.states, rewards[row, : made.states].numpy()
        want = evaluate_policy(made, policies[row, 0, :size].numpy(), reward, GAMMA, per="action")
        np.testing.assert_allclose(values[row, :size], want, rtol=0, atol=1e-10)
        top = policy_iteration(made, reward, GAMMA, per="action").values
        np.testing.assert_allclose(best[row, :size], top, rtol=0, atol=1e-10)
        reached = evaluate_policy(made, actions[row, :size].numpy(), reward, GAMMA, per="action")
        np.testing.assert_allclose(reached, top, rtol=0, atol=1e-9)
    assert not values[~maps.mask].any()


def test_rewards_for_actions_are_never_taken_for_those_of_states(batch):
    _, maps, policies, _, _ = batch
    table, state = torch.ones_like(policies[:, 0]), torch.ones(maps.mask.shape, dtype=torch.float64)
    for door in (lambda r, **per: plan_maps(maps, r, GAMMA, **per),
                 lambda r, **per: values_of_maps(maps, policies[:, 0], r, GAMMA, **per)):  # fmt: skip
        for per in ({}, {"per": "state"}):
            with pytest.raises(ValueError, match=r'rewards must be .*; for rewards R\(s, a\) say per="action"'):
                door(table, **per)
        with pytest.raises(ValueError, match="rewards must be"):
            door(state, per="action")
        with pytest.raises(ValueError, match="per must be"):
            door(state, per="edge")
    with pytest.raises(ValueError, match="policies must be"):
        values_of_maps(maps, policies, table, GAMMA, per="action")


def test_policies_that_are_none_and_numbers_that_are_not_finite_are_refused(batch):
    _, maps, policies, features, weights = batch
    negative = policies.clone()
    negative[0, 0, 0] = torch.tensor([2.0, -1.0, 0, 0, 0])
    for bad in (negative, 2 * policies, torch.full_like(policies, torch.nan)):
        with pytest.raises(ValueError, match="policies must be probabilities"):
            features_of_maps(maps, bad, features, GAMMA)
    psi = features_of_maps(maps, policies, features, GAMMA)
    with pytest.raises(ValueError, match="improve_maps: weights must be finite"):
        improve_maps(psi, torch.full_like(weights, torch.nan))
    with pytest.raises(ValueError, match="improve_maps: psi must be finite"):
        improve_maps(torch.full_like(psi, torch.inf), weights)
    with pytest.raises(ValueError, match="tolerance must be 0 or more; got nan"):
        plan_maps(maps, features[..., 0], GAMMA, tolerance=float("nan"))
