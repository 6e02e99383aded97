"""The words contracts are made of: vocabularies, clause templates and layouts."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from evaluation.pocket.records import words

if TYPE_CHECKING:
    from evaluation.pocket.contracts import Contract, Variant

FIRST = words(
    "Northwind Bluestone Harbor Cedar Granite Silverline Redwood Ironbridge Maple Kestrel Falcon Summit Aurora Beacon "
    "Crescent Delta Ember Fairview Glacier Horizon Indigo Juniper Keystone Lantern Meridian Nimbus Oakfield Pinnacle "
    "Quarry Riverside Sterling Thornton Union Valley Westgate Yarrow Zenith Alpine Bayside Canyon Dorset Eastbrook "
    "Foxglove Greenway Hartwell Inverness Jasper Kingsley Lakeshore Monarch Newport Orchard Prairie Quantum Ravenna "
    "Saffron Tidewater Upland Vermont Willow Atlas Birch Compass Driftwood Evergreen Foundry Garnet Highland Ivory "
    "Jubilee Lighthouse Marlow Nordic Obsidian Pacific Rosewood Sequoia Timber Umbra Vantage Windmill Amber Bridgeport "
    "Coral Dunmore Elmwood Fulton Grove Hazel Island Laurel Mosaic Neptune Onyx Poplar Ridge Solstice Trident Velvet"
)
SECOND = words(
    "Systems Trading Logistics Partners Industries Holdings Energy Foods Textiles Software Robotics Media Shipping "
    "Materials Consulting Analytics Pharma Motors Airways Printing Optics Ceramics Farms Mining Networks Studios "
    "Packaging Instruments Chemicals Properties Services Capital Design Dynamics Labs Freight Steel Paper Marine "
    "Controls"
)
FORMS = ("Ltd", "LLC", "Inc", "GmbH", "plc", "AG", "SA", "BV", "AB", "Oy")
KINDS = (
    "service agreement",
    "supply agreement",
    "lease agreement",
    "loan agreement",
    "licence agreement",
    "consulting agreement",
    "maintenance agreement",
    "distribution agreement",
    "research agreement",
    "hosting agreement",
)
JURISDICTIONS = (
    "England and Wales",
    "Ireland",
    "Germany",
    "France",
    "Spain",
    "Italy",
    "Sweden",
    "Finland",
    "Norway",
    "Denmark",
    "the Netherlands",
    "Belgium",
    "Austria",
    "Switzerland",
    "Poland",
    "Portugal",
    "New York",
    "California",
    "Delaware",
    "Texas",
    "Ontario",
    "Singapore",
    "Japan",
    "New Zealand",
)
CURRENCIES = {
    "USD": "US dollars",
    "EUR": "euros",
    "GBP": "pounds sterling",
    "CHF": "Swiss francs",
    "JPY": "Japanese yen",
    "SEK": "Swedish kronor",
    "CAD": "Canadian dollars",
    "SGD": "Singapore dollars",
}
RARE_CURRENCIES = ("ISK", "KWD", "BHD", "XAF", "UYU", "MNT", "TND", "BWP", "FJD", "GEL")
MONTHS = words("January February March April May June July August September October November December")
YEARS_IN_WORDS = {12: "one year", 24: "two years", 36: "three years", 48: "four years", 60: "five years"}
REQUESTS = (
    "Extract the contract as JSON.",
    "Extract the key terms of this contract as JSON.",
    "Return the terms below as a JSON object.",
    "Read the contract and answer with JSON only.",
    "Turn this contract into structured data.",
    "Please extract kind, parties, date, term, amount, currency, notice and law as JSON.",
)
SYSTEMS = (
    "You are a careful assistant that extracts data.",
    "Answer with JSON and nothing else.",
    "You read contracts and return their key terms.",
)

OPENINGS = (
    "This {kind} is made between {a} and {b}.",
    "{a} and {b} enter into this {kind}.",
    "This {kind} is entered into by and between {a} and {b}.",
    "The parties to this {kind} are {a} and {b}.",
    "By this {kind}, {a} and {b} agree as follows.",
)
DATES = (
    "It takes effect on {date}.",
    "The effective date is {date}.",
    "The agreement is effective as of {date}.",
    "It enters into force on {date}.",
)
TERMS = (
    "It runs for {term}.",
    "The term is {term}.",
    "The initial term is {term} from that date.",
    "It remains in force for {term}.",
)
AMOUNTS = (
    "The total price is {money}.",
    "The total fee payable is {money}.",
    "{b} shall pay {money} in total.",
    "The contract amount is {money}.",
)
NOTICES = (
    "Either party may terminate on {notice} days' notice.",
    "It may be ended by giving {notice} days' written notice.",
    "The notice period is {notice} days.",
    "Termination requires {notice} days of notice.",
)
LAWS = (
    "It is governed by the laws of {law}.",
    "The governing law is that of {law}.",
    "The law of {law} applies.",
    "This agreement is subject to the laws of {law}.",
)
FILLERS = (
    "Neither party may assign it without consent.",
    "All notices must be in writing.",
    "Amendments must be signed by both parties.",
    "The parties shall keep its contents confidential.",
    "Invoices are payable on receipt.",
    "The annexes form part of this document.",
)

LOOSE_OPENINGS = (
    "{a} has agreed a {kind} with {b}.",
    "Here is the deal: {a} and {b} have signed a {kind}.",
    "Under a new {kind}, {a} will work with {b}.",
    "We, {a}, hereby confirm our {kind} with {b}.",
)
LOOSE_DATES = (
    "Things start on {date}.",
    "The arrangement begins {date}.",
    "From {date} onwards the deal is live.",
    "Day one is {date}.",
)
LOOSE_TERMS = (
    "They have signed up for {term}.",
    "It lasts {term}, no more.",
    "After {term} it is over.",
    "The deal is good for {term}.",
)
LOOSE_AMOUNTS = (
    "The whole thing costs {money}.",
    "All in all {money} will change hands.",
    "The bill comes to {money}.",
    "The agreed figure is {money}.",
)
LOOSE_NOTICES = (
    "Whoever wants out has to say so {notice} days ahead.",
    "Leaving early takes {notice} days' warning.",
    "A warning of {notice} days is enough to quit.",
    "Anyone can walk away after {notice} days' notice.",
)
LOOSE_LAWS = (
    "If they argue, the law of {law} decides.",
    "Disputes fall under the rules of {law}.",
    "Everything is subject to {law} law.",
    "The courts of {law} have the last word.",
)
DATE_DECOYS = (
    "It was signed on {date}, but the signing date is not the effective date.",
    "A first draft was circulated on {date}; that date has no legal effect.",
    "The signatures are dated {date}, which is only the date of signing.",
)
AMOUNT_DECOYS = (
    "A deposit of {money} is included in the total and is not the contract amount.",
    "An earlier offer of {money} was withdrawn and does not count.",
    "Of this, {money} is paid as a first instalment, which is not the total.",
)


def word(contract: Contract, variant: Variant, random: Random) -> str:
    """Word a contract as text in the manner of the variant."""
    if variant == "reformatted":
        return lay_out(contract, random)
    return write_clauses(contract, variant, random)


def write_clauses(contract: Contract, variant: Variant, random: Random) -> str:
    is_loose = variant == "paraphrased"
    opening = random.choice(LOOSE_OPENINGS if is_loose else OPENINGS)
    groups = (
        (LOOSE_DATES, LOOSE_TERMS, LOOSE_AMOUNTS, LOOSE_NOTICES, LOOSE_LAWS)
        if is_loose
        else (DATES, TERMS, AMOUNTS, NOTICES, LAWS)
    )
    clauses = [random.choice(group) for group in groups]
    date_and_term, rest = clauses[:2], clauses[2:]
    random.shuffle(rest)
    if variant == "ambiguous":
        date_and_term, rest = add_decoys(date_and_term, rest, random)
    if random.random() < 0.5:
        rest.insert(random.randint(0, len(rest)), random.choice(FILLERS))
    facts = phrase(contract, random)
    return " ".join(clause.format(**facts) for clause in (opening, *date_and_term, *rest))


def add_decoys(dates: list[str], rest: list[str], random: Random) -> tuple[list[str], list[str]]:
    """Add a second date, a second amount or both, each with the words that say it does not count."""
    which = random.choice(("date", "amount", "both"))
    if which != "amount":
        decoy = random.choice(DATE_DECOYS).replace("{date}", "{other_date}")
        dates = [decoy, *dates] if random.random() < 0.5 else [dates[0], decoy, *dates[1:]]
    if which != "date":
        decoy = random.choice(AMOUNT_DECOYS).replace("{money}", "{other_money}")
        place = next(index for index, clause in enumerate(rest) if "{money}" in clause)
        rest = [*rest[: place + 1], decoy, *rest[place + 1 :]]
    return dates, rest


def phrase(contract: Contract, random: Random) -> dict[str, str]:
    """Spell every fact the way this one document does."""
    date_style, money_style = random.randrange(4), random.randrange(4)
    other_date = (random.randint(2012, 2014), random.randint(1, 12), random.randint(1, 28))
    return {
        "kind": contract.kind,
        "a": contract.parties[0],
        "b": contract.parties[1],
        "date": spell_date(contract.effective_date, date_style),
        "other_date": spell_date(other_date, date_style),
        "term": spell_term(contract.term_months, random),
        "money": spell_money(contract.amount, contract.currency, money_style),
        "other_money": spell_money(random.randint(11, 99) * 10, contract.currency, money_style),
        "notice": str(contract.notice_days),
        "law": contract.governing_law,
    }


def spell_date(date: tuple[int, int, int], style: int) -> str:
    year, month, day = date
    name = MONTHS[month - 1]
    return (
        f"{day} {name} {year}",
        f"{name} {day}, {year}",
        f"{year:04d}-{month:02d}-{day:02d}",
        f"{name} {day} {year}",
    )[style]


def spell_term(months: int, random: Random) -> str:
    if months in YEARS_IN_WORDS and random.random() < 0.4:
        return YEARS_IN_WORDS[months]
    return f"{months} months"


def spell_money(amount: int, currency: str, style: int) -> str:
    name = CURRENCIES.get(currency)
    if style == 3 and name:
        return f"{amount:,} {name}"
    return (f"{currency} {amount:,}", f"{amount:,} {currency}", f"{currency} {amount}", f"{currency} {amount:,}")[style]


def lay_out(contract: Contract, random: Random) -> str:
    """Lay the facts out as bullets, headed lines, a table or a form."""
    facts = phrase(contract, random)
    rows = [
        ("Agreement", facts["kind"]),
        ("Parties", f"{facts['a']}; {facts['b']}"),
        ("Effective date", facts["date"]),
        ("Term", facts["term"]),
        ("Amount", facts["money"]),
        ("Notice", f"{facts['notice']} days"),
        ("Governing law", facts["law"]),
    ]
    tail = rows[2:]
    random.shuffle(tail)
    rows = rows[:2] + tail
    style = random.randrange(5)
    if style == 0:
        return "\n".join(f"- {name}: {value}" for name, value in rows)
    if style == 1:
        return "| Item | Value |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)
    if style == 2:
        return "\n".join(f"{name.upper()}\n{value}" for name, value in rows)
    if style == 3:
        return "\n".join(f"{number}. {name} - {value}" for number, (name, value) in enumerate(rows, start=1))
    return f"{facts['kind'].upper()}\n\n" + "\n".join(f"{name}: {value}" for name, value in rows)
