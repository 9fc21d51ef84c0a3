"""Questions for documents: written by any LlamaIndex LLM, or taken from the texts themselves.

An answer goes from ``calls`` (the LLM) through ``journal`` (kept on disk) to ``parsing`` (its
questions), ``filters`` (the useful ones) and ``results`` (the dataset); ``runner`` leads it.
"""

from llama_index.finetuning.embeddings.generation.filters import (
    DEFAULT_FILTERS,
    QuestionFilter,
    copies_text,
    mentions_context,
)
from llama_index.finetuning.embeddings.generation.generate import (
    agenerate_qa_embedding_pairs,
    generate_qa_embedding_pairs,
)
from llama_index.finetuning.embeddings.generation.prompts import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    QA_PROMPTS,
)
from llama_index.finetuning.embeddings.generation.pseudo import pseudo_query_pairs
from llama_index.finetuning.embeddings.generation.results import GenerationReport

__all__ = [
    "DEFAULT_FILTERS",
    "DEFAULT_QA_GENERATE_PROMPT_TMPL",
    "QA_PROMPTS",
    "GenerationReport",
    "QuestionFilter",
    "agenerate_qa_embedding_pairs",
    "copies_text",
    "generate_qa_embedding_pairs",
    "mentions_context",
    "pseudo_query_pairs",
]
