"""The settings of every command, read off the command line itself, as a document."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import typer
from typer.core import TyperGroup, TyperOption

from service.cli import app

HEAD = """# Settings

Written by `make deploy`; `tickwatch COMMAND --help` says the same. A setting is a flag or an environment variable; the flag wins.
Secrets are files named by settings; only the SASL password may also stand in `TICKWATCH_PASSWORD`.
"""


def commands() -> Iterator[tuple[str, list[TyperOption]]]:
    """Every command of the application by its full name, with the options that are settings."""
    root = typer.main.get_command(app)
    yield "", [p for p in root.params if isinstance(p, TyperOption) and p.envvar]
    waiting = [("", root)]
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name, target in project["entry-points"]["tickwatch.commands"].items():
        module, _, function = target.partition(":")
        alone = typer.Typer()
        alone.command(name)(getattr(import_module(module), function))
        waiting.append((name, typer.main.get_command(alone)))
    for path, command in waiting:
        if isinstance(command, TyperGroup):
            waiting += [(f"{path} {name}".strip(), below) for name, below in command.commands.items()]
        else:
            yield path, [p for p in command.params if isinstance(p, TyperOption) and p.envvar]


def document() -> str:
    """docs/settings.md."""
    parts = [HEAD]
    for name, options in commands():
        rows = [f"| `{o.opts[0]}` | `{o.envvar}` | {_default(o)} | {o.help} |" for o in options]
        if rows:
            title = f"tickwatch {name}" if name else "Every command: tickwatch [OPTIONS] COMMAND"
            parts.append(
                "\n".join(
                    [
                        f"## {title}\n",
                        "| flag | variable | default | meaning |",
                        "|---|---|---|---|",
                        *rows,
                        "",
                    ]
                )
            )
    return "\n".join(parts)


def _default(option: TyperOption) -> str:
    given = option.default
    return "" if given is None or given is False or given == "" else f"`{given}`"
