"""The one function of this room."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
)
from llama_index.finetuning.embeddings.encoding import encode
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.mining.ranking import (
    PairScorer,
    faiss_search,
    ranked,
    rescored,
    score_pairs,
)
from llama_index.finetuning.embeddings.mining.rule import Rule, SamplingStrategy
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.search import top_k
from llama_index.finetuning.embeddings.validation import check_integer

logger = logging.getLogger(__name__)

_WIDER_POOL = 10  # candidates per negative when some of them will be rejected


def mine_hard_negatives(
    dataset: EmbeddingQAFinetuneDataset,
    embed_model: BaseEmbedding,
    *,
    num_negatives: int = 4,
    range_min: int = 0,
    range_max: int | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    sampling_strategy: SamplingStrategy = "top",
    cross_encoder: PairScorer | None = None,
    use_faiss: bool = False,
    batch_size: int | None = None,
    num_workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    show_progress: bool = False,
    seed: int = 42,
) -> EmbeddingQAFinetuneDataset:
    """Find, for every query, documents that look relevant to a model and are not.

    The corpus is ranked for each query by cosine similarity. What is relevant to the query, to
    another query of the same text, or equal in text to such a document (white space aside) is taken
    out, and so is the query itself where it stands in the corpus. Of the next ``range_max``
    documents those within the limits stay, the best ``range_min`` of them are skipped, and
    ``num_negatives`` of the rest are chosen. The meaning of the limits is that of
    ``sentence_transformers.util.mine_hard_negatives``; for several positives the margins count from
    the lowest score among them.

    Documents that answer a query and were never judged to are the danger, and near the top they
    are many. ``relative_margin=0.05`` is what worked best in NV-Retriever (Moreira et al., 2024,
    "TopK-PercPos"). Twins that differ in a few words are found by ``dataset.consolidate()``.

    Args:
        dataset: The queries and the corpus; it stays as it is.
        embed_model: Any LlamaIndex embedding model, best the one to be trained.
        num_negatives: Negatives per query, fewer where no more are within the limits.
        range_min: How many of the best candidates within the limits to skip.
        range_max: How many of the best documents that aren't relevant are candidates. By default
            ``range_min + num_negatives``; ten times as many negatives when a margin, a maximum, a
            cross-encoder or random sampling chooses among them.
        absolute_margin: A negative's score is at least this much below its query's positive's.
        relative_margin: Likewise, as a share of the positive's score.
        max_score: A negative's highest score.
        min_score: A negative's lowest score.
        sampling_strategy: ``"top"``: the best; ``"random"``: any of the candidates.
        cross_encoder: Scores the candidates and positives anew, for limits and order.
        use_faiss: Search with faiss (exact, all cores; holds a second copy of the vectors).
        batch_size: Texts per call of the model; default: the model's own.
        num_workers: Calls in flight; default: the model's own.
        cache_dir: Folder of the vectors that are kept between calls; default: none.
        show_progress: Show progress bars.
        seed: For random sampling.

    Returns:
        A dataset whose ``hard_negatives``, best first, replace those of ``dataset``. Queries
        without any are absent from them.

    Raises:
        ConfigurationError: An argument is out of range.
        DatasetError: The dataset was changed in place and no longer fits together.
        EncodingError: The model failed, or the model or the cross-encoder gave unusable numbers.
        MissingExtraError: ``use_faiss`` without faiss.
        OutputError: ``cache_dir`` can't be written.
    """
    dataset = require_dataset(dataset, name="dataset")
    check_integer("seed", seed, minimum=0)
    check_integer("num_negatives", num_negatives, minimum=1)
    check_integer("range_min", range_min, minimum=0)
    chooses = cross_encoder is not None or sampling_strategy == "random"
    limits = (absolute_margin, relative_margin, max_score)
    wider = _WIDER_POOL if chooses or any(limit is not None for limit in limits) else 1
    rule = Rule(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_min + wider * num_negatives if range_max is None else range_max,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        max_score=max_score,
        min_score=min_score,
        sampling_strategy=sampling_strategy,
    )
    if cross_encoder is not None and not callable(getattr(cross_encoder, "predict", None)):
        raise ConfigurationError(
            "'cross_encoder' must have a method 'predict', as sentence-transformers' CrossEncoder "
            f"has (got {cross_encoder!r})."
        )
    index = RelevanceIndex(dataset)
    query_ids, document_ids = list(dataset.queries), index.first_ids()
    texts = [dataset.corpus[docid] for docid in document_ids]
    # Before the encoding: an extra that is missing, or a cross-encoder with more than one label,
    # should not cost an hour.
    search = faiss_search() if use_faiss else top_k
    if cross_encoder is not None:
        score_pairs(cross_encoder, [(dataset.queries[query_ids[0]], texts[0])])
    encoded = functools.partial(
        encode,
        embed_model,
        batch_size=batch_size,
        num_workers=num_workers,
        cache_dir=cache_dir,
        show_progress=show_progress,
    )
    queries = encoded(list(dataset.queries.values()), "query", ids=query_ids)
    documents = encoded(texts, "text", ids=document_ids)
    rng = np.random.default_rng(seed)
    mined: dict[str, list[str]] = {}
    with tqdm(total=len(query_ids), desc="Mining", disable=not show_progress) as progress:
        for block in ranked(index, query_ids, (queries, documents), rule.range_max, search):
            candidates = block
            if cross_encoder is not None:
                candidates = rescored(block, cross_encoder, dataset.queries, texts)
            for one in candidates:
                chosen = rule.chosen(one.scores, float(one.positive_scores.min()), rng)
                mined[one.query_id] = [document_ids[key] for key in one.keys[chosen]]
            progress.update(len(block))
    _log(mined, num_negatives)
    return type(dataset)(
        queries=dataset.queries,
        corpus=dataset.corpus,
        relevant_docs=dataset.relevant_docs,
        hard_negatives={qid: mined[qid] for qid in query_ids if mined[qid]},
    )


def _log(mined: Mapping[str, Sequence[str]], num_negatives: int) -> None:
    counts = [len(found) for found in mined.values()]
    logger.info("Mined %d hard negatives for %d queries.", sum(counts), len(counts))
    if min(counts) < num_negatives:
        logger.warning(
            "%d of %d queries got fewer than %d hard negatives, %d of them none: raise 'range_max' "
            "or loosen the limits.",
            sum(count < num_negatives for count in counts),
            len(counts),
            num_negatives,
            counts.count(0),
        )
