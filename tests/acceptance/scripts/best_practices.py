import asyncio
import logging
import os
from datetime import datetime

from OptimizationStateAggregator import (
    AlertLevel,
    OptimizationError,
    OptimizationPriority,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    OptimizationType,
)

logging.getLogger().setLevel(logging.DEBUG)
logger = logging.getLogger("my-desk")


def new(number, **fields):
    return OptimizationState(
        optimization_id=f"opt_{number:03d}",
        name="参数优化",
        description="优化模型参数",
        optimization_type=OptimizationType.PARAMETER_TUNING,
        status=OptimizationStatus.CREATED,
        priority=OptimizationPriority.HIGH,
        created_at=datetime.now(),
        updated_at=datetime.now(),
        **fields,
    )


async def error_handling():
    aggregator = OptimizationStateAggregator()
    try:
        await aggregator.initialize()
        await aggregator.start()
        result = await aggregator.submit_optimization(new(1, total_steps=-3))
        print(result)
    except OptimizationError as e:
        print(f"优化错误: {e}")
    except Exception as e:  # noqa: BLE001 - as the specification has it
        print(f"未知错误: {e}")
    finally:
        if aggregator:
            await aggregator.cleanup()


async def custom_optimization_strategy(optimization):
    first = optimization.completed_steps
    for step in range(first, optimization.total_steps):
        await asyncio.sleep(0.01)
        optimization.progress = (step + 1) / optimization.total_steps
        optimization.completed_steps = step + 1
        optimization.current_performance = optimization.progress**2
        if step == 4 and first == 0:
            optimization.status = OptimizationStatus.PAUSED
            break


async def custom_alert_rule(alert):
    if alert.level == AlertLevel.CRITICAL:
        print(alert.title)


async def resource_management_and_batches():
    async with OptimizationStateAggregator(max_concurrent_optimizations=min(20, os.cpu_count())) as aggregator:
        await aggregator.initialize()
        await aggregator.start()
        await aggregator.coordinator.register_strategy("custom", custom_optimization_strategy)

        optimization_ids = await asyncio.gather(
            *[
                aggregator.submit_optimization(opt)
                for opt in [
                    new(2, total_steps=4),
                    new(3, total_steps=4),
                    new(4, total_steps=10, metadata={"strategy": "custom"}),
                ]
            ]
        )
        print(optimization_ids)
        while (await aggregator.get_optimization_status("opt_004")).status is not OptimizationStatus.PAUSED:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        paused = await aggregator.get_optimization_status("opt_004")
        print(f"暂停: {paused.progress:.0%}")
        await aggregator.resume_optimization("opt_004")
        while any(state.completed_at is None for state in await aggregator.get_all_optimizations()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

        aggregator.alert_system.register_alert_rule(custom_alert_rule)
        status = await aggregator.get_global_statistics()
        print(f"系统状态: {status}")
        active_optimizations = await aggregator.get_all_optimizations()
        print(f"活跃任务: {len(active_optimizations)}")
        alerts = await aggregator.get_alerts()
        print(f"未解决告警: {len([a for a in alerts if not a.resolved])}")


asyncio.run(error_handling())
asyncio.run(resource_management_and_batches())
