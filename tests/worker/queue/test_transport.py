"""The repair of kombu's Redis transport, on a Redis that is really killed."""

from __future__ import annotations

from contextlib import ExitStack

import kombu.transport
import pytest
from kombu import Connection, Consumer, Producer, Queue

from slicewise.worker.queue import embedded, transport


@pytest.mark.parametrize("settle", ["ack", "reject", "requeue"])
def test_a_redis_that_is_away_when_a_message_is_settled_does_not_stall_the_worker(settings, monkeypatch, settle):
    """A worker that fetches one message at a time has to fetch the next, whatever became of this one."""
    monkeypatch.setattr(kombu.transport, "_transport_cache", {})
    transport.install()
    settings.logs.mkdir(parents=True)
    with ExitStack() as stack:
        server = embedded.start(settings.home, settings.logs / "redis.log")
        stack.callback(lambda: (server.kill(), server.wait()))
        connection = stack.enter_context(Connection(settings.broker_url))
        channel, queue, got = connection.channel(), Queue("bells"), []
        channel.basic_qos(0, 1, False)
        Producer(channel, routing_key="bells").publish(1, declare=[queue])
        with Consumer(channel, [queue], on_message=got.append, auto_declare=False):
            connection.drain_events(timeout=5)
            assert not channel.qos.can_consume()
            server.kill()
            server.wait()
            with pytest.raises(connection.connection_errors):
                getattr(got[0], settle)()
            assert channel.qos.can_consume()
