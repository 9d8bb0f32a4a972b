"""The parts that all commands share: the console, the AWS session, and the sending of requests."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from training.sagemaker.errors import AwsError, LaunchError
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.endpoints import POLICY_ARN
from training.sagemaker.launch.options import CommonOptions
from training.sagemaker.launch.requests import ApiRequest
from training.sagemaker.launch.validation import check

DONE, FAILED, INPUT_ERROR, STOPPED, DETACHED = 0, 1, 2, 3, 130
"""Exit codes of the commands."""
BEFORE_SERVICE = ("CreateEndpoint", "UpdateEndpoint")
"""Operations after which the endpoint must be in service before the next request."""
CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack")
ENDPOINT_LIMIT_S = 3 * 3600.0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _ask(question: str) -> str:
    if not sys.stdin.isatty():
        _say(question + "(nobody is there to answer; --yes answers yes)")
        return ""
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline()


def _run_program(words: Sequence[str], stdin: str) -> int:
    return subprocess.run(words, input=stdin.encode() or None, check=False).returncode


@dataclass(frozen=True)
class Console:
    """Input and output of the commands, their clock, and the programs that they run."""

    say: Callable[[str], None] = _say
    """Writes a message to standard error."""
    result: Callable[[str], None] = print
    """Writes a result to standard output."""
    ask: Callable[[str], str] = _ask
    """Asks a question; returns an empty answer if nobody can answer."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    run_program: Callable[[Sequence[str], str], int] = _run_program
    """Runs a program with a text on its standard input and returns its exit code."""
    find_program: Callable[[str], str | None] = shutil.which
    poll_s: float = 10.0
    """Seconds between two looks at what AWS does."""


@dataclass(frozen=True)
class Launcher:
    """One run of a command."""

    options: CommonOptions
    console: Console

    @cached_property
    def aws(self) -> Aws:
        """Return the session, created when it is first needed. The dry runs of update and teardown need one."""
        return Aws(self.options.region, self.options.profile)

    def close(self) -> None:
        if "aws" in vars(self):
            self.aws.close()

    def confirm(self, question: str) -> bool:
        return self.options.yes or self.console.ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def role(self, wanted: str) -> str:
        """Return the ARN of the execution role. Raises LaunchError if a dry run would have to ask AWS for it."""
        if not self.options.dry_run:
            return self.aws.role(wanted)
        if wanted.startswith("arn:"):
            return wanted
        if wanted and self.options.account:
            return f"arn:aws:iam::{self.options.account}:role/{wanted}"
        raise LaunchError("a dry run asks AWS nothing: pass the role's ARN with --role, or its name and --account")

    def is_preview(self, requests: Sequence[ApiRequest]) -> bool:
        """Check the requests (see `check`); in a dry run also print them and return True: nothing is to be sent."""
        check(requests)
        shown: list[dict[str, Any]] = []
        for one in requests:
            shown.append({"service": one.service, "operation": one.operation, "request": one.parameters})
            if one.operation in BEFORE_SERVICE:
                name, config = one.parameters["EndpointName"], one.parameters["EndpointConfigName"]
                shown.append({"wait": f"endpoint {name} is InService with {config}"})
        if self.options.dry_run:
            self.console.result(json.dumps(shown, indent=2, ensure_ascii=False, default=bytes.decode))
        return self.options.dry_run

    def send_all(self, requests: Sequence[ApiRequest], hint: str = "") -> None:
        """Send the requests in order, and wait for an endpoint that is created or updated.

        Raises AwsError at the first request that fails; the message ends with `hint`, as resources may exist already.
        """
        policy_arn = POLICY_ARN
        try:
            for request in requests:
                parameters = dict(request.parameters)
                if parameters.get("AlarmActions") == [POLICY_ARN]:
                    parameters["AlarmActions"] = [policy_arn]
                answer = self.aws.call(request.service, request.operation, **parameters)
                policy_arn = answer.get("PolicyARN", policy_arn)
                if request.operation in BEFORE_SERVICE:
                    self._wait_for_endpoint(parameters["EndpointName"], parameters["EndpointConfigName"])
        except LaunchError as exc:  # credentials may expire on the way, too
            raise AwsError(f"{exc}{'; ' if hint else ''}{hint}") from exc

    def wait(self, look: Callable[[], Any], limit_s: float, late: str) -> Any:
        """Return what `look` returns once it is not None. Raises AwsError(late) after `limit_s` seconds."""
        deadline = self.console.clock() + limit_s
        while (found := look()) is None:
            if self.console.clock() > deadline:
                raise AwsError(late)
            self.console.sleep(self.console.poll_s)
        return found

    def _wait_for_endpoint(self, name: str, config: str) -> None:
        shown = ""

        def look() -> bool | None:
            nonlocal shown
            endpoint = self.aws.call("sagemaker", "DescribeEndpoint", EndpointName=name)
            status, reason = str(endpoint["EndpointStatus"]), endpoint.get("FailureReason") or "AWS gives no reason"
            if status != shown:
                self.console.say(f"{name}: {status}")
                shown = status
            if status == "InService" and endpoint["EndpointConfigName"] != config:
                raise AwsError(
                    f"endpoint {name} was rolled back from {config} to {endpoint['EndpointConfigName']}: an alarm went "
                    f"off, or the new instances did not become healthy: {reason}"
                )
            if status not in ("InService", *CHANGING):
                raise AwsError(f"endpoint {name} is {status}: {reason}; its log: /aws/sagemaker/Endpoints/{name}")
            return True if status == "InService" else None

        self.wait(look, ENDPOINT_LIMIT_S, f"endpoint {name} is not in service after {ENDPOINT_LIMIT_S:.0f} s")
