"""Datasets from and to other formats; used through the methods of `EmbeddingQAFinetuneDataset`."""

from llama_index.finetuning.embeddings.formats.beir import beir_relevance

__all__ = ["beir_relevance"]
