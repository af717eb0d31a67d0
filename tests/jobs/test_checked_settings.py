"""`recipe check` passes exactly the settings that the classes behind them take."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from seqdistill.assembly.decoding import build_decoding
from seqdistill.core.errors import RecipeError
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.schema import DataSection, Recipe, StudentSection
from seqdistill.recipe.sequences_schema import DecodingSection, SequencesSection

FEW = st.integers(1, 6)
DECODINGS = st.builds(DecodingSection, mode=st.sampled_from(["beam", "sample"]), beam_size=FEW,
                      n_best=FEW, top_k=st.integers(0, 3), top_p=st.floats(0.001, 1.0),
                      sampling_temperature=st.floats(0.001, 9.0), max_new_tokens=FEW)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(section=DECODINGS)
def test_a_way_of_decoding_passes_where_it_can_be_built_and_nowhere_else(
    section: DecodingSection,
) -> None:
    recipe = Recipe(
        data=DataSection(train="a.tsv"),
        student=StudentSection(model="small"),
        sequences=SequencesSection(decoding=section),
    )
    found = {key for key, _ in contradictions(recipe)}
    try:
        build_decoding(section)
    except RecipeError:
        assert "sequences.decoding.n_best" in found
    else:
        unread = {"beam_size", "length_penalty", "sampling_temperature", "top_k", "top_p"}
        assert found <= {f"sequences.decoding.{name}" for name in unread}
