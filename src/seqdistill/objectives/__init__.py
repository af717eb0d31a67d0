"""How far a student is from a teacher or a target: pure functions and their fused forms.

Tensors in, numbers out. No model, no file, no recipe is known here.
"""

from seqdistill.core.families import DIVERGENCES
from seqdistill.core.head import Head
from seqdistill.core.scores import SparseScores
from seqdistill.core.token_sum import TokenSum
from seqdistill.objectives.across_tokenizers import chunk_likelihood, uld
from seqdistill.objectives.adaptive_divergences import (
    adaptive_kl,
    interpolated_forward_kl,
    teacher_mode_likelihood,
)
from seqdistill.objectives.divergences import (
    cross_entropy,
    forward_kl,
    jensen_shannon,
    neg_log_acceptance,
    negative_log_likelihood,
    reverse_kl,
    skew_forward_kl,
    skew_reverse_kl,
    total_variation,
)
from seqdistill.objectives.fused import fused_divergence, fused_sum, target_part, teacher_part
from seqdistill.objectives.reduction import reduce
from seqdistill.objectives.sparse import sparse_part

__all__ = [
    "DIVERGENCES",
    "Head",
    "SparseScores",
    "TokenSum",
    "adaptive_kl",
    "chunk_likelihood",
    "cross_entropy",
    "forward_kl",
    "fused_divergence",
    "fused_sum",
    "interpolated_forward_kl",
    "jensen_shannon",
    "neg_log_acceptance",
    "negative_log_likelihood",
    "reduce",
    "reverse_kl",
    "skew_forward_kl",
    "skew_reverse_kl",
    "sparse_part",
    "target_part",
    "teacher_mode_likelihood",
    "teacher_part",
    "total_variation",
    "uld",
]
