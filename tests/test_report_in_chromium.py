"""Report pages in headless Chromium: nothing goes wrong, the slider moves the numbers, keys and text selection work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from adalora_ref.cli import main
from adalora_ref.conformance.report import write_json
from adalora_ref.experiments import digits
from adalora_ref.experiments.digits import Options, Settings
from adalora_ref.experiments.run_folder import Arm, read_run
from adalora_ref.html.steps import scientific
from tests.a_verdict import everything

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="the pages are tested in Chromium by selenium: pip install selenium"
)

from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
pytestmark = pytest.mark.skipif(not all(PROGRAMS.values()), reason="chromium and chromedriver are not both installed")

PAGES = ("verdict", "run")


def started(**preferences: Any) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", preferences)
    return webdriver.Chrome(options, webdriver.ChromeService(PROGRAMS["chromedriver"]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    held = started()
    held.set_window_size(1280, 900)
    yield held
    held.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of a verdict and of a short run."""
    folder = tmp_path_factory.mktemp("pages")
    settings = Settings(hidden_layers=1, pretraining_steps=2, steps=24, warmup=4, final=6, interval=3, batch_size=8)
    digits.run(Options(out=folder / "run"), settings, lambda *_: None)
    write_json(everything(), folder / "verdict.json")
    for source in ("run", "verdict.json"):
        done = CliRunner().invoke(main, ["report", str(folder / source)])
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def arm(folder: Path) -> Arm:
    return read_run(folder / "run").seeds[0].arms["adalora"]


def opened(browser: Any, folder: Path, name: str) -> Any:
    browser.get_log("browser")
    browser.get((folder / f"{name}.html").as_uri())
    return browser


def by_id(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def triplets(browser: Any) -> list[tuple[str, str]]:
    """The class and the score of every cell of the table of triplets."""
    cells = "[...document.querySelectorAll('#triplets td')]"
    script = f"return {cells}.map((cell) => [cell.className, cell.querySelector('.score').textContent])"
    return [tuple(pair) for pair in browser.execute_script(script)]


def of_step(arm: Arm, step: int) -> list[tuple[str, str]]:
    """What the table of triplets must show of a step."""
    scores, masks = (
        np.concatenate([a[step] for a in held.values()]) for held in (arm.timeline.scores, arm.timeline.masks)
    )
    told = [scientific(float(f"{score:.4g}")) for score in scores]
    return list(zip(["kept" if kept else "dropped" for kept in masks], told, strict=True))


def press(browser: Any, *keys: str) -> None:
    ActionChains(browser).send_keys(*keys).perform()


# EVERY PAGE


@pytest.mark.parametrize("name", PAGES)
def test_nothing_goes_wrong_and_nothing_is_loaded(name: str, browser: Any, folder: Path) -> None:
    """The console stays empty, and the page asks for no other resource."""
    opened(browser, folder, name)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("name", PAGES)
def test_a_foreign_script_would_not_run(name: str, browser: Any, folder: Path) -> None:
    """Were markup to get into a page after all, the policy of the page keeps it from acting and from loading."""
    opened(browser, folder, name)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s);"
        "const image = `<img src='http://127.0.0.1:9/x' onerror='document.title = 2'>`;"
        "document.body.insertAdjacentHTML('beforeend', image);"
    )
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert any("script-src" in message for message in refused), refused
    assert any("img-src" in message for message in refused), refused
    assert browser.title not in ("1", "2")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [1280, 420])
def test_no_page_is_wider_than_its_window(name: str, width: int, browser: Any, folder: Path) -> None:
    """What is too wide moves in a frame of its own."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    opened(browser, folder, name)
    found = browser.execute_script("const page = document.documentElement; return page.scrollWidth - page.clientWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert found == 0


FIRST_LETTER = """
getSelection().removeAllRanges();
arguments[0].scrollIntoView({block: "center"});
const range = document.createRange();
range.setStart(document.createTreeWalker(arguments[0], NodeFilter.SHOW_TEXT).nextNode(), 0);
range.setEnd(range.startContainer, 1);
const { left, top, width, height } = range.getBoundingClientRect();
return [left + width / 2, top + height / 2];
"""


@pytest.mark.parametrize("name", PAGES)
def test_text_can_be_selected(name: str, browser: Any, folder: Path) -> None:
    """A word that is double-clicked is selected: in a heading, in a table, and in a picture."""
    opened(browser, folder, name)
    places = {"verdict": ["h1", ".divergence dd", "table.heat td"], "run": ["h1", "#fact-phase", "figure svg text"]}
    for place in places[name]:
        element = browser.find_element("css selector", place)
        x, y = browser.execute_script(FIRST_LETTER, element)
        pointer = ActionChains(browser)
        pointer.w3c_actions.pointer_action.move_to_location(int(x), int(y))
        pointer.double_click().perform()
        selected = browser.execute_script("return getSelection().toString()").strip()
        assert selected, place
        assert selected in browser.execute_script("return arguments[0].textContent", element)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_printed(name: str, browser: Any, folder: Path) -> None:
    """On paper everything is black on white and unfolded, even from a dark screen; controls are left out."""
    emulated = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
    opened(browser, folder, name)
    shown = {
        place: browser.find_element("css selector", place).is_displayed() for place in ("h1", "table", ".scripted")
    }
    colour = browser.execute_script("return getComputedStyle(document.querySelector('h1')).color")
    folded = browser.execute_script(
        "return [...document.querySelectorAll('details > dl')].filter(dl => !dl.offsetHeight)"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert shown == {"h1": True, "table": True, ".scripted": False}
    assert colour == "rgb(0, 0, 0)"
    assert folded == []


CONTRASTS = """
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => {
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = parts(colour).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  const parts_of = getComputedStyle(element).backgroundColor;
  return parts(parts_of)[3] === 0 ? ground(element.parentElement) : parts_of;
};
const cell = document.querySelector("table.heat td");
const found = [];
for (let shade = 0; shade < 8; shade++) {
  cell.className = (shade > 4 ? "fail" : "pass") + " h" + shade;
  const [text, back] = [getComputedStyle(cell).color, ground(cell)].map(luminance);
  found.push([back, (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05)]);
}
const told = [...document.querySelectorAll("p, dt, dd, summary, th, caption, .badge, td")].map((element) => {
  const [text, back] = [getComputedStyle(element).color, ground(element)].map(luminance);
  return (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
});
return [found, Math.min(...told)];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_read_in_grey(scheme: str, browser: Any, folder: Path) -> None:
    """Shades differ in lightness alone too, in order, a step apart at the bound; all text has a contrast of 4.5."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    shades, least = opened(browser, folder, "verdict").execute_script(CONTRASTS)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    grounds = [ground for ground, _ in shades]
    assert grounds == sorted(grounds, reverse=scheme == "light")
    assert len(set(grounds)) == len(grounds)
    right, wrong = sorted(grounds[4:6])
    assert (wrong + 0.05) / (right + 0.05) > 1.5
    assert min(contrast for _, contrast in shades) >= 4.5
    assert least >= 4.5


# A VERDICT


def test_the_heat_map_is_read_by_the_keyboard(browser: Any, folder: Path) -> None:
    """Tab leads to the first failure, arrow keys from cell to cell; below the map stands what is known of each."""
    opened(browser, folder, "verdict")
    told = by_id(browser, "told0")
    assert told.text.startswith("triplet_scores/float64/0/1, float64 on numpy: FAIL")
    reached = []
    for _ in range(30):
        press(browser, Keys.TAB)
        reached.append(browser.switch_to.active_element)
        if reached[-1].tag_name == "td":
            break
    assert reached[-1].text == "✗\n2e14"
    seen = []
    for key in (Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.END, Keys.ARROW_RIGHT, Keys.HOME, Keys.ARROW_DOWN):
        press(browser, key)
        active = browser.switch_to.active_element
        assert told.text == active.get_attribute("title")
        seen.append(told.text.partition(",")[0])
    assert seen == [
        "triplet_scores/float64/0/0", "merge/float64/0/0", "merge/float32/0/2", "merge/float32/0/2",
        "merge/float64/0/0", "triplet_scores/float64/0/0",
    ]  # fmt: skip
    press(browser, Keys.TAB)
    assert browser.switch_to.active_element.get_attribute("class") == "scroll", "one cell of a map is a stop, not all"


def test_the_folded_parts_open_by_the_keyboard(browser: Any, folder: Path) -> None:
    """Enter on a stage shows its equation and its checks."""
    opened(browser, folder, "verdict")
    summary = browser.find_element("css selector", "summary")
    equation = browser.find_element("css selector", "details dd")
    assert not equation.is_displayed()
    browser.execute_script("arguments[0].focus()", summary)
    press(browser, Keys.ENTER)
    assert equation.is_displayed()
    assert equation.text == "W + ΔW"


# A RUN


def test_pictures_stand_below_one_another(browser: Any, folder: Path) -> None:
    """Beside one another their letters would be too small: on a wide window a picture is larger than it is drawn."""
    opened(browser, folder, "run")
    script = "return [...document.querySelectorAll('figure > svg')].map((svg) => [svg.parentElement.offsetLeft, SCALE])"
    places = browser.execute_script(script.replace("SCALE", "svg.getScreenCTM().a"))
    assert len({left for left, _ in places}) == 1
    assert min(scale for _, scale in places) * 9 > 12, "labels of 9 points are 12 pixels high"


def test_the_slider_moves_the_numbers(browser: Any, folder: Path, arm: Arm) -> None:
    """At every step to which the arrow keys bring it, scores, masks and facts are the run's."""
    opened(browser, folder, "run")
    slider = by_id(browser, "slider")
    assert triplets(browser) == of_step(arm, 23)
    browser.execute_script("arguments[0].focus()", slider)
    press(browser, Keys.HOME)
    seen = []
    for step in range(24):
        assert triplets(browser) == of_step(arm, step)
        assert by_id(browser, "fact-budget").text == str(arm.steps[step]["budget"])
        assert by_id(browser, "fact-phase").text == arm.steps[step]["phase"]
        assert by_id(browser, "number").get_attribute("value") == str(step)
        assert slider.get_attribute("aria-valuetext").startswith(f"step {step}, ")
        seen.append(triplets(browser))
        press(browser, Keys.ARROW_RIGHT)
    assert len({str(held) for held in seen}) > 12, "the numbers move"
    due = [step["step"] for step in arm.steps if step["allocates"]]
    assert by_id(browser, "fact-latest").text == f"step {due[-1]}"


def test_a_step_can_be_typed(browser: Any, folder: Path, arm: Arm) -> None:
    """The number field chooses a step; what is beyond the run is its last step."""
    opened(browser, folder, "run")
    number = by_id(browser, "number")
    number.send_keys(Keys.CONTROL + "a")
    number.send_keys("6")
    assert triplets(browser) == of_step(arm, 6)
    assert by_id(browser, "slider").get_attribute("value") == "6"
    number.send_keys(Keys.CONTROL + "a")
    number.send_keys("99", Keys.ENTER)
    assert triplets(browser) == of_step(arm, 23)
    assert number.get_attribute("value") == "23"


def test_buttons_lead_from_allocation_to_allocation(browser: Any, folder: Path, arm: Arm) -> None:
    """Back and on stop at every allocation, with the threshold and who was dropped there."""
    opened(browser, folder, "run")
    due = [step for step in arm.steps if step["allocates"]]
    assert by_id(browser, "on").get_attribute("aria-disabled") == "true", "there is none after the last"
    for record in reversed(due):
        by_id(browser, "back").click()
        assert by_id(browser, "fact-step").text == f"{record['step']} (of 0 to 23)"
        assert by_id(browser, "fact-threshold").text == scientific(float(f"{record['threshold']:.4g}"))
        gone = sum(map(len, record["dropped"].values()))
        back = sum(map(len, record["revived"].values()))
        signs = [cell.text for cell in browser.find_elements("css selector", "#triplets td b")]
        assert (sum("↓" in sign for sign in signs), sum("↑" in sign for sign in signs)) == (gone, back)
        assert by_id(browser, "said").get_attribute("textContent").startswith(f"step {record['step']}, ")
    ends = ["back", "on"]
    assert [by_id(browser, name).get_attribute("aria-disabled") for name in ends] == ["true", "false"]
    by_id(browser, "back").click()
    assert by_id(browser, "fact-step").text.startswith(f"{due[0]['step']} "), "there is none before the first"
    by_id(browser, "on").click()
    assert by_id(browser, "fact-step").text.startswith(f"{due[1]['step']} ")


def test_every_control_is_reached_by_tab(browser: Any, folder: Path) -> None:
    """Number field, slider and both buttons are stops of the Tab key, in this order."""
    opened(browser, folder, "run")
    reached = []
    for _ in range(12):
        press(browser, Keys.TAB)
        reached.append(browser.switch_to.active_element.get_attribute("id"))
    at = reached.index("number")
    assert reached[at : at + 4] == ["number", "slider", "back", "on"]


def test_without_scripts_the_last_step_is_there(folder: Path, arm: Arm) -> None:
    """A browser that runs no scripts shows the pictures and the last step, and no control that would do nothing."""
    browser = started(**{"profile.managed_default_content_settings.javascript": 2})
    try:
        browser.get((folder / "run.html").as_uri())
        assert triplets(browser) == of_step(arm, 23)
        assert not by_id(browser, "slider").is_displayed()
        assert browser.find_element("css selector", "figure svg text").is_displayed()
        browser.get((folder / "verdict.html").as_uri())
        assert browser.find_element("css selector", "table.heat td.fail").is_displayed()
    finally:
        browser.quit()
