"""Texts and settings without their secrets, which show by their form, by a key's name, or are known to this process."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

STRUCK = "***"
# What `config.secrets` hands on to the processes of a sweep: the real values by `key=struck value`, as JSON.
VARIABLE = "RESNET_EXP_SECRETS"
_NAMED = re.compile(r"(?:PASSW(?:OR)?D|PASSPHRASE|TOKEN|SECRET|_KEY|APIKEY)$", re.IGNORECASE)  # environment variables
_SECTION = r"(?:tracker|data|hydra\.job\.env_set)"  # where a setting's name says that it is a secret

# Tokens of networks and of text are none of these.
_PLAIN_TOKENS = "cls class pad mask eos bos unk sep dist reg register start end special image patch pool num max min"
_TOKEN = "".join(f"(?<!{word}[_-])" for word in _PLAIN_TOKENS.split()) + "token"
_KEYS = r"(?:api|access|account|private|signing|encryption)[_-]?key"
_OTHERS = rf"passw(?:or)?d|passphrase|secret(?:[_-]?access)?(?:[_-]?key)?|{_KEYS}"
_NAME = rf"(?:{_TOKEN}|{_OTHERS})"
# What is no secret: one that is struck out, a reference, no value, a small number, what stands for a value.
_NONE = r"""(?!\\?["']?(?:\*\*\*|\$\{)|(?:None|null|True|False|true|false)\b|\d{1,3}\b|%s|<|\.\.\.|["']{2})"""
_WORD = r"""(?:\\.|[^\s'"&;,)}\]<>\\])+"""
_QUOTED = r"""(?:\\"[^"\\]*\\"|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_VALUE = rf"(?:{_QUOTED}|\{{[^}}]*\}}|{_WORD})"
_SCHEME = r"(?<![\w+.-])[A-Za-z][\w+.-]*\\?:(?:\\?/){2}"  # with Hydra's and JSON's escapes
_PORT = r"""\d{1,5}(?:[/?#\s'",;)\]}]|$)"""
_PASSWORD = rf"({_SCHEME}[^\s:/@\\]*\\?:)(?!{_PORT}|\*\*\*@|\$\{{[^}}]*\}}@)"
_SETTINGS = ("passw", "passphrase", "token", "secret", "key", "pwd")
# Each form, after what a text that has it must contain in small letters: most texts contain nothing of these.
_FORMS = tuple(
    (needed, re.compile(pattern, re.IGNORECASE | re.MULTILINE), replacement)
    for needed, pattern, replacement in (
        # Addresses: a token as the user, a password without and with blanks, a token alone, Oracle's, encoded ones.
        (("@",), rf"({_SCHEME})[^\s:/@]+\\?:(?:x-oauth-basic)?@", r"\1***@"),
        (("@",), rf"{_PASSWORD}(?:(?!://)\S)*@", r"\1***@"),
        (("@",), rf"{_PASSWORD}(?:(?!://|[,;.!?)]\s)[^\n@]){{1,80}}@(?=[\w.-]+(?:[:/?'\"\s,;)\]]|$))", r"\1***@"),
        (("@",), r"((?<![\w+.-])(?:git\+)?https?\\?:(?:\\?/){2})(?!\*\*\*@|\$\{)[^:/@\s?#'\"\\]+@", r"\1***@"),
        (("@",), r"(jdbc:oracle:\w+:[^/\s]+/)(?!\*\*\*)[^@\s]+(?=@)", r"\1***"),
        (("%40",), r"(%3A%2F%2F(?:(?!%3A|%40|%2F)[^\s&'\"])*%3A)(?!\d{1,5}(?:%2F|%3F|&|\s|$))"
         r"(?:(?!%40)[^\s&'\"])+(?=%40)", r"\1***"),
        # Their queries.
        (("sig", "pass="), r"([?&;](?:sig|signature|x-\w+-signature|pass)=)(?!\*\*\*)[^&#\s'\"]+", r"\1***"),
        (("key=", "code="), r"([?&](?:key|code)=)[^&#\s'\"]{16,}", r"\1***"),
        # Settings: key=value, key = value, --key value, "key": value, key: value; encoded, ODBC's.
        (_SETTINGS, rf"({_NAME}\\?={{1,2}}){_NONE}{_VALUE}", r"\1***"),
        (_SETTINGS, rf"({_NAME}[ \t]{{0,9}}={{1,2}}[ \t]+){_NONE}(?:{_QUOTED}|[^\s(\[.'\"]+(?=\s|$))", r"\1***"),
        (_SETTINGS, rf"((?<![\w-])--[\w-]{{0,40}}{_NAME}[ \t]+){_NONE}(?!--){_VALUE}", r"\1***"),
        (_SETTINGS, rf"({_NAME}\\?[\"'][ \t]*[:=,][ \t]*){_NONE}{_VALUE}", r"\1***"),
        # After /etc/passwd a message goes on.
        (_SETTINGS, rf"((?:{_OTHERS})[ \t]{{0,9}}\\?:(?<!/etc/passwd:)[ \t]*){_NONE}{_VALUE}", r"\1***"),
        (("token",), rf"((?:^|[{{,])[ \t]{{0,40}}[\w.-]{{0,80}}{_TOKEN}[ \t]{{0,9}}\\?:[ \t]*){_NONE}{_VALUE}",
         r"\1***"),
        (("%3d",), rf"((?:{_NAME}|pwd)%3D)(?!\*\*\*)(?:(?!%3B|%26)[^\s&'\"])+", r"\1***"),
        (("pwd",), rf"((?<![a-z])pwd[ \t]*=[ \t]*)(?![/~.\\]|[a-z]:[\\/]){_NONE}{_VALUE}", r"\1***"),
        # Headers.
        (("authorization",),
         r"(authorization\\?[\"']?[ \t]*[:=][ \t]*\\?[\"']?(?:(?:bearer|basic|token|digest|apikey|negotiate)\s+)?)"
         r"(?!\*\*\*|(?:bearer|basic|token|digest|apikey|negotiate)\s)[^\s\"',}\\]+", r"\1***"),
        (("bearer",), r"(\bbearer\s+)[\w.~+/-]{16,}=*", r"\1***"),
        (("cookie",), r"(\bcookie\\?[\"']?[ \t]*:[ \t]*\\?[\"']?)(?!\*\*\*)[^\n\"'=]*=[^\n\"']*", r"\1***"),
        # What shows by itself: tokens of well-known services, JSON web tokens, private keys.
        (("gh", "glpat-", "hf_", "sk-", "xox", "aiza", "dapi", "eyj"),
         r"(?<![\w-])(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[a-z]{20,}|sk-[\w-]{20,}|"
         r"xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|dapi[0-9a-f]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)", STRUCK),
        (("private key",), r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[^-]*", r"\1***"),
    )
)  # fmt: skip
_ANY_NEEDED = re.compile("|".join(sorted({re.escape(each) for needed, _, _ in _FORMS for each in needed})))


def redact(text: str) -> str:
    """The text with *** in place of secrets: those that show by their form, and those that this process knows.

    Known are what `config.secrets` has struck out, and the values of environment variables whose names say that they
    are secrets, where they are long enough to be no word.
    """
    known = _known(_in_environment())
    return by_form(known.sub(STRUCK, text) if known else text)


def by_form(text: str) -> str:
    """The text with *** in place of what an address, a key's name or a header's says is a secret."""
    small = text.lower()
    if not _ANY_NEEDED.search(small):
        return text
    for needed, pattern, replacement in _FORMS:
        if any(each in small for each in needed):
            text = pattern.sub(replacement, text)
    return text


def redacted(value: Any) -> Any:
    """The value, as JSON has it, without secrets in its texts and keys, and *** for each text of a secret's key."""
    return _redacted(value, _known(_in_environment()))


def _redacted(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return by_form(known.sub(STRUCK, value) if known else value)
    if isinstance(value, dict):
        return {
            _redacted(key, known): STRUCK
            if isinstance(item, str) and item and is_secret(str(key).rpartition(".")[2])
            else _redacted(item, known)
            for key, item in value.items()
        }
    return [_redacted(one, known) for one in value] if isinstance(value, (list, tuple)) else value


def redacted_command(arguments: Iterable[str]) -> str:
    """The command line of these overrides, quoted for a shell, without secrets.

    Each override is looked at before it is quoted: the value of a secret may hold blanks and quotes.
    """
    return redact(shlex.join(["python", "-m", "resnet_exp", *map(_redacted_override, arguments)]))


def _redacted_override(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or value.startswith("${") or not re.match(rf"[+~]*{_SECTION}(?:\.|$)", key):
        return text
    if any(map(is_secret, key.split("."))):
        return f"{key}={STRUCK}"
    return f"{key}={by_form(value)}"


@lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether a setting's name says that its value is a secret."""
    return re.fullmatch(rf"[\w-]*(?:{_NAME}|authorization)|pwd", name, flags=re.IGNORECASE) is not None


def without_secrets(settings: Any) -> Any:
    """Settings, however nested, with *** for each whose name says that it is a secret."""
    if isinstance(settings, dict):
        return {
            key: STRUCK if is_secret(str(key)) and value is not None else without_secrets(value)
            for key, value in settings.items()
        }
    return [without_secrets(one) for one in settings] if isinstance(settings, list) else settings


def _any_form(secret: str) -> str:
    """A pattern of how a text may have a secret: as it is, or quoted for addresses, Python, JSON, HTML or Hydra."""
    return "".join(map(_any_form_of, secret))


@lru_cache(maxsize=256)
def _any_form_of(letter: str) -> str:
    if letter.isascii() and letter.isalnum():
        return letter
    percent = "".join(f"%(?:25)?{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
    escaped = rf"\\+u{ord(letter):04x}|\\+x{ord(letter):02x}|&#x?[0-9a-f]+;"
    named = {"+": r" ", " ": r"\+"}.get(letter, re.escape(html.escape(letter)))
    return rf"\\*(?:(?i:{percent}|{escaped})|{named}|{re.escape(letter)})"


def _in_environment() -> frozenset[str]:
    """The environment's secrets, as they are now: a job may have set some."""
    return frozenset(value for name, value in os.environ.items() if name == VARIABLE or _NAMED.search(name))


@lru_cache(maxsize=8)
def _known(values: frozenset[str]) -> re.Pattern[str] | None:
    """What finds the secrets among these values of environment variables."""
    texts: set[str] = set()
    for value in values:
        if value.startswith('{"') and (handed_on := _parts_handed_on(value)) is not None:
            texts |= {value, *(part for part in handed_on if _is_no_word(part, 6))}
        elif _is_no_word(value, 8) and not os.path.exists(value):  # a key may be a file's name
            texts.add(value)
    # Where one is typed as an address needs it, what it stands for may show up too.
    texts |= {decoded for text in texts if _is_no_word(decoded := unquote(text), 6)}
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(_any_form, longest_first))) if longest_first else None


def _parts_handed_on(value: str) -> set[str] | None:
    """The secret parts of the values that VARIABLE holds, and with the users' names as a header has them."""
    try:
        handed_on: dict[str, str] = json.loads(value)
        pairs = [(entry.partition("=")[2], str(real)) for entry, real in handed_on.items()]
    except (ValueError, AttributeError):
        return None
    parts: set[str] = set()
    for struck, real in pairs:
        whole = re.fullmatch("(.+)".join(map(re.escape, struck.split(STRUCK))), real, re.DOTALL)
        parts |= set(whole.groups() if whole else (real,))
        if login := re.match(r"\w+://([^/:@]*:.*)@", real):
            parts.add(base64.b64encode(unquote(login[1]).encode()).decode())
    return parts


def _is_no_word(text: str, length: int) -> bool:
    """Whether the text is long and mixed enough to stand nowhere by chance."""
    kinds = (r"[a-z_]", r"[A-Z]", r"\d", r"[^\w]")
    return len(text) >= length and sum(bool(re.search(kind, text)) for kind in kinds) >= 2
