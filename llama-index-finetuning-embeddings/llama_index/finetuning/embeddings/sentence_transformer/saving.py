"""Writing the finetuned model: weights, model card and the facts of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import atomic_folder
from llama_index.finetuning.embeddings.manifest import write_manifest
from llama_index.finetuning.embeddings.report import RetrievalReport
from llama_index.finetuning.embeddings.sentence_transformer import lora

_REPORT = "report.html"


def save_model(
    model: SentenceTransformer,
    path: Path,
    *,
    facts: Mapping[str, Any],
    report: RetrievalReport | None,
) -> None:
    """Replace a folder by the model, its record, card and report, whole or not at all.

    Raises:
        OutputError: The folder can't be written; what stood there is unchanged.
    """
    with atomic_folder(path) as folder:
        lora.merge_adapter(model, folder)
        model.save_pretrained(str(folder), create_model_card=False)
        (folder / "README.md").write_text(_model_card(facts, report), encoding="utf-8")
        if report is not None:
            report.save_html(folder / _REPORT)
        write_manifest(folder, facts)


def _model_card(facts: Mapping[str, Any], report: RetrievalReport | None) -> str:
    """Return a model card: what was trained on what, with which parameters, and the scores."""
    data = facts["dataset"]
    base = Path(facts["base_model"])
    # The path of a folder says where somebody keeps files; its name says what it is.
    name = base.name if base.is_dir() else facts["base_model"]
    parameters = {**facts["parameters"], "model_id": name}
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags:",
        "- sentence-transformers",
        "- sentence-similarity",
        "- feature-extraction",
        "- llama-index",
        "---",
        "",
        f"# {name}, finetuned for retrieval",
        "",
        f"Trained on {data['queries']:,} queries and {data['documents']:,} documents "
        "with `llama-index-finetuning-embeddings`.",
        "",
        "```python",
        "from llama_index.core import Settings",
        "from llama_index.finetuning.embeddings import load_finetuned_model",
        "",
        'Settings.embed_model = load_finetuned_model("path/to/this/folder")',
        "```",
        "",
        "## Evaluation",
        "",
        "No validation set was given, so nothing is known about its quality."
        if report is None
        else report.to_markdown(),
        "",
        "## Parameters",
        "",
        "| parameter | value |",
        "| --- | --- |",
        *(f"| `{name}` | `{value}` |" for name, value in parameters.items()),
        "",
        "The whole record of the run is in `finetuning.json`.",
    ]
    return "\n".join(lines) + "\n"


def push_to_hub(folder: Path, repo_id: str, **kwargs: Any) -> str:
    """Upload a finetuned folder to the Hugging Face Hub and return the commit's address.

    Raises:
        ModelFolderError: The folder holds no model.
    """
    from huggingface_hub import HfApi

    require_model(folder)
    api = HfApi(token=kwargs.pop("token", None))
    api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True)
    kwargs.setdefault("ignore_patterns", [_REPORT])
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), **kwargs))


def require_model(folder: Path) -> None:
    """Raise ModelFolderError unless a folder holds a Sentence Transformer."""
    if not (folder / "modules.json").is_file():
        raise ModelFolderError(
            f"There is no finetuned model at {str(folder)!r}. Call finetune() first."
        )
