"""What every page has: head, style, script, and a policy by which a browser loads nothing for it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from xml.etree import ElementTree as ET

import adalora_ref
from adalora_ref.html.elements import e

GENERATOR = "adalora-ref report"
"""Stands in every page that is written, so that no other file is taken for one."""


def page(title: str, main: ET.Element, script: str) -> str:
    """Return a whole document, with the style of all pages and the script of that name inside."""
    style, code = _packaged("page.css"), _packaged(script)
    head = e(
        "head",
        e("meta", charset="utf-8"),
        e("meta", http_equiv="Content-Security-Policy", content=policy(style, code)),
        e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        e("meta", name="color-scheme", content="light dark"),
        e("meta", name="referrer", content="no-referrer"),
        e("meta", name="generator", content=f"{GENERATOR} {adalora_ref.__version__}"),
        e("title", title),
        _raw("style", style),
    )
    body = e("body", main, e("footer", e("p", _imprint())), _raw("script", code))
    return "<!DOCTYPE html>\n" + ET.tostring(e("html", head, body, lang="en"), encoding="unicode", method="html") + "\n"


def policy(style: str, script: str) -> str:
    """Nothing is loaded from anywhere; the one style and the one script of the page may act, and no others.

    An image may stand in the page itself: a heat map in a picture of matplotlib is one.
    """
    allowed = f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _packaged(name: str) -> str:
    return (files("adalora_ref.html") / name).read_text(encoding="utf-8")


def _raw(tag: str, text: str) -> ET.Element:
    element = ET.Element(tag)
    element.text = text
    element.tail = "\n"
    return element


def _imprint() -> str:
    return (
        f"Written by adalora-ref report {adalora_ref.__version__}. This file is complete: it loads nothing, and can be "
        "kept, sent and printed as it is."
    )
