"""What a server is told when it starts; worker processes read it from their environment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

ENVIRONMENT = "FUSETUNE_SERVE"
KEY = "FUSETUNE_API_KEY"


class Options(BaseModel):
    """How a model is served.

    Attributes:
        folder: The model's folder, or the run's.
        name: What the model is called in addresses.
        key: What a request must show to ask anything of the model; None: nothing.
        hosts: Hosts of which pictures may be fetched by their address; none by default.
        body: Most bytes of a request.
        pixels: Most pixels of a picture; larger ones are refused unread.
        rows: Most rows of a request.
        seconds: After which a request is given up.
        waiting: Most requests at work or waiting; more are refused.
        gather: Milliseconds that the first request of a batch waits for others.
        threads: Threads of PyTorch in each worker process.
        drain: Seconds between SIGTERM and the end of new connections.
        watch: Look every second whether the model's folder was changed.
        bell: A file whose change tells every worker to read the model again; None: there is one worker.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    folder: str
    name: str = "model"
    key: str | None = None
    hosts: tuple[str, ...] = ()
    body: int = Field(default=32 * 2**20, ge=1024)
    pixels: int = Field(default=50_000_000, ge=1)
    rows: int = Field(default=256, ge=1)
    seconds: float = Field(default=30, gt=0)
    waiting: int = Field(default=256, ge=1)
    gather: float = Field(default=3, ge=0)
    threads: int = Field(default=1, ge=1)
    drain: float = Field(default=1, ge=0)
    watch: bool = False
    bell: str | None = None
