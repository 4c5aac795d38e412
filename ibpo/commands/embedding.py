"""A router whose prompts are embedded by a server: which server, and with which key?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibpo.errors import IbpoError

if TYPE_CHECKING:
    from ibpo.routing import Embed, Router

EmbedUrl = Annotated[
    str | None, typer.Option(help="Embed prompts by this server's /v1/embeddings, e.g. http://127.0.0.1:8000/v1.")
]
EmbedKey = Annotated[Path | None, typer.Option(help="Text file with that server's key.")]


def embed_by(
    url: str, model: str, key_file: Path | None, *, max_retries: int = 5, timeout_seconds: float = 600.0
) -> Embed:
    """Asks a server for embeddings.

    Raises:
        IbpoError: The key cannot be read.
    """
    from ibpo.endpoint import Endpoint, read_api_key
    from ibpo.routing import embedder

    key = read_api_key(key_file, "--embed-key-file")
    return embedder(
        Endpoint(base_url=url, model=model, api_key=key, max_retries=max_retries, timeout_seconds=timeout_seconds)
    )


def open_router(
    path: Path,
    url: str | None,
    key_file: Path | None,
    *,
    max_retries: int = 5,
    timeout_seconds: float = 600.0,
) -> Router:
    """A router, with the server that it was fitted on or the one at `url` if it needs embeddings.

    Raises:
        IbpoError: No router, or an address for one that looks at no embeddings.
    """
    from ibpo.routing import load_router

    found = load_router(path)
    if not found.embedding:
        if url is not None or key_file is not None:
            raise IbpoError(f"--embed-url: {path} was fitted without embeddings; leave it away")
        return found
    where, model = url or found.embedding["base_url"], found.embedding["model"]
    return load_router(path, embed_by(where, model, key_file, max_retries=max_retries, timeout_seconds=timeout_seconds))
