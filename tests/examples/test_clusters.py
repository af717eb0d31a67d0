"""The launch files are read by the programs they are for, and start what they say."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from torch.distributed.run import get_args_parser
from typer.main import get_command

from seqdistill.cli.main import app

FILES = Path(__file__).parents[2] / "examples" / "clusters"
SCRIPTS = sorted([*FILES.glob("*.sh"), *FILES.glob("*.sbatch")])
SLURM = {
    *("job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time"),
    *("requeue",),
}
"""Options of sbatch, as its manual has them."""


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_name_options_that_exist(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text("utf-8")
    assert set(re.findall(r"^#SBATCH --([\w-]+)", text, re.MULTILINE)) <= SLURM
    commands = re.sub(r"\\\n", " ", text)
    for name, given in re.findall(r"^ *(?:srun [^#\n]*?)?\bseqdistill (\w+) (.*)$", commands, re.M):
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(--[\w-]+)", given)) <= known


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP")])
def test_accelerate_reads_its_files(name: str, kind: str) -> None:
    config = load_config_from_file(str(FILES / f"{name}.yaml"))
    assert config.distributed_type == kind and config.num_processes == 8
    assert name == "ddp" or config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("machines", [1, 2])
def test_torchrun_reads_what_the_script_gives_it(tmp_path: Path, machines: int) -> None:
    (tmp_path / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "torchrun").chmod(0o755)
    given = ["train", "word_kd", "output_dir=a b"]
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    asked = {"PATH": path, "PROCESSES": "2", "MACHINES": str(machines), "HEAD": "node1:29500"}
    words = ["bash", str(FILES / "processes.sh"), *given]
    done = subprocess.run(words, env=asked, capture_output=True, text=True, check=True)
    read = get_args_parser().parse_args(done.stdout.splitlines())
    assert read.nproc_per_node == "2" and read.standalone == (machines == 1)
    meeting = (read.nnodes, read.rdzv_backend, read.rdzv_endpoint)
    assert machines == 1 or meeting == ("2", "c10d", "node1:29500")
    assert (read.module, read.training_script) == (True, "seqdistill")
    assert read.training_script_args == given and find_spec("seqdistill.__main__")
