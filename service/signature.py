"""Models that were signed: OpenSSF model signing with a local key, checked before anything of the file is looked at."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from service.errors import TickwatchError

VARIABLE = "TICKWATCH_MODEL_KEY"


def check(path: Path, data: bytes) -> str | None:
    """Why `data`, read from `path`, is not to be trusted; None if it is signed for TICKWATCH_MODEL_KEY, or that is not set.

    The signature is the file beside the model whose name ends with `.sig`, as `model_signing sign key` writes it. Raises
    TickwatchError when the key, or the library, is not there.
    """
    key = os.environ.get(VARIABLE)
    if not key:
        return None
    if not Path(key).is_file():
        raise TickwatchError(
            f"--model-key {key}: there is no such file; give the public key, in PEM, that models are signed for"
        )
    signature = path.with_name(f"{path.name}.sig")
    if not signature.is_file():
        return f"is not signed: {signature.name} is missing, and --model-key asks for it"
    try:
        from model_signing.verifying import Config  # noqa: PLC0415  (takes a second, and is an extra)
    except ModuleNotFoundError as error:
        raise TickwatchError(
            f"--model-key needs {error.name}, which is not installed: pip install 'tickwatch[signing]'"
        ) from error
    # the very bytes that will be used are checked, whatever becomes of the file meanwhile
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(data)
        try:
            verifier = Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call]
            verifier.verify(copy, signature)
        except Exception as error:  # noqa: BLE001  (the library documents none of its many)
            return f"its signature {signature.name} does not hold for the key {key} ({type(error).__name__}: {error})"
    return None
