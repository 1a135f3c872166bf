"""The TF_CONFIG by which the workers of a training find each other.

Ray Train's own backend for TensorFlow imports TensorFlow in the driver and in Ray's controller,
which delays each training by ten seconds; this one does not.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


class WorkersCluster(BackendConfig):  # type: ignore[misc]
    """For DataParallelTrainer: sets TF_CONFIG in every worker before it starts.

    See https://www.tensorflow.org/guide/distributed_training for the variable.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that Ray Train instantiates in its controller."""
        return _SetTfConfig


class _SetTfConfig(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Ask all workers for an address, and give each worker all addresses and its index."""
        addresses = worker_group.execute(_free_address)
        tasks = [
            worker_group.execute_single_async(index, _set_tf_config, addresses, index)
            for index in range(len(addresses))
        ]
        ray.get(tasks)


def _free_address() -> str:
    """This node's address with a free port."""
    node = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in node else socket.AF_INET
    with socket.socket(family) as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return f"[{node}]:{port}" if family == socket.AF_INET6 else f"{node}:{port}"


def _set_tf_config(addresses: list[str], index: int) -> None:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
