"""A synthetic world with the difficulties of weakly supervised segmentation, and with its truth.

Each class has a small part that only it has, and a large body that it shares with another class; four classes stand on a ground
that goes with them in most training images and in few test images. Image-level labels, masks and degraded saliency maps come with
every image. ``write(out, train=1000, test=300, seed=0, crops=2000)`` makes a folder in the layout of VOC; docs/scenes.md.
"""

from __future__ import annotations

from wsss_fast.data.scenes.compose import Scene, make_crop, make_scene
from wsss_fast.data.scenes.folder import fingerprint, write
from wsss_fast.data.scenes.settings import CLASSES, VERSION, ClassLook, SceneSettings

__all__ = ["CLASSES", "VERSION", "ClassLook", "Scene", "SceneSettings", "fingerprint", "make_crop", "make_scene", "write"]
