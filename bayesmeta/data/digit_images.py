"""The handwritten digits that come with scikit-learn: small enough for a test, and there without a download.

1,797 images of 8 x 8 pixels with 17 levels of ink, the test part of UCI's Optical Recognition of Handwritten Digits
(Alpaydin and Kaynak 1998, doi 10.24432/C50P49).
"""

from __future__ import annotations

import numpy as np

from bayesmeta.data.images import Images
from bayesmeta.errors import NotAvailableError

__all__ = ["digits"]

INK = 16.0


def digits() -> Images:
    """Handwritten digits, ten classes of about 180 images of 8 x 8 pixels each, with full ink as 1.

    With ten classes there is one 5-way task of five digits that were not learnt from, drawn again and again with other
    images: enough to see whether something works, not to say by how much.

    Raises:
        NotAvailableError: scikit-learn, which has them, is not installed.

    Example:
        >>> train, test = digits().split(5, seed=1)
        >>> train.n_classes, train.shape
        (5, (1, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise NotAvailableError(
            "the digits come with scikit-learn, which is not installed: pip install 'bayesmeta[images]'"
        ) from error
    found = load_digits()
    return Images.from_arrays(found.images.astype(np.uint8), found.target, top=INK, title="handwritten digits")
