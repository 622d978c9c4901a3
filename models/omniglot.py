"""Omniglot: which of five characters is this, after five drawings of each?

1,623 characters of 50 alphabets, each drawn once by 20 people. Characters of 30 alphabets, upright and
turned by quarter turns, are for training; those of the other 20 are never seen, and there to be judged by:
`bm.data.omniglot("evaluation")`. A task has five characters, numbered in an order of its own, and a few
drawings of each.

    classes_t  ~ five characters of those for training, in any order
    images     ~ Uniform over the 20 drawings of each
    y_ti       = the place of the image's character in that order, 0 to 4

A task is a choice and an order of characters, an observation an image of 28 x 28 pixels: 5 of each
character as support and 5 as query, four tasks a step: cheap steps, many of them, teach most in the same
time. A tenth of the background characters is left out of training and
watched. The network is the four convolutional blocks of the few-shot literature, halved by strides. It is
for the algorithms of bayesmeta.meta, such as `bayesmeta fit omniglot --inference protonet`, and takes more
than an hour by gradient steps on a processor.

Lake, B. M., Salakhutdinov, R. and Tenenbaum, J. B. (2015). Human-level concept learning through
probabilistic program induction. Science 350, 1332-1338.
"""

from __future__ import annotations

import bayesmeta as bm

WAYS, SHOTS, QUERY, BATCH = 5, 5, 5, 4

net = bm.meta.Conv4(1, ways=WAYS, size=28, filters=64, halve="stride")
settings = {"loss": "cross_entropy", "by_class": True}


def load() -> bm.Stream:
    characters = bm.data.omniglot("background")
    watched, train = characters.split(0.1, seed=0)
    return train.with_rotations().stream(WAYS, SHOTS, QUERY, batch=BATCH, validation=watched)


def held_out() -> bm.data.Images:
    return bm.data.omniglot("evaluation").with_rotations()
