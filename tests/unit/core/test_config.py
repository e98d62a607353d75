"""Settings: their defaults and bounds, and the error for an invalid value."""

from ipaddress import ip_network
from pathlib import Path

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


@pytest.mark.parametrize("value", ["1", "49"])
def test_a_rate_limit_between_zero_and_its_minimum_is_an_error(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"COMMENT_RATE_LIMIT_PER_MINUTE.*0 or 50 to 200"):
        config.load({"COMMENT_RATE_LIMIT_PER_MINUTE": value})


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("COMMENT_TRUSTED_PROXIES", "10.0.0.0/33", "10.0.0.0/8"),
        ("LOG_LEVEL", "LOUD", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("COMMENT_SWEEP_INTERVAL", "0", "above 0 to 60"),
    ],
)
def test_an_invalid_value_is_reported_with_the_remedy(variable: str, value: str, remedy: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.load({variable: value})
    assert f"{variable}={value}" in str(caught.value)
    assert remedy in str(caught.value)


def test_the_error_for_a_secret_hides_its_value() -> None:
    """An address may hold a password."""
    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT=<hidden>.*https://") as caught:
        config.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:hunter2@host"})
    assert "hunter2" not in str(caught.value)


def test_only_addresses_that_may_hold_a_password_are_secret() -> None:
    assert {setting.variable for setting in config.declared() if setting.secret} == {
        "POSTGRES_DSN",
        "REDIS_URL",
        "CELERY_BROKER_URL",
        "RABBITMQ_URL",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }


def test_a_log_level_may_be_lower_case() -> None:
    assert config.load({"LOG_LEVEL": "debug"}).log_level == "DEBUG"


def test_networks_are_separated_by_commas_or_blanks() -> None:
    expected = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("192.0.2.1/32"))
    assert config.networks("10.0.0.0/8,fd00::/8 192.0.2.1") == expected
    text = "10.0.0.0/8, fd00::/8"
    assert config.load({"COMMENT_TRUSTED_PROXIES": text}).trusted_proxies == text


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMENT_BATCH_SIZE", "7")
    assert config.load().batch_size == 7
    assert config.load({}).batch_size == 10


def test_the_documented_defaults_and_bounds_are_the_real_ones() -> None:
    declared = {setting.variable: setting for setting in config.declared()}
    defaults = config.load({})

    assert all(setting.default == getattr(defaults, setting.field) for setting in declared.values())
    assert declared["LOG_LEVEL_FILE"].bounds == "text"
    assert declared["CELERY_TASK_EVENTS"].bounds == "true or false"


def test_a_missing_dsn_is_reported_with_the_remedy() -> None:
    """Where a running `up` was searched, the message also names the folder and the option."""
    settings = config.load({})
    with pytest.raises(ConfigurationError, match=r"POSTGRES_DSN.*postgresql://"):
        config.require_dsn(settings)
    with pytest.raises(ConfigurationError, match=r"--data-dir.*POSTGRES_DSN.*postgresql://") as caught:
        config.require_dsn(settings, Path("data"))
    assert str(Path("data").absolute()) in str(caught.value)


def test_a_dsn_is_checked_without_showing_it() -> None:
    config.require_dsn(config.load({"POSTGRES_DSN": "postgresql://user:hunter2@host/comments"}))
    with pytest.raises(ConfigurationError, match="POSTGRES_DSN") as caught:
        config.require_dsn(config.load({"POSTGRES_DSN": "postgresql://user:hunter2@host:port:port/x"}), Path("data"))
    assert "hunter2" not in str(caught.value)
