"""Measure retrieval: metrics, exact search, and comparisons with their uncertainty."""

from llama_index.finetuning.embeddings.evaluation.compare import (
    Comparison,
    QueryChange,
    RankedDocument,
    compare_results,
)
from llama_index.finetuning.embeddings.evaluation.evaluate import (
    RetrievalResult,
    evaluate_rankings,
    evaluate_retrieval,
    evaluate_vectors,
)
from llama_index.finetuning.embeddings.evaluation.significance import Difference, Estimate
from llama_index.finetuning.embeddings.evaluation.systems import DimensionResult

__all__ = [
    "Comparison",
    "Difference",
    "DimensionResult",
    "Estimate",
    "QueryChange",
    "RankedDocument",
    "RetrievalResult",
    "compare_results",
    "evaluate_rankings",
    "evaluate_retrieval",
    "evaluate_vectors",
]
