"""`train="query"`: the queries' encoder learns, the documents keep their vectors."""

import copy
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_dataset
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import T5Config, T5EncoderModel, TrainerCallback

from llama_index.finetuning.embeddings import (
    AsymmetricEmbeddingModel,
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    evaluate_retrieval,
    load_finetuned_model,
    upstream,
)
from llama_index.finetuning.embeddings.manifest import read_manifest
from llama_index.finetuning.embeddings.sentence_transformer import frozen_documents
from llama_index.finetuning.embeddings.sentence_transformer.by_document import (
    MASKED,
    NEGATIVE,
    POSITIVE,
)
from llama_index.finetuning.embeddings.sentence_transformer.frozen_documents import (
    FrozenDocuments,
    QueryStepCollator,
)
from llama_index.finetuning.embeddings.sentence_transformer.frozen_layers import (
    frozen_first_layers,
    without_dropout,
)


@pytest.fixture
def query_engine(engine):
    """Return a function that makes a query-only engine over the tiny BERT."""
    return functools.partial(engine, train="query")


def test_queries_learn_and_documents_keep_their_vectors(query_engine, tiny_bert_dir):
    """After the training queries find more, while every text has the base's vector."""
    dataset = tiny_dataset(20, 2)
    base = HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")
    one = query_engine(epochs=8)
    one.finetune()
    tuned = one.get_finetuned_model()
    assert isinstance(tuned, AsymmetricEmbeddingModel)
    before = evaluate_retrieval(base, dataset).metrics["ndcg@10"]
    assert evaluate_retrieval(tuned, dataset).metrics["ndcg@10"] > before + 0.1
    texts = list(dataset.corpus.values())
    np.testing.assert_array_equal(
        tuned.get_text_embedding_batch(texts), base.get_text_embedding_batch(texts)
    )
    query = dataset.queries["q0-0"]
    assert not np.allclose(tuned.get_query_embedding(query), base.get_query_embedding(query))


def test_the_stored_index_is_not_embedded_again(query_engine, tiny_bert_dir, tmp_path):
    """An index that was persisted with the base answers queries through the tuned model."""
    dataset = tiny_dataset(20, 2)
    base = HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")
    nodes = [TextNode(id_=docid, text=text) for docid, text in dataset.corpus.items()]
    VectorStoreIndex(nodes, embed_model=base).storage_context.persist(str(tmp_path / "index"))
    one = query_engine(epochs=8)
    one.finetune()
    tuned = one.get_finetuned_model()

    def no_texts(texts):
        raise AssertionError("a text was embedded")

    object.__setattr__(tuned.text_embed_model, "_get_text_embeddings", no_texts)
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "index"))
    index = load_index_from_storage(storage, embed_model=tuned)

    def found(model):
        retriever = index.as_retriever(similarity_top_k=1, embed_model=model)
        return sum(
            retriever.retrieve(text)[0].node.node_id in dataset.relevant_docs[qid]
            for qid, text in dataset.queries.items()
        )

    assert found(tuned) > found(base)


def test_folder_is_a_router_and_loads_as_two_models(query_engine):
    """SentenceTransformer, load_finetuned_model and the engine give the same vectors."""
    one = query_engine(query_prompt="query: ", text_prompt="passage: ")
    one.finetune()
    router = SentenceTransformer(one.model_output_path, device="cpu")
    again = load_finetuned_model(one.model_output_path, device="cpu")
    assert isinstance(again, AsymmetricEmbeddingModel)
    texts = ["amber bridge candle", "river engine"]
    for model in (again, one.get_finetuned_model()):
        np.testing.assert_allclose(
            router.encode_query(texts, normalize_embeddings=True),
            [model.get_query_embedding(text) for text in texts],
            atol=1e-6,
        )
        np.testing.assert_allclose(
            router.encode_document(texts, normalize_embeddings=True),
            model.get_text_embedding_batch(texts),
            atol=1e-6,
        )


def test_callbacks_see_both_models_calls(query_engine):
    """LlamaIndex's callbacks are told of queries as they are of texts."""
    run = query_engine()
    run.finetune()
    handler = TokenCountingHandler()
    model = run.get_finetuned_model(callback_manager=CallbackManager([handler]))
    model.get_query_embedding("amber")
    assert len(handler.embedding_token_counts) == 1


def test_a_relative_folder_is_no_name_of_a_model(query_engine, tmp_path, monkeypatch):
    """LlamaIndex knows instructions for some names, which were not trained with."""
    monkeypatch.chdir(tmp_path)
    run = query_engine(model_output_path="BAAI/bge-small-en", train="both")
    run.finetune()
    returned = run.get_finetuned_model().get_query_embedding("amber")
    assert np.allclose(returned, run.model.encode("amber", normalize_embeddings=True), atol=1e-5)


def test_a_training_that_helps_nothing_hands_back_the_base(query_engine, tiny_bert_dir):
    """With a validation set that only gets worse, queries have the base's vectors."""
    val = tiny_dataset(20, 2)
    one = query_engine(val_dataset=val, evaluation_steps=2, training_args={"learning_rate": 1.0})
    one.finetune()
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    tuned = one.get_finetuned_model()
    text = "amber bridge candle"
    np.testing.assert_allclose(
        tuned.get_query_embedding(text), base.encode(text, normalize_embeddings=True), atol=1e-6
    )


def test_documents_are_embedded_once(query_engine, monkeypatch):
    """Whatever the number of evaluations, and also where training and validation share some."""
    val = tiny_dataset(6, 1, seed=3)
    val.corpus |= dict(list(tiny_dataset(20, 2).corpus.items())[6:9])
    one = query_engine(val_dataset=val, evaluation_steps=2)
    seen = []
    encode = SentenceTransformer.encode

    def counted(self, *args, **kwargs):
        seen.extend(args[0] if args else kwargs.get("inputs", kwargs.get("sentences")))
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "encode", counted)
    one.finetune()
    assert one.report is not None
    texts = {*val.corpus.values(), *tiny_dataset(20, 2).corpus.values()}
    assert {seen.count(text) for text in texts} == {1}


def test_second_run_trains_against_the_base_again(query_engine):
    """A second finetune() goes on from the tuned queries, against the base's documents."""
    one = query_engine()
    one.finetune()
    first = one._task.frozen_documents.vectors.clone()
    one.finetune()
    assert torch.equal(one._task.frozen_documents.vectors, first)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": "documents"}, "'train' must be in"),
        ({"batching": "pairs"}, "'batching' must be 'auto'"),
        ({"loss": upstream.losses().CosineSimilarityLoss}, "'train' can be 'query' only"),
    ],
)
def test_wrong_arguments_are_refused(query_engine, wrong, message):
    """What can't work with a query encoder alone is told before any training."""
    with pytest.raises(ConfigurationError, match=message):
        query_engine(**wrong)


def step(dataset, *rows, max_documents=None, monkeypatch=None, model=None):
    """Return documents and the collated step of some rows, one query a row."""
    if max_documents:
        monkeypatch.setattr(frozen_documents, "_MAX_DOCUMENTS", max_documents)
    pairs = [(qid, dataset.relevant_docs[qid][0]) for qid in dataset.queries]
    documents = FrozenDocuments(dataset, pairs, "")
    documents.vectors = torch.arange(len(documents.keys), dtype=torch.float32)[:, None]
    collate = QueryStepCollator(model, dataset, [[pair] for pair in pairs], documents, "", seed=0)
    return documents, collate([{"row": row} for row in rows])


@pytest.fixture
def model(tiny_bert_dir):
    """The tiny BERT."""
    return SentenceTransformer(str(tiny_bert_dir), device="cpu")


def test_step_holds_every_trained_document_and_no_false_negative(model):
    """Relevant documents are positive or masked; unasked documents are no column at all."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber", "b": "bridge"},
        corpus={"0": "one", "1": "two", "2": "three", "unasked": "four", "twin": "one"},
        relevant_docs={"a": ["0", "1"], "b": ["2"]},
    )
    documents, batch = step(dataset, 1, 0, model=model)
    assert [dataset.corpus[d] for d in ("0", "1", "2")] == list(documents._text_of.values())
    expected = [[NEGATIVE, NEGATIVE, POSITIVE], [POSITIVE, MASKED, NEGATIVE]]
    assert batch["label"].matrix.tolist() == expected
    assert batch["document_sentence_embedding"].tolist() == [[0.0], [1.0], [2.0]]


def test_judgements_of_other_queries_bring_no_document(model):
    """One file of judgements for all splits: only those of this split's queries count."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber", "b": "bridge"},
        corpus={"0": "one", "1": "two", "2": "three"},
        relevant_docs={"a": ["0"], "b": ["1"], "of the test set": ["2", "nowhere"]},
    )
    documents, _ = step(dataset, 0, 1, model=model)
    assert list(documents._text_of.values()) == ["one", "two"]


def test_all_of_a_steps_relevant_documents_stay(model, monkeypatch):
    """However few documents a step may hold, what its queries are trained on is in it."""
    monkeypatch.setattr(frozen_documents, "_MAX_DOCUMENTS", 2)
    dataset = tiny_dataset(12, 1)
    dataset.relevant_docs["q0-0"] = list(dataset.corpus)[:5]
    pairs = [("q0-0", docid) for docid in dataset.relevant_docs["q0-0"]]
    documents = FrozenDocuments(dataset, pairs, "")
    documents.vectors = torch.zeros(len(documents.keys), 1)
    batch = QueryStepCollator(model, dataset, [pairs], documents, "", seed=0)([{"row": 0}])
    assert int((batch["label"].matrix == POSITIVE).sum()) == 5


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_learns_ten_times_as_fast(query_engine):
    """As with all weights, LoRA takes a higher learning rate."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["query"])
    rates = []
    for settings in ({}, {"peft_config": config}):
        one = query_engine(epochs=1, training_args=None, **settings)
        one.finetune()
        rates.append(read_manifest(Path(one.model_output_path))["parameters"]["learning_rate"])
    assert rates == pytest.approx([2e-5, 2e-4])


def test_the_first_layers_stay_as_they_are(query_engine, model, tmp_path):
    """Of three layers the first is kept, with the word embeddings; afterwards all can train."""
    bert = model[0].auto_model
    bert.encoder.layer.append(copy.deepcopy(bert.encoder.layer[0]))
    bert.config.num_hidden_layers = 3
    model.save(str(tmp_path / "three"))
    run = query_engine(model_id=str(tmp_path / "three"))
    before = {name: one.clone() for name, one in run.model.named_parameters()}
    run.finetune()
    after = dict(run.model.named_parameters())
    same = {name for name, one in after.items() if torch.equal(one, before[name])}
    kept = {name for name in after if ".embeddings." in name or ".layer.0." in name}
    assert kept
    # No text passes the pooler.
    assert same == kept | {name for name in after if ".pooler." in name}
    assert all(one.requires_grad for one in after.values())


class Rates(TrainerCallback):
    """Note how much is dropped out in a run's steps."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.seen = rates(model)


def rates(model):
    """Return the rates of all dropout in a model, those of adapters apart from the others."""
    found = [(name, one.p) for name, one in model.named_modules() if isinstance(one, nn.Dropout)]
    return [[p for name, p in found if ("lora" in name) is adapters] for adapters in (False, True)]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_nothing_is_dropped_out_but_what_was_asked_for(query_engine):
    """Afterwards a model has its rates again; both sides, and LoRA, train with theirs."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query", "value"], lora_dropout=0.25)
    for settings in ({}, {"train": "both"}, {"peft_config": config}):
        noted = Rates()
        run = query_engine(callbacks=[noted], **settings)
        before = rates(run.model)
        assert 0.1 in before[0]
        run.finetune()
        # Attention, fused on a CPU, has none in any case.
        assert set(noted.seen[0]) == ({0.0, 0.1} if settings else {0.0})
        assert set(noted.seen[1]) == ({0.25} if "peft_config" in settings else set())
        assert rates(run.model)[0] == before[0]


def test_dropout_that_is_a_number_is_left_out_too():
    """The attention of T5 holds its rate so."""
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = T5EncoderModel(config).train()
    tokens = torch.arange(8)[None]

    def outputs():
        return [model(tokens).last_hidden_state for _ in range(2)]

    with without_dropout(model):
        assert torch.equal(*outputs())
    assert not torch.equal(*outputs())


def test_a_callable_that_makes_the_ranking_loss(query_engine, engine):
    """It is known by what it makes, and its scale holds."""

    def loss(model):
        return upstream.losses().MultipleNegativesRankingLoss(model, scale=30.0)

    assert query_engine(loss=loss).loss.scale == 30.0
    assert engine(loss=loss, batching="by_document").loss.scale == 30.0


def test_a_loss_that_is_set_after_a_run_has_the_bases_documents(query_engine, tiny_bert_dir):
    """By then the model is trained, and would embed the documents otherwise."""
    run = query_engine(epochs=8)
    run.finetune()
    run.loss = run.loss
    run.finetune()
    documents = run._task.frozen_documents
    base = HuggingFaceEmbedding(model_name=str(tiny_bert_dir), device="cpu")
    texts = list(documents._text_of.values())
    expected = torch.tensor(base.get_text_embedding_batch(texts))
    found = nn.functional.normalize(documents.vectors, dim=1)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("layers", [0, 2])
def test_models_without_layers_to_spare_train_whole(tiny_bert_dir, tiny_model_dir, layers):
    """Fewer than three layers, or none, are all trained."""
    path = tiny_bert_dir if layers else tiny_model_dir
    one = SentenceTransformer(str(path), device="cpu")
    with frozen_first_layers(one):
        assert all(weights.requires_grad for weights in one.parameters())


def test_the_base_is_found_from_elsewhere(query_engine, tiny_bert_dir, tmp_path, monkeypatch):
    """A relative path is one from where the engine was made; the base is read once more."""
    shutil.copytree(tiny_bert_dir, tmp_path / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    run = query_engine(model_id="base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.finetune()
    assert isinstance(run.get_finetuned_model(), AsymmetricEmbeddingModel)


def test_the_base_is_not_overwritten(query_engine, tiny_bert_dir):
    """It goes on embedding the documents, so that its folder is no output."""
    for output in (tiny_bert_dir, tiny_bert_dir.parent):
        with pytest.raises(ConfigurationError, match="must be another folder than the base's"):
            query_engine(model_output_path=str(output))


def test_tuning_goes_on_before_the_documents_model(query_engine, tmp_path):
    """Tuned queries as the base would embed the documents anew, by what the index never saw."""
    run = query_engine()
    run.finetune()
    with pytest.raises(ConfigurationError, match="'model_id'.* embeds the documents.*/document'"):
        query_engine(
            model_id=f"{run.model_output_path}/query", model_output_path=str(tmp_path / "on")
        )
    on = query_engine(
        model_id=f"{run.model_output_path}/document", model_output_path=str(tmp_path / "on")
    )
    on.finetune()
    first, second = (one.get_finetuned_model().text_embed_model for one in (run, on))
    np.testing.assert_array_equal(
        first.get_text_embedding("amber bridge"), second.get_text_embedding("amber bridge")
    )


def test_hard_negatives_are_negatives_of_the_queries_that_name_them(model):
    """A document that is only a hard negative is hidden from the other queries."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber", "b": "bridge"},
        corpus={"0": "one", "1": "two", "hard": "three"},
        relevant_docs={"a": ["0"], "b": ["1"]},
        hard_negatives={"a": ["hard"]},
    )
    _, batch = step(dataset, 0, 1, model=model)
    expected = [[POSITIVE, NEGATIVE, NEGATIVE], [NEGATIVE, POSITIVE, MASKED]]
    assert batch["label"].matrix.tolist() == expected


def test_many_documents_are_sampled_with_the_positives_among_them(model, monkeypatch):
    """Beyond the limit a step takes its own documents and a sample that its rows decide."""
    dataset = tiny_dataset(20, 1)
    _, batch = step(dataset, 19, 3, max_documents=5, monkeypatch=monkeypatch, model=model)
    _, again = step(dataset, 19, 3, max_documents=5, monkeypatch=monkeypatch, model=model)
    _, other = step(dataset, 4, 3, max_documents=5, monkeypatch=monkeypatch, model=model)
    assert batch["label"].matrix.shape == (2, 5)
    assert (batch["label"].matrix == POSITIVE).sum(dim=1).tolist() == [1, 1]
    assert batch["document_sentence_embedding"][:2].tolist() == [[19.0], [3.0]]
    vectors = [one["document_sentence_embedding"].tolist() for one in (batch, again, other)]
    assert vectors[0] == vectors[1] != vectors[2]


def test_prompts_stand_in_the_training(query_engine, tiny_bert_dir):
    """Before every query that is tokenized, and before every document that is embedded once."""
    one = query_engine(query_prompt="query: ", text_prompt="passage: ")
    frozen, collate = one._task.frozen_documents, one._task.collator
    frozen.encode(one.model, None, {})
    batch = collate([{"row": 0}, {"row": 5}])
    word = one.model.tokenizer.convert_tokens_to_ids("query:")
    assert batch["query_input_ids"][:, 1].tolist() == [word, word]
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    expected = base.encode(["passage: " + text for text in one.dataset.corpus.values()])
    np.testing.assert_allclose(batch["document_sentence_embedding"], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_documents_are_embedded_in_the_precision_of_the_training(query_engine, dtype):
    """In half precision where the queries are, and kept as fp32."""
    one = query_engine()
    frozen = one._task.frozen_documents
    frozen.encode(one.model, dtype, {})
    exact = one.model.encode(list(one.dataset.corpus.values()), convert_to_tensor=True)
    assert frozen.vectors.dtype == torch.float32
    assert torch.allclose(frozen.vectors, exact, atol=0.1)
    assert torch.allclose(frozen.vectors, exact, atol=1e-5) is (dtype is None)


@pytest.mark.parametrize(("use_all_docs", "positives"), [(False, [1, 1]), (True, [2, 1])])
def test_a_row_is_a_query_with_all_its_trained_documents(query_engine, use_all_docs, positives):
    """Also where queries share a document."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber", "b": "bridge"},
        corpus={"0": "one", "1": "two", "2": "three"},
        relevant_docs={"a": ["0", "1"], "b": ["0"]},
    )
    one = query_engine(dataset=dataset, use_all_docs=use_all_docs)
    one._task.frozen_documents.encode(one.model, None, {})
    assert (one._task.batching, len(one._task.rows)) == ("queries", 2)
    batch = one._task.collator([{"row": 0}, {"row": 1}])
    assert (batch["label"].matrix == POSITIVE).sum(dim=1).tolist() == positives


def test_the_loss_is_the_one_that_was_given(query_engine, model):
    """Its scale, and the dimensions that are to be trained beside the whole."""
    loss = upstream.losses().MultipleNegativesRankingLoss(model, scale=7.0)
    one = query_engine(loss=loss, matryoshka_dims=[16])
    assert (one.loss.scale, one.loss.symmetric, one.loss.dims) == (7.0, False, (32, 16))


def test_one_document_for_all_queries_is_refused(query_engine):
    """There is nothing to choose from, which is told before anything is embedded."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "amber", "b": "bridge"},
        corpus={"0": "one", "1": "two"},
        relevant_docs={"a": ["0"], "b": ["0"]},
    )
    one = query_engine(dataset=dataset)
    with pytest.raises(DatasetError, match="the same document for all its queries"):
        one.finetune()
    assert one._task.frozen_documents.vectors is None


def test_no_document_is_sampled_twice(model, monkeypatch):
    """A step at the limit has as many different documents as the limit says."""
    dataset = tiny_dataset(20, 1)
    for rows in ((0, 1), (7, 3), (19, 18)):
        _, batch = step(dataset, *rows, max_documents=18, monkeypatch=monkeypatch, model=model)
        assert len(set(batch["document_sentence_embedding"].flatten().tolist())) == 18
