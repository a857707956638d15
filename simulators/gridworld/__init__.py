"""Cities, rooms and mazes of cells: where each action leads, as arrays, as a batched stepper and as environments."""
