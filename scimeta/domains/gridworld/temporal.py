"""Successor features from experience alone: temporal differences in a table, for many agents and policies at once.

psi(s, a) is the mean of u(s') over what follows, u = phi + gamma sum_a pi(a | .) psi(., a): expected Sarsa with phi as
its reward. One step of one agent says something about every policy, so all are learned from the same steps, whatever
the agents do. A step of thousands of agents is one product with a sparse matrix of counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy import ndarray
from scipy.sparse import csr_array
from tqdm import tqdm

from scimeta.domains.gridworld.transitions import check_gamma

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEGMENT = 32  # steps over which traces reach


class Agents(Protocol):
    """Agents that walk at once on one map."""

    def reset(self, rng: np.random.Generator) -> ndarray:
        """Put all agents on new states and return them, (agents,)."""
        ...

    def step(self, actions: ndarray) -> ndarray:
        """Move every agent by its action (agents,) and return the states, (agents,)."""
        ...


@dataclass(frozen=True, eq=False)
class Successors:
    """Successor features learned from experience.

    Attributes:
        psi: (states, actions, d), or (policies, states, actions, d) where several policies were asked about.
        u: (states, d) or (policies, states, d): phi of a state and what follows it, phi + gamma sum_a pi psi.
        visits: (states, actions) how often each action was tried in each state.
        steps: steps of each agent.
        agents: number of agents.
        errors: (updates,) root mean square temporal difference, in units of phi.
    """

    psi: ndarray
    u: ndarray
    visits: ndarray
    steps: int
    agents: int
    errors: ndarray

    def __str__(self) -> str:
        policies = f"{len(self.psi)} policies, " if self.psi.ndim == 4 else ""
        untried = int((self.visits == 0).sum())
        text = (
            f"successor features of {policies}{self.visits.shape[0]} states, {self.psi.shape[-1]} features, after "
            f"{self.steps} steps of {self.agents} agents; temporal difference {self.errors[-1]:.2g} (rms)"
        )
        return text + (f"; {untried} of {self.visits.size} state-actions were never tried" if untried else "")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the temporal difference against the steps."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        ax.plot(np.linspace(0, self.steps, len(self.errors) + 1)[1:], self.errors)
        ax.set(yscale="log", xlabel="steps of each agent", ylabel="temporal difference, rms")
        ax.spines[["top", "right"]].set_visible(False)
        return ax


def learn_successors(
    walker: Agents,
    policies: ndarray,
    features: ndarray,
    gamma: float,
    *,
    steps: int,
    rng: np.random.Generator,
    step_size: float | None = None,
    trace: float = 0.0,
    behaviour: ndarray | None = None,
    episode: int = 200,
) -> Successors:
    """Return successor features learned by temporal differences from the steps of many agents.

    With ``trace`` above 0 what an agent meets later reaches back through its last 32 steps, cut off where a policy
    would hardly have done as the agent did (Retrace); with 0 only the next state counts (TD(0)).

    Args:
        walker: agents with ``reset(rng)`` and ``step(actions)``, on one map; where they tell their ``cities``, as the
            simulator's do, these must have the policies' states and actions.
        policies: (states, actions) probabilities, or (policies, states, actions).
        features: phi, (states, d).
        gamma: the discount.
        steps: of each agent.
        rng: source of randomness of the agents' starts and actions.
        step_size: the share of each temporal difference that is learned: a constant (1 is best where every action is
            certain), or None for 1 - (n / (n + m))^(2 / (1 - gamma)) at m visits after n, which falls like 1 / n, so
            that chance averages out, but slowly enough for early errors to be forgotten.
        trace: lambda, from 0 to 1.
        behaviour: (states, actions) probabilities by which the agents act; the random walk, which comes everywhere, if
            None. Actions that it never takes are never learned.
        episode: steps after which all agents start anew.

    Raises:
        ValueError: shapes that do not fit, probabilities that are none, numbers out of range, steps below 1, agents
            on another map.

    Reference: Dayan, Neural Computation 5, 613 (1993); van Seijen et al., A theoretical and empirical analysis of
    expected Sarsa, ADPRL 2009; Munos et al., Safe and efficient off-policy reinforcement learning, NeurIPS 2016.

    >>> class Ring:  # of three states; action 0 stays, action 1 goes round
    ...     def reset(self, rng):
    ...         self.states = rng.integers(3, size=20)
    ...         return self.states
    ...     def step(self, actions):
    ...         self.states = (self.states + actions) % 3
    ...         return self.states
    >>> round_ = np.tile([0.0, 1.0], (3, 1))
    >>> rng = np.random.default_rng(0)
    >>> learned = learn_successors(Ring(), round_, np.eye(3), 0.5, steps=100, rng=rng, step_size=1.0)
    >>> learned.u[0].round(4)  # 1, 1/2, 1/4 of 1 + 1/8 + 1/64 + ...
    array([1.1429, 0.5714, 0.2857])
    """
    policies, features = _checked(policies, features)
    _check_maps(walker, policies)
    single = policies.ndim == 2
    policies = policies[None] if single else policies
    behaviour = _behaviour(policies, behaviour)
    gamma = check_gamma(gamma, "learn_successors")
    _check_numbers(steps, step_size, trace, episode)
    table = _Table(policies, features, gamma, step_size, trace, behaviour)
    bounds = behaviour.cumsum(1)
    bounds[:, -1] = np.inf
    length, done, errors = _SEGMENT if trace else 1, 0, []
    with tqdm(total=steps, desc="learn_successors", delay=2, disable=None, leave=False) as bar:
        while done < steps:
            states = _inside(walker.reset(rng), len(bounds))
            until = min(done + episode, steps)
            while done < until:
                path = []
                for _ in range(min(length, until - done)):
                    actions = (rng.random(len(states))[:, None] >= bounds[states]).sum(1)
                    after = _inside(walker.step(actions), len(bounds))
                    path.append((states * bounds.shape[1] + actions, after))
                    states = after
                errors.append(table.update(path))
                done += len(path)
                bar.update(len(path))
    psi, u, visits = table.learned()
    return Successors(*((psi[0], u[0]) if single else (psi, u)), visits, steps, len(states), np.array(errors))


class _Table:
    """The successor features as they are learned; all policies beside each other, features last."""

    def __init__(
        self,
        policies: ndarray,
        features: ndarray,
        gamma: float,
        step_size: float | None,
        trace: float,
        behaviour: ndarray,
    ) -> None:
        count, self.states, self.actions = policies.shape
        self.size = features.shape[1]
        self.gamma, self.step_size, self.trace = gamma, step_size, trace
        self.policies, self.features = policies, features
        taken = np.where(behaviour > 0, behaviour, 1.0)
        kept = np.minimum(1.0, policies / taken).transpose(1, 2, 0)  # (states, actions, policies)
        self.kept = trace * kept.reshape(-1, count, 1)
        self.psi = np.zeros((self.states * self.actions, count, self.size))
        self.visits = np.zeros(self.states * self.actions)
        self.u = self._values()

    def update(self, path: list[tuple[ndarray, ndarray]]) -> float:
        """Learn from consecutive (state-actions, next states) of all agents; return the rms temporal difference."""
        total, visits = self._targets(path)
        met = np.flatnonzero(visits)
        new = visits[met]
        if self.step_size is None:
            share = 1 - (self.visits[met] / (self.visits[met] + new)) ** (2 / (1 - self.gamma))
        else:
            share = 1 - (1 - self.step_size) ** new
        difference = total[met] / new[:, None, None] - self.psi[met]
        self.psi[met] += share[:, None, None] * difference
        self.visits[met] += new
        self.u = self._values()
        return float(np.sqrt((difference**2).mean()))

    def _targets(self, path: list[tuple[ndarray, ndarray]]) -> tuple[ndarray, ndarray]:
        """Return the sum of the targets of each state-action, (rows, policies, d), and how many there were."""
        rows, agents = len(self.psi), len(path[0][0])
        visits = np.bincount(np.concatenate([pairs for pairs, _ in path]), minlength=rows)
        if len(path) == 1:
            pairs, after = path[0]
            counts = csr_array((np.ones(agents), (pairs, after)), shape=(rows, self.states))
            return (counts @ self.u.reshape(self.states, -1)).reshape(self.psi.shape), visits
        total, target, next_pairs = np.zeros((rows, self.psi[0].size)), None, None
        for pairs, after in reversed(path):
            reached = self.u[after]  # (agents, policies, d)
            if target is not None:
                reached += self.gamma * self.kept[next_pairs] * (target - self.psi[next_pairs])
            target, next_pairs = reached, pairs
            counts = csr_array((np.ones(agents), (pairs, np.arange(agents))), shape=(rows, agents))
            total += counts @ target.reshape(agents, -1)
        return total.reshape(self.psi.shape), visits

    def _values(self) -> ndarray:
        """Return u: (states, policies, d)."""
        psi = self.psi.reshape(self.states, self.actions, -1, self.size)
        return self.features[:, None] + self.gamma * np.einsum("psa,sapd->spd", self.policies, psi)

    def learned(self) -> tuple[ndarray, ndarray, ndarray]:
        """Return psi (policies, states, actions, d), u (policies, states, d) and visits (states, actions)."""
        psi = self.psi.reshape(self.states, self.actions, -1, self.size).transpose(2, 0, 1, 3)
        visits = self.visits.reshape(self.states, self.actions)
        return psi.copy(), self.u.transpose(1, 0, 2).copy(), visits.astype(np.int64)


def _checked(policies: ndarray, features: ndarray) -> tuple[ndarray, ndarray]:
    features, policies = np.asarray(features, dtype=float), np.asarray(policies)
    if features.ndim != 2 or 0 in features.shape or not np.isfinite(features).all():
        raise ValueError(f"learn_successors: features must be (states, d), finite; got shape {features.shape}")
    if policies.ndim not in (2, 3) or policies.shape[-2] != len(features) or not policies.size:
        raise ValueError(
            f"learn_successors: policies must be ({len(features)}, actions) probabilities, or one more axis in front; "
            f"got {policies.shape}; for a deterministic policy pass one_hot(actions, number)"
        )
    policies = policies.astype(float)
    if not (policies >= 0).all() or not np.allclose(policies.sum(-1), 1, rtol=0, atol=1e-9):
        raise ValueError("learn_successors: a policy's probabilities must be non-negative and sum to 1 in every state")
    return policies, features


def _check_maps(walker: Agents, policies: ndarray) -> None:
    for city in getattr(walker, "cities", ()):
        if city.next.shape[:2] != policies.shape[-2:]:
            raise ValueError(
                f"learn_successors: the agents walk on a map of (states, actions) {city.next.shape[:2]}, the policies "
                f"are for {policies.shape[-2:]}; give those of the agents' map"
            )


def _inside(states: ndarray, number: int) -> ndarray:
    """Return the agents' states, (agents,); ValueError where the policies know no such state."""
    states = np.asarray(states)
    if states.ndim != 1 or not states.size or states.min() < 0 or states.max() >= number:
        raise ValueError(
            f"learn_successors: the agents must stand on (agents,) states in 0..{number - 1}, the policies' map; got "
            f"{states.shape}" + (f" from {states.min()} to {states.max()}" if states.size else "")
        )
    return states


def _behaviour(policies: ndarray, behaviour: ndarray | None) -> ndarray:
    """Return (states, actions) probabilities by which the agents act."""
    if behaviour is None:
        return np.full(policies.shape[1:], 1 / policies.shape[-1])
    behaviour = np.asarray(behaviour, dtype=float)
    if behaviour.shape != policies.shape[1:]:
        raise ValueError(
            f"learn_successors: behaviour must be {policies.shape[1:]} probabilities; got {behaviour.shape}"
        )
    if not (behaviour >= 0).all() or not np.allclose(behaviour.sum(-1), 1, rtol=0, atol=1e-9):
        raise ValueError("learn_successors: the behaviour's probabilities must be non-negative and sum to 1")
    return behaviour


def _check_numbers(steps: int, step_size: float | None, trace: float, episode: int) -> None:
    for name, number in (("steps", steps), ("episode", episode)):
        if number < 1 or number != int(number):
            raise ValueError(f"learn_successors: {name} must be a whole number, 1 or more; got {number}")
    if step_size is not None and not 0 < step_size <= 1:
        raise ValueError(f"learn_successors: step_size must lie in (0, 1], or be None for a schedule; got {step_size}")
    if not 0 <= trace <= 1:
        raise ValueError(f"learn_successors: trace must lie in [0, 1]; got {trace}")
