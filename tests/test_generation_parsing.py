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
