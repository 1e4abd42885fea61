# Copyright 2026 The arvrm_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which frozen encoders made a motion database's features. The database says so itself, and queries need the same."""

from __future__ import annotations

from pathlib import Path

from arvrm_ros.errors import ArvrmError, DataError
from arvrm_ros.perception.encoders import (
    FrozenImageEncoder,
    FrozenTextEncoder,
    load_image_encoder,
    load_text_encoder,
)
from arvrm_ros.perception.text_encoder import TextEncoder
from arvrm_ros.retrieval.database import MotionDatabase

SMALL, MINILM = "small", "minilm"
"""The encoders that ship with the package."""

SHORT = 16
"""Characters of the SHA-256 of the small image encoder's weights that a database notes."""


def image_fingerprint(encoder: FrozenImageEncoder) -> str:
    """What a database notes of an image encoder: name and digest of its weights; of the small one the digest alone."""
    return encoder.identity if ":" in encoder.identity else encoder.identity[:SHORT]


def encoder_fingerprints(weights: Path | None = None, image: str = SMALL, text: str = MINILM) -> dict[str, str]:
    """What makes features comparable.

    Args:
        weights: of the image encoder, a file; None for those that ship or are fetched by name.
        image, text: names, as of :func:`load_image_encoder` and :func:`load_text_encoder`.

    Raises:
        ArvrmError: an encoder cannot be loaded.
    """
    return {
        "image_encoder": image_fingerprint(load_image_encoder(image, weights)),
        "text_encoder": TextEncoder.identity if text == MINILM else load_text_encoder(text).identity,
    }


def names_of(database: MotionDatabase) -> tuple[str, str]:
    """Names of the image and the text encoder that made a database's features."""
    noted = [database.features.get(kind, "").partition(" ")[0] for kind in ("image_encoder", "text_encoder")]
    image, text = (name if ":" in name else "" for name in noted)
    return image or SMALL, text or MINILM


def encoders_of(database: MotionDatabase, weights: Path | None = None) -> tuple[FrozenImageEncoder, FrozenTextEncoder]:
    """The image and the text encoder that made a database's features, to ask it with.

    Args:
        weights: of the image encoder, a file; None for those that ship or are fetched by name.

    Raises:
        ArvrmError: an encoder cannot be loaded, or its weights are others than the database's.
    """
    image = load_image_encoder(names_of(database)[0], weights)
    check_fingerprints(database, {"image_encoder": image_fingerprint(image)})
    return image, text_encoder_of(database)


def text_encoder_of(database: MotionDatabase) -> FrozenTextEncoder:
    """The text encoder alone.

    Raises:
        ArvrmError: it cannot be loaded, or its weights are others than the database's.
    """
    text = load_text_encoder(names_of(database)[1])
    check_fingerprints(database, {"text_encoder": text.identity})
    return text


def made_by(database: MotionDatabase, weights: Path) -> bool:
    """Whether a file holds the weights of the image encoder that made a database's features."""
    try:
        encoder = load_image_encoder(names_of(database)[0], weights)
    except ArvrmError:
        return False
    return image_fingerprint(encoder) == database.features.get("image_encoder")


def check_fingerprints(database: MotionDatabase, present: dict[str, str]) -> None:
    """Checks that a database was made with the present encoders.

    Raises:
        DataError: its features and a query's could not be compared.
    """
    for name, fingerprint in database.features.items():
        if present.get(name, fingerprint) != fingerprint:
            raise DataError(
                f"the motion database {database.uri} was made with another {name.replace('_', ' ')} ({fingerprint}, "
                f"here {present[name]}): build it again with `arvrm db build`, for another size with its --policy"
            )
