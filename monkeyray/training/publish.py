"""Publishes a training's bundle: its model.json, report and files."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

import monkeyray
from monkeyray.model.bundle import Bundle, describe, save_bundle
from monkeyray.model.known_images import remember
from monkeyray.pages.report import render_report
from monkeyray.runs.lease import Lease
from monkeyray.storage.location import Location
from monkeyray.training.dataset import Dataset
from monkeyray.training.findings import display_names, find, to_json, with_pictures
from monkeyray.training.fitting.distributed import TRAINING
from monkeyray.training.fitting.network import TrainedNetwork
from monkeyray.training.job import Job
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained

#: Options that the bundle does not record: places, and what does not change the model.
_NOT_RECORDED = {
    "images", "model", "test", "corrections", "detections", "label_names", "features", "weights",
    "store", "tensorboard", "mlflow", "mlflow_experiment",
}  # fmt: skip


def publish(
    job: Job, lease: Lease, data: Dataset, trained: TrainedNetwork, names: dict[str, str]
) -> Trained:
    """Write the bundle in place of any older one, and end the tracked run.

    `names`: what people call the labels. Raises LeaseError if another training took the place.
    """
    network, found = trained.network, trained.assessment
    outliers = found.outliers.to_arrays()
    model = describe(
        network,
        labels=[
            {"index": i, "label": label, "name": names.get(label)}
            for i, label in enumerate(data.labels)
        ],
        outliers=outliers,
        calibration=found.calibration,
        rest={
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_source": _source_name(
                job.config.backbone if job.config.is_onnx else job.config.weights
            ),
            "training": recorded(job.config),
            "data": data.data,
            "metrics": trained.figures | found.metrics,
            "packages": _packages(),
        },
    )
    test = None if job.config.test is None else Location.parse(job.config.test)
    clashing = [image["uri"] for row in data.contradictions for image in row["images"]]
    uris = list(dict.fromkeys([*data.uris.tolist(), *clashing]))
    shown = display_names(uris, Location.parse(job.config.images), test)
    findings = find(data, found, dict(zip(uris, shown, strict=True)))
    versions = dict(zip(data.uris.tolist(), data.images["version"].to_pylist(), strict=True))
    places = {name: (uri, versions.get(uri)) for name, uri in zip(shown, uris, strict=True)}
    pictures = with_pictures(findings, places, job.storage)
    page, figures = render_report(model, pictures), to_json(model, findings)
    assert network.head_weights is not None
    bundle = Bundle(model, network.backbone_weights, network.head_weights, outliers, network.int8)
    contents = data.table["sha256"].filter(pa.array(~data.test)).to_pylist()
    locations = [] if data.locations is None else data.locations[~data.test].tolist()
    known = remember(
        contents,
        data.thumbnails,
        (location for location in locations if location is not None),
        np.flatnonzero(~data.test),
    )
    lease.check()
    save_bundle(job.place, job.storage, bundle, page, figures, known)
    # Those of trainings with other options too: under the lease no other is at work here.
    job.storage.delete_tree(job.place / TRAINING)
    job.tracking.finish(model, {"report.html": page, "metrics.json": figures})
    return Trained(
        str(job.place), model, data.data["opened"], job.seconds, findings["contradictions"]
    )


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The options that made the model."""
    kept = {key: value for key, value in asdict(config).items() if key not in _NOT_RECORDED}
    return kept | {"backbone": _source_name(config.backbone)}


def _source_name(weights: str) -> str:
    # The file's name may help others; a path on this machine does not.
    return weights.rsplit("/", 1)[-1]


def _packages() -> dict[str, str]:
    found = {"monkeyray": monkeyray.__version__, "python": platform.python_version()}
    for name in ("keras", "numpy", "pillow", "pyarrow", "ray", "openvino", "tensorflow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
