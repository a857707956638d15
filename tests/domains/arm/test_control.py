"""Control: truths of the three laws, and of the callable that a loop of 1 kHz calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from scimeta.domains.arm.control import computed_torque, controller, feed_forward, gains, gravity, gravity_compensated
from scimeta.domains.arm.dynamics import inverse_dynamics, mass_matrix, tip_position
from scimeta.domains.arm.payloads import box
from scimeta.domains.arm.urdf import read_urdf
from simulators.arm import draw_movement, nominal, urdf

ARM = read_urdf(urdf("iiwa"))
CHAIN = ARM.chain
LAWS = [gravity_compensated, feed_forward, computed_torque]
COM = torch.tensor([0.02, -0.03, 0.12], dtype=torch.float64)
PAYLOAD = box(torch.tensor(3.0, dtype=torch.float64), COM, torch.full((3,), 0.1, dtype=torch.float64))
TIMES = np.arange(1000) / 1000.0
MOVEMENT = draw_movement(nominal("iiwa").chain, np.random.default_rng(5))
REFERENCE = MOVEMENT.at(TIMES)

every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(seed: int, *shape: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """q, qd and a reference near to them."""
    q, qd, qdd = (draw(seed + i, *shape) for i in range(3))
    return q, qd, (q + 0.05 * draw(seed + 3, *shape), qd + 0.2 * draw(seed + 4, *shape), qdd)


def acceleration(q: Tensor, qd: Tensor, tau: Tensor, payload: Tensor) -> Tensor:
    """What an arm with the payload does under the torques."""
    bias = inverse_dynamics(CHAIN, q, qd, torch.zeros_like(q), payload)
    return torch.linalg.solve(mass_matrix(CHAIN, q, payload), (tau - bias)[..., None])[..., 0]


def followed(control: Callable[[float, Tensor, Tensor], Tensor], steps: int, *arms: int) -> tuple[Tensor, Tensor]:
    """Where loaded arms are, (steps, *arms, n), and should be, (steps, n), from the reference's start at 1 kHz."""
    wanted = torch.as_tensor(REFERENCE[0][:steps])
    q, qd = (torch.as_tensor(x[0]).expand(*arms, 7) for x in REFERENCE[:2])
    path = []
    for step in range(steps):
        path.append(q)
        qd = qd + 1e-3 * acceleration(q, qd, control(step / 1000, q, qd), PAYLOAD)
        q = q + 1e-3 * qd
    return torch.stack(path), wanted


# --- laws


def test_gravity_of_a_payload_is_the_slope_of_its_potential_energy():
    q = draw(0).requires_grad_()
    height = tip_position(CHAIN, q, COM)[2]
    (slope,) = torch.autograd.grad(3.0 * 9.81 * height, q)
    carried = gravity(CHAIN, q, PAYLOAD) - gravity(CHAIN, q)
    torch.testing.assert_close(carried.detach(), slope, rtol=1e-9, atol=1e-9)


@every_law
def test_an_arm_at_rest_on_its_reference_gets_statics(law):
    q, still = draw(1), torch.zeros(7, dtype=torch.float64)
    tau = law(CHAIN, q, still, (q, still, still), PAYLOAD)
    torch.testing.assert_close(tau, gravity(CHAIN, q, PAYLOAD), rtol=1e-12, atol=1e-12)


@every_law
def test_a_batch_is_its_samples(law):
    q, qd, wanted = state(2, 3, 2)
    whole = law(CHAIN, q, qd, wanted, PAYLOAD)
    one = law(CHAIN, q[2, 1], qd[2, 1], tuple(x[2, 1] for x in wanted), PAYLOAD)
    torch.testing.assert_close(whole[2, 1], one, rtol=1e-10, atol=1e-10)


def test_computed_torque_with_the_right_payload_makes_errors_linear():
    q, qd, wanted = state(3, 4)
    kp, kd = torch.linspace(100, 400, 7).double(), torch.linspace(10, 40, 7).double()
    tau = computed_torque(CHAIN, q, qd, wanted, PAYLOAD, kp, kd)
    moved = wanted[2] + kp * (wanted[0] - q) + kd * (wanted[1] - qd)
    torch.testing.assert_close(acceleration(q, qd, tau, PAYLOAD), moved, rtol=1e-7, atol=1e-7)


def test_feed_forward_on_the_reference_is_the_torque_of_the_reference():
    _, _, wanted = state(4, 4)
    tau = feed_forward(CHAIN, *wanted[:2], wanted, PAYLOAD)
    torch.testing.assert_close(tau, inverse_dynamics(CHAIN, *wanted, PAYLOAD))


def test_default_gains_swing_every_mode_at_one_frequency_with_the_damping_asked_for():
    q = draw(5)
    kp, kd = gains(CHAIN, q, PAYLOAD, frequency=12.0, damping=0.7, rotor=0.0)
    mass = mass_matrix(CHAIN, q, PAYLOAD)
    squares = torch.linalg.eigvals(torch.linalg.solve(mass, kp))
    rates = torch.linalg.eigvals(torch.linalg.solve(mass, kd))
    torch.testing.assert_close(squares.real, torch.full((7,), 144.0, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(rates.real, torch.full((7,), 16.8, dtype=torch.float64), rtol=1e-6, atol=0)


def test_gains_as_numbers_one_a_joint_and_matrices_agree():
    q, qd, wanted = state(6, 2)
    tau = [
        feed_forward(CHAIN, q, qd, wanted, None, kp, kd)
        for kp, kd in (
            (50.0, 5.0),
            (torch.full((7,), 50.0), torch.full((7,), 5.0)),
            (50 * torch.eye(7).double(), 5 * torch.eye(7).double()),
        )
    ]
    torch.testing.assert_close(tau[0], tau[1])
    torch.testing.assert_close(tau[0], tau[2])


def test_a_payload_that_is_known_is_carried_on_the_reference_and_an_unknown_one_is_not():
    guesses = torch.stack((torch.zeros(10, dtype=torch.float64), PAYLOAD))

    def both(t: float, q: Tensor, qd: Tensor) -> Tensor:
        wanted = tuple(torch.as_tensor(x[round(1000 * t)]).expand(2, 7) for x in REFERENCE)
        return feed_forward(CHAIN, q, qd, wanted, guesses)

    path, wanted = followed(both, 400, 2)
    away = tip_position(CHAIN, path) - tip_position(CHAIN, wanted)[:, None]
    unknown, known = away[1:].square().sum(-1).mean(0).sqrt().tolist()
    assert unknown > 0.01
    assert known < 1e-3


# --- the callable


def test_the_controller_of_an_affine_law_is_that_law():
    law = partial(feed_forward, CHAIN, payload=PAYLOAD)
    control = controller(law, TIMES, REFERENCE)
    for row in (0, 217, 999):
        q, qd = REFERENCE[0][row] + 0.1, REFERENCE[1][row] - 0.3
        wanted = law(torch.as_tensor(q), torch.as_tensor(qd), tuple(torch.as_tensor(x[row]) for x in REFERENCE))
        np.testing.assert_allclose(control(TIMES[row], q, qd), wanted.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("law", [gravity_compensated, computed_torque], ids=lambda law: law.__name__)
def test_the_controller_of_another_law_is_off_by_the_square_of_the_error(law):
    law = partial(law, CHAIN, payload=PAYLOAD)
    control = controller(law, TIMES, REFERENCE)
    q, qd, qdd = (x[300] for x in REFERENCE)
    wanted = tuple(map(torch.as_tensor, (q, qd, qdd)))

    def off(size: float) -> float:
        moved, speed = q + size * draw(7).numpy(), qd + size * draw(8).numpy()
        exact = law(torch.as_tensor(moved), torch.as_tensor(speed), wanted).numpy()
        return float(np.abs(control(TIMES[300], moved, speed) - exact).max())

    assert off(0.0) < 1e-9
    assert off(1e-2) / off(5e-3) == pytest.approx(4.0, rel=0.1)


def test_the_controller_follows_as_the_law_called_at_every_step_does():
    law = partial(computed_torque, CHAIN, payload=0.9 * PAYLOAD)
    control = controller(law, TIMES, REFERENCE)

    def called(t: float, q: Tensor, qd: Tensor) -> Tensor:
        return law(q, qd, tuple(torch.as_tensor(x[round(1000 * t)]) for x in REFERENCE))

    exact, wanted = followed(called, 250)
    tabulated, _ = followed(lambda t, q, qd: torch.as_tensor(control(t, q.numpy(), qd.numpy())), 250)
    error = (exact - wanted).abs().max().item()
    assert error > 1e-3
    assert (exact - tabulated).abs().max().item() < 0.02 * error


def test_between_two_instants_the_reference_is_interpolated():
    control = controller(partial(feed_forward, CHAIN), TIMES, REFERENCE)
    q, qd, _ = MOVEMENT.at(0.4005)
    tau = inverse_dynamics(CHAIN, *map(torch.as_tensor, MOVEMENT.at(0.4005))).numpy()
    np.testing.assert_allclose(control(0.4005, q, qd), tau, atol=1e-3)


def test_outside_its_times_the_arm_is_held_at_rest():
    control = controller(partial(feed_forward, CHAIN, payload=PAYLOAD), TIMES, REFERENCE)
    for t, row in ((-1.0, 0), (7.0, 999)):
        held = gravity(CHAIN, torch.as_tensor(REFERENCE[0][row]), PAYLOAD).numpy()
        np.testing.assert_allclose(control(t, REFERENCE[0][row], np.zeros(7)), held, rtol=1e-9, atol=1e-9)


def test_friction_that_is_known_is_added_by_the_law_that_is_passed():
    def law(q: Tensor, qd: Tensor, wanted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return feed_forward(CHAIN, q, qd, wanted) + 0.5 * (wanted[1] / 0.02).tanh()

    q, qd = REFERENCE[0][10], REFERENCE[1][10]
    plain = controller(partial(feed_forward, CHAIN), TIMES, REFERENCE)(TIMES[10], q, qd)
    rubbed = controller(law, TIMES, REFERENCE)(TIMES[10], q, qd)
    np.testing.assert_allclose(rubbed - plain, 0.5 * np.tanh(qd / 0.02), atol=1e-9)


def test_torques_stay_within_the_effort():
    control = controller(partial(feed_forward, CHAIN), TIMES, REFERENCE, ARM.effort)
    tau = control(0.1, REFERENCE[0][100] + 20.0, REFERENCE[1][100])
    assert np.abs(tau).max() == 300.0


def test_one_call_takes_well_under_a_millisecond():
    control = controller(partial(computed_torque, CHAIN, payload=PAYLOAD), TIMES, REFERENCE)
    q, qd = REFERENCE[0][3], REFERENCE[1][3]
    seconds = []
    for k in range(500):
        start = time.perf_counter()
        control(1e-3 * k, q, qd)
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 2e-4


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((draw(0, 2)[:, :6], draw(0, 2), (draw(0, 2),) * 3), ValueError, r"q must be \(\.\.\., 7\), got \(2, 6\)"),
        ((draw(0), draw(0), (draw(0),) * 2), ValueError, r"reference must be \(q, qd, qdd\); got 2 parts"),
        ((draw(0), draw(0).numpy(), (draw(0),) * 3), TypeError, "qd must be a tensor, got ndarray"),
        ((draw(0), draw(0), (draw(0),) * 3, draw(0)), ValueError, r"payload must be \(\.\.\., 10\), got \(7,\)"),
        ((draw(0), draw(0), (draw(0),) * 3, 3.0), TypeError, "payload must be a tensor, got float"),
    ],
)
@every_law
def test_a_law_refuses_what_does_not_fit_the_arm(law, arguments, error, said):
    with pytest.raises(error, match=rf"{law.__name__}: {said}"):
        law(CHAIN, *arguments)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"frequency": 0.0}, "frequency must be positive"), ({"damping": -1.0}, "damping"), ({"rotor": -0.1}, "rotor")],
)
def test_gains_refuse_what_would_not_hold_an_arm(wrong, said):
    with pytest.raises(ValueError, match=said):
        gains(CHAIN, draw(0), **wrong)


@pytest.mark.parametrize(
    ("times", "reference", "said"),
    [
        (TIMES[:-1], REFERENCE, r"expected times \(samples,\) and q, qd, qdd \(samples, n\)"),
        (TIMES, REFERENCE[:2], "expected times"),
        (TIMES[::-1], REFERENCE, "all rising"),
        (TIMES[:1], tuple(x[:1] for x in REFERENCE), "at least two times"),
        (TIMES, (REFERENCE[0] * np.nan, *REFERENCE[1:]), "not finite"),
        (40 * TIMES, REFERENCE, r"too coarse for accelerations of .*; give the reference every 0\.0\d s"),
    ],
)
def test_the_controller_refuses_a_reference_that_cannot_be_followed(times, reference, said):
    with pytest.raises(ValueError, match=said):
        controller(partial(feed_forward, CHAIN), times, reference)


def test_the_controller_refuses_a_law_or_an_effort_of_another_size():
    with pytest.raises(ValueError, match=r"the law gave \(1002,\)"):
        controller(lambda q, qd, wanted: feed_forward(CHAIN, q, qd, wanted).sum(-1), TIMES, REFERENCE)
    with pytest.raises(ValueError, match=r"effort must be \(7,\)"):
        controller(partial(feed_forward, CHAIN), TIMES, REFERENCE, np.ones(6))


@pytest.mark.parametrize("q", [np.full(7, np.nan), np.zeros(6)], ids=["nan", "six joints"])
def test_the_controller_raises_rather_than_pass_on_a_torque_that_means_nothing(q):
    control = controller(partial(feed_forward, CHAIN), TIMES, REFERENCE)
    with pytest.raises(ValueError):
        control(0.1, q, np.zeros(7))
