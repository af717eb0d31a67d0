"""The launch files are read by the programs they are for, and start what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from tests.jobs.runs import folder_for, settings_in, texts
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


@pytest.mark.slow
def test_two_processes_of_a_script_train_one_student_in_shards(tmp_path: Path) -> None:
    folder_for(tmp_path, "mbart")
    given = texts(settings_in(tmp_path, "run"))
    folders = (os.path.dirname(sys.executable), os.environ["PATH"])
    more = ("training.parallel=fsdp2", "training.gradient_accumulation_steps=2")
    done = subprocess.run(
        ["bash", str(FILES / "processes.sh"), "train", "word_kd", *given, *more],
        env={
            **os.environ,
            "PROCESSES": "2",
            "PATH": os.pathsep.join(folders),
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, ("src", "."))),
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes train one student together" in done.stdout + done.stderr
    assert (tmp_path / "runs" / "run" / "student" / "model.safetensors").is_file()
