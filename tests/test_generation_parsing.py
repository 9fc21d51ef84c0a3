"""Parsing of LLM answers into questions."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_index.finetuning.embeddings.generation.parsing import parse_questions

A = "What was Lyft's revenue in 2021?"
B = "How did Uber's costs change, and why?"
C = "Which 3 cities grew fastest?"

SHAPES = {
    "bare lines": f"{A}\n{B}",
    "blank lines between": f"\n{A}\n\n\n{B}\n",
    "windows line ends": f"{A}\r\n\r\n{B}\r\n",
    "numbers with dots": f"1. {A}\n2. {B}",
    "numbers without a space": f"1.{A}\n2.{B}",
    "numbers in brackets": f"(1) {A}\n(2) {B}",
    "numbers in square brackets": f"[1] {A}\n[2] {B}",
    "numbers with a bracket": f"1) {A}\n2) {B}",
    "numbers with a colon": f"1: {A}\n2: {B}",
    "numbers with a dash": f"1 - {A}\n2 \u2013 {B}",
    "escaped dots": f"1\\. {A}\n2\\. {B}",
    "indented numbers": f"  1. {A}\n  2. {B}",
    "first line unindented": f"1. {A}\n   2. {B}",
    "letters": f"a) {A}\nb) {B}",
    "roman numbers": f"i. {A}\nii. {B}",
    "keycaps": f"1\ufe0f\u20e3 {A}\n2\ufe0f\u20e3 {B}",
    "circled digits": f"\u2460 {A}\n\u2461 {B}",
    "hyphens": f"- {A}\n- {B}",
    "asterisks": f"* {A}\n* {B}",
    "bullets": f"\u2022 {A}\n\u2022 {B}",
    "bullets without a space": f"\u2022{A}\n\u2022{B}",
    "task list": f"- [ ] {A}\n- [x] {B}",
    "quoted block": f"> {A}\n>\n> {B}",
    "bold": f"**{A}**\n\n**{B}**",
    "bold numbers": f"**1. {A}**\n**2. {B}**",
    "bold number alone": f"**1.** {A}\n**2.** {B}",
    "bold in numbers": f"1. **{A}**\n2. **{B}**",
    "italic": f"1. *{A}*\n2. *{B}*",
    "quotes": f'1. "{A}"\n2. "{B}"',
    "curly quotes": f"1. \u201c{A}\u201d\n2. \u201c{B}\u201d",
    "quoted lines with commas": f'"{A}",\n"{B}"',
    "Q labels": f"Q1: {A}\nQ2: {B}",
    "Q labels with dots": f"Q1. {A}\n\nQ2. {B}",
    "question labels": f"Question 1: {A}\nQuestion 2: {B}",
    "labels of total": f"Question 1 of 2: {A}\nQuestion 2 of 2: {B}",
    "labels with kinds": f"Question 1 (easy): {A}\nQuestion 2 (hard): {B}",
    "bold labels": f"**Question 1:** {A}\n\n**Question 2:** {B}",
    "labels on lines of their own": f"Question 1:\n{A}\n\nQuestion 2:\n{B}",
    "label headings": f"### Question 1\n{A}\n\n### Question 2\n\n{B}",
    "bold label lines": f"**Question 1**\n\n{A}\n\n**Question 2**\n\n{B}",
    "number and label": f"1. Question: {A}\n2. Question: {B}",
    "German labels": f"Frage 1: {A}\nFrage 2: {B}",
    "Chinese labels": f"\u95ee\u98981\uff1a{A}\n\u95ee\u98982\uff1a{B}",
    "preamble": f"Here are two questions:\n\n1. {A}\n2. {B}",
    "preamble, bare lines": f"Here are two questions based on the context:\n{A}\n{B}",
    "preamble without a colon": f"Sure, I can help with that.\n{A}\n{B}",
    "preamble in French": f"Voici deux questions :\n{A}\n{B}",
    "preamble on the same line": f"Sure! Here are two questions: 1. {A} 2. {B}",
    "all on one line": f"1. {A} 2. {B}",
    "sentences on one line": f"{A} {B}",
    "closing": f"1. {A}\n2. {B}\n\nLet me know if you need more!",
    "closing offer": f"{A}\n{B}\nWould you like me to generate more questions?",
    "closing remark": f"1. {A}\n2. {B}\n\nThese questions cover different parts of the text.",
    "heading": f"# Quiz Questions\n\n1. {A}\n2. {B}",
    "bold heading": f"**Quiz:**\n\n{A}\n{B}",
    "sections": f"**Easy**\n- {A}\n\n**Hard**\n- {B}",
    "rules": f"---\n{A}\n---\n{B}\n---",
    "fence": f"```\n1. {A}\n2. {B}\n```",
    "topics with questions below": f"1. Revenue\n   - {A}\n2. Costs\n   - {B}",
    "topics, then bare questions": f"1. Revenue\n{A}\n2. Costs\n{B}",
    "bold topics": f"1. **Revenue:** {A}\n2. **Costs**: {B}",
    "kinds": f"1. (Easy) {A}\n2. [Inference] {B}",
    "kinds as words": f"1. Multiple choice: {A}\n2. Short answer question: {B}",
    "points": f"1. {A} (5 points)\n2. {B} [10 marks]",
    "options": f"1. {A}\n   a) 3 billion\n   b) 4 billion\n2. {B}\n   a) up\n   b) down",
    "options of bare questions": f"{A}\nA) 3 billion\nB) 4 billion\n\n{B}\nA) up\nB) down",
    "explanations below": f"- {A}\n  - Tests recall of a figure.\n- {B}\n  - Tests inference.",
    "notes": f"1. {A}\nDifficulty: easy\n2. {B}\n**Rationale:** it links two facts.",
    "answers below": f"1. {A}\nAnswer: 3.2 billion.\n2. {B}\n**Answer:** They fell.",
    "answers inline": f"1. {A} (Answer: 3.2 billion)\n2. {B} Answer: They fell.",
    "Q and A": f"Q: {A}\nA: 3.2 billion.\n\nQ: {B}\nA: They fell.",
    "wrapped": f"1. What was Lyft's\n   revenue in 2021?\n2. {B[:14]}\n   {B[15:]}",
    "wrapped, bare": f"What was Lyft's\nrevenue in 2021?\n\n{B[:20]}\n{B[21:]}",
    "JSON list": json.dumps([A, B]),
    "JSON object": json.dumps({"questions": [A, B]}, indent=2),
    "JSON objects": json.dumps([{"question": A, "answer": "3"}, {"question": B, "answer": "4"}]),
    "JSON numbered keys": json.dumps({"question1": A, "question2": B}),
    "JSON with topics": json.dumps({"topic": "Sums", "questions": [{"id": "q1", "text": A}, B]}),
    "JSON questions as keys": json.dumps({A: "3.2 billion", B: "They fell"}),
    "JSON with options": json.dumps([{"question": A, "options": ["3", "4"]}, {"question": B}]),
    "JSON in a fence": f"Here you go:\n```json\n{json.dumps([A, B])}\n```\nEnjoy, it's done!",
    "JSON in a sentence": f"Here are the questions: {json.dumps([A, B])}",
    "JSON lines": f'{{"question": "{A}"}}\n{{"question": "{B}"}}',
    "JSON, last comma": f'[\n  "{A}",\n  "{B}",\n]',
    "JSON, cut off": f'{{"questions": ["{A}", "{B}", "Which thi',
    "Python list": repr([A, B]),
    "Python assignment": f"questions = {[A, B]!r}",
    "tags": f"<questions>\n<question>{A}</question>\n<question>{B}</question>\n</questions>",
    "list tags": f"<ol><li>{A}</li><li>{B}</li></ol>",
    "line breaks": f"{A}<br>{B}",
    "table": f"| # | Question |\n|---|---|\n| 1 | {A} |\n| 2 | {B} |",
    "YAML": f"questions:\n  - question: {A}\n    answer: 3.2 billion\n  - question: {B}",
    "thoughts": f"<think>\nShould I ask: What is Lyft?\n</think>\n\n{A}\n{B}",
    "thoughts, opened by the prompt": f"1. What is Lyft?\nNo.\n</think>\n{A}\n{B}",
    "role": f"Assistant: 1. {A}\n2. {B}",
    "special tokens": f"1. {A}\n2. {B}<|eot_id|>",
    "answer key": f"1. {A}\n2. {B}\n\n**Answer Key:**\n1. 3.2 billion\n2. They fell.",
    "rationales after all": f"* {A}\n* {B}\n\n**Rationale:**\n* The first tests recall.",
    "kinds before Question": f"1. Factual Question: {A}\n2. Inferential Question: {B}",
    "labels with ordinals": f"First question: {A}\nSecond question: {B}",
    "labels between rules": f"--- Question 1 ---\n{A}\n\n--- Question 2 ---\n{B}",
    "quoted in a sentence": f'Here are two: "{A}" and "{B}"',
    "arrows": f"-> {A}\n-> {B}",
    "JSON with other keys": json.dumps({"easy": A, "hard": B}),
    "JSON with numbers inside": json.dumps([f"1. {A}", f"2. {B}"]),
    "JSON with remarks that ask": json.dumps([{"question": A, "note": "Fair? Yes."}, {"q": B}]),
    "line breaks escaped": f"1. {A}\\n2. {B}",
    "Japanese bullets": f"\u30fb{A}\n\u30fb{B}",
    "numbers in full-width brackets": f"\uff08\uff11\uff09{A}\n\uff08\uff12\uff09{B}",
    "Turkish labels": f"Soru 1: {A}\nSoru 2: {B}",
    "Vietnamese labels": f"Câu hỏi 1: {A}\nCâu hỏi 2: {B}",
    "Hindi labels": f"प्रश्न 1: {A}\nप्रश्न 2: {B}",
    "Thai labels": f"คำถามที่ 1: {A}\nคำถามที่ 2: {B}",
    "items": f"<items><item>{A}</item><item>{B}</item></items>",
    "repeats": f"1. {A}\n2. {A.lower()}\n3. {B}",
}


@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_two_questions_are_found_in_every_shape(answer):
    """Whatever a model puts around its two questions, exactly the two come out."""
    assert [question.text for question in parse_questions(answer, 2)] == [A, B]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", []),
        ("\n---\n```\n", []),
        ("I'm sorry, but I can't generate questions from this text.", []),
        ("The context does not hold enough information.", []),
        (f"1. {A}", [A]),
        (f"{A}\n{B}\n{C}", [A, B, C]),
        ("1. Explain the loss.\n2. What is EBITDA?", ["Explain the loss.", "What is EBITDA?"]),
        ("Explain the loss.\nWhat is EBITDA?", ["Explain the loss.", "What is EBITDA?"]),
        ("Keywords:\n* lyft revenue\n* uber costs", ["lyft revenue", "uber costs"]),
        (
            "M. bovis spreads.\nC. elegans is a worm.",
            ["M. bovis spreads.", "C. elegans is a worm."],
        ),
        ("No questions can be written about this.", []),
        (
            f"1. In 2021 the company acquired Z.\n   {A}\n2. {B}",
            [f"In 2021 the company acquired Z. {A}", B],
        ),
        (f"1. Photosynthesis basics:\n   {A}\n2. Factual.\n   {B}", [A, B]),
        ("Is A true? Yes or no?", ["Is A true? Yes or no?"]),
        (
            "True or false: A is b? True or false: C is d?",
            ["A is b?", "C is d?"],
        ),
        (f"1. <none>\n2. N / A\n3. {A}", [A]),
        (f"Is it clear?\n{A}\nWould you like more questions?", ["Is it clear?", A]),
        ("lyft revenue 2021\nuber driver costs", ["lyft revenue 2021", "uber driver costs"]),
        ("1. lyft revenue\n2. uber costs", ["lyft revenue", "uber costs"]),
        ("Pod eviction\nnode pressure", ["Pod eviction", "node pressure"]),
        ("longest rivers\nsource of the nile", ["longest rivers", "source of the nile"]),
        ("1. purpose of rna\n2. type of cloud", ["purpose of rna", "type of cloud"]),
        ("great barrier reef\nslow sql queries", ["great barrier reef", "slow sql queries"]),
        ("The document object model\ncpa exam", ["The document object model", "cpa exam"]),
        ("Here are some\nreef age\nreef size", ["reef age", "reef size"]),
        ("lyft revenue 2021\nhow did uber do?", ["lyft revenue 2021", "how did uber do?"]),
        ("What is a reef?\nIt tests recall.", ["What is a reef?"]),
        ("What is a reef?\nA ridge", ["What is a reef?"]),
        ("Explain these two:\nreef age", ["Explain these two:", "reef age"]),
        ("What is a reef?\nreef age", ["What is a reef?", "reef age"]),
        ("Reef age\nWhat is a reef?", ["Reef age", "What is a reef?"]),
        ("Great Britain, when was it?", ["Great Britain, when was it?"]),
        ("Great Depression: why?", ["Great Depression: why?"]),
        (f"Great, here are two:\n{A}\n{B}", [A, B]),
        (f"**Answers for part one:**\n{A}\n{B}", [A, B]),
        ('["lyft revenue", "uber costs"]', ["lyft revenue", "uber costs"]),
        ("2019 sales: what were they?", ["2019 sales: what were they?"]),
        ("3 reasons for growth?\n10-K risks?", ["3 reasons for growth?", "10-K risks?"]),
        ("1.5 million users did what?", ["1.5 million users did what?"]),
        ("['Who is Ann?', 'What\\'s on?',]", ["Who is Ann?", "What's on?"]),
        ('{questions: ["Who is Ann?"]}', ["Who is Ann?"]),
        (
            r'["What does \d mean?", "Who is \d \"Ann\"?"]',
            [r"What does \d mean?", r'Who is \d "Ann"?'],
        ),
        ("[\u201cWho is Ann?\u201d, \u201cWhere?\u201d]", ["Who is Ann?", "Where?"]),
        ('{"questions": "1. Who is Ann?\\n2. Where?"}', ["Who is Ann?", "Where?"]),
        ("| a | b |\n|---|---|\n| x | y |\nWho is Ann?", ["Who is Ann?"]),
        ("What does `[1, 2][0]` give?", ["What does `[1, 2][0]` give?"]),
        ('1. What does x = ["a", "b"] hold?', ['What does x = ["a", "b"] hold?']),
        ("What is **Uber** Freight?", ["What is Uber Freight?"]),
        ("1. ¿Qué pasó?\n2. ¿Por qué?", ["¿Qué pasó?", "¿Por qué?"]),
        ("1. 收入是多少\uff1f\n2. 为什么\uff1f", ["收入是多少\uff1f", "为什么\uff1f"]),
        ("一、收入是多少\uff1f\n二、为什么\uff1f", ["收入是多少\uff1f", "为什么\uff1f"]),
        ("1. ما هو الدخل؟\n2. لماذا؟", ["ما هو الدخل؟", "لماذا؟"]),
    ],
)
def test_answers_of_other_counts_and_languages(answer, expected):
    """Refusals hold nothing; numbers, code and punctuation that belong to a question stay."""
    assert [question.text for question in parse_questions(answer, 2)] == expected


@pytest.mark.parametrize(
    "answer",
    [
        f"1. {A}\nAnswer: 3.2 billion.\n2. {B}\n**Answer:** They fell.",
        f"Q: {A}\nA: 3.2 billion.\n\nQ: {B}\nA: They fell.",
        f"1. {A}\nAnswer:\n3.2 billion.\n2. {B}\n\n**Answer**\n\nThey fell.",
        f"1. {A}\n*Answer: 3.2 billion.*\n2. {B}\n_Answer:_ They fell.",
        f"1. {A}\nAnswer: 3.2\nbillion.\n2. {B}\nAnswer: They\nfell.",
        f"1. {A} (Answer: 3.2 billion.)\n2. {B} Answer: They fell.",
        json.dumps([{"question": A, "answer": "3.2 billion."}, {"q": B, "a": "They fell."}]),
        json.dumps({A: "3.2 billion.", B: "They fell."}),
        f"<question>{A}</question><answer>3.2 billion.</answer>"
        f"<question>{B}</question><answer>They fell.</answer>",
        f"| Question | Answer |\n|---|---|\n| {A} | 3.2 billion. |\n| {B} | They fell. |",
    ],
)
def test_answers_stay_with_their_questions(answer):
    """An answer that follows a question is kept with it."""
    assert parse_questions(answer, 2) == [(A, "3.2 billion."), (B, "They fell.")]


def test_a_query_below_an_answer_is_the_next_one():
    """A line without a question mark is no rest of the answer where questions are plain lines."""
    answer = (
        "what is a heat pump?\nAnswer: a device that moves heat\n"
        "heat pump cost per year\nAnswer: 500 dollars\n"
        "best heat pump for cold climates\nAnswer: an inverter model"
    )
    assert parse_questions(answer, 3) == [
        ("what is a heat pump?", "a device that moves heat"),
        ("heat pump cost per year", "500 dollars"),
        ("best heat pump for cold climates", "an inverter model"),
    ]


def test_an_answer_with_parts_is_kept_whole():
    """The parts below it are no questions, and the next question keeps its own answer."""
    answer = f"1. {A}\nAnswer: They are:\n- low cost;\n- Identify yourself\n2. {B}\nAnswer: big"
    assert parse_questions(answer, 2) == [(A, "They are: low cost; Identify yourself"), (B, "big")]
    for below in (
        "   1. rides\n   2. bikes\n",
        "1) rides\n2) bikes\n\n",
        "   \u2022 rides\n   \u2022 bikes\n",
    ):
        answer = f"1. {A}\nAnswer: They are:\n{below}2. {B}\nAnswer: big"
        assert parse_questions(answer, 2) == [(A, "They are: rides bikes"), (B, "big")]
    keywords = "1. benefits of solar\nAnswer: They are:\n- low cost\n2. effects\nAnswer: big"
    assert parse_questions(keywords, 2) == [
        ("benefits of solar", "They are: low cost"),
        ("effects", "big"),
    ]


@given(st.text(), st.integers(1, 5))
@example("\U0001f210", 1)
@example("[" * 3000, 2)
@example('{"' * 3000, 2)
@example("1. " * 3000, 2)
@example("** __" * 2000, 2)
def test_any_text_parses(answer, limit):
    """No answer breaks the parser; what comes out has letters and occurs once."""
    texts = [question.text for question in parse_questions(answer, limit)]
    assert len(set(texts)) == len(texts)
    assert all(any(character.isalnum() for character in text) for text in texts)


LONG = {
    "a string with underscores": ('["What is ', "_"),
    "a string of one word": ('["', "a"),
    "a string with escaped quotes": ('["', '\\"'),
    "a string with apostrophes": ("['", "'a"),
    "curly quotes": ("[", "\u201cWhat "),
    "bold labels": ("", "**a: "),
    "emphasis tags": ("", "<b>"),
    "question tags": ("", "<question>"),
    "list tags": ("", "<li>What is x? "),
    "lines of one sentence": ("A", "a\n"),
    "wide spaces": ("# ", "\u3000"),
    "a note": ("Note of ", "_"),
    "brackets": ("x ", "?()"),
}


def seconds_to_parse(answer):
    """Return the processor's time for one answer, which other processes do not lengthen."""
    start = time.process_time()
    parse_questions(answer + "!", 2)
    return time.process_time() - start


@pytest.mark.parametrize(("start", "unit"), LONG.values(), ids=LONG)
def test_a_long_answer_that_was_cut_off_is_read_once(start, unit):
    """400 kB that never close what they open take as long as twenty times 20 kB, not 400."""
    short, long = (start + unit * (size // len(unit)) for size in (20_000, 400_000))
    usual = max(0.02, *(seconds_to_parse(short) for _ in range(3)))
    assert seconds_to_parse(long) < 120 * usual


@pytest.mark.parametrize(
    "answer",
    [
        '{"search_terms": ["rivers in france", "longest river"]}',
        '```json\n{\n  "phrases": [\n    "rivers in france",\n    "longest river"\n  ]\n}\n```',
        '[{"title": "rivers in france", "level": 1}, {"title": "longest river", "level": 2}]',
        '{"phrase": "rivers in france"}\n{"phrase": "longest river"}',
        '{"title": "Rivers", "items": ["rivers in france", "longest river"]}',
        '{"first": "rivers in france", "second": "longest river"}',
        '{"status": "ok", "output": ["rivers in france", "longest river"], "count": 2}',
    ],
)
def test_keywords_under_any_key(answer):
    """Where an answer is nothing but JSON, its longest list is what was asked for."""
    found = [question.text for question in parse_questions(answer, 2)]
    assert found == ["rivers in france", "longest river"]


@pytest.mark.parametrize(
    "answer",
    [
        "N/A",
        "n/a.",
        "None",
        "(no questions)",
        "No relevant questions found.",
        "- None\n- None",
        "1. N/A\n2. N/A",
        '["N/A"]',
        '{"questions": ["None"]}',
        "[]",
        "null",
        "Keine Fragen",
        "Insufficient context",
        "Not enough information to write questions.",
        "Unable to generate questions from this.",
        "As the text consists only of page numbers, no meaningful questions can be formed.",
        "I'm sorry, but this is only a page number. Could you please provide the full text?",
        "I'm sorry, but this is too short.\n\nCould you please provide more of it?",
        "I don't see any text to create questions from. Could you please paste it?",
        "Unfortunately, the passage is too short. Could you provide more context?",
        "The text contains only numbers. Would you like me to write about them?",
        "Could you please paste the text here so that I can write the questions?",
        '{"error": "The context is too short"}',
        '["I\'m sorry, could you provide the text?"]',
    ],
)
def test_words_for_nothing_are_no_questions(answer):
    """What a model writes or asks where it has no question does not become a query."""
    assert parse_questions(answer, 2) == []


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("What does None mean in Python?", "What does None mean in Python?"),
        ("Could you provide details on the tariffs of 2021?",) * 2,
        ("Insufficient contextual fear conditioning",) * 2,
        ("unable to create virtual environment python",) * 2,
        ("not enough data to train model",) * 2,
        ("I need a visa for Japan, can you give me the requirements?",) * 2,
        ("There is no warranty on used parts, can you send them back?",) * 2,
        ("This text describes three phases. Could you give an example of each phase?",) * 2,
        ("The context menu is gone, would you like to restore it?",) * 2,
        ("_source: false in elasticsearch",) * 2,
        ("How do I close <p> tags?", "How do I close <p> tags?"),
        ("<p>Who <b>is</b> Ann?</p>", "Who is Ann?"),
        ("<li>Who is <question>Ann?</question></li>", "Ann?"),
        ('["Who is Ann?", "Where did sh', "Who is Ann?"),
    ],
)
def test_what_looks_alike_stays(answer, expected):
    """A question about such a word or tag is one; tags in pairs are taken off."""
    assert [question.text for question in parse_questions(answer, 2)] == [expected]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("What does x > 0 mean?", "What does x < 0 mean?", False),
        ("What is 3 - 4?", "What is 3 / 4?", False),
        (
            "\u0926\u093f\u0928 \u0915\u094d\u092f\u093e \u0939\u0948?",
            "\u0926\u093e\u0928 \u0915\u094d\u092f\u093e \u0939\u0948?",
            False,
        ),
        ("What is state-of-the-art?", "what is state of the art", True),
        ("What if x=3?", "What if x = 3?", True),
        ("Who won - and why?", "Who won, and why?", True),
        ("**Who** founded it?", "Who founded it?", True),
    ],
)
def test_equal_questions(first, second, same):
    """Case, punctuation and spaces do not tell questions apart; operators and vowel signs do."""
    assert len(parse_questions(f"1. {first}\n2. {second}", 2)) == (1 if same else 2)


@pytest.mark.parametrize(
    "line",
    [
        "Can I add a driver to my policy?",
        "Can I create more than one account?",
        "Should I make quarterly tax payments?",
        "Should I add more protein to my diet?",
        "Do you need a permit for more than two days?",
        "Do you need help filing taxes?",
        "Do you need to answer police questions?",
        "Do you want to know more about Pluto?",
        "Would you need more RAM to run Llama 3?",
        "need more storage on iphone",
        "any more seasons of lost",
        "How does this work in Python 3?",
        "Is this fine for GDPR?",
        "Is there anything more reliable than RAID 5?",
        "Is there anything else I need for a passport?",
        "Is there any more evidence of water on Mars?",
    ],
)
def test_questions_that_begin_like_offers_stay(line):
    """What is asked about the document's matter is a question, however it begins."""
    found = [question.text for question in parse_questions(f"{line}\nWhere is it?", 2)]
    assert found == [line, "Where is it?"]


@pytest.mark.parametrize(
    "offer",
    [
        "Would you like more?",
        "Would you like more questions?",
        "Would you like me to rephrase them?",
        "Would you like these questions in another format?",
        "Would you like to adjust these questions?",
        "Do you want answers to these?",
        "Do you need anything else?",
        "Do you need any help?",
        "Do you have any other questions?",
        "Want me to add answers?",
        "Need anything else?",
        "Let me know if you need anything else",
        "Is there anything else I can help you with?",
        "Anything else you'd like?",
        "Any more questions?",
        "Should I add more?",
        "Shall I create more questions?",
        "Should I provide the answers?",
        "Can I help you with anything else?",
        "May I help?",
        "Does this help?",
        "Do these questions look good?",
        "How does this look?",
        "Are these okay?",
        "Is this what you wanted?",
    ],
)
def test_offers_are_no_questions(offer):
    """What a model offers to do next is left out."""
    found = [question.text for question in parse_questions(f"{A}\n{B}\n\n{offer}", 2)]
    assert found == [A, B]


CODE = [
    "What does the __init__ method do?",
    "What does `__init__` do, and `__str__`?",
    "When is __str__ called instead of __repr__?",
    "__init__: what does it do?",
    "What is 2**3 and 3**2?",
    "How do *args and **kwargs differ from **options?",
    "What do f(**a) and g(**b) share?",
]


@pytest.mark.parametrize("text", CODE)
def test_underscores_and_powers_stay(text):
    """Marks that are part of code are not taken for bold, whatever the answer's shape."""
    for answer in (text, f"1. {text}", json.dumps([text]), json.dumps({"question": text})):
        assert [question.text for question in parse_questions(answer, 1)] == [text]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("__Who was Ann?__", "Who was Ann?"),
        ("***Who was Ann?***", "Who was Ann?"),
        ("Who was **Ann**, and **Bob**?", "Who was Ann, and Bob?"),
        ("什么是**优步**的收入\uff1f", "什么是优步的收入\uff1f"),
        ("__Main topic:__ Who was Ann?", "Who was Ann?"),
    ],
)
def test_bold_is_taken_off(answer, expected):
    """Bold around words goes, also where no blanks part the words."""
    assert [question.text for question in parse_questions(answer, 1)] == [expected]


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps([{"answer": "x", "question": A}, {"answer": "y", "question": B}]),
        json.dumps({"questions": [A, B], "answers": ["x", "y"]}),
        json.dumps({"answers": ["x", "y"], "questions": [A, B]}),
        json.dumps({"a1": "x", "a2": "y", "q1": A, "q2": B}),
        json.dumps({"1": {"answer": "x", "question": A}, "2": {"answer": "y", "question": B}}),
        json.dumps([{"correctAnswer": c, "questionText": q} for c, q in (("x", A), ("y", B))]),
        f"Answer: x\nQuestion: {A}\nAnswer: y\nQuestion: {B}",
        f"A: x\nQ: {A}\n\nA: y\nQ: {B}",
        f"1. Answer: x\n   Question: {A}\n2. Answer: y\n   Question: {B}",
        f"Answer: x\nQuestion:\n{A}\nAnswer: y\nQuestion:\n{B}",
        f"{A}\n{B}\nAnswer 1: x\nAnswer 2: y",
        f"{A}\n{B}\n\nAnswer 2: y\nAnswer 1: x",
        f"{A}\n{B}\n\nAnswer: x\nAnswer: y",
        f"1. {A}\n2. {B}\n\nAnswers:\n1. x\n2. y",
        f"{A}\n{B}\n\n**Answers**\nx\ny\n\nLet me know if you need more.",
    ],
)
def test_answers_that_stand_elsewhere_find_their_questions(answer):
    """An answer before its question, or in a list of its own, goes to no other question."""
    assert parse_questions(answer, 2) == [(A, "x"), (B, "y")]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json.dumps({"questions": [A, B], "answers": ["x"]}), [None, None]),
        (
            json.dumps([{"answer": "x", "q": A}, {"q": B}, {"answer": "z", "q": C}]),
            ["x", None, "z"],
        ),
        (json.dumps({"q1": A, "q2": B, "a2": "y"}), [None, "y"]),
        (json.dumps({"question": A, "answer": ["x", "z"]}), ["x"]),
        (f"{A}\n{B}\n{C}\nAnswer: x\nAnswer: y", [None, None, None]),
        (f"{A}\n{B}\nAnswer 1: x", [None, None]),
        (f"Q1: {A}\nQ2: {B}\nA2: y", [None, "y"]),
        (f"Q5: {A}\nA5: x\nQ6: {B}\nA6: y", ["x", "y"]),
        (f"1. {A}\n2. {B}\n\nAnswer key:\n1. x", [None, None]),
        (f"1. {A}\nExplanation:\nIt links two facts.\n2. {B}", [None, None]),
    ],
)
def test_no_question_gets_the_answer_of_another(answer, expected):
    """Where it is not clear whose an answer is, nobody gets it."""
    assert [question.answer for question in parse_questions(answer, 3)] == expected


KEYS = (
    "queries search_queries searchQueries search_terms searchTerms keyword_queries "
    "hypothetical_questions generatedQueries search_phrases queries_list keywords results output"
).split()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("indent", [None, 2])
def test_keywords_in_json_below_a_sentence(key, indent):
    """JSON below a line of words is read as JSON, with any key and without question marks."""
    queries = ["heat pump cost", "best heat pump"]
    data = json.dumps({key: queries}, indent=indent)
    for answer in (
        f"Here are the queries:\n{data}",
        f"Here are the queries:\n\n```json\n{data}\n```\nLet me know if you need more!",
        f"Here are the queries:\n{data}\n\nWould you like more queries?",
    ):
        assert [question.text for question in parse_questions(answer, 2)] == queries


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('Here are the queries:\n["heat pump cost", "best"]', ["heat pump cost", "best"]),
        ('{"searchQueries": ["heat pump cost", "how?"]}', ["heat pump cost", "how?"]),
        ('{"exam_questions": ["Explain x.", "What is y?"]}', ["Explain x.", "What is y?"]),
        ('[{"intent": "buy", "search_phrase": "heat pump"}]', ["heat pump"]),
        ('[{"question": "Who?", "key_terms": ["p", "q"]}]', ["Who?"]),
        ('{"number_of_questions": "1", "questions": ["Explain x."]}', ["Explain x."]),
        (
            '1. What does this print?\n```python\nx = ["a", "b"]\n```\n2. Why?',
            ["What does this print?", "Why?"],
        ),
        ('{"name": "Ann"} in json\nyaml lists', ['{"name": "Ann"} in json', "yaml lists"]),
        ('json like {"a": "b"}\nyaml lists', ['json like {"a": "b"}', "yaml lists"]),
    ],
)
def test_json_and_code_are_told_apart(answer, expected):
    """Lists of queries are read; brackets that a question speaks of stay, and remarks go."""
    assert [question.text for question in parse_questions(answer, 2)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "What does the <think> tag do in DeepSeek R1?",
        "How do I treat </think>?",
        "What goes between <think>...</think>?",
        "What is <thinking>?",
        "What does <br> do?",
        "How do `<br>` and <br/> differ?",
        "What is </s>?",
        "What does [INST] do?",
        "What is <|im_start|> for?",
    ],
)
def test_tags_that_a_question_speaks_of_stay(text):
    """Nothing is cut out of a question, nor is the one before or behind it lost."""
    found = [question.text for question in parse_questions(f"{A}\n{text}\n{B}", 3)]
    assert found == [A, text, B]


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>Who?</think>{A}\n<think>b?</think>{B}",
        f"[THINK]Who?\nWhy?[/THINK]\n{A}\n{B}",
        f"<seed:think>Who?</seed:think>{A}\n{B}",
        f"\u25c1think\u25b7Who?\n\u25c1/think\u25b7\n{A}\n{B}",
        f"<analysis>\nWho?\n</analysis>\n{A}\n{B}",
        f"I ask: Who?</think>\n\n{A}\n{B}",
        f"I ask:\nWho?\n[/THINK]\n{A}\n{B}",
        f"<s>[INST] {A}\n{B}</s><|eot_id|>",
        f"<br>{A}<br/><br/>{B}<br>",
        f"1. {A} <br> 2. {B}",
    ],
)
def test_thoughts_and_marks_of_models_go(answer):
    """Thoughts, marks of turns and line breaks are left out, in each way models write them."""
    assert [question.text for question in parse_questions(answer, 2)] == [A, B]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            "Given that Uber operates in 70 countries,\nwhat was its revenue in 2021?",
            ["Given that Uber operates in 70 countries, what was its revenue in 2021?"],
        ),
        ("uber costs,\nhow did lyft do?", ["uber costs,", "how did lyft do?"]),
        ("#1 song 2020\n#2 pencil", ["#1 song 2020", "#2 pencil"]),
        ("#define in c\n#include order", ["#define in c", "#include order"]),
        ("# Reefs\nreef age\n##Size\nreef size", ["reef age", "reef size"]),
        ("سوال \u06f1: درآمد؟\n\u0633\u0648\u0627\u0644 ۲: چر\u0627؟", ["درآمد؟", "چر\u0627؟"]),
        (
            "\\begin{enumerate}\n\\item reef age\n\\item reef size\n\\end{enumerate}",
            ["reef age", "reef size"],
        ),
    ],
)
def test_lines_that_are_joined_or_marked(answer, expected):
    """A sentence goes on behind a comma, a heading has a blank, a label and a LaTeX item go."""
    assert [question.text for question in parse_questions(answer, 2)] == expected


REFUSALS = [
    "What would you like me to do with this text?",
    "Could you clarify what you would like me to do with this text?",
    "Could you please clarify what you'd like me to ask about?",
    "This appears to be a table of contents with no substantive content.",
    "This appears to be a table of contents. What would you like me to do with it?",
    "It seems that the text is only a list of page numbers.",
    "I need more text to create the questions. Please share the full passage.",
    "Cannot generate questions: insufficient text.",
    "We cannot generate questions without content.",
    "Given the limited content, I can't form exam questions.",
    "There are no facts here to ask about.",
    "There isn't enough information in the text to write two questions.",
    "No text was given.",
    "[No questions can be generated from the text.]",
    "SKIP",
    "Unable to comply.",
    "My apologies, but I can't do that.",
    "Leider kann ich zu diesem Inhalt keine Fragen formulieren.",
    "Es tut mir leid, aber der Text enthält nicht genügend Informationen.",
    "Es tut mir leid, aber ich kann nicht helfen. Könnten Sie mir mehr Text geben?",
    "Ich kann aus diesem Text keine Fragen erstellen.",
    "Désolé, mais je ne peux pas générer de questions à partir de ce texte.",
    "Je suis désolée, mais le texte ne contient pas assez d'informations.",
    "Je ne peux pas générer de questions sans texte.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Lo siento, no puedo generar preguntas. ¿Podrías compartir el texto completo?",
    "No puedo generar preguntas sobre este contenido.",
    "Desculpe, mas não posso gerar perguntas a partir deste texto.",
    "Não consigo criar perguntas com este conteúdo.",
    "Mi dispiace, ma non posso generare domande da questo testo.",
    "Non posso formulare domande su questo testo.",
    "Helaas kan ik geen vragen over deze tekst maken.",
    "\u041a сожалению, я не могу составить вопросы по этому тексту.",
    "\u041d\u0435 могу создать вопросы по этому тексту.",
    "抱歉\uff0c我无法根据该文本生成问题。",
    "我无法根据此内容生成问题。",
    "申し訳ありませんが、このテキストから質問を作成することはできません。",
    "申し訳ありません。お手伝いできません。",
    "このテキストから質問を作成することはできません。",
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refusals_are_no_questions(refusal):
    """What a model says that refuses, or was given too little, is none, in any shape."""
    for answer in (refusal, f"1. {refusal}", json.dumps([refusal])):
        assert parse_questions(answer, 2) == []


@pytest.mark.parametrize(
    "text",
    [
        "What would you do with this text?",
        "what would you like me to say lyrics",
        "Could you clarify the tax rules of 2021?",
        "What does a skip level meeting mean?",
        "skip bin hire prices",
        "This is a table of contents, what is it for?",
        "I need more information about tariffs",
        "There are no free lunches.",
        "cannot create questions in google forms",
        "unable to create queries from the api",
        "Explain why we cannot create queries without keys.",
        "Why does it say that no text was provided?",
        "my apologies in french",
        "unable to sleep causes",
        "it does not contain sugar",
        "Sorry seems to be the hardest word lyrics",
        "leider kein anschluss unter dieser nummer",
        "Leider funktioniert mein Drucker nicht.",
        "Warum kann ich keine Fragen stellen?",
        "Es tut mir leid auf englisch",
        "Désolé, comment dit-on en anglais ?",
        "Je ne peux pas me connecter à mon compte.",
        "Lo siento, mi amor letra",
        "No puedo iniciar sesión en mi cuenta.",
        "¿Por qué no puedo generar preguntas en Kahoot?",
        "Explique por qué no se pueden crear consultas sin clave.",
        "Não consigo acessar minha conta.",
        "Mi dispiace devo andare testo",
        "\u041a сожалению запятая",
        "Почему я не могу создать запрос?",
        "抱歉用英语怎么说",
        "说明无法生成查询计划的原因。",
        "申し訳ありませんの意味は何ですか\uff1f",
        "なぜ質問を作成できませんか\uff1f",
    ],
)
def test_what_resembles_a_refusal_stays(text):
    """An ordinary question or query is kept, whatever words of a refusal it has."""
    for answer in (text, f"1. {text}", json.dumps([text])):
        assert [question.text for question in parse_questions(answer, 2)] == [text]


@given(
    st.lists(
        st.sampled_from(
            "Answer:|Answers:|Answer 1: |A: |Q: |Question 1: |\n|1. |- |# |##|**|__|{|}|[|]|\"|'|"
            ": |, |question|queries|What is x?|heat pump|<think>|</think>|[/THINK]|<br>|</s>|"
            "\\item |Lo siento, |no puedo. |\ud800|\u0663|\u00b2".split("|")
        ),
        max_size=20,
    ),
    st.integers(1, 3),
)
def test_any_mix_of_marks_parses(parts, limit):
    """Labels, brackets and tags in a senseless order raise nothing."""
    parse_questions("".join(parts), limit)


@pytest.mark.parametrize(
    "text",
    [
        r"What is the value of $\frac{a}{b}$ when $\theta = 0$?",
        r"How does $\nabla f$ relate to $\beta$, $\rho$ and $\tau$?",
        r"Is $a \neq b$, $\nu_1 \times \text{max} \to 0$?",
        r"What is stored in C:\temp\new?",
        r"What does \bfoo\b match, and \d+?",
    ],
)
def test_backslashes_that_json_should_have_doubled(text):
    """LaTeX, paths and patterns come out as they are, doubled or not."""
    for written in (text, text.replace("\\", "\\\\")):
        assert [one.text for one in parse_questions(f'{{"questions": ["{written}"]}}', 1)] == [text]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r'{"queries": "heat pump cost\nbest pump\nnew"}', ["heat pump cost", "best pump", "new"]),
        (r'["Caf\u00e9 in\tParis?", "What?\r\nWhy?"]', ["Café in Paris?", "What?", "Why?"]),
        (r'["Who is \u0007 Ann\u0000?"]', ["Who is Ann ?"]),
        ("1. Who is\x08Ann?\n2. Where\x00?", ["Who is Ann?", "Where ?"]),
    ],
)  # fmt: skip
def test_escapes_of_json(answer, expected):
    """Line breaks, tabs and letters are what JSON means; no control character is in a question."""
    assert [question.text for question in parse_questions(answer, 3)] == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("How do I reset my password\nforgot password acme",) * 2,
        ("Who founded Acme\nwhen was Acme founded\nAcme founder",) * 2,
        (
            "What is the name of the firm\nthat was founded in 1998\nby two students?",
            "What is the name of the firm that was founded in 1998 by two students?",
        ),
    ],
)
def test_plain_lines_are_one_question_only_if_it_ends(answer, expected):
    """Queries without question marks stay apart; a question on three lines is one."""
    found = [question.text for question in parse_questions(answer, 3)]
    assert found == expected.split("\n")


@pytest.mark.parametrize(
    ("answer", "limit", "expected"),
    [
        # Tags behind an introduction, or with signs between them.
        (
            "Sure! <ol><li>Who is Ann?</li><li>Who is Bob?</li></ol>",
            2,
            ["Who is Ann?", "Who is Bob?"],
        ),
        (
            "<p>Here are two questions:</p><ol><li>Who is Ann?</li><li>Who is Bob?</li></ol>",
            2,
            ["Who is Ann?", "Who is Bob?"],
        ),
        (
            "Here are the queries: <query>heat pump cost</query>, <query>best heat pump</query>",
            2,
            ["heat pump cost", "best heat pump"],
        ),
        # A list whose first number stood in the prompt.
        ("Can cats fly?\n2. Is water wet?", 2, ["Can cats fly?", "Is water wet?"]),
        ("Was ist Strom?\n2. Wie entsteht Wind?", 2, ["Was ist Strom?", "Wie entsteht Wind?"]),
        ("What is the capital of France?\n1. Paris", 2, ["What is the capital of France?"]),
        # Emphasis over several words, and breaks inside a paragraph.
        (
            "1. What is <strong>the difference between alpha and beta particles</strong>?\n2. Why?",
            2,
            ["What is the difference between alpha and beta particles?", "Why?"],
        ),
        ("<p>Who is Ann?<br>Who is Bob?</p>", 2, ["Who is Ann?", "Who is Bob?"]),
        # Tasks are no topics of the points below them.
        (
            "- Explain X in detail.\n  - Does it use water?\n- Explain Y.",
            2,
            ["Explain X in detail.", "Does it use water?", "Explain Y."],
        ),
        (
            "Explain how the immune system\nresponds to viral infections",
            1,
            ["Explain how the immune system responds to viral infections"],
        ),
        # A label on a line of its own, a scenario, its question.
        (
            "**Question 1**\nA user wants to reset a password.\nWhat should they do?\n\n"
            "**Question 2**\nMaria has two accounts.\nWhich one is billed?",
            2,
            [
                "A user wants to reset a password. What should they do?",
                "Maria has two accounts. Which one is billed?",
            ],
        ),
    ],
)
def test_shapes_of_answers(answer, limit, expected):
    """Nothing around the questions stays with them."""
    assert [question.text for question in parse_questions(answer, limit)] == expected


@pytest.mark.parametrize(
    "table",
    [
        "Question | Answer\n--- | ---\nWhat is X, or Y? | It is Y\nHow is Z made? | By hand",
        "Here they are:\n\nQuestion | Answer\n--- | ---\nWhat is X, or Y? | It is Y\n"
        "How is Z made? | By hand\n\nLet me know.",
        '"question","answer"\n"What is X, or Y?","It is Y"\n"How is Z made?","By hand"',
        '```csv\nquestion,answer\n"What is X, or Y?",It is Y\nHow is Z made?, By hand\n```',
    ],
)
def test_tables_without_a_frame(table):
    """Markdown needs no outer bars, and a CSV table has none."""
    found = [(question.text, question.answer) for question in parse_questions(table, 2)]
    assert found == [("What is X, or Y?", "It is Y"), ("How is Z made?", "By hand")]


@pytest.mark.parametrize(
    "answer",
    [
        "Question, answer\nWhat is X, or Y?",  # another number of cells
        "What is X | Y?\nHow is Z made?",
    ],
)
def test_what_is_no_table_stays_whole(answer):
    """A comma or a bar makes none."""
    last = answer.splitlines()[-1]
    assert parse_questions(answer, 2)[-1].text == last


@pytest.mark.parametrize(
    ("answer", "first"),
    [
        ("What is printed?\n```\n1, 2\n3, 4\n```\nWhat is the type?", "What is printed?"),
        ("1. Which matrix is symmetric?\n1, 2\n2, 1\n\n2. Why?", "Which matrix is symmetric?"),
        ("What was sold?\n2019,2020\nLyft,Uber\n\nWhy?", "What was sold?"),
        (
            "1. How many rows has this CSV?\n```\nquestion,answer\nWho?,me\nWhat?,you\n```\n"
            "2. How is it read?",
            "How many rows has this CSV?",
        ),
        (
            "What does this SQL return?\n id | text \n----|----\n 1 | x\n 2 | y\nHow is it sorted?",
            "What does this SQL return?",
        ),
        (
            "1. Explain this HTML: <ul><li>a</li><li>b</li></ul>\n2. Explain CSS.",
            "Explain this HTML: <ul><li>a</li><li>b</li></ul>",
        ),
        (
            "What does <p>Hello there my good friend</p> show?",
            "What does <p>Hello there my good friend</p> show?",
        ),
        ("[Question 1: What is x?]", "[Question 1: What is x?]"),
        (
            "- Convert this XML to JSON: <text>hello</text>.\n- Describe XML namespaces.",
            "Convert this XML to JSON: <text>hello</text>.",
        ),
        (
            "1. <li>a</li>, <li>b</li> and <li>c</li>: how do they render?\n2. Why?",
            "<li>a</li>, <li>b</li> and <li>c</li>: how do they render?",
        ),
    ],
)
def test_what_questions_speak_of_is_no_answer(answer, first):
    """Tables, code and tags of a question stay with it, or go, and never stand in its place."""
    assert parse_questions(answer, 2)[0].text == first


@pytest.mark.parametrize(
    ("answer", "limit"),
    [
        ("Here are three queries:\nHow to fix pods\nnode pressure\nkube eviction", 2),
        ("What is x\nhow is y\nwhy z", 2),
        ("How to bake bread\nbread recipe\nsourdough starter\nyeast", 3),
    ],
)
def test_one_query_more_than_asked_for(answer, limit):
    """Lines of keywords stay queries of their own."""
    assert len(parse_questions(answer, limit)) > limit


@pytest.mark.parametrize(
    "label",
    [
        "\u3010\u8cea\u554f1\u3011",
        "\u3010\u95ee\u98981\u3011",
        "\u554f1\uff0e",
        "\u0412\u043e\u043f\u0440\u043e\u0441 \u21161: ",
        "Domanda n. 1: ",
        "Pytanie nr 1: ",
        "C\u00e2u h\u1ecfi s\u1ed1 1: ",
    ],
)
def test_labels_of_questions_in_other_languages(label):
    """Numbers are marked as each language does it."""
    answer = f"{label}Abc?\n{label.replace('1', '2')}Def?"
    assert [question.text for question in parse_questions(answer, 2)] == ["Abc?", "Def?"]


def test_an_answer_below_its_question_behind_a_dash():
    """With a number, or in full."""
    for label in ("A1", "Answer"):
        found = parse_questions(f"What is X?\n{label} - a device that moves heat", 2)
        assert [(q.text, q.answer) for q in found] == [("What is X?", "a device that moves heat")]


@pytest.mark.parametrize(
    "text",
    [
        "How do you write an entry with <li>Item</li> in HTML?",
        "How do you write `<li>Item</li>`?",
        "What is <ul> for, and where does </li> go?",
        "How does the SVG element <text>Hello</text> set its font?",
        "What does <query>SELECT 1</query> do in Hibernate?",
        "What does <q>Who is it?</q> render as in HTML?",
        "What does <div> do?",
        "When is a < b in Python?",
        "What does <b> do?",
        "What does <b>text</b> render, and <i>text</i>?",
        "What is the difference between <em>x</em> and <strong>x</strong>?",
    ],
)
def test_tags_that_are_the_matter_stay(text):
    """A question about HTML or XML comes out as it is, in lines, tags and JSON."""
    for answer in (
        f"{text}\n{B}",
        f"1. {text}\n2. {B}",
        f"<questions>\n<question>{text}</question>\n<question>{B}</question>\n</questions>",
        f"1. <b>{text}</b>\n2. <b>{B}</b>" if "<b>" not in text and "<em>" not in text else text,
        json.dumps([text, B]),
    ):
        assert parse_questions(answer, 2)[0].text == text


@pytest.mark.parametrize(
    "answer",
    [
        f"<p>{A}</p><p>{B}</p>",
        f"<p>\n{A}\n{B}\n</p>",
        f"<p><strong>{A}</strong></p>\n<p><em>{B}</em></p>",
        f"1. <b>{A}</b>\n2. <strong>{B}</strong>",
        f"<ul>\n<li><b>{A}</b></li>\n<li><b>{B}</b></li>\n</ul>",
        f"<b>Question 1:</b> {A}\n<b>Question 2</b>: {B}",
        f"<b>1.</b> {A}\n<b>2.</b> {B}",
        f"<b>Revenue:</b> {A}\n<b>Costs</b>: {B}",
        f"1. <question>{A}</question>\n2. <question>{B}</question>",
        f"<question>\n{A}\n</question>\n<question>\n{B}\n</question>",
        f"- **Revenue**\n  - {A}\n- **Costs**\n  - {B}",
        f"\u200f1. {A}\n\u200f2. {B}",
        f"\u202b1. {A}\u202c\n\u20672. {B}\u2069",
        f"Question n° 1 : {A}\nQuestion n° 2 : {B}",
    ],
)
def test_further_shapes_of_two_questions(answer):
    """Tags around lines and labels, topics above bullets, and marks of direction go."""
    assert [question.text for question in parse_questions(answer, 2)] == [A, B]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Please explain how a heat pump works.\nPlease, describe its parts.",) * 2,
        ("1. FC Köln: Wer ist der Trainer?\nWie heißt das Stadion in Köln?",) * 2,
        ("2. Weltkrieg Beginn Datum\nUrsachen erster Weltkrieg",) * 2,
        ("Who is Ann?\n2. Where is she?", "Who is Ann?\nWhere is she?"),
        ("Lyft\n1. Who founded it?", "Who founded it?"),
        ("1. 收入是多少\uff1f2. 为什么\uff1f", "收入是多少\uff1f\n为什么\uff1f"),
        ("1、收入是多少\uff1f2、为什么\uff1f", "收入是多少\uff1f\n为什么\uff1f"),
        ("paper sizes in europe\nA4 - dimensions in mm",) * 2,
        ("titration of weak acids\nsolution - preparing 0.1 M NaOH",) * 2,
        ("Please provide the text.", ""),
    ],
)
def test_lines_that_begin_like_marks_or_talk(answer, expected):
    """A polite task, an ordinal and a sheet of paper are parts of a question; a number is not."""
    found = [question.text for question in parse_questions(answer, 2)]
    assert found == expected.split("\n") if expected else not found


def test_answers_behind_a_dash():
    """They stay with their questions."""
    answer = f"{A}\nAnswer - 3.2 billion.\n{B}\nAntwort 2 - They fell."
    assert parse_questions(answer, 2) == [(A, "3.2 billion."), (B, "They fell.")]


@pytest.mark.parametrize(
    "answer",
    [
        f"Here are the questions: <question>{A}</question>\n<question>{B}</question>",
        f"Output: <question>{A}</question>; <question>{B}</question>",
        f"<q1>{A}</q1>, <q2>{B}</q2>",
        f"<question>{A}</question> (easy)\n<question>{B}</question> (hard).",
        f"Question 1: <question>{A}</question>\nQuestion 2: <question>{B}</question>",
        f"First, <question>{A}</question>\nThen, <query>{B}</query>.",
        f"**<question>{A}</question>**\n**<question>{B}</question>**",
        f"<question>{A}</question>;\n<question>{B}</question>.",
    ],
)
def test_tagged_questions_beside_other_words(answer):
    """What asks in a tag for questions is one wherever it stands, and leaves its tags."""
    assert [question.text for question in parse_questions(answer, 2)] == [A, B]


def test_answers_in_tags_beside_other_words():
    """They stay with their questions, and keywords may have a remark behind them."""
    answer = f"Q: <question>{A}</question> Answer: <answer>3.2</answer>"
    assert parse_questions(answer, 1) == [(A, "3.2")]
    answer = "<query>heat pump cost</query> (easy)\n<query>best pump</query>."
    found = parse_questions(answer, 2)
    assert [question.text for question in found] == ["heat pump cost", "best pump"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("What is the role of <b>mitochondria</b> in cells?",
         "What is the role of mitochondria in cells?"),
        ("How does <i>E. coli</i> differ from <b>yeast</b>?",
         "How does E. coli differ from yeast?"),
        ("1. <i>What is X?</i> (2 points)\n2. <i>Why X?</i>", "What is X?\nWhy X?"),
        ('["What is <b>DNA</b>?", "Why <i>RNA</i>?"]', "What is DNA?\nWhy RNA?"),
        ("What does the tag in <b>DNA</b> do?",) * 2,
        ("Is `<b>DNA</b>` bold?",) * 2,
        ("What does <b>text</b> do?",) * 2,
    ],
)  # fmt: skip
def test_emphasis_tags_around_a_few_words(answer, expected):
    """They go, unless the question is about HTML."""
    assert [question.text for question in parse_questions(answer, 2)] == expected.split("\n")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"Vitamin C:\nWhat is its role?", "What is its role?"),
        (r"Vitamin C:\nwhat is its role?", "what is its role?"),
        (r"Vitamin C:\n\nwhat is its role?", "what is its role?"),
        (r"Vitamin C:\r\nwhat is its role?", "what is its role?"),
        (r"What is in C:\temp?",) * 2,
        (r"What is in C:\new.txt?",) * 2,
        (r"What is in C:\new\table?",) * 2,
    ],
)
def test_line_breaks_and_paths_in_json(answer, expected):
    """A line break behind a colon begins no path."""
    found = parse_questions(f'{{"questions": ["{answer}"]}}', 1)
    assert [question.text for question in found] == [expected]


@pytest.mark.parametrize("label", ["A1", "Response", "Solution", "Answer 1", "a 1"])
def test_answers_behind_a_dash_below_a_question(label):
    """Words that begin a query elsewhere are a label where the line before asks."""
    answer = f"Q1 - {A}\n{label} - It is Y.\nQ2 - {B}\n{label.replace('1', '2')} - It is Z."
    assert parse_questions(answer, 2) == [(A, "It is Y."), (B, "It is Z.")]


def test_a_numbered_question_below_a_remark():
    """The number goes, and so does the remark."""
    found = parse_questions("Another one you may like\n3. Is insulin a hormone?", 2)
    assert found == [("Is insulin a hormone?", None)]
