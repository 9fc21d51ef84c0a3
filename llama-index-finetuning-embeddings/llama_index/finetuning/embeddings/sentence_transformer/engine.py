"""`SentenceTransformersFinetuneEngine`."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from sentence_transformers import SentenceTransformer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from torch import nn
from transformers import TrainerCallback

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.base import BaseFinetuningEngine
from llama_index.finetuning.embeddings.dataset import (
    EmbeddingQAFinetuneDataset,
    require_dataset,
    warn_of_shared_queries,
)
from llama_index.finetuning.embeddings.description import token_lengths
from llama_index.finetuning.embeddings.errors import (
    ConfigurationError,
    DatasetError,
    ModelFolderError,
    OutputError,
)
from llama_index.finetuning.embeddings.evaluation.evaluate import RetrievalResult
from llama_index.finetuning.embeddings.files import check_apart, output_lock, work_folder
from llama_index.finetuning.embeddings.manifest import describe_run
from llama_index.finetuning.embeddings.model_folder import open_model
from llama_index.finetuning.embeddings.report import RetrievalReport, report_from_results
from llama_index.finetuning.embeddings.sentence_transformer import distributed, lora, saving
from llama_index.finetuning.embeddings.sentence_transformer.arguments import (
    check_arguments,
    check_places,
    checkpoint_folder,
)
from llama_index.finetuning.embeddings.sentence_transformer.evaluator import (
    METRIC,
    RetrievalEvaluator,
)
from llama_index.finetuning.embeddings.sentence_transformer.length import (
    check_max_seq_length,
    choose_max_seq_length,
    set_max_seq_length,
)
from llama_index.finetuning.embeddings.sentence_transformer.loading import (
    check_embeds_documents,
    check_trainable,
    load_sentence_transformer,
    warn_of_prompts,
)
from llama_index.finetuning.embeddings.sentence_transformer.losses import Loss
from llama_index.finetuning.embeddings.sentence_transformer.precision import (
    choose_precision,
    limit_kernel_caches,
    only_by_arguments,
)
from llama_index.finetuning.embeddings.sentence_transformer.randomness import seeded
from llama_index.finetuning.embeddings.sentence_transformer.rows import training_pairs
from llama_index.finetuning.embeddings.sentence_transformer.run import Outcome, Run, finite
from llama_index.finetuning.embeddings.sentence_transformer.task import Task, build_task
from llama_index.finetuning.embeddings.sentence_transformer.training_args import (
    LORA_RATES,
    changed_fields,
    default_learning_rate,
    merge_training_args,
    precision_of,
)

logger = logging.getLogger(__name__)

# By experiment, see benchmarks/RESULTS.md.
_QUERY_LEARNING_RATE = 2e-5
_QUERY_BATCH_FACTOR = 4
_EVAL_BATCH_SIZE = 32  # what sentence-transformers evaluates with
_CHANGED = (
    "'dataset' or 'val_dataset' was changed after the engine was made, which had laid out its "
    "training by then. Make a new engine."
)


class SentenceTransformersFinetuneEngine(BaseFinetuningEngine):
    """Finetune all weights of a Sentence Transformer on queries and their relevant documents.

    Training runs through sentence-transformers' Trainer. By default every document of a step
    is encoded once for two of its queries, the passages are read at the length that they have,
    and a document that is relevant to a query is never its negative. With a validation set the
    weights that score best on it are kept, the untouched base's included, so that the model
    handed back is never worse there than the one that came in.

    Args:
        dataset: What to train on.
        model_id: A model's name on the Hugging Face Hub, or a folder.
        model_output_path: The folder that the finetuned model replaces, whole or not at all.
        batch_size: Documents a step in by-document batches, pairs a step otherwise. With
            ``train="query"``, where documents cost nothing, a step takes four times as many
            queries.
        val_dataset: What to choose the best weights by, with nDCG@10.
        loss: A sentence-transformers loss, built on any model, or its class, or a callable that
            takes the model. None is ``MultipleNegativesRankingLoss`` in both directions: queries
            choose among documents, and documents among queries; with ``train="query"`` queries
            among documents only.
        epochs: Passes over the training data.
        show_progress_bar: Show one.
        evaluation_steps: Steps between two evaluations; 0 evaluates after each epoch.
        use_all_docs: Train on every relevant document of a query, not only on its first. The
            others are never negatives in any case.
        trust_remote_code: Run code that the model's folder brings.
        device: Where to train, e.g. ``"cpu"``; None chooses.
        save_checkpoints: Write checkpoints under ``checkpoints/<model_output_path>``; where that
            path is absolute, in ``checkpoints`` beside its last part.
        resume_from_checkpoint: Go on from the last whole checkpoint of the same run, if any.
        checkpoint_save_steps: Steps between two checkpoints.
        checkpoint_save_total_limit: Checkpoints to keep; 0 keeps all.
        train: ``"both"``, or ``"query"``: tune the encoder of the queries only, against the
            vectors that the base gives the documents. An index that exists stays valid, a run
            takes about a fifth of the time, and the model handed back is an
            `AsymmetricEmbeddingModel`. The word embeddings and the first third of a
            transformer's layers stay as they are, and there is no dropout.
        training_args: ``SentenceTransformerTrainingArguments``, or some of its fields as a dict,
            laid over the engine's own choices. Of an instance those fields count that differ from
            the class's defaults. The learning rate is 2e-5 unless you give one, up to 5e-5 where
            an epoch of all weights has fewer than 64 steps, and ten times that with
            ``peft_config``.
        matryoshka_dims: Train these prefixes of the vectors beside the whole.
        peft_config: Train a PEFT adapter such as LoRA, merged into the saved model.
        query_prompt: Put before every query, in training, evaluation and the returned model.
        text_prompt: Put before every document, likewise.
        max_seq_length: Tokens of a text that the model reads. ``"auto"``: the model's own, but if
            that cuts more than 5 % of the training documents, the length that holds 95 % of them,
            as far as the model's positions reach. None: the model's own. With
            ``train="query"`` the documents keep the model's own in any case.
        precision: ``"auto"`` (bf16 where the hardware has it, else fp32), ``"bf16"``, ``"fp16"``
            or ``"fp32"``. Weights and optimizer are in fp32, unless ``model_kwargs`` names a
            ``dtype`` for the weights. On a CPU the environment
            variables ``ONEDNN_PRIMITIVE_CACHE_CAPACITY`` and ``LRU_CACHE_CAPACITY`` are set to 32
            unless you set them: kernels compiled for bf16 would pile up in memory.
        batching: ``"by_document"``, ``"pairs"``, or ``"auto"``: by document where the loss allows
            it and documents have more than one query.
        model_kwargs: Passed to ``SentenceTransformer`` as its ``model_kwargs``.
        callbacks: Transformers callbacks for the Trainer.
        early_stopping_patience: Stop after so many evaluations in a row without a better nDCG@10
            on the validation set; None trains all epochs.
        whiten_queries: With ``train="query"``, multiply the tuned queries' vectors by a matrix that
            takes weight from the directions in which all documents of the corpus spread. It comes
            from at least 100 documents' vectors without any training, stands as a further module
            in the folder (not in ``engine.model``), and is left out where it does not score better
            on ``val_dataset``, with ``matryoshka_dims``, or where weights are in half precision.
        seed: The one source of randomness.

    Raises:
        ConfigurationError: An argument has a value that can't work.
        DatasetError: A dataset does not fit together.
        MissingExtraError: ``peft_config`` without PEFT.
        ModelFolderError: ``model_id`` can't be loaded, or names code of its own.
        OutputError: The output folder can't be written.
    """

    def __init__(
        self,
        dataset: EmbeddingQAFinetuneDataset,
        model_id: str = "BAAI/bge-small-en",
        model_output_path: str = "exp_finetune",
        batch_size: int = 10,
        val_dataset: EmbeddingQAFinetuneDataset | None = None,
        loss: Loss | None = None,
        epochs: int = 2,
        show_progress_bar: bool = True,
        evaluation_steps: int = 50,
        use_all_docs: bool = False,
        trust_remote_code: bool = False,
        device: Any | None = None,
        save_checkpoints: bool = False,
        resume_from_checkpoint: bool = False,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
        *,
        train: str = "both",
        training_args: TrainingArguments | Mapping[str, Any] | None = None,
        matryoshka_dims: Sequence[int] | None = None,
        peft_config: Any | None = None,
        query_prompt: str | None = None,
        text_prompt: str | None = None,
        max_seq_length: int | str | None = "auto",
        precision: str = "auto",
        batching: str = "auto",
        model_kwargs: Mapping[str, Any] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        early_stopping_patience: int | None = None,
        whiten_queries: bool = True,
        seed: int = 42,
    ) -> None:
        self.callbacks = list(callbacks or [])
        if isinstance(matryoshka_dims, Iterable) and not isinstance(matryoshka_dims, str):
            matryoshka_dims = list(matryoshka_dims)
        dataset = require_dataset(dataset, name="dataset")
        if val_dataset is not None:
            val_dataset = require_dataset(val_dataset, name="val_dataset")
        check_arguments(
            model_id=model_id,
            train=train,
            early_stopping_patience=early_stopping_patience,
            val_dataset=val_dataset,
            batch_size=batch_size,
            epochs=epochs,
            evaluation_steps=evaluation_steps,
            checkpoint_save_steps=checkpoint_save_steps,
            checkpoint_save_total_limit=checkpoint_save_total_limit,
            max_seq_length=max_seq_length,
            precision=precision,
            batching=batching,
            matryoshka_dims=matryoshka_dims,
            query_prompt=query_prompt,
            text_prompt=text_prompt,
            model_kwargs=model_kwargs,
            device=device,
            seed=seed,
            callbacks=self.callbacks,
        )
        warn_of_shared_queries(dataset, val_dataset)
        self.dataset = dataset
        self.model_id = os.fspath(model_id)
        # The base is read once more when queries alone were tuned, wherever the process is then.
        folder = Path(model_id)
        self._source = str(folder.absolute()) if folder.is_dir() else self.model_id
        self.model_output_path = os.fspath(model_output_path)
        self.batch_size = int(batch_size)
        self.val_dataset = val_dataset
        self.epochs = int(epochs)
        self.show_progress_bar = show_progress_bar
        self.evaluation_steps = int(evaluation_steps)
        self.use_all_docs = use_all_docs
        self.trust_remote_code = trust_remote_code
        self.device = device
        self.checkpoint_path = (
            checkpoint_folder(self.model_output_path)
            if save_checkpoints or resume_from_checkpoint
            else None
        )
        self.save_checkpoints = save_checkpoints
        self.resume_from_checkpoint = resume_from_checkpoint
        self.checkpoint_save_steps = int(checkpoint_save_steps)
        self.checkpoint_save_total_limit = int(checkpoint_save_total_limit)
        self.training_args = training_args
        self.matryoshka_dims = matryoshka_dims
        self.peft_config = peft_config
        self.query_prompt = query_prompt or ""
        self.text_prompt = text_prompt or ""
        if max_seq_length not in ("auto", None):
            max_seq_length = int(max_seq_length)
        self.max_seq_length = max_seq_length
        self.precision = precision
        self.batching = batching
        self.train = train
        self.whiten_queries = whiten_queries
        self.early_stopping_patience = early_stopping_patience
        self.model_kwargs = dict(model_kwargs or {})
        self.seed = seed = int(seed)
        check_places(Path(self.model_output_path), self.checkpoint_path)
        if train == "query":
            check_apart(
                [self.model_id],
                self.model_output_path,
                name="model_output_path",
                reason="with train='query' the base goes on embedding the documents.",
            )
            check_embeds_documents(self.model_id)
        use_cpu = str(device or upstream.default_device()).startswith("cpu")
        usual = self._default_training_args("unused", precision="fp32", use_cpu=use_cpu)
        with only_by_arguments():
            asked = merge_training_args(usual, training_args, {})

        if use_cpu:
            limit_kernel_caches()
        self.model = self._load_model(self.model_id)
        # The folder's own prompts go: the LlamaIndex wrapper never uses them, so neither do we.
        own_prompts = dict(self.model.prompts)
        self._set_prompts(self.model)
        check_trainable(self.model, self.model_id)
        warn_of_prompts(
            self.model_id, own_prompts, query_prompt=query_prompt, text_prompt=text_prompt
        )
        for one in (precision, precision_of(asked)):
            choose_precision(one, self.model.device)
        if isinstance(max_seq_length, int):
            check_max_seq_length(self.model, max_seq_length)
            if train == "both":
                # Asked for in any case, and so for what the base is measured at as well.
                set_max_seq_length(self.model, max_seq_length)
        with seeded(seed):
            self._add_adapter()
            self._task = self._build_task(loss)
        self.report: RetrievalReport | None = None
        self.summary = ""
        self._base_result: RetrievalResult | None = None
        self._has_moved = False
        self._laid_out = self._data_fingerprints()
        self._known_length = self.model.max_seq_length
        self._own_length: int | None = None
        self._evaluator = (
            None
            if val_dataset is None
            else RetrievalEvaluator(
                val_dataset,
                query_prompt=self.query_prompt,
                text_prompt=self.text_prompt,
                frozen_documents=train == "query",
            )
        )

    @property
    def loss(self) -> nn.Module:
        """What is trained on; another loss that is put here gets batches of its own."""
        return self._task.loss

    @loss.setter
    def loss(self, loss: Loss | None) -> None:
        known = self._task.frozen_documents
        with seeded(self.seed):
            self._task = self._build_task(loss)
        if known is not None and self._task.frozen_documents is not None:
            self._task.frozen_documents.take_over(known)

    @property
    def evaluator(self) -> RetrievalEvaluator | None:
        """What scores the weights, where there is a validation set."""
        return self._evaluator

    def _load_model(self, place: str) -> SentenceTransformer:
        backend = self.model_kwargs.pop("backend", "torch")
        if backend != "torch":
            raise ConfigurationError(
                f"'model_kwargs' must leave 'backend' at 'torch' to train (got {backend!r}). "
                "Export the finetuned folder afterwards."
            )
        # Weights that the folder lacks, such as a pooler's, begin at random.
        with seeded(self.seed):
            model = load_sentence_transformer(
                place,
                trust_remote_code=self.trust_remote_code,
                device=distributed.own_device(self.device),
                model_kwargs=self.model_kwargs or None,
            )
        if not {"dtype", "torch_dtype"} & self.model_kwargs.keys():
            model.float()
        return model

    def _set_prompts(self, model: SentenceTransformer) -> None:
        model.prompts = {
            "query": self.query_prompt,
            "document": self.text_prompt,
            "text": self.text_prompt,
        }
        model.default_prompt_name = None

    def _data_fingerprints(self) -> list[str]:
        return [one.fingerprint() for one in (self.dataset, self.val_dataset) if one is not None]

    def _add_adapter(self) -> None:
        # An adapter is merged when a run ends, so that the next run needs one of its own.
        if self.peft_config is not None and not lora.has_adapter(self.model):
            lora.add_adapter(self.model, self.peft_config)

    def _build_task(self, loss: Loss | None) -> Task:
        return build_task(
            self.dataset,
            self.model,
            train=self.train,
            loss=loss,
            batching=self.batching,
            use_all_docs=self.use_all_docs,
            matryoshka_dims=self.matryoshka_dims,
            query_prompt=self.query_prompt,
            text_prompt=self.text_prompt,
            whiten_queries=self.whiten_queries,
            seed=self.seed,
        )

    def _default_training_args(
        self, output_dir: str, *, precision: str, use_cpu: bool
    ) -> dict[str, Any]:
        strategy = "epoch" if self.evaluation_steps == 0 else "steps"
        rows = self.batch_size * (_QUERY_BATCH_FACTOR if self.train == "query" else 1)
        return {
            "output_dir": output_dir,
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": rows,
            "per_device_eval_batch_size": _EVAL_BATCH_SIZE,
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "eval_strategy": "no" if self.val_dataset is None else strategy,
            "eval_steps": self.evaluation_steps or None,
            "save_strategy": "steps" if self.save_checkpoints else "no",
            "save_steps": self.checkpoint_save_steps,
            "save_total_limit": self.checkpoint_save_total_limit or None,
            "metric_for_best_model": None if self.val_dataset is None else f"eval_{METRIC}",
            "logging_steps": 10,
            "report_to": "none",
            "disable_tqdm": not self.show_progress_bar,
            "seed": self.seed,
            "use_cpu": use_cpu,
            # Our batches come in equal numbers for all processes, but not in equal sizes.
            "accelerator_config": {"even_batches": False},
            **upstream.warmup_argument(0.1),
        }

    def _default_learning_rate(self, args: TrainingArguments) -> float:
        lora = self.peft_config is not None
        if self.train == "query":
            return _QUERY_LEARNING_RATE * (LORA_RATES if lora else 1)
        return default_learning_rate(args, len(self._task.rows), lora=lora)

    def finetune(self, **train_kwargs: Any) -> None:
        """Train, keep the best weights, and write the model to ``model_output_path``.

        Training starts from the weights that the engine holds: those of ``model_id``, or of the
        call before. A call that fails or is interrupted before it begins to save puts them back;
        where the model can't be written, ``engine.model.save(path)`` writes its weights elsewhere.

        What came of it is logged and kept as ``summary``. With a validation set the base, as it
        was before the first call, is compared with the result, query by query: the table is logged,
        kept as ``report`` and in the model card, and written as ``report.html``.

        Args:
            **train_kwargs: Fields of ``SentenceTransformerTrainingArguments`` for this call, over
                those of the constructor, e.g. ``learning_rate=5e-5``.

        Raises:
            ConfigurationError: A keyword is no training argument, or a step is too small.
            DatasetError: There is nothing to choose from in any step, or a dataset was changed
                after the engine was made.
            ModelFolderError: The base, which goes on embedding the documents, can't be read again.
            OutputError: The output can't be written, or another run is writing it.
            TrainingError: The loss or the weights are no longer finite.
        """
        if self._data_fingerprints() != self._laid_out:
            raise DatasetError(_CHANGED)
        output = Path(self.model_output_path)
        check_places(output, self.checkpoint_path)
        device = self.model.device
        precision = choose_precision(self.precision, device)
        with (
            self._alone(output),
            self._work_folder() as folder,
            seeded(self.seed),
            only_by_arguments(),
        ):
            args = merge_training_args(
                self._default_training_args(
                    str(folder), precision=precision, use_cpu=device.type == "cpu"
                ),
                self.training_args,
                train_kwargs,
                self._default_learning_rate,
            )
            choose_precision(precision_of(args), device)
            self._task.check_learnable(args)
            if device.type == "cuda" and distributed.world_size() == 1:
                # Else upstream spreads the batch over all GPUs, and multiplies it.
                args._n_gpu = 1
            self._add_adapter()
            # One that was set on the model after the engine was made is the user's choice.
            if self.model.max_seq_length != self._known_length:
                self._own_length = self.model.max_seq_length
                if self.train == "query":  # it is the queries'; documents keep the base's
                    set_max_seq_length(self.model, self._known_length)
            run = Run(
                self.model,
                self._task,
                args,
                folder,
                evaluator=self.evaluator,
                choose_length=self._choose_length,
                identity={
                    "model_id": self.model_id,
                    "datasets": self._laid_out,
                    "use_all_docs": self.use_all_docs,
                    "prompts": [self.query_prompt, self.text_prompt],
                    "peft_config": self.peft_config,
                },
                keeps_checkpoints=self.save_checkpoints,
                resume=self.resume_from_checkpoint,
                patience=self.early_stopping_patience,
                callbacks=self.callbacks,
            )
            try:
                outcome = run.outcome()
            finally:
                self._known_length = self.model.max_seq_length
            try:
                self._save(output, outcome, args)
            except (ModelFolderError, OutputError) as error:
                unsaved = "" if outcome.whitening is None else ", without the matrix that whitens,"
                raise type(error)(
                    f"{error} The engine holds the trained weights: engine.model.save(path) writes "
                    f"them{unsaved} elsewhere, and a further finetune() trains on from them."
                ) from error

    @contextlib.contextmanager
    def _alone(self, output: Path) -> Iterator[None]:
        """Keep other runs from writing the same folders; the main process does so for all."""
        with contextlib.ExitStack() as locks:
            if distributed.is_main():
                locks.enter_context(output_lock(output, name="model_output_path"))
                if self.checkpoint_path is not None:
                    # "out" and "../out" have the same one.
                    inside = self.checkpoint_path / "run"
                    locks.enter_context(output_lock(inside, name="checkpoint folder"))
            yield

    @contextlib.contextmanager
    def _work_folder(self) -> Iterator[Path]:
        """Yield the checkpoint folder, or one that is gone afterwards."""
        if self.checkpoint_path is not None:
            self.checkpoint_path.mkdir(parents=True, exist_ok=True)
            yield self.checkpoint_path
            return
        if not distributed.is_main():
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder)
            return
        with work_folder(Path(self.model_output_path)) as folder:
            yield folder

    def _choose_length(self) -> int | None:
        """Return the tokens of a text to train at, None where nothing is to be set."""
        if self._own_length is not None:
            return self._own_length
        if self.max_seq_length != "auto":
            return None if self.max_seq_length is None else int(self.max_seq_length)
        if self.train == "query":
            return None
        pairs = training_pairs(self.dataset, use_all_docs=self.use_all_docs)
        documents = dict.fromkeys(docid for _, docid in pairs)
        texts = [self.text_prompt + self.dataset.corpus[docid] for docid in documents]
        return choose_max_seq_length(self.model, lambda: token_lengths(texts, self.model))

    def _save(self, output: Path, outcome: Outcome, args: TrainingArguments) -> None:
        if self._base_result is None:
            self._base_result = outcome.before
        base, after = self._base_result, outcome.after
        start = "the model of the earlier run" if self._has_moved else "the base"
        self.summary = outcome.summary(base, start=start)
        logger.log(logging.WARNING if outcome.is_start else logging.INFO, self.summary)
        self._has_moved |= not outcome.is_start
        metrics: dict[str, Any] = {}
        if base and after:
            metrics = {"before": base.metrics, "after": after.metrics, "best_step": outcome.step}
        facts = describe_run(
            engine=type(self).__name__,
            parameters=self._parameters(args, outcome),
            seed=self.seed,
            dataset=self.dataset,
            val_dataset=self.val_dataset,
            seconds=outcome.seconds,
            metrics=metrics,
            base_model=self.model_id,
            prompts={"query": self.query_prompt, "text": self.text_prompt},
            max_seq_length=finite(self.model.max_seq_length),
            summary=self.summary,
            training_log=outcome.log,
        )
        self.report = None
        if base and after and self.val_dataset:
            report = report_from_results(
                {"base": base, "finetuned": after},
                self.val_dataset,
                seed=self.seed,
                chosen_here=True,
            )
            self.report = report.with_training(facts)
            logger.info("On the validation set:\n%s", self.report.to_markdown())
        if distributed.is_main():
            saving.save_model(
                self.model,
                output,
                facts=facts,
                report=self.report,
                document_model=self._load_document_model() if self.train == "query" else None,
                whitening=outcome.whitening,
            )
        distributed.barrier()

    def _load_document_model(self) -> SentenceTransformer:
        model = self._load_model(self._source)
        self._set_prompts(model)
        return model

    def _parameters(self, args: TrainingArguments, outcome: Outcome) -> dict[str, Any]:
        plain = args.to_dict()
        return {
            "model_id": self.model_id,
            "loss": f"{type(self.loss).__name__}({self.loss.extra_repr()})",
            "batching": self._task.batching,
            "batch_size": args.per_device_train_batch_size,
            "epochs": args.num_train_epochs,
            "learning_rate": args.learning_rate,
            "precision": precision_of(args),
            "train": self.train,
            "whiten_queries": outcome.whitening is not None,
            "use_all_docs": self.use_all_docs,
            "matryoshka_dims": list(self.matryoshka_dims) if self.matryoshka_dims else None,
            "peft_config": self.peft_config and self.peft_config.to_dict(),
            "model_kwargs": {name: str(value) for name, value in self.model_kwargs.items()},
            "training_args": {name: plain[name] for name in changed_fields(args)},
            "processes": distributed.world_size(),
        }

    def get_finetuned_model(self, **model_kwargs: Any) -> BaseEmbedding:
        """Load the finetuned model as a LlamaIndex embedding, with the prompts of the training.

        After ``train="query"`` that is an `AsymmetricEmbeddingModel` of the tuned model for
        queries and the base for texts.

        Args:
            **model_kwargs: Passed to ``HuggingFaceEmbedding``, e.g. ``embed_batch_size=64``.

        Raises:
            ModelFolderError: ``finetune()`` has not written a model yet, or its folder is damaged
                or names code of its own.
        """
        folder = Path(self.model_output_path)
        saving.require_model(folder)
        usual = {
            "query_instruction": self.query_prompt or None,
            "text_instruction": self.text_prompt or None,
            "trust_remote_code": self.trust_remote_code,
            "device": distributed.own_device(self.device),
        }
        return open_model(folder, {**usual, **model_kwargs})

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the finetuned folder, model card included, to the Hugging Face Hub.

        The report stays behind, as it quotes queries and documents, unless you name what to upload
        by ``allow_patterns``, or nothing to leave out by ``ignore_patterns=[]``.

        Args:
            repo_id: ``"user/name"`` of the model repository; created if it does not exist.
            **kwargs: ``private`` and ``token``, and what ``HfApi.upload_folder`` takes.

        Returns:
            The address of the commit.

        Raises:
            ModelFolderError: ``finetune()`` has not written a model yet.
        """
        return saving.push_to_hub(Path(self.model_output_path), repo_id, **kwargs)
