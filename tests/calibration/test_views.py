"""Views show what was worked out before: printing solves nothing, and how far down a call reaches is counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import scimeta.calibration
from scimeta.calibration.data.curves import Curve
from scimeta.calibration.family.discrepancy import Discrepancy
from scimeta.calibration.family.family import Family
from scimeta.calibration.family.outliers import Outliers
from scimeta.calibration.family.prior import Prior
from scimeta.calibration.family.provenance import Covariates
from scimeta.calibration.fits.calibrator import Calibrator
from scimeta.calibration.fits.least_squares import LeastSquares
from scimeta.calibration.fits.membership import memberships
from scimeta.calibration.fits.solver import solve, solve_jointly
from scimeta.calibration.laws.law import Law
from scimeta.calibration.learning.learn_prior import learn_prior
from scimeta.calibration.posterior.posterior import posterior
from scimeta.core.inner_loop import gauss_newton

ROOT = Path(scimeta.calibration.__file__).parent
X, Y = np.array([0.5, 1.5, 2.5, 3.5]), np.array([1.4, 1.9, 2.2, 2.9])


class Trace:
    """What ``sys.setprofile`` calls: which files of scimeta.calibration are entered, and how many functions deep.

    Comprehensions and generator expressions are no functions of their own.

    Attributes:
        files: file -> calls of its functions.
        deepest: the calls that were open where most were, outermost first.
    """

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.deepest: list[str] = []
        self._open: list[str] = []

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        if event not in ("call", "return") or not path.is_relative_to(ROOT):
            return
        if code.co_name.startswith("<") and code.co_name != "<lambda>":
            return
        if event == "return":
            self._open.pop()
            return
        file = path.relative_to(ROOT).as_posix()
        self.files[file] += 1
        self._open.append(f"{file} {code.co_name}")
        if len(self._open) > len(self.deepest):
            self.deepest = list(self._open)

    def __str__(self) -> str:
        along = len({call.split()[0] for call in self.deepest})
        calls = " > ".join(self.deepest)
        return f"{len(self.files)} files, {len(self.deepest)} levels ({along} files along them: {calls})"


def traced(call: Callable[[], object]) -> tuple[object, Trace]:
    trace = Trace()
    sys.setprofile(trace)
    try:
        result = call()
    finally:
        sys.setprofile(None)
    return result, trace


@pytest.fixture
def nothing_is_solved(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes every solver raise, wherever its name was imported."""

    def refused(*args: object, **options: object) -> None:
        raise AssertionError("a view solves")

    def forbid() -> None:
        solvers = {id(one) for one in (gauss_newton, posterior, solve, solve_jointly, memberships)}
        modules = [module for name, module in sys.modules.items() if name.startswith("scimeta")]
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in solvers:
                    monkeypatch.setattr(module, name, refused)

    return forbid


def everything(line: Law) -> list[Prior]:
    """Return priors with components, outliers, a discrepancy and conditions."""
    means, covariances = [[[1.0, 0.5]], [[3.0, -0.5]]], [[[0.5, -0.2], [-0.2, 0.4]]] * 2
    parts = (torch.tensor(part, dtype=torch.float64) for part in ([0.5, 0.5], means, covariances))
    two = replace(Family(line, *parts, 0.3), outliers=Outliers(0.05, 1.0, 0.2))
    known = np.zeros(3), 0.1 * np.eye(3), 0.01 * np.eye(3), np.diag([0.5, 0.4])
    off = Discrepancy(("x",), (np.array([0.0, 2.0, 4.0]),), *known)
    one = Family.gaussian(line, [[1.0, 0.5]], [[0.5, 0.0], [0.0, 0.4]], 0.3)
    warm = Covariates(("T",), [20.0], [5.0])
    by_hand = Prior.by_hand(line, [[1.0, 0.5], [0.1, 0.0]], [[0.5, 0.0], [0.0, 0.4]], 0.3, warm)
    return [Prior(two), Prior(replace(one, discrepancy=off)), by_hand]


def test_what_is_printed_and_drawn_was_solved_before(line: Law, nothing_is_solved: Callable[[], None]) -> None:
    views: list[object] = []
    for prior in everything(line):
        curves = [Curve("A", X, Y, conditions={"T": 21.0}), Curve("planned", [], [], conditions={"T": 25.0})]
        batch = Calibrator(line, prior).fit_many(curves)
        asked = batch["A"]
        assert asked.family.p > 0.0  # it stands in the report of the fit that was asked for it
        views += [prior, batch, *batch, asked, asked.next_measurement([1.0, 4.5])]
    alone = LeastSquares(line).fit(X, Y)
    views += [alone, alone.batch, LeastSquares(line).fit_many([Curve("A", X, Y), Curve("B", X, 2.0 * Y)])]
    nothing_is_solved()
    with pytest.raises(AssertionError, match="a view solves"):
        Calibrator(line, everything(line)[0]).fit(X, Y)
    with pytest.raises(AssertionError, match="a view solves"):
        LeastSquares(line).fit(X, Y)
    for view in views:
        assert len(str(view)) > 100 and len(view.to_frame()) > 0
        plt.close(view.plot().figure)


def test_how_far_down_learning_and_a_report_reach_is_counted(
    jmak: Law, simulate: Callable[..., tuple], capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not to grow: every file and level more is one more to read for whoever follows the call."""
    curves = simulate(20, seed=0, times=np.linspace(0.1, 3.0, 12))[1]
    prior, learning = traced(lambda: learn_prior(jmak, curves))
    fit = Calibrator(jmak, prior).fit([0.3, 0.6], [0.05, 0.3])
    text, report = traced(lambda: str(fit))
    with capsys.disabled():
        print(f"\nlearn_prior: {learning}\nstr(fit): {report}")
    assert learning.deepest[0] == "learning/learn_prior.py learn_prior"
    assert report.deepest[0] == "fits/calibration.py __str__" and "solve: converged" in text
    assert len(learning.files) <= 30 and len(learning.deepest) <= 14
    assert len(report.files) <= 10 and len(report.deepest) <= 9
