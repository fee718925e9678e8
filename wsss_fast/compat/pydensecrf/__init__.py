"""pydensecrf's interface on the kernels of this package. Change the import, keep the program::

    import wsss_fast.compat.pydensecrf.densecrf as dcrf
    from wsss_fast.compat.pydensecrf.utils import unary_from_labels, unary_from_softmax

What differs: docs/dense_crf.md.
"""

from wsss_fast.compat.pydensecrf import densecrf, utils

__all__ = ["densecrf", "utils"]
