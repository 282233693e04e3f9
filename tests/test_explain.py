"""`adalora-ref explain`: the code shown is the source, the numbers are the core's, an answer is judged by element."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from adalora_ref import Factors, linear_backward, linear_forward
from adalora_ref.cli import main
from adalora_ref.explain import asking, drawing, playing, showing
from adalora_ref.explain.drawing import Options
from adalora_ref.explain.stages import STAGES
from adalora_ref.explain.steps import Worked, departing, found
from adalora_ref.explain.tiny_run import frames

ROOT = Path(__file__).parents[1]
OPTIONS = (Options(), Options(seed=7, r=3, d_in=2, d_out=4, n=1), Options(numbers="random", seed=1, r=1))
every_stage = pytest.mark.parametrize("stage", STAGES)


def explain(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["explain", *arguments], input=typed)


# THE STEPS


@every_stage
def test_code_is_the_source(stage: str) -> None:
    """Every piece of code stands in the named line of the named file."""
    steps = STAGES[stage].work(Options()).steps()
    assert steps
    for step in steps:
        file, line = step.place.split(":")
        text = (ROOT / "adalora_ref" / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert step.code
        assert step.code in text


@every_stage
@pytest.mark.parametrize("options", OPTIONS, ids=["integers", "other sizes", "random"])
def test_last_steps_are_what_the_core_returns(stage: str, options: Options) -> None:
    """What the lines leave equals, entry for entry, what the public functions return."""
    worked = STAGES[stage].work(options)
    assert worked.returned
    assert departing(worked) == []


def test_layer_steps_equal_the_public_functions() -> None:
    """y, dx, dB, ds and dA on the page are those of linear_forward and linear_backward, and so is u."""
    arrays, factors = drawing.layer(Options(seed=5))
    values = {step.symbol: step.value for step in STAGES["layer"].work(Options(seed=5)).steps()}
    y, cache = linear_forward(arrays["x"], arrays["W"], factors, scale=2.0)
    dx, (dB, ds, dA) = linear_backward(arrays["dy"], cache)
    for name, expected in {"u": cache.u, "y": y, "dx": dx, "dB": dB, "ds": ds, "dA": dA}.items():
        assert np.array_equal(values[name], expected)


def test_a_step_that_departs_is_named() -> None:
    """A returned value that differs in one entry, or in shape, is found, and the screen says so."""
    worked = STAGES["layer"].work(Options())
    one = {**worked.returned, "ds": worked.returned["ds"] + np.array([0.0, 1e-9])}
    assert departing(worked._replace(returned=one)) == ["ds"]
    assert departing(worked._replace(returned={"ds": worked.returned["ds"][:1]})) == ["ds"]


def test_a_piece_of_code_must_be_in_one_line() -> None:
    """What no line has, and what several have, is refused."""
    with pytest.raises(ValueError, match="0 have"):
        found(linear_forward, "q = x")
    with pytest.raises(ValueError, match="3 have"):
        found(linear_forward, "y = ")


@every_stage
def test_integers_are_for_a_pencil(stage: str) -> None:
    """With integers, at the sizes one gets, every number is a fraction that is shown exactly."""
    for seed in range(4):
        worked = STAGES[stage].work(Options(seed=seed))
        for value in numbers_of(worked):
            shown = showing.text_of(value, exact=True)
            assert abs(Fraction(shown) - Fraction(value)) <= Fraction(1, 10**12)
            assert not shown.endswith(".0")


def numbers_of(worked: Worked) -> list[float]:
    blocks = [a for step in worked.steps() for a in showing.arrays_of(step).values()]
    return [float(entry) for a in blocks for entry in np.ravel(np.asarray(a))]


def test_what_one_gets_is_the_layer_of_the_exercises() -> None:
    """Without options the numbers are those of docs/derivations/README.md."""
    page = (ROOT / "docs/derivations/README.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    block = re.search(r"^>>> x = .*?(?=^>>> y,)", page, flags=re.DOTALL | re.MULTILINE)
    assert block
    program = re.sub(r"^(>>>|\.\.\.) ", "", block[0], flags=re.MULTILINE)
    exec(program, {"np": np, "Factors": Factors}, scope)  # noqa: S102 -- the page's own program
    arrays, factors = drawing.layer(Options())
    assert np.array_equal(arrays["x"], scope["x"])
    assert np.array_equal(arrays["W"], scope["W"])
    assert all(np.array_equal(a, b) for a, b in zip(factors, scope["factors"], strict=True))


def test_whole_norms() -> None:
    """Factors of the norm stage have whole norms above 0, so that its gradient is rational."""
    for seed in range(5):
        values = {step.symbol: step.value for step in STAGES["norm"].work(Options(seed=seed)).steps()}
        for name in ("norm_B", "norm_A"):
            assert float(values[name]) == int(values[name]) > 0


LEFT_OUT = {
    "layer": lambda v: [
        np.all(v["ds"]),
        *(np.any(v[name]) for name in ("frozen", "u", "z", "zB", "dB", "dA", "dx_hat")),
    ],
    "penalty": lambda v: [np.any(v["dB"]), np.any(v["dA"])],
    "norm": lambda v: [np.any(v["dB"]), np.any(v["dA"])],
    "importance": lambda v: [np.all(v["I"].s), np.all(v["U_bar"].s), *map(np.any, v["I"]), *map(np.any, v["U_bar"])],
    "scores": lambda v: [np.all(v["product"].s), np.all(v["mean_B"]), np.all(v["mean_A"])],
    "schedule": lambda v: [v["budget"] > v["budgets"][-1], v["numerator"] % v["denominator"], v["left"] < v["window"]],
    "allocate": lambda v: [
        v["order"].tolist() != list(range(v["order"].size)),
        v["order"].size == 2 or ((v["order"] < v["kept"]) != v["chosen"]).any(),
        v["masks"]["q"].sum() != v["masks"]["v"].sum(),
    ],
    "adamw": lambda v: [np.all(v["w"].s + v["step"].s * 0.5), *map(np.any, v["step"])],
}
"""By stage, what must hold so that whoever leaves out a quantity is found wrong."""


@every_stage
def test_no_quantity_can_be_left_out(stage: str) -> None:
    """Whatever the seed and the sizes, each intermediate result matters."""
    sizes: list[dict[str, Any]] = [{}, {"r": 1, "d_in": 1, "d_out": 1, "n": 1}, {"r": 5, "d_in": 1, "n": 1}]
    if stage == "norm":  # the larger have no whole norms
        sizes.pop()
    for size in sizes:
        for numbers in drawing.NUMBERS:
            for seed in range(5 if size else 20):
                worked = STAGES[stage].work(Options(numbers=numbers, seed=seed, **size))
                assert all(LEFT_OUT[stage]({step.symbol: step.value for step in worked.steps()})), (size, numbers, seed)


# THE SCREEN


def test_numbers_as_one_writes_them() -> None:
    """Integers have no point, dyadic numbers are decimals, thirds are fractions, the rest has six digits."""
    cases = {
        3.0: "3",
        -2.5: "-2.5",
        1 / 3: "1/3",
        -7 / 18: "-7/18",
        1.6: "1.6",
        2**0.5: "1.41421",
        5086.46875: "5086.46875",
    }
    assert {value: showing.text_of(value, exact=True) for value in cases} == cases
    assert showing.lines_of(np.array([[1.0, -10.0], [0.5, 2.0]]), exact=True) == ["  1  -10", "0.5    2"]
    assert showing.lines_of(np.array([1.0, 22.25]), exact=False) == [" 1.00  22.25"]


def test_the_layer_on_the_screen() -> None:
    """Formula, shape, place, code and numbers, forward before backward, and nothing is wider than 80 columns."""
    done = explain("layer")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith("dB = scale · dyᵀ z")]
    assert lines[start].split()[-5:-2] == ["3", "×", "2"]
    assert "linear.py:" in lines[start]
    assert lines[start + 1] == "│ dB = scale * (dy.T @ (u * s))  # (d_out, r)"
    assert lines[start + 3 : start + 6] == ["    20  -4", "    -8   0", "     4   4"]
    headings = [line.split()[0] for line in lines if line.endswith("──")]
    assert headings == ["Given", "Forward", "Backward"]
    assert max(map(len, lines)) <= 82  # combining marks have no width of their own
    assert "the same, bit for bit." in done.output


@every_stage
def test_every_stage_can_be_shown(stage: str) -> None:
    """Each is shown at other sizes and with random numbers, and agrees with the core."""
    given = {"numbers": "random", "seed": "2", "r": "6", "d_in": "6", "d_out": "1", "n": "1"}
    used = [text for name in STAGES[stage].uses for text in (f"--{name.replace('_', '-')}", given[name])]
    for more in ([], used):
        done = explain(stage, *more)
        assert max(map(len, done.output.splitlines())) <= 90  # combining marks have no width of their own
        assert done.exit_code == 0
        assert "the same, bit for bit." in done.output
        assert "-0.00 " not in done.output


def test_the_list_has_every_stage() -> None:
    """Without a stage there is a line for each, and one for the run."""
    done = explain()
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines() if line.startswith("  ")] == [*STAGES, "run"]


def test_stages_cite_pages_that_exist() -> None:
    """Each names a page of the derivations."""
    assert all((ROOT / "docs/derivations" / row.page).is_file() for row in STAGES.values())


# ONE'S OWN RESULT

RIGHT = {
    "dB": "20 -4; -8 0; 4 4",
    "ds": "2, 4",
    "u": "1 2;2 0;",
    "dA": "4 0 8/1; −2 12/3 -8.0",
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer(name: str) -> None:
    """Blanks or commas, semicolons, fractions, decimals and a true minus are read; the status is 0."""
    done = explain("layer", "--check", typed=f"{name}\n{RIGHT[name]}\n")
    assert done.exit_code == 0
    assert f"Right: {name}" in done.output


ROUNDED = {
    "a fraction": ("20/3 8/3", True),
    "three digits": ("6.67 2.67", True),
    "ten": ("6.666666667 2.666666667", True),
    "of unequal length": ("6.667 2.66667", True),
    "with a power": ("667e-2 .267e1", True),
    "all of a double": ("6.666666666666667 2.6666666666666665", True),
    "cut off": ("6.66 2.66", False),
    "two digits": ("6.7 2.7", False),
    "the last digit": ("6.668 2.667", False),
    "a near fraction": ("667/100 267/100", False),
}


@pytest.mark.parametrize("case", ROUNDED)
def test_a_number_may_be_rounded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is right within half a unit of its last digit if it has three significant ones; a fraction is exact."""
    answer, right = ROUNDED[case]
    value = np.array([20.0, 8.0]) / 3.0
    step = STAGES["layer"].work(Options()).steps()[0]._replace(symbol="S", value=value)
    monkeypatch.setattr(Worked, "steps", lambda _: [step])
    done = explain("layer", "--check", typed=f"S\n{answer}\n")
    assert done.exit_code == (not right)
    if not right:  # what was typed is shown as it was typed
        assert all(re.search(rf"S\[\d\] +{re.escape(entry)} ", done.output) for entry in answer.split()[:1])


def test_the_rule_is_told() -> None:
    """Prompt and page say when a number is right, and from where elements are counted."""
    told = " ".join(explain("layer", "--check", typed="dB\n0 0; 0 0; 0 0\n").output.split())
    page = " ".join((ROOT / "docs/explain.md").read_text(encoding="utf-8").split())
    for text in (told, page):
        assert "half a unit of its own last digit, and with at least 3 significant digits" in text
        assert "`dB[1, 0]` is dB₂₁".replace("`", "" if text is told else "`") in text
    assert "q₁ is q[0] in code" in explain("run").output


def test_zeros_have_no_common_factor() -> None:
    """An answer of zeros is not called 0 times the right one."""
    done = explain("layer", "--check", typed="ds\n0 0\n")
    assert done.exit_code == 1
    assert "Every element" not in done.output


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("ds", "1 2 3", "ds is 2; yours is 3."),
        ("ds", "1; 2", "ds is 2; yours is 2 × 1."),
        ("dB", "1 2", "dB is 3 × 2; yours is 1 × 2."),
    ],
)
def test_a_shape_is_said_as_in_the_walk(name: str, answer: str, said: str) -> None:
    """A vector of two has the shape 2, here as there."""
    done = explain("layer", "--check", typed=f"{name}\n{answer}\n")
    assert done.exit_code == 1
    assert said in done.output


def test_one_number_is_one_number() -> None:
    """A number has no shape, and an answer may have any number of digits."""
    done = explain("penalty", "--check", typed="R\n1e400\n")
    assert re.search(r"^    R +1e400 +\d+$", done.output, flags=re.MULTILINE)
    assert "R is one number; yours is 2." in explain("penalty", "--check", typed="R\n1 2\n").output


def test_a_person_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal a misspelt quantity or number is refused in a sentence, and asked for once more."""
    answers = iter(["dQ", "ds", "2 x", "2 4"])
    monkeypatch.setattr(asking, "_prompt", lambda _: next(answers))
    monkeypatch.setattr(asking.sys, "stdin", Terminal())
    console = showing.Console(file=io.StringIO(), highlight=False)
    assert asking.ask(STAGES["layer"], STAGES["layer"].work(Options()), Options(), console) == 0
    assert next(answers, "none left") == "none left"


class Terminal(io.StringIO):
    """What says that someone sits there."""

    def isatty(self) -> bool:
        return True


WRONG = {
    "one element": ("dB", "20 -4; -8 1; 4 4", ["departs in 1 of 6 elements", "dB[1, 1]    1         0"]),
    "a row": ("ds", "2 3", ["departs in 1 of 2 elements", "ds[1]      3         4"]),
    "the scale": ("dB", "10 -2; -4 0; 2 2", ["5 of 6 elements", "Every element is 1/2 times what it should be."]),
    "the shape": ("dB", "20 -8 4; -4 0 4", ["dB is 3 × 2; yours is 2 × 3."]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer(case: str) -> None:
    """The status is 1; element, what was got and what was expected are named, or the shape, or a common factor."""
    name, answer, said = WRONG[case]
    done = explain("layer", "--check", typed=f"{name}\n{answer}\n")
    assert done.exit_code == 1
    for text in said:
        assert text in done.output
    assert ("Every element" in done.output) == (case == "the scale")


def test_the_answer_is_not_given_away() -> None:
    """Before the question only what is given is shown."""
    done = explain("layer", "--check", typed="dB\n0 0; 0 0; 0 0\n")
    assert "│ u =" not in done.output.split("Which quantity")[0]


def test_random_numbers_may_be_rounded() -> None:
    """With random numbers an answer of three digits is right, and one that is off by a unit of the last is not."""
    arguments = ("layer", "--numbers", "random", "--check")
    value = {step.symbol: step.value for step in STAGES["layer"].work(Options(numbers="random")).steps()}["ds"]
    near, far = (" ".join(f"{entry + more:.4f}" for entry in value.tolist()) for more in (0.0, 0.0001))
    assert explain(*arguments, typed=f"ds\n{near}\n").exit_code == 0
    assert explain(*arguments, typed=f"ds\n{far}\n").exit_code == 1


BAD = {
    "stage": (["layers"], "", "the stage must be one of layer, "),
    "size": (["layer", "--r", "0"], "", "0 is not in the range"),
    "numbers": (["layer", "--numbers", "big"], "", "'big' is not one of"),
    "run": (["run", "--check"], "", "there are none"),
    "list": (["--seed", "1"], "", "there are none"),
    "quantity": (["layer", "--check"], "dQ\n", "the quantity must be one of frozen, "),
    "entry": (["layer", "--check"], "ds\n1 x\n", "such as -3/4; got 'x'"),
    "zero": (["layer", "--check"], "ds\n1 1/0\n", "such as -3/4; got '1/0'"),
    "comma": (
        ["layer", "--check"],
        "ds\n9,33 4\n",
        "a decimal must have a point, and numbers blanks between",
    ),
    "long": (["layer", "--check"], f"ds\n{'1' * 5000} 4\n", "at most 60 characters; got 5000"),
    "idle": (["schedule", "--n", "5"], "", "the options of schedule are --seed, --r; got --n"),
    "idle size": (["allocate", "--d-in", "4"], "", "the options of allocate are --numbers, --seed, --r; got --d-in"),
    "rows": (["layer", "--check"], "dB\n1 2; 3\n", "rows must have entries, all as many; got [2, 1]"),
    "nothing": (["layer", "--check"], "dB\n", "needs an answer; the input ended"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_usage(case: str) -> None:
    """Wrong usage is one sentence and status 2."""
    arguments, typed, message = BAD[case]
    done = explain(*arguments, typed=typed)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


# THE RUN


def test_the_run_is_that_of_the_page() -> None:
    """Its scores and fates are those of docs/worked_run.md, in all four steps."""
    page = (ROOT / "docs/worked_run.md").read_text(encoding="utf-8")
    rows = [
        [
            [cell.strip() for cell in line.strip("|").split("|")][1:]
            for line in page.splitlines()
            if line.startswith(head)
        ]
        for head in ("| score |", "| mask |")
    ]
    played = [playing.fates(frame) for frame in frames()]
    assert [[fate.score for fate in step] for step in played] == [[float(cell) for cell in row] for row in rows[0]]
    words = [[fate.word.replace("comes back", "revived") for fate in step] for step in played]
    assert words == rows[1]


def test_the_run_tells_its_story() -> None:
    """Off a terminal all steps are printed, in 80 columns: thresholds, who is dropped, who comes back."""
    done = explain("run")
    assert done.exit_code == 0
    assert [line.split()[1] for line in done.output.splitlines() if line.startswith("Step ")] == ["0", "1", "2", "3"]
    for sentence in (
        "The threshold is 6424.75, the lowest score that is kept.",
        "v₁ and v₂ are dropped: their s becomes 0",
        "q₂ is dropped: its s becomes 0",
        "v₁ comes back, with the s = 2 that this step gives it.",
        "The run ends with ranks q 1, v 1.",
    ):
        assert sentence in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_a_step_fits_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a step with its prompt has at most 24 lines, a key goes on, and q stops."""
    from rich.console import Console

    keys = iter("nnq")
    monkeypatch.setattr(playing.click, "getchar", lambda: next(keys))
    monkeypatch.setattr(playing.sys.stdin, "isatty", lambda: True, raising=False)
    console = Console(force_terminal=True, width=80, record=True, highlight=False, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    playing.play(console)
    console.file.close()
    text = console.export_text()
    screens = text.split("any key: the next step · q: stop")
    assert [re.findall(r"^Step (\d)", screen, re.MULTILINE) for screen in screens] == [[], ["0"], ["1"], []]
    assert all(len(screen.strip("\n").splitlines()) + 1 < 24 for screen in screens)


# THE COMMAND


def test_an_interrupted_run_has_written_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it with status 130, and with no word on files."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(playing, "play", interrupt)
    done = explain("run")
    assert (done.exit_code, done.output) == (130, "Interrupted.\n")


def test_the_command_imports_lazily() -> None:
    """--help loads neither the examples nor rich's consoles."""
    code = (
        "import sys; from click.testing import CliRunner; from adalora_ref.cli import main;"
        "assert CliRunner().invoke(main, ['explain', '--help']).exit_code == 0;"
        "print(sorted({'adalora_ref.explain', 'rich.console'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_parsing() -> None:
    """Rows of fractions; blanks around a stroke do not matter."""
    rows = asking.parsed("1 / 2, -3;.5 2e1 ")
    assert [[entry.value for entry in row] for row in rows] == [
        [Fraction(1, 2), Fraction(-3)],
        [Fraction(1, 2), Fraction(20)],
    ]
