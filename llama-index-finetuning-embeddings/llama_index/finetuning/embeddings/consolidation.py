"""Giving near-duplicate documents, and repeated queries, the same relevance."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from llama_index.finetuning.embeddings.duplicates import near_duplicate_clusters, text_key


def consolidated(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    relevant_docs: Mapping[str, Sequence[str]],
    hard_negatives: Mapping[str, Sequence[str]] | None,
    *,
    threshold: float,
) -> tuple[dict[str, list[str]], dict[str, list[str]] | None]:
    """Make every twin of a relevant document relevant too, and no hard negative any more.

    Queries of equal text share their relevant documents, and a document's near-duplicates are
    relevant wherever it is. A query's own documents stay first, in their order.

    Returns:
        The new ``relevant_docs`` and ``hard_negatives``.

    Raises:
        ConfigurationError: ``threshold`` is out of range.
    """
    groups = near_duplicate_clusters(list(corpus.values()), threshold=threshold).tolist()
    group_of = dict(zip(corpus, groups, strict=True))
    members: defaultdict[int, list[str]] = defaultdict(list)
    for docid, group in group_of.items():
        members[group].append(docid)
    shared: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for qid, text in queries.items():
        shared[text_key(text)].update(dict.fromkeys(relevant_docs[qid]))
    merged = {}
    for qid, text in queries.items():
        own = dict.fromkeys(relevant_docs[qid])
        found = own | shared[text_key(text)]
        twins = {twin: None for docid in found for twin in members[group_of[docid]]}
        merged[qid] = list(found | twins)
    if hard_negatives is None:
        return merged, None
    return merged, {
        qid: [docid for docid in hard_negatives[qid] if docid not in relevant]
        for qid, relevant in merged.items()
        if qid in hard_negatives
    }
