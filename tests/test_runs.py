"""Runs of the full engine: those that fail, go on, can't learn, and what they are made of."""

import copy
import functools
import json
import logging
import os
import random
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from accelerate.data_loader import BatchSamplerShard
from fakes import tiny_dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from transformers import EarlyStoppingCallback, TrainerCallback

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    ModelFolderError,
    OutputError,
    TrainingError,
    evaluate_retrieval,
    upstream,
)
from llama_index.finetuning.embeddings.sentence_transformer.attention import fused_attention
from llama_index.finetuning.embeddings.sentence_transformer.checkpoints import last_checkpoint
from llama_index.finetuning.embeddings.sentence_transformer.fingerprint import fingerprint
from llama_index.finetuning.embeddings.sentence_transformer.trainer import Trainer
from llama_index.finetuning.embeddings.sentence_transformer.training_args import (
    default_learning_rate,
)
from llama_index.finetuning.embeddings.sentence_transformer.weights import SavedWeights


def weights(model):
    """Return all weights of a model as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def record(run):
    """Read what a run wrote about itself."""
    return json.loads((Path(run.model_output_path) / "finetuning.json").read_text())


def whole_steps(run):
    """Return how many steps a finished run took."""
    return record(run)["training_log"][-1]["step"]


class Stop(TrainerCallback):
    """Do something to the run before a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.act(model)


def interrupt(model):
    """Press Ctrl-C."""
    raise KeyboardInterrupt


def poison(model):
    """Make the loss NaN."""
    next(model.parameters()).data.fill_(float("nan"))


@pytest.mark.parametrize(
    ("act", "error"), [(interrupt, KeyboardInterrupt), (poison, TrainingError)]
)
@pytest.mark.parametrize("val_dataset", [None, tiny_dataset(8, 1, seed=3)])
def test_a_run_that_fails_puts_the_weights_back(engine, tmp_path, act, error, val_dataset):
    """The next call starts where this one did, and leaves what an unbroken first run leaves."""
    long = tiny_dataset(20, 2)
    for docid in list(long.corpus)[:4]:
        long.corpus[docid] += " amber" * 50
    usual = {"dataset": long, "val_dataset": val_dataset, "evaluation_steps": 1}
    run = engine(callbacks=[Stop(2, act)], **usual)
    before, length = weights(run.model), run.model.max_seq_length
    with pytest.raises(error):
        run.finetune()
    assert torch.equal(weights(run.model), before)
    assert run.model.max_seq_length == length
    assert not list(tmp_path.rglob("start.safetensors"))
    run.callbacks.clear()
    run.finetune()
    fresh = engine(model_output_path=str(tmp_path / "fresh"), **usual)
    fresh.finetune()
    # Weights without a gradient of their own, as the keys' biases, go where rounding sends them.
    texts = [*long.queries.values(), *long.corpus.values()]
    base = SentenceTransformer(run.model_id, device="cpu")
    before, again, first = (model.encode(texts) for model in (base, run.model, fresh.model))
    assert np.abs(again - first).max() < 0.01 < 0.1 * np.abs(first - before).max()
    assert record(run)["metrics"] == record(fresh)["metrics"]


def test_a_step_that_was_better_in_half_precision_only_is_not_kept(engine, monkeypatch):
    """The final score decides: below the base's, the base comes back."""
    val = tiny_dataset(8, 1, seed=3)
    run = engine(val_dataset=val, training_args={"learning_rate": 1.0})
    before = weights(run.model)

    def flatter(model):
        run.evaluator.primary_metric_bonus = 1.0

    scores = type(run.evaluator).__call__

    def generous(self, *args, **kwargs):
        found = scores(self, *args, **kwargs)
        bonus = getattr(self, "primary_metric_bonus", 0.0)
        return {name: value + bonus for name, value in found.items()}

    monkeypatch.setattr(type(run.evaluator), "__call__", generous)
    run.callbacks.append(Stop(1, flatter))
    run.finetune()
    assert torch.equal(weights(run.model), before)
    assert record(run)["metrics"]["best_step"] == 0
    assert record(run)["metrics"]["after"] == record(run)["metrics"]["before"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_resumes_where_an_unbroken_run_ends(engine, tmp_path, monkeypatch):
    """LoRA and checkpoints go together."""
    peft = pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    usual = {
        "peft_config": peft.LoraConfig(r=4, target_modules=["query", "value"]),
        "epochs": 3,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
    }
    unbroken = engine(model_output_path="unbroken", **usual)
    unbroken.finetune()
    broken = engine(model_output_path="broken", callbacks=[Stop(3, interrupt)], **usual)
    with pytest.raises(KeyboardInterrupt):
        broken.finetune()
    steps = Stop(0, lambda model: pytest.fail("it began anew"))
    resumed = engine(
        model_output_path="broken", resume_from_checkpoint=True, callbacks=[steps], **usual
    )
    resumed.finetune()
    assert torch.allclose(weights(unbroken.model), weights(resumed.model), atol=1e-6)


@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")  # transformers 4
def test_what_shapes_no_weights_may_change_between_runs(engine, tmp_path, monkeypatch, caplog):
    """Fewer checkpoints and other logs resume; another learning rate does not, and says so."""
    monkeypatch.chdir(tmp_path)
    usual = {"model_output_path": "out", "save_checkpoints": True, "checkpoint_save_steps": 1}
    run = engine(callbacks=[Stop(3, interrupt)], **usual)
    with pytest.raises(KeyboardInterrupt):
        run.finetune()
    begun = []
    again = {
        **usual,
        "resume_from_checkpoint": True,
        "callbacks": [Stop(0, lambda model: begun.append("anew"))],
        "checkpoint_save_total_limit": 2,
        "training_args": {"learning_rate": 3e-3, "logging_steps": 1, "run_name": "second"},
    }
    engine(**again).finetune()
    assert not begun
    again["training_args"] = {"learning_rate": 1e-3}
    with caplog.at_level(logging.WARNING, logger="llama_index.finetuning.embeddings"):
        engine(**again).finetune()
    assert begun == ["anew"]
    assert "are another run's" in caplog.text


def test_no_checkpoint_needs_no_warning(tmp_path, caplog):
    """Neither an empty folder nor a checkpoint that was cut off is another run's."""
    (tmp_path / "checkpoint-3").mkdir()
    args = SentenceTransformerTrainingArguments(str(tmp_path), use_cpu=True)
    assert last_checkpoint(tmp_path, "run", args, {}) is None
    assert not caplog.records


def test_epochs_differ_where_processes_share_the_batches(engine, monkeypatch):
    """The sampler hears of the epoch although a shard stands between it and the Trainer."""
    run = engine(epochs=3, batch_size=4)
    plans = []

    class Watch(TrainerCallback):
        """Note the batches of each epoch."""

        def on_epoch_end(self, args, state, control, train_dataloader=None, **kwargs):
            plans.append(list(samplers[0]))

    samplers = []
    make = Trainer.get_batch_sampler

    def sharded(self, *args, **kwargs):
        samplers.append(make(self, *args, **kwargs))
        # What accelerate puts around it in each of several processes; it forwards no epoch.
        return BatchSamplerShard(samplers[-1], num_processes=1, process_index=0)

    monkeypatch.setattr(Trainer, "get_batch_sampler", sharded)
    run.callbacks.append(Watch())
    run.finetune()
    assert len({json.dumps(plan) for plan in plans}) == 3


@pytest.mark.parametrize(
    ("n_rows", "settings", "lora", "expected"),
    [
        (640, {}, False, 2e-5),
        (320, {}, False, 4e-5),
        (319, {"gradient_accumulation_steps": 2}, False, 5e-5),
        (6400, {}, False, 2e-5),
        (6400, {}, True, 2e-4),
        (320, {"per_device_train_batch_size": 5}, False, 2e-5),
    ],
)
def test_default_learning_rate(tmp_path, n_rows, settings, lora, expected):
    """2e-5, more where an epoch has fewer than 64 steps, ten times that for an adapter."""
    settings = {"per_device_train_batch_size": 10, **settings}
    args = SentenceTransformerTrainingArguments(str(tmp_path), use_cpu=True, **settings)
    assert default_learning_rate(args, n_rows, lora=lora) == pytest.approx(expected)


def test_the_default_learning_rate_is_used_and_recorded(engine):
    """20 documents with 2 queries make 2 steps of 10: the largest rate that is chosen."""
    run = engine(training_args=None)
    run.finetune()
    assert record(run)["parameters"]["learning_rate"] == 5e-5
    run.finetune(learning_rate=1e-4, weight_decay=0.5)
    parameters = record(run)["parameters"]
    assert parameters["learning_rate"] == 1e-4
    assert parameters["training_args"]["weight_decay"] == 0.5


def test_steps_that_can_teach_nothing_are_refused(engine):
    """A softmax over one document has no gradient."""
    with pytest.raises(ConfigurationError, match=r"'batch_size' must be at least 2.*got 1"):
        engine(batch_size=1).finetune()
    with pytest.raises(ConfigurationError, match="'batch_size'"):
        engine().finetune(per_device_train_batch_size=1, gradient_accumulation_steps=8)
    data = {"queries": {"a": "amber", "b": "bridge"}, "corpus": {"0": "one", "1": "one"}}
    one = EmbeddingQAFinetuneDataset(**data, relevant_docs={"a": ["0"], "b": ["1"]})
    for train in ("both", "query"):
        with pytest.raises(DatasetError, match="one and the same document"):
            engine(dataset=one, train=train).finetune()
    mined = tiny_dataset(20, 1)
    docids = list(mined.corpus)
    relevant = {qid: found[0] for qid, found in mined.relevant_docs.items()}
    mined.hard_negatives = {
        qid: [next(docid for docid in docids if docid != relevant[qid])] for qid in relevant
    }
    run = engine(dataset=mined, batch_size=1)
    before = weights(run.model)
    run.finetune()
    assert not torch.equal(weights(run.model), before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": {"anchor": "query: "}}, "'prompts' is no choice.*'query_prompt'"),
        ({"batch_sampler": "no_duplicates"}, "'batch_sampler' is no choice.*no_duplicates"),
        ({"save_strategy": "steps"}, "'save_strategy' needs a place.*save_checkpoints=True"),
        ({"eval_strategy": "steps"}, "'eval_strategy' needs something.*val_dataset"),
        ({"resume_from_checkpoint": True}, "'resume_from_checkpoint' is no choice.*the engine"),
        ({"seed": 7}, "'seed' is no choice.*the engine has an argument of that name"),
        ({"metric_for_best_model": "loss"}, "'metric_for_best_model' is no choice.*nDCG@10"),
        ({"hub_token": "hf_x"}, r"'hub_token' is no choice.*push_to_hub\(\)"),
        ({"learning_rate": -1.0}, "'learning_rate' must be at least 0"),
        ({"learning_rate": float("nan")}, "'learning_rate' must be at least 0"),
        ({"num_train_epochs": 0}, "'num_train_epochs' must be above 0"),
        ({"epochs": 1}, "'epochs' is not a training argument.*Did you mean num_train_epochs"),
    ],
)
def test_training_arguments_that_would_be_dropped_are_refused(engine, given, message):
    """Before the model is loaded."""
    with pytest.raises(ConfigurationError, match=message):
        engine(model_id="no/such-model", training_args=given)


def test_numbers_of_numpy_count(engine):
    """Where a whole number is wanted, any kind is."""
    usual = {"seed": np.int64(3), "epochs": np.int64(1)}
    with pytest.raises(ConfigurationError, match="max_seq_length"):
        engine(max_seq_length=np.int64(1000), **usual)
    run = engine(batch_size=np.int64(4), max_seq_length=np.int64(24), **usual)
    run.finetune()
    assert record(run)["parameters"]["batch_size"] == 4


def test_half_precision_and_early_stopping_work_as_training_arguments(engine):
    """The engine's own choice of precision steps back, and its metric is the one to stop by."""
    run = engine(
        precision="bf16",
        val_dataset=tiny_dataset(8, 1, seed=3),
        callbacks=[EarlyStoppingCallback(1)],
        save_checkpoints=False,
        training_args={"bf16": False, "learning_rate": 3e-3},
    )
    run.finetune()
    assert record(run)["parameters"]["precision"] == "fp32"


def test_a_length_beyond_the_positions_is_refused(engine):
    """At once, not in the middle of the training."""
    with pytest.raises(ConfigurationError, match=r"must not exceed the 64 positions.*got 65"):
        engine(max_seq_length=65)


def test_what_a_device_or_a_model_can_not_do_is_refused_at_once(engine):
    """Not when the training begins."""
    with pytest.raises(ConfigurationError, match="'precision' must not be 'fp16' on a CPU"):
        engine(precision="fp16")


def test_documents_are_not_counted_where_the_length_cannot_grow(engine, monkeypatch):
    """A model that reads as far as its positions reach is left alone."""
    from llama_index.finetuning.embeddings.sentence_transformer import engine as module

    run = engine()
    run.model.max_seq_length = 64
    monkeypatch.setattr(module, "token_lengths", lambda *args: pytest.fail("tokenized"))
    run.finetune()
    assert run.model.max_seq_length == 64


def test_attention_that_is_not_fused_keeps_its_dropout(engine):
    """Without a kernel to gain, nothing is left out."""
    run = engine(model_kwargs={"attn_implementation": "eager"})
    with fused_attention(run.model):
        rates = {m.p for n, m in run.model.named_modules() if n.endswith("self.dropout")}
    assert rates == {0.1}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_kind_of_adapter_that_cannot_be_merged_is_refused(engine):
    """Before it is trained."""
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(
        task_type="FEATURE_EXTRACTION", num_virtual_tokens=2, num_transformer_submodules=1,
        num_attention_heads=2, num_layers=2, token_dim=32,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"can be merged.*PromptTuningConfig"):
        engine(peft_config=config)


def test_models_that_are_two_or_frozen_are_refused(engine, tmp_path, monkeypatch):
    """A Router has no one encoder to train, and frozen weights learn nothing."""
    run = engine(train="query")
    run.finetune()
    with pytest.raises(ConfigurationError, match="'model_id' must be one model.*Router"):
        engine(model_id=run.model_output_path, model_output_path=str(tmp_path / "two"))
    engine(
        model_id=f"{run.model_output_path}/query", model_output_path=str(tmp_path / "two")
    ).finetune()
    load = SentenceTransformer.__init__

    def frozen(self, *args, **kwargs):
        load(self, *args, **kwargs)
        self.requires_grad_(False)

    monkeypatch.setattr(SentenceTransformer, "__init__", frozen)
    with pytest.raises(ConfigurationError, match="'model_id' must have weights to train"):
        engine()


def test_older_weights_do_not_stay_beside_the_new(engine):
    """A model that another tool wrote is replaced with all its weights; other files stay."""
    folder = Path(engine().model_output_path)
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"old")
    (folder / "config.json").write_text("{}")
    (folder / "modules.json").write_text("[]")
    save_file({"old": torch.zeros(1)}, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    engine().finetune()
    left = {entry.name for entry in folder.iterdir()}
    assert "notes.txt" in left
    assert not {"onnx", "adapter_model.safetensors", "adapter_config.json"} & left


def test_gathering_is_taken_over_by_document(engine):
    """The flag of the loss for several processes is what by-document steps do anyway."""
    losses = upstream.losses()

    def gathering(model):
        return losses.MultipleNegativesRankingLoss(model, gather_across_devices=True)

    model = engine().model
    run = engine(loss=gathering(model))
    assert type(run.loss).__name__ == "DocumentRankingLoss"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": -1}, "'seed'"),
        ({"callbacks": [3]}, "callbacks"),
        ({"model_id": tiny_dataset(2, 1)}, "'model_id' must be a folder, or a model's name"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_first(engine, fields, message):
    """Before the model is loaded."""
    with pytest.raises(ConfigurationError, match=message):
        engine(**{"model_id": "no/such-model", **fields})


def test_a_model_that_is_not_there(engine, tmp_path):
    """The error names it, and what to give."""
    with pytest.raises(ModelFolderError, match="can't be loaded.*Give a folder"):
        engine(model_id=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["model.safetensors", "modules.json", "config.json"])
def test_a_damaged_model_is_told(engine, tiny_bert_dir, tmp_path, name):
    """As a base, and where a finetuned folder was damaged afterwards."""
    run = engine()
    run.finetune()
    (Path(run.model_output_path) / name).write_text("{")
    with pytest.raises(ModelFolderError, match="can't be loaded.*its files are damaged"):
        run.get_finetuned_model()
    with pytest.raises(ModelFolderError, match="can't be loaded.*Give a folder"):
        engine(model_id=run.model_output_path, model_output_path=str(tmp_path / "other"))


class LastGradients(TrainerCallback):
    """Spoil the gradients of one step, whose loss is still finite."""

    def __init__(self, step):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step - 1:
            for one in model.parameters():
                if one.grad is not None:
                    one.grad.fill_(float("nan"))


def test_a_last_step_that_makes_weights_nan_is_told(engine):
    """No loss shows it; without a validation set the old model stays, and the weights go back."""
    run = engine()
    run.finetune()
    before = Path(run.model_output_path, "model.safetensors").read_bytes()
    steps = record(run)["training_log"][-1]["step"]
    again = engine(callbacks=[LastGradients(steps)])
    with pytest.raises(TrainingError, match=f"Step {steps} made weights of .* NaN"):
        again.finetune()
    assert Path(run.model_output_path, "model.safetensors").read_bytes() == before
    assert torch.isfinite(weights(again.model)).all()


@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")  # transformers 4
def test_no_checkpoint_is_made_of_nan(engine, tmp_path, monkeypatch):
    """The last good one is not rotated away for it."""
    monkeypatch.chdir(tmp_path)
    usual = {"save_checkpoints": True, "checkpoint_save_steps": 1, "checkpoint_save_total_limit": 1}
    run = engine(model_output_path="out", callbacks=[LastGradients(2)], **usual)
    with pytest.raises(TrainingError, match="Step 2 made weights"):
        run.finetune()
    assert [one.name for one in Path("checkpoints/out").glob("checkpoint-*")] == ["checkpoint-1"]
    engine(model_output_path="out", resume_from_checkpoint=True, **usual).finetune()
    assert torch.isfinite(weights(SentenceTransformer("out", device="cpu"))).all()


@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")  # transformers 4
def test_another_base_of_the_same_name_is_not_resumed(engine, tiny_bert_dir, tmp_path, monkeypatch):
    """Nor is a run gone on with from the weights that an earlier call reached."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bert_dir, "base")
    usual = {"model_id": "base", "model_output_path": "out", "save_checkpoints": True}
    first = engine(checkpoint_save_steps=2, **usual)
    first.finetune()
    model = SentenceTransformer("base", device="cpu")
    with torch.no_grad():
        for one in model.parameters():
            one.mul_(1.1)
    model.save("base")
    second = engine(checkpoint_save_steps=2, resume_from_checkpoint=True, **usual)
    untrained = weights(second.model)
    second.finetune()
    assert not torch.equal(weights(second.model), weights(first.model))
    assert not torch.equal(weights(second.model), untrained)
    reached = weights(second.model)
    second.finetune()
    assert not torch.equal(weights(second.model), reached)


@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")  # transformers 4
def test_checkpoints_without_their_best_weights_are_not_resumed(engine, monkeypatch, tmp_path):
    """A new start takes the best weights of the run before away, whose checkpoints then end."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "model_output_path": "model",
        "save_checkpoints": True,
        "checkpoint_save_steps": 3,
        "evaluation_steps": 2,
        "epochs": 4,
        "batch_size": 4,
        "val_dataset": tiny_dataset(20, 1, seed=5),
        "training_args": {"learning_rate": 5e-3},
    }
    whole = engine(**settings)
    whole.finetune()
    expected = record(whole)["metrics"]
    assert 0 < expected["best_step"] < whole_steps(whole)
    with pytest.raises(KeyboardInterrupt):
        engine(callbacks=[Stop(2, interrupt)], **settings).finetune()
    resumed = engine(resume_from_checkpoint=True, **settings)
    resumed.finetune()
    assert record(resumed)["metrics"] == expected


@pytest.mark.filterwarnings("ignore:mtime may not be reliable:UserWarning")  # transformers 4
def test_a_seal_is_broken_before_its_checkpoint_is_written_over(engine, tmp_path, monkeypatch):
    """A run that is killed in between leaves a checkpoint that nobody takes for whole."""
    monkeypatch.chdir(tmp_path)
    usual = {"model_output_path": "out", "save_checkpoints": True, "checkpoint_save_steps": 2}
    engine(**usual).finetune()
    assert Path("checkpoints/out/checkpoint-2/complete.txt").is_file()

    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(KeyboardInterrupt):
        engine(**usual).finetune()
    assert not Path("checkpoints/out/checkpoint-2/complete.txt").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("lora", [False, True])
def test_a_save_that_fails_loses_neither_training_nor_base(engine, tmp_path, monkeypatch, lora):
    """What was trained is in the engine still, and the next call compares with the true base."""
    config = {}
    if lora:
        peft = pytest.importorskip("peft")
        config = {"peft_config": peft.LoraConfig(r=4, target_modules=["query"])}
    run = engine(val_dataset=tiny_dataset(8, 1, seed=3), **config)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SentenceTransformer, "save_pretrained", full)
        with pytest.raises(OutputError, match="No space left.*engine holds the trained weights"):
            run.finetune()
    run.model.save(str(tmp_path / "rescued"))
    fresh = engine(val_dataset=tiny_dataset(8, 1, seed=3), **config)
    fresh.finetune()
    rescued = SentenceTransformer(str(tmp_path / "rescued"), device="cpu")
    assert np.allclose(rescued.encode("amber"), fresh.model.encode("amber"), atol=1e-5)
    run.finetune()
    assert record(run)["metrics"]["before"] == record(fresh)["metrics"]["before"]


def test_the_base_of_a_second_call_is_still_the_base(engine, caplog):
    """The report compares with what came in at first; a call that is no better keeps the first."""
    run = engine(val_dataset=tiny_dataset(20, 2, seed=3), epochs=4)
    run.finetune()
    first = record(run)["metrics"]
    run.finetune(learning_rate=0.0)
    second = record(run)["metrics"]
    assert second["before"] == first["before"]
    assert second["after"]["ndcg@10"] == pytest.approx(first["after"]["ndcg@10"])
    assert "the model of the earlier run is handed back unchanged" in caplog.text
    curve = run.report.training.metric
    assert curve[0] == (0, pytest.approx(first["after"]["ndcg@10"]))
    assert "the base is handed back" not in caplog.text


def test_a_dataset_that_was_changed_is_refused(engine):
    """The engine laid out its rows when it was made."""
    data, other = tiny_dataset(20, 2), tiny_dataset(8, 1, seed=3)
    run = engine(dataset=data, val_dataset=other)
    other.queries["new"] = "new"
    other.relevant_docs["new"] = [next(iter(other.corpus))]
    with pytest.raises(DatasetError, match="changed after the engine was made"):
        run.finetune()


def test_the_users_randomness_goes_on(engine):
    """Neither making an engine nor training draws from, or seeds, the global generators."""

    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    expected, seen = [], []
    for found, act in ((expected, lambda: None), (seen, lambda: engine().finetune())):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        act()
        found.append(draws())
    assert seen == expected


def test_evaluation_takes_the_batch_size_that_it_is_given(engine):
    """Smaller batches where memory is short."""
    run = engine(val_dataset=tiny_dataset(8, 1, seed=3))
    run.finetune()
    assert run.evaluator.batch_size == 32
    run.finetune(per_device_eval_batch_size=3)
    assert run.evaluator.batch_size == 3


def test_ties_are_broken_as_in_an_evaluation(engine):
    """Of documents with one score the first in the corpus is first, as evaluate_retrieval says."""
    data = tiny_dataset(12, 1, seed=3)
    ids = list(data.corpus)
    corpus = {docid: data.corpus[docid] for docid in reversed(ids)}
    corpus |= {f"A-{docid}": data.corpus[docid] for docid in ids}
    twins = EmbeddingQAFinetuneDataset(
        queries=data.queries, corpus=corpus, relevant_docs=data.relevant_docs
    )
    run = engine(val_dataset=twins)
    run.finetune()
    scores = evaluate_retrieval(run.get_finetuned_model(), twins).metrics
    assert record(run)["metrics"]["after"]["ndcg@10"] == pytest.approx(scores["ndcg@10"])
    assert run.evaluator(run.model)["cosine_ndcg@10"] == pytest.approx(scores["ndcg@10"])


def test_a_length_that_is_asked_for_stays_with_the_base(engine):
    """The base is measured, and handed back, at that length."""
    run = engine(
        val_dataset=tiny_dataset(8, 1, seed=3),
        max_seq_length=24,
        training_args={"learning_rate": 1e-12},
    )
    run.finetune()
    assert SentenceTransformer(run.model_output_path, device="cpu").max_seq_length == 24


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_config_stays_as_it_is(engine):
    """PEFT writes into it what it finds in a model, which another model need not have."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules="all-linear")
    before = copy.deepcopy(config.to_dict())
    engine(peft_config=config)
    assert config.to_dict() == before


def test_what_upstream_fills_in_is_not_held_against_its_user(engine, tmp_path):
    """An instance that names other fields also holds a metric, which the engine's own replaces."""
    given = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "x"),
        lr_scheduler_type="reduce_lr_on_plateau",
        eval_strategy="epoch",
        metric_for_best_model="loss",
    )
    run = engine(val_dataset=tiny_dataset(8, 1, seed=3), training_args=given)
    run.finetune()
    assert record(run)["metrics"]["after"]


def test_callbacks_may_come_from_a_generator(engine):
    """They are gone through once."""
    seen = []
    run = engine(callbacks=(Stop(step, seen.append) for step in (0, 1)))
    run.finetune()
    assert len(seen) == 2


def test_equal_weights_have_one_digest(tiny_bert_dir, tmp_path):
    """Whatever order the file names shared ones in; other weights have another."""
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    weights = {name: one.clone() for name, one in model.state_dict().items()}
    digests = set()
    for i, metadata in enumerate(({"a": "x", "b": "x"}, {"b": "x", "a": "x"})):
        save_file(dict(sorted(weights.items(), reverse=bool(i))), tmp_path / f"{i}", metadata)
        digests.add(SavedWeights(model, tmp_path / f"{i}").digest())
    assert len(digests) == 1
    next(iter(weights.values())).add_(1)
    save_file(weights, tmp_path / "other")
    assert SavedWeights(model, tmp_path / "other").digest() not in digests


def test_weights_that_the_base_lacks_are_the_same_in_every_process(engine, tiny_bert_dir, tmp_path):
    """Or a run would not know its own checkpoints: many bases come without their pooler."""
    folder = tmp_path / "without"
    shutil.copytree(tiny_bert_dir, folder)
    stored = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in stored.items() if "pooler" not in name}
    assert len(kept) < len(stored)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    one, other = (engine(model_id=str(folder)).model for _ in range(2))
    assert torch.equal(weights(one), weights(other))


class KeptElsewhere(torch.nn.Module):
    """A loss whose model has another name than sentence-transformers' losses give it."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, sentence_features, labels):
        return self.encoder(next(iter(sentence_features)))["sentence_embedding"].mean()


def test_a_loss_on_another_model_is_refused(engine):
    """It would train that one; made of the engine's model, whatever it calls it, it trains."""
    with pytest.raises(ConfigurationError, match="'loss' must compute on the engine's model"):
        engine(loss=KeptElsewhere(engine().model))
    with pytest.raises(ConfigurationError, match="keep the model that it is made of"):
        engine(loss=lambda model: torch.nn.Linear(2, 2))
    assert engine(loss=KeptElsewhere).loss.encoder is not None


class DtypeOfSteps(TrainerCallback):
    """Note what the products of a run's steps are computed in."""

    def __init__(self):
        self.seen = set()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        layer = next(one for one in model.modules() if isinstance(one, torch.nn.Linear))
        layer.register_forward_hook(lambda module, given, output: self.seen.add(output.dtype))


@pytest.mark.parametrize("around", ["bf16", None])
def test_the_environment_does_not_choose_the_precision(engine, monkeypatch, around):
    """Accelerate's launcher sets it for all, and transformers 4 for each run after the first."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if around:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", around)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)) * 2:
        steps = DtypeOfSteps()
        engine(precision=precision, callbacks=[steps]).finetune()
        assert steps.seen == {dtype}
        assert os.environ.get("ACCELERATE_MIXED_PRECISION") == around


def test_half_precision_that_a_cpu_lacks_is_refused_wherever_it_is_asked_for(engine):
    """As an argument of the engine, of the Trainer, and of one call."""
    with pytest.raises(ConfigurationError, match="'precision' must not be 'fp16' on a CPU"):
        engine(training_args={"fp16": True})
    with pytest.raises(ConfigurationError, match="'precision' must not be 'fp16' on a CPU"):
        engine().finetune(fp16=True)


@pytest.mark.parametrize("at", [1, 5])
def test_a_run_evaluated_by_epochs_resumes_as_if_unbroken(engine, tmp_path, monkeypatch, at):
    """Its weights, and its scores: also that of an epoch whose evaluation was interrupted."""
    monkeypatch.chdir(tmp_path)
    usual = {
        "val_dataset": tiny_dataset(20, 1, seed=5),
        "evaluation_steps": 0,
        "save_checkpoints": True,
        "checkpoint_save_steps": 2,
        "epochs": 3,
    }
    whole = engine(model_output_path="whole", **usual)
    whole.finetune()
    broken = engine(model_output_path="broken", callbacks=[Stop(at, interrupt)], **usual)
    if at == 1:  # in the evaluation of the first epoch, behind its checkpoint
        broken.callbacks.clear()
        scores = type(broken.evaluator).__call__

        def stopped(self, model, output_path=None, epoch=-1, steps=-1):
            if steps == 4 or epoch == 1:
                raise KeyboardInterrupt
            return scores(self, model, output_path, epoch, steps)

        monkeypatch.setattr(type(broken.evaluator), "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        broken.finetune()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    again = engine(model_output_path="broken", resume_from_checkpoint=True, **usual)
    again.finetune()
    assert torch.equal(weights(again.model), weights(whole.model))
    curves = [
        {
            e["step"]: e["eval_cosine_ndcg@10"]
            for e in record(run)["training_log"]
            if "eval_cosine_ndcg@10" in e
        }
        for run in (whole, again)
    ]
    assert curves[0] == curves[1]
    assert list(curves[0]) == [2, 4, 6]


@pytest.mark.parametrize(("every", "rate"), [(1, 1e-1), (0, 1e-2), (0, 3e-3), (0, 1e-1)])
def test_a_run_that_stopped_early_stays_stopped(engine, tmp_path, monkeypatch, every, rate):
    """The same script again, told to resume, does not train past its end."""
    monkeypatch.chdir(tmp_path)
    usual = {
        "model_output_path": "out",
        "val_dataset": tiny_dataset(20, 1, seed=5),
        "evaluation_steps": every,
        "early_stopping_patience": 1,
        "save_checkpoints": True,
        "checkpoint_save_steps": 1,
        "epochs": 12,
        "training_args": {"learning_rate": rate},
    }
    first = engine(**usual)
    first.finetune()
    ended = whole_steps(first)
    assert ended < 24
    again = engine(resume_from_checkpoint=True, **usual)
    again.finetune()
    assert whole_steps(again) == ended
    assert torch.equal(weights(again.model), weights(first.model))
    assert record(again)["metrics"] == record(first)["metrics"]


def test_the_configuration_stays_as_it_was(engine, tiny_bert_dir, tmp_path):
    """Only weights change: transformers would write the tokenizer's special tokens into it."""
    base = shutil.copytree(tiny_bert_dir, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config.update(pad_token_id=None, bos_token_id=None, eos_token_id=None)
    (base / "config.json").write_text(json.dumps(config))
    run = engine(model_id=str(base))
    before = run.model[0].auto_model.config.to_dict()
    run.finetune()
    assert run.model[0].auto_model.config.to_dict() == before


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_config_of_a_saved_adapter_trains_again(engine, tmp_path):
    """PEFT saves it as one for inference."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["query", "value"], inference_mode=True)
    run = engine(peft_config=config)
    run.finetune()
    assert config.inference_mode


def test_the_engines_own_loss_may_be_set_again(engine):
    """With its settings; it is no part of another loss."""
    loss = upstream.losses().MultipleNegativesRankingLoss
    other = engine(loss=loss(engine().model, scale=7.0), matryoshka_dims=[8])
    run = engine(loss=other.loss)
    assert (run.loss.scale, run.loss.symmetric, run.loss.dims) == (7.0, False, (32, 8))
    run.loss = run.loss
    run.finetune()
    only_queries = engine(train="query")
    only_queries.loss = only_queries.loss
    with pytest.raises(ConfigurationError, match="Use 'matryoshka_dims'"):
        run.loss = upstream.losses().MatryoshkaLoss(run.model, run.loss, [32, 8])


class Optimizer(TrainerCallback):
    """Know whether a run's optimizer is still there."""

    def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
        self.ref = weakref.ref(getattr(optimizer, "optimizer", optimizer))


def test_the_optimizer_is_gone_before_the_last_evaluation(engine, monkeypatch):
    """Its state takes twice the memory of the model."""
    optimizer = Optimizer()
    run = engine(val_dataset=tiny_dataset(8, 1, seed=3), callbacks=[optimizer])
    seen = []
    evaluate = type(run.evaluator).evaluate

    def noted(self, model):
        seen.append(hasattr(optimizer, "ref") and optimizer.ref() is None)
        return evaluate(self, model)

    monkeypatch.setattr(type(run.evaluator), "evaluate", noted)
    run.finetune()
    assert seen[0] is False
    assert seen[-1] is True


def test_a_run_short_of_memory_goes_on_with_smaller_batches_of_its_loss(
    engine, tmp_path, monkeypatch
):
    """How a step is computed makes no other run of it."""
    monkeypatch.chdir(tmp_path)
    loss = upstream.losses().CachedMultipleNegativesRankingLoss
    usual = {"save_checkpoints": True, "checkpoint_save_steps": 1, "model_output_path": "out"}
    with pytest.raises(KeyboardInterrupt):
        engine(
            loss=loss(engine().model, mini_batch_size=8), callbacks=[Stop(2, interrupt)], **usual
        ).finetune()
    taken = []
    again = engine(
        loss=loss(engine().model, mini_batch_size=4),
        resume_from_checkpoint=True,
        callbacks=[Stop(1, taken.append), Stop(2, taken.append)],
        **usual,
    )
    again.finetune()
    assert len(taken) == 1


@pytest.mark.parametrize("train", ["both", "query"])
def test_a_cached_loss_takes_as_many_texts_at_a_time_as_it_says(engine, train):
    """Who chooses it is short of memory."""
    losses = upstream.losses()
    model = engine().model
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)
    plain = losses.MultipleNegativesRankingLoss(model)
    sizes = []
    for loss in (cached, plain):
        seen = set()

        def note(module, given, seen=seen):
            if module.training:
                seen.add(len(given[0]["input_ids"]))

        run = engine(loss=loss, train=train)
        run.model.register_forward_pre_hook(note)
        run.finetune()
        sizes.append(max(seen))
    assert sizes[0] == 3 < sizes[1]
    named = engine(loss=losses.CachedMultipleNegativesRankingLoss, train=train)
    assert named.loss.micro_batch_texts == 32


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_lora_leaves_a_head_alone(engine, tiny_bert_dir, tmp_path):
    """It is no part of the adapter, and would train at ten times its rate."""
    peft = pytest.importorskip("peft")
    model = SentenceTransformer(str(tiny_bert_dir), device="cpu")
    model.append(upstream.modules().Dense(32, 8))
    model.save(str(tmp_path / "headed"))
    config = peft.LoraConfig(target_modules=["query", "value"])
    run = engine(model_id=str(tmp_path / "headed"), peft_config=config)
    before = [one.detach().clone() for one in run.model[2].parameters()]
    run.finetune()
    assert all(torch.equal(*pair) for pair in zip(before, run.model[2].parameters(), strict=True))
    with pytest.raises(ConfigurationError, match="'peft_config' does not fit .*no_such_layer"):
        engine(peft_config=peft.LoraConfig(target_modules=["no_such_layer"]))


def test_a_base_that_can_not_be_read_again_says_where_the_weights_are(
    engine, tiny_bert_dir, tmp_path
):
    """The training is not lost: the engine holds it."""
    base = tmp_path / "base"
    shutil.copytree(tiny_bert_dir, base)
    run = engine(
        model_id=str(base), train="query", callbacks=[Stop(1, lambda model: shutil.rmtree(base))]
    )
    with pytest.raises(ModelFolderError, match=r"can't be loaded.*engine\.model\.save\(path\)"):
        run.finetune()
    assert not torch.equal(weights(run.model), weights(engine().model))


def test_tensorboard_needs_a_place(engine, monkeypatch, tmp_path):
    """Without one its files would go with the folder that a run works in."""
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    for reports in ("tensorboard", ["wandb", "tensorboard"]):
        with pytest.raises(ConfigurationError, match="'report_to' .*save_checkpoints=True"):
            engine(training_args={"report_to": reports})
    engine(training_args={"report_to": "tensorboard"}, save_checkpoints=True)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    engine(training_args={"report_to": "tensorboard"})


def test_the_start_is_no_step_of_the_training(engine):
    """An evaluation before the first step counts neither as trained nor as better than it is."""
    run = engine(
        val_dataset=tiny_dataset(8, 1, seed=3),
        training_args={"learning_rate": 1.0, "eval_on_start": True},
    )
    run.finetune()
    metrics = record(run)["metrics"]
    assert metrics["best_step"] == 0
    told = [
        one["eval_cosine_ndcg@10"]
        for one in record(run)["training_log"][1:]
        if "eval_cosine_ndcg@10" in one
    ]
    trained = [
        e for e in record(run)["training_log"] if "eval_cosine_ndcg@10" in e and e["step"] > 0
    ]
    assert len(told) == len(trained) + 1
    assert f"{max(e['eval_cosine_ndcg@10'] for e in trained):.4f}" in run.summary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device": "gpu"}, "'device' must be one of PyTorch's, such as 'cpu' .*got 'gpu'"),
        ({"device": "cuda"}, "'device' must be one that is there .*got 'cuda', which PyTorch"),
        ({"device": "mps"}, "'device' must be one that is there .*got 'mps', which PyTorch"),
        ({"callbacks": [EarlyStoppingCallback(1)]}, "EarlyStoppingCallback .* 'val_dataset'"),
    ],
)
def test_what_is_not_there_is_told_before_the_model_is_loaded(engine, monkeypatch, fields, message):
    """A device, or a validation set that a callback needs."""
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=message):
        engine(**{"model_id": "no/such-model", **fields})


def test_losses_that_differ_by_a_function_are_other_runs(engine):
    """The distances of upstream's triplet loss all have the name of a lambda."""
    losses = upstream.losses()
    model = engine().model
    metric = losses.TripletDistanceMetric
    prints = {
        fingerprint(loss=losses.TripletLoss(model, distance_metric=one))
        for one in (metric.COSINE, metric.EUCLIDEAN, metric.MANHATTAN)
    }
    assert len(prints) == 3

    def nearer(limit):
        return lambda one, other: limit - one @ other

    def farther(one, other, *, scale=1):
        return scale * (one - other).norm()

    named = [nearer(1), nearer(2), lambda one, other: 1 - one @ other, farther]
    named += [functools.partial(farther, scale=scale) for scale in (2, 3)]
    prints = {fingerprint(loss=losses.TripletLoss(model, distance_metric=one)) for one in named}
    assert len(prints) == len(named)
    assert fingerprint(loss=nearer(1)) == fingerprint(loss=nearer(1))

    def counting(n):
        return 0 if n == 0 else 1 + counting(n - 1)

    def early():
        return later

    assert fingerprint(loss=counting) == fingerprint(loss=counting)
    assert fingerprint(loss=early) != fingerprint(loss=counting)
    later = 1
    assert later


def test_code_of_a_module_is_found_wherever_the_module_stands(engine, tiny_bert_dir, tmp_path):
    """Upstream puts it beside the module, and looks for it at the top of the folder."""
    base = tmp_path / "base"
    shutil.copytree(tiny_bert_dir, base)
    (base / "doubling.py").write_text(
        "import torch\n"
        "class Doubling(torch.nn.Module):\n"
        "    def forward(self, features, **kwargs):\n"
        "        features['sentence_embedding'] = features['sentence_embedding'] * 2\n"
        "        return features\n"
        "    def save(self, *args, **kwargs): pass\n"
        "    @classmethod\n"
        "    def load(cls, *args, **kwargs): return cls()\n"
    )
    modules = json.loads((base / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Doubling", "type": "doubling.Doubling"})
    (base / "2_Doubling").mkdir()
    (base / "modules.json").write_text(json.dumps(modules))
    for train in ("both", "query"):
        output = str(tmp_path / train)
        run = engine(
            model_id=str(base), model_output_path=output, train=train, trust_remote_code=True
        )
        run.finetune()
        served = run.get_finetuned_model().get_query_embedding("amber")
        if train == "query" and sentence_transformers.__version__.startswith("5."):
            continue  # whose Router looks for no code
        plain = SentenceTransformer(output, device="cpu", trust_remote_code=True)
        assert np.allclose(
            served, plain.encode_query("amber", normalize_embeddings=True), atol=1e-6
        )
