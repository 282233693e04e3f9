"""What the site adds to the pages, which stay plain Markdown: links between names, equations and sources.

On the site a public name in code font leads to its entry in the API reference, the number of an equation leads to the
specification, and a link to a file outside of docs/ leads to a page that shows the file.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

try:
    from griffe import Extension
    from mkdocs.structure.files import File
except ImportError:  # the functions on text work without the extra `docs`, and so do their tests
    Extension = object

ROOT = Path(__file__).parent
DOCS = ROOT / "docs"

WITH_EQUATIONS = ("specification.md", "notation.md", "conventions.md", "derivations/", "verify/stages.md", "plots.md")
"""Pages where a number in parentheses is an equation of the specification; elsewhere it may be the paper's."""

TOKEN = re.compile(
    r"""
    (?P<kept>
        ^```.*?^```$                                                    # a block of code
      | ^\#.*?$                                                         # a heading
      | \[[^\]]*\]\([^)]*\)                                             # a link
      | \*\*\(\d+\)\*\*                                                 # the equation itself
      | (?:paper|equations?)\s\(\d+\)(?:(?:,|\sand|\sto)\s\(\d+\))*     # an equation of the paper
    )
    | `(?P<code>[^`\n]+)`
    | \((?P<number>\d{1,2})\)
    """,
    re.DOTALL | re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
CITED = re.compile(r"Specification (?:(?:, | and | to )?\(\d+\))+")
LINK = re.compile(r"(?<=\]\()[^)\s#:]+(?=[)#])")


def directives() -> list[str]:
    """What the pages of the API reference show, in order: the path after each ``:::``."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    return re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)


def names() -> dict[str, str]:
    """The names that are links wherever they stand in code font: the public ones and the kit's three."""
    doors = ("adalora_ref", "adalora_ref.conformance")
    return {path.rpartition(".")[2]: path for path in directives() if path.rpartition(".")[0] in doors}


def linked(text: str, known: dict[str, str], *, equations: bool) -> str:
    """The Markdown *text* with its names, and its numbers of *equations*, as links."""

    def link(found: re.Match[str]) -> str:
        if found["code"] in known:
            return f"[{found[0]}][{known[found['code']]}]"
        return f"[{found[0]}][equation-{found['number']}]" if equations and found["number"] else found[0]

    return TOKEN.sub(link, text)


def anchored(text: str) -> str:
    """The specification with an anchor at each equation."""
    return re.sub(r"^\*\*\((\d+)\)\*\*", r"[](){ #equation-\1 }**(\1)**", text, flags=re.MULTILINE)


def cited(docstring: str) -> str:
    """A docstring whose "Specification (2)" and "docs/laws.md" are links."""
    docstring = re.sub(r"\bdocs/([\w/-]+)\.md", r"[docs/\1.md](../\1.md)", docstring)
    return CITED.sub(lambda found: re.sub(r"\((\d+)\)", r"[(\1)][equation-\1]", found[0]), docstring)


def outside(page: str, text: str) -> set[str]:
    """The files and folders outside of docs/ to which *text* links, from the top of the repository."""
    targets = {os.path.normpath(Path("docs", page).parent / link) for link in LINK.findall(text)}
    return {
        target for target in targets if target.split("/")[0] not in {"docs", "..", "."} and (ROOT / target).exists()
    }


def page_of(target: str) -> str:
    """Where the site shows a file or folder that is not a page."""
    return f"source/{target}.md"


def to_sources(page: str, text: str) -> str:
    """The Markdown *text* of *page*, with links out of docs/ turned to the pages that show what they lead to."""

    def link(found: re.Match[str]) -> str:
        targets = outside(page, f"]({found[0]})")
        return os.path.relpath(page_of(*targets), Path(page).parent) if targets else found[0]

    return LINK.sub(link, text)


def shown(target: str) -> str:
    """A page with the text of a file; for a folder, of the programs in it, or the names where it has none."""
    path = ROOT / target
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n"
    if path.is_file():
        return head + fenced(path)
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    programs = [file for file in files if file.suffix == ".py" and file.parent == path]
    parts = [f"## {file.name}\n\n{fenced(file)}" for file in programs]
    listed = "".join(f"- `{file.relative_to(path).as_posix()}`\n" for file in files)
    return head + ("\n".join(parts) or listed)


def fenced(path: Path) -> str:
    """The text of a file as a block of code."""
    kind = {".py": "python", ".json": "json"}.get(path.suffix, "text")
    return f"````{kind}\n{path.read_text(encoding='utf-8')}````\n"


def with_prompts(text: str) -> str:
    """Examples with prompts marked as such, so that what is typed and what is answered look different."""
    return re.sub(r"^```python\n(?=>>>)", "```pycon\n", text, flags=re.MULTILINE)


def on_files(files: Any, /, *, config: Any) -> Any:
    """Add the pages of all files outside of docs/ to which a page links."""
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for target in sorted({target for page, text in pages.items() for target in outside(page, text)}):
        files.append(File.generated(config, page_of(target), content=shown(target)))
    return files


def on_page_markdown(text: str, /, *, page: Any, **_: Any) -> str:
    """What is read from a page, with its links."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return text
    text = linked(to_sources(name, text), names(), equations=name.startswith(WITH_EQUATIONS))
    return with_prompts(anchored(text) if name == "specification.md" else text)


class Docstrings(Extension):
    """The docstrings of the API reference, with the same links."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Link names, and the equations of the specification."""
        if obj.docstring:
            known = {name: path for name, path in names().items() if name != obj.name}
            obj.docstring.value = cited(linked(obj.docstring.value, known, equations=False))
