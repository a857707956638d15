"""The import table of the architecture, read from every file."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("scimeta/**/*.py"), *ROOT.glob("simulators/**/*.py")])

# What the files of a package may import beside the standard library and their own package.
TABLE = {
    "scimeta.core": {"torch", "lazy_loader"},
    # The outer loop's edges: its history is a table, its checkpoint a file, its progress a bar.
    "scimeta.core.train": {"scimeta.core", "torch", "pandas", "tqdm"},
    "scimeta.core.trained": {"scimeta.core", "torch", "pandas"},
    "scimeta.core.checkpoint": {"scimeta.core", "scimeta.files", "torch", "safetensors"},
    "scimeta.models": {"torch", "lazy_loader"},
    # An embedding is swapped wherever a loss is batched, a module's or a function's.
    "scimeta.models.functional": {"scimeta.models", "scimeta.core.embedding", "torch"},
    "scimeta.calibration": {
        "scimeta.core",
        "scimeta.files",
        "scimeta.plots",
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "pint",
        "tqdm",
        "lazy_loader",
    },
    # Reports are tables.
    "scimeta.ensembles": {"torch", "numpy", "scipy", "sklearn", "joblib", "pandas"},
    # A calibrated law as a scikit-learn estimator.
    "scimeta.calibration.regressor": {"scimeta.calibration", "numpy", "torch", "sklearn", "pandas"},
    # Draws of fits for those who have ArviZ.
    "scimeta.calibration.fits.arviz": {"scimeta.calibration", "torch", "numpy", "arviz", "arviz_base"},
    "scimeta.diagnostics": {"scimeta.core", "torch", "pandas"},
    "scimeta.domains": {"scimeta.calibration", "scimeta.models", "scimeta.core", "torch", "numpy", "scipy", "pandas"},
    # robot.yaml beside a user's recordings.
    "scimeta.domains.arm": {"scimeta.core", "scimeta.files", "torch", "numpy", "scipy", "pandas", "yaml"},
    # Successor features are learned for minutes: a bar, and a checkpoint's table of what was reached.
    "scimeta.domains.gridworld": {
        "scimeta.calibration",
        "scimeta.models",
        "scimeta.core",
        "scimeta.files",
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "tqdm",
    },
    # A trained rule as a torch optimiser, and its file.
    "scimeta.optim": {"scimeta.core", "scimeta.files", "torch", "safetensors"},
    "scimeta.analytic": {"torch"},
    "scimeta.files": set(),
    "scimeta.plots": set(),
    "scimeta.laws": {"scimeta.calibration"},
    "scimeta.datasets": {"scimeta.calibration"},
    "scimeta": {"scimeta", "lazy_loader"},
    "scimeta.cli": {"scimeta", "numpy", "pandas", "simulators"},
    # What a command prints is a table, what it reads a user's file; it brings simulators and domains together.
    "scimeta.commands": {"scimeta", "torch", "numpy", "pandas", "yaml", "simulators"},
    "scimeta.commands.outputs": {"scimeta.files", "pandas"},
    "simulators": {"numpy", "scipy", "pandas", "pybullet", "pybullet_data", "gymnasium", "joblib", "tqdm"},
}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package(module: str) -> str:
    """Return the longest row of the table that the module belongs to."""
    rows = [row for row in TABLE if module == row or (row != "scimeta" and below(module, row))]
    assert rows, f"{module} has no row in the table of the architecture"
    return max(rows, key=len)


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[tuple[str, bool]]:
    """Return (module, only for type checkers) of every import in a file."""
    nodes = list(ast.walk(syntax(path)))
    hints = {
        id(node)
        for block in nodes
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {(alias.name, id(node) in hints) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in names if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}
            found |= {(name, id(node) in hints) for name in (known or {node.module})}
    return frozenset(found)


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def allowed(path: Path, name: str, only_hint: bool) -> bool:
    """Return whether the table lets the file import the module."""
    own, top = package(dotted(path)), name.split(".")[0]
    if top in sys.stdlib_module_names or (own != "scimeta" and below(name, own)):
        return True
    if top == "matplotlib":
        return only_hint or name == "matplotlib.pyplot" or own == "scimeta.commands.outputs"
    return any(below(name, entry) for entry in TABLE[own])


def test_every_file_imports_only_what_its_layer_may() -> None:
    assert len(FILES) > 100
    wrong = [
        f"{dotted(path)} imports {name}"
        for path in FILES
        for name, only_hint in imports(path)
        if not allowed(path, name, only_hint)
    ]
    assert not wrong, "\n".join(wrong)


def test_matplotlib_is_imported_only_inside_functions() -> None:
    for path in FILES:
        for node in syntax(path).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(below(name, "matplotlib") for name in names), dotted(path)


def test_domains_do_not_know_each_other() -> None:
    for path in (path for path in FILES if dotted(path).startswith("scimeta.domains.")):
        others = {name.split(".")[2] for name, _ in imports(path) if name.startswith("scimeta.domains.")}
        assert others <= {dotted(path).split(".")[2]}, dotted(path)


def test_vmap_is_called_in_one_place() -> None:
    callers = [dotted(path) for path in FILES if "vmap(" in path.read_text(encoding="utf-8")]
    assert callers == ["scimeta.core.tasks"]


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        names = {name.split(".")[0] for name, _ in imports(path)}
        assert not names & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text and "joblib.load(" not in text  # joblib's workers are another matter


def test_every_public_name_exists_and_has_a_docstring() -> None:
    import scimeta

    assert len(scimeta.__all__) == len(set(scimeta.__all__))
    for name in scimeta.__all__:
        assert getattr(scimeta, name).__doc__, name


def imported_files() -> dict[str, set[str]]:
    """Return module -> modules of scimeta that its file imports, for type checkers too; a package's own file is none.

    A package stands for its ``__init__`` alone: a name taken from it counts as that file.
    """
    modules = {dotted(path): path for path in FILES if dotted(path).startswith("scimeta")}
    return {name: {other for other, _ in imports(path) if other in modules} for name, path in modules.items()}


def test_no_file_imports_itself_through_others() -> None:
    graph, done = imported_files(), set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_rooms_of_calibration_import_only_rooms_to_their_left() -> None:
    rooms = ["data", "laws", "family", "posterior", "learning", "fits"]
    order = {
        "intervals": 0,
        "nodes": 0,
        **{room: i + 1 for i, room in enumerate(rooms)},
        "comparison": 8,
        "regressor": 8,
    }
    for name, others in imported_files().items():
        if not name.startswith("scimeta.calibration."):
            continue
        own = name.split(".")[2]
        for other in others:
            if other.startswith("scimeta.calibration."):
                there = other.split(".")[2]
                assert there == own or order[there] < order[own], f"{name} imports {other}"
