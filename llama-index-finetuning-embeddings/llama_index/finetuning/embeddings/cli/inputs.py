"""What commands are given by name: datasets and models."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import FinetuningError, ModelFolderError


def read_dataset(given: str) -> EmbeddingQAFinetuneDataset:
    """Read a dataset's JSON file, or a BEIR folder: ``folder``, or ``folder:split``.

    Raises:
        DatasetError: There is no dataset, or its contents do not fit together.
        ConfigurationError: The folder has several splits and none was named, or no such one.
    """
    folder, colon, split = given.rpartition(":")
    if colon and not Path(given).exists() and Path(folder).is_dir():
        return EmbeddingQAFinetuneDataset.from_beir(folder, split)
    if Path(given).is_dir():
        return EmbeddingQAFinetuneDataset.from_beir(given)
    return EmbeddingQAFinetuneDataset.from_json(given)


def load_model(given: str, device: str | None = None) -> BaseEmbedding:
    """Load a model by its name on the Hugging Face Hub, or from the folder of any finetuning.

    Args:
        given: The name or folder.
        device: Where it runs, e.g. ``"cpu"``; None chooses.

    Raises:
        ModelFolderError: It can't be loaded.
    """
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from llama_index.finetuning.embeddings import load_finetuned_model
    from llama_index.finetuning.embeddings.model_folder import is_model

    with loading(given):
        if not Path(given).is_dir():
            model: BaseEmbedding = HuggingFaceEmbedding(model_name=given, device=device)
            return model
        if is_model(Path(given)):
            return load_finetuned_model(given, device=device)
        return load_finetuned_model(given)  # an adapter, whose base chooses by itself


@contextlib.contextmanager
def loading(model: str) -> Iterator[None]:
    """Say which model it is that can't be loaded, instead of showing where upstream failed.

    Raises:
        ModelFolderError: The block failed.
    """
    try:
        yield
    except FinetuningError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFolderError(
            f"The model {model!r} can't be loaded: {str(error).rstrip('. ')}. Give a folder, or "
            "a model's name on the Hugging Face Hub."
        ) from error
