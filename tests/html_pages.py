"""A page of HTML, read as a browser's parser would: its elements, their text, and whether all were closed."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "input", "br", "hr", "link", "img"}


@dataclass
class Element:
    """An element with what it holds: text and further elements."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Every element below of that tag that has these attributes; of a class, one of its words."""
        found: list[Element] = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = {k.rstrip("_"): v for k, v in attributes.items()}
                if child.tag == tag and all(v in child.attributes.get(k, "").split() for k, v in wanted.items()):
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def one(self, tag: str, **attributes: str) -> Element:
        (found,) = self.all(tag, **attributes)
        return found

    def every(self) -> list[Element]:
        below = [child for child in self.children if isinstance(child, Element)]
        return [self, *(deeper for child in below for deeper in child.every())]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("document", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(text: str) -> Element:
    """The document element of a page; AssertionError where an element is not closed, or closed out of order."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    (document,) = reader.open
    return document.one("html")


def require_sound(text: str) -> Element:
    """Check what holds of every page, and return its document element."""
    page = parsed(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert page.attributes["lang"] == "en"
    _require_nothing_loaded(page)
    ids = [element.attributes["id"] for element in page.every() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    links = [element for element in page.every() if "href" in element.attributes]
    lost = [link for link in links if link.attributes["href"].removeprefix("#") not in ids]
    assert all(link.tag == "image" and link.attributes["href"].startswith("data:image/png;base64,") for link in lost)
    levels = [int(element.tag[1]) for element in page.every() if re.fullmatch("h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels)), levels
    for table in page.all("table"):
        assert table.one("caption").text
        assert all(head.attributes.get("scope") in ("row", "col") for head in table.all("th"))
    labelled = {label.attributes["for"] for label in page.all("label")}
    assert all(control.attributes["id"] in labelled for control in (*page.all("input"), *page.all("select")))
    return page


def _require_nothing_loaded(page: Element) -> None:
    """No element names a file, and the policy allows the page's own style and script by their hashes alone."""
    names = {name for element in page.every() for name in element.attributes}
    assert not names & {"src", "srcset", "action", "style", "background", "poster", "xlink:href", "data"}
    assert not [name for name in names if name.startswith("on")]
    assert not {element.tag for element in page.every()} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    policies = [m.attributes["content"] for m in page.all("meta") if "http-equiv" in m.attributes]
    scripts = [s.text for s in page.all("script") if "type" not in s.attributes]
    assert len(scripts) == 1
    own = f"style-src {_hash(page.one('style').text)}; script-src {_hash(scripts[0])}; img-src data:"
    assert policies == [f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'"]
    assert "url(" not in page.one("style").text
    assert "@import" not in page.one("style").text


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
