"""The full engine: training, validation, saving, parity, checkpoints and resuming."""

import asyncio
import functools
import itertools
import json
import logging
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import tiny_dataset
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.embeddings import resolve_embed_model
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    EmbeddingQAFinetuneDataset,
    ModelFolderError,
    OutputError,
    SentenceTransformersFinetuneEngine,
    TrainingError,
    evaluate_retrieval,
    load_finetuned_model,
    upstream,
)
from llama_index.finetuning.embeddings.files import output_lock
from llama_index.finetuning.embeddings.sentence_transformer import checkpoints
from llama_index.finetuning.embeddings.sentence_transformer.arguments import checkpoint_folder
from llama_index.finetuning.embeddings.sentence_transformer.attention import fused_attention
from llama_index.finetuning.embeddings.sentence_transformer.by_document import Targets
from llama_index.finetuning.embeddings.sentence_transformer.document_loss import (
    DocumentRankingLoss,
)
from llama_index.finetuning.embeddings.sentence_transformer.length import (
    choose_max_seq_length,
    position_limit,
)
from llama_index.finetuning.embeddings.sentence_transformer.precision import choose_precision

TEXTS = ["amber bridge candle", "river engine market garden", "planet"]


def vectors(model, texts=TEXTS):
    """Embed texts through a LlamaIndex model."""
    return np.array(model.get_text_embedding_batch(texts))


def weights(model):
    """Return all weights of a model as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def facts(engine):
    """Read the record that an engine wrote."""
    return json.loads((Path(engine.model_output_path) / "finetuning.json").read_text())


class Recorder(TrainerCallback):
    """Remember what the Trainer logged and evaluated."""

    def __init__(self):
        self.evaluated, self.losses, self.steps, self.rates = [], [], 0, []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps = state.global_step

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated.append(state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.rates.append(logs["learning_rate"])


class Break(TrainerCallback):
    """Pull the plug when so many steps are done."""

    def __init__(self, *, after):
        self.after = after

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            raise KeyboardInterrupt


def test_finetuning_improves_retrieval_and_says_so(engine):
    """With a validation set the metric rises, and the manifest, the card and the model agree."""
    run = engine(val_dataset=tiny_dataset(20, 2, seed=3), epochs=4, evaluation_steps=2)
    run.finetune()
    metrics = facts(run)["metrics"]
    assert metrics["after"]["ndcg@10"] > metrics["before"]["ndcg@10"] + 0.05
    assert run.evaluator.evaluate(run.model).metrics == pytest.approx(metrics["after"])
    card = (Path(run.model_output_path) / "README.md").read_text()
    assert run.report.to_markdown() in card
    assert "chosen by these same queries" in card
    assert (Path(run.model_output_path) / "report.html").is_file()


def test_no_validation_set_is_needed(engine):
    """Without one the engine trains all the same."""
    run = engine()
    before = weights(run.model)
    run.finetune()
    assert not torch.equal(before, weights(run.model))
    assert facts(run)["metrics"] == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_three_ways_to_the_model_give_the_same_vectors(engine, precision):
    """The returned model, `local:` and the model in memory agree to 1e-5, bf16 training or not."""
    run = engine(precision=precision, val_dataset=tiny_dataset(8, 1, seed=3))
    run.finetune()
    returned = vectors(run.get_finetuned_model())
    local = vectors(resolve_embed_model("local:" + run.model_output_path))
    in_memory = run.model.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(returned - local).max() < 1e-5
    assert np.abs(returned - in_memory).max() < 1e-5


def test_no_device_trains_where_the_model_is(engine):
    """Without a device the model's own is trained on, in bf16 too where that is a CPU."""
    run = engine(device=None, precision="bf16")
    before = weights(run.model).cpu()
    run.finetune()
    assert not torch.equal(before, weights(run.model).cpu())
    assert facts(run)["parameters"]["precision"] == "bf16"


def test_the_model_works_wherever_llama_index_takes_one(engine):
    """Index, settings, pipeline, sync and async calls accept the finetuned model."""
    run = engine()
    run.finetune()
    model = run.get_finetuned_model(embed_batch_size=7)
    assert model.embed_batch_size == 7
    nodes = [TextNode(id_=docid, text=text) for docid, text in run.dataset.corpus.items()]
    before = Settings._embed_model
    try:
        Settings.embed_model = model
        hits = VectorStoreIndex(nodes).as_retriever(similarity_top_k=2).retrieve(TEXTS[0])
    finally:
        Settings._embed_model = before
    assert len(hits) == 2
    embedded = IngestionPipeline(transformations=[model]).run(nodes=nodes[:3])
    assert [len(node.embedding) for node in embedded] == [32, 32, 32]
    awaited = asyncio.run(model.aget_text_embedding_batch(TEXTS))
    assert np.allclose(awaited, vectors(model), atol=1e-6)


@pytest.mark.parametrize("batching", ["by_document", "pairs"])
def test_prompts_are_the_same_in_training_evaluation_and_the_returned_model(engine, batching):
    """A query carries its prompt in training rows, evaluation, memory and the returned model."""
    run = engine(
        query_prompt="query: ",
        text_prompt="passage: ",
        batching=batching,
        val_dataset=tiny_dataset(8, 1, seed=3),
    )
    assert (run.evaluator.query_prompt, run.evaluator.corpus_prompt) == ("query: ", "passage: ")
    seen = []
    run.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]["input_ids"]))
    run.finetune()
    prompts = {int(i) for i in run.model.tokenizer.convert_tokens_to_ids(["query:", "passage:"])}
    assert seen
    assert all(int(ids[row, 1]) in prompts for ids in seen for row in range(len(ids)))
    model = run.get_finetuned_model()
    assert facts(run)["prompts"] == {"query": "query: ", "text": "passage: "}
    in_memory = run.model.encode("query: river", normalize_embeddings=True)
    assert np.allclose(model.get_query_embedding("river"), in_memory, atol=1e-5)
    saved = SentenceTransformer(run.model_output_path, device="cpu")
    in_folder = saved.encode("river", prompt_name="query", normalize_embeddings=True)
    assert np.allclose(in_memory, in_folder, atol=1e-5)


def test_prompts_of_the_folder_are_not_used_behind_the_users_back(
    engine, tiny_bert_dir, tmp_path, caplog
):
    """A folder with prompts trains without them unless told, as the returned model embeds."""
    prompted = SentenceTransformer(
        str(tiny_bert_dir), device="cpu", prompts={"query": "query: "}, default_prompt_name="query"
    )
    prompted.save(str(tmp_path / "prompted"))
    engine(model_id=str(tmp_path / "prompted"), query_prompt="")
    assert "names prompts" not in caplog.text
    run = engine(model_id=str(tmp_path / "prompted"))
    assert "pass query_prompt='query: ' and text_prompt=''" in caplog.text
    run.finetune()
    returned = run.get_finetuned_model().get_query_embedding("river")
    assert np.allclose(returned, run.model.encode("river", normalize_embeddings=True), atol=1e-5)


def test_the_instruction_that_llama_index_would_add_is_told(
    engine, tiny_bert_dir, tmp_path, monkeypatch, caplog
):
    """For a model that the wrapper knows by name, unless the prompt is said."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert_dir, "BAAI/bge-small-en-v1.5")
    engine(model_id="BAAI/bge-small-en-v1.5", query_prompt="")
    engine()
    assert "instruction" not in caplog.text
    engine(model_id="BAAI/bge-small-en-v1.5")
    assert "query_prompt='Represent this question for searching relevant passages: '" in caplog.text


def test_the_untouched_base_wins_where_training_only_hurts(engine, tiny_bert_dir, caplog):
    """A ruinous learning rate hands back the base, to the bit, and the record says so."""
    run = engine(
        val_dataset=tiny_dataset(20, 2), training_args={"learning_rate": 1e3}, evaluation_steps=1
    )
    base = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    with caplog.at_level(logging.WARNING, logger="llama_index.finetuning.embeddings"):
        run.finetune()
    assert "the base is handed back unchanged" in caplog.text
    assert "the base is handed back unchanged" in run.summary
    assert facts(run)["summary"] == run.summary
    for place in ("README.md", "report.html"):
        assert run.summary in (Path(run.model_output_path) / place).read_text()
    assert run.summary in run.report.summary()
    assert facts(run)["metrics"]["best_step"] == 0
    assert facts(run)["metrics"]["after"] == facts(run)["metrics"]["before"]
    assert np.array_equal(run.model.encode(TEXTS), base.encode(TEXTS))


def test_evaluation_steps_and_the_last_step_are_evaluated(engine):
    """Evaluations come every so many steps and at the end; 0 means after each epoch."""
    for steps, expected in ((3, [3, 4]), (0, [2, 4]), (50, [4])):
        recorder = Recorder()
        run = engine(
            val_dataset=tiny_dataset(8, 1, seed=3),
            evaluation_steps=steps,
            callbacks=[recorder],
        )
        run.finetune()
        assert recorder.evaluated == expected


def test_training_kwargs_of_the_call_override_those_of_the_constructor(engine):
    """finetune(max_steps=1) stops after a step; the constructor's arguments hold otherwise."""
    recorder = Recorder()
    run = engine(callbacks=[recorder], training_args={"max_steps": 3})
    run.finetune(max_steps=1)
    assert recorder.steps == 1


def test_training_arguments_may_be_an_instance(engine, tmp_path):
    """Fields of an instance that were changed hold, all others stay the engine's."""
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "trainer"), max_steps=2, logging_steps=1, use_cpu=True
    )
    recorder = Recorder()
    run = engine(training_args=args, callbacks=[recorder], batch_size=7)
    run.finetune()
    assert recorder.steps == 2
    assert facts(run)["parameters"]["batch_size"] == 7
    assert not (tmp_path / "trainer").exists()


def test_the_learning_rate_warms_up_over_a_tenth_of_the_steps(engine):
    """20 steps rise for 2 and then fall to zero."""
    recorder = Recorder()
    run = engine(
        callbacks=[recorder],
        epochs=10,
        training_args={"learning_rate": 1.0, "logging_steps": 1, "max_grad_norm": 1e-6},
    )
    run.finetune()
    assert recorder.rates[:4] == pytest.approx([0.0, 0.5, 1.0, 17 / 18])
    assert recorder.rates[-1] == pytest.approx(1 / 18)


def test_an_unknown_training_argument_is_refused_with_a_suggestion(engine):
    """Misspelt names fail before any training, with the nearest names."""
    with pytest.raises(ConfigurationError, match=r"'learning_rat'.*learning_rate"):
        engine(training_args={"learning_rat": 1})
    run = engine()
    with pytest.raises(ConfigurationError, match="'num_epochs'"):
        run.finetune(num_epochs=1)
    assert not Path(run.model_output_path).exists()


def test_use_all_docs_trains_on_more_pairs(engine):
    """Pairs are one a query by default and one a relevant document with use_all_docs."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "ask amber", "q2": "ask river"},
        corpus={"a": "amber", "b": "bridge", "c": "river"},
        relevant_docs={"q1": ["a", "b"], "q2": ["c"]},
    )
    assert len(engine(dataset=dataset)._task.rows) == 2
    assert len(engine(dataset=dataset, use_all_docs=True)._task.rows) == 3


def test_the_same_seed_gives_the_same_weights(engine):
    """Runs of one seed agree to the bit, and another seed gives others."""
    results = []
    for seed in (1, 1, 2):
        run = engine(seed=seed)
        run.finetune()
        results.append(weights(run.model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_batching_is_chosen_by_loss_and_data(engine):
    """By document where documents share queries and the loss is plain, else pairs."""
    losses = upstream.losses()
    assert engine()._task.batching == "by_document"
    assert engine(dataset=tiny_dataset(10, 1))._task.batching == "pairs"
    assert engine(loss=losses.CoSENTLoss)._task.batching == "pairs"
    assert engine(batching="pairs")._task.batching == "pairs"
    with pytest.raises(ConfigurationError, match=r"'by_document' only.*\(got CoSENTLoss\)"):
        engine(loss=losses.CoSENTLoss, batching="by_document")


def test_a_given_loss_keeps_its_settings(engine, tiny_bert_dir):
    """Its scale, its direction and the dimensions, by document and in pairs of another loss."""
    losses = upstream.losses()
    other = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    plain = losses.MultipleNegativesRankingLoss(other, scale=7.0)
    loss = engine(loss=plain, matryoshka_dims=[16]).loss
    assert (loss.scale, loss.symmetric, loss.dims) == (7.0, False, (32, 16))
    run = engine(loss=losses.CoSENTLoss, matryoshka_dims=[16])
    assert isinstance(run.loss, losses.MatryoshkaLoss)
    assert isinstance(run.loss.loss, losses.CoSENTLoss)
    assert (run.loss.model, list(run.loss.matryoshka_dims)) == (run.model, [32, 16])


@pytest.mark.parametrize(("batching", "together"), [("pairs", False), ("by_document", True)])
def test_only_pairs_are_kept_apart_for_false_negatives(engine, batching, together):
    """By document they may meet, where the loss masks them."""
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q1": "one", "q2": "two"},
        corpus={"a": "text a", "b": "text b"},
        relevant_docs={"q1": ["a"], "q2": ["b", "a"]},
    )
    task = engine(dataset=dataset, batching=batching)._task
    sampler = task.batch_sampler(task.rows, batch_size=2, drop_last=False)
    assert ([0, 1] in [sorted(batch) for batch in sampler]) is together


def test_two_documents_are_enough_to_learn_from(engine):
    """In one step, or as a document and its query's hard negative."""
    dataset = tiny_dataset(2, 1)
    engine(dataset=dataset, batch_size=2).finetune()
    with pytest.raises(ConfigurationError, match="'batch_size' must be at least 2"):
        engine(dataset=dataset, batch_size=1).finetune()
    hard = dataset.model_copy(update={"hard_negatives": {"q0-0": ["d1"], "q1-0": ["d0"]}})
    engine(dataset=hard, batch_size=1).finetune()
    one_query = {"per_device_train_batch_size": 1}
    engine(dataset=dataset, train="query", training_args=one_query).finetune()


@pytest.mark.filterwarnings("ignore:mtime may not be reliable on this filesystem")
def test_checkpoints_are_limited_and_resuming_ends_where_an_unbroken_run_ends(
    engine, tmp_path, monkeypatch
):
    """A run that breaks and is resumed gives the weights of one that does not break."""
    monkeypatch.chdir(tmp_path)
    usual = {
        "epochs": 4,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
        "checkpoint_save_total_limit": 2,
        "val_dataset": tiny_dataset(8, 1, seed=3),
        "evaluation_steps": 2,
    }

    unbroken = engine(model_output_path="unbroken", **usual)
    unbroken.finetune()
    folder = Path("checkpoints/unbroken")
    assert sorted(one.name for one in folder.glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-8",
    ]
    broken = engine(model_output_path="broken", callbacks=[Break(after=5)], **usual)
    with pytest.raises(KeyboardInterrupt):
        broken.finetune()
    assert not Path("broken").exists()
    # A checkpoint that was cut off while it was written has no seal, and is passed over.
    torn = Path("checkpoints/broken/checkpoint-5")
    torn.mkdir()
    recorder = Recorder()
    resumed = engine(
        model_output_path="broken", resume_from_checkpoint=True, callbacks=[recorder], **usual
    )
    resumed.finetune()
    assert recorder.evaluated == [6, 8]
    assert torch.allclose(weights(unbroken.model), weights(resumed.model), atol=1e-6)
    assert facts(unbroken)["metrics"] == facts(resumed)["metrics"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"dataset": tiny_dataset(20, 2, seed=9)}),
        ({}, {"val_dataset": tiny_dataset(8, 1, seed=5)}),
        ({}, {"loss": upstream.losses().MultipleNegativesRankingLoss}),
        (
            {"loss": upstream.losses().CoSENTLoss},
            {"loss": lambda model: upstream.losses().CoSENTLoss(model, scale=7.0)},
        ),
        ({}, {"query_prompt": "query: "}),
        ({}, {"use_all_docs": True}),
    ],
    ids=["data", "validation", "direction", "loss", "prompt", "relevant documents"],
)
def test_a_checkpoint_of_another_run_is_not_resumed(engine, tmp_path, monkeypatch, first, second):
    """With anything else another run: training starts anew instead of mixing the two."""
    monkeypatch.chdir(tmp_path)
    usual = {"model_output_path": "out", "save_checkpoints": True, "checkpoint_save_steps": 1}
    engine(**usual, **first).finetune()
    recorder = Recorder()
    other = engine(
        resume_from_checkpoint=True,
        callbacks=[recorder],
        training_args={"learning_rate": 3e-3, "logging_steps": 1},
        **usual,
        **second,
    )
    other.finetune()
    assert len(recorder.losses) == recorder.steps >= 4


def test_checkpoints_of_an_older_run_are_not_resumed(engine, tmp_path, monkeypatch):
    """Neither where a shorter run has begun since, nor where they are from beyond its end."""
    monkeypatch.chdir(tmp_path)

    usual = {"model_output_path": "out", "save_checkpoints": True, "checkpoint_save_steps": 1}
    fresh = engine(epochs=2)
    fresh.finetune()
    engine(epochs=4, **usual).finetune()
    recorder = Recorder()
    short = engine(epochs=2, resume_from_checkpoint=True, callbacks=[recorder], **usual)
    short.finetune()
    assert recorder.steps > 0
    engine(epochs=4, **usual).finetune()
    with pytest.raises(KeyboardInterrupt):
        engine(epochs=2, callbacks=[Break(after=2)], **usual).finetune()
    resumed = engine(epochs=2, resume_from_checkpoint=True, **usual)
    resumed.finetune()
    assert torch.allclose(weights(fresh.model), weights(resumed.model), atol=1e-6)


def test_the_best_of_a_longer_run_is_not_handed_back(engine, tmp_path, monkeypatch):
    """What a longer run kept when it went on from a checkpoint is none of the shorter one's."""
    monkeypatch.chdir(tmp_path)
    usual = {
        "model_output_path": "out",
        "save_checkpoints": True,
        "checkpoint_save_steps": 1,
        "val_dataset": tiny_dataset(20, 2, seed=3),
        "evaluation_steps": 1,
    }
    short = engine(epochs=1, **usual)
    short.finetune()
    steps = facts(short)["training_log"][-1]["step"]
    long = engine(epochs=8, resume_from_checkpoint=True, **usual)
    long.finetune()
    assert facts(long)["metrics"]["best_step"] > steps
    again = engine(epochs=1, resume_from_checkpoint=True, **usual)
    again.finetune()
    assert facts(again)["metrics"] == facts(short)["metrics"]


def test_two_outputs_with_one_checkpoint_folder_take_turns(engine, tmp_path, monkeypatch):
    """One run would restore the best weights of the other; the second is refused at once."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    usual = {"save_checkpoints": True, "val_dataset": tiny_dataset(8, 1, seed=3)}
    with (
        output_lock(checkpoint_folder("out") / "run", name="checkpoint folder"),
        pytest.raises(OutputError, match="'checkpoint folder' must not be in use"),
    ):
        engine(model_output_path="../out", **usual).finetune()
    # What a run keeps as its best stands beside the checkpoints of an output "out/best".
    engine(model_output_path="out/best", checkpoint_save_steps=1, **usual).finetune()
    kept = sorted(Path("checkpoints/out/best").rglob("*"))
    engine(model_output_path="out", **usual).finetune()
    assert set(kept) <= set(Path("checkpoints/out/best").rglob("*"))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("out", "checkpoints/out"),
        ("a/b", "checkpoints/a/b"),
        ("/abs/out", "/abs/checkpoints/out"),
        ("../out", "checkpoints/out"),
        ("./a/../b", "checkpoints/a/b"),
    ],
)
def test_checkpoints_lie_under_checkpoints(output, expected):
    """Below the working directory, or on the disk that an absolute path names."""
    assert checkpoint_folder(output) == Path(expected)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_leaves_the_old_model(engine):
    """NaN raises an error that names the step, and the model of before stays whole."""
    run = engine()
    run.finetune()
    kept = (Path(run.model_output_path) / "model.safetensors").read_bytes()

    class Poison(TrainerCallback):
        """Break the weights at the second step."""

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                next(model.parameters()).data.fill_(float("nan"))

    broken = engine(callbacks=[Poison()])
    with pytest.raises(TrainingError, match="nan at step 2"):
        broken.finetune()
    assert (Path(run.model_output_path) / "model.safetensors").read_bytes() == kept
    left = sorted(one.name for one in Path(run.model_output_path).parent.iterdir())
    assert left == [".out.lock", "out"]


def test_hard_negatives_are_trained_against(engine):
    """A query's document ends up further above its hard negative that is trained against."""
    dataset = tiny_dataset(12, 2)
    hard = {qid: [f"d{(int(qid[1:].split('-')[0]) + 1) % 12}"] for qid in dataset.queries}
    gaps = []
    for given in (None, hard):
        run = engine(
            dataset=dataset.model_copy(update={"hard_negatives": given}),
            batch_size=2,
            epochs=8,
            training_args={"learning_rate": 1e-3},
        )
        run.finetune()
        encode = functools.partial(run.model.encode, normalize_embeddings=True)
        queries = encode(list(dataset.queries.values()))
        own = encode([dataset.corpus[dataset.relevant_docs[qid][0]] for qid in dataset.queries])
        other = encode([dataset.corpus[hard[qid][0]] for qid in dataset.queries])
        gaps.append(float(np.mean(np.sum(queries * (own - other), axis=1))))
    assert gaps[1] > gaps[0] + 0.02


@pytest.mark.parametrize("batching", ["by_document", "pairs"])
def test_matryoshka_trains_the_prefixes(engine, batching):
    """With matryoshka_dims the first dimensions alone find more documents than without."""
    dataset = tiny_dataset(30, 2)
    hits = []
    for dims in (None, [32, 4]):
        run = engine(dataset=dataset, batching=batching, matryoshka_dims=dims, epochs=20)
        run.finetune()
        cut = SentenceTransformer(run.model_output_path, device="cpu", truncate_dim=4)
        queries = cut.encode(list(dataset.queries.values()), normalize_embeddings=True)
        documents = cut.encode(list(dataset.corpus.values()), normalize_embeddings=True)
        best = (queries @ documents.T).argmax(axis=1)
        hits.append(float(np.mean(best == np.repeat(np.arange(30), 2))))
    assert hits[1] > hits[0]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_is_merged_into_the_folder_and_kept_beside_it(engine):
    """A PEFT adapter trains alone, `local:` loads the merged weights, and the adapter is kept."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["query", "value"])
    run = engine(peft_config=config, val_dataset=tiny_dataset(8, 1, seed=3))
    trainable = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    run.finetune()
    assert (Path(run.model_output_path) / "peft_adapter" / "adapter_config.json").is_file()
    local = vectors(resolve_embed_model("local:" + run.model_output_path))
    assert np.abs(local - run.model.encode(TEXTS, normalize_embeddings=True)).max() < 1e-5
    trained = []

    class Watch(TrainerCallback):
        """Note which weights train."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            trained.extend(name for name, p in model.named_parameters() if p.requires_grad)

    run.callbacks.append(Watch())
    run.finetune()
    assert set(trained) == trainable
    with pytest.raises(ConfigurationError, match=r"peft\.PeftConfig"):
        engine(peft_config={"r": 4})


def test_model_kwargs_reach_the_transformer(engine):
    """The attention implementation asked for is the one that is used."""
    run = engine(model_kwargs={"attn_implementation": "eager"})
    assert upstream.transformer_child(run.model)[2].config._attn_implementation == "eager"
    with pytest.raises(ConfigurationError, match="backend"):
        engine(model_kwargs={"backend": "onnx"})


def test_length_is_chosen_from_the_documents_and_saved(engine, caplog):
    """Documents longer than the model's 32 tokens are read whole up to its 64 positions."""
    long = " ".join(["amber"] * 50)
    dataset = tiny_dataset(20, 2)
    for docid in list(dataset.corpus)[:2]:
        dataset.corpus[docid] += " " + long
    with caplog.at_level(logging.INFO, logger="llama_index.finetuning.embeddings"):
        run = engine(dataset=dataset)
        run.finetune()
    assert run.model.max_seq_length == 61
    assert "32 tokens cut 10 %" in caplog.text
    assert run.get_finetuned_model().max_length == 61
    assert resolve_embed_model("local:" + run.model_output_path).max_length == 61
    for given, expected in ((None, 32), (40, 40)):
        run = engine(dataset=dataset, max_seq_length=given)
        run.finetune()
        assert run.model.max_seq_length == expected


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_model_in_a_peft_wrapper_is_known_as_the_one_inside(engine):
    """LoRA takes nothing from the choice of the length, nor from the fused attention."""
    peft = pytest.importorskip("peft")
    dataset = tiny_dataset(20, 2)
    for docid in list(dataset.corpus)[:2]:
        dataset.corpus[docid] += " amber" * 50
    config = peft.LoraConfig(r=4, target_modules=["query", "value"])
    run = engine(dataset=dataset, peft_config=config)
    with fused_attention(run.model):
        rates = {
            module.p
            for name, module in run.model.named_modules()
            if name.endswith("attention.self.dropout")
        }
    assert rates == {0.0}
    run.finetune()
    assert run.model.max_seq_length == 61
    recorded = facts(run)["parameters"]["peft_config"]
    assert recorded["r"] == 4
    assert sorted(recorded["target_modules"]) == ["query", "value"]


def test_a_length_that_was_set_on_the_model_stays(engine):
    """As code does that has to save memory, whatever the documents and arguments say."""
    for chosen in ("auto", 40):
        run = engine(val_dataset=None, max_seq_length=chosen)
        run.model.max_seq_length = 7
        run.finetune()
        run.finetune()
        assert facts(run)["max_seq_length"] == run.model.max_seq_length == 7
    run = engine(val_dataset=None)
    run.model.max_seq_length = 7
    run.finetune()
    run.model.max_seq_length = 9
    run.finetune()
    assert facts(run)["max_seq_length"] == 9


def test_a_length_that_was_set_for_queries_alone_is_theirs(engine):
    """Documents keep the base's, so that what is told is what is served."""
    val = tiny_dataset(8, 1, seed=3)
    run = engine(val_dataset=val, train="query")
    run.model.max_seq_length = 6
    run.finetune()
    assert facts(run)["metrics"]["best_step"] > 0
    assert facts(run)["max_seq_length"] == 6
    served = run.get_finetuned_model()
    assert served.text_embed_model.max_length == 32
    told = facts(run)["metrics"]["after"]["ndcg@10"]
    assert evaluate_retrieval(served, val).metrics["ndcg@10"] == pytest.approx(told, abs=1e-4)


def test_another_loss_may_be_set_before_training(engine):
    """As code does that makes its loss of the engine's model: rows and batches follow."""
    losses = upstream.losses()
    for make in (losses.CosineSimilarityLoss, losses.MultipleNegativesRankingLoss):
        run, told = engine(), engine(loss=make)
        run.loss = make(run.model)
        assert type(run.loss) is type(told.loss)
        run.finetune()
        told.finetune()
        assert torch.equal(weights(run.model), weights(told.model))
    with pytest.raises(ConfigurationError, match="'loss' must be"):
        run.loss = "nonsense"


def test_length_is_left_alone_below_five_percent_and_capped_by_positions(tiny_bert_dir):
    """5 % of cut documents are tolerated; more take the 95 % quantile, up to 64 positions."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    assert position_limit(model) == 64
    assert choose_max_seq_length(model, lambda: np.array([10] * 95 + [50] * 5)) is None
    assert choose_max_seq_length(model, lambda: np.array([10] * 90 + [50] * 10)) == 50
    assert choose_max_seq_length(model, lambda: np.array([10] * 90 + [500] * 10)) == 64


def test_attention_is_fused_on_a_cpu_while_training(engine):
    """The dropout of attention probabilities, and no other, is off during the training."""
    rates = {"attention.self.dropout": [], "attention.output.dropout": []}

    class Watch(TrainerCallback):
        """Note the dropout rates in the middle of the training."""

        def on_step_end(self, args, state, control, model=None, **kwargs):
            for name, module in model.named_modules():
                for end, seen in rates.items():
                    if name.endswith(end):
                        seen.append(module.p)

    run = engine(callbacks=[Watch()])
    run.finetune()
    assert set(rates["attention.self.dropout"]) == {0.0}
    assert set(rates["attention.output.dropout"]) == {0.1}
    after = {m.p for n, m in run.model.named_modules() if n.endswith("attention.self.dropout")}
    assert after == {0.1}


@pytest.mark.parametrize(("tokens", "dtype"), [(256, torch.float32), (257, torch.bfloat16)])
def test_attention_among_few_tokens_is_in_fp32(engine, tokens, dtype):
    """The kernel gets fp32 there, with a mask too, and what comes out is bf16 as before."""
    seen = []

    class Kernels(TorchDispatchMode):
        """Note what the attention's kernel is given."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "scaled_dot_product" in str(func):
                seen.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    query = torch.randn(1, 2, tokens, 8, dtype=torch.bfloat16)
    mask = torch.zeros(1, 1, tokens, tokens, dtype=torch.bfloat16)
    attend = functional.scaled_dot_product_attention
    plain = attend(query, query, query, attn_mask=mask)
    run = engine()
    with fused_attention(run.model), torch.autocast("cpu", dtype=torch.bfloat16), Kernels():
        found = attend(query, query, query, attn_mask=mask)
    assert seen == [dtype]
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), plain.float(), atol=0.02)


def test_precision_is_detected_never_assumed(monkeypatch):
    """A CPU without bf16 instructions trains in fp32; fp16 on a CPU is refused."""
    cpu = torch.device("cpu")
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert choose_precision("auto", cpu) == expected
    assert choose_precision("bf16", cpu) == "bf16"
    with pytest.raises(ConfigurationError, match="'fp16' on a CPU"):
        choose_precision("fp16", cpu)


@pytest.mark.parametrize("own", [None, "500"])
def test_kernels_of_bf16_do_not_pile_up(engine, monkeypatch, own):
    """A run on a CPU limits how many compiled kernels are kept, unless the user did."""
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, own or "")
    if own is None:
        monkeypatch.delenv(name)
    engine(epochs=1).finetune()
    assert os.environ[name] == (own or "32")


def reference_loss(queries, documents, targets, scale, symmetric=False):
    """Compute the masked softmax pair by pair, in plain arithmetic."""
    if symmetric:
        there = reference_loss(queries, documents, targets, scale)
        return (there + reference_loss(documents, queries, targets.T, scale)) / 2
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    losses = []
    for i, j in np.argwhere(targets == 1):
        kept = [k for k in range(len(documents)) if k == j or targets[i, k] == 0]
        scores = {k: scale * float(queries[i] @ documents[k]) for k in kept}
        losses.append(np.log(sum(np.exp(list(scores.values())))) - scores[j])
    return np.mean(losses)


@pytest.mark.parametrize("micro_batch_tokens", [1, 1000])
@pytest.mark.parametrize("keep_activations_tokens", [0, 1000])
@pytest.mark.parametrize("symmetric", [False, True])
def test_document_loss_and_gradients_do_not_depend_on_micro_batches(
    tiny_bert_dir, micro_batch_tokens, keep_activations_tokens, symmetric
):
    """However a step is cut up, loss and gradients are those of the plain computation."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    queries = ["ask amber", "ask river bridge candle", "ask 1"]
    documents = [*TEXTS, "violin castle"]
    matrix = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.int8)
    targets = Targets(matrix, torch.arange(4), [frozenset({0, 2}), frozenset({1, 2}), frozenset()])
    sides = [upstream.preprocess(model, texts, "") for texts in (queries, documents)]
    loss = DocumentRankingLoss(
        model,
        scale=5.0,
        symmetric=symmetric,
        micro_batch_tokens=micro_batch_tokens,
        keep_activations_tokens=keep_activations_tokens,
    )
    value = loss(sides, targets)
    vectors = model.encode(queries), model.encode(documents)
    expected = reference_loss(*vectors, matrix.numpy(), 5.0, symmetric)
    assert value.item() == pytest.approx(expected, abs=1e-5)
    value.backward()
    split = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    DocumentRankingLoss(model, scale=5.0, symmetric=symmetric, keep_activations_tokens=10**6)(
        sides, targets
    ).backward()
    whole = [p.grad for p in model.parameters() if p.grad is not None]
    for one, other in zip(split, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("budget", [4, 24, 1000])
def test_micro_batches_hold_like_lengths_within_their_budget(tiny_bert_dir, budget):
    """Longest first, without padding that all rows share, every text once."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    texts = ["amber", "river bridge candle engine", "river", "amber bridge", "river bridge candle"]
    masks = []

    def watch(module, args):
        masks.append(args[0]["attention_mask"])

    handle = model[0].register_forward_pre_hook(watch)
    tokens = upstream.preprocess(model, texts, "")
    targets = Targets(
        torch.eye(5, dtype=torch.int8), torch.arange(5), [frozenset({i}) for i in range(5)]
    )
    DocumentRankingLoss(model, micro_batch_tokens=budget)([tokens, dict(tokens)], targets)
    handle.remove()
    assert sum(len(mask) for mask in masks) == 2 * len(texts)
    assert all(mask.numel() <= budget or len(mask) == 1 for mask in masks)
    assert all(mask.any(dim=0).all() for mask in masks)
    lengths = [int(n) for mask in masks for n in mask.sum(dim=1)]
    assert lengths == 2 * [6, 5, 4, 3, 3]


def test_padding_on_the_left_is_cut_too(tiny_bert_dir):
    """As the tokenizers of decoders pad: short texts cost no more for a long one beside them."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    masks = []
    model[0].register_forward_pre_hook(lambda _, args: masks.append(args[0]["attention_mask"]))
    texts = ["amber bridge river candle engine", "amber", "river", "bridge"]
    targets = Targets(torch.eye(4, dtype=torch.int8), torch.arange(4), [frozenset()] * 4)
    shapes = []
    for side in ("right", "left"):
        model.tokenizer.padding_side = side
        tokens = upstream.preprocess(model, texts, "")
        tokens["image_text_info"] = [*texts]
        DocumentRankingLoss(model, micro_batch_tokens=8)([tokens, dict(tokens)], targets)
        shapes.append(sorted(tuple(mask.shape) for mask in masks))
        masks.clear()
    assert shapes[0] == shapes[1]
    assert (1, 7) in shapes[0]


@pytest.mark.parametrize(("budget", "most", "overhead"), [(40, None, 5), (40, 3, 0), (9, None, 50)])
def test_micro_batches_cost_the_least_that_any_could(budget, most, overhead):
    """Among all ways to cut the texts into runs, none costs less."""
    packed = sys.modules[DocumentRankingLoss.__module__]._packed
    lengths = np.array([17, 12, 11, 8, 8, 7, 5, 4, 3, 3])

    def cost(sizes):
        starts = np.cumsum([0, *sizes[:-1]])
        for start, size in zip(starts, sizes, strict=True):
            tokens = size * lengths[start]
            if size > 1 and (tokens > budget or (most is not None and size > most)):
                return np.inf
        return sum(s * lengths[at] + overhead for at, s in zip(starts, sizes, strict=True))

    n = len(lengths)
    ways = [
        np.diff([0, *cuts, n]).tolist()
        for number in range(n)
        for cuts in itertools.combinations(range(1, n), number)
    ]
    chosen = packed(lengths, budget=budget, most=most, overhead=overhead)
    assert sum(chosen) == n
    assert cost(chosen) == min(cost(way) for way in ways)


@pytest.mark.parametrize(("kept", "recomputed"), [(0, 4), (6, 3), (14, 1), (1000, 0)])
def test_activations_beyond_the_budget_are_computed_again(
    tiny_bert_dir, monkeypatch, kept, recomputed
):
    """One text a micro-batch, of 6, 3, 5 and 3 tokens: the first ones keep their activations."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    sides = [
        upstream.preprocess(model, texts, "")
        for texts in (["amber bridge river candle", "river"], ["amber bridge candle", "amber"])
    ]
    module = sys.modules[DocumentRankingLoss.__module__]
    again, checkpoint = [], module._recomputed
    monkeypatch.setattr(module, "_recomputed", lambda *args: again.append(1) or checkpoint(*args))
    targets = Targets(
        torch.eye(2, dtype=torch.int8), torch.arange(2), [frozenset({0}), frozenset()]
    )
    loss = DocumentRankingLoss(model, micro_batch_tokens=1, keep_activations_tokens=kept)
    loss(sides, targets).backward()
    assert len(again) == recomputed


def test_a_static_model_trains_by_document(tiny_model_dir, tmp_path):
    """A model without padding can't be cut into micro-batches and trains whole."""
    run = SentenceTransformersFinetuneEngine(
        tiny_dataset(20, 2),
        model_id=str(tiny_model_dir),
        model_output_path=str(tmp_path / "out"),
        val_dataset=tiny_dataset(20, 2, seed=4),
        device="cpu",
        show_progress_bar=False,
        training_args={"learning_rate": 1e-2},
    )
    run.finetune()
    metrics = facts(run)["metrics"]
    assert metrics["after"]["ndcg@10"] > metrics["before"]["ndcg@10"]
    in_memory = run.model.encode(TEXTS, normalize_embeddings=True)
    loaded = load_finetuned_model(run.model_output_path)
    for model in (run.get_finetuned_model(), loaded, pickle.loads(pickle.dumps(loaded))):
        assert np.abs(vectors(model) - in_memory).max() < 1e-5


def test_nothing_is_printed(engine, capsys):
    """Training without a progress bar writes nothing to standard output."""
    engine(val_dataset=tiny_dataset(8, 1, seed=3)).finetune(logging_steps=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"'batch_size' must be an integer of at least 1 \(got 0\)"),
        ({"batch_size": -3}, r"'batch_size'.*-3"),
        ({"epochs": 0}, r"'epochs' must be an integer of at least 1 \(got 0\)"),
        ({"epochs": 1.5}, r"'epochs'.*1\.5"),
        ({"evaluation_steps": -1}, "'evaluation_steps'"),
        ({"checkpoint_save_steps": 0}, "'checkpoint_save_steps'"),
        ({"checkpoint_save_total_limit": -1}, "'checkpoint_save_total_limit'"),
        ({"max_seq_length": "long"}, "'max_seq_length' must be 'auto', None or an integer"),
        ({"precision": "int8"}, "'precision' must be in"),
        ({"device": "cuda:1"}, r"'device' must be 'cuda'.*'cuda:1'.*CUDA_VISIBLE_DEVICES"),
        ({"training_args": {"output_dir": "there"}}, r"'output_dir' is no choice.*'there'"),
        ({"batching": "random"}, "'batching' must be in"),
        ({"matryoshka_dims": []}, "'matryoshka_dims'"),
        ({"matryoshka_dims": 8}, r"'matryoshka_dims' must be a list of dimensions \(got 8\)"),
        ({"query_prompt": 5}, r"'query_prompt' must be a text \(got 5\)"),
        ({"text_prompt": ["a"]}, "'text_prompt' must be a text"),
        ({"model_kwargs": "x"}, "'model_kwargs' must be a mapping"),
        (
            {"training_args": {"per_device_train_batch_size": 0}},
            r"'per_device_train_batch_size' must be an integer of at least 1 \(got 0\)",
        ),
        (
            {"training_args": {"gradient_accumulation_steps": 0}},
            "'gradient_accumulation_steps' must be an integer of at least 1",
        ),
        ({"training_args": 3}, "'training_args'"),
        ({"dataset": {}}, "'dataset' must be an EmbeddingQAFinetuneDataset"),
        ({"val_dataset": "val.json"}, "'val_dataset'"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_is_loaded(engine, arguments, message):
    """Each gets one clear error although the model does not even exist."""
    with pytest.raises(ConfigurationError, match=message):
        engine(model_id="no/such-model", **arguments)


def test_an_output_path_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    engine, tmp_path
):
    """A file in the way is named, and stays."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="'model_output_path' must be a folder"):
        engine(model_id="no/such-model", model_output_path=str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "mine"


def test_more_matryoshka_dims_than_the_model_has_are_refused(engine):
    """A prefix can't be longer than the vector."""
    with pytest.raises(ConfigurationError, match=r"32 dimensions \(got 64\)"):
        engine(matryoshka_dims=[64])


def test_asking_for_the_model_before_finetuning_says_what_to_do(engine):
    """Without a finetuned folder there is an error, not a download from somewhere."""
    run = engine()
    with pytest.raises(ModelFolderError, match=r"Call finetune\(\) first"):
        run.get_finetuned_model()
    with pytest.raises(ModelFolderError, match=r"Call finetune\(\) first"):
        run.push_to_hub("me/model")


def test_push_to_hub_uploads_the_folder(engine, monkeypatch):
    """The repository is created and the whole folder sent, with the options given."""
    import huggingface_hub

    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **kwargs):
            calls.append(("create", repo_id, kwargs))

        def upload_folder(self, **kwargs):
            calls.append(("upload", kwargs))
            return "https://hub/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    run = engine()
    run.finetune()
    address = run.push_to_hub("me/model", private=True, token="t", commit_message="hello")
    assert address == "https://hub/commit/1"
    assert calls == [
        ("token", "t"),
        ("create", "me/model", {"private": True, "exist_ok": True}),
        (
            "upload",
            {
                "repo_id": "me/model",
                "folder_path": run.model_output_path,
                "commit_message": "hello",
                "ignore_patterns": ["report.html"],
            },
        ),
    ]
    for asked, left_out in (
        ({"ignore_patterns": "*.md"}, ["*.md", "report.html"]),
        ({"ignore_patterns": ["*.md", "*.py"]}, ["*.md", "*.py", "report.html"]),
        ({"ignore_patterns": []}, []),
        ({"ignore_patterns": None, "allow_patterns": None}, ["report.html"]),
        ({"allow_patterns": ["report.html"]}, None),
    ):
        run.push_to_hub("me/model", **asked)
        assert calls[-1][1].get("ignore_patterns") == left_out


def test_as_many_checkpoints_stay_as_were_asked_for(engine, tmp_path, monkeypatch):
    """The newest ones, also with a validation set, whose best weights are kept apart from them."""
    monkeypatch.chdir(tmp_path)
    for limit in (1, 2):
        run = engine(
            model_output_path="out",
            save_checkpoints=True,
            checkpoint_save_steps=1,
            checkpoint_save_total_limit=limit,
            val_dataset=tiny_dataset(8, 1, seed=3),
            evaluation_steps=1,
            epochs=3,
            training_args={"learning_rate": 3e-2},
        )
        run.finetune()
        last = facts(run)["training_log"][-1]["step"]
        kept = sorted(path.name for path in Path("checkpoints/out").glob("checkpoint-*"))
        assert kept == sorted(f"checkpoint-{last - i}" for i in range(limit))
        assert facts(run)["parameters"]["training_args"]["save_total_limit"] == limit


def test_without_a_validation_set_nothing_is_claimed(engine, caplog):
    """The summary says so, in the record and on the card."""
    run = engine()
    run.finetune()
    assert "nothing is known about the quality" in run.summary
    assert facts(run)["summary"] == run.summary
    assert run.summary in (Path(run.model_output_path) / "README.md").read_text()


def test_an_old_best_of_another_run_is_not_taken(engine, tmp_path, monkeypatch):
    """The best weights of an earlier run in the checkpoint folder do not win in a new one."""
    monkeypatch.chdir(tmp_path)
    stale = Path("checkpoints/out/best")
    stale.mkdir(parents=True)
    (stale / "best.json").write_text('{"score": 9.0, "step": 77, "run": "another"}')
    (stale / "model.safetensors").write_text("rubbish")
    run = engine(
        model_output_path="out", save_checkpoints=True, val_dataset=tiny_dataset(8, 1, seed=3)
    )
    run.finetune()
    assert facts(run)["metrics"]["best_step"] != 77


def test_last_checkpoint_takes_the_newest_of_the_same_run(tmp_path):
    """Unsealed folders, other and longer runs, and strange names are passed over."""
    for name, seal, steps in (
        ("checkpoint-2", "x", 10),
        ("checkpoint-10", "x", 10),
        ("checkpoint-20", "x", 20),
        ("checkpoint-30", "y", 30),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "complete.txt").write_text(seal)
        (tmp_path / name / "optimizer.pt").touch()
        step = int(name.removeprefix("checkpoint-"))
        state = {"global_step": step, "epoch": step / 5, "max_steps": steps}
        (tmp_path / name / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-40").mkdir()
    (tmp_path / "checkpoint-new").mkdir()

    def found(run, best=None, **length):
        args = SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, **length
        )
        return checkpoints.last_checkpoint(tmp_path, run, args, best or {})

    assert found("x", num_train_epochs=2) == tmp_path / "checkpoint-10"
    assert found("x", num_train_epochs=3.9) == tmp_path / "checkpoint-20"
    assert found("x", num_train_epochs=3.8) == tmp_path / "checkpoint-10"
    assert found("x", num_train_epochs=1.8) is None
    assert found("x", max_steps=19) == tmp_path / "checkpoint-10"
    assert found("x", max_steps=20) == tmp_path / "checkpoint-20"
    assert found("z", num_train_epochs=2) is None
    # The best weights may be of a longer run that went on from here, or of another one.
    longer = {"run": "x", "step": 12, "max_steps": 15}
    assert found("x", longer, num_train_epochs=2) is None
    assert found("x", {**longer, "run": "y"}, max_steps=10) == tmp_path / "checkpoint-10"
    assert found("x", {**longer, "step": 9}, max_steps=10) == tmp_path / "checkpoint-10"
    assert found("x", {**longer, "max_steps": 20}, max_steps=20) == tmp_path / "checkpoint-20"
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    assert found("x", num_train_epochs=2) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "optimizer.pt").unlink()
    assert found("x", num_train_epochs=2) is None


@pytest.mark.parametrize(
    ("state", "epochs"),
    [
        # 41 batches, eight of them a step; the sixth step has one.
        ({"global_step": 5, "epoch": 40 / 41, "max_steps": 12}, 2),
        # 50 steps an epoch: the Trainer makes 56 of 1.1 epochs, as 1.1 * 50 is above 55.
        ({"global_step": 40, "epoch": 0.8, "max_steps": 56}, 1.1),
    ],
    ids=["accumulation", "fraction"],
)
def test_a_runs_own_checkpoint_is_not_taken_for_a_longer_ones(tmp_path, state, epochs):
    """The steps of a run are counted as the Trainer counts them."""
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "complete.txt").write_text("x")
    (folder / "optimizer.pt").touch()
    (folder / "trainer_state.json").write_text(json.dumps(state))
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, num_train_epochs=epochs
    )
    assert checkpoints.last_checkpoint(tmp_path, "x", args, {}) == folder


def test_a_run_of_accumulated_steps_is_resumed(engine, tmp_path, monkeypatch):
    """Killed in the middle of an epoch that ends with a smaller step, it ends as unbroken."""
    monkeypatch.chdir(tmp_path)

    usual = {
        "dataset": tiny_dataset(14, 2),
        "batch_size": 2,
        "training_args": {
            "gradient_accumulation_steps": 3,
            "learning_rate": 3e-3,
            "logging_steps": 1,
        },
    }
    kept = {"model_output_path": "out", "save_checkpoints": True, "checkpoint_save_steps": 1}
    unbroken = engine(**usual)
    unbroken.finetune()
    with pytest.raises(KeyboardInterrupt):
        engine(callbacks=[Break(after=1)], **usual, **kept).finetune()
    recorder = Recorder()
    resumed = engine(resume_from_checkpoint=True, callbacks=[recorder], **usual, **kept)
    resumed.finetune()
    assert torch.allclose(weights(unbroken.model), weights(resumed.model), atol=1e-6)
    assert len(recorder.losses) == recorder.steps - 1
