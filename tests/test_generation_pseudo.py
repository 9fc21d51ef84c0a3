"""Queries taken from texts, without an LLM."""

import pytest
from llama_index.core.schema import TextNode

from llama_index.finetuning.embeddings import ConfigurationError, GenerationError
from llama_index.finetuning.embeddings.generation import pseudo_query_pairs


def pairs(dataset) -> dict[str, list[str]]:
    """Query text to the texts of its documents."""
    return {
        query: [dataset.corpus[docid] for docid in docids]
        for query, docids in dataset.query_docid_pairs
    }


@pytest.mark.parametrize(
    ("text", "title", "body"),
    [
        ("# Oil prices #\n\nThey rose.\nA lot.", "Oil prices", "They rose.\nA lot."),
        ("Oil prices\n==========\nThey rose.", "Oil prices", "They rose."),
        ("Oil prices\n\nThey rose.", "Oil prices", "They rose."),
        ("==========\nOil prices\n==========\n\nThey rose.", "Oil prices", "They rose."),
        ("****\n Oil\n****\nThey rose.", "Oil", "They rose."),
        ("---\ndate: 2021\ntitle: 'Oil prices'\n---\n\nThey rose.", "Oil prices", "They rose."),
        ("---\ntitle: Oil\n---\n# Oil\nThey rose.", "Oil", "They rose."),
        ("---\ndate: 2021\n---\n# Oil\nThey rose.", "Oil", "They rose."),
    ],
)
def test_a_heading_is_the_query_of_its_body(text, title, body):
    """A Markdown heading, an underlined or a lone first line leaves the text and asks for it."""
    dataset = pseudo_query_pairs([TextNode(id_="n", text=text)], method="title")
    assert pairs(dataset) == {title: [body]}


def test_a_title_in_the_metadata_counts_and_equal_titles_are_one_query():
    """Chunks of one document share its title: one query with both as relevant documents."""
    nodes = [
        TextNode(id_="n1", text="Oil prices they rose.", metadata={"Title": "Oil prices"}),
        TextNode(id_="n2", text="Then they fell.", metadata={"Title": "Oil prices"}),
        TextNode(id_="n3", text="Nothing here.", metadata={"title": 7}),
    ]
    dataset = pseudo_query_pairs(nodes, method="title")
    assert pairs(dataset) == {"Oil prices": ["they rose.", "Then they fell."]}
    assert dataset.corpus["n3"] == "Nothing here."


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("JavaScript is no Java.", "JavaScript is no Java."),
        ("Java: it is no JavaScript.", ": it is no JavaScript."),
        ("Java", None),
    ],
)
def test_a_title_is_cut_off_at_the_end_of_a_word_only(text, body):
    """Where the text's first word is a longer one than the title, it stays whole."""
    nodes = [
        TextNode(id_="n", text=text, metadata={"title": "Java"}),
        TextNode(id_="o", text="Another one.", metadata={"title": "Other"}),
    ]
    found = pairs(pseudo_query_pairs(nodes, method="title"))
    assert found.get("Java", [None]) == [body]


@pytest.mark.parametrize(
    ("text", "sentence", "rest"),
    [
        ("Prices rose in May. Then they fell.", "Prices rose in May.", "Then they fell."),
        ("Dr. Smith of Acme Inc. left. He was 60.", "Dr. Smith of Acme Inc. left.", "He was 60."),
        ("Is 3.5 percent a lot? It is.", "Is 3.5 percent a lot?", "It is."),
        ("Use a base, e.g. soda, i.e. salt, etc. here. Stir.",
         "Use a base, e.g. soda, i.e. salt, etc. here.", "Stir."),
        ("It is approx. 3 m (see Fig. 2). Stir.", "It is approx. 3 m (see Fig. 2).", "Stir."),
        ("\u6cb9\u4ef7\u4e0a\u6da8\u4e86\u3002\u7136\u540e\u4e0b\u8dcc\u3002",
         "\u6cb9\u4ef7\u4e0a\u6da8\u4e86\u3002", "\u7136\u540e\u4e0b\u8dcc\u3002"),
        ("---\ntags: [oil]\n---\nPrices rose in May. Then they fell.",
         "Prices rose in May.", "Then they fell."),
        ("\u4e94\u6708\u7684\u6cb9\u4ef7\u4e0a\u6da8\u4e86\u5f88\u591a\u5f88\u591a\u3002\u7136\u540e\u4e0b\u8dcc\u3002",
         "\u4e94\u6708\u7684\u6cb9\u4ef7\u4e0a\u6da8\u4e86\u5f88\u591a\u5f88\u591a\u3002",
         "\u7136\u540e\u4e0b\u8dcc\u3002"),
    ],
)  # fmt: skip
def test_the_first_sentence_asks_for_the_rest(text, sentence, rest):
    """Abbreviations, initials and decimals end no sentence."""
    dataset = pseudo_query_pairs([TextNode(id_="n", text=text)], method="first_sentence")
    assert pairs(dataset) == {sentence: [rest]}


@pytest.mark.parametrize("line", ["))", "msg)", "2.1"])
def test_the_end_of_code_is_no_title(line):
    """Nor is a line without a letter: the first sentence is the query."""
    node = TextNode(text=f"{line}\n\nOpens the file that is named. Then it is read.")
    for query in pseudo_query_pairs([node]).queries.values():
        assert "Opens the file" in query


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("a) First point\n\nIts body.", "a) First point"),
        ("# 2024\n\nThe year went well.", "2024"),
        ("# Results :)\n\nBody text.", "Results :)"),
    ],
)
def test_brackets_of_titles_stay(text, title):
    """Those of an enumeration, and whatever stands in a heading."""
    assert list(pseudo_query_pairs([TextNode(text=text)]).queries.values()) == [title]


def test_auto_prefers_the_title():
    """One node with a heading, one without, one with a single sentence: two queries."""
    nodes = [
        TextNode(id_="a", text="# Oil\nPrices rose in May. Then they fell."),
        TextNode(id_="b", text="Gas became dear in June. Few bought it."),
        TextNode(id_="c", text="Coal stayed where it was"),
    ]
    dataset = pseudo_query_pairs(nodes)
    assert pairs(dataset) == {
        "Oil": ["Prices rose in May. Then they fell."],
        "Gas became dear in June.": ["Few bought it."],
    }
    assert list(dataset.corpus) == ["a", "b", "c"]
    assert pseudo_query_pairs(node for node in nodes) == dataset


def test_sentences_and_titles_of_other_scripts():
    """Hindi ends a sentence with a danda; half of a surrogate pair in a title is no error."""
    hindi = TextNode(id_="h", text="गंगा भारत की एक नदी है। यह हिमालय से निकलती है।")
    assert pairs(pseudo_query_pairs([hindi])) == {
        "गंगा भारत की एक नदी है।": ["यह हिमालय से निकलती है।"]
    }
    half = TextNode(id_="t", text="It rises in the north.", metadata={"title": "Rivers \ud83d"})
    (query,) = pairs(pseudo_query_pairs([half]))
    assert query.startswith("Rivers")


def test_nothing_found_and_bad_arguments():
    """The errors name the method and what to do."""
    node = TextNode(text="one")
    with pytest.raises(GenerationError, match=r"None of 1 texts .* \(method 'title'\)"):
        pseudo_query_pairs([node], method="title")
    with pytest.raises(ConfigurationError, match=r"'method' must be in .* \(got 'magic'\)"):
        pseudo_query_pairs([node], method="magic")
    with pytest.raises(ConfigurationError, match="at least one node"):
        pseudo_query_pairs([])


@pytest.mark.parametrize("title", ['""', ">-\n  A long title\n  in two lines", "|\n  A long title"])
def test_front_matter_without_a_title_on_its_line(title):
    """Neither quotation marks nor signs of YAML are queries, which all such texts would share."""
    text = (
        f"---\ntitle: {title}\ndate: 2020-01-01\n---\n\nInstall the package with pip. Then run it."
    )
    dataset = pseudo_query_pairs([TextNode(text=text)])
    assert list(dataset.queries.values()) == ["Install the package with pip."]


def test_signs_of_yaml_inside_quotation_marks():
    """There they are a part of the title."""
    dataset = pseudo_query_pairs([TextNode(text='---\ntitle: ">5 reasons"\n---\nOne. Two.')])
    assert list(dataset.queries.values()) == [">5 reasons"]


@pytest.mark.parametrize("matter", ["---\nid: intro\n---", '+++\ntitle = "x"\n+++'])
def test_front_matter_is_no_title_between_lines(matter):
    """A title may have a line above and one below; a field with its value is none."""
    dataset = pseudo_query_pairs([TextNode(text=f"{matter}\nSome words. Others.")])
    assert not {"id: intro", 'title = "x"'} & {*dataset.queries.values()}


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_of_other_systems(end):
    """Titles are found whatever ends a line, and behind a byte order mark."""
    for text, title in (
        ("# Password reset\n\nOpen settings and press reset. Then wait.\n", "Password reset"),
        ("\ufeff# Password reset\n\nOpen settings and press reset. Then wait.\n", "Password reset"),
        ("---\ntitle: Hello\ndate: 2020\n---\nOpen settings and press reset. Then wait.", "Hello"),
    ):
        dataset = pseudo_query_pairs([TextNode(id_="n", text=text.replace("\n", end))])
        assert list(dataset.queries.values()) == [title]
        assert dataset.corpus["n"] == "Open settings and press reset. Then wait."


@pytest.mark.parametrize(
    "text",
    [
        "---\n# Refunds\n\n- 30 days\n\n---\n# Shipping\nIt is free.",
        "---\nNote: It is hot.\nWarning: Do not touch.\n---\nSwitch it off first.",
        "---\nSome words.\ntitle: Oil\n---\nThey rose.",
        "---\n- title: Oil\n---\nThey rose.",
        "---\n" + "-Item: x\n" * 5000,
        "---\n" + " \n\n" * 5000,
    ],
)
def test_what_stands_between_rules_is_no_front_matter(text):
    """Nothing is lost of a text whose rules hold no YAML, however long it is."""
    nodes = [TextNode(id_="n", text=text), TextNode(text="Prices rose in May. Then they fell.")]
    dataset = pseudo_query_pairs(nodes, method="first_sentence")
    left = " ".join([dataset.corpus["n"], *dataset.queries.values()])
    assert {*text.split()} <= {*left.split()}
