"""The course of a training run, read back from ``finetuning.json``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import MANIFEST, read_json_object


@dataclass(frozen=True)
class TrainingCurve:
    """Loss and validation metric over the steps of a run, as (step, value).

    Attributes:
        loss: The training loss.
        metric: The main metric on the validation set; step 0 is what the run began with.
        summary: What came of the run, in words; may be empty.
    """

    loss: list[tuple[int, float]]
    metric: list[tuple[int, float]]
    summary: str = ""


def training_curve(
    source: str | os.PathLike[str] | Mapping[str, Any], metric: str
) -> TrainingCurve:
    """Read the curve of a run.

    The manifest's ``training_log`` is a list of records, each with a ``step`` and either a
    ``loss`` or a value whose name ends with the metric's, like ``eval_cosine_ndcg@10``.

    Args:
        source: A model folder, its ``finetuning.json``, or what that file holds.
        metric: The metric to look for.

    Raises:
        ModelFolderError: There is no readable ``finetuning.json``, or its record is damaged.
    """
    manifest = source if isinstance(source, Mapping) else _read(Path(source))
    try:
        return _curve(manifest, metric)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelFolderError(
            "The record of the finetuning run is damaged: 'training_log' must be a list of objects "
            f"with numbers, and 'metrics' an object ({error!r})."
        ) from error


def _curve(manifest: Mapping[str, Any], metric: str) -> TrainingCurve:
    # What we call a hit rate is an accuracy upstream.
    names = (metric, metric.replace("hit_rate", "accuracy"))
    records = [one for one in manifest.get("training_log", []) if "step" in one]
    loss = {int(one["step"]): float(one["loss"]) for one in records if "loss" in one}
    before = manifest.get("metrics", {}).get("before", {})
    scores = {
        int(one["step"]): float(value)
        for one in records
        for name, value in one.items()
        if name.endswith(names)
    }
    if metric in before and scores:
        scores = {0: float(before[metric]), **scores}
    return TrainingCurve(
        loss=sorted(loss.items()),
        metric=sorted(scores.items()),
        summary=str(manifest.get("summary") or ""),
    )


def _read(path: Path) -> dict[str, Any]:
    file = path / MANIFEST if path.is_dir() else path
    try:
        return read_json_object(file)
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"There is no record of a finetuning run at {str(path)!r} ({error}). Give a finetuned "
            f"model's folder or its {MANIFEST}."
        ) from error
