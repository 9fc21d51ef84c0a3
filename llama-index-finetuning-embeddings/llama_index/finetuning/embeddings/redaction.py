"""Keep secrets, and texts that nobody asked for, out of messages, logs and files."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llama_index.core.bridge.pydantic import BaseModel

HIDDEN = "<hidden>"

_SECRET_NAME = re.compile(
    r"(?:access|account|anthropic|api|auth|azure|bearer|client|cohere|gemini|google|hf|hub|jina"
    r"|mistral|openai|private|refresh|secret|service|session|subscription|voyage)"
    r"[_-]?(?:key|token)s?$"
    r"|^token$|secret$|password$|passphrase$|credentials?$|authorization$",
    re.IGNORECASE,
)
# Keys by the shapes that services give them, and whatever stands where a key would.
_SECRET = re.compile(
    r"""(?P<keep>
        \b(?:authorization["']?\s*[:=]\s*["']?)?(?:bearer|basic)\s+
      | \b(?:api[ _-]?key|(?:access|auth)[ _-]?token|secret|password)(?:\sprovided)?
        ["']?\s*[:=]\s*["']?
      | ://(?=[^/\s]*@)
      )[^\s"'&,;)}@]+
    | \bsk-[\w-]{6,} | \b(?:gsk|ghp|hf|nvapi|pplx|rk|xai)[-_][\w-]{16,}
    | \bAKIA[0-9A-Z]{16}\b | \bAIza[\w-]{30,} | \beyJ[\w-]+\.[\w-]+\.[\w-]+
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SHORTEST = 6  # shorter values would be found in the middle of ordinary words
_LONGEST_MESSAGE = 500


def is_secret_name(name: str) -> bool:
    """Tell whether a field of this name holds a key, a token or a password."""
    return _SECRET_NAME.search(name) is not None


def redacted(text: str) -> str:
    """Return a text with whatever looks like a key or a password in it hidden."""
    return _SECRET.sub(lambda found: (found["keep"] or "") + HIDDEN, text)


def safe_message(error: BaseException, *, owner: object, texts: Iterable[str] = ()) -> str:
    """Say what went wrong without the keys of who failed and the texts that it was given.

    Errors of services may quote the request with its key and its texts.

    Args:
        error: What was raised.
        owner: The LLM or the embedding model that raised it; the values of its fields with names
            such as ``api_key`` are hidden, those of the models that it wraps too.
        texts: Texts that it worked on.

    Returns:
        The error's class and message, at most 500 characters.
    """
    message = f"{type(error).__name__}: {error}"
    for secret in _secrets(owner):
        message = message.replace(secret, HIDDEN)
    # Before words that look like keys are hidden: with one of its own gone, a text is not found.
    for text in texts:
        for shape in (text, json.dumps(text)[1:-1], repr(text)[1:-1]):
            if len(shape) >= _SHORTEST:
                message = message.replace(shape, "<text>")
    message = redacted(message)
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]} ..."


def _secrets(owner: object, depth: int = 3) -> Iterator[str]:
    """Yield the values of fields that hold secrets, in a model and in those that it wraps."""
    if isinstance(owner, type):  # the attributes of a class are descriptions of fields
        return
    fields: dict[str, Any] = {
        **getattr(owner, "__dict__", {}),
        **(getattr(owner, "__pydantic_private__", None) or {}),
    }
    for name, value in fields.items():
        if isinstance(value, Mapping):
            fields_of_value = value.items()
        else:
            fields_of_value = {name: value}.items()
            for inner in value if isinstance(value, list | tuple) else [value]:
                if depth and isinstance(inner, BaseModel):
                    yield from _secrets(inner, depth - 1)
        for field, one in fields_of_value:
            found = one.get_secret_value() if hasattr(one, "get_secret_value") else one
            if isinstance(found, str) and len(found) >= _SHORTEST and is_secret_name(str(field)):
                yield found
