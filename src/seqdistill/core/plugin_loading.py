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

_trusting = False


def trust_plugins() -> None:
    """Lets this process run what the recipes of run directories name: the user said so."""
    global _trusting
    _trusting = True


def load_plugins(names: tuple[str, ...], *, of_a_run: bool = False) -> None:
    """Imports modules, files (`path/to/file.py`, from the current folder) and installed plug-ins.

    Installed are the entry points of the group `seqdistill.plugins`. Each is imported once. This
    runs the code of whoever wrote them: what the user's own recipe or command line names is trusted
    as his own reward function is. The recipe in a run directory may be someone else's
    (`of_a_run`): what is not imported yet is then refused unless `trust_plugins` was called.

    Raises UserError for one that cannot be imported, naming it and the cause.
    """
    for entry in _installed(tuple(sys.path)):
        _imported(entry.value, entry.load)
    for name in names:
        module = _module_of(_path(name)) if name.endswith(".py") else name
        is_new = module not in sys.modules
        if is_new and of_a_run and not _trusting:
            raise UserError(
                f"the plug-in {name!r} must be named on this command line when the recipe is that "
                f"of a run, which may be someone else's; where you trust it, give plugins={name} "
                "to train or evaluate, or --trust-remote-code"
            )
        if is_new and name.endswith(".py"):
            _imported(name, functools.partial(_from_file, _path(name)))
        elif is_new:
            _imported(name, functools.partial(importlib.import_module, name))


@functools.lru_cache(maxsize=1)  # to look through all that is installed takes 10 ms
def _installed(_search_path: tuple[str, ...]) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(importlib.metadata.entry_points(group="seqdistill.plugins"))


def plugin_files(names: tuple[str, ...]) -> dict[str, Path]:
    """The file of each plug-in that has one, by the name that the recipe gives it."""
    found: dict[str, Path] = {}
    for name in names:
        if name.endswith(".py"):
            found[name] = _path(name)
        elif (file := getattr(sys.modules.get(name), "__file__", None)) is not None:
            found[name] = Path(file)
    return {name: path for name, path in found.items() if path.is_file()}


def _path(name: str) -> Path:
    return Path(name).expanduser().resolve()


def _module_of(path: Path) -> str:
    return f"seqdistill_plugin_{path.stem}_{zlib.crc32(str(path).encode()):08x}"


def _from_file(path: Path) -> None:
    name = _module_of(path)
    if not path.is_file():
        raise ImportError(f"there is no file {path}, as paths count from the current folder")
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
    except (Exception, SystemExit) as error:
        remedy = "fix it"
        if isinstance(error, ImportError):
            remedy = "install it, put its folder in PYTHONPATH, or name its file, path/to/file.py"
        raise UserError(
            f"Cannot import the plug-in {name!r}: {type(error).__name__}: {first_line(error)}; "
            f"{remedy}"
        ) from error
