"""A city learned once: where each step leads, so that a new goal is one new reward vector."""

from scimeta.domains.gridworld.basis import basis_library, basis_weights, lazy_walk, soften
from scimeta.domains.gridworld.batched import Maps, features_of_maps, improve_maps, pad_maps, plan_maps, values_of_maps
from scimeta.domains.gridworld.belief import cell_belief, update_belief
from scimeta.domains.gridworld.exact import SuccessorMap, factorize
from scimeta.domains.gridworld.goals import goal_prior, reward_law
from scimeta.domains.gridworld.library import Improved, Library, improve, library, optimality_gap, transfer_bound
from scimeta.domains.gridworld.planning import Plan, evaluate_policy, greedy, policy_iteration, value_iteration
from scimeta.domains.gridworld.scores import (
    describe_route,
    distances,
    normalized_regret,
    path_lengths,
    regret,
    route,
    success_weighted_path_length,
)
from scimeta.domains.gridworld.search import SearchRoute, expected_steps, search_route
from scimeta.domains.gridworld.temporal import Successors, learn_successors
from scimeta.domains.gridworld.transitions import (
    Transitions,
    expect,
    one_hot,
    policy_matrix,
    transitions,
    uniform_policy,
)
from scimeta.domains.gridworld.weights import Weights, learn_weights, next_place

__all__ = [
    "Improved",
    "Library",
    "Maps",
    "Plan",
    "SearchRoute",
    "SuccessorMap",
    "Successors",
    "Transitions",
    "Weights",
    "basis_library",
    "basis_weights",
    "cell_belief",
    "describe_route",
    "distances",
    "evaluate_policy",
    "expect",
    "expected_steps",
    "factorize",
    "features_of_maps",
    "goal_prior",
    "greedy",
    "improve",
    "improve_maps",
    "lazy_walk",
    "learn_successors",
    "learn_weights",
    "library",
    "next_place",
    "normalized_regret",
    "one_hot",
    "optimality_gap",
    "pad_maps",
    "path_lengths",
    "plan_maps",
    "policy_iteration",
    "policy_matrix",
    "regret",
    "reward_law",
    "route",
    "search_route",
    "soften",
    "success_weighted_path_length",
    "transfer_bound",
    "transitions",
    "uniform_policy",
    "update_belief",
    "value_iteration",
    "values_of_maps",
]
