# SPDX-License-Identifier: Apache-2.0
"""`/matrix`: which feature works on which hypervisor, and `/matrix/FEATURE/SYSTEM`: why."""

from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ci.matrix import export, nova
from ci.matrix.cells import Cell, Column, Matrix, build, only
from ci.store.reads import all_evidence, cell_words
from ci.store.reads.matrix import Word
from webui import matrix_views
from webui.pages import NO_CACHE, Loaded, Page
from webui.routes import params
from webui.site import Site, site_of

_YEARS = tuple(str(year) for year in nova.YEARS)
_QUERY = (
    ("differences", "1: only rows and columns in which Nova declares something else"),
    ("evidence", "1: only systems with evidence"),
    ("group", "Only features of this group: the first part of their keys"),
    ("system", "Only this system, by its key"),
    ("against", f"Nova's table to compare with: {', '.join(_YEARS)}; else the newest that has it"),
)


@dataclass(frozen=True, kw_only=True)
class CellDocument:
    """One cell with all that was ever shown of it.

    Attributes:
        title: Nova's, of the feature.
        status: Nova's: `mandatory`, `optional`, `choice(...)`, `condition(...)`.
        notes: What the feature is, in Nova's words.
        system: The column.
        cell: What it comes to.
        words: The newest word of each test, newest first.
    """

    title: str
    status: str
    notes: str
    system: Column
    cell: Cell
    words: tuple[Word, ...]


def _whole(request: Request, site: Site) -> Matrix:
    against = params.text(request, "against")
    if against is not None and against not in _YEARS:
        raise HTTPException(400, f"against must be one of {', '.join(_YEARS)}.")
    return build(
        all_evidence(site.database),
        now=site.clock.now(),
        against=int(against) if against else None,
    )


def _part(request: Request, whole: Matrix) -> Matrix:
    """What the parameters ask for."""
    group, system = params.text(request, "group"), params.text(request, "system")
    if group is not None and group not in _groups(whole):
        raise HTTPException(400, f"group must be one of {', '.join(_groups(whole))}.")
    if system is not None and system not in {column.key for column in whole.columns}:
        raise HTTPException(400, "There is no such system.")
    return only(
        whole,
        differences=_flag(request, "differences"),
        group=group or "",
        systems=(system,) if system else (),
        with_node=_flag(request, "evidence"),
    )


def _flag(request: Request, name: str) -> bool:
    return params.number(request, name, least=0, most=1) == 1


def _groups(whole: Matrix) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line.group for line in whole.lines))


def _load(request: Request, site: Site) -> Loaded:
    whole = _whole(request, site)
    part = _part(request, whole)
    chosen = {name: params.text(request, name) or "" for name, _ in _QUERY}
    asked = {name: value for name, value in chosen.items() if value}
    more = {
        "counts": matrix_views.counts(part),
        "groups": _groups(whole),
        "systems": whole.columns,
        "years": _YEARS,
        "chosen": chosen,
        "query": f"?{urlencode(asked)}" if asked else "",
        "blocks": [
            (name, [line for line in part.lines if line.group == name]) for name in _groups(part)
        ],
    }
    return Loaded(record=part, more=more)


def _load_cell(request: Request, site: Site) -> Loaded:
    feature, key = request.path_params["feature"], request.path_params["system"]
    whole = _whole(request, site)
    line = next((line for line in whole.lines if line.feature == feature), None)
    place = next((n for n, column in enumerate(whole.columns) if column.key == key), None)
    if line is None or place is None:
        raise HTTPException(404, "There is no such feature or no such system.")
    row = nova.rows().get(feature)
    return Loaded(
        record=CellDocument(
            title=line.title,
            status=line.status,
            notes=row.notes if row else "",
            system=whole.columns[place],
            cell=line.cells[place],
            words=cell_words(site.database, feature, key),
        ),
        more={"stale_days": whole.stale_days},
    )


def _ini(request: Request) -> Response:
    part = _part(request, _whole(request, site_of(request)))
    return PlainTextResponse(export.to_ini(part), headers=NO_CACHE)


def _csv(request: Request) -> Response:
    part = _part(request, _whole(request, site_of(request)))
    headers = {**NO_CACHE, "Content-Disposition": 'attachment; filename="matrix.csv"'}
    return Response(export.to_csv(part), media_type="text/csv", headers=headers)


EXPORTS = (Route("/matrix.ini", _ini, name="matrix-ini"), Route("/matrix.csv", _csv))

PAGE = Page(
    path="/matrix",
    name="matrix",
    template="matrix.html",
    document=Matrix,
    load=_load,
    summary="Features and hypervisors: the evidence of tests beside what Nova declares.",
    query=_QUERY,
)

CELL_PAGE = Page(
    path="/matrix/{feature}/{system}",
    name="matrix-cell",
    template="matrix_cell.html",
    document=CellDocument,
    load=_load_cell,
    summary="One feature of one hypervisor: every test's newest word, and where it came from.",
    query=_QUERY[-1:],
)
