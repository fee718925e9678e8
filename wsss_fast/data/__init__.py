"""Images with their image-level labels, saliency maps and masks: what training starts from."""

from __future__ import annotations

from wsss_fast.data._problems import DataError
from wsss_fast.data.dataset import Dataset, open_dataset
from wsss_fast.data.labels import ImageLabels, read_classes, read_labels

__all__ = ["DataError", "Dataset", "ImageLabels", "open_dataset", "read_classes", "read_labels"]
