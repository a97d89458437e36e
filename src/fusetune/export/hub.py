"""Sending a written folder to a model hub, when it is asked for and never else."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.utils._validators import validate_repo_id

from fusetune.errors import RunError, UserError


def refuse_name(repo: str) -> None:
    """Refuse what cannot be the name of a repository, before anything is written.

    Raises:
        UserError: Saying why.
    """
    if repo.count("/") != 1:
        raise UserError(f"--push {repo}: write it as OWNER/NAME")
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise UserError(f"--push {repo}: {' '.join(str(error).split())}") from error


def push(folder: Path, repo: str) -> str:
    """Send a folder to a private repository, which is made if there is none; return its address.

    Raises:
        RunError: If the hub cannot be reached or refuses it; the folder stays.
    """
    hub = huggingface_hub.HfApi(library_name="fusetune")
    try:
        address = hub.create_repo(repo, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Exported by fusetune")
    except Exception as error:  # of the network, of the hub, of a missing token: no common base
        said = " ".join(str(error).split())[:300]
        raise RunError(
            f"{folder} is written, but was not sent to {repo}: {type(error).__name__}: {said}\nLook at the network and "
            f"the token (HF_TOKEN, or `hf auth login`), and do the same again; or send it with: "
            f"hf upload {repo} {folder}"
        ) from error
    return str(address)
