"""Adversarial families: what each does, what it refuses, and how variants are made of cases."""

from __future__ import annotations

import json
from random import Random

import pytest

from evaluation.quality.families import Ambiguity, EdgeCases, Formatting, Paraphrase, Refused, expand, families_for
from evaluation.quality.families.anatomy import dissect, looks_like_code, sentences
from evaluation.quality.families.facts import shared_facts
from evaluation.quality.families.layout import LAYOUTS, find_fields
from evaluation.quality.families.paraphrase import movable_runs
from evaluation.quality.suite import Case, ChatMessage, JsonValue

INVOICE = (
    "Extract the invoice as JSON.\n\nThis invoice is from Acme Tools. The total price is EUR 12,500. It is due on "
    "May 3, 2027. Many items are listed. It was sent to Basil Farms because they bought seeds."
)
EXPECTED: JsonValue = {
    "seller": "Acme Tools",
    "buyer": "Basil Farms",
    "amount": 12500,
    "currency": "EUR",
    "due": "2027-05-03",
}
FORM = (
    "Return the terms below as JSON.\n\n"
    "- Seller: Acme Tools\n- Buyer: Basil Farms\n- Total: EUR 12,500\n- Due: 2027-05-03"
)
CODE = 'Finish the code below.\n\ndef mean(values):\n    """Return the mean because it is important."""\n'


def case(text: str = INVOICE, expected: JsonValue = EXPECTED, **fields: object) -> Case:
    return Case(id="one", input=text, expected=expected, **fields)  # type: ignore[arg-type]


def rewrites(
    family: object, text: str = INVOICE, expected: JsonValue = EXPECTED, count: int = 40
) -> list[tuple[str, JsonValue, str]]:
    made = [family.rewrite(text, expected, Random(seed)) for seed in range(count)]  # type: ignore[attr-defined]
    return [(one.text, one.expected, one.change) for one in made]


class TestExpansion:
    """Variants of a suite's cases."""

    def test_variants_name_their_case_family_and_change(self) -> None:
        cases = [case(metadata={"kind": "invoice"})]
        variants = expand(cases, families_for(cases), seed=0).variants
        assert [variant.family for variant in variants] == ["paraphrase", "format", "edge_case", "ambiguity"]
        assert {variant.variant_of for variant in variants} == {"one"}
        assert len({variant.id for variant in variants}) == 4
        assert all(variant.metadata["kind"] == "invoice" and variant.metadata["change"] for variant in variants)

    def test_a_variant_depends_on_seed_and_case_alone(self) -> None:
        other = Case(id="two", input="Say yes.", expected="yes")
        families = families_for([case()])
        alone = expand([case()], families, seed=1).variants
        assert [v for v in expand([other, case()], families, seed=1).variants if v.variant_of == "one"] == [*alone]
        assert expand([case()], families, seed=2).variants != alone

    def test_variants_of_variants_are_not_made(self) -> None:
        assert not expand([case(family="format", variant_of="zero")], families_for([]), seed=0).variants

    def test_refusals_are_counted_by_reason(self) -> None:
        cases = [Case(id=str(number), input=CODE, expected="    return 1") for number in range(3)]
        expansion = expand(cases, families_for(cases), seed=0)
        assert {family for family, _ in expansion.reasons()} == {"edge_case", "ambiguity"}
        assert set(expansion.reasons().values()) == {3}
        assert len(expansion.variants) == 6

    def test_more_variants_of_one_case_differ(self) -> None:
        variants = expand([case()], [Paraphrase()], seed=0, num_variants=4).variants
        assert len(variants) > 1
        assert (
            len({variant.input for variant in variants}) == len({variant.id for variant in variants}) == len(variants)
        )

    def test_only_the_last_user_message_is_rewritten(self) -> None:
        messages = (
            ChatMessage(role="system", content="You extract data."),
            ChatMessage(role="user", content="Hello."),
            ChatMessage(role="assistant", content="Hello. Send me an invoice."),
            ChatMessage(role="user", content=INVOICE),
        )
        chat = Case(id="chat", input=messages, expected=EXPECTED)
        for variant in expand([chat], families_for([chat]), seed=0).variants:
            assert variant.input[:3] == messages[:3]
            assert variant.input[3].content != INVOICE  # type: ignore[union-attr]

    def test_a_conversation_without_a_user_is_refused(self) -> None:
        chat = Case(id="chat", input=(ChatMessage(role="system", content="Hello."),), expected="yes")
        assert len(expand([chat], families_for([chat]), seed=0).refusals) == 4


class TestParaphrase:
    """Other words, another order, the same facts."""

    def test_all_its_means_are_used(self) -> None:
        changes = {change for _, _, changes in rewrites(Paraphrase()) for change in changes.split(", ")}
        assert changes == {"instruction", "synonyms", "place of the instruction"}

    def test_the_expected_answer_stays(self) -> None:
        assert all(expected == EXPECTED for _, expected, _ in rewrites(Paraphrase()))

    def test_words_that_the_answer_takes_over_stay(self) -> None:
        note = "Summarise the note.\n\nThe many boats sank because of ice. It is a famous case. Many people saw it."
        for text, _, _ in rewrites(Paraphrase(), note, "Many boats sank because of ice."):
            assert "many boats" in text
            assert "because of ice" in text

    def test_code_keeps_every_character(self) -> None:
        for text, _, change in rewrites(Paraphrase(), CODE, "    return 1"):
            assert CODE.partition("\n\n")[2].strip() in text
            assert change == "instruction"

    def test_raw_code_is_refused(self) -> None:
        with pytest.raises(Refused, match="no instruction"):
            Paraphrase().rewrite("def mean(values):\n", "    return 1", Random(0))

    def test_sentences_change_places(self) -> None:
        story = "Sum up.\n\nOnce it rained. Ships sail. Trains run. Cars drive."
        texts = {text.partition("Once it rained.")[2] for text, _, _ in rewrites(Paraphrase(), story, "Rain.")}
        assert len(texts) > 3
        assert all("Ships sail." in text and "Trains run." in text for text in texts)

    def test_sentences_that_lean_on_others_stay_where_they_are(self) -> None:
        found = ["One.", "Ships sail.", "Trains run.", "This is slow.", "Cars drive.", "Birds fly.", "It ends."]
        assert movable_runs(found) == [(4, 6)]
        assert movable_runs(["One.", "It is red.", "It is old.", "Cars drive."]) == [(1, 3)]
        assert movable_runs(["One.", "Ships sail.", "Event: it sank.", "Cars drive."]) == []

    def test_an_instruction_that_points_stays_in_its_place(self) -> None:
        pointing = INVOICE.replace("the invoice as JSON", "the terms below as JSON")
        assert not any("place" in change for _, _, change in rewrites(Paraphrase(), pointing))


class TestFormatting:
    """The same content, laid out otherwise."""

    def test_fields_keep_labels_and_values_in_every_layout(self) -> None:
        values = ["Acme Tools", "Basil Farms", "EUR 12,500", "2027-05-03"]
        seen = set()
        for text, expected, change in rewrites(Formatting(), FORM, count=120):
            assert expected == EXPECTED
            places = [text.index(value) for value in values]
            assert places == sorted(places)
            seen.add(change.partition(",")[0].removeprefix("fields as "))
        assert seen == set(LAYOUTS)

    def test_labels_that_the_answer_takes_over_keep_their_capitals(self) -> None:
        for text, _, _ in rewrites(Formatting(), FORM, "The Seller is Acme Tools."):
            assert "Seller" in text or "SELLER\n" in text or "The seller is" in text

    def test_sentences_are_kept_whole_and_in_order(self) -> None:
        for text, _, change in rewrites(Formatting()):
            assert change.startswith("sentences as ")
            places = [text.index(sentence) for sentence in sentences(dissect(INVOICE).material)]
            assert places == sorted(places)

    def test_code_keeps_every_character(self) -> None:
        for text, _, _ in rewrites(Formatting(), CODE, "    return 1"):
            assert CODE.partition("\n\n")[2].strip() in text

    def test_raw_code_is_refused(self) -> None:
        with pytest.raises(Refused, match="lay out"):
            Formatting().rewrite("def mean(values):\n", "    return 1", Random(0))

    @pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"prose", "one line"}))
    def test_every_layout_of_lines_can_be_read_again(self, layout: str) -> None:
        fields = find_fields(dissect(FORM).material)
        assert fields is not None
        again = find_fields(LAYOUTS[layout](fields))
        assert again is not None
        assert [(label.lower(), value) for label, value in again.rows] == [
            (label.lower(), value) for label, value in fields.rows
        ]

    @pytest.mark.parametrize("text", ["One. Two: three.", "a: 1\nb: 2", "a: 1\na: 2\nb: 3", "[1, 2]", "A\nb\nC", ""])
    def test_what_is_no_form_is_not_read_as_one(self, text: str) -> None:
        assert find_fields(text) is None


class TestEdgeCases:
    """One unusual fact, in question and answer alike."""

    def test_one_field_of_the_answer_changes(self) -> None:
        changed = set()
        for text, expected, _ in rewrites(EdgeCases()):
            assert isinstance(expected, dict)
            assert isinstance(EXPECTED, dict)
            names = [name for name in EXPECTED if expected[name] != EXPECTED[name]]
            assert len(names) == 1
            assert text != INVOICE
            changed |= {*names}
        assert changed == set(EXPECTED)  # type: ignore[arg-type]

    def test_a_value_is_spelled_as_the_question_spells(self) -> None:
        for text, expected, change in rewrites(EdgeCases(), count=200):
            if change == "zero as amount":
                assert "EUR 0." in text
            if change == "a leap day as due":
                assert "It is due on February 29, " in text
                assert str(expected["due"]).endswith("-02-29")  # type: ignore[index,call-overload]

    def test_an_empty_field_comes_with_its_rule(self) -> None:
        emptied = [made for made in rewrites(EdgeCases(), FORM) if made[2].startswith("nothing")]
        assert emptied
        for text, expected, _ in emptied:
            assert "is an empty string" in text.partition("\n")[0]
            assert "" in expected.values()  # type: ignore[union-attr]
            assert ":\n" in text

    def test_a_name_in_a_text_is_exchanged_on_both_sides(self) -> None:
        note = "Summarise.\n\nThe log says that Laura cleared the cache."
        for text, expected, _ in rewrites(EdgeCases(), note, "The cache was cleared by Laura."):
            name = str(expected).removeprefix("The cache was cleared by ").removesuffix(".")
            assert text == note.replace("Laura", name)
            assert name != "Laura"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("30 days, 30 euros", {"days": 30}),
            ("It costs 130 euros", {"amount": 30}),
            ("On 30 March it begins", {"month": "2027-03-30"}),
            ("yes", {"answer": True}),
            ("The term is two years", {"months": 24}),
            ("A and A", {"first": "A", "second": "A"}),
            (CODE, "    return 10"),
            (CODE, {"head": "def mean(values):", "values": "mean"}),
        ],
    )
    def test_what_does_not_stand_there_once_is_no_fact(self, text: str, expected: JsonValue) -> None:
        assert shared_facts(text, expected) == []
        with pytest.raises(Refused, match="no fact"):
            EdgeCases().rewrite(text, expected, Random(0))


class TestAmbiguity:
    """Two candidates, and a rule that decides."""

    def test_the_answer_follows_the_rule(self) -> None:
        text, number = "Extract.\n\nThe price is 700.", {"price": 700}
        seen = set()
        for rewritten, expected, change in rewrites(Ambiguity(), text, number, count=80):
            second = int(rewritten.partition("for the price: ")[2].partition(".")[0].replace(",", ""))
            rule = change.partition(": ")[2]
            picked = {
                "the larger one counts": max(700, second),
                "the smaller one counts": min(700, second),
                "the one named first counts": 700,
                "the one named last counts": second,
            }[rule]
            assert expected == {"price": picked}
            assert rule in rewritten
            seen.add((rule, picked == 700))
        assert len(seen) == 6

    def test_dates_are_compared_as_dates(self) -> None:
        text, due = "Extract.\n\nIt is due on 3 May 2027.", {"due": "2027-05-03"}
        for rewritten, expected, change in rewrites(Ambiguity(), text, due):
            assert isinstance(expected, dict)
            if "later" in change:
                assert str(expected["due"]) >= "2027-05-03"
            if "earlier" in change:
                assert str(expected["due"]) <= "2027-05-03"
            assert "A second date is given for the due: " in rewritten

    def test_second_candidates_come_from_the_suite(self) -> None:
        cases = [
            Case(id=law, input=f"Extract.\n\nThe law of {law}.", expected={"law": law}) for law in ("Peru", "Chad")
        ]
        for variant in expand(
            cases, [family for family in families_for(cases) if family.name == "ambiguity"], 0
        ).variants:
            assert "Peru" in str(variant.input)
            assert "Chad" in str(variant.input)

    def test_members_of_lists_are_left_alone(self) -> None:
        with pytest.raises(Refused, match="no single field"):
            Ambiguity().rewrite("Acme and Basil agree.", {"parties": ["Acme", "Basil"]}, Random(0))

    def test_the_instruction_keeps_its_place_after_the_text(self) -> None:
        text = "The price is 700.\n\nExtract the price as JSON."
        for rewritten, _, _ in rewrites(Ambiguity(), text, {"price": 700}):
            assert rewritten.endswith("\n\nExtract the price as JSON.")


@pytest.mark.parametrize(
    ("text", "instruction", "material"),
    [
        (INVOICE, "Extract the invoice as JSON.", INVOICE.partition("\n\n")[2]),
        ("A story.\n\nSum it up.", "Sum it up.", "A story."),
        ("Return it as JSON. The price is 7.", "Return it as JSON.", "The price is 7."),
        ("What is the time?", "What is the time?", ""),
        ("Once upon a time.", "", "Once upon a time."),
        ("def f():\n    pass", "", "def f():\n    pass"),
    ],
)
def test_questions_are_taken_apart_and_joined(text: str, instruction: str, material: str) -> None:
    question = dissect(text)
    assert (question.instruction, question.material) == (instruction, material)
    assert question.text == text


def test_sentences_do_not_end_after_abbreviations() -> None:
    text = "We met Mr. Smith of Acme Ltd. Today it rains. 3 cats came."
    assert sentences(text) == ["We met Mr. Smith of Acme Ltd. Today it rains.", "3 cats came."]


@pytest.mark.parametrize(
    ("text", "is_code"), [(CODE, True), ("import os", True), (INVOICE, False), ("return it", False)]
)
def test_code_is_recognised(text: str, is_code: bool) -> None:
    assert looks_like_code(text) is is_code


def test_expected_answers_are_not_changed_in_place() -> None:
    before = json.dumps(EXPECTED)
    rewrites(EdgeCases())
    rewrites(Ambiguity())
    assert json.dumps(EXPECTED) == before
