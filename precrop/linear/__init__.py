"""How much flows through a network's paths: SynFlow's R and its expectation SynExp."""
