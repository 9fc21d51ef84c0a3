"""The folder that a run leaves behind."""

import os

from llama_index.core.base.embeddings.base import BaseEmbedding

from llama_index.finetuning.embeddings.adapter.options import TrainingOptions
from llama_index.finetuning.embeddings.adapter.run import Outcome
from llama_index.finetuning.embeddings.adapters import BaseAdapter, save_adapter, saves_itself
from llama_index.finetuning.embeddings.dataset import EmbeddingQAFinetuneDataset
from llama_index.finetuning.embeddings.files import atomic_folder
from llama_index.finetuning.embeddings.manifest import (
    describe_run,
    public_name,
    write_manifest,
)
from llama_index.finetuning.embeddings.report import RetrievalReport, report_from_results

_REPORT = "report.html"


def write_outcome(
    path: str | os.PathLike[str],
    adapter: BaseAdapter,
    options: TrainingOptions,
    outcome: Outcome,
    *,
    dataset: EmbeddingQAFinetuneDataset,
    embed_model: BaseEmbedding,
    dimension: int,
) -> RetrievalReport | None:
    """Replace a folder by an adapter, the record of its run and, if validated, the report.

    Args:
        path: The folder.
        adapter: The adapter to keep.
        options: How it was trained.
        outcome: What came of it.
        dataset: What it was trained on.
        embed_model: The model that it stands behind.
        dimension: Length of that model's vectors.

    Returns:
        The report of the base against the finetuned model on the validation set, if any.

    Raises:
        OutputError: The folder can't be written; what stood there is unchanged.
    """
    manifest = describe_run(
        engine="EmbeddingAdapterFinetuneEngine",
        parameters={
            **options.parameters(),
            "adapter": type(adapter).__name__,
            "adapter_config": {} if saves_itself(adapter) else adapter.get_config_dict(),
        },
        seed=options.seed,
        dataset=dataset,
        val_dataset=options.val_dataset,
        seconds=outcome.seconds,
        metrics=outcome.metrics,
        base_model=embed_model.model_name,
        summary=outcome.summary,
        training_log=outcome.log,
    )
    report = None
    if options.val_dataset is not None:
        report = report_from_results(
            outcome.results, options.val_dataset, seed=options.seed, chosen_here=True
        )
        report = report.with_training(manifest)
    with atomic_folder(path) as folder:
        save_adapter(
            adapter,
            folder,
            transform=options.transform,
            embed_model=embed_model,
            dimension=dimension,
        )
        write_manifest(folder, manifest)
        card = _model_card(embed_model.model_name, outcome.summary, report)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if report is not None:
            report.save_html(folder / _REPORT)
    return report


def _model_card(base_model: str, summary: str, report: RetrievalReport | None) -> str:
    """Return a model card: what the adapter stands behind, how to load it, and the scores."""
    lines = [
        f"# An adapter for {public_name(base_model)}",
        "",
        "Trained with `llama-index-finetuning-embeddings`.",
        "",
        "```python",
        "from llama_index.core import Settings",
        "from llama_index.finetuning.embeddings import load_finetuned_model",
        "",
        'Settings.embed_model = load_finetuned_model("path/to/this/folder", base_embed_model)',
        "```",
        "",
        "## Evaluation",
        "",
        summary if report is None else report.to_markdown(),
    ]
    lines += ["", "The whole record of the run is in `finetuning.json`."]
    return "\n".join(lines) + "\n"
