import asyncio
from datetime import datetime

from OptimizationStateAggregator import (
    OptimizationPriority,
    OptimizationState,
    OptimizationStateAggregator,
    OptimizationStatus,
    OptimizationType,
)


async def basic_example():
    # 创建聚合器
    aggregator = OptimizationStateAggregator()

    # 初始化和启动
    await aggregator.initialize()
    await aggregator.start()

    # 创建优化任务
    optimization = OptimizationState(
        optimization_id="opt_basic_001",
        name="基础优化示例",
        description="演示基本功能",
        optimization_type=OptimizationType.PARAMETER_TUNING,
        status=OptimizationStatus.CREATED,
        priority=OptimizationPriority.NORMAL,
        created_at=datetime.now(),
        updated_at=datetime.now(),
    )

    # 提交优化任务
    opt_id = await aggregator.submit_optimization(optimization)
    print(f"提交优化任务: {opt_id}")

    # 等待一段时间
    await asyncio.sleep(5)

    # 获取优化状态
    status = await aggregator.get_optimization_status(opt_id)
    if status:
        print(f"优化状态: {status.status.value}")
        print(f"进度: {status.progress:.1%}")

    # 清理资源
    await aggregator.stop()
    await aggregator.cleanup()


# 运行示例
asyncio.run(basic_example())
