"""Tests of `adapter_embedding`: a base with an adapter, and a pair of models."""

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import upstream_modules
from fakes import HashEmbedding
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import MockEmbedding, resolve_embed_model
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    EncodingError,
    ModelFolderError,
    load_finetuned_model,
)
from llama_index.finetuning.embeddings.adapter_embedding import (
    AdapterEmbeddingModel,
    AsymmetricEmbeddingModel,
    LinearAdapterEmbeddingModel,
)
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    LowRankAdapter,
    TwoLayerNN,
    save_adapter,
)
from llama_index.finetuning.embeddings.encoding import calls, encode
from llama_index.finetuning.embeddings.encoding.calls import has_query_batches, is_remote
from llama_index.finetuning.embeddings.encoding.identity import identity

DIM = 8
MATRIX = torch.linspace(-1.0, 1.0, DIM * DIM).reshape(DIM, DIM).sin()


def linear(out_features=DIM, bias=False):
    """Return a linear layer of known weights."""
    layer = LinearLayer(DIM, out_features, bias=bias)
    with torch.no_grad():
        layer.linear.weight.copy_(MATRIX[:out_features])
    return layer


def folder_of(tmp_path, adapter, transform="query", base=None):
    """Write an adapter's folder and return its path."""
    path = tmp_path / f"{type(adapter).__name__}-{transform}"
    path.mkdir()
    save_adapter(
        adapter,
        path,
        transform=transform,
        embed_model=base or HashEmbedding(dim=DIM),
        dimension=getattr(adapter, "in_features", DIM),
    )
    return str(path)


@pytest.fixture
def path(tmp_path):
    """The folder of a linear adapter for queries."""
    return folder_of(tmp_path, linear())


def mapped(vector):
    """Return the unit vector along ``MATRIX @ vector``."""
    product = MATRIX.numpy() @ np.asarray(vector)
    return product / np.linalg.norm(product)


def test_texts_are_encoded_as_those_of_the_base(tmp_path, path):
    """With an adapter of queries, texts come from the base's cache and go by its settings."""
    base = HashEmbedding(dim=DIM, num_workers=3)
    cache = tmp_path / "cache"
    expected = encode(base, ["amber", "bridge"], "text", cache_dir=cache)
    queries = encode(base, ["amber"], "query", cache_dir=cache)
    model = AdapterEmbeddingModel(base, path)
    assert model.num_workers == 3
    assert np.array_equal(encode(model, ["amber", "bridge"], "text", cache_dir=cache), expected)
    assert base.text_batches == [2]
    assert not np.allclose(encode(model, ["amber"], "query", cache_dir=cache), queries)
    both = AdapterEmbeddingModel(base, folder_of(tmp_path, linear(), transform="both"))
    changed = encode(both, ["amber", "bridge"], "text", cache_dir=cache)
    assert np.allclose(changed[0], mapped(base.vector("amber")), atol=1e-6)
    off = AdapterEmbeddingModel(base, path, transform_query=False)
    assert np.array_equal(encode(off, ["amber"], "query", cache_dir=cache), queries)
    assert off.model_for("query") is off.model_for("text") is base


@pytest.mark.parametrize("length", [1, 3], ids=["unit", "long"])
@pytest.mark.parametrize(
    ("transform", "out_features"), [("query", DIM), ("both", DIM), ("both", 5)]
)
def test_an_adapter_is_encoded_from_its_bases_vectors(
    out_features, length, transform, tmp_path, monkeypatch
):
    """What a cache has of the base is not paid again, and the vectors are the model's own."""

    class Long(HashEmbedding):
        def vector(self, text):
            return [length * value for value in super().vector(text)]

    monkeypatch.setattr(calls, "_BLOCK", 2)
    base, texts = Long(dim=DIM), ["amber", "bridge", "amber", "candle", "desert"]
    adapter = folder_of(tmp_path, linear(out_features, bias=True), transform)
    model = AdapterEmbeddingModel(base, adapter)
    for side in ("query", "text"):
        encode(base, texts, side, cache_dir=tmp_path / "cache")
    paid = base.query_calls, len(base.texts_seen)
    queries = encode(model, texts, "query", cache_dir=tmp_path / "cache")
    documents = encode(model, texts, "text", cache_dir=tmp_path / "cache")
    assert (base.query_calls, len(base.texts_seen)) == paid
    assert np.allclose(queries, model.get_query_embedding_batch(texts), atol=1e-6)
    assert np.allclose(documents, model.get_text_embedding_batch(texts), atol=1e-6)
    again = encode(base, texts, "query", cache_dir=tmp_path / "cache")
    assert np.allclose(again, [base.vector(text) for text in texts], atol=1e-6)
    assert encode(model, [], "query").shape == (0, 0)


def test_adapters_in_a_row_are_encoded_from_the_first_bases_vectors(tmp_path, path):
    """Each is passed through in its turn."""
    base = HashEmbedding(dim=DIM)
    inner = AdapterEmbeddingModel(base, path)
    flip = LinearLayer(DIM, DIM)
    with torch.no_grad():
        flip.linear.weight.copy_(MATRIX.flip(0))
    (tmp_path / "outer").mkdir()
    outer = AdapterEmbeddingModel(inner, folder_of(tmp_path / "outer", flip, base=inner))
    encode(base, ["amber"], "query", cache_dir=tmp_path / "cache")
    found = encode(outer, ["amber"], "query", cache_dir=tmp_path / "cache")
    assert base.query_calls == 1
    assert np.allclose(found, [outer.get_query_embedding("amber")], atol=1e-6)


def test_a_wrapper_that_may_do_more_is_called(tmp_path, path):
    """A subclass with words of its own, and one that has a cache of LlamaIndex."""

    class Asking(AdapterEmbeddingModel):
        def get_query_embedding_batch(self, queries):
            return super().get_query_embedding_batch([f"ask {query}" for query in queries])

    base = HashEmbedding(dim=DIM)
    found = encode(Asking(base, path), ["amber"], "query")
    assert np.allclose(found[0], mapped(base.vector("ask amber")), atol=1e-6)
    both = AdapterEmbeddingModel(base, folder_of(tmp_path, linear(), "both"))
    both.embeddings_cache = SimpleKVStore()
    both.get_text_embedding("amber")
    seen = len(base.texts_seen)
    assert np.allclose(encode(both, ["amber"], "text")[0], mapped(base.vector("amber")), atol=1e-6)
    assert len(base.texts_seen) == seen


def test_an_adapter_whose_vectors_are_unusable(tmp_path):
    """The error says whose they are, in `encode` as in a call."""
    adapter = LinearLayer(DIM, DIM)
    with torch.no_grad():
        adapter.linear.weight.zero_()
    model = AdapterEmbeddingModel(HashEmbedding(dim=DIM), folder_of(tmp_path, adapter))
    for embed in (
        lambda: encode(model, ["amber"], "query"),
        lambda: model.get_query_embedding("a"),
    ):
        with pytest.raises(EncodingError, match="The adapter in .* not finite, or zero"):
            embed()


def test_known_vectors_are_those_of_the_adapter(path):
    """What is known is not adapted a second time."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, path)
    known = {"amber": model.get_query_embedding("amber")}
    found = encode(model, ["amber", "bridge"], "query", known=known)
    assert base.query_calls == 2
    assert np.allclose(found, [mapped(base.vector(q)) for q in ("amber", "bridge")], atol=1e-6)


def test_from_dict(path):
    """What `to_dict` tells makes the model again, over a base that has to be given."""
    base = HashEmbedding(dim=DIM)
    for transform_query in (True, False):
        model = AdapterEmbeddingModel(
            base, path, transform_query=transform_query, embed_batch_size=7
        )
        told = model.to_dict()
        again = AdapterEmbeddingModel.from_dict(told, base_embed_model=base)
        assert again.to_dict() == told == model.to_dict()
        assert again.get_query_embedding("amber") == model.get_query_embedding("amber")
    changed = AdapterEmbeddingModel.from_dict(told, base_embed_model=base, embed_batch_size=3)
    assert changed.embed_batch_size == 3
    with pytest.raises(ConfigurationError, match=r"'base_embed_model' must be given .*'hash'"):
        AdapterEmbeddingModel.from_dict(told)


def test_a_batch_size_of_the_wrapper_holds_for_the_base(path):
    """Texts that go straight to the base go in batches as large as the wrapper's."""
    base = HashEmbedding(dim=DIM)
    encode(AdapterEmbeddingModel(base, path, embed_batch_size=2), ["a", "b", "c"], "text")
    assert base.text_batches == [2, 1]
    assert base.embed_batch_size == 10


def test_an_adapter_is_called_as_its_base_is(path):
    """Behind an API, or without a batch call for queries, the adapter's queries go likewise."""
    threads = set()

    class Remote(HashEmbedding):
        api_key: str = "key"

        def _get_query_embedding(self, query):
            threads.add(threading.current_thread().name)
            return super()._get_query_embedding(query)

    model = AdapterEmbeddingModel(Remote(dim=DIM), path)
    assert is_remote(model)
    assert not has_query_batches(model)
    encode(model, ["amber", "bridge"], "query")
    assert threading.main_thread().name not in threads


def test_what_a_derived_class_does_is_encoded(tmp_path):
    """A wrapper's own prompts reach evaluation and training as they reach its calls."""

    class Pair(AsymmetricEmbeddingModel):
        def _get_query_embedding(self, query):
            return super()._get_query_embedding(f"castle {query}")

    class Adapter(AdapterEmbeddingModel):
        def _get_text_embeddings(self, texts):
            return super()._get_text_embeddings([f"castle {text}" for text in texts])

    class Queries(AdapterEmbeddingModel):
        def _get_query_embedding(self, query):
            return super()._get_query_embedding(f"castle {query}")

    base = HashEmbedding(dim=DIM)
    path = folder_of(tmp_path, linear())
    for model in (Pair(base, base), Adapter(base, path), Queries(base, path)):
        query, text = encode(model, ["amber"], "query")[0], encode(model, ["amber"], "text")[0]
        assert np.allclose(query, model.get_query_embedding("amber"), atol=1e-6)
        assert np.allclose(text, model.get_text_embedding_batch(["amber"])[0], atol=1e-6)


def test_limits_and_caches_of_wrappers_are_heeded(path):
    """A wrapper that has one of its own is asked itself."""
    base = HashEmbedding(dim=DIM)

    class Limiter:
        n_calls = 0

        def acquire(self):
            self.n_calls += 1

    for model in (AdapterEmbeddingModel(base, path), AsymmetricEmbeddingModel(base, base)):
        if "rate_limiter" in type(model).model_fields:  # llama-index-core has it since 0.14
            object.__setattr__(model, "rate_limiter", limiter := Limiter())
            encode(model, ["amber"], "query")
            encode(model, ["amber"], "text")
            assert limiter.n_calls == 2
            model.rate_limiter = None
        model.embeddings_cache = SimpleKVStore()
        encode(model, ["amber"], "text")
        n_batches = len(base.text_batches)
        encode(model, ["amber"], "text")
        assert len(base.text_batches) == n_batches


def test_wrappers_survive_what_cannot_be_pickled(path):
    """LlamaIndex leaves such a field out; it has its default in the other process."""
    base = HashEmbedding(dim=DIM)
    for model in (AdapterEmbeddingModel(base, path), AsymmetricEmbeddingModel(base, base)):
        expected = model.get_query_embedding("amber")
        object.__setattr__(model, "callback_manager", threading.Lock())
        again = pickle.loads(pickle.dumps(model))
        assert isinstance(again.callback_manager, CallbackManager)
        assert again.get_query_embedding("amber") == expected


def test_a_pair_from_what_it_told():
    """Beside its dictionary it needs its models."""
    base = HashEmbedding(dim=DIM)
    pair = AsymmetricEmbeddingModel(base, base)
    pair.embed_batch_size = 3
    again = AsymmetricEmbeddingModel.from_dict(
        pair.to_dict(), query_embed_model=base, text_embed_model=base
    )
    assert again.to_dict() == pair.to_dict()
    with pytest.raises(ConfigurationError, match=r"'text_embed_model' must be given .*'hash'"):
        AsymmetricEmbeddingModel.from_dict(pair.to_dict(), query_embed_model=base)


def test_each_side_of_a_pair_is_encoded_as_its_model(tmp_path):
    """Queries and texts of a pair are those of its models, also in the cache."""
    first, second = HashEmbedding(dim=DIM), HashEmbedding(dim=DIM, model_name="other")
    encode(first, ["amber"], "query", cache_dir=tmp_path)
    encode(second, ["amber"], "text", cache_dir=tmp_path)
    pair = AsymmetricEmbeddingModel(first, second)
    encode(pair, ["amber"], "query", cache_dir=tmp_path)
    encode(pair, ["amber"], "text", cache_dir=tmp_path)
    assert (first.query_calls, second.text_batches) == (1, [1])


def test_queries_pass_through_the_adapter_and_texts_do_not(path):
    """A query is W q at length one; a text is what the base gives, so an index stays valid."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, path)
    assert np.allclose(model.get_query_embedding("amber"), mapped(base.vector("amber")), atol=1e-6)
    assert model.get_text_embedding("amber") == base.vector("amber")


def test_both_sides_pass_through_an_adapter_for_both(tmp_path):
    """With transform='both', queries and texts get the same map, one or many."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, linear(), "both"))
    expected = mapped(base.vector("amber"))
    assert np.allclose(model.get_query_embedding("amber"), expected, atol=1e-6)
    assert np.allclose(model.get_text_embedding("amber"), expected, atol=1e-6)
    assert np.allclose(model.get_text_embedding_batch(["x", "amber"])[1], expected, atol=1e-6)


def test_transform_query_false_leaves_the_adapter_out(tmp_path):
    """The model then gives what the base gives, also with an adapter for both sides."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(
        base, folder_of(tmp_path, linear(), "both"), transform_query=False
    )
    assert model.get_query_embedding("amber") == base.vector("amber")
    assert model.get_text_embedding("amber") == base.vector("amber")


def test_lengths_follow_the_base(path):
    """Where the base's vectors are not of length one, neither are the adapted ones."""

    class Long(HashEmbedding):
        def vector(self, text):
            return [3 * value for value in super().vector(text)]

    base = Long(dim=DIM)
    adapted = AdapterEmbeddingModel(base, path).get_query_embedding("amber")
    assert np.allclose(adapted, MATRIX.numpy() @ np.asarray(base.vector("amber")), atol=1e-5)


class Coarse(HashEmbedding):
    """Gives vectors of length one as half precision has them, and nothing for an empty text."""

    def vector(self, text):
        if not text:
            return [0.0] * self.dim
        return torch.tensor(super().vector(text)).to(torch.bfloat16).tolist()


def test_lengths_are_one_for_a_base_in_half_precision(path):
    """All rows are scaled, or none: rounding does not decide. A zero vector stays one."""
    texts = ["", *(f"text {i}" for i in range(100))]
    base = Coarse(dim=DIM)
    lengths = np.linalg.norm([base.vector(text) for text in texts[1:]], axis=1)
    assert np.abs(lengths - 1).max() > 1e-3
    served = AdapterEmbeddingModel(base, path).get_query_embedding_batch(texts)
    assert not any(served[0])
    assert np.allclose(np.linalg.norm(served[1:], axis=1), 1.0, atol=1e-6)


def test_a_base_that_says_that_it_normalises(path):
    """Its word counts, not what its first vectors look like."""

    class Says(HashEmbedding):
        normalize: bool = True

        def vector(self, text):
            return [1.1 * value for value in super().vector(text)]

    served = AdapterEmbeddingModel(Says(dim=DIM), path).get_query_embedding("amber")
    assert np.linalg.norm(served) == pytest.approx(1.0)


def test_texts_go_in_batches_through_the_base(path):
    """A batch is one call of the base, in sync and async calls alike."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, path, embed_batch_size=4)
    texts = [f"text {i}" for i in range(6)]
    found = model.get_text_embedding_batch(texts)
    assert base.text_batches == [4, 2]
    assert asyncio.run(model.aget_text_embedding_batch(texts)) == found
    assert base.text_batches == [4, 2, 4, 2]


def test_the_batch_size_is_the_bases_by_default(path):
    """Left alone it is the base's own, so that the adapter costs no smaller batches."""
    base = HashEmbedding(dim=DIM, embed_batch_size=32)
    assert AdapterEmbeddingModel(base, path).embed_batch_size == 32
    assert AdapterEmbeddingModel(base, path, embed_batch_size=7).embed_batch_size == 7
    assert AdapterEmbeddingModel(base, path, embed_batch_size=10).embed_batch_size == 10


def test_async_calls_give_the_same(path):
    """Query and text, alone, through the base's async calls."""
    calls = []

    class Async(HashEmbedding):
        async def _aget_query_embedding(self, query):
            calls.append("query")
            return self.vector(query)

        async def _aget_text_embedding(self, text):
            calls.append("text")
            return self.vector(text)

    model = AdapterEmbeddingModel(Async(dim=DIM), path)
    assert asyncio.run(model.aget_query_embedding("a")) == model.get_query_embedding("a")
    assert asyncio.run(model.aget_text_embedding("a")) == model.get_text_embedding("a")
    assert calls == ["query", "text"]


def test_queries_in_a_batch(path):
    """`encode` embeds queries through base and adapter in batches."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, path)
    found = encode(model, ["amber", "bridge"], "query")
    assert np.allclose(found, [mapped(base.vector(q)) for q in ("amber", "bridge")], atol=1e-6)


@pytest.mark.parametrize("wrap", ["adapter", "pair"])
def test_the_rate_limiter_of_the_base_is_heeded(wrap, path):
    """Each call of the base waits for its limiter once, sync and async."""
    waits = []

    class Limiter:
        def acquire(self, num_tokens=0):
            waits.append("sync")

        async def async_acquire(self, num_tokens=0):
            waits.append("async")

    class Limited(HashEmbedding):
        rate_limiter: object | None = None

    base = Limited(dim=DIM, rate_limiter=Limiter())
    model = (
        AdapterEmbeddingModel(base, path)
        if wrap == "adapter"
        else AsymmetricEmbeddingModel(base, base)
    )
    model.get_query_embedding("a")
    model.get_text_embedding("a")
    model.get_text_embedding_batch(["a", "b"])
    assert waits == ["sync"] * 3

    async def calls():
        await model.aget_query_embedding("a")
        await model.aget_text_embedding("a")
        await model.aget_text_embedding_batch(["a", "b"])

    asyncio.run(calls())
    assert waits[3:] == ["async"] * 3


@pytest.mark.parametrize(
    "wrap",
    [AdapterEmbeddingModel, lambda base, _: AsymmetricEmbeddingModel(base, base)],
    ids=["adapter", "pair"],
)
def test_the_embeddings_cache_of_the_base_is_used(wrap, path):
    """What LlamaIndex's own cache of the base holds is not embedded again, in any call."""
    base = HashEmbedding(dim=DIM, embeddings_cache=SimpleKVStore())
    base.get_text_embedding_batch(["amber", "bridge"])
    base.get_query_embedding("candle")
    model = wrap(base, path)
    expected = wrap(HashEmbedding(dim=DIM), path)

    async def calls():
        return [
            await model.aget_query_embedding("candle"),
            await model.aget_text_embedding("amber"),
            *await model.aget_text_embedding_batch(["amber", "bridge"]),
        ]

    found = [
        model.get_query_embedding("candle"),
        model.get_text_embedding("amber"),
        *model.get_text_embedding_batch(["amber", "bridge"]),
    ]
    wanted = [
        expected.get_query_embedding("candle"),
        *expected.get_text_embedding_batch(["amber", "amber", "bridge"]),
    ]
    assert np.allclose(found, wanted, atol=1e-6)
    assert np.allclose(asyncio.run(calls()), wanted, atol=1e-6)
    assert (base.texts_seen, base.query_calls) == (["amber", "bridge"], 1)
    model.get_text_embedding("desert")
    model.get_text_embedding("desert")
    assert base.texts_seen == ["amber", "bridge", "desert"]


class Prefixed(HashEmbedding):
    """Puts words before texts in the public calls, where `encode` and users come in."""

    def get_query_embedding(self, query):
        return super().get_query_embedding(f"query: {query}")

    def get_text_embedding(self, text):
        return super().get_text_embedding(f"passage: {text}")

    def get_text_embedding_batch(self, texts, **kwargs):
        return super().get_text_embedding_batch([f"passage: {text}" for text in texts], **kwargs)


class PrefixedTwice(Prefixed):
    """Does so in the asynchronous calls too, in words of their own."""

    async def aget_query_embedding(self, query):
        return await super().aget_query_embedding(f"later: {query}")

    async def aget_text_embedding(self, text):
        return await super().aget_text_embedding(f"later: {text}")

    async def aget_text_embedding_batch(self, texts, **kwargs):
        return await super().aget_text_embedding_batch([f"later: {t}" for t in texts], **kwargs)


@pytest.mark.parametrize("base", [Prefixed(), PrefixedTwice()], ids=["sync", "both"])
@pytest.mark.parametrize("wrap", ["adapter", "pair"])
def test_public_calls_of_the_base_are_served_as_they_are_trained_with(wrap, base, tmp_path):
    """Where a base overrides them, a wrapper gives what `encode` gives, one by one and async."""
    adapter = folder_of(tmp_path, LinearLayer(32, 32), base=base)
    wrappers = {
        "adapter": lambda: AdapterEmbeddingModel(base, adapter),
        "pair": lambda: AsymmetricEmbeddingModel(base, base),
    }
    model = wrappers[wrap]()
    queries, texts = encode(base, ["amber"], "query"), encode(base, ["amber", "bridge"], "text")
    assert np.allclose(queries[0], base.vector("query: amber"))
    assert np.allclose(encode(model, ["amber"], "query"), queries, atol=1e-6)
    assert np.allclose(model.get_query_embedding("amber"), queries[0], atol=1e-6)
    assert np.allclose(model.get_text_embedding("amber"), texts[0])
    assert np.allclose(model.get_text_embedding_batch(["amber", "bridge"]), texts)
    twice = type(base) is PrefixedTwice
    query, text = ("later: ", "later: ") if twice else ("query: ", "passage: ")
    found = asyncio.run(model.aget_query_embedding("amber"))
    assert np.allclose(found, base.vector(f"{query}amber"), atol=1e-6)
    found = asyncio.run(model.aget_text_embedding("amber"))
    assert np.allclose(found, base.vector(f"{text}amber"))
    found = asyncio.run(model.aget_text_embedding_batch(["amber", "bridge"]))
    assert np.allclose(found[1], base.vector(f"{text}bridge"))


def test_it_says_what_it_is(path):
    """Name, class name and serialised form tell base, adapter and side."""
    model = AdapterEmbeddingModel(HashEmbedding(dim=DIM, model_name="the-base"), path)
    assert model.class_name() == "AdapterEmbeddingModel"
    assert model.model_name == "the-base + LinearLayer (query)"
    found = model.to_dict()
    assert found["class_name"] == "AdapterEmbeddingModel"
    assert found["base_model_name"] == "the-base"
    assert found["adapter_class"] == "LinearLayer"
    assert found["adapter_path"] == path
    assert found["transform"] == "query"


def test_the_old_name_is_the_same_class():
    """LinearAdapterEmbeddingModel is an alias."""
    assert LinearAdapterEmbeddingModel is AdapterEmbeddingModel


def test_callbacks_and_events(path):
    """One callback event and one instrumentation event a call, with the adapted vectors."""
    ended = []

    class Handler(BaseEventHandler):
        @classmethod
        def class_name(cls):
            return "Handler"

        def handle(self, event, **kwargs):
            if type(event).__name__ == "EmbeddingEndEvent":
                ended.append(event)

    debug = LlamaDebugHandler(print_trace_on_end=False)
    model = AdapterEmbeddingModel(
        HashEmbedding(dim=DIM), path, callback_manager=CallbackManager([debug])
    )
    dispatcher = get_dispatcher()
    handler = Handler()
    dispatcher.add_event_handler(handler)
    try:
        vector = model.get_query_embedding("amber")
    finally:
        dispatcher.event_handlers.remove(handler)
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 1
    assert [event.embeddings for event in ended] == [[vector]]


def test_an_index_and_a_pipeline_take_it(path):
    """VectorStoreIndex embeds nodes with the base alone and looks queries up adapted."""
    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, path)
    nodes = [TextNode(text=text, id_=text) for text in ("amber", "bridge", "candle")]
    embedded = IngestionPipeline(transformations=[model], disable_cache=True).run(nodes=nodes)
    assert embedded[0].embedding == base.vector("amber")
    index = VectorStoreIndex(nodes, embed_model=model)
    found = index.as_retriever(similarity_top_k=3).retrieve("bridge")
    scores = {
        text: float(mapped(base.vector("bridge")) @ np.asarray(base.vector(text)))
        for text in ("amber", "bridge", "candle")
    }
    assert [one.node_id for one in found] == sorted(scores, key=scores.get, reverse=True)


def test_pickled_and_copied(path):
    """A copy in another process or in this one gives the same vectors."""
    model = AdapterEmbeddingModel(HashEmbedding(dim=DIM), path)
    expected = model.get_query_embedding("amber")
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.get_query_embedding("amber") == expected


def test_many_threads(path):
    """Calls at the same time give what they give alone."""
    model = AdapterEmbeddingModel(HashEmbedding(dim=DIM), path)
    texts = [f"text {i}" for i in range(40)]
    expected = [model.get_query_embedding(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(model.get_query_embedding, texts)) == expected


def test_custom_adapters_are_used_in_evaluation_mode(tmp_path):
    """Dropout of a custom adapter is off."""

    class Dropping(BaseAdapter):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.9)
            self.scale = torch.nn.Parameter(torch.ones(1))

        def get_config_dict(self):
            return {}

        def forward(self, embed):
            return self.dropout(embed) * self.scale

    base = HashEmbedding(dim=DIM)
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, Dropping()), Dropping)
    assert np.allclose(model.get_query_embedding("amber"), base.vector("amber"), atol=1e-6)


def test_a_base_of_another_dimension(path):
    """Where the base tells its dimension, the construction fails before anything is embedded."""
    base = HashEmbedding(dim=5)
    with pytest.raises(
        ModelFolderError, match=r"for vectors of 8 dimensions, and those of 'hash' have 5"
    ):
        AdapterEmbeddingModel(base, path)
    assert base.texts_seen == []


def test_a_base_of_another_dimension_that_does_not_tell(path):
    """Where it does not, the first query fails, with the same words."""

    class Silent(MockEmbedding):
        embed_dim: str = "unknown"

        def _get_query_embedding(self, query):
            return [1.0] * 5

    model = AdapterEmbeddingModel(Silent(embed_dim="unknown"), path)
    with pytest.raises(ModelFolderError, match="for vectors of 8 dimensions"):
        model.get_query_embedding("amber")


def test_another_base_of_the_same_dimension_is_reported(path, caplog):
    """The name in the folder and the name of the base differ: that is logged."""
    AdapterEmbeddingModel(HashEmbedding(dim=DIM, model_name="other"), path)
    assert "was trained on 'hash' and now stands behind 'other'" in caplog.text


def test_no_embedding_model(path):
    """A name in the base's place is refused."""
    with pytest.raises(ConfigurationError, match=r"'base_embed_model' must be .* \(got str\)"):
        AdapterEmbeddingModel("local:x", path)


def test_the_matrix(tmp_path):
    """`to_numpy` gives W, also of a low-rank adapter, and refuses what is no matrix."""
    base = HashEmbedding(dim=DIM)
    low_rank = LowRankAdapter(DIM, rank=2)
    with torch.no_grad():
        low_rank.up.weight.copy_(MATRIX[:, :2])
    found = AdapterEmbeddingModel(base, folder_of(tmp_path, linear())).to_numpy()
    assert np.allclose(found, MATRIX.numpy())
    found = AdapterEmbeddingModel(base, folder_of(tmp_path, low_rank)).to_numpy()
    expected = torch.eye(DIM) + low_rank.up.weight @ low_rank.down.weight
    assert np.allclose(found, expected.detach().numpy(), atol=1e-6)

    class Bent(LinearLayer):
        def forward(self, embed):
            return super().forward(embed).tanh()

    for adapter, words in (
        (TwoLayerNN(DIM, 4, DIM), "got TwoLayerNN"),
        (linear(bias=True), "LinearLayer with bias"),
        (Bent(DIM, DIM), "got Bent"),
    ):
        path = folder_of(tmp_path, adapter, "both")
        model = AdapterEmbeddingModel(base, path, type(adapter))
        with pytest.raises(ConfigurationError, match=words):
            model.to_numpy()


def test_identity_changes_with_the_adapter(tmp_path):
    """A cache of vectors tells two adapters over one base apart."""
    base = HashEmbedding(dim=DIM)
    path = folder_of(tmp_path, linear())
    before = identity(AdapterEmbeddingModel(base, path))
    assert identity(AdapterEmbeddingModel(base, path)) == before
    used = AdapterEmbeddingModel(base, path)
    used.get_query_embedding("amber")
    assert identity(used) == before  # else what is paid for would be paid for again
    LinearLayer(DIM, DIM).save(path)
    assert identity(AdapterEmbeddingModel(base, path)) != before


def test_an_adapter_trained_anew_is_another_to_the_caches_of_texts(tmp_path):
    """An `IngestionPipeline` knows a model by what it says of itself."""
    base = HashEmbedding(dim=DIM)
    for transform, changes in (("both", True), ("query", False)):
        path = folder_of(tmp_path, linear(), transform)
        outer = tmp_path / f"outer-{transform}"
        LinearLayer(DIM, DIM).save(str(outer))

        def told(path=path, outer=outer):
            inner = AdapterEmbeddingModel(base, path)
            pair = AsymmetricEmbeddingModel(base, inner)
            return [one.to_dict() for one in (inner, AdapterEmbeddingModel(inner, outer), pair)]

        before = told()
        assert told() == before
        layer = LinearLayer(DIM, DIM)
        save_adapter(layer, Path(path), transform=transform, embed_model=base, dimension=DIM)
        assert [now != then for now, then in zip(told(), before, strict=True)] == 3 * [changes]


def test_a_base_of_other_settings_is_another_to_the_caches_of_texts(tiny_bert_dir, tmp_path):
    """Its instruction shapes every text, behind an adapter and beside a model for queries."""
    bases = [
        HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu", text_instruction=prompt)
        for prompt in (None, None, "passage: ")
    ]
    adapter = folder_of(tmp_path, LinearLayer(32, 32), "query")
    for wrapped in (
        [AdapterEmbeddingModel(base, adapter) for base in bases],
        [AsymmetricEmbeddingModel(bases[0], base) for base in bases],
    ):
        one, same, other = (model.to_dict() for model in wrapped)
        assert one == same != other


def test_a_base_that_returns_arrays(tmp_path):
    """A table of NumPy is as good as lists to an index, and so to an adapter."""

    class Arrays(HashEmbedding):
        def _get_text_embeddings(self, texts):
            return np.array(super()._get_text_embeddings(texts))

    adapter = LinearLayer(32, 32)
    path = folder_of(tmp_path, adapter, "both")
    found = [
        AdapterEmbeddingModel(base, path).get_text_embedding_batch(["amber", "bridge"])
        for base in (Arrays(), HashEmbedding())
    ]
    assert np.allclose(*found)


@pytest.mark.parametrize("out_features", [32, 16])
def test_export(out_features, tiny_bert_dir, tmp_path):
    """The exported folder, loaded by name, gives the vectors of base and adapter."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    adapter = LinearLayer(32, out_features)
    with torch.no_grad():
        adapter.linear.weight.add_(torch.linspace(-1, 1, 32 * out_features).reshape(-1, 32).sin())
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_adapter(adapter, folder, transform="both", embed_model=base, dimension=32)
    model = AdapterEmbeddingModel(base, str(folder))
    exported = model.export_sentence_transformer(tmp_path / "exported")
    loaded = resolve_embed_model(f"local:{exported}")
    texts = ["amber bridge", "candle desert ember forest"]
    expected = model.get_text_embedding_batch(texts)
    assert np.allclose(loaded.get_text_embedding_batch(texts), expected, atol=1e-5)
    assert np.allclose(
        loaded.get_query_embedding("amber"), model.get_query_embedding("amber"), atol=1e-5
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_export_over_a_base_that_cuts_its_vectors(normalize, tiny_bert_dir, tmp_path):
    """The exported folder takes whole vectors and leaves out what `truncate_dim` cuts off."""
    base = HuggingFaceEmbedding(
        str(tiny_bert_dir), device="cpu", truncate_dim=DIM, normalize=normalize
    )
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, linear(), "both", base))
    exported = model.export_sentence_transformer(tmp_path / "exported")
    loaded = load_finetuned_model(exported, device="cpu", normalize=normalize)
    texts = ["amber bridge", "candle desert ember forest"]
    expected = model.get_text_embedding_batch(texts)
    assert len(expected[0]) == DIM
    assert np.allclose(loaded.get_text_embedding_batch(texts), expected, atol=1e-5)


def test_export_over_a_base_with_a_normalisation_of_its_own(tiny_bert_dir, tmp_path):
    """Its vectors have length one whatever LlamaIndex is told, and so have those of the export."""
    plain = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    modules = upstream_modules()
    SentenceTransformer(modules=[*plain, modules.Normalize()]).save(str(tmp_path / "unit"))
    base = HuggingFaceEmbedding(str(tmp_path / "unit"), device="cpu", normalize=False)
    adapter = LinearLayer(32, 32)
    with torch.no_grad():
        adapter.linear.weight.mul_(torch.linspace(1, 3, 32))
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, adapter, "both", base))
    exported = model.export_sentence_transformer(tmp_path / "exported")
    loaded = load_finetuned_model(exported, device="cpu", normalize=False)
    texts = ["amber bridge", "candle desert ember forest"]
    expected = model.get_text_embedding_batch(texts)
    assert np.allclose(loaded.get_text_embedding_batch(texts), expected, atol=1e-5)


def test_export_over_a_static_base(tiny_model_dir, tmp_path):
    """Such a model has no limit that could be set."""
    base = load_finetuned_model(tiny_model_dir)
    dim = len(base.get_text_embedding("amber"))
    adapter = LinearLayer(dim, dim)
    torch.nn.init.orthogonal_(adapter.linear.weight)
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, adapter, "both", base))
    model.export_sentence_transformer(str(tmp_path / "out"))
    exported = load_finetuned_model(tmp_path / "out")
    assert np.allclose(
        exported.get_text_embedding("amber"), model.get_text_embedding("amber"), atol=1e-5
    )


def test_export_refusals(tiny_bert_dir, tmp_path):
    """One side alone, a base that is no Sentence Transformer, a network: each says why not."""
    base = HashEmbedding(dim=DIM)
    for adapter, transform, words in (
        (linear(), "query", "'transform' must be 'both'"),
        (linear(), "both", "needs a HuggingFaceEmbedding"),
        (TwoLayerNN(DIM, 4, DIM), "both", "Only a LinearLayer without bias"),
    ):
        model = AdapterEmbeddingModel(base, folder_of(tmp_path, adapter, transform))
        with pytest.raises(ConfigurationError, match=words):
            model.export_sentence_transformer(tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_an_export_does_not_replace_the_base(tiny_bert_dir, tmp_path):
    """Which the adapter goes on standing behind."""
    base = HuggingFaceEmbedding(str(tiny_bert_dir), device="cpu")
    adapter = LinearLayer(32, 32)
    model = AdapterEmbeddingModel(base, folder_of(tmp_path, adapter, "both", base))
    with pytest.raises(ConfigurationError, match="'output_path' must be another folder than"):
        model.export_sentence_transformer(tiny_bert_dir)


def test_a_pair_of_models():
    """Queries go through one model, texts through the other, sync and async, alone and many."""
    queries = HashEmbedding(dim=DIM, query_prefix="ask ", model_name="q")
    texts = HashEmbedding(dim=DIM, embed_batch_size=3, model_name="t")
    model = AsymmetricEmbeddingModel(queries, texts)
    asked, written = queries.vector("ask amber"), texts.vector("amber")
    assert model.get_query_embedding("amber") == asked
    assert asyncio.run(model.aget_query_embedding("amber")) == asked
    assert model.get_query_embedding_batch(["amber"]) == [asked]
    assert model.get_text_embedding("amber") == written
    assert asyncio.run(model.aget_text_embedding("amber")) == written
    assert model.get_text_embedding_batch(["amber"] * 4) == [written] * 4
    assert asyncio.run(model.aget_text_embedding_batch(["amber"] * 4)) == [written] * 4
    assert texts.text_batches[-4:] == [3, 1, 3, 1]
    assert queries.texts_seen == []
    assert (model.query_embed_model, model.text_embed_model) == (queries, texts)


def test_a_pair_says_what_it_is():
    """Its name and serialised form name both models."""
    model = AsymmetricEmbeddingModel(HashEmbedding(model_name="q"), HashEmbedding(model_name="t"))
    assert model.model_name == "q -> t"
    found = model.to_dict()
    assert (found["query_model_name"], found["text_model_name"]) == ("q", "t")
    assert found["class_name"] == model.class_name() == "AsymmetricEmbeddingModel"
    assert pickle.loads(pickle.dumps(model)).model_name == "q -> t"


def test_a_pair_that_does_not_fit():
    """Different dimensions, or something that is no model, are refused at construction."""
    with pytest.raises(ConfigurationError, match=r"vectors of one length \(got 8 and 5\)"):
        AsymmetricEmbeddingModel(HashEmbedding(dim=8), HashEmbedding(dim=5))
    with pytest.raises(ConfigurationError, match=r"'text_embed_model' must be .* \(got str\)"):
        AsymmetricEmbeddingModel(HashEmbedding(), "model")
