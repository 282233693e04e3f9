"""Verdicts as signs, so that no one has to tell colours apart."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from adalora_ref.conformance.verdict import Verdict
from adalora_ref.html.elements import e

SIGNS = {
    Verdict.PASS: "✓",
    Verdict.WARN: "!",
    Verdict.FAIL: "✗",
    Verdict.KNOWN: "≈",
    Verdict.INCONCLUSIVE: "?",
    Verdict.NOT_RUN: "–",
}
MEANINGS = {
    Verdict.PASS: "within the bound",
    Verdict.WARN: "within the bound, but further off than rounding is likely to take it",
    Verdict.FAIL: "beyond the bound, or of the wrong form",
    Verdict.KNOWN: "fails, and is listed as known to",
    Verdict.INCONCLUSIVE: "the bound is too wide to decide, or the inputs leave two right answers",
    Verdict.NOT_RUN: "not run",
}


def badge(verdict: Verdict) -> ET.Element:
    """A verdict as a sign and as a word."""
    return e("span", e("span", SIGNS[verdict], aria_hidden="true"), f" {verdict}", class_=f"badge {class_of(verdict)}")


def class_of(verdict: Verdict) -> str:
    """The name of a verdict in the style sheet."""
    return verdict.lower().replace(" ", "-")
