"""The report: its data, its tables, its pictures and its page."""

import dataclasses
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from fakes import HashEmbedding, tiny_dataset

from llama_index.finetuning.embeddings import (
    ConfigurationError,
    DatasetError,
    EmbeddingQAFinetuneDataset,
    MissingExtraError,
    ModelFolderError,
)
from llama_index.finetuning.embeddings.evaluation import (
    Comparison,
    Difference,
    DimensionResult,
    Estimate,
    evaluate_retrieval,
)
from llama_index.finetuning.embeddings.report import compare_retrieval, plots, report_from_results
from llama_index.finetuning.embeddings.report.tables import (
    Table,
    differences_table,
    dimensions_table,
    in_bytes,
    metrics_table,
)
from llama_index.finetuning.embeddings.report.training import training_curve

HOSTILE = "<script>alert('x')</script> & \"quoted\""
LOG = {
    "training_log": [
        {"step": 10, "loss": 2.5, "epoch": 0.5},
        {"step": 20, "loss": 1.5, "epoch": 1.0},
        {"step": 20, "eval_cosine_ndcg@10": 0.75, "eval_cosine_mrr@10": 0.7},
        {"train_runtime": 3.0},
    ],
    "metrics": {"before": {"ndcg@10": 0.5}, "after": {"ndcg@10": 0.75}},
}


class Forgetful(HashEmbedding):
    """Understands only the first words of a query."""

    def _get_query_embedding(self, query):
        return self.vector(" ".join(query.split()[:3]))


@pytest.fixture(scope="module")
def pictures(full_report):
    """The pictures of the full report."""
    return full_report.plot()


@pytest.fixture(scope="module")
def full_report():
    """A report with everything in it, on a dataset whose texts want to be HTML."""
    dataset = tiny_dataset(n_documents=30)
    hostile = EmbeddingQAFinetuneDataset(
        queries={qid: f"{text} {HOSTILE}" for qid, text in dataset.queries.items()},
        corpus={docid: f"{text} {HOSTILE}" for docid, text in dataset.corpus.items()},
        relevant_docs=dataset.relevant_docs,
    )
    return compare_retrieval(
        {"base": HashEmbedding(), "a | <b>": Forgetful()},
        hostile,
        bm25=True,
        dims=np.array([8, 16]),
        general_dataset=tiny_dataset(),
    ).with_training(LOG)


@pytest.fixture(scope="module")
def one_system():
    """The smallest report there is: one system, nothing to compare it with."""
    dataset = tiny_dataset()
    return report_from_results({"only": evaluate_retrieval(HashEmbedding(), dataset)}, dataset)


@pytest.fixture(scope="module")
def html(full_report, tmp_path_factory):
    """The page of the full report."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    full_report.save_html(path, title="Title & more")
    return path.read_text(encoding="utf-8")


def test_nothing_heavy_is_imported_before_it_is_needed():
    """Both rooms import neither torch nor the packages of the extras."""
    code = (
        "import sys; import llama_index.finetuning.embeddings.report; "
        "print({'torch', 'matplotlib', 'pandas', 'bm25s'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_report_says_that_its_queries_chose_what_it_compares(tmp_path):
    """In words, in JSON, on the page, in the card and in the notebook; otherwise nowhere."""
    dataset = tiny_dataset()
    results = {
        "base": evaluate_retrieval(HashEmbedding(), dataset),
        "other": evaluate_retrieval(Forgetful(), dataset),
    }
    for chosen in (True, False):
        report = report_from_results(results, dataset, chosen_here=chosen)
        report.save_html(tmp_path / "page.html")
        shown = (
            report.summary(),
            report.to_markdown(),
            report._repr_html_(),
            (tmp_path / "page.html").read_text(encoding="utf-8"),
        )
        assert [text.count("was chosen by these same queries") for text in shown] == [chosen] * 4
        assert report.to_dict()["chosen_here"] is chosen
    alone = report_from_results({"base": results["base"]}, dataset, chosen_here=True)
    assert alone.note == ""


def test_compare_retrieval_equals_its_parts():
    """The same numbers come from results that were computed before."""
    dataset = tiny_dataset()
    models = {"base": HashEmbedding(), "other": Forgetful()}
    whole = compare_retrieval(models, dataset)
    results = {name: evaluate_retrieval(model, dataset) for name, model in models.items()}
    assert whole.to_dict() == report_from_results(results, dataset).to_dict()


def test_options_of_compare_retrieval_reach_their_place(tmp_path, capsys):
    """Cut-offs, similarity, judgements, groups, cache, progress and seed all do something."""
    dataset = tiny_dataset()
    models = {"base": HashEmbedding(), "other": Forgetful()}
    plain = compare_retrieval(models, dataset)
    report = compare_retrieval(
        models,
        dataset,
        metric="mrr@2",
        k_values=[2],
        similarity="dot",
        relevance={qid: {"d0": 1.0} for qid in dataset.queries},
        groups={qid: qid[-1] for qid in dataset.queries},
        cache_dir=tmp_path,
        show_progress=True,
        seed=7,
    )
    assert report.comparison.metric == "mrr@2"
    assert (report.comparison.seed, plain.comparison.seed) == (7, 42)
    assert (report.comparison.n_clusters, plain.comparison.n_clusters) == (2, 12)
    assert (
        report.comparison.estimates["base"]["recall@2"].value
        < plain.comparison.estimates["base"]["recall@3"].value
    )
    assert list(tmp_path.iterdir())
    assert "Embedding" in capsys.readouterr().err


def test_arguments_are_checked_before_any_model_is_called():
    """What is unknown, missing or of another type is refused first."""
    model = HashEmbedding()
    for error, options in (
        (ConfigurationError, {"metric": "ndcg@7"}),
        (ConfigurationError, {"k_values": []}),
        (DatasetError, {"groups": {}}),
        (ConfigurationError, {"similarity": "euclid"}),
        (ConfigurationError, {"general_dataset": "general.json"}),
        (ConfigurationError, {"dataset": "data.json"}),
        (ConfigurationError, {"seed": -1}),
    ):
        with pytest.raises(error):
            compare_retrieval({"base": model}, **{"dataset": tiny_dataset(), **options})
    assert model.query_calls == 0


def test_the_general_dataset_is_measured_alike_by_its_own_judgements():
    """The metric and the seed hold there too; ``relevance`` does not, though ids are the same."""
    dataset, general, model = tiny_dataset(), tiny_dataset(n_documents=6), HashEmbedding()
    report = compare_retrieval(
        {"base": model},
        dataset,
        metric="mrr@2",
        k_values=[2],
        relevance={qid: {"d0": 1.0} for qid in dataset.queries},
        general_dataset=general,
        seed=7,
    )
    assert (report.general.metric, report.general.seed) == ("mrr@2", 7)
    expected = evaluate_retrieval(model, general, k_values=[2]).metrics["mrr@2"]
    assert report.general.estimates["base"]["mrr@2"].value == expected


def test_json_holds_everything(full_report):
    """What is read back equals the data; verdicts, dimensions and the curve are in it."""
    data = json.loads(full_report.to_json())
    assert data["comparison"]["reference"] == "base"
    assert set(data["comparison"]["verdicts"]) == {"a | <b>", "bm25", "bm25 + base"}
    assert [one["dim"] for one in data["dimensions"]] == [8, 16, 32]
    assert set(data["general"]["systems"]) == {"base", "a | <b>"}
    assert data["training"] == {
        "loss": [[10, 2.5], [20, 1.5]],
        "metric": [[0, 0.5], [20, 0.75]],
        "summary": "",
    }
    worst = data["comparison"]["worst"]["a | <b>"][0]
    assert worst["top_before"][0]["text"].endswith(HOSTILE)


def test_pandas_has_a_row_for_each_dataset_system_and_metric(full_report):
    """Four systems on the main dataset, two on the general one, 25 metrics each."""
    table = full_report.to_pandas()
    assert len(table) == (4 + 2) * 25
    row = table[(table.dataset == "main") & (table.system == "bm25") & (table.metric == "mrr@3")]
    expected = full_report.comparison.differences["bm25"]["mrr@3"]
    assert row.difference_value.item() == expected.value
    assert row.p_value.item() == expected.p_value
    assert row.won.item() == expected.won
    assert np.isnan(table[table.system == "base"].p_value).all()


def test_missing_pandas_is_named(one_system, monkeypatch):
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        one_system.to_pandas()


def test_markdown_has_sentences_and_tables_but_no_text_of_the_dataset(full_report):
    """A model card may be public, so it shows numbers only; pipes are escaped."""
    text = full_report.to_markdown()
    assert full_report.comparison.sentence("bm25") in text
    assert "| System | nDCG@10 | MRR@10 | Recall@10 | Hit rate@1 | MAP@100 |" in text
    assert "a \\| <b>" in text
    assert "| Dimensions | base, nDCG@10 | a \\| <b>, nDCG@10 | Index of these 30 |" in text
    assert "On the general dataset:" in text
    assert "alert" not in text
    for line in text.splitlines():
        if line.startswith("| base"):
            assert re.fullmatch(r"\| base( \| \d\.\d{3})+ \|", line)


def test_tables_hold_what_their_headers_say():
    """Each table of a small comparison, as it is written."""
    estimates = {
        name: {"ndcg@10": Estimate(value, 0.1, 0.9)} for name, value in (("a", 0.5), ("b", 0.75))
    }
    comparison = Comparison(
        metric="ndcg@10",
        n_queries=6,
        n_documents=1000,
        n_clusters=6,
        estimates=estimates,
        differences={"b": {"ndcg@10": Difference(0.25, 0.125, 0.375, 0.03, 3, 1, 2)}},
        changes={},
        worst={},
        seed=0,
    )
    assert metrics_table(comparison, ["ndcg@10"]).to_markdown() == (
        "| System | nDCG@10 |\n| --- | ---: |\n| a | 0.500 |\n| b | 0.750 |"
    )
    assert differences_table(comparison).to_markdown().splitlines() == [
        "| Against a | Verdict | nDCG@10 difference | 95 % interval | p-value "
        "| Queries won / lost / tied |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| b | ▲ better | +0.250 | +0.125 to +0.375 | 0.030 | 3 / 1 / 2 |",
    ]
    dimensions = [DimensionResult(8, {"a": 0.25}), DimensionResult(16, {"a": 0.5, "b": 0.75})]
    assert dimensions_table(comparison, dimensions).to_markdown().splitlines() == [
        "| Dimensions | a, nDCG@10 | b, nDCG@10 | Index of these 1,000 | Index of 1,000,000 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 8 | 0.250 | - | 32 kB | 32 MB |",
        "| 16 | 0.500 | 0.750 | 64 kB | 64 MB |",
    ]


def test_a_table_escapes_what_it_holds():
    """Pipes and line breaks can't leave a Markdown cell, nor tags an HTML one."""
    table = Table(["System", "x"], [["a|b\nc", "<i>"]])
    assert table.to_markdown() == "| System | x |\n| --- | ---: |\n| a\\|b c | <i> |"
    assert table.to_html() == (
        '<table><thead><tr><th scope="col">System</th><th scope="col">x</th></tr></thead>'
        '<tbody><tr><th scope="row">a|b\nc</th><td>&lt;i&gt;</td></tr></tbody></table>'
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999_936, "1 MB"),
        (999_499, "999 kB"),
        (1_536_000_000, "1.54 GB"),
        (2e12, "2 TB"),
        (51_200, "51.2 kB"),
    ],
)
def test_bytes_are_written_with_three_digits(size, text):
    """Decimal units, as memory is sold and billed."""
    assert in_bytes(size) == text


def test_summary_says_a_sentence_for_each_system(full_report, one_system):
    """Three on the main dataset, one on the general; without a comparison, the table."""
    lines = full_report.summary().splitlines()
    assert len(lines) == 4
    assert lines[3].startswith("On the general dataset: a | <b> is worse than base")
    assert repr(full_report) == full_report.summary()
    assert one_system.summary().startswith("| System | nDCG@10 |")


def test_notebooks_show_verdicts_and_tables(full_report):
    """The rich display is escaped HTML."""
    html = full_report._repr_html_()
    assert html.count("<table>") == 5
    general = html.partition("On the general dataset:")[2]
    assert general.count("<table>") == 2
    assert "a | &lt;b&gt;: worse" in general
    assert "a | &lt;b&gt;: worse" in html
    assert "<b>:" not in html


def test_pictures_are_drawn_where_there_is_something_to_show(pictures, one_system):
    """Everything has four, one system alone has one."""
    assert list(pictures) == ["metrics", "queries", "dimensions", "training"]
    assert list(one_system.plot()) == ["metrics"]


def test_every_axis_is_labelled(pictures):
    """Each has a name for both directions; only shared ones leave it to the last."""
    for figure in pictures.values():
        assert figure.axes[-1].get_xlabel()
        assert all(axes.get_ylabel() for axes in figure.axes)


def test_bars_show_the_means_and_the_histogram_the_changed_queries(full_report, pictures):
    """Widths of bars are means; heights of the histogram add up to won and lost."""
    bars = [patch.get_width() for patch in pictures["metrics"].axes[0].patches]
    assert full_report.comparison.estimates["bm25"]["ndcg@10"].value in bars
    mean = full_report.comparison.estimates["base"]["ndcg@10"]
    segment = pictures["metrics"].axes[0].collections[0].get_segments()[0]
    assert segment[:, 0].tolist() == pytest.approx([mean.low, mean.high])
    heights = [patch.get_height() for patch in pictures["queries"].axes[0].patches]
    one = full_report.comparison.differences["a | <b>"]["ndcg@10"]
    assert sum(heights) == one.won + one.lost


@pytest.mark.parametrize(
    "names",
    [
        ("base", "out/"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("base", f"bm25 + {'a-long-folder/' * 8}model"),
    ],
)
def test_a_legend_stays_in_its_figure(one_system, names):
    """Long names stand below each other, and lose their middle where even that is too wide."""
    comparison = one_system.comparison
    estimates = dict.fromkeys(names, comparison.estimates["only"])
    drawn = dataclasses.replace(comparison, estimates=estimates)
    figure = dataclasses.replace(one_system, comparison=drawn).plot()["metrics"]
    plots.to_svg(figure, "x", "x")
    texts = figure.legends[0].get_texts()
    assert max(text.get_window_extent().x1 for text in texts) <= figure.bbox.x1
    assert all(text.get_text()[-5:] == name[-5:] for text, name in zip(texts, names, strict=True))


def test_long_names_stay_apart_and_in_their_figures(one_system):
    """Folders that begin and end alike are told by what differs, in every picture."""
    comparison = one_system.comparison
    names = [f"{'experiments/' * 6}lr{rate}/{'run/' * 6}model" for rate in ("2e-5", "5e-5")]
    names += [f"{'x' * 60}{'y' * 60}", f"{'x' * 60}{'y' * 70}"]
    names += [f"system {i}" for i in range(12)]
    report = dataclasses.replace(
        one_system,
        comparison=dataclasses.replace(
            comparison,
            estimates=dict.fromkeys(names, comparison.estimates["only"]),
            changes={names[1]: np.array([0.5])},
            differences={names[1]: {"ndcg@10": Difference(0.5, 0.5, 0.5, 0.5, 1, 0, 0)}},
        ),
        dimensions=[DimensionResult(8, dict.fromkeys(names, 0.5))],
    )
    figures = report.plot()
    for figure in figures.values():
        figure.draw_without_rendering()
    for name in ("metrics", "dimensions"):
        texts = figures[name].legends[0].get_texts()
        assert len({text.get_text() for text in texts}) == len(names)
        assert "2e-5" in texts[0].get_text()
        box = figures[name].legends[0].get_window_extent()
        assert box.x1 <= figures[name].bbox.x1
        assert box.y0 > figures[name].axes[0].get_window_extent().y1
        assert figures[name].axes[0].get_window_extent().height > 100
    looks = {(one.get_color(), one.get_marker()) for one in figures["dimensions"].axes[0].lines}
    assert len(looks) == len(names)
    title = figures["queries"].axes[0]._left_title.get_window_extent()
    assert title.x1 <= figures["queries"].bbox.x1


@pytest.mark.parametrize("name", ["_base", "a $x_$ b", "$5 or $6"])
def test_names_are_drawn_as_they_are(one_system, name):
    """An underscore in front hides no name from a legend, and dollars are no formula."""
    comparison = one_system.comparison
    estimates = {name: comparison.estimates["only"], "other": comparison.estimates["only"]}
    report = dataclasses.replace(
        one_system,
        comparison=dataclasses.replace(
            comparison,
            estimates=estimates,
            changes={name: np.array([0.5])},
            differences={name: {"ndcg@10": Difference(0.5, 0.5, 0.5, 0.5, 1, 0, 0)}},
        ),
        dimensions=[DimensionResult(8, {name: 0.5, "other": 0.5})],
    )
    figures = report.plot()
    for legend in (figures["metrics"].legends[0], figures["dimensions"].legends[0]):
        assert [text.get_text() for text in legend.get_texts()] == [name, "other"]
    for figure in figures.values():
        assert name in plots.to_svg(figure, "x", "x")


def test_a_picture_of_one_group_of_queries_has_no_interval():
    """Bars are drawn all the same, with their values beside them."""
    dataset = tiny_dataset(n_documents=1)
    report = report_from_results({"a": evaluate_retrieval(HashEmbedding(), dataset)}, dataset)
    axes = report.plot()["metrics"].axes[0]
    assert np.isfinite([text.get_position() for text in axes.texts]).all()


def test_curves_show_their_points(pictures):
    """The dimension curve has every size, the training curves every step."""
    assert pictures["dimensions"].axes[0].lines[0].get_xdata().tolist() == [8, 16, 32]
    loss, metric = (axes.lines[0].get_xydata().tolist() for axes in pictures["training"].axes)
    assert loss == [[10, 2.5], [20, 1.5]]
    assert metric == [[0, 0.5], [20, 0.75]]


def test_drawing_leaves_matplotlib_as_it_was(one_system):
    """No style is changed for the rest of the program, and pyplot is not touched."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    one_system.plot()
    assert dict(matplotlib.rcParams) == before


class Page(HTMLParser):
    """Collects tags, attributes and ids, and checks that tags are nested."""

    VOID = ("meta", "br", "hr", "path", "use")

    def __init__(self):
        super().__init__()
        self.tags, self.ids, self.links, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(html):
    """Tags are nested, ids are unique and used, and no address is followed."""
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert set(re.findall(r"url\(#(.*?)\)", html)) <= set(page.ids)
    assert "@import" not in html


def test_the_page_escapes_texts_and_names(html):
    """Queries, documents, systems and the title show as they are written."""
    assert "<script>" not in html
    assert "&lt;script&gt;alert" in html
    assert "<h1>Title &amp; more</h1>" in html
    assert "<b>▼ a | &lt;b&gt;: worse</b>" in html


def test_texts_of_the_dataset_have_the_direction_of_their_script(html):
    """Each query and document finds its own; the mark before a document does not decide it."""
    assert html.count('<h3 dir="auto">') == html.count("<h3") > 0
    assert html.count('<li dir="auto">') == html.count("<li") > 0
    assert '<li dir="auto"><span class="hit" dir="ltr">✓ relevant</span> ' in html


def test_the_page_follows_the_theme_of_its_reader(html):
    """Pictures take their ink, grid and paper from the page, which has a light and a dark set."""
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html
    for colour in ("#1b1b1a;", "#dcdcdb", "#fffffe"):
        assert colour not in html.split("</style>")[1]
    assert html.count("var(--ink)") > 10


def test_the_page_has_every_part(html, full_report):
    """Verdicts, tables, worst queries, all metrics and how to read them."""
    for text in (
        "Shorter vectors",
        "Has anything been forgotten?",
        "Queries that a | &lt;b&gt; answers worse",
        "All metrics",
        "How to read this",
        "10,000 resamples (seed 42) over 30 groups",
    ):
        assert text in html
    both = (full_report.comparison, full_report.general)
    assert html.count('class="query"') == sum(
        len(found) for one in both for found in one.worst.values()
    )


def test_a_page_of_one_system_leaves_out_what_it_has_not(one_system, tmp_path):
    """No verdict, no dimensions, no forgetting."""
    one_system.save_html(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Has retrieval become better?" in html
    assert not any(text in html for text in ('<div class="verdict', "Shorter", "forgotten"))


def test_without_matplotlib_the_page_has_no_pictures(one_system, tmp_path, monkeypatch, caplog):
    """Plotting says what to install; the page is written all the same, and the log says so."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"\[plot\]"):
        one_system.plot()
    one_system.save_html(tmp_path / "page.html")
    assert "<svg" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "The page has no pictures" in caplog.text


def test_the_curve_is_read_from_a_model_folder_or_its_file(one_system, tmp_path):
    """A folder, its finetuning.json and what that holds give the same curve."""
    (tmp_path / "finetuning.json").write_text(json.dumps(LOG), encoding="utf-8")
    curves = [
        one_system.with_training(source).training
        for source in (tmp_path, tmp_path / "finetuning.json", LOG)
    ]
    assert curves[0] == curves[1] == curves[2]
    assert one_system.training is None
    with pytest.raises(ModelFolderError, match="no record of a finetuning run"):
        one_system.with_training(tmp_path / "elsewhere")


def test_only_the_metric_itself_is_read(one_system):
    """A value whose name goes on behind the metric's is another one."""
    log = {"training_log": [{"step": 5, "eval_ndcg@100": 0.1, "ndcg@10_std": 0.2}]}
    assert one_system.with_training(log).training.metric == []


def test_a_curve_has_the_steps_of_a_hit_rate_or_is_not_there():
    """Upstream logs it as an accuracy; a cut-off that nothing logs has no curve of one point."""
    log = {
        "metrics": {"before": {"hit_rate@3": 0.25, "ndcg@5": 0.5}},
        "training_log": [{"step": 5, "eval_cosine_accuracy@3": 0.75}],
    }
    assert training_curve(log, "hit_rate@3").metric == [(0, 0.25), (5, 0.75)]
    assert training_curve(log, "ndcg@5").metric == []


@pytest.mark.parametrize(
    "damaged",
    [
        {"metrics": None},
        {"metrics": []},
        {"metrics": {"before": None}},
        {"training_log": None},
        {"training_log": 5},
        {"training_log": [None]},
        {"training_log": ["step"]},
        {"training_log": [{"step": None, "loss": 1}]},
        {"training_log": [{"step": 1, "loss": "x"}]},
        {"training_log": [{"step": float("inf"), "loss": 1}]},
    ],
)
def test_a_damaged_record_is_named(one_system, damaged):
    """Whatever is wrong with it, the error is the library's own."""
    with pytest.raises(ModelFolderError, match="record of the finetuning run is damaged"):
        one_system.with_training(damaged)


def test_a_run_without_a_log_has_no_curve(one_system):
    """Nothing to draw is no error, and a single point is drawn as a point."""
    assert "training" not in one_system.with_training({}).plot()
    single = one_system.with_training({"training_log": [{"step": 1, "loss": 2.0}]})
    assert single.plot()["training"].axes[0].lines[0].get_marker() == "o"


def test_many_systems_stay_apart(one_system):
    """Where the seven colours come round again, bars get a pattern."""
    comparison = one_system.comparison
    estimates = {f"system {i}": comparison.estimates["only"] for i in range(20)}
    report = dataclasses.replace(
        one_system, comparison=dataclasses.replace(comparison, estimates=estimates)
    )
    bars = report.plot()["metrics"].axes[0].patches
    looks = {(bar.get_facecolor(), bar.get_hatch()) for bar in bars}
    assert len(looks) == 20
