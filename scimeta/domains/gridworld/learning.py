"""Many learners at once, each after its own goal: the loop that they share, and how good they are at every point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.scores import distances, success_weighted_path_length
from scimeta.domains.gridworld.transitions import Transitions, check_gamma

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Learning:
    """What learners of goals reached, and after how many steps in the city.

    Attributes:
        name: of the agent.
        samples: (points,) steps that each learner had made when it was judged.
        scores: (learners, points) success weighted by path length of the greedy policy, mean over all starts.
        enough: the score that counts as competent.
        action_values: (learners, states, actions) at the end.
        episodes: (learners, episodes) rewards collected in each episode that was complete.
    """

    name: str
    samples: ndarray
    scores: ndarray
    enough: float
    action_values: ndarray
    episodes: ndarray

    @property
    def needed(self) -> ndarray:
        """Return (learners,) steps until the score was enough for the first time, inf where it never was."""
        reached = self.scores >= self.enough
        return np.where(reached.any(1), self.samples[reached.argmax(1)].astype(float), np.inf)

    def __str__(self) -> str:
        low, middle, high = np.quantile(self.needed, [0.25, 0.5, 0.75], method="inverted_cdf")
        learned = int(np.isfinite(self.needed).sum())
        return (
            f"{self.name}: score {self.enough:g} after {middle:g} steps in the median (quartiles {low:g} and "
            f"{high:g}); {learned} of {len(self.scores)} learners got there within {self.samples[-1]}"
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the median score and its quartiles against the steps."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        low, middle, high = np.quantile(self.scores, [0.25, 0.5, 0.75], axis=0)
        (line,) = ax.plot(self.samples, middle, label=self.name)
        ax.fill_between(self.samples, low, high, color=line.get_color(), alpha=0.2, lw=0)
        ax.axhline(self.enough, color="0.6", ls=":", lw=1)
        ax.set(xlabel="steps in the city", ylabel="success weighted by path length", ylim=(0, 1.02))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax


class Step(NamedTuple):
    """One step of all learners.

    Attributes:
        state: (learners,) where they stood.
        action: (learners,) what they did.
        after: (learners,) where that led.
        reward: (learners,) 1 where the goal was entered.
    """

    state: ndarray
    action: ndarray
    after: ndarray
    reward: ndarray


Choose = Callable[[ndarray, ndarray], ndarray]
"""(states of the learners, their action values there) -> actions, each (learners,)."""

Watch = Callable[[ndarray, Step], None]
"""(action values (learners, states, actions), to be changed in place; the step just made)."""


def learn(
    name: str,
    transitions: Transitions,
    goals: ndarray,
    gamma: float,
    choose: Choose,
    watch: Watch,
    *,
    steps: int,
    start: float,
    episode: int,
    enough: float,
    every: int,
    rng: np.random.Generator,
) -> Learning:
    """Return what comes of letting all learners walk, watch and be judged, until all are competent or steps run out.

    The reward is 1 for entering the goal, which does not end an episode. Episodes begin at cells drawn evenly.

    Args:
        name: of the agent.
        transitions: of the city; the agent learns of them by walking alone.
        goals: (learners,) state of each learner's goal.
        gamma: the discount.
        choose: the actions of all learners.
        watch: learns from each step.
        steps: most steps of each learner.
        start: action values at the beginning, above what is likely to be reached for learners that look around; a
            thousandth of it is random, so that ties differ.
        episode: steps of an episode.
        enough: score that ends the learning.
        every: steps between two judgements.
        rng: source of randomness.
    """
    gamma = check_gamma(gamma, name)
    goals = check_goals(transitions, goals, name)
    for what, number in (("steps", steps), ("episode", episode), ("every", every)):
        check_whole(number, what, name)
    walk, shortest = Walk(transitions), np.stack([distances(transitions, goal) for goal in goals])
    states, actions = transitions.states, transitions.actions
    values = start * (1 - 1e-3 * rng.random((len(goals), states, actions)))
    rows, table = np.arange(len(goals)) * states, values.reshape(-1, actions)
    samples, scores, episodes, gained = [], [], [], np.zeros(len(goals))
    for step in range(steps):
        if step % episode == 0:
            state = rng.integers(states, size=len(goals))
            if step:
                episodes.append(gained)
                gained = np.zeros(len(goals))
        action = choose(state, table.take(rows + state, axis=0))
        after = walk.step(state, action, rng)
        reward = (after == goals).astype(float)
        watch(values, Step(state, action, after, reward))
        gained, state = gained + reward, after
        if (step + 1) % every == 0 or step + 1 == steps:
            samples.append(step + 1)
            scores.append(score(transitions, values.argmax(2), goals, shortest, rng))
            if (np.max(scores, axis=0) >= enough).all():
                break
    seen = np.stack(episodes, 1) if episodes else np.zeros((len(goals), 0))
    return Learning(name, np.array(samples), np.stack(scores, 1), enough, values, seen)


class Walk:
    """The city that agents walk in, one look-up a step for all of them."""

    def __init__(self, transitions: Transitions) -> None:
        self.actions, outcomes = transitions.next.shape[1:]
        self.after = np.ascontiguousarray(transitions.next).reshape(-1, outcomes)
        self.bounds = transitions.probability.reshape(-1, outcomes).cumsum(1)[:, :-1]

    def step(self, state: ndarray, action: ndarray, rng: np.random.Generator) -> ndarray:
        """Return the states that follow; states and actions are of one shape."""
        spots = state * self.actions + action
        if self.after.shape[1] == 1:
            return self.after[:, 0].take(spots)
        outcome = (rng.random((*spots.shape, 1)) >= self.bounds[spots]).sum(-1)
        return self.after[spots, outcome]


def score(
    transitions: Transitions, actions: ndarray, goals: ndarray, shortest: ndarray, rng: np.random.Generator
) -> ndarray:
    """Return (learners,) success weighted by path length, mean over all starts from which the goal can be reached.

    Args:
        transitions: of the city.
        actions: (learners, states) policies.
        goals: (learners,) states.
        shortest: (learners, states) fewest steps to the goal.
        rng: draws one walk from each start, of at most 10 times as many steps as there are states, where the feet slip.
    """
    walk = Walk(transitions)
    certain = walk.after.shape[1] == 1
    taken = _lengths(walk, actions, goals) if certain else _walked(walk, actions, goals, rng)
    possible = np.isfinite(shortest)
    each = success_weighted_path_length(taken, np.where(possible, shortest, 0))
    return (each * possible).sum(1) / possible.sum(1)


def check_goals(transitions: Transitions, goals: ndarray, where: str) -> ndarray:
    """Return (learners,) int64 goals, or say, with the caller's name, that they are none or nobody can get there."""
    goals = np.atleast_1d(np.asarray(goals))
    if goals.ndim != 1 or not len(goals) or goals.dtype.kind not in "iu":
        raise ValueError(f"{where}: goals must be (learners,) states, whole numbers; got {goals!r}")
    if goals.min() < 0 or goals.max() >= transitions.states:
        raise ValueError(
            f"{where}: goals must be states, 0..{transitions.states - 1}; got {goals.min()}..{goals.max()}"
        )
    moves = (transitions.probability > 0) & (transitions.next != np.arange(transitions.states)[:, None, None])
    lost = goals[~np.isin(goals, transitions.next[moves])]
    if len(lost):
        raise ValueError(f"{where}: goal {lost[0]} cannot be reached from any other state; give goals that can")
    return goals.astype(np.int64)


def check_whole(number: int, name: str, where: str, least: int = 1) -> None:
    """Say, with the caller's name, where a count is no whole number or below the least."""
    if not isinstance(number, int | np.integer) or number < least:
        raise ValueError(f"{where}: {name} must be a whole number, {least} or more; got {number!r}")


def _lengths(walk: Walk, actions: ndarray, goals: ndarray) -> ndarray:
    """Return (learners, states) steps to the goal where all is certain, by doubling the stride log2(states) times."""
    learners, states = actions.shape
    first = (np.arange(learners) * states)[:, None]
    after = walk.after[:, 0].take(np.arange(states) * walk.actions + actions)
    after[np.arange(learners), goals] = goals
    after, goal = (after + first).ravel(), (goals[:, None] + first)
    taken = np.ones(learners * states)
    taken[goal[:, 0]] = 0
    for _ in range(int(states).bit_length()):
        taken += taken.take(after)
        after = after.take(after)
    return np.where(after.reshape(learners, states) == goal, taken.reshape(learners, states), np.inf)


def _walked(walk: Walk, actions: ndarray, goals: ndarray, rng: np.random.Generator) -> ndarray:
    """Return (learners, states) steps to the goal of one drawn walk from each start."""
    learners, states = actions.shape
    place = np.tile(np.arange(states), (learners, 1))
    taken = np.where(place == goals[:, None], 0.0, np.inf)
    for step in range(1, 10 * states + 1):
        going = np.nonzero(np.isinf(taken))
        if not len(going[0]):
            break
        place[going] = walk.step(place[going], actions[going[0], place[going]], rng)
        taken[going] = np.where(place[going] == goals[going[0]], step, np.inf)
    return taken
