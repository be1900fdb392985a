"""Calls of the backend that overrun, and the errno of each error."""

from __future__ import annotations

import errno
import threading
from concurrent.futures import Future

import pytest
import trio
import trio.testing

from als import errors
from als.fuse.calls import Calls, Kind
from als.fuse.errors import content_errno


def test_a_result_that_comes_too_late_is_discarded() -> None:
    gate, discarded = threading.Event(), threading.Event()
    taken: list[str] = []

    def work() -> str:
        assert gate.wait(30)
        return "late"

    def discard(result: str) -> None:
        taken.append(result)
        discarded.set()

    async def main() -> None:
        calls = Calls(max_waiting=4)
        with pytest.raises(errors.DeadlineExceeded, match=r"it: no answer within 0\.05 s"):
            await calls.run(work, limiter=trio.CapacityLimiter(1), seconds=0.05, where="it", discard=discard)

    trio.run(main)
    gate.set()
    assert discarded.wait(30)
    assert taken == ["late"]


def test_a_result_in_time_is_not_discarded() -> None:
    taken: list[str] = []

    async def main() -> str:
        calls = Calls(max_waiting=4)
        return await calls.run(lambda: "result", limiter=trio.CapacityLimiter(1), seconds=30, where="it", discard=taken.append)

    assert trio.run(main) == "result"
    assert taken == []


def test_waiting_for_a_place_counts_against_the_deadline() -> None:
    async def main() -> None:
        limiter = trio.CapacityLimiter(1)
        await limiter.acquire()
        with pytest.raises(errors.DeadlineExceeded):
            await Calls(max_waiting=4).run(lambda: None, limiter=limiter, seconds=0.05, where="it")

    trio.run(main)


def test_stopping_awaits_what_must_finish_and_gives_up_the_rest() -> None:
    gate = threading.Event()
    ended: list[str] = []

    async def main() -> None:
        calls = Calls(max_waiting=4)
        limiter = trio.CapacityLimiter(4)

        async def call(name: str, must_finish: bool) -> None:
            with calls.request(name):
                try:
                    await calls.run(lambda: gate.wait(30), limiter=limiter, seconds=30, where=name, must_finish=must_finish)
                    ended.append(f"{name} finished")
                except errors.DeadlineExceeded as error:
                    ended.append(str(error))
                    gate.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, "lookup", False)
            nursery.start_soon(call, "use", True)
            await trio.testing.wait_all_tasks_blocked()
            assert await calls.stop(30)
            assert ended == ["lookup: als is stopping", "use finished"]
        with pytest.raises(errors.DeadlineExceeded):
            await calls.run(lambda: None, limiter=limiter, seconds=30, where="later")

    trio.run(main)


@pytest.mark.parametrize("after", [0.0, 0.05])
def test_a_future_is_awaited_without_a_thread(after: float) -> None:
    future: Future[str] = Future()

    async def main() -> str:
        timer = threading.Timer(after, future.set_result, ["result"])
        timer.start()
        if not after:
            timer.join()
        return await Calls(max_waiting=4).wait(future, seconds=30, where="it")

    assert trio.run(main) == "result"


def test_a_future_that_fails_or_overruns() -> None:
    failed: Future[str] = Future()
    failed.set_exception(errors.NotFound("nothing here"))
    late: Future[str] = Future()
    gone: Future[str] = Future()
    gone.cancel()

    async def main() -> None:
        calls = Calls(max_waiting=4)
        for future, error in ((failed, "nothing here"), (late, r"it: no answer within 0\.05 s"), (gone, "it: given up")):
            with pytest.raises(errors.AlsError, match=error):
                await calls.wait(future, seconds=0.05, where="it")

    trio.run(main)
    assert late.cancelled()


def test_a_future_that_comes_after_the_loop_has_ended() -> None:
    future: Future[str] = Future()
    future.set_running_or_notify_cancel()

    async def main() -> None:
        with trio.move_on_after(0.05):
            await Calls(max_waiting=4).wait(future, seconds=30, where="it")

    trio.run(main)
    future.set_result("for nobody")


def test_stopping_gives_futures_up() -> None:
    future: Future[str] = Future()
    ended: list[str] = []

    async def main() -> None:
        calls = Calls(max_waiting=1, max_lazy_reads=1)

        async def wait() -> None:
            with calls.request("it", Kind.LAZY_READ):
                try:
                    await calls.wait(future, seconds=30, where="it")
                except errors.DeadlineExceeded as error:
                    ended.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert await calls.stop(30)
        with pytest.raises(errors.DeadlineExceeded, match="stopping"):
            await calls.wait(Future[str](), seconds=30, where="later")

    trio.run(main)
    assert ended == ["it: als is stopping"]
    assert future.cancelled()


def test_reads_of_lazy_files_are_bounded_by_themselves() -> None:
    async def main() -> None:
        calls = Calls(max_waiting=1, max_lazy_reads=1)
        with calls.request("a", Kind.LAZY_READ):
            with calls.request("b"):
                pass
            with pytest.raises(errors.DeadlineExceeded, match="1 reads of lazy files"), calls.request("c", Kind.LAZY_READ):
                raise AssertionError("one too many")

    trio.run(main)


def test_no_more_requests_than_may_wait() -> None:
    async def main() -> None:
        calls = Calls(max_waiting=1)
        with (
            calls.request("first"),
            pytest.raises(errors.DeadlineExceeded, match="second: 1 requests are waiting already"),
            calls.request("second"),
        ):
            raise AssertionError("one too many")
        with calls.request("third"):
            pass

    trio.run(main)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.NotFound("x"), errno.ENOENT),
        (errors.RegistryDenied("x"), errno.EACCES),
        (errors.RegistryUnavailable("x"), errno.EHOSTUNREACH),
        (errors.DigestMismatch("x"), errno.EIO),
        (errors.StoreFull("x"), errno.ENOSPC),
        (errors.LockTimeout("x"), errno.ETIMEDOUT),
        (errors.DeadlineExceeded("x"), errno.ETIMEDOUT),
        (errors.StoreDamaged("x"), errno.EIO),
        (errors.AlsError("x"), errno.EIO),
        (OSError(errno.ENOENT, "x"), errno.EIO),
    ],
)
def test_the_errno_of_a_content_error(error: errors.AlsError | OSError, number: int) -> None:
    assert content_errno(error) == number
