# SPDX-License-Identifier: Apache-2.0
"""What a third-party CI expects to find on a Gerrit: label, groups, rights, accounts, projects."""

from pathlib import Path
from urllib.parse import quote

from ci.sandbox.account import ReviewServer

CI_GROUP = "Third-Party CI"
READER_GROUP = "Event Readers"
VOTER_GROUP = "Label Voters"
LABEL = "Verified"


def seed_rights(admin: ReviewServer) -> None:
    """Make the label and the groups that may vote, read events, or both. Repeatable.

    Administrators may push to branches afterwards, as the tests' authors do.
    """
    if admin.rest("GET", f"/projects/All-Projects/labels/{LABEL}", ok=[404]) is None:
        admin.rest(
            "PUT",
            f"/projects/All-Projects/labels/{LABEL}",
            {
                "commit_message": "Add the Verified label",
                "function": "NoBlock",
                "default_value": 0,
                "values": {"-1": "Fails", " 0": "No score", "+1": "Verified"},
                "copy_condition": "changekind:NO_CODE_CHANGE",
            },
        )
    for name in (CI_GROUP, READER_GROUP, VOTER_GROUP):
        admin.rest("PUT", f"/groups/{quote(name)}", {"description": "for tests"}, ok=[409])
    both, readers, voters, admins = (
        _group_id(admin, name) for name in (CI_GROUP, READER_GROUP, VOTER_GROUP, "Administrators")
    )
    vote = {"action": "ALLOW", "min": -1, "max": 1}
    admin.rest(
        "POST",
        "/projects/All-Projects/access",
        {
            "message": "Stream events and the label Verified for third-party CIs",
            "add": {
                "GLOBAL_CAPABILITIES": {
                    "permissions": {
                        "streamEvents": {
                            "rules": {one: {"action": "ALLOW"} for one in (both, readers)}
                        }
                    }
                },
                "refs/heads/*": {
                    "permissions": {
                        f"label-{LABEL}": {
                            "label": LABEL,
                            "rules": dict.fromkeys((both, voters, admins), vote),
                        },
                        # Newer releases give nobody the right to push past review.
                        "push": {"rules": {admins: {"action": "ALLOW"}}},
                    }
                },
            },
        },
        ok=[409],
    )


def seed_account(
    admin: ReviewServer,
    *,
    username: str,
    full_name: str,
    key_file: Path,
    password: str,
    stream_events: bool,
    vote: bool,
) -> None:
    """Make an account with a key, an HTTP password and just these rights. Repeatable."""
    admin.rest(
        "PUT",
        f"/accounts/{username}",
        {
            "name": full_name,
            "email": f"{username}@example.com",
            "http_password": password,
            "ssh_key": Path(f"{key_file}.pub").read_text(),
        },
        ok=[409],
    )
    group = {
        (True, True): CI_GROUP,
        (True, False): READER_GROUP,
        (False, True): VOTER_GROUP,
    }.get((stream_events, vote))
    if group is not None:
        admin.rest("PUT", f"/groups/{_group_id(admin, group)}/members/{username}")


def seed_project(admin: ReviewServer, name: str) -> None:
    """Make a project whose `master` holds one empty commit. Repeatable."""
    admin.rest(
        "PUT",
        f"/projects/{quote(name, safe='')}",
        {
            "create_empty_commit": True,
            "submit_type": "MERGE_IF_NECESSARY",
            "branches": ["master"],
        },
        ok=[409],
    )


def _group_id(admin: ReviewServer, name: str) -> str:
    found: str = admin.rest("GET", f"/groups/{quote(name)}")["id"]
    return found
