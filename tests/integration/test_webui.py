# SPDX-License-Identifier: Apache-2.0
"""Every page and its JSON twin, hostile text, files out of reach, error pages."""

import json
import re
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from ci.model.result import FailureClass, Judgement, Outcome, Result, Status, TestFinding
from ci.store import pins, schema
from tests.kit.lab import client_of, make_lab
from tests.kit.rows import NOW, ago
from webui.app import PAGES
from webui.routes import status
from webui.templating import HERE

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> \x1b[31mred\x00\u202e end"


@pytest.fixture
def lab(tmp_path):
    made = make_lab(tmp_path, notice="Demo: <b>emulator</b>", reviews=True)
    yield made
    made.database.close()


@pytest.fixture
def client(lab):
    with client_of(lab.app) as made:
        yield made


def paths(lab):
    build = lab.story.regression
    return {
        "status": "/",
        "builds": "/builds",
        "build": f"/builds/{build}",
        "log": f"/builds/{build}/log",
        "change": "/changes/4711",
        "patchset": "/changes/4711/2",
        "matrix": "/matrix",
        "matrix-cell": "/matrix/operation.snapshot/libvirt-qemu-x86",
        "nodes": "/nodes",
        "processes": "/processes",
        "agreement": "/agreement",
        "outbox": "/outbox",
        "audit": "/audit",
    }


def twin(path):
    return "/index.json" if path == "/" else f"{path}.json"


def test_every_page_has_html_and_json(lab, client):
    assert {page.name for page in PAGES} == set(paths(lab))
    for name, path in paths(lab).items():
        html = client.get(path)
        assert html.status_code == 200, (name, html.text)
        assert html.headers["content-type"] == "text/html; charset=utf-8"
        assert html.text.count("<h1") == 1, name
        assert f'href="{twin(path)}"' in html.text
        data = client.get(twin(path))
        assert data.headers["content-type"] == "application/json"
        assert isinstance(data.json(), dict), name


@pytest.mark.parametrize(
    "name",
    ["passed", "regression", "retried", "running", "queued", "superseded", "conflict"],
)
def test_every_kind_of_build_has_its_page(lab, client, name):
    build = getattr(lab.story, name)
    assert client.get(f"/builds/{build}").status_code == 200
    assert client.get(f"/builds/{build}.json").json()["detail"]["build"]["id"] == build


def test_the_build_page_tells_in_the_order_people_ask(lab, client):
    text = client.get(f"/builds/{lab.story.regression}").text
    wanted = [
        "This patch breaks 2 tests that the branch tip passes.",
        "nested",
        "Verified -1, delivered 14 min ago",
        "test_memory_survives",
        "Passes on the branch tip, and failed again when repeated on another lease.",
        "QMP said &#39;paused&#39;",
        "What was compared",
        "the branch tip without the patch",
        "Timeline",
        "all 42 lines",
        "results.xml",
        "9b1c4f0a6de27f3b5a8c1d2e3f405162738495a6",
        "2026-11-22 17:18:51 UTC",
        "recheck functional-qemu",
    ]
    places = [text.find(words) for words in wanted]
    assert -1 not in places, wanted[places.index(-1)]
    assert places == sorted(places)


def test_the_build_as_json(lab, client):
    data = client.get(f"/builds/{lab.story.regression}.json").json()
    assert data["url"] == f"https://ci.example.org/builds/{lab.story.regression}"
    assert data["headline"] == "This patch breaks 2 tests that the branch tip passes."
    assert data["detail"]["judgement"]["failure_class"] == "regression"
    assert data["detail"]["attempts"][0]["started_at"] == "2026-11-22T17:18:52Z"
    assert data["files"][0]["artifacts"][0]["path"] == "results.xml"
    raw = data["files"][0]["console_url"]
    assert client.get(raw.removeprefix("https://ci.example.org")).status_code == 200


def test_every_row_shows_its_evidence(lab, client):
    text = client.get("/builds").text
    assert text.count('<span class="grade nested"') == 4


def test_status_says_when_a_build_may_start_and_what_is_paused(client):
    text = " ".join(client.get("/").text.split())
    assert "number 1 for xen · start unknown" in text
    assert re.search(r"number 1 for qemu-tcg · may start .{0,200}in 4 min.{0,60}UTC\)", text)
    assert "The host gets a new board" in text


def test_status_says_why_something_waits(client):
    text = client.get("/").text
    assert "No usable node of label xen: xen-1 is in Maintenance (new dom0)." in text
    assert "1 vote waiting to be delivered" in text


def test_a_change_for_which_nothing_ran_says_why(lab, client):
    text = client.get(f"/changes/{lab.story.docs_change}").text
    assert "Nothing ran for this patch set." in text
    assert "match irrelevant-files" in text


def test_one_patch_set_only(client):
    text = client.get("/changes/4711/1").text
    assert "Patch set 1" in text
    assert "Patch set 2" not in text


def test_filters_stay_in_the_links(lab, client):
    for index in range(60):
        lab.rows.build(
            lab.rows.buildset(6000 + index, at=ago(index)), "soak", queued_at=ago(9000 + index)
        )
    text = client.get("/builds?job=soak&state=done").text
    older = re.search(r'href="(/builds\?[^"]*after=[^"]*)"', text)
    assert older is not None
    assert "job=soak" in older[1]
    second = client.get(older[1].replace("&amp;", "&"))
    assert second.text.count('class="c-job"') == 10
    assert "Newest" in second.text
    rows = client.get("/builds.json?job=soak&limit=7").json()
    assert (len(rows["builds"]), rows["filter"]["job"]) == (7, "soak")


@pytest.mark.parametrize(
    "path",
    [
        "/builds?change=x",
        "/builds?change=0",
        "/builds?change=99999999999999",
        "/builds?limit=201",
        "/builds?limit=-1",
        "/builds?after=zzz",
        "/builds?result=MAYBE",
        "/builds?state=1%27--",
        "/builds?project=a%00b",
        "/builds?project=" + "x" * 400,
        "/changes/abc",
        "/changes/4711/x",
        "/changes?number=-4",
        "/changes/%D9%A3",
    ],
)
def test_bad_parameters_are_named(client, path):
    answer = client.get(path)
    assert answer.status_code == 400
    assert "400 Bad Request" in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/nope", "/builds/nope", "/builds/nope/log", "/changes/1", "/changes/4711/9", "/builds/a/b/c"],
)
def test_what_is_not_there(client, path):
    page = client.get(path)
    assert (page.status_code, page.text.count("<h1")) == (404, 1)
    data = client.get(f"{path}.json")
    assert data.status_code == 404
    assert data.json()["error"]["status"] == 404
    assert data.json()["error"]["message"]


def test_error_pages_show_hostile_addresses_safely(client):
    answer = client.get("/%3Cscript%3Ealert(1)%3C/script%3E")
    assert answer.status_code == 404
    assert "<script>alert" not in answer.text


def test_nothing_can_be_written(client):
    for method in (client.post, client.put, client.delete):
        assert method("/builds").status_code == 405


def test_a_defect_shows_no_traceback(lab, client, monkeypatch):
    def fail(*_args, **_kwargs):
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr(status, "status_overview", fail)
    page, data = client.get("/"), client.get("/index.json")
    assert (page.status_code, data.status_code) == (500, 500)
    assert "a defect on our side" in page.text
    assert "secret" not in page.text + data.text
    assert "ZeroDivision" not in page.text + data.text
    assert page.headers["content-security-policy"].startswith("default-src 'self'")


def test_an_unreadable_database_is_said_so(lab, client, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(type(lab.database), "read", fail)
    page = client.get("/builds")
    assert page.status_code == 503
    assert "cannot be read at the moment" in page.text
    assert client.get("/nodes.json").json()["error"]["status"] == 503


def test_every_response_keeps_browsers_strict(lab, client):
    for path in [*paths(lab).values(), "/nope", "/healthz", "/openapi.json", "/static/page.css"]:
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy, path
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"


def test_pages_keep_to_their_own_policy(lab, client):
    for path in paths(lab).values():
        text = client.get(path).text
        assert not re.search(r"<[^>]*\s(style|on\w+)=", text), path
        assert "<style" not in text
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), path
        assert not re.search(r"(src|href)=\"(https?:)?//(?!review\.example\.org)", text), path
    for name in ("page.css", "live.js"):
        assert "http" not in (HERE / "static" / name).read_text()


def test_hostile_text_is_only_text(lab, client):
    rows = lab.rows
    rows.change(6666, EVIL, owner=EVIL, url="javascript:alert(3)", project="acme/x", updated_at=NOW)
    rows.event(6666, 1, EVIL, author=EVIL, at=ago(1))
    finding = TestFinding(
        test_id=EVIL, failure_class=FailureClass.REGRESSION, reason=EVIL, message=EVIL
    )
    buildset = rows.buildset(6666, at=NOW + timedelta(seconds=1), reason=EVIL)
    build = rows.build(
        buildset,
        EVIL,
        queued_at=NOW,
        judgement=Judgement(
            result=Result.FAILURE,
            failure_class=FailureClass.REGRESSION,
            vote=-1,
            reason=EVIL,
            findings=(finding,),
        ),
    )
    attempt = rows.attempt(build, began=NOW, error=EVIL, hint=EVIL, facts={EVIL: EVIL})
    outcome = Outcome(test_id=EVIL, status=Status.FAIL, message=EVIL, details=EVIL * 2000)
    rows.outcomes(attempt, [outcome])
    rows.console(build, attempt, [EVIL, b"\xff\xfe\0<b>" * 9, "y" * 200_000], began=NOW)
    rows.artifacts(build, attempt, {"logs/<img src=x>.html": EVIL.encode()})
    for path in ("/", "/builds", f"/builds/{build}", f"/builds/{build}/log", "/changes/6666"):
        text = client.get(path).text
        assert "&lt;script&gt;alert(1)" in text, path
        assert "<script>alert" not in text, path
        assert "<img" not in text, path
        assert "<b>\ufffd" not in text, path
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text), path
        assert "javascript:alert(3)" not in text, path
        assert client.get(twin(path)).status_code == 200


def test_the_notice_stands_on_every_page(lab, client):
    for path in (*paths(lab).values(), "/nope"):
        assert "Demo: &lt;b&gt;emulator&lt;/b&gt;" in client.get(path).text


def test_a_huge_log_is_shown_through_a_window(lab, client):
    build, attempt = lab.story.running, lab.story.running_attempt
    path = lab.rows.attempt_dir(build, attempt) / "console.log"
    with path.open("wb") as log:
        for number in range(1, 200_001):
            log.write(b"2026-11-22T17:41:00.123Z | " + b"%073d\n" % number)
    assert path.stat().st_size > 20_000_000
    page = client.get(f"/builds/{build}/log")
    assert len(page.content) < 600_000
    assert "lines 1 to 1,000 of 200,000" in page.text
    page = client.get(f"/builds/{build}/log?line=150000&attempt={attempt}")
    assert 'id="L150000"' in page.text
    assert 'id="L149979"' not in page.text
    data = client.get(f"/builds/{build}/log.json?from=199999").json()
    assert [line["number"] for line in data["window"]["lines"]] == [199_999, 200_000]
    assert "no line 300,000" in client.get(f"/builds/{build}/log?from=300000").text


def test_logs_of_each_attempt_by_id_and_number(lab, client):
    build = lab.story.regression
    assert "repeat #3" in client.get(f"/builds/{build}/log").text
    by_number = client.get(f"/builds/{build}/log.json?attempt=1").json()
    assert by_number["attempt_id"] == lab.story.regression_check
    assert client.get(f"/builds/{build}/log?attempt=9").status_code == 404
    assert "has no log" in client.get(f"/builds/{lab.story.queued}/log").text


def test_raw_files_cannot_do_anything(lab, client):
    base = f"/builds/{lab.story.regression}/attempts/{lab.story.regression_check}"
    lab.rows.artifacts(
        lab.story.regression,
        lab.story.regression_check,
        {"page.html": b"<script>1</script>", "x.bin": b"\0\1", "u8.txt": "ü".encode() * 5000},
    )
    for path, kind in (
        ("console.log", "text/plain; charset=utf-8"),
        ("artifacts/page.html", "text/plain; charset=utf-8"),
        ("artifacts/u8.txt", "text/plain; charset=utf-8"),
        ("artifacts/x.bin", "application/octet-stream"),
    ):
        answer = client.get(f"{base}/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), path
        assert answer.headers["content-security-policy"].startswith("sandbox")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "attachment" in client.get(f"{base}/artifacts/x.bin").headers["content-disposition"]


@pytest.mark.parametrize(
    "tail",
    [
        "artifacts/../manifest.json",
        "artifacts/%2e%2e/manifest.json",
        "artifacts/..%2f..%2f..%2fsecret",
        "artifacts//etc/hostname",
        "artifacts/%2fetc%2fhostname",
        "artifacts/x%00y",
        "artifacts/",
        "../../../../secret",
    ],
)
def test_paths_that_leave_the_artifacts(lab, client, tail):
    (lab.logs_dir / "secret").write_text("secret")
    base = f"/builds/{lab.story.regression}/attempts/{lab.story.regression_check}"
    answer = client.get(f"{base}/{tail}")
    assert answer.status_code == 404
    assert "sha256" not in answer.text


def test_the_search_field(client):
    answer = client.get("/changes?number=4711", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/changes/4711")
    answer = client.get("/changes?number=4711&connection=review-next", follow_redirects=False)
    assert answer.headers["location"] == "/changes/4711?connection=review-next"
    assert client.get("/changes").url.path == "/builds"


def test_the_description_names_every_twin_and_its_fields(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {page.twin for page in PAGES}
    schemas = described["components"]["schemas"]
    assert "waiting" in schemas["BuildRecord"]["properties"]
    for reference in re.findall(r"#/components/schemas/(\w+)", json.dumps(described)):
        assert reference in schemas


def test_the_json_has_exactly_the_described_fields(lab, client):
    described = client.get("/openapi.json").json()
    for page in PAGES:
        data = client.get(twin(paths(lab)[page.name])).json()
        get = described["paths"][page.twin]["get"]
        schema = get["responses"]["200"]["content"]["application/json"]["schema"]
        name = schema["$ref"].rpartition("/")[2]
        assert set(data) == set(described["components"]["schemas"][name]["properties"])


def test_a_stream_of_a_finished_build_ends(lab, client):
    build = lab.story.passed
    answer = client.get(f"/builds/{build}/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "event: log" in answer.text
    assert answer.text.rstrip().splitlines()[-3] == "event: done"
    lines = [
        line
        for data in re.findall(r"event: log\nid: [^\n]*\ndata: ([^\n]*)", answer.text)
        for line in json.loads(data)["lines"]
    ]
    assert [line[0] for line in lines] == list(range(1, 21))
    assert lines[8][2][1] == ["ansi-green", "PASSED"]


def test_a_stream_goes_on_after_the_last_event_id(lab, client):
    build = lab.story.passed
    first = client.get(f"/builds/{build}/stream").text
    last_id = re.findall(r"id: (\S+)", first)[-1]
    again = client.get(f"/builds/{build}/stream", headers={"Last-Event-ID": last_id}).text
    assert "event: log" not in again
    assert "event: done" in again
    for nonsense in ("x", ":", "a:b", "a:99999999999", "\u00e9:1"):
        answer = client.get(
            f"/builds/{build}/stream", headers={"Last-Event-ID": nonsense.encode("latin-1")}
        )
        assert "event: done" in answer.text
    assert client.get("/builds/nope/stream").status_code == 404


def test_a_stream_can_be_asked_for_its_head_alone(lab, client):
    assert client.head(f"/builds/{lab.story.running}/stream").status_code == 200


def test_only_the_newest_log_of_a_running_build_is_live(lab, client):
    assert "data-stream" in client.get(f"/builds/{lab.story.running}/log").text
    assert "data-stream" not in client.get(f"/builds/{lab.story.regression}/log").text


def test_too_many_live_pages_are_refused(lab, client):
    lab.app.state.streams.update(object() for _ in range(100))
    answer = client.get(f"/builds/{lab.story.passed}/stream")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "30"


def test_a_build_whose_logs_went_says_so_with_the_date(lab, client):
    build = lab.story.regression
    attempt = client.get(f"/builds/{build}.json").json()["detail"]["attempts"][0]["id"]
    raw = f"/builds/{build}/attempts/{attempt}/console.log"
    assert client.get(raw).status_code == 200
    with lab.database.write() as tx:
        one = schema.build.c.id == build
        tx.execute(schema.build.update().where(one).values(logs="deleted 2026-11-20"))
    page = client.get(f"/builds/{build}")
    assert page.status_code == 200
    assert "removed on 2026-11-20" in page.text
    assert client.get(f"/builds/{build}.json").json()["logs_removed"] == "2026-11-20"
    for path in (raw, f"/builds/{build}/log", raw.replace("console.log", "artifacts/junit.xml")):
        gone = client.get(path)
        assert gone.status_code == 410
        assert "removed on 2026-11-20" in gone.text


def test_a_pinned_build_says_who_keeps_it_and_why(lab, client):
    build = lab.story.regression
    pins.pin(lab.database, build, by="ann", why=EVIL, at=NOW)
    text = client.get(f"/builds/{build}").text
    assert "Pinned" in text
    assert "<script>alert(1)" not in text
    assert client.get(f"/builds/{build}.json").json()["pin"]["by"] == "ann"
