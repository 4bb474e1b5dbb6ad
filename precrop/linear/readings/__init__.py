"""The linear reading of every operation: how SynFlow replays it.

- Activations are the identity; biases and all other terms that do not depend on the input are zero.
- Normalisations and scales that are parameters are a factor of one. So are gates: the outputs of a
  sigmoid, a softmax or ``relu6(x + 3)`` where they multiply something.
- Convolutions and matrix products with a weight, sums, concatenations, pooling, padding, slicing
  and resizing are computed as they are; constant factors count by their absolute values.
- Anything else is refused: a product of two activations (attention) is not linear.
"""
