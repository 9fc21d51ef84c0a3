"""Record the chats that run through an LLM, and write them as a fine-tuning file."""

import json
import logging
import os
from abc import abstractmethod
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from pydantic import BaseModel

from llama_index.finetuning._not_carried import missing_name
from llama_index.finetuning.embeddings.errors import DatasetError, require
from llama_index.finetuning.embeddings.files import atomic_file

logger = logging.getLogger(__name__)

_DEFINITIONS = ("tools", "functions")  # "functions" is what OpenAI called tools until 2023

# The ids of the LLM events that were begun around this one in its thread or task, outermost first.
_begun: ContextVar[tuple[str, ...]] = ContextVar("llm_events_begun", default=())


@dataclass
class _Call:
    """A call of the LLM: the messages sent, and after them, once it has answered, the answer."""

    chat: list[ChatMessage]
    definitions: dict[str, Any]
    outer: "_Call | None"
    inner: list[str] = field(default_factory=list)


class BaseFinetuningHandler(BaseCallbackHandler):
    """A callback handler that keeps every chat and completion of the LLMs it listens to.

    Calls that fail, or end without an answer, are left out. Some LLMs answer a chat through their
    own completion, or the other way round, which makes two events of one call: where the inner
    one ends with the same answer, only the outer one is kept.
    """

    def __init__(self) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self._calls: dict[str, _Call] = {}
        self._open: dict[str, _Call] = {}

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        """Keep what an LLM is sent; other events are none of ours."""
        payload = payload or {}
        messages = _messages_of(payload)
        if event_type == CBEventType.LLM and messages:
            outer_ids = [one for one in _begun.get() if one in self._open]
            options = payload.get(EventPayload.ADDITIONAL_KWARGS) or {}
            self._open[event_id] = _Call(
                messages,
                {name: options[name] for name in _DEFINITIONS if options.get(name)},
                self._open.get(outer_ids[-1]) if outer_ids else None,
            )
            _begun.set((*outer_ids, event_id))
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        """Keep what an LLM answered."""
        call = self._open.pop(event_id, None) if event_type == CBEventType.LLM else None
        if call is None:
            return
        response = _response_of(payload or {})
        if response is None:
            return
        for one in call.inner:
            if self._calls[one].chat[-1].content == response.content:
                del self._calls[one]
        call.chat.append(response)
        self._calls[event_id] = call
        if call.outer is not None:
            call.outer.inner.append(event_id)

    def get_finetuning_events(self) -> dict[str, dict[str, Any]]:
        """Return the chats by event id: the ``messages`` sent, and the ``response``."""
        return {
            event_id: {"messages": call.chat[:-1], "response": call.chat[-1]}
            for event_id, call in list(self._calls.items())
        }

    @abstractmethod
    def save_finetuning_events(self, path: str | os.PathLike[str]) -> None:
        """Write the chats to a file."""

    def start_trace(self, trace_id: str | None = None) -> None:
        """Do nothing: calls are kept whatever trace they belong to."""

    def end_trace(
        self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None
    ) -> None:
        """Do nothing."""


class OpenAIFineTuningHandler(BaseFinetuningHandler):
    """Records chats and writes them in the format of OpenAI's fine-tuning.

    Example:
        >>> handler = OpenAIFineTuningHandler()
        >>> llm.callback_manager = CallbackManager([handler])
        >>> llm.chat(messages)
        >>> handler.save_finetuning_events("chats.jsonl")
    """

    def save_finetuning_events(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON object per chat and line; a file that stands there is replaced whole.

        Each holds the ``messages``, the answer last, with the calls of functions that the model
        made, and the ``tools`` (or ``functions``) that it was offered.

        Raises:
            DatasetError: No chat was recorded.
            OutputError: The file can't be written.
            MissingExtraError: The extra ``openai`` is not installed.
        """
        require(
            "llama_index.llms.openai", extra="openai", purpose="Writing chats in OpenAI's format"
        )
        from llama_index.llms.openai.utils import to_openai_message_dicts

        calls = list(self._calls.values())
        if not calls:
            raise DatasetError(
                "No chat was recorded, so there is nothing to write. Put this handler in the "
                "CallbackManager of the LLM, as its 'callback_manager', before the LLM is called."
            )
        with atomic_file(path) as stream:
            for call in calls:
                example = {"messages": to_openai_message_dicts(call.chat, drop_none=True)}
                stream.write(json.dumps(example | call.definitions, default=_plain) + "\n")
        logger.info("Wrote %d chats to %s", len(calls), path)


def _messages_of(payload: dict[str, Any]) -> list[ChatMessage]:
    if EventPayload.PROMPT in payload:
        return [ChatMessage(role=MessageRole.USER, content=str(payload[EventPayload.PROMPT]))]
    return list(payload.get(EventPayload.MESSAGES) or ())


def _response_of(payload: dict[str, Any]) -> ChatMessage | None:
    """Return the answer of a chat or a completion; None where there is none."""
    answer = payload.get(EventPayload.RESPONSE) or payload.get(EventPayload.COMPLETION)
    message = getattr(answer, "message", None)
    if isinstance(message, ChatMessage):
        return message
    text = getattr(answer, "text", answer)
    return ChatMessage(role=MessageRole.ASSISTANT, content=text) if text else None


def _plain(value: Any) -> Any:
    """Turn a client's object (a tool call of an older LlamaIndex) into what JSON holds."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude={"index"}, exclude_none=True)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def __getattr__(name: str) -> Any:
    raise missing_name(__name__, name)
