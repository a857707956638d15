"""The four-room object collection: gather the good objects, leave the bad ones, go to the goal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

from simulators.gridworld.city import City, read_city
from simulators.gridworld.drawing import as_text, draw
from simulators.gridworld.walkers import check_mask

_MOST_OBJECTS = 16

COLLECTION = """\
1....2#.....G
......#......
......1......
.............
......#......
2....3#......
##3.#####.1##
......#2....3
......#......
.............
......2......
......#......
S.....#3....1
"""
"""The map of the usual public implementation: objects of classes 1 to 3, start S, goal G."""


@dataclass(frozen=True, eq=False)
class Collection:
    """Rooms with objects that vanish when taken, as one finite decision process.

    A state is a cell and which objects have been taken: cell * 2^objects + taken, whose bit i stands for object i.
    Actions are north, south, west, east. Features are one indicator of each class of objects, taken in this step, and
    one of the goal, entered in this step; the goal ends the episode.

    Attributes:
        city: the map; its places are the classes ("1", "2", ...), "start" and "goal".
        objects: (objects,) cell, as a state of the city, of each object.
        classes: (objects,) class of each object, from 0.
        cell_next: (cells, 4) cell that each action leads to.
        starts: states where episodes start.
        goal: cell, as a state of the city, that ends an episode.
    """

    city: City
    objects: ndarray
    classes: ndarray
    cell_next: ndarray
    starts: ndarray
    goal: int

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self.city) << len(self.objects)

    @property
    def dim(self) -> int:
        """Return the number of features: classes and goal."""
        return int(self.classes.max()) + 2

    def tables(self) -> tuple[ndarray, ndarray, ndarray]:
        """Return the whole decision process: next (states, 4) int32, feature (states, 4) int8, terminal (states,).

        ``feature`` is the index of the feature that a step earns, -1 where it earns none: ``rows[feature]`` with
        ``rows = np.vstack([np.eye(dim), np.zeros(dim)])`` gives phi. The goal leads to itself and earns no more.

        >>> after, feature, terminal = four_room_collection().tables()
        >>> after.shape, int(feature.max())
        ((622592, 4), 3)
        """
        count = len(self.objects)
        cell, taken = np.divmod(np.arange(len(self)), 1 << count)
        bits, kinds = self.marks()
        entered = self.cell_next[cell]
        fresh = bits[entered] & ~taken[:, None]
        feature = np.where((fresh > 0) | (kinds[entered] == self.dim - 1), kinds[entered], -1)
        after = (entered << count) + (taken[:, None] | fresh)
        terminal = cell == self.goal
        after[terminal], feature[terminal] = np.flatnonzero(terminal)[:, None], -1
        return after.astype(np.int32), feature.astype(np.int8), terminal

    def marks(self) -> tuple[ndarray, ndarray]:
        """Return (cells,) the object's bit in each cell, 0 without one, and (cells,) the feature there, -1 without."""
        bits, kinds = np.zeros(len(self.city), dtype=np.int64), np.full(len(self.city), -1)
        bits[self.objects] = 1 << np.arange(len(self.objects))
        kinds[self.objects] = self.classes
        kinds[self.goal] = self.dim - 1
        return bits, kinds

    def picture(self, state: int, *, size: int | None = None) -> ndarray:
        """Return (height, width, 3) uint8 pixels of a state: the agent and the objects that are left."""
        cell, taken = divmod(int(state), 1 << len(self.objects))
        return draw(self._left(taken), agent=cell, size=size)

    def text(self, state: int) -> str:
        """Return a state as text: the map without the objects taken, and an ``@`` where the agent stands."""
        cell, taken = divmod(int(state), 1 << len(self.objects))
        gone = self.city.cells[self.objects[(taken >> np.arange(len(self.objects)) & 1).astype(bool)]]
        rows = [list(row) for row in self.city.rows]
        for row, col in gone:
            rows[row][col] = "."
        return as_text(replace(self._left(taken), rows=tuple(map("".join, rows))), cell)

    def _left(self, taken: int) -> City:
        """Return the map with only the objects that are left as places; classes without any keep their colour."""
        left = self.objects[(taken >> np.arange(len(self.objects)) & 1) == 0]
        places = {n: s[np.isin(s, left)] if n.isdigit() else s for n, s in self.city.places.items()}
        return replace(self.city, places=places)


class Collectors:
    """Thousands of agents that collect at once, each in its own copy of the rooms; nothing restarts by itself.

    Args:
        collection: the rooms.
        agents: how many.

    >>> collectors = Collectors(four_room_collection(), 3)
    >>> _ = collectors.reset(np.random.default_rng(0))
    >>> states, features, ended = collectors.step(np.array([0, 1, 3]))
    >>> features.shape, ended
    ((3, 4), array([False, False, False]))
    """

    def __init__(self, collection: Collection, agents: int) -> None:
        if agents < 1 or agents != int(agents):
            raise ValueError(f"Collectors: agents must be a whole number, 1 or more; got {agents}")
        self.collection, self.agents = collection, agents
        self._shift, self._goal = len(collection.objects), collection.goal
        self._bits, self._kinds = collection.marks()
        self._flat = np.ascontiguousarray(collection.cell_next).ravel()
        self._rows = np.vstack([np.eye(collection.dim), np.zeros(collection.dim)])
        self._cell = self._taken = np.zeros(agents, dtype=np.int64)
        self._rng: np.random.Generator | None = None

    @property
    def states(self) -> ndarray:
        """Return (agents,) the states."""
        return (self._cell << self._shift) + self._taken

    def reset(self, rng: np.random.Generator) -> ndarray:
        """Start all agents' episodes and return the states (agents,); ``rng`` is kept for the next starts."""
        self._rng = rng
        self._cell, self._taken = np.zeros((2, self.agents), dtype=np.int64)
        return self.restart(np.ones(self.agents, dtype=bool))

    def restart(self, which: ndarray) -> ndarray:
        """Start a new episode for the agents of a mask (agents,), all objects back in place, and return all states."""
        if self._rng is None:
            raise ValueError("Collectors: call reset(rng) first")
        which = check_mask(which, self.agents, "Collectors")
        starts = self.collection.starts
        drawn = starts[self._rng.integers(len(starts), size=int(which.sum()))]
        self._cell[which], self._taken[which] = np.divmod(drawn, 1 << self._shift)
        return self.states

    def step(self, actions: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """Move all agents and return states (agents,), features (agents, d) and which episodes have ended (agents,).

        An agent whose episode has ended stays at the goal and earns nothing until it restarts.
        """
        if self._rng is None:
            raise ValueError("Collectors: call reset(rng) first")
        actions = np.asarray(actions)
        if actions.shape != (self.agents,) or actions.dtype.kind not in "iu" or actions.min() < 0 or actions.max() > 3:
            raise ValueError(f"Collectors: actions must be ({self.agents},) whole numbers in 0..3; got {actions!r}")
        before = self._cell == self._goal
        cell = np.where(before, self._cell, self._flat.take(self._cell * 4 + actions))
        fresh = self._bits.take(cell) & ~self._taken
        ended = cell == self._goal
        kind = np.where((fresh > 0) | (ended & ~before), self._kinds.take(cell), -1)
        self._cell, self._taken = cell, self._taken | fresh
        return self.states, self._rows.take(kind, axis=0, mode="wrap"), ended


def four_room_collection() -> Collection:
    """Return the usual discretisation of the four-room collection: 13 x 13 cells, 12 objects of 3 classes.

    Reference: Barreto, Dabney, Munos, Hunt, Schaul, van Hasselt, Silver, Successor features for transfer in
    reinforcement learning, NeurIPS 2017 (with continuous positions); the map of cells is that of Gimelfarb's public
    code and of MO-Gymnasium's four-room-v0, where the actions are in another order.

    >>> rooms = four_room_collection()
    >>> len(rooms.objects), len(rooms.city), rooms.dim
    (12, 152, 4)
    """
    return read_collection(COLLECTION)


def read_collection(text: str) -> Collection:
    """Return the collection of an ASCII map: walls ``#``, free ``.``, objects by class 1 to 9, starts S, goal G.

    Raises:
        ValueError: no start, not one goal, no object or more than 16, or classes that leave a number out.

    >>> read_collection("S1G").dim
    2
    """
    city = read_city(text, name="collection")
    named = {{"S": "start", "G": "goal"}.get(name, name): states for name, states in city.places.items()}
    kinds = sorted(name for name in named if name.isdigit())
    if not {"start", "goal"} <= set(named) or len(named["goal"]) != 1 or len(named) != len(kinds) + 2:
        raise ValueError(f"read_collection: the map must have S, one G and digits; it has {', '.join(city.places)}")
    if not kinds or kinds != [str(k + 1) for k in range(len(kinds))]:
        raise ValueError(f"read_collection: classes must be numbered 1, 2, ... without gaps; got {kinds or 'none'}")
    objects = np.concatenate([named[kind] for kind in kinds])
    if len(objects) > _MOST_OBJECTS:
        raise ValueError(
            f"read_collection: at most {_MOST_OBJECTS} objects, since states double with each; got {len(objects)}"
        )
    if city.next.shape[2] > 1:
        raise ValueError("read_collection: slippery cells (~) are not part of this problem; use . instead")
    classes = np.repeat(np.arange(len(kinds)), [len(named[kind]) for kind in kinds])
    city = city.with_places({name: named[name] for name in (*kinds, "start", "goal")})
    starts = named["start"] << len(objects)
    return Collection(city, objects, classes, city.next[:, :4, 0].copy(), starts, int(named["goal"][0]))


def collection_tasks(tasks: int, rng: np.random.Generator, dim: int = 4) -> ndarray:
    """Return (tasks, dim) weights: objects uniform in [-1, 1], the goal 1.

    >>> collection_tasks(20, np.random.default_rng(0)).shape
    (20, 4)
    """
    return np.hstack([rng.uniform(-1, 1, (tasks, dim - 1)), np.ones((tasks, 1))])
