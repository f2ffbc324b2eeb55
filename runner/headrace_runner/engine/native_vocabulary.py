"""llama.cpp's vocabulary behind typed calls: the same for a loaded model and for one of which only this was loaded."""

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import llama_cpp.llama_cpp as llama

_PIECE_BYTES: Final = 64 * 1024
# llama_token_attr: what tokenizing with parse_special=False leaves alone.
CONTROL_ATTRIBUTES: Final = 1 << 3 | 1 << 0


class NativeVocabulary:
    """Tokenizes and detokenizes. ``pointer`` is llama.cpp's, and lives as long as the process."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer
        self.size = int(llama.llama_vocab_n_tokens(pointer))
        # A token's text is at least as long as the bytes that it stands for.
        self.longest_token_bytes = max(len(llama.llama_vocab_get_text(pointer, token)) for token in range(self.size))
        self.bos_text = self.token_text(llama.llama_vocab_bos(pointer))
        self.eos_text = self.token_text(llama.llama_vocab_eos(pointer))
        self._adds_bos = bool(llama.llama_vocab_get_add_bos(pointer))

    def is_control(self, token: int) -> bool:
        """Whether the token is one that no text stands for."""
        return bool(llama.llama_vocab_get_attr(self.pointer, token) & CONTROL_ATTRIBUTES)

    def control_texts(self) -> tuple[str, ...]:
        """Give the texts of all control tokens, such as ``<|im_end|>``: what users must not be able to say."""
        texts = (self.token_text(token) for token in range(self.size) if self.is_control(token))
        return tuple(text for text in texts if len(text) > 1)

    def tokenize(self, segments: Sequence[str]) -> list[int]:
        """Tokenize a rendered prompt; control tokens are recognised inside a segment, never across two."""
        tokens: list[int] = []
        for index, segment in enumerate(segments):
            # A template that writes its own BOS must not get a second one.
            add_special = index == 0 and not (self._adds_bos and self.bos_text and segment.startswith(self.bos_text))
            tokens.extend(self._tokenize(segment.encode("utf-8", "replace"), add_special))
        return tokens

    def tokenize_plain(self, text: str) -> list[int]:
        """Tokenize a text with the tokens that the model expects around it; control tokens in it are text."""
        return self._tokenize(text.encode("utf-8", "replace"), True, parse_special=False)

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Give a token's bytes; a control token has some only where ``special`` asks for its text."""
        buffer = ctypes.create_string_buffer(256)
        count = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(min(-count, _PIECE_BYTES))
            count = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(count, 0)]

    def token_text(self, token: int) -> str:
        """Give a token's text, also a control token's; empty for none."""
        return "" if token < 0 else self.piece(token, special=True).decode("utf-8", "replace")

    def _tokenize(self, raw: bytes, add_special: bool, *, parse_special: bool = True) -> list[int]:
        # A token is at least one byte, except for BOS and the like.
        room = len(raw) + 8
        buffer = (llama.llama_token * room)()
        count = llama.llama_tokenize(self.pointer, raw, len(raw), buffer, room, add_special, parse_special)
        if count < 0:
            raise ValueError("llama_tokenize needs more room than a token per byte")
        return list(buffer[:count])
