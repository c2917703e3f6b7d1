"""The queue: each request is answered once, at a depth that it accepts, whatever the network, clients and clocks do."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from adaptive_depth.serve import batching
from adaptive_depth.serve.batching import Answer, Batcher, Device, rows_of
from adaptive_depth.serve.problems import Problem
from adaptive_depth.serve.wishes import Wishes

from .conftest import Clock, Net, batcher_of, input_of


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """No test waits longer than this."""
    return asyncio.run(asyncio.wait_for(work(), 30))


class Counts:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.most = 0

    def ended(self, outcome: str) -> None:
        self.outcomes[outcome] += 1

    def answered(self, skip: str, seconds: float, worth: float) -> None: ...

    def ran(self, skip: str, batch: int) -> None: ...

    def waiting(self, number: int) -> None:
        self.most = max(self.most, number)


async def began(net: Net) -> None:
    """Once a pass runs, and whatever was asked meanwhile waits."""
    await asyncio.to_thread(net.began.wait, 20)


async def asked(batcher: Batcher, *requests: tuple[float, Wishes]) -> list["asyncio.Task[Answer]"]:
    """Requests in their order, all of which wait."""
    tasks = [asyncio.create_task(batcher.answer(input_of(number), wishes)) for number, wishes in requests]
    await asyncio.sleep(0)
    return tasks


def test_each_has_the_answer_to_its_own_input_at_the_depth_that_it_asked_for(net: Net) -> None:
    async def work() -> list[Answer]:
        async with batcher_of(net) as batcher:
            wishes = [Wishes("F"), Wishes("T"), Wishes(accuracy=70.0), Wishes()] * 5
            return await asyncio.gather(*(batcher.answer(input_of(n), wish) for n, wish in enumerate(wishes)))

    answers = run(work)
    for number, answer in enumerate(answers):
        assert answer.output.tolist() == [[number + {"F": 1, "T": 2}[answer.skip]] * 4]
        assert answer.skip in ("F", "T", "F", "FT")[number % 4]
    assert sorted(number for _, numbers in net.passes for number in numbers) == list(range(20))


def test_those_that_wait_run_together_and_those_that_cannot_share_the_depth_do_not(net: Net) -> None:
    async def work() -> list[Answer]:
        async with batcher_of(net) as batcher:
            net.gate.clear()
            first = await asked(batcher, (0, Wishes()))
            await began(net)
            others = await asked(batcher, (1, Wishes("T")), (2, Wishes("F")), (3, Wishes("T")), (4, Wishes("F")))
            net.gate.set()
            return await asyncio.gather(*first, *others)

    answers = run(work)
    assert [answer.skip for answer in answers[1:]] == ["T", "F", "T", "F"]
    for skip, numbers in net.passes[1:]:
        assert {*numbers} <= ({1.0, 3.0} if skip == "T" else {2.0, 4.0})


def test_a_full_queue_refuses_and_says_when_to_ask_again(net: Net) -> None:
    counts = Counts()

    async def work() -> None:
        async with batcher_of(net, most_waiting=2, watch=counts) as batcher:
            net.gate.clear()
            inside = await asked(batcher, (0, Wishes()))
            await began(net)
            inside += await asked(batcher, (1, Wishes()), (2, Wishes()))
            with pytest.raises(Problem, match="2 requests wait, the limit: retry in 1 s") as raised:
                await batcher.answer(input_of(3), Wishes())
            assert raised.value.status == 503
            assert raised.value.headers == {"Retry-After": "1"}
            net.gate.set()
            await asyncio.gather(*inside)

    run(work)
    assert counts.outcomes == {"in_time": 3, "full": 1}
    assert counts.most == 2


def test_who_cannot_be_in_time_is_turned_away_and_who_names_no_deadline_is_answered_late(net: Net) -> None:
    counts, clock = Counts(), Clock()

    async def work() -> list[Any]:
        async with batcher_of(net, deadline_ms=50.0, clock=clock, watch=counts) as batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, (1, Wishes()), (2, Wishes(deadline_ms=500.0)))
            clock.now += 0.2  # in the first pass
            net.gate.set()
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = run(work)
    assert (first.late, first.skip) == (True, "F")
    assert isinstance(second, Problem)
    assert (second.kind, second.status) == ("shed", 503)
    assert "Retry-After" in second.headers
    assert third.late is False
    assert counts.outcomes == {"answered_late": 1, "shed": 1, "in_time": 1}


def test_a_deadline_that_a_request_names_is_kept_or_refused_while_its_pass_still_runs(net: Net) -> None:
    clock = Clock()

    async def work() -> None:
        async with batcher_of(net, clock=clock) as batcher:
            net.gate.clear()
            [task] = await asked(batcher, (0, Wishes(deadline_ms=100.0)))
            await began(net)
            clock.now += 0.3
            with pytest.raises(Problem, match="there was no answer within 100 ms") as raised:
                await asyncio.wait_for(task, 20)
            assert raised.value.status == 504
            assert not net.gate.is_set()
            net.gate.set()
            assert (await batcher.answer(input_of(1), Wishes("T"))).output[0, 0] == 3

    run(work)


def test_an_answer_that_comes_too_late_for_a_deadline_that_was_named_is_none(net: Net) -> None:
    clock = Clock()

    async def work() -> None:
        async with batcher_of(net, clock=clock) as batcher:
            net.gate.clear()
            [task] = await asked(batcher, (0, Wishes(deadline_ms=100.0)))
            await began(net)
            clock.now += 0.3
            net.gate.set()  # before anybody looks at the clock
            with pytest.raises(Problem, match="there was no answer within 100 ms"):
                await task

    run(work)


def test_a_deadline_that_no_depth_can_keep_is_refused_at_once(net: Net) -> None:
    async def work() -> None:
        async with batcher_of(net) as batcher:
            with pytest.raises(Problem, match=r"deadline_ms=15: even the fastest depth .* F, takes 20 ms"):
                await batcher.answer(input_of(0), Wishes(deadline_ms=15.0, accuracy=75.0))
            assert (await batcher.answer(input_of(0), Wishes(deadline_ms=20_000.0))).skip == "F"

    run(work)
    assert len(net.passes) == 1


@pytest.mark.parametrize("jump", [-50.0, 3600.0, float("nan"), float("-inf")])
def test_a_clock_that_jumps_refuses_nobody(net: Net, jump: float) -> None:
    clock = Clock()

    async def work() -> list[Answer]:
        async with batcher_of(net, deadline_ms=5000.0, clock=clock) as batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, (1, Wishes(deadline_ms=5000.0)), (2, Wishes()))
            clock.now += jump
            await asyncio.sleep(3 * batching._TICK)
            net.gate.set()
            return await asyncio.gather(*tasks)

    assert [answer.late for answer in run(work)] == [False] * 3


def test_a_batch_that_fails_is_run_one_by_one_and_only_whoever_fails_gets_the_error(net: Net) -> None:
    counts = Counts()
    net.broken = lambda x: 2.0 in x

    async def work() -> list[Any]:
        async with batcher_of(net, watch=counts) as batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, *((n, Wishes("T")) for n in (1, 2, 3)))
            net.gate.set()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert batcher.healthy
            return found

    _, first, broken, last = run(work)
    assert (first.output[0, 0], last.output[0, 0]) == (3, 5)
    assert (broken.kind, broken.status) == ("failed", 500)
    assert "the device is on fire" in broken.detail
    assert counts.outcomes == {"in_time": 3, "failed": 1}


def test_a_network_that_fails_again_and_again_is_not_healthy_until_it_works(net: Net) -> None:
    async def work() -> None:
        async with batcher_of(net) as batcher:
            net.broken = lambda x: True
            for _ in range(batching.PATIENCE):
                assert batcher.healthy
                with pytest.raises(Problem, match="the device is on fire"):
                    await batcher.answer(input_of(0))
            assert not batcher.healthy
            assert not batcher.ready
            net.broken = lambda x: False
            await batcher.answer(input_of(0))
            assert batcher.ready

    run(work)


def test_a_pass_that_does_not_return_ends_all_requests(net: Net) -> None:
    clock = Clock()

    async def work() -> None:
        batcher = batcher_of(net, clock=clock, stuck_s=0.5)
        async with batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, (1, Wishes()))
            clock.now += 0.7
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(found, Problem)
                assert found.kind == "stuck"
            assert not batcher.healthy
            with pytest.raises(Problem, match="must be restarted"):
                await batcher.answer(input_of(2))
        with pytest.raises(Problem, match="the server is stopping"):
            await batcher.answer(input_of(3))

    run(work)


def test_a_client_that_leaves_leaves_the_queue(net: Net) -> None:
    counts = Counts()

    async def work() -> None:
        async with batcher_of(net, watch=counts) as batcher:
            net.gate.clear()
            [running] = await asked(batcher, (0, Wishes()))
            await began(net)
            leaving, staying = await asked(batcher, (1, Wishes()), (2, Wishes()))
            leaving.cancel()
            running.cancel()
            await asyncio.sleep(0)
            assert batcher.waiting == 1
            net.gate.set()
            await staying

    run(work)
    assert net.passes[1:] == [("F", [2.0])]
    assert counts.outcomes == {"cancelled": 2, "in_time": 1}


def test_who_waits_is_answered_before_it_stops_and_nobody_comes_in_any_more(net: Net) -> None:
    async def work() -> list[Answer]:
        batcher = batcher_of(net)
        async with batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, (1, Wishes()), (2, Wishes("T")))
            stopping = asyncio.create_task(batcher.stop())
            await asyncio.sleep(0)
            with pytest.raises(Problem, match="the server is stopping"):
                await batcher.answer(input_of(3))
            net.gate.set()
            await stopping
            return await asyncio.gather(*tasks)

    assert len(run(work)) == 3


def test_who_cannot_be_answered_before_it_stops_is_refused(net: Net) -> None:
    async def work() -> list[Any]:
        batcher = batcher_of(net)
        async with batcher:
            net.gate.clear()
            tasks = await asked(batcher, (0, Wishes()))
            await began(net)
            tasks += await asked(batcher, (1, Wishes()))
            await batcher.stop(drain_s=0.05)
            return await asyncio.gather(*tasks, return_exceptions=True)

    assert [found.kind for found in run(work)] == ["stopping", "stopping"]


def test_fewer_requests_than_the_file_takes_are_filled_up(net: Net) -> None:
    async def work() -> Answer:
        async with batcher_of(net, pad_to=4) as batcher:
            return await batcher.answer(input_of(7), Wishes("F"))

    assert run(work).output.tolist() == [[8.0] * 4]
    assert net.passes == [("F", [7.0, 0.0, 0.0, 0.0])]


def test_rows_of_outputs() -> None:
    x = np.arange(6.0).reshape(3, 2)
    assert [row.tolist() for row in rows_of(x, 2, 3)] == [[[0.0, 1.0]], [[2.0, 3.0]]]
    assert [row["b"].tolist() for row in rows_of({"a": x, "b": x}, 2, 3)] == [[[0.0, 1.0]], [[2.0, 3.0]]]
    whole = np.zeros(())
    assert rows_of(whole, 1, 1) == [whole]
    with pytest.raises(ValueError, match=r"3 inputs produced an output of shape \[2, 3\]: expected 3 rows"):
        rows_of(x.T, 3, 3)


def test_under_random_load_nobody_is_lost_and_nobody_is_answered_twice() -> None:
    net, noise, counts = Net(seconds=0.0005), random.Random(0), Counts()
    wishes = [Wishes(), Wishes("F"), Wishes("T"), Wishes(accuracy=70.0), Wishes(deadline_ms=25.0)]

    async def client(batcher: Batcher, number: int) -> str:
        await asyncio.sleep(noise.expovariate(1 / 0.2))
        task = asyncio.create_task(batcher.answer(input_of(number), noise.choice(wishes)))
        if noise.random() < 0.1:
            await asyncio.sleep(noise.random() * 0.01)
            task.cancel()
        try:
            answer = await task
        except asyncio.CancelledError:
            return "cancelled"
        except Problem as problem:
            return problem.outcome
        assert answer.output[0, 0] == number + {"F": 1, "T": 2}[answer.skip]
        return "answered_late" if answer.late else "in_time"

    async def work() -> list[str]:
        net.broken = lambda x: noise.random() < 0.05
        async with batcher_of(net, deadline_ms=40.0, most_waiting=40, watch=counts) as batcher:
            return await asyncio.gather(*(client(batcher, number) for number in range(1, 401)))

    ended = Counter(run(work))
    assert counts.outcomes.total() == 400
    left = ended["cancelled"] - counts.outcomes["cancelled"]  # in the very moment of their answers
    assert 0 <= left <= 5
    assert ended["in_time"] > 100
    told = {outcome: counts.outcomes[outcome] for outcome in ("shed", "full", "failed", "late")}
    assert told == {outcome: ended[outcome] for outcome in told}


# -- several networks on one device ---------------------------------------------------------------------------------


def shared(*nets: Any, **options: Any) -> list[Batcher]:
    device = Device()
    return [batcher_of(net, device=device, **options) for net in nets]


def test_networks_that_share_a_device_take_turns() -> None:
    going, most = 0, 0

    class Counting(Net):
        def __call__(self, x: Any, skip: str) -> Any:
            nonlocal going, most
            going += 1
            most = max(most, going)
            try:
                return super().__call__(x, skip)
            finally:
                going -= 1

    async def both() -> None:
        cats, dogs = shared(Counting(0.002), Counting(0.002))
        async with cats, dogs:
            asked = [(batcher, n) for n in range(40) for batcher in (cats, dogs)]
            answers = await asyncio.gather(*(batcher.answer(input_of(n), Wishes(skip="F")) for batcher, n in asked))
            assert [answer.output[0, 0] for answer in answers] == [n + 1 for _, n in asked]

    run(both)
    assert most == 1


def test_whose_deadline_is_first_is_next_whichever_network_it_asks(net: Net) -> None:
    """All come while the device is busy: the first network has more to do, the second less time."""
    other = Net()

    async def both() -> None:
        cats, dogs = shared(net, other)
        net.gate.clear()
        async with cats, dogs:
            first = asyncio.create_task(cats.answer(input_of(0), Wishes(skip="F")))
            await began(net)
            rest = [asyncio.create_task(cats.answer(input_of(n), Wishes(skip="F"))) for n in (1, 2)]
            hurried = asyncio.create_task(dogs.answer(input_of(3), Wishes(skip="F", deadline_ms=5000)))
            await asyncio.sleep(0.05)
            net.gate.set()
            await asyncio.gather(first, *rest, hurried)

    run(both)
    assert [numbers for _, numbers in net.passes] == [[0.0], [1.0, 2.0]]
    assert [numbers for _, numbers in other.passes] == [[3.0]]


def test_one_that_is_stuck_holds_up_all_of_its_device_and_says_so(net: Net) -> None:
    async def both() -> None:
        cats, dogs = shared(net, Net(), stuck_s=0.2)
        net.gate.clear()
        async with cats, dogs:
            asked = [cats.answer(input_of(0), Wishes(skip="F")), dogs.answer(input_of(0), Wishes(skip="F"))]
            ends = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 10)
            assert [end.kind for end in ends] == ["stuck", "stuck"]
            assert not cats.healthy
            assert not dogs.healthy
            with pytest.raises(Problem, match="must be restarted"):
                await dogs.answer(input_of(1), Wishes(skip="F"))

    run(both)


def test_one_that_stops_leaves_the_batch_of_the_other_alone(net: Net) -> None:
    """The task of the first network began the batch of the second one, and is cancelled."""

    async def both() -> None:
        cats, dogs = shared(Net(), net)
        net.gate.clear()
        async with dogs:
            await cats.__aenter__()
            asked = asyncio.create_task(dogs.answer(input_of(1), Wishes(skip="F")))
            await began(net)
            late = asyncio.create_task(cats.answer(input_of(2), Wishes(skip="F")))
            await asyncio.sleep(0.02)
            await cats.stop(drain_s=0.02)
            with pytest.raises(Problem, match="the server has stopped"):
                await late
            net.gate.set()
            assert (await asyncio.wait_for(asked, 10)).output[0, 0] == 2

    run(both)


def test_places_in_a_queue_are_those_of_the_plan(net: Net) -> None:
    """Who is turned away of one network is named before the batch of the other one has run."""
    clock, other = Clock(), Net()

    async def both() -> None:
        cats, dogs = shared(net, other, deadline_ms=50.0, clock=clock)
        net.gate.clear()
        async with cats, dogs:
            first = asyncio.create_task(cats.answer(input_of(0)))
            await began(net)
            old = [asyncio.create_task(dogs.answer(input_of(n))) for n in (1, 2)]
            await asyncio.sleep(0.02)
            clock.now += 0.06  # they are too late now
            new = asyncio.create_task(dogs.answer(input_of(3)))
            await asyncio.sleep(0.02)
            net.gate.set()
            ends = await asyncio.gather(first, *old, new, return_exceptions=True)
            assert [getattr(end, "kind", "answered") for end in ends] == ["answered", "shed", "shed", "answered"]

    run(both)
    assert [numbers for _, numbers in other.passes] == [[3.0]]
