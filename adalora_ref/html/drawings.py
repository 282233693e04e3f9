"""Figures of matplotlib as part of a page: text that can be selected, no style and no script of their own."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTRIBUTES = frozenset((
    "fill", "fill-opacity", "fill-rule", "font-family", "font-size", "font-style", "font-weight", "opacity", "stroke",
    "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit", "stroke-opacity",
    "stroke-width", "text-anchor", "white-space",
))  # fmt: skip
"""What SVG can say without a style; matplotlib says nothing else."""

TAGS = frozenset(("clipPath", "defs", "g", "image", "path", "pattern", "rect", "svg", "text", "tspan", "use"))


def drawing(name: str, figure: Figure) -> ET.Element:
    """Return *figure* as an SVG element for a page: the same bytes each time, with ids that begin with *name*.

    Raises
    ------
    ValueError
        If the figure has something that a page must not have, or cannot show without a style of its own.
    """
    root = _plain(ET.fromstring(_svg(name, figure)))  # noqa: S314  matplotlib wrote it just now
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img", "aria-label": title_of(figure)}
    for size in ("width", "height"):
        del root.attrib[size]
    _own_ids(root, name)
    return root


def title_of(figure: Figure) -> str:
    """What is written over the axes of a figure."""
    titles = [axes.get_title(loc=side) for axes in figure.axes for side in ("left", "center", "right")]
    return "; ".join(dict.fromkeys(title for title in titles if title))


def _svg(name: str, figure: Figure) -> str:
    import matplotlib as mpl

    written = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def _plain(element: ET.Element) -> ET.Element:
    """The element and what it holds, with attributes for styles and without what only a file of its own needs."""
    tag = _bare(element.tag)
    if tag not in TAGS:
        raise ValueError(f"a picture in a page must be made of {', '.join(sorted(TAGS))}; got {tag}")
    styles = dict(re.findall(r"([a-z-]+):\s*([^;]+)", element.attrib.pop("style", "")))
    if foreign := styles.keys() - ATTRIBUTES:
        raise ValueError(f"a picture in a page must do without the styles {', '.join(sorted(foreign))}")
    held = ET.Element(tag, {**{_bare(k): v for k, v in element.attrib.items()}, **styles})
    link = held.get("href", "#")
    if not link.startswith(("#", "data:image/png;base64,")):
        raise ValueError(f"a picture in a page must load nothing; got {link[:80]!r}")
    held.text = element.text
    held.tail = element.tail
    held.extend([_plain(child) for child in element if _bare(child.tag) not in ("metadata", "style")])
    return held


def _bare(name: str) -> str:
    """A name without its namespace, as HTML has it."""
    return name.rpartition("}")[2]


def _own_ids(root: ET.Element, name: str) -> None:
    """Keep the ids that something refers to, and tell them from those of other pictures."""
    used = set()
    for element in root.iter():
        for key, value in element.attrib.items():
            pattern = r"^#(.+)$" if key == "href" else r"url\(#([^)]+)\)"
            used |= set(re.findall(pattern, value))
            element.set(key, re.sub(pattern, lambda m: m[0].replace(m[1], f"{name}-{m[1]}"), value))
    for element in root.iter():
        mine = element.attrib.pop("id", "")
        if mine in used:
            element.set("id", f"{name}-{mine}")
