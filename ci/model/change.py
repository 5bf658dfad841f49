# SPDX-License-Identifier: Apache-2.0
"""Gerrit's nouns: Change, Patchset, Ref. Values are checked where they are made.

Everything in an event is hostile. What later reaches git, a path or a URL passes the
patterns here first, so that no later step has to remember to.
"""

import re
from dataclasses import dataclass

PROJECT = re.compile(
    r"(?!.*(?:\.\.|//|\.git/|/\.|\.lock(?:/|\Z)))[A-Za-z0-9_][A-Za-z0-9._+/-]{0,200}"
)
BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|/\.|\.lock(?:/|\Z)))[A-Za-z0-9_][A-Za-z0-9._+/@-]{0,200}")
CHANGE_REF = re.compile(r"refs/changes/(\d{2})/(\d{1,10})/(\d{1,6})")
REVISION = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
CHANGE_ID = re.compile(r"I[0-9a-f]{40}")


def valid_project(name: str) -> bool:
    """Whether a project name is safe in a path, a URL and a git argument."""
    return bool(PROJECT.fullmatch(name)) and not name.endswith(("/", "."))


def valid_branch(name: str) -> bool:
    """Whether a branch name is one that git accepts and no option or path trick."""
    return bool(BRANCH.fullmatch(name)) and not name.endswith(("/", "."))


def valid_ref(ref: str, *, number: int, patchset: int) -> bool:
    """Whether `ref` is exactly the one Gerrit gives to this patch set."""
    found = CHANGE_REF.fullmatch(ref)
    if found is None:
        return False
    return found.groups() == (f"{number % 100:02d}", str(number), str(patchset))


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change as one event shows it.

    Attributes:
        project: Gerrit project, for instance `openstack/nova`.
        branch: Short name of the target branch.
        number: Gerrit's change number.
        change_id: The `I...` of the commit message.
        subject: First line of the commit message; hostile text.
        owner: Username of the owner, or their name where that is hidden.
        url: Gerrit's page for it.
        status: `NEW`, `MERGED` or `ABANDONED`.
        wip: Work in progress.
        private: Visible to few.
        topic: Empty when there is none.
        hashtags: In Gerrit's order.
        owner_email: Empty where it is hidden.
        message: The commit message of the patch set the source showed, capped; hostile text;
            empty where the source does not tell.
    """

    project: str
    branch: str
    number: int
    change_id: str
    subject: str = ""
    owner: str = ""
    url: str = ""
    status: str = "NEW"
    wip: bool = False
    private: bool = False
    topic: str = ""
    hashtags: tuple[str, ...] = ()
    owner_email: str = ""
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Patchset:
    """One version of a change: its number, commit and the ref to fetch it by.

    Attributes:
        number: From 1.
        revision: Commit id, hexadecimal.
        ref: `refs/changes/NN/CHANGE/PATCHSET`.
        kind: Gerrit's change kind: REWORK, TRIVIAL_REBASE, NO_CODE_CHANGE, ...
        uploader: Username of who pushed it.
    """

    number: int
    revision: str
    ref: str
    kind: str = "REWORK"
    uploader: str = ""
