"""Imports a user's own modules, so that their methods register. Knows no family."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from seqdistill.core.errors import UserError, first_line


def load_plugins(names: tuple[str, ...]) -> None:
    """Imports modules, files (`path/to/file.py`, from the current folder) and installed plug-ins.

    Installed are the entry points of the group `seqdistill.plugins`. Each is imported once. This
    runs the code of whoever wrote them: a file or module that the user's own recipe names is
    trusted as his own reward function is.

    Raises UserError for one that cannot be imported, naming it and the cause.
    """
    for entry in importlib.metadata.entry_points(group="seqdistill.plugins"):
        _imported(entry.value, entry.load)
    for name in names:
        if name.endswith(".py"):
            _imported(name, functools.partial(_from_file, Path(name).expanduser().resolve()))
        else:
            _imported(name, functools.partial(importlib.import_module, name))


def _from_file(path: Path) -> None:
    name = f"seqdistill_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _imported(name: str, load: Callable[[], object]) -> None:
    try:
        load()
    except UserError:
        raise
    except Exception as error:
        remedy = "fix it"
        if isinstance(error, ImportError):
            remedy = "install it, put its folder in PYTHONPATH, or name its file, path/to/file.py"
        raise UserError(
            f"Cannot import the plug-in {name!r}: {type(error).__name__}: {first_line(error)}; "
            f"{remedy}"
        ) from error
