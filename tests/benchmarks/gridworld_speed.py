"""Size and speed: 10^5 states on one core, many maps at once in torch, and thousands of agents in one step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from gridworld_problems import GAMMA, PLACES, SMOKE, race, timed
from numpy import ndarray
from scipy.sparse import eye_array
from scipy.sparse.linalg import spsolve

from scimeta.domains.gridworld import (
    Maps,
    Transitions,
    distances,
    evaluate_policy,
    expect,
    factorize,
    features_of_maps,
    greedy,
    lazy_walk,
    library,
    pad_maps,
    path_lengths,
    plan_maps,
    policy_matrix,
    success_weighted_path_length,
    transitions,
    uniform_policy,
    value_iteration,
    values_of_maps,
)
from simulators import gridworld as sim

SIDE = 40 if SMOKE else 316
MAZE = 57 if SMOKE else 447  # cells along each side; about half are free
NEW = 2 if SMOKE else 5  # goals
MAPS = 8 if SMOKE else 128
ROUNDS = 1 if SMOKE else 7
AGENTS = (64,) if SMOKE else (64, 1024, 4096)
STEPS = 20 if SMOKE else 200


def size() -> None:
    """Print seconds to learn a large map, and milliseconds a goal, beside solves without factors and planning."""
    rng = np.random.default_rng(0)
    cities = {
        "open grid": (sim.open_grid(SIDE), (GAMMA,)),
        "maze with loops": (sim.maze(MAZE, rng=rng, loops=0.05), (GAMMA,)),
        "maze": (sim.maze(MAZE, rng=rng), (GAMMA, 0.999)),
    }
    print("\nLarge maps: learned once, then one solve and a greedy choice for each new goal, CPU time, one core")
    heads = f"{'learn, s':>9} {'a goal, ms':>11} {'residual':>9} {'SPL':>7} {'spsolve, ms':>12}"
    print(f"  {'map':<16} {'states':>7} {'gamma':>6} {'policy':<14} {heads} {'value iter., ms (SPL)':>22}")
    for name, (city, gammas) in cities.items():
        for gamma in gammas:
            size_of(name, transitions(city.next, city.probability), gamma)
    print(f"  {'asked':<16} {'10^5':>7} {GAMMA:>6} {'':<14} {'<= 1':>9} {'<= 50':>11} {'<= 1e-10':>9}")
    print(
        "  SPL below 1: the random walk takes detours, and goals far away have values below 1e-308, a float64's least."
    )


def size_of(name: str, map: Transitions, gamma: float) -> None:
    """Print the rows of one map."""
    goals = np.random.default_rng(1).choice(map.states, NEW, replace=False)
    tell = ""
    if gamma == GAMMA:  # a discount nearer to 1 takes minutes
        plan, spent = timed(lambda: value_iteration(map, one(map, goals[0]), gamma))
        tell = f"{1e3 * spent:.0f} ({path_score(map, plan.actions, goals[0]):.4f})"
    for kind, policy in {"random walk": uniform_policy(map), "lazy walk, .5": lazy_walk(map, 0.5)}.items():
        known, seconds = timed(lambda policy=policy: factorize(map, policy, gamma))
        solved = [timed(lambda goal=goal, known=known: new_goal(known, goal)) for goal in goals]
        rows = [(goal, *found) for goal, (found, _) in zip(goals, solved, strict=True)]
        residual = max(known.residual(one(map, goal), u) for goal, u, _ in rows)
        paths = np.mean([path_score(map, actions, goal) for goal, _, actions in rows])
        scipy = [timed(lambda g=goal, p=policy: without_factors(map, p, g, gamma))[1] for goal in goals[:2]]
        cells = f"{seconds:>9.2f} {ms([s for _, s in solved]):>11.1f} {residual:>9.1e} {paths:>7.4f} {ms(scipy):>12.0f}"
        print(f"  {name:<16} {map.states:>7} {gamma:>6} {kind:<14} {cells} {tell:>22}", flush=True)


def path_score(map: Transitions, actions: ndarray, goal: int) -> float:
    """Return the mean success weighted by path length from all cells but the goal."""
    far = distances(map, goal)
    return float(success_weighted_path_length(path_lengths(map, actions, goal), far)[far > 0].mean())


def one(map: Transitions, goal: int) -> ndarray:
    reward = np.zeros(map.states)
    reward[goal] = 1
    return reward


def new_goal(known: object, goal: int) -> tuple[ndarray, ndarray]:
    """Return (states,) u of the goal and the greedy policy on it."""
    u = known.column(goal)
    return u, greedy(expect(known.transitions, u))


def without_factors(map: Transitions, policy: ndarray, goal: int, gamma: float) -> ndarray:
    return spsolve((eye_array(map.states) - gamma * policy_matrix(map, policy)).tocsc(), one(map, goal))


def ms(seconds: list[float]) -> float:
    return 1e3 * float(np.median(seconds))


def batch(seed: int) -> None:
    maps_at_once(seed)
    agents_at_once()


def maps_at_once(seed: int) -> None:
    """Print the time of successor features, values and plans of many maps, in torch and in a loop over maps."""
    rng = np.random.default_rng(seed)
    cities = [sim.maze(15, 17, rng, loops=0.125) for _ in range(MAPS)]
    each = [transitions(city.next, city.probability) for city in cities]
    features = [np.eye(map.states)[:, rng.choice(map.states, PLACES, replace=False)] for map in each]
    maps = pad_maps(each)
    phi = torch.zeros((*maps.mask.shape, PLACES), dtype=torch.float64)
    for row, one_map in enumerate(features):
        phi[row, : len(one_map)] = torch.as_tensor(one_map)
    weights = rng.standard_normal(PLACES)
    work = pairs(maps, phi, each, features, weights)
    sizes = [map.states for map in each]
    print(f"\n{MAPS} maps of {min(sizes)} to {max(sizes)} cells, {PLACES} features, float64, CPU ms for all of them")
    print(f"  {'':<44} {'in torch, together':>19} {'loop over maps':>15} {'ratio':>6} {'apart by':>9}")
    for name, (together, loop) in work.items():
        apart = max(
            float(np.abs(ours[: len(theirs)].numpy() - theirs).max())
            for ours, theirs in zip(together(), loop(), strict=True)
        )
        spent = race({"torch": together, "loop": loop}, ROUNDS)
        cells = f"{1e3 * spent['torch']:>19.1f} {1e3 * spent['loop']:>15.1f} {spent['loop'] / spent['torch']:>6.1f}"
        print(f"  {name:<44} {cells} {apart:>9.1e}", flush=True)


def pairs(
    maps: Maps, phi: torch.Tensor, each: list[Transitions], features: list[ndarray], weights: ndarray
) -> dict[str, tuple[Callable, Callable]]:
    """Return name -> the same numbers of every map, in torch and in a loop."""
    walk = torch.full(maps.next.shape[:3], 1 / maps.next.shape[2], dtype=torch.float64)
    rewards = phi @ torch.as_tensor(weights)
    rows = list(zip(each, features, strict=True))

    def sparse() -> list[ndarray]:
        return [library(map, {"walk": uniform_policy(map)}, one, GAMMA).features[0] for map, one in rows]

    def dense() -> list[ndarray]:
        found = []
        for map, one in rows:
            system = np.eye(map.states) - GAMMA * policy_matrix(map, uniform_policy(map)).toarray()
            found.append(expect(map, np.linalg.solve(system, one)))
        return found

    def together() -> torch.Tensor:
        return features_of_maps(maps, walk, phi, GAMMA)

    return {
        "successor features; loop: sparse factors": (together, sparse),
        "successor features; loop: NumPy, dense": (together, dense),
        "values of the random walk": (
            lambda: values_of_maps(maps, walk, rewards, GAMMA),
            lambda: [evaluate_policy(map, uniform_policy(map), one @ weights, GAMMA) for map, one in rows],
        ),
        "value iteration": (
            lambda: plan_maps(maps, rewards, GAMMA)[0],
            lambda: [value_iteration(map, one @ weights, GAMMA).values for map, one in rows],
        ),
    }


def agents_at_once() -> None:
    """Print steps per second of our stepper and of Gymnasium's loop over environments."""
    try:
        import gymnasium
        from gymnasium.vector import AutoresetMode, SyncVectorEnv
    except ImportError as error:
        print(f"\nAgents at once: left out, {error.name} is not installed (the extra `sim`)")
        return
    city = sim.street_city()
    print("\nAgents at once in the city of streets, million steps a second, CPU time, episodes of 200 steps")
    heads = f"{'SyncVectorEnv':>14} {'the same, FrozenLake':>21} {'GridVectorEnv':>14} {'Walkers':>9} {'ratios':>14}"
    print(f"  {'agents':>7} {heads}   asked")
    for agents in AGENTS:
        actions = np.random.default_rng(0).integers(4, size=(STEPS, agents))

        def looped(make: Callable, agents: int = agents) -> object:
            return SyncVectorEnv([make] * agents, autoreset_mode=AutoresetMode.NEXT_STEP)

        envs = {
            "sync": looped(lambda: gymnasium.wrappers.TimeLimit(sim.GridEnv(city, goal=(0, 0)), 200)),
            "lake": looped(lambda: gymnasium.make("FrozenLake-v1", max_episode_steps=200, disable_env_checker=True)),
            "ours": sim.GridVectorEnv(agents, city, goal=(0, 0), max_episode_steps=200),
            "walkers": sim.Walkers(city, agents),
        }
        for name, env in envs.items():
            env.reset(np.random.default_rng(0)) if name == "walkers" else env.reset(seed=0)
        few = dict.fromkeys(("sync", "lake"), min(STEPS, 20))  # the loops are slow: fewer steps of them say as much
        drawn = {name: actions[: few.get(name, STEPS)] for name in envs}
        work = {name: partial(walk, env, drawn[name]) for name, env in envs.items()}
        spent = race(work, ROUNDS)
        speed = {name: drawn[name].size / seconds / 1e6 for name, seconds in spent.items()}
        ratios = f"{speed['ours'] / speed['sync']:.0f}, {speed['walkers'] / speed['sync']:.0f}"
        cells = f"{speed['sync']:>14.3f} {speed['lake']:>21.3f} {speed['ours']:>14.1f} {speed['walkers']:>9.1f}"
        print(f"  {agents:>7} {cells} {ratios:>14}   20 or more", flush=True)


def walk(env: object, actions: ndarray) -> None:
    for row in actions:
        env.step(row)
