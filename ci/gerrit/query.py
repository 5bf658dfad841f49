# SPDX-License-Identifier: Apache-2.0
"""What the stream did not tell, read by `gerrit query` while REST does not answer.

SSH shows no tags, so messages of the server itself are known by their text: they lack the
`Patch Set N:` that stands before every comment, and nobody else can write such a message. What
cannot be told for certain is left out; REST tells it when it answers again, for the watermark
waits until then.

Source: https://gerrit-review.googlesource.com/Documentation/cmd-query.html and
tests/data/gerrit/query-ssh.jsonl.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta

from ci.errors import ReviewServerError
from ci.gerrit import fields
from ci.gerrit.catchup import after, project_terms
from ci.gerrit.fields import Json, MalformedEvent, objects
from ci.gerrit.history import COMMENT_COUNT, SERVER_TAG, ChangeRecord, Message, Reading, gathered
from ci.gerrit.parse import PATCHSET_LEVEL
from ci.gerrit.ssh_command import run
from ci.layout import Connection
from ci.log import get as get_logger
from ci.model.change import Patchset
from ci.model.event import Account, Approval

COMMAND = (
    "gerrit query --format=JSON --current-patch-set --patch-sets --comments --all-approvals"
    " --commit-message"
)
PAGE = 100
MAX_PAGES = 1000
NO_LABEL = "SUBM"
"""Gerrit's own mark of a submit, shown among the votes."""
_COMMENT = re.compile(r"Patch Set (\d{1,6})(?![0-9A-Za-z])")
_SERVER_WORDS = {
    "Abandoned": "abandon",
    "Restored": "restore",
    "Change has been successfully merged": "merged",
}

log = get_logger(__name__)
Run = Callable[[Connection, str], bytes]


def read(
    connection: Connection,
    since: datetime,
    projects: Collection[str],
    *,
    run_command: Run = run,
) -> Reading:
    """What happened on watched projects since a point in time, as far as SSH can tell.

    Args:
        connection: The connection.
        since: The watermark, by the server's clock.
        projects: Only these.
        run_command: Runs one command, as `ci.gerrit.ssh_command.run` does.

    Returns:
        A reading that is provisional: its `until` is None.

    Raises:
        ReviewServerError: SSH does not answer either, or not with what it should.
    """
    begin = since - timedelta(seconds=connection.catch_up_overlap_s)
    known: dict[int, ChangeRecord] = {}
    for which in project_terms(projects):
        for row in _rows(connection, f"{which} {after(begin)}", run_command):
            try:
                record = _record(row)
            except MalformedEvent as error:
                log.warning(
                    "change unreadable", action="skip", connection=connection.name, error=str(error)
                )
                continue
            known[record.change.number] = record
    return gathered(known.values(), begin, connection.name, connection.user, None)


def _rows(connection: Connection, query: str, run_command: Run) -> Iterator[Json]:
    start = 0
    for _ in range(MAX_PAGES):
        # The query holds dates and project names, which have no quote and no blank.
        command = f"{COMMAND} --start {start} -- 'limit:{PAGE} {query}'"
        rows = _decoded(run_command(connection, command))
        changes = [one for one in rows if "type" not in one]
        yield from changes
        stats = next((one for one in rows if one.get("type") == "stats"), {})
        if not changes or stats.get("moreChanges") is not True:
            return
        start += len(changes)


def _decoded(output: bytes) -> list[Json]:
    """The lines of a reply.

    Raises:
        ReviewServerError: They are not what `gerrit query` prints, or an error of it.
    """
    try:
        rows = [json.loads(line) for line in output.decode().split("\n") if line.strip()]
        found = objects({"rows": rows}, "rows")
    except (ValueError, RecursionError, MalformedEvent) as error:
        raise ReviewServerError(
            f"`gerrit query` answered with something that is not JSON: {error}", retryable=True
        ) from error
    for one in found:
        if one.get("type") == "error":
            said = fields.clean_line(str(one.get("message")), 200)
            raise ReviewServerError(f"`gerrit query` failed: {said}", retryable=True)
    return found


def _record(row: Json) -> ChangeRecord:
    """A change as `gerrit query` shows it, as a record.

    Raises:
        MalformedEvent: A member that later steps rely on is missing or unsafe.
    """
    change = fields.change(row, number_name="number", id_name="id")
    sources = {fields.number(one, "number"): one for one in objects(row, "patchSets")}
    patchsets = {number: _patchset(one, change.number) for number, one in sources.items()}
    last = sources[max(sources)] if sources else {}
    since = {number: fields.epoch(one, "createdOn") for number, one in sources.items()}
    shown = [_message(one, since) for one in objects(row, "comments")]
    messages = tuple(one for one in shown if one is not None)
    whole = _whole_texts(sources, messages)
    return ChangeRecord(
        change=change,
        patchsets=patchsets,
        uploader=fields.account(last, "uploader"),
        uploaded_at=fields.epoch(last, "createdOn") if last else None,
        updated_at=fields.epoch(row, "lastUpdated"),
        messages=tuple(one for one in messages if _is_whole(one, whole)),
        standing=_standing(last),
        whole=lambda message, _count: whole.get(id(message), ()),
    )


def _patchset(source: Json, number: int) -> Patchset:
    revision = fields.text(source, "revision")
    return fields.patchset(source, of=number, number_name="number", revision=revision)


def _message(source: Json, since: dict[int, datetime]) -> Message | None:
    """A message that can be told for certain: a comment, or the end of a change.

    Args:
        source: The message.
        since: When each patch set was uploaded.
    """
    text = fields.clean_text(fields.text(source, "message", default=""))
    said = _COMMENT.match(text)
    at, tag = fields.epoch(source, "timestamp"), ""
    patchset = int(said[1]) if said else None
    if said is None:
        word = _SERVER_WORDS.get(text.partition("\n")[0])
        if word is None:
            return None
        tag = SERVER_TAG + word
        patchset = max((one for one, uploaded in since.items() if uploaded <= at), default=None)
    return Message(
        at=at,
        author=fields.account(source, "reviewer"),
        tag=tag,
        text=text,
        patchset=patchset,
    )


def _is_whole(message: Message, whole: dict[int, tuple[str, ...]]) -> bool:
    return COMMENT_COUNT.search(message.text) is None or id(message) in whole


def _whole_texts(
    sources: dict[int, Json], messages: tuple[Message, ...]
) -> dict[int, tuple[str, ...]]:
    """By message, the texts on a patch set as a whole that it counts.

    SSH neither dates comments nor says to which message they belong. They can be dealt out
    where all comments of an author on a patch set are of this kind, or belong to one message.
    """
    counted: dict[tuple[int, Account], list[tuple[Message, int]]] = defaultdict(list)
    for one in messages:
        found = COMMENT_COUNT.search(one.text)
        if found and one.patchset:
            counted[one.patchset, one.author].append((one, int(found[1])))
    dealt = {}
    for (number, author), told in counted.items():
        every = [
            one
            for one in objects(sources.get(number, {}), "comments")
            if fields.account(one, "reviewer") == author
        ]
        texts = [
            fields.clean_text(fields.text(one, "message", default=""))
            for one in every
            if one.get("file") == PATCHSET_LEVEL
        ]
        if len(every) != sum(count for _, count in told):
            continue
        if len(told) == 1:
            dealt[id(told[0][0])] = tuple(texts)
        elif not texts or len(texts) == len(every):
            for message, count in told:
                dealt[id(message)], texts = tuple(texts[:count]), texts[count:]
    return dealt


def _standing(newest: Json) -> tuple[Approval, ...]:
    found = []
    for one in objects(newest, "approvals")[: fields.MOST_APPROVALS]:
        label = fields.clean_line(fields.text(one, "type"), 100)
        value = fields.vote(one, "value")
        if label and label != NO_LABEL and value:
            found.append(
                Approval(
                    label=label,
                    value=value,
                    by=fields.account(one, "by"),
                    granted_at=fields.epoch(one, "grantedOn") if one.get("grantedOn") else None,
                )
            )
    return tuple(found)
