"""The OpenAPI document beyond what FastAPI finds in the routes: errors of every path, headers, keys, limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from service.api.common import documented, error_example
from service.api.schemas_base import LIMIT
from service.errors import MEANING
from service.http.middleware import ADMIN, OPEN
from service.settings import Settings
from service.telemetry import REQUEST_ID_HEADER

DESCRIPTION = f"""\
Fine-tuned GPT-2 answers with a label and calibrated probabilities for every text.

Every error is one object: `error`, a sentence; `kind`, a word for programs; `request_id`; and `details`, the first
problems of a body. A path that is not here is answered by 404 and `not_found`; another method than those of a path by
405, `method_not_allowed` and `Allow`. Each path that takes GET takes HEAD, too: the same answer without its body.

`{REQUEST_ID_HEADER}` of a request comes back in its answer and stands in the log if it is at most 128 harmless
characters; else the service makes one. A request needs a key if the service has any (`SERVICE_API_KEYS`), as a Bearer
token or in `X-API-Key`; health checks never do.
"""

EVERYWHERE = ("bad_request", "request_timeout", "body_too_large", "headers_too_large", "internal")
"""Kinds that a request can get whatever its path, before the path is looked at or by a fault behind it."""

KEYWORD: Mapping[str, str] = {"max_timeout_ms": "maximum", "max_text_chars": "maxLength", "max_texts": "maxItems"}
"""Which bound of a JSON schema a setting is."""


def complete(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The document with all of it; `document` is changed."""
    components = document["components"]
    components["responses"] = _shared_responses()
    components["headers"] = {
        "RequestId": {
            "description": "the caller's id of the request, or one that the service made",
            "required": True,
            "schema": {"type": "string"},
        }
    }
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_operation(operation, path)
    for schema in _schemas(document):
        setting = schema.pop(LIMIT)
        schema[KEYWORD[setting]] = getattr(settings, setting)
    return document


def _complete_operation(operation: dict[str, Any], path: str) -> None:
    kinds = EVERYWHERE if path in OPEN else (*EVERYWHERE, "unauthorized")
    if path not in OPEN:
        needed: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
        operation["security"] = needed if path.startswith(ADMIN) else [{}, *needed]
    responses = operation["responses"]
    for status, response in documented(*kinds).items():
        del response["model"]
        content = response["content"]["application/json"]
        content["schema"] = {"$ref": "#/components/schemas/ErrorBody"}
        known = responses.setdefault(str(status), response)
        examples = known["content"]["application/json"]["examples"]
        for kind in content["examples"].keys() - examples.keys():
            examples[kind] = content["examples"][kind]
            known["description"] += f"; `{kind}`: {MEANING[kind]}"
    responses["405"] = {"$ref": "#/components/responses/MethodNotAllowed"}
    for response in responses.values():
        if "$ref" not in response:
            response.setdefault("headers", {})[REQUEST_ID_HEADER] = {"$ref": "#/components/headers/RequestId"}
    operation["responses"] = dict(sorted(responses.items()))


def _shared_responses() -> dict[str, Any]:
    request_id = {REQUEST_ID_HEADER: {"$ref": "#/components/headers/RequestId"}}
    allow = {"Allow": {"description": "the methods of the path", "required": True, "schema": {"type": "string"}}}
    return {
        name: {
            "description": f"`{kind}`: {MEANING[kind]}",
            "headers": request_id | headers,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"},
                    "examples": {kind: error_example(kind)},
                }
            },
        }
        for name, kind, headers in (("NotFound", "not_found", {}), ("MethodNotAllowed", "method_not_allowed", allow))
    }


def _schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema with a bound that is a setting."""
    if isinstance(node, dict):
        if LIMIT in node:
            yield node
        for value in list(node.values()):
            yield from _schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from _schemas(value)
