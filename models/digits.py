"""Digits: which of five digits is this, after five images of each?

The test part of the handwritten digits of UCI, images of 8 x 8 pixels. Five of the ten digits are for
training; a task numbers them anew, so that nothing is to be learnt from the numbers, and gives a few images
of each. The other five are never seen, and there to be judged by. Ten classes are too few to say by how
much one learner is better than another: the file is small enough to try things out, and `omniglot` is the
same at full size.

    classes_t  ~ five digits of those for training, in any order
    images     ~ Uniform over the images of each class
    y_ti       = the place of the image's class in that order, 0 to 4

A task is a choice and an order of classes, an observation an image: 5 of each class as support and 10 as
query. The network is the four convolutional blocks of the few-shot literature. It is for the algorithms of
bayesmeta.meta, such as `bayesmeta fit digits --inference maml`.

Alpaydin, E. and Kaynak, C. (1998). Optical recognition of handwritten digits. UCI Machine Learning
Repository.
"""

from __future__ import annotations

import bayesmeta as bm

WAYS, SHOTS, QUERY = 5, 5, 10

train, test = bm.data.digits().split(5, seed=0)
net = bm.meta.Conv4(1, ways=WAYS, size=8, filters=16)
settings = {"loss": "cross_entropy", "by_class": True}


def load() -> bm.Stream:
    return train.stream(WAYS, SHOTS, QUERY)


def held_out() -> bm.data.Images:
    return test
