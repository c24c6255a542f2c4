"""What the alerts file says of labels: matchers, and names that alerts are grouped and compared by. Pure.

Contract. Matchers that no alert can fit are a fault where that can be seen: there are four levels, and each alert has
one. Labels themselves are anybody's: one that neither O9 nor a rule of the file sets is no fault, but a
doubt, told once with the place that names it first. `doubts` is asked when the rules are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from o9.alerts.builtin_rules import BUILT_IN
from o9.alerts.figures import LABELS
from o9.alerts.matchers import Matcher, Matchers, parse, unfit, written_out
from o9.alerts.reading import Fault, Node, Reader, meant, near
from o9.alerts.rules import Rule

OF_EACH = ("title", "level", "optimization", "rule")
OF_O9 = frozenset(OF_EACH).union(*LABELS.values())
_PROMETHEUS = {"severity": "level", "alertname": "title"}


def likely_label(name: str, known: Collection[str]) -> str | None:
    """What of it was probably meant."""
    return _PROMETHEUS.get(name.lower()) or near(name, known)


class LabelReading:
    """Reads for one file, and remembers which labels it names where."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._named: list[tuple[Node, str]] = []
        self._rules: list[tuple[Node, str]] = []

    def matchers(self, node: Node | None) -> Matchers:
        """A list of texts, or one text."""
        found: list[Matcher] = []
        wrong: str | None = None
        for each in self._reader.one_or_more(node):
            matchers = self._reader.understood(each, parse) or ()
            for matcher in matchers:
                self._named.append((each, matcher.name))
                if matcher.name == "rule":
                    self._rules += [(each, name) for name in written_out(matcher) if name]
            if (why := unfit(matchers)) is not None:
                self._reader.fault(each, why)
            wrong = wrong or why
            found += matchers
        if node is not None and wrong is None and (why := unfit(tuple(found))) is not None:
            self._reader.fault(node, why)
        return tuple(found)

    def names(self, node: Node | None) -> tuple[str, ...] | None:
        """A list of names, or one name."""
        names = self._reader.texts(node)
        if node is not None:
            self._named += [(node, name) for name in names or () if name != "..."]
        return names

    def doubts(self, rules: Iterable[Rule]) -> Iterator[Fault]:
        """Labels, and names of rules in matchers, that none of `rules` has."""
        in_force = list(rules)
        known = OF_O9.union(*(rule.labels for rule in in_force))
        for node, name in _first(self._named, known):
            likely = likely_label(name, known)
            more = f"did you mean `{likely}`?" if likely else "only alerts of your own programs can have it"
            yield node.told(f"neither O9 nor a rule of this file sets the label {name!r:.80}; {more}")
        names = {rule.name for rule in (*BUILT_IN, *in_force)}
        for node, name in _first(self._rules, names):
            yield node.told(f"no rule is called {name!r:.80}{meant(name, names)}")


def _first(named: Iterable[tuple[Node, str]], known: Collection[str]) -> Iterator[tuple[Node, str]]:
    """Of each name that is not known, where it stands first."""
    seen = set(known)
    for node, name in named:
        if name not in seen:
            seen.add(name)
            yield node, name
