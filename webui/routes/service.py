# SPDX-License-Identifier: Apache-2.0
"""`/openapi.json`: for machines that read this site."""

from typing import Any

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from webui.pages import Page

_REF = "#/components/schemas/{model}"


def _operation(page: Page, schema: dict[str, Any]) -> dict[str, Any]:
    names = [part[1:-1] for part in page.path.split("/") if part.startswith("{")]
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    in_query = [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in page.query
    ]
    content = {"application/json": {"schema": schema}}
    return {
        "get": {
            "operationId": page.name,
            "summary": page.summary,
            "parameters": in_path + in_query,
            "responses": {
                "200": {"description": "The record", "content": content},
                "400": {"description": "A parameter is wrong"},
                "404": {"description": "Unknown here"},
            },
        }
    }


def describe(pages: tuple[Page, ...]) -> dict[str, Any]:
    """An OpenAPI 3.1 description of the JSON twins, made from their documents' types."""
    inputs = [(page.name, "serialization", page.adapter) for page in pages]
    schemas, common = TypeAdapter.json_schemas(inputs, ref_template=_REF)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hypervouch",
            "version": "1",
            "description": "What the pages show, as JSON. Fields are added, never renamed.",
        },
        "paths": {
            page.twin: _operation(page, dict(schemas[page.name, "serialization"])) for page in pages
        },
        "components": {"schemas": common.get("$defs", {})},
    }


def service_routes(pages: tuple[Page, ...]) -> tuple[Route, ...]:
    """The routes for machines; the description is made once."""
    description = describe(pages)

    def openapi(_request: Request) -> Response:
        return JSONResponse(description)

    return (Route("/openapi.json", openapi, name="openapi"),)
