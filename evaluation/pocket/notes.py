"""Short work notes and their one-sentence summaries, generated from a seed."""

from collections.abc import Iterator
from random import Random

from evaluation.pocket.records import Example, ask, is_held_out, words

PEOPLE = words("Anna Ben Carla David Elena Farid Grace Hugo Irene Jonas Kemal Laura Marta Nils Olga Paul Rosa Sam")
PLACES = words("Dublin Berlin Lyon Madrid Oslo Porto Turin Vienna Leeds Ghent Malmo Basel")
SYSTEMS = (
    "billing service",
    "search index",
    "mail gateway",
    "build server",
    "payment queue",
    "login page",
    "backup job",
    "report generator",
    "storage cluster",
    "warehouse scanner",
)
EVENTS = (
    "stopped responding",
    "became slow",
    "lost its connection",
    "returned errors",
    "ran out of memory",
    "restarted",
)
CAUSES = (
    "a certificate had expired",
    "a disk was full",
    "a configuration file was wrong",
    "two jobs were running at once",
    "a cable had been unplugged",
    "an update had failed halfway",
    "the cache was never cleared",
    "a table had no index",
)
FIXES = (
    "renewed the certificate",
    "freed some space",
    "restored the old configuration",
    "moved one job to the night",
    "replaced the cable",
    "repeated the update",
    "cleared the cache",
    "added the missing index",
)
NEXT_STEPS = (
    "write a test for it",
    "add an alert",
    "review the runbook",
    "tell the customers",
    "order spare parts",
    "check the other sites",
)
REQUESTS = (
    "Summarise this note.",
    "Summarise the note in one sentence.",
    "Give a short summary of the note below.",
    "What happened? Answer in one sentence.",
)
TEMPLATES = (
    "Note from {who}, {place}. On {day} at {hour}:{minute} the {system} {event}. We looked into it for {minutes} "
    "minutes and found that {cause}. {fixer} {fix} and everything has been normal since. Next we will {step}.",
    "{day}, {place} office. {who} reports that the {system} {event} at {hour}:{minute}. It turned out that {cause}. "
    "After {minutes} minutes {fixer} {fix}. Still to do: {step}.",
    "Incident log. System: {system}. Site: {place}. Time: {day} {hour}:{minute}. What happened: it {event}. "
    "Reason: {cause}. Action: {fixer} {fix} within {minutes} minutes. Follow-up by {who}: {step}.",
    "Hello all, a quick word about {day}. The {system} in {place} {event} around {hour}:{minute} because {cause}. "
    "{fixer} {fix}, which took {minutes} minutes. Please remember to {step}. Thanks, {who}",
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


def draw_facts(random: Random) -> dict[str, str]:
    cause = random.randrange(len(CAUSES))
    who, fixer = random.sample(PEOPLE, 2)
    return {
        "who": who,
        "fixer": fixer,
        "place": random.choice(PLACES),
        "day": random.choice(DAYS),
        "hour": str(random.randint(6, 22)),
        "minute": f"{random.randint(0, 59):02d}",
        "minutes": str(random.randint(5, 95)),
        "system": random.choice(SYSTEMS),
        "event": random.choice(EVENTS),
        "cause": CAUSES[cause],
        "fix": FIXES[cause],
        "step": random.choice(NEXT_STEPS),
    }


SUMMARY = "On {day} the {system} in {place} {event} because {cause}; {fixer} {fix}. The next step is to {step}."


def notes(seed: int, *, held_out: bool) -> Iterator[Example]:
    """Yield notes with their summaries forever; a note is held out by the hash of its summary."""
    random = Random(f"notes/{seed}/{held_out}")
    while True:
        facts = draw_facts(random)
        summary = SUMMARY.format(**facts)
        if is_held_out(summary) == held_out:
            note = random.choice(TEMPLATES).format(**facts)
            yield ask("summary", f"{random.choice(REQUESTS)}\n\n{note}", summary)
