"""Documentation: the public names with their descriptions. `make docs` builds the API reference from the same."""

from __future__ import annotations

import inspect

import OptimizationStateAggregator as o9


def first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


for name in o9.__all__:
    thing = getattr(o9, name)
    print(f"{name}: {first_line(thing)}")
    if events := getattr(thing, "events", ()):
        print(f"    events: {', '.join(events)}")

print()
print(inspect.getdoc(o9.OptimizationStatistics.frame))
