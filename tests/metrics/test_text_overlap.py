import math
import random
import unicodedata
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]
from sacrebleu.metrics.bleu import BLEU

from plumbline.metrics.rouge import rouge, rouge_l
from plumbline.metrics.scripts import words
from plumbline.metrics.text_overlap import (
    corpus_bleu,
    exact_match,
    normalize_answer,
    question_only_baseline,
    token_f1,
)


def _sentence_pairs(count: int) -> tuple[list[str], list[str]]:
    """Predictions and references of 0 to 14 words that share about three words in four."""
    rng = random.Random(0)
    words = [
        "A",
        "the",
        "red",
        "dog",
        "don't",
        "sits",
        "on",
        "under",
        "mat",
        ".",
        ",",
        "3.5",
        "(x_y)",
    ]
    references = [rng.choices(words, k=rng.randint(0, 14)) for _ in range(count)]
    predictions = [
        [
            word if rng.random() < 0.75 else rng.choice(words)
            for word in reference[rng.randint(0, 1) :]
        ]
        for reference in references
    ]
    return [" ".join(text) for text in predictions], [" ".join(text) for text in references]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("  two\t\n red  ", "two red"),
        ("what is it ? !", "what is it"),
        ("3.5", "3.5"),
        ("a", "a"),
        ("the cat", "the cat"),
        ("STRASSE", "strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("?", "?"),
        (" ? ", "?"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_answers_are_normalised_by_the_documented_rules(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize("text", ["A . . ", "? !", "J\u030c.", "\u0130.", "x\u00a0 y?", "..."])
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_answer(text)
    assert normalize_answer(once) == once
    assert unicodedata.is_normalized("NFC", once)


def test_exact_match_counts_equal_answers() -> None:
    assert exact_match(["Yes.", "no", "two", ""], ["yes", "yes", " TWO ", ""]) == 0.75


def test_token_f1_agrees_with_hand_computed_values() -> None:
    assert token_f1(["the red cat"], ["red cat sits on"]) == pytest.approx(4 / 7, abs=1e-12)
    assert token_f1(["a a b"], ["a a c"]) == pytest.approx(2 / 3, abs=1e-12)  # bags, not sets
    assert token_f1(["yes"], ["Yes!"]) == 1.0
    assert token_f1(["yes"], ["no"]) == 0.0
    assert token_f1(["yes", "no"], ["yes", "yes"]) == 0.5


def test_token_f1_is_that_of_striking_out_common_words_and_the_same_both_ways() -> None:
    predictions, references = _sentence_pairs(200)
    scores = []
    for said, meant in zip(predictions, references, strict=True):
        left, words = normalize_answer(said).split(), normalize_answer(meant).split()
        length, common = len(left) + len(words), 0
        for word in words:
            if word in left:
                left.remove(word)
                common += 1
        scores.append(2 * common / length if length else 1.0)
    assert token_f1(predictions, references) == pytest.approx(sum(scores) / 200, abs=1e-12)
    turned = token_f1(references, predictions)
    assert turned == pytest.approx(token_f1(predictions, references), abs=1e-12)


def test_token_f1_of_empty_texts_is_one_only_when_both_are_empty() -> None:
    assert token_f1([""], [" "]) == 1.0
    assert token_f1([""], ["yes"]) == 0.0
    assert token_f1(["yes"], [""]) == 0.0


def test_bleu_and_rouge_agree_with_the_libraries_on_a_thousand_pairs() -> None:
    predictions, references = _sentence_pairs(1000)
    nested = [[reference] for reference in references]
    score, _ = corpus_bleu(predictions, nested)
    assert score == pytest.approx(BLEU().corpus_score(predictions, [references]).score, abs=1e-9)
    assert 20 < score < 80
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    singles = [
        scorer.score(reference, prediction)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    ours = rouge(predictions, nested)
    for name, kind in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")):
        mean = sum(single[kind].fmeasure for single in singles) / 1000
        assert ours[name] == pytest.approx(mean, abs=1e-9)
    assert rouge_l(predictions, nested) == pytest.approx(ours["rouge_l"], abs=1e-12)


def _of_library(said: list[str], meant: list[list[str]]) -> tuple[list[float], str]:
    """BLEU and the three means of ROUGE by the libraries alone, pair for pair."""
    bleu, scorer = BLEU(), RougeScorer(["rouge1", "rouge2", "rougeL"])
    most = max(map(len, meant))
    streams = [[texts[i] if i < len(texts) else None for texts in meant] for i in range(most)]
    whole = bleu.corpus_score(said, streams)  # type: ignore[arg-type]
    totals = dict.fromkeys(scorer.rouge_types, 0.0)
    for text, texts in zip(said, meant, strict=True):
        for name, score in scorer.score_multi(texts, text).items():
            totals[name] += score.fmeasure
    means = [total / len(said) for total in totals.values()]
    return [whole.score, *means], str(bleu.get_signature())


def _of_ours(said: list[str], meant: list[list[str]]) -> tuple[list[float | None], str]:
    score, signature = corpus_bleu(said, meant)
    return [score, *rouge(said, meant).values()], signature


@pytest.mark.parametrize("distinct", [1, 7, 500])
@pytest.mark.parametrize("most", [1, 3])
def test_pairs_that_come_again_and_again_score_to_the_bit_as_by_the_libraries(
    distinct: int, most: int
) -> None:
    """Each is scored once: as often as it comes, and in whichever order."""
    texts, others = _sentence_pairs(3 * distinct + 3)
    draw = random.Random(distinct)
    samples = [
        (texts[3 * n], others[3 * n : 3 * n + draw.randint(1, most)]) for n in range(distinct)
    ]
    samples += [(texts[-3], others[-3:][:most])]  # comes once
    drawn = [*draw.choices(samples[:-1], k=3 * distinct + 5), samples[-1]]
    draw.shuffle(drawn)
    said, meant = [text for text, _ in drawn], [texts for _, texts in drawn]
    (ours, signature), (theirs, their_signature) = _of_ours(said, meant), _of_library(said, meant)
    np.testing.assert_array_equal(ours, theirs)
    assert signature == their_signature
    # What counts is how often a pair is there, not which are beside each other.
    order = sorted(range(len(said)), key=lambda n: said[n])
    again, _ = _of_ours([said[n] for n in order], [meant[n] for n in order])
    assert again[0] == ours[0]
    assert again == pytest.approx(ours, rel=1e-12)
    # Equal texts with other references are other pairs.
    swapped = [*meant[1:], meant[0]]
    np.testing.assert_array_equal(_of_ours(said, swapped)[0], _of_library(said, swapped)[0])


def test_a_pair_twice_as_often_weighs_twice_as_much() -> None:
    once = corpus_bleu(
        ["a red cat sits", "a dog runs far"], [["a red cat sits"], ["no such thing"]]
    )
    twice = corpus_bleu(["a red cat sits"] * 2, [["a red cat sits"], ["a red cat sits"]])
    assert once[0] is not None
    assert 0 < once[0] < 100
    assert twice[0] == pytest.approx(100, abs=1e-9)
    means = rouge(["red cat"] * 3 + ["blue"], [["red cat"]] * 3 + [["dog"]])
    assert means["rouge1"] == pytest.approx(0.75, abs=0)
    assert means["rouge_l"] == pytest.approx(0.75, abs=0)


def test_bleu_signature_states_the_settings_and_the_number_of_references() -> None:
    _, single = corpus_bleu(["a cat"], [["a cat"]])
    assert single.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    _, several = corpus_bleu(["a cat", "a dog"], [["a cat", "the cat"], ["a dog"]])
    assert several.startswith("nrefs:var|")


def test_bleu_with_unequal_numbers_of_references_equals_repeating_the_last_one() -> None:
    predictions = ["the cat sat on the mat today", "a dog runs in the park"]
    references = [["one cat sat on the mat", "the cat sat"], ["a dog runs in a park"]]
    repeated = [references[0], references[1] * 2]
    ours, _ = corpus_bleu(predictions, references)
    whole, _ = corpus_bleu(predictions, repeated)
    assert ours == pytest.approx(whole, abs=1e-9)
    assert 1 < ours < 99


def test_an_absent_reference_does_not_count_as_an_empty_one() -> None:
    """An empty one is nearest in length to a word, so that the corpus would not be too short."""
    predictions = ["dog", "the cat sat on the mat"]
    references = [["dog runs away now"], ["the cat sat on the mat", "a cat"]]
    padded = [[*references[0], ""], references[1]]
    absent, empty = (corpus_bleu(predictions, each)[0] for each in (references, padded))
    assert empty == pytest.approx(100, abs=1e-9)
    assert absent == pytest.approx(100 * math.exp(1 - 10 / 7), abs=1e-9)


def test_rouge_takes_the_best_reference_of_each_sample() -> None:
    scores = rouge(["red cat", "blue dog"], [["a b", "red cat"], ["blue cat"]])
    assert scores["rouge1"] == pytest.approx(0.75, abs=1e-12)
    assert scores["rouge2"] == pytest.approx(0.5, abs=1e-12)
    assert scores["rouge_l"] == pytest.approx(0.75, abs=1e-12)


def test_rouge_of_several_references_is_the_mean_of_the_best_of_the_library() -> None:
    predictions, references = _sentence_pairs(120)
    groups = [references[at : at + 3] for at in range(0, 120, 3)]
    said, scorer = predictions[::3], RougeScorer(["rouge1", "rouge2", "rougeL"])
    ours = rouge(said, groups)
    for name, kind in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")):
        best = [
            max(scorer.score(reference, text)[kind].fmeasure for reference in group)
            for text, group in zip(said, groups, strict=True)
        ]
        assert ours[name] == pytest.approx(sum(best) / 40, abs=1e-12)


def test_an_empty_prediction_scores_zero() -> None:
    assert corpus_bleu([""], [["a cat sits here"]])[0] == 0.0
    assert set(rouge([""], [["a cat"]]).values()) == {0.0}


@pytest.mark.parametrize(
    ("reference", "words"), [("", 0), (" . ", 0), ("yes", 1), ("a red cat", 3)]
)
def test_references_too_short_for_a_figure_have_none(reference: str, words: int) -> None:
    """Even the reference itself would score 0, so no model can be told from another."""
    assert corpus_bleu([reference], [[reference]])[0] is None
    found = rouge([reference], [[reference]])
    assert found == {
        "rouge1": 1.0 if words else None,
        "rouge2": 1.0 if words > 1 else None,
        "rouge_l": 1.0 if words else None,
    }
    # One that is long enough gives the corpus a figure.
    assert corpus_bleu([reference, "a b c d"], [[reference], ["a b c d"]])[0] is not None


SCRIPTS = {
    "a dog runs on the grass": "13a",
    "собака бежит по траве": "13a",
    "कुत्ता घास पर दौड़ता है": "13a",
    "강아지가 풀밭 위를 빨리 달린다": "13a",
    "狗在草地上奔跑": "zh",
    "犬が草の上を走る": "char",
    "สุนัขวิ่งบนหญ้า": "char",
}


@pytest.mark.parametrize(("text", "tokenizer"), SCRIPTS.items())
def test_what_is_right_word_for_word_scores_full_marks_in_any_script(
    text: str, tokenizer: str
) -> None:
    score, signature = corpus_bleu([text], [[text]])
    assert score == pytest.approx(100, abs=1e-9)
    assert f"|tok:{tokenizer}|" in signature
    assert set(rouge([text], [[text]]).values()) == {1.0}


def test_wrong_words_of_any_script_score_nothing() -> None:
    """Letters outside ASCII, and marks upon letters, are parts of words."""
    for said, meant in (
        ("Mädchen läuft", "Mönchen lauft"),
        ("собака", "кошка"),
        ("狗", "猫"),
        ("कि", "का"),
        ("café", "cafe"),
    ):
        assert rouge([said], [[meant]])["rouge1"] == 0.0
    assert rouge(["CAFE\u0301 Straße"], [["caf\u00e9 STRASSE"]])["rouge1"] == 0.5
    assert rouge(["狗在草地上"], [["狗在沙地上"]])["rouge1"] == pytest.approx(0.8)


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
def test_bleu_takes_the_tokenizer_of_the_settings(tokenizer: Any) -> None:
    said, meant = ["the cat sat on this mat"], ["the cat sat on the mat"]
    score, signature = corpus_bleu(said, [meant], tokenizer)
    assert score == pytest.approx(BLEU(tokenize=tokenizer).corpus_score(said, [meant]).score)
    assert f"|tok:{tokenizer}|" in signature


def test_words_of_ascii_are_those_of_rouge_score() -> None:
    tokenizer = DefaultTokenizer(use_stemmer=False)
    draw = random.Random(3)
    assert words("ÄPFEL 3.5 x_y狗and") == ["äpfel", "3", "5", "x", "y", "狗", "and"]
    for _ in range(300):
        text = "".join(chr(draw.randrange(1, 128)) for _ in range(draw.randrange(60)))
        assert words(text) == tokenizer.tokenize(text)


def test_identical_sentences_score_full_marks() -> None:
    texts = ["the cat sat on the mat", "a dog runs in the park"]
    nested = [[text] for text in texts]
    assert corpus_bleu(texts, nested)[0] == pytest.approx(100, abs=1e-9)
    assert set(rouge(texts, nested).values()) == {1.0}


@pytest.mark.parametrize("score", [exact_match, token_f1, corpus_bleu, rouge, rouge_l])
def test_no_samples_and_unequal_lengths_are_refused(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no samples"):
        score([], [])
    with pytest.raises(ValueError, match="2 texts against 1"):
        score(["a", "b"], [["a"]])


@pytest.mark.parametrize("score", [corpus_bleu, rouge, rouge_l])
def test_bad_references_are_refused_by_their_sample(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="sample 1: has no reference"):
        score(["a", "b"], [["a"], []])
    with pytest.raises(TypeError, match="sample 0: one string"):
        score(["a"], ["a"])


def test_question_only_baseline_gives_the_most_frequent_answer_to_each_question() -> None:
    questions = ["What colour?", "what colour", "What colour ?", "how many?", "how many?"]
    answers = ["red", "Blue", "blue.", "two", "2"]
    given = question_only_baseline(questions, answers, ["WHAT COLOUR", "how many?", "who?"])
    assert given == ["blue", "2", "blue"]


def test_question_only_baseline_breaks_ties_alphabetically_in_any_order_of_the_rows() -> None:
    questions, answers = ["q", "q", "r"], ["b", "a", "c"]
    assert question_only_baseline(questions, answers, ["q", "new"]) == ["a", "a"]
    assert question_only_baseline(questions[::-1], answers[::-1], ["q", "new"]) == ["a", "a"]


def test_question_only_baseline_needs_training_samples_but_no_questions() -> None:
    assert question_only_baseline(["q"], ["a"], []) == []
    with pytest.raises(ValueError, match="no samples"):
        question_only_baseline([], [], ["q"])
    with pytest.raises(ValueError, match="1 texts against 2"):
        question_only_baseline(["q"], ["a", "b"], ["q"])
