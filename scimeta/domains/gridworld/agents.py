"""Agents that learn every goal from scratch, by trial: what transfer is measured against, tuned as well as we can."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.learning import Choose, Learning, Step, Watch, check_goals, check_whole, learn
from scimeta.domains.gridworld.transitions import Transitions, check_gamma

_OUTCOMES = 8  # last outcomes of each action that a learned model keeps


def q_learning(
    transitions: Transitions,
    goals: ndarray,
    gamma: float = 0.95,
    *,
    rate: float = 1.0,
    epsilon: float = 1.0,
    start: float = 0.01,
    steps: int = 100_000,
    episode: int = 200,
    enough: float = 0.95,
    every: int = 50,
    rng: np.random.Generator,
) -> Learning:
    """Return what Q-learning learns of each goal: Q(s, a) += rate (r + gamma max Q(s', .) - Q(s, a)).

    The reward is 1 for entering the goal; goals do not end an episode. All learners step together.

    Args:
        transitions: of the city, which the learners only know by walking in it.
        goals: (learners,) states; name a goal several times for several runs.
        gamma: the discount, at least 0 and below 1.
        rate: step size, above 0 to 1. 1 is best where every action is certain.
        epsilon: probability of the action tried least in that state, in place of the best. 1 learns soonest: whoever
            is greedy stays at the goal, where there is nothing left to learn.
        start: first value of every action. Above 0 it is optimistic: what has not been tried looks good.
        steps: most steps of each learner.
        episode: steps of an episode, which starts in a cell drawn evenly.
        enough: success weighted by path length of the greedy policy, mean over all starts, that ends the learning.
        every: steps between two judgements.
        rng: source of randomness.

    Raises:
        ValueError: a goal outside the map or out of reach, or a number outside its range.

    Reference: Watkins and Dayan, Machine Learning 8, 279 (1992).

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> corridor = transitions([[0, 1], [0, 2], [1, 3], [2, 3]])
    >>> learned = q_learning(corridor, [3, 0], every=1, rng=np.random.default_rng(0))
    >>> learned.scores[:, -1]
    array([1., 1.])
    """
    check_settings("q_learning", rate, epsilon, start)
    return learn(
        "Q-learning",
        transitions,
        goals,
        gamma,
        greedy_mostly(epsilon, np.size(goals), transitions, rng),
        bootstrap(check_gamma(gamma, "q_learning"), rate),
        steps=steps,
        start=start,
        episode=episode,
        enough=enough,
        every=every,
        rng=rng,
    )


def dyna_q(
    transitions: Transitions,
    goals: ndarray,
    gamma: float = 0.95,
    *,
    planning: int = 50,
    rate: float = 1.0,
    epsilon: float = 1.0,
    start: float = 0.01,
    steps: int = 20_000,
    episode: int = 200,
    enough: float = 0.95,
    every: int = 50,
    rng: np.random.Generator,
) -> Learning:
    """Return what Dyna-Q learns: Q-learning that also learns a model and, after each step, replays from it.

    The model keeps the last outcomes of every action tried; one of them, drawn evenly, stands for it in a replay.

    Args:
        planning: actions tried before that are replayed after each step, drawn evenly; the same step size.
        transitions, goals, gamma, rate, epsilon, start, steps, episode, enough, every, rng: as :func:`q_learning`.

    Raises:
        ValueError: as :func:`q_learning`.

    Reference: Sutton, Integrated architectures for learning, planning, and reacting, ICML 1990.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> corridor = transitions([[0, 1], [0, 2], [1, 3], [2, 3]])
    >>> print(dyna_q(corridor, [3], every=10, rng=np.random.default_rng(0)))
    Dyna-Q: score 0.95 after 10 steps in the median (quartiles 10 and 10); 1 of 1 learners got there within 10
    """
    check_settings("dyna_q", rate, epsilon, start)
    check_whole(planning, "planning", "dyna_q", least=0)
    gamma = check_gamma(gamma, "dyna_q")
    model = _Model(check_goals(transitions, goals, "dyna_q"), transitions.states, transitions.actions)
    direct = bootstrap(gamma, rate)

    def watch(values: ndarray, step: Step) -> None:
        direct(values, step)
        model.remember(step)
        if planning:
            model.replay(values, planning, gamma, rate, rng)

    return learn(
        "Dyna-Q",
        transitions,
        goals,
        gamma,
        greedy_mostly(epsilon, np.size(goals), transitions, rng),
        watch,
        steps=steps,
        start=start,
        episode=episode,
        enough=enough,
        every=every,
        rng=rng,
    )


def greedy_mostly(epsilon: float, learners: int, transitions: Transitions, rng: np.random.Generator) -> Choose:
    """Return the choice of the best action but, with probability epsilon, of the one tried least in that state."""
    tried = np.zeros((learners * transitions.states, transitions.actions))
    rows = np.arange(learners)

    def choose(state: ndarray, values: ndarray) -> ndarray:
        here = rows * transitions.states + state
        least = (tried.take(here, axis=0) + rng.random(values.shape)).argmin(1)
        action = np.where(rng.random(learners) < epsilon, least, values.argmax(1))
        tried[here, action] += 1
        return action

    return choose


def bootstrap(gamma: float, rate: float) -> Watch:
    """Return the update of Q-learning from the step just made."""

    def watch(values: ndarray, step: Step) -> None:
        learners, states, actions = values.shape
        rows = np.arange(learners) * states
        target = step.reward + gamma * values.reshape(-1, actions).take(rows + step.after, axis=0).max(1)
        flat, spots = values.reshape(-1), (rows + step.state) * actions + step.action
        held = flat.take(spots)
        flat[spots] = held + rate * (target - held)

    return watch


def check_settings(where: str, rate: float, epsilon: float, start: float = 0.0) -> None:
    """Say, with the caller's name, which setting of Q-learning is outside its range."""
    if not 0 < rate <= 1:
        raise ValueError(f"{where}: rate, the step size, must be above 0 and at most 1; got {rate}")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"{where}: epsilon must be a probability; got {epsilon}")
    if not np.isfinite(start):
        raise ValueError(f"{where}: start, the first value of every action, must be finite; got {start}")


class _Model:
    """What each learner has seen its actions lead to."""

    def __init__(self, goals: ndarray, states: int, actions: int) -> None:
        self.goals, self.pairs = goals, states * actions
        self.tried = np.zeros((len(goals), self.pairs), dtype=np.int64)  # pairs in the order of their first trial
        self.known = np.zeros(len(goals), dtype=np.int64)  # how many
        self.count = np.zeros(len(goals) * self.pairs, dtype=np.int64)
        self.after = np.zeros((len(goals) * self.pairs, _OUTCOMES), dtype=np.int64)
        self.states, self.actions = states, actions

    def remember(self, step: Step) -> None:
        """Keep the outcome of the step just made."""
        learners = np.arange(len(self.goals))
        pair = step.state * self.actions + step.action
        spots = learners * self.pairs + pair
        count = self.count.take(spots)
        self.after[spots, count % _OUTCOMES] = step.after
        new = learners[count == 0]
        self.tried[new, self.known[new]] = pair[new]
        self.known[new] += 1
        self.count[spots] = count + 1

    def replay(self, values: ndarray, number: int, gamma: float, rate: float, rng: np.random.Generator) -> None:
        """Update the values of so many pairs that were tried, all from the values as they are."""
        learners = np.arange(len(self.goals))[:, None]
        pick = (rng.random((len(self.goals), number)) * self.known[:, None]).astype(np.int64)
        spots = (learners * self.pairs + self.tried[learners, pick]).ravel()
        seen = np.minimum(self.count.take(spots), _OUTCOMES)
        after = self.after[spots, (rng.random(len(spots)) * seen).astype(np.int64)].reshape(-1, number)
        best = values.reshape(-1, self.actions).take((learners * self.states + after).ravel(), axis=0).max(1)
        reward = (after == self.goals[:, None]).ravel()
        flat = values.reshape(-1)
        held = flat.take(spots)
        flat[spots] = held + rate * (reward + gamma * best - held)
