"""What a GGUF's values mean: a model's weights, one part of them, or an adapter. Nothing here reads the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_runner.engine.gguf import Gguf, InvalidModelFile, Tensor

MAX_BLOCKS: Final = 512  # LLAMA_MAX_LAYERS
MAX_PARTS: Final = 256
_UINT16, _UINT32, _INT32, _FLOAT32, _BOOL = 2, 4, 5, 6, 7

# llama.h's llama_ftype: what general.file_type counts through.
_FILE_TYPES: Final[dict[int, str]] = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"},
}
_LORA_ENDS: Final = (".lora_a", ".lora_b")


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What the weights say about themselves; counts that are not stated are 0.

    ``context_length`` is what the model was trained for, in tokens. ``kv_heads`` has one number per layer. ``pooling``
    is llama.cpp's number for how token embeddings become one, None where the file names none.
    """

    architecture: str
    quantization: str
    block_count: int
    context_length: int = 0
    chat_template: str | None = None
    embedding_length: int = 0
    feed_forward_length: int = 0
    heads: int = 0
    kv_heads: tuple[int, ...] = ()
    key_length: int = 0
    value_length: int = 0
    vocabulary: int = 0
    causal: bool = True
    pooling: int | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors.values())


@dataclass(frozen=True, slots=True)
class AdapterHeader:
    """A LoRA: ``rank`` is the largest of its tensors', ``size_bytes`` what it needs in memory."""

    rank: int
    size_bytes: int


def model_header(parts: Sequence[Gguf]) -> ModelHeader:
    """Judge the weights, given as one file or as the parts of a split GGUF in order. Raises InvalidModelFile."""
    first = parts[0]
    _check_parts(parts)
    if first.strings.get("general.type", "model") != "model":
        raise InvalidModelFile(f"it holds {first.strings['general.type'][:64]!r}, not a model's weights")
    architecture = _architecture(first)
    blocks = _unsigned(first, f"{architecture}.block_count", 0)
    if not 0 < blocks <= MAX_BLOCKS:
        raise InvalidModelFile(f"{architecture}.block_count is {blocks}, expected 1 to {MAX_BLOCKS}")
    check_vocabulary(first)
    _check_experts(first, architecture)
    heads = _per_layer(first, f"{architecture}.attention.head_count", blocks, (0,) * blocks)
    embedding = _unsigned(first, f"{architecture}.embedding_length", 0)
    head_length = embedding // max(heads) if max(heads) else 0
    pooling = f"{architecture}.pooling_type"
    tensors = {name: tensor for part in parts for name, tensor in part.tensors.items()}
    return ModelHeader(
        architecture=architecture,
        quantization=_FILE_TYPES.get(_unsigned(first, "general.file_type", 1024), "Unknown"),
        block_count=blocks,
        context_length=_unsigned(first, f"{architecture}.context_length", 0),
        chat_template=first.strings.get("tokenizer.chat_template"),
        embedding_length=embedding,
        feed_forward_length=max(_per_layer(first, f"{architecture}.feed_forward_length", blocks, (0,))),
        heads=max(heads),
        kv_heads=_per_layer(first, f"{architecture}.attention.head_count_kv", blocks, heads),
        key_length=_unsigned(first, f"{architecture}.attention.key_length", head_length),
        value_length=_unsigned(first, f"{architecture}.attention.value_length", head_length),
        vocabulary=first.lengths.get("tokenizer.ggml.tokens", 0),
        causal=bool(_scalar(first, f"{architecture}.attention.causal", _BOOL, True)),
        pooling=_unsigned(first, pooling, 0) if pooling in first.kinds else None,
        tensors=tensors,
    )


def adapter_header(file: Gguf, model: ModelHeader) -> AdapterHeader:
    """Judge a LoRA against the weights that it is for. Raises InvalidModelFile."""
    kind = file.strings.get("general.type"), file.strings.get("adapter.type")
    if kind != ("adapter", "lora"):
        raise InvalidModelFile("it is not a LoRA: general.type and adapter.type are not adapter and lora")
    architecture = _architecture(file)
    if architecture != model.architecture:
        raise InvalidModelFile(f"it is for the architecture {architecture!r}, the model's is {model.architecture!r}")
    _scalar(file, "adapter.lora.alpha", _FLOAT32, 0.0)
    if not file.tensors:
        raise InvalidModelFile("it has no tensors")
    rank = 0
    for name in file.tensors:
        base = name.removesuffix(_LORA_ENDS[0]).removesuffix(_LORA_ENDS[1])
        if base == name:
            raise InvalidModelFile(f"the tensor {name!r} is neither *.lora_a nor *.lora_b")
        rank = max(rank, _pair_rank(file, base, model))
    return AdapterHeader(rank, sum(tensor.size_bytes for tensor in file.tensors.values()))


def _pair_rank(file: Gguf, base: str, model: ModelHeader) -> int:
    pair = [file.tensors.get(base + end) for end in _LORA_ENDS]
    weights = model.tensors.get(base)
    a, b = pair
    if a is None or b is None:
        raise InvalidModelFile(f"the tensor {base!r} lacks its half {_LORA_ENDS[0 if a is None else 1]}")
    if weights is None:
        raise InvalidModelFile(f"the model has no tensor {base!r}")
    if len(a.shape) < 2 or len(b.shape) < 2 or len(weights.shape) < 2:
        raise InvalidModelFile(f"the tensor {base!r} is no matrix, in the adapter or in the model")
    if base == "token_embd.weight":
        # Its halves lie the other way round (llama-adapter.cpp).
        shape, ranks = (b.shape[1], a.shape[1]), (a.shape[0], b.shape[0])
    else:
        shape, ranks = (a.shape[0], b.shape[1]), (a.shape[1], b.shape[0])
    if shape != weights.shape[:2]:
        message = f"the tensor {base!r} is for {list(shape)}, the model's is {list(weights.shape[:2])}"
        raise InvalidModelFile(message)
    if ranks[0] != ranks[1]:
        raise InvalidModelFile(f"the halves of {base!r} have the ranks {ranks[0]} and {ranks[1]}")
    return ranks[0]


def _check_parts(parts: Sequence[Gguf]) -> None:
    declared = _scalar(parts[0], "split.count", _UINT16, 0)
    if max(declared, 1) != len(parts):
        given = "1 file is given" if len(parts) == 1 else f"{len(parts)} files are given"
        raise InvalidModelFile(f"it is split into {declared} files, {given}: name them all in source.files, in order")
    for index, part in enumerate(parts if declared else ()):
        if _scalar(part, "split.count", _UINT16, 0) != declared:
            raise InvalidModelFile(f"file {index + 1} of {declared} is not a part of the same split")
        number = _scalar(part, "split.no", _UINT16, 0)
        if number != index:
            raise InvalidModelFile(f"file {index + 1} of {declared} says that it is number {number + 1}")
    names = sum(len(part.tensors) for part in parts)
    total = _scalar(parts[0], "split.tensors.count", _INT32, names)
    if declared and total != names:
        raise InvalidModelFile(f"the parts have {names} tensors together, the first says {total}")
    if len({name for part in parts for name in part.tensors}) != names:
        raise InvalidModelFile("a tensor appears in two parts")
    if not names:
        raise InvalidModelFile("it has no tensors")


def check_vocabulary(file: Gguf) -> None:
    tokens = file.lengths.get("tokenizer.ggml.tokens")
    for beside in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        length = file.lengths.get(beside)
        # llama.cpp indexes both by token without looking at their lengths in every loader.
        if length is not None and length != tokens:
            raise InvalidModelFile(f"{beside} has {length} entries for {tokens} tokens")


def _check_experts(file: Gguf, architecture: str) -> None:
    experts = _unsigned(file, f"{architecture}.expert_count", 0)
    used = _unsigned(file, f"{architecture}.expert_used_count", 0)
    # An assertion in llama.cpp: it would end the process without a word.
    if used > experts:
        raise InvalidModelFile(f"{used} experts are used of {experts}")


def _architecture(file: Gguf) -> str:
    architecture = file.strings.get("general.architecture", "")
    if not 0 < len(architecture) <= 64:
        raise InvalidModelFile("general.architecture is missing")
    return architecture


def _per_layer(file: Gguf, key: str, layers: int, default: tuple[int, ...]) -> tuple[int, ...]:
    """A number for all layers or one for each."""
    if key in file.lengths:
        numbers = file.numbers.get(key, ())
        if len(numbers) < layers or min(numbers) < 0:
            raise InvalidModelFile(f"{key} does not have a number for each of {layers} layers")
        return numbers[:layers]
    return (_unsigned(file, key, 0),) * layers if key in file.kinds else default


def _unsigned(file: Gguf, key: str, default: int) -> int:
    return int(_scalar(file, key, _UINT32, default))


def _scalar(file: Gguf, key: str, kind: int, default: Any) -> Any:
    # The type matters to llama.cpp, so an integer of another width is not taken for one.
    if file.kinds.get(key, kind) != kind:
        raise InvalidModelFile(f"{key} is not {_KINDS[kind]}")
    return file.scalars.get(key, default)


_KINDS: Final = {
    _UINT16: "an unsigned 16-bit integer",
    _UINT32: "an unsigned 32-bit integer",
    _INT32: "a signed 32-bit integer",
    _FLOAT32: "a 32-bit float",
    _BOOL: "a boolean",
}
