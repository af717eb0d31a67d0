"""How many bytes the weights of a model take in each form that it can be stored in.

Measures by writing the forms; converts nothing to int8 itself.
"""

from __future__ import annotations

from pathlib import Path

from seqdistill.compression.int8_folders import MODEL, packed_content
from seqdistill.compression.sparse_files import SPARSE_WEIGHTS, save_sparse_pair
from seqdistill.models.loading import LoadedModel
from seqdistill.models.saving import save_pair
from seqdistill.records.temporary import temporary_folder


def stored_sizes(pair: LoadedModel, *, int8_folder: Path) -> dict[str, int]:
    """Bytes of the weight files by form: fp16, fp16_sparse, int8, int8_sparse.

    `int8_folder` is the model's CTranslate2 copy. Tokenizer and configuration, which are the same
    in all forms, are left out. Raises ModelError for weights beyond what fp16 can hold.
    """
    with temporary_folder() as folder:
        dense, sparse = folder / "dense", folder / "sparse"
        save_pair(pair, dense, save_dtype="fp16")
        save_sparse_pair(pair, sparse, save_dtype="fp16")
        fp16 = sum(path.stat().st_size for path in dense.glob("*.safetensors"))
        fp16_sparse = (sparse / SPARSE_WEIGHTS).stat().st_size
    int8 = (int8_folder / MODEL).read_bytes()
    return {
        "fp16": fp16,
        "fp16_sparse": fp16_sparse,
        "int8": len(int8),
        "int8_sparse": len(packed_content(int8)),
    }
