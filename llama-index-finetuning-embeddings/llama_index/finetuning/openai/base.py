"""Finetune a model of OpenAI's, or of a server that speaks its fine-tuning API."""

import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.llms.llm import LLM
from typing_extensions import Self

from llama_index.finetuning.callbacks.finetuning_handler import OpenAIFineTuningHandler
from llama_index.finetuning.embeddings.errors import ConfigurationError, TrainingError, require
from llama_index.finetuning.openai import validate_json as validation
from llama_index.finetuning.types import BaseLLMFinetuneEngine

if TYPE_CHECKING:
    from openai.types import FileObject
    from openai.types.fine_tuning import FineTuningJob

logger = logging.getLogger(__name__)


class FinetuningJobError(TrainingError, ValueError):
    """A fine-tuning job has no model to hand back: it failed, is not done, or was not started."""


class OpenAIFinetuneEngine(BaseLLMFinetuneEngine):
    """Finetunes a chat model: checks the file, uploads it, starts the job, returns the LLM.

    The client reads ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL`` from the environment; the key is
    held by the client alone, and never logged or written. The client itself tries twice again
    where the service is busy. Its errors (``openai.AuthenticationError`` and so on) are passed on
    as they are.

    Args:
        base_model: The model to start from, as the API names it.
        data_path: The JSONL file of chats, as ``OpenAIFineTuningHandler`` writes it.
        verbose: Log the steps at the level INFO instead of DEBUG.
        start_job_id: A job that was started before, to be asked about or fetched.
        validate_json: Check the file before it is uploaded, and log what training on it is billed
            for (see ``llama_index.finetuning.openai.validate_json``).
        poll_seconds: How long to wait before asking again whether the file was processed.
        max_wait_seconds: When to stop asking.

    Raises:
        MissingExtraError: The extra ``openai`` is not installed.
        ConfigurationError: A time is no number from 0.
    """

    def __init__(
        self,
        base_model: str,
        data_path: str | os.PathLike[str],
        verbose: bool = False,
        start_job_id: str | None = None,
        validate_json: bool = True,
        *,
        poll_seconds: float = 5.0,
        max_wait_seconds: float = 1800.0,
    ) -> None:
        for name, seconds in (
            ("poll_seconds", poll_seconds),
            ("max_wait_seconds", max_wait_seconds),
        ):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigurationError(f"'{name}' must be a number from 0 (got {seconds!r}).")
        for module in ("openai", "llama_index.llms.openai"):
            require(module, extra="openai", purpose="OpenAIFinetuneEngine")
        from openai import OpenAI

        self.base_model = base_model
        self.data_path = data_path
        self._level = logging.INFO if verbose else logging.DEBUG
        self._validate_json = validate_json
        self._poll_seconds = poll_seconds
        self._max_wait_seconds = max_wait_seconds
        self._client = OpenAI()
        self._job: FineTuningJob | None = None
        if start_job_id is not None:
            self._job = self._client.fine_tuning.jobs.retrieve(start_job_id)

    @classmethod
    def from_finetuning_handler(
        cls,
        finetuning_handler: OpenAIFineTuningHandler,
        base_model: str,
        data_path: str | os.PathLike[str],
        **kwargs: Any,
    ) -> Self:
        """Make an engine for the chats that a handler recorded.

        So one model learns from another's answers.

        Args:
            finetuning_handler: The handler.
            base_model: The model to start from.
            data_path: Where the handler's chats are written to; a file there is replaced.
            **kwargs: Passed on to the constructor.

        Raises:
            ConfigurationError: An argument of the constructor has a value that can't work.
            DatasetError: The handler recorded no chat.
            MissingExtraError: The extra ``openai`` is not installed.
            OutputError: The file can't be written.
        """
        finetuning_handler.save_finetuning_events(data_path)
        return cls(base_model=base_model, data_path=data_path, **kwargs)

    def finetune(self) -> None:
        """Check and upload the file, and start the job; returns as soon as the job is started.

        Raises:
            DatasetFileError: The file has lines that can't be used; nothing was uploaded.
            TrainingError: The service could not process the file, or not in time.
        """
        if self._validate_json:
            report = validation.validate_json(self.data_path, model=self.base_model)
            logger.log(self._level, "Checked: %s", report)
        file = self._client.files.create(file=Path(self.data_path), purpose="fine-tune")
        logger.log(self._level, "Uploaded %s as %s", self.data_path, file.id)
        self._wait_for(file)
        self._job = self._client.fine_tuning.jobs.create(
            training_file=file.id, model=self.base_model
        )
        logger.log(self._level, "Started the fine-tuning job %s", self._job.id)

    def get_current_job(self) -> "FineTuningJob":
        """Ask the service for the job as it stands now.

        Its ``status`` is ``validating_files``, ``queued``, ``running``, ``succeeded``, ``failed``
        or ``cancelled``.

        Raises:
            FinetuningJobError: No job was started.
        """
        if self._job is None:
            raise FinetuningJobError(
                "There is no fine-tuning job yet. Call finetune() first, or give 'start_job_id'."
            )
        return self._client.fine_tuning.jobs.retrieve(self._job.id)

    def get_finetuned_model(self, **model_kwargs: Any) -> LLM:
        """Return the finetuned model as a LlamaIndex LLM, once the job has succeeded.

        Args:
            **model_kwargs: Passed on to ``llama_index.llms.openai.OpenAI``. Without ``api_base``
                it asks the service that the model was trained by.

        Raises:
            FinetuningJobError: The job failed, was cancelled, is not done or was not started.
        """
        job = self.get_current_job()
        if job.status != "succeeded" or job.fine_tuned_model is None:
            raise FinetuningJobError(_why_there_is_no_model(job))
        from llama_index.llms.openai import OpenAI

        model_kwargs.setdefault("api_base", str(self._client.base_url))
        return OpenAI(model=job.fine_tuned_model, **model_kwargs)

    def _wait_for(self, file: "FileObject") -> None:
        try:
            file = self._client.files.wait_for_processing(
                file.id, poll_interval=self._poll_seconds, max_wait_seconds=self._max_wait_seconds
            )
        except RuntimeError as error:
            raise TrainingError(
                f"The uploaded file {file.id!r} was not processed within "
                f"{self._max_wait_seconds:,g} seconds, and no job was started. Call finetune() "
                "again later, or give a greater 'max_wait_seconds'."
            ) from error
        if file.status != "processed":
            details = file.status_details or "no reason was given"
            raise TrainingError(
                f"The service could not process the uploaded file {file.id!r}, and no job was "
                f"started: {details}. Mend {str(self.data_path)!r} and call finetune() again."
            )


def _why_there_is_no_model(job: "FineTuningJob") -> str:
    if job.status in ("failed", "cancelled"):
        # The service fills in the error of a failed job; before that it may be an empty object.
        reason = getattr(job.error, "message", None) or "no reason was given"
        code = getattr(job.error, "code", None)
        return (
            f"The fine-tuning job {job.id!r} has no model; it has the status {job.status!r}: "
            f"{reason}{f' (code {code!r})' if code else ''}. Call finetune() to start another one."
        )
    return (
        f"The fine-tuning job {job.id!r} has no model yet; it has the status {job.status!r}. Ask "
        "get_current_job() until the status is 'succeeded' and 'fine_tuned_model' is set."
    )
