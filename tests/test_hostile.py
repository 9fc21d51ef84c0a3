"""Whatever stands in a file: a valid object or one of our errors, and nothing is executed."""

import json
import os
import pickle
import sqlite3
import struct
import sys
from pathlib import Path

import pytest
import torch
from fakes import HashEmbedding, tiny_dataset

from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    ConfigurationError,
    DatasetError,
    DatasetFileError,
    EmbeddingQAFinetuneDataset,
    EncodingError,
    LinearLayer,
    LowRankAdapter,
    ModelFolderError,
    OutputError,
    TwoLayerNN,
    load_finetuned_model,
)
from llama_index.finetuning.embeddings.encoding import encode
from llama_index.finetuning.embeddings.files import atomic_file, atomic_folder, check_writable
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal, Key
from llama_index.finetuning.embeddings.generation.older import questions_of, read_older

sys.path.insert(0, str(Path(__file__).with_name("fuzz")))
import fuzz

DATASET = {"queries": {"q": "x"}, "corpus": {"d": "y"}, "relevant_docs": {"q": ["d"]}}
TARGETS = (
    "dataset",
    "beir",
    "journal",
    "linear adapter",
    "two-layer adapter",
    "retired adapter",
    "full model",
    "record",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Return the readers and their valid inputs."""
    return {one.name: one for one in fuzz.targets(tmp_path_factory.mktemp("seeds"))}


@pytest.mark.parametrize("name", TARGETS)
def test_a_fixed_part_of_the_fuzzing(targets, name, tmp_path):
    """The valid input is read; damaged ones, the same ones each time, are read or refused."""
    target = targets[name]
    for file, data in target.files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
    target.read(tmp_path)
    outcomes = {fuzz.run_case(target, seed) for seed in range(60)}
    assert len(outcomes) > 1


def test_the_fuzzing_sees_other_errors_hangs_and_executed_code(targets, monkeypatch):
    """A reader that fails in another way, never ends or starts a program is found."""
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def endless(folder):
        while True:
            pass

    bad = [lambda folder: {}["x"], lambda folder: os.system("true")]
    for read in [*bad, *([endless] if hasattr(fuzz.signal, "SIGALRM") else [])]:
        with pytest.raises(AssertionError, match="dataset, seed 1"):
            fuzz.run_case(targets["dataset"]._replace(read=read), 1)


def write_json(folder, value):
    """Write a file and return its path."""
    path = folder / "dataset.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


WHOLE = json.dumps(DATASET)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 200_000, "holds no whole JSON"),
        (WHOLE[:-1] + ', "more": ' + '{"a":' * 100_000, "holds no whole JSON"),
        (WHOLE[:-1] + ', "more": ' + "9" * 5000 + "}", "holds no whole JSON"),
        (WHOLE.replace('"x"', "NaN"), r"queries\.q \(float\)"),
        (WHOLE.replace('"x"', "9" * 40), r"queries\.q \(int\)"),
        (WHOLE.replace('["d"]', '"d"'), r"relevant_docs\.q \(str\)"),
        (WHOLE.replace('["d"]', "[1]"), r"relevant_docs\.q\.0 \(int\)"),
        ({**DATASET, "queries": []}, r"queries \(list\)"),
        ({**DATASET, "mode": ["text"]}, r"mode \(list\)"),
        ({**DATASET, "hard_negatives": {"q": {"d": 1}}}, r"hard_negatives\.q \(dict\)"),
        ({**DATASET, "queries": {"q": "\ud800"}}, "1 entries of 'queries' hold half of a surr"),
        ({**DATASET, "corpus": {"d": "y", "\ud800": "z"}}, "1 entries of 'corpus' hold half of"),
    ],
)
def test_hostile_dataset_files(tmp_path, content, message):
    """Depth, size, wrong types and half characters are errors that name the place."""
    with pytest.raises(DatasetError, match=message):
        EmbeddingQAFinetuneDataset.from_json(write_json(tmp_path, content))


def test_strange_dataset_files_that_are_fine(tmp_path):
    """Unknown names, even Python's own, are ignored; of equal keys the last one counts.

    Half characters where they are ignored are kept, and can be written.
    """
    more = {"self": 1, "__init__": 2, "model_config": 3, "": 4}
    dataset = EmbeddingQAFinetuneDataset.from_json(write_json(tmp_path, {**DATASET, **more}))
    assert dataset == EmbeddingQAFinetuneDataset(**DATASET)
    twice = WHOLE.replace('{"q": "x"}', '{"q": "first", "q": "last"}')
    assert EmbeddingQAFinetuneDataset.from_json(write_json(tmp_path, twice)).queries["q"] == "last"
    nul = WHOLE.replace('"x"', '"a\\u0000b"')
    assert EmbeddingQAFinetuneDataset.from_json(write_json(tmp_path, nul)).queries["q"] == "a\0b"
    ignored = {**DATASET, "hard_negatives": {"z": ["\ud800"]}}
    dataset = EmbeddingQAFinetuneDataset.from_json(write_json(tmp_path, ignored))
    dataset.save_json(tmp_path / "again.json")
    assert EmbeddingQAFinetuneDataset.from_json(tmp_path / "again.json") == dataset


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "."])
@pytest.mark.parametrize("read", ["from_json", "from_beir"])
def test_paths_that_hold_no_dataset(read, path):
    """A path that can't be one, or a folder of something else, is an error that names it."""
    with pytest.raises(DatasetFileError, match="^'"):
        getattr(EmbeddingQAFinetuneDataset, read)(path)


def beir(folder, corpus='{"_id": "d", "text": "y"}', qrels="q\td\t1\n"):
    """Write a BEIR folder of one query."""
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(qrels)
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    (folder / "corpus.jsonl").write_text(corpus + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": "[" * 200_000}, r"Line 1 of .*corpus\.jsonl"),
        ({"corpus": '{"_id": ["d"], "text": "y"}'}, "'_id' is no text"),
        ({"corpus": '{"_id": "d", "text": {"a": 1}}'}, "'text' is no text"),
        ({"corpus": '{"_id": "d", "text": "y", "title": [1]}'}, "'title' is no text"),
        ({"corpus": '{"_id": "d", "text": ' + "9" * 5000 + "}"}, "Line 1 of"),
        ({"qrels": "q\td\tnan\n"}, "Row 1 of .* must be a query id, a document id and a number"),
        ({"qrels": "q\td\n"}, "Row 1 of"),
        ({"qrels": "q\td\t1\t1\n"}, "Row 1 of"),
    ],
)
def test_hostile_beir_folders(tmp_path, files, message):
    """A wrong place in a line or a row is named."""
    with pytest.raises(DatasetFileError, match=message):
        EmbeddingQAFinetuneDataset.from_beir(beir(tmp_path, **files))


def test_beir_as_it_occurs(tmp_path):
    """Ids may be numbers, and a text or a title null."""
    folder = beir(
        tmp_path,
        corpus='{"_id": 7, "text": "y", "title": null}\n{"_id": "e", "text": null}',
        qrels="q\t7\t1\n",
    )
    assert EmbeddingQAFinetuneDataset.from_beir(folder).corpus == {"7": "y"}


def test_a_folder_in_place_of_the_judgements(tmp_path):
    """A folder named like the file is an error that names it."""
    (beir(tmp_path) / "qrels" / "test.tsv").unlink()
    (tmp_path / "qrels" / "test.tsv").mkdir()
    with pytest.raises(DatasetFileError, match=r"test\.tsv' can't be read: Is a directory"):
        EmbeddingQAFinetuneDataset.from_beir(tmp_path)


@pytest.mark.parametrize("split", ["../../x", "..", "", "a/b", "a\\b", "a\0b"])
def test_a_split_is_written_below_its_folder(tmp_path, split):
    """A split that is a path is refused before anything is written, and none such is read."""
    with pytest.raises(ConfigurationError, match="'split' must be a plain name"):
        tiny_dataset().to_beir(tmp_path / "out", split)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigurationError, match="'split' must be in"):
        EmbeddingQAFinetuneDataset.from_beir(beir(tmp_path), split)


GOOD = {"node_id": "n", "content": "c", "prompt": "p", "model": "m", "response": "r"}


@pytest.mark.parametrize(
    "line",
    [
        "[" * 200_000,
        "9" * 5000,
        "null",
        '"n"',
        "[1]",
        json.dumps({**GOOD, "response": None}),
        json.dumps({**GOOD, "response": "\ud800"}),
        json.dumps({**GOOD, "node_id": ["n"]}),
        json.dumps({**GOOD, "questions": 3}),
        json.dumps({**GOOD, "questions": [["q"]]}),
        json.dumps({**GOOD, "questions": [[1, "x"]]}),
    ],
)
def test_hostile_journal_lines(tmp_path, line, caplog):
    """A line of something else is skipped and counted; those around it are read."""
    path = tmp_path / "journal.jsonl"
    around = [json.dumps({**GOOD, "node_id": one}) for one in ("before", "after")]
    path.write_text(f"{around[0]}\n{line}\n{around[1]}\n")
    keys = {Key(one, "c", "p", "m") for one in ("n", "before", "after")}
    with Journal(path) as journal:
        entries, _ = journal.read(keys)
    assert entries == [(Key(one, "c", "p", "m"), Entry("r")) for one in ("before", "after")]
    assert "1 lines of" in caplog.text


def test_a_journal_that_is_a_folder_or_no_path(tmp_path):
    """Both are errors that name the journal."""
    for path in (tmp_path, tmp_path / "a\0b"):
        with pytest.raises(OutputError, match="The journal .* can't be written"):
            Journal(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("queries", {"q": 1}), ("corpus", {"d": None}), ("relevant_docs", {"q": 5})],
)
def test_older_files_with_wrong_types(tmp_path, field, value):
    """Questions are taken over from a dataset only, and half characters stay behind."""
    path = write_json(tmp_path, {**DATASET, field: value})
    with pytest.raises(DatasetFileError, match="not overwritten"):
        read_older(path)
    path = write_json(tmp_path, {**DATASET, "queries": {"q": "x", "\ud800": "z"}})
    assert list(questions_of(read_older(path), set())) == [("d", "y", (("q", "x"),))]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def retired(folder):
    """Write a retired adapter's configuration."""
    folder.mkdir()
    config = {"in_features": 2, "out_features": 2, "bias": False}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("form", ["pickle", "torch", "inside"])
def test_a_pickle_bomb(tmp_path, form):
    """A payload in pytorch_model.bin is refused, in each of its forms, and does not run."""
    folder, trace = retired(tmp_path / "a"), tmp_path / "executed"
    payload = Payload(trace)
    weights = folder / "pytorch_model.bin"
    if form == "pickle":
        weights.write_bytes(pickle.dumps(payload, protocol=2))
    elif form == "torch":
        torch.save(payload, weights)
    else:
        torch.save({"linear.weight": torch.eye(2), "more": payload}, weights)
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin can't be read"):
        load_finetuned_model(folder, HashEmbedding(dim=2))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"linear.weight": 3}, "holds no weights"),
        ({3: torch.eye(2)}, "holds no weights"),
        ({"linear.weight": torch.eye(2).to(torch.int64)}, "holds no weights"),
        ({"linear.weight": torch.eye(2).to_sparse()}, "holds no weights"),
        ({"linear.weight": torch.empty(2, 2, device="meta")}, "holds no weights"),
        ({"linear.weight": torch.ones(1).expand(10**5, 10**5)}, "claims more weights"),
        ({"linear.weight": torch.full((2, 2), float("nan"))}, "NaN or infinity"),
        ({}, "asks for more"),
    ],
)
def test_hostile_retired_weights(tmp_path, weights, message):
    """What is no plain finite tensor, or claims to be larger than its file, is refused."""
    folder = retired(tmp_path / "a")
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=message):
        LinearLayer.load(folder)


def with_config(folder, **changes):
    """Save an adapter and change its config.json."""
    LinearLayer(4, 4).save(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_class": "os.system"}, "class 'os.system', which is not of this package"),
        ({"adapter_class": "TwoLayerNN"}, "arguments .* are not those of TwoLayerNN"),
        ({"adapter_class": ["LinearLayer"]}, r"'adapter_class' is \['LinearLayer'\]"),
        ({"adapter_class": None}, "'adapter_class' is None"),
        ({"adapter_config": {"self": 1}}, "arguments .* are not those of LinearLayer"),
        ({"adapter_config": {"in_features": "4", "out_features": 4}}, "arguments .* are not"),
        ({"adapter_config": {"in_features": 0, "out_features": 4}}, "must be at least 1"),
        ({"adapter_config": {"in_features": 10**6, "out_features": 10**6}}, "asks for more than"),
        ({"adapter_config": {"in_features": 10**30, "out_features": 4}}, "arguments .* are not"),
        ({"base_model": ["x"]}, "'base_model' is"),
        ({"base_settings": []}, "'base_settings' is no object"),
        ({"base_settings": {"trust_remote_code": True}}, "'trust_remote_code': True"),
        ({"base_settings": {"max_length": "1"}}, "'max_length': '1'"),
        ({"dimension": "4"}, "'dimension' is '4'"),
        ({"dimension": True}, "'dimension' is True"),
        ({"dimension": -1}, "'dimension' is -1"),
        ({"dimension": 5}, "for vectors of 4 dimensions and says that it is for 5"),
        ({"transform": {"query": 1}}, "'transform' is"),
    ],
)
def test_hostile_adapter_configurations(tmp_path, changes, message):
    """Another class, other sizes, other types or settings than ours are refused by name."""
    with pytest.raises(ModelFolderError, match=message):
        load_finetuned_model(with_config(tmp_path / "a", **changes), HashEmbedding(dim=4))


@pytest.mark.parametrize(
    ("adapter", "sizes"),
    [
        (LowRankAdapter(4, 2), {"in_features": 10**6, "rank": 10**5}),
        (TwoLayerNN(4, 3, 4), {"hidden_features": 10**9}),
    ],
)
def test_huge_sizes_take_no_memory(tmp_path, adapter, sizes):
    """Sizes that the weights do not bear out are refused before memory is taken for them."""
    adapter.save(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    config["adapter_config"] |= sizes
    path.write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match="asks for more than there are"):
        type(adapter).load(tmp_path / "a")


def header(shape, end, dtype="F32"):
    """Return the start of a safetensors file with one tensor."""
    text = json.dumps({"linear.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}})
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 10 * 2**30) + b"{}",
        struct.pack("<Q", 2**64 - 1),
        header([50_000, 50_000], 10 * 10**9),
        header([2**62, 4], 64) + bytes(64),
        header([4, 4], 64, dtype="PICKLE") + bytes(64),
        struct.pack("<Q", 200_000) + b"[" * 200_000,
        b"",
    ],
)
def test_hostile_safetensors(tmp_path, content):
    """Headers that claim 10 GB, overflow, or hold something else are refused."""
    LinearLayer(4, 4).save(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors can't be read"):
        LinearLayer.load(tmp_path / "a")


def test_weights_that_are_not_finite(tmp_path):
    """NaN in the weights is found when they are loaded; too large ones when they are used."""
    adapter = LinearLayer(4, 4)
    with torch.no_grad():
        adapter.linear.weight[0, 0] = float("nan")
    adapter.save(tmp_path / "a")
    with pytest.raises(ModelFolderError, match="they hold NaN or infinity"):
        LinearLayer.load(tmp_path / "a")
    for number in (3e38, 0.0):
        torch.nn.init.constant_(adapter.linear.weight, number)
        adapter.save(tmp_path / "a")
        model = AdapterEmbeddingModel(HashEmbedding(dim=4), str(tmp_path / "a"), device="cpu")
        with pytest.raises(EncodingError, match="a vector that is not finite, or zero"):
            model.get_query_embedding("amber")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_folders_in_place_of_an_adapters_files(tmp_path, name):
    """A folder named like a file is no adapter."""
    LinearLayer(4, 4).save(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    (tmp_path / "a" / name).mkdir()
    with pytest.raises(ModelFolderError, match="is no adapter folder"):
        LinearLayer.load(tmp_path / "a")


@pytest.fixture
def full_model(targets, tmp_path):
    """Return a valid folder of a full model."""
    for name, data in targets["full model"].files.items():
        (tmp_path / "full" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "full" / name).write_bytes(data)
    return tmp_path / "full"


def change(path, edit):
    """Change a JSON file."""
    value = json.loads(path.read_text("utf-8"))
    edit(value)
    path.write_text(json.dumps(value), "utf-8")


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("modules.json", lambda v: v[0].update(type="evil.Evil"), "names the class 'evil.Evil'"),
        ("modules.json", lambda v: v[0].update(type="os.system"), "names the class 'os.system'"),
        ("modules.json", lambda v: v[2].update(path="../other"), "outside of its folder"),
        ("modules.json", lambda v: v[2].update(path="/etc"), "outside of its folder"),
        ("modules.json", lambda v: v[0].pop("type"), "can't be loaded"),
        (
            "2_Dense/config.json",
            lambda v: v.update(activation_function="evil.Evil"),
            "names the class 'evil.Evil'",
        ),
        ("finetuning.json", lambda v: v.update(prompts=[1]), "'prompts' is no object of texts"),
        ("finetuning.json", lambda v: v.update(prompts={"query": 5}), "no object of texts"),
        ("model.safetensors", None, "can't be loaded"),
    ],
)
def test_hostile_full_models(full_model, tmp_path, file, edit, message):
    """A class of its own, files elsewhere or a damaged record are refused; no code runs."""
    trace = tmp_path / "executed"
    (full_model / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    if edit is None:
        (full_model / file).write_bytes(b"{}")
    else:
        change(full_model / file, edit)
    with pytest.raises(ModelFolderError, match=message):
        load_finetuned_model(full_model, device="cpu")
    assert not trace.exists()


def test_the_base_of_an_adapter_runs_no_code_either(full_model, tmp_path):
    """An adapter's folder names its base, which may be a hostile folder as well."""
    trace = tmp_path / "executed"
    (full_model / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: pass\n")
    change(full_model / "modules.json", lambda value: value[0].update(type="evil.Evil"))
    base = {"base_class": "HuggingFaceEmbedding", "base_model": str(full_model)}
    with pytest.raises(ModelFolderError, match=r"names the class 'evil\.Evil'"):
        load_finetuned_model(with_config(tmp_path / "a", **base))
    assert not trace.exists()


def test_trusted_code_is_not_refused(full_model):
    """With trust_remote_code the class is looked for, and its absence is what is wrong."""
    change(full_model / "modules.json", lambda value: value[0].update(type="missing.Module"))
    with pytest.raises(ModelFolderError, match="can't be loaded .*missing"):
        load_finetuned_model(full_model, device="cpu", trust_remote_code=True)


def test_a_record_is_read_as_it_is(full_model):
    """Names in the record's list of files can't reach beyond the folder."""
    change(full_model / "finetuning.json", lambda v: v.update(files=["../keep", "..", "/", [1]]))
    (full_model.parent / "keep").write_text("mine")
    with atomic_folder(full_model) as folder:
        (folder / "new").write_text("new")
    assert (full_model.parent / "keep").read_text() == "mine"
    assert (full_model / "modules.json").exists()


@pytest.mark.parametrize("place", ["a\0b", "a" * 300, "loop", "taken", "taken/below"])
def test_outputs_that_can_not_be(tmp_path, place):
    """No path, a name too long, a loop of links, a file: an error at once, nothing is lost."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "taken").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError):
        check_writable(tmp_path / place, name="out")
    with pytest.raises(OutputError):
        LinearLayer(2, 2).save(tmp_path / place)
    if place != "taken":
        with pytest.raises(OutputError):
            tiny_dataset().save_json(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("place", [".", "..", "", "model/..", "/"])
def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch, place):
    """Replacing the folder that one stands in, or one above it, is refused."""
    (tmp_path / "here" / "model").mkdir(parents=True)
    (tmp_path / "here" / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="it is the current one, or holds it"):
        LinearLayer(2, 2).save(place)
    assert (tmp_path / "here" / "mine").read_text() == "mine"


def test_linked_outputs(tmp_path):
    """A linked file stays a link, and what it points to is replaced, as for folders."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    tiny_dataset().save_json(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert EmbeddingQAFinetuneDataset.from_json(tmp_path / "real.json") == tiny_dataset()


def test_long_and_undecodable_names(tmp_path):
    """The longest name that the system takes can be written, and half characters be recorded."""
    with atomic_file(tmp_path / ("ü" * 127)) as stream:
        stream.write(json.dumps({"name": "caf\udce9"}, ensure_ascii=False))
    assert json.loads((tmp_path / ("ü" * 127)).read_bytes()) == {"name": "caf\udce9"}


@pytest.mark.parametrize("blob", [None, "text", b"", b"123", 7])
def test_a_cache_of_something_else(tmp_path, blob):
    """What is no vector in a cache is an error that says what to do."""
    encode(HashEmbedding(dim=4), ["amber"], "text", cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE vectors SET vector = ?", [blob])
    connection.close()
    with pytest.raises(EncodingError, match="is no cache of vectors .* Delete it"):
        encode(HashEmbedding(dim=4), ["amber"], "text", cache_dir=tmp_path)
