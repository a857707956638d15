"""Classical laws and their calibration: curves, priors learned from past specimens, fits with intervals."""
