"""Tests of `encoding`: each distinct text once, in order, cached, checked."""

import dataclasses
import functools
import importlib
import json
import math
import operator
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from fakes import HashEmbedding
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.bridge.pydantic import PrivateAttr

from llama_index.finetuning.embeddings import (
    AdapterEmbeddingModel,
    ConfigurationError,
    EncodingError,
    LinearLayer,
    OutputError,
)
from llama_index.finetuning.embeddings.encoding import encode, patience, stated_dimension, table
from llama_index.finetuning.embeddings.encoding.calls import is_remote
from llama_index.finetuning.embeddings.encoding.identity import identity


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(patience, "_RETRY_WAITS", (0.0, 0.0))


class Scripted(HashEmbedding):
    """Fails or answers as a list of functions says, one for each call, then as usual."""

    _pending: list = PrivateAttr(default_factory=list)

    def __init__(self, *script, **kwargs):
        super().__init__(**kwargs)
        self._pending = list(script)

    def _get_text_embeddings(self, texts):
        vectors = super()._get_text_embeddings(texts)
        return self._pending.pop(0)(vectors) if self._pending else vectors


def raising(error):
    """Return an answer that raises."""

    def answer(vectors):
        raise error

    return answer


def test_rows_are_in_the_order_of_the_texts():
    """Row i is the vector of text i, though calls are made longest text first."""
    model = HashEmbedding()
    texts = ["amber", "a long text of many words", "bridge candle"]
    vectors = encode(model, texts, "text")
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, [model.vector(text) for text in texts])
    assert model.texts_seen == sorted(texts, key=len, reverse=True)


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(st.text(alphabet="abc ", min_size=1, max_size=4), max_size=30),
    batch_size=st.integers(1, 7),
    workers=st.integers(1, 3),
)
def test_each_distinct_text_is_embedded_exactly_once(texts, batch_size, workers):
    """Whatever repeats and however it is batched, the model sees the set of texts once."""
    model = HashEmbedding(dim=4)
    vectors = encode(model, texts, "text", batch_size=batch_size, num_workers=workers)
    assert sorted(model.texts_seen) == sorted(set(texts))
    assert max(model.text_batches, default=0) <= batch_size
    assert len(vectors) == len(texts)
    for text, vector in zip(texts, vectors, strict=True):
        assert np.allclose(vector, model.vector(text), atol=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_known_vectors_are_not_embedded_again(tmp_path, cached):
    """They stand in the rows of their text, as they were given; what else is known is ignored."""
    model = HashEmbedding(dim=4)
    known = {"amber": [1.0, 2.0, 3.0, 4.0], "other": [9.0] * 4}
    cache_dir = tmp_path if cached else None
    vectors = encode(model, ["amber", "b", "amber"], "text", known=known, cache_dir=cache_dir)
    assert np.allclose(vectors, [known["amber"], model.vector("b"), known["amber"]])
    assert model.texts_seen == ["b"]


def test_sides_are_apart():
    """A query gets the query prompt, a text does not."""
    model = HashEmbedding(query_prefix="ask ")
    as_query = encode(model, ["amber"], "query")
    as_text = encode(model, ["amber"], "text")
    assert np.allclose(as_query[0], model.vector("ask amber"))
    assert np.allclose(as_text[0], model.vector("amber"))
    assert (model.query_calls, model.text_batches) == (1, [1])


def test_batch_size_holds_for_the_call_alone():
    """A larger batch size than the model's own is used and then taken back."""
    model = HashEmbedding(embed_batch_size=2)
    encode(model, [f"t{i}" for i in range(6)], "text", batch_size=6)
    assert model.text_batches == [6]
    assert model.embed_batch_size == 2


def test_calls_at_once_with_batches_of_other_sizes_leave_the_model_as_it_was():
    """The model's own size is nowhere another one, also while it is called."""
    sizes, waiting = [], threading.Barrier(2, timeout=10)

    class Slow(HashEmbedding):
        def _get_text_embeddings(self, texts):
            waiting.wait()
            sizes.append(model.embed_batch_size)
            return super()._get_text_embeddings(texts)

    model = Slow()
    threads = [
        threading.Thread(
            target=encode,
            args=(model, [f"{size} {i}" for i in range(2 * size)], "text"),
            kwargs={"batch_size": size},
        )
        for size in (2, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [10] * 4
    assert sorted(model.text_batches) == [2, 2, 3, 3]


def test_long_texts_go_in_small_batches_on_a_cpu():
    """On a CPU a batch holds few long texts or many short ones, unless its size is given."""

    class OnCpu(HashEmbedding):
        max_length: int | None = None
        _device: str = PrivateAttr(default="cpu")
        _parallel_process: bool = PrivateAttr(default=False)

    texts = [f"{i} " + "amber " * 500 for i in range(5)] + [f"short {i}" for i in range(10)]
    own, told, elsewhere = OnCpu(), OnCpu(), HashEmbedding()
    for model, arguments in ((own, {}), (told, {"batch_size": 10}), (elsewhere, {})):
        vectors = encode(model, texts, "text", **arguments)
        np.testing.assert_allclose(vectors[12], model.vector(texts[12]), atol=1e-6)
    assert own.embed_batch_size == 10
    assert own.text_batches == [2, 2, 2, 9]
    assert told.text_batches == elsewhere.text_batches == [10, 5]
    several = OnCpu()
    several._parallel_process = True
    encode(several, texts, "text")
    assert several.text_batches == [10, 5]
    # A model that reads 256 tokens at most leaves off the rest of what is longer.
    truncating = OnCpu(max_length=256)
    encode(truncating, [f"{i} " + "amber " * 5000 for i in range(10)], "text")
    assert truncating.text_batches == [8, 2]


def test_queries_without_a_batch_call_go_one_by_one(tmp_path):
    """All workers are busy, and a failure costs no other query again."""
    together = threading.Barrier(3, timeout=10)

    class Meeting(HashEmbedding):
        fails: bool = False

        def _get_query_embedding(self, query):
            if self.fails and query == "c":
                raise ValueError("refused")
            if not self.fails:
                together.wait()
            return super()._get_query_embedding(query)

    queries = ["amber", "bridge", "c"]
    encode(Meeting(num_workers=3), queries, "query")
    with pytest.raises(EncodingError, match=r"failed on 1 texts \(first: number 2\)"):
        encode(Meeting(fails=True), queries, "query", cache_dir=tmp_path)
    again = Meeting(fails=True)
    encode(again, queries[:2], "query", cache_dir=tmp_path)
    assert again.query_calls == 0


def test_queries_with_a_batch_call_go_in_batches():
    """A model's own batch call for queries gets as many as a batch holds."""
    sizes = []

    class Batched(HashEmbedding):
        def get_query_embedding_batch(self, queries):
            sizes.append(len(queries))
            return [self.vector(query) for query in queries]

    encode(Batched(), [f"query {i}" for i in range(15)], "query")
    assert sizes == [10, 5]


def test_huggingface_queries_go_in_batches(tiny_bert_dir, monkeypatch):
    """Queries of a local Sentence Transformer take one call a batch, with the query prompt."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    model = HuggingFaceEmbedding(
        model_name=str(tiny_bert_dir), device="cpu", query_instruction="query: "
    )
    expected = [model.get_query_embedding("amber"), model.get_query_embedding("bridge candle")]
    calls = []
    original = type(model)._embed
    monkeypatch.setattr(
        type(model), "_embed", lambda self, *a, **k: calls.append(a) or original(self, *a, **k)
    )
    vectors = encode(model, ["amber", "bridge candle"], "query")
    assert len(calls) == 1
    assert np.allclose(vectors, expected, atol=1e-6)


def test_a_huggingface_subclass_is_asked_for_its_own_queries(tiny_bert_dir):
    """A subclass with a query method of its own is not bypassed; one without takes the batch."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    asked = []

    class Own(HuggingFaceEmbedding):
        def _get_query_embedding(self, query):
            asked.append(query)
            return super()._get_query_embedding(query)

    class Texts(HuggingFaceEmbedding):
        def _get_text_embeddings(self, texts):
            return super()._get_text_embeddings(texts)

    queries = ["amber", "bridge candle"]
    settings = {"model_name": str(tiny_bert_dir), "device": "cpu"}
    own = encode(Own(**settings), queries, "query")
    assert sorted(asked) == queries
    texts = Texts(**settings)
    object.__setattr__(texts, "_get_query_embedding", None)  # calling it would fail
    assert np.allclose(encode(texts, queries, "query"), own, atol=1e-6)


def test_several_calls_are_in_flight():
    """With three workers, three calls are under way at the same moment."""
    together = threading.Barrier(3, timeout=10)

    class Meeting(HashEmbedding):
        def _get_text_embeddings(self, texts):
            together.wait()
            return super()._get_text_embeddings(texts)

    encode(Meeting(), ["amber", "bridge", "candle"], "text", batch_size=1, num_workers=3)
    assert together.n_waiting == 0


def test_the_models_own_workers_and_an_api_raise_the_calls_in_flight():
    """`num_workers` of the model counts; a model with an API key gets several calls at a time."""
    threads = set()

    class Watched(HashEmbedding):
        api_key: str | None = None

        def _get_text_embeddings(self, texts):
            threads.add(threading.current_thread().name)
            return super()._get_text_embeddings(texts)

    encode(Watched(), ["amber"], "text")
    assert threads == {threading.main_thread().name}
    for model in (Watched(api_key="secret"), Watched(num_workers=2)):
        threads.clear()
        encode(model, ["amber"], "text")
        assert threading.main_thread().name not in threads


@pytest.mark.parametrize("name", ["_client", "_aclient", "_async_client"])
def test_a_model_that_holds_a_client_is_called_several_times_at_once(name):
    """Bedrock's, Google's and Ollama's have no field of an API's, but a client."""
    remote = type(
        "Remote",
        (HashEmbedding,),
        {
            "__annotations__": {name: object},
            "__module__": __name__,
            name: PrivateAttr(default=None),
        },
    )
    assert is_remote(remote())
    assert is_remote(type("Own", (remote,), {"__module__": __name__})())
    assert not is_remote(HashEmbedding())


def test_a_local_model_is_called_by_one_thread(tiny_bert_dir):
    """A HuggingFaceEmbedding holds its model, and no client."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    assert not is_remote(HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu"))


def test_a_passing_failure_is_tried_again():
    """Two connection errors in a row are followed by the vectors."""
    model = Scripted(raising(ConnectionError("busy")), raising(TimeoutError("slow")))
    assert encode(model, ["amber"], "text").shape == (1, 32)


def test_a_page_instead_of_an_answer_passes():
    """A gateway's 502 is told as JSON that can't be read, and not taken for a fault of ours."""
    model = Scripted(raising(json.JSONDecodeError("Expecting value", "<html>", 0)))
    assert encode(model, ["amber"], "text").shape == (1, 32)
    with pytest.raises(EncodingError, match="no number"):
        encode(Scripted(raising(ValueError("no number"))), ["amber"], "text")


class RateLimitError(Exception):
    """What a client raises for status 429."""

    status_code = 429

    def __init__(self, retry_after):
        super().__init__("Rate limit reached.")
        self.retry_after = retry_after


def test_a_rate_limit_that_says_how_long_is_waited_out(monkeypatch):
    """More often than other failures are tried again, and for as long as it says."""
    monkeypatch.setattr(patience, "_LEAST_TOLD_WAIT", 0.0)
    began = time.monotonic()
    model = Scripted(*[raising(RateLimitError(0.05))] * 5)
    assert encode(model, ["amber"], "text").shape == (1, 32)
    assert time.monotonic() - began > 5 * 0.05


def test_a_rate_limit_of_more_than_five_minutes_is_a_failure():
    """It is one at once."""
    model = Scripted(raising(RateLimitError(301)), raising(AssertionError("called again")))
    with pytest.raises(EncodingError, match="Rate limit reached"):
        encode(model, ["amber"], "text")


def test_a_wait_ends_when_another_call_fails():
    """A call that would wait a minute does not hold up the error of another."""
    waiting = threading.Event()

    class Half(HashEmbedding):
        def _get_text_embeddings(self, texts):
            if texts == ["amber"]:
                waiting.set()
                raise RateLimitError(60)
            assert waiting.wait(10)
            time.sleep(0.1)
            raise ValueError("refused")

    began = time.monotonic()
    with pytest.raises(EncodingError, match="refused"):
        encode(Half(), ["amber", "bird"], "text", batch_size=1, num_workers=2)
    assert time.monotonic() - began < 30


def test_a_lasting_failure_names_the_text():
    """The third failure ends it, with the model, the first text and the cause."""
    model = Scripted(*[raising(ConnectionError("no route"))] * 3)
    with pytest.raises(EncodingError, match=r"'hash' failed on 1 texts \(first: 'd7'\).*no route"):
        encode(model, ["amber"], "text", ids=["d7"])


def test_a_failure_says_how_to_keep_what_was_embedded(tmp_path):
    """Without a cache it names the argument; with one it says that it holds what came before."""
    for cache_dir, words in ((None, "Pass 'cache_dir'"), (tmp_path, "is in the cache")):
        with pytest.raises(EncodingError, match=words):
            encode(Scripted(raising(TypeError("bad"))), ["a"], "text", cache_dir=cache_dir)


def test_a_fault_of_the_program_is_not_repeated():
    """A TypeError is raised after one call."""
    model = Scripted(raising(TypeError("bad")), raising(AssertionError("called again")))
    with pytest.raises(EncodingError, match="TypeError: bad"):
        encode(model, ["amber"], "text")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v: [v[0], [float("nan")] * 32], r"not finite for text 'd1': 'bridge'"),
        (lambda v: [v[0], [1e300] * 32], r"not finite for text 'd1'"),
        (lambda v: [v[0], v[1][:31]], r"31 dimensions for text 'd1' where the others have 32"),
        (lambda v: v[:1], r"gave 1 vectors for 2 texts"),
        (lambda v: [[], []], r"gave 0 dimensions"),
    ],
    ids=["nan", "overflow", "ragged", "too few", "empty"],
)
def test_unusable_vectors_name_the_text(answer, message):
    """NaN, infinity in float32, and wrong lengths are errors that name the text's id."""
    with pytest.raises(EncodingError, match=message):
        encode(Scripted(answer), ["candle", "bridge"], "text", ids=["d0", "d1"])


def test_a_dimension_that_changes_between_calls_is_an_error():
    """The second batch must be as long as the first."""
    model = Scripted(lambda v: v, lambda v: [one[:8] for one in v])
    with pytest.raises(EncodingError, match="8 dimensions for text number 1"):
        encode(model, ["amber", "bird"], "text", batch_size=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": "document"}, r"'side' must be in \('query', 'text'\) \(got 'document'\)"),
        ({"ids": ["one"]}, r"'ids' must name each text \(got 1 ids for 2 texts\)"),
        ({"batch_size": 0}, r"'batch_size' must be None or an integer of at least 1 \(got 0\)"),
        ({"batch_size": "4"}, r"'batch_size' must be None or an integer of at least 1 \(got '4'\)"),
        ({"num_workers": -1}, r"'num_workers' must be None or an integer of at least 1 \(got -1\)"),
        ({"embed_model": "local:x"}, r"must be a LlamaIndex BaseEmbedding \(got str\)"),
    ],
)
def test_bad_arguments(arguments, message):
    """Each is refused before anything is embedded."""
    model = HashEmbedding()
    call = {"embed_model": model, "texts": ["a", "b"], "side": "text", **arguments}
    with pytest.raises(ConfigurationError, match=message):
        encode(**call)
    assert model.texts_seen == []


def test_no_texts():
    """No texts give an empty table and no call."""
    assert encode(HashEmbedding(), [], "text").shape == (0, 0)


def test_the_cache_answers_the_second_time(tmp_path):
    """A second run embeds only what is new, and gives the same vectors."""
    first = encode(HashEmbedding(), ["amber", "bridge"], "text", cache_dir=tmp_path)
    model = HashEmbedding()
    second = encode(model, ["bridge", "candle", "amber"], "text", cache_dir=tmp_path)
    assert model.texts_seen == ["candle"]
    assert np.array_equal(second[[2, 0]], first)


def test_the_cache_keeps_models_and_sides_apart(tmp_path):
    """Another model name, setting or side is another vector."""
    encode(HashEmbedding(), ["amber"], "text", cache_dir=tmp_path)
    for model in (HashEmbedding(model_name="other"), HashEmbedding(query_prefix="ask ")):
        encode(model, ["amber"], "text", cache_dir=tmp_path)
        assert model.texts_seen == ["amber"]
    model = HashEmbedding()
    encode(model, ["amber"], "query", cache_dir=tmp_path)
    assert model.query_calls == 1


def test_identity_leaves_out_keys_and_speed():
    """A new API key or batch size does not make paid vectors worthless."""

    class Remote(HashEmbedding):
        api_key: str = "a"

    assert identity(Remote()) == identity(Remote(api_key="b", embed_batch_size=99))


def test_identity_follows_public_fields():
    """Wrappers of different models, or of differing weights, are different models."""

    class Wrapper(HashEmbedding):
        inner: object = None

    def layer(value):
        module = torch.nn.Linear(2, 2)
        with torch.no_grad():
            module.weight.fill_(value)
            module.bias.zero_()
        return module

    one, other = HashEmbedding(model_name="one"), HashEmbedding(model_name="other")
    for first, second in (
        (one, other),
        ([one, one], [one, other]),
        ({"a": one}, {"a": other}),
        (layer(1.0), layer(2.0)),
        ([layer(1.0)], [layer(2.0)]),
    ):
        assert identity(Wrapper(inner=first)) != identity(Wrapper(inner=second))
    assert identity(Wrapper(inner=one)) == identity(Wrapper(inner=HashEmbedding(model_name="one")))
    assert identity(Wrapper(inner=layer(1.0))) == identity(Wrapper(inner=layer(1.0)))
    # Whatever else has no form in JSON counts by its class, and a class by its name.
    assert identity(Wrapper(inner=object())) == identity(Wrapper(inner=object()))
    assert identity(Wrapper(inner=torch.nn.Linear)) != identity(Wrapper(inner=dict))


def test_identity_follows_private_values_and_arrays():
    """Flags, numbers, arrays and wrapped objects count; what changes with every call does not."""

    class Own(HashEmbedding):
        field: object = None
        _lower: bool = PrivateAttr(default=False)
        _size: int = PrivateAttr(default=0)
        _model_id: str = PrivateAttr(default="")
        _last_token_pool: bool = PrivateAttr(default=False)
        _held: object = PrivateAttr(default=None)
        _client: object = PrivateAttr(default=None)
        _total_tokens: int = PrivateAttr(default=0)
        _vectors_by_text: dict = PrivateAttr(default_factory=dict)

    class Wrapped:
        def __init__(self, normalize=True, inner=None, key="a"):
            self.encode_kwargs = {"normalize": normalize}
            self.inner = inner
            self.api_key = key
            self.lock = object()
            self.itself = self

    def of(**values):
        model = Own()
        for name, value in values.items():
            setattr(model, name, value)
        return identity(model)

    def shared(value):
        return Wrapped(inner=[value, value])

    for first, second in (
        ({"_lower": True}, {"_lower": False}),
        ({"_size": 1}, {"_size": 2}),
        ({"_held": np.zeros(3)}, {"_held": np.ones(3)}),
        ({"field": np.zeros(3)}, {"field": np.ones(3)}),
        ({"field": torch.zeros(3)}, {"field": torch.ones(3)}),
        ({"field": np.float32(1)}, {"field": np.float32(2)}),
        ({"field": str.upper}, {"field": str.lower}),
        ({"field": {1}}, {"field": {2}}),
        ({"_held": Wrapped(True)}, {"_held": Wrapped(False)}),
        ({"_model_id": "a"}, {"_model_id": "b"}),
        ({"_last_token_pool": True}, {"_last_token_pool": False}),
        ({"_held": shared(torch.nn.Linear(2, 2))}, {"_held": shared(torch.nn.Linear(2, 2))}),
    ):
        assert of(**first) != of(**second)
        assert of(**first) == of(**first)
    assert of(_held=Wrapped(key="a")) == of(_held=Wrapped(key="b"))
    assert of(_client=Wrapped(True)) == of(_client=Wrapped(False)) == of()
    assert of(_total_tokens=7, _vectors_by_text={"a": [1.0]}) == of()
    assert of(_total_requests=7) == of()


def test_identity_follows_functions():
    """Two functions of one name differ by their code and by what they hold on to."""

    class Own(HashEmbedding):
        field: object = None
        _config: dict = PrivateAttr(default_factory=dict)

    class Prompted:
        def __init__(self, prompt):
            self.prompt = prompt

        def embed(self, text):
            return self.prompt + text

    def closure(prompt):
        def embed(text):
            return prompt + text

        return embed

    def default(prompt):
        def embed(text, prompt=prompt):
            return prompt + text

        return embed

    def nested(known):
        return lambda text: [one in {"a", "b", "c", "d"} for one in text] if known else None

    def of(**values):
        model = Own()
        for name, value in values.items():
            setattr(model, name, value)
        return identity(model)

    for make in (closure, default, nested):
        assert of(field=make("query: ")) == of(field=make("query: "))
        assert of(field=make("query: ")) != of(field=make(""))
    assert of(field=lambda text: text.lower()) != of(field=lambda text: text.upper())
    partials = [functools.partial(str.replace, old) for old in ("a", "b")]
    assert len({of(field=one) for one in (*partials, str.replace)}) == 3
    assert of(field=Prompted("a").embed) == of(field=Prompted("a").embed)
    assert of(field=Prompted("a").embed) != of(field=Prompted("b").embed)
    assert of(_config={"prefix": "a"}) != of(_config={"prefix": "b"})
    assert of(field=len) != of(field=sorted)


def test_identity_of_functions_that_hold_records():
    """A session, a memo and a count of calls change with every call, and the identity does not."""
    requests = pytest.importorskip("requests")

    class Own(HashEmbedding):
        field: object = None

    memo: dict[str, int] = {}
    session, count = requests.Session(), 0

    def embed(text):
        nonlocal count
        count += 1
        memo[text] = count
        return session.post, memo

    model = Own()
    for held in (embed, session.post, functools.lru_cache(embed)):
        model.field = held
        before = identity(model)
        embed("amber")
        session.headers["X-Last"] = "amber"
        assert identity(model) == before


def test_settings_with_the_words_of_records():
    """Texts under such names shape a vector, counts do not."""

    class Own(HashEmbedding):
        _request_type: str = PrivateAttr(default="a")
        _requests: int = PrivateAttr(default=0)
        _names: dict = PrivateAttr(default_factory=dict)

    def of(**values):
        model = Own()
        for name, value in values.items():
            setattr(model, name, value)
        return identity(model)

    assert of(_request_type="b") != of()
    assert of(_requests=3) == of(_names={"abc": 3}) == of()


def printed_by(file):
    """Return what a script prints in two processes with other orders of sets, each text once."""
    return {
        subprocess.run(
            [sys.executable, str(file)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }


def test_identity_of_a_function_is_that_of_another_process(tmp_path):
    """A set in its code is in another order there."""
    file = tmp_path / "own.py"
    file.write_text(
        "from llama_index.core import MockEmbedding\n"
        "from llama_index.finetuning.embeddings.encoding.identity import identity\n"
        "class Own(MockEmbedding):\n    fn: object = None\n"
        "fn = lambda text: text in {'a', 'b', 'c', 'd', 'e'}\n"
        "print(identity(Own(embed_dim=2, fn=fn)))\n"
    )
    assert len(printed_by(file)) == 1


OWN = """
from functools import wraps
from typing import ClassVar
from fakes import HashEmbedding
PREFIX = "query: "
def repeated(function):
    @wraps(function)
    def call(self, text):
        return function(self, text * 1)
    return call
def cleaned(text):
    return text.replace("a", "b")
class Base(HashEmbedding):
    TITLES: ClassVar[tuple] = ("title: ", "name: ")
    WORDS: ClassVar[dict] = {"known": "by heart"}
    @staticmethod
    def before(text):
        return "static: " + text
    @property
    def after(self):
        return "property"
class Own(Base):
    @repeated
    def _get_query_embedding(self, query):
        known = [one for one in {"w", "x", "y", "z"} if one in query]
        prefix = (lambda: PREFIX)()
        return super()._get_query_embedding(prefix + cleaned(query) + " many" * len(known))
"""


def own(source):
    """Return a model of the class ``Own`` of some source, as a module of a user's would hold it."""
    names = {"__name__": "own"}
    exec(source, names)
    return names["Own"]()


@pytest.mark.parametrize(
    "edit",
    [
        (" many", " few"),
        ('PREFIX = "query: "', 'PREFIX = "question: "'),
        ('"b")', '"c")'),
        ("text * 1", "text * 2"),
        ('"name: "', '"subject: "'),
        ('"by heart"', '"well"'),
        ("static: ", "class: "),
        ('"property"', '"field"'),
        ('"z"', '"q"'),
    ],
)
def test_identity_follows_what_a_class_says(edit):
    """Methods, constants and what they use of their module: an edit is another model."""
    assert OWN.count(edit[0]) == 1
    assert identity(own(OWN.replace(*edit))) != identity(own(OWN))


def test_an_edited_prompt_is_not_answered_from_the_cache(tmp_path):
    """The vectors of the old prompt are not those of the new one."""
    edited = own(OWN.replace('"query: "', '"question: "'))
    for model in (own(OWN), edited):
        found = encode(model, ["amber"], "query", cache_dir=tmp_path)
    assert np.allclose(found[0], edited.get_query_embedding("amber"))
    assert edited.query_calls == 2


def test_identity_of_a_class_is_that_of_other_lines_and_processes(tmp_path):
    """Where it stands in its file is no part of what it says, nor is the order of a set."""
    source = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{OWN}"
    source += "from llama_index.finetuning.embeddings.encoding.identity import identity\n"
    file = tmp_path / "own.py"
    printed = set()
    for lines in ("", "# A comment.\n" * 300):
        file.write_text(f"{lines}{source}print(identity(Own()))\n")
        printed |= printed_by(file)
    assert len(printed) == 1


def test_identity_leaves_out_the_code_of_libraries(monkeypatch):
    """Another version of LlamaIndex, say, does not cost the cache."""
    from llama_index.core.base.embeddings.base import BaseEmbedding

    before = identity(HashEmbedding())
    monkeypatch.setattr(BaseEmbedding, "similarity", lambda self: None)
    assert identity(HashEmbedding()) == before


class Settable(HashEmbedding):
    """Holds anything, as a public field or a private one."""

    field: object = None
    openai_key: str = ""
    key: str = ""
    pad_token: str = ""
    _held: object = PrivateAttr(default=None)
    _http: object = PrivateAttr(default=None)
    _sdk: object = PrivateAttr(default=None)
    _cut: object = PrivateAttr(default=None)
    _w: dict = PrivateAttr(default_factory=dict)
    _encode_kwargs: dict = PrivateAttr(default_factory=dict)
    _layers: list = PrivateAttr(default_factory=list)
    _models: list = PrivateAttr(default_factory=list)
    _lengths: list = PrivateAttr(default_factory=list)
    _counts_by_text: dict = PrivateAttr(default_factory=dict)
    _config_cache: dict = PrivateAttr(default_factory=dict)
    _by_text: dict = PrivateAttr(default_factory=dict)
    _prefixes: object = PrivateAttr(default=())
    _chunk: tuple = PrivateAttr(default=())
    _last_layers: int = PrivateAttr(default=1)
    _last_request: object = PrivateAttr(default=0.0)
    _tokens_left: int = PrivateAttr(default=1000)
    _started: object = PrivateAttr(default=0.0)


def identity_of(**values):
    """Return the identity of a model with these values."""
    model = Settable()
    for name, value in values.items():
        setattr(model, name, value)
    return identity(model)


@dataclasses.dataclass(slots=True)
class Slotted:
    """A setting whose class keeps its fields in slots."""

    scale: object
    api_key: str = ""
    __hidden: int = 0

    def hide(self, value):
        self.__hidden = value
        return self


class Scale:
    """Multiplies, by a number or by several."""

    def __init__(self, factor, key=""):
        self.factor = factor
        self.service_key = key
        self._calls = 0

    def apply(self, vector):
        self._calls += 1
        return vector

    def close(self):
        """Do nothing."""


def times(factor):
    """Return a function that holds a factor."""
    return lambda vector: vector * factor


def by_default(factor=1.0, key="", last=0):
    """Return a function with default arguments."""

    def apply(vector, api_key=key, factor=factor, *, last_layers=last):
        return vector

    return apply


def torch_values():
    """Return pairs of values of torch."""
    half, single = torch.float16, torch.float32
    yield half, single
    yield Slotted([half, single, half]), Slotted([half, single, single])
    yield torch.device("cpu"), torch.device("meta")
    yield times(torch.ones(2)), times(torch.zeros(2))


DIFFERENT = {
    "classes": lambda: (Scale, Slotted),
    "patterns": lambda: (re.compile("a"), re.compile("b")),
    "flags": lambda: (re.compile("a"), re.compile("a", re.IGNORECASE)),
    "long patterns": lambda: (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
    "searches": lambda: (re.compile("a").sub, re.compile("b").sub),
    "slots": lambda: (Slotted(1.0), Slotted(2.0)),
    "hidden slots": lambda: (Slotted(1.0).hide(1), Slotted(1.0).hide(2)),
    "slices": lambda: (slice(0, 128), slice(0, 256)),
    "ranges": lambda: (range(3), range(4)),
    "decimals": lambda: (Decimal("1"), Decimal("2")),
    "fractions": lambda: (Fraction(1, 2), Fraction(1, 3)),
    "times": lambda: (timedelta(1), timedelta(2)),
    "dates": lambda: (date(2020, 1, 1), date(2021, 1, 1)),
    "getters": lambda: (operator.itemgetter(0), operator.itemgetter(1)),
    "callers": lambda: (operator.methodcaller("lower"), operator.methodcaller("upper")),
    "types of numpy": lambda: (np.dtype("f4"), np.dtype("f8")),
    "ufuncs": lambda: (np.log1p, np.sqrt),
    "methods of str": lambda: (str.lower, str.upper),
    "bound methods": lambda: (Scale(1.0).apply, Scale(2.0).apply),
    "bound methods of arrays": lambda: (Scale(np.ones(2)).apply, Scale(np.zeros(2)).apply),
    "tuples that are held": lambda: (Scale((0, 8)).apply, Scale((8, 16)).apply),
    "what can be closed": lambda: (Scale(1.0), Scale(2.0)),
    "objects that are held": lambda: (times(Scale(1.0)), times(Scale(2.0))),
    "objects of objects that are held": lambda: (
        Scale(Slotted(1.0)).apply,
        Scale(Slotted(2)).apply,
    ),
    "closures over objects of objects": lambda: (
        times(Scale(Slotted(1))),
        times(Scale(Slotted(2))),
    ),
    "UUIDs": lambda: (uuid.UUID(int=1), uuid.UUID(int=2)),
    "lists that are held": lambda: (times([1.0, 2.0]), times([2.0, 1.0])),
    "dicts that are held": lambda: (times({"title": 1.0}), times({"title": 2.0})),
    "default arguments": lambda: (by_default([1.0]), by_default([2.0])),
    "numbers of defaults": lambda: (by_default(last=1), by_default(last=2)),
    "arguments": lambda: (functools.partial(max, last=1), functools.partial(max, last=2)),
    **{
        f"torch {number}": functools.partial(lambda n: list(torch_values())[n], number)
        for number in range(4)
    },
}


@pytest.mark.parametrize("place", ["field", "_held"])
@pytest.mark.parametrize("kind", DIFFERENT)
def test_identity_tells_values_apart(kind, place):
    """Whatever a setting is made of, another value is another model, and an equal one is not."""
    first, second = (identity_of(**{place: value}) for value in DIFFERENT[kind]())
    assert first != second
    assert first == identity_of(**{place: DIFFERENT[kind]()[0]})


def test_identity_tells_private_containers_apart():
    """All count but numbers and vectors in what can grow and is not named as settings."""
    one, other = HashEmbedding(model_name="one"), HashEmbedding(model_name="other")
    for name, first, second in (
        ("_cut", (0, 8), (8, 16)),
        ("_cut", ((0, 8), None), ((8, 16), None)),
        ("_cut", [0, 8], [8, 16]),
        ("_w", {"scale": 1.0}, {"scale": 2.0}),
        ("_encode_kwargs", {"normalize": True, "last": 1}, {"normalize": True, "last": 2}),
        ("field", {"title": 1.0, "time": 0.1}, {"title": 1.0, "time": 0.2}),
        ("_layers", [-1], [-1, -2]),
        ("_models", [one], [other]),
        ("_chunk", (0, 1), (0, 2)),
        ("_last_layers", 2, 4),
        ("_prefixes", ("a: ", "b: "), ("c: ", "d: ")),
        ("_prefixes", ["a: ", "b: "], ["c: ", "d: "]),
        ("_prefixes", {"a: "}, {"b: "}),
        ("_by_text", {"scale": 1.0, "prefix": "a"}, {"scale": 1.0, "prefix": "b"}),
        ("_by_text", {"a": Slotted(1.0)}, {"a": Slotted(2.0)}),
    ):
        assert identity_of(**{name: first}) != identity_of(**{name: second})
        assert identity_of(**{name: first}) == identity_of(**{name: first})


def test_identity_leaves_out_what_grows():
    """Records of calls, counters and moments change with every call, and the identity does not."""
    before = identity_of()
    assert identity_of(_lengths=[10, 10], _counts_by_text={"amber": 2}) == before
    assert identity_of(_config_cache={"a": 1}, _by_text={"amber": [1.0], "b": [2.0]}) == before
    assert identity_of(_last_request=12.5, _tokens_left=3, _started=12.5) == before
    assert identity_of(_last_request=datetime(2020, 1, 1)) == identity_of(
        _last_request=datetime(2021, 1, 1)
    )
    scale = Scale(1.0)
    first = identity_of(field=scale.apply)
    scale.apply([1.0])
    assert identity_of(field=scale.apply) == first


def test_identity_leaves_out_keys():
    """A changed key is no other model, whoever holds it; what only sounds like one is."""
    assert identity_of(openai_key="a") == identity_of(openai_key="b")
    assert identity_of(key="a") != identity_of(key="b")
    for name in ("use_last_token", "task_key"):
        assert identity_of(field={name: "a"}) != identity_of(field={name: "b"})
    assert identity_of(field={"openai_key": "a"}) == identity_of(field={"openai_key": "b"})
    assert identity_of(pad_token="[PAD]") != identity_of(pad_token="<pad>")
    for make in (
        lambda key: Slotted(1.0, key),
        lambda key: Scale(1.0, key),
        lambda key: Scale(1.0, key).apply,
        lambda key: times(Scale(1.0, key)),
        lambda key: by_default(1.0, key),
        lambda key: [Slotted(1.0, key)],
    ):
        assert identity_of(field=make("a")) == identity_of(field=make("b"))
        assert identity_of(_held=make("a")) == identity_of(_held=make("b"))


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("aws_access_key_id", "AKIA", "ASIA"),
        ("request_timeout", 10.0, 20.0),
        ("max_retries", 1, 2),
        ("retry", Scale(1.0), Scale(2.0)),
        ("keep_alive", "5m", "10m"),
        ("cache_dir", "a", "b"),
        ("threads", 1, 2),
        ("providers", ["CPU"], ["CUDA"]),
        ("timeouts", {"read": 1}, {"read": 2}),
    ],
)
def test_identity_leaves_out_how_vectors_are_fetched(name, first, second):
    """Another key, time limit or number of threads gives the same vectors."""
    kind = pydantic.create_model("Remote", __base__=HashEmbedding, **{name: (object, None)})
    assert identity(kind(**{name: first})) == identity(kind(**{name: second}))
    assert identity_of(field={name: first}) == identity_of(field={name: second})
    assert identity_of(field={"retrieval": first}) != identity_of(field={"retrieval": second})


@pytest.mark.parametrize("module", ["botocore.session", "boto3.session", "aioboto3.session"])
def test_identity_leaves_out_the_sessions_of_aws(module):
    """They hold credentials, which change from hour to hour."""
    kind = type("Session", (Scale,), {"__module__": module})
    assert identity_of(field=kind(1.0)) == identity_of(field=kind(2.0))


class Onnx:
    """A model of another runtime, which can be closed and be run."""

    def __init__(self, path):
        self.path = Path(path)
        self.steps = [path]

    def close(self):
        """Free it."""

    def run(self, vector):
        """Change a vector."""
        return [*vector, str(self.path)]


def test_identity_follows_objects_that_can_be_closed():
    """They may be models, and so may what a function belongs to: a path tells two apart."""
    one, other = Onnx("/m/a"), Onnx("/m/b")
    assert identity_of(_held=one) == identity_of(_held=Onnx("/m/a")) != identity_of(_held=other)
    assert identity_of(field=one.run) != identity_of(field=other.run)


def test_identity_follows_the_files_of_a_model(tmp_path):
    """A model whose weights are in a file is another one where the file is another."""
    (tmp_path / "a.onnx").write_text("float32")
    (tmp_path / "b.onnx").write_text("int8")
    one, other = Onnx(tmp_path / "a.onnx"), Onnx(tmp_path / "b.onnx")
    before = identity_of(_held=one)
    assert before == identity_of(_held=one) != identity_of(_held=other)
    (tmp_path / "a.onnx").write_text("float32, trained further")
    assert identity_of(_held=one) != before


def modules():
    """Yield pairs of modules of torch that differ by more than their weights."""

    class Power(torch.nn.Module):
        def __init__(self, power=1.0, **more):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            torch.nn.init.ones_(self.linear.weight)
            torch.nn.init.ones_(self.linear.bias)
            self.power = power
            vars(self).update(more)

        def forward(self, x):
            return self.linear(x) ** self.power

    class Root(Power):
        def forward(self, x):
            return self.linear(x).sqrt()

    def meta(**more):
        module = Power(**more)
        module.linear.weight = torch.nn.Parameter(torch.empty(2, 2, device="meta"))
        return module

    class NoWeights(Power):
        def state_dict(self):
            raise NotImplementedError

    return [
        (Power, {"power": 1.0}, {"power": 2.0}),
        (Power, {"_power": 1.0}, {"_power": 2.0}),
        (Power, {"config": Slotted(1.0)}, {"config": Slotted(2.0)}),
        (Power, {"prompts": torch.ones(2)}, {"prompts": torch.zeros(2)}),
        (Power, {"model": Onnx("/a")}, {"model": Onnx("/b")}),
        (meta, {"max_seq_length": 1}, {"max_seq_length": 2}),
        (meta, {"prompts": {"query": "a"}}, {"prompts": {"query": "b"}}),
        (NoWeights, {"power": 1.0}, {"power": 2.0}),
        (lambda kind: kind(), {"kind": Power}, {"kind": Root}),
        (lambda p: torch.nn.Sequential(torch.nn.Dropout(p)), {"p": 0.1}, {"p": 0.2}),
    ]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("place", ["field", "_held"])
def test_identity_follows_the_settings_of_modules(number, place):
    """Attributes of any part count, whatever a weight does when it is looked at."""
    make, one, other = modules()[number]
    before = identity_of(**{place: make(**one)})
    assert before == identity_of(**{place: make(**one)}) != identity_of(**{place: make(**other)})


def test_identity_of_models_whose_weights_are_in_a_file(tiny_bert_dir):
    """Two files of one folder, as ONNX has them for each precision, are two models."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    def of(file):
        model = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
        name = next(iter(model._model[0]._modules))
        del model._model[0]._modules[name]
        setattr(model._model[0], name, Onnx(file))
        assert not model._model.state_dict()
        return identity(model)

    assert of("/m/a") == of("/m/a") != of("/m/b")


def test_identity_of_a_model_in_use(tiny_bert_dir, tiny_model_dir):
    """What it keeps from call to call is no part of it, nor is how it was opened."""
    from llama_index.finetuning.embeddings import load_finetuned_model

    for folder in (tiny_bert_dir, tiny_model_dir):
        model, again = load_finetuned_model(folder), load_finetuned_model(folder)
        before = identity(model)
        model.get_text_embedding_batch(["amber", "bridge candle"])
        model.get_query_embedding("desert")
        assert identity(model) == before == identity(again)


def test_identity_follows_the_module_of_a_class():
    """Two classes of one name are two models, except in a process that has another main module."""

    def of(module):
        kind = type("Own", (HashEmbedding,), {"__module__": module})
        return identity(kind())

    assert of("one") == of("one") != of("two")
    assert of("__main__") == of("__mp_main__")


class Sdk:
    """An object that holds a session, as the clients of services do."""

    def __init__(self, session):
        self.http = session


def clients():
    """Yield a maker of each client, and something that changes its state."""
    httpx = pytest.importorskip("httpx")
    openai = pytest.importorskip("openai")
    requests = pytest.importorskip("requests")
    urllib3 = pytest.importorskip("urllib3")

    def answer(request):
        cookie = {"set-cookie": f"a={time.monotonic()}"}
        return httpx.Response(200, headers=cookie, request=request)

    yield (
        lambda: httpx.Client(transport=httpx.MockTransport(answer)),
        lambda one: one.get("http://x"),
    )
    yield requests.Session, lambda one: one.cookies.set("a", "b")
    yield urllib3.PoolManager, lambda one: one.connection_from_url("http://x")
    yield (
        lambda: openai.OpenAI(api_key=f"sk-{time.monotonic()}"),
        lambda one: one.copy(),
    )
    yield threading.Event, lambda one: one.set()
    yield threading.Lock, lambda one: one.acquire()
    yield queue.Queue, lambda one: one.put(1)
    yield random.Random, lambda one: one.gauss(0, 1)
    yield np.random.default_rng, lambda one: one.random()
    yield lambda: iter([1, 2]), next
    yield threading.local, lambda one: setattr(one, "a", 1)


@pytest.mark.parametrize("number", range(11))
def test_identity_of_models_that_hold_clients(number):
    """A client is the same after a call, and so is another one that was made alike."""
    make, use = list(clients())[number]
    for name, around in (("_http", lambda one: one), ("_sdk", Sdk), ("field", Sdk)):
        client = make()
        before = identity_of(**{name: around(client)})
        use(client)
        assert (
            identity_of(**{name: around(client)}) == before == identity_of(**{name: around(make())})
        )


def test_a_client_does_not_cost_the_cache(tmp_path):
    """A model that counts what is left and holds a session in use is embedded with once."""
    requests = pytest.importorskip("requests")

    class Remote(Settable):
        def _get_text_embeddings(self, texts):
            self._last_request = time.monotonic()
            self._tokens_left -= 1
            self._http.cookies.set("a", str(time.monotonic()))
            return super()._get_text_embeddings(texts)

    model = Remote()
    model._http = requests.Session()
    for _ in range(2):
        encode(model, ["amber"], "text", cache_dir=tmp_path)
    assert model.texts_seen == ["amber"]
    assert len(list(tmp_path.glob("*.sqlite"))) == 1


def test_identity_sees_what_methods_are_wrapped_in():
    """Code counts behind any way of the standard library to hold it."""

    def own(how, value):
        class Own(HashEmbedding):
            prompt = how(lambda self: value)

        return Own()

    for how in (property, functools.cached_property, functools.singledispatchmethod, staticmethod):
        assert identity(own(how, "query: ")) != identity(own(how, "search: ")), how
        assert identity(own(how, "query: ")) == identity(own(how, "query: ")), how


def test_larger_batches_leave_the_model_what_its_calls_made():
    """A model that loads itself at its first call does so once, and counts every text."""

    class Lazy(HashEmbedding):
        loaded: int = 0
        n_texts: int = 0

        def _get_text_embeddings(self, texts):
            self.loaded = self.loaded or 1 + self.n_texts
            self.n_texts += len(texts)
            return super()._get_text_embeddings(texts)

    for batch_size in (2, 40):
        model = Lazy()
        for i in range(3):
            encode(model, [f"a {i}", f"b {i}"], "text", batch_size=batch_size)
        assert (model.loaded, model.n_texts, model.embed_batch_size) == (1, 6, 10)


def test_tables_that_grow_with_the_longest_text_are_no_settings():
    """Code of models on the Hub keeps the length that its tables are made for."""

    class Own(HashEmbedding):
        _seq_len_cached: int = PrivateAttr(default=0)

    model = Own()
    before = identity(model)
    model._seq_len_cached = 128
    assert identity(model) == before


def test_identity_of_objects_that_raise():
    """What can't be looked into counts by its class, and what stands beside it counts in full."""

    class Broken(dict):
        def items(self):
            raise NotImplementedError

    class Unwilling:
        def __getattr__(self, name):
            raise RuntimeError(name)

    for broken in (Broken(a=1), Unwilling()):
        assert identity_of(field=[broken]) == identity_of(field=[type(broken)()])
        assert identity_of(field=broken) != identity_of()
        assert identity_of(field=[broken, 1]) != identity_of(field=[broken, 2])
        assert identity_of(field=broken, _cut=(1,)) != identity_of(field=broken, _cut=(2,))


def test_identity_is_the_same_elsewhere(tmp_path):
    """In another process, and after pickling, nothing of a configuration counts otherwise."""
    file = tmp_path / "own.py"
    file.write_text(
        "import dataclasses, decimal, pickle, re, sys\n"
        "import numpy as np, torch\n"
        "from llama_index.core import MockEmbedding\n"
        "from llama_index.core.bridge.pydantic import PrivateAttr\n"
        "from llama_index.finetuning.embeddings.encoding.identity import identity\n"
        "@dataclasses.dataclass(slots=True)\n"
        "class Conf:\n    scale: float\n    words: set\n"
        "class Scale:\n"
        "    def __init__(self): self.factor = 2.0\n"
        "    def apply(self, vector): return vector\n"
        "class Own(MockEmbedding):\n"
        "    parts: object = None\n"
        "    _cut: object = PrivateAttr(default_factory=lambda: (0, 8))\n"
        "conf = Conf(1.0, {'a', 'b', 'c', 'd'})\n"
        "parts = [conf, conf, re.compile('a'), torch.float16, torch.ones(2), slice(3), Conf,\n"
        "         {(1, 2): frozenset('abcd')}, decimal.Decimal(1), Scale().apply, np.dtype('f4'),\n"
        "         re.compile('a')]\n"
        "model = Own(embed_dim=2, parts=parts)\n"
        "again = pickle.loads(pickle.dumps(model))\n"
        "assert identity(again) == identity(model)\n"
        "assert identity(pickle.loads(pickle.dumps(again))) == identity(model)\n"
        "print(identity(model))\n"
    )
    assert len(printed_by(file)) == 1


def test_identity_holds_no_secrets_of_pydantic():
    """A `SecretStr` under any name is no part of it."""
    from pydantic import SecretStr

    class Remote(HashEmbedding):
        word: SecretStr = SecretStr("a")

    assert identity(Remote()) == identity(Remote(word=SecretStr("b")))


def test_identity_sees_the_settings_of_modules(tiny_bert_dir, tmp_path):
    """The same weights with another pooling, saved under the same path, are another model."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    folder = tmp_path / "model"
    shutil.copytree(tiny_bert_dir, folder)
    before = identity(HuggingFaceEmbedding(model_name=str(folder), device="cpu"))
    config = folder / "1_Pooling" / "config.json"
    settings = json.loads(config.read_text())
    if "pooling_mode" in settings:
        settings["pooling_mode"] = "cls"
    else:
        settings["pooling_mode_mean_tokens"] = False
        settings["pooling_mode_cls_token"] = True
    config.write_text(json.dumps(settings))
    assert identity(HuggingFaceEmbedding(model_name=str(folder), device="cpu")) != before


def test_the_cache_keeps_texts_when_the_query_prompt_changes(tiny_bert_dir, tmp_path, monkeypatch):
    """Another prompt for queries is another vector for queries alone."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    plain, asking = (
        HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu", query_instruction=prompt)
        for prompt in (None, "query: ")
    )
    assert identity(plain, "text") == identity(asking, "text")
    assert identity(plain, "query") != identity(asking, "query")
    assert identity(plain) != identity(asking)
    vectors = encode(plain, ["amber"], "text", cache_dir=tmp_path)
    monkeypatch.setattr(HuggingFaceEmbedding, "_embed", raising(AssertionError("embedded again")))
    assert np.array_equal(encode(asking, ["amber"], "text", cache_dir=tmp_path), vectors)


def test_identity_sees_the_weights(tiny_bert_dir):
    """A model trained in place, or saved again under the same path, is another model."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    model = HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")
    before = identity(model)
    assert identity(HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")) == before
    with torch.no_grad():
        next(model._model.parameters()).mul_(1.5)
    assert identity(model) != before


def test_what_was_paid_for_survives_a_failure(tmp_path):
    """Batches that came back before an error are in the cache."""
    model = Scripted(lambda v: v, raising(ValueError("refused")))
    with pytest.raises(EncodingError):
        encode(model, ["amber", "bird"], "text", batch_size=1, cache_dir=tmp_path)
    model = Scripted()
    encode(model, ["amber", "bird"], "text", cache_dir=tmp_path)
    assert model.texts_seen == ["bird"]


def test_a_call_under_way_is_kept_when_another_fails(tmp_path):
    """With several calls in flight, the failure of one does not lose the other."""
    failed = threading.Event()

    class Half(HashEmbedding):
        def _get_text_embeddings(self, texts):
            if texts == ["amber"] and not failed.is_set():
                failed.set()
                raise ValueError("refused")
            assert failed.wait(10)
            return super()._get_text_embeddings(texts)

    with pytest.raises(EncodingError, match="refused"):
        encode(Half(), ["amber", "bird"], "text", batch_size=1, num_workers=2, cache_dir=tmp_path)
    model = Half()
    encode(model, ["amber", "bird"], "text", cache_dir=tmp_path)
    assert model.texts_seen == ["amber"]


def test_one_bad_vector_loses_no_other(tmp_path):
    """The rest of its batch and the calls under way are in the cache when the error is raised."""
    bad_came = threading.Event()

    class Broken(HashEmbedding):
        def _get_text_embeddings(self, texts):
            vectors = super()._get_text_embeddings(texts)
            if "bad" not in texts:
                assert bad_came.wait(10)
                time.sleep(0.1)
                return vectors
            bad_came.set()
            return [
                [math.nan] * 32 if text == "bad" else v
                for text, v in zip(texts, vectors, strict=True)
            ]

    options = {"batch_size": 2, "num_workers": 2, "cache_dir": tmp_path}
    with pytest.raises(EncodingError, match="not finite for text number 1"):
        encode(Broken(), ["amber", "bad", "bridge", "candle"], "text", **options)
    assert bad_came.is_set()
    model = Broken()
    encode(model, ["amber", "bridge", "candle"], "text", **options)
    assert model.texts_seen == []


_KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from fakes import HashEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.finetuning.embeddings.encoding import encode
embed = BaseEmbedding.get_text_embedding_batch
def dying(self, texts, **kwargs):
    if len(self.text_batches) == 2:
        os._exit(9)
    return embed(self, texts, **kwargs)
BaseEmbedding.get_text_embedding_batch = dying
encode(HashEmbedding(), ["aaa", "bb", "c"], "text", batch_size=1, cache_dir={folder!r})
"""


def test_what_was_paid_for_survives_a_kill(tmp_path):
    """A process that dies in its third call leaves the first two vectors behind."""
    from pathlib import Path

    code = _KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    model = HashEmbedding()
    encode(model, ["aaa", "bb", "c"], "text", cache_dir=tmp_path)
    assert model.texts_seen == ["c"]


def test_two_at_once_share_a_cache(tmp_path):
    """Writers of one cache at the same time end with every vector right."""
    texts = [f"text {i}" for i in range(60)]
    expected = [HashEmbedding(dim=8).vector(text) for text in texts]
    results = []

    def work():
        results.append(
            encode(HashEmbedding(dim=8), texts, "text", batch_size=3, cache_dir=tmp_path)
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(np.allclose(vectors, expected, atol=1e-6) for vectors in results)


def test_a_file_that_is_no_cache_is_an_error(tmp_path):
    """A damaged cache is named, with what to do."""
    encode(HashEmbedding(), ["amber"], "text", cache_dir=tmp_path)
    file = next(tmp_path.glob("*.sqlite"))
    for other in tmp_path.glob("*.sqlite-*"):
        other.unlink()
    file.write_bytes(b"no database at all" * 100)
    with pytest.raises(EncodingError, match=r"is no cache of vectors .* Delete it"):
        encode(HashEmbedding(), ["amber"], "text", cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path):
    """A file in the folder's place is refused before anything is embedded."""
    (tmp_path / "file").write_text("x")
    model = HashEmbedding()
    with pytest.raises(OutputError, match="'cache_dir' must be a folder"):
        encode(model, ["amber"], "text", cache_dir=tmp_path / "file")
    assert model.texts_seen == []


def test_large_tables_are_memory_mapped(monkeypatch):
    """Beyond the limit the vectors lie in a temporary file, and are the same."""
    monkeypatch.setattr(table, "_MEMORY_BYTES", 100)
    vectors = encode(HashEmbedding(), ["amber", "bridge"], "text")
    assert isinstance(vectors, np.memmap)
    assert np.allclose(vectors[1], HashEmbedding().vector("bridge"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_a_full_temporary_folder_is_told(monkeypatch):
    """Before anything is paid for, where the map would end the process at the first write."""

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "_MEMORY_BYTES", 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left on device.*TMPDIR"):
        encode(HashEmbedding(), ["amber", "bridge"], "text")

    def unable(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    assert encode(HashEmbedding(), ["amber", "bridge"], "text").shape == (2, 32)


def test_a_progress_bar_is_shown_on_request(capsys):
    """It names the side and counts the texts, and is absent by default."""
    encode(HashEmbedding(), ["amber"], "text")
    assert capsys.readouterr().err == ""
    encode(HashEmbedding(), ["amber"], "text", show_progress=True)
    assert "Embedding texts" in capsys.readouterr().err


def test_stated_dimension(tiny_bert_dir):
    """The length is told by a field or a Sentence Transformer, without an embedding call."""
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    model = HashEmbedding(dim=5)
    assert stated_dimension(model) == 5
    assert model.texts_seen == []
    assert stated_dimension(MockEmbedding(embed_dim=7)) == 7
    assert stated_dimension(HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")) == 32


def write_model(folder, body, imports=""):
    """Write a module with an embedding of a user's own, and return what it holds."""
    name = f"own_{uuid.uuid4().hex}"
    (folder / f"{name}.py").write_text(
        f"import functools\nimport numpy as np\nfrom fakes import HashEmbedding\n{imports}\n"
        "class Own(HashEmbedding):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    )
    return importlib.import_module(name)


def test_identity_leaves_out_what_a_script_has_beside(tmp_path, monkeypatch):
    """A global is no constant of a method that has an attribute of its name, nor if it grows."""
    monkeypatch.syspath_prepend(str(tmp_path))
    body = "def vector(self, text):\n    return self._client.create(text).data\n"
    own = write_model(tmp_path, body)
    before = identity(own.Own())
    own.data = ["a", "b"]
    assert identity(own.Own()) == before
    body = "def vector(self, text):\n    SEEN.append(len(text))\n    return [1.0]"
    own = write_model(tmp_path, body, "SEEN = []")
    before = identity(own.Own())
    own.SEEN += [1, 2, 3]
    assert identity(own.Own()) == before
    own.SEEN += ["a"] * 5000
    assert identity(own.Own()) == before


def test_identity_knows_what_methods_use_from_elsewhere(tmp_path, monkeypatch):
    """Functions of another module, arrays, and methods that are cached."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_helpers.py").write_text("def shift(x):\n    return x + 1\n")
    helpers = importlib.import_module("own_helpers")
    body = "def vector(self, text):\n    return [shift(1.0) * len(text)]"
    own = write_model(tmp_path, body, "from own_helpers import shift")
    before = identity(own.Own())
    helpers.shift.__code__ = (lambda x: x + 2).__code__
    assert identity(own.Own()) != before
    body = "def vector(self, text):\n    return (W * len(text)).tolist()"
    own = write_model(tmp_path, body, "W = np.ones(3)")
    before = identity(own.Own())
    own.W = np.zeros(3)
    assert identity(own.Own()) != before
    cached = "@functools.lru_cache\ndef vector(self, text):\n    return [{}]"
    one, other = (write_model(tmp_path, cached.format(number)) for number in ("1.0", "2.0"))
    other.Own.__module__, other.Own.vector.__wrapped__.__module__ = (one.__name__,) * 2
    assert identity(one.Own()) != identity(other.Own())


def test_what_is_known_of_an_adapter_leaves_its_base_the_others(tmp_path):
    """They come from the base's cache, as without anything known."""
    base = HashEmbedding()
    adapter = LinearLayer(32, 32)
    torch.nn.init.orthogonal_(adapter.linear.weight)
    adapter.save(tmp_path / "adapter")
    model = AdapterEmbeddingModel(base, str(tmp_path / "adapter"))
    texts = [f"amber {i}" for i in range(8)]
    cache = tmp_path / "cache"
    whole = encode(model, texts, "query", cache_dir=cache)
    calls = base.query_calls
    known = {texts[3]: whole[3]}
    np.testing.assert_array_equal(
        encode(model, texts, "query", cache_dir=cache, known=known), whole
    )
    known = dict(zip(texts, whole, strict=True))
    np.testing.assert_array_equal(encode(model, texts, "query", known=known), whole)
    assert base.query_calls == calls


class Lazy(HashEmbedding):
    """Loads its model when it is first asked."""

    _model: object = PrivateAttr(default=None)
    _loads: int = PrivateAttr(default=0)

    def _get_text_embeddings(self, texts):
        if self._model is None:
            self._model = object()
            self._loads += 1
        return super()._get_text_embeddings(texts)


def test_a_model_loads_once_whatever_the_batches(tmp_path):
    """It keeps what it learns in a call, and its own size of batches."""
    model = Lazy(embed_batch_size=7)
    for size in (3, 5):
        encode(model, [f"amber {i}" for i in range(6)], "text", batch_size=size)
    assert (model._loads, model.embed_batch_size) == (1, 7)
