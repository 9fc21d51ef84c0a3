"""Writing the finetuned model: weights, model card and the facts of the run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from torch import Tensor

from llama_index.finetuning.embeddings import upstream
from llama_index.finetuning.embeddings.errors import ModelFolderError
from llama_index.finetuning.embeddings.files import (
    atomic_folder,
    read_json_object,
    write_json,
)
from llama_index.finetuning.embeddings.manifest import public_name, write_manifest
from llama_index.finetuning.embeddings.model_folder import MODULES, ROUTER, SIDES, is_model
from llama_index.finetuning.embeddings.report import RetrievalReport
from llama_index.finetuning.embeddings.sentence_transformer import lora
from llama_index.finetuning.embeddings.sentence_transformer.whitening import whitened

_REPORT = "report.html"
_SETTINGS = "config_sentence_transformers.json"
_CARD_HEAD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- llama-index
---
"""


def save_model(
    model: SentenceTransformer,
    path: Path,
    *,
    facts: Mapping[str, Any],
    report: RetrievalReport | None,
    document_model: SentenceTransformer | None = None,
    whitening: Tensor | None = None,
) -> None:
    """Replace a folder by the model, its record, card and report, whole or not at all.

    Args:
        model: The finetuned model.
        path: The folder.
        facts: The record of the run.
        report: Base against finetuned, if it was measured.
        document_model: Embeds the documents where ``model`` is for queries only; the folder then
            holds both.
        whitening: Multiplied by every vector of ``model``, in the folder only.

    Raises:
        OutputError: The folder can't be written; what stood there is unchanged.
    """
    with atomic_folder(path) as folder:
        lora.merge_adapter(model, folder)
        with whitened(model, whitening):
            _write_model(folder, model, document_model)
        (folder / "README.md").write_text(_model_card(facts, report), encoding="utf-8")
        if report is not None:
            report.save_html(folder / _REPORT)
        write_manifest(folder, facts)


def save_merged(
    model: SentenceTransformer,
    path: Path,
    *,
    facts: Mapping[str, Any],
    merged: Mapping[str, Any],
    document_model: SentenceTransformer | None,
) -> None:
    """Replace a folder by a merged model, with the record of the run that it came from.

    Args:
        model: The merged model.
        path: The folder.
        facts: The record of the finetuning; its scores are not the merged model's.
        merged: What was merged how.
        document_model: As for `save_model`.

    Raises:
        OutputError: The folder can't be written; what stood there is unchanged.
    """
    known = {name: value for name, value in facts.items() if name not in ("metrics", "summary")}
    with atomic_folder(path) as folder:
        _write_model(folder, model, document_model)
        name, share = public_name(merged["base_model"]), merged["weight"]
        (folder / "README.md").write_text(
            f"{_CARD_HEAD}\n# {name}, finetuned and merged with its base\n\n"
            f"Every weight is {share} of the finetuned model's and {1 - share:g} of the base's."
            "\n\nThe whole record is in `finetuning.json`.\n",
            encoding="utf-8",
        )
        write_manifest(folder, {**known, "merged": dict(merged)})


def _write_model(
    folder: Path, model: SentenceTransformer, document_model: SentenceTransformer | None
) -> None:
    if document_model is None:
        model.save_pretrained(str(folder), create_model_card=False)
    else:
        _write_router(folder, query=model, document=document_model)
    # Upstream writes the code of a module into the module's folder, and looks for it at the top of
    # the model's.
    for code in sorted(folder.rglob("*.py")):
        for place in (folder, *(folder / side for side in SIDES)):
            if code.is_relative_to(place) and not (place / code.name).exists():
                shutil.copy2(code, place / code.name)


def _write_router(
    folder: Path, *, query: SentenceTransformer, document: SentenceTransformer
) -> None:
    """Write a model for queries and one for documents into a new folder, as a ``Router``."""
    router_class = upstream.router()
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for side, model in zip(SIDES, (query, document), strict=True):
        model.save_pretrained(str(folder / side), create_model_card=False)
        modules = json.loads((folder / side / MODULES).read_text(encoding="utf-8"))
        # The Router looks for each module in a folder of this name.
        names = [f"{side}/{module['path']}".rstrip("/") for module in modules]
        types |= {name: module["type"] for name, module in zip(names, modules, strict=True)}
        structure[side] = names
    parameters = {"default_route": "document", "allow_empty_key": True}
    write_json(folder / ROUTER, {"types": types, "structure": structure, "parameters": parameters})
    router = {"idx": 0, "name": "0", "path": "", "type": f"{router_class.__module__}.Router"}
    write_json(folder / MODULES, [router])
    write_json(folder / _SETTINGS, read_json_object(folder / "query" / _SETTINGS))


def _model_card(facts: Mapping[str, Any], report: RetrievalReport | None) -> str:
    """Return a model card: what was trained on what, with which parameters, and the scores."""
    data = facts["dataset"]
    name = public_name(facts["base_model"])
    parameters = {**facts["parameters"], "model_id": name}
    lines = [
        _CARD_HEAD,
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
        facts["summary"] if report is None else report.to_markdown(),
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
    ignored = kwargs.get("ignore_patterns")
    if kwargs.get("allow_patterns") is None and (ignored is None or ignored):
        ignored = {ignored} if isinstance(ignored, str) else {*(ignored or ())}
        kwargs["ignore_patterns"] = sorted({*ignored, _REPORT})
    return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder), **kwargs))


def require_model(folder: Path) -> None:
    """Raise ModelFolderError unless a folder holds a Sentence Transformer."""
    if not is_model(folder):
        raise ModelFolderError(
            f"There is no finetuned model at {str(folder)!r}. Call finetune() first."
        )
