"""A city learned once: where each step leads, so that a new goal is one new reward vector."""
