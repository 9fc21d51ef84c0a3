"""Two processes under torchrun train what one process with the doubled batch trains."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_index.finetuning.embeddings import load_finetuned_model

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "train_distributed.py"
# Sums in fp32 in another order: the losses agree to five digits.
TOLERANCE = 1e-5


def train(model, output, *options, processes, batch_size):
    """Run the script; return what its main process wrote."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launch, str(SCRIPT), str(model), str(output), "--batch-size", str(batch_size)]
    subprocess.run([*command, *options], check=True, capture_output=True, text=True, timeout=300)
    return json.loads(output.with_name(f"{output.name}.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--documents", "15", "--validate"], id="uneven last batch, validation"),
        pytest.param(["--recompute"], id="activations computed again"),
        pytest.param(["--hard-negatives"], id="hard negatives"),
        pytest.param(["--settings", '{"train": "query"}'], id="queries only"),
        pytest.param(["--settings", '{"matryoshka_dims": [32, 8]}'], id="matryoshka"),
    ],
)
def test_two_processes_train_like_one_with_the_doubled_batch(tiny_bert_dir, tmp_path, options):
    """The same losses step by step, the same model, and one output folder."""
    one = train(tiny_bert_dir, tmp_path / "one", *options, processes=1, batch_size=4)
    two = train(tiny_bert_dir, tmp_path / "two", *options, processes=2, batch_size=2)
    assert len(one["losses"]) == len(two["losses"]) > 3
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=TOLERANCE)
    np.testing.assert_allclose(one["vector"], two["vector"], atol=TOLERANCE)
    saved = load_finetuned_model(tmp_path / "two").get_query_embedding("amber bridge")
    np.testing.assert_allclose(two["vector"], saved, atol=1e-6)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == ["one", "two"]


def test_fewer_rows_than_processes_end(tiny_bert_dir, tmp_path):
    """Two documents for three processes: all train, and none waits for ever."""
    found = train(tiny_bert_dir, tmp_path / "three", "--documents", "2", processes=3, batch_size=1)
    assert len(found["losses"]) == 2
