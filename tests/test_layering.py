"""Imports point one way. The sources are parsed, not run; an import counts wherever it stands in a file."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest layer first. A module may import modules of its own layer and of those below it. A name stands for the module
# ffrl.NAME and everything in it; "__init__" is ffrl itself: any module may ask it for the version, it asks for none.
LAYERS = (
    ("__init__",),
    ("errors",),
    (
        *("catalogue", "factor", "checks", "baseline_config", "config", "saved_config", "presets", "vp_config"),
        *("experiments", "records", "kernels", "distributed", "densities", "bars"),
    ),
    ("ops",),
    ("models", "data"),
    ("losses", "metrics", "supervision"),
    ("matching", "traversal_search"),
    (
        "command_line",
        "checkpoint",
        "checkpoint_writer",
        "devices",
        "ledger",
        "objective",
        "run_folder",
        "signals",
        "split_file",
        "training_step",
        "progress",
        "trainer",
        "trained_run",
        "train",
        "evaluation",
        "evaluate",
    ),
    ("figures", "traversals", "traverse", "generalisation", "generalisation_errors", "vp", "vp_score"),
    ("cells", "comparison", "tables"),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}

# Names that import nothing from outside the standard library but what is written here.
ALLOWED_DISTRIBUTIONS = {
    "__init__": set(),
    "errors": set(),
    "catalogue": set(),
    "checks": set(),
    "baseline_config": set(),
    "config": set(),
    "factor": set(),
    "saved_config": set(),
    "distributed": {"torch"},
    "densities": {"torch"},
    "presets": set(),
    "vp_config": set(),
    "experiments": set(),
    "records": {"torch"},
    "kernels": {"torch", "triton"},
    "bars": {"rich"},
}

# Folders of this repository that the library must not know. "kernels" is installed as ffrl.kernels.
FORBIDDEN_ROOTS = {"tests", "bench", "csrc", "kernels"}


class Edge(NamedTuple):
    """An import statement: ``importer`` names ``imported`` on ``line``."""

    importer: str
    imported: str
    line: int
    typing_only: bool
    """Inside ``if TYPE_CHECKING:``. Such an import counts for the layers, because a type that a signature names is a
    dependency all the same; it does not count as a part of an import cycle, because it is never executed."""


def module_name(path: str) -> str:
    """``ffrl/ops/__init__.py`` -> ``ffrl.ops``."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def typing_only_nodes(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            found.update(inner for statement in node.body for inner in ast.walk(statement))
    return found


def imported_names(node: ast.AST, package: str, modules: set[str]) -> Iterator[str]:
    """Full names of the modules that an import statement or import_module("...") names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".") if node.level else []
        parts = parts[: len(parts) - max(node.level - 1, 0)]
        base = ".".join([*parts, *([node.module] if node.module else [])])
        for alias in node.names:  # from ffrl.models import potential: the module, not its package
            submodule = f"{base}.{alias.name}"
            yield submodule if submodule in modules else base
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "import_module",
        "importlib.import_module",
        "__import__",
    ):
        name = node.args[0] if node.args else None
        if isinstance(name, ast.Constant) and isinstance(name.value, str) and not name.value.startswith("."):
            yield name.value


def import_edges(sources: Mapping[str, str]) -> list[Edge]:
    """Every import in ``sources`` (path -> text)."""
    modules = {module_name(path) for path in sources}
    edges = []
    for path, source in sources.items():
        importer = module_name(path)
        package = importer if path.endswith("__init__.py") else importer.rpartition(".")[0]
        tree = ast.parse(source, path)
        typing_only = typing_only_nodes(tree)
        for node in ast.walk(tree):
            for imported in sorted(set(imported_names(node, package, modules))):
                edges.append(Edge(importer, imported, getattr(node, "lineno", 0), node in typing_only))
    return edges


def part_of(module: str) -> str:
    """``ffrl.ops.oracle`` -> ``ops``, ``ffrl`` -> ``__init__``."""
    return [*module.split("."), "__init__"][1]


def find_problems(sources: Mapping[str, str]) -> list[str]:
    """One sentence for every violation, none where the sources are in order."""
    problems = []
    modules = {module_name(path) for path in sources}
    for module in sorted(modules):
        if part_of(module) not in LAYER_OF:
            problems.append(f"{module} is in no layer; give it a layer in LAYERS")
    graph: dict[str, set[str]] = {}
    for edge in import_edges(sources):
        where = f"{edge.importer}, line {edge.line}: imports {edge.imported}"
        importer, root = part_of(edge.importer), edge.imported.split(".")[0]
        if root in FORBIDDEN_ROOTS:
            problems.append(f"{where}, which is not part of the library")
        elif root != "ffrl":
            allowed = ALLOWED_DISTRIBUTIONS.get(importer)
            if allowed is not None and root not in sys.stdlib_module_names and root not in allowed:
                problems.append(f"{where}; {importer} may import only {sorted(allowed) or 'the standard library'}")
        elif edge.imported not in modules:
            problems.append(f"{where}, which does not exist")
        elif part_of(edge.imported) not in LAYER_OF or importer not in LAYER_OF:
            continue  # reported above
        elif LAYER_OF[part_of(edge.imported)] > LAYER_OF[importer]:
            problems.append(f"{where}, an upward edge")
        elif not edge.typing_only:
            graph.setdefault(edge.importer, set()).add(edge.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        problems.append("import cycle: " + " <- ".join(error.args[1]))
    return problems


def library_sources() -> dict[str, str]:
    paths = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "ffrl").rglob("*.py"))}
    kernels = sorted((ROOT / "kernels").rglob("*.py"))
    paths |= {f"ffrl/{path.relative_to(ROOT).as_posix()}": path for path in kernels}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


def test_imports_of_the_library_point_one_way():
    sources = library_sources()
    assert len(import_edges(sources)) > 20  # a parser that finds nothing finds no fault either
    problems = find_problems(sources)
    assert not problems, "\n".join(problems)


def test_layers_name_every_part_of_the_library_once_and_nothing_else():
    names = [name for layer in LAYERS for name in layer]
    assert sorted(names) == sorted({part_of(module_name(path)) for path in library_sources()})
    assert ALLOWED_DISTRIBUTIONS.keys() <= set(names)


def test_tests_do_not_import_tests():
    paths = sorted((ROOT / "tests").rglob("*.py"))
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    found = [edge for edge in import_edges(sources) if edge.imported.split(".")[-1].startswith("test_")]
    assert not found, "move what is shared to a module that is not a test"


IN_ORDER = {
    "ffrl/__init__.py": "__version__ = '1'",
    "ffrl/errors.py": "",
    "ffrl/config.py": "import json\nfrom .errors import ArgumentError",
    "ffrl/records.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor",
    "ffrl/ops/__init__.py": "from ffrl.ops.oracle import x",
    "ffrl/ops/oracle.py": "import torch\nfrom ..records import y\nfrom ffrl import errors\nimport triton",
    "ffrl/models/__init__.py": "from . import flow",
    "ffrl/models/flow.py": "from ..ops import oracle\nfrom ffrl.config import C",
    "ffrl/metrics.py": "import numpy",
    "ffrl/data/__init__.py": "",
    "ffrl/trainer.py": "from . import __version__\nimport ffrl",
    "ffrl/traverse.py": "from ffrl.models import flow\nimport matplotlib.pyplot",
}


def test_checker_accepts_sources_in_order():
    assert find_problems(IN_ORDER) == []


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("ffrl/ops/a.py", "import ffrl.models.flow", "line 1: imports ffrl.models.flow, an upward edge"),
        ("ffrl/ops/a.py", "\nfrom ffrl.models import Flow", "line 2: imports ffrl.models, an upward edge"),
        ("ffrl/ops/a.py", "from ffrl import models", "imports ffrl.models, an upward edge"),
        ("ffrl/__init__.py", "from .errors import FfrlError", "imports ffrl.errors, an upward edge"),
        ("ffrl/__init__.py", "import torch", "may import only the standard library"),
        ("ffrl/ops/a.py", "from ..models.flow import x", "imports ffrl.models.flow, an upward edge"),
        ("ffrl/ops/a.py", "from .. import traverse", "imports ffrl.traverse, an upward edge"),
        ("ffrl/models/deep/__init__.py", "from ...metrics import x", "imports ffrl.metrics, an upward edge"),
        ("ffrl/losses.py", "def f():\n    import ffrl.traverse", "line 2: imports ffrl.traverse, an upward edge"),
        ("ffrl/data/a.py", "try:\n    from ffrl.metrics import x\nexcept ImportError:\n    pass", "an upward edge"),
        ("ffrl/data/a.py", "if TYPE_CHECKING:\n    from ffrl.metrics import x", "an upward edge"),
        ("ffrl/data/a.py", "import importlib\nimportlib.import_module('ffrl.metrics')", "an upward edge"),
        ("ffrl/errors.py", "from ffrl import config", "an upward edge"),
        ("ffrl/config.py", "import torch.nn", "config may import only the standard library"),
        ("ffrl/errors.py", "import numpy as np", "errors may import only the standard library"),
        ("ffrl/records.py", "import numpy", "records may import only ['torch']"),
        ("ffrl/helpers.py", "", "ffrl.helpers is in no layer; give it a layer"),
        ("ffrl/trainer.py", "from ffrl.helpers import x", "imports ffrl.helpers, which does not exist"),
        ("ffrl/trainer.py", "from tests.cases import x", "imports tests.cases, which is not part of the library"),
        ("ffrl/trainer.py", "import bench", "imports bench, which is not part of the library"),
        ("ffrl/ops/a.py", "from kernels import x", "imports kernels, which is not part of the library"),
        ("ffrl/ops/oracle.py", "from ffrl.ops import x", "import cycle: "),
    ],
)
def test_checker_flags(path, source, problem):
    problems = find_problems({**IN_ORDER, path: source})
    assert len(problems) == 1, problems
    assert problem in problems[0]
    if "cycle" not in problem:
        assert problems[0].startswith(module_name(path))


def test_typing_only_imports_make_no_cycle():
    assert find_problems({**IN_ORDER, "ffrl/ops/oracle.py": "if TYPE_CHECKING:\n    from ffrl.ops import x"}) == []
