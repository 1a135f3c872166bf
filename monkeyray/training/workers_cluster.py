"""How the workers of one training find each other, as TensorFlow wants to be told.

Ray Train's own configuration for TensorFlow does the same, and with it the driver and Ray's
controller, which compute nothing, import all of TensorFlow: that costs each training ten seconds of
waiting and some hundred MiB, so this one imports nothing.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig


class WorkersCluster(BackendConfig):  # type: ignore[misc]
    """For DataParallelTrainer: every worker gets TF_CONFIG before it begins.

    See https://www.tensorflow.org/guide/distributed_training for the variable.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train makes one of in its controller."""
        return _TellWorkers


class _TellWorkers(Backend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Ask all workers for an address, and tell each all of them and its own place there."""
        addresses = worker_group.execute(_free_address)
        told = [
            worker_group.execute_single_async(index, _tell, addresses, index)
            for index in range(len(addresses))
        ]
        ray.get(told)


def _free_address() -> str:
    """A port of this node that nobody listens on, with the node's address."""
    node = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in node else socket.AF_INET
    with socket.socket(family) as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return f"[{node}]:{port}" if family == socket.AF_INET6 else f"{node}:{port}"


def _tell(addresses: list[str], index: int) -> None:
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    os.environ["TF_CONFIG"] = json.dumps(cluster)
