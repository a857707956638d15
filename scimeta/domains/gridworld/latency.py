"""The order in which to look at cells so that what hides in one of them is found soon: minimum latency.

A beam search over orders, from cell to nearby cell, then a descent by reversing stretches of the order and by
exchanging neighbouring ones, each step the best of all such changes, priced together by cumulative sums.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

_NEAREST = 3  # cells that each order of the beam is continued by
_STRANDED = 2.0  # price of leaving behind a cell of which no unseen neighbour is left; half of it with one left
_BLOCKS = (1, 2, 3, 4, 5, 6, 8, 10, 12)  # cells in the shorter of two stretches that change places
_WORK = 1.5e6  # cells squared times changes, at which the descent stops
_FAR = 1e6  # stands for an infinite distance


def search_order(first: ndarray, between: ndarray, weights: ndarray, beam: int = 100) -> ndarray:
    """Return (cells,) the order that visits the cells with a small weighted sum of arrival times.

    Of the beam's order, the same with its later half improved, and with all of it improved, the one at which half of
    the weight is reached first; among equals, that with the smallest weighted mean. (An improved mean alone would buy
    an early end with detours at the beginning.)

    Args:
        first: (cells,) distance from the start to each cell; inf where there is no way.
        between: (cells, cells) distance from row to column; it may differ from that back.
        weights: (cells,) non-negative, summing to 1.
        beam: orders that are followed at once; 1 goes to the nearest cell each time.

    Reference: Silva, Subramanian, Vidal, Ochi, Eur. J. Oper. Res. 221, 513 (2012), for the changes in constant time.

    >>> line = np.abs(np.subtract.outer(np.arange(5), np.arange(5))).astype(float)
    >>> search_order(line[1], line, np.full(5, 0.2), beam=10)
    array([1, 0, 2, 3, 4])
    """
    cells = len(first)
    distance = np.zeros((cells + 1, cells + 1))  # the start is row 0; no way leads back to it
    distance[1:, 1:], distance[0, 1:] = np.minimum(between, _FAR), np.minimum(first, _FAR)
    weight = np.concatenate([[0.0], weights])
    found = _beam(distance, weight, beam)
    orders = [found]
    if beam > 1 and cells > 2:
        half = int(np.searchsorted(np.cumsum(weight[found]), 0.5))
        tail = np.concatenate([found[:half], shorten(distance, found[half:], weight)])
        orders += [tail, shorten(distance, tail, weight)]
    return min(orders, key=lambda order: _judge(distance, order, weight))[1:] - 1


def arrivals(distance: ndarray, order: ndarray) -> ndarray:
    """Return (cells,) the distance walked when each cell of the order is reached; 0 at the first."""
    return np.concatenate([[0.0], np.cumsum(distance[order[:-1], order[1:]])])


def shorten(distance: ndarray, order: ndarray, weight: ndarray) -> ndarray:
    """Return the order after the best changes, one after the other, until none helps; its first cell stays.

    Args:
        distance: (all, all) finite.
        order: (cells,) rows of it.
        weight: (all,).
    """
    cost = weight[order] @ arrivals(distance, order)
    for _ in range(int(_WORK / len(order) ** 2) + 1):
        prices = _Prices(distance, order, weight)
        best, change = prices.reversal()
        for length in _BLOCKS[: max(len(order) - 2, 0)]:
            for price, exchange in (prices.exchange(length, leading=True), prices.exchange(length, leading=False)):
                if price < best - 1e-12:
                    best, change = price, exchange
        begin, middle, end = change
        if middle < 0:
            block = order[begin : end + 1][::-1]
        else:
            block = np.concatenate([order[middle : end + 1], order[begin:middle]])
        changed = np.concatenate([order[:begin], block, order[end + 1 :]])
        lower = weight[changed] @ arrivals(distance, changed)
        if lower >= cost - 1e-9:  # what is left is rounding
            break
        order, cost = changed, lower
    return order


class _Prices:
    """What changes of an order add to its weighted sum of arrival times."""

    def __init__(self, distance: ndarray, order: ndarray, weight: ndarray) -> None:
        self.distance = distance[np.ix_(order, order)]
        self.weight = weight[order]
        self.left = np.append(np.cumsum(self.weight[::-1])[::-1], 0.0)  # weight not yet reached before each place
        self.time = arrivals(distance, order)
        self.begin, self.end = np.arange(1, len(order))[:, None], np.arange(len(order))[None]
        self.after = np.minimum(self.end + 1, len(order) - 1)
        self.goes_on = self.end < len(order) - 1

    def reversal(self) -> tuple[float, tuple[int, int, int]]:
        """Return the best price of walking a stretch backwards, and (begin, -1, end) of the stretch."""
        steps = np.append(0.0, np.cumsum(np.diagonal(self.distance, -1)))  # walked backwards
        back, forth = np.cumsum(self.weight * steps), np.cumsum(self.weight * self.time)
        begin, end = self.begin, self.end
        enter = self.time[begin - 1] + self.distance[begin - 1, end]
        inside = (self.left[begin] - self.left[end + 1]) * (enter + steps[end]) - (back[end] - back[begin - 1])
        leave = enter + steps[end] - steps[begin] + self.distance[begin, self.after]
        later = np.where(self.goes_on, leave - self.time[self.after], 0.0) * self.left[end + 1]
        price = np.where(end > begin, inside - (forth[end] - forth[begin - 1]) + later, np.inf)
        row, column = np.unravel_index(price.argmin(), price.shape)
        return float(price[row, column]), (int(row) + 1, -1, int(column))

    def exchange(self, length: int, *, leading: bool) -> tuple[float, tuple[int, int, int]]:
        """Return the best price of exchanging two neighbouring stretches, and (begin, begin of the second, end).

        Args:
            length: of the first stretch where ``leading``, else of the second.
        """
        begin, end = self.begin, self.end
        middle = begin + length if leading else end - length + 1
        valid = (middle <= end) if leading else (middle > begin)
        middle = np.clip(middle, 1, len(self.weight) - 1)
        earlier = self.time[begin - 1] + self.distance[begin - 1, middle] - self.time[middle]
        enter = self.time[end] + earlier + self.distance[end, begin]
        later = enter - self.time[begin]
        leave = self.time[middle - 1] + later + self.distance[middle - 1, self.after]
        rest = np.where(self.goes_on, leave - self.time[self.after], 0.0)
        price = earlier * (self.left[middle] - self.left[end + 1]) + later * (self.left[begin] - self.left[middle])
        price = np.where(valid, price + rest * self.left[end + 1], np.inf)
        row, column = np.unravel_index(price.argmin(), price.shape)
        second = row + 1 + length if leading else column - length + 1
        return float(price[row, column]), (int(row) + 1, int(second), int(column))


def _judge(distance: ndarray, order: ndarray, weight: ndarray) -> tuple[float, float]:
    """Return when half of the weight is reached, and the weighted mean of the arrival times."""
    time, reached = arrivals(distance, order), np.cumsum(weight[order])
    return float(time[np.searchsorted(reached, 0.5 - 1e-9)]), float(weight[order] @ time)


def _beam(distance: ndarray, weight: ndarray, width: int) -> ndarray:
    """Return (all,) the best order found that begins with row 0."""
    cells = len(distance)
    near = (distance < 2).astype(np.float32) * ~np.eye(cells, dtype=bool)
    near[0] = near[:, 0] = 0.0
    signs = np.random.default_rng(0).integers(1 << 62, size=cells)  # of a set, by exclusive or: tells equal ones
    unseen = np.ones((1, cells), dtype=bool)
    unseen[0, 0] = False
    at, cost, left, sign = np.zeros(1, int), np.zeros(1), np.array([weight.sum()]), np.zeros(1, np.int64)
    trace = []
    for seen in range(1, cells):
        count = min(_NEAREST, cells - seen) if width > 1 else 1
        reach = np.where(unseen, distance[at], np.inf)
        cell = np.argpartition(reach, count - 1, axis=1)[:, :count]
        reached = (cost[:, None] + np.take_along_axis(reach, cell, 1) * left[:, None]).ravel()
        parent, cell = np.repeat(np.arange(len(at)), count), cell.ravel()
        score = reached + _STRANDED * _stranded(unseen, near, weight, parent, cell)
        key = (sign[parent] ^ signs[cell]) + cell  # the same cells seen, and the same one now
        order = np.argsort(score, kind="stable")
        keep = order[np.sort(np.unique(key[order], return_index=True)[1])[:width]]
        parent, cell = parent[keep], cell[keep]
        unseen = unseen[parent]
        unseen[np.arange(len(cell)), cell] = False
        at, cost, left, sign = cell, reached[keep], left[parent] - weight[cell], sign[parent] ^ signs[cell]
        trace.append((parent, cell))
    row, order = int(cost.argmin()), []
    for parent, cell in reversed(trace):
        order.append(cell[row])
        row = parent[row]
    return np.array([0, *order[::-1]])


def _stranded(unseen: ndarray, near: ndarray, weight: ndarray, parent: ndarray, cell: ndarray) -> ndarray:
    """Return the weight of the unseen cells that lose their last unseen neighbour, half of it for the last but one."""
    left = unseen[parent]
    left[np.arange(len(cell)), cell] = False
    neighbours = (unseen @ near)[parent] - near[cell]
    return ((neighbours <= 0) & left) @ weight + 0.5 * (((neighbours == 1) & left) @ weight)
