"""How the page's plots look: colours, labels that do not cover each other, SVG without dates.

The colours are Okabe and Ito's, told apart by the colour-blind; marker and label say the same once
more. A light ground is drawn, so that dark pages show the plots too. Equal inputs give equal
bytes. Knows no rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

INK, MUTED, GRID, GROUND = "#222222", "#6b6b6b", "#e3e3e3", "#fcfcfa"

Side = Literal["left", "center", "right"]


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour and marker of a method in every plot."""

    colour: str
    marker: str


@dataclasses.dataclass(frozen=True)
class Label:
    """A text to stand near a point of the plot, in its data's coordinates."""

    x: float
    y: float
    text: str
    colour: str


@contextlib.contextmanager
def styled(name: str) -> Iterator[None]:
    """matplotlib's settings for the plot `name`, from which the ids in its SVG are derived."""
    import matplotlib

    settings = {
        "svg.fonttype": "path",
        "svg.hashsalt": name,
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.facecolor": GROUND,
        "figure.facecolor": GROUND,
        "savefig.facecolor": GROUND,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        yield


def panels(columns: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures text before anything is written
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def svg(figure: Figure) -> bytes:
    """The figure as SVG, without date or program, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    lines = buffer.getvalue().decode("utf-8").splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode("utf-8")


def settle(figure: Figure) -> None:
    """Lays the figure out for good, so that places measured in it stay."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def put_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes each label beside its point, where it covers the least of points and other labels.

    A greedy choice among the places round each point, the longest label first. Needs a figure that
    is settled.
    """
    frame = axes.get_window_extent().extents
    unit = axes.figure.dpi / 72.0
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in points]
    longest_first = sorted(
        zip(labels, points, strict=True), key=lambda pair: len(pair[0].text), reverse=True
    )
    for label, (x, y) in longest_first:
        text = _written(axes, label, _PLACES[0])
        size = text.get_window_extent()
        text.remove()
        found = []
        for rank, (across, up, side) in enumerate(_PLACES):
            left = x + across * unit - _SHARE_LEFT[side] * size.width
            bottom = y + up * unit - size.height / 2.0
            box = (left, bottom, left + size.width, bottom + size.height)
            cost = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
            found.append((cost, rank, box))
        _, rank, box = min(found)
        taken.append(box)
        _written(axes, label, _PLACES[rank])


def _written(axes: Axes, label: Label, place: tuple[int, int, Side]) -> Annotation:
    across, up, side = place
    leader = {"arrowstyle": "-", "color": label.colour, "lw": 0.5, "shrinkA": 0.0}
    return axes.annotate(
        label.text,
        (label.x, label.y),
        (across, up),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=8.0,
        color=label.colour,
        arrowprops=leader if abs(up) > 10 else None,
    )


# Offsets in points and horizontal alignment, the preferred first.
_PLACES: tuple[tuple[int, int, Side], ...] = (
    (7, 0, "left"),
    (-7, 0, "right"),
    (0, 10, "center"),
    (0, -10, "center"),
    (6, 8, "left"),
    (6, -8, "left"),
    (-6, 8, "right"),
    (-6, -8, "right"),
    (10, 19, "left"),
    (10, -19, "left"),
    (-10, 19, "right"),
    (-10, -19, "right"),
    (14, 31, "left"),
    (14, -31, "left"),
    (-14, 31, "right"),
    (-14, -31, "right"),
)

_SHARE_LEFT: dict[Side, float] = {"left": 0.0, "center": 0.5, "right": 1.0}
"""How much of a text's width lies left of the point at which it is set."""


def _overlap(box: Sequence[float], other: Sequence[float]) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    return float(width * height) if width > 0 and height > 0 else 0.0


def _outside(box: Sequence[float], frame: Sequence[float]) -> float:
    """Area of the box outside the frame, ten times, since there it would be cut off."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return 10.0 * (whole - _overlap(box, frame))


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The positions moved apart until neighbours are `gap` apart; their order stays.

    Neighbours that are too close become a block about their mean, as often as needed.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[tuple[float, int]] = []  # centre, members
    for index in order:
        centre, members = positions[index], 1
        while blocks and centre - blocks[-1][0] < gap * (members + blocks[-1][1]) / 2:
            before, others = blocks.pop()
            centre = (centre * members + before * others) / (members + others)
            members += others
        blocks.append((centre, members))
    moved = [0.0] * len(positions)
    ranks = iter(order)
    for centre, members in blocks:
        for step in range(members):
            moved[next(ranks)] = centre + gap * (step - (members - 1) / 2)
    return moved


def label_ends(figure: Figure, axes: Axes, ends: Sequence[Label]) -> None:
    """Writes the label of each line to the right of the axes, at the height of its last point."""
    low, high = axes.get_ylim()
    height = 72.0 * 0.75 * figure.get_size_inches()[1]  # of the axes, in points, about
    shares = [(end.y - low) / (high - low) for end in ends]
    for end, share in zip(ends, spread(shares, 11.5 / height), strict=True):
        axes.annotate(
            end.text,
            (1.02, share),
            xycoords="axes fraction",
            va="center",
            fontsize=8.0,
            color=end.colour,
            annotation_clip=False,
        )
