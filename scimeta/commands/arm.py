"""``scimeta arm``: from nothing to a weighed payload, in three commands; a thin layer as ``scimeta.cli``."""

from __future__ import annotations

import argparse
import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scimeta.commands.outputs import check_outputs, picture, say, write, write_table
from scimeta.files import check_path

if TYPE_CHECKING:
    from scimeta.domains import arm
    from simulators.arm import Chain, Robot
    from simulators.arm import Trials as Simulated

_FOLDER, _WEIGHER, _PICTURE = "arm_trials", "weigher.safetensors", "weighing.png"
_SAMPLES = 20
_FLANGE = {"iiwa": 0.045, "panda": 0.107}  # m, in front of the tip link's frame
_NAMED = 20  # trials in a sentence
_EXAMPLES = """from nothing to a weighed payload:
  scimeta arm simulate                 100 past trials and 10 new ones of a simulated iiwa, in arm_trials
  scimeta arm train                    learns from the past ones; writes weigher.safetensors
  scimeta arm weigh                    weighs the new ones; draws weighing.png
"""
_SIMULATE_EXAMPLES = """examples:
  scimeta arm simulate --movement fixed --scenario S3 --tare -o trials
  scimeta arm simulate --robot panda --trials 200 --mass 0.5 2
  scimeta arm simulate --robot my_arm.urdf --backend bullet --workers 4
"""
_TRAIN_EXAMPLES = """examples:
  scimeta arm train arm_trials -o weigher.safetensors
  scimeta arm train my_robot --movement fixed --samples 50 --steps 600 --plot training.png
  scimeta arm train my_robot --prior 0 5      payloads of up to 5 kg, whatever the test weights were

FOLDER holds robot.yaml, trials.csv and a table a trial; scimeta arm simulate writes an example. Learned are the trials
of the split train whose mass is known; where a centre of mass is blank, the payload's is taken as 0 +- 0.1 m.
"""
_WEIGH_EXAMPLES = """examples:
  scimeta arm weigh weigher.safetensors arm_trials
  scimeta arm weigh weigher.safetensors my_robot --trial monday_1 monday_2 --level 0.95 --csv masses.csv --plot mass.png
"""
TYPE_INSTEAD = {  # what the functions advise -> what it is at the command line
    r"^(warning: )?(read_trials|write_trials|read_urdf|learn_to_weigh|prior_of_\w+|simulate|draw_payloads): ": r"\1",
    r"; see read_trials$": "; scimeta arm simulate writes an example",
    r'learn with movement="any"': "train with --movement any",
    r'backend="rigid"': "--backend rigid",
    r"; pass tip=$": "; set tip in robot.yaml",
    r"state the range with prior_of_range$": "state the range with --prior LOW HIGH",
}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``arm simulate``, ``arm train`` and ``arm weigh`` to the commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser("arm", help="weigh what a robot arm holds", epilog=_EXAMPLES, formatter_class=raw)
    steps = parser.add_subparsers(required=True, metavar="{simulate,train,weigh}")
    simulate = steps.add_parser(
        "simulate", help="write trials of a simulated arm", epilog=_SIMULATE_EXAMPLES, formatter_class=raw
    )
    _add_simulate(simulate)
    train = steps.add_parser(
        "train", help="learn an arm from past payloads", epilog=_TRAIN_EXAMPLES, formatter_class=raw
    )
    _add_train(train)
    weigh = steps.add_parser("weigh", help="weigh new payloads", epilog=_WEIGH_EXAMPLES, formatter_class=raw)
    _add_weigh(weigh)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default=_FOLDER, metavar="FOLDER", help=f"a new folder (default {_FOLDER})")
    parser.add_argument("--robot", default="iiwa", metavar="iiwa|panda|FILE.urdf", help="default iiwa")
    parser.add_argument(
        "--scenario", choices=("nominal", "S1", "S3"), default="S1",
        help="errors of the robot that nobody is told: none, S1 of links and friction (default), S3 of sensors besides",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, default=100, help="past trials (default 100)")
    parser.add_argument("--test", type=int, default=10, help="new trials, of the split test (default 10)")
    parser.add_argument("--movement", choices=("any", "fixed"), default="any", help="one each, or one for all")
    parser.add_argument("--samples", type=int, default=50, help="rows a trial, over 4 s (default 50)")
    parser.add_argument("--mass", type=float, nargs=2, metavar=("LOW", "HIGH"), help="kg (default 0 5, or as rated)")
    parser.add_argument(
        "--gravity", type=float, nargs=3, metavar=("X", "Y", "Z"),
        help="m/s^2, where free fall points in the base's axes; 0 0 9.81: hung from a ceiling (default upright)",
    )  # fmt: skip
    parser.add_argument("--tare", action="store_true", help="record the new trials without a load too")
    parser.add_argument("--backend", choices=("rigid", "bullet"), default="rigid", help="bullet: the extra sim")
    parser.add_argument("--workers", type=int, default=1, help="processes of bullet (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another robot (default 0)")
    parser.set_defaults(run=_simulate)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default=_FOLDER, help=f"of recordings (default {_FOLDER})")
    parser.add_argument("-o", "--output", default=_WEIGHER, metavar="WEIGHER", help=f"default {_WEIGHER}")
    parser.add_argument(
        "--movement", choices=("any", "fixed"), default="any",
        help="fixed: all trials, past and new, make one test movement",
    )  # fmt: skip
    parser.add_argument(
        "--prior", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="kg, payloads weigh anything between (default: as in the trials; of few weights, 0 to twice the heaviest)",
    )  # fmt: skip
    parser.add_argument("--samples", type=int, default=_SAMPLES, help=f"rows taken of each trial (default {_SAMPLES})")
    parser.add_argument("--steps", type=int, default=300, help="outer steps (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the start and the order of trials (default 0)")
    parser.add_argument("--checkpoint", metavar="FILE", help="where to go on from after a kill")
    parser.add_argument("--plot", metavar="PNG", help="draw the training and the trials kept back")
    parser.set_defaults(run=_train)


def _add_weigh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weigher", nargs="?", help=f"from scimeta arm train (default {_WEIGHER})")
    parser.add_argument("folder", nargs="?", default=_FOLDER, help=f"of recordings (default {_FOLDER})")
    parser.add_argument("--trial", nargs="+", metavar="NAME", help="which to weigh")
    parser.add_argument("--split", default="test", help="which to weigh, if none is named (default test)")
    parser.add_argument("--samples", type=int, help=f"rows taken of each trial (default {_SAMPLES}; fixed: as trained)")
    parser.add_argument("--level", type=float, default=0.9, help="probability of the intervals (default 0.9)")
    parser.add_argument(
        "--csv", dest="table", metavar="OUT.csv", help="the estimates, one row a trial; -: standard output"
    )
    parser.add_argument("--plot", metavar="PNG", help=f"draw masses and intervals (alone: {_PICTURE})")
    parser.set_defaults(run=_weigh)


def _simulate(options: argparse.Namespace) -> None:
    import numpy as np

    from scimeta.domains import arm
    from simulators import arm as simulators

    for name, least in (("trials", 1), ("test", 0), ("samples", 2), ("workers", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} is a whole number, {least} or more; got {getattr(options, name)}")
    folder, file = Path(options.output), simulators.urdf(options.robot)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name another folder with -o, or remove it")
    check_path(folder / "robot.yaml" if folder.is_dir() else folder)
    arm.read_urdf(file, gravity=options.gravity)  # says best what is wrong with one
    rng = np.random.default_rng((options.seed, 0))
    nominal = simulators.nominal(file)
    robot = nominal if options.scenario == "nominal" else simulators.scenario(options.scenario, rng, file)
    if options.gravity is not None:
        robot = replace(robot, chain=replace(robot.chain, gravity=np.array(options.gravity)))
    try:
        trials, logs, tares = _run(options, robot, nominal.chain)
    except ImportError as error:
        raise ValueError(
            "--backend bullet needs PyBullet and joblib: pip install 'scimeta[sim]' (PyBullet's wheels end at CPython "
            "3.11), or take --backend rigid"
        ) from error
    except RuntimeError as error:  # workers were killed time and again
        raise OSError(str(error)) from error
    split = ["train"] * options.trials + ["test"] * options.test
    labels = {"mass": trials.mass, "com": trials.com, "split": split, "tares": tares}
    arm.write_trials(folder, file, logs, tip=robot.tip, gravity=options.gravity, **labels)
    print(f"{arm.read_trials(folder)}\n\nwritten to {folder}; next: scimeta arm train {folder}")


def _run(
    options: argparse.Namespace, robot: Robot, nominal: Chain
) -> tuple[Simulated, list[arm.Log], list[arm.Log | None]]:
    """Return what was simulated, its logs, and those of the new trials without a load where asked for."""
    import numpy as np

    from simulators import arm as simulators

    rated = np.inf if nominal.rated_payload is None else nominal.rated_payload
    mass = options.mass or (0.0, min(5.0, rated))
    rng = np.random.default_rng((options.seed, 1))
    count = options.trials + options.test
    payloads = simulators.draw_payloads(count, rng, mass, _FLANGE.get(options.robot, 0.0))
    if options.movement == "fixed":
        movements = simulators.excitation(nominal, rng)
    else:
        movements = [simulators.draw_movement(nominal, rng) for _ in payloads]
    simulate = partial(
        simulators.simulate, robot, samples=options.samples, backend=options.backend, workers=options.workers
    )
    trials = simulate(payloads, movements, seed=options.seed)
    logs, tares = _logs(trials), [None] * count
    for trial in range(options.trials, count if options.tare else 0):
        movement = movements if options.movement == "fixed" else movements[trial]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said already
            # A movement alone is logged at the same instants each time it is made.
            pair = simulate([payloads[trial], None], movement, seed=options.seed + 1 + trial)
        logs[trial], tares[trial] = _logs(pair)
    return trials, logs, tares


def _logs(trials: Simulated) -> list[arm.Log]:
    import torch

    from scimeta.domains import arm

    columns = (torch.from_numpy(getattr(trials, name)) for name in arm.Log._fields)
    return [arm.Log(*rows) for rows in zip(*columns, strict=True)]


def _train(options: argparse.Namespace) -> None:
    import torch

    from scimeta.commands.arm_report import draw_training
    from scimeta.domains import arm

    check_outputs(_recorded(options.folder), learned=options.output, checkpoint=options.checkpoint, plot=options.plot)
    if options.steps < 1:
        raise ValueError(f"--steps is a whole number, 1 or more; got {options.steps}")
    trials = _read(options.folder).of("train")
    log = _resampled(trials.names, trials.logs, options.samples)
    with _one_thread():
        weigher = arm.learn_to_weigh(
            trials.arm,
            log,
            trials.mass,
            trials.com,
            prior=_prior(options.prior, trials),
            movement=options.movement,
            training=arm.Training(steps=options.steps),
            checkpoint=options.checkpoint,
            generator=torch.Generator().manual_seed(options.seed),
        )
    image = picture(partial(draw_training, weigher), options.plot)
    weigher.save(options.output)
    say(
        f"{weigher.report(trials.names)}\n\nwritten to {options.output}; next: "
        f"scimeta arm weigh {options.output} {options.folder} --plot {_PICTURE}"
    )
    write(options.plot, image, "figure")


def _prior(between: list[float] | None, trials: arm.Trials) -> arm.PayloadPrior:
    """Return what payloads can be: as asked for, else as those of the trials."""
    from scimeta.domains import arm

    if between is None:
        return arm.prior_of_labels(trials.mass, trials.com)
    held = trials.mass > 0
    return arm.prior_of_range(*between, trials.com[held] if held.any() else None)


def _weigh(options: argparse.Namespace) -> None:
    from scimeta.commands.arm_report import advise, alike, comparison, masses

    if options.weigher is None:
        options.weigher, options.plot = _WEIGHER, options.plot or _PICTURE
    report = check_outputs([options.weigher, *_recorded(options.folder)], [options.table], options.plot)
    weigher = _load(options.weigher)
    trials = _chosen(_read(options.folder), options)
    _check_arm(weigher.arm, trials.arm, options)
    log = _resampled(trials.names, trials.logs, _samples(weigher, options.samples))
    with _one_thread():
        with _naming(trials.names):
            found = weigher.weigh(log)
        table = found.to_frame(options.level)
        rows = comparison(weigher, trials, log)
        another = not alike(weigher.arm.chain, trials.arm.chain)
    table.insert(0, "trial", trials.names)
    table.insert(1, "true_mass", trials.mass.numpy())
    truth = trials.mass if trials.mass.isfinite().all() else None
    image = picture(partial(found.plot, truth, level=options.level), options.plot)
    say(f"{weigher}\n\n{masses(table, options.level)}\n\n{rows}\n", report)
    write_table(options.table, lambda: table, "estimates", report)
    write(options.plot, image, "figure", report)
    advise(trials, found, options.folder, another)


def _read(folder: str) -> arm.Trials:
    from scimeta.domains import arm

    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of recordings; scimeta arm simulate writes an example")
    return arm.read_trials(folder)


def _recorded(folder: str) -> list[str]:
    """Return the files of a folder that recordings may be made of."""
    return [str(path) for path in Path(folder).glob("*") if path.suffix in (".csv", ".yaml", ".urdf", ".xml")]


def _load(path: str) -> arm.Weigher:
    from scimeta.domains import arm

    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder, not a weigher; the order is scimeta arm weigh WEIGHER FOLDER")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no weigher {path}; scimeta arm train writes one")
    try:
        return arm.Weigher.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole weigher file; scimeta arm train writes one") from error


def _chosen(trials: arm.Trials, options: argparse.Namespace) -> arm.Trials:
    """Return the trials that were named, else those of the split."""
    if not options.trial:
        return trials.of(options.split)
    unknown = [name for name in options.trial if name not in trials.names]
    if unknown:
        raise ValueError(
            f"{options.folder} has no trial {', '.join(unknown)}; it has {', '.join(trials.names[:_NAMED])}"
            + ", ..." * (len(trials) > _NAMED)
        )
    return replace(trials, split=tuple("chosen" if n in options.trial else "" for n in trials.names)).of("chosen")


def _samples(weigher: arm.Weigher, asked: int | None) -> int:
    if weigher.movement is None:
        return _SAMPLES if asked is None else asked
    trained = len(weigher.movement.q)
    if asked not in (None, trained):
        raise ValueError(
            f"the weigher learned {trained} samples of a fixed test movement, --samples asks for {asked}; leave "
            "--samples out, or train again with it"
        )
    return trained


def _resampled(names: Sequence[str], logs: Sequence[arm.Log], samples: int) -> arm.Log:
    from scimeta.domains import arm

    if samples < 1:
        raise ValueError(f"--samples is a whole number, 1 or more; got {samples}")
    short = [f"{name} ({len(log.t)})" for name, log in zip(names, logs, strict=True) if len(log.t) < samples]
    if short:
        raise ValueError(
            f"{len(short)} trials have fewer rows than the {samples} that are taken of each: {', '.join(short[:5])}"
            f"{', ...' * (len(short) > 5)}; pass --samples to train with fewer"
        )
    return arm.resample(logs, samples)


def _check_arm(learned: arm.Arm, own: arm.Arm, options: argparse.Namespace) -> None:
    for what, before, now in (
        ("joints", ", ".join(learned.joints), ", ".join(own.joints)),
        ("the tip", learned.tip, own.tip),
        ("gravity along", *(str([round(x, 1) + 0.0 for x in a.chain.gravity.tolist()]) for a in (learned, own))),
    ):
        if before != now:
            raise ValueError(
                f"{options.weigher} learned another arm than that of {options.folder}: {what} {before}, not {now}; "
                f"train on trials of this one: scimeta arm train {options.folder}"
            )


@contextlib.contextmanager
def _naming(names: Sequence[str]) -> Iterator[None]:
    """Trials that a warning within counts from zero get their names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        text = re.sub(
            r"^trials? \d+(, \d+)*", lambda m: re.sub(r"\d+", lambda d: names[int(d[0])], m[0]), str(warning.message)
        )
        warnings.warn(text, warning.category, stacklevel=3)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Ten unknowns are not worth sharing among cores: it takes several times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
