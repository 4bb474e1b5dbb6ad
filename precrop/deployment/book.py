"""Records the steps of a long job, so that only steps whose dependencies changed are redone."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from precrop.errors import MALFORMED, PrecropError, errors_as
from precrop.files import check_writable, digest_of, digest_of_file, read_json, write_text

RECORD = "deploy.json"
SCHEMA = 1


class Book:
    """The record of finished steps, kept in the folder's ``deploy.json``.

    Args:
        folder: the folder; it is created if it does not exist.
        about: description of the deployment, with everything that the first steps depend on.
        say: called with a line of text for each step.

    Raises:
        PrecropError: the folder holds another deployment, or cannot be written.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], say: Callable[[str], object]
    ) -> None:
        self.folder, self.say = folder, say
        self.path = folder / RECORD
        self.reused: list[str] = []
        self.steps: dict[str, Any] = {}
        with errors_as("an option fits in no file", *MALFORMED):
            self.about = json.loads(json.dumps(about))
        with errors_as(f"cannot make the folder {folder}", OSError):
            folder.mkdir(parents=True, exist_ok=True)
        check_writable(self.path)
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        content = read_json(self.path)
        with self.believed():
            about, self.steps = dict(content["about"]), dict(content["steps"])
            if content["schema"] != SCHEMA or content.pop("digest") != digest_of(content)[:16]:
                raise ValueError("another version's, or changed")
            for step in self.steps.values():
                if "key" not in step or not isinstance(step["result"], dict):
                    raise ValueError("its steps come to nothing")
        for name, value in self.about.items():
            if about.get(name, value) != value:  # older records have fewer entries
                raise PrecropError(
                    f"{self.folder} holds another deployment, which differs in its "
                    f"{name.replace('_', ' ')}: choose another folder, or remove it"
                )

    @contextmanager
    def believed(self) -> Iterator[None]:
        """Turn errors from malformed content of the record into one `PrecropError`."""
        try:
            yield
        except MALFORMED as error:
            raise PrecropError(
                f"{self.path} was not written by precrop deploy: choose another folder"
            ) from error

    def step(
        self, name: str, key: Any, make: Callable[[], dict[str, Any]], *files: Path
    ) -> dict[str, Any]:
        """Return a step's result from the record, or run ``make``, which writes ``files``.

        A recorded result is valid while ``key``, which covers everything that the step depends on,
        and the contents of the files are unchanged.
        """
        found = self.steps.get(name)
        if found is not None and found["key"] == key and self._made(found, files):
            self.say(f"{name}: done before")
            self.reused.append(name)
        else:
            self.say(name)
            result = make()
            digests = {file.name: digest_of_file(file) for file in files}
            self.steps[name] = {"key": key, "result": result, "files": digests}
            content = {"schema": SCHEMA, "about": self.about, "steps": self.steps}
            content["digest"] = digest_of(content)[:16]
            write_text(self.path, json.dumps(content, indent=1) + "\n")
        return dict(self.steps[name]["result"])

    def _made(self, step: Mapping[str, Any], files: Sequence[Path]) -> bool:
        """Whether a step's files exist unchanged; older records have no digests to compare."""
        if not all(file.is_file() for file in files):
            return False
        with errors_as(f"cannot read the files in {self.folder}", OSError):
            found = {file.name: digest_of_file(file) for file in files}
        return bool(step.get("files", found) == found)
