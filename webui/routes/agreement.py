# SPDX-License-Identifier: Apache-2.0
"""`/agreement`: how often other CIs and we say the same of a patch set."""

from starlette.requests import Request

from ci.store.reads import agreement_page
from ci.store.reads.review_records import AgreementPage
from webui.pages import Loaded, Page
from webui.routes import params
from webui.site import Site

DEFAULT_DAYS = 30
MOST_DAYS = 366
WINDOWS = (7, 30, 90)


def _load(request: Request, site: Site) -> Loaded:
    days = params.number(request, "days", most=MOST_DAYS) or DEFAULT_DAYS
    page = agreement_page(site.database, now=site.clock.now(), days=days)
    return Loaded(record=page, more={"windows": WINDOWS})


PAGE = Page(
    path="/agreement",
    name="agreement",
    template="agreement.html",
    document=AgreementPage,
    load=_load,
    summary="How often other CIs and we say the same of a patch set.",
    query=(("days", f"Length of the window, 1 to {MOST_DAYS}; {DEFAULT_DAYS} by default"),),
)
