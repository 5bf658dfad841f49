# SPDX-License-Identifier: Apache-2.0
"""What Nova declares of its drivers: its support matrix of three years, as it was committed.

Source: openstack/nova, doc/source/user/support-matrix.ini (doc/source/support-matrix.ini in
2015), Apache-2.0, (C) 2014 Red Hat, Inc. and the Nova contributors; each file names its commit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

YEARS = (2015, 2020, 2026)
NEWEST = YEARS[-1]
RENAMED = {"guest.disk.autoconfigure.wtf.com": "guest.disk.autoconfig"}
"""A row of 2015 that has another key since; its title is the same."""
STAND_INS = {
    f"libvirt-qemu-{machine}": f"libvirt-kvm-{machine}" for machine in ("aarch64", "ppc64", "s390x")
}
"""Columns of ours whose guests are emulated: Nova's column of KVM on that machine, by ours."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One feature as Nova describes it.

    Attributes:
        key: Nova's key.
        title: For people.
        status: `mandatory`, `optional`, or `choice(GROUP)` and `condition(...)` as Nova writes.
        notes: What the feature is, one paragraph.
        cli: Commands that use it.
        support: `complete`, `partial`, `missing` or `unknown`, by driver.
        support_notes: What Nova adds to that, by driver.
    """

    key: str
    title: str
    status: str
    notes: str = ""
    cli: tuple[str, ...] = ()
    support: Mapping[str, str] = field(default_factory=dict)
    support_notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Nova's whole table of one year.

    Attributes:
        year: Of its commit.
        commit: In openstack/nova.
        day: ISO date of that commit.
        drivers: Titles by Nova's key, in Nova's order.
        rows: By key, in Nova's order.
    """

    year: int
    commit: str
    day: str
    drivers: Mapping[str, str]
    rows: Mapping[str, Row]


@cache
def declared(year: int) -> Declared:
    """The table of one of YEARS; read once."""
    text = files("ci.matrix").joinpath(f"nova-{year}.json").read_text(encoding="utf-8")
    document = json.loads(text)
    source = document["source"]
    return Declared(
        year=year,
        commit=source["commit"],
        day=source["commit_date"][:10],
        drivers=document["drivers"],
        rows={row.key: row for row in map(_row, document["features"])},
    )


def _row(one: Mapping[str, object]) -> Row:
    values = {name: one[name] for name in ("title", "notes", "support", "support_notes")}
    key = RENAMED.get(str(one["key"]), one["key"])
    group = one["group"]
    status = f"{one['status']}({group})" if group else one["status"]
    return Row(**values, key=key, status=status, cli=tuple(one["cli"]))  # type: ignore[arg-type]


@cache
def rows() -> Mapping[str, Row]:
    """Every feature that any table has, as the newest of them describes it; newest table first."""
    found: dict[str, Row] = {}
    for year in reversed(YEARS):
        for key, row in declared(year).rows.items():
            found.setdefault(key, row)
    return found


@cache
def drivers() -> Mapping[str, str]:
    """Titles of the drivers of every table, by key; those of the newest table first."""
    found: dict[str, str] = {}
    for year in reversed(YEARS):
        for key, title in declared(year).drivers.items():
            found.setdefault(key, title)
    return found


def says(feature: str, driver: str) -> dict[str, str]:
    """What Nova declares of one feature of one driver, by year; only years that have both."""
    found = {}
    for year in YEARS:
        row = declared(year).rows.get(feature)
        if row is not None and driver in row.support:
            found[str(year)] = row.support[driver]
    return found
