"""How each method looks in every plot: its colour, and the marker of what followed it."""

from __future__ import annotations

from experiments.harness.drawing import Look

# By the method before Seq-Inter and pruning; what follows it changes the marker.
_COLOURS = {
    "teacher": "#000000",
    "baseline": "#7a7a7a",
    "word_kd": "#b87700",
    "seq_kd": "#0072b2",
    "seq_kd+word_kd": "#a8427a",
}
_OTHER = "#00795a"


def look_of(method: str) -> Look:
    """The look of a method: diamonds after Seq-Inter, triangles when only pruned, else circles."""
    trained = method.replace("+prune", "").replace("+seq_inter", "")
    plain = "v" if "prune" in method else "o"
    return Look(_COLOURS.get(trained, _OTHER), "D" if "seq_inter" in method else plain)
