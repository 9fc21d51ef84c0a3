"""Checks on the engine's arguments, before any model is loaded."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from llama_index.finetuning.embeddings.errors import ConfigurationError
from llama_index.finetuning.embeddings.files import check_writable
from llama_index.finetuning.embeddings.sentence_transformer.precision import PRECISIONS
from llama_index.finetuning.embeddings.validation import check_integer, check_seed

TRAINED = ("both", "query")
BATCHINGS = ("auto", "by_document", "pairs")


def check_arguments(
    *,
    model_id: Any,
    train: Any,
    early_stopping_patience: Any,
    val_dataset: Any,
    batch_size: Any,
    epochs: Any,
    evaluation_steps: Any,
    checkpoint_save_steps: Any,
    checkpoint_save_total_limit: Any,
    max_seq_length: Any,
    precision: Any,
    batching: Any,
    matryoshka_dims: Any,
    query_prompt: Any,
    text_prompt: Any,
    model_kwargs: Any,
    device: Any,
    seed: Any,
    callbacks: Any,
) -> None:
    """Reject arguments that can't work.

    Raises:
        ConfigurationError: One can't; the message names it, its value and what it must be.
    """
    if not isinstance(model_id, str | os.PathLike):
        raise ConfigurationError(
            "'model_id' must be a folder, or a model's name on the Hugging Face Hub (got "
            f"{type(model_id).__name__})."
        )
    check_seed(seed)
    for one in callbacks:
        kind = one if isinstance(one, type) else type(one)
        if not issubclass(kind, TrainerCallback):
            raise ConfigurationError(
                f"'callbacks' must hold transformers' TrainerCallbacks (got {one!r})."
            )
        if issubclass(kind, EarlyStoppingCallback) and val_dataset is None:
            raise ConfigurationError(
                f"'callbacks' hold an EarlyStoppingCallback (got {one!r}), which needs a "
                "'val_dataset' to see when the model gets no better. Pass one, or leave it out."
            )
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("epochs", epochs, minimum=1)
    check_integer("evaluation_steps", evaluation_steps, minimum=0)
    check_integer("checkpoint_save_steps", checkpoint_save_steps, minimum=1)
    check_integer("checkpoint_save_total_limit", checkpoint_save_total_limit, minimum=0)
    if max_seq_length not in ("auto", None):
        check_integer("max_seq_length", max_seq_length, minimum=1, other="'auto', None or ")
    _check_choice("precision", precision, PRECISIONS)
    _check_choice("batching", batching, BATCHINGS)
    _check_choice("train", train, TRAINED)
    if train == "query" and batching != "auto":
        raise ConfigurationError(
            f"'batching' must be 'auto' with train='query' (got {batching!r}): no document is "
            "encoded in its steps. Leave it out."
        )
    if str(device).startswith("cuda:") and str(device) != "cuda:0":
        raise ConfigurationError(
            f"'device' must be 'cuda' to train on a GPU (got {str(device)!r}): the Trainer takes "
            "the first that it sees. Choose by the environment variable CUDA_VISIBLE_DEVICES."
        )
    if device is not None:
        _check_device(device)
    if early_stopping_patience is not None:
        check_integer("early_stopping_patience", early_stopping_patience, minimum=1)
        if val_dataset is None:
            raise ConfigurationError(
                "'early_stopping_patience' needs a 'val_dataset' to see when the model gets no "
                "better. Pass one, or leave it out."
            )
    for name, prompt in (("query_prompt", query_prompt), ("text_prompt", text_prompt)):
        if not isinstance(prompt, str | None):
            raise ConfigurationError(f"{name!r} must be a text (got {prompt!r}).")
    if not isinstance(model_kwargs, Mapping | None):
        raise ConfigurationError(f"'model_kwargs' must be a mapping (got {model_kwargs!r}).")
    if matryoshka_dims is not None:
        if isinstance(matryoshka_dims, str) or not isinstance(matryoshka_dims, Iterable):
            raise ConfigurationError(
                f"'matryoshka_dims' must be a list of dimensions (got {matryoshka_dims!r})."
            )
        if not matryoshka_dims:
            raise ConfigurationError("'matryoshka_dims' must name at least one dimension (got []).")
        for dim in matryoshka_dims:
            check_integer("matryoshka_dims", dim, minimum=1)


def check_places(model_output_path: Path, checkpoint_path: Path | None) -> None:
    """Make sure that the output and the checkpoints can be written.

    Raises:
        OutputError: One can't.
    """
    check_writable(model_output_path, name="model_output_path")
    if checkpoint_path is not None:
        check_writable(checkpoint_path, name="checkpoint folder", replaced=False)


def checkpoint_folder(model_output_path: str | os.PathLike[str]) -> Path:
    """Return ``checkpoints/<model_output_path>``, below the working directory.

    Of an absolute path, below its own folder, which may be a disk that outlives the machine.
    ``..`` loses its meaning, so that the folder always lies under ``checkpoints``.
    """
    path = Path(model_output_path)
    if path.is_absolute():
        return path.parent / "checkpoints" / path.name
    return Path("checkpoints", *(part for part in path.parts if part not in (path.anchor, "..")))


def _check_device(device: Any) -> None:
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ConfigurationError(
            f"'device' must be one of PyTorch's, such as 'cpu' or 'cuda' (got {device!r})."
        ) from error
    backend = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    if not getattr(backend, "is_available", lambda: True)():
        raise ConfigurationError(
            f"'device' must be one that is there (got {device!r}, which PyTorch does not find). "
            "Leave it out, or install a build of PyTorch for it."
        )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError(f"'{name}' must be in {choices} (got {value!r}).")
