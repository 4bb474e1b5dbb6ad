"""What an exported run says of an image, where only ONNX Runtime, NumPy and Pillow are installed.

    python onnx_runtime.py net.onnx photo.png

The file says itself how large its images are, how they are normalised, and what the classes are.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, picture = sys.argv[1:]
session = onnxruntime.InferenceSession(file)
about = {name: json.loads(x) for name, x in session.get_modelmeta().custom_metadata_map.items()}
size, border = about["input_shape"][:0:-1], (1 - about["crop_pct"]) / 2
photo = Image.open(picture).convert("RGB")
image = ImageOps.fit(photo, size, Image.Resampling.BILINEAR, border)
pixels = ((np.asarray(image) / 255 - about["mean"]) / about["std"]).astype(np.float32)
(scores,) = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})
print(about["classes"][scores.argmax()])
