"""kombu's Redis transport with one repair: a worker survives that Redis is away when it acknowledges a message."""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES, redis, virtual


class QoS(redis.QoS):
    """Counts a message as handled even where Redis could not be told.

    kombu 5.7 keeps counting it as fetched then, and a worker that fetches one at a time never fetches again
    (tried: Redis killed while a task ran). Nothing is lost: Redis hands the message out again after the visibility
    timeout, and finds the job done.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        try:
            super().reject(delivery_tag, requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)


class Channel(redis.Channel):
    """With the repaired count."""

    QoS = QoS


class Transport(redis.Transport):
    """With the repaired channel."""

    Channel = Channel


def install() -> None:
    """Serve every ``redis`` and ``rediss`` URL of this process."""
    for name in ("redis", "rediss"):
        TRANSPORT_ALIASES[name] = "slicewise.worker.queue.transport:Transport"
