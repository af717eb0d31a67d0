"""The forms in which a model is stored, without the libraries that write them."""

from typing import Literal

StoredForm = Literal[
    "dense",
    "sparse",
    "float32",
    "int8",
    "int8_float16",
    "gguf-f32",
    "gguf-f16",
    "gguf-q8_0",
    "onnx",
]
"""`dense`, `sparse`: transformers folders; `gguf-*`: llama.cpp's; `onnx`: ONNX Runtime's; the
others are CTranslate2's."""
