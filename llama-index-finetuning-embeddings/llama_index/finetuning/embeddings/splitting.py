"""Dividing queries into a training and a test part that share nothing they should not share."""

import random
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Literal, NamedTuple, get_args

from llama_index.finetuning.embeddings.duplicates import DisjointSets, text_keys
from llama_index.finetuning.embeddings.errors import ConfigurationError, DatasetError, shown
from llama_index.finetuning.embeddings.validation import check_integer

SplitBy = Literal["document", "query", "group"]
TestCorpus = Literal["unseen", "all"]


class Part(NamedTuple):
    """The queries of one side, and the documents that go with them."""

    query_ids: list[str]
    corpus: dict[str, str]


def split(
    queries: Mapping[str, str],
    corpus: Mapping[str, str],
    relevant_docs: Mapping[str, Sequence[str]],
    *,
    test_size: float | int,
    by: SplitBy,
    groups: Mapping[str, str] | None,
    test_corpus: TestCorpus,
    seed: int,
) -> tuple[Part, Part]:
    """Divide the queries; see ``EmbeddingQAFinetuneDataset.train_test_split``.

    Queries that must stay together form components. These are shuffled and taken into the test
    part while they fit; the smallest of the rest is added when that comes closer to the size asked
    for. So the test part is at most one component away from it. The order of the dictionaries
    does not matter.

    Raises:
        ConfigurationError: An argument is out of range, or does not fit the others.
        DatasetError: A relevant document has no group, or there is only one component.
    """
    _check(by, groups, test_corpus, relevant_docs, queries)
    check_integer("seed", seed, minimum=0)
    wanted = _wanted(test_size, len(queries))
    keys = text_keys(corpus)
    relevant = {qid: [keys[docid] for docid in relevant_docs[qid]] for qid in queries}
    links = {} if by == "query" else relevant
    if groups is not None:
        # Groups are numbered behind the documents.
        numbers = {group: i for i, group in enumerate(dict.fromkeys(groups.values()), len(corpus))}
        links = {
            qid: [*found, *(numbers[groups[docid]] for docid in relevant_docs[qid])]
            for qid, found in relevant.items()
        }
    components = connected(queries, links)
    if len(components) < 2:
        raise DatasetError(
            f"The dataset can't be split by {by}: its {len(queries):,} queries are all connected. "
            + ("Split by='query'." if by != "query" else "Add queries with another text.")
        )
    random.Random(int(seed)).shuffle(components)  # noqa: S311 - no secret
    test_ids = _taken(components, wanted)
    sides = [qid for qid in queries if qid not in test_ids], [q for q in queries if q in test_ids]
    own = [{key for qid in side for key in relevant[qid]} for side in sides]
    train, test = (
        {docid: text for docid, text in corpus.items() if keys[docid] not in foreign}
        for foreign in (own[1] - own[0], own[0] - own[1] if test_corpus == "unseen" else ())
    )
    return Part(sides[0], train), Part(sides[1], test)


def _check(
    by: str,
    groups: Mapping[str, str] | None,
    test_corpus: str,
    relevant_docs: Mapping[str, Sequence[str]],
    queries: Iterable[str],
) -> None:
    if by not in get_args(SplitBy):
        raise ConfigurationError(f"'by' must be in {get_args(SplitBy)} (got {by!r}).")
    if test_corpus not in get_args(TestCorpus):
        raise ConfigurationError(
            f"'test_corpus' must be in {get_args(TestCorpus)} (got {test_corpus!r})."
        )
    if (groups is None) != (by != "group"):
        raise ConfigurationError(
            "by='group' needs 'groups', a mapping of document ids to groups."
            if groups is None
            else f"'groups' is for by='group' (got by={by!r})."
        )
    if groups is not None:
        homeless = {d: None for qid in queries for d in relevant_docs[qid] if d not in groups}
        if homeless:
            raise DatasetError(
                f"{len(homeless):,} relevant documents have no group: {shown(homeless)}. "
                "Add them to 'groups'."
            )


def _wanted(test_size: float | int, n_queries: int) -> int:
    whole = isinstance(test_size, Integral) and not isinstance(test_size, bool)
    if n_queries < 2:
        raise DatasetError(f"A dataset of {n_queries} query can't be split. Add queries.")
    if not isinstance(test_size, Real) or not 0 < test_size < (n_queries if whole else 1):
        raise ConfigurationError(
            "'test_size' must be a share in (0, 1) or a number of queries from 1 to "
            f"{n_queries - 1:,} (got {test_size!r})."
        )
    return int(test_size) if whole else min(max(round(test_size * n_queries), 1), n_queries - 1)


def connected(queries: Mapping[str, str], links: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Group queries that are of equal text or have a link in common, directly or in a chain.

    Args:
        queries: Query id to text.
        links: Query id to numbers; queries with one in common belong together.

    Returns:
        The ids of each group.
    """
    query_ids = sorted(queries)
    homes = list(text_keys({qid: queries[qid] for qid in query_ids}).values())
    first_link = max(homes) + 1
    n_links = 1 + max((link for found in links.values() for link in found), default=-1)
    sets = DisjointSets(first_link + n_links)
    for qid, home in zip(query_ids, homes, strict=True):
        for link in links.get(qid, ()):
            sets.join(home, first_link + link)
    components: dict[int, list[str]] = {}
    for qid, home in zip(query_ids, homes, strict=True):
        components.setdefault(sets.find(home), []).append(qid)
    return list(components.values())


def _taken(components: list[list[str]], wanted: int) -> set[str]:
    taken: list[list[str]] = []
    left: list[list[str]] = []
    n_taken = 0
    for component in components:
        fits = n_taken + len(component) <= wanted
        n_taken += len(component) if fits else 0
        (taken if fits else left).append(component)
    smallest = min(left, key=len)
    closer = n_taken + len(smallest) - wanted < wanted - n_taken
    if not taken or (closer and len(left) > 1):
        taken.append(smallest)
    return {qid for component in taken for qid in component}
