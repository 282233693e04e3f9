"""What `adalora-ref plot` does, once its arguments are read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adalora_ref.experiments.run_folder import Run, Seed, read_run
from adalora_ref.plots.pictures import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "adalora-ref plot"
"""Stands in the metadata of every picture; a file without it is not replaced."""
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": MARK},
    "svg": {"Creator": MARK, "Date": None},
    "pdf": {"Creator": MARK, "Producer": None, "CreationDate": None},
}
"""No date and no version, so that one run gives the same bytes each time."""
STYLE: dict[str, Any] = {"svg.hashsalt": MARK}
DPI = 100
"""Of a png, unless another is asked for."""


def plot(path: Path, *, seed: int | None, out: Path | None, form: str, dpi: int | None = None) -> list[Path]:
    """Draw the run in *path*, and return the files that were written: all of them, or none.

    Raises
    ------
    RuntimeError
        If matplotlib is not installed.
    ValueError
        If *path* is no run folder, or has not this seed; if *dpi* is given for a form that has no pixels.
    OSError
        If a file in the way is not one of ours, or cannot be written.
    """
    if dpi is not None and form != "png":
        raise ValueError(f"--dpi is for --format png, which alone is made of pixels; got --format {form}")
    require_matplotlib()
    number, held, run = _chosen(path, seed)
    folder = path / "plots" if out is None else out
    drawn = pictures(held, run.config, number, form, dpi or DPI)
    return write_all({folder / f"seed{number}-{name}.{form}": data for name, data in drawn.items()})


def require_matplotlib() -> None:
    """Say how to install it, where it is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"pictures are drawn with matplotlib: pip install '.[plots]' in a checkout ({error})"
        ) from error


def _chosen(path: Path, seed: int | None) -> tuple[int, Seed, Run]:
    if not path.is_dir():
        raise ValueError(f"RUN must be a run folder, as adalora-ref train writes it; got {path}")
    run = read_run(path)
    number = next(iter(run.seeds)) if seed is None else seed
    if number not in run.seeds:
        raise ValueError(f"the seed must be one of {', '.join(map(str, run.seeds))}, which the run has; got {number}")
    return number, run.seeds[number], run


def pictures(held: Seed, config: Mapping[str, Any], seed: int, form: str, dpi: int) -> dict[str, bytes]:
    """Every picture of one seed as a file, whatever style the user has set for matplotlib."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE, {"savefig.dpi": dpi}]):
        drawn = figures(held.arms["adalora"], config, lora=held.arms["lora"], seed=seed)
        return {name: encoded(figure, form) for name, figure in drawn.items()}


def encoded(figure: Figure, form: str) -> bytes:
    """The figure as a png, svg or pdf file."""
    file = io.BytesIO()
    figure.savefig(file, format=form, metadata=METADATA[form])
    return _in_palette(file) if form == "png" else file.getvalue()


def _in_palette(png: io.BytesIO) -> bytes:
    """The same picture in 256 colours, which these get by with, in less than half the bytes."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    told, file = PngInfo(), io.BytesIO()
    told.add_text("Software", MARK)
    few = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(file, "png", pnginfo=told, optimize=True)
    return file.getvalue()


def write_all(files: Mapping[Path, bytes]) -> list[Path]:
    """Write each file beside its place first, then move all there; pictures of ours are replaced, nothing else is.

    Raises
    ------
    FileExistsError
        If there is something else in a place; nothing is written then.
    OSError
        If a folder or file cannot be written; folders made for it do not stay.
    """
    for path in files:
        _refuse_others(path)
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}.partial") for path in files}
    made = list(dict.fromkeys(folder for path in files for folder in path.parents if not folder.exists()))
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside[path].write_bytes(data)
        for path in files:
            beside[path].replace(path)
    except BaseException as error:
        _clear(beside.values(), made)
        if isinstance(error, OSError):
            raise OSError(f"the pictures cannot be written to {error.filename}: {error.strerror}") from error
        raise
    return list(files)


def _clear(partial: Iterable[Path], made: Iterable[Path]) -> None:
    """Remove what is half-written, and the folders made for it that are empty."""
    for path in partial:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    for folder in made:
        with suppress(OSError):
            folder.rmdir()


def _refuse_others(path: Path) -> None:
    if os.path.lexists(path) and not (path.is_file() and MARK.encode() in path.read_bytes()):
        raise FileExistsError(f"{path} exists already, and adalora-ref plot has not made it; name a folder with --out")
