"""Cities, rooms and mazes of cells: where each action leads, as arrays, as a batched stepper and as environments."""

import contextlib

from simulators.gridworld.city import ACTIONS, MOVES, City, grid_city, read_city
from simulators.gridworld.collection import (
    COLLECTION,
    Collection,
    Collectors,
    collection_tasks,
    four_room_collection,
    read_collection,
)
from simulators.gridworld.drawing import draw
from simulators.gridworld.layouts import LAYOUTS, four_rooms, maze, open_grid, scatter_places, street_city, town
from simulators.gridworld.walkers import Walkers

__all__ = [
    "ACTIONS",
    "COLLECTION",
    "LAYOUTS",
    "MOVES",
    "City",
    "Collection",
    "Collectors",
    "Walkers",
    "collection_tasks",
    "draw",
    "four_room_collection",
    "four_rooms",
    "grid_city",
    "maze",
    "open_grid",
    "read_city",
    "read_collection",
    "scatter_places",
    "street_city",
    "town",
]

with contextlib.suppress(ModuleNotFoundError):  # Gymnasium comes with the extra sim; the cities need none
    from simulators.gridworld.collection_env import CollectionEnv
    from simulators.gridworld.env import GridEnv, VectorReward
    from simulators.gridworld.multi_objective import MOGridEnv, MOGridVectorEnv
    from simulators.gridworld.vector_env import GridVectorEnv

    __all__ += ["CollectionEnv", "GridEnv", "GridVectorEnv", "MOGridEnv", "MOGridVectorEnv", "VectorReward"]
