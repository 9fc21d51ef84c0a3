"""One line of a chat fine-tuning file: read it, and find what the API would refuse.

The rules are those of OpenAI's per-line input of a supervised chat run: ``messages``, with
``tools`` or ``functions`` where the model may call them. Keys beside these are left to the API.
"""

import json
from typing import Any, NoReturn

from llama_index.finetuning.embeddings.errors import shown

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_INSTEAD_OF_TEXT = ("tool_calls", "function_call", "refusal", "audio")
_KEYS = {"role", "content", "name", "weight", "tool_call_id", *_INSTEAD_OF_TEXT}


def read_example(line: str) -> dict[str, Any]:
    """Return the example that a line holds.

    Raises:
        ValueError: It holds none; the message says what is wrong, and repeats no text of the line.
    """
    example = _parsed(line)
    messages = _listed(example, "messages")
    _must(messages, "there are no 'messages'")
    for number, message in enumerate(messages, start=1):
        _check_message(message, f"message {number}")
    _must(messages[-1]["role"] == "assistant", "the last message must be the assistant's")
    for name in ("tools", "functions"):
        for number, definition in enumerate(_listed(example, name), start=1):
            place = f"'{name}' number {number}"
            function = _function_of(definition, place) if name == "tools" else definition
            _must(isinstance(function, dict) and _text(function, "name"), f"{place} needs a 'name'")
    return example


def _parsed(line: str) -> dict[str, Any]:
    _must(line.strip(), "the line is blank")
    try:
        example = json.loads(line, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(example, dict):
        raise ValueError("no JSON object")
    return example


def _check_message(message: Any, place: str) -> None:
    _must(isinstance(message, dict), f"{place} is no object")
    role = message.get("role")
    _must(role in _ROLES, f"the 'role' of {place} must be in {_ROLES}")
    unknown = sorted(message.keys() - _KEYS)
    _must(not unknown, f"{place} has unknown keys ({shown(unknown)})")
    if "weight" in message:
        weighed = role == "assistant" and message["weight"] in (0, 1)
        _must(weighed, f"the 'weight' of {place} must be 0 or 1, and on an assistant's message")
    if role == "tool":
        _must(_text(message, "tool_call_id"), f"{place} needs a 'tool_call_id'")
    if role == "function":
        _must(_text(message, "name"), f"{place} needs the 'name' of its function")
    for number, call in enumerate(_listed(message, "tool_calls"), start=1):
        where = f"tool call {number} of {place}"
        _check_call(_function_of(call, where), where)
        _must(_text(call, "id"), f"{where} needs an 'id'")
    if message.get("function_call") is not None:
        _check_call(message["function_call"], f"the 'function_call' of {place}")
    _check_content(message, place)


def _check_content(message: dict[str, Any], place: str) -> None:
    content, role = message.get("content"), message["role"]
    if role == "assistant" and content in (None, ""):
        said = any(message.get(name) for name in _INSTEAD_OF_TEXT)
        _must(said, f"{place} needs 'content', or a call of a function")
    elif isinstance(content, list):
        parts = all(isinstance(part, dict) and _text(part, "type") for part in content)
        _must(content and parts, f"the 'content' of {place} must be text, or parts with a 'type'")
    else:
        # A function may well have returned nothing.
        empty = role in ("tool", "function") and content == ""
        _must(empty or _text(message, "content"), f"{place} needs 'content'")


def _check_call(call: Any, place: str) -> None:
    _must(isinstance(call, dict) and _text(call, "name"), f"{place} needs a 'name'")
    _must(isinstance(call.get("arguments"), str), f"{place} needs 'arguments' as JSON in a text")


def _function_of(value: Any, place: str) -> Any:
    _must(
        isinstance(value, dict) and value.get("type") == "function" and "function" in value,
        f"{place} must be an object with the 'type' 'function' and a 'function'",
    )
    return value["function"]


def _listed(holder: dict[str, Any], name: str) -> list[Any]:
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"'{name}' must be a list")
    return value


def _text(holder: dict[str, Any], name: str) -> bool:
    return isinstance(holder.get(name), str) and bool(holder[name])


def _must(condition: Any, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
