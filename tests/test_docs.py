"""The pages: every example runs, every table agrees with the code, every link leads somewhere."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from sybil.document import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import adalora_ref
from adalora_ref.conformance.deviations import DEVIATIONS
from adalora_ref.convention import CONVENTIONS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "adalora_ref"
DOCS = ROOT / "docs"
PAGES = sorted({ROOT / "README.md", *DOCS.rglob("*.md")})

EXPLAIN_NO_COMPUTATION = {
    "docs/api",  # the examples of the docstrings are run as doctests
    "docs/changelog.md",
    "docs/contributing.md",
    "docs/decisions",
    "docs/results",
}
"""Pages and folders without examples."""

LOADED_BY_IMPORT = {"adalora_ref", "numpy", "array_api_compat", "jaxtyping", "wadler_lindig"}
"""jaxtyping prints with wadler_lindig."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def table_rows(page: str, heading: str) -> list[list[str]]:
    """The cells below the header row that begins with *heading*."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def libraries_of(page: Path) -> list[str]:
    """The optional libraries that the examples of a page import."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
    return sorted(set(re.findall(r"^(?:import|from) (torch|jax)\b", code, re.MULTILINE)))


def in_code_font(text: str) -> list[str]:
    """What stands between single backticks, outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


@every_page
def test_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of a page gives what the page says, and a page that explains a computation has one."""
    monkeypatch.chdir(tmp_path)  # some examples write files
    for library in libraries_of(page):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"the examples of {name_of(page)} need {library}, which is not installed")
    examples = list(Document.parse(str(page), PythonCodeBlockParser()).examples())
    exempt = name_of(page) in EXPLAIN_NO_COMPUTATION or name_of(page.parent) in EXPLAIN_NO_COMPUTATION
    assert examples or exempt, f"{name_of(page)} has no example"
    for example in examples:
        example.evaluate()


def test_pages_that_need_a_library_are_known() -> None:
    """The pages on torch and JAX say by their imports what they need; the others need nothing optional."""
    needed = {name_of(page): libraries_of(page) for page in PAGES}
    assert {name: found for name, found in needed.items() if found} == {
        "docs/verify/jax.md": ["jax"],
        "docs/verify/torch.md": ["torch"],
    }


@every_page
def test_no_example_escapes(page: Path) -> None:
    """A prompt stands inside a python block, where it is run."""
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"^```python\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert ">>>" not in outside


@every_page
def test_links(page: Path) -> None:
    """Every relative link leads to a file or folder of the repository."""
    text = page.read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    broken = [link for link in targets if link and not (page.parent / link).exists()]
    assert not broken


def test_every_page_is_found() -> None:
    """The README and the pages that it promises are among those tested."""
    promised = {
        "specification",
        "notation",
        "conventions",
        "architecture",
        "results/README",
        "contributing",
        "changelog",
    }
    assert {"README.md", *(f"docs/{name}.md" for name in promised)} <= {name_of(page) for page in PAGES}


def test_the_page_of_the_catalogue_is_the_catalogue() -> None:
    """Its last table has every entry, at its stage, with its sentence; the others name entries alone."""
    rows = {entry.strip("`"): (stage, says) for stage, entry, says in table_rows("verify/catalogue.md", "stage")}
    assert rows.keys() == {known.name for known in DEVIATIONS}
    for known in DEVIATIONS:
        stage, says = rows[known.name]
        assert (stage, says.replace("&#124;", "|").split(" (equivalent: ")[0]) == (known.stage, known.says)
        assert (known.equivalent in says) if known.equivalent else "(equivalent" not in says
    for heading in ("choice", "bug"):
        cells = [name for row in table_rows("verify/catalogue.md", heading) for name in in_code_font(row[-1])]
        commands = {"adalora-ref verify peft", "Factors"}
        assert set(cells) - commands <= rows.keys(), heading


def test_decisions_are_short() -> None:
    """A decision record has at most 30 lines."""
    lengths = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in (DOCS / "decisions").iterdir()}
    assert lengths
    assert max(lengths.values()) <= 30, lengths


def test_specification_version() -> None:
    """The page's title and the package name one version of the specification."""
    title = (DOCS / "specification.md").read_text(encoding="utf-8").splitlines()[0]
    assert title == f"# Specification {adalora_ref.SPECIFICATION}"


def test_equations_are_numbered() -> None:
    """Equations are numbered from 1 without a gap, and each names a public function that computes it."""
    text = (DOCS / "specification.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^\*\*\((\d+)\)\*\* (.*)$", text, flags=re.MULTILINE)
    assert [int(number) for number, _ in numbered] == list(range(1, 22))
    assert not [number for number, line in numbered if not set(in_code_font(line)) & set(adalora_ref.__all__)]


def test_cited_equations_exist() -> None:
    """The other pages cite equations that the specification has."""
    numbers = {int(n) for page in ("notation", "conventions") for n in equations_cited(f"{page}.md")}
    assert numbers
    assert numbers <= set(range(1, 22))


def equations_cited(page: str) -> list[str]:
    return re.findall(r"(?<!equation )(?<!equations )(?<!and )\((\d+)\)", (DOCS / page).read_text(encoding="utf-8"))


def test_specification_is_complete() -> None:
    """Every public function is named by the specification."""
    named = set(in_code_font((DOCS / "specification.md").read_text(encoding="utf-8")))
    functions = {name for name in adalora_ref.__all__ if name.islower()}
    assert functions - named == set()


@pytest.mark.parametrize("record", [adalora_ref.Config, adalora_ref.BudgetSchedule], ids=lambda record: record.__name__)
def test_notation_is_complete(record: type) -> None:
    """The glossary has every number that a run is told."""
    named = set(in_code_font((DOCS / "notation.md").read_text(encoding="utf-8")))
    assert {field.name for field in fields(record)} - {"schedule"} <= named


def test_conventions_table() -> None:
    """The table and the objects agree on all fields of all conventions, and every cell has a source."""
    header = next(
        line
        for line in (DOCS / "conventions.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| field |")
    )
    columns = [cell.strip() for cell in header.strip("|").split("|")][1:]
    assert columns == list(CONVENTIONS)
    told, held = {}, {}
    for field, *cells in table_rows("conventions.md", "field"):
        for column, cell in zip(columns, cells, strict=True):
            name, source = re.fullmatch(r"`([^`]+)`: (.+)", cell).groups()
            value = getattr(CONVENTIONS[column], in_code_font(field)[0])
            told[field, column], held[field, column] = name, getattr(value, "__name__", str(value))
            assert source.strip()
    assert told == held
    assert {in_code_font(field)[0] for field, _ in told} == {f.name for f in fields(adalora_ref.Convention)} - {"name"}


def floors() -> dict[str, int]:
    """The floor of every room on the architecture page."""
    return {in_code_font(room)[0]: int(floor) for floor, room, _ in table_rows("architecture.md", "floor")}


def room_of(module: str) -> str:
    """The room of a module given as a path or with dots: a file of the package, or the folder that holds it."""
    first, *rest = re.sub(r"\.py$", "", module).replace(".", "/").split("/")
    return f"{first}/" if rest or (PACKAGE / first).is_dir() else f"{first}.py"


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """The modules of the package that *path* imports, with dots, without the package's name; "" is the front door."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.ImportFrom) or node.level == 0, f"{path.name} has a relative import"
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in below}
    package = {name for name in found if name.split(".")[0] == "adalora_ref"}
    return {name.removeprefix("adalora_ref").removeprefix(".") for name in package}


def is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_architecture_has_every_room() -> None:
    """The page lists the rooms of the package, all of them and no others."""
    assert set(floors()) == {room_of(path.relative_to(PACKAGE).as_posix()) for path in modules()}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower floors alone, or inside its folder; those above the core may use the front door."""
    known, room = floors(), room_of(path.relative_to(PACKAGE).as_posix())
    door = max(known[room_of(name)] for name in imported(PACKAGE / "__init__.py"))
    below = {
        name: known[room_of(name)] if name else door for name in imported(path) if not name or room_of(name) != room
    }
    assert all(floor < known[room] for floor in below.values()), (room, known[room], below)


def test_import_loads_little() -> None:
    """Importing the package loads NumPy, array-api-compat and jaxtyping, and nothing that the kit needs."""
    code = (
        "import sys; before = set(sys.modules); import adalora_ref;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith("_")}
    assert "numpy" in loaded
    assert loaded <= LOADED_BY_IMPORT


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name_of)
def test_tests_state_their_law(path: Path) -> None:
    """Every test has a docstring."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)
    ]
    silent = [f.name for f in functions if f.name.startswith("test_") and not ast.get_docstring(f)]
    assert not silent
