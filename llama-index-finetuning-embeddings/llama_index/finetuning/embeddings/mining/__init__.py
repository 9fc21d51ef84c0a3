"""Hard negatives: documents that a model ranks high for a query and that do not answer it."""

from llama_index.finetuning.embeddings.mining.mine import mine_hard_negatives

__all__ = ["mine_hard_negatives"]
