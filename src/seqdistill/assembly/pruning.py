"""From a recipe's pruning section to the mask that the training loop keeps.

Which weights are least is `compression.pruning`'s; keeping them at zero is the loop's.
"""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from seqdistill.compression.pruning import PruningMask, prunable_weights, prune
from seqdistill.models.lora import LoraAdapter
from seqdistill.recipe.schema import Recipe

_LOG = logging.getLogger(__name__)

# A random or trained weight is exactly zero about never: more of them than this were pruned.
_PRUNED_SHARE = 0.05


def build_mask(recipe: Recipe, model: PreTrainedModel) -> PruningMask:
    """The mask of the student's weights that were just set to zero, as the recipe says.

    A recipe without `pruning.sparsity` gives a mask that speaks of no weights. Raises ModelError
    for patterns of `pruning.exclude` that match no matrix, and for a share that leaves nothing.
    """
    section = recipe.pruning
    if section.sparsity is None:
        return PruningMask.of_nothing()
    return prune(
        model, pruned_share=section.sparsity, scheme=section.scheme, exclude=section.exclude
    )


def pruning_facts(mask: PruningMask) -> dict[str, object]:
    """What the manifest says of a pruned student; nothing of one that is not."""
    if mask.num_weights == 0:
        return {}
    facts = {"weights": mask.num_weights, "kept": mask.num_kept, "density": mask.density}
    return {"pruning": {**facts, "densities": mask.densities()}}


def warn_of_zeros(model: PreTrainedModel, mask: PruningMask, lora: LoraAdapter | None) -> None:
    """Warns once when training is about to fill the zeros of a student that was pruned before.

    Only matrices are looked at: biases that start from zero are many, and were never pruned. Nor
    were adapters, which also start from zero, but they fill the matrices that they are merged into.
    """
    if mask.num_weights > 0:
        return
    weights = (prunable_weights(model) if lora is None else lora.joined_weights()).values()
    num_weights = sum(weight.numel() for weight in weights)
    num_zeros = num_weights - sum(int(weight.count_nonzero()) for weight in weights)
    if num_zeros > _PRUNED_SHARE * num_weights:
        _LOG.warning(
            "%d of the student's %d weights in matrices are exactly zero, as after pruning, and "
            "training will fill them; set pruning.sparsity=0%s to keep them zero",
            num_zeros,
            num_weights,
            "" if lora is None else " and leave student.lora out",
        )
