"""What ``finetuning.json`` says about a run: enough to repeat it and to judge its outcome."""

import datetime
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import MANIFEST, read_json_object, write_json
from llama_index.finetuning.embeddings.redaction import HIDDEN, is_secret_name, redacted

_DISTRIBUTIONS = (
    "llama-index-finetuning-embeddings",
    "llama-index-core",
    "llama-index-embeddings-huggingface",
    "sentence-transformers",
    "transformers",
    "torch",
    "numpy",
)


def describe_run(
    *,
    engine: str,
    parameters: Mapping[str, Any],
    seed: int,
    dataset: EmbeddingQAFinetuneDataset,
    val_dataset: EmbeddingQAFinetuneDataset | None,
    seconds: Mapping[str, float],
    metrics: Mapping[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Collect what a run was, on what, with what, and what came of it.

    Args:
        engine: Name of the engine's class.
        parameters: What the run was told to do; values that are no JSON are named in words.
        seed: The one seed of all randomness.
        dataset: The training data.
        val_dataset: The validation data, if any.
        seconds: Phase to wall-clock seconds.
        metrics: Usually ``before`` and ``after``, each a mapping of metric to value.
        **more: Further entries, put at the top level.

    Returns:
        A dictionary that ``json.dumps`` takes, with keys and passwords hidden.
    """
    described = {
        "engine": engine,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "parameters": {
            name: redacted(value) if isinstance(value, str) else value
            for name, value in parameters.items()
        },
        "seed": seed,
        "dataset": describe_dataset(dataset),
        "val_dataset": None if val_dataset is None else describe_dataset(val_dataset),
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "metrics": dict(metrics),
        "versions": versions(),
        "hardware": hardware(),
        **more,
    }
    return {key: _jsonable(value) for key, value in described.items()}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a run's description as ``finetuning.json`` into a folder that is being filled."""
    write_json(folder / MANIFEST, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the record of a full model's run; empty where there is none.

    Raises:
        ModelFolderError: It can't be read, or its prompts are no texts.
    """
    if not (folder / MANIFEST).exists():
        return {}
    try:
        manifest = read_json_object(folder / MANIFEST)
        prompts = manifest.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(
            isinstance(prompt, str | None) for prompt in prompts.values()
        ):
            raise ValueError("'prompts' is no object of texts")
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"{str(folder / MANIFEST)!r} can't be read ({error}), so that the model's prompts "
            "are not known. Write it again, or load the folder with HuggingFaceEmbedding."
        ) from error
    return manifest


def public_name(model_name: str) -> str:
    """Return a model's name as others may read it: of a folder its own name, not its path."""
    path = Path(model_name)
    return path.name if path.is_dir() else model_name


def describe_dataset(dataset: EmbeddingQAFinetuneDataset) -> dict[str, Any]:
    """Return a dataset's fingerprint and sizes."""
    hard = dataset.hard_negatives or {}
    return {
        "fingerprint": dataset.fingerprint(),
        "queries": len(dataset.queries),
        "documents": len(dataset.corpus),
        "pairs": sum(len(set(dataset.relevant_docs[qid])) for qid in dataset.queries),
        "hard_negatives": sum(len(set(hard.get(qid, ()))) for qid in dataset.queries),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the machine's kind, its CPUs and, where torch is loaded, its accelerators."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch_threads"] = torch.get_num_threads()
        found["accelerators"] = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
    return found


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {
            str(key): HIDDEN if one and is_secret_name(str(key)) else _jsonable(one)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(one) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type):
        return value.__qualname__
    return value.item() if hasattr(value, "item") else f"<{type(value).__qualname__}>"
