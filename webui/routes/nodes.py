# SPDX-License-Identifier: Apache-2.0
"""`/nodes`: the health of every slot and who holds it."""

from dataclasses import dataclass

from starlette.requests import Request

from ci.store.reads import all_nodes, all_pauses
from ci.store.reads.records import NodeRecord, PauseRecord
from webui.pages import Loaded, Page
from webui.site import Site


@dataclass(frozen=True, kw_only=True)
class NodesDocument:
    """Every slot, by label and name, and where nothing new starts."""

    nodes: tuple[NodeRecord, ...]
    pauses: tuple[PauseRecord, ...]


def _load(request: Request, site: Site) -> Loaded:  # noqa: ARG001
    return Loaded(
        record=NodesDocument(nodes=all_nodes(site.database), pauses=all_pauses(site.database))
    )


PAGE = Page(
    path="/nodes",
    name="nodes",
    template="nodes.html",
    document=NodesDocument,
    load=_load,
    summary="Nodes: health, lease and the build that holds each.",
)
