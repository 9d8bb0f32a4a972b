"""`/docs` and `/openapi.json`: the contract as a page and as JSON.

The page is shown by Swagger UI, which the browser loads from a public server.
The hashes let a browser run exactly these two files of swagger-ui-dist; FastAPI's own page would run whatever the
server sends for the newest version 5. `openssl dgst -sha384 -binary FILE | base64` computes them from the npm package.
"""

import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

SWAGGER_UI = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
STYLE_HASH = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
SCRIPT_HASH = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"

PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>GPT-2 text classifier</title>
<link rel="stylesheet" href="{SWAGGER_UI}/swagger-ui.css" integrity="{STYLE_HASH}" crossorigin="anonymous">
</head>
<body>
<div id="contract">
<p>This page needs JavaScript and Swagger UI from cdn.jsdelivr.net.
The contract itself is at <a href="openapi.json">openapi.json</a>.</p>
</div>
<script src="{SWAGGER_UI}/swagger-ui-bundle.js" integrity="{SCRIPT_HASH}" crossorigin="anonymous"></script>
<script>SwaggerUIBundle({{url: "openapi.json", dom_id: "#contract"}})</script>
</body>
</html>
"""

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    return HTMLResponse(PAGE)


@router.get("/openapi.json", include_in_schema=False)
async def contract(request: Request) -> Response:
    state = request.app.state
    if not hasattr(state, "contract"):  # FastAPI's own route would write it for each request, which takes milliseconds
        state.contract = json.dumps(request.app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()
    return Response(state.contract, media_type="application/json")
