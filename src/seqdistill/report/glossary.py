"""The terms of the page, each where it is used, for people of other fields."""

from __future__ import annotations

from seqdistill.report.contents import RunContents
from seqdistill.report.headlines import SIGNIFICANT_BELOW

_BY_METRIC = {
    "bleu": (
        "BLEU",
        "Overlap with the reference in 1- to 4-grams of words, 0 to 100. Compare only values with "
        "the same signature.",
    ),
    "chrf": (
        "chrF",
        "Overlap with the reference in 1- to 6-grams of characters, 0 to 100; more lenient with "
        "word endings than BLEU.",
    ),
    "token_error_rate": (
        "Token error rate",
        "Insertions, deletions and substitutions that turn the reference into the output, for "
        "every 100 tokens of the reference. PER where tokens are phonemes, CER where they are "
        "characters, as in scripts without spaces.",
    ),
    "sequence_error_rate": (
        "Sequence error rate",
        "Outputs, of every 100, that are not exactly the reference. WER where an output is a word.",
    ),
    "rouge_1": (
        "ROUGE-1",
        "Words that output and reference share: the F1 of precision and recall, 0 to 100.",
    ),
    "rouge_2": (
        "ROUGE-2",
        "Pairs of neighbouring words that output and reference share: the F1, 0 to 100.",
    ),
    "rouge_l": (
        "ROUGE-L",
        "The longest series of words that output and reference have in the same order, gaps "
        "allowed: the F1, 0 to 100.",
    ),
    "exact_match": (
        "Exact match",
        "Outputs, of every 100, that are the reference but for case, white space, quotation marks "
        "around it and sentence marks at its end.",
    ),
    "answer_accuracy": (
        "Answer accuracy",
        "Outputs, of every 100, whose final answer is the reference’s.",
    ),
}
_ALWAYS = (
    (
        "Sentences per second",
        "What speeds are compared by, on one test set. Words per second also grow where a system "
        "does not stop.",
    ),
    (
        "Greedy, beam search",
        "Greedy decoding takes the likeliest next token; beam search follows several hypotheses "
        "at once and keeps the likeliest.",
    ),
    (
        "Perplexity",
        "How many equally likely tokens the model hesitates between, on average, at each token of "
        "the reference.",
    ),
    (
        "Mode share",
        "p(t = ŷ): the probability a model gives its own best output, averaged over sentences.",
    ),
    ("Entropy", "How uncertain a model is about the next token, in nats: 0 when it is certain."),
    (
        "Interval",
        "Where the score would mostly fall on other test sets of this kind, by bootstrap "
        "resampling of the sentences.",
    ),
    (
        "Paired test",
        "Whether two systems differ by more than the choice of test sentences explains; a "
        f"difference is called significant where p is below {SIGNIFICANT_BELOW}.",
    ),
)
_START = (
    "Start",
    "The student before its first update, with the weights that training began from: what it "
    "gained since was learned.",
)
_ROLLOUTS = (
    (
        "Rollout",
        "A sequence sampled by the student during training. On-policy: from the weights of this "
        "very update; replay: from earlier ones.",
    ),
    (
        "KL(student ‖ teacher)",
        "The reverse divergence: large where the teacher finds unlikely what the student samples.",
    ),
)
_REWARD = (
    "Reward hacking",
    "A higher reward for worse outputs: what the reward counts is not what it stands for.",
)
_SAMPLING = (
    (
        "Self-BLEU",
        "BLEU of a sample against the other samples of its source, 0 to 100: 100 where all are "
        "equal. It grows with the number of samples.",
    ),
    (
        "Temperature",
        "What the logits are divided by before sampling: below 1 likely tokens become likelier; "
        "1 is the model itself.",
    ),
)
_REPETITION = ("Repetition", "The fraction of an output’s 4-grams that it has had before.")


def glossary(contents: RunContents) -> tuple[tuple[str, str], ...]:
    """Terms and their meanings, in the order of the page."""
    metrics = [*contents.results.metrics, *filter(None, [contents.dev_metric])]
    names = dict.fromkeys(metric.name for metric in metrics)
    rewarded = any(log.curve("reward") for log in contents.logs)
    sampled = any(system.sampled for system in contents.measured)
    return (
        *(_BY_METRIC[name] for name in names if name in _BY_METRIC),
        *_ALWAYS,
        *([_START] if contents.results.start is not None else ()),
        *(_SAMPLING if sampled else ()),
        *(_ROLLOUTS if any(log.is_on_policy for log in contents.logs) else ()),
        *([_REWARD] if rewarded else ()),
        *([_REPETITION] if sampled or rewarded else ()),
    )
