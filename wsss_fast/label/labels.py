"""Image-level labels in the classes of the model that labels."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from wsss_fast._settings import SettingsError
from wsss_fast.label.predict import Model
from wsss_fast.label.settings import LabelSettings

if TYPE_CHECKING:
    from wsss_fast.data.labels import ImageLabels

logger = logging.getLogger("wsss_fast.label")


def read_table(model: Model, settings: LabelSettings, asked: Any) -> ImageLabels:
    """The labels of the settings. ``asked``: what the model was called, for the message."""
    from wsss_fast.data.class_names import quoted, unknown_classes
    from wsss_fast.data.labels import read_labels

    named = getattr(model, "named", True)
    table = read_labels(settings.labels, classes=model.class_names if named else None, unknown="drop")
    if not named and (table.named or len(table.classes) > len(model.class_names)):
        have = "names" if table.named else f"{len(table.classes)} classes"
        raise SettingsError(
            f"label: 'labels' has {have}, and the model has {len(model.class_names)} classes without names. Hint: --classes FILE "
            "names them, one a line, in the order of the model"
        )
    if not table.unknown:
        return table
    if settings.unknown_labels == "stop":
        name = os.fspath(asked) if isinstance(asked, str | os.PathLike) and not settings.grouped else ""
        listed = f"`wsss classes {name}` lists the model's classes; " if name else ""
        hint = f"{listed}--unknown-labels drop leaves such labels out"
        raise unknown_classes(table.unknown, table.classes, table.source, hint)
    if not any(table.indices.values()):
        raise unknown_classes(table.unknown, table.classes, table.source, "no label is left: is this the model you mean?")
    dropped = ", ".join(f"{quoted(name)} ({len(images)})" for name, images in table.unknown.items())
    emptied = {image for images in table.unknown.values() for image in images if not table.indices[image]}
    background = f"; {len(emptied)} images without any other become background" if emptied else ""
    logger.warning("labels that are no class of the model, dropped, with their images: %s%s", dropped, background)
    return table
