"""The arm in PyBullet end to end: learned from its trials there, weighed there, and tracked with what was weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np
from arm_problems import ARM, SAMPLES, SMOKE, Trials, learn, prior, score, trials_of
from numpy import ndarray

from scimeta.domains.arm import ArmModel, Weigher, nominal, weigh_least_squares, weigh_map
from simulators import arm as sim

PAST, NEW = (12, 8) if SMOKE else (200, 100)
MASSES = (5.0,) if SMOKE else (1.0, 3.0, 5.0)
MOVEMENTS = 1 if SMOKE else 5
LEAST = 0.5  # kg, from which on an error is given in per cent

Controller = Callable[[float, ndarray, ndarray], ndarray]


class Bench:
    """The nominal robot and one of S1, with what was learned of each from PyBullet.

    Args:
        seed: of all that is drawn.
        workers: processes for the trials.
    """

    def __init__(self, seed: int, workers: int) -> None:
        self.seed, self.workers = seed, workers
        self.names = ("nominal",) if SMOKE else ("nominal", "S1")

    def weigh(self) -> None:
        """Print the errors of the mass on new trials."""
        if not self._installed():
            return
        print(f"\nIn PyBullet, any movement: {PAST} labelled trials, {NEW} new; per cent of payloads above {LEAST} kg")
        heads = f"{'RMSE, kg':>9} {'median, kg':>11} {'median, %':>10} {'asked':>7} {'cover':>6}"
        print(f"  {'robot':<8} {'method':<36} {heads}")
        for name in self.names:
            new, weigher = self._draw(name, NEW, 2), self._weighers[name]
            for method, found, asked in (
                ("least squares, nominal, 10 unknowns", weigh_least_squares(nominal(ARM), new.log), ""),
                ("MAP, calibrated on the same payloads", weigh_map(weigher.classical, new.log, prior()), ""),
                ("ours, one step", weigher.weigh(new.log), "<= .5" if name == "nominal" else ""),
            ):
                of = score(found, new.mass)
                some = new.mass > LEAST
                percent = 100 * ((found.mass - new.mass).abs() / new.mass)[some].median().item()
                line = f"{of.rmse:9.4f} {of.median:11.4f} {percent:10.2f} {asked:>7} {of.coverage:6.3f}"
                print(f"  {name:<8} {method:<36} {line}", flush=True)

    def track(self) -> None:
        """Print how far off the tip is, before and after the payload is weighed."""
        if not self._installed():
            return
        print(f"\nTip's tracking error in PyBullet, mm: root mean square; mean (most) of {MOVEMENTS} movements")
        print(f"  {'robot':<8} {'controller':<44}" + "".join(f" {f'{mass:g} kg':>16}" for mass in MASSES) + "   asked")
        for name in self.names:
            rows: dict[str, list[str]] = {}
            for mass in MASSES:
                for controller, errors in self._errors(name, mass).items():
                    cell = f"{1e3 * np.mean(errors):.2f} ({1e3 * np.max(errors):.2f})"
                    rows.setdefault(controller, []).append(cell)
            for controller, cells in rows.items():
                asked = ASKED.get(controller, "") if name == "nominal" else ""
                print(f"  {name:<8} {controller:<44}" + "".join(f" {cell:>16}" for cell in cells) + f"   {asked}")

    def _errors(self, name: str, mass: float) -> dict[str, list[float]]:
        """Controller -> root mean square errors, m, one a movement."""
        from simulators.arm.bullet import track

        robot, weigher = self._robots[name], self._weighers[name]
        rng = np.random.default_rng((self.seed, int(mass), 6))
        errors: dict[str, list[float]] = {}
        for number, payload in enumerate(sim.draw_payloads(MOVEMENTS, rng, (mass, mass))):
            seen = sim.simulate(
                robot, [payload], [sim.draw_movement(robot.chain, rng)], SAMPLES, seed=number, backend="bullet"
            )
            inferred = weigher.weigh(trials_of(seen).log).parameters[0].numpy()
            movement = sim.draw_movement(robot.chain, rng)
            laws = controllers(movement, payload, inferred, None if name == "nominal" else weigher.classical)
            for controller, law in laws.items():
                errors.setdefault(controller, []).append(track(robot, payload, movement, law).rmse)
        return errors

    @cached_property
    def _robots(self) -> dict[str, sim.Robot]:
        return {"nominal": sim.nominal("iiwa"), "S1": sim.scenario("S1", np.random.default_rng((self.seed, 0, 1)))}

    @cached_property
    def _weighers(self) -> dict[str, Weigher]:
        return {name: learn(self._draw(name, PAST, 1), "any") for name in self.names}

    def _draw(self, name: str, trials: int, what: int) -> Trials:
        robot, rng = self._robots[name], np.random.default_rng((self.seed, what, 7))
        payloads = sim.draw_payloads(trials, rng)
        movements = [sim.draw_movement(robot.chain, rng) for _ in payloads]
        return trials_of(
            sim.simulate(robot, payloads, movements, SAMPLES, seed=what, backend="bullet", workers=self.workers)
        )

    def _installed(self) -> bool:
        try:
            import pybullet  # noqa: F401
        except ImportError:
            print("\nPyBullet: left out, it is not installed (the extra `sim`)")
            return False
        return True


ASKED = {
    "PD + feed-forward, payload unknown": "15 / 55 / 97 before",
    "PD + feed-forward, as weighed": "<= 4",
}


def controllers(
    movement: sim.Movement, payload: sim.Payload, inferred: ndarray, learned: ArmModel | None
) -> dict[str, Controller]:
    """Name -> controller; with the links and the friction that were learned, too, where they are given."""
    from simulators.arm.bullet import pd

    chain = sim.read_chain("iiwa")
    found = {
        "PD + feed-forward, payload unknown": pd(chain, movement),
        "PD + feed-forward, as weighed": pd(chain, movement, inferred),
        "PD + feed-forward, true payload": pd(chain, movement, payload),
        "PD + gravity compensation, payload unknown": pd(chain, movement, feed_forward="gravity"),
        "PD + gravity compensation, as weighed": pd(chain, movement, inferred, feed_forward="gravity"),
    }
    if learned is not None:
        known = dataclasses.replace(chain, inertial=learned.chain.inertial.numpy())
        found["PD + feed-forward, calibrated, unknown"] = with_friction(pd(known, movement), movement, learned)
        found["PD + feed-forward, calibrated, as weighed"] = with_friction(
            pd(known, movement, inferred), movement, learned
        )
    return found


def with_friction(controller: Controller, movement: sim.Movement, learned: ArmModel) -> Controller:
    """A controller that adds the friction of the movement asked for."""
    coulomb, viscous = learned.coulomb.numpy(), learned.viscous.numpy()

    def more(t: float, q: ndarray, qd: ndarray) -> ndarray:
        speed = movement.at(t)[1]
        return controller(t, q, qd) + coulomb * np.tanh(speed / learned.friction_speed) + viscous * speed

    return more
