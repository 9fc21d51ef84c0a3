"""What one finetuning run trains on: rows, batches, collator and loss that belong together."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import nn

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.encoding.calls import module_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError
from llama_index.finetuning.embeddings.sentence_transformer import distributed, rows
from llama_index.finetuning.embeddings.sentence_transformer.batching import (
    FalseNegativeFreeBatchSampler,
)
from llama_index.finetuning.embeddings.sentence_transformer.by_document import (
    StepBuilder,
    StepCollator,
)
from llama_index.finetuning.embeddings.sentence_transformer.document_loss import (
    DocumentRankingLoss,
)
from llama_index.finetuning.embeddings.sentence_transformer.frozen_documents import (
    FrozenDocuments,
    QueryStepCollator,
)
from llama_index.finetuning.embeddings.sentence_transformer.losses import (
    PlainRanking,
    build_loss,
    loss_format,
    plain_ranking,
)

# A document with more queries comes again in the same epoch: by experiment, see
# benchmarks/RESULTS.md.
MAX_QUERIES_PER_DOCUMENT = 2


@dataclass(frozen=True)
class Task:
    """Everything that the Trainer needs to know about the data.

    Attributes:
        batching: ``"by_document"``, ``"pairs"`` or, for frozen documents, ``"queries"``.
        rows: The training rows.
        loss: The loss, bound to the model.
        batch_sampler: Makes the sampler from the rows, a batch size and ``drop_last``.
        collator: Turns rows into tensors; None is sentence-transformers' own.
        prompts: Column name to prompt, for sentence-transformers' own collator.
        n_documents: Distinct documents that the queries choose from; None where the loss lets
            them choose from none.
        frozen_documents: What the queries are trained against where their encoder alone is
            trained; to be encoded before the first step.
        has_hard_negatives: Some queries name documents to choose against.
    """

    batching: str
    rows: Dataset
    loss: nn.Module
    batch_sampler: Callable[..., FalseNegativeFreeBatchSampler]
    collator: StepCollator | QueryStepCollator | None
    prompts: dict[str, str] | None
    n_documents: int | None = None
    frozen_documents: FrozenDocuments | None = None
    has_hard_negatives: bool = False

    def check_learnable(self, args: TrainingArguments) -> None:
        """Make sure that there is something to choose from in a step.

        Raises:
            DatasetError: All queries have the same document.
            ConfigurationError: A step is too small to hold two documents.
        """
        if self.n_documents is None:
            return
        if self.n_documents < 2:
            raise DatasetError(
                "'dataset' has one and the same document for all its queries: there is no other to "
                "tell it from. Add queries of other documents, or hard_negatives."
            )
        documents = args.per_device_train_batch_size * distributed.world_size()
        if documents == 1 and self.frozen_documents is None and not self.has_hard_negatives:
            raise ConfigurationError(
                "'batch_size' must be at least 2 without hard_negatives (got 1): a step of one "
                "document has no other to tell it from, and gradient accumulation brings none."
            )


def build_task(
    dataset: EmbeddingQAFinetuneDataset,
    model: SentenceTransformer,
    *,
    train: str,
    loss: Any,
    batching: str,
    use_all_docs: bool,
    matryoshka_dims: Sequence[int] | None,
    query_prompt: str,
    text_prompt: str,
    whiten_queries: bool,
    seed: int,
) -> Task:
    """Choose the batching and lay out rows, collator and loss for it.

    Raises:
        ConfigurationError: The loss can't be trained by document, or not on this data, or the
            model has fewer dimensions than are asked for.
    """
    if callable(loss) and not isinstance(loss, nn.Module | type):
        loss = build_loss(loss, model)
    ranking = plain_ranking(loss)
    if isinstance(loss, DocumentRankingLoss):  # that of an engine
        ranking = PlainRanking(loss.scale, loss.symmetric, loss.micro_batch_texts)
        matryoshka_dims = matryoshka_dims or loss.dims
    if matryoshka_dims is not None:
        matryoshka_dims = _with_whole(matryoshka_dims, model)
    if train == "query":
        if ranking is None or (loss is not None and ranking.symmetric):
            raise ConfigurationError(
                "'train' can be 'query' only for MultipleNegativesRankingLoss with cosine "
                f"similarity, from queries to documents (got {_name(loss)}). Use train='both' or "
                "leave 'loss' out."
            )
        return _query_task(
            dataset,
            model,
            loss=_ranking_loss(model, ranking, symmetric=False, dims=matryoshka_dims),
            use_all_docs=use_all_docs,
            query_prompt=query_prompt,
            text_prompt=text_prompt,
            # A prefix of whitened vectors would hold what belongs to the other dimensions. A Router
            # loads each of its modules by itself, and a matrix in fp32 even behind half precision.
            whiten=whiten_queries and matryoshka_dims is None and _is_in_fp32(model),
            seed=seed,
        )
    if batching == "by_document" and ranking is None:
        raise ConfigurationError(
            "'batching' can be 'by_document' only for MultipleNegativesRankingLoss with cosine "
            f"similarity (got {_name(loss)}). Use batching='pairs' or leave 'loss' out."
        )
    if batching == "auto":
        pairs = rows.training_pairs(dataset, use_all_docs=use_all_docs)
        shared = len({docid for _, docid in pairs}) < len(pairs)
        batching = "by_document" if ranking is not None and shared else "pairs"
    if ranking is not None:
        apart = batching == "pairs"
        grouped = rows.document_rows(
            dataset,
            use_all_docs=use_all_docs,
            max_queries=1 if apart else MAX_QUERIES_PER_DOCUMENT,
        )
        steps = StepBuilder(dataset, grouped, false_negatives_apart=apart)
        return Task(
            batching=batching,
            rows=Dataset.from_dict({"row": list(range(len(grouped)))}),
            loss=_ranking_loss(model, ranking, symmetric=ranking.symmetric, dims=matryoshka_dims),
            batch_sampler=functools.partial(
                FalseNegativeFreeBatchSampler, keys=steps.keys, seed=seed
            ),
            collator=StepCollator(model, steps, query_prompt, text_prompt),
            prompts=None,
            n_documents=steps.n_documents,
            has_hard_negatives=any(map((dataset.hard_negatives or {}).get, dataset.queries)),
        )
    bound = build_loss(loss, model)
    if any(isinstance(one, DocumentRankingLoss) for one in bound.modules()):
        raise ConfigurationError(
            f"'loss' can't hold the engine's own loss inside another (got {_name(bound)}). Use "
            "'matryoshka_dims', or a loss of sentence-transformers in its place."
        )
    gathers = any(getattr(one, "gather_across_devices", False) for one in bound.modules())
    if gathers and distributed.world_size() > 1:
        raise ConfigurationError(
            f"'loss' can't gather documents across processes ({_name(bound)} with "
            "gather_across_devices=True): a document of one process may be relevant to another's "
            "query. Leave it at False, or use MultipleNegativesRankingLoss."
        )
    if matryoshka_dims is not None:
        bound = upstream.losses().MatryoshkaLoss(model, bound, list(matryoshka_dims))
    laid_out = rows.build_rows(dataset, loss_format(bound), use_all_docs=use_all_docs, seed=seed)
    texts = [name for name in laid_out.columns if name != "label"]
    prompts = dict.fromkeys(texts, text_prompt) | {texts[0]: query_prompt}
    return Task(
        batching=batching,
        rows=Dataset.from_dict(laid_out.columns),
        loss=bound,
        batch_sampler=functools.partial(
            FalseNegativeFreeBatchSampler, keys=laid_out.keys, seed=seed
        ),
        collator=None,
        prompts={name: prompt for name, prompt in prompts.items() if prompt} or None,
    )


def _ranking_loss(
    model: SentenceTransformer,
    ranking: PlainRanking,
    *,
    symmetric: bool,
    dims: Sequence[int] | None,
) -> DocumentRankingLoss:
    texts = ranking.mini_batch_size
    return DocumentRankingLoss(
        model,
        scale=ranking.scale,
        symmetric=symmetric,
        dims=dims,
        micro_batch_texts=texts,
        # Who asks for a cached loss is short of memory.
        keep_activations_tokens=None if texts is None else 0,
    )


def _query_task(
    dataset: EmbeddingQAFinetuneDataset,
    model: SentenceTransformer,
    *,
    loss: DocumentRankingLoss,
    use_all_docs: bool,
    query_prompt: str,
    text_prompt: str,
    whiten: bool,
    seed: int,
) -> Task:
    pairs = rows.training_pairs(dataset, use_all_docs=use_all_docs)
    grouped: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in pairs:
        grouped[pair[0]].append(pair)
    documents = FrozenDocuments(dataset, pairs, text_prompt, whiten=whiten, seed=seed)
    return Task(
        batching="queries",
        rows=Dataset.from_dict({"row": list(range(len(grouped)))}),
        loss=loss,
        batch_sampler=functools.partial(FalseNegativeFreeBatchSampler, keys=None, seed=seed),
        collator=QueryStepCollator(
            model, dataset, list(grouped.values()), documents, query_prompt, seed
        ),
        prompts=None,
        n_documents=len(documents.keys),
        frozen_documents=documents,
    )


def _with_whole(dims: Sequence[int], model: SentenceTransformer) -> list[int]:
    dim = module_dimension(model)
    for wanted in sorted(dims, reverse=True):
        if dim is not None and wanted > dim:
            raise ConfigurationError(
                f"'matryoshka_dims' must not exceed the model's {dim} dimensions (got {wanted})."
            )
    return sorted({*dims, *([] if dim is None else [dim])}, reverse=True)


def _is_in_fp32(model: SentenceTransformer) -> bool:
    return bool(next(model.parameters()).dtype == torch.float32)


def _name(loss: Any) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
