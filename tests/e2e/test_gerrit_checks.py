# SPDX-License-Identifier: Apache-2.0
"""The plugin for Gerrit's change page in a real browser, across origins.

Gerrit's own page is not there: a stand-in has its `window.Gerrit.install` and keeps what the
plugin registers, as the checks API of Gerrit 3.13 describes it.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.kit import browser as chromium
from tests.kit.lab import make_lab
from tests.kit.require import require
from tests.kit.rows import GERRIT
from webui.server import WebServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

STAND_IN = """<!doctype html><title>A change</title><script>
window.Gerrit = {install: (callback) => callback({checks: () => ({
  register: (provider, config) => { window.provider = provider; window.config = config; },
})})};
</script><script src="SCRIPT" crossorigin="anonymous"></script>"""
ASK = """
const answer = await window.provider.fetch({changeNumber: NUMBER, patchsetNumber: 1,
  patchsetSha: "SHA", repo: "acme/virt-driver", changeInfo: {}});
const run = (answer.runs ?? []).at(-1);
return {code: answer.responseCode, error: answer.errorMessage ?? "",
  names: (answer.runs ?? []).map((one) => `${one.checkName} ${one.attempt} ${one.status}`),
  categories: run ? run.results.map((one) => one.category) : [],
  date: run ? run.finishedTimestamp instanceof Date : null,
  at: run ? run.finishedTimestamp.toISOString() : "", poll: window.config};
"""


class ReviewPage:
    """A page of somebody else's server that loads our plugin; `url` is its address."""

    def __init__(self) -> None:
        self.script = ""
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = STAND_IN.replace("SCRIPT", page.script).encode()
                found = self.path == "/"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(body if found else b"")

            def log_message(self, *_args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture(scope="module")
def review_page():
    made = ReviewPage()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, review_page):
    lab = make_lab(
        tmp_path_factory.mktemp("lab"), reviews=True, checks_origins=[review_page.origin]
    )
    made = WebServer(lab.app)
    made.start()
    yield made
    made.stop()
    lab.database.close()


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    absent = chromium.missing()
    require("chromium", present=not absent, why=f"not installed: {absent}")
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


def ask(window, url, number=4718, sha=""):
    """What the plugin answers to one fetch of the page at `url`."""
    window.open(url)
    script = ASK.replace("NUMBER", str(number)).replace("SHA", sha)
    return window.run(f"return (async () => {{{script}}})()")


def test_a_page_of_the_review_server_gets_our_runs(review_page, server, window):
    review_page.script = f"{server.url}static/gerrit-checks.js?connection={GERRIT}"
    window.complaints()
    answer = ask(window, f"{review_page.origin}/")
    assert (answer["code"], answer["error"]) == ("OK", "")
    assert answer["names"] == ["functional-qemu 1 COMPLETED", "functional-qemu 2 COMPLETED"]
    assert answer["categories"] == ["ERROR"]
    assert (answer["date"], answer["at"]) == (True, "2026-11-22T17:27:40.000Z")
    assert answer["poll"] == {"fetchPollingIntervalSeconds": 60}
    again = ask(window, f"{review_page.origin}/")
    assert again["names"] == answer["names"]
    assert [said for said in window.complaints() if "favicon" not in said] == []


def test_only_runs_of_the_commit_on_the_page(review_page, server, window):
    review_page.script = f"{server.url}static/gerrit-checks.js?connection={GERRIT}"
    answer = ask(window, f"{review_page.origin}/", sha="0" * 40)
    assert (answer["code"], answer["names"]) == ("OK", [])


def test_a_page_of_another_origin_is_kept_out(review_page, server, window):
    review_page.script = f"{server.url}static/gerrit-checks.js?connection={GERRIT}"
    answer = ask(window, f"http://localhost:{review_page.port}/")
    assert answer["code"] == "ERROR"
    assert "did not answer" in answer["error"]
    assert any("CORS" in said for said in window.complaints())


@pytest.mark.parametrize(
    ("query", "words"),
    [("?connection=nowhere", "answered 404"), ("", "does not know the name of the connection")],
)
def test_trouble_is_told_to_gerrit(review_page, server, window, query, words):
    review_page.script = f"{server.url}static/gerrit-checks.js{query}"
    answer = ask(window, f"{review_page.origin}/")
    assert answer["code"] == "ERROR"
    assert words in answer["error"]
