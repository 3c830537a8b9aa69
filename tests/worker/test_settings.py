"""Settings come from the environment when asked for, and a wrong one is never passed over."""

from __future__ import annotations

import pytest
from kombu import Connection

from slicewise.db.engine import Database
from slicewise.worker.errors import Misconfigured
from slicewise.worker.model.bundle import DEFAULT
from slicewise.worker.queue import embedded
from slicewise.worker.settings import Settings


def read(**given: str) -> Settings:
    return Settings.from_environment({f"SLICEWISE_{name}": value for name, value in given.items()})


def test_everything_lies_in_the_home(tmp_path):
    settings = read(HOME=str(tmp_path))
    assert settings.home == tmp_path
    assert Database(settings.database_url).url.database == str(tmp_path / "slicewise.sqlite3")
    assert settings.broker_url == f"redis+socket://{tmp_path}/redis.sock"
    assert settings.embedded
    assert settings.spool.parent == settings.logs.parent == tmp_path
    assert settings.serving == DEFAULT
    assert settings.serving.is_file()


def test_without_a_home_it_is_the_platforms_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings.from_environment({}).home == tmp_path / "slicewise"


def test_a_relative_home_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert read(HOME="here").home == tmp_path / "here"
    assert read(HOME="~/there").home == tmp_path / "me" / "there"


@pytest.mark.parametrize(
    "name", ["My Scans", "Jörg", "50%", "a%20b", "who?me", "#1", "a+b", "a&b=c;d", "[x]", "a'b\"c"]
)
def test_a_home_may_be_called_anything(tmp_path, name, settings):
    settings = read(HOME=str(tmp_path / name))
    (tmp_path / name).mkdir()
    database = Database(settings.database_url)
    database.upgrade()
    database.close()
    server = embedded.start(settings.home, settings.home / "redis.log")
    try:
        assert embedded.answers(settings.broker_url)
        with Connection(settings.broker_url) as connection:
            connection.ensure_connection(max_retries=0)
    finally:
        server.terminate()
        server.wait()
    assert settings.embedded
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "slicewise.sqlite3").is_file()


def test_a_broker_of_ones_own_is_not_the_embedded_one(tmp_path):
    settings = read(HOME=str(tmp_path), BROKER_URL="redis://somewhere", DATABASE_URL="postgresql+psycopg://x/y")
    assert not settings.embedded
    assert (settings.broker_url, settings.database_url) == ("redis://somewhere", "postgresql+psycopg://x/y")


def test_an_empty_value_is_none_at_all():
    assert read(THREADS="", MODEL="", PROVIDER="") == read()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"HOMES": "/x"}, "no setting is called SLICEWISE_HOMES"),
        ({"A": "1", "B": "2"}, "SLICEWISE_A, SLICEWISE_B"),
        ({"PROVIDER": "gpu"}, "SLICEWISE_PROVIDER is 'gpu': set cpu or cuda"),
        ({"THREADS": "many"}, "SLICEWISE_THREADS is 'many': give a whole number from 0 to 1024"),
        ({"THREADS": "-1"}, "from 0 to 1024"),
        ({"THREADS": "²"}, "from 0 to 1024"),
        ({"LEASE_SECONDS": "1"}, "from 5 to 3600"),
        ({"LEASE_SECONDS": "60.5"}, "from 5 to 3600"),
        ({"JOB_FILES": "0"}, "from 1 to 1000"),
        ({"JOB_FILES": "1001"}, "from 1 to 1000"),
        ({"PATIENT_ID": "hash"}, "SLICEWISE_PATIENT_ID is 'hash': set pseudonym, plain or none"),
    ],
)
def test_a_wrong_setting_says_what_can_be_given(given, says):
    with pytest.raises(Misconfigured, match=says):
        read(**given)


def test_other_programs_variables_are_none_of_ours():
    assert Settings.from_environment({"HOME": "/x", "slicewise_home": "/y", "SLICEWISER": "1"}) == read()


@pytest.mark.parametrize("url", ["amqp://here", "sqla+sqlite:///x", "filesystem://", "redis.example", ""])
def test_a_broker_that_is_no_redis_is_refused(url):
    """Celery would take them; some lose what they hold when a worker is killed."""
    if url:
        with pytest.raises(Misconfigured, match="redis://"):
            Settings.from_environment({"SLICEWISE_BROKER_URL": url})
    else:
        assert Settings.from_environment({"SLICEWISE_BROKER_URL": url}).embedded
