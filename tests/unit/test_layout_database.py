# SPDX-License-Identifier: Apache-2.0
"""What may stand in the key `database`, and what is said of the rest, never with a secret."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ci.layout import Service


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://ci@db.example.org/hypervouch",
        "postgresql://ci@db.example.org:5433/hypervouch?sslmode=verify-full&sslrootcert=/ca.pem",
        "postgresql://ci@/hypervouch?host=/var/run/postgresql",
        "postgresql://ci@[2001:db8::1]/hypervouch",
    ],
)
def test_good_ones(url: str):
    assert Service(state_dir=Path("/s"), database=url).database == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////var/lib/hypervouch.db", "leave the key away"),
        ("mysql://ci@db/x", "only PostgreSQL"),
        ("postgresql://ci:s3cret@db/x", "database-password"),
        ("postgresql://ci@db/x?password=s3cret", "database-password"),
        ("postgresql://ci@db/x?options=-cfsync=off", "unknown option options"),
        ("postgresql://db.example.org/x", "user is missing"),
        ("postgresql://ci@/x", "host is missing"),
        ("postgresql://ci@db", "name is missing"),
        ("postgresql://ci@db:port/x", "no URL"),
    ],
)
def test_bad_ones(url: str, said: str):
    with pytest.raises(ValidationError) as refused:
        Service(state_dir=Path("/s"), database=url)
    assert said in refused.value.errors()[0]["msg"]
    assert "s3cret" not in refused.value.errors()[0]["msg"]
