"""The report: what a reader and a browser find in the page."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.report import _steps, render_report

VOID = {"meta", "br", "link", "img", "input", "hr", "wbr", "base", "embed", "source", "track"}
INLINE = {"wbr", "bdi", "span", "code", "time"}
CONFUSION = [[60, 1, 0], [2, 50, 1], [0, 0, 47]]  # 157 of 161


def _model() -> dict[str, Any]:
    labels = ["n0", "n1", "n2"]
    names = ["mantled_howler", "patas_monkey", None]
    return {
        "format_version": 1,
        "model_id": "3f0c" * 16,
        "created_at": "2026-11-23T23:00:00+00:00",
        "backbone": "mobilenet",
        "weights_source": "imagenet",
        "input_size": 224,
        "feature_width": 1024,
        "preprocessing": {"resize": "squeeze", "version": 1},
        "head": [1024, 512],
        "labels": [
            {"index": i, "label": label, "name": name}
            for i, (label, name) in enumerate(zip(labels, names, strict=True))
        ],
        "training": {"seed": 0, "learning_rate": 0.001, "live": False},
        "data": {
            "images": 1080,
            "used": 1078,
            "unusable": {"unreadable": 2},
            "parts": {"train": 756, "validation": 161, "test": 161},
            "by_label": {label: {"train": 2511, "validation": 53, "test": 54} for label in labels},
            "duplicate_groups": 88,
            "duplicate_images": 112,
            "leaks": 0,
            "fingerprint": "feed" * 16,
        },
        "metrics": {
            "best_epoch": 3,
            "epochs_run": 4,
            "history": [
                {
                    "epoch": epoch,
                    "train_loss": 2.0 / epoch,
                    "train_accuracy": 1 - 0.5 / epoch,
                    "validation_loss": [1.8, 1.2, 0.7, 0.9][epoch - 1],
                    "validation_accuracy": [0.5, 0.7, 0.98, 0.97][epoch - 1],
                }
                for epoch in (1, 2, 3, 4)
            ],
            "validation": {"images": 161, "accuracy": 0.98, "loss": 0.07},
            "test": {
                "images": 161,
                "accuracy": 157 / 161,
                "loss": 0.0812,
                "macro_recall": 0.974,
                "macro_f1": 0.973,
                "confusion": CONFUSION,
                "per_label": [
                    {"label": "n0", "images": 61, "precision": 0.968, "recall": 0.984, "f1": 0.976},
                    {"label": "n1", "images": 53, "precision": 0.98, "recall": 0.943, "f1": 0.962},
                    {"label": "n2", "images": 47, "precision": 0.979, "recall": 1.0, "f1": 0.989},
                ],
                "without_leaks": None,
            },
        },
        "packages": {"monkeyray": "0.1.0", "keras": "3.15.1"},
    }


class Page(HTMLParser):
    """The page's elements with their attributes, its visible text, and its tables' cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html.replace("\N{EN DASH}", "-"))
        self.close()
        assert self._open == [], "elements left open"
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag not in INLINE:
            self.text += " "
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str, css: str | None = None) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (css is None or css in (attributes.get("class") or "").split())
        ]

    def table(self, corner: str) -> list[list[str]]:
        (table,) = [table for table in self.tables if table[0][0].startswith(corner)]
        return [[" ".join(cell.split()) for cell in row] for row in table]

    def points(self, part: str) -> list[list[tuple[float, float]]]:
        """Those of the loss chart and of the accuracy chart."""
        return [
            [
                (float(x), float(y))
                for x, y in (p.split(",") for p in (line["points"] or "").split())
            ]
            for line in self.all("polyline", part)
        ]


def test_headline_and_facts() -> None:
    text = Page(render_report(_model())).text
    assert "97.5% 95% interval 93.8-99.0%" in text
    assert "161 test images, from a split into 756 train, 161 validation and 161 test" in text
    assert "Macro recall 97.4%" in text
    assert "Macro F1 97.3%" in text
    assert "Test loss 0.081" in text
    assert "Commonest label 37.9%" in text  # 61 of 161
    assert "Best epoch 3 of 4 run" in text
    assert "Images used 1,078 of 1,080 given" in text
    assert "3f0c" * 16 in text
    assert "feed" * 16 in text


def test_accuracy_is_not_rounded_up_to_all() -> None:
    model = _model()
    model["metrics"]["test"]["accuracy"] = 0.99999
    assert "Test accuracy 99.9% 95% interval" in Page(render_report(model)).text
    model["metrics"]["test"]["accuracy"] = 1.0
    assert "Test accuracy 100.0% 95% interval" in Page(render_report(model)).text


def test_confusion_matrix_and_mixups() -> None:
    page = Page(render_report(_model()))
    head, *rows = page.table("true")
    assert head[1:] == ["n0", "n1", "n2"]
    assert [row[0] for row in rows] == ["n0 mantled_howler", "n1 patas_monkey", "n2"]
    assert [[int(cell or 0) for cell in row[1:]] for row in rows] == CONFUSION
    assert len(page.all("td", "hit")) == 3
    assert page.table("Shown")[1:] == [
        ["n1 patas_monkey", "n0 mantled_howler", "2 of 53"],
        ["n1 patas_monkey", "n2", "1 of 53"],  # of equal counts, the larger share first
        ["n0 mantled_howler", "n1 patas_monkey", "1 of 61"],
    ]


def test_per_label_table() -> None:
    model = _model()
    model["metrics"]["test"]["per_label"].reverse()  # rows go by their label, not their place
    rows = Page(render_report(model)).table("Label")
    assert rows[0][:5] == ["Label", "Test images", "Precision", "Recall", "F1"]
    assert rows[1] == ["n2", "47", "97.9%", "100.0%", "98.9%", "2,511", "53"]
    assert rows[3] == ["n0 mantled_howler", "61", "96.8%", "98.4%", "97.6%", "2,511", "53"]


def test_data_and_configuration() -> None:
    model = _model()
    model["data"]["skipped_files"] = {"hidden": 7}  # not in every bundle
    page = Page(render_report(model))
    assert "Trained 2026-11-23 23:00:00 UTC" in page.text
    pairs = {row[0].strip(): row[1].strip() for t in page.tables for row in t if len(row) == 2}
    assert pairs["unusable: unreadable"] == "2"
    assert pairs["other files: hidden"] == "7"
    assert pairs["in train"] == "756 (70.1%)"
    assert pairs["groups of duplicates"] == "88"
    assert pairs["copies of another image"] == "112"
    assert pairs["head"] == "1024 → 512 → softmax over 3"
    assert pairs["preprocessing"] == "resize: squeeze, version: 1"
    assert pairs["learning_rate"] == "0.001"
    assert pairs["live"] == "no"
    assert pairs["keras"] == "3.15.1"


def test_curves_follow_the_history() -> None:
    html = render_report(_model())
    page = Page(html)
    loss, accuracy = page.points("validation")
    assert len(loss) == len(accuracy) == 4
    assert [x for x, _ in loss] == sorted(x for x, _ in loss)
    assert max(range(4), key=lambda i: loss[i][1]) == 2  # SVG's y points down: the least loss
    assert min(range(4), key=lambda i: accuracy[i][1]) == 2
    found = re.findall(r'<text class="y" x="42" y="([\d.]+)">([\d.]+%?)</text>', html)
    at = {text: float(y) - 4 for y, text in found}  # a text sits 4 below its line
    train_loss, train_accuracy = page.points("train")
    assert [y for _, y in train_loss[:2]] == [at["2"], at["1"]]
    assert train_accuracy[0][1] == at["50%"] == at["0"]  # both are the axis
    assert page.text.count("best: epoch 3") == 2
    best = [float(a["x1"] or 0) for a in page.all("line") if a["x1"] == a["x2"]]
    assert best.count(loss[2][0]) == 4  # in both charts the tick of epoch 3 and the mark


def test_curves_leave_out_what_is_no_number() -> None:
    model = _model()
    model["metrics"]["history"][1]["train_loss"] = None
    model["metrics"]["history"][2]["train_loss"] = float("nan")
    assert [len(points) for points in Page(render_report(model)).points("train")] == [2, 4]


@given(st.floats(0.001, 1e6), st.floats(0, 0.95))
def test_steps_enclose_the_values(loss: float, accuracy: float) -> None:
    for low, high in ((0.0, loss), (accuracy, 1.0)):
        steps = _steps(low, high)
        assert steps[0] <= low + 1e-9
        assert steps[-1] >= high * (1 - 1e-9)
        assert 3 <= len(steps) <= 7
    assert _steps(accuracy, 1.0)[-1] == 1.0  # no tick above 100%


def test_steps_are_round() -> None:
    assert _steps(0.7, 1.0) == [0.7, 0.8, 0.9, 1.0]  # though 0.7 / 0.1 < 7
    assert _steps(0.0, 2.3) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert _steps(0.5, 3.5, least=1.0) == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_warning_only_with_leaks() -> None:
    model = _model()
    page = Page(render_report(model))
    assert not page.all("aside")
    assert "Warning" not in page.text
    assert "No test image has a duplicate" in page.text

    model["data"]["leaks"] = 41
    model["metrics"]["test"]["without_leaks"] = {"images": 120, "accuracy": 0.95}
    page = Page(render_report(model))
    assert len(page.all("aside", "warning")) == 1
    assert "41 of 161 test images have a duplicate" in page.text
    assert "No test image has a duplicate" not in page.text
    assert page.table("Test images")[1:] == [
        ["with leaks", "161", "97.5%", "93.8-99.0%"],
        ["without leaks", "120", "95.0%", "89.5-97.7%"],
    ]

    model["metrics"]["test"]["without_leaks"] = None
    assert Page(render_report(model)).table("Test images")[2] == ["without leaks", "-", "-", "-"]


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}</style>&amp;"


def test_hostile_text_stays_text() -> None:
    model = _model()
    model["labels"][0] |= {"label": HOSTILE, "name": HOSTILE}
    model["metrics"]["test"]["per_label"][0]["label"] = HOSTILE
    model["data"]["by_label"][HOSTILE] = model["data"]["by_label"].pop("n0")
    model["data"]["unusable"] = {HOSTILE: 1}
    model["training"] = {HOSTILE: HOSTILE}
    model["packages"] = {HOSTILE: [HOSTILE]}
    model["preprocessing"] = {HOSTILE: HOSTILE}
    for key in ("model_id", "created_at", "backbone", "weights_source"):
        model[key] = HOSTILE
    page = Page(render_report(model))
    plain = Page(render_report(_model()))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert not page.all("script")
    assert not page.all("img")
    assert {name for _, a in page.elements for name in a} == {
        name for _, a in plain.elements for name in a
    }
    assert page.table("Label")[1][0] == f"{HOSTILE} {HOSTILE}"
    assert page.table("true")[0][1] == HOSTILE


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render_report(_model())
    for reference in ("http:", "https:", "//", "url(", "@import", "src=", "href="):
        assert reference not in html.lower(), reference
    loading = {"script", "link", "img", "iframe", "object", "embed", "base", "use", "image"}
    assert not {tag for tag, _ in Page(html).elements} & loading
    assert "default-src 'none'" in html


def test_accessible() -> None:
    page = Page(render_report(_model()))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
    assert {a.get("scope") for a in page.all("th")} == {"row", "col"}
    charts = page.all("svg")
    assert len(charts) == 2
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in charts)


def test_one_epoch_is_a_dot() -> None:
    model = _model()
    model["metrics"] |= {"history": model["metrics"]["history"][:1], "best_epoch": 1}
    page = Page(render_report(model))
    dots = page.all("circle", "train") + page.all("circle", "validation")
    assert [a["cx"] for a in dots] == ["260.0"] * 4  # the middle
    assert "best: epoch 1" in page.text


def test_missing_values_are_dashes() -> None:
    model = _model()
    row = model["metrics"]["test"]["per_label"][2]
    row |= {"images": 0, "precision": None, "recall": None, "f1": None}
    model["metrics"]["test"]["confusion"][2] = [0, 0, 0]
    model["metrics"] |= {
        "best_epoch": None,
        "validation": {"images": 0} | dict.fromkeys(("accuracy", "loss")),
    }
    model["data"]["unusable"] = {}
    page = Page(render_report(model))
    assert page.table("Label")[3][:5] == ["n2", "0", "-", "-", "-"]
    assert "Validation accuracy - 0 images, loss -" in page.text
    assert "best: epoch" not in page.text
    assert ["unusable", "0"] in [row for table in page.tables for row in table]


def test_no_error_no_head_other_scripts() -> None:
    model = _model()
    model["metrics"]["test"]["confusion"] = [[61, 0, 0], [0, 53, 0], [0, 0, 47]]
    model["head"] = []
    model["labels"][2]["name"] = "Bärenmakak 猴子"
    page = Page(render_report(model))
    assert "None: every test image got its own label." in page.text
    assert ["head", "softmax over 3"] in [row for table in page.tables for row in table]
    assert page.table("true")[3][0] == "n2 Bärenmakak 猴子"


@pytest.mark.parametrize("count", [2, 60])
def test_number_of_labels(count: int) -> None:
    model = _model()
    model["labels"] = [{"index": i, "label": f"l{i}", "name": None} for i in range(count)]
    test = model["metrics"]["test"]
    test["confusion"] = [[2 * (i == j) for j in range(count)] for i in range(count)]
    test["per_label"] = [
        {"label": f"l{i}", "images": 2, "precision": 1.0, "recall": 1.0, "f1": 1.0}
        for i in range(count)
    ]
    page = Page(render_report(model))
    matrix = page.table("true")
    assert {len(row) for row in matrix} == {count + 1}
    assert [matrix[i + 1][i + 1] for i in range(count)] == ["2"] * count
    assert bool(page.all("section", "big")) == (count == 60)
    # whatever is wide scrolls inside its own container
    scrolling = len(page.all("div", "scroll"))
    assert scrolling == len(page.tables) - len(page.all("table", "pairs"))


def test_a_lacking_figure_is_an_error_not_a_blank() -> None:
    model = _model()
    del model["data"]["fingerprint"]
    with pytest.raises(jinja2.UndefinedError, match="fingerprint"):
        render_report(model)


def test_rendering_is_pure() -> None:
    model = _model()
    before = copy.deepcopy(model)
    first = render_report(model)
    assert model == before
    assert render_report(model) == first
