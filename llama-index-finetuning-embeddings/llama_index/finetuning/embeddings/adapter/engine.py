"""`EmbeddingAdapterFinetuneEngine`."""

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.utils import infer_torch_device
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions, parse
from llama_index.finetuning.embeddings.adapter.run import Outcome, Run, Vectors
from llama_index.finetuning.embeddings.adapter.vectors import Rows
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    load_adapter,
    save_adapter,
)
from llama_index.finetuning.embeddings.adapters.registry import saves_itself
from llama_index.finetuning.embeddings.base import BaseFinetuningEngine
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.encoding import Side, encode, stated_dimension
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.files import atomic_folder, check_writable
from llama_index.finetuning.embeddings.manifest import describe_run, write_manifest

logger = logging.getLogger(__name__)

# Documents that no query names, embedded only to rank the others among.
_BYSTANDERS = 20_000


class EmbeddingAdapterFinetuneEngine(BaseFinetuningEngine):
    """Train an adapter on the vectors of any embedding model, local or behind an API.

    Every text is embedded once; training then takes seconds, as only the adapter changes. By
    default only queries pass through it, so that an existing index stays valid. With a
    validation set, or with no say in how to train (``auto``), the outcome is compared with the
    base on documents that were not trained on, and the base is handed back where it is better.

    Args:
        dataset: What to train on.
        embed_model: The model, which stays as it is.
        batch_size: Pairs of a query and a relevant document in a step.
        epochs: Passes over these pairs.
        adapter_model: The adapter to train; None: a `LinearLayer`.
        dim: Length of the model's vectors; None: found out when it is needed.
        device: Where to train; None: the best that torch finds.
        model_output_path: The folder that the adapter replaces, whole or not at all.
        model_checkpoint_path: Folder for checkpoints, one ``step_N`` folder each.
        checkpoint_save_steps: Steps between two checkpoints.
        verbose: Log the loss of every step.
        bias: Give the `LinearLayer` a bias.
        **train_kwargs: Any field of `TrainingOptions`: ``lr``, ``val_dataset``, ``negatives``,
            ``transform``, ``auto``, ``cache_dir``, ``seed`` and so on.

    Raises:
        ConfigurationError: An argument is unknown, or has a value that can't work.
        DatasetError: A dataset's contents do not fit together.
        OutputError: An output folder can't be written.

    Example:
        >>> engine = EmbeddingAdapterFinetuneEngine(dataset, Settings.embed_model)
        >>> engine.finetune()
        >>> Settings.embed_model = engine.get_finetuned_model()
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        embed_model: BaseEmbedding,
        batch_size: int = 10,
        epochs: int = 1,
        adapter_model: BaseAdapter | None = None,
        dim: int | None = None,
        device: str | None = None,
        model_output_path: str = "model_output",
        model_checkpoint_path: str | None = None,
        checkpoint_save_steps: int = 100,
        verbose: bool = False,
        bias: bool = False,
        **train_kwargs: Any,
    ) -> None:
        if not isinstance(embed_model, BaseEmbedding):
            raise ConfigurationError(
                f"'embed_model' must be a LlamaIndex BaseEmbedding (got "
                f"{type(embed_model).__name__})."
            )
        self.dataset = dataset
        self.embed_model = embed_model
        self.batch_size = batch_size
        self.report = ""
        self._defaults = {
            "batch_size": batch_size,
            "epochs": epochs,
            "checkpoint_path": model_checkpoint_path,
            "checkpoint_save_steps": checkpoint_save_steps,
            "verbose": verbose,
        }
        self._train_kwargs = train_kwargs
        self._bias = bias
        self._model_output_path = model_output_path
        self._device = device
        self._dim = dim or stated_dimension(embed_model)
        self._model = adapter_model
        self._check(parse(self._defaults, train_kwargs))

    @classmethod
    def from_model_path(
        cls,
        dataset: EmbeddingQAFinetuneDataset,
        embed_model: BaseEmbedding,
        model_path: str,
        model_cls: type[Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Go on training an adapter that was saved before, a checkpoint for instance.

        Args:
            dataset: What to train on.
            embed_model: The model that the adapter was trained on.
            model_path: The adapter's folder, of this package or of the retired one.
            model_cls: The adapter's class, needed where it is not of this package.
            **kwargs: Further arguments of the constructor; ``transform`` is the saved one
                unless it is given.

        Raises:
            ModelFolderError: The folder holds no adapter, or one for other vectors.
        """
        adapter, description = load_adapter(model_path, model_cls)
        dim = stated_dimension(embed_model)
        expected = description.dimension or getattr(adapter, "in_features", None)
        if None not in (dim, expected) and dim != expected:
            raise ModelFolderError(
                f"The adapter in {model_path!r} is for vectors of {expected} dimensions, and "
                f"those of {embed_model.model_name!r} have {dim}."
            )
        options = {"transform": description.transform, **kwargs}
        return cls(dataset, embed_model, adapter_model=adapter, **options)

    @property
    def dim(self) -> int:
        """Length of the model's vectors; a text is embedded where nothing else tells."""
        if self._dim is None:
            self._dim = len(self.embed_model.get_text_embedding("hello world"))
        return self._dim

    @property
    def model(self) -> BaseAdapter:
        """The adapter."""
        if self._model is None:
            self._model = LinearLayer(self.dim, self.dim, bias=self._bias)
        return self._model

    def smart_batching_collate(self, batch: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Embed pairs of a query and a text.

        Returns:
            The vectors of the queries and of the texts, each of shape ``(n_pairs, dim)``.
        """
        options = parse(self._defaults, self._train_kwargs)
        queries = self._encode([query for query, _ in batch], None, "query", options)
        texts = self._encode([text for _, text in batch], None, "text", options)
        return torch.from_numpy(queries), torch.from_numpy(texts)

    def finetune(self, **train_kwargs: Any) -> None:
        """Embed what is not in the cache, train, and write the adapter's folder.

        Args:
            **train_kwargs: Fields of `TrainingOptions`, which override the constructor's.

        Raises:
            ConfigurationError: An option is unknown, or has a value that can't work.
            DatasetError: A dataset was changed so that its contents do not fit together.
            EncodingError: The embedding model failed, or gave unusable vectors.
            OutputError: An output folder can't be written.
            TrainingError: The loss is not finite.
        """
        options = parse(self._defaults, {**self._train_kwargs, **train_kwargs})
        self._check(options)
        began = time.perf_counter()
        vectors, validation = self._embedded(options)
        embedded = time.perf_counter()
        run = Run(
            self.model,
            vectors,
            validation,
            options,
            save_checkpoint=lambda step: self._checkpoint(step, options),
        )
        outcome = run.outcome()
        trained = time.perf_counter()
        self.report = outcome.report
        logger.info(outcome.report)
        if outcome.is_base:
            self._model = LinearLayer(self.dim, self.dim)
        seconds = {"embedding": embedded - began, "training": trained - embedded}
        self._write(options, outcome, seconds)

    def get_finetuned_model(self, **model_kwargs: Any) -> BaseEmbedding:
        """Load the finetuned model: the base with the adapter behind it.

        Args:
            **model_kwargs: Passed to `AdapterEmbeddingModel`, e.g. ``embed_batch_size=64``.

        Raises:
            ModelFolderError: ``finetune()`` has not written an adapter yet.
        """
        model_kwargs.setdefault("adapter_cls", None if self._model is None else type(self._model))
        return AdapterEmbeddingModel(self.embed_model, self._model_output_path, **model_kwargs)

    def _check(self, options: TrainingOptions) -> None:
        """Check everything that can be checked without embedding or writing."""
        for name, dataset in (("dataset", self.dataset), ("val_dataset", options.val_dataset)):
            if dataset is None and name == "val_dataset":
                continue
            if not isinstance(dataset, EmbeddingQAFinetuneDataset):
                raise ConfigurationError(
                    f"{name!r} must be an EmbeddingQAFinetuneDataset (got "
                    f"{type(dataset).__name__}). Read a file with "
                    "EmbeddingQAFinetuneDataset.from_json(path)."
                )
            dataset.check()
        check_writable(self._model_output_path, name="model_output_path")
        if options.checkpoint_path is not None:
            check_writable(options.checkpoint_path, name="model_checkpoint_path")
        if options.cache_dir is not None:
            check_writable(options.cache_dir, name="cache_dir")
        self._check_adapter(options)

    def _check_adapter(self, options: TrainingOptions) -> None:
        adapter = self._model
        if adapter is None:
            return
        if not isinstance(adapter, torch.nn.Module) or not callable(getattr(adapter, "save", None)):
            raise ConfigurationError(
                f"'adapter_model' must be a BaseAdapter (got {type(adapter).__name__})."
            )
        if saves_itself(adapter):
            if options.transform == "both":
                raise ConfigurationError(
                    "'transform' must be 'query' for an adapter that saves itself, as its folder "
                    f"can't say 'both' (got {type(adapter).__name__}). Inherit 'save' and 'load' "
                    "from this package's BaseAdapter."
                )
        else:
            _check_config(adapter)
        size_in = getattr(adapter, "in_features", self._dim)
        size_out = getattr(adapter, "out_features", size_in)
        if None not in (self._dim, size_in) and size_in != self._dim:
            raise ConfigurationError(
                f"'adapter_model' must take vectors of {self._dim} dimensions, as "
                f"{self.embed_model.model_name!r} gives them (got {size_in})."
            )
        if options.transform == "query" and size_out != size_in:
            raise ConfigurationError(
                f"'adapter_model' must give vectors as long as it takes (got {size_out} from "
                f"{size_in}): queries are compared with texts that it does not transform. Other "
                "lengths need transform='both'."
            )

    def _embedded(self, options: TrainingOptions) -> tuple[Vectors, Vectors | None]:
        rows = Rows.of(self.dataset)
        needed = {row for own in (*rows.positives, *rows.hard) for row in own}
        others = sorted(set(range(len(rows.document_ids))) - needed)
        if options.negatives == "corpus":
            needed.update(others)
        elif options.auto and options.val_dataset is None:
            rng = np.random.default_rng(options.seed)
            chosen = rng.permutation(len(others))[:_BYSTANDERS]
            needed.update(others[i] for i in chosen)
        vectors = self._vectors(self.dataset, rows.keep(sorted(needed)), options)
        if options.val_dataset is None:
            return vectors, None
        validation = self._vectors(options.val_dataset, Rows.of(options.val_dataset), options)
        return vectors, validation

    def _vectors(
        self, dataset: EmbeddingQAFinetuneDataset, rows: Rows, options: TrainingOptions
    ) -> Vectors:
        queries = self._encode(
            list(dataset.queries.values()), list(dataset.queries), "query", options
        )
        texts = [dataset.corpus[docid] for docid in rows.document_ids]
        documents = self._encode(texts, rows.document_ids, "text", options)
        device = torch.device(self._device or infer_torch_device())
        return Vectors(
            torch.from_numpy(queries).to(device), torch.from_numpy(documents).to(device), rows
        )

    def _encode(
        self, texts: list[str], ids: list[str] | None, side: Side, options: TrainingOptions
    ) -> NDArray[np.float32]:
        vectors = encode(
            self.embed_model,
            texts,
            side,
            ids=ids,
            num_workers=options.num_workers,
            cache_dir=options.cache_dir,
            show_progress=options.show_progress_bar,
        )
        expected = getattr(self._model, "in_features", None) or self._dim or vectors.shape[1]
        if vectors.shape[1] != expected:
            raise ConfigurationError(
                f"'dim' and 'adapter_model' must fit the vectors of "
                f"{self.embed_model.model_name!r}, which have {vectors.shape[1]} dimensions (got "
                f"{expected})."
            )
        self._dim = vectors.shape[1]
        return np.asarray(vectors)

    def _checkpoint(self, step: int, options: TrainingOptions) -> None:
        with atomic_folder(Path(str(options.checkpoint_path)) / f"step_{step}") as folder:
            self._save_adapter(folder, options)

    def _save_adapter(self, folder: Path, options: TrainingOptions) -> None:
        save_adapter(
            self.model,
            folder,
            transform=options.transform,
            embed_model=self.embed_model,
            dimension=self.dim,
        )

    def _write(self, options: TrainingOptions, outcome: Outcome, seconds: dict[str, float]) -> None:
        parameters = {
            **options.parameters(),
            "adapter": type(self.model).__name__,
            "adapter_config": self.model.get_config_dict(),
        }
        manifest = describe_run(
            engine=type(self).__name__,
            parameters=parameters,
            seed=options.seed,
            dataset=self.dataset,
            val_dataset=options.val_dataset,
            seconds=seconds,
            metrics=outcome.metrics,
            base_model=self.embed_model.model_name,
            report=outcome.report,
            training_log=outcome.log,
        )
        with atomic_folder(os.fspath(self._model_output_path)) as folder:
            self._save_adapter(folder, options)
            write_manifest(folder, manifest)


def _check_config(adapter: BaseAdapter) -> None:
    try:
        json.dumps(adapter.get_config_dict())
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"'adapter_model' can't be saved: {type(adapter).__name__}.get_config_dict must "
            f"return its constructor's arguments as JSON values ({error})."
        ) from error
