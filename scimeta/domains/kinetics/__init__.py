"""Kinetics of phase transformations: laws of the transformed fraction over time, and what surrounds them.

``laws`` holds JMAK and its rivals, ``guesses`` what the points tell before a fit, ``additivity`` changing
temperatures, ``conventions`` the two meanings of the rate constant and tables that mix them up, ``dsc`` the way from a
raw heat-flow trace to a fraction.
"""

from scimeta.domains.kinetics.additivity import GAS_CONSTANT, additive_jmak, additive_law, arrhenius, reduced_time
from scimeta.domains.kinetics.conventions import K_to_rate, check_table, half_time, rate_to_K
from scimeta.domains.kinetics.dsc import Crystallinity, crystallinity
from scimeta.domains.kinetics.guesses import avrami_line, check_fractions
from scimeta.domains.kinetics.laws import (
    AUSTIN_RICKETT,
    GOMPERTZ,
    JMAK,
    JMAK_FULL,
    JMAK_INCOMPLETE,
    JMAK_INCUBATION,
    JMAK_KT,
    LOGISTIC,
    austin_rickett,
    gompertz,
    jmak,
    jmak_full,
    jmak_incomplete,
    jmak_incubation,
    jmak_kt,
    logistic,
)

__all__ = [
    "AUSTIN_RICKETT",
    "GAS_CONSTANT",
    "GOMPERTZ",
    "JMAK",
    "JMAK_FULL",
    "JMAK_INCOMPLETE",
    "JMAK_INCUBATION",
    "JMAK_KT",
    "LOGISTIC",
    "Crystallinity",
    "K_to_rate",
    "additive_jmak",
    "additive_law",
    "arrhenius",
    "austin_rickett",
    "avrami_line",
    "check_fractions",
    "check_table",
    "crystallinity",
    "gompertz",
    "half_time",
    "jmak",
    "jmak_full",
    "jmak_incomplete",
    "jmak_incubation",
    "jmak_kt",
    "logistic",
    "rate_to_K",
    "reduced_time",
]
