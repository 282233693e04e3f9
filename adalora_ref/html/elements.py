"""HTML as a tree, so that nothing that stands in a file can become markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as ET

from adalora_ref.conformance.untrusted import visible

INLINE = frozenset(("a", "b", "code", "span", "strong"))
"""After all others a line ends, for someone who reads the source."""


def e(tag: str, *children: ET.Element | str | None, **attributes: str | float | None) -> ET.Element:
    """Return an element; of an attribute ``class_`` means class and ``data_step`` data-step, and None leaves it out."""
    named = {k.rstrip("_").replace("_", "-"): visible(str(v)) for k, v in attributes.items() if v is not None}
    element = ET.Element(tag, named)
    if tag not in INLINE:
        element.tail = "\n"
    for child in children:
        _append(element, child)
    return element


def _append(element: ET.Element, child: ET.Element | str | None) -> None:
    if isinstance(child, ET.Element):
        element.append(child)
    elif child and len(element):
        element[-1].tail = (element[-1].tail or "") + visible(child)
    elif child:
        element.text = (element.text or "") + visible(child)


def terms(pairs: Iterable[tuple[str, ET.Element | str]], class_: str | None = None) -> ET.Element:
    """A list of names with what they mean; a pair that says nothing is left out."""
    held = e("dl", class_=class_)
    for name, what in pairs:
        if isinstance(what, ET.Element) or what:
            held.extend([e("dt", name), e("dd", what)])
    return held


def table(caption: str, heads: Iterable[str], rows: Iterable[Iterable[ET.Element | str]], class_: str) -> ET.Element:
    """A table whose columns and rows have heads; the first cell of a row is its head."""
    body = e("tbody")
    for first, *cells in rows:
        body.append(e("tr", e("th", first, scope="row"), *(e("td", cell) for cell in cells)))
    head = e("thead", e("tr", *(e("th", name, scope="col") for name in heads)))
    return scrolling(caption, e("table", e("caption", caption), head, body, class_=class_))


def scrolling(label: str, inside: ET.Element) -> ET.Element:
    """A frame in which what is too wide can be moved, by the keyboard too."""
    return e("div", inside, class_="scroll", role="region", tabindex=0, aria_label=label)


def code(text: str) -> ET.Element:
    """Text in the font of code."""
    return e("code", text)


def prose(text: str) -> list[ET.Element | str]:
    """Text in which what stands between backticks is in the font of code."""
    return [code(part[1:-1]) if part[:1] == "`" else part for part in re.split(r"(`[^`]+`)", text)]


def data(name: str, value: Any) -> ET.Element:
    """Data for the script of the page; no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    element = ET.Element("script", {"type": "application/json", "id": name})
    element.text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    element.tail = "\n"
    return element
