# SPDX-License-Identifier: Apache-2.0
"""`/processes`: who is there, what each does, and what it has in hand."""

from dataclasses import dataclass

from starlette.requests import Request

from ci.store.reads.processes import LeaseRecord, ProcessRecord, all_processes
from webui.pages import Loaded, Page
from webui.site import Site

SILENT_S = 60
"""A process that was not heard of for so long is shown as silent."""


@dataclass(frozen=True, kw_only=True)
class ProcessesDocument:
    """Every process by name, and every lease."""

    processes: tuple[ProcessRecord, ...]
    leases: tuple[LeaseRecord, ...]


def _load(request: Request, site: Site) -> Loaded:  # noqa: ARG001
    found, leases = all_processes(site.database, now=site.clock.now())
    versions = {one.version for one in found if one.state != "stopped"}
    return Loaded(
        record=ProcessesDocument(processes=found, leases=leases),
        more={"silent_s": SILENT_S, "versions": sorted(versions)},
    )


PAGE = Page(
    path="/processes",
    name="processes",
    template="processes.html",
    document=ProcessesDocument,
    load=_load,
    summary="Processes: roles, heartbeat, slots, builds in hand, and who leads what.",
)
