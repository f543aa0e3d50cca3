"""The page and the comparison in a real browser, on a phone and a desk, in light and in dark."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from plumbline.files import dump_json, write_digests
from plumbline.report.page import render_page
from plumbline.report.times import FILE, draw_times
from plumbline.tracking.past_runs import PastRun
from tests.browser import IN_CHROMIUM, Browser, chromium
from tests.report.conftest import Project
from tests.report.test_comparison import compared
from tests.report.test_distributions import add_uneven
from tests.report.test_kinds import classified

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser"), "browser", "performance") as driver:
        driver.set_script_timeout(60)
        yield driver


Open = Callable[..., None]


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a file at a width, light or dark; at the end nothing may have been refused or asked."""

    def open_file(file: Path, *, width: int = 1280, dark: bool = False) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get(file.resolve().as_uri())

    browser.get_log("browser")
    browser.get_log("performance")
    yield open_file
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    asked = [line["message"] for line in browser.get_log("performance")]
    assert not [line for line in asked if '"url":"http' in line]


LONG = "a-dataset-whose-name-is-as-long-as-names-of-datasets-may-well-be"


@pytest.fixture
def page(project: Project) -> Path:
    """A page with pictures, clips, classes, retrieval and times beside it."""
    project.add_dataset(LONG, images=False, text="seven, by nicolas")
    add_sound(project, LONG)
    rows, tables, figures = classified(["zero", "one", "two"])
    project.add_evaluated("spoken", LONG, "classification", figures, rows, tables)
    add_uneven(project, "uneven")
    (project.root / "report").mkdir()
    file = project.root / "report/index.html"
    file.write_text(render_page(project.chosen()), encoding="utf-8")
    (project.root / FILE).parent.mkdir()
    run = PastRun("finetune@vqa", "20261127-232953-repro-1", "ok", 12.5, None, file)
    (project.root / FILE).write_text(draw_times({"finetune@vqa": run}), encoding="utf-8")
    return file


def add_sound(project: Project, name: str) -> None:
    """Four clips of half a second."""
    place = project.root / "work/cache" / name
    clips = np.sin(np.arange(4 * 4000) / 3).astype(np.float32)
    clips.tofile(place / "audio.bin")
    (np.arange(5, dtype=np.int64) * 4000).tofile(place / "audio.offsets.bin")
    facts = {"audio": {"clips": 4, "sample_rate": 8000, "longest_samples": 4000}}
    cache = {"rows": {"test": 4}, "texts": 1, "vocab_size": 20, "longest_text_tokens": 5}
    (place / "cache.json").write_text(
        dump_json({**cache, "parts": [""], **facts}), encoding="utf-8"
    )
    write_digests(place)


def assert_no_scrolling(browser: Browser) -> None:
    """To the side."""
    width, room = browser.execute_script(
        "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
    )
    assert width == room


WIDTHS = [(1280, False), (1280, True), (390, False), (390, True)]


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_the_page_is_as_wide_as_the_screen_and_opens_all_it_folds(
    page: Path, browser: Browser, opened: Open, width: int, dark: bool
) -> None:
    opened(page, width=width, dark=dark)
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert_no_scrolling(browser)
    outside = browser.execute_script(
        "const beyond = e => e.getBoundingClientRect().right > innerWidth + 1;"
        "const all = [...document.querySelectorAll('main *')];"
        "const outer = all.filter(e => !e.closest('.scroll, svg, pre') && beyond(e));"
        "return outer.map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_every_text_can_be_told_from_what_is_behind_it(
    page: Path, browser: Browser, opened: Open, width: int, dark: bool
) -> None:
    """WCAG 2, contrast (minimum): 4.5 to 1."""
    opened(page, width=width, dark=dark)
    colours = browser.execute_script(
        "const seen = {};"
        "const behind = e => { for (; e; e = e.parentElement) {"
        "  const c = getComputedStyle(e).backgroundColor;"
        "  if (!/, 0\\)$|transparent/.test(c)) return c } return 'rgb(255, 255, 255)' };"
        "for (const e of document.querySelectorAll('main *')) {"
        "  if (e.closest('svg, .confusion') || !e.checkVisibility()) continue;"
        "  if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())) continue;"
        "  seen[getComputedStyle(e).color + ' on ' + behind(e)] = e.outerHTML.slice(0, 80) }"
        "return seen"
    )
    assert len(colours) >= 4
    assert {pair: contrast(pair) for pair in colours if contrast(pair) < 4.5} == {}


def contrast(pair: str) -> float:
    """Of `rgb(1, 2, 3) on rgb(4, 5, 6)`. Source: WCAG 2.2, definition of contrast ratio."""

    def luminance(colour: str) -> float:
        channels = [float(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted(map(luminance, pair.split(" on ")), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_paths_break_behind_a_slash_and_nowhere_else(
    page: Path, browser: Browser, opened: Open
) -> None:
    """On a phone: every part of a path between slashes lies in one line."""
    opened(page, width=390)
    broken = browser.execute_script(
        "const broken = [];"
        "for (const code of document.querySelectorAll('#again td code'))"
        "  for (const text of code.childNodes) if (text.nodeType == 3) {"
        "    const range = document.createRange(); range.selectNodeContents(text);"
        "    for (const word of text.data.split(' '))"
        "      if (range.getClientRects().length > text.data.split(' ').length) broken.push(word) }"
        "return broken"
    )
    # A name that is longer than the screen has no other way.
    assert [word for word in broken if len(word) < 40] == []
    assert browser.execute_script("return document.querySelectorAll('#again td wbr').length") > 9


def test_a_clip_can_be_played(page: Path, browser: Browser, opened: Open) -> None:
    opened(page)
    played = browser.execute_async_script(
        "const done = arguments[0], sound = document.querySelector('audio');"
        "sound.onended = () => done([sound.duration, sound.currentTime]);"
        "sound.onerror = () => done(['error', sound.error.message]);"
        "sound.play().catch(error => done(['refused', String(error)]))"
    )
    assert played == pytest.approx([0.5, 0.5], abs=0.01)
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('.clip img')].map(i => i.decode ? i.src.length : 0)"
    )
    assert len(pictures) > 4
    assert min(pictures) > 200


def test_a_link_leads_to_the_row_and_opens_what_it_is_folded_in(
    page: Path, browser: Browser, opened: Open
) -> None:
    opened(page)
    link = browser.find_element("css selector", "#task-0 .card .id a")
    anchor = link.get_attribute("href").partition("#")[2]
    browser.execute_script("arguments[0].click()", link)
    row = browser.find_element("id", anchor)
    assert browser.execute_script("return arguments[0].closest('details').open", row)
    assert row.is_displayed()
    assert link.text in row.text
    shade = "return getComputedStyle(arguments[0].children[0]).backgroundColor"
    other = browser.find_element("css selector", f"tr[id]:not(#{anchor})")
    assert browser.execute_script(shade, row) != browser.execute_script(shade, other)


def test_stage_times_are_shown_where_they_lie_beside_the_page(
    page: Path, browser: Browser, opened: Open
) -> None:
    opened(page)
    wide = "return document.querySelector('img.times').naturalWidth"
    browser.execute_script("document.querySelector('img.times').loading = 'eager'")
    assert browser.execute_script(wide) == 400


def test_without_them_the_page_says_so(
    page: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = tmp_path_factory.mktemp("alone") / "index.html"
    shutil.copy(page, alone)
    browser.get(alone.as_uri())
    image = browser.find_element("css selector", "img.times")
    assert browser.execute_script("return arguments[0].naturalWidth", image) == 0
    assert "plumbline status says them" in image.get_attribute("alt")
    browser.get_log("browser")  # that it is missing


def test_every_picture_of_the_page_can_be_decoded(
    page: Path, browser: Browser, opened: Open
) -> None:
    opened(page)
    sizes = browser.execute_async_script(
        "const done = arguments[0], all = [...document.images];"
        "Promise.all(all.map(i => { i.loading = 'eager'; return i.decode().then("
        "  () => i.naturalWidth, () => 0) })).then(done)"
    )
    assert len(sizes) > 10
    assert min(sizes) > 0


@pytest.mark.parametrize(("width", "dark"), WIDTHS)
def test_the_comparison_fits_the_screen(
    tmp_path: Path, browser: Browser, opened: Open, width: int, dark: bool
) -> None:
    from plumbline.report.comparison import render_comparison

    file = tmp_path / "compared.html"
    file.write_text(render_comparison(compared("HEAD", "slower", "workspace")), encoding="utf-8")
    opened(file, width=width, dark=dark)
    assert_no_scrolling(browser)
    strips = browser.execute_script(
        "const colour = b => getComputedStyle(b).backgroundColor;"
        "return [...document.querySelectorAll('.strips b')].map(colour)"
    )
    assert len(set(strips)) == 3  # a colour of its own for each version
