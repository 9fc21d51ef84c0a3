"""Descriptions, token lengths, near-duplicates and leakage."""

import itertools
import random

import numpy as np
import pytest
from fakes import tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import datasets, texts

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    consolidation,
)
from llama_index.finetuning.embeddings import duplicates as duplicates_module
from llama_index.finetuning.embeddings.description import Quantiles, token_lengths
from llama_index.finetuning.embeddings.duplicates import near_duplicate_clusters, text_key

WORDS = [f"word{i}" for i in range(60)]
LONG = " ".join(WORDS)


def small_dataset():
    """Twins, an unjudged document, several positives: little enough to count by hand."""
    return EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "one ", "q3": "two three four"},
        corpus={"d1": LONG, "d2": f" {LONG}", "d3": LONG.upper() + "!", "d4": "short", "d5": "a b"},
        relevant_docs={"q1": ["d1", "d4"], "q2": ["d1"], "q3": ["d4", "d5", "d1"]},
        hard_negatives={"q3": ["d2", "d3"]},
    )


def test_description_counts():
    """Every field, on a dataset small enough to count by hand."""
    found = small_dataset().describe(max_seq_length=10)
    assert (found.queries, found.documents, found.pairs, found.hard_negatives) == (3, 5, 6, 2)
    assert found.duplicate_queries == 1  # q2 is q1
    assert found.duplicate_documents == 1  # d2 is d1
    assert found.near_duplicate_documents == 2  # d2 and d3
    assert found.unjudged_documents == 2  # d2 and d3
    assert found.positives_per_query == Quantiles(2.0, 1, 1, 2, 3, 3)
    assert found.queries_per_document == Quantiles(2.0, 1, 1, 2, 3, 3)  # 3, 2, 1
    assert found.query_lengths == Quantiles(5 / 3, 1, 1, 1, 3, 3)
    assert found.document_lengths == Quantiles(183 / 5, 1, 1, 60, 60, 60)
    assert found.length_unit == "words"
    assert (found.max_seq_length, found.queries_cut, found.documents_cut) == (10, 0.0, 0.6)


def test_description_without_a_maximum():
    """What is cut is unknown, and the table says so."""
    found = small_dataset().describe()
    assert (found.max_seq_length, found.queries_cut, found.documents_cut) == (None, None, None)
    lines = str(found).splitlines()
    assert lines[0].split() == ["queries", "3"]
    assert lines[-1].split() == ["documents", "cut", "unknown"]
    assert "median 60" in str(found)


def test_description_as_text_shows_shares():
    """Shares are shown in per cent."""
    assert "documents cut             60.0%" in str(small_dataset().describe(max_seq_length=10))


def test_description_counts_a_positive_once():
    """One that is listed twice is one pair."""
    dataset = small_dataset().model_copy(
        update={"relevant_docs": {"q1": ["d1", "d1"], "q2": ["d1"], "q3": ["d4"]}}
    )
    found = dataset.describe()
    assert (found.pairs, found.positives_per_query.max) == (3, 1)


def test_a_tokenizer_without_a_limit_has_none(tiny_bert_dir):
    """Such tokenizers say 10 to the power of 30."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_bert_dir))
    tokenizer.model_max_length = int(1e30)
    found = small_dataset().describe(tokenizer)
    assert (found.max_seq_length, found.documents_cut) == (None, None)


def test_description_with_a_model(tiny_bert_dir):
    """A model counts its own tokens, special ones too, and cuts at its own maximum."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "ask amber"},
        corpus={"d1": "amber " * 30, "d2": "amber " * 31, "d3": "amber " * 300},
        relevant_docs={"q": ["d1"]},
    )
    found = dataset.describe(model)
    assert found.length_unit == "tokens"
    assert found.query_lengths.max == 4  # [CLS] ask amber [SEP]
    assert found.document_lengths == Quantiles((32 + 33 + 302) / 3, 32, 32, 33, 302, 302)
    assert (found.max_seq_length, found.documents_cut) == (32, pytest.approx(2 / 3))
    # The tokenizer alone knows another maximum than the model, and an argument beats both.
    assert dataset.describe(model.tokenizer).max_seq_length == model.tokenizer.model_max_length
    assert dataset.describe(model, max_seq_length=302).documents_cut == 0.0


def test_token_lengths_by_tiktoken():
    """The tokenizer of many services; special tokens in a text are text."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)}
    tokenizer = tiktoken.Encoding(
        "bytes", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={"<end>": 256}
    )
    assert token_lengths(["amber", "<end>", ""], tokenizer).tolist() == [5, 5, 0]


def test_token_lengths_of_a_static_model(tiny_model_dir):
    """A static model reads no special tokens, has no maximum, and its tokenizer stays as it is."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model_dir), device="cpu")
    model.tokenizer.enable_truncation(3)
    model.tokenizer.enable_padding(length=5)
    before = (model.tokenizer.truncation, model.tokenizer.padding)
    assert token_lengths(["amber bridge", "amber " * 9, ""], model).tolist() == [2, 9, 0]
    assert (model.tokenizer.truncation, model.tokenizer.padding) == before
    dataset = tiny_dataset()
    assert dataset.describe(model).max_seq_length is None


def test_token_lengths_in_batches(tiny_bert_dir):
    """More texts than a batch holds keep their order."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_bert_dir))
    lengths = token_lengths(["amber " * (i % 7) for i in range(5000)], tokenizer)
    assert lengths.tolist() == [i % 7 + 2 for i in range(5000)]


def test_token_lengths_without_tokenizer():
    """Words between white space."""
    assert token_lengths(["", " one ", "one\ttwo\nthree"]).tolist() == [0, 1, 3]


def test_what_is_no_tokenizer():
    """A model's name is none: the error says what is."""
    with pytest.raises(ConfigurationError, match=r"'tokenizer' must be .* \(got str\)"):
        token_lengths(["a"], "bert-base-uncased")
    with pytest.raises(ConfigurationError, match=r"'max_seq_length' must be .* \(got 0\)"):
        tiny_dataset().describe(max_seq_length=0)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (LONG.upper(), True),
        ("  " + LONG.replace(" ", ",\n") + "!", True),
        (LONG.replace("word30", "other"), True),  # about 2 of 60 pieces: Jaccard 58 / 62 = 0.94
        (" ".join(WORDS[:54]), False),  # 6 of 60 words less, and the pieces they end: under 0.9
        (" ".join(reversed(WORDS)), False),
        (" ".join(WORDS[30:]), False),
    ],
)
def test_near_duplicates(other, same):
    """A changed word is near; a tenth less, half the text, or another order is not."""
    texts = ["unrelated", LONG, "something else", other]
    assert near_duplicate_clusters(texts).tolist() == [0, 1, 2, 1 if same else 3]


def test_near_duplicates_at_a_lower_threshold():
    """What is apart at 0.9 is together at 0.8; what is just at the threshold is, too."""
    texts = [LONG, " ".join(WORDS[:54])]
    assert near_duplicate_clusters(texts, threshold=0.8).tolist() == [0, 0]
    exact = duplicates_module._jaccard(*map(duplicates_module._distinct_pieces, texts))
    assert 0.8 < exact < 0.9
    assert near_duplicate_clusters(texts, threshold=exact).tolist() == [0, 0]


def test_candidates_of_a_bucket():
    """Each text with the first of its bucket and with the one before it, and no other."""
    keys = np.array([[5, 9, 5, 5, 9, 7], [1, 2, 3, 4, 5, 5]], dtype=np.uint64)
    found = sorted(duplicates_module._candidates(keys))
    assert found == [(0, 2), (0, 3), (1, 4), (2, 3), (4, 5)]


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=3))
def test_candidates_of_several_bands_come_once(bands):
    """They are those of each band by itself, found by going through its buckets."""
    expected = set()
    for band in bands:
        for key in set(band):
            bucket = [i for i, other in enumerate(band) if other == key]
            expected |= {(bucket[0], i) for i in bucket[1:]} | set(itertools.pairwise(bucket))
    found = list(duplicates_module._candidates(np.array(bands, dtype=np.uint64)))
    assert sorted(found) == sorted(expected)


def test_boilerplate_costs_no_more_than_its_texts(monkeypatch):
    """Clusters are those of all pairs compared, and each text is cut into pieces about once."""
    rng = random.Random(0)
    words = [f"{rng.getrandbits(32):08x}" for _ in range(5000)]
    shared = words[:200]
    documents = [shared + rng.choices(words, k=35) for _ in range(150)]  # Jaccard 0.74 in pairs
    documents += [[*document[:-1], "changed"] for document in documents[::5]]
    plain = [" ".join(words) for words in documents]
    pieces = [duplicates_module._distinct_pieces(text) for text in plain]
    groups = duplicates_module.DisjointSets(len(plain))
    for one, other in itertools.combinations(range(len(plain)), 2):
        if duplicates_module._jaccard(pieces[one], pieces[other]) >= 0.9:
            groups.join(one, other)
    cut = []

    def recorded(text):
        cut.append(text)
        return pieces[plain.index(text)]

    monkeypatch.setattr(duplicates_module, "_distinct_pieces", recorded)
    found = near_duplicate_clusters(plain).tolist()
    assert found == [groups.find(i) for i in range(len(plain))]
    assert len(set(found)) == 150
    assert len(plain) / 2 < len(cut) <= len(plain)


def test_batches_of_texts(monkeypatch):
    """They end with the text that fills them, and hold every text once."""
    monkeypatch.setattr(duplicates_module, "_BATCH_BYTES", 10)
    texts = ["aaaa", "bbbbbb", "c", "d" * 10, "e"]
    assert list(duplicates_module._batches(texts)) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("first", [0x0E01, 0x4E00], ids=["Thai", "Chinese"])
def test_texts_without_spaces_are_compared_whole(first):
    """Every character begins a piece: a like beginning is not enough, one other character is."""
    rng = random.Random(0)
    letters = [chr(first + i) for i in range(40)]
    text = "".join(rng.choices(letters, k=200))
    near = text[:100] + rng.choice(letters) + text[101:]
    other = text[:20] + "".join(rng.choices(letters, k=180))
    assert near_duplicate_clusters([text, near, other], threshold=0.85).tolist() == [0, 0, 2]


def test_case_is_that_of_any_script():
    """The capital form of "ß" is "SS": texts in capitals are the same texts."""
    assert near_duplicate_clusters(["Große Straße", "GROSSE STRASSE"]).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def test_embedding_model_load(self): pass", "def test_embedding_model_save(self): pass"),
        ("set_default_timeout_seconds_read", "set_default_timeout_seconds_write"),
        (
            "\u043d\u0435\u0438\u0441\u043f\u043e\u043b\u044c\u0437\u043e\u0432\u0430\u043d",
            "\u043d\u0435\u0438\u0441\u043f\u043e\u043b\u044c\u0437\u0443\u0435\u043c",
        ),
        ("x Rechtsschutzversicherung", "x Rechtsschutzversicherer"),
        ("ACGT" * 5 + "ACG", "ACGT" * 5 + "ACC"),
    ],
)
def test_the_end_of_a_long_word_counts(one, other):
    """Names and compounds that begin alike are no duplicates, wherever they stand."""
    texts = [one, other, f"{one}."]
    assert near_duplicate_clusters(texts, threshold=1).tolist() == [0, 1, 0]
    assert near_duplicate_clusters(texts).tolist() == [0, 1, 0]


def test_near_duplicates_without_spaces():
    """Scripts without spaces are compared by their characters."""
    sentence = "".join(chr(0x4E00 + 37 * i) for i in range(200))
    changed = sentence[:60] + "他" + sentence[61:]  # breaks 6 pieces of 200: Jaccard 194 / 206
    assert near_duplicate_clusters([sentence, changed, sentence[30:]]).tolist() == [0, 0, 2]


def test_short_texts_are_near_only_when_equal():
    """In three words each counts; signs alone are compared as they are."""
    texts = ["red green blue", "red green grey", "Red, green: blue", "!!", "??", "!!", ""]
    assert near_duplicate_clusters(texts).tolist() == [0, 1, 0, 3, 4, 3, 6]


def test_near_duplicates_are_found_among_many(monkeypatch):
    """500 changed copies among 5,000 texts, over many batches: all found, and nothing else."""
    monkeypatch.setattr(duplicates_module, "_BATCH_BYTES", 10_000)
    rng = np.random.default_rng(0)
    rows = [[f"w{word}" for word in rng.integers(0, 10_000, 80)] for _ in range(4500)]
    copies = []
    for row in rows[:500]:
        copy = list(row)
        copy[int(rng.integers(80))] = "changed"
        copies.append(" ".join(copy))
    clusters = near_duplicate_clusters([*map(" ".join, rows), *copies])
    assert clusters.tolist() == [*range(4500), *range(500)]


@settings(max_examples=100, deadline=None)
@given(st.lists(texts(), max_size=12), st.integers(0, 100))
def test_clusters_name_their_first_member(some, seed):
    """A group is named by its first text; equal texts always share one; copies change nothing."""
    some = [*some, *some[: seed % 5]]
    clusters = near_duplicate_clusters(some).tolist()
    assert all(clusters[name] == name <= i for i, name in enumerate(clusters))
    for i, one in enumerate(some):
        first = next(j for j, other in enumerate(some) if text_key(other) == text_key(one))
        assert clusters[i] == clusters[first]
    assert near_duplicate_clusters(some + some).tolist() == clusters + clusters


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_threshold_out_of_range(threshold):
    """A similarity is in (0, 1]."""
    with pytest.raises(ConfigurationError, match=r"'threshold' must be in \(0, 1\]"):
        tiny_dataset().consolidate(threshold=threshold)


def test_consolidating_copies_by_the_thousand_is_refused(monkeypatch):
    """Ten copies of a document under ten queries would make 90 pairs more: told beforehand."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={f"q{i}": f"item {i % 9}" for i in range(10)},
        corpus={f"d{i}": LONG + "!" * i for i in range(10)} | {"other": "other"},
        relevant_docs={f"q{i}": [f"d{i}"] for i in range(10)},
    )
    monkeypatch.setattr(consolidation, "_MOST_ADDED", 89)
    message = (
        r"would add 90 relevant documents, more than 89: the largest group of near-duplicates has "
        r"10 documents, that of equal queries 2. Raise 'threshold' \(got 0.95\), or remove"
    )
    with pytest.raises(DatasetError, match=message):
        dataset.consolidate(threshold=0.95)
    monkeypatch.setattr(consolidation, "_MOST_ADDED", 90)
    assert sum(map(len, dataset.consolidate().relevant_docs.values())) == 100


def test_leakage_names_what_is_shared():
    """Ids of the second dataset: shared queries, equal, near and relevant documents."""
    train = EmbeddingQAFinetuneDataset(
        queries={"a": "one", "b": "two"},
        corpus={"x": LONG, "y": "distractor", "z": "answer of two"},
        relevant_docs={"a": ["x"], "b": ["z"]},
    )
    test = EmbeddingQAFinetuneDataset(
        queries={"c": "one\n", "d": "three"},
        corpus={"1": LONG.upper(), "2": "distractor ", "3": "fresh", "4": "answer of  two"},
        relevant_docs={"c": ["1", "3"], "d": ["2"]},
    )
    found = train.leakage(test)
    assert found.queries == ("c",)
    assert found.documents == ("2", "4")
    assert found.near_duplicate_documents == ("1",)
    assert found.relevant_documents == ("1",)  # 2 is no answer in training, 4 none in the test
    assert found
    assert "shared near duplicate documents  1" in str(found)
    assert not train.leakage(
        EmbeddingQAFinetuneDataset(
            queries={"d": "three"}, corpus={"2": "distractor"}, relevant_docs={"d": ["2"]}
        )
    )


def test_leakage_at_a_threshold():
    """At 1 only the same pieces are the same document."""
    one, other = (
        EmbeddingQAFinetuneDataset(
            queries={"q": name}, corpus={"d": text}, relevant_docs={"q": ["d"]}
        )
        for name, text in (("one", LONG), ("two", LONG.replace("word30", "other")))
    )
    assert one.leakage(other).relevant_documents == ("d",)
    assert one.leakage(other, threshold=1.0).relevant_documents == ()


@settings(max_examples=30, deadline=None)
@given(datasets())
def test_a_dataset_leaks_wholly_into_itself(dataset):
    """All its queries and documents are shared, and what is relevant is relevant."""
    found = dataset.leakage(dataset)
    assert found.queries == tuple(dataset.queries)
    assert found.documents == tuple(dataset.corpus)
    assert found.near_duplicate_documents == ()
    judged = {docid for qid in dataset.queries for docid in dataset.relevant_docs[qid]}
    assert judged <= set(found.relevant_documents)
