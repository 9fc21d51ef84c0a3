"""Full disks, kills, interruptions and several at once: what was finished is kept and whole."""

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fakes
import numpy as np
import pytest
import torch
from fakes import HashEmbedding, tiny_dataset
from faults import each_failure, needs_write_limit, writes_end_at
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode

from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    EncodingError,
    GenerationError,
    LinearLayer,
    OutputError,
    compare_retrieval,
    files,
    generate_qa_embedding_pairs,
)
from llama_index.finetuning.embeddings.encoding import encode
from llama_index.finetuning.embeddings.files import output_lock
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal, Key

TESTS = str(Path(__file__).parent)
REASONS = {errno.ENOSPC: "No space left on device", errno.EACCES: "Permission denied"}


def names(folder):
    """Return what a folder holds."""
    return sorted(entry.name for entry in folder.iterdir())


def contents(path):
    """Return a file's bytes, or those of all files in a folder."""
    if path.is_file():
        return path.read_bytes()
    files = [one for one in path.rglob("*") if one.is_file()]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def report_writer():
    """Return a function that writes a report as a page."""
    report = compare_retrieval({"base": HashEmbedding(), "new": HashEmbedding()}, tiny_dataset())
    return report.save_html


WRITERS = {
    "dataset": lambda: tiny_dataset().save_json,
    "report": report_writer,
    "adapter": lambda: LinearLayer(4, 4).save,
    "beir": lambda: tiny_dataset().to_beir,
}


@pytest.mark.parametrize("code", REASONS)
@pytest.mark.parametrize("in_one_call", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_each_file_operation_fails_in_turn(kind, in_one_call, code, tmp_path, monkeypatch):
    """The old output is as it was, no temporary file is left, and the error names the cause."""
    if not in_one_call:
        monkeypatch.setattr(files, "_rename_exchange", lambda one, other: False)
    write = WRITERS[kind]()
    write(tmp_path / "new")
    is_folder = (tmp_path / "new").is_dir()
    path = tmp_path / "here" / "out"
    old = {"mine": b"mine"} if is_folder else b"old"
    new = contents(tmp_path / "new")
    new = {**new, **old} if is_folder else new

    def prepare():
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        if is_folder:
            path.mkdir()
            (path / "mine").write_text("mine")
        else:
            path.write_text("old")

    failures = 0
    for error in each_failure(prepare, lambda: write(path), path.parent, code):
        assert names(path.parent) == ["out"]
        if error is None:  # what failed does not matter: reading a record that is not there
            assert contents(path) == new
            continue
        failures += 1
        assert isinstance(error, OutputError)
        assert str(path) in str(error)
        assert REASONS[code] in str(error)
        assert contents(path) == old
    assert failures >= 2 + (not is_folder)  # at least opening, syncing and renaming a file
    assert contents(path) == new


@needs_write_limit
@pytest.mark.parametrize("size", [0, 1, 40, 130])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_ends_in_the_middle(kind, size, tmp_path):
    """A file that the system lets grow no further leaves the old output as it was."""
    write = WRITERS[kind]()
    write(tmp_path / "out")
    old = contents(tmp_path / "out")
    with writes_end_at(size), pytest.raises(OutputError, match=r"out.*File too large"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert contents(tmp_path / "out") == old


@needs_write_limit
def test_a_journal_whose_disk_is_full(tmp_path):
    """A line that does not fit is taken back; a later one that does is whole."""
    path = tmp_path / "journal.jsonl"
    keys = [Key(f"n{i}", "c", "p", "m") for i in range(3)]
    with Journal(path) as journal:
        journal.add(keys[0], Entry("short"))
        size = path.stat().st_size
        with writes_end_at(size + 100):
            with pytest.raises(OutputError, match=r"journal\.jsonl.*File too large"):
                journal.add(keys[1], Entry("long" * 100))
            assert path.stat().st_size == size
            journal.add(keys[2], Entry("short"))
    with Journal(path) as journal:
        assert [key for key, _ in journal.read(keys)[0]] == [keys[0], keys[2]]


class LLM(CustomLLM):
    """Asks one question about each text, and does something else about those of ``acts``."""

    api_key: str = ""
    acts: dict = {}  # noqa: RUF012 - pydantic copies it
    asked: list = []  # noqa: RUF012

    @property
    def metadata(self):
        return LLMMetadata(model_name="m")

    def complete(self, prompt, formatted=False, **kwargs):
        self.asked.append(prompt)
        if prompt in self.acts:
            raise self.acts[prompt]
        return CompletionResponse(text=f"Who is {prompt}?")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


class AsyncLLM(LLM):
    """The same with an async API of its own."""

    async def acomplete(self, prompt, formatted=False, **kwargs):
        await asyncio.sleep(0)
        return self.complete(prompt)


PEOPLE = ("person one", "person two", "person three")
NODES = [TextNode(id_=f"n{i}", text=text) for i, text in enumerate(PEOPLE)]


def generate(llm, folder, **kwargs):
    """Generate one question for each person."""
    return generate_qa_embedding_pairs(
        NODES,
        llm,
        "{context_str}",
        1,
        output_path=folder / "set.json",
        verbose=False,
        num_workers=1,
        retry_wait=0,
        **kwargs,
    )


@needs_write_limit
def test_generation_on_a_full_disk_goes_on_later(tmp_path):
    """The answers that were written before the disk was full are not paid for again."""
    with writes_end_at(300), pytest.raises(OutputError, match="File too large"):
        generate(LLM(), tmp_path)
    assert names(tmp_path) == [".set.json.lock", "set.json.journal.jsonl"]
    n_kept = len((tmp_path / "set.json.journal.jsonl").read_bytes().splitlines())
    llm = LLM(asked=[])
    assert len(generate(llm, tmp_path).queries) == 3
    assert 0 < n_kept < 3
    assert len(llm.asked) == 3 - n_kept


@pytest.mark.parametrize("llm_class", [LLM, AsyncLLM])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_llm_that_is_interrupted_or_exits(tmp_path, llm_class, error):
    """The caller gets the interruption, the answers before it are kept, a later call works."""
    with pytest.raises(type(error)):
        generate(llm_class(acts={PEOPLE[1]: error}), tmp_path)
    assert names(tmp_path) == [".set.json.lock", "set.json.journal.jsonl"]
    llm = llm_class(asked=[])
    assert list(generate(llm, tmp_path).queries.values()) == [f"Who is {one}?" for one in PEOPLE]
    assert llm.asked == list(PEOPLE[1:])


@pytest.mark.parametrize("failing", PEOPLE)
def test_an_llm_that_fails(tmp_path, failing):
    """The error names the node and the cause, and the other answers are kept."""
    llm = LLM(acts={failing: ValueError("no such model")}, asked=[])
    with pytest.raises(GenerationError, match=r"'n\d' failed .ValueError: no such model"):
        generate(llm, tmp_path, on_failure="fail")
    before = llm.asked.index(failing)
    llm = LLM(asked=[])
    generate(llm, tmp_path)
    assert llm.asked == list(PEOPLE[before:])


CTRL_C = """
import asyncio, os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_faults import LLM, PEOPLE, generate

# A process that was started in the background ignores it otherwise.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Waiting(LLM):
    async def acomplete(self, prompt, formatted=False, **kwargs):
        await asyncio.sleep(0)
        if prompt == PEOPLE[1]:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        return self.complete(prompt)

generate(Waiting(), Path({folder!r}))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_while_an_llm_is_waited_for(tmp_path):
    """The process ends with KeyboardInterrupt, and the first answer is in the journal."""
    code = CTRL_C.format(tests=TESTS, folder=str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt"), ended.stderr
    (line,) = (tmp_path / "set.json.journal.jsonl").read_text().splitlines()
    assert json.loads(line)["node_id"] == "n0"


class Failing(HashEmbedding):
    """Raises at the nth call, counted from 1, and never for 0: the same model to a cache."""

    def __init__(self, n, error, **kwargs):
        super().__init__(**kwargs)
        object.__setattr__(self, "_plan", SimpleNamespace(left=n, lock=threading.Lock()))
        object.__setattr__(self, "_error", error)

    def _get_text_embeddings(self, texts):
        with self._plan.lock:
            self._plan.left -= 1
            if self._plan.left == 0:
                raise self._error
        return super()._get_text_embeddings(texts)


WORDS = ["five five", "four 444", "three 3", "two tw", "one 1"]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [ValueError("quota used up"), KeyboardInterrupt()])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_base_embedding_fails_at_the_nth_call(n, error, workers, tmp_path):
    """Every other call's vector is in the cache, and the error names the cause."""
    model = Failing(n, error)
    options = {"batch_size": 1, "num_workers": workers, "cache_dir": tmp_path}
    refused = isinstance(error, ValueError)
    with pytest.raises(
        EncodingError if refused else KeyboardInterrupt, match="quota used up" if refused else None
    ):
        encode(model, WORDS, "text", **options)
    again = Failing(0, None)
    vectors = encode(again, WORDS, "text", **options)
    assert sorted(again.texts_seen) == sorted(set(WORDS) - set(model.texts_seen))
    assert np.allclose(vectors, [again.vector(text) for text in WORDS], atol=1e-6)
    if workers == 1:
        assert model.texts_seen == WORDS[: n - 1]


@needs_write_limit
def test_a_cache_whose_disk_is_full(tmp_path):
    """The error says so; the vectors before it stay, and the file takes more later."""
    texts = [f"text {i}" for i in range(60)]
    options = {"batch_size": 10, "cache_dir": tmp_path}
    encode(HashEmbedding(dim=256), texts[:10], "text", **options)
    with writes_end_at(40_000), pytest.raises(OutputError, match="cache .* can't be used"):
        encode(HashEmbedding(dim=256), texts, "text", **options)
    model = HashEmbedding(dim=256)
    vectors = encode(model, texts, "text", **options)
    assert 0 < len(model.texts_seen) <= 50
    assert np.allclose(vectors, [model.vector(text) for text in texts], atol=1e-6)


TWO_WRITERS = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from fakes import HashEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.finetuning.embeddings.encoding import encode

# Of LlamaIndex's class, as a class of its own would have a cache of its own.
embed = BaseEmbedding.get_text_embedding_batch

def telling(self, texts, **kwargs):
    os.write(PIPE, b"x")
    return embed(self, texts, **kwargs)

BaseEmbedding.get_text_embedding_batch = telling

def start(texts, folder, to_be_killed):
    global PIPE
    ours, PIPE = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        encode(HashEmbedding(dim=64), texts, "text", batch_size=2, cache_dir=folder)
        while to_be_killed:
            signal.pause()
        os._exit(0)
    os.close(PIPE)
    return child, ours

for turn in range(5):
    folder = os.path.join({folder!r}, str(turn))
    texts = [f"text {{i}}" for i in range(100)]
    killed, pipe = start(texts[:70], folder, True)
    other, other_pipe = start(texts[30:], folder, False)
    os.read(other_pipe, 1)
    for _ in range(1 + 3 * turn):  # of at least 15, for the texts that are its alone
        os.read(pipe, 1)
    os.kill(killed, signal.SIGKILL)
    assert os.waitpid(killed, 0)[1] == signal.SIGKILL
    while os.read(other_pipe, 100):
        pass
    assert os.waitpid(other, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_cache_under_two_writers_one_of_them_killed(tmp_path):
    """Two processes write at once and one is killed, five times: every file stays whole."""
    code = TWO_WRITERS.format(tests=TESTS, folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    texts = [f"text {i}" for i in range(100)]
    for turn in range(5):
        (file,) = (tmp_path / str(turn)).glob("*.sqlite")
        with contextlib.closing(sqlite3.connect(file)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        model = HashEmbedding(dim=64)
        vectors = encode(model, texts, "text", cache_dir=file.parent)
        assert np.allclose(vectors, [model.vector(text) for text in texts], atol=1e-6)
        assert not set(model.texts_seen) & set(texts[30:])  # the survivor's are all there


OPENED_AT_ONCE = """
import os, sys
from llama_index.finetuning.embeddings.encoding.cache import VectorCache

for turn in range(20):
    waiting, start = os.pipe()
    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            os.close(start)
            os.read(waiting, 1)
            VectorCache(os.path.join(sys.argv[1], str(turn)), "model")
            os._exit(0)
    os.close(waiting)
    os.close(start)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_new_cache_opened_by_several_at_once(tmp_path):
    """Four processes make the same new file at the same time: none of them is turned away."""
    subprocess.run([sys.executable, "-c", OPENED_AT_ONCE, str(tmp_path)], check=True, timeout=120)


LOCKED = """
import sys
from llama_index.finetuning.embeddings.files import output_lock
with output_lock(sys.argv[1], name="model_output_path"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def locking(folder):
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"locked\n"
    return process


def held(folder):
    """Tell whether somebody else holds the lock."""
    try:
        with output_lock(folder, name="model_output_path"):
            return False
    except OutputError as error:
        return f"'model_output_path' must not be in use (got {str(folder)!r}" in str(error)


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_and_one_output(tmp_path, killed):
    """The second is refused at once; when the first has ended, or was killed, it is not."""
    first = locking(tmp_path / "new" / "model")
    with first:
        assert held(tmp_path / "new" / "model")
        assert not held(tmp_path / "new" / "other")
        if killed:
            first.kill()
        else:
            first.stdin.close()
        assert first.wait(60) == (-signal.SIGKILL if killed and os.name != "nt" else 0)
    assert not held(tmp_path / "new" / "model")
    assert names(tmp_path / "new") == [".model.lock", ".other.lock"]


def test_two_runs_in_one_process(tmp_path):
    """The same holds within a process, whatever the path is called, in threads too."""
    (tmp_path / "link").symlink_to("model")
    with output_lock(tmp_path / "model", name="out"):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(held, tmp_path / "model").result()
        assert held(tmp_path / "link")
        assert held(tmp_path / "x" / ".." / "model")
        LinearLayer(2, 2).save(tmp_path / "model")
        assert held(tmp_path / "model")
    assert not held(tmp_path / "model")


def test_the_lock_ends_with_an_error(tmp_path):
    """A run that failed leaves no lock, and its error comes out as it is."""

    def run():
        with output_lock(tmp_path / "model", name="out"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run()
    assert not held(tmp_path / "model")


@pytest.mark.parametrize("place", ["taken", "taken/model", "."])
def test_outputs_that_can_not_be_locked(tmp_path, monkeypatch, place):
    """A file, a place below one and the current folder are refused by the lock already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError), output_lock(place, name="out"):
        pass
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("kind", ["fake", "bert"])
def test_sixteen_threads_and_asyncio_at_once(kind, tiny_bert_dir, tmp_path):
    """One model used from all of them gives the vectors that it gives alone."""
    base = HashEmbedding(dim=32)
    if kind == "bert":
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    adapter = LinearLayer(32, 32)
    with torch.no_grad():
        adapter.linear.weight.add_(torch.rand(32, 32, generator=torch.Generator().manual_seed(0)))
    adapter.save(tmp_path / "a")
    model = AdapterEmbeddingModel(base, str(tmp_path / "a"), device="cpu")
    texts = [f"amber {word} {' castle' * (i % 5)}" for i, word in enumerate(fakes.WORDS)]
    queries = [model.get_query_embedding(text) for text in texts]
    passages = [model.get_text_embedding(text) for text in texts]
    barrier = threading.Barrier(17)

    def in_a_thread(turn):
        barrier.wait(60)
        if turn % 2:
            return queries, [model.get_query_embedding(text) for text in texts]
        return passages, model.get_text_embedding_batch(texts)

    async def side_by_side():
        barrier.wait(60)
        found = await asyncio.gather(
            asyncio.gather(*(model.aget_query_embedding(text) for text in texts)),
            model.aget_text_embedding_batch(texts),
        )
        return list(zip((queries, passages), found, strict=True))

    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(in_a_thread, turn) for turn in range(16)]
        pairs = [*asyncio.run(side_by_side()), *(one.result() for one in running)]
    assert len(pairs) == 18
    for expected, found in pairs:
        assert np.allclose(found, expected, atol=1e-5)
