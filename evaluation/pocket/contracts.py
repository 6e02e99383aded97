"""Contracts and the JSON that a reader should extract from them, generated from a seed.

A contract is held out if the pair of its parties is, so no evaluated pair has been seen in training.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from evaluation.pocket import contract_text as wording
from evaluation.pocket.records import Example, ask, is_held_out

Variant = Literal["standard", "paraphrased", "reformatted", "rare", "ambiguous"]

VARIANTS: tuple[Variant, ...] = ("standard", "paraphrased", "reformatted", "rare", "ambiguous")
TRAINING_WEIGHTS = (45, 15, 16, 12, 12)


@dataclass(frozen=True, kw_only=True)
class Contract:
    kind: str
    parties: tuple[str, str]
    effective_date: tuple[int, int, int]
    term_months: int
    amount: int
    currency: str
    notice_days: int
    governing_law: str

    def to_json(self) -> str:
        """Write the extraction in its one canonical form: fixed key order, one line."""
        year, month, day = self.effective_date
        return json.dumps(
            {
                "kind": self.kind,
                "parties": list(self.parties),
                "effective_date": f"{year:04d}-{month:02d}-{day:02d}",
                "term_months": self.term_months,
                "amount": self.amount,
                "currency": self.currency,
                "notice_days": self.notice_days,
                "governing_law": self.governing_law,
            }
        )


def draw_contract(random: Random, variant: Variant) -> Contract:
    """Draw the facts; `rare` ones have unusual currencies, leap days, long names and odd amounts."""
    is_rare = variant == "rare"
    first = draw_company(random, is_long=is_rare and random.random() < 0.6)
    second = draw_company(random, is_long=is_rare and random.random() < 0.3)
    while second.split()[0] == first.split()[0]:
        second = draw_company(random, is_long=False)
    return Contract(
        kind=random.choice(wording.KINDS),
        parties=(first, second),
        effective_date=draw_date(random, is_rare=is_rare),
        term_months=random.choice((7, 11, 13, 17, 30, 42, 54, 84, 120) if is_rare else (6, 9, 12, 18, 24, 36, 48, 60)),
        amount=draw_amount(random, is_rare=is_rare),
        currency=random.choice(wording.RARE_CURRENCIES if is_rare else tuple(wording.CURRENCIES)),
        notice_days=random.choice((5, 21, 28, 75, 180) if is_rare else (10, 14, 15, 30, 45, 60, 90)),
        governing_law=random.choice(wording.JURISDICTIONS),
    )


def draw_company(random: Random, *, is_long: bool) -> str:
    if not is_long:
        return f"{random.choice(wording.FIRST)} {random.choice(wording.SECOND)} {random.choice(wording.FORMS)}"
    first, second = random.sample(wording.FIRST, 2)
    trade, other = random.choice(wording.SECOND), random.choice(wording.SECOND)
    return f"{first} {second} {trade} and {other} {random.choice(wording.FORMS)}"


def draw_date(random: Random, *, is_rare: bool) -> tuple[int, int, int]:
    if is_rare and random.random() < 0.5:
        return random.choice((2000, 2016, 2020, 2024, 2028, 2032)), 2, 29
    return random.randint(2015, 2029), random.randint(1, 12), random.randint(1, 28)


def draw_amount(random: Random, *, is_rare: bool) -> int:
    if is_rare:
        return random.randint(1_000, 9_999_999)
    if random.random() < 0.7:
        return random.randint(2, 999) * 1000
    return random.randint(10, 9_999) * 100


def extraction(contract: Contract, variant: Variant, random: Random) -> Example:
    """Word one contract as a request whose answer is its canonical JSON."""
    body = wording.word(contract, variant, random)
    request = random.choice(wording.REQUESTS)
    layout = random.choice(("{request}\n\n{body}", "{request}\n\n{body}", "{body}\n\n{request}"))
    system = random.choice(wording.SYSTEMS) if random.random() < 0.15 else ""
    return ask("structured", layout.format(request=request, body=body), contract.to_json(), system)


def contracts(seed: int, *, held_out: bool, variant: Variant | None = None) -> Iterator[Example]:
    """Yield extractions forever; without a variant they come in the mix used for training."""
    random = Random(f"contracts/{seed}/{held_out}/{variant}")
    while True:
        chosen = variant or random.choices(VARIANTS, TRAINING_WEIGHTS)[0]
        contract = draw_contract(random, chosen)
        if is_held_out(" / ".join(contract.parties)) == held_out:
            yield extraction(contract, chosen, random)
