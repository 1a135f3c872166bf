"""The evaluation job: a model on labelled images that it has not seen, or finished predictions
against a table of labels. The metrics go to metrics.json.

Images whose label the model does not know are left out of the metrics, since no prediction could be
right; they are counted, and so are those of them that the thresholds accept. The model's own
training images are counted and named, and metrics are given with and without them.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Flags
from monkeyray.console import Reporter, Result, counted
from monkeyray.errors import InputError
from monkeyray.images.listing import say_notes
from monkeyray.labels.contradictions import describe_contradictions
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.policies import say_labels
from monkeyray.model.bundle import Bundle, load_bundle, load_known_images
from monkeyray.model.engines.choice import choose_engine
from monkeyray.model.known_images import describe_known_images
from monkeyray.options_file import write_options
from monkeyray.runs.cluster import check_places
from monkeyray.runs.indexing import indexed_on_cluster
from monkeyray.runs.lease import hold
from monkeyray.runs.reader import root_of
from monkeyray.runs.workers.pools import open_pool
from monkeyray.scoring.allowed import open_allowed
from monkeyray.scoring.evaluation.labelled import (
    SOME,
    Sample,
    from_features,
    from_predictions,
    some,
)
from monkeyray.scoring.evaluation.measure import (
    likely_label_errors,
    measure,
    measure_new,
    measure_unknown,
)
from monkeyray.scoring.features import FeatureCache, Features
from monkeyray.scoring.options import EvaluateConfig
from monkeyray.statistics.cameras import describe_side
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

METRICS = "metrics.json"


@dataclass(frozen=True, repr=False)
class Evaluation(Result):
    """The result of an evaluation. `content`: that of metrics.json."""

    uri: str
    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `metrics`, the file with all metrics; `model_id`; images `labelled`
        and `scored`; those left out for an `unknown_label`; those `seen` in training, null if not
        known; `accuracy` with its `accuracy_interval`, and that at `unseen` and `seen` `cameras`
        (null if not known); `macro_f1` and `ece`; `coverage` and
        `precision` of the thresholds, null without any; the number of likely `label_errors`, and of
        `contradictions`, pictures under several labels."""
        metrics, unknown = self.content["metrics"], self.content["unknown_labels"]
        thresholds, cameras = metrics["thresholds"] or {}, metrics["cameras"]
        return {
            "metrics": f"{self.uri}/{METRICS}",
            "model_id": self.content["model_id"],
            "labelled": self.content["data"]["labelled"],
            "scored": self.content["data"]["scored"],
            "unknown_label": unknown["images"] if unknown else 0,
            "seen": self.content["seen"]["images"],
            "accuracy": metrics["accuracy"],
            "accuracy_interval": metrics["accuracy_interval"],
            "cameras": cameras and {side: cameras[side]["accuracy"] for side in ("unseen", "seen")},
            "macro_f1": metrics["macro_f1"],
            "ece": metrics["calibration"]["ece"],
            "coverage": thresholds.get("coverage"),
            "precision": thresholds.get("precision"),
            "label_errors": len(self.content["findings"]["label_errors"]),
            "contradictions": len(self.content["findings"]["contradictions"]),
        }

    def __str__(self) -> str:
        metrics = self.content["metrics"]
        lines = [
            *describe_contradictions(
                self.content["findings"]["contradictions"], self.content["data"]["failures"]
            ),
            *_data_lines(self.content["data"], self.content["unknown_labels"]),
            *_metric_lines(metrics),
            *_allowed_lines(self.content["data"].get("without_allowed")),
            *_camera_lines(metrics["cameras"]),
            *_seen_lines(self.content["seen"], self.content["metrics_without_seen"]),
        ]
        suspects = self.content["findings"]["label_errors"]
        if suspects:
            lines.append(f"labels that may be wrong, least plausible first: {len(suspects)}")
        for each in suspects[:SOME]:
            also = f" ({each['images']} images of a sequence)" if each["images"] > 1 else ""
            lines.append(
                f"  {each['uri']}: labelled {each['given']}, probably {each['suggested']}{also}"
            )
        return "\n".join([*lines, f"all metrics in {self.uri}/{METRICS}"])


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Measure a model and write the metrics to metrics.json in the output.

    Raises a MonkeyRayError that says what to change.
    """
    reporter = config.store.reporter()
    storage = config.store.storage()
    output = Location.parse(config.output)
    check_places(
        config, storage, "images", "model", "predictions", "labels", "features", "output", "allowed"
    )
    bundle = None if config.model is None else load_bundle(config.model, storage)
    if bundle is not None and config.images is not None and (note := bundle.unlike(None)):
        reporter.say(f"{note}, or evaluate predictions that were scored so")
    for place in (config.output, *filter(None, [config.features])):
        storage.check_conditions(Location.parse(place))
    with hold(output, storage, reporter.say) as lease:
        if config.images is not None:
            assert bundle is not None
            cluster = indexed_on_cluster(
                config.store, storage, reporter.say, config.workers, config.gpu
            )
            with cluster as indexed:
                sample = _from_images(config, indexed, reporter, bundle)
        else:
            assert config.predictions is not None
            assert config.labels is not None
            known = None
            if bundle is not None and config.model is not None:
                known = load_known_images(config.model, storage, bundle)
            notes: Counter[str] = Counter()
            sample = from_predictions(
                storage, bundle, config.predictions, config.labels, known,
                config.drop_contradictions, notes, config,
            )  # fmt: skip
            say_notes(notes, reporter.say)
            say_labels(notes, reporter.say)
            sample.data["skipped_files"] = {why: number for why, number in notes.items() if number}
        content = _content(config, sample)
        lease.check()
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        storage.write(output / METRICS, text.encode())
        write_options(output, config, storage)
    return Evaluation(str(output), content)


def _content(config: EvaluateConfig, sample: Sample) -> dict[str, Any]:
    predictions = sample.predictions
    if not len(predictions.given):
        raise InputError(
            f"none of the {sample.data['labelled']} labelled images could be scored: "
            f"{sample.data['failures']}"
        )
    is_known = predictions.known()
    if not is_known.any():
        raise InputError(
            f"the model knows none of the labels of the {len(predictions.given)} scored images: "
            f"its labels are {some(predictions.labels)}, those of the images "
            f"{some(sorted(set(predictions.given)))}; use the same names"
        )
    known = predictions.only(is_known)
    suspects = likely_label_errors(known)
    seen = describe_known_images(known.seen, known.uris.tolist(), sample.compared)
    clashing = [image for row in sample.contradictions for image in row["images"]]
    for each in (*suspects, *seen["uris"], *clashing):
        each["uri"] = each["uri"].removeprefix(Location.of(sample.root).prefix)
    return {
        "model_id": sample.model_id,
        "evaluated": {
            name: str(Location.parse(getattr(config, name)))
            for name in ("images", "predictions", "labels")
            if getattr(config, name) is not None
        },
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "views": list(sample.views),
        "data": sample.data,
        "unknown_labels": measure_unknown(predictions.only(~is_known)),
        "seen": seen,
        "metrics": measure(known, sample.target),
        "metrics_without_seen": measure_new(known, sample.target),
        "findings": {"contradictions": list(sample.contradictions), "label_errors": suspects},
    }


def _from_images(
    config: EvaluateConfig, storage: Storage, reporter: Reporter, bundle: Bundle
) -> Sample:
    assert config.images is not None
    assert config.model is not None
    views = bundle.choose_views(config.views)
    skipped: Counter[str] = Counter()
    images = list_labelled(config.images, storage, skipped, config)
    say_notes(skipped, reporter.say)
    say_labels(skipped, reporter.say)
    features = _embed(config, storage, reporter, bundle, images)
    known = load_known_images(config.model, storage, bundle)
    allowed = open_allowed(config, storage, bundle, root_of(config.images), reporter.say)
    build = functools.partial(
        from_features, bundle, views, images, features, known, str(Location.parse(config.images)),
        config.drop_contradictions,
    )  # fmt: skip
    if allowed is None:
        sample = build()
    else:
        filled = [name for name in images.column_names if images[name].null_count < len(images)]
        if warning := allowed.check(images.select(filled)):
            reporter.say(warning)
        mask = allowed.mask(images)
        sample = build(mask)
        sample.data["without_allowed"] = _without_allowed(sample, build(), mask, images)
    sample.data["skipped_files"] = {why: number for why, number in skipped.items() if number}
    return sample


def _without_allowed(
    sample: Sample, plain: Sample, mask: Flags, images: pa.Table
) -> dict[str, Any]:
    """What --allowed changes: the `metrics` without it; images whose label it changes; and those
    whose given label it excludes, which are errors of the table."""
    ours, theirs = (each.predictions.probabilities.argmax(axis=1) for each in (sample, plain))
    names = sample.predictions.labels
    given = pc.index_in(images["label"], pa.array(names)).to_pylist()
    excluded = sum(i is not None and not row[i] for i, row in zip(given, mask, strict=True))
    known = plain.predictions.only(plain.predictions.known())
    return {
        "changed": int((ours != theirs).sum()),
        "excluded": excluded,
        "metrics": measure(known, plain.target),
    }


def _embed(
    config: EvaluateConfig, storage: Storage, reporter: Reporter, bundle: Bundle, images: pa.Table
) -> Features:
    assert config.images is not None
    place = Location.parse(config.features or Location.parse(config.output) / "features")
    # With all of the bundle's views, so that a call with another --views opens no image.
    network = replace(bundle.network(bundle.views), head_weights=None)
    engine = choose_engine(config.engine, "float32", config.gpu, bundle.onnx is not None)
    with open_pool(config.store, config.gpu, reporter.say) as pool:
        workers = pool.count("workers", config.workers, config.gpu)
        cache = FeatureCache(place, storage, network, engine)
        # Its files are open, and gone when nobody uses them any more.
        with tempfile.TemporaryDirectory(prefix="monkeyray-") as folder:
            return cache.get(images, pool, workers, reporter, Path(folder))


# -- The summary ---------------------------------------------------------------------------------


def _data_lines(data: dict[str, Any], unknown: dict[str, Any] | None) -> list[str]:
    lines = [f"{counted(data['labelled'], 'labelled image')}, {data['scored']} scored"]
    lines += [f"  {count:>9} {status}" for status, count in data["failures"].items()]
    if "opened" in data:
        rest = data["labelled"] - data["opened"]
        cached = f", features of {rest} from the cache" if rest else ""
        lines.append(f"{counted(data['opened'], 'image')} opened{cached}")
    for key, words in (
        ("rows_without_label", "predictions without a label in the table"),
        ("labels_without_row", "labels in the table without a prediction"),
    ):
        if data.get(key):
            lines.append(f"{words}: {data[key]}")
    if unknown is not None:
        names = [f"{label} ({count})" for label, count in unknown["labels"].items()]
        lines.append(
            f"{counted(unknown['images'], 'image')} left out, with labels that the model does not "
            f"know: {some(names)}"
        )
        accepted = ""
        if unknown["accepted"] is not None:
            accepted = f"; accepted nevertheless: {unknown['accepted']}"
        lines.append(f"  {_percent(unknown['above_1'])} have an outlier score above 1{accepted}")
    return lines


def _metric_lines(metrics: dict[str, Any]) -> list[str]:
    loss = "" if metrics["loss"] is None else f", loss {metrics['loss']:.4f}"
    macro = [_ratio(metrics[f"macro_{name}"]) for name in ("precision", "recall", "f1")]
    rows = metrics["per_label"]
    labels = [row["label"] for row in rows]
    width = max(len("label"), *map(len, labels))
    lines = [
        f"accuracy {metrics['accuracy']:.4f} {_interval(metrics['accuracy_interval'])} on "
        f"{counted(metrics['images'], 'image')}{loss}",
        "macro precision {}, recall {}, F1 {}".format(*macro),
        f"{'label':<{width}} {'images':>7} {'precision':>9} {'recall':>7} {'F1':>7}",
    ]
    for row in rows:
        precision, recall, f1 = (_ratio(row[name]) for name in ("precision", "recall", "f1"))
        lines.append(
            f"{row['label']:<{width}} {row['images']:>7} {precision:>9} {recall:>7} {f1:>7}"
        )
    confused = sorted(
        (-count, labels[true], labels[predicted])
        for true, row in enumerate(metrics["confusion"])
        for predicted, count in enumerate(row)
        if count and true != predicted
    )
    if confused:
        lines.append("most frequent errors:")
    lines += [
        f"  {-count:>6} {true} predicted as {other}" for count, true, other in confused[:SOME]
    ]
    calibration, thresholds = metrics["calibration"], metrics["thresholds"]
    lines.append(
        f"calibration error (ECE) {calibration['ece']:.4f} {_interval(calibration['ece_interval'])}"
    )
    if thresholds is not None:
        target = "" if thresholds["target"] is None else f" for {thresholds['target']:g}"
        lines.append(
            f"the thresholds{target} accept {_percent(thresholds['coverage'])}, of which "
            f"{_percent(thresholds['precision'])} are right "
            f"{_interval(thresholds['precision_interval'])}"
        )
    above = _percent(metrics["outliers"]["above_1"])
    return [*lines, f"outlier score above 1: {above}; 5% is normal for images like the training's"]


def _allowed_lines(without: dict[str, Any] | None) -> list[str]:
    if without is None:
        return []
    metrics, thresholds = without["metrics"], without["metrics"]["thresholds"]
    lines = [
        f"--allowed changes the label of {counted(without['changed'], 'image')}; without it, "
        f"accuracy {metrics['accuracy']:.4f} {_interval(metrics['accuracy_interval'])}"
    ]
    if thresholds is not None:
        lines.append(
            f"  and the thresholds accept {_percent(thresholds['coverage'])}, of which "
            f"{_percent(thresholds['precision'])} are right"
        )
    if without["excluded"]:
        images = counted(without["excluded"], "image")
        lines.append(f"WARNING: --allowed excludes the given label of {images}")
    return lines


def _camera_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = [describe_side(side, found[side]) for side in ("unseen", "seen")]
    rows = found["by_location"]
    width = max(len("camera"), *(len(row["location"]) for row in rows[:SOME]), 0)
    lines.append(f"{'camera':<{width}} {'':>6} {'images':>7} {'accuracy':>9}, most errors first")
    for row in rows[:SOME]:
        side = "unseen" if row["unseen"]["images"] else "seen"
        its = row[side]
        lines.append(
            f"{row['location']:<{width}} {side:>6} {its['images']:>7} {its['accuracy']:>9.4f}"
        )
    if len(rows) > SOME:
        lines.append(f"and {len(rows) - SOME} more in {METRICS}")
    return lines


def _seen_lines(seen: dict[str, Any], rest: dict[str, Any] | None) -> list[str]:
    if seen["images"] is None:
        return ["whether the model was trained on any of the images is unknown"]
    how = ""
    if not seen["compared"]:
        how = " (compared as files, not as pictures)"
    elif seen["compared"] < 1:
        how = f" (pictures compared with {_percent(seen['compared'])} of its training images)"
    if not seen["images"]:
        return [f"the model was trained on none of the images{how}"]
    names = some([each["uri"] for each in seen["uris"]])
    lines = [
        f"WARNING: the model was trained on {seen['images']} of these images, or on the same "
        f"pictures{how}: {names}"
    ]
    if rest is None:
        return [*lines, "  there are no others, so the metrics say nothing about new images"]
    accuracy = f"accuracy {rest['accuracy']:.4f} {_interval(rest['accuracy_interval'])}"
    return [*lines, f"  without them: {accuracy} on {counted(rest['images'], 'image')}"]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(share: float | None) -> str:
    """With one decimal, and 100.0 only for all."""
    if share is None:
        return "none"
    return f"{100 * share if share >= 1 else min(100 * share, 99.9):.1f}%"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"[{bounds[0]:.4f}, {bounds[1]:.4f}]"
