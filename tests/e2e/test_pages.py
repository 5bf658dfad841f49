# SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser: readable at any width, in light and dark, without JavaScript.

Where HYPERVOUCH_SCREENSHOTS names a directory, pictures of the pages are left there.
"""

import os
from pathlib import Path

import pytest
import sqlalchemy as sa
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from ci.store import schema
from tests.kit import browser as chromium
from tests.kit.evidence_rows import fill_evidence
from tests.kit.feature_rows import CHANGE, compute_build, compute_build_id, troubled_nodes
from tests.kit.lab import make_lab
from tests.kit.require import require
from webui.server import WebServer

TOKEN = "correct horse battery staple"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = make_lab(
        tmp_path_factory.mktemp("lab"),
        notice="Demo: the hypervisor is an emulator.",
        reviews=True,
        operator_token=TOKEN,
    )
    fill_evidence(made.database)
    compute_build(made.rows)
    troubled_nodes(made.rows)
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def server(lab):
    made = WebServer(lab.app)
    made.start()
    yield made
    made.stop()


def start(folder: Path, *, javascript: bool = True):
    absent = chromium.missing()
    require("chromium", present=not absent, why=f"not installed: {absent}")
    return chromium.browser(folder, javascript=javascript)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with start(tmp_path_factory.mktemp("chromium")) as made:
        yield made


def addresses(server, story):
    return {
        "status": server.url,
        "builds": f"{server.url}builds",
        "build": f"{server.url}builds/{story.regression}",
        "build-retried": f"{server.url}builds/{story.retried}",
        "build-queued": f"{server.url}builds/{story.queued}",
        "build-features": f"{server.url}builds/{compute_build_id()}",
        "change-features": f"{server.url}changes/{CHANGE}",
        "log": f"{server.url}builds/{story.regression}/log",
        "change": f"{server.url}changes/{story.regression_change}",
        "change-docs": f"{server.url}changes/{story.docs_change}",
        "change-recheck": f"{server.url}changes/4718/1",
        "change-waits": f"{server.url}changes/4717",
        "matrix": f"{server.url}matrix",
        "matrix-differences": f"{server.url}matrix?differences=1",
        "matrix-cell": f"{server.url}matrix/operation.snapshot/libvirt-qemu-x86",
        "nodes": f"{server.url}nodes",
        "processes": f"{server.url}processes",
        "agreement": f"{server.url}agreement",
        "outbox": f"{server.url}outbox?settled=1",
        "audit": f"{server.url}audit",
    }


def shown(window, selector):
    """The text of an element in one step: a live page may replace it between two."""
    return window.run(f"return document.querySelector('{selector}').innerText")


def keep_picture(window, name):
    folder = os.environ.get("HYPERVOUCH_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        window.picture(Path(folder) / f"{name}.png")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_pages_fit_are_legible_and_raise_no_complaint(lab, server, window, width, dark):
    window.complaints()
    for name, url in addresses(server, lab.story).items():
        window.open(url, width=width, dark=dark)
        keep_picture(window, f"{name}-{width}{'-dark' if dark else ''}")
        assert window.run(chromium.OVERFLOW) <= 0, name
        assert window.run(chromium.FAINT) == [], name
        assert window.complaints() == [], name


def test_pages_are_readable_without_javascript(lab, server, tmp_path):
    wanted = {
        "status": "Attach volumes to a paused guest",
        "builds": "Merge conflict",
        "build": "This patch breaks 2 tests that the branch tip passes.",
        "log": "collected 11 items",
        "change": "Superseded by patch set 2.",
        "change-recheck": "bug 1934: the node lost its network",
        "matrix": "Nova: complete",
        "matrix-cell": "2 of 3 tests passed",
        "nodes": "New dom0.",
        "processes": "nobody; it was worker-with",
        "agreement": "2 (67 %)",
        "outbox": "hypervouch outbox drop 3",
        "audit": "Posted by hand, see the change.",
    }
    with start(tmp_path, javascript=False) as window:
        for name, words in wanted.items():
            window.open(addresses(server, lab.story)[name], width=390)
            assert words in window.driver.find_element(By.TAG_NAME, "main").text, name
        window.driver.find_element(By.LINK_TEXT, "Builds").click()
        WebDriverWait(window.driver, 30).until(lambda d: d.current_url == f"{server.url}builds")


def test_the_matrix_scrolls_within_itself_beside_its_features(lab, server, window):
    window.open(addresses(server, lab.story)["matrix"], width=360)
    moved = """
        const box = document.querySelector(".scroll");
        const [head, row] = document.querySelectorAll(".features .corner, .features th[scope=row]");
        const before = [head.getBoundingClientRect().x, row.getBoundingClientRect().x];
        box.scrollTo(600, 300);
        const after = [head.getBoundingClientRect().x, row.getBoundingClientRect().x];
        const top = head.getBoundingClientRect().y - box.getBoundingClientRect().y;
        return [box.scrollLeft, before.join() === after.join(), Math.abs(top) < 3];
    """
    assert window.run(moved) == [600, True, True]


@pytest.mark.parametrize("width", [1280, 360])
def test_the_matrix_tells_that_it_goes_on_and_columns_are_jumped_to(lab, server, window, width):
    url = addresses(server, lab.story)["matrix"]
    window.open(f"{url}?evidence=0#column-powervm", width=width)
    jumped = """
        const edge = (selector) => document.querySelector(selector).getBoundingClientRect();
        const [box, to] = [edge(".scroll"), edge(".features thead th:target")];
        return to.left >= edge(".corner").right - 1 && to.right <= box.right;
    """
    more = "return Number(getComputedStyle(document.querySelector('.frame'), '::after').opacity)"
    assert window.run(jumped)
    scroll = "document.querySelector('.scroll').scrollTo({}, 0)"
    wait = WebDriverWait(window.driver, 30)
    window.run(scroll.format(0))
    wait.until(lambda _: window.run(more) == 1)
    window.run(scroll.format(99999))
    wait.until(lambda _: window.run(more) == 0)


def test_an_operator_releases_a_held_review_without_javascript(lab, server, tmp_path):
    with start(tmp_path, javascript=False) as window:
        window.open(f"{server.url}outbox", width=390)
        driver = window.driver
        driver.find_element(By.NAME, "name").send_keys("ann")
        token = driver.find_element(By.NAME, "token")
        token.send_keys("wrong")
        token.send_keys(Keys.ENTER)
        assert driver.current_url == f"{server.url}outbox", "enter alone must not act"
        wait = WebDriverWait(
            driver, 30, ignored_exceptions=(NoSuchElementException, StaleElementReferenceException)
        )
        release = (By.CSS_SELECTOR, "button[value='release 5']")
        driver.find_element(*release).click()
        wait.until(lambda d: "not the operator's token" in d.find_element(By.TAG_NAME, "h1").text)
        driver.back()
        wait.until(lambda d: d.find_element(*release))
        token = driver.find_element(By.NAME, "token")
        token.clear()
        token.send_keys(TOKEN)
        driver.find_element(*release).click()
        wait.until(
            lambda d: (
                "outbox-release review 5 by ann (page)" in d.find_element(By.ID, "audit").text
                and not d.find_elements(*release)
            )
        )
        assert driver.current_url == f"{server.url}outbox"


def test_the_first_tab_stop_leads_past_the_navigation(lab, server, window):
    window.open(server.url)
    body = window.driver.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    focused = window.driver.switch_to.active_element
    assert focused.text == "Skip to content"
    focused.send_keys(Keys.ENTER)
    assert window.run("return location.hash") == "#main"


def test_a_range_of_log_lines_can_be_linked(lab, server, window):
    log = addresses(server, lab.story)["log"]
    window.open(f"{log}#L12-L20")
    marked = window.driver.find_elements(By.CSS_SELECTOR, ".l.marked")
    assert [row.get_attribute("id") for row in marked] == [f"L{n}" for n in range(12, 21)]


def test_a_line_outside_of_the_window_is_fetched(lab, server, window):
    build = lab.story.passed
    long_log = lab.rows.attempt(build, 2, began=lab.clock.now())
    lab.rows.console(build, long_log, (f"line {n}" for n in range(1, 5001)), began=lab.clock.now())
    window.open(f"{server.url}builds/{build}/log#L4321")
    WebDriverWait(window.driver, 10).until(lambda d: d.find_elements(By.ID, "L4321"))
    assert "marked" in window.driver.find_element(By.ID, "L4321").get_attribute("class")


def test_a_running_build_is_live(lab, server, window):
    story = lab.story
    window.complaints()
    window.open(f"{server.url}builds/{story.running}")
    assert "the suite runs" in window.driver.find_element(By.TAG_NAME, "h1").text
    wait = WebDriverWait(window.driver, 30)
    wait.until(lambda d: d.find_element(By.ID, "livemark").is_displayed())
    log = lab.rows.attempt_dir(story.running, story.running_attempt) / "console.log"
    with log.open("ab") as out:
        out.write(b"2026-11-22T17:41:01.000Z | <img src=x> \x1b[32mPASSED\x1b[0m\n")
    wait.until(lambda _: "<img src=x> PASSED" in shown(window, "#log"))
    finish(lab)
    wait.until(lambda _: "All 11 tests passed" in shown(window, "h1"))
    assert shown(window, ".badge") == "Success"
    assert window.driver.title.startswith("Success")
    assert window.complaints() == []


def finish(lab):
    with lab.database.write() as tx:
        mine = schema.attempt.c.id == lab.story.running_attempt
        tx.execute(
            sa.update(schema.attempt)
            .where(mine)
            .values(phase="done", state="done", result="SUCCESS", finished_at=lab.clock.now())
        )
        tx.execute(
            sa.update(schema.build)
            .where(schema.build.c.id == lab.story.running)
            .values(
                state="done",
                result="SUCCESS",
                failure_class="pass",
                reason="all 11 tests passed",
                finished_at=lab.clock.now(),
            )
        )


def test_the_log_of_a_running_build_is_live(lab, server, window):
    build, log = follow_up(lab)
    window.open(f"{server.url}builds/{build}/log")
    wait = WebDriverWait(window.driver, 30)
    wait.until(lambda d: d.find_element(By.ID, "livemark").is_displayed())
    with log.open("ab") as out:
        out.write(b"2026-11-22T17:41:01.000Z | one more line\n")
    wait.until(lambda _: "one more line" in shown(window, "#log"))
    link = window.run("return document.querySelector('#log .l:last-child a').getAttribute('href')")
    assert link.startswith(f"/builds/{build}/log?attempt=")
    assert link.endswith("&line=4#L4")


def follow_up(lab):
    """Another running build with three lines of log."""
    lab.rows.change(4795, "One more")
    build = lab.rows.build(
        lab.rows.buildset(4795, at=lab.clock.now(), state="running"),
        state="running",
        started_at=lab.clock.now(),
    )
    attempt = lab.rows.attempt(
        build, began=lab.clock.now(), state="running", phase="run", finished_at=None
    )
    return build, lab.rows.console(build, attempt, ["a", "b", "c"], began=lab.clock.now())


def test_a_waiting_page_updates_itself(lab, server, window):
    window.open(server.url)
    lab.rows.change(4790, "Pushed while somebody looks")
    lab.rows.build(lab.rows.buildset(4790, at=lab.clock.now(), state="queued"), state="queued")
    wait = WebDriverWait(window.driver, 30)
    wait.until(lambda _: "Pushed while somebody looks" in shown(window, "#queued"))
