"""The dataset class: checks at construction, JSON files, fingerprint, consolidation."""

import hashlib
import json
import logging
import pickle
import re
import tracemalloc

import pytest
from fakes import HashEmbedding, tiny_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import BaseModel
from strategies import datasets

from llama_index.finetuning.embeddings import (
    DatasetError,
    DatasetFileError,
    EmbeddingAdapterFinetuneEngine,
    EmbeddingQAFinetuneDataset,
    OutputError,
    compare_retrieval,
    evaluate_retrieval,
    json_stream,
)
from llama_index.finetuning.embeddings.dataset import require_dataset

GOOD = {
    "queries": {"q1": "one", "q2": "two"},
    "corpus": {"d1": "first", "d2": "second"},
    "relevant_docs": {"q1": ["d1"], "q2": ["d2"]},
}


def changed(**fields):
    """The good fields with some replaced."""
    return {**GOOD, **fields}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (changed(queries={}), r"no queries \(2 documents\)"),
        (changed(queries={"q1": " \n"}), r"1 queries have an empty text: 'q1'"),
        (changed(corpus={"d1": "", "d2": ""}), r"2 documents .* empty text: 'd1', 'd2'"),
        (changed(relevant_docs={"q1": ["d1"]}), r"1 queries have no relevant document: 'q2'"),
        (changed(relevant_docs={"q1": ["d1"], "q2": []}), r"no relevant document: 'q2'"),
        (
            changed(relevant_docs={"q1": ["x"], "q2": ["d2"]}),
            r"1 document ids in 'relevant_docs' are not in the corpus: 'x \(of query q1\)'",
        ),
        (
            changed(hard_negatives={"q1": ["x"]}),
            r"1 document ids in 'hard_negatives' are not in the corpus",
        ),
        (
            changed(hard_negatives={"q1": ["d2", "d1"]}),
            r"1 hard negatives are relevant documents of the same query: 'q1: d1'",
        ),
        (changed(mode="image"), r"'mode' must be 'text' \(got 'image'\)"),
        (changed(queries={"q1": 1}), r"1 places do not: 'queries\.q1 \(int\)'"),
        ({"queries": {}}, r"'corpus \(missing\)', 'relevant_docs \(missing\)'"),
        (
            changed(queries={f"q{i}": "" for i in range(1200)}),
            r"1,200 queries .*: 'q0', 'q1', 'q2', 'q3', 'q4' and 1,195 more",
        ),
    ],
)
def test_construction_names_the_ids_at_fault(fields, message):
    """Each fault is a DatasetError that counts all the ids and shows the first ones."""
    with pytest.raises(DatasetError, match=message):
        EmbeddingQAFinetuneDataset(**fields)


def test_check_sees_changes_in_place():
    """A dataset that was broken after its construction fails its next check."""
    dataset = EmbeddingQAFinetuneDataset(**GOOD)
    del dataset.corpus["d1"]
    with pytest.raises(DatasetError, match="not in the corpus"):
        dataset.check()


def test_relevance_of_unknown_queries_is_kept_and_warned_of(caplog):
    """Files of the retired package may hold such entries: they stay, with a warning."""
    with caplog.at_level(logging.WARNING):
        dataset = EmbeddingQAFinetuneDataset(
            **changed(relevant_docs={**GOOD["relevant_docs"], "stranger": ["d1"]})
        )
    assert dataset.relevant_docs["stranger"] == ["d1"]
    assert "1 ids that are no query and are ignored: 'stranger'" in caplog.text


def test_query_docid_pairs():
    """Query texts stand with the ids of their documents, as in the retired package."""
    pairs = EmbeddingQAFinetuneDataset(**GOOD).query_docid_pairs
    assert pairs == [("one", ["d1"]), ("two", ["d2"])]


@settings(max_examples=50, deadline=None)
@given(datasets(), st.integers(1, 40))
def test_json_round_trip(tmp_path_factory, dataset, chunk):
    """Any dataset is read back as it was written, wherever the reader's window ends."""
    path = tmp_path_factory.mktemp("json") / "dataset.json"
    dataset.save_json(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert EmbeddingQAFinetuneDataset.from_json(path) == dataset
    assert json.loads(path.read_text(encoding="utf-8")) == dataset.model_dump(exclude_none=True)


@settings(max_examples=50, deadline=None)
@given(
    datasets(),
    st.sampled_from([None, 0, 4]),
    st.booleans(),
    st.integers(1, 40),
)
def test_json_of_any_layout_is_read(tmp_path_factory, dataset, indent, escapes, chunk):
    """Files of other writers, the retired package's too, give the same dataset."""
    path = tmp_path_factory.mktemp("json") / "dataset.json"
    text = json.dumps(dataset.model_dump(exclude_none=True), indent=indent, ensure_ascii=escapes)
    path.write_text(text, encoding="utf-8", newline="\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert EmbeddingQAFinetuneDataset.from_json(path) == dataset


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(JSON_VALUES, st.integers(1, 20), st.sampled_from([None, 0, 2]))
def test_reader_agrees_with_json(tmp_path_factory, value, chunk, indent):
    """The reader gives what ``json.load`` gives, for any JSON."""
    path = tmp_path_factory.mktemp("json") / "any.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8", newline="\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        assert json_stream.read_json(path) == value


@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a"', '{"a" 1}', '{"a": 1', '{"a": 1}x', '{"a": 1,}', '{1: 2}', '{"a": {"b": tru}}',
     '{"a": {"b": "x', "nul", '{"a": {"b": 1 "c": 2}}', '{"a": "x\ny"}'],
)  # fmt: skip
def test_reader_rejects_what_json_rejects(tmp_path, monkeypatch, text, chunk):
    """Broken JSON is an error with a position, wherever the window ends."""
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8", newline="\n")
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    with pytest.raises(ValueError, match=r"\(character [0-9,]+\)$"):
        json_stream.read_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}x', "Extra data (character 8)"),
        ("{1: 2}", "Expecting property name enclosed in double quotes (character 1)"),
        ('{"a" 1}', "Expecting ':' (character 5)"),
        ('{"a": 1 2}', "Expecting ',' or '}' (character 8)"),
        ('{"a": tru}', "Expecting value (character 6)"),
    ],
)
def test_reader_says_what_is_wrong(tmp_path, text, message):
    """In the words of ``json.load`` where it has the same to say."""
    path = tmp_path / "broken.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        json_stream.read_json(path)


@pytest.mark.parametrize("indent", [None, 4])
def test_reader_holds_a_part_of_the_file(tmp_path, monkeypatch, indent):
    """Of an object of objects no more than a few windows are in memory."""
    path = tmp_path / "large.json"
    value = {name: {f"{name}{i}": "x" * 20 for i in range(500)} for name in "ab"}
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8", newline="\n")
    longest, fill = [0], json_stream._Reader._fill

    def watched(reader):
        more = fill(reader)
        longest.append(len(reader._window))
        return more

    monkeypatch.setattr(json_stream._Reader, "_fill", watched)
    monkeypatch.setattr(json_stream, "_CHUNK", 256)
    assert json_stream.read_json(path) == value
    assert max(longest) < 2000 < path.stat().st_size / 10


def test_reader_takes_lines_at_once(tmp_path, monkeypatch):
    """A file with a line per entry is not taken value by value."""
    path = tmp_path / "lines.json"
    value = {"a": {f"a{i}": "x" * 20 for i in range(500)}}
    path.write_text(json.dumps(value, indent=4), encoding="utf-8", newline="\n")
    taken, one = [], json_stream._Reader.value
    monkeypatch.setattr(json_stream._Reader, "value", lambda self: taken.append(1) or one(self))
    monkeypatch.setattr(json_stream, "_CHUNK", 2048)
    assert json_stream.read_json(path) == value
    assert len(taken) < 100


@pytest.mark.parametrize("value", [{}, {"a": {}}, {"a": {}, "b": {"c": []}, "d": None}])
def test_empty_objects_are_written(tmp_path, value):
    """Nothing to write is JSON too."""
    path = tmp_path / "empty.json"
    with path.open("w", encoding="utf-8") as stream:
        json_stream.write_entries(stream, value)
    assert json_stream.read_json(path) == value


def test_the_position_of_an_error_counts_from_the_start_of_the_file(tmp_path, monkeypatch):
    """Also where the window has moved on: the third bracket, behind 25 characters."""
    path = tmp_path / "broken.json"
    path.write_text('{"a": "xxxxxxxxxxxxxxxx" ]', encoding="utf-8")
    monkeypatch.setattr(json_stream, "_CHUNK", 3)
    with pytest.raises(ValueError, match=r"\(character 25\)$"):
        json_stream.read_json(path)


def test_every_truncation_of_a_file_is_an_error(tmp_path):
    """A file cut off anywhere is a DatasetFileError and never a smaller dataset."""
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    EmbeddingQAFinetuneDataset(**GOOD).save_json(whole)
    data = whole.read_bytes().rstrip()
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises(DatasetFileError, match=r"cut\.json"):
            EmbeddingQAFinetuneDataset.from_json(cut)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no dataset file at"),
        (b'{"queries": "\xff"}', "is not UTF-8 text"),
        (b"[]", r"is no dataset: .* \(found list\)"),
        (b'{"queries": {}}', r"is no dataset: .* \(found \['queries'\]\)"),
        (b"[" * 100_000, "holds no whole JSON"),
    ],
)
def test_what_is_no_dataset_file(tmp_path, content, message):
    """The error says what the file is instead."""
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetFileError, match=message):
        EmbeddingQAFinetuneDataset.from_json(path)


def test_a_file_that_is_not_there_is_a_file_not_found(tmp_path):
    """Code that generates where there is no file catches that."""
    with pytest.raises(FileNotFoundError, match="There is no dataset file"):
        EmbeddingQAFinetuneDataset.from_json(tmp_path / "none.json")


def test_blank_pages_of_a_file_are_left_out(tmp_path, caplog):
    """The retired package kept them, and asked about them; who is no dataset is still told why."""
    path = tmp_path / "old.json"
    old = {
        "queries": {"q1": "amber?", "q2": "what is the context?"},
        "corpus": {"d1": "amber bridge", "d2": "", "d3": " \n"},
        "relevant_docs": {"q1": ["d3", "d1"], "q2": ["d2"]},
        "hard_negatives": {"q1": ["d2"]},
        "mode": "text",
    }
    path.write_text(json.dumps(old))
    with caplog.at_level(logging.WARNING):
        read = EmbeddingQAFinetuneDataset.from_json(path)
    assert read.queries == {"q1": "amber?"}
    assert read.corpus == {"d1": "amber bridge"}
    assert read.relevant_docs == {"q1": ["d1"]}
    assert read.hard_negatives == {"q1": []}
    assert "2 documents" in caplog.text
    assert "1 queries that have no other: 'd2', 'd3'" in caplog.text
    for field, wrong in (
        ("queries", {"q1": 5}),
        ("relevant_docs", {"q1": {"d1": 1}}),
        ("relevant_docs", {"q1": [["d1"]]}),
        ("relevant_docs", []),
        ("hard_negatives", [1]),
    ):
        path.write_text(json.dumps({**old, field: wrong}))
        with pytest.raises(DatasetError):
            EmbeddingQAFinetuneDataset.from_json(path)


def test_a_pickle_of_the_retired_class_is_read():
    """Its state had no hard negatives."""
    dataset = EmbeddingQAFinetuneDataset(**GOOD)
    old = EmbeddingQAFinetuneDataset.__new__(EmbeddingQAFinetuneDataset)
    state = dataset.__getstate__()
    fields = {name: value for name, value in state["__dict__"].items() if name != "hard_negatives"}
    old.__setstate__({**state, "__dict__": fields})
    assert old.hard_negatives is None
    old.check()
    again = pickle.loads(pickle.dumps(dataset))
    assert again.model_dump_json() == dataset.model_dump_json()


def test_a_folder_is_no_dataset_file(tmp_path):
    """What can't be read at all is named with the system's reason."""
    with pytest.raises(DatasetFileError, match=r"can't be read"):
        EmbeddingQAFinetuneDataset.from_json(tmp_path)


def test_file_with_byte_order_mark_is_read(tmp_path):
    """Editors on Windows write one."""
    path = tmp_path / "bom.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert EmbeddingQAFinetuneDataset.from_json(path) == EmbeddingQAFinetuneDataset(**GOOD)


def test_file_holds_text_as_it_is_and_no_absent_field(tmp_path):
    """UTF-8 without escapes, one line per entry, and no ``hard_negatives`` when there are none."""
    path = tmp_path / "dataset.json"
    EmbeddingQAFinetuneDataset(**changed(queries={"q1": "Größe", "q2": "大きさ"})).save_json(path)
    text = path.read_text(encoding="utf-8")
    assert '\n        "q2": "大きさ"\n' in text
    assert "hard_negatives" not in text
    EmbeddingQAFinetuneDataset(**changed(hard_negatives={"q1": ["d2"]})).save_json(path)
    assert json.loads(path.read_text(encoding="utf-8"))["hard_negatives"] == {"q1": ["d2"]}


def test_file_that_can_not_be_written(tmp_path):
    """The error is the library's own and names the path."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        EmbeddingQAFinetuneDataset(**GOOD).save_json(tmp_path / "file" / "dataset.json")


@settings(max_examples=25, deadline=None)
@given(datasets())
def test_fingerprint_ignores_order_and_nothing_else(dataset):
    """Entries in another order are the same data; another text, or relevance, is not."""
    shuffled = EmbeddingQAFinetuneDataset(
        queries=dict(reversed(dataset.queries.items())),
        corpus=dict(reversed(dataset.corpus.items())),
        relevant_docs=dataset.relevant_docs,
        hard_negatives=dataset.hard_negatives,
    )
    assert shuffled.fingerprint() == dataset.fingerprint()
    qid = next(iter(dataset.queries))
    other = dataset.model_copy(deep=True)
    other.queries[qid] += "x"
    assert other.fingerprint() != dataset.fingerprint()
    other = dataset.model_copy(deep=True)
    other.relevant_docs[qid].append("x")
    assert other.fingerprint() != dataset.fingerprint()
    other = dataset.model_copy(update={"corpus": {**dataset.corpus, "another": "x"}})
    assert other.fingerprint() != dataset.fingerprint()
    other = dataset.model_copy(update={"hard_negatives": {"another": ["x"]}})
    assert other.fingerprint() != dataset.fingerprint()
    # Runs and checkpoints are recognised by it, so it is that of all versions.
    payload = json.dumps(dataset.model_dump(exclude_none=True), sort_keys=True).encode("ascii")
    assert dataset.fingerprint() == hashlib.sha256(payload).hexdigest()


def test_a_fingerprint_takes_little_memory():
    """A tenth of the texts at most, though they are escaped."""
    corpus = {f"d{i}": "大きさ" * 300 + str(i) for i in range(2000)}
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "x"}, corpus=corpus, relevant_docs={"q": ["d0"]}
    )
    tracemalloc.start()
    dataset.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(map(len, corpus.values())) / 5


def test_consolidate_makes_twins_of_positives_relevant():
    """A near-duplicate becomes relevant and is no hard negative any more; others stay."""
    words = [f"word{i}" for i in range(60)]
    twin = [*words[:30], "other", *words[31:]]
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": " one ", "q3": "three"},
        corpus={"d1": " ".join(words), "d2": " ".join(twin), "d3": "apart", "d4": "far"},
        relevant_docs={"q1": ["d1"], "q2": ["d3"], "q3": ["d4"]},
        hard_negatives={"q1": ["d2", "d4"], "q3": ["d1"]},
    )
    merged = dataset.consolidate()
    assert merged.relevant_docs == {
        "q1": ["d1", "d3", "d2"],  # its own, those of its twin query q2, then the twins of both
        "q2": ["d3", "d1", "d2"],
        "q3": ["d4"],
    }
    assert merged.hard_negatives == {"q1": ["d4"], "q3": ["d1"]}
    assert merged.corpus == dataset.corpus
    assert dataset.relevant_docs["q1"] == ["d1"]
    apart = dataset.consolidate(threshold=1.0)
    assert apart.relevant_docs["q1"] == ["d1", "d3"]


def test_consolidate_leaves_other_queries_hard_negatives():
    """Those of a query that was taken out are kept and ignored."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "what a"},
        corpus={"a": "alpha text", "b": "beta text", "c": "gamma"},
        relevant_docs={"q1": ["a"]},
        hard_negatives={"q1": ["b"], "q2": ["c"]},
    )
    assert dataset.consolidate() == dataset


def test_consolidate_tells_words_of_other_scripts_apart():
    """A tone mark or a vowel sign makes another word; a decomposed accent does not."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "\u0e23\u0e32\u0e04\u0e32", "r": "cafe"},
        corpus={
            "rice": "\u0e02\u0e49\u0e32\u0e27\u0e41\u0e1e\u0e07",
            "news": "\u0e02\u0e48\u0e32\u0e27\u0e41\u0e1e\u0e07",
            "one": "caf\u00e9 noir",
            "two": "cafe\u0301 noir",
        },
        relevant_docs={"q": ["rice"], "r": ["one"]},
        hard_negatives={"q": ["news"]},
    )
    merged = dataset.consolidate()
    assert merged.relevant_docs == {"q": ["rice"], "r": ["one", "two"]}
    assert merged.hard_negatives == {"q": ["news"]}


def test_consolidate_of_distinct_texts_changes_nothing():
    """Without twins it is the identity."""
    dataset = tiny_dataset()
    assert dataset.consolidate() == dataset


def test_importing_the_dataset_loads_no_heavy_library():
    """Neither torch nor ``datasets`` is needed to hold data."""
    import subprocess
    import sys

    code = (
        "import sys; import llama_index.finetuning.embeddings.dataset; "
        "print({'torch', 'transformers', 'datasets', 'sentence_transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_dataset_of_the_core_is_taken(tmp_path, caplog):
    """llama-index-core 0.13 brought a class of the same name, and so did the retired package."""
    made = tiny_dataset(20, 1)
    core = type(
        "EmbeddingQAFinetuneDataset",
        (BaseModel,),
        {"__annotations__": dict.fromkeys(("queries", "corpus", "relevant_docs"), dict)},
    )
    theirs = core(queries=made.queries, corpus=made.corpus, relevant_docs=made.relevant_docs)
    model = HashEmbedding()
    output = str(tmp_path / "adapter")
    engine = EmbeddingAdapterFinetuneEngine(
        theirs, model, model_output_path=output, val_dataset=theirs, epochs=1
    )
    assert engine.dataset == made
    with caplog.at_level(logging.WARNING):
        engine.finetune()
    assert "20 of 20 validation queries are in the training set" in caplog.text
    ours, again = (evaluate_retrieval(model, one).metrics for one in (made, theirs))
    assert ours == again
    reports = (
        compare_retrieval({"base": model}, one, general_dataset=one).to_dict()
        for one in (made, theirs)
    )
    assert next(reports) == next(reports)
    with pytest.raises(DatasetError, match="x"):
        require_dataset(
            core(queries={"q": "?"}, corpus={}, relevant_docs={"q": ["x"]}), name="dataset"
        )
