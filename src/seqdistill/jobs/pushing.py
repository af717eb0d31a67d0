"""An exported folder goes to a hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from seqdistill.core.errors import UserError, first_line


def check_repository(repository: str) -> None:
    """Raises UserError where no repository of the hub can have that name; asks nobody."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"--push must name a repository of the hub, USER/NAME, got {repository!r}: "
            f"{first_line(error).rstrip('.')}; give another name"
        ) from error


def push(folder: Path, repository: str, *, api: HfApi | None = None) -> str:
    """Uploads an exported folder to that repository of the hub, made private where it is new.

    Returns its address. Raises UserError for a name that no repository has, and where the hub
    refuses it; the folder stays.
    """
    check_repository(repository)
    hub = api or HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(folder_path=str(folder), repo_id=repository)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"--push must name a repository of the hub that you may write to, but {repository!r} "
            f"was refused: {first_line(error)}; log in with `hf auth login`. {folder} is written: "
            f"upload it with `hf upload {repository} {folder}`"
        ) from error
    return f"{hub.endpoint}/{repository}"
