"""The linear reading of every operation: what SynFlow makes of it.

- Activations are the identity; biases and everything else that is added without depending on the
  input are zero.
- Normalisations and scales that are parameters are a factor of one, and so are gates: what a
  sigmoid, a softmax or ``relu6(x + 3)`` puts out, where it multiplies.
- Convolutions and matrix products with a weight, sums, concatenations, pooling, padding, slicing
  and resizing are what they are; constant factors count by their absolute values.
- Anything else is refused: a product of two activations (attention) is not linear.
"""
