"""Settings: their defaults and bounds, and the error for an invalid value."""

import pytest

from comment_monitor.core import config
from comment_monitor.core.errors import ConfigurationError


def test_the_defaults_are_those_of_the_contract() -> None:
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
def test_a_value_out_of_bounds_is_reported_with_variable_and_bounds(variable: str, low: int, high: int) -> None:
    """The bounds themselves are allowed. The message is a single line."""
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


def test_zero_disables_the_rate_limit() -> None:
    """0 is allowed although it is outside of 50 to 200."""
    assert config.load({"COMMENT_RATE_LIMIT_PER_MINUTE": "0"}).rate_limit_per_minute == 0


@pytest.mark.parametrize("word", ["maybe", "2", "ja"])
def test_a_switch_is_true_or_false(word: str) -> None:
    """Any other value is an error, and never counts as false."""
    with pytest.raises(ConfigurationError, match=r"COMMENT_MONITORING_ENABLED.*true or false"):
        config.load({"COMMENT_MONITORING_ENABLED": word})


def test_an_empty_variable_counts_as_unset() -> None:
    """A chart may render an empty value for the default."""
    assert config.load({"COMMENT_BATCH_SIZE": " "}).batch_size == 10


def test_the_broker_falls_back_to_rabbitmq_url() -> None:
    """CELERY_BROKER_URL takes precedence."""
    assert config.load({"RABBITMQ_URL": "amqp://a"}).broker_url == "amqp://a"
    assert config.load({"RABBITMQ_URL": "amqp://a", "CELERY_BROKER_URL": "amqp://b"}).broker_url == "amqp://b"


def test_every_setting_has_its_own_variable_and_a_description() -> None:
    """The documentation is generated from the declarations."""
    declared = config.declared()

    assert len({setting.variable for setting in declared}) == len(declared)
    assert all(setting.description.endswith(".") for setting in declared)
