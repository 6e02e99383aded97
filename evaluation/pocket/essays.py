"""A small grammar of essays: a table of everyday subjects, and sentences that talk about them."""

from random import Random

# subject: (what it is, two or three uses, parts, where it is found, what to watch)
SUBJECTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str, str]] = {
    "bridges": (
        "structures that carry a road over a gap",
        ("cross rivers", "join two towns", "shorten a journey"),
        ("piers", "cables", "a deck"),
        "near old harbours",
        "rust",
    ),
    "rivers": (
        "streams of water that flow to the sea",
        ("carry boats", "water the fields", "turn mills"),
        ("a source", "a bed", "a mouth"),
        "in every valley",
        "floods",
    ),
    "bread": (
        "a food made of flour and water",
        ("feed a family", "go with soup", "keep for days"),
        ("a crust", "a crumb", "a little salt"),
        "in every bakery",
        "mould",
    ),
    "clocks": (
        "machines that measure time",
        ("wake us up", "set a rhythm", "guide ships"),
        ("hands", "a spring", "a dial"),
        "on church towers",
        "dust",
    ),
    "gardens": (
        "pieces of land where plants are grown",
        ("give us fruit", "cool the air", "feed the bees"),
        ("beds", "paths", "a fence"),
        "behind many houses",
        "frost",
    ),
    "libraries": (
        "places where books are kept",
        ("lend books", "help students", "keep old papers"),
        ("shelves", "a catalogue", "a quiet room"),
        "in most cities",
        "damp",
    ),
    "trains": (
        "vehicles that run on rails",
        ("carry people", "move coal", "link the coast"),
        ("an engine", "wagons", "brakes"),
        "between large cities",
        "ice",
    ),
    "lighthouses": (
        "towers that send light over the sea",
        ("warn sailors", "mark a reef", "show the harbour"),
        ("a lamp", "a lens", "a long stair"),
        "on rocky coasts",
        "storms",
    ),
    "maps": (
        "drawings of the land",
        ("show the way", "plan a road", "mark a border"),
        ("a scale", "a legend", "a grid"),
        "in every school",
        "errors",
    ),
    "windmills": (
        "mills that are driven by the wind",
        ("grind grain", "pump water", "saw wood"),
        ("sails", "a shaft", "two stones"),
        "on open plains",
        "gales",
    ),
    "honey": (
        "a sweet food made by bees",
        ("sweeten tea", "keep fruit", "soothe a cough"),
        ("sugar", "water", "a trace of pollen"),
        "in warm meadows",
        "heat",
    ),
    "computers": (
        "machines that follow instructions",
        ("sort data", "draw pictures", "send letters"),
        ("a processor", "memory", "a screen"),
        "in every office",
        "heat",
    ),
    "markets": (
        "places where people buy and sell",
        ("sell fish", "set prices", "bring news"),
        ("stalls", "scales", "a square"),
        "in the old town",
        "thieves",
    ),
    "forests": (
        "lands that are covered with trees",
        ("give us wood", "hold the soil", "shelter birds"),
        ("roots", "leaves", "moss"),
        "in the north",
        "fire",
    ),
    "ships": (
        "large vessels that cross the sea",
        ("carry grain", "catch fish", "bring mail"),
        ("a hull", "a mast", "an anchor"),
        "in every port",
        "salt",
    ),
    "schools": (
        "places where children learn",
        ("teach reading", "train the mind", "bring friends together"),
        ("classrooms", "a yard", "a bell"),
        "in every village",
        "noise",
    ),
    "castles": (
        "strong houses built for war",
        ("guard a pass", "store food", "impress a rival"),
        ("walls", "a gate", "a deep well"),
        "on steep hills",
        "decay",
    ),
    "music": (
        "the art of ordered sound",
        ("calm a child", "lead a march", "tell a story"),
        ("rhythm", "melody", "silence"),
        "in every culture",
        "noise",
    ),
    "salt": (
        "a mineral that we eat",
        ("keep meat", "melt ice", "season food"),
        ("small crystals", "sodium", "chlorine"),
        "in the sea",
        "damp",
    ),
    "glass": (
        "a clear and brittle material",
        ("let in light", "hold wine", "bend a ray"),
        ("sand", "soda", "lime"),
        "in every window",
        "cracks",
    ),
    "weather": (
        "the state of the air around us",
        ("ripen crops", "fill a sail", "shape a day"),
        ("wind", "clouds", "rain"),
        "over land and sea",
        "sudden change",
    ),
    "paper": (
        "a thin sheet made of fibres",
        ("carry words", "wrap a parcel", "filter tea"),
        ("pulp", "water", "glue"),
        "on every desk",
        "fire",
    ),
    "wells": (
        "deep holes that reach water",
        ("water the cattle", "serve a village", "fill a pond"),
        ("a shaft", "a bucket", "a rope"),
        "in dry places",
        "mud",
    ),
    "coins": (
        "small pieces of metal used as money",
        ("pay a toll", "store wealth", "honour a king"),
        ("an edge", "a face", "a date"),
        "in every purse",
        "wear",
    ),
}

OPENINGS = (
    "{Subject} are {what}.",
    "When we speak of {subject}, we mean {what}.",
    "{Subject} have been with us for a long time.",
    "Most people know {subject}, but few think about them.",
)
USE_SENTENCES = (
    "They {use1} and {use2}.",
    "First of all, they {use1}. They also {use2}.",
    "People need them because they {use1}, and because they {use2}.",
    "On a good day they {use1}; on a bad day they at least {use2}.",
)
PART_SENTENCES = (
    "The most important parts are {part1} and {part2}.",
    "Look closely and you will see {part1}, {part2} and {part3}.",
    "Without {part1} there would be nothing to talk about.",
    "A simple description names {part1}, then {part2}, and finally {part3}.",
)
PLACE_SENTENCES = (
    "They are found {place}.",
    "You can find them {place}, and often in other places too.",
    "For centuries they have been common {place}.",
)
CARE_SENTENCES = (
    "The greatest danger is {danger}.",
    "The only thing to watch is {danger}.",
    "Those who look after them worry most about {danger}.",
    "With a little care, {danger} is not a problem.",
)
CLOSINGS = (
    "In short, {subject} are simple, useful and easy to like.",
    "This is why {subject} still matter today.",
    "It is hard to imagine the world without them.",
    "There is more to say about {subject}, but this is a good start.",
)


def essay(random: Random) -> tuple[str, str]:
    """Return (topic, text): six to eight sentences about one subject, or about two in two paragraphs."""
    first, second = random.sample(sorted(SUBJECTS), 2)
    if random.random() < 0.5:
        return first, paragraph(first, random)
    return f"{first} and {second}", f"{paragraph(first, random)}\n\n{paragraph(second, random)}"


def paragraph(subject: str, random: Random) -> str:
    what, uses, parts, place, danger = SUBJECTS[subject]
    chosen_uses, chosen_parts = random.sample(uses, 2), random.sample(parts, 3)
    middle = [random.choice(group) for group in (USE_SENTENCES, PART_SENTENCES, PLACE_SENTENCES, CARE_SENTENCES)]
    random.shuffle(middle)
    sentences = (random.choice(OPENINGS), *middle, random.choice(CLOSINGS))
    names = {
        "subject": subject,
        "Subject": subject.capitalize(),
        "what": what,
        "use1": chosen_uses[0],
        "use2": chosen_uses[1],
        "part1": chosen_parts[0],
        "part2": chosen_parts[1],
        "part3": chosen_parts[2],
        "place": place,
        "danger": danger,
    }
    return " ".join(sentence.format(**names) for sentence in sentences)
