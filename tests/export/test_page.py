"""The page of a bundle's server, in a real browser: what it shows, and what one can do there."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plumbline.files import read_json
from tests.browser import IN_CHROMIUM, Browser, chromium
from tests.export.test_server import start

pytestmark = IN_CHROMIUM
BundleOf = Callable[..., Path]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser"), "browser") as driver:
        yield driver


@pytest.fixture
def page(
    browser: Browser, bundle: Path, bundle_of: BundleOf, tmp_path: Path
) -> Iterator[Callable[[str], Path]]:
    """Serves a kind's bundle and opens its page; gives the bundle."""
    servers: list[subprocess.Popen[str]] = []

    def opened(kind: str) -> Path:
        made = bundle if kind == "vlm" else bundle_of(kind)
        process, port = start(made, tmp_path / kind, port=0)
        servers.append(process)
        browser.get(f"http://127.0.0.1:{port}/")
        wait(lambda: browser.find_element("id", "ask").is_enabled())
        return made

    yield opened
    for process in servers:
        process.terminate()
        process.communicate(timeout=30)
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    # A request that is refused is logged as one; nothing else may be.
    assert all("/predict" in line["message"] for line in errors), errors


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answer(browser: Browser) -> str:
    """What stands large in the answer, once it is there."""
    wait(lambda: browser.find_elements("css selector", "#answer .note, #answer .error"))
    wait(lambda: browser.find_element("id", "ask").is_enabled())
    return "\n".join(
        e.text for e in browser.find_elements("css selector", "#answer .main, #answer .error")
    )


def known_answers(bundle: Path) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = read_json(bundle / "selftest/selftest.json")["answers"]
    return answers


MAIN = {
    "vlm": "answer",
    "vlm_turns": "answer",
    "image": "class",
    "audio": "class",
    "text": "class",
    "regression": "value",
    "seq2seq": "text",
    "causal_lm_rows": "text",
    "masked_lm_rows": "text",
}
"""A form of every kind -> what its answers are called."""


def said_in(expected: dict[str, Any], name: str) -> list[object]:
    """What an answer says, of every head."""
    if "values" in expected:
        return list(expected["values"].values())
    return [one[name] for one in expected.get("heads", {"": expected}).values()]


@pytest.mark.parametrize("kind", MAIN)
def test_each_stored_sample_is_answered_as_it_was_at_export(
    page: Callable[[str], Path], browser: Browser, kind: str
) -> None:
    known = known_answers(page(kind))
    buttons = browser.find_elements("css selector", "#samples button")
    assert len(buttons) == len(known)
    for button, sample in zip(buttons, known, strict=True):
        button.click()
        wait(lambda: "answered in" in browser.find_element("id", "answer").text)
        for said in said_in(sample["answer"], MAIN[kind]):
            shown = f"{float(f'{said:.6g}'):g}" if isinstance(said, float) else str(said)
            assert (shown or "(nothing)") in answer(browser)
        browser.execute_script("document.getElementById('answer').replaceChildren()")


def test_a_picture_and_a_question_of_ones_own_are_answered(
    page: Callable[[str], Path], browser: Browser, tmp_path: Path
) -> None:
    page("vlm")
    picture = tmp_path / "mine.png"
    Image.new("RGB", (40, 30), (200, 30, 30)).save(picture)
    browser.find_element("id", "field-image").send_keys(str(picture))
    wait(lambda: browser.find_elements("css selector", ".preview img"))
    question = browser.find_element("id", "field-question")
    question.send_keys("what color is the circle?\n")  # Enter asks
    assert answer(browser)
    assert "answered in" in browser.find_element("id", "answer").text
    meter = browser.find_element("css selector", "#answer meter")
    assert 0 <= float(meter.get_attribute("value")) <= 1
    assert meter.get_attribute("ariaLabel").startswith("confidence: ")


def test_what_the_server_refuses_is_said_where_a_screen_reader_hears_it(
    page: Callable[[str], Path], browser: Browser, tmp_path: Path
) -> None:
    page("image")
    text = tmp_path / "no.png"
    text.write_text("not a picture", encoding="utf-8")
    browser.find_element("id", "field-image").send_keys(str(text))
    browser.find_element("id", "ask").click()
    assert "image: " in answer(browser)
    assert browser.find_element("css selector", "#answer [role=alert]")
    assert browser.find_element("id", "answer").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("kind", ["vlm", "text", "align_image"])
def test_it_is_used_by_the_keyboard_alone(
    page: Callable[[str], Path], browser: Browser, kind: str
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page(kind)
    reached = []
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.tag_name)
    assert "ask" in reached
    assert "field-question" in reached or "field-text" in reached
    sample = browser.find_element("css selector", "#samples button")
    sample.send_keys(Keys.ENTER)
    wait(lambda: "answered in" in browser.find_element("id", "answer").text)
    for field in browser.find_elements("css selector", "input, textarea"):
        assert browser.find_elements("css selector", f"label[for={field.get_attribute('id')}]")


@pytest.mark.parametrize("kind", ["vlm", "audio", "masked_lm_rows", "align_image", "align_audio"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    page: Callable[[str], Path], browser: Browser, kind: str
) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        page(kind)
        browser.find_element("css selector", "#samples button").click()
        wait(lambda: "answered in" in browser.find_element("id", "answer").text)
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_try_serves_the_page_and_ends_with_it(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports/mine").symlink_to(bundle)
    command = [sys.executable, "-m", "plumbline", "try", "mine", "--no-browser"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("listening on http://127.0.0.1:")
    process.terminate()
    assert process.wait(30) != 0
    wrong = [sys.executable, "-m", "plumbline", "try", "min"]
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: min: no bundle; did you mean mine? (there is mine)\n"


@pytest.mark.parametrize("kind", ["align_image", "align_audio"])
def test_a_text_shows_what_lies_nearest_of_the_gallery(
    page: Callable[[str], Path], browser: Browser, kind: str
) -> None:
    made = page(kind)
    media = read_json(made / "gallery/list.json")["media"]
    browser.find_element("id", "field-text").send_keys("to be or not\n")  # Enter asks
    wait(lambda: "answered in" in browser.find_element("id", "answer").text)
    items = browser.find_elements("css selector", "#answer .found li")
    assert len(items) == min(12, len(media))
    scores = [float(one.find_element("class name", "score").text) for one in items]
    assert scores == sorted(scores, reverse=True)
    shown = {"align_image": "img", "align_audio": "audio"}[kind]
    files = [one.find_element("tag name", shown).get_attribute("src") for one in items]
    assert len(set(files)) == len(items)
    assert all("/gallery/" in file for file in files)
    if kind == "align_image":
        found = browser.find_elements("css selector", ".found img")
        loaded = "return arguments[0].naturalWidth"
        wait(lambda: all(browser.execute_script(loaded, image) for image in found))
        assert all(image.get_attribute("alt") for image in found)


def test_what_was_found_is_asked_with_in_turn_and_takes_the_place_of_the_text(
    page: Callable[[str], Path], browser: Browser
) -> None:
    from selenium.webdriver.common.keys import Keys

    page("align_image")
    text = browser.find_element("id", "field-text")
    text.send_keys("to be\n")
    wait(lambda: browser.find_elements("css selector", "#answer .found"))
    button = browser.find_elements("css selector", "#answer .found button")[2]
    caption = button.get_attribute("aria-label").removeprefix("More like number 3: ")
    button.send_keys(Keys.ENTER)
    wait(lambda: browser.find_elements("css selector", "#answer .texts"))
    assert text.get_attribute("value") == ""
    assert browser.find_elements("css selector", ".preview img")
    first = browser.find_element("css selector", "#answer .found li")
    assert float(first.find_element("class name", "score").text) == 1
    assert caption in first.text
    # A screen reader goes on at the answer, not at the top of the page.
    wait(lambda: browser.switch_to.active_element.get_attribute("id") == "answer-title")
    # And a text takes the place of the picture.
    text.send_keys("not")
    assert not browser.find_elements("css selector", ".preview img")
    text.send_keys(Keys.ENTER)
    wait(lambda: not browser.find_elements("css selector", "#answer .texts"))
