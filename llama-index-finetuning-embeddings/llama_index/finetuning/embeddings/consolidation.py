"""Giving near-duplicate documents, and repeated queries, the same relevance."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from llama_index.finetuning.embeddings.duplicates import near_duplicate_clusters, text_key
from llama_index.finetuning.embeddings.errors import DatasetError

_MOST_ADDED = 100_000_000  # a gigabyte of lists


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
        DatasetError: So many twins are relevant to so many queries that the lists would take
            gigabytes.
    """
    groups = near_duplicate_clusters(list(corpus.values()), threshold=threshold).tolist()
    group_of = dict(zip(corpus, groups, strict=True))
    members: defaultdict[int, list[str]] = defaultdict(list)
    for docid, group in group_of.items():
        members[group].append(docid)
    shared = relevant_by_text(queries, relevant_docs)
    wanted = {
        text: dict.fromkeys(group_of[docid] for docid in found) for text, found in shared.items()
    }
    text_of = {qid: text_key(text) for qid, text in queries.items()}
    sizes = {text: sum(len(members[one]) for one in found) for text, found in wanted.items()}
    added = sum(sizes[text_of[qid]] - len({*relevant_docs[qid]}) for qid in queries)
    if added > _MOST_ADDED:
        repeats = Counter(text_of.values()).most_common(1)[0][1]
        raise DatasetError(
            f"Consolidating would add {added:,} relevant documents, more than {_MOST_ADDED:,}: "
            f"the largest group of near-duplicates has {max(map(len, members.values())):,} "
            f"documents, that of equal queries {repeats:,}. Raise 'threshold' (got {threshold}), "
            "or remove the copies."
        )
    merged = {}
    for qid, text in text_of.items():
        own = dict.fromkeys(relevant_docs[qid])
        twins = {twin: None for group in wanted[text] for twin in members[group]}
        merged[qid] = list(own | shared[text] | twins)
    if hard_negatives is None:
        return merged, None
    return merged, {
        qid: [docid for docid in found if docid not in relevant]
        for qid, found in hard_negatives.items()
        for relevant in [set(merged.get(qid, ()))]
    }


def relevant_by_text(
    queries: Mapping[str, str], relevant_docs: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, None]]:
    """Return the key of each query's text to the documents relevant to any query of that text."""
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for qid, text in queries.items():
        found[text_key(text)].update(dict.fromkeys(relevant_docs[qid]))
    return dict(found)
