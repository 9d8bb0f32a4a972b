"""The command `follow`: a job's status and log until the job ends. `train` and `transform` end with it, too."""

from collections.abc import Iterator, Mapping
from typing import Any

from training.sagemaker.errors import AwsError, LaunchError, NotFoundError
from training.sagemaker.launch.aws import Aws
from training.sagemaker.launch.launcher import DETACHED, DONE, FAILED, STOPPED, Launcher
from training.sagemaker.launch.options import FollowOptions

LOG_GROUPS = {"training": "/aws/sagemaker/TrainingJobs", "transform": "/aws/sagemaker/TransformJobs"}
ENDED = ("Completed", "Failed", "Stopped")
LAST_LINES_S = 5.0
"""Seconds after the end of a training job until its last lines are in CloudWatch."""


def follow(launcher: Launcher, options: FollowOptions) -> int:
    """Follow a job that runs."""
    if options.dry_run:
        raise LaunchError("follow only looks at a job: a dry run has nothing to show")
    return follow_job(launcher, options.kind, options.job)


def follow_job(launcher: Launcher, kind: str, name: str, *, started: bool = False, wait: bool = True) -> int:
    """Print a job's status and log until it ends, or only its name. Ctrl-C asks whether to stop the job."""
    title, say, asked = kind.capitalize(), launcher.console.say, False
    if started:
        say(f"started {name}")
    if not wait:
        launcher.console.result(name)
        return DONE
    tail = LogTail(launcher.aws, LOG_GROUPS[kind], f"{name}/")
    again = f"`python -m training.sagemaker follow {kind} {name}` looks again"
    while True:
        try:
            return _ended(launcher, kind, name, _until_ended(launcher, title, name, tail))
        except NotFoundError:
            raise
        except LaunchError as exc:
            raise AwsError(f"{exc}; {name} goes on all the same; {again}") from exc
        except KeyboardInterrupt:
            if asked or not launcher.confirm(f"\nstop {name}? Otherwise it goes on without us."):
                say(f"{name} goes on; {again}")
                return DETACHED
            asked = True
            launcher.aws.call("sagemaker", f"Stop{title}Job", **{f"{title}JobName": name})
            say(f"stopping {name}: it has 120 s to save its work; Ctrl-C again leaves at once")


def _until_ended(launcher: Launcher, title: str, name: str, tail: "LogTail") -> dict[str, Any]:
    console, shown = launcher.console, ""
    while True:
        job = launcher.aws.call("sagemaker", f"Describe{title}Job", **{f"{title}JobName": name})
        status, secondary = str(job[f"{title}JobStatus"]), job.get("SecondaryStatus", "")
        transitions = job.get("SecondaryStatusTransitions") or [{}]
        details = ("" if secondary == status else secondary, transitions[-1].get("StatusMessage", ""))
        progress = f"{status} ({', '.join(filter(None, details))})".removesuffix(" ()")
        if progress != shown:
            console.say(f"{name}: {progress}")
            shown = progress
        ended = status in ENDED
        if ended and title == "Training":
            console.sleep(min(console.poll_s, LAST_LINES_S))
        for line in tail.new_lines():
            console.say(f"  {line}")
        if ended:
            return job
        console.sleep(console.poll_s)


def _ended(launcher: Launcher, kind: str, name: str, job: Mapping[str, Any]) -> int:
    status, say = job[f"{kind.capitalize()}JobStatus"], launcher.console.say
    took, billed = job.get("TrainingTimeInSeconds"), job.get("BillableTimeInSeconds")
    if took and billed:
        say(f"{took} s of training, {billed} s billed ({100 * (1 - billed / took):.0f} % saved)")
    artifacts, output = job.get("ModelArtifacts", {}), job.get("TransformOutput", {})
    result = artifacts.get("S3ModelArtifacts", "") if kind == "training" else output.get("S3OutputPath", "")
    if status == "Completed":
        launcher.console.result(result)
        return DONE
    reason = job.get("FailureReason") or job.get("SecondaryStatus") or "AWS gives no reason"
    say(f"{name} {str(status).lower()}: {reason}")
    if status == "Stopped" and result:
        say(f"what the job saved before: {result}")
    return STOPPED if status == "Stopped" else FAILED


class LogTail:
    """The log of a job: the streams of a group whose names begin with the prefix, each line once."""

    def __init__(self, aws: Aws, group: str, prefix: str) -> None:
        self._aws, self._group, self._prefix = aws, group, prefix
        self._tokens: dict[str, str] = {}  # by stream: where to go on

    def new_lines(self) -> Iterator[str]:
        """Yield the lines since the last call; with several streams, each begins with the name of its host."""
        where = {"logGroupName": self._group, "logStreamNamePrefix": self._prefix}
        try:
            streams = self._aws.pages("logs", "DescribeLogStreams", "logStreams", **where)
        except NotFoundError:  # the first job of an account makes the group
            return
        names = sorted(stream["logStreamName"] for stream in streams)
        for name in names:
            host = f"{name.removeprefix(self._prefix).rpartition('-')[0]}: " if len(names) > 1 else ""
            yield from (host + line for line in self._lines_of(name))

    def _lines_of(self, stream: str) -> Iterator[str]:
        where = {"logGroupName": self._group, "logStreamName": stream, "startFromHead": True}
        while True:
            known = self._tokens.get(stream)
            answer = self._aws.call("logs", "GetLogEvents", **where, **({"nextToken": known} if known else {}))
            yield from (str(event["message"]).rstrip("\n") for event in answer["events"])
            self._tokens[stream] = answer["nextForwardToken"]
            if not answer["events"] or known == self._tokens[stream]:
                return
