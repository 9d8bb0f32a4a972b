"""A job's hosts and GPUs, and the command that starts one training process for each."""

import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from training.errors import ConfigError
from training.sagemaker.job.settings import Places

WAIT_S = 300.0
"""Hosts of one job come up minutes apart."""
MASTER_PORT = "29500"
SHUTDOWN_S = 30
WORKER = "training.sagemaker.job.worker"


@dataclass(frozen=True)
class Cluster:
    """Where this host stands among the job's hosts."""

    hosts: tuple[str, ...]
    """Sorted, so that all hosts count alike; the first one is the master."""
    current: str
    interface: str
    """Network interface by which the hosts reach each other; empty where nobody says."""
    gpus: int

    @property
    def rank(self) -> int:
        return self.hosts.index(self.current)

    @property
    def processes(self) -> int:
        """On each host: one a GPU, or one."""
        return max(1, self.gpus)


def read_cluster(places: Places, count_gpus: Callable[[], int]) -> Cluster:
    """From `SM_*` variables, else resourceconfig.json, else this host alone.

    Raises:
        ConfigError: this host is none of the job's hosts.
    """
    described = places.config("resourceconfig", "SM_RESOURCE_CONFIG")
    hosts = described.get("hosts") or ["algo-1"]
    if places.variables.get("SM_HOSTS"):
        hosts = json.loads(places.variables["SM_HOSTS"])
    hosts = sorted(hosts)
    current = places.variables.get("SM_CURRENT_HOST") or described.get("current_host") or hosts[0]
    if current not in hosts:
        raise ConfigError(f"resourceconfig.json: current_host {current!r} is none of the hosts {', '.join(hosts)}")
    interface = places.variables.get("SM_NETWORK_INTERFACE_NAME") or described.get("network_interface_name", "")
    gpus = places.variables.get("SM_NUM_GPUS")
    return Cluster(tuple(hosts), current, interface, int(gpus) if gpus else count_gpus())


def command(cluster: Cluster, places: Places, job: str) -> list[str]:
    """What trains on this host: one process, or torchrun with one a GPU on each host."""
    if len(cluster.hosts) == 1 and cluster.processes == 1:
        return [sys.executable, "-m", WORKER, job]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "0"]
    torchrun += ["--nproc-per-node", str(cluster.processes), "--shutdown-timeout", str(SHUTDOWN_S)]
    if len(cluster.hosts) == 1:
        torchrun += ["--standalone"]
    else:
        torchrun += ["--nnodes", str(len(cluster.hosts)), "--node-rank", str(cluster.rank)]
        torchrun += ["--master-addr", master_address(cluster, places)]
        torchrun += ["--master-port", places.variables.get("MASTER_PORT") or MASTER_PORT]
    return [*torchrun, "--module", WORKER, job]


def master_address(cluster: Cluster, places: Places) -> str:
    """`MASTER_ADDR`, or the first host, whose name may be the platform's own."""
    return places.variables.get("MASTER_ADDR") or cluster.hosts[0]


def network(cluster: Cluster) -> dict[str, str]:
    """Variables that make gloo and NCCL take the hosts' own interface, not the container's link-local one."""
    if not cluster.interface or len(cluster.hosts) == 1:
        return {}
    return {"NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface}


def wait_for(
    address: str,
    *,
    resolve: Callable[[str], object] = socket.gethostbyname,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    limit_s: float = WAIT_S,
) -> None:
    """Wait until a host's name resolves: hosts of one job appear in the name service one after the other.

    Raises:
        ConfigError: it does not within `limit_s`.
    """
    deadline, pause = clock() + limit_s, 0.5
    while True:
        try:
            resolve(address)
            return
        except OSError as exc:
            if clock() + pause > deadline:
                raise ConfigError(
                    f"host {address} is not in the name service after {limit_s:g} s: {exc}; do the job's security "
                    "groups let its hosts reach each other?"
                ) from exc
        sleep(pause)
        pause = min(10.0, 2 * pause)
