"""An arm that has learned to weigh: one gradient step from a log to mass and centre of mass, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from scimeta.core.checkpoint import read_state, write_state
from scimeta.core.rules import Meta
from scimeta.core.tasks import over_tasks
from scimeta.domains.arm.classical import cramer_rao, warn_unobservable, weigh_least_squares, weigh_map
from scimeta.domains.arm.dynamics import Chain, mass_matrix
from scimeta.domains.arm.features import Features, Movement, condition_number, features
from scimeta.domains.arm.learned import in_prior, posterior, weighing_learner
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import ArmModel, Noise, nominal
from scimeta.domains.arm.urdf import Arm
from scimeta.domains.arm.weighing import PayloadPrior, Weighing
from scimeta.files import STATE

_SAME = 0.02  # rad, how far a trial may be from the fixed movement


@dataclass(frozen=True, eq=False)
class Weigher:
    """What `learn_to_weigh` learned of one arm.

    Attributes:
        arm: as its maker describes it.
        prior: of the payload.
        movement: the fixed test movement; None for any movement.
        meta: slow parameters (`learned.start`) and, for a fixed movement, the step's matrix.
        scale: (n,) Nm, unit of the learned friction.
        directions: (10 n, directions) the combinations of link errors that were learned.
        frame: (10, 10) coordinates of the fixed movement's step; None for any movement.
        misses: (trials,) sorted, by how many standard deviations the masses of trials kept back were missed; empty
            where too few trials were labelled to keep some back.
        classical: the same arm by linear calibration on the same trials, for comparison.
        losses: (steps,) of the training.
    """

    arm: Arm
    prior: PayloadPrior
    movement: Movement | None
    meta: Meta
    scale: Tensor
    directions: Tensor
    frame: Tensor | None
    misses: Tensor
    classical: ArmModel
    losses: Tensor

    def weigh(self, log: Log) -> Weighing:
        """Mass and centre of mass of the payloads of one trial or many, by one gradient step each.

        Raises: ValueError for a log that `check_log` refuses, or that is not of the fixed test movement.
        Warns: UserWarning where a trial hardly moved, with its condition number: its mass cannot be seen.
        """
        log = check_log(self.arm, log)
        if self.movement is not None:
            check_same(self.movement.q, log.q)
        single = log.q.ndim == 2
        found = self._step(Log(*(values[None] for values in log)) if single else log)
        warn_unobservable(log, found.condition[0] if single else found.condition, 10)
        found = Weighing(*(values[0] for values in found[:3])) if single else found
        return found._replace(misses=self.misses)

    def compare(self, log: Log, true_mass: Tensor | None = None) -> pd.DataFrame:
        """The classical rows beside ours, with the bound that no unbiased estimate beats.

        Args:
            log: (trials, samples, ...) of one trial or many.
            true_mass: (trials,) kg, where it is known.
        Returns: a row for each method. With the true masses: their root mean square and median error, and the share of
            90 % intervals that hold them. Without: the mean mass and its mean standard deviation. All in kg.
        """
        log = check_log(self.arm, log)
        log = Log(*(values[None] for values in log)) if log.q.ndim == 2 else log
        rows = {
            "one gradient step, meta-learned": self.weigh(log),
            "MAP, calibrated on the same trials": weigh_map(self.classical, log, self.prior, self.noise),
            "least squares, 10 unknowns, as built": weigh_least_squares(nominal(self.arm), log, 10),
            "least squares, mass alone, as built": weigh_least_squares(nominal(self.arm), log, 1),
        }
        bound = cramer_rao(self.classical, log, self.noise).square().mean().sqrt().item()
        if true_mass is None:
            table = {name: (found.mass.mean().item(), found.mass_sd.mean().item()) for name, found in rows.items()}
            table["Cramer-Rao bound, 10 unknowns"] = (float("nan"), bound)
            return pd.DataFrame.from_dict(table, orient="index", columns=["mass [kg]", "sd [kg]"])
        table = {name: _score(found, torch.as_tensor(true_mass, dtype=torch.float64)) for name, found in rows.items()}
        table["Cramer-Rao bound, 10 unknowns"] = (bound, float("nan"), float("nan"))
        columns = ["RMSE [kg]", "median [kg]", "coverage"]
        return pd.DataFrame.from_dict(table, orient="index", columns=columns)

    @property
    def noise(self) -> Noise:
        """Of the logs, as learned."""
        torque = self.meta.init["torque noise"].exp().median().item()
        return Noise(torque, self.meta.init["acceleration noise"].exp().item())

    def _step(self, log: Log) -> Weighing:
        chain, factor = self.arm.chain, torch.linalg.cholesky(self.prior.covariance)
        # The links' errors are in the chain now, which is far quicker than their regressor.
        meta = self.meta._replace(init={**self.meta.init, "links": self.scale.new_zeros(0)})
        learner = weighing_learner(meta.init, self.scale, factor, self.prior.mean, trials=1, frame=self.frame)

        def in_one_step(trial: Features) -> Tensor:
            found = posterior(meta.init, self.scale, trial)
            return in_prior(found, learner.adapt(meta, trial)["payload"], self.frame)

        data = features(chain, log, self.prior.mean, factor, movement=self.movement, calibrated=self._calibrated())
        payload = self.prior.mean + over_tasks(in_one_step)(data) @ factor.mT
        # A heavier payload makes the accelerations' noise louder: the covariance is that of the payload found.
        data = data._replace(inertia=mass_matrix(chain, log.q, payload[:, None]))
        curvature = over_tasks(lambda trial: posterior(meta.init, self.scale, trial).factor)(data)
        root = torch.linalg.solve_triangular(curvature, factor.mT.expand_as(curvature), upper=False)
        regressor = torch.linalg.solve_triangular(factor, data.payload, upper=False, left=False)
        return Weighing(payload, root.mT @ root, condition_number(regressor))

    def _calibrated(self) -> Chain:
        """The arm with its links as learned."""
        errors = (self.directions @ self.meta.init["links"]).view_as(self.arm.chain.inertial)
        return self.arm.chain._replace(inertial=self.arm.chain.inertial + errors)

    def save(self, path: str | PathLike[str]) -> Path:
        """The path, after the weigher has been written to it; as data, nothing is pickled."""
        state = {name: getattr(self, name) for name in self.__dataclass_fields__}
        arm = {**vars(self.arm), "chain": self.arm.chain._asdict(), "joints": list(self.arm.joints)}
        classical = {**self.classical._asdict(), "chain": self.classical.chain._asdict()}
        state["movement"] = None if self.movement is None else self.movement._asdict()
        state |= {"arm": arm, "classical": classical, "prior": self.prior._asdict(), "meta": self.meta._asdict()}
        return write_state(Path(path), {"weigher": state}, STATE)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Weigher:
        """The weigher that `save` wrote.

        Raises: FileNotFoundError; ValueError if the file is damaged or something else.
        """
        state = read_state(Path(path))
        state = state.get("weigher") if isinstance(state, dict) else None
        if not isinstance(state, dict) or set(state) != set(cls.__dataclass_fields__):
            raise ValueError(f"{path} holds no weigher; `scimeta arm train` writes one")
        arm, classical = state["arm"], state["classical"]
        arm = Arm(**{**arm, "chain": Chain(**arm["chain"]), "joints": tuple(arm["joints"])})
        classical = ArmModel(**{**classical, "chain": Chain(**classical["chain"])})
        movement = None if state["movement"] is None else Movement(**state["movement"])
        parts = {"movement": movement, "prior": PayloadPrior(**state["prior"]), "meta": Meta(**state["meta"])}
        return cls(**{**state, "arm": arm, "classical": classical, **parts})

    def __str__(self) -> str:
        kind = "any movement" if self.movement is None else f"one test movement of {len(self.movement.q)} samples"
        mass, spread = self.prior.mean[0].item(), self.prior.covariance[0, 0].sqrt().item()
        noise = self.noise
        checked = f"checked on {len(self.misses)} trials kept back" if len(self.misses) else "not checked: few trials"
        return (
            f"weigher of {len(self.arm.joints)} joints to {self.arm.tip}, for {kind}\n"
            f"  prior      {mass:.3g} +- {spread:.2g} kg\n"
            f"  noise      {noise.torque:.3g} Nm, {noise.acceleration:.3g} rad/s^2\n"
            f"  intervals  {checked}"
        )


def check_same(movement: Tensor, q: Tensor) -> None:
    """Raise ValueError unless trials (..., samples, n) follow the fixed movement (samples, n)."""
    if q.shape[-2:] != movement.shape:
        raise ValueError(f"the fixed movement has (samples, n) = {tuple(movement.shape)}; got {tuple(q.shape[-2:])}")
    apart = (q - movement).abs().max().item()
    if apart > _SAME:
        raise ValueError(
            f"a trial is {apart:.3g} rad away from the fixed test movement, more than {_SAME}; repeat that movement, "
            'or learn with movement="any"'
        )


def _score(found: Weighing, mass: Tensor) -> tuple[float, float, float]:
    lower, upper = found.interval(0.9)
    error = found.mass - mass
    held = ((lower <= mass) & (mass <= upper)).double().mean().item()
    return error.square().mean().sqrt().item(), error.abs().median().item(), held
