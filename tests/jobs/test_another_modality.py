"""A modality that the package does not know: sounds, of which each letter is four frames.

Everything about it stands here: a reader, and a `Modality` for a small Speech2Text, whose encoder
reads floats and gives a state for every fourth frame. Data, collator, sources, samplers, decoding,
likelihood, labels and the training loop are the package's.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import BOS, EOS, PAD, VOCAB, character_tokenizer
from tests.training.small import Recorder, make_loop, same, weights
from torch import Tensor
from transformers import PreTrainedModel, Speech2TextConfig, Speech2TextForConditionalGeneration

from seqdistill.assembly.data import collator_for
from seqdistill.core.errors import EngineError, ModelError
from seqdistill.core.schedules import Schedule
from seqdistill.core.source import SourceInputs, bytes_of
from seqdistill.core.terms import Term
from seqdistill.data.batching import EpochBatches
from seqdistill.data.dataset import leave_out_long
from seqdistill.data.encoding import EncodedExample
from seqdistill.data.examples import Example
from seqdistill.data.text_encoding import encode
from seqdistill.evaluation.dev import DevScorer
from seqdistill.evaluation.likelihood import reference_nats, reference_predictions
from seqdistill.generation.ctranslate2_engine import CTranslate2Generator
from seqdistill.generation.model_facts import facts_of
from seqdistill.generation.sampling import TeacherMixedSampler, TransformersSampler
from seqdistill.generation.scoring import token_log_probs
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models import modalities
from seqdistill.models.adapters import SequenceModel
from seqdistill.models.loading import LoadedModel
from seqdistill.models.modalities import Modality, register_modality
from seqdistill.objectives.objective import WeightedObjective
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.sources.completions import Completion
from seqdistill.sources.mixture import MixtureSource, ReplaySource
from seqdistill.sources.rewarded import RewardedSource
from seqdistill.sources.rollouts import RolloutBatches, RolloutSampler
from seqdistill.sources.stored import StoredCompletions
from seqdistill.teachers.in_process import InProcessTeacher
from seqdistill.training.loop import TrainingLoop

FRAMES, CHANNELS = 4, 6
TOKENIZER = character_tokenizer()
SETTINGS: dict[str, Any] = {
    "steps": 20,
    "eval_every": 10,
    "warmup_steps": 3,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
}
SAMPLED = Decoding(mode="sample", max_new_tokens=5, batch_tokens=40)


class Sounds(Modality):
    """What a Speech2Text says of its sources."""

    reads_text = False

    def arguments(self, source: SourceInputs) -> dict[str, Tensor]:
        return {
            "input_features": source.tensors["input_features"],
            "attention_mask": source.mask.long(),
        }

    def encoded_mask(self, model: PreTrainedModel, source: SourceInputs, width: int) -> Tensor:
        lengths = (source.mask.sum(dim=1) + 3) // 4  # two convolutions that each halve
        return torch.arange(width, device=source.mask.device) < lengths[:, None]

    def tiny(self, model: PreTrainedModel) -> SourceInputs:
        return sound("ab")


def sound(text: str) -> SourceInputs:
    generator = torch.Generator().manual_seed(3)
    letters = torch.randn(27, FRAMES, CHANNELS, generator=generator)
    frames = [letters[string.ascii_lowercase.find(letter)] for letter in text]
    return SourceInputs.of(input_features=torch.cat(frames))


def read(texts: Sequence[str]) -> list[EncodedExample]:
    """The reader: sounds as sources, texts as targets."""
    rows = encode(
        [Example(f"e{i}", "", text) for i, text in enumerate(texts)], TOKENIZER, "seq2seq"
    )
    return [
        EncodedExample(row.id, (), row.target_ids, source=sound(text))
        for row, text in zip(rows, texts, strict=True)
    ]


TEXTS = ["ab", "cabe", "b", "eca", "ddb", "ace", "be", "dcba", "ea", "bd", "cc", "aeb"]
EXAMPLES = read(TEXTS)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(modalities, "_MODALITIES", {})
    register_modality("speech_to_text", lambda _model: Sounds())
    yield


def model(seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Speech2TextConfig(
            **{"vocab_size": VOCAB, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1},
            **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "conv_channels": 8},
            **{"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "input_feat_per_channel": CHANNELS},
            conv_kernel_sizes=[3, 3],  # with 5 a source's last state reads the padding
            **{"max_source_positions": 60, "max_target_positions": 40, "init_std": 0.3},
            **{"dropout": 0.0, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS},
            decoder_start_token_id=EOS,
        )
        return Speech2TextForConditionalGeneration(config).eval()


def student() -> SequenceModel:
    return SequenceModel(model(1))


def loaded(of: SequenceModel) -> LoadedModel:
    return LoadedModel(of.module, TOKENIZER, "sounds")


def sampler(of: SequenceModel) -> TransformersSampler:
    return TransformersSampler(of.module, TOKENIZER, kind="seq2seq", decoding=SAMPLED)


def dev_scorer(student: SequenceModel) -> DevScorer:
    collator = collator_for(loaded(student))
    return DevScorer(
        examples=EXAMPLES,
        references=TEXTS,
        tokenizer=TOKENIZER,
        generator=lambda live: TransformersGenerator(live, TOKENIZER, kind="seq2seq"),
        metrics=["chrf"],
        loss=lambda examples: reference_nats(student, examples, collator),
        max_new_tokens=6,
        chooses="chrf",
    )


def loop_in(folder: Path, student: SequenceModel, log: Recorder, **changes: Any) -> TrainingLoop:
    """A training on a teacher's every distribution, on policy, mixed, replayed and rewarded."""
    loop = make_loop(
        folder,
        student,
        source=on_policy(student),
        objective=WeightedObjective([Term.of("forward_kl")], reduction="token"),
        metrics=log,
        score_dev=dev_scorer(student),
        eval_metric="chrf",
        **SETTINGS | changes,
    )
    loop.teacher = InProcessTeacher(SequenceModel(model(2)), vocab_size=VOCAB)
    return loop


def test_a_padded_batch_says_of_each_source_what_it_says_of_it_alone() -> None:
    reader, collator = student(), collator_for(loaded(student()))
    batch = collator(EXAMPLES)
    assert batch.source is not None and not batch.source.mask.all()
    together = reader.states(batch).hidden
    for row, example in enumerate(EXAMPLES):
        alone = reader.states(collator([example])).hidden[0]
        torch.testing.assert_close(together[row, : len(alone)], alone)
    other = collator([EncodedExample("x", (), EXAMPLES[0].target_ids, source=sound("zz"))])
    assert not torch.allclose(reader.states(other).hidden[0], together[0, :3], atol=1e-2)


def test_likelihood_and_scoring_agree_with_the_models_own_logits() -> None:
    reader, collator = student(), collator_for(loaded(student()))
    found = reference_predictions(reader, EXAMPLES, collator)
    facts = facts_of(reader.module, TOKENIZER, kind="seq2seq")
    scored = token_log_probs(
        reader.module, [(e.prompt, e.target_ids) for e in EXAMPLES], facts=facts
    )
    for example, nats, log_probs in zip(EXAMPLES, found.nats, scored, strict=True):
        assert example.source is not None
        ids = torch.tensor([example.target_ids])
        with torch.no_grad():
            logits = reader.module(
                input_features=example.source.tensors["input_features"][None],
                decoder_input_ids=torch.tensor([[EOS, *example.target_ids[:-1]]]),
            ).logits
        plain = logits.log_softmax(-1).gather(2, ids[:, :, None])[0, :, 0]
        assert log_probs == pytest.approx(plain.tolist(), abs=1e-4)
        assert (-nats).tolist() == pytest.approx(plain.tolist(), abs=1e-4)


def test_samples_and_their_log_probs_are_those_that_training_computes() -> None:
    writer = student()
    source = RolloutSampler(sampler(writer), seed=1, samples_per_prompt=3)
    source.begin_update(1, 1)
    batch = source.complete(EXAMPLES).collated(collator_for(loaded(writer)))
    with torch.no_grad():
        states = writer.states(batch)
        plain = states.head.logits(states.hidden).log_softmax(-1)
    plain = plain.gather(2, batch.target_ids[:, :, None])[:, :, 0]
    assert batch.sampled_log_probs is not None
    # A Speech2Text counts the positions of what is not its pad, with a cache and without otherwise.
    mask = batch.target_mask & (batch.target_ids != PAD).all(dim=1, keepdim=True)
    assert mask.any(dim=1).sum() > 20
    torch.testing.assert_close(batch.sampled_log_probs[mask], plain[mask], atol=1e-4, rtol=1e-4)


def test_both_engines_of_transformers_write_the_same_greedily() -> None:
    writer = SequenceModel(model(7))
    greedy = Decoding(beam_size=1, max_new_tokens=5)
    sources = [example.prompt for example in EXAMPLES]
    stepwise = TransformersSampler(writer.module, TOKENIZER, kind="seq2seq", decoding=greedy)
    generate = TransformersGenerator(writer.module, TOKENIZER, kind="seq2seq")
    found = [best.token_ids for best, *_ in generate.generate(sources, greedy)]
    assert stepwise.sample(sources, seed=0).rows() == found
    assert len(set(found)) > 1, "the sounds are heard"
    mixed = TeacherMixedSampler(
        writer.module,
        TOKENIZER,
        teacher=model(2),
        kind="seq2seq",
        decoding=SAMPLED,
        vocab_size=VOCAB,
        teacher_fraction=0.0,
    )
    alone = sampler(writer).sample(sources, seed=4)
    assert mixed.sample(sources, seed=4).rows() == alone.rows()


def on_policy(learner: SequenceModel) -> RolloutBatches:
    def shortness(found: Sequence[Completion]) -> list[float]:
        return [-float(len(one.content_ids)) for one in found]

    half = Schedule.constant(0.5)
    fresh = RolloutSampler(sampler(learner), seed=2)
    kept = ReplaySource(fresh, capacity=60, max_age=9, fresh_fraction=half, seed=2)
    mixed = MixtureSource(kept, StoredCompletions("reference"), half, coin="example", seed=2)
    rewarded = RewardedSource(mixed, shortness, baseline="moving_average")
    collator = collator_for(loaded(learner))
    return RolloutBatches(
        EXAMPLES,
        rewarded,
        collator,
        EpochBatches(
            EXAMPLES,
            collator.kind,
            batch_tokens=48 // rewarded.sequences_per_prompt,
            expected_new_tokens=5,
            seed=1,
        ),
    )


def test_on_policy_distillation_through_the_loop_and_a_resumption(tmp_path: Path) -> None:
    whole, first, second, log = student(), student(), student(), Recorder()
    loop_in(tmp_path / "whole", whole, log).run(resume=True)
    losses = [row["loss_nats"] for row in log.rows if "loss_nats" in row]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert {"staleness", "realized_student_share", "reward"} <= log.rows[0].keys()
    assert sum("dev_chrf" in row for row in log.rows) == 2
    with pytest.raises(KeyboardInterrupt):
        loop_in(tmp_path, first, Recorder(stop_at=13), checkpoint_every=5).run(resume=True)
    loop_in(tmp_path, second, Recorder(), checkpoint_every=5).run(resume=True)
    assert same(weights(whole), weights(second))


def test_limits_lengths_and_fingerprints_are_of_the_frames() -> None:
    assert [e.num_source for e in EXAMPLES[:3]] == [8, 16, 4]
    kept = leave_out_long(EXAMPLES, max_source_tokens=8, max_target_tokens=9)
    assert len(kept.examples) == len(EXAMPLES), "a limit of tokens leaves out no frames"
    assert len({bytes_of(example.prompt) for example in EXAMPLES}) == len(EXAMPLES)
    source = EXAMPLES[0].prompt
    assert isinstance(source, SourceInputs)
    again = SourceInputs.from_state_dict(json.loads(json.dumps(source.state_dict())))
    assert bytes_of(again) == bytes_of(source)


def test_engines_and_models_that_cannot_read_it_say_so() -> None:
    with pytest.raises(EngineError, match=r"token ids.* Speech2Text.* reads input_features"):
        CTranslate2Generator(
            model(1), TOKENIZER, kind="seq2seq", verify_on=[((5, EOS), (6, EOS))], threads=1
        )
    modalities._MODALITIES.clear()
    with pytest.raises(ModelError, match="register_modality"):
        SequenceModel(model(1))
