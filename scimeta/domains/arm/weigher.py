"""An arm that has learned to weigh: one gradient step from a log to mass and centre of mass, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
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
from scimeta.domains.arm.learned import in_prior, posterior, rigid_torque, weighing_learner
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.model import ArmModel, Noise, nominal
from scimeta.domains.arm.residuals import (
    Residual,
    ResidualTest,
    against_itself,
    against_noise,
    by_both,
    degrees_of_freedom,
    unsaid,
    warn_above_noise,
)
from scimeta.domains.arm.urdf import Arm
from scimeta.domains.arm.weighing import PayloadPrior, Weighing
from scimeta.files import STATE

_FAR = 3  # standard deviations by which a trial kept back is missed that is named
_NAMED = 5  # trials in a sentence
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
        kept: (trials, 4) of the trials kept back: number among those of the training, true mass, mass found and its
            standard deviation, kg.
        residuals: (trials,) sorted, of the torques that trials kept back left over, in units of the noise learned: what
            is usual for this arm.
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
    kept: Tensor | None = None
    residuals: Tensor | None = None

    def weigh(self, log: Log, test: ResidualTest = ResidualTest()) -> Weighing:  # noqa: B008
        """Mass and centre of mass of the payloads of one trial or many, by one gradient step each.

        Args:
            log: of the trials.
            test: when a trial's residual is far above its noise.
        Raises: ValueError for a log that `check_log` refuses, or that is not of the fixed test movement.
        Warns: UserWarning where a trial hardly moved, with its condition number: its mass cannot be seen; where the
            residual is far above noise, the intervals of that trial being withheld.
        """
        log = check_log(self.arm, log)
        if self.movement is not None:
            check_same(self.movement.q, log.q)
        single = log.q.ndim == 2
        found = self._step(Log(*(values[None] for values in log)) if single else log, test)
        residual = found.residual
        assert residual is not None  # the step tells it
        if single:
            residual = Residual(*(values[0] for values in residual))
            found = Weighing(*(values[0] for values in found[:3]), residual=residual)
        warn_unobservable(log, found.condition, 10)
        warn_above_noise(residual)
        return found._replace(misses=self.misses)

    def compare(self, log: Log, true_mass: Tensor | None = None) -> pd.DataFrame:
        """The classical rows beside ours, with the bound that no unbiased estimate beats.

        Args:
            log: (trials, samples, ...) of one trial or many.
            true_mass: (trials,) kg, where it is known.
        Returns: a row for each method. With the true masses: their root mean square and median error, the share of
            90 % intervals that hold them, and the share of trials whose interval is withheld because the torques left
            over are no noise. Without: the mean mass and its mean standard deviation. All masses in kg.
        """
        log = check_log(self.arm, log)
        log = Log(*(values[None] for values in log)) if log.q.ndim == 2 else log
        with unsaid():
            rows = {
                "one gradient step, meta-learned": self.weigh(log),
                "MAP, calibrated on the same trials": weigh_map(self.classical, log, self.prior, self.noise),
                "least squares, 10 unknowns, as built": weigh_least_squares(nominal(self.arm), log, 10),
                "least squares, mass alone, as built": weigh_least_squares(nominal(self.arm), log, 1),
            }
        bound = cramer_rao(self.classical, log, self.noise).square().mean().sqrt().item()
        if true_mass is None:
            table = {name: (found.mass.mean().item(), found.mass_sd.nanmean().item()) for name, found in rows.items()}
            table["Cramer-Rao bound, 10 unknowns"] = (float("nan"), bound)
            return pd.DataFrame.from_dict(table, orient="index", columns=["mass [kg]", "sd [kg]"])
        table = {name: score(found, torch.as_tensor(true_mass, dtype=torch.float64)) for name, found in rows.items()}
        table["Cramer-Rao bound, 10 unknowns"] = (bound, float("nan"), float("nan"), float("nan"))
        columns = ["RMSE [kg]", "median [kg]", "coverage", "withheld"]
        return pd.DataFrame.from_dict(table, orient="index", columns=columns)

    @property
    def noise(self) -> Noise:
        """Of the logs, as learned."""
        torque = self.meta.init["torque noise"].exp().median().item()
        return Noise(torque, self.meta.init["acceleration noise"].exp().item())

    def _step(self, log: Log, test: ResidualTest) -> Weighing:
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
        z = torch.linalg.solve_triangular(factor, (payload - self.prior.mean).mT, upper=False).mT

        def left_over(trial: Features, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = posterior(meta.init, self.scale, trial)
            rigid, _ = rigid_torque(meta.init, self.scale, trial.speed, trial.torque)
            left = rigid - trial.expected - self.scale * meta.init["offset"] - trial.payload @ z
            return found.factor, (found.residuals - found.jacobian @ z).square().sum(), left

        curvature, squares, left = over_tasks(left_over)(data, z)
        eye = torch.eye(10, dtype=z.dtype)
        freedom = degrees_of_freedom(log.tau, curvature @ curvature.mT - eye)
        usual = 1.0 if self.residuals is None else self.residuals.nanmedian().item()
        root = torch.linalg.solve_triangular(curvature, factor.mT.expand_as(curvature), upper=False)
        regressor = torch.linalg.solve_triangular(factor, data.payload, upper=False, left=False)
        fit = against_noise(squares, freedom, test, usual)
        own = against_itself(left, data.payload.flatten(-3, -2), log.qd, log.qdd, test)
        fit = by_both(fit, own, test)
        return Weighing(payload, root.mT @ root, condition_number(regressor), None, fit)

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
        fields = {name: field.default for name, field in cls.__dataclass_fields__.items()}
        needed = {name for name, default in fields.items() if default is MISSING}
        if not isinstance(state, dict) or not needed <= set(state) <= set(fields):
            raise ValueError(f"{path} holds no weigher; `scimeta arm train` writes one")
        arm, classical = state["arm"], state["classical"]
        arm = Arm(**{**arm, "chain": Chain(**arm["chain"]), "joints": tuple(arm["joints"])})
        classical = ArmModel(**{**classical, "chain": Chain(**classical["chain"])})
        movement = None if state["movement"] is None else Movement(**state["movement"])
        parts = {"movement": movement, "prior": PayloadPrior(**state["prior"]), "meta": Meta(**state["meta"])}
        return cls(**{**state, "arm": arm, "classical": classical, **parts})

    def __str__(self) -> str:
        return self.report()

    def report(self, names: Sequence[str] | None = None) -> str:
        """What was learned and how it did on the trials kept back, in words; names of the training's trials."""
        kind = "any movement" if self.movement is None else f"one test movement of {len(self.movement.q)} samples"
        mass, spread = self.prior.mean[0].item(), self.prior.covariance[0, 0].sqrt().item()
        noise = self.noise
        checked = f"checked on {len(self.misses)} trials kept back" if len(self.misses) else "not checked: few trials"
        return (
            f"weigher of {len(self.arm.joints)} joints to {self.arm.tip}, for {kind}\n"
            f"  prior      {mass:.3g} +- {spread:.2g} kg\n"
            f"  noise      {noise.torque:.3g} Nm, {noise.acceleration:.3g} rad/s^2\n"
            f"  intervals  {checked}{self._missed(names)}"
        )

    def _missed(self, names: Sequence[str] | None) -> str:
        """The trials kept back whose masses were missed by more than three standard deviations."""
        if self.kept is None:
            return ""
        off = (self.kept[:, 2] - self.kept[:, 1]).abs() > _FAR * self.kept[:, 3]
        if not off.any():
            return ""
        lines = []
        for row, true, found, sd in self.kept[off].tolist():
            name = f"trial {int(row)}" if names is None else names[int(row)]
            lines.append(f"{name} ({true:.3g} kg, weighed {found:.3g} +- {sd:.2g})")
        shown = ", ".join(lines[:_NAMED]) + ", ..." * (len(lines) > _NAMED)
        return (
            f"\n  missed     by more than three standard deviations: {len(lines)} of {len(off)} trials kept back\n"
            f"             {shown}\n"
            "             intervals are widened for it; look for wrong labels and masses that the prior leaves out"
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


def score(found: Weighing, mass: Tensor) -> tuple[float, float, float, float]:
    """Root mean square and median error, kg; share of the 90 % intervals given that hold the mass; share withheld."""
    lower, upper = found.interval(0.9)
    error = found.mass - mass
    held = ((lower <= mass) & (mass <= upper))[~found.withheld].double().mean().item()
    withheld = found.withheld.double().mean().item()
    return error.square().mean().sqrt().item(), error.abs().median().item(), held, withheld
