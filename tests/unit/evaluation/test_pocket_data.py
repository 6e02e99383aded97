"""The generators of the pocket models' data."""

import ast
import json
from itertools import islice

import pytest

from evaluation.pocket import contract_text, stdlib
from evaluation.pocket.contracts import VARIANTS, Variant, contracts
from evaluation.pocket.corpus import GENERATORS
from evaluation.pocket.notes import notes
from evaluation.pocket.prompts import held_out, held_out_contracts, held_out_raw
from evaluation.pocket.records import TASKS, Task, is_held_out

CONTRACT_KEYS = [
    "kind",
    "parties",
    "effective_date",
    "term_months",
    "amount",
    "currency",
    "notice_days",
    "governing_law",
]


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_gives_the_same_examples(task: Task) -> None:
    assert held_out(task, 20, seed=3) == held_out(task, 20, seed=3)
    assert held_out(task, 20, seed=3) != held_out(task, 20, seed=4)


def test_training_differs_from_evaluation_under_the_same_seed() -> None:
    trained = list(islice(contracts(1, held_out=False), 20))
    assert trained == list(islice(contracts(1, held_out=False), 20))
    assert trained != list(islice(contracts(1, held_out=True), 20))


def test_unknown_task_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="structured"):
        held_out("poetry", 1, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_held_out_prompts_are_chats_unless_raw_ones_are_asked_for(task: Task) -> None:
    assert all(example.prompt_messages for example in held_out(task, 20, seed=0))
    if task in ("code", "prose"):
        assert all(example.chat == "<bos>" + example.raw_prompt for example in held_out_raw(task, 10, seed=0))
    else:
        with pytest.raises(ValueError, match="no raw prompts"):
            held_out_raw(task, 1, seed=0)


@pytest.mark.parametrize("task", ["structured", "summary"])
def test_no_generated_answer_is_both_trained_and_held_out(task: Task) -> None:
    trained = {example.reference for example in islice(GENERATORS[task](0, held_out=False), 1500)}
    evaluated = {example.reference for example in held_out(task, 300, seed=0)}
    assert not trained & evaluated


def test_parties_of_held_out_contracts_are_never_trained() -> None:
    for example in held_out("structured", 100, seed=1):
        assert is_held_out(" / ".join(json.loads(example.reference)["parties"]))
    for example in islice(contracts(1, held_out=False), 300):
        assert not is_held_out(" / ".join(json.loads(example.reference)["parties"]))


def test_held_out_modules_exist() -> None:
    evaluated = {module.name for module in stdlib.split_modules(held_out=True)}
    assert evaluated >= {"textwrap", "importlib.metadata"}
    assert all(stdlib.is_held_out_module(name) for name in evaluated)


@pytest.mark.parametrize(("name", "expected"), [("csv", True), ("importlib.metadata._text", True), ("csvkit", False)])
def test_a_held_out_module_takes_its_submodules_along(name: str, expected: bool) -> None:
    assert stdlib.is_held_out_module(name) is expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_references_are_canonical_json(variant: Variant) -> None:
    for example in held_out_contracts(variant, 100, seed=5):
        facts = json.loads(example.reference)
        assert list(facts) == CONTRACT_KEYS
        assert json.dumps(facts) == example.reference
        assert facts["currency"] in {*contract_text.CURRENCIES, *contract_text.RARE_CURRENCIES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_copied_fact_stands_in_the_prompt(variant: Variant) -> None:
    for example in held_out_contracts(variant, 100, seed=6):
        facts, prompt = json.loads(example.reference), example.chat
        for copied in (*facts["parties"], facts["kind"], facts["governing_law"], str(facts["notice_days"])):
            assert copied in prompt
        assert str(facts["amount"]) in prompt or f"{facts['amount']:,}" in prompt


def test_ambiguous_contracts_name_a_second_date_or_amount() -> None:
    decoys = [
        decoy.split("{")[0] or decoy.split("}")[1]
        for decoy in (*contract_text.DATE_DECOYS, *contract_text.AMOUNT_DECOYS)
    ]
    for example in held_out_contracts("ambiguous", 50, seed=7):
        assert any(decoy in example.chat for decoy in decoys)


def test_rare_contracts_have_leap_days_and_long_names() -> None:
    references = [json.loads(example.reference) for example in held_out_contracts("rare", 100, seed=8)]
    assert any(facts["effective_date"].endswith("-02-29") for facts in references)
    assert any(len(name.split()) > 5 for facts in references for name in facts["parties"])


def test_summaries_name_only_what_the_note_says() -> None:
    for example in islice(notes(2, held_out=True), 50):
        note = example.prompt_messages[-1]["content"]
        day = example.reference.split()[1]
        assert day in note


def test_functions_are_cut_into_head_and_body() -> None:
    module = next(module for module in stdlib.split_modules(held_out=True) if module.name == "textwrap")
    found = {function.name: function for function in stdlib.functions(module)}
    dedent = found["dedent"]
    assert dedent.head.startswith("def dedent(text):")
    ast.parse(dedent.head + dedent.body)
