"""The meta-optimisation core: tasks, update rules, inner loops. It never learns what the numbers mean."""
