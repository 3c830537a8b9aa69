"""Pictures of a run and of an evaluation, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from slicewise.trainer import calibration
from slicewise.trainer.evaluation import Scored, confusion_matrix, precision_recall

# Okabe & Ito (2008): apart for colour-blind readers, too.
_BLUE, _ORANGE, _RED, _GREY = "#0072B2", "#E69F00", "#D55E00", "#666666"
_COLUMNS, _MOST_ROWS = 6, 4


def draw(scored: Scored, folder: Path) -> list[Path]:
    """Every picture of what was scored, as PNG files in a folder that is there."""
    drawings = (
        ("confusion", draw_confusion),
        ("classes", draw_classes),
        ("calibration", draw_calibration),
        ("mistakes", draw_mistakes),
        ("samples", draw_samples),
    )
    for name, drawing in drawings:
        drawing(scored, folder / f"{name}.png")
    return [folder / f"{name}.png" for name, _ in drawings]


def draw_curves(history: Sequence[dict[str, float]], path: Path, classes: int) -> None:
    """Accuracy and loss of each epoch, training beside validation.

    Parameters
    ----------
    history
        ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` of each epoch, in order.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    for axes, measure in ((accuracy, "accuracy"), (loss, "loss")):
        axes.plot(
            epochs, [e[measure] for e in history], ".-", color=_ORANGE, label="training (augmented, with dropout)"
        )
        axes.plot(epochs, [e[f"val_{measure}"] for e in history], ".-", color=_BLUE, label="validation")
        axes.set(xlabel="epoch", title=measure.capitalize())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(axes)
    accuracy.set_ylim(0, 1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    accuracy.axhline(1 / classes, color=_GREY, linestyle=":", label="chance")
    loss.set_ylim(bottom=0)
    loss.axhline(np.log(classes), color=_GREY, linestyle=":")
    figure.legend(*accuracy.get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    figure.savefig(path, dpi=120)


def draw_confusion(scored: Scored, path: Path) -> None:
    """The confusion matrix: shade is the share of the true class, the number is the count."""
    counts = _confusion(scored)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{count}\n{shares[row, column]:.0%}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    names = [_words(label) for label in scored.labels]
    axes.set(
        xticks=range(len(names)), yticks=range(len(names)), xticklabels=names, yticklabels=names, xlabel="predicted"
    )
    axes.set_ylabel("true")
    axes.set_title(f"{np.trace(counts)} of {counts.sum()} right")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(shown, shrink=0.9, label="share of the true class", format=PercentFormatter(1))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def draw_classes(scored: Scored, path: Path) -> None:
    """Precision and recall of each class, as bars."""
    counts = _confusion(scored)
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(scored.labels))
    for offset, name, values, colour in zip(
        (-0.2, 0.2), ("precision", "recall"), precision_recall(counts), (_BLUE, _ORANGE), strict=True
    ):
        bars = axes.bar(places + offset, np.nan_to_num(values), width=0.38, color=colour, label=name)
        axes.bar_label(bars, ["none" if np.isnan(v) else f"{v:.1%}" for v in values], padding=2, fontsize=9)
    supports = zip(scored.labels, counts.sum(axis=1), strict=True)
    axes.set_xticks(places, [f"{_words(label)}\n{support} pictures" for label, support in supports])
    axes.set_ylim(0, 1.08)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Precision and recall by class", loc="left")
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    _plain(axes)
    figure.savefig(path, dpi=120)


def draw_calibration(scored: Scored, path: Path) -> None:
    """Whether confidence means what it says, and how many answers are wrong where only the surest are given."""
    confidence, correct = scored.probabilities.max(axis=1), scored.predicted == scored.truth
    counts, means, accuracies = calibration.reliability(confidence, correct)
    coverage, risk = calibration.risk_coverage(confidence, correct)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    reliability, silence = figure.subplots(1, 2)
    reliability.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="means what it says")
    reliability.plot(means[counts > 0], accuracies[counts > 0], ".-", color=_BLUE, label="right")
    reliability.bar(
        (np.arange(calibration.BINS) + 0.5) / calibration.BINS,
        counts / counts.sum(),
        width=0.8 / calibration.BINS,
        color=_ORANGE,
        alpha=0.5,
        label="share of the pictures",
    )
    error = calibration.expected_calibration_error(confidence, correct)
    reliability.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="largest probability", title=f"Expected calibration error {error:.3f}"
    )
    reliability.legend(frameon=False, loc="upper left")
    silence.plot(coverage, risk, color=_BLUE)
    silence.set(xlim=(0, 1), xlabel="share that is answered, the surest first", title="Wrong among the answered")
    silence.set_ylim(bottom=0)
    for axes in (reliability, silence):
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _plain(axes)
    figure.savefig(path, dpi=120)


def draw_samples(scored: Scored, path: Path, seed: int = 0) -> None:
    """A row of pictures of each class, drawn at random, with what the network saw in them."""
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(scored.truth == c))[:_COLUMNS] for c in range(len(scored.labels))]
    _draw_pictures(scored, [row for row in rows if len(row)], path, "Drawn at random from each class")


def draw_mistakes(scored: Scored, path: Path) -> None:
    """The wrong answers that the network was surest of."""
    wrong = np.flatnonzero(scored.predicted != scored.truth)
    surest = wrong[np.argsort(-scored.probabilities[wrong].max(axis=1), kind="stable")][: _COLUMNS * _MOST_ROWS]
    rows = [surest[start : start + _COLUMNS] for start in range(0, len(surest), _COLUMNS)]
    _draw_pictures(scored, rows, path, f"The surest of {len(wrong)} wrong answers")


def _draw_pictures(scored: Scored, rows: Sequence[np.ndarray], path: Path, title: str) -> None:
    """A grid of slices: true class, predicted class and its probability; a wrong answer has a red frame."""
    height = max(1, len(rows))
    figure = Figure(figsize=(2 * _COLUMNS, 2.4 * height + 0.4), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(height, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    truth, predicted = scored.truth, scored.predicted
    for line, members in zip(grid, rows, strict=False):
        for axes, i in zip(line, members, strict=False):
            right = truth[i] == predicted[i]
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.imshow(scored.rasters.pixels[i], cmap="gray", vmin=0, vmax=255)
            axes.spines[:].set(color=_BLUE if right else _RED, linewidth=1 if right else 4)
            sure = f"{_words(scored.labels[predicted[i]])} {scored.probabilities[i].max():.0%}"
            axes.set_title(
                f"true: {_words(scored.labels[truth[i]])}\n{'' if right else '✗ '}said: {sure}",
                fontsize=9,
                color="black" if right else _RED,
                loc="left",
            )
    figure.savefig(path, dpi=110)


def _confusion(scored: Scored) -> np.ndarray:
    return confusion_matrix(scored.truth, scored.predicted, len(scored.labels))


def _words(label: str) -> str:
    return label.replace("_", " ")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
