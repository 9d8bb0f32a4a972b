"""Serve an unpacked model.tar.gz by the Transformer of AWS's `sagemaker-inference`, with one request on each line.

python transformer_script.py MODEL_DIR
"""

import json
import sys
from pathlib import Path
from typing import Any

from sagemaker_inference.transformer import Transformer

MODEL = Path(sys.argv[1])
sys.path.insert(0, str(MODEL / "code"))


class Context:
    """The context that the model server passes with a request."""

    def __init__(self, content_type: str) -> None:
        self.headers = {"Content-Type": content_type, "Accept": "*/*"}
        self.system_properties = {"model_dir": str(MODEL)}
        self.request_processor = [self]
        self.status, self.content_type = 200, ""

    def get_request_properties(self) -> dict[str, str]:
        return self.headers

    def set_response_content_type(self, _: int, value: str) -> None:
        self.content_type = value

    def set_response_status(self, code: int, phrase: str) -> None:
        self.status = code


def main() -> None:
    transformer = Transformer()
    for line in sys.stdin:
        content_type, body = json.loads(line)
        context = Context(content_type)
        answers: list[Any] = transformer.transform([{"body": body.encode()}], context)
        sys.stdout.write(json.dumps([context.status, context.content_type, answers[0]]) + "\n")


main()
