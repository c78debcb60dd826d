"""Files that ship with the library, read only after their SHA-256 has been compared."""

import hashlib
from pathlib import Path

from cunet.errors import InputError

ROOT = Path(__file__).parent


def read(name: str) -> bytes:
    """Content of the vendored file `name` (`"mnist/train-images-idx3-ubyte.gz"`).

    The file's folder holds a `SHA256SUMS` in the format of `sha256sum`; the content is compared with it
    before it is handed on, so that a truncated clone is found here and not as a strange result later.

    Raises:
        InputError: the file is missing, not listed, or its content differs from the listed hash.
    """
    path = ROOT / name
    advice = "restore it with `git checkout -- cunet/assets` or clone the repository again."
    if not path.is_file():
        raise InputError(f"The vendored file cunet/assets/{name} is missing; {advice}")
    lines = (path.parent / "SHA256SUMS").read_text().splitlines()
    expected = {file: digest for digest, file in (line.split() for line in lines)}.get(path.name)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise InputError(
            f"The vendored file cunet/assets/{name} has the SHA-256 {digest}, expected {expected}: it is "
            f"damaged or was changed; {advice}"
        )
    return content
