"""A seeded schedule of faults against real workers and brokers while ticks flow, and what came of it."""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from service.autoencoder import find, load
from service.connection import KafkaSettings
from service.consume import EXACTLY_ONCE
from service.topics import create_topics
from tests.chaos.feed import Feed, Observer, ends, read
from tests.chaos.fleet import Fleet, cluster
from tests.chaos.verifier import Evidence, verify
from tests.kafka.broker import Broker, Seen

PARTITIONS = 6
BUDGET = 20.0
NAMES = ("w1", "w2", "w3")
SESSION_S = 8.0  # of the workers: a longer absence gives their partitions to others
CALM_S = (0.3, 4.0)  # between two faults
WEIGHTS = {
    "kill -9": 6,
    "SIGTERM, restart": 2,
    "pause": 2,
    "long pause": 1,
    "leave": 2,
    "zombie": 1,
    "broker kill -9": 2,
}
ALONE_S = 4.0
GIVEN_UP_S = 60.0
HEAL_S = 120.0
STATUS_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What to do: faults for so many seconds, all drawn from the seed, of all kinds or `only` one.

    In the first `alone_share` of the time faults come one at a time and their gaps are measured; then they pile up.
    """

    duration_s: float
    seed: int
    brokers: int
    cell: str
    rate: float
    alone_share: float = 1 / 3
    only: str | None = None
    client: str = "kafka-python"
    guarantee: str = EXACTLY_ONCE


@dataclass
class Kill:
    """A kill -9 of a worker or broker: when, and the partitions it held up."""

    kind: str
    at: float
    partitions: set[int]
    alone: bool  # nothing else was wrong or had been for ALONE_S


@dataclass
class Outcome:
    """What was found wrong, how many faults by kind, and the evidence."""

    wrong: list[str]
    faults: Counter[str]
    gaps: dict[str, list[float]]
    evidence: Evidence


@dataclass
class Chaos:
    """The state of a run: who is away and what heals when."""

    plan: Plan
    brokers: list[Broker]
    fleet: Fleet
    random: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    struck: list[float] = field(default_factory=list)  # when each fault began, and when it was healed
    busy: set[str] = field(default_factory=set)  # workers, and "broker", that are in the middle of a fault
    healing: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    serial: itertools.count[int] = field(default_factory=itertools.count)

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self.healing, (time.monotonic() + seconds, next(self.serial), action))

    def heal_due(self) -> None:
        """Do what is due."""
        while self.healing and self.healing[0][0] <= time.monotonic():
            heapq.heappop(self.healing)[2]()
            self.struck.append(time.time())

    def strike(self) -> str | None:
        """One fault of those that are possible now; its name."""
        kind = self.plan.only or self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        began = time.time()
        name = self.random.choice(NAMES)
        if kind == "broker kill -9":
            if "broker" in self.busy:
                return None
            self._kill_broker(self.random.choice(self.brokers))
        else:
            if name in self.busy or (kind == "leave" and len(self.busy & set(NAMES)) > 0):
                return None
            getattr(self, {"kill -9": "_kill", "SIGTERM, restart": "_restart", "pause": "_pause", "leave": "_leave",
                           "long pause": "_long_pause", "zombie": "_zombie"}[kind])(name)  # fmt: skip
        self.faults[kind] += 1
        self.struck.append(began)
        return kind

    def quiet(self) -> bool:
        """Whether everybody is here and no fault was lately."""
        return not self.busy and (not self.struck or time.time() - max(self.struck) > ALONE_S)

    def answered(self, observer: Observer) -> bool:
        """Whether the partitions that the last kill held up go on; a gap would not be measured if the next fault came into it."""
        if not self.kills or time.time() - self.kills[-1].at > GIVEN_UP_S:
            return True
        at = self.kills[-1].at
        return all(observer.arrivals[p] and observer.arrivals[p][-1][0] > at for p in self.kills[-1].partitions)

    def _free(self, name: str) -> Callable[[], None]:
        return lambda: self.busy.discard(name)

    def _kill(self, name: str) -> None:
        owned, alone = set() if "broker" in self.busy else self.fleet.owned(name), self.quiet()
        self.kills.append(Kill("worker", time.time(), owned, alone))
        self.fleet.kill(name)

    def _restart(self, name: str) -> None:
        self._away(name, self.random.uniform(0.2, 3.0))

    def _leave(self, name: str) -> None:
        def join() -> None:
            self.faults["join"] += 1

        seconds = self.random.uniform(SESSION_S + 2, SESSION_S + 10)
        self._away(name, seconds)
        self.later(seconds, join)

    def join_later(self, name: str, seconds: float) -> None:
        """A worker that was not there joins."""
        self.busy.add(name)

        def join() -> None:
            self.fleet.start(name)
            self.busy.discard(name)
            self.faults["join"] += 1

        self.later(seconds, join)

    def _away(self, name: str, seconds: float) -> None:
        """SIGTERM; some seconds later it is back."""
        self.busy.add(name)
        process = self.fleet.stop(name)

        def back() -> None:
            if process.poll() is None:  # it may be waiting for a broker that is away
                self.later(0.2, back)
                return
            self.fleet.check(name, process)
            self.fleet.start(name)
            self.busy.discard(name)

        self.later(seconds, back)

    def _pause(self, name: str) -> None:
        self._freeze(name, self.random.uniform(0.3, SESSION_S - 2))

    def _long_pause(self, name: str) -> None:
        self._freeze(name, self.random.uniform(SESSION_S + 2, SESSION_S + 8))

    def _freeze(self, name: str, seconds: float) -> None:
        self.busy.add(name)
        self.fleet.freeze(name)

        def thaw() -> None:
            self.fleet.thaw(name)
            self.busy.discard(name)

        self.later(seconds, thaw)

    def _zombie(self, name: str) -> None:
        """A worker freezes, another one takes its name, and the first one comes back to life."""
        self.busy.add(name)
        self.fleet.freeze(name)

        def replace() -> None:
            zombie = self.fleet.replace_frozen(name)
            self.later(self.random.uniform(4, 12), lambda: zombie.send_signal(18))
            self.later(12, self._free(name))

        self.later(self.random.uniform(0.5, 2), replace)

    def _kill_broker(self, broker: Broker) -> None:
        self.kills.append(Kill("broker", time.time(), set(range(PARTITIONS)), self.quiet()))
        self.busy.add("broker")
        broker.kill()

        def back() -> None:
            broker.launch()
            self.later(8 if len(self.brokers) == 1 else 12, self._free("broker"))

        self.later(self.random.uniform(0.3, 3), back)

    def gaps(self, observer: Observer) -> dict[str, list[float]]:
        """Seconds from each kill to the first committed output of a partition made after it, as a reader saw it."""
        found: dict[str, list[float]] = {}
        for kill in self.kills:
            for p in kill.partitions:
                seen = next((seen for made, seen in observer.arrivals[p] if made > kill.at), None)
                if seen is None:
                    continue
                found.setdefault(f"{kill.kind}, whatever else went wrong", []).append(seen - kill.at)
                others = any(kill.at < at < seen for at in self.struck)
                if kill.alone and (not others or kill.kind == "broker"):
                    found.setdefault(f"{kill.kind}, alone", []).append(seen - kill.at)
        return found


def chaos(plan: Plan, folder: Path, say: Callable[[str], None]) -> Outcome:
    """Run the plan with files in `folder` and say how it goes; the outcome's `wrong` is empty if all held."""
    say(
        f"seed {plan.seed}: {plan.duration_s:g} s of faults, {plan.brokers} broker(s), cell {plan.cell}, client {plan.client},"
        f" {plan.rate:g} ticks/s"
    )
    brokers = cluster(folder, plan.brokers)
    settings = KafkaSettings(bootstrap_servers=",".join(b.bootstrap for b in brokers))
    fleet = Fleet(settings, plan.cell, plan.client, plan.guarantee, folder)
    try:
        create_topics(settings, PARTITIONS, plan.brokers)
        run = Chaos(plan, brokers, fleet, random.Random(plan.seed))
        feed = Feed(settings.bootstrap_servers, settings.ticks, PARTITIONS, plan.rate, plan.seed)
        observer = Observer(settings.bootstrap_servers, settings.scores)
        for name in NAMES[:2]:
            fleet.start(name)
        feed.start()
        observer.start()
        run.join_later(NAMES[2], 5)
        _strike(run, feed, observer, say)
        wrong = _settle(run, feed, observer, settings, say) + fleet.finish()
        outcome = Outcome(wrong, run.faults, run.gaps(observer), gather(settings, say))
        outcome.wrong += verify(outcome.evidence, load(find(plan.cell)), BUDGET, plan.guarantee)
        _report(outcome, run, say)
        return outcome
    finally:
        fleet.abandon()
        for broker in brokers:
            broker.kill()


def _strike(run: Chaos, feed: Feed, observer: Observer, say: Callable[[str], None]) -> None:
    """Let things go wrong until the time is up."""
    began = time.monotonic()
    next_fault, next_status = began + 6, began + STATUS_S
    while (now := time.monotonic()) - began < run.plan.duration_s:
        run.heal_due()
        run.fleet.supervise()
        alone = now - began < run.plan.alone_share * run.plan.duration_s
        if alone and not (run.quiet() and run.answered(observer)):
            pass
        elif now >= next_fault:
            kind = run.strike()
            next_fault = now + (run.random.uniform(*CALM_S) if kind else 0.1)
        if now >= next_status:
            next_status = now + STATUS_S
            away = ", ".join(sorted(run.busy)) or "nobody"
            faults, ended = run.faults.total(), len(run.fleet.ended)
            say(
                f"{now - began:5.0f}/{run.plan.duration_s:g} s  sent {feed.sent}  scored {observer.ticks}  faults {faults}"
                f"  away {away}" + (f"  ended by themselves {ended}" if ended else "")
            )
        time.sleep(0.02)


def _settle(
    run: Chaos, feed: Feed, observer: Observer, settings: KafkaSettings, say: Callable[[str], None]
) -> list[str]:
    """Heal everything, trickle on until all is read, stop; what did not work, in sentences."""
    feed.rate = 20.0  # a lone broker that was killed may hide its last transaction until more comes
    deadline = time.monotonic() + HEAL_S
    target: dict[int, int] = {}
    while not target or any(observer.next[p] < end for p, end in target.items()):
        if time.monotonic() > deadline:
            behind = {p: (observer.next[p], end) for p, end in target.items() if observer.next[p] < end}
            return [f"{HEAL_S:.0f} s after all was healed these partitions are not read (at, end): {behind}"]
        run.heal_due()
        run.fleet.supervise()
        if not target and not run.healing:
            with suppress(Exception):  # any broker may still be starting
                target = ends(settings.bootstrap_servers, settings.ticks)
                say("all is healed; reading what is left")
        time.sleep(0.1)
    feed.end()
    while any(observer.next[p] < end for p, end in ends(settings.bootstrap_servers, settings.ticks).items()):
        if time.monotonic() > deadline:
            return ["the last ticks of the trickle were never read"]
        time.sleep(0.2)
    observer.end()
    return []


def gather(settings: KafkaSettings, say: Callable[[str], None]) -> Evidence:
    """Everything that a reader of the topics can see."""
    told = time.monotonic()

    def progress(line: str) -> None:
        nonlocal told
        if time.monotonic() - told > STATUS_S:
            told = time.monotonic()
            say(line)

    def all_of(topic: str) -> list[Seen]:
        return read(settings.bootstrap_servers, topic, progress)

    consumer = KafkaConsumer(bootstrap_servers=settings.bootstrap_servers.split(","), group_id=settings.group)
    try:
        committed = {p: consumer.committed(TopicPartition(settings.ticks, p)) for p in range(PARTITIONS)}
    finally:
        consumer.close()
    evidence = Evidence(
        topic=settings.ticks,
        ticks=all_of(settings.ticks),
        scores=all_of(settings.scores),
        alerts=all_of(settings.alerts),
        letters=all_of(settings.dead_letters),
        changelog=all_of(settings.changelog),
        committed=committed,
    )
    say("scoring all of it once more, undisturbed")
    return evidence


def _report(outcome: Outcome, run: Chaos, say: Callable[[str], None]) -> None:
    faults = outcome.faults
    say("faults: " + ", ".join(f"{kind} {n}" for kind, n in sorted(faults.items())))
    for kind, gaps in outcome.gaps.items():
        say(
            f"gap from kill -9 to the partition's next committed output ({kind}):"
            f" p50 {statistics.median(gaps):.2f} s, max {max(gaps):.2f} s, n {len(gaps)}"
        )
    if run.fleet.ended:
        say(f"workers that ended by themselves: {run.fleet.ended}")
    for problem in outcome.wrong[:20]:
        say(f"  {problem}")
    ticks = len(outcome.evidence.ticks)
    if outcome.wrong:
        say(
            f"verdict: VIOLATED in {len(outcome.wrong)} ways over {ticks} ticks, {faults.total()} faults, seed {run.plan.seed}"
        )
    else:
        say(f"verdict: {run.plan.guarantee} held over {ticks} ticks, {faults.total()} faults")
