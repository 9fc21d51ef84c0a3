"""Datasets from and to other formats; used through the methods of `EmbeddingQAFinetuneDataset`."""
