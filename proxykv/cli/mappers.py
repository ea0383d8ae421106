"""Commands for mappers on the model hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxykv.cli.arguments import Add


def add_commands(add: Add) -> None:
    """Add this module's subcommands."""
    push = add(_push)
    push.add_argument(
        "folder", type=Path, help="the mapper: results/<run>/mappers/<family>/<method>"
    )
    push.add_argument("repository", help="organisation/name on the hub")
    push.add_argument("--license", help="licence of the mapper (that of its family's file)")
    push.add_argument(
        "--private", action="store_true", help="hide the repository, if it is created now"
    )
    pull = add(_pull)
    pull.add_argument("repository", help="organisation/name on the hub")
    pull.add_argument("folder", type=Path, help="folder to make")
    pull.add_argument("--revision", required=True, help="commit, as the mapper's page names it")


def _push(options: argparse.Namespace) -> None:
    """upload a fitted mapper with a model card to the model hub

    proxykv push results/paper/mappers/qwen-3-8b/proxykv me/proxykv-qwen3-8b
    """
    from proxykv.integrations.hub_mapper import push

    commit = push(options.folder, options.repository, options.license, options.private)
    folder = f"mappers/{options.repository.rpartition('/')[2]}"
    print(f"proxykv pull {options.repository} --revision {commit} {folder}")


def _pull(options: argparse.Namespace) -> None:
    """download a mapper from the model hub

    proxykv pull me/proxykv-qwen3-8b --revision <commit> mappers/proxykv-qwen3-8b
    """
    from proxykv.integrations.hub_mapper import pull

    print(pull(options.repository, options.revision, options.folder))
