"""`hybridserve config show | schema`."""

from __future__ import annotations

import json

import typer

from hybridserve.cli.options import AsJson, Assignments, ConfigFile, read_settings

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="Show the settings and their schema."
)


@app.command()
def show(
    config: ConfigFile = None,
    assign: Assignments = None,
    sources: bool = typer.Option(False, "--sources", help="Show where each value came from."),
    as_json: AsJson = False,
) -> None:
    """Print the effective settings.

    Example: hybridserve config show -c hybridserve.yaml --sources
    """
    loaded = read_settings(config, assign)
    tree = loaded.settings.model_dump(mode="json")
    if as_json:
        typer.echo(json.dumps({"settings": tree, "sources": dict(loaded.sources)} if sources else tree, indent=2))
        return
    rows = [(path, json.dumps(_at(tree, path)), source) for path, source in loaded.sources.items()]
    width = max(len(path) for path, _, _ in rows)
    values = min(40, max(len(value) for _, value, _ in rows))
    for path, value, source in rows:
        typer.echo(f"{path:<{width}}  {value:<{values}}  {source}" if sources else f"{path:<{width}}  {value}")


@app.command()
def schema() -> None:
    """Print the JSON schema of hybridserve.yaml.

    Example: hybridserve config schema > hybridserve.schema.json
    """
    from hybridserve.settings.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _at(tree: object, path: str) -> object:
    for part in path.split("."):
        assert isinstance(tree, dict)
        tree = tree[part]
    return tree
