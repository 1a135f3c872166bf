"""Shared by all steps of one training: options, places, workers and timings."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.console import Reporter, counted
from monkeyray.errors import InputError
from monkeyray.model.engines.choice import EngineChoice, choose_engine
from monkeyray.model.network import Network
from monkeyray.runs.cluster import connected, is_asked_for
from monkeyray.runs.workers.pools import MachinePool, Pool, RayPool
from monkeyray.runs.workers.worker_count import WorkerCount, choose_workers
from monkeyray.scoring.features import FeatureCache, Features, unusable
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.distributed import (
    TRAINING,
    MachineTrainer,
    Outcome,
    RayTrainer,
    Task,
    Trainer,
    run_training,
)
from monkeyray.training.options import TrainConfig
from monkeyray.training.tracking.driver import Tracking


@dataclass(frozen=True)
class Job:
    """`place`: the model's; `trainer`: where heads and backbones are trained; `embedders`: those of
    the pool that run the frozen backbone; `seconds`: time taken by stage; `folder`: a local one for
    features, deleted at the end."""

    config: TrainConfig
    storage: Storage
    reporter: Reporter
    tracking: Tracking
    place: Location
    trainer: Trainer
    pool: Pool
    embedders: WorkerCount
    seconds: dict[str, float]
    folder: Path

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        start = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - start

    def cached_features(self, network: Network, images: pa.Table) -> Features:
        """The features of images, from the cache that --features names if they are there."""
        given = self.config.features
        place = self.place / "features" if given is None else Location.parse(given)
        return self._embed(network, images, place)

    def features(
        self, network: Network, images: pa.Table, engine: EngineChoice | None = None
    ) -> Array:
        """The features of usable images by a network of this training, float32 (n, views, width),
        kept until it ends. Raises InputError for images that can no longer be read."""
        features = self._embed(network, images, self.place / TRAINING / "features", engine)
        if bad := unusable(features):
            raise InputError(
                f"{counted(bad.total(), 'image')} can no longer be read ({', '.join(bad)}): "
                "rerun the command"
            )
        return features.vectors

    def _embed(
        self,
        network: Network,
        images: pa.Table,
        place: Location,
        engine: EngineChoice | None = None,
    ) -> Features:
        workers = self.embedders if engine is None else WorkerCount(self.embedders.processes)
        engine = engine or choose_engine(
            self.config.engine, "float32", workers.gpu > 0, network.onnx is not None
        )
        padding = self.config.box_padding if self.config.has_boxes else None
        cache = FeatureCache(place, self.storage, network, engine, padding)
        return cache.get(images, self.pool, workers, self.reporter, self.folder)

    def run(self, task: Task, identity: dict[str, Any]) -> Outcome:
        """Train, or continue from the checkpoint of the same identity."""
        return run_training(task, identity, self.place, self.storage, self.trainer, self.reporter)


@contextlib.contextmanager
def start_process(config: TrainConfig) -> Iterator[MachineTrainer | None]:
    """Training on this machine, whose first process starts now, while images are listed and read;
    None for Ray: if a cluster is asked for, several workers, or GPUs."""
    if config.gpu or config.workers > 1 or is_asked_for(config.store.ray_address):
        yield None
        return
    # What takes longest to import for the head.
    needed = ["ray.train", "monkeyray.training.fitting.head"]
    if config.head != "linear":
        needed.append("monkeyray.model.backbones:import_keras")
    with contextlib.closing(MachineTrainer(config.store.debug, needed)) as trainer:
        yield trainer


@contextlib.contextmanager
def open_job(
    config: TrainConfig,
    storage: Storage,
    reporter: Reporter,
    tracking: Tracking,
    machine: MachineTrainer | None,
) -> Iterator[Job]:
    """A job on this machine, or on Ray, disconnected at the end."""
    start = time.monotonic()
    trainer: Trainer
    pool: Pool
    with contextlib.ExitStack() as ending:
        if machine is not None:
            trainer, pool = machine, MachinePool(config.store.debug)
        else:
            store = config.store
            ending.enter_context(connected(store.ray_address, store.debug, reporter.say))
            workers = choose_workers("workers", config.workers, config.gpu)
            trainer, pool = RayTrainer(workers, config.gpu, reporter.say), RayPool()
        seconds = {"start": time.monotonic() - start}
        embedders = pool.count("embed-workers", config.embed_workers, config.gpu)
        place = Location.parse(config.model)
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(dir=_disk(place))))
        yield Job(
            config, storage, reporter, tracking, place, trainer, pool, embedders, seconds, folder
        )


def _disk(place: Location) -> Path | None:
    """Where arrays go: below a local model's place, else into the temporary folder."""
    if not place.is_local:
        return None
    # What a killed training leaves there goes with the next bundle.
    with local_errors(str(place), writing=True):
        folder = Path(place.path) / TRAINING
        folder.mkdir(parents=True, exist_ok=True)
    return folder
