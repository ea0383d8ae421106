"""Cards of a run's methods, and the comparisons between them that are tested.

A card says how a method is named, drawn, compared and charged. It is in the method's file
(`CARDS`, see `workflow/schemas/card.schema.yaml`). A run keeps its cards in `methods.json`, from
which the report reads them, so that it can be made again when a method's file is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from proxykv.config import catalog
from proxykv.runtime import files
from proxykv.runtime.errors import ConfigError

FILE = "methods.json"
MAIN = "main"
"""Name of the comparisons by role, which a config need not list."""
PREMISE = "premise"
"""Name of the comparisons (own mask, proxy's mask) that test the paper's premise."""
COMPARED = ("oracle", "rival", "control", "crossed")
"""Roles that the subject is compared with, in the order of the tables."""
SINGLE = ("reference", "oracle", "subject")
"""Roles that one method of a run has at most."""
EXPECTED = (*SINGLE, "control", "crossed")
"""Roles whose absence from a run the report mentions."""

Comparisons = Mapping[str, tuple[tuple[str, str], ...]]
"""Names of groups to pairs (method, reference): the difference is method minus reference."""


@dataclass(frozen=True)
class Card:
    """One method; `workflow/schemas/card.schema.yaml` describes the fields.

    Attributes:
        label: name in tables and plots.
        role: part that it plays in comparisons.
        about: what it does, in a few words.
        shows: what a tie with the subject shows, for a control.
        color: of its curves; chosen by the plot if None.
        marker: of its points; chosen by the plot if None.
        cost: what it costs, for the estimate.
        fitted: whether it is fitted on the corpus.
    """

    label: str
    role: str = "baseline"
    about: str = ""
    shows: str = ""
    spares: str = ""
    color: str | None = None
    marker: Any = None
    cost: tuple[str, ...] = ()
    fitted: bool = False


@dataclass(frozen=True)
class MethodCards:
    """The methods of a run.

    Attributes:
        cards: cards by method, in the order of the config.
        absent: the catalogue's other methods of a role in `EXPECTED`; the report names them.
        comparisons: pairs of methods that are compared, by group.
    """

    cards: Mapping[str, Card]
    absent: Mapping[str, Card] = field(default_factory=dict)
    comparisons: Comparisons = field(default_factory=dict)

    def card(self, method: str) -> Card:
        """The card of a method; one that is only a label where the run has none."""
        return self.cards.get(method) or Card(method)

    def ids(self, *roles: str) -> list[str]:
        """Methods of these roles, in the order of the roles and of the config."""
        return [m for role in roles for m, card in self.cards.items() if card.role == role]

    def only(self, role: str) -> str | None:
        """The method of a role that one method has at most; None if the run has none."""
        return next(iter(self.ids(role)), None)

    def label(self, role: str) -> str:
        """Name of the method of such a role, also if the run lacks it."""
        both = [*self.cards.values(), *self.absent.values()]
        return next((card.label for card in both if card.role == role), f"the {role}")

    def write(self, run_dir: Path) -> None:
        """Store the cards in a run's folder."""
        files.write_json(run_dir / FILE, asdict(self))

    @classmethod
    def read(cls, run_dir: Path) -> MethodCards:
        """Read the cards that `write` stored.

        Args:
            run_dir: folder of the run.

        Raises:
            ConfigError: if the folder has no cards, or what is there is none.
        """
        path = run_dir / FILE
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; the workflow writes it when it starts")
        stored = files.read_object(path)
        try:
            return cls(
                **{kind: _cards(stored[kind]) for kind in ("cards", "absent")},
                comparisons=_pairs(stored["comparisons"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{path}: no cards of methods ({error!r}); the next run of the workflow writes it"
            ) from error


def method_cards(config: Mapping[str, Any]) -> MethodCards:
    """Cards of a config's methods, and its comparisons.

    The group `MAIN` compares the subject with each method of a role in `COMPARED`, unless the
    config lists a group of that name.
    """
    entries = catalog.entries(config["methods"])
    cards = {name: _card(name, settings) for name, settings in entries.items()}
    run = MethodCards(cards, _absent(cards))
    subject = run.only("subject")
    main = tuple((subject, other) for other in run.ids(*COMPARED)) if subject else ()
    listed = {entry["group"]: entry["pairs"] for entry in config.get("comparisons", ())}
    return replace(run, comparisons={MAIN: main, **_pairs(listed)})


def methods_table() -> Iterator[str]:
    """Lines of a Markdown table of the catalogue's methods, by role."""
    roles = catalog.schema("card")["properties"]["role"]["enum"]
    cards = {name: Card(**_plain(card)) for name, (_, card) in catalog.cards().items()}
    yield "| method | name | role | scope | fitted | what it does |"
    yield "|---|---|---|---|---|---|"
    for name, card in sorted(cards.items(), key=lambda item: roles.index(item[1].role)):
        settings = catalog.variants()[name]
        fitted = "yes" if "fitted_id" in settings else "no"
        shown = card.label if name.endswith(":") else name  # kvpress:<Press>
        yield (
            f"| `{shown}` | {card.label} | {card.role} | {settings['scope']} | {fitted} "
            f"| {card.about} |"
        )


def _card(name: str, settings: Mapping[str, Any]) -> Card:
    """A method's card. A derived one takes over what its base does and costs, not look and role."""
    known, root = catalog.cards(), settings["root"]
    adapter = root.partition(":")[0] + ":"
    _, literal = known.get(root) or known.get(adapter) or ("", {"label": name})
    card = Card(**_plain(literal), fitted="fitted_id" in settings)
    if name == root and name in known:
        return card
    return Card(name, about=card.about, spares=card.spares, cost=card.cost, fitted=card.fitted)


def _absent(cards: Mapping[str, Card]) -> dict[str, Card]:
    """The catalogue's methods that a run of these methods should have, in the roles' order."""
    covered = {card.role for card in cards.values()} & {*SINGLE}
    known = {name: Card(**_plain(card)) for name, (_, card) in catalog.cards().items()}
    return {
        name: card
        for role in EXPECTED
        for name, card in known.items()
        if card.role == role and role not in covered and name not in cards
    }


def _plain(card: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(card)
    if "cost" in made:
        made["cost"] = tuple(made["cost"])
    if isinstance(made.get("marker"), list):
        made["marker"] = tuple(made["marker"])
    return made


def _cards(stored: Mapping[str, Any]) -> dict[str, Card]:
    return {name: Card(**_plain(card)) for name, card in stored.items()}


def _pairs(listed: Mapping[str, Any]) -> dict[str, tuple[tuple[str, str], ...]]:
    return {group: tuple((one, other) for one, other in pairs) for group, pairs in listed.items()}
