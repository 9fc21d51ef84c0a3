"""What a model says in the place of questions: that it has none, that it needs more, an offer."""

import re

from llama_index.finetuning.embeddings.generation.questions import ASKS

_TEXT = r"(?:text|context|content|passage|document|excerpt|information|details)"
# What a model asks that was given too little, and how it begins.
_ASKS_BACK = (
    r"(?:can|could|would|will) you (?:please |kindly )?"
    r"(?:provide|share|paste|give|send|upload|supply)\b"
)
_MORE = (
    "(?: (?:me|us|with|more|the|some|any|additional|further|full|complete|actual|entire|relevant|"
    f"missing|of|it|this|here|again|{_TEXT}))*"
)
_BEGS = re.compile(
    rf"(?:please,? )?{_ASKS_BACK}{_MORE}"
    r"(?:\W*$| (?:you(?:['\u2019]d| would| want)|(?:so )?that i|so i|for me)\b)"
    r"|what (?:exactly )?(?:would you like|do you want) me to\b[^?]*\?\W*$"
    r"|(?:can|could|would) you (?:please |kindly )?clarify (?:what|which|how)(?: \w+){0,3}?"
    r" you(?:['\u2019]d| would) like\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    rf"(?:^|[.!,;\u2014-]\s+){_ASKS_BACK}{_MORE}\W*$"
    rf"|\b{_ASKS_BACK}(?: (?:me|more|the|some|any|additional|full|actual|a|your))* {_TEXT}\b"
    r"|\bwould you like (?:me|to share|to provide|the questions)\b",
    re.IGNORECASE,
)
_REGRETS = re.compile(
    r"(?:i['\u2019]?m (?:sorry|afraid|unable)|sorry|i apologi[sz]e|unfortunately|"
    r"it (?:seems|looks|appears)|i (?:do not|don['\u2019]t|can ?not|can['\u2019]t|need)|"
    r"i['\u2019]d (?:be happy|love|need)|no (?:text|context|content)|"
    r"there(?:['\u2019]s| is| are| isn['\u2019]t| aren['\u2019]t) (?:no|not|enough)|"
    rf"(?:the|this|your) (?:\w+ )?{_TEXT})\b",
    re.IGNORECASE,
)
# What a model offers to do next is about questions, or is said of nothing: "Should I add a driver
# to my policy?" and "Is there anything more reliable?" are questions.
_OFFERED = r"(?:questions?|queries|keywords|answers|explanations)"
_ANY = (
    "(?: (?:to|have|get|see|add|adjust|change|help|with|any|some|more|other|further|additional|"
    "another|different|new|extra|a|few|set|of|the|these|those|on|specific))*"
)
_DO = r"(?:generate|create|add|provide|help|make|write|assist)"
_OFFER = re.compile(
    rf"(?:would|do|did) you (?:like|want|need|have){_ANY} {_OFFERED}\b"
    rf"|(?:would|do|did) you (?:like|want|need) me to\b|want me to {_DO}\b"
    rf"|(?:shall|should|can|may|could) i {_DO}"
    rf"(?:\W*$| you\b|{_ANY} {_OFFERED}\b|{_ANY} (?:more|else|further|changes)\W*$)"
    rf"|(?:(?:would|do|did) you (?:like|want|need|have)|need|want){_ANY}"
    r" (?:more|help|(?:any(?:thing|one) )?else|these|those|changes)\W*$"
    rf"|(?:is there )?any(?:thing|one)? (?:else|more)(?: {_OFFERED})?"
    r"(?: (?:that )?(?:i can (?:help|assist|do for)\b.*|you['\u2019]d like\b.*|"
    r"you would like\b.*|you (?:want|need)))?\W*$"
    rf"|(?:how )?do(?:es)? (?:this|that|these|those)(?: {_OFFERED})? (?:look|sound|help|work|suit)"
    r"(?: (?:good|fine|ok|okay|right|for|to|you))*\W*$"
    rf"|(?:is|are) (?:this|that|these|those)(?: {_OFFERED})?"
    r" (?:what you\b.*|(?:ok|okay|helpful|fine|good)(?: for you)?\W*)$",
    re.IGNORECASE,
)
_QUESTIONS = r"(?:questions?|queries|query|keywords?)"
_MAKE = r"(?:generate|create|write|form|formulate|produce|make|ask)"
_SOME = (
    r"(?: (?:any|more|the|good|new|meaningful|relevant|different|exam|search|keyword|two|\d{1,2}))*"
)
# "unable to create queries from the api" is a query.
_WHY = (
    r"(?: (?:from|about|on|for|with|without|based on|due to|because(?: of)?|as|since)"
    rf"(?: (?:this|that|it)$|(?: \w+){{0,3}}? {_TEXT}(?=$| (?:is|was|does|has|provided|given|above|"
    r"alone|only|as|because|since|that|contains|consists|please))\b)| insufficient\b| no\b| here\b)"
    r"(?: \w+){0,20}"
)
# What stands where there is no question.
_NOTHING = re.compile(
    r"n a|none|null|nil|nothing|empty|skip(?:ped)?|not (?:applicable|available|possible)|"
    r"(?:no|zero|0) (?:\w+ )?(?:questions?|queries|query|keywords?|answers?|output|content)"
    r"(?: (?:found|available|possible|generated|needed|applicable|here))?|"
    r"(?:insufficient|not enough) (?:context|information|content|text)"
    r"(?: (?:given|provided|available|here|to (?:generate|create|write|form)(?: \w+){0,6}))?|"
    rf"(?:(?:i|we) )?(?:(?:am |are )?unable to|can ?not|can t) {_MAKE}{_SOME} {_QUESTIONS}"
    rf"(?:{_WHY})?|no{_SOME} {_QUESTIONS} (?:can|could) be \w+(?:{_WHY})?|"
    r"keine?(?: fragen?)?|aucune?(?: question)?|ningun[ao]?(?: pregunta)?|nessuna?(?: domanda)?|"
    r"nenhuma?(?: pergunta)?|\u65e0|\u7121|\u6ca1\u6709|\u6c92\u6709|\u306a\u3057"
)
# Sentences of models that found nothing to ask.
_REFUSAL = re.compile(
    r"this (?:appears|seems|looks)\b.*\b(?:text|tables?|lists?|pages?|headers?|headings?|titles?|"
    r"index|blank|empty|incomplete|placeholder|snippet|fragment|excerpt|content|references)\b"
    rf"|it (?:appears|seems|looks)(?: that| like| as if)* (?:the|this|your) (?:\w+ )?{_TEXT} "
    r"(?:is|was|you|only|contains|consists|does|has)\b"
    rf"|it (?:does not|doesn['\u2019]t) (?:contain|have|provide|include)\b.*\b{_QUESTIONS}\b"
    rf"|(?:i|we) need (?:more|the|some|additional|further)(?: \w+)? {_TEXT}"
    rf"(?:\W*$|\. |,? (?:in order )?to {_MAKE}\b)"
    r"|there (?:is|are|isn['\u2019]t|aren['\u2019]t|['\u2019]s) (?:no|not|nothing|enough)\b.*"
    rf"\bto (?:ask(?: about| for)?\W*$|{_MAKE}{_SOME} {_QUESTIONS}\b)"
    rf"|no (?:\w+ )?{_TEXT} (?:was|is|has been|were) (?:given|provided|supplied|included)\b"
    rf"|(?:(?:as|since|because|given|due to|without|but|so)\b.*)?\b(?:i|we) (?:am unable to|"
    rf"are unable to|can ?not|can['\u2019]t) {_MAKE}{_SOME} {_QUESTIONS}\b(?! in\b)"
    r"|(?:my |our )?apologies\b.*\b(?:can ?not|can['\u2019]t|unable|not)\b"
    r"|unable to (?:comply|help|assist|do (?:that|this))\b|not applicable\b",
    re.IGNORECASE,
)
# In German, French, Spanish, Portuguese, Italian, Dutch, Russian, Chinese and Japanese such a
# sentence begins with a regret, denies and names what was asked for; or it begins as a denial and
# speaks of writing questions.
_REGRET = re.compile(
    r"(?:(?:es )?tut mir (?:sehr )?leid|leider|(?:je suis )?(?:vraiment )?désolée?|malheureusement|"
    r"je regrette|lo siento|lamentablemente|desafortunadamente|desculp[ae]|infelizmente|"
    r"sinto muito|lamento|mi dispiace|purtroppo|het spijt me|helaas|sorry|к сожалению|извините|"
    r"простите)\b"
    r"|(?:很|非常|十分)?(?:抱歉|遗憾|遺憾)|对不起|對不起|申し訳(?:あり|ござい)ません|残念ながら",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:nicht|keine?[nr]?|zu (?:wenig|kurz)|ne|n['\u2019]\w+|pas|aucune?|no|ningun[ao]s?|não|"
    r"nenhuma?|non|nessuna?|niet|geen|te (?:weinig|kort)|не|нет|нельзя|невозможно|недостаточно)\b"
    r"|无法|無法|不能|没有|沒有|不足|不够|不夠|ません|できない",
    re.IGNORECASE,
)
_OPENS = re.compile(
    r"(?:ich|wir|(?:aus|zu|auf) (?:diesem|dem)|hier|je ne|nous ne|il n['\u2019]est|impossible|no|"
    r"imposible|não|impossível|non|impossibile|ik|uit de(?:ze)?|я|не|невозможно|нельзя)\b"
    r"|我|无法|無法|不能|この|これ",
    re.IGNORECASE,
)
_WRITING = re.compile(
    r"\b(?:(?:generier|formulier|erstell)(?:en|t)|schreiben|ableiten|générer|créer|formuler|rédiger|"
    r"écrire|generar|crear|formular|elaborar|redactar|gerar|criar|generare|creare|formulare|"
    r"scrivere|genereren|maken|opstellen|формулировать|сформулировать|создать|составить|"
    r"сгенерировать)\b"
    r"|生成|创建|提出|编写|產生|建立|作成|作る",
    re.IGNORECASE,
)
_QUESTION_NOUNS = (
    r"\b(?:fragen?|suchanfragen?|requêtes?|questions?|preguntas?|consultas?|perguntas?|domand[ae]|"
    r"vraag|vragen|вопрос\w*|запрос\w*)\b"
    r"|问题|問題|查询|查詢|質問|クエリ"
)
_TEXT_NOUNS = (
    r"\b(?:text|kontext|inhalt|texte|contenu|contexte|passage|texto|contenido|contexto|conteúdo|"
    r"testo|contenuto|contesto|tekst|inhoud|context|текст\w*|контекст\w*)\b"
    r"|文本|原文|内容|內容|上下文|テキスト|文章"
)
_HELP = (
    r"\b(?:helfen|aider|ayudar|ajudar|aiutar\w*|helpen|помочь)\b|帮助|幫助|请求|請求|手伝い|お答え"
)
_QUESTION_NOUN = re.compile(_QUESTION_NOUNS, re.IGNORECASE)
_TEXT_NOUN = re.compile(_TEXT_NOUNS, re.IGNORECASE)
_MATTER = re.compile(f"{_QUESTION_NOUNS}|{_TEXT_NOUNS}|{_HELP}", re.IGNORECASE)
_LAST_STOP = re.compile(r".*[.!\u3002\uff01]")
_LONGEST_REFUSAL = 1000  # characters
_NO_WORDS = re.compile(r"[^\w+#]+")


def begs(text: str) -> bool:
    """Tell whether a question asks for the text: what a model says that was given too little."""
    regrets = _REGRETS.match(text) is not None and _REQUEST.search(text) is not None
    return regrets or _BEGS.match(text) is not None


def offers(text: str) -> bool:
    """Tell whether a line offers to do more."""
    return _OFFER.match(text) is not None


def says_nothing(key: str) -> bool:
    """Tell whether a line says that there is no question, like "None." or "not applicable".

    Args:
        key: The line, in small letters.
    """
    return _NOTHING.fullmatch(" ".join(_NO_WORDS.sub(" ", key).split())) is not None


def refuses(text: str) -> bool:
    """Tell whether a sentence asks for the text, or says that there are no questions.

    The latter has a full stop, which queries lack, and what is asked behind it is the text.
    """
    if len(text) > _LONGEST_REFUSAL:
        return False
    if begs(text):
        return True
    stop = _LAST_STOP.match(text)
    if stop is None or ASKS.search(stop[0]) is not None:
        return False
    said, rest = stop[0], text[stop.end() :]
    if any(character.isalnum() for character in rest) and (
        ASKS.search(rest) is None or (_TEXT_NOUN.search(rest) is None and not begs(rest.strip()))
    ):
        return False
    if (regret := _REGRET.match(said)) is not None:
        told = said[regret.end() :]
        if _DENIAL.search(told) is not None and _MATTER.search(told) is not None:
            return True
    denies = _OPENS.match(said) is not None and _DENIAL.search(said) is not None
    if denies and _WRITING.search(said) is not None and _QUESTION_NOUN.search(said) is not None:
        return True
    return _REFUSAL.match(said) is not None
