"""The recipe's keys for servers: where they are, and how they are asked."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from seqdistill.recipe.sections import PositiveFloat, PositiveInt, Section, UserPath, as_list

_URL = re.compile(r"https?://[^/@\s?#]+(/[^@\s?#]*)?")


def _address(url: str) -> str:
    if not _URL.fullmatch(url):
        raise PydanticCustomError(
            "server_address",
            "http://HOST:PORT or https://HOST with no name, password or query, since a key comes "
            "from the environment (api_key_env)",
        )
    return url.rstrip("/").removesuffix("/v1")


class ServerSection(Section):
    """A server that speaks the OpenAI API."""

    url: Annotated[
        tuple[Annotated[str, AfterValidator(_address)], ...], BeforeValidator(as_list)
    ] = ()
    """`http://HOST:PORT`, or several of them: replicas of one model, asked in turn. One that does
    not answer is left out, and tried again."""
    model: str | None = None
    """The name under which it is served; may be left out where one model is."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")] | None = None
    """The environment variable that holds the key; else SEQDISTILL_API_KEY, and for servers of
    openai.com OPENAI_API_KEY. The key itself is never written anywhere."""
    concurrency: PositiveInt = 16
    """Requests under way at once, of all replicas together."""
    timeout_s: PositiveFloat = 120.0
    """Seconds after which a request without an answer is made again."""
    patience_s: PositiveFloat = 300.0
    """Seconds for which a request is made again, at growing intervals, where no replica answers or
    all are busy (429) or broken (5xx). Then the run ends. What a server refuses (4xx) ends it at
    once."""
    max_difference: PositiveFloat = 0.05
    """Nats by which two answers to one question may differ: asked twice, of every replica, and of a
    copy of the model in this process. Servers in bf16 differ by tenths, as much as two students."""


class TeacherServerSection(ServerSection):
    """The teacher on a server."""

    api: Literal["completions", "chat"] = "completions"
    """What labels are asked of: texts that are gone on with, or conversations."""


class RolloutServerSection(ServerSection):
    """vLLM that serves the student."""

    weights_folder: UserPath | None = None
    """Where the student's weights are written for the server to read, which must see the folder
    under this very path. A temporary folder of this machine when not given."""
