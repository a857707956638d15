"""A simulated robot arm that holds payloads: robots with errors, movements, trials, all with the truth known."""

from simulators.arm.movement import Movement, condition, draw_movement, excitation, mass_bound
from simulators.arm.payload import Payload, box, draw_payloads, nothing
from simulators.arm.rigid import forward_dynamics, forward_kinematics, inverse_dynamics, mass_matrix, payload_regressor
from simulators.arm.robot import Robot, draw_robot, nominal, scenario
from simulators.arm.trials import Noise, Trials, simulate
from simulators.arm.urdf import Chain, read_chain, urdf, with_inertials, with_payload

__all__ = [
    "Chain",
    "Movement",
    "Noise",
    "Payload",
    "Robot",
    "Trials",
    "box",
    "condition",
    "draw_movement",
    "draw_payloads",
    "draw_robot",
    "excitation",
    "forward_dynamics",
    "forward_kinematics",
    "inverse_dynamics",
    "mass_bound",
    "mass_matrix",
    "nominal",
    "nothing",
    "payload_regressor",
    "read_chain",
    "scenario",
    "simulate",
    "urdf",
    "with_inertials",
    "with_payload",
]
