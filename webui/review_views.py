# SPDX-License-Identifier: Apache-2.0
"""How reviews read on a page: who says what, what is owed, where a change is. Pure."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from ci.model.stack import Dependency
from ci.store.reads.records import BuildRecord, BuildsetRecord, ConnectionRecord
from ci.store.reads.review_records import OwedRecord, PatchsetVote
from webui.ansi import one_line
from webui.views import Badge, badge, build_badge, count, value_words, web_link

_GERRIT = re.compile(r"(https?://\S+?)/(?:c/\S*/\+/|#/c/)?\d+/?\Z")
_POSTED = frozenset({"pending", "held", "delivered", "dropped"})
_FOR = {"retry": "Try now", "release": "Release", "drop": "Drop"}


def change_path(connection: str | None, number: int, patchset: int | None = None) -> str:
    """Our page of a change. Its server stands in it: numbers are not unique over several."""
    path = f"/changes/{number}" + (f"/{patchset}" if patchset else "")
    return path + (f"?{urlencode({'connection': connection})}" if connection else "")


def gerrit_url(change_url: str, dependency: Dependency) -> str:
    """Gerrit's page of a dependency on the server of a change; empty where it cannot be told."""
    found = _GERRIT.match(web_link(change_url))
    if found is None:
        return ""
    return f"{found[1]}/c/{quote(dependency.project)}/+/{dependency.number}/{dependency.patchset}"


def own_path(url: str, service_url: str) -> str:
    """The path of a page of ours; empty for any other address."""
    if not url.startswith(service_url):
        return ""
    # Two slashes, or a backslash, would lead a browser to another host.
    return "/" + url.removeprefix(service_url).lstrip("/\\")


def opinion_badge(opinion: int) -> Badge:
    """What a vote comes down to."""
    return {
        1: Badge(word="Passed", tone="good", icon="pass"),
        -1: Badge(word="Failed", tone="bad", icon="fail"),
    }.get(opinion, Badge(word="No verdict", tone="off", icon="stop"))


def vote_says(vote: PatchsetVote) -> str:
    """The vote and what became of it, in words."""
    if vote.ours:
        word = badge(vote.words).word.lower()
        if vote.words not in _POSTED:
            return word
        what = value_words(vote.label, vote.value)
        return what if vote.words == "delivered" else f"{what}, {word}"
    if vote.label and vote.value:
        return value_words(vote.label, vote.value)
    if vote.label:
        return f"{one_line(vote.label, 100)} taken away"
    return f"comment: {vote.words}" if vote.words else "comment"


def agreement_badge(vote: PatchsetVote, ours: Sequence[PatchsetVote]) -> Badge | None:
    """Whether another CI says the same as our newest run with an opinion; None for people."""
    if vote.ours or not vote.is_ci:
        return None
    if vote.agrees is None:
        judged = any(one.ours and one.opinion for one in ours)
        word = "Says neither" if judged else "We have no verdict"
        return Badge(word=word, tone="off", icon="stop")
    if vote.agrees:
        return Badge(word="Agrees", tone="good", icon="equal")
    return Badge(word="Disagrees", tone="warn", icon="differ")


def rechecked(item: BuildsetRecord, others: Sequence[BuildsetRecord]) -> BuildsetRecord | None:
    """The run that a recheck repeats: the newest earlier one of the pipeline."""
    earlier = [
        one for one in others if one.pipeline == item.pipeline and one.recheck < item.recheck
    ]
    return max(earlier, key=lambda one: one.recheck, default=None)


def culprits(item: BuildsetRecord) -> tuple[BuildRecord, ...]:
    """Builds of a run that did not succeed."""
    return tuple(build for build in item.builds if build.result not in {None, "SUCCESS"})


def culprit_words(build: BuildRecord) -> str:
    """Job and what was wrong with it, for a link."""
    why = f", {build.failure_class}" if build.failure_class else ""
    return f"{one_line(build.job, 100)}: {build_badge(build).word.lower()}{why}"


def commands(item: OwedRecord) -> tuple[str, ...]:
    """What an operator may do with a review, as words of the command line."""
    if item.state == "pending":
        return ("retry", "drop")
    return ("release", "drop") if item.state == "held" else ()


def action_word(verb: str) -> str:
    """What a button says."""
    return _FOR[verb]


def command_line(verb: str, row_id: int) -> str:
    """The exact command for it."""
    why = " --why 'REASON'" if verb == "drop" else ""
    return f"hypervouch outbox {verb} {row_id}{why}"


def counted_lines(item: ConnectionRecord) -> str:
    """What a connection brought that nobody acted on; empty where there was nothing."""
    parts = []
    if item.malformed:
        parts.append(count(item.malformed, "unreadable line"))
    if item.unknown:
        parts.append(count(item.unknown, "event") + " of other types")
    return ", ".join(parts)
