"""Scoring a model in training on the validation set."""

from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim
from torch import Tensor

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.evaluation.evaluate import (
    RetrievalResult,
    evaluate_rankings,
)
from llama_index.finetuning.embeddings.sentence_transformer import distributed

METRIC = "cosine_ndcg@10"

_Evaluator: Any = upstream.information_retrieval_evaluator()


class RetrievalEvaluator(_Evaluator):  # type: ignore[misc]
    """Sentence-transformers' evaluator, which also keeps each query's ranking for a report.

    It ranks by cosine similarity, as a LlamaIndex index does, whatever the model's own
    similarity is.

    Args:
        dataset: The validation set.
        query_prompt: Put before every query.
        text_prompt: Put before every document.
        frozen_documents: Embed the documents once, by default with the first model that is
            evaluated: where the queries' encoder alone is trained they keep their vectors.
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        *,
        query_prompt: str,
        text_prompt: str,
        frozen_documents: bool = False,
    ) -> None:
        super().__init__(
            queries=dataset.queries,
            corpus=dataset.corpus,
            relevant_docs={qid: set(dataset.relevant_docs[qid]) for qid in dataset.queries},
            score_functions={"cosine": cos_sim},
            query_prompt=query_prompt,
            corpus_prompt=text_prompt,
            write_csv=False,
        )
        self._dataset = dataset
        self._result: RetrievalResult
        self._frozen_documents = frozen_documents
        self._document_vectors: Tensor | None = None

    def __call__(self, model: SentenceTransformer, *args: Any, **kwargs: Any) -> Any:
        """Evaluate a model, and return its metrics by name."""
        if self._frozen_documents:
            if self._document_vectors is None:
                self.embed_documents(model)
            kwargs["corpus_embeddings"] = self._document_vectors
        return super().__call__(model, *args, **kwargs)

    def embed_inputs(
        self, model: SentenceTransformer, sentences: Any, encode_fn_name: Any = None, **kwargs: Any
    ) -> Any:
        """Embed as LlamaIndex does, by the prompts alone: a model may cut each side to a length."""
        return super().embed_inputs(model, sentences, None, **kwargs)

    def document_vectors(self) -> dict[str, Tensor]:
        """Return the vectors of frozen documents that were embedded so far, by their text."""
        if self._document_vectors is None:
            return {}
        return dict(zip(self.corpus, self._document_vectors, strict=True))

    def embed_documents(self, model: SentenceTransformer) -> None:
        """Give the documents the vectors of a model, for all models that are evaluated.

        Args:
            model: Embeds them.
        """
        self._document_vectors = model.encode(
            self.corpus,
            prompt=self.corpus_prompt or None,
            batch_size=self.batch_size,
            convert_to_tensor=True,
        )

    def compute_metrics(self, queries_result_list: list[Any]) -> Any:
        """Compute the metrics, and keep the ranking that they came from.

        nDCG@10 is this package's, by which the report goes as well: upstream has another order
        of documents with the same score.
        """
        self._result = self._ranked(queries_result_list)
        metrics = super().compute_metrics(queries_result_list)
        metrics["ndcg@k"][10] = self._result.metrics["ndcg@10"]
        return metrics

    def evaluate(self, model: SentenceTransformer) -> RetrievalResult:
        """Embed the validation set in the main process, and score every query."""

        def result() -> RetrievalResult:
            self(model)
            return self._result

        return distributed.from_main(result)

    def _ranked(self, found: list[list[dict[str, Any]]]) -> RetrievalResult:
        """Return the result of an evaluation, query by query."""
        row_of = {docid: row for row, docid in enumerate(self._dataset.corpus)}
        ranked = [
            sorted(hits, key=lambda hit: (-hit["score"], row_of[hit["corpus_id"]]))
            for hits in found
        ]
        indices = np.array([[row_of[hit["corpus_id"]] for hit in hits] for hits in ranked])
        scores = np.array([[hit["score"] for hit in hits] for hits in ranked], dtype=np.float32)
        return evaluate_rankings(indices, self._dataset, scores=scores)
