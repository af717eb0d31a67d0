"""The run directory: which file of a run is called what, and how it is written and read.

A run is one student; a comparison is a run directory whose sub-folders, one a method, are run
directories too. It removes nothing but rows that will be logged again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from seqdistill.core.errors import UserError
from seqdistill.records import atomic
from seqdistill.records.atomic import JsonValue
from seqdistill.records.fingerprint import of_bytes, of_file, of_settings
from seqdistill.records.locks import INSIDE, check_not_held
from seqdistill.records.results import Results, Sample, parsed
from seqdistill.records.writable import check_writable

RECIPE = "recipe.yaml"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
ALARMS = "alarms.jsonl"
RESULTS = "results.json"
SAMPLES = "samples.jsonl"
OUTPUTS = "outputs.jsonl"
REPORT = "report.html"
CHECKPOINTS = "checkpoints"
STUDENT = "student"
ADAPTER = "adapter"
TENSORBOARD = "tensorboard"
Resume = bool | Literal["latest-whole"]
"""Whether a run goes on from its latest checkpoint; `latest-whole` passes over damaged ones."""
_CHECKSUM = "sha256"
_FILES = "files"
"""Where the manifest keeps the SHA-256 of files that are written whole."""


class RunDirectory:
    """The folder of one run. Make one with `create` or `open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / RECIPE  # every setting of the run, resolved
        self.manifest_path = self.path / MANIFEST  # versions, machine, seeds, fingerprints
        self.metrics_path = self.path / METRICS  # measured in training
        self.rollouts_path = self.path / ROLLOUTS  # some of the sequences sampled in training
        self.alarms_path = self.path / ALARMS  # signs of collapse, as they were noticed
        self.results_path = self.path / RESULTS  # the final numbers
        self.samples_path = self.path / SAMPLES  # test sentences side by side
        self.outputs_path = self.path / OUTPUTS  # what every system wrote for the test set
        self.report_path = self.path / REPORT  # for people
        self.checkpoints_path = self.path / CHECKPOINTS  # resumable states
        self.student_path = self.path / STUDENT  # what `from_pretrained` loads
        self.adapter_path = self.path / ADAPTER  # adapters alone, for peft
        self.tensorboard_path = self.path / TENSORBOARD  # event files
        self._writers: dict[Path, atomic.JsonLinesWriter] = {}
        self._ends: dict[Path, int] = {}
        """Bytes of the logs when they were last closed."""

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """A new run directory at `path`, which holds no file yet.

        Raises UserError, and writes nothing, when `path` is a file or a folder that is not empty.
        """
        run = cls(path)
        run.check_free()
        run.path.mkdir(parents=True, exist_ok=True)
        for torn in run.path.glob(f"{RECIPE}.partial-*"):
            torn.unlink()
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The existing run directory at `path`: a folder with a recipe in it.

        Raises UserError, naming the folder, when it is missing or is no run directory.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(
                f"a run directory must exist to be opened, got {str(path)!r}, which is no folder; "
                "name the output_dir of a run that was started"
            )
        if not run.recipe_path.is_file():
            raise UserError(
                f"a run directory must hold {RECIPE}, got {str(path)!r}, which has none; "
                "name the output_dir of a run that was started"
            )
        return run

    @property
    def is_begun(self) -> bool:
        """Whether anything is here but what a process left that was killed as it began."""
        if not self.path.is_dir():
            return os.path.lexists(self.path)
        entries = self.path.iterdir()
        return any(not e.match(f"{RECIPE}.partial-*") and e.name != INSIDE for e in entries)

    def check_free(self) -> None:
        """Raises UserError when a new run cannot begin here; writes nothing."""
        check_writable(self.path, "output_dir")
        if self.is_begun:
            check_not_held(self.path)
            kind = "a folder that is not empty" if self.path.is_dir() else "a file"
            raise UserError(
                f"output_dir must be a new or empty folder, got {str(self.path)!r}, which is "
                f"{kind}; resume that run with --resume, or give another output_dir=..."
            )

    def member(self, name: str) -> RunDirectory:
        """The run directory of one compared method: the sub-folder `name`, existing or not."""
        return RunDirectory(self.path / name)

    def members(self) -> list[RunDirectory]:
        """The run directories of compared methods, by name; `1-seq_kd` is a stage of a chain."""
        folders = sorted(child for child in self.path.iterdir() if child.is_dir())
        return [
            RunDirectory(folder)
            for folder in folders
            if (folder / RECIPE).is_file() and not re.match(r"\d+-", folder.name)
        ]

    def write_recipe(self, text: str) -> None:
        """Stores the resolved recipe's YAML text."""
        self._write(self.recipe_path, text)

    def read_recipe(self) -> str:
        """The resolved recipe's YAML text. Raises UserError when it is missing or damaged."""
        return _read_text(self.whole(self.recipe_path))

    def write_manifest(self, manifest: Mapping[str, object]) -> None:
        """Stores the facts of the run, and checksums of the recipe and of themselves."""
        files = self._files()
        if self.recipe_path.is_file():
            # It is there before the manifest is, and before a kill that came between them.
            files.setdefault(RECIPE, of_file(self.recipe_path))
        self._write_manifest(manifest, files)

    def read_manifest(self) -> dict[str, JsonValue]:
        """The facts of the run. Raises UserError when they are missing or damaged."""
        manifest = _read_json_object(self.manifest_path)
        wanted = manifest.pop(_CHECKSUM, None)
        if wanted is not None and wanted != _checksum_of(manifest):
            raise UserError(
                f"{self.manifest_path} must say what the run wrote into it, but does not match its "
                "checksum: it was damaged or changed; restore it, or run again"
            )
        manifest.pop(_FILES, None)
        return manifest

    def update_manifest(self, facts: Mapping[str, object]) -> None:
        """Adds `facts` to the manifest at its top level, over what has the same name."""
        known = self.read_manifest() if self.manifest_path.exists() else {}
        self.write_manifest({**known, **facts})

    def _write_manifest(self, facts: Mapping[str, object], files: Mapping[str, str]) -> None:
        content = {**facts, _FILES: files} if files else dict(facts)
        content[_CHECKSUM] = _checksum_of(content)
        atomic.write_json(self._there(self.manifest_path), content)

    def _files(self) -> dict[str, str]:
        """The SHA-256 of files that the manifest vouches for, by name."""
        if not self.manifest_path.is_file():
            return {}
        noted = _read_json_object(self.manifest_path).get(_FILES)
        return {n: str(sha256) for n, sha256 in noted.items()} if isinstance(noted, dict) else {}

    def whole(self, path: Path) -> Path:
        """`path`, a file of this folder that the run wrote, existing or not.

        Raises UserError when it is not what the manifest says was written. Of a folder without a
        manifest, or of a file that it does not list, nothing is known.
        """
        wanted = self._files().get(path.name)
        if wanted is not None and path.is_file() and of_file(path) != wanted:
            raise UserError(
                f"{path} must be what the run wrote, but does not match its checksum: it was "
                "damaged or changed; restore it, or, where it was changed on purpose, remove "
                f"{_FILES!r} and {_CHECKSUM!r} from {self.manifest_path}"
            )
        return path

    def _write(self, path: Path, content: str) -> None:
        """Replaces a file of this folder, and what the manifest says of it."""
        self._there(path)
        self._note_file(path, None)  # a kill must not leave it with the checksum of the old one
        atomic.write_text(path, content)
        self._note_file(path, of_bytes(content.encode("utf-8")))

    def _note_file(self, path: Path, sha256: str | None) -> None:
        if self.manifest_path.is_file():
            noted = {path.name: sha256} if sha256 is not None else {}
            others = {n: found for n, found in self._files().items() if n != path.name}
            self._write_manifest(self.read_manifest(), {**others, **noted})

    @property
    def is_finished(self) -> bool:
        """Whether its student was trained to the end and is there."""
        if not (self.manifest_path.is_file() and self.student_path.is_dir()):
            return False
        return self.read_manifest().get("finished") is True

    def write_results(self, results: Results) -> None:
        """Stores the final numbers."""
        content = results.model_dump(mode="json", exclude_none=True)
        self._write(self.results_path, atomic.json_text(content))

    def read_results(self) -> Results:
        """The final numbers. Raises UserError when they are missing or damaged."""
        content = _read_json_object(self.whole(self.results_path))
        return parsed(Results, content, self.results_path)

    def write_samples(self, rows: Sequence[Sample]) -> None:
        """Stores the sentences shown side by side."""
        self._write(self.samples_path, _lines([row.model_dump() for row in rows]))

    def read_samples(self) -> list[Sample]:
        """The sentences shown side by side; none when the file is missing."""
        rows = atomic.read_json_lines(self.whole(self.samples_path))
        return [parsed(Sample, row, self.samples_path) for row in rows]

    def write_outputs(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Stores what every system wrote for the test set."""
        self._write(self.outputs_path, _lines(rows))

    def read_outputs(self) -> list[dict[str, JsonValue]]:
        """What every system wrote for the test set; none when the file is missing."""
        return atomic.read_json_lines(self.whole(self.outputs_path))

    def log_metrics(self, step: int, values: Mapping[str, object]) -> None:
        """Appends what was measured at `step`; the line is on its way to disk on return."""
        self._log(self.metrics_path, {"step": step, **values})

    def read_metrics(self) -> list[dict[str, JsonValue]]:
        """What was measured, in the order of writing, each row with its `step`.

        Raises UserError when the file is damaged: of a finished run, when a single bit is.
        """
        return self._read_log(self.metrics_path)

    def log_rollouts(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Appends sequences that were written for the update `step`."""
        for row in rows:
            self._log(self.rollouts_path, {"step": step, **row})

    def read_rollouts(self) -> list[dict[str, JsonValue]]:
        """The sequences that were kept, each with its `step`; none when the file is missing."""
        return self._read_log(self.rollouts_path)

    def log_alarm(self, step: int, row: Mapping[str, object]) -> None:
        """Appends an alarm that was raised at `step`."""
        self._log(self.alarms_path, {"step": step, **row})

    def read_alarms(self) -> list[dict[str, JsonValue]]:
        """The alarms that were raised, each with its `step`; none when the file is missing."""
        return self._read_log(self.alarms_path)

    @property
    def _logs(self) -> tuple[Path, ...]:
        """What grows while the run goes on."""
        return self.metrics_path, self.rollouts_path, self.alarms_path

    def logs_so_far(self) -> dict[str, dict[str, JsonValue]]:
        """How many bytes of each log there are, and their SHA-256; what was logged is durable."""
        self.close()
        return {path.name: _extent(self._there(path)) for path in self._logs}

    def go_back_to(self, logs: Mapping[str, Mapping[str, JsonValue]]) -> None:
        """Cuts off what was logged later than `logs_so_far` found; it will be logged again.

        An empty file in the place of a log stays empty: so a user goes on without its rows. Raises
        UserError, and cuts nothing, when the rows from before are not what they were.
        """
        self.close()
        for path in self._logs:
            size = path.stat().st_size if path.exists() else None
            num_bytes = _bytes_in(logs, path)
            if size != 0 and num_bytes and logs[path.name] != _extent(path, num_bytes):
                raise UserError(
                    f"{path} must begin with the rows that were logged before the checkpoint, but "
                    f"{'they have changed' if size else 'it is missing'}; restore it, or, to go on "
                    "without them, put an empty file in its place"
                )
        self._ends.clear()
        for path in self._logs:
            if path.exists():
                os.truncate(path, min(path.stat().st_size, _bytes_in(logs, path)))

    def close(self) -> None:
        """Makes what was logged durable; logging may go on afterwards."""
        for path, writer in self._writers.items():
            self._ends[path] = writer.close()
        self._writers.clear()

    def _log(self, path: Path, row: Mapping[str, object]) -> None:
        if path not in self._writers:
            self._writers[path] = atomic.JsonLinesWriter(self._there(path))
        self._writers[path].write(row)

    def _there(self, path: Path) -> Path:
        """The path in this folder; neither is made again when somebody removed it."""
        size = path.stat().st_size if path.exists() else 0
        if not self.path.is_dir() or self._ends.get(path, size) != size:
            raise UserError(
                f"{self.path} must stay as it is while its run goes on, but it or {path.name} in "
                "it was removed or changed; bring it back and continue with --resume, or start "
                "again"
            )
        return path

    def _read_log(self, path: Path) -> list[dict[str, JsonValue]]:
        is_finished = path.exists() and self.is_finished
        logs = self.read_manifest().get("logs") if is_finished else None
        if isinstance(logs, dict) and logs.get(path.name) != _extent(path):
            raise UserError(
                f"{path} must be what was logged until the run was finished, but has changed "
                "since; restore it, or remove it to go on without it"
            )
        return atomic.read_json_lines(path)


def _bytes_in(logs: Mapping[str, Mapping[str, JsonValue]], path: Path) -> int:
    return int(str(logs.get(path.name, {}).get("bytes", 0)))


def _extent(path: Path, num_bytes: int | None = None) -> dict[str, JsonValue]:
    """The size and the SHA-256 of a file, or of its first bytes; a missing one is empty."""
    content = path.read_bytes()[:num_bytes] if path.exists() else b""
    return {"bytes": len(content), "sha256": of_bytes(content)}


def _checksum_of(manifest: Mapping[str, object]) -> str:
    # As JSON gives it back, which knows no tuples.
    return of_settings(json.loads(json.dumps(manifest, allow_nan=False)))


def _lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} must be a readable UTF-8 file, got: {error}; "
            "was the run finished, and is this its run directory?"
        ) from error


def _read_json_object(path: Path) -> dict[str, JsonValue]:
    text = _read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} must be JSON, got {text[:60]!r} ({error}); restore the file or run again"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {text[:60]!r}; run again")
    return cast("dict[str, JsonValue]", value)
