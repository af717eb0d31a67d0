"""The facts are there and tell nothing private."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

import pytest

from seqdistill.records import environment


def test_versions_are_those_of_the_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package-at-all", "pydantic"))
    found = environment.versions()
    assert found["no-such-package-at-all"] == "not installed"
    assert found["python"] == platform.python_version()
    assert found["pydantic"] == importlib.metadata.version("pydantic")
    assert found["seqdistill"] == importlib.metadata.version("seqdistill")


def test_the_cpu_model_is_read_and_unknown_elsewhere(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert environment.cpu_model(cpuinfo) == "unknown"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Abacus (R) 3: fast\n")
    assert environment.cpu_model(cpuinfo) == "Abacus (R) 3: fast"


def test_no_host_user_or_path_is_among_the_facts() -> None:
    text = json.dumps(environment.environment_facts())
    private = [platform.node(), str(Path.cwd()), sys.prefix, str(Path.home())]
    assert not [fact for fact in private if len(fact) > 1 and fact in text]
    assert f'"{getpass.getuser()}"' not in text
