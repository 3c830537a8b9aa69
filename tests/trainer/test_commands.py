"""train, export and evaluate, as a person types them."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys

import pytest

from slicewise.export.run import Run
from slicewise.worker.model import session
from slicewise.worker.model.store import REFERENCE

BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"tensorflow", "keras", "tf2onnx", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from slicewise.worker.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def without_tensorflow():
    """The command in a process that cannot import what only the trainer has."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCKED, *map(str, words)]
        return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False, timeout=60)

    return run


def test_train_export_evaluate(data_set, tmp_path, slicewise, write_jpeg):
    run, exported = Run(tmp_path / "run"), tmp_path / "mine.onnx"
    told = slicewise("train", data_set, "--output", run.folder, "--epochs", 1, "--batch", 16, "--fraction", 0.2)
    assert "split: random, 0.2 of each class validates" in told.stdout
    # No noise of TensorFlow's: what there is, and one line an epoch.
    assert [line.split()[:2] for line in told.stderr.splitlines()] == [["16", "pictures"], ["epoch", "1/1"]]
    measured = json.loads(run.metrics.read_text())
    assert measured["pictures"] == len(json.loads(run.predictions.read_text())) == 4
    assert {path.stem for path in run.folder.glob("*.png")} == {
        *("curves", "confusion", "classes", "calibration", "samples", "mistakes")
    }

    refused = slicewise("export", run.folder, "--output", exported, status=78)
    assert "4 real slices found" in refused.stderr
    assert not exported.exists()
    for seed in range(32):
        write_jpeg(tmp_path / "slices" / f"{seed}.jpg", seed=seed)
    told = slicewise("export", run.folder, "--output", exported, "--slices", tmp_path / "slices")
    assert told.stdout.count("differ by at most") == 3
    assert told.stderr == ""
    described = session.load(exported).description
    assert described.metrics == {"validation": measured}
    assert described.training["data"]["training"]["pictures"] == 16

    held_out = slicewise(
        *("evaluate", data_set, "--model", exported, "--split", "random", "--fraction", 0.2, "--format", "json")
    )
    again = json.loads(held_out.stdout)
    assert "CAUTION" not in measured["split"] + again["split"]
    assert again["confusion"] == measured["confusion"]
    assert again["log_loss"] == pytest.approx(measured["log_loss"], abs=1e-4)


def test_evaluate_needs_no_tensorflow(data_set, tmp_path, without_tensorflow):
    done = without_tensorflow("evaluate", data_set, "--output", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert json.loads((tmp_path / "figures.json").read_text())["pictures"] == 20
    held_out = without_tensorflow("evaluate", data_set, "--split", "random", "--fraction", 0.2, "--format", "json")
    told = json.loads(held_out.stdout)
    assert told["pictures"] == 4
    assert told["split"].startswith("validation part: random, 0.2 of each class")


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("train", "{data}", "--output", "{tmp}/run"), "tensorflow"),
        (("evaluate", "{data}", "--figures", "{tmp}"), "matplotlib"),
    ],
)
def test_missing_parts_are_named_with_the_remedy(data_set, tmp_path, without_tensorflow, words, missing):
    done = without_tensorflow(*(word.format(data=data_set, tmp=tmp_path) for word in words))
    assert done.returncode == 78
    assert f"{missing} is not installed: 'make dev' in a checkout, else pip install 'slicewise[train]'" in done.stderr


def test_evaluate_on_one_page(data_set, tmp_path, slicewise):
    """With all that it is to be compared with."""
    pictures = sorted(data_set.rglob("*.jpg"))
    rows = [f"{path.relative_to(tmp_path)},g{n // 2},{n % 5},0" for n, path in enumerate(pictures)]
    groups, page, figures = tmp_path / "groups.csv", tmp_path / "page.html", tmp_path / "figures.json"
    groups.write_text("\n".join(["path,pooled_group,fold5,group_mixed_label", *rows]))
    told = slicewise(
        *("evaluate", data_set, "--groups", groups, "--split", "random", "--fraction", 0.4, "--nearest"),
        *("--report", page, "--output", figures, "--model", REFERENCE),
    ).stdout
    measured = json.loads(figures.read_text())
    assert sum(found["pictures"] for found in measured["near_copies"].values()) == measured["pictures"] == 8
    assert measured["cost"]["parameters"] == 4_447_044
    assert measured["published"]["accuracy"] == 0.952
    for line in told.partition("split: ")[2].splitlines():
        assert html.escape(line, quote=False) in page.read_text(encoding="utf-8")


def test_evaluate_draws(data_set, tmp_path, slicewise):
    slicewise("evaluate", data_set, "--figures", tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *("confusion.png", "classes.png", "calibration.png", "samples.png", "mistakes.png", "predictions.json")
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--output", "{tmp}/run"), "no pictures to train on"),
        (("train", "{tmp}/nothing", "--output", "{tmp}/run", "--epochs", "0"), "epochs is 0"),
        (("evaluate", "{tmp}/nothing"), "no pictures of"),
        (("evaluate", "{tmp}/nothing", "--nearest"), "give --split"),
        (("evaluate", "{tmp}/nothing", "--report", "{tmp}/nothing/page.html"), "nothing"),
        (("export", "{tmp}/nothing", "--output", "{tmp}/a.onnx"), "holds no run"),
    ],
)
def test_errors_say_the_remedy(tmp_path, slicewise, words, said):
    done = slicewise(*(word.format(tmp=tmp_path) for word in words), status=78)
    assert said in done.stderr
