"""What needles say: sentences, lines of code, questions and words, apart for each split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """A kind of needle.

    In the texts, `{key}` is what a question names, `{value}` what it asks for, and `{name}` the key
    as an identifier.

    Attributes:
        prose: the needle as a sentence.
        code: the needle as a line of code.
        question: the question about it.
        digits: digits of a value; values are words where this is 0.
    """

    prose: str
    code: str
    question: str
    digits: int = 5


@dataclass(frozen=True)
class ChainForm:
    """A form of variable assignments: the first from a number, the others from a variable.

    Attributes:
        first: the first assignment, by style ("prose" or "code").
        next: the other assignments, by style.
        question: the question; it names the `{last}` variable.
        joint: text between the parts of the answer.
    """

    first: dict[str, str]
    next: dict[str, str]
    question: str
    joint: str


FORMS: dict[str, dict[str, tuple[Form, ...]]] = {
    "train": {
        "single": (
            Form(
                "The locker of the {key} opens with the code {value}.",
                "LOCKER_{name} = {value}  # code of the {key} locker",
                "Which code opens the locker of the {key}? Reply with just the code.",
            ),
            Form(
                "People in the office call the {key} by the nickname {value}.",
                '# NICKNAME of the {key}: "{value}"',
                "By which nickname is the {key} known? Reply with just the nickname.",
                digits=0,
            ),
            Form(
                "Last year the {key} was sold for {value} dollars.",
                "# price of the {key}: {value} dollars",
                "For how many dollars was the {key} sold? Reply with just the amount.",
                digits=4,
            ),
            Form(
                "To reach the {key}, dial extension {value}.",
                'dial("{key}", extension={value})',
                "Which extension reaches the {key}? Reply with just the number.",
                digits=6,
            ),
        ),
        "multikey": (
            Form(
                "Parcel number {value} was sent to the {key}.",
                'PARCELS["{key}"] = {value}',
                "What is the number of the parcel for the {key}? Reply with just the number.",
            ),
        ),
        "multivalue": (
            Form(
                "The {key} owns a ticket with the number {value}.",
                'tickets["{key}"].append({value})',
                "Which {count} ticket numbers belong to the {key}? Reply with just the numbers, "
                "separated by commas.",
            ),
            Form(
                "A shop of the {key} sells {value}.",
                '# the {key} sells "{value}"',
                "Which {count} goods does the {key} sell? Reply with just the words, "
                "separated by commas.",
                digits=0,
            ),
            Form(
                "The {key} was seen in room {value}.",
                'seen("{key}", room={value})',
                "In which {count} rooms was the {key} seen? Reply with just the numbers, "
                "separated by commas.",
                digits=4,
            ),
        ),
    },
    "eval": {
        "single": (
            Form(
                "The special magic number for {key} is {value}.",
                "MAGIC_NUMBER_{name} = {value}  # special magic number for {key}",
                "What is the special magic number for {key} mentioned above? "
                "Answer with the number only.",
            ),
            Form(
                "The secret password of the {key} team is {value}.",
                '# The secret password of the {key} team is "{value}".',
                "What is the secret password of the {key} team mentioned above? "
                "Answer with the password only.",
                digits=0,
            ),
            Form(
                "The yearly budget of the {key} project is {value} euros.",
                "BUDGET_{name} = {value}  # yearly budget of the {key} project in euros",
                "What is the yearly budget of the {key} project mentioned above, in euros? "
                "Answer with the number only.",
                digits=4,
            ),
            Form(
                "The serial id of the {key} device is {value}.",
                "SERIAL_ID_{name} = {value}  # serial id of the {key} device",
                "What is the serial id of the {key} device mentioned above? "
                "Answer with the id only.",
                digits=6,
            ),
        ),
        "multikey": (
            Form(
                "The access code of the {key} is {value}.",
                'access_codes["{key}"] = {value}',
                "What is the access code of the {key} mentioned above? "
                "Answer with the number only.",
            ),
        ),
        "multivalue": (
            Form(
                "One lucky number of the {key} is {value}.",
                'lucky_numbers["{key}"].add({value})',
                "What are all {count} lucky numbers of the {key} mentioned above? "
                "Answer with the numbers only, separated by commas.",
            ),
            Form(
                "One guest of the {key} hotel is called {value}.",
                '# One guest of the {key} hotel is called "{value}".',
                "What are the names of all {count} guests of the {key} hotel mentioned above? "
                "Answer with the names only, separated by commas.",
                digits=0,
            ),
            Form(
                "One winner of the {key} race had the start number {value}.",
                "winners_{name}.append({value})  # start number of one winner of the {key} race",
                "Which {count} start numbers did the winners of the {key} race mentioned above "
                "have? Answer with the numbers only, separated by commas.",
                digits=4,
            ),
        ),
    },
}

CHAINS = {
    "train": ChainForm(
        {"prose": "Let {key} be the number {value}.", "code": "let({key}, {value})"},
        {"prose": "Let {key} be the same as {value}.", "code": "let({key}, {value})"},
        "Above, {last} is the same as another symbol, and that one is a number. Which ones? "
        "Reply with just one line of the form: {last} is symbol is number",
        " is ",
    ),
    "eval": ChainForm(
        {"prose": "VAR {key} = {value}.", "code": "{key} = {value}"},
        {"prose": "VAR {key} = VAR {value}.", "code": "{key} = {value}"},
        "In the text above, {last} is set to another variable, and that variable is set to a "
        "number. Follow this chain from {last} to its number. Answer with one line of the form: "
        "{last} = variable = number",
        " = ",
    ),
}

ADJECTIVES = {
    "train": "brisk calm dusty eager faint gentle humble jolly mellow narrow polite quiet rapid",
    "eval": "ancient bright clever distant electric frozen golden hidden lunar northern royal",
}
NOUNS = {
    "train": "anchor basket candle drummer engine farmer garden hammer insect jacket kettle ladder",
    "eval": "badger canyon desert eagle falcon glacier harbor island jungle kingdom lagoon meadow",
}
WORDS = {
    "train": "almond bramble cobalt dolphin elbow fiddle goblet hazel indigo jasmine lantern",
    "eval": "acorn blizzard crimson domino feather granite horizon ivory juniper koala maple",
}
