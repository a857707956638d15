"""What ``scimeta fit`` alone shows: a hydrogen uptake run from its first four readings, beside all that followed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from scimeta.calibration.data.curves import Curve
    from scimeta.calibration.fits.calibration import Calibration, Calibrations

_READINGS = 4  # up to 5 s


class Example(NamedTuple):
    """The example that ships.

    Attributes:
        fits: of the one run, with what batches D to G say.
        text: what to print.
        draw: draws it, with the later readings and least squares.
    """

    fits: Calibrations
    text: str
    draw: Callable[[], Axes]


def example(level: float) -> Example:
    """Return the fit of the first run of batch H from its readings up to 5 s.

    Args:
        level: probability of the intervals.
    """
    from scimeta import datasets
    from scimeta.calibration.fits.calibrator import Calibrator
    from scimeta.calibration.fits.least_squares import LeastSquares
    from scimeta.calibration.learning.learn_prior import learn_prior
    from scimeta.domains.kinetics import JMAK

    past, run = datasets.hydride_absorption("DEFG"), datasets.hydride_absorption("H")[0]
    seen = run.head(_READINGS)
    prior = learn_prior(JMAK, past, groups=[one.name[0] for one in past])  # a run's name begins with its batch
    found = Calibrator(JMAK, prior, level).fit_many([seen])
    alone = LeastSquares(JMAK, level).fit_many([seen])[0]
    text = (
        f"hydrogen uptake of an AB2 alloy (measured; CC BY 4.0, data/README.md): {len(past)} past runs of batches D to "
        f"G;\nthe first run of batch H, {run.name}, from its {_READINGS} readings up to {seen.x[-1]:.1f} s\n\n"
        f"{found[0]}\n{_compared(found[0], alone, run)}"
    )
    return Example(found, text, partial(_draw, found[0], alone, run))


def _compared(fit: Calibration, alone: Calibration, run: Curve) -> str:
    """Return what the authors found from all readings, and how well both fits predict those that were not seen."""
    from scimeta import datasets

    published, x, y = datasets.hydride_rates()[run.name], run.x[_READINGS:], run.y[_READINGS:]
    rmse, other = (float(((one.predict(x) - y) ** 2).mean() ** 0.5) for one in (fit, alone))
    band = fit.band(x, noise=True)
    inside = int(((band.lower <= y) & (y <= band.upper)).sum())
    return (
        f"\nthe authors' k, from all {published['readings']} readings with n = 0.8: {published['k']:.4g} 1/s (the unit "
        f"of time is inferred)\nthe {len(x)} later readings, to {x[-1]:.0f} s: RMSE {rmse:.3f}, {inside} inside the "
        f"{fit.batch.level:.0%} band; least squares of the same {_READINGS} readings: RMSE {other:.3f}"
    )


def _draw(fit: Calibration, alone: Calibration, run: Curve) -> Axes:
    """Draw the fit with its band, the later readings and least squares."""
    import numpy as np

    ax = fit.plot()
    ax.set_xlim(-1.0, 1.02 * run.x[-1])
    x = np.linspace(0.0, run.x[-1], 300)
    band = fit.band(x)
    of_law = [line for line in ax.lines if fit.law.name in str(line.get_label())]
    for old in [*ax.collections, *of_law]:
        old.remove()
    ax.fill_between(x, band.lower, band.upper, color="C0", alpha=0.2, lw=0, label=f"{band.level:.0%} band")
    ax.plot(x, fit.predict(x), color="C0", label="with the past of batches D to G")
    values = {name: estimate.value for name, estimate in fit.estimates.items()}
    ax.plot(x, fit.law(x, **values), color="C0", ls=":", lw=1.2, label=f"{fit.law.name} with this k and n")
    ax.plot(x, alone.predict(x), color="C1", ls="--", label="least squares, four readings")
    ax.plot(run.x[_READINGS:], run.y[_READINGS:], "o", mfc="none", color="k", ms=5, label="measured later")
    ax.legend(frameon=False, loc="lower right")
    return ax
