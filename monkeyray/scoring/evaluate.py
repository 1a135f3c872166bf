"""The evaluation: a bundle on labelled images that it has not seen, or predictions and a table of
labels. Figures go to metrics.json.

Images whose label the model does not know are left out of the figures, as no answer of the model
could be right, and they are counted and named: what the thresholds accept of them all the same
counts against the model in the field. Images that the model was made with are counted and named
too, and the figures are given with and without them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.console import Reporter
from monkeyray.errors import InputError
from monkeyray.images.decode import Limits
from monkeyray.labels.listing import list_labelled
from monkeyray.model.bundle import Bundle, load_bundle, load_known_images
from monkeyray.model.engine import Network
from monkeyray.model.engines import choose_engine
from monkeyray.model.head import head_logits
from monkeyray.model.known_images import KnownImages, describe_known_images
from monkeyray.options import write_options
from monkeyray.runs.cluster import check_relative
from monkeyray.runs.lease import hold
from monkeyray.runs.pools import open_pool
from monkeyray.scoring.evaluation_summary import some, summarise
from monkeyray.scoring.features import FeatureCache, Features
from monkeyray.scoring.labelled_predictions import join_labels
from monkeyray.scoring.measure import (
    Found,
    LabelledPredictions,
    count_statuses,
    describe_unknown,
    find_label_errors,
    measure,
    measure_new,
)
from monkeyray.scoring.options import EvaluateConfig
from monkeyray.scoring.rows import SCORED
from monkeyray.statistics.fingerprints import thumbnails
from monkeyray.statistics.metrics import softmax
from monkeyray.statistics.outliers import OutlierModel
from monkeyray.statistics.thresholds import decide
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage

METRICS = "metrics.json"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found. `content`: what metrics.json says."""

    uri: str
    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `metrics`, the file with all figures; `model_id`; images `labelled`
        and `scored`; those left out for an `unknown_label`; those that the model has `seen` in
        training, null where that is not known; `accuracy` with its `accuracy_interval`, `macro_f1`
        and `ece`; `coverage` and `precision` of the thresholds, null without any; how many
        `label_errors` are likely."""
        metrics, unknown = self.content["metrics"], self.content["unknown_labels"]
        thresholds = metrics["thresholds"] or {}
        return {
            "metrics": join(self.uri, METRICS),
            "model_id": self.content["model_id"],
            "labelled": self.content["data"]["labelled"],
            "scored": self.content["data"]["scored"],
            "unknown_label": unknown["images"] if unknown else 0,
            "seen": self.content["seen"]["images"],
            "accuracy": metrics["accuracy"],
            "accuracy_interval": metrics["accuracy_interval"],
            "macro_f1": metrics["macro_f1"],
            "ece": metrics["calibration"]["ece"],
            "coverage": thresholds.get("coverage"),
            "precision": thresholds.get("precision"),
            "label_errors": len(self.content["findings"]["label_errors"]),
        }

    def __str__(self) -> str:
        return "\n".join([*summarise(self.content), f"all figures in {join(self.uri, METRICS)}"])


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Measure a model, and write the figures to metrics.json in the output.

    Raises a MonkeyRayError that says what to change.
    """
    reporter = config.store.reporter()
    storage = config.store.storage()
    uri = normalise(config.output)
    for option in ("images", "model", "predictions", "labels", "features", "output"):
        check_relative(option, getattr(config, option))
        if getattr(config, option) is not None:
            storage.check_reachable(normalise(getattr(config, option)))
    bundle = None if config.model is None else load_bundle(config.model, storage)
    if bundle is not None and config.images is not None and (note := bundle.unlike(None)):
        reporter.say(f"{note}, or evaluate predictions that were scored so")
    for place in (uri, *filter(None, [config.features])):
        storage.check_writable(normalise(place))
    with hold(uri, storage, reporter.say) as lease:
        if config.images is not None:
            assert bundle is not None
            found = _of_images(config, storage, reporter, bundle, config.images)
        else:
            assert config.predictions is not None
            assert config.labels is not None
            seen = _load_seen(config, storage, bundle)
            found = join_labels(storage, bundle, config.predictions, config.labels, seen)
        content = _content(config, found)
        lease.check()
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        storage.write(join(uri, METRICS), text.encode())
        write_options(uri, config, storage)
    return Evaluated(uri, content)


def _content(config: EvaluateConfig, found: Found) -> dict[str, Any]:
    answers = found.answers
    if not len(answers.given):
        raise InputError(
            f"none of the {found.data['labelled']} labelled images could be scored: "
            f"{found.data['failures']}"
        )
    is_known = answers.known()
    if not is_known.any():
        raise InputError(
            f"none of the {len(answers.given)} labelled images that could be scored has a label "
            f"that the model knows ({some(answers.labels)}): theirs are "
            f"{some(sorted(set(answers.given)))}; write them alike"
        )
    known = answers.only(is_known)
    suspects = find_label_errors(known)
    seen = describe_known_images(known.seen, known.uris.tolist(), found.compared)
    start = join(found.root, "")
    for each in (*suspects, *seen["uris"]):
        each["uri"] = each["uri"].removeprefix(start)
    return {
        "model_id": found.model_id,
        "evaluated": {
            name: normalise(getattr(config, name))
            for name in ("images", "predictions", "labels")
            if getattr(config, name) is not None
        },
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "views": list(found.views),
        "data": found.data,
        "unknown_labels": describe_unknown(answers.only(~is_known)),
        "seen": seen,
        "metrics": measure(known, found.target),
        "metrics_without_seen": measure_new(known, found.target),
        "findings": {"label_errors": suspects},
    }


def _of_images(
    config: EvaluateConfig, storage: Storage, reporter: Reporter, bundle: Bundle, place: str
) -> Found:
    views = bundle.choose_views(config.views)
    skipped: Counter[str] = Counter()
    images = list_labelled(place, storage, skipped)
    features = _embed(config, storage, reporter, bundle, images)
    statuses = features.table["status"].to_pylist()
    scored = np.isin(statuses, SCORED)
    calibration = bundle.calibration(views)
    vectors = features.vectors[scored, : len(views)].mean(axis=1)
    # As scoring computes them, so that a score on a threshold is decided alike.
    logits = head_logits(bundle.head_weights, vectors) / calibration.temperature
    probabilities = softmax(logits).astype(np.float32)
    decisions, target = None, None
    if calibration.thresholds is not None:
        best = probabilities.argmax(axis=1)
        decisions = decide(probabilities.max(axis=1), best, calibration.thresholds)
        target = calibration.thresholds.target
    seen, known, compared = _load_seen(config, storage, bundle), None, 0.0
    rows = features.table.filter(pa.array(scored))
    if seen is not None:
        pictures = None
        if seen.is_affordable(rows.num_rows):
            pictures, compared = thumbnails(rows["thumbnail"]), seen.share
        known = seen.find(rows["sha256"].to_pylist(), pictures)
    answers = LabelledPredictions(
        labels=bundle.labels,
        uris=np.array(images["uri"].to_pylist(), dtype=object)[scored],
        given=np.array(images["label"].to_pylist(), dtype=object)[scored],
        probabilities=probabilities,
        listed=len(bundle.labels),
        decisions=decisions,
        outliers=OutlierModel.from_arrays(bundle.outliers).score(vectors, len(views)),
        seen=known,
    )
    data = count_statuses(Counter(statuses)) | {
        "opened": images.num_rows - features.found,
        "skipped_files": {why: number for why, number in skipped.items() if number},
    }
    return Found(answers, target, bundle.model_id, views, normalise(place), data, compared)


def _load_seen(
    config: EvaluateConfig, storage: Storage, bundle: Bundle | None
) -> KnownImages | None:
    if bundle is None:
        return None
    assert config.model is not None
    return load_known_images(config.model, storage, bundle)


def _embed(
    config: EvaluateConfig, storage: Storage, reporter: Reporter, bundle: Bundle, images: pa.Table
) -> Features:
    assert config.images is not None
    place = normalise(config.features or join(normalise(config.output), "features"))
    # With all views, whatever is asked for now: then another number of them opens no image.
    network = Network(bundle.model["backbone"], bundle.backbone_weights, bundle.views)
    engine = choose_engine(config.engine, "float32", config.gpu)
    with open_pool(config.store.ray_address, config.gpu, config.store.debug) as pool:
        crew = pool.crew("workers", config.workers, config.gpu)
        pool.check_shared(storage, {"images": normalise(config.images)}, {"features": place})
        with reporter.bar("embedding images") as bar:
            return FeatureCache(place, storage, network, engine=engine).get(
                images, limits=Limits(), pool=pool, crew=crew, say=reporter.say, progress=bar
            )
