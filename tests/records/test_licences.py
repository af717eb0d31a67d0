"""Licences are read where people write them: cards first, then files; else nothing is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqdistill.records.licences import licence_of, licence_on_card


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\ntags: [a]\n---\n# Model\n", "mit"),
        ("---\nlicense:\n- mit\n- cc0-1.0\n---\n", "mit, cc0-1.0"),
        ("---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("# license: mit\n", None),
        ("---\nlicense: [\n---\n", None),
        ("---\n- license\n---\n", None),
    ],
)
def test_the_licence_of_a_card_is_that_of_its_front_matter(card: str, licence: str | None) -> None:
    assert licence_on_card(card) == licence


def test_folders_files_and_pairs_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "data").mkdir()
    for name in ("a.de", "a.en"):
        (tmp_path / "data" / name).touch()
    pair = f"{tmp_path / 'data' / 'a.de'},{tmp_path / 'data' / 'a.en'}"
    assert licence_of(pair, "dataset") is None
    (tmp_path / "data" / "LICENCE.txt").touch()
    assert licence_of(pair, "dataset") == "see LICENCE.txt"
    (tmp_path / "data" / "README.md").write_text("---\nlicense: odbl\n---\n")
    assert licence_of(str(tmp_path / "data"), "model") == licence_of(pair, "dataset") == "odbl"
    assert licence_of("nobody/nothing-of-this-name", "model") is None
