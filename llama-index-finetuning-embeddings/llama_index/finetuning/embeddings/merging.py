"""Merging a finetuned model with its base, weight by weight."""

import copy
import functools
import importlib.util
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings.adapters.folder import CONFIG
from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
)
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.files import check_apart, check_writable, output_lock
from llama_index.finetuning.embeddings.manifest import read_manifest
from llama_index.finetuning.embeddings.model_folder import SIDES, has_two_sides, is_model
from llama_index.finetuning.embeddings.sentence_transformer.evaluator import RetrievalEvaluator
from llama_index.finetuning.embeddings.sentence_transformer.length import set_max_seq_length
from llama_index.finetuning.embeddings.sentence_transformer.loading import load_sentence_transformer
from llama_index.finetuning.embeddings.sentence_transformer.saving import save_merged
from llama_index.finetuning.embeddings.sentence_transformer.whitening import whiten_alike

logger = logging.getLogger(__name__)

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def merge_with_base(
    finetuned_path: str | os.PathLike[str],
    base_model_id: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    *,
    weight: float | None = 0.5,
    val_dataset: EmbeddingQAFinetuneDataset | None = None,
    trust_remote_code: bool = False,
) -> str:
    """Mix a finetuned model with the model that it came from.

    Every weight becomes ``weight * finetuned + (1 - weight) * base``. The result keeps much of
    what the finetuning gained on its own documents and loses less on others; often it is better
    than both (WiSE-FT, Wortsman et al. 2021, https://arxiv.org/abs/2109.01903; LM-Cocktail,
    Xiao et al. 2023, https://arxiv.org/abs/2311.13534). Mixed with ``SentenceTransformer.merge``
    where sentence-transformers has it and mergekit is installed, else by the same formula.

    A folder of ``train="query"`` gets its model for queries mixed, its documents stay.

    Args:
        finetuned_path: The folder that the full engine wrote.
        base_model_id: The base: a name on the Hugging Face Hub, or a folder.
        output_path: The folder that the merged model replaces, whole or not at all.
        weight: The finetuned model's share, 0 to 1. None tries 0, 0.25, 0.5, 0.75 and 1, and
            takes the best nDCG@10 on ``val_dataset``, the smallest where several are best.
        val_dataset: What to choose the weight by.
        trust_remote_code: Run code that a model's folder brings.

    Returns:
        ``output_path``.

    Raises:
        ConfigurationError: The weight is no share, it is to be chosen without ``val_dataset`` or
            given with one, or the models have different weights or modules.
        DatasetError: ``val_dataset`` was changed so that it does not fit together.
        ModelFolderError: There is no finetuned model at ``finetuned_path``, a model can't be
            loaded, or a folder names code of its own without ``trust_remote_code``.
        OutputError: The output can't be written, or another run is writing it.
    """
    if weight is None and val_dataset is not None:
        val_dataset = require_dataset(val_dataset, name="val_dataset")
    _check_weight(weight, val_dataset)
    folder, output = Path(finetuned_path), Path(output_path)
    if not is_model(folder):
        found = "only an adapter" if (folder / CONFIG).is_file() else "no finetuned model"
        raise ModelFolderError(
            f"There is {found} at {os.fspath(finetuned_path)!r}. Give the folder that "
            "SentenceTransformersFinetuneEngine wrote."
        )
    check_writable(output, name="output_path")
    check_apart(
        [os.fspath(base_model_id)],
        output,
        name="output_path",
        reason="the base stays as it is, so that another share can be tried.",
    )

    load = functools.partial(
        load_sentence_transformer, trust_remote_code=trust_remote_code, device="cpu"
    )

    facts = read_manifest(folder)
    _warn_of_other_base(facts.get("base_model"), base_model_id, folder / SIDES[1])
    with output_lock(output, name="output_path"):
        two_sides = has_two_sides(folder)
        finetuned = load(folder / SIDES[0] if two_sides else folder)
        document_model = load(folder / SIDES[1]) if two_sides else None
        base = load(base_model_id)
        whiten_alike(base, finetuned)
        _check_same_shape(finetuned, base)
        _check_same_modules(finetuned, base)
        tried: dict[str, float] = {}
        if val_dataset is not None:
            prompts = facts.get("prompts") or {}
            tried = _scores(finetuned, base, val_dataset, prompts, document_model)
        if weight is None:
            weight = float(max(tried, key=tried.__getitem__))
            logger.info("nDCG@10 by the finetuned model's share: %s; taking %s", tried, weight)
        base_model = os.fspath(base_model_id)
        save_merged(
            mixed(finetuned, base, weight),
            output,
            facts=facts,
            merged={"base_model": base_model, "weight": weight, "ndcg@10": tried or None},
            document_model=document_model,
        )
    return os.fspath(output_path)


def mixed(
    finetuned: SentenceTransformer, base: SentenceTransformer, share: float
) -> SentenceTransformer:
    """Return a new model with this share of the finetuned weights; all else is the finetuned's."""
    if hasattr(SentenceTransformer, "merge") and importlib.util.find_spec("mergekit"):
        # Upstream compares the modules' settings too, and finetuning may have changed the length.
        set_max_seq_length(base, finetuned.max_seq_length)
        try:
            return SentenceTransformer.merge(
                [finetuned, base], "linear", parameters={"weight": [share, 1 - share]}
            )
        except ValueError as error:
            raise ConfigurationError(
                f"'base_model_id' can't be mixed with the finetuned model: {error}. Give the base "
                "that finetuning.json names."
            ) from error
    merged = copy.deepcopy(finetuned)
    others = base.state_dict()
    with torch.no_grad():
        # Each once, where a state dict would name shared weights twice.
        for name, tensor in [*merged.named_parameters(), *merged.named_buffers()]:
            if name in others and tensor.is_floating_point():
                tensor.lerp_(others[name].to(tensor), 1 - share)
    return merged


def _scores(
    finetuned: SentenceTransformer,
    base: SentenceTransformer,
    val_dataset: EmbeddingQAFinetuneDataset,
    prompts: dict[str, Any],
    document_model: SentenceTransformer | None,
) -> dict[str, float]:
    """Return the nDCG@10 of each weight on the validation set."""
    evaluator = RetrievalEvaluator(
        val_dataset,
        query_prompt=prompts.get("query") or "",
        text_prompt=prompts.get("text") or "",
        frozen_documents=document_model is not None,
    )
    if document_model is not None:
        evaluator.embed_documents(document_model)
    return {
        str(weight): evaluator.evaluate(mixed(finetuned, base, weight)).metrics["ndcg@10"]
        for weight in WEIGHTS
    }


def _check_weight(weight: Any, val_dataset: Any) -> None:
    if weight is None:
        if val_dataset is None:
            raise ConfigurationError(
                "'weight' is None, which chooses it on a validation set: pass 'val_dataset', or a "
                "weight from 0 to 1."
            )
        return
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ConfigurationError(f"'weight' must be a number from 0 to 1 (got {weight!r}).")
    if val_dataset is not None:
        raise ConfigurationError(
            f"'val_dataset' chooses the weight only if 'weight' is None (got {weight!r}). Leave "
            "one of them out."
        )


def _check_same_shape(finetuned: SentenceTransformer, base: SentenceTransformer) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in finetuned.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in base.state_dict().items()}
    if ours == theirs:
        return
    names = sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    raise ConfigurationError(
        f"'base_model_id' is not what the finetuned model came from: {len(names)} weights differ "
        f"in name or shape, for instance {', '.join(map(repr, names[:3]))}. Give the base that "
        f"finetuning.json names."
    )


def _check_same_modules(finetuned: SentenceTransformer, base: SentenceTransformer) -> None:
    """Make sure that the vectors come about alike: by the same pooling, for instance."""
    pairs = itertools.zip_longest(finetuned.children(), base.children())
    for name, (ours, theirs) in enumerate(pairs):
        if _settings(ours) != _settings(theirs):
            raise ConfigurationError(
                f"'base_model_id' is not what the finetuned model came from: its module {name} "
                f"is {theirs}, the finetuned model's is {ours}. Give the base that finetuning.json "
                "names."
            )


def _settings(module: torch.nn.Module | None) -> tuple[str, dict[str, Any]]:
    config: Any = getattr(module, "get_config_dict", dict)
    found = config()
    # By its name: code that two folders bring makes two classes. Finetuning may change the length.
    kept = {name: value for name, value in found.items() if name != "max_seq_length"}
    return type(module).__qualname__, kept


def _warn_of_other_base(recorded: Any, given: str | os.PathLike[str], own: Path) -> None:
    """Log that a base is another than the one in the record, which equal shapes do not show.

    Args:
        recorded: The base's name or folder in the record; None: there is none.
        given: The base.
        own: Where the finetuned folder would hold its base.
    """
    if recorded is None:
        logger.warning(
            "The finetuned folder has no finetuning.json that names its base: whether %r is it "
            "can't be checked.",
            os.fspath(given),
        )
        return
    known, place = Path(str(recorded)), Path(given)
    # A folder that was moved; two names on the Hub may end alike and differ.
    elsewhere = place.is_dir() and not known.is_dir() and known.name == place.name
    if not elsewhere and place.resolve() not in {known.resolve(), own.resolve()}:
        logger.warning(
            "The finetuned model came from %r and is now mixed with %r: that only makes sense if "
            "the two are the same model.",
            recorded,
            os.fspath(given),
        )
