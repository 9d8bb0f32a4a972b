"""What each command does: a plan becomes calls, the calls are checked, shown or sent, and followed to their end."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from training.sagemaker.errors import AwsError, LaunchError
from training.sagemaker.launch.aws import Aws, is_error
from training.sagemaker.launch.calls import Call, InService, Step, filled
from training.sagemaker.launch.cost import TABLE, estimate, read_prices
from training.sagemaker.launch.endpoints import DIMENSION, VARIANT, deploy_steps, update_steps
from training.sagemaker.launch.follow import (
    LOG_GROUPS,
    POLL_S,
    LogTail,
    Terminal,
    follow_job,
    terminal,
    wait_for_endpoint,
)
from training.sagemaker.launch.images import Command, Run
from training.sagemaker.launch.names import valid_name
from training.sagemaker.launch.plans import DeployPlan, TrainPlan, TransformPlan, UpdatePlan
from training.sagemaker.launch.requests import training_steps, transform_steps
from training.sagemaker.launch.teardown import removals, remove
from training.sagemaker.launch.validation import check

DONE, FAILED, STOPPED, DETACHED = 0, 1, 3, 130


def run_command(command: Command) -> int:
    """A program with our terminal; what it asks for on standard input is given."""
    return subprocess.run(command.words, input=command.stdin.encode() or None, check=False).returncode


def write_line(line: str) -> None:
    sys.stdout.write(line + "\n")


@dataclass(frozen=True)
class Context:
    """Where a command runs: options of all commands, and the doors to the world."""

    region: str = ""
    profile: str = ""
    account: str = ""
    dry_run: bool = False
    yes: bool = False
    wait: bool = True
    prices: Path = TABLE
    terminal: Terminal = field(default_factory=terminal)
    out: Callable[[str], None] = write_line
    """Takes results; words go to the terminal."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    run: Run = run_command
    which: Callable[[str], str | None] = shutil.which
    poll_s: float = POLL_S

    @cached_property
    def aws(self) -> Aws:
        """The session; made when first needed, which a dry run never does (but for teardown's, which looks)."""
        return Aws(self.region, self.profile)

    def close(self) -> None:
        if "aws" in vars(self):
            self.aws.close()

    def role(self, wanted: str) -> str:
        if not self.dry_run:
            return self.aws.role(wanted)
        if wanted.startswith("arn:"):
            return wanted
        if wanted and self.account:
            return f"arn:aws:iam::{self.account}:role/{wanted}"
        raise LaunchError("a dry run asks AWS nothing: pass the role's ARN by --role, or its name and --account")

    def show(self, steps: Sequence[Step]) -> int:
        self.out(json.dumps([step.shown() for step in steps], indent=2, ensure_ascii=False))
        return DONE


def train(context: Context, plan: TrainPlan, metrics: Sequence[Mapping[str, str]]) -> int:
    """Start a training job and follow it to its end."""
    job, steps = training_steps(plan, context.role(plan.role), metrics, context.now())
    check(steps)
    if context.dry_run:
        return context.show(steps)
    _say_cost(context, plan)
    aws = context.aws
    execute(context, aws, steps)
    context.terminal.say(f"started {job}")
    if not context.wait:
        context.out(job)
        return DONE
    return follow(context, "training", job)


def follow(context: Context, kind: str, job: str) -> int:
    """A job's status and log until it ends. Ctrl-C asks whether to stop the job; otherwise it goes on without us."""
    if context.dry_run:
        raise LaunchError("follow only looks at a job: a dry run has nothing to show")
    aws, asked = context.aws, False
    tail = LogTail(aws, LOG_GROUPS[kind], f"{job}/")
    while True:
        try:
            return _ended(context, kind, job, follow_job(kind, job, tail, context.terminal, context.poll_s))
        except LaunchError as exc:
            if isinstance(exc, AwsError) and is_error(exc, "ValidationException", "ResourceNotFound"):  # no such job
                raise
            again = f"`python -m training.sagemaker follow {kind} {job}` looks again"
            raise AwsError(f"{exc}; {job} goes on all the same; {again}") from exc
        except KeyboardInterrupt:
            if asked or not (context.yes or context.terminal.agrees(f"\nstop {job}? Otherwise it goes on without us.")):
                context.terminal.say(f"{job} goes on; `python -m training.sagemaker follow {kind} {job}` looks again")
                return DETACHED
            asked = True
            title = kind.capitalize()
            aws.ask("sagemaker", f"Stop{title}Job", **{f"{title}JobName": job})
            context.terminal.say(f"stopping {job}: it has 120 s to save its work; Ctrl-C again leaves at once")


def _ended(context: Context, kind: str, job: str, last: Mapping[str, Any]) -> int:
    status = last[f"{kind.capitalize()}JobStatus"]
    if kind == "training":
        took, billed = last.get("TrainingTimeInSeconds"), last.get("BillableTimeInSeconds")
        if took and billed:
            context.terminal.say(f"{took} s of training, {billed} s billed ({100 * (1 - billed / took):.0f} % saved)")
        result = last.get("ModelArtifacts", {}).get("S3ModelArtifacts", "")
    else:
        result = last.get("TransformOutput", {}).get("S3OutputPath", "")
    if status == "Completed":
        context.out(result)
        return DONE
    reason = last.get("FailureReason") or last.get("SecondaryStatus") or "no reason given"
    context.terminal.say(f"{job} {str(status).lower()}: {reason}")
    if status == "Stopped" and result:
        context.terminal.say(f"what it had saved: {result}")
    return STOPPED if status == "Stopped" else FAILED


def deploy(context: Context, plan: DeployPlan) -> int:
    """Make an endpoint and wait until it serves."""
    endpoint, steps = deploy_steps(plan, context.role(plan.role), context.now())
    check(steps)
    if context.dry_run:
        return context.show(steps)
    _say_cost(context, plan)
    aws = context.aws
    if _exists(aws, endpoint):
        raise LaunchError(f"endpoint {endpoint} exists: `update` gives it another model, `teardown` removes it")
    execute(
        context, aws, steps, hint=f"`python -m training.sagemaker teardown --name {endpoint}` removes what was made"
    )
    context.out(endpoint)
    return DONE


def _exists(aws: Aws, endpoint: str) -> bool:
    try:
        aws.ask("sagemaker", "DescribeEndpoint", EndpointName=endpoint)
    except AwsError as exc:
        if is_error(exc, "ValidationException"):  # "Could not find endpoint"
            return False
        raise
    return True


def update(context: Context, plan: UpdatePlan) -> int:
    """Move an endpoint to another model, back if an alarm goes off."""
    endpoint = valid_name(plan.name)
    if context.dry_run:
        if not plan.instance_type or not plan.instance_count:
            raise LaunchError("a dry run does not ask what serves now: pass --instance-type and --instance-count")
        old = {"VariantName": VARIANT, "InstanceType": plan.instance_type, "InitialInstanceCount": plan.instance_count}
        serving: Mapping[str, Any] = {"ProductionVariants": [old]}
    else:
        serving = _serving(context.aws, endpoint, plan)
    steps = update_steps(plan, context.role(plan.role), serving, context.now())
    check(steps)
    if context.dry_run:
        return context.show(steps)
    if not _agreed(context, f"move endpoint {endpoint} to {plan.image} {plan.artifact}".rstrip() + "?"):
        return FAILED
    execute(context, context.aws, steps)
    context.out(endpoint)
    return DONE


def _serving(aws: Aws, endpoint: str, plan: UpdatePlan) -> Mapping[str, Any]:
    """The configuration that serves now.

    Raises:
        LaunchError: autoscaling would make AWS refuse another instance type.
    """
    described = aws.ask("sagemaker", "DescribeEndpoint", EndpointName=endpoint)
    config = aws.ask("sagemaker", "DescribeEndpointConfig", EndpointConfigName=described["EndpointConfigName"])
    # the configuration has the count at the start; autoscaling may have changed it
    for variant, now in zip(config["ProductionVariants"], described.get("ProductionVariants", []), strict=False):
        if now.get("DesiredInstanceCount"):
            variant["InitialInstanceCount"] = now["DesiredInstanceCount"]
    types = {variant.get("InstanceType") for variant in config["ProductionVariants"]}
    if plan.instance_type and types != {plan.instance_type}:
        targets = aws.pages(
            "application-autoscaling",
            "DescribeScalableTargets",
            "ScalableTargets",
            ServiceNamespace="sagemaker",
            ScalableDimension=DIMENSION,
        )
        if any(target["ResourceId"].startswith(f"endpoint/{endpoint}/") for target in targets):
            raise LaunchError(
                f"AWS refuses another instance type while {endpoint} scales by itself: deploy under another name, or "
                "deregister its scalable target first"
            )
    return config


def transform(context: Context, plan: TransformPlan) -> int:
    """Classify files in S3 and wait until it is done."""
    job, steps = transform_steps(plan, context.role(plan.role) if plan.image and not plan.model else "", context.now())
    check(steps)
    if context.dry_run:
        return context.show(steps)
    _say_cost(context, plan)
    execute(context, context.aws, steps)
    context.terminal.say(f"started {job}")
    if not context.wait:
        context.out(job)
        return DONE
    return follow(context, "transform", job)


def teardown(context: Context, name: str) -> int:
    """Remove all that carries a deployment's tag, after showing it and asking. A dry run only shows."""
    if not any(c.isascii() and c.isalnum() for c in name):  # an unset variable must not name what has the default name
        raise LaunchError(f"--name {name!r} names no deployment")
    aws = context.aws
    found = removals(aws, valid_name(name))
    if not found:
        context.terminal.say(f"nothing in {aws.region} carries the tag of {valid_name(name)!r}")
        return DONE
    for one in found:
        context.out(one.what)
    if context.dry_run or not _agreed(context, f"remove these {len(found)}?"):
        return DONE if context.dry_run else FAILED
    failures = remove(aws, found)
    if failures:
        raise AwsError("not removed:\n  " + "\n  ".join(failures))
    context.terminal.say("removed; files in S3, images in ECR and logs stay")
    return DONE


def cost(context: Context, plan: TrainPlan | DeployPlan | TransformPlan) -> int:
    for line in estimate(plan, read_prices(context.prices)):
        context.out(line)
    return DONE


def execute(context: Context, aws: Aws, steps: Sequence[Step], hint: str = "") -> None:
    """Send the calls in order, and wait where waiting is due.

    Raises:
        AwsError: the first call that fails, with the hint.
    """
    answers: dict[str, Any] = {}
    try:
        for step in steps:
            if isinstance(step, InService):
                wait_for_endpoint(aws, step.endpoint, step.config, context.terminal, context.poll_s)
            else:
                answers |= aws.call(Call(step.service, step.operation, filled(step.request, answers)))
    except LaunchError as exc:  # credentials that expire on the way, too
        raise AwsError(f"{exc}{'; ' if hint else ''}{hint}") from exc


def _say_cost(context: Context, plan: TrainPlan | DeployPlan | TransformPlan) -> None:
    try:
        lines = estimate(plan, read_prices(context.prices))
    except LaunchError as exc:
        lines = [f"no estimate of the cost: {exc}"]
    for line in lines:
        context.terminal.say(line)


def _agreed(context: Context, question: str) -> bool:
    return context.yes or context.terminal.agrees(question)
