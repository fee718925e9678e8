"""Files of people, read and written with care; every other part of the package builds on these.

- `names`: names as they are shown (`printable`) and sorted (`natural_key`)
- `regular`: opening what must be a regular file, and neither pipe nor device
- `text`: text files in UTF-8, of bounded size
- `images`: pictures from untrusted files, within limits
- `limits`: how large an image may be
- `folder`: an output folder in which files appear whole, and outside of which nothing is written
- `whole`: a single file that appears whole, and the hash of one
- `png`: pictures and masks as bytes of PNG, the values and the palette of masks
- `font`: the letters in pictures
"""
