"""Engines that build and run the images: Docker, or buildah and runc where no Docker engine answers.

buildah and runc need root on Debian or Ubuntu and no daemon: apt-get install buildah mmdebstrap runc. They build the
same Dockerfile on a base that mmdebstrap makes from the machine's Debian mirror, and run the image's own configuration
(entry point, environment, directory) in a container that shares only the network with the machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
MINBASE = ("--variant=minbase", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
# Without usr-is-merged, Debian's init helpers install usrmerge and with it 55 MB of Perl.
PACKAGES = "python3,ca-certificates,usr-is-merged"
SLIM = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man"))
"""Options that leave out what Debian's slim images leave out."""


class EngineError(Exception):
    """A program is missing or a command failed; the message says which."""


@dataclass(frozen=True)
class Start:
    """Options for starting a container."""

    image: str
    arguments: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    """Replaces the image's entry point; empty: the image's own."""
    environment: dict[str, str] = field(default_factory=dict)
    mounts: dict[Path, str] = field(default_factory=dict)
    """Directory of this machine -> directory in the container, with ":ro" at the end for a read-only one."""
    user: int = 0
    read_only: bool = False
    """The root file system is read-only, and the process has no capabilities."""
    tmp: bool = True
    """A container with a read-only root has a writable /tmp in memory."""
    memory_mb: int = 0


class Container(Protocol):
    """A started container; `process` ends with it and has its exit code."""

    process: subprocess.Popen[str]

    def pid(self) -> int:
        """Return this machine's process id of its first process; 0 if it does not run."""

    def signal(self, name: str) -> None:
        """Send a signal, named without SIG, to its first process."""


class Engine(Protocol):
    """Builds the image of a target of the Dockerfile, runs it, and lists its layers."""

    name: str

    def build(self, target: str, torch_index: str) -> str: ...

    def start(self, start: Start) -> Container: ...

    def layers(self, image: str) -> list[tuple[str, int]]:
        """Return instruction and bytes of each layer that is not empty, the lowest first."""


def output(command: Sequence[str | Path], **options: Any) -> str:
    """Return the standard output of a command.

    Raises:
        EngineError: It failed; the message ends with its error output.
    """
    ran = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if ran.returncode:
        raise EngineError(f"{' '.join(map(str, command))}: exit code {ran.returncode}: {ran.stderr.strip()[-2000:]}")
    return str(ran.stdout).strip()


def choose(work: Path) -> Engine:
    """Return Docker if its engine answers, else buildah and runc.

    Raises:
        EngineError: Neither is available.
    """
    if shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return Docker()
    missing = [tool for tool in ("buildah", "runc") if not shutil.which(tool)]
    if missing or os.geteuid():
        raise EngineError("no Docker engine answers; without one: root, and apt-get install buildah mmdebstrap runc")
    return Buildah(work)


@dataclass
class Running:
    """A container of either engine."""

    process: subprocess.Popen[str]
    state: Sequence[str]
    """The command that prints its state as JSON."""
    kill: Sequence[str]
    """The command that sends it a signal, named behind it."""

    def pid(self) -> int:
        ran = subprocess.run(self.state, capture_output=True, text=True, check=False)
        found = re.search(r'"[pP]id": ?(\d+)', ran.stdout)
        return int(found[1]) if found else 0

    def signal(self, name: str) -> None:
        output([*self.kill, name])


class Docker:
    """docker build, docker run."""

    name = "docker"

    def __init__(self) -> None:
        self._started = 0

    def build(self, target: str, torch_index: str) -> str:
        image = f"gpt2-classifier-{target}"
        command = ["docker", "build", "--target", target, "--build-arg", f"TORCH_INDEX={torch_index}"]
        subprocess.run([*command, "--tag", image, "."], cwd=ROOT, check=True)
        return image

    def start(self, start: Start) -> Running:
        self._started += 1
        name = f"image-test-{os.getpid()}-{self._started}"
        command = ["docker", "run", "--rm", "--name", name, "--network", "host", "--user", f"{start.user}:{start.user}"]
        command += [part for key, value in start.environment.items() for part in ("--env", f"{key}={value}")]
        command += [part for here, there in start.mounts.items() for part in ("--volume", f"{here}:{there}")]
        if start.read_only:
            command += ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
            command += ["--tmpfs=/tmp"] if start.tmp else []
        command += [f"--memory={start.memory_mb}m"] if start.memory_mb else []
        command += ["--entrypoint", start.entrypoint[0]] if start.entrypoint else []
        command += [start.image, *start.entrypoint[1:], *start.arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return Running(process, ["docker", "inspect", name], ["docker", "kill", name, "--signal"])

    def layers(self, image: str) -> list[tuple[str, int]]:
        lines = output(
            ["docker", "history", "--no-trunc", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", image]
        )
        rows = [line.split("\t", 1) for line in reversed(lines.splitlines())]
        return [(what, int(size)) for size, what in rows if int(size)]


class Buildah:
    """Builds with buildah and runs with runc; everything it stores is in the directory `work`."""

    name = "buildah and runc"

    def __init__(self, work: Path) -> None:
        self._work = work
        self._started = 0
        (work / "tmp").mkdir(parents=True, exist_ok=True)
        self._environment = {**os.environ, "TMPDIR": str(work / "tmp")}
        self._buildah = ["buildah", "--root", str(work / "root"), "--runroot", str(work / "run")]

    def build(self, target: str, torch_index: str) -> str:
        image = f"localhost/gpt2-classifier-{target}"
        bases = [f"{name.upper()}={self._base(name)}" for name in ("base", "runtime")]
        with tempfile.NamedTemporaryFile("w", suffix=".conf", dir=self._work / "tmp") as pip:
            volumes = _pip_settings(pip)
            command = [*self._buildah, "bud", "--layers", "--isolation=chroot", "--format=docker", "--target", target]
            for argument in (*bases, f"TORCH_INDEX={torch_index}"):
                command += ["--build-arg", argument]
            command += [f"--volume={path}:{path}:ro" for path in volumes]
            command += ["--secret", f"id=pip,src={pip.name}", "--tag", image, "."]
            subprocess.run(command, cwd=ROOT, env=self._environment, check=True)
        return image

    def _base(self, name: str) -> str:
        """Return an image of Debian with Python: `base` to build with, `runtime` to build on."""
        image = f"localhost/{name}"
        if subprocess.run(
            [*self._buildah, "inspect", "--type=image", image], capture_output=True, check=False
        ).returncode:
            packages = PACKAGES + (",python3-pip,binutils" if name == "base" else "")
            archive = self._work / f"{name}.tar"
            if not archive.exists():
                partial = archive.with_suffix(".partial.tar")
                command = ["mmdebstrap", *MINBASE, '--aptopt=APT::Install-Recommends "false"', *SLIM]
                command += [f"--include={packages}", "bookworm", str(partial)]
                subprocess.run(command, env=self._environment, check=True)
                partial.rename(archive)
            container = output([*self._buildah, "from", "scratch"])
            output([*self._buildah, "add", "--quiet", container, archive, "/"], env=self._environment)
            output([*self._buildah, "commit", "--quiet", "--rm", container, image], env=self._environment)
        return image

    def start(self, start: Start) -> Running:
        self._started += 1
        name = f"image-test-{os.getpid()}-{self._started}"
        container = output([*self._buildah, "from", "--name", name, start.image])
        bundle = self._work / "tmp" / name
        bundle.mkdir()
        output(["runc", "spec", "--bundle", bundle])
        specification = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
        image = json.loads(output([*self._buildah, "inspect", "--type=image", start.image]))["Docker"]["config"]
        _configure(specification, image, start, output([*self._buildah, "mount", container]))
        (bundle / "config.json").write_text(json.dumps(specification), encoding="utf-8")
        process = subprocess.Popen(
            ["runc", "run", "--bundle", bundle, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return Running(process, ["runc", "state", name], ["runc", "kill", name])

    def layers(self, image: str) -> list[tuple[str, int]]:
        described = json.loads(output([*self._buildah, "inspect", "--type=image", image]))["OCIv1"]
        [index] = (self._work / "root").glob("*-layers/layers.json")
        sizes = {
            layer["diff-digest"]: int(layer["diff-size"]) for layer in json.loads(index.read_text(encoding="utf-8"))
        }
        written = [entry["created_by"] for entry in described["history"] if not entry.get("empty_layer")]
        return [(what, sizes[digest]) for what, digest in zip(written, described["rootfs"]["diff_ids"], strict=True)]

    def clean(self) -> None:
        """Remove the containers; the images stay for the next build."""
        output([*self._buildah, "rm", "--all"])
        for bundle in (self._work / "tmp").glob("image-test-*"):
            shutil.rmtree(bundle)


def _configure(spec: dict[str, Any], image: dict[str, Any], start: Start, rootfs: str) -> None:
    """Write the image's configuration and the start's options into an OCI runtime specification."""
    command = [
        *(start.entrypoint or image["Entrypoint"]),
        *(start.arguments or ([] if start.entrypoint else image["Cmd"])),
    ]
    environment = dict(pair.split("=", 1) for pair in image["Env"]) | start.environment
    spec["process"] |= {
        "terminal": False,
        "args": command,
        "env": [f"{key}={value}" for key, value in environment.items()],
        "cwd": image["WorkingDir"],
        "user": {"uid": start.user, "gid": start.user},
    }
    if start.read_only:
        spec["process"]["capabilities"] = {}
    spec["root"] = {"path": rootfs, "readonly": start.read_only}
    tmp = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}
    spec["mounts"] += [tmp] if start.read_only and start.tmp else []
    for here, there in start.mounts.items():
        place, _, mode = there.partition(":")
        spec["mounts"].append(
            {"destination": place, "type": "bind", "source": str(here), "options": ["rbind", mode or "rw"]}
        )
    spec["linux"]["namespaces"] = [part for part in spec["linux"]["namespaces"] if part["type"] != "network"]
    spec["linux"]["resources"] = {"memory": {"limit": start.memory_mb << 20}} if start.memory_mb else {}


def _pip_settings(file: Any) -> list[str]:
    """Write this machine's pip settings to a file; return the directories in them that the build needs."""
    listed = output([sys.executable, "-m", "pip", "config", "list"])
    settings = {}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'")
    file.write("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    file.flush()
    paths = [Path(word.removeprefix("file://")) for value in settings.values() for word in value.split()]
    local = [path.parent if path.name == "simple" else path for path in paths if path.is_absolute() and path.exists()]
    return sorted({str(path) for path in local})


def stop(container: Container) -> None:
    """End a container that a failed check left running."""
    if container.process.poll() is None:
        container.signal(signal.SIGKILL.name.removeprefix("SIG"))
        container.process.wait(30)
    if container.process.stdout:
        container.process.stdout.close()
