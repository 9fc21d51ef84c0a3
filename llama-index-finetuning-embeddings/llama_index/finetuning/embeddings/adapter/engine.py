"""`EmbeddingAdapterFinetuneEngine`."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from torch import Tensor
from typing_extensions import Self

from llama_index.finetuning.embeddings.adapter.checks import (
    check_adapter,
    check_device,
    check_dimension,
    check_step,
)
from llama_index.finetuning.embeddings.adapter.embedding import Embedder
from llama_index.finetuning.embeddings.adapter.options import TrainingOptions, parse
from llama_index.finetuning.embeddings.adapter.run import (
    Outcome,
    Run,
    outcome_without_training,
)
from llama_index.finetuning.embeddings.adapter.selection import copy_of
from llama_index.finetuning.embeddings.adapter.vectors import Rows, rows_to_train_on
from llama_index.finetuning.embeddings.adapter.writing import write_outcome
from llama_index.finetuning.embeddings.adapter_embedding import AdapterEmbeddingModel
from llama_index.finetuning.embeddings.adapter_embedding.calls import sources
from llama_index.finetuning.embeddings.adapters import (
    BaseAdapter,
    LinearLayer,
    is_identity,
    is_own_class,
    load_adapter,
    save_adapter,
)
from llama_index.finetuning.embeddings.base import BaseFinetuningEngine
from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
    warn_of_shared_queries,
)
from llama_index.finetuning.embeddings.errors import ConfigurationError, ModelFolderError
from llama_index.finetuning.embeddings.files import (
    atomic_folder,
    check_apart,
    check_writable,
    output_lock,
)
from llama_index.finetuning.embeddings.report import RetrievalReport
from llama_index.finetuning.embeddings.validation import Unset

logger = logging.getLogger(__name__)

_BATCH_SIZE = Unset(10)
_EPOCHS = Unset(1)


class EmbeddingAdapterFinetuneEngine(BaseFinetuningEngine):
    """Train an adapter on the vectors of any embedding model, local or behind an API.

    Every text is embedded once, also for a second ``finetune()`` on the same data; training then
    takes seconds, as only the adapter changes. By default only queries pass through it, so that
    an existing index stays valid. With a validation set, or with no say in how to train
    (``auto``), the outcome is compared with the base on documents that were not trained on, and
    the base is handed back where it is better.

    Args:
        dataset: What to train on.
        embed_model: The model, which stays as it is.
        batch_size: Pairs of a query and a relevant document in a step.
        epochs: Passes over these pairs. Where neither this nor ``batch_size`` nor another option
            of training is given, all are chosen for you.
        adapter_model: The adapter to train, fresh (for one that was trained before there is
            `from_model_path`); None: a `LinearLayer`.
        dim: Length of the model's vectors; None: found out when it is needed.
        device: Where to train; None: the best that torch finds.
        model_output_path: The folder that the adapter replaces, whole or not at all.
        model_checkpoint_path: Folder for checkpoints, one ``step_N`` folder each.
        checkpoint_save_steps: Steps between two checkpoints.
        verbose: Log the loss of every step.
        bias: Give the `LinearLayer` a bias; an ``adapter_model`` has its own say.
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
        batch_size: int = _BATCH_SIZE,
        epochs: int = _EPOCHS,
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
        if bias and adapter_model is not None:
            logger.warning("'bias' does nothing: the adapter that is given has its own say.")
        self.dataset = require_dataset(dataset, name="dataset")
        self.embed_model = embed_model
        self.batch_size = batch_size
        self.summary = ""
        self.report: RetrievalReport | None = None
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
        self._embedder = Embedder(embed_model, dim)
        self._model = adapter_model
        self._given: dict[str, Tensor] | None = None
        self._trained_before = False
        self._check(self._options({}))

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

        How far to go is chosen with a ``val_dataset`` alone: without one the adapter is trained
        as ``epochs`` and the other options say, and whether that helps is not measured.

        Args:
            dataset: What to train on.
            embed_model: The model that the adapter was trained on.
            model_path: The adapter's folder, of this package or of the retired one.
            model_cls: The adapter's class, needed where it is not of this package.
            **kwargs: Further arguments of the constructor; ``transform`` is the saved one
                unless it is given.

        Raises:
            ConfigurationError: ``auto=True`` without a ``val_dataset``, or an argument that the
                constructor refuses.
            DatasetError: A dataset's contents do not fit together.
            ModelFolderError: The folder holds no adapter, or one for other vectors.
            OutputError: An output folder can't be written.
        """
        adapter, description = load_adapter(model_path, model_cls)
        check_dimension(embed_model, adapter, description, model_path)
        options = {"transform": description.transform, **kwargs}
        engine = cls(dataset, embed_model, adapter_model=adapter, **options)
        engine._trained_before = not is_identity(adapter)
        engine._options({})  # refuses what an adapter that was trained before can't be
        return engine

    @property
    def dim(self) -> int:
        """Length of the model's vectors; a document is embedded where nothing else tells."""
        return self._embedder.dim or self._embedder.find_dim(self.dataset, self._options({}))

    @property
    def model(self) -> BaseAdapter:
        """The adapter that is trained; as it was before where the base was handed back."""
        if self._model is None:
            self._model = LinearLayer(self.dim, self.dim, bias=self._bias)
        return self._model

    def smart_batching_collate(self, batch: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
        """Embed pairs of a query and a text.

        Returns:
            The vectors of the queries and of the texts, each of shape ``(n_pairs, dim)``.

        Raises:
            ConfigurationError: The vectors are not of the length ``dim``.
            EncodingError: The embedding model failed, or gave unusable vectors.
            OutputError: The cache can't be written.
        """
        options = self._options({})
        device = check_device(self._device)
        queries = self._embedder.embed([(query, query) for query, _ in batch], "query", options)
        texts = self._embedder.embed([(text, text) for _, text in batch], "text", options)
        return queries.to(device), texts.to(device)

    def finetune(self, **train_kwargs: Any) -> None:
        """Embed what is not in the cache, train, and write the adapter's folder.

        What came of it is logged and kept as ``summary``. With a validation set, the table of
        base against finetuned model is kept as ``report`` and written as ``report.html``.

        Args:
            **train_kwargs: Fields of `TrainingOptions`, which override the constructor's.

        Raises:
            ConfigurationError: An option is unknown, or has a value that can't work.
            DatasetError: A dataset was changed so that its contents do not fit together.
            EncodingError: The embedding model failed, or gave unusable vectors.
            OutputError: An output folder can't be written, or another run is writing it.
            TrainingError: The loss is not finite.
        """
        options = self._options(train_kwargs)
        self._check(options)
        warn_of_shared_queries(self.dataset, options.val_dataset)
        with output_lock(self._model_output_path, name="model_output_path"):
            self._finetune(options)

    def _finetune(self, options: TrainingOptions) -> None:
        rows = rows_to_train_on(self.dataset, options)
        outcome = outcome_without_training(rows, options) or self._trained(rows, options)
        self.summary = outcome.summary
        logger.log(logging.WARNING if outcome.is_base else logging.INFO, outcome.summary)
        adapter = LinearLayer(self.dim, self.dim) if outcome.is_base else self.model
        self.report = write_outcome(
            self._model_output_path,
            adapter,
            options,
            outcome,
            dataset=self.dataset,
            embed_model=self.embed_model,
            dimension=self.dim,
        )
        if self.report is not None:
            logger.info("On the validation set:\n%s", self.report.to_markdown())

    def _trained(self, rows: Rows, options: TrainingOptions) -> Outcome:
        """Embed and train; the adapter stays as it was on an error, or where the base is better."""
        began = time.perf_counter()
        # One document tells what would otherwise show when all of them are paid for.
        expected = self._embedder.dim
        if self._embedder.find_dim(self.dataset, options) != expected:
            self._check_adapter(options)
        parts = [(self.dataset, rows)]
        if options.val_dataset is not None:
            parts.append((options.val_dataset, Rows.of(options.val_dataset)))
        device = check_device(self._device)
        vectors, *validation = self._embedder.embed_all(parts, options, device)
        embedded = time.perf_counter()
        self.model.trained_transform = options.transform
        before = copy_of(self.model)
        if self._given is None:
            self._given = before
        if options.cross_validates:
            # An earlier run may have shown this adapter the documents that are to judge it.
            self.model.load_state_dict(self._given)
        outcome = None
        try:
            run = Run(
                self.model,
                vectors,
                validation[0] if validation else None,
                options,
                save_checkpoint=lambda step: self._checkpoint(step, options),
            )
            outcome = run.outcome()
        finally:
            if outcome is None or outcome.is_base:
                self.model.load_state_dict(before)
        seconds = {"embedding": embedded - began, "training": time.perf_counter() - embedded}
        return dataclasses.replace(outcome, seconds=seconds)

    def get_finetuned_model(self, **model_kwargs: Any) -> BaseEmbedding:
        """Load the finetuned model: the base with the adapter behind it.

        Args:
            **model_kwargs: Passed to `AdapterEmbeddingModel`, e.g. ``embed_batch_size=64``.

        Raises:
            ModelFolderError: ``finetune()`` has not written an adapter yet.
        """
        if not Path(self._model_output_path).is_dir():
            raise ModelFolderError(
                f"There is no adapter folder at {self._model_output_path!r}. Call finetune() first."
            )
        if self._model is not None and not is_own_class(type(self._model)):
            model_kwargs.setdefault("adapter_cls", type(self._model))
        model_kwargs.setdefault("device", self._device)
        return AdapterEmbeddingModel(self.embed_model, self._model_output_path, **model_kwargs)

    def _options(self, train_kwargs: dict[str, Any]) -> TrainingOptions:
        given = {**self._train_kwargs, **train_kwargs}
        if given.get("val_dataset") is not None:
            given["val_dataset"] = require_dataset(given["val_dataset"], name="val_dataset")
        return parse(
            self._defaults,
            given,
            trained_before=self._trained_before,
        )

    def _check(self, options: TrainingOptions) -> None:
        """Check everything that can be checked without embedding or writing."""
        require_dataset(self.dataset, name="dataset")
        check_writable(self._model_output_path, name="model_output_path")
        check_apart(
            sources(self.embed_model),
            self._model_output_path,
            name="model_output_path",
            reason="an adapter stands behind its base and is of no use without it.",
        )
        if options.checkpoint_path is not None:
            check_writable(options.checkpoint_path, name="model_checkpoint_path", replaced=False)
        if options.cache_dir is not None:
            check_writable(options.cache_dir, name="cache_dir", replaced=False)
        check_device(self._device)
        self._check_adapter(options)

    def _check_adapter(self, options: TrainingOptions) -> None:
        dim = self._embedder.dim
        if self._model is not None:
            check_adapter(self._model, dim, self.embed_model.model_name, options.transform)
        if dim is not None:
            adapter = self._model
            if adapter is None:
                adapter = LinearLayer(dim, dim, bias=self._bias)
            check_step(adapter, dim, options)

    def _checkpoint(self, step: int, options: TrainingOptions) -> None:
        with atomic_folder(Path(str(options.checkpoint_path)) / f"step_{step}") as folder:
            save_adapter(
                self.model,
                folder,
                transform=options.transform,
                embed_model=self.embed_model,
                dimension=self.dim,
            )
