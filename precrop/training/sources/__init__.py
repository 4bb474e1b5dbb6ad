"""Where labelled images come from: digits, CIFAR, parquet files, a folder for every class.

Everything that can be wrong with a data set and shows without decoding its images is found here,
and named by file and row. Libraries say less: of a damaged parquet file `datasets` tells that an
error occurred, of a damaged image neither file nor row, and class folders take it seven times as
long; torchvision's ImageFolder takes hidden files for images.
"""
