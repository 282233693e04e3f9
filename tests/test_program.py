"""Programs as targets: one in C conforms, a mistake in it is named, and whatever a program does is one sentence."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from adalora_ref.adamw import AdamState
from adalora_ref.budget import BudgetSchedule
from adalora_ref.cli import main
from adalora_ref.conformance import conversation, protocol
from adalora_ref.conformance.checking import check_stages, stage_named
from adalora_ref.conformance.deviations import reference
from adalora_ref.conformance.program import Program, read_results, running
from adalora_ref.conformance.protocol import Hello, ProgramError, ProtocolError
from adalora_ref.conformance.stages import STAGES
from adalora_ref.conformance.target import CannotExpress, Lane, Target, on_host, spoken
from adalora_ref.conformance.tensor_files import read, write
from adalora_ref.conformance.verdict import Row, Verdict
from adalora_ref.convention import CONVENTIONS, SPEC, Convention
from adalora_ref.factors import Factors
from adalora_ref.importance import Importance
from adalora_ref.records import Config, TrainState

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "docs/verify/adalora.c"
IN_C = ("linear_forward", "linear_backward", "increment", "merge", "unmerge", "orthogonality_penalty",
        "update_importance", "triplet_scores", "budget_at", "allocate", "prune")  # fmt: skip

HONEST = r"""
import json, struct, sys, time, os, signal, subprocess
hello = json.loads(sys.stdin.readline())
told = {"protocol": 1, "name": "in Python", "stages": ["phase_at", "allocates_at"], "dtypes": ["float64"]}
def say(answer):
    sys.stdout.write(answer if isinstance(answer, str) else json.dumps(answer) + "\n"); sys.stdout.flush()
def requests():
    for line in sys.stdin:
        yield json.loads(line)
def phase(s, t):
    return 0 if t < s["warmup"] else 1 if t < s["total"] - s["final"] else 2
def tensors(path, **held):
    header, body = {}, b""
    for name, (dtype, letter, numbers) in held.items():
        data = struct.pack(f"<{len(numbers)}{letter}", *numbers)
        span = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": [len(numbers)], "data_offsets": span}
        body += data
    head = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head + body)
def compute(request, integers=("I64", "q")):
    a = request["case"]["arguments"]; s = a["schedule"]
    if request["case"]["stage"] == "phase_at":
        tensors(request["results"], phase=(*integers, [phase(s, t) for t in a["steps"]]))
    else:
        end = s["total"] - s["final"]
        due = [t == end or (s["warmup"] <= t < end and (t - s["warmup"]) % s["interval"] == 0) for t in a["steps"]]
        tensors(request["results"], due=("BOOL", "?", due))
"""
"""A program of two stages, up to the point where it greets; how it goes on is what a test is about."""

GOES_ON = "say(told)\nfor r in requests(): compute(r); say({'id': r['id'], 'ok': True})\n"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compile the example, warnings being errors, with further arguments; return the target."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("the program in C needs a compiler named cc; there is none")

    def build(*arguments: str) -> str:
        binary = tmp_path_factory.mktemp("c") / "adalora"
        strict = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", *arguments)
        subprocess.run([compiler, *strict, "-o", str(binary), str(SOURCE), "-lm"], check=True, timeout=60)
        return f"exec:{binary}"

    return build


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Write a program in Python that begins honestly and goes on as told; return the command."""

    def make(goes_on: str, begins: str = HONEST) -> str:
        path = tmp_path / "program.py"
        path.write_text(begins + textwrap.dedent(goes_on), encoding="utf-8")
        return f"{sys.executable} -S -E {path}"

    return make


def verify(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["verify", "--no-repro", *arguments])


def rows(command: str, *stages: str, rules: Convention = SPEC, seconds: float = 10.0, cases: int = 6) -> list[Row]:
    with running(command, seconds=seconds) as target:
        return list(check_stages([target], [stage_named(name) for name in stages], rules, cases=cases, seed=0))


# A PROGRAM IN C


def test_the_example_in_c_conforms(compiled: Callable[..., str], tmp_path: Path) -> None:
    """The example passes each of its stages in both dtypes, and everything else is listed as not run."""
    requirements = [argument for name in IN_C for argument in ("--require", name)]
    done = verify(compiled(), *requirements, "--json", str(tmp_path / "verdict.json"))
    assert done.exit_code == 0, done.output
    assert "adalora.c conforms: 528 of 1008 checks ran, 0 of them inconclusive" in done.output
    told = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    assert {row["stage"] for row in told["rows"] if row["verdict"] == "PASS"} == set(IN_C)
    assert {row["verdict"] for row in told["rows"]} == {"PASS", "NOT RUN"}


def test_a_mistake_in_c_is_named(compiled: Callable[..., str]) -> None:
    """The mistake that a define plants fails its stage and no other, under its name."""
    done = verify(compiled("-DMISTAKE"), "--preset", "quick")
    assert done.exit_code == 1
    assert "matches `uncertainty_uses_previous_mean` in all 12 cases" in done.output
    assert [line.split()[0] for line in done.output.splitlines() if " FAIL " in line and ":" not in line] == [
        "update_importance"
    ]


def test_another_convention_is_refused_where_it_differs(compiled: Callable[..., str]) -> None:
    """The example follows SPEC alone: under PEFT it refuses budget and selection, and the rest passes."""
    held = {row.stage: row for row in rows(compiled()[5:], "budget_at", "merge", rules=CONVENTIONS["PEFT"])}
    assert held["merge"].verdict is Verdict.PASS
    assert held["budget_at"].verdict is Verdict.NOT_RUN
    assert {check.reason for check in held["budget_at"].checks} == {"adalora.c follows SPEC alone"}


def test_the_example_is_clean_under_sanitizers(compiled: Callable[..., str]) -> None:
    """Nothing in the example reads or writes where it should not, and no arithmetic of it is undefined."""
    try:
        command = compiled("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    except subprocess.CalledProcessError:
        pytest.skip("this compiler has no sanitizers")
    assert {row.verdict for row in rows(command[5:], *IN_C, cases=24)} == {Verdict.PASS}


# THE REFERENCE BEHIND THE PROTOCOL

RECORDS = {
    frozenset(names): kind
    for kind, names in (
        (Factors, ("B", "s", "A")),
        *((kind, kind._fields) for kind in (Importance, AdamState, TrainState)),
        *((kind, [field.name for field in fields(kind)]) for kind in (BudgetSchedule, Config)),
    )
}


def rebuilt(value: Any, tensors: dict[str, Any]) -> Any:
    """The arguments of a case, from their JSON and the tensors beside it."""
    if isinstance(value, list):
        return tuple(rebuilt(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tensor"}:
        return tensors[value["tensor"]]
    return RECORDS.get(frozenset(value), dict)(**{key: rebuilt(item, tensors) for key, item in value.items()})


class Reference:
    """A conversation with the reference, which gets what a program gets and answers as a program would."""

    def ask(self, line: bytes, _: str) -> bytes:
        asked = json.loads(line)
        case, rules = asked["case"], CONVENTIONS[asked["case"]["convention"]]
        inputs = rebuilt(case["arguments"], read(Path(asked["tensors"])).tensors)
        lane = Lane(case["dtype"], "float32", rules)
        results = Target("reference", reference(rules)).answer(stage_named(case["stage"]), inputs, lane)
        write(Path(asked["results"]), {spoken(path): on_host(value) for path, value in results.items()})
        return json.dumps({"id": asked["id"], "ok": True}).encode()


@pytest.mark.parametrize("rules", [CONVENTIONS["SPEC"], CONVENTIONS["PEFT"]], ids=lambda rules: rules.name)
def test_what_a_program_is_given_is_enough(rules: Convention, tmp_path: Path) -> None:
    """The reference, given only what a request and its file say, conforms at every stage in every kind of dtype."""
    stages = [stage for stage in STAGES if stage.holds_under(rules)]
    names = tuple(stage.name for stage in stages)
    held = Hello(
        "reference", names, ("float64", "bfloat16"), "float32", {stage.name: stage.options for stage in stages}
    )
    program = Program("reference", held, conversation=Reference(), folder=tmp_path)
    for row in check_stages([program], stages, rules, cases=3, seed=2):
        assert row.verdict is Verdict.PASS, row
        assert row.run == 6 or {check.reason for check in row.checks if check.reason} == {
            f"the selection of {rules.name} counts triplets; it knows no cost"
        }
    assert not list(tmp_path.iterdir())


# WHAT A PROGRAM MAY DO


def test_a_program_conforms(program: Callable[[str], str]) -> None:
    """What is offered and right passes, in the dtypes offered; the verdict has the program's own name."""
    done = verify(f"exec:{program(GOES_ON)}")
    assert done.exit_code == 0, done.output
    assert "in Python conforms: 48 of 504 checks ran" in done.output


def test_integers_of_32_bits(program: Callable[[str], str]) -> None:
    """Integers may have 32 bits, and no other width."""
    for letters, verdict in (("('I32', 'i')", Verdict.PASS), ("('U8', 'B')", Verdict.FAIL)):
        narrow = f"say(told)\nfor r in requests(): compute(r, {letters}); say({{'id': r['id'], 'ok': True}})"
        (row,) = rows(program(narrow), "phase_at")
        assert row.verdict is verdict


def test_refusal_is_not_run_and_an_error_is_a_failure(program: Callable[[str], str]) -> None:
    """A case that is refused did not run; one that the program was unable to compute has failed, for its reason."""
    refuses = "say(told)\nfor r in requests(): say({'id': r['id'], 'refused': 'no \\x1b[31mschedules'})"
    (row,) = rows(program(refuses), "phase_at")
    assert {(check.verdict, check.reason) for check in row.checks} == {(Verdict.NOT_RUN, "no  [31mschedules")}
    fails = "say(told)\nfor r in requests(): say({'id': r['id'], 'error': 'out of registers'})"
    (row,) = rows(program(fails), "phase_at")
    assert {(c.verdict, c.reason) for c in row.checks} == {
        (Verdict.FAIL, "phase_at raised ProgramError: out of registers")
    }


def test_options_that_a_program_lacks() -> None:
    """A stage without one of its options runs the other cases; a stage that is not mentioned takes all."""
    line = {"protocol": 1, "name": "p", "dtypes": ["float32"], "stages": ["allocate", "linear_forward"]}
    held = protocol.read_hello(json.dumps(line | {"options": {"linear_forward": ["bias"]}}).encode())
    assert held.options == {"allocate": ("cost",), "linear_forward": ("bias",)}


def test_options_decide_which_cases_run(program: Callable[[str], str]) -> None:
    """Cases that use an option which a program lacks are not asked."""
    lacks = "told |= {'stages': ['allocate'], 'options': {'allocate': []}}\nsay(told)\nfor r in requests(): os._exit(1)"
    with running(program(lacks)) as target:
        assert target.lacks(stage_named("allocate"), ["cost"]) == "the target's allocate takes no cost"
        assert target.lacks(stage_named("allocate"), []) == ""
        assert target.lacks(stage_named("linear_backward"), []) == "the target has no linear_backward"


def test_what_a_wrong_result_hangs_on(program: Callable[[str], str]) -> None:
    """The diagnosis asks a program too, with perturbed arguments."""
    wrong = """
        say(told)
        for r in requests():
            r["case"]["arguments"]["schedule"]["warmup"] = 5
            compute(r); say({"id": r["id"], "ok": True})
        """
    (row,) = rows(program(wrong), "phase_at", cases=12)
    assert row.verdict is Verdict.FAIL
    assert row.diagnosis.endswith("and stayed where schedule.warmup moved the right one")


def test_a_program_that_dies_of_a_diagnosis(program: Callable[[str], str]) -> None:
    """A program that dies when perturbed arguments are asked for ends the check, as it does anywhere else."""
    dies = """
        say(told)
        for r in requests():
            if r["id"] == 7: sys.exit(6)  # six cases, the first of them twice
            r["case"]["arguments"]["schedule"]["warmup"] = 5
            compute(r); say({"id": r["id"], "ok": True})
        """
    with pytest.raises(ProtocolError, match="ended with exit status 6"):
        rows(program(dies), "phase_at")


def test_an_unsteady_program_is_warned_of(program: Callable[[str], str]) -> None:
    """Two right answers to one question that differ, here by the sign of a zero, are WARN."""
    unsteady = """
        told["stages"] = ["init_importance"]
        say(told)
        for n, r in enumerate(requests()):
            with open(r["tensors"], "rb") as file:
                held = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            header, end = {}, 0
            for average in ("sensitivity", "uncertainty"):
                for part in "BsA":
                    like = held[f"factors.{part}"]
                    begin, end = end, end + like["data_offsets"][1] - like["data_offsets"][0]
                    header[f"state.{average}.{part}"] = like | {"data_offsets": [begin, end]}
            head, zero = json.dumps(header).encode(), struct.pack("<d", 0.0 if n % 2 else -0.0)
            with open(r["results"], "wb") as file:
                file.write(struct.pack("<Q", len(head)) + head + zero * (end // 8))
            say({"id": r["id"], "ok": True})
        """
    (row,) = rows(program(unsteady), "init_importance")
    assert row.verdict is Verdict.WARN
    assert "two calls with the same arguments returned different results" in {check.reason for check in row.checks}


# WHAT ENDS A CHECK

ENDS = {
    "dies at once": ("sys.exit(3)", r"ended with exit status 3 before it answered the greeting; it wrote nothing"),
    "dies later": (
        "say(told)\nfor r in requests(): sys.stderr.write('\\nfirst\\nno memory\\x1b[31m\\n'); sys.exit(7)",
        r"ended with exit status 7 before it answered phase_at in float64; its standard error ends: first \| no memory",
    ),
    "is killed": ("os.kill(os.getpid(), signal.SIGSEGV)", r"ended by SIGSEGV before it answered the greeting"),
    "dies while a child holds its output": (
        "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); os._exit(5)",
        r"ended with exit status 5 before it answered the greeting",
    ),
    "closes its output": ("os.close(1); time.sleep(60)", r"closed its standard output before it answered the greeting"),
    "hangs": ("say(told); sys.stdin.readline(); time.sleep(60)", r"took longer than 1.5 s for phase_at in float64"),
    "never reads": ("say(told); time.sleep(60)", r"took longer than 1.5 s for phase_at in float64 and was ended"),
    "floods its output": ("while True: say('y' * 65536)", r"the greeting with a line of more than 1048576 bytes"),
    "floods lines": ("say(told)\nwhile True: say('y\\n')", r"spoke before it was asked for phase_at|in JSON"),
    "floods its error": ("while True: sys.stderr.write('e' * 65536)", r"took longer than 1.5 s for the greeting"),
    "says hello to people": ("say('Welcome!\\n')", r"must answer in JSON, one object a line; got 'Welcome!' \("),
    "is no text": ("sys.stdout.buffer.write(b'\\xff\\x00\\n'); sys.stdout.flush()", r"must answer in JSON, .*utf-8"),
    "speaks twice": ("say(json.dumps(told) + '\\nmore\\n'); time.sleep(9)", r"spoke before it was asked for phase_at"),
    "is a list": ("say('[]\\n')", r"must answer with a JSON object; got \[\]"),
    "nests": ("say('[' * 100000 + '\\n')", r"in JSON, one object a line; got '\[.*nested too deep"),
    "repeats a key": ("say('{\"protocol\": 1, \"protocol\": 1}\\n')", r"the key 'protocol' stands there twice"),
    "is NaN": ("say('{\"protocol\": NaN}\\n')", r"NaN is no number in JSON"),
    "another version": ("say(told | {'protocol': 2})", r"must speak protocol 1; it speaks 2"),
    "a boolean version": ("say(told | {'protocol': True})", r"must speak protocol 1; it speaks True"),
    "no name": ("say(told | {'name': ' '})", r"must tell its name, a string"),
    "unknown stage": ("say(told | {'stages': ['prune', 'guess']})", r"stages must be .* among init_factors, .*'guess'"),
    "no stage": ("say(told | {'stages': []})", r"stages must be a list of names"),
    "a stage twice": ("say(told | {'stages': ['prune', 'prune']})", r"stages must be named once each"),
    "unknown dtype": ("say(told | {'dtypes': ['float8']})", r"dtypes must be .* among float64, .*'float8'"),
    "unknown accumulation": ("say(told | {'accumulation': 'tf32'})", r"accumulation must be one of float64, .*'tf32'"),
    "unknown option": ("say(told | {'options': {'phase_at': ['x']}})", r"options of phase_at must be among none"),
    "option of another stage": ("say(told | {'options': {'merge': []}})", r"options must be lists of names by stage"),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDS)
def test_a_program_that_breaks_the_protocol(
    what: str, program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It ends in one sentence that says what it did, with no process and no file left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    monkeypatch.setattr(conversation, "GRACE", 0.2)
    (tmp_path / "temp").mkdir()
    goes_on, pattern = ENDS[what]
    command = program(goes_on)
    begun = time.monotonic()
    with pytest.raises(ProtocolError, match=pattern) as caught:
        rows(command, "phase_at", seconds=1.5 if "longer" in pattern else 30.0)
    assert time.monotonic() - begun < 20.0
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert not list((tmp_path / "temp").iterdir())
    assert not [command for command in processes().values() if str(tmp_path) in command]


def processes() -> dict[int, str]:
    """The commands of all processes by number; of one that has ended and waits for its parent it is empty."""
    if not Path("/proc/self").exists():
        listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        return {int(pid): command for pid, command in (line.split(None, 1) for line in listed.splitlines())}
    held = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            held[int(path.parent.name)] = path.read_text(encoding="utf-8", errors="replace")
    return held


ANSWERS = {
    "another id": ("{'id': r['id'] + 1, 'ok': True}", r"must answer the request with id 0; it answered id 1"),
    "a boolean id": ("{'id': False, 'ok': True}", r"must answer the request with id 0; it answered id False"),
    "nothing": ("{'id': r['id']}", r"must answer with one of ok, refused and error; got \[\]"),
    "two things": ("{'id': r['id'], 'ok': True, 'error': 'x'}", r"one of ok, refused and error; got \['ok', 'error'\]"),
    "not ok": ("{'id': r['id'], 'ok': False}", r"must answer ok: true, or refuse with a reason; got ok: False"),
    "no reason": ("{'id': r['id'], 'refused': 1}", r"must say why, in a string, after refused; got 1"),
    "no file": ("{'id': r['id'], 'ok': True}", r"results cannot be read: there is no file"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_an_answer_that_is_none(what: str, program: Callable[[str], str]) -> None:
    """An answer that the protocol does not know ends the check."""
    answer, pattern = ANSWERS[what]
    with pytest.raises(ProtocolError, match=pattern):
        rows(program(f"say(told)\nfor r in requests(): say({answer})"), "phase_at")


def test_the_command_says_it_in_one_sentence(program: Callable[[str], str], tmp_path: Path) -> None:
    """On the command line it is one sentence with exit status 2, and no report, not even one of what went before."""
    dies = """
        say(told)
        for r in requests():
            if r["id"] == 9: sys.exit(4)
            compute(r); say({"id": r["id"], "ok": True})
        """
    done = verify(f"exec:{program(dies)}", "--json", str(tmp_path / "verdict.json"), "--junit", str(tmp_path / "v.xml"))
    assert done.exit_code == 2
    assert done.output == (
        "Error: the program ended with exit status 4 before it answered phase_at in float64; "
        "it wrote nothing to its standard error\n"
    )
    assert not list(tmp_path.glob("v*"))


@pytest.mark.parametrize(
    ("command", "pattern"),
    [
        ("", "a program is written exec:COMMAND; got no command"),
        ("'unfinished", "the command of a program must be one that a shell can read: No closing quotation"),
        ("./no/such/program --fast", "the program './no/such/program' cannot be started: No such file or directory"),
        (str(ROOT), "cannot be started: Permission denied"),
        (str(ROOT / "LICENSE"), "cannot be started: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_started(command: str, pattern: str) -> None:
    """A command that is none, or that leads to no program, is one sentence with exit status 2."""
    done = verify(f"exec:{command}")
    assert done.exit_code == 2
    assert done.output.startswith("Error: ")
    assert pattern in done.output


def test_a_program_that_will_not_end_is_killed(program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ignores the end of its input and the request to terminate is killed, with the children it left."""
    monkeypatch.setattr(conversation, "GRACE", 0.1)
    stays = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        told["name"] = f"{os.getpid()} {child.pid}"
        say(told)
        while True: time.sleep(1)
        """
    with running(program(stays)) as target:
        pids = [int(word) for word in target.name.split()]
        deadline = time.monotonic() + 5
        while not all(processes().get(pid) for pid in pids):  # a child that was just made may have no name yet
            assert time.monotonic() < deadline
    deadline = time.monotonic() + 5
    while any(processes().get(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(processes().get(pid) for pid in pids)


def test_termination_of_the_kit_ends_the_program(program: Callable[[str], str], tmp_path: Path) -> None:
    """SIGTERM in the middle of an answer ends the command with status 143; program and files are gone."""
    stays = "say(told); sys.stdin.readline(); open(sys.argv[1], 'w').close(); time.sleep(60)"
    asked = tmp_path / "asked"
    (tmp_path / "temp").mkdir()
    command = [sys.executable, "-m", "adalora_ref", "verify", f"exec:{program(stays)} {asked}"]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temp"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not asked.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 143
    assert not list((tmp_path / "temp").iterdir())
    assert not [running for running in processes().values() if str(asked) in running]


def test_much_standard_error_is_no_obstacle(program: Callable[[str], str]) -> None:
    """A program that logs a megabyte for each case is read all the same, and its results count."""
    logs = (
        "say(told)\nfor r in requests(): compute(r); sys.stderr.write('e' * 1000000); say({'id': r['id'], 'ok': True})"
    )
    (row,) = rows(program(logs), "phase_at", cases=3)
    assert row.verdict is Verdict.PASS


# FILES OF RESULTS


def test_results_are_read_under_their_paths(tmp_path: Path) -> None:
    """Spoken names become the paths of results; 32-bit integers become 64-bit ones, and nothing else changes."""
    held = {"d.B": np.ones((2, 1), np.float32), "keep[q]": np.array([True]), "state.steps": np.array(3, np.int32)}
    write(tmp_path / "r", held)
    found = read_results(tmp_path / "r", 10_000)
    assert {path: (a.dtype.name, a.shape) for path, a in found.items()} == {
        "[d].B": ("float32", (2, 1)), "[keep][q]": ("bool", (1,)), "[state].steps": ("int64", ())
    }  # fmt: skip


def test_results_that_are_refused(tmp_path: Path) -> None:
    """A file that is too large is refused before it is read; so are names that mean nothing, and what is no file."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(10**12)  # of which nothing is on the disk
    with pytest.raises(ProtocolError, match=r"results cannot be read: .* is larger than 5000 bytes: 1000000000000"):
        read_results(large, 5000)
    for name in ("[y]", ".y", "", "a]b"):
        write(tmp_path / "named", {name: np.ones(1)})
        with pytest.raises(
            ProtocolError, match=rf"must have the names of docs/verify/stages.md; got '{re.escape(name)}'"
        ):
            read_results(tmp_path / "named", 5000)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ProtocolError, match="results cannot be read: there is no file"):
            read_results(path, 5000)
    if os.geteuid():
        (tmp_path / "named").chmod(0)
        with pytest.raises(ProtocolError, match=r"results cannot be read: .*Permission denied"):
            read_results(tmp_path / "named", 5000)


def test_reasons_are_told_apart() -> None:
    """What refuses, what fails and what breaks the protocol are three kinds of answer, all safe to print."""
    for line, kind in (
        (b'{"id": 7, "refused": "a\\u0007b\\ud800"}', CannotExpress),
        (b'{"id": 7, "error": "a\\u0007b"}', ProgramError),
        (b'{"id": 8, "error": "a"}', ProtocolError),
    ):
        with pytest.raises(kind) as caught:
            protocol.read_answer(line, 7)
        assert str(caught.value).isprintable()
    protocol.read_answer(b'{"id": 7, "ok": true}\r', 7)


def test_a_short_run_of_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    """Mutated replies and files end in the right exception; the long run is in docs/results/fuzz.md."""
    spec = importlib.util.spec_from_file_location("fuzz_protocol", ROOT / "tests/fuzz/fuzz_protocol.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    outcomes, found, _ = script.fuzz(0.01, 1, tmp_path)
    assert found == []
    assert {"greeting taken", "greeting refused", "file taken", "file refused"} <= outcomes.keys()
