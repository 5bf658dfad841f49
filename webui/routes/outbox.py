# SPDX-License-Identifier: Apache-2.0
"""`/outbox`: what is owed to review servers and reporters; operators act on it with a token."""

import re

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ci.errors import HypervouchError
from ci.log import get
from ci.store import outbox_actions
from ci.store.reads import audit_page, outbox_page
from ci.store.reads.review_records import OutboxPage
from webui.ansi import one_line
from webui.operator import read_form
from webui.pages import Loaded, Page
from webui.routes import params
from webui.site import Site, site_of

AUDIT_SHOWN = 5
_ORDER = re.compile(r"(retry|drop|release) ([1-9][0-9]{0,9})", re.ASCII)


def _load(request: Request, site: Site) -> Loaded:
    settled = params.text(request, "settled")
    if settled not in {None, "1"}:
        raise HTTPException(400, "settled must be 1, or not be there.")
    page = outbox_page(site.database, settled=settled is not None)
    more = {
        "with_settled": settled is not None,
        "acting": site.operator.present,
        "audit": audit_page(site.database, limit=AUDIT_SHOWN).lines,
    }
    return Loaded(record=page, more=more)


async def _act(request: Request) -> Response:
    """One button of the page; asynchronous because a body is read."""
    site = site_of(request)
    fields = await read_form(request)
    site.operator.admit(request, fields.get("token", ""))
    order = _ORDER.fullmatch(fields.get("do", ""))
    if order is None:
        raise HTTPException(400, "The button must say retry, drop or release, and a number.")
    name = one_line(fields.get("name", ""), 60) or "operator"
    why = one_line(fields.get("why", ""), 300)
    verb, row_id = order[1], int(order[2])
    if verb == "drop" and not why:
        raise HTTPException(400, "To drop a review, say why: it is kept in the audit log.")
    await run_sync(_apply, site, verb, row_id, f"{name} (page)", why)
    return RedirectResponse("/outbox", status_code=303)


def _apply(site: Site, verb: str, row_id: int, by: str, why: str) -> None:
    at = site.clock.now()
    try:
        if verb == "retry":
            outbox_actions.retry(site.database, row_id, by=by, at=at)
        elif verb == "release":
            outbox_actions.release(site.database, row_id, by=by, at=at)
        else:
            outbox_actions.drop(site.database, row_id, by=by, why=why, at=at)
    except HypervouchError as error:
        raise HTTPException(409, f"{error.message}; {error.hint}") from error
    get("page").info("an operator acted", action=f"outbox-{verb}", review=row_id, by=by)


ACTION = Route("/outbox", _act, methods=["POST"], name="outbox-action")
PAGE = Page(
    path="/outbox",
    name="outbox",
    template="outbox.html",
    document=OutboxPage,
    load=_load,
    summary="Reviews and notices that are not delivered, and why.",
    query=(("settled", "1 for the newest delivered and dropped reviews as well"),),
)
