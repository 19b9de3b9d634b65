"""What every engine of the outbox has to do, told with real worker processes; `tests/outbox/test_engines.py` runs it.

The fixture `ground` gives each test a database of its own, on each supported PostgreSQL, and the engine that is tried.
"""

import asyncio
import signal
import time

import pytest

import outbox
from outbox import dead_letters
from tests.outbox.engines import PATIENT, QUICK, Ground, new_row, until


class OnceInEffect:
    async def test_a_committed_row_is_done_once(self, ground: Ground) -> None:
        """Every committed row has its effect exactly once, however many workers compete for it."""
        ids = await ground.write(*(new_row("record", lane=f"lane {number % 7}") for number in range(300)))

        for _ in range(3):
            ground.start_worker()
        await ground.until_empty()

        assert sorted(await ground.done()) == ids

    async def test_a_rolled_back_row_never_was(self, ground: Ground) -> None:
        """A row whose transaction rolled back is never done."""
        ground.start_worker()

        async with ground.connection.transaction(force_rollback=True):
            await outbox.write(ground.connection, [new_row("record")])
        kept = await ground.write(new_row("record"))
        await ground.until_empty()

        assert await ground.done() == kept

    async def test_a_killed_worker_loses_nothing(self, ground: Ground) -> None:
        """A row whose worker is killed in mid-handler is done by another after the lease, which knows that it may have been sent."""
        first = ground.start_worker(times=QUICK)
        (row_id,) = await ground.write(new_row("slow", "0.4"))
        await ground.until_effects("started", count=1)

        first.kill()
        first.wait()
        ground.start_worker(times=QUICK)
        await ground.until_empty()

        assert await ground.done() == [row_id]
        assert [seen["maybe_sent"] for _, _, _, seen in await ground.effects("started")] == [False, True]
        assert [seen["first"] for _, _, _, seen in await ground.effects("started")] == [True, False]

    async def test_a_paused_worker_is_fenced_off(self, ground: Ground) -> None:
        """A worker that was stopped past its lease cannot settle what another has done meanwhile, and loses that row alone."""
        paused = ground.start_worker(times=QUICK)
        (row_id,) = await ground.write(new_row("slow", "0.3"))
        await ground.until_effects("started", count=1)
        paused.send_signal(signal.SIGSTOP)

        ground.start_worker(times=QUICK)
        await ground.until_empty()
        paused.send_signal(signal.SIGCONT)
        later = await ground.write(*(new_row("record") for _ in range(20)))
        await ground.until_empty()
        await asyncio.sleep(0.5)

        assert sorted(await ground.done()) == [row_id, *later]
        assert paused.poll() is None

    async def test_lost_connections_come_back(self, ground: Ground) -> None:
        """After every connection to the database was cut the worker goes on by itself and does what is left, once."""
        ground.start_worker()
        before = await ground.write(new_row("record"))
        await ground.until_empty()

        await ground.connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() AND application_name LIKE 'outbox %'"
        )
        after = await ground.write(*(new_row("record") for _ in range(10)))
        await ground.until_empty()

        assert sorted(await ground.done()) == [*before, *after]


class Waking:
    async def test_a_woken_worker_does_not_wait_for_its_poll(self, ground: Ground) -> None:
        """Row after row, each written when the worker has just gone idle, is started at once; no wake-up is lost in between."""
        ground.start_worker()
        began = time.monotonic()

        async with outbox.Waker(ground.url) as waker:
            for number in range(40):
                await ground.write(new_row("record"))
                waker.wake("q")
                await ground.until_effects("done", count=number + 1)

        # Half of the polls of half a second would be ten seconds.
        assert time.monotonic() - began < 6.0

    async def test_a_lost_wake_up_costs_a_poll(self, ground: Ground) -> None:
        """A row of which nobody was told is found by polling, within a second."""
        ground.start_worker()
        await asyncio.sleep(0.3)
        began = time.monotonic()

        await ground.write(new_row("record"))
        await ground.until_effects("done", count=1)

        assert time.monotonic() - began < 1.0


class Slots:
    async def test_rows_run_side_by_side(self, ground: Ground) -> None:
        """Rows of one claim run concurrently: forty handlers of 0.3 s do not take twelve seconds."""
        ground.start_worker()
        began = time.monotonic()

        await ground.write(*(new_row("slow", "0.3") for _ in range(40)))
        await ground.until_empty()

        assert time.monotonic() - began < 5.0

    async def test_a_slow_row_holds_its_own_slot_only(self, ground: Ground) -> None:
        """While one row of a claim is slow, the other slots serve many times their number of rows."""
        ground.start_worker(slots=4, lane_limit=4, batch=4)
        (slow,) = await ground.write(new_row("slow", "2.5"))
        await ground.until_effects("started", count=1)

        quick = await ground.write(*(new_row("record") for _ in range(60)))
        await ground.until_effects("done", count=60)

        assert sorted(await ground.done()) == quick
        await ground.until_empty()
        assert (await ground.done())[-1] == slow

    async def test_no_more_rows_run_than_there_are_slots(self, ground: Ground) -> None:
        """A process never has more rows in flight than its queue has slots."""
        ground.start_worker(slots=5, lane_limit=5, batch=100)

        await ground.write(*(new_row("slow", "0.05", lane=f"lane {number}") for number in range(40)))
        await ground.until_empty()

        assert max(seen["running"] for _, _, _, seen in await ground.effects("started")) == 5

    async def test_a_slow_lane_starves_nobody(self, ground: Ground) -> None:
        """With hundreds of older rows of a slow lane waiting, the lanes behind it are served at once, and it gets its share only."""
        await ground.write(*(new_row("slow", "1.5", lane="slow") for _ in range(300)))
        quick = await ground.write(*(new_row("record", lane=f"lane {number}") for number in range(60)))

        ground.start_worker(slots=20, lane_limit=3, batch=10)
        await ground.until_effects("done", count=60)

        assert sorted(await ground.done()) == quick
        running = await ground.effects("started")
        assert len(running) == 3
        assert {lane for _, _, lane, _ in running} == {"slow"}

    async def test_a_lane_that_was_full_is_served_again(self, ground: Ground) -> None:
        """Rows that were left out because their lane was full are done as soon as it has room, without waiting for a poll."""
        ground.start_worker(slots=50, lane_limit=2, batch=50)
        began = time.monotonic()

        await ground.write(*(new_row("slow", "0.02", lane="narrow") for _ in range(60)))
        await ground.until_empty()

        # Thirty rounds of two; with a poll between them it would be fifteen seconds.
        assert time.monotonic() - began < 6.0
        assert max(seen["running"] for _, _, _, seen in await ground.effects("started")) == 2


class Failing:
    async def test_poison_becomes_a_dead_letter_and_is_replayed_once(self, ground: Ground) -> None:
        """A poison row ends in the dead letters with its first and last error; cured and replayed twice it is done once."""
        ground.start_worker()
        (row_id,) = await ground.write(new_row("poison", "flu"))
        await ground.until_empty()
        (letter,) = await dead_letters.list_(ground.connection)
        assert (letter.outbox_id, letter.attempts, letter.failures) == (row_id, 3, 3)
        assert (letter.first_error, letter.last_error) == ("RuntimeError: poison 1\ufffd", "RuntimeError: poison 3\ufffd")

        await ground.connection.execute("INSERT INTO cures VALUES ('flu')")
        first, did = await dead_letters.replay(ground.connection, letter.id, acted_by="ada", reason="the flu is cured")
        await ground.until_empty()
        second, did_again = await dead_letters.replay(ground.connection, letter.id, acted_by="bob", reason="did not see ada")
        await asyncio.sleep(0.7)

        assert (did, did_again) == (True, False)
        assert first == second
        assert await ground.done() == [first.replayed_as]

    async def test_money_never_becomes_a_dead_letter(self, ground: Ground) -> None:
        """The row of a never_dead_letter actor is given to its on_exhausted, which settles it, and no letter is written."""
        ground.start_worker()

        (row_id,) = await ground.write(new_row("money", "flu"))
        await ground.until_empty()

        assert [(effect[0], effect[1]) for effect in await ground.effects()] == [(row_id, "exhausted: RuntimeError: poison 2\ufffd")]
        assert await dead_letters.list_(ground.connection) == []

    async def test_money_that_nobody_understands_is_buried_after_all(self, ground: Ground) -> None:
        """When on_exhausted itself says that nothing was done and nothing can be, the row becomes a dead letter."""
        ground.start_worker()

        (row_id,) = await ground.write(new_row("unreadable", "flu"))
        await ground.until_empty()

        assert [letter.outbox_id for letter in await dead_letters.list_(ground.connection)] == [row_id]

    async def test_postponing_counts_nothing(self, ground: Ground) -> None:
        """A postponed row comes back as if it had never been claimed: no failure, first attempt, certainly not sent."""
        ground.start_worker()

        (row_id,) = await ground.write(new_row("postponing"))
        await ground.until_empty()

        assert await ground.done() == [row_id]
        asked = [seen for _, _, _, seen in await ground.effects("asked")]
        assert [(seen["attempt"], seen["failures"], seen["maybe_sent"], seen["first"]) for seen in asked] == [
            (attempt, 0, False, True) for attempt in (1, 2, 3, 4)
        ]

    async def test_an_overlong_handler_is_cancelled_and_fails(self, ground: Ground) -> None:
        """A handler that takes longer than it may is cancelled, its effect is not committed, and the row says why."""
        ground.start_worker(times=QUICK)

        (row_id,) = await ground.write(new_row("slow", "5"))
        await until(lambda: _has_failed(ground))

        record = await (await ground.connection.execute("SELECT id, last_error FROM outbox")).fetchone()
        assert record is not None
        assert record[0] == row_id
        assert record[1].startswith("TimeoutError")
        assert await ground.done() == []

    async def test_a_handler_that_exits_takes_nobody_along(self, ground: Ground) -> None:
        """sys.exit() in a handler is a failure of its row and not the end of the worker."""
        worker = ground.start_worker()

        await ground.write(new_row("leaving"))
        await until(lambda: _has_failed(ground))
        after = await ground.write(new_row("record"))
        await ground.until_effects("done", count=1)

        assert await ground.done() == after
        assert worker.poll() is None

    async def test_a_row_for_an_unknown_actor_fails(self, ground: Ground) -> None:
        """A row that names an actor this worker does not have is counted as failed and comes back; it is not lost."""
        ground.start_worker()

        await ground.write(new_row("of tomorrow"))
        await until(lambda: _has_failed(ground))

        record = await (await ground.connection.execute("SELECT last_error FROM outbox")).fetchone()
        assert record == ("this worker has no actor 'of tomorrow'",)

    @pytest.mark.slow
    async def test_a_row_that_kills_its_workers_is_found_alone(self, ground: Ground) -> None:
        """A row that kills every worker becomes a dead letter only after it crashed alone; the rows beside it are all done."""
        (killer,) = await ground.write(new_row("killer"))
        others = await ground.write(*(new_row("slow", "0.2") for _ in range(10)))
        times = {"lease_seconds": 0.6, "handler_seconds": 0.3, "drain_seconds": 0.4}

        worker = ground.start_worker(times=times)
        end = time.monotonic() + 60
        while await ground.waiting():
            assert time.monotonic() < end
            if worker.poll() is not None:
                worker = ground.start_worker(times=times)
            if not await dead_letters.list_(ground.connection):
                # Somebody is always about to run beside it.
                others += await ground.write(new_row("slow", "0.2"))
            await asyncio.sleep(0.1)

        (letter,) = await dead_letters.list_(ground.connection)
        assert (letter.outbox_id, letter.failures) == (killer, 1)
        assert letter.last_error == "its claim vanished 6 times, 3 times while it ran alone"
        killings = [(seen["vanished"], seen["running"]) for _, _, _, seen in await ground.effects("killing")]
        assert [vanished for vanished, _ in killings] == [0, 1, 2, 3, 4, 5]
        assert [running for _, running in killings[3:]] == [1, 1, 1]
        assert sorted(await ground.done()) == sorted(others)


class Ending:
    async def test_sigterm_lets_handlers_finish(self, ground: Ground) -> None:
        """On SIGTERM the running handlers finish, nothing more is claimed, and the worker ends with 0 and in order."""
        worker = ground.start_worker()
        running = await ground.write(*(new_row("slow", "1") for _ in range(5)))
        await ground.until_effects("started", count=5)

        worker.terminate()
        await asyncio.sleep(0.3)
        late = await ground.write(new_row("record"))
        worker.terminate()

        assert await asyncio.to_thread(worker.wait, 5) == 0
        assert sorted(await ground.done()) == running
        assert await ground.waiting() == len(late)
        assert await ground.count(f"SELECT count(*) FROM cures WHERE name = 'closed {worker.pid}'") == 1

    async def test_sigterm_under_load_hands_the_rest_back(self, ground: Ground) -> None:
        """What a draining worker has claimed and not started is due again at once and counts as never claimed."""
        await ground.write(*(new_row("slow", "0.05", lane=f"lane {number % 50}") for number in range(2000)))
        worker = ground.start_worker()
        await ground.until_effects("done", count=50)

        worker.terminate()

        assert await asyncio.to_thread(worker.wait, 5) == 0
        assert await ground.waiting() + len(await ground.done()) == 2000
        assert await ground.waiting() > 0
        assert await ground.count("SELECT count(*) FROM outbox WHERE due_at > clock_timestamp()") == 0
        assert await ground.count("SELECT count(*) FROM outbox WHERE attempt > failures + returned") == 0

    async def test_what_no_thread_has_started_is_handed_back(self, ground: Ground) -> None:
        """Rows that were claimed and still wait for a thread when the worker ends are due again at once and count as never claimed."""
        worker = ground.start_worker(threads=0)
        ids = await ground.write(*(new_row("record") for _ in range(30)))
        await until(lambda: _all_claimed(ground))

        worker.terminate()

        assert await asyncio.to_thread(worker.wait, 5) == 0
        again = await outbox.claim(ground.connection, "q", limit=100, lease_seconds=PATIENT["lease_seconds"])
        assert sorted(row.id for row in again) == ids
        assert all(row.first_attempt and not row.maybe_sent for row in again)

    @pytest.mark.parametrize("actor", ["stubborn", "blocking"])
    async def test_the_drain_has_an_end(self, ground: Ground, actor: str) -> None:
        """A handler that swallows its cancellation, or blocks the loop, does not hold up the end; its row counts as maybe sent."""
        worker = ground.start_worker(times=QUICK)
        await ground.write(new_row(actor, "30"))
        await ground.until_effects("started", count=1)
        began = time.monotonic()

        worker.send_signal(signal.SIGINT)

        assert await asyncio.to_thread(worker.wait, 5) == 0
        assert time.monotonic() - began < QUICK["drain_seconds"] + 0.6
        await asyncio.sleep(QUICK["lease_seconds"])
        (row,) = await outbox.claim(ground.connection, "q", limit=1, lease_seconds=PATIENT["lease_seconds"])
        assert row.maybe_sent

    async def test_a_worker_that_cannot_open_its_actors_ends(self, ground: Ground) -> None:
        """When the actors cannot be opened the process ends with 1 instead of waiting for rows that it cannot do."""
        worker = ground.start_worker(broken=True)

        assert await asyncio.to_thread(worker.wait, 5) == 1


async def _has_failed(ground: Ground) -> bool:
    return await ground.count("SELECT count(*) FROM outbox WHERE failures > 0") == 1


async def _all_claimed(ground: Ground) -> bool:
    return await ground.count("SELECT count(*) FROM outbox WHERE attempt = 0") == 0
