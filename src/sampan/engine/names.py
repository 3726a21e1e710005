"""Names of containers: what is allowed, and random ones of the ``adjective_surname`` kind.

The surnames are of people who built, sailed and charted, or who made machines compute.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from sampan import errors

ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")

_ADJECTIVES = """
    able agile airy alert amber ample awake azure balanced bold brave breezy bright brisk buoyant
    calm candid careful cheerful civil clear clever coastal content cosy curious dapper daring
    dawning deft devoted distant eager earnest easy elated even fair faithful fearless festive
    fleet fluent frank fresh frugal gallant gentle genuine gifted glad golden graceful grand handy
    happy hardy hearty honest hopeful humble keen kind lively lucid lucky mellow merry mild modest
    musing neat nimble noble open patient placid playful polite prompt proud prudent quick quiet
    radiant ready robust rosy sage salty seaborne serene sharp shining silent silver sincere snug
    sober spry stable starry steady stoic sturdy sunny swift tender tidal tidy tranquil trusty
    upbeat upright vivid wakeful warm watchful wise witty zealous zesty
"""
ADJECTIVES = tuple(_ADJECTIVES.split())

_SURNAMES = """
    aiken allen amundsen anson babbage backus baffin barents bartik batuta bering bigelow blackburn
    boole bougainville bowditch brunel cabot cartier chalmers chichester church conway cook
    cousteau crowhurst dijkstra drebbel earhart eckert ellis engelbart ericsson euler fitzroy
    flinders floyd franklin frobisher froude fulton gama gauss goldstine gray hakluyt hamilton
    hanno harrison herreshoff hoare holberton hopper hudson humboldt ismay jacquard jones kepler
    kilburn knuth laperouse leibniz liskov lovelace magellan markham maury mccarthy mercator
    moitessier morris nansen napier nelson newell nordenskiold noyce pascal perlis perry polya
    pytheas ramsden ritchie ross rutherford sammet scoresby shackleton shannon slocum smeaton snell
    stephens strachey sutherland tabarly tasman thompson torvalds turing vancouver vespucci vinge
    watt weddell wheatstone wilkes wilkinson wirth wozniak wren zheng zuse
"""
SURNAMES = tuple(_SURNAMES.split())


def check(name: str, *, shown: str | None = None) -> str:
    """Return ``name`` without its leading slash, or raise InvalidParameter with Docker's words.

    At least two characters, the first a letter or a digit. ``shown`` is how the message quotes the name.
    """
    if not _NAME.match(name):
        raise errors.InvalidParameter(
            f"Invalid container name ({name if shown is None else shown}), only {ALLOWED} are allowed",
            hint="A name has two characters or more and begins with a letter or a digit.",
        )
    return name.removeprefix("/")


def generate(taken: Callable[[str], bool], rng: random.Random | None = None) -> str:
    """A random free name. ``taken(name)`` tells whether one is in use; a digit is added after six tries."""
    source = rng or random.SystemRandom()
    for _ in range(6):
        name = f"{source.choice(ADJECTIVES)}_{source.choice(SURNAMES)}"
        if not taken(name):
            return name
    while True:
        name = f"{source.choice(ADJECTIVES)}_{source.choice(SURNAMES)}{source.randrange(10_000)}"
        if not taken(name):
            return name
