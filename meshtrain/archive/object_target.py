"""An archive at a URL that fsspec takes: S3 and its like, SFTP, WebDAV and others."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

from meshtrain.archive.failures import (
    ArchiveAwayError,
    ArchiveError,
    ArchiveExtraError,
    ArchiveRefusedError,
    NotArchivedError,
)
from meshtrain.archive.target import Reader
from meshtrain.errors import MeshtrainError

BLOCK_BYTES = 16 << 20
"""What is sent at once of a large file, and kept in memory for each that is under way."""
PARTS_MAX = 9_000
"""An object of S3 has at most 10,000 parts."""
CONNECT_S_MAX = 10
READ_S_MAX = 60
TRIES_MAX = 3
READ_AHEAD_BYTES = 8 << 20

_S3 = {"s3", "s3a"}
_WITHOUT_FOLDERS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"}
"""There a folder is but a part of a name, and making one may make a bucket."""
_REFUSALS = {
    "ClientError",
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "ConfigParseError",
    "ParamValidationError",
    "InvalidRegionError",
    "NoRegionError",
}
"""Errors of botocore that no waiting mends, by the names of their classes."""
_AWAY_CODES = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "503", "500"}


class ObjectTarget:
    """Files below a URL, by an implementation of fsspec.

    Credentials are what the implementation's own library finds: in the
    environment, or in its usual files.

    Args:
        url: as `check_archive_url` gives it.

    Raises:
        ArchiveExtraError: when the packages for it are not installed.
        ArchiveRefusedError: when the URL makes no sense to its library.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        protocol = url.partition("://")[0]
        if importlib.util.find_spec("fsspec") is None:
            raise _missing(url, protocol)
        import fsspec

        self._protocol = protocol
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if protocol in _S3:
            options["config_kwargs"] = {
                "connect_timeout": CONNECT_S_MAX,
                "read_timeout": READ_S_MAX,
                "retries": {"max_attempts": TRIES_MAX, "mode": "standard"},
            }
        try:
            fs, root = fsspec.core.url_to_fs(url, **options)
        except ImportError as error:
            raise _missing(url, protocol) from error
        except Exception as error:
            raise ArchiveRefusedError(
                f"the archive {url} can't be used: {_told(error)}. Mend the URL, or what its "
                "library reads from the environment"
            ) from error
        self._fs = fs
        self._root = str(root).rstrip("/")

    @property
    def url(self) -> str:
        return self._url

    def demand_root(self) -> None:
        """Nothing: a place in an object store is there when something is written to it."""

    def write(self, path: str, blocks: Iterable[bytes], size_bytes: int) -> None:
        # One part in memory at a time, and never more parts than an object may have.
        block_bytes = max(BLOCK_BYTES, -(-size_bytes // PARTS_MAX))
        place = self._place(path)
        with self._errors("written"):
            if self._protocol not in _WITHOUT_FOLDERS:
                self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            file = self._fs.open(place, "wb", block_size=block_bytes)
            try:
                for block in blocks:
                    file.write(block)
            except BaseException:
                _abandon(file)
                raise
            try:
                file.close()
            except BaseException:
                _abandon(file)
                raise

    def open(self, path: str) -> Reader:
        with self._errors("read"):
            try:
                file = self._fs.open(self._place(path), "rb", block_size=READ_AHEAD_BYTES)
            except FileNotFoundError as error:
                raise NotArchivedError(f"the archive {self._url} has no {path}") from error
        return Reader(file, lambda: self._errors("read"))

    def read(self, path: str, size_max_bytes: int) -> bytes | None:
        with self._errors("read"):
            place = self._place(path)
            try:
                data: bytes = self._fs.cat_file(place, start=0, end=size_max_bytes + 1)
            except FileNotFoundError as error:
                if _is_bucket_missing(error):
                    raise
                return None
            except OSError as error:
                # To S3 an empty file has no range at all.
                if error.errno != errno.EINVAL or self._fs.info(place)["size"] != 0:
                    raise
                data = b""
        if len(data) > size_max_bytes:
            raise ArchiveRefusedError(
                f"{path} in the archive {self._url} is larger than {size_max_bytes:,} bytes: it "
                "is not meshtrain's. Name another prefix, or move it away"
            )
        return data

    def sizes(self, folder: str) -> dict[str, int]:
        root = self._place(folder)
        with self._errors("listed"):
            try:
                found = self._fs.find(root, detail=True)
            except FileNotFoundError:
                return {}
        below = f"{root.lstrip('/')}/"
        return {
            name.lstrip("/").removeprefix(below): int(info.get("size") or 0)
            for name, info in found.items()
            if name.lstrip("/").startswith(below)
        }

    def remove(self, path: str) -> None:
        with self._errors("removed from"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._place(path))

    def _place(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextlib.contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """What a library raises, in our words: each has errors of its own."""
        try:
            yield
        except MeshtrainError:
            raise
        except Exception as error:
            raise self._failure(error, done) from error

    def _failure(self, error: Exception, done: str) -> ArchiveError:
        told = f"the archive {self._url} can't be {done}: {_told(error)}"
        if isinstance(error, FileNotFoundError):
            return ArchiveRefusedError(f"{told}. Make the bucket or folder, or mend the URL")
        if isinstance(error, PermissionError):
            return ArchiveRefusedError(
                f"{told}. Let the master's credentials list, read and write there"
            )
        name = type(error).__name__
        if name.endswith("CredentialsError"):
            return ArchiveRefusedError(
                f"{told}. Give the master's process its credentials: see docs/reference/archive.md"
            )
        refused = name in _REFUSALS and _code_of(error) not in _AWAY_CODES
        if refused or isinstance(error, ValueError | TypeError | NotImplementedError):
            return ArchiveRefusedError(f"{told}. Mend the URL, or the rights of its credentials")
        return ArchiveAwayError(f"{told}. See that it can be reached from the master")


def _abandon(file: Any) -> None:
    """Give up a file so that not even its end makes it appear."""
    with contextlib.suppress(Exception):
        file.discard()
    with contextlib.suppress(Exception):
        # Else the end of the object would finish the file.
        file.closed = True


def _is_bucket_missing(error: FileNotFoundError) -> bool:
    cause = error.__cause__
    return cause is not None and _code_of(cause) == "NoSuchBucket"


def _code_of(error: BaseException) -> str:
    response = getattr(error, "response", None)
    told = response.get("Error", {}) if isinstance(response, dict) else {}
    return str(told.get("Code", ""))


def _told(error: BaseException) -> str:
    words = " ".join(str(error).split())[:300]
    return words or type(error).__name__


def _missing(url: str, protocol: str) -> ArchiveExtraError:
    extra = "" if protocol in _S3 else f", and the package of fsspec for {protocol}://"
    return ArchiveExtraError(
        f"the archive {url} needs packages that are not installed: "
        f'pip install "meshtrain[archive]"{extra}. Or archive to a folder: /mnt/share/mesh'
    )
