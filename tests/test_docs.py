"""The documents hold together: equation numbers, links, placeholders, examples, and the paper's sizes."""

from __future__ import annotations

import ast
import doctest
import importlib
import io
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import ffrl
from ffrl.presets import preset_config

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"
LINKED = [README, ROOT / "CONTRIBUTING.md", *DOCS]  # the first two are read even if missing: that is an error
SOURCES = sorted((ROOT / "ffrl").rglob("*.py"))
EQUATIONS = range(1, 21)

# "(7)", alone or in "(1) to (11)"; not the call f(7), the shape (7,) or the year (2016).
CITATION = re.compile(r"(?<![\w\])])\((\d{1,2})\)(?:\s+to\s+\((\d{1,2})\))?")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACEHOLDER = re.compile(r"[A-Z]+_RESULTS|\bTODO\b")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cited_equations(text: str) -> set[int]:
    numbers: set[int] = set()
    for first, last in CITATION.findall(text):
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def documentation(source: str) -> Iterator[str]:
    """The docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def source_citations(path: Path) -> set[int]:
    return set().union(*map(cited_equations, documentation(path.read_text(encoding="utf-8"))))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a file."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def dead_links(path: Path, text: str) -> list[str]:
    """Internal links in ``text``, read from ``path``, that lead nowhere."""
    dead = []
    for groups in LINK.findall(FENCE.sub("", text)):
        link = "".join(groups)
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            dead.append(link)
    return dead


def run_python_blocks(text: str, name: str) -> int:
    """Run the Python blocks of a document one after the other in one namespace; how many there were."""
    namespace: dict[str, object] = {"__name__": "__example__"}
    blocks = list(PYTHON.finditer(text))
    for block in blocks:
        above = text.count("\n", 0, block.start(1))  # so that a traceback gives the line in the document
        exec(compile("\n" * above + block[1], name, "exec"), namespace)
    return len(blocks)


def modules() -> list[str]:
    def fail(name: str) -> None:
        raise ImportError(f"{name} cannot be imported")

    walked = pkgutil.walk_packages(ffrl.__path__, "ffrl.", onerror=fail)
    return ["ffrl", *(module.name for module in walked)]


def paper_sizes() -> dict[str, str]:
    """First column -> MNIST column of the table of paper-scale sizes."""
    section = (ROOT / "docs/notation.md").read_text(encoding="utf-8").split("## Paper-scale sizes")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert rows[0][1] == "MNIST"
    return {row[0]: row[1] for row in rows[2:]}


def test_derivation_numbers_each_equation_once_and_in_order():
    text = (ROOT / "docs/derivation.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"^\*\*\((\d+)\)\*\*", text, re.MULTILINE)] == list(EQUATIONS)


@pytest.mark.parametrize("path", [*SOURCES, *DOCS], ids=relative)
def test_cited_equations_exist(path: Path):
    is_source = path.suffix == ".py"
    cited = source_citations(path) if is_source else cited_equations(path.read_text(encoding="utf-8"))
    assert cited <= set(EQUATIONS)


def test_every_equation_is_cited_by_the_code():
    assert set().union(*map(source_citations, SOURCES)) == set(EQUATIONS)


def test_citations_are_told_from_calls_shapes_and_years():
    text = "(3) and (5) to (7), f(8), a[0](9), (10,), (11, D), Burda et al. (2016), FFRL eq. 12, (1 or 13), order (21)"
    assert cited_equations(text) == {3, 5, 6, 7, 21}
    source = '"""Equation (4)."""\nx = f(1) + (2)  # (6)\ny = "(30)"\n'
    assert set().union(*map(cited_equations, documentation(source))) == {4, 6}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_documents_named_in_the_code_exist(path: Path):
    named = re.findall(r"\b(?:docs/)?[\w-]+\.md\b", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", LINKED, ids=relative)
def test_internal_links_lead_somewhere(path: Path):
    assert dead_links(path, path.read_text(encoding="utf-8")) == []


def test_dead_links_are_found():
    text = '[a](notation.md) [b](absent.md) ![c](absent.png) [d](#numerics) [e](https://x.org/y) <img src="absent.gif">'
    here = ROOT / "docs/derivation.md"
    assert dead_links(here, text) == ["absent.md", "absent.png", "#numerics", "absent.gif"]
    assert dead_links(here, "[a](#8-numerics) [b](notation.md#units)\n```\n[c](absent.md)\n```\n") == []


@pytest.mark.parametrize("path", LINKED, ids=relative)
def test_no_placeholder_is_left(path: Path):
    assert PLACEHOLDER.findall(path.read_text(encoding="utf-8")) == []


def test_placeholders_are_found():
    text = "README_RESULTS `MNIST_RESULTS` TODO: FFRL_DATA=x TORCH_INDEX=y, results, todo, MASTODON"
    assert PLACEHOLDER.findall(text) == ["README_RESULTS", "MNIST_RESULTS", "TODO"]


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_mathematics_is_delimited_as_github_wants_it(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    assert "\\operatorname" not in text  # GitHub refuses this macro
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    assert prose.count("$") % 2 == 0
    for formula in re.findall(r"\$([^$]*)\$", prose):
        # GitHub reads Markdown first: it would take these backslashes, emphasis marks and cell borders for its own.
        assert not re.search(r"\\[^A-Za-z]|[^A-Za-z0-9]_|[*|<\n]|^\s|\s$", formula), formula


def test_module_walk_finds_every_file():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}
    assert set(modules()) >= files


@pytest.mark.parametrize("name", modules())
def test_examples_of_module(name: str):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_examples_of_document(path: Path):
    assert doctest.testfile(str(path), module_relative=False, encoding="utf-8").failed == 0


def test_python_blocks_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert run_python_blocks(README.read_text(encoding="utf-8"), str(README)) >= 1


def test_python_blocks_share_a_namespace_and_fail_with_the_line_of_the_document():
    text = "a\n```python\nx = 1\n```\n```bash\nexit 1\n```\n```python\nassert x == 1\n```\n"
    assert run_python_blocks(text, "a.md") == 2
    with pytest.raises(AssertionError) as failure:
        run_python_blocks(text.replace("x == 1", "x == 2"), "a.md")
    assert failure.traceback[-1].lineno + 1 == 9


def test_examples_are_there():
    derivation = (ROOT / "docs/derivation.md").read_text(encoding="utf-8")
    assert "assert_close(lap_u, hessian.trace()" in derivation
    tests = doctest.DocTestFinder().find(importlib.import_module("ffrl.ops.potential_derivatives"))
    assert sum(len(test.examples) for test in tests) >= 4


def test_paper_preset_has_the_sizes_of_the_table():
    table, paper = paper_sizes(), preset_config("paper")
    model = paper.model
    assert table["image"] == f"{model.image_channels}x{model.image_size}x{model.image_size}"
    assert int(table["latent size D"]) == model.latent_dim == model.potential_widths[0] == model.potential_widths[1]
    assert int(table["transformations K"]) == len(paper.sequence.transformations)
    assert int(table["transitions T"]) == paper.sequence.num_steps
    assert table["output activation of u"] == model.output_activation
    assert int(table["batch size, one k per batch"]) == paper.batch_size
    assert not paper.mixed_batches
    assert float(table["learning rate of Adam"]) == paper.optimizer.learning_rate
    assert int(table["iterations"].replace(",", "")) == paper.iterations
