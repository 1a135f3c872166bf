"""What an evaluation prints: the lines that a person reads first, out of metrics.json's content."""

from __future__ import annotations

from typing import Any

#: Lines of a list; the file has them all.
_MOST = 8


def summarise(content: dict[str, Any]) -> list[str]:
    """The lines for the content of an evaluation's metrics.json."""
    lines = [
        *_lines_of_data(content),
        *_lines_of_metrics(content["metrics"]),
        *_lines_of_seen(content),
    ]
    suspects = content["findings"]["label_errors"]
    if suspects:
        lines.append(f"{len(suspects)} labels may be wrong, the least believed first:")
    for each in suspects[:_MOST]:
        lines.append(f"  {each['uri']}: given {each['given']}, rather {each['suggested']}")
    return lines


def _lines_of_data(content: dict[str, Any]) -> list[str]:
    data, unknown = content["data"], content["unknown_labels"]
    lines = [f"{data['labelled']} labelled images, {data['scored']} of them scored"]
    lines += [f"  {count:>9} {status}" for status, count in data["failures"].items()]
    if "opened" in data:
        rest = data["labelled"] - data["opened"]
        there = f", the features of {rest} were there" if rest else ""
        lines.append(f"{data['opened']} images opened{there}")
    for key, words in (
        ("rows_without_label", "predictions have no label in the table"),
        ("labels_without_row", "labels of the table have no prediction"),
    ):
        if data.get(key):
            lines.append(f"{data[key]} {words}")
    if unknown is not None:
        names = [f"{label} ({count})" for label, count in unknown["labels"].items()]
        lines.append(
            f"{unknown['images']} images are left out, as the model does not know their labels: "
            + some(names)
        )
        accepted = ""
        if unknown["accepted"] is not None:
            accepted = f"; {unknown['accepted']} of them are accepted all the same"
        lines.append(f"  {_percent(unknown['above_1'])} have an outlier score above 1{accepted}")
    return lines


def _lines_of_metrics(metrics: dict[str, Any]) -> list[str]:
    loss = "" if metrics["loss"] is None else f", loss {metrics['loss']:.4f}"
    lines = [
        f"accuracy {metrics['accuracy']:.4f} {_interval(metrics['accuracy_interval'])} on "
        f"{metrics['images']} images{loss}",
        "macro precision {}, recall {}, F1 {}".format(
            *(_figure(metrics[f"macro_{name}"]) for name in ("precision", "recall", "f1"))
        ),
    ]
    rows = metrics["per_label"]
    width = max(len("label"), *(len(row["label"]) for row in rows))
    lines.append(f"{'label':<{width}} {'images':>7} {'precision':>9} {'recall':>7} {'F1':>7}")
    for row in rows:
        precision, recall, f1 = (_figure(row[name]) for name in ("precision", "recall", "f1"))
        lines.append(
            f"{row['label']:<{width}} {row['images']:>7} {precision:>9} {recall:>7} {f1:>7}"
        )
    lines += _lines_of_confusion(metrics["confusion"], [row["label"] for row in rows])
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
    return [*lines, f"outlier score above 1: {above}; of images like the training's it is 5%"]


def _lines_of_seen(content: dict[str, Any]) -> list[str]:
    seen, rest = content["seen"], content["metrics_without_seen"]
    if seen["images"] is None:
        return ["not known: whether the model was trained on any of the images"]
    how = ""
    if not seen["compared"]:
        how = " (only the same bytes were looked for)"
    elif seen["compared"] < 1:
        how = f" (pictures were compared with {_percent(seen['compared'])} of those it has seen)"
    if not seen["images"]:
        return [f"the model was trained on none of the images{how}"]
    names = some([each["uri"] for each in seen["uris"]])
    lines = [
        f"WARNING: the model was trained on {seen['images']} of these images, or on the same "
        f"pictures{how}: {names}"
    ]
    if rest is None:
        return [*lines, "  there are no others, so that these figures say nothing of new images"]
    accuracy = f"accuracy {rest['accuracy']:.4f} {_interval(rest['accuracy_interval'])}"
    return [*lines, f"  without them: {accuracy} on {rest['images']} images"]


def _lines_of_confusion(confusion: list[list[int]], labels: list[str]) -> list[str]:
    mixed = [
        (count, labels[true], labels[predicted])
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    mixed.sort(key=lambda each: (-each[0], *each[1:]))
    lines = [f"  {count:>6} {true} taken for {other}" for count, true, other in mixed[:_MOST]]
    return ["most frequent errors:", *lines] if lines else []


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    rest = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + rest


def _figure(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"


def _percent(share: float | None) -> str:
    """One decimal, and 100.0 only where it is really all of them."""
    if share is None:
        return "none"
    return f"{100 * share if share >= 1 else min(100 * share, 99.9):.1f}%"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"[{bounds[0]:.4f}, {bounds[1]:.4f}]"
