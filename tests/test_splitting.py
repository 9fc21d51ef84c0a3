"""Splits: nothing shared that should not be, sizes, determinism, and what each part holds."""

import numpy as np
import pytest
from fakes import tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import datasets

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
)
from llama_index.finetuning.embeddings.duplicates import text_key


def relevant_texts(dataset):
    """The texts of all documents that answer a query."""
    return {
        text_key(dataset.corpus[docid])
        for qid in dataset.queries
        for docid in dataset.relevant_docs[qid]
    }


def components(dataset, *, by="document"):
    """Sizes of the components, by brute force: merge sets that touch until none does."""
    sets = []
    for qid, text in dataset.queries.items():
        keys = {("q", text_key(text))}
        if by == "document":
            keys |= {("d", text_key(dataset.corpus[d])) for d in dataset.relevant_docs[qid]}
        touching = [one for one in sets if one[0] & keys]
        sets = [one for one in sets if not one[0] & keys]
        sets.append((keys.union(*(one[0] for one in touching)), 1 + sum(o[1] for o in touching)))
    return [size for _, size in sets]


# Few distinct texts, so that documents and queries repeat and connect.
FEW = st.sampled_from(["a", "b", " a", "c", "d", "e"])


@settings(max_examples=200, deadline=None)
@given(
    datasets(text_strategy=FEW) | datasets(),
    st.floats(0.01, 0.99),
    st.sampled_from(["document", "query"]),
    st.integers(0, 3),
)
def test_split_shares_nothing_and_has_the_size(dataset, test_size, by, seed):
    """Parts are disjoint, whole, within one component of the size, and the same for a seed."""
    sizes = components(dataset, by=by)
    if len(sizes) < 2:
        with pytest.raises(DatasetError, match="can't be split"):
            dataset.train_test_split(test_size, by=by, seed=seed)
        return
    train, test = dataset.train_test_split(test_size, by=by, seed=seed)
    assert train.queries | test.queries == dataset.queries
    assert len(train.queries) + len(test.queries) == len(dataset.queries)
    assert not set(map(text_key, train.queries.values())) & set(
        map(text_key, test.queries.values())
    )
    if by == "document":
        assert not relevant_texts(train) & set(map(text_key, test.corpus.values()))
        assert not relevant_texts(test) & set(map(text_key, train.corpus.values()))
    assert abs(len(test.queries) - test_size * len(dataset.queries)) <= max(sizes) + 0.5
    for part in (train, test):
        for qid in part.queries:
            assert part.relevant_docs[qid] == dataset.relevant_docs[qid]
    backwards = EmbeddingQAFinetuneDataset(
        queries=dict(reversed(dataset.queries.items())),
        corpus=dict(reversed(dataset.corpus.items())),
        relevant_docs=dataset.relevant_docs,
        hard_negatives=dataset.hard_negatives,
    )
    assert backwards.train_test_split(test_size, by=by, seed=seed) == (train, test)


def test_queries_that_share_documents_stay_together():
    """Two chains of three queries: a part is one chain, though a third of the queries was asked."""
    chain = {
        f"{name}{i}": [f"{name}-d{i}", f"{name}-d{i + 1}"] for name in ("a", "b") for i in range(3)
    }
    dataset = EmbeddingQAFinetuneDataset(
        queries={qid: f"query {qid}" for qid in chain},
        corpus={docid: f"text {docid}" for ids in chain.values() for docid in ids},
        relevant_docs=chain,
    )
    _, test = dataset.train_test_split(1 / 3)
    assert sorted(test.queries) in (["a0", "a1", "a2"], ["b0", "b1", "b2"])


def test_sizes():
    """A share is rounded, a whole number is a count; 24 queries in components of one."""
    dataset = tiny_dataset(n_documents=24, queries_per_document=1)
    assert len(dataset.train_test_split(0.2)[1].queries) == 5  # 4.8
    assert len(dataset.train_test_split(7)[1].queries) == 7
    assert dataset.train_test_split(np.int64(7), seed=np.int64(5)) == dataset.train_test_split(
        7, seed=5
    )
    assert len(dataset.train_test_split(0.001)[1].queries) == 1
    assert len(dataset.train_test_split(0.999)[1].queries) == 23


@pytest.mark.parametrize(("per_document", "wanted", "got"), [(3, 5, 6), (2, 3, 2)])
def test_the_nearer_size_is_taken(per_document, wanted, got):
    """Of components of three, 5 is nearer to 6 than to 3; of two, 3 is as near to 2 as to 4."""
    dataset = tiny_dataset(n_documents=3, queries_per_document=per_document)
    assert len(dataset.train_test_split(wanted)[1].queries) == got


def test_seeds_differ():
    """Another seed gives another test part."""
    dataset = tiny_dataset(n_documents=24, queries_per_document=1)
    tests = {frozenset(dataset.train_test_split(seed=seed)[1].queries) for seed in range(5)}
    assert len(tests) > 1


def test_what_each_part_holds():
    """Unjudged documents are in both corpora; hard negatives follow what the corpus has."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two"},
        corpus={"d1": "first", "d2": "second", "twin": " second ", "free": "free"},
        relevant_docs={"q1": ["d1"], "q2": ["d2"]},
        hard_negatives={"q1": ["d2", "free"], "q2": ["d1", "free"]},
    )
    parts = dataset.train_test_split(1)
    one, two = parts if "q1" in parts[0].queries else parts[::-1]
    assert one.corpus == {"d1": "first", "free": "free"}
    assert two.corpus == {"d2": "second", "twin": " second ", "free": "free"}
    assert one.hard_negatives == {"q1": ["free"]}
    assert two.hard_negatives == {"q2": ["free"]}
    train, test = dataset.train_test_split(1, test_corpus="all")
    assert test.corpus == dataset.corpus
    assert train == parts[0]


def test_split_by_query_keeps_shared_documents_on_both_sides():
    """New questions to a known document: it is in both corpora."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two"},
        corpus={"d": "both"},
        relevant_docs={"q1": ["d"], "q2": ["d"]},
    )
    train, test = dataset.train_test_split(0.5, by="query")
    assert train.corpus == test.corpus == {"d": "both"}
    with pytest.raises(DatasetError, match=r"all connected\. Split by='query'"):
        dataset.train_test_split(0.5)


def test_split_by_group():
    """No file has documents on both sides."""
    dataset = tiny_dataset(n_documents=12, queries_per_document=2)
    groups = {docid: f"file{int(docid[1:]) // 3}" for docid in dataset.corpus}
    train, test = dataset.train_test_split(0.25, by="group", groups=groups)
    assert not {groups[docid] for docid in train.corpus} & {groups[docid] for docid in test.corpus}
    assert len(test.queries) == 6  # one file of three documents


def test_copies_of_a_document_connect_their_groups():
    """A page that stands in two files binds both files together."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={f"q{i}": f"query {i}" for i in range(5)},
        corpus={"a1": "one", "a2": "page", "b1": "page", "b2": "two", "c": "three"},
        relevant_docs={"q0": ["a1"], "q1": ["a2"], "q2": ["b1"], "q3": ["b2"], "q4": ["c"]},
    )
    groups = {docid: docid[0] for docid in dataset.corpus}
    _, test = dataset.train_test_split(1, by="group", groups=groups)
    assert list(test.queries) == ["q4"]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"test_size": 0.0}, ConfigurationError, r"'test_size' must be .* \(got 0\.0\)"),
        ({"test_size": 1.0}, ConfigurationError, r"'test_size'"),
        ({"test_size": 24}, ConfigurationError, r"from 1 to 23 \(got 24\)"),
        ({"test_size": True}, ConfigurationError, r"'test_size' .* \(got True\)"),
        ({"test_size": "0.2"}, ConfigurationError, r"'test_size' .* \(got '0\.2'\)"),
        ({"seed": None}, ConfigurationError, r"'seed' must be .* \(got None\)"),
        ({"by": "page"}, ConfigurationError, r"'by' must be in .* \(got 'page'\)"),
        ({"by": "group"}, ConfigurationError, "needs 'groups'"),
        ({"groups": {}}, ConfigurationError, r"'groups' is for by='group' \(got by='document'\)"),
        ({"by": "group", "groups": {"d0": "x"}}, DatasetError, "11 relevant documents have no gro"),
        ({"test_corpus": "none"}, ConfigurationError, r"'test_corpus' must be in"),
    ],
)
def test_arguments_that_can_not_work(kwargs, error, message):
    """Each is named with its value."""
    with pytest.raises(error, match=message):
        tiny_dataset().train_test_split(**kwargs)


def test_one_query_can_not_be_split():
    """There must be something for both sides."""
    with pytest.raises(DatasetError, match="A dataset of 1 query can't be split"):
        tiny_dataset(n_documents=1, queries_per_document=1).train_test_split()
