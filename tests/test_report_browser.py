"""The report in headless Chromium: it renders without complaint, its tabs work, hostile text stays text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import reported

from promptopt.report import write_report
from promptopt.report.view import PARTS

pytestmark = reported.needs_browser
OPEN = "return [...document.querySelectorAll('section')].filter(s => s.offsetHeight > 0).map(s => s.id)"
ALL = [part for part, _ in PARTS]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a hostile run's report."""
    return write_report(reported.hostile(tmp_path_factory.mktemp("runs") / "hostile")).as_uri()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with reported.browser() as found:
        yield found


def test_hostile_text_does_nothing(page: str, driver: Any) -> None:
    driver.get(page)
    assert driver.execute_script("return window.hacked === undefined")
    for tag, n in (("script", 1), ("style", 1), ("iframe", 0), ("img", 0), ("form", 0), ("base", 0), ("link", 0)):
        assert driver.execute_script(f"return document.querySelectorAll('{tag}').length") == n, tag
    assert driver.execute_script("return document.body.offsetHeight") > 300
    assert driver.execute_script("return document.querySelectorAll('svg.plot').length") > 3
    assert driver.execute_script("return document.links.length") > 8
    assert driver.execute_script("return [...document.links].every(a => a.protocol === 'file:')")
    assert [row for row in driver.get_log("browser") if row["level"] in ("SEVERE", "WARNING")] == []


def test_tabs_work_by_mouse_and_keys(page: str, driver: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    driver.get(page)
    assert driver.execute_script(OPEN) == ["proof"]
    tabs = driver.find_elements(By.CSS_SELECTOR, "#tabs a")
    for tab, part in zip(tabs, ALL, strict=True):
        tab.click()
        assert driver.execute_script(OPEN) == [part]
        assert tab.get_attribute("aria-selected") == "true"
    tabs[0].click()
    for key, part in ((Keys.ARROW_RIGHT, "prompt"), (Keys.END, "settings"), (Keys.ARROW_RIGHT, "proof")):
        driver.switch_to.active_element.send_keys(key)
        assert driver.execute_script(OPEN) == [part]
    driver.get("about:blank")
    driver.get(f"{page}#spend")
    assert driver.execute_script(OPEN) == ["spend"]
    driver.execute_script("document.querySelector('#lineage a[href^=\"#c\"]').click()")
    assert driver.execute_script(OPEN) == ["search"]


def test_the_policy_stops_what_would_slip_through(page: str, driver: Any) -> None:
    driver.get(page)
    driver.execute_script(
        "document.querySelector('main').insertAdjacentHTML('beforeend',"
        '\'<img src=x onerror="window.hacked = 1"><p id=styled style="color: red">x</p>\')'
    )
    assert driver.execute_async_script("setTimeout(() => arguments[0](window.hacked === undefined), 100)")
    colours = "getComputedStyle(document.getElementById('styled')).color"
    assert driver.execute_script(f"return {colours}") != "rgb(255, 0, 0)"
    driver.get_log("browser")


def test_print_shows_every_part(page: str, driver: Any) -> None:
    driver.get(page)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert driver.execute_script(OPEN) == ALL
    assert driver.execute_script("return document.getElementById('tabs').offsetHeight") == 0
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_phone_in_the_dark_sees_it_without_scrolling_sideways(page: str) -> None:
    with reported.browser(width=390, is_dark=True) as driver:
        for part in ALL:
            driver.get("about:blank")
            driver.get(f"{page}#{part}")
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, part
        colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in colour[4:-1].split(",")) < 60


def test_without_script_every_part_is_shown(page: str) -> None:
    with reported.browser(has_script=False) as driver:
        driver.get(page)
        assert driver.execute_script(OPEN) == ALL
