# SPDX-License-Identifier: Apache-2.0
"""Pages about reviews, an operator's buttons, and the runs that Gerrit's page asks for."""

import re

import pytest
import sqlalchemy as sa

from ci.store import schema
from tests.kit.lab import client_of, make_lab
from tests.kit.review_rows import SECOND, approval, audit, notice
from tests.kit.rows import GERRIT, NOW, ago

TOKEN = "correct horse battery staple"
REVIEW = "https://review.example.org"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> \x1b[31mred\x00\u202e end"
HELD, PENDING, DELIVERED = 5, 3, 1


@pytest.fixture
def lab(tmp_path):
    made = make_lab(
        tmp_path, reviews=True, operator_token=TOKEN, checks_origins=[REVIEW, "http://g:8080"]
    )
    yield made
    made.database.close()


@pytest.fixture
def client(lab):
    with client_of(lab.app) as made:
        yield made


def rows_of(lab, row_id):
    with lab.database.read() as tx:
        return tx.execute(sa.select(schema.outbox).where(schema.outbox.c.id == row_id)).one()


def press(client, do, token=TOKEN, *, headers=None, **fields):
    """Press a button of the outbox page as a browser would."""
    said = {"sec-fetch-site": "same-origin", "origin": "https://ci.example.org"}
    return client.post(
        "/outbox",
        data={"token": token, "do": do} | fields,
        headers=said if headers is None else headers,
        follow_redirects=False,
    )


def newest_audit(client):
    return client.get("/audit.json").json()["lines"][0]


def test_the_ids_of_this_file_are_those_of_the_lab(lab):
    states = [rows_of(lab, row_id).state for row_id in (HELD, PENDING, DELIVERED)]
    assert states == ["held", "pending", "delivered"]


def test_the_outbox_says_what_is_owed_why_and_how_to_act(client):
    text = client.get("/outbox").text
    for words in (
        "review.example.org answered 503; next try in 30 s.",
        "hypervouch outbox retry 3",
        "hypervouch outbox drop 3 --why",
        "hypervouch outbox release 5",
        "A negative vote waits for an operator.",
        "hooks.example.org answered 502.",
        "outbox-drop",
        "/outbox?settled=1",
    ):
        assert words in text, words
    assert "hypervouch outbox release 3" not in text
    assert "Delivered" not in text
    assert "Delivered" in client.get("/outbox?settled=1").text
    assert client.get("/outbox?settled=2").status_code == 400


def test_buttons_are_there_only_for_operators(tmp_path, client):
    assert 'value="release 5"' in client.get("/outbox").text
    plain = make_lab(tmp_path / "plain", reviews=True)
    with client_of(plain.app) as other:
        text = other.get("/outbox").text
        assert "<button form=" not in text
        assert 'name="token"' not in text
        assert "hypervouch outbox release 5" in text
        answer = press(other, "release 5", token="")
        assert answer.status_code == 404
        assert "no operator token is configured" in answer.text
    plain.database.close()


def test_a_held_review_is_released(lab, client):
    answer = press(client, f"release {HELD}", name="ann")
    assert (answer.status_code, answer.headers["location"]) == (303, "/outbox")
    assert rows_of(lab, HELD).state == "pending"
    line = newest_audit(client)
    assert (line["action"], line["by"], line["subject"]) == (
        "outbox-release",
        "ann (page)",
        f"review {HELD}",
    )


def test_a_pending_review_is_tried_at_once(lab, client):
    assert press(client, f"retry {PENDING}").status_code == 303
    assert rows_of(lab, PENDING).next_at <= NOW
    assert newest_audit(client)["by"] == "operator (page)"


def test_a_review_is_dropped_for_a_reason_only(lab, client):
    assert press(client, f"drop {PENDING}").status_code == 400
    assert rows_of(lab, PENDING).state == "pending"
    assert press(client, f"drop {PENDING}", why="posted by hand").status_code == 303
    assert rows_of(lab, PENDING).state == "dropped"
    assert newest_audit(client)["note"] == "posted by hand"


def test_what_cannot_be_done_is_said(lab, client):
    answer = press(client, f"retry {DELIVERED}")
    assert answer.status_code == 409
    assert "delivered already" in answer.text
    assert press(client, "retry 999").status_code == 409
    assert press(client, f"release {PENDING}").status_code == 409


@pytest.mark.parametrize(
    "do", ["", "retry", "retry 0", "retry -1", "delete 3", "retry 3; drop 5", "retry \u0663"]
)
def test_only_the_buttons_of_the_page(client, do):
    assert press(client, do).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site", "origin": "https://ci.example.org"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://ci.example.org.evil.example"},
        {"origin": "http://["},
    ],
)
def test_a_form_on_another_site_is_refused(lab, client, headers):
    answer = press(client, f"release {HELD}", headers=headers)
    assert answer.status_code in {400, 403}
    assert rows_of(lab, HELD).state == "held"


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://ci.example.org"}, {"origin": "http://testserver"}],
)
def test_a_browser_without_fetch_metadata_is_known_by_its_origin(client, headers):
    assert press(client, f"release {HELD}", headers=headers).status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + " ", TOKEN[:-1], "\u00e9\x00"])
def test_a_wrong_token_changes_nothing_and_is_not_shown(lab, client, token):
    before = len(client.get("/audit.json").json()["lines"])
    answer = press(client, f"release {HELD}", token=token)
    assert answer.status_code == 403
    assert rows_of(lab, HELD).state == "held"
    assert TOKEN not in answer.text
    assert len(client.get("/audit.json").json()["lines"]) == before


def test_wrong_tokens_are_slowed_down(lab, client):
    for _ in range(5):
        assert press(client, f"release {HELD}", token="guess").status_code == 403
    answer = press(client, f"release {HELD}")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert rows_of(lab, HELD).state == "held"
    lab.clock.sleep(61)
    assert press(client, f"release {HELD}").status_code == 303


def test_the_token_stands_nowhere(lab, client):
    site = lab.app.state.site
    assert TOKEN not in repr(vars(site.operator)) + repr(site)
    assert TOKEN not in client.get("/outbox").text


def test_only_a_small_form_is_read(client):
    headers = {"sec-fetch-site": "same-origin", "content-type": "application/json"}
    assert client.post("/outbox", content=b"{}", headers=headers).status_code == 415
    headers["content-type"] = "application/x-www-form-urlencoded"
    assert client.post("/outbox", content=b"a=" + b"x" * 9000, headers=headers).status_code == 413
    assert client.post("/outbox", content=b"a=1&" * 40, headers=headers).status_code == 400
    assert client.post("/outbox", content=b"a=%ff", headers=headers).status_code == 400
    assert client.post("/outbox", content=b"\xff", headers=headers).status_code == 400


def test_the_change_page_shows_every_vote_and_whether_they_agree(client):
    text = client.get(f"/changes/4711/2?connection={GERRIT}").text
    for words in ("Disagrees", "Agrees", "Globex Xen CI", "comment: failed", "a person"):
        assert words in text, words
    assert "Code-Review" not in text
    assert "We have no verdict" in client.get(f"/changes/4711/1?connection={GERRIT}").text


def test_the_change_page_shows_what_waits_and_its_topic(client):
    text = client.get("/changes/4717").text
    assert text.count("Check waits for Verified +1 by zuul on 1d229271.") == 2
    assert "topic <span" in text
    assert "#needs-two-nodes" in text


def test_a_recheck_shows_who_asked_why_and_what_it_rechecks(client):
    text = client.get("/changes/4718/1").text
    assert "bug 1934: the node lost its network" in text
    assert "functional-qemu: node failure, infra" in text
    assert "its event had been missed" in text
    assert "https://review.example.org/c/acme/console/+/4650/1" in text
    assert f'href="/changes/4710/1?connection={GERRIT}"' in text
    for anchor in re.findall(r'href="#(\w+)"', text):
        assert f'id="{anchor}"' in text or anchor.startswith("i-") or anchor == "main"


def test_links_name_the_server(lab, client):
    for path in ("/", "/builds", "/nodes", "/outbox?settled=1", "/agreement", "/changes/4711"):
        links = re.findall(r'href="(/changes/[^".]*)"', client.get(path).text)
        assert links or path == "/nodes", path
        assert [link for link in links if "?connection=" not in link] == [], path
    other = client.get(f"/changes/4711?connection={SECOND}")
    assert "Somebody else&#39;s change" in other.text
    links = re.findall(r'href="(/changes/[^"]*)"', other.text)
    for link in links:
        assert client.get(link).status_code == 200, link
    assert client.get("/changes/4711?connection=nowhere").status_code == 404


def test_one_number_on_two_servers_is_two_lists_of_builds(client):
    listed = client.get(f"/builds.json?change=4711&connection={SECOND}").json()["builds"]
    assert [build["connection"] for build in listed] == [SECOND]
    assert "review-next" in client.get("/builds").text


def test_agreement_says_what_is_compared(client):
    text = client.get("/agreement").text
    assert "Our last verdict on each patch set against the last vote" in text
    assert "2 (67 %)" in text
    assert client.get("/agreement?days=0").status_code == 400
    assert client.get("/agreement?days=1.5").status_code == 400
    assert client.get("/agreement.json?days=7").json()["days"] == 7


def test_hostile_text_of_others_is_only_text(lab, client):
    rows = lab.rows
    rows.change(6667, EVIL, owner=EVIL)
    payload = {"author": {"name": EVIL}, "change": {"topic": EVIL, "hashtags": [EVIL]}}
    rows.event(6667, 1, f"check waits for {EVIL}", at=ago(1), payload=payload)
    verdict = {"vote": None, "succeeded": True, "reason": EVIL, "report": True, "held": False}
    buildset = rows.buildset(
        6667,
        at=ago(9),
        id="evil",
        recheck=1,
        requested_by=EVIL,
        request=EVIL * 40,
        verdict=verdict,
    )
    rows.build(buildset)
    rows.vote(buildset, -1, "pending", error=EVIL, label=EVIL[:90])
    approval(rows, 6667, 1, EVIL[:200], -1, label=EVIL[:90])
    approval(rows, 6667, 1, EVIL[:200], 0, label="", said="failed", account="x" * 200)
    notice(rows, 9, EVIL, reporter="hooks", error=EVIL)
    audit(rows, "outbox-drop", EVIL[:200], at=ago(1), by=EVIL[:200], note=EVIL)
    for path in ("/changes/6667", "/outbox", "/audit", "/agreement", "/"):
        text = client.get(path).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text), path
        assert client.get(twin(path)).status_code == 200


def twin(path):
    return "/index.json" if path == "/" else f"{path}.json"


def test_runs_for_gerrits_own_page(client):
    path = f"/checks/{GERRIT}/4718/1.json"
    answer = client.get(path, headers={"Origin": REVIEW})
    assert answer.json()["responseCode"] == "OK"
    assert len(answer.json()["runs"]) == 2
    assert answer.headers["access-control-allow-origin"] == REVIEW
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["vary"] == "Origin"
    assert client.get(f"{path}?sha={'0' * 40}").json()["runs"] == []
    assert client.get(f"/checks/{GERRIT}/999999/1.json").json() == {
        "responseCode": "OK",
        "runs": [],
    }


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "*", "https://review.example.org:8443", REVIEW + "/", ""],
)
def test_other_origins_may_not_read_the_runs(client, origin):
    headers = {"Origin": origin}
    for path in (f"/checks/{GERRIT}/4718/1.json", "/checks/nope/1/1.json", "/index.json"):
        assert "access-control-allow-origin" not in client.get(path, headers=headers).headers


def test_runs_that_did_not_change_are_not_sent_again(lab, client):
    path = f"/checks/{GERRIT}/4715/3.json"
    first = client.get(path, headers={"Origin": REVIEW})
    for tag in (
        first.headers["etag"],
        f"W/{first.headers['etag']}",
        f'"x", {first.headers["etag"]}',
    ):
        again = client.get(path, headers={"Origin": REVIEW, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["access-control-allow-origin"] == REVIEW
    lab.clock.sleep(100)
    assert client.get(path).headers["etag"] == first.headers["etag"]
    with lab.database.write() as tx:
        mine = schema.attempt.c.id == lab.story.running_attempt
        tx.execute(sa.update(schema.attempt).where(mine).values(phase="collect"))
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/checks/nope/4718/1.json", 404),
        (f"/checks/{GERRIT}/x/1.json", 400),
        (f"/checks/{GERRIT}/4718/0.json", 400),
        (f"/checks/{GERRIT}/4718/1.json?sha=abc", 400),
        (f"/checks/{GERRIT}/4718/1.json?sha={'G' * 40}", 400),
        (f"/checks/{GERRIT}/4718", 404),
    ],
)
def test_wrong_questions_about_runs(client, path, status):
    answer = client.get(path, headers={"Origin": REVIEW})
    assert answer.status_code == status
    if path.split("?")[0].endswith(".json"):
        assert answer.json()["error"]["message"]
        assert answer.headers["access-control-allow-origin"] == REVIEW


def test_the_plugin_may_be_loaded_from_anywhere(client):
    plain = client.get("/static/gerrit-checks.js?connection=review&v=1")
    ready = client.get("/checks/review/gerrit-checks.js")
    for answer in (plain, ready):
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Gerrit.install" in answer.text
    assert 'const SITE = "";' in plain.text
    assert 'const SITE = "https://ci.example.org/";' in ready.text
    assert 'const CONNECTION = "review";' in ready.text
    assert client.get("/checks/a%22b/gerrit-checks.js").status_code == 404
