"""A manifest names files of its own folder, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqdistill.core.errors import DataError
from seqdistill.records.checksums import own_file


@pytest.mark.parametrize(
    "name", ["../../outside.parquet", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0", "a/"]
)
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must name files of that folder alone"):
        own_file(tmp_path, name)


def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (tmp_path / "outside").write_text("secret")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "inside").symlink_to(folder / "plain")
    with pytest.raises(DataError, match="is a link to"):
        own_file(folder, "out")
    for name in ("inside", "plain", "shard-00000.parquet"):
        assert own_file(folder, name) == folder / name
