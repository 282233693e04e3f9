"""The shell lines of README and docs: each is run, or another test that runs it is named, or its arguments are parsed.

A line of an sh block stands in exactly one of the tables below; a new one fails until it does. A command within a
sentence is parsed by the command's own parser, unless a table has it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from adalora_ref.cli import main
from tests.pages import blocks, lacking
from tests.test_docs import DOCS, PAGES, ROOT, in_code_font, name_of

COMMANDS = ("adalora-ref ", "cc ", "mkdocs ", "mypy", "pip ", "pytest ", "python ", "ruff ")


class Line(NamedTuple):
    """A line as the page has it, what is added to keep it short, and how it must end."""

    line: str
    added: str = ""
    status: int = 0


class Visit(NamedTuple):
    """Files as a page shows them, and the lines that are then typed, one after the other."""

    files: dict[str, str]
    lines: tuple[Line, ...]
    shown: str = ""
    """What the page shows of the output of the first line."""


def block(page: str, kind: str, number: int = 0) -> str:
    return blocks(f"../{page}", kind)[number]


def visits() -> dict[str, Visit]:
    return {
        "start": Visit(
            {"mine.py": block("index.md", "python")},
            (
                Line("adalora-ref verify mine:Mine", status=1),
                Line("python adalora-ref-repro/triplet_scores/repro.py", status=1),
            ),
            block("index.md", "text"),
        ),
        "module": Visit(
            {"my_adalora.py": block("verify/README.md", "python")},
            (Line("adalora-ref verify my_adalora", status=1),),
            block("verify/README.md", "text"),
        ),
        "program": Visit(
            {"docs/verify/adalora.c": (DOCS / "verify" / "adalora.c").read_text(encoding="utf-8")},
            (
                Line("cc -std=c99 -O2 -o adalora docs/verify/adalora.c -lm"),
                Line("adalora-ref verify exec:./adalora", "--stage prune"),
                Line("cp adalora my_adalora"),
                Line("adalora-ref verify 'exec:./my_adalora --fast'", "--stage prune"),
            ),
        ),
        "mistake in a program": Visit(
            {"docs/verify/adalora.c": (DOCS / "verify" / "adalora.c").read_text(encoding="utf-8")},
            (
                Line("cc -std=c99 -O2 -DMISTAKE -o adalora docs/verify/adalora.c -lm"),
                Line("adalora-ref verify exec:./adalora", "--stage update_importance", 1),
                Line("python adalora-ref-repro/update_importance/repro.py", status=1),
            ),
        ),
        "explain": Visit(
            {},
            (
                Line("adalora-ref explain"),
                Line("adalora-ref explain layer"),
                Line("adalora-ref explain scores --seed 3 --numbers random"),
                Line("adalora-ref explain run"),
            ),
            block("explain.md", "text"),
        ),
        "vectors": Visit(
            {},
            (
                Line("adalora-ref vectors export suite", "--stage prune"),
                Line("adalora-ref vectors answer suite results adalora_ref"),
                Line("adalora-ref vectors check suite results"),
            ),
        ),
        "laws": Visit(
            {
                "my_adalora.py": "from adalora_ref import prune\n",
                "your_module.py": (
                    "from adalora_ref import Factors, linear_backward, linear_forward\n"
                    "class object:\n"
                    "    linear_forward = staticmethod(linear_forward)\n"
                    "    def linear_backward(self, dy, cache, /):\n"
                    "        dx, (dB, ds, dA) = linear_backward(dy, cache)\n"
                    "        return dx, Factors(dB, 2 * ds, dA)\n"
                ),
            },
            (
                Line("adalora-ref laws my_adalora", "--examples 3"),
                Line(
                    "adalora-ref laws your_module:object --law triplet_balance --examples 5000 --seed 7 --keep",
                    status=1,
                ),
            ),
        ),
        "report": Visit(
            {"my_adalora.py": block("verify/README.md", "python")},
            (
                Line("adalora-ref verify my_adalora --json verdict.json", "--preset quick --no-repro", 1),
                Line("adalora-ref report verdict.json"),
            ),
        ),
        "pytest": Visit(
            {"test_mine.py": block("verify/pytest.md", "python")},
            (Line("pytest 'test_mine.py::test_mine[triplet_scores/float64/0/1]'", "-p no:cacheprovider", 1),),
        ),
    }


RUN_BY = {
    "adalora-ref verify my_adalora:layer": "peers/test_ways_in.py::test_the_torch_page_shows_what_is_printed",
    "adalora-ref verify my_adalora:layer --preset quick": (
        "peers/test_ways_in.py::test_the_jax_page_shows_what_is_printed"
    ),
    "adalora-ref verify my_adalora:allocator": "test_allocator_target.py::test_the_page_shows_what_is_printed",
    "adalora-ref verify trace:run.safetensors": "test_trace.py::test_the_page_shows_what_is_printed",
    "adalora-ref plot run": "test_plots.py::test_the_folder_of_the_run_is_the_default",
    "adalora-ref report run": "test_report_of_run.py::test_the_last_step_stands_on_the_page",
    "adalora-ref verify peft": "peers/test_peft_findings.py::test_verify_peft_lists_them",
    "mkdocs build --strict -f .mkdocs.yml -d build/site": "test_site.py::test_the_site",
}
"""Lines that another test runs; its file must hold the words of the line."""

PARSED = {
    "adalora-ref explain scores --check": "it waits for an answer; tests/test_explain.py gives some",
    "adalora-ref laws your_module:object": "100 examples of each law take too long here; tests/test_laws.py runs fewer",
    "adalora-ref laws your_module:object --time 600": "it takes ten minutes",
    "adalora-ref train digits --out run": "it takes as long; tests/test_plots.py makes and draws a shorter run",
    "adalora-ref train digits": "it takes minutes; tests/test_cli_train.py runs it on fewer samples",
}
"""Lines of sh blocks that are parsed alone, and why."""

RUN_BY_CI = {
    "pip install .": "run_readme_command 'adalora-ref verify$'",
    "adalora-ref verify": "run_readme_command 'adalora-ref verify$'",
    "pip install -e '.[test]'": "run_readme_command '-m pytest'",
    "python -m pytest -q -n auto": "run_readme_command '-m pytest'",
    "python -m venv .venv": '-m venv "$1"',
    ". .venv/bin/activate": 'source "$1/bin/activate"',
    "pip install -e '.[dev]'": "python -m pip install --quiet -e '.[dev]'",
    "ruff check .": "ruff check .",
    "ruff format --check .": "ruff format --check .",
    "mypy": "mypy",
}
"""Lines that make environments, or check the whole tree: .ci/run does it, by the line given."""

NOT_RUN = {
    "pip install '.[experiments]'": "it installs; .ci/run installs the same by `dev`",
    "pip install '.[experiments,plots]'": "it installs; .ci/run installs the same by `dev`",
    "pip install '.[browser]'": "it installs; .ci/run does the same before it opens the report page in Chromium",
    "pip install '.[cuda12]'": "it needs a GPU; .ci/run installs what fits one that it finds",
    "adalora-ref trace 1": "it is no command, but the name of a form of file",
    "pytest test_mine.py": "test_pytest_suite.py::test_the_page_runs writes and runs that file",
    "python -m adalora_ref": "without arguments it prints its help",
    "python -m adalora_ref.experiments.derivations": (
        "test_derivations.py::test_measured_tables_are_those_of_the_pages runs it"
    ),
}
"""Lines that are neither, and why."""

STANDS_FOR = {"STAGE": "layer", "…": "page.md"}
"""What takes the place of a word that a sentence leaves open."""


def commands(text: str) -> list[str]:
    """The commands of a shell text: without comments, one for each part of a chain."""
    lines = [" ".join(shlex.quote(word) for word in shlex.split(line, comments=True)) for line in text.splitlines()]
    return [shlex.join(shlex.split(part)) for line in lines for part in line.split(" '&&' ") if part]


def same(line: str) -> str:
    """One spelling for a line, whatever its quotes."""
    return shlex.join(shlex.split(line))


def in_blocks() -> set[tuple[str, str]]:
    """(page, command) of every sh block."""
    found = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for shell in re.findall(r"^ *```(?:sh|bash|shell|console)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            found |= {(name_of(page), command) for command in commands(shell)}
    return found


def in_sentences() -> set[tuple[str, str]]:
    """(page, command) of every command in code font within a sentence."""
    return {
        (name_of(page), same(code))
        for page in PAGES
        for code in in_code_font(page.read_text(encoding="utf-8"))
        if code.startswith(COMMANDS)
    }


def tables() -> list[set[str]]:
    """The lines of each table."""
    ran = {same(line.line) for visit in visits().values() for line in visit.lines}
    return [ran, *({same(line) for line in table} for table in (RUN_BY, PARSED, RUN_BY_CI, NOT_RUN))]


def test_every_shell_line_is_accounted_for() -> None:
    """A line of an sh block stands in exactly one table, and no table has a line that no page has."""
    written = {command for _, command in in_blocks()}
    for command in written:
        assert sum(command in table for table in tables()) == 1, f"a page has a line that no test knows: {command}"
    known = written | {command for _, command in in_sentences()}
    assert set().union(*tables()) - {"cp adalora my_adalora"} <= known


@pytest.mark.parametrize("name", visits())
def test_lines_run_as_written(name: str, tmp_path: Path) -> None:
    """Lines typed one after the other beside the page's files end as they must, and print what the page shows."""
    visit, bin_folder = visits()[name], tmp_path / "bin"
    if any(line.line.startswith("cc ") for line in visit.lines) and shutil.which("cc") is None:
        pytest.skip("the program in C needs a compiler named cc; there is none")
    bin_folder.mkdir()
    for command, meant in {"adalora-ref": "-m adalora_ref", "python": "", "pytest": "-m pytest"}.items():
        (bin_folder / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {meant} "$@"\n', encoding="utf-8")
        (bin_folder / command).chmod(0o755)
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    for file, text in visit.files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    printed = []
    for line in visit.lines:
        typed = ["sh", "-c", f"{line.line} {line.added}"]
        done = subprocess.run(typed, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == line.status, (line, done.stdout, done.stderr)
        printed.append(done.stdout)
    assert lacking(visit.shown, printed[0]) == []


@pytest.mark.parametrize("line", RUN_BY)
def test_another_test_runs_it(line: str) -> None:
    """The test that a line is left to exists, and its file holds the words of the line."""
    file, _, function = RUN_BY[line].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    held = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert set(shlex.split(line)[1:]) - {"build/site"} <= held


@pytest.mark.parametrize("line", RUN_BY_CI)
def test_ci_runs_it(line: str) -> None:
    """.ci/run has the line that does it; where that is a command of the README, the README has the line."""
    does = RUN_BY_CI[line]
    assert does in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    if does.startswith("run_readme_command"):
        shell = blocks("../../README.md", "sh")
        assert any(line in text and re.search(does.split("'")[1], text.strip()) for text in shell)


def parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand the words of *command* to its own parser, and stop before it does anything."""
    program, *words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
    if program == "adalora-ref":
        context, group = click.Context(main), main
        while isinstance(group, click.Group) and words and not words[0].startswith("-"):
            name, group, words = group.resolve_command(context, words)
            context = click.Context(group, info_name=name, parent=context)
        with contextlib.suppress(click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
            group.make_context("adalora-ref", words, parent=context.parent)
        return
    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any, **options: Any) -> None:
        real(self, *given, **options)
        raise SystemExit(0)

    script = ROOT / words[0]
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(script.parent))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0


def to_parse() -> list[str]:
    """What is parsed alone: the commands of that table, and those of sentences that no other table has."""
    left = {command for _, command in in_sentences()} - set().union(*tables())
    return sorted(left | {same(line) for line in PARSED})


@pytest.mark.parametrize("command", to_parse())
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is not run here is one that its own parser takes, options and values included."""
    parse(command, monkeypatch)


@pytest.mark.parametrize("wrong", ["adalora-ref verify --stag x", "python tests/benchmarks/laws.py --seedz 3"])
def test_what_does_not_parse_is_found(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that the command does not have is an error."""
    with pytest.raises((click.UsageError, AssertionError)):
        parse(wrong, monkeypatch)
