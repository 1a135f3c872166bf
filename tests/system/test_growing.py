"""A cluster that grows and shrinks during a job: nodes that join are used, and spot nodes that are
drained before they go use up no restarts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Each node has one CPU, so room for one worker; rows have the id of its process. Each worker writes
# one file and holds its next one back until the last change has been made.
JOB = """
import json, sys, time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import ray
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from monkeyray.console import Reporter
from monkeyray.images.decode import Limits
from monkeyray.runs.lease import hold
from monkeyray.runs.workers import pools
from monkeyray.runs.workers.worker import Job
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support import shard_jobs
from tests.support.shard_jobs import plan_of, prepare, work

ray.cloudpickle.register_pickle_by_value(shard_jobs)
folder, drains = Path(sys.argv[2]), int(sys.argv[3])
pools._MAX_RESTARTS = 1
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1)]
ray.init(address=cluster.address, log_to_driver=False)
images, out = folder / "images", folder / "out"
images.mkdir()
plan = plan_of(images, {f"{i:04d}.jpg": f"until {folder}/changed".encode() for i in range(320)})

def rows_by_worker():
    tables = [table for _, table in run.read_files(["worker"])]
    return Counter(row for table in tables for row in table["worker"].to_pylist())

def change(made):
    known = set()

    def await_another():
        while not (found := set(rows_by_worker()) - known):
            assert not made.done(), made.result()
            time.sleep(0.1)
        known.update(found)

    await_another()
    nodes.append(cluster.add_node(num_cpus=1))
    for drain in range(drains):
        await_another()
        # The worker of the first node moves from node to node, more often than it may restart.
        node = nodes.pop(min(drain, 1))
        accepted, why = ray._raylet.GcsClient(cluster.address).drain_node(
            node.node_id, DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), "spot",
            int(time.time() * 1000) + 1000,
        )
        assert accepted, why
        time.sleep(1)
        cluster.remove_node(node, allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1))
    await_another()
    (folder / "changed").touch()

with hold(Location.of(str(out)), Storage(), print) as lease:
    run = prepare(lease, plan, 8)
    pool, say = pools.RayPool(), Reporter(True).say
    job = Job("scoring", run, work(Limits(decode_seconds=600)))
    counted = pool.count("workers", None, False)
    with ThreadPoolExecutor(1) as other:
        made = other.submit(pool.run, job, list(run.pending()), counted, say, print)
        change(made)  # Ray starts nodes in the main thread only
        made.result()
    totals = run.finish(lease)
    result = [counted.workers, totals["status"], list(rows_by_worker().values())]
    (folder / "result.json").write_text(json.dumps(result))
ray.shutdown()
cluster.shutdown()
"""


def test_nodes_that_join_are_used_and_drained_ones_cost_no_restart(tmp_path: Path) -> None:
    here = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", JOB, here, str(tmp_path), "2"],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    counted, statuses, by_worker = json.loads((tmp_path / "result.json").read_text())
    # There was room for one at first; each of four nodes worked.
    assert counted == 1
    assert statuses == {"ok": 320}
    assert len(by_worker) >= 4
    assert min(by_worker) >= 8
