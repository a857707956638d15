"""Probabilistic policy reuse: explore a new goal along the policies of past ones, the more the better they prove."""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.agents import bootstrap, check_settings, greedy_mostly
from scimeta.domains.gridworld.learning import Learning, Step, check_goals, learn
from scimeta.domains.gridworld.transitions import Transitions, check_gamma


def policy_reuse(
    transitions: Transitions,
    goals: ndarray,
    library: ndarray,
    gamma: float = 0.95,
    *,
    rate: float = 1.0,
    epsilon: float = 1.0,
    follow: float = 1.0,
    fade: float = 0.95,
    sharpen: float = 0.05,
    start: float = 0.01,
    steps: int = 100_000,
    episode: int = 200,
    enough: float = 0.95,
    every: int = 50,
    rng: np.random.Generator,
) -> Learning:
    """Return what Q-learning learns that explores by a library of past policies (PRQ-learning).

    Each episode draws one policy, the new one or one of the library, with probability proportional to
    exp(sharpness * gain), its gain being the mean of (1 - gamma) times the discounted rewards of its episodes so far. A
    past policy is followed at step h of the episode with probability follow fade^h; otherwise, and where the new one
    was drawn, the learner chooses as :func:`q_learning` does.

    Args:
        library: (policies, states) actions of past goals' policies.
        follow: probability of following a past policy at the beginning of an episode.
        fade: factor of that probability from one step to the next.
        sharpen: by how much the sharpness, at first 0, grows with each episode; 0 or more.
        transitions, goals, gamma, rate, epsilon, start, steps, episode, enough, every, rng: as :func:`q_learning`.

    Raises:
        ValueError: an empty library, policies that are not of this map, or as :func:`q_learning`.

    Reference: Fernández and Veloso, Probabilistic policy reuse in a reinforcement learning agent, AAMAS 2006.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> corridor = transitions([[0, 1], [0, 2], [1, 3], [2, 3]])
    >>> learned = policy_reuse(corridor, [3], [[1, 1, 0, 0]], every=1, rng=np.random.default_rng(0))
    >>> learned.scores[:, -1]
    array([1.])
    """
    library = _check_library(transitions, library)
    check_settings("policy_reuse", rate, epsilon, start)
    for name, value in (("follow", follow), ("fade", fade)):
        if not 0 <= value <= 1:
            raise ValueError(f"policy_reuse: {name} must be between 0 and 1; got {value}")
    if not 0 <= sharpen < np.inf:
        raise ValueError(f"policy_reuse: sharpen must be 0 or more and finite; got {sharpen}")
    gamma, goals = check_gamma(gamma, "policy_reuse"), check_goals(transitions, goals, "policy_reuse")
    by_itself, direct = greedy_mostly(epsilon, len(goals), transitions, rng), bootstrap(gamma, rate)
    guide = _Guide(len(goals), library, episode, gamma, sharpen, rng)
    fading = follow * fade ** np.arange(episode)

    def choose(state: ndarray, values: ndarray) -> ndarray:
        guide.begin()
        action, advised = by_itself(state, values), guide.advise(state)
        heed = rng.random(len(goals)) < fading[guide.step]
        return np.where(heed & (advised >= 0), advised, action)

    def watch(values: ndarray, step: Step) -> None:
        direct(values, step)
        guide.credit(step.reward)

    return learn(
        "policy reuse",
        transitions,
        goals,
        gamma,
        choose,
        watch,
        steps=steps,
        start=start,
        episode=episode,
        enough=enough,
        every=every,
        rng=rng,
    )


class _Guide:
    """Which policy each learner follows in this episode, and what each has brought in the past."""

    def __init__(
        self,
        learners: int,
        library: ndarray,
        episode: int,
        gamma: float,
        sharpen: float,
        rng: np.random.Generator,
    ) -> None:
        self.library, self.length, self.gamma, self.sharpen, self.rng = library, episode, gamma, sharpen, rng
        self.gain = np.zeros((learners, len(library) + 1))  # the last is the new policy
        self.tries = np.zeros_like(self.gain)
        self.drawn, self.rows = np.zeros(learners, dtype=np.int64), np.arange(learners)
        self.step, self.episodes, self.brought = 0, 0, np.zeros(learners)

    def begin(self) -> None:
        """Draw every learner's policy at the beginning of an episode."""
        if self.step:
            return
        chance = np.exp(self.sharpen * self.episodes * (self.gain - self.gain.max(1, keepdims=True)))
        total = chance.cumsum(1)
        self.drawn = (total <= self.rng.random((len(total), 1)) * total[:, -1:]).sum(1)
        self.brought[:] = 0

    def advise(self, state: ndarray) -> ndarray:
        """Return (learners,) the drawn policy's actions, -1 where the new policy was drawn."""
        past = self.drawn < len(self.library)
        return np.where(past, self.library[np.where(past, self.drawn, 0), state], -1)

    def credit(self, reward: ndarray) -> None:
        """Add the rewards of one step, and at the end of an episode enter them into the gains."""
        self.brought += (1 - self.gamma) * self.gamma**self.step * reward
        self.step += 1
        if self.step == self.length:
            spots = self.rows, self.drawn
            self.tries[spots] += 1
            self.gain[spots] += (self.brought - self.gain[spots]) / self.tries[spots]
            self.step, self.episodes = 0, self.episodes + 1


def _check_library(transitions: Transitions, library: ndarray) -> ndarray:
    library = np.asarray(library)
    if library.ndim != 2 or not len(library):
        raise ValueError(
            f"policy_reuse: library must be (policies, states) actions with at least one policy; got {library.shape}"
        )
    if library.shape[1] != transitions.states or library.dtype.kind not in "iu":
        raise ValueError(
            f"policy_reuse: the library's policies must be {transitions.states} whole numbers each; got "
            f"{library.shape[1]} of {library.dtype}"
        )
    if library.min() < 0 or library.max() >= transitions.actions:
        raise ValueError(f"policy_reuse: the library's actions must lie in 0..{transitions.actions - 1}")
    return library
