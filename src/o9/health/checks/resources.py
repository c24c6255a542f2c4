"""Does it take its time and its memory as it did before? Pure; by the figures of its newest steps."""

from __future__ import annotations

from statistics import median

from o9.health.checks.check import Check, unknown
from o9.health.facts import HealthFacts
from o9.lifecycle.effect import CPU, MEMORY, STEP_SECONDS, TRIALS
from o9.lifecycle.trends import GROWING_READINGS, SLOWER_STEPS, growth, slowdown
from o9.text.format import count

SPEED, MEMORY_USE = "performance.speed", "performance.memory"
WORSE = 0.6  # below the threshold: a warning
NEWEST_STEPS = 200


def resources(facts: HealthFacts) -> list[Check]:
    """Nothing before the first step."""
    return [speed(facts), memory(facts)] if facts.figures else []


def speed(facts: HealthFacts) -> Check:
    """Does a trial take as long as it did in the steps before?"""
    times = [
        figures[STEP_SECONDS] / max(1.0, figures.get(TRIALS, 1.0))
        for figures in _newest(facts)
        if STEP_SECONDS in figures
    ]
    if len(times) < 2 * SLOWER_STEPS:
        why = f"the seconds of {count(len(times), 'step')} are recorded, at least {2 * SLOWER_STEPS} are needed"
        return unknown(SPEED, why)
    before, now = median(times[:-SLOWER_STEPS]), median(times[-SLOWER_STEPS:])
    evidence = {"seconds_before": before, "seconds_now": now, "steps": len(times)}
    words = f"a trial takes {now:.3g} s in its last {SLOWER_STEPS} steps, and took {before:.3g} s in those before"
    found = slowdown(times)
    if found is None:
        return Check(SPEED, 1.0, words, evidence=evidence)
    remedy = "see whether the machine was busy, the data grow, or the sampler's model does (gp, tpe)"
    return Check(SPEED, WORSE, f"{words}: {found.now / found.before:.1f} times as long", remedy, evidence=evidence)


def memory(facts: HealthFacts) -> Check:
    """Does the memory of its processes stay where it is?"""
    readings = [figures[MEMORY] for figures in _newest(facts) if MEMORY in figures]
    if len(readings) < GROWING_READINGS:
        why = f"it was measured in {count(len(readings), 'step')}, at least {GROWING_READINGS} are needed; "
        why += "children are measured once a second, and async objectives have no process of their own"
        return unknown(MEMORY_USE, why)
    cpu = [figures[CPU] for figures in _newest(facts) if CPU in figures]
    evidence = {"first_mib": readings[0], "last_mib": readings[-1], "most_mib": max(readings)}
    evidence |= {"readings": len(readings)}
    words = f"the memory of its processes went from {readings[0]:.0f} to {readings[-1]:.0f} MiB"
    words += f", at most {max(readings):.0f}"
    if cpu:
        evidence |= {"cpu_percent": median(cpu)}
        words += f"; they used {median(cpu):.0f}% of a core"
    if growth(readings) is None:
        return Check(MEMORY_USE, 1.0, words, evidence=evidence)
    remedy = "look for what the objective keeps from trial to trial (caches, lists, open files)"
    return Check(MEMORY_USE, WORSE, f"{words}: it grows, and goes on", remedy, evidence=evidence)


def _newest(facts: HealthFacts) -> list[dict[str, float]]:
    return [facts.figures[step] for step in sorted(facts.figures)[-NEWEST_STEPS:]]
