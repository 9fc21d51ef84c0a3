"""What a dataset holds: sizes, repeats, lengths, and what another dataset shares with it."""

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index.finetuning.embeddings.duplicates import (
    NEAR_DUPLICATE,
    near_duplicate_clusters,
    text_key,
)
from llama_index.finetuning.embeddings.errors import ConfigurationError

_BATCH = 2048
_LIMITS = ("max_seq_length", "model_max_length")  # of a model, of a tokenizer
_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


@dataclasses.dataclass(frozen=True)
class Quantiles:
    """How a count is distributed: mean, and the values that 0, 5, 50, 95 and 100 % reach."""

    mean: float
    min: int
    p05: int
    median: int
    p95: int
    max: int

    def __str__(self) -> str:
        return (
            f"mean {self.mean:,.1f}, min {self.min:,}, 5% {self.p05:,}, median {self.median:,}, "
            f"95% {self.p95:,}, max {self.max:,}"
        )


@dataclasses.dataclass(frozen=True)
class DatasetDescription:
    """What ``EmbeddingQAFinetuneDataset.describe`` found.

    Attributes:
        queries: Number of queries.
        documents: Number of documents in the corpus.
        pairs: Number of (query, relevant document) pairs.
        hard_negatives: Number of (query, hard negative) pairs.
        duplicate_queries: Queries whose text an earlier one has, white space aside.
        duplicate_documents: Documents whose text an earlier one has, white space aside.
        near_duplicate_documents: Documents that are an earlier one but for a few words; the
            duplicates are among them.
        unjudged_documents: Documents that no query is judged to be answered by.
        positives_per_query: Relevant documents of a query.
        queries_per_document: Queries that a document answers, over documents with at least one.
        query_lengths: Lengths of the queries, in ``length_unit``.
        document_lengths: Lengths of the documents, in ``length_unit``.
        length_unit: ``"words"`` when no tokenizer was given.
        max_seq_length: The length at which the model cuts; None when unknown or unlimited.
        queries_cut: Share of the queries that are longer, in [0, 1]; None without a maximum.
        documents_cut: Share of the documents that are longer, likewise.
    """

    queries: int
    documents: int
    pairs: int
    hard_negatives: int
    duplicate_queries: int
    duplicate_documents: int
    near_duplicate_documents: int
    unjudged_documents: int
    positives_per_query: Quantiles
    queries_per_document: Quantiles
    query_lengths: Quantiles
    document_lengths: Quantiles
    length_unit: Literal["tokens", "words"]
    max_seq_length: int | None
    queries_cut: float | None
    documents_cut: float | None

    def __str__(self) -> str:
        return "\n".join(
            f"{name.replace('_', ' '):<26}{_in_words(value)}" for name, value in vars(self).items()
        )


@dataclasses.dataclass(frozen=True)
class Leakage:
    """What a second dataset shares with a first one; every id is one of the second.

    Attributes:
        queries: Queries whose text the first dataset has too, white space aside.
        documents: Documents whose text the first dataset has too.
        near_duplicate_documents: Documents that are one of the first dataset but for a few words,
            without those in ``documents``.
        relevant_documents: Of both kinds, those that are relevant in both datasets. A test set
            with any of these measures memory; other documents may well be in both corpora.
    """

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    near_duplicate_documents: tuple[str, ...]
    relevant_documents: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is any that matters: a shared query or a document relevant in both."""
        return bool(self.queries or self.relevant_documents)

    def __str__(self) -> str:
        return "\n".join(
            f"shared {name.replace('_', ' '):<26}{len(ids):,}" for name, ids in vars(self).items()
        )


def describe(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    relevant_docs: Mapping[str, Sequence[str]],
    hard_negatives: Mapping[str, Sequence[str]],
    *,
    tokenizer: Any,
    max_seq_length: int | None,
) -> DatasetDescription:
    """Count what a dataset holds; see ``EmbeddingQAFinetuneDataset.describe``.

    Raises:
        ConfigurationError: ``tokenizer`` is none, or ``max_seq_length`` is below 1.
    """
    limit = _limit(tokenizer, max_seq_length)
    query_lengths = token_lengths(list(queries.values()), tokenizer)
    document_lengths = token_lengths(list(corpus.values()), tokenizer)
    positives = [len(set(relevant_docs[qid])) for qid in queries]
    answers = Counter(docid for qid in queries for docid in set(relevant_docs[qid]))
    documents = list(corpus.values())
    groups = near_duplicate_clusters(documents, threshold=NEAR_DUPLICATE)
    return DatasetDescription(
        queries=len(queries),
        documents=len(documents),
        pairs=sum(positives),
        hard_negatives=sum(len(hard_negatives.get(qid, ())) for qid in queries),
        duplicate_queries=len(queries) - len(set(map(text_key, queries.values()))),
        duplicate_documents=len(documents) - len(set(map(text_key, documents))),
        near_duplicate_documents=len(documents) - len(np.unique(groups)),
        unjudged_documents=len(documents) - len(answers),
        positives_per_query=_quantiles(positives),
        queries_per_document=_quantiles(list(answers.values())),
        query_lengths=_quantiles(query_lengths),
        document_lengths=_quantiles(document_lengths),
        length_unit="words" if tokenizer is None else "tokens",
        max_seq_length=limit,
        queries_cut=None if limit is None else float((query_lengths > limit).mean()),
        documents_cut=None if limit is None else float((document_lengths > limit).mean()),
    )


def leakage(
    queries: tuple[Mapping[str, str], Mapping[str, str]],
    corpora: tuple[Mapping[str, str], Mapping[str, str]],
    relevant: tuple[Collection[str], Collection[str]],
    *,
    threshold: float,
) -> Leakage:
    """Find what a second dataset shares with a first one.

    Args:
        queries: The queries of the first and of the second dataset.
        corpora: Their corpora.
        relevant: The ids of the documents that are relevant to any of their queries.
        threshold: What counts as near-duplicate, in (0, 1].

    Raises:
        ConfigurationError: ``threshold`` is out of range.
    """
    known_queries = set(map(text_key, queries[0].values()))
    known_texts = set(map(text_key, corpora[0].values()))
    same = {docid: None for docid, text in corpora[1].items() if text_key(text) in known_texts}
    groups = near_duplicate_clusters(
        [*corpora[0].values(), *corpora[1].values()], threshold=threshold
    ).tolist()
    group_of_first = dict(zip(corpora[0], groups, strict=False))
    group_of = dict(zip(corpora[1], groups[len(corpora[0]) :], strict=True))
    known_groups = set(group_of_first.values())
    relevant_groups = {group_of_first[docid] for docid in relevant[0]}
    shared = [docid for docid, group in group_of.items() if group in known_groups]
    own_relevant = set(relevant[1])
    return Leakage(
        queries=tuple(q for q, text in queries[1].items() if text_key(text) in known_queries),
        documents=tuple(same),
        near_duplicate_documents=tuple(docid for docid in shared if docid not in same),
        relevant_documents=tuple(
            docid
            for docid in shared
            if docid in own_relevant and group_of[docid] in relevant_groups
        ),
    )


def token_lengths(texts: Sequence[str], tokenizer: Any = None) -> NDArray[np.int64]:
    """Count each text's tokens as a model reads them: with special tokens, and never cut.

    Args:
        texts: The texts, without any prompt.
        tokenizer: A Hugging Face tokenizer, a SentenceTransformer model (its tokenizer is
            used), a ``tokenizers.Tokenizer`` (as StaticEmbedding models read with it: without
            special tokens), or None to count words between white space.

    Returns:
        Shape ``(n_texts,)``.

    Raises:
        ConfigurationError: ``tokenizer`` is none of these.
    """
    counts = map(_word_count, texts) if tokenizer is None else _token_counts(texts, tokenizer)
    return np.fromiter(counts, dtype=np.int64, count=len(texts))


def _in_words(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _limit(tokenizer: Any, max_seq_length: int | None) -> int | None:
    if max_seq_length is not None and max_seq_length < 1:
        raise ConfigurationError(f"'max_seq_length' must be at least 1 (got {max_seq_length}).")
    limits = (max_seq_length, *(getattr(tokenizer, name, None) for name in _LIMITS))
    limit = next((limit for limit in limits if limit is not None), math.inf)
    return int(limit) if limit < _NO_LIMIT else None


def _quantiles(counts: Sequence[int] | NDArray[np.int64]) -> Quantiles:
    values = np.quantile(counts, (0, 0.05, 0.5, 0.95, 1), method="nearest").tolist()
    return Quantiles(float(np.mean(counts)), *(int(value) for value in values))


def _word_count(text: str) -> int:
    return len(text.split())


def _token_counts(texts: Sequence[str], tokenizer: Any) -> Iterator[int]:
    # A SentenceTransformer holds its tokenizer under this name; tokenizers have no such field.
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(tokenizer, "encode_ordinary_batch"):
        count = _count_with_tiktoken
    elif hasattr(tokenizer, "no_truncation"):
        count = _count_with_tokenizers
    elif hasattr(tokenizer, "convert_tokens_to_ids"):
        count = _count_with_transformers
    else:
        raise ConfigurationError(
            "'tokenizer' must be a tokenizer of Hugging Face or tiktoken, a SentenceTransformer "
            f"model or None (got {type(tokenizer).__name__})."
        )
    for start in range(0, len(texts), _BATCH):
        yield from count(list(texts[start : start + _BATCH]), tokenizer)


def _count_with_tiktoken(texts: list[str], tokenizer: Any) -> list[int]:
    return [len(ids) for ids in tokenizer.encode_ordinary_batch(texts)]


def _count_with_transformers(texts: list[str], tokenizer: Any) -> list[int]:
    encoded = tokenizer(
        texts,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return [len(ids) for ids in encoded["input_ids"]]


def _count_with_tokenizers(texts: list[str], tokenizer: Any) -> list[int]:
    # Only StaticEmbedding models hold a bare tokenizer, and they read no special tokens.
    truncation, padding = tokenizer.truncation, tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        return [len(one) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]
    finally:
        if truncation is not None:
            tokenizer.enable_truncation(**truncation)
        if padding is not None:
            tokenizer.enable_padding(**padding)
