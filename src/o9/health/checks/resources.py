"""Do trials take more time, or processes more memory, than before? Judged by the newest steps. Pure."""

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
    """No checks before the first step."""
    return [speed(facts), memory(facts)] if facts.figures else []


def speed(facts: HealthFacts) -> Check:
    """Does a trial take as long as in earlier steps?"""
    times = [
        figures[STEP_SECONDS] / max(1.0, figures.get(TRIALS, 1.0))
        for figures in _newest(facts)
        if STEP_SECONDS in figures
    ]
    if len(times) < 2 * SLOWER_STEPS:
        why = f"only {count(len(times), 'step')} with a recorded time; at least {2 * SLOWER_STEPS} are needed"
        return unknown(SPEED, why)
    before, now = median(times[:-SLOWER_STEPS]), median(times[-SLOWER_STEPS:])
    evidence = {"seconds_before": before, "seconds_now": now, "steps": len(times)}
    words = f"a trial took {now:.3g} s in the last {SLOWER_STEPS} steps, {before:.3g} s in earlier ones"
    found = slowdown(times)
    if found is None:
        return Check(SPEED, 1.0, words, evidence=evidence)
    remedy = "check whether the machine was busy, or the data or the sampler's model (gp, tpe) grow"
    return Check(SPEED, WORSE, f"{words}: {found.now / found.before:.1f} times as long", remedy, evidence=evidence)


def memory(facts: HealthFacts) -> Check:
    """Is the memory of its processes stable?"""
    readings = [figures[MEMORY] for figures in _newest(facts) if MEMORY in figures]
    if len(readings) < GROWING_READINGS:
        why = f"only {count(len(readings), 'step')} with a measurement; at least {GROWING_READINGS} are needed; "
        why += "child processes are measured once a second, and an async objective has none"
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
    remedy = "find what the objective keeps from trial to trial (caches, lists, open files)"
    return Check(MEMORY_USE, WORSE, f"{words}, and keeps growing", remedy, evidence=evidence)


def _newest(facts: HealthFacts) -> list[dict[str, float]]:
    return [facts.figures[step] for step in sorted(facts.figures)[-NEWEST_STEPS:]]
