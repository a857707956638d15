"""Simulated experiments with known truth: arrays out, no learning inside."""
