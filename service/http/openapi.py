"""The OpenAPI document beyond what FastAPI finds in the routes: bodies, errors, headers, keys and limits.

What many operations share is written once, below `components`, and referred to.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.errors import MEANING, STATUS
from service.http.middleware import ADMIN, OPEN
from service.settings import Settings
from service.telemetry import REQUEST_ID_HEADER

DESCRIPTION = f"""\
Fine-tuned GPT-2 answers with a label and calibrated probabilities for every text.

Every error is one object: `error`, a sentence; `kind`, a word for programs; `request_id`; and `details`, the first
problems of the body. An unknown path is answered by 404 and `not_found`, another method than those of a path by 405,
`method_not_allowed` and the header `Allow`. Every path that takes GET takes HEAD too.

The answer has the request's `{REQUEST_ID_HEADER}` if that is at most 128 harmless characters, else a new id; the log
has the same one. If the service has keys (`SERVICE_API_KEYS`), a request needs one, as a Bearer token or in
`X-API-Key`; health checks need none.
"""

EVERYWHERE = ("bad_request", "request_timeout", "body_too_large", "headers_too_large", "method_not_allowed", "internal")
"""Kinds of errors that every operation can have: they occur before routing, or are faults of the service."""

LIMIT = "x-limit"
"""Key in a JSON schema that names a setting; the document has the setting's value as a bound instead."""

KEYWORD: Mapping[str, str] = {"max_timeout_ms": "maximum", "max_text_chars": "maxLength", "max_texts": "maxItems"}
"""The keyword of JSON Schema whose value each setting gives."""

_KINDS = "x-kinds"
_SCHEMAS = "x-schemas"

HEADERS: Mapping[str, dict[str, Any]] = {
    REQUEST_ID_HEADER: {"description": "id of the request", "required": True, "schema": {"type": "string"}},
    "Retry-After": {
        "description": "seconds to wait",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"required": True, "schema": {"type": "string", "const": "Bearer"}},
    "Allow": {"description": "methods of the path", "required": True, "schema": {"type": "string"}},
}
_HEADER_OF_STATUS = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses` for kinds of errors, to be completed by `complete`."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        by_status.setdefault(STATUS[kind], {_KINDS: []})[_KINDS].append(kind)
    return by_status


def json_route(
    *bodies: type[BaseModel],
    answer: Any,
    errors: Iterable[str],
    other_bodies: Mapping[str, Any] | None = None,
    other_answers: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return arguments for FastAPI's decorator that document a route which reads its JSON body itself.

    Args:
        bodies: the body is one of these models.
        answer: the model of the answer.
        errors: kinds of errors.
        other_bodies: OpenAPI's description of the body by each other media type.
        other_answers: OpenAPI's description of the answer in each other media type.
    """
    keyed = [(model, "validation") for model in bodies]
    references, schemas = models_json_schema(keyed, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    shapes = list(references.values())
    schema = shapes[0] if len(shapes) == 1 else {"oneOf": shapes}
    content = {"application/json": {"schema": schema}, **(other_bodies or {})}
    return {
        "response_model": answer,
        "responses": documented(*errors) | ({200: {"content": other_answers}} if other_answers else {}),
        "openapi_extra": {"requestBody": {"required": True, "content": content}, _SCHEMAS: schemas["$defs"]},
    }


def text_form(example: str, description: str) -> dict[str, Any]:
    """Return OpenAPI's description of a body or an answer that is not JSON."""
    return {"schema": {"type": "string", "description": description}, "example": example}


def complete(document: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Complete FastAPI's document in place and return it."""
    components = document["components"]
    components |= {
        "responses": {},
        "parameters": {name: _path_parameter(name) for name in ("model", "version")},
        "headers": dict(HEADERS),
        "examples": {kind: {"value": _example(kind)} for kind in sorted(STATUS)},
        "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        },
    }
    document["security"] = [{}, {"bearer": []}, {"header": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            components["schemas"] |= operation.pop(_SCHEMAS, {})
            _complete_operation(operation, path, components["responses"])
    for schema in components["schemas"].values():
        for field in schema.get("properties", {}).values():
            field.pop("title", None)  # pydantic makes it of the field's name
    for kind in ("schemas", "responses"):
        components[kind] = dict(sorted(components[kind].items()))
    for schema in _limited_schemas(document):
        setting = schema.pop(LIMIT)
        schema[KEYWORD[setting]] = getattr(settings, setting)
    return document


def _complete_operation(operation: dict[str, Any], path: str, shared: dict[str, Any]) -> None:
    """Add the errors of every path, and replace all errors of one status by a reference to a response in `shared`."""
    if path in OPEN:
        operation["security"] = []
    elif path.startswith(ADMIN):
        operation["security"] = [{"bearer": []}, {"header": []}]
    if names := re.findall(r"{(\w+)}", path):
        operation["parameters"] = [_reference("parameters", name) for name in names]
    responses = operation["responses"]
    for kind in EVERYWHERE if path in OPEN else (*EVERYWHERE, "unauthorized"):
        kinds = responses.setdefault(str(STATUS[kind]), {_KINDS: []})[_KINDS]
        if kind not in kinds:
            kinds.append(kind)
    for status, response in responses.items():
        if _KINDS in response:
            kinds = sorted(response[_KINDS])
            name = "-".join([status, *kinds])
            shared[name] = _error_response(int(status), kinds)
            responses[status] = _reference("responses", name)
        else:
            response.setdefault("headers", {})[REQUEST_ID_HEADER] = _reference("headers", REQUEST_ID_HEADER)
    operation["responses"] = dict(sorted(responses.items()))


def _error_response(status: int, kinds: list[str]) -> dict[str, Any]:
    names = [REQUEST_ID_HEADER, *([_HEADER_OF_STATUS[status]] if status in _HEADER_OF_STATUS else [])]
    content = {
        "schema": _reference("schemas", "ErrorBody"),
        "examples": {kind: _reference("examples", kind) for kind in kinds},
    }
    return {
        "description": "; ".join(f"`{kind}`: {MEANING[kind]}" for kind in kinds),
        "headers": {name: _reference("headers", name) for name in names},
        "content": {"application/json": content},
    }


def _example(kind: str) -> dict[str, str]:
    return {"error": MEANING[kind], "kind": kind, "request_id": "5c1f0ad04f3c4ee8a3ef2ee3c3f0c1a9"}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": "see /info"}


def _reference(components: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{components}/{name}"}


def _limited_schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every schema that has a bound from a setting."""
    if isinstance(node, dict):
        if LIMIT in node:
            yield node
        for value in list(node.values()):
            yield from _limited_schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from _limited_schemas(value)
