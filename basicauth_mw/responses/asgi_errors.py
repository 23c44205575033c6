"""Turn the exceptions and timeouts of an ASGI app into responses, unless the app has responded."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..auth.frameworks import handles_errors
from ..auth.problems import is_refusal
from .asgi_guard import HandshakeGuard
from .asgi_send import try_send_response

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Awaitable

    from ..auth.authenticator import Authenticator
    from .asgi_guard import ASGIResponseGuard
    from .asgi_send import Scope


async def handle_exception(
    authenticator: Authenticator[Scope], guard: ASGIResponseGuard, exc: BaseException, client_id: str
) -> bool:
    """Respond to an exception of the app, unless the app or an outer layer does that.

    Returns:
        Whether the exception ends here. It does if it is a refusal such as ``InsufficientScope``; any other
        is re-raised for the server and error monitors.
    """
    if guard.committed or not isinstance(exc, Exception):
        await guard.discard(exc)
        return False
    if not authenticator.settings.map_errors or (
        guard.holds_whole_response and handles_errors(guard.scope.get("app"))
    ):
        await guard.release()
        return False
    request = guard.request
    is_final = is_refusal(exc)
    if not is_final and (isinstance(guard, HandshakeGuard) or handles_errors(request.get("app"))):
        await guard.discard(exc)  # the app's own handler is outside the middleware and comes next
        return False
    response = authenticator.exception_response(request, exc, client_id=client_id, log_traceback=False)
    await guard.respond(response)
    return is_final


async def run_with_timeout(
    authenticator: Authenticator[Scope], guard: ASGIResponseGuard, running: Awaitable[None], timeout_s: float
) -> None:
    """Await the app; if it starts no response in time, send a 504 immediately, cancel the app and await it.

    The app stays in the current task, so that its context variables and its cancellation work as without the
    middleware. A separate task sends the 504, since a handler may ignore its cancellation.
    """
    from asyncio import CancelledError, create_task, current_task, get_running_loop, wait

    task = cast("Task[None]", current_task())
    cancelling = task.cancelling()
    responding: Task[None] | None = None

    def time_out() -> None:
        nonlocal responding
        if guard.app_started:
            return
        response = authenticator.timeout_response(guard.request, timeout_s)
        responding = create_task(try_send_response(guard.request, guard.take(), response))
        task.cancel()

    timer = get_running_loop().call_later(timeout_s, time_out)
    try:
        await running
    except (CancelledError, Exception):
        if responding is None:
            raise
        # The 504 is sent: ignore what the handler raises when it is cancelled.
    finally:
        timer.cancel()
    if responding is None:
        return
    if task.uncancel() > cancelling:  # cancelled from outside as well
        responding.cancel()
        await wait([responding])
        raise CancelledError
    await responding
