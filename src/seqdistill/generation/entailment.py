"""A reward from a classifier: how surely a document entails what was written about it.

The classifier is given: a sequence-classification model of transformers that was trained on natural
language inference. Safetensors only, no remote code. Trains nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from seqdistill.core.batches import padded_batches
from seqdistill.core.errors import ModelError, first_line
from seqdistill.core.hub import only_local
from seqdistill.models.dropout import evaluation_mode
from seqdistill.models.loading import load_config, load_tokenizer

_LOG = logging.getLogger(__name__)
_BATCH_TOKENS = 4096


class EntailmentReward:
    """A reward (see `metrics.rewards`): the probability that a prompt entails its completion.

    Prompts too long for the classifier are cut at their end; their share is logged once.

    Source: Roit et al. 2023; Agarwal et al. 2023 (RL with GKD), whose classifier is a T5-XXL.
    """

    def __init__(self, classifier_folder: str | Path) -> None:
        """Loads the classifier in fp32; on a GPU with `to`.

        Raises ModelError when the folder holds no whole classifier with a tokenizer, or none with a
        label "entailment", whatever its case.
        """
        name = str(classifier_folder)
        self._tokenizer = load_tokenizer(name)
        if self._tokenizer.pad_token_id is None:
            raise ModelError(
                f"The classifier {name!r} must have a tokenizer that can pad, but its pad_token is "
                "None; set it in tokenizer_config.json."
            )
        self._model = _load_classifier(name)
        labels = {str(label).casefold(): i for i, label in self._model.config.id2label.items()}
        if "entailment" not in labels:
            raise ModelError(
                f"The classifier {name!r} must have a label entailment, but its labels are "
                f"{', '.join(labels)}; set id2label in its config.json"
            )
        self._label_id = int(labels["entailment"])
        self._max_length = _max_length(self._model, self._tokenizer.model_max_length)
        self._told = False

    def to(self, device: torch.device | str) -> EntailmentReward:
        """The same reward with its classifier on another device."""
        self._model.to(device)
        return self

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        references: Sequence[str | None],
        /,
    ) -> list[float]:
        """One probability for each completion; references are not looked at.

        An empty completion has 0: it says nothing that could be entailed. The value of an output
        does not depend on the others, up to rounding.
        """
        pairs = list(zip(prompts, completions, strict=True))
        spoken = [number for number, (_, text) in enumerate(pairs) if text.strip()]
        rewards = [0.0] * len(pairs)
        if not spoken:
            return rewards
        encoded = self._encoded([pairs[number] for number in spoken])
        lengths = [len(ids) for ids in encoded["input_ids"]]
        with evaluation_mode(self._model), torch.inference_mode():
            for batch in padded_batches(lengths, batch_tokens=_BATCH_TOKENS):
                inputs = self._tokenizer.pad(
                    {key: [rows[index] for index in batch] for key, rows in encoded.items()},
                    return_tensors="pt",
                ).to(self._model.device)
                logits = self._model(**inputs).logits.float()  # (batch, labels)
                chosen = logits.softmax(dim=-1)[:, self._label_id].tolist()
                for index, value in zip(batch, chosen, strict=True):
                    rewards[spoken[index]] = value
        return rewards

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        """Premise and hypothesis of each pair as the classifier reads them, cut where too long."""
        premises, hypotheses = ([pair[side] for pair in pairs] for side in (0, 1))
        whole = self._tokenizer(premises, hypotheses, verbose=False)
        limit = self._max_length
        num_long = sum(limit is not None and len(ids) > limit for ids in whole["input_ids"])
        if not num_long:
            return dict(whole)
        if not self._told:
            self._told = True
            _LOG.warning(
                "%d of %d prompts are longer than the %d tokens that the classifier reads; their "
                "ends are cut, in later batches too",
                num_long,
                len(pairs),
                limit,
            )
        cut = self._tokenizer(premises, hypotheses, truncation="only_first", max_length=limit)
        return dict(cut)


def _load_classifier(name: str) -> PreTrainedModel:
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=load_config(name),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            local_files_only=only_local(name, trust_remote_code=False),
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The classifier must load from the folder {name!r}, but: {first_line(error)} "
            "Give a sequence-classification model written by save_pretrained."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"The folder {name!r} must hold every weight of a {type(model).__name__}, but it has "
            f"no {missing[0]!r} ({len(missing)} are missing); give a model trained to classify."
        )
    whole: PreTrainedModel = model.eval()
    return whole


def _max_length(model: PreTrainedModel, tokenizers: int) -> int | None:
    """How many tokens the classifier reads; None without a limit.

    Tokenizers without a limit of their own say a number of 30 digits.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= model.config.pad_token_id + 1  # their positions start after the pad token
    limits = [limit for limit in (positions, tokenizers) if limit is not None and limit < 10**9]
    return min(limits, default=None)
