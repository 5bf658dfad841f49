# SPDX-License-Identifier: Apache-2.0
"""`/audit`: what operators did, newest first."""

from starlette.requests import Request

from ci.store.reads import audit_page
from ci.store.reads.review_records import AuditPage
from webui.pages import Loaded, Page
from webui.routes import params
from webui.site import Site

DEFAULT_LIMIT = 50
MOST = 200


def _load(request: Request, site: Site) -> Loaded:
    before = params.number(request, "before")
    limit = params.number(request, "limit", most=MOST) or DEFAULT_LIMIT
    page = audit_page(site.database, before=before, limit=limit)
    return Loaded(record=page, more={"first": before is None, "limit": limit})


PAGE = Page(
    path="/audit",
    name="audit",
    template="audit.html",
    document=AuditPage,
    load=_load,
    summary="What operators did, newest first.",
    query=(
        ("before", "Value of `next` of the page before"),
        ("limit", f"Lines on a page, 1 to {MOST}; {DEFAULT_LIMIT} by default"),
    ),
)
