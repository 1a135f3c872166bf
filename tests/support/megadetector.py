"""Batch results of MegaDetector: made, and checked against the published format."""

from __future__ import annotations

import re
from typing import Any

CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}


def detection(
    category: str = "1", conf: float = 0.9, bbox: Any = (0.1, 0.2, 0.3, 0.4)
) -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": list(bbox)}


def results(images: Any, **rest: Any) -> dict[str, Any]:
    info = {"format_version": "1.6", "detector": "md_v5a.0.0.pt"}
    return {"info": info, "detection_categories": CATEGORIES, "images": images, **rest}


def check_format(results: Any) -> None:
    """Raise AssertionError for what megadetector-output-format.md (1.6) does not allow."""
    assert {"info", "detection_categories", "images"} <= set(results)
    assert results["info"]["format_version"] == "1.6"
    for name in ("detection_categories", "classification_categories"):
        for number, category in results.get(name, {}).items():
            assert re.fullmatch("[0-9]+", number)
            assert isinstance(category, str)
            assert category.strip()
    assert "0" not in results["detection_categories"]  # informally reserved for empty
    if "classification_category_descriptions" in results:
        described = results["classification_category_descriptions"]
        assert set(described) == set(results["classification_categories"])
        assert all(isinstance(text, str) for text in described.values())
    for image in results["images"]:
        assert image["file"]
        assert "\\" not in image["file"] or "/" in image["file"]
        assert not image["file"].lower().endswith((".mp4", ".avi", ".mov"))
        if image.get("failure") is not None:
            assert isinstance(image["failure"], str)
            assert image.get("detections") is None
            continue
        for detection in image["detections"]:
            assert detection["category"] in results["detection_categories"]
            assert isinstance(detection["conf"], float)
            assert -1 <= detection["conf"] <= 1
            x, y, width, height = detection["bbox"]
            assert 0 <= x <= x + width <= 1
            assert 0 <= y <= y + height <= 1
            scores = [score for _, score in detection.get("classifications", [])]
            assert scores == sorted(scores, reverse=True)
            for number, score in detection.get("classifications", []):
                assert number in results["classification_categories"]
                assert 0 <= score <= 1
