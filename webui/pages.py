# SPDX-License-Identifier: Apache-2.0
"""A page is a record and a template; its JSON twin prints the record."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from webui.site import Site, site_of
from webui.templating import environment

NO_CACHE = {"Cache-Control": "no-cache"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a page shows.

    Attributes:
        record: An instance of the page's document type.
        more: Further names for the template only.
    """

    record: Any
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One address with its JSON twin.

    Attributes:
        path: Starlette path of the HTML form.
        name: Operation id, and the name of the page in the navigation.
        template: File in `templates/`.
        document: Type of the record; its fields are the stable shape of the JSON.
        load: Reads the record; raises HTTPException 400 or 404.
        summary: One sentence for the API description.
        query: Query parameters as (name, what it means).
    """

    path: str
    name: str
    template: str
    document: type[Any]
    load: Callable[[Request, Site], Loaded]
    summary: str
    query: tuple[tuple[str, str], ...] = ()

    @property
    def twin(self) -> str:
        """Path of the JSON form."""
        return "/index.json" if self.path == "/" else f"{self.path}.json"

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """The serializer of the document; times become ISO 8601 in UTC."""
        return TypeAdapter(self.document)

    def routes(self) -> tuple[Route, Route]:
        """The twin first: its path would match the HTML form as well."""
        return (
            Route(self.twin, self._json, name=f"{self.name}-json"),
            Route(self.path, self._html, name=self.name),
        )

    def _json(self, request: Request) -> Response:
        loaded = self.load(request, site_of(request))
        body = self.adapter.dump_json(loaded.record)
        return Response(body, media_type="application/json", headers=NO_CACHE)

    def _html(self, request: Request) -> Response:
        loaded = self.load(request, site_of(request))
        return render(
            request, self.template, {"page": loaded.record, "here": self.name, **loaded.more}
        )


def render(
    request: Request, template: str, context: dict[str, Any], *, status: int = 200
) -> Response:
    """A template with what every page needs."""
    site = site_of(request)
    path, query = request.url.path, request.url.query
    twin = "/index.json" if path == "/" else f"{path}.json"
    common = {
        "site": site,
        "now": site.clock.now(),
        "twin": twin + (f"?{query}" if query else ""),
        "here": "",
    }
    body = environment().get_template(template).render(common | context)
    return HTMLResponse(body, status_code=status, headers=NO_CACHE)
