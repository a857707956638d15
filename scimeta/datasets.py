"""The tables that ship with the package; sources, licences and columns are told in full in data/README.md."""

from __future__ import annotations

import csv
from pathlib import Path

from scimeta.calibration.data.curves import Curves
from scimeta.calibration.data.tables import read_curves

_HERE = Path(__file__).resolve().parent
_FOLDERS = (_HERE / "data", _HERE.parent / "data")  # in an installed package, in a checkout


def alloys() -> Curves:
    """Return the transformed fractions of 60 past alloys against time in s, 722 points.

    Simulated by the JMAK law with noise of standard deviation 0.02; :func:`alloys_truth` has the parameters. Licence:
    Apache-2.0.

    >>> alloys()
    Curves(60 specimens, 722 points: fraction against time [s])
    """
    return read_curves(path("jmak_alloys"), by="alloy")


def alloys_truth() -> dict[str, dict[str, float]]:
    """Return the true k, 1/s, and n of each simulated alloy, the new one (A61) included.

    Law X = 1 - exp(-(k t)^n). Licence: Apache-2.0.

    >>> alloys_truth()["A01"]
    {'k': 0.0112884, 'n': 1.60184}
    """
    with path("jmak_alloys_truth").open(encoding="utf-8", newline="") as file:
        return {row["alloy"]: {"k": float(row["k [1/s]"]), "n": float(row["n"])} for row in csv.DictReader(file)}


def new_alloy() -> Curves:
    """Return the first four points of one further alloy, A61: fraction against time in s.

    Simulated from the same family as :func:`alloys`. Licence: Apache-2.0.

    >>> new_alloy()["A61"].x
    array([10., 20., 30., 40.])
    """
    return read_curves(path("jmak_new_alloy"), by="alloy")


def new_alloy_rest() -> Curves:
    """Return the 16 points of alloy A61 that follow those of :func:`new_alloy`, to judge a prediction by.

    Simulated. Licence: Apache-2.0.
    """
    return read_curves(path("jmak_new_alloy_rest"), by="alloy")


def hydride_absorption(batches: str = "DEFGH") -> Curves:
    """Return 63 measured runs of hydrogen uptake by an AB2 hydride-forming alloy: fraction against time in s.

    819 points at constant temperature, of five batches of the alloy. Conditions: "temperature [degC]" and
    "pressure [bar]". The unit of time is inferred, the source names none; data/README.md says from what. Licence:
    CC BY 4.0, A. Neves, J. Warfsmann, W. Grossmann, github.com/ANeves010/Hydride_Kinetic_Model_Identification, thinned.

    Args:
        batches: the letters of the batches to return.

    Reference: Martins Neves et al., Energy and AI 22, 100659 (2025).

    >>> hydride_absorption("DG").names[:2]
    ('D-abs-05', 'D-abs-10')
    """
    return _hydride("hydride_absorption", batches)


def hydride_desorption(batches: str = "DEF") -> Curves:
    """Return 47 measured runs of hydrogen release by the alloy of :func:`hydride_absorption`, 710 points.

    Args:
        batches: the letters of the batches to return.

    >>> hydride_desorption()["D-des-01a"].conditions
    {'temperature [degC]': 30.0, 'pressure [bar]': 1.39}
    """
    return _hydride("hydride_desorption", batches)


def hydride_rates() -> dict[str, dict[str, float]]:
    """Return what the authors published of each hydride run, from all of its readings: k and its sd in 1/s.

    Law X = 1 - exp(-(k t)^n) with n = 0.8. Licence and source as of :func:`hydride_absorption`.

    >>> hydride_rates()["H-abs-03a"]
    {'k': 0.08794, 'sd': 0.000220089, 'readings': 224}
    """
    with path("hydride_rates").open(encoding="utf-8", newline="") as file:
        return {
            row["run"]: {
                "k": float(row["k for n = 0.8 [1/s]"]),
                "sd": float(row["standard deviation [1/s]"]),
                "readings": int(row["rows in source"]),
            }
            for row in csv.DictReader(file)
        }


def _hydride(table: str, batches: str) -> Curves:
    """Return the runs of some batches, of which each run's name begins with the letter."""
    curves = read_curves(path(table), by="run", conditions=["temperature [degC]", "pressure [bar]"])
    known = sorted({curve.name[0] for curve in curves})
    if not batches or set(batches) - set(known):
        raise ValueError(f"batches are some of {', '.join(known)}; got {batches!r}")
    return Curves([curve for curve in curves if curve.name[0] in batches], curves.x, curves.y)


def bainite() -> Curves:
    """Return two measured curves of bainite fraction against time in s, 100 points each.

    Dilatometry at 400 degC of one steel with austenite grains of 10 and 15 um. Conditions: "grain [um]" and
    "temperature [degC]". The transformation stays incomplete, and small negative fractions are instrument noise.
    Licence: MIT, (c) 2023 DanielDosSantosAvila, github.com/DanielDosSantosAvila/bainite-model, thinned.

    Reference: dos Santos Avila, Offerman, Santofimia, Acta Mater. 266, 119656 (2024).

    >>> bainite().names
    ('grain 10 um', 'grain 15 um')
    """
    return read_curves(path("bainite_dilatometry"), conditions=["grain [um]", "temperature [degC]"])


def theophylline() -> Curves:
    """Return the concentrations of theophylline in the blood of 12 subjects, mg/L against h since an oral dose.

    Eleven points each, the first at time 0. Conditions: "dose [mg/kg]" and "weight [kg]". Measured values, published;
    data/README.md has the source.

    Reference: Boeckmann, Sheiner, Beal, NONMEM Users Guide: Part V, University of California, San Francisco (1994).

    >>> theophylline()
    Curves(12 specimens, 132 points: concentration [mg/L] against time [h]; conditions dose [mg/kg], weight [kg])
    """
    table, conditions = path("theophylline"), ["dose [mg/kg]", "weight [kg]"]
    return read_curves(table, x="time", y="concentration", by="subject", conditions=conditions)


def sentences() -> dict[str, list]:
    """Return 3000 review sentences by column: source ("amazon", "imdb", "yelp"), text, label (1 positive, 0 negative).

    500 of either label from each source; three natural environments for one question. Licence: CC BY 4.0, D. Kotzias.

    Reference: Kotzias, Denil, de Freitas, Smyth, From group to individual labels using deep features, KDD 2015.

    >>> sentences()["text"][1], sentences()["label"][1]
    ('Good case, Excellent value.', 1)
    """
    with path("sentences").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [row[name] for row in rows] for name in ("source", "text")}
    return {**columns, "label": [int(row["label"]) for row in rows]}


def path(name: str) -> Path:
    """Return where a table lies that ships with the package, for programs that read it themselves.

    Args:
        name: its name, with or without ".csv".

    Raises:
        ValueError: there is no such table; lists those that there are.

    >>> path("jmak_alloys").name
    'jmak_alloys.csv'
    """
    folder = next((folder for folder in _FOLDERS if (folder / "jmak_alloys.csv").is_file()), None)
    if folder is None:
        raise FileNotFoundError("the tables that ship with scimeta are missing; install the package again")
    tables = sorted(table.stem for table in folder.glob("*.csv"))
    if name.removesuffix(".csv") not in tables:
        raise ValueError(f"Unknown table {name!r}; there are {', '.join(tables)}")
    return folder / f"{name.removesuffix('.csv')}.csv"
