"""Callback handlers that record an LLM's chats as training data."""

from typing import Any

from llama_index.finetuning._not_carried import missing_name
from llama_index.finetuning.callbacks.finetuning_handler import (
    BaseFinetuningHandler,
    OpenAIFineTuningHandler,
)

__all__ = ["BaseFinetuningHandler", "OpenAIFineTuningHandler"]


def __getattr__(name: str) -> Any:
    raise missing_name(__name__, name)
