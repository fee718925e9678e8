"""Which images there are, in which order, and what the files made of them are called; labelling and data sets build on it.

- `sources`: images of a folder, a list, a VOC folder, a COCO file or tar files, as a plan
- `plan`: the plan itself: names in order, batches and shards, names of masks
- `tars`: the members of a tar file
"""
