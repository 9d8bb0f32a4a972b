"""Waiting for what AWS does, with what it says meanwhile: job status, log lines as they come, endpoint status."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from training.sagemaker.errors import AwsError
from training.sagemaker.launch.aws import Aws, is_error

LOG_GROUPS = {"training": "/aws/sagemaker/TrainingJobs", "transform": "/aws/sagemaker/TransformJobs"}
ENDED = ("Completed", "Failed", "Stopped")
CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack")
POLL_S = 10.0
ENDPOINT_LIMIT_S = 3 * 3600.0


@dataclass(frozen=True)
class Terminal:
    """Where words go, where answers come from, and how time passes."""

    say: Callable[[str], None]
    ask: Callable[[str], str]
    """Asks a question; an empty answer where nobody is there."""
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def agrees(self, question: str) -> bool:
        return self.ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def terminal() -> Terminal:
    """Words to standard error, results alone go to standard output; asks only where somebody sits."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def ask(question: str) -> str:
        if not sys.stdin.isatty():
            say(question + "(nobody to ask; --yes says yes)")
            return ""
        sys.stderr.write(question)
        sys.stderr.flush()
        return sys.stdin.readline()

    return Terminal(say, ask)


@dataclass
class LogTail:
    """The lines of a job's log streams, each once."""

    aws: Aws
    group: str
    prefix: str
    tokens: dict[str, str] = field(default_factory=dict)
    """Where to go on, by stream."""

    def new_lines(self) -> Iterator[str]:
        """What came since the last call; with several streams, each line after the name of its host."""
        try:
            streams = self.aws.pages(
                "logs", "DescribeLogStreams", "logStreams", logGroupName=self.group, logStreamNamePrefix=self.prefix
            )
        except AwsError as exc:
            if is_error(exc, "ResourceNotFoundException"):
                return
            raise
        names = sorted(stream["logStreamName"] for stream in streams)
        for name in names:
            host = f"{name.removeprefix(self.prefix).rpartition('-')[0]}: " if len(names) > 1 else ""
            yield from (host + line for line in self._of(name))

    def _of(self, stream: str) -> Iterator[str]:
        while True:
            token = {"nextToken": self.tokens[stream]} if stream in self.tokens else {}
            answer = self.aws.ask(
                "logs",
                "GetLogEvents",
                logGroupName=self.group,
                logStreamName=stream,
                startFromHead=True,
                **token,
            )
            yield from (str(event["message"]).rstrip("\n") for event in answer["events"])
            known, self.tokens[stream] = self.tokens.get(stream), answer["nextForwardToken"]
            if not answer["events"] or known == self.tokens[stream]:
                return


def follow_job(kind: str, name: str, tail: LogTail, terminal: Terminal, poll_s: float = POLL_S) -> dict[str, Any]:
    """Print a job's status and log until it ends; its last description.

    Args:
        kind: training or transform.
        name: the job's.
        tail: of its log; goes on where it is.
        terminal: to print to.
        poll_s: seconds between two looks.
    """
    title = kind.capitalize()
    shown = ""
    while True:
        job = tail.aws.ask("sagemaker", f"Describe{title}Job", **{f"{title}JobName": name})
        status = progress(job, kind)
        if status != shown:
            terminal.say(f"{name}: {status}")
            shown = status
        ended = job[f"{title}JobStatus"] in ENDED
        if ended and kind == "training":
            terminal.sleep(0 if poll_s == 0 else min(poll_s, 5.0))  # the last lines reach CloudWatch late
        for line in tail.new_lines():
            terminal.say(f"  {line}")
        if ended:
            return job
        terminal.sleep(poll_s)


def progress(job: Mapping[str, Any], kind: str) -> str:
    """A job's status in a line, with what it is doing."""
    status = str(job[f"{kind.capitalize()}JobStatus"])
    transitions = job.get("SecondaryStatusTransitions") or []
    message = str(transitions[-1].get("StatusMessage", "")) if transitions else ""
    secondary = str(job.get("SecondaryStatus", ""))
    detail = ", ".join(part for part in (secondary if secondary != status else "", message) if part)
    return f"{status} ({detail})" if detail else status


def wait_for_endpoint(aws: Aws, name: str, config: str, terminal: Terminal, poll_s: float = POLL_S) -> None:
    """Until the endpoint is in service with this configuration.

    Raises:
        AwsError: it failed, was rolled back, or takes longer than `ENDPOINT_LIMIT_S`.
    """
    since, shown = terminal.clock(), ""
    while True:
        endpoint = aws.ask("sagemaker", "DescribeEndpoint", EndpointName=name)
        status, reason = str(endpoint["EndpointStatus"]), str(endpoint.get("FailureReason", ""))
        if status != shown:
            terminal.say(f"{name}: {status}")
            shown = status
        if status == "InService":
            if endpoint["EndpointConfigName"] != config:
                raise AwsError(
                    f"endpoint {name} was rolled back: it serves {endpoint['EndpointConfigName']}, not {config}; "
                    f"{reason or 'an alarm went off or the new instances did not become healthy'}"
                )
            return
        if status not in CHANGING:
            raise AwsError(
                f"endpoint {name} is {status}: {reason or 'no reason given'}; its log: /aws/sagemaker/Endpoints/{name}"
            )
        if terminal.clock() - since > ENDPOINT_LIMIT_S:
            raise AwsError(f"endpoint {name} is still {status} after {ENDPOINT_LIMIT_S:.0f} s; it goes on without us")
        terminal.sleep(poll_s)
