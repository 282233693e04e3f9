"""What `adalora-ref report` does: find out what it was given, make the page, write it whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adalora_ref.conformance.report import require_writable, write_text
from adalora_ref.conformance.verdict_file import read_verdict
from adalora_ref.html.shell import GENERATOR
from adalora_ref.html.verdict_page import verdict_page


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for.

    Attributes
    ----------
    seed, arm
        Of a run; None: the first seed, and the arm adalora.
    out
        The file to write; None: beside what was given, under its name, with the seed and the arm if they are given.
    """

    seed: int | None = None
    arm: str | None = None
    out: Path | None = None

    def beside(self, source: Path) -> Path:
        """The page of *source*, by default."""
        chosen = (None if self.seed is None else f"seed{self.seed}", self.arm)
        name = "-".join((source.name.removesuffix(".json"), *filter(None, chosen)))
        return source.with_name(f"{name}.html")


def write(source: Path, options: Options) -> Path:
    """Write the page of a run or of a verdict, and return where.

    Raises
    ------
    ValueError
        If *source* is neither, or is damaged, or has no such seed or arm; if the page cannot be written to its place,
        or something else stands there.
    RuntimeError
        If a run is to be drawn and matplotlib is not installed.
    """
    if not source.exists():
        raise ValueError(f"a report is about a run folder or a verdict; there is nothing at {str(source)!r}")
    out = options.out or options.beside(source.absolute())
    require_free(out)
    if source.is_dir():
        from adalora_ref.html.run_page import run_page

        text = run_page(source, options.seed, options.arm)
    elif options.seed is not None or options.arm is not None:
        raise ValueError(f"--seed and --arm choose from a run; {str(source)!r} is a file with a verdict")
    else:
        text = verdict_page(read_verdict(source))
    write_text(out, text)
    return out


def require_free(path: Path) -> None:
    """Refuse, with ValueError, a place where a page cannot be written, or where something stands that is no page."""
    require_writable(path)
    if path.exists() and f'<meta name="generator" content="{GENERATOR} ' not in path.read_bytes()[:4000].decode(
        errors="replace"
    ):
        raise ValueError(f"{path} is no report page, and is not overwritten; name another file with --out")
