"""No setting is given twice, by an option and by --set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfdistill.cli.groups import Terminal


def once(terminal: Terminal, overrides: Sequence[str], keys: Mapping[str, str]) -> None:
    """Raises UserError for a setting that an option and a --set give. `keys` are the settings' names by the options'
    parameters."""
    from selfdistill.core.errors import UserError

    context = terminal.context
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name not in keys or source is None or source.name != "COMMANDLINE":
            continue
        key = keys[option.name]
        for text in overrides:
            if text.partition("=")[0].strip() == key:
                flag = next(name for name in option.opts if name.startswith("--"))
                value = context.params[option.name]
                given = flag if value is True else f"{flag} {value}"
                raise UserError(f"{context.info_name}: {key} is given twice ({given}, --set {text}). Give it once.")
