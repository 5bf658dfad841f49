# SPDX-License-Identifier: Apache-2.0
"""Recordings of APIs: what is secret, what is like what, what a file must be, how time passes."""

import gzip
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from vcr.request import Request

from ci.errors import ConfigError, HypervouchBug
from nodes.hypervisors import ironic_link
from nodes.recording import tape
from nodes.recording.cassette import ANSWER_BYTES, Player, Recorder
from nodes.recording.clock import TapeClock
from nodes.recording.redaction import PASSWORD, Redaction
from nodes.recording.tape import NotRecorded

PLACE = "https://127.0.0.1:1/sdk"
WORD = "s3cret \"&<>'/\\ w\u00f6rd"


def request(body: str = "", method: str = "POST", **headers: str) -> Request:
    return Request(method, PLACE, body, {name.replace("_", "-"): headers[name] for name in headers})


def response(body: bytes = b"", status: int = 200, **headers: str) -> dict[str, Any]:
    told = {name.replace("_", "-"): [headers[name]] for name in headers}
    return {"status": {"code": status, "message": "OK"}, "headers": told, "body": {"string": body}}


def head(**more: Any) -> tape.Head:
    known = {"hypervouch-recording": 1, "hypervisor": "vcenter://u@h", "mark": "0a1b"}
    return tape.Head.model_validate(known | {"timeout_s": 60.0} | more)


def taped(*exchanges: tape.Exchange) -> tape.Tape:
    foot = tape.Foot(exchanges=len(exchanges), words={"test_a.py::test_b": "works"})
    return tape.Tape(head=head(), exchanges=exchanges, foot=foot)


def exchange(body: str, answer: str = "", at: float = 0.0) -> tape.Exchange:
    asked = tape.Asked(method="POST", url=PLACE, body=body)
    return tape.Exchange(at=at, asked=asked, status=200, reason="OK", text=answer)


def kept(recorder: Recorder, secrets: Redaction, path: Path) -> str:
    tape.write(path, taped(*recorder.exchanges), secrets)
    return path.read_text()


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("<password>s3cret &quot;&amp;&lt;&gt;'/\\ w\u00f6rd</password>", ""),
        (json.dumps({"password": WORD, "user": "ci"}), ""),
        ("", f"it takes {WORD} as its password"),
        ("q=s3cret%20%22%26%3C%3E%27%2F%5C%20w%C3%B6rd", ""),
    ],
)
def test_a_password_is_kept_in_no_form(tmp_path: Path, question: str, answer: str):
    secrets = Redaction(WORD)
    recorder = Recorder(secrets)
    recorder.append(request(question, Authorization="Basic dTpw"), response(answer.encode()))
    text = kept(recorder, secrets, tmp_path / "file")
    assert "s3cret" not in text
    assert PASSWORD in text
    assert "Basic" not in text


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"Cookie": 'a="the-session-id"; b=2'}, {}),
        ({}, {"Set-Cookie": 'vmware_soap_session="the-session-id"; Path=/; Secure'}),
        ({"X_Auth_Token": "the-session-id"}, {}),
        ({}, {"X_Auth_Token": "the-session-id"}),
    ],
)
def test_a_session_is_kept_nowhere(tmp_path: Path, asked: dict[str, str], told: dict[str, str]):
    secrets = Redaction(WORD)
    recorder = Recorder(secrets)
    recorder.append(request("before: the-session-id"), response())
    recorder.append(request("x", **asked), response(b"view-of-the-session-id", **told))
    text = kept(recorder, secrets, tmp_path / "file")
    assert "the-session-id" not in text
    assert "view-of-hv-secret-2" in text


def test_sessions_in_answers_to_logins_are_secrets(tmp_path: Path):
    secrets = Redaction(WORD)
    recorder = Recorder(secrets)
    login = b"<LoginResponse xmlns='urn:vim25'><returnval><key>52aa-bb</key></returnval>"
    recorder.append(request("<Login/>"), response(login))
    xapi = "<methodName>session.login_with_password</methodName>"
    ref = b"<name>Value</name>\n<value><string>OpaqueRef:1-2</string></value>"
    recorder.append(request(xapi), response(ref))
    other = b"<sessionManager type='UserSession'>52aa-bb OpaqueRef:1-2"
    recorder.append(request("x"), response(other))
    text = kept(recorder, secrets, tmp_path / "file")
    assert "52aa-bb" not in text
    assert "OpaqueRef:1-2" not in text


def test_a_secret_in_bytes_stops_the_file(tmp_path: Path):
    secrets = Redaction("a-long-password")
    recorder = Recorder(secrets)
    recorder.append(request("x"), response(b"\xff\xfe a-long-password"))
    with pytest.raises(HypervouchBug, match="nothing was written"):
        kept(recorder, secrets, tmp_path / "file")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "there is no password"),
        ("root", "fewer than 8 characters"),
        ("hypervouch", "a word that requests hold"),
        ("vc.example.org", "a word that requests hold"),
    ],
)
def test_a_password_that_could_be_any_word_is_refused(password: str, why: str):
    with pytest.raises(ConfigError, match=why):
        Redaction(password, "vcenter://ci@vc.example.org/DC")


def test_the_library_logs_nothing(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    recorder = Recorder(Redaction(WORD))
    with recorder.inserted():
        recorder.append(request("x"), response(b"y"))
    assert [one for one in caplog.records if one.name.startswith("vcr")] == []


def test_packed_answers_are_kept_as_text():
    recorder = Recorder(Redaction(WORD))
    packed = response(gzip.compress(b"<answer/>"), Content_Encoding="gzip", Content_Type="text/xml")
    recorder.append(request("x"), packed)
    (one,) = recorder.exchanges
    assert (one.text, one.headers) == ("<answer/>", {"Content-Type": ["text/xml"]})


def test_long_bodies_are_known_by_size_and_digest(tmp_path: Path):
    secrets = Redaction(WORD)
    recorder = Recorder(secrets)
    disk = b"\0" * (3 << 20)
    recorder.append(
        Request("PUT", PLACE, disk, {"Content-Type": "application/octet-stream"}),
        response(b"\xff" * (ANSWER_BYTES + 5)),
    )
    (one,) = recorder.exchanges
    assert (one.asked.size, one.asked.body, one.cut) == (len(disk), "", 5)
    assert len(one.asked.sha256) == 64
    assert len(kept(recorder, secrets, tmp_path / "file")) < 2 * ANSWER_BYTES


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("<serviceURI>tcp://:1</serviceURI>", "<serviceURI>tcp://:22</serviceURI>", True),
        ('{"rescue_password":"one"}', '{"rescue_password":"another"}', True),
        ('{"value":"file:///tmp/a/tiny.raw"}', '{"value":"file:///b/tiny.raw"}', True),
        ('{"value":"file:///tmp/a/tiny.raw"}', '{"value":"file:///tmp/a/other.raw"}', False),
        ('{"configdrive":"aaa"}', '{"configdrive":"bbb"}', True),
        ("<name>hv-0a1b-g1</name>", "<name>hv-0a1b-g2</name>", False),
    ],
)
def test_what_is_drawn_anew_makes_no_other_request(one: str, other: str, *, alike: bool):
    first, second = (tape.asked("POST", PLACE, {}, text.encode()) for text in (one, other))
    assert (first.likeness == second.likeness) is alike


def test_a_file_comes_back_as_it_was(tmp_path: Path):
    made = taped(exchange("<a/>", "\u2028 \x85 lines", at=1.5), exchange("", "x"))
    tape.write(tmp_path / "file", made, Redaction(WORD))
    assert tape.read(tmp_path / "file") == made


def test_a_file_that_was_cut_off_anywhere_is_one_clear_error(tmp_path: Path):
    path = tmp_path / "file"
    tape.write(path, taped(exchange("<a/>", "b"), exchange("<c/>", "d")), Redaction(WORD))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"cut off|no line of a recording"):
            tape.read(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no line of a recording"),
        (b"\xff\xfe\0", "no text"),
        (b'{"hypervouch-report": 1}\n', "no line of a recording"),
        (b"<html>\n</html>\n", "no line of a recording"),
    ],
)
def test_a_foreign_file_is_one_clear_error(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        tape.read(tmp_path / "file")
    assert "--record" in caught.value.hint


def test_lines_that_are_missing_in_the_middle_are_noticed(tmp_path: Path):
    path = tmp_path / "file"
    tape.write(path, taped(exchange("<a/>"), exchange("<c/>")), Redaction(WORD))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(ConfigError, match="1 of its 2 exchanges"):
        tape.read(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    with pytest.raises(ConfigError, match="it is no file"):
        tape.read(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        tape.read(tmp_path / "nothing")


def test_answers_to_one_question_come_in_their_order():
    asked = [exchange("poll", "running"), exchange("other", "x"), exchange("poll", "done")]
    player = Player(taped(*asked))
    told = [player.play_response(request(body))["body"]["string"] for body in ("poll", "poll")]
    assert told == [b"running", b"done"]
    assert [one.body for one in player.rest] == ["other"]


def test_an_unknown_question_is_named_and_nothing_is_answered_after_it():
    player = Player(taped(exchange("<soap:Body><PowerOn_Task>vm-1</PowerOn_Task>", "x")))
    with pytest.raises(NotRecorded, match=r"does not know POST .*\(PowerOn_Task\).*vm-2") as caught:
        player.play_response(request("<soap:Body><PowerOn_Task>vm-2</PowerOn_Task>"))
    assert "vm-1" in caught.value.message
    with pytest.raises(NotRecorded):
        player.play_response(request("<soap:Body><PowerOn_Task>vm-1</PowerOn_Task>"))
    assert player.difference is caught.value


def test_a_question_that_is_asked_once_too_often_is_named():
    player = Player(taped(exchange("<a/>", "x")))
    player.play_response(request("<a/>"))
    with pytest.raises(NotRecorded, match="no further answer to POST"):
        player.play_response(request("<a/>"))


def test_of_several_like_it_the_closest_is_shown():
    calls = [exchange(f"<soap:Body><PowerOn_Task>{vm}</PowerOn_Task>") for vm in ("a-1", "vm-1")]
    with pytest.raises(NotRecorded, match=r"vm-1.* was recorded, .*vm-2.* is asked"):
        Player(taped(*calls)).play_response(request("<soap:Body><PowerOn_Task>vm-2</PowerOn_Task>"))


@pytest.mark.parametrize(
    ("method", "body", "reads"),
    [
        ("GET", "", True),
        ("PUT", "", False),
        ("POST", "<soapenv:Body><RetrievePropertiesEx xmlns='urn:vim25'>", True),
        ("POST", "<soapenv:Body><PowerOffVM_Task xmlns='urn:vim25'>", False),
        ("POST", "<methodName>VM.get_record</methodName>", True),
        ("POST", "<methodName>Async.VM.suspend</methodName>", False),
        ("POST", "<methodName>task.destroy</methodName>", True),
        ("PATCH", "{}", False),
    ],
)
def test_a_request_that_we_do_not_know_may_change_anything(method: str, body: str, *, reads: bool):
    assert tape.asked(method, PLACE, {}, body.encode()).only_reads is reads


def test_time_passes_as_it_did_and_nobody_waits():
    player = Player(taped(exchange("<a/>", at=5.0), exchange("<b/>", at=900.0)))
    with player.inserted():
        assert ironic_link.time.monotonic() == 0
        player.play_response(request("<a/>"))
        ironic_link.time.sleep(600)
        assert ironic_link.time.monotonic() == 605
        player.play_response(request("<b/>"))
        assert ironic_link.time.monotonic() == 900
    assert ironic_link.time is time


def test_time_never_goes_back():
    clock = TapeClock()
    clock.sleep(10)
    clock.reached(4)
    clock.sleep(-1)
    assert clock.monotonic() == 10
    assert clock.time() <= time.time()
