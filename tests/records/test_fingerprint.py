"""Equal content has equal fingerprints, and any change of content changes them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from seqdistill.core.errors import DataError, UserError
from seqdistill.records import fingerprint
from seqdistill.records.checksums import own_file


def model_folder(path: Path) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "inner" / "vocab.txt").write_text("a\nb\n")
    return path


def test_a_file_is_read_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    read: list[object] = []
    digest = fingerprint._digest

    def counted(path: str | Path) -> str:
        read.append(path)
        return digest(path)

    with monkeypatch.context() as patched:  # written a moment ago: never believed unread
        patched.setattr(fingerprint, "_digest_once", None)
        for content in (b"Before", b"Behind"):
            file.write_bytes(content)
            assert fingerprint.of_file(file) == hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(fingerprint, "_digest", counted)
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 0)
    for content in (b"before", b"behind"):
        file.write_bytes(content)
        os.utime(file, ns=(len(read), len(read)))  # no clock is too coarse for this test
        for _ in range(3):
            assert fingerprint.of_file(file) == hashlib.sha256(content).hexdigest()
    assert len(read) == 2


def test_a_folder_is_known_by_content_not_by_place_time_or_read_me(tmp_path: Path) -> None:
    first = model_folder(tmp_path / "first")
    second = Path(shutil.copytree(first, tmp_path / "second"))
    os.utime(second / "config.json", (1, 1))
    (second / "README.md").write_text("hello")
    (second / ".cache").mkdir()
    (second / ".cache" / "x.json").write_text("1")
    assert fingerprint.of_folder(first) == fingerprint.of_folder(second)


@pytest.mark.parametrize("change", ["content", "name", "added", "removed", "swapped"])
def test_any_change_of_a_folder_changes_its_fingerprint(tmp_path: Path, change: str) -> None:
    folder = model_folder(tmp_path / "model")
    before = fingerprint.of_folder(folder)
    if change == "content":
        (folder / "model.safetensors").write_bytes(b"Weights")
    elif change == "name":
        (folder / "config.json").rename(folder / "configs.json")
    elif change == "added":
        (folder / "generation_config.json").write_text("{}")
    elif change == "removed":
        (folder / "inner" / "vocab.txt").unlink()
    else:
        (folder / "config.json").write_bytes(b"weights")
        (folder / "model.safetensors").write_text("{}")
    assert fingerprint.of_folder(folder) != before


def test_a_folder_without_model_files_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"must be a folder with files ending in \.safetensors"):
            fingerprint.of_folder(path)
    with pytest.raises(UserError, match="must be a readable file"):
        fingerprint.of_file(tmp_path / "none")


def test_settings_ignore_the_order_of_keys_and_nothing_else() -> None:
    one = fingerprint.of_settings({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert one == fingerprint.of_settings({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert one != fingerprint.of_settings({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert one != fingerprint.of_settings({"a": 1.0, "b": {"c": [1, 2], "d": None}})
    assert one != fingerprint.of_settings({"a": "1", "b": {"c": [1, 2], "d": None}})


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
