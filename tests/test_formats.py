"""Import and export: pairs, BEIR folders, Hugging Face datasets, Argilla, LabelledRagDataset."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
from fakes import tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import datasets, ids

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    DatasetFileError,
    EmbeddingQAFinetuneDataset,
    beir_relevance,
)
from llama_index.finetuning.embeddings.evaluation import evaluate_rankings

ROUND_TRIP = settings(max_examples=50, deadline=None)


def by_text(dataset):
    """What a dataset says, without its ids: query to relevant texts and hard negatives."""
    hard_negatives = dataset.hard_negatives or {}
    return {
        text: (
            [dataset.corpus[docid] for docid in dataset.relevant_docs[qid]],
            [dataset.corpus[docid] for docid in hard_negatives.get(qid, ())],
        )
        for qid, text in dataset.queries.items()
    }


# --- pairs


def test_pairs_of_texts_and_lists():
    """One or several positives, with or without negatives; equal queries and texts merge."""
    dataset = EmbeddingQAFinetuneDataset.from_pairs(
        [("q", "a"), ("q", ["b", "a"]), ("r", "a", "c"), ["s", ["d"], ["a", "e"]]],
        corpus=["f", "a"],
    )
    assert by_text(dataset) == {
        "q": (["a", "b"], []),
        "r": (["a"], ["c"]),
        "s": (["d"], ["a", "e"]),
    }
    assert list(dataset.corpus.values()) == ["a", "b", "c", "d", "e", "f"]


def test_ids_come_from_the_texts():
    """The same texts get the same ids, whatever stands around them."""
    one = EmbeddingQAFinetuneDataset.from_pairs([("q", "a"), ("r", "b")])
    other = EmbeddingQAFinetuneDataset.from_pairs([("r", "b"), ("q", "a")])
    assert one == other
    assert len(set(one.queries) | set(one.corpus)) == 4


def test_a_positive_is_no_negative_of_the_same_query():
    """What one row calls relevant stays relevant when another row calls it a negative."""
    dataset = EmbeddingQAFinetuneDataset.from_pairs([("q", "a", ["b", "c"]), ("q", "b", "a")])
    assert by_text(dataset) == {"q": (["a", "b"], ["c"])}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("q", "a"), ("q", ""), (None, "a"), ("q", [])], r"3 rows .* rows '2', '3', '4'"),
        ([("q", "a", [" "])], r"1 rows .* rows '1'"),
        ([("q", 5 * ["a"], [3])], r"1 rows"),
        ([("q", "a"), ("q", float("nan"))], r"1 rows .* rows '2'"),
        ([("q", "a", 7)], r"1 rows .* rows '1'"),
        ([("q", {"text": "a"})], r"1 rows .* rows '1'"),
        ([{"query": "q", "positive": "a"}], r"A pair must be .* as pair 1\)"),
        ([1], r"A pair must be .* \(got 1 as pair 1\)"),
        (["qa"], r"A pair must be .* \(got 'qa' as pair 1\)"),
        ([("q", "a"), ("q",)], r"\(got \('q',\) as pair 2\)"),
        ([], "no queries"),
    ],
)
def test_faulty_pairs(pairs, message):
    """All rows at fault are counted and the first ones named."""
    with pytest.raises(DatasetError, match=message):
        EmbeddingQAFinetuneDataset.from_pairs(pairs)


def test_faulty_corpus():
    """A distractor is a text, too."""
    with pytest.raises(DatasetError, match="'corpus' must hold texts"):
        EmbeddingQAFinetuneDataset.from_pairs([("q", "a")], corpus=["b", ""])
    for corpus, kind in (("text", "str"), ({"id": "text"}, "dict")):
        with pytest.raises(DatasetError, match=rf"'corpus' must be a list .* \(got {kind}\)"):
            EmbeddingQAFinetuneDataset.from_pairs([("q", "a")], corpus=corpus)


# --- BEIR


@ROUND_TRIP
@given(datasets(id_strategy=ids(alphabet=st.characters(codec="utf-8", exclude_characters="\0"))))
def test_beir_round_trip(tmp_path_factory, dataset):
    """Any dataset is read back as it was written: tabs, quotes, line ends and all."""
    folder = tmp_path_factory.mktemp("beir")
    dataset.to_beir(folder, split="train")
    assert EmbeddingQAFinetuneDataset.from_beir(folder) == dataset
    assert EmbeddingQAFinetuneDataset.from_beir(folder, "train") == dataset


def test_beir_files(tmp_path):
    """The files are what BEIR's loader reads: JSON lines, and a table with a header."""
    EmbeddingQAFinetuneDataset(
        queries={"q": "Größe?"},
        corpus={"d1": "eins", "d2": "zwei"},
        relevant_docs={"q": ["d2"]},
        hard_negatives={"q": ["d1"]},
    ).to_beir(tmp_path / "beir")
    read = {
        str(path.relative_to(tmp_path / "beir")): path.read_text("utf-8")
        for path in (tmp_path / "beir").rglob("*.*l*")
    } | {"qrels": (tmp_path / "beir" / "qrels" / "test.tsv").read_text("utf-8")}
    assert read == {
        "queries.jsonl": '{"_id": "q", "text": "Größe?"}\n',
        "corpus.jsonl": '{"_id": "d1", "title": "", "text": "eins"}\n'
        '{"_id": "d2", "title": "", "text": "zwei"}\n',
        "qrels": "query-id\tcorpus-id\tscore\nq\td2\t1\nq\td1\t0\n",
    }


def beir_folder(path, *, qrels=None, queries=None, corpus=None):
    """Write a folder as other people's programs write it, with some files replaced."""
    (path / "qrels").mkdir()
    for name, table in (qrels or {"test": "query-id\tcorpus-id\tscore\n1\ta\t1\n"}).items():
        (path / "qrels" / f"{name}.tsv").write_text(table, encoding="utf-8")
    (path / "queries.jsonl").write_text(
        queries or '{"_id": 1, "text": "one"}\n\n{"_id": "2", "text": "two"}\n', encoding="utf-8"
    )
    (path / "corpus.jsonl").write_text(
        corpus
        or '{"_id": "a", "title": "A", "text": "alpha"}\n{"_id": "b", "text": "beta"}\n'
        '{"_id": "c", "title": "", "text": ""}\n',
        encoding="utf-8",
    )
    return path


def test_beir_as_others_write_it(tmp_path):
    """Titles are joined, grades order, zero is a negative, other splits and empty texts go."""
    table = "query-id\tcorpus-id\tscore\n1\tb\t1\n1\ta\t2\n\n2\ta\t0\n\n"
    dataset = EmbeddingQAFinetuneDataset.from_beir(beir_folder(tmp_path, qrels={"test": table}))
    assert dataset.queries == {"1": "one"}  # 2 has no relevant document
    assert dataset.corpus == {"a": "A alpha", "b": "beta"}
    assert dataset.relevant_docs == {"1": ["a", "b"]}
    assert dataset.hard_negatives is None


def test_beir_splits(tmp_path):
    """Of several splits one must be named."""
    tables = {"train": "1\ta\t1\n", "test": "2\tb\t1\n1\ta\t-1\n2\ta\t0\n"}
    folder = beir_folder(tmp_path, qrels=tables)
    assert EmbeddingQAFinetuneDataset.from_beir(folder, "train").relevant_docs == {"1": ["a"]}
    assert EmbeddingQAFinetuneDataset.from_beir(folder, "test").hard_negatives == {"2": ["a"]}
    with pytest.raises(ConfigurationError, match=r"'split' must be in \('test', 'train'\).*None"):
        EmbeddingQAFinetuneDataset.from_beir(folder)
    with pytest.raises(ConfigurationError, match=r"\(got 'dev'\)"):
        EmbeddingQAFinetuneDataset.from_beir(folder, "dev")


def test_beir_with_byte_order_marks(tmp_path):
    """Editors on Windows write them, before the lines and before the table."""
    folder = beir_folder(tmp_path)
    expected = EmbeddingQAFinetuneDataset.from_beir(folder)
    for name in ("queries.jsonl", "corpus.jsonl", "qrels/test.tsv"):
        (folder / name).write_text((folder / name).read_text("utf-8"), "utf-8-sig")
    assert EmbeddingQAFinetuneDataset.from_beir(folder) == expected


def test_beir_grades_are_for_the_evaluation(tmp_path, caplog):
    """A dataset keeps no grades and says so; read apart, they are what `relevance` takes."""
    table = "1\ta\t1\n1\tb\t3\n2\ta\t0\n2\tb\t-1\n"
    folder = beir_folder(tmp_path, qrels={"test": table, "train": "2\ta\t1\n1\tb\t-1\n"})
    dataset = EmbeddingQAFinetuneDataset.from_beir(folder, "test")
    assert "1 judgements have a grade above 1" in caplog.text
    relevance = beir_relevance(folder, "test")
    assert relevance == {"1": {"a": 1, "b": 3}}
    found = evaluate_rankings([[0, 1]], dataset, relevance=relevance).metrics["ndcg@10"]
    assert found == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)))
    caplog.clear()
    EmbeddingQAFinetuneDataset.from_beir(folder, "train")
    assert caplog.text == ""
    assert beir_relevance(folder, "train") == {"2": {"a": 1}}


def test_beir_splits_of_one_corpus_share_a_folder(tmp_path):
    """A second split joins the first, each reads back whole, and one of them can be replaced."""
    dataset = tiny_dataset()
    parts = dataset.train_test_split(by="query")
    train, test = (part.model_copy(update={"corpus": dataset.corpus}) for part in parts)
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    note = tmp_path / "beir" / "qrels" / "README.md"
    note.write_text("Judged by hand.")
    for split, part in (("train", train), ("test", train), ("test", test)):
        part.to_beir(tmp_path / "beir", split)
    assert note.read_text() == "Judged by hand."
    assert EmbeddingQAFinetuneDataset.from_beir(tmp_path / "beir", "train") == train
    assert EmbeddingQAFinetuneDataset.from_beir(tmp_path / "beir", "test") == test


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_added_to_a_collection_leaves_its_texts(tmp_path, split):
    """Titles, documents without a text and what else a line holds stay; queries are added."""
    corpus = (
        '{"_id": "a", "title": "A", "text": "alpha", "metadata": {"url": "u"}}\n'
        '{"_id": "b", "text": "beta"}\n{"_id": "c", "title": "", "text": ""}\n'
    )
    queries = '{"_id": "1", "text": "one", "metadata": {"by": "x"}}'
    folder = beir_folder(tmp_path, corpus=corpus, queries=queries)
    dataset = EmbeddingQAFinetuneDataset.from_beir(folder)
    more = dataset.model_copy(
        update={
            "queries": {**dataset.queries, "2": "two"},
            "relevant_docs": {"1": ["b"], "2": ["a"]},
        }
    )
    more.to_beir(folder, split)
    assert (folder / "corpus.jsonl").read_text() == corpus
    added = '{"_id": "2", "text": "two"}\n'
    assert (folder / "queries.jsonl").read_text() == f"{queries}\n{added}"
    assert EmbeddingQAFinetuneDataset.from_beir(folder, split) == more


@pytest.mark.parametrize("text", ["one", "another one"])
def test_the_only_split_is_rewritten_without_the_old_queries(tmp_path, text):
    """A query that was removed is gone, a changed one is new, and the corpus keeps its titles."""
    corpus = '{"_id": "a", "title": "A", "text": "alpha"}\n{"_id": "b", "text": "beta"}\n'
    folder = beir_folder(tmp_path, qrels={"train": "1\ta\t1\n2\tb\t1\n"}, corpus=corpus)
    dataset = EmbeddingQAFinetuneDataset.from_beir(folder)
    left = EmbeddingQAFinetuneDataset(
        queries={"1": text}, corpus=dataset.corpus, relevant_docs={"1": ["a"]}
    )
    left.to_beir(folder, "train")
    (line,) = (folder / "queries.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == text
    assert (folder / "corpus.jsonl").read_text() == corpus
    more = dataset.model_copy(
        update={"queries": {"2": "something else"}, "relevant_docs": {"2": ["b"]}}
    )
    more.to_beir(folder, "test")
    assert EmbeddingQAFinetuneDataset.from_beir(folder, "test").queries == more.queries
    assert EmbeddingQAFinetuneDataset.from_beir(folder, "train") == left


def test_a_split_that_is_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    """The file that somebody linked to stays as it is."""
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    kept = tmp_path / "judgements.tsv"
    kept.write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (tmp_path / "beir" / "qrels" / "test.tsv").symlink_to(kept)
    dataset = tiny_dataset()
    dataset.to_beir(tmp_path / "beir")
    assert kept.read_text() == "query-id\tcorpus-id\tscore\nq\td\t1\n"
    assert EmbeddingQAFinetuneDataset.from_beir(tmp_path / "beir") == dataset


@pytest.mark.parametrize("field", ["queries", "corpus"])
def test_beir_splits_that_do_not_fit_together(tmp_path, field):
    """Another corpus, or another text of a query, is refused and changes nothing."""
    dataset = tiny_dataset()
    dataset.to_beir(tmp_path / "beir", "train")
    other = dataset.model_copy(deep=True)
    name = next(iter(getattr(other, field)))
    getattr(other, field)[name] += " more"
    with pytest.raises(DatasetError, match="holds other splits"):
        other.to_beir(tmp_path / "beir", "test")
    assert EmbeddingQAFinetuneDataset.from_beir(tmp_path / "beir") == dataset
    other.to_beir(tmp_path / "beir", "train")  # the only one there is
    assert EmbeddingQAFinetuneDataset.from_beir(tmp_path / "beir") == other


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"qrels": {"test": "1\ta\n"}}, DatasetFileError, r"Row 1 of .*test\.tsv"),
        ({"qrels": {"test": "1\ta\t1\n1\tb\tx\n"}}, DatasetFileError, r"Row 2 of"),
        ({"qrels": {"test": "1\tx\t1\n"}}, DatasetError, r"not in the corpus: 'x \(of query 1\)'"),
        ({"qrels": {"test": "9\ta\t1\n"}}, DatasetError, "1 judged queries have no text: '9'"),
        ({"queries": '{"_id": "1", "text": "one"}\n{"_id": '}, DatasetFileError, "Line 2 of"),
        ({"queries": '{"id": "1", "text": "one"}'}, DatasetFileError, "Line 1 of .*_id"),
        ({"corpus": "[1]"}, DatasetFileError, r"Line 1 of .*corpus\.jsonl"),
    ],
)
def test_faulty_beir_folders(tmp_path, files, error, message):
    """The file and the line at fault are named."""
    with pytest.raises(error, match=message):
        EmbeddingQAFinetuneDataset.from_beir(beir_folder(tmp_path, **files))


def test_incomplete_beir_folders(tmp_path):
    """A folder without judgements, or without a corpus, is none."""
    with pytest.raises(DatasetFileError, match=r"no qrels/\*\.tsv"):
        EmbeddingQAFinetuneDataset.from_beir(tmp_path)
    folder = beir_folder(tmp_path)
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "\xff"}')
    with pytest.raises(DatasetFileError, match="is not UTF-8"):
        EmbeddingQAFinetuneDataset.from_beir(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(DatasetFileError, match=r"corpus\.jsonl' can't be read"):
        EmbeddingQAFinetuneDataset.from_beir(folder)


def test_ids_that_a_table_can_not_hold(tmp_path):
    """They are named before anything is written."""
    dataset = EmbeddingQAFinetuneDataset.from_pairs([("q", "a")])
    relevant_docs = {"\0": [*dataset.corpus]}
    broken = dataset.model_copy(update={"queries": {"\0": "q"}, "relevant_docs": relevant_docs})
    with pytest.raises(DatasetError, match="1 ids hold the character NUL"):
        broken.to_beir(tmp_path / "beir")
    assert not (tmp_path / "beir").exists()


# --- Hugging Face datasets


@ROUND_TRIP
@given(datasets())
def test_hf_round_trip(dataset):
    """The three tables hold everything."""
    assert EmbeddingQAFinetuneDataset.from_hf_dataset(dataset.to_hf_dataset()) == dataset


@ROUND_TRIP
@given(datasets())
def test_hf_tables_as_data_frames(dataset):
    """Tables of pandas hold the same."""
    tables = {name: table.to_pandas() for name, table in dataset.to_hf_dataset().items()}
    assert EmbeddingQAFinetuneDataset.from_hf_dataset(tables) == dataset


@ROUND_TRIP
@given(datasets())
def test_hf_pairs_and_triplets(dataset):
    """Rows of texts say what the dataset says, once per pair or triplet."""
    pairs = dataset.to_hf_dataset("pairs")
    hard_negatives = dataset.hard_negatives or {}
    assert sorted(map(tuple, zip(pairs["anchor"], pairs["positive"], strict=True))) == sorted(
        (text, dataset.corpus[docid])
        for text, found in dataset.query_docid_pairs
        for docid in found
    )
    if not hard_negatives:
        with pytest.raises(DatasetError, match="no hard negatives to make triplets of"):
            dataset.to_hf_dataset("triplets")
        return
    triplets = dataset.to_hf_dataset("triplets")
    assert triplets.column_names == ["anchor", "positive", "negative"]
    assert len(triplets) == sum(
        len(dataset.relevant_docs[qid]) * len(found) for qid, found in hard_negatives.items()
    )


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        (("anchor", "positive", "negative"), ("a", "b")),
        (("question", "context", "negative_1"), ("a", "b")),
        (("query", "pos", "neg"), (["a"], ["b"])),
    ],
)
def test_hf_columns_are_found(columns, values):
    """The usual names, of single texts and of lists."""
    from datasets import Dataset

    data = Dataset.from_dict(dict(zip(columns, (["q"], *([one] for one in values)), strict=True)))
    expected = EmbeddingQAFinetuneDataset.from_pairs([("q", "a", "b")])
    assert EmbeddingQAFinetuneDataset.from_hf_dataset(data) == expected
    assert EmbeddingQAFinetuneDataset.from_hf_dataset(data.to_list()) == expected


def test_hf_columns_are_given():
    """Given names are used and nothing else; an absent negative is none."""
    rows = [
        {"frage": "q", "antwort": "a", "n1": "b", "n2": None, "negative": "c"},
        {"frage": "r", "antwort": ["a", "d"], "n1": "e", "n2": ["f"], "negative": "c"},
    ]
    dataset = EmbeddingQAFinetuneDataset.from_hf_dataset(
        rows, query_column="frage", positive_column="antwort", negative_columns=["n1", "n2"]
    )
    assert by_text(dataset) == {"q": (["a"], ["b"]), "r": (["a", "d"], ["e", "f"])}


@pytest.mark.parametrize(
    ("data", "kwargs", "error", "message"),
    [
        ([{"x": "q"}], {}, ConfigurationError, r"'query_column' must be in \('x',\) \(got None"),
        ([{"query": "q"}], {}, ConfigurationError, r"'positive_column' .*none of \('positive'"),
        (
            [{"query": "q", "pos": "a"}],
            {"negative_columns": "n"},
            ConfigurationError,
            r"'negative_columns' must be in \('query', 'pos'\) \(got 'n'\)",
        ),
        ([], {}, DatasetError, "no rows"),
        ("name", {}, ConfigurationError, r"list of dictionaries \(got a row 'n' of str\)"),
        ({"train": [], "test": []}, {}, ConfigurationError, r"several tables \(train, test\)"),
        (
            {"corpus": [], "queries": [], "qrels": []},
            {"query_column": "query"},
            ConfigurationError,
            "no column names",
        ),
        (
            {"corpus": [], "queries": [{"id": "1"}], "qrels": []},
            {},
            ConfigurationError,
            "lack the column '_id'",
        ),
    ],
)
def test_faulty_hf_datasets(data, kwargs, error, message):
    """The column or table that is missing is named with those that are there."""
    with pytest.raises(error, match=message):
        EmbeddingQAFinetuneDataset.from_hf_dataset(data, **kwargs)


def test_hf_columns_of_all_rows():
    """A column that the first dictionary lacks is a column as well."""
    rows = [{"query": "q", "positive": "a"}, {"query": "r", "positive": "b", "negative": "c"}]
    dataset = EmbeddingQAFinetuneDataset.from_hf_dataset(rows)
    assert by_text(dataset) == {"q": (["a"], []), "r": (["b"], ["c"])}


def test_hf_columns_that_look_like_known_ones():
    """A number is no negative, and of two names for the positive the usual one comes first."""
    rows = [{"query": "q", "answer": "x", "positive": "a", "negative_score": 0.5}]
    assert by_text(EmbeddingQAFinetuneDataset.from_hf_dataset(rows)) == {"q": (["a"], [])}


def test_hf_columns_of_mappings():
    """The context of HotpotQA or SQuAD is no list of texts, and its keys are none."""
    rows = [{"question": "q", "context": {"title": ["A"], "sentences": [["s"]]}}]
    with pytest.raises(DatasetError, match=r"1 rows .* rows '1'"):
        EmbeddingQAFinetuneDataset.from_hf_dataset(rows)


def test_hf_streams_and_data_frames():
    """Both are read as the rows that they hold."""
    import pandas
    from datasets import Dataset

    rows = [{"query": "q", "positive": "a"}, {"query": "r", "positive": "b"}]
    expected = EmbeddingQAFinetuneDataset.from_hf_dataset(rows)
    for data in (Dataset.from_list(rows).to_iterable_dataset(), pandas.DataFrame(rows)):
        assert EmbeddingQAFinetuneDataset.from_hf_dataset(data) == expected


@pytest.mark.parametrize("score", [None, "x", float("nan")])
def test_hf_scores_that_are_no_numbers(score):
    """They are named with their row."""
    tables = hf_tables()
    tables["qrels"].append({"query-id": "1", "corpus-id": "e", "score": score})
    with pytest.raises(DatasetError, match=r"'score' must be a number .* in row 2 of 'qrels'"):
        EmbeddingQAFinetuneDataset.from_hf_dataset(tables)


def hf_tables(query="q", title="T", text="a"):
    """The three tables, of a query, a relevant document, and one that nothing names."""
    return {
        "queries": [{"_id": "1", "text": query}],
        "corpus": [{"_id": "d", "title": title, "text": text}, {"_id": "e", "text": None}],
        "qrels": [{"query-id": "1", "corpus-id": "d", "score": 1}],
    }


def test_hf_nulls_are_no_words():
    """A null adds nothing to a title or a text, and an unnamed document without a text goes."""
    dataset = EmbeddingQAFinetuneDataset.from_hf_dataset(hf_tables(title=None))
    assert dataset.corpus == {"d": "a"}
    dataset = EmbeddingQAFinetuneDataset.from_hf_dataset(hf_tables(text=None))
    assert dataset.corpus == {"d": "T "}


@pytest.mark.parametrize("missing", [None, float("nan"), "NA"])
def test_missing_values_of_data_frames_are_no_words(missing):
    """What pandas has for None adds nothing to a text."""
    import pandas

    missing = pandas.NA if missing == "NA" else missing
    frames = {name: pandas.DataFrame(rows) for name, rows in hf_tables(title=missing).items()}
    assert EmbeddingQAFinetuneDataset.from_hf_dataset(frames).corpus == {"d": "a"}
    rows = pandas.DataFrame(
        {"query": ["q", "r"], "positive": ["a", "b"], "negative": ["c", missing]}
    )
    dataset = EmbeddingQAFinetuneDataset.from_hf_dataset(rows)
    assert [len(found) for found in dataset.hard_negatives.values()].count(1) == 1
    assert "nan" not in dataset.corpus.values()


@pytest.mark.parametrize(
    "tables", [hf_tables(query=None), hf_tables(title=None, text=None)], ids=["query", "document"]
)
def test_hf_nulls_where_a_text_is_needed(tables):
    """They are refused as empty texts are."""
    with pytest.raises(DatasetError, match="empty"):
        EmbeddingQAFinetuneDataset.from_hf_dataset(tables)


def test_unknown_layout():
    """The layouts are named."""
    with pytest.raises(ConfigurationError, match=r"'layout' must be in .* \(got 'rows'\)"):
        tiny_dataset().to_hf_dataset("rows")


# --- Argilla


@dataclasses.dataclass
class Answer:
    question_name: str
    value: object
    status: object = None


def record(query, document, *answers, suggestion=None, **fields):
    """A record as Argilla 2 has it."""
    suggestions = [] if suggestion is None else [SimpleNamespace(**suggestion)]
    return SimpleNamespace(
        fields={"question": query, "context": document, **fields},
        responses=list(answers),
        suggestions=suggestions,
    )


def answered(value, status="submitted"):
    """One person's answer."""
    return Answer("relevant", value, SimpleNamespace(value=status))


def test_argilla_fields():
    """Records of pairs or triplets need no labels."""
    records = [record("q", "a", negative="b"), record("r", "b")]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(records)
    assert by_text(dataset) == {"q": (["a"], ["b"]), "r": (["b"], [])}
    renamed = [SimpleNamespace(fields={"x": "q", "y": "a", "z": "b"}, responses=[], suggestions=[])]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(
        renamed, query_field="x", positive_field="y", negative_fields="z"
    )
    assert by_text(dataset) == {"q": (["a"], ["b"])}


def test_argilla_labels(caplog):
    """The majority counts, then the suggestion; drafts and other questions do not; ties go."""
    suggested = {"question_name": "relevant", "value": "no"}
    records = [
        record("q", "a", answered("yes"), answered("yes"), answered("no")),
        record("q", "b", answered("no"), suggestion={**suggested, "value": "yes"}, negative="f"),
        record("q", "c", answered("yes"), answered("no")),  # a tie
        record("q", "d", answered("yes", "draft"), suggestion=suggested),
        record("q", "e", Answer("other", "yes")),  # nothing to go by
        record("r", "a", answered("no")),  # no relevant document in the end
    ]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(records, label_question="relevant")
    assert by_text(dataset) == {"q": (["a"], ["b", "f", "d"])}
    assert "Left out 2 records without one label to go by, and 1 queries" in caplog.text


def test_argilla_labels_of_other_values():
    """Which labels mean relevant is for the caller to say."""
    records = [record("q", "a", answered(4)), record("q", "b", answered(1))]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(
        records, label_question="relevant", relevant_labels=(4, 5)
    )
    assert by_text(dataset) == {"q": (["a"], ["b"])}
    dataset = EmbeddingQAFinetuneDataset.from_argilla(
        records, label_question="relevant", relevant_labels=4
    )
    assert by_text(dataset) == {"q": (["a"], ["b"])}
    labels = [record("q", "a", answered("very good")), record("q", "b", answered("good"))]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(
        labels, label_question="relevant", relevant_labels="very good"
    )
    assert by_text(dataset) == {"q": (["a"], ["b"])}
    with pytest.raises(DatasetError, match=r"must be in \('yes',\) \(got \{'4': 1, '1': 1\}\)"):
        EmbeddingQAFinetuneDataset.from_argilla(records, label_question="relevant")


@pytest.mark.parametrize("text", [None, " ", [{"role": "user", "content": "q"}]], ids=repr)
def test_argilla_errors_count_records(text):
    """With labels as without, the number is the record's own, also of a chat field."""
    records = [
        record("q", "a", answered("yes")),
        record("q", "b", answered("no")),
        record(None, "b"),  # without a label: left out
        record(text, "c", answered("yes")),
        record("r", text, answered("no")),
    ]
    with pytest.raises(DatasetError, match=r"2 rows .* rows '4', '5' \(counted from 1\)"):
        EmbeddingQAFinetuneDataset.from_argilla(records, label_question="relevant")


@pytest.mark.parametrize(
    "labelled",
    [
        record("q", "a", answered(["yes", "clear"])),
        record("q", "a", suggestion={"question_name": "relevant", "value": ["yes"]}),
    ],
    ids=["answered", "suggested"],
)
def test_argilla_questions_with_several_labels(labelled):
    """They are refused by name: a list of labels is none that a record could go by."""
    message = r"'label_question' must be a question with one label .*'relevant'.*\['yes'"
    with pytest.raises(ConfigurationError, match=message):
        EmbeddingQAFinetuneDataset.from_argilla([labelled], label_question="relevant")


def test_argilla_exports():
    """The dictionaries of ``records.to_list()`` are read like the records."""
    records = [
        {
            "fields": {"question": "q", "context": "a"},
            "responses": {"relevant": [{"value": "yes", "user_id": "1"}]},
            "suggestions": {"relevant": {"value": "no", "score": None}},
        },
        {
            "fields": {"question": "q", "context": "b"},
            "responses": {},
            "suggestions": {"relevant": {"value": "no"}},
        },
    ]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(records, label_question="relevant")
    assert by_text(dataset) == {"q": (["a"], ["b"])}


def test_argilla_own_records():
    """Records made by Argilla itself, where it is installed."""
    argilla = pytest.importorskip("argilla")
    user = "11111111-1111-1111-1111-111111111111"
    records = [
        argilla.Record(
            fields={"question": "q", "context": text},
            responses=[argilla.Response("relevant", value, user_id=user, status="submitted")],
            suggestions=[argilla.Suggestion("relevant", "no")],
        )
        for text, value in (("a", "yes"), ("b", "no"))
    ]
    dataset = EmbeddingQAFinetuneDataset.from_argilla(records, label_question="relevant")
    assert by_text(dataset) == {"q": (["a"], ["b"])}
    exported = [one.to_dict() for one in records]
    assert dataset == EmbeddingQAFinetuneDataset.from_argilla(exported, label_question="relevant")


def test_argilla_without_records():
    """Nothing is no dataset."""
    with pytest.raises(DatasetError, match="has no records"):
        EmbeddingQAFinetuneDataset.from_argilla([])


# --- LabelledRagDataset

EXAMPLES = [
    {"query": "q", "reference_contexts": ["a", "b"], "reference_answer": "x"},
    {"query": "r", "reference_contexts": ["b"], "reference_answer": "y"},
]


def test_labelled_rag_dataset(tmp_path):
    """Reference contexts are relevant documents, from the object and from its file."""
    path = tmp_path / "rag_dataset.json"
    path.write_text(json.dumps({"examples": EXAMPLES}), encoding="utf-8")
    held = SimpleNamespace(examples=[SimpleNamespace(**example) for example in EXAMPLES])
    for data in (path, str(path), held):
        dataset = EmbeddingQAFinetuneDataset.from_labelled_rag_dataset(data)
        assert by_text(dataset) == {"q": (["a", "b"], []), "r": (["b"], [])}


@pytest.mark.parametrize("data", [{"examples": EXAMPLES}, EXAMPLES, None], ids=type)
def test_what_is_no_labelled_rag_dataset(data):
    """Its examples alone are refused, with what is wanted instead."""
    message = rf"'data' must be a LabelledRagDataset.*\(got {type(data).__name__}\)"
    with pytest.raises(ConfigurationError, match=message):
        EmbeddingQAFinetuneDataset.from_labelled_rag_dataset(data)


def test_llama_index_own_labelled_rag_dataset():
    """The class itself, where llama-index-core still has it."""
    module = pytest.importorskip("llama_index.core.llama_dataset")
    held = module.LabelledRagDataset(
        examples=[module.LabelledRagDataExample(**example) for example in EXAMPLES]
    )
    dataset = EmbeddingQAFinetuneDataset.from_labelled_rag_dataset(held)
    assert by_text(dataset) == {"q": (["a", "b"], []), "r": (["b"], [])}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, DatasetFileError, "is no LabelledRagDataset: .*No such file"),
        ("{", DatasetFileError, "is no LabelledRagDataset"),
        ("{}", DatasetFileError, "it has no 'examples'"),
        ('{"examples": ["q"]}', DatasetFileError, "'examples' is no list of objects"),
        ('{"examples": []}', DatasetError, "has no examples"),
        ('{"examples": [{"query": "q"}]}', DatasetError, "1 rows lack a query or a relevant"),
    ],
)
def test_faulty_labelled_rag_datasets(tmp_path, content, error, message):
    """The error says what is missing."""
    path = tmp_path / "rag_dataset.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        EmbeddingQAFinetuneDataset.from_labelled_rag_dataset(path)
