# SPDX-License-Identifier: Apache-2.0
"""The agent's lines: whole answers come out, whatever else is on the line."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.guest import MAX_LINE, AnswerLines, GuestAgent

answers = st.dictionaries(
    st.text(st.characters(codec="ascii"), max_size=8),
    st.one_of(st.integers(-(10**12), 10**12), st.booleans(), st.text(max_size=20)),
    max_size=4,
)
# A line of noise has no answer in it: the mark is what an answer begins with.
noise = st.binary(max_size=60).map(lambda data: data.replace(b"@", b"a").replace(b"\n", b" "))


def line(answer: dict[str, object]) -> bytes:
    return b"@@ " + json.dumps(answer).encode() + b"\r\n"


class Script:
    """A console that answers as told; time passes only when nothing is there to be read."""

    def __init__(self, *pieces: bytes | None, echo: bool = False) -> None:
        self.pieces = list(pieces)
        self.written: list[bytes] = []
        self.closed = 0
        self.time = 0.0
        self.echo = echo

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if self.echo:
            ask_id = data.split()[0][1:].decode()
            self.pieces.append(line({"re": ask_id, "asked": len(self.written)}))

    def read(self, timeout_s: float) -> bytes:
        if not self.pieces:
            self.time += max(timeout_s, 0.01)
            return b""
        piece = self.pieces.pop(0)
        if piece is None:
            raise EOFError
        return piece

    def close(self) -> None:
        self.closed += 1


def agent(script: Script) -> GuestAgent:
    return GuestAgent(script, "hv-x", now=script.now, sleep=script.sleep)


class TestLines:
    @given(
        st.lists(
            st.one_of(answers.map(lambda a: (a, line(a))), noise.map(lambda n: (None, n + b"\n")))
        ),
        st.integers(1, 40),
    )
    def test_answers_come_in_order_however_the_bytes_are_cut(
        self, said: list[tuple[dict[str, object] | None, bytes]], size: int
    ) -> None:
        whole = b"".join(data for _, data in said)
        lines = AnswerLines()
        pieces = (whole[at : at + size] for at in range(0, len(whole), size))
        found = [answer for piece in pieces for answer in lines.feed(piece)]
        assert found == [answer for answer, _ in said if answer is not None]

    @given(st.binary())
    def test_nothing_breaks_it(self, data: bytes) -> None:
        lines = AnswerLines()
        assert all(isinstance(answer, dict) for answer in lines.feed(data + b"\n"))
        assert lines.last().isprintable()

    @given(noise, answers)
    def test_noise_before_an_answer_on_its_line_does_no_harm(
        self, before: bytes, answer: dict[str, object]
    ) -> None:
        assert list(AnswerLines().feed(before + line(answer))) == [answer]

    @pytest.mark.parametrize(
        "torn", [b'@@ {"a": 1', b"@@ 7", b"@@ [1]", b"@@ @@ {", b"@@ " + b"[" * 9000]
    )
    def test_what_is_not_whole_is_no_answer(self, torn: bytes) -> None:
        assert list(AnswerLines().feed(torn + b"\n" + line({"ok": 1}))) == [{"ok": 1}]

    def test_a_line_without_end_takes_no_memory(self) -> None:
        lines, piece = AnswerLines(), b"x" * 65_536
        tracemalloc.start()
        for _ in range(320):  # 20 MiB
            assert list(lines.feed(piece)) == []
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10 * MAX_LINE
        assert list(lines.feed(b"\n" + line({"ok": 1}))) == [{"ok": 1}]

    def test_keeps_the_last_lines_only(self) -> None:
        lines = AnswerLines()
        list(lines.feed(b"".join(b"line %d\n" % n for n in range(1000))))
        assert lines.last().endswith("line 999")
        assert "line 10 " not in lines.last()


class TestAsking:
    def test_one_question_one_answer(self) -> None:
        script = Script(echo=True)
        assert agent(script).ask("ping")["asked"] == 1
        assert script.written[0].endswith(b" ping\n")

    def test_asks_again_under_the_same_name_when_the_answer_is_torn(self) -> None:
        script = Script()
        asking = agent(script)
        with pytest.raises(TransientFault):
            asking.ask("counter", 9)
        assert len(script.written) == 3
        assert len(set(script.written)) == 1

    def test_an_answer_to_something_else_does_not_count(self) -> None:
        script = Script(line({"re": "other", "ok": 1}), line({"tick": 1}), echo=True)
        assert "asked" in agent(script).ask("ping")

    def test_silence_names_the_guest_and_its_last_words(self) -> None:
        script = Script(b"Oops: out of paper\r\n")
        with pytest.raises(TransientFault, match=r"hv-x did not answer 'ping' in 5 s.*Oops"):
            agent(script).ask("ping", 5)

    def test_a_panic_is_nobodys_answer(self) -> None:
        console = Script(b"[ 3.1] Kernel panic - not syncing: sysrq triggered crash\r\n")
        agent = GuestAgent(console, "hv-1", now=console.now, sleep=console.sleep)
        with pytest.raises(NodeFault, match=r"hv-1 panicked.*sysrq triggered crash"):
            agent.ask("ping", 5)
        console.echo = True  # it has booted anew
        assert agent.ask("ping", 5)

    def test_what_an_answer_says_of_a_panic_is_none(self) -> None:
        console = Script(line({"tick": "Kernel panic - not syncing"}), echo=True)
        agent = GuestAgent(console, "hv-1", now=console.now, sleep=console.sleep)
        assert agent.ask("ping", 5)

    def test_an_ended_line_is_a_fault(self) -> None:
        with pytest.raises(TransientFault, match="closed its console"):
            agent(Script(None)).ask("ping", 5)

    def test_an_ended_line_is_opened_again_where_it_can_be(self) -> None:
        script, later = Script(None), Script(echo=True)
        asking = GuestAgent(script, reopen=lambda: later, now=later.now, sleep=later.sleep)
        assert asking.ask("ping", 60)["asked"] == 1
        assert script.closed == 1

    def test_more_than_a_line_is_refused(self) -> None:
        with pytest.raises(ValueError, match="one printable line"):
            agent(Script()).ask("exec true\npoweroff")


class TestEvents:
    def test_is_heard_whatever_was_asked_meanwhile(self) -> None:
        script = Script(line({"event": "boot"}) + line({"event": "other"}), echo=True)
        asking = agent(script)
        asking.ask("ping")
        assert asking.wait_for_event("boot", 1)["event"] == "boot"
        with pytest.raises(TransientFault, match="did not tell of 'boot'"):
            asking.wait_for_event("boot", 1)

    def test_events_in_the_same_breath_as_an_answer_are_kept(self) -> None:
        script = Script()
        asking = agent(script)
        script.write = (
            lambda data: script.pieces.append(  # type: ignore[method-assign]
                line({"re": data.split()[0][1:].decode()}) + line({"event": "boot"})
            )
        )
        asking.ask("ping")
        assert asking.wait_for_event("boot", 1)

    def test_ticks_are_counted_from_now_on(self) -> None:
        script = Ticking(line({"tick": 1}))
        assert agent(script).ticks(3) == 6


class Ticking(Script):
    """A line with something old on it, whose guest ticks each half second from then on."""

    def read(self, timeout_s: float) -> bytes:
        if not timeout_s:
            return super().read(timeout_s)
        self.time += timeout_s
        return line({"tick": round(self.time)})
