"""A robot arm that weighs its payload: classical models, what is learned from past payloads, and the controllers."""

from scimeta.domains.arm.classical import (
    cramer_rao,
    recursive_least_squares,
    tare,
    weigh_least_squares,
    weigh_map,
)
from scimeta.domains.arm.consistency import consistent, is_consistent
from scimeta.domains.arm.control import computed_torque, controller, gravity_compensated
from scimeta.domains.arm.dynamics import (
    Chain,
    inverse_dynamics,
    link_regressor,
    mass_matrix,
    payload_regressor,
    tip_position,
)
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import ArmModel, Noise, calibrate, nominal, predict
from scimeta.domains.arm.motion import fourier_motion
from scimeta.domains.arm.payloads import given_mass, payload_prior, prior_of_labels, prior_of_range
from scimeta.domains.arm.recordings import Trials, read_trials, resample, write_trials
from scimeta.domains.arm.specialized import specialize
from scimeta.domains.arm.training import Training, learn_to_weigh
from scimeta.domains.arm.urdf import Arm, read_urdf
from scimeta.domains.arm.weigher import Weigher
from scimeta.domains.arm.weighing import PayloadPrior, Weighing

__all__ = [
    "Arm",
    "ArmModel",
    "Chain",
    "Log",
    "Noise",
    "PayloadPrior",
    "Training",
    "Trials",
    "Weigher",
    "Weighing",
    "calibrate",
    "check_log",
    "computed_torque",
    "consistent",
    "controller",
    "cramer_rao",
    "fourier_motion",
    "given_mass",
    "gravity_compensated",
    "inverse_dynamics",
    "is_consistent",
    "learn_to_weigh",
    "link_regressor",
    "mass_matrix",
    "nominal",
    "payload_prior",
    "payload_regressor",
    "predict",
    "prior_of_labels",
    "prior_of_range",
    "read_trials",
    "read_urdf",
    "recursive_least_squares",
    "resample",
    "specialize",
    "tare",
    "tip_position",
    "weigh_least_squares",
    "weigh_map",
    "write_trials",
]
