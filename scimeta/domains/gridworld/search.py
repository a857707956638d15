"""Finding the one rewarded cell of a known city: where it may be, and the way to look that finds it soon.

The reward is 1 on entering one unknown cell. What has been seen is a belief, a probability for each cell. The search
plans an order of cells with small expected time of discovery and walks it. Once found, the cell g is the weight vector
e_g of the identity's features, and successor features give the best way back to it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from scimeta.domains.gridworld.arrival import certain, expected_steps
from scimeta.domains.gridworld.belief import check_belief
from scimeta.domains.gridworld.latency import search_order
from scimeta.domains.gridworld.transitions import Transitions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TIE = 0.03  # beliefs that differ by less than this share of them may change places


@dataclass(frozen=True, eq=False)
class SearchRoute:
    """A plan of where to look, in which order.

    Attributes:
        start: the state that it begins in.
        order: (cells,) states in the order of their first visit; those without belief or out of reach are left out.
        times: (cells,) steps until each is entered; expected ones where the map is stochastic.
        belief: (cells,) probability that each holds the reward.
        missed: probability that the reward lies where the route does not come.
        walk: (steps + 1,) states of the whole route, from the start; None where the map is stochastic.
        transitions: of the map.
        distances: (states, states) of :func:`expected_steps`.
    """

    start: int
    order: ndarray
    times: ndarray
    belief: ndarray
    missed: float
    walk: ndarray | None
    transitions: Transitions
    distances: ndarray

    @property
    def mean(self) -> float:
        """Expected steps until the reward is found, if it lies on the route; nan for a route without cells."""
        return float(self.belief @ self.times / self.belief.sum()) if len(self.order) else float("nan")

    @property
    def median(self) -> float:
        """Steps after which the reward is found as likely as not; inf if the route misses it more often than that."""
        found = np.cumsum(self.belief) >= 0.5 - 1e-9
        return float(self.times[found.argmax()]) if found.any() else float("inf")

    def action(self, state: int, seen: ndarray) -> int | None:
        """Return the action that leads towards the first cell of the order not seen yet; None when all are.

        Where the feet slip this replans at each step: it only needs to know where it is and what it has entered.

        Args:
            state: where the agent stands.
            seen: (states,) bool, the cells entered so far.
        """
        ahead = self.order[~np.asarray(seen)[self.order]]
        if not len(ahead):
            return None
        return int(_expected(self.transitions, state, self.distances[:, ahead[0]]).argmin())

    def __str__(self) -> str:
        if not len(self.order):
            return f"search from state {self.start}: no cell that may hold the reward can be reached"
        text = (
            f"search from state {self.start}: {len(self.order)} cells; found after {self.mean:.1f} steps on average, "
            f"{self.median:g} in the median, {self.times[-1]:g} at most"
        )
        return text + (f"; misses it with probability {self.missed:.2g}" if self.missed > 1e-9 else "")

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the probability that the reward has been found against the steps, beside a new cell at each step."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        found = np.concatenate([[0.0], np.cumsum(self.belief)])
        best = np.concatenate([[0.0], np.cumsum(np.sort(self.belief)[::-1])])
        ax.step(np.concatenate([[0.0], self.times]), found, where="post", label="this route")
        ax.plot(np.arange(len(best)), best, "--", color="0.6", label="the likeliest new cell at every step")
        ax.set(xlabel="steps", ylabel="probability of having found the reward", ylim=(0, 1.02))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return ax


def search_route(
    transitions: Transitions,
    start: int,
    belief: ndarray | None = None,
    *,
    beam: int = 100,
    distances: ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> SearchRoute:
    """Return the route that finds the rewarded cell in few steps.

    The median is made small first (hardly a step into a cell already seen), then the mean; both over the belief. It
    takes a third of a second for 300 cells, and grows with their cube.

    Args:
        transitions: of the map.
        start: state of the agent. Its own cell has not been entered yet; if it was, say so in the belief.
        belief: (states,) weight of each cell, not negative; all the same if None. Cells of weight zero are walked
            through but not looked at.
        beam: orders that are followed at once; 1 for the quick greedy route to the nearest cell.
        distances: of :func:`expected_steps`, for many searches in one city.
        rng: breaks ties between cells that are about as likely, so that over many searches the same cells are not
            always the last; None for the same route each time.

    Raises:
        ValueError: a start outside the map, a belief that is not one, distances that are none, a city of more than
            10,000 cells.

    >>> from scimeta.domains.gridworld.transitions import transitions
    >>> corridor = transitions([[0, 1], [0, 2], [1, 3], [2, 3]])
    >>> route = search_route(corridor, 1)
    >>> route.walk, route.median
    (array([1, 0, 1, 2, 3]), 2.0)
    """
    states = transitions.states
    if not 0 <= start < states or start != int(start):
        raise ValueError(f"search_route: start must be a state in 0..{states - 1}; got {start}")
    if beam < 1 or beam != int(beam):
        raise ValueError(f"search_route: beam must be a whole number, 1 or more; got {beam}")
    belief = check_belief(np.ones(states) if belief is None else belief, states, "search_route")
    distances = expected_steps(transitions) if distances is None else np.asarray(distances, dtype=float)
    if distances.shape != (states, states):
        raise ValueError(f"search_route: distances must be ({states}, {states}); got {distances.shape}")
    if not (distances >= 0).all():
        raise ValueError("search_route: distances must be 0 or more, inf where no way leads; some are negative or nan")
    first = 1 + _expected(transitions, start, distances).min(0)  # the start's own cell, too, is entered by a step
    cells = np.flatnonzero((belief > 0) & np.isfinite(first))
    order, times, walk = cells, np.zeros(0), np.array([start])
    if len(cells):
        weights = belief[cells] * (1 if rng is None else 1 + _TIE * rng.uniform(-1, 1, len(cells)))
        weights = weights / weights.sum()
        order = cells[search_order(first[cells], distances[np.ix_(cells, cells)], weights, beam)]
        legs = np.concatenate([first[order[:1]], distances[order[:-1], order[1:]]])
        lost = np.append(np.flatnonzero(~np.isfinite(legs)), len(legs))[0]  # beyond a one-way street
        order, times = order[:lost], np.cumsum(legs[:lost])
    if certain(transitions):
        walk = _walk(transitions, distances, start, order)
        entered = np.full(states, len(walk))
        np.minimum.at(entered, walk[1:], np.arange(1, len(walk)))
        order = order[np.argsort(entered[order], kind="stable")]
        times = entered[order].astype(float)
    else:
        walk = None
    missed = float(np.delete(belief, order).sum())
    return SearchRoute(int(start), order, times, belief[order], missed, walk, transitions, distances)


def _expected(transitions: Transitions, state: int, distances: ndarray) -> ndarray:
    """Return (actions, ...) the mean of distances (states, ...) after each action in a state; inf where one may be."""
    chance = transitions.probability[state].reshape(transitions.probability.shape[1:] + (1,) * (distances.ndim - 1))
    return (chance * np.where(chance > 0, distances[transitions.next[state]], 0.0)).sum(1)


def _walk(transitions: Transitions, distances: ndarray, start: int, order: ndarray) -> ndarray:
    """Return (steps + 1,) the states walked through, from the start, where every action is certain."""
    surest = transitions.probability.argmax(-1)[..., None]
    after = np.take_along_axis(transitions.next, surest, -1)[..., 0]  # (states, actions)
    walk, seen, at = [start], np.zeros(transitions.states, dtype=bool), start
    for target in order:
        while not seen[target]:
            at = int(after[at, distances[after[at], target].argmin()])
            seen[at] = True
            walk.append(at)
    return np.array(walk)
