"""logfiles-check: finds damage in the files of a logfiles node, and mends it.

    tree       what PATH stands for: the buckets in it, one piece of work each
    bucket     the files of a bucket, each for itself and against one another; what is found
    scan       one file, from its front to its end: what of it is whole
    mend       what is whole is kept, the rest is set aside
    files      what is asked of the operating system when something is mended

Looking never changes anything. With the node it shares the formats of the files and nothing else, so a mistake in what
the node does with them is not made here a second time.
"""
