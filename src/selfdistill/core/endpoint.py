"""What the judge and the openai engine share: how an OpenAI-compatible endpoint is reached, and what its faults mean.

The client itself tries again after 408, 409, 429, 5xx, timeouts and lost connections: `max_retries` times, after a
growing pause of 0.5 to 8 s, or as long as Retry-After says (seconds, milliseconds or a date) up to two minutes; a
server that wants a longer pause than that has failed at once.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any, Literal
from urllib.parse import urlsplit

from selfdistill.core.engine_settings import EndpointSettings
from selfdistill.core.errors import UserError

Who = Literal["judge", "engine"]

_EXTRA: dict[Who, str] = {"judge": "paper", "engine": "openai"}
_LIMIT: dict[Who, str] = {"judge": "max_tokens", "engine": "max_new_tokens"}

CONNECT = 20.0
"""Seconds to wait for a connection, where `timeout` is longer: only a reply takes long, a live server accepts soon."""


def connection(settings: EndpointSettings, who: Who) -> dict[str, Any]:
    """The arguments of `openai.OpenAI` and `openai.AsyncOpenAI`, key included: never print or store them.

    Raises UserError if the `openai` package or the key is missing. A server on this machine needs no key.
    """
    try:
        import openai
    except ImportError:
        raise UserError(f"the {who} needs the openai package: pip install 'selfdistill[{_EXTRA[who]}]'") from None
    key = _key(settings)
    if not key and not _on_this_machine(settings.base_url):
        raise UserError(
            f"{where(settings, who)}: the environment variable {settings.api_key_env} is not set. Set it to the key "
            "of the endpoint (to any text if it wants none), or name another variable in api_key_env."
        )
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UserError(f"the key in {settings.api_key_env} holds a character that no key has. Copy it again.")
    return {
        "base_url": settings.base_url,
        "api_key": key or "none",
        "timeout": openai.Timeout(settings.timeout, connect=min(settings.timeout, CONNECT)),
        "max_retries": settings.max_retries,
    }


def where(settings: EndpointSettings, who: Who) -> str:
    """Who asks where, as errors begin."""
    return f"{who} {settings.base_url}"


def said(error: Exception, settings: EndpointSettings) -> str:
    """What happened, in one line: the status and the server's words, shortened. Never the key, even if the server
    says it."""
    import openai

    if isinstance(error, openai.APITimeoutError) and not not_there(error):
        return f"no reply within {settings.timeout:g} s"
    if isinstance(error, openai.APIConnectionError):
        why = plain(str(error.__cause__ or "") or type(error.__cause__ or error).__name__, settings, 200)
        return f"cannot be reached ({why})" if not_there(error) else f"the connection was lost ({why})"
    text = str(error)
    if isinstance(error, openai.APIStatusError):  # the body itself: the client leaves out what is not under "error"
        text = f"HTTP {error.status_code}: {error.response.text}"
    return plain(text, settings)


def not_there(error: Exception) -> bool:
    """No connection came about, as against one that was lost. By name: the client works with httpx and httpx2."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def plain(text: str, settings: EndpointSettings, length: int = 300) -> str:
    """The text in one line, cut to `length` characters, without the key."""
    key = _key(settings)
    return " ".join((text.replace(key, "[key]") if key else text).split())[:length]


def explain(error: Exception, settings: EndpointSettings, who: Who) -> str:
    """One line for the user: who asks where, what happened, what to do."""
    import openai

    tries, limit = f"{settings.max_retries + 1} tries", _LIMIT[who]
    status = error.status_code if isinstance(error, openai.APIStatusError) else 0
    if isinstance(error, openai.APITimeoutError) and not not_there(error):
        todo = f"{tries}. Raise timeout, lower concurrency or {limit}, or look whether the server is alive."
    elif isinstance(error, openai.APIConnectionError):
        todo = f"{tries}. Start the server, or look at its log, and check base_url."
    elif status in (401, 403):
        todo = f"Set the environment variable {settings.api_key_env} to a key that is valid there."
    elif status == 404:
        todo = f"Check model = {settings.model!r}, and that base_url ends where the API begins, usually in /v1."
    elif status == 429:
        todo = f"Still so after {tries}. Lower concurrency, look at your quota, or run again later."
    elif status >= 500:
        todo = f"Still so after {tries}. Look at the server's log, and run again."
    else:
        todo = f"Check model = {settings.model!r}, {limit}, max_tokens_name and the {who}'s context length."
    comma = ", " if isinstance(error, openai.APIConnectionError) else ". "  # a timeout is one, too
    return f"{where(settings, who)}: {said(error, settings)}{comma}{todo}"


def _key(settings: EndpointSettings) -> str:
    return os.environ.get(settings.api_key_env, "")


def _on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
