"""Whether the arm that is weighing is the one that learned to: how far its torques are from those expected."""

from __future__ import annotations

import torch
from torch import Tensor

from scimeta.core.tasks import over_tasks
from scimeta.domains.arm.features import Features, features
from scimeta.domains.arm.learned import posterior
from scimeta.domains.arm.log import Log, check_log
from scimeta.domains.arm.weigher import Weigher
from scimeta.domains.arm.weighing import Weighing

STRANGE = 1.4
"""Misfit (median over trials) above which an arm is hardly the one that was learned."""


def misfit(weigher: Weigher, log: Log, found: Weighing) -> Tensor:
    """(trials,) root mean square of the torques that neither arm nor payload explain, in learned standard deviations.

    About one on the arm that was learned. Another unit, even of the same make, has 2 or more, as its links and gears
    are others: weigh it against a tare, or learn it too.

    Args:
        weigher: of an arm.
        log: (trials, samples, ...) of this or of another unit.
        found: what the weigher made of it.
    """
    log, params = check_log(weigher.arm, log), weigher.meta.init
    factor = torch.linalg.cholesky(weigher.prior.covariance)
    held = torch.linalg.solve_triangular(factor, (found.parameters - weigher.prior.mean).mT, upper=False).mT
    data = features(weigher.arm.chain, log, weigher.prior.mean, factor, weigher.directions, weigher.movement)

    def left(trial: Features, payload: Tensor) -> Tensor:
        seen = posterior(params, weigher.scale, trial)
        return (seen.residuals - seen.jacobian @ payload).square().mean().sqrt()

    return over_tasks(left)(data, held)
