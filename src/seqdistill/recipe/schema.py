"""The keys of a recipe: meaning, range and why the default is what it is.

A method is where the sequences come from (`sequences`) x what the teacher says about them
(`teacher`) x what the loss is (`objective`). Imports no torch; knows no classes of other packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from seqdistill.core.families import METRICS, SparseForm, all_members
from seqdistill.core.plugin_loading import load_plugins
from seqdistill.recipe.objective_schema import ObjectiveSection
from seqdistill.recipe.sections import (
    Attention,
    ComputeType,
    Device,
    Dtype,
    NameOf,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
    ShareBelowOne,
    UserPath,
    as_list,
    as_text,
    refresh_sections,
)
from seqdistill.recipe.sequences_schema import SequencesSection
from seqdistill.recipe.server_schema import TeacherServerSection

BleuTokenizer = Literal[
    "auto",
    "13a",
    "intl",
    "zh",
    "ja-mecab",
    "ko-mecab",
    "char",
    "none",
    "spm",
    "flores101",
    "flores200",
    "spBLEU-1K",
]


def named_members(given: object) -> object:
    """A list of teachers as a tuple, those that are given by name alone as sections."""
    if not isinstance(given, (list, tuple)):
        return given
    return tuple({"model": one} if isinstance(one, str) else one for one in given)


class DataSection(Section):
    """Where the examples are and how they are cut."""

    train: UserPath | None = None
    """A file (.tsv .jsonl .parquet), a pair of line-aligned text files `a.src,a.tgt`, a `datasets`
    folder or hub name, or `bundled:en-de`. Of speech the rows have the columns `audio`, paths from
    the table's folder, and `text`."""
    dev: UserPath | None = None
    """Examples for choosing checkpoints; same forms as `train`. Never used for updates."""
    test: UserPath | None = None
    """Examples for the final numbers; same forms as `train`."""
    unlabelled: UserPath | None = None
    """Further sources without targets, such as plenty of text in one language: the teacher labels
    them beside those of `train`, or the student answers them as prompts. Same forms as `train`,
    and .txt with a source a line; targets in it are not read. For methods alone that learn from
    no target in the data."""
    source_column: str | None = None
    """Name of the source (or prompt) column; found by convention when not given."""
    target_column: str | None = None
    """Name of the target (or completion) column; found by convention when not given."""
    source_language: str | None = None
    """The language of the sources: the key of their side in `translation` rows, such as `en`, and
    what a multilingual tokenizer (M2M100, NLLB, mBART) is told. There it means the code of that
    name, else the only one that begins with it: `en` is `en_XX` or `__en__`. Where row and
    tokenizer differ otherwise, both are given as `key:code`: `en:eng_Latn`."""
    target_language: str | None = None
    """The same for the targets: what a multilingual model begins its outputs with. When not given,
    what the model's generation_config.json forces is written; a model that forces none is
    refused. Of a multilingual Whisper what is spoken, `en`: it is given this one alone."""
    ignore_columns: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Columns of rows, and keys of conversations' turns, to leave out knowingly: [images]. What
    would change the meaning of a row is refused when nothing reads it, until it is named here."""
    extra_columns: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Columns of numbers in the rows of train that token weights and rewards may read:
    [pass_rate]. A row that lacks one is refused."""
    template_options: dict[str, str | int | float | bool] = Field(default={})
    """Further arguments of the chat template, {enable_thinking: false}: in training, labelling,
    rollouts and evaluation alike."""
    assistant_turns: Literal["all", "last"] = "all"
    """Of conversations in the data: every turn of the assistant is learned, or the last one. Tool
    results and the turns of others never are. A model's output is always the last turn."""
    max_source_tokens: PositiveInt = 128
    """Longer sources are left out of training and counted; in evaluation they are cut, counted. Of
    recordings the model's own limit holds (Whisper: 30 seconds)."""
    max_target_tokens: PositiveInt = 128
    """The same for targets, end-of-sequence token included."""
    max_train_examples: PositiveInt | None = None
    """Use a seeded random subset of this size of the examples in `train`; all when not given. Of
    `unlabelled` all are used."""
    max_dev_examples: PositiveInt | None = None
    """The same for dev: scoring while training costs time."""
    max_test_examples: PositiveInt | None = None
    """The same for test."""

    @property
    def row_languages(self) -> tuple[str | None, str | None]:
        """The keys of the two sides in `translation` rows."""
        source, target = self.source_language, self.target_language
        return source and source.partition(":")[0], target and target.partition(":")[0]

    @property
    def model_languages(self) -> tuple[str | None, str | None]:
        """What the two languages are to a tokenizer."""
        source, target = self.source_language, self.target_language
        return source and source.rpartition(":")[2], target and target.rpartition(":")[2]


class TeacherMember(Section):
    """One of several teachers."""

    model: UserPath
    """As of a single teacher. Folders of LoRA adapters over one base, and the base itself, share
    its weights in memory while they are asked at every update."""
    weight: Share | None = None
    """Its part of the mixture; of all together 1. Equal parts when none is given."""
    serves: Annotated[str, BeforeValidator(as_text)] | None = None
    """With `route_by`: the value of the column in the rows that it is asked about."""


class TeacherSection(Section):
    """The large model, or several, and how much of its distribution the objective sees."""

    model: (
        Annotated[
            Annotated[UserPath, Tag("one")]
            | Annotated[tuple[TeacherMember, ...], Field(min_length=1), Tag("several")],
            Discriminator(lambda given: "several" if isinstance(given, tuple) else "one"),
            BeforeValidator(named_members),
        ]
        | None
    ) = None
    """A transformers model folder or hub name, or `bundled:en-de`. Or `student`: the student
    itself, with the weights that `average_decay` says (a folder of that name is `./student`). Or a
    list of several teachers over one vocabulary, [{model: NAME, weight: 0.7}, ...]: their
    distributions are mixed; where they label, each writes, and what they wrote is one pool."""
    mixture: Literal["probabilities", "log_probabilities"] = "probabilities"
    """Of several teachers: sum w p, or the geometric mean exp(sum w log p), normalized. Each
    teacher's logits are divided by objective.loss_temperature first."""
    route_by: str | None = None
    """A column of train's rows: each row is asked of the one teacher that `serves` its value."""
    average_decay: Share = 1.0
    """With `model: student`: after every update the teacher's weights are this share of what they
    were and the rest the student's present ones (an exponential average). 1: the student's first
    weights, for good (OPSD). 0: its present ones, with no copy of them. SDFT: 0.99."""
    reload_every: Annotated[int, Field(ge=1)] | None = None
    """Look at `model`'s folder again after every so many updates: weights published there since
    become the teacher (a teacher that itself goes on training). The manifest lists every teacher
    that the run saw. A folder still being written is looked at again the next time."""
    prompt_column: str | None = None
    """A column of train's rows that the teacher alone reads, in the place of the student's prompt:
    the problem with its solution, hints, a document. It scores, and labels, the same answers after
    it. Of conversations a text takes the place of what the user said last, and a list of messages
    that of the whole prompt. No longer than data.max_source_tokens either. Dev and test are
    measured without it."""
    scores: Literal["none", "dense", "top_k", "sampled"] = "none"
    """`dense`: the whole next-token distribution at every position (from hidden states, in
    chunks); `none`: the objective needs no teacher at training time. `top_k`, its likeliest symbols
    and the mass of all others, and `sampled`, symbols drawn from it (random-sampling KD), are kept
    on disk: made by `seqdistill score RECIPE --teacher-scores`, or before the first update."""
    cache_hidden_states: Literal["none", "fp32", "fp16"] = "none"
    """With `scores: dense`: run the teacher once over the sequences, in fp32, keep its last hidden
    states on disk and read them in every epoch, run and stage. On CPUs most of the time may be
    the teacher's. Costs target tokens x the teacher's width x 4 bytes (`fp32`) or x 2 (`fp16`,
    rounded to 3 digits); `--dry-run` says how many. `none`: the teacher runs at every update, in
    training.precision."""
    top_k: Annotated[int, Field(ge=1, le=65535)] = 64
    """With `scores: top_k`: how many symbols are kept at a position, at most. 64 of 150,000 take
    278 bytes a token."""
    top_k_mass: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """With `scores: top_k`: only the fewest likeliest symbols that have this mass together."""
    tail: Literal["bucket", "renormalized"] = "bucket"
    """With `scores: top_k`: `bucket` compares all other symbols as one, the student's mass there
    with the teacher's. `renormalized` takes what is kept for the whole distribution: the student
    learns to say nothing else, a bias."""
    samples_per_token: Annotated[int, Field(ge=1, le=65535)] = 50
    """With `scores: sampled`: how many symbols are drawn at a position. Fewer are cheaper and
    noisier, and unbiased for any number; the paper has about 50, which are some 12 symbols."""
    kept_scores: UserPath | None = None
    """Folder of what is kept of the teacher: hidden states, `top_k` or `sampled`. Beside the runs,
    named by content, when not given. A folder of finished scores but hidden states needs no
    teacher: none is loaded, and `model` may be left out."""
    device: Device = "auto"
    """Where the teacher writes labels (by either engine) and its kept scores are made; scores of
    single batches are computed where the student trains. `auto` is training.device."""
    dtype: Dtype = "auto"
    """Of its weights in memory, whatever it does: scores, labels. `auto` is fp32 on CPUs and the
    dtype of the stored weights on GPUs."""
    attention: Attention = "auto"
    """Its attention kernel; `auto` is transformers' choice."""
    server: TeacherServerSection = TeacherServerSection()
    """Where the teacher is, if not in this process: `url` says so. With `scores: top_k` its
    likeliest symbols are asked for at every update, nothing is kept on disk, and rollouts may be
    scored; `sequences.decoding.engine: server` has it label. `model` is then left out, or names a
    local copy of what is served, with which the server is compared."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model folder. Off: such code can do anything."""

    @property
    def on_server(self) -> bool:
        """Whether it is asked over the network."""
        return bool(self.server.url)

    @property
    def sparse_form(self) -> SparseForm | None:
        """What stands for its distribution where some symbols of it are kept; None elsewhere."""
        return {"top_k": self.tail, "sampled": "sampled"}.get(self.scores)

    @property
    def keeps_scores(self) -> bool:
        """Whether it is run once and read from disk."""
        is_sparse = self.sparse_form is not None and not self.on_server
        return is_sparse or self.cache_hidden_states != "none"

    @property
    def is_student(self) -> bool:
        """Whether the student is its own teacher."""
        return self.model == "student"

    @property
    def members(self) -> tuple[TeacherMember, ...]:
        """Of several teachers, each."""
        return self.model if isinstance(self.model, tuple) else ()

    @property
    def other_model(self) -> str | None:
        """The name of the one other model that teaches; None where none does, or several do."""
        return self.model if isinstance(self.model, str) and not self.is_student else None

    @property
    def other_models(self) -> tuple[str, ...]:
        """The names of all other models that teach."""
        several = tuple(member.model for member in self.members)
        return several if self.other_model is None else (self.other_model,)

    @property
    def weights(self) -> tuple[float, ...]:
        """The parts of several teachers in their mixture."""
        count = len(self.members)
        return tuple(1.0 / count if m.weight is None else m.weight for m in self.members)

    @property
    def route(self) -> tuple[str, tuple[str, ...]] | None:
        """The column that rows are routed by, and the value that each teacher serves."""
        if self.route_by is None:
            return None
        return self.route_by, tuple(member.serves or "" for member in self.members)


class LoraSection(Section):
    """Low-rank adapters: only they are trained, and in the end they are merged into the student."""

    rank: PositiveInt | None = None
    """Rank of the adapters; none are used when not given. DistiLLM-2 uses 16."""
    alpha: PositiveFloat = 32.0
    """Adapters are multiplied by alpha / rank."""
    dropout: ShareBelowOne = 0.0
    """Of what goes into the adapters."""
    targets: Annotated[str | tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Ends of the names of the layers that get adapters, [q_proj, v_proj]; `all-linear`: every
    linear layer but the output's."""


class StudentSection(Section):
    """The small model and where its first weights come from."""

    model: UserPath | None = None
    """A transformers model folder or hub name to start from (`init: pretrained`), or one whose
    configuration alone is used (`init: scratch`)."""
    init: Literal["pretrained", "scratch", "teacher_layers"] = "pretrained"
    """`pretrained`: the weights of `model`. `scratch`: random weights in the shape of `model` or of
    `architecture`. `teacher_layers`: copies of evenly spaced layers of the teacher, all of their
    width or the most important part of it."""
    encoder_layers: PositiveInt | None = None
    """With `teacher_layers`: how many encoder layers to keep (all when not given)."""
    decoder_layers: PositiveInt | None = None
    """With `teacher_layers`: how many decoder layers to keep (all when not given)."""
    ffn_size: PositiveInt | None = None
    """With `teacher_layers`: how many neurons each feed-forward layer keeps (all when not given):
    those that add most to the residual stream on 256 rows of `data.train` that have targets. What
    is kept keeps its weights; the narrower student needs training (Minitron)."""
    attention_heads: PositiveInt | None = None
    """With `teacher_layers`: how many attention heads each layer keeps, chosen likewise; heads that
    share keys and values leave together. Heads keep their width, so where they share the hidden one
    out (BART, mBART, Marian) `hidden_size` must be this times the width of a head."""
    hidden_size: PositiveInt | None = None
    """With `teacher_layers`: how many channels of the residual stream are kept, the same in all
    layers: those that are largest after the norms. Costs the student most of what the teacher knew.
    """
    architecture: dict[str, str | int | float | bool] | None = None
    """With `scratch` and no `model`: a transformers configuration, `model_type` among its keys."""
    vocab_size: PositiveInt | None = None
    """With `scratch` and no teacher: train a joint byte-level BPE vocabulary of this size
    on the training data. With a teacher its tokenizer is used."""
    lora: LoraSection = LoraSection()
    """Adapters instead of all weights."""
    save_dtype: Literal["fp32", "fp16"] = "fp32"
    """Precision of the stored weights. fp16 halves the folder; the model still loads as fp32."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model folder. Off: such code can do anything."""

    @property
    def width(self) -> dict[str, int]:
        """How much of the teacher's width is kept, of what is not kept whole."""
        names = ("ffn_size", "attention_heads", "hidden_size")
        return {name: size for name in names if (size := getattr(self, name)) is not None}


class AlarmsSection(Section):
    """What shows that a student collapses: in what it samples while it trains; where it samples
    nothing, in its greedy outputs for dev, at every dev score.

    `start` is the mean of the first `looks`. A limit of null is not watched.
    """

    action: Literal["none", "warn", "stop"] = "warn"
    """`warn`: an alarm is shown, kept in alarms.jsonl and in the report. `stop`: the run ends, too,
    as `patience` ends it: the best student so far is kept, the command succeeds. `none`: nothing
    is measured for it."""
    every: PositiveInt = 10
    """A look is the mean over so many updates, of what was measured in them: lengths at each, all
    else every `log_every`. One batch says little: its sequences are of like length."""
    looks: PositiveInt = 3
    """So many looks in a row beyond a limit, after the warm-up and not coming back, are an alarm.
    """
    min_entropy: Share | None = 0.1
    """Entropy of the student, as a fraction of its teacher's on the same tokens; of the start's
    where none is asked."""
    min_overlap: Share | None = 0.5
    """The probability that student and teacher each give to the tokens among the 8 likeliest of
    both, as a fraction of the start's."""
    min_distinct: Share | None = 0.3
    """Different bigrams of all bigrams, one output a prompt, as a fraction of the start's; of the
    references' on dev."""
    max_repetition_rise: Share | None = 0.2
    """How much larger the fraction of 4-grams that an output has had before may be than the
    references', or than the start's where there are none."""
    max_length_factor: Annotated[float, Field(gt=1.0)] | None = 2.0
    """How many times as long as both start and references, or as short, outputs may be."""
    max_cut_fraction: Share | None = 0.5
    """Outputs without an end of sequence, cut at the longest length."""


class TrainingSection(Section):
    """Updates, batches, rates, precision, checkpoints."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_tokens: PositiveInt = 4096
    """Tokens of one micro-batch, padding included: of the longer side of encoder-decoder pairs, of
    prompt and completion of decoder-only ones. A recording has 100 for each second that the model
    reads, whatever its own length (Whisper: 3000)."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches summed into one update."""
    learning_rate: PositiveFloat = 5e-4
    """Peak rate."""
    schedule: Literal["inverse_sqrt", "linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up; linear and cosine end at `final_rate_fraction` of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Updates of linear rise from zero; when not given, a tenth of `steps` and at most 100."""
    final_rate_fraction: Share = 0.0
    """Rate at the last update as a share of the peak (linear, cosine)."""
    optimizer: Literal["adamw", "adamw_8bit", "sgd"] = "adamw"
    """AdamW with torch's fused kernel; `adamw_8bit` keeps its moments in 8 bits (bitsandbytes, the
    extra `8bit`); `sgd` has no momentum."""
    adam_beta1: ShareBelowOne = 0.9
    """First-moment decay."""
    adam_beta2: ShareBelowOne = 0.98
    """Second-moment decay; 0.98 is usual for Transformers trained from scratch."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    dropout: ShareBelowOne | None = None
    """Replaces the student's own dropout where given."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocasts matrix products; weights, softmax and optimizer stay in fp32. `auto` is bf16
    where the device multiplies faster in it, and fp32 elsewhere: Intel's CPUs without AMX, and all
    without instructions for bf16, where it takes many times as long; the manifest says which."""
    threads: PositiveInt | None = None
    """CPU threads; torch's default when not given."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one."""
    attention: Attention = "auto"
    """The student's attention kernel while it trains; `auto` is eager on CPUs, whose fused kernel
    is slow backwards, and transformers' choice elsewhere."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a
    third more time."""
    parallel: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes train (torchrun, accelerate launch). `ddp`: each has the whole student.
    `fsdp2`: weights, gradients, optimizer and teacher are in shards; each process keeps one whole
    copy of the student's weights besides, on the CPU, or on its GPU where the student samples, and
    gathers it for sampling, dev scores and checkpoints. `auto`: fsdp2 where accelerate's
    configuration says so, else ddp."""
    eval_every: PositiveInt | None = None
    """Score dev by generation every n updates; only at the end when not given."""
    eval_metric: Annotated[str, NameOf(METRICS, "loss", "auto")] = "auto"
    """What chooses the best checkpoints: the highest BLEU or chrF on dev, the lowest error rate, or
    the lowest `loss` (nats a token of dev's targets). `auto`: answer_accuracy where every target
    marks its answer by ####; else `loss` for chats and decoder-only models; else, for
    encoder-decoders, the first of the automatic evaluation.metrics."""
    keep_best: PositiveInt = 1
    """How many best checkpoints are kept."""
    patience: PositiveInt | None = None
    """Stop after this many dev scores in a row without a new best; never when not given."""
    checkpoint_every: PositiveInt | None = None
    """Save a resumable state every n updates; only at the end when not given."""
    average_best: bool = False
    """The student is the mean of the kept best checkpoints' weights instead of the best one."""
    log_every: PositiveInt = 10
    """Write metrics every n updates."""
    alarms: AlarmsSection = AlarmsSection()
    """Signs of collapse."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides the run directory's metrics.jsonl; the package of each must be
    installed. What they write to disk lies in the run directory."""

    @property
    def warmup(self) -> int:
        """The updates of linear rise, given or not."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps


class PruningSection(Section):
    """Which weights of the student are set to zero before its first update, and stay zero."""

    sparsity: ShareBelowOne | None = None
    """Of the weights in matrices, those of least magnitude; none are pruned when not given. What
    is zero already counts, so 0 keeps the zeros of a pruned student and prunes no more. The later
    stages of a chain go on with it; one that sets `sparsity: null` fills the zeros again."""
    scheme: Literal["class_blind", "class_uniform", "class_distribution"] = "class_blind"
    """`class_blind`: one threshold for all matrices together, the best in See et al. 2016.
    `class_uniform`: the same share of each. `class_distribution`: by standard deviations of each
    matrix's own weights."""
    exclude: tuple[str, ...] = ()
    """Names of matrices to leave as they are, with * and ?: `model.shared.weight`, `*embed*`. None
    by default: embeddings hold most weights of small models."""


class EvaluationSection(Section):
    """How the final numbers are measured."""

    metrics: Annotated[
        tuple[Annotated[str, NameOf(METRICS, "auto")], ...],
        Field(min_length=1),
        BeforeValidator(as_list),
    ] = ("auto",)
    """Columns of quality. The first is the main one: it chooses the best student, is tested and
    leads the report. Error rates compare tokens between white space (PER where they are phonemes;
    characters where there is none), words without case and punctuation (word_error_rate, of
    speech), and whole outputs (WER of words that are spelled out). `auto` looks at the data:
    word_error_rate and sequence_error_rate for speech; answer_accuracy where all targets mark an
    answer by ####; rouge_l and exact_match for chats and decoder-only models; for
    encoder-decoders, and where data.target_language is given, bleu and chrf, or chrf first for
    scripts without spaces and targets too short for BLEU."""
    bleu_tokenizer: BleuTokenizer = "auto"
    """How BLEU splits text: sacrebleu's names. `auto` goes by data.target_language where its code
    is one that decides, else by the script of the targets: `zh`; MeCab for Japanese and Korean
    where sacrebleu's extra is installed, else `char`; `char` for other scripts without spaces; else
    `13a`. Also of rewards and of sequences.similarity."""
    include_start: bool = True
    """Also measure the student before its first update, a row `start`; not where it starts from
    random weights or from the teacher itself. Its speed is not measured."""
    engine: Literal["auto", "ctranslate2", "transformers"] = "auto"
    """The engine that decodes every system, so that speeds compare. auto is ctranslate2 where it
    computes the same as every system's model, else transformers for all, which is said."""
    compute_type: ComputeType = "float32"
    """Arithmetic of the CTranslate2 engine; with another than float32 auto never is transformers.
    """
    device: Device = "auto"
    """Where every system is measured. `auto` is training.device."""
    dtype: Dtype = "auto"
    """Of the weights in memory: `auto` is fp32 on CPUs and the dtype of the stored weights on
    GPUs."""
    attention: Attention = "auto"
    """The attention kernel of every system; `auto` is transformers' choice."""
    beam_size: PositiveInt = 5
    """Beam of the `*_beam` columns; the `*_greedy` columns use 1."""
    length_penalty: float = 1.0
    """Scores are divided by length ** length_penalty."""
    max_new_tokens: PositiveInt = 128
    """Longest output."""
    sampling_temperatures: tuple[PositiveFloat, ...] = ()
    """Temperatures at which outputs are sampled, too, from the whole distribution: every metric
    over all samples, and how alike the samples of a source are (self-BLEU)."""
    samples_per_source: Annotated[int, Field(ge=2)] = 4
    """Samples of each source at each temperature."""
    on_policy: bool = False
    """Also how a system does on its own outputs: KL to the teacher, both ways, and the overlap of
    their top-8 tokens on samples of temperature 1 (the `*_own` columns, of students that share the
    teacher's vocabulary; the teacher stays in memory beside each), and the score of greedy outputs
    after one wrong token, the recovery rate (`*_forced`). One more sample and one more greedy
    output a source, written by the live model."""
    calculator: bool = False
    """Greedy outputs once more, the results of steps such as <<3*4=12>> put right by a calculator
    while they are written: the `*_calculator` columns. For decoder-only models."""
    bootstrap_resamples: PositiveInt = 1000
    """Resamples of the test set for intervals and the paired test."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Mass of the intervals."""
    num_samples: PositiveInt = 20
    """Sentences shown side by side in the report."""


class Stage(Section):
    """One training of a chain: a preset, and what this stage alone sets over it."""

    preset: str
    """Sets the origin of sequences, what the teacher says and the loss, and brings settings of its
    own where it has some (`seq_inter` a low rate and few updates)."""
    settings: dict[str, object] = Field(default={})
    """Keys of the recipe and their values, {training.steps: 300, seed: 2}: they hold in this
    stage only, over its preset's, which are over the recipe's."""


class Recipe(Section):
    """One student from one method (or a teacher, when no teacher is named)."""

    preset: str | None = None
    """The preset whose settings this recipe starts from; see `seqdistill recipe list`."""
    method: str = "baseline"
    """The name of the method in tables: `baseline`, `word_kd`, `seq_kd`, `teacher`, ..."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Every random stream of the run derives from it."""
    output_dir: UserPath = "runs/{method}"
    """The run directory; `{method}` and `{seed}` are filled in."""
    plugins: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Your own divergences, token weights, rewards and metrics: importable modules, or Python files
    (`path/to/file.py`, from the current folder). They are run, so name only what you trust."""
    data: DataSection = DataSection()
    teacher: TeacherSection = TeacherSection()
    student: StudentSection = StudentSection()
    sequences: SequencesSection = SequencesSection()
    objective: ObjectiveSection = ObjectiveSection()
    pruning: PruningSection = PruningSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    compare: tuple[str, ...] = ()
    """Presets to train with these very settings and set side by side in one report (`demo`):
    each takes `sequences`, `objective` and `teacher.scores` from its preset, all else from here."""
    stages: tuple[Stage, ...] = ()
    """Trained one after another, each from the student of the one before, in
    `output_dir`/1-NAME, `output_dir`/2-NAME, ..."""

    def __reduce__(self) -> tuple[Callable[..., Recipe], tuple[object, ...]]:
        """Pickled by its settings: the sections of terms are classes that no module holds."""
        return _from_settings, (self.model_dump(mode="json", exclude_unset=True), self.plugins)


def _from_settings(settings: dict[str, object], plugins: tuple[str, ...]) -> Recipe:
    """A recipe that another process of this program sent, with its plug-ins."""
    load_plugins(plugins)
    refresh()
    return Recipe.model_validate(settings)


_made_with = all_members()


def refresh() -> None:
    """Makes the schema anew from the registries where plug-ins have added to them."""
    global _made_with
    if _made_with == all_members():
        return
    _made_with = all_members()
    refresh_sections()
    for section in (ObjectiveSection, TrainingSection, EvaluationSection, Recipe):
        section.model_rebuild(force=True)
