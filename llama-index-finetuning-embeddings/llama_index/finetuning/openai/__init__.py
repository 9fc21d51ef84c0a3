"""Finetune OpenAI's models through its fine-tuning API (extra ``openai``)."""

from llama_index.finetuning.openai.base import FinetuningJobError, OpenAIFinetuneEngine

__all__ = ["FinetuningJobError", "OpenAIFinetuneEngine"]
