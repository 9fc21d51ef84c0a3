"""One run: what the journal holds, the calls for the rest, and the dataset."""

import asyncio
import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_index.core.llms.llm import LLM
from llama_index.core.schema import BaseNode
from tqdm.auto import tqdm

from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.errors import GenerationError
from llama_index.finetuning.embeddings.files import atomic_file
from llama_index.finetuning.embeddings.generation.calls import Calls
from llama_index.finetuning.embeddings.generation.journal import Entry, Journal, Key
from llama_index.finetuning.embeddings.generation.older import (
    holds_more,
    questions_of,
    read_older,
    set_aside,
)
from llama_index.finetuning.embeddings.generation.options import Options, model_name, texts_of
from llama_index.finetuning.embeddings.generation.results import (
    GenerationReport,
    Outcome,
    build_dataset,
    read_entry,
)
from llama_index.finetuning.embeddings.generation.retry import Pace, Told
from llama_index.finetuning.embeddings.json_stream import read_json
from llama_index.finetuning.embeddings.redaction import safe_message
from llama_index.finetuning.embeddings.service_errors import asks_to_wait, is_permanent, refuses_all

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """The run ends before this node is asked about again."""


class Run:
    """Generates the questions of some nodes.

    Args:
        nodes: The nodes.
        llm: The LLM.
        options: The options.

    Raises:
        ConfigurationError: The nodes or the LLM can't be used.
    """

    def __init__(self, nodes: Sequence[BaseNode], llm: LLM, options: Options) -> None:
        self._llm = llm
        self._options = options
        self._model = model_name(llm)
        self._texts, self._empty = texts_of(nodes)
        asked = options.sample(self._texts)
        self._keys = {one: options.key_for(one, self._texts[one], self._model) for one in asked}
        self._outcomes: dict[str, Outcome] = {}
        self._questions: dict[str, str] = {}
        self._errors: dict[str, str] = {}
        self._made = self._reused = 0
        self._stop = asyncio.Event()
        self._stopped_by = ""
        self._older_is_kept = True

    async def run(self) -> tuple[EmbeddingQAFinetuneDataset, GenerationReport]:
        """Ask about every node that the journal has no answer for, and write the dataset.

        Raises:
            GenerationError: No node has a question, one failed and ``on_failure`` is "fail", or
                the service refuses every request.
            DatasetFileError: At the output path is a file that is no dataset.
            OutputError: A file can't be written.
        """
        options = self._options
        with Journal(options.journal_path) as journal:
            self._take_over(journal)
            missing = [one for one in self._keys if one not in self._outcomes]
            if missing:
                await self._ask_all(missing, journal)
        report = self.report()
        # Without a cause in the chain: a service's error can quote the key and the text.
        if self._stopped_by:
            raise GenerationError(
                f"{self._stopped_by} The {len(self._outcomes):,} answers that "
                f"came are in {str(options.journal_path)!r}: call again to go on with the rest."
            )
        if not report.questions:
            raise self._nothing_came(report)
        dataset = self._write()
        if options.answers_path is not None:
            self._save_answers()
        logger.info("%s: %s", options.output_path, report)
        if report.failed:
            logger.warning("%d of %d nodes have no question.", report.failed, report.nodes)
        return dataset, report

    def report(self) -> GenerationReport:
        """Return the counts so far."""
        numbers = [len(outcome.questions) for outcome in self._outcomes.values()]
        filtered: Counter[str] = Counter()
        query_ids: set[str] = set()
        for outcome in self._outcomes.values():
            filtered += outcome.filtered
            query_ids.update(query_id for query_id, _, _ in outcome.questions)
        return GenerationReport(
            nodes=len(self._keys) + len(self._empty),
            made=self._made,
            failed=len(self._keys) - self._made,
            skipped=len(self._empty),
            reused=self._reused,
            fewer=sum(0 < number < self._options.num_questions for number in numbers),
            questions=len(query_ids),
            filtered=dict(filtered),
            errors=dict(self._errors),
        )

    def _take_over(self, journal: Journal) -> None:
        """Use the journal's answers, after the questions of an older file have joined them."""
        found, known = journal.read(self._keys.values())
        older = read_older(self._options.output_path)
        for node_id, text, questions in questions_of(older, known) if older else ():
            key = self._options.key_for(node_id, text, self._model)
            journal.add(key, Entry(questions=questions))
            found.append((key, Entry(questions=questions)))
        answers: dict[Key, list[Entry]] = {}
        for key, entry in found:
            answers.setdefault(key, []).append(entry)
        for node_id, key in self._keys.items():
            self._reuse(node_id, answers.pop(key, []))
        # What is left was given for nodes that are not asked for now, perhaps the same ones under
        # other ids. Each serves one node, so that equal texts get questions of their own.
        spare: dict[tuple[str, str, str], list[list[Entry]]] = {}
        for key, entries in answers.items():
            spare.setdefault(key.asked, []).append(entries)
        for node_id, key in self._keys.items():
            while node_id not in self._outcomes and spare.get(key.asked):
                self._reuse(node_id, spare[key.asked].pop(0))
        self._reused = len(self._outcomes)
        if older is not None:
            held = (
                (question, self._texts[node_id])
                for node_id, outcome in self._outcomes.items()
                for _, question, _ in outcome.questions
            )
            self._older_is_kept = not holds_more(older, self._texts.values(), held)

    def _reuse(self, node_id: str, entries: list[Entry]) -> None:
        """Take the last answer with a usable question; a node that has none is asked again."""
        for entry in reversed(entries):
            outcome = self._read(node_id, entry)
            if outcome.questions:
                self._finish(node_id, outcome)
                return

    async def _ask_all(self, missing: list[str], journal: Journal) -> None:
        pace = Pace(
            self._options.retry_wait,
            seed=self._options.seed,
            callers=self._options.num_workers,
            answers_before=self._reused > 0,
            sleep=self._rest,
        )
        queue = iter(missing)
        calls = Calls(self._llm)
        with tqdm(
            total=len(self._keys) + len(self._empty),
            initial=self._reused + len(self._empty),
            desc="Generating questions",
            unit="node",
            disable=not self._options.verbose,
        ) as bar:
            workers = [
                asyncio.ensure_future(self._work(queue, calls, pace, journal, bar))
                for _ in range(min(self._options.num_workers, len(missing)))
            ]
            try:
                await asyncio.gather(*workers)
            except Exception:
                # A filter that fails, say: what the others have asked for is paid for.
                self._stop.set()
                await asyncio.gather(*workers, return_exceptions=True)
                raise
            finally:
                for worker in workers:
                    worker.cancel()

    async def _work(
        self,
        queue: Iterator[str],
        calls: Calls,
        pace: Pace,
        journal: Journal,
        bar: "tqdm[str]",
    ) -> None:
        while not self._stop.is_set():
            node_id = next(queue, None)
            if node_id is None:
                return
            told = Told()
            try:
                response = await self._ask(node_id, calls, pace, told)
            except _StoppedError:
                return
            except Exception as error:
                self._fail(node_id, error, pace.dead_end(error, told))
            else:
                journal.add(self._keys[node_id], Entry(response))
                self._finish(node_id, self._read(node_id, Entry(response)))
                if (len(self._outcomes) - self._reused) % self._options.save_every == 0:
                    self._save_progress()
            failed = len(self._errors) + len(self._outcomes) - self._made
            counts = {"made": self._made, "skipped": len(self._empty), "failed": failed}
            bar.set_postfix(counts, refresh=False)
            bar.update()

    def _fail(self, node_id: str, error: Exception, why: str | None) -> None:
        self._errors[node_id] = self._reason(error, node_id)
        is_last = len(self._errors) + len(self._outcomes) == len(self._keys)
        if is_last and not refuses_all(error) and (asks_to_wait(error) or self._made):
            why = None  # nobody is left to be spared the wait, or the refusal
        if why is None and self._options.on_failure == "fail":
            why = "'on_failure' is 'fail'."
        if why is not None and not self._stop.is_set():
            self._stopped_by = f"Node {node_id!r} failed ({self._errors[node_id]}). {why}"
            self._stop.set()

    async def _rest(self, seconds: float) -> None:
        """Sleep, but not beyond the moment in which the run is to end."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        if self._stop.is_set():
            raise _StoppedError

    async def _ask(self, node_id: str, calls: Calls, pace: Pace, told: Told) -> str:
        """Return the answer; when no attempt is left, raise the last one's error."""
        options = self._options
        prompt = options.template_for(self._texts[node_id]).format(
            context_str=self._texts[node_id], num_questions_per_chunk=options.num_questions
        )
        attempt = 1
        while True:
            await pace.ready()
            try:
                response = await calls.complete(prompt)
                pace.answered()
                if response.strip():
                    return response
                raise GenerationError("the LLM's answer is empty")
            except Exception as error:
                logger.log(
                    logging.WARNING if options.verbose else logging.DEBUG,
                    "Node %s, attempt %d of %d failed: %s",
                    node_id,
                    attempt,
                    options.retry_limit,
                    self._reason(error, node_id),
                )
                # Who is told to wait has not failed: the next try may be the first that counts.
                counts = not asks_to_wait(error)
                if is_permanent(error) or pace.gives_up(error, told):
                    raise
                if counts and attempt == options.retry_limit:
                    raise
                await pace.after(error, attempt, told)
                attempt += counts

    def _reason(self, error: BaseException, node_id: str) -> str:
        return safe_message(error, owner=self._llm, texts=[self._texts[node_id]])

    def _read(self, node_id: str, entry: Entry) -> Outcome:
        return read_entry(
            self._keys[node_id],
            entry,
            self._texts[node_id],
            limit=self._options.num_questions,
            filters=self._options.filters,
        )

    def _finish(self, node_id: str, outcome: Outcome) -> None:
        self._outcomes[node_id] = outcome.apart_from(self._questions, node_id)
        self._made += bool(outcome.questions)

    def _save_progress(self) -> None:
        if self._made:
            self._write()

    def _write(self) -> EmbeddingQAFinetuneDataset:
        path = self._options.output_path
        if not self._older_is_kept:
            place = set_aside(path)
            self._older_is_kept = True
            logger.warning("%s held what the new dataset does not hold; it is now %s.", path, place)
        dataset = build_dataset(self._texts, self._outcomes)
        dataset.save_json(path)
        return dataset

    def _save_answers(self) -> None:
        assert self._options.answers_path is not None
        answers = {
            query_id: answer
            for node_id in self._keys
            for query_id, _, answer in self._outcomes.get(node_id, Outcome((), Counter())).questions
            if answer is not None
        }
        path = self._options.answers_path
        if path.exists() and not _holds_only(path, answers):
            place = set_aside(path)
            logger.warning("%s held what the new answers do not hold; it is now %s.", path, place)
        with atomic_file(path) as stream:
            json.dump(answers, stream, indent=4, ensure_ascii=False)

    def _nothing_came(self, report: GenerationReport) -> GenerationError:
        reason = next(iter(report.errors.values()), None) or (
            f"no answer held a usable question; dropped by filters: {dict(report.filtered)}"
        )
        return GenerationError(
            f"None of {report.failed:,} nodes got a question ({reason}). Answers that came are "
            f"in {str(self._options.journal_path)!r}; check the LLM, the prompt and 'filters'."
        )


def _holds_only(path: Path, answers: dict[str, str]) -> bool:
    """Tell whether a file of answers has none that is not among these."""
    try:
        return bool(read_json(path).items() <= answers.items())
    except (OSError, ValueError, RecursionError, AttributeError, TypeError):
        return False
