"""SIGKILL anywhere in a full finetune: the output stays whole, and resuming ends the same."""

import os
import signal
from pathlib import Path

import pytest
import torch
from fakes import HashEmbedding, tiny_dataset
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from llama_index.finetuning.embeddings import (
    EmbeddingAdapterFinetuneEngine,
    OutputError,
    SentenceTransformersFinetuneEngine,
    files,
)
from llama_index.finetuning.embeddings.sentence_transformer import (
    checkpoints,
    saving,
)
from llama_index.finetuning.embeddings.sentence_transformer import weights as weights_on_disk

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def die(*args, **kwargs):
    """End the process as the operating system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


class AtStep(TrainerCallback):
    """Dies at the end of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        """Die if the step has come."""
        if state.global_step == self.step:
            die()


class Recorder(TrainerCallback):
    """Notes the step that a run begins at."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Note it."""
        self.step = state.global_step


def in_checkpoint(monkeypatch):
    """Die when the checkpoint's files are written and it is not sealed yet."""
    monkeypatch.setattr(checkpoints.CheckpointSeal, "on_save", die)


def in_best_weights(monkeypatch):
    """Die with half of the best weights written."""
    whole = weights_on_disk.save_model

    def half(model, path):
        if Path(path).name != "model.safetensors":
            whole(model, path)
            return
        Path(path).write_bytes(b"half")
        die()

    monkeypatch.setattr(weights_on_disk, "save_model", half)


def in_output(monkeypatch):
    """Die when the output's weights are written and its record is not."""
    monkeypatch.setattr(saving, "write_manifest", die)


def before_exchange(monkeypatch):
    """Die with the new folder whole beside the old one."""
    monkeypatch.setattr(files, "_exchange", die)


def after_exchange(monkeypatch):
    """Die with the new folder in its place and the old one not yet removed."""
    exchange = files._exchange

    def exchanged(*args):
        exchange(*args)
        die()

    monkeypatch.setattr(files, "_exchange", exchanged)


def engine(model, output, **kwargs):
    """Return an engine of 20 steps that writes a checkpoint every 3 and evaluates every 4."""
    usual = {
        "batch_size": 4,
        "epochs": 4,
        "val_dataset": tiny_dataset(8, 1, seed=5),
        "evaluation_steps": 4,
        "save_checkpoints": True,
        "checkpoint_save_steps": 3,
        "device": "cpu",
        "precision": "fp32",
        "show_progress_bar": False,
        "training_args": {"learning_rate": 1e-3},
    }
    return SentenceTransformersFinetuneEngine(
        tiny_dataset(20, 2), str(model), str(output), **{**usual, **kwargs}
    )


def weights(path):
    """Return all weights of a folder in one vector."""
    model = SentenceTransformer(str(path), device="cpu")
    return torch.cat([tensor.flatten() for tensor in model.parameters()]).detach()


def killed(model, output, arrange, step, **settings):
    """Run the engine in a child that dies where it is told; return the signal."""
    child = os.fork()
    if child == 0:
        try:
            if arrange is not None:
                arrange(pytest.MonkeyPatch())
            callbacks = [AtStep(step)] if step else None
            settings = {"resume_from_checkpoint": True, "callbacks": callbacks, **settings}
            engine(model, output, **settings).finetune()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def in_removal(monkeypatch):
    """Die with a part of a checkpoint removed that is one too many."""

    def half(path, **kwargs):
        next(Path(path).glob("*.safetensors")).unlink()
        die()

    monkeypatch.setattr(checkpoints.shutil, "rmtree", half)


def test_killed_while_an_old_checkpoint_goes(tiny_bert_dir, tmp_path, monkeypatch):
    """The new one is whole by then, and gone on from; the remains go with the next."""
    monkeypatch.chdir(tmp_path)
    settings = {"resume_from_checkpoint": True, "checkpoint_save_total_limit": 1}
    assert killed(tiny_bert_dir, "out", in_removal, None, **settings) == signal.SIGKILL
    folder = Path("checkpoints/out")
    whole = [one.parent.name for one in folder.glob("checkpoint-*/complete.txt")]
    remains = {one.name for one in folder.glob("checkpoint-*")} - set(whole)
    assert len(whole) == len(remains) == 1
    first = Recorder()
    run = engine(tiny_bert_dir, "out", callbacks=[first], **settings)
    run.finetune()
    assert first.step == int(whole[0].removeprefix("checkpoint-"))
    assert len([*folder.glob("checkpoint-*")]) == 1


def test_killed_nine_times_and_resumed(tiny_bert_dir, tmp_path, monkeypatch):
    """The weights are those of an unbroken run, and the output was old or new at every moment."""
    monkeypatch.chdir(tmp_path)
    unbroken = tmp_path / "unbroken"
    engine(tiny_bert_dir, unbroken).finetune()
    expected = weights(unbroken)
    output = tmp_path / "out"
    SentenceTransformer(str(tiny_bert_dir), device="cpu").save(str(output))
    old = weights(output)
    assert not torch.allclose(old, expected, atol=1e-4)
    points = [
        (None, 2),
        (in_checkpoint, None),
        (in_best_weights, None),
        (None, 7),
        (None, 13),
        (in_checkpoint, None),
        (in_output, None),
        (before_exchange, None),
    ]
    for arrange, step in points:
        assert killed(tiny_bert_dir, output, arrange, step) == signal.SIGKILL, (arrange, step)
        assert torch.equal(weights(output), old), (arrange, step)
    assert killed(tiny_bert_dir, output, after_exchange, None) == signal.SIGKILL
    torch.testing.assert_close(weights(output), expected, atol=1e-6, rtol=0)
    last = engine(tiny_bert_dir, output, resume_from_checkpoint=True)
    last.finetune()
    torch.testing.assert_close(weights(output), expected, atol=1e-6, rtol=0)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))] == []


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_folder_in_use_is_refused(tiny_bert_dir, tmp_path, monkeypatch, kind):
    """While one run writes a folder, a second is told so before it trains or writes."""
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    if kind == "full":
        second = engine(tiny_bert_dir, output)
    else:
        second = EmbeddingAdapterFinetuneEngine(
            tiny_dataset(6, 1), HashEmbedding(), model_output_path=str(output)
        )
    with (
        files.output_lock(output, name="model_output_path"),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        second.finetune()
    assert not output.exists()
    second.finetune()
    assert (output / "finetuning.json").is_file()


def test_an_old_folder_that_stepped_aside_comes_back(tmp_path):
    """Killed between two renames, where folders can't be exchanged: the old model is put back."""
    aside = tmp_path / f".out.{'0' * 32}.old"
    aside.mkdir()
    (aside / "model.bin").write_text("old")
    torn = tmp_path / f".out.{'1' * 32}.tmp"
    torn.mkdir()
    other = tmp_path / f".other.{'2' * 32}.tmp"
    other.mkdir()
    with files.output_lock(tmp_path / "out", name="model_output_path"):
        assert (tmp_path / "out" / "model.bin").read_text() == "old"
    assert not torn.exists()
    assert not aside.exists()
    assert other.exists()


@pytest.mark.parametrize(
    ("settings", "at_once", "place"),
    [
        ({"save_checkpoints": False}, True, "start.safetensors"),
        ({"save_checkpoints": True, "val_dataset": None}, False, "checkpoints/"),
        ({"save_checkpoints": False}, False, "/model.safetensors"),
        ({"save_checkpoints": False, "val_dataset": None}, False, "out'"),
    ],
    ids=["start", "checkpoint", "best weights", "output"],
)
def test_a_full_disk_is_told_and_the_old_model_stays(
    tiny_bert_dir, tmp_path, monkeypatch, settings, at_once, place
):
    """No room for the weights at the start, a checkpoint, the best weights or the output."""
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    SentenceTransformer(str(tiny_bert_dir), device="cpu").save(str(output))
    old = weights(output)
    run = engine(tiny_bert_dir, output, **settings)
    save = weights_on_disk.SavedWeights.save

    def fill_the_disk():
        # A limit of the system's: no file may grow beyond it, as on a disk that fills up.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def save_and_fill(self):
        save(self)
        fill_the_disk()

    child = os.fork()
    if child == 0:
        status = 1
        try:
            if at_once:
                fill_the_disk()
            else:
                weights_on_disk.SavedWeights.save = save_and_fill
            run.finetune()
        except OutputError as error:
            status = 0 if place in str(error) and "free space" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(weights(output), old)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))] == []
