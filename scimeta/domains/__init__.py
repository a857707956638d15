"""Domains: a classical model each, on top of the calibration and the core."""
