"""A loaded model: llama.cpp's model, context and vocabulary behind typed calls.

The only module beside ``sampling``, ``kv_cache`` and ``loop`` that calls llama.cpp. Every pointer lives as long as the
process.
"""

import ctypes
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, Final

import llama_cpp.llama_cpp as llama
import llguidance

from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.grammars import TokenMasks
from headrace_runner.engine.native import (
    Adapters,
    NativeLog,
    load_weights,
    set_context_parameters,
    set_model_parameters,
)
from headrace_runner.engine.native_vocabulary import NativeVocabulary
from headrace_runner.engine.prefixes import why_not
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.verification import VerifiedAdapter
from headrace_runner.engine.vocabulary import Vocabulary

BATCH_TOKENS: Final = 512
PREFIX_SEQUENCES: Final = 16
MAX_SEQUENCES: Final = 256  # LLAMA_MAX_SEQ


class LoadedModel:
    """A model with one context of ``parallelism`` sequences of at most ``context_tokens``.

    Where ``kv_unified``, all have one pool of KV cells, and ``prefix_sequences`` more hold prefixes.
    ``no_prefixes_because`` is a reason why this model shares none. ``words`` is its vocabulary.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        settings: EngineSettings,
        on_progress: Callable[[int], None],
        adapters: Sequence[VerifiedAdapter] = (),
    ) -> None:
        """Load one file, or the parts of one model.

        Raises EngineRefusal: GPUUnavailable, ModelLoadFailed, ContextTooLarge.
        """
        self._log = NativeLog()
        llama.llama_backend_init()
        wanted = settings.gpu_layers
        if wanted is not None and not llama.llama_supports_gpu_offload():
            raise EngineRefusal("GPUUnavailable", "a GPU was asked for, but no usable GPU is visible to llama.cpp")
        self._model = self._load((path,) if isinstance(path, str) else path, settings, on_progress)
        self.gpu_layers = self._log.offloaded_layers
        self._check_offload(wanted)
        self.adapters = Adapters(self._model, adapters, self._log)
        self.no_prefixes_because = why_not(
            recurrent=llama.llama_model_is_recurrent(self._model),
            hybrid=llama.llama_model_is_hybrid(self._model),
            sliding_window=llama.llama_model_n_swa(self._model),
        )
        room = MAX_SEQUENCES - settings.parallelism
        self.kv_unified = settings.kv_unified
        holds_prefixes = self.kv_unified and not self.no_prefixes_because
        self.prefix_sequences = min(PREFIX_SEQUENCES, room) if holds_prefixes else 0
        self._context = self._create_context(settings) if settings.generates else None
        self.context_tokens = settings.context_tokens
        self.parallelism = settings.parallelism
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.words = NativeVocabulary(self._vocab)
        self.vocab_size = self.words.size
        self.longest_token_bytes = self.words.longest_token_bytes
        self.bos_text, self.eos_text = self.words.bos_text, self.words.eos_text
        self.control_texts, self.tokenize, self._piece = self.words.control_texts, self.words.tokenize, self.words.piece
        self.eog_tokens = frozenset(
            token for token in range(self.vocab_size) if llama.llama_vocab_is_eog(self._vocab, token)
        )
        self.parameters = int(llama.llama_model_n_params(self._model))
        self.marks: dict[int, bytes] = {}
        self.piece = lru_cache(maxsize=65_536)(self.words.piece)

    @property
    def context(self) -> Any:
        """llama.cpp's context, for the decode thread alone."""
        return self._context

    def find_marks(self, texts: Collection[str]) -> None:
        """Keep the bytes of control tokens by which answers are read; detokenising gives nothing for them."""
        for token in range(self.vocab_size):
            if self.words.is_control(token):
                piece = self.words.piece(token, special=True)
                if piece.decode("utf-8", "replace") in texts:
                    self.marks[token] = piece

    def token_masks(self) -> TokenMasks:
        """Build llguidance's view of the vocabulary, with every end-of-generation token as an end."""
        tokens = []
        for token in range(self.vocab_size):
            piece = self._piece(token, special=True)
            attributes = llama.llama_vocab_get_attr(self._vocab, token)
            user_defined = attributes & (1 << 4) and piece.startswith(b"<") and piece.endswith(b">")
            # The prefix is llguidance's mark of a special token (llguidance/llamacpp.py): text cannot produce it.
            tokens.append(b"\xff" + piece if attributes & (1 << 3) or user_defined else piece)
        tokenizer = llguidance.LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # absent from its stub
            tokens=tokens,
            vocab_ptr=self._vocab,
            tokenize_fptr=ctypes.cast(llama._lib.llama_tokenize, ctypes.c_void_p).value,
            eos_token=sorted(self.eog_tokens),
            slices=None,
        )
        return TokenMasks(Vocabulary(tokenizer, tokens, sorted(self.eog_tokens)))

    def _load(self, paths: Sequence[str], settings: EngineSettings, on_progress: Callable[[int], None]) -> Any:
        parameters = llama.llama_model_default_params()
        kept = set_model_parameters(parameters, settings)
        told = -1

        def progress(fraction: float, _user_data: object) -> bool:
            nonlocal told
            if int(fraction * 20) > told:
                told = int(fraction * 20)
                on_progress(told * 5)
            return True

        callback = llama.llama_progress_callback(progress)
        parameters.progress_callback = callback
        model = load_weights(paths, parameters)
        del kept
        if not model:
            raise EngineRefusal("ModelLoadFailed", f"llama.cpp cannot load the model: {self._log.last_error()}")
        if settings.generates and (not llama.llama_model_has_decoder(model) or llama.llama_model_has_encoder(model)):
            raise EngineRefusal("ModelLoadFailed", "the model is not a decoder-only text model: it cannot generate")
        return model

    def _check_offload(self, wanted: str | int | None) -> None:
        if wanted is None:
            return
        layers = int(llama.llama_model_n_layer(self._model)) + 1  # the output layer counts
        expected = layers if wanted == "All" else min(int(wanted), layers)
        if self.gpu_layers < expected:
            message = f"{expected} layers were to be on the GPU, llama.cpp put {self.gpu_layers} there"
            raise EngineRefusal("GPUUnavailable", message)

    def _create_context(self, settings: EngineSettings) -> Any:
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = settings.context_tokens * settings.parallelism
        parameters.n_batch = BATCH_TOKENS
        parameters.n_ubatch = BATCH_TOKENS
        parameters.n_seq_max = settings.parallelism + self.prefix_sequences
        parameters.kv_unified = settings.kv_unified
        set_context_parameters(parameters, settings)
        context = llama.llama_init_from_model(self._model, parameters)
        if not context:
            message = (
                f"no memory for {settings.parallelism} sequences of {settings.context_tokens} tokens: "
                f"{self._log.last_error()}"
            )
            raise EngineRefusal("ContextTooLarge", message)
        self.adapters.apply(context)
        return context

    @property
    def native(self) -> Any:
        """llama.cpp's model, for contexts beside the first."""
        return self._model

    def last_error(self) -> str:
        """llama.cpp's last words."""
        return self._log.last_error()

    def buffers(self) -> dict[str, int]:
        """Bytes of the buffers that llama.cpp made, by the backend that has them, such as CPU_Mapped or AMX."""
        return dict(self._log.buffer_bytes)

    def buffer_bytes(self) -> int:
        """Sum of the buffers that llama.cpp made, in RAM and on GPUs. Pages of the file whose weights were repacked are
        the kernel's to drop, and not counted.
        """
        buffers = self._log.buffer_bytes
        repacked = sum(buffers.get(name, 0) for name in ("AMX", "CPU_REPACK"))
        return sum(buffers.values()) - min(repacked, buffers.get("CPU_Mapped", 0))
