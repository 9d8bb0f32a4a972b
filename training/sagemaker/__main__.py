"""Train and serve on Amazon SageMaker, from a laptop.

Commands push an image, upload data and artifacts, train, deploy, invoke, transform, update and tear down. Requests are
checked against AWS's own description of its API before anything is sent; --dry-run prints them and sends nothing.
Results go to standard output, messages to standard error.

Exit codes: 0 done; 1 AWS refused, or what it ran failed; 2 the input is wrong, and nothing was sent; 3 the job was
stopped; 130 interrupted: what was started goes on.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from classifier.errors import ClassifierError
from training.errors import TrainingError
from training.options import add_options, from_options
from training.sagemaker.errors import AwsError
from training.sagemaker.launch import commands, options
from training.sagemaker.launch.follow import follow
from training.sagemaker.launch.images import push
from training.sagemaker.launch.invoke import invoke
from training.sagemaker.launch.launcher import DETACHED, FAILED, INPUT_ERROR, Console, Launcher
from training.sagemaker.launch.teardown import teardown
from training.sagemaker.launch.uploads import upload

COMMANDS: dict[str, tuple[Callable[[Launcher, Any], int], type[options.CommonOptions], tuple[str, ...]]] = {
    "push": (push, options.PushOptions, ("image", "repository")),
    "upload": (upload, options.UploadOptions, ()),
    "train": (commands.train, options.TrainOptions, ("name", "image", "output")),
    "follow": (follow, options.FollowOptions, ()),
    "deploy": (commands.deploy, options.DeployOptions, ("name", "image")),
    "invoke": (invoke, options.InvokeOptions, ("name",)),
    "update": (commands.update, options.UpdateOptions, ("name",)),
    "transform": (commands.transform, options.TransformOptions, ("name", "input", "output")),
    "teardown": (teardown, options.TeardownOptions, ("name",)),
}
"""For each command: its function, its options (their docstring is the help), and those that must be given."""


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run one command and return its exit code; words, input and output are the process's by default."""
    parsed = _parser().parse_args(arguments)
    console, (run, kind, required) = console or Console(), COMMANDS[parsed.command]
    try:
        given = from_options(kind, parsed, required)
        with closing(Launcher(given, console)) as launcher:
            return run(launcher, given)
    except (TrainingError, ClassifierError, OSError) as exc:
        console.say(f"error: {exc}")
        return FAILED if isinstance(exc, AwsError) else INPUT_ERROR
    except KeyboardInterrupt:
        console.say("interrupted; what was started on AWS goes on")
        return DETACHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.sagemaker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for name, (_, kind, _) in COMMANDS.items():
        text = (kind.__doc__ or "").strip()
        add_options(verbs.add_parser(name, help=text, description=text), kind)
    return parser


if __name__ == "__main__":
    sys.exit(main())
