"""Tests of `manifest`: what a run was, as JSON."""

import json
from pathlib import Path

import numpy as np
from fakes import tiny_dataset

from llama_index.finetuning.embeddings.manifest import describe_run, write_manifest


def describe(**changes):
    """Describe a made-up run."""
    call = {
        "engine": "Engine",
        "parameters": {},
        "seed": 3,
        "dataset": tiny_dataset(),
        "val_dataset": None,
        "seconds": {"training": 1.23456},
        "metrics": {},
    }
    return describe_run(**{**call, **changes})


def test_values_of_any_kind_become_json():
    """Classes, paths, arrays' numbers, sets and objects are told in words or numbers."""
    parameters = {
        "class": dict,
        "path": Path("a") / "b",
        "number": np.float32(0.5),
        "set": {1},
        "object": object(),
        "nested": {"tuple": (1, None)},
    }
    found = json.loads(json.dumps(describe(parameters=parameters)["parameters"]))
    assert found == {
        "class": "dict",
        "path": str(Path("a") / "b"),
        "number": 0.5,
        "set": [1],
        "object": "<object>",
        "nested": {"tuple": [1, None]},
    }


def test_sizes_and_times():
    """24 queries over 12 documents; seconds to the millisecond; more entries at the top."""
    found = describe(extra=1)
    assert found["dataset"]["queries"] == found["dataset"]["pairs"] == 24
    assert found["dataset"]["documents"] == 12
    assert found["val_dataset"] is None
    assert found["seconds"] == {"training": 1.235}
    assert found["extra"] == 1


def test_the_file(tmp_path):
    """It is finetuning.json, indented by two."""
    write_manifest(tmp_path, {"a": "ä"})
    assert (tmp_path / "finetuning.json").read_text(encoding="utf-8") == '{\n  "a": "ä"\n}\n'
