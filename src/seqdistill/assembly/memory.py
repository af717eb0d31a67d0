"""What a training takes in memory, told from configurations: before anything large is loaded.

Estimates, within a factor of two; `--dry-run` measures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from seqdistill.assembly.models import model_folder, teacher_placement
from seqdistill.compression.layers import keep_layers, parameter_count
from seqdistill.core.hub import only_local
from seqdistill.models.loading import (
    LoadedModel,
    fitting,
    load_config,
    load_extractor,
    load_pair,
    load_tokenizer,
)
from seqdistill.models.placement import Precision
from seqdistill.models.places import base_of
from seqdistill.models.scratch import configuration, random_model
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import memory_bytes

_MOMENTS = {"adamw": 8, "adamw_8bit": 2, "sgd": 0}
"""Bytes of the optimizer's state for a trained number."""
_LIBRARIES = 700 * 2**20
_CHECKPOINTED = 0.1
"""The share of activations that is left where they are computed again."""


def sketched(name: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """Model and tokenizer of a folder or hub name, the model with shapes and no weights.

    Marian's, whose weights say which symbols it has, is a random one. Raises ModelError for a name
    that leads to no model, and for one whose embedding is smaller than its vocabulary.
    """
    folder = model_folder(name)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    if trust_remote_code and getattr(config, "auto_map", None):  # it may do anything: no sketch
        return load_pair(folder, trust_remote_code=trust_remote_code)
    with torch.device("cpu" if config.model_type == "marian" else "meta"):
        model = random_model(config, seed=0)
    base = base_of(folder)
    local = only_local(base, trust_remote_code=trust_remote_code)
    with contextlib.suppress(OSError):  # without that file transformers makes one of config.json
        model.generation_config = GenerationConfig.from_pretrained(base, local_files_only=local)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    extractor = load_extractor(folder, config)
    return fitting(LoadedModel(model, tokenizer, name, extractor=extractor))


def sketched_student(recipe: Recipe, teacher: LoadedModel | None) -> LoadedModel | None:
    """The student before its first update, without weights: at least as large as it will be.

    None for one whose vocabulary is learned from the data.
    """
    section = recipe.student
    if section.model is not None:
        return sketched(section.model, trust_remote_code=section.trust_remote_code)
    if teacher is None:
        return None
    if section.init == "teacher_layers":
        kept = {"encoder_layers": section.encoder_layers, "decoder_layers": section.decoder_layers}
        with teacher.model.device:
            model = keep_layers(teacher.model, **kept)
        return dataclasses.replace(teacher, model=model, name="student")
    assert section.architecture is not None
    with torch.device("meta"):
        model = random_model(configuration(section.architecture, teacher.tokenizer), seed=0)
    return dataclasses.replace(teacher, model=model, name="student")


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a training takes, part by part."""

    parts: Mapping[str, int]
    activations: int
    """Of the largest micro-batch: what `training.batch_tokens` decides."""

    @property
    def fixed(self) -> int:
        """What is there whatever the batch."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """The peak."""
        return self.fixed + self.activations


def memory_need(
    recipe: Recipe,
    student: PreTrainedModel,
    teachers: Iterable[PreTrainedModel],
    *,
    device: torch.device,
    precision: Precision,
    sequences: tuple[int, int] | None = None,
) -> MemoryNeed:
    """What training that student takes on the device, its teachers beside it.

    `sequences` are the number of those in the data and the tokens of the longest, which no
    micro-batch exceeds; None where that is not known.

    Activations: the inputs and outputs of every linear layer but the head, whose logits are made in
    chunks; of a Transformer layer of width h that is 72 h bytes a token in fp32, where Korthikanti
    et al. 2022 (eq. 2) count 68 h, and their 5 bytes for an attention score. A model that trains is
    in fp32 whatever it is stored in.
    """
    training, lora = recipe.training, recipe.student.lora
    matrices = [
        module.weight
        for module in student.modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.dim() == 2
        if not isinstance(module, nn.Embedding) and module is not student.get_output_embeddings()
    ]
    widths = sum(sum(matrix.shape) for matrix in matrices)
    size = parameter_count(student)
    trained = size if lora.rank is None else lora.rank * widths
    parts = {
        "student's weights": 4 * size,
        "gradients": 4 * trained,
        "optimizer": _MOMENTS[training.optimizer] * trained,
    }
    placement = teacher_placement(recipe)
    if size_of_teachers := sum(
        placement.dtype_of(teacher.config).itemsize * parameter_count(teacher)
        for teacher in teachers
    ):
        parts["teacher's weights"] = size_of_teachers
    elif recipe.teacher.is_student and recipe.teacher.average_decay > 0.0:
        parts["teacher's weights"] = 4 * size
    if device.type == "cpu":
        parts["libraries"] = _LIBRARIES
    config = student.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    layers = sum(type(module).__name__.endswith("Attention") for module in student.modules())
    length, tokens = recipe.data.max_source_tokens + recipe.data.max_target_tokens, math.inf
    if sequences is not None:
        length, tokens = min(length, sequences[1]), math.prod(sequences)
    tokens = min(tokens, training.batch_tokens)
    length = int(min(length, tokens))
    scores = 5 * heads * length * layers  # bytes a token in 16 bits
    a_token = (4 * widths + 2 * scores) * (0.5 if precision == "bf16" else 1.0)
    share = _CHECKPOINTED if training.gradient_checkpointing else 1.0
    return MemoryNeed(parts, int(tokens * a_token * share))


def memory_of(device: torch.device) -> int:
    """Bytes that the device has, or that this process may take of them; 0 where nothing tells."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        allowed = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return memory_bytes()
    return min(allowed, memory_bytes())
