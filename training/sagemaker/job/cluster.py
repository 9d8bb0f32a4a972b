"""The hosts and GPUs of a job, and the command that starts one training process for each."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.errors import ConfigError
from training.sagemaker.job.settings import JobPaths

MASTER_PORT = "29500"
SHUTDOWN_S = "30"
TRAINING_PROCESS = "training.sagemaker.job.training_process"


@dataclass(frozen=True)
class Cluster:
    """The job's hosts, seen from this one."""

    hosts: tuple[str, ...]
    """Names of the hosts, sorted so that every host numbers them alike; the first one is the master."""
    current: str
    interface: str
    """Network interface between the hosts; empty if it is not known."""
    gpus: int

    @property
    def rank(self) -> int:
        return self.hosts.index(self.current)

    @property
    def processes(self) -> int:
        """Return the number of processes on each host: one for each GPU, at least one."""
        return max(1, self.gpus)


def read_cluster(paths: JobPaths, count_gpus: Callable[[], int]) -> Cluster:
    """Return the cluster of the `SM_*` variables, else of resourceconfig.json, else of this host alone.

    Raises ConfigError if this host is none of the job's hosts.
    """
    described, variables = paths.config("resourceconfig", "SM_RESOURCE_CONFIG"), paths.variables
    given = variables.get("SM_HOSTS")
    hosts = sorted(json.loads(given) if given else described.get("hosts") or ["algo-1"])
    current = variables.get("SM_CURRENT_HOST") or described.get("current_host") or hosts[0]
    if current not in hosts:
        raise ConfigError(f"resourceconfig.json: current_host {current!r} is none of the hosts {', '.join(hosts)}")
    interface = variables.get("SM_NETWORK_INTERFACE_NAME") or described.get("network_interface_name", "")
    gpus = variables.get("SM_NUM_GPUS")
    return Cluster(tuple(hosts), current, interface, int(gpus) if gpus else count_gpus())


def count_gpus(devices: Path, torch_version: str) -> int:
    """Return the number of NVIDIA GPUs among the devices, which is `/dev`.

    Raises ConfigError if there are some and torch is a build for CPUs: training would take many times as long, at the
    price of the GPUs.
    """
    found = len(list(devices.glob("nvidia[0-9]*")))
    if found and torch_version.endswith("+cpu"):
        raise ConfigError(
            f"this instance has GPUs, and torch {torch_version} of this image cannot use them: build the image with "
            "TORCH_INDEX=https://download.pytorch.org/whl/cu130, or choose a type of instance without GPUs"
        )
    return found


def training_command(cluster: Cluster, paths: JobPaths, job: str) -> list[str]:
    """Return the command that trains on this host: one process, or torchrun with one for each GPU on each host.

    torchrun itself waits up to ten minutes for a master whose name does not resolve yet.
    """
    if len(cluster.hosts) == 1 and cluster.processes == 1:
        return [sys.executable, "-m", TRAINING_PROCESS, job]
    nodes = ["--standalone"]
    if len(cluster.hosts) > 1:
        address = paths.variables.get("MASTER_ADDR") or cluster.hosts[0]
        port = paths.variables.get("MASTER_PORT") or MASTER_PORT
        nodes = ["--nnodes", str(len(cluster.hosts)), "--node-rank", str(cluster.rank)]
        nodes += ["--master-addr", address, "--master-port", port]
    processes = ["--nproc-per-node", str(cluster.processes), "--max-restarts", "0", "--shutdown-timeout", SHUTDOWN_S]
    return [sys.executable, "-m", "torch.distributed.run", *processes, *nodes, "--module", TRAINING_PROCESS, job]


def network_variables(cluster: Cluster) -> dict[str, str]:
    """Return variables that make gloo and NCCL use the hosts' own interface, not the container's link-local one."""
    if not cluster.interface or len(cluster.hosts) == 1:
        return {}
    return {"NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface}
