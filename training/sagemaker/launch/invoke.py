"""The command `invoke`: a question to an endpoint, answered at once or, by an asynchronous endpoint, through S3."""

import json
from pathlib import Path

from training.sagemaker.errors import AwsError, LaunchError, NotFoundError
from training.sagemaker.launch.launcher import DONE, Launcher
from training.sagemaker.launch.options import InvokeOptions
from training.sagemaker.launch.requests import MAX_INVOCATION_S, ApiRequest
from training.sagemaker.launch.uploads import bucket_and_key

MEDIA_TYPES = {
    ".json": "application/json", ".jsonl": "application/jsonlines", ".ndjson": "application/jsonlines",
    ".csv": "text/csv", ".txt": "text/plain",
}  # fmt: skip


def invoke(launcher: Launcher, options: InvokeOptions) -> int:
    """Ask an endpoint and print its answer."""
    if options.input and (options.text or options.file or not options.async_):
        raise LaunchError("--input is for --async, and of --input, --text and --file one of them is needed")
    body, content_type = (None, options.content_type) if options.input else _body(options)
    content_type = content_type or MEDIA_TYPES.get(Path(options.input).suffix.lower(), "application/json")
    parameters = {
        "EndpointName": options.name, "ContentType": content_type, "Accept": options.accept or None,
        "Body": body, "InputLocation": options.input or None,
        "InvocationTimeoutSeconds": MAX_INVOCATION_S if options.async_ else None,
    }  # fmt: skip
    operation = "InvokeEndpointAsync" if options.async_ else "InvokeEndpoint"
    request = ApiRequest("sagemaker-runtime", operation, parameters)
    if launcher.is_preview([request]):
        return DONE
    answer = launcher.aws.send(request)
    if not options.async_:
        launcher.console.result(answer["Body"].read().decode("utf-8"))
        return DONE
    output = answer["OutputLocation"]
    if not options.wait:
        launcher.console.result(output)
        return DONE

    def look() -> str | None:
        failure = _read_object(launcher, answer.get("FailureLocation", ""))
        if failure is not None:
            raise AwsError(f"the model failed: {failure}")
        return _read_object(launcher, output)

    launcher.console.say(f"waiting for {output}")
    late = f"no answer within {options.wait_s:.0f} s; it will be at {output}"
    launcher.console.result(launcher.wait(look, options.wait_s, late))
    return DONE


def _body(options: InvokeOptions) -> tuple[bytes, str]:
    """Return the body of the request and its media type. Raises LaunchError if the options do not give exactly one."""
    if bool(options.text) == bool(options.file):
        raise LaunchError("needs either --text or --file")
    if options.text:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in options.text]
        return "\n".join(lines).encode(), "application/json" if len(lines) == 1 else "application/jsonlines"
    file = Path(options.file)
    content_type = options.content_type or MEDIA_TYPES.get(file.suffix.lower(), "")
    if not content_type:
        raise LaunchError(f"{file}: pass --content-type, or end its name with {', '.join(MEDIA_TYPES)}")
    return file.read_bytes(), content_type


def _read_object(launcher: Launcher, uri: str) -> str | None:
    """Return the content of an object in S3, None where there is none."""
    if not uri:
        return None
    bucket, key = bucket_and_key(uri)
    try:
        content: bytes = launcher.aws.call("s3", "GetObject", Bucket=bucket, Key=key)["Body"].read()
    except NotFoundError:
        return None
    return content.decode("utf-8")
