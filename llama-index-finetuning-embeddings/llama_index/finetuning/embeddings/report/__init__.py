"""Show an evaluation: tables, pictures, and one page to send to someone."""

from llama_index.finetuning.embeddings.report.report import (
    RetrievalReport,
    compare_retrieval,
    report_from_results,
)

__all__ = ["RetrievalReport", "compare_retrieval", "report_from_results"]
