"""The built-in suites: their cases, their scorers, and that none of them was trained on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import islice

import msgspec
import pytest

from evaluation.pocket.contracts import contracts
from evaluation.pocket.notes import notes
from evaluation.quality.builtin import overlap
from evaluation.quality.builtin.adversarial import adversarial_cases, chosen_cases, expansion
from evaluation.quality.builtin.code_cases import library_cases, tiny_cases
from evaluation.quality.builtin.contract_cases import contract_cases
from evaluation.quality.builtin.examples import interleaved
from evaluation.quality.builtin.overlap import NEAR_DUPLICATE, OverlapIndex, find_overlaps, shingles_of, texts_of
from evaluation.quality.builtin.prose_cases import essay_cases, note_cases
from evaluation.quality.builtin.scorers import AllRight, CompletionParses, CompletionRight, Overlap, first_line
from evaluation.quality.builtin.tiny_functions import CONSTANTS, IDEAS, made, tiny_functions
from evaluation.quality.loading import load_suite
from evaluation.quality.scoring import build_scorers
from evaluation.quality.suite import Case, ChatMessage, JsonValue

SUITES = ("extraction", "code", "open_ended", "adversarial")


def trained(count: int) -> Iterator[str]:
    """Contracts and notes for training; code and prose would have the whole standard library parsed."""
    streams = (contracts(0, held_out=False), notes(0, held_out=False))
    return texts_of(example for stream in streams for example in islice(stream, count))


def good_answer(case: Case) -> str:
    """What a perfect model would answer."""
    if isinstance(case.expected, dict) and "body" in case.expected:
        return str(case.expected["body"])
    return case.expected if isinstance(case.expected, str) else msgspec.json.encode(case.expected).decode()


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_loads_with_at_least_200_different_cases(name: str) -> None:
    suite = load_suite(name)
    assert len({msgspec.json.encode(case.input) for case in suite.cases}) >= 200
    assert load_suite(name).digest() == suite.digest()


@pytest.mark.parametrize("name", SUITES)
def test_good_answers_score_high_and_empty_ones_low(name: str) -> None:
    suite = load_suite(name)
    scorers = build_scorers(suite)
    for case in (*suite.cases[:3], *suite.cases[-2:]):
        for metric, scorer in scorers.items():
            # Drift sets its threshold so that one sentence in twenty of good text falls under it.
            assert scorer(case, good_answer(case)).value >= (0.5 if metric == "topic_drift" else 1.0), (case.id, metric)
            assert scorer(case, "").value == 0.0, (case.id, metric)


def test_every_task_has_its_own_200_cases() -> None:
    assert len(contract_cases()) >= 200
    assert len(library_cases()) >= 200
    assert len(note_cases()) >= 200
    assert len(essay_cases()) >= 200


def test_cases_follow_from_the_seed() -> None:
    for make in (contract_cases, note_cases, essay_cases, library_cases, tiny_cases):
        assert make(3) == make(3)
        assert make(3) != make(4)


@pytest.mark.parametrize(("name", "key", "num_kinds"), [("extraction", "manner", 5), ("code", "kind", 2)])
def test_the_first_cases_are_of_every_kind(name: str, key: str, num_kinds: int) -> None:
    cases = load_suite(name).cases
    assert len({case.metadata[key] for case in cases[:num_kinds]}) == num_kinds
    assert len({case.id for case in cases}) == len(cases)


def test_groups_of_unequal_length_are_interleaved_whole() -> None:
    one, two, three = (Case(id=str(number), input="?") for number in range(3))
    assert interleaved([one, two], [three]) == [one, three, two]


def test_a_system_turn_is_kept() -> None:
    chats = [case for case in contract_cases() if not isinstance(case.input, str)]
    assert chats
    assert all([message.role for message in case.input] == ["system", "user"] for case in chats)  # type: ignore[union-attr]


def test_library_bodies_complete_their_heads() -> None:
    for case in library_cases():
        assert isinstance(case.expected, dict)
        ast.parse(f"{case.expected['head']}{case.expected['body']}\n")


@pytest.mark.parametrize("idea", IDEAS, ids=lambda idea: idea.names[0])
def test_a_tiny_function_passes_its_own_asserts_and_an_empty_one_does_not(idea) -> None:
    for constant in (CONSTANTS[0], CONSTANTS[-1]):
        function = made(idea, idea.names[0], constant)
        checks = "\n".join(function.asserts)
        exec(compile(f"{function.head}{function.body}\n{checks}", "tiny", "exec"), {})
        with pytest.raises((AssertionError, TypeError)):
            exec(compile(f"{function.head}    return None\n{checks}", "tiny", "exec"), {})


def test_there_are_only_so_many_tiny_functions() -> None:
    assert len({function.head for function in tiny_functions(0, 200)}) == 200
    with pytest.raises(ValueError, match="tiny functions"):
        tiny_functions(0, 10**6)


def test_the_adversarial_set_holds_its_cases_and_their_variants() -> None:
    cases = adversarial_cases()
    families = {case.family for case in cases}
    assert families == {None, "paraphrase", "format", "edge_case", "ambiguity"}
    assert len(cases) == len(chosen_cases()) + len(expansion().variants)
    assert {case.variant_of for case in cases if case.family} <= {case.id for case in cases if not case.family}


class TestScorers:
    """What the suites are scored by."""

    tiny = Case(
        id="tiny",
        input="Finish the code below.\n\ndef add(a):\n",
        expected={
            "head": "def add(a):\n",
            "body": "    return a + 2",
            "asserts": ["assert add(1) == 3", "assert add(0) == 2"],
        },
    )
    library = msgspec.structs.replace(
        tiny, expected={"head": "def add(a):\n", "body": "    return a + 2\n", "asserts": []}
    )

    @pytest.mark.parametrize(
        ("answer", "parses", "right"),
        [
            ("    return a + 2", 1.0, 1.0),
            ("    return a * 3", 1.0, 0.5 * 1.0),
            ("    return 7", 1.0, 0.0),
            ("    return (", 0.0, 0.0),
            ("return a + 2", 0.0, 0.0),
        ],
    )
    def test_tiny_functions_are_run(self, answer: str, parses: float, right: float) -> None:
        assert CompletionParses()(self.tiny, answer).value == parses
        assert CompletionRight()(self.tiny, answer).value == right

    @pytest.mark.parametrize(
        ("answer", "right"), [("\n    return a + 2 \n    x", 1.0), ("    return a", 0.0), ("", 0.0)]
    )
    def test_library_functions_are_right_by_their_first_line(self, answer: str, right: float) -> None:
        assert CompletionRight()(self.library, answer).value == right

    def test_all_right_wants_every_field_and_overlap_counts_them(self) -> None:
        case = Case(id="one", input="?", expected={"a": 1, "b": "x"})
        assert AllRight()(case, '{"a": 1, "b": "x"}').value == 1.0
        assert AllRight()(case, '{"a": 1, "b": "y"}').value == 0.0
        assert Overlap()(case, '{"a": 1, "b": "y"}').value == 0.5
        assert AllRight()(msgspec.structs.replace(case, expected="yes"), " yes ").value == 1.0

    @pytest.mark.parametrize("expected", ["text", {"head": ""}, {"head": "", "body": "", "asserts": "x"}])
    def test_a_completion_needs_head_and_body(self, expected: JsonValue) -> None:
        with pytest.raises(ValueError, match="must be"):
            CompletionRight().check(Case(id="one", input="?", expected=expected))

    def test_blank_lines_come_before_no_first_line(self) -> None:
        assert first_line("\n\n  x = 1\ny") == "x = 1"
        assert first_line(" \n") == ""


class TestOverlap:
    """No case was trained on, and the check would notice one that was."""

    @pytest.mark.system
    def test_no_case_was_trained_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Against everything that the target has seen."""
        assert overlap.main([]) == 0
        assert "| extraction | 280 | 0 | 0 |" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["extraction", "open_ended", "adversarial"])
    def test_no_case_overlaps_with_contracts_and_notes_for_training(self, name: str) -> None:
        found = find_overlaps(load_suite(name).cases, trained(1000))
        assert not [overlap for overlap in found if overlap.is_near_duplicate]
        # The training texts did pass by: cases share phrases with them.
        assert max(overlap.containment for overlap in found) > 0.2

    def planted(self, edit: bool) -> Case:
        example = next(notes(0, held_out=False))
        question = example.prompt_messages[-1]["content"]
        if edit:
            question = question.upper().replace(".", " !", 1) + " By the way."
        return Case(id="planted", input=question, expected=example.reference)

    @pytest.mark.parametrize("edit", [False, True])
    def test_a_planted_training_text_is_found(self, edit: bool) -> None:
        cases = [*note_cases(count=5), self.planted(edit)]
        *others, planted = find_overlaps(cases, trained(100))
        assert planted.is_near_duplicate
        assert planted.is_copy is not edit
        assert planted.containment > NEAR_DUPLICATE
        assert not any(overlap.is_near_duplicate for overlap in others)

    def test_a_planted_training_text_fails_the_command(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overlap, "training_texts", trained)
        monkeypatch.setattr(overlap, "SUITES", ("open_ended",))
        assert overlap.main(["--texts", "50"]) == 0
        suite = load_suite("open_ended")
        planted = msgspec.structs.replace(suite, cases=(*suite.cases, self.planted(edit=True)))
        monkeypatch.setattr(overlap, "load_suite", lambda _: planted)
        assert overlap.main(["--texts", "50"]) == 1
        assert "| open_ended | 401 | 0 | 1 |" in capsys.readouterr().out

    def test_every_copy_of_a_case_is_found(self) -> None:
        case = self.planted(edit=False)
        found = find_overlaps([case, msgspec.structs.replace(case, id="again")], trained(100))
        assert all(overlap.is_copy for overlap in found)

    def test_a_case_inside_a_long_text_is_found(self) -> None:
        index = OverlapIndex([Case(id="one", input="one two three four five six seven", expected="eight")])
        index.pass_text("before it " * 50 + "one two three four five six seven EIGHT!" + " after it" * 50)
        (found,) = index.overlaps()
        assert found.containment == 1.0
        assert found.jaccard < 0.5
        assert not found.is_copy

    def test_texts_shorter_than_a_shingle_count(self) -> None:
        assert shingles_of("Yes, sir") == {("yes", "sir")}
        case = Case(id="one", input=(ChatMessage(role="user", content="Yes"),), expected="sir")
        (found,) = find_overlaps([case], ["yes! SIR."])
        assert found.is_copy
