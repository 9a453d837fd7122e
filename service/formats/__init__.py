"""Wire formats: how the value of a record becomes a tick. One module each; docs/formats.md describes them to producers.

All promise the same as `service.ticks.decode`, which reads JSON: ticks as columns to the bit, a dead letter with a reason for
each record that can't be read, and a stream's name from the record's key where the record has none.
"""

from __future__ import annotations

from pathlib import Path

from service import ticks
from service.errors import TickwatchError
from service.formats.registry import Registry
from service.ticks import Decode


def decoder(name: str, registry: Registry | None = None, schema: Path | None = None) -> Decode:
    """What reads records of a format: framed ones with the schemas of a registry, or bare ones of one schema.

    `schema` is an Avro schema file; without one, and without a registry, records have the shape that docs/formats.md shows.
    Raises TickwatchError where settings contradict each other.
    """
    if registry is not None and name not in ("avro", "protobuf"):
        raise TickwatchError(f"--schema-registry is for the formats avro and protobuf, --format is {name}")
    if schema is not None and (name != "avro" or registry is not None):
        raise TickwatchError("--schema is for --format avro without --schema-registry, which knows the schemas itself")
    match name:
        case "json":
            return ticks.decode
        case "avro":
            from service.formats import avro  # noqa: PLC0415  (only who uses a format pays for its import)

            return avro.framed(registry) if registry is not None else avro.bare(schema)
        case "protobuf":
            from service.formats import protobuf  # noqa: PLC0415

            return protobuf.framed(registry) if registry is not None else protobuf.decode
        case "binary":
            from service.formats import binary  # noqa: PLC0415

            return binary.decode
    raise TickwatchError(f"--format {name} is unknown: it is json, avro, protobuf or binary")
