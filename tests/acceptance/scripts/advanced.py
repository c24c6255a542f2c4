import asyncio
from datetime import datetime

from OptimizationStateAggregator import (
    OptimizationPriority,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    OptimizationType,
)


async def advanced_example():
    # 创建高级配置的聚合器
    aggregator = OptimizationStateAggregator(
        max_concurrent_optimizations=20,
        monitoring_interval=0.5,
        health_check_interval=15.0,
        sync_interval=2.0,
    )

    await aggregator.initialize()
    await aggregator.start()

    # 创建多个优化任务
    optimizations = []
    for i in range(5):
        optimization = OptimizationState(
            optimization_id=f"opt_advanced_{i:03d}",
            name=f"高级优化任务 {i}",
            description=f"演示高级功能的第{i + 1}个任务",
            optimization_type=OptimizationType.STRATEGY_OPTIMIZATION,
            status=OptimizationStatus.CREATED,
            priority=OptimizationPriority.HIGH if i % 2 == 0 else OptimizationPriority.NORMAL,
            created_at=datetime.now(),
            updated_at=datetime.now(),
            total_steps=20,
            baseline_performance=0.7,
            target_performance=0.9,
        )
        optimizations.append(optimization)

    # 提交所有优化任务
    optimization_ids = []
    for optimization in optimizations:
        opt_id = await aggregator.submit_optimization(optimization)
        optimization_ids.append(opt_id)

    # 监控优化过程
    for _ in range(30):  # 监控30秒
        for opt_id in optimization_ids:
            status = await aggregator.get_optimization_status(opt_id)
            if status:
                print(f"{opt_id}: {status.status.value} - {status.progress:.1%}")

        await asyncio.sleep(1)

    # 获取统计信息
    stats = await aggregator.get_global_statistics()
    print(f"全局统计: {stats}")

    # 获取健康报告
    for opt_id in optimization_ids:
        health = await aggregator.get_optimization_health(opt_id)
        if health:
            print(f"{opt_id} 健康状态: {health.overall_status.value}")

    # 获取告警信息
    alerts = await aggregator.get_alerts()
    print(f"告警数量: {len(alerts)}")

    # API调用示例
    api_response = await aggregator.handle_api_request("/statistics", "GET")
    print(f"API响应: {api_response}")

    await aggregator.stop()
    await aggregator.cleanup()


# 运行高级示例
asyncio.run(advanced_example())
