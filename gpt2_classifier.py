"""The command `gpt2-classifier`: every command line of the project behind one name.

    gpt2-classifier serve                 the same as `python -m service serve`
    gpt2-classifier train --data FILE     the same as `python -m training train --data FILE`

Each verb imports its package only when it is called, so that an installation without the packages for training and
for the client can still serve.
"""

import importlib
import sys
from collections.abc import Sequence

TRAINING, CLIENT = ("training.__main__", "train"), ("client.__main__", "client")

VERBS = {
    "serve": ("service.__main__", ""),
    **dict.fromkeys(("prepare", "inspect", "pretrain", "distil", "train", "crossval"), TRAINING),
    **dict.fromkeys(("evaluate", "calibrate", "convert"), TRAINING),
    "sagemaker": ("training.sagemaker.__main__", "sagemaker"),
    **dict.fromkeys(("predict", "classify", "watch", "info", "ready"), CLIENT),
}
"""Verbs, each with the module whose `main` runs it, and the extra of pyproject.toml that it needs."""

NO_SUCH_VERB = NOT_INSTALLED = 2
USAGE = f"usage: gpt2-classifier {{{','.join(VERBS)}}} ...; `gpt2-classifier VERB --help` explains one verb\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; 2 if there is no such verb or its packages are not installed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words[0] if words else "--help"
    if verb in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if verb not in VERBS:
        sys.stderr.write(f"gpt2-classifier has no verb {verb!r}\n{USAGE}")
        return NO_SUCH_VERB
    name, extra = VERBS[verb]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as exc:
        hint = f'; pip install "gpt2-classifier[{extra}]" installs it' if extra else ""
        sys.stderr.write(f"gpt2-classifier {verb} needs the Python package {exc.name}{hint}\n")
        return NOT_INSTALLED
    code: int = module.main(words[1:] if verb == "sagemaker" else words)
    return code


if __name__ == "__main__":
    sys.exit(main())
