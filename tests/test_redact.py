"""Secrets in texts, records, overrides and sweeps: struck out where they stand, and handed on to who uses them."""

from __future__ import annotations

import html
import json
import logging
import os
import sys
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from resnet_exp.config.conf import CONF
from resnet_exp.config.config import typed
from resnet_exp.config.redact import VARIABLE, by_form, redact, redacted
from resnet_exp.config.secrets import fill_environment, filled, strike, strike_override, strike_sweep
from resnet_exp.interfaces import ConfigError
from resnet_exp.run_dir.files import write_json
from resnet_exp.run_dir.journal import Journal
from resnet_exp.runs.output import redact_output

SECRET = "hunter2SECRET"


@pytest.mark.parametrize(
    "text",
    [
        "http://me:%@host/x",
        "postgresql+psycopg://u:a@%@host/db",
        "mysql://u:%@h:3306/db?charset=utf8",
        "redis://:%@host:6379/0",
        "https://%@host/mlflow",
        "https://%:@host/x",
        "https://%:x-oauth-basic@github.com/x/y",
        "postgresql://host/db?user=me&password=%&sslmode=on",
        "https://h/a?access_token=%",
        "https://h/a?api_key=%&x=1",
        "https://h/a?auth_token=%#f",
        "https://a.blob.core.windows.net/c?sv=2021&sig=%",
        "https://s3/x?X-Amz-Credential=A&X-Amz-Signature=%",
        "https://s3/x?X-Amz-Security-Token=%",
        "Driver={ODBC};Server=x;Uid=me;Pwd=%;Encrypt=yes",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D%%3BUID%3Dme".replace("%%3B", "%\0"),
        "DRIVER=x;PWD={%};",
        "postgresql://me:it's % x@host/db",
        "postgresql://me:a/%@host/db",
        "jdbc:postgresql://h/db?user=me&password=%",
        "jdbc:sqlserver://h:1433;user=me;password=%;",
        "jdbc:oracle:thin:me/%@//h:1521/x",
        "from http://a:%@h1/x to http://b:%@h2/y",
        "first\nhttp://me:%@host\nlast",
        "Authorization: Bearer %",
        "{'Authorization': 'Basic %'}",
        "Bearer %abcdef.ghi",
        '{"password": "%", "user": "me"}',
        '{\\"password\\": \\"%\\"}',
        "connect(host='h', password='%', port=1)",
        "MLFLOW_TRACKING_PASSWORD=%",
        "environ({'MY_TOKEN': '%'})",
        "AWS_SECRET_ACCESS_KEY=%",
        "X-Api-Key: %",
        "http\\://user\\:%@host",
        "http:\\/\\/me:%@host",
        "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=%;",
        "host=h user=me password='a %' dbname=x",
        "[client]\npassword = %\n",
        "password: %\n",
        "{token: %, a: b}",
        "--password % --x",
        "--api-key=%",
        "http%3A%2F%2Fme%3A\0%40host",
        "Cookie: session=%; a=b",
        "client_secret=%",
        "ghp_%0123456789abcdef",
        "refresh_token=%",
        "assert password == '%'",
        "-----BEGIN RSA PRIVATE KEY-----\nMII%\n-----END RSA PRIVATE KEY-----",
        "OperationalError: connection to postgresql://me:%@127.0.0.1:1/db failed",
        "HTTPConnectionPool(host='h'): Max retries exceeded with url: /api?token=% (Caused by x)",
    ],
)
def test_a_secret_shows_by_the_form_of_its_address_or_the_name_of_its_key(text: str) -> None:
    given = text.replace("%\0", f"{SECRET}%3B").replace("\0", SECRET)
    given = given if SECRET in given else given.replace("%", SECRET)
    struck = by_form(given)
    assert SECRET in given and SECRET not in struck and "***" in struck
    assert by_form(struck) == struck


@pytest.mark.parametrize(
    "text",
    [
        "/data/me@home/x:y@z", "epoch=3", "tokens=4", "num_tokens=12", "me@example.org", "at 12:30@ noon",
        "C:\\Users\\me\\x", "resnet_exp.models.custom_resnet.CustomResNet", "git@github.com:x/y",
        "ssh://git@github.com/x/y", "http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "see http://host:8080 or mail me@x.org", "sqlite:////tmp/a@b/mlflow.db", "model.cls_token=mean",
        "class_token: avg", "unexpected token: foo", "SyntaxError: invalid token '}'", "KeyError: 'token'",
        'password authentication failed for user "me"', "password=None", "tracker.uri=http://me:***@host",
        "'tracker.password=***'", "http://u:${oc.env:PW}@h", "signature=be6911a1feb9", "PWD=/data/x", "pwd = C:\\x",
        "key=value", "keys: a, b", "secretary: Ann", "token = tokens[0]", "basic authentication is needed",
        "Bearer token expired", "https://h/a?key=name&x=1", "a://b:80/c@d", "--token-length 3", "max_token=512",
        "data.root=/x/a=b@c", "loss/train", "2026-11-28 07:45:01,123 INFO: done", "https://host/path@v1",
        "the password is in the environment", "enter password: ",
        "x.csv is a link, to /etc/passwd: nothing is read through it",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert by_form(text) == text


@pytest.mark.parametrize("form", [str, repr, json.dumps, quote_plus, html.escape, lambda text: repr(json.dumps(text))])
def test_what_the_environment_says_is_a_secret_is_struck_out_wherever_it_stands(form, monkeypatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "Qz7'ab\"c@1é &")
    assert redact(f"x{form('Qz7' + chr(39) + 'ab' + chr(34) + 'c@1é &')}y").strip("xy'\"\\") == "***"


@pytest.mark.parametrize("word", ["quickstart", "train", "resnet_exp", "12345678"])
def test_a_word_is_struck_out_of_no_text_because_somebody_took_it_for_a_password(word: str, monkeypatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", word)
    assert redact(f"runs/{word}/x") == f"runs/{word}/x"


def test_records_lose_secrets_of_values_keys_and_named_keys() -> None:
    record = {"reason": f"http://me:{SECRET}@h", f"api_key={SECRET}": 1, "a": [{"tracker.token": SECRET, "seed": 3}]}
    assert redacted(record) == {
        "reason": "http://me:***@h", "api_key=***": 1, "a": [{"tracker.token": "***", "seed": 3}],
    }  # fmt: skip


def test_no_journal_nor_json_file_has_a_secret(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.status("FAILED", f"OperationalError: postgresql://me:{SECRET}@h\nAuthorization: Bearer {SECRET}")
        journal.event("x", url=f"https://h?sig={SECRET}")
        journal.tags({"description": f"`tracker.uri=http\\://me\\:{SECRET}@h`"})
        journal.params({"tracker.api_key": SECRET})
    write_json(tmp_path / "x.json", {"reason": f"password={SECRET}"})
    for path in tmp_path.iterdir():
        assert SECRET not in path.read_text() and "***" in path.read_text()


def test_what_is_printed_or_logged_by_whichever_library_has_no_secret(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    before = logging.getLogRecordFactory()
    handler = logging.StreamHandler(sys.stderr)  # has the stream of before
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    try:
        redact_output()
        redact_output()
        print(f"http://me:{SECRET}@h")
        try:
            raise ValueError(f"password={SECRET}")
        except ValueError:
            logger.exception("no way to %s", f"https://{SECRET}@h")
            sys.excepthook(*sys.exc_info())
        logger.warning("%d of them", 3)
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(before)
    seen = capsys.readouterr()
    assert "http://me:***@h" in seen.out and "https://***@h" in seen.err and "3 of them" in seen.err
    assert SECRET not in seen.out + seen.err and seen.err.count("password=***") >= 2


@pytest.mark.parametrize(
    ("override", "struck"),
    [
        ("tracker.uri=postgresql://me:P-1@h/db", "tracker.uri=postgresql://me:***@h/db"),
        ("tracker.uri='postgresql://me:it\\'s @/ x@h/db'", "tracker.uri=postgresql://me:***@h/db"),
        ("tracker.uri=http\\://me\\:P-1@h", "tracker.uri=http://me:***@h"),
        ("+tracker.token=0123", "+tracker.token=***"),
        ("++tracker.auth={user: me, password: P-1}", '++tracker.auth={user:"me",password:***}'),
        ("tracker.uri=http://a:P-1@h,http://a:P-1@i", "tracker.uri=http://a:***@h,http://a:***@i"),
        ("+hydra.job.env_set.MY_TOKEN=P-1", "+hydra.job.env_set.MY_TOKEN=***"),
        ("data.hf_token=P-1", "data.hf_token=***"),
        ("tracker.token='${oc.env:MY_TOKEN}'", "tracker.token='${oc.env:MY_TOKEN}'"),
        ("tracker.uri='http://me:${oc.env:PW}@h'", "tracker.uri='http://me:${oc.env:PW}@h'"),
        ("tracker.token=null", "tracker.token=null"),
        ("scheduler.max_lr=0.1,0.2", "scheduler.max_lr=0.1,0.2"),
        ("model.pool_token=mean", "model.pool_token=mean"),
        ("~tracker.token", "~tracker.token"),
    ],
)
def test_an_override_keeps_its_shape_without_its_secret(override: str, struck: str) -> None:
    assert strike_override(override) == struck
    assert strike_override(struck) == struck


def test_a_secret_that_was_struck_out_is_filled_in_where_it_is_used(monkeypatch) -> None:
    strike_override("tracker.token=0123")
    strike_override("tracker.uri='http://me:it\\'s@/ x@h'")
    strike_override("+hydra.job.env_set.MY_TOKEN=P-1")
    assert filled("tracker", {"token": "***", "uri": "http://me:***@h", "n": 1}) == {
        "token": "0123", "uri": "http://me:it's@/ x@h", "n": 1,
    }  # fmt: skip
    monkeypatch.setenv("MY_TOKEN", "***")
    fill_environment({"MY_TOKEN": "***"})
    assert os.environ["MY_TOKEN"] == "P-1"
    monkeypatch.setenv(VARIABLE, "{}")
    with pytest.raises(ConfigError, match=r"^tracker\.token=\*\*\*: .*give tracker\.token=.*tracker=none$"):
        filled("tracker", {"token": "***"})


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tracker.token=P-1,P-2", "tracker.token: several of its values differ in nothing but their secrets"),
        (
            "hydra.sweeper.storage=postgresql://me:P-1@h/db",
            r"hydra\.sweeper\.storage=postgresql://me:\*\*\*@h/db: .*env",
        ),
        ("+hydra.launcher.x_password=P-1", r"hydra\.launcher\.x_password=\*\*\*: launchers would write it"),
    ],
)
def test_a_secret_that_could_not_be_kept_out_of_files_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        strike_override(override)
    assert "P-1" not in str(refused.value)


def test_what_a_yaml_holds_is_struck_out_of_the_config_and_of_what_is_derived_from_it(monkeypatch) -> None:
    monkeypatch.setenv("PW", "Other-1")
    with initialize_config_dir(str(CONF)):
        cfg = compose("config", ["tracker=mlflow"])
    with_reference = "http://me:${oc.env:PW}@h"
    cfg.tracker.uri = "http://me:P-1@h"
    strike(cfg)
    assert cfg.tracker.uri == "http://me:***@h"
    config = typed(cfg)
    assert config.plugins["tracker"]["uri"] == "http://me:P-1@h" and config.tree["tracker"]["uri"] == "http://me:***@h"
    cfg.tracker.uri = with_reference
    strike(cfg)
    assert OmegaConf.to_container(cfg.tracker)["uri"] == with_reference
    config = typed(cfg)
    assert config.plugins["tracker"]["uri"] == "http://me:Other-1@h" and "Other" not in str(config.tree)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"job": {"env_copy": ["MY_TOKEN"]}}, "hydra.job.env_copy: MY_TOKEN: launchers"),
        ({"job": {"env_set": {"MY_TOKEN": "P-1"}}}, r"hydra\.job\.env_set\.MY_TOKEN=\*\*\*: launchers"),
        ({"sweeper": {"params": {"tracker.uri": "http://me:P-1@h"}}}, "on the command line, with tracker.uri="),
    ],
)
def test_what_launchers_would_store_is_refused_of_a_yaml(settings: dict, said: str) -> None:
    plain = {"job": {"env_copy": [], "env_set": {}}, "sweeper": {}, "launcher": {}}
    hydra = {key: {**value, **settings.get(key, {})} for key, value in plain.items()}
    with pytest.raises(ConfigError, match=said) as refused:
        strike_sweep(OmegaConf.create({"hydra": hydra}), None)
    assert "P-1" not in str(refused.value)
