"""SynFlow's R, which sums over all paths of a network, and its expectation, SynExp."""
