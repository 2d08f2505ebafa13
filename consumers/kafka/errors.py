"""Errors of Kafka's clients as those of the broker contract."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import kafka.errors as kafka_errors

from streamgauge.consumers.broker import (
    BrokerError,
    BrokerTimeoutError,
    FencedError,
    NotRetainedError,
    UnknownTopicError,
)
from streamgauge.consumers.kafka.client import kafka_settings
from streamgauge.stream.config import duration_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamgauge.consumers.config import Config

_TIMED_OUT = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)
_FENCED = (
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.InvalidTxnStateError,
    kafka_errors.InvalidProducerIdMappingError,
)


class _LastRefusal(logging.Handler):
    """Remembers why no connection could be made.

    The client logs that and no more: after the time-out it only says that it could not connect,
    whether nobody listens there or our password is wrong.
    """

    def __init__(self, logger: str) -> None:
        super().__init__(logging.WARNING)
        self._error: BaseException | None = None
        self._at_s = 0.0
        source = logging.getLogger(logger)
        source.setLevel(logging.WARNING)
        source.propagate = False
        source.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        for argument in arguments:
            # That it was tried for too long is what is known already.
            if isinstance(argument, BaseException) and not isinstance(argument, _TIMED_OUT):
                self._error, self._at_s = argument, time.monotonic()

    def within(self, seconds: float) -> BaseException | None:
        """Return the last reason, if it is not older than that."""
        return self._error if time.monotonic() - self._at_s <= seconds else None


_last_refusal = _LastRefusal("kafka.net.manager")


@contextmanager
def translate_errors(config: Config) -> Iterator[None]:
    """Make the client's errors the broker contract's.

    Raises:
        FencedError: another producer has taken this one's place.
        BrokerTimeoutError: the brokers did not answer, or not in time; trying again may help.
        UnknownTopicError: there is no such topic.
        NotRetainedError: what should be read was deleted.
        BrokerError: any other refusal.
    """
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise to_broker_error(error, config) from error
    except OSError as error:
        raise BrokerError(
            f"Kafka at {kafka_settings(config).bootstrap_servers}: {error}"
        ) from error


def to_broker_error(error: BaseException, config: Config) -> BrokerError:
    """Return an error of the client as one of the broker contract's."""
    settings = kafka_settings(config)
    where = f"Kafka at {settings.bootstrap_servers}"
    if isinstance(error, kafka_errors.KafkaTimeoutError) and "bootstrap" in str(error):
        error = _last_refusal.within(settings.timeout / 1000) or error
    name = type(error).__name__
    what = str(error) if name in str(error) else f"{name}: {error}".removesuffix(": ")
    if isinstance(error, _FENCED):
        return FencedError(f"another worker has taken the partition over ({what})")
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError):
        return UnknownTopicError(
            f"{where} lacks a topic ({what}); `streamgauge topics create` makes them all"
        )
    if isinstance(error, kafka_errors.OffsetOutOfRangeError):
        return NotRetainedError(f"{where} no longer retains this ({what})")
    is_asked = settings.security.protocol != "PLAINTEXT"
    if is_asked and "disconnected" in what:
        # Its answer and the end of the connection come together, and the client drops the answer.
        return BrokerTimeoutError(
            f"{where} broke every connection off for {duration_text(settings.timeout)} while we "
            "said who we are; most likely it does not accept our credentials: see broker.security"
        )
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return BrokerError(f"{where} does not accept our credentials; see broker.security")
    if isinstance(error, kafka_errors.AuthorizationError):
        return BrokerError(f"{where} does not allow this ({what}); grant it to our user")
    # Of a transaction's request the client says it in words alone.
    is_late = kafka_errors.RequestTimedOutError.__name__ in what
    if is_late or isinstance(error, kafka_errors.KafkaTimeoutError | kafka_errors.RetriableError):
        return BrokerTimeoutError(
            f"{where} did not answer within {duration_text(settings.timeout)} ({what}); "
            "check that it runs, broker.bootstrap_servers and broker.security"
        )
    return BrokerError(f"{where}: {what}")
