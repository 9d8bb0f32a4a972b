"""Train and serve on Amazon SageMaker, from a laptop.

push an image, upload data and artifacts, train, deploy, invoke, transform, update, teardown; cost estimates.
Everything is checked against AWS's own description of its API before anything is sent; --dry-run prints the requests
and sends nothing. Results go to standard output, words to standard error.

Exit codes: 0 done, 1 AWS refused or what it ran failed, 2 the input (nothing was sent), 3 the job was stopped, 130
interrupted: what was started goes on.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from classifier.errors import ClassifierError
from training.errors import TrainingError
from training.sagemaker.errors import AwsError
from training.sagemaker.job.container import METRIC_DEFINITIONS
from training.sagemaker.job.hyperparameters import parse_hyperparameters, training_config
from training.sagemaker.launch import commands, transfers
from training.sagemaker.launch.commands import DETACHED, FAILED, Context
from training.sagemaker.launch.cost import TABLE
from training.sagemaker.launch.options import add_options, plan_of
from training.sagemaker.launch.plans import DeployPlan, TrainPlan, TransformPlan, UpdatePlan
from training.sagemaker.launch.requests import pairs

INPUT_ERROR = 2


def main(arguments: Sequence[str] | None = None, context: Context | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: of the command line; default: the process's.
        context: the doors to the world; the command line's own options are put into it.
    """
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Context], int] = parsed.command
    context = _with_options(context or Context(), parsed)
    try:
        return command(parsed, context)
    except AwsError as exc:
        context.terminal.say(f"error: {exc}")
        return FAILED
    except (TrainingError, ClassifierError, OSError) as exc:
        context.terminal.say(f"error: {exc}")
        return INPUT_ERROR
    except KeyboardInterrupt:
        context.terminal.say("interrupted; what was started on AWS goes on")
        return DETACHED
    finally:
        context.close()


def _with_options(context: Context, parsed: argparse.Namespace) -> Context:
    names = ("region", "profile", "account", "dry_run", "yes", "wait", "prices")
    return replace(context, **{name: getattr(parsed, name) for name in names if hasattr(parsed, name)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.sagemaker", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_transfers(verbs)

    train = _verb(verbs, "train", "start a training job and follow its log", _train, waits=True)
    add_options(train, TrainPlan)

    follow = _verb(verbs, "follow", "follow a job's log until it ends", _follow)
    follow.add_argument("kind", choices=("training", "transform"))
    follow.add_argument("job")

    deploy = _verb(verbs, "deploy", "make an endpoint: real-time, serverless or asynchronous", _deploy)
    add_options(deploy, DeployPlan)

    update = _verb(verbs, "update", "move an endpoint to another model, back if an alarm goes off", _update)
    add_options(update, UpdatePlan)

    transform = _verb(verbs, "transform", "classify files in S3", _transform, waits=True)
    add_options(transform, TransformPlan)

    teardown = _verb(verbs, "teardown", "show and remove what was made under a name", _teardown)
    teardown.add_argument("--name", required=True, help="what deploy or train was told")

    cost = verbs.add_parser("cost", help="what a plan costs an hour, by an editable table; asks AWS nothing")
    plans = cost.add_subparsers(required=True, metavar="PLAN")
    for name, plan in (("train", TrainPlan), ("deploy", DeployPlan), ("transform", TransformPlan)):
        one = _verb(plans, name, f"of `{name}` with the same options", _cost)
        add_options(one, plan)
        one.set_defaults(plan=plan)
    return parser


def _add_transfers(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    push = _verb(verbs, "push", "push a local image to ECR", _push)
    push.add_argument("--image", required=True, help="the local image")
    push.add_argument("--repository", required=True, help="in ECR; made if it is not there")
    push.add_argument("--tag", default="", help="default: the time, in UTC")
    push.add_argument("--tool", default="", help="docker, podman or buildah; default: the first that is installed")
    push.add_argument("--kms-key", default="", help="KMS key of a repository that is made")

    upload = _verb(verbs, "upload", "copy a file, data or an artifact to S3, under the hash of its content", _upload)
    upload.add_argument("source", type=Path, help="a file or directory; an artifact becomes a model.tar.gz")
    upload.add_argument("destination", help="s3://BUCKET/PREFIX")
    upload.add_argument("--kms-key", default="", help="KMS key for what is written")
    upload.add_argument("--raw", action="store_true", help="an artifact as it is, for a training channel")

    invoke = _verb(verbs, "invoke", "ask an endpoint", _invoke, waits=True)
    invoke.add_argument("--name", required=True, help="the endpoint")
    invoke.add_argument("--text", action="append", default=[], help="a text to classify; repeatable")
    invoke.add_argument("--file", type=Path, help="a request's body")
    invoke.add_argument("--content-type", default="", help="of the body; default: by the file's name")
    invoke.add_argument("--accept", default="", help="of the answer; default: as the body")
    invoke.add_argument("--async", dest="asynchronous", action="store_true", help="the endpoint is asynchronous")
    invoke.add_argument("--input", default="", help="asynchronous: an s3:// object in place of texts and file")
    invoke.add_argument("--wait-s", type=float, default=900.0, help="asynchronous: seconds to wait (default: 900)")


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    command: Callable[[argparse.Namespace, Context], int],
    *,
    waits: bool = False,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--region", default="", help="default: boto3's")
    parser.add_argument("--profile", default="", help="of boto3's configuration")
    parser.add_argument("--account", default="", help="account number; default: the caller's")
    parser.add_argument("--dry-run", action="store_true", help="print the requests and send nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--prices", type=Path, default=TABLE, help="a table like training/sagemaker/launch/cost.toml")
    if waits:
        parser.add_argument("--no-wait", dest="wait", action="store_false", help="start and leave")
    parser.set_defaults(command=command)
    return parser


def _push(parsed: argparse.Namespace, context: Context) -> int:
    return transfers.push(
        context, parsed.image, parsed.repository, tag=parsed.tag, tool=parsed.tool, kms_key=parsed.kms_key
    )


def _upload(parsed: argparse.Namespace, context: Context) -> int:
    return transfers.upload(context, parsed.source, parsed.destination, kms_key=parsed.kms_key, raw=parsed.raw)


def _invoke(parsed: argparse.Namespace, context: Context) -> int:
    if not parsed.asynchronous:
        body, kind = transfers.body_of(parsed.text, parsed.file, parsed.content_type)
        return transfers.invoke(context, parsed.name, body, kind, parsed.accept)
    request = transfers.async_request(
        parsed.name, parsed.input, parsed.text, parsed.file, parsed.content_type, parsed.accept
    )
    return transfers.invoke_async(context, request, parsed.wait_s)


def _check_hyperparameters(given: Mapping[str, str]) -> None:
    """As the training container will: what it would refuse in minutes is refused before the job is paid for.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of its range.
    """
    training_config(parse_hyperparameters(given), data="train", output="model")


def _train(parsed: argparse.Namespace, context: Context) -> int:
    plan = plan_of(TrainPlan, parsed, ("name", "image", "output"))
    if not plan.entrypoint:  # another command has settings of its own
        _check_hyperparameters(pairs(plan.hyperparameters, "--hyperparameters"))
    return commands.train(context, plan, METRIC_DEFINITIONS)


def _follow(parsed: argparse.Namespace, context: Context) -> int:
    return commands.follow(context, parsed.kind, parsed.job)


def _deploy(parsed: argparse.Namespace, context: Context) -> int:
    return commands.deploy(context, plan_of(DeployPlan, parsed, ("name", "image")))


def _update(parsed: argparse.Namespace, context: Context) -> int:
    return commands.update(context, plan_of(UpdatePlan, parsed, ("name", "image")))


def _transform(parsed: argparse.Namespace, context: Context) -> int:
    return commands.transform(context, plan_of(TransformPlan, parsed, ("name", "input", "output")))


def _teardown(parsed: argparse.Namespace, context: Context) -> int:
    return commands.teardown(context, parsed.name)


def _cost(parsed: argparse.Namespace, context: Context) -> int:
    return commands.cost(context, plan_of(parsed.plan, parsed))


if __name__ == "__main__":
    sys.exit(main())
