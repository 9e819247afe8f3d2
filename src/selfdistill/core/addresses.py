"""Addresses, and the secrets that must stand neither in them nor in anything that is printed or stored.

A setting ends in recipe.toml, run.json, the report and the model card, so that a key comes from the environment alone.
"""

from __future__ import annotations

import re

_KEY = (
    r"(?:\bsk-(?=[\w-]*\d)[\w-]{8,}"
    r"|\b(?:hf|gsk|xai|nvapi|pplx|glpat|r8|gh[opsu]|github_pat)[-_]\w{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{8,}\.[\w-]+)"
)
"""Keys that tell by their form: OpenAI's and many others', the hubs', Amazon's, Google's, web tokens."""

_NAME = (
    r"(?:[\w.-]*(?:keys?|key-?id|tokens?|secrets?|passw\w*|signature|credentials?|authorization)|(?:[\w.-]*[-_.])?"
    r"(?:sig|pass|pwd|auth))"
)
"""How a parameter with a secret is called: api_key, X-Amz-Signature, sig, ..."""

_LOGIN = r"(?:[^/?#@\s]*@|[^/?#@:\s]*:(?!\d+(?:/|$))[^@\s]*@)"
"""How what follows `://` begins where it names a user. A password may hold a slash of its own; a port is none."""

_PARAMETER = re.compile(rf"(?i)(?:^|[?&;#/])(?:{_NAME}=|{_KEY}(?:$|&))|{_KEY}")
_KEY_IN_PATH = re.compile(rf"(?:^|/)sk-[\w-]{{4,}}(?:/|$)|{_KEY}")

_HIDDEN = [
    (re.compile(rf"(:/{{1,2}}){_LOGIN}"), r"\1[hidden]@"),
    (re.compile(r"(:/{1,2}[^\s#]*#)\S+"), r"\1[hidden]"),
    (re.compile(rf"(?i)([?&;#/]{_NAME}=)[^&\s'\"]+"), r"\1[hidden]"),
    (re.compile(r"(:/{1,2}\S*/)sk-[\w-]{4,}(?![\w.-])"), r"\1[hidden]"),
    (re.compile(_KEY), "[hidden]"),
]


def hidden(text: str) -> str:
    """The text with passwords and keys of addresses, and all that has the form of a key, replaced by "[hidden]"."""
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    return text


def without_secrets(text: str) -> str:
    """The text, an address or not. Raises ValueError, which does not repeat it, for an address that holds a secret."""
    _, scheme, rest = text.partition("://")
    if not scheme:
        return text
    before, mark, fragment = rest.partition("#")
    path, _, query = before.partition("?")
    if re.match(_LOGIN, rest):
        found = "a user name or a password"
    elif mark and fragment:
        found = "a part behind #, which no server sees"
    elif _PARAMETER.search(f"?{query}"):
        found = "a key in its query"
    elif _KEY_IN_PATH.search(path) or _PARAMETER.search(path):
        found = "a key in its path"
    else:
        return text
    raise ValueError(
        f"the address holds {found}. Leave it out: it would be stored with the run. A secret comes from the "
        "environment, for an endpoint from the variable that api_key_env names"
    )


def is_key(text: str) -> bool:
    """Whether the text has the form of a key."""
    return re.search(_KEY, text) is not None or text.startswith("sk-")
