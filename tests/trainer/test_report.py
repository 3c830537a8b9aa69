"""What an evaluation looks like to people."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from PIL import Image

from slicewise.trainer import baseline, figures, report
from tests.trainer.test_figures import scored

ADDED = {
    "strangers": {"pictures": 400, "labelled": 12},
    "near_copies": {
        "with": {
            "pictures": 3,
            "accuracy": 1.0,
            "sets": {"one": {"pictures": 1, "accuracy": 1.0}, "two": {"pictures": 2, "accuracy": 1.0}},
        },
        "without": {"pictures": 0, "accuracy": None, "sets": {}},
    },
    "nearest_neighbour": {"accuracy": 0.5, "accuracy_95": [0.4, 0.6]},
    "adjusted": {
        "added": {"glioma": -0.4, "pituitary": 0.0},
        "accuracy": 0.9,
        "recall": {"glioma": 0.8, "pituitary": 1.0},
    },
    "sets": {"one": {"pictures": 7, "accuracy": 0.5}, "two Testing": {"pictures": 5, "accuracy": 1.0}},
    "published": baseline.PAPER,
    "cost": {"parameters": 1234567, "operations": 4.4e8, "slices_per_second": 321.4, "provider": "cpu"},
}


def test_what_is_printed(capsys):
    answers = scored([0, 1, 2, 3] * 3, [0, 1, 2, 2] * 3)
    report.print_metrics(answers.metrics("here") | ADDED, "mine.onnx")
    told = capsys.readouterr().out
    for line in (
        "split: here",
        "pictures of nothing that imaging lets through: 12 of 400 would be labelled",
        "3 pictures with a near-copy among those trained on: 100.0% right (one: 100.0% of 1, two: 100.0% of 2)\n",
        "0 pictures without a near-copy among those trained on: none right\n",
        "nearest neighbour on 48x48 thumbnails, which learns nothing: 50.0% right (40.0% to 60.0%)",
        "with logits adjusted as the other folds ask for (glioma -0.40, pituitary +0.00): 90.0% right; glioma 80.0%, pituitary 100.0%",
        "one: 50.0% of 7, two Testing: 100.0% of 5",
        "the paper, by such a split of its own: 95.2%; precision and recall: glioma 96% 94%",
        "cost: 1,234,567 parameters, 0.44 GFLOP a slice, 321 slices/s here on cpu",
    ):
        assert line in told
    row = next(line for line in told.splitlines() if "pituitary" in line and "│" in line)
    assert re.split(r" *│ *", row.strip("│ ")) == [
        *("pituitary", "none", "0.0%", "0.0% to 0.0%", "3"),
        *("0", "0", "3", "0"),
    ]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.pictures = "", []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs))


def test_one_page_needs_no_other(tmp_path):
    answers = scored([0, 1, 2, 3] * 3, [0, 1, 2, 2] * 3)
    measured, pictures = answers.metrics("<here> & {there}") | ADDED, figures.draw(answers, tmp_path)
    report.write_page(measured, "<mine> TITLE.onnx", pictures, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "split: <here> & {there}" in page.words
    assert "<mine> TITLE.onnx" in page.words
    assert "cost: 1,234,567 parameters" in page.words
    assert "Not a medical device" in page.words
    assert [picture["alt"] for picture in page.pictures] == [
        *("confusion", "classes", "calibration", "mistakes", "samples"),
    ]
    for picture in page.pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        path = tmp_path / f"{picture['alt']}.png"
        path.write_bytes(base64.b64decode(data))
        with Image.open(path) as opened:
            assert opened.size[0] > 400
