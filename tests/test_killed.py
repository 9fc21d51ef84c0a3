"""SIGKILL anywhere in a full finetune: the output stays whole, and resuming ends the same."""

import os
import signal
from pathlib import Path

import pytest
import torch
from fakes import tiny_dataset
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from llama_index.finetuning.embeddings import SentenceTransformersFinetuneEngine, files
from llama_index.finetuning.embeddings.sentence_transformer import saving, training

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


def in_checkpoint(monkeypatch):
    """Die when the checkpoint's files are written and it is not sealed yet."""
    monkeypatch.setattr(training.CheckpointSeal, "on_save", die)


def in_best_weights(monkeypatch):
    """Die with half of the best weights written."""

    def half(model, path):
        Path(path).write_bytes(b"half")
        die()

    monkeypatch.setattr(training, "save_model", half)


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
    return SentenceTransformersFinetuneEngine(
        tiny_dataset(20, 2),
        str(model),
        str(output),
        batch_size=4,
        epochs=4,
        val_dataset=tiny_dataset(8, 1, seed=5),
        evaluation_steps=4,
        save_checkpoints=True,
        checkpoint_save_steps=3,
        device="cpu",
        precision="fp32",
        show_progress_bar=False,
        training_args={"learning_rate": 1e-3},
        **kwargs,
    )


def weights(path):
    """Return all weights of a folder in one vector."""
    model = SentenceTransformer(str(path), device="cpu")
    return torch.cat([tensor.flatten() for tensor in model.parameters()]).detach()


def killed(model, output, arrange, step):
    """Run the engine in a child that dies where it is told; return the signal."""
    child = os.fork()
    if child == 0:
        try:
            if arrange is not None:
                arrange(pytest.MonkeyPatch())
            callbacks = [AtStep(step)] if step else None
            engine(model, output, resume_from_checkpoint=True, callbacks=callbacks).finetune()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


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
