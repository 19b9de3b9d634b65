import pytest

from app.settings import VARIABLES, Settings, SettingsInvalid, read_direct_url, read_settings

URL = "postgresql://db/tollgate"
# What is planted where a value must never be shown.
SECRET = "h3rr1ng"


def problems_of(**environ: str) -> dict[str, str]:
    with pytest.raises(SettingsInvalid) as caught:
        read_settings({"ENVIRONMENT": "test", "DATABASE_URL": URL, **environ})
    assert SECRET not in str(caught.value)
    return caught.value.problems


def test_a_database_is_enough_outside_production() -> None:
    """Everything else has a default there, and the direct url is the same one."""
    settings = read_settings({"ENVIRONMENT": "test", "DATABASE_URL": URL})

    assert settings.database_url == settings.direct_database_url == URL
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.webhooks_allow_loopback is False


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_schemes_that_platforms_use_name_the_same_database(scheme: str) -> None:
    """Heroku says postgres, SQLAlchemy adds a driver; the driver itself wants one spelling."""
    assert read_direct_url({"DATABASE_URL": f"{scheme}://u:p@db:5433/x?sslmode=require"}) == "postgresql://u:p@db:5433/x?sslmode=require"


def test_production_asks_for_its_secrets() -> None:
    """It is also what an installation is that does not say what it is."""
    with pytest.raises(SettingsInvalid) as caught:
        read_settings({"DATABASE_URL": URL})

    assert caught.value.problems == {"SERVER_KEY": "is required in production"}
    assert read_settings({"DATABASE_URL": URL, "SERVER_KEY": "k" * 32}).host == "0.0.0.0"


def test_production_never_sends_webhooks_to_itself() -> None:
    """A merchant's URL must not reach what only this machine should."""
    environ = {"ENVIRONMENT": "production", "SERVER_KEY": "k" * 32, "WEBHOOKS_ALLOW_LOOPBACK": "1"}

    assert list(problems_of(**environ)) == ["WEBHOOKS_ALLOW_LOOPBACK"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", SECRET),
        ("DATABASE_URL", SECRET),
        ("DATABASE_URL", f"mysql://{SECRET}@db/x"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}%zz@db/x"),
        ("DIRECT_DATABASE_URL", f"postgresql://db/x?no_such_option={SECRET}"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "٣"),
        ("PORT", SECRET),
        ("PUBLIC_URL", f"ftp://{SECRET}"),
        ("PUBLIC_URL", "https://"),
        ("PUBLIC_URL", f"https://{SECRET}:port"),
        ("SERVER_KEY", SECRET),
        ("WEBHOOKS_ALLOW_LOOPBACK", SECRET),
        ("WORKER_QUEUES", f"psp,{SECRET.upper()}"),
        ("WORKER_THREADS", "65"),
        ("LOG_LEVEL", SECRET),
        ("OTEL_TRACES_EXPORTER", SECRET),
    ],
)
def test_an_ill_formed_value_is_named_and_not_shown(name: str, value: str) -> None:
    """Any value may be a secret that was put into the wrong variable."""
    assert list(problems_of(**{name: value})) == [name]


def test_all_problems_are_told_at_once() -> None:
    """Whoever configures a platform does not want to deploy once for each."""
    assert list(problems_of(PORT="x", LOG_LEVEL="loud", DATABASE_URL="")) == ["DATABASE_URL", "PORT", "LOG_LEVEL"]


@pytest.mark.parametrize(("deadline", "drain", "lease"), [("25", "25", "60"), ("20", "60", "60"), ("30", "25", "60")])
def test_times_that_would_send_a_payment_twice_are_refused(deadline: str, drain: str, lease: str) -> None:
    """A row has to be given up before it is drained, and that before another worker may take it."""
    assert list(problems_of(HANDLER_DEADLINE_SECONDS=deadline, DRAIN_SECONDS=drain, LEASE_SECONDS=lease)) == ["LEASE_SECONDS"]


def test_settings_do_not_print_themselves() -> None:
    """A log line or a traceback with them in it gives nothing away."""
    settings = read_settings({"ENVIRONMENT": "test", "DATABASE_URL": URL, "METRICS_TOKEN": SECRET})

    assert SECRET not in f"{settings} {settings!r}"


def test_every_field_has_one_variable() -> None:
    """The table is complete, so that the check and the page are."""
    assert sorted(variable.field for variable in VARIABLES) == sorted(Settings.__struct_fields__)
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
