"""Feed damaged and hostile files to every reader: a valid object or one of our errors, no more.

By hand: ``python tests/fuzz/fuzz.py --minutes 10``. It goes through all readers in turn, says
which seed led to a failure and ends with status 1; ``--seed N --only NAME`` repeats that case.
The fast suite runs a fixed part of it.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from conftest import _word_level_tokenizer, upstream_modules
from fakes import HashEmbedding, tiny_dataset

from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    EmbeddingQAFinetuneDataset,
    FinetuningError,
    LinearLayer,
    TwoLayerNN,
    load_finetuned_model,
)
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal, Key
from llama_index.finetuning.embeddings.report.training import training_curve

DIM = 4
SECONDS = 20  # for one case: a hang is a failure
# What no reader has a reason to do.
FORBIDDEN = ("os.exec", "os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.")


# What a run writes down of its course.
RECORD = {
    "training_log": [
        {"step": 10, "loss": 2.5},
        {"step": 20, "eval_cosine_ndcg@10": 0.75},
        {"train_runtime": 3.0},
    ],
    "metrics": {"before": {"ndcg@10": 0.5}},
}


class Target(NamedTuple):
    """A reader, and the files of a valid input."""

    name: str
    files: dict[str, bytes]
    read: Callable[[Path], Any]


# Pieces of JSON that readers stumble over, as they stand in a file.
PIECES = (
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "NaN",
    "9" * 30,
    "9" * 5000,
    '""',
    '" "',
    '"\\ud800"',
    '"\\u0000"',
    '"../../etc/passwd"',
    '"os.system"',
    "[]",
    "{}",
    "[[]]",
    '{"self": 1}',
    '{"a": {"b": null}}',
    "[" * 100_000,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000 + "1" + "}" * 3000,
)
BYTES = (b"\0", b"\xff", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b'"', b"{", b"]", b"\x7f" * 8)
_PLACE = '"@{}@"'


def targets(folder: Path) -> list[Target]:
    """Write a valid input for each reader, and return them."""
    dataset = tiny_dataset(3, 2)
    dataset.save_json(folder / "dataset.json")
    dataset.to_beir(folder / "beir")
    with Journal(folder / "journal.jsonl") as journal:
        journal.add(Key("n1", "c", "p", "m"), Entry("1. Who is Ann?"))
        journal.add(Key("n2", "c", "p", "m"), Entry(questions=(("q1", "Who is Bob?"),)))
    LinearLayer(DIM, DIM).save(folder / "linear")
    TwoLayerNN(DIM, 3, DIM, add_residual=True).save(folder / "two-layers")
    retired(folder / "retired")
    full_model(folder / "full")
    (folder / "finetuning.json").write_text(json.dumps(RECORD))
    return [
        Target("dataset", files_of(folder / "dataset.json"), read_dataset),
        Target("beir", files_of(folder / "beir"), read_beir),
        Target("journal", files_of(folder / "journal.jsonl"), read_journal),
        Target("linear adapter", files_of(folder / "linear"), read_adapter),
        Target("two-layer adapter", files_of(folder / "two-layers"), read_adapter),
        Target("retired adapter", files_of(folder / "retired"), read_adapter),
        Target("full model", files_of(folder / "full"), read_full_model),
        Target("record", files_of(folder / "finetuning.json"), read_record),
    ]


def retired(folder: Path) -> None:
    """Write an adapter as the retired package did."""
    import torch

    folder.mkdir()
    config = {"in_features": DIM, "out_features": DIM, "bias": False}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"linear.weight": torch.eye(DIM)}, folder / "pytorch_model.bin")


def full_model(folder: Path) -> None:
    """Write a small Sentence Transformers folder with the record of a run."""
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_word_level_tokenizer(), pad_token="[PAD]", unk_token="[UNK]"
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIM,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=DIM,
        max_position_embeddings=16,
    )
    with tempfile.TemporaryDirectory() as plain:
        BertModel(config).save_pretrained(plain)
        tokenizer.save_pretrained(plain)
        modules = upstream_modules()
        parts = [modules.Transformer(plain, max_seq_length=16), modules.Pooling(DIM)]
        parts.append(modules.Dense(DIM, DIM))
        SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    record = {"prompts": {"query": "query: ", "text": None}, "files": ["modules.json"]}
    (folder / "finetuning.json").write_text(json.dumps(record))


def files_of(path: Path) -> dict[str, bytes]:
    """Return the files below a folder, or a file, by their relative paths."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def read_dataset(folder: Path) -> None:
    """Read a dataset file; what was read can be written, and is the same when read again."""
    dataset = EmbeddingQAFinetuneDataset.from_json(folder / "dataset.json")
    dataset.save_json(folder / "again.json")
    assert EmbeddingQAFinetuneDataset.from_json(folder / "again.json") == dataset


def read_beir(folder: Path) -> None:
    """Read a BEIR folder; what was read is a dataset with texts throughout."""
    dataset = EmbeddingQAFinetuneDataset.from_beir(folder)
    assert all(isinstance(text, str) and text.encode() for text in dataset.queries.values())


def read_journal(folder: Path) -> None:
    """Read a journal twice: the second time there is nothing left to mend."""
    with Journal(folder / "journal.jsonl") as journal:
        wanted = {Key(f"n{i}", "c", "p", "m") for i in range(3)}
        first = journal.read(wanted)
        assert journal.read(wanted) == first
        for _, entry in first[0]:
            "".join([entry.response, *(text for pair in entry.questions or () for text in pair)])


def read_adapter(folder: Path) -> None:
    """Load an adapter and use it; its vectors are of length one."""
    model = AdapterEmbeddingModel(HashEmbedding(dim=DIM), str(folder), device="cpu")
    vector = model.get_query_embedding("amber")
    assert abs(sum(number * number for number in vector) - 1) < 1e-5, vector


def read_full_model(folder: Path) -> None:
    """Load a full model."""
    load_finetuned_model(folder, device="cpu")


def read_record(folder: Path) -> None:
    """Read the course of a run; its points are numbers."""
    curve = training_curve(folder / "finetuning.json", "ndcg@10")
    for step, value in curve.loss + curve.metric:
        assert isinstance(step, int), step
        assert isinstance(value, float), value


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy: one piece of its JSON is another one, or some of its bytes are."""
    for _ in range(rng.randint(1, 3)):
        data = (_mutated_json if rng.random() < 0.6 else _mutated_bytes)(data, rng)
    return data


def _mutated_json(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    places = [(data, b"", b"")]
    if lines:
        at = rng.randrange(len(lines))
        places.insert(0, (lines[at], b"".join(lines[:at]), b"".join(lines[at + 1 :]) or b"\n"))
    for part, before, after in places:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            return before + _dumped(value, rng) + after
    return _mutated_bytes(data, rng)


def _dumped(value: Any, rng: random.Random) -> bytes:
    """Return JSON with one of its values replaced, removed, renamed or given twice."""
    piece = rng.randrange(len(PIECES))
    marker = _PLACE.format(piece)
    container, key = rng.choice(list(_places(value)) or [([value], 0)])
    action = rng.choice(("replace", "remove", "rename", "twice"))
    if action == "remove":
        del container[key]
    elif action == "replace" or isinstance(container, list):
        container[key] = json.loads(marker)
    elif action == "rename":
        container[rng.choice(("self", "", "\ud800", "..", "a\0b"))] = container.pop(key)
    text = json.dumps(value)
    if action == "twice" and isinstance(container, dict):
        text = text.replace("{", f"{{{json.dumps(key)}: {marker}, ", 1)
    return text.replace(marker, PIECES[piece]).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in pairs:
        yield value, key
        if isinstance(one, dict | list):
            yield from _places(one)


def _mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
    if rng.random() < 0.5:
        end = min(end, start + 4)
    middle = rng.choice(
        (b"", rng.choice(BYTES), rng.randbytes(end - start), data[start:end] * 2, data[:start])
    )
    return data[:start] + middle + data[end:]


def write_case(target: Target, folder: Path, rng: random.Random) -> None:
    """Write a target's files into a folder, one of them damaged, gone, a folder or a link."""
    damaged = rng.choice(sorted(target.files))
    kind = rng.choices(("bytes", "gone", "folder", "loop"), weights=(30, 1, 1, 1))[0]
    for name, data in target.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != damaged:
            path.write_bytes(data)
        elif kind == "bytes":
            path.write_bytes(mutated(data, rng))
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)


_watched = False


def _watch(event: str, _: object) -> None:
    if _watched and event.startswith(FORBIDDEN):
        raise AssertionError(f"a reader did {event!r}")


sys.addaudithook(_watch)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Fail on a hang and on what no reader may do."""
    global _watched  # noqa: PLW0603 - an audit hook can't be removed
    alarm = hasattr(signal, "SIGALRM")
    if alarm:
        before = signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(SECONDS)
    _watched = True
    try:
        yield
    finally:
        _watched = False
        if alarm:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def _too_long(*_: object) -> None:
    raise AssertionError(f"no end after {SECONDS} seconds")


def run_case(target: Target, seed: int) -> str:
    """Run one case: "read", the name of our error, or, for any other outcome, that error.

    Raises:
        AssertionError: The outcome is neither a valid object nor one of our errors.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        write_case(target, folder, random.Random(f"{target.name} {seed}"))
        try:
            with guarded():
                target.read(folder)
        except FinetuningError as error:
            return type(error).__name__
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            kept = Path(tempfile.gettempdir()) / f"fuzz-failure-{target.name}-{seed}"
            shutil.copytree(folder, kept, symlinks=True, dirs_exist_ok=True)
            raise AssertionError(f"{target.name}, seed {seed}, files in {kept}") from error
    return "read"


def main() -> int:
    """Run until the time is over; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="where to start")
    parser.add_argument("--only", help="the name of one target")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    warnings.simplefilter("ignore")
    logging.disable()
    outcomes: Counter[tuple[str, str]] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = [one for one in targets(Path(folder)) if arguments.only in (None, one.name)]
        end = time.monotonic() + arguments.minutes * 60
        seed = arguments.seed
        while time.monotonic() < end:
            for target in chosen:
                try:
                    outcomes[target.name, run_case(target, seed)] += 1
                except AssertionError:
                    failures += 1
                    traceback.print_exc()
            seed += 1
    for (target_name, outcome), number in sorted(outcomes.items()):
        sys.stdout.write(f"{target_name:20} {outcome:20} {number:8,}\n")
    sys.stdout.write(f"{sum(outcomes.values()):,} cases, {failures} failures\n")
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
