"""Images with their image-level labels, saliency maps and masks: what training starts from."""

from __future__ import annotations
