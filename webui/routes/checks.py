# SPDX-License-Identifier: Apache-2.0
"""`/checks/...`: what Gerrit's own change page asks us for, and the plugin that asks.

Readable without a token, from the origins that the configuration names. The plugin may be
loaded from anywhere: it is the same for everybody.
"""

import hashlib
import json
import re
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ci.store.reads import patchset_runs
from webui import checks
from webui.pages import NO_CACHE
from webui.routes import params
from webui.site import Site, site_of
from webui.templating import HERE

PLUGIN = HERE / "static" / "gerrit-checks.js"
ANYBODY = {"Cross-Origin-Resource-Policy": "cross-origin", "Access-Control-Allow-Origin": "*"}
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}", re.ASCII)


def _runs(request: Request) -> Response:
    site = site_of(request)
    shared = _sharing(request, site)
    try:
        body = _body(request, site)
    except HTTPException as error:
        raise HTTPException(error.status_code, error.detail, headers=shared) from error
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = NO_CACHE | shared | {"ETag": tag}
    if _known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def _body(request: Request, site: Site) -> bytes:
    sha = params.text(request, "sha")
    if sha is not None and not _SHA.fullmatch(sha):
        raise HTTPException(400, "sha must be a whole commit id.")
    found = patchset_runs(
        site.database,
        request.path_params["connection"],
        params.path_number(request, "number"),
        params.path_number(request, "patchset"),
    )
    if found is None:
        raise HTTPException(404, "There is no connection of this name.")
    return json.dumps(checks.response(found, sha, site.service_url)).encode()


def _sharing(request: Request, site: Site) -> dict[str, str]:
    """Lets pages of the configured review servers read the answer, and no others."""
    headers = {"Vary": "Origin"}
    origin = request.headers.get("origin", "")
    if origin in site.checks_origins:
        headers["Access-Control-Allow-Origin"] = origin
    return headers


def _known(given: str, tag: str) -> bool:
    """Whether the reader has this version; a proxy may have marked it weak."""
    return tag in {one.strip().removeprefix("W/") for one in given.split(",")}


def _plugin(request: Request) -> Response:
    """The plugin as it is, for a script element that names this site."""
    del request
    return _script(PLUGIN)


def _ready(request: Request) -> Response:
    """The plugin with our address in it, to be put among a server's plugins."""
    connection = request.path_params["connection"]
    if not _NAME.fullmatch(connection):
        raise HTTPException(404, "There is no connection of this name.")
    return _script(PLUGIN, site=site_of(request).service_url, connection=connection)


def _script(path: Path, **constants: str) -> Response:
    text = path.read_text()
    for name, value in constants.items():
        text = text.replace(f'const {name.upper()} = "";', f"const {name.upper()} = {_js(value)};")
    return Response(text, media_type="text/javascript; charset=utf-8", headers=NO_CACHE | ANYBODY)


def _js(text: str) -> str:
    return json.dumps(text).replace("<", "\\u003c")


ROUTES = (
    Route("/static/gerrit-checks.js", _plugin, name="checks-plugin"),
    Route("/checks/{connection}/gerrit-checks.js", _ready, name="checks-plugin-ready"),
    Route("/checks/{connection}/{number}/{patchset}.json", _runs, name="checks"),
)
