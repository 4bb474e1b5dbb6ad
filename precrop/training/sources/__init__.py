"""Where labelled images come from: digits, CIFAR, parquet files, a folder for every class.

Every fault of a data set that shows without decoding its images is found here and reported with
file and row. Libraries report less: of a damaged parquet file `datasets` only says that an error
occurred, of a damaged image neither file nor row, and it takes seven times as long to read class
folders; torchvision's ImageFolder takes hidden files for images.
"""
