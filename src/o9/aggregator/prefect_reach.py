"""Checks whether a Prefect server answers, and accepts the authentication string."""

from __future__ import annotations

import asyncio

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from o9.model.errors import OptimizationCoordinationError
from o9.model.urls import public_text, public_url


async def within_reach(url: str, seconds: float) -> BaseException | None:
    """None once the server at `url` answers; what is wrong if it has not within `seconds`."""
    problem: BaseException | None = None
    try:
        async with asyncio.timeout(seconds):
            with temporary_settings({PREFECT_API_URL: url}):
                async with get_client() as client:
                    while True:
                        if (problem := await client.api_healthcheck()) is None:
                            await client.hello()  # the health check answers everybody
                            return None
                        await asyncio.sleep(0.25)
    except (TimeoutError, httpx.TransportError) as error:
        return problem or error
    except httpx.InvalidURL:  # whose text may hold a part of a password
        return OptimizationCoordinationError("it is no URL such as http://127.0.0.1:4200/api")
    except httpx.HTTPStatusError as error:
        return error if _is_refusal(error) else None


def _is_refusal(problem: BaseException) -> bool:
    return isinstance(problem, httpx.HTTPStatusError) and problem.response.status_code == httpx.codes.UNAUTHORIZED


def unreachable(url: str, problem: BaseException, seconds: float) -> str:
    """The error for what was wrong, in words that say what to do."""
    if _is_refusal(problem):
        return f"Prefect's server at {public_url(url)} wants its authentication string: set PREFECT_API_AUTH_STRING."
    return (
        f"Prefect's server at {public_url(url)} did not answer within {seconds:.0f} s "
        f"({type(problem).__name__}: {public_text(str(problem))}). "
        "Start it (`prefect server start`), correct PREFECT_API_URL, or unset it "
        "(`prefect config unset PREFECT_API_URL`) to use a local server."
    )
