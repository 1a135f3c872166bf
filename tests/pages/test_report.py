"""The report: its text for readers and its HTML for browsers."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import jinja2
import pytest

from monkeyray.pages.report import render_report
from tests.support.report_data import (
    CONFUSION,
    HOSTILE,
    full_findings,
    full_model,
    picture,
    plain_model,
    report,
)

VOID = {"meta", "br", "link", "img", "input", "hr", "wbr", "base", "embed", "source", "track"}
INLINE = {"wbr", "bdi", "span", "code", "time"}


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
    text = Page(report("plain")).text
    assert "97.5% 95% interval 93.8-99.0%" in text
    assert "On 161 test images. The test figures are of the published head." in text
    assert "Out-of-fold accuracy 98.0% 95% interval 96.9-98.7%, 917 images" in text
    assert "Macro recall 97.4%" in text
    assert "Macro F1 97.3%" in text
    assert "Loss 0.081" in text
    assert "Most common label 37.9%" in text  # 61 of 161
    assert "Best epoch 3 of 4 run" in text
    assert "Images used 1,078 of 1,080 given" in text
    assert "3f0c" * 16 in text
    assert "feed" * 16 in text


def test_seen_and_unseen_cameras_are_side_by_side() -> None:
    page = Page(report("full"))
    cameras = full_model()["metrics"]["estimate"]["cameras"]
    head, unseen, seen, test, _ = page.table("Cameras")
    assert head[1:] == ["Locations", "Images", "Accuracy", "95% interval", "Counting images"]
    assert [unseen[0], seen[0], test[0]] == [
        "unseen, out-of-fold", "seen, out-of-fold", "unseen, test"
    ]  # fmt: skip
    assert unseen[1:4] == ["12", "300", f"{100 * cameras['unseen']['accuracy']:.1f}%"]
    low, high = cameras["unseen"]["accuracy_interval"]
    assert unseen[4] == f"{100 * low:.1f}-{100 * high:.1f}%"
    # Four test locations are too few.
    assert test[1:3] == ["4", "81"]
    assert test[4] == "-"
    assert "predicted as at unseen ones too, 87.1% of them correctly" in page.text
    assert "At fewer than three locations: n2 (2). All heads learn" in page.text
    assert "7 training images of unknown locations are not tested" in page.text
    rows = page.table("Most errors first")
    assert len(rows) == 1 + 50
    assert "7 more locations are in metrics.json" in page.text
    model = full_model()
    model["metrics"]["test"] = None
    text = Page(render_report(model)).text
    assert f"95% interval {100 * low:.1f}-{100 * high:.1f}%" in text
    assert "of cameras that the heads have not seen" in text
    assert "The interval counts cameras" in text
    model["metrics"]["estimate"]["cameras"]["unseen"]["accuracy_interval"] = None
    assert "no interval from fewer than five cameras" in Page(render_report(model)).text
    assert "Cameras seen" not in Page(report("plain")).text


def test_accuracy_below_1_is_not_shown_as_100_percent() -> None:
    model = plain_model()
    model["metrics"]["test"]["accuracy"] = 0.99999
    assert "Test accuracy 99.9% 95% interval" in Page(render_report(model)).text
    model["metrics"]["test"]["accuracy"] = 1.0
    assert "Test accuracy 100.0% 95% interval" in Page(render_report(model)).text


def test_confusion_matrix_and_mixups() -> None:
    page = Page(report("plain"))
    head, *rows = page.table("true")
    assert head[1:] == ["n0", "n1", "n2"]
    assert [row[0] for row in rows] == ["n0 mantled_howler", "n1 patas_monkey", "n2"]
    assert [[int(cell or 0) for cell in row[1:]] for row in rows] == CONFUSION
    assert len(page.all("td", "hit")) == 3
    assert page.table("True label")[1:] == [
        ["n1 patas_monkey", "n0 mantled_howler", "2 of 53"],
        ["n1 patas_monkey", "n2", "1 of 53"],  # of equal counts, the larger share first
        ["n0 mantled_howler", "n1 patas_monkey", "1 of 61"],
    ]


def test_per_label_table() -> None:
    model = plain_model()
    model["metrics"]["test"]["per_label"].reverse()  # rows go by their label, not their place
    rows = Page(render_report(model)).table("Label")
    assert rows[0][:5] == ["Label", "Test images", "Precision", "Recall", "F1"]
    assert rows[1] == ["n2", "47", "97.9%", "100.0%", "98.9%", "2,511"]
    assert rows[3] == ["n0 mantled_howler", "61", "96.8%", "98.4%", "97.6%", "2,511"]


def test_data_and_configuration() -> None:
    model = plain_model()
    model["data"]["skipped_files"] = {"hidden": 7}  # not in every bundle
    page = Page(render_report(model))
    assert "Trained 2026-11-23 23:00:00 UTC" in page.text
    pairs = {row[0].strip(): row[1].strip() for t in page.tables for row in t if len(row) == 2}
    assert pairs["unusable: unreadable"] == "2"
    assert pairs["skipped files: hidden"] == "7"
    assert pairs["in train"] == "917 (85.1%)"
    assert pairs["groups of duplicates"] == "88"
    assert pairs["copies of another image"] == "112"
    assert pairs["head"] == "1024 → 512 → softmax over 3"
    assert pairs["preprocessing"] == "resize: squeeze, version: 1"
    assert pairs["learning_rate"] == "0.001"
    assert pairs["augment"] == "no"
    assert pairs["keras"] == "3.15.1"


def test_curves_follow_the_history() -> None:
    html = report("plain")
    page = Page(html)
    loss, accuracy = page.points("validation")
    assert len(loss) == len(accuracy) == 4
    assert [x for x, _ in loss] == sorted(x for x, _ in loss)
    assert max(range(4), key=lambda i: loss[i][1]) == 2  # SVG's y points down: the least loss
    assert min(range(4), key=lambda i: accuracy[i][1]) == 2
    found = re.findall(r'<text class="y" x="44" y="([\d.]+)">([\d.]+%?)</text>', html)
    at = {text: float(y) - 4 for y, text in found}  # a text sits 4 below its line
    train_loss, train_accuracy = page.points("train")
    assert [y for _, y in train_loss[:2]] == [at["2"], at["1"]]
    assert train_accuracy[0][1] == at["50%"] == at["0"]  # both are the axis
    assert page.text.count("best: epoch 3") == 2
    best = [float(a["x1"] or 0) for a in page.all("line") if a["x1"] == a["x2"]]
    assert best.count(loss[2][0]) == 4  # in both charts the tick of epoch 3 and the mark


def test_curves_skip_values_that_are_not_finite() -> None:
    model = plain_model()
    model["metrics"]["history"][1]["train_loss"] = None
    model["metrics"]["history"][2]["train_loss"] = float("nan")
    assert [len(points) for points in Page(render_report(model)).points("train")] == [2, 4]


def test_warning_only_with_leaks() -> None:
    model = plain_model()
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


def test_without_a_test_split_the_folds_are_shown() -> None:
    model = full_model()
    metrics = model["metrics"]
    metrics |= {"test": None, "test_calibration": None, "outliers": {"test_above_1": None}}
    metrics["estimate"]["cameras"] = None
    page = Page(render_report(model))
    low, high = (f"{100 * each:.1f}" for each in metrics["estimate"]["accuracy_interval"])
    accuracy = f"{100 * metrics['estimate']['accuracy']:.1f}%"
    assert f"Out-of-fold accuracy {accuracy} 95% interval {low}-{high}%" in page.text
    assert "On 600 out-of-fold images." in page.text
    assert "leaks into test" not in page.text
    assert page.table("Views")[0] == ["Views", "Out-of-fold accuracy"]
    assert page.table("Label")[0][1] == "Out-of-fold images"
    assert sum(int(cell or 0) for row in page.table("true")[1:] for cell in row[1:]) == 600
    metrics["estimate"] |= {"source": "validation", "folds": [0.9]}
    page = Page(render_report(model))
    assert f"Validation accuracy {accuracy}" in page.text
    assert "Was fine-tuned without the first fold" in page.text
    assert not [table for table in page.tables if table[0][0] == "Fold"]


def test_hostile_text_stays_text() -> None:
    page = Page(report("hostile"))
    full = Page(report("full"))
    # "no picture" replaces thumbnails that are not JPEG data URIs, and 12 copies are too many.
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in full.elements}
    assert not page.all("script")
    assert [a["src"] for a in page.all("img")] == [picture()]
    assert {name for _, a in page.elements for name in a} == {
        name for _, a in full.elements for name in a
    }
    assert page.table("Label")[1][0] == f"{HOSTILE} {HOSTILE}"
    assert page.table("true")[0][1] == HOSTILE
    assert page.table("Predicted label")[1][0] == f"{HOSTILE} {HOSTILE}"
    paths = [a["title"] for a in page.all("code", "path")]
    assert len(paths) == 4 + 1 + 3 + 2 + 2 + 10
    assert set(paths) == {HOSTILE}


@pytest.mark.parametrize("case", ["plain", "full"])
def test_nothing_is_loaded_from_elsewhere(case: str) -> None:
    html = report(case)
    for reference in ("http:", "https:", "url(", "@import"):
        assert reference not in html.lower(), reference
    page = Page(html)
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") for a in page.all("img"))
    assert all((a["href"] or "").startswith("#") for a in page.all("a"))
    assert {tag for tag, a in page.elements if "src" in a or "href" in a} <= {"img", "a"}
    loading = {"script", "link", "iframe", "object", "embed", "base", "use", "image"}
    assert not {tag for tag, _ in page.elements} & loading
    assert "default-src 'none'" in html


@pytest.mark.parametrize("case", ["plain", "full"])
def test_accessible(case: str) -> None:
    page = Page(report(case))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(name) or "").split()) <= set(ids)
    assert {a.get("scope") for a in page.all("th")} == {"row", "col"}
    charts = page.all("svg")
    assert len(charts) == (7 if case == "full" else 2)
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in charts)
    assert all((a["alt"] or "").startswith("Photograph n") for a in page.all("img"))
    links = [(a["href"] or "")[1:] for a in page.all("a")]
    assert set(links) <= set(ids)
    # The contents list every section in order, except a few.
    sections = [a["aria-labelledby"] for a in page.all("section")]
    assert links == [x for x in sections if x not in ("splits", "mixups", "outliers")]


def test_one_epoch_is_a_dot() -> None:
    model = plain_model()
    model["metrics"] |= {"history": model["metrics"]["history"][:1], "best_epoch": 1}
    page = Page(render_report(model))
    dots = page.all("circle", "train") + page.all("circle", "validation")
    assert [a["cx"] for a in dots] == ["256.0"] * 4  # the middle
    assert "best: epoch 1" in page.text


def test_missing_values_are_dashes() -> None:
    model = plain_model()
    row = model["metrics"]["test"]["per_label"][2]
    row |= {"images": 0, "precision": None, "recall": None, "f1": None}
    model["metrics"]["test"]["confusion"][2] = [0, 0, 0]
    model["metrics"]["best_epoch"] = None
    model["metrics"]["estimate"] |= {"images": 0, "accuracy": None}
    model["data"]["unusable"] = {}
    page = Page(render_report(model))
    assert page.table("Label")[3][:5] == ["n2", "0", "-", "-", "-"]
    assert "Out-of-fold accuracy - 95% interval -, 0 images" in page.text
    assert "best: epoch" not in page.text
    assert ["unusable", "0"] in [row for table in page.tables for row in table]


def test_a_report_without_errors_or_head_and_with_other_scripts() -> None:
    model = plain_model()
    model["metrics"]["test"]["confusion"] = [[61, 0, 0], [0, 53, 0], [0, 0, 47]]
    model["head"] = []
    model["labels"][2]["name"] = "Bärenmakak 猴子"
    page = Page(render_report(model))
    assert "None: every image was predicted correctly." in page.text
    assert ["head", "softmax over 3"] in [row for table in page.tables for row in table]
    assert page.table("true")[3][0] == "n2 Bärenmakak 猴子"


@pytest.mark.parametrize("count", [2, 60])
def test_number_of_labels(count: int) -> None:
    model = plain_model()
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
    # wide tables scroll inside their own container
    scrolling = len(page.all("div", "scroll"))
    assert scrolling == len(page.tables) - len(page.all("table", "pairs"))


def test_a_missing_figure_is_an_error() -> None:
    model = plain_model()
    del model["data"]["fingerprint"]
    with pytest.raises(jinja2.UndefinedError, match="fingerprint"):
        render_report(model)


def test_rendering_is_pure() -> None:
    model = plain_model()
    before = copy.deepcopy(model)
    first = render_report(model)
    assert model == before
    assert render_report(model) == first


# -- sections of later formats -----------------------------------------------------------------


def test_absent_and_null_properties_are_left_out() -> None:
    plain = plain_model()
    some = plain_model()
    keys = (
        "calibration", "test_calibration", "thresholds", "coverage", "views", "learning_curve",
        "fine_tuning", "outliers", "search", "int8",
    )  # fmt: skip
    some["metrics"] |= dict.fromkeys(keys)
    some["data"] |= {"rare_labels": None, "class_weights": None, "locations": None}
    html = render_report(plain)
    assert render_report(some) == html
    assert render_report(plain, {}) == html
    assert render_report(plain, dict.fromkeys(full_findings())) == html
    full = Page(report("full"))
    assert len(full.all("section")) == len(Page(html).all("section")) + 17


def test_intervals_are_under_their_figures() -> None:
    model = full_model()
    model["metrics"]["test"]["per_label"][0] |= {
        "precision": 0.9, "precision_interval": [0.8111, 1.0], "recall": None,
        "recall_interval": None,
    }  # fmt: skip
    row = Page(render_report(model)).table("Label")[1]
    assert row[2:4] == ["90.0%81.1-100.0%", "-"]


def test_folds_and_views() -> None:
    page = Page(render_report(full_model()))
    unseen = full_model()["metrics"]["estimate"]["cameras"]["unseen"]
    low, high = (f"{100 * each:.1f}" for each in unseen["accuracy_interval"])
    assert f"predicted correctly out of fold (95% interval {low}-{high}%)" in page.text
    assert page.table("Fold")[1] == ["accuracy", "91.0%", "88.0%", "93.0%", "90.0%", "92.0%"]
    assert page.table("Views")[1:] == [["1", "95.0%", "95.0%"], ["2", "95.0%", "96.0%"]]
    model = full_model()
    del model["metrics"]["views"][1]  # one row says nothing that is not said above
    assert not [table for table in Page(render_report(model)).tables if table[0][0] == "Views"]


def test_learning_curve_is_summarised() -> None:
    page = Page(report("full"))
    assert "accuracy would rise by about 1.4 percentage points" in page.text
    assert page.table("Heads trained on")[1] == ["120 images", "85.0%", "80.0-95.0%"]


def test_int8_beside_float32() -> None:
    model = full_model()
    page = Page(render_report(model))
    assert "Of 161 images that the model was not trained on, 99.4% get the same" in page.text
    assert page.table("Precision")[1:] == [["float32", "97.5%", "137"], ["int8", "96.9%", "1,455"]]
    nothing = dict.fromkeys(("agreement", "agreement_interval", "score_change"))
    accuracy = dict.fromkeys(("float32", "int8"))
    model["metrics"]["int8"] |= {"images": 0, "accuracy": accuracy, **nothing}
    page = Page(render_report(model))
    assert "same label as with float32" not in page.text
    assert page.table("Precision")[2] == ["int8", "-", "1,455"]


def test_fine_tuning_says_what_was_kept() -> None:
    model = full_model()
    page = Page(render_report(model))
    assert "This improved validation, and the model has the weights of epoch 2." in page.text
    assert "best: epoch 2" in page.text
    assert [len(points) for points in page.points("train")[2:4]] == [3, 3]
    assert [len(points) for points in page.points("validation")[2:4]] == [4, 4]
    model["metrics"]["fine_tuning"] |= {"kept": False, "best_epoch": 0}
    page = Page(render_report(model))
    assert "This did not improve validation, and the model keeps the frozen" in page.text
    assert "best: epoch 0" in page.text


def test_calibration_error_before_and_after() -> None:
    model = full_model()
    found, test = (model["metrics"][key] for key in ("calibration", "test_calibration"))
    found["before"] |= {"ece": 0.1234, "ece_interval": [0.1, 0.2], "loss": 0.5}
    test["after"] |= {"ece": 0.02, "ece_interval": None, "loss": 0.25}
    page = Page(render_report(model))
    rows = page.table("Images")
    assert [row[0] for row in rows[1:]] == [
        "out-of-fold, before", "out-of-fold, after", "test, before", "test, after",
    ]  # fmt: skip
    assert rows[1][1:] == ["600", "0.123", "0.100-0.200", "0.500"]
    assert rows[4][1:] == ["161", "0.020", "-", "0.250"]
    assert "15 bins of equal width" in page.text
    assert "fitted on 600 out-of-fold images" in page.text


def test_thresholds_by_label() -> None:
    model = full_model()
    found = model["metrics"]["thresholds"]
    none = {"threshold": None, "images": 9, "accepted": 0, "errors": 0, "lower": None}
    found["per_label"] = [
        {"label": "n0", "threshold": 0.99997, "images": 99, "accepted": 59, "errors": 0,
         "lower": 0.9505},
        {"label": "n1", **none},
        {"label": "n2", **none},
    ]  # fmt: skip
    found["pooled"] = {
        "threshold": 0.5, "images": 200, "accepted": 150, "errors": 2, "lower": 0.958,
    }  # fmt: skip
    found["results"] = {
        "images": 161, "accepted": 80, "coverage": 80 / 161, "precision": 0.975,
        "precision_interval": [0.913, 0.993],
    }  # fmt: skip
    page = Page(render_report(model))
    assert page.table("Predicted label")[1:] == [
        ["n0 mantled_howler", "0.9999", "99", "59", "0", "95.0%"],  # never rounded up to 1
        ["n1 patas_monkey", "shared", "9", "-", "-", "-"],
        ["n2", "shared", "9", "-", "-", "-"],
        ["shared by 2 labels", "0.5000", "200", "150", "2", "95.8%"],
    ]
    assert "accept 80 of the 161 test images, a coverage of 49.7%" in page.text
    assert "97.5% are correct (95% interval 91.3-99.3%)" in page.text.replace(" , ", ", ")
    assert "No threshold" not in page.text

    found["pooled"] |= {"threshold": None, "accepted": 0, "lower": None}
    found["results"] |= {"accepted": 0, "coverage": 0.0} | dict.fromkeys(
        ("precision", "precision_interval")
    )
    page = Page(render_report(model))
    assert "No threshold for 2 of 3 labels" in page.text
    assert "is accepted: n1 (patas_monkey), n2." in page.text
    assert page.table("Predicted label")[2][1] == "no threshold"
    assert "They accept none of the 161 test images" in page.text


def test_coverage_is_drawn_and_described() -> None:
    model = full_model()
    page = Page(render_report(model))
    assert "target 90%" in page.text
    rows = page.table("Accepted")
    assert len(rows) == 21  # evenly spread ones of all
    assert rows[1][2] == "100.0%"
    assert rows[-1][0] == "100.0%"
    model["metrics"]["thresholds"]["target"] = 0.99  # its text would be across the line of 100%
    html = render_report(model)
    ((line, text),) = re.findall(r'y2="([\d.]+)"/>\s*<text x="60" y="([\d.]+)">target 99%', html)
    assert float(text) == float(line) + 17
    model["metrics"]["thresholds"] = None
    page = Page(render_report(model))
    assert page.all("polygon", "band")
    assert "target" not in page.text


def test_rare_labels_and_outliers_are_named() -> None:
    model = full_model()
    model["data"]["rare_labels"] = [
        {"label": f"l{i}", "train": i, "groups": 9, "test": None} for i in range(25)
    ]
    page = Page(render_report(model))
    assert "Training images: l0 0, l1 1, " in page.text.replace(" ,", ",")
    assert "and 5 more labels" in page.text
    assert "(none in" not in page.text
    assert "pictures or groups)" not in page.text
    model["data"]["rare_labels"] = [
        {"label": "a", "train": 50, "groups": 1, "test": 0},
        {"label": "b", "train": 40, "groups": 4, "test": 2},
        {"label": "c", "train": 30, "groups": 30, "test": 0},
    ]
    text = Page(render_report(model)).text.replace(" ,", ",")
    assert "a 50 (one picture or group, so it cannot be measured)" in text
    assert "b 40 (4 pictures or groups), c 30 (none in test)" in text
    assert "6.2% of the test images are" in page.text
    assert ["class weights", "balanced"] in [row for table in page.tables for row in table]


def test_a_search_shows_its_best_trials() -> None:
    model = full_model()
    page = Page(render_report(model))
    assert "Of 14 trials, number 11 had the lowest out-of-fold loss" in page.text
    assert "head 1024,512, learning rate 0.00123 and L2 4.5e-06. 6 finished, " in page.text
    assert "6 finished, 7 diverged, 1 failed." in page.text
    assert "report, are optimistic: the more trials" in page.text
    table = page.table("Trial")
    assert [row[0] for row in table[1:]] == ["11 (chosen)", *map(str, range(10, 1, -1))]
    assert table[1][1:] == [
        "1024,512", "0.00123", "4.5e-06", "16", "0.280", "90.0%", "diverged"
    ]  # fmt: skip
    assert "4 more trials are in metrics.json" in page.text
    search = model["metrics"]["search"]
    search["trials"] = search["trials"][9:]
    page = Page(render_report(model))
    table = page.table("Trial")
    assert [row[0] for row in table[1:]] == ["11 (chosen)", "10", "9", "12", "13"]
    assert table[4][4:] == ["0", "-", "-", "diverged"]
    assert "trials are in metrics.json" not in page.text
    del model["metrics"]["search"]
    assert "figures are optimistic" not in Page(render_report(model)).text


# -- findings ----------------------------------------------------------------------------------


def test_galleries_show_truth_and_prediction() -> None:
    findings = full_findings()
    page = Page(render_report(plain_model(), findings))
    assert len(page.all("ul", "gallery")) == 2
    assert "n0 mantled_howler ✗ predicted n1 patas_monkey 0.990 n0/IMG_0000.JPG" in page.text
    assert "n0 mantled_howler ✓ predicted n0 mantled_howler 0.990" in page.text
    assert len(page.all("span", "wrong")) == 5 + 12
    assert len(page.all("span", "right")) == 12
    assert len(page.all("img")) == 5 + 24 + 50


def test_label_errors_are_a_list_to_act_on() -> None:
    page = Page(render_report(plain_model(), full_findings()))
    assert (
        "n1/site-2/IMG_0002.JPG n1 patas_monkey → probably n2 in train; score of its own label: "
        "0.002" in page.text
    )
    assert "n1/site-99/" in page.text
    assert "n1/site-100/" not in page.text
    assert "3 more images are in metrics.json" in page.text


def test_contradictory_labels_come_first() -> None:
    findings, model = full_findings(), plain_model()
    page = Page(render_report(model, findings))
    assert "60 pictures have files under several labels, 20 of them with the same" in page.text
    assert "leave the files out with --drop-contradictions" in page.text
    shown = "the same bytes n0/clash-2-0.jpg n0 mantled_howler n1/clash-2-1.jpg n1 patas_monkey"
    assert page.text.count(shown) == 2  # in the warning and in the section
    near = "n0/clash-2-2.jpg n0 mantled_howler n1/clash-2-3.jpg n1 patas_monkey a near-duplicate"
    assert page.text.count(near) == 2
    assert page.text.count("the same picture n0/clash-20-0.jpg") == 1
    assert "n1/clash-49-9.jpg n1 patas_monkey and 2 more" in page.text
    assert "clash-50-" not in page.text
    assert "10 more pictures are in metrics.json" in page.text
    model["data"]["unusable"] = {"contradictory": 240}
    text = Page(render_report(model, findings)).text
    assert "240 files are left out" in text
    assert "--drop-contradictions" not in text
    findings["contradictions"] = []
    text = Page(render_report(plain_model(), findings)).text
    assert "None: each picture has a single label." in text
    assert "Warning: one picture" not in text


def test_leaks_and_duplicates_are_named_and_counted() -> None:
    findings = full_findings()
    page = Page(render_report(plain_model(), findings))
    assert "test/n0/a.jpg the same picture as n0/0.jpg" in page.text
    assert "n0/4.jpg and 2 more" in page.text
    assert "the same bytes n0/49.jpg n0/copy-49.jpg" in page.text
    assert "n0/copy-50.jpg" not in page.text
    assert "1,184 more pictures are in metrics.json" in page.text
    findings["duplicates"] = [{"uris": [f"{i}.jpg" for i in range(1000)], "how": "near"}]
    page = Page(render_report(plain_model(), findings))
    assert "9.jpg and 990 more" in page.text
    assert page.text.count("more pictures") == 1  # of those under several labels


def test_empty_findings_are_stated() -> None:
    page = Page(report("empty"))
    assert "None: no model mislabelled an image" in page.text
    assert "None: no test image is also a training image." in page.text
    assert "None: there are no images." in page.text
    assert "more images" not in page.text
    assert not page.all("img")
