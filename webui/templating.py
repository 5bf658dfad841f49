# SPDX-License-Identifier: Apache-2.0
"""The Jinja environment: autoescape on, undefined names are errors, our filters."""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ci.model.anchor import test_anchor
from webui import ansi, feature_views, matrix_views, review_views, views

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """The one environment of this process; templates are compiled once."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        line=ansi.one_line,
        plain=ansi.plain,
        segments=ansi.segments,
        sentence=views.sentence,
        duration=views.duration,
        utc=views.utc,
        size=views.size,
        count=views.count,
        web_link=views.web_link,
        clock_time=views.clock_time,
        badge=views.badge,
        build_badge=views.build_badge,
        buildset_badge=views.buildset_badge,
        line_class=views.line_class,
        anchor=test_anchor,
    )
    made.globals.update(
        views=views,
        reviews=review_views,
        matrices=matrix_views,
        trials=feature_views,
        grades=views.GRADES,
        attempt_kinds=views.ATTEMPT_KINDS,
        asset_version=_asset_version(),
    )
    return made


def _asset_version() -> str:
    """Changes with any static file, so that browsers may keep them for long."""
    digest = hashlib.sha256()
    for path in sorted((HERE / "static").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]
