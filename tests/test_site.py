"""The site: the navigation has every page, functions and equations lead to each other, and the build is clean."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

import adalora_ref
from tests.test_docs import DOCS, ROOT, in_code_font, table_rows

FUNCTIONS = {name for name in adalora_ref.__all__ if inspect.isfunction(getattr(adalora_ref, name))}
EQUATION = re.compile(r"^\*\*\((\d+)\)\*\* (.*?)(?=^\*\*\(|^## |\Z)", re.DOTALL | re.MULTILINE)


def loaded() -> ModuleType:
    """The module of .mkdocs.py."""
    spec = importlib.util.spec_from_file_location("mkdocs_hooks", ROOT / ".mkdocs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = loaded()


def equations() -> dict[int, set[str]]:
    """The public functions that the specification names with each equation."""
    text = (DOCS / "specification.md").read_text(encoding="utf-8")
    return {int(number): set(in_code_font(block)) & FUNCTIONS for number, block in EQUATION.findall(text)}


def cited(function: str) -> set[int]:
    """The equations of the specification that a function's docstring cites."""
    text = inspect.getdoc(getattr(adalora_ref, function)) or ""
    return {int(number) for found in HOOKS.CITED.findall(text) for number in re.findall(r"\((\d+)\)", found)}


def glossary() -> list[dict[str, str]]:
    """The rows of the glossary: what each source calls a thing."""
    head, rows = [], []
    for line in (DOCS / "notation.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells[:1] == ["ours"]:
            head = cells
        elif cells and len(cells) == len(head) and "---" not in cells:
            rows.append(dict(zip(head, cells, strict=True)))
    return rows


def names_in_the_code() -> set[str]:
    """What the modules of the core, and those of training, name: functions, fields, arguments, variables."""
    nodes = [
        node for path in (ROOT / "adalora_ref").glob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]
    found = {getattr(node, part, None) for node in nodes for part in ("id", "arg", "attr", "name")}
    return {name for name in found if name}


# WITHOUT MKDOCS


def test_every_page_is_in_the_navigation() -> None:
    """The navigation has every page under docs/, once."""
    config = (ROOT / ".mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", config[config.index("\nnav:") :], flags=re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_public_name_has_one_entry() -> None:
    """The API reference shows every name of the front door, and nothing twice."""
    shown = HOOKS.directives()
    assert len(shown) == len(set(shown))
    front = [path.split(".")[1] for path in shown if path.count(".") == 1]
    assert set(front) - {"strategies"} == set(adalora_ref.__all__)


def test_functions_and_equations_name_each_other() -> None:
    """Every equation names its functions, every function's docstring its equations, and both say the same."""
    told = equations()
    assert list(told) == list(range(1, 22))
    assert all(told.values())
    assert {f: {number for number, named in told.items() if f in named} for f in FUNCTIONS} == {
        f: cited(f) for f in FUNCTIONS
    }


def test_the_table_of_functions() -> None:
    """The first page of the API reference leads from every function to its entry and to its equations."""
    rows = {in_code_font(row[0])[0]: row for row in table_rows("api/README.md", "function")}
    assert rows.keys() == FUNCTIONS
    for function, (entry, _, numbers, *_) in rows.items():
        page, anchor = re.fullmatch(r"\[`\w+`\]\((\w+\.md)#([\w.]+)\)", entry).groups()
        assert f"\n::: {anchor}\n" in (DOCS / "api" / page).read_text(encoding="utf-8")
        assert anchor == f"adalora_ref.{function}"
        links = re.findall(r"\[\((\d+)\)\]\(\.\./specification\.md#equation-(\d+)\)", numbers)
        assert {int(number) for number, _ in links} == cited(function)
        assert all(number == to for number, to in links)
    others = [name for row in table_rows("api/README.md", "name") for name in in_code_font(row[0])]
    assert sorted([*others, *rows]) == sorted(adalora_ref.__all__)


def test_the_glossary_has_our_names() -> None:
    """Every name that the glossary says is ours is one of the code, and every row says what the thing is."""
    rows = glossary()
    assert len(rows) > 35
    ours = [name for row in rows for name in in_code_font(row["code"])]
    assert set(ours) <= names_in_the_code()
    assert all(row["ours"] and row["what it is"] and row["equation"] for row in rows)
    assert len({row["ours"] for row in rows}) == len(rows)


@pytest.mark.parametrize("source", ["loralib", "PEFT"])
def test_the_glossary_has_sources(source: str) -> None:
    """Every name of loralib has its line, every name of PEFT its file."""
    where = {"loralib": r":\d+$", "PEFT": r" (config|layer|model)\.py$"}[source]
    named = [row[source] for row in glossary() if row[source]]
    assert len(named) > 20
    assert [cell for cell in named if not re.search(where, cell)] == []


KNOWN = {"merge": "adalora_ref.merge"}

LINKED = {
    "a name": ("`merge` it", "[`merge`][adalora_ref.merge] it"),
    "part of a name": ("`merge(W)`, `merged`, merge", None),
    "code": ("```python\nmerge `merge` (4)\n```", None),
    "a heading": ("## `merge` (4)", None),
    "a link": ("[`merge`](api/linear.md) and [(4)](x.md)", None),
    "an equation": ("by (4), (5)", "by [(4)][equation-4], [(5)][equation-5]"),
    "the equation itself": ("**(4)** says", None),
    "the paper's": ("Paper (8) to (10), equation\n(3), equations (7) and (11)", None),
    "no equation": ("s of shape (r,), 0.5 (of 1), f(2.5), (100)", None),
}


@pytest.mark.parametrize("name", LINKED)
def test_links_are_made_of(name: str) -> None:
    """Names and equations in prose become links; code, headings, links and the paper's equations stay."""
    text, expected = LINKED[name]
    assert HOOKS.linked(text, KNOWN, equations=True) == (expected or text)


def test_equations_are_links_where_they_are_ours() -> None:
    """On a page that cites the paper's equations alone, no number is a link."""
    assert HOOKS.linked("by (4) of `merge`", KNOWN, equations=False) == "by (4) of [`merge`][adalora_ref.merge]"


def test_docstrings_cite() -> None:
    """A docstring's equations of the specification and pages become links, the paper's do not."""
    said = "Specification (7), (17) and (21); paper equation (3). See docs/laws.md."
    assert HOOKS.cited(said) == (
        "Specification [(7)][equation-7], [(17)][equation-17] and [(21)][equation-21]; paper equation (3). "
        "See [docs/laws.md](../laws.md)."
    )


def test_sources_are_shown() -> None:
    """A link out of docs/ leads to a page that shows the file; other links stay."""
    text = "[a](../../adalora_ref/linear.py) [b](adalora.c) [c](../laws.md#x) [d](https://example.org) [e](../../no.py)"
    assert HOOKS.to_sources("verify/x.md", text) == text.replace(
        "../../adalora_ref/linear.py", "../source/adalora_ref/linear.py.md"
    )
    assert HOOKS.outside("verify/x.md", text) == {"adalora_ref/linear.py"}
    assert "def linear_forward(" in HOOKS.shown("adalora_ref/linear.py")
    assert "## ranknum_is_trained.py" in HOOKS.shown("adalora_ref/conformance/peft_scripts")
    assert "- `prune/float64/tiny/0.json`" in HOOKS.shown("adalora_ref/conformance/vectors")


# WITH MKDOCS


class Page(HTMLParser):
    """The links of a page, with the entry or equation that they stand in, its anchors, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.anchors: set[str] = set()
        self.loaded: set[str] = set()
        self.place = ""
        self.quoted = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        if anchor := held.get("id", ""):
            self.anchors.add(anchor)
            if tag in {"h2", "h3"} or anchor.startswith("equation-"):
                self.place = anchor
        if tag == "a" and "href" in held:
            self.links.append((self.place, held["href"]))
        elif tag == "blockquote":  # an example that a docstring does not announce as one
            self.quoted = True
        elif tag in {"script", "img", "link", "iframe"}:
            self.loaded.add(held.get("src") or held.get("href") or "")


def built(folder: Path) -> dict[str, Page]:
    """The pages of the site, built as docs/contributing.md says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ".mkdocs.yml", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING -" not in done.stderr
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html") if path.stem != "404"}


def signatures(html: str) -> list[str]:
    """The lines of the signatures on a page of the API reference."""
    blocks = re.findall(r'<div class="doc-signature highlight">.*?<code>(.*?)</code>', html, flags=re.DOTALL)
    return [line for block in blocks for line in unescape(re.sub(r"<[^>]*>", "", block)).splitlines()]


def target(page: str, link: str) -> tuple[str, str]:
    """(file, anchor) to which a link of *page* leads."""
    parts = urlsplit(link)
    path = os.path.normpath(Path(page).parent / unquote(parts.path)) if parts.path else page
    return path, unquote(parts.fragment)


def parts(html: str) -> Counter[str]:
    """How many lists, rows, blocks of code and headings a page has; what stands in a block of code does not count."""
    html = re.sub(r"<pre.*?</pre>", "<pre>", html, flags=re.DOTALL)
    return Counter(re.findall(r"<(li|ul|ol|tr|table|pre|h\d|strong|em|blockquote|details)\b", html))


def test_pages_read_alike_everywhere() -> None:
    """A page has the same lists, tables, headings and blocks of code for the site as for GitHub's rules."""
    markdown, _ = (pytest.importorskip(name, reason="needs the extra `docs`") for name in ("markdown", "pymdownx"))
    rules = ["attr_list", "md_in_html", "tables", "toc", "pymdownx.highlight", "pymdownx.superfences"]
    github = MarkdownIt("gfm-like", {"linkify": False})
    for page in sorted(DOCS.rglob("*.md")):
        text = re.sub(r' title="[^"]*"$', "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        site = markdown.markdown(text, extensions=rules)
        assert parts(github.render(text)) == parts(site), page.name


def test_the_site(tmp_path: Path) -> None:
    """It builds strictly; links lead somewhere, nothing is fetched, functions and equations are a click apart."""
    if any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")):
        pytest.skip("the site needs MkDocs Material and mkdocstrings, the extra `docs`; one is not installed")
    pages = built(tmp_path)
    assert not [name for name, page in pages.items() if name.startswith("api/") and page.quoted]
    entries: dict[str, set[str]] = {name: set() for name in FUNCTIONS}
    named: dict[str, set[str]] = {f"equation-{number}": set() for number in equations()}
    for name, page in pages.items():
        assert not {source for source in page.loaded if "//" in source}, name
        for place, link in page.links:
            if "://" in link:
                continue
            path, anchor = target(name, link)
            assert (tmp_path / path).exists(), (name, link)
            assert not anchor or path not in pages or anchor in pages[path].anchors, (name, link)
            if name.startswith("api/") and path == "specification.html" and place.startswith("adalora_ref."):
                entries.setdefault(place.removeprefix("adalora_ref."), set()).add(anchor)
            if name == "specification.html" and path.startswith("api/") and place in named:
                named[place].add(anchor.removeprefix("adalora_ref."))
        if name.startswith("api/"):
            lines = signatures((tmp_path / name).read_text(encoding="utf-8"))
            assert max(map(len, lines), default=0) <= 100, name
    told = equations()
    assert {f: entries[f] - {""} for f in FUNCTIONS} == {
        f: {f"equation-{number}" for number in cited(f)} for f in FUNCTIONS
    }
    assert all(named[f"equation-{number}"] >= functions for number, functions in told.items())
