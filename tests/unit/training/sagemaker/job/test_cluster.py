"""The hosts and GPUs of a job, and the command that they give."""

import json
from pathlib import Path

import pytest

from training.errors import ConfigError
from training.sagemaker.job.cluster import Cluster, count_gpus, network_variables, read_cluster, training_command
from training.sagemaker.job.settings import JobPaths


def places(root: Path, described: object, **variables: str) -> JobPaths:
    config = root / "input" / "config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps(described), encoding="utf-8")
    return JobPaths(root, variables)


def test_rank_is_the_place_among_the_sorted_hosts(tmp_path: Path) -> None:
    hosts = ["algo-2", "algo-10", "algo-1"]
    described = {"current_host": "algo-2", "hosts": hosts, "network_interface_name": "eth1"}
    found = places(tmp_path, described)
    cluster = read_cluster(found, lambda: 4)
    assert (cluster.rank, cluster.hosts[0], cluster.processes) == (2, "algo-1", 4)
    assert network_variables(cluster) == {"NCCL_SOCKET_IFNAME": "eth1", "GLOO_SOCKET_IFNAME": "eth1"}
    shown = " ".join(training_command(cluster, found, "job.json"))
    assert "--nproc-per-node 4" in shown and "--nnodes 3 --node-rank 2 --master-addr algo-1" in shown


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    found = places(
        tmp_path, {"current_host": "x", "hosts": ["x"]}, SM_HOSTS='["b", "a"]', SM_CURRENT_HOST="b", SM_NUM_GPUS="2"
    )
    assert read_cluster(found, lambda: 0) == Cluster(("a", "b"), "b", "", 2)


def test_one_process_needs_no_torchrun_and_several_gpus_no_master(tmp_path: Path) -> None:
    alone = JobPaths(tmp_path, {})
    assert "torch.distributed.run" not in training_command(read_cluster(alone, lambda: 0), alone, "j")
    many = training_command(read_cluster(alone, lambda: 8), alone, "j")
    assert "--standalone" in many and "--master-addr" not in many


def test_a_host_that_is_none_of_the_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'algo-3' is none of the hosts algo-1"):
        read_cluster(places(tmp_path, {"current_host": "algo-3", "hosts": ["algo-1"]}), lambda: 0)


def test_gpus_that_torch_cannot_use_are_refused(tmp_path: Path) -> None:
    assert count_gpus(tmp_path, "2.13.0+cpu") == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_gpus(tmp_path, "2.13.0+cu130") == 2
    with pytest.raises(ConfigError, match="has GPUs, and torch 2"):
        count_gpus(tmp_path, "2.13.0+cpu")
