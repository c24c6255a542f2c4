"""The yardstick of lifecycle.py: a bare Prefect flow, which a process that a worker starts imports."""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from work import TRIALS, async_computation, backtest_computation, sync_computation

pool: ProcessPoolExecutor | None = None  # where sync work is done; None: in the flow's own process


@task(task_run_name="step-{step}", cache_policy=NO_CACHE, persist_result=False)
async def async_step(step: int) -> float:
    return float(await async_computation({"x": float(step)}))


@task(task_run_name="step-{step}", cache_policy=NO_CACHE, persist_result=False)
async def sync_step(step: int) -> float:
    if pool is None:
        return float(sync_computation({"x": float(step)}))
    return await asyncio.get_running_loop().run_in_executor(pool, sync_computation, {"x": float(step)})


@task(task_run_name="step-{step}", cache_policy=NO_CACHE, persist_result=False)
async def backtest_step(step: int) -> float:
    return float(max(backtest_computation({"fast": 5 + step % 5, "slow": 50 + trial}) for trial in range(TRIALS)))


STEP_OF = {"async": async_step, "sync": sync_step, "backtest": backtest_step}


@flow(persist_result=False)
async def bare_flow(kind: str, steps: int) -> None:
    for step in range(steps):
        await STEP_OF[kind](step)
