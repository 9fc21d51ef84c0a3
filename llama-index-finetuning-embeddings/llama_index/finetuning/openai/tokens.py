"""Count the tokens that a chat fine-tuning example is billed for, with no network."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import llama_index.core
import tiktoken
from tiktoken.model import encoding_name_for_model

_CACHE = "TIKTOKEN_CACHE_DIR"
# These two come with llama-index-core; others would be downloaded, with no limit on the wait.
_BUNDLED = ("cl100k_base", "o200k_base")
_PER_MESSAGE = 3  # the marks around every message
_PER_EXAMPLE = 3  # the opening of the answer


class Count(NamedTuple):
    """What an example holds: tokens, and images, whose tokens can't be told from the file."""

    tokens: int
    images: int


class TokenCounter:
    """Counts as OpenAI's cookbook does ("How to count tokens with tiktoken").

    The count is close and not exact: how tools and calls of functions are laid out inside is not
    published, so their JSON is counted.

    Args:
        model: The model's name, which decides the encoding.

    Attributes:
        encoding: The name of the encoding used.
        is_the_models: Whether it is known to be the model's own.
    """

    def __init__(self, model: str | None) -> None:
        known = _known_encoding(model)
        self.is_the_models = known is not None
        self.encoding = known or "o200k_base"
        self._encode = _bundled_encoding(self.encoding).encode

    def count(self, example: dict[str, Any]) -> Count:
        """Count an example that ``read_example`` returned."""
        tokens, images = _PER_EXAMPLE, 0
        for message in example["messages"]:
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            images += sum("text" not in part for part in parts)
            tokens += _PER_MESSAGE + sum(self._length(part.get("text")) for part in parts)
            tokens += self._length(message["role"]) + ("name" in message)
            for name in ("name", "refusal", "tool_calls", "function_call"):
                tokens += self._length(message.get(name))
        for name in ("tools", "functions"):
            tokens += self._length(example.get(name))
        return Count(tokens, images)

    def _length(self, value: Any) -> int:
        if value is None:
            return 0
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Marks such as <|endoftext|> are ordinary text in a file.
        return len(self._encode(text, disallowed_special=()))


def _known_encoding(model: str | None) -> str | None:
    try:
        name = encoding_name_for_model(model or "")
    except KeyError:
        return None
    return name if name in _BUNDLED else None


@functools.cache
def _bundled_encoding(name: str) -> tiktoken.Encoding:
    before = os.environ.get(_CACHE)
    os.environ[_CACHE] = str(Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache")
    try:
        return tiktoken.get_encoding(name)
    finally:
        del os.environ[_CACHE]
        if before is not None:
            os.environ[_CACHE] = before
