"""Prints executions as they finish, from the feed of events.

    python3 -m pip install 'nats-py[nkeys]==2.16.0'
    python3 examples/subscriber/subscriber.py --url nats://127.0.0.1:4222

Stop it and start it again, kill it, restart the bus: it continues where it was, and handles every event once and in
order. Three things make it so, and yours needs the same:

- a durable consumer: the bus remembers what was acknowledged;
- one message at a time (`max_ack_pending` 1): the next one comes when this one is acknowledged, so nothing overtakes
  what is delivered again. Where the order does not matter, take more at once;
- the id of an event is kept in the same transaction as its effect: what comes again is known.
"""

import argparse
import asyncio
import json
import signal
import sqlite3
import ssl
import sys
import time

import nats
from nats.js.api import ConsumerConfig

STREAM = "WASMWIZ_FEED"
FINISHED = "wasmwiz.v1.*.executions.*.finished"

# How long an id is remembered: longer than the stream keeps its messages (`feed.max_age_s`, a week).
REMEMBERED_S = 8 * 24 * 3_600
PAUSE_S = 1.0
FETCH_S = 5.0


class Handled:
    """The events that were handled, in a file."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS handled"
            " (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, tenant TEXT NOT NULL, at INTEGER NOT NULL)"
        )
        self.database.execute("DELETE FROM handled WHERE at < ?", (int(time.time()) - REMEMBERED_S,))

    def once(self, event, effect):
        """Does it if the event is new. Was it? An effect in this database would happen exactly once; printing, which
        cannot be taken back, happens twice if the process dies before the commit."""
        tenant = event["source"].removeprefix("/tenants/")
        self.database.execute("BEGIN IMMEDIATE")
        try:
            row = (event["id"], tenant, int(time.time()))
            added = self.database.execute("INSERT OR IGNORE INTO handled (id, tenant, at) VALUES (?, ?, ?)", row)
            if added.rowcount == 1:
                effect(tenant, event)
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        return added.rowcount == 1


def show(tenant, event):
    """One line for one event. Types that are not known yet are shown, too."""
    data = event["data"]
    if event["type"].startswith("dev.wasmwiz.execution.finished."):
        print(f"{tenant} execution {data['execution_id']} {data['outcome']} {data['wall_ms']} ms", flush=True)
    else:
        print(f"{tenant} {event['type']} {event['subject']}", flush=True)


async def connect(options):
    async def say(error):
        print(f"subscriber: {error}", file=sys.stderr, flush=True)

    return await nats.connect(
        options.url.split(","),
        name=options.name,
        tls=ssl.create_default_context(cafile=options.ca) if options.ca else None,
        nkeys_seed=options.nkey,
        user_credentials=options.creds,
        inbox_prefix=options.inbox,
        error_cb=say,
        # For ever: the bus may be away for long.
        max_reconnect_attempts=-1,
        reconnect_time_wait=PAUSE_S,
    )


async def subscribe(bus, options):
    """Makes the consumer, or finds it as it was left."""
    config = ConsumerConfig(max_ack_pending=1, ack_wait=options.ack_wait)
    context = bus.jetstream()
    return await context.pull_subscribe(options.subject, durable=options.name, stream=STREAM, config=config)


async def follow(options):
    handled, bus, left = Handled(options.state), await connect(options), options.count
    consumer = None
    while left is None or left > 0:
        try:
            consumer = consumer or await subscribe(bus, options)
            (message,) = await consumer.fetch(1, timeout=FETCH_S)
            new = handled.once(json.loads(message.data), show)
            await message.ack()
            left = left - 1 if new and left is not None else left
        except nats.errors.TimeoutError:
            # Nothing happened for a while, or the connection is being made again.
            continue
        except nats.errors.Error as error:
            # No stream yet, no permission, a bus that starts: what helps is not here.
            print(f"subscriber: {error!r}, trying again", file=sys.stderr, flush=True)
            consumer = None
            await asyncio.sleep(PAUSE_S)
    await bus.drain()


def options():
    parser = argparse.ArgumentParser(description="Prints executions as they finish, from the feed of events.")
    parser.add_argument("--url", default="nats://127.0.0.1:4222", help="servers, with commas between; tls:// demands TLS")
    parser.add_argument("--subject", default=FINISHED, help="which events (default: %(default)s)")
    parser.add_argument("--name", default="subscriber-py", help="of the durable consumer: who has it, continues")
    parser.add_argument("--state", default="subscriber-py.sqlite", help="where handled events are remembered")
    parser.add_argument("--count", type=int, help="end after so many new events")
    parser.add_argument("--ack-wait", type=float, default=30.0, help="seconds until what was not acknowledged comes again")
    parser.add_argument("--inbox", default="_INBOX", help="what the subjects of answers begin with")
    parser.add_argument("--ca", help="PEM file of the authorities that are trusted, instead of the system's")
    parser.add_argument("--nkey", help="file with the seed of an nkey")
    parser.add_argument("--creds", help="credentials file")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        asyncio.run(follow(options()))
    except KeyboardInterrupt:
        pass
