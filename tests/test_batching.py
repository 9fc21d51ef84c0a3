"""Rows and batches: the right columns and labels, and never a false negative."""

import pytest
import torch
from fakes import tiny_dataset
from hypothesis import given
from hypothesis import strategies as st

from llama_index.finetuning.embeddings import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.relevance import RelevanceIndex
from llama_index.finetuning.embeddings.sentence_transformer import batching
from llama_index.finetuning.embeddings.sentence_transformer.batching import (
    FalseNegativeFreeBatchSampler,
    _exactly,
    _first_fit,
)
from llama_index.finetuning.embeddings.sentence_transformer.by_document import (
    MASKED,
    NEGATIVE,
    POSITIVE,
    StepBuilder,
    Targets,
)
from llama_index.finetuning.embeddings.sentence_transformer.losses import LossFormat
from llama_index.finetuning.embeddings.sentence_transformer.rows import (
    RowKeys,
    build_rows,
    document_rows,
    training_pairs,
)

RANKING = LossFormat("ranking")


@st.composite
def datasets(draw):
    """Small datasets with shared, repeated and textually equal documents and queries."""
    texts = draw(st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=10))
    corpus = {f"d{i}": text for i, text in enumerate(texts)}
    questions = draw(st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=10))
    queries = {f"q{i}": text for i, text in enumerate(questions)}
    some = st.lists(st.sampled_from(sorted(corpus)), min_size=1, max_size=3, unique=True)
    relevant = {qid: draw(some) for qid in queries}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)


def relevant_texts(dataset, query_text):
    """Return the texts that are relevant to a query text."""
    return {
        dataset.corpus[docid]
        for qid, text in dataset.queries.items()
        if text == query_text
        for docid in dataset.relevant_docs[qid]
    }


def epoch(sampler, number):
    """Return the batches of an epoch."""
    sampler.set_epoch(number)
    return list(sampler)


@given(datasets(), st.booleans(), st.integers(1, 5), st.integers(0, 3))
def test_no_batch_of_pairs_holds_a_false_negative(dataset, use_all_docs, batch_size, number):
    """No row's document is relevant, by id or by text, to the query of another row."""
    rows = build_rows(dataset, RANKING, use_all_docs=use_all_docs, seed=1)
    sampler = FalseNegativeFreeBatchSampler(rows, batch_size, False, keys=rows.keys, seed=1)
    for batch in epoch(sampler, number):
        for i in batch:
            allowed = relevant_texts(dataset, rows.columns["anchor"][i])
            for j in batch:
                if i != j:
                    assert rows.columns["positive"][j] not in allowed


@given(datasets(), st.integers(1, 5))
def test_the_first_epoch_holds_every_row_once(dataset, batch_size):
    """Nothing is left out or repeated, and no batch is larger than asked."""
    rows = build_rows(dataset, RANKING, use_all_docs=True, seed=1)
    sampler = FalseNegativeFreeBatchSampler(rows, batch_size, False, keys=rows.keys, seed=1)
    batches = epoch(sampler, 0)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    assert max(map(len, batches)) <= batch_size


@given(datasets(), st.integers(1, 4))
def test_every_epoch_has_as_many_batches_as_the_sampler_says(dataset, batch_size):
    """The learning-rate schedule counts on it."""
    rows = build_rows(dataset, RANKING, use_all_docs=True, seed=1)
    sampler = FalseNegativeFreeBatchSampler(rows, batch_size, False, keys=rows.keys, seed=1)
    assert {len(epoch(sampler, number)) for number in range(4)} == {len(sampler)}


def test_batches_are_shuffled_by_seed_and_epoch():
    """The same seed and epoch give the same batches, another epoch or seed gives others."""
    rows = build_rows(tiny_dataset(30, 2), RANKING, use_all_docs=False, seed=1)

    def batches(seed, number):
        return epoch(
            FalseNegativeFreeBatchSampler(rows, 8, False, keys=rows.keys, seed=seed), number
        )

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(1, 1)
    assert batches(1, 0) != batches(2, 0)


def test_drop_last_leaves_out_what_is_not_full():
    """With drop_last every batch is full."""
    rows = build_rows(tiny_dataset(10, 1), RANKING, use_all_docs=False, seed=1)
    sampler = FalseNegativeFreeBatchSampler(rows, 4, True, keys=rows.keys, seed=1)
    assert [len(batch) for batch in epoch(sampler, 0)] == [4, 4]


def plain_batches(n_rows, batch_size, **kwargs):
    """Return the first epoch of rows that may all meet."""
    arguments = {"drop_last": False, "keys": None, "seed": 1, **kwargs}
    return epoch(FalseNegativeFreeBatchSampler(range(n_rows), batch_size, **arguments), 0)


def test_rows_that_may_all_meet_fill_batches_one_after_another():
    """Every row once, and only the last batch is smaller."""
    batches = plain_batches(10, 4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(row for batch in batches for row in batch) == list(range(10))
    assert [len(batch) for batch in plain_batches(10, 4, drop_last=True)] == [4, 4]
    assert [len(batch) for batch in plain_batches(3, 4, drop_last=True)] == [3]
    assert plain_batches(10, 4) != plain_batches(10, 4, seed=2)


def test_processes_get_equally_many_batches():
    """The largest are halved until the number divides; a single row is trained twice."""
    assert [len(one) for one in plain_batches(10, 4, n_processes=2)] == [2, 2, 4, 2]
    assert [len(one) for one in plain_batches(9, 3, n_processes=5)] == [1, 2, 1, 2, 3]
    assert plain_batches(1, 4, n_processes=3) == [[0], [0], [0]]


def test_an_epoch_with_too_many_batches_leaves_out_those_that_filled_up_least():
    """The order of the others stays."""
    batches = [[1], [2, 3], [4, 5, 6], [7, 8]]
    assert _exactly(batches, 3) == [[2, 3], [4, 5, 6], [7, 8]]
    assert _exactly(batches, 1) == [[4, 5, 6]]
    assert _exactly(batches, 4) == batches


def test_batches_that_wait_too_long_go_out_as_they_are(monkeypatch):
    """Rows that all clash would else keep every batch open; the oldest goes first."""
    monkeypatch.setattr(batching, "_MAX_OPEN", 2)
    keys = [RowKeys(documents=frozenset([i]), barred=frozenset(range(5))) for i in range(4)]
    apart = RowKeys(documents=frozenset([9]), barred=frozenset([9]))
    assert _first_fit([0, 1, 2, 3, 4], [*keys, apart], 2) == [[0], [1], [2, 4], [3]]


@pytest.mark.parametrize("apart", [False, True])
def test_what_keeps_document_rows_apart(apart):
    """Rows of one document in any case; with pairs also what is relevant to the other's query."""
    dataset = two_positives()
    dataset.hard_negatives = {"q2": ["b"]}
    grouped = document_rows(dataset, use_all_docs=True, max_queries=1)
    steps = StepBuilder(dataset, grouped, false_negatives_apart=apart)
    index = RelevanceIndex(dataset)
    a, b, c = (frozenset([index.key_of[docid]]) for docid in "abc")
    assert [row.document_id for row in grouped] == ["a", "b", "c"]
    assert index.key_of["a2"] in a
    if apart:
        expected = [RowKeys(a, a | b), RowKeys(b, a | b), RowKeys(c | b, c)]
    else:
        expected = [RowKeys(a, a), RowKeys(b, b), RowKeys(c, c)]
    assert steps.keys == expected
    assert steps.n_documents == 3


def two_positives():
    """Return a dataset with a query of two documents, and a twin of one."""
    return EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two"},
        corpus={"a": "text a", "b": "text b", "c": "text c", "a2": "text  a"},
        relevant_docs={"q1": ["a", "b"], "q2": ["c"]},
    )


def test_use_all_docs_trains_on_every_relevant_document():
    """By default a query's first document is trained, with use_all_docs each of them."""
    assert training_pairs(two_positives(), use_all_docs=False) == [("q1", "a"), ("q2", "c")]
    assert training_pairs(two_positives(), use_all_docs=True) == [
        ("q1", "a"),
        ("q1", "b"),
        ("q2", "c"),
    ]


def test_labelled_rows_have_positives_1_and_negatives_0():
    """A loss that wants labels gets 1 for relevant documents and 0 for ones that are not."""
    dataset = tiny_dataset(6, 1)
    rows = build_rows(dataset, LossFormat("labelled"), use_all_docs=False, seed=1)
    assert list(rows.columns) == ["sentence1", "sentence2", "label"]
    for query, document, label in zip(*rows.columns.values(), strict=True):
        assert label == (1.0 if document in relevant_texts(dataset, query) else 0.0)
    assert rows.columns["label"].count(1.0) == rows.columns["label"].count(0.0) == 6


@pytest.mark.parametrize("kind", ["ranking", "labelled"])
def test_rows_are_of_the_first_relevant_document_unless_all_are_asked_for(kind):
    """For every kind of loss."""
    for use_all_docs, n_positives in ((False, 2), (True, 3)):
        rows = build_rows(two_positives(), LossFormat(kind), use_all_docs=use_all_docs, seed=1)
        labels = rows.columns.get("label", [1.0] * len(rows))
        assert labels.count(1.0) == n_positives


def test_drawn_negatives_follow_the_seed():
    """The same seed draws the same, another one others."""

    def drawn(seed):
        rows = build_rows(tiny_dataset(30, 1), LossFormat("triplet"), use_all_docs=False, seed=seed)
        assert list(rows.columns) == ["anchor", "positive", "negative"]
        return rows.columns["negative"]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("max_negatives", "names"), [(None, ["negative_1", "negative_2"]), (1, ["negative"]), (0, [])]
)
def test_no_more_columns_of_negatives_than_the_loss_takes(max_negatives, names):
    """One has a name without a number."""
    dataset = tiny_dataset(5, 1)
    dataset.hard_negatives = {"q0-0": ["d1"], "q1-0": ["d2", "d3"]}
    loss = LossFormat("ranking", max_negatives=max_negatives)
    rows = build_rows(dataset, loss, use_all_docs=False, seed=1)
    assert list(rows.columns) == ["anchor", "positive", *names]


def test_triplets_use_the_hard_negatives():
    """Each of a query's hard negatives makes a triplet with its positive."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "one"},
        corpus={"a": "A", "b": "B", "c": "C"},
        relevant_docs={"q": ["a"]},
        hard_negatives={"q": ["b", "c"]},
    )
    rows = build_rows(dataset, LossFormat("triplet"), use_all_docs=False, seed=1)
    assert list(zip(*rows.columns.values(), strict=True)) == [("one", "A", "B"), ("one", "A", "C")]


def test_hard_negatives_become_columns_and_are_filled_up():
    """A query with fewer hard negatives than another gets random ones that are not relevant."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two"},
        corpus={"a": "A", "b": "B", "c": "C", "d": "D"},
        relevant_docs={"q1": ["a"], "q2": ["b"]},
        hard_negatives={"q1": ["c", "d"]},
    )
    rows = build_rows(dataset, RANKING, use_all_docs=False, seed=1)
    assert list(rows.columns) == ["anchor", "positive", "negative_1", "negative_2"]
    assert (rows.columns["negative_1"][0], rows.columns["negative_2"][0]) == ("C", "D")
    filled = {rows.columns["negative_1"][1], rows.columns["negative_2"][1]}
    assert len(filled) == 2
    assert filled <= {"A", "C", "D"}


def test_a_hard_negative_with_the_text_of_a_positive_is_left_out():
    """A twin of a relevant document is never a negative, under whatever id it stands."""
    dataset = two_positives()
    dataset.hard_negatives = {"q1": ["a2", "c"], "q2": ["a"]}
    rows = build_rows(dataset, LossFormat("triplet"), use_all_docs=False, seed=1)
    assert list(zip(*rows.columns.values(), strict=True)) == [
        ("one", "text a", "text c"),
        ("two", "text c", "text a"),
    ]


def test_a_query_to_which_everything_is_relevant_has_no_negative():
    """A loss that needs negatives says for which query there are none."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "one"}, corpus={"a": "A"}, relevant_docs={"q": ["a"]}
    )
    with pytest.raises(ConfigurationError, match=r"negative for query 'q'"):
        build_rows(dataset, LossFormat("triplet"), use_all_docs=False, seed=1)


def test_document_rows_group_queries_and_cap_them():
    """A document comes with all its queries; more than the cap go into another row."""
    dataset = tiny_dataset(1, 5)
    rows = document_rows(dataset, use_all_docs=False, max_queries=2)
    assert [row.query_ids for row in rows] == [("q0-0", "q0-1"), ("q0-2", "q0-3"), ("q0-4",)]


@given(datasets(), st.booleans(), st.data())
def test_targets_of_a_step_tell_positives_from_masked_and_negatives(dataset, use_all_docs, data):
    """In a step, what is relevant is trained or masked, and only the rest is negative."""
    steps = StepBuilder(dataset, document_rows(dataset, use_all_docs=use_all_docs, max_queries=3))
    numbers = data.draw(st.lists(st.sampled_from(range(len(steps.rows))), min_size=1, unique=True))
    step = steps(numbers)
    assert len(set(step.documents)) == len(step.documents)
    trained = {
        (dataset.queries[qid], dataset.corpus[steps.rows[i].document_id])
        for i in numbers
        for qid in steps.rows[i].query_ids
    }
    for line, query in enumerate(step.queries):
        for column, document in enumerate(step.documents):
            target = int(step.targets.matrix[line, column])
            relevant = document in relevant_texts(dataset, query)
            assert target in ((POSITIVE, MASKED) if relevant else (NEGATIVE,))
            if target == POSITIVE:
                assert (query, document) in trained


def test_relevance_is_shared_by_equal_texts():
    """Documents of one text share a key, queries of one text share their relevant documents."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "same  query", "q2": "same query", "q3": "other"},
        corpus={"a": "A", "a2": " A ", "b": "B", "c": "C"},
        relevant_docs={"q1": ["a"], "q2": ["b"], "q3": ["c"]},
    )
    index = RelevanceIndex(dataset)
    assert index.key_of["a"] == index.key_of["a2"]
    assert index.relevant_keys("q1") == {index.key_of["a2"], index.key_of["b"]}
    assert index.relevant_keys("q3") == {index.key_of["c"]}


@pytest.mark.parametrize("apart", [True, False])
def test_the_query_itself_is_no_negative(apart):
    """A query that stands in the corpus, as in ArguAna, is not pushed away from its own text."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two", "q3": "three"},
        corpus={"a": "counter one", "b": "one", "c": "three", "d": "four"},
        relevant_docs={"q1": ["a"], "q2": ["b"], "q3": ["d"]},
        hard_negatives={"q3": ["c"]},
    )
    grouped = document_rows(dataset, use_all_docs=True, max_queries=1)
    steps = StepBuilder(dataset, grouped, false_negatives_apart=apart)
    step = steps([0, 1, 2])
    lines = [dict(zip(step.documents, line, strict=True)) for line in step.targets.matrix.tolist()]
    assert lines == [
        {"counter one": POSITIVE, "one": MASKED, "four": NEGATIVE, "three": NEGATIVE},
        {"counter one": NEGATIVE, "one": POSITIVE, "four": NEGATIVE, "three": NEGATIVE},
        {"counter one": NEGATIVE, "one": NEGATIVE, "four": POSITIVE, "three": MASKED},
    ]
    clash = steps.keys[0].clashes(set(steps.keys[1].documents), set(steps.keys[1].barred))
    assert clash is apart
    triplets = build_rows(dataset, LossFormat("triplet"), use_all_docs=True, seed=1).columns
    assert triplets["negative"][0] in ("three", "four")
    assert triplets["negative"][2] in ("counter one", "one")


def test_documents_of_several_processes():
    """Others' documents are masked where relevant; copies count once for a query."""
    # Ours are the keys 5 and 6, in the middle; 5 stands elsewhere too, 8 twice.
    targets = Targets(
        torch.tensor([[POSITIVE, NEGATIVE], [NEGATIVE, POSITIVE]], dtype=torch.int8),
        torch.tensor([5, 6]),
        [frozenset({5, 7}), frozenset({6})],
    )
    keys = torch.tensor([7, 5, 5, 6, 8, 8])
    assert targets.among(keys, 2).tolist() == [
        [MASKED, MASKED, POSITIVE, NEGATIVE, NEGATIVE, NEGATIVE],
        [NEGATIVE, NEGATIVE, NEGATIVE, POSITIVE, NEGATIVE, NEGATIVE],
    ]
    assert targets.repeated(keys, 2).tolist() == [False, True, False, False, False, True]
