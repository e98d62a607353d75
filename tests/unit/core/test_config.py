"""Settings: bounds, defaults and one clear line where a value is wrong."""

import pytest

from comment_monitor.core import config
from comment_monitor.core.errors import ConfigurationError


def test_defaults_are_the_contracts() -> None:
    """Without any variable the settings are those of the contract."""
    settings = config.load({})

    assert (settings.enabled, settings.batch_size, settings.dedup_cache_ttl) == (True, 10, 3600)
    assert (settings.processing_timeout, settings.rate_limit_per_minute, settings.max_retries) == (30, 100, 3)
    assert (settings.backoff_multiplier, settings.queue_capacity, settings.log_level) == (2, 10_000, "INFO")


@pytest.mark.parametrize(
    ("variable", "low", "high"),
    [
        ("COMMENT_BATCH_SIZE", 5, 25),
        ("COMMENT_DEDUP_CACHE_TTL", 1800, 7200),
        ("COMMENT_PROCESSING_TIMEOUT", 15, 45),
        ("COMMENT_RATE_LIMIT_PER_MINUTE", 50, 200),
    ],
)
def test_a_value_out_of_bounds_is_named(variable: str, low: int, high: int) -> None:
    """The bounds themselves are allowed; one step outside stops with variable, value and bounds in one line."""
    for value in (low, high):
        config.load({variable: str(value)})

    for value in (low - 1, high + 1):
        with pytest.raises(ConfigurationError) as caught:
            config.load({variable: str(value)})
        line = str(caught.value)
        assert variable in line
        assert str(value) in line
        assert f"{low} to {high}" in line
        assert "\n" not in line


def test_zero_switches_the_rate_limit_off() -> None:
    """0 lies outside 50 to 200 and is allowed all the same."""
    assert config.load({"COMMENT_RATE_LIMIT_PER_MINUTE": "0"}).rate_limit_per_minute == 0


@pytest.mark.parametrize("word", ["maybe", "2", "ja"])
def test_a_switch_is_true_or_false(word: str) -> None:
    """Anything else is an error, never a silent false."""
    with pytest.raises(ConfigurationError, match=r"COMMENT_MONITORING_ENABLED.*true or false"):
        config.load({"COMMENT_MONITORING_ENABLED": word})


def test_an_empty_variable_counts_as_not_set() -> None:
    """A chart that renders an empty value means the default."""
    assert config.load({"COMMENT_BATCH_SIZE": " "}).batch_size == 10


def test_the_broker_falls_back_to_rabbitmq_url() -> None:
    """CELERY_BROKER_URL wins, RABBITMQ_URL stands in."""
    assert config.load({"RABBITMQ_URL": "amqp://a"}).broker_url == "amqp://a"
    assert config.load({"RABBITMQ_URL": "amqp://a", "CELERY_BROKER_URL": "amqp://b"}).broker_url == "amqp://b"


def test_every_setting_has_a_sentence_and_a_variable_of_its_own() -> None:
    """The documentation is generated from the declarations."""
    declared = config.declared()

    assert len({one.variable for one in declared}) == len(declared)
    assert all(one.description.endswith(".") for one in declared)
