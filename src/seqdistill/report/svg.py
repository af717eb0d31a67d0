"""An empty chart, and a drawn one as SVG text that takes its colours from the page.

matplotlib draws with stand-in colours, each of which becomes a CSS variable. Equal inputs give
equal bytes. Does not know what is drawn.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIRST_COLOUR = 0x10  # not 0: matplotlib leaves black out of the SVG, as the default
# Stand-in colours; the page defines the variables for both schemes.
INK, MUTED, GRID, SURFACE = "#0000f0", "#0000f1", "#0000f2", "#0000f3"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"}

FULL, SMALL = (5.2, 3.3), (3.4, 2.2)
"""Sizes in inches. The page stretches a chart to its place: in a small one the text is as large."""


def stand_in(series: int) -> str:
    """The colour that matplotlib draws --series-N with."""
    return f"#0000{_FIRST_COLOUR + series:02x}"


@contextlib.contextmanager
def styled(name: str) -> Iterator[None]:
    """Within, matplotlib draws as the page wants it; `name` makes the ids of equal charts equal."""
    # Imported here: the package must load in milliseconds, also for those who draw nothing.
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "axes.formatter.useoffset": False,
        "svg.hashsalt": name,
        "font.size": 8.5,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "xtick.major.pad": 5.0,
        "ytick.major.pad": 5.0,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
    }
    with matplotlib.rc_context(settings):
        yield


def empty(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of `size` inches with axes and nothing in them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", visible=False)
    return figure, axes


def text_of(figure: Figure, name: str) -> str:
    """The SVG, with ids that begin with the chart's name and with the page's colours."""
    buffer = io.StringIO()
    # Without metadata: dates would make equal inputs differ, and addresses are not ours to state.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several charts share a page: every id gets the chart's name in front.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#0000f[0-3]", lambda found: f"var({_VARIABLES[found[0]]})", text)
    text = re.sub(
        r"#0000([1-9a-e][0-9a-f])",
        lambda found: f"var(--series-{int(found[1], 16) - _FIRST_COLOUR})",
        text,
    )
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
