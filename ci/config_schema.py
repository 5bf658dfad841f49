# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of one configuration file, for editors; made from the models."""

from typing import Any

from pydantic.json_schema import models_json_schema

from ci.config_items import MODELS

_REF = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """The schema of a file: an array of items. Committed as config/schema/hypervouch.schema.json.

    It knows less than `ci.settings.load`: neither other files nor a driver's own options.
    """
    refs, top = models_json_schema(
        [(model, "validation") for model in MODELS.values()],
        by_alias=True,
        ref_template=_REF + "{model}",
    )
    definitions = top["$defs"]
    definitions["Project"] = _project(definitions["Project"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hypervouch configuration file",
        "type": "array",
        "items": {
            "oneOf": [
                _item(kind, refs[model, "validation"]["$ref"]) for kind, model in MODELS.items()
            ]
        },
        "$defs": definitions,
    }


def _item(kind: str, ref: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {kind: {"$ref": ref}},
        "required": [kind],
        "additionalProperties": False,
    }


def _project(schema: dict[str, Any]) -> dict[str, Any]:
    """A project's pipelines are keys of its own, beside name, branches and sandbox."""
    properties = {key: schema["properties"][key] for key in ("name", "branches", "sandbox")}
    return {
        **schema,
        "properties": properties,
        "patternProperties": {
            r"^(?!(?:name|branches|sandbox)$)[A-Za-z0-9_]{1,40}$": {
                "$ref": f"{_REF}ProjectPipeline"
            }
        },
        "required": ["name"],
        "minProperties": 2,
    }
