"""A city learned once: where each step leads, so that a new goal is one new reward vector."""

from scimeta.domains.gridworld.agents import dyna_q, q_learning
from scimeta.domains.gridworld.arrival import Arrival, arrival, expected_steps
from scimeta.domains.gridworld.basis import basis_library, basis_weights, lazy_walk, soften
from scimeta.domains.gridworld.batched import Maps, features_of_maps, improve_maps, pad_maps, plan_maps, values_of_maps
from scimeta.domains.gridworld.belief import cell_belief, update_belief
from scimeta.domains.gridworld.deep import DeepSuccessors, load_deep_successors
from scimeta.domains.gridworld.deep_maps import PicturedMap
from scimeta.domains.gridworld.deep_training import learn_deep_successors
from scimeta.domains.gridworld.exact import SuccessorMap, factorize
from scimeta.domains.gridworld.goals import goal_prior, reward_law
from scimeta.domains.gridworld.learning import Learning
from scimeta.domains.gridworld.library import Improved, Library, improve, library, optimality_gap, transfer_bound
from scimeta.domains.gridworld.meta import Rewards, cell_features, goal_learner, reward_loss, reward_tasks
from scimeta.domains.gridworld.planning import Plan, evaluate_policy, greedy, policy_iteration, value_iteration
from scimeta.domains.gridworld.policy_gradient import adapt_exactly, goal_tasks, return_loss, tabular_policy
from scimeta.domains.gridworld.reuse import policy_reuse
from scimeta.domains.gridworld.sampled_policy import Sampler, Walks, adapt_by_walking, train_sampled, walk_loss
from scimeta.domains.gridworld.scores import (
    describe_route,
    distances,
    normalized_regret,
    path_lengths,
    regret,
    route,
    success_weighted_path_length,
)
from scimeta.domains.gridworld.search import SearchRoute, search_route
from scimeta.domains.gridworld.sfql import sfql
from scimeta.domains.gridworld.temporal import Successors, learn_successors
from scimeta.domains.gridworld.transfer import Transfer, World, q_learning_each
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
    "Arrival",
    "DeepSuccessors",
    "Improved",
    "Learning",
    "Library",
    "Maps",
    "PicturedMap",
    "Plan",
    "Rewards",
    "Sampler",
    "SearchRoute",
    "SuccessorMap",
    "Successors",
    "Transfer",
    "Transitions",
    "Walks",
    "Weights",
    "World",
    "adapt_by_walking",
    "adapt_exactly",
    "arrival",
    "basis_library",
    "basis_weights",
    "cell_belief",
    "cell_features",
    "describe_route",
    "distances",
    "dyna_q",
    "evaluate_policy",
    "expect",
    "expected_steps",
    "factorize",
    "features_of_maps",
    "goal_learner",
    "goal_prior",
    "goal_tasks",
    "greedy",
    "improve",
    "improve_maps",
    "lazy_walk",
    "learn_deep_successors",
    "learn_successors",
    "learn_weights",
    "library",
    "load_deep_successors",
    "next_place",
    "normalized_regret",
    "one_hot",
    "optimality_gap",
    "pad_maps",
    "path_lengths",
    "plan_maps",
    "policy_iteration",
    "policy_matrix",
    "policy_reuse",
    "q_learning",
    "q_learning_each",
    "regret",
    "return_loss",
    "reward_law",
    "reward_loss",
    "reward_tasks",
    "route",
    "search_route",
    "sfql",
    "soften",
    "success_weighted_path_length",
    "tabular_policy",
    "train_sampled",
    "transfer_bound",
    "transitions",
    "uniform_policy",
    "update_belief",
    "value_iteration",
    "values_of_maps",
    "walk_loss",
]
